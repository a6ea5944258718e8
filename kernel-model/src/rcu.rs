//! RCU: read-side sections, grace periods, what waits for them, stalls.
//!
//! Three flavours, as far as BPF goes: RCU proper, which every program that may not sleep is a
//! reader of; RCU tasks trace, whose readers are the programs that may; and RCU tasks, whose reader
//! is each task from when it enters the kernel until it leaves it or goes to sleep, so that code
//! such as trampolines can be freed.
//!
//! A grace period is state: when it began, which sections it still waits for, what is freed at its
//! end. It ends with the last of those sections, the earliest end the kernel allows; a section that
//! begins later does not hold it. What is queued meanwhile waits for a whole one.
//!
//! A section belongs to a CPU, and to its task while that sleeps in it, as only readers of RCU
//! tasks trace do, or was preempted in it. Softirq paths are sections too, as since Linux 5.0.
//!
//! Sources (6.18): kernel/rcu/tree.c, tree_stall.h, tasks.h, kernel/bpf/memalloc.c.

use std::collections::BTreeMap;

use crate::alloc::Site;
use crate::context::Level;
use crate::cpu::{CpuId, Frame};
use crate::ledger::Kind as Held;
use crate::{EventKind, Kernel, ProgId};

/// `BPF_F_SLEEPABLE`.
pub(crate) const BPF_F_SLEEPABLE: u32 = 1 << 4;

/// `CONFIG_RCU_CPU_STALL_TIMEOUT`.
pub const STALL_NS: u64 = 21_000_000_000;

/// Which readers a grace period waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flavor {
    /// `rcu_read_lock` and everything that counts as it.
    Rcu,
    /// `rcu_read_lock_trace`: programs that may sleep.
    TasksTrace,
    /// Tasks in the kernel, but for interrupts of idle CPUs.
    Tasks,
}

impl Flavor {
    /// All of them.
    pub const ALL: [Flavor; 3] = [Flavor::Rcu, Flavor::TasksTrace, Flavor::Tasks];
    /// Those whose readers look at what is freed by them.
    const OF_MEMORY: [Flavor; 2] = [Flavor::Rcu, Flavor::TasksTrace];

    /// As the kernel's log calls it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Flavor::Rcu => "rcu_preempt",
            Flavor::TasksTrace => "rcu_tasks_trace",
            Flavor::Tasks => "rcu_tasks",
        }
    }
}

/// A read-side section in progress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// Number, in order of beginning.
    pub number: u64,
    /// CPU.
    pub cpu: CpuId,
    /// What made it one: a program's run, `bpf_rcu_read_lock`, ...
    pub by: &'static str,
    /// Program that ran when it began, if one did.
    pub prog: Option<ProgId>,
    /// Task: its `task_struct`.
    pub task: u64,
    /// Its name; of a section that holds a grace period.
    pub comm: String,
    /// Virtual time of its beginning.
    pub since_ns: u64,
}

/// What is freed at the end of a grace period.
#[derive(Clone, Debug)]
struct Callback {
    addr: u64,
    what: &'static str,
    /// Flavours that must pass before the free, the next one first.
    then: &'static [Flavor],
    /// What held the grace periods so far the longest.
    held: Option<Section>,
}

/// A grace period in progress.
#[derive(Clone, Debug)]
struct GracePeriod {
    number: u64,
    started_ns: u64,
    /// By number.
    holders: BTreeMap<u64, Section>,
    callbacks: Vec<Callback>,
    /// The section that ended last of those it waited for.
    last: Option<Section>,
    /// When it is told of that it takes too long.
    stall_at: u64,
}

/// A grace period that takes too long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// Flavour.
    pub flavor: Flavor,
    /// Number of the grace period, from 1.
    pub number: u64,
    /// Virtual time of its beginning.
    pub started_ns: u64,
    /// Sections that hold it, each with where its CPU last called the kernel, or where its task was
    /// when it was preempted.
    pub holders: Vec<(Section, Site)>,
    /// Objects that wait for its end.
    pub waiting: usize,
}

impl std::fmt::Display for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CPU {} ({}): {} since {} ns", self.cpu.0, self.comm, self.by, self.since_ns)
    }
}

