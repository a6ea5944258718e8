//! Generalising a state: scalars in which it differs from a kept one grow, so that what comes
//! later is covered.
//!
//! At the head of a loop that is widening; at other places it joins the states of branches that
//! ran together. Both only ever replace a state by one that stands for more.

use bpf::insn::{AluOp, Insn, Src, Width};

use super::super::equal::{Exact, scalars_apart};
use super::super::ver::{NONE, Ver};
use super::{Level, Loc, Past, Place, Widened};
use crate::domain::reg::RegState;
use crate::domain::scalar::Bounds;
use crate::domain::state::VState;
use crate::domain::tnum::Tnum;
use crate::marks::hit;

/// States kept at the head of a loop before widening begins: short loops are walked as they are,
/// and what their comparisons are with is known by then.
const WIDEN_AFTER: usize = 3;
/// States kept at another place before they are joined.
const JOIN_AFTER: usize = 12;
/// Kept states looked at.
const TRIED_MAX: usize = 16;
/// Thresholds a scalar may pass one after the other; behind them are the bounds of its type.
const STEPS_MAX: u32 = 6;
/// Joins outside heads of loops that leave no room.
const JOINS_MAX: u32 = 2;
/// Largest step of a loop that thresholds are put beside.
const STRIDE_MAX: i64 = 4096;

/// The register or spilled register at a place.
pub(super) fn at(st: &VState, loc: Loc) -> Option<&RegState> {
    let f = st.frames.get(usize::from(loc.frame))?;
    match loc.place {
        Place::Reg(r) => f.regs.get(usize::from(r)),
        Place::Slot(s) => f.stack.get(usize::from(s)).filter(|s| s.is_spill()).map(|s| &s.reg),
    }
}

fn at_mut(st: &mut VState, loc: Loc) -> &mut RegState {
    let f = &mut st.frames[usize::from(loc.frame)];
    match loc.place {
        Place::Reg(r) => &mut f.regs[usize::from(r)],
        Place::Slot(s) => &mut f.stack[usize::from(s)].reg,
    }
}

/// Numbers that bounds grow to, as 64 bits that are read in each of four ways.
struct Thresholds(Vec<u64>);

impl Thresholds {
    /// A bound that grows to the next power of two does so 64 times at most.
    fn bits() -> Thresholds {
        let up = (0..64).map(|n| (1u64 << n) - 1);
        let down = (0..64).map(|n| u64::MAX << n);
        Thresholds(up.chain(down).collect())
    }

    fn wide(&self) -> impl Iterator<Item = u64> {
        self.0.iter().copied()
    }

    fn low(&self) -> impl Iterator<Item = u32> {
        self.0.iter().filter_map(|t| u32::try_from(*t).ok())
    }

    fn signed(&self) -> impl Iterator<Item = i64> {
        self.0.iter().map(|t| *t as i64)
    }

    fn low_signed(&self) -> impl Iterator<Item = i32> {
        self.0.iter().filter_map(|t| i32::try_from(*t as i64).ok())
    }
}

/// The next range that holds both: an end that moved goes on to the next threshold.
fn grow<T: Ord + Copy>(
    old: (T, T),
    cur: (T, T),
    all: (T, T),
    thresholds: impl Iterator<Item = T>,
) -> (T, T) {
    let (mut lo, mut hi) = all;
    for t in thresholds {
        if t <= cur.0 && t > lo {
            lo = t;
        }
        if t >= cur.1 && t < hi {
            hi = t;
        }
    }
    (if cur.0 < old.0 { lo } else { old.0 }, if cur.1 > old.1 { hi } else { old.1 })
}

/// Bits that stay as they are: the low ones both agree on, as in an index that grows by eight.
fn common_low(a: Tnum, b: Tnum) -> Tnum {
    let both = a.union(b);
    let unknown = both.mask.trailing_zeros();
    let mask = if unknown >= 64 { 0 } else { u64::MAX << unknown };
    Tnum { value: both.value & !mask, mask }
}

/// Bounds that hold all of `old` and `cur`, and room.
fn widened(old: &Bounds, cur: &Bounds, t: &Thresholds) -> Bounds {
    let mut b = Bounds { var_off: common_low(old.var_off, cur.var_off), ..Bounds::UNKNOWN };
    let ends = |b: &Bounds| (b.umin, b.umax);
    (b.umin, b.umax) = grow(ends(old), ends(cur), (0, u64::MAX), t.wide());
    let ends = |b: &Bounds| (b.smin, b.smax);
    (b.smin, b.smax) = grow(ends(old), ends(cur), (i64::MIN, i64::MAX), t.signed());
    let ends = |b: &Bounds| (b.u32_min, b.u32_max);
    (b.u32_min, b.u32_max) = grow(ends(old), ends(cur), (0, u32::MAX), t.low());
    let ends = |b: &Bounds| (b.s32_min, b.s32_max);
    (b.s32_min, b.s32_max) = grow(ends(old), ends(cur), (i32::MIN, i32::MAX), t.low_signed());
    b.sync();
    b
}

