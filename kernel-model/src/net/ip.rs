//! Packets of this machine's own sockets: out through the programs of their control group, and up
//! to a socket through those of its group (net/ipv4/ip_output.c, net/ipv4/udp.c).
//!
//! ```text
//!  udp_sendmsg ─► ip_finish_output: egress ─► neighbour ─► tc egress ─► wire
//!                                     └ loopback ─► udp_rcv: ingress ─► receive queue
//!  tc ingress ─► ip_rcv ──────────────────────────────┘
//! ```

use std::net::{IpAddr, SocketAddr};

use super::check::csum;
use super::sock::Datagram;
use super::{NetFrame, Protocol};
use crate::cgroup::{XMIT_CN, XMIT_DROP};
use crate::cpu::{CpuId, Flow, Frame, Input};
use crate::{Errno, Kernel, field};

/// `IPPROTO_UDP`.
const UDP: u8 = 17;
/// `ifindex` of the loopback device: the model's other devices begin at 1, where it would be.
const LO_IFINDEX: u64 = 1000;

/// Where a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// This machine.
    Local,
    /// A device, to the neighbour at this address.
    Nic(u32, IpAddr),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Begin,
    Filtered,
    Sent,
}

/// `ip_finish_output` in progress; the value is what `ip_send_skb` returns.
#[derive(Clone, Debug)]
pub struct Output {
    skb: u64,
    sk: u64,
    way: Way,
    stage: Stage,
    congested: bool,
}

/// `udp_rcv` in progress.
#[derive(Clone, Debug)]
pub struct Local {
    skb: u64,
    sk: u64,
    filtered: bool,
}

/// Both ends, the payload, and fields of the header of a datagram.
#[derive(Clone, Debug)]
pub(crate) struct UdpPacket {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) tos: u8,
    pub(crate) payload: Vec<u8>,
}

impl UdpPacket {
    /// From an empty Ethernet header on.
    fn bytes(&self) -> Option<Vec<u8>> {
        let len = (self.payload.len() + 8) as u16;
        let ports = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        let udp = [&ports[..], &len.to_be_bytes(), &[0, 0], &self.payload].concat();
        ip_frame((self.from.ip(), self.to.ip()), self.tos, UDP, udp)
    }

    /// The datagram of a frame.
    pub(super) fn parse(frame: &[u8]) -> Option<UdpPacket> {
        let (ip, udp) = ip_parse(frame, UDP)?;
        let word = |at: usize| Some(u16::from_be_bytes([*udp.get(at)?, *udp.get(at + 1)?]));
        let payload = udp.get(8..usize::from(word(4)?))?.to_vec();
        let (from, to) = (SocketAddr::new(ip.0, word(0)?), SocketAddr::new(ip.1, word(2)?));
        Some(UdpPacket { from, to, tos: 0, payload })
    }
}

/// A packet of a transport layer with both addresses, from an empty Ethernet header on; `l4` has
/// its ports and a checksum of 0, which is computed.
pub(super) fn ip_frame(
    (from, to): (IpAddr, IpAddr),
    tos: u8,
    proto: u8,
    mut l4: Vec<u8>,
) -> Option<Vec<u8>> {
    let len = l4.len() as u16;
    let (ip, ends) = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let ends = [from.octets(), to.octets()].concat();
            let total = (len + 20).to_be_bytes();
            // DF, TTL 64.
            let mut ip =
                [&[0x45, tos], &total[..], &[0, 0, 0x40, 0, 64, proto, 0, 0], &ends].concat();
            let sum = !csum(&[&ip]);
            ip[10..12].copy_from_slice(&sum.to_be_bytes());
            (ip, ends)
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let ends = [from.octets(), to.octets()].concat();
            let class = [0x60 | tos >> 4, tos << 4, 0, 0];
            (([&class[..], &len.to_be_bytes(), &[proto, 64], &ends].concat()), ends)
        }
        _ => return None,
    };
    let pseudo = [&ends[..], &[0, proto], &len.to_be_bytes()].concat();
    let sum = match !csum(&[&pseudo, &l4]) {
        0 if proto == UDP => 0xffff,
        sum => sum,
    };
    let at = if proto == UDP { 6 } else { 16 };
    l4[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    let ethertype: u16 = if from.is_ipv4() { 0x0800 } else { 0x86dd };
    Some([&[0; 12][..], &ethertype.to_be_bytes(), &ip, &l4].concat())
}

