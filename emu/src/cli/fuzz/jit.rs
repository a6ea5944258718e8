//! `orrery fuzz jit`: random programs, each with several memories, on the interpreters of both
//! byte orders and four back ends; with `--host` in the kernel of this machine as well.
//!
//! ```text
//!  seed ─► program, memories ─► verify ─► compile ─► run on all ─► apart ─► shrink ─► jit-N.data
//! ```
//!
//! What is saved is a vector that `orrery conform` runs. Seeds are taken in order, so a run is
//! told by its first and last, and `--state` goes on behind the last one.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bpf::insn::generate::{BUFFER, Options, Rng, program};
use bpf::{Arch, Endian};
use serde::{Deserialize, Serialize};

use super::super::explore::Budget;
use super::super::judge::{default_jobs, silence_panics};
use super::super::replay::wanted_archs;
use super::super::{Exit, out};
use super::pace::{Counted, Pace};
use crate::conform::differ::{Came, differ};
use crate::conform::engines::{Host, Ran, Rig};
use crate::conform::judge::{cells, difference};
use crate::conform::vector::{Memory, Vector};
use crate::conform::{Engine, data, diverge};
use crate::ordered;

/// Programs that threads take before they are counted.
const CHUNK: u64 = 4096;
/// Memories of a program.
const MEMORIES: usize = 8;
/// Instructions one run may retire.
const RUN_MAX: u64 = 1 << 20;
/// Differences that are shown.
const SHOWN: usize = 20;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// First seed
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Stop after so much time: 90s, 10m, 2h; without any end, a minute
    #[arg(long, value_name = "T", value_parser = seconds)]
    time: Option<Duration>,
    /// Stop when every engine has retired so many instructions
    #[arg(long, value_name = "N")]
    insns: Option<u64>,
    /// Stop after so many programs
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Architectures: a list with commas, or all
    #[arg(long, value_name = "LIST")]
    arch: Option<String>,
    /// Run programs in the kernel of this machine, too
    #[arg(long)]
    host: bool,
    /// Threads; as many as there are CPUs when left out
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Keep what was counted in this file, and go on from there
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Write what differs into this folder, as vectors
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
}

pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    Ok(match Budget::parse(text)? {
        Budget::Runs(n) | Budget::Seconds(n) => Duration::from_secs(n),
    })
}

/// What was counted, over all runs with the same file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Counters {
    first_seed: u64,
    next_seed: u64,
    programs: u64,
    /// Of these, not accepted by the verifier: how many, in what words.
    refused: u64,
    reasons: BTreeMap<String, u64>,
    /// Of the programs that ran.
    instructions: u64,
    /// By each engine.
    retired: u64,
    /// Compared with the kernel of this machine.
    host: u64,
    differ: u64,
    seconds: f64,
}

/// One seed's outcome.
struct Tried {
    seed: u64,
    came: Came,
    insns: u64,
    host: bool,
    /// Of a difference: in words, and the vector to be saved.
    report: Option<(String, String)>,
}

/// What a thread has of its own.
struct Worker {
    rig: Rig,
    host: Option<Host>,
}

/// The program of a seed, and its memories.
fn sample(seed: u64) -> (Vector, Vec<Memory>) {
    let mut rng = Rng(seed ^ 0x006a_6974);
    let opts = Options {
        // Each way through it is verified: what is longer takes the verifier seconds.
        len: 20 + rng.below(60),
        subprogs: rng.below(3),
        raw_div: true,
        loops: rng.one_in(4),
        memory: true,
        verified: true,
        ..Options::default()
    };
    let insns = program(seed, opts);
    let lines = vec![0; insns.len()];
    let memory = |_| {
        let words = (0..BUFFER / 8).map(|_| rng.imm64());
        Memory::bytes(words.flat_map(u64::to_le_bytes).collect())
    };
    let memories = (0..MEMORIES).map(memory).collect();
    (Vector::new(insns, lines), memories)
}

