//! Sockets: what look-ups of programs find (net/core/filter.c, net/ipv4/inet_hashtables.c, udp.c).
//!
//! A scenario states the sockets of the machine, and its tasks make others.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use crate::cpu::CpuId;
use crate::sched::TaskId;
use crate::{Errno, Kernel, field};

/// Protocol of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `IPPROTO_TCP`.
    Tcp,
    /// `IPPROTO_UDP`.
    Udp,
}

/// A socket as it is stated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketConfig {
    /// Protocol.
    pub protocol: Protocol,
    /// Own address; an unspecified one stands for all.
    pub local: SocketAddr,
    /// The other end: without one a TCP socket listens, a UDP socket takes datagrams of all.
    pub remote: Option<SocketAddr>,
    /// `sk_bound_dev_if`, 0 for any device.
    pub dev: u32,
    /// `sk_mark`.
    pub mark: u32,
}

/// All sockets by the address of their `struct sock`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sockets {
    all: BTreeMap<u64, SocketConfig>,
    /// Those of tasks.
    owned: BTreeMap<u64, Owned>,
    /// The last cookie that was given.
    cookies: u64,
}

/// What a task's socket has received, and who waits for more.
#[derive(Clone, Debug, Default)]
struct Owned {
    queue: VecDeque<Datagram>,
    waits: Option<TaskId>,
    /// The port that it has.
    port: Option<(Protocol, SocketAddr)>,
}

/// A datagram as a socket receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Datagram {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) payload: Vec<u8>,
}

/// `TCP_ESTABLISHED`, `TCP_CLOSE`, `TCP_LISTEN`.
const ESTABLISHED: u64 = 1;
const CLOSE: u64 = 7;
pub(crate) const LISTEN: u64 = 10;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
/// `tcp_rmem[1]`, `sysctl_somaxconn`.
const TCP_RMEM: u64 = 131_072;
const SOMAXCONN: u64 = 4096;
/// `NO_QUEUE_MAPPING`.
const NO_QUEUE: u64 = 0xffff;

impl Sockets {
    /// The socket for a packet from `remote` to `local`: a connected one first, then the most
    /// exact of the others (`compute_score`).
    pub(crate) fn lookup(
        &self,
        protocol: Protocol,
        (remote, local): (SocketAddr, SocketAddr),
        dev: u32,
    ) -> Option<u64> {
        let score = |s: &SocketConfig| -> Option<u32> {
            let any = s.local.ip().is_unspecified();
            let here = s.local.port() == local.port()
                && (s.local.ip() == local.ip() || any && s.local.is_ipv4() == local.is_ipv4());
            let from = s.remote.is_none_or(|r| r == remote);
            let through = s.dev == 0 || s.dev == dev;
            (s.protocol == protocol && here && from && through).then_some(
                u32::from(s.remote.is_some()) * 8 + u32::from(s.dev != 0) * 2 + u32::from(!any),
            )
        };
        let found = self.all.iter().filter_map(|(at, s)| Some((score(s)?, *at)));
        // Of equals the one that was there first.
        found.max_by_key(|(score, at)| (*score, std::cmp::Reverse(*at))).map(|f| f.1)
    }

    /// `sk_is_refcounted`: listeners and UDP sockets are freed by RCU.
    pub(crate) fn is_counted(&self, sk: u64) -> bool {
        let tcp = |s: &SocketConfig| s.protocol == Protocol::Tcp && s.remote.is_some();
        self.all.get(&sk).is_some_and(tcp)
    }

    /// Whether a socket has this address of its own.
    pub(crate) fn is_bound_to(&self, ip: IpAddr) -> bool {
        self.all.values().any(|s| s.local.ip() == ip)
    }

    /// Whether tasks have sockets.
    pub(crate) fn any_of_task(&self) -> bool {
        !self.owned.is_empty()
    }

    /// `inet_csk_get_port`, `udp_lib_get_port`: whether a port of an address is free.
    pub(crate) fn is_free(&self, protocol: Protocol, at: SocketAddr) -> bool {
        let taken = |(of, local): (Protocol, SocketAddr)| {
            let same = local.ip() == at.ip();
            let any = local.ip().is_unspecified() || at.ip().is_unspecified();
            of == protocol && local.port() == at.port() && (same || any)
        };
        let stated = self.all.values().map(|s| (s.protocol, s.local));
        !stated.chain(self.owned.values().filter_map(|o| o.port)).any(taken)
    }

    /// A task's socket has these ends now; some have a port, but are not found by packets.
    pub(crate) fn bound(&mut self, sk: u64, config: SocketConfig, found: bool) {
        let Some(owned) = self.owned.get_mut(&sk) else { return };
        owned.port = (config.local.port() != 0).then_some((config.protocol, config.local));
        if found {
            self.all.insert(sk, config);
        } else {
            self.all.remove(&sk);
        }
    }

    /// A connection: segments find it.
    pub(crate) fn hashed(&mut self, sk: u64, config: SocketConfig) {
        self.all.insert(sk, config);
    }

    /// Segments do not find it any more.
    pub(crate) fn unhash(&mut self, sk: u64) {
        self.all.remove(&sk);
    }

    /// Whether a socket is one of a task, or came of one.
    pub(crate) fn is_owned(&self, sk: u64) -> bool {
        self.owned.contains_key(&sk)
    }

    /// A task has made a socket.
    pub(crate) fn made(&mut self, sk: u64) {
        self.owned.insert(sk, Owned::default());
    }

