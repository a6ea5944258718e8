//! `is_state_visited`: where states are kept, compared and dropped, and how loops are told.

use bpf::insn::Insn;

use super::beyond::Past;
use super::equal::{Exact, states_equal};
use super::ver::{Kept, NONE, R, Ver, no};
use crate::check::iter::depths_differ;
use crate::domain::reg::RegState;
use crate::domain::stack::StackSlot;
use crate::domain::state::{Callback, VState};
use crate::marks::hit;
use crate::reject::EINVAL;

/// `BPF_COMPLEXITY_LIMIT_STATES`: without `CAP_BPF` no more are kept at an instruction.
const STATES_MAX: u32 = 64;

/// What the comparison with one kept state says.
enum Match {
    /// It covers the current state; the flag says that it is in a loop not left yet.
    Hit(bool),
    Miss,
}

impl Ver<'_> {
    /// `explored_state`: the bucket of this instruction and call site.
    fn bucket_of(&self, insn_idx: u32) -> usize {
        (insn_idx ^ self.cur.frame().callsite) as usize % self.input.insns.len()
    }

    /// `update_peak_states`.
    pub(super) fn update_peak(&mut self) {
        let now = self.live_states + self.freed_states + self.visits.backedges;
        self.stats.peak_states = self.stats.peak_states.max(now);
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
            self.note_finished(i);
            self.maybe_exit_scc(i)?;
            self.maybe_free(i);
        }
        Ok(())
    }

    /// `maybe_free_verifier_state`: a state that was evicted goes when nothing refers to it.
    fn maybe_free(&mut self, i: u32) {
        let k = &self.kept[i as usize];
        // The proof that loops end needs all of them.
        let needed = self.abstracts();
        if !k.evicted || k.branches != 0 || needed || self.incomplete_marks(&k.state) {
            return;
        }
        let state = &mut self.kept[i as usize].state;
        hit!("prune: an evicted state is freed");
        state.frames = Vec::new();
        state.hist = Vec::new();
        self.state_bytes -= self.kept[i as usize].bytes;
        self.freed_states -= 1;
    }

    /// `clean_live_states`: forget what no path from a finished state reads.
    fn clean_states(&mut self, bucket: usize) {
        let mut i = self.explored[bucket];
        while i != NONE {
            let k = &self.kept[i as usize];
            let (at, next) = (i, k.next);
            i = next;
            let other = k.state.insn_idx != self.insn_idx || !same_callsites(&k.state, &self.cur);
            if k.branches != 0 || k.cleaned || other || self.incomplete_marks(&k.state) {
                continue;
            }
            hit!("prune: what is dead is forgotten");
            self.clean_state(at);
        }
    }

    /// `clean_verifier_state`.
    fn clean_state(&mut self, i: u32) {
        let cfg = self.input.cfg;
        let k = &mut self.kept[i as usize];
        let query = self.liveness.query(&k.state, cfg);
        k.cleaned = true;
        for f in 0..k.state.frames.len() {
            let live = cfg.live_regs_before[k.state.frame_insn(f) as usize];
            let alive = self.liveness.alive(&query, f, cfg);
            let frame = &mut k.state.frames[f];
            for (r, reg) in frame.regs[..10].iter_mut().enumerate() {
                if live >> r & 1 == 0 {
                    *reg = RegState::NOT_INIT;
                }
            }
            if frame.stack.iter().enumerate().any(|(n, _)| alive >> n & 1 == 0) {
                let dead = frame.stack.iter_mut().enumerate().filter(|(n, _)| alive >> n & 1 == 0);
                dead.for_each(|(_, slot)| *slot = StackSlot::INVALID);
            }
        }
    }

    /// `find_prev_entry`: the kept state of the last visit of an instruction by the loop that
    /// `cur` is in.
    pub(crate) fn find_prev_entry(&self, cur: &VState, insn_idx: u32) -> Option<u32> {
        let mut i = self.explored[self.bucket_of(insn_idx)];
        while i != NONE {
            let k = &self.kept[i as usize];
            let open = k.state.insn_idx == insn_idx && k.branches != 0;
            if open && same_callsites(&k.state, cur) && k.state.dfs_depth < cur.dfs_depth {
                return Some(i);
            }
            i = k.next;
        }
        None
    }

    /// Compares with one kept state at which paths are still open: a loop.
    fn loop_match(&mut self, i: u32) -> R<Match> {
        let at = self.insn_idx as usize;
        let old = &self.kept[i as usize].state;
        let cfg = self.input.cfg;
        let asynchronous = old.frame().callback == Callback::Async;
        if asynchronous && old.frame().async_entry_cnt != self.cur.frame().async_entry_cnt {
            return Ok(Match::Miss);
        }
        if self.abstracts() {
            // Whether the loop ends is seen when all of it is known.
            if states_equal(self, old, &self.cur, Exact::Covers) {
                hit!("beyond: covered in a loop");
                return Ok(Match::Hit(true));
            }
            return Ok(Match::Miss);
        }
        let within = || states_equal(self, old, &self.cur, Exact::RangeWithin);
        if cfg.iter_next[at] {
            if within() && self.iter_is_active() {
                hit!("prune: an iterator converges");
                return Ok(Match::Hit(true));
            }
            return Ok(Match::Miss);
        }
        if matches!(self.input.insns[at], Insn::MayGoto { .. })
            && old.may_goto_depth != self.cur.may_goto_depth
            && within()
        {
            hit!("prune: may_goto converges");
            return Ok(Match::Hit(true));
        }
        if cfg.calls_callback[at] {
            if within() {
                hit!("prune: a callback converges");
                return Ok(Match::Hit(true));
            }
            return Ok(Match::Miss);
        }
        let looping = states_maybe_looping(old, &self.cur)
            && states_equal(self, old, &self.cur, Exact::Exact)
            && !depths_differ(old, &self.cur)
            && old.may_goto_depth == self.cur.may_goto_depth
            && old.callback_unroll_depth == self.cur.callback_unroll_depth;
        if looping {
            return self.infinite_loop(i);
        }
        Ok(Match::Miss)
    }

    fn infinite_loop(&mut self, i: u32) -> R<Match> {
        hit!("prune: infinite loop");
        let (at, frame) = (self.insn_idx, self.cur.curframe());
        self.log_line_info(at);
        let mut log = std::mem::take(&mut self.log);
        log.put(&format!("infinite loop detected at insn {at}\ncur state:"));
        log.state(&self.cur, frame, true, &self.names());
        log.put("old state:");
        log.state(&self.kept[i as usize].state, frame, true, &self.names());
        self.log = log;
        self.log.refusal_said = true;
        no(EINVAL, format!("infinite loop detected at insn {at}"))
    }

    /// The current state is covered by kept state `i`.
    fn hit(&mut self, i: u32, in_loop: bool) -> R {
        self.kept[i as usize].hit_cnt += 1;
        if self.input.cfg.jmp_point[self.insn_idx as usize] {
            self.push_hist(Default::default(), Default::default());
        }
        self.note_cover(i);
        self.propagate_precision(i, None)?;
        if in_loop {
            self.add_backedge(i);
        }
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:is_state_visited
    pub(crate) fn is_state_visited(&mut self) -> R<bool> {
        let at = self.insn_idx as usize;
        let checkpoint = self.input.cfg.force_checkpoint[at] || self.at_loop_head();
        let force = self.input.opts.test_state_freq || checkpoint || self.cur.hist.len() > 40;
        let jmps = self.jmps_processed - self.prev_jmps;
        let insns = self.stats.insns_processed - self.prev_insns;
        let mut add = force || (jmps >= 2 && insns >= 8);
        let bucket = self.bucket_of(self.insn_idx);
        self.clean_states(bucket);
        let mut states = 0;
        let (mut before, mut i) = (NONE, self.explored[bucket]);
        while i != NONE {
            states += 1;
            let k = &self.kept[i as usize];
            let next = k.next;
            if k.state.insn_idx != self.insn_idx {
                (before, i) = (i, next);
                continue;
            }
            let found = if k.branches != 0 {
                let found = self.loop_match(i)?;
                if matches!(found, Match::Miss) && !force && jmps < 20 && insns < 100 {
                    hit!("prune: nothing is kept so soon in a loop");
                    add = false;
                }
                found
            } else {
                let in_loop = self.incomplete_marks(&k.state);
                let exact = match in_loop {
                    _ if self.abstracts() && self.in_loop(&k.state) => Exact::Covers,
                    true => Exact::RangeWithin,
                    false => Exact::NotExact,
                };
                if states_equal(self, &k.state, &self.cur, exact) {
                    match exact {
                        Exact::NotExact => hit!("prune: imprecise scalars match"),
                        Exact::RangeWithin => hit!("prune: in a loop all scalars are in range"),
                        Exact::Covers | Exact::Exact => {}
                    }
                    Match::Hit(in_loop)
                } else {
                    Match::Miss
                }
            };
            if let Match::Hit(in_loop) = found {
                self.hit(i, in_loop)?;
                return Ok(true);
            }
            if self.miss(i, add, checkpoint) {
                self.evict(bucket, before, i);
            } else {
                before = i;
            }
            i = next;
        }
        self.stats.max_states_per_insn = self.stats.max_states_per_insn.max(states);
        let past = if self.abstracts() { self.generalise(bucket) } else { None };
        add |= past.is_some();
        if add && (self.capable() || states <= STATES_MAX) {
            self.keep(bucket, past);
        } else if add {
            hit!("limit: states without CAP_BPF");
        }
        Ok(false)
    }

    /// Whether a state missed too often to be worth its comparisons.
    fn miss(&mut self, i: u32, add: bool, checkpoint: bool) -> bool {
        let abstracts = self.abstracts();
        let k = &mut self.kept[i as usize];
        k.miss_cnt += u32::from(add);
        let n = match () {
            () if checkpoint && k.branches > 0 => 64,
            () if abstracts => 16,
            () => 3,
        };
        k.miss_cnt > k.hit_cnt * n + n
    }

    /// Takes a state out of its list.
    fn evict(&mut self, bucket: usize, before: u32, i: u32) {
        let next = self.kept[i as usize].next;
        match before {
            NONE => self.explored[bucket] = next,
            b => self.kept[b as usize].next = next,
        }
        hit!("prune: a state that misses is evicted");
        self.kept[i as usize].evicted = true;
        self.live_states -= 1;
        self.freed_states += 1;
        self.maybe_free(i);
    }

    /// Keeps a copy of the current state.
    fn keep(&mut self, bucket: usize, past: Option<Past>) {
        self.stats.total_states += 1;
        self.live_states += 1;
        self.update_peak();
        self.prev_jmps = self.jmps_processed;
        self.prev_insns = self.stats.insns_processed;
        if self.capable() {
            self.cur.update_regs(|r| r.precise && r.is_scalar(), |r| r.precise = false);
        }
        let i = self.kept.len() as u32;
        let mut state = VState { hist: std::mem::take(&mut self.cur.hist), ..self.cur.clone() };
        state.insn_idx = self.insn_idx;
        let bytes = self.charge_state(&state);
        let next = std::mem::replace(&mut self.explored[bucket], i);
        let past = self.begin_past(past);
        self.kept.push(Kept { state, branches: 1, next, bytes, past, ..Kept::default() });
        self.maybe_enter_scc(i);
        self.cur.parent = Some(i);
        self.cur.dfs_depth += 1;
        self.cur.first_insn_idx = self.insn_idx;
        self.cur_hist = None;
    }
}

/// `same_callsites`.
pub(super) fn same_callsites(a: &VState, b: &VState) -> bool {
    a.frames.len() == b.frames.len()
        && a.frames.iter().zip(&b.frames).all(|(x, y)| x.callsite == y.callsite)
}

/// `states_maybe_looping`: registers of the current frame are the same bit by bit.
fn states_maybe_looping(old: &VState, cur: &VState) -> bool {
    let same = |(o, c): (&RegState, &RegState)| {
        o.same_but_ids(c) && o.id == c.id && o.ref_obj_id == c.ref_obj_id
    };
    old.frames.len() == cur.frames.len() && old.frame().regs.iter().zip(&cur.frame().regs).all(same)
}
