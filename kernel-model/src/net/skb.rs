//! sk_buffs: made from a received buffer, read and freed.

use super::xdp::{Buffer, frag_at, shared_info};
use super::{NetFrame, check};
use crate::cpu::{CpuId, Frame};
use crate::layout::PAGE_SIZE;
use crate::ledger::Kind;
use crate::trace::{Deferred, symbol};
use crate::{Errno, Kernel, field, size};

/// Bytes in front of a frame that the model builds itself (`NET_SKB_PAD` and room to push).
const SKB_HEADROOM: u64 = 256;

impl Kernel {
    /// Builds the sk_buff of a received frame and starts its way up; the frame of the kernel
    /// path to run, or `None` when it was dropped.
    pub(super) fn up_the_stack(&mut self, cpu: CpuId, b: Buffer) -> Option<Frame> {
        let (ifindex, queue) = (b.dev, b.queue);
        let dev = self.net.nics[&ifindex].dev;
        let Ok(skb) = self.skb_alloc(dev, b.page, b.data, b.end) else {
            self.buffer_put(&b);
            self.drop_packet(cpu, "NOMEM");
            return None;
        };
        let shared = shared_info(b.page);
        self.set(shared, field!("skb_shared_info", "nr_frags"), b.frags.len() as u64);
        self.set(shared, field!("skb_shared_info", "meta_len"), b.data - b.meta);
        let more: u64 = b.frags.iter().map(|f| f.1).sum();
        self.set(skb, field!("sk_buff", "len"), b.end - b.data + more);
        self.set(skb, field!("sk_buff", "data_len"), more);
        self.set(skb, field!("sk_buff", "queue_mapping"), u64::from(queue) + 1);
        self.set(skb, field!("sk_buff", "hash"), b.hash.into());
        let napi = self.net.nics[&ifindex].queues[queue as usize].napi;
        let napi_id = self.get(napi, field!("napi_struct", "napi_id"));
        self.set(skb, field!("sk_buff", "napi_id"), napi_id);
        let given = b.given;
        let optional = [
            (field!("sk_buff", "mark"), given.mark.map(u64::from)),
            (field!("sk_buff", "priority"), given.priority.map(u64::from)),
            (field!("sk_buff", "hash"), given.hash.map(u64::from)),
            (field!("sk_buff", "tstamp"), given.tstamp),
            (field!("sk_buff", "vlan_tci"), given.vlan.map(u64::from)),
            (field!("sk_buff", "vlan_proto"), given.vlan.map(|_| self.be16(0x8100))),
        ];
        for (f, value) in optional {
            if let Some(v) = value {
                self.set(skb, f, v);
            }
        }
        self.eth_type_trans(skb);
        self.func_enter(cpu, "eth_type_trans", &[skb, dev]);
        let protocol = self.get(skb, field!("sk_buff", "protocol"));
        self.func_exit(cpu, "eth_type_trans", &[skb, dev], protocol);
        self.fire(cpu, "napi_gro_receive_entry", &[skb]);
        let chain = super::tc::Chain::ingress(self, ifindex, skb);
        Some(Frame::Net(Box::new(NetFrame::Ingress(chain))))
    }

    /// A number whose bytes in memory are big-endian.
    pub(crate) fn be16(&self, v: u16) -> u64 {
        match self.mem.endian() {
            bpf::Endian::Little => v.swap_bytes().into(),
            bpf::Endian::Big => v.into(),
        }
    }

    /// An sk_buff over a page that holds `data..end`.
    fn skb_alloc(&mut self, dev: u64, page: u64, data: u64, end: u64) -> Result<u64, Errno> {
        let size = size!("sk_buff");
        let skb = self.kzalloc(size, "sk_buff")?;
        self.kernel_holds(Kind::Skb, skb, "sk_buff");
        self.set(skb, field!("sk_buff", "dev"), dev);
        self.set(skb, field!("sk_buff", "head"), page);
        self.set(skb, field!("sk_buff", "data"), data);
        self.set(skb, field!("sk_buff", "len"), end - data);
        self.set(skb, field!("sk_buff", "tail"), end - page);
        self.set(skb, field!("sk_buff", "end"), shared_info(page) - page);
        self.set(skb, field!("sk_buff", "truesize"), PAGE_SIZE + size);
        self.set(skb, field!("sk_buff", "users"), 1);
        self.set(skb, field!("sk_buff", "mac_header"), data - page);
        let ifindex = self.get(dev, field!("net_device", "ifindex"));
        self.set(skb, field!("sk_buff", "skb_iif"), ifindex);
        let shared = shared_info(page);
        self.set(shared, field!("skb_shared_info", "nr_frags"), 0);
        self.set(shared, field!("skb_shared_info", "meta_len"), 0);
        Ok(skb)
    }

