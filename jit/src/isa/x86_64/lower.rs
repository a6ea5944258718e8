//! ALU, memory and jumps on x86-64. Choices are by size: every form here is at most as long as
//! the one `do_jit` (arch/x86/net/bpf_jit_comp.c) would choose.

use super::asm::{self, At, Bit, Cc, Op, Shift, Unary};
use super::branch;
use super::regs::{R, R11, RAX, RCX, RDX, native};
use crate::FrameChange;
use crate::buffer::{Buffer, Label};
use crate::isa::Mem;
use bpf::insn::{AluOp, AtomicOp, EndianOp, Insn, JmpOp, Reg, Size, Src, Width};

/// Offset of this CPU's per-CPU offset from the GS base (`this_cpu_off`).
const GS_THIS_CPU_OFF: i32 = 0;

/// Writing a 32-bit register clears the upper half; a cmpxchg that succeeds writes none.
pub(crate) fn zero_extends(insn: &Insn) -> bool {
    !matches!(insn, Insn::Atomic { op: AtomicOp::Cmpxchg, size: Size::W, .. })
}

/// dst = dst OP src.
pub(crate) fn emit_alu(b: &mut Buffer, width: Width, op: AluOp, dst: Reg, src: Src) {
    let d = native(dst);
    match src {
        Src::Reg(s) => alu_reg(b, width, op, d, native(s)),
        Src::Imm(imm) => alu_imm(b, width, op, d, imm),
    }
}

/// dst = a OP src, where one instruction has three operands.
pub(crate) fn emit_alu3(b: &mut Buffer, w: Width, op: AluOp, dst: Reg, a: Reg, src: Src) -> bool {
    let (d, a) = (native(dst), native(a));
    let by = |disp: i32| asm::lea(w, d, At { base: a, disp });
    b.put(&match (op, src) {
        (AluOp::Add, Src::Reg(s)) => asm::lea_rr(w, d, a, native(s)),
        (AluOp::Lsh, Src::Reg(s)) => asm::shiftx(w, Shift::Shl, d, a, native(s)),
        (AluOp::Rsh, Src::Reg(s)) => asm::shiftx(w, Shift::Shr, d, a, native(s)),
        (AluOp::Arsh, Src::Reg(s)) => asm::shiftx(w, Shift::Sar, d, a, native(s)),
        (AluOp::Add, Src::Imm(imm)) => by(imm),
        (AluOp::Sub, Src::Imm(imm)) if imm != i32::MIN => by(-imm),
        (AluOp::Mul, Src::Imm(imm)) => asm::imul_rri(w, d, a, imm),
        (AluOp::And, Src::Imm(0xff)) => asm::movzx_rr(d, a, Size::B),
        (AluOp::And, Src::Imm(0xffff)) => asm::movzx_rr(d, a, Size::H),
        (AluOp::Lsh, Src::Imm(1)) => asm::lea_rr(w, d, a, a),
        _ => return false,
    });
    true
}

fn alu_reg(b: &mut Buffer, width: Width, op: AluOp, d: R, s: R) {
    let simple = |op| asm::alu_rr(width, op, d, s);
    match op {
        AluOp::Add => b.put(&simple(Op::Add)),
        AluOp::Sub => b.put(&simple(Op::Sub)),
        AluOp::Or => b.put(&simple(Op::Or)),
        AluOp::And => b.put(&simple(Op::And)),
        AluOp::Xor => b.put(&simple(Op::Xor)),
        AluOp::Mul => b.put(&asm::imul_rr(width, d, s)),
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod => div_reg(b, width, op, d, s),
        AluOp::Lsh => shift_reg(b, width, Shift::Shl, d, s),
        AluOp::Rsh => shift_reg(b, width, Shift::Shr, d, s),
        AluOp::Arsh => shift_reg(b, width, Shift::Sar, d, s),
        AluOp::Mov if width == Width::W64 && d == s => {}
        AluOp::Mov => b.put(&asm::mov_rr(width, d, s)),
    }
}

