//! Files in folders and in folders in them.

use std::path::{Path, PathBuf};

/// Files below a folder whose names have one of the endings, in order. Hidden ones are not there.
///
/// # Errors
/// A folder cannot be read; the text names it.
pub fn below(folder: &Path, endings: &[&str]) -> Result<Vec<PathBuf>, String> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        let failed = |e| format!("{}: {e}", folder.display());
        for entry in std::fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // What is below this folder is named from it.
            let path = path.strip_prefix(".").map_or(path.clone(), Path::to_path_buf);
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|e| name.ends_with(e)) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// What paths stand for: a folder for the files below it that have one of the endings.
///
/// # Errors
/// As [`below`].
pub fn named(paths: &[PathBuf], endings: &[&str]) -> Result<Vec<PathBuf>, String> {
    let mut all = Vec::new();
    for path in paths {
        match path.is_dir() {
            true => all.extend(below(path, endings)?),
            false => all.push(path.clone()),
        }
    }
    Ok(all)
}