/// The addresses of a frame's packet and what follows its IP header, when it is whole and of this
/// protocol.
pub(super) fn ip_parse(frame: &[u8], proto: u8) -> Option<((IpAddr, IpAddr), &[u8])> {
    let (ethertype, at) = super::check::network_layer(frame)?;
    let p = frame.get(at..)?;
    let word = |at: usize| Some(u16::from_be_bytes([*p.get(at)?, *p.get(at + 1)?]));
    let (v6, header) = match ethertype {
        0x0800 => (false, usize::from(p.first()? & 15) * 4),
        0x86dd => (true, 40),
        _ => return None,
    };
    let fragment = !v6 && word(6)? & 0x3fff != 0;
    if *p.get(if v6 { 6 } else { 9 })? != proto || fragment {
        return None;
    }
    let ip = |at: usize| -> Option<IpAddr> {
        Some(match v6 {
            false => IpAddr::from(<[u8; 4]>::try_from(p.get(12 + 4 * at..16 + 4 * at)?).ok()?),
            true => IpAddr::from(<[u8; 16]>::try_from(p.get(8 + 16 * at..24 + 16 * at)?).ok()?),
        })
    };
    let total = usize::from(if v6 { word(4)? + 40 } else { word(2)? });
    Some(((ip(0)?, ip(1)?), p.get(header..total.min(p.len()))?))
}

impl Kernel {
    /// An address of a device of this machine.
    pub fn address_add(&mut self, ifindex: u32, ip: IpAddr) {
        self.net.addresses.entry(ifindex).or_default().push(ip);
    }

    /// Whether an address is one of this machine's: of loopback, of a device, or of a socket that
    /// the machine was stated to have.
    pub(crate) fn is_local(&self, ip: IpAddr) -> bool {
        let of_device = self.net.addresses.values().flatten().any(|a| *a == ip);
        let route = self.net.fib.lookup(Some(super::fib::TABLE_LOCAL), ip, 0);
        let bound = || self.net.sockets.is_bound_to(ip);
        ip.is_loopback() || ip.is_unspecified() || of_device || route.is_some() || bound()
    }

    /// `ip_route_output_flow`: the way to an address, and the source address that goes with it.
    pub(crate) fn route_out(&self, to: IpAddr, oif: u32) -> Result<(Way, IpAddr), Errno> {
        let any = match to {
            IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
        };
        if self.is_local(to) {
            let own = if to.is_unspecified() { loopback(to) } else { to };
            return Ok((Way::Local, own));
        }
        let route = self.net.fib.lookup(None, to, oif).ok_or(Errno::ENETUNREACH)?;
        let dev = match route.kind {
            super::RouteKind::Unicast => route.dev,
            super::RouteKind::Local => return Ok((Way::Local, to)),
            super::RouteKind::Blackhole => return Err(Errno::EINVAL),
            super::RouteKind::Unreachable => return Err(Errno::EHOSTUNREACH),
            super::RouteKind::Prohibit => return Err(Errno::EACCES),
        };
        let own = self.net.addresses.get(&dev).into_iter().flatten();
        let own = own.copied().find(|a| a.is_ipv4() == to.is_ipv4());
        Ok((Way::Nic(dev, route.via.unwrap_or(to)), route.src.or(own).unwrap_or(any)))
    }

    /// The loopback device.
    pub(super) fn loopback_dev(&mut self) -> Result<u64, Errno> {
        if self.net.loopback == 0 {
            let dev = self.kzalloc(crate::size!("net_device"), "net_device")?;
            self.set_bytes(dev, field!("net_device", "name"), b"lo");
            let addr = dev + u64::from(field!("net_device", "dev_addr_buf").off);
            for (f, value) in [
                (field!("net_device", "ifindex"), LO_IFINDEX),
                (field!("net_device", "mtu"), 65536),
                // ARPHRD_LOOPBACK
                (field!("net_device", "type"), 772),
                (field!("net_device", "hard_header_len"), 14),
                (field!("net_device", "addr_len"), 6),
                (field!("net_device", "dev_addr"), addr),
            ] {
                self.set(dev, f, value);
            }
            self.net.loopback = dev;
        }
        Ok(self.net.loopback)
    }

