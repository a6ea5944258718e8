//! ALU, memory and jumps on riscv64. Every choice is at most as long as the one
//! `bpf_jit_emit_insn` (arch/riscv/net/bpf_jit_comp64.c) would make without Zba, Zbb and Zbs.
//!
//! 32-bit results are sign-extended or have an undefined upper half; the driver asks for zero-
//! extension where someone looks at it.

use super::asm::short::{self, Word};
use super::asm::{self, Cond, Gpr, Op, OpI, Shift, TP, ZERO, by_width, fits};
use super::branch;
use super::regs::{TMP1, TMP2, native};
use crate::buffer::{Buffer, Label};
use crate::isa::Mem;
use bpf::insn::{AluOp, EndianOp, Insn, JmpOp, Reg, Size, Src, Width};

/// Appends an instruction of either size.
pub(crate) fn put(b: &mut Buffer, word: Word) {
    match word {
        Word::Half(half) => b.put_u16(half),
        Word::Full(full) => b.put_u32(full),
    }
}

/// Loads zero-extend by their form; of the 32-bit results, those below 2^31.
pub(crate) fn zero_extends(insn: &Insn) -> bool {
    match *insn {
        Insn::Alu { width: Width::W32, op, src: Src::Imm(imm), .. } => match op {
            AluOp::Mov | AluOp::And => imm >= 0,
            AluOp::Rsh => imm & 31 != 0,
            AluOp::Mod => imm > 0,
            AluOp::Div => imm > 1,
            _ => false,
        },
        Insn::Load { sext, .. } => !sext,
        Insn::LoadAcquire { .. } | Insn::End { .. } => true,
        _ => false,
    }
}

/// dst = dst OP src.
pub(crate) fn emit_alu(b: &mut Buffer, width: Width, op: AluOp, dst: Reg, src: Src) {
    alu(b, width, op, native(dst), native(dst), src);
}

/// dst = a OP src: every form has three operands.
pub(crate) fn emit_alu3(b: &mut Buffer, w: Width, op: AluOp, dst: Reg, a: Reg, src: Src) -> bool {
    alu(b, w, op, native(dst), native(a), src);
    true
}

/// d = n OP src
fn alu(b: &mut Buffer, width: Width, op: AluOp, d: Gpr, n: Gpr, src: Src) {
    match src {
        Src::Reg(s) => alu_reg(b, width, op, d, n, native(s)),
        Src::Imm(imm) => alu_imm(b, width, op, d, n, imm),
    }
}

/// The instruction for two registers.
fn op_of(width: Width, op: AluOp) -> Op {
    let (w32, w64) = match op {
        AluOp::Add => (Op::Addw, Op::Add),
        AluOp::Sub => (Op::Subw, Op::Sub),
        AluOp::Mul => (Op::Mulw, Op::Mul),
        AluOp::Div => (Op::Divuw, Op::Divu),
        AluOp::SDiv => (Op::Divw, Op::Div),
        AluOp::Mod => (Op::Remuw, Op::Remu),
        AluOp::SMod => (Op::Remw, Op::Rem),
        AluOp::Or => (Op::Or, Op::Or),
        AluOp::And => (Op::And, Op::And),
        AluOp::Xor => (Op::Xor, Op::Xor),
        AluOp::Lsh => (Op::Sllw, Op::Sll),
        AluOp::Rsh => (Op::Srlw, Op::Srl),
        AluOp::Arsh => (Op::Sraw, Op::Sra),
        AluOp::Mov => unreachable!("moves have no second operand"),
    };
    by_width(width, w32, w64)
}

fn alu_reg(b: &mut Buffer, width: Width, op: AluOp, d: Gpr, n: Gpr, s: Gpr) {
    match op {
        AluOp::Mov => same(b, d, s),
        _ => put(b, short::op(op_of(width, op), d, n, s)),
    }
}

/// d = n
fn same(b: &mut Buffer, d: Gpr, n: Gpr) {
    if d != n {
        put(b, short::mv(d, n));
    }
}

