//! An object opened beside a kernel: what `verify`, `inspect` and `jit` have in common.
//!
//! The maps are created in the modelled kernel by the loader. Where it cannot (a map type that is
//! not modelled, an object that is not meant to be loaded as a whole), the verifier is given the
//! object's own definitions: a program is judged all the same. So it is for a kernel that is known
//! by its BTF alone.

use std::path::Path;
use std::sync::Arc;

use bpf::btf::Btf;
use bpf::object::{Kconfig, LinkEnv, MapDef, MapOrigin, Object, ObjectError, ProgramDef};
use bpf::uapi::{MapType, ProgType};
use bpf::{Arch, Endian, Program};
use kernel_model::Kernel;
use kernel_model::maps::check_btf;
use kernel_model::types::Types;
use verifier::env::{BtfKernel, CtxAccess, CtxConv, GuestAddr, KernelEnv, Layout, MapInfo};
use verifier::explore::{Opts, PtrClass};
use verifier::{CheckReport, Options, VerifyReport, check, verify_report};

use super::beneath::Beneath;
use super::target::{RealKernel, Symbols, Target};
use super::{Exit, out};
use crate::loader::uapi::{attach_target, check_struct_ops, kernel_takes, takes_btf};
use crate::loader::{self, LoadOptions};

/// Descriptors of maps that exist only as definitions; the model's own start far below.
const DEFINED_FD: i32 = 1 << 20;
/// Addresses of such maps: nothing runs, they only have to differ.
const DEFINED_ADDR: u64 = 0xffff_8880_7000_0000;
/// `BPF_F_RDONLY_PROG`.
const RDONLY_PROG: u32 = 0x80;
/// Where the user has arenas mapped that do not say it.
const MAPPED_ARENA: u64 = 0x1000_0000_0000;

/// An object and the kernel its programs are verified for.
#[derive(Debug)]
pub(super) struct World {
    /// As parsed.
    pub(super) object: Object,
    /// Architecture whose types and byte order are meant.
    pub(super) arch: Arch,
    env: Env,
    kconfig: Kconfig,
    ksyms: Symbols,
    fds: Vec<i32>,
    /// The program its programs are attached to.
    pub(super) beneath: Option<Arc<Beneath>>,
    /// Why a loader gives the whole object up.
    refused: Option<ObjectError>,
    /// What the object needs that 6.18 has and the model does not.
    pub(super) lacks: Option<String>,
    /// The kernel takes the object's types.
    typed: bool,
}

/// Reads and parses an object, or the one that a source or its twin stands for on an architecture;
/// an error has been reported.
pub(super) fn read(path: &Path, arch: Option<Arch>) -> Result<(Vec<u8>, Object), Exit> {
    let name = path.display();
    let is_source = crate::objects::is_source(path);
    let stands_for = |arch| {
        let (dir, leaf) = (path.parent().unwrap_or(Path::new("")), path.file_name());
        crate::objects::read(dir, &leaf.unwrap_or_default().to_string_lossy(), arch)
    };
    let bytes = match arch.or_else(|| is_source.then_some(Arch::X86_64)) {
        Some(arch) => stands_for(arch).map_err(|e| (e.what, e.hint)),
        None => std::fs::read(path).or_else(|e| {
            // X.bpf.o, for X.el.bpf.o and X.eb.bpf.o.
            let twin = [Arch::X86_64, Arch::S390x].into_iter().find_map(|a| stands_for(a).ok());
            let next = "give the path of a BPF object (.bpf.o)".to_owned();
            twin.ok_or_else(|| (format!("{name}: {e}"), next))
        }),
    };
    let bytes = bytes.map_err(|(what, next)| {
        out::error(&what, &next);
        Exit::BadInput
    })?;
    let object = Object::parse(&bytes).map_err(|e| {
        let next = "an ELF object made by clang -target bpf is expected; see orrery build";
        out::error(&format!("{name}: {e}"), next);
        Exit::BadInput
    })?;
    Ok((bytes, object))
}

