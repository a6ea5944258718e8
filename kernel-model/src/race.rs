//! Data races: two accesses of two CPUs, or of two tasks of one, to the same bytes, one of them a
//! write, that nothing orders, whichever way this run happened to go.
//!
//! Happens-before by vector clocks, one component a CPU, and one more for what runs there while a
//! task is preempted in the middle of a program: that is ordered with neither part of the run, but
//! with all before and after it; accesses with preemption off never race on one CPU. What orders:
//! the order on a CPU (interrupts there included), locks, atomic operations with a result and
//! exchanges (full barriers, as in the kernel's memory model), load-acquire and store-release, the
//! bucket locks of hash tables and what a look-up finds of an update, locks of queues and ring
//! buffers, the start of timers and works, wake-ups, and a task that goes from CPU to CPU. A new
//! object has no history.
//!
//! What is looked at: values of maps, globals, arenas, objects of programs, local storage. What
//! per-CPU maps hold for one CPU is another's only by `bpf_map_lookup_percpu_elem`.
//!
//! # Not told
//!
//! `READ_ONCE` and `volatile` leave no trace in an instruction: a marked read that races with a
//! plain write is told, and a plain read that races with an atomic operation or a store-release
//! is not. Atomic operations never race with each other. A plain store to a word that is
//! exchanged elsewhere is taken for the end of a lock, and orders as one. Packets, contexts and
//! stacks are not looked at, nor is what user space writes. Two tasks of a CPU of which neither
//! preempts the other are taken for ordered. Of the accesses of one CPU to the same bytes the last
//! of each kind is known. Accesses beside a freed object (guarded pages) are not seen.

mod place;
mod sync;

use std::collections::{BTreeMap, BTreeSet};

use bpf::Insn;
use bpf::insn::{AtomicOp, InsnIdx};

use crate::cpu::CpuId;
use crate::maps::MapId;
use crate::{EventKind, Kernel, ProgId};

pub(crate) use sync::{Parked, Sync};

/// Bytes that share a record.
const CELL: u64 = 8;
/// Lines of what happened in between that a report has at most.
const BETWEEN: usize = 16;

/// A native access, as the engine saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Native {
    /// Address of the instruction.
    pub pc: u64,
    /// Physical address.
    pub phys: u64,
    /// Bytes, 1 to 8.
    pub size: u32,
    /// A store.
    pub write: bool,
}

/// One side of a race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// CPU.
    pub cpu: CpuId,
    /// Task.
    pub comm: String,
    /// Program and instruction.
    pub at: Option<(ProgId, InsnIdx)>,
    /// The same in words, with the source line, and the kernel function where it is one's.
    pub source: String,
    /// A write.
    pub write: bool,
    /// An atomic operation, or an ordered load or store.
    pub atomic: bool,
    /// Virtual time of its CPU, at the point after it.
    pub clock_ns: u64,
}

/// A data race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Race {
    /// Name of the map or global variable, or what the object is for.
    pub on: String,
    /// Where in it, in words.
    pub place: String,
    /// The access that came first in this run.
    pub first: Access,
    /// The one that came after it.
    pub second: Access,
    /// What both CPUs did from the first on, a line each.
    pub between: Vec<String>,
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match (self.atomic, self.write) {
            (true, true) => "atomic write",
            (true, false) => "ordered read",
            (false, true) => "write",
            (false, false) => "read",
        };
        let (cpu, comm, at) = (self.cpu.0, &self.comm, self.clock_ns);
        write!(f, "{kind} by CPU {cpu} ({comm}) before {at} ns in {}", self.source)
    }
}

impl std::fmt::Display for Race {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}; nothing orders them", self.place, self.first, self.second)?;
        if !self.between.is_empty() {
            write!(f, "; from the first on: {}", self.between.join(", "))?;
        }
        Ok(())
    }
}

