//! Back in time.

use gdbstub::common::Tid;
use gdbstub::target::ext::base::reverse_exec::{ReverseCont, ReverseStep};

use super::Session;
use super::resume::Plan;
use crate::DebugError;
use crate::arch::GdbArch;

impl<A: GdbArch> ReverseCont<Tid> for Session<'_, A> {
    fn reverse_cont(&mut self) -> Result<(), DebugError> {
        self.plan = Plan::back(None);
        Ok(())
    }
}

impl<A: GdbArch> ReverseStep<Tid> for Session<'_, A> {
    fn reverse_step(&mut self, tid: Tid) -> Result<(), DebugError> {
        self.plan = Plan::back(Some(self.cpu(tid).unwrap_or(self.looked_at)));
        Ok(())
    }
}
