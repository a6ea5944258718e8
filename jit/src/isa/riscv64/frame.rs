//! Frames on riscv64, from the CFA (`sp` at entry) down:
//!
//! ```text
//!              BPF stack                R10 = s5 = CFA
//!              padding to 16
//!              ra, s0                   when something is called; s0 points above them
//!              saved s5, s1..s4         those used
//!              pointer to the tail-call counter   functions that count
//!  sp + 0      tail-call counter                  functions that start one (or, tail-called,
//!                                                 the pointer they were given)
//! ```
//!
//! What the prologue touches is near `sp`, where loads and stores are compressed; `ra` at s0 - 8
//! and the caller's s0 at s0 - 16 are the C ABI's frame record. The counter protocol is the one of
//! x86-64: `COUNTER` enters as a counter (at most 33) or as a pointer to one; a pointer is never
//! that small. (The kernel's riscv64 counts down by value; one cell for all functions makes it
//! exactly 33 in any mix with subprograms.) A program returns all 64 bits of R0, where the kernel's
//! `addiw` keeps 32: struct results of callbacks and kfuncs need the rest.

use super::asm::short;
use super::asm::{self, Cond, Gpr, OpI, RA, SP, ZERO};
use super::lower::{branch, mov_imm, put, reach};
use super::regs::{COUNTER, FP, FRAME, R0, RESULT, TMP1, native, native_num};
use crate::buffer::Buffer;
use crate::frame::{Frame, Role, TAIL_CALL_MAX};
use crate::{FrameChange, SavedReg};
use bpf::insn::Size;

/// Bytes of `li COUNTER, 0`: a tail call brings its own counter.
pub(crate) const TAIL_CALL_OFFSET: u32 = 2;

/// Saved registers in the order of their slots, from the counter up.
fn slots(f: &Frame) -> Vec<Gpr> {
    let mut regs: Vec<Gpr> = f.saved().map(native).collect();
    regs.extend(f.uses_fp.then_some(FP));
    if f.calls {
        regs.extend([FRAME, RA]);
    }
    regs
}

/// Slots of the counter.
fn counter_slots(f: &Frame) -> u32 {
    match (f.counts, f.role.starts_counter()) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    }
}

/// Bytes of everything but the BPF stack.
fn slot_bytes(f: &Frame) -> u32 {
    8 * (counter_slots(f) + u32::try_from(slots(f).len()).expect("at most seven"))
}

/// Where the counter is, relative to `sp`.
pub(crate) fn counter(_: &Frame) -> i64 {
    0
}

/// Where the pointer to the counter is, relative to `sp`.
pub(crate) fn counter_ptr(f: &Frame) -> i64 {
    if f.role.starts_counter() { 8 } else { 0 }
}

/// Function entry.
pub(crate) fn prologue(b: &mut Buffer, f: &Frame) {
    if f.counts && f.role.starts_counter() {
        mov_imm(b, COUNTER, 0);
    } else if f.role == Role::Main {
        b.put_u16(asm::C_NOP);
    }
    let bytes = i64::from(frame_bytes(f));
    add_sp(b, SP, -bytes);
    b.frame(FrameChange::Sp(frame_bytes(f).cast_signed()));
    for ((at, reg), saved) in slot_offsets(f).zip(saved_regs(f)) {
        put(b, short::store(Size::DW, reg, SP, at));
        b.frame(FrameChange::Save(saved));
    }
    if f.calls {
        put(b, short::op_i(OpI::Addi, FRAME, SP, slot_bytes(f).into()));
    }
    if f.uses_fp {
        add_sp(b, FP, bytes);
    }
    if f.counts {
        start_counter(b, f);
    }
}

fn slot_offsets(f: &Frame) -> impl Iterator<Item = (i64, Gpr)> {
    let first = 8 * i64::from(counter_slots(f));
    (0..).map(move |i| first + 8 * i).zip(slots(f))
}

/// d = sp + value
fn add_sp(b: &mut Buffer, d: Gpr, value: i64) {
    if value != 0 || d != SP {
        let (base, low) = reach(b, SP, value);
        put(b, short::op_i(OpI::Addi, d, base, low));
    }
}

/// Keeps the pointer to the counter; a function that starts one keeps what it got, too.
fn start_counter(b: &mut Buffer, f: &Frame) {
    if f.role.starts_counter() {
        let given = b.label();
        put(b, short::store(Size::DW, COUNTER, SP, counter(f)));
        put(b, short::op_i(OpI::Sltiu, TMP1, COUNTER, i64::from(TAIL_CALL_MAX) + 1));
        branch(b, Cond::Eq, TMP1, ZERO, given);
        put(b, short::op_i(OpI::Addi, COUNTER, SP, counter(f)));
        b.bind(given);
    }
    put(b, short::store(Size::DW, COUNTER, SP, counter_ptr(f)));
}

/// Function exit. R0 stays in a5 for callers in the program, which therefore copy nothing; it goes
/// to a0 as well, where a debugger looks for what a function returned.
pub(crate) fn epilogue(b: &mut Buffer, f: &Frame) {
    leave(b, f);
    put(b, short::mv(RESULT, R0));
    put(b, short::op_i(OpI::Jalr, ZERO, RA, 0));
}

/// Restores the caller's registers and drops the frame.
pub(crate) fn leave(b: &mut Buffer, f: &Frame) {
    for ((at, reg), saved) in slot_offsets(f).zip(saved_regs(f)) {
        put(b, short::load(Size::DW, true, reg, SP, at));
        b.frame(FrameChange::Restore(saved.reg));
    }
    add_sp(b, SP, frame_bytes(f).into());
    b.frame(FrameChange::Sp(-frame_bytes(f).cast_signed()));
}

/// Bytes from the CFA to `sp` in the body; `sp` is always 16-byte aligned.
pub(crate) fn frame_bytes(f: &Frame) -> u32 {
    (slot_bytes(f) + f.stack_bytes).next_multiple_of(16)
}

/// Saved registers by CFA offset.
pub(crate) fn saved_regs(f: &Frame) -> Vec<SavedReg> {
    let frame = i64::from(frame_bytes(f));
    let reg = |g: Gpr| (g != RA).then(|| native_num(g.0));
    let off = |at| i32::try_from(at - frame).expect("frames are small");
    slot_offsets(f).map(|(at, g)| SavedReg { reg: reg(g), cfa_off: off(at) }).collect()
}
