//! `bpf_iter` programs: links with a target, and files that run the program once an object as they
//! are read (kernel/bpf/bpf_iter.c and the targets' own, 6.18).
//!
//! ```text
//!  BPF_LINK_CREATE ─► link ─BPF_ITER_CREATE─► file ─read(2)─► start, show, next, .. stop (read.rs)
//!                                               └ where it is among the objects (target.rs)
//! ```
//!
//! The `seq_file`, its buffer and the program's context are in guest memory, where `bpf_seq_printf`
//! finds them.

mod read;
mod target;

use std::collections::BTreeMap;

use bpf::Endian;

use crate::maps::MapId;
use crate::{Errno, Kernel, ProgId, field};

pub use read::IterRead;
pub use target::{Info, OfTask, Target, order};

/// An open iterator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IterId(u32);

/// `PAGE_SIZE << 3`: what all objects of one read have room in.
const BUFFER: u64 = 8 * crate::layout::PAGE_SIZE;
/// Most words of a program's context.
const CTX_WORDS: u64 = 5;

/// `struct bpf_iter_priv_data`, and where the target is.
#[derive(Clone, Debug)]
struct Reader {
    prog: ProgId,
    target: Target,
    /// The key of a map's element, and behind it the values of all CPUs.
    scratch: u64,
    /// `struct seq_file`, `struct bpf_iter_meta` and the context behind it.
    seq: u64,
    buffer: u64,
    meta: u64,
    seq_num: u64,
    done_stop: bool,
    at: target::At,
    /// What came of the last read.
    came: Option<Result<Vec<u8>, Errno>>,
}

/// All open iterators.
#[derive(Clone, Debug, Default)]
pub(crate) struct Iters {
    open: BTreeMap<IterId, Reader>,
    made: u32,
    /// `session_id`.
    sessions: u64,
}

impl Iters {
    /// Their programs.
    pub(crate) fn progs(&self) -> impl Iterator<Item = ProgId> {
        self.open.values().map(|r| r.prog)
    }

    /// Maps whose elements they go over.
    pub(crate) fn maps(&self) -> impl Iterator<Item = MapId> {
        self.open.values().filter_map(|r| r.target.map())
    }
}

impl Kernel {
    /// `bpf_iter_new_fd`: a file of a program and a target.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn iter_open(&mut self, prog: ProgId, target: Target) -> Result<IterId, Errno> {
        let mut r = Reader {
            prog,
            target,
            scratch: 0,
            seq: 0,
            buffer: 0,
            meta: 0,
            seq_num: 0,
            done_stop: false,
            at: target::At::default(),
            came: None,
        };
        if let Err(e) = self.iter_alloc(&mut r) {
            self.iter_free(&r);
            return Err(e);
        }
        self.iters.made += 1;
        let id = IterId(self.iters.made);
        self.iters.open.insert(id, r);
        Ok(id)
    }

    fn iter_alloc(&mut self, r: &mut Reader) -> Result<(), Errno> {
        r.seq = self.kzalloc(crate::size!("seq_file"), "seq_file")?;
        r.buffer = self.kzalloc(BUFFER, "seq_file buffer")?;
        let meta_bytes = crate::size!("bpf_iter_meta") + 8 * CTX_WORDS;
        r.meta = self.kzalloc(meta_bytes, "bpf_iter context")?;
        r.scratch = self.iter_scratch(r.target)?;
        let session = self.iters.sessions;
        self.iters.sessions += 1;
        for (at, f, v) in [
            (r.seq, field!("seq_file", "buf"), r.buffer),
            (r.seq, field!("seq_file", "size"), BUFFER),
            (r.meta, field!("bpf_iter_meta", "seq"), r.seq),
            (r.meta, field!("bpf_iter_meta", "session_id"), session),
        ] {
            self.set(at, f, v);
        }
        Ok(())
    }

    /// `iter_release`.
    pub(crate) fn iter_close(&mut self, id: IterId) {
        if let Some(r) = self.iters.open.remove(&id) {
            self.iter_free(&r);
        }
    }

    fn iter_free(&mut self, r: &Reader) {
        let all = [
            (r.scratch, "bpf_iter element"),
            (r.meta, "bpf_iter context"),
            (r.buffer, "seq_file buffer"),
            (r.seq, "seq_file"),
        ];
        for (at, what) in all.into_iter().filter(|a| a.0 != 0) {
            self.kfree(at, what);
        }
    }

    /// What came of a read that has ended: its bytes, none at the end.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn iter_came(&mut self, id: IterId) -> Option<Result<Vec<u8>, Errno>> {
        self.iters.open.get_mut(&id)?.came.take()
    }

    /// Whether a read has ended.
    #[must_use]
    pub fn iter_read_ended(&self, id: IterId) -> bool {
        self.iters.open.get(&id).is_none_or(|r| r.came.is_some())
    }

    /// `seq_write`: bytes for a `seq_file`; what does not fit sets it to full.
    pub(crate) fn seq_write(&mut self, seq: u64, bytes: &[u8]) -> Result<(), Errno> {
        let (count, size) = (field!("seq_file", "count"), field!("seq_file", "size"));
        let (have, room) = (self.get(seq, count), self.get(seq, size));
        let end = have + bytes.len() as u64;
        if end >= room {
            self.set(seq, count, room);
            return Err(Errno::EOVERFLOW);
        }
        let buf = self.get(seq, field!("seq_file", "buf"));
        self.mem.write(buf + have, bytes).map_err(|_| Errno::EFAULT)?;
        self.set(seq, count, end);
        Ok(())
    }
}

/// The end of `struct bpf_link_info` of a link.
pub(crate) fn describe(target: Target, out: &mut [u8; 48], endian: Endian) {
    let mut put = |at: usize, v: u64, n: usize| match endian {
        Endian::Little => out[at..at + n].copy_from_slice(&v.to_le_bytes()[..n]),
        Endian::Big => out[at..at + n].copy_from_slice(&v.to_be_bytes()[8 - n..]),
    };
    put(8, target.name().len() as u64 + 1, 4);
    match target {
        Target::Task(of) | Target::TaskFile(of) => {
            put(16, of.tid.into(), 4);
            put(20, of.pid.into(), 4);
        }
        Target::Cgroup { group, order } => {
            put(16, crate::cgroup::id_of(group), 8);
            put(24, order.into(), 4);
        }
        Target::Map => {}
        Target::MapElem(id) => put(12, id.0.into(), 4),
    }
}
