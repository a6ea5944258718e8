//! The execution interface: what an engine (native code under emulation, or the interpreter)
//! and the kernel say to each other, and the explicit frame stack behind it.
//!
//! The engine keeps one register context per `Step::Enter` that has not returned. A kernel path
//! that runs programs is a [`Frame`]; nothing is kept on a host stack while a program runs.

use std::collections::{BTreeSet, VecDeque};

use bpf::insn::InsnIdx;

use crate::cancel::Cancelled;
use crate::context::{Interrupts, IrqFrame, Point, Stand};
use crate::helpers::HelperFrame;
use crate::iter::IterRead;
use crate::lock::path::LockPath;
use crate::mem::{Access, MemFault};
use crate::net::NetFrame;
use crate::prog::ProgId;
use crate::sched::{OpFrame, TaskId};
use crate::syscall::test_run::TestRun;
use crate::timer::TimerFrame;
use crate::trace::{Deferred, TraceFrame};

/// Number of a CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct CpuId(pub u32);

impl CpuId {
    /// As an index.
    #[must_use]
    pub const fn idx(self) -> usize {
        self.0 as usize
    }
}

/// A place in a program: one frame of a call stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Site {
    /// Program.
    pub prog: ProgId,
    /// Original instruction: the call that has not returned, or where the program is.
    pub insn: InsnIdx,
}

/// Start of a program or of one of its callbacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Program.
    pub prog: ProgId,
    /// Native entry point: the program's `bpf_func`, or the callback's address as the program
    /// passed it. 0 for the main function of a program that has no native code yet.
    pub func_addr: u64,
    /// R1 to R5.
    pub args: [u64; 5],
    /// A callback: it runs in a new context above the one that called the helper.
    pub callback: bool,
    /// How often, when the program returns, `prog_return` answers with this entry again. An engine
    /// may run it again at once and tell of the returns later, in their order and with the clock
    /// of each, as long as a run asks nothing of the kernel.
    pub again: u32,
}

/// What the engine does next on a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Push a register context and run this to its `exit`; then call `prog_return`.
    Enter(Entry),
    /// The helper call of the top context is complete: set R0 and go on.
    Resume {
        /// Result of the helper.
        r0: u64,
    },
    /// The program threw: drop the frames of the top context and enter its exception callback
    /// with the cookie in R1, or, when it has none, call `prog_return` with the cookie.
    Throw {
        /// Argument of `bpf_throw`.
        cookie: u64,
    },
    /// The program run of the top `contexts` register contexts was cancelled: drop them and
    /// call `next`.
    Abort {
        /// Why.
        fault: Fault,
        /// Contexts to drop, from the top.
        contexts: u32,
    },
    /// The innermost program was interrupted and goes on where it was.
    Continue,
    /// The kernel path stands at a point, or waits: call `next` when [`Kernel::ready_at`] says,
    /// or later.
    ///
    /// [`Kernel::ready_at`]: crate::Kernel::ready_at
    Pause,
    /// Nothing to do on this CPU.
    Idle,
}

/// Why a program run cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}")]
pub struct Fault {
    /// What happened.
    pub kind: FaultKind,
    /// Where, as far as the engine knows it.
    pub at: Option<(ProgId, InsnIdx)>,
}

impl Fault {
    /// A fault whose place the engine adds.
    #[must_use]
    pub fn new(kind: FaultKind) -> Fault {
        Fault { kind, at: None }
    }

    /// A kernel feature that the model does not have.
    #[must_use]
    pub fn unsupported(what: impl Into<String>) -> Fault {
        Fault::new(FaultKind::Unsupported(what.into()))
    }
}

impl From<MemFault> for Fault {
    fn from(f: MemFault) -> Fault {
        Fault::new(FaultKind::Memory { va: f.va, access: f.access })
    }
}

/// What ended a program run, or a loop of it, before its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelledBy {
    /// It was longer than the watchdog allows.
    Watchdog,
    /// `bpf_throw`.
    Throw,
    /// Someone asked for it.
    Request,
    /// A fault.
    Fault,
    /// A timed `may_goto` ran out: only its loop ends.
    MayGoto,
}

impl CancelledBy {
    /// As in traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            CancelledBy::Watchdog => "watchdog",
            CancelledBy::Throw => "throw",
            CancelledBy::Request => "request",
            CancelledBy::Fault => "fault",
            CancelledBy::MayGoto => "may_goto",
        }
    }
}

