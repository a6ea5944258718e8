//! Addresses of sockets: bind, connect, listen, and names (`__inet_bind`, `inet_getname`,
//! `__cgroup_bpf_run_filter_sock_addr`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bpf::uapi::AttachType;

use super::super::{CgroupCall, Do, SysFrame};
use super::{AF_INET, AF_INET6, CLOSE, ESTABLISHED, LISTEN, Ret, SS_CONNECTED, unix};
use crate::cgroup::{Atype, Hook};
use crate::cpu::CpuId;
use crate::net::{Protocol, SocketConfig};
use crate::{Errno, Kernel, field};

/// `sizeof(struct sockaddr_in)`, `sizeof(struct sockaddr_in6)`, `SIN6_LEN_RFC2133`.
const SOCKADDR_IN: u64 = 16;
const SOCKADDR_IN6: u64 = 28;
const SIN6_MIN: u64 = 24;
/// `sizeof(struct sockaddr_storage)`.
const STORAGE: u64 = 128;
/// `net.ipv4.ip_local_port_range`.
const PORTS: std::ops::RangeInclusive<u16> = 32768..=60999;

impl Kernel {
    /// `move_addr_to_kernel` into a `bpf_sock_addr_kern`, which is what programs see of it.
    pub(super) fn sock_addr(&mut self, sk: u64, at: u64, len: u64) -> Result<u64, Errno> {
        let len = len & 0xffff_ffff;
        if len > STORAGE {
            return Err(Errno::EINVAL);
        }
        let most = if self.sock_is_unix(sk) { STORAGE } else { SOCKADDR_IN6 };
        let bytes = self.user_read(at, len.min(most) as usize).ok_or(Errno::EFAULT)?;
        let kern = self.sock_addr_new(sk, len)?;
        let here = self.get(kern, field!("bpf_sock_addr_kern", "uaddr"));
        self.mem.write(here, &bytes).expect("an address is mapped");
        Ok(kern)
    }

    /// The same, of no address.
    pub(super) fn sock_addr_new(&mut self, sk: u64, len: u64) -> Result<u64, Errno> {
        let at = field!("bpf_sock_addr_kern", "__addr").off;
        // One of AF_UNIX is longer than what the model has for others.
        let size = match self.sock_is_unix(sk) {
            true => u64::from(at) + STORAGE,
            false => crate::size!("bpf_sock_addr_kern"),
        };
        let kern = self.kzalloc(size, "sockaddr")?;
        let here = kern + u64::from(at);
        let source = match self.sock_is_unix(sk) {
            true => 0,
            false => kern + u64::from(field!("bpf_sock_addr_kern", "__src").off),
        };
        self.set(kern, field!("bpf_sock_addr_kern", "sk"), sk);
        self.set(kern, field!("bpf_sock_addr_kern", "uaddr"), here);
        self.set(kern, field!("bpf_sock_addr_kern", "t_ctx"), source);
        self.set(kern, field!("bpf_sock_addr_kern", "uaddrlen"), len);
        Ok(kern)
    }

    /// The family of an address.
    fn sock_addr_family(&self, kern: u64) -> u64 {
        self.get(kern, field!("bpf_sock_addr_kern", "__addr.sin6_family"))
    }

    /// An address as programs may have changed it.
    pub(super) fn sock_addr_to(&self, kern: u64) -> SocketAddr {
        let v6 = self.sock_addr_family(kern) == AF_INET6;
        let field = match v6 {
            true => field!("bpf_sock_addr_kern", "__addr.sin6_addr"),
            false => field!("bpf_sock_addr_kern", "__addr.sin6_flowinfo"),
        };
        let at = kern + u64::from(field.off);
        let port = self.get(kern, field!("bpf_sock_addr_kern", "__addr.sin6_port"));
        SocketAddr::new(self.ip_at(at, v6), self.be16(port as u16) as u16)
    }

    /// Where datagrams come from, as programs of `sendmsg` may have said.
    pub(super) fn sock_addr_source(&self, kern: u64, v6: bool) -> IpAddr {
        self.ip_at(self.get(kern, field!("bpf_sock_addr_kern", "t_ctx")), v6)
    }

