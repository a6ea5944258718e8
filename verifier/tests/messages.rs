//! The list of messages is that of the sources: what is refused has a row, and each row is said.

use std::path::{Path, PathBuf};

use verifier::messages;

/// How a message is handed on, with or without an errno before it.
const SAID_BY: &[&str] = &["no(", "no_line(", "refuse(", "invalid(", "limit(", "bad_arg("];

/// Letters that a literal must have to be compared with rows.
const LETTERS_MIN: usize = 6;
/// Letters of a literal that is a part of a row.
const PART_MIN: usize = 10;

fn sources(dir: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).expect("sources") {
        let path = entry.expect("an entry").path();
        match path.extension() {
            None => sources(&path, out),
            Some(e) if e == "rs" && !path.ends_with("messages.rs") => out.push(path),
            Some(_) => {}
        }
    }
}

/// String literals of a source in front of its tests, with what is written before each.
fn literals(text: &str) -> Vec<(String, String)> {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let mut out = Vec::new();
    let mut before = String::new();
    for line in text.lines().map(str::trim_start).filter(|l| !l.starts_with("//")) {
        before.push_str(line);
        before.push('\n');
    }
    let code = before.replace("'\"'", "' '").replace("\\\n", "");
    let mut parts = code.split('"').peekable();
    let mut context = String::new();
    while let (Some(code), Some(literal)) = (parts.next(), parts.next()) {
        context += code;
        let mut literal = literal.to_owned();
        while literal.ends_with('\\') && parts.peek().is_some() {
            literal.pop();
            literal = format!("{literal}\"{}", parts.next().unwrap_or_default());
        }
        out.push((context.split_whitespace().collect::<Vec<_>>().join(" "), holes(&literal)));
        context = String::new();
    }
    out
}

/// The last line of a literal, with `{}` for what is filled in.
fn holes(literal: &str) -> String {
    let literal = literal.trim_end_matches("\\n").replace("{{", "\u{1}").replace("}}", "\u{2}");
    let mut out = String::new();
    for part in literal.rsplit("\\n").next().unwrap_or_default().split('{') {
        match part.split_once('}') {
            Some((_, rest)) => out += &format!("{{}}{rest}"),
            None => out += part,
        }
    }
    out.replace('\u{1}', "{").replace('\u{2}', "}")
}

fn letters(text: &str) -> usize {
    text.chars().filter(|c| c.is_alphabetic()).count()
}

/// Whether a row can be what a literal becomes.
fn fills(row: &str, literal: &str) -> bool {
    let mut rest = row;
    let parts: Vec<&str> = literal.split("{}").collect();
    for (i, part) in parts.iter().enumerate() {
        let at = match i {
            0 => rest.starts_with(part).then_some(0),
            _ if i + 1 == parts.len() => rest.ends_with(part).then(|| rest.len() - part.len()),
            _ => rest.find(part),
        };
        let Some(at) = at else { return false };
        rest = &rest[at + part.len()..];
    }
    parts.len() > 1 || rest.is_empty()
}

fn all() -> Vec<(String, String, String)> {
    let (src, mut files) = (Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), Vec::new());
    sources(&src, &mut files);
    let one = |path: &PathBuf| {
        let text = std::fs::read_to_string(path).expect("a source");
        let file = path.strip_prefix(&src).expect("below").display().to_string();
        let all = literals(&text).into_iter();
        all.map(move |(before, literal)| (file.clone(), before, literal)).collect::<Vec<_>>()
    };
    files.iter().flat_map(one).collect()
}

#[test]
fn what_is_refused_has_a_row() {
    let said = |before: &str| {
        let before = before.trim_end_matches("format!(").trim_end_matches(['&', ' ']);
        let before = match before.rsplit_once('(') {
            // An errno, or the verifier too, is in front.
            Some((head, args)) if args.ends_with(',') => format!("{head}("),
            _ => before.to_owned(),
        };
        SAID_BY.iter().any(|by| {
            let own = before.strip_suffix(by);
            own.is_some_and(|b| !b.ends_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
    };
    let rows: Vec<&str> = messages::all().collect();
    let missing: Vec<String> = all()
        .iter()
        .filter(|(_, before, l)| said(before) && letters(l) >= LETTERS_MIN)
        .filter(|(_, _, l)| !l.starts_with("verifier bug") && !rows.iter().any(|r| fills(r, l)))
        .map(|(file, _, l)| format!("{file}: {l}"))
        .collect();
    assert!(missing.is_empty(), "not in src/messages.txt:\n{}", missing.join("\n"));
}

#[test]
fn each_row_is_said() {
    let all = all();
    let said = |file: &str, row: &str| {
        let of = all.iter().filter(|(f, _, l)| f == file && letters(l) >= LETTERS_MIN);
        of.into_iter().any(|(_, _, l)| fills(row, l) || letters(l) >= PART_MIN && row.contains(l))
    };
    let gone: Vec<_> = messages::grouped().filter(|(file, row)| !said(file, row)).collect();
    assert!(gone.is_empty(), "nothing says: {gone:#?}");
    assert!(messages::all().count() > 400);
}
