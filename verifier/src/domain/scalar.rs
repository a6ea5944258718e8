//! Bounds of a 64-bit value: signed and unsigned, of the whole and of its low half, plus a tnum,
//! and the deductions between them.
//!
//! **Invariant.** Every concrete value the register may hold is inside all five. Deductions only
//! shrink; what the kernel does not deduce is not deduced, since accept or reject may hang on it.

use super::tnum::Tnum;

/// The scalar part of `struct bpf_reg_state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the kernel's, without _value")]
pub struct Bounds {
    pub var_off: Tnum,
    pub smin: i64,
    pub smax: i64,
    pub umin: u64,
    pub umax: u64,
    pub s32_min: i32,
    pub s32_max: i32,
    pub u32_min: u32,
    pub u32_max: u32,
}

impl Bounds {
    /// Nothing is known.
    pub const UNKNOWN: Bounds = Bounds {
        var_off: Tnum::UNKNOWN,
        smin: i64::MIN,
        smax: i64::MAX,
        umin: 0,
        umax: u64::MAX,
        s32_min: i32::MIN,
        s32_max: i32::MAX,
        u32_min: 0,
        u32_max: u32::MAX,
    };

    /// `___mark_reg_known`.
    #[must_use]
    pub const fn known(imm: u64) -> Bounds {
        Bounds {
            var_off: Tnum::constant(imm),
            smin: imm as i64,
            smax: imm as i64,
            umin: imm,
            umax: imm,
            s32_min: imm as i32,
            s32_max: imm as i32,
            u32_min: imm as u32,
            u32_max: imm as u32,
        }
    }

    /// Concretisation.
    #[must_use]
    pub fn contains(&self, x: u64) -> bool {
        self.var_off.contains(x)
            && (self.umin..=self.umax).contains(&x)
            && (self.smin..=self.smax).contains(&(x as i64))
            && (self.u32_min..=self.u32_max).contains(&(x as u32))
            && (self.s32_min..=self.s32_max).contains(&(x as i32))
    }

    /// The value when it is a constant.
    #[must_use]
    pub const fn as_const(&self) -> Option<u64> {
        if self.var_off.is_const() { Some(self.var_off.value) } else { None }
    }

    /// `__mark_reg64_unbounded`.
    pub fn unbound64(&mut self) {
        (self.smin, self.smax) = (i64::MIN, i64::MAX);
        (self.umin, self.umax) = (0, u64::MAX);
    }

    /// `__mark_reg32_unbounded`.
    pub fn unbound32(&mut self) {
        (self.s32_min, self.s32_max) = (i32::MIN, i32::MAX);
        (self.u32_min, self.u32_max) = (0, u32::MAX);
    }

    /// `__mark_reg32_known`.
    pub fn set_known32(&mut self, imm: u32) {
        self.var_off = self.var_off.const_subreg(imm);
        (self.s32_min, self.s32_max) = (imm as i32, imm as i32);
        (self.u32_min, self.u32_max) = (imm, imm);
    }

    fn meet_s32(&mut self, lo: i32, hi: i32) {
        self.s32_min = self.s32_min.max(lo);
        self.s32_max = self.s32_max.min(hi);
    }

    fn meet_u32(&mut self, lo: u32, hi: u32) {
        self.u32_min = self.u32_min.max(lo);
        self.u32_max = self.u32_max.min(hi);
    }

    fn meet_s64(&mut self, lo: i64, hi: i64) {
        self.smin = self.smin.max(lo);
        self.smax = self.smax.min(hi);
    }

    fn meet_u64(&mut self, lo: u64, hi: u64) {
        self.umin = self.umin.max(lo);
        self.umax = self.umax.min(hi);
    }

    /// `__update_reg32_bounds`.
    pub fn update32(&mut self) {
        let t32 = self.var_off.subreg();
        let (v, m) = (t32.value as u32, t32.mask as u32);
        self.meet_s32((v | (m & 0x8000_0000)) as i32, (v | (m & 0x7fff_ffff)) as i32);
        self.meet_u32(v, v | m);
    }

    /// `__update_reg_bounds`: bounds from known bits.
    pub fn update(&mut self) {
        self.update32();
        let Tnum { value: v, mask: m } = self.var_off;
        let sign = 1u64 << 63;
        self.meet_s64((v | (m & sign)) as i64, (v | (m & !sign)) as i64);
        self.meet_u64(v, v | m);
        self.meet_tnum();
    }

    /// The end of `__update_reg64_bounds`: one number alone is both in the range and in the tnum.
    fn meet_tnum(&mut self) {
        let t = self.var_off;
        let next = t.step(self.umin);
        let last = t.value | t.mask;
        let first = t.contains(self.umin);
        let only = if first && next > self.umax {
            self.umin
        } else if !first && next == last {
            last
        } else if !first && next <= self.umax && t.step(next) > self.umax {
            next
        } else {
            return;
        };
        *self = Bounds::known(only);
    }

