//! Calls on AF_UNIX sockets, with the programs of control groups for their addresses
//! (net/unix/af_unix.c, `__cgroup_bpf_run_filter_sock_addr`).
//!
//! An address is what follows `sun_family`: a path with its NUL, or an abstract name, which begins
//! with one.

use bpf::uapi::AttachType;
use rand_core::Rng as _;

use super::super::vfs::S_IFSOCK;
use super::super::{Act, CgroupCall, Do, SysFrame};
use super::msg::DONTWAIT;
use super::stream::{MSG_NOSIGNAL, MSG_OOB, MSG_PEEK, MSG_TRUNC, MSG_WAITALL, SIGPIPE};
use super::{CLOSE, ESTABLISHED, LISTEN, Ret, SOCK_DGRAM, SOCK_SEQPACKET, SS_CONNECTED};
use crate::cgroup::{Atype, Hook};
use crate::cpu::CpuId;
use crate::layout::PAGE_SIZE;
use crate::net::{AF_UNIX, SEND_SHUTDOWN, SUN_PATH, UNIX_PATH_MAX};
use crate::{Errno, Kernel, field};

/// `RCV_SHUTDOWN`.
const RCV_SHUTDOWN: u64 = 1;
/// What the skb of a datagram takes of the send buffer.
const SKB: u64 = 32;
/// `SKB_MAX_HEAD(0)`, `UNIX_SKB_FRAGS_SZ`, `SKB_MAX_ALLOC`, `MAX_SKB_FRAGS`.
const SKB_MAX_HEAD: u64 = PAGE_SIZE - 320;
const SKB_FRAGS: u64 = 8 * PAGE_SIZE;
const SKB_MAX_ALLOC: u64 = 4 * PAGE_SIZE - 320;
const FRAGS_MAX: u64 = 17;
/// Of the number that `unix_autobind` makes a name of.
const AUTOBIND_MASK: u32 = 0xf_ffff;

impl Kernel {
    /// The programs of the group of an address's socket.
    fn unix_programs(&self, attach: AttachType, kern: u64) -> Box<CgroupCall> {
        let sk = self.get(kern, field!("bpf_sock_addr_kern", "sk"));
        Box::new(CgroupCall {
            cgroup: self.sock_cgroup(sk),
            atype: Atype::Of(attach as u32),
            ctx: kern,
            retval: 0,
            hook: Hook::Plain,
            then: None,
        })
    }

    /// `unix_validate_addr`.
    fn unix_validate(&self, kern: u64) -> Result<(), Errno> {
        let len = self.get(kern, field!("bpf_sock_addr_kern", "uaddrlen"));
        let family = self.get(kern, field!("bpf_sock_addr_kern", "__addr.sin6_family"));
        let fits = (SUN_PATH + 1..=SUN_PATH + UNIX_PATH_MAX as u64).contains(&len);
        if fits && family == AF_UNIX { Ok(()) } else { Err(Errno::EINVAL) }
    }

    /// The name of an address, a path as far as its NUL (`unix_mkname_bsd`).
    fn unix_name_of(&self, kern: u64) -> Vec<u8> {
        let at = self.get(kern, field!("bpf_sock_addr_kern", "uaddr"));
        let len = self.get(kern, field!("bpf_sock_addr_kern", "uaddrlen"));
        let mut name = self.bytes(at + SUN_PATH, len.saturating_sub(SUN_PATH));
        if name.first().is_some_and(|b| *b != 0) {
            name.truncate(name.iter().position(|b| *b == 0).unwrap_or(name.len()));
            name.push(0);
        }
        name
    }

    /// An address for programs and users, or none.
    fn unix_name_put(&mut self, kern: u64, name: &[u8]) {
        self.set(kern, field!("bpf_sock_addr_kern", "__addr.sin6_family"), AF_UNIX);
        let at = self.get(kern, field!("bpf_sock_addr_kern", "uaddr"));
        self.mem.write(at + SUN_PATH, name).expect("an address is mapped");
        let len = SUN_PATH + name.len() as u64;
        self.set(kern, field!("bpf_sock_addr_kern", "uaddrlen"), len);
    }

