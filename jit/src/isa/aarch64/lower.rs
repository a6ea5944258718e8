//! ALU, memory and jumps on arm64. Every choice is at most as long as the one `build_insn`
//! (arch/arm64/net/bpf_jit_comp.c) would make.

use super::asm::{self, Cond, Gpr, Op3, OpImm, OpMask, SP, Wide, ZR};
use super::branch;
use super::regs::{FP, TMP1, TMP2, native};
use crate::buffer::{Buffer, Label};
use crate::isa::Mem;
use bpf::insn::{AluOp, EndianOp, Insn, JmpOp, Reg, Size, Src, Width};

/// Writing a `w` register clears the upper half, and every leaf here writes one.
pub(crate) fn zero_extends(_: &Insn) -> bool {
    true
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

fn alu_reg(b: &mut Buffer, width: Width, op: AluOp, d: Gpr, n: Gpr, s: Gpr) {
    let simple = |op| asm::op3(op, width, d, n, s);
    match op {
        AluOp::Add => b.put_u32(simple(Op3::Add)),
        AluOp::Sub => b.put_u32(simple(Op3::Sub)),
        AluOp::Or => b.put_u32(simple(Op3::Orr)),
        AluOp::And => b.put_u32(simple(Op3::And)),
        AluOp::Xor => b.put_u32(simple(Op3::Eor)),
        AluOp::Mul => b.put_u32(asm::madd(width, d, n, s, ZR)),
        AluOp::Div => b.put_u32(simple(Op3::Udiv)),
        AluOp::SDiv => b.put_u32(simple(Op3::Sdiv)),
        AluOp::Mod => remainder(b, width, Op3::Udiv, d, n, s),
        AluOp::SMod => remainder(b, width, Op3::Sdiv, d, n, s),
        AluOp::Lsh => b.put_u32(simple(Op3::Lslv)),
        AluOp::Rsh => b.put_u32(simple(Op3::Lsrv)),
        AluOp::Arsh => b.put_u32(simple(Op3::Asrv)),
        AluOp::Mov => same(b, width, d, s),
    }
}

/// n - (n / s) * s
fn remainder(b: &mut Buffer, width: Width, div: Op3, d: Gpr, n: Gpr, s: Gpr) {
    b.put_u32(asm::op3(div, width, TMP2, n, s));
    b.put_u32(asm::msub(width, d, TMP2, s, n));
}

fn alu_imm(b: &mut Buffer, width: Width, op: AluOp, d: Gpr, n: Gpr, imm: i32) {
    let value = operand(width, imm);
    let count = imm.cast_unsigned() & if width == Width::W64 { 63 } else { 31 };
    match op {
        AluOp::Add => add_imm(b, width, d, n, imm.into()),
        AluOp::Sub => add_imm(b, width, d, n, -i64::from(imm)),
        AluOp::Or | AluOp::Xor if imm == 0 => same(b, width, d, n),
        AluOp::And if imm == -1 => same(b, width, d, n),
        AluOp::Mul | AluOp::Div | AluOp::SDiv if imm == 1 => same(b, width, d, n),
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh if count == 0 => same(b, width, d, n),
        AluOp::And if imm == 0 => mov_imm(b, d, 0),
        AluOp::Or if imm == -1 => mov_imm(b, d, value),
        AluOp::Xor if imm == -1 => b.put_u32(asm::op3(Op3::Orn, width, d, ZR, n)),
        AluOp::Or => logic_imm(b, width, OpMask::Orr, d, n, imm),
        AluOp::And => logic_imm(b, width, OpMask::And, d, n, imm),
        AluOp::Xor => logic_imm(b, width, OpMask::Eor, d, n, imm),
        AluOp::Mul | AluOp::Div | AluOp::Mod if value.is_power_of_two() => {
            power_of_two(b, width, op, d, n, value);
        }
        AluOp::Mul if value.wrapping_sub(1).is_power_of_two() => {
            b.put_u32(asm::add_lsl(width, d, n, n, value.wrapping_sub(1).trailing_zeros()));
        }
        AluOp::Mul | AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod => {
            mov_imm(b, TMP1, value);
            alu_reg(b, width, op, d, n, TMP1);
        }
        AluOp::Lsh => b.put_u32(asm::lsl_imm(width, d, n, count)),
        AluOp::Rsh => b.put_u32(asm::lsr_imm(width, d, n, count)),
        AluOp::Arsh => b.put_u32(asm::asr_imm(width, d, n, count)),
        AluOp::Mov => mov_imm(b, d, value),
    }
}

/// The 64-bit value an immediate of an operation stands for.
fn operand(width: Width, imm: i32) -> u64 {
    match width {
        Width::W64 => i64::from(imm).cast_unsigned(),
        Width::W32 => u64::from(imm.cast_unsigned()),
    }
}

/// d = n: of itself that changes nothing but, at 32 bits, the upper half.
fn same(b: &mut Buffer, width: Width, d: Gpr, n: Gpr) {
    if width == Width::W32 || d != n {
        b.put_u32(asm::mov(width, d, n));
    }
}

/// d = n + value; `n` may be `sp` where `value` fits the immediate forms.
pub(crate) fn add_imm(b: &mut Buffer, width: Width, d: Gpr, n: Gpr, value: i64) {
    let op = if value < 0 { OpImm::Sub } else { OpImm::Add };
    let size = value.unsigned_abs();
    if value == 0 && d == n {
        same(b, width, d, n);
    } else if asm::fits_arith(size) {
        b.put_u32(asm::op_imm(op, width, d, n, size));
    } else if size < 1 << 24 {
        // Two halves are never longer than a constant and an addition.
        b.put_u32(asm::op_imm(op, width, d, n, size & !0xfff));
        b.put_u32(asm::op_imm(op, width, d, d, size & 0xfff));
    } else {
        let value = match width {
            Width::W64 => value.cast_unsigned(),
            Width::W32 => value.cast_unsigned() & u64::from(u32::MAX),
        };
        mov_imm(b, TMP1, value);
        b.put_u32(asm::op3(Op3::Add, width, d, n, TMP1));
    }
}

fn logic_imm(b: &mut Buffer, width: Width, op: OpMask, d: Gpr, n: Gpr, imm: i32) {
    let value = operand(width, imm);
    if let Some(mask) = asm::bitmask(width, value) {
        b.put_u32(asm::op_mask(op, width, d, n, mask));
        return;
    }
    mov_imm(b, TMP1, value);
    let op = match op {
        OpMask::And => Op3::And,
        OpMask::Orr => Op3::Orr,
        OpMask::Eor => Op3::Eor,
    };
    b.put_u32(asm::op3(op, width, d, n, TMP1));
}

/// Multiplication, division and remainder by 2, 4, .. are one instruction.
fn power_of_two(b: &mut Buffer, width: Width, op: AluOp, d: Gpr, n: Gpr, value: u64) {
    let log2 = value.trailing_zeros();
    match op {
        AluOp::Mul => b.put_u32(asm::lsl_imm(width, d, n, log2)),
        AluOp::Div => b.put_u32(asm::lsr_imm(width, d, n, log2)),
        _ if value == 1 => mov_imm(b, d, 0),
        _ => {
            let mask = asm::bitmask(width, value - 1).expect("a run of ones");
            b.put_u32(asm::op_mask(OpMask::And, width, d, n, mask));
        }
    }
}

/// d = value: one bitmask, or a first half-word and one `movk` for each that differs from it.
pub(crate) fn mov_imm(b: &mut Buffer, d: Gpr, value: u64) {
    let width = if value >> 32 == 0 { Width::W32 } else { Width::W64 };
    let count = if width == Width::W32 { 2u32 } else { 4 };
    let half = |i: u32| (value >> (16 * i)) as u16;
    let halves = |x: u16| (0..count).filter(|&i| half(i) == x).count();
    let negative = halves(0xffff) > halves(0);
    let fill = if negative { 0xffff } else { 0 };
    let rest = count as usize - halves(fill);
    if rest > 1
        && let Some(mask) = asm::bitmask(width, value)
    {
        b.put_u32(asm::op_mask(OpMask::Orr, width, d, ZR, mask));
        return;
    }
    let first = (0..count).find(|&i| half(i) != fill).unwrap_or(0);
    b.put_u32(match negative {
        true => asm::wide(Wide::N, width, d, !half(first), first),
        false => asm::wide(Wide::Z, width, d, half(first), first),
    });
    for i in (first + 1..count).filter(|&i| half(i) != fill) {
        b.put_u32(asm::wide(Wide::K, width, d, half(i), i));
    }
}

/// dst = -dst.
pub(crate) fn emit_neg(b: &mut Buffer, width: Width, dst: Reg) {
    b.put_u32(asm::op3(Op3::Sub, width, native(dst), ZR, native(dst)));
}

/// dst = sign-extend(low bits of src).
pub(crate) fn emit_movsx(b: &mut Buffer, width: Width, dst: Reg, src: Reg, bits: u8) {
    b.put_u32(asm::sbfm(width, native(dst), native(src), 0, u32::from(bits) - 1));
}

/// Byte order: little-endian memory, so `ToLe` only truncates.
pub(crate) fn emit_end(b: &mut Buffer, op: EndianOp, dst: Reg, bits: u8) {
    let d = native(dst);
    match (op, bits) {
        (EndianOp::ToLe, 16) => b.put_u32(asm::ubfm(Width::W32, d, d, 0, 15)),
        (EndianOp::ToLe, 32) => b.put_u32(asm::mov(Width::W32, d, d)),
        (EndianOp::ToLe, _) => {}
        (EndianOp::ToBe | EndianOp::Swap, 16) => {
            b.put_u32(asm::rev16(Width::W32, d, d));
            b.put_u32(asm::ubfm(Width::W32, d, d, 0, 15));
        }
        (EndianOp::ToBe | EndianOp::Swap, 32) => b.put_u32(asm::rev(Width::W32, d, d)),
        (EndianOp::ToBe | EndianOp::Swap, _) => b.put_u32(asm::rev(Width::W64, d, d)),
    }
}

/// dst = value.
pub(crate) fn emit_imm64(b: &mut Buffer, dst: Reg, value: u64) {
    mov_imm(b, native(dst), value);
}

/// dst = address of a function.
pub(crate) fn emit_func_addr(b: &mut Buffer, dst: Reg, func: Label) {
    b.refer(func, &branch::FUNC_ADDR);
    b.put_u32(asm::adr(native(dst), 0));
}

/// Clears the upper half.
pub(crate) fn emit_zext(b: &mut Buffer, dst: Reg) {
    b.put_u32(asm::mov(Width::W32, native(dst), native(dst)));
}

/// dst = src + per-CPU offset.
pub(crate) fn emit_percpu(b: &mut Buffer, dst: Reg, src: Reg) {
    b.put_u32(asm::mrs_tpidr_el1(TMP1));
    b.put_u32(asm::op3(Op3::Add, Width::W64, native(dst), native(src), TMP1));
}

/// The one access of a load or store, with the displacement form that fits. Uses `TMP2`.
pub(crate) fn access(b: &mut Buffer, kind: asm::Mem, size: Size, t: Gpr, base: Gpr, off: i64) {
    // `sp` is below R10: displacements from it are positive, and those reach further.
    let up = off + i64::from(b.frame_bytes());
    let far = !asm::fits_scaled(off, size) && !asm::fits(off, 9);
    if base == FP && far && asm::fits_scaled(up, size) {
        b.mark_fault();
        b.put_u32(asm::mem_scaled(kind, size, t, SP, up));
    } else if asm::fits_scaled(off, size) {
        b.mark_fault();
        b.put_u32(asm::mem_scaled(kind, size, t, base, off));
    } else if asm::fits(off, 9) {
        b.mark_fault();
        b.put_u32(asm::mem_unscaled(kind, size, t, base, off));
    } else {
        mov_imm(b, TMP2, off.cast_unsigned());
        b.mark_fault();
        b.put_u32(asm::mem_reg(kind, size, t, base, TMP2));
    }
}

/// dst = *mem.
pub(crate) fn emit_load(b: &mut Buffer, mem: Mem, sext: bool, dst: Reg) {
    let kind = if sext { asm::Mem::LdSx } else { asm::Mem::Ld };
    access(b, kind, mem.size, native(dst), native(mem.base), mem.off.into());
}

/// *mem = src.
pub(crate) fn emit_store(b: &mut Buffer, mem: Mem, src: Src) {
    let value = match src {
        Src::Reg(r) => native(r),
        Src::Imm(0) => ZR,
        Src::Imm(imm) => {
            mov_imm(b, TMP1, stored(mem.size, imm));
            TMP1
        }
    };
    access(b, asm::Mem::St, mem.size, value, native(mem.base), mem.off.into());
}

/// The value whose low bytes are stored, in the form that is shortest to make.
fn stored(size: Size, imm: i32) -> u64 {
    match size {
        Size::B | Size::H => operand(Width::W32, imm) & 0xffff,
        Size::W => operand(Width::W32, imm),
        Size::DW => operand(Width::W64, imm),
    }
}

/// What a conditional branch looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Test {
    /// Flags.
    Flags(Cond),
    /// The register is zero (or, negated, not).
    Zero { width: Width, reg: Gpr, negate: bool },
    /// One bit is clear (or, negated, set).
    BitClear { reg: Gpr, bit: u32, negate: bool },
}

