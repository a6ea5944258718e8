//! The annotated programs of the corpus, as `orrery conform` runs them: what helpers and operations
//! on maps return, errno by errno, and what the verifier refuses, rule by rule, on every engine;
//! and in the kernel of this machine, where that may be asked.

use std::path::{Path, PathBuf};
use std::process::Command;

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus")
}

/// Runs folders of the corpus with arguments; the JSON lines.
fn conform(folders: &[&str], args: &[&str]) -> Vec<serde_json::Value> {
    let folders = folders.iter().map(|f| corpus().join(f));
    let mut command = Command::new(env!("CARGO_BIN_EXE_orrery"));
    let out = command.args(["conform", "--json"]).args(args).args(folders).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    let records: Vec<serde_json::Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let failed: Vec<String> =
        records.iter().filter(|r| r["outcome"] == "fail").map(ToString::to_string).collect();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(out.status.code(), Some(0));
    records
}

/// Programs that each break one rule, and what is left of the rules.
#[test]
fn every_engine() {
    let report = Path::new(env!("CARGO_TARGET_TMPDIR")).join("coverage.txt");
    let args = ["--btf", "model", "--coverage", report.to_str().unwrap()];
    let records = conform(&["conform", "verifier"], &args);
    let n = records.iter().filter(|r| r["outcome"] == "pass").count();
    assert!(n > 2500 && n == records.len(), "{n} of {} passed", records.len());
    for folder in ["conform", "verifier"] {
        let entries = std::fs::read_dir(corpus().join(folder)).unwrap();
        let names = entries.map(|e| e.unwrap().path().display().to_string());
        for object in names.filter(|n| n.ends_with(".bpf.o")) {
            let of = |r: &serde_json::Value| r["case"].as_str().unwrap().starts_with(&object);
            assert!(records.iter().any(of), "{object} has cases");
        }
    }
    let report = std::fs::read_to_string(report).unwrap();
    let (counted, rules) = report.split_once("why no program breaks it\n").unwrap();
    for line in counted.lines().filter(|l| l.starts_with("call ") && l.split('\t').count() == 3) {
        let columns: Vec<&str> = line.split('\t').collect();
        let case = columns[1] != "0";
        assert!(case == columns[2].is_empty(), "a case or a reason, and not both: {line}");
    }
    let (mut reached, mut wrong) = (0, Vec::new());
    for rule in rules.lines() {
        let columns: Vec<&str> = rule.split('\t').collect();
        let broken = columns[1] != "0";
        reached += usize::from(broken);
        wrong.extend((broken && !columns[3].is_empty()).then_some(rule));
    }
    assert!(wrong.is_empty(), "these were broken after all: {wrong:#?}");
    assert!(reached > RULES_MIN, "{reached} rules are reached");
}

/// Rules of the verifier that the corpus reaches, at least.
const RULES_MIN: usize = 350;

#[test]
fn the_kernel_of_this_machine() {
    let records = conform(&["conform"], &["--engine", "host"]);
    let skipped = records.iter().find(|r| r["outcome"] == "skip");
    if let Some(r) = skipped.filter(|_| !records.iter().any(|r| r["outcome"] == "pass")) {
        println!("skipped: {}", r["note"]);
    }
}
