//! ALU, memory and jumps on s390x (z13). Big-endian: `ToBe` only truncates.
//!
//! Where it costs nothing a 32-bit operation zero-extends (`risbg`, `llgfr`); [`zero_extends`]
//! lists these, the driver does the rest. Every BPF offset fits a 20-bit displacement.

use super::asm::{self, At, FusedImm, FusedReg, Ri, Rie, Ril, Rr, Rre, Rrf, Rs, Rsy, Rx, Rxy, Sil};
use super::branch;
use super::regs::{R, R0, R1, R15, native};
use crate::buffer::{Buffer, Code, Label};
use crate::compile::is_w32_alu;
use crate::isa::Mem;
use bpf::insn::{AluOp, EndianOp, Insn, JmpOp, Reg, Size, Src, Width};

/// A doubleword no one else uses between calls: the ABI reserves it in every save area.
const SCRATCH: At = At { base: R15, disp: 8 };

/// Leaves that clear the upper half of a 32-bit result.
pub(crate) fn zero_extends(insn: &Insn) -> bool {
    match *insn {
        Insn::Alu { op, src, .. } if is_w32_alu(insn) => match (op, src) {
            (AluOp::Mov | AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod, _) => true,
            (AluOp::Lsh | AluOp::Rsh, Src::Imm(count)) => count & 31 != 0,
            (AluOp::And, Src::Imm(imm)) => imm >= 0 && is_one_insn_mask(imm),
            _ => false,
        },
        Insn::Neg { .. } | Insn::MovSx { .. } => !is_w32_alu(insn),
        Insn::Atomic { .. } => false,
        _ => true,
    }
}

/// dst = dst OP src.
pub(crate) fn emit_alu(b: &mut Buffer, width: Width, op: AluOp, dst: Reg, src: Src) {
    let d = native(dst);
    match (width, src) {
        (Width::W64, Src::Reg(s)) => alu64_reg(b, op, d, native(s)),
        (Width::W32, Src::Reg(s)) => alu32_reg(b, op, d, native(s)),
        (_, Src::Imm(imm)) => alu_imm(b, width, op, d, imm),
    }
}

/// dst = a OP src, where one instruction has three operands.
pub(crate) fn emit_alu3(b: &mut Buffer, w: Width, op: AluOp, dst: Reg, a: Reg, src: Src) -> bool {
    let (d, a) = (native(dst), native(a));
    let code = match src {
        Src::Reg(s) => alu3_reg(w == Width::W64, op, d, a, native(s)),
        Src::Imm(imm) => alu3_imm(w == Width::W64, op, d, a, imm),
    };
    if let Some(code) = code {
        b.put(&code);
    }
    code.is_some()
}

fn alu3_reg(wide: bool, op: AluOp, d: R, a: R, s: R) -> Option<Code> {
    let by_width = |w64, w32| asm::rrf(if wide { w64 } else { w32 }, d, a, s);
    let by = At { base: s, disp: 0 };
    Some(match op {
        AluOp::Add => by_width(Rrf::Agrk, Rrf::Ark),
        AluOp::Sub => by_width(Rrf::Sgrk, Rrf::Srk),
        AluOp::Or => by_width(Rrf::Ogrk, Rrf::Ork),
        AluOp::And => by_width(Rrf::Ngrk, Rrf::Nrk),
        AluOp::Xor => by_width(Rrf::Xgrk, Rrf::Xrk),
        AluOp::Lsh if wide => asm::rsy(Rsy::Sllg, d, a, by),
        AluOp::Rsh if wide => asm::rsy(Rsy::Srlg, d, a, by),
        AluOp::Arsh if wide => asm::rsy(Rsy::Srag, d, a, by),
        _ => return None,
    })
}

