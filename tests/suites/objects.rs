//! The committed objects are what clang-19 makes of the sources beside them.
//!
//! Instructions, maps and initial data are compared, not debug sections: those hold line numbers
//! of the system's UAPI headers, which differ between distributions.

use std::path::{Path, PathBuf};

use bpf::Endian;
use bpf::object::{Object, inspect};
use emu::compile::{CompileError, Flags, compile, default_arch, tag};

/// What must be equal.
fn contents(bytes: &[u8]) -> Vec<String> {
    let object = Object::parse(bytes).unwrap();
    let seen = inspect(&object);
    let mut out = vec![seen.license];
    out.extend(seen.programs.iter().map(|p| format!("{p:?}")));
    out.extend(seen.maps.iter().map(|m| format!("{m:?}")));
    out.extend(seen.functions.iter().map(|f| format!("{f:?}")));
    out.extend(object.maps().iter().map(|m| format!("{} {:?}", m.name, m.data)));
    for (section, slots) in seen.code {
        out.extend(slots.iter().enumerate().map(|(n, s)| format!("{section} {n}: {s:?}")));
    }
    out
}

/// Where the object of a source is: beside it, or in the corpus' folder of its byte order. One
/// without a byte order in its name is little endian, and there is no other.
fn committed(source: &Path, endian: Endian) -> Option<PathBuf> {
    let leaf = source.file_name().unwrap().to_string_lossy();
    let stem = leaf.strip_suffix(".bpf.c").unwrap();
    let beside = source.with_file_name(format!("{stem}.{}.bpf.o", tag(endian)));
    if beside.exists() {
        return Some(beside);
    }
    let alone = source.with_file_name(format!("{stem}.bpf.o"));
    if alone.exists() {
        return (endian == Endian::Little).then_some(alone);
    }
    let corpus = source.parent().unwrap().with_file_name("objects");
    Some(corpus.join(tag(endian)).join(format!("{stem}.bpf.o")))
}

#[test]
fn objects_are_what_their_sources_compile_to() {
    let flags = Flags { clang: Some("clang-19".into()), ..Flags::default() };
    let (mut stale, mut compared) = (Vec::new(), 0);
    for source in tests::used::sources(&tests::root()).unwrap() {
        for endian in [Endian::Little, Endian::Big] {
            let Some(path) = committed(&source, endian) else { continue };
            let built = match compile(&source, default_arch(endian), &flags) {
                Ok(built) => built,
                Err(CompileError::NoClang { .. }) => {
                    assert!(std::env::var_os("CI").is_none(), "no clang-19");
                    println!("skipped: no clang-19");
                    return;
                }
                Err(e) => panic!("{e}"),
            };
            let Ok(bytes) = std::fs::read(&path) else {
                stale.push(format!("{} is missing", path.display()));
                continue;
            };
            let (now, then) = (contents(&built.bytes), contents(&bytes));
            compared += 1;
            if let Some((a, b)) = now.iter().zip(&then).find(|(a, b)| a != b) {
                stale.push(format!("{}:\n  source: {a}\n  object: {b}", path.display()));
            } else if now.len() != then.len() {
                stale.push(format!("{}: more or less code or maps", path.display()));
            }
        }
    }
    assert!(stale.is_empty(), "build these again with `orrery build`:\n{}", stale.join("\n"));
    assert!(compared > 20, "only {compared} objects");
}
