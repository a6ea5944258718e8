//! `map_ops.tsv`: what user space may do with a map, by type and by what is in it.
//!
//! Rows of a state that says so run in order on one map; all others start from a fresh one.

use std::collections::BTreeMap;

use bpf::uapi::attr::{MapBatch, MapCreate, MapElem, MapFreeze};
use bpf::uapi::fields::Struct;
use bpf::uapi::{Cmd, MapType};
use kernel_model::syscall::UserSpace;

use crate::face::{Face, Said};
use crate::table::{Finding, rows};

/// A map and what is known of it.
#[derive(Clone, Copy)]
pub(crate) struct Made {
    pub(crate) fd: i32,
    pub(crate) t: MapType,
    pub(crate) key: usize,
    pub(crate) value: usize,
}

/// Objects that values refer to.
#[derive(Clone, Copy)]
pub(crate) struct World {
    pub(crate) array: i32,
    pub(crate) hash: i32,
    pub(crate) prog: i32,
    pub(crate) btf: i32,
}

/// What is asked of a map, of the six columns before the answer.
pub(crate) struct Ask<'a> {
    pub(crate) t: &'a str,
    pub(crate) state: &'a str,
    pub(crate) op: &'a str,
    pub(crate) key: &'a str,
    pub(crate) flags: u64,
}

/// An answer: errno or `ok`, and the result column.
pub(crate) type Answer = (Said, String);

pub(crate) fn run(face: &mut Face) -> Vec<Finding> {
    let table = rows("map_ops.tsv");
    let attrs = |t, key_size, value_size| MapCreate {
        map_type: t as u32,
        key_size,
        value_size,
        max_entries: 4,
        ..MapCreate::default()
    };
    let btf = face.types();
    let prog = face.program();
    let mut make =
        |mut a| face.call(Cmd::MapCreate, &mut a, &mut UserSpace::new()).expect("a plain map");
    let array = make(attrs(MapType::Array, 4, 8));
    let hash = make(attrs(MapType::Hash, 4, 8));
    let world = World { array, hash, prog, btf };
    let mut maps = Maps { world, kept: BTreeMap::new(), first: Vec::new() };
    let mut found = Vec::new();
    for (n, r) in table.iter().enumerate() {
        let flags = r[4].strip_prefix("flags=").unwrap_or(&r[4]);
        let (t, state, op, key) = (&r[0][..], &r[1][..], &r[2][..], &r[3][..]);
        let ask = Ask { t, state, op, key, flags: number(flags) };
        let (said, result) = maps.answer(face, &ask);
        // Ids differ from machine to machine.
        let id = matches!(t, "prog_array" | "array_of_maps" | "hash_of_maps") && op == "lookup";
        let same = result == r[6] || r[6].is_empty() && !op.contains("batch") || id;
        if said != r[5] || !same {
            let said = if said == r[5] { result } else { said };
            found.push(Finding { row: n + 1, text: r.join(" | "), said });
        }
    }
    found
}

pub(crate) fn number(s: &str) -> u64 {
    match s.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).expect("a number"),
        None => s.parse().unwrap_or(0),
    }
}

/// The maps of the rows that go on with one.
struct Maps {
    world: World,
    kept: BTreeMap<(String, String), Option<Made>>,
    /// First key of an iteration, for the rows that go on from it.
    first: Vec<u8>,
}

impl Maps {
    fn answer(&mut self, face: &mut Face, ask: &Ask<'_>) -> Answer {
        let group = group(ask);
        if let Some(group) = group {
            let key = (ask.t.to_owned(), group);
            if !self.kept.contains_key(&key) || begins(ask) {
                let made = prepare(face, self.world, ask);
                match made {
                    Ok(m) => self.kept.insert(key, Some(m)),
                    Err(said) => return (said, String::new()),
                };
            } else if ask.op == "create" {
                return ("ok".to_owned(), String::new());
            }
            let m = self.kept[&(ask.t.to_owned(), self::group(ask).unwrap_or_default())];
            return match m {
                Some(m) => self.perform(face, m, ask),
                None => ("?".to_owned(), String::new()),
            };
        }
        match prepare(face, self.world, ask) {
            Ok(m) => {
                let answer = self.perform(face, m, ask);
                face.close(m.fd);
                answer
            }
            Err(said) => (said, String::new()),
        }
    }