/// The architecture that is meant when none is named.
pub(super) fn default_arch(endian: Endian) -> Arch {
    match endian {
        Endian::Little => Arch::X86_64,
        Endian::Big => Arch::S390x,
    }
}

impl World {
    /// The kernel's types.
    pub(super) fn kernel_btf(&self) -> Option<&Btf> {
        self.env.btf()
    }

    /// Opens an object for an architecture; an error has been reported.
    pub(super) fn open(path: &Path, arch: Option<Arch>) -> Result<World, Exit> {
        let (bytes, object) = read(path, arch)?;
        let arch = arch.unwrap_or_else(|| default_arch(object.endian));
        if arch.endian() != object.endian {
            let what = format!("{}: compiled for the other byte order than {arch}", path.display());
            out::error(&what, "orrery build makes an object for each byte order");
            return Err(Exit::BadInput);
        }
        let config = kernel_model::Config { arch, ..Default::default() };
        let kconfig = kernel_model::kconfig::kconfig(arch);
        let opts = LoadOptions {
            programs: Some(Vec::new()),
            kconfig: kconfig.clone(),
            ..LoadOptions::default()
        };
        let mut kernel = Kernel::new(config.clone());
        let types = Types::of(arch).btf();
        let loaded = loader::load(&mut kernel, types, object.endian, &bytes, &opts);
        let (env, fds) = match loaded {
            Ok(loaded) => (Env::Model { kernel, defined: Vec::new() }, loaded.maps),
            Err(_) => {
                // A fresh one: the load may have left maps behind.
                let defined = defined_maps(&object, &kconfig, config.cpus, types);
                let fds = (0..defined.len()).map(|i| DEFINED_FD + i as i32).collect();
                (Env::Model { kernel: Kernel::new(config), defined }, fds)
            }
        };
        let ksyms = Symbols::default();
        let link = LinkEnv { target_btf: types, kconfig: &kconfig, ksyms: &ksyms };
        let refused = object.check_externs(&link).err();
        let lacks = loader::unsupported(&object, types);
        let (beneath, typed) = (None, true);
        Ok(World { object, arch, env, kconfig, ksyms, fds, beneath, refused, lacks, typed })
    }

    /// Opens an object for a target, the modelled kernel or another; an error has been reported.
    pub(super) fn open_for(
        path: &Path,
        arch: Option<Arch>,
        target: &Target,
    ) -> Result<World, Exit> {
        match &target.real {
            None => World::open(path, arch),
            Some(real) => {
                let (_, object) = read(path, arch)?;
                Ok(World::beside(path, object, arch, real))
            }
        }
    }

    /// An object beside a kernel that is known by its BTF.
    fn beside(path: &Path, object: Object, arch: Option<Arch>, real: &RealKernel) -> World {
        let mut maps = defined_maps(&object, &real.kconfig, real.cpus, &real.btf);
        for (map, def) in maps.iter_mut().zip(object.maps()) {
            map.name = loader::map_name(&loader::object_name(path), def);
        }
        let fds = (0..maps.len()).map(BtfKernel::fd).collect();
        let link = LinkEnv { target_btf: &real.btf, kconfig: &real.kconfig, ksyms: &real.ksyms };
        let kept = object.check_externs(&link);
        let kept = kept.and_then(|()| check_struct_ops(&real.btf, &object));
        World {
            refused: kept.err(),
            lacks: None,
            typed: object.btf().is_some_and(kernel_takes),
            arch: arch.unwrap_or_else(|| default_arch(object.endian)),
            object,
            env: Env::Btf(BtfKernel {
                btf: real.btf.clone(),
                maps,
                cpus: real.cpus,
                symbols: real.ksyms.all(),
            }),
            kconfig: real.kconfig.clone(),
            ksyms: real.ksyms.clone(),
            fds,
            beneath: None,
        }
    }

