//! A long run: counters that survive it, shards, progress.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::pace::{Counted, Pace};
use super::sound::Ran;
use super::world::Answer;

/// What was counted, over all runs with the same file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Counters {
    /// Where to go on.
    pub(super) next_seed: u64,
    pub(super) programs: u64,
    pub(super) accepted: u64,
    pub(super) unsupported: u64,
    /// Took too long to be compared.
    pub(super) long: u64,
    /// What they needed.
    pub(super) lacking: BTreeMap<String, u64>,
    /// Compared with the running kernel, and what it said.
    pub(super) compared: u64,
    pub(super) both_accepted: u64,
    pub(super) both_rejected: u64,
    /// Of those accepted twice: the same number of processed instructions.
    pub(super) same_insns: u64,
    /// Of those rejected twice: the same words.
    pub(super) same_words: u64,
    /// Differences by kind.
    pub(super) differences: BTreeMap<String, u64>,
    /// Instructions checked against recorded states, whole and cut runs, faults.
    pub(super) checked: u64,
    pub(super) whole: u64,
    pub(super) cut: u64,
    pub(super) faults: u64,
    pub(super) seconds: f64,
}

impl Counters {
    pub(super) fn ran(&mut self, ran: Ran) {
        self.checked += ran.checked;
        self.whole += ran.whole;
        self.cut += ran.cut;
    }

    pub(super) fn answers(&mut self, ours: &Answer, theirs: &Answer) {
        self.compared += 1;
        match (ours.accepted, theirs.accepted) {
            (true, true) => {
                self.both_accepted += 1;
                self.same_insns += u64::from(ours.insns == theirs.insns);
            }
            (false, false) => {
                self.both_rejected += 1;
                self.same_words += u64::from(ours.words == theirs.words);
            }
            _ => {}
        }
    }

    pub(super) fn differ(&mut self, kind: &str) {
        *self.differences.entry(kind.to_owned()).or_default() += 1;
    }

    /// All there is to say at the end.
    pub(super) fn text(&self) -> String {
        let n = self.programs;
        let percent = |part: u64, of: u64| 100.0 * part as f64 / (of.max(1) as f64);
        let mut text = format!(
            "{n} programs, {} accepted ({:.1} %), {} unsupported, {} too long",
            self.accepted,
            percent(self.accepted, n),
            self.unsupported,
            self.long
        );
        if self.checked != 0 || self.faults != 0 {
            text += &format!(
                "; {} instructions checked in {} whole and {} cut runs, {} faults",
                self.checked, self.whole, self.cut, self.faults
            );
        }
        if self.compared != 0 {
            let found: Vec<String> =
                self.differences.iter().map(|(k, n)| format!("{n} {k}")).collect();
            let found = if found.is_empty() { "none".to_owned() } else { found.join(", ") };
            text += &format!(
                "; {} compared with this kernel: differences {found}; both accept {}, same \
                 instructions {:.2} %; both reject {}, same words {:.2} %",
                self.compared,
                self.both_accepted,
                percent(self.same_insns, self.both_accepted),
                self.both_rejected,
                percent(self.same_words, self.both_rejected)
            );
        }
        text
    }
}

/// `K/N`: every Nth seed, from the Kth on.
pub(in crate::cli) fn shard(text: &str) -> Result<(u64, u64), String> {
    let parts = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    match parts {
        Some((k, n)) if k < n => Ok((k, n)),
        _ => Err("K/N is expected, K from 0 and below N".to_owned()),
    }
}

impl Counted for Counters {
    fn seconds(&mut self) -> &mut f64 {
        &mut self.seconds
    }
}

/// Progress of a run.
pub(super) struct Progress {
    pace: Pace,
    /// Programs before this run.
    before: u64,
    goal: u64,
}

impl Progress {
    /// Takes up where a file says.
    pub(super) fn resume(state: Option<&Path>, first: u64, goal: u64) -> (Progress, Counters) {
        let fresh = Counters { next_seed: first, ..Counters::default() };
        let (pace, counters) = Pace::resume(state, fresh);
        (Progress { pace, before: counters.programs, goal }, counters)
    }

    /// Now and then a line on standard error; what was counted is kept.
    pub(super) fn step(&mut self, c: &mut Counters) {
        if self.pace.is_due(c) {
            let done = c.programs - self.before;
            let rate = done as f64 / self.pace.ran().as_secs_f64().max(0.001);
            let left = self.goal.saturating_sub(done) as f64 / rate.max(0.001);
            let share = 100 * c.accepted / c.programs.max(1);
            let found: u64 = c.differences.values().sum();
            eprintln!(
                "{done}/{}: {rate:.0}/s, {left:.0} s left, seed {}, {share} % accepted, {found} \
                 differ, {} faults",
                self.goal, c.next_seed, c.faults
            );
        }
    }

    pub(super) fn keep(&self, c: &mut Counters) {
        self.pace.keep(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards() {
        assert_eq!(shard("1/4"), Ok((1, 4)));
        assert!(shard("4/4").is_err() && shard("1").is_err());
    }
}
