//! Frames on x86-64, from the CFA down:
//!
//! ```text
//!  -8          return address
//!  -16         caller's rbp             when the function has a frame pointer
//!              BPF stack                R10 = rbp points above it
//!              tail-call counter        functions that start one (or, tail-called, a pointer)
//!              tail-call counter pointer   functions that count
//!              saved rbx, r13, r14, r15    those written
//! ```
//!
//! The counter protocol is the kernel's since 6.12 (`emit_prologue_tail_call`): rax enters as a
//! counter (at most 33) or as a pointer to one; a pointer is never that small. A leaf that does not
//! use R10 has no rbp frame.

use super::asm::{self, At, Op};
use super::regs::{RAX, RBP, RSP, native, native_num};
use crate::buffer::Buffer;
use crate::frame::{Frame, Role, TAIL_CALL_MAX};
use crate::{FrameChange, SavedReg};
use bpf::insn::{Reg, Width};

/// Bytes of `xor eax, eax`: a tail call brings its own counter.
pub(crate) const TAIL_CALL_OFFSET: u32 = 2;

/// The function keeps rbp.
pub(crate) fn has_rbp(f: &Frame) -> bool {
    f.uses_fp || f.calls || f.counts
}

/// Slots of the counter.
fn counter_slots(f: &Frame) -> u32 {
    match (f.counts, f.role.starts_counter()) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    }
}

/// Where the counter is, or the pointer that was given in its place.
pub(crate) fn counter(f: &Frame) -> At {
    At { base: RBP, disp: -(f.stack_bytes + 8).cast_signed() }
}

/// Where the pointer to the counter is.
pub(crate) fn counter_ptr(f: &Frame) -> At {
    let below = f.stack_bytes + 8 * counter_slots(f);
    At { base: RBP, disp: -below.cast_signed() }
}

/// Function entry.
pub(crate) fn prologue(b: &mut Buffer, f: &Frame) {
    if f.role == Role::Main || f.counts && f.role.starts_counter() {
        b.put(&asm::alu_rr(Width::W32, Op::Xor, RAX, RAX));
    }
    if has_rbp(f) {
        b.put(&asm::push(RBP));
        b.frame(FrameChange::Sp(8));
        b.frame(FrameChange::Save(saved_fp()));
        b.put(&asm::mov_rr(Width::W64, RBP, RSP));
        b.frame(FrameChange::Cfa(native_num(RBP), 16));
    }
    if f.stack_bytes > 0 {
        let imm = f.stack_bytes.cast_signed();
        // 128 is no imm8 but -128 is.
        let (op, imm) = if imm == 128 { (Op::Add, -128) } else { (Op::Sub, imm) };
        b.put(&asm::alu_ri(Width::W64, op, RSP, imm));
    }
    if f.counts {
        b.put(&asm::push(RAX));
        if f.role.starts_counter() {
            b.put(&asm::alu_ri(Width::W64, Op::Cmp, RAX, TAIL_CALL_MAX.cast_signed()));
            b.put(&asm::cmovbe(RAX, RSP));
            b.put(&asm::push(RAX));
        }
    }
    for (r, saved) in f.saved().zip(saved_slots(f).rev()) {
        b.put(&asm::push(native(r)));
        b.frame(FrameChange::Sp(8));
        b.frame(FrameChange::Save(saved));
    }
}

/// Function exit.
pub(crate) fn epilogue(b: &mut Buffer, f: &Frame) {
    restore_saved(b, f);
    leave(b, f);
    b.put(&asm::RET);
}

/// Pops R6..R9.
pub(crate) fn restore_saved(b: &mut Buffer, f: &Frame) {
    for r in f.saved().rev() {
        b.put(&asm::pop(native(r)));
        b.frame(FrameChange::Sp(-8));
        b.frame(FrameChange::Restore(Some(native_num(native(r)))));
    }
}

/// Drops the rest of the frame; rax may have been popped from it before.
pub(crate) fn leave(b: &mut Buffer, f: &Frame) {
    if f.stack_bytes > 0 || f.counts {
        b.put(&asm::LEAVE);
    } else if has_rbp(f) {
        b.put(&asm::pop(RBP));
    }
    if has_rbp(f) {
        b.frame(FrameChange::Cfa(native_num(RSP), 8));
        b.frame(FrameChange::Restore(Some(native_num(RBP))));
    }
}

/// Bytes from the CFA to rsp in the body.
pub(crate) fn frame_bytes(f: &Frame) -> u32 {
    let slots = 1 + u32::from(has_rbp(f)) + counter_slots(f);
    8 * (slots + u32::try_from(f.saved().count()).expect("at most four")) + f.stack_bytes
}

/// Saved registers by CFA offset.
pub(crate) fn saved_regs(f: &Frame) -> Vec<SavedReg> {
    let mut out = vec![SavedReg { reg: None, cfa_off: -8 }];
    out.extend(has_rbp(f).then_some(saved_fp()));
    out.extend(saved_slots(f));
    out
}

fn saved_fp() -> SavedReg {
    SavedReg { reg: Some(native_num(native(Reg::FP))), cfa_off: -16 }
}

/// R6..R9 from rsp up: the last one pushed first.
fn saved_slots(f: &Frame) -> impl DoubleEndedIterator<Item = SavedReg> {
    let lowest = -frame_bytes(f).cast_signed();
    let regs: Vec<Reg> = f.saved().rev().collect();
    let slot = move |(i, r): (usize, Reg)| SavedReg {
        reg: Some(native_num(native(r))),
        cfa_off: lowest + 8 * i32::try_from(i).expect("at most four"),
    };
    regs.into_iter().enumerate().map(slot)
}
