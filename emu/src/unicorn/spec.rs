//! Facts about each architecture as a vCPU: register numbers, trap instructions, frame rules.
//!
//! Register conventions are those of the kernel's own JITs, see `jit`. One row per architecture;
//! nothing else in this crate asks which one it runs.

use bpf::Arch;
use kernel_model::layout::{CALLBACK_RETURN, STUB_STRIDE};
use unicorn_engine_sys::{
    Arch as UcArch, Arm64CpuModel, Mode, RegisterARM64, RegisterRISCV, RegisterS390X, RegisterX86,
    Riscv64CpuModel, S390xCpuModel, X86CpuModel,
};

/// Index into `Spec::gprs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NativeReg(pub u8);

/// Where compiled code finds the CPU's per-CPU offset (`jit`, `emit_percpu`).
#[derive(Clone, Copy, Debug)]
pub(super) enum ThisCpu {
    /// A register of its own, by Unicorn's number.
    Own(i32),
    /// One of the general ones.
    General(NativeReg),
    /// Two of 32 bits, the upper half first.
    Halves(i32, i32),
}

/// One architecture.
#[derive(Debug)]
pub struct Spec {
    /// Which one.
    pub arch: Arch,
    /// Unicorn's name of it.
    pub(super) uc_arch: UcArch,
    /// Unicorn's mode.
    pub(super) uc_mode: Mode,
    /// CPU model with every instruction the JIT may use.
    pub(super) model: i32,
    /// General registers in native order; their numbers in Unicorn.
    pub(super) gprs: &'static [i32],
    /// Native names of `gprs`.
    pub names: &'static [&'static str],
    /// Program counter.
    pub(super) pc: i32,
    /// Condition flags or the PSW mask.
    pub(super) flags: i32,
    /// Value of `flags` a vCPU starts with, when it must be written.
    pub(super) flags_init: Option<u64>,
    /// The CPU's per-CPU offset.
    pub(super) this_cpu: ThisCpu,
    /// Stack pointer.
    pub sp: NativeReg,
    /// Register that gets the return address; `None` pushes it.
    pub link: Option<NativeReg>,
    /// Native argument registers: BPF R1..R5 at entry and at helper calls.
    pub args: [NativeReg; 5],
    /// Native return value of a helper and of a program.
    pub ret: NativeReg,
    /// All 64 bits of R0 after a callback's `exit` (riscv64 sign-extends the low half into a0).
    pub ret64: NativeReg,
    /// BPF R0..R10 and AX inside a program.
    pub bpf: [NativeReg; 12],
    /// `trap; ret`.
    pub stub: &'static [u8],
    /// Program counter minus stub start when the trap has stopped the CPU.
    pub trap_pc: u64,
    /// Bytes from the stub's start to its `ret`.
    pub stub_ret: u64,
    /// `intno` of the trap.
    pub(super) intno: u32,
    /// Code a program returns to that is to run again at once: R1 and the entry point are above
    /// the stack pointer it returns with (and `frame_reserve`). The return address is made anew.
    pub lap: &'static [u8],
    /// How far below the canonical frame address R10 is, in a function that uses it.
    pub fp_below_cfa: u64,
    /// Bytes a caller leaves above a callee's frame (the s390x register save area).
    pub frame_reserve: u64,
}

impl Spec {
    /// All bytes of a stub: its trap and return, and the trap that callbacks return to.
    #[must_use]
    pub fn stub_slot(&self) -> Vec<u8> {
        let mut slot = vec![0; STUB_STRIDE as usize];
        for at in [0, CALLBACK_RETURN as usize] {
            slot[at..at + self.stub.len()].copy_from_slice(self.stub);
        }
        slot
    }

    /// Flags of a CPU that has run nothing.
    #[must_use]
    pub fn flags_at_start(&self) -> u64 {
        self.flags_init.unwrap_or(0)
    }
}

