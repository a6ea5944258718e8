//! Clocks, random numbers and CPU numbers (kernel/bpf/helpers.c).

use rand_core::Rng;

use super::{HelperRow, Ret};
use crate::cpu::{CancelledBy, CpuId, Site};
use crate::{EventKind, Kernel};

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

/// How long the loops of a `may_goto` may take: `NSEC_PER_SEC / 4`.
const MAY_GOTO_NS: u64 = 250_000_000;
/// `BPF_MAX_TIMED_LOOPS`.
const MAY_GOTO_COUNT: u64 = 0xffff;

impl Kernel {
    /// `bpf_check_timed_may_goto`: the new count of the pair of count and time at an address,
    /// which the program's frame has; 0 ends the loop.
    pub fn check_timed_may_goto(&mut self, cpu: CpuId, pair: u64) -> u64 {
        let (now, at) = (self.now(cpu), pair.wrapping_add(8));
        let began = self.mem.read_u64(at).unwrap_or(0);
        if began == 0 {
            // A frame without memory is found by the program's own accesses.
            let _ = self.mem.write_u64(at, now);
            return MAY_GOTO_COUNT;
        }
        if now - began >= MAY_GOTO_NS || self.is_cancelled(cpu) { 0 } else { MAY_GOTO_COUNT }
    }

    /// `bpf_prog_report_may_goto_violation`, with where the loop is.
    pub fn may_goto_expired(&mut self, cpu: CpuId, stack: &[Site]) {
        let Some(prog) = self.cpus[cpu.idx()].prog_frame().map(|p| p.prog) else { return };
        if self.is_cancelled(cpu) {
            return;
        }
        let text = "ERROR: Timeout detected for may_goto instruction";
        self.stream_report(cpu, prog, text, stack);
        self.emit(cpu, EventKind::Cancelled { prog, by: CancelledBy::MayGoto });
    }
}

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
