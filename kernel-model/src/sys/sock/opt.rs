//! Options of sockets, and the programs of control groups around them (net/core/sock.c,
//! net/ipv4/tcp.c, net/ipv4/ip_sockglue.c, `__cgroup_bpf_run_filter_setsockopt`).
//!
//! An option that the model does not have ends the run, whoever asks for it.

use bpf::uapi::AttachType;

use super::super::{Do, SysFrame};
use super::{IPPROTO_TCP, Ret};
use crate::cgroup::{Atype, Hook};
use crate::cpu::{CpuId, Frame};
use crate::layout::PAGE_SIZE;
use crate::net::CB_FLAGS;
use crate::types::Field;
use crate::{Errno, Kernel, field};

/// `SOL_SOCKET`, `IPPROTO_IP`, `IPPROTO_TCP`, `IPPROTO_UDP`, `IPPROTO_IPV6`.
const SOL_SOCKET: u32 = 1;
const SOL_IP: u32 = 0;
const SOL_TCP: u32 = 6;
const SOL_UDP: u32 = 17;
const SOL_IPV6: u32 = 41;
/// `CONFIG_HZ` of what sockets keep in jiffies.
const HZ: u64 = 1000;
/// `sysctl_wmem_max`, `SOCK_MIN_RCVBUF`, `SOCK_MIN_SNDBUF`.
const BUF_MAX: i64 = 212_992;
const RCVBUF_MIN: i64 = 2304;
const SNDBUF_MIN: i64 = 4608;
/// Options of [`SOL_TCP`] that are no member of the socket.
const TCP_SAVE_SYN: (u32, u32) = (SOL_TCP, 27);
pub(crate) const TCP_SAVED_SYN: (u32, u32) = (SOL_TCP, 28);
/// `SOCK_KEEPOPEN` of `sk_flags`.
const KEEPOPEN: u64 = 1 << 3;

/// Why an option cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OptError {
    /// As the kernel says.
    Errno(Errno),
    /// The model has none of this name.
    Unknown,
}

/// How a value is kept.
#[derive(Clone, Copy)]
enum Kept {
    /// As it is.
    Plain,
    /// 0 or 1.
    Bool,
    /// Twice the number, within limits (`__sock_set_rcvbuf`).
    Buffer(i64),
    /// 1 when 0 is asked for.
    AtLeastOne,
    /// In jiffies, from 1 up to so many seconds; and what it is when nobody has set it.
    Seconds(i64, u64),
    /// From 1 up to so many; the same.
    Count(i64, u64),
    /// From 0.
    Positive,
    /// Nobody sets it.
    ReadOnly,
}

/// Options that are a member of the socket: level, name, where, how.
fn row(level: u32, name: u32) -> Option<(Field, Kept)> {
    Some(match (level, name) {
        (SOL_SOCKET, 2) => (field!("sock", "__sk_common.skc_reuse"), Kept::Bool),
        (SOL_SOCKET, 3) => (field!("sock", "sk_type"), Kept::ReadOnly),
        (SOL_SOCKET, 7) => (field!("sock", "sk_sndbuf"), Kept::Buffer(SNDBUF_MIN)),
        (SOL_SOCKET, 8) => (field!("sock", "sk_rcvbuf"), Kept::Buffer(RCVBUF_MIN)),
        (SOL_SOCKET, 12) => (field!("sock", "sk_priority"), Kept::Plain),
        (SOL_SOCKET, 18) => (field!("sock", "sk_rcvlowat"), Kept::AtLeastOne),
        (SOL_SOCKET, 36) => (field!("sock", "sk_mark"), Kept::Plain),
        (SOL_SOCKET, 38) => (field!("sock", "sk_protocol"), Kept::ReadOnly),
        (SOL_SOCKET, 39) => (field!("sock", "__sk_common.skc_family"), Kept::ReadOnly),
        (SOL_SOCKET, 62) => (field!("sock", "__sk_common.skc_bound_dev_if"), Kept::Positive),
        (SOL_IP, 1) => (field!("inet_sock", "tos"), Kept::Plain),
        (SOL_TCP, 1) => (field!("tcp_sock", "nonagle"), Kept::Bool),
        (SOL_TCP, 4) => (field!("tcp_sock", "keepalive_time"), Kept::Seconds(32767, 7200)),
        (SOL_TCP, 5) => (field!("tcp_sock", "keepalive_intvl"), Kept::Seconds(32767, 75)),
        (SOL_TCP, 6) => (field!("tcp_sock", "keepalive_probes"), Kept::Count(127, 9)),
        (SOL_TCP, 7) => (field!("tcp_sock", "inet_conn.icsk_syn_retries"), Kept::Count(127, 6)),
        (SOL_TCP, 18) => (field!("tcp_sock", "inet_conn.icsk_user_timeout"), Kept::Positive),
        (SOL_TCP, 25) => (field!("tcp_sock", "notsent_lowat"), Kept::Plain),
        _ => return None,
    })
}