/// Bounds that hold all of both and no more than their ranges and bits do.
fn joined(old: &Bounds, cur: &Bounds) -> Bounds {
    let mut b = Bounds {
        var_off: old.var_off.union(cur.var_off),
        smin: old.smin.min(cur.smin),
        smax: old.smax.max(cur.smax),
        umin: old.umin.min(cur.umin),
        umax: old.umax.max(cur.umax),
        s32_min: old.s32_min.min(cur.s32_min),
        s32_max: old.s32_max.max(cur.s32_max),
        u32_min: old.u32_min.min(cur.u32_min),
        u32_max: old.u32_max.max(cur.u32_max),
    };
    b.sync();
    b
}

/// Constants of the comparisons of a loop and what is beside them: `i < N` leaves `N - 1`, and a
/// step of `k` passes `N` by up to `k - 1`.
fn constants(insns: &[Insn], of: impl Fn(usize) -> bool) -> Vec<u64> {
    let inside = || insns.iter().enumerate().filter(|(i, _)| of(*i)).map(|(_, x)| x);
    let stride = |x: &Insn| match *x {
        Insn::Alu { op: AluOp::Add | AluOp::Sub, src: Src::Imm(k), .. } => Some(i64::from(k).abs()),
        _ => None,
    };
    let mut strides: Vec<i64> = inside().filter_map(stride).collect();
    strides.retain(|k| (2..=STRIDE_MAX).contains(k));
    strides.sort_unstable();
    strides.dedup();
    let mut all = Vec::new();
    // A counter that is compared with anything at all stays a step below the end of its type.
    for end in [i32::MIN.into(), i32::MAX.into(), u32::MAX.into(), i64::MIN, i64::MAX, -1, 0] {
        beside(end as u64, &strides, &mut all);
    }
    for x in inside() {
        if let Insn::Jmp { width, src: Src::Imm(c), .. } = *x {
            beside(c as i64 as u64, &strides, &mut all);
            if width == Width::W32 {
                beside(u64::from(c as u32), &strides, &mut all);
            }
        }
    }
    all
}

fn sext(x: i32) -> u64 {
    i64::from(x) as u64
}

fn beside(c: u64, strides: &[i64], all: &mut Vec<u64>) {
    all.extend([c.wrapping_sub(1), c, c.wrapping_add(1)]);
    for k in strides {
        all.push(c.wrapping_add(*k as u64).wrapping_sub(1));
        all.push(c.wrapping_sub(*k as u64).wrapping_add(1));
    }
}

