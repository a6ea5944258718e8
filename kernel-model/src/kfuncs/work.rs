//! Work queues in map values, and counts of map elements (kernel/bpf/helpers.c, map_iter.c).

use super::{KfuncRow, row};
use crate::context::Level;
use crate::cpu::CpuId;
use crate::helpers::Ret;
use crate::helpers::timer::{in_async, set_callback_now};
use crate::{Errno, Kernel};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_wq_init", 3, wq_init),
    row("bpf_wq_start", 2, wq_start),
    row("bpf_wq_set_callback_impl", 4, wq_set_callback),
    row("bpf_map_sum_elem_count", 1, sum_elem_count),
];

fn wq_init(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    if args[2] & 0xffff_ffff != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    in_async(k, cpu, ("bpf_wq_init", args), |k, _, [at, map, ..]| match k.helper_map(map) {
        Ok(id) => k.wq_init(at, id).map(|()| 0).into(),
        Err(fault) => Ret::Fault(fault),
    })
}

fn wq_set_callback(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    if args[2] & 0xffff_ffff != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    in_async(k, cpu, ("bpf_wq_set_callback_impl", args), set_callback_now)
}

/// `bpf_wq_start` takes no lock.
fn wq_start(k: &mut Kernel, cpu: CpuId, [at, flags, ..]: [u64; 5]) -> Ret {
    if k.context(cpu).level == Level::Nmi {
        return Ret::Val(Errno::EOPNOTSUPP.ret());
    }
    if flags & 0xffff_ffff != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    k.wq_start(at, cpu).map(|()| 0).into()
}

/// Of hash tables: other maps do not count.
fn sum_elem_count(k: &mut Kernel, _: CpuId, [map, ..]: [u64; 5]) -> Ret {
    use bpf::uapi::MapType;
    let id = match k.helper_map(map) {
        Ok(id) => id,
        Err(fault) => return Ret::Fault(fault),
    };
    let counts = matches!(
        k.maps[&id].def.map_type,
        MapType::Hash | MapType::LruHash | MapType::PercpuHash | MapType::LruPercpuHash
    );
    Ret::Val(if counts { k.user_keys(id).len() as u64 } else { 0 })
}
