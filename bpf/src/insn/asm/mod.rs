//! Text to programs: reads what [`mod@super::disasm`] and the verifier log print, plus names.
//!
//! ```text
//! ; map hits array 4 8 1                 map header: NAME TYPE KEY VALUE ENTRIES [FLAGS [EXTRA]]
//! ; prog xdp count                       program header: TYPE NAME (a section name is a type too)
//! ; table jumps first second             what the entries of the insn_array `jumps` name
//!     r1 = map[hits] ll                  map by name or index; map_value[hits]+8 ll
//!     *(u32 *)(r10 -4) = 0
//!     r2 = r10
//!     r2 += -4
//!     call bpf_map_lookup_elem           helper, label of a function, or a kfunc
//!     if r0 == 0 goto out                labels or pc+N
//!     r1 = 1
//!     lock *(u64 *)(r0 +0) += r1
//! out:
//!     r0 = 2
//!     exit
//! ```
//! `INDEX:` and `(op)` in front of an instruction are read over, `;` starts a comment. Without its
//! opcode a 16-byte load of a constant needs `ll`.

mod parse;

use std::collections::BTreeMap;

use super::{Call, Imm64, Insn, InsnIdx};
use crate::object::sec;
use crate::program::{Func, Line, Program};
use crate::uapi::{AttachType, MapType, ProgType};
use parse::{Cursor, Target};

/// Where the text is wrong and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{col}: {message}{}", .hint.as_ref().map(|h| format!("; {h}")).unwrap_or_default())]
pub struct AsmError {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub col: u32,
    /// What is wrong.
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

/// Names the text may use that are not in it.
pub trait Symbols {
    /// Index of a map.
    fn map(&self, _name: &str) -> Option<i32> {
        None
    }
    /// BTF id and `fd_array` index of a kfunc.
    fn kfunc(&self, _name: &str) -> Option<(i32, i16)> {
        None
    }
    /// BTF id of a kernel variable.
    fn ksym(&self, _name: &str) -> Option<i32> {
        None
    }
    /// Names of the maps, for hints.
    fn map_names(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Nothing but what the text declares.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSymbols;

impl Symbols for NoSymbols {}

/// A `; map` header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsmMap {
    /// Name; its index is its place among the headers.
    pub name: String,
    /// Type.
    pub map_type: MapType,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes.
    pub value_size: u32,
    /// Maximum number of entries.
    pub max_entries: u32,
    /// `map_flags`.
    pub flags: u32,
    /// `map_extra`.
    pub map_extra: u64,
}

/// What a text assembles to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembly {
    /// Maps declared by headers.
    pub maps: Vec<AsmMap>,
    /// Programs; one without a header is a `socket_filter` named `main`.
    pub progs: Vec<Program>,
    /// `; table MAP LABEL...` of the programs: the instructions a jump table names.
    pub tables: BTreeMap<String, Vec<u32>>,
}

/// Assembles a text.
///
/// # Errors
/// The first line that is not understood.
pub fn assemble(text: &str, symbols: &dyn Symbols) -> Result<Assembly, AsmError> {
    let maps = map_headers(text)?;
    let mut out = Assembly { maps, ..Assembly::default() };
    let mut part = Part::default();
    for (n, line) in (1u32..).zip(text.lines()) {
        if let Some(header) = header(line, "prog") {
            let next = Part { head: Some(Head::read(n, line, header)?), ..Part::default() };
            let done = std::mem::replace(&mut part, next);
            out.tables.extend(done.tables()?);
            out.progs.extend(done.finish(&out.maps, symbols)?);
        } else if let Some(words) = header(line, "table") {
            part.tables.push((n, words.into_iter().map(str::to_owned).collect()));
        } else {
            part.read_line(n, line)?;
        }
    }
    out.tables.extend(part.tables()?);
    out.progs.extend(part.finish(&out.maps, symbols)?);
    Ok(out)
}

/// Assembles a text of one program and gives its instructions alone.
///
/// # Errors
/// As [`assemble`]; also when there is not exactly one program.
pub fn assemble_insns(text: &str) -> Result<Vec<Insn>, AsmError> {
    let mut progs = assemble(text, &NoSymbols)?.progs;
    match (progs.pop(), progs.is_empty()) {
        (Some(p), true) => Ok(p.insns),
        (found, _) => {
            let what = if found.is_some() { "more than one program" } else { "no program" };
            Err(AsmError { line: 1, col: 1, message: what.into(), hint: None })
        }
    }
}

/// Words of a `; KIND ...` line.
fn header<'a>(line: &'a str, kind: &str) -> Option<Vec<&'a str>> {
    let mut words = line.trim_start().strip_prefix(';')?.split_whitespace();
    (words.next()? == kind).then(|| words.collect())
}

