//! XDP in the driver: the buffer a program sees, and what is done with its verdict.

use super::nic::HEADROOM;
use super::rx::{Poll, SkbFields};
use crate::cpu::{CpuId, Frame};
use crate::{EventKind, Kernel, ProgId, field};

/// A received frame: one page, or a first page and fragments.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
    /// Device and queue it arrived at.
    pub(super) dev: u32,
    /// See `dev`.
    pub(super) queue: u32,
    /// First page.
    pub(super) page: u64,
    /// First byte of the frame.
    pub(super) data: u64,
    /// One past the last byte in the first page.
    pub(super) end: u64,
    /// First byte of metadata; `data` when there is none.
    pub(super) meta: u64,
    /// Pages and lengths of the fragments; data begins after the headroom.
    pub(super) frags: Vec<(u64, u64)>,
    /// Hardware's hash.
    pub(super) hash: u32,
    /// Fields for the sk_buff.
    pub(super) given: SkbFields,
}

/// What the poll does after a verdict.
pub(super) enum Next {
    /// The frame is gone.
    Handled,
    /// A path that runs programs.
    Child(Frame),
}

impl Buffer {
    pub(super) fn new((dev, queue): (u32, u32), page: u64, len: u64, given: SkbFields) -> Buffer {
        let data = page + HEADROOM;
        let (end, meta, frags) = (data + len, data, Vec::new());
        Buffer { dev, queue, page, data, end, meta, frags, hash: 0, given }
    }

    /// Addresses and lengths of its parts.
    pub(super) fn parts(&self) -> Vec<(u64, u64)> {
        let mut parts = vec![(self.data, self.end - self.data)];
        parts.extend(self.frags.iter().map(|f| (f.0 + HEADROOM, f.1)));
        parts
    }

    pub(super) fn total(&self) -> u64 {
        self.end - self.data + self.frags.iter().map(|f| f.1).sum::<u64>()
    }
}

/// `XDP_FLAGS_HAS_FRAGS` of `xdp_buff.flags`.
pub(super) const XDP_FLAGS_HAS_FRAGS: u64 = 1;

const XDP_NAMES: [&str; 5] = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"];

impl Kernel {
    /// `xdp_prepare_buff`: points the queue's `xdp_buff` at a frame.
    pub(super) fn xdp_prepare(&mut self, xdp: u64, b: &Buffer) {
        self.set(xdp, field!("xdp_buff", "data_hard_start"), b.page);
        self.set(xdp, field!("xdp_buff", "data"), b.data);
        self.set(xdp, field!("xdp_buff", "data_end"), b.end);
        self.set(xdp, field!("xdp_buff", "data_meta"), b.meta);
        let flags = if b.frags.is_empty() { 0 } else { XDP_FLAGS_HAS_FRAGS };
        self.set(xdp, field!("xdp_buff", "flags"), flags);
        let frame_sz = crate::layout::PAGE_SIZE;
        self.set(xdp, field!("xdp_buff", "frame_sz"), frame_sz);
        if b.frags.is_empty() {
            return;
        }
        let shared = shared_info(b.page);
        self.set(shared, field!("skb_shared_info", "nr_frags"), b.frags.len() as u64);
        let bytes = b.frags.iter().map(|f| f.1).sum();
        self.set(shared, field!("skb_shared_info", "xdp_frags_size"), bytes);
        for (n, (page, len)) in b.frags.iter().enumerate() {
            let at = frag_at(shared, n);
            self.set(at, field!("skb_frag", "netmem"), *page);
            self.set(at, field!("skb_frag", "len"), *len);
            self.set(at, field!("skb_frag", "offset"), HEADROOM);
        }
    }

    /// Reads back what the program made of the frame.
    pub(super) fn xdp_read_back(&mut self, xdp: u64, b: &mut Buffer) {
        b.data = self.get(xdp, field!("xdp_buff", "data"));
        b.end = self.get(xdp, field!("xdp_buff", "data_end"));
        b.meta = self.get(xdp, field!("xdp_buff", "data_meta")).min(b.data);
        if !b.frags.is_empty() {
            let shared = shared_info(b.page);
            let n = self.get(shared, field!("skb_shared_info", "nr_frags")) as usize;
            for (page, _) in b.frags.split_off(n.min(b.frags.len())) {
                self.net_page_put(page);
            }
            for (i, frag) in b.frags.iter_mut().enumerate() {
                frag.1 = self.get(frag_at(shared, i), field!("skb_frag", "len"));
            }
        }
    }

