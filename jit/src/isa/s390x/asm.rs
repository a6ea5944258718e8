//! Pure encoders by instruction format. Checked against llvm-mc (`asm/tests.rs`).
//! Source: z/Architecture Principles of Operation, chapter 5 (formats) and appendix B (opcodes).

#[cfg(test)]
mod tests;

use super::regs::R;
use crate::buffer::Code;

/// RR: two bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Rr {
    Lcr = 0x13, Nr = 0x14, Or = 0x16, Xr = 0x17, Lr = 0x18, Cr = 0x19, Clr = 0x15,
    Ar = 0x1a, Sr = 0x1b,
}

/// RRE: `op 00 r1r2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Rre {
    Lgr = 0xb904, Agr = 0xb908, Sgr = 0xb909, Msgr = 0xb90c, Msr = 0xb252, Ngr = 0xb980,
    Ogr = 0xb981, Xgr = 0xb982, Cgr = 0xb920, Clgr = 0xb921, Lcgr = 0xb903, Dlgr = 0xb987,
    Dlr = 0xb997, Dsgr = 0xb90d, Dsgfr = 0xb91d, Llgfr = 0xb916, Lgfr = 0xb914, Lgbr = 0xb906,
    Lghr = 0xb907, Lbr = 0xb926, Lhr = 0xb927, Llgcr = 0xb984, Llghr = 0xb985, Llgtr = 0xb917,
    Lrvr = 0xb91f, Lrvgr = 0xb90f, Ear = 0xb24f,
}

/// RRF with three registers: `op r30 r1r2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Rrf {
    Ngrk = 0xb9e4, Nrk = 0xb9f4, Ogrk = 0xb9e6, Ork = 0xb9f6, Xgrk = 0xb9e7, Xrk = 0xb9f7,
    Agrk = 0xb9e8, Ark = 0xb9f8, Sgrk = 0xb9e9, Srk = 0xb9f9,
}

/// RIE-d: `op r1, r3, imm16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rie {
    Aghik = 0xd9,
    Ahik = 0xd8,
}

/// RI: 16-bit immediate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Ri {
    Lghi = 0xa79, Lhi = 0xa78, Ahi = 0xa7a, Aghi = 0xa7b, Mhi = 0xa7c, Mghi = 0xa7d, Chi = 0xa7e,
    Cghi = 0xa7f, Tmlh = 0xa70, Tmll = 0xa71, Nilh = 0xa56, Nill = 0xa57, Oilh = 0xa5a,
    Oill = 0xa5b, Llihh = 0xa5c, Llihl = 0xa5d, Llilh = 0xa5e, Llill = 0xa5f,
}

/// RIL: 32-bit immediate or displacement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Ril {
    Larl = 0xc00, Lgfi = 0xc01, Brasl = 0xc05, Xilf = 0xc07, Iilf = 0xc09,
    Nilf = 0xc0b, Oilf = 0xc0d, Llihf = 0xc0e, Llilf = 0xc0f, Msgfi = 0xc20, Msfi = 0xc21,
    Agfi = 0xc28, Afi = 0xc29, Algfi = 0xc2a, Cgfi = 0xc2c, Cfi = 0xc2d, Clgfi = 0xc2e,
    Clfi = 0xc2f, Lgrl = 0xc48,
}

/// RS: `op r1, d12(b)`; shifts of 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rs {
    Sll = 0x89,
    Srl = 0x88,
    Sra = 0x8a,
    /// Compare and swap; uses the second register field.
    Cs = 0xba,
}

/// RSY: `op r1, r3, d20(b)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Rsy {
    Sllg = 0x0d, Srlg = 0x0c, Srag = 0x0a, Lmg = 0x04, Stmg = 0x24, Csy = 0x14, Csg = 0x30,
    Laa = 0xf8, Laag = 0xe8, Lan = 0xf4, Lang = 0xe4, Lao = 0xf6, Laog = 0xe6, Lax = 0xf7,
    Laxg = 0xe7,
}

