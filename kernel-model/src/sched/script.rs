//! What tasks do: the operations of a script, one after the other.

use std::sync::Arc;

use super::{MmapRead, Mode, OP_NS, State, TaskId};
use crate::cgroup::CgroupFrame;
use crate::cpu::{CpuId, Flow, Frame, Input};
use crate::maps::{CommandFrame, MapCommand};
use crate::sys::{LsmFrame, SysCall, SysFrame};
use crate::syscall::{SysError, UserSpace, Why};
use crate::{Errno, EventKind, Kernel, ProgId, field};
use bpf::uapi::Cmd;
use bpf::uapi::attr::TestRun as TestAttr;
use bpf::uapi::fields::Struct as _;

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Uses the CPU for so long.
    Run(u64),
    /// `clock_nanosleep` for so long.
    Sleep(u64),
    /// `sched_yield`.
    Yield,
    /// Waits until an event is signalled; one that was signalled when nobody waited is taken.
    Wait(u32),
    /// Signals an event: wakes all that wait for it.
    Wake(u32),
    /// Takes a mutex or semaphore; who waits for it gets it in turn.
    Lock(u32, Mode),
    /// Releases it.
    Unlock(u32),
    /// `sched_setaffinity` to one CPU.
    Migrate(u32),
    /// `exit_group`.
    Exit(i32),
    /// `BPF_PROG_TEST_RUN`.
    TestRun(TestArgs),
    /// A system call.
    Sys(SysCall),
    /// `BPF_MAP_UPDATE_ELEM` or `BPF_MAP_DELETE_ELEM`.
    Map(MapCommand),
    /// A function of the task's own program, by [`Kernel::user_function`], with its arguments.
    Call(usize, Vec<u64>),
    /// The same; it is in progress until it returns.
    Enter(usize, Vec<u64>),
    /// The function that was entered last returns a value.
    Return(u64),
}

/// A test run of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestArgs {
    /// Program.
    pub prog: ProgId,
    /// Its descriptor in the process.
    pub fd: i32,
    /// `data_in`.
    pub data: Vec<u8>,
    /// `ctx_in`.
    pub ctx: Vec<u8>,
}

/// The operations of one or more tasks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// In order.
    pub ops: Vec<Op>,
    /// How often they are done; `None` for ever.
    pub times: Option<u64>,
}

impl Script {
    /// Times after the first.
    pub(super) fn laps(&self) -> u64 {
        self.times.map_or(u64::MAX, |n| n.saturating_sub(1))
    }

    pub(super) fn progs(&self) -> impl Iterator<Item = ProgId> {
        self.ops.iter().filter_map(|op| match op {
            Op::TestRun(t) => Some(t.prog),
            _ => None,
        })
    }
}

/// A kernel path of the tasks.
#[derive(Clone, Debug)]
pub enum OpFrame {
    /// An operation: its task, which of the script's it is, and what it runs.
    Op(TaskId, usize, Option<Frame>),
    /// The timer on which a task sleeps.
    Wake(TaskId),
    /// A system call.
    Sys(Box<SysFrame>),
    /// A map command of user space.
    Map(Box<CommandFrame>),
    /// LSM programs.
    Lsm(LsmFrame),
    /// Programs of a control group.
    Cgroup(CgroupFrame),
    /// The work of an interrupt that gives an `mmap_lock` back.
    MmapUnlock(MmapRead),
}

impl OpFrame {
    /// The task whose operation it is, when it is one.
    pub(super) fn task(&self) -> Option<TaskId> {
        match self {
            OpFrame::Op(task, ..) => Some(*task),
            _ => None,
        }
    }

    /// Programs that it will run.
    pub(crate) fn progs(&self) -> Vec<ProgId> {
        match self {
            OpFrame::Lsm(f) => f.progs().collect(),
            OpFrame::Cgroup(f) => f.progs().collect(),
            OpFrame::Op(..)
            | OpFrame::Wake(_)
            | OpFrame::Sys(_)
            | OpFrame::Map(_)
            | OpFrame::MmapUnlock(_) => Vec::new(),
        }
    }

    /// Functions of the kernel in progress, innermost first.
    pub(crate) fn functions(&self) -> Vec<&'static str> {
        match self {
            OpFrame::Sys(f) => f.functions().collect(),
            OpFrame::Op(..)
            | OpFrame::Wake(_)
            | OpFrame::Map(_)
            | OpFrame::Lsm(_)
            | OpFrame::Cgroup(_)
            | OpFrame::MmapUnlock(_) => Vec::new(),
        }
    }
}

impl Kernel {
    /// The next operation of the task that runs. A kernel path is returned; the others are done.
    pub(super) fn next_op(&mut self, cpu: CpuId, id: TaskId) -> Option<Frame> {
        if self.sleep_over(cpu, id) {
            return None;
        }
        let task = self.sched.task_mut(id);
        let script = Arc::clone(&task.script);
        if task.at >= script.ops.len() {
            // A script without operations is done at once, however often it is repeated.
            if task.laps == 0 || script.ops.is_empty() {
                return self.task_exit(cpu, id, 0);
            }
            if script.times.is_some() {
                task.laps -= 1;
            }
            task.at = 0;
        }
        let at = task.at;
        (task.at, task.site) = (at + 1, at);
        self.op(cpu, id, at, &script.ops[at])
    }

