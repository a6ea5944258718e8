//! `orrery replay FILE...`: runs scenarios on their architectures and compares the traces.
//!
//! ```text
//!  file ─► cells of the matrix ─► one run an architecture, in parallel ─► report ─► compare
//!             ▲                                                             │
//!             └──────────────── --bless: edits by byte range ◄──────────────┘
//! ```

mod bless;
mod cover;
mod diverge;
pub(super) mod files;
pub(super) mod report;
mod twice;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bpf::Arch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use scenarios::Scenario;
use scenarios::parse::Parsed;

use self::bless::Edits;
use self::files::Collected;
use self::report::{Again, Report, Told};
use super::{Exit, gravest, out, scenario_files, scenario_text};
use crate::runner::cells::{self, Cell};
use crate::runner::{Outcome, RunError, RunOptions, run as play};

/// Passes of `--bless` over one file: each shows the next difference of a packet or a value.
const BLESS_PASSES_MAX: u32 = 64;
/// A command that is done sooner shows no progress.
const PROGRESS_AFTER: Duration = Duration::from_millis(400);
/// Between two pictures of it.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Scenario files, or folders of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Architectures: a list with commas, or all; what the scenario says when left out
    #[arg(long, value_name = "LIST")]
    arch: Option<String>,
    /// Seed of all random streams
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the trace of every run to a file
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Write what leaves each nic as DIR/SCENARIO.ARCH.NIC.pcap
    #[arg(long, value_name = "DIR")]
    pcap: Option<PathBuf>,
    /// Write the runs as a trace for Perfetto or chrome://tracing
    #[arg(long, value_name = "FILE")]
    perfetto: Option<PathBuf>,
    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// One JSON object per run
    #[arg(long)]
    json: bool,
    /// Put what was measured into the files where it is not what they expect
    #[arg(long)]
    bless: bool,
    #[command(flatten)]
    cover: cover::Args,
    /// Only the cell of this name, such as '[seed=2,n=3]'
    #[arg(long, value_name = "CELL")]
    cell: Option<String>,
    /// Look for data races: two to six times the cost, the more a program loads and stores
    #[arg(long)]
    races: bool,
    /// Run matrices of more than 10,000 cells
    #[arg(long)]
    big: bool,
    /// Run everything twice, and compare memory and kernel state on the way
    #[arg(long)]
    check_determinism: bool,
    /// Open the first failure in gdb, where it came to light
    #[arg(long, conflicts_with = "bless")]
    gdb_on_failure: bool,
}

/// Runs a new file and puts what was measured into it.
pub(super) fn bless(path: &Path) -> Exit {
    let args = Args {
        files: vec![path.to_path_buf()],
        arch: None,
        seed: 0,
        trace: None,
        pcap: None,
        perfetto: None,
        junit: None,
        json: false,
        bless: true,
        cover: cover::Args::default(),
        cell: None,
        races: false,
        big: false,
        check_determinism: false,
        gdb_on_failure: false,
    };
    let collected = Collected::new(&args);
    let progress = Progress::new();
    let (bar, far) = (progress.bar.clone(), progress.far);
    let exit = Session { args: &args, archs: None, bar, far, collected, failed: None }.file(path);
    progress.bar.finish_and_clear();
    exit
}

pub(super) fn run(mut args: Args) -> ExitCode {
    args.files = match scenario_files(&args.files) {
        Ok(files) => files,
        Err(exit) => return exit.into(),
    };
    let archs = match wanted_archs(args.arch.as_deref()) {
        Ok(archs) => archs,
        Err(e) => {
            out::error(&e, "use --arch all, or a list such as --arch x86_64,s390x");
            return Exit::BadInput.into();
        }
    };
    if let Err(exit) = files::check(&args) {
        return exit.into();
    }
    let collected = Collected::new(&args);
    let Progress { bar, far } = Progress::new();
    let mut session = Session { args: &args, archs, bar, far, collected, failed: None };
    let exits: Vec<Exit> = args.files.iter().map(|f| session.file(f)).collect();
    session.bar.finish_and_clear();
    let written = session.collected.write(&args);
    if let Some(Failed { file, cell, arch, at }) = session.failed.filter(|_| args.gdb_on_failure) {
        // What was expected is still not met, however the debugger ends.
        super::gdb::on_failure(&file, &cell, arch, at);
    }
    gravest(exits.into_iter().chain([written])).into()
}

pub(super) fn wanted_archs(list: Option<&str>) -> Result<Option<Vec<Arch>>, String> {
    match list {
        None => Ok(None),
        Some("all") => Ok(Some(Arch::ALL.to_vec())),
        Some(list) => list
            .split(',')
            .map(|n| Arch::from_name(n).ok_or_else(|| format!("unknown architecture \"{n}\"")))
            .collect::<Result<Vec<_>, _>>()
            .map(Some),
    }
}