/// The row of `arch`.
#[must_use]
pub fn spec(arch: Arch) -> &'static Spec {
    match arch {
        Arch::X86_64 => &X86_64,
        Arch::Arm64 => &ARM64,
        Arch::Riscv64 => &RISCV64,
        Arch::S390x => &S390X,
    }
}

const fn n(i: u8) -> NativeReg {
    NativeReg(i)
}

macro_rules! gprs {
    ($t:ident: $($r:ident)*) => { &[$($t::$r as i32),*] };
}

static X86_64: Spec = Spec {
    arch: Arch::X86_64,
    uc_arch: UcArch::X86,
    uc_mode: Mode::MODE_64,
    model: X86CpuModel::EPYC_ROME as i32,
    gprs: gprs!(RegisterX86: RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15),
    names: &[
        "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12",
        "r13", "r14", "r15",
    ],
    pc: RegisterX86::RIP as i32,
    flags: RegisterX86::EFLAGS as i32,
    flags_init: None,
    // Its area begins with `this_cpu_off`.
    this_cpu: ThisCpu::Own(RegisterX86::GS_BASE as i32),
    sp: n(4),
    link: None,
    args: [n(7), n(6), n(2), n(1), n(8)],
    ret: n(0),
    ret64: n(0),
    bpf: [n(0), n(7), n(6), n(2), n(1), n(8), n(3), n(13), n(14), n(15), n(5), n(10)],
    // int 0x40; ret. A debugger that finds int3 takes it for a breakpoint to be jumped over.
    stub: &[0xcd, 0x40, 0xc3],
    trap_pc: 2,
    stub_ret: 2,
    intno: 0x40,
    // lea rax, [rip-7]; push rax; mov rdi, [rsp+8]; jmp [rsp+16]
    lap: &[
        0x48, 0x8d, 0x05, 0xf9, 0xff, 0xff, 0xff, 0x50, 0x48, 0x8b, 0x7c, 0x24, 0x08, 0xff, 0x64,
        0x24, 0x10,
    ],
    fp_below_cfa: 16,
    frame_reserve: 0,
};

static ARM64: Spec = Spec {
    arch: Arch::Arm64,
    uc_arch: UcArch::ARM64,
    uc_mode: Mode::LITTLE_ENDIAN,
    model: Arm64CpuModel::MAX as i32,
    gprs: gprs!(RegisterARM64: X0 X1 X2 X3 X4 X5 X6 X7 X8 X9 X10 X11 X12 X13 X14 X15 X16 X17 X18
        X19 X20 X21 X22 X23 X24 X25 X26 X27 X28 X29 X30 SP),
    names: &[
        "x0", "x1", "x2", "x3", "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13",
        "x14", "x15", "x16", "x17", "x18", "x19", "x20", "x21", "x22", "x23", "x24", "x25", "x26",
        "x27", "x28", "x29", "x30", "sp",
    ],
    pc: RegisterARM64::PC as i32,
    flags: RegisterARM64::NZCV as i32,
    flags_init: None,
    this_cpu: ThisCpu::Own(RegisterARM64::TPIDR_EL1 as i32),
    sp: n(31),
    link: Some(n(30)),
    args: [n(0), n(1), n(2), n(3), n(4)],
    ret: n(0),
    ret64: n(0),
    bpf: [n(8), n(0), n(1), n(2), n(3), n(4), n(19), n(20), n(21), n(22), n(25), n(9)],
    stub: &[0x01, 0x00, 0x00, 0xd4, 0xc0, 0x03, 0x5f, 0xd6], // svc #0; ret
    trap_pc: 4,
    stub_ret: 4,
    intno: 2,
    // ldp x0, x10, [sp]; adr x30, .-4; br x10
    lap: &[0xe0, 0x2b, 0x40, 0xa9, 0xfe, 0xff, 0xff, 0x10, 0x40, 0x01, 0x1f, 0xd6],
    fp_below_cfa: 0,
    frame_reserve: 0,
};

