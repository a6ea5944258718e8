//! `states_equal`: does a kept state cover the current one.

use super::beyond::{Loc, Place};
use super::ver::Ver;
use crate::domain::refs::{Held, LockPtr};
use crate::domain::reg::{ADD_CONST, Obj, RegState, RegType};
use crate::domain::stack::{SlotType, StackSlot};
use crate::domain::state::{FuncState, StackArgs, VState};

/// `enum exact_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::enum_variant_names, reason = "the names are the kernel's")]
pub(super) enum Exact {
    /// Imprecise scalars match anything.
    NotExact,
    /// All scalars must be in range: precision is not final inside loops.
    RangeWithin,
    /// Same state: an infinite loop.
    Exact,
    /// The old state stands for the current one whatever is still found out about precision:
    /// every scalar is in range. Beyond the kernel's limits, inside loops.
    Covers,
}

impl Exact {
    /// What the old state never wrote must not be written in the current one either: the kernel
    /// asks for it while liveness is not final. Where all scalars are in range it need not be.
    fn same_slots(self) -> bool {
        matches!(self, Exact::RangeWithin | Exact::Exact)
    }
}

/// `struct bpf_idmap`: ids of one state to ids of the other, one to one.
pub(crate) struct IdMap {
    /// `explore_alu_limits`.
    strict: bool,
    /// States are recorded: what is imprecise is compared as well.
    precise: bool,
    pairs: Vec<(u32, u32)>,
    next: u32,
}

impl IdMap {
    /// Nothing is mapped yet; fresh ids follow the newest one.
    pub(crate) fn new(id_gen: u32) -> IdMap {
        IdMap { strict: false, precise: false, pairs: Vec::new(), next: id_gen }
    }

    /// `check_ids`.
    fn same(&mut self, old: u32, cur: u32) -> bool {
        if old == 0 || cur == 0 {
            return old == cur;
        }
        for (o, c) in &self.pairs {
            if *o == old {
                return *c == cur;
            }
            if *c == cur {
                return false;
            }
        }
        self.pairs.push((old, cur));
        true
    }

    /// `check_scalar_ids`: a register without an id has one of its own.
    fn same_scalar(&mut self, old: u32, cur: u32) -> bool {
        if cur != 0 {
            return self.same(old, cur);
        }
        self.next += 1;
        self.same(old, self.next)
    }
}

/// KERNEL v6.18 verifier.c:states_equal
pub(super) fn states_equal(v: &Ver<'_>, old: &VState, cur: &VState, exact: Exact) -> bool {
    let plain = old.frames.len() == cur.frames.len()
        && (!old.speculative || cur.speculative)
        && old.in_sleepable == cur.in_sleepable;
    if !plain {
        return false;
    }
    let mut ids = IdMap::new(v.id_gen);
    ids.strict = v.explore_alu_limits;
    ids.precise = v.input.opts.record != 0;
    if !refsafe(old, cur, &mut ids) {
        return false;
    }
    old.frames.iter().zip(&cur.frames).enumerate().all(|(i, (o, c))| {
        let live = v.input.cfg.live_regs_before[old.frame_insn(i) as usize];
        o.callsite == c.callsite && func_equal(v, o, c, live, exact, &mut ids)
    })
}

/// KERNEL v6.18 verifier.c:refsafe
fn refsafe(old: &VState, cur: &VState, ids: &mut IdMap) -> bool {
    let (o, c) = (&old.held, &cur.held);
    let lock = |h: &Held| h.active_lock().map_or((0, LockPtr::None), |l| (l.id, l.ptr));
    let ((oi, op), (ci, cp)) = (lock(o), lock(c));
    o.refs.len() == c.refs.len()
        && o.locks() == c.locks()
        && o.preempt == c.preempt
        && o.rcu == c.rcu
        && ids.same(o.active_irq(), c.active_irq())
        && ids.same(oi, ci)
        && op == cp
        && (o.refs.iter().zip(&c.refs))
            .all(|(o, c)| ids.same(o.id, c.id) && o.ty == c.ty && o.ptr == c.ptr)
}

