//! Frames on s390x (ELF ABI supplement, "the stack frame"): a caller provides 160 bytes at its
//! %r15, where register n is saved at `8 * n`.
//!
//! ```text
//!  old r15 + 152   tail-call counter (4 bytes): belongs to the callee, read back by the caller
//!  old r15 + 8n    saved registers, one range up to r14 or r15
//!  old r15         = R10, the top of the BPF stack
//!                  BPF stack
//!  r15             save area for callees; 0(r15) is the back chain when there are any
//! ```
//!
//! The counter is a value, copied into a callee's area and back (as the kernel does with mvc), so
//! that tail calls in callees count. A function without BPF stack and callees moves nothing.

use super::asm::{self, At, Ri, Rre, Rsy, Rxy, Ss};
use super::regs::{R, R1, R2, R13, R14, R15, native, native_num};
use crate::buffer::Buffer;
use crate::frame::{Frame, Role};
use crate::{FrameChange, SavedReg};
use bpf::insn::Reg;

/// Bytes of `xc` (or a nop of that length): a tail call brings its own counter.
pub(crate) const TAIL_CALL_OFFSET: u32 = 6;

/// Register save area of the ABI.
const SAVE_AREA: i32 = 160;

/// The counter in a save area; the ABI has %f6 there, which no BPF program touches.
const COUNTER: i32 = 152;

/// The counter that this function's caller handed over, seen from the caller's %r15.
pub(crate) const COUNTER_FOR_CALLEE: At = At { base: R15, disp: COUNTER };

/// Bytes %r15 moves down.
fn bytes(f: &Frame) -> i32 {
    if f.stack_bytes == 0 && !f.calls { 0 } else { SAVE_AREA + f.stack_bytes.cast_signed() }
}

/// This function's counter.
pub(crate) fn counter(f: &Frame) -> At {
    At { base: R15, disp: bytes(f) + COUNTER }
}

/// First and last register saved. R0 is %r14, so the return address always is.
fn saved_range(f: &Frame) -> (R, R) {
    let callee_saved = [Reg::R5, Reg::R6, Reg::R7, Reg::R8, Reg::R9, Reg::AX];
    let written = callee_saved.into_iter().filter(|r| f.written & 1 << r.0 != 0).map(native);
    let first = written.chain(f.uses_fp.then_some(R13)).min().unwrap_or(R14);
    (first, if bytes(f) == 0 { R14 } else { R15 })
}

/// Where the range is saved, seen from a given height above %r15.
fn save_slot(first: R, above: i32) -> At {
    At { base: R15, disp: above + 8 * i32::from(first) }
}

/// Function entry.
pub(crate) fn prologue(b: &mut Buffer, f: &Frame) {
    if f.counts && f.role.starts_counter() {
        b.put(&asm::ss(Ss::Xc, 4, COUNTER_FOR_CALLEE, COUNTER_FOR_CALLEE));
    } else if f.role == Role::Main {
        b.put(&asm::brcl(0));
    }
    let (first, last) = saved_range(f);
    b.put(&asm::rsy(Rsy::Stmg, first, last, save_slot(first, 0)));
    for saved in saved_regs(f) {
        b.frame(FrameChange::Save(saved));
    }
    let old = if f.uses_fp { R13 } else { R1 };
    if f.uses_fp || f.calls {
        b.put(&asm::rre(Rre::Lgr, old, R15));
    }
    if bytes(f) > 0 {
        let down = i16::try_from(-bytes(f)).expect("the verifier keeps a BPF frame at 512 bytes");
        b.put(&asm::ri(Ri::Aghi, R15, down));
        b.frame(FrameChange::Sp(bytes(f)));
    }
    if f.calls {
        b.put(&asm::rxy(Rxy::Stg, old, 0, At { base: R15, disp: 0 }));
    }
}

/// Function exit.
pub(crate) fn epilogue(b: &mut Buffer, f: &Frame) {
    b.put(&asm::rre(Rre::Lgr, R2, R14));
    restore_saved(b, f);
    b.put(&asm::br(R14));
}

/// Undoes the prologue: after it %r14 is the return address again.
pub(crate) fn restore_saved(b: &mut Buffer, f: &Frame) {
    let (first, last) = saved_range(f);
    b.put(&asm::rsy(Rsy::Lmg, first, last, save_slot(first, bytes(f))));
    b.frame(FrameChange::Sp(-bytes(f)));
    for saved in saved_regs(f) {
        b.frame(FrameChange::Restore(saved.reg));
    }
}

/// Bytes from the CFA (old %r15 + 160) to %r15 in the body.
pub(crate) fn frame_bytes(f: &Frame) -> u32 {
    (SAVE_AREA + bytes(f)).cast_unsigned()
}

/// Saved registers by CFA offset.
pub(crate) fn saved_regs(f: &Frame) -> Vec<SavedReg> {
    let (first, last) = saved_range(f);
    (first..=last)
        .map(|n| SavedReg {
            reg: (n != R14).then_some(native_num(n)),
            cfa_off: 8 * i32::from(n) - SAVE_AREA,
        })
        .collect()
}
