//! Programs a generator found (`tests/corpus/fuzzed`), one file each, named by the rule they are
//! about: what Linux 6.18 says and, where that is not yet the same, what the verifier says.

use std::path::PathBuf;

use emu::cli::fuzz::judge;

/// The verdict in a line such as `; kernel: rejected: WORDS (5 insns, ...)`.
fn verdict(text: &str, who: &str) -> Option<String> {
    let line = text.lines().find_map(|l| l.strip_prefix(&format!("; {who}: ")))?;
    let end = line.rfind(" (").unwrap_or(line.len());
    Some(line[..end].to_owned())
}

/// Files whose verdict is not what they say.
///
/// # Errors
/// The folder cannot be read.
pub fn findings() -> std::io::Result<Vec<String>> {
    let dir = crate::root().join("tests/corpus/fuzzed");
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        files.push(entry?.path());
    }
    files.sort();
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file)?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let Some(kernel) = verdict(&text, "kernel") else {
            found.push(format!("{name}: no verdict of the kernel"));
            continue;
        };
        let expected = verdict(&text, "orrery").unwrap_or_else(|| kernel.clone());
        let ours = judge(&text);
        if ours != expected {
            found.push(format!("{name}: kernel {kernel}, listed {expected}, ours {ours}"));
        }
    }
    Ok(found)
}
