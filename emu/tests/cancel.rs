//! Every program of the library is cancelled at points all over its runs and ends clean, within its
//! bound. `CANCEL_EVERY=1` tries them all; `orrery cancel` prints the figures.
#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]

use std::fs;
use std::path::{Path, PathBuf};

use bpf::Arch;
use emu::machine::sweep::Report;
use emu::runner::cells::{self, Cell};
use emu::runner::{RunOptions, run};

/// Scenarios below a folder.
fn scenarios(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            scenarios(&path, out);
        } else if path.extension().is_some_and(|e| e == "ron") {
            out.push(path);
        }
    }
}

/// One run of a scenario's first cell; `None` when the architecture is not among its own.
fn sweep(path: &Path, arch: Arch, every: u64) -> Option<Report> {
    let text = fs::read_to_string(path).unwrap();
    let first = cells::read(path, &text, &Cell::default()).scenario?;
    let cell = cells::cells(&first, 1).into_iter().next()?;
    let archs = cells::archs_of(&first, &cell, &cells::archs(&first));
    let scenario = cells::read(path, &text, &cell).scenario?;
    let options = RunOptions {
        dir: cells::folder(path),
        seed: cell.seed,
        cpus: cell.cpus,
        cancel_every: Some(every),
        ..RunOptions::default()
    };
    if !archs.contains(&arch) {
        return None;
    }
    run(&scenario, arch, &options).ok()?.sweep
}

#[test]
fn programs_cancelled_anywhere_end_clean() {
    let every = std::env::var("CANCEL_EVERY").ok().and_then(|v| v.parse().ok());
    let mut all = Vec::new();
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/library");
    scenarios(&library, &mut all);
    all.sort();
    let (mut tried, mut dirty) = (0, Vec::new());
    for (n, path) in all.iter().enumerate() {
        // One architecture each, in turn: the points are the same ones on all.
        let Some(r) = sweep(path, Arch::ALL[n % 4], every.unwrap_or(997)) else { continue };
        tried += r.tried;
        dirty.extend(r.dirty.into_iter().map(|d| format!("{}: {d}", path.display())));
    }
    assert!(tried > 100, "{tried} points");
    assert!(dirty.is_empty(), "\n{}", dirty.join("\n"));
}
