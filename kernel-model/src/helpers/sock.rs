//! Helpers on sockets (net/core/filter.c).

use std::net::{IpAddr, SocketAddr};

use bpf::uapi::ProgType;

use super::{HelperRow, Ret, hdr_opt};
use crate::cpu::{CpuId, Fault};
use crate::ledger::Kind;
use crate::net::{CB_FLAGS, LISTEN, Protocol, TCP_BPF_SYN, TCP_BPF_SYN_MAC};
use crate::sys::{OptError, TCP_SAVED_SYN};
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 84, name: "sk_lookup_tcp", nargs: 5, body: lookup_tcp },
    HelperRow { id: 85, name: "sk_lookup_udp", nargs: 5, body: lookup_udp },
    HelperRow { id: 86, name: "sk_release", nargs: 1, body: release },
    HelperRow { id: 95, name: "sk_fullsock", nargs: 1, body: same },
    HelperRow { id: 96, name: "tcp_sock", nargs: 1, body: tcp_sock },
    HelperRow { id: 98, name: "get_listener_sock", nargs: 1, body: listener },
    HelperRow { id: 99, name: "skc_lookup_tcp", nargs: 5, body: lookup_tcp },
    HelperRow { id: 49, name: "setsockopt", nargs: 5, body: setsockopt },
    HelperRow { id: 57, name: "getsockopt", nargs: 5, body: getsockopt },
    HelperRow { id: 59, name: "sock_ops_cb_flags_set", nargs: 2, body: cb_flags_set },
    HelperRow { id: 64, name: "bind", nargs: 3, body: bind },
    HelperRow { id: 129, name: "sk_ancestor_cgroup_id", nargs: 2, body: ancestor_id },
    HelperRow { id: 128, name: "sk_cgroup_id", nargs: 1, body: cgroup_id },
    HelperRow { id: 137, name: "skc_to_tcp_sock", nargs: 1, body: to_tcp },
    HelperRow { id: 178, name: "skc_to_unix_sock", nargs: 1, body: to_unix },
];

/// Bytes of `struct bpf_sock_tuple` for IPv4 and IPv6.
const TUPLE_V4: u64 = 12;
const TUPLE_V6: u64 = 36;

/// The two ends that a tuple names: from, to.
fn ends(k: &Kernel, at: u64, len: u64) -> Result<Option<(SocketAddr, SocketAddr)>, Fault> {
    if len != TUPLE_V4 && len != TUPLE_V6 {
        return Ok(None);
    }
    let b = k.mem.read_vec(at, len as usize)?;
    let n = if len == TUPLE_V4 { 4 } else { 16 };
    let ip = |i: usize| -> IpAddr {
        match <[u8; 4]>::try_from(&b[i * n..(i + 1) * n]) {
            Ok(v4) => v4.into(),
            Err(_) => <[u8; 16]>::try_from(&b[i * n..(i + 1) * n]).expect("16 bytes").into(),
        }
    };
    let port = |i: usize| u16::from_be_bytes([b[2 * n + 2 * i], b[2 * n + 2 * i + 1]]);
    Ok(Some((SocketAddr::new(ip(0), port(0)), SocketAddr::new(ip(1), port(1)))))
}

fn lookup_tcp(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    lookup(k, cpu, args, Protocol::Tcp)
}

fn lookup_udp(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    lookup(k, cpu, args, Protocol::Udp)
}

/// `bpf_sk_lookup`: the network namespace is the only one, which has no number of its own.
fn lookup(
    k: &mut Kernel,
    cpu: CpuId,
    [ctx, tuple, len, netns, flags]: [u64; 5],
    protocol: Protocol,
) -> Ret {
    if flags != 0 || (netns as i32) >= 0 {
        return Ret::Val(0);
    }
    let ends = match ends(k, tuple, len & 0xffff_ffff) {
        Ok(Some(ends)) => ends,
        Ok(None) => return Ret::Val(0),
        Err(fault) => return Ret::Fault(fault),
    };
    let dev = arrived_at(k, cpu, ctx);
    let Some(sk) = k.net.sockets.lookup(protocol, ends, dev) else { return Ret::Val(0) };
    if k.net.sockets.is_counted(sk) {
        let count = field!("sock", "__sk_common.skc_refcnt");
        let now = k.get(sk, count);
        k.set(sk, count, now + 1);
        k.prog_holds(cpu, Kind::Sock, sk, "bpf_sk_lookup");
    }
    Ret::Val(sk)
}