/// How far a command is: runs, and the virtual time of the one that goes on, in permille.
struct Progress {
    bar: ProgressBar,
    far: Arc<AtomicU64>,
}

impl Progress {
    /// It shows itself when the command takes long, however long its first run takes.
    fn new() -> Progress {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{bar:32} {pos}/{len} runs {elapsed} {msg}");
        let bar = bar.with_style(style.expect("the template is right"));
        let far = Arc::new(AtomicU64::new(0));
        let shown = Progress { bar: bar.clone(), far: far.clone() };
        std::thread::spawn(move || shown.show());
        Progress { bar, far }
    }

    fn show(&self) {
        std::thread::sleep(PROGRESS_AFTER);
        if !self.bar.is_finished() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        while !self.bar.is_finished() {
            let percent = self.far.load(Ordering::Relaxed) / 10;
            self.bar.set_message(format!("{}, {percent} % of its time", self.bar.prefix()));
            self.bar.tick();
            std::thread::sleep(PROGRESS_EVERY);
        }
    }
}

/// One command: what was asked for, and what has come of it.
struct Session<'a> {
    args: &'a Args,
    archs: Option<Vec<Arch>>,
    bar: ProgressBar,
    far: Arc<AtomicU64>,
    collected: Collected,
    /// The first run that failed, for a debugger.
    failed: Option<Failed>,
}

/// Where a run failed.
struct Failed {
    file: PathBuf,
    cell: Cell,
    arch: Arch,
    at: u64,
}

/// One run: of a cell, on an architecture.
struct Ran {
    arch: Arch,
    result: Result<Outcome, RunError>,
    wall_us: u64,
}

impl Session<'_> {
    /// All cells of one file, again and again while `--bless` finds something to put right.
    fn file(&mut self, path: &Path) -> Exit {
        let mut blessed = 0;
        for _ in 0..BLESS_PASSES_MAX {
            let (exit, report, edits) = match self.pass(path) {
                Ok(done) => done,
                Err(exit) => return exit,
            };
            match edits.apply() {
                Ok(0) => {
                    self.bar.suspend(|| report.print());
                    if blessed > 0 {
                        let places = if blessed == 1 { "place" } else { "places" };
                        let what = format!("{}: {blessed} {places} blessed", path.display());
                        self.bar.suspend(|| out::line(&what));
                    }
                    return exit;
                }
                Ok(n) => blessed += n,
                Err(e) => {
                    self.bar.suspend(|| {
                        report.print();
                        out::error(&e, "write a range or a pattern that holds for all of them");
                    });
                    return Exit::BadInput;
                }
            }
        }
        out::error(&format!("{}: does not settle", path.display()), "please report it");
        Exit::Internal
    }

    /// All cells of one file, once. Without `--bless` the report is printed as it comes.
    fn pass(&mut self, path: &Path) -> Result<(Exit, Report, Edits), Exit> {
        let text = scenario_text(path)?;
        let first = cells::read(path, &text, &Cell::default());
        if first.findings.iter().any(cells::is_error) {
            out::warn(&report::findings(&first));
            return Err(Exit::BadInput);
        }
        let Some(scenario) = &first.scenario else { return Err(Exit::Internal) };
        let cells = self.cells(path, scenario)?;
        let archs = self.archs.clone().unwrap_or_else(|| cells::archs(scenario));
        self.bar.inc_length((cells.len() * archs.len()) as u64);
        let (mut exits, mut all, mut edits) = (Vec::new(), Report::default(), Edits::default());
        let mut told = Told::default();
        for cell in &cells {
            let (exit, report) = self.cell(path, &text, cell, &archs, (&mut edits, &mut told));
            exits.push(exit);
            if self.args.bless {
                all.append(report);
            } else {
                self.bar.suspend(|| report.print());
            }
        }
        let mut last = Report::default();
        last.repeated(&told);
        if self.args.bless {
            all.append(last);
        } else {
            self.bar.suspend(|| last.print());
        }
        Ok((gravest(exits), all, edits))
    }

    /// The cells to run; an error has been reported.
    fn cells(&self, path: &Path, scenario: &Scenario) -> Result<Vec<Cell>, Exit> {
        let (wanted, big) = (self.args.cell.as_deref(), self.args.big);
        cells::chosen(scenario, self.args.seed, wanted, big).map_err(|(what, next)| {
            out::error(&format!("{}: {what}", path.display()), next);
            Exit::BadInput
        })
    }

    /// One cell on its architectures.
    fn cell(
        &mut self,
        path: &Path,
        text: &str,
        cell: &Cell,
        archs: &[Arch],
        (edits, told): (&mut Edits, &mut Told),
    ) -> (Exit, Report) {
        let mut report = Report::new(self.args.json);
        let parsed = cells::read(path, text, cell);
        let Some(scenario) = &parsed.scenario else {
            report.words(report::findings(&parsed));
            return (Exit::BadInput, report);
        };
        let name = title(path, cell, &self.args.files);
        let options = RunOptions {
            races: self.args.races,
            keep: files::keep(self.args),
            progress: Some(self.far.clone()),
            cover: self.args.cover.counts(),
            checkpoints: self.args.check_determinism.then_some(twice::CHECKPOINT_INSNS),
            ..cells::options(path, cell)
        };
        let archs = cells::archs_of(scenario, cell, archs);
        self.bar.set_prefix(name.clone());
        let mut ran = run_all(scenario, &archs, &options);
        self.bar.inc(archs.len() as u64);
        let again = Again::new(path, cell, self.args.seed);
        let mut exits = report.runs((cell, &again), &name, &ran, &parsed, told);
        if self.args.cover.costs {
            report.words(cover::costs(&name, scenario, &ran, &options));
        }
        if self.failed.is_none() {
            let first = ran.iter().find_map(|r| Some((r.arch, report::first_failure(r)?)));
            self.failed = first.map(|(arch, at)| Failed {
                file: path.to_path_buf(),
                cell: cell.clone(),
                arch,
                at,
            });
        }
        for one in &mut ran {
            if let Ok(Some(covered)) = one.result.as_mut().map(|o| o.cover.take()) {
                self.collected.cover.add(covered, &options.dir);
            }
            exits.push(self.collected.keep(&name, one, self.args));
            if self.args.bless
                && let Ok(outcome) = &one.result
            {
                edits.collect(outcome, &parsed);
            }
        }
        exits.push(compare(&name, scenario, &ran, &options, &mut report));
        if self.args.check_determinism {
            exits.push(twice::check(&name, scenario, &ran, &options, &mut report));
        }
        (gravest(exits), report)
    }
}

