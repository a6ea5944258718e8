//! The end of connections (`__tcp_close`, `tcp_fin`, `tcp_time_wait`, `tcp_done`).

use super::segment::{HEADER, Options, Segment, flag};
use super::{RCV_SHUTDOWN, SEND_SHUTDOWN, Step, TcpFrame, TimeWait, output, state};
use crate::context::Level;
use crate::cpu::{CpuId, Frame};
use crate::{Errno, Kernel, field};

/// `TCP_TIMEWAIT_LEN` in nanoseconds.
const TIMEWAIT_NS: u64 = 60_000_000_000;

/// `new_state`: the state after a close, and whether a FIN goes out.
fn after_close(now: u64) -> (u64, bool) {
    match now {
        state::ESTABLISHED | state::SYN_RECV => (state::FIN_WAIT1, true),
        state::CLOSE_WAIT => (state::LAST_ACK, true),
        state::FIN_WAIT1 | state::FIN_WAIT2 | state::LAST_ACK | state::CLOSING => (now, false),
        _ => (state::CLOSE, false),
    }
}

impl Kernel {
    /// `__tcp_close`; the socket lives on as long as its connection.
    pub(crate) fn tcp_close(&mut self, sk: u64) -> Frame {
        self.lock_sock(sk);
        let steps = [Step::Act(close), Step::Act(closed)];
        TcpFrame::new(Level::Task, sk, steps).frame()
    }

    /// `tcp_shutdown` of the direction out.
    pub(crate) fn tcp_shutdown(&mut self, sk: u64) -> Frame {
        self.shut(sk, SEND_SHUTDOWN);
        TcpFrame::new(Level::Task, sk, [Step::Act(close_state)]).frame()
    }

    /// `sk_shutdown`.
    pub(crate) fn shut(&mut self, sk: u64, how: u64) {
        let at = field!("sock", "sk_shutdown");
        let now = self.get(sk, at) | how;
        self.set(sk, at, now);
    }

    /// `tcp_done_with_error`.
    pub(super) fn tcp_done_err(
        &mut self,
        cpu: CpuId,
        f: &mut TcpFrame,
        err: Errno,
    ) -> Option<Frame> {
        self.set(f.sk, field!("sock", "sk_err"), err as i32 as u64);
        self.tcp_sk(f.sk).sent.clear();
        self.tcp_sk(f.sk).write.clear();
        self.tcp_done(cpu, f)
    }

    /// `tcp_done`: timers stop, the state is `TCP_CLOSE`, and without a file it is freed.
    fn tcp_done(&mut self, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
        self.tcp_stop_timers(f.sk);
        f.first([
            Step::State(f.sk, state::CLOSE),
            Step::Act(|k, cpu, f| {
                k.shut(f.sk, RCV_SHUTDOWN | SEND_SHUTDOWN);
                k.sock_wake(cpu, f.sk);
                k.tcp_destroy(f.sk);
                None
            }),
        ]);
        None
    }

    /// `inet_csk_destroy_sock`, of one that is closed and that nobody has.
    fn tcp_destroy(&mut self, sk: u64) {
        let over = self.tcp_state(sk) == state::CLOSE;
        let alone = |t: &super::TcpSk| t.dead && t.listener.is_none() && !t.owned;
        if !over || !self.net.tcp.socks.get(&sk).is_some_and(alone) {
            return;
        }
        self.tcp_stop_timers(sk);
        let t = self.net.tcp.socks.remove(&sk).unwrap_or_default();
        for late in t.backlog {
            if let super::Late::Skb(skb) = late {
                self.skb_release(skb);
            }
        }
        self.sock_free(sk);
    }

    /// `tcp_time_wait`: a small socket keeps the ends for the rest.
    fn tcp_time_wait(&mut self, cpu: CpuId, f: &mut TcpFrame, substate: u64) -> Option<Frame> {
        if let Some(ends) = self.tcp_ends(f.sk) {
            let t = self.tcp_sk(f.sk);
            let (tstamps, scale) = (t.tstamps, t.rcv_wscale);
            let window = self.get(f.sk, field!("tcp_sock", "rcv_wnd")) >> scale;
            let wait = TimeWait {
                substate,
                rcv_nxt: self.u32_at(f.sk, field!("tcp_sock", "rcv_nxt")),
                snd_nxt: self.u32_at(f.sk, field!("tcp_sock", "snd_nxt")),
                window: window as u16,
                tstamps,
                until_ns: self.now(cpu) + TIMEWAIT_NS,
            };
            let now = self.now(cpu);
            self.net.tcp.time_wait.retain(|_, w| w.until_ns > now);
            self.net.tcp.time_wait.insert(ends, wait);
        }
        self.tcp_done(cpu, f)
    }
}

fn close(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let sk = f.sk;
    k.func_enter(cpu, "tcp_close", &[sk, 0]);
    k.shut(sk, RCV_SHUTDOWN | SEND_SHUTDOWN);
    f.first([Step::Exit("tcp_close", vec![sk, 0], 0)]);
    let unread = !k.tcp_sk(sk).received.is_empty();
    k.tcp_sk(sk).received.clear();
    match k.tcp_state(sk) {
        state::LISTEN => {
            f.first([Step::State(sk, state::CLOSE), Step::Act(listen_stop)]);
        }
        state::CLOSE => {}
        _ if unread => {
            // Data was lost: the peer hears so.
            k.tcp_stop_timers(sk);
            f.first([Step::State(sk, state::CLOSE), Step::Act(output::send_reset)]);
        }
        _ => f.first([Step::Act(close_state)]),
    }
    None
}

