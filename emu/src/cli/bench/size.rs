//! Native code of our x86-64 back end against that of the JIT in the kernel of this machine, for
//! the same programs; beside it, the other back ends' instructions for each of BPF's.
//!
//! A program is compared when both accept it. Where both rewrite it to as many instructions the
//! difference is the back ends' alone: those programs have rows of their own, and the worst of
//! them are named.

use std::collections::BTreeMap;
use std::path::Path;

use bpf::{Arch, Endian};
use verifier::Verified;

use super::super::world::World;
use super::Row;
use super::cold::in_tree;
use super::shapes::Shapes;
use crate::below::below;
use crate::host::HostKernel;
use crate::loader::{self, LoadOptions};

/// Programs that are named as the worst.
const WORST: usize = 5;

/// Folder of the library of scenarios.
pub(super) const LIBRARY: &str = "scenarios/library";

/// Size of a program.
#[derive(Clone, Copy, Default)]
struct Size {
    /// Rewritten instructions.
    slots: usize,
    /// Native bytes.
    bytes: usize,
    /// Native instructions.
    insns: usize,
}

impl std::ops::AddAssign for Size {
    fn add_assign(&mut self, n: Size) {
        self.slots += n.slots;
        self.bytes += n.bytes;
        self.insns += n.insns;
    }
}

/// A program that both accept.
struct Both {
    name: String,
    ours: Size,
    theirs: Size,
}

/// What one folder has.
#[derive(Default)]
struct Found {
    both: Vec<Both>,
    /// Sums of all programs we accept, by architecture.
    each: [Size; 4],
    programs: [usize; 4],
    shapes: Shapes,
}

pub(super) fn measure(
    objects: Option<&Path>,
    details: bool,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let unavailable = |why: &_| eprintln!("native code is not compared: {why}");
    let mut host = HostKernel::open().inspect_err(unavailable).ok();
    let library = in_tree(LIBRARY).ok_or(format!("no {LIBRARY} here"))?;
    for (what, folder) in [("scenario library", Some(library.as_path())), ("objects", objects)] {
        let Some(folder) = folder else { continue };
        let mut found = Found::default();
        for path in below(folder, &[".bpf.o"])? {
            for arch in Arch::ALL {
                object(host.as_mut(), &path, arch, &mut found);
            }
        }
        report(what, &found, rows);
        if details {
            eprint!("{}", found.shapes.text());
        }
    }
    Ok(())
}

/// The accepted programs of an object, when it is in the architecture's byte order.
pub(super) fn accepted(path: &Path, arch: Arch) -> Option<(World, Vec<(String, Verified)>)> {
    // Where an ELF header says the byte order.
    let order = std::fs::read(path).ok()?.get(5).copied()?;
    if (order == 2) != (arch.endian() == Endian::Big) {
        return None;
    }
    let world = World::open(path, Some(arch)).ok()?;
    let verified = |def: &bpf::object::ProgramDef| {
        let program = world.link(def).ok()?;
        Some((def.name.clone(), world.verify(program, 0).result.ok()?))
    };
    let all = world.object.programs().iter().filter_map(verified).collect();
    Some((world, all))
}

/// Measures the programs of one object; what one of the two refuses is left out.
fn object(host: Option<&mut HostKernel>, path: &Path, arch: Arch, found: &mut Found) {
    let Some((world, programs)) = accepted(path, arch) else { return };
    let theirs = match (host, arch) {
        (Some(host), Arch::X86_64) => kernel_code(host, path, &world),
        _ => BTreeMap::new(),
    };
    let at = arch_index(arch);
    for (name, verified) in programs {
        let c = jit::compile(&verified, arch);
        let insns = c.native_insns as usize;
        let ours = Size { slots: verified.len(), bytes: c.code.len(), insns };
        found.each[at] += ours;
        found.programs[at] += 1;
        let Some((slots, code)) = theirs.get(&name) else { continue };
        let starts = crate::engine::x86_starts(code);
        let theirs = Size { slots: *slots, bytes: code.len(), insns: starts.len() };
        if ours.slots == theirs.slots {
            found.shapes.add(&verified, &c, code);
        }
        found.both.push(Both { name, ours, theirs });
    }
}