impl Worker {
    fn try_seed(&mut self, seed: u64, archs: &[Arch]) -> Tried {
        let (v, memories) = sample(seed);
        let insns = v.insns.len() as u64;
        let run = AssertUnwindSafe(|| self.differ(&v, &memories, archs));
        let (came, host) = catch_unwind(run).unwrap_or_else(|_| {
            self.rig = Rig::new(RUN_MAX);
            (Came::Apart(0, "internal error".into()), false)
        });
        let report = match &came {
            Came::Apart(n, what) => {
                let v = Vector { mem: memories.get(*n).cloned(), ..v };
                Some(self.report(seed, &v, what))
            }
            Came::Agree { .. } | Came::Refused(_) => None,
        };
        Tried { seed, came, insns, host, report }
    }

    fn differ(&mut self, v: &Vector, memories: &[Memory], archs: &[Arch]) -> (Came, bool) {
        let came = differ(&mut self.rig, v, memories, archs);
        let (Came::Agree { little, .. }, Some(host)) = (&came, &mut self.host) else {
            return (came, false);
        };
        match host.run(v, memories) {
            // It is counted with what is refused, and the state file has the words.
            Err(why) => (Came::Refused(format!("this kernel: {why}")), false),
            Ok(theirs) => {
                let (mut pairs, ok) = (theirs.into_iter().zip(little), |r: &Ran| Ok(r.clone()));
                let differs = |(theirs, ours): (Ran, &Ran)| difference(&Ok(theirs), &ok(ours));
                let found =
                    pairs.by_ref().map(differs).enumerate().find_map(|(n, d)| Some((n, d?)));
                match found {
                    Some((n, what)) => (Came::Apart(n, format!("this kernel: {what}")), true),
                    None => (came, true),
                }
            }
        }
    }

    /// A difference in words, shrunk, and as a vector.
    fn report(&mut self, seed: u64, v: &Vector, what: &str) -> (String, String) {
        let explained = catch_unwind(AssertUnwindSafe(|| {
            let found = cells(&mut self.rig, v, &Engine::ALL);
            let r0 = found.iter().find_map(|c| c.result.as_ref().ok().map(|r| r.r0));
            (r0.unwrap_or(0), diverge::explain(&mut self.rig, v, &found))
        }));
        let (r0, text) = match explained {
            Ok((r0, Some((engine, text)))) => (r0, format!("{engine}: {text}")),
            Ok((r0, None)) => (r0, String::new()),
            Err(_) => {
                self.rig = Rig::new(RUN_MAX);
                (0, String::new())
            }
        };
        let said = format!("seed {seed}: {what}\n{text}");
        let comment: String = said.lines().map(|l| format!("# {l}\n")).collect();
        (said, comment + &data::words(v, Endian::Little, r0))
    }
}

pub(super) fn run(args: &Args) -> Exit {
    let archs = match wanted_archs(args.arch.as_deref()) {
        Ok(archs) => archs.unwrap_or_else(|| Arch::ALL.to_vec()),
        Err(e) => {
            out::error(&e, "for example --arch x86_64,s390x");
            return Exit::BadInput;
        }
    };
    if args.host
        && let Err(e) = Host::open()
    {
        out::error(&format!("the kernel of this machine: {e}"), "leave out --host");
        return Exit::BadInput;
    }
    silence_panics();
    let mut campaign = Campaign::open(args);
    while !campaign.over(args) {
        let from = campaign.counters.next_seed;
        let left = args.count.map_or(CHUNK, |n| n.saturating_sub(campaign.tried).min(CHUNK));
        let seeds: Vec<u64> = (from..from + left).collect();
        let worker = || Worker {
            rig: Rig::new(RUN_MAX),
            host: args.host.then(Host::open).and_then(Result::ok),
        };
        let jobs = args.jobs.unwrap_or_else(default_jobs);
        let work = |w: &mut Worker, seed: &u64| w.try_seed(*seed, &archs);
        ordered::in_order(&seeds, jobs, worker, work, |_, tried| {
            campaign.count(&tried, args.save.as_deref());
            !campaign.over(args)
        });
    }
    campaign.end()
}

impl Counted for Counters {
    fn seconds(&mut self) -> &mut f64 {
        &mut self.seconds
    }
}

