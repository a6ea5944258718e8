//! The files themselves: LLVM finds nothing wrong with them, and how often they know a variable.

use std::fs;
use std::path::Path;
use std::process::Command;

use bpf::Arch;
use emu::debug::Target;
use emu::runner::cells::{self, Cell};
use gdb::session::Files;
use gdb::{Debuggee as _, View, symbols};

use super::dwarf::{File, Sections};
use super::{built, library, read};

/// Served files of a scenario, by name.
fn served(path: &Path, arch: Arch, views: &[View]) -> Vec<(String, Vec<u8>)> {
    let text = fs::read_to_string(path).unwrap();
    let parsed = cells::read(path, &text, &Cell::default());
    let scenario = parsed.scenario.expect("the library parses");
    let cell = cells::cells(&scenario, 1).swap_remove(0);
    let Ok(target) = Target::new(&scenario, arch, &cells::options(path, &cell)) else {
        // Not for this architecture.
        return Vec::new();
    };
    let mut files = Files::new();
    let images = target.images();
    let names = images.iter().flat_map(|i| views.iter().map(|v| symbols::file_name(i, *v)));
    let names = names.chain([symbols::kernel_file(arch)]);
    names.filter_map(|n| Some((n.clone(), files.get(&target, &n)?.to_vec()))).collect()
}

fn every(default: usize) -> usize {
    std::env::var("LIBRARY_EVERY").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

#[test]
fn llvm_finds_nothing_wrong() {
    let tool = "llvm-dwarfdump-19";
    if Command::new(tool).arg("--version").output().is_err() {
        eprintln!("skipped: no {tool}");
        return;
    }
    let dir = std::env::temp_dir().join(format!("orrery-symbols-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let mut files = Vec::new();
    for (n, path) in library().iter().enumerate().step_by(every(9)) {
        for arch in Arch::ALL {
            for (name, bytes) in served(path, arch, &[View::Source, View::Bpf]) {
                let file = dir.join(format!("{n}.{arch}.{}", name.rsplit('/').next().unwrap()));
                fs::write(&file, bytes).unwrap();
                files.push(file);
            }
        }
    }
    let mut wrong = Vec::new();
    for some in files.chunks(100) {
        let out = Command::new(tool).arg("--verify").args(some).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout) + String::from_utf8_lossy(&out.stderr);
        let bad = |l: &&str| l.contains("error:") || l.contains("warning:");
        wrong.extend(text.lines().filter(bad).map(str::to_owned));
        assert!(out.status.success() || !wrong.is_empty(), "{text}");
    }
    assert!(wrong.is_empty(), "of {} in {}: {wrong:#?}", files.len(), dir.display());
    eprintln!("{} files", files.len());
    fs::remove_dir_all(&dir).unwrap();
}

/// Variables in scope where a statement begins, and how many of them have no value there.
fn hidden(file: &File<'_>) -> (u64, u64) {
    let (mut all, mut hidden) = (0, 0);
    for (at, _) in &file.rows {
        for local in file.in_scope(*at) {
            all += 1;
            hidden += u64::from(!file.is_known(local, *at));
        }
    }
    (all, hidden)
}

/// The share of variables that are optimised out is no larger than in native code that the same
/// compiler makes of the same sources, at the same level: clang's own description of its
/// instructions of BPF knows less, the argument of a program makes up for it.
#[test]
fn as_much_is_known_as_natively() {
    let (mut ours, mut theirs, mut bpf) = ([(0, 0); 4], (0, 0), (0, 0));
    for path in library().iter().step_by(every(1)) {
        let native = sources(path).iter().filter_map(|s| built::native(s)).collect::<Vec<_>>();
        for object in &native {
            let (all, gone) = hidden(read(Sections::relocated(object)));
            theirs = (theirs.0 + all, theirs.1 + gone);
        }
        if native.is_empty() {
            continue;
        }
        for source in sources(path) {
            let object = fs::read(source.with_extension("").with_extension("el.bpf.o")).unwrap();
            let all = symbols::clang_sections(&object).unwrap();
            let (all, gone) = hidden(read(Sections { all, little: true }));
            bpf = (bpf.0 + all, bpf.1 + gone);
        }
        for (n, arch) in Arch::ALL.into_iter().enumerate() {
            for (name, elf) in served(path, arch, &[View::Source]) {
                if name == symbols::kernel_file(arch) {
                    continue;
                }
                let (all, gone) = hidden(read(Sections::of(&elf)));
                ours[n] = (ours[n].0 + all, ours[n].1 + gone);
            }
        }
    }
    let share = |(all, gone): (u64, u64)| 100.0 * gone as f64 / all.max(1) as f64;
    eprintln!("native: {:.1} % of {} optimised out", share(theirs), theirs.0);
    eprintln!("clang, of BPF: {:.1} % of {} optimised out", share(bpf), bpf.0);
    for (arch, counted) in Arch::ALL.into_iter().zip(ours) {
        eprintln!("{arch}: {:.1} % of {} optimised out", share(counted), counted.0);
        assert!(bpf.0 == 0 || share(counted) <= share(theirs), "{arch} knows less");
    }
}

/// Sources of a scenario's objects.
fn sources(path: &Path) -> Vec<std::path::PathBuf> {
    let text = fs::read_to_string(path).unwrap();
    let folder = path.parent().unwrap();
    let named = text.split('"').filter(|w| w.ends_with(".bpf.o"));
    let sources = named.map(|w| folder.join(w.replace(".bpf.o", ".bpf.c")));
    let mut out: Vec<_> = sources.filter(|p| p.exists()).collect();
    out.sort();
    out.dedup();
    out
}
