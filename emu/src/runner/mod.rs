//! Runs a scenario on one architecture.
//!
//! ```text
//!  Scenario ─► setup (machine, nics, objects, attach) ─► timeline ─► expect ─► Outcome
//!                                                           │ events     ▲
//!                                                           ▼            │
//!                              trace (lines, hashed without clocks) ◄─ watch
//! ```

mod again;
pub mod captures;
pub mod cells;
pub mod contents;
pub mod data;
mod expect;
mod failure;
mod faults;
mod fire;
mod flows;
pub mod history;
mod iterate;
mod load;
mod maps;
mod matching;
pub mod packet;
mod schedule;
mod setup;
pub mod spool;
mod state;
mod streams;
mod sys;
mod tasks;
mod test_run;
mod timeline;
pub mod trace;
mod watch;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use bpf::Arch;
use kernel_model::ProgId;
use kernel_model::state_hash::Times;
use kernel_model::stream::StreamId;
use scenarios::{Finding, Scenario, Span};

use self::spool::Spool;
use crate::cover::Covered;
use crate::machine::path::Point;
use crate::machine::{Machine, MachineError, Snapshot};

pub use again::Runs;
pub(crate) use again::Saved;
pub use failure::{Failure, FailureKind};
pub use load::Loaded;

/// What the caller decides.
#[derive(Clone, Debug, Default)]
pub struct RunOptions {
    /// Folder of the scenario: paths are relative to it.
    pub dir: PathBuf,
    /// Seed of all random streams.
    pub seed: u64,
    /// CPUs, instead of what the file says.
    pub cpus: Option<u32>,
    /// Note the way programs go while the number of events is in this range.
    pub probe: Option<std::ops::Range<usize>>,
    /// What is kept of the trace.
    pub keep: trace::Keep,
    /// Look for data races, which a scenario that names them asks for too.
    pub races: bool,
    /// Cancel the running program at every so many points, and go back each time.
    pub cancel_every: Option<u64>,
    /// Faults need not happen: the scenario is a cell of a sweep over them.
    pub sweep: bool,
    /// The places of a pinned schedule need not exist: they are looked for.
    pub repin: bool,
    /// Told how much of its time a run has behind it, in permille.
    pub progress: Option<Arc<AtomicU64>>,
    /// The run ends with [`RunError::Paused`] when somebody sets this.
    pub stop: Option<Arc<AtomicBool>>,
    /// Instructions one program run may retire, instead of what machines allow.
    pub run_insns_max: Option<u64>,
    /// Count what programs do, by instruction.
    pub cover: bool,
    /// Hash the state whenever so many instructions were retired, where CPUs or steps take turns.
    pub checkpoints: Option<u64>,
}

/// Why a scenario could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The author's input is wrong.
    #[error("{}", .0.message)]
    Input(Box<Finding>),
    /// A program that the scenario needs was rejected.
    #[error("{}", .0.message)]
    Rejected(Box<Finding>),
    /// Something that is not modelled yet.
    #[error("unsupported: {what}")]
    Unsupported {
        /// What.
        what: String,
        /// Where it is asked for.
        span: Span,
    },
    /// The chooser of the machine stopped the run, which goes on from there; or
    /// [`RunOptions::stop`] did.
    #[error("paused by its schedule")]
    Paused,
    /// We are wrong.
    #[error("internal: {0}")]
    Internal(String),
}

impl RunError {
    fn input(span: Span, message: impl Into<String>) -> RunError {
        RunError::Input(Box::new(Finding::error(span, message)))
    }

    fn unsupported(span: Span, what: impl Into<String>) -> RunError {
        RunError::Unsupported { what: what.into(), span }
    }
}

impl From<Finding> for RunError {
    fn from(f: Finding) -> RunError {
        RunError::Input(Box::new(f))
    }
}

