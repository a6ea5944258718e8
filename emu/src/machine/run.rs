//! Runs CPUs in turn: by virtual time, or as a [`Chooser`] says.

use kernel_model::CpuId;
use kernel_model::context::Point;
use kernel_model::cpus::Cpus;
use kernel_model::sched::is_named;

use super::schedule::{Choice, Chooser, Pick, Switch};
use super::{Machine, MachineError};

/// A turn of a CPU that others wait for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Whose it is.
    pub cpu: CpuId,
    /// Its end on the CPU's clock.
    pub limit: u64,
    /// How far the step goes that it is in, which may be stopped in the middle.
    pub until: u64,
}

impl Machine {
    /// Under a chooser from now on, which is asked at every point; `None` is round robin by
    /// virtual time.
    pub fn schedule(&mut self, chooser: Option<Box<dyn Chooser>>) {
        let points = self.kernel.faults_at_points() || self.sweep.is_some();
        self.kernel.fine = chooser.is_some() || points;
        self.chooser = chooser;
    }

    /// Takes the chooser out.
    pub fn take_chooser(&mut self) -> Option<Box<dyn Chooser>> {
        self.chooser.take()
    }

    /// Switches that were made of a pinned schedule, when it is one.
    #[must_use]
    pub fn pinned(&self) -> Option<usize> {
        self.chooser.as_ref()?.pinned()
    }

    /// Choices so far that were not the default ones.
    #[must_use]
    pub fn switches(&self) -> &[Switch] {
        &self.switches
    }

    /// Runs until no CPU has work.
    pub fn run_until_idle(&mut self) -> Result<(), MachineError> {
        self.run_until(u64::MAX)
    }

    /// Runs until every CPU that has work has reached a virtual time, or none has work.
    pub fn run_until(&mut self, clock_ns: u64) -> Result<(), MachineError> {
        self.run_some(clock_ns, usize::MAX).map(drop)
    }

    /// As [`Machine::run_until`], but stops between the turns of two CPUs, where nothing depends
    /// on it, when the trace has more than so many events. False when there was no need to.
    pub fn run_some(&mut self, clock_ns: u64, events: usize) -> Result<bool, MachineError> {
        self.run_turns(clock_ns, events, false)
    }

    /// As [`Machine::run_until`], but stops at the point at which the trace has grown beyond
    /// `seen` events. True when it has.
    pub fn run_until_event(&mut self, clock_ns: u64, seen: usize) -> Result<bool, MachineError> {
        self.run_turns(clock_ns, seen, true)
    }