fn alu3_imm(wide: bool, op: AluOp, d: R, a: R, imm: i32) -> Option<Code> {
    let count = imm & if wide { 63 } else { 31 };
    let by = At { base: 0, disp: count };
    let n = count.to_be_bytes()[3];
    let add = |imm: i32| match i16::try_from(imm) {
        // An address of 64 bits: the base is no register when it is %r0, which is none of ours.
        Ok(0..4096) if wide => Some(asm::rx(Rx::La, d, 0, At { base: a, disp: imm })),
        Ok(i) => Some(asm::rie(if wide { Rie::Aghik } else { Rie::Ahik }, d, a, i)),
        Err(_) => None,
    };
    match op {
        AluOp::Add => add(imm),
        AluOp::Sub => add(imm.checked_neg()?),
        AluOp::And if imm == 0xff => Some(asm::rre(Rre::Llgcr, d, a)),
        AluOp::And if imm == 0xffff => Some(asm::rre(Rre::Llghr, d, a)),
        AluOp::And if imm == i32::MAX => Some(asm::rre(Rre::Llgtr, d, a)),
        AluOp::And if imm > 0 && is_one_insn_mask(imm) => {
            let ones = imm.cast_unsigned();
            let bit = |n: u32| n.to_be_bytes()[3];
            let (from, to) = (32 + ones.leading_zeros(), 63 - ones.trailing_zeros());
            Some(asm::risbgz(d, a, bit(from), bit(to), 0))
        }
        _ if count == 0 => None,
        AluOp::Lsh if wide => Some(asm::rsy(Rsy::Sllg, d, a, by)),
        AluOp::Rsh if wide => Some(asm::rsy(Rsy::Srlg, d, a, by)),
        AluOp::Arsh if wide => Some(asm::rsy(Rsy::Srag, d, a, by)),
        AluOp::Lsh => Some(asm::risbgz(d, a, 32, 63 - n, n)),
        AluOp::Rsh => Some(asm::risbgz(d, a, 32 + n, 63, 64 - n)),
        _ => None,
    }
}

fn alu64_reg(b: &mut Buffer, op: AluOp, d: R, s: R) {
    let by = At { base: s, disp: 0 };
    match op {
        AluOp::Add => b.put(&asm::rre(Rre::Agr, d, s)),
        AluOp::Sub => b.put(&asm::rre(Rre::Sgr, d, s)),
        AluOp::Mul => b.put(&asm::rre(Rre::Msgr, d, s)),
        AluOp::Or => b.put(&asm::rre(Rre::Ogr, d, s)),
        AluOp::And => b.put(&asm::rre(Rre::Ngr, d, s)),
        AluOp::Xor => b.put(&asm::rre(Rre::Xgr, d, s)),
        AluOp::Lsh => b.put(&asm::rsy(Rsy::Sllg, d, d, by)),
        AluOp::Rsh => b.put(&asm::rsy(Rsy::Srlg, d, d, by)),
        AluOp::Arsh => b.put(&asm::rsy(Rsy::Srag, d, d, by)),
        AluOp::Mov if d == s => {}
        AluOp::Mov => b.put(&asm::rre(Rre::Lgr, d, s)),
        AluOp::Div | AluOp::Mod => {
            b.put(&asm::ri(Ri::Lghi, R0, 0));
            b.put(&asm::rre(Rre::Lgr, R1, d));
            b.put(&asm::rre(Rre::Dlgr, R0, s));
            b.put(&asm::rre(Rre::Lgr, d, quotient_or_rest(op)));
        }
        AluOp::SDiv | AluOp::SMod => {
            b.put(&asm::rre(Rre::Lgr, R1, d));
            b.put(&asm::rre(Rre::Dsgr, R0, s));
            b.put(&asm::rre(Rre::Lgr, d, quotient_or_rest(op)));
        }
    }
}