fn at(line: u32, text: &str, byte: usize, message: String, hint: Option<String>) -> AsmError {
    let chars = text.get(..byte).unwrap_or(text).chars().count();
    AsmError { line, col: u32::try_from(chars + 1).unwrap_or(u32::MAX), message, hint }
}

/// Byte at which `word`, a slice of `text`, starts.
fn place(text: &str, word: &str) -> usize {
    (word.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len())
}

fn map_headers(text: &str) -> Result<Vec<AsmMap>, AsmError> {
    let mut maps: Vec<AsmMap> = Vec::new();
    for (n, line) in (1u32..).zip(text.lines()) {
        let Some(words) = header(line, "map") else { continue };
        let start = place(line, line.trim_start());
        let form =
            || Some("write `; map NAME TYPE KEY VALUE MAX_ENTRIES [FLAGS [EXTRA]]`".to_string());
        if words.len() < 5 || words.len() > 7 {
            return Err(at(n, line, start, "not a map header".into(), form()));
        }
        let map_type = MapType::from_name(words[1]).ok_or_else(|| {
            let names = MapType::TABLE.iter().map(|r| r.1);
            let hint = nearest(words[1], names);
            at(n, line, place(line, words[1]), format!("unknown map type `{}`", words[1]), hint)
        })?;
        let long = |i: usize, max: u64| match words.get(i) {
            None => Ok(0),
            Some(w) => parse::number(w)
                .and_then(|v| u64::try_from(v).ok())
                .filter(|v| *v <= max)
                .ok_or_else(|| {
                    let bits = max.count_ones();
                    at(n, line, place(line, w), format!("`{w}` is not a {bits}-bit number"), form())
                }),
        };
        let number = |i| long(i, u32::MAX.into()).map(|v| v as u32);
        if maps.iter().any(|m| m.name == words[0]) {
            let m = format!("the map `{}` is declared twice", words[0]);
            return Err(at(n, line, place(line, words[0]), m, None));
        }
        maps.push(AsmMap {
            name: words[0].to_string(),
            map_type,
            key_size: number(2)?,
            value_size: number(3)?,
            max_entries: number(4)?,
            flags: number(5)?,
            map_extra: long(6, u64::MAX)?,
        });
    }
    Ok(maps)
}

/// A `; prog` header.
#[derive(Clone, Debug)]
struct Head {
    section: String,
    prog_type: ProgType,
    name: String,
    /// What the section says when it names a target.
    attach_type: Option<AttachType>,
    flags: u32,
}

/// Section names that differ from the type's name (libbpf's `section_defs`, the common ones).
const SECTIONS: [(&str, ProgType); 13] = [
    ("socket", ProgType::SocketFilter),
    ("tc", ProgType::SchedCls),
    ("tcx", ProgType::SchedCls),
    ("classifier", ProgType::SchedCls),
    ("action", ProgType::SchedAct),
    ("kretprobe", ProgType::Kprobe),
    ("uprobe", ProgType::Kprobe),
    ("tp", ProgType::Tracepoint),
    ("raw_tp", ProgType::RawTracepoint),
    ("fentry", ProgType::Tracing),
    ("fexit", ProgType::Tracing),
    ("tp_btf", ProgType::Tracing),
    ("iter", ProgType::Tracing),
];

impl Head {
    fn read(n: u32, line: &str, words: Vec<&str>) -> Result<Head, AsmError> {
        let [section, name] = words[..] else {
            let hint = Some("write `; prog TYPE NAME`".to_string());
            let start = place(line, line.trim_start());
            return Err(at(n, line, start, "not a program header".into(), hint));
        };
        let base = section.split('/').next().unwrap_or(section);
        let alias = SECTIONS.iter().find(|s| s.0 == base).map(|s| s.1);
        let sec = section.contains('/').then(|| sec::lookup(section).ok()).flatten();
        let known = alias.or_else(|| ProgType::from_name(base));
        let prog_type = known.or(sec.as_ref().map(|s| s.prog_type)).ok_or_else(|| {
            let names = ProgType::TABLE.iter().map(|r| r.1).chain(SECTIONS.iter().map(|s| s.0));
            let hint = nearest(base, names);
            at(n, line, place(line, section), format!("unknown program type `{base}`"), hint)
        })?;
        Ok(Head {
            section: section.to_string(),
            prog_type,
            name: name.to_string(),
            attach_type: sec.as_ref().and_then(|s| s.attach_type),
            flags: sec.map_or(0, |s| s.flags),
        })
    }
}

