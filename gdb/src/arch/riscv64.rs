//! riscv64: gdb's `org.gnu.gdb.riscv.cpu`, under the names of the ABI.

use bpf::Arch;

use super::{GdbArch, Holds::*, Reg, reg};

/// The architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Riscv64;

impl GdbArch for Riscv64 {
    const ARCH: Arch = Arch::Riscv64;
    const NAME: &'static str = "riscv:rv64";
    const NATIVE: &'static [Reg] = NATIVE;
}

const CPU: &str = "org.gnu.gdb.riscv.cpu";

#[rustfmt::skip]
const NATIVE: &[Reg] = &[
    reg("zero", 64, CPU, "int", Gpr(0)),
    reg("ra", 64, CPU, "code_ptr", Gpr(1)),
    reg("sp", 64, CPU, "data_ptr", Gpr(2)),
    reg("gp", 64, CPU, "data_ptr", Gpr(3)),
    reg("tp", 64, CPU, "data_ptr", Gpr(4)),
    reg("t0", 64, CPU, "int", Gpr(5)),
    reg("t1", 64, CPU, "int", Gpr(6)),
    reg("t2", 64, CPU, "int", Gpr(7)),
    reg("fp", 64, CPU, "data_ptr", Gpr(8)),
    reg("s1", 64, CPU, "int", Gpr(9)),
    reg("a0", 64, CPU, "int", Gpr(10)),
    reg("a1", 64, CPU, "int", Gpr(11)),
    reg("a2", 64, CPU, "int", Gpr(12)),
    reg("a3", 64, CPU, "int", Gpr(13)),
    reg("a4", 64, CPU, "int", Gpr(14)),
    reg("a5", 64, CPU, "int", Gpr(15)),
    reg("a6", 64, CPU, "int", Gpr(16)),
    reg("a7", 64, CPU, "int", Gpr(17)),
    reg("s2", 64, CPU, "int", Gpr(18)),
    reg("s3", 64, CPU, "int", Gpr(19)),
    reg("s4", 64, CPU, "int", Gpr(20)),
    reg("s5", 64, CPU, "int", Gpr(21)),
    reg("s6", 64, CPU, "int", Gpr(22)),
    reg("s7", 64, CPU, "int", Gpr(23)),
    reg("s8", 64, CPU, "int", Gpr(24)),
    reg("s9", 64, CPU, "int", Gpr(25)),
    reg("s10", 64, CPU, "int", Gpr(26)),
    reg("s11", 64, CPU, "int", Gpr(27)),
    reg("t3", 64, CPU, "int", Gpr(28)),
    reg("t4", 64, CPU, "int", Gpr(29)),
    reg("t5", 64, CPU, "int", Gpr(30)),
    reg("t6", 64, CPU, "int", Gpr(31)),
    reg("pc", 64, CPU, "code_ptr", Pc),
];
