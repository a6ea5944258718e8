//! Lock words: which lock, and the 32 bits that say who has it and who waits
//! (include/asm-generic/qspinlock_types.h, fewer than 16384 CPUs).
//!
//! ```text
//!  31        18 17 16 15        8 7         0
//! | CPU + 1    | idx | pending   | locked    |
//! ```

use std::collections::BTreeMap;

use crate::maps::MapId;
use crate::mem::{GuestMemory, MemFault};

/// `_Q_LOCKED_VAL`.
pub(crate) const LOCKED: u32 = 1;
/// `_Q_LOCKED_MASK`.
pub(crate) const LOCKED_MASK: u32 = 0xff;
/// `_Q_PENDING_VAL`.
pub(crate) const PENDING: u32 = 1 << 8;
/// `_Q_PENDING_MASK`.
pub(crate) const PENDING_MASK: u32 = 0xff00;
/// `_Q_LOCKED_PENDING_MASK`.
pub(crate) const LOCKED_PENDING_MASK: u32 = LOCKED_MASK | PENDING_MASK;
/// `_Q_TAIL_MASK`.
pub(crate) const TAIL_MASK: u32 = 0xffff_0000;
/// `_Q_TAIL_IDX_OFFSET` and `_Q_TAIL_CPU_OFFSET`.
const TAIL_IDX_SHIFT: u32 = 16;
const TAIL_CPU_SHIFT: u32 = 18;

/// A waiter's node: its CPU and how deep its contexts nest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NodeId {
    pub(crate) cpu: u32,
    pub(crate) idx: u32,
}

/// `encode_tail`.
pub(crate) const fn encode_tail(n: NodeId) -> u32 {
    ((n.cpu + 1) << TAIL_CPU_SHIFT) | (n.idx << TAIL_IDX_SHIFT)
}

/// `decode_tail`; `None` without a waiter.
pub(crate) const fn decode_tail(word: u32) -> Option<NodeId> {
    let Some(cpu) = (word >> TAIL_CPU_SHIFT).checked_sub(1) else { return None };
    Some(NodeId { cpu, idx: word >> TAIL_IDX_SHIFT & 3 })
}

/// Locks that the kernel takes for a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// `struct bucket::raw_lock` of a hash table.
    Bucket,
    /// `struct pcpu_freelist_head::lock` of a CPU.
    Freelist,
    /// `struct bpf_lru_locallist::lock` of a CPU.
    LruLocal,
    /// `struct bpf_lru_list::lock`.
    Lru,
    /// `struct lpm_trie::lock`.
    Trie,
    /// `struct bpf_queue_stack::lock`.
    Queue,
    /// `struct bpf_ringbuf::spinlock`.
    Ring,
    /// `struct bpf_dtab::index_lock`.
    DevIndex,
    /// `struct bpf_local_storage::lock`.
    Storage,
    /// `struct bpf_local_storage_map_bucket::lock`.
    StorageBucket,
}

impl Part {
    /// As reports call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Part::Bucket => "bucket lock",
            Part::Freelist => "free list lock",
            Part::LruLocal => "LRU per-CPU lock",
            Part::Lru => "LRU lock",
            Part::Trie => "trie lock",
            Part::Queue => "queue lock",
            Part::Ring => "ring lock",
            Part::DevIndex => "index lock",
            Part::Storage => "storage lock",
            Part::StorageBucket => "storage bucket lock",
        }
    }
}

/// A lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockId {
    /// A word of guest memory, by its address: locks of map values and of programs' objects.
    Word(u64),
    /// One that the kernel has for a map. No program can reach its word.
    Map {
        /// Of which map.
        map: MapId,
        /// Which of its locks.
        part: Part,
        /// Number of the bucket or CPU, address of the owner of a storage; otherwise 0.
        index: u64,
    },
    /// A mutex or semaphore of the tasks, by its number. It has no word.
    Sleeping(u32),
}

impl LockId {
    /// An address to print. That of a map's own lock is made up.
    #[must_use]
    pub fn addr(self) -> u64 {
        match self {
            LockId::Word(addr) => addr,
            LockId::Map { map, part, index } => {
                let nth = (part as u64) << 32 | index & 0xffff_ffff;
                crate::layout::KERNEL_LOCKS + (u64::from(map.0) << 40) + nth * 4
            }
            LockId::Sleeping(n) => crate::layout::KERNEL_LOCKS + u64::from(n) * 4,
        }
    }
}

/// The words of all locks: guest memory is the truth for those that are there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Words {
    /// Of the kernel's own locks, those that are not 0.
    own: BTreeMap<LockId, u32>,
}

impl Words {
    /// Reads a word.
    pub(crate) fn get(&self, mem: &GuestMemory, lock: LockId) -> Result<u32, MemFault> {
        match lock {
            LockId::Word(addr) => mem.read_u32(addr),
            LockId::Map { .. } | LockId::Sleeping(_) => {
                Ok(self.own.get(&lock).copied().unwrap_or(0))
            }
        }
    }

    /// Writes a word.
    pub(crate) fn set(
        &mut self,
        mem: &mut GuestMemory,
        lock: LockId,
        word: u32,
    ) -> Result<(), MemFault> {
        match lock {
            LockId::Word(addr) => return mem.write_u32(addr, word),
            LockId::Map { .. } | LockId::Sleeping(_) if word == 0 => self.own.remove(&lock),
            LockId::Map { .. } | LockId::Sleeping(_) => self.own.insert(lock, word),
        };
        Ok(())
    }

    /// Whether no lock of the kernel's own is held or waited for.
    pub(crate) fn none_held(&self) -> bool {
        self.own.is_empty()
    }

    /// `try_cmpxchg`.
    pub(crate) fn cmpxchg(
        &mut self,
        mem: &mut GuestMemory,
        lock: LockId,
        old: u32,
        new: u32,
    ) -> Result<bool, MemFault> {
        let same = self.get(mem, lock)? == old;
        if same {
            self.set(mem, lock, new)?;
        }
        Ok(same)
    }
}
