//! Compiles a `.bpf.c` with clang, for either byte order.
//!
//! ```text
//!  X.bpf.c + carried headers + vmlinux.h of the model ─clang─► object ─► cache, or X.el.bpf.o
//! ```
//!
//! An object is the same bytes wherever the source lies: clang runs in its folder, and paths in
//! the object are relative to it. (clang puts source lines into BTF only where it finds the file
//! under the path that it records, so mapping paths would lose them.)
//! The cache is keyed by what the preprocessor gives, so a change of any included file counts.

mod headers;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use bpf::{Arch, Endian};

/// Compilers to try, best first.
const CLANG: &[&str] = &["clang-19", "clang-20", "clang-21", "clang"];

/// What the caller decides.
#[derive(Clone, Debug)]
pub struct Flags {
    /// Folders searched before the carried headers.
    pub include: Vec<PathBuf>,
    /// Macros, as `NAME` or `NAME=VALUE`.
    pub define: Vec<String>,
    /// Instruction set of BPF: `v1` to `v4`.
    pub cpu: String,
    /// The compiler, instead of the ones that are looked for.
    pub clang: Option<PathBuf>,
}

impl Default for Flags {
    fn default() -> Flags {
        // v3 has 32-bit jumps, which every kernel since 5.1 takes; v4 is asked for by name.
        Flags { include: Vec::new(), define: Vec::new(), cpu: "v3".to_owned(), clang: None }
    }
}

/// Why there is no object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CompileError {
    /// No compiler.
    #[error("{source_file}: no clang was found; looked for {tried}")]
    NoClang {
        /// What was to be compiled.
        source_file: String,
        /// Names that were tried.
        tried: String,
    },
    /// The compiler's own words.
    #[error("{0}")]
    Refused(String),
    /// A file.
    #[error("{0}")]
    Io(String),
}

impl CompileError {
    /// What to do about it.
    #[must_use]
    pub fn next(&self) -> &'static str {
        match self {
            CompileError::NoClang { .. } => {
                "apt-get install clang-19 (Debian, Ubuntu), dnf install clang, or --clang PATH"
            }
            CompileError::Refused(_) => "these are the words of clang; vmlinux.h is the model's",
            CompileError::Io(_) => "",
        }
    }
}

/// An object, and what clang had to say about the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Built {
    /// The ELF file.
    pub bytes: Vec<u8>,
    /// Warnings; empty when there are none, or when the object comes from the cache.
    pub warnings: String,
}

/// `el` or `eb`, as object files are named.
#[must_use]
pub fn tag(endian: Endian) -> &'static str {
    match endian {
        Endian::Little => "el",
        Endian::Big => "eb",
    }
}

/// The architecture that stands for a byte order: its registers and kernel types are meant when
/// none is named.
#[must_use]
pub fn default_arch(endian: Endian) -> Arch {
    match endian {
        Endian::Little => Arch::X86_64,
        Endian::Big => Arch::S390x,
    }
}

/// What `bpf_tracing.h` wants to know (`__TARGET_ARCH_*` of libbpf).
fn target_macro(arch: Arch) -> &'static str {
    match arch {
        Arch::X86_64 => "-D__TARGET_ARCH_x86",
        Arch::Arm64 => "-D__TARGET_ARCH_arm64",
        Arch::Riscv64 => "-D__TARGET_ARCH_riscv",
        Arch::S390x => "-D__TARGET_ARCH_s390",
    }
}

/// Compiles a source file.
///
/// # Errors
/// No clang, or what clang says.
pub fn compile(source: &Path, arch: Arch, flags: &Flags) -> Result<Built, CompileError> {
    let includes = include_dir(arch)?;
    let out = scratch("o");
    let run = clang(source, flags, |command| {
        command.args(["-O2", "-g", "-c", "-fno-stack-protector"]);
        arguments(command, source, arch, flags, &includes);
        command.arg("-o").arg(&out);
    });
    let bytes = run.and_then(|run| {
        let said = words(source, &run);
        if !run.status.success() {
            return Err(CompileError::Refused(said));
        }
        let bytes = fs::read(&out).map_err(|e| io_error(&out, &e))?;
        Ok(Built { bytes, warnings: said })
    });
    // It may never have been written.
    let _absent = fs::remove_file(&out);
    bytes
}

/// As [`compile`], from the cache when the preprocessed source was compiled before.
///
/// # Errors
/// As [`compile`].
pub fn cached(source: &Path, arch: Arch, flags: &Flags) -> Result<Built, CompileError> {
    let includes = include_dir(arch)?;
    let run = clang(source, flags, |command| {
        command.arg("-E");
        arguments(command, source, arch, flags, &includes);
    })?;
    if !run.status.success() {
        return Err(CompileError::Refused(words(source, &run)));
    }
    let key = digest([run.stdout.as_slice(), flags.cpu.as_bytes(), arch.name().as_bytes()]);
    let stem = source.file_stem().and_then(|s| s.to_str()).unwrap_or("x");
    let path = cache_dir().join("objects").join(format!("{stem}-{key}.o"));
    if let Ok(bytes) = fs::read(&path) {
        return Ok(Built { bytes, warnings: String::new() });
    }
    let built = compile(source, arch, flags)?;
    place(&path, &built.bytes)?;
    Ok(built)
}

