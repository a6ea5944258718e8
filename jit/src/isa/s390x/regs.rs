//! BPF registers in s390x registers: `reg2hex` of arch/s390/net/bpf_jit_comp.c.

use crate::isa::NativeReg;
use bpf::insn::Reg;

/// Number of a general register.
pub(crate) type R = u8;

/// Free at every BPF instruction; as a base or index it means "none".
pub(crate) const R0: R = 0;
/// Free at every BPF instruction.
pub(crate) const R1: R = 1;
/// First argument and native result.
pub(crate) const R2: R = 2;
/// R10.
pub(crate) const R13: R = 13;
/// R0, and the return address at calls.
pub(crate) const R14: R = 14;
/// Stack pointer.
pub(crate) const R15: R = 15;

/// Names by number.
const NAMES: [&str; 16] = [
    "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
    "r15",
];

/// R0..R10, AX.
const NUMBERS: [R; 12] = [14, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 12];

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
pub(crate) const fn native_num(num: R) -> NativeReg {
    NativeReg { name: NAMES[num as usize], num }
}

/// Register of a BPF register.
pub(crate) const fn native(r: Reg) -> R {
    NUMBERS[r.idx()]
}
