//! Packets as layers, and flows. The same type builds a packet and matches one.

use super::Name;
use crate::leaf::{Bytes, Is, Leaf, Mac, Rate, TcpFlags};
use crate::names;
use crate::span::{Finding, Span, Spanned};
use crate::tree::Kind;
use serde::Deserialize;
use serde::de::Deserializer;
use std::net::{Ipv4Addr, Ipv6Addr};

/// A field of a layer: left out, given, or a pattern; with its place.
pub type Field<T> = Option<Spanned<Is<T>>>;

/// One layer, from the outside in. Left out in a sent packet = computed or the default; left out
/// in an expected packet = not looked at (lengths and checksums are always looked at).
#[derive(Clone, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "fields are those of the protocol headers; see the reference page")]
pub enum Layer {
    /// Ethernet.
    Eth {
        #[serde(default)]
        src: Field<Mac>,
        #[serde(default)]
        dst: Field<Mac>,
        #[serde(default)]
        ethertype: Field<u16>,
    },
    /// 802.1Q tag.
    Vlan {
        id: Field<u16>,
        #[serde(default)]
        pcp: Field<u8>,
        #[serde(default)]
        dei: Field<bool>,
        #[serde(default)]
        ethertype: Field<u16>,
        /// 0x8100 or 0x88a8 for the tag itself.
        #[serde(default)]
        tpid: Field<u16>,
    },
    /// ARP for IPv4 over Ethernet.
    Arp {
        #[serde(default)]
        op: Field<u16>,
        #[serde(default)]
        sha: Field<Mac>,
        #[serde(default)]
        spa: Field<Ipv4Addr>,
        #[serde(default)]
        tha: Field<Mac>,
        #[serde(default)]
        tpa: Field<Ipv4Addr>,
    },
    /// IPv4.
    Ip4 {
        #[serde(default)]
        src: Field<Ipv4Addr>,
        #[serde(default)]
        dst: Field<Ipv4Addr>,
        #[serde(default)]
        ttl: Field<u8>,
        #[serde(default)]
        tos: Field<u8>,
        #[serde(default)]
        id: Field<u16>,
        #[serde(default)]
        df: Field<bool>,
        #[serde(default)]
        mf: Field<bool>,
        #[serde(default)]
        frag: Field<u16>,
        #[serde(default)]
        proto: Field<u8>,
        #[serde(default)]
        len: Field<u16>,
        #[serde(default)]
        ihl: Field<u8>,
        #[serde(default)]
        csum: Field<u16>,
        /// Option bytes, padded to four.
        #[serde(default)]
        options: Option<HexBytes>,
    },
    /// IPv6.
    Ip6 {
        #[serde(default)]
        src: Field<Ipv6Addr>,
        #[serde(default)]
        dst: Field<Ipv6Addr>,
        #[serde(default)]
        hop: Field<u8>,
        #[serde(default)]
        class: Field<u8>,
        #[serde(default)]
        flow: Field<u32>,
        #[serde(default)]
        next: Field<u8>,
        #[serde(default)]
        len: Field<u16>,
    },
    /// An IPv6 extension header: hop-by-hop (0), routing (43), fragment (44), destination (60).
    Ip6Ext {
        /// Its own protocol number.
        kind: Spanned<u8>,
        #[serde(default)]
        next: Field<u8>,
        /// Bytes after the length byte, padded to a multiple of eight.
        #[serde(default)]
        body: Option<HexBytes>,
    },
    /// UDP.
    Udp {
        #[serde(default)]
        sport: Field<u16>,
        #[serde(default)]
        dport: Field<u16>,
        #[serde(default)]
        len: Field<u16>,
        #[serde(default)]
        csum: Field<u16>,
    },
    /// TCP.
    Tcp {
        #[serde(default)]
        sport: Field<u16>,
        #[serde(default)]
        dport: Field<u16>,
        #[serde(default)]
        seq: Field<u32>,
        #[serde(default)]
        ack: Field<u32>,
        #[serde(default)]
        flags: Field<TcpFlags>,
        #[serde(default)]
        win: Field<u16>,
        #[serde(default)]
        doff: Field<u8>,
        #[serde(default)]
        csum: Field<u16>,
        /// `"mss 1460, sackok, ts 1 0, nop"`.
        #[serde(default)]
        options: Option<Spanned<String>>,
    },
    /// ICMP, or ICMPv6 after an `Ip6`.
    Icmp {
        #[serde(default, rename = "type")]
        kind: Field<u8>,
        #[serde(default)]
        code: Field<u8>,
        #[serde(default)]
        id: Field<u16>,
        #[serde(default)]
        seq: Field<u16>,
        #[serde(default)]
        csum: Field<u16>,
    },
    /// VXLAN header; the inner packet follows.
    Vxlan { vni: Field<u32> },
    /// GRE header; the inner packet follows.
    Gre {
        #[serde(default)]
        proto: Field<u16>,
        /// With the key bit and this key; without when left out.
        #[serde(default)]
        key: Field<u32>,
    },
    /// Geneve header; the inner packet follows.
    Geneve {
        vni: Field<u32>,
        #[serde(default)]
        proto: Field<u16>,
        /// Option bytes, padded to four.
        #[serde(default)]
        options: Option<HexBytes>,
    },
    /// One MPLS label.
    Mpls {
        label: Field<u32>,
        #[serde(default)]
        tc: Field<u8>,
        /// Bottom of the stack: whether another `Mpls` follows, when left out.
        #[serde(default)]
        bottom: Field<bool>,
        #[serde(default)]
        ttl: Field<u8>,
    },
    /// SCTP common header; chunks follow as payload.
    Sctp {
        #[serde(default)]
        sport: Field<u16>,
        #[serde(default)]
        dport: Field<u16>,
        #[serde(default)]
        tag: Field<u32>,
        /// CRC32c.
        #[serde(default)]
        csum: Field<u32>,
    },
    /// Text payload.
    Text(Spanned<String>),
    /// Bytes as hex digits.
    Hex(HexBytes),
    /// So many zero bytes.
    Zeros(Spanned<Bytes>),
    /// So many zero bytes of padding, last.
    Pad(Spanned<Bytes>),
    /// Bytes of a captured frame.
    Pcap {
        file: Name,
        frame: Spanned<u32>,
        #[serde(default)]
        from: u32,
    },
    /// The layers of another packet; following layers override.
    Like(Name),
    /// Shortens the frame, last.
    Cut(Spanned<Bytes>),
    /// Expectations only: anything may follow.
    Rest,
}

