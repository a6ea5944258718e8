//! Maps against what Linux 6.18 says, row by row: creation limits, and operations of user space.
//!
//! The rows are in `tests/corpus/kernel-tables`. Each is asked of the model in both byte orders
//! and, where it lets us, of the running kernel, so that the way a row is read is checked too.
//! Rows that differ are listed with their reason; the list has to be exact.

mod bad;
mod batch;
mod create;
mod face;
mod ops;
mod table;

use bpf::Arch;
use emu::host::HostKernel;
use face::Face;

/// The list of what the model does otherwise.
const MODEL: &str = "map_differences.tsv";
/// The list of what depends on the machine that was measured.
const HOST: &str = "map_differences_host.tsv";

#[test]
fn creation_in_the_model() {
    for arch in [Arch::X86_64, Arch::S390x] {
        let found = create::run(&mut Face::model(arch));
        table::check("map_create", MODEL, &found).unwrap_or_else(|e| panic!("{arch}: {e}"));
    }
}

#[test]
fn operations_in_the_model() {
    for arch in [Arch::X86_64, Arch::S390x] {
        let found = ops::run(&mut Face::model(arch));
        table::check("map_ops", MODEL, &found).unwrap_or_else(|e| panic!("{arch}: {e}"));
    }
}

fn host() -> Option<Face> {
    match HostKernel::open() {
        Ok(host) if host.version() >> 8 == 0x0612 => Some(Face::Host(Box::new(host))),
        Ok(host) => {
            eprintln!("skipped: the tables are of 6.18, this is {:#x}", host.version());
            None
        }
        Err(why) => {
            eprintln!("skipped: {why}");
            None
        }
    }
}

#[test]
fn creation_in_the_running_kernel() {
    let Some(mut face) = host() else { return };
    let found = create::run(&mut face);
    table::check("map_create", HOST, &found).unwrap_or_else(|e| panic!("{e}"));
}

#[test]
fn operations_in_the_running_kernel() {
    let Some(mut face) = host() else { return };
    let found = ops::run(&mut face);
    table::check("map_ops", HOST, &found).unwrap_or_else(|e| panic!("{e}"));
}
