//! Forms of branches.

use super::asm::{self, Cond, Gpr, OpI, RA, ZERO};
use super::regs::TMP3;
use crate::buffer::{Code, Form, word};

/// `c.beqz`, `c.bnez`.
pub(crate) static C_BRANCH: Form = Form::of(asm::patch_c_branch, 2, 1).or(full_branch, &BRANCH);

/// `beq` and the like, their opposite over a `jal`, or over a far jump.
pub(crate) static BRANCH: Form = Form::of(asm::patch_branch, 4, 1).or(around_jal, &AROUND_JAL);
static AROUND_JAL: Form =
    Form::of(|code, disp| asm::patch_jal(&mut code[4..], disp - 4), 8, 2).or(around_far, &AROUND);
static AROUND: Form = Form::of(|code, disp| asm::patch_pair(&mut code[4..], disp - 4), 12, 3);

/// `c.j`, `jal`, `auipc` and `jalr`.
pub(crate) static JUMP: Form = Form::of(asm::patch_c_j, 2, 1).or(full_jump, &JAL);
static JAL: Form = Form::of(asm::patch_jal, 4, 1).or(far_jump, &FAR);
static FAR: Form = Form::of(asm::patch_pair, 8, 2);

/// The same with a return address.
pub(crate) static CALL: Form = Form::of(asm::patch_jal, 4, 1).or(far_call, &FAR);

/// `auipc` and `addi`.
pub(crate) static FUNC_ADDR: Form = Form::of(asm::patch_pair, 8, 2);

fn full_branch(half: &[u8]) -> Code {
    let half = u16::from_le_bytes([half[0], half[1]]);
    let cond = if half >> 13 == 6 { Cond::Eq } else { Cond::Ne };
    let left = Gpr(8 + (half >> 7 & 7).to_le_bytes()[0]);
    Code::words(&[asm::branch(cond, left, ZERO, 0)])
}

/// The lowest bit of funct3 makes a condition its opposite.
fn around(branch: &[u8], jump: &[u32]) -> Code {
    let mut code = Code::words(&[word(branch) ^ 1 << 12]);
    let over = 4 + 4 * i64::try_from(jump.len()).expect("a jump is short");
    assert!(asm::patch_branch(code.bytes(), over), "a jump is short");
    code.with_words(jump)
}

fn around_jal(branch: &[u8]) -> Code {
    around(branch, &[asm::jal(ZERO, 0)])
}

/// From the opposite, which is made the branch again.
fn around_far(opposite: &[u8]) -> Code {
    around(&(word(opposite) ^ 1 << 12).to_le_bytes(), &far(ZERO, TMP3))
}

fn full_jump(_: &[u8]) -> Code {
    Code::words(&[asm::jal(ZERO, 0)])
}

fn far_jump(_: &[u8]) -> Code {
    Code::words(&far(ZERO, TMP3))
}

fn far_call(_: &[u8]) -> Code {
    Code::words(&far(RA, RA))
}

fn far(link: Gpr, via: Gpr) -> [u32; 2] {
    [asm::auipc(via, 0), asm::op_i(OpI::Jalr, link, via, 0)]
}
