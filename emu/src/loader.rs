//! Loads an object as libbpf does: a client of the bpf(2) commands, in libbpf's order.
//!
//! ```text
//!  bytes ─► Object ─► maps (inner first, data filled, read-only ones frozen)
//!                 ─► link each program ─► BPF_PROG_LOAD ─► slots of prog arrays and maps of maps
//! ```
//!
//! The loader knows the kernel through [`Bpf`] alone (design invariant 2), so the same code loads
//! into the model and, through the system call, into the kernel of the host.

mod model;
pub(crate) mod uapi;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bpf::btf::{Btf, Kind};
use bpf::insn::{Imm64, Insn};
use bpf::object::{
    ExternKind, InitialSlot, Kconfig, Ksyms, LinkEnv, MapDef, MapOrigin, Object, ObjectError,
    ProgramDef, essential_name,
};
use bpf::uapi::MapType;
use bpf::{Endian, Program};
use kernel_model::Errno;
use verifier::reject::Rejection;

/// A file descriptor of the loading process.
pub type Fd = i32;

/// `BPF_MAP_CREATE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapCreate {
    /// Name, cut to `BPF_OBJ_NAME_LEN - 1` bytes as libbpf does.
    pub name: String,
    /// Type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity.
    pub max_entries: u32,
    /// `map_flags`.
    pub flags: u32,
    /// `numa_node`.
    pub numa_node: Option<u32>,
    /// `map_extra`.
    pub map_extra: u64,
    /// `inner_map_fd`.
    pub inner: Option<Fd>,
    /// Key and value type in the object's BTF; 0 when unknown.
    pub btf_types: (u32, u32),
}

/// `BPF_PROG_LOAD`.
#[derive(Debug)]
pub struct ProgLoad<'a> {
    /// The linked program.
    pub program: Program,
    /// The maps by their index in the object.
    pub fd_array: &'a [Fd],
    /// The object's BTF.
    pub btf: Option<&'a Btf>,
    /// Log level: 0 none, 1 the path to an error, 2 everything, 4 statistics.
    pub log_level: u32,
    /// Of an operation of `struct_ops`: the structure's type and the member.
    pub struct_ops: Option<(String, String)>,
}

/// What `BPF_PROG_LOAD` says.
#[derive(Debug)]
pub struct ProgLoaded {
    /// Descriptor.
    pub fd: Fd,
    /// Kernel id.
    pub id: u32,
    /// Verifier log, by the level asked for.
    pub log: String,
}

/// What the loader says of a map without a size.
pub const SIZE_OF_0: &str = "BPF_MAP_CREATE with a size of 0, which user space has to set";

/// Why a program was not loaded.
#[derive(Debug)]
pub enum ProgRefusal {
    /// By the verifier.
    Rejected(Box<Rejection>),
    /// Otherwise.
    Errno(Errno),
}

/// The commands of bpf(2) that loading needs.
pub trait Bpf {
    /// `BPF_MAP_CREATE`; `btf` is the object's.
    fn map_create(&mut self, map: &MapCreate, btf: Option<&Btf>) -> Result<Fd, Errno>;
    /// `BPF_MAP_UPDATE_ELEM`.
    fn map_update(&mut self, map: Fd, key: &[u8], value: &[u8]) -> Result<(), Errno>;
    /// `BPF_MAP_FREEZE`.
    fn map_freeze(&mut self, map: Fd) -> Result<(), Errno>;
    /// `BPF_PROG_LOAD`.
    fn prog_load(&mut self, load: ProgLoad<'_>) -> Result<ProgLoaded, ProgRefusal>;
    /// Writes to the process's mapping of an arena, at a distance from its start.
    ///
    /// # Errors
    /// `ENOTSUPP` where arenas cannot be mapped.
    fn arena_write(&mut self, _map: Fd, _off: u64, _bytes: &[u8]) -> Result<(), Errno> {
        Err(Errno::ENOTSUPP)
    }
    /// Number of possible CPUs.
    fn cpus(&self) -> u32;
    /// Whether it has maps of type `struct_ops`.
    fn has_struct_ops(&self) -> bool {
        false
    }
}

/// What the caller decides.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Initial bytes of global variables, in the object's byte order.
    pub globals: BTreeMap<String, Vec<u8>>,
    /// Capacity of maps, instead of what the object says.
    pub max_entries: BTreeMap<String, u32>,
    /// Programs to load; all that libbpf would load by itself when `None`.
    pub programs: Option<Vec<String>>,
    /// What none of these programs uses may be missing: kernel symbols, and maps of types that
    /// the kernel does not have.
    pub alone: bool,
    /// The kernel's configuration.
    pub kconfig: Kconfig,
    /// Addresses of kernel symbols without type.
    pub ksyms: BTreeMap<String, u64>,
    /// Name of the object, which libbpf puts before those of data sections.
    pub object: String,
    /// Verifier log level.
    pub log_level: u32,
    /// A program that is refused does not end the load: it is in `LoadedObject::refused`.
    pub keep_going: bool,
}

