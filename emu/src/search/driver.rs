//! The chooser of a searched run: asks a strategy and keeps what was chosen, so that the run can
//! be written down; and the chooser that follows what was written, as far as that goes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use kernel_model::CpuId;
use kernel_model::context::Point;
use kernel_model::cpu::Site;

use super::strategy::{Here, Strategy};
use crate::machine::schedule::{Choice, Chooser, Pick};
use crate::machine::{Machine, MachineError};

/// A place at which another CPU went on, or another task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// CPU that stops.
    pub cpu: CpuId,
    /// After so many of its counted points.
    pub after: u64,
    /// Name of where it stands.
    pub at: String,
    /// How often the CPU stood at a place of this name before.
    pub before: u64,
    /// Who goes on.
    pub to: Pick,
    /// Its task, when it preempts another.
    pub task: Option<String>,
    /// Where its program is.
    pub site: Option<Site>,
}

/// What a run chose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// The CPU that began.
    pub first: CpuId,
    /// Choices other than the default ones.
    pub switches: Vec<Switch>,
}

/// Where a CPU stands, without a name yet: most places are never named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    At(Point),
    Waits,
    Idle,
}

impl Stand {
    fn of(m: &Machine, c: &Choice<'_>) -> Stand {
        match c.at {
            Some(point) => Stand::At(point),
            None if m.kernel.stand(c.cpu).is_some() => Stand::Waits,
            None => Stand::Idle,
        }
    }

    fn name(self, m: &Machine) -> String {
        match self {
            Stand::At(point) => m.point_name(&point),
            Stand::Waits => "waits".into(),
            Stand::Idle => "idle".into(),
        }
    }
}

/// One choice of several.
#[derive(Clone, Copy, Debug)]
struct Chosen {
    cpu: CpuId,
    after: u64,
    at: Stand,
    to: Pick,
    default: bool,
}

/// What is kept of a run while it goes.
#[derive(Clone, Debug, Default)]
pub(super) struct Log {
    first: Option<CpuId>,
    /// All choices, when the run is to be written down; else only where there was one.
    chosen: Vec<Chosen>,
    /// Choices made.
    pub(super) steps: u64,
    /// Of the choices among several CPUs: the interleaving.
    pub(super) hash: u64,
}

impl Log {
    fn note(&mut self, c: Chosen, real: bool) {
        if real {
            let task = c.to.task.map_or(0, |t| u64::from(t.0) + 1);
            let key = u64::from(c.cpu.0) << 48 ^ c.after << 8 ^ u64::from(c.to.cpu.0) ^ task << 24;
            self.hash = (self.hash ^ key).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        }
        self.steps += 1;
        self.chosen.push(c);
    }

    /// Places the CPUs stood at, one for each choice.
    #[must_use]
    pub(super) fn points(&self) -> Vec<Point> {
        let at = |c: &Chosen| match c.at {
            Stand::At(point) => Some(point),
            Stand::Waits | Stand::Idle => None,
        };
        self.chosen.iter().filter_map(at).collect()
    }

    /// The run as switches, with names.
    #[must_use]
    pub(super) fn way(&self, m: &Machine) -> Way {
        let mut stood: BTreeMap<(u32, String), u64> = BTreeMap::new();
        let mut switches = Vec::new();
        for c in &self.chosen {
            let at = c.at.name(m);
            let before = stood.entry((c.cpu.0, at.clone())).or_default();
            if !c.default {
                let (cpu, after, to, before) = (c.cpu, c.after, c.to, *before);
                let task = m.task_of(&to).map(str::to_owned);
                switches.push(Switch { cpu, after, at, before, to, task, site: None });
            }
            *before += 1;
        }
        Way { first: self.first.unwrap_or_default(), switches }
    }
}

/// A log that the caller of the machine looks at between runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared(Arc<Mutex<Log>>);

impl Shared {
    /// The log.
    pub(super) fn get(&self) -> MutexGuard<'_, Log> {
        self.0.lock().expect("nothing panics while it is lent")
    }
}

/// Asks a strategy.
#[derive(Clone, Debug)]
pub(super) struct Driver {
    /// What decides.
    pub(super) strategy: Box<dyn Strategy>,
    /// What was decided.
    pub(super) log: Shared,
}

impl Chooser for Driver {
    fn choose(&mut self, m: &Machine, c: &Choice<'_>) -> Result<Pick, MachineError> {
        let mut log = self.log.get();
        let (ready, default, nth) = (c.ready, c.default, log.steps);
        let running = &|cpu| m.kernel.curr_task(cpu);
        let here = Here { cpu: c.cpu, ready, default, nth, running };
        let to = self.strategy.choose(&here).ok_or(MachineError::Paused)?;
        let at = Stand::of(m, c);
        let default = log.first.is_none() || to == c.default;
        log.first.get_or_insert(to.cpu);
        let chosen = Chosen { cpu: c.cpu, after: c.points, at, to, default };
        log.note(chosen, c.ready.len() > 1);
        Ok(to)
    }

    fn copy(&self) -> Box<dyn Chooser> {
        Box::new(self.clone())
    }
}

/// Follows a way: a switch is made where the CPU stands at a place of that name for the time that
/// was noted, or later. What cannot be followed is left out.
#[derive(Clone, Debug)]
pub(super) struct Follow {
    way: Way,
    next: usize,
    begun: bool,
    stood: BTreeMap<(u32, String), u64>,
    /// What was made of it.
    pub(super) made: Arc<Mutex<Way>>,
}

impl Follow {
    /// Follows `way`.
    #[must_use]
    pub(super) fn new(way: Way) -> Follow {
        let made = Arc::new(Mutex::new(Way { first: way.first, switches: Vec::new() }));
        Follow { way, next: 0, begun: false, stood: BTreeMap::new(), made }
    }
}

impl Chooser for Follow {
    fn choose(&mut self, m: &Machine, c: &Choice<'_>) -> Result<Pick, MachineError> {
        let at = Stand::of(m, c).name(m);
        let stood = self.stood.entry((c.cpu.0, at.clone())).or_default();
        let before = *stood;
        *stood += 1;
        if !std::mem::replace(&mut self.begun, true) {
            let first = self.way.first;
            let to = c.ready_or_default(first.into());
            self.made.lock().expect("not lent").first = to.cpu;
            return Ok(to);
        }
        let rest = &self.way.switches[self.next..];
        let fits = |s: &Switch| s.cpu == c.cpu && s.at == at && s.before <= before;
        let Some(n) = rest.iter().position(fits).filter(|n| {
            // Those before it are given up only when their CPU has nothing to do any more.
            let over = |s: &Switch| !c.ready.contains(&s.cpu.into()) && s.cpu != c.cpu;
            rest[..*n].iter().all(over)
        }) else {
            return Ok(c.default);
        };
        let to = rest[n].to;
        if !c.ready.contains(&to) {
            return Ok(c.default);
        }
        self.next += n + 1;
        if to == c.default {
            return Ok(to);
        }
        let site = m.backtrace(c.cpu).first().cloned();
        let task = m.task_of(&to).map(str::to_owned);
        let made = Switch { cpu: c.cpu, after: c.points, at, before, to, task, site };
        self.made.lock().expect("not lent").switches.push(made);
        Ok(to)
    }

    fn copy(&self) -> Box<dyn Chooser> {
        Box::new(self.clone())
    }
}
