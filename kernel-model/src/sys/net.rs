//! Sockets of tasks: created, connected, sent on (net/socket.c, net/ipv4/af_inet.c). What reaches
//! another end is a socket of the machine; packets are not made of it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use bpf::uapi::AttachType;

use super::{Do, SysFrame};
use crate::cpu::CpuId;
use crate::net::Protocol;
use crate::{Errno, Kernel, field};

type Ret = Result<u64, Errno>;

const AF_INET: u64 = 2;
const SOCK_STREAM: u64 = 1;
const SOCK_DGRAM: u64 = 2;
/// `SOCK_CLOEXEC`, `SOCK_NONBLOCK`.
const SOCK_FLAGS: u64 = 0o2_000_000 | 0o4000;
/// `sizeof(struct sockaddr_in)`.
const SOCKADDR_IN: usize = 16;
const IPPROTO_TCP: u64 = 6;
const IPPROTO_UDP: u64 = 17;

/// `__sys_socket`, `sock_create` and `inet_create`, whose programs see the new `struct sock`.
pub(super) fn socket(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (family, kind) = (f.arg(0), f.arg(1) & !SOCK_FLAGS);
    if family != AF_INET {
        return Err(Errno::EAFNOSUPPORT);
    }
    let (name, protocol) = match kind {
        SOCK_STREAM => ("tcp_sock", IPPROTO_TCP),
        SOCK_DGRAM => ("udp_sock", IPPROTO_UDP),
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    if f.arg(2) != 0 && f.arg(2) != protocol {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let sk = k.kzalloc(crate::types::size(name), "sock")?;
    let sock = k.kzalloc(crate::types::size("socket"), "socket")?;
    for (at, field, value) in [
        (sk, field!("sock", "__sk_common.skc_family"), family),
        (sk, field!("sock", "__sk_common.skc_state"), 7),
        (sk, field!("sock", "__sk_common.skc_refcnt"), 1),
        (sk, field!("sock", "sk_type"), kind),
        (sk, field!("sock", "sk_protocol"), protocol),
        (sk, field!("sock", "sk_socket"), sock),
        (sock, field!("socket", "type"), kind),
        (sock, field!("socket", "sk"), sk),
    ] {
        k.set(at, field, value);
    }
    f.object = sock;
    f.first([
        Do::Enter("security_socket_create", vec![family, kind, protocol, 0]),
        Do::Lsm("bpf_lsm_socket_create", vec![family, kind, protocol, 0]),
        Do::Exit,
        Do::Cgroup(AttachType::CgroupInetSockCreate, sk),
        Do::Act(socket_open),
    ]);
    Ok(0)
}

fn socket_open(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let file = k.kzalloc(crate::types::size("file"), "file")?;
    k.vfs.sockets.insert(file, f.object);
    Ok(k.fd_open(f.task, file))
}

impl Kernel {
    /// `sockfd_lookup`.
    fn fd_socket(&mut self, f: &SysFrame) -> Result<u64, Errno> {
        let file = self.fd_file(f.task, f.arg(0))?;
        self.vfs.sockets.get(&file).copied().ok_or(Errno::ENOTSOCK)
    }

    /// `move_addr_to_kernel` into a `bpf_sock_addr_kern`, which is what programs see of it.
    fn sock_addr(&mut self, sk: u64, at: u64, len: u64) -> Result<u64, Errno> {
        let bytes = self.user_read(at, SOCKADDR_IN).ok_or(Errno::EFAULT)?;
        if (len as usize) < SOCKADDR_IN {
            return Err(Errno::EINVAL);
        }
        let kern = self.kzalloc(crate::types::size("bpf_sock_addr_kern"), "sockaddr")?;
        let addr = field!("bpf_sock_addr_kern", "__addr");
        let here = kern + u64::from(addr.off);
        self.mem.write(here, &bytes).map_err(|_| Errno::EFAULT)?;
        self.set(kern, field!("bpf_sock_addr_kern", "sk"), sk);
        self.set(kern, field!("bpf_sock_addr_kern", "uaddr"), here);
        self.set(kern, field!("bpf_sock_addr_kern", "uaddrlen"), len);
        if self.get(here, field!("sockaddr_in", "sin_family")) != AF_INET {
            self.kfree(kern, "sockaddr");
            return Err(Errno::EAFNOSUPPORT);
        }
        Ok(kern)
    }

    /// Where an address leads, as programs may have changed it.
    fn sock_addr_to(&self, kern: u64) -> SocketAddr {
        let at = self.get(kern, field!("bpf_sock_addr_kern", "uaddr"));
        let ip = at + u64::from(field!("sockaddr_in", "sin_addr").off);
        let bytes = self.mem.read_vec(ip, 4).unwrap_or_default();
        let port = self.be16(self.get(at, field!("sockaddr_in", "sin_port")) as u16);
        let ip: [u8; 4] = bytes.try_into().unwrap_or_default();
        SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port as u16)
    }

    /// Whether a socket of the machine takes what is sent there.
    fn sock_listens(&self, protocol: Protocol, to: SocketAddr) -> bool {
        let from = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        self.net.sockets.lookup(protocol, (from, to), 0).is_some()
    }

    fn sock_protocol(&self, sk: u64) -> Protocol {
        match self.get(sk, field!("sock", "sk_protocol")) {
            IPPROTO_TCP => Protocol::Tcp,
            _ => Protocol::Udp,
        }
    }
}

/// `__sys_connect`: the hook, then the programs of the group, then the protocol.
pub(super) fn connect(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sock = k.fd_socket(f)?;
    let sk = k.get(sock, field!("socket", "sk"));
    let kern = k.sock_addr(sk, f.arg(1), f.arg(2))?;
    f.todo.push_back(Do::Free(kern));
    let uaddr = k.get(kern, field!("bpf_sock_addr_kern", "uaddr"));
    f.object = kern;
    let own = match k.sock_protocol(sk) {
        Protocol::Tcp => "tcp_v4_connect",
        Protocol::Udp => "__ip4_datagram_connect",
    };
    f.first([
        Do::Enter("__sys_connect", f.args[..3].to_vec()),
        Do::Enter("security_socket_connect", vec![sock, uaddr, f.arg(2)]),
        Do::Lsm("bpf_lsm_socket_connect", vec![sock, uaddr, f.arg(2)]),
        Do::Exit,
        Do::Cgroup(AttachType::CgroupInet4Connect, kern),
        Do::Enter(own, vec![sk, uaddr, f.arg(2)]),
        Do::Act(connect_to),
        Do::Exit,
        Do::Exit,
    ]);
    Ok(0)
}

fn connect_to(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = k.get(f.object, field!("bpf_sock_addr_kern", "sk"));
    let (to, protocol) = (k.sock_addr_to(f.object), k.sock_protocol(sk));
    if protocol == Protocol::Tcp && !k.sock_listens(protocol, to) {
        return Err(Errno::ECONNREFUSED);
    }
    let IpAddr::V4(ip) = to.ip() else { return Err(Errno::EAFNOSUPPORT) };
    k.set_bytes(sk, field!("sock", "__sk_common.skc_daddr"), &ip.octets());
    let port = k.be16(to.port());
    k.set(sk, field!("sock", "__sk_common.skc_dport"), port);
    // TCP_ESTABLISHED
    k.set(sk, field!("sock", "__sk_common.skc_state"), 1);
    Ok(0)
}

/// `__sys_sendto` of a datagram, to an address or to where the socket is connected.
pub(super) fn sendto(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sock = k.fd_socket(f)?;
    let sk = k.get(sock, field!("socket", "sk"));
    let connected = k.get(sk, field!("sock", "__sk_common.skc_state")) == 1;
    k.user_read(f.arg(1), (f.arg(2) as usize).min(1 << 16)).ok_or(Errno::EFAULT)?;
    let name = match k.sock_protocol(sk) {
        Protocol::Tcp => "tcp_sendmsg",
        Protocol::Udp => "udp_sendmsg",
    };
    f.object = 0;
    let mut steps = vec![
        Do::Enter("security_socket_sendmsg", vec![sock, 0, f.arg(2)]),
        Do::Lsm("bpf_lsm_socket_sendmsg", vec![sock, 0, f.arg(2)]),
        Do::Exit,
        Do::Enter(name, vec![sk, 0, f.arg(2)]),
    ];
    if f.arg(4) != 0 && k.sock_protocol(sk) == Protocol::Udp {
        let kern = k.sock_addr(sk, f.arg(4), f.arg(5))?;
        f.todo.push_back(Do::Free(kern));
        steps.push(Do::Cgroup(AttachType::CgroupUdp4Sendmsg, kern));
    } else if !connected {
        return Err(if name == "tcp_sendmsg" { Errno::EPIPE } else { Errno::EDESTADDRREQ });
    }
    steps.extend([Do::Act(sent), Do::Exit]);
    f.first(steps);
    Ok(0)
}

fn sent(_: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    Ok(f.arg(2))
}
