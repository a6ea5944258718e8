//! Tasks as a debugger shows them.

use std::sync::Arc;

use super::{Op, State, TaskId};
use crate::cpu::{CpuId, Frame};
use crate::{Kernel, ProgId, field};

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doing {
    /// It has not begun.
    New,
    /// It has a CPU.
    Running,
    /// It waits for a CPU since a virtual time.
    Ready(u64),
    /// The same, in the middle of a program.
    Preempted(u64, ProgId),
    /// It waits for something else; `true` when a signal ends that.
    Blocked(bool),
    /// It has ended.
    Dead,
}

/// A task of a scenario.
#[derive(Clone, Debug)]
pub struct TaskView<'a> {
    /// Process id.
    pub pid: u32,
    /// Name in the scenario.
    pub name: &'a Arc<str>,
    /// What it is doing.
    pub doing: Doing,
    /// CPU it runs on, or ran on last.
    pub cpu: CpuId,
    /// Virtual time that it had a CPU.
    pub ran_ns: u64,
    /// The operation of its script that it is in, and its number from 1.
    pub op: Option<(&'a Op, usize)>,
    /// Operations of the script.
    pub ops: usize,
    /// Event or mutex that it waits for.
    pub waits: Option<&'a str>,
    /// Until when it sleeps.
    pub until: Option<u64>,
}

impl Kernel {
    /// Tasks of the scenario, in the order of the file.
    #[must_use]
    pub fn task_views(&self) -> Vec<TaskView<'_>> {
        let tasks = (0u32..).zip(&self.sched.tasks);
        tasks
            .map(|(n, t)| {
                let id = TaskId(n);
                let running = self.curr_task(t.cpu) == Some(id);
                let prog = t.frames.iter().rev().find_map(|f| match f {
                    Frame::Prog(p) if t.is_preempted() => Some(p.prog),
                    _ => None,
                });
                let doing = match t.state {
                    State::New => Doing::New,
                    State::Runnable if running => Doing::Running,
                    State::Runnable => match prog {
                        Some(prog) => Doing::Preempted(t.ready_ns, prog),
                        None => Doing::Ready(t.ready_ns),
                    },
                    State::Blocked(signals) => Doing::Blocked(signals),
                    State::Dead => Doing::Dead,
                };
                let op = t.at.checked_sub(1).and_then(|n| Some((t.script.ops.get(n)?, t.at)));
                TaskView {
                    pid: self.task_pid(id) as u32,
                    name: &t.name,
                    doing,
                    cpu: t.cpu,
                    ran_ns: self.task_ran(id, self.now(t.cpu)),
                    op,
                    ops: t.script.ops.len(),
                    waits: t.waits.map(|n| self.sched.wait_name(n)),
                    until: t.timer_ns.map(|t| t.0),
                }
            })
            .collect()
    }

    /// Name of an event or mutex of the tasks.
    #[must_use]
    pub fn wait_name(&self, n: u32) -> &str {
        self.sched.wait_name(n)
    }

    /// Process id and name of the task that a CPU is in.
    #[must_use]
    pub fn cpu_task(&self, cpu: CpuId) -> (u32, String) {
        let task = self.cpus[cpu.idx()].task;
        (self.get(task, field!("task_struct", "pid")) as u32, self.task_comm(task))
    }
}