    /// Turn after turn; the trace is looked at after each step, or else only after each turn.
    fn run_turns(
        &mut self,
        clock_ns: u64,
        events: usize,
        each: bool,
    ) -> Result<bool, MachineError> {
        if self.chooser.is_some() {
            return self.run_chosen(clock_ns, events);
        }
        while let Some(mut turn) = self.stopped_turn().or_else(|| self.turn(clock_ns)) {
            let cpu = turn.cpu;
            while self.mid.is_some() || self.ready_at(cpu).is_some_and(|t| t < turn.limit) {
                let laps = !each && self.halting.is_none();
                self.note_written(cpu);
                let went = match self.halts_here() {
                    true => Err(MachineError::Paused),
                    false => {
                        self.tick(&mut turn);
                        self.step_until(cpu, turn.until, laps)
                    }
                };
                if matches!(went, Err(MachineError::Paused)) {
                    self.held_turn = Some(turn);
                }
                went?;
                self.sweep_step(cpu)?;
                if each && self.kernel.events.len() > events {
                    return Ok(true);
                }
            }
            if !each && self.kernel.events.len() > events {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The turn that was stopped. A step that a chooser began, which is gone since, is ended alone.
    fn stopped_turn(&mut self) -> Option<Turn> {
        let turn = self.held_turn.take();
        match self.mid.as_ref().map(|m| m.cpu) {
            Some(cpu) if turn.is_none_or(|t| t.cpu != cpu) => {
                let now = self.kernel.now(cpu);
                Some(Turn { cpu, limit: now, until: now })
            }
            _ => turn,
        }
    }

    /// Runs until a call of user space has ended; without tasks, which may go on for ever, until no
    /// CPU has work.
    pub(super) fn run_call(
        &mut self,
        ended: impl Fn(&kernel_model::Kernel) -> bool,
    ) -> Result<(), MachineError> {
        if !self.kernel.has_tasks() {
            return self.run_until_idle();
        }
        while !ended(&self.kernel) {
            let seen = self.kernel.events.len();
            if !self.run_until_event(u64::MAX, seen)? {
                break;
            }
        }
        Ok(())
    }

    /// The CPU that runs next and how far. Timers that are due come first; with nothing else to
    /// do, time passes to the next one, unless there is no end to run to.
    fn turn(&mut self, clock_ns: u64) -> Option<Turn> {
        loop {
            let timer = self.kernel.next_timer().unwrap_or(u64::MAX);
            match self.pick(clock_ns) {
                Some((_, at, _)) if timer <= at => self.kernel.timers_expire(timer),
                Some((cpu, _, others)) => {
                    let limit = others.saturating_add(self.config.quantum_ns);
                    let limit = limit.min(clock_ns).min(timer);
                    return Some(Turn { cpu, limit, until: limit });
                }
                None if timer < clock_ns && clock_ns != u64::MAX => {
                    self.kernel.advance_to(timer);
                    self.kernel.timers_expire(timer);
                }
                None => return None,
            }
        }
    }

    /// When a CPU can act next.
    fn ready_at(&self, cpu: CpuId) -> Option<u64> {
        match self.lanes[cpu.idx()].next {
            Some(_) => Some(self.kernel.now(cpu)),
            None => self.kernel.ready_at(cpu),
        }
    }

    fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        (0..self.config.kernel.cpus).map(CpuId)
    }

    /// The CPU that can act first, when, and when the next one can.
    fn pick(&mut self, before: u64) -> Option<(CpuId, u64, u64)> {
        self.kernel.cpus.look();
        let (busy, rest) = self.kernel.cpus.busy();
        let mut first = busy.first().copied().unwrap_or((Cpus::NEVER, 0));
        let mut others = busy.get(1).map_or(Cpus::NEVER, |b| b.0);
        for (word, bits) in (0u32..).zip(rest) {
            let mut left = *bits;
            while left != 0 {
                let n = word * 64 + left.trailing_zeros();
                left &= left - 1;
                let Some(at) = self.ready_at(CpuId(n)) else { continue };
                let (sooner, later) = ((at, n).min(first), (at, n).max(first));
                (first, others) = (sooner, others.min(later.0));
            }
        }
        let (at, cpu) = first;
        (at < before).then_some((CpuId(cpu), at, others))
    }

    /// The latest clock: the present of a machine whose CPUs run one at a time.
    fn latest(&self) -> u64 {
        self.kernel.cpus.iter().map(|c| c.clock_ns).max().unwrap_or(0)
    }

    /// One CPU at a time, as the chooser says; stops as [`Machine::run_until_event`] does.
    fn run_chosen(&mut self, clock_ns: u64, events: usize) -> Result<bool, MachineError> {
        let mut ready = Vec::new();
        loop {
            if let Some(cpu) = self.mid.as_ref().map(|m| m.cpu) {
                if self.halts_here() {
                    return Err(MachineError::Paused);
                }
                self.step_until(cpu, 0, false)?;
                self.sweep_step(cpu)?;
                if self.kernel.events.len() > events {
                    return Ok(true);
                }
            }
            let timer = self.kernel.next_timer().unwrap_or(u64::MAX);
            let mut now = self.latest();
            if timer <= now {
                self.kernel.timers_expire(timer);
                continue;
            }
            let first = self.cpus().filter_map(|c| self.ready_at(c)).min();
            let next = first.map_or(timer, |t| t.min(timer));
            // Without an end to run to, timers alone keep nothing going.
            let over = first.is_none() && clock_ns == u64::MAX;
            if over || next.max(now) >= clock_ns || next == u64::MAX {
                return Ok(false);
            }
            if next > now {
                // Everybody waits: time passes.
                self.kernel.advance_to(next);
                now = next;
                if timer <= now {
                    continue;
                }
            }
            ready.clear();
            let cpus = self.cpus().filter(|c| self.ready_at(*c).is_some_and(|t| t <= now));
            ready.extend(cpus.map(Pick::from));
            self.add_preemptions(&mut ready);
            if self.halts_here() {
                return Err(MachineError::Paused);
            }
            let Pick { cpu, task } = self.chosen(&ready)?;
            self.kernel.cpus[cpu.idx()].clock_ns = now;
            match task {
                Some(task) => self.preempt(cpu, Some(task)),
                None => self.tick(&mut Turn { cpu, limit: 0, until: 0 }),
            }
            self.step_until(cpu, 0, false)?;
            self.sweep_step(cpu)?;
            if self.kernel.events.len() > events {
                return Ok(true);
            }
        }
    }

    fn chosen(&mut self, ready: &[Pick]) -> Result<Pick, MachineError> {
        let cpu = self.current;
        let cpus = ready.iter().filter(|p| p.task.is_none());
        let behind = cpus.min_by_key(|p| (self.kernel.now(p.cpu), p.cpu)).copied();
        let same = Some(Pick::from(cpu)).filter(|p| ready.contains(p));
        let default = same.or(behind).expect("a CPU is ready");
        let (at, points) = (self.place(cpu), self.kernel.cpus[cpu.idx()].points);
        let choice = Choice { cpu, points, at, ready, default };
        let mut chooser = self.chooser.take().expect("run_chosen has one");
        let to = chooser.choose(self, &choice);
        self.chooser = Some(chooser);
        let to = match to {
            // A test run of user space is one call: it cannot be stopped in the middle.
            Err(MachineError::Paused) if self.in_call => default,
            to => to?,
        };
        assert!(ready.contains(&to), "a chooser takes one that is ready");
        if to != default {
            self.switches.push(Switch { cpu, after: points, at, to });
        }
        self.current = to.cpu;
        Ok(to)
    }

    /// Whether it is a task of this name that preempts.
    pub(super) fn is_of(&self, to: &Pick, name: &str) -> bool {
        self.task_of(to).is_some_and(|task| is_named(task, name))
    }

    /// Name of the task that preempts.
    #[must_use]
    pub fn task_of(&self, to: &Pick) -> Option<&str> {
        to.task.map(|t| &**self.kernel.task_name(t))
    }

    /// Where a CPU stands.
    #[must_use]
    pub fn place(&self, cpu: CpuId) -> Option<Point> {
        self.lanes[cpu.idx()].at.or_else(|| self.kernel.stand(cpu)?.point)
    }

    /// Name of where the CPU of a choice stands, as pinned schedules write it.
    #[must_use]
    pub fn place_name(&self, c: &Choice<'_>) -> String {
        match (c.at, self.kernel.stand(c.cpu)) {
            (Some(point), _) => self.point_name(&point),
            (None, Some(_)) => "waits".to_string(),
            (None, None) => "idle".to_string(),
        }
    }

    /// Name of a point: `PROG: FUNCTION(&LOCK) called`.
    #[must_use]
    pub fn point_name(&self, point: &Point) -> String {
        let prog = |id| self.kernel.prog(id).map_or("?", kernel_model::Prog::name);
        let func = kernel_model::helpers::full;
        let arg = |a| self.kernel.object_name(a).map_or(String::new(), |n| format!("(&{n})"));
        match *point {
            Point::Call { prog: p, func: f, arg: a } => {
                format!("{}: {}{} called", prog(p), func(f), arg(a))
            }
            Point::Returned { prog: p, func: f, arg: a } => {
                format!("{}: {}{} returned", prog(p), func(f), arg(a))
            }
            Point::Enter { prog: p, insn } => format!("{}: enters {}", prog(p), self.line(p, insn)),
            Point::Leave { prog: p, insn } => {
                format!("{}: is back in {}", prog(p), self.line(p, insn))
            }
            Point::Back { prog: p, insn } => {
                format!("{}: again at {}", prog(p), self.line(p, insn))
            }
            Point::Inside { prog: Some(p), func: f, at } => {
                format!("{}: {}: {at}", prog(p), func(f))
            }
            Point::Inside { prog: None, func: f, at } => format!("{f}: {at}"),
        }
    }

    /// Source line of an instruction, or its number.
    fn line(&self, prog: kernel_model::ProgId, insn: bpf::insn::InsnIdx) -> String {
        let program = self.kernel.prog(prog).map(|p| p.verified.program());
        let line = program.and_then(|p| p.line_at(insn));
        match line {
            Some(l) => format!("{}:{}", l.file_name(), l.line),
            None => format!("insn {}", insn.0),
        }
    }
}
