//! Path exploration: the worklist, pruning, precision, budgets. It knows neither what must be
//! true (`check`) nor what becomes true (`transfer`).

mod input;

pub use input::{Explored, Input, InsnAux, KeyState, MapState, Opts, PtrClass};

use crate::reject::Rejection;

/// Explores all paths of the main program, of global subprograms and of callbacks.
///
/// # Errors
/// The first refusal, with the log.
pub fn explore(_input: &Input<'_>) -> Result<Explored, Rejection> {
    Err(Rejection::unsupported("exploration", "verifier.c:do_check_main"))
}
