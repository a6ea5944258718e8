//! Tasks: from the scenario's scripts to the kernel's, and what is expected of them.

use std::sync::Arc;

use bpf::uapi::ProgType;
use kernel_model::Kernel;
use kernel_model::maps::MapCommand;
use kernel_model::sched::{Mode, Op, Script, TaskConfig, TaskId, TestArgs, is_named};
use scenarios::leaf::{Data, Time};
use scenarios::schema::machine::Cpus;
use scenarios::schema::play::{self, Repeat};
use scenarios::schema::{Action, Name, Step};
use scenarios::{Finding, Spanned};

use super::test_run::no_packet;
use super::{Failure, Run, RunError, sys};
use crate::machine::Machine;

/// `SCX_WATCHDOG_MAX_TIMEOUT`: how long a task may wait for a CPU when nothing else is said.
const STALL_NS: u64 = 30_000_000_000;

/// A control group by its path, made when it is missing.
pub(super) fn cgroup(machine: &mut Machine, path: &Name) -> Result<usize, RunError> {
    machine.kernel.cgroup_at(&path.v).map_err(|e| {
        let finding = Finding::error(path.span, format!("control group: {}", e.name()));
        RunError::from(finding.hint("write a path from the root, such as \"/web/front\""))
    })
}

impl<'a> Run<'a> {
    /// Adds the tasks; those that no step starts begin at their time.
    pub(super) fn add_tasks(&mut self) -> Result<(), RunError> {
        let s = self.s;
        let m = &s.machine;
        if s.tasks.iter().next().is_none() {
            return Ok(());
        }
        let stall = m.watchdog.as_ref().map_or(STALL_NS, |w| w.soft.v.ns);
        let quantum = m.quantum.as_ref().map(|q| q.v.ns);
        let k = &mut self.machine.kernel;
        k.sched_setup(quantum, m.llcs.v, Some(stall));
        k.sched_watch_stalls(m.clock.ns);
        for (name, task) in s.tasks.iter() {
            let config = self.task_config(name, task)?;
            for n in 0..task.count.v {
                let name = match task.count.v {
                    1 => name.v.as_str().into(),
                    _ => format!("{}.{n}", name.v).into(),
                };
                let config = TaskConfig { name, ..config.clone() };
                let added = self.machine.kernel.task_add(&config);
                added.map_err(|e| RunError::input(task.count.span, format!("tasks: {e}")))?;
            }
        }
        Ok(())
    }

    fn task_config(&mut self, name: &Name, task: &'a play::Task) -> Result<TaskConfig, RunError> {
        let cpus = match &task.cpus {
            Cpus::All => Vec::new(),
            Cpus::List(list) => list.iter().map(|c| c.v).collect(),
        };
        let started = self.s.timeline.iter().map(Step::action).any(|a| match a {
            Action::Start(started) => started.v == name.v,
            _ => false,
        });
        let started = started || sys::cloned(self.s).any(|n| n == name.v);
        if let Some(cgroup) = &task.cgroup {
            self.cgroup(cgroup)?;
        }
        let ops = task.script.iter().map(|op| self.task_op(name, op));
        let mut ops = ops.collect::<Result<Vec<_>, _>>()?;
        if matches!(task.repeat, Repeat::Times(0)) {
            ops.clear();
        }
        let times = match task.repeat {
            Repeat::Once => Some(1),
            Repeat::Times(n) => Some(n),
            Repeat::Forever => None,
        };
        Ok(TaskConfig {
            name: name.v.as_str().into(),
            comm: task.comm.clone().unwrap_or_else(|| name.v.clone()),
            script: Arc::new(Script { ops, times }),
            cpus,
            nice: task.nice,
            weight: task.weight,
            cgroup: task.cgroup.as_ref().map_or_else(String::new, |c| c.v.clone()),
            start_ns: (!started).then(|| self.s.machine.clock.ns + task.start.ns),
        })
    }

    /// A control group by its path, made when it is missing.
    pub(super) fn cgroup(&mut self, path: &Name) -> Result<usize, RunError> {
        cgroup(&mut self.machine, path)
    }

