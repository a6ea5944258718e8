//! `BPF_PROG_TEST_RUN`: a frame that runs a program on a context made from the caller's bytes.
//!
//! The command has two halves, because a program runs in the engine: `test_run_start` queues the
//! frame, `test_run_finish` gives the results to the process once the CPU has run it.

use std::collections::BTreeMap;

use bpf::uapi::attr::TestRun as Attr;
use bpf::uapi::fields::Struct;
use bpf::uapi::{AttachType, ProgType};

use super::user::UserMemory;
use super::{Call, SysError, SysResult};
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::maps::MapId;
use crate::net::{TestBuff, TestSkb};
use crate::{Errno, Kernel, ProgId};

/// `BPF_F_TEST_RUN_ON_CPU`.
const ON_CPU: u32 = 1;
/// `BPF_F_TEST_XDP_LIVE_FRAMES`.
const LIVE_FRAMES: u32 = 1 << 1;
/// `BPF_F_TEST_SKB_CHECKSUM_COMPLETE`.
const CHECKSUM_COMPLETE: u32 = 1 << 2;
/// `MAX_BPF_FUNC_ARGS` registers.
const ARGS_MAX: u32 = 12 * 8;
/// Largest context of a syscall program; the kernel takes 64 KiB.
const SYSCALL_CTX_MAX: u32 = 4096;

/// What a program runs on.
#[derive(Clone, Debug)]
enum On {
    /// An sk_buff.
    Skb(TestSkb),
    /// A frame in a driver.
    Xdp(TestBuff),
    /// Bytes as they are, 0 when there are none; given back or not.
    Bytes { at: u64, back: bool },
}

/// A test run in progress.
#[derive(Clone, Debug)]
pub struct TestRun {
    prog: ProgId,
    on: On,
    /// The caller's context, which the results are written over.
    ctx: Vec<u8>,
    /// Runs, and those still to do.
    repeat: u32,
    left: u32,
    began_ns: u64,
    /// Local storage of the run (`bpf_cgroup_storage_alloc`).
    storages: Vec<(MapId, u64)>,
    /// The process that waits for it; a task gets the result as that of its frame.
    ticket: Option<Ticket>,
    /// Who calls, for what else is `current`; and then who was.
    caller: Option<u64>,
}

impl TestRun {
    /// `bpf_test_run` disables bottom halves; programs of user space alone run without
    /// (`bpf_prog_test_run_syscall`, `bpf_prog_test_run_raw_tp`).
    pub(crate) fn bh_off(&self) -> bool {
        !matches!(self.on, On::Bytes { .. })
    }

    /// Whether its task may be preempted: that of a syscall program; `bpf_prog_test_run_raw_tp` has
    /// preemption off (`get_cpu`).
    pub(crate) fn is_preemptible(&self) -> bool {
        matches!(self.on, On::Bytes { back: true, .. })
    }
}

/// A test run that a process waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u32);

/// Test runs that processes wait for.
#[derive(Clone, Debug, Default)]
pub(crate) struct TestRuns {
    all: BTreeMap<Ticket, Pending>,
    made: u32,
}

/// The value of a task's test run whose program was cancelled.
pub(crate) const CANCELLED: u64 = 1 << 63;

/// What came of a run.
#[derive(Clone, Debug)]
pub(crate) struct Ended {
    attr: Attr,
    /// `None` when the program was cancelled.
    retval: Option<u32>,
    duration: u32,
    data: Vec<u8>,
    ctx: Vec<u8>,
}

/// A finished or waiting command.
#[derive(Clone, Debug)]
pub(crate) enum Pending {
    /// Its frame has not ended.
    Running(Attr),
    /// It has.
    Ended(Box<Ended>),
}

/// Whether a program type runs on an sk_buff: with the link layer's header or without.
fn skb_layer(t: ProgType) -> Option<bool> {
    match t {
        ProgType::SchedCls | ProgType::SchedAct => Some(true),
        ProgType::SocketFilter
        | ProgType::CgroupSkb
        | ProgType::LwtIn
        | ProgType::LwtOut
        | ProgType::LwtXmit
        | ProgType::LwtSeg6local => Some(false),
        _ => None,
    }
}

pub(super) fn command(_: &mut Kernel, _: &mut Call<'_>) -> SysResult {
    Err(SysError::unsupported("BPF_PROG_TEST_RUN without an engine: ask the machine"))
}

impl TestRun {
    /// Program under test.
    pub(crate) fn prog(&self) -> ProgId {
        self.prog
    }

    /// Its value of a map of local storage.
    pub(crate) fn storage(&self, id: MapId) -> Option<u64> {
        self.storages.iter().find(|s| s.0 == id).map(|s| s.1)
    }
}

