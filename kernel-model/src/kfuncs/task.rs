//! References to tasks and control groups (kernel/bpf/helpers.c, kernel/bpf/cgroup_iter.c).

use super::{KfuncRow, row};
use crate::cpu::CpuId;
use crate::helpers::Ret;
use crate::ledger::Kind;
use crate::{Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_task_acquire", 1, task_acquire),
    row("bpf_task_release", 1, task_release),
    row("bpf_task_from_pid", 1, task_from_pid),
    row("bpf_task_from_vpid", 1, task_from_pid),
    row("bpf_cgroup_acquire", 1, cgroup_acquire),
    row("bpf_cgroup_release", 1, cgroup_release),
    row("bpf_cgroup_ancestor", 2, cgroup_ancestor),
    row("bpf_cgroup_from_id", 1, cgroup_from_id),
    row("bpf_task_under_cgroup", 2, task_under_cgroup),
];

impl Kernel {
    /// A count of references in an object, moved by one.
    fn count_by(&mut self, at: u64, f: crate::types::Field, by: i64) {
        let now = self.get(at, f);
        self.set(at, f, now.wrapping_add_signed(by));
    }

    /// `get_task_struct`.
    pub(crate) fn task_get(&mut self, task: u64) {
        self.count_by(task, field!("task_struct", "usage"), 1);
    }

    /// `put_task_struct_rcu_user`: what nobody refers to is freed after a grace period.
    pub(crate) fn task_put(&mut self, task: u64) {
        self.count_by(task, field!("task_struct", "usage"), -1);
        if self.get(task, field!("task_struct", "usage")) == 0 {
            self.storage_gone(task);
            self.kfree_rcu(task, "task_struct");
        }
    }

    /// `cgroup_put`.
    pub(super) fn cgroup_put(&mut self, cgroup: u64) {
        self.count_by(cgroup, field!("cgroup", "bpf_refs"), -1);
    }
}

fn task_acquire(k: &mut Kernel, cpu: CpuId, [task, ..]: [u64; 5]) -> Ret {
    if task == 0 || k.get(task, field!("task_struct", "usage")) == 0 {
        return Ret::Val(0);
    }
    k.task_get(task);
    k.prog_holds(cpu, Kind::Object, task, "bpf_task_acquire");
    Ret::Val(task)
}

fn task_release(k: &mut Kernel, _: CpuId, [task, ..]: [u64; 5]) -> Ret {
    k.ledger.release(Kind::Object, task);
    k.task_put(task);
    Ret::Val(0)
}

/// `find_task_by_pid_ns`: idle tasks have no number.
fn task_from_pid(k: &mut Kernel, cpu: CpuId, [pid, ..]: [u64; 5]) -> Ret {
    match k.sched.procs.get(&(pid as u32)).copied() {
        Some(task) => task_acquire(k, cpu, [task, 0, 0, 0, 0]),
        None => Ret::Val(0),
    }
}

fn cgroup_acquire(k: &mut Kernel, cpu: CpuId, [cgroup, ..]: [u64; 5]) -> Ret {
    k.count_by(cgroup, field!("cgroup", "bpf_refs"), 1);
    k.prog_holds(cpu, Kind::Object, cgroup, "bpf_cgroup_acquire");
    Ret::Val(cgroup)
}

fn cgroup_release(k: &mut Kernel, _: CpuId, [cgroup, ..]: [u64; 5]) -> Ret {
    k.ledger.release(Kind::Object, cgroup);
    k.cgroup_put(cgroup);
    Ret::Val(0)
}

fn cgroup_ancestor(k: &mut Kernel, cpu: CpuId, [cgroup, level, ..]: [u64; 5]) -> Ret {
    match k.cgroup_ancestor(cgroup, level as u32 as i32) {
        Some(above) => cgroup_acquire(k, cpu, [above, 0, 0, 0, 0]),
        None => Ret::Val(0),
    }
}

fn cgroup_from_id(k: &mut Kernel, cpu: CpuId, [id, ..]: [u64; 5]) -> Ret {
    match k.cgroup_by_id(id) {
        Some(cgroup) => cgroup_acquire(k, cpu, [cgroup, 0, 0, 0, 0]),
        None => Ret::Val(0),
    }
}

/// `task_under_cgroup_hierarchy`.
fn task_under_cgroup(k: &mut Kernel, _: CpuId, [task, cgroup, ..]: [u64; 5]) -> Ret {
    let own = k.cgroup_of(task).ok();
    Ret::Val(u64::from(own.is_some_and(|own| k.is_under_cgroup(own, cgroup))))
}
