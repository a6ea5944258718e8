//! `--check-determinism`: every run again, on a machine of its own; memory and kernel state are
//! the same at every checkpoint, or something besides the file and the seed had a say.

use bpf::Arch;
use scenarios::Scenario;

use super::report::Report;
use super::{Exit, Ran, diverge, run_all};
use crate::runner::trace::Keep;
use crate::runner::{Checkpoint, Outcome, RunOptions, run as play};

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
            Ok(again) => differs(&State::of(first), &State::of(again))
                .map(|why| why + &event(scenario, first.arch, options)),
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

/// What is compared of a run.
struct State<'a> {
    checkpoints: &'a [Checkpoint],
    trace_hash: u64,
}

impl State<'_> {
    fn of(o: &Outcome) -> State<'_> {
        State { checkpoints: &o.checkpoints, trace_hash: o.trace_hash }
    }
}

/// Where two runs of one file came apart.
fn differs(a: &State<'_>, b: &State<'_>) -> Option<String> {
    let at = |c: &Checkpoint| format!("instruction {} (after event {})", c.insns, c.events);
    for (n, (x, y)) in a.checkpoints.iter().zip(b.checkpoints).enumerate() {
        if x != y {
            let same = n.checked_sub(1).map(|n| at(&a.checkpoints[n]));
            let same = same.unwrap_or("the start".to_owned());
            let there = if (x.insns, x.events) == (y.insns, y.events) {
                at(x)
            } else {
                format!("{} or {}", at(x), at(y))
            };
            let (n, all) = (n + 1, a.checkpoints.len());
            return Some(format!("the same up to {same}, not at {there}, checkpoint {n} of {all}"));
        }
    }
    if a.checkpoints.len() != b.checkpoints.len() {
        let (a, b) = (a.checkpoints.len(), b.checkpoints.len());
        return Some(format!("{a} and {b} checkpoints"));
    }
    (a.trace_hash != b.trace_hash).then(|| "the traces differ".to_owned())
}

/// The first event that differs: traces are not kept for nothing, so this is seen in two more runs.
fn event(scenario: &Scenario, arch: Arch, options: &RunOptions) -> String {
    let mut options = options.clone();
    options.keep = Keep { compared: true, ..Keep::default() };
    let runs = [play(scenario, arch, &options), play(scenario, arch, &options)];
    let [Ok(a), Ok(b)] = &runs else { return String::new() };
    let Some(at) = diverge::first(&a.compared, &b.compared) else {
        return "; two more runs have one trace".to_owned();
    };
    let line = |o: &Outcome| o.compared.get(at).map_or("the end", String::as_str).to_owned();
    format!("; event {} of two more runs is `{}` and `{}`", at + 1, line(a), line(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_checkpoint_that_differs_is_named() {
        let checkpoint = |insns, hash| Checkpoint { insns, events: 3, hash };
        let a = [checkpoint(4096, 1), checkpoint(8192, 2), checkpoint(9000, 3)];
        let mut b = a;
        fn state(checkpoints: &[Checkpoint]) -> State<'_> {
            State { checkpoints, trace_hash: 5 }
        }
        assert_eq!(differs(&state(&a), &state(&b)), None);
        (b[1].hash, b[2].hash) = (7, 8);
        let why = differs(&state(&a), &state(&b)).unwrap();
        assert_eq!(
            why,
            "the same up to instruction 4096 (after event 3), not at instruction 8192 (after event \
             3), checkpoint 2 of 3"
        );
        let other = State { checkpoints: &a, trace_hash: 6 };
        assert_eq!(differs(&state(&a), &other).unwrap(), "the traces differ");
    }
}
