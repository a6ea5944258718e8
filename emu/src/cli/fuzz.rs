//! `orrery fuzz-verifier`: random structured programs, our verdict beside that of the kernel of
//! this machine; accepted ones run in the interpreter, where nothing may go wrong.
//!
//! ```text
//!  seed ─► program ─► check ──────┐
//!                └──► bpf(2) ─────┴─► difference ─► smaller program ─► file named by the rule
//!          accepted ─► interpreter (stack, maps, context) ─► a fault is a hole in the verifier
//! ```

mod generate;
mod run;
mod shrink;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bpf::Program;
use bpf::btf::Btf;
use bpf::insn::disasm::{NoNames, disasm_op};
use bpf::insn::{Imm64, Insn};
use bpf::uapi::{MapType, ProgType};
use verifier::env::{BtfKernel, GuestAddr, MapInfo};
use verifier::explore::Opts;
use verifier::{Options, check};

use super::judge::error_line;
use super::why::rule_name;
use super::{Exit, out};
use crate::host::{HostKernel, LoadFor};
use crate::loader::{Bpf as _, Fd, MapCreate};

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
    /// Compare statistics and words as well, not only verdicts
    #[arg(long)]
    exact: bool,
    /// Write the shrunk programs that differ into this folder
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    /// Show at most so many differences
    #[arg(long, value_name = "N", default_value_t = 20)]
    show: usize,
}

/// An answer to a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Answer {
    accepted: bool,
    /// Why not.
    words: String,
    insns: u32,
    states: u32,
    peak: u32,
}

/// What is asked.
struct World {
    env: BtfKernel,
    fds: Vec<i32>,
    host: Option<(HostKernel, Vec<Fd>)>,
}

fn map(id: u32, map_type: MapType, key_size: u32, max_entries: u32) -> MapInfo {
    let addr = GuestAddr(0xffff_8880_0000_0000 + (u64::from(id) << 20));
    MapInfo {
        id,
        name: format!("m{id}"),
        map_type,
        key_size,
        value_size: generate::VALUE as u32,
        max_entries,
        flags: 0,
        map_extra: 0,
        addr,
        value_addr: None,
        frozen_value: None,
        inner: None,
        value_type_id: 0,
        spin_lock_off: None,
        timer_off: None,
    }
}

fn world(args: &Args) -> Result<World, Exit> {
    let maps = vec![map(1, MapType::Array, 4, 4), map(2, MapType::Hash, 8, 16)];
    let mut btf = Btf::default();
    let mut host = None;
    if args.host {
        let mut kernel = HostKernel::open().map_err(|e| {
            out::error(&format!("the running kernel: {e}"), "leave --host out");
            Exit::Unsupported
        })?;
        btf = kernel.vmlinux().clone();
        let made: Result<Vec<Fd>, _> =
            maps.iter().map(|m| kernel.map_create(&create(m), None)).collect();
        let fds = made.map_err(|e| {
            out::error(&format!("a map in the running kernel: {e}"), "");
            Exit::Unsupported
        })?;
        host = Some((kernel, fds));
    }
    let fds = (0..maps.len()).map(BtfKernel::fd).collect();
    Ok(World { env: BtfKernel { btf: Arc::new(btf), maps, cpus: 2, symbols: None }, fds, host })
}

fn create(m: &MapInfo) -> MapCreate {
    MapCreate {
        name: m.name.clone(),
        map_type: m.map_type,
        key_size: m.key_size,
        value_size: m.value_size,
        max_entries: m.max_entries,
        flags: m.flags,
        numa_node: None,
        map_extra: 0,
        inner: None,
        btf_types: (0, 0),
    }
}

