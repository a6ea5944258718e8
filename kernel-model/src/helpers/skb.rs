//! Helpers on sk_buffs: bytes, checksums, redirects (net/core/filter.c).

use super::{HelperRow, Ret};
use crate::cpu::CpuId;
use crate::net::check::csum;
use crate::net::frame_hash;
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 9, name: "skb_store_bytes", nargs: 5, body: store_bytes },
    HelperRow { id: 10, name: "l3_csum_replace", nargs: 5, body: l3_csum_replace },
    HelperRow { id: 11, name: "l4_csum_replace", nargs: 5, body: l4_csum_replace },
    HelperRow { id: 13, name: "clone_redirect", nargs: 3, body: clone_redirect },
    HelperRow { id: 26, name: "skb_load_bytes", nargs: 4, body: load_bytes },
    HelperRow { id: 32, name: "skb_change_type", nargs: 2, body: change_type },
    HelperRow { id: 34, name: "get_hash_recalc", nargs: 1, body: get_hash_recalc },
    HelperRow { id: 41, name: "set_hash_invalid", nargs: 1, body: set_hash_invalid },
    HelperRow { id: 48, name: "set_hash", nargs: 2, body: set_hash },
    HelperRow { id: 68, name: "skb_load_bytes_relative", nargs: 5, body: load_bytes_relative },
    HelperRow { id: 0x1001, name: "skb_load_helper_8", nargs: 2, body: ld_abs::<1> },
    HelperRow { id: 0x1002, name: "skb_load_helper_16", nargs: 2, body: ld_abs::<2> },
    HelperRow { id: 0x1003, name: "skb_load_helper_32", nargs: 2, body: ld_abs::<4> },
];

/// An error that leaves the caller's memory zeroed (`skb_load_bytes` fails so).
fn fail_zeroed(k: &mut Kernel, buf: u64, len: u64, errno: Errno) -> Ret {
    match k.mem.fill(buf, len as usize, 0) {
        Ok(()) => Ret::Val(errno.ret()),
        Err(e) => Ret::Fault(e.into()),
    }
}

fn copy(k: &mut Kernel, from: u64, to: u64, len: u64) -> Ret {
    match k.mem.read_vec(from, len as usize).and_then(|b| k.mem.write(to, &b)) {
        Ok(()) => Ret::Val(0),
        Err(e) => Ret::Fault(e.into()),
    }
}

fn load_bytes(k: &mut Kernel, _: CpuId, [skb, offset, to, len, _]: [u64; 5]) -> Ret {
    load_at(k, skb, 0, offset as u32, to, len as u32)
}

pub(super) fn load_at(k: &mut Kernel, skb: u64, base: u64, offset: u32, to: u64, len: u32) -> Ret {
    let bytes = k.skb_bytes(skb);
    let from = base + u64::from(offset);
    let range = from as usize..(from + u64::from(len)) as usize;
    match bytes.get(range) {
        Some(part) if offset <= i32::MAX as u32 => match k.mem.write(to, part) {
            Ok(()) => Ret::Val(0),
            Err(e) => Ret::Fault(e.into()),
        },
        _ => fail_zeroed(k, to, len.into(), Errno::EFAULT),
    }
}

fn load_bytes_relative(k: &mut Kernel, _: CpuId, [skb, offset, to, len, start]: [u64; 5]) -> Ret {
    let head = k.get(skb, field!("sk_buff", "head"));
    let data = k.get(skb, field!("sk_buff", "data"));
    let base = match start {
        0 => k.get(skb, field!("sk_buff", "mac_header")),
        1 => k.get(skb, field!("sk_buff", "network_header")),
        _ => return fail_zeroed(k, to, len & 0xffff_ffff, Errno::EFAULT),
    };
    load_at(k, skb, (head + base).saturating_sub(data), offset as u32, to, len as u32)
}

