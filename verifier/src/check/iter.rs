//! Open-coded iterators: stack slots that `new`, `next` and `destroy` hand on.
//!
//! | call | no iterator there | active | drained |
//! |---|---|---|---|
//! | `new` | active, depth 0 | refused | refused |
//! | `next` | refused | two: drained, NULL; active, depth + 1, not NULL | drained, NULL |
//! | `destroy` | refused | gone | gone |
//!
//! The depth tells iterations of one loop apart, so that the same state at another depth is no
//! infinite loop. What the loop changes without looking at it closely is widened, else every
//! iteration would be a state of its own.

use bpf::btf::{Body, Kind};
use bpf::insn::Reg;

use super::kfunc::meta::KfuncMeta;
use super::slots::{NoSlots, slots_mask};
use crate::domain::reg::{IterState, Obj, RegState, RegType};
use crate::domain::stack::{SlotType, StackSlot};
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::{EINVAL, EPROTO};
use crate::tables::kfuncs::KfFlags as F;

/// The iterator structure of a parameter: BTF id, slots, name.
struct IterType<'a> {
    id: u32,
    slots: usize,
    name: &'a str,
}

/// `btf_check_iter_arg`.
fn iter_type<'a>(meta: &KfuncMeta<'a>, i: usize) -> Option<IterType<'a>> {
    let id = meta.pointee(i);
    let name = meta.btf.name(id).strip_prefix("bpf_iter_")?;
    let size = meta.btf.size_of(id).filter(|s| *s != 0 && s % 8 == 0)?;
    let structure = meta.btf.kind(id) == Kind::Struct
        && matches!(meta.btf.body(id), Body::Struct { .. })
        && !name.is_empty();
    structure.then_some(IterType { id, slots: size as usize / 8, name })
}

impl<'a> Ver<'a> {
    /// `KF_ARG_PTR_TO_ITER`: `process_iter_arg`.
    pub(crate) fn kf_iter_arg(
        &mut self,
        meta: &mut KfuncMeta<'a>,
        i: usize,
        n: Reg,
        r: &RegState,
    ) -> R {
        if r.ty != RegType::Stack {
            return no(EINVAL, format!("arg#{i} expected pointer to an iterator on stack"));
        }
        let Some(t) = iter_type(meta, i) else {
            return no(EINVAL, format!("expected valid iter pointer as arg #{i}"));
        };
        if meta.has(F::ITER_NEW) {
            return self.iter_new(meta, i, n, r, &t);
        }
        let spi = self.iter_initialized(meta, i, r, &t)?;
        self.read_object(r.frameno, spi, t.slots);
        meta.iter = Some((r.frameno, spi));
        meta.ref_obj_id = self.cur.frames[r.frameno as usize].stack[spi].reg.ref_obj_id;
        if meta.has(F::ITER_DESTROY) {
            self.iter_destroy(r.frameno, spi, t.slots)?;
        }
        Ok(())
    }

    /// `is_iter_reg_valid_uninit` and `mark_stack_slots_iter`.
    fn iter_new(
        &mut self,
        meta: &KfuncMeta<'a>,
        i: usize,
        n: Reg,
        r: &RegState,
        t: &IterType<'a>,
    ) -> R {
        let bad = format!("expected uninitialized iter_{} as arg #{i}", t.name);
        let used = |s: &StackSlot| s.types.contains(&SlotType::Iter);
        match self.object_slots(r, "iter", t.slots) {
            Ok(spi) => {
                let stack = &self.cur.frames[r.frameno as usize].stack;
                if stack[spi + 1 - t.slots..=spi].iter().any(used) {
                    return no(EINVAL, bad);
                }
            }
            Err(e @ NoSlots::Bad(_)) => return no(EINVAL, e.under(&bad)),
            Err(NoSlots::OutOfRange) => {}
        }
        self.write_slots(n, t.slots)?;
        let Ok(spi) = self.object_slots(r, "iter", t.slots) else { return no(EINVAL, bad) };
        let id = self.acquire();
        let flags = match (meta.has(F::RCU_PROTECTED), self.in_rcu_cs()) {
            (true, true) => Flags::MEM_RCU,
            (true, false) => Flags::PTR_UNTRUSTED,
            (false, _) => Flags::NONE,
        };
        let obj = Obj::Iter { state: IterState::Active, depth: 0 };
        for k in 0..t.slots {
            let reg = RegState::pointer(RegType::Stack, flags);
            let ref_obj_id = if k == 0 { id } else { 0 };
            let reg = RegState { obj, btf_id: t.id, ref_obj_id, ..reg };
            let slot = StackSlot { reg, types: [SlotType::Iter; 8] };
            self.cur.frames[r.frameno as usize].stack[spi - k] = slot;
            self.scratch_slot(spi - k);
        }
        self.note_iter_started(r.frameno, spi);
        Ok(())
    }

