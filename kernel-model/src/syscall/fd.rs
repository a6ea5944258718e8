//! Descriptors of the loading process, and ids of all objects.

use bpf::uapi::attr::{FdById, NextId};

use super::{BtfId, Call, LinkId, SysResult};
use crate::iter::IterId;
use crate::maps::MapId;
use crate::{Errno, Kernel, ProgId};

/// What a descriptor stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FdObject {
    /// A map.
    Map(MapId),
    /// A program.
    Prog(ProgId),
    /// BTF.
    Btf(BtfId),
    /// A link.
    Link(LinkId),
    /// The directory of a control group, by its place in the tree.
    Cgroup(usize),
    /// An iterator.
    Iter(IterId),
}

/// First descriptor that is handed out: 0 to 2 are taken in every process.
const FIRST_FD: i32 = 3;
/// `BPF_F_RDONLY`: the process may not write.
const RDONLY: u32 = 1 << 3;
/// `BPF_F_WRONLY`: the process may not read.
const WRONLY: u32 = 1 << 4;

impl Kernel {
    pub(crate) fn fd_install(&mut self, object: FdObject) -> i32 {
        let fd = self.fds.keys().next_back().map_or(FIRST_FD, |fd| fd + 1);
        self.fds.insert(fd, object);
        fd
    }

    /// close(2).
    ///
    /// # Errors
    /// `EBADF`.
    pub fn sys_close(&mut self, fd: i32) -> Result<(), Errno> {
        self.fd_modes.remove(&fd);
        let object = self.fds.remove(&fd).ok_or(Errno::EBADF)?;
        let last = !self.fds.values().any(|o| *o == object);
        match object {
            // The last descriptor of a link takes its program off.
            FdObject::Link(id) if last => {
                self.link_release(id)?;
                self.links.remove(&id);
            }
            FdObject::Iter(id) if last => self.iter_close(id),
            _ => {}
        }
        if last {
            self.objects_let_go();
        }
        Ok(())
    }

    /// What is behind a descriptor. The first three are no objects of bpf(2).
    pub(super) fn fd_object(&self, fd: i32) -> Result<FdObject, Errno> {
        match self.fds.get(&fd) {
            Some(object) => Ok(*object),
            None if (0..FIRST_FD).contains(&fd) => Err(Errno::EINVAL),
            None => Err(Errno::EBADF),
        }
    }

    /// The map behind a descriptor.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`.
    pub fn fd_map(&self, fd: i32) -> Result<MapId, Errno> {
        match self.fd_object(fd)? {
            FdObject::Map(id) => Ok(id),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The program behind a descriptor.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`.
    pub fn fd_prog(&self, fd: i32) -> Result<ProgId, Errno> {
        match self.fd_object(fd)? {
            FdObject::Prog(id) => Ok(id),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The BTF behind a descriptor.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`.
    pub fn fd_btf(&self, fd: i32) -> Result<BtfId, Errno> {
        match self.fd_object(fd)? {
            FdObject::Btf(id) => Ok(id),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The iterator behind a descriptor.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`.
    pub fn fd_iter(&self, fd: i32) -> Result<IterId, Errno> {
        match self.fd_object(fd)? {
            FdObject::Iter(id) => Ok(id),
            _ => Err(Errno::EINVAL),
        }
    }

    /// The link behind a descriptor.
    ///
    /// # Errors
    /// `EBADF`, `EINVAL`.
    pub fn fd_link(&self, fd: i32) -> Result<LinkId, Errno> {
        match self.fd_object(fd)? {
            FdObject::Link(id) => Ok(id),
            _ => Err(Errno::EINVAL),
        }
    }

    /// `map_get_sys_perms`: the map, when the descriptor allows what is wanted.
    pub(super) fn fd_map_for(&self, fd: u32, read: bool, write: bool) -> Result<MapId, Errno> {
        let fd = fd.cast_signed();
        let id = self.fd_map(fd)?;
        let map = &self.maps[&id];
        let mode = self.fd_modes.get(&fd).copied().unwrap_or(map.def.flags);
        let may_read = mode & WRONLY == 0;
        let may_write = mode & RDONLY == 0 && !map.frozen;
        if read && !may_read || write && !may_write { Err(Errno::EPERM) } else { Ok(id) }
    }
}

/// `bpf_obj_get_next_id`.
fn next_id(call: &mut Call<'_>, ids: impl Iterator<Item = u32>) -> SysResult {
    let mut a: NextId = call.get();
    if a.id >= i32::MAX as u32 {
        return Err(Errno::EINVAL.into());
    }
    let next = ids.filter(|id| *id > a.id).min().ok_or(Errno::ENOENT)?;
    a.next_id = next;
    call.put(&a);
    Ok(0)
}

pub(super) fn prog_next_id(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    next_id(call, k.progs.keys().map(|p| p.0))
}

pub(super) fn map_next_id(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    next_id(call, k.maps.keys().map(|m| m.0))
}

pub(super) fn btf_next_id(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    next_id(call, std::iter::once(super::VMLINUX_BTF.0).chain(k.btfs.keys().map(|b| b.0)))
}

pub(super) fn link_next_id(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    next_id(call, k.links.keys().map(|l| l.0))
}

pub(super) fn prog_by_id(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let id = ProgId(call.get::<FdById>().id);
    k.progs.get(&id).ok_or(Errno::ENOENT)?;
    Ok(k.fd_install(FdObject::Prog(id)))
}

pub(super) fn map_by_id(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: FdById = call.get();
    if a.open_flags & !(RDONLY | WRONLY) != 0 || a.open_flags == RDONLY | WRONLY {
        return Err(Errno::EINVAL.into());
    }
    let id = MapId(a.id);
    k.maps.get(&id).ok_or(Errno::ENOENT)?;
    let fd = k.fd_install(FdObject::Map(id));
    k.fd_modes.insert(fd, a.open_flags);
    Ok(fd)
}

pub(super) fn btf_by_id(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: FdById = call.get();
    if a.open_flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    k.btf_object(BtfId(a.id)).ok_or(Errno::ENOENT)?;
    Ok(k.fd_install(FdObject::Btf(BtfId(a.id))))
}

pub(super) fn link_by_id(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let id = LinkId(call.get::<FdById>().id);
    k.links.get(&id).ok_or(Errno::ENOENT)?;
    Ok(k.fd_install(FdObject::Link(id)))
}
