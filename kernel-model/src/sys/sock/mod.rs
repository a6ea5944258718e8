//! Sockets of tasks: their calls up to the protocol (net/socket.c, net/ipv4/af_inet.c,
//! net/ipv6/af_inet6.c).

mod addr;
mod msg;
mod opt;
mod stream;
mod unix;

use bpf::uapi::AttachType;

use super::{Do, SysFrame};
use crate::cgroup::{Atype, Hook};
use crate::cpu::CpuId;
use crate::net::{AF_UNIX, Protocol, loopback};
use crate::sched::TaskId;
use crate::{Errno, EventKind, Fault, Kernel, field};

pub(super) use addr::{bind, connect, getpeername, getsockname, listen};
pub(super) use msg::{recvfrom, sendto};
pub(crate) use opt::{OptError, TCP_SAVED_SYN};
pub(super) use opt::{getsockopt, setsockopt};
pub(super) use stream::{accept4, shutdown};

type Ret = Result<u64, Errno>;

const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const SOCK_STREAM: u64 = 1;
pub(crate) const SOCK_DGRAM: u64 = 2;
const SOCK_SEQPACKET: u64 = 5;
/// `SOCK_CLOEXEC`, `SOCK_NONBLOCK`.
const SOCK_FLAGS: u64 = 0o2_000_000 | O_NONBLOCK;
const O_NONBLOCK: u64 = 0o4000;
const IPPROTO_TCP: u64 = 6;
const IPPROTO_UDP: u64 = 17;
/// `TCP_ESTABLISHED`, `TCP_CLOSE`, `TCP_LISTEN`.
const ESTABLISHED: u64 = 1;
const CLOSE: u64 = 7;
const LISTEN: u64 = 10;
/// `SS_UNCONNECTED`, `SS_CONNECTED` of `struct socket`.
const SS_UNCONNECTED: u64 = 1;
const SS_CONNECTED: u64 = 3;
/// `sysctl_rmem_default`, `tcp_rmem[1]`, `tcp_wmem[1]`.
const RMEM_DEFAULT: u64 = 212_992;
const TCP_RMEM: u64 = 131_072;
const TCP_WMEM: u64 = 16_384;
/// `sysctl_max_dgram_qlen`.
const UNIX_QUEUE: u64 = 10;
/// `TCP_INFINITE_SSTHRESH`.
const SSTHRESH: u64 = 0x7fff_ffff;
/// `TCP_TIMEOUT_INIT` in milliseconds.
const TIMEOUT_INIT: u64 = 1000;

