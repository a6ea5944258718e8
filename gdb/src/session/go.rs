//! The machine goes on, and gdb is told why it stopped.

use gdbstub::common::{Signal, Tid};
use gdbstub::stub::MultiThreadStopReason;
use gdbstub::stub::state_machine::{GdbStubStateMachineInner, state};
use gdbstub::target::ext::base::reverse_exec::ReplayLogPosition;
use gdbstub::target::ext::breakpoints::WatchKind as StubWatch;

use super::conn::Wire;
use super::ext::registers::RegNumber;
use super::ext::tid;
use super::{Machine, Session, SessionError, failed};
use crate::arch::{GdbArch, Holds, to_bytes, value};
use crate::{Resume, Stop, WatchKind};

/// Why it stopped, in gdbstub's words.
pub(super) type Reason = MultiThreadStopReason<u64>;

type Running<'s, 'a, A> = GdbStubStateMachineInner<'s, state::Running, Session<'a, A>, Wire<'s>>;

/// Goes on as gdb said, and reports the stop.
pub(super) fn go<'s, 'a, A: GdbArch>(
    mut running: Running<'s, 'a, A>,
    session: &mut Session<'a, A>,
) -> Result<Machine<'s, 'a, A>, SessionError> {
    let (stop, only) = match session.pending.take() {
        Some(stop) => (stop, None),
        None => {
            let how = session.plan.resume(session.debuggee.current());
            (session.resume(&how, running.borrow_conn())?, how.only)
        }
    };
    let wire = running.borrow_conn();
    for notice in session.debuggee.take_notices() {
        wire.say(&format!("{notice}\n"))?;
    }
    if let Stop::Event { text, .. } = &stop {
        wire.say(&format!("{text}\n"))?;
    }
    let reason = session.reason(&stop, only);
    let regs = session.expedited();
    let mut regs = regs.iter().map(|(number, bytes)| (*number, bytes.as_slice()));
    running.report_stop_with_regs(session, reason, &mut regs).map_err(failed)
}

impl<A: GdbArch> Session<'_, A> {
    fn resume(&mut self, how: &Resume, wire: &mut Wire<'_>) -> Result<Stop, SessionError> {
        let one_step = matches!(how.step, Some((_, None)));
        self.points.tell(self.debuggee, one_step);
        let stop = self.debuggee.resume(how, &mut || wire.interrupted());
        stop.map_err(SessionError::Debuggee)
    }

    /// In gdb's words: that a thread stopped which gdb did not let go on would confuse it.
    fn reason(&mut self, stop: &Stop, only: Option<u32>) -> Reason {
        let current = self.debuggee.current();
        let cpu = match stop {
            Stop::Breakpoint { cpu, .. }
            | Stop::Watch { cpu, .. }
            | Stop::Library { cpu }
            | Stop::Event { cpu, .. } => *cpu,
            Stop::Step | Stop::Interrupted | Stop::Begin | Stop::End => current,
        };
        let cpu = only.unwrap_or(cpu);
        self.looked_at = cpu;
        let tid = tid(cpu);
        match stop {
            // One that gdb does not know would be taken for a breakpoint just removed.
            Stop::Breakpoint { .. } if !self.points.breaks_at(self.debuggee.regs(cpu).pc) => {
                trap(tid)
            }
            Stop::Breakpoint { hardware: true, .. } => Reason::HwBreak(tid),
            Stop::Breakpoint { hardware: false, .. } => Reason::SwBreak(tid),
            Stop::Watch { addr, kind, .. } => {
                let kind = match kind {
                    WatchKind::Write => StubWatch::Write,
                    WatchKind::Read => StubWatch::Read,
                    WatchKind::Access => StubWatch::ReadWrite,
                };
                Reason::Watch { tid, kind, addr: *addr }
            }
            Stop::Library { .. } => Reason::Library(tid),
            Stop::Interrupted => Reason::SignalWithThread { tid, signal: Signal::SIGINT },
            Stop::Begin => Reason::ReplayLog { tid: Some(tid), pos: ReplayLogPosition::Begin },
            Stop::End => Reason::ReplayLog { tid: Some(tid), pos: ReplayLogPosition::End },
            Stop::Step | Stop::Event { .. } => trap(tid),
        }
    }

    /// Registers that are told with a stop, so that gdb need not ask: all that programs have.
    fn expedited(&self) -> Vec<(RegNumber<A>, Vec<u8>)> {
        let regs = self.debuggee.regs(self.looked_at);
        let native = A::NATIVE.iter().enumerate().filter(|(_, r)| r.holds != Holds::Absent);
        native
            .filter_map(|(n, reg)| {
                let value = value(A::ARCH, reg.holds, &regs)?;
                Some((RegNumber::new(n), to_bytes(A::ARCH, value, reg.bytes())))
            })
            .collect()
    }
}

fn trap(tid: Tid) -> Reason {
    Reason::SignalWithThread { tid, signal: Signal::SIGTRAP }
}
