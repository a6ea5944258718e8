//! Arithmetic on bounds: `adjust_scalar_min_max_vals` and its leaves.

use bpf::insn::{AluOp, Width};

use crate::domain::scalar::Bounds;
use crate::domain::tnum::Tnum;

/// Signed view of an unsigned range when it does not cross the sign boundary.
fn signed32(b: &mut Bounds) {
    let (lo, hi) = (b.u32_min as i32, b.u32_max as i32);
    (b.s32_min, b.s32_max) = if lo <= hi { (lo, hi) } else { (i32::MIN, i32::MAX) };
}

fn signed64(b: &mut Bounds) {
    let (lo, hi) = (b.umin as i64, b.umax as i64);
    (b.smin, b.smax) = if lo <= hi { (lo, hi) } else { (i64::MIN, i64::MAX) };
}

/// Both ends of a range where only one of them overflowing makes the result unbounded.
macro_rules! wrap_range {
    ($lo:expr, $hi:expr, $bad:expr, $max:expr) => {{
        let ((lo, lo_over), (hi, hi_over)) = ($lo, $hi);
        if $bad(lo_over, hi_over) { (0, $max) } else { (lo, hi) }
    }};
}

/// Both ends of a signed range, unbounded when either overflows.
macro_rules! checked_range {
    ($lo:expr, $hi:expr, $min:expr, $max:expr) => {
        match ($lo, $hi) {
            (Some(lo), Some(hi)) => (lo, hi),
            _ => ($min, $max),
        }
    };
}

/// `scalar32_min_max_add`, `scalar_min_max_add`.
pub(crate) fn add(d: &mut Bounds, s: &Bounds) {
    let bad = |lo: bool, hi: bool| !lo && hi;
    (d.s32_min, d.s32_max) = checked_range!(
        d.s32_min.checked_add(s.s32_min),
        d.s32_max.checked_add(s.s32_max),
        i32::MIN,
        i32::MAX
    );
    (d.u32_min, d.u32_max) = wrap_range!(
        d.u32_min.overflowing_add(s.u32_min),
        d.u32_max.overflowing_add(s.u32_max),
        bad,
        u32::MAX
    );
    (d.smin, d.smax) =
        checked_range!(d.smin.checked_add(s.smin), d.smax.checked_add(s.smax), i64::MIN, i64::MAX);
    (d.umin, d.umax) =
        wrap_range!(d.umin.overflowing_add(s.umin), d.umax.overflowing_add(s.umax), bad, u64::MAX);
    d.var_off = d.var_off.add(s.var_off);
}

/// `scalar32_min_max_sub`, `scalar_min_max_sub`.
pub(crate) fn sub(d: &mut Bounds, s: &Bounds) {
    let bad = |lo: bool, hi: bool| lo && !hi;
    (d.s32_min, d.s32_max) = checked_range!(
        d.s32_min.checked_sub(s.s32_max),
        d.s32_max.checked_sub(s.s32_min),
        i32::MIN,
        i32::MAX
    );
    (d.u32_min, d.u32_max) = wrap_range!(
        d.u32_min.overflowing_sub(s.u32_max),
        d.u32_max.overflowing_sub(s.u32_min),
        bad,
        u32::MAX
    );
    (d.smin, d.smax) =
        checked_range!(d.smin.checked_sub(s.smax), d.smax.checked_sub(s.smin), i64::MIN, i64::MAX);
    (d.umin, d.umax) =
        wrap_range!(d.umin.overflowing_sub(s.umax), d.umax.overflowing_sub(s.umin), bad, u64::MAX);
    d.var_off = d.var_off.sub(s.var_off);
}

