//! TCP (net/ipv4/tcp*.c, Linux 6.18): connections with states between sockets of the machine and
//! to others, and what programs of control groups see of them.
//!
//! ```text
//!  connect ─► SYN ─► ip_finish_output ─► loopback ─► backlog of the CPU ─► tcp_v4_rcv: listener
//!     ▲                    └─► wire          (softirq)                      │ request ─► child
//!     └── release_sock ◄── backlog of the socket ◄── tcp_v4_rcv: SYN-ACK ◄──┘
//! ```
//!
//! A path is a list of steps ([`Step`]), as it calls programs between its acts. A socket that a
//! task works on (`lock_sock`) puts what arrives into its backlog.
//!
//! Not modelled, and said so by name when it is reached: segments out of order, loss of data and
//! what follows from it, windows of 0, segmentation offloads (each segment is an sk_buff), urgent
//! data, fast open, cookies, MPTCP.

mod close;
mod hdr_opt;
mod input;
mod listen;
mod ops;
mod output;
mod rtt;
mod segment;
mod timer;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use super::NetFrame;
use crate::context::Level;
use crate::cpu::{CpuId, Flow, Frame, Input};
use crate::types::Field;
use crate::{EventKind, Fault, Kernel, field};

pub(crate) use hdr_opt::{TCP_BPF_SYN, TCP_BPF_SYN_MAC};
pub(crate) use ops::{CB_FLAGS, HDR_OPT_LEN_CB, WRITE_HDR_OPT_CB};
pub(crate) use segment::option_at;
use segment::{Options, Segment};

/// `TCP_ESTABLISHED` to `TCP_NEW_SYN_RECV`.
pub(crate) mod state {
    pub(crate) const ESTABLISHED: u64 = 1;
    pub(crate) const SYN_SENT: u64 = 2;
    pub(crate) const SYN_RECV: u64 = 3;
    pub(crate) const FIN_WAIT1: u64 = 4;
    pub(crate) const FIN_WAIT2: u64 = 5;
    pub(crate) const TIME_WAIT: u64 = 6;
    pub(crate) const CLOSE: u64 = 7;
    pub(crate) const CLOSE_WAIT: u64 = 8;
    pub(crate) const LAST_ACK: u64 = 9;
    pub(crate) const LISTEN: u64 = 10;
    pub(crate) const CLOSING: u64 = 11;
    pub(crate) const NEW_SYN_RECV: u64 = 12;
}

/// `RCV_SHUTDOWN`, `SEND_SHUTDOWN`.
pub(crate) const RCV_SHUTDOWN: u64 = 1;
pub(crate) const SEND_SHUTDOWN: u64 = 2;

/// Both ends: own, other.
type Ends = (SocketAddr, SocketAddr);

/// A segment that was sent and not acknowledged.
#[derive(Clone, Debug)]
struct Sent {
    seq: u32,
    flags: u8,
    payload: Vec<u8>,
    /// When, in microseconds (`skb_mstamp_ns`).
    at_us: u64,
    retransmitted: bool,
}

impl Sent {
    fn end(&self) -> u32 {
        let marks = self.flags & (segment::flag::SYN | segment::flag::FIN);
        self.seq.wrapping_add(self.payload.len() as u32 + marks.count_ones())
    }
}

/// What waits for a socket that a task works on.
#[derive(Clone, Copy, Debug)]
enum Late {
    Skb(u64),
    Timer(timer::Which),
}

/// What a TCP socket has besides its `tcp_sock`.
#[derive(Clone, Debug, Default)]
struct TcpSk {
    /// `tcp_rtx_queue`.
    sent: VecDeque<Sent>,
    /// Bytes of the write queue, and that a FIN follows them.
    write: VecDeque<u8>,
    fin: bool,
    /// `sk_receive_queue`.
    received: VecDeque<u8>,
    /// Children that nobody has accepted, of a listener.
    accept: VecDeque<u64>,
    /// The listener, of a child that nobody has accepted.
    listener: Option<u64>,
    /// `sk_lock.owned`, and `sk_backlog`.
    owned: bool,
    backlog: VecDeque<Late>,
    /// `SOCK_DEAD`: it has no file.
    dead: bool,
    /// `rx_opt`: whether both use timestamps, scales of windows, `ts_recent`.
    tstamps: bool,
    snd_wscale: u8,
    rcv_wscale: u8,
    ts_recent: u32,
    /// `rx_opt.saw_unknown`.
    saw_unknown: bool,
    /// `pred_flags`: the window in the header that is expected; none is the slow path.
    predicted: Option<u16>,
    save_syn: u8,
    saved_syn: Option<hdr_opt::SavedSyn>,
    /// `inet_csk(sk)->icsk_ack`.
    ack: AckState,
    /// Timers that are armed, by their keys.
    rto: Option<timer::Key>,
    delack: Option<timer::Key>,
}

