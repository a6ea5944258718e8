//! Programs, which gdb takes for libraries.

use gdbstub::target::TargetResult;
use gdbstub::target::ext::libraries::Libraries;

use super::{Session, piece};
use crate::arch::GdbArch;
use crate::xml;

impl<A: GdbArch> Libraries for Session<'_, A> {
    fn get_libraries(
        &self,
        offset: u64,
        length: usize,
        into: &mut [u8],
    ) -> TargetResult<usize, Self> {
        let list = xml::libraries(&self.debuggee.images(), self.debuggee.view());
        Ok(piece(list.as_bytes(), offset, length, into))
    }
}
