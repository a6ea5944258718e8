//! `orrery fuzz jit` and `maps`, in files of these names; `objects`, `scenarios` and `gdb` in
//! `damaged.rs`; and `orrery fuzz verifier`: random structured programs and mutated real ones, our
//! verdict beside that of this machine's kernel; accepted ones run in the interpreter, where every
//! register has to be what the verifier believed.
//!
//! ```text
//!  seed ─► generate, mutate ─► check ──────┐
//!                         └──► bpf(2) ─────┴─► difference ─► shrink ─► file named by the rule
//!          accepted ─► check with recorded states ─► interpreter ─► a value outside is a hole
//!
//!  generate/  structured programs          memory.rs     what a run may touch
//!  seeds.rs   objects, annotated cases     calls.rs      models of helpers and kfuncs
//!  mutate.rs  small changes                explained.rs  a run against a state
//!  world.rs   maps, types, both verdicts   sound.rs      a run from begin to end
//!  campaign.rs  counters, shards           text.rs       programs as text, and back
//!  pace.rs    time, state files
//! ```

mod calls;
mod campaign;
mod damaged;
mod explained;
mod generate;
mod jit;
mod maps;
mod memory;
mod mutate;
mod pace;
mod seeds;
mod sound;
mod text;
mod world;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bpf::Program;
use bpf::btf::Btf;
use bpf::insn::generate::Rng;
use bpf::uapi::ProgType;
use verifier::env::MapInfo;
use verifier::explore::Opts;
use verifier::{KernelEnv, Options, check};

use super::target::TargetArgs;
use super::why::rule_name;
use super::{Exit, out};
use crate::shrink::shrink;
use campaign::Progress;
pub(super) use campaign::shard;
use generate::Target as Generator;
pub use sound::Ran;
pub use text::judge;
pub(super) use world::made;
use world::{Answer, Sample, World};

/// States kept of a program whose runs are checked.
const RECORD: u32 = 20_000;

/// A program that takes the kernel seconds stays as large as it is.
const SHRINK_MAX: Duration = Duration::from_secs(20);

/// What is fuzzed.
#[derive(Debug, clap::Subcommand)]
pub(super) enum Kind {
    /// Random programs on the interpreters of both byte orders and four back ends
    Jit(jit::Args),
    /// Random map commands on the modelled kernel in both byte orders, and on the running one
    Maps(maps::Args),
    /// Damaged objects: loaded, compiled, run on the architectures of their byte order, interpreted
    Objects(damaged::Args),
    /// Damaged scenarios: checked, played twice and on all architectures
    Scenarios(damaged::Args),
    /// Damaged sessions of a debugger over the machines of scenarios
    Gdb(damaged::Args),
    /// Verdicts on random programs, and accepted ones against what the verifier knew
    Verifier(Args),
}

/// Runs one kind of fuzzing.
pub(super) fn main(kind: &Kind) -> Exit {
    match kind {
        Kind::Jit(args) => jit::run(args),
        Kind::Maps(args) => maps::run(args),
        Kind::Objects(args) => damaged::run(damaged::What::Objects, args),
        Kind::Scenarios(args) => damaged::run(damaged::What::Scenarios, args),
        Kind::Gdb(args) => damaged::run(damaged::What::Gdb, args),
        Kind::Verifier(args) => run(args),
    }
}

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Number of programs
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    count: u64,
    /// First seed
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// Ask the kernel of this machine, too, and compare
    #[arg(long)]
    host: bool,
    /// Run accepted programs, every register checked at every instruction
    #[arg(long)]
    soundness: bool,
    /// Compare statistics and words as well, not only verdicts
    #[arg(long)]
    exact: bool,
    /// Also mutations of the programs of these objects, .bpfasm files or folders of them
    #[arg(long, value_name = "PATH")]
    corpus: Vec<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
    /// Every Nth seed, from the Kth on
    #[arg(long, value_name = "K/N", value_parser = campaign::shard)]
    shard: Option<(u64, u64)>,
    /// Keep what was counted in this file, and go on from there
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
    /// Ask again about a program that was saved, and show both logs
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
    /// Write the shrunk programs that differ into this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Show at most so many differences
    #[arg(long, value_name = "N", default_value_t = 20)]
    show: usize,
}