    /// A new sk_buff with these bytes, frame from the MAC header on.
    pub(crate) fn skb_from_bytes(&mut self, ifindex: u32, bytes: &[u8]) -> Result<u64, Errno> {
        let dev = self.net.nics.get(&ifindex).ok_or(Errno::ENODEV)?.dev;
        self.skb_on_dev(dev, bytes)
    }

    /// The same, by the address of the device.
    pub(crate) fn skb_on_dev(&mut self, dev: u64, bytes: &[u8]) -> Result<u64, Errno> {
        let page = self.net_page("sk_buff")?;
        let data = page + SKB_HEADROOM;
        let room = (shared_info(page) - data) as usize;
        let (linear, rest) = bytes.split_at(bytes.len().min(room));
        self.mem.write(data, linear).map_err(|_| Errno::EFAULT)?;
        let skb = self.skb_alloc(dev, page, data, data + linear.len() as u64)?;
        let shared = shared_info(page);
        for (n, part) in rest.chunks(super::nic::buffer_bytes() as usize).enumerate() {
            let frag = self.net_page("sk_buff fragment")?;
            self.mem.write(frag + SKB_HEADROOM, part).map_err(|_| Errno::EFAULT)?;
            let at = frag_at(shared, n);
            self.set(at, field!("skb_frag", "netmem"), frag);
            self.set(at, field!("skb_frag", "len"), part.len() as u64);
            self.set(at, field!("skb_frag", "offset"), SKB_HEADROOM);
            self.set(shared, field!("skb_shared_info", "nr_frags"), n as u64 + 1);
        }
        self.set(skb, field!("sk_buff", "len"), bytes.len() as u64);
        self.set(skb, field!("sk_buff", "data_len"), rest.len() as u64);
        self.eth_type_trans(skb);
        Ok(skb)
    }

    /// `eth_type_trans` without the pull: protocol, packet type, header offsets.
    pub(crate) fn eth_type_trans(&mut self, skb: u64) {
        let head = self.get(skb, field!("sk_buff", "head"));
        let data = self.get(skb, field!("sk_buff", "data"));
        let dev = self.get(skb, field!("sk_buff", "dev"));
        let linear = self.get(skb, field!("sk_buff", "tail")) + head - data;
        let bytes = self.bytes(data, linear.min(64));
        let own = self.bytes(self.get(dev, field!("net_device", "dev_addr")), 6);
        let pkt_type = match bytes.get(..6) {
            Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => 1,
            Some(dst) if dst[0] & 1 == 1 => 2,
            Some(dst) if dst == own => 0,
            _ => 3,
        };
        let mac = data - head;
        let ethertype = bytes.get(12..14).map_or(0, |b| u16::from_be_bytes([b[0], b[1]]));
        let network = mac + 14;
        let transport = check::network_layer(&bytes)
            .and_then(|(kind, at)| {
                let first = *bytes.get(at)?;
                let len = if kind == 0x0800 { usize::from(first & 15) * 4 } else { 40 };
                Some(mac + (at + len) as u64)
            })
            .unwrap_or(network);
        let protocol = self.be16(ethertype);
        self.set(skb, field!("sk_buff", "protocol"), protocol);
        self.set(skb, field!("sk_buff", "pkt_type"), pkt_type);
        self.set(skb, field!("sk_buff", "mac_header"), mac);
        self.set(skb, field!("sk_buff", "mac_len"), 14);
        self.set(skb, field!("sk_buff", "network_header"), network);
        self.set(skb, field!("sk_buff", "transport_header"), transport.min(0xffff));
    }

    /// `skb_vlan_untag`: the core takes the outer tag out of the frame before any program of tc
    /// sees it (`__netif_receive_skb_core`). A tag that hardware took out stays where it is.
    pub(crate) fn skb_vlan_untag(&mut self, skb: u64) {
        let head = self.get(skb, field!("sk_buff", "head"));
        let data = self.get(skb, field!("sk_buff", "data"));
        let linear = self.get(skb, field!("sk_buff", "tail")) + head - data;
        if linear < 18 || self.get(skb, field!("sk_buff", "vlan_proto")) != 0 {
            return;
        }
        let tag = self.bytes(data + 12, 4);
        let proto = u16::from_be_bytes([tag[0], tag[1]]);
        if !matches!(proto, 0x8100 | 0x88a8) {
            return;
        }
        // skb_reorder_vlan_header: the addresses move over the tag, metadata with them.
        let meta = self.get(self.skb_shared(skb), field!("skb_shared_info", "meta_len"));
        let moved = self.bytes(data - meta, meta + 12);
        self.mem.write(data - meta + 4, &moved).expect("packet memory is mapped");
        let len = self.get(skb, field!("sk_buff", "len"));
        self.set(skb, field!("sk_buff", "data"), data + 4);
        self.set(skb, field!("sk_buff", "len"), len - 4);
        let raw = self.be16(proto);
        self.set(skb, field!("sk_buff", "vlan_proto"), raw);
        self.set(skb, field!("sk_buff", "vlan_tci"), u16::from_be_bytes([tag[2], tag[3]]).into());
        self.eth_type_trans(skb);
    }