/// A name to be resolved when the whole program has been read.
struct Fixup {
    insn: usize,
    target: Target,
    line: u32,
    col: u32,
}

/// One program while it is read.
#[derive(Default)]
struct Part {
    head: Option<Head>,
    insns: Vec<Insn>,
    labels: BTreeMap<String, usize>,
    fixups: Vec<Fixup>,
    lines: Vec<Line>,
    /// `; table` headers by line.
    tables: Vec<(u32, Vec<String>)>,
}

impl Part {
    /// The jump tables, by map.
    fn tables(&self) -> Result<Vec<(String, Vec<u32>)>, AsmError> {
        let table = |(line, words): &(u32, Vec<String>)| {
            let fail = |message: String, hint| AsmError { line: *line, col: 1, message, hint };
            let Some((map, labels)) = words.split_first() else {
                let hint = Some("write `; table MAP LABEL...`".to_owned());
                return Err(fail("not a table header".into(), hint));
            };
            let place = |l: &String| {
                let at = self.labels.get(l).and_then(|at| u32::try_from(*at).ok());
                let hint = || nearest(l, self.labels.keys().map(String::as_str));
                at.ok_or_else(|| fail(format!("unknown label `{l}`"), hint()))
            };
            Ok((map.clone(), labels.iter().map(place).collect::<Result<_, _>>()?))
        };
        self.tables.iter().map(table).collect()
    }

    fn read_line(&mut self, n: u32, line: &str) -> Result<(), AsmError> {
        let code = line.split(';').next().unwrap_or("");
        let mut cur = Cursor::new(code);
        let err = |e: parse::Error| at(n, line, e.byte, e.message, e.hint);
        while let Some((name, byte)) = cur.label() {
            // `12:` is the index a log prints.
            if name.bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            if self.labels.insert(name.to_string(), self.insns.len()).is_some() {
                let m = format!("the label `{name}` is defined twice");
                return Err(at(n, line, byte, m, None));
            }
        }
        if cur.at_end() {
            return Ok(());
        }
        let start = cur.byte();
        let (insn, target) = cur.instruction().map_err(err)?;
        let insn_idx = self.insns.len();
        if let Some(target) = target {
            let e = at(n, line, target.byte, String::new(), None);
            self.fixups.push(Fixup { insn: insn_idx, target, line: n, col: e.col });
        }
        self.lines.push(Line {
            insn: InsnIdx(u32::try_from(insn_idx).unwrap_or(u32::MAX)),
            file: "asm".into(),
            text: code.trim().to_string(),
            line: n,
            col: at(n, line, start, String::new(), None).col,
        });
        self.insns.push(insn);
        if matches!(insn, Insn::LdImm64 { .. }) {
            self.insns.push(Insn::LdImm64Hi);
        }
        Ok(())
    }

    fn finish(mut self, maps: &[AsmMap], symbols: &dyn Symbols) -> Result<Vec<Program>, AsmError> {
        if self.insns.is_empty() {
            return match self.labels.into_keys().next() {
                Some(l) => Err(AsmError {
                    line: 1,
                    col: 1,
                    message: format!("nothing follows the label `{l}`"),
                    hint: None,
                }),
                None => Ok(Vec::new()),
            };
        }
        for fix in std::mem::take(&mut self.fixups) {
            self.resolve(&fix, maps, symbols)?;
        }
        let head = self.head.take().unwrap_or(Head {
            section: "socket".into(),
            prog_type: ProgType::SocketFilter,
            name: "main".into(),
            attach_type: None,
            flags: 0,
        });
        let funcs = self.funcs(&head.name);
        let attach_to = head.section.split_once('/').map(|s| s.1.to_string());
        Ok(vec![Program {
            name: head.name,
            section: head.section,
            prog_type: head.prog_type,
            attach_type: head.attach_type,
            flags: head.flags,
            attach_to,
            license: "GPL".into(),
            insns: self.insns,
            funcs,
            lines: self.lines,
        }])
    }