fn alu32_reg(b: &mut Buffer, op: AluOp, d: R, s: R) {
    match op {
        AluOp::Add => b.put(&asm::rr(Rr::Ar, d, s)),
        AluOp::Sub => b.put(&asm::rr(Rr::Sr, d, s)),
        AluOp::Mul => b.put(&asm::rre(Rre::Msr, d, s)),
        AluOp::Or => b.put(&asm::rr(Rr::Or, d, s)),
        AluOp::And => b.put(&asm::rr(Rr::Nr, d, s)),
        AluOp::Xor => b.put(&asm::rr(Rr::Xr, d, s)),
        AluOp::Lsh => shift32_reg(b, Rs::Sll, d, s),
        AluOp::Rsh => shift32_reg(b, Rs::Srl, d, s),
        AluOp::Arsh => shift32_reg(b, Rs::Sra, d, s),
        AluOp::Mov => b.put(&asm::rre(Rre::Llgfr, d, s)),
        AluOp::Div | AluOp::Mod => {
            b.put(&asm::ri(Ri::Lhi, R0, 0));
            b.put(&asm::rr(Rr::Lr, R1, d));
            b.put(&asm::rre(Rre::Dlr, R0, s));
            b.put(&asm::rre(Rre::Llgfr, d, quotient_or_rest(op)));
        }
        AluOp::SDiv | AluOp::SMod => {
            b.put(&asm::rre(Rre::Lgfr, R1, d));
            b.put(&asm::rre(Rre::Dsgfr, R0, s));
            b.put(&asm::rre(Rre::Llgfr, d, quotient_or_rest(op)));
        }
    }
}

/// Divisions leave the rest in the even and the quotient in the odd register of the pair.
fn quotient_or_rest(op: AluOp) -> R {
    if matches!(op, AluOp::Div | AluOp::SDiv) { R1 } else { R0 }
}

/// The machine looks at six bits of the count, BPF at five.
fn shift32_reg(b: &mut Buffer, op: Rs, d: R, s: R) {
    b.put(&asm::risbgz(R1, s, 59, 63, 0));
    b.put(&asm::rs(op, d, 0, At { base: R1, disp: 0 }));
}

fn alu_imm(b: &mut Buffer, width: Width, op: AluOp, d: R, imm: i32) {
    let wide = width == Width::W64;
    let count = imm & if wide { 63 } else { 31 };
    let by = At { base: 0, disp: count };
    let n = count.to_be_bytes()[3];
    match op {
        AluOp::Add | AluOp::Sub | AluOp::Or | AluOp::Xor if imm == 0 => {}
        AluOp::And if imm == -1 => {}
        AluOp::Mul if imm == 1 => {}
        AluOp::Lsh | AluOp::Rsh | AluOp::Arsh if count == 0 => {}
        AluOp::Add => add_imm(b, wide, d, imm),
        AluOp::Sub if wide && imm == i32::MIN => b.put(&asm::ril(Ril::Algfi, d, imm)),
        AluOp::Sub => add_imm(b, wide, d, imm.wrapping_neg()),
        AluOp::Mul => mul_imm(b, wide, d, imm),
        AluOp::Or => or_imm(b, wide, d, imm),
        AluOp::Xor if wide && imm < 0 => with_imm(b, Rre::Xgr, d, imm),
        AluOp::Xor => b.put(&asm::ril(Ril::Xilf, d, imm)),
        AluOp::And if imm >= 0 => and_low(b, wide, d, imm),
        AluOp::And => and_high(b, d, imm),
        AluOp::Lsh if wide => b.put(&asm::rsy(Rsy::Sllg, d, d, by)),
        AluOp::Rsh if wide => b.put(&asm::rsy(Rsy::Srlg, d, d, by)),
        AluOp::Arsh if wide => b.put(&asm::rsy(Rsy::Srag, d, d, by)),
        AluOp::Lsh => b.put(&asm::risbgz(d, d, 32, 63 - n, n)),
        AluOp::Rsh => b.put(&asm::risbgz(d, d, 32 + n, 63, 64 - n)),
        AluOp::Arsh => b.put(&asm::rs(Rs::Sra, d, 0, by)),
        AluOp::Mov => load_imm(b, d, operand(width, imm)),
        AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod => div_imm(b, width, op, d, imm),
    }
}