/// The file's name, with that of its folder when another file of the command has the same.
fn title(path: &Path, cell: &Cell, all: &[PathBuf]) -> String {
    let stem = |p: &Path| p.file_stem().map(|s| s.to_string_lossy().into_owned());
    let name = stem(path).unwrap_or_else(|| "scenario".to_owned());
    let twin = all.iter().any(|p| p != path && stem(p) == stem(path));
    let folder = path.parent().and_then(Path::file_name).filter(|_| twin);
    let folder = folder.map_or(String::new(), |f| format!("{}/", f.to_string_lossy()));
    format!("{folder}{name}{}", cell.name)
}

/// Runs on all architectures at once: they share nothing.
fn run_all(scenario: &Scenario, archs: &[Arch], options: &RunOptions) -> Vec<Ran> {
    let one = |arch: Arch| {
        let began = Instant::now();
        let result = play(scenario, arch, options);
        let wall_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ran { arch, result, wall_us }
    };
    if archs.len() < 2 {
        return archs.iter().map(|a| one(*a)).collect();
    }
    std::thread::scope(|scope| {
        let threads: Vec<_> = archs.iter().map(|a| (*a, scope.spawn(move || one(*a)))).collect();
        let joined = threads.into_iter().map(|(arch, thread)| {
            thread.join().unwrap_or_else(|_| {
                let result = Err(RunError::Internal("the run panicked".to_owned()));
                Ran { arch, result, wall_us: 0 }
            })
        });
        joined.collect()
    })
}

/// Traces of one cell are equal on all architectures, but for those that `Differs` names; of the
/// first difference all is shown that is known.
fn compare(
    name: &str,
    scenario: &Scenario,
    ran: &[Ran],
    options: &RunOptions,
    report: &mut Report,
) -> Exit {
    let may_differ = |arch: Arch| cells::may_differ(scenario, arch);
    let mut done = ran.iter().filter_map(|r| r.result.as_ref().ok());
    let Some(first) = done.next() else { return Exit::Ok };
    let mut exit = Exit::Ok;
    for other in done.filter(|o| o.trace_hash != first.trace_hash) {
        if may_differ(other.arch) || may_differ(first.arch) {
            continue;
        }
        exit = Exit::NotMet;
        report.words(diverge::explain(name, scenario, options, [first.arch, other.arch]));
    }
    exit
}

/// Where `--bless` and reports find the file a span is in.
fn file_of(parsed: &Parsed, file: u16) -> Option<&scenarios::parse::SourceFile> {
    parsed.files.get(usize::from(file))
}