    /// KERNEL v6.18 verifier.c:__reg32_deduce_bounds
    fn deduce32(&mut self) {
        let (ulo, uhi, slo, shi) = (self.umin, self.umax, self.smin, self.smax);
        if ulo >> 32 == uhi >> 32 {
            self.meet_u32(ulo as u32, uhi as u32);
            if ulo as i32 <= uhi as i32 {
                self.meet_s32(ulo as i32, uhi as i32);
            }
        }
        if slo >> 32 == shi >> 32 {
            if slo as u32 <= shi as u32 {
                self.meet_u32(slo as u32, shi as u32);
            }
            if slo as i32 <= shi as i32 {
                self.meet_s32(slo as i32, shi as i32);
            }
        }
        // Upper halves are neighbours and the low halves run from negative to positive.
        let neighbours = |a: u64, b: u64| ((a >> 32) as u32).wrapping_add(1) == (b >> 32) as u32;
        if neighbours(ulo, uhi) && (ulo as i32) < 0 && uhi as i32 >= 0 {
            self.meet_s32(ulo as i32, uhi as i32);
        }
        if neighbours(slo as u64, shi as u64) && (slo as i32) < 0 && shi as i32 >= 0 {
            self.meet_s32(slo as i32, shi as i32);
        }
        if self.u32_min as i32 <= self.u32_max as i32 {
            self.meet_s32(self.u32_min as i32, self.u32_max as i32);
        }
        if self.s32_min as u32 <= self.s32_max as u32 {
            self.meet_u32(self.s32_min as u32, self.s32_max as u32);
        } else if self.u32_max < self.s32_min as u32 {
            // The unsigned range meets only the non-negative part.
            self.s32_min = self.u32_min as i32;
            self.u32_max = self.u32_max.min(self.s32_max as u32);
        } else if (self.s32_max as u32) < self.u32_min {
            self.s32_max = self.u32_max as i32;
            self.u32_min = self.u32_min.max(self.s32_min as u32);
        }
    }

    /// KERNEL v6.18 verifier.c:__reg64_deduce_bounds
    fn deduce64(&mut self) {
        if self.umin as i64 <= self.umax as i64 {
            self.meet_s64(self.umin as i64, self.umax as i64);
        }
        if self.smin as u64 <= self.smax as u64 {
            self.meet_u64(self.smin as u64, self.smax as u64);
        } else if self.umax < self.smin as u64 {
            // The unsigned range meets only the non-negative part.
            self.smin = self.umin as i64;
            self.umax = self.umax.min(self.smax as u64);
        } else if (self.smax as u64) < self.umin {
            self.smax = self.umax as i64;
            self.umin = self.umin.max(self.smin as u64);
        }
    }

    /// KERNEL v6.18 verifier.c:__reg_deduce_mixed_bounds
    fn deduce_mixed(&mut self) {
        let hi = |x: u64| x & !0xffff_ffff;
        let (lo32, hi32) = (u64::from(self.u32_min), u64::from(self.u32_max));
        self.meet_u64(hi(self.umin) | lo32, hi(self.umax) | hi32);
        let (smin, smax) = (self.smin as u64, self.smax as u64);
        self.meet_s64((hi(smin) | lo32) as i64, (hi(smax) | hi32) as i64);
        // After a sign-extending load whose low half is not negative.
        let fits = self.smin >= i64::from(i32::MIN) && self.smax <= i64::from(i32::MAX);
        if self.s32_min >= 0 && fits {
            (self.smin, self.smax) = (i64::from(self.s32_min), i64::from(self.s32_max));
            (self.umin, self.umax) = (self.smin as u64, self.smax as u64);
            self.var_off = self.var_off.intersect(Tnum::range(self.umin, self.umax));
        }
    }

    fn deduce(&mut self) {
        self.deduce32();
        self.deduce64();
        self.deduce_mixed();
    }

    /// `__reg_bound_offset`: known bits from bounds.
    fn bound_offset(&mut self) {
        let t64 = self.var_off.intersect(Tnum::range(self.umin, self.umax));
        let r32 = Tnum::range(u64::from(self.u32_min), u64::from(self.u32_max));
        let t32 = t64.subreg().intersect(r32);
        self.var_off = t64.clear_subreg().or(t32);
    }

    /// KERNEL v6.18 verifier.c:reg_bounds_sync (three rounds of deduction)
    pub fn sync(&mut self) {
        self.update();
        self.deduce();
        self.deduce();
        self.deduce();
        self.bound_offset();
        self.update();
    }

    /// `__reg_assign_32_into_64` after `subreg`: zero-extension of a 32-bit result.
    pub fn zext_32_to_64(&mut self) {
        self.var_off = self.var_off.subreg();
        (self.umin, self.umax) = (u64::from(self.u32_min), u64::from(self.u32_max));
        if self.s32_min >= 0 && self.s32_max >= 0 {
            (self.smin, self.smax) = (i64::from(self.s32_min), i64::from(self.s32_max));
        } else {
            (self.smin, self.smax) = (0, i64::from(u32::MAX));
        }
        self.sync();
    }