    /// Links one program against the types of the kernel.
    pub(super) fn link(&self, def: &ProgramDef) -> Result<Program, ObjectError> {
        self.link_to(def, self.types())
    }

    /// Links one program, whatever the kernel lacks of what others of its object need.
    pub(super) fn link_alone(&self, def: &ProgramDef) -> Result<Program, ObjectError> {
        self.linked(def, self.types())
    }

    fn types(&self) -> &Btf {
        match &self.env {
            Env::Model { .. } => Types::of(self.arch).btf(),
            Env::Btf(kernel) => &kernel.btf,
        }
    }

    /// Links one program against types.
    pub(super) fn link_to(
        &self,
        def: &ProgramDef,
        target_btf: &Btf,
    ) -> Result<Program, ObjectError> {
        match &self.refused {
            Some(e) => Err(e.clone()),
            None => self.linked(def, target_btf),
        }
    }

    fn linked(&self, def: &ProgramDef, target_btf: &Btf) -> Result<Program, ObjectError> {
        let env = LinkEnv { target_btf, kconfig: &self.kconfig, ksyms: &self.ksyms };
        let mut program = self.object.link(def, &env)?;
        let error = |what: String| ObjectError::new(&def.section, what).symbol(&def.name);
        let ops = (program.prog_type == ProgType::StructOps)
            .then(|| loader::struct_ops_member(&self.object, &def.name));
        if let Some(found) = &ops {
            let none = || error("no struct_ops variable refers to the program".into());
            let (ty, member) = found.as_ref().ok_or_else(none)?;
            program.attach_to = Some(format!("{ty}/{member}"));
        }
        let ops = ops.as_ref().and_then(Option::as_ref);
        let ops = ops.map(|(ty, member)| (ty.as_str(), member.as_str()));
        if let Env::Btf(kernel) = &self.env
            && self.beneath.is_none()
            && attach_target(&kernel.btf, &program, ops).is_err()
        {
            let to = program.attach_to.as_deref().unwrap_or_default();
            return Err(error(format!("the kernel's BTF has no '{to}' to attach to")));
        }
        if !self.typed {
            program.lines.clear();
            program.funcs.iter_mut().for_each(|f| f.type_id = 0);
        }
        Ok(program)
    }

    /// Verifies a linked program.
    pub(super) fn verify(&self, program: Program, log_level: u32) -> VerifyReport {
        let opts = Opts { log_level, ..Opts::default() };
        let options = self.options(&program, opts);
        verify_report(program.clone(), &self.env, &options)
    }

    /// The verdict on a linked program, without the proof.
    pub(super) fn check(&self, program: &Program, opts: Opts) -> CheckReport {
        check(program, &self.env, &self.options(program, opts))
    }

    /// The kernel that is known by its BTF, and the maps of the object in it.
    pub(super) fn known(&self) -> Option<&BtfKernel> {
        match &self.env {
            Env::Model { .. } => None,
            Env::Btf(kernel) => Some(kernel),
        }
    }

