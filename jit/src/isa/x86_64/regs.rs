//! BPF registers in x86-64 registers: `reg2hex` of arch/x86/net/bpf_jit_comp.c.

use crate::isa::NativeReg;
use bpf::insn::Reg;

/// Number of a 64-bit register in ModRM and REX.
pub(crate) type R = u8;

pub(crate) const RAX: R = 0;
pub(crate) const RCX: R = 1;
pub(crate) const RDX: R = 2;
pub(crate) const RSP: R = 4;
pub(crate) const RBP: R = 5;
/// Free at every BPF instruction.
pub(crate) const R11: R = 11;

/// Names by number.
const NAMES: [&str; 16] = [
    "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13",
    "r14", "r15",
];

/// R0..R10, AX.
const NUMBERS: [R; 12] = [0, 7, 6, 2, 1, 8, 3, 13, 14, 15, 5, 10];

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
