//! Path exploration: the worklist, pruning, precision, budgets. It knows neither what must be
//! true (`check`) nor what becomes true (`transfer`).
//!
//! ```text
//!  ver.rs   the state of one verification: current path, pending paths, kept states
//!  step.rs  do_check: one instruction after the other, dispatch to check and transfer
//!  prune.rs is_state_visited: keeping and comparing states
//!  equal.rs states_equal
//!  live.rs  which stack slots may still be read
//!  scc.rs   loops that are being walked, and their back edges
//!  trace.rs what was believed where, for a check against a run
//!  precision.rs  backtracking: which scalars a decision depended on
//!  beyond/  past the kernel's limits: widening, joins, proofs that loops end, an earned budget
//! ```

pub mod beyond;
pub(crate) mod equal;
pub(crate) mod fastcall;
mod input;
mod live;
mod precision;
mod prune;
mod scc;
mod stack_depth;
pub(crate) mod step;
mod subprogs;
mod trace;
pub(crate) mod ver;

pub(crate) use step::stats_text;

pub use input::{Explored, Input, InsnAux, KeyState, MapState, Opts, PtrClass};
pub use trace::{Seen, Trace};

use crate::reject::Rejection;

/// Explores all paths of the main program, of global subprograms and of callbacks.
///
/// # Errors
/// The first refusal, with the log.
pub fn explore(input: &Input<'_>) -> Result<Explored, Box<Rejection>> {
    if input.opts.beyond { beyond::explore(input) } else { as_the_kernel(input) }
}

/// The kernel's way.
fn as_the_kernel(input: &Input<'_>) -> Result<Explored, Box<Rejection>> {
    let mut v = ver::Ver::new(input);
    match v.run() {
        Ok(()) => Ok(v.finish()),
        Err(e) => Err(v.refused(e)),
    }
}