/// The 64-bit value an immediate of an operation stands for.
fn operand(width: Width, imm: i32) -> u64 {
    match width {
        Width::W64 => i64::from(imm).cast_unsigned(),
        Width::W32 => u64::from(imm.cast_unsigned()),
    }
}

fn add_imm(b: &mut Buffer, wide: bool, d: R, imm: i32) {
    let (short, long) = if wide { (Ri::Aghi, Ril::Agfi) } else { (Ri::Ahi, Ril::Afi) };
    match i16::try_from(imm) {
        Ok(i) => b.put(&asm::ri(short, d, i)),
        Err(_) => b.put(&asm::ril(long, d, imm)),
    }
}

fn mul_imm(b: &mut Buffer, wide: bool, d: R, imm: i32) {
    let (short, long) = if wide { (Ri::Mghi, Ril::Msgfi) } else { (Ri::Mhi, Ril::Msfi) };
    match i16::try_from(imm) {
        Ok(i) => b.put(&asm::ri(short, d, i)),
        Err(_) => b.put(&asm::ril(long, d, imm)),
    }
}

/// d = d OP sign-extended imm, by way of a register.
fn with_imm(b: &mut Buffer, op: Rre, d: R, imm: i32) {
    load_imm(b, R1, operand(Width::W64, imm));
    b.put(&asm::rre(op, d, R1));
}

/// Upper and lower 16 bits.
fn halves(imm: i32) -> (i16, i16) {
    let [a, b, c, d] = imm.to_be_bytes();
    (i16::from_be_bytes([a, b]), i16::from_be_bytes([c, d]))
}

fn or_imm(b: &mut Buffer, wide: bool, d: R, imm: i32) {
    match halves(imm) {
        _ if wide && imm < 0 => with_imm(b, Rre::Ogr, d, imm),
        (0, low) => b.put(&asm::ri(Ri::Oill, d, low)),
        (high, 0) => b.put(&asm::ri(Ri::Oilh, d, high)),
        _ => b.put(&asm::ril(Ril::Oilf, d, imm)),
    }
}

/// A mask that one zero-extending instruction applies: nothing, or one run of ones.
fn is_one_insn_mask(imm: i32) -> bool {
    let ones = imm.cast_unsigned();
    let run = ones.checked_shr(ones.trailing_zeros()).unwrap_or(0);
    run & run.wrapping_add(1) == 0
}

/// A mask without the sign bit clears the upper half too.
fn and_low(b: &mut Buffer, wide: bool, d: R, imm: i32) {
    let ones = imm.cast_unsigned();
    let bit = |n: u32| n.to_be_bytes()[3];
    match imm {
        0 => b.put(&asm::ri(Ri::Lghi, d, 0)),
        0xff => b.put(&asm::rre(Rre::Llgcr, d, d)),
        0xffff => b.put(&asm::rre(Rre::Llghr, d, d)),
        i32::MAX => b.put(&asm::rre(Rre::Llgtr, d, d)),
        _ if is_one_insn_mask(imm) => {
            let (from, to) = (32 + ones.leading_zeros(), 63 - ones.trailing_zeros());
            b.put(&asm::risbgz(d, d, bit(from), bit(to), 0));
        }
        _ => {
            b.put(&asm::ril(Ril::Nilf, d, imm));
            if wide {
                b.put(&asm::rre(Rre::Llgfr, d, d));
            }
        }
    }
}

/// A mask with the sign bit leaves the upper half alone.
fn and_high(b: &mut Buffer, d: R, imm: i32) {
    match halves(imm) {
        (-1, low) => b.put(&asm::ri(Ri::Nill, d, low)),
        (high, -1) => b.put(&asm::ri(Ri::Nilh, d, high)),
        _ => b.put(&asm::ril(Ril::Nilf, d, imm)),
    }
}