/// `scalar32_min_max_mul`, `scalar_min_max_mul`: the extremes are among the four products.
fn mul(d: &mut Bounds, s: &Bounds) {
    d.var_off = d.var_off.mul(s.var_off);
    let u32s = (d.u32_max.checked_mul(s.u32_max), d.u32_min.checked_mul(s.u32_min));
    (d.u32_min, d.u32_max) = checked_range!(u32s.1, u32s.0, 0, u32::MAX);
    let u64s = (d.umax.checked_mul(s.umax), d.umin.checked_mul(s.umin));
    (d.umin, d.umax) = checked_range!(u64s.1, u64s.0, 0, u64::MAX);
    let p32 = [(d.s32_min, s.s32_min), (d.s32_min, s.s32_max), (d.s32_max, s.s32_min)];
    let p32 = p32.into_iter().chain([(d.s32_max, s.s32_max)]).map(|(a, b)| a.checked_mul(b));
    let p32: Option<Vec<i32>> = p32.collect();
    (d.s32_min, d.s32_max) = extremes(p32.as_deref()).unwrap_or((i32::MIN, i32::MAX));
    let p64 = [(d.smin, s.smin), (d.smin, s.smax), (d.smax, s.smin), (d.smax, s.smax)];
    let p64: Option<Vec<i64>> = p64.into_iter().map(|(a, b)| a.checked_mul(b)).collect();
    (d.smin, d.smax) = extremes(p64.as_deref()).unwrap_or((i64::MIN, i64::MAX));
}

fn extremes<T: Copy + Ord>(v: Option<&[T]>) -> Option<(T, T)> {
    let v = v?;
    Some((*v.iter().min()?, *v.iter().max()?))
}

/// Both halves of both operands are constants: the low and the whole result are known.
fn known_bitwise(d: &mut Bounds, s: &Bounds, was: Tnum) -> (bool, bool) {
    let k32 = s.var_off.subreg_is_const() && was.subreg_is_const();
    let k64 = s.var_off.is_const() && was.is_const();
    if k32 {
        d.set_known32(d.var_off.value as u32);
    }
    (k32, k64)
}

/// `scalar32_min_max_and`, `scalar_min_max_and`.
fn and(d: &mut Bounds, s: &Bounds) {
    let was = d.var_off;
    d.var_off = was.and(s.var_off);
    let (k32, k64) = known_bitwise(d, s, was);
    if !k32 {
        d.u32_min = d.var_off.value as u32;
        d.u32_max = d.u32_max.min(s.u32_max);
        signed32(d);
    }
    if k64 {
        *d = Bounds::known(d.var_off.value);
        return;
    }
    d.umin = d.var_off.value;
    d.umax = d.umax.min(s.umax);
    signed64(d);
    d.update();
}

/// `scalar32_min_max_or`, `scalar_min_max_or`.
fn or(d: &mut Bounds, s: &Bounds) {
    let was = d.var_off;
    d.var_off = was.or(s.var_off);
    let (k32, k64) = known_bitwise(d, s, was);
    if !k32 {
        let t = d.var_off.subreg();
        d.u32_min = d.u32_min.max(s.u32_min);
        d.u32_max = (t.value | t.mask) as u32;
        signed32(d);
    }
    if k64 {
        *d = Bounds::known(d.var_off.value);
        return;
    }
    d.umin = d.umin.max(s.umin);
    d.umax = d.var_off.value | d.var_off.mask;
    signed64(d);
    d.update();
}

/// `scalar32_min_max_xor`, `scalar_min_max_xor`.
fn xor(d: &mut Bounds, s: &Bounds) {
    let was = d.var_off;
    d.var_off = was.xor(s.var_off);
    let (k32, k64) = known_bitwise(d, s, was);
    if !k32 {
        let t = d.var_off.subreg();
        (d.u32_min, d.u32_max) = (t.value as u32, (t.value | t.mask) as u32);
        signed32(d);
    }
    if k64 {
        *d = Bounds::known(d.var_off.value);
        return;
    }
    (d.umin, d.umax) = (d.var_off.value, d.var_off.value | d.var_off.mask);
    signed64(d);
    d.update();
}

/// `__scalar32_min_max_lsh`: bounds survive only when no bit is shifted out.
fn lsh32_bounds(d: &mut Bounds, n: u32) {
    (d.s32_min, d.s32_max) = (i32::MIN, i32::MAX);
    if n > 31 || u64::from(d.u32_max) > 1u64 << (31 - n) {
        (d.u32_min, d.u32_max) = (0, u32::MAX);
    } else {
        (d.u32_min, d.u32_max) = (d.u32_min << n, d.u32_max << n);
    }
}

