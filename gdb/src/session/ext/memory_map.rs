//! Where memory may be.

use gdbstub::target::TargetResult;
use gdbstub::target::ext::memory_map::MemoryMap;

use super::{Session, piece};
use crate::arch::GdbArch;
use crate::xml;

impl<A: GdbArch> MemoryMap for Session<'_, A> {
    fn memory_map_xml(
        &self,
        offset: u64,
        length: usize,
        into: &mut [u8],
    ) -> TargetResult<usize, Self> {
        Ok(piece(xml::MEMORY_MAP.as_bytes(), offset, length, into))
    }
}
