//! Devices: `net_device`, receive rings in guest memory, attachment points.

use super::tc::TcHook;
use super::tx::TxRing;
use crate::cpu::CpuId;
use crate::layout::{DIRECT_MAP, PAGE_SIZE};
use crate::ledger::{Held, Kind};
use crate::{Errno, Kernel, ProgId, field};

/// How frames are spread over receive queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rss {
    /// Toeplitz hash of addresses and ports.
    #[default]
    Toeplitz,
    /// One queue after the other.
    RoundRobin,
    /// Everything on queue 0.
    Off,
}

/// What a device is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NicConfig {
    /// Name, at most 15 bytes.
    pub name: String,
    /// Receive queues.
    pub queues: u32,
    /// Descriptors of a ring, a power of two.
    pub ring: u32,
    /// Maximal transmission unit.
    pub mtu: u32,
    /// Ethernet address.
    pub mac: [u8; 6],
    /// Name of the device at the other end of the cable.
    pub peer: Option<String>,
    /// How frames are spread.
    pub rss: Rss,
    /// CPU of each queue; queue modulo CPUs where left out.
    pub irqs: Vec<u32>,
    /// Bytes of frame that a receive buffer takes; at most what a page leaves.
    pub rx_frag: Option<u32>,
}

impl Default for NicConfig {
    fn default() -> NicConfig {
        NicConfig {
            name: "eth0".into(),
            queues: 1,
            ring: 256,
            mtu: 1500,
            mac: [2, 0, 0, 0, 0, 1],
            peer: None,
            rss: Rss::Toeplitz,
            irqs: Vec::new(),
            rx_frag: None,
        }
    }
}

/// A receive queue.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Ring of 16-byte descriptors: address u64, length u16, flags u16, hash u32.
    pub ring: u64,
    /// Descriptors the hardware has filled so far.
    pub filled: u64,
    /// Descriptors the poll has consumed so far.
    pub consumed: u64,
    /// CPU that polls it.
    pub cpu: CpuId,
    /// `struct xdp_rxq_info`.
    pub rxq: u64,
    /// `struct xdp_buff` of the frame in progress.
    pub xdp: u64,
    /// `struct napi_struct`.
    pub napi: u64,
    /// Its transmit ring.
    pub(crate) tx: TxRing,
    /// A poll is queued or running.
    pub scheduled: bool,
}

impl Queue {
    /// Descriptors of the transmit ring that the hardware has not read.
    #[must_use]
    pub fn tx_used(&self) -> u64 {
        self.tx.used()
    }
}

/// A network device.
#[derive(Clone, Debug)]
pub struct Nic {
    /// As configured.
    pub config: NicConfig,
    /// `ifindex`.
    pub ifindex: u32,
    /// `struct net_device`.
    pub dev: u64,
    /// Receive queues.
    pub queues: Vec<Queue>,
    /// Cable: the other device.
    pub peer: Option<u32>,
    /// Cable plugged in.
    pub up: bool,
    /// XDP program.
    pub xdp: Option<ProgId>,
    /// tc ingress: tcx, then clsact.
    pub ingress: TcHook,
    /// tc egress, likewise.
    pub egress: TcHook,
    /// Next queue for [`Rss::RoundRobin`].
    pub(crate) turn: u32,
}

/// Descriptor: the buffer holds a frame or part of one.
pub(crate) const DESC_DONE: u16 = 1;
/// Descriptor: last buffer of a frame.
pub(crate) const DESC_EOP: u16 = 2;
/// Bytes of a descriptor.
pub(crate) const DESC_BYTES: u64 = 16;
/// `XDP_PACKET_HEADROOM`.
pub(crate) const HEADROOM: u64 = 256;

/// Space for data in a page: headroom in front, `skb_shared_info` behind.
pub(crate) fn buffer_bytes() -> u64 {
    PAGE_SIZE - HEADROOM - crate::size!("skb_shared_info").next_multiple_of(64)
}

