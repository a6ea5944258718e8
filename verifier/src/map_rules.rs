//! Which maps a program may use: `check_map_prog_compatibility` and the rules of arenas.

use bpf::insn::Insn;
use bpf::uapi::{MapType, ProgType};
use bpf::{Endian, Program};

use crate::btf::record::{FieldKind, Record};
use crate::env::MapInfo;
use crate::explore::Opts;
use crate::reject::{EINVAL, EPERM, Rejection};

/// `EBUSY`.
const EBUSY: i32 = 16;

/// Fields that programs of some types may not have in their maps, in the order of the checks.
const FIELDS: &[(&[FieldKind], &str)] = &[
    (&[FieldKind::ListHead, FieldKind::RbRoot], "bpf_{list_head,rb_root}"),
    (&[FieldKind::SpinLock], "bpf_spin_lock"),
    (&[FieldKind::Timer], "bpf_timer"),
    (&[FieldKind::Workqueue], "bpf_wq"),
];

/// Maps that programs that sleep may use.
const SLEEPABLE: &[MapType] = &[
    MapType::Hash,
    MapType::LruHash,
    MapType::Array,
    MapType::PercpuHash,
    MapType::PercpuArray,
    MapType::LruPercpuHash,
    MapType::ArrayOfMaps,
    MapType::HashOfMaps,
    MapType::Ringbuf,
    MapType::UserRingbuf,
    MapType::InodeStorage,
    MapType::SkStorage,
    MapType::TaskStorage,
    MapType::CgrpStorage,
    MapType::Queue,
    MapType::Stack,
    MapType::Arena,
    MapType::InsnArray,
];

/// `is_tracing_prog_type`.
fn is_tracing(t: ProgType) -> bool {
    matches!(
        t,
        ProgType::Kprobe
            | ProgType::Tracepoint
            | ProgType::PerfEvent
            | ProgType::RawTracepoint
            | ProgType::RawTracepointWritable
    )
}

fn refuse(errno: i32, text: impl Into<String>) -> Result<(), Box<Rejection>> {
    Err(Box::new(Rejection::refuse(errno, text)))
}

/// KERNEL v6.18 verifier.c:check_map_prog_compatibility
///
/// # Errors
/// In the kernel's words.
pub(crate) fn compatible(
    p: &Program,
    map: &MapInfo,
    record: &Record,
) -> Result<(), Box<Rejection>> {
    for (kinds, name) in FIELDS {
        if !kinds.iter().any(|k| record.find(*k).is_some()) {
            continue;
        }
        if *name == "bpf_spin_lock" && p.prog_type == ProgType::SocketFilter {
            return refuse(EINVAL, "socket filter progs cannot use bpf_spin_lock yet");
        }
        if is_tracing(p.prog_type) {
            return refuse(EINVAL, format!("tracing progs cannot use {name} yet"));
        }
    }
    if map.map_type == MapType::StructOps {
        return refuse(EINVAL, "bpf_struct_ops map cannot be used in prog");
    }
    /// `BPF_F_SLEEPABLE`.
    const BPF_F_SLEEPABLE: u32 = 1 << 4;
    if p.flags & BPF_F_SLEEPABLE != 0 && !SLEEPABLE.contains(&map.map_type) {
        let text = "Sleepable programs can only use array, hash, ringbuf and local storage maps";
        return refuse(EINVAL, text);
    }
    Ok(())
}

/// Bytes of a `struct bpf_insn_array_value`.
const INSN_ARRAY_VALUE: usize = 16;

/// KERNEL v6.19 bpf_insn_array.c:bpf_insn_array_init. The instructions a jump table names; none for
/// other maps.
///
/// # Errors
/// In the kernel's words.
pub(crate) fn jump_table(
    p: &Program,
    map: &MapInfo,
    endian: Endian,
) -> Result<Vec<u32>, Box<Rejection>> {
    if map.map_type != MapType::InsnArray {
        return Ok(Vec::new());
    }
    let bad = || Box::new(Rejection::refuse(EINVAL, "Failed to properly initialize insn array"));
    let values = map.frozen_value.as_ref().ok_or_else(bad)?;
    let entry = |v: &[u8]| {
        let word = [v[0], v[1], v[2], v[3]];
        match endian {
            Endian::Little => u32::from_le_bytes(word),
            Endian::Big => u32::from_be_bytes(word),
        }
    };
    let targets: Vec<u32> = values.chunks_exact(INSN_ARRAY_VALUE).map(entry).collect();
    let second = |at: u32| p.insns.get(at as usize) == Some(&Insn::LdImm64Hi);
    let inside = |at: &u32| (*at as usize) < p.insns.len() && !second(*at);
    let whole = targets.len() == map.max_entries as usize;
    if whole && targets.iter().all(inside) { Ok(targets) } else { Err(bad()) }
}

/// What `__add_used_map` demands of the maps together: one cgroup storage of a kind, one arena.
///
/// # Errors
/// In the kernel's words.
pub(crate) fn together(
    before: &[MapInfo],
    map: &MapInfo,
    opts: &Opts,
    mapped: bool,
) -> Result<(), Box<Rejection>> {
    let again = before.iter().any(|m| m.map_type == map.map_type);
    let storage = [MapType::CgroupStorage, MapType::PercpuCgroupStorage];
    if storage.contains(&map.map_type) && again {
        return refuse(EBUSY, "only one cgroup storage of each type is allowed");
    }
    if map.map_type != MapType::Arena {
        return Ok(());
    }
    if again {
        return refuse(EBUSY, "Only one arena per program");
    }
    if !opts.allow_ptr_leaks || !opts.bpf_capable {
        return refuse(EPERM, "CAP_BPF and CAP_PERFMON are required to use arena");
    }
    if !mapped {
        return refuse(EINVAL, "arena's user address must be set via map_extra or mmap()");
    }
    Ok(())
}
