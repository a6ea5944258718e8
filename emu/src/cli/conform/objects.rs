//! Annotated objects: the programs of the kernel's selftests, judged as their declaration tags say.
//!
//! ```text
//!  program, mode ─► verify with the flags, log level and capabilities of the tags ─► verdict, log
//!               └─► __retval: loaded into a machine an architecture, BPF_PROG_TEST_RUN
//! ```

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bpf::btf::Btf;
use bpf::object::{Object, ProgramDef};
use bpf::uapi::ProgType;
use bpf::{Arch, Endian};
use kernel_model::stream::StreamId;
use kernel_model::syscall::Why;
use kernel_model::{Errno, ProgId};
use verifier::Verified;
use verifier::caps::Caps;
use verifier::rewrite::is_tail_call;

use super::host;
use super::tags::{Mode, Spec, unmet};
use super::xlated;
use crate::cli::Exit;
use crate::cli::judge::{Verdict, error_line, judge_linked};
use crate::cli::side::maps_of;
use crate::cli::target::Target;
use crate::cli::world::{World, default_arch};
use crate::conform::engines::Miss;
use crate::conform::{Body, Case, Engine, Kind, Options, Outcome, Record, Runner, interpreted};
use crate::host::{HostKernel, LoadFor, TestRunIn};
use crate::loader::{LoadError, LoadOptions, struct_ops_member};
use crate::machine::MachineError;
use crate::{Config, Machine};

/// The result of a run, stdout and stderr.
type Came = (u32, [String; 2]);

/// As many bytes as `TEST_DATA_LEN` says.
static DATA: [u8; 64] = [0; 64];

/// One program in one mode.
#[derive(Debug)]
struct Annotated {
    path: PathBuf,
    /// Where it comes from.
    source: PathBuf,
    order: Endian,
    program: String,
    unpriv: bool,
    spec: Spec,
    /// Programs that are loaded beside it.
    beside: Vec<String>,
    target: Arc<Target>,
}

/// Instructions that the interpreter follows: ten seconds of its time.
const INTERPRETED_MAX: u64 = 1 << 28;

/// How the tags of tests begin; an object that does not contain it has no cases.
const TAGGED: &[u8] = b"comment:test_";

/// The cases of an object; its programs without tags have none.
///
/// # Errors
/// It cannot be read.
pub(super) fn cases(path: &Path, target: &Arc<Target>) -> Result<Vec<Case>, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if !bytes.windows(TAGGED.len()).any(|w| w == TAGGED) {
        return Ok(Vec::new());
    }
    let object = match Object::parse(&bytes) {
        Ok(object) => object,
        Err(e) => {
            let (name, body) = (path.display().to_string(), Body::Bad(e.to_string()));
            return Ok(vec![Case { name, path: path.into(), line: 1, body }]);
        }
    };
    let Some(btf) = object.btf() else { return Ok(Vec::new()) };
    let specs: Vec<(&ProgramDef, Result<Spec, String>)> =
        object.programs().iter().map(|p| (p, Spec::read(btf, &p.name))).collect();
    let helping = |(p, spec): &(&ProgramDef, Result<Spec, String>)| {
        spec.as_ref().is_ok_and(|s| s.auxiliary).then(|| p.name.clone())
    };
    let beside: Vec<String> = specs.iter().filter_map(helping).collect();
    let source = |def: &ProgramDef| {
        let line = object.source(&object.functions()[def.func]);
        line.map_or((path.to_path_buf(), 1), |(file, line)| (found(path, file.as_ref()), line))
    };
    let mut out = Vec::new();
    for (def, spec) in specs {
        let name = |suffix: &str| format!("{}: {}{suffix}", path.display(), def.name);
        let spec = match spec {
            Ok(spec) if spec.any && !spec.auxiliary => spec,
            Ok(_) => continue,
            Err(why) => {
                let (path, line) = source(def);
                let body = Body::Other(Box::new(Unread { order: object.endian, why }));
                out.push(Case { name: name(""), path, line, body });
                continue;
            }
        };
        for unpriv in spec.wanted() {
            let (file, line) = source(def);
            let case = Annotated {
                path: path.to_path_buf(),
                source: file.clone(),
                order: object.endian,
                program: def.name.clone(),
                unpriv,
                spec: spec.clone(),
                beside: beside.clone(),
                target: target.clone(),
            };
            let description = case.spec.description.as_ref();
            let description = description.map(|d| format!(" ({d})")).unwrap_or_default();
            let suffix = if unpriv { " @unpriv" } else { "" };
            let name = name(&format!("{suffix}{description}"));
            out.push(Case { name, path: file, line, body: Body::Other(Box::new(case)) });
        }
    }
    Ok(out)
}

