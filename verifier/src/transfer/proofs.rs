//! Soundness of the scalar transfer functions, by exhaustion: every pair of abstract operands of
//! a small lattice, placed where ranges go wrong, every operation, every concrete pair.
//!
//! An abstract operand is a range and a tnum over four neighbouring numbers. The lattice is put at
//! zero and across each of the four boundaries of signed and unsigned halves and wholes, so that
//! carries, wraps and changes of sign happen inside it.

use bpf::insn::{AluOp, JmpOp, Width};

use super::alu;
use super::jump::{Cond, negate, refine, refine_same, scalar_branch};
use crate::domain::scalar::Bounds;
use crate::domain::tnum::Tnum;

/// Two bits.
const N: u64 = 4;
const PLACES: [u64; 6] =
    [0, 0x7fff_fffe, 0xffff_fffe, 0x7fff_ffff_ffff_fffe, u64::MAX - 1, 1 << 33];

/// One abstract operand and what it stands for.
type Operand = (Bounds, Vec<u64>);

fn operand(place: u64, t: Tnum, lo: u64, hi: u64) -> Option<Operand> {
    let values: Vec<u64> =
        (lo..=hi).filter(|x| t.contains(*x)).map(|x| place.wrapping_add(x)).collect();
    let first = *values.first()?;
    let mut b = Bounds::known(first);
    b.var_off = Tnum::constant(place).add(t);
    for v in &values {
        (b.umin, b.umax) = (b.umin.min(*v), b.umax.max(*v));
        (b.smin, b.smax) = (b.smin.min(*v as i64), b.smax.max(*v as i64));
        (b.u32_min, b.u32_max) = (b.u32_min.min(*v as u32), b.u32_max.max(*v as u32));
        (b.s32_min, b.s32_max) = (b.s32_min.min(*v as i32), b.s32_max.max(*v as i32));
    }
    b.sync();
    assert!(values.iter().all(|v| b.contains(*v)), "deductions lose a value of {values:x?}");
    Some((b, values))
}

/// All operands, each once.
fn operands() -> Vec<Operand> {
    let mut all: Vec<Operand> = Vec::new();
    for place in PLACES {
        for mask in 0..N {
            for value in (0..N).filter(|v| v & mask == 0) {
                for (lo, hi) in (0..N).flat_map(|lo| (lo..N).map(move |hi| (lo, hi))) {
                    let new = operand(place, Tnum { value, mask }, lo, hi);
                    all.extend(new.filter(|o| !all.contains(o)));
                }
            }
        }
    }
    all
}

/// RFC 9669, table 4.
pub(super) fn concrete(op: AluOp, width: Width, a: u64, b: u64) -> u64 {
    let w32 = width == Width::W32;
    let (a, b) = if w32 { (u64::from(a as u32), u64::from(b as u32)) } else { (a, b) };
    let n = b as u32 & if w32 { 31 } else { 63 };
    let r = match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::And => a & b,
        AluOp::Or => a | b,
        AluOp::Xor => a ^ b,
        AluOp::Lsh => a << n,
        AluOp::Rsh => a >> n,
        AluOp::Arsh if w32 => (a as i32 >> n) as u64,
        AluOp::Arsh => (a as i64 >> n) as u64,
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::SDiv | AluOp::SMod | AluOp::Mov => b,
    };
    if w32 { u64::from(r as u32) } else { r }
}

#[test]
fn every_operation_on_every_pair() {
    use AluOp::{Add, And, Arsh, Div, Lsh, Mod, Mul, Or, Rsh, Sub, Xor};
    let all = operands();
    for (op, width) in [Add, Sub, Mul, And, Or, Xor, Lsh, Rsh, Arsh, Div, Mod]
        .into_iter()
        .flat_map(|op| [(op, Width::W32), (op, Width::W64)])
    {
        for (a, xs) in &all {
            for (b, ys) in &all {
                let mut d = *a;
                alu::scalar(op, width, &mut d, b);
                for (x, y) in xs.iter().flat_map(|x| ys.iter().map(move |y| (*x, *y))) {
                    let r = concrete(op, width, x, y);
                    assert!(d.contains(r), "{op:?} {width:?} {x:#x} {y:#x} = {r:#x}: {a:?} {b:?}");
                }
            }
        }
    }
}

