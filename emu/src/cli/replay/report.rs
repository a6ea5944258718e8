//! What a person or a program reads of a run. Errors that are the same on several architectures
//! are said once.

use std::path::{Path, PathBuf};

use bpf::Arch;
use scenarios::parse::Parsed;
use scenarios::{Finding, render};

use super::{Exit, Ran, out};
use crate::runner::cells::Cell;
use crate::runner::{Failure, Outcome, RunError};

/// Lines for standard output, and words for standard error, in order.
#[derive(Debug, Default)]
pub(super) struct Report {
    json: bool,
    parts: Vec<Part>,
}

#[derive(Debug)]
enum Part {
    Line(String),
    Words(String),
}

/// What was said of the cells of a file, with the number of cells.
#[derive(Debug, Default)]
pub(super) struct Told(std::collections::BTreeMap<String, u64>);

/// Findings of a file as text.
pub(in crate::cli) fn findings(parsed: &Parsed) -> String {
    parsed.findings.iter().map(|f| render::human(&parsed.files, f)).collect()
}

/// One word for a run, the value of `outcome`.
pub(super) fn word(ran: &Ran) -> (&'static str, Exit) {
    match &ran.result {
        Ok(o) if o.failures.is_empty() => ("met", Exit::Ok),
        Ok(_) => ("not_met", Exit::NotMet),
        Err(e) => error_word(e),
    }
}

/// One word for why a scenario could not be run.
pub(in crate::cli) fn error_word(e: &RunError) -> (&'static str, Exit) {
    match e {
        RunError::Rejected(_) => ("rejected", Exit::NotMet),
        RunError::Input(_) => ("bad_input", Exit::BadInput),
        RunError::Unsupported { .. } => ("unsupported", Exit::Unsupported),
        RunError::Internal(_) | RunError::Paused => ("internal", Exit::Internal),
    }
}

impl Report {
    pub(super) fn new(json: bool) -> Report {
        Report { json, parts: Vec::new() }
    }

    pub(super) fn words(&mut self, text: String) {
        self.parts.push(Part::Words(text));
    }

    /// A line of the result, which with `--json` is for people only and left out.
    pub(super) fn line(&mut self, text: String) {
        if !self.json {
            self.parts.push(Part::Line(text));
        }
    }

    pub(super) fn append(&mut self, mut other: Report) {
        self.parts.append(&mut other.parts);
    }

    pub(super) fn print(&self) {
        for part in &self.parts {
            match part {
                Part::Line(text) => out::line(text),
                Part::Words(text) => out::warn(text),
            }
        }
    }

    /// All runs of a cell. What another cell had is counted, not said again.
    pub(super) fn runs(
        &mut self,
        (cell, again): (&Cell, &Again),
        name: &str,
        ran: &[Ran],
        parsed: &Parsed,
        told: &mut Told,
    ) -> Vec<Exit> {
        let mut said: Vec<(Problem, Vec<Arch>)> = Vec::new();
        let mut exits = Vec::new();
        for one in ran {
            exits.push(word(one).1);
            let line = if self.json { Some(json(name, one, again)) } else { human(name, one) };
            self.parts.extend(line.map(Part::Line));
            for text in problems(name, one, parsed) {
                match said.iter_mut().find(|(t, _)| t.text == text.text) {
                    Some((_, archs)) => archs.push(one.arch),
                    None => said.push((text, vec![one.arch])),
                }
            }
        }
        if let Some(about) = parsed.scenario.as_ref().and_then(|s| s.about.as_ref())
            && !said.is_empty()
            && told.0.is_empty()
        {
            self.words(format!("{name}: {about}\n"));
        }
        for (Problem { text, at }, archs) in said {
            let names: Vec<&str> = archs.iter().map(|a| a.name()).collect();
            let of = if cell.name.is_empty() { String::new() } else { format!("{name} on ") };
            let cells = told.0.entry(text.clone()).or_default();
            *cells += 1;
            if *cells == 1 {
                let debug = at.map(|at| format!("  debug with: {}\n", again.debug(archs[0], at)));
                self.words(format!(
                    "{of}{}: {text}{}",
                    names.join(", "),
                    debug.unwrap_or_default()
                ));
            }
        }
        exits
    }

    /// How often what was said of one cell holds for others.
    pub(super) fn repeated(&mut self, told: &Told) {
        for (text, cells) in told.0.iter().filter(|(_, cells)| **cells > 1) {
            let first = text.lines().next().unwrap_or_default();
            let (n, s) = (cells - 1, if *cells == 2 { "" } else { "s" });
            self.words(format!("in {n} more cell{s}: {first}\n"));
        }
    }
}

