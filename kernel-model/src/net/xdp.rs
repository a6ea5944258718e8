//! XDP in the driver: the buffer a program sees, and what is done with its verdict.

use super::nic::HEADROOM;
use super::rx::{Poll, SkbFields};
use super::{Bulk, NetFrame, RedirectInfo};
use crate::cpu::{CpuId, Frame};
use crate::{EventKind, Kernel, ProgId, field};

/// A received frame: one page, or a first page and fragments.
#[derive(Clone, Debug)]
pub(super) struct Buffer {
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
    pub(super) fn new(page: u64, len: u64, given: SkbFields) -> Buffer {
        let data = page + HEADROOM;
        Buffer { page, data, end: data + len, meta: data, frags: Vec::new(), hash: 0, given }
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
    fn xdp_read_back(&mut self, xdp: u64, b: &mut Buffer) {
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
        let (xdp, prog) = (nic.queues[poll.queue as usize].xdp, nic.xdp);
        self.xdp_read_back(xdp, &mut b);
        // The driver looks at the low 32 bits (bpf_prog_run_xdp returns u32).
        let act = verdict.unwrap_or(0) as u32;
        self.verdict_event(cpu, prog, xdp_name(act), verdict.unwrap_or(0));
        match act {
            2 => {
                let child = self.up_the_stack(cpu, poll.ifindex, poll.queue, b);
                return child.map_or(Next::Handled, Next::Child);
            }
            3 => {
                let bytes = self.buffer_take(&b);
                self.wire_out(cpu, poll.ifindex, &bytes);
            }
            4 => {
                let info = self.net.redirect.remove(&cpu).unwrap_or_default();
                if info == RedirectInfo::default() {
                    self.buffer_put(&b);
                    self.drop_packet(cpu, "XDP_REDIRECT_ERR");
                } else {
                    let bytes = self.buffer_take(&b);
                    let bulk = Bulk { to: info, from: poll.ifindex, bytes };
                    self.net.bulk.entry(cpu).or_default().push(bulk);
                }
            }
            1 => {
                self.buffer_put(&b);
                self.drop_packet(cpu, "XDP");
            }
            _ => {
                self.buffer_put(&b);
                if act > 4 {
                    let text = format!("Illegal XDP return value {act}, expect packet loss!");
                    self.emit(cpu, EventKind::Note { topic: "xdp", text });
                }
                self.emit(
                    cpu,
                    EventKind::Note { topic: "xdp_exception", text: xdp_name(act).into() },
                );
                self.drop_packet(cpu, "XDP");
            }
        }
        Next::Handled
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

    /// `xdp_do_flush`: sends what was redirected during the poll.
    pub(super) fn xdp_flush(&mut self, cpu: CpuId) {
        for bulk in self.net.bulk.remove(&cpu).unwrap_or_default() {
            if let Some(target) = bulk.to.cpu {
                self.cpu_redirect(target, bulk.from, &bulk.bytes);
            } else if self.net.nics.contains_key(&bulk.to.ifindex) {
                self.wire_out(cpu, bulk.to.ifindex, &bulk.bytes);
            } else {
                self.drop_packet(cpu, "XDP_REDIRECT_ERR");
            }
        }
    }

    /// cpumap: the frame becomes an sk_buff on another CPU.
    fn cpu_redirect(&mut self, target: u32, from: u32, bytes: &[u8]) {
        let cpu = CpuId(target);
        if target >= self.config.cpus {
            self.drop_packet(self.this_cpu, "XDP_REDIRECT_ERR");
            return;
        }
        let Ok(skb) = self.skb_from_bytes(from, bytes) else {
            self.drop_packet(cpu, "NOMEM");
            return;
        };
        let chain = super::tc::Chain::ingress(self, from, skb);
        self.submit(cpu, Frame::Net(Box::new(NetFrame::Ingress(chain))));
    }

    /// The bytes of a frame; its pages go back to the pool.
    fn buffer_take(&mut self, b: &Buffer) -> Vec<u8> {
        let mut bytes = self.bytes(b.data, b.end - b.data);
        for (page, len) in &b.frags {
            bytes.extend(self.bytes(page + HEADROOM, *len));
        }
        self.buffer_put(b);
        bytes
    }

    fn buffer_put(&mut self, b: &Buffer) {
        for (page, _) in b.frags.iter().rev() {
            self.net_page_put(*page);
        }
        self.net_page_put(b.page);
    }

    /// Bytes of a kernel object.
    pub(super) fn bytes(&self, at: u64, len: u64) -> Vec<u8> {
        self.mem.read_vec(at, len as usize).expect("packet memory is mapped")
    }
}

/// The kernel's name of a verdict.
pub(super) fn xdp_name(act: u32) -> &'static str {
    XDP_NAMES.get(act as usize).copied().unwrap_or("XDP_INVALID")
}

/// `xdp_get_shared_info_from_buff`: at the end of the page.
pub(crate) fn shared_info(page: u64) -> u64 {
    let size = crate::types::size("skb_shared_info").next_multiple_of(64);
    (page & !(crate::layout::PAGE_SIZE - 1)) + crate::layout::PAGE_SIZE - size
}

/// Address of a fragment's descriptor.
pub(crate) fn frag_at(shared: u64, n: usize) -> u64 {
    let first = u64::from(field!("skb_shared_info", "frags").off);
    shared + first + n as u64 * crate::types::size("skb_frag")
}
