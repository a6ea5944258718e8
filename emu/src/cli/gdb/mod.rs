//! `orrery gdb FILE`: a scenario under a debugger, stopped where it gets interesting.
//!
//! ```text
//!  FILE, cell, arch ─► Target ─► start (goes there) ─► door (listens) ─► gdb::session, each
//!                                                        └─ launch: gdb-multiarch on it
//! ```

mod config;
mod door;
mod launch;
mod start;

use std::fs;
use std::io::IsTerminal;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use bpf::Arch;
use gdb::session::Files;
use gdb::{Debuggee, View};
use scenarios::Scenario;
use scenarios::parse::Parsed;

use self::config::Ide;
use self::door::Door;
use self::launch::Line;
use self::start::Start;
use super::replay::report::{error_word, findings};
use super::{Exit, out, scenario_text};
use crate::debug::Target;
use crate::runner::RunError;
use crate::runner::cells::{self, Cell};

/// What does not fit an option.
const HELP: &str = "The line to type is printed. `monitor help` in gdb lists what there is \
                    besides; reverse-step, reverse-next, reverse-finish and reverse-continue \
                    go back. `detach` lets the run go on, `kill` ends it, and whoever \
                    disconnects finds it where it was. Of lldb nothing is tested: `gdb-remote \
                    PORT` speaks this protocol, without the way back.";
/// Where debuggers look for a stub by habit.
const PORT: u16 = 1234;

/// Arguments.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(super) struct Args {
    /// Scenario
    #[arg(value_name = "FILE", required_unless_present = "print_config")]
    file: Option<PathBuf>,
    /// Architecture; the first that the scenario names when left out
    #[arg(long, value_parser = super::arch)]
    arch: Option<Arch>,
    /// Only the cell of this name, such as '[seed=2,n=3]'; needed when there are several
    #[arg(long, value_name = "CELL")]
    cell: Option<String>,
    /// Seed of all random streams
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Port to listen on, 0 for any; 1234, or any with --launch, when left out
    #[arg(long)]
    port: Option<u16>,
    /// Address to listen on; only this machine can connect when left out
    #[arg(long, value_name = "ADDR", default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    listen: IpAddr,
    /// Stop at the N-th run of a program, or at the N-th packet a program sees:
    /// prog=NAME, prog=NAME,run=N, packet=N
    #[arg(long, value_name = "WHERE", conflicts_with = "at")]
    break_at: Option<Start>,
    /// Stop after so many BPF instructions, as failure reports name them
    #[arg(long, value_name = "INSN")]
    at: Option<u64>,
    /// Start gdb on it, and end with it
    #[arg(long)]
    launch: bool,
    /// What programs are shown as
    #[arg(long, value_name = "VIEW", default_value = "source")]
    gdb_view: Shown,
    /// Folder for copies of the files that are served: symbols, listings
    #[arg(long, value_name = "DIR")]
    debug_dir: Option<PathBuf>,
    /// Where sources are now that were in OLD when they were compiled
    #[arg(long, value_name = "OLD=NEW", value_parser = launch::source_map)]
    source_map: Vec<(String, String)>,
    /// Print settings for an IDE instead
    #[arg(long, value_name = "IDE")]
    print_config: Option<Ide>,
    /// Arguments for gdb, with --launch
    #[arg(last = true, value_name = "GDB ARGS")]
    gdb: Vec<String>,
}

/// See [`View`].
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Shown {
    /// C source
    Source,
    /// BPF instructions with the verifier's state
    Bpf,
}

pub(super) fn run(args: &Args) -> Exit {
    if let Some(ide) = args.print_config {
        out::print(&config::text(ide, args));
        return Exit::Ok;
    }
    let Some(path) = &args.file else { return Exit::BadInput };
    match pick(path, args).and_then(|picked| picked.debug(args)) {
        Ok(exit) | Err(exit) => exit,
    }
}

/// Opens a debugger where a replay failed: `--gdb-on-failure`.
pub(super) fn on_failure(path: &Path, cell: &Cell, arch: Arch, at: u64) -> Exit {
    let args = Args {
        file: Some(path.to_path_buf()),
        arch: Some(arch),
        cell: None,
        seed: cell.seed,
        port: None,
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        break_at: None,
        at: Some(at),
        launch: std::io::stdin().is_terminal() && launch::found().is_some(),
        gdb_view: Shown::Source,
        debug_dir: None,
        source_map: Vec::new(),
        print_config: None,
        gdb: Vec::new(),
    };
    let text = fs::read_to_string(path).unwrap_or_default();
    let parsed = cells::read(path, &text, cell);
    let picked = Picked { path: path.to_path_buf(), parsed, cell: cell.clone(), arch };
    picked.debug(&args).unwrap_or_else(|exit| exit)
}

/// One run.
struct Picked {
    path: PathBuf,
    parsed: Parsed,
    cell: Cell,
    arch: Arch,
}

