//! What a search costs: interleavings a second, a snapshot, keeping snapshots all the time.

use std::fs;
use std::hint::black_box;

use bpf::Arch;
use scenarios::Scenario;

use super::cold::in_tree;
use super::{Clock, Row, best};
use crate::machine::{Config, Machine};
use crate::runner::cells::{self, Cell};
use crate::runner::history::History;
use crate::runner::{RunError, RunOptions, run};
use crate::search::{How, Searcher};
use kernel_model::layout::{DIRECT_MAP, PAGE_SIZE};

/// Two tasks on two CPUs, of which no order is wrong.
const TWO_CPUS: &str = "scenarios/library/explore/lost_update_fixed.ron";
/// Flows through a load balancer, with everything a scenario has.
const LONG: &str = "scenarios/library/lb/l4_lb.ron";
/// Pages written between two snapshots.
const DIRTY: u64 = 256;

fn row(what: &str, on: Arch, ours: f64, unit: &'static str) -> Row {
    let on = on.name().to_owned();
    Row { part: "search", what: what.to_owned(), on, ours, unit, peer: None, peer_name: "" }
}

/// A scenario of the tree, changed.
fn scenario<T>(
    path: &str,
    change: impl Fn(String) -> String,
    f: impl FnOnce(&Scenario, &str, &RunOptions) -> Result<T, String>,
) -> Result<T, String> {
    let path = in_tree(path).ok_or(format!("no {path} here"))?;
    let text = change(fs::read_to_string(&path).map_err(|e| e.to_string())?);
    let parsed = cells::read(&path, &text, &Cell::default());
    let s = parsed.scenario.ok_or("the scenario of the bench does not parse")?;
    let opts = RunOptions { dir: cells::folder(&path), ..RunOptions::default() };
    f(&s, &text, &opts)
}

pub(super) fn measure(quick: bool, rows: &mut Vec<Row>) -> Result<(), String> {
    let arch = Arch::X86_64;
    let runs = if quick { 2_000 } else { 20_000 };
    let (rate, distinct) = interleavings(arch, runs)?;
    rows.push(row("runs of a search over two CPUs", arch, rate, "run/s"));
    rows.push(row("distinct interleavings among them", arch, distinct, "run/s"));
    let times = if quick { 5 } else { 40 };
    rows.push(row("snapshot of 64 MiB, 256 pages written", arch, snapshot(arch, times)?, "ns"));
    let times = if quick { 5 } else { 40 };
    let (kept, without) = recording(arch, times)?;
    let mut row = row("the load balancer's scenario with its past kept", arch, kept, "ms");
    (row.peer, row.peer_name) = (Some(without), "without");
    rows.push(row);
    Ok(())
}

/// Runs, and distinct interleavings, a second.
fn interleavings(arch: Arch, runs: u64) -> Result<(f64, f64), String> {
    // Longer tasks: there are more orders than runs.
    let longer = |text: String| {
        let one = "TestRun(prog: \"count_fixed\", ret: 0)";
        text.replace(one, &[one; 4].join(", ")).replace("(count: 3)", "(count: 12)")
    };
    scenario(TWO_CPUS, longer, |s, text, opts| {
        let search = Searcher::new((s, text), &[arch], opts, How::Random, false);
        let mut search = search.map_err(|e| e.to_string())?;
        let mut known = std::collections::BTreeSet::new();
        let clock = Clock::start();
        for n in 0..runs {
            let (interleaving, found) = search.found(n).map_err(|e| e.to_string())?;
            if let Some(found) = found {
                return Err(format!("{TWO_CPUS}: {:?}", found.signature));
            }
            known.insert(interleaving);
        }
        let seconds = clock.seconds();
        Ok((runs as f64 / seconds, known.len() as f64 / seconds))
    })
}

/// Nanoseconds of one.
fn snapshot(arch: Arch, times: usize) -> Result<f64, String> {
    let mut m = Machine::new(arch, Config::default()).map_err(|e| e.to_string())?;
    let mut last = m.snapshot();
    let mut nth = 0u64;
    best(times, || {
        nth += 1;
        for page in 0..DIRTY {
            // Spread: a page in each of many chunks.
            let at = DIRECT_MAP + (32 << 20) + page * 17 * PAGE_SIZE;
            m.kernel.mem.write_u64(at, nth).map_err(|e| e.to_string())?;
        }
        let clock = std::time::Instant::now();
        let next = m.snapshot();
        let ns = clock.elapsed().as_nanos() as f64;
        last = black_box(next);
        Ok(ns)
    })
}

fn milliseconds(f: impl FnOnce() -> Result<(), RunError>) -> Result<f64, String> {
    let clock = Clock::start();
    f().map_err(|e| e.to_string())?;
    Ok(clock.seconds() * 1e3)
}

/// Milliseconds of a run with its past kept, and without.
fn recording(arch: Arch, times: usize) -> Result<(f64, f64), String> {
    scenario(
        LONG,
        |text| text,
        |s, _, opts| {
            // By turns, as the machine's speed changes meanwhile.
            let (mut kept, mut without) = (f64::INFINITY, f64::INFINITY);
            for _ in 0..times {
                kept = kept.min(milliseconds(|| {
                    History::new(s, arch, opts, 64)?.seek(u64::MAX).map(drop)
                })?);
                without = without.min(milliseconds(|| run(s, arch, opts).map(drop))?);
            }
            Ok((kept, without))
        },
    )
}
