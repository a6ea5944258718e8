//! One debugger's session: gdbstub's protocol over any [`Debuggee`].
//!
//! ```text
//!  Stream ─► frame (whole packets) ─► gdbstub ─► ext/* (one file per extension) ─► Debuggee
//!                                        └─ running ─► go (resume, Ctrl-C, why it stopped)
//! ```
//!
//! **Invariants.** Nothing a client sends can make a session panic, hang or grow without bound: the
//! frame is bounded, and what gdbstub would take without limit is refused before it. Breakpoints
//! are kept here and given to the debuggee when it goes on, so that gdb's habit to take them out at
//! each stop costs nothing.

mod conn;
mod ext;
mod files;
mod frame;
mod go;
mod listen;
mod points;
#[cfg(test)]
mod tests;

use std::io;

use bpf::Arch;
use gdbstub::stub::state_machine::GdbStubStateMachine;
use gdbstub::stub::{DisconnectReason, GdbStub, GdbStubError};

pub use self::conn::Stream;
use self::conn::Wire;
use self::ext::resume::Plan;
pub use self::files::Files;
pub(crate) use self::frame::checksum;
use self::frame::{Frame, PACKET_BYTES_MAX};
pub use self::listen::{Attached, listen};
use self::points::Points;
use crate::arch::{A64, GdbArch, Rv64, S390, X64};
use crate::{DebugError, Debuggee, Stop};

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// `detach`: the machine shall go on without a debugger.
    Detached,
    /// `kill`: there shall be no machine any more.
    Killed,
    /// The connection was closed: the machine stays where it is.
    Closed,
}

/// Why a session could not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionError {
    /// Reading or writing.
    #[error("the connection failed: {0}")]
    Connection(#[from] io::Error),
    /// What the client sent is not the protocol.
    #[error("the debugger sent what is not understood: {0}")]
    Protocol(String),
    /// The machine failed.
    #[error("the machine failed: {0}")]
    Debuggee(DebugError),
}

/// Serves one debugger until it leaves. Breakpoints and watchpoints it leaves behind are taken out.
///
/// # Errors
/// When the connection or the machine fails, or what comes is not the protocol.
pub fn serve(
    stream: &mut dyn Stream,
    debuggee: &mut dyn Debuggee,
    files: &mut Files,
) -> Result<Ended, SessionError> {
    match debuggee.arch() {
        Arch::X86_64 => run::<X64>(stream, debuggee, files),
        Arch::Arm64 => run::<A64>(stream, debuggee, files),
        Arch::Riscv64 => run::<Rv64>(stream, debuggee, files),
        Arch::S390x => run::<S390>(stream, debuggee, files),
    }
}

/// What gdbstub debugs.
struct Session<'a, A> {
    debuggee: &'a mut dyn Debuggee,
    files: &'a mut Files,
    /// Files that are open; a descriptor is an index.
    open: Vec<Option<files::Bytes>>,
    points: Points,
    plan: Plan,
    /// A stop that a monitor command brought about: reported when gdb wants to go on.
    pending: Option<Stop>,
    /// The CPU gdb looks at.
    looked_at: u32,
    arch: std::marker::PhantomData<A>,
}

type Machine<'s, 'a, A> = GdbStubStateMachine<'s, Session<'a, A>, Wire<'s>>;
type StubError = GdbStubError<DebugError, io::Error>;

fn run<A: GdbArch>(
    stream: &mut dyn Stream,
    debuggee: &mut dyn Debuggee,
    files: &mut Files,
) -> Result<Ended, SessionError> {
    let looked_at = debuggee.current();
    let mut session = Session::<A> {
        debuggee,
        files,
        open: Vec::new(),
        points: Points::default(),
        plan: Plan::default(),
        pending: None,
        looked_at,
        arch: std::marker::PhantomData,
    };
    let ended = talk(Wire::new(stream), &mut session);
    session.points.clear(session.debuggee);
    ended
}

/// One packet after the other, until the client leaves.
fn talk<A: GdbArch>(wire: Wire<'_>, session: &mut Session<'_, A>) -> Result<Ended, SessionError> {
    let stub = GdbStub::builder(wire).packet_buffer_size(PACKET_BYTES_MAX).build();
    let stub = stub.map_err(|e| SessionError::Protocol(e.to_string()))?;
    let mut machine = stub.run_state_machine(session).map_err(failed)?;
    let mut killed_by_name = false;
    loop {
        machine = match machine {
            GdbStubStateMachine::Idle(mut idle) => match idle.borrow_conn().frame()? {
                None => return Ok(Ended::Closed),
                // Both have stopped already: gdb's interrupt came too late.
                Some(Frame::Interrupt) => idle.into(),
                Some(Frame::Packet(packet)) => {
                    killed_by_name = frame::body(&packet).starts_with(b"vKill");
                    if let Some(error) = frame::refused(&packet) {
                        idle.borrow_conn().answer(error)?;
                        idle.into()
                    } else {
                        fed(idle.into(), session, &packet)?
                    }
                }
            },
            GdbStubStateMachine::Running(running) => go::go(running, session)?,
            GdbStubStateMachine::CtrlCInterrupt(interrupt) => {
                interrupt.interrupt_handled(session, None::<go::Reason>).map_err(failed)?
            }
            GdbStubStateMachine::Disconnected(mut gone) => {
                if killed_by_name {
                    // gdbstub answers no kill; `vKill` waits for one.
                    let _ = gone.borrow_conn().answer("OK");
                }
                return Ok(match gone.get_reason() {
                    DisconnectReason::Disconnect => Ended::Detached,
                    DisconnectReason::Kill => Ended::Killed,
                    _ => Ended::Closed,
                });
            }
        };
    }
}

/// Gives a whole packet to gdbstub.
fn fed<'s, 'a, A: GdbArch>(
    mut machine: Machine<'s, 'a, A>,
    session: &mut Session<'a, A>,
    packet: &[u8],
) -> Result<Machine<'s, 'a, A>, SessionError> {
    for byte in packet {
        machine = match machine {
            GdbStubStateMachine::Idle(idle) => {
                idle.incoming_data(session, *byte).map_err(failed)?
            }
            // A packet ends with its last byte: only that can change the state.
            other => other,
        };
    }
    Ok(machine)
}

fn failed(e: StubError) -> SessionError {
    if e.is_connection_error() {
        return match e.into_connection_error() {
            Some((e, _)) => SessionError::Connection(e),
            None => SessionError::Protocol("connection".to_owned()),
        };
    }
    let text = e.to_string();
    match e.into_target_error() {
        Some(e) => SessionError::Debuggee(e),
        None => SessionError::Protocol(text),
    }
}