    fn options(&self, program: &Program, opts: Opts) -> Options<'_> {
        Options {
            opts,
            fd_array: &self.fds,
            prog_btf: self.object.btf().filter(|_| self.typed),
            endian: self.object.endian,
            target: self.beneath.as_ref().and_then(|b| b.for_verifier(program)),
        }
    }

    /// Changes the definition of a map of a kernel that is known by its BTF.
    pub(super) fn amend_map(&mut self, index: usize, amend: impl FnOnce(&mut MapInfo)) {
        if let Env::Btf(kernel) = &mut self.env
            && let Some(map) = kernel.maps.get_mut(index)
        {
            amend(map);
        }
    }

    /// Changes the initial value of a data section. What is not frozen says nothing to the
    /// verifier.
    pub(super) fn preset(&mut self, map: usize, at: usize, data: &[u8]) {
        let write = |info: &mut MapInfo| {
            let value = info.frozen_value.as_mut();
            if let Some(place) = value.and_then(|v| v.get_mut(at..at + data.len())) {
                place.copy_from_slice(data);
            }
        };
        match &mut self.env {
            Env::Btf(_) => self.amend_map(map, write),
            Env::Model { kernel, defined } => {
                // The modelled kernel has the map frozen: the definition takes its place.
                if defined.is_empty() {
                    *defined = self.fds.iter().filter_map(|fd| kernel.map_by_fd(*fd)).collect();
                    self.fds = (0..defined.len()).map(|i| DEFINED_FD + i as i32).collect();
                }
                if let Some(info) = defined.get_mut(map) {
                    write(info);
                }
            }
        }
    }

    /// The programs to work on: all, or the one that is named. An error has been reported.
    pub(super) fn programs(
        &self,
        path: &Path,
        name: Option<&str>,
    ) -> Result<Vec<ProgramDef>, Exit> {
        let Some(name) = name else { return Ok(self.object.programs().to_vec()) };
        match self.object.program(name) {
            Some(p) => Ok(vec![p.clone()]),
            None => {
                let known: Vec<&str> =
                    self.object.programs().iter().map(|p| p.name.as_str()).collect();
                let what = format!("{}: no program '{name}'", path.display());
                out::error(&what, &format!("it has: {}", known.join(", ")));
                Err(Exit::BadInput)
            }
        }
    }
}

/// The maps as a loader makes them in a kernel that is known by its types.
fn defined_maps(object: &Object, kconfig: &Kconfig, cpus: u32, kernel: &Btf) -> Vec<MapInfo> {
    let contents = |m: &MapDef| match m.origin {
        MapOrigin::Kconfig => object.kconfig_contents(kconfig).unwrap_or_default(),
        _ => m.data.clone().unwrap_or_default(),
    };
    let define = |(i, m): (usize, &MapDef)| {
        let mut info = defined_map(i as u32, m, &contents(m), (object.btf(), kernel));
        if m.map_type == MapType::PerfEventArray && m.max_entries == 0 {
            info.max_entries = cpus;
        }
        info
    };
    object.maps().iter().enumerate().map(define).collect()
}

/// Capacity of a map. User space sets one that the object leaves open: the least, as veristat
/// does.
pub(super) fn capacity(m: &MapDef) -> u32 {
    let local = [
        MapType::SkStorage,
        MapType::InodeStorage,
        MapType::TaskStorage,
        MapType::CgrpStorage,
        MapType::CgroupStorage,
        MapType::PercpuCgroupStorage,
        MapType::PerfEventArray,
    ];
    if local.contains(&m.map_type) { m.max_entries } else { m.max_entries.max(1) }
}

/// Whether a map is made with the types of its keys and values, or without as libbpf does when the
/// kernel does not take them.
fn is_typed(m: &MapDef, (own, kernel): (Option<&Btf>, &Btf)) -> bool {
    let mut def = kernel_model::maps::MapDef {
        map_type: m.map_type,
        key_size: m.key_size,
        value_size: m.value_size,
        max_entries: capacity(m),
        flags: m.flags,
        key_type_id: m.key_type,
        value_type_id: m.value_type,
        ..Default::default()
    };
    takes_btf(m.map_type) && own.is_some_and(|own| check_btf(&mut def, own, Some(kernel)).is_ok())
}