impl From<MachineError> for RunError {
    fn from(e: MachineError) -> RunError {
        match e {
            MachineError::Paused => RunError::Paused,
            e => RunError::Internal(e.to_string()),
        }
    }
}

/// The way programs went, with the programs.
#[derive(Debug, Default)]
pub struct Probe {
    /// Blocks in the order of the run.
    pub points: Vec<Point>,
    /// Programs as verified, and their native code.
    pub progs: Vec<(bpf::Program, Arc<crate::engine::Loaded>)>,
}

/// A point of the timeline to go back to.
#[derive(Clone, Debug)]
pub struct Mark {
    /// As the scenario names it.
    pub name: String,
    /// Events before it.
    pub events: usize,
    /// The machine there.
    pub at: Snapshot,
}

/// The machine of a run, with the points it can go back to.
#[derive(Debug)]
pub struct Marks {
    /// As the run left it.
    pub machine: Machine,
    /// In the order of the run.
    pub marks: Vec<Mark>,
}

/// The state of a run at one instant, as a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// BPF instructions retired before it.
    pub insns: u64,
    /// Events before it.
    pub events: usize,
    /// Of memory and kernel state.
    pub hash: u64,
}

/// What the runs of one program cost, in BPF instructions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Name of the program.
    pub prog: String,
    /// Runs that ended.
    pub runs: u64,
    /// All of them together.
    pub total: u64,
    /// The shortest one.
    pub best: u64,
    /// The longest one.
    pub worst: u64,
    /// Which it was, from 1.
    pub worst_at: u64,
    /// Events before and after it, as `RunOptions::probe` takes them.
    pub worst_events: std::ops::Range<usize>,
}

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Architecture.
    pub arch: Arch,
    /// Expectations that did not hold; empty when all did.
    pub failures: Vec<Failure>,
    /// The trace with clocks, a line an event, each with its number.
    pub trace: Option<Spool>,
    /// The trace that is compared between architectures: no clocks, CPU by CPU.
    pub compared: Vec<String>,
    /// For each line of `compared`, the number of its event, from 1.
    pub compared_at: Vec<usize>,
    /// Hash of `compared`.
    pub trace_hash: u64,
    /// Reports of deadlocks, and of orders of locks that could have led to one.
    pub notes: Vec<String>,
    /// Events in all.
    pub events: usize,
    /// What was noted for `RunOptions::probe`.
    pub probe: Probe,
    /// BPF instructions retired.
    pub insns: u64,
    /// Native instructions of programs that ran.
    pub native_insns: u64,
    /// Captures of what left, by nic.
    pub out: Vec<(String, Spool)>,
    /// What `RunOptions::cover` asked for.
    pub cover: Option<Covered>,
    /// What the runs of each program cost.
    pub costs: Vec<Cost>,
    /// What trying to cancel came to.
    pub sweep: Option<crate::machine::sweep::Report>,
    /// Program runs as spans of virtual time.
    pub perfetto: Vec<trace::Slice>,
    /// What `RunOptions::checkpoints` asked for, and the end.
    pub checkpoints: Vec<Checkpoint>,
}

/// Steps of a schedule.
#[derive(Clone, Debug, Default)]
pub(in crate::runner) struct Steps<'a>(
    std::collections::VecDeque<&'a scenarios::schema::play::ScheduleStep>,
);