/// A source as it is named from here: compilers name it from the folder that they were in, which
/// is often the object's.
fn found(object: &Path, source: &Path) -> PathBuf {
    let beside = object.parent().map(|p| p.join(source.strip_prefix("./").unwrap_or(source)));
    beside.filter(|b| !source.exists() && b.exists()).unwrap_or_else(|| source.to_path_buf())
}

/// A program with a tag that cannot be read: that is told once, or by each engine alone.
#[derive(Debug)]
struct Unread {
    order: Endian,
    why: String,
}

impl Runner for Unread {
    fn run(&self, options: &Options) -> Vec<Record> {
        let verifier = Engine::Verifier { big: self.order == Endian::Big };
        let engines = match options.engines.contains(&verifier) {
            true => &[verifier][..],
            false => &options.engines,
        };
        let of = |e: &&Engine| e.order() == self.order;
        let told = |e: &Engine| record(*e, Outcome::Fail, "", "", &self.why);
        engines.iter().filter(of).map(told).collect()
    }
}

thread_local! {
    /// The object this thread worked on last.
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

/// An object, for what it was opened, and what it is then.
type Last = (PathBuf, Arc<Target>, Rc<World>);

fn world(path: &Path, target: &Arc<Target>) -> Option<Rc<World>> {
    let same = |l: &&Last| l.0 == path && Arc::ptr_eq(&l.1, target);
    let last = LAST.with_borrow(|l| l.as_ref().filter(same).map(|l| l.2.clone()));
    if last.is_some() {
        return last;
    }
    let world = Rc::new(World::open_for(path, None, target).ok()?);
    LAST.set(Some((path.to_path_buf(), target.clone(), world.clone())));
    Some(world)
}

impl Runner for Annotated {
    fn run(&self, options: &Options) -> Vec<Record> {
        let verifier = Engine::Verifier { big: self.order == Endian::Big };
        let mut out = Vec::new();
        if options.engines.contains(&verifier) {
            let began = Instant::now();
            let mut r = self.verdict(verifier, options);
            r.wall_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            out.push(r);
        }
        if options.engines.contains(&Engine::Host) && self.order == Endian::Little {
            let began = Instant::now();
            let asked = host::with(self.caps(), |k, target| self.ask(k, target));
            let skip = |why: String| record(Engine::Host, Outcome::Skip, "", "", &why);
            let r = asked.and_then(|asked| asked).unwrap_or_else(skip);
            let wall_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            out.push(Record { wall_us, ..r });
        }
        let mode = self.spec.mode(self.unpriv);
        let runs = |e: &&Engine| matches!(e, Engine::Jit(_) | Engine::Interpreter { .. });
        for engine in options.engines.iter().filter(runs).filter(|e| e.order() == self.order) {
            if mode.failure {
                continue;
            }
            let began = Instant::now();
            let r = match mode.retval {
                Some(want) => Some(self.returned(*engine, mode, want, options)),
                None => mode
                    .not_compared(*engine)
                    .map(|note| record(*engine, Outcome::Unsupported, "", "", note)),
            };
            let wall_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            out.extend(r.map(|r| Record { wall_us, ..r }));
        }
        out
    }
}

fn record(engine: Engine, outcome: Outcome, expected: &str, got: &str, note: &str) -> Record {
    let [expected, got, note] = [expected, got, note].map(str::to_owned);
    Record { expected, got, note, ..Record::new(engine, outcome) }
}

impl Annotated {
    fn for_arch(&self, arch: Arch) -> bool {
        self.spec.archs.is_empty() || self.spec.archs.contains(&Some(arch))
    }

    fn caps(&self) -> Caps {
        if !self.unpriv {
            return Caps::ALL;
        }
        let has =
            |name: &str, number: &str| self.spec.caps.iter().any(|c| c == name || c == number);
        if has("CAP_SYS_ADMIN", "21") {
            return Caps::ALL;
        }
        Caps {
            bpf: has("CAP_BPF", "39"),
            perfmon: has("CAP_PERFMON", "38"),
            net_admin: has("CAP_NET_ADMIN", "12"),
        }
    }

    /// What the verifier says of the program.
    fn verdict(&self, engine: Engine, options: &Options) -> Record {
        let mode = self.spec.mode(self.unpriv);
        let want = mode.verdict();
        if !self.for_arch(default_arch(self.order)) {
            let note = "the test is for other architectures";
            return record(engine, Outcome::Skip, want, "", note);
        }
        if self.spec.without_jit {
            let note = "the test is for kernels without a JIT";
            return record(engine, Outcome::Skip, want, "", note);
        }
        let Some(world) = world(&self.path, &self.target) else {
            return record(engine, Outcome::Fail, want, "", "the object cannot be opened");
        };
        let Some(def) = world.object.program(&self.program) else {
            return record(engine, Outcome::Fail, want, "", "the object lost the program");
        };
        let mut calls = None;
        let mut linked = match self.own_btf() {
            Ok(Some(btf)) => world.link_to(def, &btf),
            Ok(None) => world.link_alone(def),
            Err(e) => return record(engine, Outcome::Unsupported, want, "", &e),
        };
        if let Ok(p) = &mut linked {
            p.flags = (p.flags | self.spec.flags) & !self.spec.cleared;
            let types: Vec<_> = world.object.maps().iter().map(|m| m.map_type).collect();
            options.covers(|c| c.program(&p.insns));
            calls = Some((p.insns.clone(), types));
        }
        let level = if self.spec.log_level == 0 { 1 } else { self.spec.log_level };
        let opts = self.target.opts_for(self.caps(), level);
        let row = judge_linked(&world, &self.path, def, linked, opts);
        let words = row.error_line.clone().unwrap_or_default();
        let mut r = self.judged(engine, (row.verdict, row.exit), &words, &row.log);
        if let (Verdict::Accepted, Some((insns, types))) = (row.verdict, calls) {
            options.covers(|c| c.calls(&insns, world.kernel_btf(), &types));
        }
        if row.verdict == Verdict::Rejected {
            options.covers(|c| c.refused(&row.message, &row.log));
            r.at = self.rejected_at(&row.log);
        }
        if r.outcome == Outcome::Pass && !mode.xlated.is_empty() {
            self.rewritten(mode, &mut r);
        }
        if r.note.is_empty() && !self.spec.unknown.is_empty() {
            r.note = format!("tags that are not known: {}", self.spec.unknown.join(", "));
        }
        r
    }

    /// The source line a log ends at.
    fn rejected_at(&self, log: &str) -> Option<(PathBuf, u32)> {
        let (file, line) = log.lines().rev().find_map(|l| {
            let (_, place) = l.strip_prefix("; ")?.rsplit_once(" @ ")?;
            let (file, line) = place.rsplit_once(':')?;
            Some((file, line.parse().ok()?))
        })?;
        // A log has the file's last name, the object all of it.
        let whole = self.source.file_name().is_some_and(|name| name == file);
        Some((if whole { self.source.clone() } else { file.into() }, line))
    }

    /// A verdict against the expectation.
    fn judged(
        &self,
        engine: Engine,
        (verdict, exit): (Verdict, Exit),
        said: &str,
        log: &str,
    ) -> Record {
        let mode = self.spec.mode(self.unpriv);
        let want = mode.verdict();
        match verdict {
            Verdict::Unsupported => record(engine, Outcome::Unsupported, want, said, ""),
            // A loader that gives up is a load that fails.
            Verdict::Error if mode.failure && mode.messages.is_empty() => {
                record(engine, Outcome::Pass, want, "rejected", said)
            }
            Verdict::Error if exit == Exit::BadInput => {
                record(engine, Outcome::Unsupported, want, said, "it does not fit this kernel")
            }
            Verdict::Error if exit == Exit::Internal => {
                Record { kind: Kind::Internal, ..record(engine, Outcome::Fail, want, said, "") }
            }
            Verdict::Error => record(engine, Outcome::Fail, want, said, ""),
            Verdict::Accepted if mode.failure => {
                record(engine, Outcome::Fail, want, "accepted", "it should be rejected")
            }
            Verdict::Rejected if !mode.failure => {
                record(engine, Outcome::Fail, want, "rejected", said)
            }
            Verdict::Accepted | Verdict::Rejected => {
                let quiet = verdict == Verdict::Accepted && self.spec.log_level == 0;
                let log = if quiet { "" } else { log };
                match unmet(log, &mode.messages) {
                    None => record(engine, Outcome::Pass, want, want, ""),
                    Some(what) => {
                        let line = error_line(log).unwrap_or_default();
                        record(engine, Outcome::Fail, want, &line, &format!("the log: {what}"))
                    }
                }
            }
        }
    }

    /// What the kernel of this machine says, and what the program returns in it; or why it is not
    /// asked.
    fn ask(&self, k: &mut HostKernel, target: &Arc<Target>) -> Result<Record, String> {
        let mode = self.spec.mode(self.unpriv);
        let elsewhere = !self.for_arch(Arch::X86_64) || self.spec.without_jit;
        match () {
            () if elsewhere => return Err("the test is for other kernels".to_owned()),
            () if self.spec.btf_path.is_some() => return Err("it brings types along".to_owned()),
            () => {}
        }
        let world = world(&self.path, target).ok_or("the object cannot be opened")?;
        let def = world.object.program(&self.program).ok_or("the object lost the program")?;
        let mut program = world.link_alone(def).map_err(|e| e.to_string())?;
        program.flags = (program.flags | self.spec.flags) & !self.spec.cleared;
        host::may_be_sent(k, &program)?;
        let bytes = std::fs::read(&self.path).map_err(|e| e.to_string())?;
        let maps = maps_of(k, &self.path, &bytes).map_err(|e| e.to_string())?;
        let level = if self.spec.log_level == 0 { 1 } else { self.spec.log_level };
        let ops = struct_ops_member(&world.object, &program.name);
        let ops = ops.as_ref().map(|(ty, member)| (ty.as_str(), member.as_str()));
        let to = LoadFor { struct_ops: ops, program: None };
        let said = k.load_program(&program, &maps, world.object.btf(), &to, level);
        let said = said.map_err(|e| format!("not sent: {e}"))?;
        host::permitted(&said)?;
        let verdict = if said.errno == 0 { Verdict::Accepted } else { Verdict::Rejected };
        let words = said.reason().unwrap_or_default().to_owned();
        let mut r = self.judged(Engine::Host, (verdict, Exit::Ok), &words, &said.log);
        if let (Outcome::Pass, Some(fd), false) = (r.outcome, said.fd, mode.xlated.is_empty()) {
            let code = k.prog_detail(fd).map_err(|e| format!("accepted; its code: {e}"))?.xlated;
            let text = xlated::theirs(&code).map_err(|e| format!("accepted; its code: {e}"))?;
            if let Some(what) = unmet(&text, &mode.xlated) {
                let r = record(Engine::Host, Outcome::Fail, XLATED[0], XLATED[1], &what);
                return Ok(Record { details: text, ..r });
            }
        }
        if let (Outcome::Pass, Some(fd), Some(want)) = (r.outcome, said.fd, mode.retval) {
            r = match program.insns.iter().any(is_tail_call) {
                true => {
                    let note = "accepted; the programs that it calls are not in this kernel";
                    record(Engine::Host, Outcome::Skip, &want.to_string(), "", note)
                }
                false => returned_there(k, fd, program.prog_type, want, mode),
            };
        }
        if let (Outcome::Pass, Some(what)) = (r.outcome, mode.not_compared(Engine::Host)) {
            (r.outcome, r.note) = (Outcome::Unsupported, what.to_owned());
        }
        Ok(r)
    }

    /// The BTF that a test brings with it, from a file beside the object.
    fn own_btf(&self) -> Result<Option<Btf>, String> {
        let Some(name) = &self.spec.btf_path else { return Ok(None) };
        let path = self.path.with_file_name(name);
        let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let object = Object::parse(&bytes).map_err(|e| e.to_string())?;
        Ok(object.btf().cloned())
    }

    /// `__retval`: the program loaded into a machine and run once.
    fn returned(&self, engine: Engine, mode: &Mode, want: i32, options: &Options) -> Record {
        let want = want.to_string();
        let note = mode.not_compared(engine);
        let arch = match engine {
            Engine::Jit(arch) => arch,
            _ => default_arch(self.order),
        };
        if !self.for_arch(arch) {
            let note = "the test is for other architectures";
            return record(engine, Outcome::Skip, &want, "", note);
        }
        if self.spec.linear {
            let note = "a test run with a packet in fragments (Linux 6.19)";
            return record(engine, Outcome::Unsupported, &want, "", note);
        }
        match self.run_on(engine, arch, options) {
            Ok((got, streams)) if mode.returns(got) => {
                let mut both = streams.iter().zip(&mode.streams);
                if let Some(what) = both.find_map(|(text, wanted)| unmet(text, wanted)) {
                    let said = streams.concat().trim_end().to_owned();
                    let traced = matches!(engine, Engine::Interpreter { .. })
                        && said.contains("Call trace:");
                    let (outcome, what) = match traced {
                        true => (Outcome::Skip, "there are no native frames to walk".to_owned()),
                        false => (Outcome::Fail, what),
                    };
                    return record(engine, outcome, STREAMS, &said, &what);
                }
                // The result is right; what is said of the code is not judged.
                let outcome = if note.is_some() { Outcome::Unsupported } else { Outcome::Pass };
                let got = got.cast_signed().to_string();
                record(engine, outcome, &want, &got, note.unwrap_or_default())
            }
            Ok((got, _)) => {
                let got = got.cast_signed().to_string();
                let (outcome, note) = match self.unpriv {
                    true => (Outcome::Unsupported, "it was loaded with all capabilities"),
                    false => (Outcome::Fail, "the program returns something else"),
                };
                record(engine, outcome, &want, &got, note)
            }
            Err((outcome, why)) => record(engine, outcome, &want, "", &why),
        }
    }

    /// What the program returns, and writes to stdout and stderr.
    fn run_on(
        &self,
        engine: Engine,
        arch: Arch,
        options: &Options,
    ) -> Result<Came, (Outcome, String)> {
        let config = Config { run_insns_max: options.insns_max, ..Config::default() };
        let broken = |e: &dyn std::fmt::Display| (Outcome::Fail, e.to_string());
        let bytes = std::fs::read(&self.path).map_err(|e| broken(&e))?;
        let mut machine = Machine::new(arch, config).map_err(|e| broken(&e))?;
        let mut programs = self.beside.clone();
        if !programs.contains(&self.program) {
            programs.push(self.program.clone());
        }
        let opts = LoadOptions {
            programs: Some(programs),
            alone: true,
            kconfig: kernel_model::kconfig::kconfig(arch),
            ..LoadOptions::default()
        };
        let loaded = machine.load_object(&bytes, &opts).map_err(|e| match e {
            MachineError::Load(LoadError::Rejected { rejection, .. }) => {
                let why = format!("the modelled kernel does not take it: {rejection}");
                (Outcome::Unsupported, why)
            }
            MachineError::Load(e) => (Outcome::Unsupported, e.to_string()),
            e => (Outcome::Fail, e.to_string()),
        })?;
        let prog = loaded.prog(&self.program).ok_or((Outcome::Fail, "not loaded".to_owned()))?;
        let def = loaded.object.program(&self.program);
        let kind = def.and_then(|d| d.sec.as_ref()).map_or(ProgType::Unspec, |s| s.prog_type);
        let out = match engine {
            Engine::Interpreter { .. } => {
                let ran = interpreted::test_run(
                    &mut machine,
                    prog.fd,
                    &given(kind),
                    options.insns_max.min(INTERPRETED_MAX),
                );
                ran.map_err(|miss| match miss {
                    Miss::Absent(why) => (Outcome::Skip, why),
                    Miss::Unsupported(what) => (Outcome::Unsupported, what),
                    other => (Outcome::Fail, other.to_string()),
                })?
            }
            _ => machine.test_run(prog.fd, &given(kind)).map_err(|e| match e.why {
                Why::Unsupported(what) => (Outcome::Unsupported, what),
                _ => (Outcome::Fail, format!("the test run failed: {}", e.errno)),
            })?,
        };
        let streams = [StreamId::Out, StreamId::Err].map(|id| {
            let bytes = machine.kernel.stream_text(ProgId(prog.id), id);
            String::from_utf8_lossy(&bytes).into_owned()
        });
        Ok((out.retval, streams))
    }

    /// `__xlated`: the program as it is rewritten for the modelled kernel, as 6.18 does.
    fn rewritten(&self, mode: &Mode, r: &mut Record) {
        let verified = self.verified().map(|v| (xlated::ours(&v), xlated::calls(&v)));
        if let Ok((text, _)) = &verified {
            r.details.clone_from(text);
        }
        let unmet = |text: String| unmet(&text, &mode.xlated);
        let (outcome, note) = match verified.map(|(text, calls)| (unmet(text), calls)) {
            Ok((None, _)) => return r.details.clear(),
            Ok((Some(what), false)) => (Outcome::Fail, what),
            // Which calls are inlined differs by version and architecture.
            Ok((Some(what), true)) => {
                (Outcome::Unsupported, format!("{what}, in a program that calls the kernel"))
            }
            Err(what) => (Outcome::Unsupported, what),
        };
        (r.outcome, r.note) = (outcome, note);
        (r.expected, r.got) = (XLATED[0].to_owned(), XLATED[1].to_owned());
    }

    fn verified(&self) -> Result<Verified, String> {
        if self.caps() != Caps::ALL {
            return Err("programs of unprivileged loaders are not rewritten here".to_owned());
        }
        let world = World::open(&self.path, None).map_err(|_| "it is not opened".to_owned())?;
        let def = world.object.program(&self.program).ok_or("it is not there")?;
        let mut program = world.link_alone(def).map_err(|e| e.to_string())?;
        program.flags = (program.flags | self.spec.flags) & !self.spec.cleared;
        world.verify(program, 0).result.map_err(|e| e.to_string())
    }
}

/// What is expected of the rewritten program, and what came.
const XLATED: [&str; 2] = ["__xlated", "accepted, as other instructions"];

/// What is expected of stdout and stderr.
const STREAMS: &str = "what it writes";

/// What a program is run with.
fn given(kind: ProgType) -> TestRunIn<'static> {
    match kind {
        ProgType::Syscall | ProgType::RawTracepoint => TestRunIn::default(),
        _ => TestRunIn { data: &DATA, data_out: DATA.len() * 4, repeat: 1, ..Default::default() },
    }
}

