//! The running task, kernel stacks and what is traced (kernel/bpf/helpers.c,
//! kernel/trace/bpf_trace.c, kernel/bpf/stackmap.c).

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::layout::DIRECT_MAP;
use crate::maps::{Kind, MapId};
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 15, name: "get_current_uid_gid", nargs: 0, body: get_current_uid_gid },
    HelperRow { id: 16, name: "get_current_comm", nargs: 2, body: get_current_comm },
    HelperRow { id: 27, name: "get_stackid", nargs: 3, body: get_stackid },
    HelperRow { id: 35, name: "get_current_task", nargs: 0, body: get_current_task },
    HelperRow { id: 36, name: "probe_write_user", nargs: 3, body: probe_write_user },
    HelperRow { id: 67, name: "get_stack", nargs: 4, body: get_stack },
    HelperRow { id: 141, name: "get_task_stack", nargs: 4, body: get_task_stack },
    HelperRow { id: 148, name: "copy_from_user", nargs: 3, body: copy_from_user },
    HelperRow { id: 158, name: "get_current_task_btf", nargs: 0, body: get_current_task },
    HelperRow { id: 173, name: "get_func_ip", nargs: 1, body: get_func_ip },
    HelperRow { id: 183, name: "get_func_arg", nargs: 3, body: get_func_arg },
    HelperRow { id: 184, name: "get_func_ret", nargs: 2, body: get_func_ret },
    HelperRow { id: 185, name: "get_func_arg_cnt", nargs: 1, body: get_func_arg_cnt },
];

/// The value of a fallible body.
fn done(r: Result<Result<u64, Errno>, Fault>) -> Ret {
    match r {
        Ok(r) => r.into(),
        Err(fault) => Ret::Fault(fault),
    }
}

fn get_current_task(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(k.cpus[cpu.idx()].task)
}

fn get_current_uid_gid(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    let cred = k.get(k.cpus[cpu.idx()].task, field!("task_struct", "cred"));
    let (uid, gid) = (k.get(cred, field!("cred", "uid")), k.get(cred, field!("cred", "gid")));
    Ret::Val(gid << 32 | uid)
}

/// `strscpy_pad`: cut with a NUL, the rest cleared.
fn get_current_comm(k: &mut Kernel, cpu: CpuId, [buf, size, ..]: [u64; 5]) -> Ret {
    let size = size as u32 as usize;
    let mut bytes = k.task_comm(k.cpus[cpu.idx()].task).into_bytes();
    bytes.truncate(size.saturating_sub(1));
    bytes.resize(size, 0);
    k.mem.write(buf, &bytes).map_or_else(|f| Ret::Fault(f.into()), |()| Ret::Val(0))
}

/// `PF_KTHREAD` and `PF_EXITING` of `task_struct.flags`.
pub(super) const NO_USER: u64 = 0x0020_0000 | 0x4;

fn probe_write_user(k: &mut Kernel, cpu: CpuId, [to, from, size, ..]: [u64; 5]) -> Ret {
    let flags = k.get(k.cpus[cpu.idx()].task, field!("task_struct", "flags"));
    if flags & NO_USER != 0 || to >= DIRECT_MAP {
        return Ret::Val(Errno::EPERM.ret());
    }
    let size = size as u32 as usize;
    let write = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        let bytes = k.mem.read_vec(from, size)?;
        if k.inject_user_page(to, size as u64) {
            return Ok(Err(Errno::EFAULT));
        }
        Ok(k.user_write(to, &bytes).map(|()| 0))
    };
    done(write(k))
}

/// Clears the buffer when a page is not there.
fn copy_from_user(k: &mut Kernel, _: CpuId, [to, size, from, ..]: [u64; 5]) -> Ret {
    let size = size as u32 as usize;
    let there = from < DIRECT_MAP && !k.inject_user_page(from, size as u64);
    let read = there.then(|| k.user_read(from, size)).flatten();
    let bytes = read.as_deref().unwrap_or(&vec![0; size]).to_vec();
    let copy = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        k.mem.write(to, &bytes)?;
        Ok(if read.is_some() { Ok(0) } else { Err(Errno::EFAULT) })
    };
    done(copy(k))
}

