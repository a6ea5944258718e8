//! AF_UNIX sockets (net/unix/af_unix.c): names, peers and queues. Their calls are in
//! [`crate::sys`].

use std::collections::{BTreeMap, VecDeque};

use crate::sched::TaskId;
use crate::{Errno, Kernel, field};

/// `AF_UNIX`, and the length of `sun_path`.
pub(crate) const AF_UNIX: u64 = 1;
pub(crate) const PATH_MAX: usize = 108;
/// `offsetof(struct sockaddr_un, sun_path)`.
pub(crate) const SUN_PATH: u64 = 2;
/// `offsetof(struct unix_address, name)`.
const ADDRESS: u64 = 8;
/// `SHUTDOWN_MASK`.
const SHUT: u64 = 3;

/// `sizeof(struct sk_buff)`, and of `skb_shared_info`, in whole cache lines; what `kmalloc` has at
/// least for a head.
const SKB: u64 = 256;
const SHARED_INFO: u64 = 320;
const HEAD_MIN: u64 = 512;
const CACHE_LINE: u64 = 64;

/// What was sent, and the name of who sent it.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) from: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
    /// `skb->sk`, and what that is charged for it (`truesize`).
    owner: u64,
    charge: u64,
}

/// `truesize` of an skb with so many bytes in its head and in pages (`alloc_skb_with_frags`).
fn truesize(head: u64, pages: u64) -> u64 {
    let head = (head.next_multiple_of(CACHE_LINE) + SHARED_INFO).max(HEAD_MIN);
    SKB + head.next_power_of_two() + pages.next_multiple_of(crate::layout::PAGE_SIZE)
}

/// What an AF_UNIX socket has besides its `unix_sock`.
#[derive(Clone, Debug, Default)]
struct UnixSk {
    /// `sun_path` as far as the address reaches; empty for none.
    name: Vec<u8>,
    /// It is found by its name; for one in the file system, by this inode.
    bound: bool,
    inode: Option<u64>,
    peer: Option<u64>,
    /// `SOCK_DEAD`: it is closed, and there as long as it is a peer.
    dead: bool,
    /// `sk_receive_queue`; of a listener, the ends that nobody has accepted.
    queue: VecDeque<Message>,
    embryos: VecDeque<u64>,
    /// `peer_wait`: who waits for room in the queue.
    senders: Vec<TaskId>,
    /// `sk_wmem_alloc`: what it sent and nobody has read, and who waits for that to be less.
    wmem: u64,
    writers: Vec<TaskId>,
}

/// All of them, by the address of their `unix_sock`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unix {
    socks: BTreeMap<u64, UnixSk>,
}

impl Kernel {
    /// Whether a socket is of this family.
    pub(crate) fn sock_is_unix(&self, sk: u64) -> bool {
        self.get(sk, field!("sock", "__sk_common.skc_family")) == AF_UNIX
    }

    fn unix_sk(&mut self, sk: u64) -> &mut UnixSk {
        self.net.unix.socks.entry(sk).or_default()
    }

    /// A new one (`unix_create1`).
    pub(crate) fn unix_made(&mut self, sk: u64) {
        self.unix_sk(sk);
    }

    /// `unix_sk(sk)->addr`: what follows the family, empty for none.
    pub(crate) fn unix_name(&self, sk: u64) -> Vec<u8> {
        self.net.unix.socks.get(&sk).map_or_else(Vec::new, |u| u.name.clone())
    }

    /// `unix_peer`.
    pub(crate) fn unix_peer(&self, sk: u64) -> Option<u64> {
        self.net.unix.socks.get(&sk)?.peer
    }

    /// The peer, when there is one, is no longer one (`unix_dgram_disconnected`).
    pub(crate) fn unix_disconnect(&mut self, sk: u64) {
        let peer = self.unix_peer(sk);
        self.unix_peer_set(sk, None);
        if let Some(peer) = peer {
            self.unix_put(peer);
        }
    }

    /// The same, set.
    pub(crate) fn unix_peer_set(&mut self, sk: u64, peer: Option<u64>) {
        self.unix_sk(sk).peer = peer;
        self.set(sk, field!("unix_sock", "peer"), peer.unwrap_or(0));
    }