fn alu_imm(b: &mut Buffer, width: Width, op: AluOp, d: R, imm: i32) {
    let mask = if width == Width::W64 { 63 } else { 31 };
    let count = (imm & mask).to_le_bytes()[0];
    match op {
        AluOp::Add | AluOp::Sub | AluOp::Or | AluOp::Xor if imm == 0 => zext32(b, width, d),
        AluOp::And if imm == -1 => zext32(b, width, d),
        AluOp::Mul | AluOp::Div | AluOp::SDiv if imm == 1 => zext32(b, width, d),
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh if count == 0 => zext32(b, width, d),
        AluOp::Add => add_imm(b, width, d, imm),
        AluOp::Sub => sub_imm(b, width, d, imm),
        AluOp::Or => bit_or(b, width, Op::Or, Bit::Set, d, imm),
        AluOp::Xor => bit_or(b, width, Op::Xor, Bit::Complement, d, imm),
        AluOp::And => and_imm(b, width, d, imm),
        AluOp::Mul => b.put(&asm::imul_rri(width, d, d, imm)),
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod => div_imm(b, width, op, d, imm),
        AluOp::Lsh => b.put(&asm::shift_ri(width, Shift::Shl, d, count)),
        AluOp::Rsh => b.put(&asm::shift_ri(width, Shift::Shr, d, count)),
        AluOp::Arsh => b.put(&asm::shift_ri(width, Shift::Sar, d, count)),
        AluOp::Mov => mov_imm(b, d, operand(width, imm)),
    }
}

/// The 64-bit value an immediate of an operation stands for.
fn operand(width: Width, imm: i32) -> u64 {
    match width {
        Width::W64 => i64::from(imm).cast_unsigned(),
        Width::W32 => u64::from(imm.cast_unsigned()),
    }
}

/// An operation that changes nothing but, at 32 bits, the upper half.
fn zext32(b: &mut Buffer, width: Width, d: R) {
    if width == Width::W32 {
        b.put(&asm::mov_rr(Width::W32, d, d));
    }
}

fn add_imm(b: &mut Buffer, width: Width, d: R, imm: i32) {
    match imm {
        1 => b.put(&asm::inc_dec(width, false, d)),
        -1 => b.put(&asm::inc_dec(width, true, d)),
        // 128 is no imm8 but -128 is.
        128 => b.put(&asm::alu_ri(width, Op::Sub, d, -128)),
        _ => b.put(&asm::alu_ri(width, Op::Add, d, imm)),
    }
}

fn sub_imm(b: &mut Buffer, width: Width, d: R, imm: i32) {
    match imm {
        1 => b.put(&asm::inc_dec(width, true, d)),
        -1 => b.put(&asm::inc_dec(width, false, d)),
        128 => b.put(&asm::alu_ri(width, Op::Add, d, -128)),
        _ => b.put(&asm::alu_ri(width, Op::Sub, d, imm)),
    }
}

/// The one bit of an operand, when the byte form of the operation does not reach it.
fn lone_bit(value: u64, imm: i32) -> Option<u8> {
    let wide = i8::try_from(imm).is_err();
    (wide && value.is_power_of_two()).then(|| value.trailing_zeros().to_le_bytes()[0])
}

fn bit_or(b: &mut Buffer, width: Width, op: Op, bit: Bit, d: R, imm: i32) {
    match lone_bit(operand(width, imm), imm) {
        Some(index) => b.put(&asm::bit(width, bit, d, index)),
        None => b.put(&asm::alu_ri(width, op, d, imm)),
    }
}

fn and_imm(b: &mut Buffer, width: Width, d: R, imm: i32) {
    let clear = match width {
        Width::W64 => !operand(width, imm),
        Width::W32 => u64::from(!imm.cast_unsigned()),
    };
    match imm {
        0 => b.put(&asm::alu_rr(Width::W32, Op::Xor, d, d)),
        0xff => b.put(&asm::movzx_rr(d, d, Size::B)),
        0xffff => b.put(&asm::movzx_rr(d, d, Size::H)),
        _ => match lone_bit(clear, imm) {
            Some(index) => b.put(&asm::bit(width, Bit::Reset, d, index)),
            // A mask below 2^31 clears the upper half at either width.
            None if imm > 0 => b.put(&asm::alu_ri(Width::W32, Op::And, d, imm)),
            None => b.put(&asm::alu_ri(width, Op::And, d, imm)),
        },
    }
}

fn mov_imm(b: &mut Buffer, d: R, value: u64) {
    if value == 0 {
        b.put(&asm::alu_rr(Width::W32, Op::Xor, d, d));
    } else if value == u64::MAX {
        b.put(&asm::alu_ri(Width::W64, Op::Or, d, -1));
    } else if value == u64::from(u32::MAX) {
        b.put(&asm::alu_ri(Width::W32, Op::Or, d, -1));
    } else if let Ok(v) = u32::try_from(value) {
        b.put(&asm::mov_ri32(d, v));
    } else if let Ok(v) = i32::try_from(value.cast_signed()) {
        b.put(&asm::mov_ri32s(d, v));
    } else {
        b.put(&asm::mov_ri64(d, value));
    }
}

