//! A run that is gone over in both directions: snapshots at intervals, and from the nearest one on
//! to the point that is wanted.
//!
//! Positions are BPF instructions retired on all CPUs since time 0. A run stands at points (calls
//! and returns, back-edges, what kernel paths name), so it stops at the first point not before a
//! position. Snapshots share the pages that are alike; when there are too many, every second one
//! goes and the interval is doubled, so that a run of any length keeps a bounded number of them.

use std::collections::BTreeMap;

use bpf::Arch;
use kernel_model::state_hash::Times;
use scenarios::Scenario;

use super::again::Saved;
use super::{Outcome, Run, RunError, RunOptions, setup};
use crate::machine::Machine;

/// Instructions between two snapshots, at first.
const INTERVAL: u64 = 10_000;

/// A run with its past.
#[derive(Debug)]
pub struct History<'a> {
    run: Run<'a>,
    kept: BTreeMap<u64, Saved<'a>>,
    interval: u64,
    kept_max: usize,
    /// What the run came to, and its length.
    end: Option<(Outcome, u64)>,
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
        let kept = BTreeMap::from([(0, run.save())]);
        let kept_max = kept_max.max(2);
        Ok(History { run, kept, interval: INTERVAL, kept_max, end: None })
    }

    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.run.machine.insns()
    }

    /// The machine as it is there.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.run.machine
    }

    /// Hash of memory and kernel state as they are there.
    pub fn state_hash(&mut self) -> u64 {
        self.run.machine.state_hash(Times::Kept)
    }

    /// Snapshots that are kept, and instructions between them.
    #[must_use]
    pub fn kept(&self) -> (usize, u64) {
        (self.kept.len(), self.interval)
    }

    /// What the run came to, once it was at its end.
    #[must_use]
    pub fn end(&self) -> Option<&Outcome> {
        self.end.as_ref().map(|e| &e.0)
    }

    /// Goes to the first point not before a position, or to the end of the run; where that is.
    ///
    /// # Errors
    /// As for [`super::run`].
    pub fn seek(&mut self, insns: u64) -> Result<u64, RunError> {
        // The end is no point to go on from.
        let over = self.end.is_some() && self.position() >= self.end.as_ref().map_or(0, |e| e.1);
        if over || insns <= self.position() {
            let (_, from) = self.kept.range(..=insns).next_back().expect("time 0 is kept");
            self.run.restore(from);
        }
        while self.position() < insns {
            let next = self.kept.range(..=self.position()).next_back().map_or(0, |k| *k.0);
            let stop = insns.min(next + self.interval);
            self.run.machine.pause_at(Some(stop));
            let went = self.run.story();
            self.run.machine.pause_at(None);
            match went {
                Err(RunError::Paused) => self.keep(),
                Ok(()) => {
                    let at = self.position();
                    self.end = Some((self.run.outcome(), at));
                    break;
                }
                Err(e) => return Err(e),
            }
        }
        Ok(self.position())
    }

    /// Keeps the present, when the last that was kept is an interval ago.
    fn keep(&mut self) {
        let at = self.position();
        let last = self.kept.range(..=at).next_back().map_or(0, |k| *k.0);
        if at < last + self.interval {
            return;
        }
        self.kept.insert(at, self.run.save());
        if self.kept.len() > self.kept_max {
            self.interval *= 2;
            let mut last = 0;
            let interval = self.interval;
            self.kept.retain(|at, _| {
                let keep = *at == 0 || *at >= last + interval;
                last = if keep { *at } else { last };
                keep
            });
        }
    }
}