    /// `unix_create_addr`: the socket has a name.
    pub(crate) fn unix_name_set(&mut self, sk: u64, name: &[u8]) -> Result<(), Errno> {
        let at = self.kzalloc(ADDRESS + crate::size!("sockaddr_un"), "unix_address")?;
        self.set(at, field!("unix_address", "refcnt"), 1);
        self.set(at, field!("unix_address", "len"), SUN_PATH + name.len() as u64);
        let un = at + ADDRESS;
        self.set(un, field!("sockaddr_un", "sun_family"), AF_UNIX);
        self.mem.write(un + SUN_PATH, name).expect("a new object is mapped");
        self.set(sk, field!("unix_sock", "addr"), at);
        self.unix_sk(sk).name = name.to_vec();
        Ok(())
    }

    /// `__unix_insert_socket`: it is found by its name.
    pub(crate) fn unix_bound(&mut self, sk: u64, inode: Option<u64>) {
        let u = self.unix_sk(sk);
        (u.bound, u.inode) = (true, inode);
    }

    /// `unix_find_socket_byname`, of an abstract name and a type.
    pub(crate) fn unix_by_name(&self, name: &[u8], kind: u64) -> Option<u64> {
        let here = |(sk, u): (&u64, &UnixSk)| {
            u.bound && u.inode.is_none() && u.name == name && self.unix_type(*sk) == kind
        };
        self.net.unix.socks.iter().find(|e| here(*e)).map(|e| *e.0)
    }

    /// `SOCK_DEAD`.
    pub(crate) fn unix_is_dead(&self, sk: u64) -> bool {
        self.net.unix.socks.get(&sk).is_none_or(|u| u.dead)
    }

    /// `unix_find_socket_byinode`.
    pub(crate) fn unix_by_inode(&self, inode: u64) -> Option<u64> {
        self.net.unix.socks.iter().find(|(_, u)| u.bound && u.inode == Some(inode)).map(|e| *e.0)
    }

    /// `sk_type`.
    pub(crate) fn unix_type(&self, sk: u64) -> u64 {
        self.get(sk, field!("sock", "sk_type"))
    }

    /// `unix_recvq_full`.
    pub(crate) fn unix_full(&self, sk: u64) -> bool {
        let queued = self.net.unix.socks.get(&sk).map_or(0, |u| u.queue.len() + u.embryos.len());
        queued as u64 > self.get(sk, field!("sock", "sk_max_ack_backlog"))
    }

    /// Whether a socket has sent as much as it may (`sk_wmem_alloc`, `sk_sndbuf`).
    pub(crate) fn unix_wmem_full(&self, sk: u64) -> bool {
        let wmem = self.net.unix.socks.get(&sk).map_or(0, |u| u.wmem);
        wmem >= self.get(sk, field!("sock", "sk_sndbuf"))
    }

    /// A task waits for that to change (`sock_wait_for_wmem`).
    pub(crate) fn unix_wait_wmem(&mut self, sk: u64, task: TaskId) {
        self.unix_sk(sk).writers.push(task);
    }

    /// Puts what a socket sends into the queue of another; so much of it is in pages.
    pub(crate) fn unix_deliver(&mut self, sk: u64, to: u64, bytes: Vec<u8>, pages: u64) {
        let charge = truesize(bytes.len() as u64 - pages, pages);
        self.unix_sk(sk).wmem += charge;
        let message = Message { from: self.unix_name(sk), bytes, owner: sk, charge };
        self.unix_sk(to).queue.push_back(message);
        self.unix_wake(to);
    }

    /// `sock_wfree`, `unix_write_space`.
    fn unix_uncharge(&mut self, message: &Message) {
        let sk = message.owner;
        let u = self.unix_sk(sk);
        u.wmem -= message.charge;
        let (wmem, dead) = (u.wmem, u.dead);
        if dead {
            self.unix_put(sk);
        } else if (wmem + 1) * 4 <= self.get(sk, field!("sock", "sk_sndbuf")) {
            self.unix_wake_writers(sk);
        }
    }

    fn unix_wake_writers(&mut self, sk: u64) {
        for task in std::mem::take(&mut self.unix_sk(sk).writers) {
            self.task_wake(self.this_cpu(), task);
        }
    }

    /// `sk_data_ready`, `sk_state_change`.
    pub(crate) fn unix_wake(&mut self, sk: u64) {
        self.sock_wake(self.this_cpu(), sk);
        self.unix_wake_writers(sk);
    }

    /// The first datagram, which stays when it is only looked at; who waits for room goes on.
    pub(crate) fn unix_take(&mut self, sk: u64, peek: bool) -> Option<Message> {
        if peek {
            return self.unix_sk(sk).queue.front().cloned();
        }
        let message = self.unix_sk(sk).queue.pop_front()?;
        self.unix_room(sk);
        self.unix_uncharge(&message);
        Some(message)
    }

