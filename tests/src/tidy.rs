//! Rules of style that need no judgement. Each finding says which rule and why.
//!
//! Exemptions are lines in the file: `//! tidy: table` for generated or tabular files,
//! `// tidy: flat match` above a function that is one flat `match`.

use std::fs;
use std::path::{Path, PathBuf};

/// Longest line, in characters: two columns side by side on a laptop.
const LINE_CHARS_MAX: usize = 100;
/// Longest function, in lines: it fits a screen.
const FN_LINES_MAX: usize = 70;
/// Longest file without its tests, in lines: one concept.
const FILE_LINES_MAX: usize = 800;

/// Calls that have a better replacement in shipped code.
const BANNED: &[(&str, &str)] = &[
    (".unwrap()", "use `expect` with the invariant's text, or return the error"),
    ("dbg!(", "remove the debugging aid"),
    ("todo!(", "say `Unsupported` with the kernel feature's name"),
    ("unimplemented!(", "say `Unsupported` with the kernel feature's name"),
    ("HashMap<", "hash order reaches the trace: use BTreeMap"),
];

/// Where `unsafe` may stand, and why.
const UNSAFE: &[(&str, &str)] = &[
    ("emu/src/unicorn", "the CPU layer calls a C library"),
    ("emu/src/host/door.rs", "bpf(2) has no safe wrapper: one system call"),
];

/// All findings over the workspace's Rust files.
///
/// # Errors
/// A file that cannot be read.
pub fn findings(root: &Path) -> std::io::Result<Vec<String>> {
    let mut files = Vec::new();
    for (name, _) in crate::house::EDGES {
        rust_files(&root.join(name), &mut files)?;
    }
    files.sort();
    let mut found = Vec::new();
    for path in files {
        let text = fs::read_to_string(&path)?;
        let name = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        check_file(&name, &text, &mut found);
    }
    Ok(found)
}

fn rust_files(dir: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|n| n != "target") {
                rust_files(&path, out)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
    Ok(())
}

/// The part of a file that ships: up to its test module.
fn shipped(text: &str) -> &str {
    text.find("\n#[cfg(test)]").map_or(text, |at| &text[..at])
}

fn check_file(name: &str, text: &str, found: &mut Vec<String>) {
    if !text.starts_with("//!") {
        found.push(format!("{name}:1: begins without `//!`: say what the file is and why"));
    }
    let header = text.lines().take_while(|l| l.starts_with("//!"));
    let table = header.clone().any(|l| l.contains("tidy: table"));
    let is_test = name.contains("/tests/") || name.starts_with("tests/suites");
    let is_test = is_test || name.ends_with("tests.rs") || name.contains("/benches/");
    let body = if is_test { text } else { shipped(text) };
    for (n, line) in body.lines().enumerate() {
        let at = n + 1;
        if !table && line.chars().count() > LINE_CHARS_MAX {
            found.push(format!("{name}:{at}: longer than {LINE_CHARS_MAX} characters"));
        }
        if !is_test && name != "tests/src/tidy.rs" {
            check_banned(name, at, line, found);
        }
    }
    if table {
        return;
    }
    let lines = body.lines().count();
    if lines > FILE_LINES_MAX {
        found
            .push(format!("{name}: {lines} lines, more than {FILE_LINES_MAX}: one concept a file"));
    }
    check_functions(name, body, found);
}

fn check_banned(name: &str, at: usize, line: &str, found: &mut Vec<String>) {
    let code = line.split("//").next().unwrap_or_default();
    for (call, instead) in BANNED {
        if code.contains(call) {
            found.push(format!("{name}:{at}: `{call}`: {instead}"));
        }
    }
    if code.contains("unsafe ") && !UNSAFE.iter().any(|u| name.starts_with(u.0)) {
        let places: Vec<&str> = UNSAFE.iter().map(|u| u.0).collect();
        found.push(format!("{name}:{at}: unsafe belongs in {} alone", places.join(" and ")));
    }
}

/// Function length by indentation: rustfmt closes a function in the column where it began.
fn check_functions(name: &str, body: &str, found: &mut Vec<String>) {
    let lines: Vec<&str> = body.lines().collect();
    for (n, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let starts = ["fn ", "pub fn ", "pub(crate) fn ", "pub(super) fn ", "const fn "];
        let starts =
            starts.iter().any(|s| trimmed.starts_with(s)) || trimmed.starts_with("pub const fn ");
        if !starts || is_exempt(&lines[..n]) {
            continue;
        }
        let close = format!("{}}}", &line[..line.len() - trimmed.len()]);
        let Some(length) = lines[n..].iter().position(|l| *l == close) else { continue };
        let one_liner = lines[n].ends_with('}') || lines[n].ends_with(';');
        if !one_liner && length + 1 > FN_LINES_MAX {
            let at = n + 1;
            found.push(format!(
                "{name}:{at}: function of {} lines, more than {FN_LINES_MAX}",
                length + 1
            ));
        }
    }
}

fn is_exempt(above: &[&str]) -> bool {
    above
        .iter()
        .rev()
        .take_while(|l| {
            let l = l.trim_start();
            l.starts_with("//") || l.starts_with("#[")
        })
        .any(|l| l.contains("tidy: flat match"))
}

#[cfg(test)]
mod tests {
    use super::check_file;

    fn findings(text: &str) -> Vec<String> {
        let mut found = Vec::new();
        check_file("bpf/src/x.rs", text, &mut found);
        found
    }

    #[test]
    fn each_rule_finds_its_violation() {
        assert_eq!(findings("//! Fine.\nfn a() {}\n"), Vec::<String>::new());
        assert!(findings("fn a() {}\n")[0].contains("begins without"));
        let long = format!("//! Long.\n// {}\n", "x".repeat(100));
        assert!(findings(&long)[0].contains("longer than"));
        assert!(findings("//! U.\nfn a() { b().unwrap(); }\n")[0].contains("unwrap"));
        assert!(findings("//! U.\nunsafe fn a() {}\n")[0].contains("unicorn"));
        let body = "    x();\n".repeat(80);
        assert!(findings(&format!("//! F.\nfn a() {{\n{body}}}\n"))[0].contains("82 lines"));
        let exempt = format!("//! F.\n// tidy: flat match\nfn a() {{\n{body}}}\n");
        assert_eq!(findings(&exempt), Vec::<String>::new());
        let tests =
            format!("//! T.\n#[cfg(test)]\nmod t {{\n{}}}\n", "    a().unwrap();\n".repeat(900));
        assert_eq!(findings(&tests), Vec::<String>::new());
    }
}