fn arch_index(arch: Arch) -> usize {
    Arch::ALL.iter().position(|a| *a == arch).expect("one of all")
}

/// Rewritten instructions and native code that the kernel makes of an object's programs, by name.
fn kernel_code(
    host: &mut HostKernel,
    path: &Path,
    world: &World,
) -> BTreeMap<String, (usize, Vec<u8>)> {
    let Ok(bytes) = std::fs::read(path) else { return BTreeMap::new() };
    let kconfig = bpf::object::Kconfig { kernel_version: host.version(), ..host.kconfig() };
    let opts =
        LoadOptions { keep_going: true, kconfig, ksyms: host.ksyms(), ..LoadOptions::default() };
    let target = host.vmlinux().clone();
    let loaded = loader::load(host, &target, world.object.endian, &bytes, &opts);
    let code = |p: &loader::LoadedProg| {
        let d = host.prog_detail(p.fd).ok()?;
        Some((p.name.clone(), (d.xlated.len() / 8, d.jited)))
    };
    let all = loaded.map(|l| l.progs.iter().filter_map(code).collect()).unwrap_or_default();
    host.close_all();
    all
}

fn report(what: &str, found: &Found, rows: &mut Vec<Row>) {
    let row = |kind: String, on: String, ours: f64, unit, peer: f64| Row {
        part: "size",
        what: kind,
        on,
        ours,
        unit,
        peer: Some(peer),
        peer_name: "kernel's JIT",
    };
    let same: Vec<&Both> = found.both.iter().filter(|p| p.ours.slots == p.theirs.slots).collect();
    let all: Vec<&Both> = found.both.iter().collect();
    for (kind, programs) in [("native code", &all), ("of those rewritten alike", &same)] {
        let (mut ours, mut theirs) = (Size::default(), Size::default());
        for p in programs {
            ours += p.ours;
            theirs += p.theirs;
        }
        let on = format!("{} programs", programs.len());
        let kind = format!("{kind}, {what}");
        rows.push(row(kind.clone(), on.clone(), ours.bytes as f64, "bytes", theirs.bytes as f64));
        rows.push(row(kind, on, ours.insns as f64, "instructions", theirs.insns as f64));
    }
    for unit in ["bytes", "instructions"] {
        let of = |s: Size| if unit == "bytes" { s.bytes } else { s.insns } as f64;
        let ratio = |p: &&Both| of(p.ours) / of(p.theirs);
        let mut worst = same.clone();
        worst.sort_by(|a, b| ratio(b).total_cmp(&ratio(a)));
        let above = same.iter().filter(|p| ratio(p) > 1.0).count();
        let named = |p: &&Both| format!("{} {:.3}", p.name, ratio(p));
        let list: Vec<String> = worst.iter().take(WORST).map(named).collect();
        eprintln!("{what}: {above} programs with more {unit}; worst: {}", list.join(", "));
        if let Some(p) = worst.first() {
            let kind = format!("the worst program by {unit}, {what}");
            rows.push(row(kind, format!("`{}`", p.name), of(p.ours), unit, of(p.theirs)));
        }
    }
    by_arch(what, found, rows);
}

/// Native instructions for each rewritten one.
fn by_arch(what: &str, found: &Found, rows: &mut Vec<Row>) {
    let ratio = |n: usize| found.each[n].insns as f64 / found.each[n].slots.max(1) as f64;
    let x86 = ratio(arch_index(Arch::X86_64));
    for (n, arch) in Arch::ALL.into_iter().enumerate().filter(|(n, _)| found.programs[*n] > 0) {
        rows.push(Row {
            part: "size",
            what: format!("{what}, {} programs: native instructions", found.programs[n]),
            on: arch.to_string(),
            ours: ratio(n),
            unit: "for one of BPF",
            peer: (arch != Arch::X86_64).then_some(x86),
            peer_name: "x86-64",
        });
    }
}