fn linked(ty: ProgType, insns: Vec<Insn>) -> Program {
    Program {
        name: "fuzz".to_owned(),
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
    fn ours(&self, p: &Program) -> Answer {
        let opts = Opts { log_level: 0, ..Opts::default() };
        let options = Options { opts, fd_array: &self.fds, ..Options::default() };
        let asked = std::panic::AssertUnwindSafe(|| check(p, &self.env, &options));
        let Ok(report) = std::panic::catch_unwind(asked) else {
            return Answer { words: "internal error".to_owned(), ..Answer::default() };
        };
        let words = report.result.as_ref().err().map(|r| r.message.clone()).unwrap_or_default();
        Answer {
            accepted: report.result.is_ok(),
            words: words.lines().last().unwrap_or_default().to_owned(),
            insns: report.stats.insns_processed,
            states: report.stats.total_states,
            peak: report.stats.peak_states,
        }
    }

    fn theirs(&mut self, p: &Program) -> Option<Answer> {
        let (kernel, fds) = self.host.as_mut()?;
        let to = LoadFor::default();
        let mut v = kernel.load_program(p, fds, None, &to, 0).ok()?;
        if v.errno != 0 {
            v = kernel.load_program(p, fds, None, &to, 1).ok()?;
        }
        if let Some(fd) = v.fd {
            kernel.close(fd);
        }
        let refused = v.errno != 0;
        Some(Answer {
            accepted: !refused,
            words: error_line(&v.log).filter(|_| refused).unwrap_or_default(),
            insns: v.stats.insns_processed,
            states: v.stats.total_states,
            peak: v.stats.peak_states,
        })
    }

    /// The kind of difference of a program; None when there is none.
    fn difference(&mut self, p: &Program, exact: bool) -> Option<(&'static str, Answer, Answer)> {
        let ours = self.ours(p);
        let theirs = self.theirs(p)?;
        let kind = match () {
            () if ours.accepted && !theirs.accepted => "unsound",
            () if !ours.accepted && theirs.accepted => "too strict",
            () if !exact || ours == theirs => return None,
            () if ours.words != theirs.words => "words",
            () if ours.insns != theirs.insns => "insns",
            () => "states",
        };
        Some((kind, ours, theirs))
    }
}

/// A difference, shrunk.
struct Case {
    seed: u64,
    kind: &'static str,
    program: Program,
    ours: Answer,
    theirs: Answer,
}

pub(super) fn run(args: &Args) -> Exit {
    let mut world = match world(args) {
        Ok(world) => world,
        Err(exit) => return exit,
    };
    super::judge::silence_panics();
    let (mut accepted, mut faults) = (0u64, 0u64);
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut cases: BTreeMap<String, Case> = BTreeMap::new();
    for seed in args.seed..args.seed + args.count {
        let (ty, insns) = generate::program(seed);
        let program = linked(ty, insns);
        let ours = world.ours(&program);
        accepted += u64::from(ours.accepted);
        if ours.accepted
            && let Err(fault) = run::in_interpreter(&program, seed)
        {
            faults += 1;
            out::line(&format!("seed {seed}: accepted, but {fault}\n{}", listing(&program)));
        }
        let Some((kind, ..)) = world.difference(&program, args.exact) else { continue };
        *kinds.entry(kind).or_default() += 1;
        if cases.len() < args.show {
            let case = shrunk(&mut world, args.exact, seed, kind, program);
            cases.entry(signature(&case)).or_insert(case);
        }
    }
    for case in cases.values() {
        out::line(&text(case));
    }
    if let Some(dir) = &args.save {
        save(dir, &cases);
    }
    let found: Vec<String> = kinds.iter().map(|(k, n)| format!("{n} {k}")).collect();
    let compared = if args.host { "compared with this kernel" } else { "not compared" };
    let differ = if found.is_empty() { "none differ".to_owned() } else { found.join(", ") };
    let n = args.count;
    out::line(&format!("{n} programs, {accepted} accepted, {faults} faults; {compared}: {differ}"));
    if kinds.is_empty() && faults == 0 { Exit::Ok } else { Exit::NotMet }
}

fn shrunk(world: &mut World, exact: bool, seed: u64, kind: &'static str, program: Program) -> Case {
    let same = |world: &mut World, p: &Program| {
        world.difference(p, exact).is_some_and(|(k, ..)| k == kind)
    };
    let program = shrink::shrink(program, |p| same(world, p));
    let (_, ours, theirs) = world.difference(&program, exact).unwrap_or_default();
    Case { seed, kind, program, ours, theirs }
}

/// Cases of one kind and the same words are one case.
fn signature(c: &Case) -> String {
    let shape = |s: &str| s.chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    format!("{} {} {}", c.kind, shape(&c.theirs.words), shape(&c.ours.words))
}

fn listing(p: &Program) -> String {
    let mut text = String::new();
    for (i, insn) in p.insns.iter().enumerate().filter(|(_, i)| **i != Insn::LdImm64Hi) {
        let line = match insn {
            Insn::LdImm64 { dst, imm: Imm64::MapIdx(m) } => format!("r{} = map[{m}] ll", dst.0),
            insn => disasm_op(insn, &NoNames),
        };
        text += &format!("{i:4}: {line}\n");
    }
    text
}

fn said(a: &Answer) -> String {
    let verdict = if a.accepted { "accepted".to_owned() } else { format!("rejected: {}", a.words) };
    format!("{verdict} ({} insns, {} states, {} at most)", a.insns, a.states, a.peak)
}

fn text(c: &Case) -> String {
    format!(
        "; {} of seed {}\n; kernel: {}\n; orrery: {}\n; prog {} main\n{}",
        c.kind,
        c.seed,
        said(&c.theirs),
        said(&c.ours),
        c.program.prog_type.name(),
        listing(&c.program)
    )
}

fn save(dir: &Path, cases: &BTreeMap<String, Case>) {
    for c in cases.values() {
        let words = if c.theirs.accepted { &c.ours.words } else { &c.theirs.words };
        let file = format!("{}-{}.txt", rule_name(words), c.seed);
        let done =
            std::fs::create_dir_all(dir).and_then(|()| std::fs::write(dir.join(file), text(c)));
        if let Err(e) = done {
            out::error(&format!("{}: {e}", dir.display()), "");
        }
    }
}
