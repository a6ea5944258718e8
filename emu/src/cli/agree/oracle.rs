//! The oracle's file: what a kernel said of each program.

use std::path::Path;

use serde::Deserialize;

use crate::cli::target::read_packed;
use crate::cli::{Exit, out};

/// One program.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Said {
    pub(super) corpus: String,
    pub(super) object: String,
    pub(super) program: String,
    pub(super) section: String,
    pub(super) verdict: String,
    pub(super) usable: bool,
    pub(super) fixups: String,
    pub(super) prog_type_id: u32,
    pub(super) expected_attach_type: u32,
    pub(super) prog_flags: u32,
    pub(super) error_line: Option<String>,
    pub(super) insns_processed: i64,
    pub(super) total_states: i64,
    pub(super) peak_states: i64,
    pub(super) max_states_per_insn: i64,
    pub(super) stack_depth: Option<String>,
    pub(super) verification_time_usec: i64,
    pub(super) expected: Expected,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Expected {
    btf_path: Option<String>,
}

impl Said {
    /// Object whose BTF the program is linked against.
    pub(super) fn btf_path(&self) -> Option<&str> {
        self.expected.btf_path.as_deref()
    }

    pub(super) fn accepted(&self) -> bool {
        self.verdict == "accepted"
    }
}

/// Reads the file; an error has been reported.
pub(super) fn read(path: &Path) -> Result<Vec<Said>, Exit> {
    let bytes = read_packed(path)?;
    let text = String::from_utf8_lossy(&bytes);
    let lines = text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty());
    let parse = |(i, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            let next = "one JSON object a line is expected";
            out::error(&format!("{}:{}: {e}", path.display(), i + 1), next);
            Exit::BadInput
        })
    };
    lines.map(parse).collect()
}
