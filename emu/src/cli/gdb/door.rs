//! Debuggers come and go; between them the machine stands still, or goes on when it was let go.

use std::net::TcpListener;
use std::process::Child;
use std::time::Duration;

use gdb::session::{self, Attached, Ended, Files, SessionError};
use gdb::{Debuggee, Direction, Resume, Stop};

use super::launch::{self, Line};
use super::{Args, Exit, out};
use crate::debug::Target;

/// How often it is looked whether the debugger that was started is still there.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What there is to serve.
pub(super) struct Door<'a> {
    pub(super) line: Line,
    pub(super) args: &'a Args,
    /// Where every debugger begins that comes after the run was over.
    pub(super) begin: u64,
    pub(super) files: Files,
}

impl Door<'_> {
    /// Serves until a debugger says `kill`, or the one that was started ends.
    pub(super) fn serve(&mut self, listener: TcpListener, target: &mut Target<'_>) -> Exit {
        let attached = session::listen(listener);
        let mut child = match self.args.launch.then(|| launch::start(&self.line, self.args)) {
            None => {
                out::line(&format!("  {}", self.line.command()));
                None
            }
            Some(Ok(child)) => Some(child),
            Some(Err(exit)) => return exit,
        };
        loop {
            let mut stream = match next(&attached, child.as_mut()) {
                Ok(Some(stream)) => stream,
                Ok(None) => return Exit::Ok,
                Err(e) => {
                    out::error(&e.to_string(), "start it again");
                    return Exit::Internal;
                }
            };
            let ended = session::serve(&mut stream, target, &mut self.files);
            drop(stream);
            attached.done();
            match ended {
                Ok(Ended::Killed) => return end(child),
                Ok(Ended::Closed) => {}
                Ok(Ended::Detached) if child.is_some() => return end(child),
                Ok(Ended::Detached) => self.let_go(target, &attached),
                Err(SessionError::Debuggee(e)) => {
                    out::error(&e.to_string(), "please report it with the scenario");
                    return Exit::Internal;
                }
                Err(e) => out::error(&e.to_string(), "connect again"),
            }
        }
    }

    /// Without a debugger the run goes on, until the next one comes. When it is over it begins
    /// anew.
    fn let_go(&self, target: &mut Target<'_>, attached: &Attached) {
        let on = Resume { direction: Direction::Forward, step: None, only: None };
        loop {
            match target.resume(&on, &mut || attached.waits()) {
                Ok(Stop::End) => break,
                Ok(Stop::Interrupted) => return,
                Ok(_) => {}
                Err(e) => {
                    out::error(&e.to_string(), "");
                    break;
                }
            }
        }
        out::line(&format!(
            "the run went on to its end; the next debugger begins at {}",
            self.begin
        ));
        if let Err(e) = target.goto(self.begin) {
            out::error(&e.to_string(), "");
        }
    }
}

/// The next debugger; `None` when the one that was started has ended.
fn next(
    attached: &Attached,
    child: Option<&mut Child>,
) -> std::io::Result<Option<std::net::TcpStream>> {
    let Some(child) = child else { return attached.next(None) };
    loop {
        if let Some(stream) = attached.next(Some(LOOK_EVERY))? {
            return Ok(Some(stream));
        }
        if child.try_wait()?.is_some() {
            return Ok(None);
        }
    }
}

fn end(child: Option<Child>) -> Exit {
    let ended = child.map(|mut c| c.wait());
    match ended {
        None | Some(Ok(_)) => Exit::Ok,
        Some(Err(_)) => Exit::Internal,
    }
}