    fn ip_at(&self, at: u64, v6: bool) -> IpAddr {
        let bytes = self.mem.read_vec(at, if v6 { 16 } else { 4 }).unwrap_or_default();
        match <[u8; 4]>::try_from(&bytes[..]) {
            Ok(b) => IpAddr::from(b),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(&bytes[..]).unwrap_or_default()),
        }
    }

    /// Writes an address for programs and users.
    pub(super) fn sock_addr_put(&mut self, kern: u64, of: SocketAddr) {
        let family = if of.is_ipv4() { AF_INET } else { AF_INET6 };
        let port = self.be16(of.port());
        self.set(kern, field!("bpf_sock_addr_kern", "__addr.sin6_family"), family);
        self.set(kern, field!("bpf_sock_addr_kern", "__addr.sin6_port"), port);
        match of.ip() {
            IpAddr::V4(ip) => {
                let at = field!("bpf_sock_addr_kern", "__addr.sin6_flowinfo");
                self.set_bytes(kern, at, &ip.octets());
            }
            IpAddr::V6(ip) => {
                let at = field!("bpf_sock_addr_kern", "__addr.sin6_addr");
                self.set_bytes(kern, at, &ip.octets());
            }
        }
    }

    /// `move_addr_to_user`: as much of it as there is room for, and its whole length.
    pub(super) fn sock_addr_out(&mut self, kern: u64, at: u64, len_at: u64) -> Result<(), Errno> {
        let room = self.user_read(len_at, 4).ok_or(Errno::EFAULT)?;
        let room = crate::maps::index_of(self.mem.endian(), &room).cast_signed();
        let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
        let sk = self.get(kern, field!("bpf_sock_addr_kern", "sk"));
        let len = match self.sock_addr_family(kern) {
            _ if self.sock_is_unix(sk) => self.get(kern, field!("bpf_sock_addr_kern", "uaddrlen")),
            AF_INET6 => SOCKADDR_IN6,
            _ => SOCKADDR_IN,
        };
        let here = kern + u64::from(field!("bpf_sock_addr_kern", "__addr").off);
        let bytes = self.mem.read_vec(here, len as usize).map_err(|_| Errno::EFAULT)?;
        self.user_write(at, &bytes[..room.min(bytes.len())])?;
        let len = self.u32_bytes(len as u32);
        self.user_write(len_at, &len)
    }

    /// The programs for an address of a socket of its control group.
    pub(super) fn cgroup_addr_call(&self, (v4, v6): (AttachType, AttachType), kern: u64) -> Do {
        let sk = self.get(kern, field!("bpf_sock_addr_kern", "sk"));
        let attach = if self.sock_is_v6(sk) { v6 } else { v4 };
        Do::Cgroup(Box::new(CgroupCall {
            cgroup: self.sock_cgroup(sk),
            atype: Atype::Of(attach as u32),
            ctx: kern,
            retval: 0,
            hook: match attach {
                AttachType::CgroupInet4Bind | AttachType::CgroupInet6Bind => Hook::Flags,
                _ => Hook::Plain,
            },
            then: None,
        }))
    }

    pub(super) fn sock_any(&self, sk: u64) -> IpAddr {
        match self.sock_is_v6(sk) {
            true => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            false => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        }
    }

    /// The socket's own address and port.
    pub(crate) fn sock_local(&self, sk: u64) -> SocketAddr {
        let v6 = self.sock_is_v6(sk);
        let field = match v6 {
            true => field!("sock", "__sk_common.skc_v6_rcv_saddr"),
            false => field!("sock", "__sk_common.skc_rcv_saddr"),
        };
        let port = self.get(sk, field!("sock", "__sk_common.skc_num"));
        SocketAddr::new(self.ip_at(sk + u64::from(field.off), v6), port as u16)
    }

    /// The other end, when it has one.
    pub(crate) fn sock_remote(&self, sk: u64) -> Option<SocketAddr> {
        let v6 = self.sock_is_v6(sk);
        let field = match v6 {
            true => field!("sock", "__sk_common.skc_v6_daddr"),
            false => field!("sock", "__sk_common.skc_daddr"),
        };
        let port = self.get(sk, field!("sock", "__sk_common.skc_dport"));
        let to = SocketAddr::new(
            self.ip_at(sk + u64::from(field.off), v6),
            self.be16(port as u16) as u16,
        );
        (port != 0).then_some(to)
    }

    /// `get_port`: the port, or a free one for 0.
    fn sock_port(&self, sk: u64, at: SocketAddr) -> Result<u16, Errno> {
        let protocol = self.sock_protocol(sk);
        let free = |port| self.net.sockets.is_free(protocol, SocketAddr::new(at.ip(), port));
        match at.port() {
            0 => PORTS.into_iter().find(|p| free(*p)).ok_or(Errno::EADDRINUSE),
            port if free(port) => Ok(port),
            _ => Err(Errno::EADDRINUSE),
        }
    }

    /// The socket has these ends now.
    pub(super) fn sock_ends(&mut self, sk: u64, local: SocketAddr, remote: Option<SocketAddr>) {
        let port = self.be16(local.port());
        self.set(sk, field!("sock", "__sk_common.skc_num"), local.port().into());
        self.set(sk, field!("inet_sock", "inet_sport"), port);
        if let IpAddr::V4(ip) = local.ip() {
            self.set_bytes(sk, field!("inet_sock", "inet_saddr"), &ip.octets());
        }
        let remote_port = self.be16(remote.map_or(0, |r| r.port()));
        self.set(sk, field!("sock", "__sk_common.skc_dport"), remote_port);
        self.socket_addresses(sk, local.ip(), remote.map(|r| r.ip()));
        let protocol = self.sock_protocol(sk);
        let mark = self.get(sk, field!("sock", "sk_mark")) as u32;
        let dev = self.get(sk, field!("sock", "__sk_common.skc_bound_dev_if")) as u32;
        // A stream that does not listen is found by nobody.
        let found = match (protocol, remote) {
            (Protocol::Tcp, None) => self.sock_state(sk) == LISTEN,
            _ => local.port() != 0,
        };
        let config = SocketConfig { protocol, local, remote, dev, mark };
        self.net.sockets.bound(sk, config, found);
    }

    /// `__inet_bind`, `__inet6_bind` up to the programs for what is bound.
    pub(crate) fn inet_bind(&mut self, sk: u64, kern: u64) -> Result<(), Errno> {
        let (family, v6) = (self.sock_addr_family(kern), self.sock_is_v6(sk));
        let to = self.sock_addr_to(kern);
        // AF_UNSPEC with INADDR_ANY is taken for AF_INET.
        let unspec = !v6 && family == 0 && to.ip().is_unspecified();
        if !unspec && family != if v6 { AF_INET6 } else { AF_INET } {
            return Err(if v6 { Errno::EINVAL } else { Errno::EAFNOSUPPORT });
        }
        if !self.is_local(to.ip()) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if self.sock_state(sk) != CLOSE || self.sock_local(sk).port() != 0 {
            return Err(Errno::EINVAL);
        }
        let port = self.sock_port(sk, to)?;
        self.sock_ends(sk, SocketAddr::new(to.ip(), port), None);
        Ok(())
    }

    /// `bpf_bind`: without the programs for what is bound, and a port of 0 is left for later.
    pub(crate) fn sock_bind_bytes(&mut self, sk: u64, bytes: &[u8]) -> Result<(), Errno> {
        let kern = self.sock_addr_new(sk, bytes.len() as u64)?;
        self.set_bytes(kern, field!("bpf_sock_addr_kern", "__addr"), bytes);
        let family = self.sock_addr_family(kern);
        let least = if family == AF_INET6 { SIN6_MIN } else { SOCKADDR_IN };
        let done = match (bytes.len() as u64, family) {
            (0 | 1, _) => Err(Errno::EINVAL),
            (_, AF_INET | AF_INET6) if (bytes.len() as u64) < least => Err(Errno::EINVAL),
            (_, AF_INET | AF_INET6) => self.inet_bind(sk, kern),
            _ => Err(Errno::EAFNOSUPPORT),
        };
        self.kfree(kern, "sockaddr");
        done
    }

    /// `inet_autobind`: a port for a socket that has none.
    pub(super) fn sock_autobind(&mut self, sk: u64) -> Result<(), Errno> {
        let local = self.sock_local(sk);
        if local.port() != 0 {
            return Ok(());
        }
        let port = self.sock_port(sk, local).map_err(|_| Errno::EAGAIN)?;
        self.sock_ends(sk, SocketAddr::new(local.ip(), port), None);
        Ok(())
    }
}

