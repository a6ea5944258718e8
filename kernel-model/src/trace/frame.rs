//! Running the programs of what fired, and building their contexts.

use std::collections::VecDeque;

use super::{Attached, Deferred, Fired, How, Point, record, regs, symbol_at};
use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::layout::{KERNEL_FUNCTION_STRIDE, KERNEL_TEXT};
use crate::{Errno, Kernel, ProgId, field, size};

/// What follows when all has run.
#[derive(Clone, Debug)]
pub(crate) enum Then {
    /// A frame that begins now.
    Start(Frame),
    /// The value of the frame that fired.
    Done(u64),
}

/// Programs of what fired in a step, in order.
#[derive(Clone, Debug)]
pub struct TraceFrame {
    items: VecDeque<Deferred>,
    fired: Option<Fired>,
    /// Programs of `fired` that have not run.
    progs: VecDeque<Attached>,
    /// The program that runs, and its context object.
    running: Option<(Attached, u64)>,
    then: Option<Then>,
    /// Functions of the path that fired, when its frame is not below this one.
    caller: &'static [&'static str],
}

impl TraceFrame {
    pub(crate) fn new(items: VecDeque<Deferred>, then: Then) -> TraceFrame {
        let progs = VecDeque::new();
        TraceFrame { items, fired: None, progs, running: None, then: Some(then), caller: &[] }
    }

    /// One program of a perf event.
    pub(crate) fn sample(attached: Attached) -> TraceFrame {
        let fired = Fired { point: Point::Sample, args: Vec::new(), ret: None };
        let (fired, progs) = (Some(fired), VecDeque::from([attached]));
        TraceFrame { fired, progs, ..TraceFrame::new(VecDeque::new(), Then::Done(0)) }
    }

    /// Whether the program that runs may be preempted: trampolines and uprobes
    /// (`bpf_prog_run_array_uprobe`) only bind it to its CPU.
    pub(crate) fn is_preemptible(&self) -> bool {
        let running = self.running.as_ref().map(|r| r.0.how);
        self.is_user() || running.is_some_and(How::is_of_image)
    }

    /// Whether the programs are those of a function of user space.
    pub(crate) fn is_user(&self) -> bool {
        self.fired.as_ref().is_some_and(Fired::is_user)
    }

    /// The function or tracepoint whose programs run.
    pub(crate) fn point(&self) -> Option<Point> {
        self.fired.as_ref().map(|f| f.point)
    }
}

/// `PERF_SAMPLE_PERIOD`.
const PERF_SAMPLE_PERIOD: u64 = 1 << 8;
/// Bytes in front of a trampoline's context: `func_ip` and the number of arguments.
const TRAMPOLINE_HEAD: u64 = 16;

