//! The library of scenarios: each holds on all architectures, with equal traces, twice.

use std::fs;
use std::path::{Path, PathBuf};

use bpf::Arch;
use emu::runner::{RunError, RunOptions, run};
use scenarios::parse::{Files, parse};

struct Disk;

impl Files for Disk {
    fn read(&self, from: &str, path: &str) -> Result<(String, String), String> {
        let full = Path::new(from).parent().unwrap().join(path);
        let text = fs::read_to_string(&full).map_err(|e| format!("{path}: {e}"))?;
        Ok((full.display().to_string(), text))
    }
}

const ARCHS: [Arch; 4] = [Arch::X86_64, Arch::Arm64, Arch::Riscv64, Arch::S390x];

/// What is wrong with a scenario on an architecture, and the hash of its trace.
fn outcome(path: &Path, arch: Arch) -> (Vec<String>, Option<u64>) {
    let text = fs::read_to_string(path).unwrap();
    let parsed = parse(&path.display().to_string(), &text, &[], &Disk);
    let scenario = parsed.scenario.expect("the library parses");
    let line = |span: scenarios::Span| text[..span.start as usize].lines().count();
    let dir = path.parent().unwrap().to_owned();
    let name = path.file_stem().unwrap().to_string_lossy();
    let said = |line: usize, what: String| format!("{name}:{line} [{arch:?}] {what}");
    match run(&scenario, arch, &RunOptions { dir, seed: 1, ..RunOptions::default() }) {
        Ok(o) => {
            if std::env::var_os("SHOW_TRACE").is_some() {
                println!("{}", o.trace.join("\n"));
            }
            let wrong = o.failures.iter().map(|f| said(line(f.span), f.message.clone()));
            (wrong.collect(), Some(o.trace_hash))
        }
        Err(RunError::Input(f)) => (vec![said(line(f.span), f.message)], None),
        Err(e) => (vec![said(0, e.to_string())], None),
    }
}

/// Only the scenarios whose path contains `LIBRARY_ONLY`, when it is set.
fn library() -> Vec<PathBuf> {
    let only = std::env::var("LIBRARY_ONLY").unwrap_or_default();
    let mut found = Vec::new();
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/library")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "ron")
                && path.to_string_lossy().contains(&only)
            {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}

#[test]
fn every_scenario_holds_on_every_architecture() {
    let mut wrong = Vec::new();
    for path in library() {
        let mut hashes = Vec::new();
        for arch in ARCHS {
            let (failures, hash) = outcome(&path, arch);
            wrong.extend(failures);
            hashes.push(hash);
        }
        // A second run on the first architecture: nothing but the file decides.
        hashes.push(outcome(&path, ARCHS[0]).1);
        if hashes.iter().any(|h| h.is_none() || *h != hashes[0]) {
            wrong.push(format!("{}: traces differ: {hashes:x?}", path.display()));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
