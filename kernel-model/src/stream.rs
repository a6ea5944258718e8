//! Program streams (kernel/bpf/stream.c, 6.18): each program's stdout and stderr, texts in the
//! order they came until user space reads them (`BPF_PROG_STREAM_READ_BY_FD`).
//!
//! The kernel writes to the stderr of a program that it has to complain about. Such a report is
//! put together first and becomes visible as a whole.

use std::collections::VecDeque;

use crate::cpu::{CpuId, Site};
use crate::{Errno, EventKind, Kernel, ProgId};

/// `BPF_STREAM_MAX_CAPACITY`: a text that would fill it up to here is refused.
const CAPACITY: usize = 100_000;
/// `MAX_BPRINTF_BUF`: no single text is longer.
const TEXT_MAX: usize = 1024;

/// `enum bpf_stream_id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StreamId {
    /// `BPF_STDOUT`.
    Out = 1,
    /// `BPF_STDERR`.
    Err = 2,
}

impl StreamId {
    /// `bpf_stream_get`.
    #[must_use]
    pub fn from_raw(id: u32) -> Option<StreamId> {
        match id {
            1 => Some(StreamId::Out),
            2 => Some(StreamId::Err),
            _ => None,
        }
    }

    /// As in traces.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            StreamId::Out => "stdout",
            StreamId::Err => "stderr",
        }
    }
}

/// `struct bpf_stream`.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Texts that are not read to their end.
    texts: VecDeque<Vec<u8>>,
    /// Bytes of the first that are read.
    consumed: usize,
    /// Bytes of all of `texts`, and of what found no memory.
    used: usize,
}

impl Stream {
    /// `bpf_stream_consume_capacity`.
    fn take_room(&mut self, len: usize) -> Result<(), Errno> {
        if self.used + len >= CAPACITY {
            return Err(Errno::ENOSPC);
        }
        self.used += len;
        Ok(())
    }

    /// `bpf_stream_push_str`.
    fn push(&mut self, text: &[u8]) -> Result<(), Errno> {
        self.take_room(text.len())?;
        if text.len() > TEXT_MAX {
            return Err(Errno::ENOMEM);
        }
        self.texts.push_back(text.to_vec());
        Ok(())
    }

    /// `bpf_stream_read`: at most so many bytes. Room is free again when a text is read whole.
    pub(crate) fn read(&mut self, len: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < len
            && let Some(text) = self.texts.front()
        {
            let n = (text.len() - self.consumed).min(len - out.len());
            out.extend(&text[self.consumed..self.consumed + n]);
            self.consumed += n;
            if self.consumed == text.len() {
                self.used -= text.len();
                self.consumed = 0;
                self.texts.pop_front();
            }
        }
        out
    }
}

impl Kernel {
    /// A text of the program itself; 0 or what went wrong.
    pub(crate) fn stream_print(
        &mut self,
        cpu: CpuId,
        prog: ProgId,
        id: StreamId,
        text: &[u8],
    ) -> Result<u64, Errno> {
        let p = self.progs.get_mut(&prog).ok_or(Errno::ENOENT)?;
        p.streams[id as usize - 1].push(text)?;
        self.stream_wrote(cpu, prog, id, text);
        Ok(0)
    }

    /// `bpf_stream_stage` and `bpf_stream_dump_stack`: a report about a program with the call
    /// stack. One that finds no room is lost.
    pub(crate) fn stream_report(&mut self, cpu: CpuId, prog: ProgId, text: &str, stack: &[Site]) {
        let text = format!("{text}\n{}", self.dump_stack(cpu, stack));
        let Some(p) = self.progs.get_mut(&prog) else { return };
        let err = &mut p.streams[StreamId::Err as usize - 1];
        if err.take_room(text.len()).is_ok() {
            err.texts.extend(text.split_inclusive('\n').map(|l| l.as_bytes().to_vec()));
            self.stream_wrote(cpu, prog, StreamId::Err, text.as_bytes());
        }
    }

    fn stream_wrote(&mut self, cpu: CpuId, prog: ProgId, id: StreamId, text: &[u8]) {
        let text = String::from_utf8_lossy(text).into_owned();
        self.emit(cpu, EventKind::Stream { prog, id, text });
    }

    /// User space reads a stream; empty when there is nothing.
    pub fn stream_read(&mut self, prog: ProgId, id: StreamId, len: usize) -> Vec<u8> {
        let p = self.progs.get_mut(&prog);
        p.map_or_else(Vec::new, |p| p.streams[id as usize - 1].read(len))
    }

    /// All that a stream holds, unread.
    #[must_use]
    pub fn stream_text(&self, prog: ProgId, id: StreamId) -> Vec<u8> {
        let stream = self.progs.get(&prog).map(|p| &p.streams[id as usize - 1]);
        let all = stream.map(|s| s.texts.iter().flatten().skip(s.consumed).copied().collect());
        all.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_full_one_byte_before_its_capacity_and_read_in_pieces() {
        let mut s = Stream::default();
        for _ in 0..99 {
            assert_eq!(s.push(&[b'x'; 1000]), Ok(()));
        }
        assert_eq!(s.push(&[b'y'; 1000]), Err(Errno::ENOSPC));
        assert_eq!(s.push(&[b'y'; 999]), Ok(()));
        assert_eq!(s.push(b"z"), Err(Errno::ENOSPC));
        // Half a text read gives no room back.
        assert_eq!(s.read(500).len(), 500);
        assert_eq!(s.push(b"z"), Err(Errno::ENOSPC));
        assert_eq!(s.read(500).len(), 500);
        assert_eq!(s.push(b"z"), Ok(()));
        let rest = s.read(200_000);
        assert_eq!((rest.len(), rest.last()), (98_000 + 999 + 1, Some(&b'z')));
        assert_eq!(s.read(10), b"");
    }

    #[test]
    fn a_text_that_is_too_long_takes_room_for_nothing() {
        let mut s = Stream::default();
        assert_eq!(s.push(&[b'x'; TEXT_MAX + 1]), Err(Errno::ENOMEM));
        assert_eq!((s.read(10), s.used), (Vec::new(), TEXT_MAX + 1));
    }
}
