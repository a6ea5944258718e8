//! Open-coded iterators over processes, control groups and the tasks of a group
//! (kernel/bpf/task_iter.c, cgroup_iter.c).

use super::{KfuncRow, row};
use crate::cgroup::Place;
use crate::cpu::{CpuId, Fault};
use crate::helpers::Ret;
use crate::iter::order::{POST, PRE, UP};
use crate::types::Field;
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_iter_task_new", 3, task_new),
    row("bpf_iter_task_next", 1, task_next),
    row("bpf_iter_task_destroy", 1, nothing),
    row("bpf_iter_css_new", 3, css_new),
    row("bpf_iter_css_next", 1, css_next),
    row("bpf_iter_css_destroy", 1, nothing),
    row("bpf_iter_css_task_new", 3, css_task_new),
    row("bpf_iter_css_task_next", 1, css_task_next),
    row("bpf_iter_css_task_destroy", 1, css_task_destroy),
];

/// `BPF_TASK_ITER_ALL_PROCS`, `BPF_TASK_ITER_ALL_THREADS`, `BPF_TASK_ITER_PROC_THREADS`.
const ALL_PROCS: u64 = 0;
const ALL_THREADS: u64 = 1;
const PROC_THREADS: u64 = 2;
/// `CSS_TASK_ITER_PROCS`, with `CSS_TASK_ITER_THREADED` or without: the model's processes have a
/// thread each.
const CSS_FLAGS: [u64; 3] = [0, 1, 3];
/// `sizeof(struct css_task_iter)`.
const CSS_TASK_BYTES: u64 = 112;

/// An iterator over the tasks of a group.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CssTasks {
    cgroup: u64,
    /// Behind whom it goes on, and that task's `task_struct`, which it holds.
    behind: Option<Place>,
    held: u64,
}

fn read(k: &Kernel, it: u64, f: Field) -> Result<u64, Fault> {
    Ok(k.mem.read_uint(it + u64::from(f.off), f.size)?)
}

fn write(k: &mut Kernel, it: u64, f: Field, v: u64) -> Result<(), Fault> {
    Ok(k.mem.write_uint(it + u64::from(f.off), f.size, v)?)
}

fn nothing(_: &mut Kernel, _: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(0)
}

fn task_new(k: &mut Kernel, _: CpuId, [it, task, flags, ..]: [u64; 5]) -> Ret {
    let flags = u64::from(flags as u32);
    let new = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        write(k, it, field!("bpf_iter_task_kern", "pos"), 0)?;
        let first = match flags {
            ALL_PROCS | ALL_THREADS => k.idle_tasks[0],
            PROC_THREADS if task != 0 => task,
            _ => return Ok(Err(Errno::EINVAL)),
        };
        write(k, it, field!("bpf_iter_task_kern", "task"), first)?;
        write(k, it, field!("bpf_iter_task_kern", "pos"), first)?;
        write(k, it, field!("bpf_iter_task_kern", "flags"), flags)?;
        Ok(Ok(0))
    };
    new(k).into()
}

/// `init_task` comes first, then all others in the order of their making. Processes have one
/// thread.
fn task_next(k: &mut Kernel, _: CpuId, [it, ..]: [u64; 5]) -> Ret {
    let next = |k: &mut Kernel| -> Result<u64, Fault> {
        let pos = read(k, it, field!("bpf_iter_task_kern", "pos"))?;
        if pos == 0 {
            return Ok(0);
        }
        let threads = read(k, it, field!("bpf_iter_task_kern", "flags"))? == PROC_THREADS;
        let after = if threads { None } else { k.process_after(pos) };
        write(k, it, field!("bpf_iter_task_kern", "pos"), after.unwrap_or(0))?;
        Ok(pos)
    };
    next(k).map_or_else(Ret::Fault, Ret::Val)
}

fn css_new(k: &mut Kernel, _: CpuId, [it, start, flags, ..]: [u64; 5]) -> Ret {
    let flags = u64::from(flags as u32);
    let new = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        write(k, it, field!("bpf_iter_css_kern", "start"), 0)?;
        if !matches!(flags as u32, PRE | POST | UP) {
            return Ok(Err(Errno::EINVAL));
        }
        write(k, it, field!("bpf_iter_css_kern", "start"), start)?;
        write(k, it, field!("bpf_iter_css_kern", "pos"), 0)?;
        write(k, it, field!("bpf_iter_css_kern", "flags"), flags)?;
        Ok(Ok(0))
    };
    new(k).into()
}

fn css_next(k: &mut Kernel, _: CpuId, [it, ..]: [u64; 5]) -> Ret {
    let next = |k: &mut Kernel| -> Result<u64, Fault> {
        let start = read(k, it, field!("bpf_iter_css_kern", "start"))?;
        if start == 0 {
            return Ok(0);
        }
        let pos = read(k, it, field!("bpf_iter_css_kern", "pos"))?;
        let after = match read(k, it, field!("bpf_iter_css_kern", "flags"))? as u32 {
            UP => k.css_above(pos, start),
            order => k.css_after(pos, start, order == POST),
        };
        write(k, it, field!("bpf_iter_css_kern", "pos"), after)?;
        Ok(after)
    };
    next(k).map_or_else(Ret::Fault, Ret::Val)
}

fn css_task_new(k: &mut Kernel, _: CpuId, [it, css, flags, ..]: [u64; 5]) -> Ret {
    let new = |k: &mut Kernel| -> Result<Result<u64, Errno>, Fault> {
        k.mem.write_u64(it, 0)?;
        if !CSS_FLAGS.contains(&u64::from(flags as u32)) {
            return Ok(Err(Errno::EINVAL));
        }
        let Ok(data) = k.kzalloc(CSS_TASK_BYTES, "css_task_iter") else {
            return Ok(Err(Errno::ENOMEM));
        };
        k.mem.write_u64(it, data)?;
        let cgroup = k.get(css, field!("cgroup_subsys_state", "cgroup"));
        k.css_tasks.insert(data, CssTasks { cgroup, behind: None, held: 0 });
        Ok(Ok(0))
    };
    new(k).into()
}

/// `css_task_iter_next`: the task before is let go.
fn css_task_next(k: &mut Kernel, _: CpuId, [it, ..]: [u64; 5]) -> Ret {
    let next = |k: &mut Kernel| -> Result<u64, Fault> {
        let data = k.mem.read_u64(it)?;
        let Some(at) = k.css_tasks.get(&data).copied() else { return Ok(0) };
        if at.held != 0 {
            k.task_put(at.held);
        }
        let found = k.cgroup_task_after(at.cgroup, at.behind);
        let held = found.map_or(0, |f| f.1);
        if held != 0 {
            k.task_get(held);
        }
        let behind = found.map(|f| f.0).or(at.behind);
        k.css_tasks.insert(data, CssTasks { behind, held, ..at });
        Ok(held)
    };
    next(k).map_or_else(Ret::Fault, Ret::Val)
}

fn css_task_destroy(k: &mut Kernel, _: CpuId, [it, ..]: [u64; 5]) -> Ret {
    let end = |k: &mut Kernel| -> Result<u64, Fault> {
        let data = k.mem.read_u64(it)?;
        let Some(at) = k.css_tasks.remove(&data) else { return Ok(0) };
        if at.held != 0 {
            k.task_put(at.held);
        }
        k.kfree(data, "css_task_iter");
        Ok(0)
    };
    end(k).map_or_else(Ret::Fault, Ret::Val)
}
