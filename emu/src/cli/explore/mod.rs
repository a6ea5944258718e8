//! `orrery explore FILE`: one scenario over interleavings and faults; what is wrong is shrunk and
//! written as a scenario that replays it.
//!
//! ```text
//!  file ─► workers: runs 0, 1, 2, .. ─► the first that is wrong ─► shrink ─► FILE.found.ron
//!             │                                                      ▲
//!             └─► state (resumed, merged) ───────────────────────────┘
//! ```
//!
//! What is printed on standard output does not depend on the machine or on the number of jobs:
//! the first finding is that with the lowest number, and runs after it are not counted.

mod state;
mod workers;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{Hash as _, Hasher as _};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bpf::Arch;
use scenarios::parse::Parsed;
use scenarios::{Scenario, render};

use self::state::State;
use self::workers::{Keeper, Progress};
use super::replay::report::findings;
use super::{Exit, gravest, out, scenario_text, stop};
use crate::objects;
use crate::runner::cells::{self, Cell};
use crate::runner::{Outcome, RunError, RunOptions, run as play};
use crate::search::dfs::{self, Share};
use crate::search::finding::{Kind, Signature, signatures};
use crate::search::shrink::{Case, Place, shrink};
use crate::search::{Found, How, Searcher, write};

/// Runs when neither `--seeds` nor `--budget` says how many.
const RUNS: u64 = 10_000;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Scenario
    #[arg(required = true, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Runs of the search
    #[arg(long, value_name = "N", conflicts_with = "budget")]
    seeds: Option<u64>,
    /// Runs as a number, or wall time: 90s, 10m, 2h
    #[arg(long, value_name = "T", value_parser = Budget::parse)]
    budget: Option<Budget>,
    /// How runs differ
    #[arg(long, value_enum, default_value_t = Strategy::Pct)]
    strategy: Strategy,
    /// Orderings that a bug needs, for pct
    #[arg(long, value_name = "D", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    depth: u32,
    /// Also faults, each alone and in pairs: failing allocations, calls and user pages, full rings,
    /// late timers, interrupts and NMIs at safepoints and inside kernel paths
    #[arg(long)]
    faults: bool,
    /// Also data races: as if the scenario expected Never(Race())
    #[arg(long)]
    races: bool,
    /// Every Nth run, from the Ith on; of dfs every Nth branch of the ordinary run
    #[arg(long, value_name = "I/N", value_parser = super::fuzz::shard)]
    shard: Option<(u64, u64)>,
    /// Threads
    #[arg(long, value_name = "J", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=256))]
    jobs: u64,
    /// Architectures: the first is searched, the others have to agree; the scenario's first when
    /// left out
    #[arg(long, value_name = "LIST")]
    arch: Option<String>,
    /// Seed of the search and of all random streams
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Only the cell of this name, such as '[seed=2,n=3]'
    #[arg(long, value_name = "CELL")]
    cell: Option<String>,
    /// Search matrices of more than 10,000 cells
    #[arg(long)]
    big: bool,
    /// Keep what was done in this folder, and go on from there
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where the finding goes; NAME.found.ron beside the scenario when left out
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// One JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Joins the states of shards
    Merge {
        /// Files of `--state`
        #[arg(required = true, value_name = "STATE")]
        states: Vec<PathBuf>,
        /// One JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Names of strategies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Strategy {
    /// The toss of a coin at every safepoint
    Random,
    /// Priorities that change at a few places
    Pct,
    /// Every interleaving, once
    Dfs,
}

impl Strategy {
    fn name(self) -> &'static str {
        match self {
            Strategy::Random => "random",
            Strategy::Pct => "pct",
            Strategy::Dfs => "dfs",
        }
    }
}

/// How long a search may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    Runs(u64),
    Seconds(u64),
}