/// An object could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The file.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Compiled for the other byte order.
    #[error("the object is {0:?}-endian, the machine is not")]
    ByteOrder(Endian),
    /// A map.
    #[error("map '{map}': {what}: {errno}")]
    Map {
        /// Name.
        map: String,
        /// Command.
        what: &'static str,
        /// Answer.
        errno: Errno,
    },
    /// A global variable that is not there, or has another size.
    #[error("global '{name}': {why}")]
    Global {
        /// Name.
        name: String,
        /// Reason.
        why: String,
    },
    /// The verifier said no.
    #[error("program '{program}' rejected: {}", .rejection.message)]
    Rejected {
        /// Name.
        program: String,
        /// Its words.
        rejection: Box<Rejection>,
    },
    /// The kernel said no.
    #[error("program '{program}': {errno}")]
    Program {
        /// Name.
        program: String,
        /// Answer.
        errno: Errno,
    },
    /// A kernel feature that is not modelled.
    #[error("unsupported: {0}")]
    Unsupported(String),
    /// A program that was asked for by name.
    #[error("no program '{0}' in the object")]
    NoProgram(String),
}

/// A loaded program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadedProg {
    /// Symbol name.
    pub name: String,
    /// Descriptor.
    pub fd: Fd,
    /// Kernel id.
    pub id: u32,
    /// Verifier log.
    pub log: String,
}

/// A program that was refused.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Its name.
    pub name: String,
    /// Its source lines.
    pub lines: Vec<bpf::program::Line>,
    /// Why.
    pub rejection: Box<Rejection>,
}

/// A loaded object.
#[derive(Clone, Debug)]
pub struct LoadedObject {
    /// As parsed.
    pub object: Object,
    /// Descriptors of its maps, by index.
    pub maps: Vec<Fd>,
    /// Its programs, in the object's order.
    pub progs: Vec<LoadedProg>,
    /// Programs that were refused, with `LoadOptions::keep_going`.
    pub refused: Vec<Refused>,
}

impl LoadedObject {
    /// Descriptor of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<Fd> {
        self.object.map(name).map(|(i, _)| self.maps[i])
    }

    /// A program by name.
    #[must_use]
    pub fn prog(&self, name: &str) -> Option<&LoadedProg> {
        self.progs.iter().find(|p| p.name == name)
    }
}

/// Loads an object.
pub fn load(
    kernel: &mut dyn Bpf,
    target: &Btf,
    endian: Endian,
    bytes: &[u8],
    opts: &LoadOptions,
) -> Result<LoadedObject, LoadError> {
    let object = Object::parse(bytes)?;
    if object.endian != endian {
        return Err(LoadError::ByteOrder(object.endian));
    }
    check_globals(&object, opts)?;
    let env =
        LinkEnv { target_btf: target, kconfig: &opts.kconfig, ksyms: &opts.ksyms as &dyn Ksyms };
    if !opts.alone {
        object.check_externs(&env)?;
    }
    let link = |def| Ok((def, object.link(def, &env)?));
    let linked: Result<Vec<_>, LoadError> = chosen(&object, opts)?.into_iter().map(link).collect();
    let (linked, mut maps) = (linked?, Vec::new());
    // Who asks for no program asks for the maps.
    let lean = opts.alone && !linked.is_empty();
    let used = lean.then(|| used_maps(&object, linked.iter().map(|(_, p)| p)));
    for (n, def) in object.maps().iter().enumerate() {
        // `?.struct_ops`: made on request only.
        let on_request = def.origin == MapOrigin::StructOps && def.section.starts_with('?');
        let made = match on_request {
            true => Ok(NO_MAP),
            false => create_map(kernel, &object, def, opts),
        };
        maps.push(match made {
            Err(LoadError::Unsupported(_)) if used.as_ref().is_some_and(|u| !u.contains(&n)) => {
                NO_MAP
            }
            made => made?,
        });
    }
    for (def, fd) in object.maps().iter().zip(&maps).filter(|(_, fd)| **fd != NO_MAP) {
        fill_map(kernel, &object, def, *fd, opts)?;
    }
    let (mut progs, mut refused) = (Vec::new(), Vec::new());
    for (def, program) in linked {
        let (btf, log_level) = (object.btf(), opts.log_level);
        let struct_ops = struct_ops_member(&object, &program.name);
        let load = ProgLoad { program, fd_array: &maps, btf, log_level, struct_ops };
        match load_prog(kernel, load) {
            Ok(p) => progs.push(p),
            Err(LoadError::Rejected { program, mut rejection }) if opts.keep_going => {
                let linked = object.link(def, &env)?;
                explain(&object, &linked, &mut rejection);
                refused.push(Refused { name: program, lines: linked.lines, rejection });
            }
            Err(e) => return Err(e),
        }
    }
    let loaded = LoadedObject { object, maps, progs, refused };
    fill_slots(kernel, &loaded)?;
    Ok(loaded)
}

