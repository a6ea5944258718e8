//! Calls and tail calls on x86-64.

use super::asm::{self, At, Cc, Op};
use super::frame;
use super::lower::jcc;
use super::regs::{R11, RAX, RCX, native};
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

/// A function of this program; the counter's pointer goes along in rax.
pub(crate) fn emit_call_local(b: &mut Buffer, f: &Frame, func: Label, counts: bool) {
    if counts {
        b.put(&asm::load(RAX, Size::DW, frame::counter_ptr(f)));
    }
    let site = b.site();
    b.refer(site, func, asm::patch_rel32::<5>);
    b.put(&asm::CALL);
}

/// `emit_bpf_tail_call_indirect`, but R0 keeps its value when the call fails.
pub(crate) fn emit_tail_call(b: &mut Buffer, f: &Frame, layout: &Layout) {
    let (array, index) = (native(Reg::R2), native(Reg::R3));
    let out = b.label();
    // The index is 32 bits wide; the rest of R3 is not part of it.
    b.put(&asm::mov_rr(Width::W32, index, index));
    let max_entries = At { base: array, disp: i32::from(layout.array_max_entries) };
    b.put(&asm::cmp_mem32_r(max_entries, index));
    jcc(b, Cc::Be, out);
    b.put(&asm::load(R11, Size::DW, frame::counter_ptr(f)));
    let limit = i8::try_from(TAIL_CALL_MAX).expect("33 fits");
    b.put(&asm::cmp_mem64_imm8(At { base: R11, disp: 0 }, limit));
    jcc(b, Cc::Ae, out);
    b.put(&asm::load_indexed8(RCX, array, index, i32::from(layout.array_value)));
    b.put(&asm::test_rr(Width::W64, RCX, RCX));
    jcc(b, Cc::E, out);
    b.put(&asm::inc_mem64(At { base: R11, disp: 0 }));
    let bpf_func = At { base: RCX, disp: i32::from(layout.prog_bpf_func) };
    b.put(&asm::load(RCX, Size::DW, bpf_func));
    frame::restore_saved(b, f);
    b.put(&asm::pop(RAX));
    if f.role.starts_counter() {
        // The counter itself moves on with the call, or the pointer this function was given.
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
