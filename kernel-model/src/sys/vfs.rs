//! A small file system in memory: inodes, dentries, files as kernel objects.

use std::collections::BTreeMap;

use crate::cpu::CpuId;
use crate::sched::TaskId;
use crate::{Errno, Kernel, field};

/// `S_IFDIR`, `S_IFREG`, `S_IFCHR`.
const S_IFDIR: u64 = 0o040_000;
const S_IFREG: u64 = 0o100_000;
const S_IFCHR: u64 = 0o020_000;
/// `S_IFSOCK`.
pub(super) const S_IFSOCK: u64 = 0o140_000;
/// `S_IFMT`.
const S_IFMT: u64 = 0o170_000;
/// `MKDEV(1, 3)`: `/dev/null`.
const NULL_DEV: u64 = 1 << 20 | 3;
/// `FMODE_READ`, `FMODE_WRITE`.
const FMODE_READ: u64 = 1;
const FMODE_WRITE: u64 = 2;
/// `O_ACCMODE`, `O_CREAT`, `O_EXCL`, `O_TRUNC`, `O_APPEND`, `O_DIRECTORY` of the generic ABI.
const O_ACCMODE: u64 = 3;
const O_CREAT: u64 = 0o100;
const O_EXCL: u64 = 0o200;
const O_TRUNC: u64 = 0o1000;
const O_APPEND: u64 = 0o2000;
/// Where cgroup2 is mounted.
const CGROUP_MOUNT: &str = "/sys/fs/cgroup";
/// `PATH_MAX`.
pub(super) const PATH_MAX: usize = 4096;
/// The first descriptor that a task opens: 0, 1 and 2 are its terminal.
const FIRST_FD: i32 = 3;

/// What there is at the beginning: path, mode, contents.
#[rustfmt::skip]
const TREE: &[(&str, u64, &str)] = &[
    ("/", S_IFDIR | 0o755, ""),
    ("/bin", S_IFDIR | 0o755, ""),
    ("/bin/bash", S_IFREG | 0o755, "\x7fELF"),
    ("/bin/cat", S_IFREG | 0o755, "\x7fELF"),
    ("/bin/ls", S_IFREG | 0o755, "\x7fELF"),
    ("/bin/sh", S_IFREG | 0o755, "\x7fELF"),
    ("/bin/true", S_IFREG | 0o755, "\x7fELF"),
    ("/dev", S_IFDIR | 0o755, ""),
    ("/dev/null", S_IFCHR | 0o666, ""),
    ("/etc", S_IFDIR | 0o755, ""),
    ("/etc/hosts", S_IFREG | 0o644, "127.0.0.1 localhost\n"),
    ("/etc/passwd", S_IFREG | 0o644, "root:x:0:0:root:/root:/bin/sh\n"),
    ("/etc/shadow", S_IFREG | 0o640, "root:*:0:0:99999:7:::\n"),
    ("/home", S_IFDIR | 0o755, ""),
    ("/proc", S_IFDIR | 0o555, ""),
    ("/proc/sys", S_IFDIR | 0o555, ""),
    ("/proc/sys/kernel", S_IFDIR | 0o555, ""),
    ("/proc/sys/kernel/pid_max", S_IFREG | 0o644, "4194304\n"),
    ("/proc/sys/net", S_IFDIR | 0o555, ""),
    ("/proc/sys/net/core", S_IFDIR | 0o555, ""),
    ("/proc/sys/net/core/somaxconn", S_IFREG | 0o644, "4096\n"),
    ("/proc/sys/net/ipv4", S_IFDIR | 0o555, ""),
    ("/proc/sys/net/ipv4/tcp_rmem", S_IFREG | 0o644, "4096\t131072\t6291456\n"),
    ("/proc/sys/vm", S_IFDIR | 0o555, ""),
    ("/proc/sys/vm/swappiness", S_IFREG | 0o644, "60\n"),
    ("/root", S_IFDIR | 0o700, ""),
    ("/tmp", S_IFDIR | 0o1777, ""),
    ("/usr", S_IFDIR | 0o755, ""),
    ("/usr/bin", S_IFDIR | 0o755, ""),
    ("/var", S_IFDIR | 0o755, ""),
    ("/var/log", S_IFDIR | 0o755, ""),
    ("/var/log/x", S_IFREG | 0o644, "x\n"),
];

/// An inode and its dentry.
#[derive(Clone, Debug)]
struct Node {
    inode: u64,
    dentry: u64,
    data: Vec<u8>,
}

