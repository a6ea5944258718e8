//! What is said of a program that went beyond the kernel's limits.

use std::collections::BTreeMap;

use bpf::insn::Insn;

use super::super::ver::Ver;
use super::Loc;
use super::Place;
use crate::domain::reg::RegState;
use crate::domain::state::VState;

/// States looked at for each instruction that is reported.
const LOOKED_AT: usize = 500;
/// Instructions reported.
const REPORTED: usize = 5;

/// Why a loop ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoopEnd {
    /// A state of the loop is here.
    pub insn: u32,
    /// The register or stack slot that counts.
    pub counter: String,
    /// It counts down.
    pub down: bool,
    /// By at least this much on each trip.
    pub step: u64,
    /// So there are at most this many trips.
    pub trips: u64,
}

/// An instruction at which states multiply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Multiplying {
    /// The instruction.
    pub insn: u32,
    /// States kept there.
    pub states: u32,
    /// The branch that most of them came by.
    pub branch: Option<u32>,
    /// What differs between states that follow each other, and between how many; most first.
    pub differs: Vec<(String, u32)>,
}

/// What was done beyond the kernel's limits.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Report {
    /// Why the kernel gives up.
    pub kernel: String,
    /// Abstract walks.
    pub rounds: u32,
    /// None of them was enough: the program was walked exactly, with an earned budget.
    pub exact: bool,
    /// What the first abstract walk refused, and where: it may be so in the program, or only in
    /// what its states were generalised to.
    pub refused: Option<(u32, String)>,
    /// Instructions at the head of a loop where states were widened, and which scalars.
    pub widened: Vec<(u32, Vec<String>)>,
    /// Other instructions where states were joined.
    pub joined: Vec<(u32, Vec<String>)>,
    /// Why loops end, of those that a counter bounds.
    pub loops: Vec<LoopEnd>,
    /// Where states multiply, when that was the end.
    pub multiplying: Vec<Multiplying>,
}

impl Ver<'_> {
    /// Adds what a walk did to the report.
    pub(super) fn note_loops(&mut self, ends: Vec<LoopEnd>) {
        let (mut widened, mut joined): (BTreeMap<u32, Vec<Loc>>, BTreeMap<u32, Vec<Loc>>) =
            Default::default();
        let Some(b) = &mut self.beyond else { return };
        for k in &self.kept {
            let at = k.state.insn_idx;
            let all =
                if b.heads.get(at as usize) == Some(&true) { &mut widened } else { &mut joined };
            for w in k.past.iter().flat_map(|p| &p.widened) {
                all.entry(at).or_default().push(w.loc);
            }
        }
        let text = |all: BTreeMap<u32, Vec<Loc>>| {
            all.into_iter().map(|(at, mut locs)| {
                locs.sort_unstable();
                locs.dedup();
                (at, locs.iter().map(Loc::to_string).collect::<Vec<_>>())
            })
        };
        b.report.widened.extend(text(widened));
        b.report.joined.extend(text(joined));
        b.report.loops.extend(ends);
    }

    /// Where states multiply: the instructions with most of them.
    pub(super) fn multiplying(&self) -> Vec<Multiplying> {
        let mut by_insn: BTreeMap<u32, Vec<&VState>> = BTreeMap::new();
        for k in self.kept.iter().filter(|k| !k.state.frames.is_empty()) {
            by_insn.entry(k.state.insn_idx).or_default().push(&k.state);
        }
        let mut all: Vec<(u32, Vec<&VState>)> =
            by_insn.into_iter().filter(|(_, s)| s.len() > 1).collect();
        all.sort_by_key(|(at, s)| (std::cmp::Reverse(s.len()), *at));
        all.truncate(REPORTED);
        all.iter().map(|(at, states)| self.multiplying_at(*at, states)).collect()
    }

    fn multiplying_at(&self, insn: u32, states: &[&VState]) -> Multiplying {
        let newest = &states[states.len().saturating_sub(LOOKED_AT)..];
        let mut differs: BTreeMap<String, u32> = BTreeMap::new();
        for pair in newest.windows(2) {
            for what in self.differences(pair[0], pair[1]) {
                *differs.entry(what).or_default() += 1;
            }
        }
        let mut branches: BTreeMap<u32, u32> = BTreeMap::new();
        for st in newest {
            if let Some(at) = self.last_branch(st) {
                *branches.entry(at).or_default() += 1;
            }
        }
        let mut differs: Vec<(String, u32)> = differs.into_iter().collect();
        differs.sort_by_key(|(_, n)| std::cmp::Reverse(*n));
        let branch = branches.into_iter().max_by_key(|(_, n)| *n).map(|(at, _)| at);
        Multiplying { insn, states: states.len() as u32, branch, differs }
    }

    /// The conditional jump that a path took last.
    fn last_branch(&self, st: &VState) -> Option<u32> {
        let jumps = |at: &u32| {
            let insn = self.input.insns.get(*at as usize);
            matches!(insn, Some(Insn::Jmp { .. } | Insn::MayGoto { .. }))
        };
        let earlier = st.hist.iter().rev().map(|h| h.prev_idx);
        std::iter::once(st.last_insn_idx).chain(earlier).find(jumps)
    }

    /// Names of what is not the same in two states of one instruction.
    fn differences(&self, a: &VState, b: &VState) -> Vec<String> {
        if a.frames.len() != b.frames.len() {
            return vec!["the call chain".to_owned()];
        }
        let mut all = Vec::new();
        if a.held != b.held {
            all.push("references and locks held".to_owned());
        }
        let same = |x: &RegState, y: &RegState| x.same_but_ids(y);
        for (f, (x, y)) in a.frames.iter().zip(&b.frames).enumerate() {
            let live = self.input.cfg.live_regs_before[a.frame_insn(f) as usize];
            let name = |place| Loc { frame: f as u8, place }.to_string();
            if x.callsite != y.callsite {
                all.push("the call chain".to_owned());
            }
            for r in (0..10u8).filter(|r| live >> r & 1 == 1) {
                if !same(&x.regs[usize::from(r)], &y.regs[usize::from(r)]) {
                    all.push(name(Place::Reg(r)));
                }
            }
            for n in 0..x.stack.len().max(y.stack.len()) {
                let equal = match (x.stack.get(n), y.stack.get(n)) {
                    (Some(s), Some(t)) => {
                        s.types == t.types && (!s.is_spill() || same(&s.reg, &t.reg))
                    }
                    _ => false,
                };
                if !equal {
                    all.push(name(Place::Slot(n as u8)));
                }
            }
        }
        all
    }
}
