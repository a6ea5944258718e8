//! Streams: system calls on connections (`__inet_stream_connect`, `inet_csk_accept`,
//! `tcp_sendmsg`, `tcp_recvmsg`, `inet_shutdown`). The protocol is in [`crate::net`].

use std::net::SocketAddr;

use super::super::{Act, Do, SysFrame};
use super::msg::DONTWAIT;
use super::{O_NONBLOCK, Ret, SS_CONNECTED, SS_UNCONNECTED, unix};
use crate::cpu::{CpuId, Frame};
use crate::net::{Protocol, tcp_state as state};
use crate::{Errno, Kernel, field};

/// `MSG_OOB`, `MSG_PEEK`, `MSG_TRUNC`, `MSG_WAITALL`, `MSG_NOSIGNAL`.
pub(super) const MSG_OOB: u64 = 1;
pub(super) const MSG_PEEK: u64 = 2;
pub(super) const MSG_TRUNC: u64 = 0x20;
pub(super) const MSG_WAITALL: u64 = 0x100;
pub(super) const MSG_NOSIGNAL: u64 = 0x4000;
/// `SIGPIPE`.
pub(super) const SIGPIPE: u32 = 13;

/// `tcp_v4_connect` from the SYN on, and the wait for its answer.
pub(super) fn connect(k: &mut Kernel, _: CpuId, f: &mut SysFrame, sk: u64) {
    k.lock_sock(sk);
    f.first([
        Do::Call(|k, _, f| Ok(Some(k.tcp_connect(addr_sk(k, f))))),
        Do::Call(|k, _, f| Ok(Some(k.release_sock(addr_sk(k, f))))),
        Do::Act(connect_wait),
    ]);
}

/// The socket of the address that a call is about.
fn addr_sk(k: &Kernel, f: &SysFrame) -> u64 {
    k.get(f.object, field!("bpf_sock_addr_kern", "sk"))
}

/// `inet_wait_for_connect`.
fn connect_wait(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    let sock = k.get(sk, field!("sock", "sk_socket"));
    match k.sock_state(sk) {
        state::SYN_SENT | state::SYN_RECV => {
            if k.sock_nonblock(sock) {
                return Err(Errno::EINPROGRESS);
            }
            super::wait(k, f, sk, connect_wait)
        }
        state::CLOSE => {
            k.set(sock, field!("socket", "state"), SS_UNCONNECTED);
            let port = k.sock_local(sk).port();
            let none = SocketAddr::new(k.sock_any(sk), port);
            k.sock_ends(sk, none, None);
            Err(k.sock_error(sk).unwrap_or(Errno::ECONNABORTED))
        }
        _ => {
            k.set(sock, field!("socket", "state"), SS_CONNECTED);
            Ok(0)
        }
    }
}

/// The end of `__inet_listen_sk`.
pub(super) fn listening(
    k: &mut Kernel,
    _: CpuId,
    f: &mut SysFrame,
) -> Result<Option<Frame>, Errno> {
    let (_, sk) = k.fd_sk(f)?;
    Ok(Some(k.tcp_listening(sk)))
}

/// `__sys_accept4`.
pub(in super::super) fn accept4(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    let unix = k.sock_is_unix(sk);
    if k.sock_protocol(sk) != Protocol::Tcp && !unix {
        return Err(Errno::EOPNOTSUPP);
    }
    if f.arg(3) & !super::SOCK_FLAGS != 0 {
        return Err(Errno::EINVAL);
    }
    let new = k.kzalloc(crate::size!("socket"), "socket")?;
    k.set(new, field!("socket", "type"), k.get(sk, field!("sock", "sk_type")));
    f.object = new;
    f.todo.push_back(Do::Undo(new));
    let (name, args, take): (_, _, Act) = match unix {
        true => ("unix_accept", vec![sock, new, 0], unix::accept_wait),
        false => ("inet_csk_accept", vec![sk, 0], accept_wait),
    };
    f.first([
        Do::Lsm("bpf_lsm_socket_accept", vec![sock, new]),
        Do::Enter(name, args),
        Do::Act(take),
        Do::Exit,
        Do::Act(accept_open),
    ]);
    Ok(0)
}

/// `inet_csk_accept`.
fn accept_wait(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    if k.sock_state(sk) != state::LISTEN {
        return Err(Errno::EINVAL);
    }
    let Some(child) = k.tcp_accept(sk) else {
        if k.sock_nonblock(sock) {
            return Err(Errno::EAGAIN);
        }
        return super::wait(k, f, sk, accept_wait);
    };
    Ok(child)
}

/// `sock_graft`, and the descriptor.
fn accept_open(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sk, sock) = (f.ret, f.object);
    k.set(sk, field!("sock", "sk_socket"), sock);
    k.set(sock, field!("socket", "sk"), sk);
    k.set(sock, field!("socket", "state"), SS_CONNECTED);
    if k.sock_is_unix(sk) {
        let fd = k.sock_file(f.task, sock, f.arg(3))?;
        f.todo.retain(|d| !matches!(d, Do::Undo(_)));
        return if f.arg(1) != 0 { unix::accept_name(k, f, sk, fd) } else { Ok(fd) };
    }
    k.tcp_accepted(sk);
    let fd = k.sock_file(f.task, sock, f.arg(3))?;
    f.todo.retain(|d| !matches!(d, Do::Undo(_)));
    if f.arg(1) != 0 {
        let peer = k.sock_remote(sk).ok_or(Errno::ENOTCONN)?;
        let kern = k.sock_addr_new(sk, 0)?;
        f.todo.push_back(Do::Free(kern));
        k.sock_addr_put(kern, peer);
        k.sock_addr_out(kern, f.arg(1), f.arg(2))?;
    }
    Ok(fd)
}

