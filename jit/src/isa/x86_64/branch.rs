//! Forms of branches.

use super::asm;
use crate::buffer::{Code, Form};

/// `jcc`.
pub(crate) static JCC: Form = Form::of(asm::patch_rel8, 2, 1).or(far_jcc, &JCC_FAR);
static JCC_FAR: Form = Form::of(asm::patch_rel32::<6>, 6, 1);

/// `jmp`.
pub(crate) static JUMP: Form = Form::of(asm::patch_rel8, 2, 1).or(far_jump, &JUMP_FAR);
static JUMP_FAR: Form = Form::of(asm::patch_rel32::<5>, 5, 1);

/// `jrcxz`, whose target is always near.
pub(crate) static JRCXZ: Form = Form::of(asm::patch_rel8, 2, 1);

/// `call`.
pub(crate) static CALL: Form = Form::of(asm::patch_rel32::<5>, 5, 1);

/// `lea r, [rip]`.
pub(crate) static FUNC_ADDR: Form = Form::of(asm::patch_rel32::<7>, 7, 1);

fn far_jcc(near: &[u8]) -> Code {
    Code::of(&asm::jcc32(near[0]))
}

fn far_jump(_: &[u8]) -> Code {
    Code::of(&asm::JMP32)
}