fn defined_map(index: u32, m: &MapDef, contents: &[u8], types: (Option<&Btf>, &Btf)) -> MapInfo {
    let addr = DEFINED_ADDR + (u64::from(index) << 24);
    let single = m.map_type == MapType::Array && m.max_entries == 1;
    let table = m.origin == MapOrigin::JumpTable;
    let frozen = matches!(m.origin, MapOrigin::Rodata | MapOrigin::Kconfig);
    let single = single || table;
    let filled = || {
        let mut data = contents.to_vec();
        data.resize(m.value_size as usize, 0);
        data
    };
    MapInfo {
        id: index + 1,
        name: m.name.chars().take(15).collect(),
        map_type: m.map_type,
        key_size: m.key_size,
        value_size: m.value_size,
        max_entries: capacity(m),
        flags: m.flags,
        map_extra: match m.map_type {
            // A loader has an arena mapped before it loads programs.
            MapType::Arena if m.map_extra == 0 => MAPPED_ARENA,
            _ => m.map_extra,
        },
        addr: GuestAddr(addr),
        value_addr: single.then_some(GuestAddr(addr + 0x1000)),
        frozen_value: match table {
            true => m.data.clone(),
            false => (frozen && m.flags & RDONLY_PROG != 0).then(filled),
        },
        inner: m.inner.as_ref().map(|inner| Box::new(defined_map(index, inner, &[], types))),
        value_type_id: if is_typed(m, types) { m.value_type } else { 0 },
        spin_lock_off: None,
        timer_off: None,
    }
}

/// The kernel a program is verified for.
#[derive(Debug)]
#[allow(clippy::large_enum_variant, reason = "there is one of them")]
enum Env {
    /// The modelled one, with maps that exist only as definitions.
    Model { kernel: Kernel, defined: Vec<MapInfo> },
    /// One that is known by its BTF.
    Btf(BtfKernel),
}

impl Env {
    fn kernel(&self) -> &dyn KernelEnv {
        match self {
            Env::Model { kernel, .. } => kernel,
            Env::Btf(kernel) => kernel,
        }
    }
}

impl KernelEnv for Env {
    fn map_by_fd(&self, fd: i32) -> Option<MapInfo> {
        match self {
            Env::Model { defined, .. } if fd >= DEFINED_FD => {
                defined.get(usize::try_from(fd - DEFINED_FD).ok()?).cloned()
            }
            env => env.kernel().map_by_fd(fd),
        }
    }

    fn btf(&self) -> Option<&Btf> {
        self.kernel().btf()
    }

    fn symbol(&self, name: &str) -> Option<GuestAddr> {
        self.kernel().symbol(name)
    }

    fn lacks_symbol(&self, name: &str) -> bool {
        self.kernel().lacks_symbol(name)
    }

    fn nr_cpu_ids(&self) -> u32 {
        self.kernel().nr_cpu_ids()
    }

    fn layout(&self) -> Layout {
        self.kernel().layout()
    }

    fn conv_ctx(&self, access: CtxAccess) -> Option<CtxConv> {
        self.kernel().conv_ctx(access)
    }

    fn conv_sock(&self, class: PtrClass, access: CtxAccess) -> Option<CtxConv> {
        self.kernel().conv_sock(class, access)
    }

    fn has_helper(&self, id: i32) -> bool {
        self.kernel().has_helper(id)
    }

    fn identity(&self) -> u64 {
        self.kernel().identity()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_whose_types_the_kernel_does_not_take_has_none() {
        let typed = |object: &[u8], map: &str| {
            let object = Object::parse(object).expect("a BPF object");
            let types = Types::of(Arch::X86_64).btf();
            let maps = defined_maps(&object, &Kconfig::default(), 1, types);
            maps.iter().find(|m| m.name == map).expect("it is there").value_type_id != 0
        };
        // A lock in an LRU hash; a map that is made of an array, whose types nobody asks for.
        assert!(!typed(include_bytes!("../../tests/cli/lru_lock.el.bpf.o"), "flows"));
        assert!(!typed(include_bytes!("../../tests/cli/kinds.el.bpf.o"), "outer"));
        assert!(typed(include_bytes!("../../tests/cli/kinds.el.bpf.o"), "numa"));
        assert!(typed(include_bytes!("../../tests/cli/kinds.el.bpf.o"), ".bss"));
    }
}