fn alu_imm(b: &mut Buffer, width: Width, op: AluOp, d: Gpr, n: Gpr, imm: i32) {
    let value = i64::from(imm);
    let count = imm.cast_unsigned() & by_width(width, 31, 63);
    let unsigned = by_width(width, u64::from(imm.cast_unsigned()), value.cast_unsigned());
    match op {
        AluOp::Add | AluOp::Sub | AluOp::Or | AluOp::Xor if imm == 0 => same(b, d, n),
        AluOp::And if imm == -1 => same(b, d, n),
        AluOp::Mul | AluOp::Div | AluOp::SDiv if imm == 1 => same(b, d, n),
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh if count == 0 => same(b, d, n),
        AluOp::Add => add_imm(b, width, d, n, value),
        AluOp::Sub => add_imm(b, width, d, n, -value),
        AluOp::And if imm == 0 => mov_imm(b, d, 0),
        AluOp::And => and_imm(b, d, n, value),
        AluOp::Or if fits(value, 12) => put(b, short::op_i(OpI::Ori, d, n, value)),
        AluOp::Xor if fits(value, 12) => put(b, short::op_i(OpI::Xori, d, n, value)),
        AluOp::Mul | AluOp::Div | AluOp::Mod if unsigned.is_power_of_two() => {
            power_of_two(b, width, op, d, n, unsigned);
        }
        AluOp::Lsh => put(b, shift(width, Shift::Slliw, Shift::Slli, d, n, count)),
        AluOp::Rsh => put(b, shift(width, Shift::Srliw, Shift::Srli, d, n, count)),
        AluOp::Arsh => put(b, shift(width, Shift::Sraiw, Shift::Srai, d, n, count)),
        AluOp::Mov => mov_imm(b, d, value),
        AluOp::Or | AluOp::Xor | AluOp::Mul => with_imm(b, width, op, d, n, value),
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod => with_imm(b, width, op, d, n, value),
    }
}

fn shift(width: Width, w32: Shift, w64: Shift, d: Gpr, n: Gpr, count: u32) -> Word {
    short::shift(by_width(width, w32, w64), d, n, count)
}

fn with_imm(b: &mut Buffer, width: Width, op: AluOp, d: Gpr, n: Gpr, value: i64) {
    mov_imm(b, TMP1, value);
    alu_reg(b, width, op, d, n, TMP1);
}

fn add_imm(b: &mut Buffer, width: Width, d: Gpr, n: Gpr, value: i64) {
    let op = by_width(width, OpI::Addiw, OpI::Addi);
    if fits(value, 12) {
        put(b, short::op_i(op, d, n, value));
    } else if fits(value / 2, 12) && fits(value - value / 2, 12) {
        put(b, short::op_i(op, d, n, value / 2));
        put(b, short::op_i(op, d, d, value - value / 2));
    } else {
        with_imm(b, width, AluOp::Add, d, n, value);
    }
}

/// Masks of more than 11 low ones are two shifts.
fn and_imm(b: &mut Buffer, d: Gpr, n: Gpr, value: i64) {
    let ones = value.trailing_ones();
    if fits(value, 12) {
        put(b, short::op_i(OpI::Andi, d, n, value));
    } else if value > 0 && value >> ones == 0 {
        low_bits(b, d, n, ones);
    } else {
        with_imm(b, Width::W64, AluOp::And, d, n, value);
    }
}

/// d = the low `bits` of s.
fn low_bits(b: &mut Buffer, d: Gpr, s: Gpr, bits: u32) {
    put(b, short::shift(Shift::Slli, d, s, 64 - bits));
    put(b, short::shift(Shift::Srli, d, d, 64 - bits));
}

/// Multiplication, division and remainder by 2, 4, ..
fn power_of_two(b: &mut Buffer, width: Width, op: AluOp, d: Gpr, n: Gpr, value: u64) {
    let log2 = value.trailing_zeros();
    match op {
        AluOp::Mul => put(b, shift(width, Shift::Slliw, Shift::Slli, d, n, log2)),
        AluOp::Div => put(b, shift(width, Shift::Srliw, Shift::Srli, d, n, log2)),
        _ if value == 1 => mov_imm(b, d, 0),
        _ if log2 < 12 => put(b, short::op_i(OpI::Andi, d, n, value.cast_signed() - 1)),
        _ => low_bits(b, d, n, log2),
    }
}

