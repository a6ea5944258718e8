//! BPF ELF objects: parsed once, linked per program against a kernel's types.
//!
//! ```text
//!  bytes ──Object::parse──► Object { maps, programs, externs, BTF }
//!  Object::link(program, LinkEnv) = subprograms gathered as libbpf appends them
//!                                 + CO-RE + relocations ──► Program
//! ```
//! Everything follows libbpf 1.5, whose order decides instruction indices. Input is untrusted:
//! every failure is an [`ObjectError`] that names section, symbol, offset and what to do.

mod core_match;
mod core_reloc;
mod elf;
mod error;
mod externs;
mod inspect;
mod jump_tables;
mod line_info;
mod link;
mod maps;
mod poison;
mod reloc;
pub mod sec;

pub use core_reloc::{CoreError, CoreKind, CoreOutcome};
pub use error::ObjectError;
pub use externs::{Extern, ExternKind, Kconfig, Ksyms, essential_name};
pub use inspect::{Inspection, inspect};
pub use line_info::CoreRecord;
pub use link::LinkEnv;
pub use maps::{GlobalVar, InitialSlot, MapDef, MapOrigin, StructOpsDef};

use std::collections::BTreeMap;

use crate::Endian;
use crate::btf::{Body, Btf, Kind, Linkage, SecVar};
use crate::insn::Slot;
use elf::{Elf, SymType};
use line_info::SectionRecords;
use reloc::Target;

/// Instructions of one executable section.
#[derive(Clone, Debug)]
pub(crate) struct Text {
    pub(crate) name: String,
    /// Index of the section in the file.
    index: u32,
    pub(crate) slots: Vec<Slot>,
    relocs: BTreeMap<u32, Target>,
    records: SectionRecords,
}

/// One function of a text section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuncDef {
    /// Symbol name.
    pub name: String,
    /// ELF section.
    pub section: String,
    /// First slot in the section.
    pub start: u32,
    /// Number of slots.
    pub len: u32,
    /// Linkage is global and visible.
    pub global: bool,
    /// Declared static.
    pub local: bool,
    pub(crate) text: usize,
}

/// One program: an entry function in a section whose name gives its type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgramDef {
    /// Symbol name.
    pub name: String,
    /// ELF section.
    pub section: String,
    /// What the section name says; None when it is not one libbpf knows, which makes linking fail.
    pub sec: Option<sec::Sec>,
    /// Its function, an index into [`Object::functions`].
    pub func: usize,
}

/// A parsed object.
#[derive(Clone, Debug)]
pub struct Object {
    /// Byte order.
    pub endian: Endian,
    /// `license` section, empty when there is none.
    pub license: String,
    /// `version` section.
    pub version: Option<u32>,
    btf: Option<Btf>,
    maps: Vec<MapDef>,
    programs: Vec<ProgramDef>,
    functions: Vec<FuncDef>,
    externs: Vec<Extern>,
    texts: Vec<Text>,
    /// Map of a section of data, by the section's index in the file.
    data_maps: BTreeMap<usize, usize>,
    /// Contents of `.jumptables`: byte offsets of instructions in their section.
    jump_tables: Vec<u64>,
    /// Map of a jump table by program (its function) and byte offset of the table.
    jump_table_maps: BTreeMap<(usize, u64), usize>,
}

