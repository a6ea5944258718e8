//! Pages of arenas (kernel/bpf/arena.c).

use super::{KfuncRow, row};
use crate::cpu::CpuId;
use crate::helpers::Ret;
use crate::{Errno, Kernel};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_arena_alloc_pages", 5, alloc),
    row("bpf_arena_free_pages", 3, free),
    row("bpf_arena_reserve_pages", 3, reserve),
];

/// `NUMA_NO_NODE` and the only node.
const NODES: [i32; 2] = [-1, 0];

fn alloc(k: &mut Kernel, _: CpuId, [map, addr, count, node, flags]: [u64; 5]) -> Ret {
    let count = u64::from(count as u32);
    match k.helper_map(map) {
        Ok(id) if flags == 0 && count != 0 && NODES.contains(&(node as i32)) => {
            Ret::Val(k.arena_alloc(id, addr, count))
        }
        Ok(_) => Ret::Val(0),
        Err(fault) => Ret::Fault(fault),
    }
}

fn free(k: &mut Kernel, _: CpuId, [map, addr, count, ..]: [u64; 5]) -> Ret {
    let count = u64::from(count as u32);
    match k.helper_map(map) {
        Ok(id) if count != 0 && addr != 0 => {
            k.arena_free(id, addr, count);
            Ret::Val(0)
        }
        Ok(_) => Ret::Val(0),
        Err(fault) => Ret::Fault(fault),
    }
}

fn reserve(k: &mut Kernel, _: CpuId, [map, addr, count, ..]: [u64; 5]) -> Ret {
    let count = u64::from(count as u32);
    match k.helper_map(map) {
        Ok(_) if count == 0 => Ret::Val(0),
        Ok(id) => Ret::Val(k.arena_reserve(id, addr, count).map_or_else(Errno::ret, |()| 0)),
        Err(fault) => Ret::Fault(fault),
    }
}