fn lsh(d: &mut Bounds, n: u32, width: Width) {
    if width == Width::W32 {
        let t = d.var_off.subreg();
        lsh32_bounds(d, n);
        d.var_off = t.lshift(n).subreg();
        d.unbound64();
        d.update32();
        return;
    }
    // KERNEL v6.18 verifier.c:__scalar64_min_max_lsh: `<<= 32` followed by `s>>= 32` is how
    // compilers sign-extend.
    if n == 32 {
        (d.smin, d.smax) = (i64::from(d.s32_min) << 32, i64::from(d.s32_max) << 32);
    } else {
        (d.smin, d.smax) = (i64::MIN, i64::MAX);
    }
    if d.umax > 1u64 << (63 - n) {
        (d.umin, d.umax) = (0, u64::MAX);
    } else {
        (d.umin, d.umax) = (d.umin << n, d.umax << n);
    }
    lsh32_bounds(d, n);
    d.var_off = d.var_off.lshift(n);
    d.update();
}

fn rsh(d: &mut Bounds, n: u32, width: Width) {
    if width == Width::W32 {
        (d.s32_min, d.s32_max) = (i32::MIN, i32::MAX);
        d.var_off = d.var_off.subreg().rshift(n);
        (d.u32_min, d.u32_max) = (d.u32_min >> n, d.u32_max >> n);
        d.unbound64();
        d.update32();
        return;
    }
    (d.smin, d.smax) = (i64::MIN, i64::MAX);
    d.var_off = d.var_off.rshift(n);
    (d.umin, d.umax) = (d.umin >> n, d.umax >> n);
    d.unbound32();
    d.update();
}

fn arsh(d: &mut Bounds, n: u32, width: Width) {
    if width == Width::W32 {
        (d.s32_min, d.s32_max) = (d.s32_min >> n, d.s32_max >> n);
        d.var_off = d.var_off.subreg().arshift(n, 32);
        (d.u32_min, d.u32_max) = (0, u32::MAX);
        d.unbound64();
        d.update32();
        return;
    }
    (d.smin, d.smax) = (d.smin >> n, d.smax >> n);
    d.var_off = d.var_off.arshift(n, 64);
    (d.umin, d.umax) = (0, u64::MAX);
    d.unbound32();
    d.update();
}

/// `is_safe_to_compute_dst_reg_range` for shifts: the count, when it is a legal constant.
fn shift_count(s: &Bounds, width: Width) -> Option<u32> {
    let (n, bits) = match width {
        Width::W32 => {
            let known = s.var_off.subreg_is_const() && s.u32_min == s.u32_max;
            (known.then_some(s.umax)?, 32)
        }
        Width::W64 => (s.as_const().filter(|v| s.umin == *v && s.umax == *v)?, 64),
    };
    (n < bits).then_some(n as u32)
}

/// `is_safe_to_compute_dst_reg_range`.
pub(crate) fn computable(op: AluOp, width: Width, s: &Bounds) -> bool {
    match op {
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => shift_count(s, width).is_some(),
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod => false,
        _ => true,
    }
}

/// KERNEL v6.18 verifier.c:adjust_scalar_min_max_vals
///
/// Division and modulo give no bounds, whatever the operands, not even the zero-extension of
/// a 32-bit result; the kernel is as imprecise.
pub(crate) fn scalar(op: AluOp, width: Width, d: &mut Bounds, s: &Bounds) {
    match op {
        AluOp::Add => add(d, s),
        AluOp::Sub => sub(d, s),
        AluOp::Mul => mul(d, s),
        AluOp::And => and(d, s),
        AluOp::Or => or(d, s),
        AluOp::Xor => xor(d, s),
        AluOp::Mov => *d = *s,
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh => {
            let Some(n) = shift_count(s, width) else {
                *d = Bounds::UNKNOWN;
                return;
            };
            match op {
                AluOp::Lsh => lsh(d, n, width),
                AluOp::Rsh => rsh(d, n, width),
                _ => arsh(d, n, width),
            }
        }
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod => {
            *d = Bounds::UNKNOWN;
            return;
        }
    }
    if width == Width::W32 {
        d.zext_32_to_64();
    }
    d.sync();
}

/// `scalar_byte_swap`: `bits` are kept, swapped or not.
pub(crate) fn byte_swap(d: &mut Bounds, bits: u32, swaps: bool) {
    if swaps {
        d.var_off = d.var_off.byte_swap(bits);
        d.unbound64();
        d.unbound32();
    }
    if bits < 64 {
        d.truncate(bits / 8);
    }
    d.sync();
}

