//! The target description.

use gdbstub::target::ext::target_description_xml_override::TargetDescriptionXmlOverride;
use gdbstub::target::{TargetError, TargetResult};

use super::{INVALID, Session, piece};
use crate::arch::GdbArch;
use crate::xml;

impl<A: GdbArch> TargetDescriptionXmlOverride for Session<'_, A> {
    fn target_description_xml(
        &self,
        annex: &[u8],
        offset: u64,
        length: usize,
        into: &mut [u8],
    ) -> TargetResult<usize, Self> {
        if annex != b"target.xml" {
            return Err(TargetError::Errno(INVALID));
        }
        Ok(piece(xml::target::<A>().as_bytes(), offset, length, into))
    }
}
