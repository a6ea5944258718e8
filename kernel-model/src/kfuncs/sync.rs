//! Sections and locks (kernel/bpf/helpers.c, rqspinlock.c).

use super::{KfuncRow, row};
use crate::Kernel;
use crate::cpu::{CpuId, Fault};
use crate::helpers::Ret;
use crate::ledger::{Held, Kind};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_rcu_read_lock", 0, rcu_lock),
    row("bpf_rcu_read_unlock", 0, rcu_unlock),
    row("bpf_preempt_disable", 0, preempt_disable),
    row("bpf_preempt_enable", 0, preempt_enable),
    row("bpf_local_irq_save", 1, irq_save),
    row("bpf_local_irq_restore", 1, irq_restore),
    row("bpf_res_spin_lock", 1, res_lock),
    row("bpf_res_spin_unlock", 1, res_unlock),
    row("bpf_res_spin_lock_irqsave", 2, res_lock_irq),
    row("bpf_res_spin_unlock_irqrestore", 2, res_unlock_irq),
    row("bpf_cast_to_kern_ctx", 1, same),
    row("bpf_rdonly_cast", 2, same),
];

impl Kernel {
    /// What a program holds from here on.
    pub(crate) fn prog_holds(&mut self, cpu: CpuId, kind: Kind, addr: u64, what: &'static str) {
        let held = self.prog_held(cpu, what);
        self.ledger.acquire(kind, addr, held);
    }

    /// What the ledger is told of something acquired now.
    pub(crate) fn prog_held(&self, cpu: CpuId, what: &'static str) -> Held {
        let c = &self.cpus[cpu.idx()];
        Held {
            cpu,
            prog: c.prog_frame().map(|p| p.prog),
            depth: c.frames.len(),
            what,
            clock_ns: c.clock_ns,
            order: 0,
            stack: c.call_stack.clone(),
        }
    }
}

/// Whether interrupts of a CPU are on: `arch_local_save_flags` without the architecture's bits.
fn irq_state(k: &Kernel, cpu: CpuId) -> u64 {
    u64::from(!k.context(cpu).irqs_off)
}

/// A pointer under another type.
fn same(_: &mut Kernel, _: CpuId, [p, ..]: [u64; 5]) -> Ret {
    Ret::Val(p)
}

fn rcu_lock(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    k.prog_holds(cpu, Kind::RcuRead, cpu.0.into(), "bpf_rcu_read_lock");
    Ret::Val(0)
}

fn rcu_unlock(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    k.ledger.release(Kind::RcuRead, cpu.0.into());
    Ret::Val(0)
}

fn preempt_disable(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    k.prog_holds(cpu, Kind::Preempt, cpu.0.into(), "bpf_preempt_disable");
    Ret::Val(0)
}

fn preempt_enable(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    k.ledger.release(Kind::Preempt, cpu.0.into());
    Ret::Val(0)
}

/// `local_irq_save`: the state before goes to `flags`.
pub(crate) fn save(
    k: &mut Kernel,
    cpu: CpuId,
    flags: u64,
    what: &'static str,
) -> Result<(), Fault> {
    let now = irq_state(k, cpu);
    k.prog_holds(cpu, Kind::Irq, cpu.0.into(), what);
    Ok(k.mem.write_u64(flags, now)?)
}

fn irq_save(k: &mut Kernel, cpu: CpuId, [flags, ..]: [u64; 5]) -> Ret {
    save(k, cpu, flags, "bpf_local_irq_save").map_or_else(Ret::Fault, |()| Ret::Val(0))
}

fn irq_restore(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    k.ledger.release(Kind::Irq, cpu.0.into());
    Ret::Val(0)
}

/// `res_spin_lock`.
fn res_lock(k: &mut Kernel, cpu: CpuId, [lock, ..]: [u64; 5]) -> Ret {
    k.prog_lock(cpu, lock, k.locks.resilient(), ("bpf_res_spin_lock", None))
}

fn res_unlock(k: &mut Kernel, cpu: CpuId, [lock, ..]: [u64; 5]) -> Ret {
    k.prog_unlock(cpu, lock).map_or_else(Ret::Fault, |()| Ret::Val(0))
}

/// Interrupts are off only when the lock was taken.
fn res_lock_irq(k: &mut Kernel, cpu: CpuId, [lock, flags, ..]: [u64; 5]) -> Ret {
    let rules = k.locks.resilient();
    k.prog_lock(cpu, lock, rules, ("bpf_res_spin_lock_irqsave", Some(flags)))
}

fn res_unlock_irq(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    k.ledger.release(Kind::Irq, cpu.0.into());
    res_unlock(k, cpu, args)
}