/// `BPF_NEG`: zero minus the operand.
pub(crate) fn neg(width: Width, d: &mut Bounds) {
    let old = *d;
    *d = Bounds::known(0);
    scalar(AluOp::Sub, width, d, &old);
}

#[cfg(test)]
mod tests {
    use super::super::proofs::concrete;
    use super::*;
    use proptest::prelude::*;

    const OPS: &[AluOp] = &[
        AluOp::Add,
        AluOp::Sub,
        AluOp::Mul,
        AluOp::And,
        AluOp::Or,
        AluOp::Xor,
        AluOp::Lsh,
        AluOp::Rsh,
        AluOp::Arsh,
        AluOp::Div,
        AluOp::Mod,
    ];

    /// Values near the places where bounds go wrong.
    fn value() -> impl Strategy<Value = u64> {
        let edges = [0u64, 1, 31, 32, 63, 64, 0x7f, 0xff, 0x7fff_ffff, 0x8000_0000];
        let more = [0xffff_ffffu64, 1 << 32, i64::MAX as u64, 1 << 63, u64::MAX];
        let all: Vec<u64> = edges.into_iter().chain(more).collect();
        prop_oneof![
            (proptest::sample::select(all), -3i64..4).prop_map(|(e, d)| e.wrapping_add(d as u64)),
            any::<u64>(),
            0u64..200,
            (-200i64..0).prop_map(|v| v as u64),
        ]
    }

    /// Bounds that hold all of the given values, made tighter by the deductions.
    fn hull(vals: &[u64]) -> Bounds {
        let mut b = Bounds::known(vals[0]);
        for v in vals {
            b.var_off = b.var_off.union(Tnum::constant(*v));
            (b.umin, b.umax) = (b.umin.min(*v), b.umax.max(*v));
            (b.smin, b.smax) = (b.smin.min(*v as i64), b.smax.max(*v as i64));
            (b.u32_min, b.u32_max) = (b.u32_min.min(*v as u32), b.u32_max.max(*v as u32));
            (b.s32_min, b.s32_max) = (b.s32_min.min(*v as i32), b.s32_max.max(*v as i32));
        }
        b
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn deductions_keep_every_value(vals in proptest::collection::vec(value(), 1..5)) {
            let mut b = hull(&vals);
            b.sync();
            for v in &vals {
                prop_assert!(b.contains(*v), "{v:#x} {b:?}");
            }
        }

        #[test]
        fn operations_are_sound(
            xs in proptest::collection::vec(value(), 1..4),
            ys in proptest::collection::vec(value(), 1..4),
            w32 in any::<bool>(),
        ) {
            let width = if w32 { Width::W32 } else { Width::W64 };
            for op in OPS {
                let (mut d, mut s) = (hull(&xs), hull(&ys));
                d.sync();
                s.sync();
                let before = d;
                scalar(*op, width, &mut d, &s);
                for (x, y) in xs.iter().flat_map(|x| ys.iter().map(move |y| (*x, *y))) {
                    let r = concrete(*op, width, x, y);
                    prop_assert!(d.contains(r), "{op:?} {x:#x} {y:#x} = {r:#x}: {before:?} {d:?}");
                }
            }
        }

        #[test]
        fn extensions_are_sound(xs in proptest::collection::vec(value(), 1..4)) {
            for size in [1u32, 2, 4] {
                let n = 64 - size * 8;
                let (mut t, mut sx) = (hull(&xs), hull(&xs));
                t.truncate(size);
                sx.sign_extend64(size);
                sx.sync();
                for x in &xs {
                    prop_assert!(t.contains(x << n >> n), "truncate {size} {x:#x}");
                    prop_assert!(sx.contains(((x << n) as i64 >> n) as u64), "sx {size} {x:#x}");
                }
                if size < 4 {
                    let mut sx = hull(&xs);
                    sx.sign_extend32(size);
                    sx.zext_32_to_64();
                    let n = n - 32;
                    for x in &xs {
                        let v = u64::from(((*x as u32) << n) as i32 as u32 as i32 as u32);
                        let v = u64::from((v as i32 >> n) as u32);
                        prop_assert!(sx.contains(v), "sx32 {size} {x:#x} {sx:?}");
                    }
                }
            }
        }
    }
}
