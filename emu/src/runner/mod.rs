//! Runs a scenario on one architecture.
//!
//! ```text
//!  Scenario ─► setup (machine, nics, objects, attach) ─► timeline ─► expect ─► Outcome
//!                                       trace: events as lines, hashed without clocks
//! ```

pub mod captures;
pub mod cells;
pub mod contents;
pub mod data;
mod expect;
mod faults;
mod fire;
mod flows;
mod load;
mod matching;
pub mod packet;
mod setup;
mod state;
mod test_run;
mod timeline;
pub mod trace;
pub mod wire;

use std::path::PathBuf;
use std::sync::Arc;

use bpf::Arch;
use scenarios::{Finding, Scenario, Span};

use crate::machine::path::Point;
use crate::machine::{Machine, MachineError};

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
}

/// Why a scenario could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The author's input is wrong.
    #[error("{}", .0.message)]
    Input(Box<Finding>),
    /// Something that is not modelled yet.
    #[error("unsupported: {what}")]
    Unsupported {
        /// What.
        what: String,
        /// Where it is asked for.
        span: Span,
    },
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
        RunError::Internal(e.to_string())
    }
}

/// An expectation that did not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What was expected, and what happened, at which packet or event.
    pub message: String,
    /// The expectation.
    pub span: Span,
    /// What would be right in its place: a span of the file and the text that holds there.
    pub fix: Option<(Span, String)>,
}

/// The way programs went, with the programs.
#[derive(Debug, Default)]
pub struct Probe {
    /// Blocks in the order of the run.
    pub points: Vec<Point>,
    /// Programs as verified, and their native code.
    pub progs: Vec<(bpf::Program, Arc<crate::engine::Loaded>)>,
}

/// Frames with the virtual time at which each left.
pub type Frames = Vec<(u64, Vec<u8>)>;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Architecture.
    pub arch: Arch,
    /// Expectations that did not hold; empty when all did.
    pub failures: Vec<Failure>,
    /// The trace with clocks, a line an event.
    pub trace: Vec<String>,
    /// The trace that is compared between architectures: no clocks, CPU by CPU.
    pub compared: Vec<String>,
    /// For each line of `compared`, its number in `trace`.
    pub compared_at: Vec<usize>,
    /// Hash of `compared`.
    pub trace_hash: u64,
    /// What was noted for `RunOptions::probe`.
    pub probe: Probe,
    /// BPF instructions retired.
    pub insns: u64,
    /// Native instructions of programs that ran.
    pub native_insns: u64,
    /// Frames that left, by nic.
    pub out: Vec<(String, Frames)>,
    /// Program runs as spans of virtual time.
    pub perfetto: Vec<trace::Slice>,
}

/// A scenario in progress.
pub(crate) struct Run<'a> {
    pub(crate) s: &'a Scenario,
    pub(crate) machine: Machine,
    pub(crate) captures: captures::CaptureFiles,
    /// Objects in file order.
    pub(crate) objects: Vec<Loaded>,
    /// Frames sent so far.
    pub(crate) sent: u64,
    /// A frame that was sent had wrong lengths or sums itself.
    pub(crate) sent_malformed: bool,
    /// Records that consumers got, by map.
    pub(crate) consumed: std::collections::BTreeMap<u32, Vec<Vec<u8>>>,
    /// Maps that have a consumer.
    pub(crate) consumers: Vec<u32>,
    pub(crate) failures: Vec<Failure>,
    /// `When` steps whose event has not come.
    pub(crate) whens: Vec<(&'a scenarios::schema::Event, &'a scenarios::schema::Action)>,
    /// Events that the `When` steps have been compared with.
    pub(crate) seen: usize,
}

/// Runs a scenario on an architecture.
///
/// # Errors
/// What the author has to change, or what is not modelled.
pub fn run(s: &Scenario, arch: Arch, opts: &RunOptions) -> Result<Outcome, RunError> {
    let mut run = setup::begin(s, arch, opts)?;
    run.timeline()?;
    run.machine.kernel.net_check_ledger();
    run.expectations()?;
    run.faults_happened();
    Ok(run.finish())
}

impl Run<'_> {
    fn probe(&self) -> Probe {
        let points = self.machine.path().to_vec();
        let program = |id| self.machine.kernel.prog(id).map(|p| p.verified.program().clone());
        let progs = self.machine.text().progs().iter();
        let progs = progs.filter(|p| points.iter().any(|at| at.prog == p.prog));
        let progs = progs.filter_map(|p| Some((program(p.prog)?, p.clone()))).collect();
        Probe { points, progs }
    }

    fn finish(self) -> Outcome {
        let names = trace::Names::of(&self);
        let events = self.machine.events();
        let cpus = self.machine.config().kernel.cpus;
        let compared_at = trace::order(events, cpus);
        let compared: Vec<String> =
            compared_at.iter().map(|n| trace::line(&events[*n], &names, false)).collect();
        let insns = self.machine.kernel.cpus.iter().map(|c| c.retired).sum();
        let native = self.machine.native_insns();
        Outcome {
            arch: self.machine.arch(),
            trace_hash: trace::hash(&compared),
            trace: events.iter().map(|e| trace::line(e, &names, true)).collect(),
            compared,
            compared_at,
            probe: self.probe(),
            insns,
            native_insns: native,
            out: trace::frames_out(events, &names),
            perfetto: trace::slices(events, &names),
            failures: self.failures,
        }
    }
}
