//! The fair class (kernel/sched/fair.c, EEVDF): who of a CPU's tasks runs next.
//!
//! Each task has a virtual run time, which passes more slowly the more it weighs. Of those that
//! are not ahead of the average (eligible), the one with the earliest virtual deadline runs.
//! Tasks that are ahead wait in a queue by virtual run time; those that are eligible in one by
//! deadline; the average only has to move past the first of one to feed the other, so that a
//! change costs a logarithm of their number.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

/// `sched_prio_to_weight`, nice -20 to 19.
#[rustfmt::skip]
const WEIGHTS: [u64; 40] = [
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916,
    9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991, 1586, 1277,
    1024, 820, 655, 526, 423, 335, 272, 215, 172, 137,
    110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
];
/// `NICE_0_LOAD`, unscaled.
const NICE_0: u64 = 1024;
/// `CGROUP_WEIGHT_DFL`.
const CGROUP_WEIGHT: u64 = 100;
/// `normalized_sysctl_sched_base_slice`.
const BASE_SLICE_NS: u64 = 700_000;
/// `TICK_NSEC` with `CONFIG_HZ=1000`.
pub(super) const TICK_NS: u64 = 1_000_000;

/// Weight of a nice value, which is clamped to its range.
pub(super) fn nice_weight(nice: i32) -> u64 {
    WEIGHTS[(nice.clamp(-20, 19) + 20) as usize]
}

/// `sched_weight_from_cgroup`: 1 to 10,000, with 100 as nice 0.
pub(super) fn cgroup_weight(weight: u32) -> u64 {
    (u64::from(weight.clamp(1, 10_000)) * NICE_0 + CGROUP_WEIGHT / 2) / CGROUP_WEIGHT
}

/// `sysctl_sched_base_slice`: by the logarithm of the number of CPUs, of at most 8.
pub(super) fn base_slice(cpus: u32) -> u64 {
    BASE_SLICE_NS * u64::from(1 + cpus.clamp(1, 8).ilog2())
}

/// `struct sched_entity`. Virtual times are nanoseconds of a task of nice 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entity {
    pub(super) weight: u64,
    pub(super) vruntime_ns: i64,
    pub(super) deadline_ns: i64,
    /// `slice`, in real nanoseconds.
    pub(super) slice: u64,
    /// How far behind the average it was when it left a queue.
    pub(super) vlag_ns: i64,
    /// `sum_exec_runtime`.
    pub(super) ran_ns: u64,
}

impl Entity {
    pub(super) fn new(weight: u64, slice: u64) -> Entity {
        Entity { weight, vruntime_ns: 0, deadline_ns: 0, slice, vlag_ns: 0, ran_ns: 0 }
    }

    /// `calc_delta_fair`.
    fn virtual_ns(&self, ns: u64) -> i64 {
        (u128::from(ns) * u128::from(NICE_0) / u128::from(self.weight)) as i64
    }

    /// Real time until its deadline.
    pub(super) fn left_ns(&self) -> u64 {
        let left = (self.deadline_ns - self.vruntime_ns).max(0);
        (left as u128 * u128::from(self.weight)).div_ceil(u128::from(NICE_0)) as u64
    }

    /// The part of `update_curr` that is the task's own. True when its slice is over.
    pub(super) fn run(&mut self, ns: u64) -> bool {
        self.ran_ns += ns;
        self.vruntime_ns += self.virtual_ns(ns);
        let over = self.vruntime_ns >= self.deadline_ns;
        if over {
            self.deadline_ns = self.vruntime_ns + self.virtual_ns(self.slice);
        }
        over
    }
}

/// How a task comes into a queue (`place_entity`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// For the first time: with half a slice.
    Initial,
    /// After it has slept, or from another CPU.
    Wakeup,
    /// It only stops running.
    Put,
}

/// A key of a heap, with the task's number and the number of its stay in the queue: one that has
/// left since is passed over when it comes to the top.
type Key = Reverse<(i64, u32, u32)>;

