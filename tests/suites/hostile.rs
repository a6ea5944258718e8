//! Damaged input of every kind ends in an error or a value: never in a panic, a hang, or memory
//! without bound.
//!
//! Each suite does a fixed number of cases from a fixed seed; `ORRERY_FUZZ_SECONDS=600` (what
//! `./x fuzz` sets) goes on for so long from a seed of its own, which is printed, and
//! `ORRERY_FUZZ_SEED=N` repeats one. A finding prints its case; as a file it joins `corpus/bad`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bpf::Endian;
use bpf::btf::Btf;
use bpf::object::{Kconfig, LinkEnv, Object, inspect};
use emu::loader::{self, LoadOptions};
use emu::runner::{RunOptions, captures, cells, run};
use kernel_model::Kernel;
use kernel_model::types::Types;
use scenarios::parse::{NoFiles, parse};
use scenarios::{render, validate};
use tests::mutate::{self, Numbers};

/// The longest a case may take in this profile: a hang is longer.
const CASE_MAX: Duration = Duration::from_secs(20);
/// The most memory this process may ever have used.
const MEMORY_MAX_KIB: u64 = 3 << 20;

/// Files of the tree with an ending, in order.
fn files(folders: &[&str], ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> = folders.iter().map(|f| tests::root().join(f)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no {ending} in {folders:?}");
    found
}

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Tries a check on damaged forms of each good input, in turn.
fn check<T>(
    cases: u64,
    good: &[(PathBuf, T)],
    damage: impl Fn(&T, &mut Numbers) -> T,
    try_one: impl Fn(&T),
) {
    let seconds = variable("ORRERY_FUZZ_SECONDS").map(Duration::from_secs);
    let clock = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64);
    let seed = variable("ORRERY_FUZZ_SEED").unwrap_or(if seconds.is_some() { clock } else { 1 });
    println!("seed {seed}");
    let begin = Instant::now();
    for case in 0.. {
        let go_on = seconds.map_or(case < cases, |s| begin.elapsed() < s);
        if !go_on {
            break;
        }
        let (path, input) = &good[case as usize % good.len()];
        let mut numbers = Numbers::new(seed.wrapping_add(case));
        let bad = damage(input, &mut numbers);
        let started = Instant::now();
        if seconds.is_some() {
            // An overflowing stack or a kill leaves no other word.
            eprint!("\rcase {case} ");
        }
        let survived = catch_unwind(AssertUnwindSafe(|| try_one(&bad))).is_ok();
        let repeat = format!("ORRERY_FUZZ_SEED={} on {}", seed.wrapping_add(case), path.display());
        assert!(survived, "panicked: {repeat}");
        assert!(started.elapsed() < CASE_MAX, "{:?}: {repeat}", started.elapsed());
    }
    assert!(peak_kib() < MEMORY_MAX_KIB, "{} KiB of memory at the peak", peak_kib());
}

/// Peak of resident memory, where the system tells.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn read(paths: Vec<PathBuf>) -> Vec<(PathBuf, Vec<u8>)> {
    paths.into_iter().map(|p| (p.clone(), std::fs::read(&p).unwrap())).collect()
}

fn objects() -> Vec<(PathBuf, Vec<u8>)> {
    read(files(&["tests/corpus/objects", "scenarios/library", "emu/tests"], ".bpf.o"))
}

#[allow(clippy::ptr_arg, reason = "`check` hands out what its inputs are: vectors")]
fn damaged(good: &Vec<u8>, n: &mut Numbers) -> Vec<u8> {
    if n.below(16) == 0 { mutate::noise(good, n) } else { mutate::bytes(good, n) }
}