    /// `unix_find_other`.
    fn unix_find(&mut self, name: &[u8], kind: u64) -> Result<u64, Errno> {
        let Some(path) = path_of(name) else {
            return self.unix_by_name(name, kind).ok_or(Errno::ECONNREFUSED);
        };
        let inode = self.vfs_inode(&path)?;
        if !self.inode_is_sock(inode) {
            return Err(Errno::ECONNREFUSED);
        }
        let other = self.unix_by_inode(inode).ok_or(Errno::ECONNREFUSED)?;
        if self.unix_type(other) == kind { Ok(other) } else { Err(Errno::EPROTOTYPE) }
    }

    /// `unix_may_send`: a socket with a peer hears that one alone.
    fn unix_may_send(&self, sk: u64, other: u64) -> bool {
        self.unix_peer(other).is_none_or(|p| p == sk)
    }

    fn shutdown_of(&self, sk: u64) -> u64 {
        self.get(sk, field!("sock", "sk_shutdown"))
    }
}

/// The path that a name is, when it is not abstract.
fn path_of(name: &[u8]) -> Option<String> {
    let text = name.strip_suffix(&[0])?;
    let path = text.first().is_some_and(|b| *b != 0);
    path.then(|| String::from_utf8_lossy(text).into_owned())
}

/// The socket of the address that a call is about.
fn addr_sk(k: &Kernel, f: &SysFrame) -> u64 {
    k.get(f.object, field!("bpf_sock_addr_kern", "sk"))
}

/// `unix_autobind`: an abstract name of five digits that nobody has.
fn autobind(k: &mut Kernel, sk: u64) -> Ret {
    if !k.unix_name(sk).is_empty() {
        return Ok(0);
    }
    let kind = k.unix_type(sk);
    let first = k.rng.kernel.next_u32();
    let names = (1..=AUTOBIND_MASK + 1).map(|n| first.wrapping_add(n) & AUTOBIND_MASK);
    let mut names = names.map(|n| format!("\0{n:05x}").into_bytes());
    let free = names.find(|name| k.unix_by_name(name, kind).is_none());
    k.unix_name_set(sk, &free.ok_or(Errno::ENOSPC)?)?;
    k.unix_bound(sk, None);
    Ok(0)
}

/// `unix_bind`.
pub(super) fn bind(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    let family = k.get(f.object, field!("bpf_sock_addr_kern", "__addr.sin6_family"));
    if k.get(f.object, field!("bpf_sock_addr_kern", "uaddrlen")) == SUN_PATH && family == AF_UNIX {
        return autobind(k, sk);
    }
    k.unix_validate(f.object)?;
    let name = k.unix_name_of(f.object);
    let named = !k.unix_name(sk).is_empty();
    let inode = match path_of(&name) {
        Some(path) => {
            let free = k.vfs_may_create(&path);
            free.map_err(|e| if e == Errno::EEXIST { Errno::EADDRINUSE } else { e })?;
            if named {
                return Err(Errno::EINVAL);
            }
            k.vfs_mknod(&path, S_IFSOCK | 0o755, 0)?;
            Some(k.vfs_inode(&path)?)
        }
        None if named => return Err(Errno::EINVAL),
        None if k.unix_by_name(&name, k.unix_type(sk)).is_some() => {
            return Err(Errno::EADDRINUSE);
        }
        None => None,
    };
    k.unix_name_set(sk, &name)?;
    k.unix_bound(sk, inode);
    Ok(0)
}

/// `unix_listen`.
pub(super) fn listen(k: &mut Kernel, f: &SysFrame, sk: u64) -> Ret {
    if k.unix_type(sk) == SOCK_DGRAM {
        return Err(Errno::EOPNOTSUPP);
    }
    if k.unix_name(sk).is_empty() || !matches!(k.sock_state(sk), CLOSE | LISTEN) {
        return Err(Errno::EINVAL);
    }
    k.set(sk, field!("sock", "sk_max_ack_backlog"), f.arg(1).min(4096));
    k.set(sk, field!("sock", "__sk_common.skc_state"), LISTEN);
    Ok(0)
}