/// d = value: `lui` and `addiw` for 32 bits; longer constants from their upper part, shifted, or
/// from a shorter one that is shifted right.
pub(crate) fn mov_imm(b: &mut Buffer, d: Gpr, value: i64) {
    let zeros = value.leading_zeros();
    if zeros > 0 && value != 0 {
        // The bits that are shifted out again may be ones or zeros.
        for left in [!(!value << zeros), value << zeros] {
            if imm_len(left) + 1 < imm_len(value) {
                signed_imm(b, d, left);
                put(b, short::shift(Shift::Srli, d, d, zeros));
                return;
            }
        }
    }
    signed_imm(b, d, value);
}

/// Splits off the low 12 bits; the rest without its trailing zeros, and how many they were.
fn split(value: i64) -> (i64, u32, i64) {
    let low = (value << 52) >> 52;
    let high = value.wrapping_sub(low) >> 12;
    let zeros = high.trailing_zeros();
    (high >> zeros, zeros + 12, low)
}

fn imm_len(value: i64) -> u32 {
    if i32::try_from(value).is_ok() {
        let low = (value << 52) >> 52;
        return if value == low || low == 0 { 1 } else { 2 };
    }
    let (high, _, low) = split(value);
    imm_len(high) + if low == 0 { 1 } else { 2 }
}

fn signed_imm(b: &mut Buffer, d: Gpr, value: i64) {
    if let Ok(value) = i32::try_from(value) {
        let low = (i64::from(value) << 52) >> 52;
        if i64::from(value) == low {
            put(b, short::op_i(OpI::Addi, d, ZERO, low));
            return;
        }
        // The upper part wraps: `addiw` brings the result back into 32 bits.
        let upper = (((i64::from(value) - low) >> 12) << 44) >> 44;
        put(b, short::lui(d, upper));
        if low != 0 {
            put(b, short::op_i(OpI::Addiw, d, d, low));
        }
        return;
    }
    let (high, shift, low) = split(value);
    signed_imm(b, d, high);
    put(b, short::shift(Shift::Slli, d, d, shift));
    if low != 0 {
        put(b, short::op_i(OpI::Addi, d, d, low));
    }
}

/// dst = -dst.
pub(crate) fn emit_neg(b: &mut Buffer, width: Width, dst: Reg) {
    let d = native(dst);
    put(b, short::op(by_width(width, Op::Subw, Op::Sub), d, ZERO, d));
}

/// dst = sign-extend(low bits of src).
pub(crate) fn emit_movsx(b: &mut Buffer, _: Width, dst: Reg, src: Reg, bits: u8) {
    let (d, s) = (native(dst), native(src));
    if bits == 32 {
        put(b, short::op_i(OpI::Addiw, d, s, 0));
        return;
    }
    put(b, short::shift(Shift::Slli, d, s, 64 - u32::from(bits)));
    put(b, short::shift(Shift::Srai, d, d, 64 - u32::from(bits)));
}

/// Byte order: little-endian memory, so `ToLe` only truncates.
pub(crate) fn emit_end(b: &mut Buffer, op: EndianOp, dst: Reg, bits: u8) {
    let d = native(dst);
    match (op, bits) {
        (EndianOp::ToLe, 64) => {}
        (EndianOp::ToLe, _) => low_bits(b, d, d, bits.into()),
        (EndianOp::ToBe | EndianOp::Swap, 16) => swap16(b, d),
        (EndianOp::ToBe | EndianOp::Swap, 32) => swap32(b, d),
        (EndianOp::ToBe | EndianOp::Swap, _) => swap64(b, d),
    }
}

/// d = (low byte << 8) | second byte
fn swap16(b: &mut Buffer, d: Gpr) {
    put(b, short::shift(Shift::Slli, TMP1, d, 56));
    put(b, short::shift(Shift::Srli, TMP1, TMP1, 48));
    put(b, short::shift(Shift::Slli, d, d, 48));
    put(b, short::shift(Shift::Srli, d, d, 56));
    put(b, short::op(Op::Or, d, d, TMP1));
}

/// Each byte is brought to its place.
fn swap32(b: &mut Buffer, d: Gpr) {
    put(b, short::shift(Shift::Srliw, TMP1, d, 24));
    put(b, short::shift(Shift::Slli, TMP2, d, 56));
    put(b, short::shift(Shift::Srli, TMP2, TMP2, 32));
    put(b, short::op(Op::Or, TMP1, TMP1, TMP2));
    for (down, up) in [(8, 16), (16, 8)] {
        put(b, short::shift(Shift::Srli, TMP2, d, down));
        put(b, short::op_i(OpI::Andi, TMP2, TMP2, 0xff));
        put(b, short::shift(Shift::Slli, TMP2, TMP2, up));
        put(b, short::op(Op::Or, TMP1, TMP1, TMP2));
    }
    put(b, short::mv(d, TMP1));
}