    /// `udp_send_skb` up to `ip_finish_output`: the path of a datagram of a socket.
    pub(crate) fn udp_output(
        &mut self,
        sk: u64,
        packet: &UdpPacket,
        way: Way,
    ) -> Result<Frame, Errno> {
        let bytes = packet.bytes().ok_or(Errno::EAFNOSUPPORT)?;
        self.ip_output(sk, &bytes, way)
    }

    /// `ip_local_out`: the path of a socket's packet, from an empty Ethernet header on.
    pub(super) fn ip_output(&mut self, sk: u64, bytes: &[u8], way: Way) -> Result<Frame, Errno> {
        let dev = match way {
            Way::Local => self.loopback_dev()?,
            Way::Nic(ifindex, _) => self.net.nics.get(&ifindex).ok_or(Errno::ENODEV)?.dev,
        };
        let skb = self.skb_on_dev(dev, bytes)?;
        let mark = self.get(sk, field!("sock", "sk_mark"));
        let priority = self.get(sk, field!("sock", "sk_priority"));
        for (f, value) in [
            (field!("sk_buff", "sk"), sk),
            (field!("sk_buff", "mark"), mark),
            (field!("sk_buff", "priority"), priority),
            (field!("sk_buff", "skb_iif"), 0),
            (field!("sk_buff", "pkt_type"), 0),
        ] {
            self.set(skb, f, value);
        }
        Ok(output(Output { skb, sk, way, stage: Stage::Begin, congested: false }))
    }

    /// `ip_finish_output`.
    pub(super) fn output_step(&mut self, cpu: CpuId, mut o: Output, input: Input) -> Flow {
        let value = if let Input::Return(v) = input { v } else { 0 };
        match o.stage {
            Stage::Begin => {
                o.stage = Stage::Filtered;
                self.func_enter(cpu, "ip_finish_output", &[0, o.sk, o.skb]);
                match self.cgroup_run_skb(o.sk, o.skb, true) {
                    Some(child) => Flow::Call { frame: output(o), child },
                    None => Flow::Become(output(o)),
                }
            }
            Stage::Filtered if value != 0 && value != XMIT_CN => {
                self.skb_drop(cpu, o.skb, "BPF_CGROUP_EGRESS", "ip_finish_output");
                self.output_end(cpu, &o, value)
            }
            Stage::Filtered => {
                (o.stage, o.congested) = (Stage::Sent, value == XMIT_CN);
                match self.leave(cpu, &o) {
                    Some(child) => Flow::Call { frame: output(o), child },
                    None => self.output_end(cpu, &o, 0),
                }
            }
            Stage::Sent if value == 0 && o.congested => self.output_end(cpu, &o, XMIT_CN),
            Stage::Sent => self.output_end(cpu, &o, value),
        }
    }

    fn output_end(&mut self, cpu: CpuId, o: &Output, ret: u64) -> Flow {
        self.func_exit(cpu, "ip_finish_output", &[0, o.sk, o.skb], ret);
        Flow::Done(net_xmit_errno(ret))
    }

    /// `ip_finish_output2`: the neighbour's address, then the device.
    fn leave(&mut self, cpu: CpuId, o: &Output) -> Option<Frame> {
        let (ifindex, next) = match o.way {
            Way::Nic(ifindex, next) => (ifindex, next),
            Way::Local => {
                let dev = self.net.loopback;
                self.set(o.skb, field!("sk_buff", "sk"), 0);
                self.set(o.skb, field!("sk_buff", "skb_iif"), LO_IFINDEX);
                let len = self.get(o.skb, field!("sk_buff", "len"));
                self.count(dev, field!("net_device", "stats.rx_packets"), 1);
                self.count(dev, field!("net_device", "stats.rx_bytes"), len);
                return match self.skb_is_tcp(o.skb) {
                    true => self.backlog_put(cpu, o.skb),
                    false => self.udp_rcv(cpu, o.skb),
                };
            }
        };
        let Some(dest) = self.net.fib.neighbour(ifindex, next) else {
            self.skb_drop(cpu, o.skb, "NEIGH_FAILED", "ip_finish_output");
            return None;
        };
        let own = self.get(self.net.nics[&ifindex].dev, field!("net_device", "dev_addr"));
        let macs = [&dest[..], &self.bytes(own, 6)].concat();
        let head = self.get(o.skb, field!("sk_buff", "head"));
        let at = head + self.get(o.skb, field!("sk_buff", "mac_header"));
        self.mem.write(at, &macs).expect("packet memory is mapped");
        Some(self.skb_xmit(ifindex, o.skb))
    }

