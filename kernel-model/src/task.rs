//! Tasks: the idle task of each CPU, and kernel threads that the model starts itself.

use crate::sched::CALLER_PID;
use crate::{Errno, Kernel, field};

/// `MAX_PRIO - 20`: a task of nice 0.
const DEFAULT_PRIO: u64 = 120;
/// `PF_KTHREAD`.
const PF_KTHREAD: u64 = 0x0020_0000;

impl Kernel {
    /// `init_idle`: `swapper/N` runs on each CPU until something else does.
    pub(crate) fn boot_tasks(&mut self) {
        for cpu in 0..self.config.cpus {
            let task = self.task_new(&format!("swapper/{cpu}"), 0, cpu);
            let task = task.expect("memory for idle tasks");
            self.cpus[cpu as usize].task = task;
            self.idle_tasks.push(task);
        }
    }

    /// A kernel thread with the credentials of root.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn task_new(&mut self, comm: &str, pid: u32, cpu: u32) -> Result<u64, Errno> {
        let task = self.kzalloc(crate::size!("task_struct"), "task_struct")?;
        let cred = self.kzalloc(crate::size!("cred"), "cred")?;
        self.set_bytes(task, field!("task_struct", "comm"), &comm.as_bytes()[..comm.len().min(15)]);
        let numbers = [
            (field!("task_struct", "pid"), u64::from(pid)),
            (field!("task_struct", "tgid"), pid.into()),
            (field!("task_struct", "thread_info.cpu"), cpu.into()),
            (field!("task_struct", "flags"), PF_KTHREAD),
            (field!("task_struct", "prio"), DEFAULT_PRIO),
            (field!("task_struct", "static_prio"), DEFAULT_PRIO),
            (field!("task_struct", "normal_prio"), DEFAULT_PRIO),
            (field!("task_struct", "usage"), 1),
            (field!("task_struct", "group_leader"), task),
            (field!("task_struct", "real_parent"), task),
            (field!("task_struct", "parent"), task),
            (field!("task_struct", "real_cred"), cred),
            (field!("task_struct", "cred"), cred),
            (field!("task_struct", "start_time"), self.config.clock_ns),
            (field!("task_struct", "start_boottime"), self.config.clock_ns),
        ];
        for (f, value) in numbers {
            self.set(task, f, value);
        }
        if pid != 0 {
            self.sched.procs.insert(pid, task);
        }
        Ok(task)
    }

    /// The next process id; 1 and 2 are init and kthreadd.
    pub(crate) fn pid_alloc(&mut self) -> u32 {
        self.last_pid += if self.last_pid + 1 == CALLER_PID { 2 } else { 1 };
        self.last_pid
    }

    /// Name of a task.
    #[must_use]
    pub fn task_comm(&self, task: u64) -> String {
        let at = task + u64::from(field!("task_struct", "comm").off);
        let bytes = self.mem.read_vec(at, 16).unwrap_or_default();
        let text = bytes.split(|b| *b == 0).next().unwrap_or_default();
        String::from_utf8_lossy(text).into_owned()
    }
}
