//! Frames as text: a line for each header, and bytes.

use std::fmt::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};

use scenarios::leaf::Mac;

/// Bytes of a dump.
const DUMP_MAX: usize = 256;

/// Layers that are taken apart; a frame has no more of use.
const LAYERS_MAX: usize = 8;

/// What the next bytes are.
#[derive(Clone, Copy)]
enum Next {
    /// By an Ethernet type.
    Ether(u16),
    /// By an IP protocol.
    Proto(u8),
}

/// A line for each header of a frame, from Ethernet or, `from`, the header of an Ethernet type on.
pub(super) fn headers(bytes: &[u8], from: Option<u16>) -> Vec<String> {
    let (mut out, mut rest) = (Vec::new(), bytes);
    let mut next = match from {
        Some(ty) => Some(Next::Ether(ty)),
        None => take(ethernet, &mut rest, &mut out),
    };
    for _ in 0..LAYERS_MAX {
        let Some(what) = next else { break };
        next = match what {
            Next::Ether(0x0800) => take(ip4, &mut rest, &mut out),
            Next::Ether(0x86dd) => take(ip6, &mut rest, &mut out),
            Next::Ether(0x8100 | 0x88a8) => take(vlan, &mut rest, &mut out),
            Next::Ether(0x0806) => take(arp, &mut rest, &mut out),
            Next::Proto(6) => take(tcp, &mut rest, &mut out),
            Next::Proto(17) => take(udp, &mut rest, &mut out),
            Next::Proto(1 | 58) => take(icmp, &mut rest, &mut out),
            Next::Proto(4) => take(ip4, &mut rest, &mut out),
            Next::Proto(41) => take(ip6, &mut rest, &mut out),
            Next::Ether(_) | Next::Proto(_) => None,
        };
    }
    if !rest.is_empty() {
        out.push(format!("{} bytes of payload", rest.len()));
    }
    out
}

/// What a header says, what follows it, and its length; `None` where the frame cuts it short.
type Header = fn(&[u8]) -> Option<(String, Option<Next>, usize)>;

fn take(header: Header, rest: &mut &[u8], out: &mut Vec<String>) -> Option<Next> {
    let (text, next, len) = header(rest)?;
    out.push(text);
    *rest = rest.get(len..).unwrap_or_default();
    next
}

fn be16(b: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(b.get(at..at + 2)?.try_into().ok()?))
}

fn be32(b: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(b.get(at..at + 4)?.try_into().ok()?))
}

fn mac(b: &[u8], at: usize) -> Option<Mac> {
    Some(Mac(b.get(at..at + 6)?.try_into().ok()?))
}

fn ethernet(b: &[u8]) -> Option<(String, Option<Next>, usize)> {
    let (dst, src, ty) = (mac(b, 0)?, mac(b, 6)?, be16(b, 12)?);
    Some((format!("Eth {src} > {dst}, type {ty:#06x}"), Some(Next::Ether(ty)), 14))
}

fn vlan(b: &[u8]) -> Option<(String, Option<Next>, usize)> {
    let (tci, ty) = (be16(b, 0)?, be16(b, 2)?);
    let text = format!("Vlan {}, priority {}, type {ty:#06x}", tci & 0xfff, tci >> 13);
    Some((text, Some(Next::Ether(ty)), 4))
}

fn arp(b: &[u8]) -> Option<(String, Option<Next>, usize)> {
    let (op, from, to) = (be16(b, 6)?, be32(b, 14)?, be32(b, 24)?);
    let text = format!("Arp op {op}, {} > {}", Ipv4Addr::from(from), Ipv4Addr::from(to));
    Some((text, None, 28))
}