#[derive(Clone, Copy, Debug, Default)]
struct AckState {
    scheduled: bool,
    quick: u32,
    pingpong: bool,
    ato_ms: u64,
    rcv_mss: u32,
    /// In milliseconds.
    lrcvtime: u64,
    /// `rcv_wup`: `rcv_nxt` when an acknowledgement last left.
    rcv_wup: u32,
}

/// A connection that a listener has answered (`struct tcp_request_sock`).
#[derive(Clone, Debug)]
struct Request {
    /// The guest's object.
    at: u64,
    listener: u64,
    ends: Ends,
    /// Their options and number, our number.
    theirs: Options,
    irs: u32,
    isn: u32,
    rcv_wnd: u32,
    rcv_wscale: u8,
    snd_wnd: u32,
    sent_us: u64,
    timer: Option<timer::Key>,
    /// `icsk_rto` of `tcp_timeout_init`, in milliseconds.
    timeout_ms: u64,
    ecn: bool,
    saved_syn: Option<hdr_opt::SavedSyn>,
}

/// `struct tcp_timewait_sock`.
#[derive(Clone, Debug)]
struct TimeWait {
    /// `tw_substate`.
    substate: u64,
    rcv_nxt: u32,
    snd_nxt: u32,
    window: u16,
    tstamps: bool,
    until_ns: u64,
}

/// All of TCP.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tcp {
    socks: BTreeMap<u64, TcpSk>,
    requests: Vec<Request>,
    time_wait: BTreeMap<Ends, TimeWait>,
    timers: timer::Timers,
    /// Per CPU: `softnet_data.input_pkt_queue`.
    backlog: BTreeMap<CpuId, VecDeque<u64>>,
    /// `ipv4_tcp_sk`: the socket of answers that belong to none; 0 before the first.
    ctl: u64,
}

/// One thing that a path does.
#[derive(Clone, Debug)]
enum Step {
    Act(Act),
    /// `tcp_call_bpf`.
    Ops(Box<ops::Ops>),
    /// `tcp_set_state`.
    State(u64, u64),
    /// Its end: the state is stored.
    Store(u64, u64),
    /// `tcp_data_queue` and what follows from it.
    Data,
    /// `__kfree_skb` of what the path is about.
    Free,
    /// A kernel function returns this.
    Exit(&'static str, Vec<u64>, u64),
}

type Act = fn(&mut Kernel, CpuId, &mut TcpFrame) -> Option<Frame>;

/// A path of TCP in progress.
#[derive(Clone, Debug)]
pub struct TcpFrame {
    todo: VecDeque<Step>,
    level: Level,
    sk: u64,
    skb: u64,
    seg: Option<Box<Segment>>,
    /// Context of the programs that run.
    ctx: u64,
    /// What is done with their value, or with that of a path.
    then: Option<fn(&mut Kernel, CpuId, &mut TcpFrame, i32)>,
    /// Round trip time that was measured, in microseconds.
    rtt_us: Option<u64>,
    /// Options of programs, and what a segment then has room for.
    opt: hdr_opt::Opt,
    mss: u64,
    /// What the path returns.
    ret: u64,
}

impl TcpFrame {
    fn new(level: Level, sk: u64, todo: impl IntoIterator<Item = Step>) -> TcpFrame {
        TcpFrame {
            todo: todo.into_iter().collect(),
            level,
            sk,
            skb: 0,
            seg: None,
            ctx: 0,
            then: None,
            rtt_us: None,
            opt: hdr_opt::Opt::default(),
            mss: 0,
            ret: 0,
        }
    }

