//! `orrery build X.bpf.c...`: objects of both byte orders, X.el.bpf.o and X.eb.bpf.o.

use std::fs;
use std::path::{Path, PathBuf};

use bpf::object::Object;
use bpf::{Arch, Endian};

use super::{Exit, arch, gravest, out};
use crate::compile::{self, Flags};

/// Arguments.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// C sources
    #[arg(required = true, value_name = "X.bpf.c")]
    sources: Vec<PathBuf>,
    /// Folder of the objects; by default each goes beside its source
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Also an object for this architecture alone, X.ARCH.bpf.o, with its registers and its kernel
    /// types; may be repeated
    #[arg(long, value_parser = arch)]
    arch: Vec<Arch>,
    /// A folder of headers, searched before the carried ones; may be repeated
    #[arg(short = 'I', long, value_name = "DIR")]
    include: Vec<PathBuf>,
    /// A macro; may be repeated
    #[arg(short = 'D', long, value_name = "NAME[=VALUE]")]
    define: Vec<String>,
    /// Instruction set: v1, v2, v3 or v4
    #[arg(long, value_name = "SET", default_value = "v3")]
    cpu: String,
    /// The compiler, instead of the one that is found
    #[arg(long, value_name = "PATH")]
    clang: Option<PathBuf>,
    /// One JSON object for each object file
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args) -> Exit {
    gravest(args.sources.iter().map(|s| source(args, s)))
}

/// All objects of one source.
fn source(args: &Args, source: &Path) -> Exit {
    let shown = source.display();
    let leaf = source.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let Some(stem) = leaf.strip_suffix(".bpf.c").or(leaf.strip_suffix(".c")) else {
        out::error(&format!("{shown}: not a C file"), "give the path of a .bpf.c file");
        return Exit::BadInput;
    };
    if let Err(e) = fs::metadata(source) {
        out::error(&format!("{shown}: {e}"), "give the path of a .bpf.c file");
        return Exit::BadInput;
    }
    let dir = args.out.clone().or_else(|| source.parent().map(Path::to_path_buf));
    let dir = dir.unwrap_or_default();
    let orders = [Endian::Little, Endian::Big];
    let pair = orders.map(|e| (compile::tag(e), compile::default_arch(e)));
    let more = args.arch.iter().map(|a| (a.name(), *a));
    let mut warned = String::new();
    for (tag, arch) in pair.into_iter().chain(more) {
        let path = dir.join(format!("{stem}.{tag}.bpf.o"));
        if let Err(exit) = object(args, source, arch, &path, &mut warned) {
            return exit;
        }
    }
    Exit::Ok
}

/// One object: compiled, read back as the loader would, written.
fn object(
    args: &Args,
    source: &Path,
    arch: Arch,
    path: &Path,
    warned: &mut String,
) -> Result<(), Exit> {
    let flags = Flags {
        include: args.include.clone(),
        define: args.define.clone(),
        cpu: args.cpu.clone(),
        clang: args.clang.clone(),
    };
    let built = compile::compile(source, arch, &flags).map_err(|e| {
        out::error(e.to_string().trim_end(), e.next());
        Exit::BadInput
    })?;
    // The two byte orders warn of the same lines.
    if *warned != built.warnings {
        out::warn(&built.warnings);
        warned.clone_from(&built.warnings);
    }
    let shown = path.display().to_string();
    let parsed = Object::parse(&built.bytes).map_err(|e| {
        out::error(&format!("{shown}: {e}"), "the source compiles, but no loader would take it");
        Exit::BadInput
    })?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let made = folder.map_or(Ok(()), fs::create_dir_all);
    made.and_then(|()| fs::write(path, &built.bytes)).map_err(|e| {
        out::error(&format!("{shown}: {e}"), "name another folder with --out");
        Exit::BadInput
    })?;
    let (progs, maps) = (parsed.programs().len(), parsed.maps().len());
    if args.json {
        let line = serde_json::json!({
            "source": source.display().to_string(), "object": shown, "arch": arch.name(),
            "programs": progs, "maps": maps, "bytes": built.bytes.len(),
        });
        out::line(&line.to_string());
    } else {
        out::line(&format!("{shown}: {progs} programs, {maps} maps, {} bytes", built.bytes.len()));
    }
    Ok(())
}
