//! Packets of `BPF_PROG_TEST_RUN` (net/bpf/test_run.c): an sk_buff or an `xdp_buff` made from
//! the caller's bytes, and the context structures of the UAPI taken in and given back.

use std::sync::LazyLock;

use super::nic::{HEADROOM, buffer_bytes};
use super::rx::SkbFields;
use super::xdp::Buffer;
use super::{NicConfig, shared_info};
use crate::cpu::CpuId;
use crate::types::{self, Field};
use crate::{Errno, Kernel, field};

/// `ETH_HLEN`.
const ETH_HLEN: u64 = 14;
/// `sizeof(struct xdp_frame)`: kept in the headroom.
const XDP_FRAME: u64 = 40;
/// `GSO_MAX_SEGS` and `GSO_LEGACY_MAX_SIZE`.
const GSO_MAX_SEGS: u64 = 65535;
const GSO_MAX_SIZE: u64 = 65536;

const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
const TCP_CLOSE: u64 = 7;
/// `NO_QUEUE_MAPPING`, `sysctl_rmem_default` and `sysctl_wmem_default`.
const NO_QUEUE: u64 = 0xffff;
const MEM_DEFAULT: u64 = 212_992;

/// Fields of `__sk_buff` that a caller may set; all others have to be zero.
static SKB_SETTABLE: LazyLock<[Field; 10]> = LazyLock::new(|| {
    let names = [
        "mark",
        "priority",
        "ingress_ifindex",
        "ifindex",
        "cb",
        "tstamp",
        "wire_len",
        "gso_segs",
        "gso_size",
        "hwtstamp",
    ];
    names.map(|name| types::field("__sk_buff", name))
});

/// An sk_buff under test.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TestSkb {
    /// `struct sk_buff`.
    pub(crate) skb: u64,
    /// The socket that it was of: a program may have given it another.
    sk: u64,
    /// The program sees the link layer's header.
    l2: bool,
}

/// An `xdp_buff` under test.
#[derive(Clone, Debug)]
pub(crate) struct TestBuff {
    /// `struct xdp_buff`.
    pub(crate) xdp: u64,
    buffer: Buffer,
}

impl Kernel {
    /// The loopback device of the network namespace: here, the first device there is.
    fn test_device(&mut self) -> Result<u32, Errno> {
        if let Some(ifindex) = self.net.nics.keys().next() {
            return Ok(*ifindex);
        }
        let config = NicConfig { name: "lo".into(), mac: [0; 6], ..NicConfig::default() };
        self.net_add(config)
    }

    /// `bpf_prog_test_run_skb` up to the run.
    pub(crate) fn test_skb(&mut self, data: &[u8], ctx: &[u8], l2: bool) -> Result<TestSkb, Errno> {
        let room = buffer_bytes() as usize;
        if data.len() < ETH_HLEN as usize || data.len() > room {
            return Err(Errno::EINVAL);
        }
        let default = self.test_device()?;
        let asked = self.ctx_number(ctx, field!("__sk_buff", "ifindex")) as u32;
        let ifindex = if asked > 1 { asked } else { default };
        let skb = self.skb_from_bytes(ifindex, data)?;
        self.set(skb, field!("sk_buff", "transport_header"), super::SKB_UNSET);
        let sk = match self.test_sock(data) {
            Ok(sk) => sk,
            Err(e) => {
                self.skb_release(skb);
                return Err(e);
            }
        };
        self.set(skb, field!("sk_buff", "sk"), sk);
        let t = TestSkb { skb, sk, l2 };
        if !l2 {
            self.skb_move(skb, ETH_HLEN.cast_signed());
        }
        if let Err(e) = self.skb_take_ctx(skb, ctx) {
            self.test_skb_free(&t);
            return Err(e);
        }
        self.skb_compute_pointers(skb);
        Ok(t)
    }