/// `unix_stream_connect`, `unix_dgram_connect`.
pub(super) fn connecting(k: &Kernel, sk: u64, args: Vec<u64>) -> Vec<Do> {
    let stream = k.unix_type(sk) != SOCK_DGRAM;
    let own = if stream { "unix_stream_connect" } else { "unix_dgram_connect" };
    vec![Do::Enter(own, args), Do::Act(connect), Do::Exit]
}

/// The same, up to their programs.
fn connect(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    if k.get(f.object, field!("bpf_sock_addr_kern", "__addr.sin6_family")) == 0 {
        return Err(k.sys_unsupported(cpu, "AF_UNSPEC: an AF_UNIX socket without its peer again"));
    }
    k.unix_validate(f.object)?;
    let programs = k.unix_programs(AttachType::CgroupUnixConnect, f.object);
    let stream = k.unix_type(addr_sk(k, f)) != SOCK_DGRAM;
    let to = if stream { stream_connect } else { dgram_connect };
    f.first([Do::Cgroup(programs), Do::Act(to)]);
    Ok(0)
}

fn dgram_connect(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    let other = k.unix_find(&k.unix_name_of(f.object), SOCK_DGRAM)?;
    if !k.unix_may_send(sk, other) {
        return Err(Errno::EPERM);
    }
    may_send(k, f, (sk, other), |k, _, f| {
        let sk = addr_sk(k, f);
        let other = k.unix_find(&k.unix_name_of(f.object), SOCK_DGRAM)?;
        for sk in [sk, other] {
            k.set(sk, field!("sock", "__sk_common.skc_state"), ESTABLISHED);
        }
        k.unix_disconnect(sk);
        k.unix_peer_set(sk, Some(other));
        Ok(0)
    });
    Ok(0)
}

/// `security_unix_may_send`, and what follows when it says nothing.
fn may_send(k: &Kernel, f: &mut SysFrame, (sk, other): (u64, u64), then: Act) {
    let sockets = [sk, other].map(|sk| k.get(sk, field!("sock", "sk_socket"))).to_vec();
    f.first([
        Do::Enter("security_unix_may_send", sockets.clone()),
        Do::Lsm("bpf_lsm_unix_may_send", sockets),
        Do::Exit,
        Do::Act(then),
    ]);
}

/// `unix_stream_connect` from the socket that listens on.
fn stream_connect(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    let other = k.unix_find(&k.unix_name_of(f.object), k.unix_type(sk))?;
    if k.sock_state(other) != LISTEN || k.shutdown_of(other) & RCV_SHUTDOWN != 0 {
        return Err(Errno::ECONNREFUSED);
    }
    if k.unix_full(other) {
        if k.sock_nonblock(k.get(sk, field!("sock", "sk_socket"))) {
            return Err(Errno::EAGAIN);
        }
        return wait_room(k, f, other, stream_connect);
    }
    match k.sock_state(sk) {
        CLOSE => {}
        ESTABLISHED => return Err(Errno::EISCONN),
        _ => return Err(Errno::EINVAL),
    }
    let end = k.kzalloc(crate::size!("unix_sock"), "sock")?;
    f.todo.push_back(Do::Undo(end));
    f.first([
        Do::Enter("security_unix_stream_connect", vec![sk, other, end]),
        Do::Lsm("bpf_lsm_unix_stream_connect", vec![sk, other, end]),
        Do::Exit,
        Do::Act(stream_connected),
    ]);
    Ok(0)
}

