//! Reading memory that may not be there into dynptrs and buffers (kernel/trace/bpf_trace.c,
//! kernel/bpf/helpers.c).

use super::dynptr::put_bytes;
use super::{KfuncRow, row};
use crate::cpu::Fault;
use crate::helpers::Ret;
use crate::layout::KERNEL_HALF;
use crate::{Errno, Kernel};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_probe_read_kernel_dynptr", 4, |k, _, a| done(read(k, a, Half::Kernel))),
    row("bpf_probe_read_user_dynptr", 4, |k, _, a| done(read(k, a, Half::User))),
    row("bpf_copy_from_user_dynptr", 4, |k, _, a| done(read(k, a, Half::User))),
    row("bpf_probe_read_kernel_str_dynptr", 4, |k, _, a| done(read_str(k, a, Half::Kernel))),
    row("bpf_probe_read_user_str_dynptr", 4, |k, _, a| done(read_str(k, a, Half::User))),
    row("bpf_copy_from_user_str_dynptr", 4, |k, _, a| done(read_str(k, a, Half::User))),
    row("bpf_copy_from_user_str", 4, |k, _, a| done(from_user_str(k, a))),
];

type Outcome = Result<Result<u64, Errno>, Fault>;

fn done(r: Outcome) -> Ret {
    r.map_or_else(Ret::Fault, Ret::from)
}

/// Half of the address space that a read is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Half {
    Kernel,
    User,
}

impl Half {
    /// The error of an address in the other half.
    fn check(self, at: u64) -> Result<(), Errno> {
        match (self, at >= KERNEL_HALF) {
            (Half::Kernel, true) | (Half::User, false) => Ok(()),
            (Half::Kernel, false) => Err(Errno::ERANGE),
            (Half::User, true) => Err(Errno::EFAULT),
        }
    }
}

fn bytes_at(k: &mut Kernel, from: u64, len: u32, half: Half) -> Result<Vec<u8>, Errno> {
    half.check(from)?;
    if half == Half::User && k.inject_user_page(from, len.into()) {
        return Err(Errno::EFAULT);
    }
    k.check_probe(from, "bpf_probe_read_kernel_dynptr");
    if half == Half::User {
        return k.user_read(from, len as usize).ok_or(Errno::EFAULT);
    }
    k.mem.read_vec(from, len as usize).map_err(|_| Errno::EFAULT)
}

/// At most `len` bytes, the last one a NUL.
fn string_at(k: &mut Kernel, from: u64, len: u32, half: Half) -> Result<Vec<u8>, Errno> {
    half.check(from)?;
    if half == Half::User && k.inject_user_page(from, len.into()) {
        return Err(Errno::EFAULT);
    }
    k.check_probe(from, "bpf_probe_read_kernel_str_dynptr");
    let mut out = match half {
        Half::User => k.user_text(from, len as usize).ok_or(Errno::EFAULT)?,
        Half::Kernel => Vec::new(),
    };
    while half == Half::Kernel && out.len() < len as usize && out.last() != Some(&0) {
        let at = from.wrapping_add(out.len() as u64);
        out.push(k.mem.read_u8(at).map_err(|_| Errno::EFAULT)?);
    }
    if let Some(last) = out.last_mut() {
        *last = 0;
    }
    Ok(out)
}

/// Puts what was read where the dynptr has room for `len` bytes.
fn put(
    k: &mut Kernel,
    [ptr, offset, len, ..]: [u64; 5],
    get: impl FnOnce(&mut Kernel) -> Result<Vec<u8>, Errno>,
) -> Result<Result<usize, Errno>, Fault> {
    let p = match k.dynptr(ptr)? {
        Some(p) if !p.rdonly => p,
        _ => return Ok(Err(Errno::EINVAL)),
    };
    let at = match p.check(offset as u32, len as u32) {
        Ok(at) => at,
        Err(e) => return Ok(Err(e)),
    };
    match get(k) {
        Ok(bytes) => Ok(put_bytes(k, &p, at, &bytes)?.map(|_| bytes.len())),
        Err(e) => Ok(Err(e)),
    }
}

fn read(k: &mut Kernel, args: [u64; 5], half: Half) -> Outcome {
    let (len, from) = (args[2] as u32, args[3]);
    Ok(put(k, args, |k| bytes_at(k, from, len, half))?.map(|_| 0))
}

/// The string's length with its NUL.
fn read_str(k: &mut Kernel, args: [u64; 5], half: Half) -> Outcome {
    let (len, from) = (args[2] as u32, args[3]);
    Ok(put(k, args, |k| string_at(k, from, len, half))?.map(|n| n as u64))
}

/// `BPF_F_PAD_ZEROS`.
const PAD_ZEROS: u64 = 1;

fn from_user_str(k: &mut Kernel, [to, size, from, flags, _]: [u64; 5]) -> Outcome {
    let size = size as u32;
    if flags & !PAD_ZEROS != 0 {
        return Ok(Err(Errno::EINVAL));
    }
    if size == 0 {
        return Ok(Ok(0));
    }
    let pad = flags & PAD_ZEROS != 0;
    match string_at(k, from, size, Half::User) {
        Ok(mut bytes) => {
            let n = bytes.len() as u64;
            if pad {
                bytes.resize(size as usize, 0);
            }
            k.mem.write(to, &bytes)?;
            Ok(Ok(n))
        }
        Err(e) => {
            if pad {
                k.mem.fill(to, size as usize, 0)?;
            }
            Ok(Err(e))
        }
    }
}
