//! Scenarios, and captures: each refusal has a place and can be shown; what can be run is run, and
//! is the same on a second run and on all architectures.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bpf::Arch;
use bpf::insn::generate::Rng;
use scenarios::parse::Parsed;
use scenarios::{Scenario, Severity, render};

use super::{Input, Subject, bytes, items, shape, words};
use crate::runner::cells::{self, Cell};
use crate::runner::trace::Keep;
use crate::runner::{Outcome, RunError, RunOptions, captures, run};

/// Instructions of one program run.
const RUN_MAX: u64 = 1 << 18;
/// Instructions between two hashes of the state.
const CHECKPOINT_INSNS: u64 = 4096;

/// Scenarios and captures to damage.
#[derive(Debug)]
pub struct Scenarios {
    good: Vec<Input>,
}

impl Scenarios {
    /// With these to begin with.
    #[must_use]
    pub fn new(good: Vec<Input>) -> Scenarios {
        Scenarios { good }
    }
}

/// First bytes of captures: pcap in both byte orders and resolutions, pcapng.
const CAPTURES: [[u8; 4]; 5] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
    [0x0a, 0x0d, 0x0d, 0x0a],
];

fn is_capture(bytes: &[u8]) -> bool {
    CAPTURES.iter().any(|magic| bytes.starts_with(magic))
}

impl Subject for Scenarios {
    fn good(&self) -> &[Input] {
        &self.good
    }

    fn damage(&self, out: &mut Vec<u8>, rng: &mut Rng) {
        if is_capture(out) || rng.one_in(40) {
            return bytes::damage(out, rng);
        }
        let mut text = String::from_utf8_lossy(out).into_owned();
        match rng.below(8) {
            0 => words::damage(&mut text, rng),
            1 | 2 => words::number(&mut text, rng),
            _ => items::damage(&mut text, rng),
        }
        *out = text.into_bytes();
    }

    fn pieces(&self, bytes: &[u8]) -> Vec<Range<usize>> {
        std::str::from_utf8(bytes).map(items::pieces).unwrap_or_default()
    }

    fn ending(&self, bytes: &[u8]) -> &'static str {
        if is_capture(bytes) { "pcap" } else { "ron" }
    }

    fn check(&self, input: &Input, stop: &Arc<AtomicBool>) -> Result<Vec<String>, String> {
        if is_capture(&input.bytes) {
            return Ok(match captures::read(&input.bytes) {
                Ok(_) => vec!["capture".to_owned()],
                Err(e) => vec![shape(&e.to_string())],
            });
        }
        let (text, path) = (input.text(), input.dir.join("fuzzed.ron"));
        let parsed = cells::read(&path, &text, &Cell::default());
        let mut answers = findings(&parsed)?;
        let Some(scenario) = parsed.scenario.as_ref().filter(|_| answers.is_empty()) else {
            return Ok(answers);
        };
        let Some(cell) = cells::cells(scenario, 1).into_iter().next() else { return Ok(answers) };
        let parsed = cells::read(&path, &text, &cell);
        if let Some(scenario) = &parsed.scenario
            && !parsed.findings.iter().any(cells::is_error)
        {
            answers.extend(play(&path, scenario, &cell, stop)?);
        }
        Ok(answers)
    }
}

/// What is wrong with a text, each in a place.
fn findings(parsed: &Parsed) -> Result<Vec<String>, String> {
    if parsed.scenario.is_none() && parsed.findings.is_empty() {
        return Err("refused without a word".to_owned());
    }
    let mut answers = Vec::new();
    for f in &parsed.findings {
        let human = render::human(&parsed.files, f);
        let known = human.starts_with("error: ") || human.starts_with("warning: ");
        if !known || render::json(&parsed.files, f).is_empty() {
            return Err(format!("a finding that cannot be shown: {human}"));
        }
        if f.severity == Severity::Error {
            answers.push(shape(&f.message));
        }
    }
    Ok(answers)
}

/// Runs on every architecture, on the first one twice.
fn play(
    path: &Path,
    scenario: &Scenario,
    cell: &Cell,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<String>, String> {
    let options = RunOptions {
        run_insns_max: Some(RUN_MAX),
        stop: Some(stop.clone()),
        checkpoints: Some(CHECKPOINT_INSNS),
        keep: Keep { compared: true, ..Keep::default() },
        ..cells::options(path, cell)
    };
    let archs = cells::archs_of(scenario, cell, &cells::archs(scenario));
    let Some(first) = archs.first() else { return Ok(Vec::new()) };
    let mut answers = Vec::new();
    let mut all: Vec<Outcome> = Vec::new();
    for arch in [*first].into_iter().chain(archs.iter().copied()) {
        match run(scenario, arch, &options) {
            Ok(outcome) => all.push(outcome),
            Err(RunError::Internal(what)) => return Err(format!("{arch}: internal: {what}")),
            Err(e) => answers.push(shape(&e.to_string())),
        }
        if stop.load(Ordering::Relaxed) {
            return Ok(vec!["long".to_owned()]);
        }
    }
    let Some((once, others)) = all.split_first() else { return Ok(answers) };
    if let Some(twice) = others.first().filter(|o| o.arch == once.arch)
        && (once.trace_hash != twice.trace_hash || once.checkpoints != twice.checkpoints)
    {
        return Err(format!("{first}: a second run is another"));
    }
    let may_differ = |arch: Arch| cells::may_differ(scenario, arch);
    for other in others.iter().filter(|o| o.trace_hash != once.trace_hash) {
        if may_differ(once.arch) || may_differ(other.arch) {
            continue;
        }
        let [a, b] = [once, other].map(|o| &o.compared);
        let at = a.iter().zip(b).position(|(x, y)| x != y).unwrap_or(a.len().min(b.len()));
        let line = |l: &[String]| l.get(at).map_or("the end", String::as_str).to_owned();
        let (x, y) = (line(a), line(b));
        // The machine's own limit is looked at between blocks of native code, which have the length
        // that the architecture gives them.
        let over = |l: &String| l.contains("watchdog: ") && l.ends_with(" instructions");
        if over(&x) && over(&y) {
            continue;
        }
        return Err(format!("{first} and {} differ at event {}: {x}, {y}", other.arch, at + 1));
    }
    answers.extend(once.failures.iter().map(|f| shape(&f.message)));
    answers.extend(
        once.compared.iter().map(|l| l.split(['(', '[']).next().map_or_else(String::new, shape)),
    );
    answers.sort();
    answers.dedup();
    Ok(answers)
}