/// The other end is made; it has the listener's name.
fn stream_connected(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    let other = k.unix_find(&k.unix_name_of(f.object), k.unix_type(sk))?;
    let undo = f.todo.iter().rposition(|d| matches!(d, Do::Undo(_)));
    let Some(Do::Undo(end)) = undo.and_then(|at| f.todo.remove(at)) else {
        return Err(Errno::ENOMEM);
    };
    let cgroup = k.cgroup_of(k.task_addr(f.task))?;
    for (at, value) in [
        (field!("sock", "__sk_common.skc_family"), AF_UNIX),
        (field!("sock", "__sk_common.skc_state"), ESTABLISHED),
        (field!("sock", "__sk_common.skc_refcnt"), 1),
        (field!("sock", "sk_type"), k.unix_type(sk)),
        (field!("sock", "sk_rcvbuf"), super::RMEM_DEFAULT),
        (field!("sock", "sk_sndbuf"), super::RMEM_DEFAULT),
        (field!("sock", "sk_max_ack_backlog"), super::UNIX_QUEUE),
        (field!("sock", "sk_cgrp_data.cgroup"), cgroup),
    ] {
        k.set(end, at, value);
    }
    k.unix_made(end);
    k.net.sockets.made(end);
    k.unix_name_set(end, &k.unix_name(other))?;
    k.unix_peer_set(end, Some(sk));
    k.unix_peer_set(sk, Some(end));
    k.set(sk, field!("sock", "__sk_common.skc_state"), ESTABLISHED);
    let sock = k.get(sk, field!("sock", "sk_socket"));
    k.set(sock, field!("socket", "state"), SS_CONNECTED);
    k.unix_embryo(other, end);
    Ok(0)
}

/// Waits until there is room in a queue, and tries again.
fn wait_room(k: &mut Kernel, f: &mut SysFrame, other: u64, again: Act) -> Ret {
    k.unix_wait_room(other, f.task);
    f.block = Some(u64::MAX);
    f.first([Do::Act(again)]);
    Ok(0)
}

/// `unix_accept`.
pub(super) fn accept_wait(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    if k.unix_type(sk) == SOCK_DGRAM {
        return Err(Errno::EOPNOTSUPP);
    }
    if k.sock_state(sk) != LISTEN || k.shutdown_of(sk) & RCV_SHUTDOWN != 0 {
        return Err(Errno::EINVAL);
    }
    match k.unix_accept(sk) {
        Some(end) => Ok(end),
        None if k.sock_nonblock(sock) => Err(Errno::EAGAIN),
        None => super::wait(k, f, sk, accept_wait),
    }
}

/// The name of the other end for who accepts; the descriptor is what the call returns.
pub(super) fn accept_name(k: &mut Kernel, f: &mut SysFrame, sk: u64, fd: u64) -> Ret {
    let kern = name_of(k, f, sk, true)?;
    let programs = peer_programs(k, kern, true).map(|mut programs| {
        programs.then = Some(|_, _, f, _| Ok(f.ret));
        Do::Cgroup(programs)
    });
    let out = Do::Act(|k, _, f| k.sock_addr_out(f.object, f.arg(1), f.arg(2)).map(|()| f.ret));
    f.first(programs.into_iter().chain([out]).collect::<Vec<_>>());
    Ok(fd)
}

/// `unix_getname` up to its programs; the address becomes what the call is about.
fn name_of(k: &mut Kernel, f: &mut SysFrame, sk: u64, peer: bool) -> Ret {
    // Programs of the other end's group name it.
    let of = if peer { k.unix_peer(sk).ok_or(Errno::ENOTCONN)? } else { sk };
    let kern = k.sock_addr_new(of, 0)?;
    f.todo.push_back(Do::Free(kern));
    f.object = kern;
    k.unix_name_put(kern, &k.unix_name(of));
    Ok(kern)
}

/// The programs for a name; none are asked about one that is not there.
fn peer_programs(k: &Kernel, kern: u64, peer: bool) -> Option<Box<CgroupCall>> {
    let named = k.get(kern, field!("bpf_sock_addr_kern", "uaddrlen")) > SUN_PATH;
    let attach = match peer {
        true => AttachType::CgroupUnixGetpeername,
        false => AttachType::CgroupUnixGetsockname,
    };
    named.then(|| k.unix_programs(attach, kern))
}

