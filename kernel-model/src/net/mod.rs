//! The network stack: devices with rings, NAPI, XDP, sk_buffs, tcx and clsact, and where frames
//! end.
//!
//! ```text
//!  receive ─► rx ring ─► NAPI poll ─► XDP ─► sk_buff ─► tc ingress ─► Up
//!                          │ TX/REDIRECT       │ redirect
//!                          ▼                   ▼
//!                        tx ring ◄── tc egress ◄── xmit          ─► Out, and the peer's ring
//! ```
//!
//! Reading order: nic, rx, xdp, redirect, cpumap, tx, skb, tc, ip, sock, tcp, check. Every path
//! that runs a program is a [`NetFrame`].

pub mod check;
mod cpumap;
mod fib;
mod ip;
mod nic;
mod redirect;
mod rss;
mod rx;
mod skb;
mod skb_room;
mod sock;
mod tc;
mod tcp;
mod test_run;
mod tx;
mod unix;
mod xdp;

pub use fib::{Fib, Route, RouteKind, TABLE_MAIN};
pub use nic::{Nic, NicConfig, Rss};
pub use rx::{Dropped, SkbFields};
pub use sock::{Protocol, SocketConfig};
pub use tc::{Dir, Order, TcHook};

pub(crate) use fib::NextHop;
pub(crate) use ip::{UdpPacket, Way, loopback};
pub(crate) use redirect::{RedirectInfo, Target};
pub(crate) use rss::frame_hash;
pub(crate) use skb_room::{UNSET as SKB_UNSET, max_len as skb_max_len};
pub(crate) use sock::LISTEN;
pub(crate) use tcp::{CB_FLAGS, HDR_OPT_LEN_CB, SEND_SHUTDOWN, WRITE_HDR_OPT_CB};
pub(crate) use tcp::{TCP_BPF_SYN, TCP_BPF_SYN_MAC};
pub(crate) use tcp::{option_at as tcp_option_at, state as tcp_state};
pub(crate) use test_run::{TestBuff, TestSkb};
pub(crate) use unix::{AF_UNIX, PATH_MAX as UNIX_PATH_MAX, SUN_PATH};
pub(crate) use xdp::{frag_at, shared_info};

use std::collections::BTreeMap;
use std::sync::LazyLock;

use crate::Kernel;
use crate::cpu::{CpuId, Flow, Input};
use crate::ledger::Kind;
use crate::maps::MapId;

/// State of the network stack.
#[derive(Clone, Debug, Default)]
pub struct Net {
    /// Devices by ifindex.
    pub nics: BTreeMap<u32, Nic>,
    /// Per CPU: what a redirect helper asked for.
    pub(crate) redirect: BTreeMap<CpuId, RedirectInfo>,
    /// Per CPU: bulk queues that the end of the poll flushes.
    bulk: BTreeMap<CpuId, Vec<redirect::Work>>,
    /// Entries of cpumaps that have been used, by map and CPU.
    pub(crate) cpumap: BTreeMap<(MapId, u32), cpumap::Entry>,
    /// Per CPU: `xdp_buff` and its queue infos for programs that no driver runs.
    pub(crate) scratch: BTreeMap<CpuId, u64>,
    /// Routes and neighbours.
    pub fib: Fib,
    /// Sockets of the machine.
    pub(crate) sockets: sock::Sockets,
    /// Addresses of devices.
    pub(crate) addresses: BTreeMap<u32, Vec<std::net::IpAddr>>,
    /// Connections of TCP.
    pub(crate) tcp: tcp::Tcp,
    /// Sockets of AF_UNIX.
    pub(crate) unix: unix::Unix,
    /// `lo`, once something has gone through it; 0 before.
    pub(crate) loopback: u64,
    /// Per CPU: `struct metadata_dst` of tunnel keys that programs set.
    pub(crate) md_dst: BTreeMap<CpuId, u64>,
    /// Packets dropped, by kernel reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Free pages for packet data.
    pub(crate) page_pool: Vec<u64>,
    /// Extra fields of frames in the rings, by descriptor address.
    pub(crate) given: BTreeMap<u64, SkbFields>,
    /// `pr_warn_once` of an invalid XDP verdict.
    pub(crate) warned_invalid_xdp: bool,
}

/// A path of the network stack that runs programs.
#[derive(Clone, Debug)]
pub enum NetFrame {
    /// NAPI poll of one receive queue.
    Poll(rx::Poll),
    /// An sk_buff on its way up: tc ingress, then the end.
    Ingress(tc::Chain),
    /// An sk_buff on its way out: tc egress, then the wire.
    Egress(tc::Chain),
    /// Bulk queues of redirected frames on their way out.
    Flush(redirect::Flush),
    /// The kernel thread of a cpumap entry.
    CpuMap(cpumap::Kthread),
    /// A packet of this machine's own on its way out.
    Output(ip::Output),
    /// A packet on its way into a socket.
    Local(ip::Local),
    /// A path of TCP.
    Tcp(Box<tcp::TcpFrame>),
    /// What has come through the loopback device.
    Backlog,
}

