//! Which file is an object on which architecture.
//!
//! A scenario names one file; the four architectures need two, one for each byte order. Projects
//! name the two in a few ways, and all of them are looked for (`NAMES`). A C file is compiled
//! when no object beside it is newer.

use std::fs;
use std::path::{Path, PathBuf};

use bpf::{Arch, Endian};

use crate::compile::{self, Flags, tag};

/// Where the object of a byte order is, beside the file that is named: `{s}` is the stem, `{t}`
/// the byte order (`el`, `eb`), `{a}` the architecture. The first that exists and fits is taken.
const NAMES: &[&str] = &[
    "{s}.{a}.bpf.o",
    "{a}/{s}.bpf.o",
    "{t}/{s}.bpf.o",
    "../{t}/{s}.bpf.o",
    "{s}.{t}.bpf.o",
    "{s}.bpf.{t}.o",
    "{t}/{s}.o",
    "../{t}/{s}.o",
    "{s}_bpf{t}.o",
    "{s}.bpf{t}.o",
    "{s}.{t}.o",
];

/// Endings that are not part of the stem, longest first.
const ENDINGS: &[&str] = &[
    ".el.bpf.o",
    ".eb.bpf.o",
    ".bpf.el.o",
    ".bpf.eb.o",
    "_bpfel.o",
    "_bpfeb.o",
    ".bpfel.o",
    ".bpfeb.o",
    ".el.o",
    ".eb.o",
    ".bpf.o",
    ".bpf.c",
    ".o",
    ".c",
];

/// Why there is no object for an architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoObject {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: String,
}

impl NoObject {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> NoObject {
        NoObject { what: what.into(), hint: hint.into() }
    }
}

/// Reads the object that `file`, relative to `dir`, stands for on an architecture.
///
/// # Errors
/// There is none, or its source does not compile.
pub fn read(dir: &Path, file: &str, arch: Arch) -> Result<Vec<u8>, NoObject> {
    let path = dir.join(file);
    let (tried, found) = look(&path, arch)?;
    if is_source(&path) {
        let made = found.filter(|object| newer(object, &path));
        // One object stands for several architectures, but for their registers and kernel types:
        // from a source each gets its own, where there is a compiler.
        let own = made.as_ref().filter(|p| stands_for(p, arch));
        return match (own, made.as_ref()) {
            (Some(object), _) => bytes_of(object),
            (None, Some(object)) if !compile::available() => bytes_of(object),
            _ => build(&path, arch, &tried),
        };
    }
    if let Some(object) = found {
        return bytes_of(&object);
    }
    Err(missing(&path, file, arch, &tried))
}

/// A C file.
#[must_use]
pub fn is_source(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "c")
}

/// Whether an object was built for an architecture and not for another of its byte order.
fn stands_for(object: &Path, arch: Arch) -> bool {
    let named = object.components().any(|c| {
        let c = c.as_os_str().to_string_lossy();
        c == arch.name() || c.contains(&format!(".{}.", arch.name()))
    });
    named || compile::default_arch(arch.endian()) == arch
}

/// Places that were looked at, and the first that fits.
fn look(path: &Path, arch: Arch) -> Result<(Vec<PathBuf>, Option<PathBuf>), NoObject> {
    let leaf = path.file_name().and_then(|n| n.to_str());
    let (Some(folder), Some(leaf)) = (path.parent(), leaf) else {
        return Err(NoObject::new(format!("{} names no file", path.display()), ""));
    };
    let stem = ENDINGS.iter().find_map(|e| leaf.strip_suffix(e)).unwrap_or(leaf);
    let name = |pattern: &&str| {
        let order = tag(arch.endian());
        pattern.replace("{s}", stem).replace("{t}", order).replace("{a}", arch.name())
    };
    let mut tried: Vec<PathBuf> = NAMES.iter().map(|p| folder.join(name(p))).collect();
    if !is_source(path) {
        tried.push(path.to_path_buf());
    }
    let found = tried.iter().find(|p| order_of(p) == Some(arch.endian())).cloned();
    Ok((tried, found))
}

/// Byte order of an ELF file (`EI_DATA`); None when it is none.
fn order_of(path: &Path) -> Option<Endian> {
    use std::io::Read as _;
    let mut head = [0; 6];
    fs::File::open(path).ok()?.read_exact(&mut head).ok()?;
    match (&head[..4], head[5]) {
        (b"\x7fELF", 1) => Some(Endian::Little),
        (b"\x7fELF", 2) => Some(Endian::Big),
        _ => None,
    }
}

fn newer(object: &Path, source: &Path) -> bool {
    let time = |p: &Path| fs::metadata(p).and_then(|m| m.modified());
    match (time(object), time(source)) {
        (Ok(object), Ok(source)) => object >= source,
        // An object without its source is what there is.
        (Ok(_), Err(_)) => true,
        _ => false,
    }
}

fn bytes_of(path: &Path) -> Result<Vec<u8>, NoObject> {
    fs::read(path).map_err(|e| NoObject::new(format!("{}: {e}", path.display()), ""))
}