/// `tcp_close_state`, `tcp_send_fin`.
fn close_state(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let now = k.tcp_state(f.sk);
    let (next, fin) = after_close(now);
    if next == state::CLOSE {
        k.tcp_stop_timers(f.sk);
    }
    let fin = fin.then_some(Step::Act(output::send_fin));
    f.first([Step::State(f.sk, next)].into_iter().chain(fin).collect::<Vec<_>>());
    None
}

/// `inet_csk_listen_stop`: requests go, children that nobody accepted are reset.
fn listen_stop(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    while let Some(n) = k.net.tcp.requests.iter().position(|r| r.listener == f.sk) {
        k.request_drop(n);
    }
    let child = k.tcp_accept(f.sk)?;
    f.first([Step::Act(listen_stop)]);
    let over = k.tcp_state(child) == state::CLOSE;
    let reset = Step::Act(output::send_reset);
    let steps = if over { vec![] } else { vec![Step::State(child, state::CLOSE), reset] };
    let last = Step::Act(|k, _, f| {
        k.tcp_stop_timers(f.sk);
        k.tcp_destroy(f.sk);
        None
    });
    Some(TcpFrame::new(Level::Task, child, steps.into_iter().chain([last])).frame())
}

/// The end of `__tcp_close`: what has arrived meanwhile, then nobody has it.
fn closed(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    f.first([Step::Act(|k, cpu, f| {
        k.tcp_sk(f.sk).dead = true;
        // What would wait for more of a peer is small from now on.
        if k.tcp_state(f.sk) == state::FIN_WAIT2 {
            return k.tcp_time_wait(cpu, f, state::FIN_WAIT2);
        }
        k.tcp_destroy(f.sk);
        None
    })]);
    Some(k.release_sock(f.sk))
}

/// What an acknowledgement does to a connection that ends (`tcp_rcv_state_process`).
pub(super) fn acked(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let sk = f.sk;
    let all = k.u32_at(sk, field!("tcp_sock", "write_seq"));
    if k.u32_at(sk, field!("tcp_sock", "snd_una")) != all {
        return None;
    }
    match k.tcp_state(sk) {
        state::FIN_WAIT1 => f.first([Step::State(sk, state::FIN_WAIT2), Step::Act(fin_wait2)]),
        state::CLOSING => return k.tcp_time_wait(cpu, f, state::TIME_WAIT),
        state::LAST_ACK => {
            f.todo.retain(|s| !matches!(s, Step::Data));
            return k.tcp_done(cpu, f);
        }
        _ => {}
    }
    None
}

fn fin_wait2(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    k.sock_wake(cpu, f.sk);
    let t = k.tcp_sk(f.sk);
    if !t.dead || t.owned || f.seg().has(flag::FIN) {
        return None;
    }
    f.todo.retain(|s| !matches!(s, Step::Data));
    k.tcp_time_wait(cpu, f, state::FIN_WAIT2)
}

/// `tcp_fin`.
pub(super) fn fin_rcv(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let sk = f.sk;
    k.add_at(sk, field!("tcp_sock", "rcv_nxt"), 1);
    k.shut(sk, RCV_SHUTDOWN);
    k.tcp_sk(sk).ack.scheduled = true;
    k.sock_wake(cpu, sk);
    match k.tcp_state(sk) {
        state::ESTABLISHED => {
            k.tcp_sk(sk).ack.pingpong = true;
            f.first([Step::State(sk, state::CLOSE_WAIT)]);
            None
        }
        state::FIN_WAIT1 => {
            f.first([Step::State(sk, state::CLOSING)]);
            k.tcp_send_ack(cpu, sk)
        }
        state::FIN_WAIT2 => {
            f.todo.retain(|s| matches!(s, Step::Exit(..) | Step::Free));
            f.first([Step::Act(|k, cpu, f| k.tcp_time_wait(cpu, f, state::TIME_WAIT))]);
            k.tcp_send_ack(cpu, sk)
        }
        _ => None,
    }
}

/// `tcp_timewait_state_process`.
pub(super) fn time_wait_rcv(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let seg = f.seg().clone();
    let ends = seg.ends();
    let until = k.now(cpu) + TIMEWAIT_NS;
    let w = k.net.tcp.time_wait.get_mut(&ends)?;
    if seg.has(flag::RST) {
        k.net.tcp.time_wait.remove(&ends);
        return None;
    }
    if seg.has(flag::SYN) {
        k.tcp_unsupported(cpu, "tcp_tw_reuse: a new connection of ends in TIME_WAIT");
        return None;
    }
    if !seg.has(flag::FIN) && seg.payload.is_empty() {
        return None;
    }
    if w.substate == state::FIN_WAIT2 && !seg.payload.is_empty() {
        k.net.tcp.time_wait.remove(&ends);
        return k.tcp_reset_for(&seg);
    }
    if w.substate == state::FIN_WAIT2 {
        (w.substate, w.rcv_nxt) = (state::TIME_WAIT, seg.end_seq());
    }
    w.until_ns = until;
    let w = w.clone();
    let own = k.tcp_tsval(cpu, ends);
    let ts = seg.options.ts.filter(|_| w.tstamps).map(|(theirs, _)| (own, theirs));
    let options = Options { ts, ..Options::default() };
    k.tcp_answer(&Segment {
        from: seg.to,
        to: seg.from,
        seq: w.snd_nxt,
        ack: w.rcv_nxt,
        flags: flag::ACK,
        window: w.window,
        header: HEADER,
        options,
        payload: Vec::new(),
    })
}
