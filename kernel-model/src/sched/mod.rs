//! Tasks and their scheduler: what a scenario's tasks do, on which CPU, and when.
//!
//! ```text
//!  TaskConfig ─task_add─► waits ─timer, Wake─► runnable ─fair.rs─► runs ops ─► blocks, exits
//!                                   ▲               core.rs              script.rs  │
//!                                   └────────────────────────────────────────────────┘
//! ```
//!
//! A CPU runs its task when it has no kernel path in progress and none queued: interrupts and
//! what they lead to come first. A task that uses the CPU (`Run`) is a time at which it is done,
//! not work: the machine passes to it. A kernel path of a task runs until it blocks or ends, and
//! a program until its `exit`; in between the task is preempted at its points, by a tick or
//! where the machine says so ([`Kernel::preempt`]). When a path blocks, its frames are kept with
//! the task. Each operation that is not `Run` or `Sleep` takes [`OP_NS`], so that a script without
//! either passes time too.

mod caller;
mod core;
mod fair;
mod look;
mod mm;
mod preempt;
mod script;
mod signal;
mod sleeping;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::cpu::{CpuId, Frame};
use crate::{Errno, Kernel, ProgId, field};

use mm::Mm;
use preempt::Preempted;
use sleeping::SleepLock;

use fair::{Entity, Queue, base_slice, cgroup_weight, nice_weight};

pub(crate) use caller::CALLER_PID;
pub use look::{Doing, TaskView};
pub(crate) use mm::vm_flags;
pub use mm::{MmId, MmapRead};
pub use script::{Op, OpFrame, Script, TestArgs};
pub use sleeping::Mode;

/// Virtual time of an operation besides what it does: the task's own instructions around it.
pub const OP_NS: u64 = 100;

/// Number of a task in the order of adding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub u32);

impl TaskId {
    fn idx(self) -> usize {
        self.0 as usize
    }
}

/// `TASK_INTERRUPTIBLE`, `TASK_UNINTERRUPTIBLE`, `TASK_DEAD` and `TASK_NEW` of `__state`.
pub(crate) const INTERRUPTIBLE: u64 = 1;
pub(crate) const UNINTERRUPTIBLE: u64 = 2;
const DEAD: u64 = 0x80;
const NEW: u64 = 0x800;

/// A task as a scenario states it.
#[derive(Clone, Debug)]
pub struct TaskConfig {
    /// Name in the scenario and the trace.
    pub name: Arc<str>,
    /// `task_struct.comm`, cut at 15 bytes.
    pub comm: String,
    /// What it does.
    pub script: Arc<Script>,
    /// CPUs it may run on; empty for all.
    pub cpus: Vec<u32>,
    /// -20 to 19.
    pub nice: i32,
    /// Weight as of a control group (1 to 10,000, 100 for nice 0), instead of that of `nice`.
    pub weight: Option<u32>,
    /// Path of its control group; the root when it is empty.
    pub cgroup: String,
    /// When it begins; `None` waits for [`Kernel::task_start`].
    pub start_ns: Option<u64>,
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not started.
    New,
    /// Runs or waits for a CPU.
    Runnable,
    /// Blocked; `true` when a signal ends it.
    Blocked(bool),
    /// Ended.
    Dead,
}

/// A task of the scenario. What a context switch looks at comes first, in as few cache lines as it
/// fits: with ten thousand tasks, each is a miss.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub(crate) struct Task {
    /// `task_struct`.
    pub(crate) addr: u64,
    pid: u32,
    pub(crate) name: Arc<str>,
    script: Arc<Script>,
    /// The next operation, and how often the script runs after this time.
    at: usize,
    laps: u64,
    state: State,
    /// Where it runs or ran last.
    cpu: CpuId,
    /// Left of the `Run` in progress.
    run_left_ns: u64,
    /// Kernel paths that blocked, innermost last, and what the innermost is told.
    pub(crate) frames: Vec<Frame>,
    told: u64,
    /// When it was woken, until it runs.
    woken_ns: Option<u64>,
    /// Since when it waits for a CPU.
    ready_ns: u64,
    /// The wait queue it is in.
    waits: Option<u32>,
    /// The lock that it waited for and has: who traces locks is told when it runs.
    contended: Option<u32>,
    /// It was woken while it was about to be switched away from.
    woken: bool,
    /// Where it goes then.
    moving: Option<CpuId>,
    /// Signals that are pending, by number.
    pending: u64,
    /// CPUs that it may run on.
    allowed: Vec<u32>,
    /// When it is in no queue.
    entity: Entity,
    /// The timer it sleeps on.
    timer_ns: Option<(u64, u64)>,
    /// Locks that it has, in order.
    holds: Vec<u32>,
    /// Its memory.
    mm: MmId,
    /// Its descriptors: `struct file`.
    pub(crate) files: BTreeMap<i32, u64>,
    /// It was preempted in the middle of a program.
    preempted: Option<Box<Preempted>>,
    /// Functions of its own program in progress, innermost last, with the operation that called
    /// each; and the operation that it is at.
    calls: Vec<(usize, usize)>,
    site: usize,
}

