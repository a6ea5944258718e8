//! The frame machine: runs kernel paths until a program must run or nothing is left.

use crate::Kernel;
use crate::cancel::Plan;
use crate::context::Stand;
use crate::cpu::{CancelledBy, CpuId, Fault, FaultKind, Flow, Frame, Input, ProgFrame, Step};
use crate::event::{EventKind, Value};
use crate::helpers::{self, Ret};
use crate::kfuncs;
use crate::prog::ProgId;
use crate::trace::{Then, TraceFrame};

impl Kernel {
    /// Queues kernel work on a CPU.
    pub fn submit(&mut self, cpu: CpuId, work: Frame) {
        self.cpus[cpu.idx()].queue.push_back(work);
    }

    /// Whether a CPU has neither work in progress nor queued.
    #[must_use]
    pub fn is_idle(&self, cpu: CpuId) -> bool {
        !self.cpus[cpu.idx()].has_work() && !self.sched_wants(cpu)
    }

    /// What the CPU does next, when no program is running on it, or the one that is stands at a
    /// point.
    pub fn next(&mut self, cpu: CpuId) -> Step {
        self.this_cpu = cpu;
        self.rcu_update(cpu);
        self.irq_work_run(cpu);
        let c = &mut self.cpus[cpu.idx()];
        if let Some(input) = c.pending.take()
            && let Some(frame) = c.frames.pop()
        {
            return self.drive(cpu, frame, input);
        }
        if !c.interrupts.is_empty()
            && let Some(irq) = self.take_interrupt(cpu)
        {
            if self.cpus[cpu.idx()].frames.is_empty() {
                self.sched_pause(cpu);
            }
            return self.drive(cpu, irq, Input::Start);
        }
        let c = &mut self.cpus[cpu.idx()];
        if let Some(frame) = c.frames.pop() {
            return match (frame, c.stand.take()) {
                (frame, Some(Stand { until: Some(t), point })) if t > c.clock_ns => {
                    c.frames.push(frame);
                    c.stand = Some(Stand { until: Some(t), point });
                    Step::Pause
                }
                (Frame::Prog(p), _) => {
                    c.frames.push(Frame::Prog(p));
                    Step::Continue
                }
                (frame, _) => self.drive(cpu, frame, Input::Again),
            };
        }
        match c.queue.pop_front() {
            Some(frame) => {
                self.sched_pause(cpu);
                self.drive(cpu, frame, Input::Start)
            }
            // What fired in a run that was cancelled.
            None if !c.fired.is_empty() => {
                let items = std::mem::take(&mut c.fired);
                let frame = TraceFrame::new(items, Then::Done(0));
                self.drive(cpu, Frame::Trace(Box::new(frame)), Input::Start)
            }
            None => match self.sched_next(cpu) {
                Some(frame) => self.drive(cpu, frame, Input::Start),
                // A task goes on in the kernel path in which it blocked or was preempted.
                None if !self.cpus[cpu.idx()].frames.is_empty() => self.next(cpu),
                None => {
                    self.objects_sweep();
                    Step::Idle
                }
            },
        }
    }

    /// A program called a helper.
    pub fn helper_call(&mut self, cpu: CpuId, id: i32, args: [u64; 5]) -> Step {
        self.this_cpu = cpu;
        let Some(frame) = self.cpus[cpu.idx()].prog_frame_mut() else {
            return self.abort(cpu, Fault::unsupported(format!("helper {id} outside a program")));
        };
        let prog = frame.prog;
        let Some(mut row) = helpers::row(id) else {
            frame.helper_calls += 1;
            return self.abort(cpu, Fault::unsupported(helper_text(id)));
        };
        let mut plan = Plan::Do;
        if self.is_cancelled(cpu) {
            row = helpers::row(helpers::cleanup_of(id)).unwrap_or(row);
            plan = self.plan_helper((id, row.name), args, self.running_type(cpu));
        }
        self.call(cpu, prog, (row.name, row.nargs, row.body), args, plan)
    }

