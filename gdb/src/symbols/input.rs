//! The object file as clang wrote it, debug information relocated.
//!
//! In an object every section starts at 0. Here section n starts at (n + 1) << 32, so that an
//! address in the debug information says which section it is in.

use std::borrow::Cow;
use std::collections::BTreeMap;

use gimli::{EndianSlice, RunTimeEndian};
use object::read::elf::ElfFile64;
use object::{Endianness, Object as _, ObjectSection as _, ObjectSymbol as _};

/// `R_BPF_64_ABS64`.
const ABS64: u32 = 2;
/// `R_BPF_64_ABS32`.
const ABS32: u32 = 3;

/// How the debug information is read.
pub(super) type Reader<'a> = EndianSlice<'a, RunTimeEndian>;

/// A parsed object.
pub(super) struct Input<'a> {
    endian: RunTimeEndian,
    debug: BTreeMap<String, Vec<u8>>,
    /// Contents of other sections, by index.
    rest: BTreeMap<u32, &'a [u8]>,
    /// Relocated places of a section of code, by index.
    calls: BTreeMap<u32, Vec<u64>>,
}

/// Address of a byte of a section.
pub(super) fn address(section: u32, offset: u64) -> u64 {
    (u64::from(section) + 1) << 32 | offset & u64::from(u32::MAX)
}

/// Section and offset of an address.
pub(super) fn place(address: u64) -> Option<(u32, u64)> {
    let section = u32::try_from(address >> 32).ok()?.checked_sub(1)?;
    Some((section, address & u64::from(u32::MAX)))
}

impl<'a> Input<'a> {
    /// None when the file is no object that we understand.
    pub(super) fn read(bytes: &'a [u8]) -> Option<Input<'a>> {
        let file = ElfFile64::<Endianness>::parse(bytes).ok()?;
        let endian =
            if file.is_little_endian() { RunTimeEndian::Little } else { RunTimeEndian::Big };
        let (mut debug, mut rest, mut calls) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for s in file.sections() {
            let (Ok(name), Ok(data)) = (s.name(), s.data()) else { continue };
            let index = u32::try_from(s.index().0).ok()?;
            if name.starts_with(".debug_") {
                let mut data = data.to_vec();
                relocate(&file, &s, &mut data)?;
                debug.insert(name.to_owned(), data);
                continue;
            }
            rest.insert(index, data);
            calls.insert(index, s.relocations().map(|r| r.0).collect());
        }
        Some(Input { endian, debug, rest, calls })
    }

    /// The debug information; what is not there is empty.
    pub(super) fn dwarf(&self) -> gimli::read::Dwarf<Reader<'_>> {
        let section = |id: gimli::SectionId| {
            let data = self.debug.get(id.name()).map_or(&[][..], Vec::as_slice);
            Ok::<_, gimli::Error>(EndianSlice::new(data, self.endian))
        };
        gimli::read::Dwarf::load(section).expect("loading slices cannot fail")
    }

    /// Sections of the debug information by name.
    pub(super) fn into_debug(self) -> BTreeMap<String, Vec<u8>> {
        self.debug
    }

    pub(super) fn has_dwarf(&self) -> bool {
        self.debug.get(".debug_info").is_some_and(|d| !d.is_empty())
    }

    /// Bytes of code, and which of its instructions are relocated (by byte offset in the section).
    pub(super) fn code(
        &self,
        section: u32,
        from: u64,
        to: u64,
    ) -> Option<(&'a [u8], Cow<'_, [u64]>)> {
        let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
        let data = self.rest.get(&section)?.get(from..to)?;
        let calls = self.calls.get(&section).map_or(&[][..], Vec::as_slice);
        Some((data, Cow::Borrowed(calls)))
    }

    pub(super) fn is_little(&self) -> bool {
        self.endian == RunTimeEndian::Little
    }
}

/// Adds the symbols' addresses to the addends, which are in place.
fn relocate(
    file: &ElfFile64<'_, Endianness>,
    s: &object::read::elf::ElfSection64<'_, '_, Endianness>,
    data: &mut [u8],
) -> Option<()> {
    let little = file.is_little_endian();
    for (at, r) in s.relocations() {
        let object::RelocationFlags::Elf { r_type } = r.flags() else { continue };
        let object::RelocationTarget::Symbol(symbol) = r.target() else { continue };
        let symbol = file.symbol_by_index(symbol).ok()?;
        let at = usize::try_from(at).ok()?;
        let base = match symbol.section_index().and_then(|i| file.section_by_index(i).ok()) {
            Some(s) if s.name().is_ok_and(|n| n.starts_with(".debug_")) => 0,
            Some(s) => address(u32::try_from(s.index().0).ok()?, 0),
            None => 0,
        };
        let value = base + symbol.address();
        match r_type {
            ABS64 => {
                let field: &mut [u8; 8] = data.get_mut(at..at + 8)?.try_into().ok()?;
                let add = |n: u64| n.wrapping_add(value);
                *field = match little {
                    true => add(u64::from_le_bytes(*field)).to_le_bytes(),
                    false => add(u64::from_be_bytes(*field)).to_be_bytes(),
                };
            }
            ABS32 => {
                let field: &mut [u8; 4] = data.get_mut(at..at + 4)?.try_into().ok()?;
                // Offsets in debug sections: their symbols are at 0.
                let add = |n: u32| n.wrapping_add(value as u32);
                *field = match little {
                    true => add(u32::from_le_bytes(*field)).to_le_bytes(),
                    false => add(u32::from_be_bytes(*field)).to_be_bytes(),
                };
            }
            _ => {}
        }
    }
    Some(())
}
