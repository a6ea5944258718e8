//! Ctrl-C: the first asks a long command to end where it can be gone on with, the second ends it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Exit code of a process that was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;

static ASKED: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// From now on signals ask.
pub(super) fn watch() {
    for signal in [SIGINT, SIGTERM] {
        // In this order: what is asked for the first time does not end the process. A system
        // without these signals has no Ctrl-C to wait for.
        let _none = flag::register_conditional_shutdown(signal, INTERRUPTED, ASKED.clone());
        let _none = flag::register(signal, ASKED.clone());
    }
}

/// Whether somebody asked the command to end.
pub(super) fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}
