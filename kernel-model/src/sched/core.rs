//! Run queues: who runs, wakes, sleeps, moves (kernel/sched/core.c, and the choice of a CPU in
//! kernel/sched/fair.c).

use super::fair::{Place, TICK_NS};
use super::{DEAD, Due, INTERRUPTIBLE, State, TaskId, UNINTERRUPTIBLE};
use crate::context::Level;
use crate::cpu::{CpuId, Frame, Input};
use crate::trace::{Then, TraceFrame};
use crate::{EventKind, Kernel, field};

/// `sysctl_sched_nr_migrate`.
const MIGRATE_MAX: usize = 32;
/// `sd->busy_factor`: a CPU that has work of its own looks so much more rarely.
const BUSY_FACTOR: u64 = 16;

impl Kernel {
    /// Whether a CPU has to look at its tasks now.
    pub(crate) fn sched_wants(&self, cpu: CpuId) -> bool {
        let Some(rq) = self.sched.rqs.get(cpu.idx()) else { return false };
        let runs = |t: TaskId| self.sched.task(t).run_left_ns == 0;
        rq.resched || rq.tick || rq.switching.is_some() || rq.curr.is_some_and(runs)
    }

    /// What the CPU does on behalf of its tasks, when it has nothing else to do: a frame, or
    /// nothing before [`Kernel::sched_wants`] says so.
    pub(crate) fn sched_next(&mut self, cpu: CpuId) -> Option<Frame> {
        if cpu.idx() >= self.sched.rqs.len() {
            return None;
        }
        let frame = self.sched_path(cpu);
        if frame.is_some() {
            // If it comes to a program, that has to know when the slice ends.
            self.sched.rqs[cpu.idx()].tick = true;
        }
        frame
    }

    fn sched_path(&mut self, cpu: CpuId) -> Option<Frame> {
        loop {
            if !self.cpus[cpu.idx()].fired.is_empty() {
                let items = std::mem::take(&mut self.cpus[cpu.idx()].fired);
                return Some(Frame::Trace(Box::new(TraceFrame::new(items, Then::Done(0)))));
            }
            if std::mem::take(&mut self.sched.rqs[cpu.idx()].paused) {
                let now = self.now(cpu);
                self.sched.rqs[cpu.idx()].since_ns = now;
            }
            if let Some(next) = self.sched.rqs[cpu.idx()].switching.take() {
                self.switch_finish(cpu, next);
                // In the kernel path in which the task blocked or was preempted.
                if !self.cpus[cpu.idx()].frames.is_empty() {
                    return None;
                }
                continue;
            }
            self.update_curr(cpu);
            let rq = &mut self.sched.rqs[cpu.idx()];
            rq.tick = false;
            if std::mem::take(&mut rq.resched) {
                self.schedule(cpu);
                // In the program that was to be preempted.
                if !self.cpus[cpu.idx()].frames.is_empty() {
                    return None;
                }
                continue;
            }
            let curr = rq.curr?;
            match self.signal_deliver(cpu, curr) {
                Some(None) => continue,
                Some(path) => return path,
                None => {}
            }
            if self.sched.task(curr).run_left_ns > 0 {
                self.arm_tick(cpu);
                return None;
            }
            let began = self.now(cpu);
            let frame = self.next_op(cpu, curr);
            // The machine is asked again once time has passed.
            if frame.is_some() || self.now(cpu) > began {
                return frame;
            }
        }
    }

    /// Work of another kind begins: what the task has run until now is its own.
    pub(crate) fn sched_pause(&mut self, cpu: CpuId) {
        if self.sched.rqs.get(cpu.idx()).is_some_and(|rq| rq.curr.is_some()) {
            self.update_curr(cpu);
            // Looked at again when the work is done: until then time is not the task's.
            let rq = &mut self.sched.rqs[cpu.idx()];
            (rq.paused, rq.tick) = (true, true);
        }
    }

    /// `update_curr`.
    pub(super) fn update_curr(&mut self, cpu: CpuId) {
        let now = self.now(cpu);
        let rq = &mut self.sched.rqs[cpu.idx()];
        let Some(curr) = rq.curr else { return };
        let ns = now.saturating_sub(rq.since_ns);
        rq.since_ns = now;
        if ns == 0 || rq.paused {
            return;
        }
        let waiting = rq.queue.waiting() > 0;
        let over = rq.queue.curr_mut().is_some_and(|e| e.run(ns));
        rq.resched |= over && waiting;
        let task = &mut self.sched.tasks[curr.idx()];
        task.run_left_ns = task.run_left_ns.saturating_sub(ns);
    }

