//! Calls and tail calls on riscv64.

use super::asm::short;
use super::asm::{self, Cond, Gpr, Op, OpI, RA, SP, Shift, ZERO};
use super::branch;
use super::frame;
use super::lower::{branch, put, reach};
use super::regs::{COUNTER, R0, RESULT, TMP1, TMP2, TMP3, native};
use crate::RelocKind;
use crate::buffer::{Buffer, Label};
use crate::frame::{Frame, TAIL_CALL_MAX};
use bpf::insn::{Reg, Size};
use verifier::env::Layout;

/// Helper or kfunc; the result moves from a0.
pub(crate) fn emit_call(b: &mut Buffer, kind: RelocKind) {
    b.reloc(kind);
    b.put_u32(asm::auipc(RA, 0));
    b.put_u32(asm::op_i(OpI::Jalr, RA, RA, 0));
    put(b, short::mv(R0, RESULT));
}

/// A stub that keeps all registers but AX: nothing moves.
pub(crate) fn emit_call_keeping(b: &mut Buffer, kind: RelocKind) {
    b.reloc(kind);
    b.put_u32(asm::auipc(RA, 0));
    b.put_u32(asm::op_i(OpI::Jalr, RA, RA, 0));
}

/// A function of this program; the counter's pointer goes along in `COUNTER`.
pub(crate) fn emit_call_local(b: &mut Buffer, f: &Frame, func: Label, counts: bool) {
    if counts {
        put(b, short::load(Size::DW, true, COUNTER, SP, frame::counter_ptr(f)));
    }
    b.refer(func, &branch::CALL);
    b.put_u32(asm::jal(RA, 0));
}

/// `emit_bpf_tail_call`.
pub(crate) fn emit_tail_call(b: &mut Buffer, f: &Frame, layout: &Layout, known: Option<u32>) {
    let (array, index) = (native(Reg::R2), native(Reg::R3));
    let out = b.label();
    let load = |b: &mut Buffer, size, d: Gpr, base: Gpr, off: i64| {
        let (base, off) = reach(b, base, off);
        put(b, short::load(size, false, d, base, off));
    };
    if known.is_none() {
        // The index is 32 bits wide; the rest of R3 is not part of it.
        load(b, Size::W, TMP1, array, layout.array_max_entries.into());
        put(b, short::shift(Shift::Slli, TMP3, index, 32));
        put(b, short::shift(Shift::Srli, TMP2, TMP3, 32));
        branch(b, Cond::Geu, TMP2, TMP1, out);
    }
    load(b, Size::DW, COUNTER, SP, frame::counter_ptr(f));
    load(b, Size::DW, TMP1, COUNTER, 0);
    put(b, short::op_i(OpI::Sltiu, TMP2, TMP1, TAIL_CALL_MAX.into()));
    branch(b, Cond::Eq, TMP2, ZERO, out);
    let value = i64::from(layout.array_value);
    match known {
        Some(n) => load(b, Size::DW, TMP3, array, value + 8 * i64::from(n)),
        None => {
            put(b, short::shift(Shift::Srli, TMP3, TMP3, 29));
            put(b, short::op(Op::Add, TMP3, TMP3, array));
            load(b, Size::DW, TMP3, TMP3, value);
        }
    }
    branch(b, Cond::Eq, TMP3, ZERO, out);
    put(b, short::op_i(OpI::Addi, TMP1, TMP1, 1));
    put(b, short::store(Size::DW, TMP1, COUNTER, 0));
    load(b, Size::DW, TMP3, TMP3, layout.prog_bpf_func.into());
    if f.role.starts_counter() {
        // The counter itself moves on with the call, or the pointer this function was given.
        load(b, Size::DW, COUNTER, SP, frame::counter(f));
    }
    frame::leave(b, f);
    put(b, short::op_i(OpI::Jalr, ZERO, TMP3, frame::TAIL_CALL_OFFSET.into()));
    b.bind(out);
}

/// `auipc`, `jalr`.
pub(crate) fn patch_call(code: &mut [u8], disp: i64) -> bool {
    asm::patch_pair(code, disp)
}

/// `auipc TMP1, 0; ld TMP1, 16(TMP1); jr TMP1`, padding, and the address.
pub(crate) fn veneer(target: u64) -> Option<Vec<u8>> {
    let words = [
        asm::auipc(TMP1, 0),
        asm::load(Size::DW, false, TMP1, TMP1, 16),
        asm::op_i(OpI::Jalr, ZERO, TMP1, 0),
        0,
    ];
    Some([words.map(u32::to_le_bytes).concat(), target.to_le_bytes().to_vec()].concat())
}
