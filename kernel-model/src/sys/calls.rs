//! What the calls do, function by function.

use bpf::uapi::AttachType;

use super::vfs::PATH_MAX;
use super::{CgroupCall, Do, SysFrame, sysctl, user};
use crate::cgroup::{Atype, Hook};
use crate::cpu::CpuId;
use crate::layout::PAGE_SIZE;
use crate::sched::vm_flags;
use crate::{Errno, Kernel, field};

type Ret = Result<u64, Errno>;

/// `DEVCG_ACC_MKNOD`, `DEVCG_ACC_READ`, `DEVCG_ACC_WRITE`.
const DEV_MKNOD: u64 = 1;
const DEV_READ: u64 = 2;
const DEV_WRITE: u64 = 4;
/// `MKDEV(1, 3)`.
const NULL_DEV: u64 = 1 << 20 | 3;
/// `FMODE_READ`, `FMODE_WRITE`.
const FMODE_READ: u64 = 1;
const FMODE_WRITE: u64 = 2;
/// `MAY_READ`, `MAY_WRITE`.
const MAY_READ: u64 = 4;
const MAY_WRITE: u64 = 2;
/// `MAX_RW_COUNT`.
const RW_MAX: u64 = 0x7fff_f000;
/// Longest transfer of the model.
const TRANSFER_MAX: u64 = 1 << 20;