impl Object {
    /// Parses an ELF object of either byte order.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(bytes: &[u8]) -> Result<Object, ObjectError> {
        let elf = elf::parse(bytes)?;
        let mut btf = parse_btf(&elf)?;
        if let Some(btf) = &mut btf {
            complete_btf(&elf, btf)?;
        }
        let externs = externs::collect(&elf, btf.as_ref())?;
        let (maps, data_maps) = collect_maps(&elf, btf.as_ref(), &externs)?;
        let (mut texts, text_of, functions) = parse_texts(&elf)?;
        if let (Some(btf), Some((_, ext))) = (&btf, elf.section(".BTF.ext")) {
            let mut records = line_info::parse(ext.data, btf)?;
            for t in &mut texts {
                t.records = records.remove(&t.name).unwrap_or_default();
            }
        }
        let cx = reloc::Context {
            elf: &elf,
            maps: &maps,
            data_maps: &data_maps,
            texts: &text_of,
            externs: &externs,
            maps_section: elf.section(".maps").map(|s| s.0),
        };
        for (section, text) in &text_of {
            let func_at = |slot| func_name_at(&functions, *text, slot);
            texts[*text].relocs = reloc::targets(&cx, *section, &texts[*text].slots, &func_at)?;
        }
        let programs = collect_programs(&functions)?;
        let jump_tables = jump_tables::parse(&elf)?;
        let mut object = Object {
            endian: elf.endian,
            license: string_section(&elf, "license"),
            version: version(&elf),
            btf,
            maps,
            programs,
            functions,
            externs,
            texts,
            data_maps,
            jump_tables,
            jump_table_maps: BTreeMap::new(),
        };
        object.add_jump_tables()?;
        Ok(object)
    }

    /// Maps in `fd_array` order: declared ones, data sections, `.kconfig`, struct_ops, and the jump
    /// tables of each program.
    #[must_use]
    pub fn maps(&self) -> &[MapDef] {
        &self.maps
    }

    /// A map by name, with its index.
    #[must_use]
    pub fn map(&self, name: &str) -> Option<(usize, &MapDef)> {
        self.maps.iter().enumerate().find(|(_, m)| m.name == name)
    }

    /// A global variable by name: index of its map, and itself.
    #[must_use]
    pub fn global(&self, name: &str) -> Option<(usize, &GlobalVar)> {
        self.maps.iter().enumerate().find_map(|(i, m)| Some((i, m.var(name)?)))
    }

    /// Programs in symbol order.
    #[must_use]
    pub fn programs(&self) -> &[ProgramDef] {
        &self.programs
    }

    /// A program by name.
    #[must_use]
    pub fn program(&self, name: &str) -> Option<&ProgramDef> {
        self.programs.iter().find(|p| p.name == name)
    }

    /// All functions, entry points included.
    #[must_use]
    pub fn functions(&self) -> &[FuncDef] {
        &self.functions
    }

    /// File and line where a function's source begins, when the object has lines.
    #[must_use]
    pub fn source(&self, f: &FuncDef) -> Option<(&str, u32)> {
        let lines = &self.texts[f.text].records.lines;
        let first = lines.get(lines.partition_point(|l| l.slot < f.start))?;
        let within = first.slot < f.start + f.len;
        Some((self.btf.as_ref()?.str(first.file_off), first.line)).filter(|_| within)
    }

    /// Externs.
    #[must_use]
    pub fn externs(&self) -> &[Extern] {
        &self.externs
    }

    /// The object's BTF, sections completed with offsets and sizes from the ELF symbols.
    #[must_use]
    pub fn btf(&self) -> Option<&Btf> {
        self.btf.as_ref()
    }

    /// Where each instruction of a linked program comes from: index of its section in the file and
    /// byte offset in it. As many as [`Object::link`] makes.
    ///
    /// # Errors
    /// What cannot be resolved.
    pub fn origins(&self, prog: &ProgramDef) -> Result<Vec<(u32, u64)>, ObjectError> {
        let from = |p: &link::Placed| {
            let f = &self.functions[p.func];
            let section = self.texts[f.text].index;
            (f.start..f.start + f.len).map(move |slot| (section, u64::from(slot) * 8))
        };
        Ok(self.layout(prog)?.iter().flat_map(from).collect())
    }

    /// Sections of data by index in the file, with the map that has their contents from its first
    /// byte on: `.data`, `.bss`, `.rodata`, and the arena's variables.
    #[must_use]
    pub fn data_sections(&self) -> Vec<(u32, usize)> {
        let index = |n: &usize| u32::try_from(*n).unwrap_or(u32::MAX);
        self.data_maps.iter().map(|(section, map)| (index(section), *map)).collect()
    }

    /// Contents of the `.kconfig` map under a configuration.
    ///
    /// # Errors
    /// A strong extern without a value, or a value that does not fit its variable.
    pub fn kconfig_contents(&self, kconfig: &Kconfig) -> Result<Vec<u8>, ObjectError> {
        match &self.btf {
            Some(btf) => externs::contents(&self.externs, btf, self.endian, kconfig),
            None => Ok(Vec::new()),
        }
    }
}

