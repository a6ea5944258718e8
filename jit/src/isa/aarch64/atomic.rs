//! Atomic operations on arm64 (`emit_lse_atomic`): forms without a result are relaxed, fetching
//! ones acquire and release.

use super::asm::{self, Gpr, Lse, Op3, ZR};
use super::lower::add_imm;
use super::regs::{R0, TMP1, TMP2, native};
use crate::buffer::Buffer;
use crate::isa::Mem;
use bpf::insn::{AtomicOp, Reg, Size, Width};

/// Atomic read-modify-write.
pub(crate) fn emit_atomic(b: &mut Buffer, mem: Mem, op: AtomicOp, src: Reg) {
    let s = native(src);
    let address = address(b, mem);
    let size = mem.size;
    let word = match op {
        AtomicOp::Add => asm::lse(Lse::Add, size, false, s, ZR, address),
        AtomicOp::Or => asm::lse(Lse::Set, size, false, s, ZR, address),
        AtomicOp::And => asm::lse(Lse::Clr, size, false, complement(b, size, s), ZR, address),
        AtomicOp::Xor => asm::lse(Lse::Eor, size, false, s, ZR, address),
        AtomicOp::FetchAdd => asm::lse(Lse::Add, size, true, s, s, address),
        AtomicOp::FetchOr => asm::lse(Lse::Set, size, true, s, s, address),
        AtomicOp::FetchAnd => asm::lse(Lse::Clr, size, true, complement(b, size, s), s, address),
        AtomicOp::FetchXor => asm::lse(Lse::Eor, size, true, s, s, address),
        AtomicOp::Xchg => asm::lse(Lse::Swp, size, true, s, s, address),
        AtomicOp::Cmpxchg => asm::casal(size, R0, s, address),
    };
    b.mark_fault();
    b.put_u32(word);
}

/// `ldclr` clears the bits that are set in its operand.
fn complement(b: &mut Buffer, size: Size, s: Gpr) -> Gpr {
    let width = if size == Size::DW { Width::W64 } else { Width::W32 };
    b.put_u32(asm::op3(Op3::Orn, width, TMP2, ZR, s));
    TMP2
}

/// These forms take a plain register.
fn address(b: &mut Buffer, mem: Mem) -> Gpr {
    if mem.off == 0 {
        return native(mem.base);
    }
    add_imm(b, Width::W64, TMP1, native(mem.base), mem.off.into());
    TMP1
}

/// `ldar`.
pub(crate) fn emit_load_acquire(b: &mut Buffer, mem: Mem, dst: Reg) {
    let address = address(b, mem);
    b.mark_fault();
    b.put_u32(asm::ldar(mem.size, native(dst), address));
}

/// `stlr`.
pub(crate) fn emit_store_release(b: &mut Buffer, mem: Mem, src: Reg) {
    let address = address(b, mem);
    b.mark_fault();
    b.put_u32(asm::stlr(mem.size, native(src), address));
}
