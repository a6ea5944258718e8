//! The annotated programs of the corpus, as `orrery conform` runs them: what helpers and operations
//! on maps return, errno by errno, on every engine; and in the kernel of this machine, where that
//! may be asked.

use std::path::Path;
use std::process::Command;

/// Runs the corpus with arguments; the JSON lines.
fn conform(args: &[&str]) -> Vec<serde_json::Value> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/conform");
    let mut command = Command::new(env!("CARGO_BIN_EXE_orrery"));
    let out = command.args(["conform", "--json"]).args(args).arg(corpus).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let records: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let failed: Vec<String> =
        records.iter().filter(|r| r["outcome"] == "fail").map(ToString::to_string).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(out.status.code(), Some(0));
    records
}

#[test]
fn helpers_and_maps_on_every_engine() {
    let passed = |r: &&serde_json::Value| r["outcome"] == "pass";
    let n = conform(&[]).iter().filter(passed).count();
    assert!(n > 1000, "{n} passed");
}

#[test]
fn helpers_and_maps_in_the_kernel_of_this_machine() {
    let records = conform(&["--engine", "host"]);
    let skipped = records.iter().find(|r| r["outcome"] == "skip");
    if let Some(r) = skipped.filter(|_| !records.iter().any(|r| r["outcome"] == "pass")) {
        println!("skipped: {}", r["note"]);
    }
}
