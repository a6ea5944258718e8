//! Objects of a scenario: files with their twin of the other byte order, or assembler text.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bpf::Arch;
use bpf::object::Object as ElfObject;
use kernel_model::ProgId;
use kernel_model::maps::MapId;
use scenarios::Finding;
use scenarios::schema::{Name, Object};
use scenarios::tree::{Kind, Node};

use super::data::Types;
use super::{RunError, packet};
use crate::loader::{self, LoadError, LoadOptions, Refused};
use crate::machine::Machine;

/// A program that was accepted.
#[derive(Debug)]
pub struct LoadedProg {
    /// Name.
    pub name: String,
    /// Kernel id.
    pub id: ProgId,
}

/// A map with what types its contents.
#[derive(Debug)]
pub struct LoadedMap {
    /// Name.
    pub name: String,
    /// Kernel id.
    pub id: MapId,
    /// BTF ids of key and value, 0 when unknown.
    pub key_type: u32,
    /// See `key_type`.
    pub value_type: u32,
}

/// An object of the scenario as it is in the machine.
#[derive(Debug)]
pub struct Loaded {
    /// Name in the scenario.
    pub name: String,
    /// The ELF object, when it came from a file.
    pub elf: Option<ElfObject>,
    /// That file.
    pub file: Option<Arc<[u8]>>,
    /// Folder of that file.
    pub folder: PathBuf,
    /// Accepted programs.
    pub progs: Vec<LoadedProg>,
    /// Rejected programs.
    pub refused: Vec<Refused>,
    /// Maps.
    pub maps: Vec<LoadedMap>,
}

/// Loads one object.
pub(super) fn load(
    machine: &mut Machine,
    dir: &Path,
    name: &Name,
    object: &Object,
) -> Result<Loaded, RunError> {
    let mut loaded = match (&object.file, &object.asm) {
        (Some(file), _) => load_file(machine, dir, name, file, object)?,
        (None, Some(asm)) => load_asm(machine, name, &asm.v, asm.span)?,
        (None, None) => return Err(RunError::input(name.span, "neither file nor asm")),
    };
    loaded.name.clone_from(&name.v);
    for prog in &loaded.progs {
        machine.compile(prog.id)?;
    }
    Ok(loaded)
}

fn load_file(
    machine: &mut Machine,
    dir: &Path,
    name: &Name,
    file: &Name,
    object: &Object,
) -> Result<Loaded, RunError> {
    let endian = machine.arch().endian();
    let bytes = crate::objects::read(dir, &file.v, machine.arch()).map_err(|e| {
        let finding = Finding::error(file.span, e.what);
        RunError::from(if e.hint.is_empty() { finding } else { finding.hint(e.hint) })
    })?;
    let bad = |e: String| RunError::input(file.span, format!("{}: {e}", file.v));
    let elf = ElfObject::parse(&bytes).map_err(|e| bad(e.to_string()))?;
    let opts = options(&elf, object, machine.arch())?;
    // The one of them that the modelled kernel itself has a choice in.
    if opts.kconfig.values.get("CONFIG_QUEUED_SPINLOCKS").is_some_and(|v| v == "n") {
        machine.kernel.locks.queued_spinlocks = false;
    }
    let btf = machine.kernel.vmlinux_btf().clone();
    if let Some(what) = loader::unsupported(&elf, &btf) {
        return Err(RunError::unsupported(file.span, what));
    }
    let done = loader::load(&mut machine.kernel, &btf, endian, &bytes, &opts);
    let done = done.map_err(|e| match e {
        LoadError::Unsupported(what) => RunError::unsupported(name.span, what),
        LoadError::Map { ref map, what: loader::SIZE_OF_0, .. } => {
            let hint = format!("say how many entries: resize: {{\"{map}\": 4096}}");
            Finding::error(file.span, format!("{}: {e}", file.v)).hint(hint).into()
        }
        other => bad(other.to_string()),
    })?;
    let kernel = &machine.kernel;
    let maps = elf.maps().iter().zip(&done.maps).map(|(def, fd)| LoadedMap {
        name: def.name.clone(),
        id: kernel.fd_map(*fd).expect("the loader made it"),
        key_type: def.key_type,
        value_type: def.value_type,
    });
    let maps = maps.collect();
    let progs = done.progs.iter().map(|p| LoadedProg { name: p.name.clone(), id: ProgId(p.id) });
    let progs = progs.collect();
    let folder = dir.join(&file.v).parent().unwrap_or(dir).to_path_buf();
    let file = Some(bytes.into());
    let (name, elf, refused) = (String::new(), Some(elf), done.refused);
    Ok(Loaded { name, elf, file, folder, progs, refused, maps })
}