/// `BPF_F_SKIP_FIELD_MASK`, `BPF_F_USER_STACK`, `BPF_F_USER_BUILD_ID`.
const SKIP: u64 = 0xff;
const USER_STACK: u64 = 1 << 8;
const USER_BUILD_ID: u64 = 1 << 11;

/// `struct bpf_stack_build_id`, `BPF_STACK_BUILD_ID_IP`.
const BUILD_ID: u64 = 32;
const BUILD_ID_IP: u64 = 2;

fn get_stack(k: &mut Kernel, cpu: CpuId, [_, buf, size, flags, _]: [u64; 5]) -> Ret {
    done(put_stack(k, cpu, None, (buf, size as u32), flags))
}

/// `BPF_F_FAST_STACK_CMP` and `BPF_F_REUSE_STACKID`.
const FAST_CMP: u64 = 1 << 9;
const REUSE: u64 = 1 << 10;
/// `PERF_MAX_STACK_DEPTH`.
const MAX_DEPTH: usize = 127;

/// FNV-1a over the addresses: the bucket's number. The kernel uses jhash2, whose numbers no
/// program may rely on either.
fn stack_hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193))
}

fn get_stackid(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    let [_, map, flags, ..] = args;
    let id = match k.helper_map(map) {
        Ok(id) => id,
        Err(f) => return Ret::Fault(f),
    };
    if flags & !(SKIP | USER_STACK | FAST_CMP | REUSE) != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let Some((bucket, bytes)) = stack_key(k, cpu, id, flags) else {
        return Ret::Val(Errno::EFAULT.ret());
    };
    match k.stack_in(id, bucket) {
        // With BPF_F_FAST_STACK_CMP the kernel compares hashes alone.
        Some(old) if *old == bytes => Ret::Val(bucket.into()),
        Some(_) if flags & REUSE == 0 => Ret::Val(Errno::EEXIST.ret()),
        _ if !k.locks_seen() => stackid_now(k, cpu, args),
        _ => {
            let call = ("bpf_get_stackid", args);
            k.under_locks(cpu, call, stackid_now, |k| k.stack_plan(cpu, map))
        }
    }
}

/// Number of the bucket for the stack of what runs, and the stack; none when all is skipped.
fn stack_key(k: &Kernel, cpu: CpuId, id: MapId, flags: u64) -> Option<(u32, Vec<u8>)> {
    let skip = (flags & SKIP) as usize;
    let stack = callchain(k, cpu, flags, k.maps[&id].def.value_size as usize / 8);
    if stack.len() <= skip {
        return None;
    }
    let part = &stack[skip..];
    let hashed: Vec<u8> = part.iter().flat_map(|a| a.to_le_bytes()).collect();
    let buckets = k.maps[&id].def.max_entries.next_power_of_two();
    let big = k.mem.endian() == bpf::Endian::Big;
    let word = |a: &u64| if big { a.to_be_bytes() } else { a.to_le_bytes() };
    Some((stack_hash(&hashed) & (buckets - 1), part.iter().flat_map(word).collect()))
}

/// The stack's bucket is a new one of the free list.
fn stackid_now(k: &mut Kernel, cpu: CpuId, [_, map, flags, ..]: [u64; 5]) -> Ret {
    let put = |k: &mut Kernel| -> Result<u64, Fault> {
        let id = k.helper_map(map)?;
        let Some((bucket, bytes)) = stack_key(k, cpu, id, flags) else {
            return Ok(Errno::EFAULT.ret());
        };
        if let Some(Kind::Stacks(stacks)) = k.maps.get_mut(&id).map(|m| &mut m.kind) {
            stacks.insert(bucket, bytes);
        }
        Ok(bucket.into())
    };
    put(k).map_or_else(Ret::Fault, Ret::Val)
}

/// Another task is not running, and the model's tasks have no saved stack.
fn get_task_stack(k: &mut Kernel, cpu: CpuId, [task, buf, size, flags, _]: [u64; 5]) -> Ret {
    done(put_stack(k, cpu, Some(task), (buf, size as u32), flags))
}

