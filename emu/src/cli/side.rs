//! `orrery verify --host`: the same load sent to the kernel of this machine, both answers side by
//! side. A difference is exit 1.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bpf::Endian;
use bpf::object::{Kconfig, Object, ProgramDef};
use serde::Serialize;

use super::beneath::Beneath;
use super::judge::{Row, Verdict, WORKER_STACK, error_line, judge_linked};
use super::target::Target;
use super::verify::Args;
use super::world::{World, capacity, read};
use super::{Exit, gravest, out};
use crate::host::{HostKernel, LoadFor};
use crate::loader::{self, Fd, LoadError, LoadOptions};

/// What the running kernel said.
#[derive(Clone, Debug, Default, Serialize)]
struct HostRow {
    verdict: &'static str,
    errno: i32,
    error_line: Option<String>,
    insns_processed: u32,
    total_states: u32,
    peak_states: u32,
    max_states_per_insn: u32,
    stack_depth: String,
    time_us: u64,
    log: String,
}

#[derive(Debug, Serialize)]
struct Both<'a> {
    #[serde(flatten)]
    ours: &'a Row,
    host: &'a HostRow,
    /// Fields that differ.
    differs: Vec<&'static str>,
}

/// Works in a thread of its own: capabilities that it drops are dropped for that thread.
pub(super) fn run(args: &Args, target: &Target) -> Exit {
    let work = || compare(args, target);
    std::thread::scope(|scope| {
        let worker = std::thread::Builder::new().stack_size(WORKER_STACK);
        let worker = worker.spawn_scoped(scope, work).expect("a thread can be started");
        worker.join().unwrap_or(Exit::Internal)
    })
}

fn compare(args: &Args, target: &Target) -> Exit {
    let mut host = match HostKernel::open() {
        Ok(host) => host,
        Err(e) => {
            out::error(&format!("the running kernel: {e}"), "verify --btf needs no kernel");
            return Exit::Unsupported;
        }
    };
    if let Err(e) = host.keep_caps(target.caps.mask()) {
        out::error(&format!("the running kernel: capabilities: {e}"), "");
        return Exit::Unsupported;
    }
    let each = args.objects.iter().map(|path| object(args, target, &mut host, path));
    let exits: Vec<Exit> = each.collect();
    gravest(exits)
}

fn object(args: &Args, target: &Target, host: &mut HostKernel, path: &Path) -> Exit {
    let opened = World::open_for(path, args.arch, target)
        .and_then(|w| w.programs(path, args.prog.as_deref()).map(|p| (w, p)))
        .and_then(|(w, p)| maps(args, host, path).map(|m| (w, p, m)))
        .and_then(|(w, p, m)| {
            below(args, target, host).map(|b| (w, p, Given { maps: m, below: b }))
        });
    let (mut world, programs, given) = match opened {
        Ok(v) => v,
        Err(exit) => return exit,
    };
    world.beneath = given.below.as_ref().map(|b| b.0.clone());
    let each = programs.iter().map(|def| program(args, target, host, (&world, path), def, &given));
    let exits: Vec<Exit> = each.collect();
    host.close_all();
    gravest(exits)
}

/// What the running kernel has been given for an object.
struct Given {
    maps: Vec<Fd>,
    /// The program that the object's programs are attached to.
    below: Option<(Arc<Beneath>, Fd)>,
}

/// Loads the program of `--target` into the running kernel; an error has been reported.
fn below(
    args: &Args,
    target: &Target,
    host: &mut HostKernel,
) -> Result<Option<(Arc<Beneath>, Fd)>, Exit> {
    let Some(spec) = &args.beneath else { return Ok(None) };
    let ours = Beneath::open(spec, args.arch, target)?;
    let path: &Path = &spec.object;
    let world = World::open_for(path, args.arch, target)?;
    let fds = maps(args, host, path)?;
    let def = world.programs(path, Some(&spec.program))?.remove(0);
    let program = world.link(&def).map_err(|_| Exit::BadInput)?;
    let said = host.load_program(&program, &fds, world.object.btf(), &LoadFor::default(), 1);
    match said.as_ref().ok().and_then(|v| v.fd) {
        Some(fd) => Ok(Some((ours, fd))),
        None => {
            let why = said.ok().and_then(|v| v.reason().map(str::to_owned)).unwrap_or_default();
            let name = format!("{}: {}", path.display(), spec.program);
            out::error(&format!("{name}: the running kernel: {why}"), "");
            Err(Exit::BadInput)
        }
    }
}

