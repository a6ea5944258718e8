//! Maps: `struct bpf_map` and the values in guest memory, look-up structures beside them.
//!
//! Programs reach values by address, so every value lives in guest memory; which key leads to
//! which address is the model's business. Iteration is in order of insertion, which is the same
//! on every architecture (the kernel's order is by a random hash).
//!
//! Sources: kernel/bpf/{arraymap,hashtab,lpm_trie,queue_stack_maps,ringbuf,bloom_filter}.c.

mod arena;
mod attr;
mod btf;
pub(crate) mod command;
mod elem;
mod inner;
mod locks;
mod look;
mod ops;
mod ring;
mod rules;
mod store;
mod user;
mod whole;

use std::collections::{BTreeMap, VecDeque};

use bpf::uapi::MapType;

pub use attr::MapDef;
pub(crate) use attr::index_of;
pub use btf::check_btf;
pub use command::{CommandFrame, MapCommand};
pub use look::Entry;
pub(crate) use ring::Peek;
pub use ring::{Record, RecordState, RingState};
pub use rules::types;
pub(crate) use rules::{BtfRule, CLONE, check, of as rule_of};
pub(crate) use store::{EXIST, LOCK, Who};

use crate::cgroup::kept_key;
use crate::layout::{PERCPU_STRIDE, percpu_area};
use crate::{CpuId, Kernel, ProgId};

/// Kernel id of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MapId(pub u32);

/// An element found by key.
#[derive(Clone, Debug)]
pub(crate) struct Elem {
    /// Address of the value (of CPU 0, for per-CPU maps).
    pub(crate) value: u64,
    /// Order of insertion, or of use for LRU maps.
    pub(crate) seq: u64,
}

/// Elements by key with their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    pub(crate) by_key: BTreeMap<Vec<u8>, Elem>,
    pub(crate) order: BTreeMap<u64, Vec<u8>>,
    pub(crate) next_seq: u64,
    /// Keys of a trie as they were written last, where they have bits beyond their prefix.
    pub(crate) written: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// What lies behind a map.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Values one after the other; per-CPU arrays have one such row per CPU.
    Array { values: u64, stride: u64 },
    /// Hash tables and LPM tries.
    Hash(Table),
    /// Slots that hold programs.
    Progs { slots: Vec<Option<ProgId>>, ptrs: u64 },
    /// Slots that hold control groups, by their place in the tree.
    Groups { slots: Vec<Option<usize>>, ptrs: u64 },
    /// Slots that hold maps, by index.
    Maps { slots: Vec<Option<MapId>>, ptrs: u64 },
    /// Maps by key; the value is the inner map's address.
    MapHash { table: Table, inner: BTreeMap<Vec<u8>, MapId> },
    /// Queue or stack.
    Fifo(VecDeque<Vec<u8>>),
    /// Local storage: values by the address of their owner.
    Storage(BTreeMap<u64, u64>),
    /// Slots for `AF_XDP` sockets, which the model's processes have none of.
    Xsk,
    /// Local storage of attached programs, by group.
    CgroupStorage(Table),
    /// Pages shared with user space.
    Arena(arena::Arena),
    /// Bits set so far, as a set of values: no false positives.
    Bloom(std::collections::BTreeSet<Vec<u8>>),
    /// Ring buffer.
    Ring(ring::Ring),
    /// Stack traces by bucket.
    Stacks(BTreeMap<u32, Vec<u8>>),
    /// Perf event array: which slots user space has opened.
    Perf { open: Vec<bool> },
    /// devmap and cpumap: what user space wrote, by key.
    Targets(Table),
}

/// A map.
#[derive(Clone, Debug)]
pub struct Map {
    /// Id.
    pub id: MapId,
    /// As created.
    pub def: MapDef,
    /// `struct bpf_map` in guest memory.
    pub addr: u64,
    /// User space may no longer write.
    pub frozen: bool,
    /// Template of inner maps.
    pub inner: Option<MapDef>,
    /// Control group of its creator, which pays for it (`objcg`).
    pub memcg: usize,
    pub(crate) kind: Kind,
    /// Elements of a preallocated table that are free.
    pub(crate) elems: Option<elem::Prealloc>,
}

impl Map {
    /// Whether each CPU has its own value.
    #[must_use]
    pub fn is_percpu(&self) -> bool {
        is_percpu(self.def.map_type)
    }

