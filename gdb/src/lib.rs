//! The gdb stub: what a debugger asks, answered from a [`Debuggee`]. It knows no machine.
//!
//! ```text
//!  gdb ◄─ remote protocol ─► session ─► trait Debuggee (emu: machine, timeline)
//!                              └─► symbols: Image ─► ELF with DWARF, per program and view
//! ```
//!
//! **Invariants.** A wrong value is never shown: what is not known is optimised out or unavailable.
//! Threads are CPUs, numbered from 1. Everything the stub serves is a function of the debuggee.

mod arch;
pub mod hostile;
pub mod session;
pub mod symbols;
mod xml;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bpf::Arch;
use jit::{DebugMap, NativeReg};

/// Which line table the programs are shown with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum View {
    /// The C source.
    #[default]
    Source,
    /// The listing of BPF instructions.
    Bpf,
}

/// A program in guest memory, and all that is known of where it came from.
#[derive(Clone, Debug)]
pub struct Image {
    /// Kernel id; an id is never used again.
    pub id: u32,
    /// Name of the program.
    pub name: String,
    /// The kernel's tag: eight bytes in hex.
    pub tag: String,
    /// Architecture.
    pub arch: Arch,
    /// Address of the first byte of `code`.
    pub base: u64,
    /// Native code as it is in memory.
    pub code: Vec<u8>,
    /// Where its main function returns to when it was entered as a program: then the word at the
    /// CFA is the argument with which it was.
    pub returns_to: u64,
    /// Structures of which it reads members by conversion, by name.
    pub converted: BTreeMap<String, Converted>,
    /// Native ranges of its instructions and functions.
    pub debug: DebugMap,
    /// Bytes of BPF stack of each function of `debug.funcs`, as the verifier counted them.
    pub stack: Vec<u32>,
    /// Where its instructions come from.
    pub origin: Option<Origin>,
    /// One per original instruction: what the listing shows.
    pub listing: Vec<Listed>,
}

/// A structure of the UAPI that is a view of a kernel structure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Converted {
    /// Which, for the debuggee: below 64 ([`symbols::Place`]).
    pub kind: u8,
    /// Offsets of members, and of elements of them, that the program may read.
    pub members: BTreeSet<u32>,
}

/// The object file of a program.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The whole file: ELF with clang's DWARF, or without.
    pub object: Arc<[u8]>,
    /// Folder that relative names of sources are meant from.
    pub folder: String,
    /// Text of the file that the main function is in, if it is there.
    pub source: Option<Arc<str>>,
    /// Per original instruction: its section's index in the file and byte offset
    /// (`bpf::object::Object::origins`); `None` where the loader made it up.
    pub insns: Vec<Option<(u32, u64)>>,
    /// Guest address of what is at offset 0 of a section of data (`.data`, `.bss`, `.rodata`,
    /// `.maps` has none), by section index (`bpf::object::Object::data_sections`). Per-CPU ones:
    /// CPU 0's copy.
    pub data: BTreeMap<u32, u64>,
    /// Guest address of externs (kconfig, ksyms) by name.
    pub externs: BTreeMap<String, u64>,
}

/// One original instruction of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listed {
    /// The instruction as the verifier's log writes it, without its number.
    pub text: String,
    /// File and line of the C source, from BTF line info: what is shown where there is no DWARF.
    pub line: Option<(String, u32)>,
}

/// A function of the modelled kernel: `bpf_map_lookup_elem`, a dispatcher, `cpu_idle`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelSymbol {
    /// Name.
    pub name: String,
    /// Address of its first byte.
    pub addr: u64,
    /// Bytes.
    pub size: u64,
    /// How to unwind from inside it.
    pub unwind: KernelUnwind,
}

/// Where a kernel function's caller is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelUnwind {
    /// It has made no frame: the return address is where the call put it.
    Leaf,
    /// A stub of a function that programs call. In its first 7 bytes it is as [`Leaf`]. The rest is
    /// where callbacks return to: there two words lie above the stack pointer (on s390x, above the
    /// 160 bytes that a caller leaves), that with which the function was called, and the address it
    /// returns to.
    ///
    /// [`Leaf`]: KernelUnwind::Leaf
    Stub,
    /// Nobody: the bottom of a stack.
    Bottom,
}

/// Where the modelled kernel's text is and what is in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelImage {
    /// Architecture.
    pub arch: Arch,
    /// Bytes of text by address, in order of address.
    pub text: Vec<(u64, Vec<u8>)>,
    /// Its functions in order of address.
    pub symbols: Vec<KernelSymbol>,
    /// Entry of the ELF: inside the dispatcher, at no program's first byte.
    pub entry: u64,
}

/// Registers of a CPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regs {
    /// General registers in native order.
    pub gprs: Vec<u64>,
    /// Program counter.
    pub pc: u64,
    /// Flags, or the PSW mask.
    pub flags: u64,
    /// Original index of the BPF instruction at `pc`, when it is in a program.
    pub bpf_pc: Option<u32>,
}

/// A register by which the debugger may name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegName {
    /// A general register.
    Gpr(NativeReg),
    /// Program counter.
    Pc,
    /// Flags.
    Flags,
}

