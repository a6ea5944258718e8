//! Breakpoints and watchpoints.

use gdbstub::target::TargetResult;
use gdbstub::target::ext::breakpoints::{
    Breakpoints, HwBreakpoint, HwBreakpointOps, HwWatchpoint, HwWatchpointOps, SwBreakpoint,
    SwBreakpointOps, WatchKind as StubWatch,
};

use super::super::points::Point;
use super::Session;
use crate::WatchKind;
use crate::arch::GdbArch;

impl<A: GdbArch> Breakpoints for Session<'_, A> {
    fn support_sw_breakpoint(&mut self) -> Option<SwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_breakpoint(&mut self) -> Option<HwBreakpointOps<'_, Self>> {
        Some(self)
    }

    fn support_hw_watchpoint(&mut self) -> Option<HwWatchpointOps<'_, Self>> {
        Some(self)
    }
}

impl<A: GdbArch> SwBreakpoint for Session<'_, A> {
    fn add_sw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.points.set(Point::Break(addr, false)))
    }

    fn remove_sw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.points.unset(Point::Break(addr, false)))
    }
}

impl<A: GdbArch> HwBreakpoint for Session<'_, A> {
    fn add_hw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.points.set(Point::Break(addr, true)))
    }

    fn remove_hw_breakpoint(&mut self, addr: u64, _kind: usize) -> TargetResult<bool, Self> {
        Ok(self.points.unset(Point::Break(addr, true)))
    }
}

impl<A: GdbArch> HwWatchpoint for Session<'_, A> {
    fn add_hw_watchpoint(
        &mut self,
        addr: u64,
        len: u64,
        kind: StubWatch,
    ) -> TargetResult<bool, Self> {
        // A range that wraps around is none.
        Ok(addr.checked_add(len).is_some() && self.points.set(watch(addr, len, kind)))
    }

    fn remove_hw_watchpoint(
        &mut self,
        addr: u64,
        len: u64,
        kind: StubWatch,
    ) -> TargetResult<bool, Self> {
        Ok(self.points.unset(watch(addr, len, kind)))
    }
}

fn watch(addr: u64, len: u64, kind: StubWatch) -> Point {
    let kind = match kind {
        StubWatch::Write => WatchKind::Write,
        StubWatch::Read => WatchKind::Read,
        StubWatch::ReadWrite => WatchKind::Access,
    };
    Point::Watch(addr, len, kind)
}
