//! Packets: layers to bytes, and bytes against layers.
//!
//! What a scenario leaves out of a sent packet is computed (next protocol, lengths, checksums).

use std::net::{Ipv4Addr, Ipv6Addr};

use kernel_model::net::check::csum;
use scenarios::leaf::{Is, TcpFlags};
use scenarios::schema::Layer;
use scenarios::schema::packet::Field;

/// Addresses that stand for what a packet leaves out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Defaults {
    /// The nic's own address: default destination.
    pub nic: [u8; 6],
    /// Address of the other end: default source.
    pub peer: [u8; 6],
}

/// Bytes of a captured frame, by file and number from 1.
pub trait Captures {
    /// The frame.
    ///
    /// # Errors
    /// Why there is none.
    fn frame(&self, file: &str, number: u32, d: &Defaults) -> Result<Vec<u8>, String>;
}

fn val<T: Copy>(f: &Field<T>) -> Option<T> {
    match f.as_ref().map(|s| &s.v) {
        Some(Is::Value(v)) => Some(*v),
        _ => None,
    }
}

fn bad<T>(f: &Field<T>) -> bool {
    matches!(f.as_ref().map(|s| &s.v), Some(Is::Bad))
}

/// The type by which an Ethernet-like header names the layer after it.
pub(super) fn ethertype_of(layer: Option<&Layer>) -> Option<u16> {
    Some(match layer? {
        Layer::Arp { .. } => 0x0806,
        Layer::Ip4 { .. } => 0x0800,
        Layer::Ip6 { .. } => 0x86dd,
        Layer::Vlan { tpid, .. } => val(tpid).unwrap_or(0x8100),
        Layer::Mpls { .. } => 0x8847,
        _ => return None,
    })
}

/// The same where a whole Ethernet frame may follow, as in GRE.
pub(super) fn bridged_type(layer: Option<&Layer>) -> Option<u16> {
    match layer {
        Some(Layer::Eth { .. }) => Some(0x6558),
        other => ethertype_of(other),
    }
}

/// The protocol number by which an IP header names the layer after it.
pub(super) fn proto_of(layer: Option<&Layer>, v6: bool) -> Option<u8> {
    Some(match layer? {
        Layer::Ip4 { .. } => 4,
        Layer::Ip6 { .. } => 41,
        Layer::Ip6Ext { kind, .. } => kind.v,
        Layer::Udp { .. } => 17,
        Layer::Tcp { .. } => 6,
        Layer::Icmp { .. } if v6 => 58,
        Layer::Icmp { .. } => 1,
        Layer::Gre { .. } => 47,
        Layer::Sctp { .. } => 132,
        Layer::Mpls { .. } => 137,
        Layer::Eth { .. } => 143,
        _ => return None,
    })
}

/// Where nothing known follows: an Ethernet type for experiments, no next header.
const NO_TYPE: u16 = 0x88b5;
const NO_PROTO: u8 = 59;

/// Resolves `Like`: its layers, each overridden by a following layer of the same kind.
///
/// # Errors
/// An unknown name or a circle.
pub fn resolve(
    layers: &[Layer],
    find: &dyn Fn(&str) -> Option<Vec<Layer>>,
    depth: u32,
) -> Result<Vec<Layer>, String> {
    let Some(Layer::Like(name)) = layers.first() else { return Ok(layers.to_vec()) };
    if depth > 8 {
        return Err(format!("packet \"{}\" is like itself", name.v));
    }
    let base = find(&name.v).ok_or_else(|| format!("unknown packet \"{}\"", name.v))?;
    let mut out = resolve(&base, find, depth + 1)?;
    for layer in &layers[1..] {
        match out.iter_mut().find(|l| l.kind() == layer.kind()) {
            Some(old) => merge(old, layer),
            None => out.push(layer.clone()),
        }
    }
    Ok(out)
}