/// Division by a constant; the verifier refuses 0, and -1 would trap on the smallest dividend.
fn div_imm(b: &mut Buffer, width: Width, op: AluOp, d: R, imm: i32) {
    let value = operand(width, imm);
    let wide = width == Width::W64;
    let n = value.trailing_zeros().to_be_bytes()[3];
    match op {
        AluOp::Div | AluOp::SDiv if imm == 1 => zext_if(b, !wide, d),
        AluOp::Div if value.is_power_of_two() && wide => {
            b.put(&asm::rsy(Rsy::Srlg, d, d, At { base: 0, disp: i32::from(n) }));
        }
        AluOp::Div if value.is_power_of_two() => {
            b.put(&asm::risbgz(d, d, 32 + n, 63, 64 - n));
        }
        // A power of two below 2^32: the mask is one run of ones.
        AluOp::Mod if value.is_power_of_two() => and_low(b, wide, d, imm.wrapping_sub(1)),
        AluOp::SDiv if imm == -1 => {
            b.put(&if wide { asm::rre(Rre::Lcgr, d, d) } else { asm::rr(Rr::Lcr, d, d) });
            zext_if(b, !wide, d);
        }
        AluOp::SMod if imm == 1 || imm == -1 => b.put(&asm::ri(Ri::Lghi, d, 0)),
        _ => div_scratch(b, width, op, d, imm),
    }
}

fn zext_if(b: &mut Buffer, yes: bool, d: R) {
    if yes {
        b.put(&asm::rre(Rre::Llgfr, d, d));
    }
}

/// Both free registers hold the dividend, so the divisor goes through memory.
fn div_scratch(b: &mut Buffer, width: Width, op: AluOp, d: R, imm: i32) {
    let wide = width == Width::W64;
    let slot = if wide { SCRATCH } else { At { disp: SCRATCH.disp + 4, ..SCRATCH } };
    match i16::try_from(imm) {
        Ok(i) => b.put(&asm::sil(Sil::Mvghi, SCRATCH, i)),
        Err(_) => {
            load_imm(b, R1, operand(Width::W64, imm));
            b.put(&asm::rxy(Rxy::Stg, R1, 0, SCRATCH));
        }
    }
    match (op, wide) {
        (AluOp::Div | AluOp::Mod, true) => {
            b.put(&asm::ri(Ri::Lghi, R0, 0));
            b.put(&asm::rre(Rre::Lgr, R1, d));
            b.put(&asm::rxy(Rxy::Dlg, R0, 0, slot));
        }
        (AluOp::Div | AluOp::Mod, false) => {
            b.put(&asm::ri(Ri::Lhi, R0, 0));
            b.put(&asm::rr(Rr::Lr, R1, d));
            b.put(&asm::rxy(Rxy::Dl, R0, 0, slot));
        }
        (_, true) => {
            b.put(&asm::rre(Rre::Lgr, R1, d));
            b.put(&asm::rxy(Rxy::Dsg, R0, 0, slot));
        }
        (_, false) => {
            b.put(&asm::rre(Rre::Lgfr, R1, d));
            b.put(&asm::rxy(Rxy::Dsgf, R0, 0, slot));
        }
    }
    let result = if wide { Rre::Lgr } else { Rre::Llgfr };
    b.put(&asm::rre(result, d, quotient_or_rest(op)));
}