    /// A timer for when the task that runs is done with what it does in user space, or its slice
    /// is over: that is seen at a tick, unless a quantum was asked for.
    pub(super) fn arm_tick(&mut self, cpu: CpuId) {
        let now = self.now(cpu);
        let exact = self.sched.quantum.is_some();
        let rq = &mut self.sched.rqs[cpu.idx()];
        let left = rq.curr.map_or(0, |t| self.sched.tasks[t.idx()].run_left_ns);
        let mut at = if left > 0 { now + left } else { u64::MAX };
        if rq.queue.waiting() > 0
            && let Some(e) = rq.queue.curr_mut()
        {
            let over = now + e.left_ns();
            at = at.min(if exact { over } else { over.next_multiple_of(TICK_NS) });
        }
        if at == u64::MAX || rq.timer_ns.is_some_and(|t| t.0 == at) {
            return;
        }
        if let Some(key) = rq.timer_ns.take() {
            self.sched.due_ns.remove(&key);
        }
        let key = self.sched.arm(at, Due::Tick(cpu));
        self.sched.rqs[cpu.idx()].timer_ns = Some(key);
    }

    /// What is due at a time.
    pub(crate) fn sched_expire(&mut self, now: u64) {
        while let Some(entry) = self.sched.due_ns.first_entry().filter(|e| e.key().0 <= now) {
            let (key, due) = (*entry.key(), *entry.get());
            entry.remove();
            match due {
                Due::Tick(cpu) => {
                    self.raise_clock(cpu, key.0);
                    let rq = &mut self.sched.rqs[cpu.idx()];
                    (rq.timer_ns, rq.tick) = (None, true);
                }
                Due::Wake(id) => {
                    let task = self.sched.task_mut(id);
                    (task.timer_ns, task.told) = (None, 0);
                    let cpu = task.cpu;
                    self.raise_clock(cpu, key.0);
                    if self.cpus[cpu.idx()].frames.is_empty() {
                        self.task_wake(cpu, id);
                    } else {
                        let work = Frame::Op(Box::new(super::OpFrame::Wake(id)));
                        self.interrupt(cpu, Level::Hard, [work]);
                    }
                }
                Due::Balance => self.balance(key.0),
                Due::Stalls => self.stalls(key.0),
            }
        }
    }

    /// Time has passed on a CPU that had no work.
    pub(super) fn raise_clock(&mut self, cpu: CpuId, now: u64) {
        let c = &mut self.cpus[cpu.idx()];
        if c.frames.is_empty() && c.queue.is_empty() {
            c.clock_ns = c.clock_ns.max(now);
        }
    }

    /// `schedule`: picks the next task, and tells of it while the old one is still current.
    fn schedule(&mut self, cpu: CpuId) {
        let now = self.now(cpu);
        let rq = &mut self.sched.rqs[cpu.idx()];
        let prev = rq.curr;
        let mut next = rq.queue.pick(rq.chosen.take().map(|t| t.0)).map(TaskId);
        if next.is_none() && self.newidle(cpu) {
            next = self.sched.rqs[cpu.idx()].queue.pick(None).map(TaskId);
        }
        if next == prev {
            if let Some((id, was)) = prev.and_then(|p| Some((p, self.take_preempted(p)?))) {
                self.preempted_resumes(cpu, id, was);
            }
            return;
        }
        // __state of a task that is preempted is TASK_RUNNING.
        let state = prev.map_or(0, |p| match self.sched.task(p).state {
            State::New | State::Runnable => 0,
            State::Blocked(true) => INTERRUPTIBLE,
            State::Blocked(false) => UNINTERRUPTIBLE,
            State::Dead => DEAD,
        });
        let waited = next.and_then(|n| {
            let task = self.sched.task_mut(n);
            task.woken_ns.take().map(|at| now.saturating_sub(at))
        });
        let (from, to) = (self.switch_side(cpu, prev), self.switch_side(cpu, next));
        if let Some(p) = prev {
            let counted = match state {
                0 => {
                    self.sched.task_mut(p).ready_ns = now;
                    field!("task_struct", "nivcsw")
                }
                _ => field!("task_struct", "nvcsw"),
            };
            let n = self.get(from.0, counted);
            self.set(from.0, counted, n + 1);
        }
        self.emit(cpu, EventKind::Switch { from: from.1, to: to.1, waited });
        self.sched.rqs[cpu.idx()].switching = Some(next);
        let preempt = u64::from(state == 0 && prev.is_some());
        self.fire(cpu, "sched_switch", &[preempt, from.0, to.0, state]);
    }

