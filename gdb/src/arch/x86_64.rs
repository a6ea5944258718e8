//! x86-64: gdb's `org.gnu.gdb.i386.core`, all of which it wants in the list; programs of the JIT
//! have neither segments nor an FPU.

use bpf::Arch;

use super::{GdbArch, Holds::*, Reg, reg};

/// The architecture.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct X86_64;

impl GdbArch for X86_64 {
    const ARCH: Arch = Arch::X86_64;
    const NAME: &'static str = "i386:x86-64";
    const NATIVE: &'static [Reg] = NATIVE;
}

const CORE: &str = "org.gnu.gdb.i386.core";

#[rustfmt::skip]
const NATIVE: &[Reg] = &[
    reg("rax", 64, CORE, "int64", Gpr(0)),
    reg("rbx", 64, CORE, "int64", Gpr(3)),
    reg("rcx", 64, CORE, "int64", Gpr(1)),
    reg("rdx", 64, CORE, "int64", Gpr(2)),
    reg("rsi", 64, CORE, "int64", Gpr(6)),
    reg("rdi", 64, CORE, "int64", Gpr(7)),
    reg("rbp", 64, CORE, "data_ptr", Gpr(5)),
    reg("rsp", 64, CORE, "data_ptr", Gpr(4)),
    reg("r8", 64, CORE, "int64", Gpr(8)),
    reg("r9", 64, CORE, "int64", Gpr(9)),
    reg("r10", 64, CORE, "int64", Gpr(10)),
    reg("r11", 64, CORE, "int64", Gpr(11)),
    reg("r12", 64, CORE, "int64", Gpr(12)),
    reg("r13", 64, CORE, "int64", Gpr(13)),
    reg("r14", 64, CORE, "int64", Gpr(14)),
    reg("r15", 64, CORE, "int64", Gpr(15)),
    reg("rip", 64, CORE, "code_ptr", Pc),
    reg("eflags", 32, CORE, "uint32", Flags),
    reg("cs", 32, CORE, "int32", Absent),
    reg("ss", 32, CORE, "int32", Absent),
    reg("ds", 32, CORE, "int32", Absent),
    reg("es", 32, CORE, "int32", Absent),
    reg("fs", 32, CORE, "int32", Absent),
    reg("gs", 32, CORE, "int32", Absent),
    reg("st0", 80, CORE, "i387_ext", Absent),
    reg("st1", 80, CORE, "i387_ext", Absent),
    reg("st2", 80, CORE, "i387_ext", Absent),
    reg("st3", 80, CORE, "i387_ext", Absent),
    reg("st4", 80, CORE, "i387_ext", Absent),
    reg("st5", 80, CORE, "i387_ext", Absent),
    reg("st6", 80, CORE, "i387_ext", Absent),
    reg("st7", 80, CORE, "i387_ext", Absent),
    reg("fctrl", 32, CORE, "int", Absent),
    reg("fstat", 32, CORE, "int", Absent),
    reg("ftag", 32, CORE, "int", Absent),
    reg("fiseg", 32, CORE, "int", Absent),
    reg("fioff", 32, CORE, "int", Absent),
    reg("foseg", 32, CORE, "int", Absent),
    reg("fooff", 32, CORE, "int", Absent),
    reg("fop", 32, CORE, "int", Absent),
];
