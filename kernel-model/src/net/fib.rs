//! Routes and neighbours: what `bpf_fib_lookup` and `bpf_redirect_neigh` ask
//! (net/core/filter.c, net/ipv4/fib_trie.c, net/ipv6/ip6_fib.c).
//!
//! The tables are as a scenario states them: no routing protocol, no ARP. A neighbour that is not
//! stated does not answer. Devices forward when the machine has any route: a machine without
//! routes is a host, whose `forwarding` is off as a kernel boots.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::cpu::{CpuId, Frame};
use crate::{Errno, Kernel, field};

/// `RT_TABLE_MAIN`.
pub const TABLE_MAIN: u32 = 254;
/// `RT_TABLE_LOCAL`, looked in first.
pub(super) const TABLE_LOCAL: u32 = 255;

/// `rtm_type`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RouteKind {
    /// To a device, through a gateway or not.
    #[default]
    Unicast,
    /// An address of this machine.
    Local,
    /// Dropped without a word.
    Blackhole,
    /// Dropped with "host unreachable".
    Unreachable,
    /// Dropped with "administratively prohibited".
    Prohibit,
}

/// A route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// First address of the destination.
    pub to: IpAddr,
    /// Bits of it that count.
    pub prefix: u8,
    /// Kind.
    pub kind: RouteKind,
    /// `ifindex` of the device, 0 for kinds that need none.
    pub dev: u32,
    /// Gateway; its family may differ from that of the destination.
    pub via: Option<IpAddr>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// Priority: among routes of one prefix the lowest counts.
    pub metric: u32,
    /// Locked path MTU.
    pub mtu: Option<u32>,
    /// Table number.
    pub table: u32,
}

impl Route {
    /// A unicast route of the main table.
    #[must_use]
    pub fn new(to: IpAddr, prefix: u8, dev: u32) -> Route {
        Route {
            to,
            prefix,
            kind: RouteKind::Unicast,
            dev,
            via: None,
            src: None,
            metric: 0,
            mtu: None,
            table: TABLE_MAIN,
        }
    }

    fn covers(&self, ip: IpAddr) -> bool {
        let bits = |ip| match ip {
            IpAddr::V4(a) => (u128::from(u32::from(a)) << 96, 32u8),
            IpAddr::V6(a) => (u128::from(a), 128),
        };
        let ((to, max), (ip, other)) = (bits(self.to), bits(ip));
        let keep = u32::from(self.prefix.min(max));
        max == other && (keep == 0 || (to ^ ip) >> (128 - keep) == 0)
    }
}

/// Tables of a machine.
#[derive(Clone, Debug, Default)]
pub struct Fib {
    routes: Vec<Route>,
    /// Link-layer addresses by device and address.
    neighbours: BTreeMap<(u32, IpAddr), [u8; 6]>,
}

impl Fib {
    /// Whether devices forward.
    pub(crate) fn forwards(&self) -> bool {
        !self.routes.is_empty()
    }

    /// The longest prefix, then the lowest metric; of one device alone when `oif` is not 0.
    pub(crate) fn lookup(&self, table: Option<u32>, to: IpAddr, oif: u32) -> Option<&Route> {
        let in_table = |t: u32| {
            let fits = |r: &&Route| {
                r.table == t && r.covers(to) && (oif == 0 || r.dev == oif || r.dev == 0)
            };
            let best = |r: &&Route| (r.prefix, std::cmp::Reverse(r.metric));
            // Of equals the one that was added first.
            self.routes.iter().filter(fits).rev().max_by_key(best)
        };
        match table {
            Some(t) => in_table(t),
            None => in_table(TABLE_LOCAL).or_else(|| in_table(TABLE_MAIN)),
        }
    }

    /// A table with routes, or one that every kernel has.
    pub(crate) fn has_table(&self, table: u32) -> bool {
        matches!(table, TABLE_MAIN | TABLE_LOCAL | 253)
            || self.routes.iter().any(|r| r.table == table)
    }

    /// `neigh->ha` of a neighbour that is valid.
    pub(crate) fn neighbour(&self, dev: u32, ip: IpAddr) -> Option<[u8; 6]> {
        self.neighbours.get(&(dev, ip)).copied()
    }
}

/// What `bpf_redirect_neigh` was given as next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NextHop {
    /// By the routes of the packet's destination.
    Routed,
    /// Stated by the program.
    Given(IpAddr),
}