/// `CAP_PERFMON` or `CAP_SYS_ADMIN` is in effect.
fn has_perfmon() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let caps = line.and_then(|l| u64::from_str_radix(l.trim(), 16).ok()).unwrap_or(0);
    caps >> 38 & 1 == 1 || caps >> 21 & 1 == 1
}

/// Makes programs of seeds.
struct Source {
    target: Generator,
    seeds: Vec<Sample>,
}

impl Source {
    fn sample(&self, world: &mut World, seed: u64) -> Result<Sample, Exit> {
        let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9));
        if !self.seeds.is_empty() && rng.one_in(2) {
            let at = rng.below(self.seeds.len() as u32) as usize;
            let Sample { program, origin } = &self.seeds[at];
            return Ok(Sample { program: mutate::mutate(program, &mut rng), origin: *origin });
        }
        let g = generate::program(seed, &self.target);
        let origin = world.generated(g.ty)?;
        let btf = world.origins[origin].btf.clone().unwrap_or_default();
        // Without func info every function is a static one.
        let typed = rng.one_in(2);
        let funcs = g.funcs.iter().filter(|_| typed).map(|(at, n)| world::func(&btf, *at, n));
        let mut program = linked(g.ty, g.insns);
        program.funcs = funcs.collect();
        if rng.one_in(4) {
            program = mutate::mutate(&program, &mut rng);
        }
        Ok(Sample { program, origin })
    }
}

/// A program of one section.
fn linked(ty: ProgType, insns: Vec<bpf::Insn>) -> Program {
    Program {
        name: world::MAIN.to_owned(),
        section: ty.name().to_owned(),
        prog_type: ty,
        attach_type: None,
        flags: 0,
        attach_to: None,
        license: "GPL".to_owned(),
        insns,
        funcs: Vec::new(),
        lines: Vec::new(),
    }
}

impl World {
    /// Runs an accepted program; `None` when it was not accepted in the recording mode, or is long.
    fn run(&self, s: &Sample, seed: u64) -> Option<Result<Ran, String>> {
        let report = self.report(s, RECORD)?;
        let trace = report.trace?;
        let about = sound::About {
            maps: &self.origins[s.origin].env.maps,
            btf: &self.kernel,
            cpus: self.cpus,
            secret: !self.opts.allow_ptr_leaks,
        };
        Some(sound::runs(&s.program, &trace, about, seed))
    }

    /// The kind of difference of a program; None when there is none.
    fn difference(ours: &Answer, theirs: &Answer, exact: bool) -> Option<&'static str> {
        match () {
            () if ours.unsupported || ours.long => None,
            () if ours.accepted && !theirs.accepted => Some("unsound"),
            () if !ours.accepted && theirs.accepted => Some("too strict"),
            () if !exact || ours == theirs => None,
            () if ours.words != theirs.words => Some("words"),
            () if ours.insns != theirs.insns => Some("insns"),
            () => Some("states"),
        }
    }

    fn differs(&mut self, s: &Sample, exact: bool) -> Option<(&'static str, Answer, Answer)> {
        let ours = self.ours(s);
        let theirs = if ours.long { return None } else { self.theirs(s)? };
        Some((World::difference(&ours, &theirs, exact)?, ours, theirs))
    }
}

/// A difference, shrunk.
struct Case {
    seed: u64,
    kind: &'static str,
    sample: Sample,
    ours: Answer,
    theirs: Answer,
}

