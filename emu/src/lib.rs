//! Unicorn vCPUs and the modelled kernel, put together as a machine.
//!
//! ```text
//!  unicorn ─► engine (text, stubs, accounting, exits) ─► machine (vCPUs + Kernel) ◄─ loader
//! ```
//!
//! **Invariants.** `unsafe` lives in [`unicorn`] alone. The machine is a value: at every safepoint
//! it can be snapshot and restored.

pub mod unicorn;
