//! BTF objects: `BPF_BTF_LOAD`.

use std::sync::Arc;

use bpf::Endian;
use bpf::btf::Btf;
use bpf::uapi::attr::BtfLoad;

use super::{Call, FdObject, SysResult};
use crate::{Errno, Kernel};

/// Kernel id of a BTF object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BtfId(pub u32);

/// The kernel's own types are its first BTF object.
pub const VMLINUX_BTF: BtfId = BtfId(1);

/// `BTF_MAX_SIZE`.
const MAX_SIZE: u32 = 16 << 20;

/// A loaded BTF object.
#[derive(Clone)]
pub struct BtfObject {
    /// As parsed.
    pub btf: Arc<Btf>,
    /// Bytes as they were loaded.
    pub bytes: Arc<[u8]>,
}

impl std::fmt::Debug for BtfObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BtfObject").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Types by id, the kernel's own included.
    #[must_use]
    pub fn btf_object(&self, id: BtfId) -> Option<Arc<Btf>> {
        match id {
            VMLINUX_BTF => Some(self.vmlinux_btf().clone()),
            _ => self.btfs.get(&id).map(|o| o.btf.clone()),
        }
    }

    /// Keeps types that have been parsed already; the same types are one object.
    pub(super) fn btf_install(&mut self, btf: Btf, bytes: &[u8]) -> BtfId {
        let id = BtfId(self.next_btf);
        self.next_btf += 1;
        self.btfs.insert(id, BtfObject { btf: Arc::new(btf), bytes: bytes.into() });
        id
    }
}

/// Writes a log to a buffer of the process; `ENOSPC` when it does not fit.
pub(super) fn put_log(
    call: &mut Call<'_>,
    log: &str,
    (addr, size): (u64, u32),
) -> Result<(), Errno> {
    if addr == 0 || size == 0 {
        return Ok(());
    }
    let room = size as usize - 1;
    // A log that does not fit keeps its end.
    let cut = log.len().saturating_sub(room);
    let mut bytes = log.as_bytes()[cut..].to_vec();
    bytes.push(0);
    call.user.write(addr, &bytes)?;
    if cut > 0 { Err(Errno::ENOSPC) } else { Ok(()) }
}

pub(super) fn load(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let mut a: BtfLoad = call.get();
    if a.btf_flags != 0 {
        return Err(super::SysError::unsupported("BPF_F_TOKEN_FD"));
    }
    if a.btf_size > MAX_SIZE {
        return Err(Errno::E2BIG.into());
    }
    let bytes = call.user.read(a.btf, a.btf_size as usize)?;
    let parsed = Btf::parse_with_endian(&bytes);
    let right = |e: Endian| e == call.endian;
    let btf = match parsed {
        Ok((btf, endian)) if right(endian) => btf,
        Ok(_) => return Err(Errno::EINVAL.into()),
        Err(e) => {
            let log = format!("{e}\n");
            a.btf_log_true_size = log.len() as u32 + 1;
            if a.btf_log_level != 0 {
                put_log(call, &log, (a.btf_log_buf, a.btf_log_size))?;
            }
            call.put(&a);
            return Err(Errno::EINVAL.into());
        }
    };
    let id = k.btf_install(btf, &bytes);
    Ok(k.fd_install(FdObject::Btf(id)))
}
