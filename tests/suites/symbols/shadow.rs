//! The reference interpreter beside a machine: registers of BPF as the language defines them.
//!
//! Before the machine runs an instruction the interpreter does, on the same memory, which it does
//! not write. What an instruction became another one for (accesses to a context, addresses of maps)
//! and what the kernel returned is taken over from the machine.

use bpf::Endian;
use bpf::insn::{Call, Insn, InsnIdx, Size};
use bpf::interp::{Exit, Fault, Host, Vm};
use emu::debug::Target;
use gdb::Debuggee as _;
use kernel_model::{CpuId, ProgId};

use super::Program;

/// Instructions without native code that are gone over at most.
const SKIPPED_MAX: usize = 4096;

/// Memory of the machine, read only.
struct Memory<'a, 'b>(&'a Target<'b>, Endian);

impl Host for Memory<'_, '_> {
    fn endian(&self) -> Endian {
        self.1
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, Fault> {
        let mut bytes = [0; 8];
        let n = size.bytes() as usize;
        if self.0.read(0, addr, &mut bytes[..n]) < n {
            return Err(Fault::BadAddress { addr, size: n as u32, write: false });
        }
        let digits = |v: u64, b: &u8| v << 8 | u64::from(*b);
        Ok(match self.1 {
            Endian::Little => bytes[..n].iter().rev().fold(0, digits),
            Endian::Big => bytes[..n].iter().fold(0, digits),
        })
    }

    fn store(&mut self, _: u64, _: Size, _: u64) -> Result<(), Fault> {
        Ok(())
    }
}

/// An entry that has not returned.
struct Entered {
    prog: ProgId,
    vm: Vm,
    /// R1 then.
    argument: u64,
    /// Registers to take over when the next instruction is reached, by bit.
    adopts: u16,
    /// So is where it goes on.
    jumps: bool,
    /// It has returned.
    over: bool,
}

/// The programs of a task on a CPU.
#[derive(Default)]
pub(crate) struct Shadow {
    entered: Vec<Entered>,
    /// Places at which it did not know how the machine came there.
    pub(crate) lost: Vec<String>,
}

impl Shadow {
    /// The machine is about to run an instruction: the argument with which its program was entered,
    /// and registers there, when they are known.
    pub(crate) fn at(
        &mut self,
        target: &Target<'_>,
        cpu: CpuId,
        p: &Program,
        orig: u32,
    ) -> Option<(u64, [u64; 11])> {
        let machine = target.machine();
        let frames = machine.stack_frames(cpu);
        let regs = machine.bpf_regs(cpu)?.map(|r| r.unwrap_or(0));
        let depth = |all: &[Entered]| all.iter().map(|e| e.vm.depth() + 1).sum::<usize>();
        while self.entered.last().is_some_and(|e| e.over) || depth(&self.entered) > frames.len() {
            self.entered.pop();
        }
        let begins = p.begins(orig);
        let elsewhere = |e: &Entered| e.prog != p.id || e.vm.pc != orig as usize;
        let replaced = self.entered.last().is_some_and(elsewhere);
        if depth(&self.entered) == frames.len() && replaced && begins {
            // A tail call.
            self.entered.pop();
        }
        if depth(&self.entered) < frames.len() {
            if depth(&self.entered) + 1 != frames.len() || !begins {
                self.lost.push(format!("{} at {orig}: {} frames", p.image.name, frames.len()));
                self.entered.clear();
                return None;
            }
            let args = std::array::from_fn(|n| regs[n + 1]);
            let argument = regs[1];
            let mut vm = Vm::new(p.code.clone(), args, 0..regs[10], u64::MAX);
            vm.pc = orig as usize;
            let (prog, adopts, jumps, over) = (p.id, 0, false, false);
            self.entered.push(Entered { prog, vm, argument, adopts, jumps, over });
        }
        let top = self.entered.last_mut()?;
        for n in (0..10).filter(|n| top.adopts & 1 << n != 0) {
            top.vm.regs[n] = regs[n];
        }
        top.adopts = 0;
        if std::mem::take(&mut top.jumps) {
            top.vm.pc = orig as usize;
        }
        let mut skipped = 0;
        while top.vm.pc != orig as usize && !p.has_code(top.vm.pc) && skipped < SKIPPED_MAX {
            top.step(target, p);
            skipped += 1;
        }
        if top.vm.pc != orig as usize {
            self.lost.push(format!("{} at {orig} instead of {}", p.image.name, top.vm.pc));
            self.entered.clear();
            return None;
        }
        // Frames of functions are as large as they need to be; the interpreter's are not.
        top.vm.regs[10] = frames.first()?.fp.unwrap_or(regs[10]);
        let out = std::array::from_fn(|n| top.vm.regs[n]);
        top.step(target, p);
        Some((top.argument, out))
    }
}

impl Entered {
    /// The interpreter runs the next instruction, or leaves it to the machine.
    fn step(&mut self, target: &Target<'_>, p: &Program) {
        let at = self.vm.pc;
        let Some(insn) = p.code.get(at).copied() else { return };
        if let Insn::Call(Call::Helper(_) | Call::Kfunc { .. }) | Insn::Callx { .. } = insn {
            (self.adopts, self.vm.pc) = (0b11_1111, at + 1);
            return;
        }
        if !p.plain[at] {
            self.adopts = written(&insn);
            self.vm.pc = at + p.slots(at);
            self.jumps = self.adopts == 0;
            return;
        }
        self.vm.fuel = 1;
        let exit = self.vm.run(&mut Memory(target, p.image.arch.endian()));
        self.over = matches!(exit, Exit::Return(_));
        if let Exit::Fault { at: InsnIdx(n), .. } = exit {
            // The interpreter has no such thing: as the machine does it.
            self.adopts = written(&insn);
            self.vm.pc = n as usize + p.slots(at);
            self.jumps = self.adopts == 0;
        }
    }
}

/// Registers that an instruction writes, by bit; of calls it is told elsewhere.
fn written(insn: &Insn) -> u16 {
    match insn {
        Insn::Call(_) | Insn::Callx { .. } => 0,
        Insn::LdAbs { .. } | Insn::LdInd { .. } => 0b11_1111,
        _ => insn.result().map_or(0, |r| 1 << r.idx()),
    }
}

/// Whether an instruction, as the verifier left it, does what it says.
pub(crate) fn is_plain(insn: &Insn, rewritten: &[Insn]) -> bool {
    match insn {
        // Their distances differ in a program that was rewritten.
        Insn::Jmp { .. } | Insn::Ja { .. } | Insn::Exit | Insn::Call(Call::Local(_)) => true,
        _ => matches!(rewritten, [only] if only == insn),
    }
}
