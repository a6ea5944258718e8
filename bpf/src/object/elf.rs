//! The parts of an ELF file the rest needs: sections with their bytes, symbols, relocations.

use goblin::elf::{header, section_header, sym};

use super::error::ObjectError;
use crate::Endian;

/// `EM_BPF`.
const EM_BPF: u16 = 247;

/// Relocation types of the BPF psABI.
pub(super) mod rel {
    pub(in crate::object) const R_BPF_64_64: u32 = 1;
    pub(in crate::object) const R_BPF_64_ABS64: u32 = 2;
    pub(in crate::object) const R_BPF_64_ABS32: u32 = 3;
    pub(in crate::object) const R_BPF_64_32: u32 = 10;
}

#[derive(Debug)]
pub(super) struct Reloc {
    pub(super) offset: u64,
    pub(super) ty: u32,
    pub(super) sym: usize,
}

#[derive(Debug)]
pub(super) struct Section<'a> {
    pub(super) name: &'a str,
    pub(super) nobits: bool,
    pub(super) exec: bool,
    pub(super) progbits: bool,
    pub(super) size: u64,
    /// Empty for `SHT_NOBITS`.
    pub(super) data: &'a [u8],
    pub(super) relocs: Vec<Reloc>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SymType {
    Section,
    Func,
    Object,
    Other,
}

#[derive(Debug)]
pub(super) struct Symbol<'a> {
    pub(super) name: &'a str,
    pub(super) value: u64,
    pub(super) size: u64,
    pub(super) ty: SymType,
    pub(super) local: bool,
    pub(super) weak: bool,
    pub(super) hidden: bool,
    /// None when undefined.
    pub(super) section: Option<usize>,
}

#[derive(Debug)]
pub(super) struct Elf<'a> {
    pub(super) endian: Endian,
    pub(super) sections: Vec<Section<'a>>,
    pub(super) symbols: Vec<Symbol<'a>>,
}

impl<'a> Elf<'a> {
    pub(super) fn section(&self, name: &str) -> Option<(usize, &Section<'a>)> {
        self.sections.iter().enumerate().find(|(_, s)| s.name == name)
    }
}

fn error(what: impl Into<String>) -> ObjectError {
    ObjectError::new("", what)
}

const BUILD: &str = "build it with `clang -O2 -g -target bpf -c`";

fn check_header(elf: &goblin::elf::Elf<'_>) -> Result<Endian, ObjectError> {
    let h = &elf.header;
    // Compilers older than the number wrote none.
    if h.e_machine != EM_BPF && h.e_machine != header::EM_NONE {
        let what = format!("not a BPF object: its machine is {}, not EM_BPF", h.e_machine);
        return Err(error(what).hint(BUILD));
    }
    if h.e_type != header::ET_REL {
        return Err(error("not a relocatable object (ET_REL)").hint(BUILD));
    }
    if !elf.is_64 {
        return Err(error("a 32-bit ELF file: BPF objects are ELF64").hint(BUILD));
    }
    Ok(if elf.little_endian { Endian::Little } else { Endian::Big })
}

fn section<'a>(
    elf: &goblin::elf::Elf<'a>,
    bytes: &'a [u8],
    index: usize,
) -> Result<Section<'a>, ObjectError> {
    let sh = &elf.section_headers[index];
    let name = elf.shdr_strtab.get_at(sh.sh_name);
    let name = name.ok_or_else(|| error(format!("section {index} has no readable name")))?;
    let nobits = sh.sh_type == section_header::SHT_NOBITS;
    let data = if nobits || sh.sh_type == section_header::SHT_NULL {
        &[][..]
    } else {
        usize::try_from(sh.sh_offset)
            .ok()
            .and_then(|start| bytes.get(start..)?.get(..usize::try_from(sh.sh_size).ok()?))
            .ok_or_else(|| ObjectError::new(name, "reaches past the end of the file"))?
    };
    Ok(Section {
        name,
        nobits,
        exec: sh.sh_flags & u64::from(section_header::SHF_EXECINSTR) != 0,
        progbits: sh.sh_type == section_header::SHT_PROGBITS,
        size: sh.sh_size,
        data,
        relocs: Vec::new(),
    })
}

fn symbol<'a>(
    elf: &goblin::elf::Elf<'a>,
    sections: &[Section<'a>],
    s: &sym::Sym,
) -> Result<Symbol<'a>, ObjectError> {
    // SHN_ABS, SHN_COMMON and the other reserved numbers name no section.
    let section = match s.st_shndx {
        0 => None,
        n if n < sections.len() => Some(n),
        n if n >= section_header::SHN_LORESERVE as usize => None,
        n => return Err(error(format!("a symbol refers to section {n}, which does not exist"))),
    };
    let ty = match s.st_type() {
        sym::STT_SECTION => SymType::Section,
        sym::STT_FUNC => SymType::Func,
        sym::STT_OBJECT => SymType::Object,
        _ => SymType::Other,
    };
    let name = match (ty, section) {
        (SymType::Section, Some(n)) => sections[n].name,
        _ => elf.strtab.get_at(s.st_name).unwrap_or(""),
    };
    Ok(Symbol {
        name,
        value: s.st_value,
        size: s.st_size,
        ty,
        local: s.st_bind() == sym::STB_LOCAL,
        weak: s.st_bind() == sym::STB_WEAK,
        hidden: matches!(s.st_visibility(), sym::STV_HIDDEN | sym::STV_INTERNAL),
        section,
    })
}

/// Reads an ELF file of either byte order.
pub(super) fn parse(bytes: &[u8]) -> Result<Elf<'_>, ObjectError> {
    let elf = goblin::elf::Elf::parse(bytes)
        .map_err(|e| error(format!("not an ELF file: {e}")).hint(BUILD))?;
    let endian = check_header(&elf)?;
    let mut sections = Vec::with_capacity(elf.section_headers.len());
    for i in 0..elf.section_headers.len() {
        sections.push(section(&elf, bytes, i)?);
    }
    let mut symbols = Vec::new();
    for s in elf.syms.iter() {
        symbols.push(symbol(&elf, &sections, &s)?);
    }
    for (index, relocs) in &elf.shdr_relocs {
        let target = elf.section_headers[*index].sh_info as usize;
        if target >= sections.len() {
            return Err(ObjectError::new(sections[*index].name, "relocates no existing section"));
        }
        for r in relocs.iter() {
            if r.r_sym >= symbols.len() {
                let e = ObjectError::new(sections[target].name, "relocation without a symbol");
                return Err(e.offset(r.r_offset));
            }
            let reloc = Reloc { offset: r.r_offset, ty: r.r_type, sym: r.r_sym };
            sections[target].relocs.push(reloc);
        }
    }
    Ok(Elf { endian, sections, symbols })
}