/// Creates the object's maps in the running kernel; an error has been reported.
fn maps(args: &Args, host: &mut HostKernel, path: &Path) -> Result<Vec<Fd>, Exit> {
    let (bytes, _) = read(path, args.arch)?;
    maps_of(host, path, &bytes).map_err(|e| {
        out::error(&format!("{}: the running kernel: {e}", path.display()), "");
        Exit::BadInput
    })
}

/// Creates the maps of an object in the running kernel, as libbpf does; those without a capacity
/// have the least.
pub(super) fn maps_of(
    host: &mut HostKernel,
    path: &Path,
    bytes: &[u8],
) -> Result<Vec<Fd>, LoadError> {
    let object = Object::parse(bytes)?;
    let open = object.maps().iter().filter(|m| m.max_entries == 0 && capacity(m) != 0);
    let opts = LoadOptions {
        object: loader::object_name(path),
        max_entries: open.map(|m| (m.name.clone(), capacity(m))).collect(),
        programs: Some(Vec::new()),
        alone: true,
        // The files of the system are long, and most objects ask for nothing of them.
        kconfig: if object.externs().is_empty() { Kconfig::default() } else { host.kconfig() },
        ksyms: if object.externs().is_empty() { BTreeMap::new() } else { host.ksyms() },
        ..LoadOptions::default()
    };
    let types = host.vmlinux().clone();
    loader::load(host, &types, Endian::Little, bytes, &opts).map(|l| l.maps)
}

fn program(
    args: &Args,
    target: &Target,
    host: &mut HostKernel,
    (world, path): (&World, &Path),
    def: &ProgramDef,
    given: &Given,
) -> Exit {
    let level = args.log_level;
    let linked = world.link(def);
    let theirs = match &linked {
        Ok(p) => ask(host, world, p, given, level),
        Err(_) => HostRow { verdict: "error", ..HostRow::default() },
    };
    let ours = judge_linked(world, path, def, linked, target.opts(level));
    // What no loader sends to a kernel has no answer to compare with.
    let differs = match ours.verdict {
        Verdict::Error if theirs.verdict == "error" => Vec::new(),
        _ => differences(&ours, &theirs, level),
    };
    show(args, &ours, &theirs, &differs);
    match (differs.is_empty(), ours.verdict) {
        (_, Verdict::Error) => ours.exit,
        (true, _) => Exit::Ok,
        (false, Verdict::Unsupported) => Exit::Unsupported,
        (false, _) => Exit::NotMet,
    }
}

fn ask(
    host: &mut HostKernel,
    world: &World,
    program: &bpf::Program,
    given: &Given,
    level: u32,
) -> HostRow {
    let ops = loader::struct_ops_member(&world.object, &program.name);
    let below = given.below.as_ref();
    let to = LoadFor {
        struct_ops: ops.as_ref().map(|(ty, member)| (ty.as_str(), member.as_str())),
        program: below.and_then(|(b, fd)| b.function(program).map(|id| (*fd, id))),
    };
    let fds = &given.maps;
    // At level 1 the log of an accepted program is empty, that of a refused one has the reason.
    let mut said = host.load_program(program, fds, world.object.btf(), &to, level);
    if said.as_ref().is_ok_and(|v| v.errno != 0) && level & 3 == 0 {
        said = host.load_program(program, fds, world.object.btf(), &to, level | 1);
    }
    let said = match said {
        Ok(said) => said,
        Err(errno) => {
            let error_line = Some(format!("not loaded: {errno}"));
            return HostRow { verdict: "error", error_line, ..HostRow::default() };
        }
    };
    if let Some(fd) = said.fd {
        host.close(fd);
    }
    let stats = said.stats;
    let depth = said.log.lines().rev().find_map(|l| l.strip_prefix("stack depth "));
    HostRow {
        verdict: if said.errno == 0 { "accepted" } else { "rejected" },
        errno: said.errno,
        error_line: error_line(&said.log).filter(|_| said.errno != 0),
        insns_processed: stats.insns_processed,
        total_states: stats.total_states,
        peak_states: stats.peak_states,
        max_states_per_insn: stats.max_states_per_insn,
        stack_depth: depth.unwrap_or_default().to_owned(),
        time_us: stats.verification_time_us,
        log: said.log,
    }
}

fn word(v: Verdict) -> &'static str {
    match v {
        Verdict::Accepted => "accepted",
        Verdict::Rejected => "rejected",
        Verdict::Unsupported => "unsupported",
        Verdict::Error => "error",
    }
}

