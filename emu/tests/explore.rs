//! The pairs of the library: a search finds what is wrong with the one, writes a scenario that
//! shows it on every architecture, and finds nothing wrong with the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

const PAIRS: [&str; 3] = ["lost_update", "abba", "preempt"];

fn orrery(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_orrery")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Copies of the scenarios and of their objects, in a folder to write into.
fn folder(name: &str) -> PathBuf {
    let to = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _fresh = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).unwrap();
    let library = "../scenarios/library";
    let topics = ["explore", "memory", "faults"].map(|topic| format!("{library}/{topic}"));
    let folders = topics.iter().map(String::as_str).chain(["tests/explore"]);
    for from in folders.map(|f| Path::new(env!("CARGO_MANIFEST_DIR")).join(f)) {
        for entry in fs::read_dir(from).unwrap() {
            let path = entry.unwrap().path();
            fs::copy(&path, to.join(path.file_name().unwrap())).unwrap();
        }
    }
    to
}

fn json(output: &Output) -> serde_json::Value {
    let said = format!("{}{}", text(&output.stdout), text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {said}"))
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
            let again = orrery(&[&wanted[..], &["--jobs", "3"]].concat());
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

/// Searches, replays what was written, and gives both outputs.
fn found(dir: &Path, leaf: &str, more: &[&str], kind: &str) -> String {
    let file = dir.join(leaf).display().to_string();
    let found = orrery(&[&["explore", &file], more].concat());
    let said = text(&found.stdout);
    assert_eq!(found.status.code(), Some(1), "{said}{}", text(&found.stderr));
    assert!(said.contains(kind), "{kind}: {said}");
    assert!(said.contains("replays on x86_64, arm64, riscv64, s390x"), "{said}");
    said
}

fn replayed(dir: &Path, leaf: &str) -> (Option<i32>, String) {
    let file = dir.join(leaf).display().to_string();
    let output = orrery(&["replay", "--arch", "all", &file]);
    (output.status.code(), format!("{}{}", text(&output.stdout), text(&output.stderr)))
}

#[test]
fn findings_of_each_kind_are_written_and_replay() {
    let dir = folder("explore-kinds");
    for (name, more, kind, words) in [
        ("fault.ron", &["--seeds", "100"][..], "found a fault", "found by bpf_probe_read_kernel"),
        ("stall.ron", &["--seeds", "100"], "found a stall", "rcu stall"),
        ("lost_update.ron", &["--seeds", "100", "--races"], "found a race", "data race"),
        (
            "divergence.ron",
            &["--seeds", "4", "--arch", "all"],
            "found architectures that differ",
            "s390x",
        ),
    ] {
        found(&dir, name, more, kind);
        let (code, said) = replayed(&dir, &name.replace(".ron", ".found.ron"));
        assert_eq!(code, Some(1), "{name}: {said}");
        assert!(said.contains(words), "{name}: {said}");
    }
}

#[test]
fn a_leak_that_a_fault_makes_is_found_and_the_fixed_twin_survives() {
    let dir = folder("explore-leak");
    let faults = ["--strategy", "dfs", "--faults"];
    found(&dir, "slots.ron", &faults, "found an expectation that does not hold: slots: used");
    let ron = fs::read_to_string(dir.join("slots.found.ron")).unwrap();
    assert!(
        ron.contains("faults: [Call(func: \"bpf_ringbuf_reserve\", nth: 1, ret: NULL)]"),
        "{ron}"
    );
    let (code, said) = replayed(&dir, "slots.found.ron");
    assert_eq!((code, said.matches("FAILED").count()), (Some(1), 4), "{said}");
    let fixed = dir.join("slots_fixed.ron").display().to_string();
    let nothing = orrery(&[&["explore", &fixed], &faults[..]].concat());
    let said = text(&nothing.stdout);
    assert_eq!(nothing.status.code(), Some(0), "{said}{}", text(&nothing.stderr));
    assert!(said.contains("every interleaving was tried"), "{said}");
}

#[test]
fn two_faults_together_are_tried_after_each_alone() {
    let dir = folder("explore-both");
    found(&dir, "both.ron", &["--seeds", "3000", "--faults"], "found an expectation");
    let ron = fs::read_to_string(dir.join("both.found.ron")).unwrap();
    let faults = ron.split("faults: [").nth(1).and_then(|f| f.split("],").next()).unwrap();
    assert_eq!(faults.matches("Alloc(").count(), 2, "{ron}");
    assert!(ron.contains("With the faults Alloc("), "{ron}");
    let (code, said) = replayed(&dir, "both.found.ron");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("no_memory"), "{said}");
}

#[test]
fn what_was_found_is_made_small_and_what_was_tried_is_told() {
    let dir = folder("explore-small");
    let said = found(&dir, "many.ron", &["--seeds", "200"], "found an expectation");
    assert!(said.contains("machine.cpus 6 to 2"), "{said}");
    assert!(said.contains(" tries: ") && said.contains(" parts left out"), "{said}");
    let ron = fs::read_to_string(dir.join("many.found.ron")).unwrap();
    assert!(!ron.contains("\"none\"") && !ron.contains("Send("), "{ron}");
}

#[test]
fn the_cells_of_a_matrix_are_searched_each_or_one_by_name() {
    let dir = folder("explore-cells");
    let said = found(&dir, "cells.ron", &["--seeds", "60"], "found an expectation");
    assert!(said.contains("cells[cpus=2,prog=count_fixed] (pct): 60 runs"), "{said}");
    let nothing = said.lines().find(|l| l.starts_with("cells[cpus=2,prog=count_fixed]")).unwrap();
    assert!(nothing.ends_with("nothing was found"), "{said}");
    let (code, replay) = replayed(&dir, "cells[cpus=2,prog=count].found.ron");
    assert_eq!(code, Some(1), "{replay}");
    let file = dir.join("cells.ron").display().to_string();
    let one = |cell| orrery(&["explore", &file, "--seeds", "60", "--cell", cell]);
    let first = one("[cpus=2,prog=count_fixed]");
    assert_eq!(first.status.code(), Some(0));
    assert_eq!(text(&first.stdout).trim_end(), nothing);
    let none = one("[cpus=3]");
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("no cell [cpus=3]"));
}