impl Kernel {
    /// Lets what fired in a step run before what the step led to.
    pub(crate) fn with_fired(
        &mut self,
        cpu: CpuId,
        caller: &'static [&'static str],
        flow: Flow,
    ) -> Flow {
        let c = &mut self.cpus[cpu.idx()];
        // What fires before a path pauses is run at the end of its next step.
        let ends = matches!(flow, Flow::Call { .. } | Flow::Become(_) | Flow::Done(_));
        if c.fired.is_empty() || !ends {
            return flow;
        }
        let items = std::mem::take(&mut c.fired);
        let trace = |then, caller| {
            Frame::Trace(Box::new(TraceFrame { caller, ..TraceFrame::new(items, then) }))
        };
        match flow {
            Flow::Call { frame, child } => {
                Flow::Call { frame, child: trace(Then::Start(child), &[]) }
            }
            Flow::Become(frame) => Flow::Become(trace(Then::Start(frame), caller)),
            Flow::Done(value) => Flow::Become(trace(Then::Done(value), caller)),
            other => other,
        }
    }

    pub(crate) fn trace_step(&mut self, cpu: CpuId, mut t: TraceFrame, _: Input) -> Flow {
        if let Some((attached, ctx)) = t.running.take() {
            if !t.is_user() {
                self.guard_leave(cpu, attached);
            }
            self.kfree(ctx, "tracing context");
        }
        loop {
            if let (Some(attached), Some(fired)) = (t.progs.pop_front(), &t.fired) {
                let guarded = !fired.is_user();
                if self.is_of_another(cpu, &attached) {
                    continue;
                }
                if guarded && !self.guard_enter(cpu, attached) {
                    continue;
                }
                let Ok((object, ctx)) = self.trace_context(cpu, attached, fired) else {
                    if guarded {
                        self.guard_leave(cpu, attached);
                    }
                    continue;
                };
                t.running = Some((attached, object));
                let mut child = ProgFrame::main(attached.prog, self.entry_of(attached.prog), ctx);
                child.cookie = attached.cookie;
                let frame = Frame::Trace(Box::new(t));
                return Flow::Call { frame, child: Frame::Prog(child) };
            }
            match t.items.pop_front() {
                Some(Deferred::Fire(fired)) => {
                    self.report_fired(cpu, &fired);
                    let progs = self.hooks.at.get(&fired.point);
                    // What takes a function's place is asked on the way to it.
                    let told = |a: &&Attached| a.how != How::Modify;
                    let told = progs.map(|p| p.iter().filter(told).copied().collect());
                    t.progs = told.unwrap_or_default();
                    t.fired = Some(fired);
                }
                Some(other) => self.deferred(other),
                None => break,
            }
        }
        match t.then.take() {
            Some(Then::Start(frame)) => Flow::Become(frame),
            Some(Then::Done(value)) => Flow::Done(value),
            None => Flow::Done(0),
        }
    }

    /// The recursion guard, which uprobes have not. Probes and perf events share one counter a CPU
    /// (`bpf_prog_active`), the others have one each (`bpf_prog.active`). A program that is skipped
    /// counts a miss.
    fn guard_enter(&mut self, cpu: CpuId, a: Attached) -> bool {
        let c = &mut self.cpus[cpu.idx()];
        let free = match a.how {
            How::Regs | How::Record | How::Sample => !std::mem::replace(&mut c.prog_active, true),
            How::Raw | How::Trampoline => c.active.insert(a.prog),
            // They are run elsewhere.
            How::Lsm | How::Modify => true,
        };
        if !free && let Some(p) = self.progs.get_mut(&a.prog) {
            p.misses += 1;
        }
        free
    }

    fn guard_leave(&mut self, cpu: CpuId, a: Attached) {
        let c = &mut self.cpus[cpu.idx()];
        match a.how {
            How::Regs | How::Record | How::Sample => c.prog_active = false,
            How::Raw | How::Trampoline => {
                c.active.remove(&a.prog);
            }
            How::Lsm | How::Modify => {}
        }
    }

    /// The object in guest memory that holds a context, and the address that R1 gets.
    fn trace_context(
        &mut self,
        cpu: CpuId,
        attached: Attached,
        f: &Fired,
    ) -> Result<(u64, u64), Errno> {
        match attached.how {
            How::Record => {
                let Point::Tracepoint(at) = f.point else { return Err(Errno::EINVAL) };
                let bytes = record::bytes(self, cpu, at, &f.args);
                let object = self.traced_object(&bytes)?;
                Ok((object, object))
            }
            How::Raw => {
                let object = self.words_object(&f.args)?;
                Ok((object, object))
            }
            How::Regs => {
                let bytes = regs::bytes(self, cpu, f);
                let object = self.traced_object(&bytes)?;
                Ok((object, object))
            }
            How::Sample => {
                let object = self.sample_context(cpu, attached.prog, f)?;
                Ok((object, object))
            }
            How::Trampoline | How::Lsm | How::Modify => {
                // func_ip, number of arguments, then the arguments and the result.
                let mut words = vec![entry_of(f.point), f.args.len() as u64];
                words.extend(&f.args);
                words.push(f.ret.unwrap_or(0));
                let object = self.words_object(&words)?;
                Ok((object, object + TRAMPOLINE_HEAD))
            }
        }
    }

    /// `bpf_overflow_handler`: registers of what was interrupted, and the sample.
    fn sample_context(&mut self, cpu: CpuId, prog: ProgId, f: &Fired) -> Result<u64, Errno> {
        let regs = regs::bytes(self, cpu, f);
        let (kern, data) = (size!("bpf_perf_event_data_kern"), size!("perf_sample_data"));
        let (regs_len, event) = (regs.len() as u64, size!("perf_event"));
        let object = self.kzalloc(kern + data + event + regs_len, "tracing context")?;
        let (sample, event) = (object + kern, object + kern + data);
        let at = event + size!("perf_event");
        self.mem.write(at, &regs).map_err(|_| Errno::EFAULT)?;
        let (period, now) = (self.sample_period(prog), self.now(cpu));
        let counted = self.perf_counted(cpu, prog).map_or(0, |c| c.time_ns);
        for (at, f, value) in [
            (object, field!("bpf_perf_event_data_kern", "regs"), at),
            (object, field!("bpf_perf_event_data_kern", "data"), sample),
            (object, field!("bpf_perf_event_data_kern", "event"), event),
            (sample, field!("perf_sample_data", "sample_flags"), PERF_SAMPLE_PERIOD),
            (sample, field!("perf_sample_data", "period"), period),
            (sample, field!("perf_sample_data", "time"), now),
            (event, field!("perf_event", "state"), 1),
            (event, field!("perf_event", "total_time_enabled"), counted),
            (event, field!("perf_event", "total_time_running"), counted),
        ] {
            self.set(at, f, value);
        }
        Ok(object)
    }

    /// The context of a trampoline of a function: its object, and the address for R1.
    pub(crate) fn trampoline_context(
        &mut self,
        row: usize,
        args: &[u64],
    ) -> Result<(u64, u64), Errno> {
        let fired = Fired { point: Point::Entry(row), args: args.to_vec(), ret: None };
        let attached = Attached { prog: ProgId(0), how: How::Trampoline, cookie: 0, only: None };
        self.trace_context(self.this_cpu, attached, &fired)
    }

    fn words_object(&mut self, words: &[u64]) -> Result<u64, Errno> {
        let object = self.kzalloc(words.len().max(1) as u64 * 8, "tracing context")?;
        for (n, word) in words.iter().enumerate() {
            self.mem.write_u64(object + n as u64 * 8, *word).map_err(|_| Errno::EFAULT)?;
        }
        Ok(object)
    }

    fn traced_object(&mut self, bytes: &[u8]) -> Result<u64, Errno> {
        let object = self.kzalloc(bytes.len() as u64, "tracing context")?;
        self.mem.write(object, bytes).map_err(|_| Errno::EFAULT)?;
        Ok(object)
    }

    /// Addresses of the kernel functions in progress on a CPU, innermost first. A program is
    /// the address of its first instruction: how far it is differs between architectures.
    pub(crate) fn kernel_stack(&self, cpu: CpuId) -> Vec<u64> {
        let mut out = Vec::new();
        for frame in self.cpus[cpu.idx()].frames.iter().rev() {
            match frame {
                Frame::Trace(t) => {
                    out.extend(t.point().and_then(function_address));
                    out.extend(t.caller.iter().filter_map(|f| super::symbol(f)));
                }
                Frame::Net(n) => out.extend(n.functions().iter().filter_map(|f| super::symbol(f))),
                Frame::Op(o) => out.extend(o.functions().into_iter().filter_map(super::symbol)),
                Frame::Prog(p) if !p.entry.callback => out.push(self.entry_of(p.prog)),
                Frame::Prog(_)
                | Frame::Helper(_)
                | Frame::TestRun(_)
                | Frame::Iter(_)
                | Frame::Timer(_)
                | Frame::Irq(_)
                | Frame::Lock(_)
                | Frame::Hook { .. } => {}
            }
        }
        // The function whose probe runs is in progress already.
        out.dedup();
        out
    }

    /// First instruction of the function whose probe runs.
    pub(crate) fn traced_function(&self, cpu: CpuId) -> Option<u64> {
        self.cpus[cpu.idx()].frames.iter().rev().find_map(|f| match f {
            Frame::Trace(t) => t.point().and_then(function_address),
            _ => None,
        })
    }
}

fn function_address(point: Point) -> Option<u64> {
    match point {
        Point::Entry(_) | Point::Exit(_) => Some(entry_of(point)),
        Point::User(_) | Point::UserRet(_) | Point::Tracepoint(_) | Point::Sample => None,
    }
}

/// First instruction of a point's function.
pub(super) fn entry_of(point: Point) -> u64 {
    match point {
        Point::Entry(n) | Point::Exit(n) => {
            let at = KERNEL_TEXT + n as u64 * KERNEL_FUNCTION_STRIDE;
            debug_assert!(symbol_at(at).is_some());
            at
        }
        Point::User(n) | Point::UserRet(n) => super::user::entry(n),
        Point::Tracepoint(_) | Point::Sample => 0,
    }
}