fn options(elf: &ElfObject, object: &Object, arch: Arch) -> Result<LoadOptions, RunError> {
    let endian = arch.endian();
    let mut opts = LoadOptions { keep_going: true, ..LoadOptions::default() };
    opts.kconfig = kernel_model::kconfig::kconfig(arch);
    for (name, value) in object.globals.iter() {
        let (Some((map, var)), Some(btf)) = (elf.global(&name.v), elf.btf()) else {
            return Err(RunError::input(name.span, format!("no global `{}`", name.v)));
        };
        let data = elf.maps()[map].data.clone().unwrap_or_default();
        let at = var.offset as usize;
        let mut bytes = data.get(at..at + var.size as usize).map_or(Vec::new(), <[u8]>::to_vec);
        bytes.resize(var.size as usize, 0);
        Types { btf, endian }.write(&value.node, var.ty, &mut bytes)?;
        opts.globals.insert(name.v.clone(), bytes);
    }
    for (name, entries) in object.resize.iter() {
        opts.max_entries.insert(name.v.clone(), entries.v);
    }
    for (name, value) in object.kconfig.iter() {
        opts.kconfig.values.insert(name.v.clone(), kconfig(&value.node)?);
    }
    if !object.skip.is_empty() {
        let auto = |p: &&bpf::object::ProgramDef| p.sec.as_ref().is_none_or(|s| s.autoload);
        let keep = elf.programs().iter().filter(auto).map(|p| p.name.clone());
        let keep = keep.filter(|n| !object.skip.iter().any(|s| s.v == *n));
        opts.programs = Some(keep.collect());
    }
    Ok(opts)
}

/// A value as a kernel's configuration file has it: `250`, `y`, `"text"`.
fn kconfig(node: &Node) -> Result<String, RunError> {
    match &node.kind {
        Kind::Int { negative, value } => Ok(format!("{}{value}", if *negative { "-" } else { "" })),
        Kind::Name(n) if matches!(n.as_str(), "y" | "n" | "m") => Ok(n.clone()),
        Kind::Bool(b) => Ok(if *b { "y" } else { "n" }.to_owned()),
        Kind::Str(s) => Ok(format!("\"{s}\"")),
        _ => {
            let message = format!("y, n, m, a number or a text, found {}", node.describe());
            Err(RunError::input(node.span, message))
        }
    }
}

fn load_asm(
    machine: &mut Machine,
    name: &Name,
    text: &str,
    span: scenarios::Span,
) -> Result<Loaded, RunError> {
    let bad = |e: String| RunError::input(span, e);
    let assembly = bpf::insn::asm::assemble(text, &bpf::insn::asm::NoSymbols)
        .map_err(|e| bad(format!("{}:{}: {}", e.line, e.col, e.message)))?;
    if !assembly.maps.is_empty() {
        return Err(RunError::unsupported(name.span, "maps in assembler objects"));
    }
    let (mut progs, mut refused) = (Vec::new(), Vec::new());
    for program in assembly.progs {
        let (title, lines) = (program.name.clone(), program.lines.clone());
        let level = machine.kernel.config.level;
        let opts = verifier::explore::Opts { level, ..Default::default() };
        match machine.kernel.sys_prog_load(program, &[], None, opts) {
            (Some((_, id)), _) => progs.push(LoadedProg { name: title, id }),
            (None, report) => match report.result {
                Err(mut r) => {
                    if r.log.is_empty() {
                        r.log = report.log;
                    }
                    refused.push(Refused { name: title, lines, rejection: r });
                }
                Ok(_) => return Err(RunError::Internal("no memory for a program".into())),
            },
        }
    }
    let (elf, file, maps) = (None, None, Vec::new());
    let folder = PathBuf::new();
    Ok(Loaded { name: String::new(), elf, file, folder, progs, refused, maps })
}

/// Default Ethernet addresses of a nic and of the other end.
pub(super) fn addresses(machine: &Machine, ifindex: u32) -> packet::Defaults {
    let nics = &machine.kernel.net.nics;
    let Some(nic) = nics.get(&ifindex) else { return packet::Defaults::default() };
    let peer = nic.peer.and_then(|p| nics.get(&p)).map(|p| p.config.mac);
    // Without a cable, the far end is a station of its own.
    packet::Defaults { nic: nic.config.mac, peer: peer.unwrap_or([2, 0, 0, 0, 0xff, 1]) }
}