impl std::fmt::Display for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (name, n, at) = (self.flavor.name(), self.number, self.started_ns);
        write!(f, "{name} grace period {n} since {at} ns, {} objects wait", self.waiting)?;
        for (s, site) in &self.holders {
            write!(f, "; held by {s}")?;
            if let Some(source) = &site.source {
                write!(f, ", last seen at {} ns in {source}", site.clock_ns)?;
            }
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Default)]
struct State {
    /// By CPU. A section begins and ends with every run, so it costs no allocation.
    sections: Vec<Option<Section>>,
    /// Of tasks that sleep or were preempted.
    asleep: BTreeMap<u64, Section>,
    current: Option<GracePeriod>,
    /// Grace periods so far.
    count: u64,
    next: Vec<Callback>,
}

/// RCU of a kernel.
#[derive(Clone, Debug)]
pub struct Rcu {
    states: [State; 3],
    /// Sections so far.
    sections: u64,
    /// How long a grace period may take.
    stall_ns: u64,
    /// The earliest time at which one takes too long.
    stall_at: u64,
}

impl Rcu {
    /// Nothing waits for anything; a grace period may take so long.
    #[must_use]
    pub fn new(stall_ns: u64) -> Rcu {
        Rcu { states: Default::default(), sections: 0, stall_ns, stall_at: u64::MAX }
    }

    fn state(&mut self, flavor: Flavor) -> &mut State {
        &mut self.states[flavor as usize]
    }

    /// The section that a CPU is in.
    #[must_use]
    pub fn section(&self, cpu: CpuId, flavor: Flavor) -> Option<&Section> {
        self.states[flavor as usize].sections.get(cpu.idx())?.as_ref()
    }

    /// Sections that began from now on have numbers from this one.
    #[must_use]
    pub fn next_section(&self) -> u64 {
        self.sections
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.states.iter().all(|s| s.current.is_none() && s.next.is_empty())
    }

    /// Number and beginning of the grace period in progress, and what holds it.
    pub fn grace_period(
        &self,
        flavor: Flavor,
    ) -> Option<(u64, u64, impl Iterator<Item = &Section>)> {
        let gp = self.states[flavor as usize].current.as_ref()?;
        Some((gp.number, gp.started_ns, gp.holders.values()))
    }

    /// Objects that wait for the end of the grace period in progress, and for the one after it.
    #[must_use]
    pub fn waiting(&self, flavor: Flavor) -> (usize, usize) {
        let state = &self.states[flavor as usize];
        (state.current.as_ref().map_or(0, |gp| gp.callbacks.len()), state.next.len())
    }

    fn set_stall(&mut self) {
        let times = self.states.iter().filter_map(|s| s.current.as_ref()).map(|g| g.stall_at);
        self.stall_at = times.min().unwrap_or(u64::MAX);
    }
}

/// After both flavours, in the order of `bpf_mem_free`: `rcu_trace_implies_rcu_gp`.
pub(crate) const CHAIN: &[Flavor] = &[Flavor::TasksTrace, Flavor::Rcu];
/// In the order of `bpf_mem_free_rcu`.
pub(crate) const RCU_CHAIN: &[Flavor] = &[Flavor::Rcu, Flavor::TasksTrace];
/// `bpf_tramp_image_put` of an image that only calls programs before the function: those that may
/// sleep first, then the rest of it.
pub(crate) const IMAGE_CHAIN: &[Flavor] = &[Flavor::TasksTrace, Flavor::Tasks];
/// Of one that calls the function too: its beginning, then its end. That the function itself has
/// returned in between (`percpu_ref_kill`) is not waited for.
pub(crate) const IMAGE_EXIT_CHAIN: &[Flavor] = &[Flavor::Tasks, Flavor::Tasks];
/// `call_rcu`, `kfree_rcu`.
const RCU: &[Flavor] = &[Flavor::Rcu];

