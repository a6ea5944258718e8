//! What may be read and written through the context: `is_valid_access` as measured.

use super::avail::Kind;
use super::ctx_table::GROUPS;
use crate::proto::CtxReg;
use bpf::uapi::ProgType;

/// Accesses allowed at one offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CtxField {
    /// Offset.
    pub(super) off: i16,
    /// Sizes that may be read: a sum of 1, 2, 4, 8.
    pub(super) read: u8,
    /// Sizes that may be written.
    pub(super) write: u8,
    /// Size of the field that a narrower load is widened to; 0 when loads are not widened.
    pub(super) field: u8,
    /// What a read gives.
    pub(super) kind: CtxReg,
}

pub(super) const fn f(off: i16, read: u8, write: u8, field: u8, kind: CtxReg) -> CtxField {
    CtxField { off, read, write, field, kind }
}

/// Program variants with one table.
#[derive(Clone, Copy, Debug)]
pub(super) struct CtxGroup {
    /// Program type.
    pub(super) prog_type: ProgType,
    /// `expected_attach_type` values.
    pub(super) attach: &'static [u32],
    /// Targets, as in [`Kind::target`].
    pub(super) targets: &'static [&'static str],
    /// Rows ordered by offset.
    pub(super) fields: &'static [CtxField],
}

impl CtxGroup {
    /// What an access gives; `None` is "invalid bpf_context access off=%d size=%d".
    #[must_use]
    pub(super) fn access(&self, off: i32, size: u32, write: bool) -> Option<CtxReg> {
        if let Some((from, end, writable)) = self.open_ended() {
            let size = i32::try_from(size).ok()?;
            let inside = off >= from && off <= end - size && off % size == 0;
            return (inside && (!write || writable)).then_some(CtxReg::Scalar);
        }
        self.row(off, size, write).map(|r| r.kind)
    }

    /// `ctx_field_size` of a load, 0 when it is not narrower than its field.
    #[must_use]
    pub(super) fn field_size(&self, off: i32, size: u32) -> u32 {
        let field = self.row(off, size, false).map_or(0, |r| u32::from(r.field));
        if size < field { field } else { 0 }
    }

    fn row(&self, off: i32, size: u32, write: bool) -> Option<&'static CtxField> {
        let bit = u8::try_from(size).ok()?;
        let first = self.fields.partition_point(|r| i32::from(r.off) < off);
        self.fields[first..]
            .iter()
            .take_while(|r| i32::from(r.off) == off)
            .find(|r| (if write { r.write } else { r.read }) & bit != 0)
    }

    /// Contexts that are longer than the measured rows: (first offset, end, writable). Ends:
    /// `PERF_MAX_TRACE_SIZE` for tracepoints, `U16_MAX` for syscall programs.
    fn open_ended(&self) -> Option<(i32, i32, bool)> {
        match self.prog_type {
            ProgType::Tracepoint => Some((8, 8192, false)),
            ProgType::Syscall => Some((0, i32::from(u16::MAX), true)),
            _ => None,
        }
    }
}

/// The table of a kind of program; `None` when it depends on BTF (`tp_btf` and trampolines other
/// than the measured ones, struct_ops) or is not known.
#[must_use]
pub(super) fn ctx_group(kind: &Kind<'_>) -> Option<&'static CtxGroup> {
    let of_type = || GROUPS.iter().filter(|g| g.prog_type == kind.prog_type);
    if let Some(t) = kind.target
        && let Some(g) = of_type().find(|g| g.targets.contains(&t))
    {
        return Some(g);
    }
    let attach = kind.attach_raw();
    // Where all of a type have one table the attach type does not matter.
    let only = || of_type().next().filter(|g| of_type().count() == 1 && g.targets.is_empty());
    of_type().find(|g| g.attach.contains(&attach)).or_else(only)
}
