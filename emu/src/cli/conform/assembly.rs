//! Annotated assembly ([`verifier::annotated`]), judged for the kernel that verdicts are for; on
//! the kernel of this machine, the verdict and its words.

use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use bpf::btf::{Btf, Kind};
use bpf::uapi::ProgType;
use bpf::{Arch, Program};
use kernel_model::types::Types;
use regex::Regex;
use verifier::annotated::types::types;
use verifier::annotated::{Titled, read, verdict};
use verifier::caps::Caps;
use verifier::env::BtfKernel;
use verifier::tables::Level;

use super::host;
use crate::cli::fuzz::made;
use crate::cli::judge::error_line;
use crate::cli::target::Target;
use crate::conform::{Body, Case, Engine, Options, Outcome, Record, Runner};
use crate::host::{HostKernel, LoadFor};
use crate::loader::{Bpf as _, Fd};

#[derive(Debug)]
struct Judged {
    text: String,
    want: String,
    /// Types of the kernel that it is judged for; the target's when there are none.
    types: Option<Arc<Btf>>,
    target: Arc<Target>,
}

/// The id of a type in a message.
static TYPE_ID: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\bid \d+").expect("the expression is right"));

/// What a kernel says where it has not what a case is about.
const LACKING: &[(&str, &str)] = &[
    ("is not a supported struct", "this kernel has no such struct_ops"),
    ("missing btf func_info", "the case has no types of its functions"),
];

/// The cases of a file.
///
/// # Errors
/// The types that it names cannot be read.
pub(super) fn cases(path: &Path, text: &str, target: &Arc<Target>) -> Result<Vec<Case>, String> {
    let titled = read(text);
    let types = titled.first().and_then(|t| t.types.as_deref());
    let types = types.map(|name| kernel_types(&path.with_file_name(name))).transpose()?;
    let case = |t: Titled| {
        let name = format!("{}:{}: {}", path.display(), t.line, t.title);
        let body = match t.want {
            Some(want) => {
                let (text, types, target) = (t.text, types.clone(), target.clone());
                Body::Other(Box::new(Judged { text, want, types, target }))
            }
            None => Body::Bad(format!("'{}' expects nothing", t.title)),
        };
        Case { name, path: PathBuf::from(path), line: t.line, body }
    };
    Ok(titled.into_iter().map(case).collect())
}

