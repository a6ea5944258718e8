//! Smaller scenarios and shorter ways that show the same: everything that can be left out of the
//! file is tried, and every switch.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bpf::Arch;
use scenarios::edit;

use super::driver::Way;
use super::finding::Signature;
use super::{Found, How, Searcher, write};
use crate::runner::RunOptions;
use crate::runner::cells::{self, Cell};

/// Texts that are tried.
const TEXTS_MAX: usize = 600;
/// Runs of a search that are tried when a way cannot be followed in a smaller scenario.
const RUNS: u64 = 12;

/// A finding, as small as it became.
#[derive(Clone, Debug)]
pub struct Case {
    /// The scenario, without its schedule.
    pub text: String,
    /// The schedule.
    pub way: Way,
    /// What is wrong.
    pub signature: Signature,
    /// In words.
    pub message: String,
}

/// Where scenarios are tried.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// The file.
    pub path: &'a Path,
    /// The cell of its matrix.
    pub cell: &'a Cell,
    /// Architecture.
    pub arch: Arch,
    /// For runs.
    pub opts: &'a RunOptions,
    /// For searches of smaller scenarios.
    pub how: How,
}

impl Place<'_> {
    /// Does something with a scenario, when it is one that runs.
    fn with<T>(&self, text: &str, f: impl FnOnce(&mut Searcher<'_>) -> Option<T>) -> Option<T> {
        let parsed = cells::read(self.path, text, self.cell);
        if parsed.findings.iter().any(cells::is_error) {
            return None;
        }
        let scenario = parsed.scenario?;
        let (s, arch) = ((&scenario, text), [self.arch]);
        // A scenario that nobody would write may be one that we do not expect, either.
        let attempt = || f(&mut Searcher::new(s, &arch, self.opts, self.how, false).ok()?);
        catch_unwind(AssertUnwindSafe(attempt)).ok()?
    }
}

/// What a smaller scenario has to show.
struct Goal {
    wanted: Signature,
    /// Nothing else may be wrong.
    known: BTreeMap<Signature, String>,
    /// Without switches it is not wrong: or leaving out half of what is counted would be a way to
    /// have the counts differ.
    by_order: bool,
}

impl Goal {
    fn shows(&self, wrong: &BTreeMap<Signature, String>) -> bool {
        wrong.contains_key(&self.wanted) && wrong.keys().all(|s| self.known.contains_key(s))
    }

    /// Whether a scenario is one in which the finding is a matter of the order.
    fn allows(&self, search: &Searcher<'_>) -> bool {
        !(self.by_order && search.ordinary().contains_key(&self.wanted))
    }
}

/// Shrinks a finding of a scenario; `None` when it does not come about again.
#[must_use]
pub fn shrink(place: &Place<'_>, text: &str, found: &Found) -> Option<Case> {
    let mut text = write::without_matrix(text);
    for fault in &found.faults {
        text = write::with_item(&text, "faults", &fault.ron);
    }
    let signature = found.signature.clone();
    let message = found.wrong.get(&signature)?.clone();
    let by_order = place.with(&text, |s| Some(!s.ordinary().contains_key(&signature)))?;
    let goal = Goal { wanted: signature.clone(), known: found.wrong.clone(), by_order };
    let mut case = Case { text, way: found.way.clone(), signature, message };
    case.way = tried(place, &case.text, &case, &goal)?;
    fewer_switches(place, &mut case, &goal);
    smaller_text(place, &mut case, &goal);
    fewer_switches(place, &mut case, &goal);
    let message = place.with(&case.text, |s| {
        let (way, wrong) = s.follow(&case.way).ok()?;
        Some((way, wrong.get(&case.signature)?.clone()))
    });
    (case.way, case.message) = message?;
    Some(case)
}

/// A way that shows the finding in a text: the one there is, or one of a short search.
fn tried(place: &Place<'_>, text: &str, case: &Case, goal: &Goal) -> Option<Way> {
    place.with(text, |s| {
        if !goal.allows(s) {
            return None;
        }
        let (way, wrong) = s.follow(&case.way).ok()?;
        if goal.shows(&wrong) {
            return Some(way);
        }
        (0..RUNS).find_map(|n| {
            let found = s.found(n).ok()?.1?;
            goal.shows(&found.wrong).then_some(found.way)
        })
    })
}

/// Leaves switches out, many at once at first.
fn fewer_switches(place: &Place<'_>, case: &mut Case, goal: &Goal) {
    let mut way = case.way.clone();
    let done = place.with(&case.text, |s| {
        let mut chunk = way.switches.len().div_ceil(2).max(1);
        loop {
            let before = way.switches.len();
            let mut at = 0;
            while at < way.switches.len() {
                let mut less = way.clone();
                less.switches.drain(at..(at + chunk).min(less.switches.len()));
                let (made, wrong) = s.follow(&less).ok()?;
                let fewer = made.switches.len() < way.switches.len();
                if fewer && goal.shows(&wrong) {
                    way = made;
                } else {
                    at += chunk;
                }
            }
            if chunk == 1 && way.switches.len() == before {
                return Some(way);
            }
            chunk = chunk.div_ceil(2);
        }
    });
    case.way = done.unwrap_or_else(|| case.way.clone());
}

/// Parts of a file that say what is looked for, or nothing.
fn is_kept(path: &str) -> bool {
    let whole = ["orrery", "about", "schedule", "expect", "objects", "machine", "machine.archs"];
    whole.contains(&path) || path.starts_with("schedule.") || path.starts_with("machine.archs.")
}

/// Leaves parts of the file out, the large ones first.
fn smaller_text(place: &Place<'_>, case: &mut Case, goal: &Goal) {
    let mut left = TEXTS_MAX;
    loop {
        let before = case.text.len();
        let mut at = 0;
        while left > 0 {
            let parts = edit::parts(&case.text).unwrap_or_default();
            let parts: Vec<_> = parts.into_iter().filter(|p| !is_kept(&p.path)).collect();
            let Some(part) = parts.get(at) else { break };
            left -= 1;
            let text = edit::without(&case.text, part.span);
            match tried(place, &text, case, goal) {
                Some(way) => (case.text, case.way) = (text, way),
                None => at += 1,
            }
        }
        fewer_cpus(place, case, goal);
        if case.text.len() == before || left == 0 {
            return;
        }
    }
}

/// The least number of CPUs.
fn fewer_cpus(place: &Place<'_>, case: &mut Case, goal: &Goal) {
    while let Some(node) = edit::find(&case.text, "machine.cpus").ok().flatten() {
        let cpus = &case.text[node.span.start as usize..node.span.end as usize];
        let Some(less) = cpus.parse::<u32>().ok().and_then(|n| n.checked_sub(1)) else { return };
        if less == 0 {
            return;
        }
        let change = [edit::Edit { span: node.span, text: less.to_string() }];
        let text = edit::apply(&case.text, &change);
        let Some(way) = tried(place, &text, case, goal) else { return };
        (case.text, case.way) = (text, way);
    }
}
