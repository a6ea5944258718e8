//! Kernel paths that take locks, as frames: they wait, and can be left inside.
//!
//! ```text
//!  Own                         a program's lock: taken here, given back by its unlock
//!  Take .. Take Run Give Give  what the kernel does under locks of its own
//! ```

use std::collections::VecDeque;
use std::sync::Arc;

use super::queued::{Acquire, Contention, Failure, Next};
use super::{LCB_F_SPIN, LockId, Rules, Taking, Waiting};
use crate::context::{Level, Point};
use crate::cpu::{CpuId, Fault, FaultKind, Flow, Frame};
use crate::helpers::{Body, Ret};
use crate::ledger::Kind;
use crate::trace::{Then, TraceFrame};
use crate::{Errno, Kernel, ProgId};

/// `watchdog_thresh`, ns: a CPU that spins so long with interrupts off is locked up.
const LOCKUP_NS: u64 = 10_000_000_000;

/// A part of a path.
#[derive(Clone, Debug)]
pub(crate) enum Do {
    /// Takes the first of these locks that it gets. Without any, the path ends with a value, or
    /// with what the last lock said.
    Take { any: VecDeque<(LockId, Rules)>, or: Option<u64> },
    /// Takes a lock of the program; with an address, interrupts are off from then on and their
    /// state is written there.
    Own { lock: LockId, rules: Rules, irqsave: Option<u64> },
    /// Enters local storage (`bpf_task_storage_lock`).
    Busy,
    /// Does the work.
    Run(Body),
    /// Gives the lock back that was taken last.
    Give,
    /// With all given back and without an error so far: waits until this has a result.
    Await(fn(&mut Kernel, CpuId, [u64; 5]) -> Result<u64, Busy>),
}

/// What is waited for has not come.
pub(crate) struct Busy;

impl Do {
    /// Takes one lock, whose error the path ends with.
    pub(crate) fn take(lock: LockId, rules: Rules) -> Do {
        Do::Take { any: [(lock, rules)].into(), or: None }
    }
}

/// A path in progress.
#[derive(Clone, Debug)]
pub struct LockPath {
    /// Helper or kernel function.
    func: &'static str,
    prog: Option<ProgId>,
    args: [u64; 5],
    todo: VecDeque<Do>,
    attempt: Option<Acquire>,
    /// The last lock's error.
    error: Option<Errno>,
    /// When the wait began.
    since: Option<u64>,
    taken: Vec<(LockId, Rules)>,
    ret: u64,
    begun: bool,
    /// It went through `bpf_task_storage_lock`.
    busy: bool,
    /// Someone listens to what it has just told of contention, and runs before it goes on.
    told: bool,
    /// Interrupts are as they were: it only waits.
    open: bool,
    taking: Arc<Taking>,
}

/// What a step of a path came to.
enum Stop {
    Pause(&'static str),
    Wait(u64),
    Done(u64),
}

impl Kernel {
    /// A path that has not begun.
    pub(crate) fn lock_path(
        &mut self,
        cpu: CpuId,
        func: &'static str,
        args: [u64; 5],
        todo: impl IntoIterator<Item = Do>,
    ) -> Ret {
        let taking = self.taking(cpu, func);
        Ret::Frame(Frame::Lock(Box::new(LockPath {
            func,
            prog: self.cpus[cpu.idx()].prog_frame().map(|p| p.prog),
            args,
            todo: todo.into_iter().collect(),
            attempt: None,
            error: None,
            since: None,
            taken: Vec::new(),
            ret: 0,
            begun: false,
            busy: false,
            told: false,
            open: false,
            taking,
        })))
    }

    pub(crate) fn lock_step(&mut self, cpu: CpuId, mut p: Box<LockPath>) -> Flow {
        if !std::mem::replace(&mut p.begun, true) {
            self.cpus[cpu.idx()].irq_off += u32::from(p.irqs_off());
            self.cpus[cpu.idx()].preempt_off += 1;
        }
        let stop = loop {
            let stop = self.lock_advance(cpu, &mut p);
            self.lock_wakes();
            if std::mem::take(&mut p.told) && stop.is_ok() {
                // A step that waits does so again when it is asked again.
                let items = std::mem::take(&mut self.cpus[cpu.idx()].fired);
                let child = Frame::Trace(Box::new(TraceFrame::new(items, Then::Done(0))));
                return Flow::Call { frame: Frame::Lock(p), child };
            }
            match stop {
                Ok(None | Some(Stop::Pause(_))) if !self.fine => {}
                Ok(None) => {}
                Ok(Some(stop)) => break stop,
                Err(fault) => {
                    self.lock_dropped(cpu, &p);
                    return Flow::Fault(fault);
                }
            }
        };
        match stop {
            Stop::Pause(at) => {
                let point = Point::Inside { prog: p.prog, func: p.func, at };
                Flow::Pause { frame: Frame::Lock(p), point }
            }
            Stop::Wait(_) if self.is_cancelled(cpu) => {
                self.lock_dropped(cpu, &p);
                match p.todo.front() {
                    // A program goes on as if it had a plain lock.
                    Some(Do::Own { rules: Rules::Plain, .. }) => Flow::Unwind,
                    _ => Flow::Done(Errno::ETIMEDOUT.ret()),
                }
            }
            Stop::Wait(until) => Flow::Wait { frame: Frame::Lock(p), until },
            Stop::Done(ret) => {
                self.path_left(cpu, &p);
                Flow::Done(ret)
            }
        }
    }

