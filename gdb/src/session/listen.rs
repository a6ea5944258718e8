//! The door: one debugger at a time, one after the other; who comes while it is taken is told so.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use super::frame::{Fed, Frame, Framer, checksum};

/// How long a second client has to say its first word before it is sent away without an answer.
const FIRST_WORD: Duration = Duration::from_secs(2);

/// Clients as they come, while nobody is attached.
#[derive(Debug)]
pub struct Attached {
    clients: Receiver<(TcpStream, SocketAddr)>,
    taken: Arc<AtomicBool>,
}

/// Takes clients in from now on.
#[must_use]
pub fn listen(listener: TcpListener) -> Attached {
    let taken = Arc::new(AtomicBool::new(false));
    let (send, clients) = channel();
    let held = taken.clone();
    std::thread::spawn(move || {
        let mut who: Option<SocketAddr> = None;
        for client in listener.incoming() {
            let Ok(stream) = client else { continue };
            let Ok(from) = stream.peer_addr() else { continue };
            if held.swap(true, Ordering::SeqCst) {
                std::thread::spawn(move || refuse(stream, who));
            } else {
                who = Some(from);
                let _ = stream.set_nodelay(true);
                if send.send((stream, from)).is_err() {
                    return;
                }
            }
        }
    });
    Attached { clients, taken }
}

impl Attached {
    /// Waits for the next client; `None` after `limit`.
    ///
    /// # Errors
    /// When the listener is gone.
    pub fn next(&self, limit: Option<Duration>) -> io::Result<Option<TcpStream>> {
        let gone = || io::Error::other("nobody listens any more");
        match limit {
            None => self.clients.recv().map(|(s, _)| Some(s)).map_err(|_| gone()),
            Some(limit) => match self.clients.recv_timeout(limit) {
                Ok((stream, _)) => Ok(Some(stream)),
                Err(RecvTimeoutError::Timeout) => Ok(None),
                Err(RecvTimeoutError::Disconnected) => Err(gone()),
            },
        }
    }

    /// Someone has come since the last one left.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.taken.load(Ordering::SeqCst)
    }

    /// The session is over: the next may come.
    pub fn done(&self) {
        self.taken.store(false, Ordering::SeqCst);
    }
}

/// Answers the first packet with the reason; gdb prints it, and ends the connection.
fn refuse(mut stream: TcpStream, by: Option<SocketAddr>) {
    use std::io::{Read, Write};
    let _ = stream.set_read_timeout(Some(FIRST_WORD));
    let mut framer = Framer::default();
    let mut chunk = [0; 0x400];
    while let Ok(n) = stream.read(&mut chunk)
        && n > 0
    {
        if !chunk[..n].iter().any(|b| matches!(framer.feed(*b), Fed::Frame(Frame::Packet(_)))) {
            continue;
        }
        let by = by.map_or(String::new(), |a| format!(" (from {a})"));
        let body = format!("E.another debugger is attached{by}; one at a time");
        let _ = write!(stream, "+${body}#{:02x}", checksum(body.as_bytes()));
        return;
    }
}