/// r = value, the shortest way.
fn load_imm(b: &mut Buffer, r: R, value: u64) {
    let signed = value.cast_signed();
    let part = |n: u32| (value >> n & 0xffff) as u16;
    if let Ok(i) = i16::try_from(signed) {
        b.put(&asm::ri(Ri::Lghi, r, i));
        return;
    }
    let quarters = [(Ri::Llill, 0), (Ri::Llilh, 16), (Ri::Llihl, 32), (Ri::Llihh, 48)];
    for (op, shift) in quarters {
        if u64::from(part(shift)) << shift == value {
            b.put(&asm::ri(op, r, part(shift).cast_signed()));
            return;
        }
    }
    let (high, low) = ((value >> 32) as u32, value as u32);
    if let Ok(i) = i32::try_from(signed) {
        b.put(&asm::ril(Ril::Lgfi, r, i));
    } else if high == 0 {
        b.put(&asm::ril(Ril::Llilf, r, low.cast_signed()));
    } else {
        b.put(&asm::ril(Ril::Llihf, r, high.cast_signed()));
        match halves(low.cast_signed()) {
            (0, 0) => {}
            (0, l) => b.put(&asm::ri(Ri::Oill, r, l)),
            (h, 0) => b.put(&asm::ri(Ri::Oilh, r, h)),
            _ => b.put(&asm::ril(Ril::Iilf, r, low.cast_signed())),
        }
    }
}

/// dst = -dst.
pub(crate) fn emit_neg(b: &mut Buffer, width: Width, dst: Reg) {
    let d = native(dst);
    match width {
        Width::W32 => b.put(&asm::rr(Rr::Lcr, d, d)),
        Width::W64 => b.put(&asm::rre(Rre::Lcgr, d, d)),
    }
}

/// dst = sign-extend(low bits of src).
pub(crate) fn emit_movsx(b: &mut Buffer, width: Width, dst: Reg, src: Reg, bits: u8) {
    let op = match (width, bits) {
        (Width::W64, 8) => Rre::Lgbr,
        (Width::W64, 16) => Rre::Lghr,
        (Width::W64, _) => Rre::Lgfr,
        (Width::W32, 8) => Rre::Lbr,
        (Width::W32, _) => Rre::Lhr,
    };
    b.put(&asm::rre(op, native(dst), native(src)));
}

/// Byte order.
pub(crate) fn emit_end(b: &mut Buffer, op: EndianOp, dst: Reg, bits: u8) {
    let d = native(dst);
    match (op, bits) {
        (EndianOp::ToBe, 16) => b.put(&asm::rre(Rre::Llghr, d, d)),
        (EndianOp::ToBe, 32) => b.put(&asm::rre(Rre::Llgfr, d, d)),
        (EndianOp::ToBe, _) => {}
        (EndianOp::ToLe | EndianOp::Swap, 16) => {
            b.put(&asm::rre(Rre::Lrvgr, d, d));
            b.put(&asm::rsy(Rsy::Srlg, d, d, At { base: 0, disp: 48 }));
        }
        (EndianOp::ToLe | EndianOp::Swap, 32) => {
            b.put(&asm::rre(Rre::Lrvr, d, d));
            b.put(&asm::rre(Rre::Llgfr, d, d));
        }
        (EndianOp::ToLe | EndianOp::Swap, _) => b.put(&asm::rre(Rre::Lrvgr, d, d)),
    }
}

/// dst = value.
pub(crate) fn emit_imm64(b: &mut Buffer, dst: Reg, value: u64) {
    load_imm(b, native(dst), value);
}

/// dst = address of a function.
pub(crate) fn emit_func_addr(b: &mut Buffer, dst: Reg, func: Label) {
    b.refer(func, &branch::RIL);
    b.put(&asm::ril(Ril::Larl, native(dst), 0));
}

/// Clears the upper half.
pub(crate) fn emit_zext(b: &mut Buffer, dst: Reg) {
    zext_if(b, true, native(dst));
}

/// dst = src + per-CPU offset, which is in access registers 0 (upper half) and 1: the kernel reads
/// it from the lowcore, whose page at address 0 does not exist here.
pub(crate) fn emit_percpu(b: &mut Buffer, dst: Reg, src: Reg) {
    b.put(&asm::rre(Rre::Ear, R1, 0));
    b.put(&asm::rsy(Rsy::Sllg, R1, R1, At { base: 0, disp: 32 }));
    b.put(&asm::rre(Rre::Ear, R1, 1));
    b.put(&asm::rx(Rx::La, native(dst), R1, At { base: native(src), disp: 0 }));
}