impl Kernel {
    /// The first half of `BPF_PROG_TEST_RUN`: the frame is queued on its CPU.
    ///
    /// # Errors
    /// The kernel's errno, or what is not modelled.
    pub fn test_run_start(
        &mut self,
        attr: &[u8],
        user: &dyn UserMemory,
    ) -> Result<Ticket, SysError> {
        let caller = self.caller()?;
        let was = self.set_current(self.this_cpu, caller);
        let made = self.test_run_make(attr, user);
        self.set_current(self.this_cpu, was);
        let (a, mut run) = made?;
        let cpu = if a.flags & ON_CPU != 0 { CpuId(a.cpu) } else { self.this_cpu };
        let runs = &mut self.test_runs;
        runs.made += 1;
        let ticket = Ticket(runs.made);
        runs.all.insert(ticket, Pending::Running(a));
        run.ticket = Some(ticket);
        // Another CPU is sent an interrupt.
        run.caller = (cpu == self.this_cpu).then_some(caller);
        self.submit(cpu, Frame::TestRun(Box::new(run)));
        Ok(ticket)
    }

    /// A test run on the CPU of a task, whose value is the result.
    ///
    /// # Errors
    /// As for [`Kernel::test_run_start`].
    pub(crate) fn test_run_of_task(
        &mut self,
        attr: &[u8],
        user: &dyn UserMemory,
    ) -> Result<Frame, SysError> {
        let (_, run) = self.test_run_make(attr, user)?;
        Ok(Frame::TestRun(Box::new(run)))
    }

    fn test_run_make(
        &mut self,
        attr: &[u8],
        user: &dyn UserMemory,
    ) -> Result<(Attr, TestRun), SysError> {
        let endian = self.mem.endian();
        if attr.iter().skip(Attr::END).any(|b| *b != 0) {
            return Err(Errno::EINVAL.into());
        }
        let a = Attr::decode(attr, endian);
        if (a.ctx_size_in == 0) != (a.ctx_in == 0) || (a.ctx_size_out == 0) != (a.ctx_out == 0) {
            return Err(Errno::EINVAL.into());
        }
        let id = self.fd_prog(a.prog_fd.cast_signed())?;
        let prog = self.progs.get(&id).ok_or(Errno::EBADF)?;
        let (t, program) = (prog.prog_type(), prog.verified.program());
        let attach = program.attach_type;
        let mut run = match t {
            ProgType::Xdp => self.start_xdp(id, &a, user, attach)?,
            ProgType::RawTracepoint | ProgType::RawTracepointWritable => {
                self.start_raw_tp(id, &a, user)?
            }
            ProgType::Syscall => self.start_syscall(id, &a, user)?,
            _ => match skb_layer(t) {
                Some(l2) => self.start_skb(id, &a, user, l2)?,
                None => return Err(not_here(t)),
            },
        };
        // bpf_test_run, and not the runs of user space alone.
        if run.bh_off() {
            match self.storages_of_test(id) {
                Ok(storages) => run.storages = storages,
                Err(e) => {
                    self.test_run_end(self.this_cpu, run, None);
                    return Err(e.into());
                }
            }
        }
        Ok((a, run))
    }

    /// Whether a test run has come to its end.
    #[must_use]
    pub fn test_run_ended(&self, ticket: Ticket) -> bool {
        matches!(self.test_runs.all.get(&ticket), Some(Pending::Ended(_)) | None)
    }

    /// The caller's context, as much as the kernel's structure has room for (`bpf_ctx_init`).
    fn test_ctx(&self, a: &Attr, user: &dyn UserMemory, size: usize) -> Result<Vec<u8>, Errno> {
        if a.ctx_in == 0 && a.ctx_out == 0 {
            return Ok(Vec::new());
        }
        let mut ctx = user.read(a.ctx_in, a.ctx_size_in as usize)?;
        if ctx.iter().skip(size).any(|b| *b != 0) {
            return Err(Errno::E2BIG);
        }
        ctx.resize(size, 0);
        Ok(ctx)
    }

    fn start_skb(
        &mut self,
        prog: ProgId,
        a: &Attr,
        user: &dyn UserMemory,
        l2: bool,
    ) -> Result<TestRun, SysError> {
        if a.flags & !CHECKSUM_COMPLETE != 0 || a.cpu != 0 || a.batch_size != 0 {
            return Err(Errno::EINVAL.into());
        }
        if a.flags != 0 {
            return Err(SysError::unsupported("BPF_F_TEST_SKB_CHECKSUM_COMPLETE"));
        }
        let data = user.read(a.data_in, a.data_size_in as usize)?;
        let ctx = self.test_ctx(a, user, crate::size!("__sk_buff") as usize)?;
        let skb = self.test_skb(&data, &ctx, l2)?;
        Ok(self.test_frame(prog, On::Skb(skb), ctx, a.repeat))
    }

