//! The way programs went, block by block: for finding where two architectures parted.
//!
//! While a [`PathLog`] is on, native code is run one basic block at a time, and each block of
//! native code at which a BPF instruction begins is noted with the BPF registers. This costs a
//! hundred times the run, so it is on for the few events that are looked into.
//!
//! A `LineWatch` does the same for single lines of source, as long as there is one.

use std::collections::BTreeMap;
use std::ops::Range;

use bpf::insn::InsnIdx;
use kernel_model::mem::GuestMemory;
use kernel_model::{CpuId, EventKind, ProgId};

use super::Machine;
use super::halt::Mid;
use crate::engine::{Exit, Guard, Text, exec};
use crate::unicorn::{CpuError, Fuel, Halt, Vcpu};

/// Topic of the notes of a `LineWatch`.
pub const LINE: &str = "line";

/// Points beyond which a log stops: a loop that runs away is known by then.
const POINTS_MAX: usize = 1 << 17;

/// A BPF instruction at which a block of native code begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Which CPU was there.
    pub cpu: CpuId,
    /// Program.
    pub prog: ProgId,
    /// Original instruction.
    pub insn: InsnIdx,
    /// Native address.
    pub pc: u64,
    /// R0 to R10.
    pub regs: [u64; 11],
    /// Number of events before it.
    pub event: usize,
}

/// What is noted, and what was.
#[derive(Clone, Debug)]
pub struct PathLog {
    /// Between which events.
    pub(super) events: Range<usize>,
    /// In the order of the run.
    pub(super) points: Vec<Point>,
}

impl PathLog {
    /// Notes what happens while the number of events is in a range.
    #[must_use]
    pub fn new(events: Range<usize>) -> PathLog {
        PathLog { events, points: Vec::new() }
    }

    /// Whether it is time.
    pub(super) fn is_on(&self, events: usize) -> bool {
        self.events.contains(&events) && self.points.len() < POINTS_MAX
    }

    fn note(&mut self, at: (CpuId, usize), cpu: &Vcpu, text: &Text, pc: u64) {
        let Some(p) = text.prog_at(pc) else { return };
        let Some(range) = p.range_at(pc) else { return };
        // Inside an instruction the registers are neither before nor after it.
        if !range.first || p.base + u64::from(range.start.0) != pc {
            return;
        }
        let bpf = cpu.spec().bpf;
        let regs = std::array::from_fn(|r| cpu.reg(bpf[r]));
        let (cpu, event) = at;
        self.points.push(Point { cpu, prog: p.prog, insn: range.orig, pc, regs, event });
    }

    /// As [`exec`], a block at a time.
    pub(super) fn exec(
        &mut self,
        at: (CpuId, usize),
        cpu: &mut Vcpu,
        memory: &mut GuestMemory,
        text: &Text,
        guard: &mut Guard<'_>,
        fuel: Fuel,
        mut pc: u64,
    ) -> Result<Exit, CpuError> {
        let end = cpu.retired().saturating_add(fuel.insns);
        let blocks_end = cpu.blocks().saturating_add(fuel.blocks);
        loop {
            self.note(at, cpu, text, pc);
            let blocks = blocks_end.saturating_sub(cpu.blocks());
            if cpu.retired() >= end || blocks == 0 {
                return Ok(Exit::Fuel);
            }
            let full = self.points.len() >= POINTS_MAX;
            let insns = if full { end - cpu.retired() } else { 1 };
            match exec(cpu, memory, text, guard, Fuel::new(insns, blocks), pc)? {
                Exit::Fuel => pc = cpu.pc(),
                exit => return Ok(exit),
            }
        }
    }
}

/// Instructions at which a line of source begins, and how it is called.
#[derive(Clone, Debug, Default)]
pub(super) struct LineWatch(BTreeMap<(ProgId, InsnIdx), String>);

impl LineWatch {
    pub(super) fn add(&mut self, prog: ProgId, at: InsnIdx, name: &str) {
        self.0.insert((prog, at), name.to_owned());
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names of the lines that the first so many instructions from an address begin.
    fn reached(&self, text: &Text, pc: u64, insns: u64) -> Vec<String> {
        let Some(p) = text.prog_at(pc) else { return Vec::new() };
        let all = p.compiled.debug.insns.iter().filter(|r| r.first);
        let from = all.skip_while(|r| p.base + u64::from(r.retired_at.0) < pc);
        let run = from.take(usize::try_from(insns).unwrap_or(usize::MAX));
        run.filter_map(|r| self.0.get(&(p.prog, r.orig)).cloned()).collect()
    }
}

impl Machine {
    /// As [`exec`], a block at a time, with a note for each watched line.
    pub(super) fn by_lines(
        &mut self,
        cpu: CpuId,
        fuel: Fuel,
        mut pc: u64,
        mid: Option<Mid>,
    ) -> Result<Exit, CpuError> {
        let mut found = mid.map_or(Vec::new(), |m| m.found);
        let mut halt = fuel.halt;
        let slot = |m: &Machine| m.slots[cpu.idx()].as_ref().map_or(0, |s| s.vcpu.retired());
        let end = slot(self).saturating_add(fuel.insns);
        loop {
            let before = slot(self);
            if before >= end {
                return Ok(Exit::Fuel);
            }
            let vcpu = &mut self.slots[cpu.idx()].as_mut().expect("made by enter").vcpu;
            let one = Fuel { halt, ..Fuel::new(end - before, 1) };
            halt = halt.map(|h| Halt { rest: false, ..h });
            let section = self.kernel.oldest_section(cpu);
            let (alloc, progs) = (&self.kernel.alloc, &self.kernel.progs);
            let stepper = &mut self.stepper;
            let mut guard =
                Guard { alloc, section, progs, stepper, found: std::mem::take(&mut found) };
            let exit = exec(vcpu, &mut self.kernel.mem, &self.text, &mut guard, one, pc)?;
            let looked_at = guard.found;
            let (next, insns) = (vcpu.pc(), vcpu.retired() - before);
            for text in self.lines.reached(&self.text, pc, insns) {
                self.kernel.emit(cpu, EventKind::Note { topic: LINE, text });
            }
            self.note_break(cpu);
            if let Exit::Held(pc) = exit {
                self.mid = Some(Mid { cpu, pc, found: looked_at });
                return Ok(exit);
            }
            self.charge(cpu);
            looked_at.into_iter().for_each(|(pc, addr)| self.kernel.probed(cpu, pc, addr));
            self.tell_accesses(cpu);
            match exit {
                Exit::Fuel => pc = next,
                exit => return Ok(exit),
            }
        }
    }
}