/// What is found keeps a matrix of its one cell: the file that is included is not changed.
#[test]
fn a_variable_may_stand_in_an_included_file() {
    let dir = folder("explore-included");
    let said = found(&dir, "included.ron", &["--seeds", "60"], "found an expectation");
    assert!(said.contains("included[prog=count_fixed] (pct): 60 runs"), "{said}");
    let (code, replay) = replayed(&dir, "included[prog=count].found.ron");
    assert_eq!(code, Some(1), "{replay}");
}

#[test]
fn a_search_of_everything_is_the_same_on_many_threads_and_in_shards() {
    let dir = folder("explore-dfs");
    let file = dir.join("lost_update_fixed.ron").display().to_string();
    let wanted = ["explore", &file, "--strategy", "dfs"];
    let whole = orrery(&wanted);
    let threads = orrery(&[&wanted[..], &["--jobs", "3"]].concat());
    assert_eq!(text(&threads.stdout), text(&whole.stdout));
    assert!(text(&whole.stdout).contains("every interleaving was tried"));
    let state = dir.join("state").display().to_string();
    for shard in ["0/2", "1/2"] {
        let args = [&wanted[..], &["--shard", shard, "--state", &state]].concat();
        assert_eq!(orrery(&args).status.code(), Some(0));
    }
    let files = ["0of2", "1of2"].map(|s| format!("{state}/lost_update_fixed.{s}.json"));
    let joined = orrery(&["explore", "merge", "--json", &files[0], &files[1]]);
    let whole = json(&orrery(&[&wanted[..], &["--json"]].concat()));
    let joined = json(&joined);
    assert_eq!(joined["states"], whole["states"]);
    assert_eq!(joined["complete"], serde_json::Value::Bool(true));
    let half = orrery(&["explore", "merge", "--json", &files[0]]);
    assert_eq!(json(&half)["complete"], serde_json::Value::Bool(false));
    let bug = dir.join("abba.ron").display().to_string();
    let all = orrery(&["explore", &bug, "--strategy", "dfs", "--arch", "all"]);
    assert_eq!(all.status.code(), Some(1), "{}", text(&all.stderr));
}

