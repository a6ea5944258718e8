//! Turns a checked program into what the JIT compiles, with the kernel's own sequences.

use bpf::insn::AtomicOp;

/// Whether the operation leaves all registers alone.
#[must_use]
pub fn atomic_without_fetch(op: AtomicOp) -> bool {
    matches!(op, AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor)
}
