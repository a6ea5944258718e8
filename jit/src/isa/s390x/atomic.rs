//! Atomic operations on s390x: interlocked-access facility 1. Order is total for all but stores
//! followed by loads, and these instructions serialise.

use super::asm::{self, At, Rr, Rre, Rs, Rsy, Rxy};
use super::lower::{at, branch, emit_load, emit_store};
use super::regs::{R, R0, native};
use crate::buffer::Buffer;
use crate::isa::Mem;
use bpf::insn::{AtomicOp, Reg, Size, Src};

/// Atomic read-modify-write.
pub(crate) fn emit_atomic(b: &mut Buffer, mem: Mem, op: AtomicOp, src: Reg) {
    let (m, s, wide) = (at(mem), native(src), mem.size == Size::DW);
    let add = if wide { Rsy::Laag } else { Rsy::Laa };
    let or = if wide { Rsy::Laog } else { Rsy::Lao };
    let and = if wide { Rsy::Lang } else { Rsy::Lan };
    let xor = if wide { Rsy::Laxg } else { Rsy::Lax };
    b.mark_fault();
    match op {
        AtomicOp::Add => b.put(&asm::rsy(add, R0, s, m)),
        AtomicOp::Or => b.put(&asm::rsy(or, R0, s, m)),
        AtomicOp::And => b.put(&asm::rsy(and, R0, s, m)),
        AtomicOp::Xor => b.put(&asm::rsy(xor, R0, s, m)),
        AtomicOp::FetchAdd => b.put(&asm::rsy(add, s, s, m)),
        AtomicOp::FetchOr => b.put(&asm::rsy(or, s, s, m)),
        AtomicOp::FetchAnd => b.put(&asm::rsy(and, s, s, m)),
        AtomicOp::FetchXor => b.put(&asm::rsy(xor, s, s, m)),
        AtomicOp::Xchg => exchange(b, wide, m, s),
        AtomicOp::Cmpxchg => b.put(&compare_and_swap(wide, native(Reg::R0), s, m)),
    }
}

fn compare_and_swap(wide: bool, old: R, new: R, m: At) -> crate::buffer::Code {
    match wide {
        true => asm::rsy(Rsy::Csg, old, new, m),
        false if m.is_short() => asm::rs(Rs::Cs, old, new, m),
        false => asm::rsy(Rsy::Csy, old, new, m),
    }
}

/// Swaps until nothing came between; a failed swap has loaded the current value.
fn exchange(b: &mut Buffer, wide: bool, m: At, s: R) {
    b.put(&asm::rxy(if wide { Rxy::Lg } else { Rxy::Ly }, R0, 0, m));
    let again = b.label();
    b.bind(again);
    b.put(&compare_and_swap(wide, R0, s, m));
    branch(b, 4, again);
    b.put(&if wide { asm::rre(Rre::Lgr, s, R0) } else { asm::rr(Rr::Lr, s, R0) });
}

/// Loads are acquire loads.
pub(crate) fn emit_load_acquire(b: &mut Buffer, mem: Mem, dst: Reg) {
    emit_load(b, mem, false, dst);
}

/// Stores are release stores.
pub(crate) fn emit_store_release(b: &mut Buffer, mem: Mem, src: Reg) {
    emit_store(b, mem, Src::Reg(src));
}
