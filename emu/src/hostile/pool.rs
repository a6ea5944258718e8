//! Many inputs, some at a time. One that does not end is a finding too: its thread is left alone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use super::{Finding, Made, Subject, Tried, try_seed};
use crate::ordered::WORKER_STACK;

/// How often it is looked at the time.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What a case may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Threads.
    pub jobs: usize,
    /// After so long a case is told to stop: it was long, no finding.
    pub long: Duration,
    /// After so long it hangs.
    pub hangs: Duration,
    /// Peak of resident memory of the process.
    pub memory_kib: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        let [long, hangs] = [5, 30].map(Duration::from_secs);
        Limits { jobs: 1, long, hangs, memory_kib: 3 << 20 }
    }
}

/// What a thread says.
struct Said {
    worker: usize,
    seed: u64,
    /// None when it begins.
    tried: Option<Box<Tried>>,
}

/// A thread at work.
struct Worker {
    stop: Arc<AtomicBool>,
    /// What it is at, since when.
    at: Option<(u64, Instant)>,
}

struct Pool<'a> {
    subject: &'a Arc<dyn Subject>,
    next: Arc<AtomicU64>,
    end: u64,
    memory_kib: u64,
    send: mpsc::Sender<Said>,
    workers: BTreeMap<usize, Worker>,
    started: usize,
}

/// Tries the inputs of seeds until `sink` says false; they come in the order in which they end.
pub fn each(
    subject: &Arc<dyn Subject>,
    seeds: Range<u64>,
    limits: Limits,
    sink: &mut dyn FnMut(Tried) -> bool,
) {
    let (send, receive) = mpsc::channel();
    let next = Arc::new(AtomicU64::new(seeds.start));
    let (workers, memory_kib) = (BTreeMap::new(), limits.memory_kib);
    let mut pool = Pool { subject, next, end: seeds.end, memory_kib, send, workers, started: 0 };
    (0..limits.jobs.max(1)).for_each(|_| pool.start());
    let mut left = seeds.end.saturating_sub(seeds.start);
    while left > 0 {
        if let Ok(said) = receive.recv_timeout(LOOK_EVERY) {
            // One that was given up is not heard any more.
            let Some(worker) = pool.workers.get_mut(&said.worker) else { continue };
            worker.at = said.tried.is_none().then(|| (said.seed, Instant::now()));
            if let Some(tried) = said.tried {
                left -= 1;
                if !sink(*tried) {
                    break;
                }
            }
        }
        for hung in pool.overdue(&limits) {
            left -= 1;
            if !sink(hung) {
                left = 0;
            }
            pool.start();
        }
    }
    // Those that are at work end with what they have.
    pool.next.store(seeds.end, Ordering::Relaxed);
    pool.workers.values().for_each(|w| w.stop.store(true, Ordering::Relaxed));
}

impl Pool<'_> {
    fn start(&mut self) {
        let (worker, stop) = (self.started, Arc::new(AtomicBool::new(false)));
        self.started += 1;
        self.workers.insert(worker, Worker { stop: stop.clone(), at: None });
        let (subject, send) = (self.subject.clone(), self.send.clone());
        let (next, end, memory_kib) = (self.next.clone(), self.end, self.memory_kib);
        let work = move || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end || send.send(Said { worker, seed, tried: None }).is_err() {
                    return;
                }
                stop.store(false, Ordering::Relaxed);
                let tried = within(memory_kib, || try_seed(&*subject, seed, &stop));
                if send.send(Said { worker, seed, tried: Some(Box::new(tried)) }).is_err() {
                    return;
                }
            }
        };
        let built = std::thread::Builder::new().stack_size(WORKER_STACK).spawn(work);
        built.expect("a thread can be started");
    }

    /// Tells those that are long to stop, and gives up those that do not.
    fn overdue(&mut self, limits: &Limits) -> Vec<Tried> {
        let mut hung = Vec::new();
        for (id, w) in &self.workers {
            let Some((seed, since)) = w.at else { continue };
            if since.elapsed() > limits.long {
                w.stop.store(true, Ordering::Relaxed);
            }
            if since.elapsed() > limits.hangs {
                hung.push((*id, seed));
            }
        }
        let tried = |(id, seed)| {
            self.workers.remove(&id);
            let input = Made::of(seed, self.subject.good().len()).input(&**self.subject);
            let words = format!("it takes more than {} s", limits.hangs.as_secs());
            Tried { seed, came: Err(Finding { words, input: input.clone() }), input }
        };
        hung.into_iter().map(tried).collect()
    }
}

/// A case, and whether it needs more memory than it may: tried again, because others are at work.
fn within(memory_kib: u64, work: impl Fn() -> Tried) -> Tried {
    let tried = work();
    if peak_kib() <= memory_kib {
        return tried;
    }
    forget_peak();
    let tried = work();
    let peak = peak_kib();
    if peak <= memory_kib {
        return tried;
    }
    forget_peak();
    let words = format!("{} MiB of memory at the peak", peak >> 10);
    let finding = Finding { words, input: tried.input.clone() };
    Tried { came: Err(finding), ..tried }
}

/// Peak of resident memory, where the system tells.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

/// From here on the peak is that of what comes.
fn forget_peak() {
    // Where the system does not let us, the next case is a finding, too.
    let _refused = std::fs::write("/proc/self/clear_refs", "5");
}
