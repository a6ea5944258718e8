//! Tracked numbers: per bit, known 0, known 1 or unknown. Source: `kernel/bpf/tnum.c`, and
//! "Sound, Precise, and Fast Abstract Interpretation with Tristate Numbers" (CGO 2022).
//!
//! **Invariant.** `value & mask == 0`: a bit is unknown (mask) or has a value, never both.

/// A tracked number: unknown bits are set in `mask`, known ones have their value in `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tnum {
    /// Known bits.
    pub value: u64,
    /// Unknown bits.
    pub mask: u64,
}

impl Tnum {
    /// Nothing is known.
    pub const UNKNOWN: Tnum = Tnum { value: 0, mask: u64::MAX };

    /// A constant.
    #[must_use]
    pub const fn constant(value: u64) -> Tnum {
        Tnum { value, mask: 0 }
    }

    /// The smallest tnum that holds all of `min..=max`.
    #[must_use]
    pub const fn range(min: u64, max: u64) -> Tnum {
        let bits = 64 - (min ^ max).leading_zeros();
        if bits > 63 {
            return Tnum::UNKNOWN;
        }
        let delta = (1u64 << bits) - 1;
        Tnum { value: min & !delta, mask: delta }
    }

    /// All bits are known.
    #[must_use]
    pub const fn is_const(self) -> bool {
        self.mask == 0
    }

    /// No bit is known.
    #[must_use]
    pub const fn is_unknown(self) -> bool {
        self.mask == u64::MAX
    }

    /// Concretisation contains `x`.
    #[must_use]
    pub const fn contains(self, x: u64) -> bool {
        x & !self.mask == self.value
    }

    /// `tnum_lshift`.
    #[must_use]
    pub const fn lshift(self, n: u32) -> Tnum {
        Tnum { value: self.value << n, mask: self.mask << n }
    }

    /// `tnum_rshift`.
    #[must_use]
    pub const fn rshift(self, n: u32) -> Tnum {
        Tnum { value: self.value >> n, mask: self.mask >> n }
    }

    /// `tnum_arshift`: `bits` is 32 or 64.
    #[must_use]
    pub const fn arshift(self, n: u32, bits: u32) -> Tnum {
        if bits == 32 {
            let (v, m) = (self.value as u32 as i32 >> n, self.mask as u32 as i32 >> n);
            return Tnum { value: v as u32 as u64, mask: m as u32 as u64 };
        }
        Tnum { value: ((self.value as i64) >> n) as u64, mask: ((self.mask as i64) >> n) as u64 }
    }

    /// `tnum_add`.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "named as in the kernel")]
    pub const fn add(self, b: Tnum) -> Tnum {
        let sm = self.mask.wrapping_add(b.mask);
        let sv = self.value.wrapping_add(b.value);
        let sigma = sm.wrapping_add(sv);
        let mu = (sigma ^ sv) | self.mask | b.mask;
        Tnum { value: sv & !mu, mask: mu }
    }

    /// `tnum_sub`.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "named as in the kernel")]
    pub const fn sub(self, b: Tnum) -> Tnum {
        let dv = self.value.wrapping_sub(b.value);
        let alpha = dv.wrapping_add(self.mask);
        let beta = dv.wrapping_sub(b.mask);
        let mu = (alpha ^ beta) | self.mask | b.mask;
        Tnum { value: dv & !mu, mask: mu }
    }

    /// `tnum_neg`.
    #[must_use]
    #[allow(clippy::should_implement_trait, reason = "named as in the kernel")]
    pub const fn neg(self) -> Tnum {
        Tnum::constant(0).sub(self)
    }

    /// `tnum_and`.
    #[must_use]
    pub const fn and(self, b: Tnum) -> Tnum {
        let v = self.value & b.value;
        Tnum { value: v, mask: (self.value | self.mask) & (b.value | b.mask) & !v }
    }

    /// `tnum_or`.
    #[must_use]
    pub const fn or(self, b: Tnum) -> Tnum {
        let v = self.value | b.value;
        Tnum { value: v, mask: (self.mask | b.mask) & !v }
    }

    /// `tnum_xor`.
    #[must_use]
    pub const fn xor(self, b: Tnum) -> Tnum {
        let mu = self.mask | b.mask;
        Tnum { value: (self.value ^ b.value) & !mu, mask: mu }
    }

    /// `tnum_mul`, the 6.18 form: the accumulator is the union of both cases of an unknown bit.
    #[must_use]
    pub const fn mul(self, b: Tnum) -> Tnum {
        let (mut a, mut b, mut acc) = (self, b, Tnum::constant(0));
        while a.value != 0 || a.mask != 0 {
            if a.value & 1 != 0 {
                acc = acc.add(b);
            } else if a.mask & 1 != 0 {
                acc = acc.union(acc.add(b));
            }
            a = a.rshift(1);
            b = b.lshift(1);
        }
        acc
    }

    /// `tnum_overlap`: some number is in both.
    #[must_use]
    pub const fn overlap(self, b: Tnum) -> bool {
        let mu = !self.mask & !b.mask;
        self.value & mu == b.value & mu
    }

    /// `tnum_intersect`.
    #[must_use]
    pub const fn intersect(self, b: Tnum) -> Tnum {
        let mu = self.mask & b.mask;
        Tnum { value: (self.value | b.value) & !mu, mask: mu }
    }

