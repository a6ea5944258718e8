//! Unicorn vCPUs and the modelled kernel, put together as a machine.
//!
//! ```text
//!  unicorn ─► engine (text, stubs, exits) ─► machine (vCPUs + Kernel) ◄─ loader (objects)
//! ```
//!
//! **Invariants.** `unsafe` lives in [`unicorn`] and in the door of [`host`] alone. The machine is
//! a value: between two steps it can be snapshot and restored.

pub mod below;
pub mod cli;
pub mod compile;
pub mod conform;
pub mod cover;
pub mod debug;
pub mod engine;
pub mod host;
pub mod hostile;
mod html;
pub mod loader;
pub mod machine;
pub(crate) mod native;
pub mod objects;
pub(crate) mod ordered;
mod panics;
pub mod runner;
pub mod search;
pub(crate) mod shrink;
pub mod unicorn;

pub use machine::{Config, Machine, MachineError, Snapshot};
