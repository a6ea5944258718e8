//! `bpf_mem_alloc`: per-CPU caches of objects, for what allocates in any context.
//!
//! An allocation takes from the list of its CPU and never from the slab; what is freed goes on
//! that list and is the next to be given out, grace period or not. An irq work keeps the list
//! between two watermarks: it runs at once, but waits while interrupts are off or in NMI, where
//! an allocation fails when the list is empty. What it takes off goes to the slab after an RCU
//! tasks trace and an RCU grace period. What is freed by `bpf_mem_free_rcu` goes there likewise:
//! that the kernel may reuse it in between, after the first of the two, is not modelled.
//!
//! Source: kernel/bpf/memalloc.c (6.18).

use std::collections::BTreeMap;

use crate::cpu::CpuId;
use crate::maps::MapId;
use crate::memcg::Charge;
use crate::{Errno, Kernel, rcu};

/// `LLIST_NODE_SZ`, in front of each object.
const NODE: u64 = 8;
/// `sizes` of `bpf_mem_cache_idx`, in order.
const SIZES: [u64; 11] = [16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096];
/// `alloc_bulk`'s own allocations, as a site of faults.
pub const REFILL: &str = "bpf_mem_refill";

/// Which caches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CacheId {
    /// Of a map's elements.
    Map(MapId),
    /// `bpf_global_ma`, by size of its objects.
    Global(u64),
}

impl CacheId {
    /// The cache of `bpf_global_ma` for a size; none beyond a page.
    pub(crate) fn global(size: u64) -> Option<CacheId> {
        let class = SIZES.into_iter().find(|s| *s >= size + NODE)?;
        Some(CacheId::Global(class - NODE))
    }
}

/// Objects of one kind.
#[derive(Clone, Debug)]
pub(crate) struct Cache {
    /// What objects are for.
    what: &'static str,
    /// Bytes of an object in the model.
    size: u64,
    /// `unit_size`, which watermarks and charges go by.
    unit: u64,
    /// Charged to a control group.
    group: Option<usize>,
    free: Vec<Vec<u64>>,
}

impl Cache {
    /// `low_watermark` and `high_watermark` of `init_refill_work`.
    fn watermarks(&self) -> (u64, u64) {
        match self.unit {
            ..=256 => (32, 96),
            unit => ((32 * 256 / unit).max(1), (96 * 256 / unit).max(3)),
        }
    }

    fn batch(&self) -> u64 {
        let (low, high) = self.watermarks();
        ((high - low) / 4 * 3).max(1)
    }
}

/// All caches, and the irq works that wait.
#[derive(Clone, Debug, Default)]
pub(crate) struct Caches {
    all: BTreeMap<CacheId, Cache>,
    raised: std::collections::BTreeSet<(CpuId, CacheId)>,
}

impl Kernel {
    /// `bpf_mem_alloc_init` with `prefill_mem_cache`.
    pub(crate) fn cache_init(
        &mut self,
        id: CacheId,
        what: &'static str,
        (size, unit): (u64, u64),
        group: Option<usize>,
    ) {
        let free = vec![Vec::new(); self.config.cpus as usize];
        let unit = unit + NODE;
        self.caches.all.insert(id, Cache { what, size, unit, group, free });
        let count = if unit <= 256 { 4 } else { 1 };
        for cpu in 0..self.config.cpus {
            self.cache_bulk(id, CpuId(cpu), count);
        }
    }

    /// Whether a cache was made.
    pub(crate) fn cache_is_there(&self, id: CacheId) -> bool {
        self.caches.all.contains_key(&id)
    }

