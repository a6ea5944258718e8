//! Stopping for a debugger, before any native instruction; the run goes on as if it had not been.
//!
//! A position counts native instructions run on all CPUs, those of stubs included, and for what
//! lies between them the steps that were begun and ended: it grows with each thing that a
//! debugger can see. While [`Machine::halt`] is set, steps are divided alike whether the run stops
//! or not, so a position names one state of a run.

use std::ops::Range;

use kernel_model::CpuId;

use super::Machine;
use crate::unicorn::{Halt, RegFile, spec};

/// Where a debugged run stops with [`super::MachineError::Paused`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halting {
    /// At this position, or the first one after it at which it can.
    pub until: u64,
    /// Before the first BPF instruction with so many retired before it on all CPUs.
    pub insns: u64,
    /// Breakpoints before this position are passed by.
    pub from: u64,
    /// Breakpoints do not stop it: the last one is noted ([`Machine::take_last_break`]).
    pub scan: bool,
    /// Where it stops for `until` matters little: rather before a block than inside it.
    pub loose: bool,
    /// When there are more events than this ([`Machine::event_count`]), between two steps.
    pub events: usize,
    /// When text ends beyond this address, between two steps: a program was loaded.
    pub text: u64,
    /// Stops one CPU.
    pub step: Option<Stepping>,
}

/// A step of one CPU, which ends also when it runs no program any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stepping {
    /// The CPU.
    pub cpu: CpuId,
    /// Its count of instructions ([`Machine::place_of`]) from which on it stops.
    pub place: u64,
    /// Not while it is at these addresses.
    pub within: Option<Range<u64>>,
}

impl Halting {
    /// Nowhere but at breakpoints.
    pub const NEVER: Halting = Halting {
        until: u64::MAX,
        insns: u64::MAX,
        from: 0,
        scan: false,
        loose: false,
        events: usize::MAX,
        text: u64::MAX,
        step: None,
    };
}

/// A step that was stopped in the middle, before a native instruction.
#[derive(Clone, Debug)]
pub(super) struct Mid {
    pub cpu: CpuId,
    pub pc: u64,
    /// Wrong accesses so far, of which the kernel has not been told.
    pub found: Vec<(u64, u64)>,
}

impl Machine {
    /// Stops as a debugger wants from now on; `None` is a run without one.
    pub fn halt(&mut self, halting: Option<Halting>) {
        self.halting = halting;
    }

    /// Addresses before which a debugged run stops.
    pub fn set_breaks(&mut self, mut breaks: Vec<u64>) {
        breaks.sort_unstable();
        breaks.dedup();
        for slot in self.slots.iter_mut().flatten() {
            slot.vcpu.set_breaks(&breaks);
        }
        self.breaks = breaks;
    }

    /// Where the run is.
    #[must_use]
    pub fn position(&self) -> u64 {
        let places: u64 = self.slots.iter().flatten().map(|s| s.vcpu.place()).sum();
        places + self.steps.0 + self.steps.1
    }

    /// What it took to come here, in native instructions: a step between them costs a hundred.
    #[must_use]
    pub fn work(&self) -> u64 {
        self.position() + 100 * self.steps.1
    }

    /// The CPU that is about to run a native instruction, and where that is; `None` between two
    /// steps.
    #[must_use]
    pub fn held(&self) -> Option<(CpuId, u64)> {
        self.mid.as_ref().map(|m| (m.cpu, m.pc))
    }

    /// Native instructions of a CPU so far, those of stubs included.
    #[must_use]
    pub fn place_of(&self, cpu: CpuId) -> u64 {
        self.slots[cpu.idx()].as_ref().map_or(0, |s| s.vcpu.place())
    }

    /// Position of the last breakpoint that was noted.
    pub fn take_last_break(&mut self) -> Option<u64> {
        self.last_break.take()
    }

    /// BPF instructions retired on all CPUs, those included that the kernel has not been told of.
    #[must_use]
    pub fn retired(&self) -> u64 {
        let untold = |m: &Mid| {
            let vcpu = self.slots[m.cpu.idx()].as_ref().map_or(0, |s| s.vcpu.retired());
            vcpu - self.lanes[m.cpu.idx()].charged
        };
        self.insns() + self.mid.as_ref().map_or(0, untold)
    }

