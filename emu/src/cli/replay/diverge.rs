//! Why two architectures gave different traces: the first event that differs, the instruction at
//! which the ways parted, both disassemblies and both states.
//!
//! Both runs are repeated, first with the traces kept, then with the program's way noted, block by
//! block. Where both sides have the
//! same instructions those are compared; where the byte orders made them differ, source lines are.

use std::fmt::Write as _;
use std::ops::Range;

use bpf::insn::disasm::disasm_op;
use bpf::insn::{Insn, InsnIdx, NoNames};
use bpf::{Arch, Program};
use kernel_model::event::Value;
use scenarios::Scenario;

use crate::machine::path::Point;
use crate::native::disassemble;
use crate::runner::trace::Keep;
use crate::runner::{Outcome, RunOptions, run as play};

/// Instructions shown from where the ways parted.
const INSNS_SHOWN: usize = 6;
/// Native instructions shown.
const NATIVE_SHOWN: usize = 12;

/// The whole explanation.
pub(super) fn explain(
    name: &str,
    scenario: &Scenario,
    options: &RunOptions,
    [a, b]: [Arch; 2],
) -> String {
    let mut options = options.clone();
    options.keep = Keep { compared: true, ..Keep::default() };
    let options = &options;
    let (a, b) = match [a, b].map(|arch| play(scenario, arch, options)) {
        [Ok(a), Ok(b)] => (a, b),
        _ => return format!("error: {name}: the traces of {a} and {b} differ\n"),
    };
    let (a, b) = (&a, &b);
    let at = first(&a.compared, &b.compared);
    let at = at.unwrap_or(a.compared.len());
    let mut text = format!(
        "error: {name}: the traces of {} and {} differ at event {}\n",
        a.arch,
        b.arch,
        at + 1
    );
    if let Some(before) = at.checked_sub(1) {
        let _ = writeln!(text, "  both, event {at}: {}", clipped(&a.compared[before]));
    }
    for o in [a, b] {
        let line = o.compared.get(at).map_or("(the end)", String::as_str);
        let _ = writeln!(text, "  {}: {}", o.arch, clipped(line));
    }
    let sides = [a, b].map(|o| side(scenario, options, o, at));
    match sides {
        [Some(a), Some(b)] => text += &parted(&a, &b),
        _ => text += "  no program ran between the events\n",
    }
    text + "  next: orrery jit shows the native code of the whole program\n"
}

/// The first line in which two traces differ; it may be the end of one of them.
pub(super) fn first(a: &[String], b: &[String]) -> Option<usize> {
    let at = a.iter().zip(b).position(|(x, y)| x != y);
    at.or_else(|| (a.len() != b.len()).then_some(a.len().min(b.len())))
}

fn clipped(line: &str) -> String {
    const CHARS: usize = 160;
    if line.chars().count() <= CHARS {
        return line.to_owned();
    }
    line.chars().take(CHARS).chain("...".chars()).collect()
}

/// One of the two, run again with its way noted.
fn side(scenario: &Scenario, options: &RunOptions, o: &Outcome, at: usize) -> Option<Outcome> {
    let range = window(o, at)?;
    let options = RunOptions { probe: Some(range), ..options.clone() };
    play(scenario, o.arch, &options).ok().filter(|o| !o.probe.points.is_empty())
}

/// Events between which the way is noted: from the entry of the program that ran last on the
/// CPU of the event that differs.
fn window(o: &Outcome, at: usize) -> Option<Range<usize>> {
    let last = o.compared_at.len().checked_sub(1)?;
    let at = at.min(last);
    let entry = (0..=at).rev().find(|n| o.compared[*n].contains(" enter "))?;
    Some(o.compared_at[entry]..o.compared_at[at])
}

/// What names a place on both sides.
#[derive(PartialEq, Eq)]
enum Key {
    Insn(String, InsnIdx),
    Line(String, u32),
}

fn program(o: &Outcome, p: &Point) -> Option<(usize, InsnIdx)> {
    let n = o.probe.progs.iter().position(|(_, loaded)| loaded.prog == p.prog)?;
    Some((n, p.insn))
}

fn key(o: &Outcome, p: &Point, lines: bool) -> Option<Key> {
    let (n, insn) = program(o, p)?;
    let program = &o.probe.progs[n].0;
    if !lines {
        return Some(Key::Insn(program.name.clone(), insn));
    }
    let line = program.line_at(insn)?;
    Some(Key::Line(line.file_name().to_owned(), line.line))
}