/// Swaps neighbouring bytes, then neighbouring half-words, then the words.
fn swap64(b: &mut Buffer, d: Gpr) {
    for (mask, bits) in [(0x00ff_00ff, 8), (0x0000_ffff, 16)] {
        mov_imm(b, TMP1, mask);
        put(b, short::shift(Shift::Slli, TMP2, TMP1, 32));
        put(b, short::op(Op::Or, TMP1, TMP1, TMP2));
        put(b, short::shift(Shift::Srli, TMP2, d, bits));
        put(b, short::op(Op::And, TMP2, TMP2, TMP1));
        put(b, short::op(Op::And, d, d, TMP1));
        put(b, short::shift(Shift::Slli, d, d, bits));
        put(b, short::op(Op::Or, d, d, TMP2));
    }
    put(b, short::shift(Shift::Srli, TMP2, d, 32));
    put(b, short::shift(Shift::Slli, d, d, 32));
    put(b, short::op(Op::Or, d, d, TMP2));
}

/// dst = value.
pub(crate) fn emit_imm64(b: &mut Buffer, dst: Reg, value: u64) {
    mov_imm(b, native(dst), value.cast_signed());
}

/// dst = address of a function.
pub(crate) fn emit_func_addr(b: &mut Buffer, dst: Reg, func: Label) {
    let d = native(dst);
    b.refer(func, &branch::FUNC_ADDR);
    b.put_u32(asm::auipc(d, 0));
    b.put_u32(asm::op_i(OpI::Addi, d, d, 0));
}

/// Clears the upper half.
pub(crate) fn emit_zext(b: &mut Buffer, dst: Reg) {
    low_bits(b, native(dst), native(dst), 32);
}

/// dst = src + per-CPU offset.
pub(crate) fn emit_percpu(b: &mut Buffer, dst: Reg, src: Reg) {
    put(b, short::op(Op::Add, native(dst), native(src), TP));
}

/// Base and displacement of an access, within the 12 bits of its forms. Uses `TMP2`.
pub(crate) fn reach(b: &mut Buffer, base: Gpr, off: i64) -> (Gpr, i64) {
    if fits(off, 12) {
        return (base, off);
    }
    let (high, low) = asm::hi_lo(off).expect("offsets have 16 bits");
    put(b, short::lui(TMP2, high));
    put(b, short::op(Op::Add, TMP2, TMP2, base));
    (TMP2, low)
}

/// dst = *mem.
pub(crate) fn emit_load(b: &mut Buffer, mem: Mem, sext: bool, dst: Reg) {
    let (base, off) = reach(b, native(mem.base), mem.off.into());
    b.mark_fault();
    put(b, short::load(mem.size, sext, native(dst), base, off));
}

/// *mem = src.
pub(crate) fn emit_store(b: &mut Buffer, mem: Mem, src: Src) {
    let value = match src {
        Src::Reg(r) => native(r),
        Src::Imm(0) => ZERO,
        Src::Imm(imm) => {
            mov_imm(b, TMP1, stored(mem.size, imm));
            TMP1
        }
    };
    let (base, off) = reach(b, native(mem.base), mem.off.into());
    b.mark_fault();
    put(b, short::store(mem.size, value, base, off));
}

/// The value whose low bytes are stored, in the form that is shortest to make.
fn stored(size: Size, imm: i32) -> i64 {
    let unused = 32 - 8 * size.bytes().min(4);
    i64::from((imm << unused) >> unused)
}

/// if dst OP src goto label.
pub(crate) fn emit_jump_if(b: &mut Buffer, width: Width, op: JmpOp, dst: Reg, src: Src, to: Label) {
    let d = native(dst);
    let (cond, left, right) = match (op, src) {
        (JmpOp::Set, Src::Reg(s)) => {
            put(b, short::op(Op::And, TMP1, d, native(s)));
            (Cond::Ne, sext_word(b, width, TMP1, TMP1), ZERO)
        }
        (JmpOp::Set, Src::Imm(imm)) => test_bits(b, width, d, imm),
        (_, Src::Reg(s)) => {
            let left = sext_word(b, width, d, TMP1);
            condition(op, left, sext_word(b, width, native(s), TMP2))
        }
        (_, Src::Imm(imm)) => compare_imm(b, width, op, d, imm),
    };
    branch(b, cond, left, right, to);
}

