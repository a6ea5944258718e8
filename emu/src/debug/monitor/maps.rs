//! `maps`, `map`, `percpu`.

use std::fmt::Write as _;

use bpf::uapi::MapType;
use kernel_model::Kernel;
use kernel_model::maps::{Entry, Map};

use super::names::{self, MapTypes};
use super::{Here, Reply, no_more};

/// Elements that are shown.
const SHOWN: usize = 64;
/// An array with more elements than this is shown without those that are zero.
const WHOLE: usize = 16;

/// `maps`.
pub(super) fn list(here: &Here<'_>, args: &[&str]) -> Reply {
    no_more(args)?;
    let k = here.kernel();
    let mut out = String::new();
    let _ = writeln!(
        out,
        "{:>3} {:<16} {:<18} {:>5} {:>7} {:>10} {:>10}  used by",
        "id", "name", "type", "key", "value", "entries", "of"
    );
    for m in k.maps.values() {
        let users = k.progs().filter(|p| p.maps.contains(&m.id)).map(kernel_model::Prog::name);
        let users: Vec<&str> = users.collect();
        let entries = match k.ring_state(m.id) {
            Some(ring) => ring.records.len() as u64,
            None => k.map_len(m.id),
        };
        let d = &m.def;
        let line = format!(
            "{:>3} {:<16} {:<18} {:>5} {:>7} {entries:>10} {:>10}  {}",
            m.id.0,
            d.name,
            d.map_type.name(),
            d.key_size,
            d.value_size,
            d.max_entries,
            users.join(", ")
        );
        let _ = writeln!(out, "{}", line.trim_end());
    }
    Ok(out)
}

/// `map NAME [KEY]`.
pub(super) fn show(here: &Here<'_>, args: &[&str]) -> Reply {
    let k = here.kernel();
    let (name, args) = args.split_first().ok_or("map NAME [KEY]; `maps` lists them")?;
    let map = names::map(k, name)?;
    let types = MapTypes::of(k, &map.def);
    match args {
        [] => Ok(contents(k, map, &types)),
        [key] => {
            let bytes = types.bytes(types.key, key, vec![0; map.def.key_size as usize])?;
            let none = || format!("{} has no key {key}", map.def.name);
            let entry = k.map_entry(map.id, &bytes).ok_or_else(none)?;
            let mut out = String::new();
            element(k, map, &types, (&bytes, &entry), &mut out);
            Ok(out)
        }
        [_, more @ ..] => no_more(more).map(|()| String::new()),
    }
}

/// `percpu NAME [KEY]`.
pub(super) fn percpu(here: &Here<'_>, args: &[&str]) -> Reply {
    let k = here.kernel();
    let per_cpu: Vec<&str> =
        k.maps.values().filter(|m| m.is_percpu()).map(|m| &*m.def.name).collect();
    let known = || match per_cpu.as_slice() {
        [] => "no map has a value for each CPU".to_owned(),
        all => format!("maps with a value for each CPU: {}", all.join(", ")),
    };
    let (name, rest) = args.split_first().ok_or_else(known)?;
    let map = names::map(k, name).map_err(|_| known())?;
    if !map.is_percpu() {
        return Err(format!("{name} has one value for all CPUs; {}", known()));
    }
    show(here, &[&[*name], rest].concat())
}

/// All elements, as far as they are shown.
fn contents(k: &Kernel, map: &Map, types: &MapTypes) -> String {
    let mut out = String::new();
    match map.def.map_type {
        MapType::Queue | MapType::Stack => {
            let values = k.fifo_values(map.id);
            for v in values.iter().take(SHOWN) {
                let _ = writeln!(out, "{}", types.text(types.value, v));
            }
            rest(values.len(), &mut out);
        }
        MapType::Ringbuf | MapType::UserRingbuf => {
            let _ = writeln!(out, "`ring {}` shows its records", map.def.name);
        }
        MapType::PerfEventArray => {
            let _ = writeln!(out, "`perf {}` shows its events", map.def.name);
        }
        MapType::TaskStorage | MapType::SkStorage | MapType::CgrpStorage => {
            let all: Vec<_> = k.map_owners(map.id).collect();
            for (owner, at) in all.iter().take(SHOWN) {
                let _ = writeln!(out, "owner {owner:#x}: {}", value(k, map, types, *at));
            }
            rest(all.len(), &mut out);
        }
        _ => elements(k, map, types, &mut out),
    }
    if out.is_empty() {
        let _ = writeln!(out, "{} is empty", map.def.name);
    }
    out
}