    /// The main function and every label that is called or whose address is taken.
    fn funcs(&self, main: &str) -> Vec<Func> {
        let mut starts = BTreeMap::from([(0usize, main.to_string())]);
        for (i, insn) in self.insns.iter().enumerate() {
            let (Insn::Call(Call::Local(off)) | Insn::LdImm64 { imm: Imm64::Func(off), .. }) = insn
            else {
                continue;
            };
            let to = i as i64 + 1 + i64::from(*off);
            let Ok(to) = usize::try_from(to) else { continue };
            let label = self.labels.iter().find(|l| *l.1 == to).map(|l| l.0.clone());
            if to < self.insns.len() {
                starts.entry(to).or_insert_with(|| label.unwrap_or_else(|| format!("func_{to}")));
            }
        }
        let func = |(start, name): (usize, String)| Func {
            start: InsnIdx(u32::try_from(start).unwrap_or(u32::MAX)),
            type_id: 0,
            name,
            global: false,
        };
        starts.into_iter().map(func).collect()
    }

    fn resolve(
        &mut self,
        fix: &Fixup,
        maps: &[AsmMap],
        symbols: &dyn Symbols,
    ) -> Result<(), AsmError> {
        let name = fix.target.name.as_str();
        let fail = |message: String, hint: Option<String>| {
            Err(AsmError { line: fix.line, col: fix.col, message, hint })
        };
        let insn = self.insns[fix.insn];
        let rel = self.labels.get(name).map(|to| *to as i64 - fix.insn as i64 - 1);
        let far = || fail(format!("`{name}` is too far for a 16-bit offset"), None);
        let labels = || nearest(name, self.labels.keys().map(String::as_str));
        let resolved = match insn {
            Insn::LdImm64 { dst, imm } => {
                let Some(imm) = resolve_imm(imm, name, rel, maps, symbols) else {
                    let known = maps.iter().map(|m| m.name.clone()).chain(symbols.map_names());
                    let known: Vec<String> = known.collect();
                    let hint = nearest(name, known.iter().map(String::as_str)).or_else(labels);
                    return fail(format!("unknown name `{name}`"), hint);
                };
                Insn::LdImm64 { dst, imm }
            }
            Insn::Call(_) => match (rel, symbols.kfunc(name)) {
                (Some(rel), _) => Insn::Call(Call::Local(rel as i32)),
                (None, Some((btf_id, off))) => Insn::Call(Call::Kfunc { btf_id, off }),
                (None, None) => {
                    let names = super::HELPER_NAMES.iter().copied();
                    let names = names.chain(self.labels.keys().map(String::as_str));
                    return fail(format!("unknown function `{name}`"), nearest(name, names));
                }
            },
            jump => {
                let Some(rel) = rel else {
                    return fail(format!("unknown label `{name}`"), labels());
                };
                let Some(insn) = with_off(jump, rel) else { return far() };
                insn
            }
        };
        self.insns[fix.insn] = resolved;
        Ok(())
    }
}

fn resolve_imm(
    imm: Imm64,
    name: &str,
    rel: Option<i64>,
    maps: &[AsmMap],
    symbols: &dyn Symbols,
) -> Option<Imm64> {
    let map = || {
        let own = maps.iter().position(|m| m.name == name).and_then(|i| i32::try_from(i).ok());
        own.or_else(|| symbols.map(name))
    };
    Some(match imm {
        Imm64::MapIdx(_) => Imm64::MapIdx(map()?),
        Imm64::MapIdxValue { off, .. } => Imm64::MapIdxValue { idx: map()?, off },
        Imm64::BtfId { btf_fd, .. } => Imm64::BtfId { id: symbols.ksym(name)?, btf_fd },
        Imm64::Func(_) => Imm64::Func(i32::try_from(rel?).ok()?),
        other => other,
    })
}

/// The jump with its offset; `None` when the field is too small.
fn with_off(jump: Insn, rel: i64) -> Option<Insn> {
    Some(match jump {
        Insn::Jmp { width, op, dst, src, .. } => {
            Insn::Jmp { width, op, dst, src, off: i16::try_from(rel).ok()? }
        }
        Insn::MayGoto { .. } => Insn::MayGoto { off: i16::try_from(rel).ok()? },
        Insn::Ja { long: false, .. } => {
            Insn::Ja { off: i32::from(i16::try_from(rel).ok()?), long: false }
        }
        Insn::Ja { long: true, .. } => Insn::Ja { off: i32::try_from(rel).ok()?, long: true },
        other => other,
    })
}

/// "did you mean" for a word, when a known one is close.
fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let limit = word.len() / 3 + 1;
    // Two letters exchanged count like two changed: of those the same letters win.
    let letters = |w: &str| {
        let mut bytes = w.as_bytes().to_vec();
        bytes.sort_unstable();
        bytes
    };
    let key = |k| (distance(word, k), letters(word) != letters(k), k);
    let best = known.map(key).filter(|d| d.0 <= limit).min()?;
    Some(format!("did you mean `{}`?", best.2))
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
