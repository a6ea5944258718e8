//! Capture files: pcap and pcapng in, pcap out.
//!
//! Times are nanoseconds whatever the file's resolution; frames are Ethernet whatever the file's
//! link type, where that is possible: an IP packet or a cooked frame gets an Ethernet header, and
//! the addresses it lacks when it is known on which nic it arrives.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionOption;
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError, TsResolution};

use super::packet::{Captures, Defaults};

/// A captured frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Nanoseconds, in a file's reader since 1970, in [`CaptureFiles`] since the first frame.
    pub at: u64,
    /// Ethernet header and what follows.
    pub bytes: Vec<u8>,
    /// The capture has no Ethernet addresses: the first twelve bytes are zero.
    pub bare: bool,
}

impl Frame {
    /// As it arrives at a nic.
    #[must_use]
    pub fn arriving(&self, d: &Defaults) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        if self.bare {
            bytes[..6].copy_from_slice(&d.nic);
            bytes[6..12].copy_from_slice(&d.peer);
        }
        bytes
    }
}

/// Frames of one file.
type Frames = Rc<Vec<Frame>>;

/// Capture files beside a scenario, each read once.
#[derive(Debug)]
pub struct CaptureFiles {
    dir: PathBuf,
    read: RefCell<BTreeMap<String, Frames>>,
}

impl CaptureFiles {
    /// Files relative to a folder.
    #[must_use]
    pub fn new(dir: &Path) -> CaptureFiles {
        CaptureFiles { dir: dir.to_path_buf(), read: RefCell::default() }
    }

    /// All frames of a file.
    ///
    /// # Errors
    /// It cannot be read or is no capture.
    pub fn frames(&self, file: &str) -> Result<Frames, String> {
        if let Some(frames) = self.read.borrow().get(file) {
            return Ok(frames.clone());
        }
        let bytes = fs::read(self.dir.join(file)).map_err(|e| format!("{file}: {e}"))?;
        let mut frames = read(&bytes).map_err(|e| format!("{file}: {e}"))?;
        let first = frames.first().map_or(0, |f| f.at);
        frames.iter_mut().for_each(|f| f.at = f.at.saturating_sub(first));
        let frames = Frames::new(frames);
        self.read.borrow_mut().insert(file.to_string(), frames.clone());
        Ok(frames)
    }
}

impl Captures for CaptureFiles {
    fn frame(&self, file: &str, number: u32, d: &Defaults) -> Result<Vec<u8>, String> {
        let frames = self.frames(file)?;
        let found = number.checked_sub(1).and_then(|n| frames.get(n as usize));
        found.map(|f| f.arriving(d)).ok_or_else(|| {
            format!("{file} has {} frames, numbered from 1; there is no {number}", frames.len())
        })
    }
}

/// Frames of a pcap or pcapng file.
///
/// # Errors
/// What is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Vec<Frame>, String> {
    // The section header of pcapng reads the same in both byte orders.
    if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        return read_ng(bytes);
    }
    if bytes.is_empty() {
        return Err("the file is empty".to_owned());
    }
    let no = |e| format!("not a capture (pcap or pcapng): {}", why(e));
    let mut reader = PcapReader::new(bytes).map_err(no)?;
    let link = reader.header().datalink;
    let mut out = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(|e| format!("frame {}: {}", out.len() + 1, why(e)))?;
        let at = u64::try_from(packet.timestamp.as_nanos()).unwrap_or(u64::MAX);
        out.push(ethernet(link, at, &packet.data, out.len() + 1)?);
    }
    Ok(out)
}

fn why(e: PcapError) -> String {
    match e {
        PcapError::IoError(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the file ends in the middle of it".to_owned()
        }
        PcapError::IncompleteBuffer => "the file ends in the middle of it".to_owned(),
        other => other.to_string(),
    }
}

/// An interface of a pcapng section: how its packets and their times are to be read.
#[derive(Clone, Copy)]
struct Interface {
    link: DataLink,
    /// `if_tsresol`: a negative power of ten, or of two with the upper bit set.
    resolution: u8,
    /// `if_tsoffset`, seconds.
    offset: u64,
}

