//! What an architecture must provide: facts and leaves. No leaf sees more than one instruction.
//!
//! Files of an architecture, with the same function names in the same order in each:
//! `regs.rs` (BPF to native), `asm.rs` (pure encoders), `branch.rs` (forms of branches),
//! `lower.rs` (ALU, memory, jumps), `frame.rs` (prologue, epilogue), `call.rs`, `atomic.rs`, and
//! `mod.rs` (this trait).
//!
//! Rules for leaves, which the driver relies on:
//! - every native instruction goes through one `Buffer::put*` call, so that they are counted;
//! - `Buffer::mark_fault` directly before the native instruction that accesses memory;
//! - a loop inside a leaf never starts at the leaf's first native instruction: retired
//!   instructions are counted when a block that holds the first one is entered;
//! - a branch is put in its shortest form (`branch.rs`), `Buffer::refer` directly before it;
//! - 32-bit results need not be zero-extended unless [`Isa::zero_extends`] says they are;
//! - `Reg::AX` and the architecture's scratch registers may be clobbered only as the kernel does:
//!   AX is a live register of rewritten programs, but at arena accesses and casts, where the
//!   driver has the address or the upper half in it.

pub(crate) mod aarch64;
#[cfg(test)]
mod encoders;
#[cfg(test)]
mod forms;
#[cfg(test)]
pub(crate) mod mc;
pub(crate) mod riscv64;
pub(crate) mod s390x;
pub(crate) mod x86_64;

use crate::buffer::{Buffer, Label};
use crate::frame::Frame;
use crate::{RelocKind, SavedReg};
use bpf::Arch;
use bpf::insn::{AluOp, AtomicOp, EndianOp, Insn, JmpOp, Reg, Size, Src, Width};
use verifier::env::Layout;

/// A machine register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NativeReg {
    /// As the architecture's assembler writes it.
    pub name: &'static str,
    /// Number in encodings.
    pub num: u8,
}

/// Facts about an architecture.
#[derive(Debug)]
pub struct Facts {
    /// Which.
    pub arch: Arch,
    /// Native register of R0..R10 and AX, the kernel's choice (bpf-facts J.1).
    pub regs: [NativeReg; 12],
    /// Native register that has R0 when the main program returns.
    pub ret: NativeReg,
    /// A tail call enters a main program this many bytes after its entry.
    pub tail_call_offset: u32,
    /// Bytes of the shortest jump: an epilogue no longer than it is repeated, not jumped to.
    pub jump_bytes: u32,
}

/// A memory operand: base register and displacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mem {
    /// Access size.
    pub(crate) size: Size,
    /// Base register.
    pub(crate) base: Reg,
    /// Displacement.
    pub(crate) off: i16,
}

/// One architecture.
pub(crate) trait Isa {
    /// Facts.
    const FACTS: Facts;

    /// The leaf for this instruction clears the upper half of a 32-bit result by itself.
    fn zero_extends(insn: &Insn) -> bool;

    /// dst = dst OP src (`Mov`: dst = src).
    fn emit_alu(b: &mut Buffer, width: Width, op: AluOp, dst: Reg, src: Src);
    /// dst = a OP src, where that is fewer instructions than a move and the operation; otherwise
    /// false, and nothing is put. `a` is not dst, and neither is `src`; the operation is no move.
    /// Zero-extends as the operation of two operands does.
    fn emit_alu3(b: &mut Buffer, width: Width, op: AluOp, dst: Reg, a: Reg, src: Src) -> bool;
    /// dst = -dst.
    fn emit_neg(b: &mut Buffer, width: Width, dst: Reg);
    /// dst = sign-extend(low `bits` of src).
    fn emit_movsx(b: &mut Buffer, width: Width, dst: Reg, src: Reg, bits: u8);
    /// Byte order; always zero-extends to 64 bits.
    fn emit_end(b: &mut Buffer, op: EndianOp, dst: Reg, bits: u8);
    /// dst = value, the shortest way.
    fn emit_imm64(b: &mut Buffer, dst: Reg, value: u64);
    /// dst = address of a function of this program, pc-relative.
    fn emit_func_addr(b: &mut Buffer, dst: Reg, func: Label);
    /// Clears the upper half of dst.
    fn emit_zext(b: &mut Buffer, dst: Reg);
    /// dst = src + this CPU's per-CPU offset.
    fn emit_percpu(b: &mut Buffer, dst: Reg, src: Reg);
    /// dst = *mem, zero- or sign-extended to 64 bits.
    fn emit_load(b: &mut Buffer, mem: Mem, sext: bool, dst: Reg);
    /// *mem = src.
    fn emit_store(b: &mut Buffer, mem: Mem, src: Src);
    /// if dst OP src goto label.
    fn emit_jump_if(b: &mut Buffer, width: Width, op: JmpOp, dst: Reg, src: Src, to: Label);
    /// goto label.
    fn emit_jump(b: &mut Buffer, to: Label);
    /// One instruction without effect.
    fn emit_nop(b: &mut Buffer);

    /// Function entry. Binds nothing; for `Role::Main` the first `tail_call_offset` bytes are what
    /// a tail call skips.
    fn prologue(b: &mut Buffer, frame: &Frame);
    /// Function exit, including the return instruction.
    fn epilogue(b: &mut Buffer, frame: &Frame);
    /// Bytes from the CFA (SP before the call that entered) down to SP in the body.
    fn frame_bytes(frame: &Frame) -> u32;
    /// Where the caller's registers and the return address are, relative to the CFA.
    fn saved_regs(frame: &Frame) -> Vec<SavedReg>;

    /// Calls a helper or kfunc stub and moves the native result to R0.
    fn emit_call(b: &mut Buffer, kind: RelocKind);
    /// Calls a stub that keeps all registers but AX.
    fn emit_call_keeping(b: &mut Buffer, kind: RelocKind);
    /// Calls a function of this program; `counts`: the callee wants the tail-call counter.
    fn emit_call_local(b: &mut Buffer, frame: &Frame, func: Label, counts: bool);
    /// `bpf_tail_call(R1 ctx, R2 array, R3 index)`: falls through when it fails (out of bounds, the
    /// counter used up, an empty slot). The counter counts populated slots only. `known`: R3 is
    /// this index, and it is in bounds.
    fn emit_tail_call(b: &mut Buffer, frame: &Frame, layout: &Layout, known: Option<u32>);
    /// Writes the displacement of a `Reloc` call (target minus its start).
    fn patch_call(code: &mut [u8], disp: i64) -> bool;

    /// Code that jumps to any address and leaves the return address and the arguments alone, at a
    /// multiple of 8; `None` where the kernel's JIT has none (`bpf_jit_supports_far_kfunc_call`).
    fn veneer(target: u64) -> Option<Vec<u8>>;

    /// Atomic read-modify-write; results of fetching W forms are zero-extended by the driver.
    fn emit_atomic(b: &mut Buffer, mem: Mem, op: AtomicOp, src: Reg);
    /// dst = load_acquire(mem), zero-extended.
    fn emit_load_acquire(b: &mut Buffer, mem: Mem, dst: Reg);
    /// store_release(mem, src).
    fn emit_store_release(b: &mut Buffer, mem: Mem, src: Reg);
}
