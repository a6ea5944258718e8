//! The library of scenarios: each holds on all architectures, with equal traces, twice.

use std::fs;
use std::path::Path;

use bpf::Arch;
use emu::runner::cells::{self, Cell};
use emu::runner::contents::Contents;
use emu::runner::trace::Keep;
use emu::runner::{RunError, RunOptions, Runs, run};
use scenarios::validate::validate;

mod common;

use common::each_in_library;

/// What is wrong with a cell of a scenario on an architecture, and the hash of its trace.
fn outcome(path: &Path, cell: &Cell, arch: Arch) -> (Vec<String>, Option<u64>) {
    let text = fs::read_to_string(path).unwrap();
    let parsed = cells::read(path, &text, cell);
    let scenario = parsed.scenario.expect("the library parses");
    let line = |span: scenarios::Span| text[..span.start as usize].lines().count();
    let name = path.file_stem().unwrap().to_string_lossy();
    let said = |line: usize, what: String| format!("{name}{}:{line} [{arch:?}] {what}", cell.name);
    let show = std::env::var_os("SHOW_TRACE").is_some();
    let options =
        RunOptions { keep: Keep { trace: show, ..Keep::default() }, ..cells::options(path, cell) };
    match run(&scenario, arch, &options) {
        Ok(o) => {
            if let Some(trace) = o.trace {
                std::io::copy(&mut trace.read().unwrap(), &mut std::io::stdout()).unwrap();
            }
            let wrong = o.failures.iter().map(|f| said(line(f.span), f.message.clone()));
            (wrong.collect(), Some(o.trace_hash))
        }
        Err(RunError::Input(f) | RunError::Rejected(f)) => {
            (vec![said(line(f.span), f.message)], None)
        }
        Err(e) => (vec![said(0, e.to_string())], None),
    }
}

/// Hashes of the traces of two runs on one machine, which goes back to its start between them.
/// State is the same at every checkpoint.
fn again(path: &Path, cell: &Cell, arch: Arch) -> [Option<u64>; 2] {
    let text = fs::read_to_string(path).unwrap();
    let parsed = cells::read(path, &text, cell);
    let scenario = parsed.scenario.expect("the library parses");
    let options = RunOptions { checkpoints: Some(2000), ..cells::options(path, cell) };
    let mut runs = Runs::new(&scenario, arch, &options).unwrap();
    let outcomes = [runs.once().unwrap(), runs.once().unwrap()];
    assert!(!outcomes[0].checkpoints.is_empty());
    assert_eq!(outcomes[0].checkpoints, outcomes[1].checkpoints, "{}", path.display());
    outcomes.map(|o| Some(o.trace_hash))
}

/// Cells of a matrix that are run here, evenly spread: all of them take minutes.
const CELLS: usize = 5;

fn cells_of(path: &Path) -> Vec<(Cell, Vec<Arch>)> {
    let text = fs::read_to_string(path).unwrap();
    let parsed = cells::read(path, &text, &Cell::default());
    let scenario = parsed.scenario.expect("the library parses");
    let (all, archs) = (cells::cells(&scenario, 1), cells::archs(&scenario));
    let step = all.len().div_ceil(CELLS);
    let some = all.into_iter().step_by(step);
    some.map(|c| (c.clone(), cells::archs_of(&scenario, &c, &archs))).collect()
}

/// `orrery scenario check` knows what a run knows.
#[test]
fn nothing_is_wrong_without_a_run() {
    let wrong = each_in_library(|_, path| {
        let text = fs::read_to_string(path).unwrap();
        let parsed = cells::read(path, &text, &Cell::default());
        let scenario = parsed.scenario.expect("the library parses");
        let arch = cells::archs(&scenario)[0];
        let (contents, mut found) = Contents::read(&scenario, &cells::folder(path), arch);
        found.extend(validate(&scenario, &contents));
        found.retain(cells::is_error);
        found.into_iter().map(|f| format!("{}: {}", path.display(), f.message)).collect::<Vec<_>>()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_scenario_holds_on_every_architecture() {
    let wrong = each_in_library(|_, path| {
        let mut wrong = Vec::new();
        for (cell, archs) in cells_of(path) {
            let mut hashes = Vec::new();
            for arch in &archs {
                let (failures, hash) = outcome(path, &cell, *arch);
                wrong.extend(failures);
                hashes.push(hash);
            }
            // More runs on the first architecture, from a snapshot: nothing but the file decides.
            if hashes[0].is_some() {
                hashes.extend(again(path, &cell, archs[0]));
            }
            if hashes.iter().any(|h| h.is_none() || *h != hashes[0]) {
                let name = format!("{}{}", path.display(), cell.name);
                wrong.push(format!("{name}: traces differ: {hashes:x?}"));
            }
        }
        wrong
    });
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
