//! What connections receive (net/ipv4/tcp_ipv4.c, net/ipv4/tcp_input.c).

use super::ops::{self, ACTIVE_ESTABLISHED_CB};
use super::segment::{Segment, before, flag};
use super::{Late, RCV_SHUTDOWN, Step, TcpFrame, close, hdr_opt, listen, output, rtt, state};
use crate::context::Level;
use crate::cpu::{CpuId, Frame};
use crate::net::{Protocol, check};
use crate::{Errno, Kernel, field};

/// `TCP_MSS_DEFAULT`, `TCP_MIN_MSS`.
const MSS_DEFAULT: u64 = 536;
const MSS_MIN: u64 = 88;
/// `TCP_ATO_MIN` in milliseconds, `TCP_MAX_QUICKACKS`.
const ATO_MIN_MS: u64 = 40;
const QUICKACKS: u32 = 16;

impl Kernel {
    /// `tcp_v4_rcv`, `tcp_v6_rcv`.
    pub(super) fn tcp_rcv(&self, skb: u64) -> Frame {
        let mut f = TcpFrame::new(Level::Soft, 0, [Step::Act(rcv)]);
        f.skb = skb;
        f.frame()
    }

    /// What had to wait for `release_sock` (`tcp_v4_do_rcv`).
    pub(super) fn tcp_rcv_late(&mut self, sk: u64, skb: u64) -> Frame {
        let mut f = TcpFrame::new(Level::Task, sk, [Step::Act(process), Step::Free]);
        f.seg = Segment::parse(&self.skb_frame(skb)).map(Box::new);
        f.skb = skb;
        f.frame()
    }

    /// `__kfree_skb`.
    pub(super) fn tcp_free(&mut self, f: &mut TcpFrame) {
        let skb = std::mem::take(&mut f.skb);
        if skb != 0 {
            self.skb_release(skb);
        }
    }

    /// The transport header becomes the beginning of the data.
    pub(super) fn tcp_pull(&mut self, skb: u64) {
        let head = self.get(skb, field!("sk_buff", "head"));
        let to = head + self.get(skb, field!("sk_buff", "transport_header"));
        let data = self.get(skb, field!("sk_buff", "data"));
        self.skb_move(skb, to.wrapping_sub(data).cast_signed());
    }
}

/// `kfree_skb_reason` of what the path is about.
pub(super) fn drop(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame, reason: &'static str) {
    let skb = std::mem::take(&mut f.skb);
    if skb != 0 {
        k.skb_drop(cpu, skb, reason, "tcp_v4_rcv");
    }
    f.todo.retain(|s| matches!(s, Step::Exit(..)));
}

/// To whom a segment goes.
fn rcv(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let frame = k.skb_frame(f.skb);
    let Some(seg) = Segment::parse(&frame) else {
        drop(k, cpu, f, "TCP_CSUM");
        return None;
    };
    let name = if seg.to.is_ipv4() { "tcp_v4_rcv" } else { "tcp_v6_rcv" };
    k.func_enter(cpu, name, &[f.skb]);
    f.first([Step::Exit(name, vec![f.skb], 0)]);
    if !check::check_packet(&frame).is_empty() {
        drop(k, cpu, f, "TCP_CSUM");
        return None;
    }
    k.tcp_pull(f.skb);
    let dev = k.get(f.skb, field!("sk_buff", "dev"));
    let dev = k.get(dev, field!("net_device", "ifindex")) as u32;
    let found = k.net.sockets.lookup(Protocol::Tcp, (seg.from, seg.to), dev);
    let whole = found.filter(|sk| k.tcp_state(*sk) != state::LISTEN);
    let request = k.request_of(&seg).map(|n| k.net.tcp.requests[n].listener);
    f.seg = Some(Box::new(seg.clone()));
    let filter = Step::Act(filter);
    let free = Step::Free;
    if let Some(sk) = whole {
        f.sk = sk;
        count_in(k, sk, &seg);
        f.first([filter, Step::Act(fill_cb), Step::Act(owned), Step::Act(process), free]);
    } else if let Some(listener) = request {
        f.sk = listener;
        f.first([filter, Step::Act(fill_cb), Step::Act(listen::check_req), free]);
    } else if k.net.tcp.time_wait.contains_key(&seg.ends()) {
        f.first([Step::Act(close::time_wait_rcv), free]);
    } else if let Some(sk) = found {
        f.sk = sk;
        count_in(k, sk, &seg);
        f.first([filter, Step::Act(fill_cb), Step::Act(listen::rcv), free]);
    } else {
        drop(k, cpu, f, "NO_SOCKET");
        return k.tcp_reset_for(&seg);
    }
    None
}

