//! What DWARF calls things on each architecture.
//!
//! Sources: System V ABI AMD64 (figure 3.36), DWARF for the Arm 64-bit architecture, RISC-V psABI,
//! ELF ABI s390x supplement (table 1.18).

use bpf::Arch;
use gimli::{Register, RunTimeEndian};
use jit::NativeReg;

/// Facts of one architecture.
pub(super) struct Native {
    /// `e_machine`.
    pub(super) machine: u16,
    /// Stack pointer.
    pub(super) sp: Register,
    /// The CFA at a function's first instruction, from the stack pointer.
    pub(super) cfa_at_entry: i32,
    /// Column of the return address.
    pub(super) ra: Register,
    /// Where the return address is at a function's first instruction.
    pub(super) ra_at_entry: Ra,
    /// R10 from the CFA.
    pub(super) fp_from_cfa: i64,
}

/// Where a return address is.
pub(super) enum Ra {
    /// In memory, from the CFA.
    Stack(i32),
    /// In the register of its own column.
    Own,
    /// In another register.
    Register(Register),
}

const X86_64: Native = Native {
    machine: 62,
    sp: Register(7),
    cfa_at_entry: 8,
    ra: Register(16),
    ra_at_entry: Ra::Stack(-8),
    fp_from_cfa: -16,
};

const ARM64: Native = Native {
    machine: 183,
    sp: Register(31),
    cfa_at_entry: 0,
    ra: Register(30),
    ra_at_entry: Ra::Own,
    fp_from_cfa: 0,
};

const RISCV64: Native = Native {
    machine: 243,
    sp: Register(2),
    cfa_at_entry: 0,
    ra: Register(1),
    ra_at_entry: Ra::Own,
    fp_from_cfa: 0,
};

/// The return address has the PSW's column: %r14, which the ABI uses, is R0, and what is saved for
/// it is the return address, not a value of R0.
const S390X: Native = Native {
    machine: 22,
    sp: Register(15),
    cfa_at_entry: 160,
    ra: Register(65),
    ra_at_entry: Ra::Register(Register(14)),
    fp_from_cfa: -160,
};

/// Facts of an architecture.
pub(super) const fn of(arch: Arch) -> &'static Native {
    match arch {
        Arch::X86_64 => &X86_64,
        Arch::Arm64 => &ARM64,
        Arch::Riscv64 => &RISCV64,
        Arch::S390x => &S390X,
    }
}

/// Byte order.
pub(super) fn endian(arch: Arch) -> RunTimeEndian {
    match arch.endian() {
        bpf::Endian::Little => RunTimeEndian::Little,
        bpf::Endian::Big => RunTimeEndian::Big,
    }
}

/// DWARF number of a general register.
pub(super) fn dwarf(arch: Arch, reg: NativeReg) -> Register {
    /// rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi: the order of encodings is not DWARF's.
    const X86: [u16; 8] = [0, 2, 1, 3, 7, 6, 4, 5];
    let num = u16::from(reg.num);
    match arch {
        Arch::X86_64 => Register(X86.get(usize::from(num)).copied().unwrap_or(num)),
        Arch::Arm64 | Arch::Riscv64 | Arch::S390x => Register(num),
    }
}

/// DWARF number of the register that holds a BPF register; R10 is better told from the CFA.
pub(super) fn bpf(arch: Arch, reg: u8) -> Register {
    dwarf(arch, jit::facts(arch).regs[usize::from(reg)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The kernel's assignments as the DWARF numbers that were tried with a debugger.
    #[test]
    fn registers() {
        let all = |arch| (0..11).map(|n| bpf(arch, n).0).collect::<Vec<_>>();
        assert_eq!(all(Arch::X86_64), [0, 5, 4, 1, 2, 8, 3, 13, 14, 15, 6]);
        assert_eq!(all(Arch::Arm64), [8, 0, 1, 2, 3, 4, 19, 20, 21, 22, 25]);
        assert_eq!(all(Arch::Riscv64), [15, 10, 11, 12, 13, 14, 9, 18, 19, 20, 21]);
        assert_eq!(all(Arch::S390x), [14, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13]);
    }
}
