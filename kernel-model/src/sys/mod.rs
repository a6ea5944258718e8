//! System calls of tasks, as far as programs can see them: tracepoints, the functions on the way
//! with their probes, LSM hooks whose verdicts hold, and what the call does.
//!
//! A call is a list of things to do (`Do`). What fails skips the rest, but for the returns of
//! the functions that were entered, as in the kernel.
//!
//! Sources: fs/open.c, fs/read_write.c, fs/exec.c, kernel/fork.c, kernel/signal.c, net/socket.c,
//! arch/*/entry/syscalls (numbers), Linux 6.18.

mod calls;
mod lsm;
mod net;
mod table;
mod user;
mod vfs;

use std::collections::VecDeque;

use bpf::uapi::AttachType;

use crate::cpu::{CpuId, Flow, Frame, Input};
use crate::sched::{OpFrame, TaskId};
use crate::trace::{Then, TraceFrame};
use crate::{Errno, Kernel};

pub use lsm::LsmFrame;
pub use table::{Param, SYSCALLS, SysRow};
pub(crate) use vfs::Vfs;

/// An argument as a task gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arg {
    /// A number.
    Num(u64),
    /// Bytes that the task puts into its memory; the call gets their address.
    Bytes(Vec<u8>),
    /// A buffer of so many bytes in the task's memory.
    Room(u64),
    /// Another task of the scenario.
    Task(TaskId),
}

/// A call of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysCall {
    /// Which, in [`SYSCALLS`].
    pub row: usize,
    /// One for each parameter of the row.
    pub args: Vec<Arg>,
}

/// What a call does, step by step.
#[derive(Clone, Debug)]
enum Do {
    /// A tracepoint.
    Trace(&'static str, Vec<u64>),
    /// A function is entered.
    Enter(&'static str, Vec<u64>),
    /// The innermost function returns.
    Exit,
    /// LSM programs decide.
    Lsm(&'static str, Vec<u64>),
    /// Programs of the task's control group decide.
    Cgroup(AttachType, u64),
    /// What the kernel does.
    Act(Act),
    /// `sys_exit`, with the result.
    Leave,
    /// An object of the call is freed.
    Free(u64),
}

type Act = fn(&mut Kernel, CpuId, &mut SysFrame) -> Result<u64, Errno>;

/// A call in progress.
#[derive(Clone, Debug)]
pub struct SysFrame {
    task: TaskId,
    row: usize,
    /// Registers' values.
    args: Vec<u64>,
    /// The scenario's task that is meant, for calls that name one.
    other: Option<TaskId>,
    /// `pt_regs`.
    regs: u64,
    todo: VecDeque<Do>,
    /// Functions that have not returned.
    entered: Vec<(&'static str, Vec<u64>)>,
    /// The file or task that the call is about.
    object: u64,
    ret: u64,
    /// It blocks before it goes on.
    block: Option<u64>,
}

impl Kernel {
    /// Begins a call of the running task.
    pub(crate) fn sys_begin(&mut self, task: TaskId, call: &SysCall) -> Result<Frame, Errno> {
        let row = &SYSCALLS[call.row];
        let mut args = Vec::new();
        let (mut other, mut at) = (None, user::TEXT);
        for arg in &call.args {
            args.push(match arg {
                Arg::Num(n) => *n,
                Arg::Bytes(bytes) => {
                    self.task_write(task, at, bytes)?;
                    let here = at;
                    at += (bytes.len() as u64).next_multiple_of(16).max(16);
                    here
                }
                Arg::Room(len) => {
                    self.task_room(task, user::BUFFERS, *len)?;
                    user::BUFFERS
                }
                Arg::Task(id) => {
                    other = Some(*id);
                    self.task_pid(*id)
                }
            });
        }
        let number = u64::from(row.number(self.config.arch));
        let regs = self.syscall_regs(number, &args)?;
        let mut frame = SysFrame {
            task,
            row: call.row,
            args,
            other,
            regs,
            todo: VecDeque::new(),
            entered: Vec::new(),
            object: 0,
            ret: 0,
            block: None,
        };
        frame.todo.extend([
            Do::Trace("sys_enter", vec![regs, number]),
            Do::Trace(row.enter, vec![regs, number]),
            Do::Act(row.body),
            Do::Leave,
            Do::Free(regs),
        ]);
        Ok(Frame::Op(Box::new(OpFrame::Sys(Box::new(frame)))))
    }

    pub(crate) fn sys_step(&mut self, cpu: CpuId, mut f: Box<SysFrame>, input: Input) -> Flow {
        match input {
            // The verdict of LSM programs, or what ended a sleep.
            Input::Return(v) if v != 0 => f.fail(v),
            Input::Aborted(_) => f.fail(Errno::EPERM.ret()),
            _ => {}
        }
        loop {
            if let Some(until) = f.block.take() {
                let task = f.task;
                self.task_wake_at(task, until);
                self.task_block(cpu, task, Frame::Op(Box::new(OpFrame::Sys(f))), true);
                return Flow::Done(0);
            }
            // What a step fires runs before the next one.
            if !self.cpus[cpu.idx()].fired.is_empty() {
                let items = std::mem::take(&mut self.cpus[cpu.idx()].fired);
                let child = Frame::Trace(Box::new(TraceFrame::new(items, Then::Done(0))));
                return Flow::Call { frame: Frame::Op(Box::new(OpFrame::Sys(f))), child };
            }
            let Some(step) = f.todo.pop_front() else { return Flow::Done(f.ret) };
            match step {
                Do::Trace(name, args) => {
                    self.fire(cpu, name, &args);
                }
                Do::Enter(name, args) => {
                    self.func_enter(cpu, name, &args);
                    f.entered.push((name, args));
                }
                Do::Exit => {
                    if let Some((name, args)) = f.entered.pop() {
                        self.func_exit(cpu, name, &args, f.ret);
                    }
                }
                Do::Lsm(hook, args) => {
                    if let Some(child) = self.lsm(hook, &args) {
                        return Flow::Call { frame: Frame::Op(Box::new(OpFrame::Sys(f))), child };
                    }
                }
                Do::Cgroup(attach, ctx) => {
                    if let Some(child) = self.cgroup_run(cpu, attach, ctx) {
                        return Flow::Call { frame: Frame::Op(Box::new(OpFrame::Sys(f))), child };
                    }
                }
                Do::Act(act) => match act(self, cpu, &mut f) {
                    Ok(ret) => f.ret = ret,
                    Err(e) => f.fail(e.ret()),
                },
                Do::Leave => {
                    let args = [f.regs, f.ret];
                    self.fire(cpu, SYSCALLS[f.row].exit, &args);
                    self.fire(cpu, "sys_exit", &args);
                }
                Do::Free(at) => self.kfree(at, "system call"),
            }
        }
    }
}

impl SysFrame {
    /// The call returns an error: what was entered returns it, and what it made is freed.
    fn fail(&mut self, ret: u64) {
        self.ret = ret;
        self.todo.retain(|d| matches!(d, Do::Exit | Do::Leave | Do::Free(_)));
    }

    /// More to do, before what is left.
    fn first(&mut self, steps: impl IntoIterator<Item = Do, IntoIter: DoubleEndedIterator>) {
        steps.into_iter().rev().for_each(|s| self.todo.push_front(s));
    }

    /// An argument; 0 for one that the call does not have.
    fn arg(&self, n: usize) -> u64 {
        self.args.get(n).copied().unwrap_or(0)
    }

    /// Functions in progress, innermost first.
    pub(crate) fn functions(&self) -> impl Iterator<Item = &'static str> {
        self.entered.iter().rev().map(|e| e.0)
    }
}
