//! Beyond the kernel's limits (`Opts::beyond`): where 6.18 gives up for complexity, go on.
//!
//! ```text
//!  the kernel's way, its limits included ── a verdict ──► that verdict
//!    │ too complex
//!    ▼
//!  abstract: states are generalised (widen.rs) and every loop is proved to end (ends.rs)
//!    │ refused, and generalisation is to blame ──► generalise less there, once more
//!    ▼ nothing left to blame
//!  exact: the kernel's way with a budget that progress earns; then a report (report.rs)
//! ```
//!
//! So nothing that the kernel accepts is refused here: the kernel's way comes first.
//!
//! **Soundness of the abstract walk.** A state may be replaced by one that stands for more: all
//! that was allowed to happen from it still is. A path ends where a kept state covers it. Outside
//! loops that is the kernel's comparison. Inside loops the kept state may itself not be finished,
//! and then what is compared may not depend on marks that come later: `Exact::Covers` asks for
//! every scalar, precise or not, to be in range. Then the kept states are an invariant: each
//! concrete run steps from state to state of a finite graph, and all facts of these states hold
//! for it (induction over the steps of the run). No step of a state that was walked was refused.
//!
//! **Termination.** The kernel's million is also its proof that a program ends: it has walked
//! every run to its end. A graph with cycles proves nothing, so `ends.rs` demands of each cycle an
//! argument of its own, and there is no acceptance without.
//!
//! **Bounds.** State memory has a limit (`Opts::state_memory_max`) which is an error of its own
//! kind. Time has a budget of instructions, earned by what is new: instructions seen for the first
//! time, and kept states that made walking further paths needless.

mod ends;
mod report;
mod widen;

use std::collections::BTreeMap;

use bpf::insn::{AluOp, Insn, InsnIdx, Src};

use super::ver::{R, Ver};
use super::{Explored, Input};
use crate::cfg::Cfg;
use crate::domain::scalar::Bounds;
use crate::domain::state::{HistFlags, VState};
use crate::marks::hit;
use crate::reject::{E2BIG, RejectKind, Rejection};

pub use report::{LoopEnd, Multiplying, Report};

/// How often the abstract walk starts again, generalising less.
const ROUNDS_MAX: u32 = 64;
/// Instructions of an abstract walk that it need not earn; only new ones earn more.
const ABSTRACT_INSNS: u64 = 1 << 16;
/// Instructions that an instruction seen for the first time earns.
const EARNED_BY_NEW: u64 = 100;
/// Most instructions that a kept state earns when it covers another one: what walking from it
/// once took, since that was saved.
const EARNED_BY_COVER_MAX: u32 = 1 << 16;

/// How often a kept state earns.
const EARNS_MAX: u32 = 16;
/// What a path that ended in a kept state is counted as.
const EDGE_BYTES: u64 = 4096;

/// A register or a slot of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Loc {
    pub(crate) frame: u8,
    pub(crate) place: Place,
}

/// See [`Loc`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Reg(u8),
    Slot(u8),
}

impl std::fmt::Display for Loc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place {
            Place::Reg(r) => write!(f, "r{r}")?,
            Place::Slot(s) => write!(f, "fp-{}", 8 * (u32::from(s) + 1))?,
        }
        if self.frame != 0 { write!(f, " of frame {}", self.frame) } else { Ok(()) }
    }
}

/// How much is generalised at a place of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Level {
    /// What no check depended on so far becomes unknown, the rest grows to the next threshold.
    Free,
    /// Everything grows to the next threshold.
    Thresholds,
    /// Everything grows by bits: to the next power of two.
    Bits,
    /// Nothing.
    Never,
}

impl Level {
    fn less(self) -> Level {
        match self {
            Level::Free => Level::Thresholds,
            Level::Thresholds => Level::Bits,
            Level::Bits | Level::Never => Level::Never,
        }
    }
}

/// A scalar that was generalised in a kept state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Widened {
    loc: Loc,
    level: Level,
    /// How often it was, in the states this one is a generalisation of.
    steps: u32,
}