    /// `unit_alloc`: an object with what it last had in it.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn cache_alloc(&mut self, id: CacheId) -> Result<u64, Errno> {
        let cpu = self.this_cpu;
        let Some(what) = self.caches.all.get(&id).map(|c| c.what) else {
            return Err(Errno::ENOMEM);
        };
        if self.inject_alloc(what) {
            return Err(Errno::ENOMEM);
        }
        let cache = self.caches.all.get_mut(&id).expect("looked up above");
        let low = cache.watermarks().0;
        let list = &mut cache.free[cpu.idx()];
        let object = list.pop();
        let (short, size) = ((list.len() as u64) < low, cache.size);
        if short {
            self.cache_raise(id, cpu);
        }
        if let Some(object) = object {
            self.races.forget(object - crate::layout::DIRECT_MAP, size);
        }
        object.ok_or(Errno::ENOMEM)
    }

    /// `unit_free`.
    pub(crate) fn cache_free(&mut self, id: CacheId, object: u64) {
        let cpu = self.this_cpu;
        let Some(cache) = self.caches.all.get_mut(&id) else { return };
        let (what, high) = (cache.what, cache.watermarks().1);
        if self.alloc.size_of(object).is_none() {
            return self.kfree(object, what);
        }
        let list = &mut cache.free[cpu.idx()];
        if list.contains(&object) {
            let site = self.site(what);
            return self.report(*self.alloc.double_free(object, site));
        }
        list.push(object);
        if list.len() as u64 > high {
            self.cache_raise(id, cpu);
        }
    }

    /// `bpf_mem_alloc_destroy`.
    pub(crate) fn cache_destroy(&mut self, id: CacheId) {
        self.caches.raised.retain(|r| r.1 != id);
        let Some(cache) = self.caches.all.remove(&id) else { return };
        for object in cache.free.into_iter().flatten() {
            self.kfree(object, "bpf_mem_alloc_destroy");
        }
    }

    /// `irq_work_raise`.
    fn cache_raise(&mut self, id: CacheId, cpu: CpuId) {
        self.caches.raised.insert((cpu, id));
        self.irq_work_run(cpu);
    }

    /// Runs the irq works of a CPU that wait, if it can be interrupted.
    pub(crate) fn irq_work_run(&mut self, cpu: CpuId) {
        if self.caches.raised.is_empty() || self.context(cpu).irqs_off {
            return;
        }
        let range = (cpu, CacheId::Map(MapId(0)))..=(cpu, CacheId::Global(u64::MAX));
        let due: Vec<_> = self.caches.raised.range(range).copied().collect();
        for (cpu, id) in due {
            self.caches.raised.remove(&(cpu, id));
            self.cache_refill(id, cpu);
        }
    }

    /// `bpf_mem_refill`.
    fn cache_refill(&mut self, id: CacheId, cpu: CpuId) {
        let Some(cache) = self.caches.all.get_mut(&id) else { return };
        let ((low, high), batch, what) = (cache.watermarks(), cache.batch(), cache.what);
        let list = &mut cache.free[cpu.idx()];
        let count = list.len() as u64;
        if count < low {
            self.cache_bulk(id, cpu, batch);
        } else if count > high {
            // free_bulk: down to the middle.
            let surplus = count - (high + low) / 2;
            let gone: Vec<u64> = list.drain(..surplus as usize).collect();
            gone.into_iter().for_each(|o| self.rcu_free(o, what, rcu::CHAIN));
        }
    }

    /// `alloc_bulk`: as many as there is memory for.
    fn cache_bulk(&mut self, id: CacheId, cpu: CpuId, count: u64) {
        for _ in 0..count {
            let Some(cache) = self.caches.all.get(&id) else { return };
            let (what, size, unit) = (cache.what, cache.size, cache.unit);
            let charge = cache.group.map(|group| Charge { group, bytes: unit });
            let charge = charge.unwrap_or_default();
            if self.inject_alloc(REFILL) {
                return;
            }
            let Ok(object) = self.kmalloc_charged(size, charge, what) else { return };
            if let Some(cache) = self.caches.all.get_mut(&id) {
                cache.free[cpu.idx()].insert(0, object);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::ledger::Kind;

    fn kernel() -> (Kernel, CacheId) {
        let mut k = Kernel::new(Config::default());
        let id = CacheId::global(100).unwrap();
        k.cache_init(id, "object", (120, 120), None);
        (k, id)
    }

    #[test]
    fn what_is_freed_is_given_out_next() {
        let (mut k, id) = kernel();
        let [a, b] = [0, 1].map(|_| k.cache_alloc(id).unwrap());
        k.cache_free(id, a);
        assert_ne!(a, b);
        assert_eq!(k.cache_alloc(id), Ok(a));
    }

    #[test]
    fn with_interrupts_off_there_is_what_was_there() {
        let (mut k, id) = kernel();
        let held = k.prog_held(CpuId(0), "bpf_local_irq_save");
        k.ledger.acquire(Kind::Irq, 0, held);
        for _ in 0..4 {
            k.cache_alloc(id).unwrap();
        }
        assert_eq!(k.cache_alloc(id), Err(Errno::ENOMEM));
        k.ledger.release(Kind::Irq, 0);
        k.irq_work_run(CpuId(0));
        let more = (0..200).filter(|_| k.cache_alloc(id).is_ok()).count();
        assert_eq!(more, 200);
    }

    #[test]
    fn a_surplus_goes_to_the_slab_after_its_grace_period() {
        let (mut k, id) = kernel();
        let objects: Vec<u64> = (0..100).map(|_| k.cache_alloc(id).unwrap()).collect();
        let before = k.alloc.live_bytes();
        objects.iter().for_each(|o| k.cache_free(id, *o));
        assert!(k.alloc.live_bytes() < before, "more than 96");
        k.cache_destroy(id);
        assert!(objects.iter().all(|o| k.alloc.size_of(*o).is_none()));
    }
}
