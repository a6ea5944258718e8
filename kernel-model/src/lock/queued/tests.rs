//! Interleavings of attempts step by step, and what ends each kind of deadlock.

use std::collections::BTreeSet;

use super::*;
use crate::lock::word::Part;
use crate::maps::MapId;

fn lock(n: u64) -> LockId {
    LockId::Map { map: MapId(1), part: Part::Bucket, index: n }
}

fn memory() -> GuestMemory {
    GuestMemory::empty(bpf::Endian::Little)
}

/// One CPU of a simulation: takes locks in order, then gives them back.
#[derive(Clone, Debug)]
struct Cpu {
    wants: Vec<u64>,
    holds: Vec<u64>,
    attempt: Option<Acquire>,
    /// Waits, and until when.
    waits: Option<u64>,
    failed: Option<Failure>,
}

#[derive(Clone, Debug)]
struct Sim {
    q: Queues,
    cpus: Vec<Cpu>,
    now: u64,
    rules: Rules,
}

impl Sim {
    fn new(rules: Rules, wants: &[&[u64]]) -> Sim {
        let cpu = |wants: &&[u64]| Cpu {
            wants: wants.iter().rev().copied().collect(),
            holds: Vec::new(),
            attempt: None,
            waits: None,
            failed: None,
        };
        let q = Queues::new(u32::try_from(wants.len()).unwrap());
        Sim { q, cpus: wants.iter().map(cpu).collect(), now: 0, rules }
    }

    fn is_done(&self, cpu: usize) -> bool {
        let c = &self.cpus[cpu];
        c.attempt.is_none() && c.wants.is_empty() && c.holds.is_empty()
    }

    fn can_step(&self, cpu: usize) -> bool {
        !self.is_done(cpu) && self.cpus[cpu].waits.is_none_or(|until| until <= self.now)
    }

    /// One step; its point, if it came to one.
    fn step(&mut self, cpu: usize) -> Option<&'static str> {
        let mut mem = memory();
        let c = &mut self.cpus[cpu];
        let id = u32::try_from(cpu).unwrap();
        c.waits = None;
        let mut point = None;
        if c.attempt.is_none() {
            match c.wants.pop() {
                Some(n) => c.attempt = Some(Acquire::new(lock(n), id, self.rules, false)),
                None => {
                    let n = c.holds.pop().expect("not done");
                    self.q.unlock(&mut mem, (id, lock(n)), self.rules).unwrap();
                }
            }
        }
        if let Some(a) = &mut c.attempt {
            match a.step(&mut self.q, &mut mem, self.now).unwrap() {
                Next::Point(name) => point = Some(name),
                Next::Wait { until } => c.waits = Some(until),
                Next::Got => {
                    let LockId::Map { index, .. } = a.lock else { panic!() };
                    c.holds.push(index);
                    c.attempt = None;
                }
                Next::Failed(f) => {
                    c.failed = Some(f);
                    c.wants.clear();
                    c.attempt = None;
                }
            }
        }
        for woken in std::mem::take(&mut self.q.woken) {
            self.cpus[woken as usize].waits = None;
        }
        self.check();
        point
    }

    fn check(&self) {
        let mut seen = BTreeSet::new();
        for n in self.cpus.iter().flat_map(|c| &c.holds) {
            assert!(seen.insert(*n), "two CPUs hold lock {n}: {self:#?}");
        }
    }

    /// Nothing is left behind.
    fn check_end(&self) {
        assert!(self.q.words.none_held(), "{self:#?}");
        for c in &self.q.cpus {
            assert_eq!((c.held.count(), c.counts), (0, [0, 0]), "{self:#?}");
            assert_eq!(c.held, Held::default());
            assert!(c.nodes.iter().flatten().all(|n| *n == Node::default()), "{self:#?}");
        }
    }

    /// Until the CPU has passed a point; panics when it does not come.
    fn to(&mut self, cpu: usize, name: &str) {
        for _ in 0..50 {
            if self.step(cpu) == Some(name) {
                return;
            }
        }
        panic!("no {name:?}: {self:#?}");
    }

    fn until_it_waits(&mut self, cpu: usize) {
        while self.cpus[cpu].waits.is_none() {
            self.step(cpu);
        }
    }

    /// CPUs take turns, time passes when all wait.
    fn finish(&mut self) {
        while !(0..self.cpus.len()).all(|c| self.is_done(c)) {
            match (0..self.cpus.len()).find(|c| self.can_step(*c)) {
                Some(cpu) => drop(self.step(cpu)),
                None => {
                    let next = self.cpus.iter().filter_map(|c| c.waits).min().unwrap();
                    assert!(next != u64::MAX && next > self.now, "a hang: {self:#?}");
                    self.now = next;
                }
            }
        }
        self.check_end();
    }

    fn failures(&self) -> Vec<Option<(Errno, DeadlockKind)>> {
        self.cpus.iter().map(|c| c.failed.map(|f| (f.errno, f.kind))).collect()
    }
}

