//! Going on, forwards and backwards, until something stops it.

use std::ops::Range;

use bpf::Arch;
use gdb::{DebugError, Direction, Resume, Stop, WatchKind};
use kernel_model::CpuId;

use super::target::{Target, internal};
use crate::machine::halt::{Halting, Stepping};
use crate::machine::schedule::Only;
use crate::machine::watch::Hit;
use crate::runner::RunError;
use crate::runner::history::Went;

/// Positions between two looks at whether the user wants it to stop.
const QUANTUM: u64 = 1_000_000;

type Poll<'p> = &'p mut dyn FnMut() -> bool;

impl Target<'_> {
    pub(super) fn go(&mut self, how: &Resume, poll: Poll<'_>) -> Result<Stop, DebugError> {
        match (how.direction, &how.step) {
            (Direction::Forward, step) => {
                let locked = how.only.is_some_and(|cpu| self.lock(CpuId(cpu)));
                let stop = self.forward(step.as_ref(), poll);
                if locked {
                    self.unlock();
                }
                stop
            }
            (Direction::Backward, None) => self.backward(poll),
            (Direction::Backward, Some((cpu, range))) => {
                self.step_back(CpuId(*cpu), range.as_ref(), poll)
            }
        }
    }

    /// No other CPU goes on: another schedule from here, if another one could.
    fn lock(&mut self, cpu: CpuId) -> bool {
        let machine = self.history.machine();
        let mut others = (0..machine.config().kernel.cpus).map(CpuId).filter(|c| *c != cpu);
        if others.all(|c| machine.kernel.is_idle(c)) {
            return false;
        }
        let machine = &mut self.history.run_mut().machine;
        self.unlocked = Some(machine.take_chooser());
        machine.schedule(Some(Box::new(Only { cpu, task: None })));
        self.forked(&format!("CPU {} runs alone", cpu.0));
        true
    }

    fn unlock(&mut self) {
        if let Some(chooser) = self.unlocked.take() {
            self.history.run_mut().machine.schedule(chooser);
            self.history.fork();
        }
    }

    /// On until a breakpoint, the end of a step, the end of the run, or the user's word.
    fn forward(
        &mut self,
        step: Option<&(u32, Option<Range<u64>>)>,
        poll: Poll<'_>,
    ) -> Result<Stop, DebugError> {
        let machine = self.history.machine();
        // What it stands at is behind it.
        let from = machine.position() + u64::from(machine.held().is_some());
        let stepping = step.map(|(cpu, range)| {
            let place = machine.place_of(CpuId(*cpu)) + 1;
            Stepping { cpu: CpuId(*cpu), place, within: range.clone() }
        });
        let text = machine.text().end();
        self.session.arm(machine);
        loop {
            let until = self.history.position().saturating_add(QUANTUM);
            let (loose, events, step) = (true, self.events(), stepping.clone());
            let halting = Halting { until, from, loose, events, text, step, ..Halting::NEVER };
            let went = self.onward(&halting)?;
            let machine = self.history.machine();
            if let Some((cpu, _)) = machine.held() {
                self.current = cpu;
            }
            if let Some((hit, _)) = self.machine_mut().take_hits() {
                return self
                    .at_access(&hit, if self.traps_after() { hit.after } else { hit.before });
            }
            if let Some(stop) = self.at_event() {
                return Ok(stop);
            }
            let machine = self.history.machine();
            if machine.text().end() != text {
                return Ok(Stop::Library { cpu: self.current.0 });
            }
            if went == Went::End {
                return Ok(Stop::End);
            }
            if let Some(stop) = self.at_break(from) {
                return Ok(stop);
            }
            if stepping.as_ref().is_some_and(|s| machine.has_stepped(s)) {
                self.current = stepping.map_or(self.current, |s| s.cpu);
                return Ok(Stop::Step);
            }
            if poll() {
                return Ok(Stop::Interrupted);
            }
        }
    }

    /// Goes on. Where the scenario cannot, the run is at its end, and the user is told why.
    fn onward(&mut self, to: &Halting) -> Result<Went, DebugError> {
        match self.history.forward(to) {
            Err(
                e @ (RunError::Unsupported { .. } | RunError::Input(_) | RunError::Rejected(_)),
            ) => {
                self.history.give_up();
                self.notices.push(format!("the run cannot go on: {e}"));
                Ok(Went::End)
            }
            went => went.map_err(internal),
        }
    }

    /// The number of events beyond which it looks whether one is waited for.
    fn events(&self) -> usize {
        match self.session.waits() {
            true => self.history.machine().event_count(),
            false => usize::MAX,
        }
    }

    /// What a monitor command waits for and has just happened.
    fn at_event(&mut self) -> Option<Stop> {
        let hit = self.session.happened(self.history.machine())?;
        self.current = hit.cpu;
        Some(Stop::Event { cpu: hit.cpu.0, text: hit.text })
    }

    /// Where the last event that is waited for has happened, between a snapshot and a position.
    fn last_event(&mut self, start: u64, bound: u64) -> Result<Option<(u64, Stop)>, DebugError> {
        let mut last = None;
        if !self.session.waits() {
            return Ok(last);
        }
        self.history.back_to(start);
        self.session.arm(self.history.machine());
        loop {
            let events = self.events();
            let to = Halting { until: bound, scan: true, events, ..Halting::NEVER };
            let went = self.onward(&to)?;
            let at = self.history.position();
            if at >= bound || went == Went::End {
                return Ok(last);
            }
            if let Some(stop) = self.at_event() {
                last = Some((at, stop));
            }
        }
    }

    /// Whether gdb expects the architecture to trap after a watched access, and not before it:
    /// going back it is the other way round.
    fn traps_after(&self) -> bool {
        matches!(self.history.machine().arch(), Arch::X86_64 | Arch::S390x)
    }

    /// Stops beside a watched access.
    fn at_access(&mut self, hit: &Hit, at: u64) -> Result<Stop, DebugError> {
        self.history.seek(at).map_err(internal)?;
        self.machine_mut().take_hits();
        self.current = hit.cpu;
        let watched = self.watches.iter().find(|w| w.0 == hit.addr);
        let kind = watched.map_or(WatchKind::Write, |w| w.2);
        Ok(Stop::Watch { cpu: hit.cpu.0, addr: hit.addr, kind })
    }

    /// The breakpoint it stands at, when it is not before a position.
    fn at_break(&self, from: u64) -> Option<Stop> {
        let (cpu, pc) = self.history.machine().held()?;
        let hardware = [false, true].into_iter().find(|h| self.breaks.contains(&(pc, *h)))?;
        (self.history.position() >= from).then_some(Stop::Breakpoint { cpu: cpu.0, hardware })
    }

    /// Back to the last breakpoint before the present: stretch by stretch between snapshots,
    /// newest first, each run forward.
    fn backward(&mut self, poll: Poll<'_>) -> Result<Stop, DebugError> {
        let mut bound = self.history.position();
        loop {
            let Some(start) = self.history.kept_before(bound) else {
                self.history.back_to(0);
                return Ok(Stop::Begin);
            };
            self.history.back_to(start);
            self.machine_mut().take_last_break();
            self.machine_mut().take_hits();
            let scan = Halting { until: bound, scan: true, ..Halting::NEVER };
            self.onward(&scan)?;
            let broke = self.machine_mut().take_last_break();
            let accessed = self.machine_mut().take_hits().map(|h| h.1);
            let accessed = accessed.filter(|h| broke.is_none_or(|b| h.before >= b));
            let event = self.last_event(start, bound)?;
            let later = broke.max(accessed.as_ref().map(|h| h.before));
            if let Some((at, stop)) = event.filter(|e| later.is_none_or(|l| e.0 >= l)) {
                self.history.seek(at).map_err(internal)?;
                return Ok(stop);
            }
            if let Some(hit) = accessed {
                let after = hit.after.min(bound);
                return self.at_access(&hit, if self.traps_after() { hit.before } else { after });
            }
            if let Some(hit) = broke {
                self.history.seek(hit).map_err(internal)?;
                if let Some(stop) = self.at_break(0) {
                    if let Stop::Breakpoint { cpu, .. } = stop {
                        self.current = CpuId(cpu);
                    }
                    return Ok(stop);
                }
            }
            if poll() {
                return Ok(Stop::Interrupted);
            }
            bound = start;
        }
    }

    /// Back to the CPU's last instruction before the present that is not in a range.
    fn step_back(
        &mut self,
        cpu: CpuId,
        range: Option<&Range<u64>>,
        poll: Poll<'_>,
    ) -> Result<Stop, DebugError> {
        let mut now = self.history.position();
        let mut place = self.history.machine().place_of(cpu);
        loop {
            let before = match place.checked_sub(1) {
                Some(before) if self.back_to_place(cpu, before) => before,
                _ => {
                    self.history.back_to(0);
                    return Ok(Stop::Begin);
                }
            };
            place = before;
            let step = Some(Stepping { cpu, place, within: None });
            let to = Halting { scan: true, from: u64::MAX, step, ..Halting::NEVER };
            self.onward(&to)?;
            let pc = self.history.machine().held().map(|h| h.1);
            let inside = range.is_some_and(|r| pc.is_some_and(|pc| r.contains(&pc)));
            // Some instructions are one step together: it cannot stop between them.
            let moved = self.history.position() < now;
            if moved && !inside {
                self.current = cpu;
                return Ok(Stop::Step);
            }
            if poll() {
                return Ok(Stop::Interrupted);
            }
            now = now.min(self.history.position());
        }
    }

    /// To the last snapshot in which a CPU had not come further than a place; false when there is
    /// none.
    fn back_to_place(&mut self, cpu: CpuId, place: u64) -> bool {
        let mut before = self.history.position().saturating_add(1);
        while let Some(start) = self.history.kept_before(before) {
            if self.history.place_in(start, cpu) <= place {
                self.history.back_to(start);
                return true;
            }
            before = start;
        }
        false
    }
}
