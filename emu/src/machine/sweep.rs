//! Cancels a run at every point it stands at, to see that it always ends clean: from a snapshot
//! each time, so the run itself goes on as if nothing had happened.
//!
//! After each cancellation: the run has ended within its bound, nothing that it acquired is held,
//! no fault or leak was seen, and the maps are whole (`Kernel::damage`).

use kernel_model::EventKind;
use kernel_model::cpu::CancelledBy;

use super::*;

/// What trying came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Points at which a program ran.
    pub seen: u64,
    /// Points at which a run was cancelled.
    pub tried: u64,
    /// Of those, runs that were unwound.
    pub unwound: u64,
    /// Most instructions that a run went on for: how many, its bound, the program, the point.
    pub worst: Option<(u64, u64, String, String)>,
    /// Points after which something was not clean.
    pub dirty_count: u64,
    /// What was not, the first of it.
    pub dirty: Vec<String>,
}

/// Messages that are kept.
const DIRTY_MAX: usize = 20;
/// Steps after which a cancelled run is taken for endless.
const STEPS_MAX: u64 = 1 << 20;

/// In progress.
#[derive(Clone, Debug)]
pub(super) struct Sweep {
    /// Every so many points.
    every: u64,
    report: Report,
}

impl Sweep {
    /// Every so many points, and more of them at the beginning: short runs have few.
    fn wanted(&self) -> bool {
        let seen = self.report.seen;
        seen <= u64::from(self.every.ilog2()) || seen.is_multiple_of(self.every)
    }
}

impl Machine {
    /// From now on, cancels the running program at every so many points, more often at the
    /// beginning, and goes back each time.
    pub fn sweep(&mut self, every: u64) {
        self.sweep = Some(Box::new(Sweep { every, report: Report::default() }));
        self.kernel.fine = true;
    }

    /// What it came to.
    pub fn take_sweep(&mut self) -> Option<Report> {
        self.sweep.take().map(|s| s.report)
    }

    /// A CPU has made a step.
    pub(super) fn sweep_step(&mut self, cpu: CpuId) -> Result<(), MachineError> {
        let Some(mut sweep) = self.sweep.take() else { return Ok(()) };
        let running = self.kernel.run_depth(cpu).filter(|_| !self.kernel.is_cancelled(cpu));
        if let Some(depth) = running {
            sweep.report.seen += 1;
            if sweep.wanted() {
                self.try_cancel(cpu, depth, &mut sweep.report)?;
            }
        }
        self.sweep = Some(sweep);
        Ok(())
    }

    fn try_cancel(
        &mut self,
        cpu: CpuId,
        depth: usize,
        report: &mut Report,
    ) -> Result<(), MachineError> {
        // What was seen so far is not copied with each snapshot.
        let seen = std::mem::take(&mut self.kernel.events);
        let before = self.snapshot();
        let at = self.place(cpu).map_or("between two steps".to_owned(), |p| self.point_name(&p));
        let prog = self.kernel.run_prog(cpu).expect("a program runs");
        let name = self.kernel.prog(prog).map_or("?", kernel_model::Prog::name).to_owned();
        let ended = self.kernel.cancelled.len();
        self.cancel(prog, CancelledBy::Request);
        let mut steps = 0;
        while self.kernel.run_depth(cpu).is_some_and(|d| d >= depth) && steps < STEPS_MAX {
            self.step(cpu)?;
            steps += 1;
            if self.kernel.cancelled.len() > ended {
                break;
            }
        }
        report.tried += 1;
        let mut wrong = self.kernel.damage(cpu, depth);
        match self.kernel.cancelled.get(ended) {
            Some(e) => {
                report.unwound += u64::from(e.unwound);
                if e.further > e.bound {
                    wrong.push(format!("{} instructions, bound {}", e.further, e.bound));
                }
                if report.worst.as_ref().is_none_or(|w| e.further > w.0) {
                    report.worst = Some((e.further, e.bound, name.clone(), at.clone()));
                }
            }
            None => wrong.push("the run did not end".to_owned()),
        }
        let bad = self.faults_seen();
        if !bad.is_empty() {
            // What the scenario does of itself is not the cancellation's.
            let own = self.faults_without(&before, (cpu, depth), steps)?;
            wrong.extend(bad.into_iter().filter(|b| !own.contains(b)));
        }
        report.dirty_count += u64::from(!wrong.is_empty());
        for w in wrong {
            if report.dirty.len() < DIRTY_MAX {
                report.dirty.push(format!("{name} cancelled at {at}: {w}"));
            }
        }
        self.restore(&before);
        self.kernel.events = seen;
        Ok(())
    }

    /// Faults and leaks among the events.
    fn faults_seen(&self) -> Vec<String> {
        let bad = self.kernel.events.iter().filter_map(|e| match &e.kind {
            EventKind::Fault { fault, .. } => Some(fault.to_string()),
            EventKind::Leak { what } => Some(format!("leak: {what}")),
            _ => None,
        });
        bad.collect()
    }

    /// Those of the same CPU when it is not cancelled.
    fn faults_without(
        &mut self,
        before: &Snapshot,
        (cpu, depth): (CpuId, usize),
        steps: u64,
    ) -> Result<Vec<String>, MachineError> {
        self.restore(before);
        for _ in 0..steps.saturating_mul(4).saturating_add(1000) {
            if self.kernel.run_depth(cpu).is_none_or(|d| d < depth) {
                break;
            }
            self.step(cpu)?;
        }
        Ok(self.faults_seen())
    }
}
