//! Structures of the UAPI that are views of others: `__sk_buff`, `xdp_md`, `bpf_sock`.
//!
//! A pointer to one is, in native code, the address of the kernel's own structure; accesses through
//! it were converted when the program was loaded. So that a debugger does not take the one for the
//! other, the type says that its data are elsewhere (`DW_AT_data_location`): in a window of
//! addresses where nothing is, in which each structure has a row. The debuggee answers reads there
//! with what the program would read.
//!
//! ```text
//!  63            56 55                                9 8        0
//!  1 0  kind         address, from 0xffff800000000000    offset
//! ```

use gimli::constants as dw;
use gimli::write::{AttributeValue, Expression, Unit, UnitEntryId};

/// Addresses of the window.
pub const WINDOW: std::ops::Range<u64> = 1 << 63..0b11 << 62;
/// Lowest address of a kernel structure.
const LOWEST: u64 = 0xffff_8000_0000_0000;
/// Bits of an offset.
const OFFSET_BITS: u32 = 9;
/// Bits below the kind.
const KIND_SHIFT: u32 = 56;

/// A byte of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Kind of the structure ([`crate::Converted`]).
    pub kind: u8,
    /// Address of the kernel's structure.
    pub addr: u64,
    /// Offset in the UAPI's.
    pub offset: u32,
}

/// What an address of the window stands for.
#[must_use]
pub fn place(at: u64) -> Option<Place> {
    let within = at.checked_sub(WINDOW.start).filter(|_| WINDOW.contains(&at))?;
    let row = (within & ((1 << KIND_SHIFT) - 1)) >> OFFSET_BITS;
    let offset = (within & ((1 << OFFSET_BITS) - 1)) as u32;
    Some(Place { kind: (within >> KIND_SHIFT) as u8, addr: LOWEST + row, offset })
}

/// The type's data are in the window.
pub(super) fn put(unit: &mut Unit, id: UnitEntryId, kind: u8) {
    let mut e = Expression::new();
    e.op(dw::DW_OP_push_object_address);
    e.op_constu(LOWEST);
    e.op(dw::DW_OP_minus);
    e.op_constu(OFFSET_BITS.into());
    e.op(dw::DW_OP_shl);
    e.op_constu(WINDOW.start | u64::from(kind) << KIND_SHIFT);
    e.op(dw::DW_OP_plus);
    unit.get_mut(id).set(dw::DW_AT_data_location, AttributeValue::Exprloc(e));
}
