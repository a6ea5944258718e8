//! `orrery cancel FILE...`: cancels the programs of scenarios wherever they can be stopped, and
//! says how long they went on and whether they ended clean.
//!
//! ```text
//!  files ─► cells ─► architectures ─► runs 0, 1, 2, .. ─► threads ─► a line each ─► one for all
//! ```
//!
//! Each run is told in its turn, so that what is printed is the same for any number of threads.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bpf::Arch;
use indicatif::{ProgressBar, ProgressStyle};

use super::replay::report::error_word;
use super::{Exit, gravest, out, scenario_files, scenario_text};
use crate::machine::sweep::Report;
use crate::runner::cells::{self, Cell};
use crate::runner::{RunError, RunOptions, run as play};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Scenario files, or folders of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Try every so many points
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Architecture; all that the scenario names when left out
    #[arg(long, value_parser = super::arch)]
    arch: Option<Arch>,
    /// Cells of a matrix that are tried, evenly spread
    #[arg(long, value_name = "N", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    cells: u64,
    /// Every Nth run, from the Ith on
    #[arg(long, value_name = "I/N", value_parser = super::fuzz::shard)]
    shard: Option<(u64, u64)>,
    /// Threads
    #[arg(long, value_name = "J", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
}

/// A cell of a file on an architecture.
struct Job {
    path: PathBuf,
    cell: Cell,
    arch: Arch,
}

impl Job {
    fn name(&self) -> String {
        format!("{}{} on {}", self.path.display(), self.cell.name, self.arch)
    }
}

pub(super) fn run(args: &Args) -> Exit {
    let (mut jobs, mut exits) = (Vec::new(), Vec::new());
    let files = match scenario_files(&args.files) {
        Ok(files) => files,
        Err(exit) => return exit,
    };
    for path in &files {
        match jobs_of(path, args) {
            Ok(more) => jobs.extend(more),
            Err(exit) => exits.push(exit),
        }
    }
    let (from, step) = args.shard.unwrap_or((0, 1));
    let own = |n: usize| n as u64 % step == from;
    let mut nth = 0..;
    jobs.retain(|_| nth.next().is_some_and(own));
    let mut all = Sum::default();
    try_jobs(&jobs, args, &mut |job, result| exits.push(all.add(job, result)));
    out::line(&all.text());
    gravest(exits)
}

/// Told of each run.
type Tell<'a> = dyn FnMut(&Job, Result<Report, RunError>) + Send + 'a;

/// The runs of a file; what is wrong with it has been said.
fn jobs_of(path: &Path, args: &Args) -> Result<Vec<Job>, Exit> {
    let name = path.display();
    let text = scenario_text(path)?;
    let parsed = cells::read(path, &text, &Cell::default());
    let wrong = parsed.findings.iter().any(cells::is_error);
    let Some(scenario) = parsed.scenario.filter(|_| !wrong) else {
        out::error(&format!("{name} is no valid scenario"), "orrery scenario check says why");
        return Err(Exit::BadInput);
    };
    let (all, archs) = (cells::cells(&scenario, 1), cells::archs(&scenario));
    let step = all.len().div_ceil(usize::try_from(args.cells).unwrap_or(usize::MAX)).max(1);
    let mut jobs = Vec::new();
    for cell in all.into_iter().step_by(step) {
        let archs = cells::archs_of(&scenario, &cell, &archs).into_iter();
        let archs = archs.filter(|a| args.arch.is_none_or(|b| *a == b));
        jobs.extend(archs.map(|arch| Job { path: path.to_owned(), cell: cell.clone(), arch }));
    }
    Ok(jobs)
}

