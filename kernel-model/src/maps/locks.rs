//! Which locks the kernel takes for an operation on a map (6.18: kernel/bpf/hashtab.c,
//! bpf_lru_list.c, percpu_freelist.c, lpm_trie.c, queue_stack_maps.c, ringbuf.c,
//! bpf_local_storage.c, arraymap.c).
//!
//! Hash tables, tries, queues and rings have resilient locks: an NMI that meets the lock of what
//! it interrupted gets an error. LRU lists and local storage have plain ones.
//!
//! Without anyone who looks at points inside kernel paths these locks are taken and given back in
//! one step, so they are not taken at all.

use bpf::uapi::MapType;

use super::{Kind, Map, MapId, Table, attr, is_lru};
use crate::cpu::{CpuId, Fault};
use crate::helpers::{Body, Ret};
use crate::lock::path::Do;
use crate::lock::{LockId, Part, Rules};
use crate::{Errno, Kernel};

/// `BPF_F_NO_PREALLOC`.
const NO_PREALLOC: u32 = 1;
/// `BPF_F_LOCK`, `BPF_EXIST`.
const LOCK: u64 = 4;
const EXIST: u64 = 2;
/// `LOCAL_FREE_TARGET`: elements that a CPU takes from the LRU list at once.
const LRU_BATCH: u32 = 128;

/// What is done under the locks; empty when there are none.
type Plan = Vec<Do>;

fn own(map: MapId, part: Part, index: u64) -> LockId {
    LockId::Map { map, part, index }
}

