//! A finding as a scenario: the schedule pinned, and what happens in words on top.

use std::collections::BTreeSet;
use std::path::Path;

use bpf::Arch;
use kernel_model::cpu::Site;
use scenarios::edit::{self, Edit};
use scenarios::parse::Parsed;

use super::driver::{Switch, Way};
use super::finding::Signature;
use crate::machine::Machine;
use crate::runner::cells::Cell;

/// Columns of the words.
const WIDTH: usize = 96;
/// Switches that are told one by one.
const TOLD: usize = 12;

/// A schedule in the language of scenarios.
#[must_use]
pub fn pinned(seed: u64, way: &Way) -> String {
    let line = |s: &Switch| {
        let (cpu, after, at, to) = (s.cpu.0, s.after, &s.at, s.to.cpu.0);
        let task = s.task.as_ref().map_or(String::new(), |t| format!(", task: {t:?}"));
        format!("        (cpu: {cpu}, after: {after}, at: {at:?}, to: {to}{task}),\n")
    };
    let switches: String = way.switches.iter().map(line).collect();
    let open = if switches.is_empty() { "" } else { "\n" };
    let close = if switches.is_empty() { "" } else { "    " };
    let first = way.first.0;
    format!("Pinned(seed: {seed}, first: {first}, switches: [{open}{switches}{close}])")
}

/// A scenario with one more item in a list of its own, such as `faults`.
#[must_use]
pub fn with_item(text: &str, list: &str, item: &str) -> String {
    let there = edit::find(text, list).ok().flatten();
    let Some(node) = there else {
        let list_of_one = format!("[{item}]");
        let with = edit::with_field(text, list, &list_of_one, "expect");
        return with.unwrap_or_else(|_| text.to_owned());
    };
    let (from, to) = (node.span.start as usize + 1, node.span.end as usize - 1);
    let more = if text[from..to].trim().is_empty() { "" } else { ", " };
    format!("{}{item}{more}{}", &text[..from], &text[from..])
}

/// The items of a list of a scenario, as it has them.
#[must_use]
pub fn items<'a>(text: &'a str, list: &str) -> &'a str {
    let Some(node) = edit::find(text, list).ok().flatten() else { return "" };
    let list = &text[node.span.start as usize..node.span.end as usize];
    list.trim_matches(['[', ']']).trim().trim_end_matches(',')
}

/// A scenario with its schedule pinned; a matrix gives way to it.
#[must_use]
pub fn with_schedule(text: &str, schedule: &str) -> String {
    edit::with_field(text, "schedule", schedule, "expect").unwrap_or_else(|_| text.to_owned())
}

/// A scenario without its matrix.
fn without_matrix(text: &str) -> String {
    let parts = edit::parts(text).unwrap_or_default();
    let matrix = parts.iter().find(|p| p.path == "matrix");
    matrix.map_or_else(|| text.to_owned(), |p| edit::without(text, p.span))
}

/// The scenario of one cell of a matrix on some architectures, by itself: values in place of
/// variables. Included files are not changed: for the variables in them a matrix of this one cell
/// stays, which is given too.
#[must_use]
pub fn of_cell(text: &str, parsed: &Parsed, cell: &Cell, archs: &[Arch]) -> (String, Cell) {
    let value = |name: &str| cell.vars.iter().find(|(n, _)| n == name);
    let here = parsed.used.iter().filter(|(_, span)| span.file == 0);
    let edits = here.filter_map(|(name, span)| {
        value(name).map(|(_, text)| Edit { span: *span, text: text.clone() })
    });
    let mut text = without_matrix(&edit::apply(text, &edits.collect::<Vec<_>>()));
    let mut kept = Cell { seed: cell.seed, ..Cell::default() };
    let included = parsed.used.iter().filter(|(_, span)| span.file != 0);
    let names: BTreeSet<&str> = included.map(|(name, _)| name.as_str()).collect();
    kept.vars.extend(names.into_iter().filter_map(|name| value(name).cloned()));
    if !kept.vars.is_empty() {
        let vars: Vec<String> = kept.vars.iter().map(|(n, v)| format!("{n:?}: [{v}]")).collect();
        let matrix = format!("(vars: {{{}}})", vars.join(", "));
        text = edit::with_field(&text, "matrix", &matrix, "expect").unwrap_or(text);
    }
    let text = match cell.cpus {
        Some(cpus) => with_machine(&text, "cpus", &cpus.to_string()),
        None => text,
    };
    let names: Vec<&str> = archs.iter().map(|a| a.name()).collect();
    let machine = parsed.scenario.iter().flat_map(|s| &s.machine.archs);
    if machine.map(|a| a.v.name()).eq(names.iter().copied()) {
        return (text, kept);
    }
    (with_machine(&text, "archs", &format!("[{}]", names.join(", "))), kept)
}