/// Fields that `new` names override those of `old`; a payload is replaced.
fn merge(old: &mut Layer, new: &Layer) {
    macro_rules! over {
        ($($kind:ident { $($f:ident),* })*) => {
            match new {
                $(Layer::$kind { .. } => {
                    $(if let (Layer::$kind { $f: o, .. }, Layer::$kind { $f: n, .. }) =
                        (&mut *old, new)
                        && n.is_some()
                    {
                        o.clone_from(n);
                    })*
                })*
                _ => *old = new.clone(),
            }
        };
    }
    over! {
        Eth { src, dst, ethertype }
        Vlan { id, pcp, dei, ethertype, tpid }
        Arp { op, sha, spa, tha, tpa }
        Ip4 { src, dst, ttl, tos, id, df, mf, frag, proto, len, ihl, csum, options }
        Ip6 { src, dst, hop, class, flow, next, len }
        Udp { sport, dport, len, csum }
        Tcp { sport, dport, seq, ack, flags, win, doff, csum, options }
        Icmp { kind, code, id, seq, csum }
        Vxlan { vni }
        Gre { proto, key }
        Geneve { vni, proto, options }
        Mpls { label, tc, bottom, ttl }
        Sctp { sport, dport, tag, csum }
    }
}

/// Addresses for the checksum of the layer above.
#[derive(Clone, Copy)]
enum Pseudo {
    None,
    V4(Ipv4Addr, Ipv4Addr),
    V6(Ipv6Addr, Ipv6Addr),
}

/// The bytes of a packet.
///
/// # Errors
/// A capture that is not there, a text of TCP options that is not understood.
pub fn build(layers: &[Layer], d: &Defaults, captures: &dyn Captures) -> Result<Vec<u8>, String> {
    let builder = Builder { d, captures };
    let mut bytes = builder.from(layers, Pseudo::None)?;
    for layer in layers {
        match layer {
            Layer::Pad(n) => bytes.resize(bytes.len() + n.v.n as usize, 0),
            Layer::Cut(n) => bytes.truncate(n.v.n as usize),
            _ => {}
        }
    }
    Ok(bytes)
}

struct Builder<'a> {
    d: &'a Defaults,
    captures: &'a dyn Captures,
}

fn put16(b: &mut [u8], at: usize, v: u16) {
    b[at..at + 2].copy_from_slice(&v.to_be_bytes());
}

/// The right value, or with one bit flipped where the scenario says `Bad`.
fn given(f: &Field<u16>, right: u16) -> u16 {
    if bad(f) { right ^ 1 } else { val(f).unwrap_or(right) }
}

