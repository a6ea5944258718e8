//! Preemption of a task in the middle of a program (`preempt_schedule_irq`, `CONFIG_PREEMPT`).
//!
//! A program runs with preemption off where who runs it has turned it off: `bpf_test_run` with its
//! bottom halves, tracepoints (`__DO_TRACE`), probes, softirqs, `raw_tp` by `get_cpu`. Where it is
//! only bound to its CPU (`migrate_disable`), a task that waits for the CPU may come between:
//! syscall programs, trampolines (`__bpf_prog_enter_recur`), LSM and control group programs, and
//! uprobes. The workers of `bpf_wq` are no tasks of the model, and are not preempted.
//!
//! The task that was preempted keeps its frames, what its program holds and its read-side
//! sections; counters of the CPU stay behind, such as `bpf_prog.active`: a tracing program that
//! was preempted is skipped when the task that came between runs into it.

use super::{OpFrame, TaskId};
use crate::Kernel;
use crate::cpu::{CpuId, Frame, Site};
use crate::prog::ProgId;
use crate::race;

/// What of a CPU belongs to a task that was preempted, besides its frames.
#[derive(Clone, Debug)]
pub(crate) struct Preempted {
    called_from: u64,
    races: race::Parked,
    /// Since when.
    at_ns: u64,
    /// Where in its programs, innermost.
    pub(super) place: Option<Site>,
}

impl super::Task {
    /// Whether it was preempted in the middle of a program.
    pub(crate) fn is_preempted(&self) -> bool {
        self.preempted.is_some()
    }
}

impl Kernel {
    /// Tasks that may preempt the program a CPU stands in: those that wait for it, in order of
    /// adding. The CPU stands between two instructions of the program, or at a call.
    #[must_use]
    pub fn preemptors(&self, cpu: CpuId) -> Vec<TaskId> {
        let Some(rq) = self.sched.rqs.get(cpu.idx()) else { return Vec::new() };
        if rq.queue.waiting() == 0 || !self.is_preemptible(cpu) {
            return Vec::new();
        }
        let mut all: Vec<TaskId> = rq.queue.last().map(TaskId).collect();
        all.sort_unstable();
        all
    }

    /// Whether another task may run before the program on top of a CPU goes on.
    fn is_preemptible(&self, cpu: CpuId) -> bool {
        let (c, curr) = (&self.cpus[cpu.idx()], self.curr_task(cpu));
        let own = |f: &Frame| match f {
            Frame::Op(op) => op.task() == curr && curr.is_some(),
            // What a task calls in user space has no frame.
            Frame::Trace(t) => t.is_user() && curr.is_some(),
            _ => false,
        };
        let busy = c.pending.is_some() || c.stand.is_some() || !c.fired.is_empty();
        c.frames.first().is_some_and(own)
            && matches!(c.frames.last(), Some(Frame::Prog(_)))
            && !busy
            && c.frames.iter().all(may_be_preempted)
            && !self.context(cpu).preempt_off
    }

    /// Whether a tick is to be looked at, or `need_resched` is set, and the program on top of a
    /// CPU may be preempted: [`Kernel::tick`] comes next, at a point of the program.
    #[must_use]
    pub fn wants_tick(&self, cpu: CpuId) -> bool {
        let Some(rq) = self.sched.rqs.get(cpu.idx()) else { return false };
        (rq.tick || rq.resched) && rq.queue.waiting() > 0 && self.is_preemptible(cpu)
    }

    /// The tick of a task that runs a program (`task_tick_fair`), and what the way out of the
    /// interrupt looks at (`irqentry_exit_cond_resched`). `None` when the task is to be preempted,
    /// else when that is looked at again.
    pub fn tick(&mut self, cpu: CpuId) -> Option<u64> {
        self.update_curr(cpu);
        let rq = &mut self.sched.rqs[cpu.idx()];
        rq.tick = false;
        if rq.resched {
            return None;
        }
        self.arm_tick(cpu);
        let next = self.sched.rqs[cpu.idx()].timer_ns;
        Some(next.expect("a slice ends when another task waits").0)
    }

