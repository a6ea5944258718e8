//! s390x: the three features gdb wants of a 64-bit target. `core` is the name in all widths; the
//! program counter is the PSW address, without the bit of 31-bit addressing.

use bpf::Arch;

use super::{GdbArch, Holds::*, Reg, reg};

/// The architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct S390x;

impl GdbArch for S390x {
    const ARCH: Arch = Arch::S390x;
    const NAME: &'static str = "s390:64-bit";
    const NATIVE: &'static [Reg] = NATIVE;
}

const CORE: &str = "org.gnu.gdb.s390.core";
const ACR: &str = "org.gnu.gdb.s390.acr";
const FPR: &str = "org.gnu.gdb.s390.fpr";

#[rustfmt::skip]
const NATIVE: &[Reg] = &[
    reg("pswm", 64, CORE, "uint64", Flags),
    reg("pswa", 64, CORE, "code_ptr", Pc),
    reg("r0", 64, CORE, "uint64", Gpr(0)),
    reg("r1", 64, CORE, "uint64", Gpr(1)),
    reg("r2", 64, CORE, "uint64", Gpr(2)),
    reg("r3", 64, CORE, "uint64", Gpr(3)),
    reg("r4", 64, CORE, "uint64", Gpr(4)),
    reg("r5", 64, CORE, "uint64", Gpr(5)),
    reg("r6", 64, CORE, "uint64", Gpr(6)),
    reg("r7", 64, CORE, "uint64", Gpr(7)),
    reg("r8", 64, CORE, "uint64", Gpr(8)),
    reg("r9", 64, CORE, "uint64", Gpr(9)),
    reg("r10", 64, CORE, "uint64", Gpr(10)),
    reg("r11", 64, CORE, "uint64", Gpr(11)),
    reg("r12", 64, CORE, "uint64", Gpr(12)),
    reg("r13", 64, CORE, "uint64", Gpr(13)),
    reg("r14", 64, CORE, "uint64", Gpr(14)),
    reg("r15", 64, CORE, "data_ptr", Gpr(15)),
    reg("acr0", 32, ACR, "uint32", Absent),
    reg("acr1", 32, ACR, "uint32", Absent),
    reg("acr2", 32, ACR, "uint32", Absent),
    reg("acr3", 32, ACR, "uint32", Absent),
    reg("acr4", 32, ACR, "uint32", Absent),
    reg("acr5", 32, ACR, "uint32", Absent),
    reg("acr6", 32, ACR, "uint32", Absent),
    reg("acr7", 32, ACR, "uint32", Absent),
    reg("acr8", 32, ACR, "uint32", Absent),
    reg("acr9", 32, ACR, "uint32", Absent),
    reg("acr10", 32, ACR, "uint32", Absent),
    reg("acr11", 32, ACR, "uint32", Absent),
    reg("acr12", 32, ACR, "uint32", Absent),
    reg("acr13", 32, ACR, "uint32", Absent),
    reg("acr14", 32, ACR, "uint32", Absent),
    reg("acr15", 32, ACR, "uint32", Absent),
    reg("fpc", 32, FPR, "uint32", Absent),
    reg("f0", 64, FPR, "ieee_double", Absent),
    reg("f1", 64, FPR, "ieee_double", Absent),
    reg("f2", 64, FPR, "ieee_double", Absent),
    reg("f3", 64, FPR, "ieee_double", Absent),
    reg("f4", 64, FPR, "ieee_double", Absent),
    reg("f5", 64, FPR, "ieee_double", Absent),
    reg("f6", 64, FPR, "ieee_double", Absent),
    reg("f7", 64, FPR, "ieee_double", Absent),
    reg("f8", 64, FPR, "ieee_double", Absent),
    reg("f9", 64, FPR, "ieee_double", Absent),
    reg("f10", 64, FPR, "ieee_double", Absent),
    reg("f11", 64, FPR, "ieee_double", Absent),
    reg("f12", 64, FPR, "ieee_double", Absent),
    reg("f13", 64, FPR, "ieee_double", Absent),
    reg("f14", 64, FPR, "ieee_double", Absent),
    reg("f15", 64, FPR, "ieee_double", Absent),
];