impl Budget {
    pub(super) fn parse(text: &str) -> Result<Budget, String> {
        let (digits, unit) = text.split_at(text.trim_end_matches(char::is_alphabetic).len());
        let n: u64 = digits.replace('_', "").parse().map_err(|_| {
            "a number of runs, or a time such as 90s, 10m or 2h, is expected".to_owned()
        })?;
        Ok(match unit {
            "" | "runs" => Budget::Runs(n),
            "s" => Budget::Seconds(n),
            "m" => Budget::Seconds(n.saturating_mul(60)),
            "h" => Budget::Seconds(n.saturating_mul(3600)),
            _ => return Err(format!("`{unit}` is no unit of a budget: runs, s, m or h")),
        })
    }
}

impl Args {
    /// Runs that are wanted, when that is said in runs.
    fn runs(&self) -> Option<u64> {
        match self.budget {
            Some(Budget::Runs(n)) => Some(n),
            Some(Budget::Seconds(_)) => None,
            None => self.seeds,
        }
    }

    /// When time is up, of which a part is this cell's.
    fn until(&self, began: Instant, cells_left: usize) -> Option<Instant> {
        let Some(Budget::Seconds(s)) = self.budget else { return None };
        let left = Duration::from_secs(s).saturating_sub(began.elapsed());
        Some(Instant::now() + left / u32::try_from(cells_left.max(1)).unwrap_or(u32::MAX))
    }

    /// What a state has to agree with.
    fn of(&self, subject: &Subject<'_>) -> String {
        let archs: Vec<&str> = subject.archs.iter().map(|a| a.name()).collect();
        let depth = format!(" {}", self.depth);
        let depth = if self.strategy == Strategy::Pct { &depth } else { "" };
        let faults = if self.faults { " with faults" } else { "" };
        let (strategy, archs) = (self.strategy.name(), archs.join(","));
        let (seed, files) = (subject.opts.seed, subject.files());
        format!("{strategy}{depth}{faults}, seed {seed}, {archs}, files {files:016x}")
    }
}

/// A scenario to be searched: a cell, by itself.
struct Subject<'a> {
    path: &'a Path,
    /// Of the file and the cell.
    name: String,
    text: &'a str,
    scenario: &'a Scenario,
    parsed: &'a Parsed,
    archs: Vec<Arch>,
    cell: Cell,
    opts: RunOptions,
    /// When its time is up.
    until: Option<Instant>,
}

impl<'a> Subject<'a> {
    fn searcher(&self, args: &Args) -> Result<Searcher<'a>, RunError> {
        let pair = (self.scenario, self.text);
        Searcher::new(pair, &self.archs, &self.opts, how(args), args.faults)
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|t| Instant::now() >= t)
    }

    /// Hash of the scenario and its objects.
    fn files(&self) -> u64 {
        let mut hash = std::hash::DefaultHasher::new();
        self.text.hash(&mut hash);
        for file in self.scenario.objects.iter().filter_map(|(_, o)| o.file.as_ref()) {
            let read = self.archs.iter().map(|a| objects::read(&self.opts.dir, &file.v, *a).ok());
            read.for_each(|bytes| bytes.hash(&mut hash));
        }
        hash.finish()
    }
}

pub(super) fn run(args: &Args) -> Exit {
    match (&args.verb, &args.file) {
        (Some(Verb::Merge { states, json }), _) => merge(states, *json),
        (None, Some(file)) => explore(args, file).unwrap_or_else(|exit| exit),
        (None, None) => Exit::BadInput,
    }
}

fn bad(what: &str, next: &str) -> Exit {
    out::error(what, next);
    Exit::BadInput
}

