//! `orrery verify OBJ...`: the verdict on every program of every object.

use std::path::{Path, PathBuf};

use bpf::Arch;

use super::judge::{Row, Verdict, default_jobs, in_order, judge, silence_panics};
use super::out::Colour;
use super::target::{Target, TargetArgs};
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
    #[command(flatten)]
    target: TargetArgs,
    /// Objects worked on at a time; by default as many as there are CPUs
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

pub(super) fn run(args: &Args) -> Exit {
    let target = match args.target.open() {
        Ok(target) => target,
        Err(exit) => return exit,
    };
    silence_panics();
    let mut exits = Vec::new();
    let work = |path: &PathBuf| object(args, &target, path);
    in_order(&args.objects, args.jobs.unwrap_or_else(default_jobs), work, |rows| match rows {
        Ok(rows) => rows.iter().for_each(|row| {
            show(args, row);
            exits.push(row.exit);
        }),
        Err(exit) => exits.push(exit),
    });
    gravest(exits)
}

fn object(args: &Args, target: &Target, path: &Path) -> Result<Vec<Row>, Exit> {
    let world = World::open_for(path, args.arch, target)?;
    let programs = world.programs(path, args.prog.as_deref())?;
    let opts = target.opts(args.log_level);
    Ok(programs.iter().map(|def| judge(&world, path, def, opts)).collect())
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
    let stack = if row.stack_depth.is_empty() { "0" } else { &row.stack_depth };
    out::line(&format!("{head}{why}"));
    out::line(&format!(
        "    {insns} insns, {states} states, {peak} at most, {stack} bytes of stack, {} us",
        row.time_us
    ));
}