/// `tcp_segs_in`.
fn count_in(k: &mut Kernel, sk: u64, seg: &Segment) {
    k.add_at(sk, field!("tcp_sock", "segs_in"), 1);
    if !seg.payload.is_empty() {
        k.add_at(sk, field!("tcp_sock", "data_segs_in"), 1);
    }
}

/// `tcp_filter`: the programs of the socket's group.
fn filter(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let child = k.cgroup_run_skb(f.sk, f.skb, false)?;
    f.then = Some(|k, cpu, f, value| {
        if value != 0 {
            drop(k, cpu, f, "SOCKET_FILTER");
        }
    });
    Some(child)
}

/// `tcp_v4_fill_cb`.
pub(super) fn fill_cb(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let (seg, at) = (f.seg().clone(), f.skb + u64::from(field!("sk_buff", "cb").off));
    for (field, value) in [
        (field!("tcp_skb_cb", "seq"), seg.seq.into()),
        (field!("tcp_skb_cb", "end_seq"), seg.end_seq().into()),
        (field!("tcp_skb_cb", "tcp_flags"), seg.flags.into()),
        (field!("tcp_skb_cb", "ack_seq"), seg.ack.into()),
    ] {
        k.set(at, field, value);
    }
    None
}

/// `tcp_add_backlog`, when a task works on the socket.
fn owned(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let t = k.tcp_sk(f.sk);
    if t.owned {
        t.backlog.push_back(Late::Skb(std::mem::take(&mut f.skb)));
        f.todo.retain(|s| matches!(s, Step::Exit(..)));
    }
    None
}

/// `tcp_v4_do_rcv` of a socket that does not listen.
fn process(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let (sk, now) = (f.sk, k.tcp_state(f.sk));
    match now {
        state::CLOSE => {
            drop(k, cpu, f, "NO_SOCKET");
            None
        }
        state::SYN_SENT => synsent(k, cpu, f),
        _ if f.seg().has(flag::RST) => {
            let err = if now == state::CLOSE_WAIT { Errno::EPIPE } else { Errno::ECONNRESET };
            k.tcp_done_err(cpu, f, err)
        }
        _ => {
            let next = k.u32_at(sk, field!("tcp_sock", "rcv_nxt"));
            let (seq, end) = (f.seg().seq, f.seg().end_seq());
            if seq != next && before(next, seq) {
                k.tcp_unsupported(cpu, "tcp_data_queue_ofo: a segment out of order");
                drop(k, cpu, f, "TCP_OFOMERGE");
                return None;
            }
            if seq != next && !before(next, end) {
                // Nothing new: tcp_send_dupack.
                drop(k, cpu, f, "TCP_OLD_DATA");
                return k.tcp_send_ack(cpu, sk);
            }
            f.first([Step::Act(hdr_opt::parse), Step::Act(accept)]);
            None
        }
    }
}

/// What is in order: its acknowledgement, then its data.
fn accept(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    if let Some((theirs, _)) = f.seg().options.ts {
        k.tcp_sk(f.sk).ts_recent = theirs;
    }
    ack(k, cpu, f);
    f.first([Step::Act(rtt::update), Step::Act(close::acked), Step::Data]);
    None
}

/// `tcp_ack`: what has arrived is no longer waited for.
fn ack(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) {
    let (sk, seg) = (f.sk, f.seg().clone());
    let una = k.u32_at(sk, field!("tcp_sock", "snd_una"));
    let next = k.u32_at(sk, field!("tcp_sock", "snd_nxt"));
    if !seg.has(flag::ACK) || before(next, seg.ack) {
        return;
    }
    let window = u64::from(seg.window) << k.tcp_sk(sk).snd_wscale;
    if window != k.get(sk, field!("tcp_sock", "snd_wnd")) {
        k.set(sk, field!("tcp_sock", "snd_wnd"), window);
        k.tcp_sk(sk).predicted = None;
        hdr_opt::predict(k, sk);
    }
    if !before(una, seg.ack) {
        return;
    }
    let now_us = k.now(cpu) / 1000;
    let (mut acked, mut bytes, mut rtt_us) = (0, 0, None);
    let t = k.tcp_sk(sk);
    while t.sent.front().is_some_and(|s| !before(seg.ack, s.end())) {
        let s = t.sent.pop_front().expect("there is a first");
        (acked, bytes) = (acked + 1, bytes + s.payload.len() as u64);
        if !s.retransmitted {
            rtt_us = Some(now_us.saturating_sub(s.at_us));
        }
    }
    let left = t.sent.len();
    f.rtt_us = rtt_us;
    k.set(sk, field!("tcp_sock", "snd_una"), seg.ack.into());
    let moved = u64::from(seg.ack.wrapping_sub(una));
    k.add_at(sk, field!("tcp_sock", "bytes_acked"), moved);
    k.add_at(sk, field!("tcp_sock", "delivered"), acked);
    k.set(sk, field!("tcp_sock", "packets_out"), left as u64);
    k.set(sk, field!("tcp_sock", "retrans_out"), 0);
    k.set(sk, field!("tcp_sock", "lost_out"), 0);
    k.set(sk, field!("tcp_sock", "inet_conn.icsk_retransmits"), 0);
    if bytes > 0 {
        slow_start(k, sk, acked);
    }
    let rto = k.tcp_sk(sk).rto.take();
    k.net.tcp.timers.cancel(rto);
    if left > 0 {
        k.tcp_arm_rto(cpu, sk);
    }
}

