//! Whose a packet or a task is: cgroups, namespaces, users; and names of the kernel
//! (net/core/filter.c, kernel/bpf/helpers.c, kernel/bpf/syscall.c, kernel/trace/bpf_trace.c).

use super::task::NO_USER;
use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::layout::percpu_area;
use crate::ledger::Kind;
use crate::trace::symbol;
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 24, name: "get_route_realm", nargs: 1, body: nothing },
    HelperRow { id: 47, name: "get_socket_uid", nargs: 1, body: get_socket_uid },
    HelperRow { id: 79, name: "skb_cgroup_id", nargs: 1, body: skb_cgroup_id },
    HelperRow { id: 80, name: "get_current_cgroup_id", nargs: 0, body: get_current_cgroup_id },
    HelperRow { id: 83, name: "skb_ancestor_cgroup_id", nargs: 2, body: skb_ancestor_id },
    HelperRow { id: 109, name: "send_signal", nargs: 1, body: send_signal },
    HelperRow { id: 117, name: "send_signal_thread", nargs: 1, body: send_signal },
    HelperRow { id: 119, name: "read_branch_records", nargs: 4, body: read_branch_records },
    HelperRow { id: 120, name: "get_ns_current_pid_tgid", nargs: 4, body: get_ns_current_pid_tgid },
    HelperRow { id: 122, name: "get_netns_cookie", nargs: 1, body: get_netns_cookie },
    HelperRow { id: 123, name: "get_current_ancestor_cgroup_id", nargs: 1, body: ancestor_id },
    HelperRow { id: 151, name: "skb_cgroup_classid", nargs: 1, body: nothing },
    HelperRow { id: 153, name: "per_cpu_ptr", nargs: 2, body: per_cpu_ptr },
    HelperRow { id: 154, name: "this_cpu_ptr", nargs: 1, body: this_cpu_ptr },
    HelperRow { id: 167, name: "btf_find_by_name_kind", nargs: 4, body: btf_find_by_name_kind },
    HelperRow { id: 176, name: "get_branch_snapshot", nargs: 3, body: get_branch_snapshot },
    HelperRow { id: 179, name: "kallsyms_lookup_name", nargs: 4, body: kallsyms_lookup_name },
    HelperRow { id: 191, name: "copy_from_user_task", nargs: 5, body: copy_from_user_task },
    HelperRow { id: 192, name: "skb_set_tstamp", nargs: 3, body: skb_set_tstamp },
    HelperRow { id: 194, name: "kptr_xchg", nargs: 2, body: kptr_xchg },
];

/// `overflowuid`.
const NOBODY: u64 = 65534;
/// `PROC_PID_INIT_INO` and the device of nsfs.
const INIT_PIDNS: (u64, u64) = (4, 0xefff_fffc);

/// Of a packet that no socket sent and no route led here.
fn nothing(_: &mut Kernel, _: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(0)
}

/// Of the packet's socket; `overflowuid` without one.
fn get_socket_uid(k: &mut Kernel, _: CpuId, [skb, ..]: [u64; 5]) -> Ret {
    match k.get(skb, field!("sk_buff", "sk")) {
        0 => Ret::Val(NOBODY),
        sk => Ret::Val(k.get(sk, field!("sock", "sk_uid"))),
    }
}

/// Of the group in which the packet's socket was made; 0 without one.
fn skb_cgroup_id(k: &mut Kernel, _: CpuId, [skb, ..]: [u64; 5]) -> Ret {
    match k.get(skb, field!("sk_buff", "sk")) {
        0 => Ret::Val(0),
        sk => Ret::Val(k.sock_cgroup_id(sk)),
    }
}

fn skb_ancestor_id(k: &mut Kernel, _: CpuId, [skb, level, ..]: [u64; 5]) -> Ret {
    match k.get(skb, field!("sk_buff", "sk")) {
        0 => Ret::Val(0),
        sk => Ret::Val(k.sock_ancestor_id(sk, level as i32)),
    }
}

/// Of the running task; 0 without memory for the tree.
fn get_current_cgroup_id(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    let own = k.cgroup_of(k.cpus[cpu.idx()].task);
    Ret::Val(own.map_or(0, |c| k.cgroup_id(c)))
}

fn ancestor_id(k: &mut Kernel, cpu: CpuId, [level, ..]: [u64; 5]) -> Ret {
    let own = k.cgroup_of(k.cpus[cpu.idx()].task).ok();
    let above = own.and_then(|c| k.cgroup_ancestor(c, level as i32));
    Ret::Val(above.map_or(0, |c| k.cgroup_id(c)))
}

/// `bpf_send_signal_common`: kernel threads and tasks that exit get none.
fn send_signal(k: &mut Kernel, cpu: CpuId, [signal, ..]: [u64; 5]) -> Ret {
    let flags = k.get(k.cpus[cpu.idx()].task, field!("task_struct", "flags"));
    if k.is_caller(cpu) {
        return match signal as u32 {
            0 => Ret::Val(0),
            1..=64 => Ret::Fault(Fault::unsupported("signals to the process of test runs")),
            _ => Ret::Val(Errno::EINVAL.ret()),
        };
    }
    match k.curr_task(cpu).filter(|_| flags & NO_USER == 0) {
        Some(task) => k.signal_send(cpu, task, signal as u32).map(|()| 0).into(),
        None => Ret::Val(Errno::EPERM.ret()),
    }
}

/// No branch records without hardware that makes them.
fn read_branch_records(_: &mut Kernel, _: CpuId, [_, _, _, flags, _]: [u64; 5]) -> Ret {
    Ret::Val(if flags & !1 != 0 { Errno::EINVAL } else { Errno::ENOENT }.ret())
}

