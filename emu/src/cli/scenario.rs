//! `orrery scenario check|new|schema|reference`: the language without running anything, but for
//! `new`, which runs what it wrote to put the measured results in.

mod calls;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use bpf::object::{MapOrigin, Object, ProgramDef};
use bpf::uapi::{AttachType, ProgType};
use bpf::{Arch, Endian};
use kernel_model::iter::{Info, order};
use kernel_model::syscall::Why;
use kernel_model::{Kernel, ProgId};
use scenarios::parse::Parsed;
use scenarios::reference::{self, Start};
use scenarios::schema::Step;
use scenarios::validate::validate;
use scenarios::{Finding, Scenario, render};

use self::calls::Calls;
use super::world::capacity;
use super::{Exit, gravest, out, replay, scenario_files, scenario_text};
use crate::compile;
use crate::loader::{self, LoadOptions};
use crate::runner::cells::{self, Cell};
use crate::runner::contents::Contents;

/// Entries of a map, or bytes of a ring, when the object leaves them open.
const SIZE: u32 = 4096;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Finds mistakes without running anything
    Check(CheckArgs),
    /// Writes a scenario to start from, and runs it
    New(NewArgs),
    /// Prints the language as a JSON schema
    Schema,
    /// Prints the reference page
    Reference,
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// Scenario files, or folders of them
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// One JSON object for each finding
    #[arg(long, conflicts_with = "github")]
    json: bool,
    /// Findings as annotations of a GitHub workflow
    #[arg(long)]
    github: bool,
    /// Leave the objects alone: names and values inside them are not checked
    #[arg(long)]
    fast: bool,
    /// Print the time of each step
    #[arg(long)]
    times: bool,
}

#[derive(Debug, clap::Args)]
struct NewArgs {
    /// Name: NAME.ron is written, and NAME.bpf.c when no object is given
    #[arg(required_unless_present = "from")]
    name: Option<String>,
    /// An object, or a source, whose programs are to run
    #[arg(long, value_name = "OBJ")]
    from: Option<PathBuf>,
    /// Write over files that are there
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args) -> Exit {
    match &args.verb {
        Verb::Check(a) => match scenario_files(&a.files) {
            Ok(files) => gravest(files.iter().map(|f| check(a, f))),
            Err(exit) => exit,
        },
        Verb::New(a) => new(a).unwrap_or_else(|exit| exit),
        Verb::Schema => {
            let schema = scenarios::schema::json::schema();
            out::print(&format!("{schema:#}\n"));
            Exit::Ok
        }
        Verb::Reference => {
            out::print(reference::page());
            Exit::Ok
        }
    }
}

fn check(args: &CheckArgs, path: &Path) -> Exit {
    let text = match scenario_text(path) {
        Ok(text) => text,
        Err(exit) => return exit,
    };
    let mut parsed = cells::read(path, &text, &Cell::default());
    if let Some(s) = parsed.scenario.as_ref().filter(|_| !args.fast) {
        parsed.findings = with_contents(s, path, parsed.findings);
    }
    let bad = parsed.findings.iter().any(cells::is_error);
    for f in &parsed.findings {
        match (args.json, args.github) {
            (true, _) => out::line(&render::json(&parsed.files, f)),
            (_, true) => out::line(&render::github(&parsed.files, f)),
            _ => out::warn(&render::human(&parsed.files, f)),
        }
    }
    if let Some(s) = parsed.scenario.as_ref().filter(|_| args.times) {
        times(s, &parsed);
    }
    if bad {
        return Exit::BadInput;
    }
    if let Some(s) = parsed.scenario.as_ref().filter(|_| !args.json && !args.github) {
        out::line(&summary(path, s, args.fast));
    }
    Exit::Ok
}

/// Findings with what the objects contain, in the order of the text.
fn with_contents(s: &Scenario, path: &Path, known: Vec<Finding>) -> Vec<Finding> {
    let arch = cells::archs(s).first().copied().unwrap_or(Arch::X86_64);
    let (contents, mut found) = Contents::read(s, &cells::folder(path), arch);
    found.extend(validate(s, &contents));
    found.extend(known);
    found.sort_by_key(|f| (f.span.file, f.span.start));
    found.dedup();
    found
}

fn summary(path: &Path, s: &Scenario, fast: bool) -> String {
    let archs: Vec<&str> = cells::archs(s).iter().map(|a| a.name()).collect();
    let n = cells::cells(s, 0).len();
    let cells = if n == 1 { String::new() } else { format!("{n} cells, ") };
    let fast = if fast { "; objects not looked at" } else { "" };
    format!("{}: well-formed, {cells}on {}{fast}", path.display(), archs.join(", "))
}