    // tidy: flat match
    fn task_op(&mut self, task: &Name, op: &'a play::Op) -> Result<Op, RunError> {
        let k = &mut self.machine.kernel;
        Ok(match op {
            play::Op::Run(t) => Op::Run(t.ns),
            play::Op::Sleep(t) => Op::Sleep(t.ns),
            play::Op::Yield => Op::Yield,
            play::Op::Wait(name) => Op::Wait(k.sched_name(&format!("event {}", name.v))),
            play::Op::Wake(name) => Op::Wake(k.sched_name(&format!("event {}", name.v))),
            play::Op::Lock(m) => Op::Lock(k.sched_name(&format!("mutex {}", m.v)), Mode::Mutex),
            play::Op::Unlock(name) => Op::Unlock(k.sched_name(&format!("mutex {}", name.v))),
            play::Op::DownRead(s) => Op::Lock(k.sched_name(&format!("rwsem {}", s.v)), Mode::Read),
            play::Op::DownWrite(s) => {
                Op::Lock(k.sched_name(&format!("rwsem {}", s.v)), Mode::Write)
            }
            play::Op::UpRead(s) | play::Op::UpWrite(s) => {
                Op::Unlock(k.sched_name(&format!("rwsem {}", s.v)))
            }
            play::Op::Migrate(cpu) => Op::Migrate(cpu.v),
            play::Op::Exit(code) => Op::Exit(code.v),
            play::Op::TestRun { prog, ctx, .. } => {
                let id = self.prog(prog)?;
                let kind = self.machine.kernel.prog(id).map_or(ProgType::Unspec, |p| p.prog_type());
                let ctx = ctx.as_ref().map(|data| self.test_ctx(id, data)).transpose()?;
                let (fd, data, ctx) = (self.prog_fd(id)?, no_packet(kind), ctx.unwrap_or_default());
                Op::TestRun(TestArgs { prog: id, fd, data, ctx })
            }
            play::Op::Put { map, key, value, .. } => {
                let at = self.map(map)?;
                let key = self.key_of(at, &key.node)?;
                let value = Some(self.element_bytes(at, &value.node, Vec::new())?);
                Op::Map(MapCommand { map: at.0, key, value, flags: 0 })
            }
            play::Op::Delete { map, key, .. } => {
                let at = self.map(map)?;
                let key = self.deleted_key(at, key)?;
                Op::Map(MapCommand { map: at.0, key, value: None, flags: 0 })
            }
            play::Op::Sys { call, args, .. } => Op::Sys(self.sys_call(call, args.as_ref())?),
            play::Op::Call { symbol, args } => {
                let n = k.user_function(&task.v, &symbol.v);
                Op::Call(n, sys::numbers(args.as_ref())?)
            }
            play::Op::Enter { symbol, args } => {
                let n = k.user_function(&task.v, &symbol.v);
                Op::Enter(n, sys::numbers(args.as_ref())?)
            }
            play::Op::Return { value } => Op::Return(sys::value(value.as_ref())?),
        })
    }

    /// Does something to all tasks of a name, now.
    pub(super) fn each_task(
        &mut self,
        name: &Name,
        act: fn(&mut Kernel, TaskId, u64),
    ) -> Result<(), RunError> {
        let k = &mut self.machine.kernel;
        let now = k.cpus.iter().map(|c| c.clock_ns).max().unwrap_or(0);
        let tasks: Vec<TaskId> = k.tasks_named(&name.v).collect();
        tasks.into_iter().for_each(|id| act(k, id, now));
        Ok(())
    }

    /// What the script says of the result of an operation, when it is another one.
    pub(super) fn op_result(
        &self,
        task: &str,
        op: u32,
        ret: Option<u64>,
        event: usize,
    ) -> Result<Option<Failure>, RunError> {
        let found = self.s.tasks.iter().find(|(name, _)| is_named(task, &name.v));
        let op = found.and_then(|(_, t)| t.script.get(op as usize));
        let (what, pattern, prog): (_, Option<&Data>, _) = match op {
            Some(play::Op::TestRun { prog, ret, .. }) => {
                (&prog.v, ret.as_ref(), Some(self.prog(prog)?))
            }
            Some(play::Op::Sys { call, ret, .. }) => (&call.v, ret.as_ref(), None),
            Some(play::Op::Put { map, ret, .. } | play::Op::Delete { map, ret, .. }) => {
                (&map.v, ret.as_ref(), None)
            }
            _ => return Ok(None),
        };
        let Some(pattern) = pattern else { return Ok(None) };
        let value = |v: u64| if prog.is_some() { i64::from(v as u32 as i32) } else { v as i64 };
        let came = match ret {
            Some(v) if self.value_matches(&pattern.node, value(v), prog)? => return Ok(None),
            Some(v) => format!("returned {}", value(v)),
            None => "was cancelled".to_owned(),
        };
        let message = format!("{what} of task {task} {came} (event {event})");
        Ok(Some(Failure::new(pattern.span(), message)))
    }

    /// Time of each task of a name with a CPU, in permille of the whole.
    pub(super) fn shares(&self, task: &Name) -> Vec<(Arc<str>, u64)> {
        let k = &self.machine.kernel;
        let (boot, until) = (self.s.machine.clock.ns, self.s.machine.until.v.ns);
        let now = k.cpus.iter().map(|c| c.clock_ns).max().unwrap_or(boot);
        // While something is due the CPUs that have no work are behind.
        let end = if k.next_timer().is_some() { now.max(boot + until) } else { now };
        let whole = u128::from((end - boot).max(1));
        let share = |id| {
            let ran = u128::from(k.task_ran(id, end));
            (Arc::clone(k.task_name(id)), ((ran * 1000 + whole / 2) / whole) as u64)
        };
        k.tasks_named(&task.v).map(share).collect()
    }

    /// What of the wake-ups of a task came too late.
    pub(super) fn latency(
        &mut self,
        task: &Name,
        waited: &[u64],
        wakeup: &Spanned<Time>,
        percentile: u32,
    ) {
        let mut sorted = waited.to_vec();
        sorted.sort_unstable();
        let rank = (sorted.len() * percentile.min(100) as usize).div_ceil(100).max(1);
        let Some(found) = sorted.get(rank - 1) else {
            self.fail(task.span, format!("{} was never woken", task.v));
            return;
        };
        if *found > wakeup.v.ns {
            let (n, worst) = (sorted.len(), sorted.last().copied().unwrap_or(0));
            let message = format!(
                "{percentile} % of the {n} wake-ups of {} took up to {found} ns, all {worst} ns",
                task.v
            );
            self.fail(wakeup.span, message);
        }
    }
}
