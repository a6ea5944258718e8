//! Small helpers on packets (net/core/filter.c).

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 17, name: "get_cgroup_classid", nargs: 1, body: no_classid },
    HelperRow { id: 40, name: "csum_update", nargs: 2, body: csum_update },
    HelperRow { id: 46, name: "get_socket_cookie", nargs: 1, body: get_socket_cookie },
    HelperRow { id: 97, name: "skb_ecn_set_ce", nargs: 1, body: skb_ecn_set_ce },
    HelperRow { id: 135, name: "csum_level", nargs: 2, body: csum_level },
    HelperRow { id: 163, name: "check_mtu", nargs: 5, body: check_mtu },
];

/// Packets of the model belong to no socket and so to no net_cls cgroup.
fn no_classid(_: &mut Kernel, _: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(0)
}

/// Of the packet's socket; 0 without one.
fn get_socket_cookie(k: &mut Kernel, cpu: CpuId, [ctx, ..]: [u64; 5]) -> Ret {
    use bpf::uapi::ProgType;
    let sk = match k.running_type(cpu) {
        Some(
            ProgType::SchedCls
            | ProgType::SchedAct
            | ProgType::SocketFilter
            | ProgType::CgroupSkb
            | ProgType::SkSkb
            | ProgType::LwtXmit,
        ) => k.get(ctx, field!("sk_buff", "sk")),
        Some(ProgType::CgroupSockAddr) => k.get(ctx, field!("bpf_sock_addr_kern", "sk")),
        Some(ProgType::SockOps) => k.get(ctx, field!("bpf_sock_ops_kern", "sk")),
        Some(ProgType::CgroupSock | ProgType::Tracing | ProgType::Lsm) => ctx,
        _ => return Ret::Fault(Fault::unsupported("bpf_get_socket_cookie of this program type")),
    };
    Ret::Val(if sk == 0 { 0 } else { k.sock_cookie(sk) })
}

/// `ip_summed`: `CHECKSUM_UNNECESSARY` and `CHECKSUM_COMPLETE`.
const UNNECESSARY: u64 = 1;
const COMPLETE: u64 = 2;

fn csum_update(k: &mut Kernel, _: CpuId, [skb, csum, ..]: [u64; 5]) -> Ret {
    if k.get(skb, field!("sk_buff", "ip_summed")) != COMPLETE {
        return Ret::Val(Errno::ENOTSUPP.ret());
    }
    let sum = k.get(skb, field!("sk_buff", "csum")) + (csum & 0xffff_ffff);
    k.set(skb, field!("sk_buff", "csum"), (sum & 0xffff_ffff) + (sum >> 32));
    Ret::Val(csum & 0xffff_ffff)
}

/// `SKB_MAX_CSUM_LEVEL`.
const LEVEL_MAX: u64 = 3;

/// `BPF_CSUM_LEVEL_QUERY`, `INC`, `DEC`, `RESET`. Frames of the model arrive with
/// `CHECKSUM_NONE`.
fn csum_level(k: &mut Kernel, _: CpuId, [skb, what, ..]: [u64; 5]) -> Ret {
    let (summed, level) = (field!("sk_buff", "ip_summed"), field!("sk_buff", "csum_level"));
    let known = k.get(skb, summed) == UNNECESSARY;
    let now = k.get(skb, level);
    match (what, known) {
        (0, true) => return Ret::Val(now),
        (0, false) => return Ret::Val(Errno::EACCES.ret()),
        (1, true) => k.set(skb, level, (now + 1).min(LEVEL_MAX)),
        (1, false) => {
            if k.get(skb, summed) == 0 {
                k.set(skb, summed, UNNECESSARY);
                k.set(skb, level, 0);
            }
        }
        (2, true) if now > 0 => k.set(skb, level, now - 1),
        (2 | 3, true) => {
            k.set(skb, summed, 0);
            k.set(skb, level, 0);
        }
        (2 | 3, false) => {}
        _ => return Ret::Val(Errno::EINVAL.ret()),
    }
    Ret::Val(0)
}

