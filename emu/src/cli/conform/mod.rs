//! `orrery conform PATH...`: conformance cases on every engine.
//!
//! ```text
//!  paths ─► cases ─► filter, shard ─► conform::run ─► deviations ─► text, JSON, TAP, annotations
//!                                                          └─► JUnit, HTML, corrected vectors
//! ```

mod assembly;
mod correct;
mod deviations;
mod files;
mod host;
mod lines;
mod objects;
mod plays;
mod tags;
mod xlated;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bpf::Arch;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use regex::Regex;

use self::deviations::Deviations;
use self::lines::Lines;
use super::fuzz::shard;
use super::judge::{default_jobs, silence_panics};
use super::replay::wanted_archs;
use super::target::{Target, TargetArgs};
use super::{Exit, gravest, out};
use crate::conform::{self, Case, Engine, INSNS_MAX, Kind, Options, Outcome, Record, collect};

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 all cases pass or are skipped, 1 some fail, 2 paths or \
                        arguments are wrong, 3 none fails but some need what is not modelled, \
                        4 internal error.")]
pub(super) struct Args {
    /// Vectors (.data), lines of vectors (.txt), annotated objects (.bpf.o) and assembly (.bpfasm),
    /// scenarios (.ron), or directories of them
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Engines: a list of verifier, interpreter, jit, and host, which is the kernel of this
    /// machine; all but the last when left out
    #[arg(long, value_name = "LIST")]
    engine: Option<String>,
    /// Architectures: a list with commas, or all
    #[arg(long, value_name = "LIST")]
    arch: Option<String>,
    /// Only cases whose name matches
    #[arg(long, value_name = "REGEX")]
    filter: Option<Regex>,
    /// Only each Nth case, from the Ith on: I/N, I from 0
    #[arg(long, value_name = "I/N", value_parser = shard)]
    shard: Option<(u64, u64)>,
    /// Threads; as many as there are CPUs when left out
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Run each case so often; all runs must come to the same
    #[arg(long, value_name = "N", default_value_t = 1)]
    repeat: u32,
    /// Stop after the first case that fails
    #[arg(long)]
    fail_fast: bool,
    /// Instructions a case may retire
    #[arg(long, value_name = "INSNS", default_value_t = INSNS_MAX)]
    timeout: u64,
    /// Deviations that are known, a line each: CASE | ENGINE or ENGINE ARCH or * | REASON. One that
    /// no longer deviates fails
    #[arg(long, value_name = "FILE")]
    expect_deviation: Option<PathBuf>,
    /// One JSON object per case and engine
    #[arg(long, conflicts_with = "tap")]
    json: bool,
    /// TAP 14
    #[arg(long)]
    tap: bool,
    /// Annotations of GitHub at the lines of what failed, besides
    #[arg(long)]
    github: bool,
    /// A line for what passed, too
    #[arg(long, short)]
    verbose: bool,
    /// Write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Write the matrix of cases and engines as an HTML page
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write which instructions, shapes of native code, helpers, operations on maps and rules of
    /// the verifier the cases cover
    #[arg(long, value_name = "FILE")]
    coverage: Option<PathBuf>,
    /// Write what big-endian machines come to where an expectation assumes little endian
    #[arg(long, value_name = "DIR")]
    write_corrected: Option<PathBuf>,
    /// What annotated objects and assembly are judged for: the running kernel when it shows its
    /// BTF, is of the version of --kernel and no other is named, else the modelled one
    #[command(flatten)]
    target: TargetArgs,
}

/// A case with what came of it.
#[derive(Debug)]
struct Done<'a> {
    case: &'a Case,
    records: Vec<Record>,
}

pub(super) fn run(args: &Args) -> Exit {
    let engines = match engines(args) {
        Ok(engines) => engines,
        Err(e) => {
            out::error(&e, "for example --engine jit --arch x86_64,s390x");
            return Exit::BadInput;
        }
    };
    let cases = match cases(args) {
        Ok(cases) => cases,
        Err(exit) => return exit,
    };
    let deviations = match args.expect_deviation.as_deref().map(Deviations::read).transpose() {
        Ok(d) => d.unwrap_or_default(),
        Err(exit) => return exit,
    };
    let options = Options {
        engines,
        insns_max: args.timeout,
        jobs: args.jobs.unwrap_or_else(default_jobs),
        repeat: args.repeat.max(1),
        coverage: args.coverage.is_some().then(Arc::default),
    };
    silence_panics();
    play(args, &cases, &options, deviations)
}