/// What a kept state has besides in this mode.
#[derive(Default)]
pub(crate) struct Past {
    widened: Vec<Widened>,
    /// The state before it was generalised.
    before: Option<VState>,
    /// Instructions processed when it was kept; when it was finished, how many it took.
    began: u32,
    cost: u32,
}

/// A path of a loop that ended in a kept state.
struct Edge {
    state: VState,
    to: u32,
}

/// What the operands of an instruction were, over all visits.
#[derive(Clone, Copy)]
struct Seen {
    /// Of dst and src while they were always the same.
    same: [Option<Bounds>; 2],
    /// Hull of src, of all its bits and of its low half.
    wide: (i64, i64),
    low: (i32, i32),
}

/// The state of this mode.
pub(crate) struct Beyond {
    abstracts: bool,
    levels: BTreeMap<(u32, Loc), Level>,
    /// Targets of back edges.
    heads: Vec<bool>,
    edges: Vec<Edge>,
    seen: BTreeMap<u32, Seen>,
    constants: BTreeMap<u32, Vec<u64>>,
    earned: u64,
    /// Instructions processed when something new was found for the last time.
    progress: u32,
    /// States of a loop that is not known to end.
    endless: Vec<u32>,
    report: Report,
}

impl Beyond {
    fn new(cfg: &Cfg, abstracts: bool, levels: BTreeMap<(u32, Loc), Level>) -> Beyond {
        Beyond {
            abstracts,
            levels,
            heads: heads(cfg),
            edges: Vec::new(),
            seen: BTreeMap::new(),
            constants: BTreeMap::new(),
            earned: 0,
            progress: 0,
            endless: Vec::new(),
            report: Report::default(),
        }
    }
}

/// Targets of the back edges of a depth-first walk, and calls that call back: every cycle has one.
fn heads(cfg: &Cfg) -> Vec<bool> {
    let (mut head, mut state) = (cfg.calls_callback.clone(), vec![0u8; cfg.succ.len()]);
    for sub in &cfg.subprogs {
        let mut stack = vec![(sub.start.idx(), 0)];
        state[sub.start.idx()] = 1;
        while let Some((at, k)) = stack.pop() {
            let Some(to) = cfg.successors(at).nth(k) else {
                state[at] = 2;
                continue;
            };
            stack.push((at, k + 1));
            match state[to] {
                0 => {
                    state[to] = 1;
                    stack.push((to, 0));
                }
                1 => head[to] = true,
                _ => {}
            }
        }
    }
    head
}

/// [`super::explore`] in this mode.
pub(super) fn explore(input: &Input<'_>) -> Result<Explored, Box<Rejection>> {
    let kernel = match super::as_the_kernel(input) {
        Err(e) if e.kind == RejectKind::Limit => e,
        verdict => return verdict,
    };
    let mut levels = BTreeMap::new();
    let mut report = Report { kernel: kernel.message.clone(), ..Report::default() };
    while report.rounds < ROUNDS_MAX {
        report.rounds += 1;
        let mut v = Ver::beyond(input, Beyond::new(input.cfg, true, levels));
        let result = v.run();
        let b = v.beyond.as_mut().expect("it was put there");
        levels = std::mem::take(&mut b.levels);
        let Err(e) = result else {
            let found = std::mem::take(&mut b.report);
            report = Report { kernel: report.kernel, rounds: report.rounds, ..found };
            return Ok(Explored { beyond: Some(report), ..v.finish() });
        };
        if report.refused.is_none() && e.kind != RejectKind::Limit {
            report.refused = e.insn.or(Some(InsnIdx(v.insn_idx))).map(|i| (i.0, e.message.clone()));
        }
        let too_much = e.kind == RejectKind::Limit && v.endless().is_empty();
        match v.generalise_less(&mut levels) {
            true if !too_much => hit!("beyond: walked again with less"),
            // Nothing was generalised on the way there: it is so in the program itself.
            false if e.kind != RejectKind::Limit => {
                hit!("beyond: refused for what is in the program");
                return Err(with(report, v.refused(e)));
            }
            _ => break,
        }
    }
    hit!("beyond: walked exactly");
    report.exact = true;
    let mut v = Ver::beyond(input, Beyond::new(input.cfg, false, BTreeMap::new()));
    match v.run() {
        Ok(()) => Ok(Explored { beyond: Some(report), ..v.finish() }),
        Err(e) => {
            report.multiplying = v.multiplying();
            Err(with(report, v.refused(e)))
        }
    }
}

