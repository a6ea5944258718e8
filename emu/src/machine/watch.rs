//! Watchpoints: accesses of native code, and writes of the kernel model, to ranges of memory.
//!
//! Native accesses are noted by a hook of the engines, which is there only while something is
//! watched; the model's by guest memory. The run stops at the next place at which it can, and
//! whoever debugs it goes back to the access.

use std::ops::Range;

use kernel_model::CpuId;

use super::{Machine, MachineError};
use crate::unicorn::Watched;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watchpoint {
    /// First address.
    pub addr: u64,
    /// Bytes.
    pub len: u64,
    /// Loads stop it.
    pub reads: bool,
    /// Stores stop it.
    pub writes: bool,
}

/// A watched access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Position before the access.
    pub before: u64,
    /// Position after it.
    pub after: u64,
    /// Whose, or on whose CPU.
    pub cpu: CpuId,
    /// The watchpoint's address.
    pub addr: u64,
    /// A store.
    pub write: bool,
}

/// State of it.
#[derive(Debug, Default)]
pub(super) struct Watch {
    points: Vec<Watchpoint>,
    /// Physical ranges, and the watchpoint of each.
    pub(super) phys: Vec<Watched>,
    of: Vec<usize>,
    pub(super) first: Option<Hit>,
    last: Option<Hit>,
    /// Position at which native code last called the kernel, or the present step began.
    pub(super) trapped: u64,
}

impl Machine {
    /// Watches from now on. Translations of addresses are those of the present.
    ///
    /// # Errors
    /// When an engine takes no hook.
    pub fn set_watchpoints(&mut self, points: Vec<Watchpoint>) -> Result<(), MachineError> {
        let mut phys: Vec<Watched> = Vec::new();
        let mut of = Vec::new();
        for (n, p) in points.iter().enumerate() {
            for range in self.physical(p.addr, p.len) {
                phys.push(Watched { range, reads: p.reads, writes: p.writes });
                of.push(n);
            }
        }
        for slot in self.slots.iter_mut().flatten() {
            slot.vcpu.watch(&phys)?;
        }
        if let Some(vcpu) = self.stepper.vcpu() {
            vcpu.watch(&phys)?;
        }
        self.stepper.watched.clone_from(&phys);
        let written = phys.iter().filter(|w| w.writes).map(|w| w.range.clone());
        self.kernel.mem.watch(written.collect());
        (self.watch.points, self.watch.phys, self.watch.of) = (points, phys, of);
        self.take_hits();
        Ok(())
    }

    /// The first and the last watched access since this was asked.
    pub fn take_hits(&mut self) -> Option<(Hit, Hit)> {
        self.kernel.mem.take_written();
        self.watch.first.take().zip(self.watch.last.take())
    }

    fn physical(&self, addr: u64, len: u64) -> Vec<Range<u64>> {
        let (mut at, end) = (addr, addr.saturating_add(len));
        let mut out = Vec::new();
        while at < end {
            let next = end.min((at | 4095).saturating_add(1));
            if let Some(from) = self.kernel.mem.phys(at) {
                out.push(from..from + (next - at));
            }
            at = next;
        }
        out
    }

    fn note_hit(&mut self, hit: Hit) {
        if self.watch.first.is_none_or(|f| hit.before < f.before) {
            self.watch.first = Some(hit);
        }
        if self.watch.last.is_none_or(|l| hit.before >= l.before) {
            self.watch.last = Some(hit);
        }
    }

    /// What the kernel model does from now on belongs to the instruction so many positions back.
    pub(super) fn note_trap(&mut self, back: u64) {
        if !self.watch.phys.is_empty() {
            self.watch.trapped = self.position().saturating_sub(back);
        }
    }

    /// Native accesses of a CPU, which stands at a position.
    pub(super) fn note_accesses(&mut self, cpu: CpuId, now: u64) {
        let Some(slot) = self.slots[cpu.idx()].as_mut() else { return };
        let Some((first, last)) = slot.vcpu.take_watch_hits() else { return };
        let place = slot.vcpu.place();
        for h in [first, last] {
            let before = now - (place - h.place);
            let addr = self.watch.points[self.watch.of[h.which]].addr;
            self.note_hit(Hit { before, after: before + 1, cpu, addr, write: h.write });
        }
    }

    /// Writes by the kernel model since the last time.
    pub(super) fn note_written(&mut self, cpu: CpuId) {
        if self.watch.phys.is_empty() {
            return;
        }
        let (before, after) = (self.watch.trapped, self.position());
        for at in self.kernel.mem.take_written() {
            let which = self.watch.phys.iter().position(|w| w.range.contains(&at));
            let Some(which) = which else { continue };
            let addr = self.watch.points[self.watch.of[which]].addr;
            self.note_hit(Hit { before: before.min(after), after, cpu, addr, write: true });
        }
    }
}
