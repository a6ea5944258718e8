//! Breakpoints and watchpoints that gdb has set, and those the debuggee knows of.
//!
//! gdb takes all out at each stop and sets them again before it goes on; the debuggee sees only
//! what differs when it does go on.

use std::collections::BTreeSet;

use crate::{Debuggee, WatchKind};

/// Most that may be set at once: a limit on what a client can make us keep.
const POINTS_MAX: usize = 0x1000;
/// Bytes that may be watched at once.
const WATCHED_MAX: u64 = 1 << 24;

/// A breakpoint or watchpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Point {
    /// At an address; hardware or not.
    Break(u64, bool),
    /// On a range of memory.
    Watch(u64, u64, WatchKind),
}

/// Both sets.
#[derive(Debug, Default)]
pub(super) struct Points {
    wanted: BTreeSet<Point>,
    known: BTreeSet<Point>,
}

impl Points {
    /// gdb sets one; false when there are too many.
    pub(super) fn set(&mut self, point: Point) -> bool {
        if self.wanted.contains(&point) {
            return true;
        }
        let bytes = |p: &Point| if let Point::Watch(_, len, _) = p { *len } else { 0 };
        let watched = self.wanted.iter().map(bytes).fold(bytes(&point), u64::saturating_add);
        let fits = self.wanted.len() < POINTS_MAX && watched <= WATCHED_MAX;
        if fits {
            self.wanted.insert(point);
        }
        fits
    }

    /// gdb takes one out; false when it has set none.
    pub(super) fn unset(&mut self, point: Point) -> bool {
        self.wanted.remove(&point)
    }

    /// gdb has a breakpoint at this address.
    pub(super) fn breaks_at(&self, addr: u64) -> bool {
        [false, true].iter().any(|hw| self.wanted.contains(&Point::Break(addr, *hw)))
    }

    /// Tells the debuggee what differs. For a step of one instruction breakpoints gdb took out may
    /// stay: the step ends before they could matter. It is over watchpoints that gdb steps.
    pub(super) fn tell(&mut self, debuggee: &mut dyn Debuggee, one_step: bool) {
        let gone: Vec<Point> = self.known.difference(&self.wanted).copied().collect();
        let goes = |p: &Point| !one_step || matches!(p, Point::Watch(..));
        for point in gone.into_iter().filter(goes) {
            self.known.remove(&point);
            match point {
                Point::Break(addr, hw) => debuggee.remove_breakpoint(addr, hw),
                Point::Watch(addr, len, kind) => debuggee.remove_watchpoint(addr, len, kind),
            };
        }
        for point in self.wanted.difference(&self.known) {
            match *point {
                Point::Break(addr, hw) => debuggee.add_breakpoint(addr, hw),
                Point::Watch(addr, len, kind) => debuggee.add_watchpoint(addr, len, kind),
            }
        }
        self.known.extend(&self.wanted);
    }

    /// Takes all out of the debuggee.
    pub(super) fn clear(&mut self, debuggee: &mut dyn Debuggee) {
        self.wanted.clear();
        self.tell(debuggee, false);
    }
}
