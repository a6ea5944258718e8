//! Annotated assembly ([`verifier::annotated`]), judged for the kernel that verdicts are for; on
//! the kernel of this machine, the verdict and its words.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bpf::btf::Btf;
use bpf::uapi::ProgType;
use bpf::{Arch, Endian};
use kernel_model::types::Types;
use verifier::annotated::types::types;
use verifier::annotated::{Titled, read, verdict};
use verifier::caps::Caps;
use verifier::env::BtfKernel;
use verifier::tables::Level;
use verifier::verify::{Options as VerifyOptions, check};

use super::host;
use crate::cli::fuzz::made;
use crate::cli::judge::error_line;
use crate::cli::target::Target;
use crate::conform::{Body, Case, Engine, Options, Outcome, Record, Runner};
use crate::host::{HostKernel, LoadFor};
use crate::loader::Bpf as _;

#[derive(Debug)]
struct Judged {
    text: String,
    want: String,
    /// Types of the kernel that it is judged for; the target's when there are none.
    types: Option<Arc<Btf>>,
    target: Arc<Target>,
}

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
        options.covers(|c| {
            c.program(&case.program.insns);
            c.map_calls(&case.program.insns, &types);
        });
        let kernel = BtfKernel {
            btf,
            maps: case.maps.clone(),
            cpus: real.map_or(8192, |r| r.cpus),
            // Types that are given have the symbols that they name.
            symbols: real.filter(|_| self.types.is_none()).and_then(|r| r.ksyms.all()),
        };
        let opts = case.opts(self.target.opts(0));
        let fds: Vec<i32> = (0..kernel.maps.len()).map(BtfKernel::fd).collect();
        let given = VerifyOptions {
            opts,
            fd_array: &fds,
            prog_btf: case.own.as_ref(),
            endian: Endian::Little,
            ..VerifyOptions::default()
        };
        let report = check(&case.program, &kernel, &given);
        match &report.result {
            Err(r) if r.is_unsupported() => return Err(r.message.clone()),
            Err(r) => options.covers(|c| c.refused(&r.message)),
            Ok(()) => {}
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
        let own = case.own.as_ref();
        let attached = case.program.attach_to.as_deref().unwrap_or_default();
        let ops =
            attached.split_once('/').filter(|_| case.program.prog_type == ProgType::StructOps);
        let to = LoadFor { struct_ops: ops, program: None };
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

    /// Whether this kernel says what is wanted: a log does not number the instruction, and its
    /// last line is that of a longer message.
    fn says(&self, got: &str) -> bool {
        let words = |v: &str| {
            let message = v.strip_prefix('!').and_then(|v| v.split_once(' ')).map(|v| v.1);
            message.map(|m| m.rsplit("\\n").next().unwrap_or_default().trim_end().to_owned())
        };
        words(got) == words(&self.want)
    }
}