fn build(source: &Path, arch: Arch, tried: &[PathBuf]) -> Result<Vec<u8>, NoObject> {
    if !source.exists() {
        let what = format!("{}: no such file, nor an object of it", source.display());
        return Err(NoObject::new(what, format!("looked for {}", list(tried))));
    }
    match compile::cached(source, arch, &Flags::default()) {
        Ok(built) => Ok(built.bytes),
        Err(e) => Err(NoObject::new(e.to_string().trim_end(), e.next())),
    }
}

fn missing(path: &Path, file: &str, arch: Arch, tried: &[PathBuf]) -> NoObject {
    let word = |e: Endian| if e == Endian::Little { "little" } else { "big" };
    let wanted = word(arch.endian());
    let shown = path.display();
    match order_of(path) {
        Some(other) => {
            let have: Vec<&str> =
                Arch::ALL.iter().filter(|a| a.endian() == other).map(|a| a.name()).collect();
            let what = format!(
                "{file} is a {}-endian object and {arch} is {wanted}-endian; it has no twin",
                word(other)
            );
            let hint = format!(
                "`orrery build` makes both from the source; or machine: (archs: [{}]); \
                 looked for {}",
                have.join(", "),
                list(tried)
            );
            NoObject::new(what, hint)
        }
        None if path.exists() => NoObject::new(format!("{shown} is not an ELF object"), ""),
        None => {
            let what = format!("{shown}: no {wanted}-endian object");
            NoObject::new(what, format!("looked for {}", list(tried)))
        }
    }
}

/// File names alone: they are all in or next to one folder.
fn list(tried: &[PathBuf]) -> String {
    let name = |p: &PathBuf| {
        let last = p.iter().rev().take(2).map(|c| c.to_string_lossy().into_owned());
        let last: Vec<String> = last.collect();
        match last.as_slice() {
            [leaf, dir] if matches!(dir.as_str(), "el" | "eb") => format!("{dir}/{leaf}"),
            [leaf, ..] => leaf.clone(),
            [] => String::new(),
        }
    };
    let mut names: Vec<String> = tried.iter().map(name).collect();
    names.dedup();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder that is gone afterwards, with files of a byte order.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str, files: &[(&str, Endian)]) -> Folder {
            let dir = std::env::temp_dir().join(format!("orrery-{name}-{}", std::process::id()));
            for (file, endian) in files {
                let path = dir.join(file);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let data = if *endian == Endian::Little { 1 } else { 2 };
                fs::write(path, [0x7f, b'E', b'L', b'F', 2, data, 1]).unwrap();
            }
            Folder(dir)
        }

        fn takes(&self, file: &str, arch: Arch) -> String {
            let found = look(&self.0.join(file), arch).unwrap().1;
            let found = found.map(|p| p.strip_prefix(&self.0).unwrap().display().to_string());
            found.unwrap_or_else(|| read(&self.0, file, arch).unwrap_err().what)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn twins_of_several_conventions_are_found() {
        use Endian::{Big, Little};
        let sets: &[(&str, &[&str], &str)] = &[
            ("x.bpf.o", &["x.el.bpf.o", "x.eb.bpf.o"], "dot"),
            ("x.el.bpf.o", &["x.el.bpf.o", "x.eb.bpf.o"], "named"),
            ("x.bpf.o", &["el/x.bpf.o", "eb/x.bpf.o"], "folders"),
            ("el/x.bpf.o", &["el/x.bpf.o", "eb/x.bpf.o"], "named folder"),
            ("x_bpfel.o", &["x_bpfel.o", "x_bpfeb.o"], "bpf2go"),
            ("x.o", &["x.el.o", "x.eb.o"], "short"),
        ];
        for (file, names, convention) in sets {
            let folder = Folder::new(convention, &[(names[0], Little), (names[1], Big)]);
            let ends = |arch, name: &str| folder.takes(file, arch).ends_with(name);
            assert!(ends(Arch::Arm64, names[0]), "{convention}");
            assert!(ends(Arch::S390x, names[1]), "{convention}");
        }
    }

    #[test]
    fn an_object_of_one_architecture_comes_first() {
        let files = [("x.el.bpf.o", Endian::Little), ("x.arm64.bpf.o", Endian::Little)];
        let folder = Folder::new("one", &files);
        assert_eq!(folder.takes("x.bpf.o", Arch::Arm64), "x.arm64.bpf.o");
        assert_eq!(folder.takes("x.bpf.o", Arch::X86_64), "x.el.bpf.o");
    }

    #[test]
    fn a_lone_object_says_which_architectures_it_is_for() {
        let folder = Folder::new("lone", &[("x.bpf.o", Endian::Little)]);
        assert_eq!(folder.takes("x.bpf.o", Arch::X86_64), "x.bpf.o");
        let e = read(&folder.0, "x.bpf.o", Arch::S390x).unwrap_err();
        assert!(e.what.contains("little-endian object and s390x is big-endian"), "{}", e.what);
        assert!(e.hint.contains("archs: [x86_64, arm64, riscv64]"), "{}", e.hint);
    }
}