/// The file system.
#[derive(Clone, Debug, Default)]
pub(crate) struct Vfs {
    nodes: BTreeMap<String, Node>,
    /// Inodes that there have been.
    inodes: u64,
    mount: u64,
    /// Open files and their path.
    files: BTreeMap<u64, String>,
    /// `struct socket` of files that are sockets.
    pub(super) sockets: BTreeMap<u64, u64>,
}

impl Kernel {
    fn vfs_boot(&mut self) -> Result<(), Errno> {
        if !self.vfs.nodes.is_empty() {
            return Ok(());
        }
        self.vfs.mount = self.kzalloc(crate::size!("vfsmount"), "vfsmount")?;
        for (path, mode, data) in TREE {
            self.vfs_node(path, *mode, data.as_bytes())?;
        }
        let null = self.vfs.nodes["/dev/null"].inode;
        self.set(null, field!("inode", "i_rdev"), NULL_DEV);
        let root = self.vfs.nodes["/"].dentry;
        self.set(self.vfs.mount, field!("vfsmount", "mnt_root"), root);
        Ok(())
    }

    /// `d_alloc`: a name without an inode.
    fn vfs_dentry(&mut self, path: &str) -> Result<u64, Errno> {
        let dentry = self.kzalloc(crate::size!("dentry"), "dentry")?;
        let (dir, name) = split(path);
        let parent = self.vfs.nodes.get(dir).map_or(dentry, |n| n.dentry);
        let text = field!("dentry", "d_iname");
        let name = if path == "/" { "/" } else { name };
        self.set_bytes(dentry, text, &name.as_bytes()[..name.len().min(39)]);
        for (f, value) in [
            (field!("dentry", "d_parent"), parent),
            (field!("dentry", "d_name.len"), name.len() as u64),
            (field!("dentry", "d_name.name"), dentry + u64::from(text.off)),
        ] {
            self.set(dentry, f, value);
        }
        Ok(dentry)
    }

    /// A new inode with its name.
    fn vfs_node(&mut self, path: &str, mode: u64, data: &[u8]) -> Result<(), Errno> {
        let dentry = self.vfs_dentry(path)?;
        self.vfs_instantiate(path, dentry, mode, data)
    }

    /// `d_instantiate`: a new inode for a name.
    fn vfs_instantiate(
        &mut self,
        path: &str,
        dentry: u64,
        mode: u64,
        data: &[u8],
    ) -> Result<(), Errno> {
        let inode = self.kzalloc(crate::size!("inode"), "inode")?;
        self.vfs.inodes += 1;
        let number = self.vfs.inodes + 1;
        for (at, f, value) in [
            (inode, field!("inode", "i_mode"), mode),
            (inode, field!("inode", "i_ino"), number),
            (inode, field!("inode", "i_size"), data.len() as u64),
            (inode, field!("inode", "i_nlink"), 1),
            (dentry, field!("dentry", "d_inode"), inode),
        ] {
            self.set(at, f, value);
        }
        let node = Node { inode, dentry, data: data.to_vec() };
        self.vfs.nodes.insert(path.to_owned(), node);
        Ok(())
    }

    /// `path_openat` up to the file, which is not open yet.
    pub(super) fn vfs_lookup(&mut self, path: &str, flags: u64, mode: u64) -> Result<u64, Errno> {
        self.vfs_boot()?;
        let path = match path.trim_end_matches('/') {
            "" if path.is_empty() => return Err(Errno::ENOENT),
            "" => "/",
            p => p,
        };
        if path.len() >= PATH_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        if !path.starts_with('/') {
            // The working directory is the root.
            return self.vfs_lookup(&format!("/{path}"), flags, mode);
        }
        self.cgroup_file(path)?;
        match self.vfs.nodes.get(path) {
            Some(_) if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL => return Err(Errno::EEXIST),
            Some(n) => {
                if self.inode_is_sock(n.inode) {
                    return Err(Errno::ENXIO);
                }
                let dir = self.get(n.inode, field!("inode", "i_mode")) & S_IFMT == S_IFDIR;
                if dir && flags & (O_ACCMODE | O_CREAT) != 0 {
                    return Err(Errno::EISDIR);
                }
            }
            None if flags & O_CREAT != 0 => {
                let dir = self.vfs.nodes.get(split(path).0).ok_or(Errno::ENOENT)?;
                if self.get(dir.inode, field!("inode", "i_mode")) & S_IFREG != 0 {
                    return Err(Errno::ENOTDIR);
                }
                self.vfs_node(path, S_IFREG | mode & 0o7777 & !0o022, &[])?;
            }
            None => return Err(Errno::ENOENT),
        }
        if flags & O_TRUNC != 0
            && let Some(n) = self.vfs.nodes.get_mut(path)
        {
            n.data.clear();
            let inode = n.inode;
            self.set(inode, field!("inode", "i_size"), 0);
        }
        let (inode, dentry) = (self.vfs.nodes[path].inode, self.vfs.nodes[path].dentry);
        let file = self.kzalloc(crate::size!("file"), "file")?;
        let access = match flags & O_ACCMODE {
            0 => FMODE_READ,
            1 => FMODE_WRITE,
            _ => FMODE_READ | FMODE_WRITE,
        };
        for (f, value) in [
            (field!("file", "f_mode"), access),
            (field!("file", "f_flags"), flags),
            (field!("file", "f_path.mnt"), self.vfs.mount),
            (field!("file", "f_path.dentry"), dentry),
            (field!("file", "f_inode"), inode),
        ] {
            self.set(file, f, value);
        }
        self.vfs.files.insert(file, path.to_owned());
        Ok(file)
    }