    /// Acts on a verdict; `None` when the program was cancelled (then as `XDP_ABORTED`).
    pub(super) fn xdp_verdict(
        &mut self,
        cpu: CpuId,
        poll: &Poll,
        mut b: Buffer,
        verdict: Option<u64>,
    ) -> Next {
        let nic = &self.net.nics[&poll.ifindex];
        let (xdp, prog) = (nic.queues[poll.queue as usize].xdp, poll.prog);
        self.xdp_read_back(xdp, &mut b);
        // The driver looks at the low 32 bits (bpf_prog_run_xdp returns u32).
        let act = verdict.unwrap_or(0) as u32;
        self.verdict_event(cpu, prog, xdp_name(act), verdict.unwrap_or(0));
        match act {
            2 => return self.up_the_stack(cpu, b).map_or(Next::Handled, Next::Child),
            3 => match self.tx_put_buffer(poll.ifindex, poll.queue, b) {
                Ok(()) => {}
                Err(back) => {
                    self.xdp_exception(cpu, poll.ifindex, prog, act);
                    self.buffer_put(&back.0);
                    self.drop_packet(cpu, "XDP_TX_ERR");
                }
            },
            4 => match self.xdp_do_redirect(cpu, prog, b) {
                Ok(Some(child)) => return Next::Child(child),
                Ok(None) => {}
                Err(back) => {
                    self.xdp_exception(cpu, poll.ifindex, prog, act);
                    self.buffer_put(&back.0);
                    self.drop_packet(cpu, "XDP_REDIRECT_ERR");
                }
            },
            1 => self.xdp_drop(cpu, &b),
            _ => {
                if act != 0 {
                    self.warn_invalid_xdp(cpu, Some(poll.ifindex), prog, act);
                }
                self.xdp_exception(cpu, poll.ifindex, prog, act);
                self.xdp_drop(cpu, &b);
            }
        }
        Next::Handled
    }

    fn xdp_exception(&mut self, cpu: CpuId, ifindex: u32, prog: Option<ProgId>, act: u32) {
        let args = [self.dev_addr(ifindex), self.prog_addr(prog), act.into()];
        self.fire(cpu, "xdp_exception", &args);
    }

    /// Reports a verdict.
    pub(super) fn verdict_event(
        &mut self,
        cpu: CpuId,
        prog: Option<ProgId>,
        name: &'static str,
        raw: u64,
    ) {
        if let Some(prog) = prog {
            self.emit(cpu, EventKind::Verdict { prog, name, raw: u64::from(raw as u32) });
        }
    }

    /// A copy of a frame in pages of its own (`xdpf_clone`, frames of one page alone).
    pub(super) fn buffer_clone(&mut self, b: &Buffer) -> Option<Buffer> {
        if !b.frags.is_empty() {
            return None;
        }
        let page = self.net_page("cloned frame").ok()?;
        let bytes = self.bytes(b.page, crate::layout::PAGE_SIZE);
        self.mem.write(page, &bytes).ok()?;
        let moved = |at: u64| at - b.page + page;
        let mut copy = b.clone();
        (copy.page, copy.data) = (page, moved(b.data));
        (copy.end, copy.meta) = (moved(b.end), moved(b.meta));
        Some(copy)
    }

    /// The `xdp_buff` of a CPU for programs of map entries, set to a source and a target.
    pub(super) fn xdp_scratch(&mut self, cpu: CpuId, dev: u32, queue: u32, to: u32) -> u64 {
        let (buff, rxq) = (crate::size!("xdp_buff"), crate::size!("xdp_rxq_info"));
        let xdp = match self.net.scratch.get(&cpu) {
            Some(at) => *at,
            None => {
                let size = buff + rxq + crate::size!("xdp_txq_info");
                let at = self.kzalloc(size, "xdp_buff").expect("memory for one xdp_buff");
                self.net.scratch.insert(cpu, at);
                at
            }
        };
        let (rx, tx) = (xdp + buff, xdp + buff + rxq);
        self.set(xdp, field!("xdp_buff", "rxq"), rx);
        self.set(xdp, field!("xdp_buff", "txq"), tx);
        let (from, to) = (self.dev_addr(dev), self.dev_addr(to));
        self.set(rx, field!("xdp_rxq_info", "dev"), from);
        self.set(rx, field!("xdp_rxq_info", "queue_index"), queue.into());
        self.set(tx, field!("xdp_txq_info", "dev"), to);
        xdp
    }

    pub(super) fn buffer_put(&mut self, b: &Buffer) {
        for (page, _) in b.frags.iter().rev() {
            self.net_page_put(*page);
        }
        self.net_page_put(b.page);
    }

    /// Bytes of a kernel object.
    pub(crate) fn bytes(&self, at: u64, len: u64) -> Vec<u8> {
        self.mem.read_vec(at, len as usize).expect("packet memory is mapped")
    }
}

/// The kernel's name of a verdict.
pub(super) fn xdp_name(act: u32) -> &'static str {
    XDP_NAMES.get(act as usize).copied().unwrap_or("XDP_INVALID")
}

/// `xdp_get_shared_info_from_buff`: at the end of the page.
pub(crate) fn shared_info(page: u64) -> u64 {
    let size = crate::size!("skb_shared_info").next_multiple_of(64);
    (page & !(crate::layout::PAGE_SIZE - 1)) + crate::layout::PAGE_SIZE - size
}

/// Address of a fragment's descriptor.
pub(crate) fn frag_at(shared: u64, n: usize) -> u64 {
    let first = u64::from(field!("skb_shared_info", "frags").off);
    shared + first + n as u64 * crate::size!("skb_frag")
}
