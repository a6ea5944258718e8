//! A run gone over forward and back is the same at each of its points.

use std::fs;
use std::path::Path;

use bpf::Arch;
use emu::runner::cells::{self, Cell};
use emu::runner::history::History;
use emu::runner::{RunOptions, run};

#[test]
fn forward_and_back_is_where_it_was() {
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/library");
    for (name, max) in [("lb/l4_lb.ron", 6), ("explore/abba.ron", 4), ("timers/ageing.ron", 4)] {
        let path = library.join(name);
        let text = fs::read_to_string(&path).unwrap();
        let parsed = cells::read(&path, &text, &Cell::default());
        let s = parsed.scenario.expect("the library parses");
        let options = RunOptions { dir: cells::folder(&path), ..RunOptions::default() };
        for arch in [Arch::X86_64, Arch::S390x] {
            let whole = run(&s, arch, &options).unwrap();
            let mut history = History::new(&s, arch, &options, max).unwrap();
            let steps = 37;
            let marks: Vec<u64> = (1..steps).map(|n| n * whole.insns / steps).collect();
            let mut seen = Vec::new();
            for mark in &marks {
                let at = history.seek(*mark).unwrap();
                seen.push((at, history.state_hash()));
            }
            assert!(history.kept().0 <= max, "{name} {arch}: {:?}", history.kept());
            // Every way there: backwards, in leaps, and on from a place in the middle.
            for n in (0..seen.len()).rev().chain([20, 3, 30, 7, 8, 35, 0]) {
                assert_eq!(history.seek(marks[n]).unwrap(), seen[n].0, "{name} {arch}");
                assert_eq!(history.state_hash(), seen[n].1, "{name} {arch} at {}", seen[n].0);
            }
            history.seek(u64::MAX).unwrap();
            let end = history.end().expect("it is at its end");
            assert_eq!(end.trace_hash, whole.trace_hash, "{name} {arch}");
            assert_eq!(end.insns, whole.insns, "{name} {arch}");
            assert!(history.kept().0 <= max);
            assert_eq!(history.seek(marks[5]).unwrap(), seen[5].0, "{name} {arch}");
            assert_eq!(history.state_hash(), seen[5].1, "{name} {arch}");
        }
    }
}
