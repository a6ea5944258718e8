//! The shorter of the compressed and the full-size form, for operands that are known when the
//! code is written. Pure, like the encoders.

use super::{Gpr, Op, OpI, Shift, ZERO};
use bpf::insn::Size;

/// An instruction of either size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// 16 bits.
    Half(u16),
    /// 32 bits.
    Full(u32),
}

const fn or_full(half: Option<u16>, full: u32) -> Word {
    match half {
        Some(half) => Word::Half(half),
        None => Word::Full(full),
    }
}

/// `mv rd, rs`
pub(crate) const fn mv(rd: Gpr, rs: Gpr) -> Word {
    or_full(super::c_mv(rd, rs), super::op_i(OpI::Addi, rd, rs, 0))
}

/// `op rd, rs1, rs2`
pub(crate) const fn op(o: Op, rd: Gpr, rs1: Gpr, rs2: Gpr) -> Word {
    let commutes = matches!(o, Op::Add | Op::And | Op::Or | Op::Xor | Op::Addw);
    let other = match () {
        () if rd.0 == rs1.0 => Some(rs2),
        () if commutes && rd.0 == rs2.0 => Some(rs1),
        () => None,
    };
    let half = match (o, other) {
        (Op::Add, Some(other)) => super::c_add(rd, other),
        (_, Some(other)) => super::c_op(o, rd, other),
        (_, None) => None,
    };
    or_full(half, super::op(o, rd, rs1, rs2))
}

/// `op rd, rs1, imm`
pub(crate) const fn op_i(o: OpI, rd: Gpr, rs1: Gpr, imm: i64) -> Word {
    let half = match o {
        OpI::Addi if rs1.0 == ZERO.0 => super::c_li(rd, imm),
        OpI::Addi if imm == 0 => super::c_mv(rd, rs1),
        OpI::Addi if rd.0 == 2 && rs1.0 == 2 && !super::fits(imm, 6) => super::c_addi16sp(imm),
        OpI::Addi if rd.0 == rs1.0 => super::c_addi(rd, imm),
        OpI::Addi if rs1.0 == 2 => super::c_addi4spn(rd, imm),
        OpI::Addiw if rd.0 == rs1.0 => super::c_addiw(rd, imm),
        OpI::Andi if rd.0 == rs1.0 => super::c_andi(rd, imm),
        OpI::Jalr if imm == 0 && rd.0 == 0 => super::c_jr(rs1),
        OpI::Jalr if imm == 0 && rd.0 == 1 => super::c_jalr(rs1),
        _ => None,
    };
    or_full(half, super::op_i(o, rd, rs1, imm))
}

/// `shift rd, rs1, n`
pub(crate) const fn shift(s: Shift, rd: Gpr, rs1: Gpr, n: u32) -> Word {
    let half = match s {
        Shift::Slli if rd.0 == rs1.0 => super::c_slli(rd, n),
        Shift::Srli if rd.0 == rs1.0 => super::c_srxi(false, rd, n),
        Shift::Srai if rd.0 == rs1.0 => super::c_srxi(true, rd, n),
        _ => None,
    };
    or_full(half, super::shift(s, rd, rs1, n))
}

/// `lui rd, imm`
pub(crate) const fn lui(rd: Gpr, imm: i64) -> Word {
    or_full(super::c_lui(rd, imm), super::lui(rd, imm))
}

/// `l{b,h,w,d}[u] rd, off(rs1)`
pub(crate) const fn load(s: Size, sext: bool, rd: Gpr, rs1: Gpr, off: i64) -> Word {
    let half = match s {
        Size::DW if rs1.0 == 2 => super::c_ldsp(rd, off),
        Size::DW => super::c_load(s, rd, rs1, off),
        // There is a compressed load of words with sign extension only.
        Size::W if sext => super::c_load(s, rd, rs1, off),
        _ => None,
    };
    or_full(half, super::load(s, sext, rd, rs1, off))
}

/// `s{b,h,w,d} rs2, off(rs1)`
pub(crate) const fn store(s: Size, rs2: Gpr, rs1: Gpr, off: i64) -> Word {
    let half = match s {
        Size::DW if rs1.0 == 2 => super::c_sdsp(rs2, off),
        _ => super::c_store(s, rs2, rs1, off),
    };
    or_full(half, super::store(s, rs2, rs1, off))
}
