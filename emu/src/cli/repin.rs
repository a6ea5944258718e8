//! `orrery repin FILE`: a pinned schedule follows the edits of its program.

use std::fs;
use std::path::{Path, PathBuf};

use kernel_model::CpuId;
use scenarios::edit::{self, Edit};
use scenarios::schema::Schedule;
use scenarios::{Finding, render};

use super::replay::report::{error_word, findings};
use super::{Exit, gravest, out, scenario_text};
use crate::machine::schedule::PinnedSwitch;
use crate::runner::cells::{self, Cell};
use crate::runner::{RunError, RunOptions, Runs};
use crate::search::repin::places;

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Scenarios with a pinned schedule
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: &Args) -> Exit {
    gravest(args.files.iter().map(|f| repin(f).unwrap_or_else(|exit| exit)))
}

fn repin(path: &Path) -> Result<Exit, Exit> {
    let shown = path.display();
    let bad = |what: String, next: &str| {
        out::error(&what, next);
        Exit::BadInput
    };
    let text = scenario_text(path)?;
    let parsed = cells::read(path, &text, &Cell::default());
    let wrong = parsed.findings.iter().any(cells::is_error);
    let Some(s) = parsed.scenario.as_ref().filter(|_| !wrong) else {
        out::warn(&findings(&parsed));
        return Err(Exit::BadInput);
    };
    let Schedule::Pinned { first, switches, .. } = &s.schedule else {
        out::line(&format!("{shown}: its schedule is not pinned"));
        return Ok(Exit::Ok);
    };
    let pinned: Vec<PinnedSwitch> = switches.iter().map(PinnedSwitch::from).collect();
    let dir = cells::folder(path);
    let opts = RunOptions { dir, repin: true, ..RunOptions::default() };
    let arch = cells::archs(s).first().copied().unwrap_or(bpf::Arch::X86_64);
    let told = |e: RunError| {
        let span = match &e {
            RunError::Input(f) | RunError::Rejected(f) => f.span,
            RunError::Unsupported { span, .. } => *span,
            _ => s.span,
        };
        out::warn(&render::human(&parsed.files, &Finding::error(span, e.to_string())));
        error_word(&e).1
    };
    let mut runs = Runs::new(s, arch, &opts).map_err(told)?;
    let found = places(&mut runs, CpuId(first.v), &pinned).map_err(told)?;
    if let Some(lost) = switches.get(found.len()) {
        let what = format!("CPU {} comes to no place `{}` any more", lost.cpu.v, lost.at.v);
        let finding = Finding::error(lost.at.span, what);
        let hint = "orrery explore finds a schedule for the program as it is";
        out::warn(&render::human(&parsed.files, &finding.hint(hint)));
        return Err(Exit::BadInput);
    }
    let mut edits = Vec::new();
    for (s, (after, at)) in switches.iter().zip(&found) {
        if *after != s.after.v {
            edits.push(Edit { span: s.after.span, text: after.to_string() });
        }
        if *at != s.at.v {
            edits.push(Edit { span: s.at.span, text: format!("{at:?}") });
        }
    }
    let moved = switches.iter().zip(&found).filter(|(s, f)| f.0 != s.after.v || f.1 != s.at.v);
    let (moved, all) = (moved.count(), switches.len());
    if moved > 0 {
        let written = fs::write(path, edit::apply(&text, &edits));
        written.map_err(|e| bad(format!("{shown}: {e}"), "is the file writable?"))?;
    }
    out::line(&format!("{shown}: {moved} of {all} switches moved"));
    Ok(Exit::Ok)
}