impl Kernel {
    /// Adds a device and returns its ifindex (from 1, in order).
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn net_add(&mut self, config: NicConfig) -> Result<u32, Errno> {
        let ifindex = u32::try_from(self.net.nics.len()).map_err(|_| Errno::EINVAL)? + 1;
        let dev = self.kzalloc(crate::size!("net_device"), "net_device")?;
        self.set_bytes(dev, field!("net_device", "name"), config.name.as_bytes());
        self.set(dev, field!("net_device", "ifindex"), ifindex.into());
        self.set(dev, field!("net_device", "mtu"), config.mtu.into());
        self.set(dev, field!("net_device", "type"), 1);
        self.set(dev, field!("net_device", "hard_header_len"), 14);
        self.set(dev, field!("net_device", "addr_len"), 6);
        self.set(dev, field!("net_device", "num_rx_queues"), config.queues.into());
        self.set(dev, field!("net_device", "num_tx_queues"), config.queues.into());
        self.set(dev, field!("net_device", "real_num_rx_queues"), config.queues.into());
        self.set(dev, field!("net_device", "real_num_tx_queues"), config.queues.into());
        let addr = field!("net_device", "dev_addr_buf");
        self.set_bytes(dev, addr, &config.mac);
        self.set(dev, field!("net_device", "dev_addr"), dev + u64::from(addr.off));
        let mut queues = Vec::new();
        for n in 0..config.queues {
            queues.push(self.add_queue(ifindex, dev, n, &config)?);
        }
        if let Some(q) = queues.first() {
            self.set(dev, field!("net_device", "_rx"), q.rxq);
        }
        let nic = Nic {
            ifindex,
            dev,
            queues,
            peer: None,
            up: true,
            xdp: None,
            ingress: TcHook::default(),
            egress: TcHook::default(),
            turn: 0,
            config,
        };
        self.net.nics.insert(ifindex, nic);
        self.cable();
        Ok(ifindex)
    }

    fn add_queue(
        &mut self,
        ifindex: u32,
        dev: u64,
        n: u32,
        config: &NicConfig,
    ) -> Result<Queue, Errno> {
        let ring = self.kzalloc(u64::from(config.ring) * DESC_BYTES, "rx ring")?;
        let rxq = self.kzalloc(crate::size!("xdp_rxq_info"), "xdp_rxq_info")?;
        self.set(rxq, field!("xdp_rxq_info", "dev"), dev);
        self.set(rxq, field!("xdp_rxq_info", "queue_index"), n.into());
        self.set(rxq, field!("xdp_rxq_info", "frag_size"), PAGE_SIZE);
        let xdp = self.kzalloc(crate::size!("xdp_buff"), "xdp_buff")?;
        let txq = self.kzalloc(crate::size!("xdp_txq_info"), "xdp_txq_info")?;
        self.set(txq, field!("xdp_txq_info", "dev"), dev);
        self.set(xdp, field!("xdp_buff", "rxq"), rxq);
        self.set(xdp, field!("xdp_buff", "txq"), txq);
        self.set(xdp, field!("xdp_buff", "frame_sz"), PAGE_SIZE);
        let cpu = config.irqs.get(n as usize).copied().unwrap_or(n) % self.config.cpus;
        let cpu = CpuId(cpu);
        let tx = self.kzalloc(u64::from(config.ring) * DESC_BYTES, "tx ring")?;
        let napi = self.kzalloc(crate::size!("napi_struct"), "napi_struct")?;
        self.set(napi, field!("napi_struct", "dev"), dev);
        self.set(napi, field!("napi_struct", "weight"), u64::from(super::rx::BUDGET));
        // MIN_NAPI_ID is the number of possible CPUs plus one.
        let id = self.config.cpus + 1 + ifindex * 256 + n;
        self.set(napi, field!("napi_struct", "napi_id"), id.into());
        self.set(napi, field!("napi_struct", "index"), n.into());
        let tx = TxRing::new(tx);
        Ok(Queue { ring, filled: 0, consumed: 0, cpu, rxq, xdp, napi, tx, scheduled: false })
    }

