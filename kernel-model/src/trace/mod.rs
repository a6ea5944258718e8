//! Tracing: which programs are attached to the model's own tracepoints and functions, and what
//! has fired.
//!
//! ```text
//!  kernel path ─fire─► Cpu::fired ─(end of its step)─► TraceFrame ─► programs, one by one ─► path
//! ```
//!
//! A kernel path is a state machine; what fires within one of its steps is run when the step is
//! complete and before the next begins. An object that the step gave up is freed after the
//! programs that were told of it (`Deferred::FreeSkb`), as `trace_kfree_skb` comes before the
//! free.

mod frame;
mod pipe;
mod record;
mod regs;
mod user;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use bpf::Arch;
use bpf::uapi::{AttachType, ProgType};

use crate::context::Level;
use crate::cpu::CpuId;
use crate::layout::{KERNEL_FUNCTION_STRIDE, KERNEL_TEXT};
use crate::memcg::Charge;
use crate::sched::TaskId;
use crate::types::{Function, Tracepoint, function_name, functions, own_name, tracepoints};
use crate::{Errno, EventKind, Kernel, ProgId, rcu};

pub(crate) use frame::Then;
pub use frame::TraceFrame;
pub use pipe::Line;
pub(crate) use pipe::Pipe;
pub use user::UprobeMulti;

/// A place in the kernel that programs attach to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Point {
    /// A tracepoint, by its row.
    Tracepoint(usize),
    /// The first instruction of a function, by its row.
    Entry(usize),
    /// The return of a function.
    Exit(usize),
    /// A function of a user program, by its number among those that are probed.
    User(usize),
    /// Its return.
    UserRet(usize),
    /// The overflow of a perf event's counter.
    Sample,
}

/// How a program is attached: what its context is, and which recursion guard it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The record of a tracepoint (perf event).
    Record,
    /// The arguments of a tracepoint as `u64` (`raw_tp`, `tp_btf`).
    Raw,
    /// Registers (kprobe, kretprobe).
    Regs,
    /// The arguments of a function as `u64` (fentry, fexit).
    Trampoline,
    /// The same; what it returns is the verdict of a hook.
    Lsm,
    /// The same; what it returns takes the place of the function (fmod_ret).
    Modify,
    /// `bpf_perf_event_data_kern` (perf event).
    Sample,
}

impl How {
    /// Called by a trampoline.
    fn is_of_image(self) -> bool {
        matches!(self, How::Trampoline | How::Lsm | How::Modify)
    }
}

/// One attached program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Program.
    pub prog: ProgId,
    /// Kind of attachment.
    pub how: How,
    /// `bpf_cookie`.
    pub cookie: u64,
    /// Only in the process of this task.
    pub only: Option<TaskId>,
}

/// A point that was reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fired {
    pub(crate) point: Point,
    pub(crate) args: Vec<u64>,
    /// Result of a function, at its exit.
    pub(crate) ret: Option<u64>,
}

impl Fired {
    fn is_user(&self) -> bool {
        matches!(self.point, Point::User(_) | Point::UserRet(_))
    }
}

/// What waits for the end of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deferred {
    /// Programs to run.
    Fire(Fired),
    /// An sk_buff whose last reference went away.
    FreeSkb(u64),
    /// A kernel object that went away.
    Kfree(u64),
}

/// A perf event of each CPU: a counter of instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Sampling {
    attached: Attached,
    /// An NMI comes each time so many are retired; 0 for one that only counts.
    period: u64,
    /// Instructions and time of each CPU when it began to count.
    since: Vec<(u64, u64)>,
}

/// What a perf event has counted on a CPU (`struct bpf_perf_event_value`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    pub(crate) insns: u64,
    /// Time for which it was enabled, and ran: it is never off.
    pub(crate) time_ns: u64,
}

/// All attachments.
#[derive(Clone, Debug, Default)]
pub struct Hooks {
    at: BTreeMap<Point, Vec<Attached>>,
    samplings: Vec<Sampling>,
    /// Tracepoints that are reported although no program is attached.
    watched: BTreeSet<usize>,
    /// `bpf_tramp_image` of each function that has one, and whether it calls the function.
    images: BTreeMap<usize, (u64, bool)>,
    /// Functions of user programs that are probed: task and symbol.
    user: Vec<(String, String)>,
}

/// What stands for a trampoline's code, and its size: a page in the kernel.
const IMAGE: &str = "bpf_tramp_image";
const IMAGE_BYTES: u64 = 64;

