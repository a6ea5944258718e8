//! `--check-determinism`: every run again, on a machine of its own; memory and kernel state are
//! the same at every checkpoint, or something besides the file and the seed had a say.

use bpf::Arch;
use scenarios::Scenario;

use super::report::Report;
use super::{Exit, Ran, run_all};
use crate::runner::{Outcome, RunOptions};

/// Instructions between two checkpoints.
pub(super) const CHECKPOINT_INSNS: u64 = 4096;

/// Runs once more what could be run, and compares.
pub(super) fn check(
    name: &str,
    scenario: &Scenario,
    ran: &[Ran],
    options: &RunOptions,
    report: &mut Report,
) -> Exit {
    let first: Vec<&Outcome> = ran.iter().filter_map(|r| r.result.as_ref().ok()).collect();
    let archs: Vec<Arch> = first.iter().map(|o| o.arch).collect();
    let again = run_all(scenario, &archs, options);
    let mut exit = Exit::Ok;
    for (first, again) in first.into_iter().zip(&again) {
        let why = match &again.result {
            Ok(again) => differs(first, again),
            Err(e) => Some(format!("it failed: {e}")),
        };
        let (arch, n) = (first.arch, first.checkpoints.len());
        match why {
            None => {
                let what = if n == 1 { "checkpoint" } else { "checkpoints" };
                report.line(format!("{name} on {arch}: a second run is the same at {n} {what}"));
            }
            Some(why) => {
                exit = Exit::Internal;
                report.words(format!(
                    "error: {name} on {arch}: a second run is another: {why}\n  next: please \
                     report it with the files\n"
                ));
            }
        }
    }
    exit
}

/// Where two runs of one file came apart.
fn differs(a: &Outcome, b: &Outcome) -> Option<String> {
    let at = |c: &crate::runner::Checkpoint| {
        format!("instruction {} (after event {})", c.insns, c.events)
    };
    for (n, (x, y)) in a.checkpoints.iter().zip(&b.checkpoints).enumerate() {
        if x != y {
            let same = n.checked_sub(1).map(|n| at(&a.checkpoints[n]));
            let same = same.map_or("the start".to_owned(), |s| s);
            return Some(format!("the same up to {same}, not at {}", at(x)));
        }
    }
    if a.checkpoints.len() != b.checkpoints.len() {
        let (a, b) = (a.checkpoints.len(), b.checkpoints.len());
        return Some(format!("{a} and {b} checkpoints"));
    }
    (a.trace_hash != b.trace_hash).then(|| "the traces differ".to_owned())
}