/// Whose access it is: an instruction, or a kernel function on behalf of one.
type Who = (Option<(ProgId, InsnIdx)>, &'static str);

/// An access that is remembered.
#[derive(Clone, Debug)]
struct Epoch {
    cpu: CpuId,
    /// No other task of the CPU could come between.
    alone: bool,
    /// Component of the clocks.
    thread: usize,
    /// Its own clock then.
    clock: u64,
    /// Bytes of the cell.
    mask: u8,
    write: bool,
    order: Order,
    who: Who,
    task: u64,
    clock_ns: u64,
    /// Events there were.
    event: usize,
}

impl Epoch {
    fn is_atomic(&self) -> bool {
        self.order != Order::Plain
    }
}

/// By component; those that it does not have are 0.
type Clock = Vec<u64>;

/// What runs on a CPU.
#[derive(Clone, Debug)]
struct Thread {
    /// Component of the clocks.
    id: usize,
    /// What had happened before the run of a program on it began.
    start: Clock,
}

/// The detector.
#[derive(Clone, Debug, Default)]
pub struct Races {
    /// Whether anyone asked.
    on: bool,
    clocks: Vec<Clock>,
    /// By CPU.
    threads: Vec<Thread>,
    /// CPU of each component, and whether its task is preempted.
    owners: Vec<(CpuId, bool)>,
    syncs: BTreeMap<Sync, Clock>,
    cells: BTreeMap<u64, Vec<Epoch>>,
    found: Vec<Race>,
    /// Pairs of places that were told of.
    told: BTreeSet<(Who, Who)>,
    calls: Vec<Vec<sync::Call>>,
    /// Pages of arenas, which are no objects of the allocator: end and map.
    ranges: BTreeMap<u64, (u64, MapId)>,
    /// What instructions are, by native address.
    insns: BTreeMap<u64, (Option<(ProgId, InsnIdx)>, Order)>,
}

/// What an access does to the order of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Nothing.
    Plain,
    /// Atomic, and nothing else.
    Relaxed,
    /// `smp_load_acquire`.
    Acquire,
    /// `smp_store_release`.
    Release,
    /// A full barrier.
    Full,
    /// The same, of an exchange: what is written to its word plainly is taken for its release.
    Swap,
}

impl Races {
    /// For a number of CPUs.
    #[must_use]
    pub fn new(on: bool, cpus: u32) -> Races {
        let n = if on { cpus as usize } else { 0 };
        let clock = |cpu: usize| (0..n).map(|c| u64::from(c == cpu)).collect();
        let clocks: Vec<Clock> = (0..n).map(clock).collect();
        let threads = (0..n).map(|id| Thread { id, start: clocks[id].clone() }).collect();
        let owners = (0..n as u32).map(|cpu| (CpuId(cpu), false)).collect();
        Races { on, clocks, threads, owners, calls: vec![Vec::new(); n], ..Races::default() }
    }

    /// Whether accesses are looked at.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.on
    }

    /// A new object: what was there is forgotten.
    pub(crate) fn forget(&mut self, phys: u64, len: u64) {
        let cells = phys / CELL..(phys + len).div_ceil(CELL);
        if self.cells.range(cells.clone()).next().is_some() {
            let mut later = self.cells.split_off(&cells.start);
            self.cells.append(&mut later.split_off(&cells.end));
        }
    }

    /// Memory of a map that is no object of the slab.
    pub(crate) fn add_range(&mut self, phys: u64, len: u64, map: MapId) {
        if self.on {
            self.ranges.insert(phys, (phys + len, map));
        }
    }

    /// It is freed.
    pub(crate) fn drop_range(&mut self, phys: u64) {
        self.ranges.remove(&phys);
    }

    fn range_of(&self, phys: u64) -> Option<MapId> {
        let (_, (end, map)) = self.ranges.range(..=phys).next_back()?;
        (phys < *end).then_some(*map)
    }

    /// The accesses of others that race with a new one, which is remembered.
    fn meet(&mut self, cell: u64, new: Epoch) -> Vec<Epoch> {
        let clock = &self.clocks[new.thread];
        let epochs = self.cells.entry(cell).or_default();
        let races = |e: &&Epoch| {
            let ordered = clock.get(e.thread).is_some_and(|c| e.clock <= *c);
            // A plain read may be READ_ONCE.
            let plain_write = |e: &Epoch| e.write && !e.is_atomic();
            let atomic = e.is_atomic() || new.is_atomic();
            let swap = e.order == Order::Swap || new.order == Order::Swap;
            let marked = swap || atomic && !plain_write(e) && !plain_write(&new);
            // Two sections with preemption off are one after the other.
            let excluded = e.cpu == new.cpu && e.alone && new.alone;
            e.thread != new.thread
                && !ordered
                && !excluded
                && e.mask & new.mask != 0
                && (e.write || new.write)
                && !marked
        };
        let found = epochs.iter().filter(races).cloned().collect();
        let same = |e: &Epoch| {
            (e.thread, e.alone, e.write, e.order, e.mask)
                == (new.thread, new.alone, new.write, new.order, new.mask)
        };
        epochs.retain(|e| !same(e));
        epochs.push(new);
        found
    }
}

impl Kernel {
    /// Races found so far.
    #[must_use]
    pub fn races(&self) -> &[Race] {
        &self.races.found
    }

