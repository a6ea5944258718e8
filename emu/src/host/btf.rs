//! `BPF_BTF_LOAD` into the running kernel.

use std::os::fd::AsRawFd;

use bpf::btf::Btf;
use bpf::uapi::Cmd;
use bpf::uapi::attr::BtfLoad;
use kernel_model::Errno;

use super::door::{self, Answer, Buf};
use super::{ENDIAN, HostKernel, attr_bytes};
use crate::loader::Fd;
use crate::loader::uapi::for_kernel;

impl HostKernel {
    /// `BPF_BTF_LOAD` of types that stay until they are closed.
    ///
    /// # Errors
    /// The kernel's.
    pub fn keep_btf(&mut self, btf: &Btf) -> Result<Fd, Errno> {
        let fd = self.btf_load(btf)?;
        if let Some((_, owned)) = self.btf.take() {
            self.fds.insert(fd, owned);
        }
        Ok(fd)
    }

    /// `BPF_BTF_LOAD` of an object's types; the same types are loaded once.
    pub(super) fn btf_load(&mut self, btf: &Btf) -> Result<Fd, Errno> {
        let blob = for_kernel(btf).to_bytes(ENDIAN);
        if let Some((have, fd)) = &self.btf
            && *have == blob
        {
            return Ok(fd.as_raw_fd());
        }
        let attr = BtfLoad::default();
        let data = Buf::input(0, &blob).sized(16);
        match door::bpf(Cmd::BtfLoad, &mut attr_bytes(&attr), vec![data]) {
            Ok(Answer::Fd(fd)) => {
                let raw = fd.as_raw_fd();
                self.btf = Some((blob, fd));
                Ok(raw)
            }
            Ok(Answer::Done) => Err(Errno::EIO),
            Err(e) => Err(Errno::from_raw(e).unwrap_or(Errno::EIO)),
        }
    }
}