    /// `struct sock` of all sockets.
    pub(crate) fn sks(&self) -> impl Iterator<Item = u64> {
        let stated = self.all.keys().filter(|sk| !self.owned.contains_key(sk));
        self.owned.keys().chain(stated).copied()
    }

    /// It is closed.
    pub(crate) fn gone(&mut self, sk: u64) {
        self.all.remove(&sk);
        self.owned.remove(&sk);
    }

    /// Takes what was received first.
    pub(crate) fn receive(&mut self, sk: u64) -> Option<Datagram> {
        self.owned.get_mut(&sk)?.queue.pop_front()
    }

    /// A task waits for what comes.
    pub(crate) fn wait(&mut self, sk: u64, task: TaskId) {
        if let Some(owned) = self.owned.get_mut(&sk) {
            owned.waits = Some(task);
        }
    }
}

impl Kernel {
    /// Adds a socket; the address of its `struct sock`.
    ///
    /// # Errors
    /// `EADDRINUSE` for the same ends twice, `EINVAL` for ends of two families, `ENOMEM`.
    pub fn socket_add(&mut self, config: SocketConfig) -> Result<u64, Errno> {
        let v6 = config.local.is_ipv6();
        if config.remote.is_some_and(|r| r.is_ipv6() != v6) {
            return Err(Errno::EINVAL);
        }
        if self.net.sockets.all.values().any(|s| *s == config) {
            return Err(Errno::EADDRINUSE);
        }
        let tcp = config.protocol == Protocol::Tcp;
        let size = crate::types::size(if tcp { "tcp_sock" } else { "udp_sock" });
        let sk = self.kzalloc(size, "sock")?;
        let state = match (config.remote, tcp) {
            (Some(_), _) => ESTABLISHED,
            (None, true) => LISTEN,
            (None, false) => CLOSE,
        };
        let remote_port = config.remote.map_or(0, |r| r.port());
        self.net.sockets.cookies += 1;
        let cookie = self.net.sockets.cookies;
        let numbers = [
            (field!("sock", "__sk_common.skc_family"), if v6 { AF_INET6 } else { AF_INET }),
            (field!("sock", "__sk_common.skc_state"), state),
            (field!("sock", "__sk_common.skc_num"), config.local.port().into()),
            (field!("sock", "__sk_common.skc_dport"), self.be16(remote_port)),
            (field!("sock", "__sk_common.skc_bound_dev_if"), config.dev.into()),
            (field!("sock", "__sk_common.skc_cookie"), cookie),
            (field!("sock", "__sk_common.skc_refcnt"), 1),
            (field!("sock", "__sk_common.skc_rx_queue_mapping"), NO_QUEUE),
            (field!("sock", "sk_type"), if tcp { 1 } else { 2 }),
            (field!("sock", "sk_protocol"), if tcp { 6 } else { 17 }),
            (field!("sock", "sk_mark"), config.mark.into()),
            (field!("sock", "sk_rcvbuf"), if tcp { TCP_RMEM } else { 0 }),
            (field!("sock", "sk_max_ack_backlog"), if tcp { SOMAXCONN } else { 0 }),
        ];
        for (f, v) in numbers {
            self.set(sk, f, v);
        }
        self.socket_addresses(sk, config.local.ip(), config.remote.map(|r| r.ip()));
        self.net.sockets.all.insert(sk, config);
        Ok(sk)
    }

    /// Puts a stated socket into a control group.
    pub fn socket_cgroup(&mut self, sk: u64, group: usize) {
        let cgroup = self.cgroup_addr(group);
        self.set(sk, field!("sock", "sk_cgrp_data.cgroup"), cgroup);
    }

    /// `sock_gen_cookie`.
    pub(crate) fn sock_cookie(&mut self, sk: u64) -> u64 {
        let cookie = field!("sock", "__sk_common.skc_cookie");
        if self.get(sk, cookie) == 0 {
            self.net.sockets.cookies += 1;
            let next = self.net.sockets.cookies;
            self.set(sk, cookie, next);
        }
        self.get(sk, cookie)
    }

    /// `__udp_enqueue_schedule_skb`: a task that waits goes on. What comes to a stated socket is
    /// read by nobody.
    pub(crate) fn sock_queue_rcv(&mut self, cpu: CpuId, sk: u64, datagram: Datagram) {
        let Some(owned) = self.net.sockets.owned.get_mut(&sk) else { return };
        owned.queue.push_back(datagram);
        self.sock_wake(cpu, sk);
    }

    /// A task that waits for the socket goes on (`sk_state_change`, `sk_data_ready`).
    pub(crate) fn sock_wake(&mut self, cpu: CpuId, sk: u64) {
        let owned = self.net.sockets.owned.get_mut(&sk);
        if let Some(task) = owned.and_then(|o| o.waits.take()) {
            self.task_wake(cpu, task);
        }
    }

    pub(crate) fn socket_addresses(&mut self, sk: u64, local: IpAddr, remote: Option<IpAddr>) {
        let ends = [
            (
                Some(local),
                field!("sock", "__sk_common.skc_rcv_saddr"),
                field!("sock", "__sk_common.skc_v6_rcv_saddr"),
            ),
            (
                remote,
                field!("sock", "__sk_common.skc_daddr"),
                field!("sock", "__sk_common.skc_v6_daddr"),
            ),
        ];
        for (ip, v4, v6) in ends {
            match ip {
                Some(IpAddr::V4(a)) => self.set_bytes(sk, v4, &a.octets()),
                Some(IpAddr::V6(a)) => self.set_bytes(sk, v6, &a.octets()),
                None => {}
            }
        }
    }
}