impl Hooks {
    /// Programs of one kind at the entry of a function.
    pub(crate) fn entry(&self, row: usize, how: How) -> impl Iterator<Item = Attached> {
        let list = self.at.get(&Point::Entry(row)).into_iter().flatten();
        list.copied().filter(move |a| a.how == how)
    }

    /// All attached programs.
    pub(crate) fn progs(&self) -> impl Iterator<Item = ProgId> {
        self.at.values().flatten().map(|a| a.prog)
    }
}

static BY_NAME: LazyLock<BTreeMap<&'static str, usize>> =
    LazyLock::new(|| tracepoints().iter().enumerate().map(|(i, t)| (t.name.as_str(), i)).collect());

static FUNC_BY_NAME: LazyLock<BTreeMap<&'static str, usize>> =
    LazyLock::new(|| functions().iter().enumerate().map(|(i, f)| (f.name.as_str(), i)).collect());

/// A tracepoint by `name`, `group:name` or `group/name`.
#[must_use]
pub fn tracepoint(name: &str) -> Option<(usize, &'static Tracepoint)> {
    let (group, short) = match name.split_once([':', '/']) {
        Some((group, short)) => (Some(group), short),
        None => (None, name),
    };
    let at = *BY_NAME.get(short)?;
    let found = &tracepoints()[at];
    group.is_none_or(|g| g == found.group).then_some((at, found))
}

/// A function by name.
#[must_use]
pub fn function(name: &str) -> Option<(usize, &'static Function)> {
    let at = *FUNC_BY_NAME.get(name)?;
    Some((at, &functions()[at]))
}

/// Address of a function of the kernel (`kallsyms_lookup_name`).
#[must_use]
pub fn symbol(name: &str) -> Option<u64> {
    function(name).map(|(at, _)| KERNEL_TEXT + at as u64 * KERNEL_FUNCTION_STRIDE)
}

/// The function that an address belongs to.
#[must_use]
pub fn symbol_at(addr: u64) -> Option<&'static str> {
    let n = addr.checked_sub(KERNEL_TEXT)? / KERNEL_FUNCTION_STRIDE;
    functions().get(usize::try_from(n).ok()?).map(|f| f.name.as_str())
}

/// Why a program was not attached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The model has no such point.
    #[error("the model has no {0}")]
    NoPoint(String),
    /// A function of the kernel of another architecture.
    #[error("{arch} has no {name}: there it is {own}")]
    OtherArch {
        /// The function.
        name: String,
        /// Of the machine.
        arch: Arch,
        /// What it is called there.
        own: String,
    },
    /// Programs of this kind attach elsewhere.
    #[error("{0}")]
    Unsupported(String),
    /// As the kernel says.
    #[error("{0:?}")]
    Errno(Errno),
}

/// Where and how a program attaches, by its type and section.
fn place(program: &bpf::Program, arch: Arch) -> Result<(Point, How), AttachError> {
    let to = program.attach_to.as_deref().unwrap_or_default();
    // Those of single system calls are no tracepoints of their own.
    let raw = program.prog_type != ProgType::Tracepoint;
    let tp = || match tracepoint(to) {
        Some((_, t)) if raw && t.group == "syscalls" => {
            Err(AttachError::NoPoint(format!("raw tracepoint {to}")))
        }
        Some((at, _)) => Ok(Point::Tracepoint(at)),
        None => Err(AttachError::NoPoint(format!("tracepoint {to}"))),
    };
    let row = |name: &str, exit| match function(name) {
        Some((at, _)) if exit => Ok(Point::Exit(at)),
        Some((at, _)) => Ok(Point::Entry(at)),
        None => Err(match own_name(arch, name) {
            Some(own) => AttachError::OtherArch { name: name.to_owned(), arch, own },
            None => AttachError::NoPoint(format!("function {name}")),
        }),
    };
    let func = |name: &str, exit| match function_name(arch, name) {
        Some(name) => row(&name, exit),
        None => Err(AttachError::NoPoint(format!("function {name}"))),
    };
    match (program.prog_type, program.attach_type) {
        (ProgType::Tracepoint, _) => Ok((tp()?, How::Record)),
        (ProgType::RawTracepoint, _) => Ok((tp()?, How::Raw)),
        (ProgType::Tracing, Some(AttachType::TraceRawTp)) => Ok((tp()?, How::Raw)),
        (ProgType::Tracing, Some(AttachType::TraceFentry)) => {
            Ok((func(to, false)?, How::Trampoline))
        }
        (ProgType::Tracing, Some(AttachType::TraceFexit)) => Ok((func(to, true)?, How::Trampoline)),
        // Those that the model enters by a way on which it can be left at once.
        (ProgType::Tracing, Some(AttachType::ModifyReturn)) => match function_name(arch, to) {
            Some(name) if name.starts_with("security_") || name.starts_with("sys_") => {
                Ok((row(&name, false)?, How::Modify))
            }
            Some(name) if function(&name).is_some() => {
                Err(AttachError::Unsupported(format!("fmod_ret of {to}")))
            }
            _ => Err(AttachError::NoPoint(format!("function {to}"))),
        },
        (ProgType::Lsm, Some(AttachType::LsmMac)) => {
            Ok((func(&format!("bpf_lsm_{to}"), false)?, How::Lsm))
        }
        (ProgType::PerfEvent, _) => Ok((Point::Sample, How::Sample)),
        (ProgType::Kprobe, None) => {
            let kind = program.section.split('/').next().unwrap_or_default();
            match kind {
                "kprobe" => Ok((func(to, false)?, How::Regs)),
                "kretprobe" => Ok((func(to, true)?, How::Regs)),
                // libbpf takes the architecture's function.
                "ksyscall" => Ok((row(&format!("sys_{to}"), false)?, How::Regs)),
                "kretsyscall" => Ok((row(&format!("sys_{to}"), true)?, How::Regs)),
                other => Err(AttachError::Unsupported(format!("{other} programs"))),
            }
        }
        (t, _) => Err(AttachError::Unsupported(format!("attaching {} programs", t.name()))),
    }
}

