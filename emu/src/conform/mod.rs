//! Conformance: cases as files, each on every engine, all against the expectation and each other.
//!
//! ```text
//!  paths ─► collect ─► Case ─► worker (Rig: machines kept) ─► Record an engine ─► reporter
//! ```
//!
//! Reading order: [`data`] and [`ubpf`] (the public vectors), [`vector`] (how one becomes a program
//! that the verifier accepts), [`engines`], [`judge`], [`differ`] for what runs with many memories.
//! It is here and not in crate `tests` because the binary cannot depend on that; the suites there
//! are users of it.

pub mod collect;
pub mod coverage;
pub mod data;
pub mod differ;
pub mod diverge;
pub mod engines;
pub mod interpreted;
pub mod judge;
pub mod line;
pub mod ubpf;
pub mod vector;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bpf::{Arch, Endian};

use self::coverage::Coverage;
use self::engines::Rig;
use self::vector::Vector;
use crate::{ordered, panics};

/// Instructions that a case may retire when nothing else is said: two loops of a timed `may_goto`,
/// which end after 250 ms, an instruction each nanosecond.
pub const INSNS_MAX: u64 = 1 << 29;

/// What runs or judges a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engine {
    /// The reference interpreter with memory of a byte order (true is big).
    Interpreter {
        /// Big-endian.
        big: bool,
    },
    /// A back end, under the emulator.
    Jit(Arch),
    /// The verifier, for machines of a byte order.
    Verifier {
        /// Big-endian.
        big: bool,
    },
    /// The kernel of this machine: its verifier and its JIT. Only who asks for it gets it.
    Host,
}

impl Engine {
    /// Verifiers, interpreters, and every back end: what needs nothing of the machine it runs on.
    pub const ALL: [Engine; 8] = [
        Engine::Verifier { big: false },
        Engine::Verifier { big: true },
        Engine::Interpreter { big: false },
        Engine::Interpreter { big: true },
        Engine::Jit(Arch::X86_64),
        Engine::Jit(Arch::Arm64),
        Engine::Jit(Arch::Riscv64),
        Engine::Jit(Arch::S390x),
    ];

    /// `verifier`, `interpreter`, `jit` or `host`.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self {
            Engine::Interpreter { .. } => "interpreter",
            Engine::Jit(_) => "jit",
            Engine::Verifier { .. } => "verifier",
            Engine::Host => "host",
        }
    }

    /// The architecture, or the byte order as compilers name it.
    #[must_use]
    pub const fn arch(self) -> &'static str {
        match self {
            Engine::Interpreter { big: false } | Engine::Verifier { big: false } => "bpfel",
            Engine::Interpreter { big: true } | Engine::Verifier { big: true } => "bpfeb",
            Engine::Jit(arch) => arch.name(),
            Engine::Host => Arch::X86_64.name(),
        }
    }

    /// Byte order of its memory.
    #[must_use]
    pub const fn order(self) -> Endian {
        match self {
            Engine::Interpreter { big: true } | Engine::Verifier { big: true } => Endian::Big,
            Engine::Interpreter { .. } | Engine::Verifier { .. } => Endian::Little,
            Engine::Jit(arch) => arch.endian(),
            Engine::Host => Endian::Little,
        }
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind(), self.arch())
    }
}

/// What came of a case on an engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// As expected.
    Pass,
    /// It is not for this engine.
    Skip,
    /// Something that is not modelled, or that no verified program can do, is needed.
    Unsupported,
    /// Not as expected.
    Fail,
}

impl Outcome {
    /// As results write it.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Outcome::Pass => "pass",
            Outcome::Skip => "skip",
            Outcome::Unsupported => "unsupported",
            Outcome::Fail => "fail",
        }
    }
}

/// What is to be known of an outcome besides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    #[default]
    Plain,
    /// The expectation holds in little endian only; this was big endian, and right.
    LittleEndian,
    /// It fails, as a list says that it does.
    Deviates,
    /// It passes, and a list says that it does not.
    NoLongerDeviates,
    /// It is our own fault: something panicked, or went wrong inside.
    Internal,
}

impl Kind {
    /// As results write it.
    #[must_use]
    pub const fn word(self) -> Option<&'static str> {
        match self {
            Kind::Plain => None,
            Kind::LittleEndian => Some("little_endian"),
            Kind::Deviates => Some("deviates"),
            Kind::NoLongerDeviates => Some("no_longer_deviates"),
            Kind::Internal => Some("internal"),
        }
    }
}

