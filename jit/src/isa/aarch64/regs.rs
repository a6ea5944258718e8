//! BPF registers in arm64 registers: `bpf2a64` of arch/arm64/net/bpf_jit_comp.c.

use super::asm::Gpr;
use crate::isa::NativeReg;
use bpf::insn::Reg;

pub(crate) const X0: Gpr = Gpr(0);
/// R0: x0 is R1, so results of calls are moved.
pub(crate) const R0: Gpr = Gpr(8);
/// Free at every BPF instruction.
pub(crate) const TMP1: Gpr = Gpr(10);
/// Free at every BPF instruction.
pub(crate) const TMP2: Gpr = Gpr(11);
/// Free at every BPF instruction.
pub(crate) const TMP3: Gpr = Gpr(12);
/// Carries the tail-call counter into a function. The kernel keeps it in x26, which it then has to
/// save; a caller-saved register does as well.
pub(crate) const COUNTER: Gpr = Gpr(13);
/// R10.
pub(crate) const FP: Gpr = Gpr(25);
/// `fp` of the AAPCS64: the chain of frame records.
pub(crate) const X29: Gpr = Gpr(29);
/// Link register.
pub(crate) const LR: Gpr = Gpr(30);

/// Names by number.
const NAMES: [&str; 32] = [
    "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14",
    "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26", "x27",
    "x28", "x29", "x30", "sp",
];

/// R0..R10, AX.
const NUMBERS: [u8; 12] = [8, 0, 1, 2, 3, 4, 19, 20, 21, 22, 25, 9];

/// The table the driver publishes.
pub(crate) const REGS: [NativeReg; 12] = {
    let mut regs = [native_num(0); 12];
    let mut i = 0;
    while i < 12 {
        regs[i] = native_num(NUMBERS[i]);
        i += 1;
    }
    regs
};

/// With its name.
pub(crate) const fn native_num(num: u8) -> NativeReg {
    NativeReg { name: NAMES[num as usize], num }
}

/// Register of a BPF register.
pub(crate) const fn native(r: Reg) -> Gpr {
    Gpr(NUMBERS[r.idx()])
}