    /// Whether elements are found by a key whose writes take `BPF_NOEXIST` and `BPF_EXIST`.
    pub(crate) fn is_keyed(&self) -> bool {
        matches!(self.kind, Kind::Array { .. } | Kind::Hash(_) | Kind::Targets(_))
    }

    /// Address of the first value of an array: of CPU 0, where each CPU has its own.
    #[must_use]
    pub fn array_values(&self) -> Option<u64> {
        match self.kind {
            Kind::Array { values, .. } => Some(values),
            _ => None,
        }
    }

    /// Bytes that a value takes.
    #[must_use]
    pub fn value_stride(&self) -> u64 {
        u64::from(self.def.value_size).next_multiple_of(8)
    }

    /// Distance between the values of two CPUs: those of an array are in per-CPU memory, where
    /// programs find them without a call; other elements have theirs in a row.
    #[must_use]
    pub fn cpu_stride(&self) -> u64 {
        match self.def.map_type {
            MapType::PercpuArray => PERCPU_STRIDE,
            _ => self.value_stride(),
        }
    }

    /// Per-CPU addresses of an array's values.
    pub(crate) fn percpu_values(&self) -> Option<std::ops::Range<u64>> {
        let Kind::Array { values, stride } = self.kind else { return None };
        let start = self.is_percpu().then(|| values - percpu_area(0))?;
        Some(start..start + stride * u64::from(self.def.max_entries))
    }

    /// Where in the values of an array an address lies, on whatever CPU.
    pub(crate) fn array_offset(&self, at: u64) -> Option<u64> {
        let Kind::Array { values, stride } = self.kind else { return None };
        let off = at.checked_sub(values)?;
        let off = if self.is_percpu() { off % PERCPU_STRIDE } else { off };
        (off < stride * u64::from(self.def.max_entries)).then_some(off)
    }
}

pub(crate) fn is_percpu(t: MapType) -> bool {
    use MapType::{LruPercpuHash, PercpuArray, PercpuCgroupStorage, PercpuHash};
    matches!(t, PercpuArray | PercpuHash | LruPercpuHash | PercpuCgroupStorage)
}

pub(crate) fn is_lru(t: MapType) -> bool {
    matches!(t, MapType::LruHash | MapType::LruPercpuHash)
}

impl Table {
    pub(crate) fn insert(&mut self, key: Vec<u8>, value: u64) {
        let seq = self.next_seq;
        self.next_seq += 1;
        self.order.insert(seq, key.clone());
        self.by_key.insert(key, Elem { value, seq });
    }

    pub(crate) fn remove(&mut self, key: &[u8]) -> Option<Elem> {
        let elem = self.by_key.remove(key)?;
        self.order.remove(&elem.seq);
        self.written.remove(key);
        Some(elem)
    }

    /// Makes an element the most recently used.
    pub(crate) fn touch(&mut self, key: &[u8]) {
        let seq = self.next_seq;
        if let Some(elem) = self.by_key.get_mut(key) {
            self.order.remove(&elem.seq);
            elem.seq = seq;
            self.order.insert(seq, key.to_vec());
            self.next_seq += 1;
        }
    }

    /// The key after `key` in order; the first for a key that is not there (as the kernel).
    pub(crate) fn next_key(&self, key: Option<&[u8]>) -> Option<Vec<u8>> {
        let after = key.and_then(|k| self.by_key.get(k)).map(|e| e.seq);
        match after {
            Some(seq) => self.order.range(seq + 1..).next().map(|(_, k)| k.clone()),
            None => self.order.values().next().cloned(),
        }
    }
}

impl Kernel {
    /// A map.
    #[must_use]
    pub fn map(&self, id: MapId) -> Option<&Map> {
        self.maps.get(&id)
    }

    /// The map whose `struct bpf_map` is at an address: what helpers get in R1.
    pub(crate) fn map_at(&self, addr: u64) -> Option<MapId> {
        self.map_by_addr.get(&addr).copied()
    }