/// All interleavings of steps; time passes only when every CPU waits. Number of states.
fn explore(start: Sim) -> usize {
    let mut seen = BTreeSet::new();
    let mut todo = vec![start];
    while let Some(mut s) = todo.pop() {
        if !seen.insert(format!("{s:?}")) {
            continue;
        }
        let able: Vec<usize> = (0..s.cpus.len()).filter(|c| s.can_step(*c)).collect();
        if able.is_empty() {
            if (0..s.cpus.len()).all(|c| s.is_done(c)) {
                s.check_end();
                continue;
            }
            let next = s.cpus.iter().filter_map(|c| c.waits).min().unwrap();
            assert!(next != u64::MAX, "a hang: {s:#?}");
            s.now = next;
            todo.push(s);
            continue;
        }
        for cpu in able {
            let mut next = s.clone();
            next.step(cpu);
            todo.push(next);
        }
    }
    seen.len()
}

#[test]
fn in_every_interleaving_one_cpu_at_a_time_has_the_lock_and_none_waits_for_ever() {
    for rules in [Rules::Plain, Rules::Resilient, Rules::TestAndSet] {
        let states = explore(Sim::new(rules, &[&[0], &[0], &[0]]));
        assert!(states > 100, "{rules:?}: {states}");
    }
}

#[test]
fn in_every_interleaving_of_two_locks_in_opposite_order_both_come_back() {
    assert!(explore(Sim::new(Rules::Resilient, &[&[0, 1], &[1, 0]])) > 100);
    explore(Sim::new(Rules::TestAndSet, &[&[0, 1], &[1, 0]]));
}

const AA: Option<(Errno, DeadlockKind)> = Some((Errno::EDEADLK, DeadlockKind::Aa));
const ABBA: Option<(Errno, DeadlockKind)> = Some((Errno::EDEADLK, DeadlockKind::Abba));
const LATE: Option<(Errno, DeadlockKind)> = Some((Errno::ETIMEDOUT, DeadlockKind::Timeout));

#[test]
fn aa_is_found_after_a_millisecond() {
    for rules in [Rules::Resilient, Rules::TestAndSet] {
        let mut s = Sim::new(rules, &[&[0, 0]]);
        s.finish();
        assert_eq!((s.failures(), s.now), (vec![AA], CHECK_NS + 1));
    }
}

#[test]
fn abba_is_found_by_the_one_that_looks_first() {
    let mut s = Sim::new(Rules::Resilient, &[&[0, 1], &[1, 0]]);
    s.to(0, "taken, not in the held table");
    s.to(1, "taken, not in the held table");
    s.until_it_waits(0);
    s.now += 10;
    s.until_it_waits(1);
    s.finish();
    assert_eq!(s.failures(), [ABBA, None]);
    let f = s.cpus[0].failed.unwrap();
    assert_eq!((f.holding, f.other), (Some(lock(0)), Some(1)));
}

#[test]
fn only_time_ends_a_cycle_of_three() {
    let mut s = Sim::new(Rules::Resilient, &[&[0, 1], &[1, 2], &[2, 0]]);
    (0..3).for_each(|c| s.to(c, "taken, not in the held table"));
    for cpu in 0..3 {
        s.until_it_waits(cpu);
        s.now += 10;
    }
    s.finish();
    assert_eq!((s.failures(), s.now), (vec![LATE, None, None], TIMEOUT_NS + 1));
}

#[test]
fn a_queue_is_torn_down_from_its_head() {
    let mut s = Sim::new(Rules::Resilient, &[&[0], &[0], &[0], &[0], &[0]]);
    s.to(0, "taken, not in the held table");
    s.step(0);
    (1..5).for_each(|c| s.until_it_waits(c));
    // The holder does nothing for a long time.
    while s.now < 3 * TIMEOUT_NS {
        match (1..5).find(|c| s.can_step(*c)) {
            Some(cpu) => drop(s.step(cpu)),
            None => s.now += CHECK_NS,
        }
    }
    // The pending one by its own clock, the head of the queue by twice that, others by it.
    let sent = Some((Errno::EDEADLK, DeadlockKind::Timeout));
    assert_eq!(s.failures(), [None, LATE, LATE, sent, sent]);
    s.finish();
}

