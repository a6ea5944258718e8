//! Coverage: it changes nothing, counts every instruction that is retired once, and says of known
//! scenarios what is known of them.
#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]

use std::fs;
use std::path::Path;

use bpf::Arch;
use emu::cover::{Sum, lcov};
use emu::runner::cells::{self, Cell};
use emu::runner::{Outcome, RunOptions, run};

mod common;

use common::each_in_library;

fn outcome(path: &Path, arch: Arch, cover: bool) -> Option<Outcome> {
    let text = fs::read_to_string(path).unwrap();
    let first = cells::read(path, &text, &Cell::default());
    let cell = cells::cells(first.scenario.as_ref().unwrap(), 0).swap_remove(0);
    let scenario = cells::read(path, &text, &cell).scenario.unwrap();
    let archs = cells::archs_of(&scenario, &cell, &[arch]);
    let options = RunOptions { cover, ..cells::options(path, &cell) };
    (!archs.is_empty()).then(|| run(&scenario, arch, &options).unwrap())
}

/// Each scenario on one architecture, in turn.
#[test]
fn every_instruction_is_counted_once() {
    let counts = each_in_library(|n, path| {
        let arch = Arch::ALL[n % 4];
        let plain = outcome(path, arch, false)?;
        let counted = outcome(path, arch, true).unwrap();
        let at = format!("{} on {arch}", path.display());
        assert_eq!(plain.trace_hash, counted.trace_hash, "{at}");
        let cover = counted.cover.unwrap();
        let hits: u64 = cover.progs.iter().flat_map(|(_, c)| &c.hits).sum();
        assert_eq!(hits, counted.insns, "{at}: hits");
        assert_eq!(cover.folded.values().sum::<u64>(), counted.insns, "{at}: stacks");
        Some(hits)
    });
    let insns: u64 = counts.iter().sum();
    assert!(insns > 100_000, "{insns} instructions");
}

/// Three datagrams to port 7, one to port 53.
#[test]
fn lines_and_branches_of_the_first_scenario() {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/library/basics/drop_echo.ron");
    let want = expect_test::expect_file!["./cover.info"];
    let mut sum = Sum::default();
    let covered = outcome(&path, Arch::S390x, true).unwrap().cover.unwrap();
    sum.add(covered, Path::new("nowhere"));
    want.assert_eq(&lcov(&sum.files()));
    assert_eq!(sum.folded_text(), "drop_echo 81\n");
}