    /// `task_struct` and name of a task, or of the idle task.
    fn switch_side(&self, cpu: CpuId, id: Option<TaskId>) -> (u64, std::sync::Arc<str>) {
        match id {
            Some(id) => {
                let t = self.sched.task(id);
                (t.addr, std::sync::Arc::clone(&t.name))
            }
            None => {
                let idle = self.idle_tasks[cpu.idx()];
                (idle, self.task_comm(idle).into())
            }
        }
    }

    /// `context_switch` and `finish_task_switch`.
    fn switch_finish(&mut self, cpu: CpuId, next: Option<TaskId>) {
        let now = self.now(cpu);
        let rq = &mut self.sched.rqs[cpu.idx()];
        let prev = std::mem::replace(&mut rq.curr, next);
        rq.since_ns = now;
        if let Some(p) = prev {
            let addr = self.sched.task(p).addr;
            self.set(addr, field!("task_struct", "on_cpu"), 0);
            self.switched_away(cpu, p);
        }
        let addr = self.switch_side(cpu, next).0;
        self.race_switch(cpu, self.cpus[cpu.idx()].task, addr);
        self.cpus[cpu.idx()].task = addr;
        self.set(addr, field!("task_struct", "on_cpu"), 1);
        let Some(next) = next else { return };
        self.sched.task_mut(next).cpu = cpu;
        if let Some(was) = self.take_preempted(next) {
            self.preempted_resumes(cpu, next, was);
        } else if !self.sched.task(next).frames.is_empty() {
            let told = self.sched.task(next).told;
            let c = &mut self.cpus[cpu.idx()];
            c.frames = std::mem::take(&mut self.sched.tasks[next.idx()].frames);
            c.pending = Some(Input::Return(told));
        }
    }

    /// What became of the task in the meantime.
    fn switched_away(&mut self, cpu: CpuId, id: TaskId) {
        let task = self.sched.task_mut(id);
        let (moving, woken) = (task.moving.take(), std::mem::take(&mut task.woken));
        let addr = task.addr;
        match task.state {
            State::Dead => {
                self.mm_exit(id);
                self.task_gone(addr);
            }
            State::Blocked(_) if woken => self.task_wake(cpu, id),
            State::Runnable => {
                if let Some(to) = moving {
                    self.task_move(cpu, id, to);
                }
            }
            State::New | State::Blocked(_) => {}
        }
    }

    /// `move_queued_task` of one that is in no queue.
    fn task_move(&mut self, from: CpuId, id: TaskId, to: CpuId) {
        let now = self.now(from);
        self.raise_clock(to, now);
        let task = self.sched.task_mut(id);
        (task.cpu, task.ready_ns) = (to, now);
        let (addr, e) = (task.addr, task.entity);
        self.fire(from, "sched_migrate_task", &[addr, to.0.into()]);
        self.set(addr, field!("task_struct", "thread_info.cpu"), to.0.into());
        self.enqueue(to, id, e, Place::Wakeup);
    }

    /// The task that runs on a CPU; none while the process that makes test runs does.
    #[must_use]
    pub fn curr_task(&self, cpu: CpuId) -> Option<TaskId> {
        let curr = self.sched.rqs.get(cpu.idx()).and_then(|rq| rq.curr);
        curr.filter(|_| !self.is_caller(cpu))
    }

    /// Takes the task that runs off its CPU (`deactivate_task`); the switch follows.
    pub(super) fn deactivate(&mut self, cpu: CpuId, id: TaskId, state: State) {
        self.update_curr(cpu);
        let rq = &mut self.sched.rqs[cpu.idx()];
        rq.resched = true;
        if let Some(e) = rq.queue.dequeue(id.0) {
            self.sched.task_mut(id).entity = e;
        }
        self.sched.task_mut(id).state = state;
        let addr = self.sched.task(id).addr;
        let number = match state {
            State::Blocked(true) => INTERRUPTIBLE,
            State::Blocked(false) => UNINTERRUPTIBLE,
            State::Dead => DEAD,
            State::New | State::Runnable => 0,
        };
        self.set(addr, field!("task_struct", "__state"), number);
        self.set(addr, field!("task_struct", "on_rq"), 0);
    }