/// if dst OP src goto label.
pub(crate) fn emit_jump_if(b: &mut Buffer, width: Width, op: JmpOp, dst: Reg, src: Src, to: Label) {
    let d = native(dst);
    let test = match (op, src) {
        (JmpOp::Set, Src::Reg(s)) => {
            b.put_u32(asm::op3(Op3::And, width, TMP1, d, native(s)));
            in_tmp(width, true)
        }
        (JmpOp::Set, Src::Imm(imm)) => test_bits(b, width, d, imm),
        (JmpOp::Eq | JmpOp::Ne, Src::Reg(s)) => {
            b.put_u32(asm::op3(Op3::Sub, width, TMP1, d, native(s)));
            in_tmp(width, op == JmpOp::Ne)
        }
        (_, Src::Reg(s)) => {
            b.put_u32(asm::op3(Op3::Subs, width, ZR, d, native(s)));
            Test::Flags(condition(op))
        }
        (_, Src::Imm(imm)) => compare_imm(b, width, op, d, imm),
    };
    branch(b, test, to);
}

/// What is in the scratch register is zero, or is not: no flags are set for it, which are four
/// words to write where a translator keeps them.
const fn in_tmp(width: Width, negate: bool) -> Test {
    Test::Zero { width, reg: TMP1, negate }
}

