//! Annotated assembly: programs in one file, each with the verdict that a kernel gives.
//!
//! ```text
//!  ; types kernel.txt                 for the kernel with these types, beside the file: in front
//!  ; map counts array 4 8 1           maps of all programs: in front
//!  ; == TITLE: accepted               or !INSN MESSAGE, `\n` for a second line
//!  ; kernel 6.12                      judged for that version
//!  ; caps bpf,net_admin               of the loader; all when left out, or none
//!  ; flags 0x1                        as the program is loaded; `!0x10` without that
//!  ; license none                     GPL when left out
//!  ; without types                    the kernel has no BTF; `without symbol NAME`: no address of
//!                                     that; `without fd_array`: maps are not passed;
//!                                     `without func_info`: functions have no types;
//!                                     `without kernel`: no kernel is like this one, none is asked
//!  ; insns N                          the limit on instructions; `; memory N`: on bytes of states
//!  ; module N                         kernel functions are those of the module at N in `fd_array`
//!  ; func NAME N                      a function of N integers; the main one takes the context
//!  ; btf LINE                         instead: the programs' own types, as [`types`] reads them
//!  ; info INSN NAME                   a record of func_info, instead of those of the text: below
//!                                     `; prog`
//!  ; repeat N LINE                    N lines, each with its number from 0 for `#`
//!  ; prog socket p
//!  ...
//! ```
//!
//! Of several programs each is attached to the one before (`; prog freplace/FUNC q`) and the last
//! one is judged; the types are those of all.

pub mod types;

use std::collections::BTreeSet;
use std::sync::Arc;

use bpf::btf::{Body, Btf, BtfBuilder, Kind, Linkage};
use bpf::insn::asm::{Symbols, assemble};
use bpf::insn::{Call, Imm64, Insn, InsnIdx};
use bpf::program::Func;
use bpf::uapi::ProgType;
use bpf::{Endian, Program};

use crate::caps::Caps;
use crate::env::{BtfKernel, KernelEnv, MapInfo};
use crate::explore::Opts;
use crate::tables::Level;
use crate::target::{FuncFacts, Target};
use crate::verify::{CheckReport, Options, check};

/// `BPF_F_SLEEPABLE`: programs of type syscall can only be.
const SLEEPABLE: u32 = 1 << 4;

/// Kfuncs and variables of a kernel, by name.
#[derive(Clone, Copy, Debug)]
pub struct Kfuncs<'a>(pub &'a Btf);

impl Symbols for Kfuncs<'_> {
    fn kfunc(&self, name: &str) -> Option<(i32, i16)> {
        Some((self.0.find(name, Kind::Func)?.cast_signed(), 0))
    }

    fn ksym(&self, name: &str) -> Option<i32> {
        let found = [Kind::Var, Kind::Func].into_iter().find_map(|k| self.0.find(name, k));
        found.map(u32::cast_signed)
    }
}

/// One program of a file, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Titled {
    /// Line of the title, from 1.
    pub line: u32,
    /// What it is about.
    pub title: String,
    /// The verdict; None when the title says none.
    pub want: Option<String>,
    /// The file of the kernel's types, as it is named.
    pub types: Option<String>,
    /// The headers of the file, and the program.
    pub text: String,
}

/// The programs of a file.
#[must_use]
pub fn read(text: &str) -> Vec<Titled> {
    let (mut head, mut types, mut out) = (String::new(), None, Vec::<Titled>::new());
    for (line, words) in (1..).zip(text.lines()) {
        match (words.strip_prefix("; == "), out.last_mut()) {
            (Some(title), _) => {
                let (title, want) = match title.split_once(": ") {
                    Some((title, want)) => (title, Some(want.to_owned())),
                    None => (title, None),
                };
                let (title, types, text) = (title.to_owned(), types.clone(), head.clone());
                out.push(Titled { line, title, want, types, text });
            }
            (None, Some(last)) => last.text += &format!("{words}\n"),
            (None, None) if words.starts_with("; types ") => {
                types = words.strip_prefix("; types ").map(|t| t.trim().to_owned());
            }
            (None, None)
                if ["; map ", "; kernel ", "; without "].iter().any(|h| words.starts_with(h)) =>
            {
                head += &format!("{words}\n");
            }
            (None, None) => {}
        }
    }
    out
}

