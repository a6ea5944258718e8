//! Maps of an object: BTF-defined ones and the data sections.
//!
//! A map in `.maps` is a variable of struct type whose members are attributes: numbers travel as
//! the length of an array behind a pointer (`__uint`), types as the pointee (`__type`), initial
//! values as a flexible array (`__array`). Each data section becomes an array of one entry.

use super::elf::{Elf, SymType};
use super::error::ObjectError;
use crate::btf::{Body, Btf, Kind, Linkage, Member, TypeId};
use crate::uapi::MapType;

/// `BPF_F_RDONLY_PROG`.
const RDONLY_PROG: u32 = 1 << 7;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;
/// Data sections larger than this are refused rather than allocated.
const MAX_DATA: u64 = 64 << 20;

/// Where a map comes from, which decides what the loader does with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapOrigin {
    /// Declared in `.maps`.
    Declared,
    /// `.data`, `.data.*`: written by both sides.
    Data,
    /// `.bss`, `.bss.*`: as `.data`, zero.
    Bss,
    /// `.rodata`, `.rodata.*`: to be frozen after it is filled.
    Rodata,
    /// `.kconfig`: filled by [`super::Object::kconfig_contents`], then frozen.
    Kconfig,
    /// A variable of `.struct_ops` or `.struct_ops.link`.
    StructOps,
    /// A table of `.jumptables` for one program: entries to be filled in, then frozen.
    JumpTable,
}

/// An initial entry of a map of maps or of programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InitialSlot {
    /// Index of a map of the object.
    Map(usize),
    /// Name of a program of the object.
    Prog(String),
}

/// A global variable of a data section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalVar {
    /// Name.
    pub name: String,
    /// Type in the object's BTF.
    pub ty: TypeId,
    /// Byte offset in the map's value.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
    /// Visible to other objects and to skeletons.
    pub global: bool,
}

/// What a `.struct_ops` variable says beside its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StructOpsDef {
    /// Type of the variable in the object's BTF, e.g. `struct tcp_congestion_ops`.
    pub ty: TypeId,
    /// Attached by a link rather than by the update (`.struct_ops.link`).
    pub link: bool,
    /// (byte offset of the member, function name).
    pub progs: Vec<(u32, String)>,
}

/// One map of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDef {
    /// Name; of a data section, the section's name.
    pub name: String,
    /// ELF section.
    pub section: String,
    /// Where it comes from.
    pub origin: MapOrigin,
    /// Type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Capacity; 0 where the loader has to choose (perf event array: number of CPUs).
    pub max_entries: u32,
    /// `map_flags`.
    pub flags: u32,
    /// `numa_node`.
    pub numa_node: Option<u32>,
    /// `map_extra`.
    pub map_extra: u64,
    /// `LIBBPF_PIN_BY_NAME`.
    pub pin_by_name: bool,
    /// Key type in the object's BTF, 0 when only the size is given.
    pub key_type: TypeId,
    /// Value type in the object's BTF, 0 when only the size is given.
    pub value_type: TypeId,
    /// Definition of the inner map of a map of maps.
    pub inner: Option<Box<MapDef>>,
    /// Initial entries of a map of maps or programs, by index.
    pub slots: Vec<(u32, InitialSlot)>,
    /// Initial value of a data section (or of an arena's variables).
    pub data: Option<Vec<u8>>,
    /// Variables of a data section.
    pub vars: Vec<GlobalVar>,
    /// Of a `.struct_ops` variable.
    pub struct_ops: Option<StructOpsDef>,
    /// Offset of the variable in its section.
    pub(super) sec_off: u64,
}

impl MapDef {
    pub(super) fn new(name: &str, section: &str, origin: MapOrigin) -> MapDef {
        MapDef {
            name: name.to_owned(),
            section: section.to_owned(),
            origin,
            map_type: MapType::Unspec,
            key_size: 0,
            value_size: 0,
            max_entries: 0,
            flags: 0,
            numa_node: None,
            map_extra: 0,
            pin_by_name: false,
            key_type: 0,
            value_type: 0,
            inner: None,
            slots: Vec::new(),
            data: None,
            vars: Vec::new(),
            struct_ops: None,
            sec_off: 0,
        }
    }