/// `rt_tos2priority`.
fn priority_of(tos: i64) -> u64 {
    // TC_PRIO_BESTEFFORT, BULK, INTERACTIVE, INTERACTIVE_BULK.
    [0, 2, 6, 4][(tos as usize & 0x1e) >> 3]
}

impl Kernel {
    /// `sk_setsockopt`, `do_tcp_setsockopt`, `do_ip_setsockopt` of an option that is an `int`.
    pub(crate) fn sockopt_set(
        &mut self,
        sk: u64,
        (level, name): (u32, u32),
        value: i32,
    ) -> Result<(), OptError> {
        if level == SOL_TCP && self.get(sk, field!("sock", "sk_protocol")) != IPPROTO_TCP {
            return Err(OptError::Errno(Errno::ENOPROTOOPT));
        }
        let given = i64::from(value);
        if (level, name) == (SOL_SOCKET, 9) {
            let flags = self.get(sk, field!("sock", "sk_flags"));
            let flags = if value != 0 { flags | KEEPOPEN } else { flags & !KEEPOPEN };
            self.set(sk, field!("sock", "sk_flags"), flags);
            return Ok(());
        }
        let invalid = Err(OptError::Errno(Errno::EINVAL));
        match (level, name) {
            TCP_SAVE_SYN if !(0..=2).contains(&value) => return invalid,
            TCP_SAVE_SYN => {
                self.tcp_save_syn_set(sk, value as u8);
                return Ok(());
            }
            TCP_SAVED_SYN => return Err(OptError::Errno(Errno::ENOPROTOOPT)),
            _ => {}
        }
        let (at, kept) = row(level, name).ok_or(OptError::Unknown)?;
        let value = match kept {
            Kept::Plain => given as u64,
            Kept::Bool => u64::from(value != 0),
            Kept::Buffer(least) => (given.clamp(0, BUF_MAX) * 2).max(least) as u64,
            Kept::AtLeastOne if given < 0 => i32::MAX as u64,
            Kept::AtLeastOne => given.max(1) as u64,
            Kept::Seconds(most, _) if !(1..=most).contains(&given) => return invalid,
            Kept::Seconds(..) => given as u64 * HZ,
            Kept::Count(most, _) if !(1..=most).contains(&given) => return invalid,
            Kept::Positive if given < 0 => return invalid,
            Kept::Count(..) | Kept::Positive => given as u64,
            Kept::ReadOnly => return Err(OptError::Errno(Errno::ENOPROTOOPT)),
        };
        if (level, name) == (SOL_IP, 1) {
            return self.tos_set(sk, given);
        }
        self.set(sk, at, value & (u64::MAX >> (64 - 8 * at.size)));
        Ok(())
    }

    /// `__ip_sock_set_tos`: a stream keeps its ECN bits.
    fn tos_set(&mut self, sk: u64, given: i64) -> Result<(), OptError> {
        let at = field!("inet_sock", "tos");
        let mut tos = given & 0xff;
        if self.get(sk, field!("sock", "sk_protocol")) == IPPROTO_TCP {
            tos = tos & !3 | self.get(sk, at) as i64 & 3;
        }
        self.set(sk, at, tos as u64);
        self.set(sk, field!("sock", "sk_priority"), priority_of(tos));
        Ok(())
    }

