//! Expected packets: bytes against layers, field by field.

use std::net::{Ipv4Addr, Ipv6Addr};

use kernel_model::net::check::network_layer;
use scenarios::Span;
use scenarios::leaf::{Is, Mac, TcpFlags};
use scenarios::schema::Layer;
use scenarios::schema::packet::Field;

use super::packet::{bridged_type, ethertype_of, proto_of};

/// Where a packet is not what was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// In words.
    pub why: String,
    /// Place of the expected field, and what would be right there.
    pub fix: Option<(Span, String)>,
}

impl From<String> for Mismatch {
    fn from(why: String) -> Mismatch {
        Mismatch { why, fix: None }
    }
}

/// Where a packet differs from what was expected, or `None` when it matches.
///
/// A list that begins above Ethernet is looked for behind the frame's own link headers. That a
/// layer follows another is checked, but where the list gives the field that says so itself.
#[must_use]
pub fn mismatch(layers: &[Layer], bytes: &[u8]) -> Option<Mismatch> {
    let mut rest = match behind_link(layers.first(), bytes) {
        Ok(rest) => rest,
        Err(why) => return Some(why),
    };
    for (n, layer) in layers.iter().enumerate() {
        let after = &layers[n + 1..];
        match layer {
            Layer::Rest => return None,
            Layer::Cut(len) if bytes.len() as u64 != len.v.n => {
                let (is, not) = (bytes.len(), len.v.n);
                return Some(format!("the frame has {is} bytes, expected {not}").into());
            }
            _ => {}
        }
        // Of a header that the frame cuts short what is there counts.
        let open = matches!(after, [Layer::Rest | Layer::Cut(_)]);
        let done =
            one(layer, rest).or_else(|why| if open { short(layer, rest, why) } else { Err(why) });
        match done.and_then(|used| follows(layer, after.first(), rest).map(|()| used)) {
            Ok(used) => rest = &rest[used..],
            Err(why) => return Some(why),
        }
    }
    let left = rest.len();
    let why = || format!("{left} bytes follow where the packet was expected to end").into();
    (left > 0).then(why)
}

/// The bytes that a list's first layer is about.
fn behind_link<'b>(first: Option<&Layer>, bytes: &'b [u8]) -> Result<&'b [u8], Mismatch> {
    let Some(wanted) = ethertype_of(first).filter(|_| !matches!(first, Some(Layer::Vlan { .. })))
    else {
        return Ok(bytes);
    };
    match network_layer(bytes) {
        Some((found, at)) if found == wanted => Ok(&bytes[at..]),
        Some((found, _)) => {
            Err(format!("the frame is of type {found:#06x}, not {wanted:#06x}").into())
        }
        None => Err("the frame is shorter than an Ethernet header".to_owned().into()),
    }
}

/// A header of which the frame has the beginning alone: whatever the rest were, it matches.
fn short(layer: &Layer, b: &[u8], why: Mismatch) -> Result<usize, Mismatch> {
    let with = |fill: u8| {
        let mut whole = b.to_vec();
        whole.resize(b.len() + 64, fill);
        one(layer, &whole)
    };
    match (with(0), with(0xff)) {
        (Ok(zeros), Ok(ones)) if zeros.max(ones) >= b.len() => Ok(b.len()),
        _ => Err(why),
    }
}

/// Whether a header says that the next layer of the list follows it.
fn follows(layer: &Layer, next: Option<&Layer>, b: &[u8]) -> Check {
    let (name, found, wanted) = match layer {
        Layer::Eth { ethertype: None, .. } => ("ethertype of Eth", be16(b, 12), ethertype_of(next)),
        Layer::Vlan { ethertype: None, .. } => {
            ("ethertype of Vlan", be16(b, 2), ethertype_of(next))
        }
        Layer::Gre { proto: None, .. } => ("proto of Gre", be16(b, 2), bridged_type(next)),
        Layer::Geneve { proto: None, .. } => ("proto of Geneve", be16(b, 2), bridged_type(next)),
        Layer::Ip4 { proto: None, .. } => {
            ("proto of Ip4", b[9].into(), proto_of(next, false).map(u16::from))
        }
        Layer::Ip6 { next: None, .. } => {
            ("next of Ip6", b[6].into(), proto_of(next, true).map(u16::from))
        }
        Layer::Ip6Ext { next: None, .. } => {
            ("next of Ip6Ext", b[0].into(), proto_of(next, true).map(u16::from))
        }
        _ => return Ok(()),
    };
    // A tag may be of the customer or of the provider, unless the list says which.
    let tag = matches!(next, Some(Layer::Vlan { tpid: None, .. })) && found == 0x88a8;
    match (wanted, next) {
        (Some(wanted), Some(next)) if wanted != found && !tag => {
            let next = next.kind();
            Err(format!("{name} is {found:#x}, but {next} was expected to follow it").into())
        }
        _ => Ok(()),
    }
}

