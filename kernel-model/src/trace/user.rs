//! Probes of user programs, and where their tasks are.
//!
//! A task's program is what its script calls: each function has a place of its own, and an
//! operation is so many instructions behind the start of the function that does it. A script
//! itself is the program's first function.

use bpf::uapi::{AttachType, ProgType};

use super::{Attached, How, Point};
use crate::cpu::{CpuId, Frame};
use crate::layout::{KERNEL_FUNCTION_STRIDE, USER_BASE};
use crate::sched::TaskId;
use crate::{Errno, Kernel, ProgId};

/// `_start` of every program.
const START: u64 = USER_BASE - KERNEL_FUNCTION_STRIDE;
/// Bytes of the code of an operation.
const SITE: u64 = 4;

/// A link on several functions of a user program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UprobeMulti<'a> {
    /// Name of the tasks whose program it is.
    pub task: &'a str,
    /// Functions, with a cookie each.
    pub symbols: Vec<(&'a str, u64)>,
    /// Only in the process of this task.
    pub only: Option<TaskId>,
}

/// First instruction of a function.
pub(super) fn entry(function: usize) -> u64 {
    USER_BASE + function as u64 * KERNEL_FUNCTION_STRIDE
}

/// So many operations behind the start of a function.
fn behind(start: u64, operations: usize) -> u64 {
    start + (operations as u64 * SITE).min(KERNEL_FUNCTION_STRIDE - SITE)
}

impl Kernel {
    /// Attaches a uprobe or uretprobe to a function of the user program of tasks of a name.
    ///
    /// # Errors
    /// `EINVAL` for programs that are no probes.
    pub fn uprobe_attach(
        &mut self,
        prog: ProgId,
        (task, symbol): (&str, &str),
        ret: bool,
        cookie: u64,
    ) -> Result<(), Errno> {
        let p = self.progs.get(&prog).ok_or(Errno::ENOENT)?;
        if p.prog_type() != ProgType::Kprobe {
            return Err(Errno::EINVAL);
        }
        self.uprobe_register(prog, (task, symbol), ret, (cookie, None));
        Ok(())
    }

    /// Attaches a program to several functions (`bpf_uprobe_multi_link_attach`), at their return
    /// when its section says so.
    ///
    /// # Errors
    /// `EINVAL` for programs of another kind and for no functions.
    pub fn uprobe_multi_attach(&mut self, prog: ProgId, at: &UprobeMulti<'_>) -> Result<(), Errno> {
        let p = self.progs.get(&prog).ok_or(Errno::ENOENT)?;
        let program = p.verified.program();
        let multi = program.attach_type == Some(AttachType::TraceUprobeMulti);
        if p.prog_type() != ProgType::Kprobe || !multi || at.symbols.is_empty() {
            return Err(Errno::EINVAL);
        }
        let ret = program.section.starts_with("uretprobe");
        for (symbol, cookie) in &at.symbols {
            self.uprobe_register(prog, (at.task, symbol), ret, (*cookie, at.only));
        }
        Ok(())
    }

    /// `uprobe_register`: who comes last is asked first (`consumer_add`).
    fn uprobe_register(
        &mut self,
        prog: ProgId,
        (task, symbol): (&str, &str),
        ret: bool,
        (cookie, only): (u64, Option<TaskId>),
    ) {
        let n = self.user_function(task, symbol);
        let point = if ret { Point::UserRet(n) } else { Point::User(n) };
        let attached = Attached { prog, how: How::Regs, cookie, only };
        self.hooks.at.entry(point).or_default().insert(0, attached);
    }

    /// The number of a function of the user program of tasks of a name.
    pub fn user_function(&mut self, task: &str, symbol: &str) -> usize {
        let user = &mut self.hooks.user;
        let known = user.iter().position(|u| u.0 == task && u.1 == symbol);
        known.unwrap_or_else(|| {
            user.push((task.to_owned(), symbol.to_owned()));
            user.len() - 1
        })
    }

    /// A user function is called.
    pub(crate) fn user_enter(&mut self, cpu: CpuId, function: usize, args: &[u64]) {
        self.defer(cpu, Point::User(function), args, None);
    }

    /// It returns.
    pub(crate) fn user_return(&mut self, cpu: CpuId, function: usize, value: u64) {
        self.defer(cpu, Point::UserRet(function), &[], Some(value));
    }

    /// Whether a program is not for the process that runs (`uprobe_prog_run`).
    pub(super) fn is_of_another(&self, cpu: CpuId, a: &Attached) -> bool {
        let runs = || self.curr_task(cpu).map(|t| self.task_pid(t));
        a.only.is_some_and(|only| runs() != Some(self.task_pid(only)))
    }

    /// Addresses of the user functions in progress on a CPU, innermost first
    /// (`perf_callchain_user`): none of a kernel thread.
    pub(crate) fn user_stack(&self, cpu: CpuId) -> Vec<u64> {
        if self.is_caller(cpu) {
            return vec![behind(START, 1)];
        }
        let Some(task) = self.curr_task(cpu) else { return Vec::new() };
        let (calls, mut site) = self.task_calls(task);
        let mut out = Vec::new();
        for (function, from) in calls.iter().rev() {
            out.push(behind(entry(*function), site.saturating_sub(*from)));
            site = *from;
        }
        out.push(behind(START, site + 1));
        // A function that is probed at its start and returns at once.
        if let Some(Point::User(n)) = self.user_point(cpu)
            && out[0] != entry(n)
        {
            out.insert(0, entry(n));
        }
        out
    }

    /// The place in a user program whose probes run on a CPU.
    pub(crate) fn user_point(&self, cpu: CpuId) -> Option<Point> {
        self.cpus[cpu.idx()].frames.iter().rev().find_map(|f| match f {
            Frame::Trace(t) if t.is_user() => t.point(),
            _ => None,
        })
    }

    /// First instruction of the user function whose probe runs.
    pub(crate) fn probed_function(&self, cpu: CpuId) -> Option<u64> {
        self.user_point(cpu).map(super::frame::entry_of)
    }
}
