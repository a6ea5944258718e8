//! Names that come and go: `unlinkat` and `mkdirat` with their functions and LSM hooks
//! (fs/namei.c, Linux 6.18).

use super::{Do, SysFrame};
use crate::cpu::CpuId;
use crate::{Errno, Kernel, field};

type Ret = Result<u64, Errno>;
type Act = fn(&mut Kernel, CpuId, &mut SysFrame) -> Ret;

/// `AT_REMOVEDIR`.
const AT_REMOVEDIR: u64 = 0x200;
/// `umask` of the tasks.
const UMASK: u64 = 0o022;

/// The functions of a call, from the outside in. An LSM hook has the function that asks and the
/// one that programs attach to.
struct Way {
    outer: &'static str,
    path: [&'static str; 2],
    vfs: &'static str,
    inode: [&'static str; 2],
    /// What the file system refuses before the inode's hook (`may_delete`).
    may: Act,
    act: Act,
    /// Whether a name is made: the hooks get the mode.
    makes: bool,
    /// Whether `vfs` breaks delegations.
    delegates: bool,
}

static UNLINK: Way = Way {
    outer: "do_unlinkat",
    path: ["security_path_unlink", "bpf_lsm_path_unlink"],
    vfs: "vfs_unlink",
    inode: ["security_inode_unlink", "bpf_lsm_inode_unlink"],
    may: |k, cpu, f| {
        let path = k.sys_path(f.arg(1))?;
        if k.vfs_is_open(&path) {
            return Err(k.sys_unsupported(cpu, "unlinking a file that is open"));
        }
        if k.vfs_is_dir(f.object) { Err(Errno::EISDIR) } else { Ok(0) }
    },
    act: unlink,
    makes: false,
    delegates: true,
};

static RMDIR: Way = Way {
    outer: "do_rmdir",
    path: ["security_path_rmdir", "bpf_lsm_path_rmdir"],
    vfs: "vfs_rmdir",
    inode: ["security_inode_rmdir", "bpf_lsm_inode_rmdir"],
    may: |k, _, f| if k.vfs_is_dir(f.object) { Ok(0) } else { Err(Errno::ENOTDIR) },
    act: unlink,
    makes: false,
    delegates: false,
};

static MKDIR: Way = Way {
    outer: "do_mkdirat",
    path: ["security_path_mkdir", "bpf_lsm_path_mkdir"],
    vfs: "vfs_mkdir",
    inode: ["security_inode_mkdir", "bpf_lsm_inode_mkdir"],
    may: |_, _, _| Ok(0),
    act: |k, _, f| {
        let path = k.sys_path(f.arg(1))?;
        k.vfs_mkdir(&path, f.object, f.arg(2)).map(|()| f.object)
    },
    makes: true,
    delegates: false,
};

/// `do_unlinkat`, and `do_rmdir` with `AT_REMOVEDIR`.
pub(super) fn unlinkat(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    match f.arg(2) {
        0 => begin(k, f, &UNLINK, |k, _, f| look(k, f, &UNLINK)),
        AT_REMOVEDIR => begin(k, f, &RMDIR, |k, _, f| look(k, f, &RMDIR)),
        _ => Err(Errno::EINVAL),
    }
}

/// `do_mkdirat`.
pub(super) fn mkdirat(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    begin(k, f, &MKDIR, |k, _, f| look(k, f, &MKDIR))
}

fn unlink(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let path = k.sys_path(f.arg(1))?;
    k.vfs_unlink(&path).map(|()| 0)
}

/// Enters the outer function with the name, which is an error pointer when it cannot be read.
fn begin(k: &mut Kernel, f: &mut SysFrame, way: &Way, look: Act) -> Ret {
    let name = match k.sys_path(f.arg(1)) {
        Ok(path) => {
            let name = filename(k, f.arg(1), &path)?;
            f.todo.push_back(Do::Free(name));
            name
        }
        Err(e) => e.ret(),
    };
    let mode = way.makes.then_some(f.arg(2) & 0xffff);
    let args = [f.arg(0), name].into_iter().chain(mode).collect();
    f.first([Do::Enter(way.outer, args), Do::Act(look), Do::Exit, Do::Act(|_, _, _| Ok(0))]);
    Ok(0)
}

/// `struct filename`, as `getname` makes it.
fn filename(k: &mut Kernel, user: u64, path: &str) -> Result<u64, Errno> {
    let size = crate::size!("filename");
    let at = k.kzalloc(size + path.len() as u64 + 1, "filename")?;
    k.mem.write(at + size, path.as_bytes()).map_err(|_| Errno::EFAULT)?;
    k.set(at, field!("filename", "name"), at + size);
    k.set(at, field!("filename", "uptr"), user);
    k.set(at, field!("filename", "refcnt"), 1);
    Ok(at)
}

/// Looks the name up and enters what is inside.
fn look(k: &mut Kernel, f: &mut SysFrame, way: &Way) -> Ret {
    let path = k.sys_path(f.arg(1))?;
    let (dir, dentry) = k.vfs_name(&path, way.makes)?;
    f.object = dentry;
    if way.makes {
        f.todo.push_back(Do::Undo(dentry));
    }
    let parent = k.kzalloc(crate::size!("path"), "path")?;
    f.todo.push_back(Do::Free(parent));
    k.set(parent, field!("path", "mnt"), k.vfs_mount());
    k.set(parent, field!("path", "dentry"), dir);
    let inode = k.get(dir, field!("dentry", "d_inode"));
    let mode = way.makes.then_some(f.arg(2) & 0xffff);
    let asked = |on| {
        let mode = mode.map(|m| m & 0o1777 & !UMASK);
        [on, dentry].into_iter().chain(mode).collect::<Vec<_>>()
    };
    // idmap before them. The last argument of vfs_unlink is NULL: nobody holds a delegation.
    let vfs = [0, inode, dentry].into_iter().chain(mode.or(way.delegates.then_some(0))).collect();
    f.first([
        Do::Enter(way.path[0], asked(parent)),
        Do::Lsm(way.path[1], asked(parent)),
        Do::Exit,
        Do::Enter(way.vfs, vfs),
        Do::Act(way.may),
        Do::Enter(way.inode[0], asked(inode)),
        Do::Lsm(way.inode[1], asked(inode)),
        Do::Exit,
        Do::Act(way.act),
        Do::Exit,
        Do::Act(|_, _, _| Ok(0)),
    ]);
    Ok(0)
}
