//! The container: an executable with its text where it is in memory.

use super::native;
use bpf::Arch;
use object::build::elf::{Builder, SectionData, SectionId};
use object::elf::{
    ELFOSABI_NONE, ET_EXEC, PF_R, PF_X, PT_LOAD, SHF_ALLOC, SHF_EXECINSTR, SHT_NOTE, SHT_PROGBITS,
    SHT_STRTAB, SHT_SYMTAB, STB_GLOBAL, STB_LOCAL, STT_FUNC,
};

/// Pages of segments: offset and address agree in what is below.
const PAGE: u64 = 0x1000;

/// Bytes of text.
pub(super) struct Text<'a> {
    pub(super) addr: u64,
    pub(super) bytes: &'a [u8],
}

/// A function.
pub(super) struct Symbol {
    pub(super) name: String,
    pub(super) addr: u64,
    pub(super) size: u64,
    pub(super) global: bool,
}

/// What goes into a file.
pub(super) struct Executable<'a> {
    pub(super) arch: Arch,
    pub(super) entry: u64,
    /// In order of address.
    pub(super) text: Vec<Text<'a>>,
    pub(super) symbols: Vec<Symbol>,
    /// Debug information by section name.
    pub(super) sections: Vec<(&'static str, Vec<u8>)>,
}

/// The file's bytes.
pub(super) fn write(exe: &Executable<'_>) -> Vec<u8> {
    let endian = match exe.arch.endian() {
        bpf::Endian::Little => object::Endianness::Little,
        bpf::Endian::Big => object::Endianness::Big,
    };
    let mut b = Builder::new(endian, true);
    b.header.os_abi = ELFOSABI_NONE;
    b.header.e_type = ET_EXEC;
    b.header.e_machine = native::of(exe.arch).machine;
    b.header.e_entry = exe.entry;
    // No flags: RISC-V's would promise floating-point registers.
    b.header.e_phoff = b.file_header_size() as u64;
    let mut texts = Vec::new();
    let headers = 64 + 56 * exe.text.len() as u64;
    let mut offset = headers.next_multiple_of(PAGE);
    for t in &exe.text {
        offset = offset.next_multiple_of(PAGE) + t.addr % PAGE;
        texts.push((t.addr, t.bytes.len() as u64, text(&mut b, t, offset)));
        offset += t.bytes.len() as u64;
    }
    build_id(&mut b, exe);
    for (name, data) in &exe.sections {
        let s = b.sections.add();
        s.name = (*name).into();
        s.sh_type = SHT_PROGBITS;
        s.sh_addralign = 1;
        s.data = SectionData::Data(data.as_slice().into());
    }
    symbols(&mut b, exe, &texts);
    let mut out = Vec::new();
    b.set_section_sizes();
    b.write(&mut out).expect("offsets were laid out in order");
    out
}

fn text<'a>(b: &mut Builder<'a>, t: &Text<'a>, offset: u64) -> SectionId {
    let s = b.sections.add();
    s.name = ".text".into();
    s.sh_type = SHT_PROGBITS;
    s.sh_flags = u64::from(SHF_ALLOC | SHF_EXECINSTR);
    s.sh_addr = t.addr;
    s.sh_offset = offset;
    s.sh_addralign = 1;
    s.data = SectionData::Data(t.bytes.into());
    let id = s.id();
    let segment = b.segments.add();
    segment.p_type = PT_LOAD;
    segment.p_flags = PF_R | PF_X;
    segment.p_offset = offset;
    segment.p_vaddr = t.addr;
    segment.p_paddr = t.addr;
    segment.p_filesz = t.bytes.len() as u64;
    segment.p_memsz = segment.p_filesz;
    segment.p_align = PAGE;
    segment.sections.push(id);
    id
}

fn symbols<'a>(b: &mut Builder<'a>, exe: &'a Executable<'_>, texts: &[(u64, u64, SectionId)]) {
    for s in &exe.symbols {
        let within = |t: &&(u64, u64, SectionId)| (t.0..t.0 + t.1).contains(&s.addr);
        let section = texts.iter().find(within).map(|t| t.2);
        let symbol = b.symbols.add();
        symbol.name = s.name.as_bytes().into();
        symbol.section = section;
        symbol.st_value = s.addr;
        symbol.st_size = s.size;
        symbol.set_st_info(if s.global { STB_GLOBAL } else { STB_LOCAL }, STT_FUNC);
    }
    let tables = [
        (".symtab", SHT_SYMTAB, SectionData::Symbol, 8),
        (".strtab", SHT_STRTAB, SectionData::String, 1),
        (".shstrtab", SHT_STRTAB, SectionData::SectionString, 1),
    ];
    for (name, kind, data, align) in tables {
        let s = b.sections.add();
        s.name = name.into();
        s.sh_type = kind;
        s.sh_addralign = align;
        s.data = data;
    }
}

/// `.note.gnu.build-id` of everything that is in the file.
fn build_id(b: &mut Builder<'_>, exe: &Executable<'_>) {
    let word = |n: u32| match exe.arch.endian() {
        bpf::Endian::Little => n.to_le_bytes(),
        bpf::Endian::Big => n.to_be_bytes(),
    };
    let parts = exe.text.iter().map(|t| t.bytes);
    let parts = parts.chain(exe.sections.iter().map(|s| s.1.as_slice()));
    let addrs: Vec<u8> = exe.text.iter().flat_map(|t| t.addr.to_le_bytes()).collect();
    let hash = fnv(parts.chain([addrs.as_slice()]));
    let mut note = [4, 16, 3].map(word).concat();
    note.extend(b"GNU\0");
    note.extend(hash.to_be_bytes());
    let s = b.sections.add();
    s.name = ".note.gnu.build-id".into();
    s.sh_type = SHT_NOTE;
    s.sh_addralign = 4;
    s.data = SectionData::Note(note.into());
}

/// FNV-1a with 128 bits: an id needs to differ, not to be hard to guess.
fn fnv<'a>(parts: impl Iterator<Item = &'a [u8]>) -> u128 {
    const BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    parts.flatten().fold(BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME))
}
