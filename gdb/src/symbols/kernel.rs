//! The modelled kernel's file: its functions by name, and how to unwind from inside them.

use super::elf::{self, Executable, Symbol, Text};
use crate::KernelImage;
use gimli::write::Dwarf;

/// The file's bytes.
pub(super) fn write(image: &KernelImage) -> Vec<u8> {
    let text = image.text.iter().map(|(addr, bytes)| Text { addr: *addr, bytes }).collect();
    let symbol = |s: &crate::KernelSymbol| Symbol {
        name: s.name.clone(),
        addr: s.addr,
        size: s.size,
        global: true,
    };
    let frames = super::frames::of_kernel(image);
    let sections = super::sections(image.arch, &mut Dwarf::new(), &frames);
    elf::write(&Executable {
        arch: image.arch,
        entry: image.entry,
        text,
        symbols: image.symbols.iter().map(symbol).collect(),
        sections: sections.expect("frames are well-formed"),
    })
}