    /// The socket that the packet is of (`sk_alloc` with `bpf_dummy_proto`, `sock_init_data`): of
    /// the family that the link layer's header names, of the group of the task that is there.
    fn test_sock(&mut self, data: &[u8]) -> Result<u64, Errno> {
        let sk = self.kzalloc(crate::size!("sock"), "sock")?;
        let task = self.cpus[self.this_cpu.idx()].task;
        let cgroup = self.cgroup_of(task).unwrap_or(0);
        let (protocol, packet) = (&data[ETH_HLEN as usize - 2..], &data[ETH_HLEN as usize..]);
        let (family, ends) = match (protocol[0], protocol[1]) {
            (0x08, 0x00) => (AF_INET, packet.get(12..20)),
            (0x86, 0xdd) => (AF_INET6, packet.get(8..40)),
            _ => (0, None),
        };
        for (f, value) in [
            (field!("sock", "__sk_common.skc_family"), family),
            (field!("sock", "__sk_common.skc_state"), TCP_CLOSE),
            (field!("sock", "__sk_common.skc_refcnt"), 1),
            (field!("sock", "__sk_common.skc_rx_queue_mapping"), NO_QUEUE),
            (field!("sock", "sk_rcvbuf"), MEM_DEFAULT),
            (field!("sock", "sk_sndbuf"), MEM_DEFAULT),
            (field!("sock", "sk_rcvlowat"), 1),
            (field!("sock", "sk_pacing_rate"), u64::MAX),
            (field!("sock", "sk_max_pacing_rate"), u64::MAX),
            (field!("sock", "sk_cgrp_data.cgroup"), cgroup),
        ] {
            self.set(sk, f, value);
        }
        if let Some((from, to)) = ends.map(|e| e.split_at(e.len() / 2)) {
            let v6 = family == AF_INET6;
            let (local, remote) = match v6 {
                true => ("__sk_common.skc_v6_rcv_saddr", "__sk_common.skc_v6_daddr"),
                false => ("__sk_common.skc_rcv_saddr", "__sk_common.skc_daddr"),
            };
            self.set_bytes(sk, types::field("sock", local), from);
            self.set_bytes(sk, types::field("sock", remote), to);
        }
        Ok(sk)
    }

    /// `kfree_skb`, `sk_free`: no reader of RCU's finds the socket.
    fn test_skb_free(&mut self, t: &TestSkb) {
        self.skb_release(t.skb);
        self.storage_gone(t.sk);
        let cgroup = self.get(t.sk, field!("sock", "sk_cgrp_data.cgroup"));
        self.kfree(t.sk, "sock");
        self.cgroup_bpf_put(cgroup);
    }

    /// Moves the start of the data, forward for `skb_pull`.
    pub(super) fn skb_move(&mut self, skb: u64, by: i64) {
        let data = self.get(skb, field!("sk_buff", "data"));
        let len = self.get(skb, field!("sk_buff", "len"));
        self.set(skb, field!("sk_buff", "data"), data.wrapping_add_signed(by));
        self.set(skb, field!("sk_buff", "len"), len.wrapping_add_signed(-by));
    }

    fn ctx_number(&self, ctx: &[u8], f: Field) -> u64 {
        let bytes = ctx.get(f.off as usize..(f.off + f.size) as usize).unwrap_or_default();
        number(bytes, self.mem.endian())
    }