    /// `S_ISSOCK`.
    pub(super) fn inode_is_sock(&self, inode: u64) -> bool {
        self.get(inode, field!("inode", "i_mode")) & S_IFMT == S_IFSOCK
    }

    /// `kern_path`: the inode of a name.
    pub(super) fn vfs_inode(&mut self, path: &str) -> Result<u64, Errno> {
        self.vfs_boot()?;
        let node = self.vfs.nodes.get(path.trim_end_matches('/')).ok_or(Errno::ENOENT)?;
        Ok(node.inode)
    }

    /// `may_create`: nothing is there, and the directory is.
    pub(super) fn vfs_may_create(&mut self, path: &str) -> Result<(), Errno> {
        self.vfs_boot()?;
        let path = path.trim_end_matches('/');
        if self.vfs.nodes.contains_key(path) {
            return Err(Errno::EEXIST);
        }
        let dir = self.vfs.nodes.get(split(path).0).ok_or(Errno::ENOENT)?;
        match self.get(dir.inode, field!("inode", "i_mode")) & S_IFMT == S_IFDIR {
            true => Ok(()),
            false => Err(Errno::ENOTDIR),
        }
    }

    /// A new file of any kind.
    pub(super) fn vfs_mknod(&mut self, path: &str, mode: u64, dev: u64) -> Result<(), Errno> {
        self.vfs_may_create(path)?;
        self.vfs_node(path, mode, &[])?;
        let inode = self.vfs.nodes[path].inode;
        self.set(inode, field!("inode", "i_rdev"), dev);
        Ok(())
    }

    /// `filename_parentat` and the lookup in it: the dentries of the directory and of the name,
    /// which is new when it is to be made.
    pub(super) fn vfs_name(&mut self, path: &str, makes: bool) -> Result<(u64, u64), Errno> {
        self.vfs_boot()?;
        let path = match path.trim_end_matches('/') {
            "" if path.is_empty() => return Err(Errno::ENOENT),
            "" => return Err(if makes { Errno::EEXIST } else { Errno::EBUSY }),
            path => path,
        };
        if let Some(group) = path.strip_prefix(CGROUP_MOUNT) {
            self.cgroup_root()?;
            let above = group.rsplit_once('/').map_or("", |p| p.0);
            for group in [above, group] {
                if self.cgroups.by_path(group).is_some() {
                    self.vfs_dirs(&format!("{CGROUP_MOUNT}{group}"))?;
                }
            }
        }
        if makes {
            self.vfs_may_create(path)?;
        }
        let dir = self.vfs.nodes.get(split(path).0).ok_or(Errno::ENOENT)?.dentry;
        match makes {
            true => Ok((dir, self.vfs_dentry(path)?)),
            false => Ok((dir, self.vfs.nodes.get(path).ok_or(Errno::ENOENT)?.dentry)),
        }
    }

    /// Where everything is mounted.
    pub(super) fn vfs_mount(&self) -> u64 {
        self.vfs.mount
    }

    /// Whether a name is that of a directory.
    pub(super) fn vfs_is_dir(&self, dentry: u64) -> bool {
        let inode = self.get(dentry, field!("dentry", "d_inode"));
        self.get(inode, field!("inode", "i_mode")) & S_IFMT == S_IFDIR
    }

    /// A name becomes a directory; below the mount of cgroup2, a control group.
    pub(super) fn vfs_mkdir(&mut self, path: &str, dentry: u64, mode: u64) -> Result<(), Errno> {
        let path = path.trim_end_matches('/');
        if let Some(group) = path.strip_prefix(CGROUP_MOUNT) {
            self.cgroup_at(group)?;
        }
        self.vfs_instantiate(path, dentry, S_IFDIR | mode & 0o7777 & !0o022, &[])
    }

