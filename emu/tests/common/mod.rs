//! The scenarios of the library, for suites that run them all.
#![allow(clippy::unwrap_used, reason = "a failed test is meant to panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

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

/// Runs something on every scenario of the library, on all cores; what it gives, in their order.
#[allow(dead_code, reason = "each suite uses a part")]
pub(crate) fn each_in_library<T, I>(work: impl Fn(usize, &Path) -> I + Sync) -> Vec<T>
where
    I: IntoIterator<Item = T> + Send,
{
    let (library, next, all) = (library(), AtomicUsize::new(0), Mutex::new(Vec::new()));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(path) = library.get(n) else { return };
                    let given = work(n, path);
                    all.lock().unwrap_or_else(PoisonError::into_inner).push((n, given));
                }
            });
        }
    });
    let mut all = all.into_inner().unwrap();
    all.sort_by_key(|(n, _)| *n);
    all.into_iter().flat_map(|(_, given)| given).collect()
}