impl Layer {
    /// The name as written.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Layer::Eth { .. } => "Eth",
            Layer::Vlan { .. } => "Vlan",
            Layer::Arp { .. } => "Arp",
            Layer::Ip4 { .. } => "Ip4",
            Layer::Ip6 { .. } => "Ip6",
            Layer::Ip6Ext { .. } => "Ip6Ext",
            Layer::Udp { .. } => "Udp",
            Layer::Tcp { .. } => "Tcp",
            Layer::Icmp { .. } => "Icmp",
            Layer::Vxlan { .. } => "Vxlan",
            Layer::Gre { .. } => "Gre",
            Layer::Geneve { .. } => "Geneve",
            Layer::Mpls { .. } => "Mpls",
            Layer::Sctp { .. } => "Sctp",
            Layer::Text(_) => "Text",
            Layer::Hex(_) => "Hex",
            Layer::Zeros(_) => "Zeros",
            Layer::Pad(_) => "Pad",
            Layer::Pcap { .. } => "Pcap",
            Layer::Like(_) => "Like",
            Layer::Cut(_) => "Cut",
            Layer::Rest => "Rest",
        }
    }

    /// Places of the fields that are patterns: they cannot be sent.
    #[must_use]
    pub fn patterns(&self) -> Vec<Span> {
        let mut out = Vec::new();
        macro_rules! see {
            ($($f:expr),* $(,)?) => {{$(
                out.extend($f.as_ref().filter(|s| s.v.is_pattern()).map(|s| s.span));
            )*}};
        }
        match self {
            Layer::Eth { src, dst, ethertype } => see!(src, dst, ethertype),
            Layer::Vlan { id, pcp, dei, ethertype, tpid } => see!(id, pcp, dei, ethertype, tpid),
            Layer::Arp { op, sha, spa, tha, tpa } => see!(op, sha, spa, tha, tpa),
            Layer::Ip4 {
                src,
                dst,
                ttl,
                tos,
                id,
                df,
                mf,
                frag,
                proto,
                len,
                ihl,
                csum,
                options: _,
            } => see!(src, dst, ttl, tos, id, df, mf, frag, proto, len, ihl, csum),
            Layer::Ip6 { src, dst, hop, class, flow, next, len } => {
                see!(src, dst, hop, class, flow, next, len);
            }
            Layer::Ip6Ext { next, .. } => see!(next),
            Layer::Udp { sport, dport, len, csum } => see!(sport, dport, len, csum),
            Layer::Tcp { sport, dport, seq, ack, flags, win, doff, csum, options: _ } => {
                see!(sport, dport, seq, ack, flags, win, doff, csum);
            }
            Layer::Icmp { kind, code, id, seq, csum } => see!(kind, code, id, seq, csum),
            Layer::Vxlan { vni } => see!(vni),
            Layer::Gre { proto, key } => see!(proto, key),
            Layer::Geneve { vni, proto, options: _ } => see!(vni, proto),
            Layer::Mpls { label, tc, bottom, ttl } => see!(label, tc, bottom, ttl),
            Layer::Sctp { sport, dport, tag, csum } => see!(sport, dport, tag, csum),
            Layer::Text(_)
            | Layer::Hex(_)
            | Layer::Zeros(_)
            | Layer::Pad(_)
            | Layer::Pcap { .. }
            | Layer::Like(_)
            | Layer::Cut(_)
            | Layer::Rest => {}
        }
        out
    }
}

