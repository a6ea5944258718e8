//! Decides, as Linux 6.18 decides, whether a program may run, and prepares it for the JIT.
//!
//! ```text
//!  Program ─► cfg (subprogs, reachability) ─► explore (worklist, pruning, precision)
//!                 explore calls check (must be true) and transfer (becomes true) per insn
//!          ─► rewrite (dead code, ctx access, div, inlining, zext) ─► Verified (proof token)
//! ```
//!
//! **Invariants.** No I/O, no clock, no Unicorn. `Verified` is made in `verified.rs` alone.
//! What is not modelled is `Reject::Unsupported`, never a guess.

pub mod annotated;
pub(crate) mod attach;
pub mod btf;
pub mod caps;
pub mod cfg;
pub(crate) mod check;
pub mod domain;
pub mod env;
pub mod explore;
pub mod format;
pub(crate) mod kfunc_calls;
pub(crate) mod map_rules;
pub mod marks;
pub mod messages;
pub mod proto;
pub mod reject;
pub(crate) mod render;
pub mod rewrite;
pub mod tables;
pub mod target;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub(crate) mod transfer;
pub mod verified;
pub mod verify;

pub use check::call::{map_types_of, takes_map};
pub use env::KernelEnv;
pub use target::{FuncFacts, Target};
pub use verified::Verified;
pub use verify::{CheckReport, Options, VerifyReport, check, verify, verify_report};
