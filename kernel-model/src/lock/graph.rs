//! The order in which locks are taken, over the whole run (what kernel/locking/lockdep.c does for
//! the kernel's own locks): rings that could deadlock on another interleaving, and locks that an
//! interrupt takes while its CPU may have them.
//!
//! A node is a lock of a program, or all locks of one kind of a map. An edge A → B says that a
//! CPU wanted B while it had A. A ring is no danger when all of its edges were seen under one
//! further lock only: that lock keeps them apart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::{Holding, LockId, Taking, Waiting};
use crate::context::Level;
use crate::{EventKind, Kernel};

/// Locks, and orders of two, of which use is kept: the first ones of a run.
const LOCKS_MAX: usize = 4096;

/// First sight of an order of two locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Edge {
    /// Where the first was taken.
    pub held: Arc<Taking>,
    /// Where the second was wanted.
    pub wanted: Arc<Taking>,
    /// Locks that were held besides, each time.
    gates: BTreeSet<LockId>,
}

/// First sights of a lock, by context and whether its takers turn interrupts off.
type Usage = BTreeMap<(Level, bool), Arc<Taking>>;

/// All of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Graph {
    edges: BTreeMap<(LockId, LockId), Edge>,
    usage: BTreeMap<LockId, Usage>,
    /// Orders (held, wanted) that did deadlock: told already.
    happened: BTreeSet<(LockId, LockId)>,
}

/// What could have gone wrong and did not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Danger {
    /// Locks taken in a ring, each edge with its locks' names and first sight.
    Ring(Vec<(String, String, Edge)>),
    /// A lock that an interrupt takes, and that is held with interrupts on.
    Irq {
        /// Lock.
        lock: String,
        /// Where it is taken with interrupts on.
        open: Arc<Taking>,
        /// Where the interrupt takes it.
        irq: Arc<Taking>,
    },
}

/// A danger as the trace has it: by the names of the locks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Who has the first of two locks wants the second: those of a ring. Of a lock that an
    /// interrupt takes while its CPU may have it, this one alone, twice.
    pub pairs: Vec<(String, String)>,
    /// The context in which it is wanted again, for a lock of an interrupt.
    pub level: Option<Level>,
}

impl std::fmt::Display for Order {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let (Some(level), Some((lock, _))) = (self.level, self.pairs.first()) {
            return write!(f, "{lock} is taken in {} context too", level.name());
        }
        let ring = self.pairs.iter().map(|p| p.0.as_str()).chain(self.pairs.first().map(|p| &*p.0));
        f.write_str(&ring.collect::<Vec<_>>().join(" -> "))
    }
}

/// The node of a lock.
fn node(lock: LockId) -> LockId {
    match lock {
        LockId::Word(_) | LockId::Sleeping(_) => lock,
        LockId::Map { map, part, .. } => LockId::Map { map, part, index: 0 },
    }
}

/// Context of a taker, and whether it turns interrupts off: all but `bpf_res_spin_lock` do.
fn usage_of(by: &Waiting) -> (Level, bool) {
    let t = &by.taking;
    (t.level, t.irqs_off || t.func != "bpf_res_spin_lock")
}

impl Graph {
    /// A lock is wanted by a CPU that has others. Most often that was seen before: a graph that
    /// snapshots share is left alone then.
    pub(super) fn note(self: &mut Arc<Graph>, holding: &[Holding], wanted: &Waiting) {
        let (to, usage) = (node(wanted.lock), usage_of(wanted));
        let full = self.usage.len() >= LOCKS_MAX && !self.usage.contains_key(&to);
        if !full && self.usage.get(&to).is_none_or(|u| !u.contains_key(&usage)) {
            let all = &mut Arc::make_mut(self).usage;
            all.entry(to).or_default().insert(usage, wanted.taking.clone());
        }
        for (n, held) in holding.iter().enumerate() {
            let from = node(held.lock);
            let others = holding.iter().enumerate().filter(|(m, _)| *m != n);
            let gates: BTreeSet<LockId> = others.map(|(_, h)| node(h.lock)).collect();
            let known = self.edges.get(&(from, to)).map(|e| e.gates.is_subset(&gates));
            let full = known.is_none() && self.edges.len() >= LOCKS_MAX;
            if from == to || known == Some(true) || full {
                continue;
            }
            let new = || Edge {
                held: held.taking.clone(),
                wanted: wanted.taking.clone(),
                gates: gates.clone(),
            };
            let edges = &mut Arc::make_mut(self).edges;
            edges.entry((from, to)).or_insert_with(new).gates.retain(|g| gates.contains(g));
        }
    }

    /// An order that was told as a deadlock.
    pub(super) fn happened(self: &mut Arc<Graph>, wanted: LockId, holding: Option<LockId>) {
        if let Some(held) = holding {
            Arc::make_mut(self).happened.insert((node(held), node(wanted)));
        }
    }

