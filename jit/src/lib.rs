//! Four BPF back ends over one driver: `compile(&Verified, Arch) -> Compiled`.
//!
//! ```text
//!  Verified ─► compile.rs (driver: walk, zext, labels, fix-ups, tail calls, extable, debug map)
//!                  └─► isa/<arch>/lower.rs (leaves) ─► isa/<arch>/asm.rs (pure encoders)
//! ```
//!
//! **Invariants.** No arch contains a loop over BPF instructions; the driver never asks which arch
//! it is. Encoders are pure. Code is position independent but for [`Reloc`]s.

use bpf::Arch;
use bpf::insn::{InsnIdx, Reg};

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