    /// The key that leads to a value, in guest byte order; empty when none does.
    pub(crate) fn key_of_value(&self, id: MapId, value: u64) -> Vec<u8> {
        let Some(map) = self.maps.get(&id) else { return Vec::new() };
        if let Some(off) = map.array_offset(value) {
            return self.word((off / map.value_stride()) as u32).to_vec();
        }
        match &map.kind {
            Kind::Hash(t) => {
                let found = t.by_key.iter().find(|(_, e)| e.value == value);
                found.map_or(Vec::new(), |(k, _)| k.clone())
            }
            _ => Vec::new(),
        }
    }

    /// Reads a key of a program.
    pub(crate) fn read_key(&self, id: MapId, at: u64) -> Result<Vec<u8>, crate::Fault> {
        let size = self.maps[&id].def.key_size as usize;
        self.mem.read_vec(at, size).map_err(crate::Fault::from)
    }

    /// Address of a value on a CPU (`map->ops->map_lookup_elem`), 0 when there is none.
    pub fn map_lookup(&mut self, id: MapId, key: &[u8], cpu: CpuId) -> u64 {
        let Some(map) = self.maps.get_mut(&id) else { return 0 };
        let percpu = if map.is_percpu() { u64::from(cpu.0) } else { 0 };
        let (t, stride, max) = (map.def.map_type, map.cpu_stride(), map.def.max_entries);
        match &mut map.kind {
            Kind::Array { values, stride: row } => {
                let index = attr::index_of(self.mem.endian(), key);
                if index >= max {
                    return 0;
                }
                *values + u64::from(index) * *row + percpu * stride
            }
            Kind::Hash(table) if t == MapType::LpmTrie => store::lpm_match(table, key),
            Kind::Hash(table) => {
                if is_lru(t) {
                    table.touch(key);
                }
                table.by_key.get(key).map_or(0, |e| e.value + percpu * stride)
            }
            Kind::Targets(table) => table.by_key.get(key).map_or(0, |e| e.value),
            Kind::CgroupStorage(table) => {
                let found = table.by_key.get(&kept_key(key));
                found.map_or(0, |e| e.value + percpu * stride)
            }
            Kind::Maps { slots, .. } => {
                let index = attr::index_of(self.mem.endian(), key) as usize;
                let inner = slots.get(index).copied().flatten();
                inner.and_then(|m| self.maps.get(&m)).map_or(0, |m| m.addr)
            }
            Kind::MapHash { inner, .. } => {
                let inner = inner.get(key).copied();
                inner.and_then(|m| self.maps.get(&m)).map_or(0, |m| m.addr)
            }
            Kind::Progs { .. }
            | Kind::Groups { .. }
            | Kind::Fifo(_)
            | Kind::Bloom(_)
            | Kind::Ring(_)
            | Kind::Arena(_)
            | Kind::Storage(_)
            | Kind::Xsk
            | Kind::Stacks(_)
            | Kind::Perf { .. } => 0,
        }
    }

    /// The first element of a hash table at a place or after it, with its place.
    pub(crate) fn map_key_from(&self, id: MapId, place: u64) -> Option<(u64, Vec<u8>)> {
        let map = self.maps.get(&id)?;
        let (Kind::Hash(table) | Kind::MapHash { table, .. }) = &map.kind else { return None };
        table.order.range(place..).next().map(|(at, key)| (*at, key.clone()))
    }

    /// Number of elements (not for arrays).
    #[must_use]
    pub fn map_len(&self, id: MapId) -> u64 {
        match self.maps.get(&id).map(|m| (&m.kind, m.def.max_entries)) {
            Some((Kind::Hash(t) | Kind::Targets(t) | Kind::CgroupStorage(t), _)) => {
                t.by_key.len() as u64
            }
            Some((Kind::MapHash { inner, .. }, _)) => inner.len() as u64,
            Some((Kind::Fifo(q), _)) => q.len() as u64,
            Some((Kind::Bloom(b), _)) => b.len() as u64,
            Some((Kind::Progs { slots, .. }, _)) => slots.iter().flatten().count() as u64,
            Some((Kind::Groups { slots, .. }, _)) => slots.iter().flatten().count() as u64,
            Some((Kind::Stacks(s), _)) => s.len() as u64,
            Some((Kind::Storage(s), _)) => s.len() as u64,
            Some((Kind::Xsk, _)) => 0,
            Some((Kind::Maps { slots, .. }, _)) => slots.iter().flatten().count() as u64,
            Some((_, max)) => max.into(),
            None => 0,
        }
    }
}