    /// `__udp4_lib_rcv`: the way of a packet to its socket, or its end.
    fn udp_rcv(&mut self, cpu: CpuId, skb: u64) -> Option<Frame> {
        match self.udp_socket(skb) {
            Some(sk) => {
                let local = Local { skb, sk, filtered: false };
                Some(Frame::Net(Box::new(NetFrame::Local(local))))
            }
            None => {
                self.skb_drop(cpu, skb, "NO_SOCKET", "udp_rcv");
                None
            }
        }
    }

    /// The socket that a datagram is for.
    fn udp_socket(&self, skb: u64) -> Option<u64> {
        let packet = UdpPacket::parse(&self.skb_frame(skb))?;
        let dev = self.get(skb, field!("sk_buff", "dev"));
        let dev = self.get(dev, field!("net_device", "ifindex")) as u32;
        self.net.sockets.lookup(Protocol::Udp, (packet.from, packet.to), dev)
    }

    /// The frame of an sk_buff from its link layer on, wherever its data begins.
    pub(super) fn skb_frame(&self, skb: u64) -> Vec<u8> {
        let head = self.get(skb, field!("sk_buff", "head"));
        let mac = head + self.get(skb, field!("sk_buff", "mac_header"));
        let data = self.get(skb, field!("sk_buff", "data"));
        let front = if mac < data { self.bytes(mac, data - mac) } else { Vec::new() };
        [front, self.skb_bytes(skb)].concat()
    }

    /// A packet that came up through a device, when a socket has to do with it: one of a task, or
    /// one with programs of its control group.
    pub(super) fn up_to_socket(&self, skb: u64) -> Option<Frame> {
        if !self.net.sockets.any_of_task() && !self.cgroup_ingress_enabled() {
            return None;
        }
        if let Some(frame) = self.tcp_up(skb) {
            return Some(frame);
        }
        let sk = self.udp_socket(skb)?;
        let local = Local { skb, sk, filtered: false };
        Some(Frame::Net(Box::new(NetFrame::Local(local))))
    }

    /// `udp_queue_rcv_one_skb`: the programs of the socket's group, then its queue.
    pub(super) fn local_step(&mut self, cpu: CpuId, mut l: Local, input: Input) -> Flow {
        let here = "udp_queue_rcv_one_skb";
        let args = [l.sk, l.skb];
        if !l.filtered {
            l.filtered = true;
            self.func_enter(cpu, here, &args);
            if let Some(child) = self.cgroup_run_skb(l.sk, l.skb, false) {
                let frame = Frame::Net(Box::new(NetFrame::Local(l)));
                return Flow::Call { frame, child };
            }
        } else if !matches!(input, Input::Return(0)) {
            self.skb_drop(cpu, l.skb, "SOCKET_FILTER", here);
            self.func_exit(cpu, here, &args, u64::MAX);
            return Flow::Done(0);
        }
        if let Some(p) = UdpPacket::parse(&self.skb_frame(l.skb)) {
            let datagram = Datagram { from: p.from, to: p.to, payload: p.payload };
            self.sock_queue_rcv(cpu, l.sk, datagram);
        }
        self.consume_skb(cpu, l.skb, here);
        self.func_exit(cpu, here, &args, 0);
        Flow::Done(0)
    }
}

/// `net_xmit_errno`, of what is no error yet.
fn net_xmit_errno(value: u64) -> u64 {
    match value {
        XMIT_CN => 0,
        XMIT_DROP => Errno::ENOBUFS.ret(),
        other => other,
    }
}

/// The loopback address of a family.
pub(crate) fn loopback(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
    }
}

fn output(o: Output) -> Frame {
    Frame::Net(Box::new(NetFrame::Output(o)))
}
