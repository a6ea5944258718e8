//! What gdbstub asks, one extension a file.

mod base;
mod breakpoints;
mod exec_file;
mod host_io;
mod libraries;
mod memory_map;
mod monitor;
pub(super) mod registers;
pub(super) mod resume;
mod reverse;
mod threads;
mod xml;

use gdbstub::common::Tid;
use gdbstub::target::TargetError;

use super::Session;
use crate::DebugError;

/// The thread of a CPU: they count from 1.
pub(super) fn tid(cpu: u32) -> Tid {
    Tid::new(cpu as usize + 1).expect("it is above 0")
}

/// `ESRCH`: no such thread.
const NO_THREAD: u8 = 3;
/// `EFAULT`: no such memory.
const NO_MEMORY: u8 = 14;
/// `EINVAL`: it cannot be done.
const INVALID: u8 = 22;

impl<A> Session<'_, A> {
    /// The CPU of a thread.
    fn cpu(&self, tid: Tid) -> Result<u32, TargetError<DebugError>> {
        let cpu = u32::try_from(tid.get() - 1).ok().filter(|c| *c < self.debuggee.cpus());
        cpu.ok_or(TargetError::Errno(NO_THREAD))
    }
}

/// A piece of `all` for an answer of at most `length` bytes from `offset` on.
fn piece(all: &[u8], offset: u64, length: usize, into: &mut [u8]) -> usize {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(all.len());
    let rest = &all[start..];
    let n = rest.len().min(length).min(into.len());
    into[..n].copy_from_slice(&rest[..n]);
    n
}