/// Keys in order. Tasks that take turns come in the order in which they go: those that do are in a
/// row, whose ends are at hand, and only the others in a heap.
#[derive(Clone, Debug, Default)]
struct Keys {
    row: VecDeque<Key>,
    heap: BinaryHeap<Key>,
}

impl Keys {
    fn push(&mut self, key: Key) {
        // Reversed: a later one is less.
        match self.row.back().is_none_or(|last| key <= *last) {
            true => self.row.push_back(key),
            false => self.heap.push(key),
        }
    }

    fn peek(&self) -> Option<Key> {
        self.row.front().max(self.heap.peek()).copied()
    }

    fn pop(&mut self) -> Option<Key> {
        match self.row.front() >= self.heap.peek() {
            true => self.row.pop_front(),
            false => self.heap.pop(),
        }
    }

    /// More or less the last first.
    fn last(&self) -> impl Iterator<Item = Key> {
        self.row.iter().rev().chain(self.heap.as_slice().iter().rev()).copied()
    }
}

/// The runnable tasks of a CPU (`struct cfs_rq`), by number.
#[derive(Clone, Default)]
pub(super) struct Queue {
    /// All but the one that runs, with the number of their stay.
    entities: Vec<Option<(Entity, u32)>>,
    waiting: usize,
    stays: u32,
    /// By deadline, as far as they were eligible when last looked at.
    eligible: Keys,
    /// The others, by virtual run time.
    ahead: Keys,
    curr: Option<(u32, Entity)>,
    /// Sums over `entities`: of weights, and of weighted virtual run times.
    load: i128,
    weighted_ns: i128,
    /// The average when there is nobody to form one.
    rest_ns: i64,
}

/// The orders are told, not how far they have been worked out.
impl std::fmt::Debug for Queue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let order = |keys: &Keys| {
            let mut keys: Vec<Key> = keys.last().filter(|k| self.of_key(*k).is_some()).collect();
            keys.sort_unstable_by(|a, b| b.cmp(a));
            keys.into_iter().map(|Reverse((_, id, _))| id).collect::<Vec<_>>()
        };
        f.debug_struct("Queue")
            .field("entities", &self.entities.iter().flatten().map(|e| e.0).collect::<Vec<_>>())
            .field("curr", &self.curr)
            .field("eligible", &order(&self.eligible))
            .field("ahead", &order(&self.ahead))
            .field("weighted_ns", &self.weighted_ns)
            .field("rest_ns", &self.rest_ns)
            .finish()
    }
}

impl Queue {
    /// Tasks that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Weight of all, the one that runs included.
    pub(super) fn load(&self) -> u64 {
        self.load as u64 + self.curr.map_or(0, |c| c.1.weight)
    }

    /// The one that runs.
    pub(super) fn curr(&self) -> Option<&Entity> {
        self.curr.as_ref().map(|c| &c.1)
    }

    /// The one that runs.
    pub(super) fn curr_mut(&mut self) -> Option<&mut Entity> {
        self.curr.as_mut().map(|c| &mut c.1)
    }

    fn sums(&self) -> (i128, i128) {
        let (w, v) = self.curr.map_or((0, 0), |(_, e)| (e.weight, e.vruntime_ns));
        (self.load + i128::from(w), self.weighted_ns + i128::from(w) * i128::from(v))
    }

    /// `avg_vruntime`.
    pub(super) fn average(&self) -> i64 {
        match self.sums() {
            (0, _) => self.rest_ns,
            (load, weighted) => weighted.div_euclid(load) as i64,
        }
    }

    /// `entity_eligible`: not ahead of the exact average.
    fn is_eligible(&self, vruntime_ns: i64) -> bool {
        let (load, weighted) = self.sums();
        i128::from(vruntime_ns) * load <= weighted
    }

