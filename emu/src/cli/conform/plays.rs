//! Scenarios as cases: every cell on every architecture it asks for, and the traces compared.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bpf::Arch;
use scenarios::Scenario;
use scenarios::parse::Parsed;

use crate::cli::Exit;
use crate::cli::replay::report::error_word;
use crate::conform::{Body, Case, Engine, Kind, Options, Outcome, Record, Runner};
use crate::runner::cells::{self, Cell};
use crate::runner::{RunError, run as play};

#[derive(Debug)]
struct Played {
    path: PathBuf,
    text: String,
}

/// A scenario's case.
pub(super) fn case(path: &Path, text: String) -> Case {
    let name = path.display().to_string();
    let played = Played { path: path.to_path_buf(), text };
    Case { name, path: path.to_path_buf(), line: 1, body: Body::Other(Box::new(played)) }
}

fn record(engine: Engine) -> Record {
    let [expected, got] = ["met"; 2].map(str::to_owned);
    Record { expected, got, ..Record::new(engine, Outcome::Pass) }
}

impl Runner for Played {
    fn run(&self, options: &Options) -> Vec<Record> {
        let parsed = cells::read(&self.path, &self.text, &Cell::default());
        let engines: Vec<Arch> = (options.engines.iter())
            .filter_map(|e| if let Engine::Jit(arch) = e { Some(*arch) } else { None })
            .collect();
        let bad = parsed.findings.iter().find(|f| cells::is_error(f)).map(|f| f.message.clone());
        let scenario = match (&parsed.scenario, bad) {
            (Some(s), None) => s,
            (_, bad) => {
                let note = bad.unwrap_or_else(|| "it is no scenario".into());
                let wrong = |a: &Arch| Record {
                    outcome: Outcome::Fail,
                    note: note.clone(),
                    got: "bad_input".into(),
                    ..record(Engine::Jit(*a))
                };
                return engines.iter().map(wrong).collect();
            }
        };
        let archs: Vec<Arch> =
            cells::archs(scenario).into_iter().filter(|a| engines.contains(a)).collect();
        let mut out: Vec<Record> = archs.iter().map(|a| record(Engine::Jit(*a))).collect();
        for cell in cells::cells(scenario, 0).iter().take(cells::CELLS_MAX) {
            let parsed = cells::read(&self.path, &self.text, cell);
            let Some(scenario) = &parsed.scenario else { continue };
            self.cell(cell, scenario, &parsed, &archs, &mut out);
        }
        out
    }
}

impl Played {
    fn cell(
        &self,
        cell: &Cell,
        scenario: &Scenario,
        parsed: &Parsed,
        archs: &[Arch],
        out: &mut [Record],
    ) {
        let mut first: Option<(Arch, u64)> = None;
        for arch in cells::archs_of(scenario, cell, archs) {
            let Some(r) = out.iter_mut().find(|r| r.engine == Engine::Jit(arch)) else { continue };
            let began = Instant::now();
            let result = play(scenario, arch, &cells::options(&self.path, cell));
            r.wall_us += u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
            let place = |span: scenarios::Span| {
                let file = parsed.files.get(usize::from(span.file))?;
                let before = file.text.get(..span.start as usize)?;
                Some((PathBuf::from(&file.name), before.matches('\n').count() as u32 + 1))
            };
            let (outcome, got, note, at) = match &result {
                Ok(o) => match (o.failures.first(), first) {
                    (Some(f), _) => (Outcome::Fail, "not_met", f.message.clone(), place(f.span)),
                    (None, Some((other, hash)))
                        if hash != o.trace_hash
                            && !cells::may_differ(scenario, arch)
                            && !cells::may_differ(scenario, other) =>
                    {
                        let note = format!("the trace is another than on {other}");
                        (Outcome::Fail, "diverged", note, None)
                    }
                    (None, _) => (Outcome::Pass, "met", String::new(), None),
                },
                Err(e @ RunError::Unsupported { span, .. }) => {
                    (Outcome::Unsupported, error_word(e).0, e.to_string(), place(*span))
                }
                Err(e) => (Outcome::Fail, error_word(e).0, e.to_string(), None),
            };
            if outcome > r.outcome {
                (r.outcome, r.got, r.at) = (outcome, got.to_owned(), at);
                if result.as_ref().is_err_and(|e| error_word(e).1 == Exit::Internal) {
                    r.kind = Kind::Internal;
                }
                r.note = format!("{}{note}", cell.name);
            }
            if first.is_none() {
                first = result.ok().map(|o| (arch, o.trace_hash));
            }
        }
    }
}