/// All cells of a file, one after the other.
fn explore(args: &Args, path: &Path) -> Result<Exit, Exit> {
    let shown = path.display();
    let text = scenario_text(path)?;
    let asked = args.races && !text.contains("Race(");
    let text = if asked { write::with_item(&text, "expect", "Never(Race())") } else { text };
    let first = cells::read(path, &text, &Cell::default());
    let wrong = first.findings.iter().any(cells::is_error);
    let Some(scenario) = first.scenario.as_ref().filter(|_| !wrong) else {
        out::warn(&findings(&first));
        return Err(Exit::BadInput);
    };
    let all = cells::chosen(scenario, args.seed, args.cell.as_deref(), args.big)
        .map_err(|(what, next)| bad(&format!("{shown}: {what}"), next))?;
    let archs = super::replay::wanted_archs(args.arch.as_deref())
        .map_err(|e| bad(&e, "use --arch all, or a list such as --arch x86_64,s390x"))?;
    stop::watch();
    let (began, mut exits, mut found) = (Instant::now(), Vec::new(), BTreeMap::new());
    for (n, cell) in all.iter().enumerate() {
        if n > 0 && stop::asked() {
            break;
        }
        let until = args.until(began, all.len() - n);
        let done = one_cell(args, (path, &text), (cell, archs.as_deref()), until, &mut found);
        exits.push(done.unwrap_or_else(|exit| exit));
    }
    Ok(gravest(exits))
}

/// What earlier cells found, and which of them.
type Earlier = BTreeMap<Signature, String>;

fn one_cell(
    args: &Args,
    (path, text): (&Path, &str),
    (cell, archs): (&Cell, Option<&[Arch]>),
    until: Option<Instant>,
    earlier: &mut Earlier,
) -> Result<Exit, Exit> {
    let whole = cells::read(path, text, cell);
    let Some(scenario) = whole.scenario.as_ref() else {
        out::warn(&findings(&whole));
        return Err(Exit::BadInput);
    };
    let own = cells::archs_of(scenario, cell, &cells::archs(scenario));
    let chosen = archs.map(|list| cells::archs_of(scenario, cell, list));
    let archs = chosen.unwrap_or_else(|| own.iter().copied().take(1).collect());
    if archs.is_empty() {
        return Ok(Exit::Ok);
    }
    let sweep = scenario.matrix.as_ref().is_some_and(|m| m.vars.iter().next().is_some());
    let (plain, alone) = write::of_cell(text, &whole, cell, &own);
    let parsed = cells::read(path, &plain, &alone);
    let wrong = parsed.findings.iter().any(cells::is_error);
    let Some(scenario) = parsed.scenario.as_ref().filter(|_| !wrong) else {
        out::warn(&findings(&parsed));
        return Err(Exit::BadInput);
    };
    let subject = Subject {
        path,
        name: format!("{}{}", stem(path), cell.name),
        text: &plain,
        scenario,
        parsed: &parsed,
        archs,
        cell: alone,
        opts: RunOptions {
            dir: cells::folder(path),
            seed: cell.seed,
            sweep,
            ..RunOptions::default()
        },
        until,
    };
    search(args, &subject, earlier)
}

fn search(args: &Args, subject: &Subject<'_>, earlier: &mut Earlier) -> Result<Exit, Exit> {
    let mut state = match &args.state {
        Some(dir) => {
            let what = (subject.name.as_str(), args.of(subject));
            let next = "name another folder with --state, or delete the file";
            State::open(dir, what, args.shard).map_err(|e| bad(&e, next))?
        }
        None => State::new(args.shard),
    };
    let done = match args.strategy {
        Strategy::Dfs => exhaust(args, subject, &mut state),
        Strategy::Random | Strategy::Pct => workers::search(args, subject, &mut state),
    };
    let found = done.map_err(|e| told(subject, &e))?;
    let exit = finish(args, subject, &mut state, found.as_ref(), earlier)?;
    if state.is_stopped() {
        let next = match &args.state {
            Some(_) => "the same command goes on from here",
            None => "with --state DIR the same command would go on from here",
        };
        out::warn(&format!("stopped; {next}\n"));
    }
    Ok(exit)
}

/// Says why a scenario cannot be run.
fn told(subject: &Subject<'_>, e: &RunError) -> Exit {
    let (finding, exit) = match e {
        RunError::Input(f) | RunError::Rejected(f) => ((**f).clone(), Exit::BadInput),
        RunError::Unsupported { what, span } => {
            let what = format!("unsupported: {what}");
            let finding = scenarios::Finding::error(*span, what);
            (finding.hint("orrery features lists what there is"), Exit::Unsupported)
        }
        e => {
            out::error(&e.to_string(), "please report it with the files");
            return Exit::Internal;
        }
    };
    out::warn(&render::human(&subject.parsed.files, &finding));
    exit
}

