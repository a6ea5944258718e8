//! x86-64: BMI2 is assumed (Haswell), APX is not used. Returns R0 in rax.

pub(crate) mod asm;
mod atomic;
mod branch;
mod call;
mod frame;
mod lower;
mod regs;

use super::{Facts, Isa, Mem};
use crate::buffer::{Buffer, Label};
use crate::frame::Frame;
use crate::{RelocKind, SavedReg};
use bpf::Arch;
use bpf::insn::{AluOp, AtomicOp, EndianOp, Insn, JmpOp, Reg, Src, Width};
use verifier::env::Layout;

/// x86-64.
#[derive(Debug)]
pub(crate) struct X86_64;

impl Isa for X86_64 {
    const FACTS: Facts = Facts {
        arch: Arch::X86_64,
        regs: regs::REGS,
        ret: regs::native_num(0),
        tail_call_offset: frame::TAIL_CALL_OFFSET,
        jump_bytes: 2,
    };

    fn zero_extends(insn: &Insn) -> bool {
        lower::zero_extends(insn)
    }

    fn emit_alu(b: &mut Buffer, width: Width, op: AluOp, dst: Reg, src: Src) {
        lower::emit_alu(b, width, op, dst, src);
    }

    fn emit_alu3(b: &mut Buffer, width: Width, op: AluOp, dst: Reg, a: Reg, src: Src) -> bool {
        lower::emit_alu3(b, width, op, dst, a, src)
    }

    fn emit_neg(b: &mut Buffer, width: Width, dst: Reg) {
        lower::emit_neg(b, width, dst);
    }

    fn emit_movsx(b: &mut Buffer, width: Width, dst: Reg, src: Reg, bits: u8) {
        lower::emit_movsx(b, width, dst, src, bits);
    }

    fn emit_end(b: &mut Buffer, op: EndianOp, dst: Reg, bits: u8) {
        lower::emit_end(b, op, dst, bits);
    }

    fn emit_imm64(b: &mut Buffer, dst: Reg, value: u64) {
        lower::emit_imm64(b, dst, value);
    }

    fn emit_func_addr(b: &mut Buffer, dst: Reg, func: Label) {
        lower::emit_func_addr(b, dst, func);
    }

    fn emit_zext(b: &mut Buffer, dst: Reg) {
        lower::emit_zext(b, dst);
    }

    fn emit_percpu(b: &mut Buffer, dst: Reg, src: Reg) {
        lower::emit_percpu(b, dst, src);
    }

    fn emit_load(b: &mut Buffer, mem: Mem, sext: bool, dst: Reg) {
        lower::emit_load(b, mem, sext, dst);
    }

    fn emit_store(b: &mut Buffer, mem: Mem, src: Src) {
        lower::emit_store(b, mem, src);
    }

    fn emit_jump_if(b: &mut Buffer, width: Width, op: JmpOp, dst: Reg, src: Src, to: Label) {
        lower::emit_jump_if(b, width, op, dst, src, to);
    }

    fn emit_jump(b: &mut Buffer, to: Label) {
        lower::emit_jump(b, to);
    }

    fn emit_nop(b: &mut Buffer) {
        lower::emit_nop(b);
    }

    fn prologue(b: &mut Buffer, frame: &Frame) {
        frame::prologue(b, frame);
    }

    fn epilogue(b: &mut Buffer, frame: &Frame) {
        frame::epilogue(b, frame);
    }

    fn frame_bytes(frame: &Frame) -> u32 {
        frame::frame_bytes(frame)
    }

    fn saved_regs(frame: &Frame) -> Vec<SavedReg> {
        frame::saved_regs(frame)
    }

    fn emit_call(b: &mut Buffer, kind: RelocKind) {
        call::emit_call(b, kind);
    }

    fn emit_call_keeping(b: &mut Buffer, kind: RelocKind) {
        call::emit_call_keeping(b, kind);
    }

    fn emit_call_local(b: &mut Buffer, frame: &Frame, func: Label, counts: bool) {
        call::emit_call_local(b, frame, func, counts);
    }

    fn emit_tail_call(b: &mut Buffer, frame: &Frame, layout: &Layout, known: Option<u32>) {
        call::emit_tail_call(b, frame, layout, known);
    }

    fn patch_call(code: &mut [u8], disp: i64) -> bool {
        call::patch_call(code, disp)
    }

    fn veneer(target: u64) -> Option<Vec<u8>> {
        call::veneer(target)
    }

    fn emit_atomic(b: &mut Buffer, mem: Mem, op: AtomicOp, src: Reg) {
        atomic::emit_atomic(b, mem, op, src);
    }

    fn emit_load_acquire(b: &mut Buffer, mem: Mem, dst: Reg) {
        atomic::emit_load_acquire(b, mem, dst);
    }

    fn emit_store_release(b: &mut Buffer, mem: Mem, src: Reg) {
        atomic::emit_store_release(b, mem, src);
    }
}
