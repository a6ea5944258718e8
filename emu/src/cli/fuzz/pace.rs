//! What every long run of a fuzzer has: its time, when it is to say how far it is, and the file
//! that it goes on from.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::super::out;

/// How often progress is said and kept.
const EVERY: Duration = Duration::from_secs(5);

/// What was counted, over all runs with the same file.
pub(super) trait Counted: Serialize + DeserializeOwned {
    /// Seconds that it took.
    fn seconds(&mut self) -> &mut f64;
}

/// A run in progress.
pub(super) struct Pace {
    state: Option<PathBuf>,
    began: Instant,
    said: Instant,
    /// Seconds before this run.
    before: f64,
}

impl Pace {
    /// Takes up where a file says, or begins with what is fresh.
    pub(super) fn resume<C: Counted>(state: Option<&Path>, fresh: C) -> (Pace, C) {
        let text = state.and_then(|p| std::fs::read_to_string(p).ok());
        let mut counters: C = text.and_then(|t| serde_json::from_str(&t).ok()).unwrap_or(fresh);
        let (now, before) = (Instant::now(), *counters.seconds());
        (Pace { state: state.map(Path::to_owned), began: now, said: now, before }, counters)
    }

    /// How long this run takes already.
    pub(super) fn ran(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether it is time to say something; what was counted is kept then.
    pub(super) fn is_due(&mut self, counters: &mut impl Counted) -> bool {
        let due = self.said.elapsed() >= EVERY;
        if due {
            self.said = Instant::now();
            self.keep(counters);
        }
        due
    }

    /// Writes what was counted to the file.
    pub(super) fn keep(&self, counters: &mut impl Counted) {
        *counters.seconds() = self.before + self.ran().as_secs_f64();
        let Some(path) = &self.state else { return };
        let Ok(text) = serde_json::to_string_pretty(counters) else { return };
        if let Err(e) = std::fs::write(path, text) {
            out::error(&format!("{}: {e}", path.display()), "");
        }
    }
}
