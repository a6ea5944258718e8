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

mod dfs;
mod driver;
pub mod finding;
pub mod repin;
pub mod shrink;
pub mod strategy;
pub mod write;

use std::collections::BTreeMap;

use bpf::Arch;
use kernel_model::context::{Level, Point};
use kernel_model::fault;
use scenarios::Scenario;

pub use dfs::Exhausted;
use driver::{Driver, Follow, Shared};
pub use driver::{Switch, Way};
use finding::{Kind, Signature};
use strategy::{Here, Pct, Random, Strategy};

use crate::machine::Machine;
use crate::runner::{Outcome, RunError, RunOptions, Runs};

/// How runs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// By the toss of a coin.
    Random,
    /// By priorities that change at so many places less one.
    Pct(u32),
}

/// A fault that the search adds.
#[derive(Clone, Debug)]
pub struct Injection {
    /// For the kernel.
    pub kind: fault::Kind,
    /// Occasion, from 1.
    pub nth: u64,
    /// As a scenario writes it.
    pub ron: String,
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
    fn new(run: u64, attempt: Attempt) -> Option<Found> {
        let Attempt { wrong, way, faults, .. } = attempt;
        // What is wrong in itself says more than the expectation that it breaks.
        let grave = wrong.keys().find(|s| s.kind != Kind::Expectation);
        let signature = grave.or(wrong.keys().next())?.clone();
        Some(Found { run, signature, wrong, way: way?, faults })
    }
}

/// Goes on as without a schedule, and counts.
#[derive(Clone, Copy, Debug)]
struct Default;