    /// A variable by name.
    #[must_use]
    pub fn var(&self, name: &str) -> Option<&GlobalVar> {
        self.vars.iter().find(|v| v.name == name)
    }
}

struct Attrs<'a> {
    btf: &'a Btf,
    map: &'a str,
}

impl Attrs<'_> {
    fn error(&self, what: impl Into<String>) -> ObjectError {
        ObjectError::new(".maps", what).symbol(self.map)
    }

    /// `get_map_field_int`: the length of the array behind a pointer.
    fn number(&self, field: &str, ty: TypeId) -> Result<u32, ObjectError> {
        if let Body::Ptr(to) = self.btf.body(self.btf.resolve(ty))
            && let Body::Array { nelems, .. } = self.btf.body(self.btf.resolve(*to))
        {
            return Ok(*nelems);
        }
        let what = format!("attribute '{field}' is not a number");
        Err(self.error(what).hint(format!("declare it with __uint({field}, N)")))
    }

    /// `get_map_field_long`: also a one-value enum, for 64 bits.
    fn long(&self, field: &str, ty: TypeId) -> Result<u64, ObjectError> {
        match self.btf.body(self.btf.resolve(ty)) {
            Body::Enum { values, .. } | Body::Enum64 { values, .. } if values.len() == 1 => {
                Ok(values[0].value)
            }
            _ => self.number(field, ty).map(u64::from),
        }
    }

    fn pointee(&self, field: &str, ty: TypeId) -> Result<(TypeId, u32), ObjectError> {
        let Body::Ptr(to) = self.btf.body(self.btf.resolve(ty)) else {
            let what = format!("attribute '{field}' is not a type");
            return Err(self.error(what).hint(format!("declare it with __type({field}, T)")));
        };
        let size = self.btf.size_of(*to);
        let size = size.ok_or_else(|| self.error(format!("the type of '{field}' has no size")))?;
        Ok((*to, size))
    }

    fn set_size(&self, field: &str, old: &mut u32, new: u32) -> Result<(), ObjectError> {
        if *old != 0 && *old != new {
            return Err(self.error(format!("conflicting sizes of '{field}': {old} and {new}")));
        }
        *old = new;
        Ok(())
    }

    /// `values`: prototypes of inner maps or of programs.
    fn values(&self, ty: TypeId, def: &mut MapDef, inner: bool) -> Result<(), ObjectError> {
        let shape = || {
            self.error("attribute 'values' has the wrong shape").hint(
                "declare it with __array(values, struct inner_map) or __array(values, int (void))",
            )
        };
        if inner {
            return Err(self.error("a map inside a map cannot have inner maps itself"));
        }
        let Body::Array { elem, .. } = self.btf.body(self.btf.resolve(ty)) else {
            return Err(shape());
        };
        let Body::Ptr(to) = self.btf.body(self.btf.resolve(*elem)) else { return Err(shape()) };
        let to = self.btf.resolve(*to);
        self.set_size("value", &mut def.value_size, 4)?;
        match self.btf.kind(to) {
            Kind::FuncProto if def.map_type == MapType::ProgArray => {}
            Kind::Struct if matches!(def.map_type, MapType::ArrayOfMaps | MapType::HashOfMaps) => {
                let name = format!("{}.inner", def.name);
                let mut inner = MapDef::new(&name, &def.section, MapOrigin::Declared);
                self.attributes(to, &mut inner, true)?;
                def.inner = Some(Box::new(inner));
            }
            _ => return Err(shape()),
        }
        Ok(())
    }

    // tidy: flat match
    fn attribute(
        &self,
        name: &str,
        ty: TypeId,
        def: &mut MapDef,
        inner: bool,
    ) -> Result<(), ObjectError> {
        match name {
            "type" => {
                let n = self.number(name, ty)?;
                def.map_type = MapType::from_raw(n)
                    .ok_or_else(|| self.error(format!("map type {n} is not known")))?;
            }
            "max_entries" => def.max_entries = self.number(name, ty)?,
            "map_flags" => def.flags = self.number(name, ty)?,
            "numa_node" => def.numa_node = Some(self.number(name, ty)?),
            "map_extra" => def.map_extra = self.long(name, ty)?,
            "key_size" => {
                let n = self.number(name, ty)?;
                self.set_size("key", &mut def.key_size, n)?;
            }
            "value_size" => {
                let n = self.number(name, ty)?;
                self.set_size("value", &mut def.value_size, n)?;
            }
            "key" => {
                let (ty, size) = self.pointee(name, ty)?;
                self.set_size(name, &mut def.key_size, size)?;
                def.key_type = ty;
            }
            "value" => {
                let (ty, size) = self.pointee(name, ty)?;
                self.set_size(name, &mut def.value_size, size)?;
                def.value_type = ty;
            }
            "values" => self.values(ty, def, inner)?,
            "pinning" if inner => return Err(self.error("an inner map cannot be pinned")),
            "pinning" => match self.number(name, ty)? {
                n @ (0 | 1) => def.pin_by_name = n == 1,
                n => return Err(self.error(format!("invalid pinning value {n}"))),
            },
            _ => {
                let what = format!("unknown attribute '{name}'");
                return Err(self.error(what).hint("libbpf 1.5 would refuse it, too"));
            }
        }
        Ok(())
    }

    fn attributes(&self, ty: TypeId, def: &mut MapDef, inner: bool) -> Result<(), ObjectError> {
        // `type` decides how `values` is read, wherever it stands.
        let members: Vec<_> = self.btf.members(ty).collect();
        let (first, rest): (Vec<Member<'_>>, Vec<Member<'_>>) =
            members.into_iter().partition(|m| m.name == "type");
        for m in first.into_iter().chain(rest) {
            self.attribute(m.name, m.ty, def, inner)?;
        }
        if def.map_type == MapType::Unspec {
            return Err(self
                .error("the map has no type")
                .hint("add __uint(type, BPF_MAP_TYPE_...)"));
        }
        if matches!(def.map_type, MapType::ArrayOfMaps | MapType::HashOfMaps) && def.value_size == 0
        {
            def.value_size = 4;
        }
        Ok(())
    }
}

