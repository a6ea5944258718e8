//! BPF as data: instructions, BTF, ELF objects, CO-RE, linking, assembler, disassembler and an
//! interpreter.
//!
//! ```text
//!  .bpf.o ──object::parse──► Object ──object::link(+CO-RE against a target Btf)──► Program
//!  text   ──insn::asm─────────────────────────────────────────────────────────────► Program
//!  Program ──insn::disasm──► kernel-syntax text      Program ──interp──► result (the oracle)
//! ```
//!
//! **Invariants.** Nothing here knows the verifier, a JIT or a kernel. No I/O: bytes in, values
//! out.
//! Untrusted bytes never panic, hang or allocate without bound.

pub mod arch;
pub mod btf;
pub mod insn;
pub mod interp;
pub mod object;
pub mod program;
pub mod uapi;

pub use arch::{Arch, Endian};
pub use insn::{Insn, Reg};
pub use program::Program;
