//! Search: one scenario over interleavings and faults, until something is wrong.
//!
//! ```text
//!  text ─► Searcher (loads once) ─► attempt 0, 1, 2, ...  ─► Found ─► shrink ─► pinned RON file
//!                                   from a snapshot at time 0, or (dfs) at the last choice
//! ```
//!
//! **Invariants.** What run `n` of a search does depends on the scenario, the seed and `n` alone:
//! not on the machine, on other runs, or on how many threads there are. A finding is named by
//! kind and words without numbers ([`finding::Signature`]), which shrinking keeps.

pub mod dfs;
mod driver;
pub mod finding;
mod menu;
pub mod repin;
pub mod shrink;
pub mod strategy;
pub mod write;

use std::collections::{BTreeMap, BTreeSet};

use bpf::Arch;
use scenarios::Scenario;

use driver::{Driver, Follow, Shared};
pub use driver::{Switch, Way};
use finding::{Kind, Signature};
pub use menu::Injection;
use strategy::{Here, Pct, Random, Strategy};

use crate::machine::Machine;
use crate::runner::{Outcome, RunError, RunOptions, Runs, cells};

/// How runs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By the toss of a coin.
    Random,
    /// By priorities that change at so many places less one.
    Pct(u32),
}

impl How {
    fn strategy(self, seed: u64, run: u64, cpus: u32, steps: u64) -> Box<dyn Strategy> {
        match self {
            How::Random => Box::new(Random::new(seed, run)),
            How::Pct(depth) => Box::new(Pct::new(seed, run, cpus, steps, depth)),
        }
    }
}

/// What one run came to.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Names the interleaving.
    pub interleaving: u64,
    /// What is wrong, with messages.
    pub wrong: BTreeMap<Signature, String>,
    /// What was chosen, when something is wrong.
    pub way: Option<Way>,
    /// Faults that were added.
    pub faults: Vec<Injection>,
}

/// Something wrong, and how it came about.
#[derive(Clone, Debug)]
pub struct Found {
    /// Number of the run.
    pub run: u64,
    /// What is wrong; of several things the gravest.
    pub signature: Signature,
    /// All that is wrong.
    pub wrong: BTreeMap<Signature, String>,
    /// What was chosen.
    pub way: Way,
    /// Faults that were added.
    pub faults: Vec<Injection>,
}

impl Found {
    /// Of a run; `None` when nothing is wrong with it but what is known.
    fn new(run: u64, attempt: Attempt, known: &BTreeSet<Signature>) -> Option<Found> {
        let Attempt { wrong, way, faults, .. } = attempt;
        let is_new = |s: &&Signature| !known.contains(*s);
        // What is wrong in itself says more than the expectation that it breaks.
        let grave = wrong
            .keys()
            .filter(is_new)
            .find(|s| !matches!(s.kind, Kind::Expectation | Kind::NotInjected));
        let signature = grave.or(wrong.keys().find(is_new))?.clone();
        Some(Found { run, signature, wrong, way: way?, faults })
    }
}

/// Goes on as without a schedule, and counts.
#[derive(Clone, Copy, Debug)]
struct Default;

impl Strategy for Default {
    fn choose(&mut self, here: &Here<'_>) -> Option<crate::machine::schedule::Pick> {
        Some(here.default)
    }

    fn copy(&self) -> Box<dyn Strategy> {
        Box::new(*self)
    }
}

/// One scenario, ready to be run many times.
#[derive(Debug)]
pub struct Searcher<'a> {
    text: &'a str,
    seed: u64,
    how: How,
    cpus: u32,
    /// One for each architecture; the first is searched, the others have to agree.
    runs: Vec<Runs<'a>>,
    /// Choices of an ordinary run.
    steps: u64,
    /// What is wrong with an ordinary run.
    ordinary: BTreeMap<Signature, String>,
    /// Faults to choose from.
    menu: Vec<Injection>,
    /// Architectures whose traces need not be those of the others.
    exempt: BTreeSet<Arch>,
    /// What was found before: a search goes on past it.
    known: BTreeSet<Signature>,
}

