//! Helpers of programs of control groups (kernel/bpf/cgroup.c), and those that ask for a group
//! (net/core/filter.c, kernel/trace/bpf_trace.c).

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::layout::PAGE_SIZE;
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 33, name: "skb_under_cgroup", nargs: 3, body: skb_under_cgroup },
    HelperRow { id: 37, name: "current_task_under_cgroup", nargs: 2, body: current_under_cgroup },
    HelperRow { id: 81, name: "get_local_storage", nargs: 2, body: get_local_storage },
    HelperRow { id: 101, name: "sysctl_get_name", nargs: 4, body: sysctl_get_name },
    HelperRow { id: 102, name: "sysctl_get_current_value", nargs: 3, body: sysctl_get_current },
    HelperRow { id: 103, name: "sysctl_get_new_value", nargs: 3, body: sysctl_get_new_value },
    HelperRow { id: 104, name: "sysctl_set_new_value", nargs: 3, body: sysctl_set_new_value },
    HelperRow { id: 186, name: "get_retval", nargs: 0, body: get_retval },
    HelperRow { id: 187, name: "set_retval", nargs: 1, body: set_retval },
];

/// `BPF_F_SYSCTL_BASE_NAME`.
const BASE_NAME: u64 = 1;

/// Whether a group is the one in a slot of an array, or below it.
fn under(k: &mut Kernel, own: Option<u64>, map: u64, index: u64) -> Ret {
    let id = match k.helper_map(map) {
        Ok(id) => id,
        Err(fault) => return Ret::Fault(fault),
    };
    match k.cgroup_array_get(id, index as u32) {
        Ok(cgroup) => Ret::Val(u64::from(own.is_some_and(|own| k.is_under_cgroup(own, cgroup)))),
        Err(e) => Ret::Val(e.ret()),
    }
}

/// Of the group of the packet's socket.
fn skb_under_cgroup(k: &mut Kernel, _: CpuId, [skb, map, index, ..]: [u64; 5]) -> Ret {
    match k.get(skb, field!("sk_buff", "sk")) {
        0 => Ret::Val(Errno::ENOENT.ret()),
        sk => {
            let own = k.sock_cgroup(sk);
            under(k, Some(own), map, index)
        }
    }
}

fn current_under_cgroup(k: &mut Kernel, cpu: CpuId, [map, index, ..]: [u64; 5]) -> Ret {
    let own = k.cgroup_of(k.cpus[cpu.idx()].task).ok();
    under(k, own, map, index)
}

/// The value of the group that the program is attached to, never NULL.
fn get_local_storage(k: &mut Kernel, cpu: CpuId, [map, ..]: [u64; 5]) -> Ret {
    let id = match k.helper_map(map) {
        Ok(id) => id,
        Err(fault) => return Ret::Fault(fault),
    };
    match k.storage_of_run(cpu, id) {
        0 => Ret::Fault(Fault::unsupported("cgroup storage of a program that replaced another")),
        at => Ret::Val(at),
    }
}

fn get_retval(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    match k.cgroup_retval(cpu, None) {
        Some(now) => Ret::Val(i64::from(now) as u64),
        None => Ret::Fault(Fault::unsupported("bpf_get_retval outside a control group's hook")),
    }
}

fn set_retval(k: &mut Kernel, cpu: CpuId, [to, ..]: [u64; 5]) -> Ret {
    match k.cgroup_retval(cpu, Some(to as u32 as i32)) {
        Some(_) => Ret::Val(0),
        None => Ret::Fault(Fault::unsupported("bpf_set_retval outside a control group's hook")),
    }
}

