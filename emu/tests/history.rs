//! A run gone over forward and back, stopped before any native instruction, is the same at each of
//! them as one that was not stopped.

use std::fs;
use std::path::Path;

use bpf::Arch;
use emu::runner::cells::{self, Cell};
use emu::runner::history::History;
use emu::runner::run;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

mod common;

use common::library;

/// Stops a run `stops` times at random positions, then goes to them again, in any order.
fn check(path: &Path, cell: &Cell, arch: Arch, stops: u64, max: usize) {
    let name = format!("{} {arch}", path.display());
    let text = fs::read_to_string(path).unwrap();
    let parsed = cells::read(path, &text, cell);
    let s = parsed.scenario.expect("the library parses");
    let options = cells::options(path, cell);
    let whole = run(&s, arch, &options).unwrap();
    let history = History::new(&s, arch, &options, max).unwrap();
    let mut history = history.with_interval(2000);
    let start = history.position();
    history.seek(u64::MAX).unwrap();
    let length = history.position() - start;
    let end = history.end().expect("it is at its end");
    assert_eq!(end.trace_hash, whole.trace_hash, "{name}: under a debugger");
    if length == 0 {
        return;
    }
    let mut rng = ChaCha8Rng::seed_from_u64(length);
    let mut marks: Vec<u64> = (0..stops).map(|_| start + rng.next_u64() % length).collect();
    // Neighbours: single steps.
    let first = marks[0];
    marks.extend((0..stops / 4).map(|n| first + n));
    marks.sort_unstable();
    let mut seen = Vec::new();
    for mark in &marks {
        let at = history.seek(*mark).unwrap();
        assert!(at >= *mark || history.is_over(), "{name}: {at} instead of {mark}");
        seen.push((at, history.state_hash()));
    }
    history.seek(u64::MAX).unwrap();
    let end = history.end().expect("it is at its end");
    assert_eq!(end.trace_hash, whole.trace_hash, "{name}: stopped {stops} times");
    assert_eq!(end.insns, whole.insns, "{name}");
    assert!(history.kept().0 <= max);
    for _ in 0..stops {
        let n = rng.next_u64() as usize % marks.len();
        assert_eq!(history.seek(marks[n]).unwrap(), seen[n].0, "{name}");
        assert_eq!(history.state_hash(), seen[n].1, "{name} at {}", seen[n].0);
    }
}

#[test]
fn forward_and_back_is_where_it_was() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/library");
    for (name, max) in [("lb/l4_lb.ron", 6), ("explore/abba.ron", 4), ("timers/ageing.ron", 4)] {
        for arch in [Arch::X86_64, Arch::S390x, Arch::Arm64, Arch::Riscv64] {
            check(&library.join(name), &Cell::default(), arch, 40, max);
        }
    }
}

/// The library, each scenario on one architecture, in turn.
#[test]
fn the_library_is_stopped_anywhere() {
    for (n, path) in library().iter().enumerate() {
        let text = fs::read_to_string(path).unwrap();
        let parsed = cells::read(path, &text, &Cell::default());
        let s = parsed.scenario.expect("the library parses");
        let cell = cells::cells(&s, 1).swap_remove(0);
        let allowed = cells::archs_of(&s, &cell, &cells::archs(&s));
        check(path, &cell, *allowed.get(n % 4).unwrap_or(&allowed[0]), 8, 16);
    }
}