#[test]
fn every_operation_on_one_operand() {
    for (a, xs) in operands() {
        for bits in [16u32, 32, 64] {
            let (mut swapped, mut kept) = (a, a);
            alu::byte_swap(&mut swapped, bits, true);
            alu::byte_swap(&mut kept, bits, false);
            for x in &xs {
                let low = x << (64 - bits) >> (64 - bits);
                assert!(swapped.contains(x.swap_bytes() >> (64 - bits)), "swap {bits} {x:#x}");
                assert!(kept.contains(low), "le {bits} {x:#x}");
            }
        }
        for width in [Width::W32, Width::W64] {
            let mut d = a;
            alu::neg(width, &mut d);
            for x in &xs {
                let r = concrete(AluOp::Sub, width, 0, *x);
                assert!(d.contains(r), "neg {width:?} {x:#x}");
            }
        }
        for size in [1u32, 2, 4] {
            let n = 64 - size * 8;
            let (mut t, mut sx) = (a, a);
            t.truncate(size);
            sx.sign_extend64(size);
            sx.sync();
            for x in &xs {
                assert!(t.contains(x << n >> n), "truncate {size} {x:#x}");
                assert!(sx.contains(((x << n) as i64 >> n) as u64), "sx {size} {x:#x}");
            }
        }
    }
}

/// Whether a jump is taken.
pub(super) fn holds(op: JmpOp, is32: bool, a: u64, b: u64) -> bool {
    let (a, b) = if is32 { (a as i32 as u64, b as i32 as u64) } else { (a, b) };
    let (s, t) = (a as i64, b as i64);
    match op {
        JmpOp::Eq => a == b,
        JmpOp::Ne => a != b,
        JmpOp::Gt => a > b,
        JmpOp::Ge => a >= b,
        JmpOp::Lt => a < b,
        JmpOp::Le => a <= b,
        JmpOp::Set => a & b != 0,
        JmpOp::Sgt => s > t,
        JmpOp::Sge => s >= t,
        JmpOp::Slt => s < t,
        JmpOp::Sle => s <= t,
    }
}

#[test]
fn every_jump_on_every_pair() {
    use JmpOp::{Eq, Ge, Gt, Le, Lt, Ne, Set, Sge, Sgt, Sle, Slt};
    let all = operands();
    for (op, is32) in [Eq, Ne, Gt, Ge, Lt, Le, Set, Sgt, Sge, Slt, Sle]
        .into_iter()
        .flat_map(|op| [(op, false), (op, true)])
    {
        for (a, xs) in &all {
            for (b, ys) in &all {
                let taken = scalar_branch(op, is32, a, b);
                let (mut yes, mut no) = ((*a, *b), (*a, *b));
                refine(Cond::Is(op), is32, &mut yes.0, &mut yes.1);
                refine(negate(op), is32, &mut no.0, &mut no.1);
                for (x, y) in xs.iter().flat_map(|x| ys.iter().map(move |y| (*x, *y))) {
                    let h = holds(op, is32, x, y);
                    assert!(taken.is_none_or(|t| t == h), "{op:?} {is32} {x:#x} {y:#x}");
                    let (ra, rb) = if h { yes } else { no };
                    assert!(ra.contains(x) && rb.contains(y), "{op:?} {is32} {x:#x} {y:#x}");
                }
            }
        }
    }
}

#[test]
fn a_register_against_itself_keeps_its_values() {
    for (a, xs) in operands() {
        for (op, is32) in [(JmpOp::Le, false), (JmpOp::Ge, true), (JmpOp::Eq, false)] {
            let mut d = a;
            refine_same(Cond::Is(op), is32, &mut d);
            assert!(xs.iter().all(|x| d.contains(*x)), "{op:?} {a:?}");
        }
    }
}

#[test]
fn steps_through_a_tnum_visit_every_member() {
    for mask in 0..64u64 {
        for value in (0..64).filter(|v| v & mask == 0) {
            let t = Tnum { value, mask };
            for z in 0..64 {
                let above = (z + 1..64).find(|x| t.contains(*x));
                assert_eq!(t.step(z), above.unwrap_or(value | mask), "{t} {z}");
            }
        }
    }
}
