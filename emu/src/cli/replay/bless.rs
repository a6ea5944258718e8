//! `--bless`: what was measured replaces what was expected, byte range by byte range.
//!
//! All runs of a file must agree on a place: what differs between architectures or cells has to
//! be written as a range, and by a person.

use std::collections::BTreeMap;
use std::fs;

use scenarios::edit::{Edit, apply};
use scenarios::parse::Parsed;
use scenarios::{Span, render};

use super::file_of;
use crate::runner::Outcome;

/// A place: file, first byte, one past the last.
type Place = (u16, u32, u32);

/// Edits of one pass over a file and its includes.
#[derive(Debug, Default)]
pub(super) struct Edits {
    /// Texts wanted at each place, with the architectures of the runs that want them.
    wanted: BTreeMap<Place, BTreeMap<String, Vec<&'static str>>>,
    files: BTreeMap<u16, (String, String)>,
    /// Runs that were looked at.
    runs: usize,
}

impl Edits {
    /// What a run would put right.
    pub(super) fn collect(&mut self, outcome: &Outcome, parsed: &Parsed) {
        self.runs += 1;
        for (span, text) in outcome.failures.iter().filter_map(|f| f.fix.as_ref()) {
            let Some(file) = file_of(parsed, span.file) else { continue };
            let now = file.text.get(span.start as usize..span.end as usize);
            // A variable stands for another value in each cell.
            if now.is_none_or(|t| t.starts_with("\"$") || t == text) {
                continue;
            }
            self.files.entry(span.file).or_insert_with(|| (file.name.clone(), file.text.clone()));
            let at = self.wanted.entry((span.file, span.start, span.end)).or_default();
            at.entry(text.clone()).or_default().push(outcome.arch.name());
        }
    }

    /// Writes the files; the number of places changed.
    ///
    /// # Errors
    /// Runs that disagree, or a file that cannot be written.
    pub(super) fn apply(&self) -> Result<usize, String> {
        let mut edits: BTreeMap<u16, Vec<Edit>> = BTreeMap::new();
        for ((file, start, end), texts) in &self.wanted {
            let span = Span { file: *file, start: *start, end: *end };
            let agreed = agreed(texts, self.runs, start == end);
            let Some(text) = agreed else { return Err(self.disagreement(span, texts)) };
            edits.entry(*file).or_default().push(Edit { span, text });
        }
        for (file, edits) in &edits {
            let (name, text) = &self.files[file];
            fs::write(name, apply(text, edits)).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(self.wanted.len())
    }

    fn disagreement(&self, span: Span, texts: &BTreeMap<String, Vec<&str>>) -> String {
        let (name, text) = &self.files[&span.file];
        let (line, col) = render::position(text, span.start);
        let one = |(t, archs): (&String, &Vec<&str>)| {
            let mut archs = archs.clone();
            archs.dedup();
            format!("{} on {}", t.trim_start_matches(", "), archs.join(", "))
        };
        let mut all: Vec<String> = texts.iter().map(one).collect();
        if texts.values().map(Vec::len).sum::<usize>() < self.runs {
            all.push("the others are content".to_owned());
        }
        format!("{name}:{line}:{col}: the runs disagree: {}", all.join("; "))
    }
}

/// The one text that is right for all: the same, or the greatest of several upper bounds; at a
/// place where something is put in, all that each run wants there.
fn agreed(texts: &BTreeMap<String, Vec<&str>>, runs: usize, empty: bool) -> Option<String> {
    if empty {
        let all = texts.values().all(|t| t.len() == runs);
        return all.then(|| texts.keys().map(String::as_str).collect());
    }
    if texts.values().map(Vec::len).sum::<usize>() != runs {
        // Runs that are content with what is there count as well.
        return None;
    }
    if texts.len() == 1 {
        return texts.keys().next().cloned();
    }
    let bounds: Option<Vec<u64>> =
        texts.keys().map(|t| t.strip_prefix("..=")?.parse().ok()).collect();
    bounds.and_then(|b| b.into_iter().max()).map(|n| format!("..={n}"))
}