    fn frame(self) -> Frame {
        Frame::Net(Box::new(NetFrame::Tcp(Box::new(self))))
    }

    /// More to do, before what is left.
    fn first(&mut self, steps: impl IntoIterator<Item = Step, IntoIter: DoubleEndedIterator>) {
        steps.into_iter().rev().for_each(|s| self.todo.push_front(s));
    }

    /// The context that the path is in.
    pub(super) fn level(&self) -> Level {
        self.level
    }

    /// The segment that the path is about.
    fn seg(&self) -> &Segment {
        self.seg.as_ref().expect("a path that receives has a segment")
    }
}

impl Kernel {
    pub(super) fn tcp_step(&mut self, cpu: CpuId, mut f: Box<TcpFrame>, input: Input) -> Flow {
        if !matches!(input, Input::Start | Input::Again) {
            let mut value = if let Input::Return(v) = input { v as i32 } else { -1 };
            if f.ctx != 0 {
                let reply =
                    self.get(f.ctx, Field { size: 4, ..field!("bpf_sock_ops_kern", "reply") });
                let left = self.get(f.ctx, field!("bpf_sock_ops_kern", "remaining_opt_len"));
                f.opt.left = (value == 0).then_some(left as u8);
                self.kfree(std::mem::take(&mut f.ctx), "bpf_sock_ops_kern");
                value = if value == 0 { reply as u32 as i32 } else { -1 };
            }
            if let Some(then) = f.then.take() {
                then(self, cpu, &mut f, value);
            }
        }
        loop {
            // What a step fires runs before the next one.
            if !self.cpus[cpu.idx()].fired.is_empty() {
                return Flow::Become(f.frame());
            }
            let Some(step) = f.todo.pop_front() else { return Flow::Done(f.ret) };
            if let Some(child) = self.tcp_do(cpu, &mut f, step) {
                return Flow::Call { frame: f.frame(), child };
            }
        }
    }

    fn tcp_do(&mut self, cpu: CpuId, f: &mut TcpFrame, step: Step) -> Option<Frame> {
        match step {
            Step::Act(act) => return act(self, cpu, f),
            Step::Data => return input::data(self, cpu, f),
            Step::Free => self.tcp_free(f),
            Step::Ops(call) => return self.tcp_call_bpf(cpu, f, &call),
            Step::State(sk, to) => {
                let was = self.get(sk, field!("sock", "__sk_common.skc_state"));
                self.func_enter(cpu, "tcp_set_state", &[sk, to]);
                let exit = Step::Exit("tcp_set_state", vec![sk, to], 0);
                f.first([Step::Store(sk, to), exit]);
                if self.tcp_cb_flag(sk, ops::STATE_FLAG) {
                    f.first([ops::call(sk, ops::STATE_CB, &[was as u32, to as u32])]);
                }
            }
            Step::Store(sk, to) => self.tcp_state_store(cpu, sk, to),
            Step::Exit(name, args, ret) => {
                self.func_exit(cpu, name, &args, ret);
            }
        }
        None
    }

    /// The rest of `tcp_set_state`.
    fn tcp_state_store(&mut self, cpu: CpuId, sk: u64, to: u64) {
        if to == state::CLOSE {
            self.net.sockets.unhash(sk);
        }
        self.inet_sk_state_store(cpu, sk, to);
    }

    /// `inet_sk_state_store`.
    pub(crate) fn inet_sk_state_store(&mut self, cpu: CpuId, sk: u64, to: u64) {
        let at = field!("sock", "__sk_common.skc_state");
        let was = self.get(sk, at);
        self.fire(cpu, "inet_sock_set_state", &[sk, was, to]);
        self.set(sk, at, to);
    }

    /// A member of 32 bits.
    fn u32_at(&self, sk: u64, f: Field) -> u32 {
        self.get(sk, f) as u32
    }

    fn add_at(&mut self, sk: u64, f: Field, n: u64) {
        let mask = u64::MAX >> (64 - 8 * f.size);
        let value = self.get(sk, f).wrapping_add(n) & mask;
        self.set(sk, f, value);
    }

    fn tcp_sk(&mut self, sk: u64) -> &mut TcpSk {
        self.net.tcp.socks.entry(sk).or_default()
    }

    fn tcp_state(&self, sk: u64) -> u64 {
        self.get(sk, field!("sock", "__sk_common.skc_state"))
    }

