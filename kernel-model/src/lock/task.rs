//! Mutexes of tasks: the order in which they are taken, and rings of tasks that wait for each
//! other for ever (what lockdep and the hung task detector tell in a kernel).

use std::sync::Arc;

use super::{DeadlockKind, Failure, Holding, LockId, Rules, Taking};
use crate::cpu::CpuId;
use crate::sched::TaskId;
use crate::{Errno, Kernel};

/// A mutex that someone has or wants.
pub(crate) fn mutex(n: u32, taking: Arc<Taking>) -> Holding {
    Holding { lock: LockId::Mutex(n), rules: Rules::Plain, taking }
}

impl Kernel {
    /// A task wants a mutex.
    pub(crate) fn mutex_wanted(&mut self, id: TaskId, n: u32) -> Arc<Taking> {
        let taking = self.mutex_taking(id);
        let holding = self.mutexes_of(id);
        self.locks.graph.note(&holding, &mutex(n, taking.clone()));
        taking
    }

    /// A task begins to wait for a mutex. When its owner waits for one, and so on, back to a
    /// mutex of this task, none of them will ever run.
    pub(crate) fn mutex_blocked(&mut self, cpu: CpuId, id: TaskId, n: u32) {
        let mut ring = vec![(id, n)];
        let closed = loop {
            let wanted = ring.last().expect("it begins with one").1;
            match self.mutex_owner(wanted) {
                Some(owner) if owner == id => break wanted,
                Some(owner) if ring.iter().all(|(task, _)| *task != owner) => {
                    let Some(next) = self.mutex_waited(owner) else { return };
                    ring.push((owner, next));
                }
                // Free, an event, or a ring of others.
                _ => return,
            }
        };
        let kind = if ring.len() == 1 { DeadlockKind::Aa } else { DeadlockKind::Abba };
        let holding = Some(LockId::Mutex(closed));
        let failure = Failure { errno: Errno::EDEADLK, kind, holding, other: None };
        let party = |(task, n): &(TaskId, u32)| {
            let taking = self.mutex_taking(*task);
            self.party_of(taking.cpu, Some(&mutex(*n, taking)), &self.mutexes_of(*task))
        };
        let parties = ring.iter().map(party).collect();
        self.tell_deadlock(cpu, LockId::Mutex(n), &failure, parties);
    }
}