/// `d & imm`
fn test_bits(b: &mut Buffer, width: Width, d: Gpr, imm: i32) -> Test {
    let value = operand(width, imm);
    if value.is_power_of_two() {
        return Test::BitClear { reg: d, bit: value.trailing_zeros(), negate: true };
    }
    if let Some(mask) = asm::bitmask(width, value) {
        b.put_u32(asm::op_mask(OpMask::And, width, TMP1, d, mask));
    } else {
        mov_imm(b, TMP1, value);
        b.put_u32(asm::op3(Op3::And, width, TMP1, d, TMP1));
    }
    in_tmp(width, true)
}

/// Comparisons that one bit or zero decides need no flags.
fn compare_imm(b: &mut Buffer, width: Width, op: JmpOp, d: Gpr, imm: i32) -> Test {
    let zero = |negate| Test::Zero { width, reg: d, negate };
    let bit = if width == Width::W64 { 63 } else { 31 };
    let sign = |negate| Test::BitClear { reg: d, bit, negate };
    match (op, imm) {
        (JmpOp::Eq | JmpOp::Le, 0) | (JmpOp::Lt, 1) => return zero(false),
        (JmpOp::Ne | JmpOp::Gt, 0) | (JmpOp::Ge, 1) => return zero(true),
        (JmpOp::Slt, 0) | (JmpOp::Sle, -1) => return sign(true),
        (JmpOp::Sge, 0) | (JmpOp::Sgt, -1) => return sign(false),
        _ => {}
    }
    let size = u64::from(imm.unsigned_abs());
    if matches!(op, JmpOp::Eq | JmpOp::Ne) {
        if asm::fits_arith(size) {
            let less = if imm < 0 { OpImm::Add } else { OpImm::Sub };
            b.put_u32(asm::op_imm(less, width, TMP1, d, size));
        } else {
            mov_imm(b, TMP1, operand(width, imm));
            b.put_u32(asm::op3(Op3::Sub, width, TMP1, d, TMP1));
        }
        return in_tmp(width, op == JmpOp::Ne);
    }
    if asm::fits_arith(size) {
        // `cmn` sets the same flags as `cmp` with the negated immediate, which is not 0 here.
        let cmp = if imm < 0 { OpImm::Adds } else { OpImm::Subs };
        b.put_u32(asm::op_imm(cmp, width, ZR, d, size));
    } else {
        mov_imm(b, TMP1, operand(width, imm));
        b.put_u32(asm::op3(Op3::Subs, width, ZR, d, TMP1));
    }
    Test::Flags(condition(op))
}

