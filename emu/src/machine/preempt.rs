//! Register contexts and stack of a task that is preempted in the middle of a program.
//!
//! Programs run on the stack of their CPU, and go on there after a preemption: they do not change
//! their CPU (`migrate_disable`). So what they have on it is taken away, and put back at the same
//! addresses when the task goes on.

use kernel_model::cpu::CancelledBy;
use kernel_model::sched::TaskId;

use super::run::Turn;
use super::schedule::Pick;
use super::*;
use crate::unicorn::spec;

/// What a CPU had of a task that was preempted.
#[derive(Clone, Debug)]
pub(super) struct Parked {
    contexts: Vec<Context>,
    /// From the stack pointer to the stack's top.
    stack: Vec<u8>,
    /// Instructions of its run so far.
    retired: u64,
    /// Someone wanted runs of these programs to be cancelled.
    cancel: Vec<(ProgId, CancelledBy)>,
}

impl Machine {
    /// Adds the preemptions that are possible now to the CPUs that can go on: a program stands at
    /// a counted point, and a task waits for its CPU.
    pub(super) fn add_preemptions(&self, ready: &mut Vec<Pick>) {
        if !self.kernel.has_tasks() {
            return;
        }
        for at in 0..ready.len() {
            let cpu = ready[at].cpu;
            let lane = &self.lanes[cpu.idx()];
            if lane.at.is_some() && lane.next.is_none() {
                let tasks = self.kernel.preemptors(cpu).into_iter();
                ready.extend(tasks.map(|t| Pick { cpu, task: Some(t) }));
            }
        }
    }

    /// Before a step of a turn: the task that runs a program is preempted when its slice is over,
    /// else the turn's limit becomes the slice's end. The step may go as far, but for a program
    /// that does not stand at a point: it is looked at when it does. A step that was stopped in
    /// the middle goes on as far as it was to go.
    pub(super) fn tick(&mut self, turn: &mut Turn) {
        if self.mid.is_some() {
            return;
        }
        let cpu = turn.cpu;
        turn.until = turn.limit;
        if !self.kernel.wants_tick(cpu) {
            return;
        }
        let lane = &self.lanes[cpu.idx()];
        let stands = lane.contexts.last().is_some_and(|c| c.held.is_some());
        if !stands || lane.next.is_some() {
            turn.until = 0;
            return;
        }
        match self.kernel.tick(cpu) {
            Some(end) => turn.limit = end.min(turn.limit),
            None => self.preempt(cpu, None),
        }
        turn.until = turn.limit;
    }

    /// The program on a CPU stops where it stands: `by` runs next, or whom the scheduler takes.
    pub(super) fn preempt(&mut self, cpu: CpuId, by: Option<TaskId>) {
        let task = self.kernel.curr_task(cpu).expect("a task is preempted");
        let place = self.backtrace(cpu).first().copied();
        let spec = spec(self.arch());
        let lane = &mut self.lanes[cpu.idx()];
        let mut contexts = std::mem::take(&mut lane.contexts);
        let top = contexts.last_mut().expect("a program is preempted");
        if !std::mem::take(&mut lane.switched)
            && let Some(slot) = &self.slots[cpu.idx()]
        {
            top.regs = slot.vcpu.regs();
        }
        let sp = top.regs.get(spec.sp);
        let bytes = usize::try_from(stack_top(cpu.0) - sp).expect("a stack is small");
        let stack = self.kernel.mem.read_vec(sp, bytes).expect("the stack is mapped");
        let retired = lane.charged - lane.run_start;
        lane.at = None;
        lane.parked.insert(task, Parked { contexts, stack, retired, cancel: Vec::new() });
        self.kernel.preempt(cpu, by, place);
    }

    /// Takes back what a task had that goes on.
    pub(super) fn resume_preempted(&mut self, cpu: CpuId) {
        let Some(task) = self.kernel.cpus[cpu.idx()].resumed.take() else { return };
        let lane = &mut self.lanes[cpu.idx()];
        let parked = lane.parked.remove(&task).expect("it was preempted here");
        let Parked { contexts, stack, retired, cancel } = parked;
        assert!(lane.contexts.is_empty(), "a task's programs end before another goes on");
        (lane.contexts, lane.switched) = (contexts, true);
        lane.run_start = lane.charged - retired;
        let at = stack_top(cpu.0) - stack.len() as u64;
        self.kernel.mem.write(at, &stack).expect("the stack is mapped");
        for (prog, by) in cancel {
            self.cancel_on(cpu, prog, by);
        }
    }

    /// Cancels runs of a program whose tasks were preempted, as soon as they go on; false when
    /// there are none.
    pub(super) fn cancel_parked(&mut self, prog: ProgId, by: CancelledBy) -> bool {
        let all = self.kernel.preempted_in(prog);
        for (cpu, task) in &all {
            if let Some(parked) = self.lanes[cpu.idx()].parked.get_mut(task) {
                parked.cancel.push((prog, by));
            }
        }
        !all.is_empty()
    }
}
