//! Contexts and interrupts: in what a CPU is, what comes between, and the points at which it may.
//!
//! ```text
//!  task ◄─ softirq ◄─ hardirq ◄─ NMI        each may interrupt what is to its left
//! ```
//!
//! A CPU can be left at *points*. Those between instructions of programs are counted, and have
//! the same number on every architecture: calls of helpers, kernel functions and subprograms,
//! their returns, and back-edges that are taken. Those inside kernel paths are named only. At a
//! point other CPUs may run, and what interrupts the CPU is pushed as an [`IrqFrame`] on top of
//! what stands there, so nothing of it is on a host stack.

use std::collections::VecDeque;

use bpf::insn::InsnIdx;

use crate::cpu::{CpuId, Flow, Frame};
use crate::ledger::Kind;
use crate::{Kernel, ProgId};

/// A place at which a CPU can be left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// A helper or kernel function is about to run.
    Call {
        /// Caller.
        prog: ProgId,
        /// Name, for helpers without `bpf_`.
        func: &'static str,
        /// First argument, 0 when it takes none.
        arg: u64,
    },
    /// It is complete; the program does not have the result yet.
    Returned {
        /// Caller.
        prog: ProgId,
        /// Name, for helpers without `bpf_`.
        func: &'static str,
        /// First argument, 0 when it takes none.
        arg: u64,
    },
    /// A subprogram is entered.
    Enter {
        /// Program.
        prog: ProgId,
        /// Its first instruction.
        insn: InsnIdx,
    },
    /// A subprogram returned.
    Leave {
        /// Program.
        prog: ProgId,
        /// The call.
        insn: InsnIdx,
    },
    /// A back-edge was taken.
    Back {
        /// Program.
        prog: ProgId,
        /// Where it leads.
        insn: InsnIdx,
    },
    /// Inside a kernel path: not counted.
    Inside {
        /// The program that called, if one did.
        prog: Option<ProgId>,
        /// Kernel function.
        func: &'static str,
        /// Where in it.
        at: &'static str,
    },
}

impl Point {
    /// Whether it is between instructions of a program.
    #[must_use]
    pub const fn is_counted(&self) -> bool {
        !matches!(self, Point::Inside { .. })
    }

    /// The program it is in.
    #[must_use]
    pub const fn prog(&self) -> Option<ProgId> {
        match self {
            Point::Call { prog, .. }
            | Point::Returned { prog, .. }
            | Point::Enter { prog, .. }
            | Point::Leave { prog, .. }
            | Point::Back { prog, .. } => Some(*prog),
            Point::Inside { prog, .. } => *prog,
        }
    }
}

/// What a CPU is in, in order of who interrupts whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// A task, or idle.
    #[default]
    Task,
    /// `in_serving_softirq`.
    Soft,
    /// `in_hardirq`.
    Hard,
    /// `in_nmi`.
    Nmi,
}

impl Level {
    /// As messages name it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Level::Task => "task",
            Level::Soft => "softirq",
            Level::Hard => "hardirq",
            Level::Nmi => "nmi",
        }
    }
}

/// Context of a CPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Context {
    /// What it is in.
    pub level: Level,
    /// `local_irq_disable` or deeper.
    pub irqs_off: bool,
    /// `local_bh_disable`: softirqs wait.
    pub bh_off: bool,
    /// `preempt_disable`, or anything that implies it.
    pub preempt_off: bool,
}

/// Where a kernel path stands that gave the CPU away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stand {
    /// The point, when it is one.
    pub point: Option<Point>,
    /// It waits until this virtual time; `None` for one that only lets others go first.
    pub until: Option<u64>,
}

/// What waits to interrupt a CPU.
#[derive(Clone, Debug, Default)]
pub struct Interrupts {
    soft: VecDeque<VecDeque<Frame>>,
    hard: VecDeque<VecDeque<Frame>>,
    nmi: VecDeque<VecDeque<Frame>>,
}

impl Interrupts {
    fn of(&mut self, level: Level) -> &mut VecDeque<VecDeque<Frame>> {
        match level {
            Level::Task | Level::Soft => &mut self.soft,
            Level::Hard => &mut self.hard,
            Level::Nmi => &mut self.nmi,
        }
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.soft.is_empty() && self.hard.is_empty() && self.nmi.is_empty()
    }

    /// What waits, of all levels.
    pub fn iter(&self) -> impl Iterator<Item = &Frame> {
        self.soft.iter().chain(&self.hard).chain(&self.nmi).flatten()
    }
}