impl Kernel {
    /// Why a CPU is a reader, if it is, and on behalf of which program.
    fn reads(&self, cpu: CpuId, flavor: Flavor) -> Option<(&'static str, Option<ProgId>)> {
        if flavor == Flavor::Tasks {
            let first = self.cpus[cpu.idx()].frames.first()?;
            let idle = first.level() > Level::Task;
            return (!idle).then_some(("a task in the kernel", None));
        }
        for frame in &self.cpus[cpu.idx()].frames {
            let (of, by, prog) = match frame {
                Frame::Prog(p) if p.entry.callback => continue,
                Frame::Prog(p) => match self.is_sleepable(p.entry.prog) {
                    true => (Flavor::TasksTrace, "a program that may sleep", Some(p.entry.prog)),
                    false => (Flavor::Rcu, "a program", Some(p.entry.prog)),
                },
                Frame::Net(_) => (Flavor::Rcu, "a softirq", None),
                Frame::Irq(irq) => (Flavor::Rcu, irq.level.name(), None),
                Frame::Timer(t) if self.is_work(t) => (Flavor::TasksTrace, "bpf_wq", None),
                Frame::Timer(_) => (Flavor::Rcu, "bpf_timer", None),
                _ => continue,
            };
            if of == flavor {
                return Some((by, prog));
            }
        }
        let prog = || self.cpus[cpu.idx()].prog_frame().map(|p| p.prog);
        (flavor == Flavor::Rcu).then(|| self.held_section(cpu)).flatten().map(|by| (by, prog()))
    }

