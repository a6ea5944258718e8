//! Every coverage mark of the verifier is reached by some case.
//!
//! Marks are counted by process, so the cases are run here once more, in all the ways that the
//! marks are about; their verdicts are judged in the other suites.

#[allow(dead_code, reason = "each suite uses a part")]
mod common;

use common::case::{CASES, Case, files, read, types_of};
use verifier::explore::Opts;
use verifier::marks;

#[test]
fn all_marks_are_reached() {
    let all = Opts::default();
    let beyond = Opts { beyond: true, insns_max: 8, state_memory_max: 1 << 20, ..all };
    let ways = [
        all,
        Opts { log_level: 2, ..all },
        Opts { allow_ptr_leaks: false, ..all },
        Opts { bpf_capable: false, allow_ptr_leaks: false, ..all },
        Opts { test_state_freq: true, ..all },
        beyond,
    ];
    for path in files(CASES) {
        let types = types_of(&path);
        for (_, _, text) in read(&path) {
            let case = Case::beside(&text, types.clone());
            ways.iter().for_each(|o| drop(case.check(*o)));
        }
    }
    for path in files("tests/beyond") {
        for (_, _, text) in read(&path) {
            let case = Case::new(&text);
            let limit = Opts { insns_max: 40_000, ..all };
            let plain = Opts { bpf_capable: false, allow_ptr_leaks: false, ..limit };
            let ways = [limit, plain, Opts { beyond: true, ..limit }, beyond];
            ways.iter().for_each(|o| drop(case.check(*o)));
        }
    }
    let unreached = marks::unreached();
    assert!(unreached.is_empty(), "no case reaches: {unreached:#?}");
}
