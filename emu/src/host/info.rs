//! `BPF_OBJ_GET_INFO_BY_FD` of programs and maps.

use bpf::uapi::Cmd;
use bpf::uapi::attr::Info;
use bpf::uapi::fields::Struct;
use bpf::uapi::info::{MapInfo, ProgInfo};
use kernel_model::Errno;

use super::door::{self, Buf};
use super::{ENDIAN, HostKernel, attr_bytes};
use crate::loader::Fd;

/// What the kernel tells of a loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgDetail {
    /// Numbers.
    pub info: ProgInfo,
    /// Rewritten instructions.
    pub xlated: Vec<u8>,
    /// Native code of all functions, one after the other.
    pub jited: Vec<u8>,
}

/// Offset of `info.info` and of `info.info_len`.
const INFO: usize = 8;
const INFO_LEN: usize = 4;

impl HostKernel {
    fn info<S: Struct>(&self, fd: Fd, ask: &S) -> Result<S, Errno> {
        if !self.fds.contains_key(&fd) {
            return Err(Errno::EBADF);
        }
        let mut bytes = ask.encode(ENDIAN);
        let attr = Info { bpf_fd: fd.cast_unsigned(), ..Info::default() };
        let buf = Buf::output(INFO, &mut bytes).sized(INFO_LEN);
        door::bpf(Cmd::ObjGetInfoByFd, &mut attr_bytes(&attr), vec![buf])
            .map_err(|e| Errno::from_raw(e).unwrap_or(Errno::EIO))?;
        Ok(S::decode(&bytes, ENDIAN))
    }

    /// Numbers of a map.
    ///
    /// # Errors
    /// The kernel's.
    pub fn map_info(&self, fd: Fd) -> Result<MapInfo, Errno> {
        self.info(fd, &MapInfo::default())
    }

    /// Kernel id of a program, 0 when it is none.
    pub(super) fn prog_id(&self, fd: Fd) -> u32 {
        self.info(fd, &ProgInfo::default()).map_or(0, |i| i.id)
    }

    /// Numbers, rewritten and native code of a program.
    ///
    /// # Errors
    /// The kernel's.
    pub fn prog_detail(&self, fd: Fd) -> Result<ProgDetail, Errno> {
        let sizes = self.info(fd, &ProgInfo::default())?;
        let mut xlated = vec![0; sizes.xlated_prog_len as usize];
        let mut jited = vec![0; sizes.jited_prog_len as usize];
        let ask = ProgInfo {
            xlated_prog_len: sizes.xlated_prog_len,
            xlated_prog_insns: door::address(&mut xlated),
            jited_prog_len: sizes.jited_prog_len,
            jited_prog_insns: door::address(&mut jited),
            ..ProgInfo::default()
        };
        let info = self.info(fd, &ask)?;
        // A kernel that does not show its addresses shows no code either.
        if info.jited_prog_insns == 0 {
            jited.clear();
        }
        if info.xlated_prog_insns == 0 {
            xlated.clear();
        }
        Ok(ProgDetail { info, xlated, jited })
    }
}
