//! Forms of branches.

use super::asm;
use super::regs::TMP1;
use crate::buffer::{Code, Form, Patch, word};
use asm::{Gpr, Wide};
use bpf::insn::Width;

/// `b.cond`.
pub(crate) static B_COND: Form = Form::of(asm::patch_branch19, 4, 1).or(around_cond, &AROUND);

/// `cbz`, `cbnz`.
pub(crate) static CBZ: Form = Form::of(asm::patch_branch19, 4, 1).or(around_zero, &AROUND);

/// `tbz`, `tbnz`.
pub(crate) static TBZ: Form = Form::of(asm::patch_branch14, 4, 1).or(around_bit, &AROUND);

/// The opposite over a `b`.
static AROUND: Form = Form::of(|code, disp| asm::patch_branch26(&mut code[4..], disp - 4), 8, 2);

/// `b`, `bl`: no program is longer than they reach.
pub(crate) static JUMP: Form = Form::of(asm::patch_branch26, 4, 1);

/// `adr` within 1 MiB, else `adr` of here and a distance.
pub(crate) static FUNC_ADDR: Form = Form::of(asm::patch_adr, 4, 1).or(far_addr, &FUNC_ADDR_FAR);
static FUNC_ADDR_FAR: Form = Form::of(asm::patch_wide32::<4>, 16, 4);

/// `invert`: the bit that makes a condition its opposite (C1.2.4; C6.2, `op` of the others).
fn around(near: &[u8], invert: u32, patch: Patch) -> Code {
    let mut code = Code::words(&[word(near) ^ 1 << invert, asm::b(0)]);
    assert!(patch(code.bytes(), 8), "8 is near");
    code
}

fn around_cond(near: &[u8]) -> Code {
    around(near, 0, asm::patch_branch19)
}

fn around_zero(near: &[u8]) -> Code {
    around(near, 24, asm::patch_branch19)
}

fn around_bit(near: &[u8]) -> Code {
    around(near, 24, asm::patch_branch14)
}

fn far_addr(near: &[u8]) -> Code {
    let d = Gpr((word(near) & 31).to_le_bytes()[0]);
    Code::words(&[
        asm::adr(d, 0),
        asm::wide(Wide::Z, Width::W32, TMP1, 0, 0),
        asm::wide(Wide::K, Width::W32, TMP1, 0, 1),
        asm::add_ext(d, d, TMP1, true, 0),
    ])
}
