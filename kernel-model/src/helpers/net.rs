//! Helpers of packet programs: XDP and redirects (net/core/filter.c).

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::net::{RedirectInfo, Target};
use crate::net::{frag_at, shared_info};
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 23, name: "redirect", nargs: 2, body: redirect },
    HelperRow { id: 44, name: "xdp_adjust_head", nargs: 2, body: xdp_adjust_head },
    HelperRow { id: 54, name: "xdp_adjust_meta", nargs: 2, body: xdp_adjust_meta },
    HelperRow { id: 65, name: "xdp_adjust_tail", nargs: 2, body: xdp_adjust_tail },
    HelperRow { id: 155, name: "redirect_peer", nargs: 2, body: redirect_peer },
    HelperRow { id: 188, name: "xdp_get_buff_len", nargs: 1, body: xdp_get_buff_len },
    HelperRow { id: 189, name: "xdp_load_bytes", nargs: 4, body: xdp_load_bytes },
    HelperRow { id: 190, name: "xdp_store_bytes", nargs: 4, body: xdp_store_bytes },
];

/// `XDP_REDIRECT` and `TC_ACT_REDIRECT`.
const XDP_REDIRECT: u64 = 4;
const TC_ACT_REDIRECT: u64 = 7;
const TC_ACT_SHOT: u64 = 2;

/// `bpf_redirect` and `bpf_xdp_redirect`: the same id, two program types.
fn redirect(k: &mut Kernel, cpu: CpuId, [ifindex, flags, ..]: [u64; 5]) -> Ret {
    let xdp = k.running_type(cpu) == Some(bpf::uapi::ProgType::Xdp);
    let allowed = if xdp { 0 } else { 1 };
    if flags & !allowed != 0 {
        // XDP_ABORTED is 0.
        return Ret::Val(if xdp { 0 } else { TC_ACT_SHOT });
    }
    let info =
        RedirectInfo { target: Target::Device(ifindex as u32), flags, ..RedirectInfo::default() };
    k.net.redirect.insert(cpu, info);
    Ret::Val(if xdp { XDP_REDIRECT } else { TC_ACT_REDIRECT })
}

/// To the ingress of the device at the other end, without leaving the CPU.
fn redirect_peer(k: &mut Kernel, cpu: CpuId, [ifindex, flags, ..]: [u64; 5]) -> Ret {
    if flags != 0 {
        return Ret::Val(TC_ACT_SHOT);
    }
    let info = RedirectInfo {
        target: Target::Device(ifindex as u32),
        flags,
        peer: true,
        ..RedirectInfo::default()
    };
    k.net.redirect.insert(cpu, info);
    Ret::Val(TC_ACT_REDIRECT)
}

fn xdp_adjust_head(k: &mut Kernel, _: CpuId, [xdp, delta, ..]: [u64; 5]) -> Ret {
    let hard_start = k.get(xdp, field!("xdp_buff", "data_hard_start"));
    let (data, end) = xdp_data(k, xdp);
    let meta = k.get(xdp, field!("xdp_buff", "data_meta")).min(data);
    let delta = i64::from(delta as i32);
    let to = data.wrapping_add_signed(delta);
    let meta_len = data - meta;
    // struct xdp_frame is written to the headroom when the frame is redirected.
    let frame_end = hard_start + crate::size!("xdp_frame");
    let low = frame_end + meta_len;
    if to < low || to > end.saturating_sub(14) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    if meta_len > 0 {
        let moved = k.mem.read_vec(meta, meta_len as usize);
        let done = moved.and_then(|m| k.mem.write(to - meta_len, &m));
        if let Err(e) = done {
            return Ret::Fault(e.into());
        }
    }
    k.set(xdp, field!("xdp_buff", "data"), to);
    k.set(xdp, field!("xdp_buff", "data_meta"), to - meta_len);
    Ret::Val(0)
}

