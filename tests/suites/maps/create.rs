//! `map_create.tsv`: one attribute varied at a time from a valid set.

use std::collections::BTreeMap;

use bpf::uapi::attr::MapCreate;
use bpf::uapi::fields::Struct;
use bpf::uapi::{Cmd, MapType};
use kernel_model::syscall::UserSpace;

use crate::face::Face;
use crate::table::{Finding, rows};

/// The attributes of a `base` row: `key=4 value=8 entries=4 flags=0x0 inner_map_fd`.
fn base(t: &str, text: &str, array: i32) -> MapCreate {
    let map_type = MapType::from_name(t).expect("a map type") as u32;
    let mut a = MapCreate { map_type, ..MapCreate::default() };
    let (text, typed) = text.split_once(" btf ").map_or((text, false), |(t, _)| (t, true));
    if typed {
        // An int and a structure of eight bytes, in types that are loaded later.
        (a.btf_key_type_id, a.btf_value_type_id) = (1, 6);
    }
    for word in text.split_whitespace() {
        let (name, v) = word.split_once('=').unwrap_or((word, ""));
        match name {
            "key" => a.key_size = number(v) as u32,
            "value" => a.value_size = number(v) as u32,
            "entries" => a.max_entries = number(v) as u32,
            "flags" => a.map_flags = number(v) as u32,
            "inner_map_fd" => a.inner_map_fd = array.cast_unsigned(),
            other => panic!("{other} in the base attributes of {t}"),
        }
    }
    a
}

fn number(s: &str) -> u64 {
    match s.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).expect("a number"),
        None => s.parse().expect("a number"),
    }
}

/// Objects that attributes refer to.
struct World {
    array: i32,
    prog: i32,
    btf: i32,
    base: BTreeMap<String, MapCreate>,
}

pub(crate) fn run(face: &mut Face) -> Vec<Finding> {
    let btf = face.types();
    let prog = face.program();
    let mut array = base("array", "key=4 value=8 entries=4", 0);
    let array = create(face, &mut array).expect("an array");
    let table = rows("map_create.tsv");
    let bases = table.iter().filter(|r| r[1] == "base");
    let with_types = |mut a: MapCreate| {
        if a.btf_key_type_id != 0 {
            a.btf_fd = btf.cast_unsigned();
        }
        a
    };
    let base = bases.map(|r| (r[0].clone(), with_types(base(&r[0], &r[2], array)))).collect();
    let world = World { array, prog, btf, base };
    let mut found = Vec::new();
    for (n, r) in table.iter().enumerate() {
        let [t, varied, value, errno] = &r[..] else { panic!("row {}: {r:?}", n + 1) };
        let said = one(face, &world, t, varied, value);
        if said != *errno {
            found.push(Finding { row: n + 1, text: r.join(" "), said });
        }
    }
    found
}

fn create(face: &mut Face, a: &mut MapCreate) -> Result<i32, String> {
    face.call(Cmd::MapCreate, a, &mut UserSpace::new())
}

/// One row: makes the map and closes it again.
fn one(face: &mut Face, w: &World, t: &str, varied: &str, value: &str) -> String {
    let mut a = w.base[t];
    let made = match varied {
        "attr size" => {
            let mut bytes = a.encode(face.endian());
            bytes.resize(number(value) as usize, 0);
            face.bytes(Cmd::MapCreate, &mut bytes, &mut UserSpace::new())
        }
        "inner map kind" => match inner(face, w, value) {
            Ok(fd) => {
                a.inner_map_fd = fd.cast_unsigned();
                let made = create(face, &mut a);
                face.close(fd);
                made
            }
            Err(said) => Err(said),
        },
        _ => {
            vary(&mut a, w, varied, value);
            create(face, &mut a)
        }
    };
    match made {
        Ok(fd) => {
            face.close(fd);
            "ok".to_owned()
        }
        Err(said) => said,
    }
}