/// Maps of `.maps`, in the order of the section's variables.
pub(super) fn declared(elf: &Elf<'_>, btf: Option<&Btf>) -> Result<Vec<MapDef>, ObjectError> {
    let Some((index, _)) = elf.section(".maps") else { return Ok(Vec::new()) };
    let need = || ObjectError::new(".maps", "BTF is required for maps").hint("compile with -g");
    let btf = btf.ok_or_else(need)?;
    let sec = btf.find(".maps", Kind::Datasec).ok_or_else(need)?;
    let Body::Datasec { vars, .. } = btf.body(sec) else { return Ok(Vec::new()) };
    let mut maps = Vec::new();
    for v in vars {
        let name = btf.name(v.ty);
        let attrs = Attrs { btf, map: name };
        let Body::Var { ty, .. } = btf.body(v.ty) else {
            return Err(attrs.error("not a variable"));
        };
        let ty = btf.resolve(*ty);
        if btf.kind(ty) != Kind::Struct {
            return Err(attrs.error("a map has to be a struct of attributes"));
        }
        let symbol = elf
            .symbols
            .iter()
            .find(|s| s.section == Some(index) && s.name == name && !name.is_empty());
        let Some(symbol) = symbol else { return Err(attrs.error("no ELF symbol for the map")) };
        let mut def = MapDef::new(name, ".maps", MapOrigin::Declared);
        def.sec_off = symbol.value;
        attrs.attributes(ty, &mut def, false)?;
        maps.push(def);
    }
    fill_slots(elf, btf, index, &mut maps)?;
    Ok(maps)
}

