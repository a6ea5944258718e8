//! `orrery agree`: our verdicts beside those a real kernel gave, and where they part, by cause.
//!
//! ```text
//!  oracle (JSON lines: object, program, verdict, error_line, insns_processed, ...)
//!     ─► the object is loaded as the oracle did ─► check ─► Pair ─► figures and causes
//! ```

mod oracle;
mod report;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bpf::Program;
use bpf::btf::Btf;
use bpf::insn::{Call, Insn};
use bpf::object::{MapDef, Object, ObjectError, ProgramDef};
use bpf::uapi::{AttachType, MapType, ProgType};
use verifier::caps::Caps;
use verifier::env::MapInfo;

use self::oracle::Said;
use super::judge::{Row, default_jobs, in_order, judge_linked, silence_panics};
use super::target::{Target, TargetArgs};
use super::veristat::glob;
use super::world::World;
use super::{Exit, out};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the kernel said: one JSON object a line, plain, .xz or .gz
    #[arg(long, value_name = "FILE")]
    oracle: PathBuf,
    /// Where the objects are
    #[arg(long, value_name = "DIR")]
    objects: PathBuf,
    /// Only rows of which "corpus object program section" contains this; with * or ?, whose object
    /// or program it is: GLOB, or OBJECT/PROGRAM. May be given again: any of them
    #[arg(long, value_name = "TEXT")]
    filter: Vec<String>,
    /// Only this corpus (selftests: all capabilities, selftests-capdrop: without CAP_PERFMON)
    #[arg(long, value_name = "NAME")]
    corpus: Option<String>,
    /// Every program of the causes that contain this text
    #[arg(long, value_name = "TEXT")]
    cause: Option<String>,
    /// Causes shown of each kind
    #[arg(long, value_name = "N", default_value_t = 25)]
    top: usize,
    /// The pairs as JSON lines, and the figures as a last one
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
    /// Objects worked on at a time; by default as many as there are CPUs
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

/// What the kernel said and what we say.
#[derive(Debug)]
pub(super) struct Pair {
    said: Said,
    ours: Row,
}

pub(super) fn run(args: &Args) -> Exit {
    let opened = args.target.clone().host_by_default().open();
    let rows = opened.and_then(|t| oracle::read(&args.oracle).map(|r| (t, r)));
    let (target, rows) = match rows {
        Ok(v) => v,
        Err(exit) => return exit,
    };
    let mut by_object: BTreeMap<String, Vec<Said>> = BTreeMap::new();
    for row in rows.into_iter().filter(|r| wanted(args, r)) {
        by_object.entry(row.object.clone()).or_default().push(row);
    }
    silence_panics();
    let groups: Vec<Vec<Said>> = by_object.into_values().collect();
    let work = |said: &Vec<Said>| object(args, &target, said);
    let mut pairs = Vec::new();
    let jobs = args.jobs.unwrap_or_else(default_jobs);
    in_order(&groups, jobs, work, |found: Vec<Pair>| pairs.extend(found));
    report::show(args, &pairs);
    if pairs.is_empty() { Exit::BadInput } else { Exit::Ok }
}

fn wanted(args: &Args, row: &Said) -> bool {
    row.usable
        && (args.filter.is_empty() || args.filter.iter().any(|f| is_named(f, row)))
        && args.corpus.as_ref().is_none_or(|c| row.corpus == *c)
}

fn is_named(filter: &str, row: &Said) -> bool {
    if !filter.contains(['*', '?']) {
        let text = format!("{} {} {} {}", row.corpus, row.object, row.program, row.section);
        return text.contains(filter);
    }
    match filter.split_once('/') {
        Some((object, program)) => glob(object, &row.object) && glob(program, &row.program),
        None => glob(filter, &row.object) || glob(filter, &row.program),
    }
}

fn object(args: &Args, target: &Target, rows: &[Said]) -> Vec<Pair> {
    let Some(first) = rows.first() else { return Vec::new() };
    let path = args.objects.join(&first.object);
    let mut world = match World::open_for(&path, None, target) {
        Ok(world) => world,
        Err(_) => return Vec::new(),
    };
    fix_maps(&mut world, &first.fixups);
    rows.iter().filter_map(|said| pair(args, target, &world, &path, said)).collect()
}

