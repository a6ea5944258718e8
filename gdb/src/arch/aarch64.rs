//! arm64: gdb's `org.gnu.gdb.aarch64.core`.

use bpf::Arch;

use super::{GdbArch, Holds::*, Reg, reg};

/// The architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Aarch64;

impl GdbArch for Aarch64 {
    const ARCH: Arch = Arch::Arm64;
    const NAME: &'static str = "aarch64";
    const NATIVE: &'static [Reg] = NATIVE;
}

const CORE: &str = "org.gnu.gdb.aarch64.core";

#[rustfmt::skip]
const NATIVE: &[Reg] = &[
    reg("x0", 64, CORE, "int", Gpr(0)),
    reg("x1", 64, CORE, "int", Gpr(1)),
    reg("x2", 64, CORE, "int", Gpr(2)),
    reg("x3", 64, CORE, "int", Gpr(3)),
    reg("x4", 64, CORE, "int", Gpr(4)),
    reg("x5", 64, CORE, "int", Gpr(5)),
    reg("x6", 64, CORE, "int", Gpr(6)),
    reg("x7", 64, CORE, "int", Gpr(7)),
    reg("x8", 64, CORE, "int", Gpr(8)),
    reg("x9", 64, CORE, "int", Gpr(9)),
    reg("x10", 64, CORE, "int", Gpr(10)),
    reg("x11", 64, CORE, "int", Gpr(11)),
    reg("x12", 64, CORE, "int", Gpr(12)),
    reg("x13", 64, CORE, "int", Gpr(13)),
    reg("x14", 64, CORE, "int", Gpr(14)),
    reg("x15", 64, CORE, "int", Gpr(15)),
    reg("x16", 64, CORE, "int", Gpr(16)),
    reg("x17", 64, CORE, "int", Gpr(17)),
    reg("x18", 64, CORE, "int", Gpr(18)),
    reg("x19", 64, CORE, "int", Gpr(19)),
    reg("x20", 64, CORE, "int", Gpr(20)),
    reg("x21", 64, CORE, "int", Gpr(21)),
    reg("x22", 64, CORE, "int", Gpr(22)),
    reg("x23", 64, CORE, "int", Gpr(23)),
    reg("x24", 64, CORE, "int", Gpr(24)),
    reg("x25", 64, CORE, "int", Gpr(25)),
    reg("x26", 64, CORE, "int", Gpr(26)),
    reg("x27", 64, CORE, "int", Gpr(27)),
    reg("x28", 64, CORE, "int", Gpr(28)),
    reg("x29", 64, CORE, "int", Gpr(29)),
    reg("x30", 64, CORE, "int", Gpr(30)),
    reg("sp", 64, CORE, "data_ptr", Gpr(31)),
    reg("pc", 64, CORE, "code_ptr", Pc),
    reg("cpsr", 32, CORE, "uint32", Flags),
];
