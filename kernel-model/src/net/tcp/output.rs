//! What connections send (net/ipv4/tcp_output.c).

use std::net::{IpAddr, SocketAddr};

use super::ops::{self, NEEDS_ECN, RWND_INIT, TCP_CONNECT_CB, TIMEOUT_INIT};
use super::segment::{HEADER, Options, Segment, before, flag};
use super::{Request, Sent, Step, TcpFrame, hdr_opt, state, timer};
use crate::context::Level;
use crate::cpu::{CpuId, Frame};
use crate::state_hash::Fnv;
use crate::{Kernel, field};

/// `TCP_TIMEOUT_INIT` in milliseconds.
const TIMEOUT_INIT_MS: u64 = 1000;
/// `sysctl_tcp_rmem[2]`.
const RMEM_MAX: u64 = 6_291_456;
/// `sysctl_tcp_min_snd_mss`.
const MIN_SND_MSS: u64 = 48;
/// `TCPOLEN_TSTAMP_ALIGNED`.
const TS_BYTES: u64 = 12;
/// `TCP_ATO_MIN` in milliseconds.
const ATO_MIN_MS: u64 = 40;

/// `tcp_timeout_init` of what programs say.
pub(super) fn timeout(reply: i32) -> u64 {
    let asked = u64::try_from(reply).unwrap_or(0);
    if asked == 0 { TIMEOUT_INIT_MS } else { asked.min(timer::RTO_MAX_MS) }
}

/// `tcp_select_initial_window`: the window and its scale.
pub(super) fn initial_window(space: u64, mss: u64, rwnd: i32) -> (u32, u8) {
    let whole = if space > mss { space - space % mss } else { space };
    let asked = u64::try_from(rwnd).unwrap_or(0);
    let window = if asked > 0 { whole.min(asked * mss) } else { whole };
    let scale = space.max(RMEM_MAX).ilog2().saturating_sub(15).min(14);
    (window as u32, scale as u8)
}

impl Kernel {
    /// `tcp_full_space`: half of the buffer is room for data (`TCP_DEFAULT_SCALING_RATIO`).
    pub(super) fn tcp_full_space(&self, sk: u64) -> u64 {
        self.get(sk, field!("sock", "sk_rcvbuf")) / 2
    }

    /// `dst_metric_advmss` of the way to an address.
    pub(super) fn tcp_advmss(&self, to: IpAddr) -> u64 {
        let mtu = match self.route_out(to, 0) {
            Ok((super::super::Way::Nic(n, _), _)) => {
                self.net.nics.get(&n).map_or(1500, |nic| u64::from(nic.config.mtu))
            }
            // 65535 is the most that an IP packet has.
            _ => 65535,
        };
        mtu.saturating_sub(if to.is_ipv4() { 40 } else { 60 })
    }

    /// `secure_tcp_seq`, `secure_tcp_ts_off`: a number of both ends that nobody guesses.
    pub(super) fn tcp_secret(&self, (own, other): (SocketAddr, SocketAddr), salt: u64) -> u32 {
        let text = format!("{own} {other} {salt}");
        let mut hash = Fnv::default();
        hash.add(text.as_bytes());
        (hash.0 ^ hash.0 >> 32) as u32
    }

    /// Time stamps in milliseconds, from an offset of the connection's own.
    pub(super) fn tcp_tsval(&self, cpu: CpuId, ends: (SocketAddr, SocketAddr)) -> u32 {
        ((self.now(cpu) / 1_000_000) as u32).wrapping_add(self.tcp_secret(ends, 1))
    }

    /// Both ends of a connection, which it keeps when it is over.
    pub(super) fn tcp_ends(&self, sk: u64) -> Option<(SocketAddr, SocketAddr)> {
        Some((self.sock_local(sk), self.sock_remote(sk)?))
    }