fn open(args: &Args) -> Result<(World, Source), Exit> {
    let target = match args.host || !args.corpus.is_empty() {
        true => args.target.clone().host_by_default().open()?,
        false => args.target.open()?,
    };
    let opts = target.opts(0);
    if args.host && opts.allow_ptr_leaks != has_perfmon() {
        let next = "capsh --drop=cap_sys_admin,cap_perfmon -- -c 'orrery fuzz verifier --host \
                    --caps bpf,net_admin'";
        out::error("--caps must be the capabilities of this process", next);
        return Err(Exit::BadInput);
    }
    super::judge::silence_panics();
    let mut world = World::open(args.host, opts)?;
    let seeds = seeds::read(&mut world, &args.corpus, &target);
    let target = Generator::new(&world.kernel, opts.allow_ptr_leaks);
    Ok((world, Source { target, seeds }))
}

pub(super) fn run(args: &Args) -> Exit {
    let (mut world, source) = match open(args) {
        Ok(opened) => opened,
        Err(exit) => return exit,
    };
    if let Some(path) = &args.replay {
        return replay(&mut world, path);
    }
    let (k, n) = args.shard.unwrap_or((0, 1));
    let (mut progress, mut counters) =
        Progress::resume(args.state.as_deref(), args.seed + k, args.count.div_ceil(n));
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    let before = counters.clone();
    for _ in 0..args.count.div_ceil(n) {
        let seed = counters.next_seed;
        let sample = match source.sample(&mut world, seed) {
            Ok(sample) => sample,
            Err(exit) => return exit,
        };
        let ours = world.ours(&sample);
        counters.programs += 1;
        counters.accepted += u64::from(ours.accepted);
        if ours.unsupported {
            counters.unsupported += 1;
            *counters.lacking.entry(ours.words.clone()).or_default() += 1;
        }
        if ours.accepted && args.soundness {
            soundness(&world, &sample, seed, &mut counters);
        }
        counters.long += u64::from(ours.long);
        if ours.long {
            // No verdict.
        } else if let Some(theirs) = world.theirs(&sample) {
            counters.answers(&ours, &theirs);
            if let Some(kind) = World::difference(&ours, &theirs, args.exact) {
                counters.differ(kind);
                if cases.len() < args.show {
                    let case = shrunk(&mut world, args.exact, seed, kind, sample);
                    show(&world, args.save.as_deref(), &mut cases, case);
                }
            }
        }
        counters.next_seed = seed + n;
        progress.step(&mut counters);
    }
    progress.keep(&mut counters);
    out::line(&counters.text());
    let found = counters.faults > before.faults || counters.differences != before.differences;
    if found { Exit::NotMet } else { Exit::Ok }
}

/// Both answers to a program of the corpus, with their logs.
fn replay(world: &mut World, path: &Path) -> Exit {
    let sample = std::fs::read_to_string(path)
        .map_err(|e| e.to_string())
        .and_then(|text| text::sample(world, &text));
    let sample = match sample {
        Ok(sample) => sample,
        Err(e) => {
            out::error(&format!("{}: {e}", path.display()), "a saved program is expected");
            return Exit::BadInput;
        }
    };
    let (ours, theirs) = world.logs(&sample, 2);
    out::print(&format!("; kernel\n{theirs}\n; orrery\n{ours}"));
    match world.differs(&sample, true) {
        None => Exit::Ok,
        Some(_) => Exit::NotMet,
    }
}

/// Runs a program and says what is wrong, shrunk.
fn soundness(world: &World, sample: &Sample, seed: u64, counters: &mut campaign::Counters) {
    match world.run(sample, seed) {
        None => {}
        Some(Ok(ran)) => counters.ran(ran),
        Some(Err(_)) => {
            counters.faults += 1;
            let (small, why) = smallest(world, sample, seed);
            out::line(&format!(
                "; seed {seed}: accepted, but {why}\n{}",
                text::text(world, &small)
            ));
        }
    }
}

/// The smallest program whose runs are still wrong, and what is.
fn smallest(world: &World, sample: &Sample, seed: u64) -> (Sample, String) {
    let at = |p: &Program| Sample { program: p.clone(), origin: sample.origin };
    let wrong = |p: &Program| matches!(world.run(&at(p), seed), Some(Err(_)));
    let small = at(&shrink(sample.program.clone(), wrong));
    let why = world.run(&small, seed).and_then(Result::err).unwrap_or_default();
    (small, why)
}