/// A 32-bit operand is compared sign-extended, which keeps the unsigned order as well.
fn sext_word(b: &mut Buffer, width: Width, s: Gpr, tmp: Gpr) -> Gpr {
    match width {
        Width::W64 => s,
        Width::W32 => {
            put(b, short::op_i(OpI::Addiw, tmp, s, 0));
            tmp
        }
    }
}

/// `d & imm`: one bit becomes the sign.
fn test_bits(b: &mut Buffer, width: Width, d: Gpr, imm: i32) -> (Cond, Gpr, Gpr) {
    let value = i64::from(imm);
    let bits = by_width(width, u64::from(imm.cast_unsigned()), value.cast_unsigned());
    if fits(value, 12) && (imm >= 0 || width == Width::W64) {
        put(b, short::op_i(OpI::Andi, TMP1, d, value));
        return (Cond::Ne, TMP1, ZERO);
    }
    if bits.is_power_of_two() {
        put(b, short::shift(Shift::Slli, TMP1, d, bits.leading_zeros()));
        return (Cond::Lt, TMP1, ZERO);
    }
    mov_imm(b, TMP1, value);
    put(b, short::op(Op::And, TMP1, TMP1, d));
    let narrow = if imm >= 0 { Width::W64 } else { width };
    (Cond::Ne, sext_word(b, narrow, TMP1, TMP1), ZERO)
}

fn compare_imm(b: &mut Buffer, width: Width, op: JmpOp, d: Gpr, imm: i32) -> (Cond, Gpr, Gpr) {
    let left = sext_word(b, width, d, TMP1);
    // Against zero most conditions have a form that needs no constant.
    match (op, imm) {
        (JmpOp::Le, 0) | (JmpOp::Lt, 1) => return (Cond::Eq, left, ZERO),
        (JmpOp::Gt, 0) | (JmpOp::Ge, 1) => return (Cond::Ne, left, ZERO),
        (JmpOp::Sle, -1) => return (Cond::Lt, left, ZERO),
        (JmpOp::Sgt, -1) => return (Cond::Ge, left, ZERO),
        (JmpOp::Sge, 1) => return (Cond::Lt, ZERO, left),
        (JmpOp::Slt, 1) => return (Cond::Ge, ZERO, left),
        (_, 0) => return condition(op, left, ZERO),
        _ => {}
    }
    mov_imm(b, TMP2, i64::from(imm));
    condition(op, left, TMP2)
}

/// `a > b` is `b < a`.
fn condition(op: JmpOp, left: Gpr, right: Gpr) -> (Cond, Gpr, Gpr) {
    match op {
        JmpOp::Eq => (Cond::Eq, left, right),
        JmpOp::Ne | JmpOp::Set => (Cond::Ne, left, right),
        JmpOp::Gt => (Cond::Ltu, right, left),
        JmpOp::Ge => (Cond::Geu, left, right),
        JmpOp::Lt => (Cond::Ltu, left, right),
        JmpOp::Le => (Cond::Geu, right, left),
        JmpOp::Sgt => (Cond::Lt, right, left),
        JmpOp::Sge => (Cond::Ge, left, right),
        JmpOp::Slt => (Cond::Lt, left, right),
        JmpOp::Sle => (Cond::Ge, right, left),
    }
}

/// A conditional branch.
pub(crate) fn branch(b: &mut Buffer, cond: Cond, left: Gpr, right: Gpr, to: Label) {
    let half = if right == ZERO { asm::c_branch(cond, left, 0) } else { None };
    match half {
        Some(half) => {
            b.refer(to, &branch::C_BRANCH);
            b.put_u16(half);
        }
        None => {
            b.refer(to, &branch::BRANCH);
            b.put_u32(asm::branch(cond, left, right, 0));
        }
    }
}

/// goto label.
pub(crate) fn emit_jump(b: &mut Buffer, to: Label) {
    b.refer(to, &branch::JUMP);
    b.put_u16(asm::c_j(0).expect("in reach"));
}

/// No effect.
pub(crate) fn emit_nop(b: &mut Buffer) {
    b.put_u16(asm::C_NOP);
}