fn xdp_adjust_meta(k: &mut Kernel, _: CpuId, [xdp, delta, ..]: [u64; 5]) -> Ret {
    let hard_start = k.get(xdp, field!("xdp_buff", "data_hard_start"));
    let (data, _) = xdp_data(k, xdp);
    let meta = k.get(xdp, field!("xdp_buff", "data_meta"));
    let to = meta.wrapping_add_signed(i64::from(delta as i32));
    let low = hard_start + crate::size!("xdp_frame");
    if to < low || to > data {
        return Ret::Val(Errno::EINVAL.ret());
    }
    // The length is a multiple of four and fits a u8 (xdp_metalen_invalid).
    let len = data - to;
    if !len.is_multiple_of(4) || len > 252 {
        return Ret::Val(Errno::EACCES.ret());
    }
    k.set(xdp, field!("xdp_buff", "data_meta"), to);
    Ret::Val(0)
}

fn xdp_adjust_tail(k: &mut Kernel, _: CpuId, [xdp, delta, ..]: [u64; 5]) -> Ret {
    let hard_start = k.get(xdp, field!("xdp_buff", "data_hard_start"));
    let (data, end) = xdp_data(k, xdp);
    let delta = i64::from(delta as i32);
    if k.get(xdp, field!("xdp_buff", "flags")) & 1 != 0 {
        let moved = if delta < 0 {
            shrink_tail(k, xdp, delta.unsigned_abs())
        } else {
            grow_tail(k, xdp, delta as u64)
        };
        return match moved {
            Ok(r) => r.into(),
            Err(f) => Ret::Fault(f),
        };
    }
    let to = end.wrapping_add_signed(delta);
    if to > shared_info(hard_start) || to < data + 14 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    if delta > 0
        && let Err(e) = k.mem.fill(end, delta as usize, 0)
    {
        return Ret::Fault(e.into());
    }
    k.set(xdp, field!("xdp_buff", "data_end"), to);
    Ret::Val(0)
}

/// `bpf_xdp_frags_increase_tail`: into the room behind the last fragment.
fn grow_tail(k: &mut Kernel, xdp: u64, by: u64) -> Result<Result<u64, Errno>, Fault> {
    let shared = shared_info(k.get(xdp, field!("xdp_buff", "data_hard_start")));
    let rxq = k.get(xdp, field!("xdp_buff", "rxq"));
    let frag_size = k.get(rxq, field!("xdp_rxq_info", "frag_size"));
    if frag_size == 0 || frag_size > k.get(xdp, field!("xdp_buff", "frame_sz")) {
        return Ok(Err(Errno::EOPNOTSUPP));
    }
    let n = k.get(shared, field!("skb_shared_info", "nr_frags")) as usize;
    let at = frag_at(shared, n - 1);
    let (off, len) =
        (k.get(at, field!("skb_frag", "offset")), k.get(at, field!("skb_frag", "len")));
    if by > frag_size.saturating_sub(off + len) {
        return Ok(Err(Errno::EINVAL));
    }
    let page = k.get(at, field!("skb_frag", "netmem"));
    k.mem.fill(page + off + len, by as usize, 0)?;
    k.set(at, field!("skb_frag", "len"), len + by);
    let size = field!("skb_shared_info", "xdp_frags_size");
    let all = k.get(shared, size);
    k.set(shared, size, all + by);
    Ok(Ok(0))
}

/// `bpf_xdp_frags_shrink_tail`: fragments that are used up go, the first buffer is last.
fn shrink_tail(k: &mut Kernel, xdp: u64, by: u64) -> Result<Result<u64, Errno>, Fault> {
    let shared = shared_info(k.get(xdp, field!("xdp_buff", "data_hard_start")));
    if by + 14 > xdp_len(k, xdp) {
        return Ok(Err(Errno::EINVAL));
    }
    let (nr, size) =
        (field!("skb_shared_info", "nr_frags"), field!("skb_shared_info", "xdp_frags_size"));
    let (mut n, mut left, mut freed) = (k.get(shared, nr), by, 0);
    while n > 0 && left > 0 {
        let at = frag_at(shared, n as usize - 1);
        let len = k.get(at, field!("skb_frag", "len"));
        let part = left.min(len);
        (left, freed) = (left - part, freed + part);
        if part == len {
            n -= 1;
        } else {
            k.set(at, field!("skb_frag", "len"), len - part);
        }
    }
    let all = k.get(shared, size);
    k.set(shared, size, all - freed);
    k.set(shared, nr, n);
    if n == 0 {
        let flags = k.get(xdp, field!("xdp_buff", "flags"));
        k.set(xdp, field!("xdp_buff", "flags"), flags & !1);
        let end = k.get(xdp, field!("xdp_buff", "data_end"));
        k.set(xdp, field!("xdp_buff", "data_end"), end - left);
    }
    Ok(Ok(0))
}