    fn op(&mut self, cpu: CpuId, id: TaskId, at: usize, op: &Op) -> Option<Frame> {
        match op {
            Op::Run(ns) => self.sched.task_mut(id).run_left_ns = *ns,
            Op::Sleep(ns) => {
                let until = self.now(cpu) + (*ns).max(1);
                self.task_wake_at(id, until);
                self.deactivate(cpu, id, State::Blocked(true));
            }
            Op::Yield => {
                self.spend(cpu);
                self.sched_yield(cpu);
            }
            Op::Wait(n) => {
                self.spend(cpu);
                self.event_wait(cpu, id, *n);
            }
            Op::Wake(n) => {
                self.spend(cpu);
                self.event_wake(cpu, *n);
            }
            Op::Lock(n, mode) => {
                self.spend(cpu);
                self.op_lock(cpu, id, *n, *mode);
            }
            Op::Unlock(n) => {
                self.spend(cpu);
                self.sleep_unlock(cpu, Some(id), *n);
            }
            Op::Migrate(to) => {
                self.spend(cpu);
                self.task_migrate(cpu, id, CpuId(*to));
            }
            Op::Exit(code) => {
                return self.task_exit(cpu, id, u64::from((code & 0xff).unsigned_abs()) << 8);
            }
            Op::TestRun(args) => match self.task_test_run(id, args) {
                Ok(child) => {
                    return Some(Frame::Op(Box::new(OpFrame::Op(id, at, Some(child)))));
                }
                Err(e) => self.op_failed(cpu, id, at, &e),
            },
            Op::Call(function, args) => {
                self.user_enter(cpu, *function, args);
                self.user_return(cpu, *function, 0);
                self.spend(cpu);
            }
            Op::Enter(function, args) => {
                self.sched.task_mut(id).calls.push((*function, at));
                self.user_enter(cpu, *function, args);
                self.spend(cpu);
            }
            Op::Return(value) => self.op_return(cpu, id, *value),
            Op::Map(command) => match self.task_command(id, command) {
                Ok(child) => {
                    return Some(Frame::Op(Box::new(OpFrame::Op(id, at, Some(child)))));
                }
                Err(e) => self.op_failed(cpu, id, at, &e.into()),
            },
            Op::Sys(call) => match self.sys_begin(id, call) {
                Ok(child) => {
                    return Some(Frame::Op(Box::new(OpFrame::Op(id, at, Some(child)))));
                }
                Err(e) => self.op_failed(cpu, id, at, &e.into()),
            },
        }
        None
    }

    /// The user function that was entered last returns to where it was called.
    fn op_return(&mut self, cpu: CpuId, id: TaskId, value: u64) {
        let task = self.sched.task_mut(id);
        if let Some((function, from)) = task.calls.pop() {
            task.site = from;
            self.user_return(cpu, function, value);
        }
        self.spend(cpu);
    }

    /// The task's own instructions around an operation.
    fn spend(&mut self, cpu: CpuId) {
        self.cpus[cpu.idx()].clock_ns += OP_NS;
    }

    /// A refusal of bpf(2) is what the operation returns; what is not modelled ends the run.
    fn op_failed(&mut self, cpu: CpuId, id: TaskId, op: usize, e: &SysError) {
        if let Why::Unsupported(what) = &e.why {
            let fault = crate::Fault::unsupported(what.clone());
            self.emit(cpu, EventKind::Fault { prog: None, fault });
        }
        self.op_returned(cpu, id, op, Some(e.errno.ret()));
        self.spend(cpu);
    }

    fn op_returned(&mut self, cpu: CpuId, id: TaskId, op: usize, ret: Option<u64>) {
        let task = Arc::clone(&self.sched.task(id).name);
        self.emit(cpu, EventKind::Op { task, op: op as u32, ret });
    }

    /// bpf(2) of an element.
    fn task_command(&mut self, id: TaskId, command: &MapCommand) -> Result<Frame, Errno> {
        let run = Kernel::map_command(command.clone());
        self.sys_bpf(id, |k| k.element_attr(id, command), run)
    }

    fn task_test_run(&mut self, id: TaskId, args: &TestArgs) -> Result<Frame, SysError> {
        let endian = self.mem.endian();
        let mut user = UserSpace::new();
        let attr = TestAttr {
            prog_fd: args.fd.cast_unsigned(),
            data_size_in: args.data.len() as u32,
            data_in: if args.data.is_empty() { 0 } else { user.put(&args.data) },
            ctx_size_in: args.ctx.len() as u32,
            ctx_in: if args.ctx.is_empty() { 0 } else { user.put(&args.ctx) },
            ..TestAttr::default()
        };
        let attr = attr.encode(endian);
        let run = self.test_run_of_task(&attr, &user)?;
        Ok(self.sys_bpf(id, |_| Ok((Cmd::ProgTestRun, attr.to_vec())), run)?)
    }

