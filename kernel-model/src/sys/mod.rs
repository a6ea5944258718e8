//! System calls of tasks, as far as programs can see them: tracepoints, the functions on the way
//! with their probes, LSM hooks whose verdicts hold, and what the call does.
//!
//! A call is a list of things to do (`Do`). What fails skips the rest, but for the returns of
//! the functions that were entered, as in the kernel.
//!
//! Sources: fs/open.c, fs/read_write.c, fs/exec.c, kernel/fork.c, kernel/signal.c, net/socket.c,
//! arch/*/entry/syscalls (numbers), Linux 6.18.

mod bpf;
mod calls;
mod lsm;
mod names;
mod sock;
mod sysctl;
mod table;
mod user;
mod vfs;

use std::collections::VecDeque;

use crate::cgroup::{Atype, Hook};
use crate::cpu::{CpuId, Flow, Frame, Input};
use crate::layout::PAGE_SIZE;
use crate::sched::{OpFrame, TaskId};
use crate::trace::{Then as After, TraceFrame};
use crate::{Errno, Kernel};

pub use lsm::LsmFrame;
pub(crate) use sock::{OptError, SOCK_DGRAM, TCP_SAVED_SYN};
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
    /// Programs may take the place of the function that was entered.
    Modify(&'static str, Vec<u64>),
    /// The innermost function returns.
    Exit,
    /// LSM programs decide.
    Lsm(&'static str, Vec<u64>),
    /// Programs of a control group decide.
    Cgroup(Box<CgroupCall>),
    /// What the kernel does.
    Act(Act),
    /// The same, by a path of its own; what that returns is as with programs.
    Call(fn(&mut Kernel, CpuId, &mut SysFrame) -> Result<Option<Frame>, Errno>),
    /// `mmap_write_unlock`, if the task has it.
    MmapUnlock,
    /// `sys_exit`, with the result.
    Leave,
    /// An object of the call is freed.
    Free(u64),
    /// The same, if the call has failed.
    Undo(u64),
}

type Act = fn(&mut Kernel, CpuId, &mut SysFrame) -> Result<u64, Errno>;

/// What is done with the value of programs, and with that of a path.
type Then = fn(&mut Kernel, CpuId, &mut SysFrame, u64) -> Result<u64, Errno>;

/// Programs of a control group at a hook of a call.
#[derive(Clone, Debug)]
struct CgroupCall {
    /// `struct cgroup`.
    cgroup: u64,
    atype: Atype,
    ctx: u64,
    /// What they begin with.
    retval: i32,
    hook: Hook,
    /// Without it, a value other than 0 is what the call returns.
    then: Option<Then>,
}

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
    /// It blocks before it goes on, until a time or, with `u64::MAX`, until it is woken.
    block: Option<u64>,
    /// What happens with the value that it waits for.
    then: Option<Then>,
    /// What programs put in the place of the caller's bytes.
    bytes: Option<Vec<u8>>,
    /// The context of the programs that ran last.
    ctx: u64,
    /// What a call of bpf(2) does when nobody refuses it.
    command: Option<Box<Frame>>,
}

impl SysFrame {
    /// Nothing to do so far.
    fn new(task: TaskId, row: usize, args: Vec<u64>) -> SysFrame {
        SysFrame {
            task,
            row,
            args,
            other: None,
            regs: 0,
            todo: VecDeque::new(),
            entered: Vec::new(),
            object: 0,
            ret: 0,
            block: None,
            then: None,
            bytes: None,
            ctx: 0,
            command: None,
        }
    }
}

impl Kernel {
    /// Begins a call of the running task.
    pub(crate) fn sys_begin(&mut self, task: TaskId, call: &SysCall) -> Result<Frame, Errno> {
        let frame = self.sys_frame(task, call)?;
        Ok(Frame::Op(Box::new(OpFrame::Sys(Box::new(frame)))))
    }