/// A scenario with a field of its machine set.
fn with_machine(text: &str, field: &str, value: &str) -> String {
    let path = format!("machine.{field}");
    if let Some(node) = edit::find(text, &path).ok().flatten() {
        return edit::apply(text, &[Edit { span: node.span, text: value.to_owned() }]);
    }
    let Some(machine) = edit::find(text, "machine").ok().flatten() else {
        let machine = format!("({field}: {value})");
        let with = edit::with_field(text, "machine", &machine, "expect");
        return with.unwrap_or_else(|_| text.to_owned());
    };
    let whole = &text[machine.span.start as usize..machine.span.end as usize];
    let at = machine.span.start as usize + whole.find('(').map_or(0, |n| n + 1);
    let comma = if text[at..].trim_start().starts_with(')') { "" } else { ", " };
    format!("{}{field}: {value}{comma}{}", &text[..at], &text[at..])
}

/// A scenario whose objects are found from another folder.
#[must_use]
pub fn moved(text: &str, from: &Path, to: &Path) -> String {
    let absolute = |p: &Path| {
        let p = if p.as_os_str().is_empty() { Path::new(".") } else { p };
        p.canonicalize().unwrap_or_else(|_| p.to_path_buf())
    };
    let (from, to) = (absolute(from), absolute(to));
    if from == to {
        return text.to_owned();
    }
    let same = from.components().zip(to.components()).take_while(|(a, b)| a == b).count();
    let up = to.components().skip(same).map(|_| "..".to_owned());
    let down = from.components().skip(same).map(|c| c.as_os_str().to_string_lossy().into_owned());
    let way: Vec<String> = up.chain(down).collect();
    let parts = edit::parts(text).unwrap_or_default();
    let file = |p: &&edit::Part| p.path.starts_with("objects.") && p.path.ends_with(".file");
    let change = |p: &edit::Part| {
        let node = edit::find(text, &p.path).ok().flatten()?;
        let name = format!("{}/{}", way.join("/"), node.as_str()?);
        Some(Edit { span: node.span, text: format!("{name:?}") })
    };
    let edits: Vec<Edit> = parts.iter().filter(file).filter_map(change).collect();
    edit::apply(text, &edits)
}

/// Where a finding comes from.
#[derive(Clone, Copy, Debug)]
pub struct Origin<'a> {
    /// Name of the strategy.
    pub strategy: &'a str,
    /// Number of the run, from 1.
    pub run: u64,
    /// Switches before it was shrunk.
    pub switches: usize,
    /// Faults of the scenario as it is written, with commas between them.
    pub faults: &'a str,
}

/// What fails and which switches lead there, as comment lines.
#[must_use]
pub fn explanation(
    origin: Origin<'_>,
    signature: &Signature,
    message: &str,
    way: &Way,
    m: &Machine,
) -> String {
    let (run, was, now) = (origin.run, origin.switches, way.switches.len());
    let shrunk = match was {
        _ if was == now => String::new(),
        1 => format!(", shrunk from 1 switch to {now}"),
        _ => format!(", shrunk from {was} switches to {now}"),
    };
    let mut words = format!(
        "Found by `orrery explore` ({}, run {run}{shrunk}): {}: {}. CPU {} begins.",
        origin.strategy,
        signature.kind.name(),
        message.lines().next().unwrap_or_default(),
        way.first.0
    );
    for s in way.switches.iter().take(TOLD) {
        let place = s.site.map_or(String::new(), |site| source(m, site));
        let (cpu, to) = (s.cpu.0, s.to.cpu.0);
        let next = match &s.task {
            None => format!("CPU {to} goes on"),
            Some(task) if s.to.cpu == s.cpu => format!("task {task} preempts it"),
            Some(task) => format!("task {task} preempts CPU {to}"),
        };
        words += &format!(" CPU {cpu} stops at `{}`{place}, {next}.", s.at);
    }
    if now > TOLD {
        words += &format!(" And so on, {} more.", now - TOLD);
    }
    if !origin.faults.is_empty() {
        words += &format!(" With the faults {}.", origin.faults);
    }
    words += " Do not edit `switches`; run `orrery repin` after a change of the program.";
    comment(&words)
}

