//! `ReadIter` steps: user space links an iterator program, opens it and reads it to its end.

use kernel_model::iter::{Info, IterId, OfTask, order};
use kernel_model::syscall::{SysError, Why};
use scenarios::schema::play::IterOrder;
use scenarios::schema::{Action, Name};

use super::{Failure, Run, RunError};
use crate::machine::MachineError;

/// What cat(1) reads at once.
const ROOM: u64 = 1 << 17;

/// A `ReadIter` step that has begun.
#[derive(Clone, Debug)]
pub(super) struct Reading<'a> {
    action: &'a Action,
    link: i32,
    fd: i32,
    iter: IterId,
    text: Vec<u8>,
    /// A read(2) is in progress.
    waits: bool,
}

fn failed(prog: &Name, e: SysError) -> RunError {
    match e.why {
        Why::Unsupported(what) => RunError::unsupported(prog.span, what),
        _ => RunError::input(prog.span, format!("the iterator failed: {}", e.errno.name())),
    }
}

impl<'a> Run<'a> {
    /// Opens the iterator; the timeline goes on with its reads.
    pub(super) fn read_iter(&mut self, action: &'a Action) -> Result<(), RunError> {
        let Action::ReadIter { prog, map, cgroup, order, task, ret, .. } = action else {
            unreachable!("called for ReadIter alone")
        };
        let id = self.prog(prog)?;
        let mut info = Info { order: order.map_or(order::PRE, number), ..Info::default() };
        if let Some(name) = map {
            info.map = Some(self.map(name)?.0);
        }
        if let Some(path) = cgroup {
            info.cgroup = Some(self.cgroup(path)?);
        }
        if let Some(name) = task {
            let k = &self.machine.kernel;
            let Some(of) = k.tasks_named(&name.v).next() else {
                return Err(RunError::input(name.span, format!("unknown task {}", name.v)));
            };
            info.task = OfTask { tid: 0, pid: k.task_pid(of) as u32 };
        }
        let k = &mut self.machine.kernel;
        let opened = k.iter_attach(id, &info).and_then(|link| Ok((link, k.iter_create(link)?)));
        let (link, fd) = match opened {
            Ok(fds) => fds,
            // The link is refused: nothing is read.
            Err(e) if ret.is_some() && matches!(e.why, Why::Kernel) => {
                return self.read_ended(action, &[], e.errno.ret().cast_signed());
            }
            Err(e) => return Err(failed(prog, e)),
        };
        let k = &self.machine.kernel;
        let iter = k.fd_iter(fd).map_err(|e| RunError::Internal(e.name().into()))?;
        self.reading = Some(Reading { action, link, fd, iter, text: Vec::new(), waits: false });
        Ok(())
    }

    /// Reads on, up to the end or an error.
    pub(super) fn go_on_reading(&mut self) -> Result<(), RunError> {
        while let Some(mut r) = self.reading.take() {
            let Action::ReadIter { prog, room, .. } = r.action else {
                unreachable!("begun by a ReadIter")
            };
            if !r.waits {
                let room = room.as_ref().map_or(ROOM, |b| b.v.n);
                let began = self.machine.kernel.iter_read(r.iter, room);
                began.map_err(|e| failed(prog, e.into()))?;
                r.waits = true;
            }
            match self.machine.iter_read_on(r.iter) {
                Err(MachineError::Paused) => {
                    self.reading = Some(r);
                    return Err(RunError::Paused);
                }
                ran => ran?,
            }
            r.waits = false;
            let came = self.machine.kernel.iter_came(r.iter);
            let came = came.ok_or_else(|| RunError::Internal("a read that did not end".into()))?;
            match came {
                Ok(bytes) if !bytes.is_empty() => {
                    r.text.extend(bytes);
                    self.reading = Some(r);
                }
                Ok(_) => self.read_closed(&r, 0)?,
                Err(e) => self.read_closed(&r, e.ret().cast_signed())?,
            }
        }
        Ok(())
    }

    /// All is read: the value is what the last read(2) returned.
    fn read_closed(&mut self, r: &Reading<'a>, value: i64) -> Result<(), RunError> {
        for fd in [r.fd, r.link] {
            self.machine.kernel.sys_close(fd).map_err(|e| RunError::Internal(e.name().into()))?;
        }
        self.read_ended(r.action, &r.text, value)
    }

    fn read_ended(&mut self, action: &Action, all: &[u8], value: i64) -> Result<(), RunError> {
        let Action::ReadIter { prog, text, ret, .. } = action else {
            unreachable!("begun by a ReadIter")
        };
        let holds = match ret {
            Some(pattern) => self.value_matches(&pattern.node, value, None)?,
            None => value == 0,
        };
        let at = Some(self.machine.insns());
        if !holds {
            let span = ret.as_ref().map_or(prog.span, scenarios::leaf::Data::span);
            let e = kernel_model::Errno::from_raw((-value) as i32);
            let what = e.map_or("0", kernel_model::Errno::name);
            let message = format!("reading {} ended with {what}", prog.v);
            self.failures.push(Failure { at, ..Failure::new(span, message) });
        }
        if let Some(wanted) = text
            && wanted.v.as_bytes() != all
        {
            let read = String::from_utf8_lossy(all);
            let message = format!("{} reads:\n{read}", prog.v);
            self.failures.push(Failure { at, ..Failure::new(wanted.span, message) });
        }
        Ok(())
    }
}

/// `enum bpf_cgroup_iter_order`.
fn number(order: IterOrder) -> u32 {
    match order {
        IterOrder::SelfOnly => order::SELF_ONLY,
        IterOrder::Pre => order::PRE,
        IterOrder::Post => order::POST,
        IterOrder::Up => order::UP,
    }
}
