//! The passive side: requests, and the children that come of them (`tcp_conn_request`,
//! `tcp_check_req`, `tcp_v4_syn_recv_sock`).

use std::net::IpAddr;

use super::ops::{self, PASSIVE_ESTABLISHED_CB, RWND_INIT, TIMEOUT_INIT};
use super::segment::{Segment, flag};
use super::{Request, Step, TcpFrame, input, output, rtt, state, timer};
use crate::cpu::{CpuId, Frame};
use crate::net::{Protocol, SocketConfig};
use crate::{Kernel, field};

/// `TCP_INIT_CWND`, `TCP_INFINITE_SSTHRESH`.
const INIT_CWND: u64 = 10;
const SSTHRESH: u64 = 0x7fff_ffff;
/// `TCP_MSS_DEFAULT`.
const MSS_DEFAULT: u16 = 536;

/// `tcp_rcv_state_process` of a listener.
pub(super) fn rcv(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let seg = f.seg().clone();
    if seg.has(flag::RST) || !seg.has(flag::ACK) && !seg.has(flag::SYN) {
        input::drop(k, cpu, f, "TCP_FLAGS");
        return None;
    }
    if seg.has(flag::ACK) {
        f.first([Step::Act(|k, cpu, f| {
            input::drop(k, cpu, f, "TCP_FLAGS");
            None
        })]);
        return k.tcp_reset_for(&seg);
    }
    let waiting = k.get(f.sk, field!("sock", "sk_ack_backlog"));
    let full = waiting > k.get(f.sk, field!("sock", "sk_max_ack_backlog"));
    let at = if full { None } else { request_new(k, f.sk, &seg) };
    let Some(at) = at else {
        input::drop(k, cpu, f, "NOT_SPECIFIED");
        return None;
    };
    f.first([
        ops::ask(at, RWND_INIT, request_window),
        Step::Act(|k, _, f| {
            let n = k.request_of(f.seg())?;
            k.net.tcp.requests[n].saved_syn = k.tcp_record_syn(f.sk, f.skb);
            None
        }),
        ops::ask(at, TIMEOUT_INIT, |k, cpu, f, reply| {
            let Some(n) = k.request_of(f.seg()) else { return };
            k.net.tcp.requests[n].timeout_ms = output::timeout(reply);
            k.request_arm(cpu, n);
        }),
        Step::Act(|k, cpu, f| {
            let n = k.request_of(f.seg())?;
            k.synack(cpu, n, f.skb)
        }),
    ]);
    None
}

/// `inet_reqsk_alloc`, `tcp_openreq_init`.
fn request_new(k: &mut Kernel, listener: u64, seg: &Segment) -> Option<u64> {
    let at = k.kzalloc(crate::size!("tcp_request_sock"), "request_sock").ok()?;
    let ends = seg.ends();
    let isn = k.tcp_secret(ends, 0).wrapping_add((k.now(k.this_cpu()) >> 6) as u32);
    let port = k.be16(seg.from.port());
    let mss = seg.options.mss.unwrap_or(MSS_DEFAULT);
    for (f, value) in [
        (field!("sock", "__sk_common.skc_family"), if seg.to.is_ipv4() { 2 } else { 10 }),
        (field!("sock", "__sk_common.skc_state"), state::NEW_SYN_RECV),
        (field!("sock", "__sk_common.skc_num"), seg.to.port().into()),
        (field!("sock", "__sk_common.skc_dport"), port),
        (field!("sock", "__sk_common.skc_listener"), listener),
        (field!("sock", "__sk_common.skc_refcnt"), 1),
        (field!("request_sock", "mss"), mss.into()),
        (field!("tcp_request_sock", "rcv_isn"), seg.seq.into()),
        (field!("tcp_request_sock", "snt_isn"), isn.into()),
        (field!("tcp_request_sock", "rcv_nxt"), seg.seq.wrapping_add(1).into()),
    ] {
        k.set(at, f, value);
    }
    debug_assert_eq!(
        field!("request_sock", "__req_common.skc_dport"),
        field!("sock", "__sk_common.skc_dport")
    );
    k.socket_addresses(at, seg.to.ip(), Some(seg.from.ip()));
    // tcp_ecn_create_request, as sysctl_tcp_ecn is 2 and a SYN is not ECT.
    let ecn = seg.has(flag::ECE) && seg.has(flag::CWR);
    let sent_us = k.now(k.this_cpu()) / 1000;
    k.net.tcp.requests.push(Request {
        at,
        listener,
        ends,
        theirs: seg.options.clone(),
        irs: seg.seq,
        isn,
        rcv_wnd: 0,
        rcv_wscale: 0,
        snd_wnd: seg.window.into(),
        sent_us,
        timer: None,
        timeout_ms: 0,
        ecn,
        saved_syn: None,
    });
    Some(at)
}

