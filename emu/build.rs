//! Finds two private fields of Unicorn's engine structure, without guessing.
//!
//! The offsets come from the crate's own private header, compiled as the crate compiled it. When
//! anything is missing (no C compiler, other layout of the source), both offsets are 0, which the
//! CPU layer reads as "not available": it then runs as shipped, slower on loads and stores.
//! See `src/unicorn/private.rs` for what the fields are used for.

use std::path::{Path, PathBuf};
use std::process::Command;

const PROBE: &str = r#"
#include "uc_priv.h"
#include <stdio.h>
#include <stddef.h>
int main(void) {
    printf("%zu %zu\n", offsetof(struct uc_struct, no_exit_request),
           offsetof(struct uc_struct, invalid_addr));
    return 0;
}
"#;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=DEP_UNICORN_ROOT");
    println!("cargo:rerun-if-env-changed=CC");
    let (no_exit, invalid) = probe().unwrap_or((0, 0));
    println!("cargo:rustc-env=UC_OFF_NO_EXIT_REQUEST={no_exit}");
    println!("cargo:rustc-env=UC_OFF_INVALID_ADDR={invalid}");
}

/// Offsets of `no_exit_request` and `invalid_addr`.
fn probe() -> Option<(usize, usize)> {
    let root = PathBuf::from(std::env::var_os("DEP_UNICORN_ROOT")?);
    let build = root.join("build");
    let source = source_dir(&build.join("CMakeCache.txt"))?;
    let out = PathBuf::from(std::env::var_os("OUT_DIR")?);
    let (c, exe) = (out.join("probe.c"), out.join("probe"));
    std::fs::write(&c, PROBE).ok()?;
    let tcg = match std::env::var("CARGO_CFG_TARGET_ARCH").ok()?.as_str() {
        "x86_64" => "i386",
        "aarch64" => "aarch64",
        "riscv64" => "riscv",
        _ => return None,
    };
    let cc = std::env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let mut cmd = Command::new(cc);
    cmd.args(["-w", "-std=gnu11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64"]);
    cmd.arg("-I").arg(&build);
    for dir in ["glib_compat", "qemu", "qemu/include", "include", "qemu/tcg"] {
        cmd.arg("-I").arg(source.join(dir));
    }
    cmd.arg("-I").arg(source.join("qemu/tcg").join(tcg));
    let ok = cmd.arg("-o").arg(&exe).arg(&c).output().ok()?.status.success();
    if !ok {
        return None;
    }
    let text = String::from_utf8(Command::new(&exe).output().ok()?.stdout).ok()?;
    let mut words = text.split_whitespace().map(str::parse::<usize>);
    Some((words.next()?.ok()?, words.next()?.ok()?))
}

/// Where CMake found the sources: the crate's own directory.
fn source_dir(cache: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(cache).ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("CMAKE_HOME_DIRECTORY:INTERNAL="))?;
    Some(PathBuf::from(line.trim()))
}
