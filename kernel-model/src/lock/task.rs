//! Mutexes and semaphores of tasks: the order in which they are taken, and rings of tasks that
//! wait for each other for ever (what lockdep and the hung task detector tell in a kernel).

use std::sync::Arc;

use super::{DeadlockKind, Failure, Holding, LockId, Rules, Taking};
use crate::cpu::CpuId;
use crate::sched::{Mode, TaskId};
use crate::{Errno, Kernel};

/// A lock that a task has or wants.
pub(crate) fn sleeping(n: u32, taking: Arc<Taking>) -> Holding {
    Holding { lock: LockId::Sleeping(n), rules: Rules::Plain, taking }
}

impl Kernel {
    /// A task wants a lock.
    pub(crate) fn sleeping_wanted(&mut self, id: TaskId, n: u32, taking: Arc<Taking>) {
        let holding = self.sleeping_of(id);
        self.locks.graph.note(&holding, &sleeping(n, taking));
    }

    /// A task begins to wait for a lock. When an owner of it waits for one, and so on, back to a
    /// lock of this task, none of them will ever run.
    pub(crate) fn sleeping_blocked(&mut self, cpu: CpuId, id: TaskId, n: u32, mode: Mode) {
        let mut ring = vec![(id, n)];
        let Some(closed) = self.sleeping_ring(&mut ring) else { return };
        let kind = if ring.len() == 1 { DeadlockKind::Aa } else { DeadlockKind::Abba };
        let holding = Some(LockId::Sleeping(closed));
        let failure = Failure { errno: Errno::EDEADLK, kind, holding, other: None };
        let party = |(task, n): &(TaskId, u32)| {
            let taking =
                self.task_taking(*task, self.sleeping_mode(*task, *n).unwrap_or(mode).func());
            self.party_of(taking.cpu, Some(&sleeping(*n, taking)), &self.sleeping_of(*task))
        };
        let parties = ring.iter().map(party).collect();
        self.tell_deadlock(cpu, LockId::Sleeping(n), &failure, parties);
    }

    /// The lock of the first task of a ring that the last one waits for, over all its owners.
    fn sleeping_ring(&self, ring: &mut Vec<(TaskId, u32)>) -> Option<u32> {
        let (first, wanted) = (ring[0].0, ring.last().expect("it begins with one").1);
        for owner in self.sleeping_owners(wanted) {
            if owner == first {
                return Some(wanted);
            }
            // A ring of others is theirs.
            if ring.iter().any(|(task, _)| *task == owner) {
                continue;
            }
            let Some(next) = self.sleeping_waited(owner) else { continue };
            ring.push((owner, next));
            if let Some(closed) = self.sleeping_ring(ring) {
                return Some(closed);
            }
            ring.pop();
        }
        None
    }
}