/// Native operand of a memory access.
pub(crate) fn at(mem: Mem) -> At {
    At { base: native(mem.base), disp: i32::from(mem.off) }
}

/// dst = *mem.
pub(crate) fn emit_load(b: &mut Buffer, mem: Mem, sext: bool, dst: Reg) {
    let op = match (mem.size, sext) {
        (Size::B, false) => Rxy::Llgc,
        (Size::H, false) => Rxy::Llgh,
        (Size::W, false) => Rxy::Llgf,
        (Size::B, true) => Rxy::Lgb,
        (Size::H, true) => Rxy::Lgh,
        (Size::W, true) => Rxy::Lgf,
        (Size::DW, _) => Rxy::Lg,
    };
    b.mark_fault();
    b.put(&asm::rxy(op, native(dst), 0, at(mem)));
}

/// *mem = src.
pub(crate) fn emit_store(b: &mut Buffer, mem: Mem, src: Src) {
    match src {
        Src::Reg(r) => store_reg(b, mem, native(r)),
        Src::Imm(imm) => store_imm(b, mem, imm),
    }
}

fn store_reg(b: &mut Buffer, mem: Mem, r: R) {
    let m = at(mem);
    let (short, long) = match mem.size {
        Size::B => (Some(Rx::Stc), Rxy::Stcy),
        Size::H => (Some(Rx::Sth), Rxy::Sthy),
        Size::W => (Some(Rx::St), Rxy::Sty),
        Size::DW => (None, Rxy::Stg),
    };
    b.mark_fault();
    match short {
        Some(op) if m.is_short() => b.put(&asm::rx(op, r, 0, m)),
        _ => b.put(&asm::rxy(long, r, 0, m)),
    }
}

fn store_imm(b: &mut Buffer, mem: Mem, imm: i32) {
    let m = at(mem);
    let (_, low) = halves(imm);
    let short = match mem.size {
        Size::B => {
            b.mark_fault();
            b.put(&asm::mvi(m, imm.to_be_bytes()[3]));
            return;
        }
        Size::H => Some((Sil::Mvhhi, low)),
        Size::W => i16::try_from(imm).ok().map(|i| (Sil::Mvhi, i)),
        Size::DW => i16::try_from(imm).ok().map(|i| (Sil::Mvghi, i)),
    };
    match short {
        Some((op, i)) if m.is_short() => {
            b.mark_fault();
            b.put(&asm::sil(op, m, i));
        }
        Some((_, i)) => {
            b.put(&asm::ri(Ri::Lghi, R1, i));
            store_reg(b, mem, R1);
        }
        None => {
            load_imm(b, R1, operand(Width::W64, imm));
            store_reg(b, mem, R1);
        }
    }
}

/// Condition masks after a comparison: 8 equal, 4 low, 2 high.
fn condition(op: JmpOp) -> u8 {
    match op {
        JmpOp::Eq => 8,
        JmpOp::Ne => 6,
        JmpOp::Gt | JmpOp::Sgt => 2,
        JmpOp::Ge | JmpOp::Sge => 10,
        JmpOp::Lt | JmpOp::Slt => 4,
        JmpOp::Le | JmpOp::Sle => 12,
        // After a test under mask or an and: not all zero.
        JmpOp::Set => 7,
    }
}

fn is_unsigned(op: JmpOp) -> bool {
    matches!(op, JmpOp::Gt | JmpOp::Ge | JmpOp::Lt | JmpOp::Le)
}