/// A CPU's run queue.
#[derive(Clone, Debug, Default)]
struct Rq {
    queue: Queue,
    curr: Option<TaskId>,
    /// `need_resched`.
    resched: bool,
    /// The schedule says who runs next.
    chosen: Option<TaskId>,
    /// Time has come for the task that runs.
    tick: bool,
    /// The switch whose tracepoints run.
    switching: Option<Option<TaskId>>,
    /// Until when the run time of the task that runs is accounted.
    since_ns: u64,
    /// Something else has the CPU: time is not the task's.
    paused: bool,
    timer_ns: Option<(u64, u64)>,
}

/// What a time brings.
#[derive(Clone, Copy, Debug)]
enum Due {
    /// The task that runs on a CPU is done, or its slice is over.
    Tick(CpuId),
    /// A task has slept, or begins.
    Wake(TaskId),
    /// Load is balanced.
    Balance,
    /// Tasks that wait for a CPU are looked at.
    Stalls,
}

/// An event or lock of the tasks, by its number.
#[derive(Clone, Debug, Default)]
struct WaitQueue {
    /// Of an event.
    waiters: VecDeque<TaskId>,
    /// It was signalled when nobody waited.
    set: bool,
    /// Of a mutex or semaphore.
    lock: SleepLock,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub struct Sched {
    pub(crate) tasks: Vec<Task>,
    rqs: Vec<Rq>,
    due_ns: BTreeMap<(u64, u64), Due>,
    timer_seq: u64,
    waits: Vec<WaitQueue>,
    mms: Vec<Mm>,
    mm_at: BTreeMap<u64, MmId>,
    /// Iterators over mappings: the section they are in, and where they are.
    pub(crate) vma_iters: BTreeMap<u64, (MmapRead, u64)>,
    names: BTreeMap<String, u32>,
    /// `machine.quantum`: instead of the base slice, and without rounding to ticks.
    quantum: Option<u64>,
    /// CPUs of a cache domain.
    llc_cpus: u32,
    /// A `Due::Balance` is queued; how many there were.
    balancing: bool,
    balanced: u64,
    /// Tasks that were preempted in the middle of a program.
    pub(crate) preempted: u32,
    /// How long a runnable task may wait.
    stall_ns: Option<u64>,
    /// All processes by number, from their making until they have ended.
    pub(crate) procs: BTreeMap<u32, u64>,
    /// `init`, when there is one.
    init: u64,
    /// The process that makes test runs, when there is one.
    caller: u64,
}

impl Sched {
    fn task(&self, id: TaskId) -> &Task {
        &self.tasks[id.idx()]
    }

    fn task_mut(&mut self, id: TaskId) -> &mut Task {
        &mut self.tasks[id.idx()]
    }

    fn arm(&mut self, at: u64, due: Due) -> (u64, u64) {
        self.timer_seq += 1;
        let key = (at, self.timer_seq);
        self.due_ns.insert(key, due);
        key
    }

    /// Time of the next thing due.
    pub(crate) fn next_due(&self) -> Option<u64> {
        self.due_ns.keys().next().map(|k| k.0)
    }

    /// Name of an event or lock in the scenario.
    pub(crate) fn wait_name(&self, n: u32) -> &str {
        let name = self.names.iter().find(|(_, at)| **at == n).map_or("?", |(name, _)| name);
        let bare = name.strip_prefix("mutex ").or_else(|| name.strip_prefix("rwsem "));
        bare.unwrap_or(name)
    }

    /// Kernel paths in which tasks are blocked.
    pub(crate) fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.tasks.iter().flat_map(|t| &t.frames)
    }

    /// Programs that tasks will run.
    pub(crate) fn progs(&self) -> impl Iterator<Item = ProgId> {
        self.tasks.iter().flat_map(|t| t.script.progs())
    }
}