/// Kinds of faults.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FaultKind {
    /// An access without translation or permission that no exception table entry covers.
    #[error("{access:?} fault at {va:#x}")]
    Memory {
        /// Address.
        va: u64,
        /// Access.
        access: Access,
    },
    /// Undefined native instruction.
    #[error("illegal instruction at {pc:#x}")]
    Illegal {
        /// Native address.
        pc: u64,
    },
    /// The vCPU stack's guard page was hit.
    #[error("stack overflow at {va:#x}")]
    Stack {
        /// Address.
        va: u64,
    },
    /// The run was longer than the watchdog allows.
    #[error("watchdog: {insns} instructions")]
    Watchdog {
        /// Instructions retired.
        insns: u64,
    },
    /// A lock is taken twice or by a CPU that can never get it.
    #[error("deadlock: {0}")]
    Deadlock(String),
    /// The allocator found a misuse.
    #[error("{0}")]
    Memcheck(Box<crate::alloc::Report>),
    /// Cancelled from outside.
    #[error("cancelled: {0}")]
    Cancelled(String),
    /// Not modelled.
    #[error("unsupported: {0}")]
    Unsupported(String),
}

/// A running (sub)program.
#[derive(Clone, Debug)]
pub struct ProgFrame {
    /// The entry.
    pub entry: Entry,
    /// Program that runs now: tail calls replace it.
    pub prog: ProgId,
    /// `bpf_cookie` of the link that runs it.
    pub cookie: u64,
    /// Helper calls so far.
    pub helper_calls: u32,
    /// Tail calls so far.
    pub tail_calls: u32,
    /// Virtual time at entry.
    pub started_ns: u64,
    /// When it went on after its task was preempted, 0 for never; and how long it was away, all in
    /// all.
    pub(crate) resumed_ns: u64,
    pub(crate) away_ns: u64,
    /// The helper it is in, when that has frames of its own, and the number of the call.
    pub calling: Option<(&'static str, u32)>,
    /// The run that began with it is cancelled.
    pub cancelled: Option<Box<Cancelled>>,
    /// The watchdog has reported it.
    pub(crate) warned: bool,
    /// It was told of as a lockup.
    pub(crate) locked_up: bool,
}

impl ProgFrame {
    /// The start of a program with its context in R1.
    #[must_use]
    pub fn main(prog: ProgId, func_addr: u64, ctx: u64) -> ProgFrame {
        let entry = Entry { prog, func_addr, args: [ctx, 0, 0, 0, 0], callback: false, again: 0 };
        ProgFrame::new(entry)
    }

    fn new(entry: Entry) -> ProgFrame {
        ProgFrame {
            entry,
            prog: entry.prog,
            cookie: 0,
            helper_calls: 0,
            tail_calls: 0,
            started_ns: 0,
            resumed_ns: 0,
            away_ns: 0,
            calling: None,
            cancelled: None,
            warned: false,
            locked_up: false,
        }
    }

    /// A callback that the program passed to a helper.
    #[must_use]
    pub fn callback(prog: ProgId, func_addr: u64, args: [u64; 5]) -> ProgFrame {
        let entry = Entry { prog, func_addr, args, callback: true, again: 0 };
        ProgFrame::new(entry)
    }
}

/// A kernel path that is in progress on a CPU.
#[derive(Clone, Debug)]
pub enum Frame {
    /// A program or callback; the engine runs it.
    Prog(ProgFrame),
    /// A helper that calls back.
    Helper(HelperFrame),
    /// `BPF_PROG_TEST_RUN`.
    TestRun(Box<TestRun>),
    /// A read of an iterator.
    Iter(Box<IterRead>),
    /// A path of the network stack.
    Net(Box<NetFrame>),
    /// Programs attached to what fired.
    Trace(Box<TraceFrame>),
    /// The callback of a timer.
    Timer(TimerFrame),
    /// An interrupt.
    Irq(IrqFrame),
    /// An operation of a task.
    Op(Box<OpFrame>),
    /// A path that takes locks.
    Lock(Box<LockPath>),
    /// One program with a context that already exists (tracing hooks); the value is its R0.
    Hook {
        /// Program.
        prog: ProgId,
        /// R1.
        ctx: u64,
        /// `bpf_cookie`.
        cookie: u64,
        /// Object freed afterwards, 0 for none.
        free: u64,
    },
}

/// Why a frame is stepped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// For the first time.
    Start,
    /// It stood at a point, or waited, and goes on.
    Again,
    /// What it called is complete.
    Return(u64),
    /// The program it called was cancelled.
    Aborted(Fault),
}

