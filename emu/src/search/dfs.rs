//! Every interleaving, once: depth first, from a snapshot at the last choice.
//!
//! ```text
//!  Frontier.open ─► the last few branches ─► threads ─► states met on the way, how it ended
//!        ▲                                                      │ in the order of the branches
//!        └───────────── branches of states that are new ◄───────┘
//! ```
//!
//! An interleaving is written down as a [`Branch`]: the choices at which it is not the ordinary
//! one. A state that was met before is not gone on from: what comes after it has been seen. States
//! that differ in clocks alone are one, or no two ways would ever meet; a program that looks at
//! the time makes states that differ in more. So the search ends when all orders of steps were
//! tried, with the times of one way to each state.
//!
//! **Invariants.** The frontier after so many batches depends on the scenario alone: not on
//! threads, for what a batch may not go on from was known before it; and not on interruptions, for
//! between two batches the [`Frontier`] is all there is. Shards share out the branches of the
//! ordinary run, which are subtrees without a common way.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, RwLock};

use kernel_model::CpuId;
use kernel_model::sched::TaskId;
use serde::{Deserialize, Serialize};

use super::driver::{Driver, Log, Shared};
use super::finding::Signature;
use super::strategy::{Here, Strategy};
use super::{Attempt, Found, Searcher};
use crate::machine::schedule::Pick;
use crate::runner::{RunError, Saved};

/// Branches that are tried at once, whatever the number of threads.
const BATCH: usize = 8;
/// Snapshots that a thread keeps; a branch whose snapshot is gone is run from the start.
const SAVED_MAX: usize = 256;

/// An interleaving by what is not ordinary about it: the number of a choice, and the CPU that is
/// chosen there, with the task that preempts; in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Branch(Vec<(u64, u32, Option<u32>)>);

impl Branch {
    /// What it says at a choice.
    fn at(&self, nth: u64) -> Option<Pick> {
        let (_, cpu, task) = *self.0.iter().find(|b| b.0 == nth)?;
        Some(Pick { cpu: CpuId(cpu), task: task.map(TaskId) })
    }
}

/// A branch that is to be tried.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Open {
    branch: Branch,
    /// The thread that has a snapshot of its last choice, and the snapshot's number.
    #[serde(skip)]
    home: Option<(usize, u64)>,
}

/// What was done, and what is left to do.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Frontier {
    /// Faults under which interleavings are tried now: number of the plan.
    plan: u64,
    /// The ordinary run of this plan is done.
    begun: bool,
    /// What is to be tried, the next last.
    open: Vec<Open>,
    /// States at which there was a choice, by plan.
    pub known: BTreeSet<u64>,
    /// Runs to an end.
    pub runs: u64,
    /// Ways that met a state that was known.
    pub pruned: u64,
    /// Nothing is left to try.
    pub complete: bool,
}

/// How a search that tries everything is done.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Which part of the branches, of how many.
    pub shard: (u64, u64),
    /// Threads.
    pub jobs: usize,
    /// Ways to try, from the beginning.
    pub ways_max: u64,
}

/// Does as a branch says, then as usual; stops the run at each choice that is not behind it.
#[derive(Clone, Debug)]
struct Told(Arc<Mutex<Turn>>);

/// Where a run under [`Told`] is.
#[derive(Debug, Default)]
struct Turn {
    branch: Branch,
    /// Choices that were made.
    nth: u64,
    /// From this one on it stops.
    stops: u64,
    /// It has stopped here.
    stopped: bool,
    /// What else could be chosen where it stopped.
    others: Vec<Pick>,
}

impl Strategy for Told {
    fn choose(&mut self, here: &Here<'_>) -> Option<Pick> {
        if here.ready.len() == 1 {
            return Some(here.ready[0]);
        }
        let mut turn = self.0.lock().expect("nothing panics while it is lent");
        let nth = turn.nth;
        if nth >= turn.stops && !std::mem::replace(&mut turn.stopped, true) {
            turn.others = here.ready.iter().copied().filter(|c| *c != here.default).collect();
            return None;
        }
        turn.stopped = false;
        turn.nth += 1;
        let told = turn.branch.at(nth).filter(|p| here.ready.contains(p));
        Some(told.unwrap_or(here.default))
    }

    fn copy(&self) -> Box<dyn Strategy> {
        Box::new(self.clone())
    }
}

/// A state that was not known, with a choice in it.
#[derive(Debug)]
struct Node {
    hash: u64,
    /// Number of the choice.
    nth: u64,
    others: Vec<Pick>,
    saved: u64,
}

/// What came of a branch.
#[derive(Debug)]
struct Tried {
    nodes: Vec<Node>,
    /// How it ended; `None` when it met a known state.
    end: Option<Attempt>,
}