/// An interrupt in progress; what it interrupted is below it.
#[derive(Clone, Debug)]
pub struct IrqFrame {
    /// Kind of interrupt.
    pub level: Level,
    /// Its work that has not begun.
    work: VecDeque<Frame>,
    /// Where the path below stood.
    below: Option<Stand>,
}

impl Kernel {
    /// Context of a CPU.
    #[must_use]
    pub fn context(&self, cpu: CpuId) -> Context {
        let c = &self.cpus[cpu.idx()];
        let level = c.frames.iter().map(Frame::level).max().unwrap_or_default();
        let held = |kind| self.ledger.holds(kind, cpu.0.into());
        let irqs_off = level >= Level::Hard || c.irq_off > 0 || held(Kind::Irq);
        let bh_off = irqs_off || level >= Level::Soft || c.frames.iter().any(Frame::bh_off);
        let preempt_off = bh_off || c.preempt_off > 0 || held(Kind::Preempt);
        Context { level, irqs_off, bh_off, preempt_off }
    }

    /// One interrupt, which comes to a CPU as soon as its context lets it and does `work`, one
    /// after the other. [`Level::Task`] is for what runs in tasks of its own: it is queued.
    pub fn interrupt(&mut self, cpu: CpuId, level: Level, work: impl IntoIterator<Item = Frame>) {
        let c = &mut self.cpus[cpu.idx()];
        match level {
            Level::Task => c.queue.extend(work),
            _ => c.interrupts.of(level).push_back(work.into_iter().collect()),
        }
    }

    /// The level of the interrupt that a CPU takes now, if one waits and may.
    #[must_use]
    pub fn interrupt_ready(&self, cpu: CpuId) -> Option<Level> {
        let c = &self.cpus[cpu.idx()];
        if c.interrupts.is_empty() {
            return None;
        }
        let now = self.context(cpu);
        let allowed = |l: &Level| match l {
            Level::Task => false,
            Level::Soft => !now.bh_off,
            Level::Hard => !now.irqs_off,
            Level::Nmi => now.level != Level::Nmi,
        };
        let waits = |l: &Level| match l {
            Level::Task => false,
            Level::Soft => !c.interrupts.soft.is_empty(),
            Level::Hard => !c.interrupts.hard.is_empty(),
            Level::Nmi => !c.interrupts.nmi.is_empty(),
        };
        [Level::Nmi, Level::Hard, Level::Soft].into_iter().find(|l| waits(l) && allowed(l))
    }

    /// Takes the interrupt that is next.
    pub(crate) fn take_interrupt(&mut self, cpu: CpuId) -> Option<Frame> {
        let level = self.interrupt_ready(cpu)?;
        let c = &mut self.cpus[cpu.idx()];
        let work = c.interrupts.of(level).pop_front()?;
        let below = c.stand.take();
        Some(Frame::Irq(IrqFrame { level, work, below }))
    }

    pub(crate) fn irq_step(mut irq: IrqFrame) -> Flow {
        match irq.work.pop_front() {
            Some(child) => Flow::Call { frame: Frame::Irq(irq), child },
            None => Flow::Iret(irq.below),
        }
    }

    /// A non-maskable interrupt: programs of perf events run (`perf_event_nmi_handler`).
    pub fn nmi(&mut self, cpu: CpuId) {
        let work = self.sample_work();
        self.interrupt(cpu, Level::Nmi, work);
    }

    /// An interrupt of a line; its handler is seen by tracepoints alone.
    pub fn irq(&mut self, cpu: CpuId, line: u32) {
        let work = self.irq_work(line);
        self.interrupt(cpu, Level::Hard, work);
    }

    /// When a CPU can act next: a virtual time, which may be past, or never.
    #[must_use]
    pub fn ready_at(&self, cpu: CpuId) -> Option<u64> {
        let c = &self.cpus[cpu.idx()];
        let comes = || c.pending.is_some() || self.interrupt_ready(cpu).is_some();
        match &c.stand {
            _ if c.busy() || comes() => Some(c.clock_ns),
            Some(stand) => stand.until,
            None => self.sched_wants(cpu).then_some(c.clock_ns),
        }
    }

    /// A CPU's clock goes on to when it can act.
    pub fn catch_up(&mut self, cpu: CpuId) {
        if let Some(t) = self.ready_at(cpu) {
            self.cpus[cpu.idx()].clock_ns = t;
        }
    }

    /// Name of the object that an address is of, for the names of points.
    #[must_use]
    pub fn object_name(&self, addr: u64) -> Option<String> {
        match self.map_by_addr.get(&addr) {
            Some(id) => Some(self.maps.get(id)?.def.name.clone()),
            None => self.own_lock_name(addr),
        }
    }

