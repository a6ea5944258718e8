//! `BPF_PROG_TEST_RUN` as a frame.

use super::{Call, SysError, SysResult};
use crate::Kernel;
use crate::cpu::{CpuId, Flow, Input};

/// A test run in progress.
#[derive(Clone, Debug)]
pub struct TestRun {}

impl Kernel {
    pub(crate) fn test_run_step(&mut self, _cpu: CpuId, _run: TestRun, _input: Input) -> Flow {
        Flow::Done(0)
    }
}

pub(super) fn command(_: &mut Kernel, _: &mut Call<'_>) -> SysResult {
    Err(SysError::unsupported("BPF_PROG_TEST_RUN without a machine"))
}