    /// `enqueue_entity`.
    pub(super) fn enqueue(&mut self, id: u32, mut e: Entity, place: Place) {
        if place != Place::Put {
            let (load, _) = self.sums();
            let mut lag = i128::from(e.vlag_ns);
            if load == 0 {
                lag = 0;
            } else {
                // Its own weight will move the average by so much.
                lag = lag * (load + i128::from(e.weight)) / load;
            }
            e.vruntime_ns = self.average() - lag as i64;
            let slice = e.virtual_ns(e.slice);
            e.deadline_ns = e.vruntime_ns + if place == Place::Initial { slice / 2 } else { slice };
        }
        self.load += i128::from(e.weight);
        self.weighted_ns += i128::from(e.weight) * i128::from(e.vruntime_ns);
        self.stays = self.stays.wrapping_add(1);
        let at = id as usize;
        if self.entities.len() <= at {
            self.entities.resize(at + 1, None);
        }
        self.entities[at] = Some((e, self.stays));
        self.waiting += 1;
        self.ahead.push(Reverse((e.vruntime_ns, id, self.stays)));
    }

    /// Takes one out that does not run, as it is; its key stays.
    fn take(&mut self, id: u32) -> Option<Entity> {
        let (e, _) = self.entities.get_mut(id as usize)?.take()?;
        self.waiting -= 1;
        self.load -= i128::from(e.weight);
        self.weighted_ns -= i128::from(e.weight) * i128::from(e.vruntime_ns);
        Some(e)
    }

    /// `dequeue_entity` with `update_entity_lag`: whether it runs or waits.
    pub(super) fn dequeue(&mut self, id: u32) -> Option<Entity> {
        let average = self.average();
        let mut e = match self.curr {
            Some((curr, e)) if curr == id => {
                self.curr = None;
                e
            }
            _ => self.take(id)?,
        };
        let limit = e.virtual_ns((2 * e.slice).max(TICK_NS));
        e.vlag_ns = (average - e.vruntime_ns).clamp(-limit, limit);
        if self.waiting == 0 && self.curr.is_none() {
            self.rest_ns = average.max(e.vruntime_ns);
        }
        Some(e)
    }

    /// The one that a key is of, when it has not left since.
    fn of_key(&self, Reverse((_, id, stay)): Key) -> Option<&Entity> {
        let (e, now) = self.entities.get(id as usize)?.as_ref()?;
        (*now == stay).then_some(e)
    }

    /// `pick_eevdf` of those that wait, whose key is taken out; all are ahead only when the one
    /// that runs is not.
    fn first(&mut self) -> Option<u32> {
        while let Some(key) = self.ahead.peek() {
            match self.of_key(key).map(|e| e.deadline_ns) {
                None => {}
                Some(deadline) if self.is_eligible(key.0.0) => {
                    self.eligible.push(Reverse((deadline, key.0.1, key.0.2)));
                }
                Some(_) => break,
            }
            self.ahead.pop();
        }
        while let Some(key) = self.eligible.pop() {
            match self.of_key(key).map(|e| e.vruntime_ns) {
                None => {}
                Some(v) if self.is_eligible(v) => return Some(key.0.1),
                Some(v) => self.ahead.push(Reverse((v, key.0.1, key.0.2))),
            }
        }
        while let Some(key) = self.ahead.pop() {
            if self.of_key(key).is_some() {
                return Some(key.0.1);
            }
        }
        None
    }

    /// The task that runs from now on, `chosen` before all others; the one that ran, if there was
    /// one, waits or has left.
    pub(super) fn pick(&mut self, chosen: Option<u32>) -> Option<u32> {
        if let Some((id, e)) = self.curr.take() {
            self.enqueue(id, e, Place::Put);
        }
        let id = match chosen.filter(|id| self.waits(*id).is_some()) {
            Some(id) => id,
            None => self.first()?,
        };
        let e = self.take(id).expect("it was found there");
        self.curr = Some((id, e));
        Some(id)
    }

