//! `orrery verify OBJ...`: the verdict on every program of every object.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bpf::Arch;
use bpf::object::ProgramDef;
use serde::Serialize;
use verifier::VerifyReport;

use super::out::Colour;
use super::world::World;
use super::{Exit, arch, gravest, out};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// BPF objects, of either byte order
    #[arg(required = true, value_name = "OBJ")]
    objects: Vec<PathBuf>,
    /// One JSON object for each program
    #[arg(long)]
    json: bool,
    /// Only programs of this name
    #[arg(long, value_name = "NAME")]
    prog: Option<String>,
    /// Print the log: 1 the path to the error, 2 everything, 4 statistics; they add up
    #[arg(long, value_name = "N", default_value_t = 0)]
    log_level: u32,
    /// Architecture; by default x86_64, or s390x for a big-endian object
    #[arg(long, value_parser = arch)]
    arch: Option<Arch>,
}

/// What the verifier says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Accepted,
    Rejected,
    Unsupported,
    /// The program could not be linked, or the verifier itself failed.
    Error,
}

/// The result on one program; the fields are those of `--json`.
#[derive(Debug, Serialize)]
struct Row {
    object: String,
    program: String,
    section: String,
    prog_type: &'static str,
    verdict: Verdict,
    error_line: Option<String>,
    insns_processed: u32,
    total_states: u32,
    peak_states: u32,
    stack_depth: u32,
    time_us: u64,
    #[serde(skip)]
    log: String,
    #[serde(skip)]
    exit: Exit,
}

pub(super) fn run(args: &Args) -> Exit {
    let exits: Vec<Exit> = args.objects.iter().map(|path| object(args, path)).collect();
    gravest(exits)
}

fn object(args: &Args, path: &Path) -> Exit {
    let opened = World::open(path, args.arch)
        .and_then(|w| w.programs(path, args.prog.as_deref()).map(|p| (w, p)));
    let (world, programs) = match opened {
        Ok(v) => v,
        Err(exit) => return exit,
    };
    let mut exits = Vec::new();
    for def in &programs {
        let row = judge(&world, path, def, args.log_level);
        show(args, &row);
        exits.push(row.exit);
    }
    gravest(exits)
}

/// Verifies one program. A panic of the verifier is a verdict, not the end.
fn judge(world: &World, path: &Path, def: &ProgramDef, log_level: u32) -> Row {
    let mut row = Row {
        object: path.display().to_string(),
        program: def.name.clone(),
        section: def.section.clone(),
        prog_type: def.sec.as_ref().map_or("unspec", |s| s.prog_type.name()),
        verdict: Verdict::Error,
        error_line: None,
        insns_processed: 0,
        total_states: 0,
        peak_states: 0,
        stack_depth: 0,
        time_us: 0,
        log: String::new(),
        exit: Exit::BadInput,
    };
    let program = match world.link(def) {
        Ok(p) => p,
        Err(e) => {
            row.error_line = Some(e.to_string());
            return row;
        }
    };
    let begin = Instant::now();
    let verify = std::panic::AssertUnwindSafe(|| world.verify(program, log_level));
    let report = std::panic::catch_unwind(verify);
    row.time_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    match report {
        Ok(report) => fill(&mut row, report),
        Err(payload) => {
            let text = payload.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| payload.downcast_ref::<&str>().copied());
            row.error_line = Some(format!("internal error: {}", text.unwrap_or("?")));
            row.exit = Exit::Internal;
        }
    }
    row
}

fn fill(row: &mut Row, report: VerifyReport) {
    row.insns_processed = report.stats.insns_processed;
    row.total_states = report.stats.total_states;
    row.peak_states = report.stats.peak_states;
    row.stack_depth = report.stats.stack_depth;
    (row.verdict, row.exit) = match &report.result {
        Ok(_) => (Verdict::Accepted, Exit::Ok),
        Err(r) if r.is_unsupported() => (Verdict::Unsupported, Exit::Unsupported),
        Err(_) => (Verdict::Rejected, Exit::NotMet),
    };
    if let Err(r) = &report.result {
        let said = if r.is_unsupported() { None } else { error_line(&report.log) };
        row.error_line = said.or_else(|| error_line(&r.message));
    }
    row.log = report.log;
}

/// The last line of a log that is not one of its statistics.
fn error_line(log: &str) -> Option<String> {
    let statistics = ["processed ", "verification time ", "stack depth "];
    let is_word = |l: &&str| !l.is_empty() && !statistics.iter().any(|s| l.starts_with(s));
    log.lines().map(str::trim_end).rev().find(is_word).map(str::to_owned)
}

fn show(args: &Args, row: &Row) {
    if args.json {
        match serde_json::to_string(row) {
            Ok(text) => out::line(&text),
            Err(e) => out::error(&format!("{}: {e}", row.object), ""),
        }
        return;
    }
    if args.log_level != 0 && !row.log.is_empty() {
        out::print(&row.log);
    }
    let verdict = match row.verdict {
        Verdict::Accepted => out::colour(Colour::Green, "accepted"),
        Verdict::Rejected => out::colour(Colour::Red, "rejected"),
        Verdict::Unsupported => out::colour(Colour::Yellow, "unsupported"),
        Verdict::Error => out::colour(Colour::Red, "error"),
    };
    let head = format!("{}: {} ({}): {verdict}", row.object, row.program, row.prog_type);
    let why = row.error_line.as_ref().map_or(String::new(), |l| format!(": {l}"));
    let (insns, states, peak) = (row.insns_processed, row.total_states, row.peak_states);
    out::line(&format!("{head}{why}"));
    out::line(&format!(
        "    {insns} insns, {states} states, {peak} at most, {} bytes of stack, {} us",
        row.stack_depth, row.time_us
    ));
}
