//! Timers in map values (kernel/bpf/helpers.c).

use super::{HelperRow, Ret};
use crate::cpu::CpuId;
use crate::{Errno, Kernel};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 169, name: "timer_init", nargs: 3, body: timer_init },
    HelperRow { id: 170, name: "timer_set_callback", nargs: 2, body: timer_set_callback },
    HelperRow { id: 171, name: "timer_start", nargs: 3, body: timer_start },
    HelperRow { id: 172, name: "timer_cancel", nargs: 1, body: timer_cancel },
];

/// `CLOCK_REALTIME`, `CLOCK_MONOTONIC`, `CLOCK_BOOTTIME`.
const CLOCKS: [u64; 3] = [0, 1, 7];
/// `BPF_F_TIMER_ABS` and `BPF_F_TIMER_CPU_PIN`.
const ABS: u64 = 1;
const CPU_PIN: u64 = 2;

fn timer_init(k: &mut Kernel, _: CpuId, [at, map, flags, ..]: [u64; 5]) -> Ret {
    let id = match k.helper_map(map) {
        Ok(id) => id,
        Err(f) => return Ret::Fault(f),
    };
    if !CLOCKS.contains(&flags) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    k.timer_init(at, id).map(|()| 0).into()
}

fn timer_set_callback(k: &mut Kernel, cpu: CpuId, [at, func, ..]: [u64; 5]) -> Ret {
    let prog = k.cpus[cpu.idx()].prog_frame().map(|p| p.prog).expect("a program called");
    k.timer_callback(at, prog, func).map(|()| 0).into()
}

fn timer_start(k: &mut Kernel, cpu: CpuId, [at, ns, flags, ..]: [u64; 5]) -> Ret {
    if flags & !(ABS | CPU_PIN) != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let expiry = if flags & ABS != 0 { ns } else { k.now(cpu).saturating_add(ns) };
    k.timer_start(at, cpu, expiry).map(|()| 0).into()
}

fn timer_cancel(k: &mut Kernel, cpu: CpuId, [at, ..]: [u64; 5]) -> Ret {
    k.timer_cancel(at, cpu).into()
}