/// Whether both sides ran programs of the same shape: one opcode for one, immediates aside.
fn alike(a: &Outcome, b: &Outcome) -> bool {
    let shape = |o: &Outcome| -> Vec<(String, Vec<std::mem::Discriminant<Insn>>)> {
        let one = |p: &Program| {
            (p.name.clone(), p.insns.iter().map(std::mem::discriminant).collect::<Vec<_>>())
        };
        o.probe.progs.iter().map(|(p, _)| one(p)).collect()
    };
    shape(a) == shape(b)
}

/// The last place both sides passed, and how each went on.
fn parted(a: &Outcome, b: &Outcome) -> String {
    let lines = !alike(a, b);
    let ways = [a, b].map(|o| {
        let mut way: Vec<(Key, &Point)> = Vec::new();
        for p in &o.probe.points {
            if let Some(key) = key(o, p, lines)
                && way.last().is_none_or(|(last, _)| !lines || *last != key)
            {
                way.push((key, p));
            }
        }
        way
    });
    let [x, y] = &ways;
    let same = x.iter().zip(y).take_while(|(p, q)| p.0 == q.0).count();
    let Some(last) = same.checked_sub(1) else {
        return "  the programs have no place in common\n".to_owned();
    };
    let split = same < x.len() && same < y.len();
    let what = if split { "the ways part after" } else { "the ways are the same up to" };
    let mut text = String::new();
    for (o, way) in [a, b].into_iter().zip([x, y]) {
        let (at, next) = (way[last].1, way.get(same).filter(|_| split).map(|w| w.1));
        let _ = writeln!(text, "\n  {} {what} {}", o.arch, place(o, at));
        text += &state(at);
        text += &bpf_code(o, at);
        text += &native_code(o, at);
        if let Some(next) = next {
            let _ = writeln!(text, "    and goes on at {}", place(o, next));
            text += &state(next);
        }
    }
    text + &registers(x[last].1, y[last].1)
}

fn place(o: &Outcome, p: &Point) -> String {
    let Some((n, insn)) = program(o, p) else { return "?".to_owned() };
    let program = &o.probe.progs[n].0;
    let line = program.line_at(insn);
    let at = line
        .map_or(String::new(), |l| format!(" @ {}:{}: {}", l.file_name(), l.line, l.text.trim()));
    format!("{}:{}{at}", program.name, insn.0)
}

fn state(p: &Point) -> String {
    let regs: Vec<String> =
        p.regs.iter().enumerate().map(|(n, v)| format!("R{n}={}", Value::of(*v))).collect();
    format!("    cpu{} {}\n", p.cpu.0, regs.join(" "))
}

/// Registers that are not alike at the last common place.
fn registers(a: &Point, b: &Point) -> String {
    let differ = (0..a.regs.len()).filter(|n| Value::of(a.regs[*n]) != Value::of(b.regs[*n]));
    let names: Vec<String> = differ.map(|n| format!("R{n}")).collect();
    match names.len() {
        0 => "  all registers are alike there\n".to_owned(),
        _ => format!("  not alike there: {}\n", names.join(", ")),
    }
}

fn bpf_code(o: &Outcome, p: &Point) -> String {
    let Some((n, insn)) = program(o, p) else { return String::new() };
    let program: &Program = &o.probe.progs[n].0;
    let mut text = String::new();
    let from = insn.0 as usize;
    for (i, op) in program.insns.iter().enumerate().skip(from).take(INSNS_SHOWN) {
        if *op != Insn::LdImm64Hi {
            let _ = writeln!(text, "    {i:>5}: {}", disasm_op(op, &NoNames));
        }
    }
    text
}

fn native_code(o: &Outcome, p: &Point) -> String {
    let Some((n, _)) = program(o, p) else { return String::new() };
    let loaded = &o.probe.progs[n].1;
    let code = &loaded.compiled.code;
    let Ok(at) = u32::try_from(p.pc - loaded.base) else { return String::new() };
    let end = (at as usize + NATIVE_SHOWN * 8).min(code.len());
    let native = disassemble(o.arch, &code[at as usize..end], at).unwrap_or_default();
    let mut text = String::new();
    for n in native.iter().take(NATIVE_SHOWN) {
        let _ = writeln!(text, "    {:>+7x}  {}", n.at, n.text);
    }
    text
}