impl Kernel {
    /// What the scheduler works with: a quantum in nanoseconds, the number of cache domains, and
    /// how long a runnable task may wait before that is told.
    pub fn sched_setup(&mut self, quantum_ns: Option<u64>, llcs: u32, stall_ns: Option<u64>) {
        self.sched.quantum = quantum_ns;
        self.sched.llc_cpus = self.config.cpus.div_ceil(llcs.max(1));
        self.sched.stall_ns = stall_ns;
    }

    /// The number of an event or lock of the tasks by its name.
    pub fn sched_name(&mut self, name: &str) -> u32 {
        if let Some(n) = self.sched.names.get(name) {
            return *n;
        }
        let n = self.sched.waits.len() as u32;
        self.sched.waits.push(WaitQueue::default());
        self.sched.names.insert(name.to_owned(), n);
        n
    }

    /// Adds a task, a child of `init`.
    ///
    /// # Errors
    /// `EINVAL` for a CPU that there is not, `ENOMEM`.
    pub fn task_add(&mut self, config: &TaskConfig) -> Result<TaskId, Errno> {
        if config.cpus.iter().any(|c| *c >= self.config.cpus) {
            return Err(Errno::EINVAL);
        }
        let init = self.init_task()?;
        let pid = self.pid_alloc();
        let cpu = CpuId(config.cpus.first().copied().unwrap_or(0));
        let addr = self.user_task(&config.comm, pid, cpu.0, init)?;
        let cgroup = if config.cgroup.is_empty() { "/" } else { &config.cgroup };
        let cgroup = self.cgroup_at(cgroup)?;
        self.cgroup_move(addr, cgroup);
        let id = self.task_enter(addr, config, cpu);
        if let Some(at) = config.start_ns {
            let key = self.sched.arm(at, Due::Wake(id));
            self.sched.task_mut(id).timer_ns = Some(key);
        }
        Ok(id)
    }

    /// Puts a task under the scheduler.
    fn task_enter(&mut self, addr: u64, config: &TaskConfig, cpu: CpuId) -> TaskId {
        let cpus = self.config.cpus;
        self.sched.rqs.resize(cpus as usize, Rq::default());
        let allowed = match config.cpus.as_slice() {
            [] => (0..cpus).collect(),
            list => list.to_vec(),
        };
        self.task_placement(addr, config.nice, &allowed);
        let weight = config.weight.map_or_else(|| nice_weight(config.nice), cgroup_weight);
        let slice = self.sched.quantum.unwrap_or_else(|| base_slice(cpus));
        let mm = self.get(addr, field!("task_struct", "mm"));
        let mm = self.mm_new(mm, &config.name);
        let id = TaskId(self.sched.tasks.len() as u32);
        self.sched.tasks.push(Task {
            addr,
            pid: self.get(addr, field!("task_struct", "tgid")) as u32,
            name: Arc::clone(&config.name),
            script: Arc::clone(&config.script),
            at: 0,
            laps: config.script.laps(),
            state: State::New,
            cpu,
            allowed,
            entity: Entity::new(weight, slice),
            run_left_ns: 0,
            frames: Vec::new(),
            told: 0,
            woken_ns: None,
            ready_ns: 0,
            timer_ns: None,
            waits: None,
            holds: Vec::new(),
            contended: None,
            woken: false,
            moving: None,
            pending: 0,
            mm,
            files: BTreeMap::new(),
            preempted: None,
            calls: Vec::new(),
            site: 0,
        });
        id
    }

    /// A user task of `parent`, 0 for itself.
    fn user_task(&mut self, comm: &str, pid: u32, cpu: u32, parent: u64) -> Result<u64, Errno> {
        let task = self.task_new(comm, pid, cpu)?;
        let mm = self.kzalloc(crate::size!("mm_struct"), "mm_struct")?;
        let parent = if parent == 0 { task } else { parent };
        for (f, value) in [
            (field!("task_struct", "flags"), 0),
            (field!("task_struct", "mm"), mm),
            (field!("task_struct", "active_mm"), mm),
            (field!("task_struct", "real_parent"), parent),
            (field!("task_struct", "parent"), parent),
            (field!("task_struct", "exit_signal"), u64::from(signal::SIGCHLD)),
            (field!("task_struct", "__state"), NEW),
        ] {
            self.set(task, f, value);
        }
        Ok(task)
    }

