//! `monitor`: whatever the debuggee has commands for.

use gdbstub::target::ext::monitor_cmd::{ConsoleOutput, MonitorCmd};

use super::Session;
use crate::arch::GdbArch;
use crate::{DebugError, Stop};

/// Said when a command has moved the machine, which gdb cannot be told at once.
const MOVED: &str = "(gdb sees it after `maintenance flush register-cache`, or with its next\n\
                     step or continue, which then does not move)\n";

/// An answer is sent in pieces of about this many bytes, as it comes.
const PIECE_BYTES: usize = 0x1000;

impl<A: GdbArch> MonitorCmd for Session<'_, A> {
    fn handle_monitor_cmd(
        &mut self,
        command: &[u8],
        mut out: ConsoleOutput<'_>,
    ) -> Result<(), DebugError> {
        let command = String::from_utf8_lossy(command);
        let mut unsent = 0;
        let mut say = |text: &str| {
            for part in text.as_bytes().chunks(PIECE_BYTES) {
                out.write_raw(part);
                unsent += part.len();
                if unsent >= PIECE_BYTES {
                    out.flush();
                    unsent = 0;
                }
            }
        };
        let stop = self.debuggee.monitor(command.trim(), &mut say);
        for notice in self.debuggee.take_notices() {
            say(&format!("{notice}\n"));
        }
        if stop.as_ref().is_some_and(|s| !matches!(s, Stop::Library { .. })) {
            say(MOVED);
        }
        self.pending = stop.or(self.pending.take());
        Ok(())
    }
}