    /// Up to so many bytes of a stream and the name of who sent the first; the bytes stay when
    /// they are only looked at.
    pub(crate) fn unix_read(
        &mut self,
        sk: u64,
        most: usize,
        peek: bool,
    ) -> Option<(Vec<u8>, Vec<u8>)> {
        let queue = &mut self.unix_sk(sk).queue;
        let from = queue.front()?.from.clone();
        let mut bytes = Vec::new();
        if peek {
            let all = queue.iter().flat_map(|m| &m.bytes);
            return Some((all.take(most).copied().collect(), from));
        }
        let mut over = Vec::new();
        while bytes.len() < most {
            let Some(first) = queue.front_mut() else { break };
            let part = first.bytes.len().min(most - bytes.len());
            bytes.extend(first.bytes.drain(..part));
            if first.bytes.is_empty() {
                over.extend(queue.pop_front());
            }
        }
        over.iter().for_each(|m| self.unix_uncharge(m));
        Some((bytes, from))
    }

    /// A task waits for room in a queue.
    pub(crate) fn unix_wait_room(&mut self, sk: u64, task: TaskId) {
        self.unix_sk(sk).senders.push(task);
    }

    fn unix_room(&mut self, sk: u64) {
        for task in std::mem::take(&mut self.unix_sk(sk).senders) {
            self.task_wake(self.this_cpu(), task);
        }
    }

    /// A connection to a listener: its end is what somebody will accept.
    pub(crate) fn unix_embryo(&mut self, listener: u64, end: u64) {
        self.unix_sk(listener).embryos.push_back(end);
        self.unix_wake(listener);
    }

    /// The first end that nobody has accepted.
    pub(crate) fn unix_accept(&mut self, listener: u64) -> Option<u64> {
        let end = self.unix_sk(listener).embryos.pop_front()?;
        self.unix_room(listener);
        Some(end)
    }

    /// `sk_shutdown`, in one direction or both, and what a peer of a stream has of it.
    pub(crate) fn unix_shut(&mut self, sk: u64, how: u64, stream: bool) {
        self.shut(sk, how);
        self.unix_wake(sk);
        if let Some(peer) = self.unix_peer(sk).filter(|_| stream) {
            // RCV_SHUTDOWN of the one is SEND_SHUTDOWN of the other.
            self.shut(peer, (how & 1) << 1 | how >> 1);
            self.unix_wake(peer);
        }
    }

    /// `unix_release_sock`.
    pub(crate) fn unix_release(&mut self, sk: u64) {
        self.shut(sk, SHUT);
        // sock_orphan
        self.set(sk, field!("sock", "sk_socket"), 0);
        self.unix_room(sk);
        let stream = self.unix_type(sk) != crate::sys::SOCK_DGRAM;
        let u = self.unix_sk(sk);
        (u.dead, u.bound) = (true, false);
        let lost = std::mem::take(&mut u.queue);
        let embryos = std::mem::take(&mut u.embryos);
        let peer = u.peer;
        for end in embryos {
            if let Some(peer) = self.unix_peer(end) {
                self.set(peer, field!("sock", "sk_err"), Errno::ECONNRESET as i32 as u64);
            }
            self.unix_release(end);
        }
        if let Some(peer) = peer {
            self.unix_peer_set(sk, None);
            if stream {
                self.shut(peer, SHUT);
                if !lost.is_empty() {
                    self.set(peer, field!("sock", "sk_err"), Errno::ECONNRESET as i32 as u64);
                }
                self.unix_wake(peer);
            }
            self.unix_put(peer);
        }
        lost.iter().for_each(|m| self.unix_uncharge(m));
        self.unix_put(sk);
    }

    /// `sock_put` of one that may be closed, nobody's peer, and owner of nothing unread.
    fn unix_put(&mut self, sk: u64) {
        let of_peer = self.net.unix.socks.values().any(|u| u.peer == Some(sk));
        let owns = self.net.unix.socks.get(&sk).is_none_or(|u| u.wmem > 0);
        if of_peer || owns || !self.unix_is_dead(sk) {
            return;
        }
        self.net.unix.socks.remove(&sk);
        let addr = self.get(sk, field!("unix_sock", "addr"));
        if addr != 0 {
            self.kfree(addr, "unix_address");
        }
        self.sock_free(sk);
    }
}
