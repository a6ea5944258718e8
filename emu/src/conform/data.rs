//! Vectors in the public `.data` format, as they stand.
//!
//! A line that contains `--` begins a section, `#` a comment. `asm` is the program in the assembly
//! of [`super::ubpf`], `raw` the same as 64-bit words and stronger, `mem` the bytes that r1 points
//! to, `result` r0 at the end (the last line of it), `error` what a program that must fail says, as
//! a regular expression in `error pattern` (uBPF's vectors), `c` a source that nobody reads. A
//! comment `# byte order: big` (or little) limits a vector to machines of that order; other runners
//! read over it.

use bpf::Endian;
use bpf::insn::{Slot, decode_all, encode_all};
use regex::Regex;

use super::ubpf;
use super::vector::{Expect, Memory, Vector};

#[derive(Clone, Copy, PartialEq, Eq)]
enum Section {
    None,
    Asm,
    Result,
    Mem,
    Raw,
    Other,
    Error,
    Pattern,
}

/// Sections by what their line contains, in the order they are looked for.
const SECTIONS: &[(&str, Section)] = &[
    ("asm", Section::Asm),
    ("result", Section::Result),
    ("mem", Section::Mem),
    ("raw", Section::Raw),
    ("no register offset", Section::Other),
    (" c", Section::Other),
    ("error pattern", Section::Pattern),
    ("error", Section::Error),
];

/// What a file holds.
#[derive(Debug)]
pub enum Parsed {
    /// A vector.
    Vector(Box<Vector>),
    /// None: why it is passed over, as the public runner does.
    Skip(String),
}