impl Builder<'_> {
    fn from(&self, layers: &[Layer], pseudo: Pseudo) -> Result<Vec<u8>, String> {
        let Some((layer, rest)) = layers.split_first() else { return Ok(Vec::new()) };
        Ok(match layer {
            Layer::Eth { .. } | Layer::Vlan { .. } | Layer::Arp { .. } | Layer::Mpls { .. } => {
                self.link(layer, rest, pseudo)?
            }
            Layer::Ip4 { .. } => self.ip4(layer, rest)?,
            Layer::Ip6 { .. } | Layer::Ip6Ext { .. } => self.ip6(layer, rest, pseudo)?,
            Layer::Tcp { .. } => self.tcp(layer, rest, pseudo)?,
            Layer::Udp { .. } | Layer::Icmp { .. } => self.datagram(layer, rest, pseudo)?,
            Layer::Vxlan { .. } | Layer::Gre { .. } | Layer::Geneve { .. } => {
                self.tunnel(layer, rest)?
            }
            Layer::Sctp { .. } => self.sctp(layer, rest)?,
            Layer::Text(t) => [t.v.as_bytes(), &self.from(rest, pseudo)?].concat(),
            Layer::Hex(h) => [&h.0[..], &self.from(rest, pseudo)?].concat(),
            Layer::Zeros(n) => [vec![0; n.v.n as usize], self.from(rest, pseudo)?].concat(),
            Layer::Pcap { file, frame, from } => {
                let bytes = self.captures.frame(&file.v, frame.v, self.d)?;
                let bytes = bytes.get(*from as usize..).unwrap_or_default().to_vec();
                [bytes, self.from(rest, pseudo)?].concat()
            }
            Layer::Pad(_) | Layer::Cut(_) | Layer::Rest | Layer::Like(_) => {
                self.from(rest, pseudo)?
            }
        })
    }

    /// Layers below the internet protocols.
    fn link(&self, layer: &Layer, rest: &[Layer], pseudo: Pseudo) -> Result<Vec<u8>, String> {
        let next = rest.first();
        Ok(match layer {
            Layer::Eth { src, dst, ethertype } => {
                let mut b = val(dst).map_or(self.d.nic, |m| m.0).to_vec();
                b.extend(val(src).map_or(self.d.peer, |m| m.0));
                let right = ethertype_of(next).unwrap_or(NO_TYPE);
                b.extend(val(ethertype).unwrap_or(right).to_be_bytes());
                b.extend(self.from(rest, pseudo)?);
                b
            }
            Layer::Vlan { id, pcp, dei, ethertype, tpid: _ } => {
                let tci = val(id).unwrap_or(0) & 0xfff
                    | u16::from(val(pcp).unwrap_or(0)) << 13
                    | u16::from(val(dei).unwrap_or(false)) << 12;
                let mut b = tci.to_be_bytes().to_vec();
                let right = ethertype_of(next).unwrap_or(NO_TYPE);
                b.extend(val(ethertype).unwrap_or(right).to_be_bytes());
                b.extend(self.from(rest, pseudo)?);
                b
            }
            Layer::Mpls { label, tc, bottom, ttl } => {
                let last = !matches!(next, Some(Layer::Mpls { .. }));
                let word = val(label).unwrap_or(0) << 12
                    | u32::from(val(tc).unwrap_or(0) & 7) << 9
                    | u32::from(val(bottom).unwrap_or(last)) << 8
                    | u32::from(val(ttl).unwrap_or(64));
                [&word.to_be_bytes()[..], &self.from(rest, pseudo)?].concat()
            }
            Layer::Arp { op, sha, spa, tha, tpa } => {
                let mut b = vec![0, 1, 8, 0, 6, 4];
                b.extend(val(op).unwrap_or(1).to_be_bytes());
                b.extend(val(sha).map_or(self.d.peer, |m| m.0));
                b.extend(val(spa).unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
                b.extend(val(tha).map_or([0; 6], |m| m.0));
                b.extend(val(tpa).unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
                b.extend(self.from(rest, pseudo)?);
                b
            }
            _ => unreachable!("called for Eth, Vlan, Arp and Mpls alone"),
        })
    }

    /// Headers in front of an inner packet.
    fn tunnel(&self, layer: &Layer, rest: &[Layer]) -> Result<Vec<u8>, String> {
        let inner = self.from(rest, Pseudo::None)?;
        let right = bridged_type(rest.first()).unwrap_or(NO_TYPE);
        Ok(match layer {
            Layer::Vxlan { vni } => {
                let vni = (val(vni).unwrap_or(0) << 8).to_be_bytes();
                [&[8, 0, 0, 0], &vni[..], &inner].concat()
            }
            Layer::Gre { proto, key } => {
                let proto = val(proto).unwrap_or(right).to_be_bytes();
                let (flags, key) = match val(key) {
                    Some(key) => ([0x20, 0], key.to_be_bytes().to_vec()),
                    None => ([0, 0], Vec::new()),
                };
                [&flags, &proto[..], &key, &inner].concat()
            }
            Layer::Geneve { vni, proto, options } => {
                let mut options = options.as_ref().map_or(Vec::new(), |h| h.0.clone());
                options.resize(options.len().next_multiple_of(4), 0);
                let proto = val(proto).unwrap_or(right).to_be_bytes();
                let vni = (val(vni).unwrap_or(0) << 8).to_be_bytes();
                let words = (options.len() / 4) as u8 & 0x3f;
                [&[words, 0], &proto[..], &vni, &options, &inner].concat()
            }
            _ => unreachable!("called for tunnels alone"),
        })
    }

    fn sctp(&self, layer: &Layer, rest: &[Layer]) -> Result<Vec<u8>, String> {
        let Layer::Sctp { sport, dport, tag, csum } = layer else {
            unreachable!("called for Sctp alone")
        };
        let mut b = val(sport).unwrap_or(1024).to_be_bytes().to_vec();
        b.extend(val(dport).unwrap_or(0).to_be_bytes());
        b.extend(val(tag).unwrap_or(0).to_be_bytes());
        b.extend([0; 4]);
        b.extend(self.from(rest, Pseudo::None)?);
        // The sum goes over the wire from its low byte on.
        let right = crc32c(&b).swap_bytes();
        let sum = if bad(csum) { right ^ 1 } else { val(csum).unwrap_or(right) };
        b[8..12].copy_from_slice(&sum.to_be_bytes());
        Ok(b)
    }

    /// IPv6 and its extension headers.
    fn ip6(&self, layer: &Layer, rest: &[Layer], pseudo: Pseudo) -> Result<Vec<u8>, String> {
        let next = rest.first();
        Ok(match layer {
            Layer::Ip6 { src, dst, hop, class, flow, next: proto, len } => {
                let unset = Ipv6Addr::UNSPECIFIED;
                let (src, dst) = (val(src).unwrap_or(unset), val(dst).unwrap_or(unset));
                let body = self.from(rest, Pseudo::V6(src, dst))?;
                let word = 6 << 28
                    | u32::from(val(class).unwrap_or(0)) << 20
                    | val(flow).unwrap_or(0) & 0xfffff;
                let mut b = word.to_be_bytes().to_vec();
                b.extend(given(len, body.len() as u16).to_be_bytes());
                b.push(val(proto).or(proto_of(next, true)).unwrap_or(NO_PROTO));
                b.push(val(hop).unwrap_or(64));
                b.extend(src.octets());
                b.extend(dst.octets());
                b.extend(body);
                b
            }
            Layer::Ip6Ext { kind: _, next: proto, body } => {
                let mut b = vec![val(proto).or(proto_of(next, true)).unwrap_or(NO_PROTO), 0];
                b.extend(body.as_ref().map_or(&[][..], |h| &h.0));
                b.resize(b.len().next_multiple_of(8), 0);
                b[1] = (b.len() / 8 - 1) as u8;
                b.extend(self.from(rest, pseudo)?);
                b
            }
            _ => unreachable!("called for Ip6 and Ip6Ext alone"),
        })
    }

    /// UDP, and ICMP of either version.
    fn datagram(&self, layer: &Layer, rest: &[Layer], pseudo: Pseudo) -> Result<Vec<u8>, String> {
        Ok(match layer {
            Layer::Udp { sport, dport, len, csum: sum } => {
                let body = self.from(rest, Pseudo::None)?;
                let mut b = val(sport).unwrap_or(1024).to_be_bytes().to_vec();
                b.extend(val(dport).unwrap_or(0).to_be_bytes());
                b.extend(given(len, 8 + body.len() as u16).to_be_bytes());
                b.extend([0, 0]);
                b.extend(body);
                // RFC 768: a computed zero is sent as all ones.
                let right = match l4_csum(&b, 17, pseudo) {
                    0 => 0xffff,
                    sum => sum,
                };
                put16(&mut b, 6, given(sum, right));
                b
            }
            Layer::Icmp { kind, code, id, seq, csum: sum } => {
                let mut b = vec![val(kind).unwrap_or(8), val(code).unwrap_or(0), 0, 0];
                b.extend(val(id).unwrap_or(0).to_be_bytes());
                b.extend(val(seq).unwrap_or(0).to_be_bytes());
                b.extend(self.from(rest, Pseudo::None)?);
                let v6 = matches!(pseudo, Pseudo::V6(..));
                let pseudo = if v6 { pseudo } else { Pseudo::None };
                let right = l4_csum(&b, 58, pseudo);
                put16(&mut b, 2, given(sum, right));
                b
            }
            _ => unreachable!("called for Udp and Icmp alone"),
        })
    }

    fn ip4(&self, layer: &Layer, rest: &[Layer]) -> Result<Vec<u8>, String> {
        let Layer::Ip4 {
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
            csum: sum,
            options,
        } = layer
        else {
            unreachable!("called for Ip4 alone")
        };
        let unset = Ipv4Addr::UNSPECIFIED;
        let (src, dst) = (val(src).unwrap_or(unset), val(dst).unwrap_or(unset));
        let body = self.from(rest, Pseudo::V4(src, dst))?;
        let mut options = options.as_ref().map_or(Vec::new(), |h| h.0.clone());
        options.resize(options.len().next_multiple_of(4), 0);
        let header = 20 + options.len();
        let mut b = vec![0x40 | val(ihl).unwrap_or((header / 4) as u8) & 15, val(tos).unwrap_or(0)];
        b.extend(given(len, (header + body.len()) as u16).to_be_bytes());
        b.extend(val(id).unwrap_or(0).to_be_bytes());
        let flags = u16::from(val(df).unwrap_or(false)) << 14
            | u16::from(val(mf).unwrap_or(false)) << 13
            | val(frag).unwrap_or(0) & 0x1fff;
        b.extend(flags.to_be_bytes());
        b.push(val(ttl).unwrap_or(64));
        b.push(val(proto).or(proto_of(rest.first(), false)).unwrap_or(NO_PROTO));
        b.extend([0, 0]);
        b.extend(src.octets());
        b.extend(dst.octets());
        b.extend(options);
        let right = !csum(&[&b]);
        put16(&mut b, 10, given(sum, right));
        b.extend(body);
        Ok(b)
    }

    fn tcp(&self, layer: &Layer, rest: &[Layer], pseudo: Pseudo) -> Result<Vec<u8>, String> {
        let Layer::Tcp { sport, dport, seq, ack, flags, win, doff, csum: sum, options } = layer
        else {
            unreachable!("called for Tcp alone")
        };
        let options = match options {
            Some(text) => tcp_options(&text.v)?,
            None => Vec::new(),
        };
        let words = (20 + options.len()) / 4;
        let mut b = val(sport).unwrap_or(1024).to_be_bytes().to_vec();
        b.extend(val(dport).unwrap_or(0).to_be_bytes());
        b.extend(val(seq).unwrap_or(0).to_be_bytes());
        b.extend(val(ack).unwrap_or(0).to_be_bytes());
        b.push(val(doff).unwrap_or(words as u8) << 4);
        b.push(val(flags).unwrap_or(TcpFlags(2)).0);
        b.extend(val(win).unwrap_or(65535).to_be_bytes());
        b.extend([0, 0, 0, 0]);
        b.extend(options);
        b.extend(self.from(rest, Pseudo::None)?);
        let right = l4_csum(&b, 6, pseudo);
        put16(&mut b, 16, given(sum, right));
        Ok(b)
    }
}

/// Checksum of a transport packet whose own field is 0.
fn l4_csum(b: &[u8], proto: u8, pseudo: Pseudo) -> u16 {
    let len = (b.len() as u32).to_be_bytes();
    !match pseudo {
        Pseudo::None => csum(&[b]),
        Pseudo::V4(s, d) => csum(&[&s.octets(), &d.octets(), &[0, proto], &len[2..], b]),
        Pseudo::V6(s, d) => csum(&[&s.octets(), &d.octets(), &len, &[0, 0, 0, proto], b]),
    }
}

/// CRC-32C (Castagnoli), bit by bit: packets are short.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| crc >> 1 ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
    !bytes.iter().fold(!0u32, |crc, b| (0..8).fold(crc ^ u32::from(*b), step))
}

/// `"mss 1460, sackok, ts 1 0, nop"` as bytes, padded to four.
pub(super) fn tcp_options(text: &str) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let words: Vec<&str> = part.split_whitespace().collect();
        let number = |n: usize| {
            let word = words.get(n).and_then(|w| w.parse::<u32>().ok());
            word.ok_or_else(|| format!("TCP option \"{part}\" needs a number"))
        };
        match words[0] {
            "nop" => out.push(1),
            "eol" => out.push(0),
            "mss" => {
                out.extend([2, 4]);
                out.extend((number(1)? as u16).to_be_bytes());
            }
            "wscale" => out.extend([3, 3, number(1)? as u8]),
            "sackok" => out.extend([4, 2]),
            "ts" => {
                out.extend([8, 10]);
                out.extend(number(1)?.to_be_bytes());
                out.extend(number(2)?.to_be_bytes());
            }
            other => return Err(format!("unknown TCP option \"{other}\"")),
        }
    }
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::crc32c;

    #[test]
    fn the_check_value_of_crc32c() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
