//! Cancellation of program runs, and the watchdog that asks for it. No upstream kernel has it yet;
//! the design follows what was proposed there ("fast execute"): the program goes on to its own
//! exit, but
//!
//! ```text
//!  calls       clean-up runs, the rest is answered without being done (plan.rs)
//!  callbacks   bpf_loop and the like end when the one that runs returns
//!  iterators   _next gives NULL; counts of may_goto are 0
//!  back-edges  each is taken once more at most; then the run is unwound
//! ```
//!
//! Unwinding drops the frames of the run and gives back what the ledger holds, the last acquired
//! first, by the functions that a program would call. Either way the run returns the value that
//! stands for "nothing decided" in programs of its type, within a bound of instructions that is
//! known beforehand ([`bound`]).

pub mod bound;
mod damage;
pub mod lockup;
mod plan;

use std::collections::BTreeSet;

use bpf::insn::InsnIdx;
use bpf::uapi::ProgType;
use verifier::proto::RetRange;
use verifier::tables;

use crate::cpu::{CancelledBy, CpuId, Fault, FaultKind, Frame, Input, ProgFrame, Site, Step};
use crate::ledger::Kind;
use crate::stream::StreamId;
use crate::{EventKind, Kernel, ProgId};

pub(crate) use plan::Plan;

/// Limits of a program run, in virtual nanoseconds. Time during which another task had its CPU is
/// not its own and does not count, as for `RLIMIT_RTTIME` and unlike the 250 ms of a timed
/// `may_goto`, which the kernel takes from the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watchdog {
    /// The run is reported.
    pub soft_ns: u64,
    /// The run is cancelled.
    pub hard_ns: u64,
    /// Cancelled runs after which the program is detached.
    pub strikes: u32,
}

/// A limit that a run has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// To be reported.
    Soft,
    /// To be cancelled.
    Hard,
}

/// A run that is cancelled.
#[derive(Clone, Debug)]
pub struct Cancelled {
    /// Instructions of its own since.
    further: u64,
    /// How many more there may be.
    bound: u64,
    /// Heads of loops that were gone back to since.
    backs: BTreeSet<(ProgId, InsnIdx)>,
}

/// How a cancelled run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Program that was attached.
    pub prog: ProgId,
    /// Instructions after the request.
    pub further: u64,
    /// How many there might have been.
    pub bound: u64,
    /// By unwinding, not at its own exit.
    pub unwound: bool,
}

impl Kernel {
    /// Index of the frame that the run on top of a CPU began with.
    fn run_root(&self, cpu: CpuId) -> Option<usize> {
        let frames = &self.cpus[cpu.idx()].frames;
        let top = frames.iter().rposition(|f| matches!(f, Frame::Prog(_)))?;
        Some(root_of(frames, top))
    }

    fn root_frame(&self, cpu: CpuId) -> Option<&ProgFrame> {
        match &self.cpus[cpu.idx()].frames[self.run_root(cpu)?] {
            Frame::Prog(p) => Some(p),
            _ => None,
        }
    }

    fn root_frame_mut(&mut self, cpu: CpuId) -> Option<&mut ProgFrame> {
        let root = self.run_root(cpu)?;
        match &mut self.cpus[cpu.idx()].frames[root] {
            Frame::Prog(p) => Some(p),
            _ => None,
        }
    }

    /// Whether the run on top of a CPU is cancelled.
    #[must_use]
    pub fn is_cancelled(&self, cpu: CpuId) -> bool {
        let some = self.cpus[cpu.idx()].cancelling > 0;
        some && self.root_frame(cpu).is_some_and(|p| p.cancelled.is_some())
    }

    /// Limit that the run on top of a CPU has reached and that was not acted upon.
    #[must_use]
    pub fn watchdog_due(&self, cpu: CpuId) -> Option<Due> {
        let w = self.watchdog?;
        let p = self.root_frame(cpu).filter(|p| p.cancelled.is_none())?;
        let ran = self.now(cpu).saturating_sub(p.started_ns + p.away_ns);
        match ran {
            _ if ran >= w.hard_ns => Some(Due::Hard),
            _ if ran >= w.soft_ns && !p.warned => Some(Due::Soft),
            _ => None,
        }
    }

    /// Virtual time until the run on top of a CPU reaches its next limit.
    #[must_use]
    pub fn watchdog_left(&self, cpu: CpuId) -> u64 {
        let Some(w) = self.watchdog else { return u64::MAX };
        let Some(p) = self.root_frame(cpu).filter(|p| p.cancelled.is_none()) else {
            return u64::MAX;
        };
        let limit = if p.warned { w.hard_ns } else { w.soft_ns.min(w.hard_ns) };
        (p.started_ns + p.away_ns + limit).saturating_sub(self.now(cpu))
    }