    /// Plugs in every cable whose two ends exist.
    fn cable(&mut self) {
        let names: Vec<(String, u32)> =
            self.net.nics.values().map(|n| (n.config.name.clone(), n.ifindex)).collect();
        let find = |name: &str| names.iter().find(|n| n.0 == name).map(|n| n.1);
        let mut pairs = Vec::new();
        for nic in self.net.nics.values() {
            if let Some(other) = nic.config.peer.as_deref().and_then(find) {
                pairs.extend([(nic.ifindex, other), (other, nic.ifindex)]);
            }
        }
        for (a, b) in pairs {
            if let Some(nic) = self.net.nics.get_mut(&a) {
                nic.peer = Some(b);
            }
        }
    }

    /// A device by name.
    #[must_use]
    pub fn nic_by_name(&self, name: &str) -> Option<&Nic> {
        self.net.nics.values().find(|n| n.config.name == name)
    }

    /// Attaches an XDP program (`dev_xdp_install`); `None` detaches.
    ///
    /// # Errors
    /// `ENODEV`; `EINVAL` when frames may have several buffers and the program was not loaded
    /// for that (`BPF_F_XDP_HAS_FRAGS`).
    pub fn xdp_attach(&mut self, ifindex: u32, prog: Option<ProgId>) -> Result<(), Errno> {
        let has_frags = prog
            .and_then(|p| self.progs.get(&p))
            .is_none_or(|p| p.verified.program().flags & XDP_HAS_FRAGS != 0);
        let nic = self.net.nics.get_mut(&ifindex).ok_or(Errno::ENODEV)?;
        if !has_frags && u64::from(nic.config.mtu) + 14 + 4 > nic.buffer_data() {
            return Err(Errno::EINVAL);
        }
        nic.xdp = prog;
        Ok(())
    }

    /// Counts in `net_device.stats`.
    pub(crate) fn count(&mut self, dev: u64, f: crate::types::Field, n: u64) {
        let old = self.get(dev, f);
        self.set(dev, f, old.wrapping_add(n));
    }

    /// A page for packet data, from the pool. The ledger has it until it is given back.
    pub(crate) fn net_page(&mut self, what: &'static str) -> Result<u64, Errno> {
        if self.inject_alloc(what) {
            return Err(Errno::ENOMEM);
        }
        let page = match self.net.page_pool.pop() {
            Some(page) => page,
            None => DIRECT_MAP + self.alloc.pages(&mut self.mem, 1).ok_or(Errno::ENOMEM)?,
        };
        self.kernel_holds(Kind::Page, page, what);
        Ok(page)
    }

    /// Gives a page back to the pool.
    pub(crate) fn net_page_put(&mut self, page: u64) {
        let page = page & !(PAGE_SIZE - 1);
        if self.ledger.release(Kind::Page, page).is_none() {
            let what = format!("page {page:#x} is given back twice to the page pool");
            self.emit(self.this_cpu, crate::EventKind::Leak { what });
            return;
        }
        self.net.page_pool.push(page);
    }

    /// Notes what a kernel path holds, apart from any program.
    pub(crate) fn kernel_holds(&mut self, kind: Kind, addr: u64, what: &'static str) {
        let cpu = self.this_cpu;
        let clock_ns = self.now(cpu);
        let (order, stack) = (0, Vec::new());
        let held = Held { cpu, prog: None, depth: 0, what, clock_ns, order, stack };
        self.ledger.acquire(kind, addr, held);
    }
}

/// `BPF_F_XDP_HAS_FRAGS`.
const XDP_HAS_FRAGS: u32 = 1 << 5;

impl Nic {
    /// Bytes of a frame that one receive buffer takes.
    #[must_use]
    pub fn buffer_data(&self) -> u64 {
        self.config.rx_frag.map_or(buffer_bytes(), |n| u64::from(n).min(buffer_bytes()))
    }
}