#[derive(Default)]
struct Text<'a> {
    asm: Vec<(u32, &'a str)>,
    raw: Vec<(u32, &'a str)>,
    mem: Vec<(u32, &'a str)>,
    result: Option<(u32, &'a str)>,
    error: Option<String>,
    /// Line of an error that is a pattern.
    pattern: Option<u32>,
    order: Option<Endian>,
}

/// Reads a file.
///
/// # Errors
/// Line and reason.
pub fn parse(text: &str) -> Result<Parsed, (u32, String)> {
    let text = match sections(text) {
        Ok(text) => text,
        Err(skip) => return Ok(Parsed::Skip(skip)),
    };
    if text.asm.is_empty() && text.raw.is_empty() {
        return Ok(Parsed::Skip("it has no program".into()));
    }
    if text.result.is_none() && text.error.is_none() {
        return Ok(Parsed::Skip("it expects nothing".into()));
    }
    let program = match text.raw.is_empty() {
        true => ubpf::assemble(text.asm).map_err(|e| (e.line, e.what))?,
        false => raw(&text.raw)?,
    };
    let r0 = text.result.map(|(n, l)| word(l).map_err(|e| (n, e))).transpose()?;
    if let (Some(at), Some(pattern)) = (text.pattern, &text.error) {
        Regex::new(pattern).map_err(|_| (at, format!("'{pattern}' is no regular expression")))?;
    }
    let mut v = Vector::new(program.insns, program.lines);
    v.mem = bytes(&text.mem)?.map(Memory::bytes);
    let pattern = text.pattern.is_some();
    v.expect = Expect { r0, error: text.error, pattern, order: text.order, mem: None };
    Ok(Parsed::Vector(Box::new(v)))
}

fn sections(text: &str) -> Result<Text<'_>, String> {
    let (mut out, mut section) = (Text::default(), Section::None);
    for (n, line) in (1..).zip(text.lines()) {
        let (line, comment) = line.split_once('#').unwrap_or((line, ""));
        match comment.trim() {
            "byte order: big" => out.order = Some(Endian::Big),
            "byte order: little" => out.order = Some(Endian::Little),
            _ => {}
        }
        let line = line.trim_end_matches('\r');
        if line.contains("--") {
            let found = SECTIONS.iter().find(|(name, _)| line.contains(name));
            let unknown = || format!("line {n}: '{}' is no section", line.trim());
            section = found.ok_or_else(unknown)?.1;
            continue;
        }
        let line = line.trim();
        if line.is_empty() {
            continue;
        }
        match section {
            Section::Asm => out.asm.push((n, line)),
            Section::Raw => out.raw.push((n, line)),
            Section::Mem => out.mem.push((n, line)),
            Section::Result => out.result = Some((n, line)),
            Section::Error => (out.error, out.pattern) = (Some(line.to_owned()), None),
            Section::Pattern => (out.error, out.pattern) = (Some(line.to_owned()), Some(n)),
            Section::None | Section::Other => {}
        }
    }
    Ok(out)
}

/// Decimal or hexadecimal, unsigned; a sign wraps as it does in C.
fn word(text: &str) -> Result<u64, String> {
    let (minus, digits) = text.strip_prefix('-').map_or((false, text), |d| (true, d));
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let value = value.map_err(|_| format!("'{text}' is no number of 64 bits"))?;
    Ok(if minus { value.wrapping_neg() } else { value })
}

fn bytes(lines: &[(u32, &str)]) -> Result<Option<Vec<u8>>, (u32, String)> {
    let mut out = Vec::new();
    for (n, line) in lines {
        for byte in line.split_whitespace() {
            let digits = byte.strip_prefix("0x").unwrap_or(byte);
            let value = u8::from_str_radix(digits, 16);
            out.push(value.map_err(|_| (*n, format!("'{byte}' is no byte")))?);
        }
    }
    Ok((!out.is_empty()).then_some(out))
}

/// Words hold an instruction as little-endian machines store it.
fn raw(lines: &[(u32, &str)]) -> Result<ubpf::Assembled, (u32, String)> {
    let mut slots = Vec::new();
    let mut at = Vec::new();
    for (n, line) in lines {
        for text in line.split_whitespace() {
            let value = word(text).map_err(|e| (*n, e))?;
            slots.push(Slot::from_bytes(value.to_le_bytes(), Endian::Little));
            at.push(*n);
        }
    }
    let first = at.first().copied().unwrap_or(1);
    let line = |slot: usize| at.get(slot).copied().unwrap_or(first);
    let insns = decode_all(&slots).map_err(|e| (line(e.at.idx()), e.message))?;
    Ok(ubpf::Assembled { insns, lines: at })
}

/// A vector as text that [`parse`] reads: its instructions as words, and what it comes to on
/// machines of an order.
#[must_use]
pub fn words(v: &Vector, order: Endian, r0: u64) -> String {
    let word = if order == Endian::Big { "big" } else { "little" };
    let mut out = format!("# byte order: {word}\n-- raw\n");
    for slot in encode_all(&v.insns) {
        let value = u64::from_le_bytes(slot.to_bytes(Endian::Little));
        out += &format!("{value:#018x}\n");
    }
    if let Some(mem) = &v.mem {
        out += "-- mem\n";
        for row in mem.of(order).chunks(16) {
            let bytes: Vec<String> = row.iter().map(|b| format!("{b:02x}")).collect();
            out += &format!("{}\n", bytes.join(" "));
        }
    }
    out + &format!("-- result\n{r0:#x}\n")
}

/// The text of a vector whose expectation holds on machines of one byte order alone.
#[must_use]
pub fn corrected(text: &str, order: Endian, r0: u64) -> String {
    let word = if order == Endian::Big { "big" } else { "little" };
    let mut out = format!("# byte order: {word}\n");
    let mut within = false;
    for line in text.lines() {
        let code = line.split('#').next().unwrap_or_default();
        if code.contains("--") {
            let found = SECTIONS.iter().find(|(name, _)| code.contains(name));
            within = found.is_some_and(|f| f.1 == Section::Result);
            out += &format!("{line}\n");
            if within {
                out += &format!("{r0:#x}\n");
            }
        } else if !within || code.trim().is_empty() {
            out += &format!("{line}\n");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vector(text: &str) -> Vector {
        match parse(text).unwrap() {
            Parsed::Vector(v) => *v,
            Parsed::Skip(why) => panic!("{why}"),
        }
    }

    #[test]
    fn sections_and_comments() {
        let v = vector(
            "# Copyright\r\n-- c\nint x;\n-- asm\nldxb %r0, [%r1+1] # a byte\r\nexit\r\n\
             -- mem\n11 22\n33\n-- result\n1\n0x22\n",
        );
        assert_eq!(v.insns.len(), 2);
        assert_eq!(v.lines, [5, 6]);
        assert_eq!(v.mem, Some(Memory::bytes(vec![0x11, 0x22, 0x33])));
        assert_eq!(v.expect.r0, Some(0x22));
    }

    #[test]
    fn errors_are_words_or_a_pattern() {
        let says = |section: &str, why: &str| {
            vector(&format!("-- asm\nexit\n-- {section}\nR0 .*ok\n")).expect.says(why)
        };
        assert!(says("error pattern", "R0 !read_ok") && !says("error", "R0 !read_ok"));
        assert!(says("error", "insn 0: R0 .*ok") && !says("error pattern", "R1 !read_ok"));
        let bad = parse("-- asm\nexit\n-- error pattern\n(");
        assert_eq!(bad.unwrap_err(), (4, "'(' is no regular expression".to_owned()));
    }

    #[test]
    fn words_win_over_assembly() {
        let v = vector("-- asm\nexit\n-- raw\n0x00000001000000b7\n149\n-- result\n0x1");
        assert_eq!(v.insns.len(), 2);
    }

    #[test]
    fn what_is_no_vector() {
        let skipped = |t: &str| match parse(t).unwrap() {
            Parsed::Skip(why) => why,
            Parsed::Vector(_) => panic!("a vector"),
        };
        assert_eq!(skipped("-- asm\nexit\n-- frob\n1"), "line 3: '-- frob' is no section");
        assert_eq!(skipped("-- result\n1"), "it has no program");
        assert_eq!(skipped("-- asm\nexit"), "it expects nothing");
        assert_eq!(parse("-- asm\nfrob\n-- result\n1").unwrap_err().0, 2);
        assert_eq!(parse("-- asm\nexit\n-- result\nx").unwrap_err().0, 4);
        assert_eq!(parse("-- asm\nexit\n-- mem\nxyz\n-- result\n1").unwrap_err().0, 4);
    }

    #[test]
    fn words_are_read_back() {
        let text = "-- asm\nlddw %r0, 0x1122334455667788\nldxb %r2, [%r1]\nexit\n-- mem\n01 ff\n\
                    -- result\n0x1122334455667788\n";
        let v = vector(text);
        let back = vector(&words(&v, Endian::Big, 0x1122_3344_5566_7788));
        assert_eq!((&back.insns, &back.mem, back.expect.r0), (&v.insns, &v.mem, v.expect.r0));
        assert_eq!(back.expect.order, Some(Endian::Big));
    }

    #[test]
    fn a_corrected_vector_is_of_one_order() {
        let text = "-- asm\nexit\n-- result\n# why\n0x1\n-- mem\n01\n";
        let new = corrected(text, Endian::Big, 0x10);
        let v = vector(&new);
        assert_eq!((v.expect.r0, v.expect.order), (Some(0x10), Some(Endian::Big)));
        assert!(new.contains("# why\n-- mem\n01\n") && !new.contains("0x1\n"), "{new}");
    }
}