static RISCV64: Spec = Spec {
    arch: Arch::Riscv64,
    uc_arch: UcArch::RISCV,
    uc_mode: Mode::RISCV64,
    model: Riscv64CpuModel::ANY as i32,
    gprs: gprs!(RegisterRISCV: X0 X1 X2 X3 X4 X5 X6 X7 X8 X9 X10 X11 X12 X13 X14 X15 X16 X17 X18
        X19 X20 X21 X22 X23 X24 X25 X26 X27 X28 X29 X30 X31),
    names: &[
        "zero", "ra", "sp", "gp", "tp", "t0", "t1", "t2", "s0", "s1", "a0", "a1", "a2", "a3", "a4",
        "a5", "a6", "a7", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "s9", "s10", "s11", "t3", "t4",
        "t5", "t6",
    ],
    pc: RegisterRISCV::PC as i32,
    flags: RegisterRISCV::X0 as i32, // has no flags: the register that is always zero
    flags_init: None,
    this_cpu: ThisCpu::General(n(4)),
    sp: n(2),
    link: Some(n(1)),
    args: [n(10), n(11), n(12), n(13), n(14)],
    ret: n(10),
    ret64: n(15),
    bpf: [n(15), n(10), n(11), n(12), n(13), n(14), n(9), n(18), n(19), n(20), n(21), n(5)],
    stub: &[0x73, 0x00, 0x00, 0x00, 0x67, 0x80, 0x00, 0x00], // ecall; ret
    trap_pc: 4,
    stub_ret: 4,
    intno: 8,
    // auipc ra, 0; ld a0, 0(sp); ld t1, 8(sp); jr t1
    lap: &[
        0x97, 0x00, 0x00, 0x00, 0x03, 0x35, 0x01, 0x00, 0x03, 0x33, 0x81, 0x00, 0x67, 0x00, 0x03,
        0x00,
    ],
    fp_below_cfa: 0,
    frame_reserve: 0,
};

static S390X: Spec = Spec {
    arch: Arch::S390x,
    uc_arch: UcArch::S390X,
    uc_mode: Mode::BIG_ENDIAN,
    model: S390xCpuModel::MAX as i32,
    gprs: gprs!(RegisterS390X: R0 R1 R2 R3 R4 R5 R6 R7 R8 R9 R10 R11 R12 R13 R14 R15),
    names: &[
        "r0", "r1", "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "r13",
        "r14", "r15",
    ],
    pc: RegisterS390X::PC as i32,
    flags: RegisterS390X::PSWM as i32,
    flags_init: Some(0x1_8000_0000), // EA and BA: 64-bit addressing
    this_cpu: ThisCpu::Halves(RegisterS390X::A0 as i32, RegisterS390X::A1 as i32),
    sp: n(15),
    link: Some(n(14)),
    args: [n(2), n(3), n(4), n(5), n(6)],
    ret: n(2),
    ret64: n(2),
    bpf: [n(14), n(2), n(3), n(4), n(5), n(6), n(7), n(8), n(9), n(10), n(13), n(12)],
    stub: &[0x0a, 0x00, 0x07, 0xfe], // svc 0; br %r14
    trap_pc: 0,                      // an svc does not advance the PC in Unicorn
    stub_ret: 2,
    intno: 2,
    // larl %r14, .; lg %r2, 160(%r15); lg %r1, 168(%r15); br %r1
    lap: &[
        0xc0, 0xe0, 0x00, 0x00, 0x00, 0x00, 0xe3, 0x20, 0xf0, 0xa0, 0x00, 0x04, 0xe3, 0x10, 0xf0,
        0xa8, 0x00, 0x04, 0x07, 0xf1,
    ],
    fp_below_cfa: 160,
    frame_reserve: 160, // STACK_FRAME_OVERHEAD
};
