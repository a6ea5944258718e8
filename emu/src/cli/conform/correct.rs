//! `--write-corrected DIR`: vectors whose expectation assumes little endian, as they should be for
//! big-endian machines.

use std::path::{Path, PathBuf};

use bpf::Endian;

use super::{Args, Done};
use crate::cli::replay::files::write_to;
use crate::cli::{Exit, gravest, out};
use crate::conform::{Kind, Record, data};

pub(super) fn write(args: &Args, done: &[Done<'_>]) -> Exit {
    let Some(dir) = &args.write_corrected else { return Exit::Ok };
    let wrong = |r: &Record| r.engine.order() == Endian::Big && r.kind == Kind::LittleEndian;
    let mut exits = Vec::new();
    for d in done {
        let Some(r) = d.records.iter().find(|r| wrong(r)) else { continue };
        exits.push(one(args, dir, d, r));
    }
    gravest(exits)
}

fn one(args: &Args, dir: &Path, d: &Done<'_>, r: &Record) -> Exit {
    let made = || {
        let text = std::fs::read_to_string(&d.case.path).map_err(|e| e.to_string())?;
        let digits = r.got.strip_prefix("0x").unwrap_or(&r.got);
        let r0 = u64::from_str_radix(digits, 16).map_err(|e| e.to_string())?;
        let to = dir.join(below(&args.paths, &d.case.path));
        let folder = to.parent().unwrap_or(dir);
        std::fs::create_dir_all(folder).map_err(|e| e.to_string())?;
        Ok::<_, String>((to, data::corrected(&text, Endian::Big, r0)))
    };
    match made() {
        Ok((to, text)) => write_to(&to, &mut |f| f.write_all(text.as_bytes())),
        Err(e) => {
            out::error(&format!("{}: {e}", d.case.path.display()), "");
            Exit::BadInput
        }
    }
}

/// A file's place below the path that was given.
fn below(given: &[PathBuf], file: &Path) -> PathBuf {
    let found = given.iter().find_map(|g| file.strip_prefix(g).ok());
    let found = found.filter(|p| !p.as_os_str().is_empty());
    found.map_or_else(|| file.file_name().unwrap_or_default().into(), Path::to_path_buf)
}
