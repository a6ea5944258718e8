//! Locks that tasks sleep for: mutexes (kernel/locking/mutex.c) and reader-writer semaphores
//! (kernel/locking/rwsem.c).
//!
//! Who gives one back hands it to who is next, so that there is nothing to steal and nobody spins
//! for an owner that runs (`CONFIG_RWSEM_SPIN_ON_OWNER`): an order of the kernel's in which those
//! who wait get it, and the one that depends on nothing but when each came.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{State, TaskId};
use crate::context::Level;
use crate::cpu::CpuId;
use crate::lock::{
    Holding, LCB_F_MUTEX, LCB_F_READ, LCB_F_SPIN, LCB_F_WRITE, LockId, Taking, sleeping,
};
use crate::{Kernel, field};

/// `MAX_READERS_WAKEUP`.
const READERS_MAX: usize = 0x100;

/// How a lock is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A mutex.
    Mutex,
    /// A semaphore, with other readers.
    Read,
    /// A semaphore, alone.
    Write,
}

impl Mode {
    /// The kernel's function.
    pub(crate) const fn func(self) -> &'static str {
        match self {
            Mode::Mutex => "mutex_lock",
            Mode::Read => "down_read",
            Mode::Write => "down_write",
        }
    }

    /// What a task does.
    #[must_use]
    pub const fn verb(self) -> &'static str {
        match self {
            Mode::Mutex => "locks",
            Mode::Read => "reads under",
            Mode::Write => "writes under",
        }
    }
}

/// Who has a lock; a task of the scenario or of the kernel.
#[derive(Clone, Debug)]
struct Owner {
    task: Option<TaskId>,
    mode: Mode,
    /// Where it was taken.
    taking: Arc<Taking>,
}

/// A mutex or a semaphore.
#[derive(Clone, Debug, Default)]
pub(super) struct SleepLock {
    owners: Vec<Owner>,
    waiters: VecDeque<(TaskId, Mode)>,
}

impl SleepLock {
    /// Whether it can be taken so at once. A reader does not overtake a writer that waits.
    fn is_free(&self, mode: Mode) -> bool {
        match mode {
            Mode::Mutex | Mode::Write => self.owners.is_empty(),
            Mode::Read => {
                self.waiters.is_empty() && self.owners.iter().all(|o| o.mode == Mode::Read)
            }
        }
    }

    /// `rwsem_mark_wake`, `__mutex_unlock_slowpath`: who gets it next. With a reader come all
    /// readers, past the writers between them.
    fn next(&mut self) -> Vec<(TaskId, Mode)> {
        let mut taken = 0;
        let mut next = |mode: Mode, first: Mode| {
            let gets = if first == Mode::Read { mode == Mode::Read } else { taken == 0 };
            let gets = gets && taken < READERS_MAX;
            taken += usize::from(gets);
            gets
        };
        let Some((_, first)) = self.waiters.front().copied() else { return Vec::new() };
        let all = std::mem::take(&mut self.waiters);
        let (got, rest): (Vec<_>, Vec<_>) = all.into_iter().partition(|w| next(w.1, first));
        self.waiters = rest.into();
        got
    }

    /// A task waits no more.
    pub(super) fn leave(&mut self, id: TaskId) {
        self.waiters.retain(|w| w.0 != id);
    }
}

impl Kernel {
    /// A task takes a lock, or is the last of those that wait for it: then the caller sees to it
    /// that it sleeps.
    pub(crate) fn sleep_lock(&mut self, cpu: CpuId, id: TaskId, n: u32, mode: Mode) -> bool {
        let taking = self.task_taking(id, mode.func());
        self.sleeping_wanted(id, n, taking.clone());
        let lock = &mut self.sched.waits[n as usize].lock;
        if lock.is_free(mode) {
            lock.owners.push(Owner { task: Some(id), mode, taking });
            self.sched.task_mut(id).holds.push(n);
            return true;
        }
        lock.waiters.push_back((id, mode));
        self.sched.task_mut(id).waits = Some(n);
        self.sleeping_blocked(cpu, id, n, mode);
        false
    }

    /// What tracepoints are told of a task that begins to sleep for a lock.
    pub(crate) fn sleep_contended(&mut self, cpu: CpuId, n: u32, mode: Mode) {
        // __mutex_lock_common: it first tries to spin, which the model's owners are never worth.
        let told: &[u64] = match mode {
            Mode::Mutex => &[LCB_F_MUTEX | LCB_F_SPIN, LCB_F_MUTEX],
            Mode::Read => &[LCB_F_READ],
            Mode::Write => &[LCB_F_WRITE],
        };
        for flags in told {
            self.fire(cpu, "contention_begin", &[LockId::Sleeping(n).addr(), *flags]);
        }
    }

    /// What they are told when it goes on; whether anyone listens.
    pub(crate) fn sleep_over(&mut self, cpu: CpuId, id: TaskId) -> bool {
        match self.sched.task_mut(id).contended.take() {
            Some(n) => self.fire(cpu, "contention_end", &[LockId::Sleeping(n).addr(), 0]),
            None => false,
        }
    }

