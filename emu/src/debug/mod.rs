//! A scenario's run under a debugger: forwards and backwards, at single native instructions.
//!
//! ```text
//!  gdb::session ─► Target (gdb::Debuggee) ─► control ─► runner::history ─► machine::halt
//!                    ├─► images  programs with all that is known of them
//!                    ├─► monitor commands that gdb has not
//!                    └─► kernel  the modelled kernel's own text, by name
//! ```
//!
//! **Invariants.** Looking changes nothing. A run that is stopped goes on as if it had not been, so
//! a [`Position`] is one state for good; what the user writes is the start of another future.

mod control;
mod converted;
mod images;
mod kernel;
pub mod monitor;
mod target;

pub use target::{Position, Target};
