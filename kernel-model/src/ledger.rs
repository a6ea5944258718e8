//! Every acquired thing, with where it was acquired (design invariant 9).

use std::collections::BTreeMap;

use crate::cpu::{CpuId, Site};
use crate::prog::ProgId;

/// Kinds of acquired things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// A socket reference.
    Sock,
    /// `bpf_spin_lock`.
    SpinLock,
    /// A reserved, not yet submitted ring buffer record.
    RingbufRecord,
    /// `rcu_read_lock`.
    RcuRead,
    /// `preempt_disable`.
    Preempt,
    /// `local_irq_save`.
    Irq,
    /// A packet buffer.
    Skb,
    /// A page of the page pool.
    Page,
    /// Memory allocated for a program.
    Object,
}

/// One held thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// CPU that acquired it.
    pub cpu: CpuId,
    /// Program that acquired it.
    pub prog: Option<ProgId>,
    /// Depth of the frame stack then; a run that ends may not leave deeper entries.
    pub depth: usize,
    /// Helper or kernel function.
    pub what: &'static str,
    /// Virtual time.
    pub clock_ns: u64,
    /// Of all acquisitions, which; the ledger counts them.
    pub order: u64,
    /// Call stack of the program, innermost first.
    pub stack: Vec<Site>,
}

/// The ledger: (kind, address) -> holder, a stack for things that nest.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    held: BTreeMap<(Kind, u64), Vec<Held>>,
    /// How many things a CPU holds from a frame depth. Asked at the end of every run, when rings
    /// may hold thousands of things that are none of that run's.
    depths: BTreeMap<(CpuId, usize), u32>,
    /// Acquisitions so far.
    acquired: u64,
    /// What programs of preempted tasks hold, by `task_struct`.
    parked: BTreeMap<u64, Vec<(Kind, u64, Held)>>,
}

impl Ledger {
    /// Notes an acquisition.
    pub fn acquire(&mut self, kind: Kind, addr: u64, mut held: Held) {
        self.acquired += 1;
        held.order = self.acquired;
        *self.depths.entry((held.cpu, held.depth)).or_default() += 1;
        self.held.entry((kind, addr)).or_default().push(held);
    }

    /// Notes a release; `None` when nothing like it is held.
    pub fn release(&mut self, kind: Kind, addr: u64) -> Option<Held> {
        let stack = self.held.get_mut(&(kind, addr))?;
        let last = stack.pop();
        if stack.is_empty() {
            self.held.remove(&(kind, addr));
        }
        if let Some(h) = &last {
            self.forget_depth(h);
        }
        last
    }

    fn forget_depth(&mut self, h: &Held) {
        if let Some(n) = self.depths.get_mut(&(h.cpu, h.depth)) {
            *n -= 1;
            if *n == 0 {
                self.depths.remove(&(h.cpu, h.depth));
            }
        }
    }

    /// The last holder of something.
    #[must_use]
    pub fn last(&self, kind: Kind, addr: u64) -> Option<&Held> {
        self.held.get(&(kind, addr))?.last()
    }

    /// Whether something is held.
    #[must_use]
    pub fn holds(&self, kind: Kind, addr: u64) -> bool {
        self.held.contains_key(&(kind, addr))
    }

    /// Whether a CPU holds anything of a kind.
    #[must_use]
    pub fn cpu_holds(&self, cpu: CpuId, kind: Kind) -> bool {
        let all = self.held.range((kind, 0)..=(kind, u64::MAX));
        all.flat_map(|(_, stack)| stack).any(|h| h.cpu == cpu)
    }

    /// Everything held, in order of kind and address, then what is held by preempted tasks.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, u64, &Held)> {
        let parked = self.parked.values().flatten().map(|(k, a, h)| (*k, *a, h));
        self.on_cpus().chain(parked)
    }

    fn on_cpus(&self) -> impl Iterator<Item = (Kind, u64, &Held)> {
        self.held.iter().flat_map(|((k, a), v)| v.iter().map(|h| (*k, *a, h)))
    }

    /// What programs of a CPU hold goes with their task, which is preempted.
    pub(crate) fn park(&mut self, cpu: CpuId, task: u64) {
        let held = self.take_above(cpu, 1);
        if !held.is_empty() {
            self.parked.insert(task, held);
        }
    }

    /// The task goes on.
    pub(crate) fn unpark(&mut self, cpu: CpuId, task: u64) {
        for (kind, addr, held) in self.parked.remove(&task).unwrap_or_default() {
            *self.depths.entry((cpu, held.depth)).or_default() += 1;
            let stack = self.held.entry((kind, addr)).or_default();
            let at = stack.partition_point(|h| h.order < held.order);
            stack.insert(at, held);
        }
    }

    /// What a CPU acquired at or above a frame depth, the last first.
    #[must_use]
    pub fn above(&self, cpu: CpuId, depth: usize) -> Vec<(Kind, u64, Held)> {
        if self.depths.range((cpu, depth)..=(cpu, usize::MAX)).next().is_none() {
            return Vec::new();
        }
        let all = self.on_cpus().filter(|(_, _, h)| h.cpu == cpu && h.depth >= depth);
        let mut out: Vec<_> = all.map(|(kind, addr, h)| (kind, addr, h.clone())).collect();
        out.sort_by_key(|(_, _, h)| std::cmp::Reverse(h.order));
        out
    }

    /// Takes out what a CPU acquired at or above a frame depth: the leaks of a run that ended.
    pub fn take_above(&mut self, cpu: CpuId, depth: usize) -> Vec<(Kind, u64, Held)> {
        let mut out = Vec::new();
        if self.depths.range((cpu, depth)..=(cpu, usize::MAX)).next().is_none() {
            return out;
        }
        for ((kind, addr), stack) in &mut self.held {
            for h in stack.extract_if(.., |h| h.cpu == cpu && h.depth >= depth) {
                out.push((*kind, *addr, h));
            }
        }
        self.held.retain(|_, v| !v.is_empty());
        out.iter().for_each(|(_, _, h)| self.forget_depth(h));
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_preempted_program_holds_is_its_own() {
        let held = |depth, what| Held {
            cpu: CpuId(0),
            prog: Some(ProgId(1)),
            depth,
            what,
            clock_ns: 0,
            order: 0,
            stack: Vec::new(),
        };
        let mut l = Ledger::default();
        l.acquire(Kind::Page, 7, held(0, "a ring"));
        l.acquire(Kind::RcuRead, 0, held(3, "first"));
        l.acquire(Kind::RcuRead, 0, held(3, "second"));
        l.park(CpuId(0), 100);
        assert!(!l.holds(Kind::RcuRead, 0) && l.holds(Kind::Page, 7));
        l.acquire(Kind::RcuRead, 0, held(3, "another task"));
        assert_eq!(l.take_above(CpuId(0), 1).len(), 1);
        // At the end of the run it counts, whoever runs.
        assert_eq!(l.iter().count(), 3);
        l.unpark(CpuId(0), 100);
        let order = [l.release(Kind::RcuRead, 0), l.release(Kind::RcuRead, 0)];
        assert_eq!(order.map(|h| h.map(|h| h.what)), [Some("second"), Some("first")]);
        assert!(l.above(CpuId(0), 1).is_empty());
    }
}