fn elements(k: &Kernel, map: &Map, types: &MapTypes, out: &mut String) {
    let keys = k.user_keys(map.id);
    let all = keys.iter().filter_map(|key| Some((key, k.map_entry(map.id, key)?)));
    let is_array = matches!(map.def.map_type, MapType::Array | MapType::PercpuArray);
    let brief = is_array && keys.len() > WHOLE;
    let (mut shown, mut zero, mut more) = (0, 0, 0);
    for (key, entry) in all {
        if brief && is_zero(k, map, &entry) {
            zero += 1;
        } else if shown < SHOWN {
            shown += 1;
            element(k, map, types, (key, &entry), out);
        } else {
            more += 1;
        }
    }
    if more > 0 {
        let _ = writeln!(out, "and {more} more");
    }
    if zero > 0 {
        let _ = writeln!(out, "{zero} elements are zero");
    }
}

fn rest(all: usize, out: &mut String) {
    if all > SHOWN {
        let _ = writeln!(out, "and {} more", all - SHOWN);
    }
}

fn is_zero(k: &Kernel, map: &Map, entry: &Entry) -> bool {
    let zero = |at: &u64| bytes(k, map, *at).iter().all(|b| *b == 0);
    matches!(entry, Entry::Values(all) if all.iter().all(zero))
}

fn bytes(k: &Kernel, map: &Map, at: u64) -> Vec<u8> {
    k.mem.read_vec(at, map.def.value_size as usize).unwrap_or_default()
}

fn value(k: &Kernel, map: &Map, types: &MapTypes, at: u64) -> String {
    types.text(types.value, &bytes(k, map, at))
}

/// A key and what is there.
fn element(
    k: &Kernel,
    map: &Map,
    types: &MapTypes,
    (key, entry): (&[u8], &Entry),
    out: &mut String,
) {
    let key = types.text(types.key, key);
    let _ = match entry {
        Entry::Values(all) if !map.is_percpu() => {
            let text = all.first().map(|at| value(k, map, types, *at));
            writeln!(out, "{key}: {}", text.unwrap_or_default())
        }
        Entry::Values(all) => {
            let _ = writeln!(out, "{key}:");
            for (cpu, at) in all.iter().enumerate() {
                let _ = writeln!(out, "  cpu{cpu}: {}", value(k, map, types, *at));
            }
            Ok(())
        }
        Entry::Prog(id) => writeln!(out, "{key}: {} (id {})", names::prog_name(k, *id), id.0),
        Entry::Group(group) => writeln!(out, "{key}: {}", k.cgroup_path(*group)),
        Entry::Map(id) => {
            let name = k.maps.get(id).map_or("gone", |m| &*m.def.name);
            writeln!(out, "{key}: {name} (id {})", id.0)
        }
        Entry::Bytes(stack) => writeln!(out, "{key}: {}", stack_text(k, stack)),
    };
}

/// The addresses of a stack trace, by name where they are in a program.
fn stack_text(k: &Kernel, stack: &[u8]) -> String {
    let words = stack.chunks_exact(8).map(|w| crate::runner::data::get_int(w, k.mem.endian()));
    let name = |pc: u64| match k.place_of(pc.wrapping_sub(1)) {
        Some((prog, insn)) => format!("{}+{}", names::prog_name(k, prog), insn.0),
        None => format!("{pc:#x}"),
    };
    let all: Vec<String> = words.take_while(|pc| *pc != 0).map(name).collect();
    format!("[{}]", all.join(", "))
}
