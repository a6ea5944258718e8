//! The harness: what the suites under `tests/suites` share.
//!
//! Reading order: [`tidy`] (the rules of style that a machine can check), [`house`] (the crate
//! graph of the design). Suites hold no rules of their own; they call one `check` function.

pub mod fuzzed;
pub mod house;
pub mod kernel_tables;
pub mod tidy;
pub mod used;
pub mod vectors;

use std::path::PathBuf;

/// The repository's root.
#[must_use]
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the workspace")
        .to_path_buf()
}