/// The types of a kernel in a file.
fn kernel_types(path: &Path) -> Result<Arc<Btf>, String> {
    let bad = |e: String| format!("{}: {e}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    types(&text).map(Arc::new).map_err(bad)
}

impl Runner for Judged {
    fn run(&self, options: &Options) -> Vec<Record> {
        let mut out = Vec::new();
        for engine in &options.engines {
            let began = Instant::now();
            let (outcome, got, note) = match engine {
                Engine::Verifier { big: false } => match self.judge(options) {
                    Ok(got) if got == self.want => (Outcome::Pass, got, String::new()),
                    Ok(got) => (Outcome::Fail, got, "the verdict is another".to_owned()),
                    Err(what) => (Outcome::Unsupported, String::new(), what),
                },
                Engine::Host => match host::with(self.caps(), |k, _| self.ask(k)) {
                    Ok(Ok(got)) if self.says(&got) => (Outcome::Pass, got, String::new()),
                    Ok(Ok(got)) => (Outcome::Fail, got, "this kernel says something else".into()),
                    Ok(Err(why)) | Err(why) => (Outcome::Skip, String::new(), why),
                },
                _ => continue,
            };
            let wall_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            let expected = self.want.clone();
            let record = Record { expected, got, note, wall_us, ..Record::new(*engine, outcome) };
            out.push(record);
        }
        out
    }
}

impl Judged {
    /// The verdict as titles write it, or what there is not.
    fn judge(&self, options: &Options) -> Result<String, String> {
        let real = self.target.real.as_ref();
        let target =
            || real.map_or_else(|| Types::of(Arch::X86_64).btf().clone(), |r| r.btf.clone());
        let btf = self.types.clone().unwrap_or_else(target);
        let case = verifier::annotated::Case::new(&self.text, &btf)?;
        let types: Vec<_> = case.maps.iter().map(|m| m.map_type).collect();
        options.covers(|c| c.program(&case.program.insns));
        let mut kernel = case.kernel(btf, real.map_or(8192, |r| r.cpus));
        // Types that are given have the symbols that they name.
        let real_symbols = || real.filter(|_| self.types.is_none()).and_then(|r| r.ksyms.all());
        kernel.symbols = kernel.symbols.or_else(real_symbols);
        let fds: Vec<i32> = (0..kernel.maps.len()).map(BtfKernel::fd).collect();
        let report = case.check(&kernel, &fds, case.opts(self.target.opts(1)))?;
        match &report.result {
            Err(r) if r.is_unsupported() => return Err(r.message.clone()),
            Err(r) => options.covers(|c| c.refused(&r.message, &report.log)),
            Ok(()) => options.covers(|c| c.calls(&case.program.insns, Some(&kernel.btf), &types)),
        }
        Ok(verdict(&report))
    }

    /// Of the loader.
    fn caps(&self) -> Caps {
        verifier::annotated::caps_of(&self.text).ok().flatten().unwrap_or(Caps::ALL)
    }

    /// `accepted`, or `!` and the words of this kernel; or why it is not asked.
    fn ask(&self, k: &mut HostKernel) -> Result<String, String> {
        let case = verifier::annotated::Case::new(&self.text, k.vmlinux())?;
        let [_, major, minor, _] = k.version().to_be_bytes();
        if case.level.is_some_and(|l| l != Level(major, minor)) {
            return Err("the verdict is that of another version".to_owned());
        }
        host::may_be_sent(k, &case.program)?;
        let mut maps = Vec::new();
        for m in &case.maps {
            maps.push(k.map_create(&made(m), None).map_err(|e| format!("map {}: {e}", m.name))?);
        }
        if !case.is_of_any_kernel() {
            return Err("it is about a kernel that lacks something".to_owned());
        }
        let own = case.own.as_ref();
        let attached = |p: &Program| p.attach_to.clone().unwrap_or_default();
        let mut beneath = None;
        let program_of = |beneath: Option<Fd>, p: &Program| {
            let id = own.and_then(|btf| btf.find(&attached(p), Kind::Func));
            beneath.map(|fd| (fd, id.unwrap_or(0)))
        };
        for p in &case.beneath {
            let to = LoadFor { struct_ops: None, program: program_of(beneath, p) };
            let fd = k.load_program(p, &maps, own, &to, 1).ok().and_then(|said| said.fd);
            beneath = Some(fd.ok_or_else(|| format!("this kernel does not take {}", p.name))?);
        }
        let attached = attached(&case.program);
        let ops =
            attached.split_once('/').filter(|_| case.program.prog_type == ProgType::StructOps);
        let to = LoadFor { struct_ops: ops, program: program_of(beneath, &case.program) };
        let said = k.load_program(&case.program, &maps, own, &to, 1);
        let lacks = |e| format!("this kernel has nothing of the name {attached}: {e}");
        let said = said.map_err(lacks)?;
        host::permitted(&said)?;
        let lacks = |&&(words, _): &&(&str, &str)| said.reason().is_some_and(|r| r.contains(words));
        if let Some((_, why)) = LACKING.iter().find(lacks) {
            return Err((*why).to_owned());
        }
        Ok(match said.errno {
            0 => "accepted".to_owned(),
            errno => {
                let silent = || format!("errno {errno}");
                format!("! {}", error_line(&said.log).unwrap_or_else(silent))
            }
        })
    }

    /// Whether this kernel says what is wanted: a log does not number the instruction, its last
    /// line is that of a longer message, and types have other ids in other kernels.
    fn says(&self, got: &str) -> bool {
        let words = |v: &str| {
            let message = v.strip_prefix('!').and_then(|v| v.split_once(' ')).map(|v| v.1);
            let last = message.map(|m| m.rsplit("\\n").next().unwrap_or_default().trim_end());
            last.map(|m| TYPE_ID.replace_all(m, "id").into_owned())
        };
        words(got) == words(&self.want)
    }
}