#[test]
fn an_nmi_before_the_table_knows_meets_a_lock_of_nobody() {
    let mut s = Sim::new(Rules::Resilient, &[&[0], &[]]);
    let mut mem = memory();
    let mut nmi = |s: &mut Sim| {
        let mut a = Acquire::new(lock(0), 0, Rules::Resilient, true);
        loop {
            match a.step(&mut s.q, &mut mem, s.now).unwrap() {
                Next::Point(_) => {}
                Next::Wait { until } => s.now = until,
                Next::Got => panic!("it is taken"),
                Next::Failed(f) => return (f.errno, f.kind),
            }
        }
    };
    s.to(0, "taken, not in the held table");
    assert_eq!(Some(nmi(&mut s)), LATE);
    // Afterwards it is found.
    s.step(0);
    let began = s.now;
    assert_eq!((Some(nmi(&mut s)), s.now - began), (AA, CHECK_NS + 1));
    s.finish();
}

#[test]
fn beyond_the_end_of_the_table_only_time_helps() {
    let many: Vec<u64> = (0..31).collect();
    let aa: Vec<u64> = many.iter().copied().chain([0]).collect();
    // The lock wanted is entry 32, the table is searched but for its last entry.
    let mut s = Sim::new(Rules::Resilient, &[&aa]);
    s.finish();
    assert_eq!(s.failures(), [AA]);
    let late: Vec<u64> = (0..32).chain([31]).collect();
    let mut s = Sim::new(Rules::Resilient, &[&late]);
    s.finish();
    assert_eq!(s.failures(), [LATE]);
}

#[test]
fn a_spoilt_word_ends_in_a_timeout() {
    // Locked by nobody, pending by nobody, tails of no CPU, of no node, of this CPU.
    for word in [1, PENDING, 0xff, TAIL_MASK, 1 << 18, 2 << 18 | 1, u32::MAX, 0x2_0000] {
        for rules in [Rules::Resilient, Rules::TestAndSet] {
            let mut s = Sim::new(rules, &[&[0], &[0]]);
            s.q.words.set(&mut memory(), lock(0), word).unwrap();
            let mut guard = 0;
            while !(0..2).all(|c| s.is_done(c)) {
                match (0..2).find(|c| s.can_step(*c)) {
                    Some(cpu) => drop(s.step(cpu)),
                    None => s.now = s.cpus.iter().filter_map(|c| c.waits).min().unwrap(),
                }
                guard += 1;
                assert!(s.now < 4 * TAS_TIMEOUT_NS && guard < 10_000, "{word:#x} {s:#?}");
            }
            assert!(s.q.cpus.iter().all(|c| c.held.count() == 0 && c.counts == [0, 0]));
        }
    }
}

#[test]
fn a_tail_that_is_written_over_while_cpus_wait_ends_in_timeouts() {
    let mut s = Sim::new(Rules::Resilient, &[&[0], &[0], &[0], &[0]]);
    s.to(0, "taken, not in the held table");
    s.step(0);
    (1..4).for_each(|c| s.until_it_waits(c));
    s.q.words.set(&mut memory(), lock(0), 0xfffc_0001).unwrap();
    while s.now < 8 * TIMEOUT_NS && !(1..4).all(|c| s.is_done(c)) {
        match (1..4).find(|c| s.can_step(*c)) {
            Some(cpu) => drop(s.step(cpu)),
            None => s.now += CHECK_NS,
        }
    }
    assert!((1..4).all(|c| s.is_done(c)), "{s:#?}");
}

#[test]
fn nested_contexts_have_nodes_of_their_own_and_the_fifth_spins_without() {
    let mut q = Queues::new(2);
    let mut mem = memory();
    assert!(q.try_fast(&mut mem, (1, lock(0)), Rules::Plain).unwrap());
    q.words.set(&mut mem, lock(0), LOCKED | PENDING).unwrap();
    let mut waiting = Vec::new();
    for nth in 0..5 {
        let mut a = Acquire::new(lock(0), 0, Rules::Plain, false);
        let mut last = "";
        while let Next::Point(p) = a.step(&mut q, &mut mem, 0).unwrap() {
            last = p;
        }
        assert_eq!(last == "without a node", nth == 4, "{nth}: {last}");
        waiting.push(a);
    }
    assert_eq!(q.cpus[0].counts, [0, 5]);
}

#[test]
fn the_word_is_as_the_kernel_encodes_it() {
    let n = NodeId { cpu: 5, idx: 3 };
    assert_eq!(encode_tail(n), 6 << 18 | 3 << 16);
    assert_eq!(decode_tail(encode_tail(n) | LOCKED), Some(n));
    assert_eq!(decode_tail(LOCKED_PENDING_MASK), None);
}
