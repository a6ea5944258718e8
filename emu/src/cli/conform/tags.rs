//! What the declaration tags of the kernel's selftests expect of a program.
//!
//! Names and meaning are those of `bpf_misc.h` and `test_loader.c` (Linux 6.12 and 6.18): a tag of
//! a function's BTF begins with `comment:test_`; where several of a kind may be given, a counter
//! makes each unique. Patterns are text with extended regular expressions between `{{` and `}}`.

use bpf::Arch;
use bpf::btf::{Btf, Kind};
use regex::{Regex, RegexBuilder};

use crate::conform::Engine;

/// `POINTER_VALUE`, 0xcafe4a with the suffix `ll`: any result will do.
const POINTER_VALUE: i32 = 0x00ca_fe4a;
/// `TEST_DATA_LEN`.
const TEST_DATA_LEN: i32 = 64;

const FLAGS: &[(&str, u32)] = &[
    ("BPF_F_STRICT_ALIGNMENT", 1),
    ("BPF_F_ANY_ALIGNMENT", 1 << 1),
    ("BPF_F_TEST_RND_HI32", 1 << 2),
    ("BPF_F_TEST_STATE_FREQ", 1 << 3),
    ("BPF_F_SLEEPABLE", 1 << 4),
    ("BPF_F_XDP_HAS_FRAGS", 1 << 5),
    ("BPF_F_XDP_DEV_BOUND_ONLY", 1 << 6),
    ("BPF_F_TEST_REG_INVARIANTS", 1 << 7),
];

const ARCHS: &[(&str, Option<Arch>)] = &[
    ("X86_64", Some(Arch::X86_64)),
    ("ARM64", Some(Arch::Arm64)),
    ("RISCV64", Some(Arch::Riscv64)),
    ("S390X", Some(Arch::S390x)),
    ("LOONGARCH", None),
    ("POWERPC64", None),
];

/// A line, or a part of one, that is expected or must not be.
#[derive(Clone, Debug)]
pub(super) struct Pattern {
    pub(super) text: String,
    regex: Option<Regex>,
    /// On the line after that of the pattern before.
    next_line: bool,
    /// It must not be there.
    negative: bool,
}

/// What is expected in a mode.
#[derive(Clone, Debug, Default)]
pub(super) struct Mode {
    /// The mode is asked for.
    wanted: bool,
    pub(super) failure: bool,
    result: bool,
    pub(super) messages: Vec<Pattern>,
    pub(super) xlated: Vec<Pattern>,
    pub(super) jited: Vec<(Option<Arch>, Pattern)>,
    pub(super) retval: Option<i32>,
    /// Of what the program writes to its stdout and stderr.
    pub(super) streams: [Vec<Pattern>; 2],
}

/// What is expected of a program.
#[derive(Clone, Debug, Default)]
pub(super) struct Spec {
    modes: [Mode; 2],
    pub(super) description: Option<String>,
    pub(super) log_level: u32,
    pub(super) flags: u32,
    /// Flags that are cleared.
    pub(super) cleared: u32,
    /// None is all.
    pub(super) archs: Vec<Option<Arch>>,
    pub(super) auxiliary: bool,
    pub(super) btf_path: Option<String>,
    /// Capabilities that an unprivileged loader keeps.
    pub(super) caps: Vec<String>,
    /// Jit or interpreter alone (`__load_if_JITed`).
    pub(super) without_jit: bool,
    /// Tags that are not known: `test_loader.c` passes over them, too.
    pub(super) unknown: Vec<String>,
    /// Bytes of the packet that are linear (`__linear_size`, 6.19).
    pub(super) linear: bool,
    /// There was a tag at all.
    pub(super) any: bool,
    jited_on_next: [bool; 2],
    xlated_on_next: [bool; 2],
    stream_on_next: bool,
}

impl Spec {
    /// The tags of a program; the error is a tag that cannot be read.
    pub(super) fn read(btf: &Btf, program: &str) -> Result<Spec, String> {
        let mut spec = Spec { xlated_on_next: [true; 2], ..Spec::default() };
        let Some(func) = btf.find(program, Kind::Func) else { return Ok(spec) };
        let tags = btf.decl_tags(func).filter(|(component, _)| *component == -1);
        for (_, tag) in tags {
            if let Some(test) = tag.strip_prefix("comment:") {
                spec.tag(test)?;
            }
        }
        spec.inherit();
        Ok(spec)
    }