    fn perform(&mut self, face: &mut Face, m: Made, ask: &Ask<'_>) -> Answer {
        let w = self.world;
        let (op, rest) = ask.op.split_once(' ').unwrap_or((ask.op, ""));
        if ask.state == "bad fd / attr" {
            return super::bad::perform(face, m, w, ask);
        }
        if ask.op == "create" {
            return ("ok".to_owned(), String::new());
        }
        if op.ends_with("_batch") {
            return super::batch::perform(face, m, w, op, rest, ask.flags);
        }
        let key = key_of(face, m, ask.key, &self.first);
        match op {
            "fill" => fill(face, m, w),
            "push" => {
                let value = if rest.starts_with("EXIST when") { 77 } else { 78 };
                update(face, m, key.as_deref(), &wide(face, m, value), ask.flags)
            }
            "setup" | "update" => {
                let value = value_of(face, m, w, ask);
                update(face, m, key.as_deref(), &value, ask.flags)
            }
            "lookup" => lookup(face, m, key.as_deref(), ask, Cmd::MapLookupElem),
            "lookup_and_delete" => {
                lookup(face, m, key.as_deref(), ask, Cmd::MapLookupAndDeleteElem)
            }
            "delete" => {
                let mut user = UserSpace::new();
                let key = key.map_or(0, |k| user.put(&k));
                let mut a = elem(m, key, 0, ask.flags);
                said(face.call(Cmd::MapDeleteElem, &mut a, &mut user))
            }
            "get_next_key" => self.next_key(face, m, ask, key.as_deref()),
            "freeze" => {
                let mut a = MapFreeze { map_fd: m.fd.cast_unsigned() };
                said(face.call(Cmd::MapFreeze, &mut a, &mut UserSpace::new()))
            }
            other => panic!("unknown operation {other}"),
        }
    }

    fn next_key(&mut self, face: &mut Face, m: Made, ask: &Ask<'_>, key: Option<&[u8]>) -> Answer {
        let mut user = UserSpace::new();
        let next = user.room(m.key.max(8));
        let key = key.map_or(0, |k| user.put(k));
        let mut a = elem(m, key, next, 0);
        let done = face.call(Cmd::MapGetNextKey, &mut a, &mut user);
        let bytes = user.bytes(next)[..m.key].to_vec();
        if ask.key == "NULL" && done.is_ok() {
            self.first = bytes.clone();
        }
        match done {
            Ok(_) => ("ok".to_owned(), hex(&little(face, m, &bytes))),
            Err(e) => (e, String::new()),
        }
    }
}

/// Rows that go on with the map of the row before.
fn group(ask: &Ask<'_>) -> Option<String> {
    let sequence = ["full", "freeze", "created", "lock"].iter().any(|s| ask.state.starts_with(s));
    let after = ask.op.starts_with("lookup after") || ask.op == "delete again";
    let taken = matches!(ask.op, "lookup_and_delete" | "delete");
    if sequence {
        return Some(ask.state.to_owned());
    }
    if ask.state == "k0 present" && (after || taken) {
        return Some("k0 taken".to_owned());
    }
    let batch = ask.state == "batch";
    if batch && (ask.op.starts_with("update_batch") || ask.op.starts_with("delete_batch count")) {
        return Some("batch".to_owned());
    }
    let walk = ask.op.contains("continue") || ask.op.contains("full count=1 ");
    if batch && walk {
        return Some(format!("walk {}", ask.op.split(' ').next().unwrap_or_default()));
    }
    None
}

/// Rows at which such a sequence starts over.
fn begins(ask: &Ask<'_>) -> bool {
    matches!(ask.op, "lookup_and_delete" | "delete") && ask.state == "k0 present"
        || ask.op.starts_with("update_batch")
        || ask.op.contains("full count=1 ")
}

/// Makes the map of a row and puts into it what the state says.
fn prepare(face: &mut Face, w: World, ask: &Ask<'_>) -> Result<Made, Said> {
    let m = create(face, w, ask)?;
    let has_k0 = matches!(ask.state, "k0 present" | "freeze") && !ask.op.starts_with("setup");
    if has_k0 {
        let key = key_of(face, m, "k0", &[]);
        let value = value_of(face, m, w, ask_value("update"));
        update(face, m, key.as_deref(), &value, 0);
    }
    if ask.state == "batch" && ask.op.contains(" full ") {
        fill(face, m, w);
    }
    Ok(m)
}