/// `__sys_bind`.
pub(in super::super) fn bind(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    let kern = k.sock_addr(sk, f.arg(1), f.arg(2))?;
    f.todo.push_back(Do::Free(kern));
    f.object = kern;
    let uaddr = k.get(kern, field!("bpf_sock_addr_kern", "uaddr"));
    let len = f.arg(2);
    let protocol = match k.sock_is_unix(sk) {
        true => vec![Do::Act(unix::bind)],
        false => {
            let which = (AttachType::CgroupInet4Bind, AttachType::CgroupInet6Bind);
            vec![Do::Act(bind_check), k.cgroup_addr_call(which, kern), Do::Act(bind_to)]
        }
    };
    let security = [
        Do::Enter("security_socket_bind", vec![sock, uaddr, len]),
        Do::Lsm("bpf_lsm_socket_bind", vec![sock, uaddr, len]),
        Do::Exit,
    ];
    f.first(security.into_iter().chain(protocol).collect::<Vec<_>>());
    Ok(0)
}

fn bind_check(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = k.get(f.object, field!("bpf_sock_addr_kern", "sk"));
    let least = if k.sock_is_v6(sk) { SIN6_MIN } else { SOCKADDR_IN };
    let len = k.get(f.object, field!("bpf_sock_addr_kern", "uaddrlen"));
    if len < least { Err(Errno::EINVAL) } else { Ok(0) }
}

