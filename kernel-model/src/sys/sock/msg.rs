//! Sending and receiving (`udp_sendmsg`, `udp_recvmsg`).

use std::net::{IpAddr, SocketAddr};

use bpf::uapi::AttachType;

use super::super::{Act, Do, SysFrame};
use super::{AF_INET, AF_INET6, ESTABLISHED, Ret, SOCK_DGRAM, SOCK_SEQPACKET, unix};
use crate::cpu::{CpuId, Frame};
use crate::net::{Protocol, UdpPacket, Way};
use crate::{Errno, Kernel, field};

/// `MSG_DONTWAIT`.
pub(super) const DONTWAIT: u64 = 0x40;
/// Payload that an IPv4 datagram has room for.
const UDP_MAX: usize = 65507;

/// `__sys_sendto`, to an address or to where the socket is connected.
pub(in super::super) fn sendto(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    k.user_read(f.arg(1), (f.arg(2) as usize).min(1 << 16)).ok_or(Errno::EFAULT)?;
    let kind = k.get(sk, field!("sock", "sk_type"));
    let (name, send): (_, Act) = match (k.sock_is_unix(sk), kind, k.sock_is_v6(sk)) {
        (true, SOCK_DGRAM, _) => ("unix_dgram_sendmsg", unix::dgram_sendmsg),
        (true, SOCK_SEQPACKET, _) => ("unix_seqpacket_sendmsg", unix::seqpacket_sendmsg),
        (true, ..) => ("unix_stream_sendmsg", unix::stream_sendmsg),
        (false, SOCK_DGRAM, false) => ("udp_sendmsg", udp_sendmsg),
        (false, SOCK_DGRAM, true) => ("udpv6_sendmsg", udp_sendmsg),
        (false, ..) => ("tcp_sendmsg", super::stream::sendmsg),
    };
    let of = if k.sock_is_unix(sk) { sock } else { sk };
    let kern = match f.arg(4) {
        0 => k.sock_addr_new(sk, 0)?,
        at => k.sock_addr(sk, at, f.arg(5))?,
    };
    f.todo.push_back(Do::Free(kern));
    f.object = kern;
    f.first([
        Do::Enter("security_socket_sendmsg", vec![sock, 0, f.arg(2)]),
        Do::Lsm("bpf_lsm_socket_sendmsg", vec![sock, 0, f.arg(2)]),
        Do::Exit,
        Do::Act(send_prepare),
        Do::Enter(name, vec![of, 0, f.arg(2)]),
        Do::Act(send),
        Do::Exit,
    ]);
    Ok(0)
}

/// `inet_send_prepare`.
fn send_prepare(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = k.get(f.object, field!("bpf_sock_addr_kern", "sk"));
    if k.sock_protocol(sk) == Protocol::Udp && !k.sock_is_unix(sk) {
        k.sock_autobind(sk)?;
    }
    Ok(0)
}

