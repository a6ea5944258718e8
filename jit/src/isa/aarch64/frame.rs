//! Frames on arm64, from the CFA (`sp` at entry) down:
//!
//! ```text
//!              BPF stack                R10 = x25 = CFA
//!              padding to 16
//!              pointer to the tail-call counter   functions that count
//!              tail-call counter                  functions that start one (or, tail-called,
//!                                                 the pointer they were given)
//!              saved x25, x19..x22                those used
//!  sp + 0      x29, x30                 when something is called; x29 = sp
//! ```
//!
//! The counter protocol is the one of x86-64: `COUNTER` enters as a counter (at most 33) or as a
//! pointer to one; a pointer is never that small. It is the kernel's bookkeeping with one store
//! less, and programs without tail calls pay one `nop`.

use super::asm::{self, Cond, Gpr, OpImm, Pair, SP};
use super::lower::add_imm;
use super::regs::{COUNTER, FP, LR, R0, TMP1, X0, X29, native, native_num};
use crate::buffer::Buffer;
use crate::frame::{Frame, Role, TAIL_CALL_MAX};
use crate::{FrameChange, SavedReg};
use bpf::insn::{Size, Width};

/// Bytes of `mov COUNTER, #0`: a tail call brings its own counter.
pub(crate) const TAIL_CALL_OFFSET: u32 = 4;

/// How many registers the instruction that allocates the frame stores, and the one that frees it
/// loads: the reach of `stp` is 504 bytes, of `str` 255.
fn pushed(regs: &[Gpr], bytes: u32) -> usize {
    match regs.len() {
        2.. if bytes <= 504 => 2,
        1 if bytes <= 255 => 1,
        _ => 0,
    }
}

/// Saved registers in the order of their slots, from `sp` up.
fn slots(f: &Frame) -> Vec<Gpr> {
    let mut regs = Vec::new();
    if f.calls {
        regs.extend([X29, LR]);
    }
    regs.extend(f.uses_fp.then_some(FP));
    regs.extend(f.saved().map(native));
    regs
}

fn slot_bytes(f: &Frame) -> u32 {
    8 * u32::try_from(slots(f).len()).expect("at most seven")
}

/// Slots of the counter.
fn counter_slots(f: &Frame) -> u32 {
    match (f.counts, f.role.starts_counter()) {
        (false, _) => 0,
        (true, false) => 1,
        (true, true) => 2,
    }
}

/// Where the counter is, relative to `sp`.
pub(crate) fn counter(f: &Frame) -> i64 {
    i64::from(slot_bytes(f))
}

/// Where the pointer to the counter is, relative to `sp`.
pub(crate) fn counter_ptr(f: &Frame) -> i64 {
    counter(f) + if f.role.starts_counter() { 8 } else { 0 }
}

/// Function entry.
pub(crate) fn prologue(b: &mut Buffer, f: &Frame) {
    if f.counts && f.role.starts_counter() {
        b.put_u32(asm::wide(asm::Wide::Z, Width::W64, COUNTER, 0, 0));
    } else if f.role == Role::Main {
        b.put_u32(asm::nop());
    }
    let bytes = frame_bytes(f);
    let regs = slots(f);
    let pushed = pushed(&regs, bytes);
    match (pushed, &regs[..]) {
        (2, &[x, y, ..]) => b.put_u32(asm::pair(Pair::StPre, x, y, SP, -i64::from(bytes))),
        (1, &[x]) => b.put_u32(asm::str_pre(x, SP, -i64::from(bytes))),
        _ => add_imm(b, Width::W64, SP, SP, -i64::from(bytes)),
    }
    b.frame(FrameChange::Sp(bytes.cast_signed()));
    let saved = saved_regs(f);
    note_saved(b, &saved[..pushed]);
    each_slot(b, f, pushed, true);
    if f.calls {
        add_imm(b, Width::W64, X29, SP, 0);
    }
    if f.uses_fp {
        add_imm(b, Width::W64, FP, SP, bytes.into());
    }
    if f.counts {
        start_counter(b, f);
    }
}