    /// `tcp_connect`, after the socket has both ends: what happens up to the SYN.
    pub(crate) fn tcp_connect(&mut self, sk: u64) -> Frame {
        let steps = [
            Step::State(sk, state::SYN_SENT),
            Step::Act(connect_enter),
            ops::call(sk, TCP_CONNECT_CB, &[]),
            ops::ask(sk, RWND_INIT, connect_init),
            ops::ask(sk, TIMEOUT_INIT, |k, _, f, reply| {
                k.set(f.sk, field!("tcp_sock", "inet_conn.icsk_rto"), timeout(reply));
            }),
            ops::ask(sk, NEEDS_ECN, syn_queue),
            Step::Act(syn_send),
            Step::Exit("tcp_connect", vec![sk], 0),
        ];
        TcpFrame::new(Level::Task, sk, steps).frame()
    }

    /// `tcp_sendmsg`: queued, and as much of it sent as may be.
    pub(crate) fn tcp_write(&mut self, sk: u64, bytes: &[u8]) -> Frame {
        self.tcp_sk(sk).write.extend(bytes);
        self.add_at(sk, field!("tcp_sock", "write_seq"), bytes.len() as u64);
        TcpFrame::new(Level::Task, sk, [Step::Act(push)]).frame()
    }

    /// `__tcp_select_window`, `tcp_select_window`: what stands in the header.
    fn tcp_window(&mut self, sk: u64) -> u16 {
        let space = self.tcp_full_space(sk);
        let t = self.tcp_sk(sk);
        let (used, scale) = (t.received.len() as u64, t.rcv_wscale);
        let window = space.saturating_sub(used).div_ceil(1 << scale);
        let window = window.min(0xffff);
        self.set(sk, field!("tcp_sock", "rcv_wnd"), window << scale);
        window as u16
    }

    /// `__tcp_transmit_skb`.
    pub(super) fn tcp_transmit(&mut self, cpu: CpuId, sk: u64, what: &Sent) -> Option<Frame> {
        let ends = self.tcp_ends(sk)?;
        let tsval = self.tcp_tsval(cpu, ends);
        let syn = what.flags & flag::SYN != 0;
        let advmss = self.get(sk, field!("tcp_sock", "advmss"));
        let options = match syn {
            true => Options {
                mss: Some(advmss as u16),
                sack: true,
                ts: Some((tsval, 0)),
                wscale: Some(self.tcp_sk(sk).rcv_wscale),
                ..Options::default()
            },
            false => {
                let t = self.tcp_sk(sk);
                let ts = t.tstamps.then_some((tsval, t.ts_recent));
                Options { ts, ..Options::default() }
            }
        };
        let window = match syn {
            true => self.get(sk, field!("tcp_sock", "rcv_wnd")).min(0xffff) as u16,
            false => self.tcp_window(sk),
        };
        let acks = what.flags & flag::ACK != 0;
        let next = self.u32_at(sk, field!("tcp_sock", "rcv_nxt"));
        let seg = Segment {
            from: ends.0,
            to: ends.1,
            seq: what.seq,
            ack: if acks { next } else { 0 },
            flags: what.flags,
            window,
            header: HEADER,
            options,
            payload: what.payload.clone(),
        };
        self.tcp_send(cpu, sk, seg, None)
    }

    /// The end of `__tcp_transmit_skb`, or of `tcp_v4_send_synack`: it is counted and leaves.
    pub(super) fn tcp_leave(
        &mut self,
        cpu: CpuId,
        sk: u64,
        seg: &Segment,
        synack: bool,
    ) -> Option<Frame> {
        if synack {
            return self.tcp_out(sk, seg, 0);
        }
        let data = !seg.payload.is_empty();
        self.add_at(sk, field!("tcp_sock", "segs_out"), 1);
        if data {
            self.add_at(sk, field!("tcp_sock", "data_segs_out"), 1);
        }
        if seg.has(flag::ACK) {
            self.tcp_ack_sent(cpu, sk, seg.ack, data);
        }
        let tos = self.get(sk, field!("inet_sock", "tos")) as u8;
        self.tcp_out(sk, seg, tos)
    }

    /// A segment as programs see it on its way out: its data begins with the payload.
    pub(super) fn segment_view(&mut self, seg: &Segment) -> Option<u64> {
        let (bytes, dev) = (seg.bytes(0)?, self.loopback_dev().ok()?);
        let skb = self.skb_on_dev(dev, &bytes).ok()?;
        self.tcp_pull(skb);
        self.skb_move(skb, seg.header_bytes().len() as i64);
        Some(skb)
    }