/// The maps that programs name, and those in the slots of these.
fn used_maps<'a>(object: &Object, programs: impl Iterator<Item = &'a Program>) -> BTreeSet<usize> {
    let named = |insn: &Insn| match *insn {
        Insn::LdImm64 { imm: Imm64::MapIdx(n) | Imm64::MapIdxValue { idx: n, .. }, .. } => {
            usize::try_from(n).ok()
        }
        _ => None,
    };
    let mut used: BTreeSet<usize> =
        programs.flat_map(|p| p.insns.iter().filter_map(named)).collect();
    let inner = |n: &usize| object.maps().get(*n).into_iter().flat_map(|m| &m.slots);
    let maps: Vec<usize> = used
        .iter()
        .flat_map(inner)
        .filter_map(|(_, slot)| if let InitialSlot::Map(i) = slot { Some(*i) } else { None })
        .collect();
    used.extend(maps);
    used
}

/// What linking left in place of an instruction that cannot run: calls of functions that no
/// kernel has, with numbers of libbpf's.
fn explain(object: &Object, program: &Program, r: &mut Rejection) {
    let Some(lacks) = r.insn.and_then(|at| object.missing(program, at)) else { return };
    let what = lacks.strip_prefix("kernel ").unwrap_or(&lacks);
    r.message += &format!(": the kernel has no {what}");
    // Registers are a type of their own on each architecture, and named so by libbpf.
    if lacks.contains("pt_regs") {
        r.message += "; `orrery build --arch ARCH` makes an object for its registers";
    }
}

/// Type and member of the first `struct_ops` variable that a function is in.
#[must_use]
pub fn struct_ops_member(object: &Object, prog: &str) -> Option<(String, String)> {
    let btf = object.btf()?;
    object.maps().iter().filter_map(|m| m.struct_ops.as_ref()).find_map(|ops| {
        let (at, _) = ops.progs.iter().find(|p| p.1 == prog)?;
        let ty = btf.resolve(ops.ty);
        let member = btf.members(ty).find(|m| m.bit_off == at * 8)?;
        Some((bpf::object::essential_name(btf.name(ty)).to_owned(), member.name.to_owned()))
    })
}

/// The first kfunc an object needs that 6.18 has and the model does not, as what is unsupported.
#[must_use]
pub fn unsupported(object: &Object, model: &Btf) -> Option<String> {
    let wanted = object.externs().iter().filter(|e| !e.weak);
    let kfuncs = wanted.filter(|e| matches!(e.kind, ExternKind::Function { .. }));
    let known = |n: &&str| verifier::tables::kfunc_names().any(|k| k == *n);
    let mut lacking = kfuncs.map(|e| essential_name(&e.name)).filter(known);
    let name = lacking.find(|n| model.find(n, Kind::Func).is_none())?;
    Some(format!("kfunc {name}"))
}

/// The programs to load, in the object's order.
fn chosen<'a>(object: &'a Object, opts: &LoadOptions) -> Result<Vec<&'a ProgramDef>, LoadError> {
    match &opts.programs {
        None => Ok(object
            .programs()
            .iter()
            .filter(|p| p.sec.as_ref().is_none_or(|s| s.autoload))
            .collect()),
        Some(names) => {
            let find = |n: &String| object.program(n).ok_or(LoadError::NoProgram(n.clone()));
            names.iter().map(find).collect()
        }
    }
}

