//! Findings as people and tools read them: the rustc look, JSON lines, GitHub annotations.

use crate::parse::SourceFile;
use crate::span::{Finding, Severity, Span};

/// Line and column, from 1, columns in characters.
#[must_use]
pub fn position(text: &str, at: u32) -> (usize, usize) {
    let mut at = (at as usize).min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line = before.matches('\n').count() + 1;
    let col = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (line, col)
}

fn text_of(files: &[SourceFile], span: Span) -> (&str, &str) {
    files.get(span.file as usize).map_or(("?", ""), |f| (f.name.as_str(), f.text.as_str()))
}

/// `FILE:LINE:COL`.
#[must_use]
pub fn place(files: &[SourceFile], span: Span) -> String {
    let (name, text) = text_of(files, span);
    let (line, col) = position(text, span.start);
    format!("{name}:{line}:{col}")
}

/// One finding in several lines, with the source it speaks of.
#[must_use]
pub fn human(files: &[SourceFile], finding: &Finding) -> String {
    let word = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let mut out = format!("{word}: {}\n", finding.message);
    out += &format!("  --> {}\n", place(files, finding.span));
    let mut marks = vec![(finding.span, '^', "")];
    if let Some((span, label)) = &finding.also {
        marks.push((*span, '-', label.as_str()));
    }
    marks.sort_by_key(|m| (m.0.file, m.0.start));
    for (span, mark, label) in marks {
        out += &excerpt(files, span, mark, label);
    }
    if let Some(hint) = &finding.hint {
        out += &format!("  = {hint}\n");
    }
    out
}

/// The line of a span with a mark under it.
fn excerpt(files: &[SourceFile], span: Span, mark: char, label: &str) -> String {
    let (_, text) = text_of(files, span);
    let (line, col) = position(text, span.start);
    let Some(source) = text.lines().nth(line - 1) else { return String::new() };
    let (end_line, end_col) = position(text, span.end);
    let rest = source.chars().count() + 1;
    let end = if end_line == line { end_col } else { rest };
    let width = end.saturating_sub(col).max(1);
    let under = format!("{}{}", " ".repeat(col - 1), mark.to_string().repeat(width));
    let label = if label.is_empty() { String::new() } else { format!(" {label}") };
    format!("{line:>5} | {source}\n      | {under}{label}\n")
}

/// One finding as a JSON object on one line.
#[must_use]
pub fn json(files: &[SourceFile], finding: &Finding) -> String {
    let (name, text) = text_of(files, finding.span);
    let (line, col) = position(text, finding.span.start);
    let (end_line, end_col) = position(text, finding.span.end);
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
    };
    let hint = finding.hint.as_deref().map_or("null".to_string(), quote);
    format!(
        "{{\"file\":{},\"line\":{line},\"column\":{col},\"end_line\":{end_line},\
         \"end_column\":{end_col},\"severity\":\"{severity}\",\"message\":{},\"hint\":{hint}}}",
        quote(name),
        quote(&finding.message),
    )
}

/// One finding as a GitHub workflow annotation.
#[must_use]
pub fn github(files: &[SourceFile], finding: &Finding) -> String {
    let (name, text) = text_of(files, finding.span);
    let (line, col) = position(text, finding.span.start);
    let hint = finding.hint.as_ref().map_or(String::new(), |h| format!("; {h}"));
    let message = format!("{}{hint}", finding.message).replace('%', "%25").replace('\n', "%0A");
    format!("::error file={name},line={line},col={col}::{message}")
}

/// A JSON string.
fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
