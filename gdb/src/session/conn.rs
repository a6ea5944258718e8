//! The connection: whole packets in, Ctrl-C out of the stream while the machine runs, answers
//! collected and sent as one.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use gdbstub::conn::Connection;

use super::frame::{Fed, Frame, Framer, checksum};

/// Bytes taken from the stream at once.
const CHUNK: usize = 0x4000;
/// Bytes a client may send ahead of what is answered: more is left in the stream.
const AHEAD_MAX: usize = 0x10000;

/// Where the bytes come from and go.
pub trait Stream {
    /// Waits for bytes; 0 is the end.
    ///
    /// # Errors
    /// Of the stream.
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize>;

    /// Bytes that are there already; `None` when there are none.
    ///
    /// # Errors
    /// Of the stream.
    fn read_now(&mut self, into: &mut [u8]) -> io::Result<Option<usize>>;

    /// Sends all.
    ///
    /// # Errors
    /// Of the stream.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        Read::read(self, into)
    }

    fn read_now(&mut self, into: &mut [u8]) -> io::Result<Option<usize>> {
        self.set_nonblocking(true)?;
        let read = Read::read(self, into);
        self.set_nonblocking(false)?;
        match read {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            other => other.map(Some),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        Write::write_all(self, bytes)
    }
}

/// The stream with what was read and not yet used.
pub(super) struct Wire<'s> {
    stream: &'s mut dyn Stream,
    input: VecDeque<u8>,
    framer: Framer,
    output: Vec<u8>,
    closed: bool,
}

impl<'s> Wire<'s> {
    pub(super) fn new(stream: &'s mut dyn Stream) -> Wire<'s> {
        let (input, framer) = (VecDeque::new(), Framer::default());
        Wire { stream, input, framer, output: Vec::new(), closed: false }
    }

    /// The next packet or interrupt; `None` when the client is gone. A damaged packet is asked for
    /// again, which a client without acknowledgements ignores.
    pub(super) fn frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            while let Some(byte) = self.input.pop_front() {
                match self.framer.feed(byte) {
                    Fed::More => {}
                    Fed::Frame(frame) => return Ok(Some(frame)),
                    Fed::Damaged => self.stream.send(b"-")?,
                }
            }
            let mut chunk = [0; CHUNK];
            let n = if self.closed { 0 } else { self.stream.read(&mut chunk)? };
            if n == 0 {
                return Ok(None);
            }
            self.input.extend(&chunk[..n]);
        }
    }

    /// The client wants the machine to stop: it pressed Ctrl-C, or is gone.
    pub(super) fn interrupted(&mut self) -> bool {
        let mut chunk = [0; CHUNK];
        if self.input.len() < AHEAD_MAX && !self.closed {
            match self.stream.read_now(&mut chunk) {
                Ok(Some(n)) if n > 0 => self.input.extend(&chunk[..n]),
                Ok(None) => {}
                Ok(Some(_)) | Err(_) => self.closed = true,
            }
        }
        // While the machine runs a client sends nothing but this byte.
        while self.input.front().is_some_and(|b| *b == b'+') {
            self.input.pop_front();
        }
        if self.input.front() == Some(&0x03) {
            self.input.pop_front();
            return true;
        }
        self.closed
    }

    /// Sends a packet past gdbstub.
    pub(super) fn answer(&mut self, body: &str) -> io::Result<()> {
        let packet = format!("${body}#{:02x}", checksum(body.as_bytes()));
        self.stream.send(packet.as_bytes())
    }

    /// Shows text on the debugger's console.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        let hex: String = text.bytes().map(|b| format!("{b:02x}")).collect();
        self.answer(&format!("O{hex}"))
    }
}

impl Connection for Wire<'_> {
    type Error = io::Error;

    fn write(&mut self, byte: u8) -> io::Result<()> {
        self.output.push(byte);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let sent = self.stream.send(&self.output);
        self.output.clear();
        sent
    }
}
