//! Signals with their default actions (kernel/signal.c): sent, pending, and taken when the task
//! is about to go on in user mode.

use super::{State, TaskId};
use crate::cpu::{CpuId, Frame};
use crate::{Errno, Kernel};

pub(super) const SIGKILL: u32 = 9;
pub(super) const SIGCHLD: u32 = 17;
/// `_NSIG`.
const SIGNALS: u32 = 64;
/// `SIG_KERNEL_IGNORE_MASK`: CHLD, CONT, URG, WINCH.
const IGNORED: u64 = bit(17) | bit(18) | bit(23) | bit(28);
/// `SIG_KERNEL_STOP_MASK`: STOP, TSTP, TTIN, TTOU.
const STOPS: u64 = bit(19) | bit(20) | bit(21) | bit(22);

/// What an interrupted sleep returns inside the kernel.
const ERESTART_RESTARTBLOCK: u64 = -516i64 as u64;

const fn bit(signal: u32) -> u64 {
    1 << (signal - 1)
}

impl Kernel {
    /// `do_send_sig_info`: 0 only asks whether the task is there.
    ///
    /// # Errors
    /// `EINVAL` for a number that is no signal's, `ESRCH` for a task that has ended.
    pub(crate) fn signal_send(&mut self, by: CpuId, id: TaskId, signal: u32) -> Result<(), Errno> {
        if signal > SIGNALS {
            return Err(Errno::EINVAL);
        }
        let task = self.sched.task_mut(id);
        if task.state == State::Dead {
            return Err(Errno::ESRCH);
        }
        if signal == 0 || bit(signal) & IGNORED != 0 {
            return Ok(());
        }
        task.pending |= bit(signal);
        let (state, cpu) = (task.state, task.cpu);
        match state {
            State::Blocked(interruptible) if interruptible || signal == SIGKILL => {
                self.wait_cancel(id);
                self.sched.task_mut(id).told = ERESTART_RESTARTBLOCK;
                self.task_wake(by, id);
            }
            State::New => self.task_wake(by, id),
            // signal_wake_up kicks who runs.
            _ => self.sched.rqs[cpu.idx()].tick = true,
        }
        Ok(())
    }

    /// `get_signal`: the lowest number first. The task goes on in another way: with a path, or it
    /// is dead.
    pub(super) fn signal_deliver(&mut self, cpu: CpuId, id: TaskId) -> Option<Option<Frame>> {
        let pending = std::mem::take(&mut self.sched.task_mut(id).pending);
        if pending == 0 {
            return None;
        }
        // KILL comes before all others.
        let first = pending.trailing_zeros() + 1;
        let signal = if pending & bit(SIGKILL) != 0 { SIGKILL } else { first };
        if bit(signal) & STOPS != 0 {
            self.emit(
                cpu,
                crate::EventKind::Fault {
                    prog: None,
                    fault: crate::Fault::unsupported(format!("stopping a task by signal {signal}")),
                },
            );
            return None;
        }
        Some(self.task_exit(cpu, id, u64::from(signal)))
    }

    /// Starts a task that waits to be started; others stay as they are.
    pub fn task_start(&mut self, id: TaskId, now: u64) {
        let task = self.sched.task(id);
        if task.state == State::New && task.timer_ns.is_none() {
            let cpu = task.cpu;
            self.raise_clock(cpu, now);
            self.task_wake(cpu, id);
        }
    }

    /// Sends SIGKILL to a task, from user space outside of the scenario's tasks.
    pub fn task_kill(&mut self, id: TaskId, now: u64) {
        let cpu = self.sched.task(id).cpu;
        self.raise_clock(cpu, now);
        // Of one that has ended there is nothing to end.
        let _ended = self.signal_send(cpu, id, SIGKILL);
    }
}