/// `getsockname` and `getpeername`.
pub(super) fn naming(f: &mut SysFrame, sock: u64, peer: bool) -> Ret {
    let (hook, act): (_, Act) = match peer {
        true => ("bpf_lsm_socket_getpeername", |k, _, f| getname(k, f, true)),
        false => ("bpf_lsm_socket_getsockname", |k, _, f| getname(k, f, false)),
    };
    f.first([Do::Lsm(hook, vec![sock]), Do::Act(act)]);
    Ok(0)
}

/// `unix_getname` for them.
fn getname(k: &mut Kernel, f: &mut SysFrame, peer: bool) -> Ret {
    let (_, sk) = k.fd_sk(f)?;
    let kern = name_of(k, f, sk, peer)?;
    let programs = peer_programs(k, kern, peer).map(Do::Cgroup);
    f.first(programs.into_iter().chain([Do::Act(super::addr::name_out)]).collect::<Vec<_>>());
    Ok(0)
}

/// `unix_dgram_sendmsg` up to its programs.
pub(super) fn dgram_sendmsg(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    if f.arg(3) & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let named = f.arg(4) != 0;
    if named {
        k.unix_validate(f.object)?;
    }
    let programs =
        named.then(|| Do::Cgroup(k.unix_programs(AttachType::CgroupUnixSendmsg, f.object)));
    f.first(programs.into_iter().chain([Do::Act(dgram_check)]).collect::<Vec<_>>());
    Ok(0)
}

/// To whom a datagram goes.
fn dgram_other(k: &mut Kernel, f: &SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    if f.arg(4) != 0 {
        return k.unix_find(&k.unix_name_of(f.object), SOCK_DGRAM);
    }
    k.unix_peer(sk).ok_or(Errno::ENOTCONN)
}

fn dgram_check(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    if f.arg(4) == 0 && k.unix_peer(sk).is_none() {
        return Err(Errno::ENOTCONN);
    }
    if f.arg(2) > k.get(sk, field!("sock", "sk_sndbuf")) - SKB {
        return Err(Errno::EMSGSIZE);
    }
    if !wmem(k, f, sk, dgram_check)? {
        return Ok(0);
    }
    let other = dgram_other(k, f)?;
    if !k.unix_may_send(sk, other) {
        return Err(Errno::EPERM);
    }
    if k.unix_is_dead(other) {
        k.unix_disconnect(sk);
        return Err(Errno::ECONNREFUSED);
    }
    if k.shutdown_of(other) & RCV_SHUTDOWN != 0 {
        return Err(Errno::EPIPE);
    }
    match k.unix_type(sk) {
        SOCK_SEQPACKET => f.first([Do::Act(dgram_send)]),
        _ => may_send(k, f, (sk, other), dgram_send),
    }
    Ok(0)
}

/// What `sock_alloc_send_pskb` asks before there is an skb: false when the task waits for room in
/// the send buffer, and does `again` then.
fn wmem(k: &mut Kernel, f: &mut SysFrame, sk: u64, again: Act) -> Result<bool, Errno> {
    if let Some(e) = k.sock_error(sk) {
        return Err(e);
    }
    if k.shutdown_of(sk) & SEND_SHUTDOWN != 0 {
        return Err(Errno::EPIPE);
    }
    if !k.unix_wmem_full(sk) {
        return Ok(true);
    }
    if may_not_wait(k, f, sk) {
        return Err(Errno::EAGAIN);
    }
    k.unix_wait_wmem(sk, f.task);
    f.block = Some(u64::MAX);
    f.first([Do::Act(again)]);
    Ok(false)
}

/// `MSG_DONTWAIT`, `O_NONBLOCK`.
fn may_not_wait(k: &Kernel, f: &SysFrame, sk: u64) -> bool {
    f.arg(3) & DONTWAIT != 0 || k.sock_nonblock(k.get(sk, field!("sock", "sk_socket")))
}