    /// What a program that may sleep holds and that makes a section.
    fn held_section(&self, cpu: CpuId) -> Option<&'static str> {
        let own = u64::from(cpu.0);
        let kinds = [
            (Held::RcuRead, "bpf_rcu_read_lock"),
            (Held::Preempt, "bpf_preempt_disable"),
            (Held::Irq, "bpf_local_irq_save"),
        ];
        let found = kinds.iter().find(|(kind, _)| self.ledger.holds(*kind, own));
        let c = &self.cpus[cpu.idx()];
        let path = (c.irq_off > 0 || c.preempt_off > 0).then_some("a kernel path");
        let locks = || self.ledger.cpu_holds(cpu, Held::SpinLock);
        found.map(|k| k.1).or(path).or_else(|| locks().then_some("a lock"))
    }

    /// Whether a program may sleep.
    pub(crate) fn is_sleepable(&self, prog: ProgId) -> bool {
        let prog = self.progs.get(&prog);
        prog.is_some_and(|p| p.verified.program().flags & BPF_F_SLEEPABLE != 0)
    }

    /// Number of the section that a CPU has been in the longest, of those that look at memory.
    #[must_use]
    pub fn oldest_section(&self, cpu: CpuId) -> Option<u64> {
        let sections = Flavor::OF_MEMORY.into_iter().filter_map(|f| self.rcu.section(cpu, f));
        sections.map(|s| s.number).min()
    }

    /// Whether a task is off its CPU in the middle of a section: a program in which it sleeps is
    /// one of RCU tasks trace only.
    fn stays_in(&self, task: u64, flavor: Flavor) -> bool {
        let runs = |f: &Frame| matches!(f, Frame::Prog(_));
        let trace = flavor == Flavor::TasksTrace;
        // Asked at the end of every run.
        if !trace && self.sched.preempted == 0 {
            return false;
        }
        let found = self.sched.tasks.iter().find(|t| t.addr == task);
        found.is_some_and(|t| t.is_preempted() || trace && t.frames.iter().any(runs))
    }

    /// A section that the CPU is in no more has ended, unless its task sleeps in it; and those of
    /// tasks that never woke have.
    fn rcu_leave(&mut self, cpu: CpuId, flavor: Flavor) {
        let left = self.rcu.state(flavor).sections.get_mut(cpu.idx()).and_then(Option::take);
        let Some(section) = left else { return };
        if self.stays_in(section.task, flavor) {
            self.rcu.state(flavor).asleep.insert(section.task, section);
            return;
        }
        let asleep = std::mem::take(&mut self.rcu.state(flavor).asleep);
        let (asleep, gone): (BTreeMap<_, _>, BTreeMap<_, _>) =
            asleep.into_iter().partition(|(task, _)| self.stays_in(*task, flavor));
        let state = self.rcu.state(flavor);
        state.asleep = asleep;
        if let Some(gp) = &mut state.current {
            for ended in gone.into_values().chain([section]) {
                gp.last = gp.holders.remove(&ended.number).or(gp.last.take());
            }
        }
        self.rcu_advance(flavor);
    }

    /// Sections begin and end: called when a CPU may have entered or left one.
    pub(crate) fn rcu_update(&mut self, cpu: CpuId) {
        for flavor in Flavor::ALL {
            let was = self.rcu.section(cpu, flavor).is_some();
            match (was, self.reads(cpu, flavor)) {
                (false, Some((by, prog))) => {
                    let (number, since_ns) = (self.rcu.sections, self.now(cpu));
                    let task = self.cpus[cpu.idx()].task;
                    // The name is asked for when the section holds something.
                    let comm = String::new();
                    let new = Section { number, cpu, by, prog, task, comm, since_ns };
                    self.rcu.sections += 1;
                    let state = self.rcu.state(flavor);
                    let old = state.asleep.remove(&task).map(|s| Section { cpu, ..s });
                    if state.sections.len() <= cpu.idx() {
                        state.sections.resize(cpu.idx() + 1, None);
                    }
                    state.sections[cpu.idx()] = Some(old.unwrap_or(new));
                }
                (true, None) => self.rcu_leave(cpu, flavor),
                _ => {}
            }
        }
    }

    /// `call_rcu`: frees an object when grace periods of these flavours have passed. Until then
    /// only sections that have begun may look at it.
    pub(crate) fn rcu_free(&mut self, addr: u64, what: &'static str, after: &'static [Flavor]) {
        let site = self.site(what);
        self.alloc.retire(&mut self.mem, addr, site, self.rcu.sections);
        self.rcu_call(Callback { addr, what, then: after, held: None });
    }

    /// `kfree_rcu`.
    pub fn kfree_rcu(&mut self, addr: u64, what: &'static str) {
        self.rcu_free(addr, what, RCU);
    }

    fn rcu_call(&mut self, mut callback: Callback) {
        match callback.then.split_first() {
            Some((first, rest)) => {
                callback.then = rest;
                self.rcu.state(*first).next.push(callback);
                self.rcu_advance(*first);
            }
            None => {
                let Callback { addr, what, held, .. } = callback;
                let text = |s: Section| format!("a grace period that was held by {s}").into();
                let source = held.map(text);
                self.kfree_at(addr, Site { source, ..self.site(what) });
            }
        }
    }

    /// What holds the grace periods in progress, in words.
    pub(crate) fn rcu_held(&self) -> Option<Box<str>> {
        let all = Flavor::ALL.into_iter().filter_map(|f| self.rcu.grace_period(f));
        let held: Vec<String> = all.flat_map(|(_, _, h)| h.map(ToString::to_string)).collect();
        (!held.is_empty()).then(|| held.join("; ").into())
    }

    /// Ends grace periods that nothing holds and begins those that something waits for.
    fn rcu_advance(&mut self, flavor: Flavor) {
        loop {
            let (cpu, stall_ns) = (self.this_cpu, self.rcu.stall_ns);
            let now = self.now(cpu);
            let state = self.rcu.state(flavor);
            if let Some(ended) = state.current.take_if(|gp| gp.holders.is_empty()) {
                let objects = u32::try_from(ended.callbacks.len()).unwrap_or(u32::MAX);
                self.emit(cpu, EventKind::RcuFree { objects });
                for c in ended.callbacks {
                    let held = ended.last.clone().or(c.held);
                    self.rcu_call(Callback { held, ..c });
                }
                continue;
            }
            if state.current.is_some() || state.next.is_empty() {
                break;
            }
            let sections = state.sections.iter().flatten().chain(state.asleep.values());
            let sections: Vec<Section> = sections.cloned().collect();
            let named = |s: Section| Section { comm: self.task_comm(s.task), ..s };
            let holders = sections.into_iter().map(named).map(|s| (s.number, s)).collect();
            let state = self.rcu.state(flavor);
            state.count += 1;
            state.current = Some(GracePeriod {
                number: state.count,
                started_ns: now,
                holders,
                callbacks: std::mem::take(&mut state.next),
                last: None,
                stall_at: now.saturating_add(stall_ns),
            });
        }
        self.rcu.set_stall();
    }

    /// `check_cpu_stall`: a grace period that takes too long is told of, and again as long as it
    /// goes on.
    pub(crate) fn rcu_check_stall(&mut self, cpu: CpuId) {
        let now = self.now(cpu);
        if now < self.rcu.stall_at {
            return;
        }
        let again = now.saturating_add(3 * self.rcu.stall_ns + 3);
        for flavor in Flavor::ALL {
            let Some(gp) = &mut self.rcu.state(flavor).current else { continue };
            if gp.stall_at > now {
                continue;
            }
            gp.stall_at = again;
            let (number, started_ns, waiting) = (gp.number, gp.started_ns, gp.callbacks.len());
            let sections: Vec<Section> = gp.holders.values().cloned().collect();
            let seen = |s: Section| {
                let mut site = self.site_of(s.cpu, s.by);
                if let Some((at, place)) = self.preempted_at(s.task) {
                    // Another task has its CPU.
                    let source = Some(self.source_of(place.prog, place.insn).into());
                    site = Site { clock_ns: at, prog: Some(place.prog), pc: 0, source, ..site };
                }
                self.resolve(&mut site);
                // Of a softirq: what runs in it now.
                (Section { prog: s.prog.or(site.prog), ..s }, site)
            };
            let holders = sections.into_iter().map(seen).collect();
            let stall = Stall { flavor, number, started_ns, holders, waiting };
            self.emit(cpu, EventKind::RcuStall(Box::new(stall)));
        }
        self.rcu.set_stall();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn begin(k: &mut Kernel, cpu: u32) {
        let held = k.prog_held(CpuId(cpu), "bpf_rcu_read_lock");
        k.ledger.acquire(Held::RcuRead, cpu.into(), held);
        k.rcu_update(CpuId(cpu));
    }

    fn end(k: &mut Kernel, cpu: u32) {
        k.ledger.release(Held::RcuRead, cpu.into());
        k.rcu_update(CpuId(cpu));
    }

    #[test]
    fn a_grace_period_waits_for_the_sections_that_began_before_it() {
        let mut k = Kernel::new(Config::default());
        let a = k.kzalloc(64, "a").unwrap();
        let b = k.kzalloc(64, "b").unwrap();
        begin(&mut k, 0);
        k.rcu_free(a, "a goes", RCU);
        // Later than the grace period: does not hold it, but holds the next one.
        begin(&mut k, 1);
        k.rcu_free(b, "b goes", RCU);
        assert!(k.alloc.size_of(a).is_some());
        end(&mut k, 0);
        assert_eq!((k.alloc.size_of(a), k.alloc.size_of(b)), (None, Some(64)));
        let (number, _, holders) = k.rcu.grace_period(Flavor::Rcu).unwrap();
        assert_eq!((number, holders.map(|s| s.cpu.0).collect::<Vec<_>>()), (2, vec![1]));
        end(&mut k, 1);
        assert_eq!(k.alloc.size_of(b), None);
        assert!(k.rcu.is_quiet());
    }

    #[test]
    fn a_trampoline_goes_when_no_task_is_in_the_kernel_any_more() {
        let hook = || Frame::Hook { prog: ProgId(1), ctx: 0, cookie: 0, free: 0 };
        let mut k = Kernel::new(Config::default());
        let image = k.kzalloc(64, "image").unwrap();
        k.submit(CpuId(1), hook());
        let _ = k.next(CpuId(1));
        // An interrupt of an idle CPU is no task.
        k.interrupt(CpuId(0), Level::Hard, [hook()]);
        let _ = k.next(CpuId(0));
        k.rcu_free(image, "an image goes", IMAGE_CHAIN);
        assert_eq!(k.alloc.size_of(image), Some(64));
        let (_, _, holders) = k.rcu.grace_period(Flavor::Tasks).unwrap();
        assert_eq!(holders.map(|s| s.cpu.0).collect::<Vec<_>>(), [1]);
        let _ = k.prog_return(CpuId(1), 0);
        assert_eq!(k.alloc.size_of(image), None);
        assert!(k.rcu.is_quiet());
    }

    #[test]
    fn a_stall_names_what_holds_the_grace_period() {
        let mut k = Kernel::new(Config::default());
        let a = k.kzalloc(64, "a").unwrap();
        begin(&mut k, 1);
        k.rcu_free(a, "a goes", CHAIN);
        k.charge(CpuId(0), STALL_NS - 1);
        assert!(k.events.iter().all(|e| !matches!(e.kind, EventKind::RcuStall(_))));
        k.charge(CpuId(0), 1);
        let Some(EventKind::RcuStall(s)) = k.events.last().map(|e| e.kind.clone()) else {
            panic!("no stall")
        };
        assert_eq!((s.holders[0].0.cpu, s.waiting), (CpuId(1), 1));
    }
}
