//! Going on: continue, step, step over a range, with or without the other CPUs.

use std::ops::Range;

use gdbstub::common::{Signal, Tid};
use gdbstub::target::ext::base::multithread::{
    MultiThreadRangeStepping, MultiThreadRangeSteppingOps, MultiThreadResume,
    MultiThreadSchedulerLocking, MultiThreadSchedulerLockingOps, MultiThreadSingleStep,
    MultiThreadSingleStepOps,
};
use gdbstub::target::ext::base::reverse_exec::{ReverseContOps, ReverseStepOps};

use super::Session;
use crate::arch::GdbArch;
use crate::{DebugError, Direction, Resume};

/// What gdb wants the threads to do.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// The CPU to step, and the range it is to leave.
    step: Option<(u32, Option<Range<u64>>)>,
    /// The CPU that goes on, when CPUs are named.
    named: Option<u32>,
    /// CPUs that are not named stay where they are.
    locked: bool,
    backward: bool,
}

impl Plan {
    /// Back, one instruction of a CPU or as far as it goes.
    pub(super) fn back(step: Option<u32>) -> Plan {
        Plan { step: step.map(|cpu| (cpu, None)), backward: true, ..Plan::default() }
    }

    /// As the debuggee is told, whose turn it is now being `current`'s.
    ///
    /// To pass a breakpoint gdb steps one instruction with all others held. Where the CPU has the
    /// turn anyway that is what happens without a lock too, and the schedule stays what it was.
    pub(crate) fn resume(&self, current: u32) -> Resume {
        let direction = if self.backward { Direction::Backward } else { Direction::Forward };
        let only = match &self.step {
            Some((cpu, None)) if *cpu == current => None,
            Some((cpu, _)) => Some(*cpu),
            None => self.named,
        };
        Resume { direction, step: self.step.clone(), only: only.filter(|_| self.locked) }
    }
}

impl<A: GdbArch> Session<'_, A> {
    /// The CPU of a thread; a thread that is not there is the one gdb looks at.
    fn named(&self, tid: Tid) -> u32 {
        self.cpu(tid).unwrap_or(self.looked_at)
    }
}

impl<A: GdbArch> MultiThreadResume for Session<'_, A> {
    /// The event loop does it, where the connection can be watched.
    fn resume(&mut self) -> Result<(), DebugError> {
        Ok(())
    }

    fn clear_resume_actions(&mut self) -> Result<(), DebugError> {
        self.plan = Plan::default();
        Ok(())
    }

    fn set_resume_action_continue(
        &mut self,
        tid: Tid,
        _signal: Option<Signal>,
    ) -> Result<(), DebugError> {
        self.plan.named = Some(self.named(tid));
        Ok(())
    }

    fn support_single_step(&mut self) -> Option<MultiThreadSingleStepOps<'_, Self>> {
        Some(self)
    }

    fn support_range_step(&mut self) -> Option<MultiThreadRangeSteppingOps<'_, Self>> {
        Some(self)
    }

    fn support_reverse_step(&mut self) -> Option<ReverseStepOps<'_, Tid, Self>> {
        Some(self)
    }

    fn support_reverse_cont(&mut self) -> Option<ReverseContOps<'_, Tid, Self>> {
        Some(self)
    }

    fn support_scheduler_locking(&mut self) -> Option<MultiThreadSchedulerLockingOps<'_, Self>> {
        Some(self)
    }
}

impl<A: GdbArch> MultiThreadSingleStep for Session<'_, A> {
    fn set_resume_action_step(
        &mut self,
        tid: Tid,
        _signal: Option<Signal>,
    ) -> Result<(), DebugError> {
        self.plan.step = Some((self.named(tid), None));
        Ok(())
    }
}

impl<A: GdbArch> MultiThreadRangeStepping for Session<'_, A> {
    fn set_resume_action_range_step(
        &mut self,
        tid: Tid,
        start: u64,
        end: u64,
    ) -> Result<(), DebugError> {
        // An empty range is a step of one instruction.
        self.plan.step = Some((self.named(tid), (start < end).then_some(start..end)));
        Ok(())
    }
}

impl<A: GdbArch> MultiThreadSchedulerLocking for Session<'_, A> {
    fn set_resume_action_scheduler_lock(&mut self) -> Result<(), DebugError> {
        self.plan.locked = true;
        Ok(())
    }
}