fn ask_value(op: &'static str) -> &'static Ask<'static> {
    match op {
        "update" => &Ask { t: "", state: "", op: "update", key: "k0", flags: 0 },
        _ => panic!("no such request"),
    }
}

fn create(face: &mut Face, w: World, ask: &Ask<'_>) -> Result<Made, Said> {
    let locked = ask.t.strip_suffix(" with spin_lock value");
    let name = locked.unwrap_or(if ask.t == "(any)" { "hash" } else { ask.t });
    let t = MapType::from_name(name).expect("a map type");
    use MapType as T;
    let (key, value) = match t {
        T::LpmTrie => (8, 8),
        T::Queue | T::Stack | T::BloomFilter => (0, 8),
        T::Ringbuf | T::UserRingbuf => (0, 0),
        T::ProgArray | T::PerfEventArray | T::ArrayOfMaps | T::HashOfMaps => (4, 4),
        T::Devmap | T::DevmapHash | T::Cpumap => (4, 4),
        _ => (4, 8),
    };
    let mut a = MapCreate {
        map_type: t as u32,
        key_size: key as u32,
        value_size: value as u32,
        max_entries: if matches!(t, T::Ringbuf | T::UserRingbuf) { 4096 } else { 2 },
        map_flags: if t == T::LpmTrie { 1 } else { 0 },
        ..MapCreate::default()
    };
    if matches!(t, T::ArrayOfMaps | T::HashOfMaps) {
        a.inner_map_fd = w.array.cast_unsigned();
    }
    if locked.is_some() {
        a.btf_fd = w.btf.cast_unsigned();
        (a.btf_key_type_id, a.btf_value_type_id) = (1, 3);
    }
    match ask.state {
        "created with BPF_F_RDONLY" => a.map_flags |= 1 << 3,
        "created with BPF_F_WRONLY" => a.map_flags |= 1 << 4,
        _ => {}
    }
    let fd = face.call(Cmd::MapCreate, &mut a, &mut UserSpace::new())?;
    Ok(Made { fd, t, key, value })
}

/// `k0`, `k1 (absent)`, `NULL`, `first`, `all ff`, `non-NULL`.
pub(crate) fn key_of(face: &Face, m: Made, name: &str, first: &[u8]) -> Option<Vec<u8>> {
    let word = name.split(' ').next().unwrap_or_default();
    match word {
        "NULL" => return None,
        "non-NULL" => return Some(vec![0; 8]),
        "first" => return Some(first.to_vec()),
        "all" => return Some(vec![0xff; m.key]),
        _ if m.key == 0 => return None,
        _ => {}
    }
    let n: u32 = word.trim_end_matches('.').trim_start_matches('k').parse().unwrap_or(0);
    Some(key(face, m, n))
}

/// Key number `n`.
pub(crate) fn key(face: &Face, m: Made, n: u32) -> Vec<u8> {
    if m.t != MapType::LpmTrie {
        return face.word(n).to_vec();
    }
    // The last prefix is longer than its data.
    let (len, data) =
        [(32, [10, 0, 0, 1]), (16, [10, 1, 0, 0]), (24, [10, 2, 0, 0]), (33, [10, 3, 0, 0])]
            [n as usize];
    [face.word(len), data].concat()
}

/// A number as the value of a queue, stack or bloom filter.
fn wide(face: &Face, m: Made, n: u32) -> Vec<u8> {
    let mut value = vec![0; m.value];
    let low = if face.endian() == bpf::Endian::Big { 4 } else { 0 };
    if let Some(b) = value.get_mut(low..low + 4) {
        b.copy_from_slice(&face.word(n));
    }
    value
}

