//! One annotated program: assembled, and verified beside the kernel of [`super::Env`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bpf::Program;
use bpf::btf::{Btf, BtfBuilder, Kind, Linkage};
use bpf::insn::asm::{Symbols, assemble};
use bpf::uapi::ProgType;
use verifier::env::MapInfo;
use verifier::explore::Opts;
use verifier::tables::Level;
use verifier::verify::{CheckReport, Options, check};

use super::{BPF_F_SLEEPABLE, Env, kernel_btf};

/// Kfuncs by name.
pub(crate) struct Kfuncs<'a>(pub(crate) &'a Btf);

impl Symbols for Kfuncs<'_> {
    fn kfunc(&self, name: &str) -> Option<(i32, i16)> {
        let id = self.0.find(name, Kind::Func)?;
        Some((i32::try_from(id).ok()?, 0))
    }
}

/// A version of the kernel, MAJOR.MINOR.
fn kernel(text: &str) -> Level {
    let (major, minor) = text.split_once('.').expect("a version has two numbers");
    Level(major.parse().expect("a number"), minor.parse().expect("a number"))
}

/// A program and what it is verified beside.
pub(crate) struct Case {
    /// The program.
    pub(crate) program: Program,
    /// Its maps and the kernel's types.
    pub(crate) env: Env,
    level: Level,
    /// Its own types.
    own: Option<Btf>,
}

/// `; func NAME N` of a case: its functions take N integers; the main one takes the context.
fn own_types(text: &str, program: &mut Program) -> Option<Btf> {
    let of = |l: &str| {
        let (name, n) = l.strip_prefix("; func ")?.rsplit_once(' ')?;
        Some((name.to_owned(), n.parse::<usize>().expect("a number")))
    };
    let counts: BTreeMap<String, usize> = text.lines().filter_map(of).collect();
    if counts.is_empty() {
        return None;
    }
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, true);
    let ctx = b.structure("__sk_buff", 192, &[]);
    let ctx = b.ptr(ctx);
    for f in &mut program.funcs {
        let n = counts.get(&f.name);
        let params = n.map_or(vec![("skb", ctx)], |n| vec![("x", int); *n]);
        let linkage = if n.is_some() { Linkage::Static } else { Linkage::Global };
        f.type_id = b.func(&f.name, linkage, int, &params);
    }
    Some(b.finish().expect("types of a case"))
}

impl Case {
    /// Assembles.
    pub(crate) fn new(text: &str) -> Case {
        let btf = kernel_btf();
        let mut a = assemble(text, &Kfuncs(&btf)).expect("a case assembles");
        let maps = MapInfo::of_assembly(&a);
        let mut program = a.progs.pop().expect("a case is a program");
        // The kernel was given no line info.
        program.lines.clear();
        if program.prog_type == ProgType::Syscall {
            program.flags |= BPF_F_SLEEPABLE;
        }
        let level = text.lines().find_map(|l| l.strip_prefix("; kernel ")).map(kernel);
        let own = own_types(text, &mut program);
        Case { program, env: Env { maps, btf }, level: level.unwrap_or_default(), own }
    }

    /// Verifies.
    pub(crate) fn check(&self, opts: Opts) -> CheckReport {
        let opts = Opts { level: self.level, ..opts };
        let fds: Vec<i32> = (0..).take(self.env.maps.len()).collect();
        let prog_btf = self.own.as_ref();
        let options = Options { opts, fd_array: &fds, prog_btf, ..Options::default() };
        check(&self.program, &self.env, &options)
    }
}

/// What is expected of a case, as its title says it.
pub(crate) fn verdict(r: &CheckReport) -> String {
    match &r.result {
        Ok(()) => "accepted".to_string(),
        Err(r) => {
            let at = r.insn.map_or(-1, |i| i64::from(i.0));
            format!("!{at} {}", r.message.replace('\n', "\\n"))
        }
    }
}

/// The cases of one file: title, expectation and text.
pub(crate) fn read(path: &Path) -> Vec<(String, String, String)> {
    let text = std::fs::read_to_string(path).expect("a case file is readable");
    let mut parts = text.split("; == ");
    let head = parts.next().unwrap_or_default();
    let headers: String = head
        .lines()
        .filter(|l| l.starts_with("; map ") || l.starts_with("; kernel "))
        .map(|l| format!("{l}\n"))
        .collect();
    let case = |case: &str| {
        let (title, body) = case.split_once('\n').expect("a title has a line");
        let (name, want) = title.split_once(": ").expect("a title has an expectation");
        (name.to_owned(), want.to_owned(), format!("{headers}{body}"))
    };
    parts.map(case).collect()
}

/// The files of a directory of cases, in order.
pub(crate) fn files(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(dir);
    let files = std::fs::read_dir(dir).expect("the case directory");
    let mut paths: Vec<_> = files.map(|f| f.expect("an entry").path()).collect();
    paths.sort();
    paths
}