    /// `sk_getsockopt`, `do_tcp_getsockopt`, `do_ip_getsockopt`.
    pub(crate) fn sockopt_get(&self, sk: u64, (level, name): (u32, u32)) -> Result<i32, OptError> {
        if level == SOL_TCP && self.get(sk, field!("sock", "sk_protocol")) != IPPROTO_TCP {
            return Err(OptError::Errno(Errno::ENOPROTOOPT));
        }
        if (level, name) == (SOL_SOCKET, 9) {
            let flags = self.get(sk, field!("sock", "sk_flags"));
            return Ok(i32::from(flags & KEEPOPEN != 0));
        }
        if (level, name) == TCP_SAVE_SYN {
            return Ok(self.tcp_save_syn(sk).into());
        }
        let (at, kept) = row(level, name).ok_or(OptError::Unknown)?;
        let value = self.get(sk, at);
        Ok(match (kept, value) {
            (Kept::Seconds(_, default) | Kept::Count(_, default), 0) => default as i32,
            (Kept::Seconds(..), v) => (v / HZ) as i32,
            (_, v) => v as u32 as i32,
        })
    }

    /// `bpf_sol_tcp_setsockopt`: options that only programs have.
    pub(crate) fn sockopt_set_bpf(
        &mut self,
        sk: u64,
        name: u32,
        value: i32,
    ) -> Result<(), OptError> {
        let refused = Err(OptError::Errno(Errno::EINVAL));
        match name {
            // TCP_BPF_IW
            1001 if value <= 0 || self.get(sk, field!("tcp_sock", "data_segs_out")) > 0 => refused,
            1001 => {
                self.set(sk, field!("tcp_sock", "snd_cwnd"), value as u64);
                Ok(())
            }
            // TCP_BPF_SNDCWND_CLAMP
            1002 if value <= 0 => refused,
            1002 => {
                self.set(sk, field!("tcp_sock", "snd_cwnd_clamp"), value as u64);
                self.set(sk, field!("tcp_sock", "snd_ssthresh"), value as u64);
                Ok(())
            }
            // TCP_BPF_SOCK_OPS_CB_FLAGS
            1008 if i64::from(value) & !CB_FLAGS != 0 => refused,
            1008 => {
                self.set(sk, field!("tcp_sock", "bpf_sock_ops_cb_flags"), value as u64);
                Ok(())
            }
            _ => Err(OptError::Unknown),
        }
    }

    /// What a failed option is to the caller of the system call.
    fn sockopt_error(&mut self, cpu: CpuId, e: OptError, (level, name): (u32, u32)) -> Errno {
        match e {
            OptError::Errno(errno) => errno,
            OptError::Unknown
                if !matches!(level, SOL_IP | SOL_SOCKET | SOL_TCP | SOL_UDP | SOL_IPV6) =>
            {
                Errno::ENOPROTOOPT
            }
            OptError::Unknown => {
                self.sys_unsupported(cpu, &format!("socket option {name} of level {level}"))
            }
        }
    }

    /// `bpf_sockopt_kern` with a buffer of so many bytes, or of a page (`sockopt_alloc_buf`).
    fn sockopt_context(
        &mut self,
        f: &mut SysFrame,
        sk: u64,
        room: u64,
    ) -> Result<(u64, u64), Errno> {
        let room = room.min(PAGE_SIZE);
        let kern = self.kzalloc(crate::size!("bpf_sockopt_kern"), "bpf_sockopt_kern")?;
        f.todo.push_back(Do::Free(kern));
        let buf = self.kzalloc(room.max(1), "socket option")?;
        f.todo.push_back(Do::Free(buf));
        for (at, value) in [
            (field!("bpf_sockopt_kern", "sk"), sk),
            (field!("bpf_sockopt_kern", "optval"), buf),
            (field!("bpf_sockopt_kern", "optval_end"), buf + room),
            (field!("bpf_sockopt_kern", "level"), f.arg(1) & 0xffff_ffff),
            (field!("bpf_sockopt_kern", "optname"), f.arg(2) & 0xffff_ffff),
            (field!("bpf_sockopt_kern", "current_task"), self.task_addr(f.task)),
        ] {
            self.set(kern, at, value);
        }
        f.object = kern;
        Ok((buf, room))
    }

    fn sockopt_run(&mut self, f: &SysFrame, attach: AttachType, retval: i32) -> Option<Frame> {
        let sk = self.get(f.object, field!("bpf_sockopt_kern", "sk"));
        let hook = match attach {
            AttachType::CgroupGetsockopt => {
                let at = field!("bpf_sockopt_kern", "retval");
                Hook::Retval(f.object + u64::from(at.off))
            }
            _ => Hook::Plain,
        };
        let cgroup = self.sock_cgroup(sk);
        self.cgroup_run(cgroup, Atype::Of(attach as u32), (f.object, retval), hook)
    }