fn with(report: Report, mut e: Box<Rejection>) -> Box<Rejection> {
    e.beyond = Some(report);
    e
}

impl<'a> Ver<'a> {
    fn beyond(input: &Input<'a>, beyond: Beyond) -> Ver<'a> {
        Ver { beyond: Some(Box::new(beyond)), ..Ver::new(input) }
    }
}

impl Ver<'_> {
    /// The limit on pending paths is that on memory.
    pub(crate) fn is_beyond(&self) -> bool {
        self.beyond.is_some()
    }

    /// States are generalised and loops must be proved to end.
    pub(super) fn abstracts(&self) -> bool {
        self.beyond.as_ref().is_some_and(|b| b.abstracts)
    }

    fn endless(&self) -> &[u32] {
        self.beyond.as_ref().map_or(&[], |b| &b.endless)
    }

    /// Whether the budget allows another instruction.
    pub(super) fn within_budget(&self) -> R {
        let (n, mut max) = (self.stats.insns_processed, u64::from(self.input.opts.insns_max));
        if self.abstracts() {
            max = max.min(ABSTRACT_INSNS);
        }
        let earned = self.beyond.as_ref().map_or(0, |b| b.earned);
        // Counters end at 2^32.
        if u64::from(n) <= max + earned && n != u32::MAX {
            return Ok(());
        }
        hit!("limit: instructions");
        let mut m = format!("BPF program is too large. Processed {n} insn");
        if let Some(b) = &self.beyond {
            m += &format!(", nothing new in the last {}", n - b.progress);
        }
        Err(Box::new(Rejection::limit(E2BIG, m)))
    }

    /// The history says which iterator a call starts: an argument that a loop ends needs it.
    pub(crate) fn note_iter_started(&mut self, frame: u32, spi: usize) {
        if self.abstracts() {
            let stack = Some((frame as u8, spi as u8));
            self.push_hist(HistFlags { stack, ..HistFlags::default() }, Default::default());
        }
    }

    /// Something was found for the first time.
    fn earn(&mut self, insns: u64) {
        let now = self.stats.insns_processed;
        if let Some(b) = &mut self.beyond {
            b.earned += insns;
            b.progress = now;
        }
    }

    /// Before an instruction is checked.
    pub(super) fn note_insn(&mut self) {
        if self.beyond.is_none() {
            return;
        }
        let at = self.insn_idx;
        if !self.aux[at as usize].seen {
            self.earn(EARNED_BY_NEW);
        }
        if self.cur.speculative || !self.abstracts() {
            return;
        }
        let (dst, src) = match *self.insn(at) {
            Insn::Alu { op: AluOp::Add | AluOp::Sub, dst, src: Src::Reg(src), .. }
            | Insn::Jmp { dst, src: Src::Reg(src), .. } => (*self.r(dst), *self.r(src)),
            _ => return,
        };
        let known = |r: &crate::domain::reg::RegState| match r.is_scalar() {
            true => r.b,
            false => Bounds::UNKNOWN,
        };
        let (d, s) = (known(&dst), known(&src));
        let fresh =
            Seen { same: [Some(d), Some(s)], wide: (s.smin, s.smax), low: (s.s32_min, s.s32_max) };
        let Some(b) = &mut self.beyond else { return };
        let seen = b.seen.entry(at).or_insert(fresh);
        for (old, new) in seen.same.iter_mut().zip([d, s]) {
            *old = old.filter(|o| *o == new);
        }
        seen.wide = (seen.wide.0.min(s.smin), seen.wide.1.max(s.smax));
        seen.low = (seen.low.0.min(s.s32_min), seen.low.1.max(s.s32_max));
    }