    /// What a CPU waits for may have happened: it looks again, not before the waker's time.
    pub fn wake(&mut self, cpu: CpuId) {
        let now = self.now(self.this_cpu);
        if let Some(Stand { until: Some(t), .. }) = &mut self.cpus[cpu.idx()].stand {
            *t = now.min(*t);
        }
        // A path that is interrupted while it waits.
        for frame in &mut self.cpus[cpu.idx()].frames {
            if let Frame::Irq(IrqFrame { below: Some(Stand { until: Some(t), .. }), .. }) = frame {
                *t = now.min(*t);
            }
        }
    }

    /// A program stands at a point that is counted: the number of points of this CPU so far.
    pub fn safepoint(&mut self, cpu: CpuId, point: &Point) -> u64 {
        self.this_cpu = cpu;
        self.inject_interrupts(cpu, point);
        let c = &mut self.cpus[cpu.idx()];
        c.points += 1;
        c.points
    }

    /// Where the kernel path of a CPU stands.
    #[must_use]
    pub fn stand(&self, cpu: CpuId) -> Option<&Stand> {
        self.cpus[cpu.idx()].stand.as_ref()
    }
}

impl Frame {
    /// The context that this frame is or puts what it calls in.
    #[must_use]
    pub fn level(&self) -> Level {
        match self {
            Frame::Irq(irq) => irq.level,
            Frame::Net(n) => n.level(),
            Frame::Timer(t) if t.in_softirq() => Level::Soft,
            _ => Level::Task,
        }
    }

    /// Whether softirqs wait while it is there, though it is none: `bpf_test_run`.
    fn bh_off(&self) -> bool {
        matches!(self, Frame::TestRun(t) if t.bh_off())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Config, Step};

    const CPU: CpuId = CpuId(0);

    fn hook(prog: u32) -> Frame {
        Frame::Hook { prog: ProgId(prog), ctx: 0, cookie: 0, free: 0 }
    }

    fn entered(step: Step) -> u32 {
        let Step::Enter(e) = step else { panic!("{step:?}") };
        e.prog.0
    }

    #[test]
    fn a_program_is_interrupted_and_goes_on() {
        let mut k = Kernel::new(Config::default());
        k.submit(CPU, hook(1));
        assert_eq!(entered(k.next(CPU)), 1);
        k.interrupt(CPU, Level::Hard, [hook(2)]);
        k.interrupt(CPU, Level::Nmi, [hook(3)]);
        k.interrupt(CPU, Level::Soft, [hook(4)]);
        assert_eq!(entered(k.next(CPU)), 3);
        assert_eq!(k.context(CPU).level, Level::Nmi);
        // An NMI does not nest; the others wait for its end.
        assert_eq!(k.interrupt_ready(CPU), None);
        assert_eq!(entered(k.prog_return(CPU, 0)), 2);
        assert_eq!(entered(k.prog_return(CPU, 0)), 4);
        assert_eq!(k.context(CPU).level, Level::Soft);
        // What was interrupted keeps its registers.
        assert_eq!(k.prog_return(CPU, 0), Step::Continue);
        assert_eq!(k.context(CPU), Context::default());
        assert_eq!(k.prog_return(CPU, 0), Step::Idle);
    }

    #[test]
    fn interrupts_wait_while_they_are_off() {
        let mut k = Kernel::new(Config::default());
        k.submit(CPU, hook(1));
        let _ = k.next(CPU);
        k.prog_holds(CPU, Kind::Irq, 0, "bpf_local_irq_save");
        k.interrupt(CPU, Level::Soft, [hook(2)]);
        k.interrupt(CPU, Level::Hard, [hook(3)]);
        assert_eq!(k.next(CPU), Step::Continue);
        k.interrupt(CPU, Level::Nmi, [hook(4)]);
        assert_eq!(entered(k.next(CPU)), 4);
        assert_eq!(k.prog_return(CPU, 0), Step::Continue);
        k.ledger.release(Kind::Irq, 0);
        assert_eq!(entered(k.next(CPU)), 3);
        assert_eq!(entered(k.prog_return(CPU, 0)), 2);
    }

    #[test]
    fn a_cancelled_interrupt_leaves_what_is_below() {
        let mut k = Kernel::new(Config::default());
        k.submit(CPU, hook(1));
        let _ = k.next(CPU);
        k.interrupt(CPU, Level::Hard, [hook(2)]);
        assert_eq!(entered(k.next(CPU)), 2);
        let step = k.prog_fault(CPU, crate::Fault::unsupported("a test"));
        assert!(matches!(step, Step::Abort { contexts: 1, .. }), "{step:?}");
        assert_eq!(k.next(CPU), Step::Continue);
    }
}