fn dgram_send(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    let other = dgram_other(k, f)?;
    if other != sk && k.unix_peer(other) != Some(sk) && k.unix_full(other) {
        if may_not_wait(k, f, sk) {
            return Err(Errno::EAGAIN);
        }
        return wait_room(k, f, other, dgram_check);
    }
    let bytes = k.user_read(f.arg(1), f.arg(2) as usize).ok_or(Errno::EFAULT)?;
    // What a head cannot have is in pages.
    let more = f.arg(2).saturating_sub(SKB_MAX_ALLOC).min(FRAGS_MAX * PAGE_SIZE);
    k.unix_deliver(sk, other, bytes, more.next_multiple_of(PAGE_SIZE));
    Ok(f.arg(2))
}

/// `unix_seqpacket_sendmsg`: as datagrams, to the peer alone.
pub(super) fn seqpacket_sendmsg(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    if let Some(e) = k.sock_error(sk) {
        return Err(e);
    }
    if k.sock_state(sk) != ESTABLISHED {
        return Err(Errno::ENOTCONN);
    }
    if let Some(name) = f.args.get_mut(4) {
        *name = 0;
    }
    let sock = k.get(sk, field!("sock", "sk_socket"));
    f.first([
        Do::Enter("unix_dgram_sendmsg", vec![sock, 0, f.arg(2)]),
        Do::Act(dgram_sendmsg),
        Do::Exit,
    ]);
    Ok(0)
}

/// `unix_stream_sendmsg`.
pub(super) fn stream_sendmsg(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    if f.arg(3) & MSG_OOB != 0 {
        return Err(k.sys_unsupported(cpu, "urgent data of AF_UNIX (MSG_OOB)"));
    }
    if f.arg(4) != 0 {
        let open = k.sock_state(sk) == ESTABLISHED;
        return Err(if open { Errno::EISCONN } else { Errno::EOPNOTSUPP });
    }
    if k.unix_peer(sk).is_none() {
        return Err(Errno::ENOTCONN);
    }
    if k.shutdown_of(sk) & SEND_SHUTDOWN != 0 {
        return broken(k, cpu, f);
    }
    stream_send(k, cpu, f)
}

/// Nobody hears what a stream says.
fn broken(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    if f.ret == 0 && f.arg(3) & MSG_NOSIGNAL == 0 {
        k.signal_send(cpu, f.task, SIGPIPE)?;
    }
    partly(f, Errno::EPIPE)
}

/// A transfer ends: what is done of it, which is the call's value so far, or why nothing is.
fn partly(f: &SysFrame, e: Errno) -> Ret {
    if f.ret > 0 { Ok(f.ret) } else { Err(e) }
}

/// The task waits in the middle of a transfer: a signal ends it with what is done.
fn waits_partly(f: &mut SysFrame) {
    f.then = Some(|_, _, f, ended| match Errno::from_raw((ended as i32).wrapping_neg()) {
        None => Ok(f.ret),
        Some(e) => {
            let done = partly(f, e)?;
            f.todo.pop_front();
            Ok(done)
        }
    });
}

/// From the bytes on that are not sent yet, one skb after the other.
fn stream_send(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    while f.ret < f.arg(2) {
        match wmem(k, f, sk, stream_send) {
            Ok(true) => {}
            Ok(false) => {
                waits_partly(f);
                return Ok(f.ret);
            }
            Err(e) => return partly(f, e),
        }
        let Some(other) = k.unix_peer(sk) else { return broken(k, cpu, f) };
        // Two messages are to have room, and one no more than a head and a row of pages.
        let half = (k.get(sk, field!("sock", "sk_sndbuf")) / 2).saturating_sub(64);
        let size = (f.arg(2) - f.ret).min(half).min(SKB_MAX_HEAD + SKB_FRAGS);
        let pages = size.saturating_sub(SKB_MAX_HEAD).next_multiple_of(PAGE_SIZE).min(size);
        let Some(bytes) = k.user_read(f.arg(1) + f.ret, size as usize) else {
            return partly(f, Errno::EFAULT);
        };
        if k.unix_is_dead(other) || k.shutdown_of(other) & RCV_SHUTDOWN != 0 {
            return broken(k, cpu, f);
        }
        k.unix_deliver(sk, other, bytes, pages);
        f.ret += size;
    }
    Ok(f.ret)
}