fn bind_to(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = k.get(f.object, field!("bpf_sock_addr_kern", "sk"));
    k.inet_bind(sk, f.object)?;
    let attach = match k.sock_is_v6(sk) {
        true => AttachType::CgroupInet6PostBind,
        false => AttachType::CgroupInet4PostBind,
    };
    let Do::Cgroup(mut call) = k.cgroup_sk(attach, sk) else { return Ok(0) };
    call.then = Some(bind_undo);
    f.first([Do::Cgroup(call)]);
    Ok(0)
}

/// What a program refuses after the fact: the port is given back.
fn bind_undo(k: &mut Kernel, _: CpuId, f: &mut SysFrame, ret: u64) -> Ret {
    if ret == 0 {
        return Ok(0);
    }
    let sk = k.get(f.object, field!("bpf_sock_addr_kern", "sk"));
    let none = SocketAddr::new(k.sock_any(sk), 0);
    k.sock_ends(sk, none, None);
    Err(Errno::from_raw(-(ret as u32 as i32)).unwrap_or(Errno::EPERM))
}

/// `__sys_listen`, `inet_csk_listen_start`.
pub(in super::super) fn listen(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    if k.sock_is_unix(sk) {
        return unix::listen(k, f, sk);
    }
    if k.sock_protocol(sk) != Protocol::Tcp {
        return Err(Errno::EOPNOTSUPP);
    }
    let free = k.get(sock, field!("socket", "state")) == super::SS_UNCONNECTED;
    if !free || !matches!(k.sock_state(sk), CLOSE | LISTEN) {
        return Err(Errno::EINVAL);
    }
    let backlog = f.arg(1).min(4096);
    k.set(sk, field!("sock", "sk_max_ack_backlog"), backlog);
    if k.sock_state(sk) != LISTEN {
        k.inet_sk_state_store(cpu, sk, LISTEN);
        f.first([Do::Call(super::stream::listening)]);
    }
    k.sock_autobind(sk)?;
    let local = k.sock_local(sk);
    k.sock_ends(sk, local, None);
    Ok(0)
}

/// `__sys_connect`: the hook, then the programs of the group, then the protocol.
pub(in super::super) fn connect(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    let kern = k.sock_addr(sk, f.arg(1), f.arg(2))?;
    f.todo.push_back(Do::Free(kern));
    let uaddr = k.get(kern, field!("bpf_sock_addr_kern", "uaddr"));
    f.object = kern;
    let security = [
        Do::Enter("__sys_connect", f.args[..3].to_vec()),
        Do::Enter("security_socket_connect", vec![sock, uaddr, f.arg(2)]),
        Do::Lsm("bpf_lsm_socket_connect", vec![sock, uaddr, f.arg(2)]),
        Do::Exit,
    ];
    let protocol = match k.sock_is_unix(sk) {
        true => unix::connecting(k, sk, vec![sock, uaddr, f.arg(2), 0]),
        false => connecting(k, (sk, kern), vec![sk, uaddr, f.arg(2)]),
    };
    f.first(security.into_iter().chain(protocol).chain([Do::Exit]).collect::<Vec<_>>());
    Ok(0)
}

