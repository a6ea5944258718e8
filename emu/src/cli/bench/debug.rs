//! What a debugger costs on a run of a hundred million native instructions.

use std::path::Path;

use bpf::Arch;
use gdb::{Debuggee, Direction, Resume, Stop, WatchKind};
use kernel_model::layout::stack_top;
use scenarios::Scenario;

use super::{Clock, Row, best};
use crate::debug::Target;
use crate::runner::cells::{self, Cell};
use crate::runner::{RunOptions, run};

/// Ten thousand BPF instructions a packet, half of them on memory.
const SCENARIO: &str = r##"Scenario(
    orrery: 1,
    about: "a long run",
    machine: (nics: {"eth0": ()}),
    objects: {"long": (asm: r#"
        ; prog xdp long
        r2 = 0
        r3 = 0
        again: r3 += r2
        *(u64 *)(r10 - 8) = r3
        r4 = *(u64 *)(r10 - 8)
        r3 ^= r4
        r2 += 1
        if r2 < 1500 goto again
        r0 = 2
        exit
    "#)},
    attach: [Xdp(prog: "long", nic: "eth0")],
    packets: {"p": [Eth(), Zeros("46B")]},
    timeline: [At("0us", Send(packet: "p", on: "eth0", times: TIMES, gap: "20us"))],
    expect: [Verdicts(prog: "long", are: (PASS: TIMES))],
)
"##;

fn row(what: &str, on: Arch, ours: f64, unit: &'static str) -> Row {
    let on = on.name().to_owned();
    Row { part: "debug", what: what.to_owned(), on, ours, unit, peer: None, peer_name: "" }
}

fn going(direction: Direction, step: Option<u32>) -> Resume {
    Resume { direction, step: step.map(|cpu| (cpu, None)), only: None }
}

fn go(t: &mut Target<'_>, direction: Direction, step: Option<u32>) -> Result<Stop, String> {
    t.resume(&going(direction, step), &mut || false).map_err(|e| e.to_string())
}

/// So many packets.
fn scenario(times: u32) -> Result<Scenario, String> {
    let text = SCENARIO.replace("TIMES", &times.to_string());
    let parsed = cells::read(Path::new("long.ron"), &text, &Cell::default());
    parsed.scenario.ok_or("the scenario of the bench does not parse".to_owned())
}

/// Milliseconds and native instructions of a run without a debugger.
fn alone(s: &Scenario, arch: Arch) -> Result<(f64, u64), String> {
    let mut natives = 0;
    let ms = best(3, || {
        let clock = Clock::start();
        let outcome = run(s, arch, &RunOptions::default()).map_err(|e| e.to_string())?;
        natives = outcome.native_insns;
        Ok(clock.seconds() * 1e3)
    })?;
    Ok((ms, natives))
}

fn begin(s: &Scenario, arch: Arch) -> Result<Target<'_>, String> {
    Target::new(s, arch, &RunOptions::default()).map_err(|e| e.to_string())
}

/// Milliseconds of a run under a debugger.
fn under(s: &Scenario, arch: Arch) -> Result<f64, String> {
    best(3, || {
        let clock = Clock::start();
        go(&mut begin(s, arch)?, Direction::Forward, None)?;
        Ok(clock.seconds() * 1e3)
    })
}

pub(super) fn measure(quick: bool, rows: &mut Vec<Row>) -> Result<(), String> {
    let times = if quick { 1000 } else { 11000 };
    // The way to the first instruction is taken off: of gdb's it is what is done once.
    let (s, least) = (scenario(times)?, scenario(times / 20)?);
    for arch in Arch::ALL {
        let ((all, natives), (start, few)) = (alone(&s, arch)?, alone(&least, arch)?);
        let cost = under(&s, arch)? - under(&least, arch)?;
        let millions = (natives - few) / 1_000_000;
        let mut forward =
            row(&format!("{millions} million instructions under it"), arch, cost, "ms");
        (forward.peer, forward.peer_name) = (Some(all - start), "without");
        rows.push(forward);
        let mut t = begin(&s, arch)?;
        let start = t.position().at;
        go(&mut t, Direction::Forward, None)?;
        let end = t.position().at;
        let clock = Clock::start();
        go(&mut t, Direction::Backward, None)?;
        let what = format!("reverse-continue across {} million", natives / 1_000_000);
        rows.push(row(&what, arch, clock.seconds() * 1e3, "ms"));
        steps(&mut t, arch, start..end, rows)?;
        watch(&mut t, arch, end, rows)?;
    }
    Ok(())
}

/// Single steps in both directions, at places all over the run; the slowest of each.
fn steps(
    t: &mut Target<'_>,
    arch: Arch,
    range: std::ops::Range<u64>,
    rows: &mut Vec<Row>,
) -> Result<(), String> {
    let (mut back, mut on) = (0f64, 0f64);
    for n in 1..20 {
        t.seek(range.start + (range.end - range.start) * n / 20).map_err(|e| e.to_string())?;
        let cpu = t.current();
        let clock = Clock::start();
        go(t, Direction::Backward, Some(cpu))?;
        back = back.max(clock.seconds() * 1e3);
        let clock = Clock::start();
        go(t, Direction::Forward, Some(cpu))?;
        on = on.max(clock.seconds() * 1e3);
    }
    rows.push(row("reverse-stepi anywhere in it, the slowest", arch, back, "ms"));
    rows.push(row("stepi anywhere in it, the slowest", arch, on, "ms"));
    Ok(())
}

/// Back over the whole run to a write that is never made, with the page of the stack watched.
fn watch(t: &mut Target<'_>, arch: Arch, end: u64, rows: &mut Vec<Row>) -> Result<(), String> {
    let at = (stack_top(t.current()) - 1024, 8, WatchKind::Write);
    t.add_watchpoint(at.0, at.1, at.2);
    t.seek(end).map_err(|e| e.to_string())?;
    let clock = Clock::start();
    go(t, Direction::Backward, None)?;
    rows.push(row("the same with a watchpoint", arch, clock.seconds() * 1e3, "ms"));
    t.remove_watchpoint(at.0, at.1, at.2);
    Ok(())
}