    /// What a state that is kept now has besides.
    pub(super) fn begin_past(&self, past: Option<Past>) -> Option<Box<Past>> {
        self.beyond.as_ref()?;
        let began = self.stats.insns_processed;
        Some(Box::new(Past { began, ..past.unwrap_or_default() }))
    }

    /// Kept state `i` covers the current one.
    pub(super) fn note_cover(&mut self, i: u32) {
        if self.beyond.is_none() {
            return;
        }
        let k = &self.kept[i as usize];
        let cost = k.past.as_ref().filter(|_| k.hit_cnt <= EARNS_MAX).map_or(0, |p| p.cost);
        // An abstract walk is meant to be short: what it cannot do soon is left to the exact one.
        let cost = if self.abstracts() { 0 } else { cost.min(EARNED_BY_COVER_MAX) };
        if cost != 0 {
            hit!("beyond: earned by a cover");
        }
        self.earn(u64::from(cost));
        if self.abstracts() && !self.cur.speculative && self.in_loop(&self.cur) {
            let mut state = self.cur.clone();
            state.insn_idx = self.insn_idx;
            if let Some(b) = &mut self.beyond {
                b.edges.push(Edge { state, to: i });
            }
            self.state_bytes += EDGE_BYTES;
        }
    }

    /// All paths from kept state `i` ended.
    pub(super) fn note_finished(&mut self, i: u32) {
        let now = self.stats.insns_processed;
        if let Some(p) = &mut self.kept[i as usize].past {
            p.cost = now - p.began;
        }
    }

    /// One of the frames of a state is in a loop, or at a call that calls back again and again.
    pub(super) fn in_loop(&self, st: &VState) -> bool {
        let cfg = self.input.cfg;
        let cycles = |at: u32| cfg.scc[at as usize] != 0 || cfg.calls_callback[at as usize];
        (0..st.frames.len()).any(|f| cycles(st.frame_insn(f)))
    }

    /// After a refusal: generalises less where that may have been the reason. False when nothing
    /// on the way there was generalised.
    fn generalise_less(&self, levels: &mut BTreeMap<(u32, Loc), Level>) -> bool {
        let ancestors = || {
            let first = self.cur.parent;
            std::iter::successors(first, |i| self.kept[*i as usize].state.parent)
        };
        let endless = !self.endless().is_empty();
        let nodes: Vec<u32> = if endless { self.endless().to_vec() } else { ancestors().collect() };
        let widened = |i: &u32| {
            let k = &self.kept[*i as usize];
            let all = k.past.as_ref().map_or(&[][..], |p| &p.widened);
            all.iter().map(move |w| (k, *w))
        };
        let of = |k: &super::ver::Kept, w: &Widened| (k.state.insn_idx, w.loc);
        // What turned out to matter after it had been forgotten.
        let mattered = |k: &super::ver::Kept, w: &Widened| {
            w.level == Level::Free
                && (endless || widen::at(&k.state, w.loc).is_none_or(|r| r.precise))
        };
        let all: Vec<_> = nodes.iter().flat_map(widened).collect();
        let mut changed = false;
        for (k, w) in all.iter().filter(|(k, w)| mattered(k, w)) {
            levels.insert(of(k, w), Level::Thresholds);
            changed = true;
        }
        if changed {
            return true;
        }
        let nearest = nodes.iter().map(|i| widened(i).collect::<Vec<_>>()).find(|w| !w.is_empty());
        let blamed = if endless { all } else { nearest.unwrap_or_default() };
        for (k, w) in &blamed {
            levels.insert(of(k, w), w.level.less());
        }
        !blamed.is_empty()
    }
}
