//! `orrery veristat`: verdicts and statistics as a table or as veristat's CSV, compared with
//! another run, with presets of global variables.

mod compare;
mod preset;
mod stat;

pub(super) use stat::glob;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bpf::object::ProgramDef;

use self::stat::{Filter, Record, Stat};
use super::judge::{default_jobs, in_order, judge, silence_panics};
use super::target::{Target, TargetArgs};
use super::world::World;
use super::{Exit, out};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// BPF objects; with --compare, two CSV files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// CSV as veristat writes it
    #[arg(long)]
    csv: bool,
    /// Columns, by veristat's names
    #[arg(short = 'e', long = "emit", value_name = "LIST", value_delimiter = ',')]
    emit: Vec<String>,
    /// Order, by veristat's names; with ! in front, descending
    #[arg(short = 's', long = "sort", value_name = "LIST", value_delimiter = ',')]
    sort: Vec<String>,
    /// FILE, FILE/PROG with * and ?, or a condition such as insns>=1000; with ! in front, not those
    #[arg(short = 'f', long = "filter", value_name = "FILTER", allow_hyphen_values = true)]
    filter: Vec<String>,
    /// Compare two CSV files
    #[arg(short = 'C', long)]
    compare: bool,
    /// Only the first N rows
    #[arg(short = 'n', long = "top-n", value_name = "N")]
    top: Option<usize>,
    /// Initial value of a read-only global: 'var = value', 'arr[2] = 7', 'cfg.mode = FAST'
    #[arg(short = 'G', long = "set-global-vars", value_name = "SETTING")]
    set: Vec<String>,
    #[command(flatten)]
    target: TargetArgs,
    /// Objects worked on at a time; by default as many as there are CPUs
    #[arg(long, value_name = "N")]
    jobs: Option<usize>,
}

pub(super) fn run(args: &Args) -> Exit {
    match work(args) {
        Ok(exit) | Err(exit) => exit,
    }
}

fn bad(what: &str, next: &str) -> Exit {
    out::error(what, next);
    Exit::BadInput
}

fn work(args: &Args) -> Result<Exit, Exit> {
    let filters: Result<Vec<Filter>, String> =
        args.filter.iter().map(|f| Filter::parse(f)).collect();
    let filters = filters.map_err(|e| bad(&e, "see the help of --filter"))?;
    let columns = stat::columns(&args.emit).map_err(|e| bad(&e, stat::KNOWN))?;
    if args.compare {
        return compare::run(&args.files, &columns, &filters, args.csv);
    }
    let target = args.target.open()?;
    let settings: Result<Vec<_>, String> = args.set.iter().map(|s| preset::parse(s)).collect();
    let settings = settings.map_err(|e| bad(&e, "write 'var = value'"))?;
    silence_panics();
    let (mut records, mut exit) = (Vec::new(), Exit::Ok);
    let jobs = args.jobs.unwrap_or_else(default_jobs);
    in_order(
        &args.files,
        jobs,
        |path| object(&target, path, (&settings, &filters), &columns),
        |found| match found {
            Ok(found) => records.extend(found),
            Err(e) => exit = e,
        },
    );
    records.retain(|r| filters.iter().all(|f| f.takes_stats(r)));
    stat::sort(&mut records, &args.sort).map_err(|e| bad(&e, stat::KNOWN))?;
    records.truncate(args.top.unwrap_or(usize::MAX));
    show(&records, &columns, args.csv);
    Ok(exit)
}

fn object(
    target: &Target,
    path: &Path,
    (settings, filters): (&[preset::Setting], &[Filter]),
    columns: &[Stat],
) -> Result<Vec<Record>, Exit> {
    let mut world = World::open_for(path, None, target)?;
    preset::apply(&mut world, path, settings)?;
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let opts = target.opts(0);
    let wanted = |name: &str| stat::takes_name(filters, &file, name);
    let defs = world.object.programs().iter().filter(|d| wanted(&d.name));
    // Compiling costs, so only when it is asked for.
    let compiled = columns.contains(&Stat::JitedSize);
    let record = |def: &ProgramDef| {
        let row = judge(&world, path, def, opts);
        let native = if compiled { native_bytes(&world, def) } else { None };
        Record::of(&file, &row, native)
    };
    Ok(defs.map(record).collect())
}

/// Bytes of native code of a program that the modelled kernel accepts; code for a kernel that is
/// known by its BTF alone is not made.
fn native_bytes(world: &World, def: &ProgramDef) -> Option<usize> {
    let program = world.link(def).ok()?;
    let code = || {
        let verified = world.verify(program, 0).result.ok()?;
        Some(jit::compile(&verified, world.arch).code.len())
    };
    // As for verdicts: one program that cannot be compiled is not the end of the table.
    catch_unwind(AssertUnwindSafe(code)).ok()?
}

fn show(records: &[Record], columns: &[Stat], csv: bool) {
    if csv {
        let head: Vec<&str> = columns.iter().map(|c| c.name()).collect();
        out::line(&head.join(","));
        for r in records {
            let cells: Vec<String> = columns.iter().map(|c| r.cell(*c)).collect();
            out::line(&cells.join(","));
        }
        return;
    }
    let head = columns.iter().map(|c| c.title().to_owned()).collect();
    let rule = columns.iter().map(|c| "-".repeat(c.title().len())).collect();
    let row = |r: &Record| columns.iter().map(|c| r.cell(*c)).collect();
    let rows: Vec<Vec<String>> = [head, rule].into_iter().chain(records.iter().map(row)).collect();
    out::print(&out::columns(&rows));
    out::line(&format!("\n{} programs", records.len()));
}