    /// A program called a kernel function by its BTF id.
    pub fn kfunc_call(&mut self, cpu: CpuId, btf_id: i32, args: [u64; 5]) -> Step {
        self.this_cpu = cpu;
        let name = || self.vmlinux_btf().name(btf_id.cast_unsigned()).to_owned();
        let Some(frame) = self.cpus[cpu.idx()].prog_frame() else {
            let what = format!("kfunc {} outside a program", name());
            return self.abort(cpu, Fault::unsupported(what));
        };
        let prog = frame.prog;
        let Some(row) = kfuncs::by_id(self.config.arch, btf_id) else {
            let what = format!("kfunc {}", name());
            return self.abort(cpu, Fault::unsupported(what));
        };
        let mut plan = Plan::Do;
        if self.is_cancelled(cpu) {
            plan = self.plan_kfunc(row.name, btf_id);
        }
        self.call(cpu, prog, (row.name, row.nargs, row.body), args, plan)
    }

    /// A call of the kernel by the program on top.
    fn call(
        &mut self,
        cpu: CpuId,
        prog: ProgId,
        (name, nargs, body): (&'static str, u8, helpers::Body),
        args: [u64; 5],
        plan: Plan,
    ) -> Step {
        let frame = self.cpus[cpu.idx()].prog_frame_mut().expect("a program called");
        let nth = frame.helper_calls;
        frame.helper_calls += 1;
        let seen = args.iter().take(nargs.into()).map(|a| Value::of(*a)).collect();
        let at = self.events.len();
        self.emit(cpu, EventKind::HelperCall { prog, name, args: seen, ret: None, nth });
        self.race_call(cpu, name, args);
        let ret = match (plan, self.inject_call(cpu, name, prog)) {
            (Plan::Answer(r0), _) | (Plan::Do, Some(r0)) => Ret::Val(r0),
            (Plan::Do, None) => body(self, cpu, args),
        };
        self.cpus[cpu.idx()].call_stack.clear();
        self.irq_work_run(cpu);
        // A program that may sleep begins and ends sections by such calls.
        if self.is_sleepable(prog) {
            self.rcu_update(cpu);
        }
        match ret {
            Ret::Val(r0) => {
                self.race_returned(cpu, r0);
                if let EventKind::HelperCall { ret, .. } = &mut self.events[at].kind {
                    *ret = Some(Value::of(r0));
                }
                if self.cpus[cpu.idx()].fired.is_empty() {
                    return Step::Resume { r0 };
                }
                let items = std::mem::take(&mut self.cpus[cpu.idx()].fired);
                let frame = TraceFrame::new(items, Then::Done(r0));
                self.drive(cpu, Frame::Trace(Box::new(frame)), Input::Start)
            }
            Ret::Frame(frame) => {
                if let Some(p) = self.cpus[cpu.idx()].prog_frame_mut() {
                    p.calling = Some((name, nth));
                }
                self.drive(cpu, frame, Input::Start)
            }
            Ret::Fault(fault) => self.abort(cpu, fault),
        }
    }

    /// A program called `bpf_throw`. The verifier has seen that nothing is held.
    pub fn prog_throw(&mut self, cpu: CpuId, cookie: u64) -> Step {
        self.this_cpu = cpu;
        let Some(frame) = self.cpus[cpu.idx()].prog_frame_mut() else {
            return self.abort(cpu, Fault::unsupported("bpf_throw outside a program"));
        };
        let (prog, nth) = (frame.prog, frame.helper_calls);
        frame.helper_calls += 1;
        let args = vec![Value::of(cookie)];
        self.emit(cpu, EventKind::HelperCall { prog, name: "bpf_throw", args, ret: None, nth });
        self.emit(cpu, EventKind::Cancelled { prog, by: CancelledBy::Throw });
        Step::Throw { cookie }
    }

    /// The innermost program or callback reached its `exit`.
    pub fn prog_return(&mut self, cpu: CpuId, mut r0: u64) -> Step {
        self.this_cpu = cpu;
        let top = self.cpus[cpu.idx()].frames.pop();
        let Some(Frame::Prog(p)) = top else {
            panic!("prog_return without a running program");
        };
        if p.cancelled.is_some() {
            r0 = self.value_of_nothing(p.prog);
            self.run_over(cpu, &p, false);
        }
        if !p.entry.callback {
            let ran = self.now(cpu).saturating_sub(p.started_ns);
            if let Some(prog) = self.progs.get_mut(&p.entry.prog) {
                prog.run_time_ns += ran;
            }
            self.emit(cpu, EventKind::Exit { prog: p.prog, ret: r0 });
            self.check_leaks(cpu);
            self.rcu_update(cpu);
        }
        self.finish(cpu, r0)
    }

    /// The innermost program cannot go on.
    pub fn prog_fault(&mut self, cpu: CpuId, fault: Fault) -> Step {
        self.this_cpu = cpu;
        let fault = self.named(fault);
        self.abort(cpu, fault)
    }

    /// A tail call went through natively.
    pub fn tail_called(&mut self, cpu: CpuId, to: ProgId) {
        if let Some(p) = self.cpus[cpu.idx()].prog_frame_mut() {
            let from = std::mem::replace(&mut p.prog, to);
            p.tail_calls += 1;
            self.emit(cpu, EventKind::TailCall { from, to });
            self.cancel_tail(cpu, to);
        }
    }

    /// Gives a value to the frame below the one that just ended.
    fn finish(&mut self, cpu: CpuId, value: u64) -> Step {
        match self.cpus[cpu.idx()].frames.pop() {
            // Tasks may go on for ever: the machine decides when.
            None if self.sched_wants(cpu) => Step::Idle,
            None => self.next(cpu),
            Some(Frame::Prog(mut p)) => {
                if let Some((name, nth)) = p.calling.take() {
                    self.race_returned(cpu, value);
                    let (prog, ret) = (p.prog, Value::of(value));
                    self.emit(cpu, EventKind::HelperReturn { prog, name, ret, nth });
                }
                self.cpus[cpu.idx()].frames.push(Frame::Prog(p));
                Step::Resume { r0: value }
            }
            Some(frame) => self.drive(cpu, frame, Input::Return(value)),
        }
    }

    fn drive(&mut self, cpu: CpuId, mut frame: Frame, mut input: Input) -> Step {
        loop {
            let caller = match &frame {
                Frame::Net(n) => n.functions(),
                _ => &[],
            };
            let flow = self.frame_step(cpu, frame, input);
            match self.with_fired(cpu, caller, flow) {
                Flow::Call { frame: this, child } => {
                    self.cpus[cpu.idx()].frames.push(this);
                    if let Frame::Prog(p) = child {
                        return self.enter(cpu, p);
                    }
                    (frame, input) = (child, Input::Start);
                }
                Flow::Become(Frame::Prog(p)) => return self.enter(cpu, p),
                Flow::Become(next) => (frame, input) = (next, Input::Start),
                Flow::Pause { frame, point } => {
                    return self.stands(cpu, frame, Stand { point: Some(point), until: None });
                }
                Flow::Wait { frame, until } => {
                    return self.stands(cpu, frame, Stand { point: None, until: Some(until) });
                }
                Flow::Iret(below) => {
                    self.cpus[cpu.idx()].stand = below;
                    return self.next(cpu);
                }
                Flow::Done(value) => return self.finish(cpu, value),
                Flow::Unwind => return self.cancel_unwind(cpu),
                Flow::Fault(fault) => return self.abort(cpu, fault),
            }
        }
    }

    fn stands(&mut self, cpu: CpuId, frame: Frame, stand: Stand) -> Step {
        if let Some(point) = &stand.point {
            self.inject_interrupts(cpu, point);
        }
        let c = &mut self.cpus[cpu.idx()];
        c.frames.push(frame);
        c.stand = Some(stand);
        Step::Pause
    }

    fn frame_step(&mut self, cpu: CpuId, frame: Frame, input: Input) -> Flow {
        match frame {
            Frame::Prog(_) => unreachable!("programs are run by the engine"),
            Frame::Helper(h) => self.helper_step(cpu, h, input),
            Frame::TestRun(t) => self.test_run_step(cpu, t, input),
            Frame::Iter(f) => self.iter_step(cpu, f, input),
            Frame::Net(n) => self.net_step(cpu, *n, input),
            Frame::Trace(t) => self.trace_step(cpu, *t, input),
            Frame::Irq(irq) => Self::irq_step(irq),
            Frame::Lock(path) => self.lock_step(cpu, path),
            Frame::Timer(t) => {
                let ended = !matches!(input, Input::Start);
                let flow = self.timer_step(cpu, t, input);
                if ended {
                    self.check_leaks(cpu);
                    self.rcu_update(cpu);
                }
                flow
            }
            Frame::Op(o) => self.op_step(cpu, *o, input),
            Frame::Hook { prog, ctx, cookie, free } => match input {
                Input::Start | Input::Again => {
                    let mut child = ProgFrame::main(prog, self.entry_of(prog), ctx);
                    child.cookie = cookie;
                    let frame = Frame::Hook { prog, ctx, cookie, free };
                    Flow::Call { frame, child: Frame::Prog(child) }
                }
                Input::Return(_) | Input::Aborted(_) => {
                    if free != 0 {
                        self.kfree(free, "hook context");
                    }
                    Flow::Done(if let Input::Return(v) = input { v } else { 0 })
                }
            },
        }
    }

    /// Native entry point of a program, 0 when it has none.
    #[must_use]
    pub fn entry_of(&self, prog: ProgId) -> u64 {
        self.progs.get(&prog).map_or(0, |p| p.entry)
    }

    fn enter(&mut self, cpu: CpuId, mut p: ProgFrame) -> Step {
        p.started_ns = self.now(cpu);
        let called = |f: &Frame| matches!(f, Frame::Prog(_));
        if self.races.is_on() && !self.cpus[cpu.idx()].frames.iter().any(called) {
            self.race_run(cpu);
        }
        if !p.entry.callback {
            self.emit(cpu, EventKind::Enter { prog: p.prog });
            if let Some(prog) = self.progs.get_mut(&p.prog) {
                prog.run_cnt += 1;
            }
        }
        let entry = p.entry;
        self.cpus[cpu.idx()].frames.push(Frame::Prog(p));
        self.rcu_update(cpu);
        Step::Enter(entry)
    }

    /// A fault in a freed object, or at its edge, is told with where the object came from and went.
    fn named(&self, fault: Fault) -> Fault {
        let FaultKind::Memory { va, .. } = fault.kind else { return fault };
        let section = self.oldest_section(self.this_cpu);
        match self.alloc.check(va, 1, section, self.site("a program")) {
            Err(mut report) => {
                self.resolve_report(&mut report);
                report.at.source = fault.at.map(|(p, i)| self.source_of(p, i).into());
                Fault { kind: FaultKind::Memcheck(report), at: fault.at }
            }
            Ok(()) => fault,
        }
    }

    /// Cancels the program run on top: its callbacks, helper frames and the program itself.
    fn abort(&mut self, cpu: CpuId, fault: Fault) -> Step {
        let prog = self.cpus[cpu.idx()].prog_frame().map(|p| p.prog);
        self.emit(cpu, EventKind::Fault { prog, fault: fault.clone() });
        if let Some(prog) = prog {
            self.emit(cpu, EventKind::Cancelled { prog, by: CancelledBy::Fault });
        }
        let contexts = self.drop_run(cpu);
        self.check_leaks(cpu);
        self.rcu_update(cpu);
        let c = &mut self.cpus[cpu.idx()];
        c.pending = (!c.frames.is_empty()).then(|| Input::Aborted(fault.clone()));
        Step::Abort { fault, contexts }
    }

    /// What the run that just ended still holds.
    fn check_leaks(&mut self, cpu: CpuId) {
        let depth = self.cpus[cpu.idx()].frames.len() + 1;
        for (kind, addr, held) in self.ledger.take_above(cpu, depth) {
            let at = held.clock_ns;
            let what = format!("{kind:?} {addr:#x} acquired by {} at {at} ns", held.what);
            self.emit(cpu, EventKind::Leak { what });
        }
    }
}

/// A helper by name, or by number when it has none.
fn helper_text(id: i32) -> String {
    bpf::insn::helper_name(id).map_or_else(|| format!("helper #{id}"), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn a_helper_without_a_body_is_named_and_not_counted_as_modelled() {
        // bpf_lwt_push_encap: no lightweight tunnels.
        for (id, name) in [(73, "bpf_lwt_push_encap"), (999, "helper #999")] {
            let mut k = Kernel::new(Config::default());
            assert!(!helpers::modelled().any(|(have, _)| have == id));
            let hook = Frame::Hook { prog: ProgId(7), ctx: 0, cookie: 0, free: 0 };
            k.submit(CpuId(0), hook);
            let _ = k.next(CpuId(0));
            let Step::Abort { fault, .. } = k.helper_call(CpuId(0), id, [0; 5]) else { panic!() };
            assert_eq!(fault.kind, FaultKind::Unsupported(name.to_owned()));
        }
    }
}