/// ELF, BTF, BTF.ext: parsed, shown and linked.
#[test]
fn objects_parse_or_say_why() {
    let kconfig = Kconfig::default();
    let ksyms = std::collections::BTreeMap::<String, u64>::new();
    check(4000, &objects(), damaged, |bytes| {
        let Ok(object) = Object::parse(bytes) else { return };
        let target_btf = match object.endian {
            Endian::Little => Types::of(bpf::Arch::X86_64).btf(),
            Endian::Big => Types::of(bpf::Arch::S390x).btf(),
        };
        let env = LinkEnv { target_btf, kconfig: &kconfig, ksyms: &ksyms };
        for p in object.programs() {
            let _refused = object.link(p, &env);
        }
        assert!(!inspect(&object).to_string().is_empty());
    });
}

/// BTF alone, as a command takes it.
#[test]
fn types_parse_or_say_why() {
    let of = |arch: bpf::Arch| Types::of(arch).btf().to_bytes(arch.endian());
    let good: Vec<(PathBuf, Vec<u8>)> = [bpf::Arch::X86_64, bpf::Arch::S390x]
        .map(|arch| (PathBuf::from(arch.name()), of(arch)))
        .to_vec();
    check(400, &good, damaged, |bytes| {
        if let Ok(btf) = Btf::parse(bytes) {
            assert!(!btf.to_c_header().is_empty());
        }
    });
}

/// Whole objects: maps are created, programs verified.
#[test]
fn objects_load_or_say_why() {
    check(300, &objects(), damaged, |bytes| {
        let Ok(object) = Object::parse(bytes) else { return };
        let arch = match object.endian {
            Endian::Little => bpf::Arch::X86_64,
            Endian::Big => bpf::Arch::S390x,
        };
        let config = kernel_model::Config { arch, ..Default::default() };
        let mut kernel = Kernel::new(config);
        let opts = LoadOptions { keep_going: true, ..LoadOptions::default() };
        let target = Types::of(arch).btf();
        let _refused = loader::load(&mut kernel, target, arch.endian(), bytes, &opts);
    });
}

#[test]
fn captures_read_or_say_why() {
    let mut good = read(files(&["scenarios/library"], ".pcap"));
    good.extend(read(files(&["tests/corpus/captures"], ".pcapng")));
    check(4000, &good, damaged, |bytes| drop(captures::read(bytes)));
}

fn texts(folders: &[&str]) -> Vec<(PathBuf, String)> {
    let paths = files(folders, ".ron").into_iter();
    paths.map(|p| (p.clone(), std::fs::read_to_string(&p).unwrap())).collect()
}

/// Scenarios: each refusal has a place, and can be shown.
#[test]
fn scenarios_read_or_say_why() {
    let good = texts(&["scenarios", "emu/tests"]);
    let cut = |text: &String, n: &mut Numbers| match n.below(12) {
        0 => String::from_utf8_lossy(&mutate::bytes(text.as_bytes(), n)).into_owned(),
        _ => mutate::text(text, n),
    };
    check(4000, &good, cut, |text| {
        let parsed = parse("bad.ron", text, &[], &NoFiles);
        let mut findings = parsed.findings;
        match &parsed.scenario {
            Some(s) => findings.extend(validate::validate(s, &validate::NoObjects)),
            None => assert!(!findings.is_empty(), "refused without a word"),
        }
        for f in &findings {
            assert!(render::human(&parsed.files, f).starts_with("error: "));
            assert!(!render::json(&parsed.files, f).is_empty());
        }
    });
}

/// A good scenario with other numbers in it: it runs, or says why not.
#[test]
fn scenarios_run_or_say_why() {
    let good = texts(&["scenarios/library/basics", "scenarios/library/export"]);
    check(
        120,
        &good,
        |t, n| mutate::numbers(t, n),
        |text| {
            let dir = tests::root().join("scenarios/library/basics");
            let dir = if text.contains("drop_echo") { dir } else { dir.with_file_name("export") };
            let parsed = cells::read(Path::new("bad.ron"), text, &cells::Cell::default());
            let Some(s) = &parsed.scenario else { return };
            if parsed.findings.iter().any(cells::is_error) {
                return;
            }
            let _refused = run(s, bpf::Arch::X86_64, &RunOptions { dir, ..RunOptions::default() });
        },
    );
}