    /// Blocks the running task until it is woken, in the middle of its operation: `frame` goes on
    /// then with what it is told. What is returned ends the step.
    pub(crate) fn task_block(&mut self, cpu: CpuId, id: TaskId, frame: Frame, signals: bool) {
        let mut frames = std::mem::take(&mut self.cpus[cpu.idx()].frames);
        frames.push(frame);
        self.sched.task_mut(id).frames = frames;
        self.deactivate(cpu, id, State::Blocked(signals));
    }

    /// Has a blocked task woken at a time.
    pub(crate) fn task_wake_at(&mut self, id: TaskId, at: u64) {
        let key = self.sched.arm(at, Due::Wake(id));
        self.sched.task_mut(id).timer_ns = Some(key);
    }

    /// `wake_up_new_task`.
    pub(crate) fn task_begin(&mut self, by: CpuId, id: TaskId) {
        self.sched.task_mut(id).cpu = by;
        self.task_wake(by, id);
    }

    /// `try_to_wake_up`, or `wake_up_new_task`, on behalf of a CPU.
    pub(crate) fn task_wake(&mut self, by: CpuId, id: TaskId) {
        let at = self.sched.task(id).cpu;
        if self.sched.rqs[at.idx()].curr == Some(id) {
            // p->on_cpu: it is woken when the switch away from it is done.
            self.sched.task_mut(id).woken = true;
            return;
        }
        let new = match self.sched.task(id).state {
            State::New => true,
            State::Blocked(_) => false,
            State::Runnable | State::Dead => return,
        };
        self.race_wake(by, self.sched.task(id).addr);
        if new {
            self.cgroups.join(self.sched.task(id).addr);
        }
        if let Some(key) = self.sched.task_mut(id).timer_ns.take() {
            self.sched.due_ns.remove(&key);
        }
        let cpu = if new { self.idlest_cpu(id) } else { self.wake_cpu(id) };
        let now = self.now(by);
        self.raise_clock(cpu, now);
        let old = self.sched.task(id).cpu;
        let task = &mut self.sched.tasks[id.idx()];
        let mut e = task.entity;
        // DELAY_DEQUEUE: who was ahead would have stayed queued until it was no more.
        if e.vlag_ns < 0 {
            let average = self.sched.rqs[old.idx()].queue.average();
            e.vlag_ns = (average - e.vruntime_ns).clamp(e.vlag_ns, 0);
        }
        (task.state, task.cpu) = (State::Runnable, cpu);
        (task.woken_ns, task.ready_ns) = (Some(now), now);
        let addr = task.addr;
        self.set(addr, field!("task_struct", "__state"), 0);
        self.set(addr, field!("task_struct", "thread_info.cpu"), cpu.0.into());
        self.enqueue(cpu, id, e, if new { Place::Initial } else { Place::Wakeup });
        let point = if new { "sched_wakeup_new" } else { "sched_wakeup" };
        self.fire(by, point, &[addr]);
    }

    fn enqueue(&mut self, cpu: CpuId, id: TaskId, e: super::Entity, place: Place) {
        self.update_curr(cpu);
        let addr = self.sched.task(id).addr;
        self.set(addr, field!("task_struct", "on_rq"), 1);
        let rq = &mut self.sched.rqs[cpu.idx()];
        rq.queue.enqueue(id.0, e, place);
        rq.resched |= rq.queue.preempts(id.0);
        // Who runs alone has no tick for its slice.
        rq.tick = true;
        if !self.sched.balancing && self.config.cpus > 1 {
            self.sched.balancing = true;
            let period = TICK_NS * u64::from(self.config.cpus);
            let at = self.now(cpu) + period;
            self.sched.arm(at, Due::Balance);
        }
    }

    /// `available_idle_cpu`.
    fn is_free(&self, cpu: CpuId) -> bool {
        let (rq, c) = (&self.sched.rqs[cpu.idx()], &self.cpus[cpu.idx()]);
        let none = rq.curr.is_none() && rq.queue.waiting() == 0 && rq.switching.is_none();
        none && c.frames.is_empty()
    }

    fn llc_of(&self, cpu: CpuId) -> u32 {
        cpu.0 / self.sched.llc_cpus.max(1)
    }

    /// `select_task_rq_fair` of a wake-up: where it ran when that is free, else another of its
    /// cache domain that is, else where it ran.
    fn wake_cpu(&self, id: TaskId) -> CpuId {
        let task = self.sched.task(id);
        let prev = task.cpu;
        let allowed = || task.allowed.iter().map(|c| CpuId(*c));
        if !task.allowed.contains(&prev.0) {
            return self.idlest_cpu(id);
        }
        if self.is_free(prev) {
            return prev;
        }
        let near = |c: &CpuId| self.llc_of(*c) == self.llc_of(prev) && self.is_free(*c);
        allowed().find(near).unwrap_or(prev)
    }

