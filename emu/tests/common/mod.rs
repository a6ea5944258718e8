//! The scenarios of the library, for suites that run them all.
#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// Only the scenarios whose path contains `LIBRARY_ONLY`, when it is set.
pub(crate) fn library() -> Vec<PathBuf> {
    let only = std::env::var("LIBRARY_ONLY").unwrap_or_default();
    let mut found = Vec::new();
    let mut dirs = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("../scenarios/library")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|e| e == "ron")
                && path.to_string_lossy().contains(&only)
            {
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(!found.is_empty());
    found
}
