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

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bpf::Arch;
use scenarios::parse::Parsed;
use scenarios::{Scenario, render};

use self::state::State;
use super::replay::report::findings;
use super::{Exit, out};
use crate::runner::cells::{self, Cell};
use crate::runner::{RunError, RunOptions, run as play};
use crate::search::finding::{Signature, signatures};
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
    /// Also failing allocations and calls, and NMIs at safepoints
    #[arg(long)]
    faults: bool,
    /// Also data races: as if the scenario expected Never(Race())
    #[arg(long)]
    races: bool,
    /// Every Nth run, from the Ith on
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
enum Budget {
    Runs(u64),
    Seconds(u64),
}

impl Budget {
    fn parse(text: &str) -> Result<Budget, String> {
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

/// A scenario to be searched.
struct Subject<'a> {
    path: &'a Path,
    text: &'a str,
    scenario: &'a Scenario,
    parsed: &'a Parsed,
    archs: Vec<Arch>,
    cell: Cell,
    opts: RunOptions,
}

impl Subject<'_> {
    fn name(&self) -> String {
        let stem = self.path.file_stem();
        stem.map_or_else(|| "scenario".into(), |s| s.to_string_lossy().into_owned())
    }
}

pub(super) fn run(args: &Args) -> Exit {
    match (&args.verb, &args.file) {
        (Some(Verb::Merge { states, json }), _) => merge(states, *json),
        (None, Some(file)) => explore(args, file).unwrap_or_else(|exit| exit),
        (None, None) => Exit::BadInput,
    }
}

fn explore(args: &Args, path: &Path) -> Result<Exit, Exit> {
    let bad = |what: String, next: &str| {
        out::error(&what, next);
        Exit::BadInput
    };
    let text = fs::read_to_string(path).map_err(|e| {
        bad(format!("{}: {e}", path.display()), "give the path of a scenario (.ron)")
    })?;
    let asked = args.races && !text.contains("Race(");
    let text = if asked { write::with_item(&text, "expect", "Never(Race())") } else { text };
    let parsed = cells::read(path, &text, &Cell::default());
    let wrong = parsed.findings.iter().any(cells::is_error);
    let Some(scenario) = parsed.scenario.as_ref().filter(|_| !wrong) else {
        out::warn(&findings(&parsed));
        return Err(Exit::BadInput);
    };
    if scenario.matrix.as_ref().is_some_and(|m| m.vars.iter().next().is_some() || m.cpus.is_some())
    {
        let next = "give the values in place of the variables, and the number of CPUs";
        out::error(&format!("{}: unsupported: search over a matrix", path.display()), next);
        return Err(Exit::Unsupported);
    }
    let archs = super::replay::wanted_archs(args.arch.as_deref())
        .map_err(|e| bad(e, "use --arch all, or a list such as --arch x86_64,s390x"))?;
    let first = || cells::archs(scenario).into_iter().take(1).collect();
    let opts = RunOptions { dir: cells::folder(path), seed: args.seed, ..RunOptions::default() };
    let subject = Subject {
        path,
        text: &text,
        scenario,
        parsed: &parsed,
        archs: archs.unwrap_or_else(first),
        cell: Cell { seed: args.seed, ..Cell::default() },
        opts,
    };
    let mut state = match &args.state {
        Some(dir) => State::open(dir, &subject.name(), args.shard)
            .map_err(|e| bad(e, "name another folder with --state"))?,
        None => State::new(args.shard),
    };
    let done = match args.strategy {
        Strategy::Dfs => exhaust(args, &subject, &mut state),
        Strategy::Random | Strategy::Pct => workers::search(args, &subject, &mut state),
    };
    let found = done.map_err(|e| told(&subject, &e))?;
    finish(args, &subject, &mut state, found)
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

/// Every interleaving, on one thread: what comes next depends on what was met.
fn exhaust(
    args: &Args,
    subject: &Subject<'_>,
    state: &mut State,
) -> Result<Option<Found>, RunError> {
    if args.shard.is_some() || subject.archs.len() > 1 {
        let what = "dfs over shards, or on several architectures at once".to_owned();
        return Err(RunError::Unsupported { what, span: subject.scenario.span });
    }
    let pair = (subject.scenario, subject.text);
    let mut search = Searcher::new(pair, &subject.archs, &subject.opts, how(args), args.faults)?;
    let progress = workers::Progress::new();
    let (ways, limit) = match args.budget {
        Some(Budget::Seconds(s)) => (u64::MAX, s),
        Some(Budget::Runs(n)) => (n, u64::MAX),
        None => (args.seeds.unwrap_or(u64::MAX), u64::MAX),
    };
    let all = search.exhaust(ways, &mut |all| {
        progress.show(all.runs, None, || format!("{} states", all.states));
        progress.seconds() < limit
    })?;
    progress.clear();
    state.exhausted(&all);
    Ok(all.found)
}

/// Shrinks and writes what was found, and says what there is to say.
fn finish(
    args: &Args,
    subject: &Subject<'_>,
    state: &mut State,
    found: Option<Found>,
) -> Result<Exit, Exit> {
    let name = subject.name();
    if let Some(found) = &found {
        let place = Place {
            path: subject.path,
            cell: &subject.cell,
            arch: subject.archs[0],
            opts: &subject.opts,
            how: how(args),
        };
        // What the attempts of shrinking run into is not for the reader.
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let case = shrink(&place, subject.text, found);
        std::panic::set_hook(hook);
        let kept = case.map(|case| write_case(args, subject, found, &case)).transpose()?;
        state.found(found, kept);
    }
    state.save().map_err(|e| {
        out::error(&e, "name another folder with --state");
        Exit::BadInput
    })?;
    let strategy = args.strategy.name();
    out::print(&if args.json { state.json(&name, strategy) } else { state.text(&name, strategy) });
    Ok(if state.has_found() { Exit::NotMet } else { Exit::Ok })
}

/// Writes the scenario; its path, and the architectures on which it replays.
fn write_case(
    args: &Args,
    subject: &Subject<'_>,
    found: &Found,
    case: &Case,
) -> Result<state::Kept, Exit> {
    let beside = subject.path.with_file_name(format!("{}.found.ron", subject.name()));
    let path = args.out.clone().unwrap_or(beside);
    let explained = explained(args, subject, found, case);
    let pinned = write::with_schedule(&case.text, &write::pinned(args.seed, &case.way));
    let moved = write::moved(&pinned, &cells::folder(subject.path), &cells::folder(&path));
    let text = format!("{explained}{moved}");
    fs::write(&path, &text).map_err(|e| {
        out::error(&format!("{}: {e}", path.display()), "name another place with --out");
        Exit::BadInput
    })?;
    let archs = replays(&path, &text, subject, &case.signature);
    let switches = case.way.switches.len();
    Ok(state::Kept { file: path.display().to_string(), archs, switches })
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
    };
    let Ok(search) = search else { return String::new() };
    write::explanation(origin, &case.signature, &case.message, &case.way, search.machine())
}