/// When each step happens: `At` and `After` mixed make sums.
fn times(s: &Scenario, parsed: &Parsed) {
    let mut last = 0u64;
    for step in &s.timeline {
        let (ns, span) = match step {
            Step::At(t, _) => (t.v.ns, t.span),
            Step::After(t, _) => (last.saturating_add(t.v.ns), t.span),
            Step::Every { from, period, .. } => (from.v.ns, period.span),
            Step::When(..) => continue,
        };
        if !matches!(step, Step::Every { .. }) {
            last = ns;
        }
        out::line(&format!("{:>14} ns  {}", ns, render::place(&parsed.files, span)));
    }
}

/// Writes the files, then runs the scenario and puts the results in.
fn new(args: &NewArgs) -> Result<Exit, Exit> {
    let stem = |p: &PathBuf| {
        let leaf = p.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
        leaf.split('.').next().unwrap_or("scenario").to_owned()
    };
    let name = args.name.clone().or_else(|| args.from.as_ref().map(stem)).unwrap_or_default();
    let ron = PathBuf::from(format!("{name}.ron"));
    let start = match &args.from {
        Some(object) => from_object(object)?,
        None => from_nothing(&name, args.force)?,
    };
    write_new(&ron, &start.text(), args.force)?;
    Ok(replay::bless(&ron))
}

fn write_new(path: &Path, text: &str, force: bool) -> Result<(), Exit> {
    let shown = path.display();
    if path.exists() && !force {
        out::error(&format!("{shown} is there already"), "another name, or --force");
        return Err(Exit::BadInput);
    }
    fs::write(path, text).map_err(|e| {
        out::error(&format!("{shown}: {e}"), "");
        Exit::BadInput
    })?;
    out::line(&format!("{shown}: written"));
    Ok(())
}

/// A program in C where there is a compiler, else in the assembler of BPF.
fn from_nothing(name: &str, force: bool) -> Result<Start, Exit> {
    let leaf = Path::new(name).file_name().map_or(String::new(), |n| n.to_string_lossy().into());
    let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let mut prog: String = leaf.chars().map(word).collect();
    if prog.starts_with(|c: char| c.is_ascii_digit()) || prog.is_empty() {
        prog.insert(0, '_');
    }
    let object = if compile::available() {
        write_new(&PathBuf::from(format!("{name}.bpf.c")), &source(&prog), force)?;
        format!("file: \"{leaf}.bpf.c\"")
    } else {
        format!("asm: r#\"\n        ; prog xdp {prog}\n        r0 = 2\n        exit\n    \"#")
    };
    Ok(Start {
        object,
        nics: vec!["eth0".to_owned()],
        attach: vec![format!("Xdp(prog: \"{prog}\", nic: \"eth0\")")],
        expect: vec![verdicts(&prog, "PASS")],
        ..Start::default()
    })
}

fn source(prog: &str) -> String {
    format!(
        "// One sentence: what this program does.\n#include \"vmlinux.h\"\n\
         #include <bpf/bpf_helpers.h>\n#include <bpf/bpf_endian.h>\n\n\
         SEC(\"xdp\")\nint {prog}(struct xdp_md *ctx)\n{{\n\treturn XDP_PASS;\n}}\n\n\
         char LICENSE[] SEC(\"license\") = \"GPL\";\n"
    )
}

/// To be put right by the first run.
fn verdicts(prog: &str, first: &str) -> String {
    format!("Verdicts(prog: \"{prog}\", are: ({first}: 0))")
}