/// Number of the device that a packet came through, 0 when it is none's.
fn arrived_at(k: &Kernel, cpu: CpuId, ctx: u64) -> u32 {
    let dev = match k.running_type(cpu) {
        Some(ProgType::Xdp) => {
            let rxq = k.get(ctx, field!("xdp_buff", "rxq"));
            k.get(rxq, field!("xdp_rxq_info", "dev"))
        }
        Some(ProgType::SchedCls | ProgType::SchedAct) => k.get(ctx, field!("sk_buff", "dev")),
        _ => 0,
    };
    if dev == 0 { 0 } else { k.get(dev, field!("net_device", "ifindex")) as u32 }
}

impl Kernel {
    /// `sock_gen_put` of a program's reference.
    pub(crate) fn sock_put(&mut self, sk: u64) {
        if self.net.sockets.is_counted(sk) {
            let count = field!("sock", "__sk_common.skc_refcnt");
            let now = self.get(sk, count);
            self.set(sk, count, now.saturating_sub(1));
            self.ledger.release(Kind::Sock, sk);
        }
    }
}

fn release(k: &mut Kernel, _: CpuId, [sk, ..]: [u64; 5]) -> Ret {
    k.sock_put(sk);
    Ret::Val(0)
}

/// The model's sockets are whole ones: no requests, no time-wait.
fn same(_: &mut Kernel, _: CpuId, [sk, ..]: [u64; 5]) -> Ret {
    Ret::Val(sk)
}

fn tcp_sock(k: &mut Kernel, _: CpuId, [sk, ..]: [u64; 5]) -> Ret {
    // IPPROTO_TCP
    Ret::Val(if k.get(sk, field!("sock", "sk_protocol")) == 6 { sk } else { 0 })
}

fn listener(k: &mut Kernel, _: CpuId, [sk, ..]: [u64; 5]) -> Ret {
    let listens = k.get(sk, field!("sock", "__sk_common.skc_state")) == LISTEN;
    Ret::Val(if listens { sk } else { 0 })
}

fn cgroup_id(k: &mut Kernel, _: CpuId, [sk, ..]: [u64; 5]) -> Ret {
    Ret::Val(if sk == 0 { 0 } else { k.sock_cgroup_id(sk) })
}

fn ancestor_id(k: &mut Kernel, _: CpuId, [sk, level, ..]: [u64; 5]) -> Ret {
    Ret::Val(if sk == 0 { 0 } else { k.sock_ancestor_id(sk, level as i32) })
}

/// `SOL_SOCKET`, `SOL_IP`, `SOL_TCP`, and the first option of TCP that only programs have.
const SOL_SOCKET: u32 = 1;
const SOL_IP: u32 = 0;
const SOL_TCP: u32 = 6;
const BPF_OPTIONS: u32 = 1001;
/// What `sol_socket_sockopt` and `sol_tcp_sockopt` let through.
const SOCKET_OPTIONS: &[u32] = &[2, 7, 8, 9, 12, 18, 25, 36, 47, 62, 74, 1009];
const TCP_OPTIONS: &[u32] = &[1, 2, 4, 5, 6, 7, 10, 13, 16, 18, 25, 27, 28];

/// The socket of a program that may set its options.
fn sk_of(k: &Kernel, cpu: CpuId, arg: u64) -> u64 {
    match k.running_type(cpu) {
        Some(ProgType::CgroupSockAddr) => k.get(arg, field!("bpf_sock_addr_kern", "sk")),
        Some(ProgType::SockOps) => k.get(arg, field!("bpf_sock_ops_kern", "sk")),
        _ => arg,
    }
}

