//! The states at one instruction, and how often each instruction was looked at.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bpf::Program;
use bpf::insn::Insn;

use super::trace::{Event, State, walk};
use super::{source, text};

/// Different states shown at one instruction.
const STATES: usize = 64;

pub(crate) fn words(state: &State) -> String {
    let pair = |(k, v): (&String, &String)| format!("{k}={v}");
    state.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// The distinct states before an instruction, in the order they were met, with how often.
pub(crate) fn at(log: &str, insn: u32) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    walk(log, |event, tracker| {
        let (Event::Insn(step), Some(state)) = (event, tracker.state()) else { return };
        if step.insn != insn {
            return;
        }
        let words = words(state);
        match found.iter_mut().find(|f| f.0 == words) {
            Some(f) => f.1 += 1,
            None => found.push((words, 1)),
        }
    });
    found
}

/// `--explain INSN`.
pub(crate) fn explain(program: &Program, log: &str, insn: u32) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "  insn {insn}: {}", text(program, insn));
    let line = source(program, insn);
    if !line.is_empty() {
        let _ = writeln!(out, "  {line}");
    }
    let found = at(log, insn);
    if matches!(program.insns.get(insn as usize), Some(Insn::LdImm64Hi)) {
        let _ = writeln!(out, "  it is the second half of the load at {}", insn - 1);
    } else if found.is_empty() {
        let _ = writeln!(out, "  no path was followed to it");
    }
    for (i, (state, times)) in found.iter().take(STATES).enumerate() {
        let times = if *times > 1 { format!(" ({times} times)") } else { String::new() };
        let _ = writeln!(out, "  state {}{times}: {state}", i + 1);
    }
    if found.len() > STATES {
        let _ = writeln!(out, "  and {} more", found.len() - STATES);
    }
    out
}

/// How often instructions were looked at, and how often a path ended at them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Visits {
    pub(crate) visits: usize,
    pub(crate) paths: usize,
    pub(crate) safe: usize,
}

/// Visits by instruction.
pub(crate) fn visits(log: &str) -> BTreeMap<u32, Visits> {
    let mut found: BTreeMap<u32, Visits> = BTreeMap::new();
    walk(log, |event, _| match event {
        Event::Insn(step) => found.entry(step.insn).or_default().visits += 1,
        Event::Path { from, .. } => found.entry(*from).or_default().paths += 1,
        Event::Safe(insn) => found.entry(*insn).or_default().safe += 1,
    });
    found
}

/// The registers and slots whose values made the states at an instruction differ.
fn varying(log: &str, insn: u32) -> Vec<(String, usize)> {
    let mut values: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new();
    walk(log, |event, tracker| {
        let (Event::Insn(step), Some(state)) = (event, tracker.state()) else { return };
        if step.insn == insn {
            for (k, v) in state {
                values.entry(k.clone()).or_default().insert(v.clone());
            }
        }
    });
    let mut many: Vec<_> = values.into_iter().map(|(k, v)| (k, v.len())).collect();
    many.retain(|m| m.1 > 1);
    many.sort_by_key(|m| std::cmp::Reverse(m.1));
    many
}

/// `--states`: the branches that multiply, and what they depend on.
pub(crate) fn overview(program: &Program, log: &str) -> String {
    let mut rows: Vec<(u32, Visits)> = visits(log).into_iter().filter(|v| v.1.paths > 0).collect();
    rows.sort_by_key(|(insn, v)| (std::cmp::Reverse(v.paths), *insn));
    let mut out = String::new();
    if rows.is_empty() {
        out.push_str("  one path: no branch was followed both ways\n");
    }
    for (insn, v) in rows.iter().take(10) {
        let (insn_text, line) = (text(program, *insn), source(program, *insn));
        let (visits, paths) = (v.visits, v.paths);
        let _ = writeln!(out, "  insn {insn}: {insn_text}: {visits} visits, {paths} paths begin");
        if !line.is_empty() {
            let _ = writeln!(out, "      {line}");
        }
        let many = varying(log, *insn);
        let many: Vec<String> = many.iter().take(4).map(|(k, n)| format!("{k} ({n})")).collect();
        if !many.is_empty() {
            let _ = writeln!(out, "      values that differ: {}", many.join(", "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "0: R1=ctx() R10=fp0\n0: (b7) r0 = 0 ; R0=0\n1: (15) if r1 == 0 goto pc+1\n\
        2: (b7) r0 = 1 ; R0=1\n3: (95) exit\n\nfrom 1 to 3: R0=0 R10=fp0\n3: (95) exit\n";

    #[test]
    fn states_and_visits() {
        let states = at(LOG, 3);
        assert_eq!(states.len(), 2);
        assert_eq!(states[0].0, "R0=1 R1=ctx() R10=fp0");
        let v = visits(LOG);
        assert_eq!((v[&3].visits, v[&1].paths), (2, 1));
        assert_eq!(varying(LOG, 3), [("R0".to_owned(), 2)]);
    }
}
