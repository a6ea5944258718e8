//! Annotated assembly: `; == TITLE: accepted` or `; == TITLE: !INSN MESSAGE`, and a program.
//!
//! The maps are those of the headers, the types those of the kernel that verdicts are for; a line
//! `; kernel VERSION` says which version of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use bpf::btf::{Btf, BtfBuilder, Kind, Linkage};
use bpf::insn::asm::{Symbols, assemble};
use bpf::uapi::ProgType;
use bpf::{Endian, Program};
use kernel_model::types::Types;
use verifier::env::{BtfKernel, MapInfo};
use verifier::tables::Level;
use verifier::verify::{CheckReport, Options as VerifyOptions, check};

use crate::cli::target::Target;
use crate::conform::{Body, Case, Engine, Options, Outcome, Record, Runner};

/// `BPF_F_SLEEPABLE`: programs of type syscall can only be.
const SLEEPABLE: u32 = 1 << 4;

#[derive(Debug)]
struct Judged {
    text: String,
    want: String,
    target: Arc<Target>,
}

/// The cases of a file.
pub(super) fn cases(path: &Path, text: &str, target: &Arc<Target>) -> Vec<Case> {
    let mut head = String::new();
    let mut out: Vec<(u32, String, String)> = Vec::new();
    for (n, line) in (1..).zip(text.lines()) {
        match (line.strip_prefix("; == "), out.last_mut()) {
            (Some(title), _) => out.push((n, title.to_owned(), head.clone())),
            (None, Some((.., body))) => *body += &format!("{line}\n"),
            (None, None) if line.starts_with("; map ") || line.starts_with("; kernel ") => {
                head += &format!("{line}\n");
            }
            (None, None) => {}
        }
    }
    let case = |(line, title, text): (u32, String, String)| {
        let (name, body) = match title.split_once(": ") {
            Some((name, want)) => {
                let judged = Judged { text, want: want.to_owned(), target: target.clone() };
                (name.to_owned(), Body::Other(Box::new(judged)))
            }
            None => (title.clone(), Body::Bad(format!("'{title}' expects nothing"))),
        };
        let name = format!("{}:{line}: {name}", path.display());
        Case { name, path: PathBuf::from(path), line, body }
    };
    out.into_iter().map(case).collect()
}

/// Kfuncs by name.
struct Kfuncs<'a>(&'a Btf);

impl Symbols for Kfuncs<'_> {
    fn kfunc(&self, name: &str) -> Option<(i32, i16)> {
        let id = self.0.find(name, Kind::Func)?;
        Some((i32::try_from(id).ok()?, 0))
    }
}

impl Runner for Judged {
    fn run(&self, options: &Options) -> Vec<Record> {
        let engine = Engine::Verifier { big: false };
        if !options.engines.contains(&engine) {
            return Vec::new();
        }
        let began = Instant::now();
        let (outcome, got, note) = match self.judge() {
            Ok(got) if got == self.want => (Outcome::Pass, got, String::new()),
            Ok(got) => (Outcome::Fail, got, "the verdict is another".to_owned()),
            Err(what) => (Outcome::Unsupported, String::new(), what),
        };
        let wall_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        let (expected, details) = (self.want.clone(), String::new());
        vec![Record { engine, outcome, expected, got, note, details, at: None, wall_us }]
    }
}

impl Judged {
    /// The verdict as titles write it, or what there is not.
    fn judge(&self) -> Result<String, String> {
        let real = self.target.real.as_ref();
        let btf =
            real.map_or_else(|| Types::of(bpf::Arch::X86_64).btf().clone(), |r| r.btf.clone());
        let mut a = assemble(&self.text, &Kfuncs(&btf)).map_err(|e| e.to_string())?;
        let mut program = a.progs.pop().ok_or("there is no program")?;
        // As when a kernel is given no line info.
        program.lines.clear();
        if program.prog_type == ProgType::Syscall {
            program.flags |= SLEEPABLE;
        }
        let kernel = BtfKernel {
            btf,
            maps: MapInfo::of_assembly(&a),
            cpus: real.map_or(8192, |r| r.cpus),
            symbols: real.and_then(|r| r.ksyms.all()),
        };
        let mut opts = self.target.opts(0);
        if let Some(version) = self.text.lines().find_map(|l| l.strip_prefix("; kernel ")) {
            opts.level = level(version.trim()).ok_or_else(|| format!("kernel '{version}'"))?;
        }
        let own = own_types(&self.text, &mut program);
        let fds: Vec<i32> = (0..kernel.maps.len()).map(BtfKernel::fd).collect();
        let options = VerifyOptions {
            opts,
            fd_array: &fds,
            prog_btf: own.as_ref(),
            endian: Endian::Little,
            ..VerifyOptions::default()
        };
        verdict(&check(&program, &kernel, &options))
    }
}

fn verdict(r: &CheckReport) -> Result<String, String> {
    match &r.result {
        Ok(()) => Ok("accepted".to_owned()),
        Err(r) if r.is_unsupported() => Err(r.message.clone()),
        Err(r) => {
            let at = r.insn.map_or(-1, |i| i64::from(i.0));
            Ok(format!("!{at} {}", r.message.replace('\n', "\\n")))
        }
    }
}

fn level(text: &str) -> Option<Level> {
    let (major, minor) = text.split_once('.')?;
    Some(Level(major.parse().ok()?, minor.parse().ok()?))
}

/// `; func NAME N`: functions of the program that take N integers; the main one takes the context.
fn own_types(text: &str, program: &mut Program) -> Option<Btf> {
    let of = |l: &str| {
        let (name, n) = l.strip_prefix("; func ")?.rsplit_once(' ')?;
        Some((name.to_owned(), n.parse::<usize>().ok()?))
    };
    let counts: Vec<(String, usize)> = text.lines().filter_map(of).collect();
    if counts.is_empty() {
        return None;
    }
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, true);
    let ctx = b.structure("__sk_buff", 192, &[]);
    let ctx = b.ptr(ctx);
    for f in &mut program.funcs {
        let n = counts.iter().find(|c| c.0 == f.name).map(|c| c.1);
        let params = n.map_or(vec![("skb", ctx)], |n| vec![("x", int); n]);
        let linkage = if n.is_some() { Linkage::Static } else { Linkage::Global };
        f.type_id = b.func(&f.name, linkage, int, &params);
    }
    b.finish().ok()
}