/// The cell and the architecture that are meant; errors have been reported.
fn pick(path: &Path, args: &Args) -> Result<Picked, Exit> {
    let bad = |what: &str, next: &str| {
        out::error(&format!("{}: {what}", path.display()), next);
        Exit::BadInput
    };
    let text = scenario_text(path)?;
    let first = cells::read(path, &text, &Cell::default());
    let scenario = valid(&first)?;
    let all = cells::cells(scenario, args.seed);
    let names: Vec<&str> = all.iter().map(|c| c.name.as_str()).collect();
    let cell = match &args.cell {
        Some(name) => all.iter().find(|c| c.name == *name),
        None if all.len() == 1 => all.first(),
        None => {
            let what = format!("the matrix has {} cells: one has to be chosen", all.len());
            return Err(bad(&what, &format!("add --cell '{}', or another", names[0])));
        }
    };
    let cell = cell.ok_or_else(|| {
        let some = names.iter().take(3).copied().collect::<Vec<_>>().join(", ");
        bad(&format!("no cell {}", args.cell.as_deref().unwrap_or("")), &format!("such as {some}"))
    })?;
    let parsed = cells::read(path, &text, cell);
    let scenario = valid(&parsed)?;
    let wanted = args.arch.map_or_else(|| cells::archs(scenario), |a| vec![a]);
    let arch = cells::archs_of(scenario, cell, &wanted).first().copied();
    let arch = arch.ok_or_else(|| bad("it excludes this architecture", "choose another --arch"))?;
    Ok(Picked { path: path.to_path_buf(), cell: cell.clone(), arch, parsed })
}

fn valid(parsed: &Parsed) -> Result<&Scenario, Exit> {
    let wrong = parsed.findings.iter().any(cells::is_error);
    parsed.scenario.as_ref().filter(|_| !wrong).ok_or_else(|| {
        out::warn(&findings(parsed));
        Exit::BadInput
    })
}

impl Picked {
    /// The run as a debuggee, stopped where it is to be; then debuggers, one after the other.
    fn debug(&self, args: &Args) -> Result<Exit, Exit> {
        let scenario = valid(&self.parsed)?;
        let options = cells::options(&self.path, &self.cell);
        let mut target = Target::new(scenario, self.arch, &options).map_err(|e| self.told(&e))?;
        target.set_view(match args.gdb_view {
            Shown::Source => View::Source,
            Shown::Bpf => View::Bpf,
        });
        let start = args.break_at.clone().or(args.at.map(Start::At)).unwrap_or_default();
        let begin = start.go(&mut target).map_err(|e| {
            out::error(&format!("{}: {e}", self.path.display()), "give another place, or none");
            Exit::BadInput
        })?;
        let mut files = self.files(args)?;
        files.make_all(&target);
        let listener = listen(args)?;
        let line = Line::new(&listener, args, &self.path).map_err(|e| internal(&e.to_string()))?;
        let described = target.describe(target.current());
        let mut door = Door { line, args, begin, files };
        out::line(&format!("{} on {}: stopped at {begin}, {described}", self.name(), self.arch));
        Ok(door.serve(listener, &mut target))
    }

    fn files(&self, args: &Args) -> Result<Files, Exit> {
        let Some(folder) = &args.debug_dir else { return Ok(Files::new()) };
        Files::copied_to(folder.clone()).map_err(|e| {
            out::error(&format!("{}: {e}", folder.display()), "give a folder for --debug-dir");
            Exit::BadInput
        })
    }

    fn name(&self) -> String {
        let stem = self.path.file_stem().map_or("scenario".into(), |s| s.to_string_lossy());
        format!("{stem}{}", self.cell.name)
    }

    fn told(&self, e: &RunError) -> Exit {
        match e {
            RunError::Input(f) | RunError::Rejected(f) => {
                out::warn(&scenarios::render::human(&self.parsed.files, f));
            }
            e => out::error(&format!("{}: {e}", self.name()), "orrery replay says more"),
        }
        error_word(e).1
    }
}

fn internal(what: &str) -> Exit {
    out::error(what, "please report it with the command and its files");
    Exit::Internal
}

/// Opens the port; with a word on what that means when others can reach it.
fn listen(args: &Args) -> Result<TcpListener, Exit> {
    let port = args.port.unwrap_or(if args.launch { 0 } else { PORT });
    let listener = TcpListener::bind((args.listen, port)).map_err(|e| {
        out::error(&format!("{}:{port}: {e}", args.listen), "choose another --port, or 0 for any");
        Exit::BadInput
    })?;
    if !args.listen.is_loopback() {
        out::warn(
            "warning: the protocol has no password. Whoever reaches this port controls the \
             emulated machine, and can read its programs and their sources; it gives access to \
             no other file and runs no command of this host.\n",
        );
    }
    Ok(listener)
}
