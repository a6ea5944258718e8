//! Options of programs in the headers of segments (`bpf_skops_hdr_opt_len`,
//! `bpf_skops_write_hdr_opt`, `bpf_skops_parse_hdr`), and the SYN that a listener keeps.
//!
//! ```text
//!  room ─► HDR_OPT_LEN_CB ─► reserved ─► header ─► WRITE_HDR_OPT_CB ─► NOPs for the rest ─► out
//! ```
//!
//! Programs see a segment on its way out in an sk_buff of its own (`Step::Free` ends it); what
//! they wrote there is in the packet that leaves.

use super::ops::{self, HDR_OPT_LEN_CB, PARSE_ALL_FLAG, PARSE_HDR_OPT_CB, PARSE_UNKNOWN_FLAG};
use super::ops::{Header, WRITE_FLAG, WRITE_HDR_OPT_CB};
use super::segment::{HEADER, Segment, before, flag};
use super::{Step, TcpFrame, input, state};
use crate::context::Level;
use crate::cpu::{CpuId, Frame};
use crate::{Errno, Kernel, field};

/// `MAX_TCP_OPTION_SPACE`.
const ROOM: usize = 40;
/// `TCPOPT_NOP`.
const NOP: u8 = 1;
/// `TCPOLEN_TSTAMP_ALIGNED`.
const TSTAMP: usize = 12;
/// `BPF_WRITE_HDR_TCP_CURRENT_MSS`.
const CURRENT_MSS: u32 = 1;
/// `TCP_BPF_SYN`, `TCP_BPF_SYN_IP`, `TCP_BPF_SYN_MAC`.
pub(crate) const TCP_BPF_SYN: u32 = 1005;
const TCP_BPF_SYN_IP: u32 = 1006;
pub(crate) const TCP_BPF_SYN_MAC: u32 = 1007;

/// Options of programs on a path.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opt {
    /// The request that a SYN-ACK is for, and the SYN where it is there still.
    request: Option<(u64, u64)>,
    /// `bpf_opt_len`.
    reserved: u8,
    /// `remaining_opt_len` after the programs; none when there were none, or one refused.
    pub(super) left: Option<u8>,
}

/// `struct saved_syn`: the lengths of its headers.
#[derive(Clone, Debug)]
pub(crate) struct SavedSyn {
    mac: usize,
    network: usize,
    bytes: Vec<u8>,
}

impl SavedSyn {
    /// From the link layer or the network layer on.
    fn of(k: &Kernel, skb: u64, mac: bool) -> SavedSyn {
        let at = |f| k.get(skb, f) as usize;
        let link = at(field!("sk_buff", "mac_header"));
        let network = at(field!("sk_buff", "network_header")) - link;
        let transport = at(field!("sk_buff", "transport_header")) - link;
        let mut bytes = k.skb_frame(skb);
        let header = bytes.get(transport + 12).map_or(0, |b| usize::from(b >> 4) * 4);
        bytes.truncate(transport + header);
        if !mac {
            bytes.drain(..network);
        }
        SavedSyn { mac: if mac { network } else { 0 }, network: transport - network, bytes }
    }

    /// All of it.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// What `TCP_BPF_SYN`, `TCP_BPF_SYN_IP` or `TCP_BPF_SYN_MAC` begins with.
    fn part(&self, name: u32) -> Option<&[u8]> {
        match name {
            TCP_BPF_SYN => self.bytes.get(self.mac + self.network..),
            TCP_BPF_SYN_IP => self.bytes.get(self.mac..),
            _ => Some(&self.bytes[..]).filter(|_| self.mac > 0),
        }
    }
}

impl Kernel {
    /// A segment of a socket, or the SYN-ACK of a listener for a request, with the options that
    /// programs add to it.
    pub(super) fn tcp_send(
        &mut self,
        cpu: CpuId,
        sk: u64,
        seg: Segment,
        request: Option<(u64, u64)>,
    ) -> Option<Frame> {
        if !self.tcp_cb_flag(sk, WRITE_FLAG) || room(&seg) == 0 {
            return self.tcp_leave(cpu, sk, &seg, request.is_some());
        }
        let steps = [Step::Act(reserve), Step::Act(write), Step::Free, Step::Act(leave)];
        let mut f = TcpFrame::new(Level::Task, sk, steps);
        f.seg = Some(Box::new(seg));
        f.opt.request = request;
        Some(f.frame())
    }