    /// `tnum_union`.
    #[must_use]
    pub const fn union(self, b: Tnum) -> Tnum {
        let mu = (self.value ^ b.value) | self.mask | b.mask;
        Tnum { value: self.value & b.value & !mu, mask: mu }
    }

    /// `tnum_cast`: truncation to `size` bytes.
    #[must_use]
    pub const fn cast(self, size: u32) -> Tnum {
        if size >= 8 {
            return self;
        }
        let keep = (1u64 << (size * 8)) - 1;
        Tnum { value: self.value & keep, mask: self.mask & keep }
    }

    /// `tnum_is_aligned`: to a power of two.
    #[must_use]
    pub const fn is_aligned(self, size: u64) -> bool {
        size == 0 || (self.value | self.mask) & (size - 1) == 0
    }

    /// `tnum_in`: everything in `b` is in `self`.
    #[must_use]
    pub const fn includes(self, b: Tnum) -> bool {
        b.mask & !self.mask == 0 && self.value == b.value & !self.mask
    }

    /// `tnum_subreg`: the low half, zero-extended.
    #[must_use]
    pub const fn subreg(self) -> Tnum {
        self.cast(4)
    }

    /// `tnum_clear_subreg`.
    #[must_use]
    pub const fn clear_subreg(self) -> Tnum {
        self.rshift(32).lshift(32)
    }

    /// `tnum_with_subreg`.
    #[must_use]
    pub const fn with_subreg(self, sub: Tnum) -> Tnum {
        self.clear_subreg().or(sub.subreg())
    }

    /// `tnum_const_subreg`.
    #[must_use]
    pub const fn const_subreg(self, value: u32) -> Tnum {
        self.with_subreg(Tnum::constant(value as u64))
    }

    /// `tnum_step`: the smallest member above `z`; the largest one when there is none.
    #[must_use]
    pub const fn step(self, z: u64) -> u64 {
        let last = self.value | self.mask;
        if z >= last {
            return last;
        }
        if z < self.value {
            return self.value;
        }
        // Counting within the mask: bits that cannot vary are set, so that a carry passes them,
        // and so is all below the highest of them that `z` has and the members have not.
        let d = z - self.value;
        let above = 64 - (d & !self.mask).leading_zeros();
        let below = if above == 64 { u64::MAX } else { (1 << above) - 1 };
        let next = (d | below | !self.mask).wrapping_add(1) & self.mask;
        self.value | next
    }

    /// `tnum_bswap16`, `tnum_bswap32`, `tnum_bswap64`.
    #[must_use]
    pub const fn byte_swap(self, bits: u32) -> Tnum {
        let shift = 64 - bits;
        Tnum { value: self.value.swap_bytes() >> shift, mask: self.mask.swap_bytes() >> shift }
    }

    /// `tnum_subreg_is_const`.
    #[must_use]
    pub const fn subreg_is_const(self) -> bool {
        self.mask as u32 == 0
    }
}

impl std::fmt::Display for Tnum {
    /// `tnum_strn`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.is_const() {
            true if self.value <= u64::from(u16::MAX) => write!(f, "{}", self.value),
            true => write!(f, "{:#x}", self.value),
            false => write!(f, "({:#x}; {:#x})", self.value, self.mask),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All well-formed tnums of `w` bits.
    fn all(w: u32) -> Vec<Tnum> {
        let n = 1u64 << w;
        let mut v = Vec::new();
        for mask in 0..n {
            v.extend((0..n).filter(|x| x & mask == 0).map(|value| Tnum { value, mask }));
        }
        v
    }

    type Op = (&'static str, fn(Tnum, Tnum) -> Tnum, fn(u64, u64) -> u64);

    const OPS: &[Op] = &[
        ("add", Tnum::add, u64::wrapping_add),
        ("sub", Tnum::sub, u64::wrapping_sub),
        ("mul", Tnum::mul, u64::wrapping_mul),
        ("and", Tnum::and, |a, b| a & b),
        ("or", Tnum::or, |a, b| a | b),
        ("xor", Tnum::xor, |a, b| a ^ b),
    ];

    #[test]
    fn operations_are_sound_on_four_bits() {
        for (name, abs, conc) in OPS {
            for a in all(4) {
                for b in all(4) {
                    let r = abs(a, b);
                    assert_eq!(r.value & r.mask, 0, "{name} well-formed");
                    for x in (0..16).filter(|x| a.contains(*x)) {
                        for y in (0..16).filter(|y| b.contains(*y)) {
                            assert!(r.contains(conc(x, y)), "{name} {a} {b}: {x} {y}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn lattice_on_three_bits() {
        for a in all(3) {
            for b in all(3) {
                let (i, u) = (a.intersect(b), a.union(b));
                for x in 0..8 {
                    let (ia, ib) = (a.contains(x), b.contains(x));
                    assert!(!(ia && ib) || i.contains(x));
                    assert!(!(ia || ib) || u.contains(x));
                }
                let subset = (0..8).all(|x| !b.contains(x) || a.contains(x));
                assert_eq!(a.includes(b), subset, "{a} {b}");
                assert_eq!(a.overlap(b), (0..8).any(|x| a.contains(x) && b.contains(x)));
            }
        }
    }

    #[test]
    fn range_holds_its_ends() {
        for lo in 0..32u64 {
            for hi in lo..32 {
                assert!((lo..=hi).all(|x| Tnum::range(lo, hi).contains(x)));
            }
        }
        assert_eq!(Tnum::range(0, u64::MAX), Tnum::UNKNOWN);
    }
}
