//! Calls and tail calls on arm64.

use super::asm::{self, Cond, Op3, OpImm, SP};
use super::branch;
use super::frame;
use super::lower::{Test, access, add_imm, branch};
use super::regs::{COUNTER, R0, TMP1, TMP2, TMP3, X0, native};
use crate::RelocKind;
use crate::buffer::{Buffer, Label};
use crate::frame::{Frame, TAIL_CALL_MAX};
use bpf::insn::{Reg, Size, Width};
use verifier::env::Layout;

/// Helper or kfunc; the result moves from x0.
pub(crate) fn emit_call(b: &mut Buffer, kind: RelocKind) {
    b.reloc(kind);
    b.put_u32(asm::bl(0));
    b.put_u32(asm::mov(Width::W64, R0, X0));
}

/// A stub that keeps all registers but AX: nothing moves.
pub(crate) fn emit_call_keeping(b: &mut Buffer, kind: RelocKind) {
    b.reloc(kind);
    b.put_u32(asm::bl(0));
}

/// A function of this program; the counter's pointer goes along in `COUNTER`.
pub(crate) fn emit_call_local(b: &mut Buffer, f: &Frame, func: Label, counts: bool) {
    if counts {
        let ptr = frame::counter_ptr(f);
        b.put_u32(asm::mem_scaled(asm::Mem::Ld, Size::DW, COUNTER, SP, ptr));
    }
    b.refer(func, &branch::JUMP);
    b.put_u32(asm::bl(0));
}

/// `emit_bpf_tail_call`.
pub(crate) fn emit_tail_call(b: &mut Buffer, f: &Frame, layout: &Layout, known: Option<u32>) {
    let (array, index) = (native(Reg::R2), native(Reg::R3));
    let out = b.label();
    let load = |b: &mut Buffer, size, t, base, off| access(b, asm::Mem::Ld, size, t, base, off);
    if known.is_none() {
        // The index is 32 bits wide; the rest of R3 is not part of it.
        load(b, Size::W, TMP1, array, layout.array_max_entries.into());
        b.put_u32(asm::op3(Op3::Subs, Width::W32, asm::ZR, index, TMP1));
        branch(b, Test::Flags(Cond::Hs), out);
    }
    load(b, Size::DW, COUNTER, SP, frame::counter_ptr(f));
    load(b, Size::DW, TMP3, COUNTER, 0);
    b.put_u32(asm::op_imm(OpImm::Subs, Width::W64, asm::ZR, TMP3, TAIL_CALL_MAX.into()));
    branch(b, Test::Flags(Cond::Hs), out);
    let value = i64::from(layout.array_value);
    match known {
        Some(n) => load(b, Size::DW, TMP1, array, value + 8 * i64::from(n)),
        None => {
            b.put_u32(asm::add_ext(TMP1, array, index, false, 3));
            load(b, Size::DW, TMP1, TMP1, value);
        }
    }
    branch(b, Test::Zero { width: Width::W64, reg: TMP1, negate: false }, out);
    add_imm(b, Width::W64, TMP3, TMP3, 1);
    b.put_u32(asm::mem_scaled(asm::Mem::St, Size::DW, TMP3, COUNTER, 0));
    load(b, Size::DW, TMP2, TMP1, layout.prog_bpf_func.into());
    if f.role.starts_counter() {
        // The counter itself moves on with the call, or the pointer this function was given.
        load(b, Size::DW, COUNTER, SP, frame::counter(f));
    }
    frame::leave(b, f);
    add_imm(b, Width::W64, TMP2, TMP2, frame::TAIL_CALL_OFFSET.into());
    b.put_u32(asm::br(TMP2));
    b.bind(out);
    // No access above belongs to a BPF instruction.
    b.take_fault();
}

/// `bl`.
pub(crate) fn patch_call(code: &mut [u8], disp: i64) -> bool {
    asm::patch_branch26(code, disp)
}

/// `ldr TMP1, .+8; br TMP1` and the address.
pub(crate) fn veneer(target: u64) -> Option<Vec<u8>> {
    let words = [asm::ldr_literal(TMP1, 8), asm::br(TMP1)].map(u32::to_le_bytes);
    Some([words.concat(), target.to_le_bytes().to_vec()].concat())
}
