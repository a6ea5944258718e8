//! Kernel functions on dynptrs (kernel/bpf/helpers.c, net/core/filter.c).

use bpf::uapi::ProgType;

use super::{KfuncRow, row};
use crate::cpu::{CpuId, Fault};
use crate::helpers::Ret;
use crate::helpers::dynptr::{BYTES, Dynptr, MAX_SIZE, RDONLY, Type, copy_from, copy_to, skb_meta};
use crate::helpers::net::{xdp_copy, xdp_len, xdp_pieces};
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_dynptr_from_skb", 3, from_skb),
    row("bpf_dynptr_from_skb_meta", 3, from_skb_meta),
    row("bpf_dynptr_from_xdp", 3, from_xdp),
    row("bpf_dynptr_slice", 4, |k, _, a| found(slice(k, a))),
    row("bpf_dynptr_slice_rdwr", 4, |k, _, a| found(slice_rdwr(k, a))),
    row("bpf_dynptr_adjust", 3, |k, _, a| done(adjust(k, a))),
    row("bpf_dynptr_is_null", 1, |k, _, a| told(k, a[0], |p| p.is_none())),
    row("bpf_dynptr_is_rdonly", 1, |k, _, a| told(k, a[0], |p| p.is_some_and(|p| p.rdonly))),
    row("bpf_dynptr_size", 1, |k, _, a| done(size(k, a[0]))),
    row("bpf_dynptr_clone", 2, |k, _, a| done(clone(k, a))),
    row("bpf_dynptr_copy", 5, |k, _, a| done(copy(k, a))),
    row("bpf_dynptr_memset", 4, |k, _, a| done(memset(k, a))),
];

type Outcome = Result<Result<u64, Errno>, Fault>;

fn done(r: Outcome) -> Ret {
    r.map_or_else(Ret::Fault, Ret::from)
}

/// NULL in place of an error.
fn found(r: Outcome) -> Ret {
    r.map_or_else(Ret::Fault, |r| Ret::Val(r.unwrap_or(0)))
}

fn told(k: &Kernel, ptr: u64, what: fn(Option<Dynptr>) -> bool) -> Ret {
    match k.dynptr(ptr) {
        Ok(p) => Ret::Val(what(p).into()),
        Err(fault) => Ret::Fault(fault),
    }
}

/// Program types that cannot write packets get read-only ones (`bpf_dynptr_from_skb_rdonly`).
fn writes_packets(t: Option<ProgType>) -> bool {
    matches!(t, Some(ProgType::SchedCls | ProgType::SchedAct | ProgType::LwtXmit | ProgType::SkSkb))
}

fn from_skb(k: &mut Kernel, cpu: CpuId, [skb, flags, ptr, ..]: [u64; 5]) -> Ret {
    let rdonly = !writes_packets(k.running_type(cpu));
    let make = |k: &mut Kernel| -> Outcome {
        if flags != 0 {
            k.dynptr_clear(ptr)?;
            return Ok(Err(Errno::EINVAL));
        }
        let len = k.get(skb, field!("sk_buff", "len")) as u32;
        k.dynptr_init(ptr, skb, Type::Skb, len)?;
        if rdonly {
            let at = ptr + u64::from(field!("bpf_dynptr_kern", "size").off);
            let word = k.mem.read_u32(at)?;
            k.mem.write_u32(at, word | RDONLY)?;
        }
        Ok(Ok(0))
    };
    done(make(k))
}

/// What XDP left in front of the packet.
fn from_skb_meta(k: &mut Kernel, _: CpuId, [skb, flags, ptr, ..]: [u64; 5]) -> Ret {
    let make = |k: &mut Kernel| -> Outcome {
        if flags != 0 {
            k.dynptr_clear(ptr)?;
            return Ok(Err(Errno::EINVAL));
        }
        let len = k.get(k.skb_shared(skb), field!("skb_shared_info", "meta_len"));
        k.dynptr_init(ptr, skb, Type::SkbMeta, len as u32)?;
        Ok(Ok(0))
    };
    done(make(k))
}

fn from_xdp(k: &mut Kernel, _: CpuId, [xdp, flags, ptr, ..]: [u64; 5]) -> Ret {
    let make = |k: &mut Kernel| -> Outcome {
        if flags != 0 {
            k.dynptr_clear(ptr)?;
            return Ok(Err(Errno::EINVAL));
        }
        let len = xdp_len(k, xdp) as u32;
        k.dynptr_init(ptr, xdp, Type::Xdp, len)?;
        Ok(Ok(0))
    };
    done(make(k))
}