/// The value that belongs to a row.
fn value_of(face: &Face, m: Made, w: World, ask: &Ask<'_>) -> Vec<u8> {
    use MapType as T;
    let word = |v: i32| face.word(v.cast_unsigned()).to_vec();
    let rest = ask.op.split_once(' ').map_or("", |r| r.1);
    match rest {
        "value=bad fd" => return word(9999),
        "value=-1" => return word(-1),
        // The second write of a slot was measured with a descriptor of the wrong kind as well.
        "other kind of object" | "same key" if m.t == T::ProgArray => return word(w.array),
        "other kind of object" | "same key" if matches!(m.t, T::ArrayOfMaps | T::HashOfMaps) => {
            return word(w.prog);
        }
        "inner map of other type" => return word(w.hash),
        "to unknown ifindex" => return word(9999),
        "to qsize 0" => return word(0),
        _ => {}
    }
    if let Some(n) = rest.strip_prefix("(push) #") {
        return wide(face, m, n.parse().expect("a number"));
    }
    if ask.state == "lock" {
        return [face.word(0), face.word(5)].concat();
    }
    if m.value == 0 {
        return Vec::new();
    }
    match m.t {
        T::ProgArray => word(w.prog),
        T::ArrayOfMaps | T::HashOfMaps => word(w.array),
        T::PerfEventArray => word(9999),
        T::Devmap | T::DevmapHash => word(1),
        T::Cpumap => word(192),
        _ => {
            let cpus = if is_percpu(m.t) { face.cpus() } else { 1 };
            0x1122_3344_5566_7788u64.to_le_bytes().repeat(cpus)
        }
    }
}

pub(crate) fn is_percpu(t: MapType) -> bool {
    matches!(t, MapType::PercpuArray | MapType::PercpuHash | MapType::LruPercpuHash)
}

pub(crate) fn plain_value(face: &Face, m: Made, w: World) -> Vec<u8> {
    value_of(face, m, w, ask_value("update"))
}

fn fill(face: &mut Face, m: Made, w: World) -> Answer {
    let mut last = ("ok".to_owned(), String::new());
    for n in 0..2 {
        let (key, value) = (key(face, m, n), plain_value(face, m, w));
        let key = if m.key == 0 { None } else { Some(&key[..]) };
        last = update(face, m, key, &value, 0);
    }
    last
}

pub(crate) fn elem(m: Made, key: u64, value: u64, flags: u64) -> MapElem {
    MapElem { map_fd: m.fd.cast_unsigned(), key, value, flags }
}

pub(crate) fn said(r: Result<i32, Said>) -> Answer {
    (r.err().unwrap_or_else(|| "ok".to_owned()), String::new())
}

pub(crate) fn update(
    face: &mut Face,
    m: Made,
    key: Option<&[u8]>,
    value: &[u8],
    flags: u64,
) -> Answer {
    let mut user = UserSpace::new();
    let key = key.map_or(0, |k| user.put(k));
    let value = user.put(value);
    said(face.call(Cmd::MapUpdateElem, &mut elem(m, key, value, flags), &mut user))
}

fn lookup(face: &mut Face, m: Made, key: Option<&[u8]>, ask: &Ask<'_>, cmd: Cmd) -> Answer {
    let mut user = UserSpace::new();
    let cpus = if is_percpu(m.t) { face.cpus() } else { 1 };
    let len = m.value * cpus;
    let given = ask.op.split_once("value=").and_then(|v| v.1.split(' ').next());
    let given = given.map_or(vec![0; len.max(8)], |n| wide(face, m, number(n) as u32));
    let value = user.put(&given);
    let key = key.map_or(0, |k| user.put(k));
    let done = face.call(cmd, &mut elem(m, key, value, ask.flags), &mut user);
    match done {
        Ok(_) => {
            let bytes = user.bytes(value)[..len].to_vec();
            ("ok".to_owned(), hex(&little_value(face, m, ask, &bytes)))
        }
        Err(e) => (e, String::new()),
    }
}

/// The tables were measured on a little-endian machine.
fn little(face: &Face, m: Made, key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    let len = if m.t == MapType::LpmTrie { 4 } else { key.len() };
    if face.endian() == bpf::Endian::Big {
        key[..len].reverse();
    }
    key
}

fn little_value(face: &Face, m: Made, ask: &Ask<'_>, value: &[u8]) -> Vec<u8> {
    let mut value = value.to_vec();
    if face.endian() == bpf::Endian::Little {
        return value;
    }
    use MapType as T;
    match m.t {
        T::ProgArray | T::ArrayOfMaps | T::HashOfMaps | T::Devmap | T::DevmapHash | T::Cpumap => {
            value.reverse();
        }
        T::Queue | T::Stack if ask.state.starts_with("full") => value.reverse(),
        _ if ask.state == "lock" => value.chunks_mut(4).for_each(<[u8]>::reverse),
        _ => {}
    }
    value
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Offsets of a field, for rows that write beside them.
pub(crate) const ELEM_SIZE: usize = MapElem::SIZE;
/// See [`ELEM_SIZE`].
pub(crate) const BATCH_SIZE: usize = MapBatch::SIZE;
