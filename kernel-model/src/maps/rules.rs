//! tidy: table
//! What `BPF_MAP_CREATE` takes, by map type: sizes, capacity, flags, types of key and value.
//!
//! One row is the `map_alloc_check` and `map_check_btf` of a type's `bpf_map_ops`. Errnos and
//! limits as measured on 6.18 (`tests/corpus/kernel-tables/map_create.tsv`).

use bpf::uapi::MapType;

use super::MapDef;
use crate::Errno;

/// `BPF_F_NO_PREALLOC`.
pub(crate) const NO_PREALLOC: u32 = 1 << 0;
/// `BPF_F_NO_COMMON_LRU`.
const NO_COMMON_LRU: u32 = 1 << 1;
/// `BPF_F_NUMA_NODE`.
pub(crate) const NUMA_NODE: u32 = 1 << 2;
/// `BPF_F_RDONLY` and `BPF_F_WRONLY`.
pub(crate) const RDONLY: u32 = 1 << 3;
pub(crate) const WRONLY: u32 = 1 << 4;
/// `BPF_F_ZERO_SEED`.
const ZERO_SEED: u32 = 1 << 6;
/// `BPF_F_RDONLY_PROG` and `BPF_F_WRONLY_PROG`.
pub(crate) const RDONLY_PROG: u32 = 1 << 7;
pub(crate) const WRONLY_PROG: u32 = 1 << 8;
/// `BPF_F_CLONE`.
pub(crate) const CLONE: u32 = 1 << 9;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_PRESERVE_ELEMS`.
const PRESERVE_ELEMS: u32 = 1 << 11;
/// `BPF_F_INNER_MAP`.
pub(crate) const INNER_MAP: u32 = 1 << 12;

const FILE: u32 = NUMA_NODE | RDONLY | WRONLY;
const ACCESS: u32 = FILE | RDONLY_PROG | WRONLY_PROG;
const HASH: u32 = NO_PREALLOC | NO_COMMON_LRU | ACCESS | ZERO_SEED;

/// `KMALLOC_MAX_SIZE`.
const KMALLOC_MAX: u64 = 4 << 20;
/// `sizeof(struct htab_elem)`.
const HTAB_ELEM: u64 = 48;
/// `LPM_DATA_SIZE_MAX` and `sizeof(struct lpm_trie_node)`.
const LPM_MAX: u64 = 256 + 40;
/// `PCPU_MIN_UNIT_SIZE`: values larger than this no per-CPU allocation takes.
const PCPU_UNIT: u64 = 32768;
/// `perf_event_max_stack`.
const STACK_DEPTH_MAX: u32 = 127;
/// `NR_CPUS` of the modelled kernel.
pub(crate) const NR_CPUS: u32 = 256;

/// A size that is wanted.
#[derive(Clone, Copy, Debug)]
enum Size {
    Zero,
    Four,
    FourOrEight,
    EightOrSixteen,
    Some,
    Within(u64, u64),
}

impl Size {
    fn takes(self, n: u32) -> bool {
        match self {
            Size::Zero => n == 0,
            Size::Four => n == 4,
            Size::FourOrEight => n == 4 || n == 8,
            Size::EightOrSixteen => n == 8 || n == 16,
            Size::Some => n != 0,
            Size::Within(from, to) => (from..=to).contains(&u64::from(n)),
        }
    }
}

/// How a type looks at BTF of keys and values (`map_check_btf`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BtfRule {
    /// No check of its own: both are needed.
    Plain,
    /// The key is an `int` of 32 bits.
    Index,
    /// The key is a struct.
    Struct,
    /// No key.
    Keyless,
    /// The key is an `int` of 32 bits, and without types there is no map.
    Owner,
    /// `cgroup_storage_check_btf`: the key is a group's id, or a struct with it.
    Group,
    /// `map_check_no_btf`.
    Refused,
}

/// A row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    map_type: MapType,
    key: Size,
    value: Size,
    flags: u32,
    pub(crate) btf: BtfRule,
    /// Has `map_meta_equal`: may be an inner map.
    pub(crate) inner: bool,
    /// A device can take it over: `map_ifindex` is looked at.
    pub(crate) offload: bool,
    /// Kinds of fields a value may have: a spin lock.
    pub(crate) lock: bool,
}

const fn rule(map_type: MapType, key: Size, value: Size, flags: u32, btf: BtfRule) -> Rule {
    Rule { map_type, key, value, flags, btf, inner: true, offload: false, lock: false }
}

use BtfRule::{Group, Index, Keyless, Owner, Plain, Refused, Struct};
use MapType as T;
use Size::{EightOrSixteen, Four, FourOrEight, Some as Any, Within, Zero};

#[rustfmt::skip]
const RULES: &[Rule] = &[
    Rule { offload: true, lock: true, ..rule(T::Hash, Any, Any, HASH, Plain) },
    rule(T::PercpuHash, Any, Any, HASH, Plain),
    rule(T::LruHash, Any, Any, HASH, Plain),
    rule(T::LruPercpuHash, Any, Any, HASH, Plain),
    Rule { offload: true, lock: true, ..rule(T::Array, Four, Any, ACCESS | MMAPABLE | INNER_MAP, Index) },
    rule(T::PercpuArray, Four, Any, ACCESS, Index),
    Rule { inner: false, ..rule(T::ProgArray, Four, Four, FILE, Plain) },
    rule(T::PerfEventArray, Four, Four, FILE | PRESERVE_ELEMS, Refused),
    rule(T::CgroupArray, Four, Four, FILE, Refused),
    rule(T::StackTrace, Four, Any, FILE, Refused),
    rule(T::LpmTrie, Within(5, 260), Within(1, KMALLOC_MAX - LPM_MAX), NO_PREALLOC | ACCESS, Struct),
    Rule { inner: false, ..rule(T::ArrayOfMaps, Four, Four, FILE, Refused) },
    Rule { inner: false, ..rule(T::HashOfMaps, Any, Four, HASH, Refused) },
    rule(T::Devmap, Four, FourOrEight, FILE, Refused),
    rule(T::DevmapHash, Four, FourOrEight, FILE, Refused),
    rule(T::Cpumap, Four, FourOrEight, NUMA_NODE, Refused),
    rule(T::Queue, Zero, Any, ACCESS, Plain),
    rule(T::Stack, Zero, Any, ACCESS, Plain),
    rule(T::BloomFilter, Zero, Any, ACCESS | ZERO_SEED, Keyless),
    rule(T::Ringbuf, Zero, Zero, NUMA_NODE, Plain),
    rule(T::UserRingbuf, Zero, Zero, NUMA_NODE, Plain),
    rule(T::Xskmap, Four, Four, FILE, Refused),
    Rule { lock: true, ..rule(T::SkStorage, Four, Any, NO_PREALLOC | CLONE, Owner) },
    Rule { lock: true, ..rule(T::InodeStorage, Four, Any, NO_PREALLOC | CLONE, Owner) },
    Rule { lock: true, ..rule(T::TaskStorage, Four, Any, NO_PREALLOC | CLONE, Owner) },
    Rule { lock: true, ..rule(T::CgrpStorage, Four, Any, NO_PREALLOC | CLONE, Owner) },
    Rule { lock: true, inner: false, ..rule(T::CgroupStorage, EightOrSixteen, Any, ACCESS, Group) },
    Rule { inner: false, ..rule(T::PercpuCgroupStorage, EightOrSixteen, Any, ACCESS, Group) },
    rule(T::Arena, Zero, Zero, !0, Plain),
];

/// The row of a type, when the model has it.
pub(crate) fn of(t: MapType) -> Option<&'static Rule> {
    RULES.iter().find(|r| r.map_type == t)
}

/// Types of which a map can be made.
pub fn types() -> impl Iterator<Item = MapType> {
    RULES.iter().map(|r| r.map_type)
}

fn is_hash(t: MapType) -> bool {
    matches!(t, T::Hash | T::PercpuHash | T::LruHash | T::LruPercpuHash | T::HashOfMaps)
}

/// `BPF_F_STACK_BUILD_ID`.
const STACK_BUILD_ID: u32 = 1 << 5;
/// Of `struct bpf_stack_build_id`, in the place of an address.
const STACK_BUILD_ID_BYTES: u32 = 32;

/// `map_alloc_check`.
pub(crate) fn check(def: &MapDef) -> Result<(), Errno> {
    let rule = of(def.map_type).ok_or(Errno::EINVAL)?;
    if def.map_type == T::Arena {
        return super::arena::check(def);
    }
    let MapDef { map_type, key_size, value_size, max_entries, flags, .. } = *def;
    let sizes = rule.key.takes(key_size) && rule.value.takes(value_size);
    let (storage, of_groups) = (rule.btf == Owner, rule.btf == Group);
    let sizes = sizes && (max_entries == 0) == (storage || of_groups);
    let both = RDONLY_PROG | WRONLY_PROG;
    let by_file = map_type == T::StackTrace && flags & STACK_BUILD_ID != 0;
    if by_file && sizes && value_size.is_multiple_of(STACK_BUILD_ID_BYTES) {
        // Stacks of user space, by file and offset in it: not in the model.
        return Err(Errno::ENOTSUPP);
    }
    if !sizes || flags & !rule.flags != 0 || flags & both == both {
        return Err(Errno::EINVAL);
    }
    if storage {
        return check_storage(def);
    }
    if of_groups {
        let percpu = map_type == T::PercpuCgroupStorage;
        let max = if percpu { PCPU_UNIT } else { STORAGE_MAX.into() };
        return if u64::from(value_size) > max { Err(Errno::E2BIG) } else { Ok(()) };
    }
    if is_hash(map_type) {
        check_hash(def)?;
    }
    let percpu = super::is_percpu(map_type);
    if percpu && flags & NUMA_NODE != 0 && def.numa_node != u32::MAX {
        return Err(Errno::EINVAL);
    }
    if percpu && u64::from(value_size).next_multiple_of(8) > PCPU_UNIT {
        return Err(Errno::E2BIG);
    }
    let page = crate::layout::PAGE_SIZE as u32;
    match map_type {
        T::LpmTrie if flags & NO_PREALLOC == 0 => Err(Errno::EINVAL),
        T::Array if value_size > i32::MAX as u32 => Err(Errno::E2BIG),
        T::Queue | T::Stack | T::BloomFilter if u64::from(value_size) > KMALLOC_MAX => {
            Err(Errno::E2BIG)
        }
        T::Ringbuf | T::UserRingbuf
            if !max_entries.is_power_of_two() || !max_entries.is_multiple_of(page) =>
        {
            Err(Errno::EINVAL)
        }
        T::StackTrace if !value_size.is_multiple_of(8) || value_size / 8 > STACK_DEPTH_MAX => {
            Err(Errno::EINVAL)
        }
        T::StackTrace if max_entries > 1 << 31 => Err(Errno::E2BIG),
        T::DevmapHash if max_entries > 1 << 31 => Err(Errno::EINVAL),
        T::Cpumap if max_entries > NR_CPUS => Err(Errno::E2BIG),
        // Four bits of map_extra say how many hashes a bloom filter uses.
        T::BloomFilter if def.map_extra & !0xf != 0 => Err(Errno::EINVAL),
        _ => Ok(()),
    }
}

/// `BPF_LOCAL_STORAGE_MAX_VALUE_SIZE`: with its element it fits 16 bits.
const STORAGE_MAX: u32 = 65535 - 128;

/// `bpf_local_storage_map_alloc_check`, types apart.
fn check_storage(def: &MapDef) -> Result<(), Errno> {
    if def.flags & NO_PREALLOC == 0 {
        return Err(Errno::EINVAL);
    }
    if def.value_size > STORAGE_MAX { Err(Errno::E2BIG) } else { Ok(()) }
}

fn check_hash(def: &MapDef) -> Result<(), Errno> {
    let lru = super::is_lru(def.map_type);
    if lru && def.flags & NO_PREALLOC != 0 {
        return Err(Errno::ENOTSUPP);
    }
    if !lru && def.flags & NO_COMMON_LRU != 0 {
        return Err(Errno::EINVAL);
    }
    let element = u64::from(def.key_size) + u64::from(def.value_size);
    if element >= KMALLOC_MAX - HTAB_ELEM {
        return Err(Errno::E2BIG);
    }
    // Buckets of 16 bytes, a power of two of them, in less than 4 GiB.
    if def.max_entries > 1 << 27 {
        return Err(Errno::E2BIG);
    }
    Ok(())
}