/// RX: `op r1, d12(x, b)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rx {
    La = 0x41,
    Stc = 0x42,
    Sth = 0x40,
    St = 0x50,
    /// `bc mask, d12(x, b)`: the mask takes the place of r1.
    Bc = 0x47,
}

/// RXY: `op r1, d20(x, b)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[rustfmt::skip]
pub(crate) enum Rxy {
    Lg = 0x04, Llgc = 0x90, Llgh = 0x91, Llgf = 0x16, Lgb = 0x77, Lgh = 0x15, Lgf = 0x14,
    Stg = 0x24, Stcy = 0x72, Sthy = 0x70, Sty = 0x50, Cly = 0x55, Dlg = 0x87, Dl = 0x97,
    Dsg = 0x0d, Dsgf = 0x1d, Ly = 0x58,
}

/// SIL: `op d12(b), imm16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sil {
    Mvhhi = 0xe544,
    Mvghi = 0xe548,
    Mvhi = 0xe54c,
    Clfhsi = 0xe55d,
}

/// Compare registers and branch (RIE-b).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FusedReg {
    Crj = 0x76,
    Cgrj = 0x64,
    Clrj = 0x77,
    Clgrj = 0x65,
}

/// Compare with an 8-bit immediate and branch (RIE-c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FusedImm {
    Cij = 0x7e,
    Cgij = 0x7c,
    Clij = 0x7f,
    Clgij = 0x7d,
}

/// Storage-to-storage with one length (SS-a).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ss {
    Mvc = 0xd2,
    Xc = 0xd7,
}

/// `d(b)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) base: R,
    pub(crate) disp: i32,
}

impl At {
    /// Reachable by an unsigned displacement of 12 bits.
    pub(crate) fn is_short(self) -> bool {
        (0..4096).contains(&self.disp)
    }

    /// Base and 12-bit displacement.
    fn d12(self) -> [u8; 2] {
        assert!(self.is_short(), "the short form was chosen for a short displacement");
        let d = self.disp.to_be_bytes();
        [self.base << 4 | d[2], d[3]]
    }

    /// Base and 20-bit displacement, low part first.
    fn d20(self) -> [u8; 3] {
        assert!((-0x8_0000..0x8_0000).contains(&self.disp), "20 bits hold every BPF offset");
        let d = self.disp.to_be_bytes();
        [self.base << 4 | d[2] & 15, d[3], (self.disp >> 12).to_be_bytes()[3]]
    }
}

fn hi(op: u16) -> u8 {
    op.to_be_bytes()[0]
}

fn lo(op: u16) -> u8 {
    op.to_be_bytes()[1]
}

pub(crate) fn rr(op: Rr, r1: R, r2: R) -> Code {
    Code::of(&[op as u8, r1 << 4 | r2])
}

pub(crate) fn rre(op: Rre, r1: R, r2: R) -> Code {
    Code::of(&[hi(op as u16), lo(op as u16), 0, r1 << 4 | r2])
}

/// `op r1, r2, r3`.
pub(crate) fn rrf(op: Rrf, r1: R, r2: R, r3: R) -> Code {
    Code::of(&[hi(op as u16), lo(op as u16), r3 << 4, r1 << 4 | r2])
}

/// `op r1, r3, imm`.
pub(crate) fn rie(op: Rie, r1: R, r3: R, imm: i16) -> Code {
    Code::of(&[0xec, r1 << 4 | r3]).with(&imm.to_be_bytes()).with(&[0, op as u8])
}

/// Twelve opcode bits around a register: the head of RI and RIL.
fn head(op: u16, r1: R) -> Code {
    Code::of(&[(op >> 4).to_be_bytes()[1], r1 << 4 | lo(op) & 15])
}

pub(crate) fn ri(op: Ri, r1: R, imm: i16) -> Code {
    head(op as u16, r1).with(&imm.to_be_bytes())
}