/// The name of who sent what was received, for programs and the caller.
fn sender(k: &mut Kernel, f: &mut SysFrame, from: &[u8]) {
    if f.arg(4) == 0 {
        return;
    }
    if !from.is_empty() {
        k.unix_name_put(f.object, from);
    }
    let mut programs = k.unix_programs(AttachType::CgroupUnixRecvmsg, f.object);
    // They cannot refuse, and the length stays what is returned.
    programs.then = Some(|_, _, f, _| Ok(f.ret));
    f.first([Do::Cgroup(programs)]);
}

/// `unix_seqpacket_recvmsg`.
pub(super) fn seqpacket_recvmsg(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    match k.sock_state(addr_sk(k, f)) {
        ESTABLISHED => dgram_recvmsg(k, cpu, f),
        _ => Err(Errno::ENOTCONN),
    }
}

/// `__unix_dgram_recvmsg`.
pub(super) fn dgram_recvmsg(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    let flags = f.arg(3);
    if flags & MSG_OOB != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    if let Some(e) = k.sock_error(sk) {
        return Err(e);
    }
    let Some(message) = k.unix_take(sk, flags & MSG_PEEK != 0) else {
        let over = k.shutdown_of(sk) & RCV_SHUTDOWN != 0;
        if may_not_wait(k, f, sk) {
            let ended = over && k.unix_type(sk) == SOCK_SEQPACKET;
            return if ended { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        return if over { Ok(0) } else { super::wait(k, f, sk, dgram_recvmsg) };
    };
    let len = message.bytes.len().min(f.arg(2) as usize);
    k.user_write(f.arg(1), &message.bytes[..len])?;
    sender(k, f, &message.from);
    Ok(if flags & MSG_TRUNC != 0 { message.bytes.len() } else { len } as u64)
}

/// `unix_stream_read_generic`. The call's value is what is read so far.
pub(super) fn stream_recvmsg(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    let (flags, size) = (f.arg(3), f.arg(2));
    if k.sock_state(sk) != ESTABLISHED || flags & MSG_OOB != 0 {
        // Nothing that was sent is urgent.
        return Err(Errno::EINVAL);
    }
    if size == 0 {
        return Ok(0);
    }
    let peek = flags & MSG_PEEK != 0;
    if let Some((bytes, from)) = k.unix_read(sk, (size - f.ret) as usize, peek) {
        k.user_write(f.arg(1) + f.ret, &bytes)?;
        if f.ret == 0 && f.arg(4) != 0 && !from.is_empty() {
            k.unix_name_put(f.object, &from);
        }
        f.ret += bytes.len() as u64;
    }
    let least = k.get(sk, field!("sock", "sk_rcvlowat")).min(size).max(1);
    let target = if flags & MSG_WAITALL != 0 { size } else { least };
    if f.ret < target && !(peek && f.ret > 0) {
        let error = k.sock_error(sk);
        let over = k.shutdown_of(sk) & RCV_SHUTDOWN != 0;
        match error {
            Some(e) => drop(partly(f, e)?),
            None if over => {}
            None if may_not_wait(k, f, sk) => drop(partly(f, Errno::EAGAIN)?),
            None => {
                super::wait(k, f, sk, stream_recvmsg)?;
                waits_partly(f);
                return Ok(f.ret);
            }
        }
    }
    if f.ret > 0 {
        // The name is there already.
        sender(k, f, &[]);
    }
    Ok(f.ret)
}

/// `unix_shutdown`.
pub(super) fn shutdown(k: &mut Kernel, sk: u64, how: u64) {
    let stream = k.unix_type(sk) != SOCK_DGRAM;
    k.unix_shut(sk, how, stream);
}
