//! `orrery replay FILE...`: runs scenarios on their architectures and compares the traces.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use bpf::Arch;
use scenarios::parse::Parsed;
use scenarios::render;

use super::{Exit, gravest, out};
use crate::runner::cells::{self, Cell};
use crate::runner::{Outcome, RunError, RunOptions, captures, run as play};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Scenario files
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
    /// One JSON object per run
    #[arg(long)]
    json: bool,
    /// Run matrices of more than 10,000 cells
    #[arg(long)]
    big: bool,
}

/// Texts that are written to files at the end.
#[derive(Default)]
struct Collected {
    trace: String,
    perfetto: Vec<serde_json::Value>,
}

pub(super) fn run(args: Args) -> ExitCode {
    let archs = match wanted_archs(args.arch.as_deref()) {
        Ok(archs) => archs,
        Err(e) => {
            out::error(&e, "use --arch all, or a list such as --arch x86_64,s390x");
            return Exit::BadInput.into();
        }
    };
    let mut collected = Collected::default();
    let exits: Vec<Exit> =
        args.files.iter().map(|f| file(f, &args, archs.as_deref(), &mut collected)).collect();
    let written = write_collected(&args, &collected);
    gravest(exits.into_iter().chain([written])).into()
}

fn wanted_archs(list: Option<&str>) -> Result<Option<Vec<Arch>>, String> {
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

fn write_collected(args: &Args, collected: &Collected) -> Exit {
    let perfetto = || serde_json::json!({ "traceEvents": collected.perfetto }).to_string();
    let files = [
        (&args.trace, collected.trace.clone()),
        (&args.perfetto, args.perfetto.as_ref().map_or(String::new(), |_| perfetto())),
    ];
    for (path, text) in files {
        if let Some(path) = path
            && let Err(e) = fs::write(path, text)
        {
            out::error(&format!("{}: {e}", path.display()), "");
            return Exit::BadInput;
        }
    }
    Exit::Ok
}

/// All cells of one file.
fn file(path: &Path, args: &Args, archs: Option<&[Arch]>, all: &mut Collected) -> Exit {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) => {
            out::error(&format!("{}: {e}", path.display()), "");
            return Exit::BadInput;
        }
    };
    let first = cells::read(path, &text, &Cell::default());
    if first.findings.iter().any(cells::is_error) {
        eprint!("{}", findings(&first));
        return Exit::BadInput;
    }
    let Some(scenario) = &first.scenario else { return Exit::Internal };
    let cells = cells::cells(scenario, args.seed);
    if cells.len() > cells::CELLS_MAX && !args.big {
        let n = cells.len();
        out::error(&format!("{}: the matrix has {n} cells", path.display()), "add --big");
        return Exit::BadInput;
    }
    let archs = archs.map_or_else(|| cells::archs(scenario), <[Arch]>::to_vec);
    gravest(cells.iter().map(|c| cell(path, &text, c, &archs, args, all)).collect::<Vec<_>>())
}

fn findings(parsed: &Parsed) -> String {
    parsed.findings.iter().map(|f| render::human(&parsed.files, f)).collect()
}

fn title(path: &Path, cell: &Cell) -> String {
    let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or("scenario");
    format!("{stem}{}", cell.name)
}

/// One cell on its architectures.
fn cell(
    path: &Path,
    text: &str,
    cell: &Cell,
    archs: &[Arch],
    args: &Args,
    all: &mut Collected,
) -> Exit {
    let parsed = cells::read(path, text, cell);
    let Some(scenario) = &parsed.scenario else {
        eprint!("{}", findings(&parsed));
        return Exit::BadInput;
    };
    let options = RunOptions { dir: cells::folder(path), seed: cell.seed, cpus: cell.cpus };
    let name = title(path, cell);
    let (mut exits, mut done): (Vec<Exit>, Vec<Outcome>) = (Vec::new(), Vec::new());
    for arch in archs {
        let began = Instant::now();
        let outcome = play(scenario, *arch, &options);
        let wall_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        match outcome {
            Ok(o) => {
                exits.push(report(&name, &o, wall_us, &parsed, args));
                exits.push(keep(&name, &o, args, all));
                done.push(o);
            }
            Err(e) => exits.push(refused(&name, *arch, &e, wall_us, &parsed, args)),
        }
    }
    exits.push(compare(&name, &done));
    gravest(exits)
}