/// `BPF_F_RECOMPUTE_CSUM` and `BPF_F_INVALIDATE_HASH`.
fn store_bytes(k: &mut Kernel, _: CpuId, [skb, offset, from, len, flags]: [u64; 5]) -> Ret {
    store_at(k, skb, offset & 0xffff_ffff, from, len & 0xffff_ffff, flags)
}

pub(super) fn store_at(
    k: &mut Kernel,
    skb: u64,
    offset: u64,
    from: u64,
    len: u64,
    flags: u64,
) -> Ret {
    if flags & !3 != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    // bpf_try_make_writable pulls fragments as far as the bytes reach.
    if offset > i32::MAX as u64 || k.skb_may_pull(skb, offset + len).is_err() {
        return Ret::Val(Errno::EFAULT.ret());
    }
    if flags & 2 != 0 {
        k.set(skb, field!("sk_buff", "hash"), 0);
    }
    k.skb_compute_pointers(skb);
    let (data, _) = k.skb_linear(skb);
    copy(k, from, data + offset, len)
}

/// Replaces `from` by `to` in a checksum field (RFC 1624, equation 3).
fn replace(sum: u16, from: &[u8], to: &[u8]) -> u16 {
    let not: Vec<u8> = from.iter().map(|b| !b).collect();
    !csum(&[&(!sum).to_be_bytes(), &not, to])
}

/// The bytes of a value as the program holds it in a register, in memory order of `size`.
fn value_bytes(k: &Kernel, value: u64, size: u64) -> Vec<u8> {
    let v = value as u32;
    match (k.mem.endian(), size) {
        (bpf::Endian::Little, 2) => (v as u16).to_le_bytes().to_vec(),
        (bpf::Endian::Big, 2) => (v as u16).to_be_bytes().to_vec(),
        (bpf::Endian::Little, _) => v.to_le_bytes().to_vec(),
        (bpf::Endian::Big, _) => v.to_be_bytes().to_vec(),
    }
}

fn csum_field(k: &mut Kernel, skb: u64, offset: u64) -> Option<(u64, u16)> {
    if offset > 0xffff || offset & 1 != 0 || k.skb_may_pull(skb, offset + 2).is_err() {
        return None;
    }
    k.skb_compute_pointers(skb);
    let (data, _) = k.skb_linear(skb);
    let b = k.bytes_at(data + offset, 2);
    Some((data + offset, u16::from_be_bytes([b[0], b[1]])))
}

fn put_csum(k: &mut Kernel, at: u64, sum: u16) -> Ret {
    match k.mem.write(at, &sum.to_be_bytes()) {
        Ok(()) => Ret::Val(0),
        Err(e) => Ret::Fault(e.into()),
    }
}

/// What a checksum becomes when `from` gives way to `to`; `None` for a bad size.
fn replaced(k: &Kernel, sum: u16, from: u64, to: u64, size: u64) -> Option<u16> {
    match size {
        0 => {
            // The kernel takes `to` as a checksum difference in memory order.
            let diff = value_bytes(k, to, 4);
            (from == 0).then(|| !csum(&[&(!sum).to_be_bytes(), &diff]))
        }
        2 | 4 => {
            let (old, new) = (value_bytes(k, from, size), value_bytes(k, to, size));
            Some(replace(sum, &old, &new))
        }
        _ => None,
    }
}

fn l3_csum_replace(k: &mut Kernel, _: CpuId, [skb, off, from, to, flags]: [u64; 5]) -> Ret {
    if flags & !0xf != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let Some((at, sum)) = csum_field(k, skb, off & 0xffff_ffff) else {
        return Ret::Val(Errno::EFAULT.ret());
    };
    match replaced(k, sum, from, to, flags & 0xf) {
        Some(new) => put_csum(k, at, new),
        None => Ret::Val(Errno::EINVAL.ret()),
    }
}

const F_PSEUDO_HDR: u64 = 1 << 4;
const F_MARK_MANGLED_0: u64 = 1 << 5;
const F_MARK_ENFORCE: u64 = 1 << 6;
const F_IPV6: u64 = 1 << 7;