    /// `convert___skb_to_skb`.
    fn skb_take_ctx(&mut self, skb: u64, ctx: &[u8]) -> Result<(), Errno> {
        self.set(skb, field!("sk_buff", "skb_iif"), 0);
        let cb = skb + u64::from(field!("sk_buff", "cb").off);
        let len = self.get(skb, field!("sk_buff", "len"));
        self.set(cb, field!("qdisc_skb_cb", "pkt_len"), len);
        if ctx.is_empty() {
            return Ok(());
        }
        let covered =
            |at: usize| SKB_SETTABLE.iter().any(|f| (f.off..f.off + f.size).contains(&(at as u32)));
        if ctx.iter().enumerate().any(|(at, b)| *b != 0 && !covered(at)) {
            return Err(Errno::EINVAL);
        }
        let wire_len = self.ctx_number(ctx, field!("__sk_buff", "wire_len"));
        let segs = self.ctx_number(ctx, field!("__sk_buff", "gso_segs"));
        if wire_len != 0 && !(len..=GSO_MAX_SIZE).contains(&wire_len) || segs > GSO_MAX_SEGS {
            return Err(Errno::EINVAL);
        }
        let plain = [
            (field!("sk_buff", "mark"), field!("__sk_buff", "mark")),
            (field!("sk_buff", "priority"), field!("__sk_buff", "priority")),
            (field!("sk_buff", "skb_iif"), field!("__sk_buff", "ingress_ifindex")),
            (field!("sk_buff", "tstamp"), field!("__sk_buff", "tstamp")),
        ];
        for (to, from) in plain {
            let value = self.ctx_number(ctx, from);
            self.set(skb, to, value);
        }
        let from = field!("__sk_buff", "cb");
        let bytes = ctx[from.off as usize..(from.off + from.size) as usize].to_vec();
        self.set_bytes(cb, field!("qdisc_skb_cb", "data"), &bytes);
        if wire_len != 0 {
            self.set(cb, field!("qdisc_skb_cb", "pkt_len"), wire_len);
        }
        Ok(())
    }

    /// `convert_skb_to___skb`: the fields over the caller's bytes.
    fn skb_give_ctx(&self, skb: u64, ctx: &mut [u8]) {
        let cb = skb + u64::from(field!("sk_buff", "cb").off);
        let dev = self.get(skb, field!("sk_buff", "dev"));
        let plain = [
            (field!("__sk_buff", "mark"), self.get(skb, field!("sk_buff", "mark"))),
            (field!("__sk_buff", "priority"), self.get(skb, field!("sk_buff", "priority"))),
            (field!("__sk_buff", "ingress_ifindex"), self.get(skb, field!("sk_buff", "skb_iif"))),
            (field!("__sk_buff", "ifindex"), self.get(dev, field!("net_device", "ifindex"))),
            (field!("__sk_buff", "tstamp"), self.get(skb, field!("sk_buff", "tstamp"))),
            (field!("__sk_buff", "wire_len"), self.get(cb, field!("qdisc_skb_cb", "pkt_len"))),
        ];
        for (to, value) in plain {
            put(ctx, to, value, self.mem.endian());
        }
        let (own, at) = (field!("qdisc_skb_cb", "data"), field!("__sk_buff", "cb"));
        let bytes = self.bytes(cb + u64::from(own.off), at.size.into());
        if let Some(b) = ctx.get_mut(at.off as usize..(at.off + at.size) as usize) {
            b.copy_from_slice(&bytes);
        }
    }

    /// The packet after the run; the sk_buff is freed.
    pub(crate) fn test_skb_end(&mut self, t: &TestSkb, ctx: &mut [u8]) -> Vec<u8> {
        let skb = t.skb;
        if !t.l2 {
            // The link layer's header is pushed back as zeroes.
            self.skb_move(skb, -ETH_HLEN.cast_signed());
            let data = self.get(skb, field!("sk_buff", "data"));
            self.mem.fill(data, ETH_HLEN as usize, 0).expect("headroom is mapped");
        }
        self.skb_give_ctx(skb, ctx);
        let (at, len) = self.skb_parts(skb)[0];
        let bytes = self.bytes(at, len);
        self.test_skb_free(t);
        bytes
    }

