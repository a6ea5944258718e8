//! `.debug_frame`: where the caller's frame is, exact at every native instruction.
//!
//! R0 to R5 are gone in a caller, so the registers that hold them are undefined there; the others
//! are where the JIT says it put them. R10 needs no rule of its own: it is saved like any register.

use super::native::{self, Native, Ra};
use crate::{Image, KernelImage, KernelUnwind};
use bpf::Arch;
use gimli::Register;
use gimli::write::{
    Address, CallFrameInstruction as Cfi, CommonInformationEntry, Expression,
    FrameDescriptionEntry, FrameTable,
};
use jit::{FrameChange, FuncMap, NativeOff};

/// What holds at the first instruction of every function.
fn common(arch: Arch) -> CommonInformationEntry {
    let n = native::of(arch);
    let encoding = gimli::Encoding { format: gimli::Format::Dwarf32, version: 4, address_size: 8 };
    let mut cie = CommonInformationEntry::new(encoding, 1, -8, n.ra);
    cie.add_instruction(Cfi::Cfa(n.sp, n.cfa_at_entry));
    for reg in 0..6 {
        cie.add_instruction(Cfi::Undefined(native::bpf(arch, reg)));
    }
    // Without an OS's ABI gdb takes no register of s390x for saved by those that are called.
    if arch == Arch::S390x {
        cie.add_instruction(Cfi::ValOffset(n.sp, -n.cfa_at_entry));
        (7..=13).for_each(|reg| cie.add_instruction(Cfi::SameValue(Register(reg))));
    }
    cie.add_instruction(match n.ra_at_entry {
        Ra::Stack(off) => Cfi::Offset(n.ra, off),
        Ra::Own => Cfi::SameValue(n.ra),
        Ra::Register(reg) => Cfi::Register(n.ra, reg),
    });
    cie
}

/// Frames of a program's functions.
pub(super) fn of_program(image: &Image) -> FrameTable {
    let mut table = FrameTable::default();
    let cie = table.add_cie(common(image.arch));
    for f in &image.debug.funcs {
        let start = Address::Constant(image.base + u64::from(f.start.0));
        let mut fde = FrameDescriptionEntry::new(start, f.end.0 - f.start.0);
        Rules::new(image.arch).function(f, &mut fde);
        table.add_fde(cie, fde);
    }
    table
}

/// Frames of the kernel's functions.
pub(super) fn of_kernel(image: &KernelImage) -> FrameTable {
    let mut table = FrameTable::default();
    let cie = table.add_cie(common(image.arch));
    for s in &image.symbols {
        let size = u32::try_from(s.size).unwrap_or(u32::MAX);
        let mut fde = FrameDescriptionEntry::new(Address::Constant(s.addr), size);
        match s.unwind {
            KernelUnwind::Leaf => {}
            KernelUnwind::Bottom => {
                fde.add_instruction(0, Cfi::Undefined(native::of(image.arch).ra));
            }
            KernelUnwind::Stub => {
                for rule in below_callbacks(native::of(image.arch)) {
                    fde.add_instruction(LEAF_BYTES, rule);
                }
            }
        }
        table.add_fde(cie, fde);
    }
    table
}

/// Bytes of a stub in which it has made no frame.
const LEAF_BYTES: u32 = 7;

/// Where the caller of a stub is while a callback of its function runs: see [`KernelUnwind::Stub`].
fn below_callbacks(n: &Native) -> Vec<Cfi> {
    let pushed = matches!(n.ra_at_entry, Ra::Stack(_));
    // What a caller leaves above the frame of a callee.
    let left = if pushed { 0 } else { i64::from(n.cfa_at_entry) };
    let word = |nth: i64| {
        let mut at = Expression::new();
        at.op_breg(n.sp, left + 8 * nth);
        at
    };
    let mut cfa = word(0);
    cfa.op_deref();
    cfa.op_plus_uconst(n.cfa_at_entry.unsigned_abs().into());
    let mut rules = vec![Cfi::CfaExpression(cfa), Cfi::Expression(n.ra, word(1))];
    // Where the call pushes nothing, the CFA need not be the caller's stack pointer.
    if !pushed {
        rules.push(Cfi::Expression(n.sp, word(0)));
    }
    rules
}

/// The rules of a function while its changes are written down.
struct Rules {
    arch: Arch,
    native: &'static Native,
    /// Lost in a caller whatever is saved for them.
    undefined: Vec<Register>,
    /// Register and offset of the CFA, now and in the body.
    cfa: (Register, i32),
    body: (Register, i32),
}

impl Rules {
    fn new(arch: Arch) -> Rules {
        let native = native::of(arch);
        let undefined = (0..6).map(|reg| native::bpf(arch, reg)).collect();
        let cfa = (native.sp, native.cfa_at_entry);
        Rules { arch, native, undefined, cfa, body: cfa }
    }

    fn function(&mut self, f: &FuncMap, fde: &mut FrameDescriptionEntry) {
        let mut in_body = false;
        let from_start = |at: NativeOff| at.0 - f.start.0;
        for (at, change) in f.frame.iter().filter(|c| c.0 < f.end) {
            if *at > f.body && !in_body {
                in_body = true;
                self.body = self.cfa;
                fde.add_instruction(from_start(f.body), Cfi::RememberState);
            }
            let at = from_start(*at);
            if *change == FrameChange::Body {
                // The state is taken off a stack: it is put there again for the next time.
                fde.add_instruction(at, Cfi::RestoreState);
                fde.add_instruction(at, Cfi::RememberState);
                self.cfa = self.body;
                continue;
            }
            if let Some(rule) = self.rule(*change) {
                fde.add_instruction(at, rule);
            }
        }
    }

    fn rule(&mut self, change: FrameChange) -> Option<Cfi> {
        match change {
            FrameChange::Sp(_) if self.cfa.0 != self.native.sp => None,
            FrameChange::Sp(down) => {
                self.cfa.1 += down;
                Some(Cfi::CfaOffset(self.cfa.1))
            }
            FrameChange::Cfa(reg, off) => {
                self.cfa = (native::dwarf(self.arch, reg), off);
                Some(Cfi::Cfa(self.cfa.0, off))
            }
            FrameChange::Save(s) => self.column(s.reg).map(|reg| Cfi::Offset(reg, s.cfa_off)),
            FrameChange::Restore(reg) => self.column(reg).map(Cfi::Restore),
            FrameChange::Body => None,
        }
    }

    /// Column of a saved register; none of one that is lost.
    fn column(&self, reg: Option<jit::NativeReg>) -> Option<Register> {
        let Some(reg) = reg else { return Some(self.native.ra) };
        let column = native::dwarf(self.arch, reg);
        (!self.undefined.contains(&column)).then_some(column)
    }
}