/// 1 when the packet is or becomes CE, 0 when its sender cannot do ECN (`INET_ECN_set_ce`).
fn skb_ecn_set_ce(k: &mut Kernel, _: CpuId, [skb, ..]: [u64; 5]) -> Ret {
    let wire = k.be16(k.get(skb, field!("sk_buff", "protocol")) as u16);
    let head = k.get(skb, field!("sk_buff", "head"));
    let ip = head + k.get(skb, field!("sk_buff", "network_header"));
    let tail = head + k.get(skb, field!("sk_buff", "tail"));
    let run = |k: &mut Kernel| -> Result<u64, Fault> {
        match wire {
            0x0800 if ip + 20 <= tail => ecn_v4(k, ip),
            0x86dd if ip + 40 <= tail => {
                let b = k.mem.read_u8(ip + 1)?;
                if b & 0x30 == 0 {
                    return Ok(0);
                }
                k.mem.write_u8(ip + 1, b | 0x30)?;
                Ok(1)
            }
            _ => Ok(0),
        }
    };
    run(k).map_or_else(Ret::Fault, Ret::Val)
}

fn ecn_v4(k: &mut Kernel, ip: u64) -> Result<u64, Fault> {
    let tos = k.mem.read_u8(ip + 1)?;
    if matches!(tos & 3, 0 | 3) {
        return Ok(u64::from(tos & 3 == 3));
    }
    k.mem.write_u8(ip + 1, tos | 3)?;
    // The checksum falls by what the header word rises (RFC 1624).
    let sum = k.mem.read_vec(ip + 10, 2)?;
    let mut sum = u32::from(u16::from_be_bytes([sum[0], sum[1]]));
    sum += 0xffff - u32::from((tos | 3) - tos);
    sum = (sum & 0xffff) + (sum >> 16);
    k.mem.write(ip + 10, &(sum as u16).to_be_bytes())?;
    Ok(1)
}

/// `bpf_skb_check_mtu` and `bpf_xdp_check_mtu`: 1 is `BPF_MTU_CHK_RET_FRAG_NEEDED`.
fn check_mtu(k: &mut Kernel, cpu: CpuId, [ctx, ifindex, mtu, diff, flags]: [u64; 5]) -> Ret {
    let xdp = k.running_type(cpu) == Some(bpf::uapi::ProgType::Xdp);
    let mut run = || -> Result<Result<u64, Errno>, Fault> {
        let wanted = u64::from(k.mem.read_u32(mtu)?);
        let segs = flags & 1 != 0;
        let bad_segs = segs && (xdp || diff as u32 != 0 || wanted != 0);
        if flags & !1 != 0 || bad_segs {
            return Ok(Err(Errno::EINVAL));
        }
        let Some(dev) = mtu_device(k, ctx, ifindex as u32, xdp) else {
            return Ok(Err(Errno::ENODEV));
        };
        let dev_mtu = k.get(dev, field!("net_device", "mtu"));
        let header = k.get(dev, field!("net_device", "hard_header_len"));
        let len = match (wanted, xdp) {
            (0, true) => {
                let data = k.get(ctx, field!("xdp_buff", "data"));
                k.get(ctx, field!("xdp_buff", "data_end")) - data
            }
            (0, false) => k.get(ctx, field!("sk_buff", "len")),
            (n, _) => n + header,
        };
        let len = len as i64 + i64::from(diff as i32);
        k.mem.write_u32(mtu, dev_mtu as u32)?;
        Ok(Ok(u64::from(len > (dev_mtu + header) as i64)))
    };
    match run() {
        Ok(r) => r.into(),
        Err(fault) => Ret::Fault(fault),
    }
}

/// Interface 0 is the packet's own.
fn mtu_device(k: &Kernel, ctx: u64, ifindex: u32, xdp: bool) -> Option<u64> {
    match (ifindex, xdp) {
        (0, true) => {
            let rxq = k.get(ctx, field!("xdp_buff", "rxq"));
            Some(k.get(rxq, field!("xdp_rxq_info", "dev")))
        }
        (0, false) => Some(k.get(ctx, field!("sk_buff", "dev"))),
        (n, _) => k.net.nics.get(&n).map(|nic| nic.dev),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::layout::DIRECT_MAP;

    #[test]
    fn congestion_marks_keep_the_header_checksum() {
        let mut k = Kernel::new(Config::default());
        let ip = DIRECT_MAP + 0x20_0000;
        for tos in 0..4u8 {
            let mut header = [0x45, tos, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
            let sum = !crate::net::check::csum(&[&header]);
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            k.mem.write(ip, &header).unwrap();
            assert_eq!(ecn_v4(&mut k, ip), Ok(u64::from(tos != 0)));
            let after = k.mem.read_vec(ip, 20).unwrap();
            assert_eq!(after[1], if tos == 0 { 0 } else { 3 });
            assert_eq!(crate::net::check::csum(&[&after]), 0xffff);
        }
    }
}