    fn sys_frame(&mut self, task: TaskId, call: &SysCall) -> Result<SysFrame, Errno> {
        let row = &SYSCALLS[call.row];
        let mut args = Vec::new();
        let (mut other, mut at, mut room) = (None, user::TEXT, user::BUFFERS);
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
                    self.task_room(task, room, *len)?;
                    let here = room;
                    room += len.next_multiple_of(PAGE_SIZE).max(PAGE_SIZE);
                    here
                }
                Arg::Task(id) => {
                    other = Some(*id);
                    self.task_pid(*id)
                }
            });
        }
        let number = u64::from(row.number(self.config.arch));
        let regs = self.syscall_regs(number, &args)?;
        let mut frame = SysFrame { other, regs, ..SysFrame::new(task, call.row, args) };
        frame.todo.extend([
            Do::Trace("sys_enter", vec![regs, number]),
            Do::Trace(row.enter, vec![regs, number]),
            Do::Enter(row.function, vec![regs]),
            Do::Act(row.body),
            Do::Exit,
            Do::Leave,
            Do::Free(regs),
        ]);
        Ok(frame)
    }

    /// What is left of `do_exit` of a task that has files.
    pub(crate) fn sys_exiting(task: TaskId) -> Frame {
        let mut frame = SysFrame::new(task, 0, Vec::new());
        frame.todo.extend(calls::exiting());
        Frame::Op(Box::new(OpFrame::Sys(Box::new(frame))))
    }

    pub(crate) fn sys_step(&mut self, cpu: CpuId, mut f: Box<SysFrame>, input: Input) -> Flow {
        let value = match input {
            Input::Return(v) => Some(v),
            Input::Aborted(_) => Some(Errno::EPERM.ret()),
            Input::Start | Input::Again => None,
        };
        match (value, f.then.take()) {
            (Some(v), Some(then)) => match then(self, cpu, &mut f, v) {
                Ok(ret) => f.ret = ret,
                Err(e) => f.fail(e.ret()),
            },
            // The verdict of LSM programs, or what ended a sleep.
            (Some(v), None) if v != 0 => f.fail(v),
            _ => {}
        }
        loop {
            if let Some(until) = f.block.take() {
                let task = f.task;
                if until != u64::MAX {
                    self.task_wake_at(task, until);
                }
                self.task_block(cpu, task, Frame::Op(Box::new(OpFrame::Sys(f))), true);
                return Flow::Done(0);
            }
            // What a step fires runs before the next one.
            if !self.cpus[cpu.idx()].fired.is_empty() {
                let items = std::mem::take(&mut self.cpus[cpu.idx()].fired);
                let child = Frame::Trace(Box::new(TraceFrame::new(items, After::Done(0))));
                return Flow::Call { frame: Frame::Op(Box::new(OpFrame::Sys(f))), child };
            }
            let Some(step) = f.todo.pop_front() else { return Flow::Done(f.ret) };
            if let Some(child) = self.sys_do(cpu, &mut f, step) {
                return Flow::Call { frame: Frame::Op(Box::new(OpFrame::Sys(f))), child };
            }
        }
    }

    /// One step; the path or the programs that it leads to.
    fn sys_do(&mut self, cpu: CpuId, f: &mut SysFrame, step: Do) -> Option<Frame> {
        match step {
            Do::Trace(name, args) => {
                self.fire(cpu, name, &args);
            }
            Do::Enter(name, args) => {
                if self.func_enter(cpu, name, &args) {
                    f.first([Do::Modify(name, args.clone())]);
                }
                f.entered.push((name, args));
            }
            Do::Modify(name, args) => return self.modify_return(name, &args),
            Do::Exit => {
                if let Some((name, args)) = f.entered.pop() {
                    self.func_exit(cpu, name, &args, f.ret);
                }
            }
            Do::Lsm(hook, args) => return self.lsm(cpu, hook, &args),
            Do::Cgroup(call) => {
                let on = (call.ctx, call.retval);
                let child = self.cgroup_run(call.cgroup, call.atype, on, call.hook)?;
                f.then = call.then;
                return Some(child);
            }
            Do::Call(path) => match path(self, cpu, f) {
                Ok(child) => return child,
                Err(e) => f.fail(e.ret()),
            },
            Do::Act(act) => match act(self, cpu, f) {
                Ok(ret) => f.ret = ret,
                Err(e) => f.fail(e.ret()),
            },
            Do::MmapUnlock => self.mmap_write_unlock(cpu, f.task),
            Do::Leave => {
                let args = [f.regs, f.ret];
                self.fire(cpu, SYSCALLS[f.row].exit, &args);
                self.fire(cpu, "sys_exit", &args);
            }
            Do::Free(at) | Do::Undo(at) => self.kfree(at, "system call"),
        }
        None
    }
}

impl SysFrame {
    /// The call returns an error: what was entered returns it, and what it made is freed.
    fn fail(&mut self, ret: u64) {
        self.ret = ret;
        let kept =
            |d: &Do| matches!(d, Do::Exit | Do::Leave | Do::Free(_) | Do::Undo(_) | Do::MmapUnlock);
        self.todo.retain(kept);
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