fn shift_reg(b: &mut Buffer, width: Width, op: Shift, d: R, s: R) {
    if s == RCX {
        b.put(&asm::shift_cl(width, op, d));
    } else {
        b.put(&asm::shiftx(width, op, d, d, s));
    }
}

/// Division by a constant. The verifier refuses 0; powers of two need no division; -1 would trap on
/// the smallest dividend.
fn div_imm(b: &mut Buffer, width: Width, op: AluOp, d: R, imm: i32) {
    let value = operand(width, imm);
    let power = value.is_power_of_two();
    let log2 = value.trailing_zeros().to_le_bytes()[0];
    match op {
        AluOp::Div if power => b.put(&asm::shift_ri(width, Shift::Shr, d, log2)),
        AluOp::Mod if power && imm == i32::MIN => {
            // A mask of 31 bits, at 32 bits only: at 64 bits the divisor is no power of two.
            b.put(&asm::alu_ri(Width::W32, Op::And, d, i32::MAX));
        }
        AluOp::Mod if power => and_imm(b, width, d, imm - 1),
        AluOp::SDiv if imm == -1 => b.put(&asm::unary(width, Unary::Neg, d)),
        AluOp::SMod if imm == 1 || imm == -1 => {
            b.put(&asm::alu_rr(Width::W32, Op::Xor, d, d));
        }
        _ => {
            mov_imm(b, R11, value);
            div_reg(b, width, op, d, R11);
        }
    }
}

/// rdx:rax is divided; rax and rdx are R0 and R3 and keep their values unless they are dst.
fn div_reg(b: &mut Buffer, width: Width, op: AluOp, d: R, s: R) {
    let signed = matches!(op, AluOp::SDiv | AluOp::SMod);
    let result = if matches!(op, AluOp::Div | AluOp::SDiv) { RAX } else { RDX };
    let divisor = if s == RAX && d != RAX || s == RDX {
        b.put(&asm::mov_rr(width, R11, s));
        R11
    } else {
        s
    };
    for r in [RAX, RDX] {
        if d != r {
            b.put(&asm::push(r));
            b.frame(FrameChange::Sp(8));
        }
    }
    if d != RAX {
        b.put(&asm::mov_rr(width, RAX, d));
    }
    if signed {
        b.put(&asm::sign_into_rdx(width));
        b.put(&asm::unary(width, Unary::Idiv, divisor));
    } else {
        b.put(&asm::alu_rr(Width::W32, Op::Xor, RDX, RDX));
        b.put(&asm::unary(width, Unary::Div, divisor));
    }
    if d != result {
        b.put(&asm::mov_rr(width, d, result));
    }
    for r in [RDX, RAX] {
        if d != r {
            b.put(&asm::pop(r));
            b.frame(FrameChange::Sp(-8));
        }
    }
}

/// dst = -dst.
pub(crate) fn emit_neg(b: &mut Buffer, width: Width, dst: Reg) {
    b.put(&asm::unary(width, Unary::Neg, native(dst)));
}

/// dst = sign-extend(low bits of src).
pub(crate) fn emit_movsx(b: &mut Buffer, width: Width, dst: Reg, src: Reg, bits: u8) {
    let size = match bits {
        8 => Size::B,
        16 => Size::H,
        _ => Size::W,
    };
    b.put(&asm::movsx_rr(width, native(dst), native(src), size));
}

/// Byte order: little-endian memory, so `ToLe` only truncates.
pub(crate) fn emit_end(b: &mut Buffer, op: EndianOp, dst: Reg, bits: u8) {
    let d = native(dst);
    match (op, bits) {
        (EndianOp::ToLe, 16) => b.put(&asm::movzx_rr(d, d, Size::H)),
        (EndianOp::ToLe, 32) => b.put(&asm::mov_rr(Width::W32, d, d)),
        (EndianOp::ToLe, _) => {}
        (EndianOp::ToBe | EndianOp::Swap, 16) => {
            b.put(&asm::bswap(Width::W32, d));
            b.put(&asm::shift_ri(Width::W32, Shift::Shr, d, 16));
        }
        (EndianOp::ToBe | EndianOp::Swap, 32) => b.put(&asm::bswap(Width::W32, d)),
        (EndianOp::ToBe | EndianOp::Swap, _) => b.put(&asm::bswap(Width::W64, d)),
    }
}