/// Every program of an object, attached where its section says.
fn from_object(path: &Path) -> Result<Start, Exit> {
    let (bytes, object) = super::world::read(path, None)?;
    let trial = trial(&object, &bytes);
    let mut start = Start { object: format!("file: {:?}", either(path)), ..Start::default() };
    let (mut skip, mut calls) = (Vec::new(), Calls::default());
    start.archs = archs_of(path);
    for p in object.programs() {
        match trial.get(&p.name) {
            Some(Trial::Rejected(words)) => {
                let expect = format!("Rejected(prog: {:?}, log: [{words:?}])", p.name);
                start.expect.push(expect);
            }
            Some(Trial::NoHook(why)) => {
                start.remarks.push(format!("{}: not attached: {why}", p.name));
            }
            Some(Trial::Unsupported(what)) => {
                start.remarks.push(format!("{}: not loaded: {what}", p.name));
                skip.push(format!("{:?}", p.name));
            }
            Some(Trial::Elements(map)) => add_iterator(&mut start, &p.name, Some(map)),
            None => add_program(&mut start, &mut calls, &object, p),
        }
    }
    start.tasks = calls.tasks();
    let sizes: Vec<String> =
        sizes(&object).iter().map(|(map, n)| format!("{map:?}: {n}")).collect();
    if !sizes.is_empty() {
        start.object += &format!(", resize: {{{}}}", sizes.join(", "));
    }
    if !skip.is_empty() {
        start.object += &format!(", skip: [{}]", skip.join(", "));
    }
    if start.nics.is_empty() && start.tasks.is_empty() && start.actions.is_empty() {
        // Something has to happen for a program that watches.
        start.nics.push("eth0".to_owned());
    }
    if start.expect.is_empty() {
        let auto = |p: &&ProgramDef| {
            let skipped = skip.contains(&format!("{:?}", p.name));
            !skipped && p.sec.as_ref().is_some_and(|s| s.autoload)
        };
        let names = object.programs().iter().filter(auto);
        start.expect = names.map(|p| format!("Accepted(prog: \"{}\")", p.name)).collect();
    }
    if start.expect.is_empty() && skip.is_empty() {
        out::error(&format!("{}: no programs", path.display()), "orrery inspect shows the object");
        return Err(Exit::BadInput);
    }
    if start.expect.is_empty() {
        let why = start.remarks.join("; ");
        out::error(&format!("{}: nothing runs: {why}", path.display()), "orrery features");
        return Err(Exit::Unsupported);
    }
    Ok(start)
}

/// The architectures that an object is for, unless it is for all.
fn archs_of(path: &Path) -> Vec<String> {
    let name = either(path);
    let (dir, leaf) = (Path::new(&name).parent(), Path::new(&name).file_name());
    let (Some(dir), Some(leaf)) = (dir, leaf) else { return Vec::new() };
    if crate::objects::is_source(path) {
        return Vec::new();
    }
    let leaf = leaf.to_string_lossy();
    let fits = |a: &Arch| crate::objects::read(dir, &leaf, *a).is_ok();
    let some: Vec<Arch> = Arch::ALL.into_iter().filter(fits).collect();
    let all = some.len() == Arch::ALL.len();
    if all { Vec::new() } else { some.iter().map(|a| a.name().to_owned()).collect() }
}

/// Sizes of the maps whose size user space has to set. Rings are of whole pages.
fn sizes(object: &Object) -> BTreeMap<String, u32> {
    let open = object.maps().iter().filter(|m| m.max_entries == 0 && capacity(m) != 0);
    open.map(|m| (m.name.clone(), SIZE)).collect()
}

/// What keeps a program from its hook, or what it takes to come there.
enum Trial {
    /// The verifier, with its words.
    Rejected(String),
    /// Something that is not modelled.
    Unsupported(String),
    /// The model has no such hook.
    NoHook(String),
    /// It is an iterator over the elements of this map.
    Elements(String),
}

/// Loads and attaches the programs of an object, to see which cannot be.
fn trial(object: &Object, bytes: &[u8]) -> BTreeMap<String, Trial> {
    let arch = match object.endian {
        Endian::Little => Arch::X86_64,
        Endian::Big => Arch::S390x,
    };
    // As many as the scenario has.
    let config = kernel_model::Config { arch, cpus: 1, ..Default::default() };
    let mut kernel = Kernel::new(config);
    let target = kernel_model::types::Types::of(arch).btf();
    let max_entries = sizes(object);
    let options = LoadOptions { keep_going: true, max_entries, ..LoadOptions::default() };
    let mut out = BTreeMap::new();
    // What keeps the whole object from loading is said when the scenario runs.
    let Ok(loaded) = loader::load(&mut kernel, target, object.endian, bytes, &options) else {
        return out;
    };
    for r in loaded.refused {
        let words = r.rejection.message.clone();
        let trial = match r.rejection.is_unsupported() {
            true => Trial::Unsupported(words),
            false => Trial::Rejected(words),
        };
        out.insert(r.name, trial);
    }
    let maps = object.maps().iter().zip(&loaded.maps);
    let declared = maps.filter(|(m, _)| m.origin == MapOrigin::Declared);
    let maps: Vec<_> = declared.map(|(m, fd)| (m.name.as_str(), *fd)).collect();
    for p in &loaded.progs {
        let sec = object.program(&p.name).and_then(|p| p.sec.as_ref());
        let Some(sec) = sec else { continue };
        let id = ProgId(p.id);
        let came = if sec.attach_type == Some(AttachType::TraceIter) {
            iterates(&mut kernel, id, &maps)
        } else if is_tracing(sec.prog_type, sec.attach_type) {
            kernel.trace_attach(id, 0).err().map(|e| Trial::NoHook(e.to_string()))
        } else {
            None
        };
        out.extend(came.map(|came| (p.name.clone(), came)));
    }
    out
}