    /// `down_read_trylock` by what runs on a CPU.
    pub(crate) fn sleep_tryread(&mut self, cpu: CpuId, n: u32, func: &'static str) -> bool {
        let lock = &self.sched.waits[n as usize].lock;
        // `rwsem_read_trylock` fails for a writer, and for one that waits.
        if !lock.is_free(Mode::Read) {
            return false;
        }
        let (task, taking) = (self.curr_task(cpu), self.taking(cpu, func));
        let owner = Owner { task, mode: Mode::Read, taking };
        self.sched.waits[n as usize].lock.owners.push(owner);
        task.iter().for_each(|id| self.sched.task_mut(*id).holds.push(n));
        true
    }

    /// `mutex_unlock`, `up_read`, `up_write`. One that the task does not have is not released.
    pub(crate) fn sleep_unlock(&mut self, cpu: CpuId, id: Option<TaskId>, n: u32) {
        let lock = &mut self.sched.waits[n as usize].lock;
        let Some(at) = lock.owners.iter().rposition(|o| o.task == id) else { return };
        lock.owners.remove(at);
        if let Some(id) = id {
            let holds = &mut self.sched.task_mut(id).holds;
            if let Some(at) = holds.iter().rposition(|h| *h == n) {
                holds.remove(at);
            }
        }
        let lock = &mut self.sched.waits[n as usize].lock;
        if !lock.owners.is_empty() {
            return;
        }
        for (next, mode) in lock.next() {
            let taking = self.task_taking(next, mode.func());
            let owner = Owner { task: Some(next), mode, taking };
            self.sched.waits[n as usize].lock.owners.push(owner);
            let task = self.sched.task_mut(next);
            (task.waits, task.contended) = (None, Some(n));
            task.holds.push(n);
            self.task_wake(cpu, next);
        }
    }

    /// [`Kernel::sleep_lock`] of an operation.
    pub(super) fn op_lock(&mut self, cpu: CpuId, id: TaskId, n: u32, mode: Mode) {
        if !self.sleep_lock(cpu, id, n, mode) {
            self.deactivate(cpu, id, State::Blocked(true));
            self.sleep_contended(cpu, n, mode);
        }
    }

    /// The locks that a task has, in order.
    pub(crate) fn sleeping_of(&self, id: TaskId) -> Vec<Holding> {
        let holds = self.sched.task(id).holds.iter();
        holds.filter_map(|n| Some(sleeping(*n, self.owner(*n, id)?.taking.clone()))).collect()
    }

    fn owner(&self, n: u32, id: TaskId) -> Option<&Owner> {
        let owners = &self.sched.waits[n as usize].lock.owners;
        owners.iter().rfind(|o| o.task == Some(id))
    }

    /// Tasks that have a lock.
    pub(crate) fn sleeping_owners(&self, n: u32) -> impl Iterator<Item = TaskId> {
        self.sched.waits[n as usize].lock.owners.iter().filter_map(|o| o.task)
    }

    /// How a task wants a lock that it waits for.
    pub(crate) fn sleeping_mode(&self, id: TaskId, n: u32) -> Option<Mode> {
        let mut waiters = self.sched.waits[n as usize].lock.waiters.iter();
        waiters.find(|w| w.0 == id).map(|w| w.1)
    }

    /// The lock or event that a task waits for.
    pub(crate) fn sleeping_waited(&self, id: TaskId) -> Option<u32> {
        self.sched.task(id).waits
    }

    /// Who takes a lock now.
    pub(crate) fn task_taking(&self, id: TaskId, func: &'static str) -> Arc<Taking> {
        let task = self.sched.task(id);
        let pid = self.get(task.addr, field!("task_struct", "pid")) as u32;
        Arc::new(Taking {
            cpu: task.cpu,
            clock_ns: self.now(task.cpu),
            level: Level::Task,
            irqs_off: true,
            task: (pid, self.task_comm(task.addr)),
            func,
            stack: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock(owners: &[Mode], waiters: &[Mode]) -> SleepLock {
        let taking = Arc::new(Taking {
            cpu: CpuId(0),
            clock_ns: 0,
            level: Level::Task,
            irqs_off: true,
            task: (1, String::new()),
            func: "down_read",
            stack: Vec::new(),
        });
        let owner = |mode: &Mode| Owner { task: None, mode: *mode, taking: taking.clone() };
        let waiters = (0u32..).map(TaskId).zip(waiters.iter().copied()).collect();
        SleepLock { owners: owners.iter().map(owner).collect(), waiters }
    }

    #[test]
    fn readers_share_and_do_not_overtake_a_writer() {
        use Mode::{Read, Write};
        assert!(lock(&[Read, Read], &[]).is_free(Read));
        assert!(!lock(&[Read], &[Write]).is_free(Read));
        assert!(!lock(&[Read], &[]).is_free(Write) && !lock(&[Write], &[]).is_free(Read));
    }

    #[test]
    fn with_a_reader_come_all_readers_and_a_writer_alone() {
        use Mode::{Read, Write};
        let mut l = lock(&[], &[Read, Write, Read, Write]);
        assert_eq!(l.next(), [(TaskId(0), Read), (TaskId(2), Read)]);
        assert_eq!(l.next(), [(TaskId(1), Write)]);
        assert_eq!(l.next(), [(TaskId(3), Write)]);
        assert_eq!(l.next(), []);
    }
}
