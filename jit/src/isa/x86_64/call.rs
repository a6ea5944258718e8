//! Calls and tail calls on x86-64.

use super::asm::{self, At, Cc, Op};
use super::branch;
use super::frame;
use super::lower::jcc;
use super::regs::{RAX, RCX, native};
use crate::RelocKind;
use crate::buffer::{Buffer, Label};
use crate::frame::{Frame, TAIL_CALL_MAX};
use bpf::insn::{Reg, Size, Width};
use verifier::env::Layout;

/// Helper or kfunc: R0 is rax on both sides.
pub(crate) fn emit_call(b: &mut Buffer, kind: RelocKind) {
    b.reloc(kind);
    b.put(&asm::CALL);
}

/// A stub that keeps all registers but AX.
pub(crate) fn emit_call_keeping(b: &mut Buffer, kind: RelocKind) {
    emit_call(b, kind);
}

/// A function of this program; the counter's pointer goes along in rax.
pub(crate) fn emit_call_local(b: &mut Buffer, f: &Frame, func: Label, counts: bool) {
    if counts {
        b.put(&asm::load(RAX, Size::DW, frame::counter_ptr(f)));
    }
    b.refer(func, &branch::CALL);
    b.put(&asm::CALL);
}

/// `emit_bpf_tail_call_indirect`, but R0 keeps its value when the call fails. An empty slot is
/// found before the counter is looked at: either way the call fails and nothing else happens.
pub(crate) fn emit_tail_call(b: &mut Buffer, f: &Frame, layout: &Layout, known: Option<u32>) {
    let (array, index) = (native(Reg::R2), native(Reg::R3));
    let out = b.label();
    let value = i32::from(layout.array_value);
    match known.and_then(|n| i32::try_from(i64::from(value) + 8 * i64::from(n)).ok()) {
        Some(disp) => b.put(&asm::load(RCX, Size::DW, At { base: array, disp })),
        None => {
            // The index is 32 bits wide; the rest of R3 is not part of it.
            b.put(&asm::mov_rr(Width::W32, index, index));
            let max_entries = At { base: array, disp: i32::from(layout.array_max_entries) };
            b.put(&asm::cmp_mem32_r(max_entries, index));
            jcc(b, Cc::Be, out);
            b.put(&asm::load_indexed8(RCX, array, index, value));
        }
    }
    b.refer(out, &branch::JRCXZ);
    b.put(&asm::JRCXZ);
    // The index is not needed any more; the counter is far below 2^32.
    let counter = At { base: index, disp: 0 };
    b.put(&asm::load(index, Size::DW, frame::counter_ptr(f)));
    let limit = i8::try_from(TAIL_CALL_MAX).expect("33 fits");
    b.put(&asm::cmp_mem32_imm8(counter, limit));
    jcc(b, Cc::Ae, out);
    b.put(&asm::inc_mem32(counter));
    let bpf_func = At { base: RCX, disp: i32::from(layout.prog_bpf_func) };
    b.put(&asm::load(RCX, Size::DW, bpf_func));
    frame::restore_saved(b, f);
    if f.role.starts_counter() {
        // The counter itself moves on with the call, or the pointer this function was given.
        b.put(&asm::load(RAX, Size::DW, frame::counter(f)));
    } else {
        b.put(&asm::pop(RAX));
    }
    frame::leave(b, f);
    let skip = frame::TAIL_CALL_OFFSET.cast_signed();
    b.put(&asm::alu_ri(Width::W64, Op::Add, RCX, skip));
    b.put(&asm::jmp_r(RCX));
    b.bind(out);
}

/// `call rel32`.
pub(crate) fn patch_call(code: &mut [u8], disp: i64) -> bool {
    asm::patch_rel32::<5>(code, disp)
}

/// The kernel places its functions within reach.
pub(crate) fn veneer(_: u64) -> Option<Vec<u8>> {
    None
}