/// Memory with the bytes: where they are when they are together, else a copy in the program's
/// buffer, when it gave one.
fn slice(k: &mut Kernel, [ptr, offset, buffer, len, _]: [u64; 5]) -> Outcome {
    let Some(p) = k.dynptr(ptr)? else { return Ok(Ok(0)) };
    let len = len as u32;
    let at = match p.check(offset as u32, len) {
        Ok(at) => at,
        Err(e) => return Ok(Err(e)),
    };
    match p.kind {
        Type::Local | Type::Ringbuf => Ok(Ok(p.data + at)),
        Type::SkbMeta => Ok(Ok(skb_meta(k, p.data) + at)),
        Type::Skb => {
            let (data, linear) = k.skb_linear(p.data);
            if at + u64::from(len) <= linear {
                return Ok(Ok(data + at));
            }
            if buffer == 0 {
                return Ok(Ok(0));
            }
            Ok(copy_from(k, &p, at, buffer, len)?.map(|_| buffer))
        }
        Type::Xdp => {
            let pieces = match xdp_pieces(k, p.data, at, len.into()) {
                Ok(pieces) => pieces,
                Err(e) => return Ok(Err(e)),
            };
            if let [(start, _)] = pieces[..] {
                return Ok(Ok(start));
            }
            if buffer == 0 {
                return Ok(Ok(0));
            }
            match xdp_copy(k, p.data, (at, len.into()), buffer, false) {
                Ret::Fault(fault) => Err(fault),
                _ => Ok(Ok(buffer)),
            }
        }
    }
}

fn slice_rdwr(k: &mut Kernel, args: [u64; 5]) -> Outcome {
    match k.dynptr(args[0])? {
        Some(p) if !p.rdonly => slice(k, args),
        _ => Ok(Ok(0)),
    }
}

fn size(k: &Kernel, ptr: u64) -> Outcome {
    Ok(k.dynptr(ptr)?.map(|p| u64::from(p.size)).ok_or(Errno::EINVAL))
}

fn adjust(k: &mut Kernel, [ptr, start, end, ..]: [u64; 5]) -> Outcome {
    let (start, end) = (start as u32, end as u32);
    let Some(p) = k.dynptr(ptr)?.filter(|_| start <= end) else {
        return Ok(Err(Errno::EINVAL));
    };
    if start > p.size || end > p.size {
        return Ok(Err(Errno::ERANGE));
    }
    let at = |f: crate::types::Field| ptr + u64::from(f.off);
    let (offset, size) =
        (at(field!("bpf_dynptr_kern", "offset")), at(field!("bpf_dynptr_kern", "size")));
    k.mem.write_u32(offset, p.offset + start)?;
    let kind = k.mem.read_u32(size)? & !MAX_SIZE;
    k.mem.write_u32(size, kind | (end - start))?;
    Ok(Ok(0))
}

fn clone(k: &mut Kernel, [ptr, to, ..]: [u64; 5]) -> Outcome {
    if k.dynptr(ptr)?.is_none() {
        k.dynptr_clear(to)?;
        return Ok(Err(Errno::EINVAL));
    }
    let bytes = k.mem.read_vec(ptr, BYTES as usize)?;
    k.mem.write(to, &bytes)?;
    Ok(Ok(0))
}

/// Bytes of a dynptr, through a buffer of the kernel's.
fn bytes_of(
    k: &mut Kernel,
    p: &Dynptr,
    at: u64,
    len: u32,
) -> Result<Result<Vec<u8>, Errno>, Fault> {
    let Ok(buffer) = k.kzalloc(u64::from(len.max(1)), "dynptr copy") else {
        return Ok(Err(Errno::ENOMEM));
    };
    let done = copy_from(k, p, at, buffer, len);
    let bytes = k.mem.read_vec(buffer, len as usize)?;
    k.kfree(buffer, "dynptr copy");
    Ok(done?.map(|_| bytes))
}

pub(super) fn put_bytes(k: &mut Kernel, p: &Dynptr, at: u64, bytes: &[u8]) -> Outcome {
    let Ok(buffer) = k.kzalloc(bytes.len().max(1) as u64, "dynptr copy") else {
        return Ok(Err(Errno::ENOMEM));
    };
    k.mem.write(buffer, bytes)?;
    let done = copy_to(k, p, at, buffer, bytes.len() as u32, 0);
    k.kfree(buffer, "dynptr copy");
    done
}

fn copy(k: &mut Kernel, [dst, dst_off, src, src_off, len]: [u64; 5]) -> Outcome {
    let len = len as u32;
    let (Some(to), Some(from)) = (k.dynptr(dst)?, k.dynptr(src)?) else {
        return Ok(Err(Errno::EINVAL));
    };
    if to.rdonly {
        return Ok(Err(Errno::EINVAL));
    }
    let (to_at, from_at) = match (to.check(dst_off as u32, len), from.check(src_off as u32, len)) {
        (Ok(to), Ok(from)) => (to, from),
        _ => return Ok(Err(Errno::E2BIG)),
    };
    match bytes_of(k, &from, from_at, len)? {
        Ok(bytes) => put_bytes(k, &to, to_at, &bytes),
        Err(e) => Ok(Err(e)),
    }
}

fn memset(k: &mut Kernel, [ptr, offset, len, val, _]: [u64; 5]) -> Outcome {
    let len = len as u32;
    let p = match k.dynptr(ptr)? {
        Some(p) if !p.rdonly => p,
        _ => return Ok(Err(Errno::EINVAL)),
    };
    match p.check(offset as u32, len) {
        Ok(at) => put_bytes(k, &p, at, &vec![val as u8; len as usize]),
        Err(e) => Ok(Err(e)),
    }
}
