//! Segments on the wire (RFC 9293; options as `tcp_options_write` puts them).

use std::net::SocketAddr;

use super::super::ip::{ip_frame, ip_parse};

/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// Bytes of the header without options.
pub(super) const HEADER: usize = 20;

/// `TCPHDR_*`.
pub(super) mod flag {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const PSH: u8 = 8;
    pub(crate) const ACK: u8 = 16;
    pub(crate) const ECE: u8 = 64;
    pub(crate) const CWR: u8 = 128;
}

/// Options of a segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    pub(super) mss: Option<u16>,
    pub(super) sack: bool,
    /// Own time, and the last one of the other end.
    pub(super) ts: Option<(u32, u32)>,
    pub(super) wscale: Option<u8>,
    /// Those of programs, as they are in the header that is sent.
    pub(super) more: Vec<u8>,
    /// Whether one is there that the kernel does not know (`saw_unknown`).
    pub(super) unknown: bool,
}

impl Options {
    /// In the order of `tcp_options_write`, filled up to whole words.
    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut b = Vec::new();
        if let Some(mss) = self.mss {
            b.extend([2, 4]);
            b.extend(mss.to_be_bytes());
        }
        if let Some((own, echo)) = self.ts {
            b.extend(if self.sack { [4, 2, 8, 10] } else { [1, 1, 8, 10] });
            b.extend([own.to_be_bytes(), echo.to_be_bytes()].concat());
        } else if self.sack {
            b.extend([1, 1, 4, 2]);
        }
        if let Some(scale) = self.wscale {
            b.extend([1, 3, 3, scale]);
        }
        b.extend(&self.more);
        b.resize(b.len().next_multiple_of(4), 0);
        b
    }

    /// `tcp_parse_options`.
    fn parse(b: &[u8]) -> Options {
        let mut o = Options::default();
        let mut at = 0;
        while let Some((len, body)) = option_at(b, at) {
            match (b[at], body) {
                (2, [a, b]) => o.mss = Some(u16::from_be_bytes([*a, *b])).filter(|mss| *mss != 0),
                (3, [scale]) => o.wscale = Some((*scale).min(14)),
                (4, []) => o.sack = true,
                (8, [a, b, c, d, e, f, g, h]) => {
                    let word = |w: [u8; 4]| u32::from_be_bytes(w);
                    o.ts = Some((word([*a, *b, *c, *d]), word([*e, *f, *g, *h])));
                }
                (kind, body) => o.unknown |= unknown(kind, body),
            }
            at += len;
        }
        o
    }
}

/// Whether `tcp_parse_options` has no case for an option: those it has are MSS, window scale, SACK,
/// time stamps, MD5, AO and fast open, which may have an experimental number.
fn unknown(kind: u8, body: &[u8]) -> bool {
    match kind {
        1..=5 | 8 | 19 | 29 | 34 => false,
        254 => !body.starts_with(&[0xf9, 0x89]),
        _ => true,
    }
}

/// The option at a place: its length and what follows kind and length; `None` at the end or where
/// what is there is no option.
pub(crate) fn option_at(b: &[u8], at: usize) -> Option<(usize, &[u8])> {
    match *b.get(at)? {
        0 => None,
        1 => Some((1, &[])),
        _ => {
            let len = usize::from(*b.get(at + 1)?);
            Some((len, b.get(at + 2..at + len.max(2))?)).filter(|_| len >= 2)
        }
    }
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
    pub(super) seq: u32,
    pub(super) ack: u32,
    pub(super) flags: u8,
    /// As it stands in the header.
    pub(super) window: u16,
    pub(super) options: Options,
    pub(super) payload: Vec<u8>,
    /// Bytes of the header.
    pub(super) header: usize,
}

impl Segment {
    /// The header, with a checksum of 0.
    pub(super) fn header_bytes(&self) -> Vec<u8> {
        let options = self.options.bytes();
        let words = (HEADER + options.len()) as u8 / 4;
        let ports = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        let numbers = [self.seq.to_be_bytes(), self.ack.to_be_bytes()].concat();
        let window = self.window.to_be_bytes();
        let fixed = [words << 4, self.flags, window[0], window[1], 0, 0, 0, 0];
        [&ports[..], &numbers, &fixed, &options].concat()
    }

    /// The frame from an empty Ethernet header on.
    pub(super) fn bytes(&self, tos: u8) -> Option<Vec<u8>> {
        let l4 = [self.header_bytes(), self.payload.clone()].concat();
        ip_frame((self.from.ip(), self.to.ip()), tos, TCP, l4)
    }

    /// The segment of a frame.
    pub(super) fn parse(frame: &[u8]) -> Option<Segment> {
        let ((from, to), b) = ip_parse(frame, TCP)?;
        let word = |at: usize| Some(u16::from_be_bytes([*b.get(at)?, *b.get(at + 1)?]));
        let long = |at: usize| Some(u32::from(word(at)?) << 16 | u32::from(word(at + 2)?));
        let header = usize::from(b.get(12)? >> 4) * 4;
        Some(Segment {
            from: SocketAddr::new(from, word(0)?),
            to: SocketAddr::new(to, word(2)?),
            seq: long(4)?,
            ack: long(8)?,
            flags: *b.get(13)?,
            window: word(14)?,
            options: Options::parse(b.get(HEADER..header)?),
            payload: b.get(header..)?.to_vec(),
            header,
        })
    }

    /// Both ends, as who receives it has them.
    pub(super) fn ends(&self) -> (SocketAddr, SocketAddr) {
        (self.to, self.from)
    }

    pub(super) fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// `TCP_SKB_CB(skb)->end_seq`.
    pub(super) fn end_seq(&self) -> u32 {
        let marks = u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN));
        self.seq.wrapping_add(self.payload.len() as u32 + marks)
    }
}

/// Whether a frame is a TCP packet.
pub(super) fn is_tcp(frame: &[u8]) -> bool {
    ip_parse(frame, TCP).is_some()
}

/// `before`: of sequence numbers, which wrap.
pub(super) fn before(a: u32, b: u32) -> bool {
    a.wrapping_sub(b).cast_signed() < 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_what_it_was_on_the_wire() {
        let options = Options {
            mss: Some(1460),
            sack: true,
            ts: Some((7, 9)),
            wscale: Some(7),
            more: vec![254, 4, 1, 2],
            unknown: false,
        };
        for (from, to) in [("10.0.0.1:80", "10.0.0.2:4000"), ("[fd00::1]:80", "[fd00::2]:1")] {
            let sent = Segment {
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
                seq: 0xffff_fffe,
                ack: 5,
                flags: flag::SYN | flag::ACK,
                window: 512,
                options: Options { more: Vec::new(), ..options.clone() },
                payload: b"odd".to_vec(),
                header: 40,
            };
            let frame = sent.bytes(0).unwrap();
            assert!(super::super::super::check::check_packet(&frame).is_empty());
            assert_eq!(Segment::parse(&frame), Some(sent.clone()));
            assert_eq!(sent.end_seq(), 2);
        }
        let bytes = options.bytes();
        assert_eq!((bytes.len(), option_at(&bytes, 20)), (24, Some((4, &[1, 2][..]))));
        assert!(before(0xffff_ffff, 0) && !before(0, 0) && !before(1, 0));
        assert_eq!(option_at(&[5, 9, 0], 0), None);
    }
}
