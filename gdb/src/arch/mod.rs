//! The registers gdb knows of each architecture: one table each, from which `target.xml`, the `g`
//! packet and the numbers of `p` and `P` follow.
//!
//! Behind the native registers come, on all four, those of the BPF machine (`bpf_r0` ..
//! `bpf_r10`, `bpf_pc`): the feature [`BPF_FEATURE`], of our own. They are what is in the native
//! registers of the back end, so gdb shows the innermost function's in outer frames too.

mod aarch64;
mod riscv64;
mod s390x;
mod x86_64;

use std::fmt::Debug;

use bpf::{Arch, Endian};
use jit::NativeReg;

use crate::{RegName, Regs};

pub(crate) use self::{
    aarch64::Aarch64 as A64, riscv64::Riscv64 as Rv64, s390x::S390x as S390, x86_64::X86_64 as X64,
};

/// Name of the feature of the BPF registers.
pub(crate) const BPF_FEATURE: &str = "org.orrery.bpf";

/// What a register of gdb holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holds {
    /// A general register, by its number in encodings.
    Gpr(u8),
    /// The program counter.
    Pc,
    /// Flags, or the PSW mask.
    Flags,
    /// A BPF register.
    Bpf(u8),
    /// The original index of the BPF instruction.
    BpfPc,
    /// Nothing that BPF code has: gdb wants it in the list, and shows it as unavailable.
    Absent,
}

/// A register as gdb sees it. Its number is its place in the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reg {
    /// Name.
    pub(crate) name: &'static str,
    /// Size.
    pub(crate) bits: u16,
    /// Feature of the target description it belongs to.
    pub(crate) feature: &'static str,
    /// gdb's name of its type.
    pub(crate) kind: &'static str,
    /// What is in it.
    pub(crate) holds: Holds,
}

impl Reg {
    pub(crate) const fn bytes(&self) -> usize {
        self.bits as usize / 8
    }
}

/// An architecture as gdb knows it.
pub(crate) trait GdbArch: Copy + Default + Debug + PartialEq + 'static {
    /// Which.
    const ARCH: Arch;
    /// gdb's name of it.
    const NAME: &'static str;
    /// Native registers in the order of the `g` packet.
    const NATIVE: &'static [Reg];

    /// A register by its number.
    fn reg(number: usize) -> Option<&'static Reg> {
        Self::NATIVE.get(number).or_else(|| BPF.get(number.checked_sub(Self::NATIVE.len())?))
    }

    /// All, by number.
    fn all() -> impl Iterator<Item = &'static Reg> {
        Self::NATIVE.iter().chain(BPF)
    }
}

const fn reg(
    name: &'static str,
    bits: u16,
    feature: &'static str,
    kind: &'static str,
    holds: Holds,
) -> Reg {
    Reg { name, bits, feature, kind, holds }
}

const fn bpf(name: &'static str, holds: Holds) -> Reg {
    reg(name, 64, BPF_FEATURE, "uint64", holds)
}

/// Registers of the BPF machine.
#[rustfmt::skip]
const BPF: &[Reg] = &[
    bpf("bpf_r0", Holds::Bpf(0)), bpf("bpf_r1", Holds::Bpf(1)), bpf("bpf_r2", Holds::Bpf(2)),
    bpf("bpf_r3", Holds::Bpf(3)), bpf("bpf_r4", Holds::Bpf(4)), bpf("bpf_r5", Holds::Bpf(5)),
    bpf("bpf_r6", Holds::Bpf(6)), bpf("bpf_r7", Holds::Bpf(7)), bpf("bpf_r8", Holds::Bpf(8)),
    bpf("bpf_r9", Holds::Bpf(9)), bpf("bpf_r10", Holds::Bpf(10)), bpf("bpf_pc", Holds::BpfPc),
];

/// The value of a register; `None` when it is not available.
pub(crate) fn value(arch: Arch, holds: Holds, regs: &Regs) -> Option<u64> {
    match holds {
        Holds::Pc => Some(regs.pc),
        Holds::Flags => Some(regs.flags),
        Holds::BpfPc => regs.bpf_pc.map(u64::from),
        Holds::Bpf(n) => {
            regs.bpf_pc?;
            gpr(bpf_reg(arch, n), regs)
        }
        Holds::Gpr(n) => regs.gprs.get(usize::from(n)).copied(),
        Holds::Absent => None,
    }
}

/// By which name the debuggee takes a new value of it; `None` where it takes none.
pub(crate) fn name_of(arch: Arch, holds: Holds, name: &'static str) -> Option<RegName> {
    match holds {
        Holds::Gpr(num) => Some(RegName::Gpr(NativeReg { name, num })),
        Holds::Bpf(n) => Some(RegName::Gpr(bpf_reg(arch, n))),
        Holds::Pc => Some(RegName::Pc),
        Holds::Flags => Some(RegName::Flags),
        Holds::BpfPc | Holds::Absent => None,
    }
}

fn bpf_reg(arch: Arch, n: u8) -> NativeReg {
    jit::facts(arch).regs[usize::from(n)]
}

fn gpr(reg: NativeReg, regs: &Regs) -> Option<u64> {
    regs.gprs.get(usize::from(reg.num)).copied()
}

/// A value in the bytes of the target, `bytes` of them, at most 8.
pub(crate) fn to_bytes(arch: Arch, value: u64, bytes: usize) -> Vec<u8> {
    match arch.endian() {
        Endian::Little => value.to_le_bytes()[..bytes].to_vec(),
        Endian::Big => value.to_be_bytes()[8 - bytes..].to_vec(),
    }
}

/// The inverse of [`to_bytes`]; `None` of more than 8 bytes.
pub(crate) fn from_bytes(arch: Arch, bytes: &[u8]) -> Option<u64> {
    let fold = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    (bytes.len() <= 8).then(|| match arch.endian() {
        Endian::Little => bytes.iter().rev().fold(0, fold),
        Endian::Big => bytes.iter().fold(0, fold),
    })
}
