//! Variables of `/proc/sys`, and the programs of control groups around them
//! (fs/proc/proc_sysctl.c, `__cgroup_bpf_run_filter_sysctl`).

use bpf::uapi::AttachType;

use super::{Do, SysFrame};
use crate::cgroup::{Atype, Hook};
use crate::cpu::{CpuId, Frame};
use crate::layout::PAGE_SIZE;
use crate::{Errno, Kernel, field};

type Ret = Result<u64, Errno>;

/// What a read or write of such a file does in the place of a transfer.
pub(super) fn steps(k: &Kernel, f: &SysFrame, write: bool) -> Option<[Do; 2]> {
    k.vfs_sysctl(f.object)?;
    Some(match write {
        false => [Do::Call(read_programs), Do::Act(read)],
        true => [Do::Call(write_programs), Do::Act(write_value)],
    })
}

fn read_programs(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Result<Option<Frame>, Errno> {
    programs(k, f, None)
}

fn write_programs(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Result<Option<Frame>, Errno> {
    let len = f.arg(2).min(PAGE_SIZE);
    let bytes = k.user_read(f.arg(1), len as usize).ok_or(Errno::EFAULT)?;
    f.bytes = Some(bytes.clone());
    programs(k, f, Some(bytes))
}

/// An object that is freed when the call is over.
fn object(k: &mut Kernel, f: &mut SysFrame, size: u64) -> Result<u64, Errno> {
    let at = k.kzalloc(size, "sysctl")?;
    f.todo.push_back(Do::Free(at));
    Ok(at)
}

fn programs(
    k: &mut Kernel,
    f: &mut SysFrame,
    new: Option<Vec<u8>>,
) -> Result<Option<Frame>, Errno> {
    let atype = Atype::Of(AttachType::CgroupSysctl as u32);
    if !k.cgroups.enabled(atype) {
        return Ok(None);
    }
    let name = k.vfs_sysctl(f.object).unwrap_or_default();
    let text = object(k, f, name.len() as u64 + 1)?;
    k.mem.write(text, name.as_bytes()).expect("a new object is mapped");
    let base = text + name.rfind('/').map_or(0, |n| n as u64 + 1);
    let table = object(k, f, crate::size!("ctl_table"))?;
    let head = object(k, f, crate::size!("ctl_table_header"))?;
    let kern = object(k, f, crate::size!("bpf_sysctl_kern"))?;
    let current = object(k, f, PAGE_SIZE)?;
    let value = k.vfs_contents(f.object);
    k.mem.write(current, &value).expect("a new object is mapped");
    let pos = k.get(f.object, field!("file", "f_pos"));
    for (at, field, to) in [
        (table, field!("ctl_table", "procname"), base),
        (head, field!("ctl_table_header", "ctl_table"), table),
        (head, field!("ctl_table_header", "dir"), text),
        (kern, field!("bpf_sysctl_kern", "head"), head),
        (kern, field!("bpf_sysctl_kern", "table"), table),
        (kern, field!("bpf_sysctl_kern", "cur_val"), current),
        (kern, field!("bpf_sysctl_kern", "cur_len"), value.len() as u64),
        (kern, field!("bpf_sysctl_kern", "write"), u64::from(new.is_some())),
        (kern, field!("bpf_sysctl_kern", "file_pos"), pos),
    ] {
        k.set(at, field, to);
    }
    if let Some(bytes) = new.filter(|b| !b.is_empty()) {
        let at = object(k, f, PAGE_SIZE)?;
        k.mem.write(at, &bytes).expect("a new object is mapped");
        k.set(kern, field!("bpf_sysctl_kern", "new_val"), at);
        k.set(kern, field!("bpf_sysctl_kern", "new_len"), bytes.len() as u64);
    }
    let task = k.task_addr(f.task);
    let cgroup = k.cgroup_of(task)?;
    f.ctx = kern;
    f.then = Some(over);
    Ok(k.cgroup_run(cgroup, atype, (kern, 0), Hook::Plain))
}

fn over(k: &mut Kernel, _: CpuId, f: &mut SysFrame, ret: u64) -> Ret {
    if ret != 0 {
        f.fail(ret);
        return Ok(ret);
    }
    let pos = k.get(f.ctx, field!("bpf_sysctl_kern", "file_pos"));
    k.set(f.object, field!("file", "f_pos"), pos);
    if k.get(f.ctx, field!("bpf_sysctl_kern", "new_updated")) != 0 {
        let at = k.get(f.ctx, field!("bpf_sysctl_kern", "new_val"));
        let len = k.get(f.ctx, field!("bpf_sysctl_kern", "new_len"));
        f.bytes = Some(k.bytes(at, len));
    }
    Ok(0)
}

/// `proc_dointvec` reads all at once: behind the beginning there is nothing.
fn read(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let pos = k.get(f.object, field!("file", "f_pos"));
    if pos != 0 {
        return Ok(0);
    }
    let mut bytes = k.vfs_contents(f.object);
    bytes.truncate(f.arg(2) as usize);
    k.user_write(f.arg(1), &bytes)?;
    k.set(f.object, field!("file", "f_pos"), bytes.len() as u64);
    Ok(bytes.len() as u64)
}

/// Numbers, as many as the variable has at most.
fn write_value(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let bytes = f.bytes.take().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    let given: Result<Vec<i32>, _> = text.split_whitespace().map(str::parse).collect();
    let old = String::from_utf8_lossy(&k.vfs_contents(f.object)).into_owned();
    let mut values: Vec<String> = old.split_whitespace().map(str::to_owned).collect();
    let given = given.map_err(|_| Errno::EINVAL)?;
    if given.is_empty() {
        return Err(Errno::EINVAL);
    }
    for (slot, value) in values.iter_mut().zip(given) {
        *slot = value.to_string();
    }
    k.vfs_sysctl_set(f.object, format!("{}\n", values.join("\t")).as_bytes());
    let pos = k.get(f.object, field!("file", "f_pos"));
    k.set(f.object, field!("file", "f_pos"), pos + bytes.len() as u64);
    Ok(bytes.len() as u64)
}