fn parse_btf(elf: &Elf<'_>) -> Result<Option<Btf>, ObjectError> {
    let Some((_, section)) = elf.section(".BTF") else { return Ok(None) };
    match Btf::parse_with_endian(section.data) {
        Ok((btf, endian)) if endian == elf.endian => Ok(Some(btf)),
        Ok(_) => Err(ObjectError::new(".BTF", "byte order differs from the ELF file's")),
        Err(e) => Err(ObjectError::new(".BTF", e.to_string())),
    }
}

/// What the compiler leaves to the loader: section sizes, variable offsets, and the static
/// linkage of functions that are global but hidden (`bpf_object_fixup_btf`).
fn complete_btf(elf: &Elf<'_>, btf: &mut Btf) -> Result<(), ObjectError> {
    let hidden: Vec<&str> = elf
        .symbols
        .iter()
        .filter(|s| s.ty == SymType::Func && s.hidden && !s.local)
        .map(|s| s.name)
        .collect();
    for id in btf.ids() {
        let name = btf.name(id).to_owned();
        let body = match btf.body(id) {
            Body::Datasec { vars, .. } => {
                let Some((index, section)) = elf.section(&name) else { continue };
                let mut vars = vars.clone();
                for v in &mut vars {
                    complete_var(elf, btf, index, v)?;
                }
                vars.sort_by_key(|v| v.offset);
                let size = u32::try_from(section.size).unwrap_or(u32::MAX);
                Body::Datasec { size, vars }
            }
            Body::Func { proto, linkage: Linkage::Global } if hidden.contains(&name.as_str()) => {
                Body::Func { proto: *proto, linkage: Linkage::Static }
            }
            _ => continue,
        };
        btf.types[id as usize].body = body;
    }
    Ok(())
}

fn complete_var(
    elf: &Elf<'_>,
    btf: &Btf,
    section: usize,
    var: &mut SecVar,
) -> Result<(), ObjectError> {
    let name = btf.name(var.ty);
    let found = elf
        .symbols
        .iter()
        .find(|s| s.section == Some(section) && s.ty != SymType::Section && s.name == name);
    // Static variables may have lost their symbol; clang has written the offset then.
    if let Some(symbol) = found {
        var.offset = u32::try_from(symbol.value).unwrap_or(u32::MAX);
    }
    let end = u64::from(var.offset) + u64::from(var.size);
    if end > elf.sections[section].size {
        let e = ObjectError::new(elf.sections[section].name, "variable reaches past the section");
        return Err(e.symbol(name).offset(u64::from(var.offset)));
    }
    Ok(())
}

fn collect_maps(
    elf: &Elf<'_>,
    btf: Option<&Btf>,
    externs: &[Extern],
) -> Result<(Vec<MapDef>, BTreeMap<usize, usize>), ObjectError> {
    if elf.section("maps").is_some() {
        return Err(ObjectError::new("maps", "legacy map definitions are not supported")
            .hint("define maps by BTF in SEC(\".maps\")"));
    }
    let mut maps = maps::declared(elf, btf)?;
    let mut by_section = BTreeMap::new();
    for (section, def) in maps::data_sections(elf, btf)? {
        by_section.insert(section, maps.len());
        maps.push(def);
    }
    if let Some((size, vars)) = externs::kconfig_vars(externs) {
        maps.push(maps::kconfig(size, vars));
    }
    maps.extend(maps::struct_ops(elf, btf)?);
    // Variables in the arena's address space become the end of the arena.
    if let Some((index, section)) = elf.section(".addr_space.1") {
        let arena = maps.iter().position(|m| m.map_type == crate::uapi::MapType::Arena);
        let Some(arena) = arena else {
            return Err(ObjectError::new(".addr_space.1", "arena variables without an arena map"));
        };
        maps[arena].data = Some(section.data.to_vec());
        by_section.insert(index, arena);
    }
    Ok((maps, by_section))
}

