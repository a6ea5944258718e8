//! Every program of the library is cancelled at points all over its runs and ends clean, within its
//! bound. `CANCEL_EVERY=1` tries them all; `orrery cancel` prints the figures, for all cells and
//! architectures.
#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]

use std::fs;
use std::path::Path;

use bpf::Arch;
use emu::machine::sweep::Report;
use emu::runner::cells::{self, Cell};
use emu::runner::{RunOptions, run};

mod common;

use common::each_in_library;

/// One run of a scenario's first cell; `None` when the architecture is not among its own.
fn sweep(path: &Path, arch: Arch, every: u64) -> Option<Report> {
    let text = fs::read_to_string(path).unwrap();
    let named = |what: &str| format!("{}: {what}", path.display());
    let first = cells::read(path, &text, &Cell::default()).scenario;
    let first = first.unwrap_or_else(|| panic!("{}", named("is no valid scenario")));
    let cell = cells::cells(&first, 1).into_iter().next().expect("a cell");
    let archs = cells::archs_of(&first, &cell, &cells::archs(&first));
    if !archs.contains(&arch) {
        return None;
    }
    let scenario = cells::read(path, &text, &cell).scenario.expect("its first cell is valid");
    let options = RunOptions { cancel_every: Some(every), ..cells::options(path, &cell) };
    let outcome =
        run(&scenario, arch, &options).unwrap_or_else(|e| panic!("{}", named(&e.to_string())));
    Some(outcome.sweep.expect("it was asked for"))
}

#[test]
fn programs_cancelled_anywhere_end_clean() {
    let every = std::env::var("CANCEL_EVERY").ok().and_then(|v| v.parse().ok());
    // One architecture each, in turn: the points are the same ones on all.
    let reports = each_in_library(|n, path| {
        let report = sweep(path, Arch::ALL[n % 4], every.unwrap_or(997));
        report.map(|r| (path.to_owned(), r))
    });
    let tried: u64 = reports.iter().map(|(_, r)| r.tried).sum();
    let dirty = reports
        .iter()
        .flat_map(|(path, r)| r.dirty.iter().map(move |d| format!("{}: {d}", path.display())));
    let dirty: Vec<String> = dirty.collect();
    assert!(tried > 100, "{tried} points");
    assert!(dirty.is_empty(), "\n{}", dirty.join("\n"));
}