/// Bytes written as hex digits with optional blanks: `"de ad be ef"`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HexBytes(pub Vec<u8>);

impl Leaf for HexBytes {
    fn from_node(node: &crate::tree::Node) -> Result<Self, Finding> {
        let text = String::from_node(node)?;
        let digits: Vec<u32> = text
            .chars()
            .filter(|c| !c.is_whitespace())
            .map(|c| c.to_digit(16))
            .collect::<Option<_>>()
            .filter(|d: &Vec<u32>| d.len().is_multiple_of(2))
            .ok_or_else(|| {
                Finding::error(node.span, "pairs of hex digits were expected, as in \"de ad\"")
            })?;
        Ok(HexBytes(digits.chunks(2).map(|d| (d[0] << 4 | d[1]) as u8).collect()))
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::span::leaf(d).map(|(v, _)| v)
    }
}

names! {
    /// What counts up from flow to flow.
    pub enum Vary as "a field to vary" {
        /// Source address.
        SrcIp = "SrcIp",
        /// Destination address.
        DstIp = "DstIp",
        /// Source port.
        SrcPort = "SrcPort",
        /// Destination port.
        DstPort = "DstPort",
        /// IPv6 flow label.
        FlowLabel = "FlowLabel",
    }
}

/// A distribution of sizes or of popularity.
#[derive(Clone, Debug, PartialEq)]
pub enum Dist {
    /// All alike: sizes as `like` says, flows equally often.
    Even,
    /// Always this size.
    Fixed(Bytes),
    /// Any size between.
    Uniform(Bytes, Bytes),
    /// Flow `i` with weight `1 / i^s`.
    Zipf(f64),
    /// 7:4:1 of 64, 570 and 1518 bytes.
    Imix,
}

impl Leaf for Dist {
    fn from_node(node: &crate::tree::Node) -> Result<Self, Finding> {
        let field = |name: &str| match &node.kind {
            Kind::Record(_, members) => members.iter().find(|m| m.name == name).map(|m| &m.value),
            _ => None,
        };
        let head = match &node.kind {
            Kind::Name(n) | Kind::Call(n, _) | Kind::Record(Some(n), _) => n.as_str(),
            _ => "",
        };
        match (head, &node.kind) {
            ("Even", Kind::Name(_)) => Ok(Dist::Even),
            ("Imix", Kind::Name(_)) => Ok(Dist::Imix),
            ("Fixed", Kind::Call(_, a)) if a.len() == 1 => Bytes::from_node(&a[0]).map(Dist::Fixed),
            ("Zipf", _) => field("s").map_or(Ok(1.0), f64::from_node).map(Dist::Zipf),
            ("Uniform", _) => match (field("from"), field("to")) {
                (Some(a), Some(b)) => Ok(Dist::Uniform(Bytes::from_node(a)?, Bytes::from_node(b)?)),
                _ => Err(Finding::error(node.span, "Uniform needs from and to")),
            },
            _ => Err(Finding::error(
                node.span,
                format!("a distribution was expected, found {}", node.describe()),
            )
            .hint("known: Even, Fixed(\"64B\"), Uniform(from: .., to: ..), Zipf(s: 1.1), Imix")),
        }
    }
}

impl<'de> Deserialize<'de> for Dist {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        crate::span::leaf(d).map(|(v, _)| v)
    }
}

fn even() -> Dist {
    Dist::Even
}

/// A traffic generator; all its numbers come from the `traffic` stream of the seed.
#[derive(Debug, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flows {
    /// Number of flows.
    pub count: Spanned<u32>,
    /// The packet each is made from.
    pub like: Vec<Layer>,
    /// Fields that count up from flow to flow, one after the other.
    #[serde(default)]
    pub vary: Vec<Vary>,
    /// Frame sizes.
    #[serde(default = "even")]
    pub size: Dist,
    /// How often each flow comes.
    #[serde(default = "even")]
    pub popularity: Dist,
    /// Packets (or bits) per second of virtual time.
    pub rate: Spanned<Rate>,
    /// Packets in all.
    pub packets: Spanned<u64>,
}