/// A scenario in progress.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) s: &'a Scenario,
    pub(crate) machine: Machine,
    pub(crate) captures: captures::CaptureFiles,
    /// Folder of the scenario.
    pub(crate) dir: PathBuf,
    /// Objects in file order.
    pub(crate) objects: Vec<Loaded>,
    /// A test run that has begun and not ended.
    pub(in crate::runner) testing: Option<test_run::Testing<'a>>,
    /// An iterator that is read.
    pub(in crate::runner) reading: Option<iterate::Reading<'a>>,
    /// Frames sent so far.
    pub(crate) sent: u64,
    /// A frame that was sent had wrong lengths or sums itself.
    pub(crate) sent_malformed: bool,
    /// Records that consumers got, by map.
    pub(crate) consumed: std::collections::BTreeMap<u32, Vec<Vec<u8>>>,
    /// Maps that have a consumer.
    pub(crate) consumers: Vec<u32>,
    /// What readers of program streams got.
    pub(crate) streams: std::collections::BTreeMap<(ProgId, StreamId), Vec<u8>>,
    pub(crate) failures: Vec<Failure>,
    /// What is to come.
    pub(in crate::runner) plan: timeline::Plan<'a>,
    /// `When` steps whose event has not come.
    pub(crate) whens: Vec<(&'a scenarios::schema::Event, &'a scenarios::schema::Action)>,
    /// Steps of a schedule by hand that are left.
    pub(in crate::runner) steps: Steps<'a>,
    /// Events of the machine that the `When` steps have been compared with.
    pub(crate) seen: usize,
    /// Events of the machine that `watch` knows of.
    pub(crate) watched: usize,
    /// What expectations ask of events.
    pub(in crate::runner) watch: watch::Watch<'a>,
    /// Points to go back to, when they are asked for.
    pub(crate) marks: Vec<Mark>,
    pub(crate) keep_marks: bool,
    pub(crate) progress: Option<Arc<AtomicU64>>,
    pub(crate) stop: Option<Arc<AtomicBool>>,
    /// Faults need not happen.
    pub(crate) sweep: bool,
    /// Instructions between two checkpoints, when they are asked for.
    pub(crate) every: Option<u64>,
    pub(crate) checkpoints: Vec<Checkpoint>,
}

/// Runs a scenario on an architecture.
///
/// # Errors
/// What the author has to change, or what is not modelled.
pub fn run(s: &Scenario, arch: Arch, opts: &RunOptions) -> Result<Outcome, RunError> {
    let mut run = setup::begin(s, arch, opts)?;
    run.story()?;
    Ok(run.outcome())
}

/// As [`run`]; besides, the machine and the points to which it can go back.
///
/// # Errors
/// As for [`run`].
pub fn run_marked(
    s: &Scenario,
    arch: Arch,
    opts: &RunOptions,
) -> Result<(Outcome, Marks), RunError> {
    let mut run = setup::begin(s, arch, opts)?;
    run.keep_marks = true;
    run.story()?;
    let outcome = run.outcome();
    Ok((outcome, Marks { machine: run.machine, marks: run.marks }))
}

impl<'a> Run<'a> {
    /// All that happens, and what was expected of it.
    fn story(&mut self) -> Result<(), RunError> {
        self.timeline()?;
        self.machine.kernel.net_check_ledger();
        self.machine.kernel.tell_lock_dangers();
        self.drain()?;
        self.checkpoint(0)?;
        self.expectations()?;
        self.hangs();
        self.faults_happened();
        Ok(())
    }

    /// Tells the expectations of new events.
    pub(crate) fn tell_events(&mut self) -> Result<(), RunError> {
        let events = std::mem::take(&mut self.machine.kernel.events);
        let mut watch = std::mem::take(&mut self.watch);
        let done = events[self.watched..].iter().try_for_each(|e| watch.see(self, e));
        (self.watch, self.watched) = (watch, events.len());
        self.machine.kernel.events = events;
        done
    }

    /// The same, and those that nobody has to see again are gone.
    pub(crate) fn drain(&mut self) -> Result<(), RunError> {
        let done = self.tell_events();
        let waits = !self.whens.is_empty() || !self.steps.0.is_empty();
        let gone = if waits { self.seen } else { self.watched };
        self.machine.forget_events(gone);
        self.watched -= gone;
        self.seen = self.seen.saturating_sub(gone);
        done
    }