    /// The task that runs is preempted, by one of [`Kernel::preemptors`], or by the one that the
    /// scheduler takes. What was preempted goes on when the scheduler comes back to it, or
    /// when it preempts in turn. `place` is where its programs are.
    pub fn preempt(&mut self, cpu: CpuId, by: Option<TaskId>, place: Option<Site>) {
        let curr = self.curr_task(cpu).expect("a task is preempted");
        let addr = self.sched.task(curr).addr;
        self.ledger.park(cpu, addr);
        let (races, at_ns) = (self.race_park(cpu), self.now(cpu));
        let c = &mut self.cpus[cpu.idx()];
        let called_from = std::mem::take(&mut c.called_from);
        c.cancelling = 0;
        let task = &mut self.sched.tasks[curr.idx()];
        task.frames = std::mem::take(&mut c.frames);
        task.preempted = Some(Box::new(Preempted { called_from, races, at_ns, place }));
        self.sched.preempted += 1;
        let rq = &mut self.sched.rqs[cpu.idx()];
        (rq.resched, rq.chosen) = (true, by);
    }

    pub(super) fn take_preempted(&mut self, id: TaskId) -> Option<Preempted> {
        self.sched.task_mut(id).preempted.take().map(|was| *was)
    }

    /// A task that was preempted goes on.
    pub(super) fn preempted_resumes(&mut self, cpu: CpuId, id: TaskId, was: Preempted) {
        self.sched.preempted -= 1;
        self.ledger.unpark(cpu, self.sched.task(id).addr);
        self.race_unpark(cpu, was.races);
        let now = self.now(cpu);
        let cancelled = |f: &&Frame| matches!(f, Frame::Prog(p) if p.cancelled.is_some());
        let c = &mut self.cpus[cpu.idx()];
        c.frames = std::mem::take(&mut self.sched.tasks[id.idx()].frames);
        for f in &mut c.frames {
            if let Frame::Prog(p) = f {
                (p.away_ns, p.resumed_ns) = (p.away_ns + now.saturating_sub(was.at_ns), now);
            }
        }
        c.cancelling = c.frames.iter().filter(cancelled).count() as u32;
        c.called_from = was.called_from;
        c.resumed = Some(id);
    }

    /// When a task was preempted in the middle of a program, and where; by its `task_struct`.
    pub(crate) fn preempted_at(&self, task: u64) -> Option<(u64, Site)> {
        let was = self.sched.tasks.iter().find(|t| t.addr == task)?.preempted.as_ref()?;
        Some((was.at_ns, was.place?))
    }

    /// Tasks that were preempted while they ran a program, and on which CPU they go on.
    #[must_use]
    pub fn preempted_in(&self, prog: ProgId) -> Vec<(CpuId, TaskId)> {
        let runs = |f: &Frame| {
            matches!(f, Frame::Prog(p) if p.cancelled.is_none()
                && (p.prog == prog || p.entry.prog == prog))
        };
        let all = (0..).map(TaskId).zip(&self.sched.tasks);
        let in_it = all.filter(|(_, t)| t.preempted.is_some() && t.frames.iter().any(runs));
        in_it.map(|(id, t)| (t.cpu, id)).collect()
    }
}

/// Whether a kernel path leaves preemption on for the programs that it runs.
fn may_be_preempted(f: &Frame) -> bool {
    match f {
        Frame::Prog(_) | Frame::Helper(_) | Frame::Iter(_) => true,
        Frame::TestRun(t) => t.is_preemptible(),
        Frame::Trace(t) => t.is_preemptible(),
        Frame::Op(op) => !matches!(**op, OpFrame::Wake(_) | OpFrame::MmapUnlock(_)),
        Frame::Net(_) | Frame::Timer(_) | Frame::Irq(_) | Frame::Lock(_) | Frame::Hook { .. } => {
            false
        }
    }
}
