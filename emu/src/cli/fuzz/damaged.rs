//! `orrery fuzz objects`, `scenarios` and `gdb`: good input, damaged, as [`crate::hostile`] says.
//!
//! What is found is written as a file that `--replay` tries again, and `--corpus` begins with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::judge::default_jobs;
use super::super::{Exit, out};
use super::jit::seconds;
use super::pace::{Counted, Pace};
use crate::hostile::objects::Objects;
use crate::hostile::own::{self, Own};
use crate::hostile::scenarios::Scenarios;
use crate::hostile::sessions::Sessions;
use crate::hostile::{Input, Limits, Subject, Tried, each, shape, try_one};

/// How long it goes on when nothing else is said.
const TIME: Duration = Duration::from_secs(60);

/// What is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Objects,
    Scenarios,
    Gdb,
}

/// Arguments.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// First seed
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Stop after so much time: 90s, 10m, 2h; without any end, a minute
    #[arg(long, value_name = "T", value_parser = seconds)]
    time: Option<Duration>,
    /// Stop after so many cases
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Begin with these files, or those of these folders, instead of with those of the program
    #[arg(long, value_name = "PATH")]
    corpus: Vec<PathBuf>,
    /// Threads; as many as there are CPUs when left out
    #[arg(long, value_name = "J")]
    jobs: Option<usize>,
    /// Keep what was counted in this file, and go on from there
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Write what is found into this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Write what was answered as nothing before into this folder: a corpus for later
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Try a file that was written once more, and say what comes of it
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

/// What was counted, over all runs with the same file.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Counters {
    first_seed: u64,
    /// All seeds before it are done.
    next_seed: u64,
    cases: u64,
    /// Ended because they took long.
    long: u64,
    /// Kinds of findings, and how often each was found.
    found: BTreeMap<String, u64>,
    /// Different answers: how far the cases get.
    answers: BTreeSet<String>,
    seconds: f64,
}

impl What {
    /// Endings of its files.
    fn endings(self) -> &'static [&'static str] {
        match self {
            What::Objects => &[".o", ".btf"],
            What::Scenarios => &[".ron", ".pcap", ".pcapng"],
            What::Gdb => &[".ron", ".gdb.txt"],
        }
    }

    /// With its good inputs; `own` are those when no others are named.
    fn subject(self, own: &Own, corpus: &[PathBuf]) -> Result<Arc<dyn Subject>, String> {
        let named = !corpus.is_empty();
        let good = own::files(corpus, self.endings())?;
        Ok(match self {
            What::Objects => Arc::new(Objects::new(if named { good } else { own.objects() })),
            What::Scenarios => Arc::new(Scenarios::new(if named { good } else { own.scenarios() })),
            What::Gdb => {
                let (plays, written): (Vec<Input>, Vec<Input>) =
                    good.into_iter().partition(|i| i.name.ends_with(".ron"));
                let plays = if plays.is_empty() { own.scenarios() } else { plays };
                let mut sessions = Sessions::new(&plays);
                sessions.add(written);
                Arc::new(sessions)
            }
        })
    }
}

pub(super) fn run(what: What, args: &Args) -> Exit {
    let bad = |what: String, next: &str| {
        out::error(&what, next);
        Exit::BadInput
    };
    let own = match Own::new() {
        Ok(own) => own,
        Err(e) => return bad(format!("a folder for files: {e}"), "set TMPDIR"),
    };
    let subject = match what.subject(&own, &args.corpus) {
        Ok(subject) if subject.good().is_empty() => {
            let ends = what.endings().join(", ");
            return bad("there is nothing to damage".to_owned(), &format!("files end with {ends}"));
        }
        Ok(subject) => subject,
        Err(e) => return bad(e, "--corpus takes files and folders"),
    };
    if let Some(path) = &args.replay {
        return match Input::read(path) {
            Ok(input) => replay(&*subject, &input),
            Err(e) => bad(format!("{}: {e}", path.display()), "a file that was written"),
        };
    }
    let mut campaign = Campaign::open(args);
    let from = campaign.counters.next_seed;
    let end = args.count.map_or(u64::MAX, |n| from.saturating_add(n));
    let limits = Limits { jobs: args.jobs.unwrap_or_else(default_jobs), ..Limits::default() };
    each(&subject, from..end, limits, &mut |tried| {
        campaign.count(&*subject, &tried, args);
        !campaign.over(args)
    });
    campaign.end()
}

fn replay(subject: &dyn Subject, input: &Input) -> Exit {
    match try_one(subject, input, &Arc::new(AtomicBool::new(false))) {
        Ok(answers) => {
            answers.iter().for_each(|a| out::line(a));
            Exit::Ok
        }
        Err(words) => {
            out::line(&words);
            Exit::NotMet
        }
    }
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
    /// Done out of turn.
    ahead: BTreeSet<u64>,
}

impl Campaign {
    fn open(args: &Args) -> Campaign {
        let (first_seed, next_seed) = (args.seed, args.seed);
        let fresh = Counters { first_seed, next_seed, ..Counters::default() };
        let (pace, counters) = Pace::resume(args.state.as_deref(), fresh);
        Campaign { counters, pace, ahead: BTreeSet::new() }
    }

    fn over(&self, args: &Args) -> bool {
        let time = args.time.or(args.count.is_none().then_some(TIME));
        time.is_some_and(|t| self.pace.ran() >= t)
    }

    fn count(&mut self, subject: &dyn Subject, tried: &Tried, args: &Args) {
        let c = &mut self.counters;
        c.cases += 1;
        self.ahead.insert(tried.seed);
        while self.ahead.remove(&c.next_seed) {
            c.next_seed += 1;
        }
        match &tried.came {
            Ok(answers) => {
                c.long += u64::from(answers.iter().any(|a| a == "long"));
                let before = c.answers.len();
                c.answers.extend(answers.iter().cloned());
                if let Some(dir) = args.keep.as_deref().filter(|_| c.answers.len() > before) {
                    write(subject, dir, tried.seed, &tried.input);
                }
            }
            Err(finding) => {
                let times = c.found.entry(shape(&finding.words)).or_default();
                *times += 1;
                if *times == 1 {
                    let (seed, from) = (tried.seed, &tried.input.name);
                    out::line(&format!("seed {seed}, of {from}: {}", finding.words));
                    if let Some(dir) = &args.save {
                        write(subject, dir, seed, &finding.input);
                    }
                }
            }
        }
        if self.pace.is_due(&mut self.counters) {
            eprintln!("{}", self.text());
        }
    }

    fn text(&self) -> String {
        let c = &self.counters;
        let rate = c.cases as f64 / c.seconds.max(0.001);
        let times: u64 = c.found.values().sum();
        format!(
            "seeds {} to {}: {} cases in {:.0} s ({rate:.0}/s), {} of them long; {} different \
             answers; {} found, {times} times",
            c.first_seed,
            c.next_seed.saturating_sub(1),
            c.cases,
            c.seconds,
            c.long,
            c.answers.len(),
            c.found.len(),
        )
    }

    fn end(&mut self) -> Exit {
        self.pace.keep(&mut self.counters);
        out::line(&self.text());
        if self.counters.found.is_empty() { Exit::Ok } else { Exit::NotMet }
    }
}

/// An input as a file of a folder.
fn write(subject: &dyn Subject, dir: &Path, seed: u64, input: &Input) {
    let file = dir.join(format!("{seed}.{}", subject.ending(&input.bytes)));
    if let Err(e) = input.write(&file) {
        out::error(&format!("{}: {e}", file.display()), "");
    }
}
