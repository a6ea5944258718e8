//! The crate graph of the design: which crate may depend on which. A new edge fails the build.

use std::process::Command;

/// Allowed normal dependencies between the workspace's crates.
pub const EDGES: &[(&str, &[&str])] = &[
    ("bpf", &[]),
    ("verifier", &["bpf"]),
    ("jit", &["bpf", "verifier"]),
    ("kernel-model", &["bpf", "verifier"]),
    ("scenarios", &[]),
    ("gdb", &["bpf", "jit"]),
    ("emu", &["bpf", "verifier", "jit", "kernel-model", "scenarios", "gdb"]),
    ("tests", &["bpf", "verifier", "jit", "kernel-model", "scenarios", "gdb", "emu"]),
];

/// Lists every edge of `cargo metadata` that [`EDGES`] does not allow, and every dependency that
/// turns on the verifier's `testing` feature outside of tests.
///
/// # Errors
/// The text of what `cargo metadata` failed with.
pub fn violations() -> Result<Vec<String>, String> {
    let out = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version=1", "--no-deps", "--offline"])
        .current_dir(crate::root())
        .output()
        .map_err(|e| e.to_string())?;
    if !out.status.success() {
        return Err(String::from_utf8_lossy(&out.stderr).into_owned());
    }
    let meta: serde_json::Value = serde_json::from_slice(&out.stdout).map_err(|e| e.to_string())?;
    let mut found = Vec::new();
    for package in meta["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some((_, allowed)) = EDGES.iter().find(|e| e.0 == name) else {
            found.push(format!("crate {name} is not in the design"));
            continue;
        };
        for dep in package["dependencies"].as_array().into_iter().flatten() {
            found.extend(edge_violation(name, allowed, dep));
        }
    }
    Ok(found)
}

fn edge_violation(name: &str, allowed: &[&str], dep: &serde_json::Value) -> Option<String> {
    let to = dep["name"].as_str().unwrap_or_default();
    if dep["kind"] == "dev" || !EDGES.iter().any(|e| e.0 == to) {
        return None;
    }
    let testing = dep["features"].as_array().into_iter().flatten().any(|f| f == "testing");
    if testing {
        return Some(format!("{name} enables `testing` of {to} outside of dev-dependencies"));
    }
    (!allowed.contains(&to)).then(|| format!("{name} -> {to} is not an edge of the design"))
}