    /// `tcp_reqsk_record_syn`.
    pub(super) fn tcp_record_syn(&mut self, listener: u64, skb: u64) -> Option<SavedSyn> {
        let how = self.tcp_sk(listener).save_syn;
        (how > 0).then(|| SavedSyn::of(self, skb, how == 2))
    }

    /// `bpf_sock_ops_get_syn`.
    pub(crate) fn tcp_get_syn(&self, ctx: u64, name: u32) -> Result<Vec<u8>, Errno> {
        let skb = self.get(ctx, field!("bpf_sock_ops_kern", "syn_skb"));
        let sk = self.get(ctx, field!("bpf_sock_ops_kern", "sk"));
        let held = if skb != 0 { Some(SavedSyn::of(self, skb, true)) } else { None };
        let saved = held.as_ref().or_else(|| match self.tcp_state(sk) {
            state::NEW_SYN_RECV => {
                self.net.tcp.requests.iter().find(|r| r.at == sk)?.saved_syn.as_ref()
            }
            _ => self.tcp_saved_syn(sk),
        });
        saved.and_then(|s| s.part(name)).map(<[u8]>::to_vec).ok_or(Errno::ENOENT)
    }

    /// `tcp_sock.saved_syn`.
    pub(crate) fn tcp_saved_syn(&self, sk: u64) -> Option<&SavedSyn> {
        self.net.tcp.socks.get(&sk)?.saved_syn.as_ref()
    }

    /// `tcp_saved_syn_free`.
    pub(crate) fn tcp_saved_syn_free(&mut self, sk: u64) {
        self.tcp_sk(sk).saved_syn = None;
    }

    /// `TCP_SAVE_SYN`: 0 for no, 1 from the network layer on, 2 from the link layer on.
    pub(crate) fn tcp_save_syn(&self, sk: u64) -> u8 {
        self.net.tcp.socks.get(&sk).map_or(0, |t| t.save_syn)
    }

    /// The same, set.
    pub(crate) fn tcp_save_syn_set(&mut self, sk: u64, how: u8) {
        self.tcp_sk(sk).save_syn = how;
    }
}

/// Bytes that options have left.
fn room(seg: &Segment) -> usize {
    ROOM - seg.options.bytes().len()
}

/// `bpf_skops_hdr_opt_len`: programs see how long the payload is, and nothing of it.
fn reserve(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let Some(skb) = k.segment_view(f.seg()) else {
        // skb_clone failed: ENOBUFS.
        f.todo.clear();
        return None;
    };
    f.skb = skb;
    input::fill_cb(k, cpu, f);
    if f.opt.request.is_some() {
        let flags = field!("tcp_skb_cb", "tcp_flags");
        let cb = skb + u64::from(field!("sk_buff", "cb").off);
        k.set(cb, flags, (flag::SYN | flag::ACK).into());
    }
    let header = Header { skb: Some((skb, 0)), room: room(f.seg()) as u8, ..f.header(0) };
    f.first([ops::header(f.sk, HDR_OPT_LEN_CB, header, |_, _, f, _| {
        f.opt.reserved = f.reserved(room(f.seg()) as u8);
    })]);
    None
}

/// `tcp_options_write`, then `bpf_skops_write_hdr_opt`.
fn write(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let reserved = f.opt.reserved;
    if reserved == 0 {
        return None;
    }
    let seg = f.seg.as_mut()?;
    seg.options.more = vec![NOP; reserved.into()];
    let header = seg.header_bytes();
    let first = (header.len() - usize::from(reserved)) as u64;
    k.skb_push_bytes(f.skb, &header);
    let header = Header { skb: Some((f.skb, first)), room: reserved, ..f.header(0) };
    f.first([ops::header(f.sk, WRITE_HDR_OPT_CB, header, |k, _, f, _| {
        let written = f.opt.left.map_or(0, |left| f.opt.reserved - left);
        let Some(seg) = f.seg.as_mut() else { return };
        let at = seg.header_bytes().len() - usize::from(f.opt.reserved);
        let data = k.get(f.skb, field!("sk_buff", "data")) + at as u64;
        let bytes = k.bytes(data, written.into());
        seg.options.more[..bytes.len()].copy_from_slice(&bytes);
    })]);
    None
}