fn how(args: &Args) -> How {
    match args.strategy {
        Strategy::Random => How::Random,
        Strategy::Pct | Strategy::Dfs => How::Pct(args.depth),
    }
}

/// Every interleaving.
fn exhaust(
    args: &Args,
    subject: &Subject<'_>,
    state: &mut State,
) -> Result<Option<Found>, RunError> {
    let (known, shard) = (state.known(), state.shard);
    let make = || {
        let mut search = subject.searcher(args)?;
        search.pass_over(known.clone());
        Ok(search)
    };
    let share = Share {
        shard,
        jobs: usize::try_from(args.jobs).unwrap_or(1),
        ways_max: args.runs().unwrap_or(u64::MAX),
    };
    let (progress, mut keeper, mut cut) = (Progress::new(), Keeper::new(), false);
    let frontier = state.frontier();
    let done = dfs::exhaust(&make, frontier, share, &mut |frontier| {
        progress.show(frontier.runs, None, || format!("{} states", frontier.known.len()));
        if keeper.is_due() {
            state.reached(frontier);
            keeper.keep(state);
        }
        cut = subject.is_over() || stop::asked();
        if cut { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    progress.clear();
    let (frontier, found) = done?;
    state.reached(&frontier);
    state.ended(cut && found.is_none());
    Ok(found)
}

/// Shrinks and writes what was found, and says what there is to say.
fn finish(
    args: &Args,
    subject: &Subject<'_>,
    state: &mut State,
    found: Option<&Found>,
    earlier: &mut Earlier,
) -> Result<Exit, Exit> {
    if let Some(found) = found {
        let cell = earlier.get(&found.signature).cloned();
        let kept = match &cell {
            Some(_) => None,
            None => shrunk(args, subject, found, state.count())?,
        };
        earlier.entry(found.signature.clone()).or_insert_with(|| subject.name.clone());
        state.found(found, kept, cell);
    }
    state.save().map_err(|e| bad(&e, "name another folder with --state"))?;
    let (name, strategy) = (&subject.name, args.strategy.name());
    out::print(&if args.json { state.json(name, strategy) } else { state.text(name, strategy) });
    Ok(if state.has_found() { Exit::NotMet } else { Exit::Ok })
}

/// A finding as small as it gets, written; `nth` counts those of the scenario.
fn shrunk(
    args: &Args,
    subject: &Subject<'_>,
    found: &Found,
    nth: usize,
) -> Result<Option<state::Kept>, Exit> {
    let place = Place {
        path: subject.path,
        cell: &subject.cell,
        archs: &subject.archs,
        opts: &subject.opts,
        how: how(args),
    };
    // What the attempts of shrinking run into is not for the reader.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let case = shrink(&place, subject.text, found);
    std::panic::set_hook(hook);
    case.map(|case| write_case(args, subject, (found, nth), &case)).transpose()
}

/// Where the `nth` finding goes.
fn place_of(args: &Args, subject: &Subject<'_>, nth: usize) -> PathBuf {
    let number = if nth == 0 { String::new() } else { format!(".{}", nth + 1) };
    match &args.out {
        Some(out) if nth == 0 && subject.name == stem(subject.path) => out.clone(),
        Some(out) => {
            let cell = subject.name.strip_prefix(&stem(subject.path)).unwrap_or_default();
            out.with_file_name(format!("{}{cell}{number}.ron", stem(out)))
        }
        None => subject.path.with_file_name(format!("{}.found{number}.ron", subject.name)),
    }
}

fn stem(path: &Path) -> String {
    path.file_stem().map_or("scenario".into(), |s| s.to_string_lossy().into_owned())
}

/// Writes the scenario; its path, and the architectures on which it replays.
fn write_case(
    args: &Args,
    subject: &Subject<'_>,
    (found, nth): (&Found, usize),
    case: &Case,
) -> Result<state::Kept, Exit> {
    let path = place_of(args, subject, nth);
    let explained = explained(args, subject, found, case);
    let pinned = write::with_schedule(&case.text, &write::pinned(subject.cell.seed, &case.way));
    let moved = write::moved(&pinned, &cells::folder(subject.path), &cells::folder(&path));
    let text = format!("{explained}{moved}");
    fs::write(&path, &text)
        .map_err(|e| bad(&format!("{}: {e}", path.display()), "name another place with --out"))?;
    let archs = replays(&path, &text, subject, &case.signature);
    let switches = case.way.switches.len();
    let (file, shrunk) = (path.display().to_string(), case.effort.to_string());
    Ok(state::Kept { file, archs, switches, shrunk })
}

/// The paragraph on top: a run of the shrunk scenario knows the source lines.
fn explained(args: &Args, subject: &Subject<'_>, found: &Found, case: &Case) -> String {
    let parsed = cells::read(subject.path, &case.text, &subject.cell);
    let Some(s) = &parsed.scenario else { return String::new() };
    let pair = (s, case.text.as_str());
    let search = Searcher::new(pair, &subject.archs[..1], &subject.opts, how(args), false);
    let origin = write::Origin {
        strategy: args.strategy.name(),
        run: found.run + 1,
        switches: found.way.switches.len(),
        faults: write::items(&case.text, "faults"),
    };
    let Ok(search) = search else { return String::new() };
    write::explanation(origin, &case.signature, &case.message, &case.way, search.machine())
}

/// The architectures on which a file shows what it was written for: with equal traces, or, when
/// it was written for that, with others.
fn replays(path: &Path, text: &str, subject: &Subject<'_>, wanted: &Signature) -> Vec<String> {
    let parsed = cells::read(path, text, &subject.cell);
    let Some(s) = &parsed.scenario else { return Vec::new() };
    let opts = RunOptions { dir: cells::folder(path), ..subject.opts.clone() };
    let all =
        cells::archs(s).into_iter().filter_map(|arch| Some((arch, play(s, arch, &opts).ok()?)));
    let all: Vec<(Arch, Outcome)> = all.collect();
    let names = |list: Vec<Arch>| list.iter().map(|a| a.name().to_owned()).collect();
    if wanted.kind == Kind::Divergence {
        let judged = all.iter().filter(|(arch, _)| !cells::may_differ(s, *arch));
        let traces: BTreeSet<u64> = judged.clone().map(|(_, o)| o.trace_hash).collect();
        let shown = judged.filter(|_| traces.len() > 1);
        return names(shown.map(|(arch, _)| *arch).collect());
    }
    let shows = |(arch, outcome): &(Arch, Outcome)| {
        let wrong: BTreeMap<Signature, String> = signatures(outcome, text, false);
        wrong.contains_key(wanted).then_some((*arch, outcome.trace_hash))
    };
    let all: Vec<(Arch, u64)> = all.iter().filter_map(shows).collect();
    let first = all.first().map_or(0, |a| a.1);
    names(all.into_iter().filter(|a| a.1 == first).map(|(arch, _)| arch).collect())
}

fn merge(paths: &[PathBuf], json: bool) -> Exit {
    let mut scenarios: BTreeMap<String, Vec<State>> = BTreeMap::new();
    for path in paths {
        match State::read(path) {
            Ok(state) => scenarios.entry(state.scenario.clone()).or_default().push(state),
            Err(e) => return bad(&e, "give the files of a folder of --state"),
        }
    }
    let joined = scenarios.into_iter().map(|(name, states)| match State::joined(states) {
        Ok(all) => {
            out::print(&if json { all.json(&name, "merged") } else { all.text(&name, "merged") });
            if all.has_found() { Exit::NotMet } else { Exit::Ok }
        }
        Err(e) => bad(&format!("{name}: {e}"), "give each shard of one search once"),
    });
    gravest(joined)
}