impl Kernel {
    /// Attaches a tracing program where its section says.
    ///
    /// # Errors
    /// The model has no such point, or no such kind of attachment.
    pub fn trace_attach(&mut self, prog: ProgId, cookie: u64) -> Result<(), AttachError> {
        let p = self.progs.get(&prog).ok_or(AttachError::Errno(Errno::ENOENT))?;
        let (point, how) = place(p.verified.program(), self.config.arch)?;
        let list = self.hooks.at.entry(point).or_default();
        if list.iter().any(|a| a.prog == prog) {
            return Err(AttachError::Errno(Errno::EBUSY));
        }
        // One perf event runs all its programs; ftrace calls probes before trampolines on entry
        // and after them on exit.
        let exit = matches!(point, Point::Exit(_));
        let rank = |h: How| match h {
            How::Regs if exit => 1,
            How::Regs | How::Record | How::Raw | How::Lsm => 0,
            How::Modify => 2,
            How::Trampoline => u8::from(!exit),
            How::Sample => 0,
        };
        let same = list.iter().rposition(|a| how == How::Record && a.how == how);
        let after = list.iter().rposition(|a| rank(a.how) <= rank(how));
        let at = same.or(after).map_or(0, |i| i + 1);
        let attached = Attached { prog, how, cookie, only: None };
        list.insert(at, attached);
        match how {
            How::Sample => self.count_from_now(attached),
            How::Trampoline | How::Lsm | How::Modify => self.tramp_update(point),
            How::Record | How::Raw | How::Regs => {}
        }
        Ok(())
    }

    /// Attaches a program to a counter of instructions (`PERF_COUNT_HW_INSTRUCTIONS`; a cycle of
    /// the model is one) that overflows after every `period` of them, on each CPU.
    ///
    /// # Errors
    /// As [`Kernel::trace_attach`]; `EINVAL` for a period of 0.
    pub fn sample_attach(&mut self, prog: ProgId, period: u64) -> Result<(), AttachError> {
        if period == 0 {
            return Err(AttachError::Errno(Errno::EINVAL));
        }
        self.trace_attach(prog, 0)?;
        for s in self.hooks.samplings.iter_mut().filter(|s| s.attached.prog == prog) {
            s.period = period;
        }
        Ok(())
    }

    /// The counter of a program's perf event begins.
    fn count_from_now(&mut self, attached: Attached) {
        let since = self.cpus.iter().map(|c| (c.retired, c.clock_ns)).collect();
        self.hooks.samplings.push(Sampling { attached, period: 0, since });
    }

    /// `perf_event_read_local`.
    pub(crate) fn perf_counted(&self, cpu: CpuId, prog: ProgId) -> Option<Counted> {
        let s = self.hooks.samplings.iter().find(|s| s.attached.prog == prog)?;
        let (c, (insns, ns)) = (&self.cpus[cpu.idx()], *s.since.get(cpu.idx())?);
        Some(Counted {
            insns: c.retired.saturating_sub(insns),
            time_ns: c.clock_ns.saturating_sub(ns),
        })
    }