fn l4_csum_replace(k: &mut Kernel, _: CpuId, [skb, off, from, to, flags]: [u64; 5]) -> Ret {
    if flags & !(F_MARK_MANGLED_0 | F_MARK_ENFORCE | F_PSEUDO_HDR | F_IPV6 | 0xf) != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let mangled = flags & F_MARK_MANGLED_0 != 0;
    let Some((at, sum)) = csum_field(k, skb, off & 0xffff_ffff) else {
        return Ret::Val(Errno::EFAULT.ret());
    };
    if mangled && flags & F_MARK_ENFORCE == 0 && sum == 0 {
        return Ret::Val(0);
    }
    match replaced(k, sum, from, to, flags & 0xf) {
        // CSUM_MANGLED_0: a computed zero is sent as all ones (RFC 768).
        Some(0) if mangled => put_csum(k, at, 0xffff),
        Some(new) => put_csum(k, at, new),
        None => Ret::Val(Errno::EINVAL.ret()),
    }
}

fn clone_redirect(k: &mut Kernel, _: CpuId, [skb, ifindex, flags, ..]: [u64; 5]) -> Ret {
    if flags & !1 != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let ifindex = ifindex as u32;
    if !k.net.nics.contains_key(&ifindex) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let bytes = k.skb_bytes(skb);
    match k.skb_from_bytes(ifindex, &bytes) {
        Ok(copy) => Ret::Frame(k.skb_send(ifindex, copy, flags & 1 != 0)),
        Err(e) => Ret::Val(e.ret()),
    }
}

fn change_type(k: &mut Kernel, _: CpuId, [skb, kind, ..]: [u64; 5]) -> Ret {
    let now = k.get(skb, field!("sk_buff", "pkt_type"));
    // Only among PACKET_HOST to PACKET_OTHERHOST (skb_pkt_type_ok).
    if now > 3 || kind & 0xffff_ffff > 3 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    k.set(skb, field!("sk_buff", "pkt_type"), kind);
    Ret::Val(0)
}

fn get_hash_recalc(k: &mut Kernel, _: CpuId, [skb, ..]: [u64; 5]) -> Ret {
    let mut hash = k.get(skb, field!("sk_buff", "hash"));
    if hash == 0 {
        hash = frame_hash(&k.skb_bytes(skb)).into();
        k.set(skb, field!("sk_buff", "hash"), hash);
    }
    Ret::Val(hash)
}

fn set_hash_invalid(k: &mut Kernel, _: CpuId, [skb, ..]: [u64; 5]) -> Ret {
    k.set(skb, field!("sk_buff", "hash"), 0);
    Ret::Val(0)
}

fn set_hash(k: &mut Kernel, _: CpuId, [skb, hash, ..]: [u64; 5]) -> Ret {
    k.set(skb, field!("sk_buff", "hash"), hash & 0xffff_ffff);
    Ret::Val(0)
}

impl Kernel {
    fn bytes_at(&self, at: u64, len: usize) -> Vec<u8> {
        self.mem.read_vec(at, len).expect("packet memory is mapped")
    }
}

/// LD_ABS and LD_IND as the verifier rewrites them: `bpf_skb_load_helper_{8,16,32}`. A negative
/// offset addresses ancillary data, which the model does not have.
fn ld_abs<const SIZE: usize>(k: &mut Kernel, _: CpuId, [skb, off, ..]: [u64; 5]) -> Ret {
    let at = off as u32 as i32;
    let bytes = k.skb_bytes(skb);
    let part = usize::try_from(at).ok().and_then(|at| bytes.get(at..at + SIZE));
    Ret::Val(match part {
        Some(b) => b.iter().fold(0u64, |n, b| n << 8 | u64::from(*b)),
        None => Errno::EFAULT.ret(),
    })
}