    /// `bpf_compute_data_pointers`: what direct packet access of a program sees.
    pub(crate) fn skb_compute_pointers(&mut self, skb: u64) {
        let head = self.get(skb, field!("sk_buff", "head"));
        let data = self.get(skb, field!("sk_buff", "data"));
        let tail = self.get(skb, field!("sk_buff", "tail"));
        let meta = self.get(self.skb_shared(skb), field!("skb_shared_info", "meta_len"));
        let cb = skb + u64::from(field!("sk_buff", "cb").off);
        self.set(cb, field!("bpf_skb_data_end", "data_meta"), data - meta);
        self.set(cb, field!("bpf_skb_data_end", "data_end"), head + tail);
    }

    /// Addresses and lengths of an sk_buff's parts from `data` on.
    pub(super) fn skb_parts(&self, skb: u64) -> Vec<(u64, u64)> {
        let head = self.get(skb, field!("sk_buff", "head"));
        let data = self.get(skb, field!("sk_buff", "data"));
        let tail = self.get(skb, field!("sk_buff", "tail"));
        let mut parts = vec![(data, head + tail - data)];
        let shared = self.skb_shared(skb);
        let frags = self.get(shared, field!("skb_shared_info", "nr_frags"));
        for n in 0..frags as usize {
            let at = frag_at(shared, n);
            let page = self.get(at, field!("skb_frag", "netmem"));
            let offset = self.get(at, field!("skb_frag", "offset"));
            parts.push((page + offset, self.get(at, field!("skb_frag", "len"))));
        }
        parts
    }

    /// All bytes of an sk_buff from `data` on.
    pub(crate) fn skb_bytes(&self, skb: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (at, len) in self.skb_parts(skb) {
            bytes.extend(self.bytes(at, len));
        }
        bytes
    }

    /// The bytes as they go on the wire: an accelerated VLAN tag is inserted.
    pub(super) fn skb_wire_bytes(&self, skb: u64) -> Vec<u8> {
        let mut bytes = self.skb_bytes(skb);
        let proto = self.get(skb, field!("sk_buff", "vlan_proto"));
        if proto != 0 && bytes.len() >= 12 {
            let tci = self.get(skb, field!("sk_buff", "vlan_tci")) as u16;
            let proto = self.be16(proto as u16) as u16;
            let tag = [proto.to_be_bytes(), tci.to_be_bytes()].concat();
            bytes.splice(12..12, tag);
        }
        bytes
    }

    /// `consume_skb`: the end of a packet that was not dropped.
    pub(crate) fn consume_skb(&mut self, cpu: CpuId, skb: u64, location: &'static str) {
        if self.is_traced() {
            let at = symbol(location).unwrap_or(0);
            self.func_enter(cpu, "consume_skb", &[skb]);
            self.fire(cpu, "consume_skb", &[skb, at]);
        }
        self.after_fired(cpu, Deferred::FreeSkb(skb));
    }

    /// `kfree_skb_reason`: the end of a packet that was dropped, counted by reason.
    pub(crate) fn skb_drop(
        &mut self,
        cpu: CpuId,
        skb: u64,
        reason: &'static str,
        location: &'static str,
    ) {
        if self.is_traced() {
            let (number, at) = (super::reason_number(reason), symbol(location).unwrap_or(0));
            self.func_enter(cpu, "sk_skb_reason_drop", &[0, skb, number]);
            self.fire(cpu, "kfree_skb", &[skb, at, number, 0]);
        }
        self.drop_packet(cpu, reason);
        self.after_fired(cpu, Deferred::FreeSkb(skb));
    }

    /// `__kfree_skb`: gives back the pages and the object.
    pub(crate) fn skb_release(&mut self, skb: u64) {
        let head = self.get(skb, field!("sk_buff", "head"));
        let end = self.get(skb, field!("sk_buff", "end"));
        let shared = head + end;
        let frags = self.get(shared, field!("skb_shared_info", "nr_frags"));
        for n in (0..frags as usize).rev() {
            let page = self.get(frag_at(shared, n), field!("skb_frag", "netmem"));
            self.net_page_put(page);
        }
        self.skb_head_put(head, end);
        self.ledger.release(Kind::Skb, skb);
        self.kfree(skb, "__kfree_skb");
    }

    /// The first bytes of the packet a program runs on, for `bpf_perf_event_output`.
    pub(crate) fn packet_bytes(&self, cpu: CpuId, ctx: u64, len: usize) -> Option<Vec<u8>> {
        let bytes = if self.running_type(cpu)? == bpf::uapi::ProgType::Xdp {
            let data = self.get(ctx, field!("xdp_buff", "data"));
            self.bytes(data, self.get(ctx, field!("xdp_buff", "data_end")) - data)
        } else {
            self.skb_bytes(ctx)
        };
        bytes.get(..len).map(<[u8]>::to_vec)
    }
}