    /// `sample_period` of a program's event.
    pub(crate) fn sample_period(&self, prog: ProgId) -> u64 {
        let found = self.hooks.samplings.iter().find(|s| s.attached.prog == prog);
        found.map_or(0, |s| s.period)
    }

    /// Instructions that a CPU may retire until a counter overflows.
    #[must_use]
    pub fn until_sample(&self, cpu: CpuId) -> u64 {
        let retired = self.cpus[cpu.idx()].retired;
        let sampled = self.hooks.samplings.iter().filter(|s| s.period > 0);
        let left = sampled.map(|s| s.period - retired % s.period);
        left.min().unwrap_or(u64::MAX)
    }

    /// Counters that overflow when a CPU has retired so many more.
    pub(crate) fn count_samples(&mut self, cpu: CpuId, insns: u64) {
        let before = self.cpus[cpu.idx()].retired;
        for n in 0..self.hooks.samplings.len() {
            let Sampling { attached, period, .. } = self.hooks.samplings[n];
            if period > 0 && before / period != (before + insns) / period {
                let frame = TraceFrame::sample(attached);
                self.interrupt(cpu, Level::Nmi, [crate::Frame::Trace(Box::new(frame))]);
            }
        }
    }

    /// Takes a program off all points.
    pub fn trace_detach(&mut self, prog: ProgId) {
        self.hooks.samplings.retain(|s| s.attached.prog != prog);
        let mut changed = Vec::new();
        for (point, list) in &mut self.hooks.at {
            let of_image = |a: &Attached| a.how.is_of_image();
            if list.iter().any(|a| a.prog == prog && of_image(a)) {
                changed.push(*point);
            }
            list.retain(|a| a.prog != prog);
        }
        self.hooks.at.retain(|_, list| !list.is_empty());
        changed.into_iter().for_each(|point| self.tramp_update(point));
    }

    /// `bpf_trampoline_update`: a function whose programs change gets a new image, and the old one
    /// goes when nobody can be in it.
    fn tramp_update(&mut self, point: Point) {
        let (Point::Entry(row) | Point::Exit(row)) = point else { return };
        let calls = |at: &Point| {
            let list = self.hooks.at.get(at).into_iter().flatten();
            list.filter(|a| a.how.is_of_image()).count()
        };
        let (entry, exit) = (calls(&Point::Entry(row)), calls(&Point::Exit(row)));
        if let Some((old, calls_function)) = self.hooks.images.remove(&row) {
            let chain = if calls_function { rcu::IMAGE_EXIT_CHAIN } else { rcu::IMAGE_CHAIN };
            self.rcu_free(old, IMAGE, chain);
        }
        if entry + exit > 0
            && let Ok(image) = self.kmalloc_charged(IMAGE_BYTES, Charge::default(), IMAGE)
        {
            self.hooks.images.insert(row, (image, exit > 0));
        }
    }

    /// Reports a tracepoint in the trace although no program is attached.
    pub fn trace_watch(&mut self, tracepoint: usize) {
        self.hooks.watched.insert(tracepoint);
    }

    /// Whether anyone wants to hear of a point.
    pub(crate) fn wanted(&self, point: Point) -> bool {
        let watched = matches!(point, Point::Tracepoint(n) if self.hooks.watched.contains(&n));
        watched || self.hooks.at.contains_key(&point)
    }

    fn defer(&mut self, cpu: CpuId, point: Point, args: &[u64], ret: Option<u64>) -> bool {
        if !self.wanted(point) {
            return false;
        }
        let fired = Fired { point, args: args.to_vec(), ret };
        self.cpus[cpu.idx()].fired.push_back(Deferred::Fire(fired));
        true
    }

    /// Whether anyone wants to hear of anything.
    pub(crate) fn is_traced(&self) -> bool {
        !(self.hooks.at.is_empty() && self.hooks.watched.is_empty())
    }

    /// A tracepoint of the model is reached. True when anyone listens.
    pub(crate) fn fire(&mut self, cpu: CpuId, name: &'static str, args: &[u64]) -> bool {
        if !self.is_traced() {
            return false;
        }
        let (at, _) = tracepoint(name).expect("a tracepoint of the type table");
        self.defer(cpu, Point::Tracepoint(at), args, None)
    }

