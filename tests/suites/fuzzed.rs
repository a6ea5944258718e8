//! Programs a generator found, with the verdict of Linux 6.18; and programs it makes, run with
//! every register compared with what the verifier believed.

use emu::cli::fuzz::{Soundness, soundness_of};
use verifier::explore::Opts;
use verifier::testing::Flaw;

#[test]
fn verdicts_on_generated_programs() {
    let wrong = tests::fuzzed::findings().expect("the corpus can be read");
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), wrong.join("\n"));
}

fn holds(found: &Soundness) {
    assert!(found.wrong.is_empty(), "{}", found.wrong.join("\n"));
    assert!(found.accepted > 100, "{} accepted", found.accepted);
    assert!(found.ran.whole > 200 && found.ran.checked > 10_000, "{:?}", found.ran);
}

#[test]
fn registers_are_what_the_verifier_believed() {
    holds(&soundness_of(1..600, Opts::default()));
}

#[test]
fn without_perfmon_no_address_gets_out() {
    holds(&soundness_of(10_000..10_600, Opts { allow_ptr_leaks: false, ..Opts::default() }));
}

#[test]
fn a_wrong_transfer_function_is_found() {
    let flaws = [
        Flaw::OrKeepsBits,
        Flaw::ShiftsToLittle,
        Flaw::NarrowAddIsSmall,
        Flaw::CallsFindSomething,
        Flaw::PacketIsLonger,
        Flaw::SpillsAreZero,
    ];
    for flaw in flaws {
        let opts = Opts { flaw: Some(flaw), ..Opts::default() };
        let hit = (0..20).any(|n| !soundness_of(n * 200..(n + 1) * 200, opts).wrong.is_empty());
        assert!(hit, "{flaw:?} was not found");
    }
}
