//! Clocks, random numbers and CPU numbers (kernel/bpf/helpers.c).

use rand_core::Rng;

use super::{HelperRow, Ret};
use crate::Kernel;
use crate::cpu::CpuId;

/// Nanoseconds of a jiffy with `CONFIG_HZ=1000`.
const JIFFY_NS: u64 = 1_000_000;
/// `INITIAL_JIFFIES` of 64-bit kernels: five minutes before the low half wraps.
const INITIAL_JIFFIES: u64 = 0xffff_ffff - 300_000 + 1;
/// Offset of TAI from UTC since 2017.
const TAI_NS: u64 = 37_000_000_000;

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 5, name: "ktime_get_ns", nargs: 0, body: ktime_get_ns },
    HelperRow { id: 7, name: "get_prandom_u32", nargs: 0, body: get_prandom_u32 },
    HelperRow { id: 8, name: "get_smp_processor_id", nargs: 0, body: get_smp_processor_id },
    HelperRow { id: 42, name: "get_numa_node_id", nargs: 0, body: get_numa_node_id },
    HelperRow { id: 118, name: "jiffies64", nargs: 0, body: jiffies64 },
    HelperRow { id: 125, name: "ktime_get_boot_ns", nargs: 0, body: ktime_get_ns },
    HelperRow { id: 160, name: "ktime_get_coarse_ns", nargs: 0, body: ktime_get_coarse_ns },
    HelperRow { id: 208, name: "ktime_get_tai_ns", nargs: 0, body: ktime_get_tai_ns },
];

fn ktime_get_ns(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(k.now(cpu))
}

/// Of the last tick.
fn ktime_get_coarse_ns(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(k.now(cpu) / JIFFY_NS * JIFFY_NS)
}

fn ktime_get_tai_ns(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(k.now(cpu) + TAI_NS)
}

fn jiffies64(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(INITIAL_JIFFIES + k.now(cpu) / JIFFY_NS)
}

fn get_prandom_u32(k: &mut Kernel, _: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(k.rng.helper.next_u32().into())
}

fn get_smp_processor_id(_: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(cpu.0.into())
}

/// The model has one node.
fn get_numa_node_id(_: &mut Kernel, _: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(0)
}