/// Stores or loads the slots from `first` on, in pairs.
fn each_slot(b: &mut Buffer, f: &Frame, first: usize, store: bool) {
    let mut at = 8 * i64::try_from(first).expect("at most seven");
    let (regs, saved) = (slots(f), saved_regs(f));
    for (two, saved) in regs[first..].chunks(2).zip(saved[first..].chunks(2)) {
        b.put_u32(match *two {
            [x, y] => asm::pair(if store { Pair::St } else { Pair::Ld }, x, y, SP, at),
            [x] if store => asm::mem_scaled(asm::Mem::St, Size::DW, x, SP, at),
            [x] => asm::mem_scaled(asm::Mem::Ld, Size::DW, x, SP, at),
            _ => unreachable!("chunks of two"),
        });
        if store {
            note_saved(b, saved)
        } else {
            note_restored(b, saved)
        }
        at += 16;
    }
}

fn note_saved(b: &mut Buffer, saved: &[SavedReg]) {
    for s in saved {
        b.frame(FrameChange::Save(*s));
    }
}

fn note_restored(b: &mut Buffer, saved: &[SavedReg]) {
    for s in saved {
        b.frame(FrameChange::Restore(s.reg));
    }
}

/// Keeps the pointer to the counter; a function that starts one keeps what it got, too.
fn start_counter(b: &mut Buffer, f: &Frame) {
    let (own, ptr) = (counter(f), counter_ptr(f));
    if !f.role.starts_counter() {
        b.put_u32(asm::mem_scaled(asm::Mem::St, Size::DW, COUNTER, SP, ptr));
        return;
    }
    let max = u64::from(TAIL_CALL_MAX);
    add_imm(b, Width::W64, TMP1, SP, own);
    b.put_u32(asm::op_imm(OpImm::Subs, Width::W64, asm::ZR, COUNTER, max));
    b.put_u32(asm::csel(TMP1, TMP1, COUNTER, Cond::Ls));
    b.put_u32(asm::pair(Pair::St, COUNTER, TMP1, SP, own));
}

/// Function exit. R0 stays in x8 for callers in the program, which therefore copy nothing; it goes
/// to x0 as well, where a debugger looks for what a function returned.
pub(crate) fn epilogue(b: &mut Buffer, f: &Frame) {
    leave(b, f);
    b.put_u32(asm::mov(Width::W64, X0, R0));
    b.put_u32(asm::ret());
}

/// Restores the caller's registers and drops the frame.
pub(crate) fn leave(b: &mut Buffer, f: &Frame) {
    let bytes = frame_bytes(f);
    let regs = slots(f);
    let pushed = pushed(&regs, bytes);
    each_slot(b, f, pushed, false);
    match (pushed, &regs[..]) {
        (2, &[x, y, ..]) => b.put_u32(asm::pair(Pair::LdPost, x, y, SP, bytes.into())),
        (1, &[x]) => b.put_u32(asm::ldr_post(x, SP, bytes.into())),
        _ => add_imm(b, Width::W64, SP, SP, bytes.into()),
    }
    note_restored(b, &saved_regs(f)[..pushed]);
    b.frame(FrameChange::Sp(-bytes.cast_signed()));
}

/// Bytes from the CFA to `sp` in the body; `sp` is always 16-byte aligned.
pub(crate) fn frame_bytes(f: &Frame) -> u32 {
    (slot_bytes(f) + 8 * counter_slots(f) + f.stack_bytes).next_multiple_of(16)
}

/// Saved registers by CFA offset.
pub(crate) fn saved_regs(f: &Frame) -> Vec<SavedReg> {
    let lowest = -frame_bytes(f).cast_signed();
    let reg = |g: Gpr| (g != LR).then(|| native_num(g.0));
    let at = |(i, g)| SavedReg { reg: reg(g), cfa_off: lowest + 8 * i };
    (0i32..).zip(slots(f)).map(at).collect()
}
