//! The network stack: devices with rings, NAPI, XDP, sk_buffs, tcx, and where frames end.
//!
//! ```text
//!  receive ─► rx ring ─► NAPI poll ─► XDP ─► sk_buff ─► tcx ingress ─► Up
//!                          │ TX/REDIRECT       │ redirect
//!                          ▼                   ▼
//!                        tx ring ◄── tcx egress ◄── xmit          ─► Out, and the peer's ring
//! ```
//!
//! Reading order: nic, rx, xdp, skb, tc, check. Every path that runs a program is a [`NetFrame`].

pub mod check;
mod nic;
mod rss;
mod rx;
mod skb;
mod tc;
mod xdp;

pub use nic::{Nic, NicConfig, Rss};
pub(crate) use rss::frame_hash;
pub use rx::{Dropped, SkbFields};
pub use tc::{Dir, Order};
pub(crate) use xdp::{frag_at, shared_info};

use std::collections::BTreeMap;

use crate::Kernel;
use crate::cpu::{CpuId, Flow, Input};

/// What `bpf_redirect*` asked for on a CPU (`struct bpf_redirect_info`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RedirectInfo {
    /// Target device, 0 for none.
    pub(crate) ifindex: u32,
    /// Helper flags.
    pub(crate) flags: u64,
    /// To a CPU instead of a device (cpumap).
    pub(crate) cpu: Option<u32>,
}

/// A frame that waits for the end of the poll (devmap and cpumap bulk queues).
#[derive(Clone, Debug)]
pub(crate) struct Bulk {
    /// Where to.
    pub(crate) to: RedirectInfo,
    /// Device it came from.
    pub(crate) from: u32,
    /// Its bytes.
    pub(crate) bytes: Vec<u8>,
}

/// State of the network stack.
#[derive(Clone, Debug, Default)]
pub struct Net {
    /// Devices by ifindex.
    pub nics: BTreeMap<u32, Nic>,
    /// Per CPU.
    pub(crate) redirect: BTreeMap<CpuId, RedirectInfo>,
    /// Per CPU, flushed at the end of a poll.
    pub(crate) bulk: BTreeMap<CpuId, Vec<Bulk>>,
    /// Packets dropped, by kernel reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Free sk_buff objects, reused in order.
    pub(crate) skb_pool: Vec<u64>,
    /// Free pages for packet data.
    pub(crate) page_pool: Vec<u64>,
    /// Extra fields of frames in the rings, by descriptor address.
    pub(crate) given: BTreeMap<u64, SkbFields>,
}

/// A path of the network stack that runs programs.
#[derive(Clone, Debug)]
pub enum NetFrame {
    /// NAPI poll of one receive queue.
    Poll(rx::Poll),
    /// An sk_buff on its way up: tcx ingress, then the end.
    Ingress(tc::Chain),
    /// An sk_buff on its way out: tcx egress, then the wire.
    Egress(tc::Chain),
}

impl Kernel {
    /// Goes on with a path of the network stack.
    pub(crate) fn net_step(&mut self, cpu: CpuId, frame: NetFrame, input: Input) -> Flow {
        match frame {
            NetFrame::Poll(poll) => self.poll_step(cpu, poll, input),
            NetFrame::Ingress(chain) => self.ingress_step(cpu, chain, input),
            NetFrame::Egress(chain) => self.egress_step(cpu, chain, input),
        }
    }

    /// Counts and reports a dropped packet (`kfree_skb_reason`).
    pub(crate) fn drop_packet(&mut self, cpu: CpuId, reason: &'static str) {
        *self.net.drops.entry(reason).or_default() += 1;
        self.emit(cpu, crate::EventKind::Drop { reason });
    }
}
