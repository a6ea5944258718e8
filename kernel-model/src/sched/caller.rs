//! The process of user space that makes a scenario's own bpf(2) calls. It is under no scheduler:
//! while one of its test runs is on a CPU it is `current` there, between what the CPU's tasks do.

use super::INTERRUPTIBLE;
use crate::cpu::CpuId;
use crate::{Errno, Kernel, field};

/// Its number, which no other task gets.
pub(crate) const CALLER_PID: u32 = 1000;
/// Its name.
const COMM: &str = "orrery";

impl Kernel {
    /// `init`, made when there is a first process.
    pub(super) fn init_task(&mut self) -> Result<u64, Errno> {
        if self.sched.init == 0 {
            let init = self.user_task("init", 1, 0, 0)?;
            self.set(init, field!("task_struct", "__state"), INTERRUPTIBLE);
            self.sched.init = init;
        }
        Ok(self.sched.init)
    }

    /// The process, a child of `init` with the rights of root.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn caller(&mut self) -> Result<u64, Errno> {
        if self.sched.caller == 0 {
            let init = self.init_task()?;
            let task = self.user_task(COMM, CALLER_PID, 0, init)?;
            self.set(task, field!("task_struct", "__state"), 0);
            let mm = self.get(task, field!("task_struct", "mm"));
            self.mm_new(mm, &COMM.into());
            self.sched.caller = task;
        }
        Ok(self.sched.caller)
    }

    /// Whether it is `current` on a CPU.
    pub(crate) fn is_caller(&self, cpu: CpuId) -> bool {
        self.sched.caller != 0 && self.cpus[cpu.idx()].task == self.sched.caller
    }

    /// Makes a task `current` in a kernel path; who was it.
    pub(crate) fn set_current(&mut self, cpu: CpuId, task: u64) -> u64 {
        std::mem::replace(&mut self.cpus[cpu.idx()].task, task)
    }
}