    fn start_xdp(
        &mut self,
        prog: ProgId,
        a: &Attr,
        user: &dyn UserMemory,
        attach: Option<AttachType>,
    ) -> Result<TestRun, SysError> {
        let entries = [Some(AttachType::XdpDevmap), Some(AttachType::XdpCpumap)];
        if entries.contains(&attach) || a.flags & !LIVE_FRAMES != 0 {
            return Err(Errno::EINVAL.into());
        }
        if a.flags != 0 {
            return Err(SysError::unsupported("BPF_F_TEST_XDP_LIVE_FRAMES"));
        }
        if a.batch_size != 0 {
            return Err(Errno::EINVAL.into());
        }
        let data = user.read(a.data_in, a.data_size_in as usize)?;
        let ctx = self.test_ctx(a, user, crate::size!("xdp_md") as usize)?;
        let cpu = self.this_cpu;
        let buff = self.test_xdp(cpu, &data, &ctx)?;
        Ok(self.test_frame(prog, On::Xdp(buff), ctx, a.repeat))
    }

    fn start_raw_tp(
        &mut self,
        prog: ProgId,
        a: &Attr,
        user: &dyn UserMemory,
    ) -> Result<TestRun, SysError> {
        let unused = [a.data_in, a.data_out, a.ctx_out].iter().all(|p| *p == 0);
        let unused = unused && a.duration == 0 && a.repeat == 0 && a.batch_size == 0;
        let unused = unused && a.ctx_size_in >= self.ctx_end(prog);
        let cpu_ok = a.flags & ON_CPU != 0 || a.cpu == 0;
        if !unused || a.ctx_size_in > ARGS_MAX || !cpu_ok || a.flags & !ON_CPU != 0 {
            return Err(Errno::EINVAL.into());
        }
        if a.cpu >= self.config.cpus {
            return Err(Errno::ENXIO.into());
        }
        let ctx = user.read(a.ctx_in, a.ctx_size_in as usize)?;
        // What the program may read beyond the caller's bytes is zero: the verifier's bound on
        // the context is the registers a tracepoint can have.
        let at = self.test_bytes(&ctx, ARGS_MAX as usize)?;
        Ok(self.test_frame(prog, On::Bytes { at, back: false }, ctx, 1))
    }

    fn start_syscall(
        &mut self,
        prog: ProgId,
        a: &Attr,
        user: &dyn UserMemory,
    ) -> Result<TestRun, SysError> {
        let unused = [a.data_in, a.data_out, a.ctx_out].iter().all(|p| *p == 0);
        let numbers = [a.duration, a.repeat, a.batch_size, a.flags].iter().all(|n| *n == 0);
        let size = a.ctx_size_in;
        if !unused || !numbers || size < self.ctx_end(prog) || size > u32::from(u16::MAX) {
            return Err(Errno::EINVAL.into());
        }
        if a.ctx_size_in > SYSCALL_CTX_MAX {
            return Err(SysError::unsupported("contexts of syscall programs beyond a page"));
        }
        let ctx = user.read(a.ctx_in, a.ctx_size_in as usize)?;
        let at = match ctx.is_empty() {
            true => 0,
            false => self.test_bytes(&ctx, ctx.len())?,
        };
        Ok(self.test_frame(prog, On::Bytes { at, back: true }, ctx, 1))
    }

    /// How much of its context the program uses.
    fn ctx_end(&self, prog: ProgId) -> u32 {
        self.progs.get(&prog).map_or(0, |p| p.verified.stats().max_ctx_offset)
    }

    fn test_bytes(&mut self, bytes: &[u8], room: usize) -> Result<u64, Errno> {
        let at = self.kzalloc(room as u64, "test run context")?;
        self.mem.write(at, bytes).map_err(|_| Errno::EFAULT)?;
        Ok(at)
    }

    fn test_frame(&self, prog: ProgId, on: On, ctx: Vec<u8>, repeat: u32) -> TestRun {
        let repeat = repeat.max(1);
        TestRun {
            prog,
            on,
            ctx,
            repeat,
            left: repeat,
            began_ns: 0,
            storages: Vec::new(),
            ticket: None,
            caller: None,
        }
    }