impl Kernel {
    /// `getname`: the path that an argument points at.
    pub(super) fn sys_path(&self, at: u64) -> Result<String, Errno> {
        let mut text = self.user_text(at, PATH_MAX).ok_or(Errno::EFAULT)?;
        if text.pop() != Some(0) {
            return Err(Errno::ENAMETOOLONG);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

/// `do_sys_openat2` with `do_filp_open`, `vfs_open`, `security_file_open`.
pub(super) fn openat(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let how = k.kzalloc(crate::size!("open_how"), "open_how")?;
    k.set(how, field!("open_how", "flags"), f.arg(2));
    k.set(how, field!("open_how", "mode"), f.arg(3));
    f.todo.push_back(Do::Free(how));
    f.first([
        Do::Enter("do_sys_openat2", vec![f.arg(0), f.arg(1), how]),
        Do::Act(open_file),
        Do::Act(open_fd),
        Do::Exit,
    ]);
    Ok(0)
}

fn open_file(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let path = k.sys_path(f.arg(1))?;
    let file = k.vfs_lookup(&path, f.arg(2), f.arg(3))?;
    f.object = file;
    let access = match f.arg(2) & 3 {
        0 => DEV_READ,
        1 => DEV_WRITE,
        _ => DEV_READ | DEV_WRITE,
    };
    let inode = k.get(file, field!("file", "f_inode"));
    let (mode, dev) =
        (k.get(inode, field!("inode", "i_mode")), k.get(inode, field!("inode", "i_rdev")));
    let devices = k.device_programs(f, mode, dev, access)?;
    f.first(
        devices.into_iter().chain([Do::Act(open_driver)]).chain(opening(file)).collect::<Vec<_>>(),
    );
    Ok(0)
}

/// `chrdev_open`, `blkdev_open`: there is a driver for `/dev/null` alone.
fn open_driver(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let inode = k.get(f.object, field!("file", "f_inode"));
    let mode = k.get(inode, field!("inode", "i_mode"));
    let null = k.get(inode, field!("inode", "i_rdev")) == NULL_DEV;
    if device_type(mode).is_some() && !null { Err(Errno::ENXIO) } else { Ok(0) }
}

/// `DEVCG_DEV_BLOCK`, `DEVCG_DEV_CHAR` of an inode that is a device.
fn device_type(mode: u64) -> Option<u64> {
    match mode & 0o170_000 {
        0o060_000 => Some(1),
        0o020_000 => Some(2),
        _ => None,
    }
}

impl Kernel {
    /// `devcgroup_check_permission`: the programs of the task's group on a device.
    fn device_programs(
        &mut self,
        f: &mut SysFrame,
        mode: u64,
        dev: u64,
        access: u64,
    ) -> Result<Option<Do>, Errno> {
        let atype = Atype::Of(AttachType::CgroupDevice as u32);
        let Some(kind) = device_type(mode).filter(|_| self.cgroups.enabled(atype)) else {
            return Ok(None);
        };
        let ctx = self.kzalloc(crate::size!("bpf_cgroup_dev_ctx"), "bpf_cgroup_dev_ctx")?;
        f.todo.push_back(Do::Free(ctx));
        // MAJOR and MINOR of what the kernel keeps.
        for (at, value) in [
            (field!("bpf_cgroup_dev_ctx", "access_type"), access << 16 | kind),
            (field!("bpf_cgroup_dev_ctx", "major"), dev >> 20),
            (field!("bpf_cgroup_dev_ctx", "minor"), dev & 0xf_ffff),
        ] {
            self.set(ctx, at, value);
        }
        let task = self.task_addr(f.task);
        let cgroup = self.cgroup_of(task)?;
        let (retval, hook, then) = (0, Hook::Plain, None);
        Ok(Some(Do::Cgroup(Box::new(CgroupCall { cgroup, atype, ctx, retval, hook, then }))))
    }
}

/// `do_mknodat`, `vfs_mknod`.
pub(super) fn mknodat(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let path = k.sys_path(f.arg(1))?;
    let (mode, dev) = (f.arg(2), f.arg(3));
    // new_decode_dev: what user space writes as one number.
    let dev = (dev >> 8 & 0xfff) << 20 | dev & 0xff | dev >> 12 & 0xfff00;
    if !matches!(mode & 0o170_000, 0 | 0o010_000 | 0o020_000 | 0o060_000 | 0o100_000 | 0o140_000) {
        return Err(Errno::EINVAL);
    }
    k.vfs_may_create(&path)?;
    // A whiteout of an overlay is no device.
    let checked = !(mode & 0o170_000 == 0o020_000 && dev == 0);
    let devices = match checked {
        true => k.device_programs(f, mode, dev, DEV_MKNOD)?,
        false => None,
    };
    f.args[3] = dev;
    f.first(devices.into_iter().chain([Do::Act(mknod)]).collect::<Vec<_>>());
    Ok(0)
}

fn mknod(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let path = k.sys_path(f.arg(1))?;
    let mode = if f.arg(2) & 0o170_000 == 0 { f.arg(2) | 0o100_000 } else { f.arg(2) };
    k.vfs_mknod(&path, mode & !0o022, f.arg(3)).map(|()| 0)
}

/// `vfs_open`, with the hook of `do_dentry_open`.
fn opening(file: u64) -> [Do; 5] {
    let path = file + u64::from(field!("file", "f_path").off);
    [
        Do::Enter("vfs_open", vec![path, file]),
        Do::Enter("security_file_open", vec![file]),
        Do::Lsm("bpf_lsm_file_open", vec![file]),
        Do::Exit,
        Do::Exit,
    ]
}

fn open_fd(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    Ok(k.fd_open(f.task, f.object))
}

/// What `vfs_read` and `vfs_write` begin with.
fn transfer(f: &mut SysFrame, file: u64, name: &'static str, mask: u64) {
    let pos = file + u64::from(field!("file", "f_pos").off);
    f.object = file;
    let act = if mask == MAY_READ { read_file } else { write_file };
    f.first([
        Do::Enter(name, vec![file, f.arg(1), f.arg(2), pos]),
        Do::Enter("security_file_permission", vec![file, mask]),
        Do::Lsm("bpf_lsm_file_permission", vec![file, mask]),
        Do::Exit,
        Do::Act(act),
        Do::Exit,
    ]);
}

pub(super) fn read(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let file = k.fd_file(f.task, f.arg(0))?;
    transfer(f, file, "vfs_read", MAY_READ);
    Ok(0)
}

fn read_file(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    if k.vfs.sockets.contains_key(&f.object) {
        // sock_read_iter
        return super::sock::recvfrom(k, cpu, f);
    }
    if k.get(f.object, field!("file", "f_mode")) & FMODE_READ != 0
        && let Some(steps) = sysctl::steps(k, f, false)
    {
        f.first(steps);
        return Ok(0);
    }
    let count = f.arg(2).min(RW_MAX).min(TRANSFER_MAX);
    let bytes = k.vfs_take(f.object, count as usize)?;
    k.user_write(f.arg(1), &bytes)?;
    Ok(bytes.len() as u64)
}

pub(super) fn write(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let file = k.fd_file(f.task, f.arg(0))?;
    transfer(f, file, "vfs_write", MAY_WRITE);
    Ok(0)
}

fn write_file(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    if k.vfs.sockets.contains_key(&f.object) {
        // sock_write_iter
        return super::sock::sendto(k, cpu, f);
    }
    if k.get(f.object, field!("file", "f_mode")) & FMODE_WRITE != 0
        && let Some(steps) = sysctl::steps(k, f, true)
    {
        f.first(steps);
        return Ok(0);
    }
    let count = f.arg(2).min(RW_MAX).min(TRANSFER_MAX);
    let bytes = k.user_read(f.arg(1), count as usize).ok_or(Errno::EFAULT)?;
    match k.cgroup_write(cpu, f.task, f.object, &bytes) {
        Some(done) => done,
        None => k.vfs_store(f.object, &bytes),
    }
}

/// `filp_close`.
pub(super) fn close(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    f.object = k.fd_close(f.task, f.arg(0))?;
    f.first(closing(k, f.object));
    Ok(0)
}

/// `filp_close` of the file that a call is about.
fn closing(k: &Kernel, file: u64) -> Vec<Do> {
    let release = k.sock_release(file);
    let stream = Do::Call(|k, _, f| Ok(k.stream_close(f.object)));
    let before = [Do::Enter("filp_close", vec![file, 0])].into_iter().chain(release);
    before.chain([stream, Do::Act(put_file), Do::Exit]).collect()
}

/// `exit_files`: in the order of their numbers, those that no other task has.
fn exit_files(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    if let Some(file) = k.fd_exit(f.task) {
        f.object = file;
        let more = closing(k, file).into_iter().chain([Do::Act(exit_files)]);
        f.first(more.collect::<Vec<_>>());
    }
    Ok(0)
}

/// `do_exit` of a task that has files.
pub(super) fn exiting() -> [Do; 2] {
    let dead = Do::Act(|k, cpu, f| {
        k.exit_notify(cpu, f.task);
        Ok(0)
    });
    [Do::Act(exit_files), dead]
}

fn put_file(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    k.vfs_put(f.object);
    Ok(0)
}

/// `do_execveat_common` and `bprm_execve`: the program of the model is the rest of the script.
pub(super) fn execve(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let path = k.sys_path(f.arg(0))?;
    let text = k.kzalloc(path.len() as u64 + 1, "filename")?;
    f.todo.push_back(Do::Free(text));
    let bprm = k.kzalloc(crate::size!("linux_binprm"), "linux_binprm")?;
    f.todo.push_back(Do::Free(bprm));
    k.mem.write(text, path.as_bytes()).map_err(|_| Errno::EFAULT)?;
    k.set(bprm, field!("linux_binprm", "filename"), text);
    k.set(bprm, field!("linux_binprm", "interp"), text);
    f.args.resize(4, 0);
    f.args[3] = bprm;
    f.first([Do::Enter("bprm_execve", vec![bprm]), Do::Act(exec_open)]);
    Ok(0)
}

fn exec_open(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let path = k.sys_path(f.arg(0))?;
    // __FMODE_EXEC
    f.object = k.vfs_lookup(&path, 0x20, 0)?;
    let bprm = f.arg(3);
    k.set(bprm, field!("linux_binprm", "file"), f.object);
    let hook = [
        Do::Enter("security_bprm_check", vec![bprm]),
        Do::Lsm("bpf_lsm_bprm_check_security", vec![bprm]),
        Do::Exit,
        Do::Act(exec_begin),
        Do::Exit,
    ];
    f.first(opening(f.object).into_iter().chain(hook));
    Ok(0)
}

/// `begin_new_exec`: the name changes, memory is new.
fn exec_begin(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    if !k.vfs_executable(f.object) {
        return Err(Errno::EACCES);
    }
    k.vfs_put(f.object);
    let path = k.sys_path(f.arg(0))?;
    let name = path.rsplit('/').next().unwrap_or(&path).as_bytes().to_vec();
    let task = k.task_addr(f.task);
    k.set_bytes(task, field!("task_struct", "comm"), &name[..name.len().min(15)]);
    let pid = k.get(task, field!("task_struct", "pid"));
    k.fire(cpu, "sched_process_exec", &[task, pid, f.arg(3)]);
    k.mm_exec(f.task).map(|()| 0)
}

/// `kernel_clone`: the child is a task of the scenario that does not begin by itself.
pub(super) fn clone(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let child = f.other.ok_or(Errno::EINVAL)?;
    f.object = k.task_addr(child);
    let args = k.kzalloc(crate::size!("kernel_clone_args"), "kernel_clone_args")?;
    f.todo.push_back(Do::Free(args));
    k.set(args, field!("kernel_clone_args", "flags"), f.arg(0) & !0xff);
    k.set(args, field!("kernel_clone_args", "exit_signal"), f.arg(0) & 0xff);
    // CLONE_VM
    let memory = match f.arg(0) & 0x100 != 0 {
        true => vec![Do::Act(clone_share)],
        false => vec![Do::Act(mmap_lock), Do::Act(clone_copy), Do::MmapUnlock],
    };
    f.first([Do::Act(clone_child), Do::Exit]);
    f.first(memory);
    f.first([
        Do::Enter("kernel_clone", vec![args]),
        Do::Enter("security_task_alloc", vec![f.object, f.arg(0)]),
        Do::Lsm("bpf_lsm_task_alloc", vec![f.object, f.arg(0)]),
        Do::Exit,
        Do::Act(clone_new),
    ]);
    Ok(0)
}

fn clone_new(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let child = f.other.ok_or(Errno::EINVAL)?;
    if k.task_is_new(child) { Ok(0) } else { Err(Errno::EAGAIN) }
}

fn clone_share(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    k.mm_share(f.task, f.other.ok_or(Errno::EINVAL)?);
    Ok(0)
}

fn clone_copy(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    k.mm_copy(f.task, f.other.ok_or(Errno::EINVAL)?).map(|()| 0)
}

fn clone_child(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    let child = f.other.ok_or(Errno::EINVAL)?;
    let parent = k.task_addr(f.task);
    k.set(f.object, field!("task_struct", "real_parent"), parent);
    k.set(f.object, field!("task_struct", "parent"), parent);
    let files = k.sched.tasks[f.task.0 as usize].files.clone();
    k.sched.tasks[child.0 as usize].files = files;
    k.fire(cpu, "sched_process_fork", &[parent, f.object]);
    k.func_enter(cpu, "wake_up_new_task", &[f.object]);
    k.task_begin(cpu, child);
    Ok(k.task_pid(child))
}

/// `kill_something_info` of one process.
pub(super) fn kill(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let named = f.other.filter(|t| k.task_lives(*t));
    let target = match f.other {
        Some(_) => named,
        None => k.task_by_pid(f.arg(0)),
    };
    let target = target.ok_or(Errno::ESRCH)?;
    f.other = Some(target);
    f.object = k.task_addr(target);
    let (sig, task) = (f.arg(1), f.object);
    // SEND_SIG_NOINFO would be 0; a signal of a user has its kernel_siginfo.
    f.first([
        Do::Enter("security_task_kill", vec![task, 0, sig, 0]),
        Do::Lsm("bpf_lsm_task_kill", vec![task, 0, sig, 0]),
        Do::Exit,
        Do::Act(kill_send),
    ]);
    Ok(0)
}

fn kill_send(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    let target = f.other.ok_or(Errno::ESRCH)?;
    k.signal_send(cpu, target, f.arg(1) as u32).map(|()| 0)
}

/// `vm_mmap_pgoff`: pages are made as they are touched.
pub(super) fn mmap(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (len, prot, flags) = (f.arg(1), f.arg(2), f.arg(3));
    if len == 0 || !f.arg(5).is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    // MAP_ANONYMOUS
    let file = if flags & 0x20 != 0 { 0 } else { k.fd_file(f.task, f.arg(4))? };
    f.first([
        Do::Enter("vm_mmap_pgoff", vec![file, f.arg(0), len, prot, flags, f.arg(5) / PAGE_SIZE]),
        Do::Enter("security_mmap_file", vec![file, prot, flags]),
        Do::Lsm("bpf_lsm_mmap_file", vec![file, prot, prot, flags]),
        Do::Exit,
        Do::Act(mmap_lock),
        Do::Act(mmap_place),
        Do::MmapUnlock,
        Do::Exit,
    ]);
    Ok(0)
}

/// `mmap_write_lock_killable`.
fn mmap_lock(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    if !k.mmap_write_lock(cpu, f.task) {
        f.block = Some(u64::MAX);
        f.first([Do::Act(mmap_locked)]);
    }
    Ok(0)
}

fn mmap_locked(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    k.sleep_over(cpu, f.task);
    Ok(0)
}

fn mmap_place(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let pages = f.arg(1).div_ceil(PAGE_SIZE);
    let id = k.task_mm(f.task);
    let mm = k.mm_mut(id);
    // MAP_FIXED
    let at = match f.arg(3) & 0x10 != 0 {
        true => f.arg(0),
        false => user::MMAP + mm.mapped,
    };
    if !at.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    // As with MAP_POPULATE: a modelled task touches its memory through system calls alone.
    if pages > 256 {
        return Err(Errno::ENOMEM);
    }
    if f.arg(3) & 0x10 == 0 {
        mm.mapped += pages * PAGE_SIZE;
    }
    // MAP_ANONYMOUS
    let file = if f.arg(3) & 0x20 != 0 { 0 } else { k.fd_file(f.task, f.arg(4))? };
    let (len, flags) = (pages * PAGE_SIZE, vm_flags(f.arg(2), f.arg(3)));
    f.args.resize(6, 0);
    f.args[0] = at;
    f.object = file;
    f.first([
        Do::Enter("mmap_region", vec![file, at, len, flags, f.arg(5) / PAGE_SIZE, 0]),
        Do::Act(mmap_region),
        Do::Exit,
    ]);
    Ok(at)
}

fn mmap_region(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (at, pages) = (f.arg(0), f.arg(1).div_ceil(PAGE_SIZE));
    let (mm, flags) = (k.task_mm(f.task), vm_flags(f.arg(2), f.arg(3)));
    k.vma_add(mm, at..at + pages * PAGE_SIZE, flags, f.object)?;
    for n in 0..pages {
        k.task_map(f.task, at + n * PAGE_SIZE)?;
    }
    Ok(at)
}

/// `__vm_munmap`: what of a range is there.
pub(super) fn munmap(_: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    f.first([Do::Act(mmap_lock), Do::Act(munmap_range), Do::MmapUnlock]);
    Ok(0)
}

fn munmap_range(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (at, len) = (f.arg(0), f.arg(1));
    if !at.is_multiple_of(PAGE_SIZE) || len == 0 || len > user::END - at.min(user::END) {
        return Err(Errno::EINVAL);
    }
    let task = k.task_addr(f.task);
    let mm = k.get(task, field!("task_struct", "mm"));
    // The iterator over mappings and the list of userfaultfd are on the kernel's stack.
    f.first([
        Do::Enter("do_vmi_munmap", vec![0, mm, at, len, 0, 1]),
        Do::Act(munmap_pages),
        Do::Exit,
    ]);
    Ok(0)
}

fn munmap_pages(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (at, len) = (f.arg(0), f.arg(1).next_multiple_of(PAGE_SIZE));
    k.vma_remove(k.task_mm(f.task), at..at + len).map(|()| 0)
}

/// `hrtimer_nanosleep`.
pub(super) fn nanosleep(_: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let ns = f.arg(0);
    f.first([
        // HRTIMER_MODE_REL, CLOCK_MONOTONIC
        Do::Enter("hrtimer_nanosleep", vec![ns, 1, 1]),
        Do::Act(nanosleep_block),
        Do::Exit,
    ]);
    Ok(0)
}

fn nanosleep_block(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    f.block = Some(k.now(cpu) + f.arg(0).max(1));
    Ok(0)
}

pub(super) fn exit_group(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    // The rest of the call does not happen.
    f.todo.retain(|d| matches!(d, Do::Free(_)));
    k.exit_begin(cpu, f.task, (f.arg(0) & 0xff) << 8);
    f.first(exiting());
    Ok(0)
}

pub(super) fn getpid(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    Ok(k.task_pid(f.task))
}