/// `__stdout` and `__stderr` in the kernel of this machine: what was written and what is missing.
fn streams_there(k: &HostKernel, fd: i32, mode: &Mode) -> Result<Option<(String, String)>, Errno> {
    for (id, wanted) in [StreamId::Out, StreamId::Err].into_iter().zip(&mode.streams) {
        if wanted.is_empty() {
            continue;
        }
        let said = k.stream(fd, id)?;
        if let Some(what) = unmet(&said, wanted) {
            return Ok(Some((said, what)));
        }
    }
    Ok(None)
}

/// `__retval` in the kernel of this machine.
fn returned_there(k: &HostKernel, fd: i32, kind: ProgType, want: i32, mode: &Mode) -> Record {
    let expected = want.to_string();
    let of = |outcome, got: &str, note: &str| record(Engine::Host, outcome, &expected, got, note);
    match k.test_run(fd, &given(kind)) {
        Err(e) => of(Outcome::Skip, "", &format!("accepted; this kernel does not run it: {e}")),
        Ok(out) => {
            let got = out.retval.cast_signed().to_string();
            if !mode.returns(out.retval) {
                return of(Outcome::Fail, &got, "the program returns something else");
            }
            match streams_there(k, fd, mode) {
                Ok(None) => of(Outcome::Pass, &got, ""),
                Ok(Some((said, what))) => {
                    record(Engine::Host, Outcome::Fail, STREAMS, said.trim_end(), &what)
                }
                Err(e) => of(Outcome::Skip, &got, &format!("its streams are not read: {e}")),
            }
        }
    }
}