/// What keeps an iterator from its target, or the map whose elements it takes: it looks at no more
/// than the map has.
fn iterates(kernel: &mut Kernel, id: ProgId, maps: &[(&str, i32)]) -> Option<Trial> {
    let info = Info { order: order::PRE, ..Info::default() };
    match kernel.iter_attach(id, &info) {
        Ok(_) => return None,
        Err(e) if matches!(e.why, Why::Unsupported(_)) => {
            return Some(Trial::NoHook(e.to_string()));
        }
        Err(_) => {}
    }
    let mut takes = |fd: i32| {
        let map = kernel.fd_map(fd).ok();
        kernel.iter_attach(id, &Info { map, ..info }).is_ok()
    };
    let found = maps.iter().find(|m| takes(m.1));
    let none = || Trial::NoHook("no map of the object has what it reads".to_owned());
    Some(found.map_or_else(none, |m| Trial::Elements(m.0.to_owned())))
}

fn is_tracing(kind: ProgType, at: Option<AttachType>) -> bool {
    use ProgType::{Kprobe, Lsm, RawTracepoint, Tracepoint, Tracing};
    match kind {
        Tracing => at != Some(AttachType::TraceIter),
        Kprobe | Tracepoint | RawTracepoint => true,
        Lsm => at != Some(AttachType::LsmCgroup),
        _ => false,
    }
}

/// The name that stands for both byte orders, where both objects are there.
fn either(path: &Path) -> String {
    let name = path.display().to_string();
    for (own, other) in [(".el.bpf.o", ".eb.bpf.o"), (".eb.bpf.o", ".el.bpf.o")] {
        if let Some(stem) = name.strip_suffix(own)
            && Path::new(&format!("{stem}{other}")).is_file()
        {
            return format!("{stem}.bpf.o");
        }
    }
    name
}

fn add_iterator(start: &mut Start, prog: &str, map: Option<&String>) {
    let map = map.map_or(String::new(), |m| format!(", map: {m:?}"));
    start.actions.push(format!("ReadIter(prog: {prog:?}{map})"));
    start.expect.push(format!("Count(of: Enter(prog: {prog:?}), is: 0)"));
}

fn add_program(start: &mut Start, calls: &mut Calls, object: &Object, p: &ProgramDef) {
    let name = &p.name;
    let Some(sec) = &p.sec else {
        start.remarks.push(format!("{name}: section \"{}\" is not known", p.section));
        return;
    };
    if !sec.autoload {
        start.remarks.push(format!("{name}: loaded on request only (SEC(\"?..\"))"));
        return;
    }
    // What other programs of the object call into is not for a hook.
    let in_array = |m: &bpf::object::MapDef| {
        m.slots.iter().any(|(_, s)| *s == bpf::object::InitialSlot::Prog(name.clone()))
    };
    if object.maps().iter().any(in_array) {
        start.remarks.push(format!("{name}: entered by tail calls"));
        return;
    }
    match (sec.prog_type, sec.attach_type) {
        (ProgType::Xdp, Some(AttachType::Xdp) | None) => {
            let nic = format!("eth{}", start.nics.len());
            start.attach.push(format!("Xdp(prog: \"{name}\", nic: \"{nic}\")"));
            start.nics.push(nic);
            start.expect.push(verdicts(name, "PASS"));
        }
        (ProgType::SchedCls, at) => {
            if start.nics.is_empty() {
                start.nics.push("eth0".to_owned());
            }
            let egress = at == Some(AttachType::TcxEgress);
            let dir = if egress { "Egress" } else { "Ingress" };
            start.attach.push(format!("Tc(prog: \"{name}\", nic: \"eth0\", dir: {dir})"));
            start.expect.push(verdicts(name, "OK"));
        }
        (ProgType::Tracing, Some(AttachType::TraceIter)) => {
            add_iterator(start, name, None);
        }
        (kind, at) if is_tracing(kind, at) => {
            calls.watch(sec.target.as_deref().unwrap_or_default());
            start.attach.push(format!("Auto(prog: \"{name}\")"));
            start.expect.push(format!("Count(of: Enter(prog: \"{name}\"), is: 0)"));
        }
        (kind, at) if calls.add(kind, at) => {
            start.attach.push(format!("Cgroup(prog: \"{name}\", cgroup: \"{}\")", calls::GROUP));
            start.expect.push(format!("Count(of: Enter(prog: \"{name}\"), is: 0)"));
        }
        (other, _) => {
            start.remarks.push(format!("{name}: not attached, a {} program", other.name()));
        }
    }
}