/// The whole name, or with `BPF_F_SYSCTL_BASE_NAME` its last part.
fn sysctl_get_name(k: &mut Kernel, _: CpuId, [ctx, buf, len, flags, _]: [u64; 5]) -> Ret {
    if buf == 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let at = match flags & BASE_NAME {
        0 => {
            let head = k.get(ctx, field!("bpf_sysctl_kern", "head"));
            k.get(head, field!("ctl_table_header", "dir"))
        }
        _ => {
            let table = k.get(ctx, field!("bpf_sysctl_kern", "table"));
            k.get(table, field!("ctl_table", "procname"))
        }
    };
    let copy = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        let room = len as u32 as usize;
        let mut name = Vec::new();
        while name.last() != Some(&0) {
            name.push(k.mem.read_u8(at + name.len() as u64)?);
        }
        if room == 0 {
            return Ok(Err(Errno::E2BIG));
        }
        if name.len() > room {
            name.truncate(room - 1);
            name.push(0);
            k.mem.write(buf, &name)?;
            return Ok(Err(Errno::E2BIG));
        }
        k.mem.write(buf, &name)?;
        Ok(Ok(name.len() as u64 - 1))
    };
    copy(k).into()
}

/// `copy_sysctl_value`.
fn copy_value(
    k: &mut Kernel,
    (buf, room): (u64, u64),
    (from, len): (u64, u64),
) -> Result<Result<u64, Errno>, Fault> {
    let room = room as u32 as usize;
    if buf == 0 {
        return Ok(Err(Errno::EINVAL));
    }
    if room == 0 {
        return Ok(Err(Errno::E2BIG));
    }
    if from == 0 || len == 0 {
        k.mem.fill(buf, room, 0)?;
        return Ok(Err(Errno::EINVAL));
    }
    let mut bytes = k.mem.read_vec(from, (len as usize).min(room))?;
    let whole = room > bytes.len();
    bytes.resize(room, 0);
    bytes[room - 1] = 0;
    k.mem.write(buf, &bytes)?;
    Ok(if whole { Ok(len) } else { Err(Errno::E2BIG) })
}

fn sysctl_get_current(k: &mut Kernel, _: CpuId, [ctx, buf, room, ..]: [u64; 5]) -> Ret {
    let from = k.get(ctx, field!("bpf_sysctl_kern", "cur_val"));
    let len = k.get(ctx, field!("bpf_sysctl_kern", "cur_len"));
    copy_value(k, (buf, room), (from, len)).into()
}

fn sysctl_get_new_value(k: &mut Kernel, _: CpuId, [ctx, buf, room, ..]: [u64; 5]) -> Ret {
    if k.get(ctx, field!("bpf_sysctl_kern", "write")) == 0 {
        let cleared = match buf {
            0 => Ok(()),
            buf => k.mem.fill(buf, room as u32 as usize, 0),
        };
        return match cleared {
            Ok(()) => Ret::Val(Errno::EINVAL.ret()),
            Err(fault) => Ret::Fault(fault.into()),
        };
    }
    let from = k.get(ctx, field!("bpf_sysctl_kern", "new_val"));
    let len = k.get(ctx, field!("bpf_sysctl_kern", "new_len"));
    copy_value(k, (buf, room), (from, len)).into()
}

fn sysctl_set_new_value(k: &mut Kernel, _: CpuId, [ctx, buf, len, ..]: [u64; 5]) -> Ret {
    let to = k.get(ctx, field!("bpf_sysctl_kern", "new_val"));
    let old = k.get(ctx, field!("bpf_sysctl_kern", "new_len"));
    let len = u64::from(len as u32);
    if k.get(ctx, field!("bpf_sysctl_kern", "write")) == 0 || [to, old, buf, len].contains(&0) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    if len > PAGE_SIZE - 1 {
        return Ret::Val(Errno::E2BIG.ret());
    }
    let copied = k.mem.read_vec(buf, len as usize).and_then(|b| k.mem.write(to, &b));
    if let Err(fault) = copied {
        return Ret::Fault(fault.into());
    }
    k.set(ctx, field!("bpf_sysctl_kern", "new_len"), len);
    k.set(ctx, field!("bpf_sysctl_kern", "new_updated"), 1);
    Ret::Val(0)
}