    /// Acts upon a limit. `stack` is where the programs of the CPU are.
    pub fn watchdog_bites(&mut self, cpu: CpuId, due: Due, stack: &[Site]) {
        let Some(w) = self.watchdog else { return };
        let now = self.now(cpu);
        let Some(p) = self.root_frame_mut(cpu) else { return };
        let (prog, ran) = (p.entry.prog, now - p.started_ns - p.away_ns);
        p.warned = true;
        if due == Due::Soft {
            let text = format!("WATCHDOG: soft limit of {} ns reached after {ran} ns", w.soft_ns);
            self.stream_report(cpu, prog, &text, stack);
            return;
        }
        let text = format!("WATCHDOG: cancelled after {ran} ns, hard limit {} ns", w.hard_ns);
        let root = self.run_root(cpu).expect("found above");
        self.cancel_at(cpu, root, CancelledBy::Watchdog, &text, stack);
    }

    /// CPUs on which a program runs, be it interrupted, and is not cancelled.
    #[must_use]
    pub fn running(&self, prog: ProgId) -> Vec<CpuId> {
        let runs = |cpu: &CpuId| !self.runs_of(*cpu, prog).is_empty();
        (0..self.config.cpus).map(CpuId).filter(runs).collect()
    }

    /// Frames with which runs of a program that are not cancelled began.
    fn runs_of(&self, cpu: CpuId, prog: ProgId) -> Vec<usize> {
        let frames = &self.cpus[cpu.idx()].frames;
        let is = |n: &usize| match &frames[*n] {
            Frame::Prog(p) => {
                let its = p.prog == prog || p.entry.prog == prog;
                its && p.cancelled.is_none() && root_of(frames, *n) == *n
            }
            _ => false,
        };
        (0..frames.len()).filter(is).collect()
    }

    /// Cancels all runs of a program on a CPU. `stack` is where the programs of the CPU are.
    pub fn cancel(&mut self, cpu: CpuId, prog: ProgId, by: CancelledBy, stack: &[Site]) {
        for root in self.runs_of(cpu, prog) {
            self.cancel_at(cpu, root, by, "cancelled on request", stack);
        }
    }

    fn cancel_at(&mut self, cpu: CpuId, root: usize, by: CancelledBy, text: &str, stack: &[Site]) {
        let Frame::Prog(p) = &self.cpus[cpu.idx()].frames[root] else { return };
        let (prog, entry) = (p.prog, p.entry.prog);
        let bound = self.cancel_bound(prog);
        let cancelled = Cancelled { further: 0, bound, backs: BTreeSet::new() };
        if let Frame::Prog(p) = &mut self.cpus[cpu.idx()].frames[root] {
            p.cancelled = Some(Box::new(cancelled));
        }
        self.cpus[cpu.idx()].cancelling += 1;
        self.emit(cpu, EventKind::Cancelled { prog: entry, by });
        self.stream_report(cpu, entry, text, stack);
        self.strike(cpu, entry);
        self.wake(cpu);
    }

    /// One more run of a program was cancelled: there may have been enough of them.
    fn strike(&mut self, cpu: CpuId, prog: ProgId) {
        let Some(p) = self.progs.get_mut(&prog) else { return };
        p.strikes += 1;
        let strikes = p.strikes;
        if self.watchdog.is_some_and(|w| strikes == w.strikes) {
            self.prog_detach(prog);
            self.timers_disarm(prog);
            let text = format!("WATCHDOG: detached after {strikes} strikes\n");
            // A stream that is full has lost this, too.
            let _ = self.stream_print(cpu, prog, StreamId::Err, text.as_bytes());
        }
    }

    /// Most instructions that a run of a program goes on for after it was cancelled.
    #[must_use]
    pub fn cancel_bound(&self, prog: ProgId) -> u64 {
        let adds = |id: i32| self.vmlinux_btf().name(id.cast_unsigned()) == "bpf_rbtree_add_impl";
        self.progs.get(&prog).map_or(0, |p| bound::of(&p.verified, adds))
    }

    /// Instructions were retired: those of a run that is cancelled count.
    pub(crate) fn cancel_charge(&mut self, cpu: CpuId, insns: u64) {
        if self.cpus[cpu.idx()].cancelling > 0
            && let Some(c) = self.root_frame_mut(cpu).and_then(|p| p.cancelled.as_mut())
        {
            c.further += insns;
        }
    }

    /// A cancelled run went on in another program by a tail call.
    pub(crate) fn cancel_tail(&mut self, cpu: CpuId, to: ProgId) {
        if self.is_cancelled(cpu) {
            let more = self.cancel_bound(to);
            let root = self.root_frame_mut(cpu).and_then(|p| p.cancelled.as_mut());
            root.expect("it is cancelled").bound += more;
        }
    }

