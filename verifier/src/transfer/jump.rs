//! Conditional jumps: which branches are possible and what each of them teaches.

use bpf::insn::JmpOp;

use crate::domain::reg::{ADD_CONST, ADD_CONST32, AT_PKT_END, BEYOND_PKT_END, RegState, RegType};
use crate::domain::scalar::Bounds;
use crate::domain::state::{LinkedReg, LinkedRegs, VState};
use crate::domain::tnum::Tnum;
use crate::transfer::alu;

/// `MAX_PACKET_OFF`.
pub(crate) const MAX_PACKET_OFF: u64 = 0xffff;

/// `flip_opcode`: the condition with its sides exchanged.
#[must_use]
pub(crate) fn flip(op: JmpOp) -> JmpOp {
    match op {
        JmpOp::Gt => JmpOp::Lt,
        JmpOp::Ge => JmpOp::Le,
        JmpOp::Lt => JmpOp::Gt,
        JmpOp::Le => JmpOp::Ge,
        JmpOp::Sgt => JmpOp::Slt,
        JmpOp::Sge => JmpOp::Sle,
        JmpOp::Slt => JmpOp::Sgt,
        JmpOp::Sle => JmpOp::Sge,
        same => same,
    }
}

/// A condition or the negation of one: only `Set` has no opcode of its own for its negation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cond {
    /// The condition holds.
    Is(JmpOp),
    /// `dst & src` is zero.
    NotSet,
}

/// `rev_opcode`.
pub(crate) fn negate(op: JmpOp) -> Cond {
    Cond::Is(match op {
        JmpOp::Eq => JmpOp::Ne,
        JmpOp::Ne => JmpOp::Eq,
        JmpOp::Gt => JmpOp::Le,
        JmpOp::Ge => JmpOp::Lt,
        JmpOp::Lt => JmpOp::Ge,
        JmpOp::Le => JmpOp::Gt,
        JmpOp::Sgt => JmpOp::Sle,
        JmpOp::Sge => JmpOp::Slt,
        JmpOp::Slt => JmpOp::Sge,
        JmpOp::Sle => JmpOp::Sgt,
        JmpOp::Set => return Cond::NotSet,
    })
}

/// One side of a comparison in the width of the comparison.
struct Side {
    t: Tnum,
    umin: u64,
    umax: u64,
    smin: i64,
    smax: i64,
}

fn side(b: &Bounds, is32: bool) -> Side {
    if is32 {
        Side {
            t: b.var_off.subreg(),
            umin: b.u32_min.into(),
            umax: b.u32_max.into(),
            smin: b.s32_min.into(),
            smax: b.s32_max.into(),
        }
    } else {
        Side { t: b.var_off, umin: b.umin, umax: b.umax, smin: b.smin, smax: b.smax }
    }
}

/// `is_reg_const` for scalars.
#[must_use]
pub(crate) fn const_value(b: &Bounds, is32: bool) -> Option<u64> {
    let t = if is32 { b.var_off.subreg() } else { b.var_off };
    t.is_const().then_some(t.value)
}

fn equal(r1: &Bounds, r2: &Bounds, is32: bool) -> Option<bool> {
    let (a, b) = (side(r1, is32), side(r2, is32));
    if a.t.is_const() && b.t.is_const() {
        return Some(a.t.value == b.t.value);
    }
    let mut disjoint = !a.t.overlap(b.t)
        || a.umin > b.umax
        || a.umax < b.umin
        || a.smin > b.smax
        || a.smax < b.smin;
    if !is32 {
        disjoint |= r1.u32_min > r2.u32_max
            || r1.u32_max < r2.u32_min
            || r1.s32_min > r2.s32_max
            || r1.s32_max < r2.s32_min;
    }
    disjoint.then_some(false)
}

/// KERNEL v6.18 verifier.c:is_scalar_branch_taken
pub(crate) fn scalar_branch(op: JmpOp, is32: bool, r1: &Bounds, r2: &Bounds) -> Option<bool> {
    let (a, b) = (side(r1, is32), side(r2, is32));
    let decide = |yes: bool, no: bool| if yes { Some(true) } else { no.then_some(false) };
    match op {
        JmpOp::Eq => equal(r1, r2, is32),
        JmpOp::Ne => equal(r1, r2, is32).map(|e| !e),
        JmpOp::Set => {
            let (a, b) = if b.t.is_const() { (a, b) } else { (b, a) };
            if !b.t.is_const() {
                return None;
            }
            decide(a.t.value & b.t.value != 0, (a.t.mask | a.t.value) & b.t.value == 0)
        }
        JmpOp::Gt => decide(a.umin > b.umax, a.umax <= b.umin),
        JmpOp::Sgt => decide(a.smin > b.smax, a.smax <= b.smin),
        JmpOp::Lt => decide(a.umax < b.umin, a.umin >= b.umax),
        JmpOp::Slt => decide(a.smax < b.smin, a.smin >= b.smax),
        JmpOp::Ge => decide(a.umin >= b.umax, a.umax < b.umin),
        JmpOp::Sge => decide(a.smin >= b.smax, a.smax < b.smin),
        JmpOp::Le => decide(a.umax <= b.umin, a.umin > b.umax),
        JmpOp::Sle => decide(a.smax <= b.smin, a.smin > b.smax),
    }
}