    /// `skb_push` of a header.
    pub(super) fn skb_push_bytes(&mut self, skb: u64, header: &[u8]) {
        self.skb_move(skb, -(header.len() as i64));
        let data = self.get(skb, field!("sk_buff", "data"));
        self.mem.write(data, header).expect("there is headroom");
    }

    /// `ip_queue_xmit`; what finds no way is lost.
    pub(super) fn tcp_out(&mut self, sk: u64, seg: &Segment, tos: u8) -> Option<Frame> {
        let (way, _) = self.route_out(seg.to.ip(), 0).ok()?;
        let bytes = seg.bytes(tos)?;
        self.ip_output(sk, &bytes, way).ok()
    }

    /// `tcp_event_ack_sent`, `tcp_event_data_sent`.
    fn tcp_ack_sent(&mut self, cpu: CpuId, sk: u64, next: u32, data: bool) {
        let now = self.now(cpu) / 1_000_000;
        let t = self.tcp_sk(sk);
        let used = u32::from(t.ack.scheduled);
        if t.ack.quick > 0 && used >= t.ack.quick {
            t.ack.ato_ms = ATO_MIN_MS;
        }
        t.ack.quick = t.ack.quick.saturating_sub(used);
        (t.ack.scheduled, t.ack.rcv_wup) = (false, next);
        if data && now.saturating_sub(t.ack.lrcvtime) < t.ack.ato_ms {
            t.ack.pingpong = true;
        }
        let key = t.delack.take();
        self.net.tcp.timers.cancel(key);
    }

    /// `tcp_send_ack`.
    pub(super) fn tcp_send_ack(&mut self, cpu: CpuId, sk: u64) -> Option<Frame> {
        if self.tcp_state(sk) == state::CLOSE {
            return None;
        }
        let seq = self.u32_at(sk, field!("tcp_sock", "snd_nxt"));
        let ack =
            Sent { seq, flags: flag::ACK, payload: Vec::new(), at_us: 0, retransmitted: false };
        self.tcp_transmit(cpu, sk, &ack)
    }

    /// `tcp_send_delayed_ack`.
    pub(super) fn tcp_delay_ack(&mut self, cpu: CpuId, sk: u64) {
        let now = self.now(cpu);
        if self.tcp_sk(sk).delack.is_none() {
            let ato = self.tcp_sk(sk).ack.ato_ms.max(ATO_MIN_MS);
            let at = now + ato * 1_000_000;
            let key = self.net.tcp.timers.arm(cpu, at, sk, timer::Which::DelAck);
            self.tcp_sk(sk).delack = Some(key);
        }
    }

    /// `tcp_make_synack`, for the SYN that has just come or, again, for none.
    pub(super) fn synack(&mut self, cpu: CpuId, n: usize, syn: u64) -> Option<Frame> {
        let r: Request = self.net.tcp.requests[n].clone();
        let tsval = self.tcp_tsval(cpu, r.ends);
        let options = Options {
            mss: Some(self.tcp_advmss(r.ends.1.ip()) as u16),
            sack: r.theirs.sack,
            ts: r.theirs.ts.map(|(theirs, _)| (tsval, theirs)),
            wscale: r.theirs.wscale.map(|_| r.rcv_wscale),
            ..Options::default()
        };
        let ecn = if r.ecn { flag::ECE } else { 0 };
        let seg = Segment {
            from: r.ends.0,
            to: r.ends.1,
            seq: r.isn,
            ack: r.irs.wrapping_add(1),
            flags: flag::SYN | flag::ACK | ecn,
            window: r.rcv_wnd.min(0xffff) as u16,
            header: HEADER,
            options,
            payload: Vec::new(),
        };
        self.tcp_send(cpu, r.listener, seg, Some((r.at, syn)))
    }