    /// A cancelled run took a back-edge: false when it is to be unwound.
    pub fn cancelled_goes_back(&mut self, cpu: CpuId, prog: ProgId, head: InsnIdx) -> bool {
        match self.root_frame_mut(cpu).and_then(|p| p.cancelled.as_mut()) {
            Some(c) => c.backs.insert((prog, head)),
            None => true,
        }
    }

    /// Ends the cancelled run on top where it is.
    pub fn cancel_unwind(&mut self, cpu: CpuId) -> Step {
        self.this_cpu = cpu;
        let fault = Fault::new(FaultKind::Cancelled("a loop without end".into()));
        let root = self.root_frame(cpu).expect("a run is cancelled").clone();
        let contexts = self.drop_run(cpu);
        let ret = self.value_of_nothing(root.prog);
        if !root.entry.callback {
            self.emit(cpu, EventKind::Exit { prog: root.prog, ret });
        }
        self.rcu_update(cpu);
        let c = &mut self.cpus[cpu.idx()];
        c.pending = (!c.frames.is_empty()).then_some(Input::Return(ret));
        Step::Abort { fault, contexts }
    }

    /// Drops the frames of the run on top and gives back what it holds; how many were programs.
    pub(crate) fn drop_run(&mut self, cpu: CpuId) -> u32 {
        let keep = self.run_root(cpu).unwrap_or(0);
        let mut contexts = 0;
        while self.cpus[cpu.idx()].frames.len() > keep {
            match self.cpus[cpu.idx()].frames.pop() {
                Some(Frame::Helper(h)) => self.helper_dropped(cpu, &h),
                Some(Frame::Lock(path)) => self.lock_dropped(cpu, &path),
                Some(Frame::Prog(p)) => {
                    contexts += 1;
                    self.run_over(cpu, &p, true);
                }
                _ => {}
            }
        }
        self.cpus[cpu.idx()].stand = None;
        self.give_back(cpu, keep + 1);
        contexts
    }

    /// Gives back what programs of a CPU acquired from a frame depth on, the last first.
    fn give_back(&mut self, cpu: CpuId, depth: usize) {
        for (kind, addr, held) in self.ledger.above(cpu, depth) {
            let done = match kind {
                Kind::Sock => {
                    self.sock_put(addr);
                    Ok(())
                }
                Kind::SpinLock => self.prog_unlock(cpu, addr),
                Kind::RingbufRecord => {
                    self.ring_commit(cpu, addr, true);
                    Ok(())
                }
                Kind::Object => {
                    self.ledger.release(kind, addr);
                    self.held_put(addr, held.what)
                }
                Kind::RcuRead | Kind::Preempt | Kind::Irq | Kind::Skb | Kind::Page => {
                    self.ledger.release(kind, addr);
                    Ok(())
                }
            };
            if let Err(fault) = done {
                self.emit(cpu, EventKind::Fault { prog: held.prog, fault });
            }
        }
    }

    /// A run is over; when it was cancelled, its figures are kept.
    pub(crate) fn run_over(&mut self, cpu: CpuId, root: &ProgFrame, unwound: bool) {
        if let Some(c) = &root.cancelled {
            let (prog, further, bound) = (root.entry.prog, c.further, c.bound);
            self.cpus[cpu.idx()].cancelling -= 1;
            self.cancelled.push(Ended { prog, further, bound, unwound });
        }
    }

    /// What a run that was cancelled returns: 0 (`XDP_ABORTED`, `TC_ACT_OK`), or the smallest that
    /// the verifier lets a program of this type return.
    #[must_use]
    pub fn value_of_nothing(&self, prog: ProgId) -> u64 {
        let Some(p) = self.progs.get(&prog) else { return 0 };
        match tables::return_range(p.verified.program()) {
            _ if p.prog_type() == ProgType::Xdp => 0,
            RetRange::Range { min, .. } if min > 0 => min.cast_unsigned().into(),
            RetRange::Range { .. } | RetRange::Any => 0,
        }
    }
}

/// Index of the frame that the run began with which the program frame at `at` belongs to: callbacks
/// stand on the helper that calls them.
fn root_of(frames: &[Frame], mut at: usize) -> usize {
    loop {
        let callback = matches!(&frames[at], Frame::Prog(p) if p.entry.callback);
        let caller = at.checked_sub(1).map(|n| &frames[n]);
        let called = matches!(caller, Some(Frame::Helper(_) | Frame::Lock(_) | Frame::Prog(_)));
        if !callback || !called {
            return at;
        }
        let below = frames[..at].iter().rposition(|f| matches!(f, Frame::Prog(_)));
        match below {
            Some(n) => at = n,
            None => return at,
        }
    }
}

#[cfg(test)]
mod tests;