/// `is_pkt_ptr_branch_taken`.
fn packet_branch(op: JmpOp, r1: &RegState, r2: &RegState) -> Option<bool> {
    let (pkt, op) = if r2.is(RegType::PacketEnd) {
        (r1, op)
    } else if r1.is(RegType::PacketEnd) {
        (r2, flip(op))
    } else {
        return None;
    };
    match (op, pkt.range) {
        (JmpOp::Le | JmpOp::Gt, BEYOND_PKT_END) => Some(op == JmpOp::Gt),
        (JmpOp::Lt | JmpOp::Ge, BEYOND_PKT_END | AT_PKT_END) => Some(op == JmpOp::Ge),
        _ => None,
    }
}

/// `is_branch_taken`: `Some` when only one branch is possible.
pub(crate) fn branch_taken(op: JmpOp, is32: bool, r1: &RegState, r2: &RegState) -> Option<bool> {
    if r1.is_pkt_pointer_any() && r2.is_pkt_pointer_any() && !is32 {
        return packet_branch(op, r1, r2);
    }
    if !r1.is_pointer() && !r2.is_pointer() {
        return scalar_branch(op, is32, &r1.b, &r2.b);
    }
    let constant = |r: &RegState| if r.is_scalar() { const_value(&r.b, is32) } else { None };
    let (ptr, val) = match constant(r2) {
        Some(v) => (r1, v),
        None => (r2, constant(r1)?),
    };
    if !ptr.is_not_null() || val != 0 {
        return None;
    }
    match op {
        JmpOp::Eq => Some(false),
        JmpOp::Ne => Some(true),
        _ => None,
    }
}

/// `JEQ`: both sides are in the intersection.
fn refine_equal(a: &mut Bounds, b: &mut Bounds, is32: bool) {
    if is32 {
        a.u32_min = a.u32_min.max(b.u32_min);
        a.u32_max = a.u32_max.min(b.u32_max);
        a.s32_min = a.s32_min.max(b.s32_min);
        a.s32_max = a.s32_max.min(b.s32_max);
        (b.u32_min, b.u32_max) = (a.u32_min, a.u32_max);
        (b.s32_min, b.s32_max) = (a.s32_min, a.s32_max);
        let t = a.var_off.subreg().intersect(b.var_off.subreg());
        a.var_off = a.var_off.with_subreg(t);
        b.var_off = b.var_off.with_subreg(t);
    } else {
        a.umin = a.umin.max(b.umin);
        a.umax = a.umax.min(b.umax);
        a.smin = a.smin.max(b.smin);
        a.smax = a.smax.min(b.smax);
        (b.umin, b.umax, b.smin, b.smax) = (a.umin, a.umax, a.smin, a.smax);
        a.var_off = a.var_off.intersect(b.var_off);
        b.var_off = a.var_off;
    }
}

/// `JNE` with a constant at the edge of the range.
fn refine_unequal(a: &mut Bounds, val: u64, is32: bool) {
    macro_rules! shave {
        ($min:ident, $max:ident, $t:ty) => {
            if a.$min == val as $t {
                a.$min = a.$min.wrapping_add(1);
            }
            if a.$max == val as $t {
                a.$max = a.$max.wrapping_sub(1);
            }
        };
    }
    if is32 {
        shave!(u32_min, u32_max, u32);
        shave!(s32_min, s32_max, i32);
    } else {
        shave!(umin, umax, u64);
        shave!(smin, smax, i64);
    }
}

/// `JSET` and its negation with a constant mask.
fn refine_set(a: &mut Bounds, val: u64, is32: bool, set: bool) {
    if set && !val.is_power_of_two() {
        return;
    }
    if !set {
        // KERNEL v6.18 verifier.c:regs_refine_cond_op forgets the ranges on this branch.
        a.unbound64();
        a.unbound32();
    }
    let old = if is32 { a.var_off.subreg() } else { a.var_off };
    let c = Tnum::constant(if set { val } else { !val });
    let t = if set { old.or(c) } else { old.and(c) };
    a.var_off = if is32 { a.var_off.with_subreg(t) } else { t };
}