fn ip4(b: &[u8]) -> Option<(String, Option<Next>, usize)> {
    let (src, dst, frag) = (be32(b, 12)?, be32(b, 16)?, be16(b, 6)?);
    let (len, ttl, proto) = (be16(b, 2)?, b.get(8)?, *b.get(9)?);
    let header = usize::from(b.first()? & 15) * 4;
    let (src, dst) = (Ipv4Addr::from(src), Ipv4Addr::from(dst));
    let mut text = format!("Ip4 {src} > {dst}, length {len}, ttl {ttl}, proto {proto}");
    if frag & 0x3fff != 0 {
        let _ = write!(text, ", fragment at {}", u32::from(frag & 0x1fff) * 8);
    }
    let first = frag & 0x1fff == 0;
    Some((text, first.then_some(Next::Proto(proto)), header.max(20)))
}

fn ip6(b: &[u8]) -> Option<(String, Option<Next>, usize)> {
    let at =
        |from: usize| Some(Ipv6Addr::from(<[u8; 16]>::try_from(b.get(from..from + 16)?).ok()?));
    let (len, next, hops) = (be16(b, 4)?, *b.get(6)?, b.get(7)?);
    let text = format!("Ip6 {} > {}, length {len}, hops {hops}, next {next}", at(8)?, at(24)?);
    Some((text, Some(Next::Proto(next)), 40))
}

fn udp(b: &[u8]) -> Option<(String, Option<Next>, usize)> {
    let (from, to, len) = (be16(b, 0)?, be16(b, 2)?, be16(b, 4)?);
    Some((format!("Udp {from} > {to}, length {len}"), None, 8))
}

fn tcp(b: &[u8]) -> Option<(String, Option<Next>, usize)> {
    const FLAGS: [&str; 8] = ["fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr"];
    let (from, to, seq, ack) = (be16(b, 0)?, be16(b, 2)?, be32(b, 4)?, be32(b, 8)?);
    let (header, flags, window) = (usize::from(b.get(12)? >> 4) * 4, *b.get(13)?, be16(b, 14)?);
    let set = FLAGS.iter().enumerate().filter(|(n, _)| flags >> n & 1 == 1);
    let set: Vec<&str> = set.map(|(_, name)| *name).collect();
    let set = if set.is_empty() { "no flags".to_owned() } else { set.join("+") };
    let text = format!("Tcp {from} > {to}, {set}, seq {seq}, ack {ack}, window {window}");
    Some((text, None, header.max(20)))
}

fn icmp(b: &[u8]) -> Option<(String, Option<Next>, usize)> {
    let (ty, code) = (b.first()?, b.get(1)?);
    Some((format!("Icmp type {ty}, code {code}"), None, 8.min(b.len())))
}

/// Bytes, sixteen a line, with their offset and as characters.
pub(super) fn dump(bytes: &[u8]) -> String {
    let mut out = String::new();
    for (n, line) in bytes[..bytes.len().min(DUMP_MAX)].chunks(16).enumerate() {
        let pairs: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        let plain = |b: &u8| if (0x20..0x7f).contains(b) { char::from(*b) } else { '.' };
        let chars: String = line.iter().map(plain).collect();
        let _ = writeln!(out, "  {:04x}  {:<47}  {chars}", n * 16, pairs.join(" "));
    }
    if bytes.len() > DUMP_MAX {
        let _ = writeln!(out, "  and {} bytes more", bytes.len() - DUMP_MAX);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_taken_apart_as_far_as_they_go() {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
        frame.extend([0x45, 0, 0, 31, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 7, 0, 9, 0, 11, 0, 0, 1, 2, 3]);
        let lines = headers(&frame, None);
        let wanted = [
            "Eth 02:00:00:00:00:02 > 02:00:00:00:00:01, type 0x0800",
            "Ip4 10.0.0.1 > 10.0.0.2, length 31, ttl 64, proto 17",
            "Udp 7 > 9, length 11",
            "3 bytes of payload",
        ];
        assert_eq!(lines, wanted);
        for len in 0..frame.len() {
            headers(&frame[..len], None);
            headers(&frame[..len], Some(0x86dd));
        }
        assert_eq!(headers(&frame[..20], None)[1], "6 bytes of payload");
    }
}
