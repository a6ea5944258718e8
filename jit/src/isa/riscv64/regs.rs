//! BPF registers in riscv64 registers: `regmap` of arch/riscv/net/bpf_jit_comp64.c.

use super::asm::{A0, A5, A6, Gpr, S0, S5, T1, T2, T3};
use crate::isa::NativeReg;
use bpf::insn::Reg;

/// First argument and native result.
pub(crate) const RESULT: Gpr = A0;
/// R0: a0 is R1, so results of calls are moved.
pub(crate) const R0: Gpr = A5;
/// Free at every BPF instruction.
pub(crate) const TMP1: Gpr = T1;
/// Free at every BPF instruction.
pub(crate) const TMP2: Gpr = T2;
/// Free at every BPF instruction.
pub(crate) const TMP3: Gpr = T3;
/// Carries the tail-call counter into a function (`RV_REG_TCC`).
pub(crate) const COUNTER: Gpr = A6;
/// R10.
pub(crate) const FP: Gpr = S5;
/// Frame pointer of the C ABI.
pub(crate) const FRAME: Gpr = S0;

/// Names by number.
const NAMES: [&str; 32] = [
    "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4",
    "a5", "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4",
    "t5", "t6",
];

/// R0..R10, AX.
const NUMBERS: [u8; 12] = [15, 10, 11, 12, 13, 14, 9, 18, 19, 20, 21, 5];

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