    /// Something that a path would come to and that the model does not have; the run ends.
    fn tcp_unsupported(&mut self, cpu: CpuId, what: &str) {
        let fault = Fault::unsupported(what);
        self.emit(cpu, EventKind::Fault { prog: None, fault });
    }

    /// `lock_sock`.
    pub(crate) fn lock_sock(&mut self, sk: u64) {
        self.tcp_sk(sk).owned = true;
    }

    /// `release_sock`: what has arrived meanwhile.
    pub(crate) fn release_sock(&mut self, sk: u64) -> Frame {
        TcpFrame::new(Level::Task, sk, [Step::Act(release)]).frame()
    }

    /// `tcp_recvmsg`, of what is there.
    pub(crate) fn tcp_take(&mut self, sk: u64, count: usize) -> Vec<u8> {
        let queue = &mut self.tcp_sk(sk).received;
        let n = count.min(queue.len());
        let bytes: Vec<u8> = queue.drain(..n).collect();
        let at = field!("tcp_sock", "copied_seq");
        self.add_at(sk, at, n as u64);
        bytes
    }

    /// Whether a socket has something to read.
    pub(crate) fn tcp_readable(&self, sk: u64) -> bool {
        self.net.tcp.socks.get(&sk).is_some_and(|t| !t.received.is_empty())
    }

    /// The first child of a listener that nobody has accepted (`reqsk_queue_remove`).
    pub(crate) fn tcp_accept(&mut self, sk: u64) -> Option<u64> {
        let child = self.tcp_sk(sk).accept.pop_front()?;
        self.tcp_sk(child).listener = None;
        let at = field!("sock", "sk_ack_backlog");
        let left = self.get(sk, at).saturating_sub(1);
        self.set(sk, at, left);
        Some(child)
    }

    /// `sock_graft`: it has a file.
    pub(crate) fn tcp_accepted(&mut self, sk: u64) {
        self.tcp_sk(sk).dead = false;
    }

    pub(super) fn skb_is_tcp(&self, skb: u64) -> bool {
        segment::is_tcp(&self.skb_frame(skb))
    }

    /// `netif_rx` of the loopback device: the softirq comes as soon as the sender is through.
    pub(super) fn backlog_put(&mut self, cpu: CpuId, skb: u64) -> Option<Frame> {
        self.net.tcp.backlog.entry(cpu).or_default().push_back(skb);
        let in_progress =
            |f: &Frame| matches!(f, Frame::Net(n) if matches!(**n, NetFrame::Backlog));
        let waits = self.cpus[cpu.idx()].frames.iter().any(in_progress);
        (!waits).then(|| Frame::Net(Box::new(NetFrame::Backlog)))
    }

    /// `process_backlog`.
    pub(super) fn backlog_step(&mut self, cpu: CpuId) -> Flow {
        let skb = self.net.tcp.backlog.get_mut(&cpu).and_then(VecDeque::pop_front);
        let Some(skb) = skb else { return Flow::Done(0) };
        let child = self.tcp_rcv(skb);
        Flow::Call { frame: Frame::Net(Box::new(NetFrame::Backlog)), child }
    }

    /// A segment that came up through a device, when a socket of a task has to do with it.
    pub(super) fn tcp_up(&self, skb: u64) -> Option<Frame> {
        let seg = Segment::parse(&self.skb_frame(skb))?;
        let known =
            self.request_of(&seg).is_some() || self.net.tcp.time_wait.contains_key(&seg.ends());
        let found = self.net.sockets.lookup(super::Protocol::Tcp, (seg.from, seg.to), 0);
        let of_task = found.is_some_and(|sk| self.net.sockets.is_owned(sk));
        (known || of_task).then(|| self.tcp_rcv(skb))
    }
}

/// `__release_sock`, one thing after the other.
fn release(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let Some(late) = k.tcp_sk(f.sk).backlog.pop_front() else {
        k.tcp_sk(f.sk).owned = false;
        return None;
    };
    f.first([Step::Act(release)]);
    match late {
        Late::Skb(skb) => Some(k.tcp_rcv_late(f.sk, skb)),
        Late::Timer(which) => k.tcp_timer(cpu, f.sk, which),
    }
}