fn get_branch_snapshot(_: &mut Kernel, _: CpuId, [_, _, flags, ..]: [u64; 5]) -> Ret {
    Ret::Val(if flags != 0 { Errno::EINVAL } else { Errno::ENOENT }.ret())
}

fn done(r: Result<Result<u64, Errno>, Fault>) -> Ret {
    r.map_or_else(Ret::Fault, Ret::from)
}

fn get_ns_current_pid_tgid(k: &mut Kernel, cpu: CpuId, [dev, ino, out, size, _]: [u64; 5]) -> Ret {
    let size = size & 0xffff_ffff;
    let run = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        k.mem.fill(out, size as usize, 0)?;
        if size != crate::size!("bpf_pidns_info") || (dev, ino) != INIT_PIDNS {
            return Ok(Err(Errno::EINVAL));
        }
        let task = k.cpus[cpu.idx()].task;
        let numbers = [
            (field!("bpf_pidns_info", "pid"), k.get(task, field!("task_struct", "pid"))),
            (field!("bpf_pidns_info", "tgid"), k.get(task, field!("task_struct", "tgid"))),
        ];
        for (f, v) in numbers {
            k.mem.write_uint(out + u64::from(f.off), f.size, v)?;
        }
        Ok(Ok(0))
    };
    done(run(k))
}

/// `init_net`, the only one.
fn get_netns_cookie(_: &mut Kernel, _: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(1)
}

/// NULL for a number that is no CPU's.
fn per_cpu_ptr(k: &mut Kernel, _: CpuId, [ptr, cpu, ..]: [u64; 5]) -> Ret {
    let cpu = cpu as u32;
    Ret::Val(if cpu < k.config.cpus { percpu_area(cpu) + ptr } else { 0 })
}

fn this_cpu_ptr(_: &mut Kernel, cpu: CpuId, [ptr, ..]: [u64; 5]) -> Ret {
    Ret::Val(percpu_area(cpu.0) + ptr)
}

/// A name with its NUL, as programs pass one by address and size.
fn name_at(k: &Kernel, at: u64, size: u64) -> Result<Result<String, Errno>, Fault> {
    let size = size as i32;
    if size <= 1 {
        return Ok(Err(Errno::EINVAL));
    }
    let bytes = k.mem.read_vec(at, size.cast_unsigned() as usize)?;
    if bytes.last() != Some(&0) {
        return Ok(Err(Errno::EINVAL));
    }
    let name = bytes.split(|b| *b == 0).next().unwrap_or_default();
    Ok(Ok(String::from_utf8_lossy(name).into_owned()))
}

fn btf_find_by_name_kind(k: &mut Kernel, _: CpuId, [at, size, kind, flags, _]: [u64; 5]) -> Ret {
    let run = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        if flags & 0xffff_ffff != 0 {
            return Ok(Err(Errno::EINVAL));
        }
        let name = match name_at(k, at, size)? {
            Ok(name) => name,
            Err(e) => return Ok(Err(e)),
        };
        let btf = k.vmlinux_btf();
        let same = |id: &u32| btf.kind(*id) as u64 == kind & 0xffff_ffff && btf.name(*id) == name;
        Ok(btf.ids().find(same).map(u64::from).ok_or(Errno::ENOENT))
    };
    done(run(k))
}

fn kallsyms_lookup_name(k: &mut Kernel, _: CpuId, [at, size, flags, out, _]: [u64; 5]) -> Ret {
    let run = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        k.mem.write_u64(out, 0)?;
        if flags & 0xffff_ffff != 0 {
            return Ok(Err(Errno::EINVAL));
        }
        let name = match name_at(k, at, size)? {
            Ok(name) => name,
            Err(e) => return Ok(Err(e)),
        };
        match symbol(&name) {
            Some(addr) => {
                k.mem.write_u64(out, addr)?;
                Ok(Ok(0))
            }
            None => Ok(Err(Errno::ENOENT)),
        }
    };
    done(run(k))
}

fn copy_from_user_task(k: &mut Kernel, _: CpuId, [to, size, _, _, flags]: [u64; 5]) -> Ret {
    let size = size & 0xffff_ffff;
    if flags != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    if size == 0 {
        return Ret::Val(0);
    }
    match k.mem.fill(to, size as usize, 0) {
        Ok(()) => Ret::Val(Errno::EFAULT.ret()),
        Err(f) => Ret::Fault(f.into()),
    }
}

/// The clock of `skb->tstamp`: real time, monotonic or TAI.
fn skb_set_tstamp(k: &mut Kernel, _: CpuId, [skb, tstamp, clock, ..]: [u64; 5]) -> Ret {
    let protocol = k.be16(k.get(skb, field!("sk_buff", "protocol")) as u16);
    if !matches!(protocol, 0x0800 | 0x86dd) {
        return Ret::Val(Errno::EOPNOTSUPP.ret());
    }
    let clock = clock & 0xffff_ffff;
    if clock > 2 || (clock != 0 && tstamp == 0) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    k.set(skb, field!("sk_buff", "tstamp"), tstamp);
    k.set(skb, field!("sk_buff", "tstamp_type"), clock);
    Ret::Val(0)
}

fn kptr_xchg(k: &mut Kernel, cpu: CpuId, [at, new, ..]: [u64; 5]) -> Ret {
    let swap = |k: &mut Kernel| -> Result<u64, Fault> {
        let old = k.mem.read_u64(at)?;
        k.mem.write_u64(at, new)?;
        // References change hands between the program and the value.
        k.ledger.release(Kind::Object, new);
        if old != 0 {
            k.prog_holds(cpu, Kind::Object, old, "bpf_kptr_xchg");
        }
        Ok(old)
    };
    swap(k).map_or_else(Ret::Fault, Ret::Val)
}
