//! Atomic operations on x86-64 (`emit_atomic_rmw`). Memory order is stronger than asked for.

use super::asm::{self, At, Cc, Op};
use super::lower::{at, emit_load, emit_store, jcc};
use super::regs::{R, R11, RAX, native};
use crate::buffer::Buffer;
use crate::isa::Mem;
use bpf::insn::{AtomicOp, Reg, Size, Src, Width};

/// Atomic read-modify-write.
pub(crate) fn emit_atomic(b: &mut Buffer, mem: Mem, op: AtomicOp, src: Reg) {
    let (m, s, size) = (at(mem), native(src), mem.size);
    b.mark_fault();
    match op {
        AtomicOp::Add => b.put(&asm::lock_op(size, Op::Add, m, s)),
        AtomicOp::Or => b.put(&asm::lock_op(size, Op::Or, m, s)),
        AtomicOp::And => b.put(&asm::lock_op(size, Op::And, m, s)),
        AtomicOp::Xor => b.put(&asm::lock_op(size, Op::Xor, m, s)),
        AtomicOp::FetchAdd => b.put(&asm::lock_xadd(size, m, s)),
        AtomicOp::Xchg => b.put(&asm::xchg_mem(size, m, s)),
        AtomicOp::Cmpxchg => b.put(&asm::lock_cmpxchg(size, m, s)),
        AtomicOp::FetchOr => fetch_loop(b, size, Op::Or, m, s),
        AtomicOp::FetchAnd => fetch_loop(b, size, Op::And, m, s),
        AtomicOp::FetchXor => fetch_loop(b, size, Op::Xor, m, s),
    }
}

/// No instruction fetches and ors: compare and swap until it holds. R0 waits in AX meanwhile.
fn fetch_loop(b: &mut Buffer, size: Size, op: Op, mut m: At, src: R) {
    let width = if size == Size::DW { Width::W64 } else { Width::W32 };
    let ax = native(Reg::AX);
    b.put(&asm::mov_rr(Width::W64, ax, RAX));
    if m.base == RAX {
        m.base = ax;
    }
    let operand = if src == RAX { ax } else { src };
    b.mark_fault();
    b.put(&asm::load(RAX, size, m));
    let again = b.label();
    b.bind(again);
    b.put(&asm::mov_rr(width, R11, RAX));
    b.put(&asm::alu_rr(width, op, R11, operand));
    b.put(&asm::lock_cmpxchg(size, m, R11));
    jcc(b, Cc::Ne, again);
    if src != RAX {
        b.put(&asm::mov_rr(width, src, RAX));
        b.put(&asm::mov_rr(Width::W64, RAX, ax));
    }
}

/// Loads are acquire loads.
pub(crate) fn emit_load_acquire(b: &mut Buffer, mem: Mem, dst: Reg) {
    emit_load(b, mem, false, dst);
}

/// Stores are release stores.
pub(crate) fn emit_store_release(b: &mut Buffer, mem: Mem, src: Reg) {
    emit_store(b, mem, Src::Reg(src));
}
