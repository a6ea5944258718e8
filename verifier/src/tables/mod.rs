//! Facts of Linux 6.18 as tables: helper prototypes and availability, context fields, packet
//! access, return ranges. Exploration asks through the functions of this module only.

use bpf::Program;

use crate::explore::PtrClass;
use crate::proto::{CtxVerdict, FuncProto, RetRange};

/// Whether a program type may call a helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Callable.
    Yes,
    /// "program of this type cannot use helper".
    No,
    /// Only sleepable programs: "helper call might sleep in a non-sleepable prog".
    Sleepable,
    /// The table has no row for this program type: `Unsupported`.
    Unknown,
}

/// The prototype of a helper; `None` for "invalid func unknown#".
#[must_use]
pub fn helper(_id: i32) -> Option<&'static FuncProto> {
    None
}

/// Whether this program may call the helper (licence not considered).
#[must_use]
pub fn helper_available(_program: &Program, _id: i32) -> Availability {
    Availability::Unknown
}

/// `is_valid_access` of the program type, for accesses at a constant offset.
#[must_use]
pub fn ctx_access(_program: &Program, _off: i32, _size: u32, _write: bool) -> CtxVerdict {
    CtxVerdict::Unknown
}

/// `bpf_ctx_narrow_access`: size of the field a narrow load at `off` belongs to; 0 when the
/// access covers the whole field.
#[must_use]
pub fn ctx_field_size(_program: &Program, _off: i32, _size: u32) -> u32 {
    0
}

/// `bpf_sock_is_valid_access` and its relatives: reads through socket pointers.
#[must_use]
pub fn sock_access(_class: PtrClass, _off: i32, _size: u32) -> bool {
    false
}

/// `may_access_direct_pkt_data`.
#[must_use]
pub fn packet_access(_program: &Program, _write: bool) -> bool {
    false
}

/// `may_access_skb`: LD_ABS and LD_IND.
#[must_use]
pub fn ld_abs_allowed(_program: &Program) -> bool {
    false
}

/// What R0 may be at program exit.
#[must_use]
pub fn return_range(_program: &Program) -> RetRange {
    RetRange::Any
}