    /// Registers of the innermost program of a CPU, the program counter where it is or, while it is
    /// in a call of the kernel, at the stub it called; `None` when it runs no program.
    #[must_use]
    pub fn regs_of(&self, cpu: CpuId) -> Option<RegFile> {
        let lane = &self.lanes[cpu.idx()];
        let top = lane.contexts.last()?;
        let slot = self.slots[cpu.idx()].as_ref()?;
        let mut regs = if lane.switched { top.regs } else { slot.vcpu.regs() };
        match &self.mid {
            Some(mid) if mid.cpu == cpu => regs.pc = mid.pc,
            _ => {
                let stub_ret = spec(self.arch()).stub_ret;
                regs.pc = match &top.held {
                    Some(super::Held::At(pc)) => *pc,
                    _ if self.text.prog_at(top.resume).is_some() => regs.pc,
                    _ => top.resume - stub_ret,
                };
            }
        }
        Some(regs)
    }

    /// Whether the run stops where it is.
    pub(super) fn halts_here(&self) -> bool {
        let Some(h) = self.halting.as_ref().filter(|_| !self.closed) else { return false };
        let watched = !h.scan && self.watch.first.is_some();
        watched
            || self.position() >= h.until
            || self.event_count() > h.events
            || self.text.end() > h.text
            || h.step.as_ref().is_some_and(|s| self.has_stepped(s))
    }

    /// Whether a step is at its end.
    #[must_use]
    pub fn has_stepped(&self, s: &Stepping) -> bool {
        if self.place_of(s.cpu) < s.place {
            return false;
        }
        match self.held() {
            Some((cpu, pc)) if cpu == s.cpu => !s.within.as_ref().is_some_and(|r| r.contains(&pc)),
            _ => self.lanes[s.cpu.idx()].contexts.is_empty(),
        }
    }

    /// Replaces the registers that [`Machine::regs_of`] gives; false when the CPU does not stand at
    /// one of its own instructions.
    pub fn set_regs_of(&mut self, cpu: CpuId, regs: &RegFile) -> bool {
        match &mut self.mid {
            Some(mid) if mid.cpu == cpu => mid.pc = regs.pc,
            _ => return false,
        }
        let Some(slot) = self.slots[cpu.idx()].as_mut() else { return false };
        slot.vcpu.set_regs(regs);
        true
    }

    /// What the engine of a CPU is told of it; `rest` when it goes on inside a block.
    pub(super) fn halt_of(&self, cpu: CpuId, rest: bool) -> Option<Halt> {
        let h = self.halting.as_ref()?;
        let slot = self.slots[cpu.idx()].as_ref()?;
        let (now, place) = (self.position(), slot.vcpu.place());
        if self.closed {
            let (place, retired, from) = (u64::MAX, u64::MAX, u64::MAX);
            return Some(Halt {
                place,
                retired,
                from,
                scan: false,
                loose: false,
                rest,
                within: None,
            });
        }
        let mut stop = place.saturating_add(h.until.saturating_sub(now));
        let mut within = None;
        match h.step.as_ref().filter(|s| s.cpu == cpu) {
            Some(Stepping { place: at, within: Some(r), .. }) => {
                within = Some((r.start, r.end, *at));
            }
            Some(Stepping { place: at, .. }) => stop = stop.min((*at).max(place)),
            None => {}
        }
        let retired = slot.vcpu.retired();
        let told = self.insns() + (retired - self.lanes[cpu.idx()].charged);
        let retired = retired.saturating_add(h.insns.saturating_sub(told));
        let from = match h.from.checked_sub(now) {
            Some(more) => place.saturating_add(more),
            None => place.saturating_sub(now - h.from),
        };
        let (scan, loose) = (h.scan, h.loose && h.step.is_none());
        Some(Halt { place: stop, retired, from, scan, loose, rest, within })
    }

    /// Keeps what the engine of a CPU has noted.
    pub(super) fn note_break(&mut self, cpu: CpuId) {
        if self.halting.is_none() {
            return;
        }
        let now = self.position();
        self.note_accesses(cpu, now);
        let Some(slot) = self.slots[cpu.idx()].as_mut() else { return };
        if let Some(at) = slot.vcpu.take_last_break() {
            self.last_break = Some(now - (slot.vcpu.place() - at));
        }
    }
}
