//! `orrery bench`: what it costs, as ratios against what a user would use instead.
//!
//! ```text
//!  cold (replay as a process) ┐
//!  speed (three loops)        ├─► rows {what, where, ours, peer} ─► text, JSON or the README
//!  packets (growth, CPUs)     │
//!  search (runs, snapshots)   │
//!  debug (a long run)         │
//!  growth (by number, CPUs)   │
//!  size (against the JIT here)│
//!  compile (time, memory)     │
//!  verify (against the kernel)┘
//! ```
//!
//! **Peers.** The kernel this runs on, where it may be asked (`BPF_PROG_TEST_RUN`, native code of
//! its own JIT). The real kernel under QEMU as measured once ([`speed::QEMU`]): those are
//! references, marked as such. Nothing here fails when a figure is bad: it is a measurement.

mod cold;
mod compile;
mod debug;
mod growth;
mod packets;
mod search;
mod shapes;
mod size;
mod speed;
mod table;
mod verify;

use std::path::PathBuf;
use std::time::Instant;

use clap::ValueEnum as _;

use super::{Exit, out};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these parts
    #[arg(long, value_name = "PART", value_enum)]
    only: Vec<Part>,
    /// Shorter runs: figures are rougher
    #[arg(long)]
    quick: bool,
    /// One JSON object per row
    #[arg(long)]
    json: bool,
    /// Replace the table between `<!-- bench:begin -->` and `<!-- bench:end -->` of a file
    #[arg(long, value_name = "FILE")]
    readme: Option<PathBuf>,
    /// Folder with objects for the comparison of native code, besides the scenarios' own
    #[arg(long, value_name = "DIR")]
    objects: Option<PathBuf>,
    /// Of the comparison of native code, also what it is made of, on standard error
    #[arg(long)]
    details: bool,
}

/// Parts of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// A scenario, from process start to exit
    Cold,
    /// Instructions a second
    Speed,
    /// Packets a second
    Packets,
    /// Interleavings a second, snapshots
    Search,
    /// Under a debugger, forwards and backwards
    Debug,
    /// Cost of an instruction and of an event, by their number and by CPUs
    Growth,
    /// Native code against the kernel's JIT
    Size,
    /// Compile time against the kernel's JIT, memory of a CPU
    Compile,
    /// The verifier against the kernel's
    Verifier,
}

/// One measurement.
#[derive(Clone, Debug, serde::Serialize)]
struct Row {
    /// Part.
    part: &'static str,
    /// What was measured.
    what: String,
    /// Architecture, or how many.
    on: String,
    /// Our figure.
    ours: f64,
    /// Its unit; `/s` means that more is better.
    unit: &'static str,
    /// The figure to compare with.
    peer: Option<f64>,
    /// Whose it is.
    peer_name: &'static str,
}

impl Row {
    /// How many times better than the peer: above 1 is better.
    fn ratio(&self) -> Option<f64> {
        let peer = self.peer?;
        let more_is_better = self.unit.ends_with("/s");
        Some(if more_is_better { self.ours / peer } else { peer / self.ours })
    }
}

pub(super) fn run(args: &Args) -> Exit {
    let mut rows = Vec::new();
    let wanted = |p: Part| args.only.is_empty() || args.only.contains(&p);
    if cfg!(debug_assertions) {
        eprintln!("note: not a release build; the figures are lower than they could be");
    }
    let mut exit = Exit::Ok;
    for part in Part::value_variants().iter().filter(|p| wanted(**p)) {
        let done = match part {
            Part::Cold => cold::measure(args.quick, &mut rows),
            Part::Speed => speed::measure(args.quick, &mut rows),
            Part::Packets => packets::measure(args.quick, &mut rows),
            Part::Debug => debug::measure(args.quick, &mut rows),
            Part::Search => search::measure(args.quick, &mut rows),
            Part::Growth => growth::measure(args.quick, &mut rows),
            Part::Size => size::measure(args.objects.as_deref(), args.details, &mut rows),
            Part::Compile => compile::measure(args.quick, args.objects.as_deref(), &mut rows),
            Part::Verifier => verify::measure(args.quick, &mut rows),
        };
        if let Err(e) = done {
            out::error(&format!("bench: {e}"), "");
            exit = Exit::Internal;
        }
    }
    if args.json {
        for row in &rows {
            out::line(&serde_json::to_string(row).unwrap_or_default());
        }
    } else {
        out::print(&table::text(&rows));
    }
    if let Some(path) = &args.readme
        && let Err(e) = table::into_readme(path, &rows)
    {
        out::error(&format!("{}: {e}", path.display()), "");
        return Exit::BadInput;
    }
    exit
}

/// What a thread has used of a CPU: on a machine that others use too, wall time measures them.
struct Clock {
    wall: Instant,
    cpu_ns: Option<u64>,
}

impl Clock {
    fn start() -> Clock {
        Clock { cpu_ns: cpu_ns(), wall: Instant::now() }
    }

    /// Seconds since the start.
    fn seconds(&self) -> f64 {
        match (self.cpu_ns, cpu_ns()) {
            (Some(from), Some(to)) => (to - from) as f64 / 1e9,
            _ => self.wall.elapsed().as_secs_f64(),
        }
    }
}

/// CPU time of this thread, where the system tells.
fn cpu_ns() -> Option<u64> {
    // The scheduler brings the figure up to date when it is entered.
    std::thread::yield_now();
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

/// The smallest of several measurements: the others have someone else's work in them.
fn best(times: usize, mut f: impl FnMut() -> Result<f64, String>) -> Result<f64, String> {
    let mut least = f64::INFINITY;
    for _ in 0..times.max(1) {
        least = least.min(f()?);
    }
    Ok(least)
}