impl Ver<'_> {
    /// Thresholds of the loops the current state is in.
    fn thresholds(&mut self) -> Thresholds {
        let (cfg, insns) = (self.input.cfg, self.input.insns);
        let scc = |at: u32| cfg.scc[at as usize];
        let mut loops: Vec<u32> = (0..self.cur.frames.len())
            .map(|f| scc(self.cur.frame_insn(f)))
            .filter(|s| *s != 0)
            .collect();
        loops.dedup();
        let mut all = Vec::new();
        let Some(b) = &mut self.beyond else { return Thresholds(all) };
        for id in &loops {
            let found = b.constants.entry(*id);
            all.extend(&*found.or_insert_with(|| constants(insns, |i| cfg.scc[i] == *id)));
        }
        // A comparison with a register: what the side that does not change may be.
        for (_, seen) in b.seen.iter().filter(|(at, _)| loops.contains(&scc(**at))) {
            for x in seen.same.iter().flatten() {
                let low = [x.u32_min.into(), x.u32_max.into(), sext(x.s32_min), sext(x.s32_max)];
                for end in [x.umin, x.umax, x.smin as u64, x.smax as u64].into_iter().chain(low) {
                    beside(end, &[], &mut all);
                }
            }
        }
        Thresholds(all)
    }

    /// The current instruction is the head of a loop.
    pub(in super::super) fn at_loop_head(&self) -> bool {
        self.beyond.as_ref().is_some_and(|b| b.abstracts && b.heads[self.insn_idx as usize])
    }

    /// Replaces the current state by one that stands for more, when enough states are kept here
    /// that differ from it in scalars only. The new one must be kept.
    pub(in super::super) fn generalise(&mut self, bucket: usize) -> Option<Past> {
        let enough = if self.at_loop_head() { WIDEN_AFTER } else { JOIN_AFTER };
        let here = self.kept_here(bucket);
        if here.len() < enough {
            return None;
        }
        let exact = if self.in_loop(&self.cur) { Exact::Covers } else { Exact::NotExact };
        let first = here.iter().take(TRIED_MAX).find_map(|i| {
            let apart = scalars_apart(self, &self.kept[*i as usize].state, &self.cur, exact)?;
            let may = |l: &Loc| self.level_at(*l) != Level::Never;
            (!apart.is_empty() && apart.iter().all(may)).then_some((*i, apart))
        });
        let (old, apart) = first?;
        Some(self.generalise_to(old, &apart, &here))
    }

    /// Kept states of the current instruction, newest first. What is under speculation is apart.
    fn kept_here(&self, bucket: usize) -> Vec<u32> {
        let mut here = Vec::new();
        let mut i = self.explored[bucket];
        while i != NONE {
            let k = &self.kept[i as usize];
            let same = k.state.insn_idx == self.insn_idx;
            if same && k.state.speculative == self.cur.speculative {
                here.push(i);
            }
            i = k.next;
        }
        here
    }

    /// Under speculation a refusal is a barrier and no end is to be proved.
    fn level_at(&self, loc: Loc) -> Level {
        let level = self.beyond.as_ref().and_then(|b| b.levels.get(&(self.insn_idx, loc)));
        level.copied().filter(|_| !self.cur.speculative).unwrap_or(Level::Free)
    }

    fn generalise_to(&mut self, old: u32, apart: &[Loc], here: &[u32]) -> Past {
        let (thresholds, bits) = (self.thresholds(), Thresholds::bits());
        let head = self.at_loop_head();
        // Comparisons tell where a loop leads to, not where branches do.
        let told = head && !thresholds.0.is_empty();
        let outset = if told { Level::Thresholds } else { Level::Bits };
        let mut past = Past { before: Some(self.cur.clone()), ..Past::default() };
        for loc in apart {
            let known = &self.kept[old as usize];
            let (Some(o), Some(c)) = (at(&known.state, *loc), at(&self.cur, *loc)) else {
                continue;
            };
            let (mut o, c) = (o.b, *c);
            let earlier = known.past.iter().flat_map(|p| &p.widened).find(|w| w.loc == *loc);
            let steps = earlier.map_or(0, |w| w.steps) + 1;
            // Some check depended on it here.
            let mut precise = c.precise;
            for k in here.iter().map(|i| &self.kept[*i as usize]) {
                let Some(r) = at(&k.state, *loc).filter(|r| r.is_scalar()) else { continue };
                precise |= r.precise;
                // What the loop began with.
                if head && k.past.as_ref().is_none_or(|p| p.widened.is_empty()) {
                    o = joined(&o, &r.b);
                }
            }
            let level = match self.level_at(*loc) {
                Level::Free if precise => outset,
                level => level,
            };
            let b = match level {
                Level::Free => {
                    hit!("beyond: widened to unknown");
                    Bounds::UNKNOWN
                }
                Level::Thresholds if steps > STEPS_MAX => {
                    hit!("beyond: too many steps");
                    Bounds::UNKNOWN
                }
                Level::Thresholds => {
                    hit!("beyond: widened to thresholds");
                    widened(&o, &c.b, &thresholds)
                }
                // The first of them only join.
                _ if steps <= JOINS_MAX && !head => {
                    hit!("beyond: joined");
                    joined(&o, &c.b)
                }
                _ => {
                    hit!("beyond: grown by bits");
                    widened(&o, &c.b, &bits)
                }
            };
            // What was equal to it, or differed by a constant, is no longer said to be.
            *at_mut(&mut self.cur, *loc) = RegState { b, id: 0, off: 0, ..c };
            past.widened.push(Widened { loc: *loc, level, steps });
        }
        past
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bounds() -> impl Strategy<Value = (Bounds, Vec<u64>)> {
        let edge = proptest::sample::select(vec![0u64, 1 << 31, 1 << 32, 1 << 63, 0x7fff_ffff]);
        let near = (edge, -4i64..5).prop_map(|(e, d)| e.wrapping_add(d as u64));
        let v = prop_oneof![near, any::<u64>(), 0u64..64];
        proptest::collection::vec(v, 1..4).prop_map(|vals| {
            let first = Bounds::known(vals[0]);
            let all = vals.iter().fold(first, |b, v| joined(&b, &Bounds::known(*v)));
            (all, vals)
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..Default::default() })]

        #[test]
        fn generalised_bounds_hold_both(
            (a, xs) in bounds(),
            (b, ys) in bounds(),
            t in proptest::collection::vec(any::<u64>(), 0..6),
        ) {
            for x in xs.iter().chain(&ys) {
                prop_assert!(joined(&a, &b).contains(*x), "{x:#x}");
                prop_assert!(widened(&a, &b, &Thresholds(t.clone())).contains(*x), "{x:#x}");
            }
        }
    }

    #[test]
    fn a_bound_that_moved_goes_to_the_next_threshold() {
        let t = Thresholds(vec![9, 10, 11, 1000]);
        let w = widened(&Bounds::known(2), &Bounds::known(3), &t);
        assert_eq!((w.umin, w.umax), (2, 9));
        let w = widened(&w, &Bounds::known(16), &t);
        assert_eq!((w.umin, w.umax), (2, 1000));
        let w = widened(&Bounds::known(16), &Bounds::known(24), &Thresholds(vec![]));
        assert!(w.var_off.is_aligned(8) && w.contains(32), "{w:?}");
    }
}