/// A program and what it is verified with.
#[derive(Clone, Debug)]
pub struct Case {
    /// The program.
    pub program: Program,
    /// Its maps, by index.
    pub maps: Vec<MapInfo>,
    /// The version it names.
    pub level: Option<Level>,
    /// Its own types.
    pub own: Option<Btf>,
    /// Capabilities of its loader, when it names them.
    pub caps: Option<Caps>,
    /// What it is attached to: programs, each attached to the one before.
    pub beneath: Vec<Program>,
    /// Maps are passed as an `fd_array`.
    pub fd_array: bool,
    /// What the kernel lacks.
    lacks: Vec<Lacks>,
    /// Instructions and bytes of states that are the limit, when it says so.
    limits: [Option<u32>; 2],
}

/// `; without`: what a kernel has not.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Lacks {
    Kernel,
    Types,
    Symbol(String),
}

impl Case {
    /// Assembles; kfuncs are those of a kernel's types.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str, kernel: &Btf) -> Result<Case, String> {
        let text = &repeated(text)?;
        let mut a = assemble(text, &Kfuncs(kernel)).map_err(|e| e.to_string())?;
        let maps = MapInfo::of_assembly(&a);
        let mut program = a.progs.pop().ok_or("there is no program")?;
        let mut beneath = a.progs;
        let level = level_of(text)?;
        let caps = caps_of(text)?;
        for p in beneath.iter_mut().chain([&mut program]) {
            // As when a kernel is given no line info.
            p.lines.clear();
            if p.prog_type == ProgType::Syscall {
                p.flags |= SLEEPABLE;
            }
        }
        for flags in headers(text, "flags") {
            let (digits, clear) = flags.strip_prefix('!').map_or((flags, false), |f| (f, true));
            let bits = u32::from_str_radix(digits.trim_start_matches("0x"), 16);
            let bits = bits.map_err(|_| format!("flags {flags}"))?;
            program.flags = if clear { program.flags & !bits } else { program.flags | bits };
        }
        if let Some(license) = headers(text, "license").next() {
            license.clone_into(&mut program.license);
        }
        if let Some(n) = headers(text, "module").next() {
            let module: i16 = n.parse().map_err(|_| format!("; module {n}"))?;
            for insn in &mut program.insns {
                if let Insn::Call(Call::Kfunc { off, .. }) = insn {
                    *off = module;
                }
            }
        }
        let most = |kind| {
            let number = |n: &str| n.parse().map_err(|_| format!("; {kind} {n}"));
            headers(text, kind).next().map(number).transpose()
        };
        let limits = [most("insns")?, most("memory")?];
        let own = own_types(text, &mut beneath, &mut program)?;
        let (mut lacks, mut fd_array) = (Vec::new(), true);
        for what in headers(text, "without") {
            match what.split_once(' ') {
                None if what == "types" => lacks.push(Lacks::Types),
                None if what == "fd_array" => fd_array = false,
                None if what == "func_info" => {}
                None if what == "kernel" => lacks.push(Lacks::Kernel),
                Some(("symbol", name)) => lacks.push(Lacks::Symbol(name.to_owned())),
                _ => return Err(format!("; without {what}")),
            }
        }
        Ok(Case { program, maps, level, own, caps, beneath, fd_array, lacks, limits })
    }

    /// The kernel that it is judged for: one with these types, and the symbols that they name.
    #[must_use]
    pub fn kernel(&self, btf: Arc<Btf>, cpus: u32) -> BtfKernel {
        let hidden: BTreeSet<&str> = self.lacks.iter().filter_map(Lacks::symbol).collect();
        let named = |b: &Btf| -> BTreeSet<String> {
            let all = b.with_prefix("").iter().map(|id| b.name(*id));
            all.filter(|n| !hidden.contains(n)).map(str::to_owned).collect()
        };
        let symbols = (!hidden.is_empty()).then(|| Arc::new(named(&btf)));
        let btf = if self.lacks.contains(&Lacks::Types) { Arc::default() } else { btf };
        BtfKernel { btf, maps: self.maps.clone(), cpus, symbols }
    }

    /// Whether it can be asked of a kernel that has all there is.
    #[must_use]
    pub fn is_of_any_kernel(&self) -> bool {
        self.lacks.is_empty() && self.fd_array && self.limits == [None; 2]
    }

    /// Verifies it beside what it is attached to.
    ///
    /// # Errors
    /// What it is attached to is refused.
    pub fn check(
        &self,
        env: &dyn KernelEnv,
        fds: &[i32],
        opts: Opts,
    ) -> Result<CheckReport, String> {
        let fd_array = if self.fd_array { fds } else { &[] };
        let (prog_btf, endian) = (self.own.as_ref(), Endian::Little);
        let (mut last, mut of) = (None::<(&Program, Vec<FuncFacts>)>, None);
        for p in self.beneath.iter().chain([&self.program]) {
            let target = last.as_ref().zip(prog_btf).map(|((program, funcs), btf)| {
                let to = p.attach_to.as_deref().unwrap_or_default();
                let func = btf.find(to, Kind::Func).unwrap_or(0);
                Target { program, btf, func, funcs, of }
            });
            let judged = std::ptr::eq(p, &self.program);
            // What is there already was loaded by somebody who may.
            let opts = if judged { opts } else { Opts { level: opts.level, ..Opts::default() } };
            let report = check(p, env, &Options { opts, fd_array, prog_btf, endian, target });
            if judged {
                return Ok(report);
            }
            if let Err(r) = report.result {
                return Err(format!("{}: {}", p.name, r.message));
            }
            of = last.map(|l| l.0.prog_type);
            last = Some((p, report.funcs));
        }
        Err("there is no program".to_owned())
    }

    /// Options of the verifier, where the case has its own.
    #[must_use]
    pub fn opts(&self, mut opts: Opts) -> Opts {
        opts.level = self.level.unwrap_or(opts.level);
        let [insns, memory] = self.limits;
        opts.insns_max = insns.unwrap_or(opts.insns_max);
        opts.state_memory_max = memory.map_or(opts.state_memory_max, u64::from);
        self.caps.map_or(opts, |caps| caps.opts(opts))
    }
}

