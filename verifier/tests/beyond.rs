//! Beyond the kernel's limits: what 6.18 gives up on, and what must still be refused.
//!
//! A case of `beyond/*.bpfasm` is `; == TITLE: WHAT THE KERNEL SAYS => WHAT IS SAID BEYOND` and a
//! program; `too complex` stands for the kernel's messages of its limits. What is accepted beyond
//! them is run in the reference interpreter with several seeds: it may touch nothing that is not
//! its own, and it must end.

#[allow(dead_code, reason = "each suite uses a part")]
mod common;
#[path = "common/generated.rs"]
mod generated;

use std::fmt::Write as _;

use common::case::{CASES, Case, files, read, types_of};
use common::run::{Ran, run};
use verifier::annotated::verdict;
use verifier::explore::Opts;
use verifier::explore::beyond::Report;

/// Instructions an accepted program may run: more than any loop of the cases needs, unless its
/// counter has 32 bits.
const FUEL: u64 = 200_000_000;
/// The kernel's limit is a million; the cases are as much too long for this one.
const LIMIT: u32 = 40_000;
/// Runs of each accepted program.
const SEEDS: u64 = 3;

/// What the kernel says at its limits.
const TOO_COMPLEX: &str = "too complex";

fn short(v: String) -> String {
    let limit = ["BPF program is too large", "The sequence of ", "state memory limit of "];
    let said = v.split_once(' ').map_or("", |(_, m)| m);
    if limit.iter().any(|l| said.starts_with(l)) { TOO_COMPLEX.to_owned() } else { v }
}

/// Runs an accepted program; what went wrong.
fn runs(case: &Case, report: Option<&Report>) -> Option<String> {
    // A loop that takes longer than a test may.
    let long = report.is_some_and(|r| r.loops.iter().any(|l| l.trips > FUEL / 20));
    (0..SEEDS).find_map(|seed| match run(case, seed, if long { FUEL / 20 } else { FUEL }) {
        Ran::Returned(_) => None,
        Ran::OutOfFuel if long => None,
        other => Some(format!("seed {seed}: {other:?}")),
    })
}

#[test]
fn beyond_the_limits() {
    let mut wrong = String::new();
    for path in files("tests/beyond") {
        for (name, want, text) in read(&path) {
            let (kernel, beyond) = want.split_once(" => ").expect("a case has two expectations");
            let case = Case::new(&text);
            let got = short(verdict(&case.check(Opts { insns_max: LIMIT, ..Opts::default() })));
            let opts = Opts { insns_max: LIMIT, beyond: true, ..Opts::default() };
            let r = case.check(opts);
            let got_beyond = short(verdict(&r));
            let file = path.display();
            if got != kernel || got_beyond != beyond {
                let _ = writeln!(wrong, "{file}: {name}: want {want}\n  got {got} => {got_beyond}");
                let _ = writeln!(wrong, "  {:?}", r.beyond);
            }
            if r.result.is_ok()
                && let Some(how) = runs(&case, r.beyond.as_ref())
            {
                let _ = writeln!(wrong, "{file}: {name}: {how}");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// What the kernel accepts is accepted, and what it refuses for another reason than its limits is
/// refused in its words.
#[test]
fn the_kernels_verdicts_stand() {
    let mut wrong = String::new();
    for path in files(CASES) {
        let types = types_of(&path);
        for (name, want, text) in read(&path) {
            let case = Case::beside(&text, types.clone());
            let got = verdict(&case.check(Opts { beyond: true, ..Opts::default() }));
            if got != want && short(want.clone()) != TOO_COMPLEX {
                let _ = writeln!(wrong, "{}: {name}: want {want}, got {got}", path.display());
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// With a limit so low that nearly every loop goes beyond it: nothing that the kernel refuses is
/// accepted.
#[test]
fn what_is_refused_stays_refused() {
    let mut wrong = String::new();
    for path in files(CASES) {
        let types = types_of(&path);
        for (name, want, text) in read(&path) {
            let opts = Opts { beyond: true, insns_max: 8, ..Opts::default() };
            let got = verdict(&Case::beside(&text, types.clone()).check(opts));
            if got == "accepted" && want != "accepted" && short(want.clone()) != TOO_COMPLEX {
                let _ = writeln!(wrong, "{}: {name}: want {want}, got {got}", path.display());
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}
