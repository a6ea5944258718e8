//! Every interleaving, once: depth first, from a snapshot at the last choice.
//!
//! A state that was met before is not gone on from: what comes after it has been seen. States
//! that differ in clocks alone are one, or no two ways would ever meet; a program that looks at
//! the time makes states that differ in more. So the search ends when all orders of steps were
//! tried, with the times of one way to each state.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use kernel_model::CpuId;

use super::driver::{Driver, Log, Shared};
use super::strategy::{Here, Strategy};
use super::{Found, Injection, Searcher};
use crate::runner::RunError;

/// What is to be chosen next, and what there was to choose from.
#[derive(Debug, Default)]
struct Turn {
    order: Option<CpuId>,
    ready: Vec<CpuId>,
}

/// Does as told; stops the run where there is a choice.
#[derive(Clone, Debug)]
struct Told(Arc<Mutex<Turn>>);

impl Strategy for Told {
    fn choose(&mut self, here: &Here<'_>) -> Option<CpuId> {
        if here.ready.len() == 1 {
            return Some(here.ready[0]);
        }
        let mut turn = self.0.lock().expect("nothing panics while it is lent");
        if let Some(order) = turn.order.take() {
            return Some(order);
        }
        // What happens by default comes first: the first run is the ordinary one.
        turn.ready = here.ready.to_vec();
        turn.ready.sort_by_key(|c| (*c != here.default, c.0));
        None
    }

    fn copy(&self) -> Box<dyn Strategy> {
        Box::new(self.clone())
    }
}

/// What came of a search that tries everything.
#[derive(Clone, Debug, Default)]
pub struct Exhausted {
    /// Runs to an end.
    pub runs: u64,
    /// States at which there was a choice.
    pub states: u64,
    /// Ways that met a state that was known.
    pub pruned: u64,
    /// Nothing is left to try.
    pub complete: bool,
    /// What was found.
    pub found: Option<Found>,
}

/// A choice, and what is left of it.
struct Node<'a> {
    at: crate::runner::Saved<'a>,
    log: Log,
    ready: Vec<CpuId>,
    next: usize,
}

impl<'a> Searcher<'a> {
    /// Tries everything, without faults and then with each of them, up to so many ways; to the
    /// first finding. `progress` is told after each way and may end the search.
    ///
    /// # Errors
    /// As for [`crate::runner::run`].
    pub fn exhaust(
        &mut self,
        ways_max: u64,
        progress: &mut dyn FnMut(&Exhausted) -> bool,
    ) -> Result<Exhausted, RunError> {
        let mut all = Exhausted { complete: true, ..Exhausted::default() };
        let menu: Vec<Vec<Injection>> = self.menu.iter().map(|i| vec![i.clone()]).collect();
        for faults in std::iter::once(Vec::new()).chain(menu) {
            self.tree(&faults, ways_max, &mut all, progress)?;
            if all.found.is_some() || !all.complete {
                break;
            }
        }
        Ok(all)
    }

    fn tree(
        &mut self,
        faults: &[Injection],
        ways_max: u64,
        all: &mut Exhausted,
        progress: &mut dyn FnMut(&Exhausted) -> bool,
    ) -> Result<(), RunError> {
        let (turn, log) = (Arc::new(Mutex::new(Turn::default())), Shared::default());
        let driver = Driver { strategy: Box::new(Told(turn.clone())), log: log.clone() };
        let injected: Vec<_> = faults.iter().map(|i| (i.kind.clone(), i.nth)).collect();
        self.runs[0].begin(Box::new(driver), &injected);
        let (mut known, mut stack) = (BTreeSet::new(), Vec::<Node<'a>>::new());
        loop {
            match self.runs[0].go_on() {
                Err(RunError::Paused) => {
                    if known.insert(self.runs[0].state_hash()) {
                        all.states += 1;
                        let ready = std::mem::take(&mut turn.lock().expect("not lent").ready);
                        let (at, log) = (self.runs[0].save(), log.get().clone());
                        turn.lock().expect("not lent").order = Some(ready[0]);
                        stack.push(Node { at, log, ready, next: 1 });
                        continue;
                    }
                    all.pruned += 1;
                }
                Ok(outcome) => {
                    all.runs += 1;
                    let attempt = self.judged(0, &outcome, &log, faults.to_vec());
                    all.found = Found::new(all.runs - 1, attempt);
                    if all.found.is_some() {
                        return Ok(());
                    }
                }
                Err(e) => return Err(e),
            }
            if all.runs + all.pruned >= ways_max || !progress(all) {
                all.complete = false;
                return Ok(());
            }
            while stack.last().is_some_and(|n| n.next == n.ready.len()) {
                stack.pop();
            }
            let Some(node) = stack.last_mut() else { return Ok(()) };
            self.runs[0].restore(&node.at);
            log.get().clone_from(&node.log);
            turn.lock().expect("not lent").order = Some(node.ready[node.next]);
            node.next += 1;
        }
    }
}
