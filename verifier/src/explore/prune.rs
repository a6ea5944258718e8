//! `is_state_visited`: where states are kept, compared and dropped, and how loops are told.

use bpf::insn::Insn;

use super::equal::{Exact, states_equal};
use super::ver::{Kept, R, Ver, no};
use crate::check::iter::depths_differ;
use crate::domain::reg::RegState;
use crate::domain::stack::StackSlot;
use crate::domain::state::VState;
use crate::reject::EINVAL;

/// `MAX_BACKEDGE_ITERS`.
const BACKEDGE_ITERS_MAX: u32 = 64;

impl Ver<'_> {
    /// `explored_state`: the bucket of this instruction and call site.
    fn bucket(&self) -> u32 {
        (self.insn_idx ^ self.cur.frame().callsite) % self.input.insns.len() as u32
    }

    /// `compute_scc_callchain`: the call sites down to the first frame that is in a loop.
    fn scc_chain(&self, s: &VState) -> Option<Vec<u32>> {
        let mut chain = Vec::new();
        for i in 0..s.frames.len() {
            let at = s.frame_insn(i);
            let scc = self.input.cfg.scc[at as usize];
            chain.push(if scc != 0 { scc } else { at });
            if scc != 0 {
                return Some(chain);
            }
        }
        None
    }

    /// `incomplete_read_marks`: precision of loop bodies is not final before the loop is left.
    fn incomplete_marks(&self, s: &VState) -> bool {
        let visit = self.scc_chain(s).and_then(|c| self.visits.get(&c));
        visit.is_some_and(|v| !v.backedges.is_empty())
    }

    /// `update_branch_counts`: the current path ended.
    pub(crate) fn update_branch_counts(&mut self) -> R {
        let mut at = self.cur.parent;
        while let Some(i) = at {
            let k = &mut self.kept[i as usize];
            k.branches -= 1;
            if k.branches != 0 {
                return Ok(());
            }
            at = k.state.parent;
            self.maybe_exit_scc(i)?;
        }
        Ok(())
    }

    /// `maybe_exit_scc` and `propagate_backedges`.
    fn maybe_exit_scc(&mut self, i: u32) -> R {
        let Some(chain) = self.scc_chain(&self.kept[i as usize].state) else { return Ok(()) };
        let Some(visit) = self.visits.get_mut(&chain).filter(|v| v.entry == Some(i)) else {
            return Ok(());
        };
        visit.entry = None;
        let mut edges = std::mem::take(&mut visit.backedges);
        let mut changed = true;
        let mut rounds = 0;
        while changed {
            rounds += 1;
            changed = false;
            for (state, equal) in &mut edges {
                if rounds > BACKEDGE_ITERS_MAX {
                    state.all_regs_mut().filter(|r| r.is_scalar()).for_each(|r| r.precise = true);
                    continue;
                }
                changed |= self.propagate_precision(*equal, Some(&*state))?;
            }
        }
        Ok(())
    }

    /// `clean_live_states`: forget what no path from a finished state reads.
    fn clean_states(&mut self, bucket: u32) {
        let list = self.explored.get(&bucket).cloned().unwrap_or_default();
        for i in list {
            let k = &self.kept[i as usize];
            let at_other = k.state.insn_idx != self.insn_idx || !self.same_callsites(&k.state);
            if k.branches != 0 || k.cleaned || at_other || self.incomplete_marks(&k.state) {
                continue;
            }
            let mut s = std::mem::replace(
                &mut self.kept[i as usize].state,
                VState { frames: Vec::new(), ..super::ver::blank_state() },
            );
            for f in 0..s.frames.len() {
                let live = self.input.cfg.live_regs_before[s.frame_insn(f) as usize];
                for (r, reg) in s.frames[f].regs[..10].iter_mut().enumerate() {
                    if live >> r & 1 == 0 {
                        *reg = RegState::NOT_INIT;
                    }
                }
                let alive = self.live_stack(&s, f);
                for (n, slot) in s.frames[f].stack.iter_mut().enumerate() {
                    if alive >> n & 1 == 0 {
                        *slot = StackSlot::INVALID;
                    }
                }
            }
            let k = &mut self.kept[i as usize];
            (k.state, k.cleaned) = (s, true);
        }
    }

    /// Stack slots of a frame that may still be read. Every slot counts as read: sound, and
    /// what differs from the kernel is the number of states only.
    fn live_stack(&self, _s: &VState, _frame: usize) -> u64 {
        u64::MAX
    }

    fn same_callsites(&self, s: &VState) -> bool {
        let sites = |s: &VState| s.frames.iter().map(|f| f.callsite).collect::<Vec<_>>();
        s.frames.len() == self.cur.frames.len() && sites(s) == sites(&self.cur)
    }

    /// Compares with one kept state at which paths are still open: a loop.
    fn loop_match(&mut self, i: u32) -> R<Option<bool>> {
        let at = self.insn_idx as usize;
        let old = &self.kept[i as usize].state;
        let cfg = self.input.cfg;
        let async_differs = old.frame().async_entry_cnt != self.cur.frame().async_entry_cnt;
        if async_differs {
            return Ok(None);
        }
        if cfg.iter_next[at] {
            let again = states_equal(self, old, &self.cur, Exact::RangeWithin);
            return Ok((again && self.iter_is_active()).then_some(true));
        }
        if matches!(self.input.insns[at], Insn::MayGoto { .. }) {
            let within = old.may_goto_depth != self.cur.may_goto_depth
                && states_equal(self, old, &self.cur, Exact::RangeWithin);
            if within {
                return Ok(Some(true));
            }
        }
        if cfg.calls_callback[at] {
            let within = states_equal(self, old, &self.cur, Exact::RangeWithin);
            return Ok(within.then_some(true));
        }
        let looping = old.may_goto_depth == self.cur.may_goto_depth
            && old.callback_unroll_depth == self.cur.callback_unroll_depth
            && states_maybe_looping(old, &self.cur)
            && states_equal(self, old, &self.cur, Exact::Exact)
            && !depths_differ(old, &self.cur);
        if looping {
            let frame = self.cur.curframe();
            let mut log = std::mem::take(&mut self.log);
            log.put(&format!("infinite loop detected at insn {at}\ncur state:"));
            log.state(&self.cur, frame, true, &self.names());
            log.put("old state:");
            log.state(&self.kept[i as usize].state, frame, true, &self.names());
            self.log = log;
            return no(EINVAL, format!("infinite loop detected at insn {at}"));
        }
        Ok(None)
    }

    /// The current state is covered by kept state `i`.
    fn hit(&mut self, i: u32, in_loop: bool) -> R {
        self.kept[i as usize].hit_cnt += 1;
        if self.input.cfg.jmp_point[self.insn_idx as usize] {
            self.push_hist(Default::default(), Default::default());
        }
        self.propagate_precision(i, None)?;
        if in_loop {
            let mut state = self.cur.clone();
            state.insn_idx = self.insn_idx;
            if let Some(c) = self.scc_chain(&self.kept[i as usize].state) {
                self.visits.entry(c).or_default().backedges.push((state, i));
            }
        }
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:is_state_visited
    pub(crate) fn is_state_visited(&mut self) -> R<bool> {
        let at = self.insn_idx as usize;
        let cfg = self.input.cfg;
        let opts = self.input.opts;
        let force = opts.test_state_freq || cfg.force_checkpoint[at] || self.cur.hist.len() > 40;
        let jmps = self.jmps_processed - self.prev_jmps;
        let insns = self.stats.insns_processed - self.prev_insns;
        let mut add = force || (jmps >= 2 && insns >= 8);
        let bucket = self.bucket();
        self.clean_states(bucket);
        let list = self.explored.get(&bucket).cloned().unwrap_or_default();
        for i in list.iter().rev().copied() {
            let k = &self.kept[i as usize];
            if k.state.insn_idx != self.insn_idx {
                continue;
            }
            if k.branches != 0 {
                if self.loop_match(i)?.is_some() {
                    self.hit(i, true)?;
                    return Ok(true);
                }
                if !force && jmps < 20 && insns < 100 {
                    add = false;
                }
            } else {
                let in_loop = self.incomplete_marks(&k.state);
                let exact = if in_loop { Exact::RangeWithin } else { Exact::NotExact };
                if states_equal(self, &k.state, &self.cur, exact) {
                    self.hit(i, in_loop)?;
                    return Ok(true);
                }
            }
            self.miss(i, bucket, add, cfg.force_checkpoint[at]);
        }
        let here = list.len() as u32;
        self.stats.max_states_per_insn = self.stats.max_states_per_insn.max(here);
        if add {
            self.keep(bucket);
        }
        Ok(false)
    }

    /// A state that misses too often is dropped.
    fn miss(&mut self, i: u32, bucket: u32, add: bool, checkpoint: bool) {
        let k = &mut self.kept[i as usize];
        if add {
            k.miss_cnt += 1;
        }
        let n = if checkpoint && k.branches > 0 { 64 } else { 3 };
        if k.miss_cnt > k.hit_cnt * n + n {
            self.explored.entry(bucket).or_default().retain(|x| *x != i);
            self.live_states -= 1;
        }
    }

    /// Keeps a copy of the current state.
    fn keep(&mut self, bucket: u32) {
        self.stats.total_states += 1;
        self.live_states += 1;
        self.stats.peak_states = self.stats.peak_states.max(self.live_states);
        self.prev_jmps = self.jmps_processed;
        self.prev_insns = self.stats.insns_processed;
        if self.capable() {
            let scalars = self.cur.all_regs_mut().filter(|r| r.is_scalar());
            scalars.for_each(|r| r.precise = false);
        }
        let mut state = self.cur.clone();
        state.insn_idx = self.insn_idx;
        let i = self.kept.len() as u32;
        if let Some(c) = self.scc_chain(&state) {
            let v = self.visits.entry(c).or_default();
            v.entry.get_or_insert(i);
        }
        let fresh = Kept { state, branches: 1, miss_cnt: 0, hit_cnt: 0, cleaned: false };
        self.kept.push(fresh);
        self.explored.entry(bucket).or_default().push(i);
        self.cur.parent = Some(i);
        self.cur.first_insn_idx = self.insn_idx;
        self.cur.hist.clear();
        self.cur_hist = None;
    }
}

/// `states_maybe_looping`: registers of the current frame are the same bit by bit.
fn states_maybe_looping(old: &VState, cur: &VState) -> bool {
    let same = |(o, c): (&RegState, &RegState)| {
        o.same_but_ids(c) && o.id == c.id && o.ref_obj_id == c.ref_obj_id
    };
    old.frames.len() == cur.frames.len() && old.frame().regs.iter().zip(&cur.frame().regs).all(same)
}