/// A run of the fuzzer.
struct Campaign {
    counters: Counters,
    pace: Pace,
    /// Programs of this run.
    tried: u64,
    engines: usize,
}

impl Campaign {
    fn open(args: &Args) -> Campaign {
        let (first_seed, next_seed) = (args.seed, args.seed);
        let fresh = Counters { first_seed, next_seed, ..Counters::default() };
        let (pace, counters) = Pace::resume(args.state.as_deref(), fresh);
        let archs = wanted_archs(args.arch.as_deref()).ok().flatten();
        let archs = archs.unwrap_or_else(|| Arch::ALL.to_vec());
        let orders = [Endian::Little, Endian::Big].map(|o| archs.iter().any(|a| a.endian() == o));
        let engines = archs.len() + orders.iter().filter(|o| **o).count();
        Campaign { counters, pace, tried: 0, engines }
    }

    fn over(&self, args: &Args) -> bool {
        let endless = args.insns.is_none() && args.count.is_none();
        let time = args.time.or(endless.then_some(Duration::from_secs(60)));
        time.is_some_and(|t| self.pace.ran() >= t)
            || args.insns.is_some_and(|n| self.counters.retired >= n)
            || args.count.is_some_and(|n| self.tried >= n)
    }

    fn count(&mut self, t: &Tried, save: Option<&Path>) {
        self.tried += 1;
        let c = &mut self.counters;
        c.programs += 1;
        c.next_seed = t.seed + 1;
        c.host += u64::from(t.host);
        match &t.came {
            Came::Refused(why) => {
                c.refused += 1;
                let words = why.chars().filter(|c| !c.is_ascii_digit()).collect();
                *c.reasons.entry(words).or_default() += 1;
            }
            Came::Agree { retired, .. } => {
                c.instructions += t.insns;
                c.retired += retired;
            }
            Came::Apart(..) => c.differ += 1,
        }
        if let Some((said, vector)) = &t.report {
            if c.differ <= SHOWN as u64 {
                out::line(said);
            }
            if let Some(dir) = save {
                keep(dir, t.seed, vector);
            }
        }
        if self.pace.is_due(&mut self.counters) {
            eprintln!("{}", self.text());
        }
    }

    fn text(&self) -> String {
        let c = &self.counters;
        let rate = c.retired as f64 / c.seconds.max(0.001);
        let host = if c.host > 0 { format!(", {} also in this kernel", c.host) } else { "".into() };
        format!(
            "seeds {} to {}: {} programs of {} instructions ({} refused){host}; {} instructions \
             retired by each of {} engines in {:.0} s ({rate:.0}/s); {} differ",
            c.first_seed,
            c.next_seed.saturating_sub(1),
            c.programs - c.refused,
            c.instructions,
            c.refused,
            c.retired,
            self.engines,
            c.seconds,
            c.differ
        )
    }

    fn end(&mut self) -> Exit {
        self.pace.keep(&mut self.counters);
        out::line(&self.text());
        if self.counters.differ > 0 { Exit::NotMet } else { Exit::Ok }
    }
}

fn keep(dir: &Path, seed: u64, vector: &str) {
    let file = dir.join(format!("jit-{seed}.data"));
    let done = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(&file, vector));
    if let Err(e) = done {
        out::error(&format!("{}: {e}", file.display()), "");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_programs_run_and_agree() {
        let mut worker = Worker { rig: Rig::new(RUN_MAX), host: None };
        let mut agree = 0;
        for seed in 1..=12 {
            match worker.try_seed(seed, &Arch::ALL).came {
                Came::Agree { retired, .. } => agree += u64::from(retired > 100),
                Came::Refused(_) => {}
                Came::Apart(n, what) => panic!("seed {seed}, memory {n}: {what}"),
            }
        }
        assert!(agree > 9, "{agree} of 12");
    }

    #[test]
    fn what_is_saved_is_a_vector() {
        let (mut v, memories) = sample(3);
        v.mem = memories.first().cloned();
        let text = data::words(&v, Endian::Little, 7);
        let Ok(data::Parsed::Vector(back)) = data::parse(&text) else { panic!("{text}") };
        assert_eq!((back.insns, back.mem), (v.insns, v.mem));
    }
}