    /// Modes that are asked for: privileged, then not.
    pub(super) fn wanted(&self) -> impl Iterator<Item = bool> {
        let both =
            [(false, self.modes[0].wanted || !self.modes[1].wanted), (true, self.modes[1].wanted)];
        both.into_iter().filter(|b| b.1).map(|b| b.0)
    }

    pub(super) fn mode(&self, unpriv: bool) -> &Mode {
        &self.modes[usize::from(unpriv)]
    }

    /// Unprivileged expectations that are not given are the privileged ones.
    fn inherit(&mut self) {
        let [privileged, other] = &mut self.modes;
        if !other.result {
            other.failure = privileged.failure;
        }
        other.retval = other.retval.or(privileged.retval);
        if other.messages.is_empty() {
            other.messages.clone_from(&privileged.messages);
        }
        if other.xlated.is_empty() {
            other.xlated.clone_from(&privileged.xlated);
        }
        if other.jited.is_empty() {
            other.jited.clone_from(&privileged.jited);
        }
    }

    fn tag(&mut self, tag: &str) -> Result<(), String> {
        let (name, value) = tag.split_once('=').unwrap_or((tag, ""));
        let Some(name) = name.strip_prefix("test_").or_else(|| name.strip_prefix("load_")) else {
            return Ok(());
        };
        self.any = true;
        let (name, unpriv) = match name.strip_suffix("_unpriv") {
            Some(short) => (short, true),
            None => (name, false),
        };
        let n = usize::from(unpriv);
        if self.common(name, value)? {
            return Ok(());
        }
        let mode = &mut self.modes[n];
        // Where several may be given the value follows a counter.
        let counted = value.split_once('=').map_or(value, |v| v.1);
        match name {
            "expect_failure" => (mode.failure, mode.result) = (true, true),
            "expect_success" => (mode.failure, mode.result) = (false, true),
            "auxiliary" => self.auxiliary = true,
            "expect_msg" => mode.messages.push(Pattern::new(counted, false, false)?),
            "expect_not_msg" => mode.messages.push(Pattern::new(counted, false, true)?),
            "expect_regex" => {
                mode.messages.push(Pattern::new(&format!("{{{{{counted}}}}}"), false, false)?)
            }
            "retval" => mode.retval = Some(retval(value)?),
            "expect_xlated" if counted == "..." => self.xlated_on_next[n] = false,
            "expect_xlated" => {
                let on_next = std::mem::replace(&mut self.xlated_on_next[n], true);
                mode.xlated.push(Pattern::new(counted, on_next, false)?);
            }
            "jited" if counted == "..." => self.jited_on_next[n] = false,
            "jited" => {
                let arch = self.archs.last().copied().ok_or("__jited before __arch_*")?;
                let on_next = std::mem::replace(&mut self.jited_on_next[n], true);
                mode.jited.push((arch, Pattern::new(counted, on_next, false)?));
            }
            "expect_stderr" | "expect_stdout" => {
                let on_next = std::mem::replace(&mut self.stream_on_next, counted != "...");
                if counted != "..." {
                    let err = usize::from(name == "expect_stderr");
                    mode.streams[err].push(Pattern::new(counted, on_next, false)?);
                }
            }
            "caps" => self.caps.extend(value.split('|').map(|c| c.trim().to_owned())),
            _ => {
                self.unknown.push(tag.to_owned());
                return Ok(());
            }
        }
        if name != "caps" {
            self.modes[n].wanted = true;
        }
        Ok(())
    }

    /// Tags that are the same in both modes.
    fn common(&mut self, name: &str, value: &str) -> Result<bool, String> {
        match name {
            // A part of the case's name, which is a line everywhere.
            "description" => self.description = Some(value.replace(char::is_control, " ")),
            "log_level" => self.log_level = int(value, &[])?.cast_unsigned(),
            "prog_flags" => self.flag(value)?,
            "btf_path" => self.btf_path = Some(value.to_owned()),
            "arch" => {
                let found = ARCHS.iter().find(|(n, _)| n.eq_ignore_ascii_case(value));
                self.archs.push(found.ok_or_else(|| format!("bad arch spec: '{value}'"))?.1);
                self.jited_on_next = [true; 2];
            }
            "mode" => self.without_jit = value == "no_jited",
            "linear_size" => self.linear = int(value, &[])? < TEST_DATA_LEN,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn flag(&mut self, value: &str) -> Result<(), String> {
        let (flags, clear) = value.strip_prefix('!').map_or((value, false), |v| (v, true));
        let bits = int(flags, FLAGS)?.cast_unsigned();
        if clear {
            self.cleared |= bits;
        } else {
            self.flags |= bits;
        }
        Ok(())
    }
}

impl Mode {
    /// Whether a result of the program is the expected one.
    pub(super) fn returns(&self, got: u32) -> bool {
        self.retval.is_none_or(|want| want == got.cast_signed() || want == POINTER_VALUE)
    }

    /// What is expected of native code is not compared.
    pub(super) fn not_compared(&self, engine: Engine) -> Option<&'static str> {
        let arch = match engine {
            Engine::Jit(arch) => arch,
            Engine::Host => Arch::X86_64,
            _ => return None,
        };
        let jited = self.jited.iter().any(|(a, _)| *a == Some(arch));
        jited.then_some("__jited is of the code that the kernel's own JIT emits: not compared")
    }

    /// The expectation in a word or two.
    pub(super) fn verdict(&self) -> &'static str {
        if self.failure { "rejected" } else { "accepted" }
    }
}