/// One thread's runs, and its snapshots.
struct Thread<'s, 'a> {
    search: &'s mut Searcher<'a>,
    id: usize,
    turn: Arc<Mutex<Turn>>,
    log: Shared,
    saved: BTreeMap<u64, (Saved<'a>, Log)>,
    next: u64,
}

impl<'s, 'a> Thread<'s, 'a> {
    fn new(search: &'s mut Searcher<'a>, id: usize) -> Thread<'s, 'a> {
        let (turn, log) = (Arc::default(), Shared::default());
        Thread { search, id, turn, log, saved: BTreeMap::new(), next: 0 }
    }

    /// Goes a branch, and on from its end by default until it is over or meets a known state.
    fn go(&mut self, plan: u64, open: &Open, known: &BTreeSet<u64>) -> Result<Tried, RunError> {
        let faults = self.search.plan(plan);
        let last = open.branch.0.last().map(|b| b.0);
        let mut turn = Turn { branch: open.branch.clone(), ..Turn::default() };
        turn.stops = last.map_or(0, |n| n + 1);
        let home = open.home.filter(|(id, _)| *id == self.id);
        let saved = home.and_then(|(_, n)| self.saved.get(&n));
        if let (Some((at, log)), Some(last)) = (saved, last) {
            self.search.runs[0].restore(at);
            self.log.get().clone_from(log);
            turn.nth = last;
        } else {
            *self.log.get() = Log::default();
            let told = Box::new(Told(self.turn.clone()));
            let driver = Driver { strategy: told, log: self.log.clone() };
            let injected: Vec<_> = faults.iter().map(|i| (i.kind.clone(), i.nth)).collect();
            self.search.runs[0].begin(Box::new(driver), &injected);
        }
        *self.turn.lock().expect("not lent") = turn;
        let (mut nodes, mut met) = (Vec::new(), BTreeSet::new());
        loop {
            match self.search.runs[0].go_on() {
                Err(RunError::Paused) => {
                    let state = self.search.runs[0].state_hash();
                    let hash = state ^ plan.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    if known.contains(&hash) || !met.insert(hash) {
                        return Ok(Tried { nodes, end: None });
                    }
                    nodes.push(self.node(hash));
                }
                Ok(outcome) => {
                    let attempt = self.search.judged(0, &outcome, &self.log, faults);
                    let told = || {
                        let (branch, stops) = (open.branch.clone(), u64::MAX);
                        let turn = Turn { branch, stops, ..Turn::default() };
                        Box::new(Told(Arc::new(Mutex::new(turn)))) as Box<dyn Strategy>
                    };
                    let end = Some(self.search.agreed(attempt, &outcome, &told)?);
                    return Ok(Tried { nodes, end });
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Keeps the state where the run has stopped.
    fn node(&mut self, hash: u64) -> Node {
        let saved = self.next;
        self.next += 1;
        let at = (self.search.runs[0].save(), self.log.get().clone());
        self.saved.insert(saved, at);
        if self.saved.len() > SAVED_MAX {
            self.saved.pop_first();
        }
        let mut turn = self.turn.lock().expect("not lent");
        Node { hash, nth: turn.nth, others: std::mem::take(&mut turn.others), saved }
    }
}

/// A branch of a batch, for a thread.
struct Task {
    nth: usize,
    plan: u64,
    open: Open,
}

/// What a thread made of a task.
struct Answer {
    nth: usize,
    thread: usize,
    tried: Result<Tried, RunError>,
}

impl Frontier {
    /// Ways so far.
    #[must_use]
    pub fn ways(&self) -> u64 {
        self.runs + self.pruned
    }

    /// The next branches; none when all is done.
    fn batch(&mut self, plans: u64, left: u64) -> Vec<Open> {
        if !self.begun {
            return vec![Open::default()];
        }
        if self.open.is_empty() {
            self.plan += 1;
            if self.plan >= plans {
                self.complete = true;
                return Vec::new();
            }
            self.begun = false;
            return vec![Open::default()];
        }
        let n = self.open.len().min(BATCH).min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut batch = self.open.split_off(self.open.len() - n);
        batch.reverse();
        batch
    }

    /// Takes in what came of a branch, and whose snapshots there are; what it found.
    fn merge(
        &mut self,
        (open, tried, thread): (&Open, Tried, usize),
        shard: (u64, u64),
        known: &BTreeSet<Signature>,
    ) -> Option<Found> {
        let root = !std::mem::replace(&mut self.begun, true);
        let (mut branches, mut cut) = (Vec::new(), false);
        for node in tried.nodes {
            if !self.known.insert(node.hash) {
                cut = true;
                break;
            }
            for pick in node.others {
                let mut branch = open.branch.clone();
                branch.0.push((node.nth, pick.cpu.0, pick.task.map(|t| t.0)));
                branches.push(Open { branch, home: Some((thread, node.saved)) });
            }
        }
        let (own, shards) = shard;
        if root && shards > 1 {
            let mut nth = 0..;
            branches.retain(|_| nth.next().is_some_and(|n: u64| n % shards == own));
        }
        self.open.extend(branches);
        match tried.end.filter(|_| !cut) {
            // The ordinary run is that of the first shard.
            Some(_) if root && own != 0 => None,
            Some(attempt) => {
                self.runs += 1;
                Found::new(self.runs - 1, attempt, known)
            }
            None => {
                self.pruned += 1;
                None
            }
        }
    }
}

/// Tries everything, without faults and then with each plan of them, to the first finding that is
/// not among those that are known. `make` makes a searcher for each thread; `progress` is told
/// between batches, when the frontier can be kept, and may end the search.
///
/// # Errors
/// As for [`crate::runner::run`].
pub fn exhaust<'a>(
    make: &(dyn Fn() -> Result<Searcher<'a>, RunError> + Sync),
    frontier: Frontier,
    share: Share,
    progress: &mut dyn FnMut(&Frontier) -> ControlFlow<()>,
) -> Result<(Frontier, Option<Found>), RunError> {
    let all = RwLock::new(frontier);
    std::thread::scope(|scope| {
        let (answers, answered) = channel();
        let (plans, planned) = channel();
        let mut tasks = Vec::new();
        for id in 0..share.jobs {
            let (give, take) = channel();
            let (all, answers, plans) = (&all, answers.clone(), plans.clone());
            scope.spawn(move || work(make, id, all, &take, &answers, &plans));
            tasks.push(give);
        }
        drop((answers, plans));
        let mut size = (0, BTreeSet::new());
        for _ in 0..share.jobs {
            size = planned.recv().map_err(|_| RunError::Internal("a thread ended".into()))??;
        }
        let found = batches(&all, share, (&tasks, &answered), &size, progress)?;
        drop(tasks);
        Ok(found)
    })
    .map(|found| (all.into_inner().expect("nothing panicked"), found))
}

/// How many plans there are, and what is known.
type Size = (u64, BTreeSet<Signature>);

/// One thread: a searcher of its own, task after task.
fn work<'a>(
    make: &(dyn Fn() -> Result<Searcher<'a>, RunError> + Sync),
    id: usize,
    all: &RwLock<Frontier>,
    tasks: &Receiver<Task>,
    answers: &Sender<Answer>,
    size: &Sender<Result<Size, RunError>>,
) {
    let mut search = match make() {
        Ok(search) => search,
        Err(e) => {
            // Nobody waits when another thread had an error before.
            let _gone = size.send(Err(e));
            return;
        }
    };
    let _gone = size.send(Ok((search.plans(), search.known.clone())));
    let mut thread = Thread::new(&mut search, id);
    while let Ok(Task { nth, plan, open }) = tasks.recv() {
        let all = all.read().expect("nothing panics while it is lent");
        let tried = thread.go(plan, &open, &all.known);
        if answers.send(Answer { nth, thread: id, tried }).is_err() {
            return;
        }
    }
}

/// Batch after batch.
fn batches(
    all: &RwLock<Frontier>,
    share: Share,
    (tasks, answers): (&[Sender<Task>], &Receiver<Answer>),
    (plans, known): &Size,
    progress: &mut dyn FnMut(&Frontier) -> ControlFlow<()>,
) -> Result<Option<Found>, RunError> {
    let lost = || RunError::Internal("a thread of the search ended".into());
    loop {
        let (batch, plan) = {
            let mut all = all.write().expect("nothing panics while it is lent");
            let left = share.ways_max.saturating_sub(all.ways());
            if left == 0 || all.complete || progress(&all).is_break() {
                return Ok(None);
            }
            (all.batch(*plans, left), all.plan)
        };
        // A branch goes to the thread that has its snapshot, unless that has more than its part.
        let part = batch.len().div_ceil(tasks.len());
        let mut loads = vec![0; tasks.len()];
        for (nth, open) in batch.iter().cloned().enumerate() {
            let home = open.home.map(|h| h.0).filter(|h| loads[*h] < part);
            let idle = || (0..loads.len()).min_by_key(|t| loads[*t]).unwrap_or(0);
            let thread = home.unwrap_or_else(idle);
            loads[thread] += 1;
            tasks[thread].send(Task { nth, plan, open }).map_err(|_| lost())?;
        }
        let mut tried: Vec<Option<Answer>> = batch.iter().map(|_| None).collect();
        for _ in &batch {
            let answer = answers.recv().map_err(|_| lost())?;
            let nth = answer.nth;
            tried[nth] = Some(answer);
        }
        let mut all = all.write().expect("nothing panics while it is lent");
        for (nth, answer) in tried.into_iter().enumerate() {
            let answer = answer.ok_or_else(lost)?;
            let one = (&batch[nth], answer.tried?, answer.thread);
            if let Some(found) = all.merge(one, share.shard, known) {
                // The rest of the batch is left for later.
                all.open.extend(batch[nth + 1..].iter().rev().cloned());
                return Ok(Some(found));
            }
        }
    }
}
