//! Packets as they come: framed and checked here, so that a damaged one is dropped instead of
//! ending the session, and what would be endless is refused.

/// Longest packet, either way.
pub(super) const PACKET_BYTES_MAX: usize = 0x8000;

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Ctrl-C.
    Interrupt,
    /// A packet with the right check sum: `$body#xx`.
    Packet(Vec<u8>),
}

/// Puts packets together out of bytes.
#[derive(Debug, Default)]
pub(super) struct Framer {
    /// From `$` on; empty between packets.
    packet: Vec<u8>,
    /// The packet is longer than any may be: what remains of it is skipped.
    skips: bool,
}

/// What a byte completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fed {
    /// Nothing.
    More,
    /// This.
    Frame(Frame),
    /// A packet that is damaged or too long.
    Damaged,
}

impl Framer {
    /// Takes the next byte.
    pub(super) fn feed(&mut self, byte: u8) -> Fed {
        if self.packet.is_empty() {
            match byte {
                b'$' => self.packet.push(byte),
                0x03 => return Fed::Frame(Frame::Interrupt),
                // Acknowledgements: the stream is reliable.
                _ => {}
            }
            return Fed::More;
        }
        if byte == b'$' {
            // `$` is escaped in bodies: the last packet was not finished.
            self.packet.clear();
            self.skips = false;
        }
        if self.packet.len() < PACKET_BYTES_MAX {
            self.packet.push(byte);
        } else {
            self.skips = true;
            // The end must still be seen.
            self.packet.rotate_left(1);
            *self.packet.last_mut().expect("it is full") = byte;
        }
        let n = self.packet.len();
        if n < 4 || self.packet[n - 3] != b'#' {
            return Fed::More;
        }
        let packet = std::mem::take(&mut self.packet);
        if std::mem::take(&mut self.skips) || !intact(&packet) {
            return Fed::Damaged;
        }
        Fed::Frame(Frame::Packet(packet))
    }
}

/// The check sum is right.
fn intact(packet: &[u8]) -> bool {
    let (body, sum) = (body(packet), &packet[packet.len() - 2..]);
    let sum = std::str::from_utf8(sum).ok().and_then(|s| u8::from_str_radix(s, 16).ok());
    sum == Some(checksum(body))
}

/// The check sum of a body.
pub(crate) fn checksum(body: &[u8]) -> u8 {
    body.iter().fold(0, |sum, b| sum.wrapping_add(*b))
}

/// What is between `$` and `#`.
pub(super) fn body(packet: &[u8]) -> &[u8] {
    &packet[1..packet.len() - 3]
}

/// The answer to a packet that gdbstub would take without limit: a read beyond what an answer
/// holds or beyond the end of the address space.
pub(super) fn refused(packet: &[u8]) -> Option<&'static str> {
    let read = body(packet).strip_prefix(b"m")?;
    let text = std::str::from_utf8(read).ok()?;
    let (addr, len) = text.split_once(',')?;
    let number = |s: &str| u64::from_str_radix(s, 16).ok();
    let fits = number(addr).zip(number(len)).is_some_and(|(addr, len)| {
        len <= PACKET_BYTES_MAX as u64 / 2 && addr.checked_add(len).is_some()
    });
    (!fits).then_some("E16")
}
