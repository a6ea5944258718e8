//! Capture files: pcap and pcapng in, pcap out.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::{Block, PcapNgReader};

use super::packet::Captures;

/// Frames of one file: time since the first in nanoseconds, and bytes.
type Frames = std::rc::Rc<Vec<(u64, Vec<u8>)>>;

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
        let first = frames.first().map_or(0, |f| f.0);
        frames.iter_mut().for_each(|f| f.0 = f.0.saturating_sub(first));
        let frames = Frames::new(frames);
        self.read.borrow_mut().insert(file.to_string(), frames.clone());
        Ok(frames)
    }
}

impl Captures for CaptureFiles {
    fn frame(&self, file: &str, number: u32) -> Result<Vec<u8>, String> {
        let frames = self.frames(file)?;
        let found = number.checked_sub(1).and_then(|n| frames.get(n as usize));
        found.map(|f| f.1.clone()).ok_or_else(|| {
            format!("{file} has {} frames, numbered from 1; there is no {number}", frames.len())
        })
    }
}

/// Frames of a pcap or pcapng file.
///
/// # Errors
/// What is wrong with it.
pub fn read(bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, String> {
    // The section header of pcapng reads the same in both byte orders.
    if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        return read_ng(bytes);
    }
    let mut reader = PcapReader::new(bytes).map_err(|e| format!("not a capture: {e}"))?;
    let mut out = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet.map_err(|e| format!("frame {}: {e}", out.len() + 1))?;
        let at = u64::try_from(packet.timestamp.as_nanos()).unwrap_or(u64::MAX);
        out.push((at, packet.data.into_owned()));
    }
    Ok(out)
}

fn read_ng(bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, String> {
    let mut reader = PcapNgReader::new(bytes).map_err(|e| format!("not a capture: {e}"))?;
    let mut out = Vec::new();
    while let Some(block) = reader.next_block() {
        let block = block.map_err(|e| format!("after frame {}: {e}", out.len()))?;
        match block {
            Block::EnhancedPacket(p) => {
                let at = u64::try_from(p.timestamp.as_nanos()).unwrap_or(u64::MAX);
                out.push((at, p.data.into_owned()));
            }
            Block::SimplePacket(p) => out.push((0, p.data.into_owned())),
            Block::Packet(p) => out.push((p.timestamp, p.data.into_owned())),
            _ => {}
        }
    }
    Ok(out)
}

/// Writes frames with their times as a pcap file.
///
/// # Errors
/// The file cannot be written.
pub fn write(path: &Path, frames: &[(u64, Vec<u8>)]) -> Result<(), String> {
    let shown = path.display().to_string();
    let file = fs::File::create(path).map_err(|e| format!("{shown}: {e}"))?;
    let mut writer = PcapWriter::new(file).map_err(|e| format!("{shown}: {e}"))?;
    for (at, bytes) in frames {
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let packet = PcapPacket::new(std::time::Duration::from_nanos(*at), len, bytes);
        writer.write_packet(&packet).map_err(|e| format!("{shown}: {e}"))?;
    }
    Ok(())
}