/// Number of a key's bucket. The kernel's hash has a random seed; this one does not depend on
/// the order of a number's bytes, so that keys meet in the same buckets on all architectures.
fn bucket(map: &Map, key: &[u8]) -> u64 {
    let mix = |b: &u8| (u64::from(*b) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    let sum = key.iter().map(mix).fold(0u64, u64::wrapping_add);
    let n = u64::from(map.def.max_entries).next_power_of_two();
    (sum ^ sum >> 32) & (n - 1)
}

impl Kernel {
    /// Runs `body` under the locks of `plan`: at once when nobody can tell.
    pub(crate) fn under_locks(
        &mut self,
        cpu: CpuId,
        (func, args): (&'static str, [u64; 5]),
        body: Body,
        plan: impl FnOnce(&mut Kernel) -> Result<Plan, Fault>,
    ) -> Ret {
        let mut plan = match plan(self) {
            Ok(plan) if plan.is_empty() => return body(self, cpu, args),
            Ok(plan) => plan,
            Err(fault) => return Ret::Fault(fault),
        };
        let open = |d: &Do| match d {
            Do::Take { .. } => 1,
            Do::Give => -1,
            Do::Own { .. } | Do::Run(_) | Do::Busy => 0,
        };
        plan.push(Do::Run(body));
        let held: i32 = plan.iter().map(open).sum();
        plan.extend((0..held).map(|_| Do::Give));
        self.lock_path(cpu, func, args, plan)
    }

    /// Whether someone can tell that a lock of the kernel's own is taken.
    pub(crate) fn locks_seen(&self) -> bool {
        self.fine || !self.locks.queues.words.none_held()
    }

    /// `map_update_elem`.
    pub(crate) fn update_plan(
        &mut self,
        cpu: CpuId,
        [map, key, _, flags, _]: [u64; 5],
    ) -> Result<Plan, Fault> {
        let id = self.helper_map(map)?;
        let key = self.read_key(id, key)?;
        let m = &self.maps[&id];
        if let Some(off) = m.def.spin_lock_off.filter(|_| flags & LOCK != 0) {
            // copy_map_value_locked: of an element that is there, its own lock.
            let value = self.map_value(m, &key);
            if let Some(at) = value {
                let lock = LockId::Word(at + u64::from(off));
                return Ok(vec![Do::take(lock, Rules::Plain)]);
            }
        }
        let rules = self.locks.resilient();
        let m = &self.maps[&id];
        Ok(match &m.kind {
            _ if !self.locks_seen() => Vec::new(),
            Kind::Hash(_) if m.def.map_type == MapType::LpmTrie => {
                vec![Do::take(own(id, Part::Trie, 0), rules)]
            }
            Kind::Hash(table) if is_lru(m.def.map_type) => {
                let (full, oldest) = (is_full(m, table), table.order.values().next().cloned());
                let victim = oldest.filter(|_| full).map(|k| bucket(m, &k));
                let bucket = bucket(m, &key);
                let pops = m.def.map_type == MapType::LruHash || flags & 3 != EXIST;
                let mut plan = if pops { self.lru_pop(cpu, id, victim) } else { Vec::new() };
                plan.push(Do::take(own(id, Part::Bucket, bucket), rules));
                plan
            }
            Kind::Hash(table) => {
                let bucket = Do::take(own(id, Part::Bucket, bucket(m, &key)), rules);
                let known = table.by_key.contains_key(&key);
                if known || m.def.flags & NO_PREALLOC != 0 {
                    vec![bucket]
                } else {
                    // __pcpu_freelist_pop: its own list, then those of the others.
                    let cpus = self.config.cpus;
                    let heads = (0..cpus).map(|n| u64::from((cpu.0 + n) % cpus));
                    let any = heads.map(|c| (own(id, Part::Freelist, c), rules)).collect();
                    vec![bucket, Do::Take { any, or: Some(Errno::E2BIG.ret()) }]
                }
            }
            _ => Vec::new(),
        })
    }

    /// `bpf_lru_pop_free`: from the list of this CPU, which is filled from the map's when it is
    /// empty. A full map first loses its oldest element, under the lock of its bucket.
    fn lru_pop(&mut self, cpu: CpuId, id: MapId, victim: Option<u64>) -> Plan {
        let local = own(id, Part::LruLocal, cpu.0.into());
        let mut plan = vec![Do::take(local, Rules::Plain)];
        let batch = (self.maps[&id].def.max_entries / self.config.cpus / 2).clamp(1, LRU_BATCH);
        let left = self.locks.lru_free.entry((id, cpu)).or_default();
        let empty = *left == 0;
        *left = if empty { batch - 1 } else { *left - 1 };
        if empty || victim.is_some() {
            plan.push(Do::take(own(id, Part::Lru, 0), Rules::Plain));
            if let Some(bucket) = victim {
                let any = [(own(id, Part::Bucket, bucket), self.locks.resilient())].into();
                plan.extend([Do::Take { any, or: Some(Errno::ENOMEM.ret()) }, Do::Give]);
            }
            plan.push(Do::Give);
        }
        plan.push(Do::Give);
        plan
    }

    /// `map_delete_elem`.
    pub(crate) fn delete_plan(&mut self, [map, key, ..]: [u64; 5]) -> Result<Plan, Fault> {
        let id = self.helper_map(map)?;
        let key = self.read_key(id, key)?;
        let (m, rules) = (&self.maps[&id], self.locks.resilient());
        Ok(match &m.kind {
            Kind::Hash(_) if m.def.map_type == MapType::LpmTrie => {
                vec![Do::take(own(id, Part::Trie, 0), rules)]
            }
            Kind::Hash(_) => vec![Do::take(own(id, Part::Bucket, bucket(m, &key)), rules)],
            _ => Vec::new(),
        })
    }

    /// Push, pop and peek of a queue or stack.
    pub(crate) fn queue_plan(&mut self, map: u64) -> Result<Plan, Fault> {
        let id = self.helper_map(map)?;
        Ok(match self.maps[&id].kind {
            Kind::Fifo(_) => {
                let any = [(own(id, Part::Queue, 0), self.locks.resilient())].into();
                vec![Do::Take { any, or: Some(Errno::EBUSY.ret()) }]
            }
            _ => Vec::new(),
        })
    }

    /// `__bpf_ringbuf_reserve`, for `bpf_ringbuf_output` and (with 0 for an error) the others.
    pub(crate) fn ring_plan(&mut self, map: u64, or: u64) -> Result<Plan, Fault> {
        let id = self.helper_map(map)?;
        Ok(match self.maps[&id].kind {
            Kind::Ring(_) => {
                let any = [(own(id, Part::Ring, 0), self.locks.resilient())].into();
                vec![Do::Take { any, or: Some(or) }]
            }
            _ => Vec::new(),
        })
    }

    /// A storage that is made or deleted (`bpf_task_storage_lock`, then the storage's own lock).
    pub(crate) fn storage_plan(&mut self, map: u64, owner: u64) -> Result<Plan, Fault> {
        let id = self.helper_map(map)?;
        let lock = Do::take(own(id, Part::Storage, owner), Rules::Plain);
        let busy = self.is_busy_storage(id).then_some(Do::Busy);
        Ok(busy.into_iter().chain([lock]).collect())
    }

    /// Storages of tasks and control groups, which nothing may enter on a CPU that is in one.
    pub(crate) fn is_busy_storage(&self, id: MapId) -> bool {
        matches!(self.maps[&id].def.map_type, MapType::TaskStorage | MapType::CgrpStorage)
    }

    /// Address of an element of an array or hash table.
    fn map_value(&self, m: &Map, key: &[u8]) -> Option<u64> {
        match &m.kind {
            Kind::Array { values, stride } => {
                let index = attr::index_of(self.mem.endian(), key);
                (index < m.def.max_entries).then_some(values + u64::from(index) * stride)
            }
            Kind::Hash(t) => t.by_key.get(key).map(|e| e.value),
            _ => None,
        }
    }
}

fn is_full(m: &Map, table: &Table) -> bool {
    table.by_key.len() as u64 >= u64::from(m.def.max_entries)
}