/// `tcp_openreq_init_rwin`.
fn request_window(k: &mut Kernel, _: CpuId, f: &mut TcpFrame, rwnd: i32) {
    let space = k.tcp_full_space(f.sk);
    let Some(n) = k.request_of(f.seg()) else { return };
    let r = &k.net.tcp.requests[n];
    let tstamps = r.theirs.ts.is_some();
    let advmss = k.tcp_advmss(r.ends.1.ip());
    let mss = output::mss_cache(advmss, u64::MAX, tstamps);
    let (window, scale) = output::initial_window(space, mss, rwnd);
    let r = &mut k.net.tcp.requests[n];
    let scale = if r.theirs.wscale.is_some() { scale } else { 0 };
    (r.rcv_wnd, r.rcv_wscale) = (window, scale);
    let at = r.at;
    k.set(at, field!("tcp_request_sock", "rsk_rcv_wnd"), window.into());
}

impl Kernel {
    /// The request that a segment is for.
    pub(super) fn request_of(&self, seg: &Segment) -> Option<usize> {
        self.net.tcp.requests.iter().position(|r| r.ends == seg.ends())
    }

    /// `reqsk_queue_hash_req`, and each time again with a longer wait.
    pub(super) fn request_arm(&mut self, cpu: CpuId, n: usize) {
        let r = &self.net.tcp.requests[n];
        let (at, base) = (r.at, r.timeout_ms);
        let times = self.get(at, field!("request_sock", "num_timeout"));
        let wait = (base << times).min(timer::RTO_MAX_MS);
        let due = self.now(cpu) + wait * 1_000_000;
        let key = self.net.tcp.timers.arm(cpu, due, at, timer::Which::Request);
        self.net.tcp.requests[n].timer = Some(key);
    }

    /// `reqsk_put` of one that is over.
    pub(super) fn request_drop(&mut self, n: usize) -> Request {
        let r = self.net.tcp.requests.remove(n);
        self.net.tcp.timers.cancel(r.timer);
        self.kfree_rcu(r.at, "request_sock");
        r
    }
}

/// `tcp_check_req`: the answer to the SYN-ACK makes the child.
pub(super) fn check_req(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let seg = f.seg().clone();
    let n = k.request_of(&seg)?;
    let r = k.net.tcp.requests[n].clone();
    if seg.has(flag::RST) {
        k.request_drop(n);
        input::drop(k, cpu, f, "TCP_RESET");
        return None;
    }
    if seg.has(flag::SYN) {
        // The SYN again: the answer again.
        return k.synack(cpu, n, 0);
    }
    if !seg.has(flag::ACK) || seg.ack != r.isn.wrapping_add(1) {
        input::drop(k, cpu, f, "TCP_INVALID_ACK_SEQUENCE");
        return k.tcp_reset_for(&seg);
    }
    let waiting = k.get(f.sk, field!("sock", "sk_ack_backlog"));
    if waiting > k.get(f.sk, field!("sock", "sk_max_ack_backlog")) {
        input::drop(k, cpu, f, "NOT_SPECIFIED");
        return None;
    }
    let listener = f.sk;
    let Some(child) = create_child(k, cpu, &r) else {
        input::drop(k, cpu, f, "NOMEM");
        return None;
    };
    k.request_drop(n);
    k.tcp_sk(listener).accept.push_back(child);
    k.set(listener, field!("sock", "sk_ack_backlog"), waiting + 1);
    f.sk = child;
    f.rtt_us = Some((k.now(cpu) / 1000).saturating_sub(r.sent_us));
    let (skb, header) = (f.skb, seg.header as u64);
    k.set(child, field!("tcp_sock", "snd_una"), seg.ack.into());
    k.add_at(child, field!("tcp_sock", "segs_in"), 1);
    k.add_at(child, field!("tcp_sock", "delivered"), 1);
    f.first([
        Step::Act(rtt::update),
        ops::with_skb(child, PASSIVE_ESTABLISHED_CB, skb, header),
        Step::State(child, state::ESTABLISHED),
        Step::Act(child_ready),
    ]);
    None
}

/// The connection is made: who accepts goes on, and what the segment carries is taken.
fn child_ready(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let (window, scale) = (f.seg().window, k.tcp_sk(f.sk).snd_wscale);
    k.set(f.sk, field!("tcp_sock", "snd_wnd"), u64::from(window) << scale);
    k.tcp_sk(f.sk).predicted = Some(window);
    if let Some(listener) = k.tcp_sk(f.sk).listener {
        k.sock_wake(cpu, listener);
    }
    f.first([Step::Data]);
    None
}