/// `get_perf_callchain` of what runs, no deeper than what is skipped and `depth`
/// (`stack_map_calculate_max_depth`).
fn callchain(k: &Kernel, cpu: CpuId, flags: u64, depth: usize) -> Vec<u64> {
    let user = flags & USER_STACK != 0;
    let mut stack = if user { k.user_stack(cpu) } else { k.kernel_stack(cpu) };
    stack.truncate((depth + (flags & SKIP) as usize).min(MAX_DEPTH));
    stack
}

/// `__bpf_get_stack`: the bytes written; errors clear the buffer.
fn put_stack(
    k: &mut Kernel,
    cpu: CpuId,
    task: Option<u64>,
    (buf, size): (u64, u32),
    flags: u64,
) -> Result<Result<u64, Errno>, Fault> {
    k.mem.fill(buf, size as usize, 0)?;
    let (user, build_id) = (flags & USER_STACK != 0, flags & USER_BUILD_ID != 0);
    let each = if build_id { BUILD_ID } else { 8 };
    if flags & !(SKIP | USER_STACK | USER_BUILD_ID) != 0
        || (build_id && !user)
        || !u64::from(size).is_multiple_of(each)
    {
        return Ok(Err(Errno::EINVAL));
    }
    // A kernel thread has no user registers (`task_pt_regs`, `user_mode`).
    let kernel = |t: u64| k.get(t, field!("task_struct", "mm")) == 0;
    if user && task.is_some_and(kernel) {
        return Ok(Err(Errno::EFAULT));
    }
    let other = task.is_some_and(|t| t != k.cpus[cpu.idx()].task);
    if user && other {
        return Ok(Err(Errno::EOPNOTSUPP));
    }
    let depth = (u64::from(size) / each) as usize;
    let stack = if other { Vec::new() } else { callchain(k, cpu, flags, depth) };
    let Some(part) = stack.get((flags & SKIP) as usize..) else {
        return Ok(Err(Errno::EFAULT));
    };
    for (at, address) in (0..).step_by(each as usize).map(|n| buf + n).zip(part) {
        if build_id {
            // The programs of the model's tasks have none: the address stands for itself.
            k.mem.write_uint(at, 4, BUILD_ID_IP)?;
        }
        k.mem.write_u64(at + each - 8, *address)?;
    }
    Ok(Ok(part.len() as u64 * each))
}

/// Probes: the probed address; 0 is for a kretprobe's entry_ip that is not a function's. Where
/// there is a trampoline the call is inlined.
fn get_func_ip(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(k.traced_function(cpu).or_else(|| k.probed_function(cpu)).unwrap_or(0))
}

/// Number of arguments, as the trampoline left it at ctx-8.
fn arg_count(k: &Kernel, ctx: u64) -> Result<u64, Fault> {
    Ok(k.mem.read_u64(ctx - 8)? & 0xff)
}

fn get_func_arg_cnt(k: &mut Kernel, _: CpuId, [ctx, ..]: [u64; 5]) -> Ret {
    arg_count(k, ctx).map_or_else(Ret::Fault, Ret::Val)
}

fn get_func_arg(k: &mut Kernel, _: CpuId, [ctx, n, to, ..]: [u64; 5]) -> Ret {
    let n = u64::from(n as u32);
    let get = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        if n >= arg_count(k, ctx)? {
            return Ok(Err(Errno::EINVAL));
        }
        let value = k.mem.read_u64(ctx + n * 8)?;
        k.mem.write_u64(to, value)?;
        Ok(Ok(0))
    };
    done(get(k))
}

fn get_func_ret(k: &mut Kernel, _: CpuId, [ctx, to, ..]: [u64; 5]) -> Ret {
    let get = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        let value = k.mem.read_u64(ctx + arg_count(k, ctx)? * 8)?;
        k.mem.write_u64(to, value)?;
        Ok(Ok(0))
    };
    done(get(k))
}

impl Kernel {
    /// The stack in a bucket.
    fn stack_in(&self, map: MapId, bucket: u32) -> Option<&Vec<u8>> {
        match &self.maps.get(&map)?.kind {
            Kind::Stacks(stacks) => stacks.get(&bucket),
            _ => None,
        }
    }
}
