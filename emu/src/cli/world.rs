//! An object opened beside a kernel: what `verify`, `inspect` and `jit` have in common.
//!
//! The maps are created in the modelled kernel by the loader. Where it cannot (a map type that is
//! not modelled, an object that is not meant to be loaded as a whole), the verifier is given the
//! object's own definitions: a program is judged all the same.

use std::path::Path;

use bpf::object::{Kconfig, LinkEnv, MapDef, MapOrigin, Object, ObjectError, ProgramDef};
use bpf::uapi::MapType;
use bpf::{Arch, Endian, Program};
use kernel_model::Kernel;
use kernel_model::types::Types;
use verifier::env::{CtxAccess, CtxConv, GuestAddr, KernelEnv, Layout, MapInfo};
use verifier::explore::{Opts, PtrClass};
use verifier::{Options, VerifyReport, verify_report};

use super::{Exit, out};
use crate::loader::{self, LoadOptions};

/// `LINUX_KERNEL_VERSION` of the modelled kernel.
const KERNEL_VERSION: u32 = 0x06_12_00;
/// Descriptors of maps that exist only as definitions; the model's own start far below.
const DEFINED_FD: i32 = 1 << 20;
/// Addresses of such maps: nothing runs, they only have to differ.
const DEFINED_ADDR: u64 = 0xffff_8880_7000_0000;
/// `BPF_F_RDONLY_PROG`.
const RDONLY_PROG: u32 = 0x80;

/// An object and the kernel its programs are verified for.
#[derive(Debug)]
pub(super) struct World {
    /// As parsed.
    pub(super) object: Object,
    /// Architecture whose types and byte order are meant.
    pub(super) arch: Arch,
    env: Env,
    kconfig: Kconfig,
    fds: Vec<i32>,
}

/// Reads and parses an object, or the one that a source or its twin stands for on an architecture;
/// an error has been reported.
pub(super) fn read(path: &Path, arch: Option<Arch>) -> Result<(Vec<u8>, Object), Exit> {
    let name = path.display();
    let is_source = crate::objects::is_source(path);
    let bytes = match arch.or_else(|| is_source.then_some(Arch::X86_64)) {
        Some(arch) => {
            let (dir, leaf) = (path.parent().unwrap_or(Path::new("")), path.file_name());
            let leaf = leaf.unwrap_or_default().to_string_lossy();
            let found = crate::objects::read(dir, &leaf, arch);
            found.map_err(|e| (format!("{name}: {}", e.what), e.hint))
        }
        None => std::fs::read(path).map_err(|e| {
            (format!("{name}: {e}"), "give the path of a BPF object (.bpf.o)".to_owned())
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
        let kconfig = Kconfig { kernel_version: KERNEL_VERSION, ..Kconfig::default() };
        let opts = LoadOptions {
            programs: Some(Vec::new()),
            kconfig: kconfig.clone(),
            ..LoadOptions::default()
        };
        let mut kernel = Kernel::new(config.clone());
        let types = Types::of(arch).btf();
        let loaded = loader::load(&mut kernel, types, object.endian, &bytes, &opts);
        let (env, fds) = match loaded {
            Ok(loaded) => (Env { kernel, defined: Vec::new() }, loaded.maps),
            Err(_) => {
                // A fresh one: the load may have left maps behind.
                let defined: Vec<MapInfo> = defined_maps(&object);
                let fds = (0..defined.len()).map(|i| DEFINED_FD + i as i32).collect();
                (Env { kernel: Kernel::new(config), defined }, fds)
            }
        };
        Ok(World { object, arch, env, kconfig, fds })
    }

    /// Links one program against the types of the modelled kernel.
    pub(super) fn link(&self, def: &ProgramDef) -> Result<Program, ObjectError> {
        let ksyms = std::collections::BTreeMap::<String, u64>::new();
        let target_btf = Types::of(self.arch).btf();
        self.object.link(def, &LinkEnv { target_btf, kconfig: &self.kconfig, ksyms: &ksyms })
    }

    /// Verifies a linked program.
    pub(super) fn verify(&self, program: Program, log_level: u32) -> VerifyReport {
        let options = Options {
            opts: Opts { log_level, ..Opts::default() },
            fd_array: &self.fds,
            prog_btf: self.object.btf(),
            endian: self.object.endian,
        };
        verify_report(program, &self.env, &options)
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

fn defined_maps(object: &Object) -> Vec<MapInfo> {
    object.maps().iter().enumerate().map(|(i, m)| defined_map(i as u32, m)).collect()
}

fn defined_map(index: u32, m: &MapDef) -> MapInfo {
    let addr = DEFINED_ADDR + (u64::from(index) << 24);
    let single = m.map_type == MapType::Array && m.max_entries == 1;
    let frozen = matches!(m.origin, MapOrigin::Rodata | MapOrigin::Kconfig);
    let contents = || {
        let mut data = m.data.clone().unwrap_or_default();
        data.resize(m.value_size as usize, 0);
        data
    };
    MapInfo {
        id: index + 1,
        name: m.name.chars().take(15).collect(),
        map_type: m.map_type,
        key_size: m.key_size,
        value_size: m.value_size,
        max_entries: m.max_entries,
        flags: m.flags,
        map_extra: m.map_extra,
        addr: GuestAddr(addr),
        value_addr: single.then_some(GuestAddr(addr + 0x1000)),
        frozen_value: (frozen && m.flags & RDONLY_PROG != 0).then(contents),
        inner: m.inner.as_ref().map(|inner| Box::new(defined_map(index, inner))),
        value_type_id: m.value_type,
        spin_lock_off: None,
        timer_off: None,
    }
}

/// The modelled kernel, with maps that exist only as definitions.
#[derive(Debug)]
struct Env {
    kernel: Kernel,
    defined: Vec<MapInfo>,
}

impl KernelEnv for Env {
    fn map_by_fd(&self, fd: i32) -> Option<MapInfo> {
        match usize::try_from(fd - DEFINED_FD) {
            Ok(i) => self.defined.get(i).cloned(),
            Err(_) => self.kernel.map_by_fd(fd),
        }
    }

    fn btf(&self) -> Option<&bpf::btf::Btf> {
        KernelEnv::btf(&self.kernel)
    }

    fn nr_cpu_ids(&self) -> u32 {
        self.kernel.nr_cpu_ids()
    }

    fn layout(&self) -> Layout {
        self.kernel.layout()
    }

    fn conv_ctx(&self, access: CtxAccess) -> Option<CtxConv> {
        self.kernel.conv_ctx(access)
    }

    fn conv_sock(&self, class: PtrClass, access: CtxAccess) -> Option<CtxConv> {
        self.kernel.conv_sock(class, access)
    }

    fn has_helper(&self, id: i32) -> bool {
        self.kernel.has_helper(id)
    }

    fn identity(&self) -> u64 {
        self.kernel.identity()
    }
}
