//! The binary `orrery`: everything is in [`emu::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    emu::cli::main()
}
