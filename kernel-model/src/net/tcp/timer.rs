//! Timers of connections (net/ipv4/tcp_timer.c): of retransmission, of delayed acknowledgements,
//! of requests.

use std::collections::BTreeMap;

use super::ops::{self, RETRANS_CB, RETRANS_FLAG, RTO_CB, RTO_FLAG};
use super::{Late, Step, TcpFrame, hdr_opt, state};
use crate::context::Level;
use crate::cpu::{CpuId, Frame};
use crate::{Errno, Kernel, field};

/// When, and in which order among equal ones.
pub(super) type Key = (u64, u64);

/// What a timer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Which {
    /// `ICSK_TIME_RETRANS`.
    Retransmit,
    /// `ICSK_TIME_DACK`.
    DelAck,
    /// `rsk_timer`: the socket is the request.
    Request,
}

/// All that are armed.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers {
    queue: BTreeMap<Key, (CpuId, u64, Which)>,
    armed: u64,
}

/// `TCP_RTO_MAX` in milliseconds.
pub(super) const RTO_MAX_MS: u64 = 120_000;
/// `sysctl_tcp_syn_retries`, `sysctl_tcp_syn_linear_timeouts`, `sysctl_tcp_synack_retries`.
const SYN_RETRIES: u64 = 6;
const SYN_LINEAR: u64 = 4;
const SYNACK_RETRIES: u64 = 5;

impl Timers {
    pub(super) fn arm(&mut self, cpu: CpuId, at_ns: u64, sk: u64, which: Which) -> Key {
        self.armed += 1;
        let key = (at_ns, self.armed);
        self.queue.insert(key, (cpu, sk, which));
        key
    }

    pub(super) fn cancel(&mut self, key: Option<Key>) {
        if let Some(key) = key {
            self.queue.remove(&key);
        }
    }
}

impl Kernel {
    /// When the next timer of a connection is due.
    pub(crate) fn tcp_next_due(&self) -> Option<u64> {
        self.net.tcp.timers.queue.keys().next().map(|k| k.0)
    }

    /// What is due: a softirq of the CPU that armed it.
    pub(crate) fn tcp_expire(&mut self, now: u64) {
        while let Some(entry) = self.net.tcp.timers.queue.first_entry().filter(|e| e.key().0 <= now)
        {
            let (cpu, sk, which) = entry.remove();
            let path = TcpFrame::new(
                Level::Soft,
                sk,
                [Step::Act(match which {
                    Which::Retransmit => |k, cpu, f| k.tcp_timer_due(cpu, f, Which::Retransmit),
                    Which::DelAck => |k, cpu, f| k.tcp_timer_due(cpu, f, Which::DelAck),
                    Which::Request => request_timer,
                })],
            );
            self.interrupt(cpu, Level::Soft, [path.frame()]);
        }
    }

    /// `tcp_write_timer`, `tcp_delack_timer`: later, when a task works on the socket.
    fn tcp_timer_due(&mut self, cpu: CpuId, f: &mut TcpFrame, which: Which) -> Option<Frame> {
        let t = self.net.tcp.socks.get_mut(&f.sk)?;
        match which {
            Which::DelAck => t.delack = None,
            _ => t.rto = None,
        }
        if t.owned {
            t.backlog.push_back(Late::Timer(which));
            return None;
        }
        self.tcp_timer(cpu, f.sk, which)
    }

    pub(super) fn tcp_timer(&mut self, cpu: CpuId, sk: u64, which: Which) -> Option<Frame> {
        let t = self.net.tcp.socks.get_mut(&sk)?;
        if which == Which::DelAck {
            if !t.ack.scheduled {
                return None;
            }
            t.ack.ato_ms = if t.ack.pingpong { 40 } else { (t.ack.ato_ms * 2).min(RTO_MAX_MS) };
            t.ack.pingpong = false;
            return self.tcp_send_ack(cpu, sk);
        }
        if t.sent.is_empty() {
            return None;
        }
        if self.tcp_state(sk) != state::SYN_SENT {
            self.tcp_unsupported(cpu, "tcp_enter_loss: retransmission of what a peer has not got");
            return None;
        }
        let step = |act| Step::Act(act);
        Some(TcpFrame::new(Level::Soft, sk, [step(write_timeout), step(retransmit)]).frame())
    }

    /// `tcp_reset_xmit_timer`, for `icsk_rto`.
    pub(super) fn tcp_arm_rto(&mut self, cpu: CpuId, sk: u64) {
        let rto = self.get(sk, field!("tcp_sock", "inet_conn.icsk_rto"));
        let at = self.now(cpu) + rto * 1_000_000;
        let was = self.tcp_sk(sk).rto.take();
        self.net.tcp.timers.cancel(was);
        let key = self.net.tcp.timers.arm(cpu, at, sk, Which::Retransmit);
        self.tcp_sk(sk).rto = Some(key);
    }