/// What a frame does next.
#[derive(Clone, Debug)]
pub enum Flow {
    /// Run `child`, then step `frame` with its value.
    Call {
        /// This frame as it goes on.
        frame: Frame,
        /// What runs first.
        child: Frame,
    },
    /// This frame goes on as another.
    Become(Frame),
    /// This frame stands at a point and goes on with [`Input::Again`]: other CPUs may run before,
    /// and interrupts come.
    Pause {
        /// This frame as it goes on.
        frame: Frame,
        /// Where.
        point: Point,
    },
    /// This frame waits until a virtual time, or until [`Kernel::wake`] of its CPU, and goes on
    /// with [`Input::Again`].
    ///
    /// [`Kernel::wake`]: crate::Kernel::wake
    Wait {
        /// This frame as it goes on.
        frame: Frame,
        /// Virtual time.
        until: u64,
    },
    /// An interrupt is over; the path below stood there.
    Iret(Option<Stand>),
    /// Complete, with a value for the frame below.
    Done(u64),
    /// The program that led here is cancelled and cannot have what it waits for.
    Unwind,
    /// The program that led here cannot go on.
    Fault(Fault),
}

/// One CPU.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// Kernel paths in progress, innermost last.
    pub frames: Vec<Frame>,
    /// Work that has not begun.
    pub queue: VecDeque<Frame>,
    /// Virtual time of this CPU.
    pub clock_ns: u64,
    /// BPF instructions retired.
    pub retired: u64,
    /// `task_struct` of the running task.
    pub task: u64,
    /// Where the programs of this CPU are, innermost first, while a call runs that acquires
    /// something ([`crate::Kernel::wants_stack`]); empty otherwise.
    pub call_stack: Vec<Site>,
    /// Native address behind the last call of the kernel by a program.
    pub called_from: u64,
    /// `distribute_cpu_mask_prev`.
    pub(crate) distributed: u32,
    /// What fired in the step that is in progress.
    pub(crate) fired: VecDeque<Deferred>,
    /// `bpf_prog_active`: a probe or perf event program runs.
    pub(crate) prog_active: bool,
    /// `bpf_prog.active` of the other tracing programs.
    pub(crate) active: BTreeSet<ProgId>,
    /// A result that the frame on top still has to be told (after `Step::Abort`).
    pub(crate) pending: Option<Input>,
    /// The frame on top is a kernel path that stands here.
    pub(crate) stand: Option<Stand>,
    /// What waits to interrupt.
    pub(crate) interrupts: Interrupts,
    /// `local_irq_save` of kernel paths, nested.
    pub(crate) irq_off: u32,
    /// `preempt_disable` of kernel paths, nested.
    pub(crate) preempt_off: u32,
    /// Points of programs passed so far.
    pub points: u64,
    /// Runs of this CPU that are cancelled and not over.
    pub(crate) cancelling: u32,
    /// A task goes on that was preempted in the middle of a program: the engine takes its register
    /// contexts back before the next step.
    pub resumed: Option<TaskId>,
}

impl Cpu {
    /// Has work in progress or queued, of itself.
    pub(crate) fn has_work(&self) -> bool {
        let begun = !self.frames.is_empty() || !self.fired.is_empty();
        begun || !self.queue.is_empty() || !self.interrupts.is_empty()
    }

    /// Has such work, and it does not wait.
    pub(crate) fn busy(&self) -> bool {
        match &self.stand {
            Some(Stand { until, .. }) => until.is_none_or(|t| t <= self.clock_ns),
            None => self.pending.is_some() || self.has_work(),
        }
    }

    /// All frames: in progress, queued, waiting to interrupt.
    pub(crate) fn work(&self) -> impl Iterator<Item = &Frame> {
        self.frames.iter().chain(&self.queue).chain(self.interrupts.iter())
    }

    /// The innermost running program.
    #[must_use]
    pub fn prog_frame(&self) -> Option<&ProgFrame> {
        self.frames.iter().rev().find_map(|f| match f {
            Frame::Prog(p) => Some(p),
            Frame::Helper(_)
            | Frame::TestRun(_)
            | Frame::Iter(_)
            | Frame::Net(_)
            | Frame::Trace(_)
            | Frame::Timer(_)
            | Frame::Irq(_)
            | Frame::Op(_)
            | Frame::Lock(_)
            | Frame::Hook { .. } => None,
        })
    }

    /// The frame of the program (not of a callback) that runs now.
    #[must_use]
    pub fn main_frame(&self) -> Option<&ProgFrame> {
        self.frames.iter().rev().find_map(|f| match f {
            Frame::Prog(p) if !p.entry.callback => Some(p),
            _ => None,
        })
    }

    pub(crate) fn prog_frame_mut(&mut self) -> Option<&mut ProgFrame> {
        self.frames.iter_mut().rev().find_map(|f| match f {
            Frame::Prog(p) => Some(p),
            Frame::Helper(_)
            | Frame::TestRun(_)
            | Frame::Iter(_)
            | Frame::Net(_)
            | Frame::Trace(_)
            | Frame::Timer(_)
            | Frame::Irq(_)
            | Frame::Op(_)
            | Frame::Lock(_)
            | Frame::Hook { .. } => None,
        })
    }
}
