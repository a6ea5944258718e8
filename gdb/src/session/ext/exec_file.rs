//! The file gdb takes for the program: the modelled kernel.

use gdbstub::common::Pid;
use gdbstub::target::TargetResult;
use gdbstub::target::ext::exec_file::ExecFile;

use super::{Session, piece};
use crate::arch::GdbArch;
use crate::symbols;

impl<A: GdbArch> ExecFile for Session<'_, A> {
    fn get_exec_file(
        &self,
        _pid: Option<Pid>,
        offset: u64,
        length: usize,
        into: &mut [u8],
    ) -> TargetResult<usize, Self> {
        Ok(piece(symbols::kernel_file(A::ARCH).as_bytes(), offset, length, into))
    }
}
