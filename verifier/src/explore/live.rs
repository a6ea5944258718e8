//! Liveness of stack slots: which slots of which frame an instruction or its successors may
//! read. Source: `kernel/bpf/liveness.c` of 6.18.
//!
//! Exploration leaves marks per call chain and instruction: slots that may be read (a union over
//! all visits) and slots that are surely written (an intersection). From them a data flow over
//! the subprogram gives `live_before`; what a callee does to the frames of its callers goes to
//! the call instruction in the caller's instance. A chain is told by the call sites that lead to
//! the subprogram: so a call that always writes a slot of its caller kills it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::cfg::Cfg;
use crate::domain::state::{MAX_CALL_FRAMES, VState};

/// `struct callchain`: a call site per frame, and the entry of the innermost subprogram.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Chain {
    sites: [u32; MAX_CALL_FRAMES],
    subprogs: [u32; MAX_CALL_FRAMES],
    depth: usize,
}

impl Chain {
    /// `compute_callchain` of the frames up to `depth`.
    fn of(st: &VState, depth: usize, cfg: &Cfg) -> Chain {
        let mut c = Chain { sites: [0; MAX_CALL_FRAMES], subprogs: [0; MAX_CALL_FRAMES], depth };
        for i in 0..=depth {
            c.subprogs[i] = st.frames[i].subprog;
            if i < depth {
                c.sites[i] = st.frames[i + 1].callsite;
            }
        }
        c.sites[depth] = cfg.subprogs[c.subprogs[depth] as usize].start.0;
        c
    }

    fn outer(mut self, cfg: &Cfg) -> Chain {
        (self.sites[self.depth], self.subprogs[self.depth]) = (0, 0);
        self.depth -= 1;
        self.sites[self.depth] = cfg.subprogs[self.subprogs[self.depth] as usize].start.0;
        self
    }

    /// `fmt_callchain`.
    fn text(&self) -> String {
        let sites: Vec<String> = self.sites[..=self.depth].iter().map(u32::to_string).collect();
        format!("({})", sites.join(","))
    }
}

/// `struct per_frame_masks`: bit n is slot n.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Masks {
    may_read: u64,
    must_write: u64,
    /// Surely written by the instruction or what follows in the subprogram.
    must_write_acc: u64,
    live_before: u64,
}

/// Masks of one frame, and the instructions whose equations may no longer hold: those that were
/// marked and those whose successors changed, by their place in post order.
#[derive(Debug)]
struct Frame {
    masks: Box<[Masks]>,
    stale: Box<[u64]>,
}

impl Frame {
    fn new(len: usize) -> Frame {
        Frame { masks: vec![Masks::default(); len].into(), stale: vec![0; len.div_ceil(64)].into() }
    }

    fn touch(&mut self, place: u32) {
        self.stale[place as usize / 64] |= 1 << (place % 64);
    }

    /// The next stale place at or after `from`; it is fresh from here on.
    fn take(&mut self, from: u32) -> Option<u32> {
        let mut word = from as usize / 64;
        let mut bits = *self.stale.get(word)? & (u64::MAX << (from % 64));
        while bits == 0 {
            word += 1;
            bits = *self.stale.get(word)?;
        }
        let place = word as u32 * 64 + bits.trailing_zeros();
        self.stale[word] &= !(1 << (place % 64));
        Some(place)
    }
}

/// `struct func_instance`.
#[derive(Debug)]
struct Instance {
    chain: Chain,
    start: u32,
    len: usize,
    updated: bool,
    dropped: bool,
    frames: [Option<Frame>; MAX_CALL_FRAMES],
    /// Instructions whose writes have been recorded once.
    write_set: Vec<bool>,
}

impl Instance {
    fn rel(&self, at: u32) -> usize {
        (at - self.start) as usize
    }

    fn frame(&mut self, frame: usize) -> &mut Frame {
        let len = self.len;
        self.frames[frame].get_or_insert_with(|| Frame::new(len))
    }

    fn get(&self, frame: usize, at: u32) -> Option<&Masks> {
        self.frames[frame].as_ref()?.masks.get(self.rel(at))
    }

    fn mark_read(&mut self, frame: usize, at: u32, mask: u64, cfg: &Cfg) {
        let i = self.rel(at);
        let f = self.frame(frame);
        let m = &mut f.masks[i];
        let new = m.may_read | mask;
        if new == m.may_read {
            return;
        }
        let news = new | m.live_before != m.live_before;
        m.may_read = new;
        f.touch(cfg.place[at as usize]);
        self.updated |= news;
    }

