//! Who goes on, when a run is one of many: drawn at random, or by priorities that change at
//! a few places.

use std::collections::BTreeMap;

use kernel_model::CpuId;
use kernel_model::sched::TaskId;
use rand_chacha::ChaCha8Rng;
use rand_core::{Rng, SeedableRng};

use crate::machine::schedule::Pick;

/// Where a choice is made.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "it lends a function")]
pub struct Here<'a> {
    /// The CPU that ran last.
    pub cpu: CpuId,
    /// Who can go on, as for a [`Choice`]; never empty.
    ///
    /// [`Choice`]: crate::machine::schedule::Choice
    pub ready: &'a [Pick],
    /// What happens by default.
    pub default: Pick,
    /// Tasks that run on the CPUs.
    pub running: &'a dyn Fn(CpuId) -> Option<TaskId>,
    /// Choices before this one.
    pub nth: u64,
}

/// Makes the choices of one run.
pub trait Strategy: std::fmt::Debug + Send {
    /// One of `here.ready`; `None` to stop the run here, and be asked again.
    fn choose(&mut self, here: &Here<'_>) -> Option<Pick>;

    /// As it is, for a snapshot.
    fn copy(&self) -> Box<dyn Strategy>;
}

impl Clone for Box<dyn Strategy> {
    fn clone(&self) -> Box<dyn Strategy> {
        (**self).copy()
    }
}

fn below(rng: &mut ChaCha8Rng, n: u64) -> u64 {
    rng.next_u64() % n.max(1)
}

/// The stream of one run of a search.
fn stream(seed: u64, run: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(run.wrapping_add(16));
    rng
}

/// Preemption by the toss of a coin, rarer in some runs than in others.
#[derive(Clone, Debug)]
pub struct Random {
    rng: ChaCha8Rng,
    /// It goes on, but for one choice in so many.
    stay: u64,
}

impl Random {
    /// Run `run` of a search.
    #[must_use]
    pub fn new(seed: u64, run: u64) -> Random {
        let mut rng = stream(seed, run);
        let stay = 2 << below(&mut rng, 4);
        Random { rng, stay }
    }
}

impl Strategy for Random {
    fn choose(&mut self, here: &Here<'_>) -> Option<Pick> {
        if here.ready.len() == 1 {
            return Some(here.ready[0]);
        }
        if here.nth > 0 && here.default.cpu == here.cpu && below(&mut self.rng, self.stay) != 0 {
            return Some(here.default);
        }
        Some(here.ready[below(&mut self.rng, here.ready.len() as u64) as usize])
    }

    fn copy(&self) -> Box<dyn Strategy> {
        Box::new(self.clone())
    }
}

/// Probabilistic concurrency testing (Burckhardt and others, ASPLOS 2010): CPUs, and tasks that
/// compete for one, have priorities in random order, and at `depth - 1` places, drawn before the
/// run, that of the running one drops below all others. A bug that needs `depth` orderings of two
/// steps is met with a probability of at least `1 / (cpus * steps^(depth - 1))` per run.
#[derive(Clone, Debug)]
pub struct Pct {
    /// Of CPUs; higher goes first.
    priorities: Vec<u64>,
    /// Of tasks that compete, drawn when they first do.
    tasks: BTreeMap<TaskId, u64>,
    rng: ChaCha8Rng,
    /// Least of those that were drawn, and by how much the greatest is more.
    range: (u64, u64),
    /// Choices at which a priority changes, in order, and to what.
    changes: Vec<(u64, u64)>,
}

impl Pct {
    /// Run `run` of a search over runs of about `steps` choices.
    #[must_use]
    pub fn new(seed: u64, run: u64, cpus: u32, steps: u64, depth: u32) -> Pct {
        let mut rng = stream(seed, run);
        let depth = u64::from(depth.max(1));
        let mut priorities: Vec<u64> =
            (0..u64::from(cpus)).map(|c| (depth + c) << SPREAD).collect();
        for i in (1..priorities.len()).rev() {
            let j = below(&mut rng, i as u64 + 1) as usize;
            priorities.swap(i, j);
        }
        let mut changes: Vec<(u64, u64)> =
            (1..depth).map(|p| (1 + below(&mut rng, steps), p)).collect();
        changes.sort_unstable();
        let range = (depth << SPREAD, u64::from(cpus) << SPREAD);
        Pct { priorities, tasks: BTreeMap::new(), rng, range, changes }
    }
}

/// Bits of a priority below those that tell CPUs apart: for tasks, which come between.
const SPREAD: u32 = 32;

impl Pct {
    /// The priority of what goes on: of the task that would run, when several compete for its CPU.
    fn priority(&mut self, here: &Here<'_>, to: Pick) -> &mut u64 {
        let competed = here.ready.iter().any(|p| p.cpu == to.cpu && p.task.is_some());
        match to.task.or_else(|| (here.running)(to.cpu)).filter(|_| competed) {
            Some(task) => {
                let (rng, (least, more)) = (&mut self.rng, self.range);
                self.tasks.entry(task).or_insert_with(|| least + below(rng, more))
            }
            None => &mut self.priorities[to.cpu.idx()],
        }
    }
}

impl Strategy for Pct {
    fn choose(&mut self, here: &Here<'_>) -> Option<Pick> {
        while let Some((_, to)) = self.changes.first().copied().filter(|c| c.0 <= here.nth) {
            self.changes.remove(0);
            *self.priority(here, here.cpu.into()) = to << SPREAD;
        }
        here.ready.iter().copied().max_by_key(|p| *self.priority(here, *p))
    }

    fn copy(&self) -> Box<dyn Strategy> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Choices of two CPUs that can always go on.
    fn choices(strategy: &mut dyn Strategy, n: u64) -> Vec<u32> {
        let ready = [0, 1].map(|c| Pick::from(CpuId(c)));
        let mut cpu = CpuId(0);
        let mut out = Vec::new();
        for nth in 0..n {
            let (default, running) = (cpu.into(), &|_| None);
            let here = Here { cpu, ready: &ready, default, nth, running };
            cpu = strategy.choose(&here).unwrap().cpu;
            out.push(cpu.0);
        }
        out
    }

    #[test]
    fn pct_changes_as_often_as_its_depth_says() {
        for run in 0..200 {
            let way = choices(&mut Pct::new(1, run, 2, 10, 3), 20);
            assert_eq!(way, choices(&mut Pct::new(1, run, 2, 10, 3), 20));
            let switches = way.windows(2).filter(|w| w[0] != w[1]).count();
            assert!(switches <= 2, "{way:?}");
        }
        let firsts = (0..50).filter(|r| choices(&mut Pct::new(1, *r, 2, 10, 3), 1) == [1]).count();
        assert!((10..40).contains(&firsts));
    }

    #[test]
    fn runs_of_a_random_search_differ_and_repeat() {
        let all: std::collections::BTreeSet<Vec<u32>> =
            (0..100).map(|run| choices(&mut Random::new(7, run), 12)).collect();
        assert!(all.len() > 40, "{}", all.len());
        assert_eq!(choices(&mut Random::new(7, 3), 12), choices(&mut Random::new(7, 3), 12));
    }
}
