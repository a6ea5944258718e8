//! Smaller scenarios and shorter ways that show the same: everything that can be left out of the
//! file is tried, every number that says how many, and every switch.

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
    /// What was tried, and what it came to.
    pub effort: Effort,
}

/// What shrinking tried and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Effort {
    /// Scenarios and ways that were run.
    pub tried: usize,
    /// Parts of the file that were left out.
    pub parts: usize,
    /// Numbers that became less: path in the file, from, to.
    pub numbers: Vec<(String, u64, u64)>,
    /// Switches before and after.
    pub switches: (usize, usize),
}

impl std::fmt::Display for Effort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let plural = |n: usize, one: &str, more: &str| {
            let word = if n == 1 { one } else { more };
            format!("{n} {word}")
        };
        write!(f, "{}", plural(self.tried, "try", "tries"))?;
        let (from, to) = self.switches;
        write!(f, ": {} to {to}", plural(from, "switch", "switches"))?;
        write!(f, ", {} left out", plural(self.parts, "part", "parts"))?;
        self.numbers.iter().try_for_each(|(path, from, to)| write!(f, ", {path} {from} to {to}"))
    }
}

/// Where scenarios are tried.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    /// The file.
    pub path: &'a Path,
    /// The cell of its matrix.
    pub cell: &'a Cell,
    /// Architectures, all of which are run.
    pub archs: &'a [Arch],
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
        let s = (&scenario, text);
        // A scenario that nobody would write may be one that we do not expect, either.
        let attempt = || f(&mut Searcher::new(s, self.archs, self.opts, self.how, false).ok()?);
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
    let mut text = text.to_owned();
    for fault in &found.faults {
        text = write::with_item(&text, "faults", &fault.ron);
    }
    let signature = found.signature.clone();
    let message = found.wrong.get(&signature)?.clone();
    let by_order = place.with(&text, |s| Some(!s.ordinary().contains_key(&signature)))?;
    let goal = Goal { wanted: signature.clone(), known: found.wrong.clone(), by_order };
    let switches = (found.way.switches.len(), 0);
    let effort = Effort { switches, ..Effort::default() };
    let mut case = Case { text, way: found.way.clone(), signature, message, effort };
    let text = case.text.clone();
    case.way = tried(place, &text, &mut case, &goal)?;
    fewer_switches(place, &mut case, &goal);
    smaller_text(place, &mut case, &goal);
    fewer_switches(place, &mut case, &goal);
    let message = place.with(&case.text, |s| {
        let (way, wrong) = s.follow(&case.way).ok()?;
        Some((way, wrong.get(&case.signature)?.clone()))
    });
    (case.way, case.message) = message?;
    case.effort.switches.1 = case.way.switches.len();
    Some(case)
}

/// A way that shows the finding in a text: the one there is, or one of a short search.
fn tried(place: &Place<'_>, text: &str, case: &mut Case, goal: &Goal) -> Option<Way> {
    case.effort.tried += 1;
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
    let (mut way, mut tries) = (case.way.clone(), 0);
    let done = place.with(&case.text, |s| {
        let mut chunk = way.switches.len().div_ceil(2).max(1);
        loop {
            let before = way.switches.len();
            let mut at = 0;
            while at < way.switches.len() {
                let mut less = way.clone();
                less.switches.drain(at..(at + chunk).min(less.switches.len()));
                tries += 1;
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
    case.effort.tried += tries;
}

/// Parts of a file that say what is looked for, or nothing; a matrix has the one cell that is.
fn is_kept(path: &str) -> bool {
    let whole =
        ["orrery", "about", "schedule", "expect", "objects", "machine", "machine.archs", "matrix"];
    let below = ["schedule.", "machine.archs.", "matrix."];
    whole.contains(&path) || below.iter().any(|p| path.starts_with(p))
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
                Some(way) => {
                    (case.text, case.way) = (text, way);
                    case.effort.parts += 1;
                }
                None => at += 1,
            }
        }
        for path in numbers(&case.text) {
            smaller_number(place, case, goal, &path);
        }
        if case.text.len() == before || left == 0 {
            return;
        }
    }
}

/// Fields that say how many.
const HOW_MANY: [&str; 5] = ["cpus", "times", "count", "packets", "queues"];

/// Places of the numbers that say how many there are of something.
fn numbers(text: &str) -> Vec<String> {
    let parts = edit::parts(text).unwrap_or_default();
    let field = |path: &str| path.rsplit('.').next().is_some_and(|f| HOW_MANY.contains(&f));
    let paths = parts.into_iter().map(|p| p.path);
    paths.filter(|p| field(p) && !p.starts_with("expect.") && !p.starts_with("schedule.")).collect()
}

/// The least number that shows the finding, as far as halving finds it.
fn smaller_number(place: &Place<'_>, case: &mut Case, goal: &Goal, path: &str) {
    let Some(node) = edit::find(&case.text, path).ok().flatten() else { return };
    let digits = &case.text[node.span.start as usize..node.span.end as usize];
    let Ok(from) = digits.replace('_', "").parse::<u64>() else { return };
    // Shown at `most`; not at `least`, or there is no such number.
    let (mut least, mut most) = (0, from);
    let mut next = 1;
    while least + 1 < most {
        let Some(node) = edit::find(&case.text, path).ok().flatten() else { return };
        let change = [edit::Edit { span: node.span, text: next.to_string() }];
        let text = edit::apply(&case.text, &change);
        match tried(place, &text, case, goal) {
            Some(way) => {
                (case.text, case.way) = (text, way);
                most = next;
            }
            None => least = next,
        }
        next = least + (most - least) / 2;
    }
    if most < from {
        let numbers = &mut case.effort.numbers;
        // A second round goes on from the first.
        match numbers.iter_mut().find(|n| n.0 == path && n.2 == from) {
            Some(n) => n.2 = most,
            None => numbers.push((path.to_owned(), from, most)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_say_how_many_are_found() {
        let text = "Scenario(orrery: 1, machine: (cpus: 4), tasks: {\"a\": (count: 2, script: \
                    [])}, timeline: [Every(period: \"1us\", times: 8, act: Nmi(cpu: 0))], expect: \
                    [Count(of: Exit(), is: 2)])";
        assert_eq!(numbers(text), ["machine.cpus", "tasks.a.count", "timeline.0.times"]);
    }

    #[test]
    fn the_effort_is_told() {
        let numbers = vec![("machine.cpus".to_owned(), 8, 2)];
        let effort = Effort { tried: 31, parts: 1, numbers, switches: (12, 2) };
        let said = "31 tries: 12 switches to 2, 1 part left out, machine.cpus 8 to 2";
        assert_eq!(effort.to_string(), said);
    }
}
