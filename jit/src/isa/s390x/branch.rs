//! Forms of branches.

use super::asm::{self, FusedImm, FusedReg, Ri, Ril, Rr, Rre};
use super::regs::R;
use crate::buffer::{Code, Form};

/// `brc`.
pub(crate) static BRANCH: Form = Form::of(asm::patch_rel16, 4, 1).or(far_branch, &FAR);
static FAR: Form = Form::of(asm::patch_rel32, 6, 1);

/// `brasl`, `larl`.
pub(crate) static RIL: Form = Form::of(asm::patch_rel32, 6, 1);

/// `cgrj`, `clgrj`.
pub(crate) static COMPARE_REG64: Form = Form::of(asm::patch_rel16, 6, 1).or(apart_reg, &AFTER4);
/// `crj`, `clrj`.
pub(crate) static COMPARE_REG32: Form = Form::of(asm::patch_rel16, 6, 1).or(apart_reg, &AFTER2);
/// `cgij`, `cij`.
pub(crate) static COMPARE_IMM: Form = Form::of(asm::patch_rel16, 6, 1).or(apart_imm, &AFTER4);
/// `clgij`, `clij`.
pub(crate) static COMPARE_UIMM: Form = Form::of(asm::patch_rel16, 6, 1).or(apart_imm, &AFTER6);
/// A comparison of so many bytes and `brcl`.
static AFTER2: Form = Form::of(patch_after::<2>, 8, 2);
static AFTER4: Form = Form::of(patch_after::<4>, 10, 2);
static AFTER6: Form = Form::of(patch_after::<6>, 12, 2);

fn patch_after<const N: usize>(code: &mut [u8], disp: i64) -> bool {
    let n = i64::try_from(N).expect("a comparison is short");
    asm::patch_rel32(&mut code[N..], disp - n)
}

fn far_branch(near: &[u8]) -> Code {
    asm::brcl(near[1] >> 4)
}

/// Two registers, or one and the mask, as both fused formats have them.
fn pair(fused: &[u8]) -> (R, R) {
    (fused[1] >> 4, fused[1] & 15)
}

fn apart_reg(fused: &[u8]) -> Code {
    let (d, s) = pair(fused);
    let compare = match fused[5] {
        op if op == FusedReg::Cgrj as u8 => asm::rre(Rre::Cgr, d, s),
        op if op == FusedReg::Clgrj as u8 => asm::rre(Rre::Clgr, d, s),
        op if op == FusedReg::Crj as u8 => asm::rr(Rr::Cr, d, s),
        _ => asm::rr(Rr::Clr, d, s),
    };
    compare.with(&asm::brcl(fused[4] >> 4))
}

fn apart_imm(fused: &[u8]) -> Code {
    let ((d, mask), imm) = (pair(fused), fused[4]);
    let compare = match fused[5] {
        op if op == FusedImm::Cgij as u8 => asm::ri(Ri::Cghi, d, imm.cast_signed().into()),
        op if op == FusedImm::Cij as u8 => asm::ri(Ri::Chi, d, imm.cast_signed().into()),
        op if op == FusedImm::Clgij as u8 => asm::ril(Ril::Clgfi, d, imm.into()),
        _ => asm::ril(Ril::Clfi, d, imm.into()),
    };
    compare.with(&asm::brcl(mask))
}
