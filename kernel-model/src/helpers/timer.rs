//! Timers in map values (kernel/bpf/helpers.c).

use super::{Body, HelperRow, Ret};
use crate::context::Level;
use crate::cpu::{CpuId, Frame};
use crate::lock::path::{Busy, Do};
use crate::lock::{LockId, Rules};
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

/// `sizeof(void *)`: `struct bpf_async_kern::lock` is behind the pointer.
const LOCK_OFF: u64 = 8;

/// Under the lock of a timer or work queue (`__bpf_spin_lock_irqsave`), which is none for an NMI.
pub(crate) fn in_async(
    k: &mut Kernel,
    cpu: CpuId,
    call: (&'static str, [u64; 5]),
    body: Body,
) -> Ret {
    if k.context(cpu).level == Level::Nmi {
        return Ret::Val(Errno::EOPNOTSUPP.ret());
    }
    let lock = LockId::Word(call.1[0] + LOCK_OFF);
    match k.mem.read_u32(call.1[0] + LOCK_OFF) {
        Ok(0) if !k.fine => body(k, cpu, call.1),
        Ok(_) => k.under_locks(cpu, call, body, |_| Ok(vec![Do::take(lock, Rules::Plain)])),
        Err(fault) => Ret::Fault(fault.into()),
    }
}

fn timer_init(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    if !CLOCKS.contains(&args[2]) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    in_async(k, cpu, ("bpf_timer_init", args), |k, _, [at, map, ..]| match k.helper_map(map) {
        Ok(id) => k.timer_init(at, id).map(|()| 0).into(),
        Err(fault) => Ret::Fault(fault),
    })
}

fn timer_set_callback(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    in_async(k, cpu, ("bpf_timer_set_callback", args), set_callback_now)
}

/// `__bpf_async_set_callback`.
pub(crate) fn set_callback_now(k: &mut Kernel, cpu: CpuId, [at, func, ..]: [u64; 5]) -> Ret {
    let prog = k.cpus[cpu.idx()].prog_frame().map(|p| p.prog).expect("a program called");
    k.timer_callback(at, prog, func).map(|()| 0).into()
}

fn timer_start(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    if args[2] & !(ABS | CPU_PIN) != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    in_async(k, cpu, ("bpf_timer_start", args), |k, cpu, [at, ns, flags, ..]| {
        let expiry = if flags & ABS != 0 { ns } else { k.now(cpu).saturating_add(ns) };
        k.timer_start(at, cpu, expiry).map(|()| 0).into()
    })
}

/// The callback is taken away under the lock; `hrtimer_cancel` then waits, without it, for one
/// that runs.
fn timer_cancel(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    let call = ("bpf_timer_cancel", args);
    match in_async(k, cpu, call, |k, cpu, [at, ..]| k.timer_cancel(at, cpu).into()) {
        Ret::Val(0) => match k.timer_gone(cpu, args) {
            Ok(ret) => Ret::Val(ret),
            Err(Busy) => k.lock_path(cpu, call.0, args, [Do::Await(Kernel::timer_gone)]),
        },
        Ret::Frame(Frame::Lock(path)) => {
            Ret::Frame(Frame::Lock(path.then(Do::Await(Kernel::timer_gone))))
        }
        other => other,
    }
}