/// One case on one engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Engine.
    pub engine: Engine,
    /// Outcome.
    pub outcome: Outcome,
    /// What it is besides.
    pub kind: Kind,
    /// What should be.
    pub expected: String,
    /// What is.
    pub got: String,
    /// Reason of an outcome that is no pass, or what is to be known of one that is.
    pub note: String,
    /// More on an outcome that is no pass, over several lines.
    pub details: String,
    /// File and line of the source that it is about, when that is not the case's.
    pub at: Option<(PathBuf, u32)>,
    /// Time of loading, compiling and running, in microseconds.
    pub wall_us: u64,
}

impl Record {
    /// An outcome of which nothing is said so far.
    #[must_use]
    pub const fn new(engine: Engine, outcome: Outcome) -> Record {
        Record {
            engine,
            outcome,
            kind: Kind::Plain,
            expected: String::new(),
            got: String::new(),
            note: String::new(),
            details: String::new(),
            at: None,
            wall_us: 0,
        }
    }
}

/// A case: a file, or a part of one.
#[derive(Debug)]
pub struct Case {
    /// Name in reports: the path, and what of it.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its line, for reports that point at one.
    pub line: u32,
    /// What it is.
    pub body: Body,
}

/// Kinds of cases.
#[derive(Debug)]
pub enum Body {
    /// Instructions with the state after them.
    Vector(Box<Vector>),
    /// Another kind.
    Other(Box<dyn Runner>),
    /// Not a case of a kind that is run here: why.
    Skip(String),
    /// It cannot be read: why.
    Bad(String),
}

/// A kind of case that is defined elsewhere.
pub trait Runner: std::fmt::Debug + Send + Sync {
    /// A record for each engine that is asked for and that the case is for.
    fn run(&self, options: &Options) -> Vec<Record>;
}

/// How cases are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Engines.
    pub engines: Vec<Engine>,
    /// Instructions a case may retire.
    pub insns_max: u64,
    /// Threads.
    pub jobs: usize,
    /// Times each case is run; all must come to the same.
    pub repeat: u32,
    /// Where what is covered is kept, when anybody asks.
    pub coverage: Option<Arc<Mutex<Coverage>>>,
}

impl Options {
    /// Notes something as covered.
    pub fn covers(&self, note: impl FnOnce(&mut Coverage)) {
        if let Some(c) = &self.coverage {
            // A case that failed while it noted something took nothing away.
            note(&mut c.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            engines: Engine::ALL.to_vec(),
            insns_max: INSNS_MAX,
            jobs: 1,
            repeat: 1,
            coverage: None,
        }
    }
}

/// Runs cases and hands out their records in the order of the cases; stops early when `sink` says
/// false.
pub fn run<'a>(
    cases: &'a [Case],
    options: &Options,
    sink: impl FnMut(&'a Case, Vec<Record>) -> bool,
) {
    let work = |rig: &mut Rig, case: &Case| repeated(rig, case, options);
    ordered::in_order(cases, options.jobs, || Rig::new(options.insns_max), work, sink);
}

/// A case as often as was asked for.
fn repeated(rig: &mut Rig, case: &Case, options: &Options) -> Vec<Record> {
    let mut first = once(rig, case, options);
    for n in 1..options.repeat {
        for (was, is) in first.iter_mut().zip(once(rig, case, options)) {
            if (was.outcome, &was.got) != (is.outcome, &is.got) && was.outcome != Outcome::Fail {
                was.note = format!("run {} of it came to something else: {}", n + 1, is.got);
                was.outcome = Outcome::Fail;
            }
            was.wall_us += is.wall_us;
        }
    }
    first
}

fn once(rig: &mut Rig, case: &Case, options: &Options) -> Vec<Record> {
    let all = |outcome: Outcome, kind: Kind, note: &str| -> Vec<Record> {
        let record = |engine: &Engine| Record {
            kind,
            note: note.to_owned(),
            ..Record::new(*engine, outcome)
        };
        // As many as there would be if it ran: what is no case is nothing to verify alone.
        let running = |e: &&Engine| !matches!(e, Engine::Verifier { .. });
        match options.engines.iter().any(|e| running(&e)) {
            true => options.engines.iter().filter(running).map(record).collect(),
            false => options.engines.iter().map(record).collect(),
        }
    };
    let run = || match &case.body {
        Body::Vector(v) => {
            let records = judge::vector(rig, v, &options.engines);
            options.covers(|c| rig.covered(c, v));
            records
        }
        Body::Other(runner) => runner.run(options),
        Body::Skip(why) => all(Outcome::Skip, Kind::Plain, why),
        Body::Bad(why) => all(Outcome::Fail, Kind::Plain, why),
    };
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(records) => records,
        Err(payload) => {
            // The machine it happened in is in no state to be used again.
            *rig = Rig::new(options.insns_max);
            let words = format!("internal error: {}", panics::words(&*payload));
            all(Outcome::Fail, Kind::Internal, &words)
        }
    }
}