    /// `sched_balance_find_dst_cpu`: the CPU with the least load, where it ran before others.
    fn idlest_cpu(&self, id: TaskId) -> CpuId {
        let task = self.sched.task(id);
        let cost = |c: &CpuId| {
            let load = self.sched.rqs[c.idx()].queue.load();
            (!self.is_free(*c), load, *c != task.cpu, c.0)
        };
        let allowed = task.allowed.iter().map(|c| CpuId(*c));
        allowed.min_by_key(cost).unwrap_or(task.cpu)
    }

    /// `sched_balance_newidle`: takes a task from the CPU that has the most, those of the own
    /// cache domain first.
    fn newidle(&mut self, cpu: CpuId) -> bool {
        let near = |c: &CpuId| self.llc_of(*c) == self.llc_of(cpu);
        let all = (0..self.config.cpus).map(CpuId).filter(|c| *c != cpu);
        let busy = all.filter(|c| self.sched.rqs[c.idx()].queue.waiting() > 0);
        let mut busy: Vec<CpuId> = busy.collect();
        busy.sort_by_key(|c| {
            (!near(c), std::cmp::Reverse(self.sched.rqs[c.idx()].queue.load()), c.0)
        });
        busy.into_iter().any(|from| self.pull(from, cpu, u64::MAX))
    }

    /// `detach_tasks`: moves one task of at most a weight.
    fn pull(&mut self, from: CpuId, to: CpuId, weight_max: u64) -> bool {
        let queue = &self.sched.rqs[from.idx()].queue;
        let fits = |id: &u32| {
            let task = self.sched.task(TaskId(*id));
            // A program is bound to its CPU (`migrate_disable`).
            task.allowed.contains(&to.0)
                && task.preempted.is_none()
                && queue.waits(*id).is_some_and(|e| e.weight <= weight_max)
        };
        let Some(id) = queue.last().take(MIGRATE_MAX).find(fits).map(TaskId) else { return false };
        self.update_curr(from);
        let moved = self.sched.rqs[from.idx()].queue.dequeue(id.0);
        self.sched.task_mut(id).entity = moved.expect("it waits there");
        let ready = self.sched.task(id).ready_ns;
        self.task_move(from, id, to);
        self.sched.task_mut(id).ready_ns = ready;
        true
    }

    /// `sched_balance_rq` of every CPU: half of what the busiest has more comes over.
    fn balance(&mut self, now: u64) {
        self.sched.balanced += 1;
        let busy_turn = self.sched.balanced.is_multiple_of(BUSY_FACTOR);
        let load = |k: &Kernel, c: CpuId| k.sched.rqs[c.idx()].queue.load();
        for cpu in (0..self.config.cpus).map(CpuId) {
            if !(busy_turn || self.is_free(cpu)) {
                continue;
            }
            let mine = load(self, cpu);
            let all = (0..self.config.cpus).map(CpuId).filter(|c| *c != cpu);
            let others = all.filter(|c| self.sched.rqs[c.idx()].queue.waiting() > 0);
            let busiest = others.max_by_key(|c| (load(self, *c), std::cmp::Reverse(c.0)));
            let Some(busiest) = busiest else { continue };
            let more = load(self, busiest).saturating_sub(mine) / 2;
            let limit = if self.is_free(cpu) { u64::MAX } else { more };
            if more > 0 && self.pull(busiest, cpu, limit) {
                self.raise_clock(cpu, now);
            }
        }
        let waiting = self.sched.rqs.iter().any(|rq| rq.queue.waiting() > 0);
        self.sched.balancing = waiting;
        if waiting {
            let period = TICK_NS * u64::from(self.config.cpus);
            self.sched.arm(now + period, Due::Balance);
        }
    }

    /// Has those told that wait for a CPU longer than the scenario allows, from now on.
    pub fn sched_watch_stalls(&mut self, now: u64) {
        if let Some(limit) = self.sched.stall_ns {
            self.sched.arm(now + limit / 2, Due::Stalls);
        }
    }

