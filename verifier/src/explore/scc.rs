//! Visits of loops: `struct bpf_scc_visit`. While a loop is being walked, precision of what its
//! states found is not final; paths that end in a state of the same loop are remembered as
//! back edges, and when the loop is left the marks are propagated over them until nothing
//! changes.

use std::collections::BTreeMap;

use super::ver::{R, Ver};
use crate::domain::state::{MAX_CALL_FRAMES, VState};
use crate::marks::hit;

/// `MAX_BACKEDGE_ITERS`.
const BACKEDGE_ITERS_MAX: u32 = 64;

/// `struct bpf_scc_callchain`: call sites down to the first frame that is in a loop, and the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SccChain {
    sites: [u32; MAX_CALL_FRAMES],
    scc: u32,
}

impl SccChain {
    /// `format_callchain`.
    fn text(&self) -> String {
        let sites = self.sites.iter().take_while(|s| **s != 0).map(|s| format!("{s},"));
        format!("({}{})", sites.collect::<String>(), self.scc)
    }
}

/// One way into a loop.
#[derive(Default)]
pub(super) struct Visit {
    entry: Option<u32>,
    /// States that were pruned by a state of the same loop, with that state; newest last.
    backedges: Vec<(VState, u32)>,
}

/// All visits of one exploration.
#[derive(Default)]
pub(crate) struct Visits {
    by_chain: BTreeMap<SccChain, Visit>,
    /// `num_backedges`.
    pub(super) backedges: u32,
}

impl Visits {
    /// Forgets the visits of the subprogram that was explored before.
    pub(super) fn clear(&mut self) {
        self.by_chain.clear();
    }
}

impl Ver<'_> {
    /// `compute_scc_callchain`.
    fn scc_chain(&self, s: &VState) -> Option<SccChain> {
        let mut c = SccChain { sites: [0; MAX_CALL_FRAMES], scc: 0 };
        let last = s.curframe();
        for i in 0..=last {
            let at = s.frame_insn(i);
            c.scc = self.input.cfg.scc[at as usize];
            if c.scc != 0 {
                return Some(c);
            }
            if i < last {
                c.sites[i] = at;
            }
        }
        None
    }

    fn log_scc(&mut self, what: &str, c: &SccChain) {
        if self.log.level2() {
            self.log.put(&format!("SCC {what} {}\n", c.text()));
        }
    }

    /// `incomplete_read_marks`.
    pub(super) fn incomplete_marks(&self, s: &VState) -> bool {
        if self.visits.backedges == 0 && self.visits.by_chain.is_empty() {
            return false;
        }
        let visit = self.scc_chain(s).and_then(|c| self.visits.by_chain.get(&c));
        visit.is_some_and(|v| !v.backedges.is_empty())
    }

    /// `maybe_enter_scc`: kept state `i` may be the first of a loop.
    pub(super) fn maybe_enter_scc(&mut self, i: u32) {
        let Some(c) = self.scc_chain(&self.kept[i as usize].state) else { return };
        let v = self.visits.by_chain.entry(c).or_default();
        if v.entry.is_none() {
            hit!("loop: entered");
            v.entry = Some(i);
            self.log_scc("enter", &c);
        }
    }

    /// `add_scc_backedge`: the current state is covered by kept state `i` of an open loop.
    pub(super) fn add_backedge(&mut self, i: u32) {
        let Some(c) = self.scc_chain(&self.kept[i as usize].state) else { return };
        hit!("loop: back edge");
        self.log_scc("backedge", &c);
        let mut state = self.cur.clone();
        state.insn_idx = self.insn_idx;
        self.visits.by_chain.entry(c).or_default().backedges.push((state, i));
        self.visits.backedges += 1;
        self.update_peak();
    }

    /// `maybe_exit_scc`: all paths from kept state `i` ended.
    pub(super) fn maybe_exit_scc(&mut self, i: u32) -> R {
        if self.visits.by_chain.is_empty() {
            return Ok(());
        }
        let Some(c) = self.scc_chain(&self.kept[i as usize].state) else { return Ok(()) };
        let Some(v) = self.visits.by_chain.get_mut(&c).filter(|v| v.entry == Some(i)) else {
            return Ok(());
        };
        v.entry = None;
        // They are looked at while they are there: other states of the loop are not final.
        self.visits.backedges -= v.backedges.len() as u32;
        let edges = std::mem::take(&mut v.backedges);
        if !edges.is_empty() {
            hit!("loop: left with back edges");
        }
        self.log_scc("exit", &c);
        self.update_peak();
        self.propagate_backedges(edges)
    }

    /// `propagate_backedges`, newest first.
    fn propagate_backedges(&mut self, mut edges: Vec<(VState, u32)>) -> R {
        let mut changed = true;
        let mut rounds = 0;
        while changed {
            rounds += 1;
            if rounds > BACKEDGE_ITERS_MAX {
                if self.log.level2() {
                    self.log.put("propagate_backedges: too many iterations\n");
                }
                edges.iter().for_each(|(st, _)| self.mark_all_precise(st.parent));
                break;
            }
            changed = false;
            for (state, equal) in edges.iter_mut().rev() {
                if self.propagate_precision(*equal, Some(state))? {
                    hit!("loop: precision over back edges changed");
                    changed = true;
                }
            }
        }
        Ok(())
    }
}