/// Initial entries: relocations of `.maps` inside a map's `values`.
fn fill_slots(
    elf: &Elf<'_>,
    btf: &Btf,
    section: usize,
    maps: &mut [MapDef],
) -> Result<(), ObjectError> {
    for r in &elf.sections[section].relocs {
        let error = |what: &str| ObjectError::new(".maps", what).offset(r.offset);
        let symbol = &elf.symbols[r.sym];
        let owner = maps.iter().enumerate().filter(|(_, m)| m.sec_off <= r.offset);
        let Some((owner, _)) = owner.max_by_key(|(_, m)| m.sec_off) else {
            return Err(error("a relocation outside every map"));
        };
        let ty = btf.find(&maps[owner].name, Kind::Var);
        let values = ty.and_then(|t| btf.body(t).target()).and_then(|t| btf.member(t, "values"));
        let start = values.map(|m| u64::from(m.byte_off()) + maps[owner].sec_off);
        let Some(start) = start.filter(|s| *s <= r.offset) else {
            return Err(error("a relocation outside 'values'").symbol(&maps[owner].name));
        };
        let index = u32::try_from((r.offset - start) / 8).unwrap_or(u32::MAX);
        let slot = if maps[owner].map_type == MapType::ProgArray {
            InitialSlot::Prog(symbol.name.to_owned())
        } else {
            let inner = maps
                .iter()
                .position(|m| symbol.section == Some(section) && m.sec_off == symbol.value);
            match inner {
                Some(i) => InitialSlot::Map(i),
                None => {
                    let what = format!("'{}' is not a map", symbol.name);
                    return Err(error(&what).symbol(&maps[owner].name));
                }
            }
        };
        maps[owner].slots.push((index, slot));
    }
    Ok(())
}

fn data_origin(name: &str, nobits: bool) -> Option<MapOrigin> {
    let is =
        |base: &str| name == base || name.strip_prefix(base).is_some_and(|r| r.starts_with('.'));
    match () {
        () if is(".data") => Some(MapOrigin::Data),
        () if is(".rodata") => Some(MapOrigin::Rodata),
        () if is(".bss") && nobits => Some(MapOrigin::Bss),
        () => None,
    }
}

/// Variables of a data section: types from the DATASEC, places from the symbols.
fn variables(elf: &Elf<'_>, index: usize, btf: Option<&Btf>) -> Vec<GlobalVar> {
    let section = elf.sections[index].name;
    let Some(btf) = btf else { return Vec::new() };
    let Some(sec) = btf.find(section, Kind::Datasec) else { return Vec::new() };
    let Body::Datasec { vars, .. } = btf.body(sec) else { return Vec::new() };
    vars.iter()
        .filter_map(|v| match btf.body(v.ty) {
            Body::Var { ty, linkage } => Some(GlobalVar {
                name: btf.name(v.ty).to_owned(),
                ty: *ty,
                offset: v.offset,
                size: v.size,
                global: *linkage != Linkage::Static,
            }),
            _ => None,
        })
        .collect()
}

fn data_bytes(elf: &Elf<'_>, index: usize) -> Result<Vec<u8>, ObjectError> {
    let s = &elf.sections[index];
    if s.size > MAX_DATA {
        return Err(ObjectError::new(s.name, format!("{} bytes are too many", s.size)));
    }
    Ok(if s.nobits { vec![0; s.size as usize] } else { s.data.to_vec() })
}