impl Kernel {
    /// Adds a route.
    ///
    /// # Errors
    /// `ENODEV` for a device that is not there, `EINVAL` for a prefix longer than an address.
    pub fn route_add(&mut self, route: Route) -> Result<(), Errno> {
        let max = if route.to.is_ipv4() { 32 } else { 128 };
        if route.prefix > max {
            return Err(Errno::EINVAL);
        }
        let needs_dev = matches!(route.kind, RouteKind::Unicast | RouteKind::Local);
        if needs_dev && !self.net.nics.contains_key(&route.dev) {
            return Err(Errno::ENODEV);
        }
        let table = if route.kind == RouteKind::Local { TABLE_LOCAL } else { route.table };
        self.net.fib.routes.push(Route { table, ..route });
        Ok(())
    }

    /// Adds a permanent neighbour.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn neighbour_add(&mut self, dev: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), Errno> {
        if !self.net.nics.contains_key(&dev) {
            return Err(Errno::ENODEV);
        }
        self.net.fib.neighbours.insert((dev, ip), mac);
        Ok(())
    }

    /// Address at an offset of the network header.
    fn skb_address(&self, skb: u64, off: u64, v6: bool) -> Option<IpAddr> {
        let head = self.get(skb, field!("sk_buff", "head"));
        let at = head + self.get(skb, field!("sk_buff", "network_header")) + off;
        let tail = head + self.get(skb, field!("sk_buff", "tail"));
        let len = if v6 { 16 } else { 4 };
        let bytes =
            (at + len <= tail).then(|| self.mem.read_vec(at, len as usize).ok()).flatten()?;
        Some(match <[u8; 4]>::try_from(&bytes[..]) {
            Ok(b) => IpAddr::from(b),
            Err(_) => IpAddr::from(<[u8; 16]>::try_from(&bytes[..]).ok()?),
        })
    }

    /// `__bpf_redirect_neigh`: a new link-layer header, then out of the device.
    pub(super) fn skb_redirect_neigh(
        &mut self,
        cpu: CpuId,
        skb: u64,
        to: u32,
        hop: NextHop,
    ) -> Option<Frame> {
        let here = "skb_do_redirect";
        match self.neigh_header(skb, to, hop) {
            Ok(header) => {
                let head = self.get(skb, field!("sk_buff", "head"));
                let at = head + self.get(skb, field!("sk_buff", "mac_header"));
                self.mem.write(at, &header).expect("packet memory is mapped");
                Some(self.skb_send(to, skb, false))
            }
            Err(reason) => {
                self.skb_drop(cpu, skb, reason, here);
                None
            }
        }
    }

    /// The Ethernet header of the next hop, or why the packet is dropped.
    fn neigh_header(&self, skb: u64, to: u32, hop: NextHop) -> Result<[u8; 14], &'static str> {
        let mac = self.get(skb, field!("sk_buff", "mac_header"));
        let net = self.get(skb, field!("sk_buff", "network_header"));
        if net < mac + 14 {
            return Err("NOT_SPECIFIED");
        }
        let head = self.get(skb, field!("sk_buff", "head"));
        let old = self.bytes(head + mac, 14);
        let (v6, off) = match u16::from_be_bytes([old[12], old[13]]) {
            0x0800 => (false, 16),
            0x86dd => (true, 24),
            _ => return Err("NOT_SPECIFIED"),
        };
        if old[0] & 1 != 0 {
            return Err("NOT_SPECIFIED");
        }
        let next = match hop {
            NextHop::Given(ip) => ip,
            NextHop::Routed => {
                let dst = self.skb_address(skb, off, v6).ok_or("PKT_TOO_SMALL")?;
                let route = self.net.fib.lookup(None, dst, to).ok_or("IP_OUTNOROUTES")?;
                if route.kind != RouteKind::Unicast {
                    return Err("IP_OUTNOROUTES");
                }
                route.via.unwrap_or(dst)
            }
        };
        let dest = self.net.fib.neighbour(to, next).ok_or("NEIGH_FAILED")?;
        let own = self.get(self.net.nics[&to].dev, field!("net_device", "dev_addr"));
        let mut header = [0; 14];
        header[..6].copy_from_slice(&dest);
        header[6..12].copy_from_slice(&self.bytes(own, 6));
        header[12..].copy_from_slice(&old[12..]);
        Ok(header)
    }
}