fn report(name: &str, o: &Outcome, wall_us: u64, parsed: &Parsed, args: &Args) -> Exit {
    let met = o.failures.is_empty();
    if args.json {
        let failures: Vec<_> = o.failures.iter().map(|f| f.message.clone()).collect();
        let line = serde_json::json!({
            "scenario": name,
            "arch": o.arch.name(),
            "outcome": if met { "met" } else { "not_met" },
            "trace_hash": format!("{:016x}", o.trace_hash),
            "insns": o.insns,
            "native_insns": o.native_insns,
            "wall_us": wall_us,
            "failures": failures,
        });
        out::line(&line.to_string());
    } else {
        let word = if met {
            out::colour(out::Colour::Green, "ok")
        } else {
            out::colour(out::Colour::Red, "FAILED")
        };
        out::line(&format!(
            "{name} on {}: {word}, {} instructions, trace {:016x}, {}.{:03} ms",
            o.arch,
            o.insns,
            o.trace_hash,
            wall_us / 1000,
            wall_us % 1000
        ));
    }
    for f in &o.failures {
        let finding = scenarios::Finding::error(f.span, f.message.clone());
        eprint!("{}: {}", o.arch, render::human(&parsed.files, &finding));
    }
    if met { Exit::Ok } else { Exit::NotMet }
}

fn refused(
    name: &str,
    arch: Arch,
    e: &RunError,
    wall_us: u64,
    parsed: &Parsed,
    args: &Args,
) -> Exit {
    let (exit, word, finding) = match e {
        RunError::Input(f) => (Exit::BadInput, "bad_input", Some((**f).clone())),
        RunError::Unsupported { what, span } => {
            let message = format!("unsupported: {what}");
            (Exit::Unsupported, "unsupported", Some(scenarios::Finding::error(*span, message)))
        }
        RunError::Internal(_) => (Exit::Internal, "internal", None),
    };
    if args.json {
        let line = serde_json::json!({
            "scenario": name, "arch": arch.name(), "outcome": word, "trace_hash": null,
            "insns": 0, "native_insns": 0, "wall_us": wall_us, "failures": [e.to_string()],
        });
        out::line(&line.to_string());
    }
    match finding {
        Some(f) => eprint!("{arch}: {}", render::human(&parsed.files, &f)),
        None => out::error(&format!("{name} on {arch}: {e}"), "please report it with the files"),
    }
    exit
}

/// Files that were asked for.
fn keep(name: &str, o: &Outcome, args: &Args, all: &mut Collected) -> Exit {
    if args.trace.is_some() {
        all.trace.push_str(&format!("# {name} {}\n", o.arch));
        for line in &o.trace {
            all.trace.push_str(line);
            all.trace.push('\n');
        }
    }
    if args.perfetto.is_some() {
        let process = format!("{name} {}", o.arch);
        all.perfetto.extend(o.perfetto.iter().map(|e| e.json(&process)));
    }
    let Some(dir) = &args.pcap else { return Exit::Ok };
    for (nic, frames) in &o.out {
        let path = dir.join(format!("{name}.{}.{nic}.pcap", o.arch));
        let done = fs::create_dir_all(dir).map_err(|e| e.to_string());
        if let Err(e) = done.and_then(|()| captures::write(&path, frames)) {
            out::error(&e, "");
            return Exit::BadInput;
        }
    }
    Exit::Ok
}

/// Traces of one cell are equal on all architectures; the first difference is shown.
fn compare(name: &str, done: &[Outcome]) -> Exit {
    let Some((first, rest)) = done.split_first() else { return Exit::Ok };
    let mut exit = Exit::Ok;
    for other in rest {
        if other.trace_hash == first.trace_hash {
            continue;
        }
        exit = Exit::NotMet;
        let at = first.compared.iter().zip(&other.compared).position(|(a, b)| a != b);
        let at = at.unwrap_or(first.compared.len().min(other.compared.len()));
        let line = |o: &Outcome| o.compared.get(at).cloned().unwrap_or("(the end)".into());
        let before = at
            .checked_sub(1)
            .map_or(String::new(), |n| format!("\n  both, event {n}: {}", first.compared[n]));
        out::error(
            &format!(
                "{name}: the traces of {} and {} differ at event {at}{before}\n  {}: {}\n  {}: {}",
                first.arch,
                other.arch,
                first.arch,
                line(first),
                other.arch,
                line(other)
            ),
            "compare the native code with `orrery jit`",
        );
    }
    exit
}