    /// `commit_stack_write_marks`.
    fn commit(&mut self, at: u32, written: &[u64; MAX_CALL_FRAMES], cfg: &Cfg) {
        let i = self.rel(at);
        let set = self.write_set[i];
        for (frame, &mask) in written.iter().enumerate().take(self.chain.depth + 1) {
            let untouched = self.frames[frame].as_ref().is_none_or(|f| f.masks[i].must_write == 0);
            if untouched && (mask == 0 || set) {
                continue;
            }
            let f = self.frame(frame);
            let old = f.masks[i].must_write;
            let new = if set { old & mask } else { mask };
            if old != new {
                f.masks[i].must_write = new;
                f.touch(cfg.place[at as usize]);
                self.updated = true;
                self.dropped |= old & !new != 0;
            }
        }
        self.write_set[i] = true;
    }
}

/// `struct bpf_liveness`.
#[derive(Debug, Default)]
pub(crate) struct Liveness {
    instances: Vec<Instance>,
    by_chain: BTreeMap<Chain, usize>,
    /// The instance of the current state, until its frames change.
    current: Option<usize>,
    written: [u64; MAX_CALL_FRAMES],
    at: u32,
    /// Bytes of all instances.
    pub(super) bytes: u64,
}

/// What the analysis is about.
pub(super) struct About<'a> {
    pub(super) cfg: &'a Cfg,
    /// Level 2: changes are printed.
    pub(super) verbose: bool,
}

/// Instances of a state's frames, innermost last: `struct live_stack_query`.
pub(super) struct Query {
    instances: Vec<usize>,
    insn_idx: u32,
}

impl Liveness {
    fn instance(&mut self, chain: Chain, cfg: &Cfg) -> usize {
        if let Some(i) = self.by_chain.get(&chain) {
            return *i;
        }
        let sub = &cfg.subprogs[chain.subprogs[chain.depth] as usize];
        let len = (sub.end.0 - sub.start.0) as usize;
        // Frames are allocated when they are marked; usually it is the innermost alone.
        self.bytes += (size_of::<Instance>() + len * (1 + size_of::<Masks>())) as u64;
        self.instances.push(Instance {
            chain,
            start: sub.start.0,
            len,
            updated: false,
            dropped: false,
            frames: Default::default(),
            write_set: vec![false; len],
        });
        let i = self.instances.len() - 1;
        self.by_chain.insert(chain, i);
        i
    }

    fn ensure_current(&mut self, st: &VState, cfg: &Cfg) -> usize {
        match self.current {
            Some(i) => i,
            None => {
                let i = self.instance(Chain::of(st, st.curframe(), cfg), cfg);
                self.current = Some(i);
                i
            }
        }
    }

    /// `bpf_reset_live_stack_callchain`: the frames of the current state changed.
    pub(crate) fn frames_changed(&mut self) {
        self.current = None;
    }

    /// `bpf_reset_stack_write_marks`.
    pub(super) fn begin(&mut self, st: &VState, at: u32, cfg: &Cfg) {
        self.ensure_current(st, cfg);
        self.at = at;
        self.written = [0; MAX_CALL_FRAMES];
    }

    /// `bpf_commit_stack_write_marks`.
    pub(crate) fn commit(&mut self, cfg: &Cfg) {
        if let Some(i) = self.current {
            self.instances[i].commit(self.at, &self.written, cfg);
        }
    }

    /// `bpf_mark_stack_read`.
    pub(super) fn read(&mut self, st: &VState, frame: usize, at: u32, mask: u64, cfg: &Cfg) {
        let i = self.ensure_current(st, cfg);
        self.instances[i].mark_read(frame, at, mask, cfg);
    }

    /// `bpf_mark_stack_write`.
    pub(super) fn write(&mut self, frame: usize, mask: u64) {
        self.written[frame] |= mask;
    }

    /// `bpf_update_live_stack`: everything the frames of a state left behind is propagated.
    pub(super) fn update(&mut self, st: &VState, a: &About<'_>, log: &mut String) {
        self.current = None;
        for frame in (0..=st.curframe()).rev() {
            let i = self.instance(Chain::of(st, frame, a.cfg), a.cfg);
            self.update_instance(i, a, log);
        }
    }