pub(crate) fn ril(op: Ril, r1: R, imm: i32) -> Code {
    head(op as u16, r1).with(&imm.to_be_bytes())
}

pub(crate) fn rs(op: Rs, r1: R, r3: R, at: At) -> Code {
    Code::of(&[op as u8, r1 << 4 | r3]).with(&at.d12())
}

pub(crate) fn rsy(op: Rsy, r1: R, r3: R, at: At) -> Code {
    Code::of(&[0xeb, r1 << 4 | r3]).with(&at.d20()).with(&[op as u8])
}

pub(crate) fn rx(op: Rx, r1: R, index: R, at: At) -> Code {
    Code::of(&[op as u8, r1 << 4 | index]).with(&at.d12())
}

pub(crate) fn rxy(op: Rxy, r1: R, index: R, at: At) -> Code {
    Code::of(&[0xe3, r1 << 4 | index]).with(&at.d20()).with(&[op as u8])
}

/// `mvi at, imm` or `mviy`.
pub(crate) fn mvi(at: At, imm: u8) -> Code {
    if at.is_short() {
        return Code::of(&[0x92, imm]).with(&at.d12());
    }
    Code::of(&[0xeb, imm]).with(&at.d20()).with(&[0x52])
}

/// `asi at, imm`: adds to a word in memory.
pub(crate) fn asi(at: At, imm: i8) -> Code {
    Code::of(&[0xeb, imm.to_be_bytes()[0]]).with(&at.d20()).with(&[0x6a])
}

pub(crate) fn sil(op: Sil, at: At, imm: i16) -> Code {
    Code::of(&[hi(op as u16), lo(op as u16)]).with(&at.d12()).with(&imm.to_be_bytes())
}

pub(crate) fn ss(op: Ss, len: u8, to: At, from: At) -> Code {
    Code::of(&[op as u8, len - 1]).with(&to.d12()).with(&from.d12())
}

/// `op r1, r2, mask, .`
pub(crate) fn crj(op: FusedReg, r1: R, r2: R, mask: u8) -> Code {
    Code::of(&[0xec, r1 << 4 | r2, 0, 0, mask << 4, op as u8])
}

/// `op r1, imm, mask, .`
pub(crate) fn cij(op: FusedImm, r1: R, imm: u8, mask: u8) -> Code {
    Code::of(&[0xec, r1 << 4 | mask, 0, 0, imm, op as u8])
}

/// `risbg r1, r2, from, 128+to, rotate`: bits `from..=to` of r2 rotated left, all else cleared.
pub(crate) fn risbgz(r1: R, r2: R, from: u8, to: u8, rotate: u8) -> Code {
    Code::of(&[0xec, r1 << 4 | r2, from, 0x80 | to, rotate & 63, 0x55])
}

/// `brc mask, .`
pub(crate) fn brc(mask: u8) -> Code {
    Code::of(&[0xa7, mask << 4 | 4, 0, 0])
}

/// `brcl mask, .`
pub(crate) fn brcl(mask: u8) -> Code {
    Code::of(&[0xc0, mask << 4 | 4, 0, 0, 0, 0])
}

/// `br r`.
pub(crate) fn br(r: R) -> Code {
    Code::of(&[0x07, 0xf0 | r])
}

/// `nopr %r0`.
pub(crate) const NOP: [u8; 2] = [0x07, 0x00];

/// Writes the halfword count at bytes 2..4 of a relative branch.
pub(crate) fn patch_rel16(code: &mut [u8], disp: i64) -> bool {
    let Ok(halfwords) = i16::try_from(disp / 2) else { return false };
    code[2..4].copy_from_slice(&halfwords.to_be_bytes());
    true
}

/// Writes the halfword count at bytes 2..6.
pub(crate) fn patch_rel32(code: &mut [u8], disp: i64) -> bool {
    let Ok(halfwords) = i32::try_from(disp / 2) else { return false };
    code[2..6].copy_from_slice(&halfwords.to_be_bytes());
    true
}
