//! Locks: queued spin locks as a machine of single steps, the kernel paths that take them, and
//! what is known of who has which.
//!
//! ```text
//!  helper, kfunc ──free, nobody looks──► taken at once
//!        └──otherwise──► LockPath (a frame) ──► Acquire::step ──► word in guest memory
//! ```
//!
//! Reading order: word (what a lock is), queued (taking one), path (frames), task (what tasks
//! sleep for), names, report, graph (orders that could deadlock).

mod graph;
mod names;
pub mod path;
pub mod queued;
pub mod report;
mod task;
pub mod word;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use graph::{Danger, Edge, Order};
pub use queued::{DeadlockKind, Failure, HELD_MAX, Rules};
pub(crate) use task::sleeping;
pub use word::{LockId, Part};

use graph::Graph;
use queued::Queues;

use crate::context::Level;
use crate::cpu::{CpuId, Fault, Site};
use crate::helpers::Ret;
use crate::ledger::Kind;
use crate::maps::MapId;
use crate::{Errno, Kernel, field};
use path::Do;

/// `LCB_F_SPIN` and the others of include/trace/events/lock.h.
pub(crate) const LCB_F_SPIN: u64 = 1 << 0;
pub(crate) const LCB_F_READ: u64 = 1 << 1;
pub(crate) const LCB_F_WRITE: u64 = 1 << 2;
pub(crate) const LCB_F_MUTEX: u64 = 1 << 5;

/// Where and by whom a lock is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taking {
    /// CPU.
    pub cpu: CpuId,
    /// Virtual time.
    pub clock_ns: u64,
    /// Context.
    pub level: Level,
    /// Interrupts were off already.
    pub irqs_off: bool,
    /// Process id and name of the task.
    pub task: (u32, String),
    /// Helper or kernel function that the program called.
    pub func: &'static str,
    /// Call stack of the program, innermost first.
    pub stack: Vec<Site>,
}

/// A lock that a CPU has.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    pub(crate) lock: LockId,
    pub(crate) rules: Rules,
    pub(crate) taking: Arc<Taking>,
}

/// A lock that a CPU wants.
pub(crate) type Waiting = Holding;

/// The locks of a kernel.
#[derive(Clone, Debug)]
pub struct Locks {
    /// Words, waiters and held tables.
    pub queues: Queues,
    /// `CONFIG_QUEUED_SPINLOCKS`; without, resilient locks are test-and-set.
    pub queued_spinlocks: bool,
    /// What each CPU has, in order.
    pub(crate) holding: Vec<Vec<Holding>>,
    /// What each CPU wants; what was interrupted is below.
    pub(crate) waiting: Vec<Vec<Waiting>>,
    /// Elements that a CPU has taken from the list of an LRU map and not used yet.
    pub(crate) lru_free: BTreeMap<(MapId, CpuId), u32>,
    /// `bpf_task_storage_busy`.
    pub(crate) storage_busy: BTreeSet<CpuId>,
    pub(crate) graph: Arc<Graph>,
}

impl Locks {
    pub(crate) fn new(cpus: u32) -> Locks {
        let per_cpu = || vec![Vec::new(); cpus as usize];
        Locks {
            queues: Queues::new(cpus),
            queued_spinlocks: true,
            holding: per_cpu(),
            waiting: per_cpu(),
            lru_free: BTreeMap::new(),
            storage_busy: BTreeSet::new(),
            graph: Arc::default(),
        }
    }

    /// `res_spin_lock`.
    pub(crate) fn resilient(&self) -> Rules {
        if self.queued_spinlocks { Rules::Resilient } else { Rules::TestAndSet }
    }
}

