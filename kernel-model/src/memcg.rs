//! The memory control group that maps are charged to: `memory.current`, `memory.max`.
//!
//! Objects are charged by their bytes, and whole pages count against the limit, as with the
//! stock of `obj_cgroup_charge`. What maps allocate fails at the limit: their allocations neither
//! reclaim nor wake the OOM killer (`__GFP_NOWARN | __GFP_RETRY_MAYFAIL`, `GFP_NOWAIT`).
//!
//! Sources: mm/memcontrol.c, kernel/bpf/syscall.c:bpf_map_kmalloc_node (6.18).

use std::collections::BTreeMap;

use crate::Errno;
use crate::layout::PAGE_SIZE;

/// What is charged.
#[derive(Clone, Debug, Default)]
pub struct Memcg {
    max: Option<u64>,
    bytes: u64,
    /// Bytes of each object; kept only where there is a limit.
    objects: BTreeMap<u64, u64>,
    /// Charges that were refused (`max` of `memory.events`).
    refused: u64,
}

impl Memcg {
    /// A group with nothing in it and a limit in bytes, if it has one.
    #[must_use]
    pub fn new(max: Option<u64>) -> Memcg {
        Memcg { max, ..Memcg::default() }
    }

    /// `memory.current`, in bytes.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.bytes.next_multiple_of(PAGE_SIZE)
    }

    /// Charges that were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// `try_charge`.
    pub(crate) fn charge(&mut self, bytes: u64) -> Result<(), Errno> {
        let Some(max) = self.max else { return Ok(()) };
        if (self.bytes + bytes).next_multiple_of(PAGE_SIZE) > max {
            self.refused += 1;
            return Err(Errno::ENOMEM);
        }
        self.bytes += bytes;
        Ok(())
    }

    pub(crate) fn uncharge(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// What was charged is this object.
    pub(crate) fn charged(&mut self, addr: u64, bytes: u64) {
        if self.max.is_some() && bytes > 0 {
            *self.objects.entry(addr).or_default() += bytes;
        }
    }

    /// An object is freed.
    pub(crate) fn freed(&mut self, addr: u64) {
        if self.max.is_some()
            && let Some(bytes) = self.objects.remove(&addr)
        {
            self.uncharge(bytes);
        }
    }
}
