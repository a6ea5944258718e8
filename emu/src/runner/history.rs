//! A run that is gone over in both directions: snapshots at intervals, and from the nearest one on
//! to the point that is wanted.
//!
//! Positions are those of [`crate::machine::halt`]: one for each native instruction. Snapshots
//! share the pages that are alike; when there are too many, every second one goes and the interval
//! is doubled, so that a run of any length keeps a bounded number of them.

use std::collections::BTreeMap;

use bpf::Arch;
use kernel_model::CpuId;
use kernel_model::state_hash::Times;
use scenarios::Scenario;

use super::again::Saved;
use super::{Outcome, Run, RunError, RunOptions, setup};
use crate::machine::Machine;
use crate::machine::halt::Halting;
use crate::unicorn::LOOSE_INSNS;

/// Work ([`Machine::work`]) between two snapshots, at first: so much that snapshots are a small
/// part of it, and so little that nobody waits for it to be done again.
const INTERVAL: u64 = 2_000_000;
/// How often in an interval it is looked at what was done.
const LOOKS: u64 = 2;

/// A run with its past.
#[derive(Debug)]
pub struct History<'a> {
    run: Run<'a>,
    /// By position, with the work up to there.
    kept: BTreeMap<u64, (u64, Saved<'a>)>,
    interval: u64,
    kept_max: usize,
    /// What the run came to, and its length.
    end: Option<(Outcome, u64)>,
    /// It is at its end, from where it does not go on.
    over: bool,
}

/// How a stretch of a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Went {
    /// It stopped where it was told to.
    Stopped,
    /// The run is over.
    End,
}

impl<'a> History<'a> {
    /// A run at time 0, that will keep so many snapshots at most.
    ///
    /// # Errors
    /// As for [`super::run`].
    pub fn new(
        s: &'a Scenario,
        arch: Arch,
        opts: &RunOptions,
        kept_max: usize,
    ) -> Result<History<'a>, RunError> {
        let mut run = setup::begin(s, arch, opts)?;
        let first = (run.machine.work(), run.save());
        let kept = BTreeMap::from([(run.machine.position(), first)]);
        let kept_max = kept_max.max(2);
        Ok(History { run, kept, interval: INTERVAL, kept_max, end: None, over: false })
    }

    /// With so much work between two snapshots, at first.
    #[must_use]
    pub fn with_interval(self, interval: u64) -> History<'a> {
        History { interval: interval.max(1), ..self }
    }

    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.run.machine.position()
    }

    /// The machine as it is there.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.run.machine
    }

    /// The run as it is there; what changes it has to be told of with [`History::fork`].
    pub(crate) fn run(&self) -> &Run<'a> {
        &self.run
    }

    /// As [`History::run`].
    pub(crate) fn run_mut(&mut self) -> &mut Run<'a> {
        &mut self.run
    }

    /// Hash of memory and kernel state as they are there.
    pub fn state_hash(&mut self) -> u64 {
        self.run.machine.state_hash(Times::Kept)
    }

    /// Snapshots that are kept, and work between them.
    #[must_use]
    pub fn kept(&self) -> (usize, u64) {
        (self.kept.len(), self.interval)
    }

    /// What the run came to, once it was at its end.
    #[must_use]
    pub fn end(&self) -> Option<&Outcome> {
        self.end.as_ref().map(|e| &e.0)
    }

    /// Whether it is at its end.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Position of the last snapshot before another one.
    #[must_use]
    pub fn kept_before(&self, position: u64) -> Option<u64> {
        self.kept.range(..position).next_back().map(|k| *k.0)
    }

    /// Goes to the first place not before a position at which a run can stop, or to the end of the
    /// run; where that is.
    ///
    /// # Errors
    /// As for [`super::run`].
    pub fn seek(&mut self, to: u64) -> Result<u64, RunError> {
        if to < self.position() || self.over {
            self.back_to(to);
        }
        self.forward(&Halting { until: to, scan: true, from: u64::MAX, ..Halting::NEVER })?;
        Ok(self.position())
    }

    /// Goes back to the last snapshot not after a position.
    pub fn back_to(&mut self, position: u64) {
        let first = *self.kept.first_key_value().expect("time 0 is kept").0;
        let (_, (_, from)) =
            self.kept.range(..=position.max(first)).next_back().expect("time 0 is kept");
        self.run.restore(from);
        self.over = false;
    }

    /// Goes back to a snapshot in which no more than so many BPF instructions are retired, when the
    /// present is not one of them.
    pub fn back_to_insns(&mut self, insns: u64) {
        if self.over || self.run.machine.retired() > insns {
            let before = self.kept.iter().rev().find(|k| k.1.1.insns() <= insns);
            let at = before.map_or(0, |k| *k.0);
            self.back_to(at);
        }
    }

    /// [`Machine::place_of`] in the last snapshot not after a position.
    #[must_use]
    pub fn place_in(&self, position: u64, cpu: CpuId) -> u64 {
        self.kept.range(..=position).next_back().map_or(0, |k| k.1.1.place_of(cpu))
    }

    /// Goes on until it stops as it is told, or to the end.
    ///
    /// # Errors
    /// As for [`super::run`].
    pub fn forward(&mut self, halting: &Halting) -> Result<Went, RunError> {
        while !self.over {
            let next = self.position().saturating_add((self.interval / LOOKS).max(1));
            // It may go beyond where a look is due, but not beyond where it is to stop.
            let (until, loose) = match next.saturating_add(LOOSE_INSNS) < halting.until {
                true => (next, true),
                false => (halting.until, halting.loose),
            };
            self.run.machine.halt(Some(Halting { until, loose, ..halting.clone() }));
            match self.run.story() {
                Err(RunError::Paused) => {
                    let at = self.position();
                    let early = at < until;
                    self.keep()?;
                    if early || at >= halting.until {
                        return Ok(Went::Stopped);
                    }
                }
                Ok(()) => {
                    let at = self.position();
                    self.end = Some((self.run.outcome(), at));
                    self.over = true;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(Went::End)
    }

    /// The run cannot go on: this is its end.
    pub(crate) fn give_up(&mut self) {
        self.over = true;
    }

    /// The present was changed: what was the future is none any more.
    pub fn fork(&mut self) {
        let at = self.position();
        self.kept.split_off(&at);
        self.kept.insert(at, (self.run.machine.work(), self.run.save()));
        (self.end, self.over) = (None, false);
    }

    /// Keeps the present, when the last that was kept is an interval ago.
    fn keep(&mut self) -> Result<(), RunError> {
        let (at, work) = (self.position(), self.run.machine.work());
        let last = self.kept.range(..=at).next_back().map_or(0, |k| k.1.0);
        if work < last.saturating_add(self.interval) {
            return Ok(());
        }
        // Events that were seen are not copied.
        self.run.drain()?;
        self.kept.insert(at, (work, self.run.save()));
        while self.kept.len() > self.kept_max {
            self.interval *= 2;
            let (mut last, interval) = (None, self.interval);
            self.kept.retain(|_, (work, _)| {
                let keep = last.is_none_or(|l| *work >= l + interval);
                last = if keep { Some(*work) } else { last };
                keep
            });
        }
        Ok(())
    }
}