    /// `trace_bpf_trace_printk`: programs see the text in memory of the kernel.
    pub(crate) fn fire_printk(&mut self, cpu: CpuId, mut text: Vec<u8>) {
        let (at, _) = tracepoint("bpf_trace_printk").expect("in the type table");
        if !self.wanted(Point::Tracepoint(at)) {
            return;
        }
        text.push(0);
        // Without memory for it nobody is told, as when the buffer of the event is full.
        let Ok(object) = self.kzalloc(text.len() as u64, "bpf_trace_printk") else { return };
        self.mem.write(object, &text).expect("a new object is mapped");
        self.defer(cpu, Point::Tracepoint(at), &[object], None);
        self.after_fired(cpu, Deferred::Kfree(object));
    }

    /// A function of the model is entered.
    pub(crate) fn func_enter(&mut self, cpu: CpuId, name: &'static str, args: &[u64]) -> bool {
        if self.hooks.at.is_empty() {
            return false;
        }
        let (at, _) = function(name).expect("a function of the type table");
        self.defer(cpu, Point::Entry(at), args, None)
    }

    /// A function of the model returns.
    pub(crate) fn func_exit(
        &mut self,
        cpu: CpuId,
        name: &'static str,
        args: &[u64],
        ret: u64,
    ) -> bool {
        if self.hooks.at.is_empty() {
            return false;
        }
        let (at, _) = function(name).expect("a function of the type table");
        self.defer(cpu, Point::Exit(at), args, Some(ret))
    }

    /// Frees something after the programs that still have to be told of it.
    pub(crate) fn after_fired(&mut self, cpu: CpuId, what: Deferred) {
        if self.cpus[cpu.idx()].fired.is_empty() {
            self.deferred(what);
        } else {
            self.cpus[cpu.idx()].fired.push_back(what);
        }
    }

    fn deferred(&mut self, what: Deferred) {
        match what {
            Deferred::FreeSkb(skb) => self.skb_release(skb),
            Deferred::Kfree(addr) => self.kfree(addr, "traced object"),
            Deferred::Fire(_) => unreachable!("run by a TraceFrame"),
        }
    }

    /// What an NMI of the performance counters does: the programs of perf events.
    pub(crate) fn sample_work(&self) -> Option<crate::Frame> {
        self.hooks.at.get(&Point::Sample)?;
        let fired = Fired { point: Point::Sample, args: Vec::new(), ret: None };
        let items = std::iter::once(Deferred::Fire(fired)).collect();
        Some(crate::Frame::Trace(Box::new(TraceFrame::new(items, Then::Done(0)))))
    }

    /// What the interrupt of a line does: its handler is seen by tracepoints.
    pub(crate) fn irq_work(&self, line: u32) -> Option<crate::Frame> {
        let fired = |name, args: &[u64]| {
            let (at, _) = tracepoint(name).expect("a tracepoint of the type table");
            let point = Point::Tracepoint(at);
            let fired = Fired { point, args: args.to_vec(), ret: None };
            self.wanted(point).then_some(Deferred::Fire(fired))
        };
        let (line, handled) = (u64::from(line), 1);
        let entry = fired("irq_handler_entry", &[line, 0]);
        let exit = fired("irq_handler_exit", &[line, 0, handled]);
        let items: std::collections::VecDeque<_> = entry.into_iter().chain(exit).collect();
        let frame = || crate::Frame::Trace(Box::new(TraceFrame::new(items.clone(), Then::Done(0))));
        (!items.is_empty()).then(frame)
    }

    /// Fires a tracepoint from outside, as the next work of a CPU; `objects` are freed after it.
    ///
    /// # Errors
    /// `ENOENT` for a tracepoint that the model does not have.
    pub fn trace_fire(
        &mut self,
        cpu: CpuId,
        name: &str,
        args: &[u64],
        objects: &[u64],
    ) -> Result<(), Errno> {
        let (at, _) = tracepoint(name).ok_or(Errno::ENOENT)?;
        self.hooks.watched.insert(at);
        let fired = Fired { point: Point::Tracepoint(at), args: args.to_vec(), ret: None };
        let first = std::iter::once(Deferred::Fire(fired));
        let items = first.chain(objects.iter().map(|o| Deferred::Kfree(*o))).collect();
        let frame = TraceFrame::new(items, Then::Done(0));
        self.submit(cpu, crate::Frame::Trace(Box::new(frame)));
        Ok(())
    }

    /// The tracepoint in the trace.
    fn report_fired(&mut self, cpu: CpuId, fired: &Fired) {
        if let Point::Tracepoint(at) = fired.point {
            let name = tracepoints()[at].name.as_str();
            let args = fired.args.iter().map(|a| crate::event::Value::of(*a)).collect();
            self.emit(cpu, EventKind::Tracepoint { name, args });
        }
    }
}
