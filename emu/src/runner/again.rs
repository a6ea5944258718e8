//! A run at one instant, and going back to it: what is done once (reading, verifying, compiling,
//! attaching) is not done again.

use std::collections::BTreeMap;

use bpf::Arch;
use kernel_model::state_hash::Times;
use kernel_model::stream::StreamId;
use kernel_model::{CpuId, ProgId, fault};
use scenarios::Scenario;
use scenarios::schema::{Action, Event};

use super::iterate::Reading;
use super::test_run::Testing;
use super::timeline::Plan;
use super::watch::Watch;
use super::{Checkpoint, Failure, Mark, Outcome, Run, RunError, RunOptions, Steps, setup};
use crate::machine::schedule::Chooser;
use crate::machine::{Machine, Snapshot};

/// A run at one instant.
#[derive(Clone, Debug)]
pub(crate) struct Saved<'a> {
    machine: Snapshot,
    testing: Option<Testing<'a>>,
    reading: Option<Reading<'a>>,
    /// Objects that were loaded.
    objects: usize,
    sent: u64,
    sent_malformed: bool,
    consumed: BTreeMap<u32, Vec<Vec<u8>>>,
    streams: BTreeMap<(ProgId, StreamId), Vec<u8>>,
    failures: Vec<Failure>,
    plan: Plan<'a>,
    whens: Vec<(&'a Event, &'a Action)>,
    steps: Steps<'a>,
    seen: usize,
    watched: usize,
    watch: Watch<'a>,
    marks: Vec<Mark>,
    checkpoints: Vec<Checkpoint>,
}

impl Saved<'_> {
    /// [`Machine::retired`] then.
    pub(super) fn insns(&self) -> u64 {
        self.machine.retired()
    }

    /// [`Machine::place_of`] then.
    pub(super) fn place_of(&self, cpu: CpuId) -> u64 {
        self.machine.place_of(cpu)
    }
}

impl<'a> Run<'a> {
    /// Keeps the present state.
    pub(crate) fn save(&mut self) -> Saved<'a> {
        // Field by field, so that what is added to a run has to be thought of here.
        let Run {
            s: _,
            machine,
            captures: _,
            testing,
            reading,
            dir: _,
            objects,
            sent,
            sent_malformed,
            consumed,
            consumers: _,
            streams,
            failures,
            plan,
            whens,
            steps,
            seen,
            watched,
            watch,
            marks,
            keep_marks: _,
            progress: _,
            stop: _,
            sweep: _,
            every: _,
            checkpoints,
        } = self;
        Saved {
            machine: machine.snapshot(),
            testing: testing.clone(),
            reading: reading.clone(),
            objects: objects.len(),
            sent: *sent,
            sent_malformed: *sent_malformed,
            consumed: consumed.clone(),
            streams: streams.clone(),
            failures: failures.clone(),
            plan: plan.clone(),
            whens: whens.clone(),
            steps: steps.clone(),
            seen: *seen,
            watched: *watched,
            watch: watch.clone(),
            marks: marks.clone(),
            checkpoints: checkpoints.clone(),
        }
    }

    /// Goes back to a state of this run.
    pub(crate) fn restore(&mut self, to: &Saved<'a>) {
        self.machine.restore(&to.machine);
        self.testing.clone_from(&to.testing);
        self.reading.clone_from(&to.reading);
        self.objects.truncate(to.objects);
        (self.sent, self.sent_malformed) = (to.sent, to.sent_malformed);
        self.consumed.clone_from(&to.consumed);
        self.streams.clone_from(&to.streams);
        self.failures.clone_from(&to.failures);
        self.plan.clone_from(&to.plan);
        self.whens.clone_from(&to.whens);
        self.steps.clone_from(&to.steps);
        (self.seen, self.watched) = (to.seen, to.watched);
        self.watch.clone_from(&to.watch);
        self.marks.clone_from(&to.marks);
        self.checkpoints.clone_from(&to.checkpoints);
    }
}

/// One scenario on one architecture, run as often as is wanted from its time 0.
#[derive(Debug)]
pub struct Runs<'a> {
    run: Run<'a>,
    start: Saved<'a>,
}

impl<'a> Runs<'a> {
    /// Loads and attaches.
    ///
    /// # Errors
    /// As for [`super::run`].
    pub fn new(s: &'a Scenario, arch: Arch, opts: &RunOptions) -> Result<Runs<'a>, RunError> {
        let mut run = setup::begin(s, arch, opts)?;
        let start = run.save();
        Ok(Runs { run, start })
    }

    /// One run from time 0, under the schedule of the scenario.
    ///
    /// # Errors
    /// As for [`super::run`].
    pub fn once(&mut self) -> Result<Outcome, RunError> {
        self.run.restore(&self.start);
        self.run.story()?;
        Ok(self.run.outcome())
    }

    /// One run from time 0 under a chooser, with faults besides those of the scenario.
    ///
    /// # Errors
    /// As for [`super::run`].
    pub fn under(
        &mut self,
        chooser: Box<dyn Chooser>,
        faults: &[(fault::Kind, u64)],
    ) -> Result<Outcome, RunError> {
        self.begin(chooser, faults);
        self.go_on()
    }

    /// One run from time 0 that counts what could have failed in it.
    pub(crate) fn counted(&mut self, chooser: Box<dyn Chooser>) -> Result<Outcome, RunError> {
        self.begin(chooser, &[]);
        self.run.machine.kernel.faults.note();
        self.go_on()
    }

    /// Goes back to time 0.
    pub(crate) fn begin(&mut self, chooser: Box<dyn Chooser>, faults: &[(fault::Kind, u64)]) {
        self.run.restore(&self.start);
        self.run.steps = Steps::default();
        for (kind, nth) in faults {
            self.run.machine.kernel.faults.add(kind.clone(), *nth, 1);
        }
        self.run.machine.schedule(Some(chooser));
    }

    /// Goes on to the end, or to where the chooser pauses ([`RunError::Paused`]).
    pub(crate) fn go_on(&mut self) -> Result<Outcome, RunError> {
        match self.run.story() {
            Ok(()) => Ok(self.run.outcome()),
            Err(RunError::Paused) => {
                // What has happened is a part of how far the expectations are.
                self.run.tell_events()?;
                Err(RunError::Paused)
            }
            Err(e) => Err(e),
        }
    }

    /// Keeps the run where its chooser paused it.
    pub(crate) fn save(&mut self) -> Saved<'a> {
        self.run.save()
    }

    /// Goes back to where the run was saved, with the chooser of that time.
    pub(crate) fn restore(&mut self, to: &Saved<'a>) {
        self.run.restore(to);
    }

    /// Hash of what decides how the run goes on and what is expected of it, times left out.
    pub(crate) fn state_hash(&mut self) -> u64 {
        let machine = self.run.machine.state_hash(Times::LeftOut);
        machine ^ self.run.watch.progress_hash().rotate_left(11) ^ self.run.failures.len() as u64
    }

    /// The machine, as the last run left it.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.run.machine
    }
}