impl Strategy for Default {
    fn choose(&mut self, here: &Here<'_>) -> Option<kernel_model::CpuId> {
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
    /// The traces need not be equal.
    may_differ: bool,
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
        let differs =
            |e: &scenarios::schema::Expect| matches!(e, scenarios::schema::Expect::Differs { .. });
        let mut it = Searcher {
            text,
            seed: opts.seed,
            how,
            cpus: opts.cpus.unwrap_or(s.machine.cpus.v),
            runs,
            steps: 1,
            ordinary: BTreeMap::new(),
            menu: Vec::new(),
            may_differ: s.expect.iter().any(differs),
        };
        let log = Shared::default();
        let driver = Driver { strategy: Box::new(Default), log: log.clone() };
        let alloc = fault::Kind::Alloc { site: None, prog: None, chance: None };
        let counting = if faults { vec![(alloc, u64::MAX)] } else { Vec::new() };
        let outcome = it.runs[0].under(Box::new(driver), &counting)?;
        it.ordinary = finding::signatures(&outcome, text, true);
        it.steps = log.get().steps.max(1);
        if faults {
            it.menu = menu(it.runs[0].machine(), &log.get().points());
        }
        Ok(it)
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
        match self.how {
            How::Random => Box::new(Random::new(self.seed, run)),
            How::Pct(depth) => Box::new(Pct::new(self.seed, run, self.cpus, self.steps, depth)),
        }
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
        let injected = if self.menu.is_empty() || n.is_multiple_of(2) {
            Vec::new()
        } else {
            // Every fault in turn, each under many interleavings.
            vec![self.menu[(n / 2) as usize % self.menu.len()].clone()]
        };
        let faults: Vec<_> = injected.iter().map(|i| (i.kind.clone(), i.nth)).collect();
        let mut first: Option<(Attempt, u64)> = None;
        for at in 0..self.runs.len() {
            let log = Shared::default();
            let driver = Driver { strategy: self.strategy(n), log: log.clone() };
            let outcome = self.runs[at].under(Box::new(driver), &faults)?;
            match &mut first {
                None => {
                    let attempt = self.judged(at, &outcome, &log, injected.clone());
                    first = Some((attempt, outcome.trace_hash));
                }
                Some((attempt, hash)) if *hash != outcome.trace_hash && !self.may_differ => {
                    let arch = outcome.arch;
                    let what = "the traces of the architectures".to_owned();
                    let signature = Signature { kind: Kind::Divergence, what };
                    let message = format!("the trace on {arch} is another");
                    attempt.wrong.insert(signature, message);
                    attempt.way.get_or_insert_with(|| log.get().way(self.runs[at].machine()));
                }
                Some(_) => {}
            }
        }
        Ok(first.expect("an architecture").0)
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

    /// What run `n` found, if it found something.
    ///
    /// # Errors
    /// As for [`crate::runner::run`].
    pub fn found(&mut self, n: u64) -> Result<(u64, Option<Found>), RunError> {
        let attempt = self.attempt(n)?;
        Ok((attempt.interleaving, Found::new(n, attempt)))
    }

    /// Follows a way as far as it goes: what was made of it, and what is wrong then.
    fn follow(&mut self, way: &Way) -> Result<(Way, BTreeMap<Signature, String>), RunError> {
        let follow = Follow::new(way.clone());
        let made = follow.made.clone();
        let outcome = self.runs[0].under(Box::new(follow), &[])?;
        let made = made.lock().expect("the run is over").clone();
        Ok((made, finding::signatures(&outcome, self.text, false)))
    }
}

/// Failures that helpers have, which a program has to expect.
const CALLS: &[(&str, &str, i64)] = &[
    ("map_update_elem", "ENOMEM", -12),
    ("map_push_elem", "E2BIG", -7),
    ("ringbuf_reserve", "NULL", 0),
    ("ringbuf_output", "EAGAIN", -11),
    ("probe_read_kernel", "EFAULT", -14),
    ("probe_read_user", "EFAULT", -14),
    ("skb_store_bytes", "EFAULT", -14),
    ("skb_load_bytes", "EFAULT", -14),
    ("xdp_adjust_head", "EINVAL", -22),
    ("xdp_adjust_tail", "EINVAL", -22),
    ("timer_start", "EINVAL", -22),
];

/// Faults that can come about in a run: its allocations, its calls, NMIs at its points.
fn menu(m: &Machine, points: &[Point]) -> Vec<Injection> {
    let counted = m.kernel.faults.list().last().map_or(0, |f| f.seen);
    let alloc = |nth| Injection {
        kind: fault::Kind::Alloc { site: None, prog: None, chance: None },
        nth,
        ron: format!("Alloc(nth: {nth})"),
    };
    let mut out: Vec<Injection> = (1..=counted).map(alloc).collect();
    for (func, ret, value) in CALLS {
        let called = |p: &&Point| matches!(p, Point::Call { func: f, .. } if f == func);
        for nth in 1..=points.iter().filter(called).count() as u64 {
            let (func, ret) = (func.to_string(), format!("bpf_{func}\", nth: {nth}, ret: {ret}"));
            let kind = fault::Kind::Call { func, prog: None, ret: value.cast_unsigned() };
            out.push(Injection { kind, nth, ron: format!("Call(func: \"{ret})") });
        }
    }
    let mut passed: BTreeMap<_, u64> = BTreeMap::new();
    for prog in points.iter().filter(|p| p.is_counted()).filter_map(Point::prog) {
        *passed.entry(prog).or_default() += 1;
    }
    for (prog, points) in passed {
        let name = m.kernel.prog(prog).map_or("", kernel_model::Prog::name);
        for (cpu, nth) in
            (0..m.config().kernel.cpus).flat_map(|c| (1..=points).map(move |n| (c, n)))
        {
            let ron = format!("Nmi(cpu: {cpu}, safepoint: {nth}, prog: \"{name}\")");
            let (level, cpu) = (Level::Nmi, kernel_model::CpuId(cpu));
            let kind = fault::Kind::Interrupt { level, cpu, line: 0, prog, inside: None };
            out.push(Injection { kind, nth, ron });
        }
    }
    out
}