type Check = Result<(), Mismatch>;

/// A field's value as a scenario writes it.
trait Written {
    fn written(&self) -> String;
}

macro_rules! written {
    ($how:literal: $($t:ty),+) => {$(
        impl Written for $t {
            fn written(&self) -> String {
                format!($how, self)
            }
        }
    )+};
}
written!("{}": u8, u16, u32, bool);
written!("\"{}\"": Mac, Ipv4Addr, Ipv6Addr);

impl Written for TcpFlags {
    fn written(&self) -> String {
        let letters = "FSRPAUEC".chars().enumerate();
        let set: String = letters.filter(|(n, _)| self.0 >> n & 1 == 1).map(|(_, c)| c).collect();
        format!("{set:?}")
    }
}

fn is<T: PartialOrd + std::fmt::Debug + Written>(f: &Field<T>, name: &str, found: T) -> Check {
    match f {
        Some(s) if !s.v.matches(&found) => {
            let wanted = match &s.v {
                Is::Value(v) => v.written(),
                other => format!("{other:?}"),
            };
            let found = found.written();
            let why = format!("{name} is {found}, expected {wanted}");
            Err(Mismatch { why, fix: Some((s.span, found)) })
        }
        _ => Ok(()),
    }
}

fn cut<'a>(b: &'a [u8], len: usize, what: &str) -> Result<&'a [u8], Mismatch> {
    b.get(..len).ok_or_else(|| format!("{what}: only {} bytes are left", b.len()).into())
}

fn be16(b: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([b[at], b[at + 1]])
}

