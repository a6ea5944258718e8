//! Native code of our x86-64 back end against that of the JIT in the kernel of this machine, for
//! the same programs.
//!
//! A program is compared when both accept it and both rewrite it to as many instructions: then
//! the difference is the back ends' alone. The rest is counted, not compared.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bpf::Arch;

use super::super::world::World;
use super::Row;
use super::cold::in_tree;
use crate::host::HostKernel;
use crate::loader::{self, LoadOptions};

/// Programs that are named as the worst.
const WORST: usize = 5;

/// Folder of the library of scenarios.
pub(super) const LIBRARY: &str = "scenarios/library";

/// Rewritten instructions, native bytes, native instructions.
type Size = (usize, usize, usize);

/// Sums over programs.
#[derive(Default)]
struct Sums {
    programs: usize,
    ours: Size,
    theirs: Size,
    /// Accepted by both, rewritten differently.
    other: usize,
    /// Each program that was compared: its name, our size, the kernel's.
    each: Vec<(String, Size, Size)>,
}

pub(super) fn measure(objects: Option<&Path>, rows: &mut Vec<Row>) -> Result<(), String> {
    let mut host = match HostKernel::open() {
        Ok(host) => host,
        Err(why) => {
            eprintln!("native code is not compared: {why}");
            return Ok(());
        }
    };
    let library = in_tree(LIBRARY).ok_or(format!("no {LIBRARY} here"))?;
    for (what, folder) in [("scenario library", Some(library.as_path())), ("objects", objects)] {
        let Some(folder) = folder else { continue };
        let mut sums = Sums::default();
        for path in elf_objects(folder)? {
            object(&mut host, &path, &mut sums);
        }
        report(what, &sums, rows);
    }
    Ok(())
}

/// Little-endian objects below a folder, in order.
pub(super) fn elf_objects(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let (mut found, mut todo) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(dir) = todo.pop() {
        let entries = std::fs::read_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
        for path in entries.flatten().map(|e| e.path()) {
            let name = path.to_string_lossy().into_owned();
            if path.is_dir() {
                todo.push(path);
            } else if name.ends_with(".bpf.o") && !name.ends_with(".eb.bpf.o") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Compares the programs of one object; what one of the two refuses is left out.
fn object(host: &mut HostKernel, path: &Path, sums: &mut Sums) {
    let Ok(world) = World::open(path, Some(Arch::X86_64)) else { return };
    let theirs = kernel_sizes(host, path, &world);
    host.close_all();
    for def in world.object.programs() {
        let Some(theirs) = theirs.get(&def.name) else { continue };
        let Ok(program) = world.link(def) else { continue };
        let Ok(verified) = world.verify(program, 0).result else { continue };
        let c = jit::compile(&verified, Arch::X86_64);
        let ours = (verified.len(), c.code.len(), c.native_insns as usize);
        if std::env::var_os("ORRERY_BENCH_LIST").is_some() {
            eprintln!("{} {}: ours {ours:?}, kernel {theirs:?}", path.display(), def.name);
        }
        if ours.0 != theirs.0 {
            sums.other += 1;
            continue;
        }
        sums.programs += 1;
        add(&mut sums.ours, ours);
        add(&mut sums.theirs, *theirs);
        sums.each.push((def.name.clone(), ours, *theirs));
    }
}

fn add(sum: &mut Size, n: Size) {
    *sum = (sum.0 + n.0, sum.1 + n.1, sum.2 + n.2);
}

/// What the kernel makes of an object's programs, by name.
fn kernel_sizes(host: &mut HostKernel, path: &Path, world: &World) -> BTreeMap<String, Size> {
    let Ok(bytes) = std::fs::read(path) else { return BTreeMap::new() };
    let kconfig = bpf::object::Kconfig { kernel_version: host.version(), ..host.kconfig() };
    let opts =
        LoadOptions { keep_going: true, kconfig, ksyms: host.ksyms(), ..LoadOptions::default() };
    let target = host.vmlinux().clone();
    let Ok(loaded) = loader::load(host, &target, world.object.endian, &bytes, &opts) else {
        return BTreeMap::new();
    };
    let size = |p: &loader::LoadedProg| {
        let d = host.prog_detail(p.fd).ok()?;
        let insns = crate::engine::x86_starts(&d.jited).len();
        Some((p.name.clone(), (d.xlated.len() / 8, d.jited.len(), insns)))
    };
    loaded.progs.iter().filter_map(size).collect()
}

fn report(what: &str, sums: &Sums, rows: &mut Vec<Row>) {
    let on = format!("{} programs", sums.programs);
    let mut push = |kind: &str, unit, ours: usize, peer: usize| {
        rows.push(Row {
            part: "size",
            what: format!("{kind}, {what}"),
            on: on.clone(),
            ours: ours as f64,
            unit,
            peer: Some(peer as f64),
            peer_name: "kernel's JIT",
        });
    };
    push("native code", "bytes", sums.ours.1, sums.theirs.1);
    push("native code", "instructions", sums.ours.2, sums.theirs.2);
    eprintln!("{what}: {} programs compared, {} rewritten differently", sums.programs, sums.other);
    for unit in ["bytes", "instructions"] {
        let of = |s: Size| if unit == "bytes" { s.1 } else { s.2 };
        let ratio = |p: &(String, Size, Size)| of(p.1) as f64 / of(p.2) as f64;
        let mut each: Vec<_> = sums.each.iter().map(|p| (ratio(p), p)).collect();
        each.sort_by(|a, b| b.0.total_cmp(&a.0));
        let above = each.iter().filter(|p| p.0 > 1.0).count();
        let worst: Vec<_> =
            each.iter().take(WORST).map(|(r, p)| format!("{} {r:.3}", p.0)).collect();
        eprintln!("{what}: {above} programs with more {unit}; worst: {}", worst.join(", "));
        if let Some((_, (name, ours, theirs))) = each.first() {
            rows.push(Row {
                part: "size",
                what: format!("the worst program by {unit}, {what}"),
                on: format!("`{name}`"),
                ours: of(*ours) as f64,
                unit,
                peer: Some(of(*theirs) as f64),
                peer_name: "kernel's JIT",
            });
        }
    }
}