fn differences(ours: &Row, host: &HostRow, level: u32) -> Vec<&'static str> {
    let accepted = ours.verdict == Verdict::Accepted;
    let fields = [
        ("verdict", word(ours.verdict) != host.verdict),
        ("error_line", ours.error_line != host.error_line),
        ("insns_processed", ours.insns_processed != host.insns_processed),
        ("total_states", ours.total_states != host.total_states),
        ("peak_states", ours.peak_states != host.peak_states),
        ("max_states_per_insn", ours.max_states_per_insn != host.max_states_per_insn),
        ("stack_depth", accepted && ours.stack_depth != host.stack_depth),
        ("log", level & 3 != 0 && first_difference(&ours.log, &host.log).is_some()),
    ];
    fields.into_iter().filter(|f| f.1).map(|f| f.0).collect()
}

/// Lines of a log that do not tell the time.
fn lines(log: &str) -> Vec<&str> {
    let timed = |l: &&str| !l.starts_with("verification time") && !l.starts_with("stack depth");
    log.lines().map(str::trim_end).filter(timed).collect()
}

/// The first line in which two logs differ: number, ours, the host's.
fn first_difference<'a>(ours: &'a str, host: &'a str) -> Option<(usize, &'a str, &'a str)> {
    let (a, b) = (lines(ours), lines(host));
    let line = |of: &[&'a str], i: usize| of.get(i).copied().unwrap_or("(end)");
    let at = (0..a.len().max(b.len())).find(|i| a.get(*i) != b.get(*i))?;
    Some((at + 1, line(&a, at), line(&b, at)))
}

fn show(args: &Args, ours: &Row, host: &HostRow, differs: &[&'static str]) {
    if args.json {
        let both = Both { ours, host, differs: differs.to_vec() };
        match serde_json::to_string(&both) {
            Ok(text) => out::line(&text),
            Err(e) => out::error(&format!("{}: {e}", ours.object), ""),
        }
        return;
    }
    let mark = if ours.verdict == Verdict::Error {
        out::colour(out::Colour::Red, "not loaded")
    } else if differs.is_empty() {
        out::colour(out::Colour::Green, "the same")
    } else {
        out::colour(out::Colour::Red, &format!("differs: {}", differs.join(", ")))
    };
    out::line(&format!("{}: {} ({}): {mark}", ours.object, ours.program, ours.prog_type));
    if ours.verdict == Verdict::Error {
        out::line(&format!("    {}", ours.error_line.as_deref().unwrap_or("-")));
        return;
    }
    let row = |name: &str, a: String, b: String| vec![format!("    {name}"), a, b];
    let number = |name: &str, a: u32, b: u32| row(name, a.to_string(), b.to_string());
    let line = |l: &Option<String>| l.clone().unwrap_or_else(|| "-".to_owned());
    let rows = vec![
        row("", "orrery".into(), "this kernel".into()),
        row("verdict", word(ours.verdict).into(), host.verdict.into()),
        number("insns", ours.insns_processed, host.insns_processed),
        number("states", ours.total_states, host.total_states),
        number("peak states", ours.peak_states, host.peak_states),
        number("states at one insn", ours.max_states_per_insn, host.max_states_per_insn),
        row("stack", ours.stack_depth.clone(), host.stack_depth.clone()),
        row("time us", ours.time_us.to_string(), host.time_us.to_string()),
    ];
    out::print(&out::columns(&rows));
    if ours.error_line.is_some() || host.error_line.is_some() {
        out::line(&format!("    orrery:      {}", line(&ours.error_line)));
        out::line(&format!("    this kernel: {}", line(&host.error_line)));
    }
    if args.log_level & 3 != 0 {
        match first_difference(&ours.log, &host.log) {
            None => out::line("    logs: the same"),
            Some((n, a, b)) => {
                out::line(&format!("    logs differ from line {n} on:"));
                out::line(&format!("    - {a}\n    + {b}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_compared_without_their_times() {
        let a = "0: (95) exit\nverification time 3 usec\nprocessed 1 insns\n";
        let b = "0: (95) exit\nverification time 7 usec\nprocessed 1 insns\n";
        assert_eq!(first_difference(a, b), None);
        assert_eq!(first_difference("a\nb\n", "a\nc\n"), Some((2, "b", "c")));
        assert_eq!(first_difference("a\n", "a\nc\n"), Some((2, "(end)", "c")));
    }
}
