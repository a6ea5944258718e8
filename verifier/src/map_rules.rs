//! Which maps a program may use: `check_map_prog_compatibility` and the rules of arenas.

use bpf::Program;
use bpf::uapi::{MapType, ProgType};

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

/// What `__add_used_map` demands of the maps together: one cgroup storage of a kind, one arena.
///
/// # Errors
/// In the kernel's words.
pub(crate) fn together(
    before: &[MapInfo],
    map: &MapInfo,
    opts: &Opts,
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
    Ok(())
}
