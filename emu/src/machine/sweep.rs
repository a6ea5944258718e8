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
    /// Points at which a run was cancelled.
    pub tried: u64,
    /// Of those, runs that were unwound.
    pub unwound: u64,
    /// Most instructions that a run went on for: how many, its bound, the program, the point.
    pub worst: Option<(u64, u64, String, String)>,
    /// What did not end clean, the first of it.
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
    seen: u64,
    report: Report,
}

impl Machine {
    /// From now on, cancels the running program at every so many points, and goes back each time.
    pub fn sweep(&mut self, every: u64) {
        self.sweep = Some(Box::new(Sweep { every, seen: 0, report: Report::default() }));
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
            sweep.seen += 1;
            if sweep.seen.is_multiple_of(sweep.every) {
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
        let before = self.snapshot();
        let events = self.kernel.events.len();
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
        let bad = self.kernel.events[events..].iter().filter_map(|e| match &e.kind {
            EventKind::Fault { fault, .. } => Some(fault.to_string()),
            EventKind::Leak { what } => Some(format!("leak: {what}")),
            _ => None,
        });
        wrong.extend(bad);
        for w in wrong {
            if report.dirty.len() < DIRTY_MAX {
                report.dirty.push(format!("{name} cancelled at {at}: {w}"));
            }
        }
        self.restore(&before);
        Ok(())
    }
}
