//! Reports of deadlocks: for the trace, for `orrery replay`, and for the stderr of the program
//! (`bpf_prog_report_rqspinlock_violation` in kernel/bpf/rqspinlock.c, 6.18).

use std::fmt::Write as _;
use std::sync::Arc;

use super::queued::{DeadlockKind, Failure};
use super::{Holding, LockId, Rules, Taking};
use crate::cpu::CpuId;
use crate::{Errno, EventKind, Kernel};

/// Locks of a CPU that a report shows, the last ones.
const HOLDS_SHOWN: usize = 8;

/// A lock and where it is or was taken, in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct At {
    /// Its name.
    pub lock: String,
    /// Who takes it.
    pub taking: Arc<Taking>,
    /// Call stack in the source, innermost first.
    pub lines: Vec<String>,
}

/// One CPU of a deadlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Party {
    /// CPU.
    pub cpu: CpuId,
    /// What it wants.
    pub wants: Option<At>,
    /// What it has, in order.
    pub holds: Vec<At>,
}

/// A deadlock: the CPU whose attempt was given up, then the others that are part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it was found.
    pub kind: DeadlockKind,
    /// The lock that was wanted.
    pub lock: String,
    /// What the lock function returns; `None` when it never would.
    pub errno: Option<Errno>,
    /// CPUs.
    pub parties: Vec<Party>,
}

/// What a CPU, context and task did, on one line.
pub(super) fn who(t: &Taking) -> String {
    let (pid, comm) = &t.task;
    format!("CPU {}, task {comm} (pid {pid}), {} context", t.cpu.0, t.level.name())
}

impl At {
    fn write(&self, out: &mut String, verb: &str) {
        let (t, lock) = (&self.taking, &self.lock);
        let _ = writeln!(out, "  {verb} {lock}: {} at {} ns, {}", t.func, t.clock_ns, who(t));
        for line in &self.lines {
            let _ = writeln!(out, "      {line}");
        }
    }
}

impl Party {
    fn write(&self, out: &mut String) {
        if let Some(at) = &self.wants {
            at.write(out, "wants");
        }
        let (all, shown) = (self.holds.len(), self.holds.iter().rev().take(HOLDS_SHOWN));
        shown.for_each(|at| at.write(out, "holds"));
        if all > HOLDS_SHOWN {
            let _ = writeln!(out, "  and {} more", all - HOLDS_SHOWN);
        }
    }
}

/// A line for each lock, and those of its call stack; nothing when there is none.
impl std::fmt::Display for Party {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(out.trim_end())
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = match self.kind {
            DeadlockKind::Timeout => format!("timeout on {}", self.lock),
            kind => format!("{} deadlock on {}", kind.name(), self.lock),
        };
        match self.errno {
            Some(errno) => writeln!(out, " ({errno})")?,
            None => writeln!(out, " (a hang)")?,
        }
        self.parties.iter().for_each(|p| p.write(&mut out));
        f.write_str(out.trim_end())
    }
}

impl Kernel {
    fn at(&self, h: &Holding) -> At {
        let (lock, taking) = (self.lock_name(h.lock), h.taking.clone());
        At { lock, lines: self.stack_lines(&taking.stack), taking }
    }

    /// The locks that a CPU has and the one that it waits for.
    #[must_use]
    pub fn lock_party(&self, cpu: CpuId) -> Party {
        let (wants, holds) = (&self.locks.waiting[cpu.idx()], &self.locks.holding[cpu.idx()]);
        self.party_of(cpu, wants.last(), holds)
    }

    pub(super) fn party_of(&self, cpu: CpuId, wants: Option<&Holding>, holds: &[Holding]) -> Party {
        let holds = holds.iter().map(|h| self.at(h)).collect();
        Party { cpu, wants: wants.map(|w| self.at(w)), holds }
    }

    /// An attempt failed: the trace and the program's stderr are told.
    pub(super) fn deadlocked(&mut self, cpu: CpuId, lock: LockId, f: &Failure, func: &'static str) {
        let mut parties = vec![self.lock_party(cpu)];
        // The other end, or whoever has what was waited for in vain.
        let other = f.other.map(CpuId).or_else(|| self.lock_holder(lock));
        parties.extend(other.filter(|o| *o != cpu).map(|o| self.lock_party(o)));
        self.tell_deadlock(cpu, lock, f, parties);
        if func.starts_with("bpf_res_spin_lock") {
            self.report_violation(cpu, lock, f.errno, func);
        }
    }

    /// The trace is told.
    pub(super) fn tell_deadlock(
        &mut self,
        cpu: CpuId,
        lock: LockId,
        f: &Failure,
        parties: Vec<Party>,
    ) {
        self.locks.graph.happened(lock, f.holding);
        // Who waits for a plain lock or a mutex is told nothing.
        let waits = self.locks.waiting[cpu.idx()].last();
        let returns = waits.is_some_and(|w| w.rules != Rules::Plain && w.lock == lock);
        let errno = returns.then_some(f.errno);
        let report = Report { kind: f.kind, lock: self.lock_name(lock), errno, parties };
        self.emit(
            cpu,
            EventKind::Deadlock {
                kind: f.kind,
                lock: report.lock.clone(),
                holding: f.holding.map(|l| self.lock_name(l)),
                report: Box::new(report),
            },
        );
    }

    fn report_violation(&mut self, cpu: CpuId, lock: LockId, errno: Errno, func: &str) {
        let waiting = self.locks.waiting[cpu.idx()].last();
        let stack = waiting.map(|w| w.taking.stack.clone()).unwrap_or_default();
        let prog = self.cpus[cpu.idx()].prog_frame().map(|p| p.entry.prog);
        let Some(prog) = stack.last().map(|s| s.prog).or(prog) else { return };
        let what = match errno {
            Errno::ETIMEDOUT => "Timeout detected",
            _ => "AA or ABBA deadlock detected",
        };
        let held = self.locks.queues.held(cpu.0);
        let mut text = format!("ERROR: {what} for {func}\n");
        let _ = writeln!(text, "Attempted lock   = {:#x}", lock.addr());
        let _ = write!(text, "Total held locks = {}", held.count());
        for (n, l) in held.entries().iter().enumerate() {
            let addr = l.map_or(0, LockId::addr);
            let _ = write!(text, "\nHeld lock[{n:2}] = {addr:#x}");
        }
        self.stream_report(cpu, prog, &text, &stack);
    }
}