    /// `coerce_reg_to_size`: truncation to `size` bytes.
    pub fn truncate(&mut self, size: u32) {
        self.var_off = self.var_off.cast(size);
        let mask = if size >= 8 { u64::MAX } else { (1u64 << (size * 8)) - 1 };
        if self.umin & !mask == self.umax & !mask {
            self.umin &= mask;
            self.umax &= mask;
        } else {
            (self.umin, self.umax) = (0, mask);
        }
        (self.smin, self.smax) = (self.umin as i64, self.umax as i64);
        if size < 4 {
            self.unbound32();
        }
        self.sync();
    }

    /// KERNEL v6.18 verifier.c:coerce_reg_to_size_sx
    pub fn sign_extend64(&mut self, size: u32) {
        let bits = size * 8;
        let sx = |x: u64| ((x << (64 - bits)) as i64) >> (64 - bits);
        if let Some(v) = self.as_const() {
            *self = Bounds::known(sx(v) as u64);
            return;
        }
        let top = |x: i64| (x as u64) >> bits;
        if top(self.smax) == top(self.smin) {
            let (a, b) = (sx(self.smax as u64), sx(self.smin as u64));
            let (lo, hi) = (a.min(b), a.max(b));
            if (lo >= 0) == (hi >= 0) {
                (self.smin, self.smax) = (lo, hi);
                (self.umin, self.umax) = (lo as u64, hi as u64);
                (self.s32_min, self.s32_max) = (lo as i32, hi as i32);
                (self.u32_min, self.u32_max) = (lo as u32, hi as u32);
                self.var_off = Tnum::range(lo as u64, hi as u64);
                return;
            }
        }
        *self = Bounds::UNKNOWN;
        (self.smin, self.smax) = (-(1i64 << (bits - 1)), (1i64 << (bits - 1)) - 1);
        if size < 4 {
            (self.s32_min, self.s32_max) = (self.smin as i32, self.smax as i32);
        }
    }

    /// KERNEL v6.18 verifier.c:coerce_subreg_to_size_sx
    pub fn sign_extend32(&mut self, size: u32) {
        let bits = size * 8;
        let sx = |x: u32| ((x << (32 - bits)) as i32) >> (32 - bits);
        if self.var_off.subreg_is_const() {
            let v = sx(self.var_off.value as u32);
            self.set_known32(v as u32);
            return;
        }
        let top = |x: i32| (x as u32) >> bits;
        if top(self.s32_max) == top(self.s32_min) {
            let (a, b) = (sx(self.s32_max as u32), sx(self.s32_min as u32));
            let (lo, hi) = (a.min(b), a.max(b));
            if (lo >= 0) == (hi >= 0) {
                (self.s32_min, self.s32_max) = (lo, hi);
                (self.u32_min, self.u32_max) = (lo as u32, hi as u32);
                let t = Tnum::range(u64::from(lo as u32), u64::from(hi as u32));
                self.var_off = t.subreg();
                return;
            }
        }
        (self.s32_min, self.s32_max) = (-(1i32 << (bits - 1)), (1i32 << (bits - 1)) - 1);
        (self.u32_min, self.u32_max) = (0, u32::MAX);
        self.var_off = Tnum::UNKNOWN.subreg();
    }

    /// What `reg_bounds_sanity_check` finds: a contradiction, on a path that cannot be taken.
    #[must_use]
    pub fn violation(&self) -> Option<&'static str> {
        let ordered = self.umin <= self.umax
            && self.smin <= self.smax
            && self.u32_min <= self.u32_max
            && self.s32_min <= self.s32_max;
        if !ordered {
            return Some("range bounds violation");
        }
        let const64 = self.as_const().is_none_or(|v| {
            (self.umin, self.umax) == (v, v) && (self.smin, self.smax) == (v as i64, v as i64)
        });
        if !const64 {
            return Some("const tnum out of sync with range bounds");
        }
        let v32 = self.var_off.value as u32;
        let const32 = !self.var_off.subreg_is_const()
            || ((self.u32_min, self.u32_max) == (v32, v32)
                && (self.s32_min, self.s32_max) == (v32 as i32, v32 as i32));
        (!const32).then_some("const subreg tnum out of sync with range bounds")
    }

    /// `range_within` and `tnum_in`: `cur` is inside `self`.
    #[must_use]
    pub fn includes(&self, cur: &Bounds) -> bool {
        self.range_within(cur) && self.var_off.includes(cur.var_off)
    }

    /// `range_within(self, cur)`.
    #[must_use]
    pub fn range_within(&self, cur: &Bounds) -> bool {
        self.umin <= cur.umin
            && self.umax >= cur.umax
            && self.smin <= cur.smin
            && self.smax >= cur.smax
            && self.u32_min <= cur.u32_min
            && self.u32_max >= cur.u32_max
            && self.s32_min <= cur.s32_min
            && self.s32_max >= cur.s32_max
    }
}