    /// A segment of no socket: `tcp_v4_send_reset`, `tcp_v4_send_ack`.
    pub(super) fn tcp_answer(&mut self, seg: &Segment) -> Option<Frame> {
        if self.net.tcp.ctl == 0 {
            let sk = self.kzalloc(crate::size!("tcp_sock"), "tcp control socket").ok()?;
            self.net.tcp.ctl = sk;
        }
        let family = if seg.to.is_ipv4() { 2 } else { 10 };
        let ctl = self.net.tcp.ctl;
        self.set(ctl, field!("sock", "__sk_common.skc_family"), family);
        self.tcp_out(ctl, seg, 0)
    }

    /// The reset for a segment that no connection is for.
    pub(super) fn tcp_reset_for(&mut self, to: &Segment) -> Option<Frame> {
        if to.has(flag::RST) {
            return None;
        }
        let (seq, ack, flags) = match to.has(flag::ACK) {
            true => (to.ack, 0, flag::RST),
            false => (0, to.end_seq(), flag::RST | flag::ACK),
        };
        let seg = Segment {
            from: to.to,
            to: to.from,
            seq,
            ack,
            flags,
            window: 0,
            header: HEADER,
            options: Options::default(),
            payload: Vec::new(),
        };
        self.tcp_answer(&seg)
    }
}

fn connect_enter(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let ends = k.tcp_ends(f.sk)?;
    let time = k.now(cpu) >> 6;
    let isn = k.tcp_secret(ends, 0).wrapping_add(time as u32);
    k.set(f.sk, field!("tcp_sock", "write_seq"), isn.into());
    k.func_enter(cpu, "tcp_connect", &[f.sk]);
    None
}

/// `tcp_connect_init`.
fn connect_init(k: &mut Kernel, _: CpuId, f: &mut TcpFrame, rwnd: i32) {
    let sk = f.sk;
    let Some((_, to)) = k.tcp_ends(sk) else { return };
    let advmss = k.tcp_advmss(to.ip());
    let (window, scale) = initial_window(k.tcp_full_space(sk), advmss, rwnd);
    let isn = k.get(sk, field!("tcp_sock", "write_seq"));
    for (at, value) in [
        (field!("tcp_sock", "advmss"), advmss),
        (field!("tcp_sock", "rcv_wnd"), window.into()),
        (field!("tcp_sock", "snd_una"), isn),
        (field!("tcp_sock", "snd_nxt"), isn),
        (field!("tcp_sock", "rcv_nxt"), 0),
        (field!("tcp_sock", "snd_wnd"), 0),
        (field!("tcp_sock", "inet_conn.icsk_retransmits"), 0),
        (field!("tcp_sock", "mss_cache"), advmss),
    ] {
        k.set(sk, at, value);
    }
    k.tcp_sk(sk).rcv_wscale = scale;
}

/// `tcp_ecn_send_syn`, `tcp_connect_queue_skb`.
fn syn_queue(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame, ecn: i32) {
    let sk = f.sk;
    let seq = k.u32_at(sk, field!("tcp_sock", "write_seq"));
    let ecn = if ecn == 1 { flag::ECE | flag::CWR } else { 0 };
    if ecn != 0 {
        // TCP_ECN_MODE_RFC3168
        k.set(sk, field!("tcp_sock", "ecn_flags"), 1);
    }
    let at_us = k.now(cpu) / 1000;
    let flags = flag::SYN | ecn;
    let syn = Sent { seq, flags, payload: Vec::new(), at_us, retransmitted: false };
    k.tcp_sk(sk).sent.push_back(syn);
    k.add_at(sk, field!("tcp_sock", "write_seq"), 1);
    k.add_at(sk, field!("tcp_sock", "packets_out"), 1);
    let end = k.get(sk, field!("tcp_sock", "write_seq"));
    k.set(sk, field!("tcp_sock", "snd_nxt"), end);
    k.tcp_arm_rto(cpu, sk);
}

fn syn_send(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let syn = k.tcp_sk(f.sk).sent.front()?.clone();
    k.tcp_transmit(cpu, f.sk, &syn)
}

/// `tcp_push_pending_frames`.
pub(super) fn push(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let t = k.tcp_sk(f.sk);
    if t.write.is_empty() && !t.fin {
        return None;
    }
    f.first([Step::Act(xmit)]);
    hdr_opt::current_mss(k, cpu, f)
}

