//! `orrery replay FILE...`.

use std::path::PathBuf;
use std::process::ExitCode;

use super::{Exit, out};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Scenario files
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

pub(super) fn run(args: Args) -> ExitCode {
    let file = args.files.first().map(|f| f.display().to_string()).unwrap_or_default();
    out::error(&format!("{file}: unsupported: replay of scenarios"), "");
    Exit::Unsupported.into()
}
