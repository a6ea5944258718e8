//! Compiles a `.bpf.c` with clang, for either byte order.

use std::path::{Path, PathBuf};
use std::process::Command;

use bpf::Endian;

/// Compilers to try, best first.
const CLANG: [&str; 2] = ["clang-19", "clang"];

/// Folder of our `bpf/bpf_helpers.h` and its kin: in the source tree, or beside the caller.
fn include_dir() -> Option<PathBuf> {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/include");
    [tree, PathBuf::from("tests/corpus/include")].into_iter().find(|p| p.is_dir())
}

/// The object of a source file.
///
/// # Errors
/// No clang, or what clang says.
pub fn compile(source: &Path, endian: Endian) -> Result<Vec<u8>, String> {
    let target = if endian == Endian::Little { "bpfel" } else { "bpfeb" };
    let out = std::env::temp_dir().join(format!("orrery-{}-{target}.o", std::process::id()));
    for clang in CLANG {
        let mut command = Command::new(clang);
        command.args(["-O2", "-g", "-mcpu=v3", "-target", target, "-c"]);
        if let Some(dir) = include_dir() {
            command.arg("-I").arg(dir);
        }
        let result = command.arg(source).arg("-o").arg(&out).output();
        let Ok(result) = result else { continue };
        if !result.status.success() {
            return Err(String::from_utf8_lossy(&result.stderr).into_owned());
        }
        let bytes = std::fs::read(&out).map_err(|e| e.to_string());
        // A leftover in the temporary folder does no harm.
        let _removed = std::fs::remove_file(&out);
        return bytes;
    }
    Err(format!("{}: no clang; install clang-19", source.display()))
}