/// `__bpf_setsockopt` and `__bpf_getsockopt`, what both check.
fn option_exists((level, name): (u32, u32), tcp: bool) -> Result<(), Errno> {
    let known = match level {
        SOL_SOCKET => SOCKET_OPTIONS.contains(&name),
        SOL_IP => name == 1,
        SOL_TCP => tcp && (TCP_OPTIONS.contains(&name) || name >= BPF_OPTIONS),
        // IPV6_TCLASS, IPV6_AUTOFLOWLABEL
        41 => matches!(name, 67 | 70),
        _ => false,
    };
    if known { Ok(()) } else { Err(Errno::EINVAL) }
}

/// `bpf_sock_ops_cb_flags_set`: what it does not know comes back.
fn cb_flags_set(k: &mut Kernel, _: CpuId, [ctx, flags, ..]: [u64; 5]) -> Ret {
    let (sk, all) = (k.get(ctx, field!("bpf_sock_ops_kern", "sk")), CB_FLAGS as u64);
    if !k.sk_fullsock(sk) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    k.set(sk, field!("tcp_sock", "bpf_sock_ops_cb_flags"), flags & all);
    Ret::Val(flags & 0xffff_ffff & !all)
}

fn option_fault(e: OptError, (level, name): (u32, u32)) -> Ret {
    match e {
        OptError::Errno(e) => Ret::Val(e.ret()),
        OptError::Unknown => {
            Ret::Fault(Fault::unsupported(format!("socket option {name} of level {level}")))
        }
    }
}