impl<'a> Searcher<'a> {
    /// Loads the scenario, of which `text` is the file, and runs it once to see how long it is.
    ///
    /// # Errors
    /// As for [`crate::runner::run`].
    pub fn new(
        (s, text): (&'a Scenario, &'a str),
        archs: &[Arch],
        opts: &RunOptions,
        how: How,
        faults: bool,
    ) -> Result<Searcher<'a>, RunError> {
        let runs = archs.iter().map(|a| Runs::new(s, *a, opts)).collect::<Result<_, _>>()?;
        let mut it = Searcher {
            text,
            seed: opts.seed,
            how,
            cpus: opts.cpus.unwrap_or(s.machine.cpus.v),
            runs,
            steps: 1,
            ordinary: BTreeMap::new(),
            menu: Vec::new(),
            exempt: archs.iter().copied().filter(|a| cells::may_differ(s, *a)).collect(),
            known: BTreeSet::new(),
        };
        let log = Shared::default();
        let driver = Driver { strategy: Box::new(Default), log: log.clone() };
        let outcome = it.runs[0].counted(Box::new(driver))?;
        it.steps = log.get().steps.max(1);
        let ordinary = it.judged(0, &outcome, &log, Vec::new());
        if faults {
            it.menu = menu::of(it.runs[0].machine(), &log.get().points());
        }
        it.ordinary = it.agreed(ordinary, &outcome, &|| Box::new(Default))?.wrong;
        Ok(it)
    }

    /// Goes on past what was found before.
    pub fn pass_over(&mut self, known: BTreeSet<Signature>) {
        self.known = known;
    }

    /// How many sets of faults [`Searcher::plan`] has, with the empty one.
    fn plans(&self) -> u64 {
        1 + menu::round(self.menu.len() as u64)
    }

    /// A set of faults: none, then each alone, then pairs.
    fn plan(&self, n: u64) -> Vec<Injection> {
        n.checked_sub(1).map_or_else(Vec::new, |n| menu::chosen(&self.menu, n))
    }

    /// Choices of an ordinary run, and faults to choose from.
    #[must_use]
    pub fn size(&self) -> (u64, usize) {
        (self.steps, self.menu.len())
    }

    /// The machine of the first architecture, as its last run left it.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        self.runs[0].machine()
    }

    fn strategy(&self, run: u64) -> Box<dyn Strategy> {
        self.how.strategy(self.seed, run, self.cpus, self.steps)
    }

    /// What is wrong with a run without switches or faults.
    #[must_use]
    pub fn ordinary(&self) -> &BTreeMap<Signature, String> {
        &self.ordinary
    }

    /// Run `n` of the search.
    ///
    /// # Errors
    /// As for [`crate::runner::run`].
    pub fn attempt(&mut self, n: u64) -> Result<Attempt, RunError> {
        // Every set of faults in turn, and every other run without.
        let plan = if self.menu.is_empty() || n.is_multiple_of(2) { 0 } else { 1 + n / 2 };
        let faults = self.plan(plan);
        let (outcome, log) = self.one(0, self.strategy(n), &faults)?;
        let attempt = self.judged(0, &outcome, &log, faults);
        if self.runs.len() == 1 {
            return Ok(attempt);
        }
        let (how, seed, cpus, steps) = (self.how, self.seed, self.cpus, self.steps);
        self.agreed(attempt, &outcome, &|| how.strategy(seed, n, cpus, steps))
    }

    /// One run on one of the architectures.
    fn one(
        &mut self,
        at: usize,
        strategy: Box<dyn Strategy>,
        faults: &[Injection],
    ) -> Result<(Outcome, Shared), RunError> {
        let log = Shared::default();
        let driver = Driver { strategy, log: log.clone() };
        let faults: Vec<_> = faults.iter().map(|i| (i.kind.clone(), i.nth)).collect();
        Ok((self.runs[at].under(Box::new(driver), &faults)?, log))
    }

    fn judged(
        &self,
        at: usize,
        outcome: &Outcome,
        log: &Shared,
        faults: Vec<Injection>,
    ) -> Attempt {
        let wrong = finding::signatures(outcome, self.text, !faults.is_empty());
        let log = log.get();
        let way = (!wrong.is_empty()).then(|| log.way(self.runs[at].machine()));
        Attempt { interleaving: log.hash, wrong, way, faults }
    }

    /// The same run on the other architectures: what is wrong with it there, and whether the
    /// traces are the same.
    fn agreed(
        &mut self,
        mut attempt: Attempt,
        first: &Outcome,
        strategy: &dyn Fn() -> Box<dyn Strategy>,
    ) -> Result<Attempt, RunError> {
        let mut traces = Traces::default();
        traces.see(self, first, &mut attempt.wrong);
        for at in 1..self.runs.len() {
            let (outcome, log) = self.one(at, strategy(), &attempt.faults)?;
            let other = self.judged(at, &outcome, &log, attempt.faults.clone());
            add(&mut attempt.wrong, other.wrong);
            traces.see(self, &outcome, &mut attempt.wrong);
            if !attempt.wrong.is_empty() && attempt.way.is_none() {
                attempt.way = Some(log.get().way(self.runs[at].machine()));
            }
        }
        Ok(attempt)
    }

    /// What run `n` found, if it found something.
    ///
    /// # Errors
    /// As for [`crate::runner::run`].
    pub fn found(&mut self, n: u64) -> Result<(u64, Option<Found>), RunError> {
        let attempt = self.attempt(n)?;
        Ok((attempt.interleaving, Found::new(n, attempt, &self.known)))
    }

    /// Follows a way as far as it goes: what was made of it, and what is wrong then.
    fn follow(&mut self, way: &Way) -> Result<(Way, BTreeMap<Signature, String>), RunError> {
        let (mut first, mut wrong, mut traces) = (None, BTreeMap::new(), Traces::default());
        for at in 0..self.runs.len() {
            let follow = Follow::new(way.clone());
            let made = follow.made.clone();
            let outcome = self.runs[at].under(Box::new(follow), &[])?;
            add(&mut wrong, finding::signatures(&outcome, self.text, false));
            traces.see(self, &outcome, &mut wrong);
            first.get_or_insert_with(|| made.lock().expect("the run is over").clone());
        }
        Ok((first.expect("an architecture"), wrong))
    }
}

/// What was wrong first keeps its words.
fn add(all: &mut BTreeMap<Signature, String>, more: BTreeMap<Signature, String>) {
    for (signature, message) in more {
        all.entry(signature).or_insert(message);
    }
}

/// The traces of one run on several architectures.
#[derive(Default)]
struct Traces(Option<(Arch, u64)>);

impl Traces {
    /// One more; that it is another is wrong.
    fn see(&mut self, s: &Searcher<'_>, o: &Outcome, wrong: &mut BTreeMap<Signature, String>) {
        if s.exempt.contains(&o.arch) {
            return;
        }
        let (first, hash) = *self.0.get_or_insert((o.arch, o.trace_hash));
        if hash != o.trace_hash {
            let message = format!("the trace on {} is not that on {first}", o.arch);
            wrong.entry(finding::divergence()).or_insert(message);
        }
    }
}