impl Lacks {
    fn symbol(&self) -> Option<&str> {
        match self {
            Lacks::Symbol(name) => Some(name),
            Lacks::Kernel | Lacks::Types => None,
        }
    }
}

/// A text with its `; repeat` lines written out.
pub(crate) fn repeated(text: &str) -> Result<String, String> {
    let mut out = String::new();
    for line in text.lines() {
        let rest = line.trim_start_matches("; ").strip_prefix("repeat ");
        let Some((n, body)) = rest.and_then(|r| r.split_once(' ')) else {
            out += &format!("{line}\n");
            continue;
        };
        let n: u32 = n.parse().map_err(|_| line.to_owned())?;
        (0..n).for_each(|i| out += &format!("{}\n", body.replace('#', &i.to_string())));
    }
    Ok(out)
}

/// What `; KIND` lines say.
fn headers<'a>(text: &'a str, kind: &'a str) -> impl Iterator<Item = &'a str> {
    let said = move |l: &'a str| l.strip_prefix("; ")?.strip_prefix(kind)?.strip_prefix(' ');
    text.lines().filter_map(said).map(str::trim)
}

/// Capabilities that a case's loader has, when the case names them.
///
/// # Errors
/// There is no such capability.
pub fn caps_of(text: &str) -> Result<Option<Caps>, String> {
    let named = headers(text, "caps").next();
    named.map(|list| list.parse().map_err(|e| format!("caps {list}: {e}"))).transpose()
}

/// MAJOR.MINOR.
fn level_of(text: &str) -> Result<Option<Level>, String> {
    let level = |v: &str| {
        let (major, minor) = v.split_once('.')?;
        Some(Level(major.parse().ok()?, minor.parse().ok()?))
    };
    let named = headers(text, "kernel").next();
    named.map(|v| level(v).ok_or_else(|| format!("kernel '{v}'"))).transpose()
}