impl Interface {
    /// Nanoseconds of a count of units since 1970.
    fn ns(self, units: u64) -> u64 {
        let power = u32::from(self.resolution & 0x7f);
        let base: u128 = if self.resolution & 0x80 == 0 { 10 } else { 2 };
        // Finer than 2^-64 or 10^-38 there is nothing to tell apart.
        let per_second = base.checked_pow(power).unwrap_or(u128::MAX);
        let ns = (u128::from(units)).saturating_mul(1_000_000_000) / per_second;
        let ns = ns.saturating_add(u128::from(self.offset) * 1_000_000_000);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

fn read_ng(bytes: &[u8]) -> Result<Vec<Frame>, String> {
    let mut reader = PcapNgReader::new(bytes).map_err(|e| format!("not a capture: {}", why(e)))?;
    let (mut out, mut interfaces) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        let number = out.len() + 1;
        let block = block.map_err(|e| format!("after frame {}: {}", number - 1, why(e)))?;
        // The crate takes every count of units for nanoseconds.
        let (id, units, data) = match &block {
            Block::SectionHeader(_) => {
                interfaces.clear();
                continue;
            }
            Block::InterfaceDescription(i) => {
                interfaces.push(interface(i));
                continue;
            }
            Block::EnhancedPacket(p) => {
                (p.interface_id as usize, Some(p.timestamp.as_nanos() as u64), &p.data)
            }
            Block::Packet(p) => (usize::from(p.interface_id), Some(p.timestamp), &p.data),
            // It has no time: that of the frame before.
            Block::SimplePacket(p) => (0, None, &p.data),
            _ => continue,
        };
        let Some(interface) = interfaces.get(id).copied() else {
            return Err(format!("frame {number}: interface {id} is not described"));
        };
        let before = out.last().map_or(0, |f: &Frame| f.at);
        let at = units.map_or(before, |u| interface.ns(u));
        out.push(ethernet(interface.link, at, data, number)?);
    }
    Ok(out)
}

fn interface(
    i: &pcap_file::pcapng::blocks::interface_description::InterfaceDescriptionBlock<'_>,
) -> Interface {
    let mut out = Interface { link: i.linktype, resolution: 6, offset: 0 };
    for option in &i.options {
        match option {
            InterfaceDescriptionOption::IfTsResol(r) => out.resolution = *r,
            InterfaceDescriptionOption::IfTsOffset(o) => out.offset = *o,
            _ => {}
        }
    }
    out
}

/// `ETH_P_IP`, `ETH_P_IPV6`.
const TYPES: [u16; 2] = [0x0800, 0x86dd];

/// A captured packet as an Ethernet frame.
fn ethernet(link: DataLink, at: u64, data: &[u8], number: usize) -> Result<Frame, String> {
    let short = || format!("frame {number}: shorter than the header of its link type");
    let of = |ty: u16, from: usize| -> Result<Frame, String> {
        let rest = data.get(from..).ok_or_else(short)?;
        let mut bytes = vec![0; 12];
        bytes.extend(ty.to_be_bytes());
        bytes.extend(rest);
        Ok(Frame { at, bytes, bare: true })
    };
    let be16 = |n: usize| match data.get(n..n + 2) {
        Some(b) => Ok(u16::from_be_bytes([b[0], b[1]])),
        None => Err(short()),
    };
    let version = |n: usize| data.get(n).map_or(0, |b| usize::from(b >> 4 == 6));
    match link {
        DataLink::ETHERNET => Ok(Frame { at, bytes: data.to_vec(), bare: false }),
        DataLink::RAW | DataLink::IPV4 | DataLink::IPV6 => of(TYPES[version(0)], 0),
        // Numbers of DLT_RAW on some systems.
        DataLink::Unknown(12 | 14) => of(TYPES[version(0)], 0),
        // The family is in the byte order of the machine that captured: the packet decides.
        DataLink::NULL | DataLink::LOOP => of(TYPES[version(4)], 4),
        DataLink::LINUX_SLL => of(be16(14)?, 16),
        DataLink::LINUX_SLL2 => of(be16(0)?, 20),
        other => Err(format!(
            "frame {number}: link type {}; known are Ethernet, raw IP, loopback and Linux cooked",
            u32::from(other)
        )),
    }
}

/// Begins a capture whose times are in nanoseconds.
pub(super) fn writer<W: Write>(to: W) -> Result<PcapWriter<W>, PcapError> {
    let header = PcapHeader { ts_resolution: TsResolution::NanoSecond, ..PcapHeader::default() };
    PcapWriter::with_header(to, header)
}

/// Adds a frame to a capture.
pub(super) fn put<W: Write>(
    to: &mut PcapWriter<W>,
    at: u64,
    bytes: &[u8],
) -> Result<(), PcapError> {
    let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let packet = PcapPacket::new(std::time::Duration::from_nanos(at), len, bytes);
    to.write_packet(&packet).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of a little-endian pcapng file.
    fn block(kind: u32, body: &[u8]) -> Vec<u8> {
        let len = (body.len() as u32).next_multiple_of(4) + 12;
        let mut out = [kind.to_le_bytes(), len.to_le_bytes()].concat();
        out.extend(body);
        out.resize(len as usize - 4, 0);
        out.extend(len.to_le_bytes());
        out
    }

    /// A pcapng file of one interface and two packets, a second apart.
    fn ng(link: u16, resolution: Option<u8>, units: u64, data: &[u8]) -> Vec<u8> {
        let mut out = block(
            0x0a0d_0d0a,
            &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255],
        );
        let mut idb = [link.to_le_bytes(), [0, 0]].concat();
        idb.extend([0; 4]);
        if let Some(r) = resolution {
            idb.extend([9, 0, 1, 0, r, 0, 0, 0, 0, 0, 0, 0]);
        }
        out.extend(block(1, &idb));
        for n in 1..=2u64 {
            let t = n * units;
            let len = (data.len() as u32).to_le_bytes();
            let mut epb = [0u32.to_le_bytes(), ((t >> 32) as u32).to_le_bytes()].concat();
            epb.extend([(t as u32).to_le_bytes(), len, len].concat());
            epb.extend(data);
            out.extend(block(6, &epb));
        }
        out
    }