impl NetFrame {
    /// Functions of the kernel that the path stands for, innermost first.
    pub(crate) fn functions(&self) -> &'static [&'static str] {
        match self {
            NetFrame::Poll(_) => &["__napi_poll", "net_rx_action"],
            NetFrame::Ingress(_) => &["__netif_receive_skb"],
            NetFrame::Egress(_) => &["__dev_queue_xmit"],
            NetFrame::Flush(_) => &["xdp_do_flush"],
            NetFrame::CpuMap(_) => &["cpu_map_kthread_run"],
            NetFrame::Output(_) => &["ip_finish_output"],
            NetFrame::Local(_) => &["udp_queue_rcv_one_skb"],
            NetFrame::Tcp(_) => &["tcp_rcv_state_process"],
            NetFrame::Backlog => &["process_backlog"],
        }
    }

    /// The context that the path is in: a task sends in its own.
    pub(crate) fn level(&self) -> crate::context::Level {
        match self {
            NetFrame::Output(_) => crate::context::Level::Task,
            NetFrame::Tcp(t) => t.level(),
            _ => crate::context::Level::Soft,
        }
    }
}

/// Numbers of `enum skb_drop_reason`.
static REASONS: LazyLock<BTreeMap<String, u64>> = LazyLock::new(|| {
    let btf = crate::types::Types::of(bpf::Arch::X86_64).btf();
    let id = btf.find("skb_drop_reason", bpf::btf::Kind::Enum).expect("in the type table");
    btf.enumerators(id).map(|(name, value)| (name.to_string(), value)).collect()
});

/// Why frames are dropped that no sk_buff has been made of: counters of drivers and maps.
const DRIVER_REASONS: &[&str] = &["RX_RING_FULL", "CPUMAP_FULL", "XDP_TX_ERR", "XDP_REDIRECT_ERR"];

/// Whether packets can be dropped by a reason, named without its prefix.
#[must_use]
pub fn is_drop_reason(reason: &str) -> bool {
    DRIVER_REASONS.contains(&reason) || REASONS.contains_key(&format!("SKB_DROP_REASON_{reason}"))
}

/// Number of a drop reason; the name stands without its prefix.
pub(crate) fn reason_number(reason: &str) -> u64 {
    let full = format!("SKB_DROP_REASON_{reason}");
    REASONS.get(&full).copied().expect("a reason of enum skb_drop_reason")
}

impl Kernel {
    /// Goes on with a path of the network stack.
    pub(crate) fn net_step(&mut self, cpu: CpuId, frame: NetFrame, input: Input) -> Flow {
        match frame {
            NetFrame::Poll(poll) => self.poll_step(cpu, poll, input),
            NetFrame::Ingress(chain) => self.ingress_step(cpu, chain, input),
            NetFrame::Egress(chain) => self.egress_step(cpu, chain, input),
            NetFrame::Flush(flush) => self.flush_step(cpu, flush, input),
            NetFrame::CpuMap(thread) => self.kthread_step(cpu, thread, input),
            NetFrame::Output(output) => self.output_step(cpu, output, input),
            NetFrame::Local(local) => self.local_step(cpu, local, input),
            NetFrame::Tcp(path) => self.tcp_step(cpu, path, input),
            NetFrame::Backlog => self.backlog_step(cpu),
        }
    }

    /// Counts and reports a dropped packet.
    pub(crate) fn drop_packet(&mut self, cpu: CpuId, reason: &'static str) {
        *self.net.drops.entry(reason).or_default() += 1;
        self.emit(cpu, crate::EventKind::Drop { reason });
    }

    /// At the end of a run: with nothing left to do, every page and packet buffer must be back,
    /// and no red zone or freed object may have been written to.
    pub fn net_check_ledger(&mut self) {
        let idle = (0..self.config.cpus).all(|c| self.is_idle(CpuId(c)));
        let rings = self.net.nics.values().flat_map(|n| &n.queues);
        let in_flight = rings.fold(0, |n, q| n + (q.filled - q.consumed) + q.tx.used());
        if idle && in_flight == 0 {
            let left: Vec<String> = self
                .ledger
                .iter()
                .filter(|(kind, ..)| matches!(kind, Kind::Page | Kind::Skb))
                .map(|(kind, at, h)| {
                    let (what, ns, cpu) = (h.what, h.clock_ns, h.cpu.0);
                    format!("{kind:?} {at:#x} acquired by {what} at {ns} ns on CPU {cpu}")
                })
                .collect();
            for what in left {
                self.emit(CpuId(0), crate::EventKind::Leak { what });
            }
        }
        let site = self.site("end of the run");
        for report in self.alloc.sweep(&self.mem, &site) {
            self.report(report);
        }
    }

    /// Address of a program's `struct bpf_prog`, 0 for none.
    pub(crate) fn prog_addr(&self, prog: Option<crate::ProgId>) -> u64 {
        prog.and_then(|p| self.progs.get(&p)).map_or(0, |p| p.addr)
    }

    /// Address of a device, 0 for none.
    pub(crate) fn dev_addr(&self, ifindex: u32) -> u64 {
        self.net.nics.get(&ifindex).map_or(0, |n| n.dev)
    }
}
