//! Who runs next: round robin by virtual time, or a [`Chooser`] that is asked at every point.
//!
//! Under a chooser one CPU runs at a time, and time is one line: a CPU that goes on does so not
//! before the latest clock so far. What a chooser says is kept as [`Switch`]es where it differs
//! from what happens by default, so that the run can be written down and pinned.

use std::collections::BTreeSet;

use kernel_model::CpuId;
use kernel_model::context::Point;
use kernel_model::sched::TaskId;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use super::{Machine, MachineError};

/// Who goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pick {
    /// A CPU.
    pub cpu: CpuId,
    /// A task that preempts the one that runs there; without, the CPU goes on with what it does.
    pub task: Option<TaskId>,
}

impl From<CpuId> for Pick {
    fn from(cpu: CpuId) -> Pick {
        Pick { cpu, task: None }
    }
}

/// A CPU stands at a point, or has nothing to do.
#[derive(Clone, Copy, Debug)]
pub struct Choice<'a> {
    /// The CPU that ran last.
    pub cpu: CpuId,
    /// Counted points it has passed.
    pub points: u64,
    /// Where it stands; `None` when it waits or has ended what it did.
    pub at: Option<Point>,
    /// Who can go on now: CPUs in order, never none; then tasks that can preempt a program.
    pub ready: &'a [Pick],
    /// What happens without a schedule: it goes on, or the CPU that is furthest behind does.
    pub default: Pick,
}

impl Choice<'_> {
    /// `to`, when it can go on.
    #[must_use]
    pub fn ready_or_default(&self, to: Pick) -> Pick {
        if self.ready.contains(&to) { to } else { self.default }
    }
}

/// Decides who goes on.
pub trait Chooser: std::fmt::Debug + Send {
    /// One of `choice.ready`.
    ///
    /// # Errors
    /// [`MachineError::Stale`] from a schedule that was written for another program.
    fn choose(&mut self, machine: &Machine, choice: &Choice<'_>) -> Result<Pick, MachineError>;

    /// As it is, for a snapshot.
    fn copy(&self) -> Box<dyn Chooser>;

    /// Switches of a pinned schedule that were made.
    fn pinned(&self) -> Option<usize> {
        None
    }
}

impl Clone for Box<dyn Chooser> {
    fn clone(&self) -> Box<dyn Chooser> {
        (**self).copy()
    }
}

/// A choice that was not the default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// CPU that stops.
    pub cpu: CpuId,
    /// After so many of its counted points.
    pub after: u64,
    /// Where it stands.
    pub at: Option<Point>,
    /// Who goes on.
    pub to: Pick,
}

/// Random preemption from a stream of its own.
#[derive(Clone, Debug)]
pub struct Random(ChaCha8Rng);

impl Random {
    /// Stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Random {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(2);
        Random(rng)
    }
}

impl Chooser for Random {
    fn choose(&mut self, _: &Machine, c: &Choice<'_>) -> Result<Pick, MachineError> {
        if c.ready.len() == 1 {
            return Ok(c.ready[0]);
        }
        // It goes on three times of four: longer stretches find more than constant switching.
        let draw = self.0.next_u32();
        if c.default.cpu == c.cpu && draw & 3 != 0 {
            return Ok(c.default);
        }
        Ok(c.ready[(draw >> 2) as usize % c.ready.len()])
    }

    fn copy(&self) -> Box<dyn Chooser> {
        Box::new(self.clone())
    }
}

/// One CPU alone: the others wait, as long as it has something to do. A task may be named that
/// preempts the others of this CPU wherever it can.
#[derive(Clone, Debug)]
pub struct Only {
    /// The CPU.
    pub cpu: CpuId,
    /// Name of the task.
    pub task: Option<String>,
}

impl Chooser for Only {
    fn choose(&mut self, m: &Machine, c: &Choice<'_>) -> Result<Pick, MachineError> {
        let cpu = Pick::from(self.cpu);
        let task = self.task.as_ref().and_then(|name| {
            c.ready.iter().find(|p| p.cpu == self.cpu && m.is_of(p, name)).copied()
        });
        Ok(task.unwrap_or(if c.ready.contains(&cpu) { cpu } else { c.default }))
    }

    fn copy(&self) -> Box<dyn Chooser> {
        Box::new(self.clone())
    }
}

/// A switch of a pinned schedule, with its point by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinnedSwitch {
    /// CPU that stops.
    pub cpu: CpuId,
    /// After so many of its counted points.
    pub after: u64,
    /// Name of where it stands then.
    pub at: String,
    /// CPU that goes on.
    pub to: CpuId,
    /// Name of the task that preempts the one which runs there.
    pub task: Option<String>,
}

impl PinnedSwitch {
    /// Who goes on, when that is possible.
    #[must_use]
    pub fn pick(&self, m: &Machine, c: &Choice<'_>) -> Option<Pick> {
        let is = |p: &&Pick| match &self.task {
            Some(name) => p.cpu == self.to && m.is_of(p, name),
            None => **p == self.to.into(),
        };
        c.ready.iter().find(is).copied()
    }
}

/// A schedule that was written down.
#[derive(Clone, Debug)]
pub struct Pinned {
    first: Option<CpuId>,
    switches: Vec<PinnedSwitch>,
    done: usize,
    /// Names met at the ordinal of the switch that is next.
    met: BTreeSet<String>,
}

impl Pinned {
    /// CPU `first` begins, then the switches in order.
    #[must_use]
    pub fn new(first: CpuId, switches: Vec<PinnedSwitch>) -> Pinned {
        Pinned { first: Some(first), switches, done: 0, met: BTreeSet::new() }
    }

    fn stale(&self, found: Vec<String>) -> MachineError {
        let s = self.switches[self.done].clone();
        MachineError::Stale { switch: self.done, wanted: s.at, found: found.join(", ") }
    }
}

impl Chooser for Pinned {
    fn choose(&mut self, m: &Machine, c: &Choice<'_>) -> Result<Pick, MachineError> {
        if let Some(first) = self.first.take() {
            return Ok(c.ready_or_default(first.into()));
        }
        let Some(next) = self.switches.get(self.done).filter(|s| s.cpu == c.cpu) else {
            return Ok(c.default);
        };
        if c.points > next.after {
            let found = std::mem::take(&mut self.met).into_iter().collect();
            return Err(self.stale(found));
        }
        if c.points < next.after {
            return Ok(c.default);
        }
        let name = m.place_name(c);
        if name != next.at {
            self.met.insert(name);
            return Ok(c.default);
        }
        let (to, task) = (next.to.0, next.task.clone());
        let Some(to) = next.pick(m, c) else {
            self.met.clear();
            let why = match task {
                Some(task) => format!("task {task} does not wait for CPU {to}"),
                None => format!("CPU {to} has nothing to do"),
            };
            return Err(self.stale(vec![why]));
        };
        self.met.clear();
        self.done += 1;
        Ok(to)
    }

    fn copy(&self) -> Box<dyn Chooser> {
        Box::new(self.clone())
    }

    fn pinned(&self) -> Option<usize> {
        Some(self.done)
    }
}
