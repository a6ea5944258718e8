//! Context and socket fields: `convert_ctx_accesses`. The field itself is converted by the
//! kernel that is modelled ([`crate::KernelEnv::conv_ctx`]); narrow loads are widened here.

use bpf::Endian;
use bpf::insn::{AluOp, Insn, Reg, Size, Src, Width};

use super::Input;
use super::expand::{Seq, alu};
use crate::env::CtxAccess;
use crate::explore::PtrClass;
use crate::reject::Rejection;
use crate::tables;

/// Whether accesses by such a pointer are converted.
pub(super) fn converts(class: PtrClass) -> bool {
    use PtrClass::{Arena, None, Plain, Probe};
    !matches!(class, None | Plain | Probe | Arena)
}

/// Converts one access.
///
/// # Errors
/// `Unsupported` when the model has no such field.
pub(super) fn convert(
    input: &Input<'_>,
    at: usize,
    insn: Insn,
    class: PtrClass,
    field_size: u32,
) -> Result<Seq, Box<Rejection>> {
    if class == PtrClass::Ctx && tables::ctx_needs_no_conversion(input.program) {
        return Ok(Seq::one(insn));
    }
    let (whole, narrow) = widen(insn, field_size);
    let access = CtxAccess { insn: whole, prog_type: input.program.prog_type };
    let conv = match class {
        PtrClass::Ctx => input.env.conv_ctx(access),
        other => input.env.conv_sock(other, access),
    };
    let Some(conv) = conv else {
        let what = format!("{class:?} field at {}", offset(&insn));
        let gone = Rejection::unsupported(what, "filter.c:convert_ctx_access");
        return Err(Box::new(gone.at(crate::cfg::slot(at))));
    };
    let mut insns = conv.insns;
    if let Some(n) = narrow.filter(|n| n.size < conv.target_size) {
        insns.extend(n.extract(input.endian));
    }
    if let Insn::Load { size, sext: true, dst, .. } = insn {
        let bits = u8::try_from(size.bytes() * 8).unwrap_or(u8::MAX);
        insns.push(Insn::MovSx { width: Width::W64, dst, src: dst, bits });
    }
    Ok(Seq::of(insns))
}

fn offset(insn: &Insn) -> i16 {
    match *insn {
        Insn::Load { off, .. } | Insn::Store { off, .. } => off,
        _ => 0,
    }
}

/// A load of a part of a field.
#[derive(Clone, Copy, Debug)]
struct Narrow {
    dst: Reg,
    /// Bytes of the part.
    size: u32,
    /// Offset of the part in the field.
    at: u32,
    /// Bytes of the field.
    field: u32,
}

/// The load of the whole field, and the part that is wanted.
fn widen(insn: Insn, field: u32) -> (Insn, Option<Narrow>) {
    let Insn::Load { size, dst, src, off, .. } = insn else { return (insn, None) };
    let whole = |size, off| Insn::Load { size, sext: false, dst, src, off };
    if size.bytes() >= field {
        return (whole(size, off), None);
    }
    let field_size = match field {
        1 => Size::B,
        2 => Size::H,
        4 => Size::W,
        _ => Size::DW,
    };
    let within = i32::from(off).cast_unsigned() & (field - 1);
    let start = off.wrapping_sub(i16::try_from(within).unwrap_or(0));
    (whole(field_size, start), Some(Narrow { dst, size: size.bytes(), at: within, field }))
}

impl Narrow {
    /// Shift and mask; the shift is `bpf_ctx_narrow_access_offset`.
    fn extract(self, endian: Endian) -> impl Iterator<Item = Insn> {
        let bytes = match endian {
            Endian::Little => self.at,
            Endian::Big => self.field - (self.at + self.size),
        };
        let width = if self.field <= 4 { Width::W32 } else { Width::W64 };
        let shift = i32::try_from(bytes * 8).unwrap_or(0);
        let mask = u32::MAX >> (32 - self.size * 8);
        let rsh = (shift != 0).then(|| alu(width, AluOp::Rsh, self.dst, Src::Imm(shift)));
        let and = if self.size == 4 {
            alu(Width::W32, AluOp::Mov, self.dst, Src::Reg(self.dst))
        } else {
            alu(Width::W32, AluOp::And, self.dst, Src::Imm(mask.cast_signed()))
        };
        rsh.into_iter().chain([and])
    }
}