    /// Those whose wait may be over look again.
    fn lock_wakes(&mut self) {
        for cpu in std::mem::take(&mut self.locks.queues.woken) {
            self.wake(CpuId(cpu));
        }
    }

    /// `local_irq_restore`.
    fn path_open(&mut self, cpu: CpuId, p: &LockPath) {
        if !p.open {
            let c = &mut self.cpus[cpu.idx()];
            c.irq_off -= u32::from(p.irqs_off());
            c.preempt_off -= 1;
        }
    }

    fn path_left(&mut self, cpu: CpuId, p: &LockPath) {
        self.path_open(cpu, p);
        if p.busy {
            self.locks.storage_busy.remove(&cpu);
        }
    }

    fn lock_advance(&mut self, cpu: CpuId, p: &mut LockPath) -> Result<Option<Stop>, Fault> {
        if let Some(attempt) = p.attempt.take() {
            return self.attempt_step(cpu, p, attempt);
        }
        let next = match p.todo.front_mut() {
            None => return Ok(Some(Stop::Done(p.ret))),
            Some(Do::Own { lock, rules, .. }) => Some((*lock, *rules)),
            Some(Do::Take { any, .. }) => any.pop_front(),
            Some(Do::Run(body)) => {
                let body = *body;
                p.todo.pop_front();
                match body(self, cpu, p.args) {
                    Ret::Val(v) => p.ret = v,
                    Ret::Fault(fault) => return Err(fault),
                    Ret::Frame(_) => unreachable!("what runs under a lock does not wait"),
                }
                return Ok(Some(Stop::Pause("in the critical section")));
            }
            Some(Do::Busy) => {
                p.todo.pop_front();
                p.busy = self.locks.storage_busy.insert(cpu);
                return Ok(None);
            }
            Some(Do::Await(ready)) => {
                let ready = *ready;
                self.path_open(cpu, p);
                p.open = true;
                if p.ret != 0 {
                    p.todo.pop_front();
                    return Ok(None);
                }
                return Ok(match ready(self, cpu, p.args) {
                    Ok(ret) => {
                        (p.ret, _) = (ret, p.todo.pop_front());
                        None
                    }
                    Err(Busy) => Some(Stop::Wait(u64::MAX)),
                });
            }
            Some(Do::Give) => {
                p.todo.pop_front();
                let (lock, rules) = p.taken.pop().expect("a path gives what it took");
                self.lock_given(cpu, lock, rules)?;
                return Ok(None);
            }
        };
        let Some((lock, rules)) = next else {
            // None of them: the path ends, and gives back what it has.
            let Some(Do::Take { or, .. }) = p.todo.pop_front() else { unreachable!("matched") };
            p.ret = or.unwrap_or_else(|| p.error.expect("an attempt failed").ret());
            p.todo = p.taken.iter().map(|_| Do::Give).collect();
            return Ok(None);
        };
        let in_nmi = self.context(cpu).level == Level::Nmi;
        p.attempt = Some(Acquire::new(lock, cpu.0, rules, in_nmi));
        p.since = None;
        self.lock_wanted(cpu, Waiting { lock, rules, taking: p.taking.clone() });
        Ok(None)
    }

    fn attempt_step(
        &mut self,
        cpu: CpuId,
        p: &mut LockPath,
        mut attempt: Acquire,
    ) -> Result<Option<Stop>, Fault> {
        let now = self.now(cpu);
        let next = match attempt.step(&mut self.locks.queues, &mut self.mem, now) {
            Ok(next) => next,
            Err(fault) => {
                p.attempt = Some(attempt);
                return Err(fault.into());
            }
        };
        let (lock, rules) = (attempt.lock, attempt.rules);
        if let Some(told) = attempt.told.take() {
            p.told = self.lock_contended(cpu, lock, told);
        }
        match next {
            Next::Point(at) => {
                p.attempt = Some(attempt);
                Ok(Some(Stop::Pause(at)))
            }
            Next::Wait { until } => {
                p.attempt = Some(attempt);
                let since = *p.since.get_or_insert(now);
                if rules != Rules::Plain {
                    return Ok(Some(Stop::Wait(until)));
                }
                match self.lockup(cpu, lock, now >= since.saturating_add(LOCKUP_NS)) {
                    Some(fault) => Err(fault),
                    None => Ok(Some(Stop::Wait(since.saturating_add(LOCKUP_NS)))),
                }
            }
            Next::Got => {
                self.lock_got(cpu);
                self.attempt_got(cpu, p, lock, rules)
            }
            Next::Failed(failure) => {
                self.attempt_failed(cpu, p, lock, &failure);
                Ok(None)
            }
        }
    }

