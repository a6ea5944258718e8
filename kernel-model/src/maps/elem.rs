//! Where elements of hash tables and tries come from (kernel/bpf/hashtab.c, percpu_freelist.c).
//!
//! A preallocated table has its elements from the beginning: one that is deleted is the next to
//! be given out on its CPU, whoever still has a pointer to it, and an update of a key that is there
//! takes the CPU's extra element and leaves the old one for the next update. The model takes
//! their memory when each is first used; that it is there is settled when the map is made.
//! Others come from `bpf_mem_alloc`.

use bpf::uapi::MapType;

use super::{Kind, MapDef, MapId, is_lru, is_percpu};
use crate::memalloc::CacheId;
use crate::memcg::Charge;
use crate::{Errno, Kernel, rcu};

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;
/// `sizeof(struct htab_elem)`, `sizeof(struct lpm_trie_node)` (6.18, 64 bits).
const HTAB_ELEM: u64 = 48;
const TRIE_NODE: u64 = 40;

/// What elements of maps are for, as sites of faults and in reports.
pub(crate) const WHAT: &str = "map element";

/// Elements of a preallocated table that are free.
#[derive(Clone, Debug, Default)]
pub(crate) struct Prealloc {
    /// By CPU, last freed first out.
    free: Vec<Vec<u64>>,
    /// How many of each CPU's were never used.
    fresh: Vec<u64>,
    /// `extra_elems`.
    extra: Vec<Option<u64>>,
}

impl Prealloc {
    /// `pcpu_freelist_populate`.
    fn new(entries: u64, cpus: u64) -> Prealloc {
        let share = |cpu| entries / cpus + u64::from(cpu < entries % cpus);
        Prealloc {
            free: vec![Vec::new(); cpus as usize],
            fresh: (0..cpus).map(share).collect(),
            extra: vec![None; cpus as usize],
        }
    }

    /// `__pcpu_freelist_pop`: `Some(None)` is one that was never used.
    fn pop(&mut self, cpu: usize) -> Option<Option<u64>> {
        let n = self.free.len();
        for at in (cpu..n).chain(0..cpu) {
            if let Some(e) = self.free[at].pop() {
                return Some(Some(e));
            }
            if self.fresh[at] > 0 {
                self.fresh[at] -= 1;
                return Some(None);
            }
        }
        None
    }

    /// All that has memory.
    pub(crate) fn into_all(self) -> impl Iterator<Item = u64> {
        self.free.into_iter().flatten().chain(self.extra.into_iter().flatten())
    }
}

fn is_hash(t: MapType) -> bool {
    use MapType::{Hash, LruHash, LruPercpuHash, PercpuHash};
    matches!(t, Hash | PercpuHash | LruHash | LruPercpuHash)
}

/// Whether elements are there from the beginning.
pub(super) fn is_prealloc(def: &MapDef) -> bool {
    is_hash(def.map_type) && def.flags & NO_PREALLOC == 0
}

/// Bytes of an element in the kernel.
pub(super) fn kernel_bytes(def: &MapDef) -> u64 {
    let round = |n: u32| u64::from(n).next_multiple_of(8);
    match def.map_type {
        MapType::LpmTrie => TRIE_NODE + u64::from(def.key_size - 4) + u64::from(def.value_size),
        t if is_percpu(t) => HTAB_ELEM + round(def.key_size) + 8,
        _ => HTAB_ELEM + round(def.key_size) + round(def.value_size),
    }
}

impl Kernel {
    /// What a new table's elements come from.
    pub(super) fn elems_init(&mut self, id: MapId) {
        let Some(map) = self.maps.get(&id) else { return };
        let (def, bytes, group) = (map.def.clone(), self.elem_bytes(id), map.memcg);
        if self.config.strict_free || !matches!(map.kind, Kind::Hash(_)) {
            return;
        }
        if is_prealloc(&def) {
            let (entries, cpus) = (u64::from(def.max_entries), u64::from(self.config.cpus));
            let elems = Prealloc::new(entries, cpus);
            self.maps.get_mut(&id).expect("looked up above").elems = Some(elems);
            return;
        }
        self.cache_init(CacheId::Map(id), WHAT, (bytes, kernel_bytes(&def)), Some(group));
    }

    pub(crate) fn elem_bytes(&self, id: MapId) -> u64 {
        let map = &self.maps[&id];
        let copies = if map.is_percpu() { u64::from(self.config.cpus) } else { 1 };
        (map.value_stride() * copies).max(8)
    }