fn condition(op: JmpOp) -> Cond {
    match op {
        JmpOp::Eq => Cond::Eq,
        JmpOp::Ne | JmpOp::Set => Cond::Ne,
        JmpOp::Gt => Cond::Hi,
        JmpOp::Ge => Cond::Hs,
        JmpOp::Lt => Cond::Lo,
        JmpOp::Le => Cond::Ls,
        JmpOp::Sgt => Cond::Gt,
        JmpOp::Sge => Cond::Ge,
        JmpOp::Slt => Cond::Lt,
        JmpOp::Sle => Cond::Le,
    }
}

/// A conditional branch.
pub(crate) fn branch(b: &mut Buffer, test: Test, to: Label) {
    let (form, word) = match test {
        Test::Flags(c) => (&branch::B_COND, asm::b_cond(c, 0)),
        Test::Zero { width, reg, negate: false } => (&branch::CBZ, asm::cbz(width, reg, 0)),
        Test::Zero { width, reg, negate: true } => (&branch::CBZ, asm::cbnz(width, reg, 0)),
        Test::BitClear { reg, bit, negate: false } => (&branch::TBZ, asm::tbz(reg, bit, 0)),
        Test::BitClear { reg, bit, negate: true } => (&branch::TBZ, asm::tbnz(reg, bit, 0)),
    };
    b.refer(to, form);
    b.put_u32(word);
}

/// goto label.
pub(crate) fn emit_jump(b: &mut Buffer, to: Label) {
    b.refer(to, &branch::JUMP);
    b.put_u32(asm::b(0));
}

/// No effect.
pub(crate) fn emit_nop(b: &mut Buffer) {
    b.put_u32(asm::nop());
}