/// Runs all, on as many threads as were asked for; results are told in order.
fn try_jobs(jobs: &[Job], args: &Args, tell: &mut Tell<'_>) {
    let bar = ProgressBar::new(jobs.len() as u64);
    let style =
        ProgressStyle::with_template("{bar:32} {pos}/{len} runs {elapsed} ({eta} left) {msg}");
    let bar = bar.with_style(style.expect("the template is right"));
    let next = AtomicUsize::new(0);
    let mut results: Vec<Option<Result<Report, RunError>>> = jobs.iter().map(|_| None).collect();
    let shared = Mutex::new((&mut results, 0, tell));
    let work = || {
        while let n = next.fetch_add(1, Ordering::Relaxed)
            && let Some(job) = jobs.get(n)
        {
            bar.set_message(job.name());
            let result = try_all(job, args.every);
            bar.inc(1);
            let mut shared = shared.lock().expect("nothing panics while it is lent");
            let (results, told, tell) = &mut *shared;
            results[n] = Some(result);
            while let Some(result) = results.get_mut(*told).and_then(Option::take) {
                bar.suspend(|| tell(&jobs[*told], result));
                *told += 1;
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(work);
        }
    });
    bar.finish_and_clear();
}

fn try_all(job: &Job, every: u64) -> Result<Report, RunError> {
    let Job { path, cell, arch } = job;
    let text = fs::read_to_string(path).map_err(|e| RunError::Internal(e.to_string()))?;
    let scenario = cells::read(path, &text, cell).scenario.expect("its first cell is valid");
    let options = RunOptions { cancel_every: Some(every), ..cells::options(path, cell) };
    play(&scenario, *arch, &options).map(|o| o.sweep.unwrap_or_default())
}

/// What all runs came to.
#[derive(Default)]
struct Sum {
    runs: u64,
    failed: u64,
    tried: u64,
    unwound: u64,
    dirty: u64,
    /// Further instructions, their bound, and where.
    worst: Option<(u64, u64, String)>,
}

impl Sum {
    /// Says what a run came to.
    fn add(&mut self, job: &Job, result: Result<Report, RunError>) -> Exit {
        let name = job.name();
        self.runs += 1;
        let r = match result {
            Ok(report) => report,
            Err(e) => {
                self.failed += 1;
                out::error(&format!("{name}: {e}"), "orrery replay says where");
                return error_word(&e).1;
            }
        };
        let clean = if r.dirty_count == 0 { "all clean" } else { "NOT CLEAN" };
        let worst = r.worst.as_ref().map_or(String::new(), |(n, bound, prog, at)| {
            format!(", at most {n} further instructions of {bound} ({prog}, cancelled at {at})")
        });
        let (tried, seen, unwound) = (r.tried, r.seen, r.unwound);
        let of = if tried == seen { String::new() } else { format!(" of {seen}") };
        let points = format!("cancelled at {tried}{of} points");
        out::line(&format!("{name}: {points}, {clean}, {unwound} unwound{worst}"));
        r.dirty.iter().for_each(|d| out::line(&format!("  {d}")));
        self.tried += tried;
        self.unwound += unwound;
        self.dirty += r.dirty_count;
        if let Some((n, bound, prog, at)) = r.worst
            && self.worst.as_ref().is_none_or(|w| n > w.0)
        {
            self.worst = Some((n, bound, format!("{prog} of {name}, cancelled at {at}")));
        }
        if r.dirty_count == 0 { Exit::Ok } else { Exit::NotMet }
    }

    fn text(&self) -> String {
        let Sum { runs, tried, unwound, dirty, failed, .. } = self;
        let percent = 100.0 * (tried - dirty) as f64 / (*tried).max(1) as f64;
        let runs = if *runs == 1 { "1 run".to_owned() } else { format!("{runs} runs") };
        let failed = if *failed == 0 { String::new() } else { format!(", {failed} failed") };
        let worst = self.worst.as_ref().map_or(String::new(), |(n, bound, at)| {
            format!("; at most {n} further instructions of {bound} ({at})")
        });
        // Rounded down: one that is not clean is not 100 %.
        let percent = (percent * 100.0).floor() / 100.0;
        if *tried == 0 {
            return format!("{runs}{failed}: no program runs that could be cancelled");
        }
        let clean = format!("{percent} % clean, {unwound} unwound");
        format!("{runs}{failed}: cancelled at {tried} points, {clean}{worst}")
    }
}