/// What is wrong with a run, and where a debugger would look at it.
struct Problem {
    text: String,
    at: Option<u64>,
}

/// All that is wrong with a run.
fn problems(name: &str, ran: &Ran, parsed: &Parsed) -> Vec<Problem> {
    let shown = |f: &Finding| render::human(&parsed.files, f);
    let no_run = |text: String| vec![Problem { text, at: None }];
    match &ran.result {
        Ok(o) => {
            let failure = |f: &Failure| {
                let finding = Finding::error(f.span, f.message.clone());
                Problem { text: shown(&finding), at: Some(before(o, f)) }
            };
            let note = |n: &String| Problem { text: format!("note: {n}\n"), at: None };
            o.failures.iter().map(failure).chain(o.notes.iter().map(note)).collect()
        }
        Err(RunError::Input(f) | RunError::Rejected(f)) => no_run(shown(f)),
        Err(RunError::Unsupported { what, span }) => {
            let finding = Finding::error(*span, format!("unsupported: {what}"));
            no_run(shown(&finding.hint("orrery features lists what there is")))
        }
        Err(e @ (RunError::Internal(_) | RunError::Paused)) => {
            no_run(format!("error: {name}: {e}\n  next: please report it with the files\n"))
        }
    }
}

/// Where to look at a failure: before the last instruction that came before it, which is still in
/// the program.
fn before(o: &Outcome, f: &Failure) -> u64 {
    f.at.unwrap_or(o.insns).saturating_sub(1)
}

/// Where to look at the first failure of a run.
pub(super) fn first_failure(ran: &Ran) -> Option<u64> {
    let outcome = ran.result.as_ref().ok()?;
    outcome.failures.first().map(|f| before(outcome, f))
}

/// How a run is started again, under a debugger.
#[derive(Clone, Debug)]
pub(super) struct Again {
    /// The scenario.
    pub(super) file: PathBuf,
    /// Options that choose the run.
    pub(super) options: String,
}

impl Again {
    pub(super) fn new(file: &Path, cell: &Cell, seed: u64) -> Again {
        let cell = match cell.name.as_str() {
            "" => String::new(),
            name => format!(" --cell '{name}'"),
        };
        let seed = if seed == 0 { String::new() } else { format!(" --seed {seed}") };
        Again { file: file.to_path_buf(), options: format!("{cell}{seed}") }
    }

    /// The command.
    fn debug(&self, arch: Arch, at: u64) -> String {
        let Again { file, options } = self;
        format!("orrery gdb {} --arch {arch}{options} --at {at}", file.display())
    }
}

fn human(name: &str, ran: &Ran) -> Option<String> {
    let o: &Outcome = ran.result.as_ref().ok()?;
    let word = if o.failures.is_empty() {
        out::colour(out::Colour::Green, "ok")
    } else {
        out::colour(out::Colour::Red, "FAILED")
    };
    let (arch, insns, hash) = (o.arch, o.insns, o.trace_hash);
    // What a file or another program gets is the same on every machine.
    let (ms, us) = (ran.wall_us / 1000, ran.wall_us % 1000);
    let time = if out::on_terminal() { format!(", {ms}.{us:03} ms") } else { String::new() };
    Some(format!("{name} on {arch}: {word}, {insns} instructions, trace {hash:016x}{time}"))
}

fn json(name: &str, ran: &Ran, again: &Again) -> String {
    let outcome = word(ran).0;
    let value = match &ran.result {
        Ok(o) => {
            let failures: Vec<_> = o.failures.iter().map(|f| f.message.clone()).collect();
            serde_json::json!({
                "scenario": name, "arch": o.arch.name(), "outcome": outcome,
                "trace_hash": format!("{:016x}", o.trace_hash), "insns": o.insns,
                "native_insns": o.native_insns, "failures": failures,
                "notes": o.notes,
                "debug": o.failures.iter().map(|f| again.debug(o.arch, before(o, f)))
                    .collect::<Vec<_>>(),
            })
        }
        Err(e) => serde_json::json!({
            "scenario": name, "arch": ran.arch.name(), "outcome": outcome, "trace_hash": null,
            "insns": 0, "native_insns": 0, "failures": [e.to_string()],
            "notes": [], "debug": [],
        }),
    };
    value.to_string()
}
