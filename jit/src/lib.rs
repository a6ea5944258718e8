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
mod fuse;
mod halves;
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

/// The code for a load address: calls patched by `target`, the guest address of each kind. A call
/// of a target out of its reach goes through a veneer behind the code, but on x86-64: there, as
/// in the kernel, the reach of `call` is all there is.
///
/// # Panics
/// When a target is out of reach on x86-64 (+-2 GiB): the caller chose the addresses.
#[must_use]
pub fn link(c: &Compiled, base: u64, target: impl Fn(RelocKind) -> u64) -> Vec<u8> {
    let (patch, veneer) = match c.arch {
        Arch::X86_64 => linking::<isa::x86_64::X86_64>(),
        Arch::Arm64 => linking::<isa::aarch64::Aarch64>(),
        Arch::Riscv64 => linking::<isa::riscv64::Riscv64>(),
        Arch::S390x => linking::<isa::s390x::S390x>(),
    };
    let mut code = c.code.clone();
    for r in &c.relocs {
        let (at, to) = (r.at.0 as usize, target(r.kind));
        let disp = to.wrapping_sub(base + u64::from(r.at.0)).cast_signed();
        if patch(&mut code[at..], disp) {
            continue;
        }
        let via = veneer(to).unwrap_or_else(|| panic!("{:?} is out of reach", r.kind));
        code.resize(code.len().next_multiple_of(8), 0);
        let disp = i64::try_from(code.len() - at).expect("code is short");
        assert!(patch(&mut code[at..], disp), "a program reaches its own end");
        code.extend(via);
    }
    code
}

type Linking = (fn(&mut [u8], i64) -> bool, fn(u64) -> Option<Vec<u8>>);

fn linking<I: Isa>() -> Linking {
    (I::patch_call, I::veneer)
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
    /// Retires `orig` when the native instruction at `retired_at` runs.
    pub first: bool,
    /// `start`, or that of the instruction before where one native instruction computes both.
    pub retired_at: NativeOff,
    /// First byte.
    pub start: NativeOff,
    /// One past the last byte.
    pub end: NativeOff,
    /// End of its first native instruction: up to there nothing has happened.
    pub first_end: NativeOff,
    /// BPF registers, by bit, that may be neither what they were before nor what they will be
    /// while the program counter is behind `first_end`.
    pub unsettled: u16,
    /// BPF registers, by bit, of which before the instruction only the lower half is held: the
    /// upper, which is 0, was not made because nothing reads it.
    pub low: u16,
    /// BPF registers, by bit, that are so on some paths only, or are not known to be otherwise.
    pub unsure: u16,
}

/// What a native instruction of a prologue or epilogue does to where the caller's frame is. At
/// entry the CFA is the stack pointer before the call, and nothing is saved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameChange {
    /// The stack pointer went down by so many bytes.
    Sp(i32),
    /// The CFA is this register plus so many bytes, whatever the stack pointer does.
    Cfa(NativeReg, i32),
    /// A register of the caller's is saved.
    Save(SavedReg),
    /// A register, or the return address, is where it was at entry.
    Restore(Option<NativeReg>),
    /// Everything is as it was at `FuncMap::body`.
    Body,
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
    /// Shared epilogue, if any: the end of the first exit, to which later ones jump.
    pub epilogue: Option<NativeOff>,
    /// Exits, reached or not.
    pub exits: u32,
    /// One past the last byte.
    pub end: NativeOff,
    /// Native stack bytes from the CFA down to SP in the body.
    pub frame_bytes: u32,
    /// Where the caller's registers and the return address are in the body.
    pub saved: Vec<SavedReg>,
    /// How that changes, each from an address on.
    pub frame: Vec<(NativeOff, FrameChange)>,
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
    /// One per rewritten instruction, in code order. Every `first` range is non-empty, or shares
    /// its start with the next one in the same basic block, or is retired with the one before: a
    /// block hook can count retired instructions exactly.
    pub insns: Vec<InsnRange>,
    /// Functions in code order.
    pub funcs: Vec<FuncMap>,
    /// Where a program can be stopped between its calls of the kernel, in code order.
    pub points: Vec<Point>,
}

/// A place at which a program comes to a point of its own: the same ones, passed in the same order,
/// on every architecture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// What it is.
    pub kind: PointKind,
    /// Original index: the first instruction of a function, the call that returned, the target of
    /// a back-edge.
    pub orig: InsnIdx,
    /// First address at which a block may begin there.
    pub first: NativeOff,
    /// Last one: behind a call instruction the native code may go on before the next begins.
    pub last: NativeOff,
}

/// Kinds of points.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointKind {
    /// A function other than the main one is entered.
    Enter,
    /// A call of such a function returned.
    Leave,
    /// A back-edge was taken.
    Back,
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
    /// What `bpf_throw` enters, called with the cookie as if by the caller of the main program,
    /// whose registers are in the frame of `debug.funcs[0]`.
    pub exception: Option<NativeOff>,
}