fn play(args: &Args, cases: &[Case], options: &Options, mut deviations: Deviations) -> Exit {
    let began = Instant::now();
    let bar = ProgressBar::with_draw_target(
        Some(cases.len() as u64),
        ProgressDrawTarget::stderr_with_hz(5),
    );
    let style = ProgressStyle::with_template("{bar:32} {pos}/{len} cases {elapsed} {msg}");
    bar.set_style(style.expect("the template is right"));
    let mut lines = Lines::new(args, cases.len());
    let mut done: Vec<Done<'_>> = Vec::new();
    conform::run(cases, options, |case, mut records| {
        deviations.apply(&case.name, &mut records);
        let failed = records.iter().any(|r| r.outcome == Outcome::Fail);
        let text = lines.case(case, &records);
        if !text.is_empty() {
            bar.suspend(|| out::print(&text));
        }
        bar.inc(1);
        done.push(Done { case, records });
        !(failed && args.fail_fast)
    });
    bar.finish_and_clear();
    let whole = args.filter.is_none() && args.shard.is_none() && done.len() == cases.len();
    let stale = if whole { deviations.unused() } else { Vec::new() };
    out::print(&lines.end(&done, &options.engines, began.elapsed()));
    for row in &stale {
        out::error(&format!("expected deviation of nothing: {row}"), "take the line out");
    }
    let mut records = done.iter().flat_map(|d| &d.records);
    let internal = records.clone().any(|r| r.outcome == Outcome::Fail && r.kind == Kind::Internal);
    let outcome = match records.by_ref().map(|r| r.outcome).max() {
        Some(Outcome::Fail) if internal => Exit::Internal,
        Some(Outcome::Fail) => Exit::NotMet,
        _ if !stale.is_empty() => Exit::NotMet,
        Some(Outcome::Unsupported) => Exit::Unsupported,
        _ => Exit::Ok,
    };
    let written = files::write(args, &done, options, began.elapsed());
    gravest([outcome, written, correct::write(args, &done)])
}

/// The engines that are asked for, in the order of reports.
fn engines(args: &Args) -> Result<Vec<Engine>, String> {
    let archs = wanted_archs(args.arch.as_deref())?;
    let kinds: Option<Vec<&str>> = args.engine.as_deref().map(|k| k.split(',').collect());
    let all = || Engine::ALL.into_iter().chain([Engine::Host]);
    if let Some(bad) = kinds.iter().flatten().find(|k| all().all(|e| e.kind() != **k)) {
        let kinds = "verifier, interpreter, jit or host is expected";
        return Err(format!("unknown engine \"{bad}\": {kinds}"));
    }
    let wanted = |e: &Engine| {
        let default = *e != Engine::Host;
        let kind = kinds.as_ref().map_or(default, |k| k.contains(&e.kind()));
        let arch = archs.as_ref().is_none_or(|archs| match e {
            Engine::Jit(arch) => archs.contains(arch),
            Engine::Host => archs.contains(&Arch::X86_64),
            e => archs.iter().any(|a| a.endian() == e.order()),
        });
        kind && arch
    };
    Ok(all().filter(wanted).collect())
}

/// The cases that are asked for; an error has been reported.
fn cases(args: &Args) -> Result<Vec<Case>, Exit> {
    let bad = |what: &str, next: &str| {
        out::error(what, next);
        Exit::BadInput
    };
    let mut target = None;
    let mut others = |path: &Path| kinds(path, args, &mut target);
    let cases = collect::collect(&args.paths, &mut others);
    let cases = cases.map_err(|e| bad(&e, "orrery conform --help names the kinds"))?;
    let named = |c: &Case| args.filter.as_ref().is_none_or(|f| f.is_match(&c.name));
    let all = cases.len();
    let cases: Vec<Case> = cases.into_iter().filter(named).collect();
    if let (Some(filter), true) = (&args.filter, all > 0 && cases.is_empty()) {
        let next = "--verbose without --filter shows the names";
        return Err(bad(&format!("--filter {filter} matches none of {all} cases"), next));
    }
    if cases.is_empty() {
        let shown: Vec<String> = args.paths.iter().map(|p| p.display().to_string()).collect();
        return Err(bad(
            &format!("no cases in {}", shown.join(", ")),
            "orrery conform --help names the kinds",
        ));
    }
    let Some((shard, of)) = args.shard else { return Ok(cases) };
    let numbered = (0..).zip(cases).filter(|(n, _)| n % of == shard);
    Ok(numbered.map(|(_, c)| c).collect())
}

/// The kinds of files that need more than the library has. What they are judged for is read when
/// there is one.
fn kinds(
    path: &Path,
    args: &Args,
    target: &mut Option<Arc<Target>>,
) -> Result<Option<Vec<Case>>, String> {
    let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    if kind == "ron" {
        return Ok(Some(vec![plays::case(path, collect::read(path)?)]));
    }
    if !["o", "bpfasm"].contains(&kind) {
        return Ok(None);
    }
    if target.is_none() {
        let opened = args.target.clone().host_when_it_fits().open();
        *target = Some(Arc::new(opened.map_err(|_| "there is no kernel to judge for")?));
    }
    let Some(target) = target else { return Ok(None) };
    match kind {
        "o" => objects::cases(path, target).map(Some),
        _ => assembly::cases(path, &collect::read(path)?, target).map(Some),
    }
}