    fn sockopt_len(&self, kern: u64) -> i32 {
        self.get(kern, field!("bpf_sockopt_kern", "optlen")) as u32 as i32
    }

    pub(super) fn u32_bytes(&self, v: u32) -> [u8; 4] {
        match self.mem.endian() {
            bpf::Endian::Little => v.to_le_bytes(),
            bpf::Endian::Big => v.to_be_bytes(),
        }
    }
}

/// `do_sock_setsockopt`.
pub(in super::super) fn setsockopt(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    if (f.arg(4) as u32 as i32) < 0 {
        return Err(Errno::EINVAL);
    }
    let sock = k.fd_socket(f)?;
    f.first([
        Do::Lsm("bpf_lsm_socket_setsockopt", vec![sock, f.arg(1), f.arg(2)]),
        Do::Call(set_programs),
        Do::Act(set_apply),
    ]);
    Ok(0)
}

/// `__cgroup_bpf_run_filter_setsockopt` up to the programs.
fn set_programs(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Result<Option<Frame>, Errno> {
    let (_, sk) = k.fd_sk(f)?;
    if !k.cgroup_has(sk, AttachType::CgroupSetsockopt) {
        return Ok(None);
    }
    let len = f.arg(4) & 0xffff_ffff;
    let (buf, room) = k.sockopt_context(f, sk, len.max(16))?;
    let bytes = k.user_read(f.arg(3), len.min(room) as usize).ok_or(Errno::EFAULT)?;
    k.mem.write(buf, &bytes).expect("a new object is mapped");
    k.set(f.object, field!("bpf_sockopt_kern", "optlen"), len);
    f.then = Some(set_over);
    Ok(k.sockopt_run(f, AttachType::CgroupSetsockopt, 0))
}

/// The same, after them.
fn set_over(k: &mut Kernel, _: CpuId, f: &mut SysFrame, ret: u64) -> Ret {
    let ret = ret as u32 as i32;
    if ret < 0 {
        return Err(Errno::from_raw(-ret).unwrap_or(Errno::EPERM));
    }
    let (kern, given) = (f.object, f.arg(4) as u32 as i32);
    let len = k.sockopt_len(kern);
    let buf = k.get(kern, field!("bpf_sockopt_kern", "optval"));
    let room = k.get(kern, field!("bpf_sockopt_kern", "optval_end")) - buf;
    let bypass = ret > 0 || len == -1;
    if !bypass && (len < -1 || i64::from(len) > room as i64) {
        // A program that has seen a part of a large value leaves it as it is.
        let large = i64::from(given) > PAGE_SIZE as i64 && len >= 0;
        return if large { Ok(0) } else { Err(Errno::EFAULT) };
    }
    if bypass {
        f.todo.retain(|d| !matches!(d, Do::Act(_)));
        return Ok(0);
    }
    f.args[1] = k.get(kern, field!("bpf_sockopt_kern", "level"));
    f.args[2] = k.get(kern, field!("bpf_sockopt_kern", "optname"));
    if len != 0 {
        f.args[4] = len as u64;
        f.bytes = Some(k.bytes(buf, len as u64));
    }
    Ok(0)
}

fn set_apply(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Ret {
    let (_, sk) = k.fd_sk(f)?;
    let which = (f.arg(1) as u32, f.arg(2) as u32);
    let len = f.arg(4) as u32;
    // An option of IP may be a byte.
    let byte = which.0 == SOL_IP && (1..4).contains(&len);
    if len < 4 && !byte {
        return Err(Errno::EINVAL);
    }
    let size = if byte { 1 } else { 4 };
    let bytes = match f.bytes.take() {
        Some(bytes) => bytes,
        None => k.user_read(f.arg(3), size).ok_or(Errno::EFAULT)?,
    };
    let value = match byte {
        true => i32::from(bytes[0]),
        false => crate::maps::index_of(k.mem.endian(), &bytes[..4]).cast_signed(),
    };
    k.sockopt_set(sk, which, value).map_err(|e| k.sockopt_error(cpu, e, which))?;
    Ok(0)
}

/// `do_sock_getsockopt`.
pub(in super::super) fn getsockopt(k: &mut Kernel, _: CpuId, f: &mut SysFrame) -> Ret {
    let sock = k.fd_socket(f)?;
    f.first([
        Do::Lsm("bpf_lsm_socket_getsockopt", vec![sock, f.arg(1), f.arg(2)]),
        Do::Call(get_programs),
    ]);
    Ok(0)
}

/// The kernel's own answer, and `__cgroup_bpf_run_filter_getsockopt` up to the programs.
fn get_programs(k: &mut Kernel, cpu: CpuId, f: &mut SysFrame) -> Result<Option<Frame>, Errno> {
    let (_, sk) = k.fd_sk(f)?;
    let room = k.user_read(f.arg(4), 4).ok_or(Errno::EFAULT)?;
    let room = crate::maps::index_of(k.mem.endian(), &room).cast_signed();
    let answer = get_answer(k, cpu, f, (sk, room));
    if !k.cgroup_has(sk, AttachType::CgroupGetsockopt) {
        return answer.map(|()| None);
    }
    let most = u64::try_from(room).map_err(|_| Errno::EINVAL)?;
    let (buf, most) = k.sockopt_context(f, sk, most)?;
    let mut len = room;
    if answer.is_ok() {
        let bytes = k.user_read(f.arg(4), 4).ok_or(Errno::EFAULT)?;
        len = crate::maps::index_of(k.mem.endian(), &bytes).cast_signed();
        let bytes = k.user_read(f.arg(3), (len as u64).min(most) as usize).ok_or(Errno::EFAULT)?;
        k.mem.write(buf, &bytes).expect("a new object is mapped");
    }
    let at = field!("bpf_sockopt_kern", "optlen");
    k.set(f.object, at, u64::from(len.cast_unsigned()));
    let retval = answer.err().map_or(0, |e| -(e as i32));
    f.then = Some(get_over);
    Ok(k.sockopt_run(f, AttachType::CgroupGetsockopt, retval))
}

fn get_answer(
    k: &mut Kernel,
    cpu: CpuId,
    f: &SysFrame,
    (sk, room): (u64, i32),
) -> Result<(), Errno> {
    let which = (f.arg(1) as u32, f.arg(2) as u32);
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    if which == TCP_SAVED_SYN && k.get(sk, field!("sock", "sk_protocol")) == IPPROTO_TCP {
        return saved_syn(k, f, (sk, room));
    }
    let value = k.sockopt_get(sk, which).map_err(|e| k.sockopt_error(cpu, e, which))?;
    let bytes = k.u32_bytes(value.cast_unsigned());
    let len = room.min(4);
    let out = k.u32_bytes(len as u32);
    k.user_write(f.arg(4), &out)?;
    k.user_write(f.arg(3), &bytes[..len])
}

/// `do_tcp_getsockopt` of `TCP_SAVED_SYN`: told once, and how much room it takes.
fn saved_syn(k: &mut Kernel, f: &SysFrame, (sk, room): (u64, usize)) -> Result<(), Errno> {
    let syn = k.tcp_saved_syn(sk).map_or_else(Vec::new, |s| s.bytes().to_vec());
    let len = k.u32_bytes(syn.len() as u32);
    k.user_write(f.arg(4), &len)?;
    if room < syn.len() {
        return Err(Errno::EINVAL);
    }
    k.user_write(f.arg(3), &syn)?;
    k.tcp_saved_syn_free(sk);
    Ok(())
}

fn get_over(k: &mut Kernel, _: CpuId, f: &mut SysFrame, ret: u64) -> Ret {
    let ret = ret as u32 as i32;
    if ret < 0 {
        return Err(Errno::from_raw(-ret).unwrap_or(Errno::EPERM));
    }
    let kern = f.object;
    let len = k.sockopt_len(kern);
    let buf = k.get(kern, field!("bpf_sockopt_kern", "optval"));
    let room = k.get(kern, field!("bpf_sockopt_kern", "optval_end")) - buf;
    if len < 0 || i64::from(len) > room as i64 {
        return Err(Errno::EFAULT);
    }
    if len != 0 {
        let bytes = k.bytes(buf, len as u64);
        k.user_write(f.arg(3), &bytes)?;
        let out = k.u32_bytes(len.cast_unsigned());
        k.user_write(f.arg(4), &out)?;
    }
    Ok(ret as u64)
}
