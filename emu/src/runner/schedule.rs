//! The schedule of a scenario: what it says to the machine, and schedules by hand.

use std::collections::BTreeMap;

use kernel_model::CpuId;
use scenarios::leaf::suggest;
use scenarios::schema::play::Switch;
use scenarios::schema::{Name, Schedule};
use scenarios::{Finding, Scenario};

use super::{Run, RunError, Steps};
use crate::machine::MachineError;
use crate::machine::places::without_object;
use crate::machine::schedule::{Chooser, Only, Pinned, PinnedSwitch, Random};

/// The seed of the streams: a pinned schedule brings its own.
pub(super) fn seed(s: &Scenario, given: u64) -> u64 {
    match &s.schedule {
        Schedule::Pinned { seed, .. } => *seed,
        _ => given,
    }
}

impl From<&Switch> for PinnedSwitch {
    fn from(s: &Switch) -> PinnedSwitch {
        let (cpu, to) = (CpuId(s.cpu.v), CpuId(s.to.v));
        let task = s.task.as_ref().map(|t| t.v.clone());
        PinnedSwitch { cpu, after: s.after.v, at: s.at.v.clone(), to, task }
    }
}

impl Run<'_> {
    /// Hands the schedule to the machine.
    pub(super) fn arm_schedule(&mut self) {
        let s = self.s;
        let chooser: Option<Box<dyn Chooser>> = match &s.schedule {
            Schedule::RoundRobin => None,
            Schedule::Seed(seed) => Some(Box::new(Random::new(*seed))),
            Schedule::Steps(steps) => {
                self.steps = Steps(steps.iter().collect());
                return self.next_schedule_step();
            }
            Schedule::Pinned { first, switches, .. } => {
                let switches = switches.iter().map(PinnedSwitch::from).collect();
                Some(Box::new(Pinned::new(CpuId(first.v), switches)))
            }
        };
        self.machine.schedule(chooser);
    }

    /// Every place of a pinned schedule is one that the programs still have. What a place inside
    /// a kernel path is called only the run can tell.
    pub(super) fn places_exist(&self) -> Result<(), RunError> {
        let Schedule::Pinned { switches, .. } = &self.s.schedule else { return Ok(()) };
        let progs: Vec<_> = self.machine.kernel.progs().map(|p| (p.id, p.name())).collect();
        let mut known = BTreeMap::new();
        for s in switches {
            let Some((prog, what)) = s.at.v.split_once(": ") else {
                if matches!(s.at.v.as_str(), "idle" | "waits") {
                    continue;
                }
                return Err(gone(&s.at, "this names no place", &[]));
            };
            // `FUNCTION: in the critical section` is of the kernel alone.
            let Some((id, _)) = progs.iter().find(|(_, name)| *name == prog) else {
                if !s.is_counted() && !what.contains(": ") || self.machine.loads_programs() {
                    continue;
                }
                let names: Vec<String> = progs.iter().map(|p| p.1.to_owned()).collect();
                return Err(gone(&s.at, &format!("there is no program `{prog}`"), &names));
            };
            if !s.is_counted() {
                continue;
            }
            if s.after.v == 0 {
                return Err(stale(s, &s.at.v, "no safepoint: they are counted from 1").into());
            }
            let names = known.entry(*id).or_insert_with(|| self.machine.place_names(*id));
            let (name, object) = without_object(&s.at.v);
            if !names.contains(&name) {
                let names: Vec<String> = names.iter().cloned().collect();
                return Err(gone(&s.at, &format!("`{prog}` has no such place"), &names));
            }
            if let Some(object) = object.filter(|o| !self.is_object(o)) {
                let message = format!("there is no map or variable of the name in `{object}`");
                return Err(gone(&s.at, &message, &[]));
            }
        }
        Ok(())
    }

    /// Whether a name of an object, such as `slots[3].lock`, begins with that of a map or of a
    /// global variable.
    fn is_object(&self, name: &str) -> bool {
        let root = name.split(['[', '.', '+']).next().unwrap_or(name);
        let is =
            |map: &bpf::object::MapDef| map.name == root || map.vars.iter().any(|v| v.name == root);
        let elf = self.objects.iter().filter_map(|o| o.elf.as_ref());
        elf.flat_map(|elf| elf.maps()).any(is)
    }

    /// The CPU of the step that is next runs alone, with its task; after the last one it is round
    /// robin.
    fn next_schedule_step(&mut self) {
        let next = self.steps.0.front().map(|s| {
            let task = s.task.as_ref().map(|t| t.v.clone());
            Only { cpu: CpuId(s.cpu.v), task }
        });
        self.machine.schedule(next.map(|c| Box::new(c) as Box<dyn Chooser>));
    }

    /// Whether an event of the machine ends a step of the schedule: then the next begins.
    pub(super) fn schedule_step(&mut self, n: usize) -> Result<(), RunError> {
        let Some(step) = self.steps.0.front() else { return Ok(()) };
        if self.event_matches(&step.until, &self.machine.events()[n])? {
            self.steps.0.pop_front();
            self.next_schedule_step();
        }
        Ok(())
    }

    /// Why the machine stopped. A pinned switch that is elsewhere now is the author's to put right.
    pub(super) fn stopped(&self, e: MachineError) -> RunError {
        match (&e, &self.s.schedule) {
            (MachineError::Stale { switch, wanted, found }, Schedule::Pinned { switches, .. }) => {
                stale(&switches[*switch], wanted, found).into()
            }
            _ => e.into(),
        }
    }

    /// What is left of the schedule at the end.
    pub(super) fn schedule_done(&mut self) -> Result<(), RunError> {
        if let (Schedule::Pinned { switches, .. }, Some(done)) =
            (&self.s.schedule, self.machine.pinned())
            && let Some(next) = switches.get(done)
        {
            let points = self.machine.kernel.cpus.get(next.cpu.v as usize).map_or(0, |c| c.points);
            let found = format!("the end of the run, after {points} safepoints of this CPU");
            return Err(stale(next, &next.at.v, &found).into());
        }
        let Some(step) = self.steps.0.front() else { return Ok(()) };
        let message = "the event that ends this step of the schedule never came".to_string();
        let span = super::expect::event_span(&step.until).unwrap_or(step.cpu.span);
        self.failures.push(super::Failure::new(span, message));
        Ok(())
    }
}

/// A place that is none, or no longer.
fn gone(at: &Name, message: &str, known: &[String]) -> RunError {
    let finding = Finding::error(at.span, format!("the schedule is stale: {message}"));
    let near = suggest(&at.v, known.iter().map(String::as_str));
    let near = near.map_or(String::new(), |s| format!("did you mean `{s}`? "));
    finding.hint(format!("{near}orrery repin finds the places of an edited program")).into()
}

fn stale(switch: &Switch, wanted: &str, found: &str) -> Finding {
    let (cpu, after) = (switch.cpu.v, switch.after.v);
    let message = format!(
        "the schedule is stale: CPU {cpu} after {after} safepoints is at `{found}`, not at \
         `{wanted}`"
    );
    Finding::error(switch.at.span, message)
        .hint("orrery repin finds the places of an edited program")
}