fn be32(b: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

fn mac(b: &[u8], at: usize) -> Mac {
    Mac(b[at..at + 6].try_into().expect("six bytes"))
}

fn ip4(b: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::from(be32(b, at))
}

/// Bytes a layer takes, when it matches.
fn one(layer: &Layer, b: &[u8]) -> Result<usize, Mismatch> {
    match layer {
        Layer::Eth { .. } | Layer::Vlan { .. } | Layer::Arp { .. } | Layer::Mpls { .. } => {
            link(layer, b)
        }
        Layer::Ip4 { .. } => ipv4(layer, b),
        Layer::Ip6 { .. } | Layer::Ip6Ext { .. } => ipv6(layer, b),
        Layer::Udp { .. } | Layer::Icmp { .. } | Layer::Sctp { .. } => transport(layer, b),
        Layer::Tcp { .. } => tcp(layer, b),
        Layer::Vxlan { .. } | Layer::Gre { .. } | Layer::Geneve { .. } => tunnel(layer, b),
        Layer::Text(t) => literal(t.v.as_bytes(), b, "Text"),
        Layer::Hex(h) => literal(&h.0, b, "Hex"),
        Layer::Zeros(n) => literal(&vec![0; n.v.n as usize], b, "Zeros"),
        Layer::Pad(n) => literal(&vec![0; n.v.n as usize], b, "Pad"),
        Layer::Pcap { .. } | Layer::Like(_) | Layer::Cut(_) | Layer::Rest => Ok(0),
    }
}

fn literal(wanted: &[u8], b: &[u8], what: &str) -> Result<usize, Mismatch> {
    let found = cut(b, wanted.len(), what)?;
    match found.iter().zip(wanted).position(|(f, w)| f != w) {
        None => Ok(wanted.len()),
        Some(n) => {
            let (is, not) = (found[n], wanted[n]);
            Err(format!("{what}: byte {n} is {is:#04x}, expected {not:#04x}").into())
        }
    }
}

/// Layers below the internet protocols.
fn link(layer: &Layer, b: &[u8]) -> Result<usize, Mismatch> {
    match layer {
        Layer::Eth { src, dst, ethertype } => {
            let h = cut(b, 14, "Eth")?;
            is(dst, "dst of Eth", mac(h, 0))?;
            is(src, "src of Eth", mac(h, 6))?;
            is(ethertype, "ethertype of Eth", be16(h, 12))?;
            Ok(14)
        }
        Layer::Vlan { id, pcp, dei, ethertype, tpid: _ } => {
            let h = cut(b, 4, "Vlan")?;
            let tci = be16(h, 0);
            is(id, "id of Vlan", tci & 0xfff)?;
            is(pcp, "pcp of Vlan", (tci >> 13) as u8)?;
            is(dei, "dei of Vlan", tci >> 12 & 1 == 1)?;
            is(ethertype, "ethertype of Vlan", be16(h, 2))?;
            Ok(4)
        }
        Layer::Arp { op, sha, spa, tha, tpa } => {
            let h = cut(b, 28, "Arp")?;
            is(op, "op of Arp", be16(h, 6))?;
            is(sha, "sha of Arp", mac(h, 8))?;
            is(spa, "spa of Arp", ip4(h, 14))?;
            is(tha, "tha of Arp", mac(h, 18))?;
            is(tpa, "tpa of Arp", ip4(h, 24))?;
            Ok(28)
        }
        Layer::Mpls { label, tc, bottom, ttl } => {
            let word = be32(cut(b, 4, "Mpls")?, 0);
            is(label, "label of Mpls", word >> 12)?;
            is(tc, "tc of Mpls", (word >> 9) as u8 & 7)?;
            is(bottom, "bottom of Mpls", word >> 8 & 1 == 1)?;
            is(ttl, "ttl of Mpls", word as u8)?;
            Ok(4)
        }
        _ => unreachable!("called for Eth, Vlan, Arp and Mpls alone"),
    }
}

/// Headers in front of an inner packet.
fn tunnel(layer: &Layer, b: &[u8]) -> Result<usize, Mismatch> {
    match layer {
        Layer::Vxlan { vni } => {
            let h = cut(b, 8, "Vxlan")?;
            is(vni, "vni of Vxlan", be32(h, 4) >> 8)?;
            Ok(8)
        }
        Layer::Gre { proto, key } => {
            let flags = be16(cut(b, 4, "Gre")?, 0);
            let size = |bit: u16| if flags & bit == 0 { 0 } else { 4 };
            // Checksum, key and sequence number follow where their bits are set.
            let at = 4 + size(0x8000);
            let len = at + size(0x2000) + size(0x1000);
            let h = cut(b, len, "Gre")?;
            is(proto, "proto of Gre", be16(h, 2))?;
            match (key, flags & 0x2000 != 0) {
                (Some(_), false) => return Err("Gre has no key".to_owned().into()),
                (_, true) => is(key, "key of Gre", be32(h, at))?,
                _ => {}
            }
            Ok(len)
        }
        Layer::Geneve { vni, proto, options } => {
            let len = 8 + usize::from(cut(b, 8, "Geneve")?[0] & 0x3f) * 4;
            let h = cut(b, len, "options of Geneve")?;
            is(vni, "vni of Geneve", be32(h, 4) >> 8)?;
            is(proto, "proto of Geneve", be16(h, 2))?;
            if options.as_ref().is_some_and(|o| !h[8..].starts_with(&o.0)) {
                return Err("options of Geneve differ".to_owned().into());
            }
            Ok(len)
        }
        _ => unreachable!("called for tunnels alone"),
    }
}

fn tcp(layer: &Layer, b: &[u8]) -> Result<usize, Mismatch> {
    let Layer::Tcp { sport, dport, seq, ack, flags, win, doff, csum, options } = layer else {
        unreachable!("called for Tcp alone")
    };
    let h = cut(b, 20, "Tcp")?;
    is(sport, "sport of Tcp", be16(h, 0))?;
    is(dport, "dport of Tcp", be16(h, 2))?;
    is(seq, "seq of Tcp", be32(h, 4))?;
    is(ack, "ack of Tcp", be32(h, 8))?;
    is(flags, "flags of Tcp", TcpFlags(h[13]))?;
    is(win, "win of Tcp", be16(h, 14))?;
    is(doff, "doff of Tcp", h[12] >> 4)?;
    is(csum, "csum of Tcp", be16(h, 16))?;
    let len = (usize::from(h[12] >> 4) * 4).max(20);
    let h = cut(b, len, "options of Tcp")?;
    if let Some(text) = options {
        let wanted = super::packet::tcp_options(&text.v)?;
        if h[20..] != wanted {
            let (is, not) = (&h[20..], wanted);
            return Err(format!("options of Tcp are {is:02x?}, expected {not:02x?}").into());
        }
    }
    Ok(len)
}

/// IPv6 and its extension headers.
fn ipv6(layer: &Layer, b: &[u8]) -> Result<usize, Mismatch> {
    match layer {
        Layer::Ip6 { src, dst, hop, class, flow, next, len } => {
            let h = cut(b, 40, "Ip6")?;
            let word = be32(h, 0);
            let address = |at: usize| {
                Ipv6Addr::from(<[u8; 16]>::try_from(&h[at..at + 16]).expect("sixteen bytes"))
            };
            is(src, "src of Ip6", address(8))?;
            is(dst, "dst of Ip6", address(24))?;
            is(hop, "hop of Ip6", h[7])?;
            is(class, "class of Ip6", (word >> 20) as u8)?;
            is(flow, "flow of Ip6", word & 0xfffff)?;
            is(next, "next of Ip6", h[6])?;
            is(len, "len of Ip6", be16(h, 4))?;
            Ok(40)
        }
        Layer::Ip6Ext { kind: _, next, body } => {
            let h = cut(b, 8, "Ip6Ext")?;
            let len = (usize::from(h[1]) + 1) * 8;
            is(next, "next of Ip6Ext", h[0])?;
            let h = cut(b, len, "Ip6Ext")?;
            if body.as_ref().is_some_and(|body| !h[2..].starts_with(&body.0)) {
                return Err("body of Ip6Ext differs".to_owned().into());
            }
            Ok(len)
        }
        _ => unreachable!("called for Ip6 and Ip6Ext alone"),
    }
}

/// Layers above the internet protocols.
fn transport(layer: &Layer, b: &[u8]) -> Result<usize, Mismatch> {
    match layer {
        Layer::Udp { sport, dport, len, csum } => {
            let h = cut(b, 8, "Udp")?;
            is(sport, "sport of Udp", be16(h, 0))?;
            is(dport, "dport of Udp", be16(h, 2))?;
            is(len, "len of Udp", be16(h, 4))?;
            is(csum, "csum of Udp", be16(h, 6))?;
            Ok(8)
        }
        Layer::Sctp { sport, dport, tag, csum } => {
            let h = cut(b, 12, "Sctp")?;
            is(sport, "sport of Sctp", be16(h, 0))?;
            is(dport, "dport of Sctp", be16(h, 2))?;
            is(tag, "tag of Sctp", be32(h, 4))?;
            is(csum, "csum of Sctp", be32(h, 8))?;
            Ok(12)
        }
        Layer::Icmp { kind, code, id, seq, csum } => {
            let h = cut(b, 8, "Icmp")?;
            is(kind, "type of Icmp", h[0])?;
            is(code, "code of Icmp", h[1])?;
            is(csum, "csum of Icmp", be16(h, 2))?;
            is(id, "id of Icmp", be16(h, 4))?;
            is(seq, "seq of Icmp", be16(h, 6))?;
            Ok(8)
        }
        _ => unreachable!("called for Udp, Icmp and Sctp alone"),
    }
}

fn ipv4(layer: &Layer, b: &[u8]) -> Result<usize, Mismatch> {
    let Layer::Ip4 { src, dst, ttl, tos, id, df, mf, frag, proto, len, ihl, csum, options } = layer
    else {
        unreachable!("called for Ip4 alone")
    };
    let h = cut(b, 20, "Ip4")?;
    let flags = be16(h, 6);
    is(src, "src of Ip4", ip4(h, 12))?;
    is(dst, "dst of Ip4", ip4(h, 16))?;
    is(ttl, "ttl of Ip4", h[8])?;
    is(tos, "tos of Ip4", h[1])?;
    is(id, "id of Ip4", be16(h, 4))?;
    is(df, "df of Ip4", flags >> 14 & 1 == 1)?;
    is(mf, "mf of Ip4", flags >> 13 & 1 == 1)?;
    is(frag, "frag of Ip4", flags & 0x1fff)?;
    is(proto, "proto of Ip4", h[9])?;
    is(len, "len of Ip4", be16(h, 2))?;
    is(ihl, "ihl of Ip4", h[0] & 15)?;
    is(csum, "csum of Ip4", be16(h, 10))?;
    let length = usize::from(h[0] & 15) * 4;
    let h = cut(b, length.max(20), "options of Ip4")?;
    if options.as_ref().is_some_and(|o| !h[20..].starts_with(&o.0)) {
        return Err("options of Ip4 differ".to_owned().into());
    }
    Ok(length.max(20))
}
