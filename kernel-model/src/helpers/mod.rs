//! Helper functions: one row is id, name, number of arguments, body.

pub(crate) mod callback;
mod cgroup;
pub(crate) mod dynptr;
mod fib;
mod format;
mod hdr_opt;
mod ids;
mod map;
mod misc;
pub(crate) mod net;
mod skb;
mod skb_room;
mod sock;
mod storage;
mod sync;
mod syncookie;
mod task;
mod time;
pub(crate) mod timer;
mod trace;
mod tunnel;

pub(crate) use callback::Over;
pub(crate) use dynptr::MAX_SIZE as DYNPTR_MAX_SIZE;
pub(crate) use format::{bprintf, read_args, read_text};

use std::sync::LazyLock;

use crate::cpu::{CpuId, Fault, Frame};
use crate::{Errno, Kernel};

/// What a helper does.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "later tables use the other forms")]
pub(crate) enum Ret {
    /// It is complete.
    Val(u64),
    /// It runs callbacks or other programs first.
    Frame(Frame),
    /// The program cannot go on.
    Fault(Fault),
}

/// Body of a helper.
pub(crate) type Body = fn(&mut Kernel, CpuId, [u64; 5]) -> Ret;

/// One helper.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HelperRow {
    /// `BPF_FUNC_*`.
    pub(crate) id: i32,
    /// Name without `bpf_`.
    pub(crate) name: &'static str,
    /// Number of arguments.
    pub(crate) nargs: u8,
    /// What it does.
    pub(crate) body: Body,
}

const TABLES: &[&[HelperRow]] = &[
    callback::ROWS,
    cgroup::ROWS,
    dynptr::ROWS,
    fib::ROWS,
    format::ROWS,
    hdr_opt::ROWS,
    ids::ROWS,
    map::ROWS,
    misc::ROWS,
    net::ROWS,
    skb::ROWS,
    skb_room::ROWS,
    sock::ROWS,
    storage::ROWS,
    sync::ROWS,
    syncookie::ROWS,
    task::ROWS,
    time::ROWS,
    timer::ROWS,
    trace::ROWS,
    tunnel::ROWS,
];

static BY_ID: LazyLock<Vec<Option<&'static HelperRow>>> = LazyLock::new(|| {
    // UAPI ids end below 256; the verifier's own rows for LD_ABS begin at 0x1001.
    let mut v = vec![None; 0x1010];
    for row in TABLES.iter().flat_map(|t| t.iter()) {
        v[row.id as usize] = Some(row);
    }
    v
});

/// The row of a helper, when the model has it.
pub(crate) fn row(id: i32) -> Option<&'static HelperRow> {
    BY_ID.get(usize::try_from(id).ok()?).copied().flatten()
}

/// Name of a helper that has a body, without `bpf_`.
#[must_use]
pub fn name(id: i32) -> Option<&'static str> {
    row(id).map(|r| r.name)
}

/// Name of a helper that has a body, without `bpf_`, and its number of arguments.
#[must_use]
pub fn signature(id: i32) -> Option<(&'static str, u8)> {
    row(id).map(|r| (r.name, r.nargs))
}

/// Name of a helper or kernel function without the prefix that most have.
#[must_use]
pub fn bare(name: &str) -> &str {
    name.strip_prefix("bpf_").unwrap_or(name)
}

/// Name of a helper as programs write it, with the prefix.
#[must_use]
pub fn full(name: &str) -> String {
    format!("bpf_{}", bare(name))
}

/// Helpers that acquire a reference or a lock.
const ACQUIRING: &[&str] = &[
    "spin_lock",
    "sk_lookup_tcp",
    "sk_lookup_udp",
    "skc_lookup_tcp",
    "ringbuf_reserve",
    "ringbuf_reserve_dynptr",
    "kptr_xchg",
];

/// Helpers that take locks of maps.
const MAP_OPS: &[&str] = &[
    "map_update_elem",
    "map_delete_elem",
    "map_push_elem",
    "map_pop_elem",
    "map_peek_elem",
    "ringbuf_output",
    "task_storage_get",
    "task_storage_delete",
    "cgrp_storage_get",
    "cgrp_storage_delete",
    "get_stackid",
    "timer_init",
    "timer_set_callback",
    "timer_start",
    "timer_cancel",
];

static ACQUIRES: LazyLock<Vec<bool>> = LazyLock::new(|| {
    BY_ID.iter().map(|r| r.is_some_and(|r| ACQUIRING.contains(&r.name))).collect()
});

static TAKES_MAP_LOCKS: LazyLock<Vec<bool>> =
    LazyLock::new(|| BY_ID.iter().map(|r| r.is_some_and(|r| MAP_OPS.contains(&r.name))).collect());

/// Whether a helper takes locks of maps and gives them back.
pub(crate) fn is_map_op(id: i32) -> bool {
    usize::try_from(id).is_ok_and(|n| TAKES_MAP_LOCKS.get(n) == Some(&true))
}

/// Whether a helper acquires something, so that whoever holds it wants to know where.
pub(crate) fn acquires(id: i32) -> bool {
    usize::try_from(id).is_ok_and(|n| ACQUIRES.get(n) == Some(&true))
}

/// What a run that is cancelled calls in the place of a helper: records are not published.
pub(crate) const fn cleanup_of(id: i32) -> i32 {
    match id {
        132 => 133,
        199 => 200,
        id => id,
    }
}

/// Ids and names of all helpers that have a body.
pub fn modelled() -> impl Iterator<Item = (i32, &'static str)> {
    BY_ID.iter().flatten().map(|r| (r.id, r.name))
}

/// Turns the outcome of a helper into what it returns in R0.
impl From<Result<u64, Errno>> for Ret {
    fn from(r: Result<u64, Errno>) -> Ret {
        Ret::Val(r.unwrap_or_else(Errno::ret))
    }
}

/// The same of a body that may fault.
impl From<Result<Result<u64, Errno>, Fault>> for Ret {
    fn from(r: Result<Result<u64, Errno>, Fault>) -> Ret {
        r.map_or_else(Ret::Fault, Ret::from)
    }
}

/// A helper that is waiting for a callback.
#[derive(Clone, Debug)]
pub struct HelperFrame {
    /// The helper's name without `bpf_`.
    pub(crate) name: &'static str,
    pub(crate) prog: crate::ProgId,
    /// Callback and its context argument.
    pub(crate) func: u64,
    pub(crate) ctx: u64,
    /// Calls made.
    pub(crate) nth: u32,
    /// Position in what is iterated.
    pub(crate) at: usize,
    pub(crate) over: callback::Over,
}
