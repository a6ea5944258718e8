//! What a search has done: kept between runs of the command, joined over shards, told at the end.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::stop;
use crate::search::Found;
use crate::search::dfs::Frontier;
use crate::search::finding::{Kind, Signature};

/// A finding that was written as a scenario.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct Kept {
    /// The file.
    pub(super) file: String,
    /// Where it replays.
    pub(super) archs: Vec<String>,
    /// Switches of its schedule.
    pub(super) switches: usize,
    /// How it was made small.
    #[serde(default)]
    pub(super) shrunk: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Wrong {
    kind: Kind,
    what: String,
    message: String,
    /// From 1.
    run: u64,
    kept: Option<Kept>,
    /// The cell that showed the same before.
    #[serde(default)]
    earlier: Option<String>,
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct State {
    pub(super) scenario: String,
    /// What the command was asked to do and with which files, shards aside: states of others
    /// cannot be gone on with.
    of: String,
    /// The shard.
    pub(super) shard: (u64, u64),
    /// Runs up to this number are done, as far as they are this shard's.
    pub(super) next: u64,
    pub(super) runs: u64,
    /// Names of the interleavings.
    pub(super) interleavings: BTreeSet<u64>,
    /// Where a search that tries everything is.
    frontier: Option<Frontier>,
    /// It was ended by its time.
    out_of_time: bool,
    /// It was ended by a signal.
    stopped: bool,
    wrong: Vec<Wrong>,
    #[serde(skip)]
    path: Option<PathBuf>,
}

impl State {
    pub(super) fn new(shard: Option<(u64, u64)>) -> State {
        State { shard: shard.unwrap_or((0, 1)), ..State::default() }
    }

    /// What a folder has of a scenario and shard.
    pub(super) fn open(
        dir: &Path,
        (name, of): (&str, String),
        shard: Option<(u64, u64)>,
    ) -> Result<State, String> {
        fs::create_dir_all(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        let (i, n) = shard.unwrap_or((0, 1));
        let path = dir.join(format!("{name}.{i}of{n}.json"));
        let mut state = if path.exists() {
            let state = State::read(&path)?;
            if state.of != of {
                let was = format!("{}: is of another search: {}", path.display(), state.of);
                return Err(format!("{was}; this is {of}"));
            }
            state
        } else {
            State { of, ..State::new(shard) }
        };
        name.clone_into(&mut state.scenario);
        (state.out_of_time, state.stopped) = (false, false);
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

    pub(super) fn found(&mut self, found: &Found, kept: Option<Kept>, earlier: Option<String>) {
        let signature = &found.signature;
        self.wrong.push(Wrong {
            kind: signature.kind,
            what: signature.what.clone(),
            message: found.wrong.get(signature).cloned().unwrap_or_default(),
            run: found.run + 1,
            kept,
            earlier,
        });
    }

    /// What was found so far.
    pub(super) fn known(&self) -> BTreeSet<Signature> {
        let signature = |w: &Wrong| Signature { kind: w.kind, what: w.what.clone() };
        self.wrong.iter().map(signature).collect()
    }

    /// How many things were found.
    pub(super) fn count(&self) -> usize {
        self.wrong.len()
    }

    /// Where a search that tries everything goes on.
    pub(super) fn frontier(&self) -> Frontier {
        self.frontier.clone().unwrap_or_default()
    }

    /// A search that tries everything is here.
    pub(super) fn reached(&mut self, frontier: &Frontier) {
        self.runs = frontier.runs;
        self.frontier = Some(frontier.clone());
    }

    /// The search is over; `cut` when it was not allowed to do what it was asked to.
    pub(super) fn ended(&mut self, cut: bool) {
        self.stopped = cut && stop::asked();
        self.out_of_time = cut && !self.stopped;
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Nothing was left to try.
    fn is_complete(&self) -> bool {
        self.frontier.as_ref().is_some_and(|f| f.complete)
    }

    /// The shards of one search as one.
    pub(super) fn joined(states: Vec<State>) -> Result<State, String> {
        let (mut shards, mut all) = (BTreeSet::new(), None::<State>);
        for state in states {
            let (shard, of) = (state.shard, state.of.clone());
            if !shards.insert(shard.0) {
                return Err(format!("shard {}/{} is there twice", shard.0, shard.1));
            }
            match &mut all {
                None => all = Some(state),
                Some(all) if all.of != of || all.shard.1 != shard.1 => {
                    return Err(format!("they are of two searches: {}; {of}", all.of));
                }
                Some(all) => all.join(state),
            }
        }
        let mut all = all.ok_or("there is no state")?;
        if let Some(frontier) = &mut all.frontier {
            frontier.complete &= shards.len() as u64 == all.shard.1;
        }
        Ok(all)
    }

    /// Adds another shard.
    fn join(&mut self, other: State) {
        self.runs += other.runs;
        self.interleavings.extend(other.interleavings);
        if let (Some(all), Some(other)) = (&mut self.frontier, other.frontier) {
            all.known.extend(other.known);
            all.runs += other.runs;
            all.pruned += other.pruned;
            all.complete &= other.complete;
        }
        self.wrong.extend(other.wrong);
        // Of one kind the first is enough.
        self.wrong.sort_by(|a, b| (a.kind, &a.what, a.run).cmp(&(b.kind, &b.what, b.run)));
        self.wrong.dedup_by(|b, a| (a.kind, &a.what) == (b.kind, &b.what));
        self.out_of_time |= other.out_of_time;
        self.stopped |= other.stopped;
    }

    pub(super) fn text(&self, name: &str, strategy: &str) -> String {
        let runs = if self.runs == 1 { "run" } else { "runs" };
        let mut text = format!("{name} ({strategy}): {} {runs}", self.runs);
        let _ = match &self.frontier {
            Some(f) => write!(text, ", {} states with a choice", f.known.len()),
            None => write!(text, ", {} interleavings", self.interleavings.len()),
        };
        if self.out_of_time {
            text += ", out of time";
        }
        if self.stopped {
            text += ", stopped";
        }
        text += match (self.has_found(), self.is_complete()) {
            (true, _) => "\n",
            (false, true) => ": every interleaving was tried, nothing is wrong\n",
            (false, false) => ": nothing was found\n",
        };
        for w in &self.wrong {
            let message = w.message.lines().next().unwrap_or_default();
            let _ = writeln!(text, "{name}: run {} found {}: {message}", w.run, w.kind.name());
            let _ = match &w.kept {
                None if w.earlier.is_some() => {
                    writeln!(text, "{name}: as {}", w.earlier.as_deref().unwrap_or_default())
                }
                Some(Kept { file, archs, switches, shrunk }) => {
                    let s = if *switches == 1 { "switch" } else { "switches" };
                    let on = archs.join(", ");
                    let _ = writeln!(text, "{name}: shrunk in {shrunk}");
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
                "shrunk": w.kept.as_ref().map(|k| &k.shrunk),
            })
        });
        let found: Vec<_> = found.collect();
        let value = serde_json::json!({
            "scenario": name, "strategy": strategy, "runs": self.runs,
            "interleavings": self.frontier.is_none().then_some(self.interleavings.len()),
            "states": self.frontier.as_ref().map(|f| f.known.len()),
            "complete": self.is_complete(), "stopped": self.stopped,
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
            earlier: None,
        };
        let shard = |n, runs| State { runs, next: runs, ..State::new(Some((n, 2))) };
        let mut a = State { interleavings: [1, 2].into(), ..shard(0, 10) };
        a.wrong = vec![wrong("x", 9)];
        let mut b = State { interleavings: [2, 3].into(), ..shard(1, 10) };
        b.wrong = vec![wrong("x", 4), wrong("y", 8)];
        let all = State::joined(vec![a.clone(), b.clone()]).unwrap();
        assert_eq!((all.runs, all.interleavings.len()), (20, 3));
        let runs: Vec<u64> = all.wrong.iter().map(|w| w.run).collect();
        assert_eq!(runs, [4, 8]);
        let twice = State::joined(vec![a.clone(), b.clone(), b.clone()]).unwrap_err();
        assert_eq!(twice, "shard 1/2 is there twice");
        b.of = "pct".to_owned();
        assert!(State::joined(vec![a, b]).unwrap_err().starts_with("they are of two searches"));
    }

    #[test]
    fn everything_was_tried_when_all_shards_say_so() {
        let whole = |n| {
            let mut frontier = Frontier::default();
            (frontier.complete, frontier.known) = (true, [n, 7].into());
            State { frontier: Some(frontier), ..State::new(Some((n, 2))) }
        };
        let all = State::joined(vec![whole(0), whole(1)]).unwrap();
        assert!(all.is_complete());
        assert_eq!(all.frontier.unwrap().known.len(), 3);
        assert!(!State::joined(vec![whole(0)]).unwrap().is_complete());
    }
}
