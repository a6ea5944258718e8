//! `.jumptables` of clang 22: tables of instructions for `gotox`, a map of type `insn_array` for
//! each program that uses one.
//!
//! An entry is the byte offset of an instruction in its section; the map has its index in the
//! program (libbpf 1.7 `create_jt_map`).

use std::collections::BTreeMap;

use super::elf::Elf;
use super::error::ObjectError;
use super::link::Placed;
use super::maps::{MapDef, MapOrigin};
use super::reloc::Target;
use super::{Object, ProgramDef};
use crate::Endian;
use crate::uapi::MapType;

/// The section.
pub(super) const SECTION: &str = ".jumptables";
/// Bytes of an entry of the section.
const ENTRY: u64 = 8;
/// Bytes of a `struct bpf_insn_array_value`: `orig_off` and three words of zero.
const VALUE: u32 = 16;

/// The entries of the section; labels that were left to the linker are added.
pub(super) fn parse(elf: &Elf<'_>) -> Result<Vec<u64>, ObjectError> {
    let Some((_, section)) = elf.section(SECTION) else { return Ok(Vec::new()) };
    if !section.data.len().is_multiple_of(ENTRY as usize) {
        return Err(ObjectError::new(SECTION, "a jump table is not a multiple of 8 bytes"));
    }
    let (words, _) = section.data.as_chunks::<8>();
    let word = |b: &[u8; 8]| match elf.endian {
        Endian::Little => u64::from_le_bytes(*b),
        Endian::Big => u64::from_be_bytes(*b),
    };
    let mut entries: Vec<u64> = words.iter().map(word).collect();
    for r in &section.relocs {
        let at = usize::try_from(r.offset / ENTRY).unwrap_or(usize::MAX);
        if let Some(entry) = entries.get_mut(at) {
            *entry = entry.wrapping_add(elf.symbols[r.sym].value);
        }
    }
    Ok(entries)
}

impl Object {
    /// The maps of the jump tables that the programs use.
    ///
    /// # Errors
    /// A table that is not one.
    pub(super) fn add_jump_tables(&mut self) -> Result<(), ObjectError> {
        if self.jump_tables.is_empty() {
            return Ok(());
        }
        for prog in self.programs.clone() {
            // What cannot be laid out says so when it is linked.
            let Ok(placed) = self.layout(&prog) else { continue };
            for p in placed {
                self.add_tables_of(&prog, p)?;
            }
        }
        Ok(())
    }

    /// The tables that one function of a program refers to.
    fn add_tables_of(&mut self, prog: &ProgramDef, p: Placed) -> Result<(), ObjectError> {
        let f = &self.functions[p.func];
        let relocs = self.texts[f.text].relocs.range(f.start..f.start + f.len);
        let tables: BTreeMap<u64, u64> = relocs
            .filter_map(|(_, t)| match t {
                Target::JumpTable(off, size) => Some((*off, *size)),
                _ => None,
            })
            .collect();
        for (off, size) in tables {
            if self.jump_table_maps.contains_key(&(prog.func, off)) {
                continue;
            }
            let map = self.jump_table(p, off, size)?;
            self.jump_table_maps.insert((prog.func, off), self.maps.len());
            self.maps.push(map);
        }
        Ok(())
    }

    fn jump_table(&self, p: Placed, off: u64, size: u64) -> Result<MapDef, ObjectError> {
        let f = &self.functions[p.func];
        let error = |what: &str| {
            ObjectError::new(SECTION, what).offset(off).hint("compile with clang 22 or newer")
        };
        if !off.is_multiple_of(ENTRY) || !size.is_multiple_of(ENTRY) || size == 0 {
            return Err(error("a jump table is not a whole number of entries"));
        }
        let (from, n) = (off / ENTRY, size / ENTRY);
        let entries = usize::try_from(from).ok().zip(usize::try_from(from + n).ok());
        let entries = entries.and_then(|(a, b)| self.jump_tables.get(a..b));
        let entries = entries.ok_or_else(|| error("a jump table reaches past the section"))?;
        let mut data = Vec::new();
        for entry in entries {
            // Whether it is in the function that uses it is for the kernel to say.
            let at = (entry / ENTRY).wrapping_sub(f.start.into()).wrapping_add(p.at.into());
            let at = u32::try_from(at).map_err(|_| error("an entry is before the function"))?;
            data.extend(match self.endian {
                Endian::Little => at.to_le_bytes(),
                Endian::Big => at.to_be_bytes(),
            });
            data.extend([0; VALUE as usize - 4]);
        }
        let max_entries = u32::try_from(n).map_err(|_| error("a jump table is too long"))?;
        Ok(MapDef {
            map_type: MapType::InsnArray,
            key_size: 4,
            value_size: VALUE,
            max_entries,
            data: Some(data),
            ..MapDef::new(SECTION, SECTION, MapOrigin::JumpTable)
        })
    }
}
