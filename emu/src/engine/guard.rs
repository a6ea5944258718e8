//! Native accesses to guarded pages, which hold objects that were freed or wait for it.
//!
//! A guarded page is in no TLB, so that each access to it stops the engine. The allocator says what
//! it is: one that is wrong is a fault, or, of a load that may fail, is told of and goes on; one
//! that is right is done by itself: a plain load or store here, by its BPF instruction, whose
//! registers are known and untouched; others on an engine beside the CPU's that sees all pages and
//! runs single instructions. Unicorn counts instructions by hooks that are compiled in, so an
//! engine that does so now and then would throw its code away each time.

use std::collections::BTreeMap;
use std::ops::Range;

use bpf::Insn;
use bpf::insn::{InsnIdx, Reg, Src};
use kernel_model::alloc::{Alloc, Wrong};
use kernel_model::mem::GuestMemory;
use kernel_model::{Prog, ProgId};

use super::{Mmu, Text};
use crate::unicorn::{CpuError, Stop, Vcpu, Watched};

/// Native instructions of one BPF instruction, tries of a store that is conditional included.
const STEPS_MAX: u64 = 1000;

/// The engine beside those of the CPUs, made when it is first needed.
#[derive(Debug, Default)]
pub struct Stepper {
    vcpu: Option<Vcpu>,
    epoch: u64,
    /// What it watches, once it is there.
    pub(crate) watched: Vec<Watched>,
}

impl Stepper {
    /// The engine, if there is one.
    pub fn vcpu(&mut self) -> Option<&mut Vcpu> {
        self.vcpu.as_mut()
    }

    /// The engine with the registers of a CPU.
    fn beside(&mut self, cpu: &Vcpu, memory: &GuestMemory) -> Result<&mut Vcpu, CpuError> {
        if self.vcpu.is_none() {
            let vcpu = self.vcpu.insert(cpu.beside()?);
            vcpu.watch(&self.watched)?;
            self.epoch = memory.epoch();
        }
        let beside = self.vcpu.as_mut().expect("just made");
        if self.epoch != memory.epoch() {
            beside.pages_changed();
            self.epoch = memory.epoch();
        }
        beside.stand_in(cpu);
        Ok(beside)
    }

    /// Runs native instructions one by one from `pc` to `to`, inside one block, for a debugger.
    /// What stopped it before, and where.
    pub(super) fn advance(
        &mut self,
        cpu: &mut Vcpu,
        memory: &mut GuestMemory,
        mut pc: u64,
        to: u64,
    ) -> Result<Option<(Stop, u64)>, CpuError> {
        if pc == to {
            return Ok(None);
        }
        let beside = self.beside(cpu, memory)?;
        beside.take_watch_hits();
        let mut stopped = None;
        while pc != to && stopped.is_none() {
            let (ram, walker) = memory.lend();
            let stop = beside.step(ram, &mut Mmu(walker), pc)?;
            stopped = Some(stop).filter(|s| *s != Stop::Fuel).map(|s| (s, pc));
            pc = beside.pc();
        }
        cpu.set_regs(&beside.regs());
        cpu.add_observed(beside.take_observed());
        Ok(stopped)
    }

    /// Runs native instructions from `pc` to the end of the BPF instruction they belong to, with
    /// the registers of `cpu`, whose registers then are those after it; false when they could not.
    /// All of it, because a reservation (lr, sc) is the engine's that made it.
    fn step(
        &mut self,
        cpu: &mut Vcpu,
        memory: &mut GuestMemory,
        within: Range<u64>,
        mut pc: u64,
    ) -> Result<bool, CpuError> {
        let beside = self.beside(cpu, memory)?;
        let mut done = 0;
        while done == 0 || within.contains(&pc) && done < STEPS_MAX {
            let (ram, walker) = memory.lend();
            if beside.step(ram, &mut Mmu(walker.with_guarded()), pc)? != Stop::Fuel {
                return Ok(false);
            }
            pc = beside.pc();
            done += 1;
        }
        cpu.set_regs(&beside.regs());
        beside.take_observed();
        // The first was counted when its block began.
        cpu.set_counts(cpu.retired(), cpu.native() + done - 1);
        Ok(true)
    }
}

/// Does a plain load or store; false when it is something else, or not of this address.
fn direct(cpu: &mut Vcpu, memory: &mut GuestMemory, insn: &Insn, addr: u64) -> bool {
    let bpf = cpu.spec().bpf;
    let at = |cpu: &Vcpu, base: Reg, off: i16| {
        let at = cpu.reg(bpf[base.idx()]).wrapping_add_signed(off.into());
        (at == addr).then_some(at)
    };
    match *insn {
        Insn::Load { size, sext: false, dst, src, off } => {
            let value = at(cpu, src, off).map(|at| memory.read_uint(at, size.bytes()));
            let Some(Ok(value)) = value else { return false };
            cpu.set_reg(bpf[dst.idx()], value);
            true
        }
        Insn::Store { size, dst, off, src } => {
            let value = match src {
                Src::Reg(r) => cpu.reg(bpf[r.idx()]),
                Src::Imm(v) => i64::from(v) as u64,
            };
            let done = at(cpu, dst, off).map(|at| memory.write_uint(at, size.bytes(), value));
            matches!(done, Some(Ok(())))
        }
        _ => false,
    }
}

/// What looks at accesses to guarded pages for one run of native code.
#[derive(Debug)]
pub struct Guard<'a> {
    /// Where objects are.
    pub alloc: &'a Alloc,
    /// The oldest read-side section of the CPU.
    pub section: Option<u64>,
    /// Programs, for what their instructions are.
    pub progs: &'a BTreeMap<ProgId, Prog>,
    /// The engine for single instructions.
    pub stepper: &'a mut Stepper,
    /// Wrong accesses of loads that may fail: native address and address.
    pub found: Vec<(u64, u64)>,
}

/// What becomes of an access.
pub(super) enum Look {
    /// It was done; the next instruction.
    Done(u64),
    /// It is a fault.
    Fault,
}

impl Guard<'_> {
    /// Behind the atomic instruction that has an address in its middle.
    pub(super) fn atomic_around(&self, text: &Text, pc: u64) -> Option<u64> {
        let (range, insn) = text.native_range(pc);
        let (prog, at) = insn.filter(|_| range.start != pc)?;
        let insn = self.progs.get(&prog)?.verified.insn(at).0;
        matches!(insn, Insn::Atomic { .. }).then_some(range.end)
    }

    /// Looks at an access of the instruction at `pc` that the engine stopped at.
    pub(super) fn look(
        &mut self,
        cpu: &mut Vcpu,
        memory: &mut GuestMemory,
        (pc, addr): (u64, u64),
        (within, insn): (Range<u64>, Option<(ProgId, InsnIdx)>),
        may_fail: bool,
    ) -> Result<Look, CpuError> {
        if let Err(report) = self.alloc.check(addr, 1, self.section, Default::default()) {
            if !may_fail {
                return Ok(Look::Fault);
            }
            if report.wrong != Wrong::OutOfBounds {
                self.found.push((pc, addr));
            }
        }
        let insn = insn.and_then(|(prog, at)| Some(self.progs.get(&prog)?.verified.insn(at).0));
        if insn.is_some_and(|insn| direct(cpu, memory, insn, addr)) {
            return Ok(Look::Done(within.end));
        }
        let done = self.stepper.step(cpu, memory, within, pc)?;
        Ok(if done { Look::Done(cpu.pc()) } else { Look::Fault })
    }
}