fn shrunk(world: &mut World, exact: bool, seed: u64, kind: &'static str, sample: Sample) -> Case {
    let origin = sample.origin;
    let begin = Instant::now();
    let program = shrink(sample.program, |p| {
        if begin.elapsed() > SHRINK_MAX {
            return false;
        }
        let s = Sample { program: p.clone(), origin };
        world.differs(&s, exact).is_some_and(|(k, ..)| k == kind)
    });
    let sample = Sample { program, origin };
    let (_, ours, theirs) = world.differs(&sample, exact).unwrap_or_default();
    Case { seed, kind, sample, ours, theirs }
}

/// Cases of one kind and the same words are one case.
fn signature(c: &Case) -> String {
    let shape = |s: &str| s.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    format!("{} {} {}", c.kind, shape(&c.theirs.words), shape(&c.ours.words))
}

/// Shows and saves a case, unless there was one of its kind.
fn show(world: &World, dir: Option<&Path>, cases: &mut BTreeMap<String, Case>, c: Case) {
    let signature = signature(&c);
    if cases.contains_key(&signature) {
        return;
    }
    let text = text::case(world, c.kind, c.seed, &c.sample, &c.ours, &c.theirs);
    out::line(&text);
    if let Some(dir) = dir {
        let words = if c.theirs.accepted { &c.ours.words } else { &c.theirs.words };
        let file = format!("{}-{}.txt", rule_name(words), c.seed);
        let done = std::fs::create_dir_all(dir).and_then(|()| std::fs::write(dir.join(file), text));
        if let Err(e) = done {
            out::error(&format!("{}: {e}", dir.display()), "");
        }
    }
    cases.insert(signature, c);
}

/// Runs a program that a kernel accepted in the interpreter, every register and stack slot compared
/// with at most so many recorded states. Maps are the kernel's, by descriptor and as it knows them.
///
/// # Errors
/// What is not as the verifier believed.
pub(crate) fn interpreted(
    program: &Program,
    btf: Option<&Btf>,
    (env, fds, maps): (&dyn KernelEnv, &[i32], &[MapInfo]),
    states: u32,
) -> Result<Ran, String> {
    let opts = Opts { record: states, insns_max: world::INSNS_MAX, ..Opts::default() };
    let options = Options { opts, fd_array: fds, prog_btf: btf, ..Options::default() };
    let known = env.btf();
    let (Some(trace), Some(btf)) = (check(program, env, &options).trace, known) else {
        return Ok(Ran::default());
    };
    sound::runs(program, &trace, sound::About { maps, btf, cpus: 1, secret: false }, 1)
}

/// What came of running programs of some seeds.
#[derive(Clone, Debug, Default)]
pub struct Soundness {
    /// Programs that were accepted.
    pub accepted: u64,
    /// Their runs.
    pub ran: Ran,
    /// What was wrong, a shrunk program each.
    pub wrong: Vec<String>,
}

/// Generates programs for the modelled kernel, verifies them with `opts`, runs the accepted ones
/// and compares every register with the recorded states.
#[must_use]
pub fn soundness_of(seeds: std::ops::Range<u64>, opts: Opts) -> Soundness {
    let mut found = Soundness::default();
    let Ok(mut world) = World::open(false, opts) else { return found };
    let target = Generator::new(&world.kernel, opts.allow_ptr_leaks);
    let source = Source { target, seeds: Vec::new() };
    for seed in seeds {
        let Ok(sample) = source.sample(&mut world, seed) else { continue };
        if !world.ours(&sample).accepted {
            continue;
        }
        found.accepted += 1;
        match world.run(&sample, seed) {
            None => {}
            Some(Ok(ran)) => found.ran.add(ran),
            Some(Err(_)) => {
                let (small, why) = smallest(&world, &sample, seed);
                let text = text::text(&world, &small);
                found.wrong.push(format!("seed {seed}: {why}\n{text}"));
            }
        }
    }
    found
}
