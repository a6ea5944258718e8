//! Annotated assembly ([`verifier::annotated`]), judged for the kernel that verdicts are for; on
//! the kernel of this machine, the verdict and its words.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bpf::Endian;
use kernel_model::types::Types;
use verifier::annotated::{Titled, read, verdict};
use verifier::env::BtfKernel;
use verifier::tables::Level;
use verifier::verify::{Options as VerifyOptions, check};

use super::host;
use crate::cli::fuzz::made;
use crate::cli::judge::error_line;
use crate::cli::target::Target;
use crate::cli::why::rule_name;
use crate::conform::{Body, Case, Engine, Options, Outcome, Record, Runner};
use crate::host::{HostKernel, LoadFor};
use crate::loader::Bpf as _;

#[derive(Debug)]
struct Judged {
    text: String,
    want: String,
    target: Arc<Target>,
}

/// The cases of a file.
pub(super) fn cases(path: &Path, text: &str, target: &Arc<Target>) -> Vec<Case> {
    let case = |t: Titled| {
        let body = match t.want {
            Some(want) => {
                Body::Other(Box::new(Judged { text: t.text, want, target: target.clone() }))
            }
            None => Body::Bad(format!("'{}' expects nothing", t.title)),
        };
        let name = format!("{}:{}: {}", path.display(), t.line, t.title);
        Case { name, path: PathBuf::from(path), line: t.line, body }
    };
    read(text).into_iter().map(case).collect()
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
                Engine::Host => match host::with(|k, _| self.ask(k)) {
                    Ok(Ok(got)) if self.says(&got) => (Outcome::Pass, got, String::new()),
                    Ok(Ok(got)) => (Outcome::Fail, got, "this kernel says something else".into()),
                    Ok(Err(why)) | Err(why) => (Outcome::Skip, String::new(), why),
                },
                _ => continue,
            };
            let wall_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            let (engine, expected, details) = (*engine, self.want.clone(), String::new());
            out.push(Record { engine, outcome, expected, got, note, details, at: None, wall_us });
        }
        out
    }
}

impl Judged {
    /// The verdict as titles write it, or what there is not.
    fn judge(&self, options: &Options) -> Result<String, String> {
        let real = self.target.real.as_ref();
        let btf =
            real.map_or_else(|| Types::of(bpf::Arch::X86_64).btf().clone(), |r| r.btf.clone());
        let case = verifier::annotated::Case::new(&self.text, &btf)?;
        let types: Vec<_> = case.maps.iter().map(|m| m.map_type).collect();
        options.covers(|c| {
            c.program(&case.program.insns);
            c.map_calls(&case.program.insns, &types);
        });
        let kernel = BtfKernel {
            btf,
            maps: case.maps,
            cpus: real.map_or(8192, |r| r.cpus),
            symbols: real.and_then(|r| r.ksyms.all()),
        };
        let mut opts = self.target.opts(0);
        opts.level = case.level.unwrap_or(opts.level);
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
            Err(r) => {
                let words = r.message.lines().last().unwrap_or_default();
                options.covers(|c| c.rule(rule_name(words)));
            }
            Ok(()) => {}
        }
        Ok(verdict(&report))
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
        let said = k.load_program(&case.program, &maps, own, &LoadFor::default(), 1);
        let said = said.map_err(|e| format!("not sent: {e}"))?;
        host::permitted(&said)?;
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
