//! Runs of a search on several threads, in blocks of numbers. The first finding is that with the
//! lowest number, whoever comes to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io::IsTerminal as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::super::stop;
use super::state::State;
use super::{Args, RUNS, Subject};
use crate::runner::RunError;
use crate::search::Found;

/// Numbers that a thread takes at once.
const BLOCK: u64 = 32;
/// How often is looked how far it is.
const LOOK: Duration = Duration::from_millis(50);
/// How often the state is kept.
const KEEP: Duration = Duration::from_secs(2);
/// Keeping it takes at most one part of so many of the time.
const KEEP_PART: u32 = 20;

/// A line on a terminal.
pub(super) struct Progress {
    bar: ProgressBar,
    began: Instant,
}

impl Progress {
    pub(super) fn new() -> Progress {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{msg}").expect("the template is right");
        if std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        Progress { bar: bar.with_style(style), began: Instant::now() }
    }

    /// Runs so far, and in all when that is known.
    pub(super) fn show(&self, runs: u64, all: Option<u64>, more: impl FnOnce() -> String) {
        if self.bar.is_hidden() {
            return;
        }
        let rate = runs as f64 / self.began.elapsed().as_secs_f64().max(0.001);
        let left = all.map_or(String::new(), |all| {
            let seconds = all.saturating_sub(runs) as f64 / rate.max(0.001);
            format!(" of {all}, {seconds:.0} s left")
        });
        self.bar.set_message(format!("{runs} runs{left}, {rate:.0} runs/s, {}", more()));
        self.bar.tick();
    }

    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Keeps a state now and then.
pub(super) struct Keeper {
    last: Instant,
    gap: Duration,
}

impl Keeper {
    pub(super) fn new() -> Keeper {
        Keeper { last: Instant::now(), gap: KEEP }
    }

    /// Whether it is time.
    pub(super) fn is_due(&self) -> bool {
        self.last.elapsed() > self.gap
    }

    pub(super) fn keep(&mut self, state: &State) {
        let began = Instant::now();
        // What cannot be kept now is told at the end.
        let _later = state.save();
        self.last = Instant::now();
        self.gap = KEEP.max(began.elapsed() * KEEP_PART);
    }
}

/// What the threads share.
struct Shared {
    /// The next number that nobody has, among those of the shard.
    next: AtomicU64,
    /// Numbers from here on are not run.
    end: AtomicU64,
    stop: AtomicBool,
    /// Results by number, and blocks in progress.
    done: Mutex<Done>,
}

#[derive(Default)]
struct Done {
    interleavings: BTreeMap<u64, u64>,
    /// Their names, for progress.
    distinct: BTreeSet<u64>,
    found: Option<Found>,
    failed: Option<RunError>,
    open: BTreeSet<u64>,
}

pub(super) fn search(
    args: &Args,
    subject: &Subject<'_>,
    state: &mut State,
) -> Result<Option<Found>, RunError> {
    let wanted = match args.runs() {
        Some(n) => n,
        None if subject.until.is_some() => u64::MAX,
        None => RUNS,
    };
    let n = state.shard.1;
    let end = wanted.div_ceil(n).max(state.next);
    let shared = Shared {
        next: AtomicU64::new(state.next),
        end: AtomicU64::new(end),
        stop: AtomicBool::new(false),
        done: Mutex::default(),
    };
    let (progress, before) = (Progress::new(), state.clone());
    std::thread::scope(|scope| {
        let work = || {
            if let Err(e) = work(args, subject, &before, &shared) {
                shared.stop.store(true, Ordering::Relaxed);
                shared.done.lock().expect("not poisoned").failed.get_or_insert(e);
            }
        };
        let threads: Vec<_> = (0..args.jobs).map(|_| scope.spawn(work)).collect();
        let mut keeper = Keeper::new();
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            std::thread::sleep(LOOK);
            let done = shared.done.lock().expect("not poisoned");
            let runs = done.interleavings.len() as u64;
            let all = (wanted != u64::MAX).then(|| end - before.next);
            progress.show(runs, all, || format!("{} interleavings", done.distinct.len()));
            if subject.is_over() || stop::asked() {
                shared.stop.store(true, Ordering::Relaxed);
            }
            if keeper.is_due() {
                let mut so_far = before.clone();
                // What was found is counted when it is written: a run after it is lost then.
                let found = done.found.as_ref().map_or(u64::MAX, |f| f.run / n);
                take(&mut so_far, &done, &shared, found);
                drop(done);
                keeper.keep(&so_far);
            }
        }
    });
    progress.clear();
    let done = shared.done.lock().expect("not poisoned");
    take(state, &done, &shared, u64::MAX);
    state.ended(shared.stop.load(Ordering::Relaxed) && done.found.is_none());
    drop(done);
    let done = shared.done.into_inner().expect("not poisoned");
    match done.failed {
        Some(e) => Err(e),
        None => Ok(done.found),
    }
}

/// Runs up to the first finding, or before what is still in progress.
fn take(state: &mut State, done: &Done, shared: &Shared, found: u64) {
    let end = shared.end.load(Ordering::Relaxed);
    let open = done.open.first().copied().unwrap_or(u64::MAX);
    let upto = shared.next.load(Ordering::Relaxed).min(end).min(open).min(found);
    let counted = done.interleavings.range(state.next..upto);
    for (_, interleaving) in counted {
        state.runs += 1;
        state.interleavings.insert(*interleaving);
    }
    state.next = upto.max(state.next);
}

/// One thread: a searcher of its own, block after block.
fn work(
    args: &Args,
    subject: &Subject<'_>,
    state: &State,
    shared: &Shared,
) -> Result<(), RunError> {
    let ((shard, shards), known) = (state.shard, state.known());
    let mut search = subject.searcher(args)?;
    search.pass_over(known);
    loop {
        let block = {
            let mut done = shared.done.lock().expect("not poisoned");
            let block = shared.next.load(Ordering::Relaxed);
            if block >= shared.end.load(Ordering::Relaxed) || shared.stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            shared.next.store(block + BLOCK, Ordering::Relaxed);
            done.open.insert(block);
            block
        };
        let mut interleavings = Vec::new();
        let mut first = None;
        for nth in block..block + BLOCK {
            if nth >= shared.end.load(Ordering::Relaxed) {
                break;
            }
            let (interleaving, found) = search.found(nth * shards + shard)?;
            interleavings.push((nth, interleaving));
            if let Some(found) = found {
                shared.end.fetch_min(nth + 1, Ordering::Relaxed);
                first = Some(found);
                break;
            }
        }
        let mut done = shared.done.lock().expect("not poisoned");
        done.distinct.extend(interleavings.iter().map(|(_, name)| *name));
        done.interleavings.extend(interleavings);
        done.open.remove(&block);
        if let Some(first) = first
            && done.found.as_ref().is_none_or(|f| f.run > first.run)
        {
            done.found = Some(first);
        }
    }
}