/// A search in a process of its own, until its state says that it is on its way.
fn begun(args: &[&str], state: &Path) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_orrery"))
        .args(args)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let began = Instant::now();
    while !state.exists() {
        let ended = child.try_wait().unwrap();
        assert!(ended.is_none() && began.elapsed() < Duration::from_secs(120), "{ended:?}");
        sleep(Duration::from_millis(20));
    }
    child
}

/// What a state has behind it: runs, and for a search of everything the ways left to try.
fn behind(state: &Path) -> u64 {
    let state: serde_json::Value = serde_json::from_slice(&fs::read(state).unwrap()).unwrap();
    let frontier = &state["frontier"];
    let ways = |f: &serde_json::Value| f["runs"].as_u64().unwrap() + f["pruned"].as_u64().unwrap();
    if frontier.is_null() { state["next"].as_u64().unwrap() } else { ways(frontier) }
}

#[test]
fn a_search_that_was_killed_or_stopped_is_gone_on_with_and_nothing_counts_twice() {
    let dir = folder("explore-kill");
    let file = dir.join("long.ron").display().to_string();
    for (strategy, signal) in [("random", "KILL"), ("pct", "INT"), ("dfs", "KILL"), ("dfs", "INT")]
    {
        let folder = dir.join(format!("{strategy}-{signal}"));
        let (kept, state) = (folder.join("long.0of1.json"), folder.display().to_string());
        let wanted = ["explore", &file, "--strategy", strategy, "--jobs", "2", "--json"];
        let with_state = [&wanted[..], &["--state", &state]].concat();
        let child = begun(&[&with_state[..], &["--seeds", "10000000"]].concat(), &kept);
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status();
        assert!(sent.unwrap().success());
        let ended = child.wait_with_output().unwrap();
        assert_eq!(ended.status.code(), (signal == "INT").then_some(0), "{strategy} {signal}");
        if signal == "INT" {
            assert_eq!(json(&ended)["stopped"], serde_json::Value::Bool(true));
            assert!(text(&ended.stderr).contains("the same command goes on from here"));
        }
        let seeds = (behind(&kept) + 100).to_string();
        let resumed = json(&orrery(&[&with_state[..], &["--seeds", &seeds]].concat()));
        let whole = json(&orrery(&[&wanted[..], &["--seeds", &seeds]].concat()));
        assert_eq!(resumed, whole, "{strategy} {signal}");
        assert!(whole["runs"].as_u64().unwrap() > 0);
        // Another search does not go on from there.
        let other = orrery(&[&with_state[..], &["--seed", "7"]].concat());
        assert_eq!(other.status.code(), Some(2));
        assert!(text(&other.stderr).contains("is of another search"), "{}", text(&other.stderr));
    }
}

/// Programs were edited: what a pinned schedule names is no longer there, though the run would
/// not come to it.
#[test]
fn places_that_are_gone_are_errors_before_anything_runs() {
    let dir = folder("explore-gone");
    let locks = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/library/locks");
    let text = fs::read_to_string(locks.join("abba_pinned.ron")).unwrap();
    let text = text.replace("abba.bpf.o", &format!("{}/abba.bpf.o", locks.display()));
    let file = dir.join("gone.ron");
    for (was, is, said) in [
        ("at: \"a_then_b: ", "at: \"a_then_d: ", "no program `a_then_d`"),
        ("bpf_res_spin_lock(&A) returned", "bpf_res_spin_lock(&Z) returned", "the name in `Z`"),
        ("bpf_res_spin_lock(&A) returned", "bpf_spin_lock(&A) returned", "no such place"),
        (
            "a_then_b: bpf_res",
            "a_then_b: again at abba.bpf.c:1\", to: 1), (cpu: 0, after: 9, \
          at: \"a_then_b: bpf_res",
            "no such place",
        ),
        ("after: 2, at: \"a_then_b", "after: 0, at: \"a_then_b", "counted from 1"),
        ("a_then_b: bpf_res_spin_lock(&A) returned", "nowhere", "names no place"),
    ] {
        assert!(text.contains(was), "{was}");
        fs::write(&file, text.replacen(was, is, 1)).unwrap();
        let refused = orrery(&["replay", &file.display().to_string()]);
        let err = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{is}: {err}");
        assert!(err.contains("the schedule is stale") && err.contains(said), "{is}: {err}");
        assert!(err.contains("gone.ron:12:"), "{is}: {err}");
    }
}