// tidy: flat match
fn vary(a: &mut MapCreate, w: &World, varied: &str, value: &str) {
    let n = || number(value);
    match varied {
        "base" => {}
        "key_size" => a.key_size = n() as u32,
        "value_size" => a.value_size = n() as u32,
        "max_entries" => a.max_entries = n() as u32,
        "map_flags = base | 1<<bit" => a.map_flags |= bit(value),
        "map_flags = 0 or only 1<<bit" => a.map_flags = bit(value),
        "map_flags combos" => a.map_flags = n() as u32,
        "inner_map_fd" => a.inner_map_fd = fd(w, value).cast_unsigned(),
        "btf (key,value type id)" => {
            let (key, val) = value.split_once(',').expect("two ids");
            a.btf_fd = w.btf.cast_unsigned();
            (a.btf_key_type_id, a.btf_value_type_id) = (number(key) as u32, number(val) as u32);
        }
        "btf_fd invalid with key type 1" => {
            a.btf_fd = n() as u32;
            (a.btf_key_type_id, a.btf_value_type_id) = (1, 6);
        }
        "btf_fd set, ids 0" => a.btf_fd = w.btf.cast_unsigned(),
        "map_extra" => a.map_extra = n(),
        "numa_node without flag" => a.numa_node = n() as u32,
        "numa_node with BPF_F_NUMA_NODE" => {
            a.map_flags |= 4;
            a.numa_node = n() as u32;
        }
        "map_ifindex" => a.map_ifindex = n() as u32,
        "btf_vmlinux_value_type_id" => {
            // Any id will do: what counts is that the map is no struct_ops map.
            a.btf_vmlinux_value_type_id = value.parse().unwrap_or(2);
        }
        "map_name" => {
            let name = value.replace("\\x00", "\0");
            a.map_name[..name.len()].copy_from_slice(name.as_bytes());
        }
        "lock value (struct{bpf_spin_lock;int}) value_size" => {
            a.value_size = n() as u32;
            a.btf_fd = w.btf.cast_unsigned();
            let keyed = a.key_size != 0;
            (a.btf_key_type_id, a.btf_value_type_id) = (if keyed { 1 } else { 0 }, 3);
        }
        "key,value,entries" => {
            let v: Vec<u32> = value.split(',').map(|v| number(v) as u32).collect();
            (a.key_size, a.value_size, a.max_entries) = (v[0], v[1], v[2]);
        }
        other => panic!("unknown column {other}"),
    }
}

fn bit(value: &str) -> u32 {
    value.parse::<u32>().map_or(0, |b| 1 << b)
}

fn fd(w: &World, what: &str) -> i32 {
    match what {
        "unused fd" => 900,
        "not a map fd" => w.prog,
        "array map fd" => w.array,
        number => number.parse().expect("a descriptor"),
    }
}

/// An inner map of a kind.
fn inner(face: &mut Face, w: &World, kind: &str) -> Result<i32, String> {
    let (t, flag) = match kind {
        "array(4,8,4)" => ("array", 0),
        "array inner-flag 1<<12" => ("array", 1 << 12),
        "array with spin_lock" => ("array", 0),
        "bloom" => ("bloom_filter", 0),
        "lpm" => ("lpm_trie", 0),
        other => (other, 0),
    };
    let mut a = match w.base.get(t) {
        Some(a) => *a,
        None => outside(t, w.btf),
    };
    a.map_flags |= flag;
    if kind == "array with spin_lock" {
        a.btf_fd = w.btf.cast_unsigned();
        (a.btf_key_type_id, a.btf_value_type_id) = (1, 3);
    }
    create(face, &mut a)
}

/// Map types that are not in the table themselves.
fn outside(t: &str, btf: i32) -> MapCreate {
    let map_type = MapType::from_name(t).expect("a map type") as u32;
    let a =
        MapCreate { map_type, key_size: 4, value_size: 4, max_entries: 4, ..Default::default() };
    match t {
        "cgroup_storage" => MapCreate { key_size: 8, value_size: 8, max_entries: 0, ..a },
        "sk_storage" | "task_storage" => MapCreate {
            value_size: 8,
            max_entries: 0,
            map_flags: 1,
            btf_fd: btf.cast_unsigned(),
            btf_key_type_id: 1,
            btf_value_type_id: 6,
            ..a
        },
        "arena" => MapCreate { key_size: 0, value_size: 0, map_flags: 0x400, ..a },
        _ => a,
    }
}
