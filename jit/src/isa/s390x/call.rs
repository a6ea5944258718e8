//! Calls and tail calls on s390x.

use super::asm::{self, At, FusedImm, Ril, Rre, Rx, Rxy, Sil, Ss};
use super::branch;
use super::frame;
use super::lower::branch;
use super::regs::{R1, R2, R14, native};
use crate::RelocKind;
use crate::buffer::{Buffer, Label};
use crate::frame::{Frame, TAIL_CALL_MAX};
use bpf::insn::Reg;
use verifier::env::Layout;

/// Helper or kfunc: the result comes in %r2.
pub(crate) fn emit_call(b: &mut Buffer, kind: RelocKind) {
    b.reloc(kind);
    b.put(&asm::ril(Ril::Brasl, R14, 0));
    b.put(&asm::rre(Rre::Lgr, R14, R2));
}

/// A stub that keeps all registers but AX; R0 is where the return address goes.
pub(crate) fn emit_call_keeping(b: &mut Buffer, kind: RelocKind) {
    b.put(&asm::rre(Rre::Lgr, R1, R14));
    b.reloc(kind);
    b.put(&asm::ril(Ril::Brasl, R14, 0));
    b.put(&asm::rre(Rre::Lgr, R14, R1));
}

/// A function of this program; the counter's value goes along and comes back.
pub(crate) fn emit_call_local(b: &mut Buffer, f: &Frame, func: Label, counts: bool) {
    if counts {
        b.put(&asm::ss(Ss::Mvc, 4, frame::COUNTER_FOR_CALLEE, frame::counter(f)));
    }
    b.refer(func, &branch::RIL);
    b.put(&asm::ril(Ril::Brasl, R14, 0));
    if counts {
        b.put(&asm::ss(Ss::Mvc, 4, frame::counter(f), frame::COUNTER_FOR_CALLEE));
    }
    b.put(&asm::rre(Rre::Lgr, R14, R2));
}

/// `BPF_TAIL_CALL` of arch/s390/net/bpf_jit_comp.c, but only populated slots count.
pub(crate) fn emit_tail_call(b: &mut Buffer, f: &Frame, layout: &Layout, known: Option<u32>) {
    let (array, index) = (native(Reg::R2), native(Reg::R3));
    let out = b.label();
    let in_array = |disp: i16| At { base: array, disp: i32::from(disp) };
    if known.is_none() {
        b.put(&asm::rxy(Rxy::Cly, index, 0, in_array(layout.array_max_entries)));
        branch(b, 10, out);
    }
    let limit = i16::try_from(TAIL_CALL_MAX).expect("33 fits");
    b.put(&asm::sil(Sil::Clfhsi, frame::counter(f), limit));
    branch(b, 10, out);
    match known.map(|n| i64::from(layout.array_value) + 8 * i64::from(n)) {
        // Within the 20 bits of a displacement.
        Some(at) if at < 1 << 19 => {
            let slot = At { base: array, disp: i32::try_from(at).expect("20 bits") };
            b.put(&asm::rxy(Rxy::Lg, R1, 0, slot));
        }
        _ => {
            // The low 32 bits of the index, times 8.
            b.put(&asm::risbgz(R1, index, 29, 60, 3));
            b.put(&asm::rxy(Rxy::Lg, R1, R1, in_array(layout.array_value)));
        }
    }
    b.refer(out, &branch::COMPARE_IMM);
    b.put(&asm::cij(FusedImm::Cgij, R1, 0, 8));
    b.put(&asm::asi(frame::counter(f), 1));
    let bpf_func = At { base: R1, disp: i32::from(layout.prog_bpf_func) };
    b.put(&asm::rxy(Rxy::Lg, R1, 0, bpf_func));
    frame::restore_saved(b, f);
    let entry = At { base: R1, disp: frame::TAIL_CALL_OFFSET.cast_signed() };
    b.put(&asm::rx(Rx::Bc, 15, 0, entry));
    b.bind(out);
}

/// `brasl`.
pub(crate) fn patch_call(code: &mut [u8], disp: i64) -> bool {
    asm::patch_rel32(code, disp)
}

/// `lgrl %r1, .+8; br %r1` and the address.
pub(crate) fn veneer(target: u64) -> Option<Vec<u8>> {
    let mut load = asm::ril(Ril::Lgrl, R1, 0).to_vec();
    assert!(asm::patch_rel32(&mut load, 8), "8 is near");
    Some([load, asm::br(R1).to_vec(), target.to_be_bytes().to_vec()].concat())
}
