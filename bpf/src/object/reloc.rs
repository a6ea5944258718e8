//! Relocations of program sections: what each one refers to, found once when parsing.

use std::collections::BTreeMap;

use super::elf::{Elf, Reloc, SymType, rel};
use super::error::ObjectError;
use super::externs::Extern;
use super::jump_tables;
use super::maps::MapDef;
use crate::insn::Slot;

/// Opcode of `ld_imm64`.
pub(super) const LD_IMM64: u8 = 0x18;
/// Opcode of a call.
pub(super) const CALL: u8 = 0x85;

/// What a relocated instruction refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A map by index.
    Map(usize),
    /// A byte of a data section's map; the instruction's immediate is added.
    MapValue(usize, u64),
    /// An instruction of a text section (index into `texts`), byte offset; the immediate counts.
    Text(usize, u64),
    /// An extern by index.
    Extern(usize),
    /// A jump table: byte offset in `.jumptables`, bytes.
    JumpTable(u64, u64),
}

/// What the resolver needs to know about the rest of the object.
pub(super) struct Context<'a> {
    pub(super) elf: &'a Elf<'a>,
    pub(super) maps: &'a [MapDef],
    /// Map of a data section by ELF section index.
    pub(super) data_maps: &'a BTreeMap<usize, usize>,
    /// Index into `texts` by ELF section index.
    pub(super) texts: &'a BTreeMap<usize, usize>,
    pub(super) externs: &'a [Extern],
    pub(super) maps_section: Option<usize>,
}

fn resolve(
    cx: &Context<'_>,
    r: &Reloc,
    insn: Slot,
    error: &dyn Fn(String) -> ObjectError,
) -> Result<Target, ObjectError> {
    let symbol = &cx.elf.symbols[r.sym];
    if r.ty == rel::R_BPF_64_ABS64 || r.ty == rel::R_BPF_64_ABS32 {
        let what = format!("absolute relocation against '{}' in code", symbol.name);
        return Err(error(what).hint("only data sections may have these"));
    }
    if r.ty != rel::R_BPF_64_64 && r.ty != rel::R_BPF_64_32 {
        return Err(error(format!("unknown relocation type {}", r.ty)));
    }
    if insn.code != CALL && insn.code != LD_IMM64 {
        let what = format!("relocation against '{}' on opcode {:#04x}", symbol.name, insn.code);
        return Err(error(what).hint("only calls and 64-bit loads can be relocated"));
    }
    let Some(section) = symbol.section else {
        let found = cx.externs.iter().position(|e| e.symbol == r.sym);
        return found.map(Target::Extern).ok_or_else(|| {
            error(format!("'{}' is undefined", symbol.name))
                .hint("define it, or declare it with __ksym or __kconfig")
        });
    };
    if let Some(text) = cx.texts.get(&section) {
        // A program is called from its own section, without a relocation.
        let name = cx.elf.sections[section].name;
        if name != ".text" {
            let what = format!("'{}' is in section '{name}', not in .text", symbol.name);
            return Err(error(what).hint("drop the SEC() of what is called"));
        }
        return Ok(Target::Text(*text, symbol.value));
    }
    if insn.code == CALL {
        return Err(error(format!("a call to '{}', which is not code", symbol.name)));
    }
    if Some(section) == cx.maps_section {
        let at = |m: &MapDef| m.section == ".maps" && m.sec_off == symbol.value;
        let found = cx.maps.iter().position(at).filter(|_| symbol.ty != SymType::Section);
        return found.map(Target::Map).ok_or_else(|| {
            let hint = "refer to the map itself; a static map cannot be referred to by an offset";
            error(format!("'{}' is not a map", symbol.name)).hint(hint)
        });
    }
    if cx.elf.sections[section].name == jump_tables::SECTION {
        return Ok(Target::JumpTable(symbol.value, symbol.size));
    }
    match cx.data_maps.get(&section) {
        Some(map) => Ok(Target::MapValue(*map, symbol.value)),
        None => {
            let name = cx.elf.sections[section].name;
            Err(error(format!("bad relocation against '{}' in section '{name}'", symbol.name))
                .hint("only maps, globals, functions and externs can be referred to"))
        }
    }
}

/// Targets by slot of one text section.
pub(super) fn targets(
    cx: &Context<'_>,
    section: usize,
    slots: &[Slot],
    func_at: &dyn Fn(u32) -> String,
) -> Result<BTreeMap<u32, Target>, ObjectError> {
    let mut out = BTreeMap::new();
    for r in &cx.elf.sections[section].relocs {
        let slot = r.offset / 8;
        let error = |what: String| {
            let e = ObjectError::new(cx.elf.sections[section].name, what).offset(r.offset);
            e.symbol(&func_at(u32::try_from(slot).unwrap_or(u32::MAX)))
        };
        let Some(insn) = usize::try_from(slot).ok().and_then(|s| slots.get(s)) else {
            return Err(error("relocation past the section's end".into()));
        };
        if r.offset % 8 != 0 {
            return Err(error("relocation not on an instruction".into()));
        }
        out.insert(slot as u32, resolve(cx, r, *insn, &error)?);
    }
    Ok(out)
}