fn leave(k: &mut Kernel, cpu: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let seg = f.seg.take()?;
    k.tcp_leave(cpu, f.sk, &seg, f.opt.request.is_some())
}

impl TcpFrame {
    /// What a context has of the request of this path.
    fn header(&self, arg: u32) -> Header {
        let (of, syn) = self.opt.request.unwrap_or((self.sk, 0));
        Header { of, syn, arg, ..Header::default() }
    }

    /// What programs took of the room, in whole words.
    fn reserved(&self, room: u8) -> u8 {
        self.opt.left.map_or(0, |left| (room - left).next_multiple_of(4))
    }
}

/// `tcp_current_mss`: the options that a segment is going to have are asked for without one.
pub(super) fn current_mss(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    f.mss = k.get(f.sk, field!("tcp_sock", "mss_cache"));
    if k.tcp_cb_flag(f.sk, WRITE_FLAG) {
        let room = ROOM - if k.tcp_sk(f.sk).tstamps { TSTAMP } else { 0 };
        let header = Header { room: room as u8, ..f.header(CURRENT_MSS) };
        f.first([ops::header(f.sk, HDR_OPT_LEN_CB, header, |k, _, f, _| {
            let room = ROOM - if k.tcp_sk(f.sk).tstamps { TSTAMP } else { 0 };
            f.mss -= u64::from(f.reserved(room as u8));
        })]);
    }
    None
}

/// `tcp_rcv_established` up to the fast path: one that has nothing but what is expected is not
/// looked at further.
fn predicted(k: &mut Kernel, f: &TcpFrame) -> bool {
    let seg = f.seg();
    let tstamps = k.tcp_sk(f.sk).tstamps;
    let header = HEADER + if tstamps { TSTAMP } else { 0 };
    let next = k.u32_at(f.sk, field!("tcp_sock", "rcv_nxt"));
    let sent = k.u32_at(f.sk, field!("tcp_sock", "snd_nxt"));
    let t = k.tcp_sk(f.sk);
    let later = |ts: (u32, u32)| ts.0.wrapping_sub(t.ts_recent).cast_signed() >= 0;
    t.predicted == Some(seg.window)
        && seg.header == header
        && seg.flags & !flag::PSH == flag::ACK
        && seg.seq == next
        && !before(sent, seg.ack)
        && (!tstamps || seg.options.ts.is_some_and(later))
}

/// `tcp_fast_parse_options`, and `bpf_skops_parse_hdr` at the end of `tcp_validate_incoming`.
pub(super) fn parse(k: &mut Kernel, _: CpuId, f: &mut TcpFrame) -> Option<Frame> {
    let (sk, now) = (f.sk, k.tcp_state(f.sk));
    if now == state::ESTABLISHED && predicted(k, f) {
        return None;
    }
    let (seg, t) = (f.seg(), k.net.tcp.socks.entry(sk).or_default());
    let usual = seg.header == HEADER
        || t.tstamps && seg.header == HEADER + TSTAMP && seg.options.ts.is_some();
    // What was found last stays where nobody looks.
    if !usual {
        t.saw_unknown = seg.options.unknown;
    }
    let unknown = t.saw_unknown && k.tcp_cb_flag(sk, PARSE_UNKNOWN_FLAG);
    if (unknown || k.tcp_cb_flag(sk, PARSE_ALL_FLAG)) && now != state::SYN_RECV {
        f.first([ops::with_skb(sk, PARSE_HDR_OPT_CB, f.skb, f.seg().header as u64)]);
    }
    None
}

/// `tcp_fast_path_check`: what the next header is expected to be.
pub(super) fn predict(k: &mut Kernel, sk: u64) {
    let room = k.get(sk, field!("sock", "sk_rcvbuf"));
    let window = k.get(sk, field!("tcp_sock", "rcv_wnd"));
    let theirs = k.get(sk, field!("tcp_sock", "snd_wnd"));
    let t = k.tcp_sk(sk);
    if window > 0 && (t.received.len() as u64) < room {
        t.predicted = Some((theirs >> t.snd_wscale) as u16);
    }
}
