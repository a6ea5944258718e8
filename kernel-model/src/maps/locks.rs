//! Which locks the kernel takes for an operation on a map (6.18: kernel/bpf/hashtab.c,
//! bpf_lru_list.c, percpu_freelist.c, lpm_trie.c, queue_stack_maps.c, ringbuf.c,
//! bpf_local_storage.c, arraymap.c).
//!
//! Hash tables, tries, queues and rings have resilient locks: an NMI that meets the lock of what
//! it interrupted gets an error. LRU lists and local storage have plain ones.
//!
//! Without anyone who looks at points inside kernel paths these locks are taken and given back in
//! one step, so they are not taken at all.

use std::collections::VecDeque;

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
            Do::Own { .. } | Do::Run(_) | Do::Busy | Do::Await(_) => 0,
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
        Ok(self.update_locks(cpu, id, &key, flags))
    }

    /// The same by what it reads: of user space too.
    pub(super) fn update_locks(&mut self, cpu: CpuId, id: MapId, key: &[u8], flags: u64) -> Plan {
        let m = &self.maps[&id];
        if let Some(off) = m.def.spin_lock_off.filter(|_| flags & LOCK != 0) {
            // copy_map_value_locked: of an element that is there, its own lock.
            let value = self.map_value(m, key);
            if let Some(at) = value {
                let lock = LockId::Word(at + u64::from(off));
                return vec![Do::take(lock, Rules::Plain)];
            }
        }
        let rules = self.locks.resilient();
        let m = &self.maps[&id];
        match &m.kind {
            _ if !self.locks_seen() => Vec::new(),
            Kind::Hash(_) if m.def.map_type == MapType::LpmTrie => {
                vec![Do::take(own(id, Part::Trie, 0), rules)]
            }
            Kind::Hash(table) if is_lru(m.def.map_type) => {
                let (full, oldest) = (is_full(m, table), table.order.values().next().cloned());
                let victim = oldest.filter(|_| full).map(|k| bucket(m, &k));
                let bucket = bucket(m, key);
                let pops = m.def.map_type == MapType::LruHash || flags & 3 != EXIST;
                let mut plan = if pops { self.lru_pop(cpu, id, victim) } else { Vec::new() };
                plan.push(Do::take(own(id, Part::Bucket, bucket), rules));
                plan
            }
            Kind::Hash(table) => {
                let bucket = Do::take(own(id, Part::Bucket, bucket(m, key)), rules);
                let known = table.by_key.contains_key(key);
                if known || m.def.flags & NO_PREALLOC != 0 {
                    vec![bucket]
                } else {
                    // __pcpu_freelist_pop: its own list, then those of the others.
                    let any = self.freelists(cpu, id);
                    vec![bucket, Do::Take { any, or: Some(Errno::E2BIG.ret()) }]
                }
            }
            // spin_lock_irqsave
            Kind::Targets(_) if m.def.map_type == MapType::DevmapHash => {
                vec![Do::take(own(id, Part::DevIndex, 0), Rules::Plain)]
            }
            Kind::MapHash { .. } => {
                vec![Do::take(own(id, Part::Bucket, bucket(m, key)), rules)]
            }
            Kind::Fifo(_) => vec![self.queue_lock(id)],
            _ => Vec::new(),
        }
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
        Ok(self.delete_locks(id, &key))
    }

    /// The same by what it reads: of user space too.
    pub(super) fn delete_locks(&self, id: MapId, key: &[u8]) -> Plan {
        let (m, rules) = (&self.maps[&id], self.locks.resilient());
        let lock = match &m.kind {
            Kind::Hash(_) if m.def.map_type == MapType::LpmTrie => {
                Do::take(own(id, Part::Trie, 0), rules)
            }
            Kind::Hash(_) | Kind::MapHash { .. } => {
                Do::take(own(id, Part::Bucket, bucket(m, key)), rules)
            }
            Kind::Targets(_) if m.def.map_type == MapType::DevmapHash => {
                Do::take(own(id, Part::DevIndex, 0), Rules::Plain)
            }
            _ => return Vec::new(),
        };
        vec![lock]
    }

    fn queue_lock(&self, id: MapId) -> Do {
        let any = [(own(id, Part::Queue, 0), self.locks.resilient())].into();
        Do::Take { any, or: Some(Errno::EBUSY.ret()) }
    }

    /// Push, pop and peek of a queue or stack.
    pub(crate) fn queue_plan(&mut self, map: u64) -> Result<Plan, Fault> {
        let id = self.helper_map(map)?;
        Ok(match self.maps[&id].kind {
            Kind::Fifo(_) => vec![self.queue_lock(id)],
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
    /// The map's bucket is within it for a new value (`bpf_local_storage_update`) and before it
    /// for one that goes (`bpf_selem_unlink`). Locks of 6.18: they are resilient from 7.0 on.
    pub(crate) fn storage_plan(&mut self, map: u64, owner: u64, new: bool) -> Result<Plan, Fault> {
        let id = self.helper_map(map)?;
        let bucket = owner / 64 % u64::from(self.config.cpus.next_power_of_two().max(2));
        let lock = Do::take(own(id, Part::Storage, owner), Rules::Plain);
        let bucket = Do::take(own(id, Part::StorageBucket, bucket), Rules::Plain);
        let busy = self.is_busy_storage(id).then_some(Do::Busy);
        let locks = if new { vec![lock, bucket] } else { vec![bucket, Do::Give, lock] };
        Ok(busy.into_iter().chain(locks).collect())
    }

    /// `pcpu_freelist_pop` of a stack map: the list of this CPU, then those of the others.
    pub(crate) fn stack_plan(&mut self, cpu: CpuId, map: u64) -> Result<Plan, Fault> {
        let id = self.helper_map(map)?;
        let any = self.freelists(cpu, id);
        Ok(vec![Do::Take { any, or: Some(Errno::ENOMEM.ret()) }])
    }

    fn freelists(&self, cpu: CpuId, id: MapId) -> VecDeque<(LockId, Rules)> {
        let (cpus, rules) = (self.config.cpus, self.locks.resilient());
        let heads = (0..cpus).map(|n| u64::from((cpu.0 + n) % cpus));
        heads.map(|c| (own(id, Part::Freelist, c), rules)).collect()
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