fn check_globals(object: &Object, opts: &LoadOptions) -> Result<(), LoadError> {
    for (name, bytes) in &opts.globals {
        let error = |why| Err(LoadError::Global { name: name.clone(), why });
        match object.global(name) {
            None => return error("the object has no such variable".to_owned()),
            Some((_, v)) if v.size as usize != bytes.len() => {
                return error(format!("{} bytes given, it has {}", bytes.len(), v.size));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

fn create_map(
    kernel: &mut dyn Bpf,
    object: &Object,
    def: &MapDef,
    opts: &LoadOptions,
) -> Result<Fd, LoadError> {
    if def.origin == MapOrigin::StructOps && !kernel.has_struct_ops() {
        return Err(LoadError::Unsupported(format!("struct_ops map '{}'", def.name)));
    }
    // libbpf makes a throw-away map of the inner definition: only its shape is kept.
    let inner = match &def.inner {
        Some(inner) => Some(create_map(kernel, object, inner, opts)?),
        None => None,
    };
    let mut max_entries = opts.max_entries.get(&def.name).copied().unwrap_or(def.max_entries);
    if def.map_type == MapType::PerfEventArray && max_entries == 0 {
        max_entries = kernel.cpus();
    }
    if matches!(def.map_type, MapType::Ringbuf | MapType::UserRingbuf) && max_entries != 0 {
        // As libbpf: the next power of two of whole pages.
        max_entries =
            max_entries.max(PAGE_BYTES).checked_next_power_of_two().unwrap_or(max_entries);
    }
    let attr = MapCreate {
        name: map_name(&opts.object, def),
        map_type: def.map_type,
        key_size: def.key_size,
        value_size: def.value_size,
        max_entries,
        flags: def.flags,
        numa_node: def.numa_node,
        map_extra: def.map_extra,
        inner,
        btf_types: match &def.struct_ops {
            Some(ops) => (0, ops.ty),
            None => (def.key_type, def.value_type),
        },
    };
    let nested = matches!(def.map_type, MapType::ArrayOfMaps | MapType::HashOfMaps);
    let made = kernel.map_create(&attr, object.btf());
    made.map_err(|errno| match errno {
        Errno::ENOTSUPP => {
            LoadError::Unsupported(format!("map '{}' of type {}", def.name, def.map_type.name()))
        }
        Errno::EINVAL if max_entries == 0 => map_error(def, SIZE_OF_0, errno),
        Errno::EINVAL if nested && inner.is_none() => map_error(
            def,
            "BPF_MAP_CREATE without an inner map, which user space has to set",
            errno,
        ),
        errno => map_error(def, "BPF_MAP_CREATE", errno),
    })
}

/// In place of a map that was not made.
const NO_MAP: Fd = -1;

/// Ring buffers have whole pages.
const PAGE_BYTES: u32 = 4096;

/// The name of a map as the kernel takes it: 15 bytes; that of a data section begins with the
/// object's (`internal_map_name`).
pub(crate) fn map_name(object: &str, def: &MapDef) -> String {
    const MAX: usize = 15; // BPF_OBJ_NAME_LEN - 1
    const SUFFIX: usize = 7; // the longest of .data, .bss, .rodata
    let own_section = def.name.get(1..).is_some_and(|n| n.contains('.'));
    let prefix = match def.origin {
        MapOrigin::Declared | MapOrigin::StructOps | MapOrigin::JumpTable => 0,
        _ if own_section => 0,
        _ => MAX.saturating_sub(SUFFIX.max(def.name.len())),
    };
    let fit = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' };
    object.chars().take(prefix).chain(def.name.chars()).take(MAX).map(fit).collect()
}

/// The name libbpf gives an object by its path.
#[must_use]
pub fn object_name(path: &Path) -> String {
    let file = path.file_name().map(|f| f.to_string_lossy().into_owned()).unwrap_or_default();
    file.split('.').next().unwrap_or_default().to_owned()
}

fn map_error(def: &MapDef, what: &'static str, errno: Errno) -> LoadError {
    LoadError::Map { map: def.name.clone(), what, errno }
}

/// Initial values of a data section.
fn fill_map(
    kernel: &mut dyn Bpf,
    object: &Object,
    def: &MapDef,
    fd: Fd,
    opts: &LoadOptions,
) -> Result<(), LoadError> {
    let mut bytes = match def.origin {
        MapOrigin::Kconfig => object.kconfig_contents(&opts.kconfig)?,
        MapOrigin::Data | MapOrigin::Bss | MapOrigin::Rodata => {
            def.data.clone().unwrap_or_default()
        }
        MapOrigin::JumpTable => return fill_table(kernel, object.endian, def, fd),
        MapOrigin::Declared | MapOrigin::StructOps => return fill_arena(kernel, def, fd),
    };
    bytes.resize(def.value_size as usize, 0);
    for v in &def.vars {
        if let Some(value) = opts.globals.get(&v.name) {
            let at = v.offset as usize;
            bytes[at..at + value.len()].copy_from_slice(value);
        }
    }
    // The key is 0: no byte order to mind. A map of zeroes needs no write.
    if bytes.iter().any(|b| *b != 0) {
        let done = kernel.map_update(fd, &[0; 4], &bytes);
        done.map_err(|errno| map_error(def, "BPF_MAP_UPDATE_ELEM", errno))?;
    }
    if matches!(def.origin, MapOrigin::Rodata | MapOrigin::Kconfig) {
        let done = kernel.map_freeze(fd);
        done.map_err(|errno| map_error(def, "BPF_MAP_FREEZE", errno))?;
    }
    Ok(())
}

/// The entries of a jump table, in the order of their keys.
fn fill_table(kernel: &mut dyn Bpf, endian: Endian, def: &MapDef, fd: Fd) -> Result<(), LoadError> {
    let values = def.data.as_deref().unwrap_or_default();
    for (key, value) in (0u32..).zip(values.chunks(def.value_size as usize)) {
        let key = match endian {
            Endian::Little => key.to_le_bytes(),
            Endian::Big => key.to_be_bytes(),
        };
        let done = kernel.map_update(fd, &key, value);
        done.map_err(|errno| map_error(def, "BPF_MAP_UPDATE_ELEM", errno))?;
    }
    kernel.map_freeze(fd).map_err(|errno| map_error(def, "BPF_MAP_FREEZE", errno))
}

/// Variables in an arena, which begins with them.
fn fill_arena(kernel: &mut dyn Bpf, def: &MapDef, fd: Fd) -> Result<(), LoadError> {
    let Some(data) = def.data.as_ref().filter(|_| def.map_type == MapType::Arena) else {
        return Ok(());
    };
    let done = kernel.arena_write(fd, 0, data);
    done.map_err(|errno| map_error(def, "filling the arena", errno))
}

fn load_prog(kernel: &mut dyn Bpf, load: ProgLoad<'_>) -> Result<LoadedProg, LoadError> {
    let name = load.program.name.clone();
    match kernel.prog_load(load) {
        Ok(p) => Ok(LoadedProg { name, fd: p.fd, id: p.id, log: p.log }),
        Err(ProgRefusal::Rejected(rejection)) => {
            Err(LoadError::Rejected { program: name, rejection })
        }
        Err(ProgRefusal::Errno(errno)) => Err(LoadError::Program { program: name, errno }),
    }
}

/// Initial entries of maps of maps and of program arrays.
fn fill_slots(kernel: &mut dyn Bpf, loaded: &LoadedObject) -> Result<(), LoadError> {
    let endian = loaded.object.endian;
    let word = |v: u32| match endian {
        Endian::Little => v.to_le_bytes(),
        Endian::Big => v.to_be_bytes(),
    };
    let made = |(_, fd): &(&MapDef, &Fd)| **fd != NO_MAP;
    for (def, fd) in loaded.object.maps().iter().zip(&loaded.maps).filter(made) {
        for (index, slot) in &def.slots {
            let value = match slot {
                InitialSlot::Map(i) => Some(loaded.maps[*i]).filter(|fd| *fd != NO_MAP),
                // A program that was not asked for leaves its slot empty.
                InitialSlot::Prog(name) => loaded.prog(name).map(|p| p.fd),
            };
            let Some(value) = value else { continue };
            let done = kernel.map_update(*fd, &word(*index), &word(value.cast_unsigned()));
            done.map_err(|errno| map_error(def, "BPF_MAP_UPDATE_ELEM", errno))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