/// `__sys_socket`, `sock_create` and `inet_create`, whose programs see the new `struct sock`.
pub(super) fn socket(_: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (family, kind) = (f.arg(0), f.arg(1) & !SOCK_FLAGS);
    if !matches!(family, AF_UNIX | AF_INET | AF_INET6) {
        return Err(Errno::EAFNOSUPPORT);
    }
    let protocol = match (family, kind) {
        (AF_UNIX, SOCK_STREAM | SOCK_DGRAM | SOCK_SEQPACKET) => AF_UNIX,
        (_, SOCK_STREAM) => IPPROTO_TCP,
        (_, SOCK_DGRAM) => IPPROTO_UDP,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    if f.arg(2) != 0 && f.arg(2) != protocol {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let protocol = if family == AF_UNIX { f.arg(2) } else { protocol };
    f.first([
        Do::Enter("security_socket_create", vec![family, kind, protocol, 0]),
        Do::Lsm("bpf_lsm_socket_create", vec![family, kind, protocol, 0]),
        Do::Exit,
        Do::Act(socket_create),
        Do::Act(socket_open),
    ]);
    Ok(0)
}

/// `inet_create`, `unix_create`.
fn socket_create(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (family, kind) = (f.arg(0), f.arg(1) & !SOCK_FLAGS);
    let unix = family == AF_UNIX;
    let tcp = kind == SOCK_STREAM && !unix;
    let (name, protocol) = match (unix, tcp) {
        (true, _) => ("unix_sock", 0),
        (false, true) => ("tcp_sock", IPPROTO_TCP),
        (false, false) => ("udp_sock", IPPROTO_UDP),
    };
    let sk = k.kzalloc(crate::types::size(name), "sock")?;
    let sock = match k.kzalloc(crate::size!("socket"), "socket") {
        Ok(sock) => sock,
        Err(e) => {
            k.kfree(sk, "sock");
            return Err(e);
        }
    };
    let task = k.task_addr(f.task);
    let cgroup = k.cgroup_of(task)?;
    let cred = k.get(task, field!("task_struct", "cred"));
    let uid = k.get(cred, field!("cred", "uid"));
    for (at, field, value) in [
        (sk, field!("sock", "__sk_common.skc_family"), family),
        (sk, field!("sock", "__sk_common.skc_state"), CLOSE),
        (sk, field!("sock", "__sk_common.skc_refcnt"), 1),
        (sk, field!("sock", "__sk_common.skc_rx_queue_mapping"), 0xffff),
        (sk, field!("sock", "sk_type"), kind),
        (sk, field!("sock", "sk_protocol"), protocol),
        (sk, field!("sock", "sk_max_ack_backlog"), if unix { UNIX_QUEUE } else { 0 }),
        (sk, field!("sock", "sk_uid"), uid),
        (sk, field!("sock", "sk_rcvbuf"), if tcp { TCP_RMEM } else { RMEM_DEFAULT }),
        (sk, field!("sock", "sk_sndbuf"), if tcp { TCP_WMEM } else { RMEM_DEFAULT }),
        (sk, field!("sock", "sk_rcvlowat"), 1),
        (sk, field!("sock", "sk_pacing_rate"), u64::MAX),
        (sk, field!("sock", "sk_max_pacing_rate"), u64::MAX),
        (sk, field!("sock", "sk_cgrp_data.cgroup"), cgroup),
        (sk, field!("sock", "sk_socket"), sock),
        (sock, field!("socket", "type"), kind),
        (sock, field!("socket", "state"), SS_UNCONNECTED),
        (sock, field!("socket", "sk"), sk),
    ] {
        k.set(at, field, value);
    }
    if tcp {
        // tcp_init_sock.
        for (field, value) in [
            (field!("tcp_sock", "snd_cwnd"), 10),
            (field!("tcp_sock", "snd_ssthresh"), SSTHRESH),
            (field!("tcp_sock", "snd_cwnd_clamp"), u64::from(u32::MAX)),
            (field!("tcp_sock", "mss_cache"), 536),
            (field!("tcp_sock", "inet_conn.icsk_rto"), TIMEOUT_INIT),
        ] {
            k.set(sk, field, value);
        }
    }
    f.object = sock;
    f.todo.push_back(Do::Undo(sk));
    f.todo.push_back(Do::Undo(sock));
    if !unix {
        f.first([k.cgroup_sk(AttachType::CgroupInetSockCreate, sk)]);
    }
    Ok(0)
}

fn socket_open(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = k.get(f.object, field!("socket", "sk"));
    let fd = k.sock_file(f.task, f.object, f.arg(1))?;
    k.net.sockets.made(sk);
    if k.sock_is_unix(sk) {
        k.unix_made(sk);
    }
    f.todo.retain(|d| !matches!(d, Do::Undo(_)));
    Ok(fd)
}

/// Waits until there is something for a socket, and tries again.
fn wait(k: &mut Kernel, f: &mut SysFrame, sk: u64, again: super::Act) -> Ret {
    k.net.sockets.wait(sk, f.task);
    f.block = Some(u64::MAX);
    f.first([Do::Act(again)]);
    Ok(0)
}

impl Kernel {
    /// `sock_map_fd`.
    fn sock_file(&mut self, task: TaskId, sock: u64, flags: u64) -> Ret {
        let file = self.kzalloc(crate::size!("file"), "file")?;
        // O_RDWR
        self.set(file, field!("file", "f_flags"), 2 | flags & O_NONBLOCK);
        self.vfs.sockets.insert(file, sock);
        self.set(sock, field!("socket", "file"), file);
        Ok(self.fd_open(task, file))
    }

    /// The programs for a socket of its control group, with the socket as context
    /// (`__cgroup_bpf_run_filter_sk`).
    fn cgroup_sk(&self, attach: AttachType, sk: u64) -> Do {
        Do::Cgroup(Box::new(super::CgroupCall {
            cgroup: self.sock_cgroup(sk),
            atype: Atype::Of(attach as u32),
            ctx: sk,
            retval: 0,
            hook: Hook::Plain,
            then: None,
        }))
    }

    /// `inet_release`: what happens before the socket of a file goes.
    pub(super) fn sock_release(&self, file: u64) -> Option<Do> {
        let sock = self.vfs.sockets.get(&file)?;
        let sk = self.get(*sock, field!("socket", "sk"));
        if self.sock_is_unix(sk) {
            return None;
        }
        let Do::Cgroup(mut call) = self.cgroup_sk(AttachType::CgroupInetSockRelease, sk) else {
            return None;
        };
        // Nobody asks what they say.
        call.then = Some(|_, _, _, _| Ok(0));
        Some(Do::Cgroup(call))
    }

    /// `sockfd_lookup`.
    fn fd_socket(&mut self, f: &SysFrame) -> Result<u64, Errno> {
        let file = self.fd_file(f.task, f.arg(0))?;
        self.vfs.sockets.get(&file).copied().ok_or(Errno::ENOTSOCK)
    }

    /// The socket of a descriptor: `struct socket`, `struct sock`.
    fn fd_sk(&mut self, f: &SysFrame) -> Result<(u64, u64), Errno> {
        let sock = self.fd_socket(f)?;
        Ok((sock, self.get(sock, field!("socket", "sk"))))
    }

    pub(super) fn sock_protocol(&self, sk: u64) -> Protocol {
        match self.get(sk, field!("sock", "sk_protocol")) {
            IPPROTO_TCP => Protocol::Tcp,
            _ => Protocol::Udp,
        }
    }

    fn sock_is_v6(&self, sk: u64) -> bool {
        self.get(sk, field!("sock", "__sk_common.skc_family")) == AF_INET6
    }

    fn sock_state(&self, sk: u64) -> u64 {
        self.get(sk, field!("sock", "__sk_common.skc_state"))
    }

    /// Something that a call would come to and that the model does not have; the run ends.
    pub(super) fn sys_unsupported(&mut self, cpu: CpuId, what: &str) -> Errno {
        let fault = Fault::unsupported(what);
        self.emit(cpu, EventKind::Fault { prog: None, fault });
        Errno::ENOTSUPP
    }
}