/// Arguments that decide what the source means.
fn arguments(command: &mut Command, source: &Path, arch: Arch, flags: &Flags, includes: &Path) {
    let target = match arch.endian() {
        Endian::Little => "bpfel",
        Endian::Big => "bpfeb",
    };
    command.args(["-target", target, &format!("-mcpu={}", flags.cpu), target_macro(arch)]);
    command.arg("-fdebug-compilation-dir=.");
    command.arg(format!("-ffile-prefix-map={}/=orrery/", includes.display()));
    if let Some(folder) = source.parent().filter(|p| !p.as_os_str().is_empty()) {
        command.current_dir(folder);
    }
    command.arg(source.file_name().unwrap_or_default());
    for dir in &flags.include {
        command.arg("-I").arg(absolute(dir));
    }
    for define in &flags.define {
        command.arg(format!("-D{define}"));
    }
    command.arg("-I").arg(includes);
}

/// Runs the first compiler there is.
fn clang(
    source: &Path,
    flags: &Flags,
    arguments: impl Fn(&mut Command),
) -> Result<Output, CompileError> {
    // A path is meant from here, a name is looked for.
    let place = |c: &PathBuf| if c.components().count() > 1 { absolute(c) } else { c.clone() };
    let named = flags.clang.as_ref().map(|c| vec![place(c)]);
    let names = named.unwrap_or_else(|| CLANG.iter().map(PathBuf::from).collect());
    for name in &names {
        let mut command = Command::new(name);
        arguments(&mut command);
        match command.output() {
            Ok(output) => return Ok(output),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(io_error(name, &e)),
        }
    }
    let tried: Vec<String> = names.iter().map(|n| n.display().to_string()).collect();
    let source_file = source.display().to_string();
    Err(CompileError::NoClang { source_file, tried: tried.join(", ") })
}

/// Whether a compiler is installed.
#[must_use]
pub fn available() -> bool {
    let works = |name: &str| Command::new(name).arg("--version").output().is_ok();
    CLANG.iter().any(|name| works(name))
}

/// Where objects and headers are kept: nothing there is needed, all of it is made again.
fn cache_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let below = || var("HOME").map(|home| home.join(".cache"));
    let base = var("XDG_CACHE_HOME").or_else(below).unwrap_or_else(std::env::temp_dir);
    absolute(&var("ORRERY_CACHE").unwrap_or_else(|| base.join("orrery")))
}

/// From the root, because clang runs in another folder.
fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

/// What clang said, with the source under the path that was given.
fn words(source: &Path, run: &Output) -> String {
    let leaf = source.file_name().unwrap_or_default().to_string_lossy();
    let (from, to) = (format!("{leaf}:"), format!("{}:", source.display()));
    let said = String::from_utf8_lossy(&run.stderr);
    let line = |l: &str| match l.strip_prefix(&from) {
        Some(rest) => format!("{to}{rest}\n"),
        None => format!("{l}\n"),
    };
    said.lines().map(line).collect()
}

/// A folder with the carried headers and the `vmlinux.h` of an architecture.
fn include_dir(arch: Arch) -> Result<PathBuf, CompileError> {
    let vmlinux = kernel_model::types::Types::of(arch).btf().to_c_header();
    let all = || headers::HEADERS.iter().copied().chain([("vmlinux.h", vmlinux.as_str())]);
    let key = digest(all().flat_map(|(name, text)| [name.as_bytes(), text.as_bytes()]));
    let dir = cache_dir().join("include").join(format!("{}-{key}", arch.name()));
    for (name, text) in all() {
        let path = dir.join(name);
        if !path.exists() {
            place(&path, text.as_bytes())?;
        }
    }
    Ok(dir)
}

/// Writes a file so that a reader sees all of it or nothing.
fn place(path: &Path, bytes: &[u8]) -> Result<(), CompileError> {
    let dir = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(dir).map_err(|e| io_error(dir, &e))?;
    let part = path.with_extension(format!("{}.part", std::process::id()));
    fs::write(&part, bytes).map_err(|e| io_error(&part, &e))?;
    fs::rename(&part, path).map_err(|e| io_error(path, &e))
}

/// A name nobody else has, in the folder for such files.
fn scratch(extension: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("orrery-{}-{n}.{extension}", std::process::id()))
}

fn io_error(path: &Path, e: &io::Error) -> CompileError {
    CompileError::Io(format!("{}: {e}", path.display()))
}

/// Two FNV-1a streams with different offsets: 128 bits, the same on every machine.
fn digest<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut h = [0xcbf2_9ce4_8422_2325u64, 0x6c62_272e_07bb_0142];
    for part in parts {
        for b in part.iter().copied().chain([0xff]) {
            h[0] = (h[0] ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
            h[1] = (h[1] ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3).rotate_left(23);
        }
    }
    format!("{:016x}{:016x}", h[0], h[1])
}