    /// `update_instance`.
    fn update_instance(&mut self, i: usize, a: &About<'_>, log: &mut String) {
        let inst = &mut self.instances[i];
        if !inst.updated {
            return;
        }
        if inst.dropped {
            for f in inst.frames.iter_mut().flatten() {
                f.masks.iter_mut().for_each(|m| m.must_write_acc = 0);
                f.stale.fill(u64::MAX);
            }
        }
        let sub = inst.chain.subprogs[inst.chain.depth] as usize;
        let order = a.cfg.postorder_start[sub] as usize..a.cfg.postorder_start[sub + 1] as usize;
        let order = &a.cfg.postorder[order];
        let mut rounds = 0;
        let mut changed = true;
        while changed {
            rounds += 1;
            changed = false;
            for frame in 0..=inst.chain.depth {
                let mut from = 0;
                while let Some(place) = inst.frames[frame].as_mut().and_then(|f| f.take(from)) {
                    let Some(at) = order.get(place as usize) else { break };
                    changed |= update_insn(inst, frame, at.0, a, log);
                    from = place + 1;
                }
            }
        }
        if a.verbose {
            let chain = inst.chain.text();
            let _ = writeln!(log, "{chain} live stack update done in {rounds} iterations");
        }
        if inst.chain.depth > 0 {
            self.propagate_to_outer(i, a.cfg);
        }
        (self.instances[i].updated, self.instances[i].dropped) = (false, false);
    }

    /// `propagate_propagate_to_outer_instance`.
    fn propagate_to_outer(&mut self, i: usize, cfg: &Cfg) {
        let (chain, start) = (self.instances[i].chain, self.instances[i].start);
        let outer = self.instance(chain.outer(cfg), cfg);
        let site = chain.sites[chain.depth - 1];
        let mut written = [0; MAX_CALL_FRAMES];
        for (frame, w) in written.iter_mut().enumerate().take(chain.depth) {
            let Some(m) = self.instances[i].get(frame, start).copied() else { continue };
            *w = m.must_write_acc;
            self.instances[outer].mark_read(frame, site, m.live_before, cfg);
        }
        self.instances[outer].commit(site, &written, cfg);
    }

    /// `bpf_live_stack_query_init`.
    pub(super) fn query(&mut self, st: &VState, cfg: &Cfg) -> Query {
        let chains = (0..=st.curframe()).map(|f| Chain::of(st, f, cfg));
        let instances = chains.map(|c| self.instance(c, cfg)).collect();
        Query { instances, insn_idx: st.insn_idx }
    }

    /// `bpf_stack_slot_alive` for all slots of a frame.
    pub(super) fn alive(&self, q: &Query, frame: usize, cfg: &Cfg) -> u64 {
        let before =
            |i: usize, at: u32| self.instances[i].get(frame, at).map_or(0, |m| m.live_before);
        let inner = *q.instances.last().expect("a state has frames");
        let mut alive = before(inner, q.insn_idx);
        let chain = &self.instances[inner].chain;
        for i in frame..q.instances.len() - 1 {
            let site = chain.sites[i];
            let at = if cfg.calls_callback[site as usize] { site } else { site + 1 };
            alive |= before(q.instances[i], at);
        }
        alive
    }
}

/// `update_insn`: one step of the data flow.
fn update_insn(
    inst: &mut Instance,
    frame: usize,
    at: u32,
    a: &About<'_>,
    log: &mut String,
) -> bool {
    let (mut after, mut acc, mut any) = (0, u64::MAX, false);
    for s in a.cfg.successors(at as usize) {
        let m = inst.get(frame, s as u32).copied().unwrap_or_default();
        after |= m.live_before;
        acc &= m.must_write_acc;
        any = true;
    }
    if !any {
        return false;
    }
    let Some(old) = inst.get(frame, at).copied() else { return false };
    let acc = acc | old.must_write;
    let before = (after & !old.must_write) | old.may_read;
    if a.verbose
        && (old.may_read != 0
            || old.must_write != 0
            || at == inst.start
            || a.cfg.prune_point[at as usize])
    {
        let place = format!("{} frame {frame} insn {at} ", inst.chain.text());
        log_change(log, &place, "live", old.live_before, before);
        log_change(log, &place, "written", old.must_write_acc, acc);
    }
    if before == old.live_before && acc == old.must_write_acc {
        return false;
    }
    let i = inst.rel(at);
    let f = inst.frame(frame);
    (f.masks[i].live_before, f.masks[i].must_write_acc) = (before, acc);
    for p in a.cfg.predecessors(at as usize) {
        f.touch(a.cfg.place[*p as usize]);
    }
    true
}

/// `log_mask_change`.
fn log_change(log: &mut String, place: &str, what: &str, old: u64, new: u64) {
    if old == new {
        return;
    }
    log.push_str(place);
    if new & !old != 0 {
        let _ = write!(log, "+{what} {} ", stack_mask(new & !old));
    }
    if old & !new != 0 {
        let _ = write!(log, "-{what} {}", stack_mask(old & !new));
    }
    log.push('\n');
}

/// `bpf_fmt_stack_mask`.
pub(super) fn stack_mask(mask: u64) -> String {
    let slots = (0..64).filter(|i| mask >> i & 1 == 1);
    slots.map(|i| format!("-{}", 8 * (i + 1))).collect::<Vec<_>>().join(",")
}
