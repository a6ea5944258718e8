//! How cost grows: of an instruction and of an event, with their number in one scenario, and with
//! the number of CPUs. Whole runs are measured, with trace, expectations and all: what a user waits
//! for.

use std::path::Path;

use bpf::Arch;

use super::{Clock, Row, best};
use crate::runner::cells::{self, Cell};
use crate::runner::{RunOptions, run};

/// Instructions of a run of the loop: `LOOP` rounds of three, and a few around them.
const LOOP: u64 = 1000;
/// Events of a frame that a program drops, about.
const FRAME_EVENTS: u64 = 5;

/// What one run cost.
struct Cost {
    seconds: f64,
    insns: u64,
    events: u64,
}

/// What is run; words in capitals are put in.
const SCENARIO: &str = r#"Scenario(
    orrery: 1,
    machine: (
        cpus: CPUS, memory: "256MiB", until: "UNTILus",
        nics: {"eth0": (queues: CPUS, irqs: [IRQS])},
    ),
    objects: {"main": (asm: "
        ; prog xdp spin
        r1 = ROUNDS
        r0 = 1
        loop: r0 ^= r1
        r1 += -1
        if r1 != 0 goto loop
        r0 = 1
        exit
    ")},
    attach: [Xdp(prog: "spin", nic: "eth0")],
    packets: {"any": [Eth(), Ip4(src: "10.0.0.2", dst: "10.0.0.1"), Udp(dport: 9)]},
    timeline: [SENDS],
    expect: [Count(of: Exit(prog: "spin"), is: FRAMES)],
)"#;
const SEND: &str =
    r#"At("0us", Send(packet: "any", on: "eth0", queue: QUEUE, times: TIMES, gap: "20us")), "#;

/// Frames through a driver that runs a loop for each, on as many queues as CPUs.
fn scenario(cpus: u64, frames: u64, rounds: u64) -> String {
    let each = frames.div_ceil(cpus);
    let irqs: String = (0..cpus).map(|c| format!("{c}, ")).collect();
    let send = |q: u64| SEND.replace("QUEUE", &q.to_string()).replace("TIMES", &each.to_string());
    let sends: String = (0..cpus).map(send).collect();
    let words = [
        ("CPUS", cpus.to_string()),
        ("UNTIL", (each * 20 + 1000).to_string()),
        ("IRQS", irqs),
        ("ROUNDS", rounds.to_string()),
        ("SENDS", sends),
        ("FRAMES", (each * cpus).to_string()),
    ];
    words.iter().fold(SCENARIO.to_owned(), |text, (word, with)| text.replace(word, with))
}

fn cost(cpus: u64, frames: u64, rounds: u64) -> Result<Cost, String> {
    let text = scenario(cpus, frames, rounds);
    let parsed = cells::read(Path::new("growth.ron"), &text, &Cell::default());
    let wrong = || parsed.findings.first().map_or(String::new(), |f| f.message.clone());
    let s = parsed.scenario.as_ref().ok_or_else(wrong)?;
    let clock = Clock::start();
    let outcome = run(s, Arch::X86_64, &RunOptions::default()).map_err(|e| e.to_string())?;
    let seconds = clock.seconds();
    match outcome.failures.first() {
        Some(f) => Err(f.message.clone()),
        None => Ok(Cost { seconds, insns: outcome.insns, events: outcome.events as u64 }),
    }
}

/// Nanoseconds for one of what `per` counts, with a start-up that is measured apart.
fn each(
    (cpus, frames, rounds): (u64, u64, u64),
    per: impl Fn(&Cost) -> u64,
) -> Result<(f64, u64), String> {
    let mut n = 0;
    let times = if frames < 10_000 { 5 } else { 1 };
    // With the same program, which has to be verified: one run of it on each CPU.
    let least = cost(cpus, cpus, rounds)?;
    let start = best(3, || Ok(cost(cpus, cpus, rounds)?.seconds))?;
    let seconds = best(times, || {
        let cost = cost(cpus, frames, rounds)?;
        n = per(&cost) - per(&least);
        Ok(cost.seconds)
    })?;
    Ok(((seconds - start).max(0.0) * 1e9 / n.max(1) as f64, n))
}

pub(super) fn measure(quick: bool, rows: &mut Vec<Row>) -> Result<(), String> {
    let largest = if quick { 1_000_000 } else { 10_000_000 };
    let row = |what: &str, on: String, ours, peer, peer_name| {
        let what = what.to_owned();
        Row { part: "growth", what, on, ours, unit: "ns", peer, peer_name }
    };
    for (what, rounds, per_frame) in
        [("an instruction", LOOP, LOOP * 3), ("an event", 1, FRAME_EVENTS)]
    {
        // Fewer instructions than a million are within what a run's start varies by.
        let (mut total, last, base) = match rounds {
            1 => (10_000, largest, "the same with 10,000"),
            _ => (1_000_000, largest * 10, "the same with 1,000,000"),
        };
        let mut first = None;
        while total <= last {
            let count = |c: &Cost| if rounds == 1 { c.events } else { c.insns };
            let (ns, n) = each((1, (total / per_frame).max(2), rounds), count)?;
            let peer = *first.get_or_insert(ns);
            rows.push(row(what, format!("{n}"), ns, Some(peer), base));
            total *= 10;
        }
    }
    let mut first = None;
    for cpus in [1, 4, 16, 64] {
        let frames = largest / LOOP / 3;
        let (ns, _) = each((cpus, frames.max(cpus), LOOP), |c| c.insns)?;
        let peer = *first.get_or_insert(ns);
        let on = format!("{cpus} CPUs");
        rows.push(row("an instruction", on, ns, Some(peer), "the same on 1 CPU"));
    }
    Ok(())
}