    /// The shortest way from a lock to another.
    fn way(&self, from: LockId, to: LockId) -> Option<Vec<(LockId, LockId)>> {
        let mut came = BTreeMap::from([(from, None)]);
        let mut todo = VecDeque::from([from]);
        while let Some(at) = todo.pop_front() {
            if at == to {
                let mut path = Vec::new();
                let mut at = at;
                while let Some(Some(before)) = came.get(&at) {
                    path.push((*before, at));
                    at = *before;
                }
                path.reverse();
                return Some(path);
            }
            let first = (at, LockId::Word(0));
            for ((_, next), _) in self.edges.range(first..).take_while(|((f, _), _)| *f == at) {
                if !came.contains_key(next) {
                    came.insert(*next, Some(at));
                    todo.push_back(*next);
                }
            }
        }
        None
    }

    /// Rings, each once, by the smallest lock.
    fn rings(&self) -> Vec<Vec<(LockId, LockId)>> {
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for (from, to) in self.edges.keys() {
            let Some(back) = self.way(*to, *from) else { continue };
            let ring: Vec<_> = std::iter::once((*from, *to)).chain(back).collect();
            let locks: BTreeSet<LockId> = ring.iter().map(|e| e.0).collect();
            let told = ring.iter().any(|e| self.happened.contains(e));
            let gates = ring.iter().map(|e| &self.edges[e].gates);
            let common = gates.cloned().reduce(|a, b| &a & &b).unwrap_or_default();
            if seen.insert(locks.clone()) && !told && common.is_subset(&locks) {
                out.push(ring);
            }
        }
        out
    }
}

/// Two takers of which the second may interrupt the first while that has the lock.
fn interrupted(usage: &Usage) -> Option<(Arc<Taking>, Arc<Taking>)> {
    usage.iter().rev().find_map(|((level, _), irq)| {
        let may = |(l, masks): &(Level, bool)| l < level && (*level == Level::Nmi || !masks);
        let (_, open) = usage.iter().find(|(key, _)| may(key))?;
        Some((open.clone(), irq.clone()))
    })
}

impl Kernel {
    /// Deadlocks that were possible in this run and did not happen, in order of the locks.
    #[must_use]
    pub fn lock_dangers(&self) -> Vec<Danger> {
        let graph = &self.locks.graph;
        let name = |l| self.lock_name(l);
        let edge = |e: &(LockId, LockId)| (name(e.0), name(e.1), graph.edges[e].clone());
        let rings = graph.rings();
        let rings = rings.iter().map(|ring| Danger::Ring(ring.iter().map(edge).collect()));
        let irqs = graph.usage.iter().filter_map(|(lock, usage)| {
            let (open, irq) = interrupted(usage)?;
            let told = graph.happened.contains(&(*lock, *lock));
            (!told).then(|| Danger::Irq { lock: name(*lock), open, irq })
        });
        rings.chain(irqs).collect()
    }

    /// Tells the trace of the dangers so far: for the end of a run, when it is known that none of
    /// them came to be. The CPU is the one that wanted the lock last.
    pub fn tell_lock_dangers(&mut self) {
        for danger in self.lock_dangers() {
            let (cpu, order) = match danger {
                Danger::Ring(edges) => {
                    let last = edges.iter().map(|e| &e.2.wanted).max_by_key(|t| t.clock_ns);
                    let cpu = last.map_or(self.this_cpu, |t| t.cpu);
                    let pairs = edges.into_iter().map(|(from, to, _)| (from, to)).collect();
                    (cpu, Order { pairs, level: None })
                }
                Danger::Irq { lock, irq, .. } => {
                    let pairs = vec![(lock.clone(), lock)];
                    (irq.cpu, Order { pairs, level: Some(irq.level) })
                }
            };
            self.emit(cpu, EventKind::LockOrder(Box::new(order)));
        }
    }

    /// Orders of two locks that were seen, each by its locks' names and first sight.
    #[must_use]
    pub fn lock_orders(&self) -> Vec<(String, String, Edge)> {
        let edges = self.locks.graph.edges.iter();
        edges.map(|((a, b), e)| (self.lock_name(*a), self.lock_name(*b), e.clone())).collect()
    }

    /// A danger in lines of text, with both call stacks.
    #[must_use]
    pub fn danger_text(&self, danger: &Danger) -> String {
        let mut out = Vec::new();
        let stack = |out: &mut Vec<String>, verb: &str, lock: &str, t: &Taking| {
            let who = super::report::who(t);
            out.push(format!("  {verb} {lock}: {} at {} ns, {who}", t.func, t.clock_ns));
            out.extend(self.stack_lines(&t.stack).into_iter().map(|l| format!("      {l}")));
        };
        match danger {
            Danger::Ring(edges) => {
                let locks: Vec<&str> = edges.iter().map(|e| e.0.as_str()).collect();
                let ring = [&locks[..], &locks[..1]].concat().join(" -> ");
                out.push(format!("possible deadlock: locks are taken in a ring, {ring}"));
                for (from, to, e) in edges {
                    stack(&mut out, "holds", from, &e.held);
                    stack(&mut out, "wants", to, &e.wanted);
                }
            }
            Danger::Irq { lock, open, irq } => {
                let level = irq.level.name();
                out.push(format!("possible deadlock: {lock} is taken in {level} context"));
                stack(&mut out, "held where that can come,", lock, open);
                stack(&mut out, "wanted there,", lock, irq);
            }
        }
        out.join("\n")
    }
}