    /// `check_preempt_wakeup_fair`: whether one that has just come runs at once. With
    /// `RUN_TO_PARITY` the one that runs keeps its slice, and a slice that is over has ended
    /// already: only a shorter slice comes before.
    pub(super) fn preempts(&mut self, id: u32) -> bool {
        let Some((_, curr)) = self.curr else { return true };
        let Some(new) = self.waits(id).copied() else { return false };
        let shorter = new.slice < curr.slice;
        shorter && self.is_eligible(new.vruntime_ns) && new.deadline_ns < curr.deadline_ns
    }

    /// `yield_task_fair`: what is left of the slice is given up.
    pub(super) fn give_up(&mut self) {
        let Some((_, e)) = self.curr else { return };
        if self.is_eligible(e.vruntime_ns)
            && let Some(e) = self.curr_mut()
        {
            e.vruntime_ns = e.deadline_ns;
            e.deadline_ns += e.virtual_ns(e.slice);
        }
    }

    /// Tasks that wait, more or less those that would run last first (`detach_tasks`).
    pub(super) fn last(&self) -> impl Iterator<Item = u32> {
        let all = self.ahead.last().chain(self.eligible.last());
        all.filter(|k| self.of_key(*k).is_some()).map(|k| k.0.1)
    }

    /// One that waits.
    pub(super) fn waits(&self, id: u32) -> Option<&Entity> {
        self.entities.get(id as usize)?.as_ref().map(|e| &e.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs so many slices of a CPU that only the fair class uses; time of each.
    fn share(weights: &[u64], total_ns: u64) -> Vec<u64> {
        let mut q = Queue::default();
        for (id, w) in weights.iter().enumerate() {
            q.enqueue(id as u32, Entity::new(*w, base_slice(1)), Place::Initial);
        }
        let mut ran = vec![0; weights.len()];
        let mut now = 0;
        while now < total_ns {
            let id = q.pick(None).unwrap();
            let e = q.curr_mut().unwrap();
            let ns = e.left_ns().max(1);
            assert!(e.run(ns));
            (now, ran[id as usize]) = (now + ns, ran[id as usize] + ns);
        }
        ran
    }

    #[test]
    fn time_goes_by_weight() {
        let ran = share(&[1024, 3072, cgroup_weight(100), nice_weight(5)], 2_000_000_000);
        let whole = 1024 + 3072 + 1024 + 335;
        for (ran, weight) in ran.iter().zip([1024, 3072, 1024, 335]) {
            let fair = 2_000_000_000 / whole * weight;
            // EEVDF bounds the lag by a slice of each.
            assert!(ran.abs_diff(fair) < 3_000_000, "{ran} of {fair}");
        }
    }

    #[test]
    fn a_sleeper_keeps_its_lag_and_no_more() {
        let mut q = Queue::default();
        for id in 0..3 {
            q.enqueue(id, Entity::new(1024, 700_000), Place::Initial);
        }
        let id = q.pick(None).unwrap();
        q.curr_mut().unwrap().run(600_000);
        let ahead = q.dequeue(id).unwrap();
        assert!(ahead.vlag_ns < 0);
        let behind = q.pick(None).unwrap();
        let left = q.dequeue(behind).unwrap();
        assert!(left.vlag_ns >= 0 && left.vlag_ns <= 1_400_000);
        q.enqueue(id, ahead, Place::Wakeup);
        assert_ne!(q.pick(None), Some(id), "who has run more comes later");
    }

    #[test]
    fn slices_grow_with_the_cpus_and_weights_are_the_kernels() {
        assert_eq!(
            [1, 2, 4, 8, 64].map(base_slice),
            [700, 1400, 2100, 2800, 2800].map(|us| us * 1000)
        );
        assert_eq!((nice_weight(-20), nice_weight(0), nice_weight(19)), (88761, 1024, 15));
        assert_eq!((cgroup_weight(100), cgroup_weight(1), cgroup_weight(300)), (1024, 10, 3072));
    }
}