/// `a <= b` and `a < b`, signed and unsigned.
fn refine_less(a: &mut Bounds, b: &mut Bounds, is32: bool, signed: bool, strict: bool) {
    macro_rules! less {
        ($min:ident, $max:ident) => {{
            let one = if strict { 1 } else { 0 };
            a.$max = a.$max.min(b.$max.wrapping_sub(one));
            b.$min = b.$min.max(a.$min.wrapping_add(one));
        }};
    }
    match (is32, signed) {
        (true, false) => less!(u32_min, u32_max),
        (true, true) => less!(s32_min, s32_max),
        (false, false) => less!(umin, umax),
        (false, true) => less!(smin, smax),
    }
}

/// `regs_refine_cond_op`.
pub(crate) fn refine(cond: Cond, is32: bool, a: &mut Bounds, b: &mut Bounds) {
    let with_const = |a: &mut Bounds, b: &mut Bounds, f: &dyn Fn(&mut Bounds, u64)| {
        if let Some(v) = const_value(b, is32) {
            f(a, v);
        } else if let Some(v) = const_value(a, is32) {
            f(b, v);
        }
    };
    match cond {
        Cond::Is(JmpOp::Eq) => refine_equal(a, b, is32),
        Cond::Is(JmpOp::Ne) => with_const(a, b, &|r, v| refine_unequal(r, v, is32)),
        Cond::Is(JmpOp::Set) => with_const(a, b, &|r, v| refine_set(r, v, is32, true)),
        Cond::NotSet => with_const(a, b, &|r, v| refine_set(r, v, is32, false)),
        Cond::Is(JmpOp::Le) => refine_less(a, b, is32, false, false),
        Cond::Is(JmpOp::Lt) => refine_less(a, b, is32, false, true),
        Cond::Is(JmpOp::Sle) => refine_less(a, b, is32, true, false),
        Cond::Is(JmpOp::Slt) => refine_less(a, b, is32, true, true),
        Cond::Is(op) => refine(Cond::Is(flip(op)), is32, b, a),
    }
    a.sync();
    b.sync();
}

/// A register compared with itself: the kernel refines both sides in one place, one after the
/// other, and leaves it at that on the branch that cannot be taken.
pub(crate) fn refine_same(cond: Cond, is32: bool, x: &mut Bounds) {
    let (signed, strict) = match cond {
        Cond::Is(JmpOp::Lt | JmpOp::Gt) => (false, true),
        Cond::Is(JmpOp::Slt | JmpOp::Sgt) => (true, true),
        _ => (false, false),
    };
    if strict {
        let mut upper = *x;
        refine_less(&mut upper, &mut x.clone(), is32, signed, true);
        let mut lower = upper;
        refine_less(&mut upper.clone(), &mut lower, is32, signed, true);
        *x = lower;
    }
    x.sync();
    x.sync();
}

/// `find_good_pkt_pointers`: pointers with the same id are good up to the compared offset.
pub(crate) fn find_good_pkt_pointers(s: &mut VState, r: &RegState, right_open: bool) {
    if r.off < 0 || (r.off == 0 && right_open) {
        return;
    }
    if r.b.umax > MAX_PACKET_OFF || r.b.umax + r.off as u64 > MAX_PACKET_OFF {
        return;
    }
    let range = r.off + i32::from(right_open);
    s.update_regs(|x| x.is(r.ty) && x.id == r.id && x.range < range, |x| x.range = range);
}

/// `mark_pkt_end`.
pub(crate) fn mark_pkt_end(s: &mut VState, regno: usize, beyond: bool) {
    let r = &mut s.frame_mut().regs[regno];
    if r.is(RegType::Packet) {
        r.range = if beyond { BEYOND_PKT_END } else { AT_PKT_END };
    }
}

