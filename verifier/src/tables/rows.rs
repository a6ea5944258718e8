//! Constructors that keep the rows of the helper table on one line each.

use bpf::uapi::ProgType;

use crate::proto::{ArgBase, ArgType, Flags, FuncProto, RetBase, RetType};

/// A prototype and the program types it is for; none means all that have no row of their own.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) proto: FuncProto,
    pub(super) only: &'static [ProgType],
}

pub(super) const GPL: u8 = 1;
pub(super) const PKT: u8 = 2;
pub(super) const SLEEP: u8 = 4;
pub(super) const FASTCALL: u8 = 8;
pub(super) const CHANGES_PKT: u8 = 16;

/// A row of the table.
pub(super) const fn row(
    id: i32,
    name: &'static str,
    ret: RetType,
    args: [ArgType; 5],
    bits: u8,
    only: &'static [ProgType],
) -> Row {
    let proto = FuncProto {
        id,
        name,
        args,
        ret,
        gpl_only: bits & GPL != 0,
        pkt_access: bits & PKT != 0,
        might_sleep: bits & SLEEP != 0,
        allow_fastcall: bits & FASTCALL != 0,
        changes_pkt_data: bits & CHANGES_PKT != 0,
    };
    Row { proto, only }
}

/// An argument without size or structure.
pub(super) const fn arg(base: ArgBase, flags: Flags) -> ArgType {
    ArgType { base, flags, size: 0, btf: "" }
}

/// A `MEM_FIXED_SIZE` argument.
pub(super) const fn fixed(flags: Flags, size: u32) -> ArgType {
    ArgType { base: ArgBase::PtrToMem, flags: flags.or(Flags::MEM_FIXED_SIZE), size, btf: "" }
}

/// A `PtrToBtfId` argument.
pub(super) const fn btf(flags: Flags, name: &'static str) -> ArgType {
    ArgType { base: ArgBase::PtrToBtfId, flags, size: 0, btf: name }
}

/// A return value.
pub(super) const fn ret(base: RetBase, flags: Flags) -> RetType {
    RetType { base, flags, btf: "" }
}

/// A `PtrToBtfId` return value.
pub(super) const fn ret_btf(flags: Flags, name: &'static str) -> RetType {
    RetType { base: RetBase::PtrToBtfId, flags, btf: name }
}