/// ` (file.bpf.c:17, "text")`.
fn source(m: &Machine, site: Site) -> String {
    let program = m.kernel.prog(site.prog).map(|p| p.verified.program());
    let Some(line) = program.and_then(|p| p.line_at(site.insn)) else { return String::new() };
    format!(" ({}:{}, `{}`)", line.file_name(), line.line, line.text.trim())
}

fn comment(words: &str) -> String {
    let (mut out, mut line) = (String::new(), String::from("//"));
    for word in words.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > WIDTH {
            out += &line;
            out.push('\n');
            line = String::from("//");
        }
        line.push(' ');
        line += word;
    }
    out + &line + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runner::cells::Disk;
    use kernel_model::CpuId;
    use scenarios::parse::parse;

    #[test]
    fn a_way_is_written_and_read() {
        let at = "count: bpf_ktime_get_ns returned".to_owned();
        let cpu = CpuId(0);
        let (to, task) = (CpuId(1).into(), Some("right.1".to_owned()));
        let switch = Switch { cpu, after: 2, at, before: 0, to, task, site: None };
        let way = Way { first: cpu, switches: vec![switch] };
        let text =
            "Scenario(\n    orrery: 1,\n    machine: (cpus: 2),\n    expect: [Leaks([])],\n)";
        let text = with_schedule(&with_item(text, "faults", "Alloc(nth: 3)"), &pinned(7, &way));
        let parsed = parse("a.ron", &text, &[], &Disk);
        assert!(parsed.findings.is_empty(), "{text}\n{:?}", parsed.findings);
        let s = parsed.scenario.unwrap();
        assert_eq!(s.faults.len(), 1);
        let scenarios::schema::Schedule::Pinned { seed: 7, switches, .. } = &s.schedule else {
            panic!("{text}")
        };
        assert_eq!(switches[0].at.v, "count: bpf_ktime_get_ns returned");
        assert_eq!(switches[0].task.as_ref().map(|t| t.v.as_str()), Some("right.1"));
        let more = with_item(&text, "faults", "Alloc(nth: 4)");
        assert!(more.contains("[Alloc(nth: 4), Alloc(nth: 3)]"), "{more}");
        assert_eq!(items(&more, "faults"), "Alloc(nth: 4), Alloc(nth: 3)");
    }

    #[test]
    fn a_cell_stands_by_itself() {
        let text = "Scenario(\n    orrery: 1,\n    faults: [Alloc(nth: \"$n\")],\n    matrix: \
                    (cpus: [2, 4], vars: {\"n\": 1..=3}),\n    expect: [Leaks([])],\n)";
        let first = parse("a.ron", text, &[], &Disk).scenario.unwrap();
        let cells = crate::runner::cells::cells(&first, 1);
        let cell = cells.iter().find(|c| c.name == "[cpus=4,n=2]").unwrap();
        let whole = parse("a.ron", text, &cell.vars, &Disk);
        let (plain, _) = of_cell(text, &whole, cell, &[Arch::S390x]);
        assert_eq!(
            plain,
            "Scenario(\n    orrery: 1,\n    faults: [Alloc(nth: 2)],\n    machine: (archs: \
             [s390x], cpus: 4),\n    expect: [Leaks([])],\n)"
        );
        let parsed = parse("a.ron", &plain, &[], &Disk);
        assert!(parsed.findings.is_empty(), "{:?}", parsed.findings);
    }

    #[test]
    fn words_become_a_comment_of_one_paragraph() {
        let text = comment(&"some words ".repeat(40));
        assert!(text.lines().count() > 3);
        assert!(text.lines().all(|l| l.starts_with("// ") && l.chars().count() <= WIDTH));
    }
}