fn pair(args: &Args, target: &Target, world: &World, path: &Path, said: &Said) -> Option<Pair> {
    let Some(def) = world.object.program(&said.program) else {
        out::error(&format!("{}: no program '{}'", said.object, said.program), "");
        return None;
    };
    let mut def = def.clone();
    let ty = ProgType::from_raw(said.prog_type_id).unwrap_or(ProgType::Unspec);
    let sec = def.sec.get_or_insert(bpf::object::sec::Sec {
        def: "",
        prog_type: ty,
        attach_type: None,
        flags: 0,
        target: None,
        autoload: true,
    });
    sec.prog_type = ty;
    let program = link(args, world, &def, said).map(|mut p| {
        p.flags = said.prog_flags;
        if ty != ProgType::StructOps && said.expected_attach_type != 0 {
            p.attach_type = AttachType::from_raw(said.expected_attach_type);
        }
        p
    });
    let caps = match said.corpus.ends_with("-capdrop") {
        true => Caps::NO_PERFMON,
        false => Caps::ALL,
    };
    let mut ours = judge_linked(world, path, &def, program, target.opts_for(caps, 0));
    ours.object.clone_from(&said.object);
    Some(Pair { said: said.clone(), ours })
}

/// Links as the oracle's loader did: some tests bring their own BTF.
fn link(args: &Args, world: &World, def: &ProgramDef, said: &Said) -> Result<Program, ObjectError> {
    let own = said.btf_path().and_then(|name| own_btf(&args.objects.join(name)));
    match own {
        Some(btf) => world.link_to(def, &btf),
        None => world.link(def),
    }
}

fn own_btf(path: &Path) -> Option<Btf> {
    let bytes = std::fs::read(path).ok()?;
    Object::parse(&bytes).ok()?.btf().cloned()
}

/// What the oracle's loader set because the object leaves it to user space.
fn fix_maps(world: &mut World, fixups: &str) {
    let named = fixups.split(';').filter_map(|f| f.strip_prefix("max_entries:"));
    for name in named {
        let Some((index, _)) = world.object.map(name) else { continue };
        world.amend_map(index, |m| m.max_entries = m.max_entries.max(4096));
    }
    if !fixups.split(';').any(|f| f == "inner_map") {
        return;
    }
    let map_type = inner_type(world);
    let is_open = |m: &MapDef| {
        matches!(m.map_type, MapType::ArrayOfMaps | MapType::HashOfMaps) && m.inner.is_none()
    };
    let maps = world.object.maps().iter().enumerate();
    let open: Vec<usize> = maps.filter(|(_, m)| is_open(m)).map(|(i, _)| i).collect();
    for index in open {
        world.amend_map(index, |m| {
            let shape =
                MapInfo { map_type, key_size: 4, value_size: 4, max_entries: 1, ..m.clone() };
            let none = MapInfo { flags: 0, value_addr: None, value_type_id: 0, ..shape };
            m.inner = Some(Box::new(none));
        });
    }
}

/// Type of the map a user puts into an outer map whose object does not say which: one that the
/// programs' helpers take and none of the object's own maps has, else an array.
fn inner_type(world: &World) -> MapType {
    let own = |ty: &MapType| world.object.maps().iter().any(|m| m.map_type == *ty);
    let programs = world.object.programs().iter().filter_map(|def| world.link(def).ok());
    let calls = programs.flat_map(|p| p.insns).filter_map(|insn| match insn {
        Insn::Call(Call::Helper(id)) => Some(id),
        _ => None,
    });
    let wanted = calls.map(verifier::map_types_of);
    let wanted = wanted.filter(|types| !types.iter().any(own)).find_map(|types| types.first());
    wanted.copied().unwrap_or(MapType::Array)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_text_or_globs() {
        let row = Said {
            corpus: "selftests".into(),
            object: "loops.bpf.o".into(),
            program: "while_true".into(),
            section: "tc".into(),
            ..Said::default()
        };
        assert!(is_named("selftests loops", &row) && is_named("while", &row));
        assert!(is_named("loop*", &row) && is_named("*_true", &row) && is_named("l*/wh?le*", &row));
        assert!(!is_named("loop?", &row) && !is_named("x*/while*", &row));
    }
}