/// `func_states_equal`.
fn func_equal(
    v: &Ver<'_>,
    old: &FuncState,
    cur: &FuncState,
    live: u16,
    exact: Exact,
    ids: &mut IdMap,
) -> bool {
    old.callback_depth <= cur.callback_depth
        && (0..11).all(|i| live >> i & 1 == 0 || regsafe(&old.regs[i], &cur.regs[i], exact, ids))
        && args_safe(&old.args, &cur.args, exact, ids)
        && stacksafe(v, old, cur, exact, ids)
}

/// Arguments on the stack: as many, and each as safe.
fn args_safe(old: &StackArgs, cur: &StackArgs, exact: Exact, ids: &mut IdMap) -> bool {
    let both = [(&old.incoming, &cur.incoming), (&old.outgoing, &cur.outgoing)];
    old.closed == cur.closed
        && both.into_iter().all(|(o, c)| {
            o.len() == c.len() && o.iter().zip(c).all(|(o, c)| regsafe(o, c, exact, ids))
        })
}

/// `regs_exact`.
pub(crate) fn regs_exact(o: &RegState, c: &RegState, ids: &mut IdMap) -> bool {
    o.same_but_ids(c) && ids.same(o.id, c.id) && ids.same(o.ref_obj_id, c.ref_obj_id)
}

/// KERNEL v6.18 verifier.c:regsafe
fn regsafe(o: &RegState, c: &RegState, exact: Exact, ids: &mut IdMap) -> bool {
    use RegType as T;
    if exact == Exact::Exact {
        return regs_exact(o, c, ids);
    }
    if o.ty == T::NotInit && (!exact.same_slots() || c.ty == T::NotInit) {
        return true;
    }
    if o.ty != c.ty || o.flags != c.flags {
        return false;
    }
    match o.ty {
        T::Scalar => {
            if ids.strict {
                return o.same_but_ids(c) && (o.id == 0 || ids.same_scalar(o.id, c.id));
            }
            if !o.precise && !ids.precise && exact == Exact::NotExact {
                return true;
            }
            o.b.includes(&c.b) && linked_alike(o, c, ids)
        }
        T::MapKey | T::MapValue | T::Mem | T::Buf | T::TpBuffer => {
            o.same_head(c)
                && o.b.includes(&c.b)
                && ids.same(o.id, c.id)
                && ids.same(o.ref_obj_id, c.ref_obj_id)
        }
        T::Packet | T::PacketMeta => {
            // More may be readable than before; the two markers are no ranges.
            let range = o.range == c.range || (0 <= o.range && o.range <= c.range);
            range && o.off == c.off && ids.same(o.id, c.id) && o.b.includes(&c.b)
        }
        T::Stack => regs_exact(o, c, ids) && o.frameno == c.frameno,
        T::Arena => true,
        T::Insn => o.same_head(c) && o.b.includes(&c.b),
        _ => regs_exact(o, c, ids),
    }
}

/// A link of the old register must be there in the current one; further links only add knowledge.
fn linked_alike(o: &RegState, c: &RegState, ids: &mut IdMap) -> bool {
    o.id == 0
        || (o.id & ADD_CONST == c.id & ADD_CONST
            && (o.id & ADD_CONST == 0 || o.off == c.off)
            && ids.same_scalar(o.id, c.id))
}

/// `scalar_reg_for_stack`: eight bytes of anything are an unknown scalar.
fn scalar_for_stack(v: &Ver<'_>, s: &StackSlot) -> Option<RegState> {
    if s.is_scalar_spill64() {
        return Some(s.reg);
    }
    let misc = |t: &SlotType| *t == SlotType::Misc || (v.leaks_ok() && *t == SlotType::Invalid);
    s.types.iter().all(misc).then(|| v.unknown())
}

/// KERNEL v6.18 verifier.c:stacksafe
fn stacksafe(v: &Ver<'_>, old: &FuncState, cur: &FuncState, exact: Exact, ids: &mut IdMap) -> bool {
    (0..old.stack.len()).all(|spi| slot_covered(v, old, cur, spi, exact, ids))
}