    /// `tcp_clear_xmit_timers`.
    pub(super) fn tcp_stop_timers(&mut self, sk: u64) {
        let Some(t) = self.net.tcp.socks.get_mut(&sk) else { return };
        for key in [t.rto.take(), t.delack.take()] {
            self.net.tcp.timers.cancel(key);
        }
    }
}

/// `tcp_write_timeout` of a connection that is being made.
fn write_timeout(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let sk = f.sk;
    let tried = k.get(sk, field!("tcp_sock", "inet_conn.icsk_retransmits"));
    let rto = k.get(sk, field!("tcp_sock", "inet_conn.icsk_rto"));
    let own = k.get(sk, field!("tcp_sock", "inet_conn.icsk_syn_retries"));
    let most = if own == 0 { SYN_RETRIES } else { own } + SYN_LINEAR;
    let expired = tried >= most;
    if expired {
        // tcp_write_err
        f.todo.clear();
        f.first([Step::Act(|k, cpu, f| k.tcp_done_err(cpu, f, Errno::ETIMEDOUT))]);
    }
    if k.tcp_cb_flag(sk, RTO_FLAG) {
        f.first([ops::call(sk, RTO_CB, &[tried as u32, rto as u32, expired.into()])]);
    }
    None
}

/// The rest of `tcp_retransmit_timer`: `tcp_enter_loss`, `tcp_retransmit_skb`, backoff.
fn retransmit(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let sk = f.sk;
    let tried = field!("tcp_sock", "inet_conn.icsk_retransmits");
    if k.get(sk, tried) == 0 {
        // cubictcp_recalc_ssthresh: 717/1024.
        let cwnd = k.get(sk, field!("tcp_sock", "snd_cwnd"));
        k.set(sk, field!("tcp_sock", "snd_ssthresh"), (cwnd * 717 / 1024).max(2));
    }
    k.set(sk, field!("tcp_sock", "snd_cwnd"), 1);
    k.set(sk, field!("tcp_sock", "lost_out"), 1);
    // TCP_CA_Loss
    k.set(sk, field!("tcp_sock", "inet_conn.icsk_ca_state"), 4);
    k.add_at(sk, tried, 1);
    k.add_at(sk, field!("tcp_sock", "total_rto"), 1);
    let steps = [hdr_opt::current_mss, resend, retransmitted, backoff];
    f.first(steps.map(Step::Act));
    None
}

/// `__tcp_retransmit_skb`.
fn resend(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let sk = f.sk;
    let now = k.now(cpu) / 1000;
    let first = k.tcp_sk(sk).sent.front_mut()?;
    (first.retransmitted, first.at_us) = (true, now);
    let first = first.clone();
    k.tcp_transmit(cpu, sk, &first)
}

fn retransmitted(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let sk = f.sk;
    k.set(sk, field!("tcp_sock", "retrans_out"), 1);
    k.add_at(sk, field!("tcp_sock", "total_retrans"), 1);
    if k.tcp_cb_flag(sk, RETRANS_FLAG) {
        let seq = k.tcp_sk(sk).sent.front().map_or(0, |s| s.seq);
        f.first([ops::call(sk, RETRANS_CB, &[seq, 1, 0])]);
    }
    None
}

fn backoff(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let sk = f.sk;
    if k.get(sk, field!("tcp_sock", "total_rto")) > SYN_LINEAR {
        k.add_at(sk, field!("tcp_sock", "inet_conn.icsk_backoff"), 1);
        let rto = field!("tcp_sock", "inet_conn.icsk_rto");
        let longer = (k.get(sk, rto) * 2).min(RTO_MAX_MS);
        k.set(sk, rto, longer);
    }
    k.tcp_arm_rto(cpu, sk);
    None
}

/// `reqsk_timer_handler`: the answer again, or the end of the request.
fn request_timer(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let n = k.net.tcp.requests.iter().position(|r| r.at == f.sk)?;
    let tried = k.get(f.sk, field!("request_sock", "num_timeout"));
    if tried >= SYNACK_RETRIES {
        k.request_drop(n);
        return None;
    }
    k.set(f.sk, field!("request_sock", "num_timeout"), tried + 1);
    k.add_at(f.sk, field!("request_sock", "num_retrans"), 1);
    k.request_arm(cpu, n);
    k.synack(cpu, n, 0)
}