    /// A name goes; a directory when it is empty, a control group when nobody is in it.
    pub(super) fn vfs_unlink(&mut self, path: &str) -> Result<(), Errno> {
        let path = path.trim_end_matches('/');
        let below = format!("{path}/");
        if let Some(group) = path.strip_prefix(CGROUP_MOUNT) {
            let group = self.cgroups.by_path(group).ok_or(Errno::EPERM)?;
            self.cgroup_remove(group)?;
            self.vfs.nodes.retain(|p, _| !p.starts_with(&below));
        } else if self.vfs.nodes.keys().any(|p| p.starts_with(&below)) {
            return Err(Errno::ENOTEMPTY);
        }
        self.vfs.nodes.remove(path);
        Ok(())
    }

    /// Whether a file is open somewhere.
    pub(super) fn vfs_is_open(&self, path: &str) -> bool {
        self.vfs.files.values().any(|p| p == path)
    }

    /// Files of control groups are there as long as the group.
    fn cgroup_file(&mut self, path: &str) -> Result<(), Errno> {
        let missing = !self.vfs.nodes.contains_key(path);
        if !missing || self.cgroup_procs(path).is_none() {
            return Ok(());
        }
        self.vfs_dirs(split(path).0)?;
        self.vfs_node(path, S_IFREG | 0o644, &[])
    }

    /// Directories are there, down to a path.
    fn vfs_dirs(&mut self, path: &str) -> Result<(), Errno> {
        let ends = path.match_indices('/').map(|(n, _)| n).chain([path.len()]);
        for dir in ends.map(|n| &path[..n]).filter(|d| !d.is_empty()) {
            if !self.vfs.nodes.contains_key(dir) {
                self.vfs_node(dir, S_IFDIR | 0o755, &[])?;
            }
        }
        Ok(())
    }

    /// The group whose `cgroup.procs` a path is.
    fn cgroup_procs(&self, path: &str) -> Option<usize> {
        let group = path.strip_prefix(CGROUP_MOUNT)?.strip_suffix("/cgroup.procs")?;
        self.cgroups.by_path(group)
    }

    /// `cgroup_procs_write`: the task of the number that is written comes into the group.
    pub(super) fn cgroup_write(
        &mut self,
        cpu: CpuId,
        id: TaskId,
        file: u64,
        bytes: &[u8],
    ) -> Option<Result<u64, Errno>> {
        let to = self.cgroup_procs(self.vfs.files.get(&file)?)?;
        let text = String::from_utf8_lossy(bytes);
        let task = match text.trim().parse::<u64>() {
            Ok(0) => Some(id),
            Ok(pid) => self.task_by_pid(pid),
            Err(_) => return Some(Err(Errno::EINVAL)),
        };
        let Some(task) = task else { return Some(Err(Errno::ESRCH)) };
        let addr = self.task_addr(task);
        self.cgroup_attach_task(cpu, addr, to);
        Some(Ok(bytes.len() as u64))
    }

    /// `fput` of the last reference.
    pub(super) fn vfs_put(&mut self, file: u64) {
        if let Some(sock) = self.vfs.sockets.remove(&file) {
            let sk = self.get(sock, field!("socket", "sk"));
            match sk {
                0 => {}
                sk if self.sock_is_unix(sk) => self.unix_release(sk),
                sk => self.sock_free(sk),
            }
            self.kfree_rcu(sock, "socket");
            self.kfree_rcu(file, "file");
        } else if self.vfs.files.remove(&file).is_some() {
            self.kfree_rcu(file, "file");
        }
    }

    /// `sk_free`.
    pub(crate) fn sock_free(&mut self, sk: u64) {
        self.storage_gone(sk);
        self.net.sockets.gone(sk);
        let cgroup = self.get(sk, field!("sock", "sk_cgrp_data.cgroup"));
        self.cgroup_bpf_put(cgroup);
        self.kfree_rcu(sk, "sock");
    }

    /// `fd_install`.
    pub(super) fn fd_open(&mut self, id: TaskId, file: u64) -> u64 {
        let files = &mut self.sched.tasks[id.0 as usize].files;
        let free = (FIRST_FD..).find(|fd| !files.contains_key(fd)).expect("descriptors are many");
        files.insert(free, file);
        u64::from(free.unsigned_abs())
    }

