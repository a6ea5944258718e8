//! What `info threads` says of a CPU.

use gdbstub::common::Tid;
use gdbstub::target::ext::thread_extra_info::ThreadExtraInfo;

use super::{Session, piece};
use crate::DebugError;
use crate::arch::GdbArch;

impl<A: GdbArch> ThreadExtraInfo for Session<'_, A> {
    fn thread_extra_info(&self, tid: Tid, into: &mut [u8]) -> Result<usize, DebugError> {
        let text =
            self.cpu(tid).map_or_else(|_| "no such CPU".to_owned(), |c| self.debuggee.describe(c));
        Ok(piece(text.as_bytes(), 0, usize::MAX, into))
    }
}