/// `collect_linked_regs`: all live registers and spills with this id; those there is no room for
/// lose it. `live` has the registers live before each instruction. Both operands of a comparison
/// may share an id: what is in the list already takes room again.
pub(crate) fn collect_linked(s: &mut VState, id: u32, live: &[u16], out: &mut LinkedRegs) {
    let id = id & !ADD_CONST;
    let linked = |r: &RegState| r.is_scalar() && r.id & !ADD_CONST == id;
    let mut lost = Vec::new();
    for (f, frame) in s.frames.iter().enumerate().rev() {
        let mut push = |index: usize, is_slot| {
            let e = LinkedReg { frame: f as u8, index: index as u8, is_slot };
            if !out.push(e) {
                lost.push(e);
            }
        };
        let live = live[s.frame_insn(f) as usize];
        let regs = frame.regs[..10].iter().enumerate();
        let regs = regs.filter(|(i, r)| live >> i & 1 == 1 && linked(r));
        regs.for_each(|(i, _)| push(i, false));
        let slots = frame.stack.iter().enumerate();
        let slots = slots.filter(|(_, s)| s.is_spill() && linked(&s.reg));
        slots.for_each(|(i, _)| push(i, true));
    }
    for e in lost {
        let (frame, i) = (&mut s.frames[usize::from(e.frame)], usize::from(e.index));
        if e.is_slot {
            frame.stack[i].reg.id = 0;
        } else {
            frame.regs[i].id = 0;
        }
    }
}

/// `sync_linked_regs`: what was learnt about one holds for all that share its id.
pub(crate) fn sync_linked(s: &mut VState, known: &RegState, linked: &LinkedRegs) {
    for l in linked.list() {
        let (frame, i) = (&s.frames[usize::from(l.frame)], usize::from(l.index));
        let old = if l.is_slot { frame.stack[i].reg } else { frame.regs[i] };
        if !old.is_scalar() || old.id & !ADD_CONST != known.id & !ADD_CONST {
            continue;
        }
        // A difference of low halves says nothing about one of whole registers.
        if (old.id ^ known.id) & ADD_CONST == ADD_CONST {
            continue;
        }
        let mut r = *known;
        r.subreg_def = old.subreg_def;
        let plain = (old.id | known.id) & ADD_CONST == 0;
        // Only a linked register's offset is a difference to the base.
        let diff = |r: &RegState| if r.id & ADD_CONST != 0 { i64::from(r.off) } else { 0 };
        if !plain && diff(&old) != diff(known) {
            let delta = diff(&old) - diff(known);
            (r.off, r.id) = (old.off, old.id);
            alu::add(&mut r.b, &Bounds::known(delta as u64));
            if (r.id | known.id) & ADD_CONST32 != 0 {
                r.b.zext_32_to_64();
            }
            r.b.sync();
        }
        if r == old {
            continue;
        }
        let frame = &mut s.frames[usize::from(l.frame)];
        if l.is_slot {
            frame.stack[i].reg = r;
        } else {
            frame.regs[i] = r;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::proofs::holds;
    use super::*;
    use proptest::prelude::*;

    const OPS: &[JmpOp] = &[
        JmpOp::Eq,
        JmpOp::Ne,
        JmpOp::Gt,
        JmpOp::Ge,
        JmpOp::Lt,
        JmpOp::Le,
        JmpOp::Sgt,
        JmpOp::Sge,
        JmpOp::Slt,
        JmpOp::Sle,
        JmpOp::Set,
    ];

    fn bounds() -> impl Strategy<Value = (Bounds, Vec<u64>)> {
        let edge = proptest::sample::select(vec![0u64, 1 << 31, 1 << 32, 1 << 63, 0x7fff_ffff]);
        let near = (edge, -4i64..5).prop_map(|(e, d)| e.wrapping_add(d as u64));
        let v = prop_oneof![near, any::<u64>(), 0u64..64];
        proptest::collection::vec(v, 1..4).prop_map(|vals| {
            let mut b = Bounds::UNKNOWN;
            let first = Tnum::constant(vals[0]);
            b.var_off = vals.iter().fold(first, |t, v| t.union(Tnum::constant(*v)));
            b.umin = *vals.iter().min().expect("not empty");
            b.umax = *vals.iter().max().expect("not empty");
            b.sync();
            (b, vals)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn branches_are_sound((a, xs) in bounds(), (b, ys) in bounds(), is32 in any::<bool>()) {
            for op in OPS {
                let taken = scalar_branch(*op, is32, &a, &b);
                for (x, y) in xs.iter().flat_map(|x| ys.iter().map(move |y| (*x, *y))) {
                    let h = holds(*op, is32, x, y);
                    prop_assert!(taken.is_none_or(|t| t == h), "{op:?} {x:#x} {y:#x}");
                    if taken.is_none() {
                        let (mut ra, mut rb) = (a, b);
                        let cond = if h { Cond::Is(*op) } else { negate(*op) };
                        refine(cond, is32, &mut ra, &mut rb);
                        prop_assert!(ra.contains(x) && rb.contains(y), "{cond:?} {x:#x} {y:#x}");
                    }
                }
            }
        }
    }
}
