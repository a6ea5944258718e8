//! Four BPF back ends over one driver: `compile(&Verified, Arch) -> Compiled`.
//!
//! ```text
//!  Verified ─► compile.rs (driver: walk, zext, labels, fix-ups, tail calls, extable, debug map)
//!                  └─► isa/<arch>/lower.rs (leaves) ─► isa/<arch>/asm.rs (pure encoders)
//! ```
//!
//! **Invariants.** No arch contains a loop over BPF instructions; the driver never asks which arch
//! it is. Encoders are pure. Code is position independent but for [`Reloc`]s.

mod buffer;
mod caps;
mod compile;
mod frame;
mod isa;

pub use caps::{CAPABILITIES, Capability};
pub use isa::{Facts, NativeReg};

use bpf::Arch;
use bpf::insn::{InsnIdx, Reg};
use isa::Isa;
use verifier::Verified;

/// Compiles a verified program. Total: what no back end can lower, no proof contains.
#[must_use]
pub fn compile(v: &Verified, arch: Arch) -> Compiled {
    match arch {
        Arch::X86_64 => compile::run::<isa::x86_64::X86_64>(v),
        Arch::Arm64 => compile::run::<isa::aarch64::Aarch64>(v),
        Arch::Riscv64 => compile::run::<isa::riscv64::Riscv64>(v),
        Arch::S390x => compile::run::<isa::s390x::S390x>(v),
    }
}

/// Facts about an architecture: registers, tail-call entry.
#[must_use]
pub const fn facts(arch: Arch) -> &'static Facts {
    match arch {
        Arch::X86_64 => &isa::x86_64::X86_64::FACTS,
        Arch::Arm64 => &isa::aarch64::Aarch64::FACTS,
        Arch::Riscv64 => &isa::riscv64::Riscv64::FACTS,
        Arch::S390x => &isa::s390x::S390x::FACTS,
    }
}

/// How far behind `bpf_func` a tail call enters.
#[must_use]
pub const fn tail_call_offset(arch: Arch) -> u32 {
    facts(arch).tail_call_offset
}

/// The code for a load address: calls patched by `target`, the guest address of each kind.
///
/// # Panics
/// When a target is out of reach (+-128 MiB): the caller chose the addresses.
#[must_use]
pub fn link(c: &Compiled, base: u64, target: impl Fn(RelocKind) -> u64) -> Vec<u8> {
    let patch = match c.arch {
        Arch::X86_64 => isa::x86_64::X86_64::patch_call,
        Arch::Arm64 => isa::aarch64::Aarch64::patch_call,
        Arch::Riscv64 => isa::riscv64::Riscv64::patch_call,
        Arch::S390x => isa::s390x::S390x::patch_call,
    };
    let mut code = c.code.clone();
    for r in &c.relocs {
        let site = base + u64::from(r.at.0);
        let disp = target(r.kind).wrapping_sub(site).cast_signed();
        assert!(patch(&mut code[r.at.0 as usize..], disp), "{:?} is out of reach", r.kind);
    }
    code
}

/// Byte offset into the code of one program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct NativeOff(pub u32);

/// What a pc-relative call in the code must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RelocKind {
    /// The trap stub of a helper.
    Helper(i32),
    /// The trap stub of a kfunc.
    Kfunc(i32),
}

/// A call site to patch once the code's address is known; the encoding is the architecture's
/// (x86 `call rel32`, arm64 `bl`, riscv `auipc+jalr ra`, s390x `brasl %r14`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reloc {
    /// Start of the instruction (pair).
    pub at: NativeOff,
    /// Target.
    pub kind: RelocKind,
}

/// An access that may fault: on a fault at `fault`, clear `clear` and go on at `resume`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExEntry {
    /// The faulting native instruction.
    pub fault: NativeOff,
    /// Where to go on.
    pub resume: NativeOff,
    /// Destination of a load; `None` for stores.
    pub clear: Option<Reg>,
    /// Base register and offset of the access, to name the address.
    pub base: Reg,
    /// Displacement.
    pub off: i16,
}

/// Native range of one rewritten instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InsnRange {
    /// Rewritten index.
    pub insn: InsnIdx,
    /// Original index.
    pub orig: InsnIdx,
    /// Retires `orig` when its first native instruction runs.
    pub first: bool,
    /// First byte.
    pub start: NativeOff,
    /// One past the last byte.
    pub end: NativeOff,
}

/// Native layout of one (sub)program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuncMap {
    /// Name.
    pub name: String,
    /// Entry point.
    pub start: NativeOff,
    /// End of the prologue: the first BPF instruction.
    pub body: NativeOff,
    /// Where a tail call enters (after the counter is initialised).
    pub tail_call_entry: NativeOff,
    /// Shared epilogue, if any.
    pub epilogue: Option<NativeOff>,
    /// One past the last byte.
    pub end: NativeOff,
    /// Native stack bytes from the CFA down to SP in the body.
    pub frame_bytes: u32,
    /// Where the caller's registers and the return address are in the body.
    pub saved: Vec<SavedReg>,
}

/// A register of the caller, saved in the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SavedReg {
    /// Which; `None` is the return address.
    pub reg: Option<NativeReg>,
    /// Address relative to the CFA.
    pub cfa_off: i32,
}

/// Native offset per BPF instruction.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DebugMap {
    /// One per rewritten instruction, in code order. Every `first` range is non-empty or shares
    /// its start with the next one in the same basic block, so a block hook can count retired
    /// instructions exactly.
    pub insns: Vec<InsnRange>,
    /// Functions in code order.
    pub funcs: Vec<FuncMap>,
}

/// Native code of one program.
#[derive(Clone, Debug)]
pub struct Compiled {
    /// Target.
    pub arch: Arch,
    /// Position-independent but for `relocs`.
    pub code: Vec<u8>,
    /// Calls to patch.
    pub relocs: Vec<Reloc>,
    /// Sorted by `fault`.
    pub extable: Vec<ExEntry>,
    /// Debug map.
    pub debug: DebugMap,
    /// Number of native instructions in `code`.
    pub native_insns: u32,
}