/// A connection of IP from its programs on.
fn connecting(k: &Kernel, (sk, kern): (u64, u64), args: Vec<u64>) -> Vec<Do> {
    let own = match (k.sock_protocol(sk), k.sock_is_v6(sk)) {
        (Protocol::Tcp, false) => "tcp_v4_connect",
        (Protocol::Tcp, true) => "tcp_v6_connect",
        (Protocol::Udp, false) => "__ip4_datagram_connect",
        (Protocol::Udp, true) => "__ip6_datagram_connect",
    };
    let which = (AttachType::CgroupInet4Connect, AttachType::CgroupInet6Connect);
    vec![
        Do::Act(connect_check),
        k.cgroup_addr_call(which, kern),
        Do::Enter(own, args),
        Do::Act(connect_to),
        Do::Exit,
    ]
}

/// `__inet_stream_connect`, `inet_dgram_connect`, `tcp_v4_pre_connect` up to their programs.
fn connect_check(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = k.get(f.object, field!("bpf_sock_addr_kern", "sk"));
    let sock = k.get(sk, field!("sock", "sk_socket"));
    if k.get(sock, field!("socket", "state")) == SS_CONNECTED {
        return Err(Errno::EISCONN);
    }
    bind_check(k, CpuId(0), f)
}

fn connect_to(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    let sk = k.get(f.object, field!("bpf_sock_addr_kern", "sk"));
    let family = if k.sock_is_v6(sk) { AF_INET6 } else { AF_INET };
    if k.sock_addr_family(f.object) != family {
        return Err(Errno::EAFNOSUPPORT);
    }
    let (mut to, protocol) = (k.sock_addr_to(f.object), k.sock_protocol(sk));
    if to.ip().is_unspecified() {
        to.set_ip(super::loopback(to.ip()));
    }
    let own = k.sock_local(sk);
    let dev = k.get(sk, field!("sock", "__sk_common.skc_bound_dev_if")) as u32;
    let source = match own.ip().is_unspecified() {
        true => k.route_out(to.ip(), dev).map(|r| r.1),
        false => Ok(own.ip()),
    }?;
    k.sock_autobind(sk)?;
    let local = SocketAddr::new(source, k.sock_local(sk).port());
    k.sock_ends(sk, local, Some(to));
    if protocol == Protocol::Tcp {
        super::stream::connect(k, cpu, f, sk);
    } else {
        k.set(sk, field!("sock", "__sk_common.skc_state"), ESTABLISHED);
    }
    Ok(0)
}

pub(in super::super) fn getsockname(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    if k.sock_is_unix(sk) {
        return unix::naming(f, sock, false);
    }
    let local = k.sock_local(sk);
    let which = (AttachType::CgroupInet4Getsockname, AttachType::CgroupInet6Getsockname);
    let of = (sk, local, "bpf_lsm_socket_getsockname", sock);
    name_of(k, f, of, which)
}

pub(in super::super) fn getpeername(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    if k.sock_is_unix(sk) {
        return unix::naming(f, sock, true);
    }
    let remote = k.sock_remote(sk).filter(|_| k.sock_state(sk) != CLOSE);
    let remote = remote.ok_or(Errno::ENOTCONN)?;
    let which = (AttachType::CgroupInet4Getpeername, AttachType::CgroupInet6Getpeername);
    let of = (sk, remote, "bpf_lsm_socket_getpeername", sock);
    name_of(k, f, of, which)
}

/// `inet_getname` between its hook and the user's buffer.
fn name_of(
    k: &mut Kernel,
    f: &mut SysFrame,
    (sk, name, hook, sock): (u64, SocketAddr, &'static str, u64),
    which: (AttachType, AttachType),
) -> Ret {
    let len = if name.is_ipv4() { SOCKADDR_IN } else { SOCKADDR_IN6 };
    let kern = k.sock_addr_new(sk, len)?;
    k.sock_addr_put(kern, name);
    f.todo.push_back(Do::Free(kern));
    f.object = kern;
    f.first([Do::Lsm(hook, vec![sock]), k.cgroup_addr_call(which, kern), Do::Act(name_out)]);
    Ok(0)
}

pub(super) fn name_out(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    k.sock_addr_out(f.object, f.arg(1), f.arg(2)).map(|()| 0)
}