    /// `set_user_nice`, `set_cpus_allowed`.
    fn task_placement(&mut self, addr: u64, nice: i32, allowed: &[u32]) {
        let prio = u64::from((120 + nice.clamp(-20, 19)).unsigned_abs());
        for f in [
            field!("task_struct", "prio"),
            field!("task_struct", "static_prio"),
            field!("task_struct", "normal_prio"),
        ] {
            self.set(addr, f, prio);
        }
        let mask = field!("task_struct", "cpus_mask");
        for cpu in allowed {
            let word = u64::from(mask.off + cpu / 64 * 8);
            let bits = self.mem.read_u64(addr + word).expect("task_struct is mapped");
            let bits = bits | 1 << (cpu % 64);
            self.mem.write_u64(addr + word, bits).expect("task_struct is mapped");
        }
        self.set(addr, field!("task_struct", "cpus_ptr"), addr + u64::from(mask.off));
        self.set(addr, field!("task_struct", "nr_cpus_allowed"), allowed.len() as u64);
    }

    /// Tasks of a name: its own, or `name.N` of one with a count.
    pub fn tasks_named(&self, name: &str) -> impl Iterator<Item = TaskId> {
        let all = self.sched.tasks.iter().enumerate();
        all.filter(move |(_, t)| is_named(&t.name, name)).map(|(n, _)| TaskId(n as u32))
    }

    /// Whether there are tasks besides the kernel's own.
    #[must_use]
    pub fn has_tasks(&self) -> bool {
        !self.sched.tasks.is_empty()
    }

    /// `task_struct` of a task.
    #[must_use]
    pub fn task_addr(&self, id: TaskId) -> u64 {
        self.sched.task(id).addr
    }

    /// Functions of a task's own program in progress, innermost last, with the operation that
    /// called each; and the operation that it is at.
    pub(crate) fn task_calls(&self, id: TaskId) -> (&[(usize, usize)], usize) {
        let task = self.sched.task(id);
        (&task.calls, task.site)
    }

    /// `task_struct.tgid`.
    #[must_use]
    pub fn task_pid(&self, id: TaskId) -> u64 {
        self.sched.task(id).pid.into()
    }

    /// Whether a task has not ended.
    pub(crate) fn task_lives(&self, id: TaskId) -> bool {
        self.sched.task(id).state != State::Dead
    }

    /// `task_struct` of all tasks that have not ended.
    pub(crate) fn tasks_living(&self) -> impl Iterator<Item = u64> {
        self.sched.tasks.iter().filter(|t| t.state != State::Dead).map(|t| t.addr)
    }

    /// A task that has not ended by its number.
    pub(crate) fn task_by_pid(&self, pid: u64) -> Option<TaskId> {
        let all = 0..self.sched.tasks.len() as u32;
        let lives = |t: &TaskId| self.sched.task(*t).state != State::Dead;
        all.map(TaskId).filter(lives).find(|t| self.task_pid(*t) == pid & 0xffff_ffff)
    }

    /// `next_task`, in the order of their making; `init_task` has the number 0.
    pub(crate) fn process_after(&self, task: u64) -> Option<u64> {
        let pid = self.get(task, field!("task_struct", "pid")) as u32;
        let mut after = self.sched.procs.range(pid + 1..).map(|p| *p.1);
        after.find(|t| is_listed(self, *t))
    }

    /// Whether a task waits to be started.
    pub(crate) fn task_is_new(&self, id: TaskId) -> bool {
        let task = self.sched.task(id);
        task.state == State::New && task.timer_ns.is_none()
    }

    /// Name of a task in the scenario.
    #[must_use]
    pub fn task_name(&self, id: TaskId) -> &Arc<str> {
        &self.sched.task(id).name
    }

    /// Time that a task has had a CPU, up to a time.
    #[must_use]
    pub fn task_ran(&self, id: TaskId, now: u64) -> u64 {
        let t = self.sched.task(id);
        let Some(rq) = self.sched.rqs.get(t.cpu.idx()) else { return t.entity.ran_ns };
        let since = if rq.paused { now } else { rq.since_ns };
        match (rq.queue.curr().filter(|_| rq.curr == Some(id)), rq.queue.waits(id.0)) {
            (Some(e), _) => e.ran_ns + now.saturating_sub(since),
            (None, Some(e)) => e.ran_ns,
            (None, None) => t.entity.ran_ns,
        }
    }
}

/// Whether a task is in the list of tasks: it has begun.
pub(crate) fn is_listed(k: &Kernel, task: u64) -> bool {
    k.get(task, field!("task_struct", "__state")) != NEW
}

/// Whether a task's name is that of a scenario or one of several with it.
#[must_use]
pub fn is_named(task: &str, name: &str) -> bool {
    let rest = task.strip_prefix(name);
    rest.is_some_and(|r| {
        let numbered = |n: &str| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit());
        r.is_empty() || r.strip_prefix('.').is_some_and(numbered)
    })
}
