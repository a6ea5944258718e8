//! `orrery cancel FILE...`: cancels the programs of scenarios wherever they can be stopped, and
//! says how long they went on and whether they ended clean.

use std::fs;
use std::path::{Path, PathBuf};

use bpf::Arch;

use super::replay::report::error_word;
use super::{Exit, gravest, out};
use crate::machine::sweep::Report;
use crate::runner::cells::{self, Cell};
use crate::runner::{RunError, RunOptions, run as play};

/// Cells of a matrix that are tried, evenly spread.
const CELLS: usize = 5;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Scenario files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Try every so many points
    #[arg(long, value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// Architecture; all that the scenario names when left out
    #[arg(long, value_parser = super::arch)]
    arch: Option<Arch>,
}

pub(super) fn run(args: &Args) -> Exit {
    gravest(args.files.iter().map(|f| file(f, args)))
}

fn file(path: &Path, args: &Args) -> Exit {
    let name = path.display();
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) => {
            out::error(&format!("{name}: {e}"), "give the path of a scenario");
            return Exit::BadInput;
        }
    };
    let Some(scenario) = cells::read(path, &text, &Cell::default()).scenario else {
        out::error(&format!("{name} is no valid scenario"), "orrery scenario check says why");
        return Exit::BadInput;
    };
    let (all, archs) = (cells::cells(&scenario, 1), cells::archs(&scenario));
    let step = all.len().div_ceil(CELLS).max(1);
    let mut exits = Vec::new();
    for cell in all.into_iter().step_by(step) {
        let archs = cells::archs_of(&scenario, &cell, &archs);
        for arch in archs.into_iter().filter(|a| args.arch.is_none_or(|b| *a == b)) {
            let said = format!("{name}{} on {arch}", cell.name);
            exits.push(match try_all(path, &text, &cell, arch, args.every) {
                Ok(report) => told(&said, &report),
                Err(e) => failed(&said, &e),
            });
        }
    }
    gravest(exits)
}

fn try_all(
    path: &Path,
    text: &str,
    cell: &Cell,
    arch: Arch,
    every: u64,
) -> Result<Report, RunError> {
    let scenario = cells::read(path, text, cell).scenario.expect("its other cells are valid");
    let options = RunOptions { cancel_every: Some(every), ..cells::options(path, cell) };
    play(&scenario, arch, &options).map(|o| o.sweep.unwrap_or_default())
}

fn told(said: &str, r: &Report) -> Exit {
    let clean = if r.dirty.is_empty() { "all clean" } else { "NOT CLEAN" };
    let worst = r.worst.as_ref().map_or(String::new(), |(n, bound, prog, at)| {
        format!(", at most {n} further instructions of {bound} ({prog}, cancelled at {at})")
    });
    let (tried, unwound) = (r.tried, r.unwound);
    out::line(&format!("{said}: cancelled at {tried} points, {clean}, {unwound} unwound{worst}"));
    r.dirty.iter().for_each(|d| out::line(&format!("  {d}")));
    if r.dirty.is_empty() { Exit::Ok } else { Exit::NotMet }
}

fn failed(said: &str, e: &RunError) -> Exit {
    out::error(&format!("{said}: {e}"), "orrery replay says where");
    error_word(e).1
}