/// One slot of [`stacksafe`].
fn slot_covered(
    v: &Ver<'_>,
    old: &FuncState,
    cur: &FuncState,
    spi: usize,
    exact: Exact,
    ids: &mut IdMap,
) -> bool {
    let (o, c) = (&old.stack[spi], cur.stack.get(spi));
    if exact.same_slots() && c.is_none_or(|c| c.types != o.types) {
        return false;
    }
    let ignored = |t: &SlotType| *t == SlotType::Invalid || (v.leaks_ok() && *t == SlotType::Misc);
    if o.types.iter().all(ignored) {
        return true;
    }
    let Some(c) = c else { return false };
    if let (Some(a), Some(b)) = (scalar_for_stack(v, o), scalar_for_stack(v, c)) {
        return regsafe(&a, &b, exact, ids);
    }
    let bytes = o
        .types
        .iter()
        .zip(&c.types)
        .all(|(a, b)| ignored(a) || a == b || (*a == SlotType::Misc && *b == SlotType::Zero));
    bytes && slot_safe(o, c, exact, ids)
}

/// What a slot remembers beyond the type of its bytes, which are the same.
fn slot_safe(o: &StackSlot, c: &StackSlot, exact: Exact, ids: &mut IdMap) -> bool {
    let (a, b) = (&o.reg, &c.reg);
    match o.types[7] {
        SlotType::Spill => regsafe(a, b, exact, ids),
        SlotType::Dynptr => a.obj == b.obj && ids.same(a.ref_obj_id, b.ref_obj_id),
        SlotType::Iter => {
            // The depth is there to tell iterations apart, not to keep them apart.
            let state = |r: &RegState| match r.obj {
                Obj::Iter { state, .. } => Some(state),
                Obj::None | Obj::Dynptr { .. } | Obj::Irq { .. } => None,
            };
            a.btf_id == b.btf_id && state(a) == state(b) && ids.same(a.ref_obj_id, b.ref_obj_id)
        }
        SlotType::IrqFlag => ids.same(a.ref_obj_id, b.ref_obj_id) && a.obj == b.obj,
        SlotType::Invalid | SlotType::Misc | SlotType::Zero => true,
    }
}

/// The scalars in which `cur` is not covered by `old`; none when more than scalars stands in the
/// way.
pub(super) fn scalars_apart(
    v: &Ver<'_>,
    old: &VState,
    cur: &VState,
    exact: Exact,
) -> Option<Vec<Loc>> {
    let plain = old.frames.len() == cur.frames.len()
        && (!old.speculative || cur.speculative)
        && old.in_sleepable == cur.in_sleepable;
    let mut ids = IdMap::new(v.id_gen);
    ids.strict = v.explore_alu_limits;
    if !plain || !refsafe(old, cur, &mut ids) {
        return None;
    }
    let mut apart = Vec::new();
    for (i, (o, c)) in old.frames.iter().zip(&cur.frames).enumerate() {
        let live = v.input.cfg.live_regs_before[old.frame_insn(i) as usize];
        if o.callsite != c.callsite || o.callback_depth > c.callback_depth {
            return None;
        }
        for r in (0..11).filter(|r| live >> r & 1 == 1) {
            let (a, b) = (&o.regs[r], &c.regs[r]);
            if !regsafe(a, b, exact, &mut ids) {
                if !(a.is_scalar() && b.is_scalar()) {
                    return None;
                }
                apart.push(Loc { frame: i as u8, place: Place::Reg(r as u8) });
            }
        }
        for spi in 0..o.stack.len() {
            if !slot_covered(v, o, c, spi, exact, &mut ids) {
                let scalar =
                    |f: &FuncState| f.stack.get(spi).is_some_and(StackSlot::is_scalar_spill);
                if !(scalar(o) && scalar(c) && o.stack[spi].types == c.stack[spi].types) {
                    return None;
                }
                apart.push(Loc { frame: i as u8, place: Place::Slot(spi as u8) });
            }
        }
    }
    Some(apart)
}