    /// `is_iter_reg_valid_init`: the slot of the iterator.
    fn iter_initialized(
        &self,
        meta: &KfuncMeta<'a>,
        i: usize,
        r: &RegState,
        t: &IterType<'a>,
    ) -> R<usize> {
        let bad = format!("expected an initialized iter_{} as arg #{i}", t.name);
        let spi = match self.object_slots(r, "iter", t.slots) {
            Ok(spi) => spi,
            Err(e) => return no(EINVAL, e.under(&bad)),
        };
        let stack = &self.cur.frames[r.frameno as usize].stack;
        for k in 0..t.slots {
            let s = &stack[spi - k];
            if s.types[7] == SlotType::Iter && s.reg.flags.has(Flags::PTR_UNTRUSTED) {
                return no(EPROTO, format!("expected an RCU CS when using {}", meta.name));
            }
            let first = (k == 0) == (s.reg.ref_obj_id != 0);
            let whole = s.types == [SlotType::Iter; 8] && s.reg.btf_id == t.id;
            if !(first && whole) {
                return no(EINVAL, bad);
            }
        }
        Ok(spi)
    }

    /// `unmark_stack_slots_iter`.
    fn iter_destroy(&mut self, frameno: u32, spi: usize, slots: usize) -> R {
        let id = self.cur.frames[frameno as usize].stack[spi].reg.ref_obj_id;
        if self.release(id).is_err() {
            return no(EINVAL, "verifier bug: the reference of an iterator is not held");
        }
        self.mark_stack_write(frameno, slots_mask(spi, slots));
        for k in 0..slots {
            self.cur.frames[frameno as usize].stack[spi - k] = StackSlot::INVALID;
            self.scratch_slot(spi - k);
        }
        Ok(())
    }

    /// Trust of what `next` returns: `MEM_RCU` or `PTR_TRUSTED`.
    pub(crate) fn kf_iter_trust(&self, meta: &KfuncMeta<'a>) -> Flags {
        let at = meta.iter.map(|(f, spi)| &self.cur.frames[f as usize].stack[spi].reg);
        match at.is_some_and(|r| r.flags.has(Flags::MEM_RCU)) {
            true => Flags::MEM_RCU,
            false => Flags::PTR_TRUSTED,
        }
    }

    /// KERNEL v6.18 verifier.c:process_iter_next_call
    pub(crate) fn kf_iter_next(&mut self, meta: &KfuncMeta<'a>) -> R<Next> {
        let Some((frame, spi)) = meta.iter else {
            return no(EINVAL, "verifier bug: next without an iterator");
        };
        let Obj::Iter { state, depth } = self.cur.frames[frame as usize].stack[spi].reg.obj else {
            return no(EINVAL, "verifier bug: unexpected iterator state");
        };
        if state == IterState::Active {
            let at = self.insn_idx;
            // The checkpoint made right here is the parent: what is before it is an iteration.
            let parent = self.cur.parent.map(|p| &self.kept[p as usize].state);
            let before = parent.and_then(|p| self.find_prev_entry(p, at));
            let mut queued = self.cur.clone();
            let obj = Obj::Iter { state: IterState::Active, depth: depth + 1 };
            queued.frames[frame as usize].stack[spi].reg.obj = obj;
            self.widen(&mut queued, before);
            let r0 = &mut queued.frame_mut().regs[Reg::R0.idx()];
            r0.flags = r0.flags.without(Flags::PTR_MAYBE_NULL);
            let pushed = self.push_stack(at + 1, at)?;
            queued.insn_idx = pushed.insn_idx;
            *pushed = queued;
        }
        self.scratch_slot(spi);
        let obj = Obj::Iter { state: IterState::Drained, depth };
        self.cur.frames[frame as usize].stack[spi].reg.obj = obj;
        let null = RegState::known(0);
        self.set(Reg::R0, null);
        Ok(Next::Fall)
    }
}

impl Ver<'_> {
    /// The iterator that r1 points to at a call of `next` may have elements left.
    pub(crate) fn iter_is_active(&self) -> bool {
        let r = self.r(Reg::R1);
        let stack = self.cur.frames.get(r.frameno as usize).map(|f| &f.stack);
        let slot = self.object_slots(r, "iter", 1).ok().and_then(|spi| stack?.get(spi));
        let active = |o| matches!(o, Obj::Iter { state: IterState::Active, .. });
        slot.is_some_and(|s| active(s.reg.obj))
    }
}
/// `iter_active_depths_differ`: another iteration of the same loop.
pub(crate) fn depths_differ(
    old: &crate::domain::state::VState,
    cur: &crate::domain::state::VState,
) -> bool {
    let pairs = old.frames.iter().zip(&cur.frames);
    pairs.flat_map(|(o, c)| o.stack.iter().zip(c.stack.iter())).any(|(o, c)| {
        o.types[0] == SlotType::Iter
            && matches!(
                (o.reg.obj, c.reg.obj),
                (
                    Obj::Iter { state: IterState::Active, depth: a },
                    Obj::Iter { depth: b, .. }
                ) if a != b
            )
    })
}
