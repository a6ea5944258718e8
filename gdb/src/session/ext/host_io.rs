//! Files over the protocol: only what [`Files`](super::super::Files) has, only for reading.

use gdbstub::target::ext::host_io::{
    FsKind, HostIo, HostIoClose, HostIoCloseOps, HostIoErrno, HostIoError, HostIoFstat,
    HostIoFstatOps, HostIoOpen, HostIoOpenFlags, HostIoOpenMode, HostIoOpenOps, HostIoPread,
    HostIoPreadOps, HostIoReadlink, HostIoReadlinkOps, HostIoResult, HostIoSetfs, HostIoSetfsOps,
    HostIoStat,
};

use super::super::files::Bytes;
use super::{Session, piece};
use crate::arch::GdbArch;

/// Descriptors of a session; gdb keeps one open for each program.
const OPEN_MAX: usize = 0x1000;

impl<A: GdbArch> HostIo for Session<'_, A> {
    fn support_open(&mut self) -> Option<HostIoOpenOps<'_, Self>> {
        Some(self)
    }

    fn support_close(&mut self) -> Option<HostIoCloseOps<'_, Self>> {
        Some(self)
    }

    fn support_pread(&mut self) -> Option<HostIoPreadOps<'_, Self>> {
        Some(self)
    }

    fn support_fstat(&mut self) -> Option<HostIoFstatOps<'_, Self>> {
        Some(self)
    }

    fn support_readlink(&mut self) -> Option<HostIoReadlinkOps<'_, Self>> {
        Some(self)
    }

    fn support_setfs(&mut self) -> Option<HostIoSetfsOps<'_, Self>> {
        Some(self)
    }
}

impl<A: GdbArch> Session<'_, A> {
    fn opened<E>(&self, fd: u32) -> Result<&Bytes, HostIoError<E>> {
        let file = self.open.get(fd as usize).and_then(Option::as_ref);
        file.ok_or(HostIoError::Errno(HostIoErrno::EBADF))
    }
}

impl<A: GdbArch> HostIoOpen for Session<'_, A> {
    fn open(
        &mut self,
        name: &[u8],
        flags: HostIoOpenFlags,
        _mode: HostIoOpenMode,
    ) -> HostIoResult<u32, Self> {
        let writes = HostIoOpenFlags::O_WRONLY | HostIoOpenFlags::O_RDWR;
        if flags.intersects(writes) {
            return Err(HostIoError::Errno(HostIoErrno::EROFS));
        }
        let name = String::from_utf8_lossy(name);
        let bytes = self.files.get(self.debuggee, &name);
        let bytes = bytes.ok_or(HostIoError::Errno(HostIoErrno::ENOENT))?;
        let free = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        let fd = u32::try_from(free).ok().filter(|_| free < OPEN_MAX);
        let fd = fd.ok_or(HostIoError::Errno(HostIoErrno::EMFILE))?;
        if free == self.open.len() {
            self.open.push(None);
        }
        self.open[free] = Some(bytes);
        Ok(fd)
    }
}

impl<A: GdbArch> HostIoClose for Session<'_, A> {
    fn close(&mut self, fd: u32) -> HostIoResult<(), Self> {
        self.opened(fd)?;
        self.open[fd as usize] = None;
        Ok(())
    }
}

impl<A: GdbArch> HostIoPread for Session<'_, A> {
    fn pread(
        &mut self,
        fd: u32,
        count: usize,
        offset: u64,
        into: &mut [u8],
    ) -> HostIoResult<usize, Self> {
        Ok(piece(self.opened(fd)?, offset, count, into))
    }
}

impl<A: GdbArch> HostIoFstat for Session<'_, A> {
    fn fstat(&mut self, fd: u32) -> HostIoResult<HostIoStat, Self> {
        let st_size = self.opened(fd)?.len() as u64;
        Ok(HostIoStat {
            st_dev: 0,
            st_ino: fd + 1,
            st_mode: HostIoOpenMode::S_IFREG | HostIoOpenMode::S_IRUSR,
            st_nlink: 1,
            st_uid: 0,
            st_gid: 0,
            st_rdev: 0,
            st_size,
            st_blksize: 0x1000,
            st_blocks: st_size.div_ceil(512),
            st_atime: 0,
            st_mtime: 0,
            st_ctime: 0,
        })
    }
}

impl<A: GdbArch> HostIoReadlink for Session<'_, A> {
    fn readlink(&mut self, _name: &[u8], _into: &mut [u8]) -> HostIoResult<usize, Self> {
        Err(HostIoError::Errno(HostIoErrno::EINVAL))
    }
}

impl<A: GdbArch> HostIoSetfs for Session<'_, A> {
    /// There is one.
    fn setfs(&mut self, _fs: FsKind) -> HostIoResult<(), Self> {
        Ok(())
    }
}