fn xdp_data(k: &Kernel, xdp: u64) -> (u64, u64) {
    (k.get(xdp, field!("xdp_buff", "data")), k.get(xdp, field!("xdp_buff", "data_end")))
}

pub(crate) fn xdp_len(k: &Kernel, xdp: u64) -> u64 {
    let (data, end) = xdp_data(k, xdp);
    let hard_start = k.get(xdp, field!("xdp_buff", "data_hard_start"));
    let frags = k.get(xdp, field!("xdp_buff", "flags")) & 1 != 0;
    let more = if frags {
        k.get(shared_info(hard_start), field!("skb_shared_info", "xdp_frags_size"))
    } else {
        0
    };
    end - data + more
}

fn xdp_get_buff_len(k: &mut Kernel, _: CpuId, [xdp, ..]: [u64; 5]) -> Ret {
    Ret::Val(xdp_len(k, xdp))
}

/// The pieces of memory that hold `offset..offset + len` of a frame (`bpf_xdp_pointer`).
pub(crate) fn xdp_pieces(
    k: &Kernel,
    xdp: u64,
    offset: u64,
    len: u64,
) -> Result<Vec<(u64, u64)>, Errno> {
    if offset > 0xffff || len > 0xffff {
        return Err(Errno::EFAULT);
    }
    if offset + len > xdp_len(k, xdp) {
        return Err(Errno::EINVAL);
    }
    let (data, end) = xdp_data(k, xdp);
    let mut parts = vec![(data, end - data)];
    let hard_start = k.get(xdp, field!("xdp_buff", "data_hard_start"));
    if k.get(xdp, field!("xdp_buff", "flags")) & 1 != 0 {
        let shared = shared_info(hard_start);
        for n in 0..k.get(shared, field!("skb_shared_info", "nr_frags")) as usize {
            let at = frag_at(shared, n);
            let page = k.get(at, field!("skb_frag", "netmem"));
            let start = page + k.get(at, field!("skb_frag", "offset"));
            parts.push((start, k.get(at, field!("skb_frag", "len"))));
        }
    }
    let (mut skip, mut left, mut out) = (offset, len, Vec::new());
    for (at, size) in parts {
        let from = skip.min(size);
        skip -= from;
        let take = left.min(size - from);
        if take > 0 {
            out.push((at + from, take));
            left -= take;
        }
    }
    Ok(out)
}

fn xdp_load_bytes(k: &mut Kernel, _: CpuId, [xdp, offset, buf, len, _]: [u64; 5]) -> Ret {
    xdp_copy(k, xdp, (offset, len), buf, false)
}

fn xdp_store_bytes(k: &mut Kernel, _: CpuId, [xdp, offset, buf, len, _]: [u64; 5]) -> Ret {
    xdp_copy(k, xdp, (offset, len), buf, true)
}

/// `__bpf_xdp_load_bytes` and `__bpf_xdp_store_bytes`.
pub(crate) fn xdp_copy(
    k: &mut Kernel,
    xdp: u64,
    (offset, len): (u64, u64),
    buf: u64,
    store: bool,
) -> Ret {
    let parts = match xdp_pieces(k, xdp, offset & 0xffff_ffff, len & 0xffff_ffff) {
        Ok(parts) => parts,
        Err(e) => return Ret::Val(e.ret()),
    };
    let mut here = buf;
    for (at, n) in parts {
        let (from, to) = if store { (here, at) } else { (at, here) };
        if let Err(e) = k.mem.read_vec(from, n as usize).and_then(|b| k.mem.write(to, &b)) {
            return Ret::Fault(e.into());
        }
        here += n;
    }
    Ret::Val(0)
}

impl Kernel {
    /// Type of the program that runs on a CPU.
    pub(crate) fn running_type(&self, cpu: CpuId) -> Option<bpf::uapi::ProgType> {
        // A timer's callback has no main function below it.
        let frame = self.cpus[cpu.idx()].prog_frame()?;
        self.progs.get(&frame.prog).map(crate::Prog::prog_type)
    }
}