/// if dst OP src goto label.
pub(crate) fn emit_jump_if(b: &mut Buffer, width: Width, op: JmpOp, dst: Reg, src: Src, to: Label) {
    let (d, wide) = (native(dst), width == Width::W64);
    match (op, src) {
        (JmpOp::Set, Src::Reg(s)) => {
            let op = if wide { Rrf::Ngrk } else { Rrf::Nrk };
            b.put(&asm::rrf(op, R1, d, native(s)));
            branch(b, condition(JmpOp::Set), to);
        }
        (JmpOp::Set, Src::Imm(imm)) => {
            test_imm(b, wide, d, imm);
            branch(b, condition(op), to);
        }
        (_, Src::Reg(s)) => compare_reg(b, wide, op, d, native(s), to),
        (_, Src::Imm(imm)) => compare_imm(b, wide, op, d, imm, to),
    }
}

/// Condition code 0 iff `d & imm` is 0.
fn test_imm(b: &mut Buffer, wide: bool, d: R, imm: i32) {
    match halves(imm) {
        (0, low) => b.put(&asm::ri(Ri::Tmll, d, low)),
        (high, 0) if imm > 0 || !wide => b.put(&asm::ri(Ri::Tmlh, d, high)),
        _ => {
            load_imm(b, R1, operand(Width::W64, imm));
            b.put(&if wide { asm::rre(Rre::Ngr, R1, d) } else { asm::rr(Rr::Nr, R1, d) });
        }
    }
}

fn compare_reg(b: &mut Buffer, wide: bool, op: JmpOp, d: R, s: R, to: Label) {
    let (form, fused) = match (wide, is_unsigned(op)) {
        (true, false) => (&branch::COMPARE_REG64, FusedReg::Cgrj),
        (true, true) => (&branch::COMPARE_REG64, FusedReg::Clgrj),
        (false, false) => (&branch::COMPARE_REG32, FusedReg::Crj),
        (false, true) => (&branch::COMPARE_REG32, FusedReg::Clrj),
    };
    b.refer(to, form);
    b.put(&asm::crj(fused, d, s, condition(op)));
}

fn compare_imm(b: &mut Buffer, wide: bool, op: JmpOp, d: R, imm: i32, to: Label) {
    if is_unsigned(op) && wide && imm < 0 {
        // Zero-extending immediates do not reach 2^64 - n.
        load_imm(b, R1, operand(Width::W64, imm));
        compare_reg(b, wide, op, d, R1, to);
        return;
    }
    let byte = if is_unsigned(op) {
        u8::try_from(imm).ok()
    } else {
        i8::try_from(imm).ok().map(i8::cast_unsigned)
    };
    if let Some(i) = byte {
        let (form, fused) = match (wide, is_unsigned(op)) {
            (true, false) => (&branch::COMPARE_IMM, FusedImm::Cgij),
            (true, true) => (&branch::COMPARE_UIMM, FusedImm::Clgij),
            (false, false) => (&branch::COMPARE_IMM, FusedImm::Cij),
            (false, true) => (&branch::COMPARE_UIMM, FusedImm::Clij),
        };
        b.refer(to, form);
        b.put(&asm::cij(fused, d, i, condition(op)));
        return;
    }
    b.put(&match (wide, is_unsigned(op), i16::try_from(imm)) {
        (true, true, _) => asm::ril(Ril::Clgfi, d, imm),
        (false, true, _) => asm::ril(Ril::Clfi, d, imm),
        (true, false, Ok(i)) => asm::ri(Ri::Cghi, d, i),
        (false, false, Ok(i)) => asm::ri(Ri::Chi, d, i),
        (true, false, _) => asm::ril(Ril::Cgfi, d, imm),
        (false, false, _) => asm::ril(Ril::Cfi, d, imm),
    });
    branch(b, condition(op), to);
}

/// Branches on a condition mask.
pub(crate) fn branch(b: &mut Buffer, mask: u8, to: Label) {
    b.refer(to, &branch::BRANCH);
    b.put(&asm::brc(mask));
}

/// goto label.
pub(crate) fn emit_jump(b: &mut Buffer, to: Label) {
    branch(b, 15, to);
}

/// No effect.
pub(crate) fn emit_nop(b: &mut Buffer) {
    b.put(&asm::NOP);
}
