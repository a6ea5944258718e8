//! Damaged input of every kind ends in an error or a value: never in a panic, a hang, memory
//! without bound, or engines that differ.
//!
//! Each suite does a fixed number of cases from a fixed seed, as `orrery fuzz objects`, `scenarios`
//! and `gdb` do it without end (`./x fuzz`). What they find is in `corpus/damaged`, a file named by
//! what was wrong, and stays right.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use emu::hostile::objects::Objects;
use emu::hostile::own;
use emu::hostile::scenarios::Scenarios;
use emu::hostile::sessions::Sessions;
use emu::hostile::{Input, Limits, Subject, each, try_one};

/// Files of the tree with an ending, in order.
fn files(folders: &[&str], ending: &str) -> Vec<Input> {
    let folders: Vec<PathBuf> = folders.iter().map(|f| tests::root().join(f)).collect();
    let found = own::files(&folders, &[ending]).unwrap();
    assert!(!found.is_empty(), "no {ending} in {folders:?}");
    found
}

/// Tries the inputs of so many seeds, and what was found before.
fn check(subject: impl Subject + 'static, cases: u64, found_before: &str) {
    let subject: Arc<dyn Subject> = Arc::new(subject);
    let (mut found, mut tried) = (Vec::new(), 0);
    let corpus = tests::root().join("tests/corpus/damaged");
    for input in own::files(&[corpus], &[found_before]).unwrap() {
        if let Err(words) = try_one(&*subject, &input, &Arc::new(AtomicBool::new(false))) {
            found.push(format!("{}: {words}", input.name));
        }
    }
    let jobs = std::thread::available_parallelism().map_or(1, usize::from);
    each(&subject, 1..1 + cases, Limits { jobs, ..Limits::default() }, &mut |t| {
        tried += 1;
        if let Err(finding) = t.came {
            found.push(format!("seed {}, of {}: {}", t.seed, t.input.name, finding.words));
        }
        true
    });
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert_eq!(tried, cases);
}

/// ELF, BTF, BTF.ext; what is accepted runs.
#[test]
fn objects() {
    let good = files(&["tests/corpus/objects", "scenarios/library", "emu/tests"], ".bpf.o");
    check(Objects::new(good), 2000, ".bpf.o");
}

#[test]
fn scenarios() {
    check(Scenarios::new(files(&["scenarios"], ".ron")), 500, ".ron");
}

#[test]
fn captures() {
    let mut good = files(&["scenarios/library"], ".pcap");
    good.extend(files(&["tests/corpus/captures"], ".pcapng"));
    check(Scenarios::new(good), 3000, ".pcap");
}

#[test]
fn sessions() {
    check(Sessions::new(&files(&["scenarios/library/basics"], ".ron")), 300, ".gdb.txt");
}