/// The architectures on which a file shows what it was written for, with equal traces.
fn replays(path: &Path, text: &str, subject: &Subject<'_>, wanted: &Signature) -> Vec<String> {
    let parsed = cells::read(path, text, &subject.cell);
    let Some(s) = &parsed.scenario else { return Vec::new() };
    let opts = RunOptions { dir: cells::folder(path), ..subject.opts.clone() };
    let shows = |arch: Arch| {
        let outcome = play(s, arch, &opts).ok()?;
        let wrong: BTreeMap<Signature, String> = signatures(&outcome, text, false);
        wrong.contains_key(wanted).then_some((arch, outcome.trace_hash))
    };
    let all: Vec<(Arch, u64)> = cells::archs(s).into_iter().filter_map(shows).collect();
    let first = all.first().map_or(0, |a| a.1);
    let same = all.into_iter().filter(|a| a.1 == first);
    same.map(|(arch, _)| arch.name().to_owned()).collect()
}

fn merge(paths: &[PathBuf], json: bool) -> Exit {
    let mut all: Option<State> = None;
    for path in paths {
        match State::read(path) {
            Ok(state) => match &mut all {
                None => all = Some(state),
                Some(all) => all.join(state),
            },
            Err(e) => {
                out::error(&e, "give the files of a folder of --state");
                return Exit::BadInput;
            }
        }
    }
    let Some(all) = all else { return Exit::BadInput };
    let name = all.scenario.clone();
    out::print(&if json { all.json(&name, "merged") } else { all.text(&name, "merged") });
    if all.has_found() { Exit::NotMet } else { Exit::Ok }
}
