//! What a search has done: kept between runs of the command, joined over shards, told at the end.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::search::finding::Kind;
use crate::search::{Exhausted, Found};

/// A finding that was written as a scenario.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The file.
    pub(super) file: String,
    /// Where it replays.
    pub(super) archs: Vec<String>,
    /// Switches of its schedule.
    pub(super) switches: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Wrong {
    kind: Kind,
    what: String,
    message: String,
    /// From 1.
    run: u64,
    kept: Option<Kept>,
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) scenario: String,
    /// The shard.
    pub(super) shard: (u64, u64),
    /// Runs up to this number are done, as far as they are this shard's.
    pub(super) next: u64,
    pub(super) runs: u64,
    /// Names of the interleavings.
    pub(super) interleavings: BTreeSet<u64>,
    /// States of a search that tries everything.
    states: Option<u64>,
    /// Nothing was left to try.
    complete: bool,
    /// It was ended by its time.
    pub(super) out_of_time: bool,
    wrong: Vec<Wrong>,
    #[serde(skip)]
    path: Option<PathBuf>,
}

impl State {
    pub(super) fn new(shard: Option<(u64, u64)>) -> State {
        State { shard: shard.unwrap_or((0, 1)), ..State::default() }
    }

    /// What a folder has of a scenario and shard.
    pub(super) fn open(dir: &Path, name: &str, shard: Option<(u64, u64)>) -> Result<State, String> {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let (i, n) = shard.unwrap_or((0, 1));
        let path = dir.join(format!("{name}.{i}of{n}.json"));
        let mut state = if path.exists() { State::read(&path)? } else { State::new(shard) };
        name.clone_into(&mut state.scenario);
        state.path = Some(path);
        Ok(state)
    }

    pub(super) fn read(path: &Path) -> Result<State, String> {
        let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))
    }

    pub(super) fn save(&self) -> Result<(), String> {
        let Some(path) = &self.path else { return Ok(()) };
        let text = serde_json::to_string(self).map_err(|e| e.to_string())?;
        let part = path.with_extension("part");
        let done = fs::write(&part, text).and_then(|()| fs::rename(&part, path));
        done.map_err(|e| format!("{}: {e}", path.display()))
    }

    pub(super) fn has_found(&self) -> bool {
        !self.wrong.is_empty()
    }

    pub(super) fn found(&mut self, found: &Found, kept: Option<Kept>) {
        let signature = &found.signature;
        self.wrong.push(Wrong {
            kind: signature.kind,
            what: signature.what.clone(),
            message: found.wrong.get(signature).cloned().unwrap_or_default(),
            run: found.run + 1,
            kept,
        });
    }

    pub(super) fn exhausted(&mut self, all: &Exhausted) {
        self.runs = all.runs;
        self.states = Some(all.states);
        self.complete = all.complete && all.found.is_none();
    }

    /// Adds another shard.
    pub(super) fn join(&mut self, other: State) {
        self.runs += other.runs;
        self.interleavings.extend(other.interleavings);
        self.wrong.extend(other.wrong);
        // Of one kind the first is enough.
        self.wrong.sort_by(|a, b| (a.kind, &a.what, a.run).cmp(&(b.kind, &b.what, b.run)));
        self.wrong.dedup_by(|b, a| (a.kind, &a.what) == (b.kind, &b.what));
        self.out_of_time |= other.out_of_time;
    }

    pub(super) fn text(&self, name: &str, strategy: &str) -> String {
        let runs = if self.runs == 1 { "run" } else { "runs" };
        let mut text = format!("{name} ({strategy}): {} {runs}", self.runs);
        let _ = match self.states {
            Some(states) => write!(text, ", {states} states with a choice"),
            None => write!(text, ", {} interleavings", self.interleavings.len()),
        };
        if self.out_of_time {
            text += ", out of time";
        }
        text += match (self.has_found(), self.complete) {
            (true, _) => "\n",
            (false, true) => ": every interleaving was tried, nothing is wrong\n",
            (false, false) => ": nothing was found\n",
        };
        for w in &self.wrong {
            let message = w.message.lines().next().unwrap_or_default();
            let _ = writeln!(text, "{name}: run {} found {}: {message}", w.run, w.kind.name());
            let _ = match &w.kept {
                Some(Kept { file, archs, switches }) => {
                    let s = if *switches == 1 { "switch" } else { "switches" };
                    let on = archs.join(", ");
                    writeln!(text, "{name}: written to {file}: {switches} {s}, replays on {on}")
                }
                None => writeln!(text, "{name}: it could not be written as a scenario"),
            };
        }
        text
    }

    pub(super) fn json(&self, name: &str, strategy: &str) -> String {
        let found = self.wrong.iter().map(|w| {
            serde_json::json!({
                "kind": w.kind, "what": w.what, "message": w.message, "run": w.run,
                "file": w.kept.as_ref().map(|k| &k.file),
                "archs": w.kept.as_ref().map(|k| &k.archs),
                "switches": w.kept.as_ref().map(|k| k.switches),
            })
        });
        let found: Vec<_> = found.collect();
        let value = serde_json::json!({
            "scenario": name, "strategy": strategy, "runs": self.runs,
            "interleavings": self.states.is_none().then_some(self.interleavings.len()),
            "states": self.states, "complete": self.complete,
            "out_of_time": self.out_of_time, "found": found,
        });
        format!("{value}\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_joined_and_of_one_kind_the_first_is_kept() {
        let wrong = |what: &str, run| Wrong {
            kind: Kind::Leak,
            what: what.to_owned(),
            message: format!("event {run}: {what}"),
            run,
            kept: None,
        };
        let mut a = State { runs: 10, interleavings: [1, 2].into(), ..State::new(Some((0, 2))) };
        a.wrong = vec![wrong("x", 9)];
        let mut b = State { runs: 10, interleavings: [2, 3].into(), ..State::new(Some((1, 2))) };
        b.wrong = vec![wrong("x", 4), wrong("y", 8)];
        a.join(b);
        assert_eq!((a.runs, a.interleavings.len()), (20, 3));
        let runs: Vec<u64> = a.wrong.iter().map(|w| w.run).collect();
        assert_eq!(runs, [4, 8]);
    }
}