impl Kernel {
    /// A program takes one of its own locks by a helper or kernel function, which may write the
    /// state of interrupts somewhere and turn them off.
    pub(crate) fn prog_lock(
        &mut self,
        cpu: CpuId,
        addr: u64,
        rules: Rules,
        (func, irqsave): (&'static str, Option<u64>),
    ) -> Ret {
        let lock = LockId::Word(addr);
        if !self.fine {
            match self.lock_at_once(cpu, lock, rules, (func, irqsave)) {
                Ok(true) => return Ret::Val(0),
                Ok(false) => {}
                Err(fault) => return Ret::Fault(fault),
            }
        }
        self.lock_path(cpu, func, [0; 5], [Do::Own { lock, rules, irqsave }])
    }

    /// The uncontended way, when nobody looks at its points.
    fn lock_at_once(
        &mut self,
        cpu: CpuId,
        lock: LockId,
        rules: Rules,
        (func, irqsave): (&'static str, Option<u64>),
    ) -> Result<bool, Fault> {
        if !self.locks.queues.try_fast(&mut self.mem, (cpu.0, lock), rules)? {
            return Ok(false);
        }
        let taking = self.taking(cpu, func);
        self.lock_wanted(cpu, Waiting { lock, rules, taking: taking.clone() });
        self.lock_got(cpu);
        self.own_taken(cpu, lock, rules, &taking);
        if let Some(flags) = irqsave {
            crate::kfuncs::irq_save(self, cpu, flags, func)?;
        }
        Ok(true)
    }

    /// A program gives a lock back, or it is taken from one that is cancelled.
    pub(crate) fn prog_unlock(&mut self, cpu: CpuId, addr: u64) -> Result<(), Fault> {
        self.ledger.release(Kind::SpinLock, addr);
        let lock = LockId::Word(addr);
        let held = self.locks.holding[cpu.idx()].iter().rev().find(|h| h.lock == lock);
        let Some(rules) = held.map(|h| h.rules) else { return Ok(()) };
        let c = &mut self.cpus[cpu.idx()];
        match rules {
            Rules::Plain => c.irq_off -= 1,
            Rules::Resilient | Rules::TestAndSet => c.preempt_off -= 1,
        }
        self.lock_given(cpu, lock, rules)
    }

    /// A lock is free again.
    pub(crate) fn lock_given(
        &mut self,
        cpu: CpuId,
        lock: LockId,
        rules: Rules,
    ) -> Result<(), Fault> {
        let holding = &mut self.locks.holding[cpu.idx()];
        if let Some(at) = holding.iter().rposition(|h| h.lock == lock) {
            holding.remove(at);
        }
        self.locks.queues.unlock(&mut self.mem, (cpu.0, lock), rules)?;
        for cpu in std::mem::take(&mut self.locks.queues.woken) {
            self.wake(CpuId(cpu));
        }
        Ok(())
    }

    /// A CPU begins to take a lock, whatever comes of it: the order of locks is noted.
    pub(crate) fn lock_wanted(&mut self, cpu: CpuId, wanted: Waiting) {
        let locks = &mut self.locks;
        locks.graph.note(&locks.holding[cpu.idx()], &wanted);
        locks.waiting[cpu.idx()].push(wanted);
    }

    /// It has the lock that it wanted last.
    pub(crate) fn lock_got(&mut self, cpu: CpuId) {
        let got = self.locks.waiting[cpu.idx()].pop().expect("a lock is wanted first");
        self.locks.holding[cpu.idx()].push(got);
    }

    /// Who takes a lock now.
    pub(crate) fn taking(&self, cpu: CpuId, func: &'static str) -> Arc<Taking> {
        let (context, c) = (self.context(cpu), &self.cpus[cpu.idx()]);
        let pid = self.get(c.task, field!("task_struct", "pid")) as u32;
        Arc::new(Taking {
            cpu,
            clock_ns: c.clock_ns,
            level: context.level,
            irqs_off: context.irqs_off,
            task: (pid, self.task_comm(c.task)),
            func,
            stack: c.call_stack.clone(),
        })
    }

    /// Which CPU has a lock.
    #[must_use]
    pub fn lock_holder(&self, lock: LockId) -> Option<CpuId> {
        let all = self.locks.holding.iter().flatten();
        all.filter(|h| h.lock == lock).map(|h| h.taking.cpu).next()
    }

    /// Whether the plain lock that a CPU wants leads back to it over plain locks that CPUs want:
    /// none of them will ever go on. Resilient locks break such a ring.
    fn plain_cycle(&self, cpu: CpuId) -> Option<Failure> {
        let wants = |c: CpuId| {
            let w = self.locks.waiting[c.idx()].last()?;
            (w.rules == Rules::Plain).then_some(w.lock)
        };
        let mut at = cpu;
        for _ in 0..self.cpus.len() {
            let wanted = wants(at)?;
            let holder = self.lock_holder(wanted)?;
            if holder == cpu {
                let kind = if at == cpu { DeadlockKind::Aa } else { DeadlockKind::Abba };
                let other = Some(at.0);
                return Some(Failure { errno: Errno::EDEADLK, kind, holding: Some(wanted), other });
            }
            at = holder;
        }
        None
    }

    /// CPUs that spin for a plain lock now: a run that ends so has hung.
    #[must_use]
    pub fn spinning(&self) -> Vec<(CpuId, LockId)> {
        let all = (0u32..).zip(&self.locks.waiting);
        let waits = all.filter_map(|(cpu, w)| Some((CpuId(cpu), w.last()?)));
        waits.filter(|(_, w)| w.rules == Rules::Plain).map(|(cpu, w)| (cpu, w.lock)).collect()
    }
}

#[cfg(test)]
mod tests;