fn udp_sendmsg(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let kern = f.object;
    let sk = k.get(kern, field!("bpf_sock_addr_kern", "sk"));
    if f.arg(2) as usize > UDP_MAX {
        return Err(Errno::EMSGSIZE);
    }
    if f.arg(4) == 0 {
        let remote = k.sock_remote(sk).filter(|_| k.sock_state(sk) == ESTABLISHED);
        let remote = remote.ok_or(Errno::EDESTADDRREQ)?;
        k.sock_addr_put(kern, remote);
        f.first([Do::Call(udp_send), Do::Act(sent)]);
        return Ok(0);
    }
    let v6 = k.sock_is_v6(sk);
    let (family, least) = if v6 { (AF_INET6, 24) } else { (AF_INET, 16) };
    if k.get(kern, field!("bpf_sock_addr_kern", "uaddrlen")) < least {
        return Err(Errno::EINVAL);
    }
    if k.get(kern, field!("bpf_sock_addr_kern", "__addr.sin6_family")) != family {
        return Err(if v6 { Errno::EINVAL } else { Errno::EAFNOSUPPORT });
    }
    if k.sock_addr_to(kern).port() == 0 {
        return Err(Errno::EINVAL);
    }
    let source = k.get(kern, field!("bpf_sock_addr_kern", "t_ctx"));
    let own = match k.sock_local(sk).ip() {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    k.mem.write(source, &own).expect("a new object is mapped");
    f.first([
        k.cgroup_addr_call((AttachType::CgroupUdp4Sendmsg, AttachType::CgroupUdp6Sendmsg), kern),
        Do::Call(udp_send),
        Do::Act(sent),
    ]);
    Ok(0)
}

/// `ip_route_output_flow`, `ip_make_skb`, `udp_send_skb`.
fn udp_send(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Result<Option<Frame>, Errno> {
    let kern = f.object;
    let sk = k.get(kern, field!("bpf_sock_addr_kern", "sk"));
    let to = k.sock_addr_to(kern);
    if to.port() == 0 {
        // A program set an invalid port.
        return Err(Errno::EINVAL);
    }
    let dev = k.get(sk, field!("sock", "__sk_common.skc_bound_dev_if")) as u32;
    let (way, source) = k.route_out(to.ip(), dev)?;
    let to = match (way, to.ip().is_unspecified()) {
        (Way::Local, true) => SocketAddr::new(super::loopback(to.ip()), to.port()),
        _ => to,
    };
    let own = k.sock_local(sk);
    let said = k.sock_addr_source(kern, to.is_ipv6());
    let from = [said, own.ip()].into_iter().find(|ip| !ip.is_unspecified()).unwrap_or(source);
    let payload = k.user_read(f.arg(1), f.arg(2) as usize).ok_or(Errno::EFAULT)?;
    if let Way::Nic(ifindex, _) = way {
        let mtu = k.net.nics.get(&ifindex).map_or(0, |n| n.config.mtu as usize);
        let header = if to.is_ipv4() { 28 } else { 48 };
        if payload.len() + header > mtu {
            return Err(k.sys_unsupported(cpu, "fragments of IP packets of tasks"));
        }
    }
    let tos = k.get(sk, field!("inet_sock", "tos")) as u8;
    let packet = UdpPacket { from: SocketAddr::new(from, own.port()), to, tos, payload };
    let frame = k.udp_output(sk, &packet, way)?;
    f.then = Some(udp_send_over);
    Ok(Some(frame))
}

/// A packet that a queue would not take is no error of a socket without `IP_RECVERR`.
fn udp_send_over(_: &mut Kernel, _: CpuId, _: &mut SysFrame, ret: u64) -> Ret {
    match Errno::from_raw((ret as u32 as i32).wrapping_neg()) {
        None | Some(Errno::ENOBUFS) => Ok(0),
        Some(e) => Err(e),
    }
}

fn sent(_: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    Ok(f.arg(2))
}

/// `__sys_recvfrom`.
pub(in super::super) fn recvfrom(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    if k.sock_protocol(sk) == Protocol::Tcp {
        f.first([
            Do::Lsm("bpf_lsm_socket_recvmsg", vec![sock, 0, f.arg(2), f.arg(3)]),
            Do::Enter("tcp_recvmsg", vec![sk, 0, f.arg(2), f.arg(3), 0]),
            Do::Act(super::stream::recvmsg),
            Do::Exit,
        ]);
        return Ok(0);
    }
    f.object = k.sock_addr_new(sk, 0)?;
    f.todo.push_back(Do::Free(f.object));
    let kind = k.get(sk, field!("sock", "sk_type"));
    let (name, receive): (_, Act) = match (k.sock_is_unix(sk), kind, k.sock_is_v6(sk)) {
        (true, SOCK_DGRAM, _) => ("unix_dgram_recvmsg", unix::dgram_recvmsg),
        (true, SOCK_SEQPACKET, _) => ("unix_seqpacket_recvmsg", unix::seqpacket_recvmsg),
        (true, ..) => ("unix_stream_recvmsg", unix::stream_recvmsg),
        (false, _, true) => ("udpv6_recvmsg", udp_recvmsg),
        (false, _, false) => ("udp_recvmsg", udp_recvmsg),
    };
    let args = match k.sock_is_unix(sk) {
        true => vec![sock, 0, f.arg(2), f.arg(3)],
        false => vec![sk, 0, f.arg(2), f.arg(3), 0],
    };
    f.first([
        Do::Lsm("bpf_lsm_socket_recvmsg", vec![sock, 0, f.arg(2), f.arg(3)]),
        Do::Enter(name, args),
        Do::Act(receive),
        Do::Exit,
        Do::Act(recv_name),
    ]);
    Ok(0)
}

fn udp_recvmsg(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let kern = f.object;
    let sk = k.get(kern, field!("bpf_sock_addr_kern", "sk"));
    let Some(datagram) = k.net.sockets.receive(sk) else {
        if f.arg(3) & DONTWAIT != 0 {
            return Err(Errno::EAGAIN);
        }
        return super::wait(k, f, sk, udp_recvmsg);
    };
    let len = datagram.payload.len().min(f.arg(2) as usize);
    k.user_write(f.arg(1), &datagram.payload[..len])?;
    if f.arg(4) != 0 {
        k.sock_addr_put(kern, datagram.from);
        let which = (AttachType::CgroupUdp4Recvmsg, AttachType::CgroupUdp6Recvmsg);
        let Do::Cgroup(mut call) = k.cgroup_addr_call(which, kern) else { return Ok(0) };
        // They cannot refuse, and the length stays what is returned.
        call.then = Some(|_, _, f, _| Ok(f.ret));
        f.first([Do::Cgroup(call)]);
    }
    Ok(len as u64)
}

fn recv_name(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    if f.arg(4) != 0 {
        k.sock_addr_out(f.object, f.arg(4), f.arg(5))?;
    }
    Ok(f.ret)
}