/// `.data*`, `.rodata*`, `.bss*` in section order.
pub(super) fn data_sections(
    elf: &Elf<'_>,
    btf: Option<&Btf>,
) -> Result<Vec<(usize, MapDef)>, ObjectError> {
    let mut maps = Vec::new();
    for (i, s) in elf.sections.iter().enumerate() {
        let Some(origin) = data_origin(s.name, s.nobits) else { continue };
        if s.size == 0 || s.exec || !(s.nobits || s.progbits) {
            continue;
        }
        let mut def = MapDef::new(s.name, s.name, origin);
        def.map_type = MapType::Array;
        def.key_size = 4;
        def.max_entries = 1;
        def.data = Some(data_bytes(elf, i)?);
        def.value_size = s.size as u32;
        def.vars = variables(elf, i, btf);
        if origin == MapOrigin::Rodata {
            def.flags |= RDONLY_PROG;
        }
        if def.vars.iter().any(|v| v.global) {
            def.flags |= MMAPABLE;
        }
        def.value_type = btf.and_then(|b| b.find(s.name, Kind::Datasec)).unwrap_or(0);
        maps.push((i, def));
    }
    Ok(maps)
}

/// The map behind `.kconfig`, of `size` bytes.
pub(super) fn kconfig(size: u32, vars: Vec<GlobalVar>) -> MapDef {
    let mut def = MapDef::new(".kconfig", ".kconfig", MapOrigin::Kconfig);
    def.map_type = MapType::Array;
    def.key_size = 4;
    def.value_size = size;
    def.max_entries = 1;
    def.flags = RDONLY_PROG | MMAPABLE;
    def.data = Some(vec![0; size as usize]);
    def.vars = vars;
    def
}

/// Variables of `.struct_ops` and `.struct_ops.link`.
pub(super) fn struct_ops(elf: &Elf<'_>, btf: Option<&Btf>) -> Result<Vec<MapDef>, ObjectError> {
    let mut maps = Vec::new();
    for (index, s) in elf.sections.iter().enumerate() {
        let link = match s.name.trim_start_matches('?') {
            ".struct_ops" => false,
            ".struct_ops.link" => true,
            _ => continue,
        };
        let need = || ObjectError::new(s.name, "BTF is required").hint("compile with -g");
        let btf = btf.ok_or_else(need)?;
        for v in variables(elf, index, Some(btf)) {
            let bytes = s.data.get(v.offset as usize..).and_then(|d| d.get(..v.size as usize));
            let Some(bytes) = bytes else {
                let e = ObjectError::new(s.name, "the variable reaches past the section");
                return Err(e.symbol(&v.name));
            };
            let mut def = MapDef::new(&v.name, s.name, MapOrigin::StructOps);
            def.map_type = MapType::StructOps;
            def.key_size = 4;
            def.max_entries = 1;
            def.value_size = v.size;
            def.sec_off = u64::from(v.offset);
            def.data = Some(bytes.to_vec());
            let range = u64::from(v.offset)..u64::from(v.offset) + u64::from(v.size);
            let progs = s.relocs.iter().filter(|r| range.contains(&r.offset)).map(|r| {
                let at = (r.offset - range.start) as u32;
                (at, func_name(elf, r.sym, bytes, at))
            });
            def.struct_ops = Some(StructOpsDef { ty: v.ty, link, progs: progs.collect() });
            maps.push(def);
        }
    }
    Ok(maps)
}

/// Name of the function a pointer in data refers to, also by section and addend.
fn func_name(elf: &Elf<'_>, sym: usize, bytes: &[u8], at: u32) -> String {
    let symbol = &elf.symbols[sym];
    if symbol.ty != SymType::Section {
        return symbol.name.to_owned();
    }
    let raw = bytes.get(at as usize..).and_then(|b| b.first_chunk::<8>()).copied();
    let raw = raw.unwrap_or_default();
    let addend = match elf.endian {
        crate::Endian::Little => u64::from_le_bytes(raw),
        crate::Endian::Big => u64::from_be_bytes(raw),
    };
    let found = elf
        .symbols
        .iter()
        .find(|s| s.section == symbol.section && s.ty == SymType::Func && s.value == addend);
    found.map_or(String::new(), |s| s.name.to_owned())
}
