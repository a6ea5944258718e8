//! Annotated assembly: programs in one file, each with the verdict that a kernel gives.
//!
//! ```text
//!  ; types kernel.txt                 for the kernel with these types, beside the file: in front
//!  ; map counts array 4 8 1           maps of all programs: in front
//!  ; == TITLE: accepted               or !INSN MESSAGE, `\n` for a second line
//!  ; kernel 6.12                      judged for that version
//!  ; caps bpf,net_admin               of the loader; all when left out, or none
//!  ; flags 0x1                        as the program is loaded
//!  ; license none                     GPL when left out
//!  ; func NAME N                      a function of N integers; the main one takes the context
//!  ; prog socket p
//!  ...
//! ```

pub mod types;

use bpf::Program;
use bpf::btf::{Btf, BtfBuilder, Kind, Linkage};
use bpf::insn::asm::{Symbols, assemble};
use bpf::insn::{Imm64, Insn, InsnIdx};
use bpf::uapi::ProgType;

use crate::caps::Caps;
use crate::env::MapInfo;
use crate::explore::Opts;
use crate::tables::Level;
use crate::verify::CheckReport;

/// `BPF_F_SLEEPABLE`: programs of type syscall can only be.
const SLEEPABLE: u32 = 1 << 4;

/// Kfuncs of a kernel, by name.
#[derive(Clone, Copy, Debug)]
pub struct Kfuncs<'a>(pub &'a Btf);

impl Symbols for Kfuncs<'_> {
    fn kfunc(&self, name: &str) -> Option<(i32, i16)> {
        Some((self.0.find(name, Kind::Func)?.cast_signed(), 0))
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
            (None, None) if words.starts_with("; map ") || words.starts_with("; kernel ") => {
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
}

impl Case {
    /// Assembles; kfuncs are those of a kernel's types.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn new(text: &str, kernel: &Btf) -> Result<Case, String> {
        let mut a = assemble(text, &Kfuncs(kernel)).map_err(|e| e.to_string())?;
        let maps = MapInfo::of_assembly(&a);
        let mut program = a.progs.pop().ok_or("there is no program")?;
        // As when a kernel is given no line info.
        program.lines.clear();
        if program.prog_type == ProgType::Syscall {
            program.flags |= SLEEPABLE;
        }
        let named = text.lines().find_map(|l| l.strip_prefix("; kernel "));
        let level = named.map(|v| level(v).ok_or_else(|| format!("kernel '{v}'"))).transpose()?;
        let caps = caps_of(text)?;
        for flags in text.lines().filter_map(|l| l.strip_prefix("; flags ")) {
            let digits = flags.trim().trim_start_matches("0x");
            program.flags |=
                u32::from_str_radix(digits, 16).map_err(|_| format!("flags {flags}"))?;
        }
        if let Some(license) = text.lines().find_map(|l| l.strip_prefix("; license ")) {
            license.trim().clone_into(&mut program.license);
        }
        let own = own_types(text, &mut program)?;
        Ok(Case { program, maps, level, own, caps })
    }

    /// Options of the verifier, where the case has its own.
    #[must_use]
    pub fn opts(&self, mut opts: Opts) -> Opts {
        opts.level = self.level.unwrap_or(opts.level);
        self.caps.map_or(opts, |caps| caps.opts(opts))
    }
}

/// Capabilities that a case's loader has, when the case names them.
///
/// # Errors
/// There is no such capability.
pub fn caps_of(text: &str) -> Result<Option<Caps>, String> {
    let named = text.lines().find_map(|l| l.strip_prefix("; caps "));
    named.map(|list| list.parse().map_err(|e| format!("caps {list}: {e}"))).transpose()
}

/// MAJOR.MINOR.
fn level(text: &str) -> Option<Level> {
    let (major, minor) = text.trim().split_once('.')?;
    Some(Level(major.parse().ok()?, minor.parse().ok()?))
}

/// Types of the functions that `; func NAME N` lines give, and of all where one is called back.
fn own_types(text: &str, program: &mut Program) -> Result<Option<Btf>, String> {
    let mut counts = Vec::new();
    for rest in text.lines().filter_map(|l| l.strip_prefix("; func ")) {
        let parts = rest.rsplit_once(' ').and_then(|(f, n)| Some((f, n.parse::<usize>().ok()?)));
        counts.push(parts.ok_or_else(|| format!("; func {rest}: NAME N is expected"))?);
    }
    let takes_address = |i: &Insn| matches!(i, Insn::LdImm64 { imm: Imm64::Func(_), .. });
    let called_back = program.insns.iter().any(takes_address);
    if counts.is_empty() && !called_back {
        // A kernel is told of functions by their types alone.
        program.funcs.clear();
        return Ok(None);
    }
    let mut b = BtfBuilder::new();
    let int = b.int("int", 4, true);
    let ctx = b.structure("__sk_buff", 192, &[]);
    let ctx = b.ptr(ctx);
    for f in &mut program.funcs {
        let n = counts.iter().find(|c| c.0 == f.name).map(|c| c.1);
        let is_main = f.start == InsnIdx(0);
        let params = match n {
            Some(n) => vec![("x", int); n],
            None if is_main => vec![("skb", ctx)],
            None => Vec::new(),
        };
        let linkage = if is_main { Linkage::Global } else { Linkage::Static };
        f.type_id = b.func(&f.name, linkage, int, &params);
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
