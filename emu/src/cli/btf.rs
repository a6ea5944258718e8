//! `orrery btf`: the types of the modelled kernel, as a header that programs include or as a dump.

use bpf::Arch;
use kernel_model::types::Types;

use super::{Exit, arch, out};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// As a C header (vmlinux.h) instead of a dump of the types
    #[arg(long)]
    c: bool,
    /// Architecture whose types are meant: they differ in byte order and registers
    #[arg(long, value_parser = arch, default_value = "x86_64")]
    arch: Arch,
}

pub(super) fn run(args: &Args) -> Exit {
    let btf = Types::of(args.arch).btf();
    out::print(&if args.c { btf.to_c_header() } else { btf.raw_dump() });
    Exit::Ok
}