/// `tcp_sendmsg`.
pub(super) fn sendmsg(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    let sk = addr_sk(k, f);
    if f.arg(3) & MSG_OOB != 0 {
        return Err(k.sys_unsupported(cpu, "urgent data of TCP (MSG_OOB)"));
    }
    let open = matches!(k.sock_state(sk), state::ESTABLISHED | state::CLOSE_WAIT);
    let shut = k.get(sk, field!("sock", "sk_shutdown")) & crate::net::SEND_SHUTDOWN != 0;
    if !open || shut {
        let e = k.sock_error(sk).unwrap_or(Errno::EPIPE);
        if e == Errno::EPIPE && f.arg(3) & MSG_NOSIGNAL == 0 {
            k.signal_send(cpu, f.task, SIGPIPE)?;
        }
        return Err(e);
    }
    k.lock_sock(sk);
    f.first([
        Do::Call(|k, _, f| {
            let bytes = k.user_read(f.arg(1), f.arg(2) as usize).ok_or(Errno::EFAULT)?;
            Ok(Some(k.tcp_write(addr_sk(k, f), &bytes)))
        }),
        Do::Call(|k, _, f| Ok(Some(k.release_sock(addr_sk(k, f))))),
        Do::Act(|_, _, f| Ok(f.arg(2))),
    ]);
    Ok(0)
}

/// `tcp_recvmsg`.
pub(super) fn recvmsg(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, sk) = k.fd_sk(f)?;
    if f.arg(3) & (MSG_OOB | MSG_PEEK | MSG_WAITALL) != 0 {
        return Err(k.sys_unsupported(cpu, "MSG_OOB, MSG_PEEK and MSG_WAITALL of tcp_recvmsg"));
    }
    if k.sock_state(sk) == state::LISTEN {
        return Err(Errno::ENOTCONN);
    }
    if f.arg(2) == 0 {
        return Ok(0);
    }
    if k.tcp_readable(sk) {
        let bytes = k.tcp_take(sk, f.arg(2) as usize);
        k.user_write(f.arg(1), &bytes)?;
        f.object = sk;
        f.bytes = Some(bytes);
        f.first([
            Do::Call(|k, _, f| Ok(Some(k.tcp_read_over(f.object)))),
            Do::Act(|_, _, f| Ok(f.bytes.take().map_or(0, |b| b.len() as u64))),
        ]);
        return Ok(0);
    }
    if let Some(e) = k.sock_error(sk) {
        return Err(e);
    }
    if k.tcp_rcv_shutdown(sk) {
        return Ok(0);
    }
    if k.sock_state(sk) == state::CLOSE {
        return Err(Errno::ENOTCONN);
    }
    if f.arg(3) & DONTWAIT != 0 || k.sock_nonblock(sock) {
        return Err(Errno::EAGAIN);
    }
    super::wait(k, f, sk, recvmsg)
}

/// `inet_shutdown`.
pub(in super::super) fn shutdown(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let (sock, _) = k.fd_sk(f)?;
    let how = f.arg(1).wrapping_add(1);
    f.first([
        Do::Lsm("bpf_lsm_socket_shutdown", vec![sock, f.arg(1)]),
        Do::Call(shutdown_sock),
        Do::Act(|_, _, _| Ok(0)),
    ]);
    if how == 0 || how & !3 != 0 { Err(Errno::EINVAL) } else { Ok(0) }
}

fn shutdown_sock(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Result<Option<Frame>, Errno> {
    let (_, sk) = k.fd_sk(f)?;
    let how = f.arg(1) + 1;
    if k.sock_is_unix(sk) {
        unix::shutdown(k, sk, how);
        return Ok(None);
    }
    if k.sock_protocol(sk) != Protocol::Tcp {
        return Err(Errno::ENOTCONN);
    }
    match k.sock_state(sk) {
        state::CLOSE | state::LISTEN | state::SYN_SENT => Err(Errno::ENOTCONN),
        now => {
            let out = how & crate::net::SEND_SHUTDOWN != 0;
            k.shut(sk, how);
            let open = matches!(now, state::ESTABLISHED | state::SYN_RECV | state::CLOSE_WAIT);
            Ok((out && open).then(|| k.tcp_shutdown(sk)))
        }
    }
}

impl Kernel {
    /// `O_NONBLOCK` of the file of a socket.
    pub(super) fn sock_nonblock(&self, sock: u64) -> bool {
        let file = self.get(sock, field!("socket", "file"));
        file != 0 && self.get(file, field!("file", "f_flags")) & O_NONBLOCK != 0
    }

    /// `sock_error`: told once.
    pub(super) fn sock_error(&mut self, sk: u64) -> Option<Errno> {
        let at = field!("sock", "sk_err");
        let err = Errno::from_raw(self.get(sk, at) as i32);
        self.set(sk, at, 0);
        err
    }

    /// What closing the file of a stream does to its connection.
    pub(crate) fn stream_close(&mut self, file: u64) -> Option<Frame> {
        let sock = *self.vfs.sockets.get(&file)?;
        let sk = self.get(sock, field!("socket", "sk"));
        (self.sock_protocol(sk) == Protocol::Tcp).then(|| {
            // inet_release: it goes with its connection.
            self.set(sock, field!("socket", "sk"), 0);
            self.tcp_close(sk)
        })
    }
}
