//! Addresses of AF_UNIX sockets (`bpf_sock_addr_set_sun_path` of net/core/filter.c).

use super::{KfuncRow, row};
use crate::cpu::CpuId;
use crate::helpers::Ret;
use crate::net::{SUN_PATH, UNIX_PATH_MAX};
use crate::{Errno, Kernel, field};

/// The rows.
pub(super) const ROWS: &[KfuncRow] = &[row("bpf_sock_addr_set_sun_path", 3, set_sun_path)];

/// A socket has no name of no bytes, nor one that is longer than an address.
fn set_sun_path(k: &mut Kernel, _: CpuId, [kern, path, len, ..]: [u64; 5]) -> Ret {
    let len = len & 0xffff_ffff;
    let sk = k.get(kern, field!("bpf_sock_addr_kern", "sk"));
    if !k.sock_is_unix(sk) || !(1..=UNIX_PATH_MAX as u64).contains(&len) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let at = k.get(kern, field!("bpf_sock_addr_kern", "uaddr")) + SUN_PATH;
    let copied = k.mem.read_vec(path, len as usize).and_then(|bytes| k.mem.write(at, &bytes));
    if let Err(fault) = copied {
        return Ret::Fault(fault.into());
    }
    k.set(kern, field!("bpf_sock_addr_kern", "uaddrlen"), SUN_PATH + len);
    Ret::Val(0)
}