/// What a watchpoint waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WatchKind {
    /// A write.
    Write,
    /// A read.
    Read,
    /// Either.
    Access,
}

/// Which way time goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// As it does.
    Forward,
    /// Back.
    Backward,
}

/// How to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Which way.
    pub direction: Direction,
    /// The CPU that goes one instruction only, or while its program counter stays in the range;
    /// `None` goes on until something stops it.
    pub step: Option<(u32, Option<Range<u64>>)>,
    /// No other CPU may go on (`set scheduler-locking`). Forwards this is a schedule of its own.
    pub only: Option<u32>,
}

/// Why it stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The step is done.
    Step,
    /// A breakpoint at the CPU's program counter.
    Breakpoint {
        /// Whose.
        cpu: u32,
        /// A hardware one.
        hardware: bool,
    },
    /// A watched access. Where the CPU stands relative to it is the architecture's rule of gdb
    /// (after it on x86-64 and s390x, before it on arm64 and riscv64; mirrored backwards).
    Watch {
        /// Whose access; also a helper's on its behalf.
        cpu: u32,
        /// The address that is watched.
        addr: u64,
        /// What it was.
        kind: WatchKind,
    },
    /// The list of programs has changed.
    Library {
        /// Who loaded it.
        cpu: u32,
    },
    /// The poll said so.
    Interrupted,
    /// An event that a monitor command waits for.
    Event {
        /// Whose.
        cpu: u32,
        /// What to say.
        text: String,
    },
    /// The run cannot go back further.
    Begin,
    /// The run is over; the machine is as it was left, and can go back.
    End,
}

/// The debuggee refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DebugError {
    /// No such memory.
    #[error("no memory at {0:#x}")]
    Memory(u64),
    /// The CPU runs no program whose registers could be written.
    #[error("CPU {0} has no registers to write now")]
    NoRegisters(u32),
    /// It went wrong inside.
    #[error("{0}")]
    Internal(String),
}

/// What is debugged.
pub trait Debuggee {
    /// Architecture.
    fn arch(&self) -> Arch;

    /// Number of CPUs.
    fn cpus(&self) -> u32;

    /// The CPU that the last stop is about, or the one that goes on next.
    fn current(&self) -> u32;

    /// What `info threads` shows: `cpu1 irq  nginx/42  tc:ingress rcu=1 lock=map#3`.
    fn describe(&self, cpu: u32) -> String;

    /// Registers of the innermost program of a CPU; of a CPU without, as it stands in the kernel's
    /// own text (`cpu_idle` and the like).
    fn regs(&self, cpu: u32) -> Regs;

    /// Writes a register. Forks the timeline.
    ///
    /// # Errors
    /// [`DebugError::NoRegisters`].
    fn set_reg(&mut self, cpu: u32, reg: RegName, value: u64) -> Result<(), DebugError>;

    /// Reads memory as a CPU sees it (its per-CPU data and stack included); how many bytes could
    /// be. Never has a side effect.
    fn read(&self, cpu: u32, addr: u64, out: &mut [u8]) -> usize;

    /// Writes memory. Forks the timeline.
    ///
    /// # Errors
    /// [`DebugError::Memory`] where there is none; nothing was written then.
    fn write(&mut self, cpu: u32, addr: u64, bytes: &[u8]) -> Result<(), DebugError>;

    /// Mapped ranges: address, bytes, writable. In order.
    fn memory_map(&self) -> Vec<(Range<u64>, bool)>;

    /// The kernel's own text.
    fn kernel(&self) -> KernelImage;

    /// Programs that are loaded now, in order of address. Cheap: nothing is copied.
    fn images(&self) -> Vec<Arc<Image>>;

    /// What the verifier knew of a program: per original instruction the abstract state before it,
    /// as the verifier's log writes it, with every register that may be read; empty where not
    /// known. Registers a state does not name are shown as unavailable. Slow: it verifies again.
    fn states(&self, id: u32) -> Vec<String>;

    /// Which view programs are shown with.
    fn view(&self) -> View;

    /// Adds a breakpoint. Never changes memory.
    fn add_breakpoint(&mut self, addr: u64, hardware: bool);

    /// Takes one out; false when there is none.
    fn remove_breakpoint(&mut self, addr: u64, hardware: bool) -> bool;

    /// Adds a watchpoint.
    fn add_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind);

    /// Takes one out; false when there is none.
    fn remove_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> bool;

    /// Goes on until something stops it. `poll` is asked every few milliseconds, and true is
    /// Ctrl-C: it stops at the next instruction boundary.
    ///
    /// # Errors
    /// When the machine itself fails.
    fn resume(&mut self, how: &Resume, poll: &mut dyn FnMut() -> bool) -> Result<Stop, DebugError>;

    /// What has to be said to the user since last asked (a fork of the timeline).
    fn take_notices(&mut self) -> Vec<String>;

    /// A monitor command; `out` takes pieces of text. Returns a stop that gdb must be told of, when
    /// the command moved the machine or changed the view.
    fn monitor(&mut self, command: &str, out: &mut dyn FnMut(&str)) -> Option<Stop>;

    /// A source file by the name its line table has, for `list` over the remote protocol's files.
    fn source(&self, name: &str) -> Option<Arc<[u8]>>;
}
