//! `orrery verify OBJ...`: the verdict on every program of every object.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bpf::Arch;
use bpf::object::ProgramDef;

use super::beneath::{self, Beneath};
use super::judge::{Row, Verdict, default_jobs, in_order, judge_linked, silence_panics};
use super::out::Colour;
use super::target::{Target, TargetArgs};
use super::world::World;
use super::{Exit, arch, gravest, out, why};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// BPF objects, of either byte order
    #[arg(required = true, value_name = "OBJ")]
    pub(super) objects: Vec<PathBuf>,
    /// One JSON object for each program
    #[arg(long)]
    pub(super) json: bool,
    /// Only programs of this name
    #[arg(long, value_name = "NAME")]
    pub(super) prog: Option<String>,
    /// Print the log: 1 the path to the error (what --json has of a rejected program anyway),
    /// 2 everything, 4 statistics; they add up
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(super) log_level: u32,
    /// Architecture; by default x86_64, or s390x for a big-endian object
    #[arg(long, value_parser = arch)]
    pub(super) arch: Option<Arch>,
    #[command(flatten)]
    target: TargetArgs,
    /// Program that freplace programs extend, and fentry and fexit programs of its functions trace
    #[arg(long = "target", value_name = "OBJ:PROG", value_parser = beneath::spec)]
    pub(super) beneath: Option<beneath::Spec>,
    /// Ask the kernel of this machine, too, and show both answers; a difference is exit 1
    #[arg(long)]
    host: bool,
    /// Show the state at this instruction on every path
    #[arg(long, value_name = "INSN")]
    explain: Option<u32>,
    /// Show which branches make the states multiply, and what they depend on
    #[arg(long)]
    states: bool,
    /// Write a page with source, instructions, states and the failing path
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Objects worked on at a time; by default as many as there are CPUs
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

pub(super) fn run(args: &Args) -> Exit {
    let opened = match args.host {
        true => args.target.clone().host_by_default().open(),
        false => args.target.open(),
    };
    let target = match opened {
        Ok(target) => target,
        Err(exit) => return exit,
    };
    silence_panics();
    if args.host {
        return super::side::run(args, &target);
    }
    let below = args.beneath.as_ref().map(|s| Beneath::open(s, args.arch, &target)).transpose();
    let below = match below {
        Ok(below) => below,
        Err(exit) => return exit,
    };
    let (mut exits, mut sections) = (Vec::new(), Vec::new());
    let work = |path: &PathBuf| object(args, &target, path, below.clone());
    in_order(&args.objects, args.jobs.unwrap_or_else(default_jobs), work, |rows| match rows {
        Ok(rows) => rows.into_iter().for_each(|row| {
            show(args, &row);
            exits.push(row.exit);
            sections.push(row.html);
        }),
        Err(exit) => exits.push(exit),
    });
    if let Some(path) = &args.html {
        exits.push(write_page(args, path, &sections));
    }
    gravest(exits)
}

fn write_page(args: &Args, path: &Path, sections: &[String]) -> Exit {
    let names: Vec<String> = args.objects.iter().map(|o| o.display().to_string()).collect();
    let page = why::html::page(&names.join(", "), sections);
    match std::fs::write(path, page) {
        Ok(()) => Exit::Ok,
        Err(e) => {
            out::error(&format!("{}: {e}", path.display()), "");
            Exit::BadInput
        }
    }
}

fn object(
    args: &Args,
    target: &Target,
    path: &Path,
    below: Option<Arc<Beneath>>,
) -> Result<Vec<Row>, Exit> {
    let mut world = World::open_for(path, args.arch, target)?;
    world.beneath = below;
    let programs = world.programs(path, args.prog.as_deref())?;
    Ok(programs.iter().map(|def| program(args, target, &world, path, def)).collect())
}

fn program(args: &Args, target: &Target, world: &World, path: &Path, def: &ProgramDef) -> Row {
    let linked = world.link(def);
    let again = |level| judge_linked(world, path, def, linked.clone(), target.opts(level));
    let mut row = again(args.log_level);
    let Ok(program) = &linked else { return row };
    let rejected = row.verdict == Verdict::Rejected;
    let listing = args.html.is_some() || args.explain.is_some() || args.states;
    let all = if listing { again(2).log } else { String::new() };
    // At level 1 the log of a rejected program is the path to the error.
    let failing = if rejected { again(1).log } else { String::new() };
    if rejected && args.json && args.log_level == 0 {
        row.log.clone_from(&failing);
    }
    let message = row.error_line.as_deref().unwrap_or_default();
    let why = match rejected {
        true => why::explain(program, Some(&world.object), &failing, message),
        false => String::new(),
    };
    if !args.json {
        row.notes += &why;
    }
    if let Some(insn) = args.explain {
        row.notes += &why::states::explain(program, &all, insn);
    }
    if args.states {
        row.notes += &why::states::overview(program, &all);
    }
    if args.html.is_some() {
        row.html = why::html::section(program, &row, (&all, &failing), &why);
    }
    row
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
    // The verdict says it already.
    let why = row.error_line.as_ref().map(|l| l.strip_prefix("unsupported: ").unwrap_or(l));
    let why = why.map_or(String::new(), |l| format!(": {l}"));
    let (insns, states, peak) = (row.insns_processed, row.total_states, row.peak_states);
    let stack = if row.stack_depth.is_empty() { "0" } else { &row.stack_depth };
    out::line(&format!("{head}{why}"));
    out::line(&format!(
        "    {insns} insns, {states} states, {peak} at most, {stack} bytes of stack, {} us",
        row.time_us
    ));
    if let Some(beyond) = &row.beyond {
        out::print(&beyond.text());
    }
    out::print(&row.notes);
}