    /// A queue of waiters is joined, or left with the lock or without. The address of a lock that
    /// is not in guest memory is made up: it cannot be read.
    fn lock_contended(&mut self, cpu: CpuId, lock: LockId, told: Contention) -> bool {
        let addr = lock.addr();
        match told {
            Contention::Begin => self.fire(cpu, "contention_begin", &[addr, LCB_F_SPIN]),
            Contention::End(e) => {
                let ret = e.map_or(0, Errno::ret);
                self.fire(cpu, "contention_end", &[addr, ret])
            }
        }
    }

    fn attempt_got(
        &mut self,
        cpu: CpuId,
        p: &mut LockPath,
        lock: LockId,
        rules: Rules,
    ) -> Result<Option<Stop>, Fault> {
        match p.todo.pop_front() {
            Some(Do::Own { irqsave, .. }) => {
                self.own_taken(cpu, lock, rules, &p.taking);
                if let Some(flags) = irqsave {
                    // Interrupts are still off by the path; before it they may have been on.
                    self.cpus[cpu.idx()].irq_off -= 1;
                    let saved = crate::kfuncs::irq_save(self, cpu, flags, p.func);
                    self.cpus[cpu.idx()].irq_off += 1;
                    saved?;
                }
                p.ret = 0;
            }
            _ => {
                p.taken.push((lock, rules));
                if rules == Rules::Plain {
                    return Ok(Some(Stop::Pause("taken")));
                }
            }
        }
        Ok(None)
    }

    fn attempt_failed(&mut self, cpu: CpuId, p: &mut LockPath, lock: LockId, f: &Failure) {
        self.deadlocked(cpu, lock, f, p.func);
        self.locks.waiting[cpu.idx()].pop();
        p.error = Some(f.errno);
        if let Some(Do::Own { .. }) = p.todo.front() {
            p.todo.pop_front();
            p.ret = f.errno.ret();
        }
    }

    /// A path whose program is cancelled: it leaves the queues and gives back what it has.
    pub(crate) fn lock_dropped(&mut self, cpu: CpuId, p: &LockPath) {
        if let Some(attempt) = p.attempt.clone() {
            // When the lock's memory is gone there is nothing to leave.
            let _ = attempt.abandon(&mut self.locks.queues, &mut self.mem);
            self.locks.waiting[cpu.idx()].pop();
        }
        for (lock, rules) in p.taken.iter().rev() {
            let _ = self.lock_given(cpu, *lock, *rules);
        }
        self.path_left(cpu, p);
        self.lock_wakes();
    }

    /// A wait for a plain lock that has no end: in a kernel the CPU would hang here. `late`: it
    /// has lasted as long as the watchdog lets it.
    fn lockup(&mut self, cpu: CpuId, lock: LockId, late: bool) -> Option<Fault> {
        let name = self.lock_name(lock);
        let failure = self.plain_cycle(cpu);
        let (failure, why) = match failure {
            Some(f) => (f, format!("{name} can never be had: a hard lockup")),
            None if late => {
                let (errno, kind) = (Errno::ETIMEDOUT, super::DeadlockKind::Timeout);
                let failure = Failure { errno, kind, holding: None, other: None };
                (failure, format!("{name} was not to be had for 10 s: a hard lockup"))
            }
            None => return None,
        };
        self.deadlocked(cpu, lock, &failure, "bpf_spin_lock");
        Some(Fault::new(FaultKind::Deadlock(why)))
    }

    /// A lock of a program is taken: it is the program's until it unlocks.
    pub(crate) fn own_taken(&mut self, cpu: CpuId, lock: LockId, rules: Rules, at: &Taking) {
        let c = &mut self.cpus[cpu.idx()];
        let now = std::mem::replace(&mut c.call_stack, at.stack.clone());
        self.prog_holds(cpu, Kind::SpinLock, lock.addr(), at.func);
        let c = &mut self.cpus[cpu.idx()];
        c.call_stack = now;
        match rules {
            // __bpf_spin_lock_irqsave
            Rules::Plain => c.irq_off += 1,
            Rules::Resilient | Rules::TestAndSet => c.preempt_off += 1,
        }
    }
}

impl LockPath {
    /// More to do at the end, unless an attempt fails.
    pub(crate) fn then(mut self: Box<LockPath>, more: Do) -> Box<LockPath> {
        self.todo.push_back(more);
        self
    }

    /// `raw_res_spin_lock_irqsave`: in all but `bpf_res_spin_lock`.
    fn irqs_off(&self) -> bool {
        self.func != "bpf_res_spin_lock"
    }
}