/// The programs' own types, where they have any: those of `; btf` lines, else those of the
/// functions that `; func` lines name, and of all where one is called back.
fn own_types(
    text: &str,
    beneath: &mut [Program],
    program: &mut Program,
) -> Result<Option<Btf>, String> {
    let lines: Vec<&str> = headers(text, "btf").collect();
    let own = match lines.is_empty() {
        true => counted_types(text, program)?,
        false => Some(types::types(&lines.join("\n"))?),
    };
    let Some(btf) = own else { return Ok(None) };
    for f in beneath.iter_mut().chain([&mut *program]).flat_map(|p| &mut p.funcs) {
        let none = || format!("no `; btf` line is of the function {}", f.name);
        f.type_id = btf.find(&f.name, Kind::Func).ok_or_else(none)?;
        f.global = matches!(btf.body(f.type_id), Body::Func { linkage: Linkage::Global, .. });
    }
    if headers(text, "without").any(|what| what == "func_info") {
        program.funcs.clear();
    }
    let mut all = beneath.iter_mut().chain([program]);
    let (mut of, mut given) = (None, false);
    for line in text.lines() {
        if line.starts_with("; prog ") {
            (of, given) = (all.next(), false);
        }
        let (Some(p), Some(text)) = (&mut of, line.strip_prefix("; info ")) else { continue };
        if !std::mem::replace(&mut given, true) {
            p.funcs.clear();
        }
        p.funcs.push(record(&btf, text).ok_or_else(|| format!("; info {text}"))?);
    }
    Ok(Some(btf))
}

/// INSN NAME.
fn record(btf: &Btf, text: &str) -> Option<Func> {
    let (insn, name) = text.split_once(' ')?;
    let type_id = btf.find(name, Kind::Func)?;
    let global = matches!(btf.body(type_id), Body::Func { linkage: Linkage::Global, .. });
    Some(Func { start: InsnIdx(insn.parse().ok()?), type_id, name: name.to_owned(), global })
}

/// Types of functions of integers.
fn counted_types(text: &str, program: &mut Program) -> Result<Option<Btf>, String> {
    let mut counts = Vec::new();
    for rest in headers(text, "func") {
        let parts = rest.rsplit_once(' ').and_then(|(f, n)| Some((f, n.parse::<usize>().ok()?)));
        counts.push(parts.ok_or_else(|| format!("; func {rest}: NAME N is expected"))?);
    }
    let takes_address = |i: &Insn| matches!(i, Insn::LdImm64 { imm: Imm64::Func(_), .. });
    let untyped = headers(text, "without").any(|what| what == "func_info");
    let called_back = !untyped && program.insns.iter().any(takes_address);
    if counts.is_empty() && !called_back {
        // A kernel is told of functions by their types alone.
        program.funcs.clear();
        return Ok(None);
    }
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, true);
    let ctx = b.structure("__sk_buff", 192, &[]);
    let ctx = b.ptr(ctx);
    for f in &program.funcs {
        let n = counts.iter().find(|c| c.0 == f.name).map(|c| c.1);
        let is_main = f.start == InsnIdx(0);
        let params = match n {
            Some(n) => vec![("x", int); n],
            None if is_main => vec![("skb", ctx)],
            None => Vec::new(),
        };
        let linkage = if is_main { Linkage::Global } else { Linkage::Static };
        b.func(&f.name, linkage, int, &params);
    }
    b.finish().map(Some).map_err(|e| e.to_string())
}

/// A verdict as titles write it.
#[must_use]
pub fn verdict(r: &CheckReport) -> String {
    match &r.result {
        Ok(()) => "accepted".to_owned(),
        Err(r) => {
            let at = r.insn.map_or(-1, |i| i64::from(i.0));
            format!("!{at} {}", r.message.replace('\n', "\\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_belong_to_all_programs() {
        let text = "words\n; types k.txt\n; map m array 4 8 1\n; == a: accepted\n; prog xdp p\nr0 = 0\nexit\n\
                    ; == b: !1 no\nexit\n; == c\n";
        let all = read(text);
        assert_eq!(all.iter().map(|t| t.line).collect::<Vec<_>>(), [4, 8, 10]);
        assert!(all.iter().all(|t| t.text.starts_with("; map m")));
        assert_eq!(all[1].want.as_deref(), Some("!1 no"));
        assert_eq!((all[2].want.as_deref(), all[2].types.as_deref()), (None, Some("k.txt")));
        let case = Case::new(&all[0].text, &Btf::default()).unwrap();
        assert_eq!((case.maps.len(), case.program.insns.len()), (1, 2));
    }
}
