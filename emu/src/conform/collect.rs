//! Paths to cases: files by what they are, directories walked in order of name.

use std::path::{Path, PathBuf};

use super::{Body, Case, data, line};
use crate::below::below;

/// How files of one-line vectors begin.
const LINES: &str = "# Instruction vectors:";

/// What may know more kinds of files: the cases of one, or that it is of no kind.
pub type Others<'a> = &'a mut dyn FnMut(&Path) -> Result<Option<Vec<Case>>, String>;

/// The cases of paths.
///
/// # Errors
/// A path that cannot be read, or is no case though it was named.
pub fn collect(paths: &[PathBuf], others: Others<'_>) -> Result<Vec<Case>, String> {
    let mut out = Vec::new();
    for path in paths {
        if path.is_dir() {
            for path in below(path, &[""])? {
                out.extend(file(&path, others)?.unwrap_or_default());
            }
        } else {
            std::fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
            let found = file(path, others)?;
            let none = || format!("{}: of no kind that has cases", path.display());
            out.extend(found.ok_or_else(none)?);
        }
    }
    Ok(out)
}

/// The cases of a file; none when it is of no kind that has any.
fn file(path: &Path, others: Others<'_>) -> Result<Option<Vec<Case>>, String> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("data") => Ok(Some(vec![vector(path, &read(path)?)])),
        Some("txt") => {
            let text = read(path)?;
            text.starts_with(LINES).then(|| lines(path, &text)).transpose()
        }
        _ => others(path),
    }
}

fn lines(path: &Path, text: &str) -> Result<Vec<Case>, String> {
    let file = path.display().to_string();
    let case = |l: line::Line| {
        let body = l.vector().map_or_else(Body::Bad, |v| Body::Vector(Box::new(v)));
        Case { name: l.name, path: path.to_path_buf(), line: l.line, body }
    };
    Ok(line::parse(&file, text)?.into_iter().map(case).collect())
}

/// A file as text, whatever its bytes.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<String, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn vector(path: &Path, text: &str) -> Case {
    let name = path.display().to_string();
    let (line, body) = match data::parse(text) {
        Ok(data::Parsed::Vector(v)) => (v.lines.first().copied().unwrap_or(1), Body::Vector(v)),
        Ok(data::Parsed::Skip(why)) => (1, Body::Skip(why)),
        Err((line, why)) => (line, Body::Bad(format!("line {line}: {why}"))),
    };
    Case { name, path: path.to_path_buf(), line, body }
}