/// `cubictcp_cong_avoid` up to the threshold.
fn slow_start(k: &mut Kernel, sk: u64, acked: u64) {
    let cwnd = k.get(sk, field!("tcp_sock", "snd_cwnd"));
    let most = k.get(sk, field!("tcp_sock", "max_packets_out"));
    let limited = k.get(sk, field!("tcp_sock", "is_cwnd_limited")) != 0 || cwnd < 2 * most;
    let below = cwnd < k.get(sk, field!("tcp_sock", "snd_ssthresh"));
    if limited && below {
        let clamp = k.get(sk, field!("tcp_sock", "snd_cwnd_clamp"));
        k.set(sk, field!("tcp_sock", "snd_cwnd"), (cwnd + acked).min(clamp));
    }
}

/// `tcp_rcv_synsent_state_process`.
fn synsent(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let (sk, seg) = (f.sk, f.seg().clone());
    let next = k.u32_at(sk, field!("tcp_sock", "snd_nxt"));
    if seg.has(flag::ACK) && seg.ack != next {
        drop(k, cpu, f, "TCP_INVALID_ACK_SEQUENCE");
        return k.tcp_reset_for(&seg);
    }
    if seg.has(flag::RST | flag::ACK) {
        return k.tcp_done_err(cpu, f, Errno::ECONNREFUSED);
    }
    if !seg.has(flag::SYN | flag::ACK) {
        if seg.has(flag::SYN) {
            k.tcp_unsupported(cpu, "a simultaneous open of a TCP connection");
        }
        drop(k, cpu, f, "TCP_FLAGS");
        return None;
    }
    ack(k, cpu, f);
    let irs = seg.seq.wrapping_add(1);
    let advmss = k.get(sk, field!("tcp_sock", "advmss"));
    let tstamps = seg.options.ts.is_some();
    let theirs = u64::from(seg.options.mss.unwrap_or(MSS_DEFAULT as u16));
    for (at, value) in [
        (field!("tcp_sock", "rcv_nxt"), irs.into()),
        (field!("tcp_sock", "copied_seq"), irs.into()),
        // The window of a SYN is not scaled.
        (field!("tcp_sock", "snd_wnd"), seg.window.into()),
        (field!("tcp_sock", "mss_cache"), output::mss_cache(advmss, theirs, tstamps)),
    ] {
        k.set(sk, at, value);
    }
    let t = k.tcp_sk(sk);
    t.tstamps = tstamps;
    t.ts_recent = seg.options.ts.map_or(0, |ts| ts.0);
    t.ack.rcv_wup = irs;
    match seg.options.wscale {
        Some(scale) => t.snd_wscale = scale,
        None => t.rcv_wscale = 0,
    }
    t.saw_unknown = seg.options.unknown;
    t.predicted = (t.snd_wscale == 0).then_some(seg.window);
    // tcp_ecn_rcv_synack
    if !seg.has(flag::ECE) {
        k.set(sk, field!("tcp_sock", "ecn_flags"), 0);
    }
    let (skb, header) = (f.skb, seg.header as u64);
    f.first([
        Step::Act(rtt::update),
        Step::State(sk, state::ESTABLISHED),
        Step::Act(|k, cpu, f| {
            established(k, cpu, f.sk);
            None
        }),
        ops::with_skb(sk, ACTIVE_ESTABLISHED_CB, skb, header),
        Step::Act(|k, cpu, f| {
            k.sock_wake(cpu, f.sk);
            k.tcp_send_ack(cpu, f.sk)
        }),
    ]);
    None
}

