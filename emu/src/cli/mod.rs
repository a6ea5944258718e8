//! The command line: one file per verb, each a function from its arguments to an [`Exit`].
//!
//! ```text
//!  argv ─clap─► Verb ─► verb file ─► text through `out` (closed pipes end quietly) ─► Exit
//! ```
//!
//! **Invariants.** Results go to standard output, errors to standard error with the file and what
//! to do next. A verb returns, it never ends the process.

mod agree;
mod bench;
mod beneath;
mod beyond;
mod btf;
mod build;
mod cancel;
mod completions;
mod conform;
mod explore;
mod features;
pub mod fuzz;
mod gdb;
mod inspect;
mod jit;
mod judge;
pub mod out;
mod plugin;
mod repin;
mod replay;
mod scenario;
mod side;
mod stop;
mod target;
mod verify;
mod veristat;
pub mod watch;
pub(crate) mod why;
mod world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::below::named;

/// Exit codes of `orrery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Exit {
    /// Everything asked for holds.
    Ok = 0,
    /// An expectation is not met, or a program was rejected.
    NotMet = 1,
    /// The input is wrong: arguments, files, scenarios.
    BadInput = 2,
    /// Something that is not modelled is needed.
    Unsupported = 3,
    /// A fault of this program.
    Internal = 4,
}

impl From<Exit> for ExitCode {
    fn from(e: Exit) -> ExitCode {
        ExitCode::from(e as u8)
    }
}

/// What several results come to: the gravest, in the order internal, bad input, not met,
/// unsupported.
#[must_use]
pub fn gravest(exits: impl IntoIterator<Item = Exit>) -> Exit {
    let rank = |e: &Exit| match e {
        Exit::Ok => 0,
        Exit::Unsupported => 1,
        Exit::NotMet => 2,
        Exit::BadInput => 3,
        Exit::Internal => 4,
    };
    exits.into_iter().max_by_key(rank).unwrap_or(Exit::Ok)
}

/// The scenarios that paths stand for: a folder for those below it. What is wrong has been said.
fn scenario_files(paths: &[PathBuf]) -> Result<Vec<PathBuf>, Exit> {
    let bad = |what: String| {
        out::error(&what, "give the path of a scenario (.ron), or of a folder that has some");
        Exit::BadInput
    };
    let found = named(paths, &[".ron"]).map_err(bad)?;
    match found.is_empty() {
        true => Err(bad("no scenario is there".to_owned())),
        false => Ok(found),
    }
}

/// The text of a scenario. What is wrong has been said.
fn scenario_text(path: &Path) -> Result<String, Exit> {
    let shown = path.display();
    let bad = |what: String, next: &str| {
        out::error(&what, next);
        Exit::BadInput
    };
    let program = crate::objects::is_source(path) || path.extension().is_some_and(|e| e == "o");
    if program && path.is_file() {
        let next = format!("orrery scenario new --from {shown} writes a scenario that runs it");
        return Err(bad(format!("{shown}: a program, and no scenario"), &next));
    }
    std::fs::read_to_string(path)
        .map_err(|e| bad(format!("{shown}: {e}"), "give the path of a scenario (.ron)"))
}

/// Runs verified BPF programs as native code in a modelled kernel, on four architectures.
#[derive(Debug, Parser)]
#[command(name = "orrery", version, propagate_version = true, arg_required_else_help = true)]
#[command(after_help = "Exit codes: 0 all is well, 1 not met or rejected, 2 bad input, \
                        3 unsupported, 4 internal error.")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Plays scenarios and says whether what they expect happened
    Replay(replay::Args),
    /// Opens a scenario in gdb, at the C line, forwards and backwards
    Gdb(Box<gdb::Args>),
    /// Runs a scenario over interleavings and faults until something is wrong
    Explore(Box<explore::Args>),
    /// Puts pinned schedules right after an edit of their programs
    Repin(repin::Args),
    /// Checks scenarios, writes new ones, explains the language
    Scenario(scenario::Args),
    /// Verifies the programs of objects as the kernel does at load
    Verify(verify::Args),
    /// Verdicts and statistics in the format of veristat
    Veristat(veristat::Args),
    /// Compares verdicts with those of a real kernel, by cause
    Agree(agree::Args),
    /// Compares engines, or verdicts with those of the running kernel, on random programs
    #[command(subcommand)]
    Fuzz(Box<fuzz::Kind>),
    /// The same as `fuzz verifier`
    #[command(hide = true)]
    FuzzVerifier(Box<fuzz::Args>),
    /// Shows all that an object contains
    Inspect(inspect::Args),
    /// Shows BPF, native code and source side by side
    Jit(jit::Args),
    /// Compiles .bpf.c files, for both byte orders
    Build(build::Args),
    /// Runs conformance cases on every engine, against what they expect and each other
    Conform(Box<conform::Args>),
    /// Runs one program as the public conformance runner asks plugins to
    Plugin(plugin::Args),
    /// Cancels programs wherever they can be stopped, to see that they end clean
    Cancel(cancel::Args),
    /// Measures what things cost, against what else there is
    Bench(bench::Args),
    /// Shows a run on the terminal, forwards and backwards
    Watch(watch::Args),
    /// Prints the types of the modelled kernel
    Btf(btf::Args),
    /// Says what is modelled, and what is not
    Features(features::Args),
    /// Prints a completion script for a shell
    Completions(completions::Args),
}

/// Parses the command line and runs the verb.
#[must_use]
pub fn main() -> ExitCode {
    let cli = Cli::parse_from(plugin::verb_first(std::env::args_os().collect()));
    match std::panic::catch_unwind(move || run(cli.verb)) {
        Ok(code) => code,
        Err(_) => {
            out::error("internal error", "please report it with the command and its input files");
            Exit::Internal.into()
        }
    }
}

fn run(verb: Verb) -> ExitCode {
    match verb {
        Verb::Replay(a) => replay::run(a),
        Verb::Gdb(a) => gdb::run(&a).into(),
        Verb::Explore(a) => explore::run(&a).into(),
        Verb::Repin(a) => repin::run(&a).into(),
        Verb::Scenario(a) => scenario::run(&a).into(),
        Verb::Verify(a) => verify::run(&a).into(),
        Verb::Veristat(a) => veristat::run(&a).into(),
        Verb::Agree(a) => agree::run(&a).into(),
        Verb::Fuzz(a) => fuzz::main(&a).into(),
        Verb::FuzzVerifier(a) => fuzz::run(&a).into(),
        Verb::Inspect(a) => inspect::run(&a).into(),
        Verb::Jit(a) => jit::run(&a).into(),
        Verb::Build(a) => build::run(&a).into(),
        Verb::Conform(a) => conform::run(&a).into(),
        Verb::Plugin(a) => plugin::run(&a).into(),
        Verb::Cancel(a) => cancel::run(&a).into(),
        Verb::Bench(a) => bench::run(&a).into(),
        Verb::Watch(a) => watch::run(&a).into(),
        Verb::Btf(a) => btf::run(&a).into(),
        Verb::Features(a) => features::run(&a).into(),
        Verb::Completions(a) => completions::run(&a).into(),
    }
}

/// An architecture as an argument.
fn arch(name: &str) -> Result<bpf::Arch, String> {
    bpf::Arch::from_name(name)
        .ok_or_else(|| "one of x86_64, arm64, riscv64, s390x is expected".to_owned())
}
