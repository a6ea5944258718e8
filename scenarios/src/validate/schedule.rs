//! Who runs when, checked before anything runs: CPUs that exist, places in an order that can be,
//! times that do not go backwards.

use std::collections::BTreeMap;

use super::Check;
use crate::schema::machine::Cpus;
use crate::schema::play::{Fault, Op, ScheduleStep, Switch};
use crate::schema::{Event, Name, Schedule};
use crate::span::{Finding, Span};

impl Check<'_> {
    pub(super) fn schedule(&mut self) {
        let s = self.s;
        match &s.schedule {
            Schedule::RoundRobin | Schedule::Seed(_) => {}
            Schedule::Steps(steps) => {
                for step in steps {
                    self.cpu(step.cpu.v, step.cpu.span);
                    self.runs_there(step.task.as_ref(), step.cpu.v);
                    self.event(&step.until);
                    self.elsewhere(step);
                }
            }
            Schedule::Pinned { first, switches, .. } => {
                self.cpu(first.v, first.span);
                self.switches(switches);
                if let Some(seeds) = s.matrix.as_ref().and_then(|m| m.seed.as_ref()) {
                    let message = "a pinned schedule has a seed of its own";
                    let finding = Finding::error(seeds.span, message);
                    self.found.push(finding.hint("leave the axis out, or pin each seed in a file"));
                }
            }
        }
    }

    /// What ends a step happens on the CPU that runs, or it never does.
    fn elsewhere(&mut self, step: &ScheduleStep) {
        let here = matches!(step.until, Event::Enter { .. } | Event::Switch { .. });
        if let Some(cpu) = step.until.cpu().filter(|c| here && c.v != step.cpu.v) {
            let message =
                format!("this cannot happen on CPU {} while CPU {} alone runs", cpu.v, step.cpu.v);
            self.found.push(Finding::error(cpu.span, message).also(step.cpu.span, "it runs"));
        }
    }

    /// A task that a CPU is to run is one that can come there.
    fn runs_there(&mut self, task: Option<&Name>, cpu: u32) {
        let Some(name) = task else { return };
        self.task(name);
        let base = name.v.rsplit_once('.').map_or(name.v.as_str(), |(base, _)| base);
        let Some(task) = self.s.tasks.get(&name.v).or_else(|| self.s.tasks.get(base)) else {
            return;
        };
        let moves = |op: &Op| matches!(op, Op::Migrate(to) if to.v == cpu);
        if let Cpus::List(cpus) = &task.cpus
            && cpus.iter().all(|c| c.v != cpu)
            && !task.script.iter().any(moves)
        {
            let message = format!("the task `{}` never runs on CPU {cpu}", name.v);
            let finding = Finding::error(name.span, message);
            let span = cpus.first().map_or(name.span, |c| c.span);
            self.found.push(finding.also(span, "its CPUs"));
        }
    }

    /// A CPU passes its safepoints one after the other, and at each of them one CPU goes on.
    fn switches(&mut self, switches: &[Switch]) {
        let mut last: BTreeMap<u32, (u64, bool, Span)> = BTreeMap::new();
        for s in switches {
            self.cpu(s.cpu.v, s.cpu.span);
            self.cpu(s.to.v, s.to.span);
            self.runs_there(s.task.as_ref(), s.to.v);
            if s.to.v == s.cpu.v && s.task.is_none() {
                let message = format!("CPU {} cannot be switched to itself", s.cpu.v);
                self.found.push(Finding::error(s.to.span, message).hint("leave the switch out"));
            }
            let this = (s.after.v, s.is_counted(), s.after.span);
            let Some((before, was_counted, span)) = last.insert(s.cpu.v, this) else { continue };
            let message = match s.after.v {
                after if after < before => {
                    format!("CPU {} has passed its safepoint {after} already", s.cpu.v)
                }
                after if after == before && was_counted && this.1 => {
                    format!("CPU {} is switched twice after its safepoint {after}", s.cpu.v)
                }
                _ => continue,
            };
            let finding = Finding::error(s.after.span, message);
            self.found.push(finding.also(span, "its switch before"));
        }
    }

    pub(super) fn faults(&mut self) {
        let s = self.s;
        for fault in &s.faults {
            match fault {
                Fault::Irq { cpu, prog, safepoint, .. }
                | Fault::Nmi { cpu, safepoint, prog, .. } => {
                    self.cpu(cpu.v, cpu.span);
                    self.prog(prog);
                    self.counts_from_one(safepoint.v, safepoint.span);
                }
                Fault::RingFull { nic, from, to } => {
                    self.nic(nic);
                    if to.v.ns < from.v.ns {
                        let finding = Finding::error(to.span, "this time is before `from`");
                        self.found.push(finding.also(from.span, "from"));
                    }
                }
                Fault::Alloc { nth, prog, probability, .. } => {
                    self.counts_from_one(nth.v, nth.span);
                    prog.iter().for_each(|p| self.prog(p));
                    if let Some(p) = probability.as_ref().filter(|p| !(p.v > 0.0 && p.v <= 1.0)) {
                        let message = "a probability is above 0 and at most 1";
                        self.found.push(Finding::error(p.span, message));
                    }
                }
                Fault::Call { nth, prog, .. } => {
                    self.counts_from_one(nth.v, nth.span);
                    prog.iter().for_each(|p| self.prog(p));
                }
                Fault::UserPage { nth, .. } | Fault::TimerLate { nth, .. } => {
                    self.counts_from_one(nth.v, nth.span);
                }
            }
        }
    }

    fn counts_from_one(&mut self, n: u64, span: Span) {
        if n == 0 {
            self.found.push(Finding::error(span, "occasions are counted from 1"));
        }
    }
}