    /// `scx_watchdog_workfn` for the fair class: looks twice in the time that is allowed.
    fn stalls(&mut self, now: u64) {
        let Some(limit) = self.sched.stall_ns else { return };
        for n in 0..self.sched.tasks.len() {
            let task = &self.sched.tasks[n];
            let running = self.sched.rqs[task.cpu.idx()].curr == Some(TaskId(n as u32));
            let waited = now.saturating_sub(task.ready_ns);
            if task.state == State::Runnable && !running && waited > limit {
                let at = task.preempted.as_ref().and_then(|p| p.place);
                let (cpu, task) = (task.cpu, std::sync::Arc::clone(&task.name));
                self.sched.tasks[n].ready_ns = now;
                self.emit(cpu, EventKind::Stall { task, waited, at });
            }
        }
        self.sched.arm(now + limit / 2, Due::Stalls);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::Config;
    use crate::sched::{Mode, Op, Script, TaskConfig};

    /// A kernel with tasks of these scripts on one CPU, and what happened until nothing was left.
    fn switches(scripts: &[(&[Op], Option<u64>)], until: u64) -> Vec<(u64, String)> {
        let mut k = Kernel::new(Config { cpus: 1, clock_ns: 0, ..Config::default() });
        for _ in 0..2 {
            k.sched_name(if k.sched.waits.is_empty() { "event go" } else { "mutex m" });
        }
        for (n, (ops, times)) in scripts.iter().enumerate() {
            let name = format!("t{n}");
            let config = TaskConfig {
                name: name.as_str().into(),
                comm: name,
                script: Arc::new(Script { ops: ops.to_vec(), times: *times }),
                cpus: Vec::new(),
                nice: 0,
                weight: None,
                cgroup: String::new(),
                start_ns: Some(0),
            };
            k.task_add(&config).unwrap();
        }
        let cpu = CpuId(0);
        loop {
            if k.ready_at(cpu).is_some() {
                k.next(cpu);
                continue;
            }
            match k.next_timer().filter(|t| *t <= until) {
                Some(t) => {
                    k.advance_to(t);
                    k.timers_expire(t);
                }
                None => break,
            }
        }
        let to = k.events.iter().filter_map(|e| match &e.kind {
            EventKind::Switch { to, .. } => Some((e.clock_ns, to.to_string())),
            _ => None,
        });
        to.collect()
    }

    fn names(scripts: &[(&[Op], Option<u64>)], until: u64) -> Vec<String> {
        switches(scripts, until).into_iter().map(|s| s.1).collect()
    }

    #[test]
    fn a_slice_ends_at_a_tick_and_the_other_runs() {
        let forever: (&[Op], _) = (&[Op::Run(1_000_000_000)], Some(1));
        let seen = switches(&[forever, forever], 4_500_000);
        let at: Vec<u64> = seen.iter().map(|s| s.0).collect();
        // 0.7 ms, seen at the next tick; half a slice at first.
        assert_eq!(at, [0, 1_000_000, 2_000_000, 3_000_000, 4_000_000], "{seen:?}");
        assert!(seen.windows(2).all(|w| w[0].1 != w[1].1));
    }

    #[test]
    fn an_event_that_came_early_is_not_lost_and_a_mutex_goes_in_turn() {
        let waits: (&[Op], _) = (&[Op::Run(1000), Op::Wait(0), Op::Run(10)], Some(1));
        let wakes: (&[Op], _) = (&[Op::Wake(0)], Some(1));
        assert_eq!(names(&[wakes, waits], 1 << 40), ["t0", "t1", "swapper/0"]);
        assert_eq!(names(&[waits, wakes], 1 << 40), ["t0", "t1", "t0", "swapper/0"]);
        let lock: (&[Op], _) =
            (&[Op::Lock(1, Mode::Mutex), Op::Sleep(500), Op::Unlock(1)], Some(1));
        let all = names(&[lock, lock, lock], 1 << 40);
        // Each sleeps with the mutex, the others wait for it in their order.
        let runs: Vec<&str> =
            all.iter().map(String::as_str).filter(|n| *n != "swapper/0").collect();
        assert_eq!(runs, ["t0", "t1", "t2", "t0", "t1", "t1", "t2", "t2"], "{all:?}");
    }

    #[test]
    fn scripts_repeat_and_end() {
        let twice: (&[Op], _) = (&[Op::Sleep(100)], Some(2));
        let idle = "swapper/0";
        assert_eq!(names(&[twice], 1 << 40), ["t0", idle, "t0", idle, "t0", idle]);
        let empty: (&[Op], _) = (&[], None);
        assert_eq!(names(&[empty], 1 << 40), ["t0", idle]);
    }
}