    /// `fdget`: the terminal of 0, 1 and 2 is `/dev/null`.
    pub(super) fn fd_file(&mut self, id: TaskId, fd: u64) -> Result<u64, Errno> {
        let fd = fd as u32 as i32;
        if let Some(file) = self.sched.tasks[id.0 as usize].files.get(&fd) {
            return Ok(*file);
        }
        if !(0..FIRST_FD).contains(&fd) {
            return Err(Errno::EBADF);
        }
        let file = self.vfs_lookup("/dev/null", 2, 0)?;
        self.sched.tasks[id.0 as usize].files.insert(fd, file);
        Ok(file)
    }

    /// `file_close_fd`.
    pub(super) fn fd_close(&mut self, id: TaskId, fd: u64) -> Result<u64, Errno> {
        let files = &mut self.sched.tasks[id.0 as usize].files;
        files.remove(&(fd as u32 as i32)).ok_or(Errno::EBADF)
    }

    /// The first file of a task that exits; one that another task has stays open.
    pub(super) fn fd_exit(&mut self, id: TaskId) -> Option<u64> {
        while let Some((_, file)) = self.sched.tasks[id.0 as usize].files.pop_first() {
            let has = |t: &crate::sched::Task| t.files.values().any(|f| *f == file);
            if !self.sched.tasks.iter().any(has) {
                return Some(file);
            }
        }
        None
    }

    /// Contents from the file's position on; the position moves.
    pub(super) fn vfs_take(&mut self, file: u64, count: usize) -> Result<Vec<u8>, Errno> {
        if self.get(file, field!("file", "f_mode")) & FMODE_READ == 0 {
            return Err(Errno::EBADF);
        }
        let pos = self.get(file, field!("file", "f_pos"));
        let node = self.vfs.files.get(&file).and_then(|p| self.vfs.nodes.get(p));
        let data = node.map_or(&[][..], |n| &n.data);
        let rest = data.get(pos as usize..).unwrap_or_default();
        let bytes = rest[..rest.len().min(count)].to_vec();
        self.set(file, field!("file", "f_pos"), pos + bytes.len() as u64);
        Ok(bytes)
    }

    pub(super) fn vfs_store(&mut self, file: u64, bytes: &[u8]) -> Result<u64, Errno> {
        if self.get(file, field!("file", "f_mode")) & FMODE_WRITE == 0 {
            return Err(Errno::EBADF);
        }
        let append = self.get(file, field!("file", "f_flags")) & O_APPEND != 0;
        let inode = self.get(file, field!("file", "f_inode"));
        let mut pos = self.get(file, field!("file", "f_pos")) as usize;
        let path = self.vfs.files.get(&file).cloned().ok_or(Errno::EBADF)?;
        let regular = self.get(inode, field!("inode", "i_mode")) & S_IFREG != 0;
        let Some(node) = self.vfs.nodes.get_mut(&path).filter(|_| regular) else {
            return Ok(bytes.len() as u64);
        };
        if append {
            pos = node.data.len();
        }
        if node.data.len() < pos + bytes.len() {
            node.data.resize(pos + bytes.len(), 0);
        }
        node.data[pos..pos + bytes.len()].copy_from_slice(bytes);
        let size = node.data.len() as u64;
        self.set(inode, field!("inode", "i_size"), size);
        self.set(file, field!("file", "f_pos"), (pos + bytes.len()) as u64);
        Ok(bytes.len() as u64)
    }

    /// The name of the variable that a file of `/proc/sys` is.
    pub(super) fn vfs_sysctl(&self, file: u64) -> Option<String> {
        self.vfs.files.get(&file)?.strip_prefix("/proc/sys/").map(str::to_owned)
    }

    /// What is in a file from a place on.
    pub(super) fn vfs_contents(&self, file: u64) -> Vec<u8> {
        let node = self.vfs.files.get(&file).and_then(|p| self.vfs.nodes.get(p));
        node.map_or_else(Vec::new, |n| n.data.clone())
    }

    /// A sysctl variable has another value.
    pub(super) fn vfs_sysctl_set(&mut self, file: u64, value: &[u8]) {
        let Some(path) = self.vfs.files.get(&file) else { return };
        if let Some(node) = self.vfs.nodes.get_mut(path) {
            node.data = value.to_vec();
        }
    }

    /// Whether a file may be executed.
    pub(super) fn vfs_executable(&self, file: u64) -> bool {
        let inode = self.get(file, field!("file", "f_inode"));
        let mode = self.get(inode, field!("inode", "i_mode"));
        mode & S_IFREG != 0 && mode & 0o111 != 0
    }
}

/// Directory and name of a path.
fn split(path: &str) -> (&str, &str) {
    match path.rsplit_once('/') {
        Some(("", name)) => ("/", name),
        Some((dir, name)) => (dir, name),
        None => ("/", path),
    }
}