/// `tcp_init_transfer`, `tcp_initialize_rcv_mss`.
pub(super) fn established(k: &mut Kernel, cpu: CpuId, sk: u64) {
    let lost = k.get(sk, field!("tcp_sock", "total_retrans")) > 1;
    k.set(sk, field!("tcp_sock", "snd_cwnd"), if lost { 1 } else { 10 });
    k.set(sk, field!("tcp_sock", "inet_conn.icsk_ca_state"), 0);
    let mss = k.get(sk, field!("tcp_sock", "mss_cache"));
    let hint = k.get(sk, field!("tcp_sock", "advmss")).min(mss);
    let hint = hint.min(k.get(sk, field!("tcp_sock", "rcv_wnd")) / 2);
    let now = k.now(cpu) / 1_000_000;
    let t = k.tcp_sk(sk);
    t.ack.rcv_mss = hint.clamp(MSS_MIN, MSS_DEFAULT) as u32;
    t.ack.lrcvtime = now;
}

/// `tcp_data_queue`, then what is to be sent (`tcp_data_snd_check`, `tcp_ack_snd_check`).
pub(super) fn data(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let (sk, seg) = (f.sk, f.seg().clone());
    let open = matches!(k.tcp_state(sk), state::ESTABLISHED | state::FIN_WAIT1 | state::FIN_WAIT2);
    let next = k.u32_at(sk, field!("tcp_sock", "rcv_nxt"));
    let old = next.wrapping_sub(seg.seq) as usize;
    let new = seg.payload.get(old..).unwrap_or(&[]);
    f.first([Step::Act(output::push), Step::Act(ack_check)]);
    if seg.has(flag::FIN) && open {
        f.first([Step::Act(close::fin_rcv)]);
    }
    if new.is_empty() || !open {
        return None;
    }
    if k.tcp_sk(sk).dead && k.tcp_sk(sk).listener.is_none() {
        // Nobody will read it: the peer hears so.
        f.todo.clear();
        f.first([Step::Act(output::send_reset), Step::Free]);
        return k.tcp_done_err(cpu, f, Errno::ECONNRESET);
    }
    k.add_at(sk, field!("tcp_sock", "rcv_nxt"), new.len() as u64);
    k.add_at(sk, field!("tcp_sock", "bytes_received"), new.len() as u64);
    let window = k.get(sk, field!("tcp_sock", "rcv_wnd"));
    let now = k.now(cpu) / 1_000_000;
    let t = k.tcp_sk(sk);
    t.received.extend(new);
    data_recv(&mut t.ack, new.len() as u32, window, now);
    hdr_opt::predict(k, sk);
    k.sock_wake(cpu, sk);
    None
}

/// `tcp_event_data_recv`.
fn data_recv(ack: &mut super::AckState, len: u32, window: u64, now: u64) {
    ack.scheduled = true;
    ack.rcv_mss = ack.rcv_mss.max(len);
    let quick = || (window as u32 / (2 * ack.rcv_mss)).clamp(2, QUICKACKS);
    // Another CPU's clock may be ahead.
    let since = now.saturating_sub(ack.lrcvtime);
    if ack.ato_ms == 0 {
        (ack.quick, ack.ato_ms) = (ack.quick.max(quick()), ATO_MIN_MS);
    } else if since <= ATO_MIN_MS / 2 {
        ack.ato_ms = ack.ato_ms / 2 + ATO_MIN_MS / 2;
    } else if since < ack.ato_ms {
        ack.ato_ms = ack.ato_ms / 2 + since;
    }
    ack.lrcvtime = now;
}

/// `__tcp_ack_snd_check`.
fn ack_check(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let sk = f.sk;
    let next = k.u32_at(sk, field!("tcp_sock", "rcv_nxt"));
    let t = k.net.tcp.socks.get(&sk)?;
    if !t.ack.scheduled {
        return None;
    }
    let much = next.wrapping_sub(t.ack.rcv_wup) > t.ack.rcv_mss;
    if much || t.ack.quick > 0 && !t.ack.pingpong {
        return k.tcp_send_ack(cpu, sk);
    }
    k.tcp_delay_ack(cpu, sk);
    None
}

/// `tcp_cleanup_rbuf`: what was read is acknowledged when nothing else is to be said.
pub(super) fn read_over(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let t = k.net.tcp.socks.get(&f.sk)?;
    let now = t.ack.scheduled && !t.ack.pingpong && t.received.is_empty();
    if now { k.tcp_send_ack(cpu, f.sk) } else { None }
}

impl Kernel {
    /// The end of `tcp_recvmsg`.
    pub(crate) fn tcp_read_over(&mut self, sk: u64) -> Frame {
        TcpFrame::new(Level::Task, sk, [Step::Act(read_over)]).frame()
    }

    /// Whether the other end will send no more.
    pub(crate) fn tcp_rcv_shutdown(&self, sk: u64) -> bool {
        self.get(sk, field!("sock", "sk_shutdown")) & RCV_SHUTDOWN != 0
    }
}
