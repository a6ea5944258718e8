//! A verdict for people: the C line, the path that leads there, the value's history, the rule and
//! what to change.
//!
//! ```text
//!  log of the verifier (ours, or the kernel's: same text) ─► trace ─► events
//!     events of the failing path ─► history (backwards from the register) ─► text
//!     all events ─► states at an instruction, visits ─► text, page
//! ```
//!
//! The log is all that is read: nothing is asked of the verifier that costs when nobody looks.

pub(crate) mod history;
pub(super) mod html;
mod rules;
pub(crate) mod states;
pub(crate) mod trace;

use std::fmt::Write as _;

use bpf::Program;
use bpf::insn::disasm::{NoNames, disasm_op};
use bpf::insn::{Insn, InsnIdx};
use bpf::object::Object;

use self::history::Link;
use self::trace::{Event, Step};

/// Branches shown, the last ones of the path.
const BRANCHES: usize = 8;

/// `file:line: text` of an instruction, empty without line info.
pub(crate) fn source(program: &Program, insn: u32) -> String {
    match program.line_at(InsnIdx(insn)) {
        Some(l) => {
            let words: Vec<&str> = l.text.split_whitespace().collect();
            format!("{}:{}: {}", l.file_name(), l.line, words.join(" "))
        }
        None => String::new(),
    }
}

/// The instruction as text.
pub(crate) fn text(program: &Program, insn: u32) -> String {
    program.insns.get(insn as usize).map_or_else(String::new, |i| disasm_op(i, &NoNames))
}

/// Name of the rule behind a message.
pub(super) fn rule_name(message: &str) -> &'static str {
    rules::rule_of(message).name
}

/// The steps of the failing path: at level 1 the log is that path.
pub(super) fn failing_path(log: &str) -> Vec<Step> {
    let mut steps = Vec::new();
    trace::walk(log, |event, _| {
        if let Event::Insn(step) = event {
            steps.push(step.clone());
        }
    });
    steps
}

/// Why a program was rejected, in several lines; empty when the log names no instruction. The
/// object tells what an instruction stood for before it was linked.
pub(super) fn explain(
    program: &Program,
    object: Option<&Object>,
    log: &str,
    message: &str,
) -> String {
    let path = failing_path(log);
    let mut out = String::new();
    let lacks = path.last().and_then(|s| object?.missing(program, InsnIdx(s.insn)));
    let rule = if lacks.is_some() { &rules::MISSING } else { rules::rule_of(message) };
    let _ = writeln!(out, "    rule   {}: {}", rule.name, rule.says);
    let Some(last) = path.last() else {
        let _ = writeln!(out, "    fix    {}", rule.fix);
        return out;
    };
    let line = source(program, last.insn);
    if !line.is_empty() {
        let _ = writeln!(out, "    where  {line}");
    }
    let label = if line.is_empty() { "where" } else { "     " };
    let _ = writeln!(out, "    {label}  insn {}: {}", last.insn, text(program, last.insn));
    if let Some(lacks) = lacks {
        let _ = writeln!(out, "    lacks  {lacks}");
    }
    let links = match history::register_of(message) {
        Some(reg) => history::of_register(program, &path, reg),
        None => history::of_reference(message),
    };
    for (i, link) in links.iter().enumerate() {
        let _ =
            writeln!(out, "    {}  {}", if i == 0 { "value" } else { "     " }, say(program, link));
    }
    for (i, b) in branches(program, &path).iter().enumerate() {
        let _ = writeln!(out, "    {}  {b}", if i == 0 { "path " } else { "     " });
    }
    let _ = writeln!(out, "    fix    {}", rule.fix);
    out
}

fn say(program: &Program, link: &Link) -> String {
    let line = source(program, link.insn);
    let place = if line.is_empty() { String::new() } else { format!("  [{line}]") };
    format!("insn {}: {}{place}", link.insn, link.what)
}

/// The conditional jumps of a path and which way they went, the last ones; a jump that is met more
/// than once has its number of times.
fn branches(program: &Program, path: &[Step]) -> Vec<String> {
    let mut found: Vec<(u32, bool, usize)> = Vec::new();
    for pair in path.windows(2) {
        let (at, next) = (pair[0].insn, pair[1].insn);
        let is_branch = matches!(program.insns.get(at as usize), Some(Insn::Jmp { .. }));
        if !is_branch {
            continue;
        }
        let taken = next != at + 1;
        match found.iter().position(|f| (f.0, f.1) == (at, taken)) {
            Some(i) => {
                let (at, taken, times) = found.remove(i);
                found.push((at, taken, times + 1));
            }
            None => found.push((at, taken, 1)),
        }
    }
    let skipped = found.len().saturating_sub(BRANCHES);
    let say = |(at, taken, times): &(u32, bool, usize)| {
        let way = if *taken { "taken" } else { "not taken" };
        let times = if *times > 1 { format!(", {times} times") } else { String::new() };
        let line = source(program, *at);
        let place = if line.is_empty() { line } else { format!("  [{line}]") };
        format!("insn {at}: {}: {way}{times}{place}", text(program, *at))
    };
    found[skipped..].iter().map(say).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::{NoSymbols, assemble};

    const LOG: &str = "\
0: R1=ctx() R10=fp0
0: (b7) r6 = 0                        ; R6=0
1: (7b) *(u64 *)(r10 -8) = r6         ; R6=0 R10=fp0 fp-8=0
2: (bf) r2 = r10                      ; R2=fp0 R10=fp0
3: (07) r2 += -8                      ; R2=fp-8
4: (18) r1 = 0x0                      ; R1=map_ptr(map=m,ks=4,vs=8)
6: (85) call bpf_map_lookup_elem#1    ; R0=map_value_or_null(id=1,map=m,ks=4,vs=8)
7: (15) if r6 == 0x1 goto pc+1        ; R6=0
8: (bf) r7 = r0                       ; R0=map_value_or_null(id=1) R7=map_value_or_null(id=1)
9: (79) r0 = *(u64 *)(r7 +0)
R7 invalid mem access 'map_value_or_null'
processed 9 insns
";

    fn program() -> Program {
        let text = "; map m hash 4 8 1\nr6 = 0\n*(u64 *)(r10 -8) = r6\nr2 = r10\nr2 += -8\n\
            r1 = map[m] ll\ncall bpf_map_lookup_elem\nif r6 == 1 goto pc+1\nr7 = r0\n\
            r0 = *(u64 *)(r7 +0)\nexit";
        assemble(text, &NoSymbols).unwrap().progs.remove(0)
    }

    #[test]
    fn a_value_that_may_be_null() {
        let text = explain(&program(), None, LOG, "R7 invalid mem access 'map_value_or_null'");
        assert!(text.contains("insn 9: (79) r0 = *(u64 *)(r7 +0)"), "{text}");
        assert!(text.contains("bpf_map_lookup_elem"), "{text}");
        assert!(text.contains("can fail"), "{text}");
        assert!(text.contains("insn 7: (15) if r6 == 0x1 goto pc+1: not taken"), "{text}");
        assert!(text.contains("NULL"), "{text}");
    }

    #[test]
    fn a_log_without_instructions() {
        let text =
            explain(&program(), None, "last insn is not an exit or jmp\n", "last insn is not");
        assert!(text.starts_with("    rule"), "{text}");
    }
}
