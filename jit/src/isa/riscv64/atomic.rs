//! Atomic operations on riscv64 (`emit_atomic_rmw`): forms without a result are relaxed, fetching
//! ones acquire and release.

use super::asm::{self, Amo, Gpr, Op, OpI, Order, ZERO, fits};
use super::asm::{Cond, short};
use super::lower::{branch, emit_load, emit_store, mov_imm, put};
use super::regs::{R0, TMP1, TMP2, TMP3, native};
use crate::buffer::Buffer;
use crate::isa::Mem;
use bpf::insn::{AtomicOp, Reg, Size, Src};

/// Sets of accesses that a fence orders.
const READ: u32 = 2;
/// Writes.
const WRITE: u32 = 1;

/// Atomic read-modify-write.
pub(crate) fn emit_atomic(b: &mut Buffer, mem: Mem, op: AtomicOp, src: Reg) {
    let s = native(src);
    let (amo, fetch) = match op {
        AtomicOp::Add => (Amo::Add, false),
        AtomicOp::Or => (Amo::Or, false),
        AtomicOp::And => (Amo::And, false),
        AtomicOp::Xor => (Amo::Xor, false),
        AtomicOp::FetchAdd => (Amo::Add, true),
        AtomicOp::FetchOr => (Amo::Or, true),
        AtomicOp::FetchAnd => (Amo::And, true),
        AtomicOp::FetchXor => (Amo::Xor, true),
        AtomicOp::Xchg => (Amo::Swap, true),
        AtomicOp::Cmpxchg => return cmpxchg(b, mem, s),
    };
    let address = address(b, mem);
    let (order, result) = if fetch { (Order::AcqRel, s) } else { (Order::Relaxed, ZERO) };
    b.mark_fault();
    b.put_u32(asm::amo(amo, mem.size, order, result, s, address));
}

/// Without Zacas: load-reserved and store-conditional until nobody interferes.
fn cmpxchg(b: &mut Buffer, mem: Mem, s: Gpr) {
    let mut address = address(b, mem);
    if address == R0 {
        // R0 becomes the old value, also on the way to a second try.
        put(b, short::mv(TMP1, R0));
        address = TMP1;
    }
    // `lr.w` sign-extends.
    put(
        b,
        match mem.size {
            Size::W => short::op_i(OpI::Addiw, TMP2, R0, 0),
            _ => short::mv(TMP2, R0),
        },
    );
    let new = if s == R0 { TMP2 } else { s };
    let (again, out) = (b.label(), b.label());
    b.bind(again);
    b.mark_fault();
    b.put_u32(asm::amo(Amo::Lr, mem.size, Order::Relaxed, R0, ZERO, address));
    branch(b, Cond::Ne, R0, TMP2, out);
    b.put_u32(asm::amo(Amo::Sc, mem.size, Order::Release, TMP3, new, address));
    branch(b, Cond::Ne, TMP3, ZERO, again);
    b.put_u32(asm::fence(READ | WRITE, READ | WRITE));
    b.bind(out);
}

/// These forms take a plain register.
fn address(b: &mut Buffer, mem: Mem) -> Gpr {
    let (base, off) = (native(mem.base), i64::from(mem.off));
    if off == 0 {
        return base;
    }
    if fits(off, 12) {
        put(b, short::op_i(OpI::Addi, TMP1, base, off));
    } else {
        mov_imm(b, TMP1, off);
        put(b, short::op(Op::Add, TMP1, TMP1, base));
    }
    TMP1
}

/// A load and a fence that keeps later accesses behind it.
pub(crate) fn emit_load_acquire(b: &mut Buffer, mem: Mem, dst: Reg) {
    emit_load(b, mem, false, dst);
    b.put_u32(asm::fence(READ, READ | WRITE));
}

/// A fence that keeps earlier accesses before it, and a store.
pub(crate) fn emit_store_release(b: &mut Buffer, mem: Mem, src: Reg) {
    b.put_u32(asm::fence(READ | WRITE, WRITE));
    emit_store(b, mem, Src::Reg(src));
}