/// dst = value.
pub(crate) fn emit_imm64(b: &mut Buffer, dst: Reg, value: u64) {
    mov_imm(b, native(dst), value);
}

/// dst = address of a function.
pub(crate) fn emit_func_addr(b: &mut Buffer, dst: Reg, func: Label) {
    b.refer(func, &branch::FUNC_ADDR);
    b.put(&asm::lea_rip(native(dst)));
}

/// Clears the upper half.
pub(crate) fn emit_zext(b: &mut Buffer, dst: Reg) {
    let d = native(dst);
    b.put(&asm::mov_rr(Width::W32, d, d));
}

/// dst = src + per-CPU offset.
pub(crate) fn emit_percpu(b: &mut Buffer, dst: Reg, src: Reg) {
    let (d, s) = (native(dst), native(src));
    if d != s {
        b.put(&asm::mov_rr(Width::W64, d, s));
    }
    b.put(&asm::add_gs(d, GS_THIS_CPU_OFF));
}

/// Native operand of a memory access.
pub(crate) fn at(mem: Mem) -> At {
    At { base: native(mem.base), disp: i32::from(mem.off) }
}

/// dst = *mem.
pub(crate) fn emit_load(b: &mut Buffer, mem: Mem, sext: bool, dst: Reg) {
    b.mark_fault();
    let d = native(dst);
    b.put(&if sext { asm::load_sx(d, mem.size, at(mem)) } else { asm::load(d, mem.size, at(mem)) });
}

/// *mem = src.
pub(crate) fn emit_store(b: &mut Buffer, mem: Mem, src: Src) {
    b.mark_fault();
    b.put(&match src {
        Src::Reg(r) => asm::store(mem.size, at(mem), native(r)),
        Src::Imm(imm) => asm::store_imm(mem.size, at(mem), imm),
    });
}

/// if dst OP src goto label.
pub(crate) fn emit_jump_if(b: &mut Buffer, width: Width, op: JmpOp, dst: Reg, src: Src, to: Label) {
    let d = native(dst);
    let mut cc = condition(op);
    match (op, src) {
        (JmpOp::Set, Src::Reg(s)) => b.put(&asm::test_rr(width, d, native(s))),
        (JmpOp::Set, Src::Imm(imm)) => cc = test_imm(b, width, d, imm),
        (_, Src::Reg(s)) => b.put(&asm::alu_rr(width, Op::Cmp, d, native(s))),
        (_, Src::Imm(0)) => b.put(&asm::test_rr(width, d, d)),
        (_, Src::Imm(imm)) => b.put(&asm::alu_ri(width, Op::Cmp, d, imm)),
    }
    jcc(b, cc, to);
}

/// Sets flags for `d & imm`; the answer is the condition for "not zero".
fn test_imm(b: &mut Buffer, width: Width, d: R, imm: i32) -> Cc {
    let value = operand(width, imm);
    let narrow = if imm >= 0 { Width::W32 } else { width };
    if let Ok(byte) = u8::try_from(value) {
        b.put(&asm::test_ri8(d, byte));
    } else if value.is_power_of_two() {
        b.put(&asm::bit(narrow, Bit::Test, d, value.trailing_zeros().to_le_bytes()[0]));
        return Cc::B;
    } else {
        b.put(&asm::test_ri(narrow, d, imm));
    }
    Cc::Ne
}

fn condition(op: JmpOp) -> Cc {
    match op {
        JmpOp::Eq => Cc::E,
        JmpOp::Ne | JmpOp::Set => Cc::Ne,
        JmpOp::Gt => Cc::A,
        JmpOp::Ge => Cc::Ae,
        JmpOp::Lt => Cc::B,
        JmpOp::Le => Cc::Be,
        JmpOp::Sgt => Cc::G,
        JmpOp::Sge => Cc::Ge,
        JmpOp::Slt => Cc::L,
        JmpOp::Sle => Cc::Le,
    }
}

/// A conditional branch.
pub(crate) fn jcc(b: &mut Buffer, cc: Cc, to: Label) {
    b.refer(to, &branch::JCC);
    b.put(&asm::jcc8(cc));
}

/// goto label.
pub(crate) fn emit_jump(b: &mut Buffer, to: Label) {
    b.refer(to, &branch::JUMP);
    b.put(&asm::JMP8);
}

/// No effect.
pub(crate) fn emit_nop(b: &mut Buffer) {
    b.put(&asm::NOP);
}