    #[test]
    fn a_second_is_a_second_in_every_resolution() {
        let cases = [(None, 1_000_000), (Some(6), 1_000_000), (Some(9), 1_000_000_000)];
        let cases = cases.into_iter().chain([(Some(3), 1000), (Some(0x8a), 1024), (Some(0), 1)]);
        for (resolution, units) in cases {
            let frames = read(&ng(1, resolution, units, &[0; 60])).unwrap();
            assert_eq!(frames[1].at - frames[0].at, 1_000_000_000, "{resolution:?}");
        }
    }

    #[test]
    fn packets_without_ethernet_get_a_header() {
        let (mut ip4, mut ip6) = (vec![0x45; 28], vec![0x60; 48]);
        (ip4[0], ip6[0]) = (0x45, 0x60);
        let sll = [vec![0; 14], vec![0x08, 0x00], ip4.clone()].concat();
        let sll2 = [vec![0x86, 0xdd], vec![0; 18], ip6.clone()].concat();
        let null = [vec![2, 0, 0, 0], ip4.clone()].concat();
        let cases: [(u16, &[u8], u16, &[u8]); 5] = [
            (101, &ip4, 0x0800, &ip4),
            (101, &ip6, 0x86dd, &ip6),
            (113, &sll, 0x0800, &ip4),
            (276, &sll2, 0x86dd, &ip6),
            (0, &null, 0x0800, &ip4),
        ];
        let d = Defaults { nic: [2; 6], peer: [4; 6] };
        for (link, data, ty, packet) in cases {
            let frames = read(&ng(link, None, 1, data)).unwrap();
            let bytes = frames[0].arriving(&d);
            assert_eq!(bytes[..12], [[2; 6], [4; 6]].concat(), "{link}");
            assert_eq!(bytes[12..14], ty.to_be_bytes(), "{link}");
            assert_eq!(&bytes[14..], packet, "{link}");
        }
        let e = read(&ng(105, None, 1, &ip4)).unwrap_err();
        assert!(e.contains("link type 105"), "{e}");
        assert!(read(&ng(113, None, 1, &[0; 3])).unwrap_err().contains("shorter"));
    }

    #[test]
    fn what_is_written_reads_back_to_the_nanosecond() {
        let frames = vec![(5, vec![1; 60]), (1_000_000_007, vec![2; 61])];
        let mut file = writer(Vec::new()).unwrap();
        frames.iter().for_each(|(at, bytes)| put(&mut file, *at, bytes).unwrap());
        let back = read(&file.into_writer()).unwrap();
        let back: Vec<_> = back.into_iter().map(|f| (f.at, f.bytes)).collect();
        assert_eq!(back, frames);
    }
}