    /// Hashes the state, when that is asked for and so much was retired since the last time.
    pub(crate) fn checkpoint(&mut self, gap: u64) -> Result<(), RunError> {
        let (insns, last) = (self.machine.insns(), self.checkpoints.last().map_or(0, |c| c.insns));
        if self.every.is_some() && insns - last >= gap {
            self.drain()?;
            let events = self.watch.count;
            let hash = self.machine.state_hash(Times::Kept);
            self.checkpoints.push(Checkpoint { insns, events, hash });
        }
        Ok(())
    }

    /// CPUs that spin for ever when all else is done: a hang is never silent. Whose lock is of a
    /// CPU that is about to go on was only cut short.
    fn hangs(&mut self) {
        let k = &self.machine.kernel;
        let spinning = k.spinning();
        let text = |(cpu, lock): &(kernel_model::CpuId, kernel_model::lock::LockId)| {
            let holder = k.lock_holder(*lock);
            let spins = |c| spinning.iter().any(|(s, _)| *s == c);
            if holder.is_some_and(|c| !k.is_idle(c) && !spins(c)) {
                return None;
            }
            let holder = holder.map_or("nobody".into(), |c| format!("CPU {}", c.0));
            let name = k.lock_name(*lock);
            Some(format!("CPU {} spins for {name} at the end, which {holder} has", cpu.0))
        };
        let hung: Vec<String> = spinning.iter().filter_map(text).collect();
        let span = self.s.span;
        let deadlock = |m| Failure { kind: FailureKind::Deadlock, ..Failure::new(span, m) };
        self.failures.extend(hung.into_iter().map(deadlock));
    }

    fn probe(&self) -> Probe {
        let points = self.machine.path().to_vec();
        let program = |id| self.machine.kernel.prog(id).map(|p| p.verified.program().clone());
        let progs = self.machine.text().progs().iter();
        let progs = progs.filter(|p| points.iter().any(|at| at.prog == p.prog));
        let progs = progs.filter_map(|p| Some((program(p.prog)?, p.clone()))).collect();
        Probe { points, progs }
    }

    fn costs(&self) -> Vec<Cost> {
        let cost = |(id, r): (&ProgId, &watch::Runs)| {
            let name = |p: &kernel_model::Prog| p.name().to_owned();
            let (from, to) = r.worst_events;
            Cost {
                prog: self.machine.kernel.prog(*id).map_or("?".to_owned(), name),
                runs: r.count,
                total: r.total,
                best: r.best,
                worst: r.worst,
                worst_at: r.worst_at,
                worst_events: from..to,
            }
        };
        self.watch.runs.iter().map(cost).collect()
    }

    fn covered(&self) -> Option<Covered> {
        let counts = self.machine.covers()?;
        let program = |id| self.machine.kernel.prog(id).map(|p| p.verified.program().clone());
        let progs = counts.into_iter().filter_map(|c| Some((program(c.prog)?, c))).collect();
        Some(Covered { progs, folded: self.machine.folded() })
    }

    /// What it came to so far; what was recorded is handed over.
    fn outcome(&mut self) -> Outcome {
        let (arch, insns) = (self.machine.arch(), self.machine.insns());
        let (probe, events) = (self.probe(), self.watch.count);
        let mut notes = self.watch.notes.clone();
        let k = &self.machine.kernel;
        let dangers = k.lock_dangers();
        notes.extend(dangers.iter().take(watch::TOLD).map(|d| k.danger_text(d)));
        let recorded = std::mem::take(&mut self.watch.recorder).finish();
        Outcome {
            arch,
            failures: std::mem::take(&mut self.failures),
            trace: recorded.trace,
            compared: recorded.compared,
            compared_at: recorded.compared_at,
            trace_hash: recorded.hash,
            notes,
            events,
            probe,
            insns,
            native_insns: self.machine.native_insns(),
            out: recorded.out,
            cover: self.covered(),
            costs: self.costs(),
            sweep: self.machine.take_sweep(),
            perfetto: recorded.slices,
            checkpoints: std::mem::take(&mut self.checkpoints),
        }
    }
}