type Texts = (Vec<Text>, BTreeMap<usize, usize>, Vec<FuncDef>);

fn parse_texts(elf: &Elf<'_>) -> Result<Texts, ObjectError> {
    let (mut texts, mut index, mut functions) = (Vec::new(), BTreeMap::new(), Vec::new());
    for (i, s) in elf.sections.iter().enumerate() {
        if !s.exec || !s.progbits || s.data.is_empty() {
            continue;
        }
        if s.data.len() % 8 != 0 {
            return Err(ObjectError::new(s.name, "code is not a multiple of 8 bytes"));
        }
        let (chunks, _) = s.data.as_chunks::<8>();
        let slots = chunks.iter().map(|b| Slot::from_bytes(*b, elf.endian)).collect();
        index.insert(i, texts.len());
        let (relocs, records) = (BTreeMap::new(), SectionRecords::default());
        let (name, i) = (s.name.to_owned(), u32::try_from(i).unwrap_or(u32::MAX));
        texts.push(Text { name, index: i, slots, relocs, records });
    }
    for s in &elf.symbols {
        let Some(text) = s.section.and_then(|i| index.get(&i)).copied() else { continue };
        if s.ty != SymType::Func {
            continue;
        }
        let section: &Text = &texts[text];
        let error =
            |what: &str| Err(ObjectError::new(&section.name, what).symbol(s.name).offset(s.value));
        if s.value % 8 != 0 || s.size % 8 != 0 || s.size == 0 {
            return error("the function is not a whole number of instructions");
        }
        let (start, len) = (s.value / 8, s.size / 8);
        if start.checked_add(len).is_none_or(|end| end > section.slots.len() as u64) {
            return error("the function reaches past the section's end");
        }
        functions.push(FuncDef {
            name: s.name.to_owned(),
            section: section.name.clone(),
            start: start as u32,
            len: len as u32,
            global: !s.local && !s.hidden,
            local: s.local,
            text,
        });
    }
    functions.sort_by_key(|f| (f.text, f.start));
    functions.dedup_by_key(|f| (f.text, f.start));
    Ok((texts, index, functions))
}

fn func_name_at(functions: &[FuncDef], text: usize, slot: u32) -> String {
    let within = |f: &&FuncDef| f.text == text && (f.start..f.start + f.len).contains(&slot);
    functions.iter().find(within).map_or(String::new(), |f| f.name.clone())
}

/// Entry points: every function outside `.text`.
fn collect_programs(functions: &[FuncDef]) -> Result<Vec<ProgramDef>, ObjectError> {
    let mut out = Vec::new();
    for (func, f) in functions.iter().enumerate().filter(|(_, f)| f.section != ".text") {
        if f.local {
            let e = ObjectError::new(&f.section, "a static function cannot be a program");
            return Err(e.symbol(&f.name).hint("drop its SEC(), or the static"));
        }
        let sec = sec::lookup(&f.section).ok();
        out.push(ProgramDef { name: f.name.clone(), section: f.section.clone(), sec, func });
    }
    Ok(out)
}

fn string_section(elf: &Elf<'_>, name: &str) -> String {
    let data = elf.section(name).map_or(&[][..], |s| s.1.data);
    let text = data.split(|b| *b == 0).next().unwrap_or_default();
    // `BPF_PROG_LOAD` takes 127 characters.
    String::from_utf8_lossy(&text[..text.len().min(127)]).into_owned()
}

fn version(elf: &Elf<'_>) -> Option<u32> {
    let b = elf.section("version")?.1.data.first_chunk::<4>()?;
    Some(match elf.endian {
        Endian::Little => u32::from_le_bytes(*b),
        Endian::Big => u32::from_be_bytes(*b),
    })
}

/// BTF id of a function by name, for declaration tags and prototypes.
pub(crate) fn btf_func(btf: &Btf, name: &str) -> Option<crate::btf::TypeId> {
    btf.find(name, Kind::Func)
}
