//! Coverage and cost of the programs of a replay: files, and what is said of the worst runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use scenarios::Scenario;

use super::Ran;
use crate::cover::{Sum, html, lcov};
use crate::runner::{Cost, Outcome, RunOptions, run as play};

/// Lines shown of the way of a run.
const WAY_SHOWN: usize = 40;

/// Arguments.
#[derive(Debug, Default, clap::Args)]
#[group(skip)] // its name is that of the arguments it is a part of
pub(super) struct Args {
    /// Write what lines, branches and functions of the source ran, in lcov's format
    #[arg(long, value_name = "FILE")]
    lcov: Option<PathBuf>,
    /// Write the same as a page, with the source
    #[arg(long, value_name = "FILE")]
    coverage: Option<PathBuf>,
    /// Write instructions by stack of functions, as flame graph tools read them
    #[arg(long, value_name = "FILE")]
    folded: Option<PathBuf>,
    /// Say what the runs of each program cost, and which way the longest one went
    #[arg(long)]
    pub(super) costs: bool,
}

impl Args {
    /// Whether runs have to count.
    pub(super) fn counts(&self) -> bool {
        self.files().next().is_some()
    }

    /// Files to be written.
    pub(super) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.lcov, &self.coverage, &self.folded].into_iter().flatten()
    }

    /// Files with their text.
    pub(super) fn written(&self, sum: &Sum) -> Vec<(&PathBuf, String)> {
        let files = sum.files();
        let all = [
            self.lcov.as_ref().map(|p| (p, lcov(&files))),
            self.coverage.as_ref().map(|p| (p, html(&files))),
            self.folded.as_ref().map(|p| (p, sum.folded_text())),
        ];
        all.into_iter().flatten().collect()
    }
}

/// What the runs of each program cost, on the first architecture that came through, and the way of
/// the longest one: it is run again for that.
pub(super) fn costs(name: &str, scenario: &Scenario, ran: &[Ran], options: &RunOptions) -> String {
    let Some(first) = ran.iter().find_map(|r| r.result.as_ref().ok()) else {
        return String::new();
    };
    let mut text = String::new();
    for c in &first.costs {
        let mean = c.total / c.runs.max(1);
        let _ = writeln!(
            text,
            "{name}: {}: {} runs, {} instructions; {} to {} a run, {mean} on average; the longest \
             is run {}",
            c.prog, c.runs, c.total, c.best, c.worst, c.worst_at
        );
        let options = RunOptions { probe: Some(c.worst_events.clone()), ..options.clone() };
        if let Ok(again) = play(scenario, first.arch, &options) {
            text += &way(&again, c);
        }
    }
    text
}

/// The lines of a run in the order of their first time, with the times.
fn way(o: &Outcome, cost: &Cost) -> String {
    let mut order: Vec<(String, u32)> = Vec::new();
    let mut times: BTreeMap<(String, u32), (u64, String)> = BTreeMap::new();
    for p in &o.probe.points {
        let program = o.probe.progs.iter().find(|(_, loaded)| loaded.prog == p.prog);
        let Some((program, _)) = program.filter(|(p, _)| p.name == cost.prog) else { continue };
        let Some(line) = program.line_at(p.insn) else { continue };
        let key = (line.file_name().to_owned(), line.line);
        let entry = times.entry(key.clone()).or_insert_with(|| {
            order.push(key);
            (0, line.text.trim().to_owned())
        });
        entry.0 += 1;
    }
    let mut text = String::new();
    for key in order.iter().take(WAY_SHOWN) {
        let (n, source) = &times[key];
        let _ = writeln!(text, "  {n:>6}x  {}:{}: {source}", key.0, key.1);
    }
    if let Some(more) = order.len().checked_sub(WAY_SHOWN).filter(|n| *n > 0) {
        let _ = writeln!(text, "  and {more} lines more");
    }
    text
}
