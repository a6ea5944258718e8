//! A scenario from the start of a process to its end, on all four architectures.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use super::{Row, best};

/// The README's first scenario.
const FIRST: &str = "scenarios/library/basics/drop_echo.ron";
/// Milliseconds that `qemu-system-x86_64`, arm64 and s390x together take from start to the end of
/// three programs (medians, `-smp 1`; riscv64 had no kernel to try).
const QEMU_MS: f64 = 10_600.0 + 7_800.0 + 17_800.0;

/// Finds a file of the source tree, from its root or wherever it was built.
pub(super) fn in_tree(path: &str) -> Option<PathBuf> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    [PathBuf::from(path), tree].into_iter().find(|p| p.exists())
}

pub(super) fn measure(quick: bool, rows: &mut Vec<Row>) -> Result<(), String> {
    let scenario = in_tree(FIRST).ok_or(format!("no {FIRST} here"))?;
    let exe = std::env::current_exe().map_err(|e| e.to_string())?;
    let once = || {
        let begin = Instant::now();
        let status = Command::new(&exe)
            .args(["replay", "--arch", "all"])
            .arg(&scenario)
            .stdout(Stdio::null())
            .status()
            .map_err(|e| e.to_string())?;
        if !status.success() {
            return Err(format!("replay {FIRST} ended with {status}"));
        }
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    };
    let ours = best(if quick { 3 } else { 15 }, once)?;
    rows.push(Row {
        part: "cold",
        what: format!("`orrery replay {FIRST}`, process start to exit"),
        on: "four".into(),
        ours,
        unit: "ms",
        peer: Some(QEMU_MS),
        peer_name: "kernels under QEMU (three)",
    });
    Ok(())
}