/// A constant as C has it, to an int as `strtol` and the tests' reader: numbers and `names`,
/// `|`, `<<`, `-`, `~` and parentheses, which a macro leaves in a tag.
fn int(text: &str, names: &[(&str, u32)]) -> Result<i32, String> {
    let bad = || format!("'{text}' is no number");
    let (value, rest) = any_of(text, names).ok_or_else(bad)?;
    if rest.is_empty() { Ok(value as i32) } else { Err(bad()) }
}

/// What is left of a text behind its first words.
type Read<'a> = Option<(i64, &'a str)>;

fn any_of<'a>(text: &'a str, names: &[(&str, u32)]) -> Read<'a> {
    let (mut value, mut rest) = shifted(text, names)?;
    while let Some(next) = rest.strip_prefix('|') {
        let (more, behind) = shifted(next, names)?;
        (value, rest) = (value | more, behind);
    }
    Some((value, rest))
}

fn shifted<'a>(text: &'a str, names: &[(&str, u32)]) -> Read<'a> {
    let (mut value, mut rest) = operand(text, names)?;
    while let Some(next) = rest.strip_prefix("<<") {
        let (by, behind) = operand(next, names)?;
        (value, rest) = (value.checked_shl(u32::try_from(by).ok()?)?, behind);
    }
    Some((value, rest))
}

fn operand<'a>(text: &'a str, names: &[(&str, u32)]) -> Read<'a> {
    let text = text.trim_start();
    if let Some(inner) = text.strip_prefix('(') {
        let (value, rest) = any_of(inner, names)?;
        return Some((value, rest.strip_prefix(')')?.trim_start()));
    }
    if let Some(inner) = text.strip_prefix('-') {
        return operand(inner, names).map(|(v, rest)| (v.wrapping_neg(), rest));
    }
    if let Some(inner) = text.strip_prefix('~') {
        return operand(inner, names).map(|(v, rest)| (!v, rest));
    }
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let named = names.iter().find(|(n, _)| *n == word).map(|n| i64::from(n.1));
    let digits = word.trim_end_matches(['u', 'U', 'l', 'L']);
    let number = || match digits.strip_prefix("0x") {
        Some(hex) => i64::from_str_radix(hex, 16).ok(),
        None => digits.parse().ok(),
    };
    Some((named.or_else(number)?, rest.trim_start()))
}

fn retval(text: &str) -> Result<i32, String> {
    match text {
        "INT_MIN" => Ok(i32::MIN),
        "POINTER_VALUE" => Ok(POINTER_VALUE),
        "TEST_DATA_LEN" => Ok(TEST_DATA_LEN),
        _ => int(text, &[]),
    }
}

impl Pattern {
    fn new(text: &str, next_line: bool, negative: bool) -> Result<Pattern, String> {
        let regex = text.contains("{{").then(|| compile(text)).transpose()?;
        Ok(Pattern { text: text.to_owned(), regex, next_line, negative })
    }

    /// Where it is in a text.
    fn find(&self, text: &str) -> Option<std::ops::Range<usize>> {
        match &self.regex {
            Some(regex) => regex.find(text).map(|m| m.range()),
            None => text.find(&self.text).map(|at| at..at + self.text.len()),
        }
    }
}

/// Text with expressions in it as one expression; `.` and negated sets stay on a line, as
/// `REG_NEWLINE` has it.
fn compile(text: &str) -> Result<Regex, String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((plain, tail)) = rest.split_once("{{") {
        let (inner, tail) = tail
            .split_once("}}")
            .ok_or_else(|| format!("regexp has open '{{{{' but no closing '}}}}': '{text}'"))?;
        out += &regex::escape(plain);
        out += &inner.replace("[^", "[^\\n");
        rest = tail;
    }
    out += &regex::escape(rest);
    let built = RegexBuilder::new(&out).multi_line(true).build();
    // The last line says what is wrong, those before it show where.
    let last = |e: regex::Error| e.to_string().lines().last().unwrap_or_default().to_owned();
    built.map_err(|e| format!("regexp '{text}': {}", last(e).trim_start_matches("error: ")))
}

