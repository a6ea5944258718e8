//! `bpf_seq_read`: one read(2) of an iterator.

use super::{IterId, Reader};
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::{Errno, Kernel, ProgId, field};

/// `MAX_ITER_OBJECTS`: of one read.
const OBJECTS_MAX: u64 = 1_000_000;

/// A read in progress.
#[derive(Clone, Debug)]
pub struct IterRead {
    iter: IterId,
    prog: ProgId,
    /// The process's buffer.
    size: u64,
    /// Who reads; then who was `current`.
    reader: u64,
    step: Step,
    /// `count` before the object that is shown, objects behind the first.
    before: u64,
    objects: u64,
}

/// What the program runs for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    First,
    Rest,
    Stop,
}

impl IterRead {
    /// Its program.
    pub(crate) fn prog(&self) -> ProgId {
        self.prog
    }
}

impl Kernel {
    /// Begins a read(2) of an iterator by the process that makes the scenario's own calls.
    ///
    /// # Errors
    /// `EBADF`, `ENOMEM`.
    pub fn iter_read(&mut self, iter: IterId, size: u64) -> Result<(), Errno> {
        let prog = self.iters.open.get(&iter).ok_or(Errno::EBADF)?.prog;
        let reader = self.caller()?;
        let read = IterRead { iter, prog, size, reader, step: Step::First, before: 0, objects: 0 };
        self.submit(self.this_cpu, Frame::Iter(Box::new(read)));
        Ok(())
    }

    pub(crate) fn iter_step(&mut self, cpu: CpuId, mut f: Box<IterRead>, input: Input) -> Flow {
        let Some(mut r) = self.iters.open.remove(&f.iter) else { return Flow::Done(0) };
        let flow = match input {
            Input::Start => {
                f.reader = self.set_current(cpu, f.reader);
                self.iter_begin(&mut f, &mut r)
            }
            Input::Return(ret) => self.iter_goes_on(&mut f, &mut r, ret),
            // A program that was cancelled has shown nothing.
            Input::Aborted(_) => Err(Some(Errno::ECANCELED)),
            Input::Again => unreachable!("it stands nowhere"),
        };
        let id = f.iter;
        let flow = match flow {
            Ok(ctx) => {
                let child = ProgFrame::main(r.prog, self.entry_of(r.prog), ctx);
                Flow::Call { frame: Frame::Iter(f), child: Frame::Prog(child) }
            }
            Err(error) => {
                r.came = Some(match error {
                    Some(e) => Err(e),
                    None => Ok(self.seq_take(r.seq, f.size)),
                });
                self.set_current(cpu, f.reader);
                Flow::Done(0)
            }
        };
        self.iters.open.insert(id, r);
        flow
    }

    fn seq_count(&self, r: &Reader) -> u64 {
        self.get(r.seq, field!("seq_file", "count"))
    }

    fn seq_set_count(&mut self, r: &Reader, count: u64) {
        self.set(r.seq, field!("seq_file", "count"), count);
    }

    fn seq_overflowed(&self, r: &Reader) -> bool {
        self.seq_count(r) == self.get(r.seq, field!("seq_file", "size"))
    }

    /// Bytes for the process; the rest is for its next read.
    fn seq_take(&mut self, seq: u64, size: u64) -> Vec<u8> {
        let (count, from) = (field!("seq_file", "count"), field!("seq_file", "from"));
        let (have, at) = (self.get(seq, count), self.get(seq, from));
        let n = have.min(size);
        let bytes = self.bytes(self.get(seq, field!("seq_file", "buf")) + at, n);
        self.set(seq, count, have - n);
        self.set(seq, from, at + n);
        bytes
    }

    fn seq_index(&self, r: &Reader) -> u64 {
        self.get(r.seq, field!("seq_file", "index"))
    }

    fn seq_set_index(&mut self, r: &Reader, index: u64) {
        self.set(r.seq, field!("seq_file", "index"), index);
    }

    /// Up to the first object; the context that the program runs with next, or how the read ends.
    fn iter_begin(&mut self, f: &mut IterRead, r: &mut Reader) -> Result<u64, Option<Errno>> {
        if self.seq_count(r) > 0 {
            return Err(None);
        }
        self.set(r.seq, field!("seq_file", "from"), 0);
        let mut index = self.seq_index(r);
        let first = self.iter_start(r, &mut index).map_err(Some)?;
        self.seq_set_index(r, index);
        match first {
            Some(object) => {
                f.step = Step::First;
                Ok(self.iter_ctx(r, Some(&object)))
            }
            None => self.iter_end(f, r),
        }
    }

    /// The program has run.
    fn iter_goes_on(
        &mut self,
        f: &mut IterRead,
        r: &mut Reader,
        ret: u64,
    ) -> Result<u64, Option<Errno>> {
        if f.step == Step::Stop {
            if !self.seq_overflowed(r) {
                r.done_stop = true;
            } else {
                self.seq_set_count(r, f.before);
                if f.before == 0 {
                    return Err(Some(Errno::E2BIG));
                }
            }
            return Err(None);
        }
        let mut shown = Kernel::iter_shown(r, ret);
        if shown.is_ok() && self.seq_overflowed(r) {
            shown = Err(Errno::E2BIG);
        }
        if let Err(e) = shown {
            // The object is shown again by the next read, into an empty buffer.
            self.seq_set_count(r, f.before);
            return Err(if f.before == 0 { Some(e) } else { None });
        }
        f.objects += 1;
        f.before = self.seq_count(r);
        let next = self.iter_next(r);
        let index = self.seq_index(r) + 1;
        self.seq_set_index(r, index);
        let Some(object) = next else { return self.iter_end(f, r) };
        r.seq_num += 1;
        if f.before >= f.size {
            return Err(None);
        }
        if f.objects >= OBJECTS_MAX {
            return Err(if f.before == 0 { Some(Errno::EAGAIN) } else { None });
        }
        f.step = Step::Rest;
        Ok(self.iter_ctx(r, Some(&object)))
    }

    /// `stop` behind the last object: the program runs without one, once.
    fn iter_end(&mut self, f: &mut IterRead, r: &mut Reader) -> Result<u64, Option<Errno>> {
        Kernel::iter_stopped(r);
        f.before = self.seq_count(r);
        if r.done_stop {
            return Err(None);
        }
        f.step = Step::Stop;
        Ok(self.iter_ctx(r, None))
    }
}