    /// `bpf_prog_test_run_xdp` up to the run.
    pub(crate) fn test_xdp(
        &mut self,
        cpu: CpuId,
        data: &[u8],
        ctx: &[u8],
    ) -> Result<TestBuff, Errno> {
        let size = data.len() as u64;
        let md = |f| self.ctx_number(ctx, f);
        let (meta, end) = (md(field!("xdp_md", "data")), md(field!("xdp_md", "data_end")));
        let (dev, queue) = (
            md(field!("xdp_md", "ingress_ifindex")) as u32,
            md(field!("xdp_md", "rx_queue_index")) as u32,
        );
        // There is no data of the caller's in front of the metadata, and where the linear part
        // ends is the caller's choice.
        let outside =
            md(field!("xdp_md", "data_meta")) != 0 || md(field!("xdp_md", "egress_ifindex")) != 0;
        if !ctx.is_empty() && (outside || !(meta..=size).contains(&end)) {
            return Err(Errno::EINVAL);
        }
        let meta_ok = meta.is_multiple_of(4) && meta <= HEADROOM - XDP_FRAME;
        if !meta_ok || size < meta + ETH_HLEN {
            return Err(Errno::EINVAL);
        }
        let default = self.test_device()?;
        match (dev, queue) {
            (0, 0) => {}
            (0, _) => return Err(Errno::EINVAL),
            (dev, queue) => {
                let nic = self.net.nics.get(&dev).ok_or(Errno::ENODEV)?;
                if queue as usize >= nic.queues.len() {
                    return Err(Errno::EINVAL);
                }
            }
        }
        let dev = if dev == 0 { default } else { dev };
        let room = buffer_bytes() + meta;
        let linear = if ctx.is_empty() { size } else { end };
        let (linear, rest) = data.split_at(linear.min(room) as usize);
        let buffer = self.test_buffer((dev, queue), linear, rest, meta)?;
        let xdp = self.xdp_scratch(cpu, dev, queue, 0);
        self.xdp_prepare(xdp, &buffer);
        Ok(TestBuff { xdp, buffer })
    }

    fn test_buffer(
        &mut self,
        at: (u32, u32),
        linear: &[u8],
        rest: &[u8],
        meta: u64,
    ) -> Result<Buffer, Errno> {
        let page = self.net_page("xdp_buff")?;
        let mut b = Buffer::new(at, page, linear.len() as u64 - meta, SkbFields::default());
        b.meta = b.data - meta;
        self.mem.write(b.meta, linear).map_err(|_| Errno::EFAULT)?;
        for part in rest.chunks(buffer_bytes() as usize) {
            let frag = self.net_page("xdp_buff fragment")?;
            self.mem.write(frag + HEADROOM, part).map_err(|_| Errno::EFAULT)?;
            b.frags.push((frag, part.len() as u64));
        }
        let shared = shared_info(page);
        self.set(shared, field!("skb_shared_info", "nr_frags"), 0);
        Ok(b)
    }

    /// The frame after the run, metadata first; its pages go back.
    pub(crate) fn test_xdp_end(&mut self, mut t: TestBuff, ctx: &mut [u8]) -> Vec<u8> {
        self.xdp_read_back(t.xdp, &mut t.buffer);
        let b = &t.buffer;
        let numbers = [
            (field!("xdp_md", "data"), b.data - b.meta),
            (field!("xdp_md", "data_end"), b.end - b.meta),
        ];
        let mut bytes = self.bytes(b.meta, b.end - b.meta);
        for (page, len) in &b.frags {
            bytes.extend(self.bytes(page + HEADROOM, *len));
        }
        for (to, value) in numbers {
            put(ctx, to, value, self.mem.endian());
        }
        self.buffer_put(&t.buffer);
        bytes
    }
}

fn number(bytes: &[u8], endian: bpf::Endian) -> u64 {
    let add = |v: u64, b: &u8| v << 8 | u64::from(*b);
    match endian {
        bpf::Endian::Little => bytes.iter().rev().fold(0, add),
        bpf::Endian::Big => bytes.iter().fold(0, add),
    }
}

fn put(ctx: &mut [u8], f: Field, value: u64, endian: bpf::Endian) {
    let Some(b) = ctx.get_mut(f.off as usize..(f.off + f.size) as usize) else { return };
    let n = b.len();
    match endian {
        bpf::Endian::Little => b.copy_from_slice(&value.to_le_bytes()[..n]),
        bpf::Endian::Big => b.copy_from_slice(&value.to_be_bytes()[8 - n..]),
    }
}
