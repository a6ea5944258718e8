//! The pairs of the library: a search finds what is wrong with the one, writes a scenario that
//! shows it on every architecture, and finds nothing wrong with the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const PAIRS: [&str; 2] = ["lost_update", "abba"];

fn orrery(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orrery")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A copy of the library's folder, to write into.
fn folder(name: &str) -> PathBuf {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/library/explore");
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _fresh = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
    }
    to
}

#[test]
fn a_search_finds_the_bug_of_each_pair_and_the_fixed_twin_survives() {
    let dir = folder("explore-pairs");
    let at = |leaf: String| dir.join(leaf).display().to_string();
    for name in PAIRS {
        for strategy in ["random", "pct", "dfs"] {
            let bug = at(format!("{name}.ron"));
            let seeds = if strategy == "dfs" { &[][..] } else { &["--seeds", "1000"] };
            let wanted = [&["explore", &bug, "--strategy", strategy], seeds].concat();
            let found = orrery(&wanted);
            let said = text(&found.stdout);
            assert_eq!(found.status.code(), Some(1), "{said}{}", text(&found.stderr));
            assert!(said.contains("replays on x86_64, arm64, riscv64, s390x"), "{said}");
            let written = at(format!("{name}.found.ron"));
            let ron = fs::read_to_string(&written).unwrap();
            assert!(ron.starts_with("// Found by `orrery explore`"), "{ron}");
            assert!(ron.contains("schedule: Pinned("), "{ron}");
            // The same command, the same words, however many threads.
            let jobs = if strategy == "dfs" { "1" } else { "3" };
            let again = orrery(&[&wanted[..], &["--jobs", jobs]].concat());
            assert_eq!(text(&again.stdout), said);
            assert_eq!(fs::read_to_string(&written).unwrap(), ron);
            let replayed = orrery(&["replay", "--arch", "all", &written]);
            assert_eq!(replayed.status.code(), Some(1), "{}", text(&replayed.stderr));
            assert_eq!(text(&replayed.stdout).matches("FAILED").count(), 4);
            let fixed = at(format!("{name}_fixed.ron"));
            let wanted = [&["explore", &fixed, "--strategy", strategy], seeds].concat();
            let nothing = orrery(&wanted);
            let said = text(&nothing.stdout);
            assert_eq!(nothing.status.code(), Some(0), "{said}{}", text(&nothing.stderr));
            assert_eq!(said.contains("every interleaving was tried"), strategy == "dfs", "{said}");
        }
    }
}

#[test]
fn a_stale_schedule_is_an_error_at_its_place_and_repin_puts_it_right() {
    let dir = folder("explore-stale");
    let bug = dir.join("lost_update.ron").display().to_string();
    let file = dir.join("lost_update.found.ron");
    let written = file.display().to_string();
    assert_eq!(orrery(&["explore", &bug]).status.code(), Some(1));
    let good = fs::read_to_string(&file).unwrap();
    let after = good.find("after: ").map(|at| &good[at..at + 8]).unwrap();
    fs::write(&file, good.replacen(after, "after: 0", 1)).unwrap();
    let refused = orrery(&["replay", &written]);
    assert_eq!(refused.status.code(), Some(2));
    let said = text(&refused.stderr);
    assert!(said.contains("the schedule is stale"), "{said}");
    assert!(said.contains("lost_update.found.ron:") && said.contains("orrery repin"), "{said}");
    let repinned = orrery(&["repin", &written]);
    assert_eq!(repinned.status.code(), Some(0), "{}", text(&repinned.stderr));
    assert_eq!(fs::read_to_string(&file).unwrap(), good, "{}", text(&repinned.stdout));
}

#[test]
fn shards_are_kept_resumed_and_joined() {
    let dir = folder("explore-shards");
    let fixed = dir.join("abba_fixed.ron").display().to_string();
    let state = dir.join("state").display().to_string();
    let all = orrery(&["explore", &fixed, "--seeds", "300", "--json"]);
    let all: serde_json::Value = serde_json::from_slice(&all.stdout).unwrap();
    for shard in ["0/3", "1/3", "2/3"] {
        // In two goes.
        for seeds in ["150", "300"] {
            let args = ["explore", &fixed, "--shard", shard, "--seeds", seeds, "--state", &state];
            assert_eq!(orrery(&args).status.code(), Some(0));
        }
    }
    let files = ["0of3", "1of3", "2of3"].map(|s| format!("{state}/abba_fixed.{s}.json"));
    let files: Vec<&str> = files.iter().map(String::as_str).collect();
    let joined = orrery(&[&["explore", "merge", "--json"], &files[..]].concat());
    assert_eq!(joined.status.code(), Some(0), "{}", text(&joined.stderr));
    let joined: serde_json::Value = serde_json::from_slice(&joined.stdout).unwrap();
    for what in ["runs", "interleavings", "found"] {
        assert_eq!(joined[what], all[what], "{what}");
    }
}