/// The first pattern that a text does not meet, in the order they are given.
pub(super) fn unmet(text: &str, patterns: &[Pattern]) -> Option<String> {
    let (mut from, mut line) = (0, None);
    for (i, p) in patterns.iter().enumerate() {
        if p.negative {
            // Between the match before and the one after.
            let next = patterns[i + 1..].iter().find(|p| !p.negative);
            let end =
                next.and_then(|n| n.find(&text[from..])).map_or(text.len(), |r| from + r.start);
            if p.find(&text[from..end]).is_some() {
                return Some(format!("'{}' is there", p.text));
            }
            continue;
        }
        let Some(found) = p.find(&text[from..]) else {
            return Some(format!("'{}' is missing", p.text));
        };
        let at = text[..from + found.start].matches('\n').count();
        if p.next_line && line.is_some_and(|l: usize| l + 1 != at) {
            return Some(format!("'{}' is on line {}, not on the next", p.text, at + 1));
        }
        (from, line) = (from + found.end, Some(at));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(tags: &[&str]) -> Spec {
        let mut s = Spec { xlated_on_next: [true; 2], ..Spec::default() };
        for t in tags {
            s.tag(t).unwrap();
        }
        s.inherit();
        s
    }

    #[test]
    fn modes_and_what_one_takes_from_the_other() {
        let s = spec(&[
            "test_expect_success",
            "test_expect_failure_unpriv",
            "test_retval=0xcafe4all",
            "test_expect_msg=0=a",
            "test_prog_flags=BPF_F_STRICT_ALIGNMENT",
            "test_prog_flags=!4",
        ]);
        assert_eq!(s.wanted().collect::<Vec<_>>(), [false, true]);
        assert!(!s.mode(false).failure && s.mode(true).failure);
        assert!(s.mode(true).returns(17));
        assert_eq!((s.mode(true).messages.len(), s.flags, s.cleared), (1, 1, 4));
        assert_eq!(spec(&[]).wanted().collect::<Vec<_>>(), [false]);
        assert_eq!(spec(&["test_expect_success_unpriv"]).wanted().collect::<Vec<_>>(), [true]);
        assert_eq!(spec(&["test_frob=1"]).unknown, ["test_frob=1"]);
        let described = spec(&["test_description=two\nlines"]).description;
        assert_eq!(described.as_deref(), Some("two lines"));
    }

    #[test]
    fn values() {
        assert_eq!(retval("INT_MIN").unwrap(), i32::MIN);
        assert_eq!(retval("-1").unwrap(), -1);
        assert_eq!(retval("0xffffffff").unwrap(), -1);
        assert_eq!(retval("((-(3)))").unwrap(), -3);
        assert_eq!(int("(1U << 3)", FLAGS).unwrap(), 8);
        assert_eq!(int("BPF_F_STRICT_ALIGNMENT | (1UL<<3) | 0x40", FLAGS).unwrap(), 0x49);
        for bad in ["x", "", "1 +", "(1", "1)", "0xg", "1 << 64", "--"] {
            assert!(int(bad, FLAGS).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_in_order() {
        let p = |t: &str| Pattern::new(t, false, false).unwrap();
        let next = |t: &str| Pattern::new(t, true, false).unwrap();
        let not = |t: &str| Pattern::new(t, false, true).unwrap();
        let text = "0: r1 = 1\n1: r2 = 27\n2: exit\n";
        assert_eq!(unmet(text, &[p("r1"), p("r2 = {{[0-9]+}}")]), None);
        assert!(unmet(text, &[p("r2"), p("r1")]).is_some());
        assert_eq!(unmet(text, &[next("r1"), next("r2")]), None);
        assert!(unmet(text, &[next("r1"), next("exit")]).unwrap().contains("line 3"));
        assert!(unmet(text, &[p("r1"), not("r2"), p("exit")]).unwrap().contains("is there"));
        assert_eq!(unmet(text, &[p("r1"), not("r3"), p("exit")]), None);
        assert!(compile("a{{b").is_err());
        assert_eq!(compile("{{(}}").unwrap_err(), "regexp '{{(}}': unclosed group");
    }
}
