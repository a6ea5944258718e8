//! `orrery completions SHELL`.

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::{Cli, Exit, out};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// bash, elvish, fish, powershell or zsh
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Exit {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "orrery", &mut script);
    out::print(&String::from_utf8_lossy(&script));
    Exit::Ok
}
