//! A verdict as the command line shows it: one row for each program.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Instant;

use bpf::Program;
use bpf::object::{ObjectError, ProgramDef};
use serde::Serialize;
use verifier::CheckReport;
use verifier::explore::Opts;

use super::Exit;
use super::beyond::Beyond;
use super::world::World;
pub(super) use crate::ordered::WORKER_STACK;
use crate::{ordered, panics};

/// What the verifier says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    Accepted,
    Rejected,
    Unsupported,
    /// The program could not be linked, or the verifier itself failed.
    Error,
}

/// The result on one program; the fields are those of `--json`.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    pub(super) object: String,
    pub(super) program: String,
    pub(super) section: String,
    pub(super) prog_type: &'static str,
    pub(super) verdict: Verdict,
    pub(super) error_line: Option<String>,
    pub(super) insns_processed: u32,
    pub(super) total_states: u32,
    pub(super) peak_states: u32,
    pub(super) max_states_per_insn: u32,
    /// Of each subprogram, as the kernel prints it: `8+0+16`.
    pub(super) stack_depth: String,
    pub(super) time_us: u64,
    pub(super) log: String,
    /// All that is said of a refusal.
    #[serde(skip)]
    pub(super) message: String,
    /// What was done beyond the kernel's limits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) beyond: Option<Beyond>,
    /// What is said about it besides: for people.
    #[serde(skip)]
    pub(super) notes: String,
    /// Its part of a page.
    #[serde(skip)]
    pub(super) html: String,
    /// Instructions of the program.
    #[serde(skip)]
    pub(super) insns: usize,
    #[serde(skip)]
    pub(super) attach_type: &'static str,
    #[serde(skip)]
    pub(super) exit: Exit,
}

/// Links and verifies one program of an object.
pub(super) fn judge(world: &World, path: &Path, def: &ProgramDef, opts: Opts) -> Row {
    judge_linked(world, path, def, world.link(def), opts)
}

/// Verifies one program. A panic of the verifier is a verdict, not the end.
pub(super) fn judge_linked(
    world: &World,
    path: &Path,
    def: &ProgramDef,
    program: Result<Program, ObjectError>,
    opts: Opts,
) -> Row {
    let mut row = Row {
        object: path.display().to_string(),
        program: def.name.clone(),
        // The mark of programs that are loaded on request is not of the name.
        section: def.section.trim_start_matches('?').to_owned(),
        prog_type: def.sec.as_ref().map_or("unspec", |s| s.prog_type.name()),
        verdict: Verdict::Error,
        error_line: None,
        insns_processed: 0,
        total_states: 0,
        peak_states: 0,
        max_states_per_insn: 0,
        stack_depth: String::new(),
        time_us: 0,
        log: String::new(),
        message: String::new(),
        beyond: None,
        notes: String::new(),
        html: String::new(),
        insns: 0,
        attach_type: "none",
        exit: Exit::BadInput,
    };
    let program = match program {
        Ok(p) => p,
        Err(e) => {
            row.error_line = Some(e.to_string());
            if let Some(what) = &world.lacks {
                (row.verdict, row.exit) = (Verdict::Unsupported, Exit::Unsupported);
                row.error_line = Some(format!("unsupported: {what}"));
            }
            return row;
        }
    };
    row.insns = program.insns.len();
    row.attach_type = program.attach_type.map_or("none", |a| a.name());
    let begin = Instant::now();
    let report = catch_unwind(AssertUnwindSafe(|| world.check(&program, opts)));
    row.time_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
    match report {
        Ok(mut report) => {
            row.beyond = report.beyond.take().map(|b| Beyond::new(&program, b));
            fill(&mut row, report);
        }
        Err(payload) => {
            row.error_line = Some(format!("internal error: {}", panics::words(&*payload)));
            row.exit = Exit::Internal;
        }
    }
    row
}

fn fill(row: &mut Row, report: CheckReport) {
    row.insns_processed = report.stats.insns_processed;
    row.total_states = report.stats.total_states;
    row.peak_states = report.stats.peak_states;
    row.max_states_per_insn = report.stats.max_states_per_insn;
    let depths: Vec<String> = report.stack_depths.iter().map(u32::to_string).collect();
    row.stack_depth = depths.join("+");
    (row.verdict, row.exit) = match &report.result {
        Ok(()) => (Verdict::Accepted, Exit::Ok),
        Err(r) if r.is_unsupported() => (Verdict::Unsupported, Exit::Unsupported),
        Err(_) => (Verdict::Rejected, Exit::NotMet),
    };
    if let Err(r) = &report.result {
        let said = if r.is_unsupported() { None } else { error_line(&report.log) };
        row.error_line = said.or_else(|| error_line(&r.message));
        row.message.clone_from(&r.message);
    }
    row.log = timed(report.log, row.time_us);
}

/// The verifier has no clock: the time in its statistics is measured here.
fn timed(mut log: String, us: u64) -> String {
    const NONE: &str = "verification time 0 usec";
    if let Some(at) = log.rfind(NONE) {
        log.replace_range(at..at + NONE.len(), &format!("verification time {us} usec"));
    }
    log
}

/// The last line of a log that is neither one of its statistics nor a state.
pub(super) fn error_line(log: &str) -> Option<String> {
    const TIME: &str = "verification time ";
    let statistics = ["processed ", TIME, "stack depth", "cur state:", "old state:"];
    let is_word = |l: &&str| !l.is_empty() && !statistics.iter().any(|s| l.starts_with(s));
    // Some messages end without a new line.
    let said = |l: &str| l.split(TIME).next().unwrap_or_default().trim_end().to_owned();
    log.lines().map(str::trim_end).rev().find(is_word).map(said)
}

/// Panics become verdicts: their default report would only be in the way.
pub(super) fn silence_panics() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// Works on all items, some at a time, and hands the results on in the order of the items.
pub(super) fn in_order<T: Sync, R: Send>(
    items: &[T],
    jobs: usize,
    work: impl Fn(&T) -> R + Sync,
    mut each: impl FnMut(R),
) {
    let each = |_: &T, r| {
        each(r);
        true
    };
    ordered::in_order(items, jobs, || (), |(), item| work(item), each);
}

/// Number of jobs when none is given.
pub(super) fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_is_in_the_statistics() {
        let log = "0: (95) exit\nverification time 0 usec\nstack depth 0\n".to_owned();
        assert_eq!(timed(log, 57), "0: (95) exit\nverification time 57 usec\nstack depth 0\n");
        assert_eq!(timed(String::new(), 57), "");
    }

    #[test]
    fn the_error_line_is_above_the_statistics() {
        let log = "0: (95) exit\nR0 !read_ok\nprocessed 1 insns (limit 1000000)\n";
        assert_eq!(error_line(log).as_deref(), Some("R0 !read_ok"));
        assert_eq!(error_line(""), None);
    }
}