/// `tcp_write_xmit`: what windows and Nagle's algorithm let out.
fn xmit(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let (sk, mss) = (f.sk, f.mss as usize);
    let out = k.get(sk, field!("tcp_sock", "packets_out"));
    let next = k.u32_at(sk, field!("tcp_sock", "snd_nxt"));
    let una = k.u32_at(sk, field!("tcp_sock", "snd_una"));
    let limited = out >= k.get(sk, field!("tcp_sock", "snd_cwnd"));
    let t = k.tcp_sk(sk);
    let len = t.write.len().min(mss);
    let last = t.write.len() == len;
    let fin = last && t.fin;
    if len == 0 && !fin {
        return None;
    }
    let small = |s: &Sent| !s.payload.is_empty() && s.payload.len() < mss;
    let nagle = len < mss && !fin && t.sent.iter().any(small);
    if limited || nagle && k.get(sk, field!("tcp_sock", "nonagle")) == 0 {
        cwnd_validate(k, sk, limited);
        return None;
    }
    let room = k.get(sk, field!("tcp_sock", "snd_wnd"));
    let in_flight = u64::from(next.wrapping_sub(una));
    if in_flight + len as u64 > room {
        k.tcp_unsupported(cpu, "tcp_send_probe0: a peer's window that is full");
        return None;
    }
    let at_us = k.now(cpu) / 1000;
    let t = k.tcp_sk(sk);
    let payload: Vec<u8> = t.write.drain(..len).collect();
    let push = if last && len > 0 { flag::PSH } else { 0 };
    let flags = flag::ACK | push | if fin { flag::FIN } else { 0 };
    let sent = Sent { seq: next, flags, payload, at_us, retransmitted: false };
    if fin {
        t.fin = false;
    }
    t.sent.push_back(sent.clone());
    k.set(sk, field!("tcp_sock", "snd_nxt"), sent.end().into());
    k.add_at(sk, field!("tcp_sock", "packets_out"), 1);
    if out == 0 {
        k.tcp_arm_rto(cpu, sk);
    }
    cwnd_validate(k, sk, false);
    f.first([Step::Act(xmit)]);
    k.tcp_transmit(cpu, sk, &sent)
}

/// `tcp_cwnd_validate`.
fn cwnd_validate(k: &mut Kernel, sk: u64, limited: bool) {
    let una = k.u32_at(sk, field!("tcp_sock", "snd_una"));
    let mark = k.u32_at(sk, field!("tcp_sock", "cwnd_usage_seq"));
    let out = k.get(sk, field!("tcp_sock", "packets_out"));
    let most = field!("tcp_sock", "max_packets_out");
    let was = k.get(sk, field!("tcp_sock", "is_cwnd_limited")) != 0;
    if !before(una, mark) || limited || !was && out > k.get(sk, most) {
        k.set(sk, field!("tcp_sock", "is_cwnd_limited"), limited.into());
        k.set(sk, most, out);
        let next = k.get(sk, field!("tcp_sock", "snd_nxt"));
        k.set(sk, field!("tcp_sock", "cwnd_usage_seq"), next);
    }
}

/// `tcp_send_fin`: behind what is still to be written.
pub(super) fn send_fin(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    k.tcp_sk(f.sk).fin = true;
    k.add_at(f.sk, field!("tcp_sock", "write_seq"), 1);
    f.first([Step::Act(push)]);
    None
}

/// `tcp_send_active_reset`.
pub(super) fn send_reset(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let seq = k.u32_at(f.sk, field!("tcp_sock", "snd_nxt"));
    let flags = flag::RST | flag::ACK;
    let reset = Sent { seq, flags, payload: Vec::new(), at_us: 0, retransmitted: false };
    k.tcp_transmit(cpu, f.sk, &reset)
}

/// `tcp_sync_mss`: what a segment has room for when both use time stamps.
pub(super) fn mss_cache(advmss: u64, theirs: u64, tstamps: bool) -> u64 {
    advmss.min(theirs).max(MIN_SND_MSS) - if tstamps { TS_BYTES } else { 0 }
}