    pub(crate) fn test_run_step(
        &mut self,
        cpu: CpuId,
        mut run: Box<TestRun>,
        input: Input,
    ) -> Flow {
        match input {
            Input::Start => {
                run.began_ns = self.now(cpu);
                run.caller = run.caller.map(|task| self.set_current(cpu, task));
            }
            Input::Aborted(_) => {
                return Flow::Done(self.test_run_end(cpu, *run, None));
            }
            Input::Return(r0) if run.left == 0 => {
                return Flow::Done(self.test_run_end(cpu, *run, Some(r0 as u32)));
            }
            Input::Return(_) | Input::Again => {}
        }
        run.left -= 1;
        let ctx = match &run.on {
            On::Skb(t) => t.skb,
            On::Xdp(buff) => buff.xdp,
            On::Bytes { at, .. } => *at,
        };
        let mut child = ProgFrame::main(run.prog, self.entry_of(run.prog), ctx);
        child.entry.again = run.left;
        Flow::Call { frame: Frame::TestRun(run), child: Frame::Prog(child) }
    }

    fn test_run_end(&mut self, cpu: CpuId, run: TestRun, retval: Option<u32>) -> u64 {
        let spent = self.now(cpu) - run.began_ns;
        run.caller.map(|was| self.set_current(cpu, was));
        let duration = u32::try_from(spent / u64::from(run.repeat)).unwrap_or(u32::MAX);
        self.storages_free(run.storages);
        let mut ctx = run.ctx;
        let data = match run.on {
            On::Skb(t) => self.test_skb_end(&t, &mut ctx),
            On::Xdp(buff) => self.test_xdp_end(buff, &mut ctx),
            On::Bytes { at: 0, .. } => Vec::new(),
            On::Bytes { at, back } => {
                if back {
                    ctx = self.mem.read_vec(at, ctx.len()).unwrap_or_default();
                }
                self.kfree(at, "test run context");
                Vec::new()
            }
        };
        // A redirect that was asked for goes nowhere.
        self.net.redirect.remove(&cpu);
        let pending = run.ticket.and_then(|t| self.test_runs.all.get_mut(&t));
        if let Some(pending) = pending
            && let Pending::Running(attr) = *pending
        {
            let ended = Ended { attr, retval, duration, data, ctx };
            *pending = Pending::Ended(Box::new(ended));
        }
        retval.map_or(CANCELLED, u64::from)
    }

    /// The second half of `BPF_PROG_TEST_RUN`: results to the process.
    ///
    /// # Errors
    /// `ENOSPC` when a buffer was too small (the results are there all the same), `EFAULT`.
    pub fn test_run_finish(
        &mut self,
        ticket: Ticket,
        attr: &mut [u8],
        user: &mut dyn UserMemory,
    ) -> SysResult {
        let Some(Pending::Ended(e)) = self.test_runs.all.remove(&ticket) else {
            return Err(SysError::unsupported("a test run whose CPU was not run"));
        };
        let endian = self.mem.endian();
        let Some(retval) = e.retval else {
            return Err(SysError::unsupported("the result of a run that was cancelled"));
        };
        let t = self.progs.get(&self.fd_prog(e.attr.prog_fd.cast_signed())?);
        let t = t.map(crate::Prog::prog_type).ok_or(Errno::EBADF)?;
        let mut a = Attr { retval, ..e.attr };
        if t == ProgType::Syscall {
            user.write(a.ctx_in, &e.ctx)?;
            a.encode_into(attr, endian);
            return Ok(0);
        }
        if matches!(t, ProgType::RawTracepoint | ProgType::RawTracepointWritable) {
            a.encode_into(attr, endian);
            return Ok(0);
        }
        let mut short = false;
        let data = fit(&e.data, a.data_size_out, &mut short);
        if a.data_out != 0 {
            user.write(a.data_out, data)?;
        }
        (a.data_size_out, a.duration) = (e.data.len() as u32, e.duration);
        if !e.ctx.is_empty() && a.ctx_out != 0 {
            let ctx = fit(&e.ctx, a.ctx_size_out, &mut short);
            user.write(a.ctx_out, ctx)?;
            a.ctx_size_out = e.ctx.len() as u32;
        }
        a.encode_into(attr, endian);
        if short { Err(Errno::ENOSPC.into()) } else { Ok(0) }
    }
}

/// As much as fits; a size of 0 is no limit.
fn fit<'a>(bytes: &'a [u8], room: u32, short: &mut bool) -> &'a [u8] {
    match room as usize {
        n if n != 0 && n < bytes.len() => {
            *short = true;
            &bytes[..n]
        }
        _ => bytes,
    }
}

/// Program types without a test run in the kernel, and those whose run is not modelled.
fn not_here(t: ProgType) -> SysError {
    match t {
        ProgType::Tracing
        | ProgType::StructOps
        | ProgType::FlowDissector
        | ProgType::SkLookup
        | ProgType::Netfilter => SysError::unsupported(format!("test run of {}", t.name())),
        _ => Errno::ENOTSUPP.into(),
    }
}
