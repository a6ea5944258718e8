//! Files that nothing uses, and dependencies without a reason: what is in the tree has to be
//! there for something.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders with scenarios, sources and objects.
const FOLDERS: &[&str] = &["scenarios", "tests/corpus", "emu/tests"];

fn walk(dir: &Path, out: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => walk(&path, out)?,
            false => out.push(path),
        }
    }
    Ok(())
}

fn files(root: &Path, ending: &str) -> std::io::Result<Vec<PathBuf>> {
    let mut out = Vec::new();
    for folder in FOLDERS {
        walk(&root.join(folder), &mut out)?;
    }
    out.retain(|p| p.to_string_lossy().ends_with(ending));
    out.sort();
    Ok(out)
}

/// Every `.bpf.c` of the tree.
///
/// # Errors
/// A folder that cannot be read.
pub fn sources(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    files(root, ".bpf.c")
}

/// The name of a file up to its first dot.
fn stem(path: &Path) -> String {
    let leaf = path.file_name().map_or(String::new(), |n| n.to_string_lossy().into_owned());
    leaf.split('.').next().unwrap_or_default().to_owned()
}

/// Sources and objects that no scenario, transcript or test names, and scenarios that no suite
/// runs.
///
/// # Errors
/// A file that cannot be read.
pub fn unused(root: &Path) -> std::io::Result<Vec<String>> {
    let mut texts = String::new();
    let mut readers = files(root, ".ron")?;
    readers.extend(files(root, ".txt")?);
    for (name, _) in crate::house::EDGES {
        let mut all = Vec::new();
        walk(&root.join(name), &mut all)?;
        readers.extend(all.into_iter().filter(|p| p.extension().is_some_and(|e| e == "rs")));
    }
    for path in &readers {
        texts += &fs::read_to_string(path)?;
    }
    let mut found = Vec::new();
    // What the suites `hostile` and `conform` run, whole.
    let folders = ["damaged/", "conform/", "verifier/"].map(|f| format!("tests/corpus/{f}"));
    let whole = |path: &Path| folders.iter().any(|f| shown(root, path).starts_with(f.as_str()));
    for path in files(root, ".bpf.c")?.into_iter().chain(files(root, ".bpf.o")?) {
        let stem = stem(&path);
        let named = [format!("{stem}.bpf"), format!("{stem}.el.bpf"), format!("\"{stem}\"")];
        if !whole(&path) && !named.iter().any(|n| texts.contains(n)) {
            found.push(format!("{}: nothing names it", shown(root, &path)));
        }
    }
    for path in files(root, ".ron")? {
        let name = shown(root, &path);
        // Suites that run or read whole folders.
        let whole = ["scenarios/library/", "scenarios/tests/examples/", "tests/corpus/damaged/"];
        let leaf = format!("{}.ron", stem(&path));
        if !whole.iter().any(|f| name.starts_with(f)) && !texts.contains(&leaf) {
            found.push(format!("{name}: nothing runs it"));
        }
    }
    Ok(found)
}

fn shown(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).display().to_string()
}

/// Dependencies of other projects without a reason: above the line in the workspace's manifest,
/// behind it in a crate's.
///
/// # Errors
/// A manifest that cannot be read.
pub fn without_reason(root: &Path) -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    let workspace = fs::read_to_string(root.join("Cargo.toml"))?;
    let own: Vec<&str> = crate::house::EDGES.iter().map(|e| e.0).collect();
    let mut above = "";
    for line in section(&workspace, "[workspace.dependencies]") {
        let name = line.split([' ', '=', '.']).next().unwrap_or_default();
        let is_row = !line.starts_with('#') && !line.is_empty();
        if is_row && !above.starts_with('#') && !own.contains(&name) {
            found.push(format!("Cargo.toml: {name} has no reason above it"));
        }
        above = line;
    }
    for name in &own {
        let path = root.join(name).join("Cargo.toml");
        let text = fs::read_to_string(&path)?;
        for head in ["[dependencies]", "[dev-dependencies]", "[build-dependencies]"] {
            for line in section(&text, head).filter(|l| !l.is_empty() && !l.starts_with('#')) {
                let dep = line.split([' ', '=', '.']).next().unwrap_or_default();
                if !line.contains('#') && !own.contains(&dep) {
                    found.push(format!("{name}/Cargo.toml: {dep} has no reason behind it"));
                }
            }
        }
    }
    Ok(found)
}

/// Lines of a section of a manifest.
fn section<'a>(text: &'a str, head: &str) -> impl Iterator<Item = &'a str> {
    let mut lines = text.lines();
    let found = lines.any(|l| l.trim() == head);
    lines.take_while(move |l| found && !l.starts_with('[')).map(str::trim)
}