    /// A kernel path of an operation.
    pub(crate) fn op_step(&mut self, cpu: CpuId, frame: OpFrame, input: Input) -> Flow {
        let (task, op) = match frame {
            OpFrame::Op(task, op, Some(child)) => {
                let frame = Frame::Op(Box::new(OpFrame::Op(task, op, None)));
                return Flow::Call { frame, child };
            }
            OpFrame::Op(task, op, None) => (task, op),
            OpFrame::Wake(id) => {
                self.task_wake(cpu, id);
                return Flow::Done(0);
            }
            OpFrame::MmapUnlock(read) => {
                self.mmap_read_unlock(cpu, &read);
                return Flow::Done(0);
            }
            OpFrame::Sys(f) => return self.sys_step(cpu, f, input),
            OpFrame::Map(f) => return self.command_step(cpu, f, input),
            OpFrame::Lsm(f) => return self.lsm_step(cpu, f, input),
            OpFrame::Cgroup(f) => return self.cgroup_step(cpu, f, input),
        };
        let ret = match input {
            // The value of a test run whose program was cancelled.
            Input::Return(crate::syscall::test_run::CANCELLED) => None,
            Input::Return(v) => Some(v),
            _ => None,
        };
        self.op_returned(cpu, task, op, ret);
        self.spend(cpu);
        Flow::Done(0)
    }

    fn sched_yield(&mut self, cpu: CpuId) {
        let rq = &mut self.sched.rqs[cpu.idx()];
        rq.queue.give_up();
        rq.resched = rq.queue.waiting() > 0;
    }

    fn event_wait(&mut self, cpu: CpuId, id: TaskId, n: u32) {
        let event = &mut self.sched.waits[n as usize];
        if std::mem::take(&mut event.set) {
            return;
        }
        event.waiters.push_back(id);
        self.sched.task_mut(id).waits = Some(n);
        self.deactivate(cpu, id, State::Blocked(true));
    }

    fn event_wake(&mut self, cpu: CpuId, n: u32) {
        let event = &mut self.sched.waits[n as usize];
        let waiters = std::mem::take(&mut event.waiters);
        event.set = waiters.is_empty();
        for id in waiters {
            self.sched.task_mut(id).waits = None;
            self.task_wake(cpu, id);
        }
    }

    /// The task waits no more, whatever for.
    pub(super) fn wait_cancel(&mut self, id: TaskId) {
        if let Some(n) = self.sched.task_mut(id).waits.take() {
            let queue = &mut self.sched.waits[n as usize];
            queue.waiters.retain(|w| *w != id);
            queue.lock.leave(id);
        }
    }

    /// `set_cpus_allowed_ptr`: a task that runs elsewhere moves at once.
    fn task_migrate(&mut self, cpu: CpuId, id: TaskId, to: CpuId) {
        self.sched.task_mut(id).allowed = vec![to.0];
        let addr = self.sched.task(id).addr;
        let mask = field!("task_struct", "cpus_mask");
        self.set_bytes(addr, mask, &[]);
        let nice = self.get(addr, field!("task_struct", "static_prio")) as i32 - 120;
        self.task_placement(addr, nice, &[to.0]);
        if to == cpu {
            return;
        }
        self.deactivate(cpu, id, State::Runnable);
        self.sched.task_mut(id).moving = Some(to);
    }

    /// `do_exit`: the parent is not told, nobody waits for it. The path of a task that has files.
    pub(super) fn task_exit(&mut self, cpu: CpuId, id: TaskId, code: u64) -> Option<Frame> {
        self.exit_begin(cpu, id, code);
        if !self.sched.task(id).files.is_empty() {
            return Some(Kernel::sys_exiting(id));
        }
        self.exit_notify(cpu, id);
        None
    }

    /// `do_exit` up to its files.
    pub(crate) fn exit_begin(&mut self, cpu: CpuId, id: TaskId, code: u64) {
        let addr = self.sched.task(id).addr;
        let flags = self.get(addr, field!("task_struct", "flags"));
        self.set(addr, field!("task_struct", "flags"), flags | PF_EXITING);
        self.set(addr, field!("task_struct", "exit_code"), code);
        self.func_enter(cpu, "do_exit", &[code]);
        self.fire(cpu, "sched_process_exit", &[addr, 1]);
    }

    /// `exit_notify` and `do_task_dead`.
    pub(crate) fn exit_notify(&mut self, cpu: CpuId, id: TaskId) {
        let addr = self.sched.task(id).addr;
        self.set(addr, field!("task_struct", "exit_state"), EXIT_DEAD);
        self.sched.procs.remove(&(self.get(addr, field!("task_struct", "pid")) as u32));
        self.cgroups.joined.remove(&addr);
        self.deactivate(cpu, id, State::Dead);
    }

    /// `put_task_struct` after the last switch away from it.
    pub(super) fn task_gone(&mut self, addr: u64) {
        self.fire(self.this_cpu, "sched_process_free", &[addr]);
        self.task_put(addr);
    }
}

/// `PF_EXITING`.
const PF_EXITING: u64 = 4;
/// `EXIT_DEAD`: the parent does not wait.
const EXIT_DEAD: u64 = 0x10;