fn setsockopt(k: &mut Kernel, cpu: CpuId, [at, level, name, buf, len]: [u64; 5]) -> Ret {
    let (sk, which) = (sk_of(k, cpu, at), (level as u32, name as u32));
    if !k.sk_fullsock(sk) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let tcp = k.get(sk, field!("sock", "sk_protocol")) == 6;
    if let Err(e) = option_exists(which, tcp) {
        return Ret::Val(e.ret());
    }
    let text = matches!(which, (SOL_SOCKET, 25) | (SOL_TCP, 13));
    if len as u32 != 4 && !text {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let value = match k.mem.read_u32(buf) {
        Ok(v) => v.cast_signed(),
        Err(fault) => return Ret::Fault(fault.into()),
    };
    let done = match which {
        (SOL_TCP, n) if n >= BPF_OPTIONS => k.sockopt_set_bpf(sk, n, value),
        _ => k.sockopt_set(sk, which, value),
    };
    done.map_or_else(|e| option_fault(e, which), |()| Ret::Val(0))
}

fn getsockopt(k: &mut Kernel, cpu: CpuId, [at, level, name, buf, len]: [u64; 5]) -> Ret {
    let (sk, which) = (sk_of(k, cpu, at), (level as u32, name as u32));
    let ops = k.running_type(cpu) == Some(ProgType::SockOps);
    match which {
        (SOL_TCP, TCP_BPF_SYN..=TCP_BPF_SYN_MAC) if ops => {
            let syn = k.tcp_get_syn(at, which.1);
            return hdr_opt::put(k, syn, (buf, len));
        }
        TCP_SAVED_SYN if k.sk_fullsock(sk) => {
            return saved_syn(k, sk, (buf, len as u32));
        }
        _ => {}
    }
    let tcp = k.get(sk, field!("sock", "sk_protocol")) == 6;
    let length = if len as u32 == 4 { Ok(()) } else { Err(Errno::EINVAL) };
    let whole = if k.sk_fullsock(sk) { Ok(()) } else { Err(Errno::EINVAL) };
    let checked = whole.and(option_exists(which, tcp)).and(length);
    let found = match checked {
        Ok(()) => k.sockopt_get(sk, which),
        Err(e) => Err(OptError::Errno(e)),
    };
    let (value, ret) = match found {
        Ok(v) => (v.cast_unsigned(), Ret::Val(0)),
        Err(e) => (0, option_fault(e, which)),
    };
    let clear = k.mem.fill(buf, len as u32 as usize, 0);
    let write = clear.and_then(|()| match len as u32 {
        4 => k.mem.write_uint(buf, 4, value.into()),
        _ => Ok(()),
    });
    write.map_or_else(|fault| Ret::Fault(fault.into()), |()| ret)
}

/// `sol_tcp_sockopt` of `TCP_SAVED_SYN`: the beginning of the SYN, which stays.
fn saved_syn(k: &mut Kernel, sk: u64, (buf, len): (u64, u32)) -> Ret {
    let syn = k.tcp_saved_syn(sk).and_then(|s| s.bytes().get(..len as usize)).map(<[u8]>::to_vec);
    let ret = if syn.is_some() { 0 } else { Errno::EINVAL.ret() };
    let bytes = syn.unwrap_or_else(|| vec![0; len as usize]);
    k.mem.write(buf, &bytes).map_or_else(|fault| Ret::Fault(fault.into()), |()| Ret::Val(ret))
}

/// `bpf_bind`, of the socket that is about to connect.
fn bind(k: &mut Kernel, _: CpuId, [ctx, addr, len, ..]: [u64; 5]) -> Ret {
    let sk = k.get(ctx, field!("bpf_sock_addr_kern", "sk"));
    let len = len & 0xffff_ffff;
    let bytes = match k.mem.read_vec(addr, len.min(28) as usize) {
        Ok(bytes) => bytes,
        Err(fault) => return Ret::Fault(fault.into()),
    };
    k.sock_bind_bytes(sk, &bytes).map(|()| 0).into()
}

fn to_unix(k: &mut Kernel, _: CpuId, [sk, ..]: [u64; 5]) -> Ret {
    Ret::Val(if sk != 0 && k.sock_is_unix(sk) { sk } else { 0 })
}

fn to_tcp(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    if args[0] == 0 { Ret::Val(0) } else { tcp_sock(k, cpu, args) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::SocketConfig;
    use crate::{Config, Frame, ProgId};
    use bpf::Arch;

    const AT: u64 = crate::layout::DIRECT_MAP + 0x20_0000;

    #[test]
    fn the_connected_socket_comes_before_the_listener_and_is_counted() {
        for arch in [Arch::X86_64, Arch::S390x] {
            let mut k = Kernel::new(Config { arch, ..Config::default() });
            let at = |s: &str| s.parse::<SocketAddr>().unwrap();
            let tcp = |local, remote| SocketConfig {
                protocol: Protocol::Tcp,
                local: at(local),
                remote,
                dev: 0,
                mark: 0,
            };
            let all = k.socket_add(tcp("0.0.0.0:80", None)).unwrap();
            let one = k.socket_add(tcp("10.0.0.1:80", None)).unwrap();
            let peer = Some(at("10.0.0.9:4000"));
            let connected = k.socket_add(tcp("10.0.0.1:80", peer)).unwrap();
            k.submit(CpuId(0), Frame::Hook { prog: ProgId(7), ctx: 0, cookie: 0, free: 0 });
            let _ = k.next(CpuId(0));
            let ask = |k: &mut Kernel, from: [u8; 4], port: u16, to: [u8; 4]| {
                let ports = [port.to_be_bytes(), 80u16.to_be_bytes()].concat();
                k.mem.write(AT, &[&from[..], &to, &ports].concat()).unwrap();
                let netns = u64::from(u32::MAX);
                let Ret::Val(sk) = lookup(k, CpuId(0), [0, AT, 12, netns, 0], Protocol::Tcp) else {
                    panic!()
                };
                sk
            };
            let me = [10, 0, 0, 1];
            assert_eq!(ask(&mut k, [10, 0, 0, 9], 4000, me), connected);
            assert_eq!(ask(&mut k, [10, 0, 0, 9], 4001, me), one);
            assert_eq!(ask(&mut k, [10, 0, 0, 9], 4000, [10, 0, 0, 7]), all);
            assert!(k.ledger.holds(Kind::Sock, connected) && !k.ledger.holds(Kind::Sock, one));
            let _ = release(&mut k, CpuId(0), [connected, 0, 0, 0, 0]);
            assert!(!k.ledger.holds(Kind::Sock, connected));
            assert_eq!(k.get(connected, field!("sock", "__sk_common.skc_refcnt")), 1);
        }
    }
}