    /// An element for a key that is not there.
    ///
    /// # Errors
    /// `ENOMEM`; `E2BIG` when a preallocated table is full.
    pub(super) fn elem_alloc(&mut self, id: MapId) -> Result<u64, Errno> {
        let (cpu, bytes) = (self.this_cpu.idx(), self.elem_bytes(id));
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        match &mut map.elems {
            Some(elems) => match elems.pop(cpu).ok_or(Errno::E2BIG)? {
                Some(elem) => Ok(self.elem_again(elem, bytes)),
                None => self.elem_first_use(bytes),
            },
            None if self.config.strict_free => {
                let charge = Charge { group: map.memcg, bytes: kernel_bytes(&map.def) };
                self.kzalloc_charged(bytes, charge, WHAT)
            }
            None => self.cache_alloc(CacheId::Map(id)),
        }
    }

    fn elem_again(&mut self, elem: u64, bytes: u64) -> u64 {
        self.races.forget(elem - crate::layout::DIRECT_MAP, bytes);
        elem
    }

    /// Memory of a preallocated element: no occasion for a fault.
    fn elem_first_use(&mut self, bytes: u64) -> Result<u64, Errno> {
        self.kmalloc_charged(bytes, Charge::default(), WHAT)
    }

    /// An element in the place of the one that a key has, which is given up with
    /// [`Kernel::elem_replaced`] once the new one is written.
    pub(super) fn elem_for_old(&mut self, id: MapId) -> Result<u64, Errno> {
        let (cpu, bytes) = (self.this_cpu.idx(), self.elem_bytes(id));
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        match &mut map.elems {
            Some(elems) => match elems.extra[cpu].take() {
                Some(elem) => Ok(self.elem_again(elem, bytes)),
                None => self.elem_first_use(bytes),
            },
            None => self.elem_alloc(id),
        }
    }

    /// The element that an update took away.
    pub(super) fn elem_replaced(&mut self, id: MapId, old: u64) {
        let cpu = self.this_cpu.idx();
        match self.maps.get_mut(&id).map(|m| &mut m.elems) {
            Some(Some(elems)) => elems.extra[cpu] = Some(old),
            _ => self.elem_free(id, old),
        }
    }

    /// The element of a deleted key.
    pub(super) fn elem_free(&mut self, id: MapId, elem: u64) {
        let cpu = self.this_cpu.idx();
        let Some(map) = self.maps.get_mut(&id) else { return };
        match (&mut map.elems, map.def.map_type) {
            (Some(elems), _) => elems.free[cpu].push(elem),
            // dev_map_delete_elem, cpu_map_delete_elem.
            (None, _) if matches!(map.kind, Kind::Targets(_)) => self.kfree_rcu(elem, WHAT),
            (None, MapType::LpmTrie) => self.rcu_free(elem, WHAT, rcu::RCU_CHAIN),
            (None, _) if self.config.strict_free => self.rcu_free(elem, WHAT, rcu::CHAIN),
            (None, _) => self.cache_free(CacheId::Map(id), elem),
        }
    }

    /// Whether an update writes into the element that is there: of per-CPU tables, and under the
    /// element's lock.
    pub(super) fn updates_in_place(&self, id: MapId, locked: bool) -> bool {
        let map = &self.maps[&id];
        locked || map.is_percpu() || matches!(map.kind, Kind::Targets(_))
    }

    /// Bytes that a new map is charged for, beside the elements that come later (`*_mem_usage`).
    pub(super) fn map_charge(&self, def: &MapDef) -> u64 {
        let (entries, value) = (u64::from(def.max_entries), u64::from(def.value_size));
        let cpus = u64::from(self.config.cpus);
        let per = if is_percpu(def.map_type) { cpus } else { 1 };
        let rows = entries * value.next_multiple_of(8) * per;
        match def.map_type {
            t if is_hash(t) => {
                let buckets = entries.next_power_of_two() * 16;
                let extra = if is_lru(t) || is_percpu(t) { 0 } else { cpus };
                let each = if is_percpu(t) { value.next_multiple_of(8) * cpus } else { 0 };
                let elems = if is_prealloc(def) { entries + extra } else { 0 };
                buckets + elems * (kernel_bytes(def) + each)
            }
            MapType::Array | MapType::PercpuArray => rows,
            MapType::Queue | MapType::Stack => (entries + 1) * value,
            MapType::Ringbuf | MapType::UserRingbuf => entries,
            MapType::ProgArray
            | MapType::CgroupArray
            | MapType::ArrayOfMaps
            | MapType::PerfEventArray
            | MapType::Devmap
            | MapType::Cpumap
            | MapType::Xskmap => entries * 8,
            _ => 0,
        }
    }
}