    /// An access of native code.
    pub fn race_native(&mut self, cpu: CpuId, a: Native) {
        let (at, order) = match self.races.insns.get(&a.pc) {
            Some(known) => *known,
            None => {
                let at = self.place_of(a.pc);
                let known = (at, at.map_or(Order::Plain, |at| self.order_of(at)));
                self.races.insns.insert(a.pc, known);
                known
            }
        };
        if !self.race_looks_at(a.phys) {
            return;
        }
        let word = Sync::Word(a.phys);
        // Of the two halves of an atomic operation the store is the one that counts.
        let full = matches!(order, Order::Full | Order::Swap) && a.write;
        let unlocks = order == Order::Plain && a.write && self.races.syncs.contains_key(&word);
        if full || order == Order::Acquire {
            self.race_acquire(cpu, &word);
        }
        self.race_access(cpu, (a.phys, a.size.into()), a.write, order, (at, ""));
        if full || unlocks || order == Order::Release {
            self.race_release(cpu, word);
        }
    }

    /// What an original instruction does.
    fn order_of(&self, (prog, insn): (ProgId, InsnIdx)) -> Order {
        let insns = self.progs.get(&prog).map(|p| &p.verified.program().insns);
        match insns.and_then(|i| i.get(insn.idx())) {
            Some(Insn::LoadAcquire { .. }) => Order::Acquire,
            Some(Insn::StoreRelease { .. }) => Order::Release,
            Some(Insn::Atomic { op, .. }) => match op {
                AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor => Order::Relaxed,
                AtomicOp::Xchg | AtomicOp::Cmpxchg => Order::Swap,
                _ => Order::Full,
            },
            _ => Order::Plain,
        }
    }

    /// An access of a kernel function to a map's value, on behalf of the program that called it.
    pub(crate) fn race_value(&mut self, cpu: CpuId, va: u64, len: u64, func: &'static str) {
        let Some(phys) = self.mem.phys(va) else { return };
        let pc = self.cpus[cpu.idx()].called_from;
        let at = pc.checked_sub(1).and_then(|pc| self.place_of(pc));
        self.race_access(cpu, (phys, len), true, Order::Plain, (at, func));
    }

    fn race_access(
        &mut self,
        cpu: CpuId,
        (phys, len): (u64, u64),
        write: bool,
        order: Order,
        who: Who,
    ) {
        let c = &self.cpus[cpu.idx()];
        let thread = self.races.threads[cpu.idx()].id;
        let new = Epoch {
            cpu,
            alone: self.context(cpu).preempt_off,
            thread,
            clock: self.races.clocks[thread][thread],
            mask: 0,
            write,
            order,
            who,
            task: c.task,
            clock_ns: c.clock_ns,
            event: self.events.len(),
        };
        let end = phys + len.max(1);
        for cell in phys / CELL..end.div_ceil(CELL) {
            let (from, to) = (phys.max(cell * CELL) % CELL, (end - cell * CELL).min(CELL));
            let mask = (from..to).fold(0u8, |m, bit| m | 1 << bit);
            for old in self.races.meet(cell, Epoch { mask, ..new.clone() }) {
                self.race_found(cell * CELL + from, &old, &new);
            }
        }
    }

    fn race_found(&mut self, phys: u64, first: &Epoch, second: &Epoch) {
        let pair = (first.who.min(second.who), first.who.max(second.who));
        if !self.races.told.insert(pair) {
            return;
        }
        let (on, place) = self.race_place(phys);
        let race = Race {
            on,
            place,
            first: self.race_side(first),
            second: self.race_side(second),
            between: self.race_between(first, second),
        };
        self.races.found.push(race.clone());
        self.emit(second.cpu, EventKind::Race(Box::new(race)));
    }

    fn race_side(&self, e: &Epoch) -> Access {
        let (at, func) = e.who;
        let mut source = at.map_or_else(String::new, |(p, i)| self.source_of(p, i));
        if !func.is_empty() {
            source = format!("bpf_{func} called in {source}");
        }
        Access {
            cpu: e.cpu,
            comm: self.task_comm(e.task),
            at,
            source,
            write: e.write,
            atomic: e.is_atomic(),
            clock_ns: e.clock_ns,
        }
    }

    fn race_between(&self, first: &Epoch, second: &Epoch) -> Vec<String> {
        let name = |p: &ProgId| self.progs.get(p).map_or("?", |p| p.name());
        let from = first.event.min(self.events.len());
        let mine = self.events[from..].iter().filter(|e| e.cpu == first.cpu || e.cpu == second.cpu);
        let line = |e: &crate::Event| {
            let what = match &e.kind {
                EventKind::Enter { prog } => format!("enters {}", name(prog)),
                EventKind::Exit { prog, .. } => format!("leaves {}", name(prog)),
                EventKind::HelperCall { name, .. } => {
                    format!("calls {}", crate::helpers::full(name))
                }
                _ => return None,
            };
            Some(format!("CPU {} {what}", e.cpu.0))
        };
        mine.filter_map(line).take(BETWEEN).collect()
    }
}

#[cfg(test)]
mod tests;
