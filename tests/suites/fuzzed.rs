//! Programs a generator found, with the verdict of Linux 6.18.

#[test]
fn verdicts_on_generated_programs() {
    let wrong = tests::fuzzed::findings().expect("the corpus can be read");
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), wrong.join("\n"));
}
