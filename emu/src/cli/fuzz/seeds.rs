//! Programs that mutations start from: objects, annotated assembler.

use std::path::{Path, PathBuf};

use bpf::Endian;
use bpf::Program;
use bpf::uapi::{MapType, ProgType};
use verifier::annotated;
use verifier::env::{GuestAddr, MapInfo};

use super::super::target::Target;
use super::super::world::World as ObjectWorld;
use super::world::{Sample, World};

/// Files of an ending in a folder, or the file itself.
fn files(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(path) else { return vec![path.to_owned()] };
    let mut found: Vec<PathBuf> = entries.flatten().map(|e| e.path()).collect();
    found.retain(|p| p.extension().is_some_and(|e| e == "o" || e == "bpfasm"));
    found.sort();
    found
}

/// All programs of all files that can be asked about; files that cannot be read are left out.
pub(super) fn read(world: &mut World, paths: &[PathBuf], target: &Target) -> Vec<Sample> {
    let mut found = Vec::new();
    for path in paths.iter().flat_map(|p| files(p)) {
        match path.extension().is_some_and(|e| e == "bpfasm") {
            true => cases(world, &path, &mut found),
            false => object(world, &path, target, &mut found),
        }
    }
    found
}

/// A program that can be varied. One that has a workqueue is never sent: initialising one with the
/// wrong map is an oops of 6.18.
fn usable(world: &mut World, s: &Sample) -> bool {
    let typed = matches!(s.program.prog_type, ProgType::StructOps | ProgType::Ext);
    if typed || world.can_harm(&s.program) {
        return false;
    }
    let ours = world.ours(s);
    // What the two kernels differ in besides, such as functions to attach to, is no finding here.
    let alike = world.theirs(s).is_none_or(|theirs| theirs.accepted == ours.accepted);
    alike && !ours.unsupported && !ours.long
}

fn keep(world: &mut World, mut program: Program, origin: usize, found: &mut Vec<Sample>) {
    program.lines.clear();
    if program.funcs.iter().any(|f| f.type_id == 0) {
        program.funcs.clear();
    }
    let sample = Sample { program, origin };
    if usable(world, &sample) {
        found.push(sample);
    }
}

fn object(world: &mut World, path: &Path, target: &Target, found: &mut Vec<Sample>) {
    let Ok(bytes) = std::fs::read(path) else { return };
    let Ok(opened) = ObjectWorld::open_for(path, None, target) else { return };
    let Some(env) = opened.known().filter(|_| opened.object.endian == Endian::Little) else {
        return;
    };
    let Some(origin) = world.add_object(env.clone(), opened.object.btf().cloned(), &bytes) else {
        return;
    };
    for def in opened.object.programs() {
        let Ok(program) = opened.link(def) else { continue };
        keep(world, program, origin, found);
    }
}

/// Annotated assembly.
fn cases(world: &mut World, path: &Path, found: &mut Vec<Sample>) {
    let Ok(text) = std::fs::read_to_string(path) else { return };
    for titled in annotated::read(&text) {
        let kernel = world.kernel.clone();
        let Ok(case) = annotated::Case::new(&titled.text, &kernel) else { continue };
        let Ok(origin) = world.add(placed(case.maps), None) else { continue };
        keep(world, case.program, origin, found);
    }
}

/// Maps at addresses where a kernel has them.
fn placed(maps: Vec<MapInfo>) -> Vec<MapInfo> {
    let placed = |m: MapInfo| MapInfo {
        addr: GuestAddr(0xffff_8880_0000_0000 + (u64::from(m.id) << 20)),
        value_addr: (m.map_type == MapType::Array && m.max_entries == 1)
            .then_some(GuestAddr(0xffff_8880_7000_0000)),
        frozen_value: None,
        ..m
    };
    maps.into_iter().map(placed).collect()
}