/// `inet_csk_clone_lock`, `tcp_create_openreq_child`: a copy of the listener in the first place.
fn create_child(k: &mut Kernel, cpu: CpuId, r: &Request) -> Option<u64> {
    let size = crate::size!("tcp_sock");
    let child = k.kzalloc(size, "sock").ok()?;
    let whole = k.bytes(r.listener, size);
    k.mem.write(child, &whole).expect("a new object is mapped");
    if k.storage_clone(r.listener, child).is_err() {
        k.storage_gone(child);
        k.kfree(child, "sk_clone_lock");
        return None;
    }
    k.net.sockets.made(child);
    k.inet_sk_state_store(cpu, child, state::SYN_RECV);
    let next = u64::from(r.isn.wrapping_add(1));
    let irs = u64::from(r.irs.wrapping_add(1));
    let (tstamps, advmss) = (r.theirs.ts.is_some(), k.tcp_advmss(r.ends.1.ip()));
    let theirs = u64::from(r.theirs.mss.unwrap_or(MSS_DEFAULT));
    let mss = output::mss_cache(advmss, theirs, tstamps);
    let cookie = k.get(r.at, field!("sock", "__sk_common.skc_cookie"));
    for (f, value) in [
        (field!("sock", "__sk_common.skc_refcnt"), 1),
        (field!("sock", "__sk_common.skc_cookie"), cookie),
        (field!("sock", "sk_socket"), 0),
        (field!("sock", "sk_err"), 0),
        (field!("sock", "sk_ack_backlog"), 0),
        (field!("tcp_sock", "snd_una"), next - 1),
        (field!("tcp_sock", "snd_nxt"), next),
        (field!("tcp_sock", "write_seq"), next),
        (field!("tcp_sock", "rcv_nxt"), irs),
        (field!("tcp_sock", "copied_seq"), irs),
        (field!("tcp_sock", "rcv_wnd"), r.rcv_wnd.into()),
        (field!("tcp_sock", "snd_wnd"), r.snd_wnd.into()),
        (field!("tcp_sock", "snd_cwnd"), INIT_CWND),
        (field!("tcp_sock", "snd_ssthresh"), SSTHRESH),
        (field!("tcp_sock", "advmss"), advmss),
        (field!("tcp_sock", "mss_cache"), mss),
        (field!("tcp_sock", "inet_conn.icsk_rto"), r.timeout_ms),
        (field!("tcp_sock", "segs_in"), 0),
        (field!("tcp_sock", "segs_out"), 0),
        (field!("tcp_sock", "ecn_flags"), r.ecn.into()),
    ] {
        k.set(child, f, value & (u64::MAX >> (64 - 8 * f.size)));
    }
    k.tcp_addresses(child, r.ends);
    let save_syn = k.tcp_sk(r.listener).save_syn;
    let t = k.tcp_sk(child);
    (t.save_syn, t.saved_syn) = (save_syn, r.saved_syn.clone());
    t.listener = Some(r.listener);
    t.tstamps = tstamps;
    t.ts_recent = r.theirs.ts.map_or(0, |ts| ts.0);
    t.rcv_wscale = r.rcv_wscale;
    t.snd_wscale = r.theirs.wscale.unwrap_or(0);
    t.ack.rcv_wup = irs as u32;
    t.dead = true;
    input::established(k, cpu, child);
    Some(child)
}

impl Kernel {
    /// Both ends of a child, in its members and where segments find it.
    fn tcp_addresses(&mut self, sk: u64, (own, other): super::Ends) {
        let (sport, dport) = (self.be16(own.port()), self.be16(other.port()));
        self.set(sk, field!("sock", "__sk_common.skc_num"), own.port().into());
        self.set(sk, field!("inet_sock", "inet_sport"), sport);
        self.set(sk, field!("sock", "__sk_common.skc_dport"), dport);
        if let IpAddr::V4(ip) = own.ip() {
            self.set_bytes(sk, field!("inet_sock", "inet_saddr"), &ip.octets());
        }
        self.socket_addresses(sk, own.ip(), Some(other.ip()));
        let dev = self.get(sk, field!("sock", "__sk_common.skc_bound_dev_if")) as u32;
        let mark = self.get(sk, field!("sock", "sk_mark")) as u32;
        let config =
            SocketConfig { protocol: Protocol::Tcp, local: own, remote: Some(other), dev, mark };
        self.net.sockets.hashed(sk, config);
    }
}
