//! Damage to an object that knows its tables: section headers, symbols, relocations, instructions,
//! types. What comes of it is an ELF file still, so that it gets further than damaged bytes do.

use std::ops::Range;

use bpf::insn::generate::Rng;
use goblin::elf::Elf;
use goblin::elf::section_header::{SHT_NOBITS, SHT_REL, SHT_STRTAB, SHT_SYMTAB};

use super::bytes::{self, EDGES, place};

/// Bytes of `Elf64_Shdr`, and its fields' offsets with their sizes.
const SHDR: usize = 64;
const SHDR_FIELDS: &[(usize, usize)] =
    &[(0, 4), (4, 4), (8, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8)];
/// As these, of `Elf64_Sym`.
const SYM: usize = 24;
const SYM_FIELDS: &[(usize, usize)] = &[(0, 4), (4, 1), (5, 1), (6, 2), (8, 8), (16, 8)];
/// As these, of `Elf64_Rel`: offset, type, symbol (in the order of little-endian files).
const REL: usize = 16;
const REL_FIELDS: &[(usize, usize)] = &[(0, 8), (8, 4), (12, 4)];
/// As these, of `struct bpf_insn`.
const INSN: usize = 8;
const INSN_FIELDS: &[(usize, usize)] = &[(0, 1), (1, 1), (2, 2), (4, 4)];
/// As these, of `struct btf_type` and what follows it.
const WORD: usize = 4;
const WORD_FIELDS: &[(usize, usize)] = &[(0, 4), (0, 2), (2, 1), (3, 1)];

/// A table of records of equal size.
#[derive(Clone, Debug)]
struct Table {
    range: Range<usize>,
    entry: usize,
    fields: &'static [(usize, usize)],
}

/// The tables of a file, as far as its headers are right.
fn tables(bytes: &[u8]) -> Option<(bool, Vec<Table>)> {
    let elf = Elf::parse(bytes).ok()?;
    let mut out = Vec::new();
    let mut add = |from: u64, len: u64, entry: usize, fields| {
        let (Ok(from), Ok(len)) = (usize::try_from(from), usize::try_from(len)) else { return };
        let end = from.saturating_add(len).min(bytes.len());
        if len >= entry && from + entry <= end {
            out.push(Table { range: from..end, entry, fields });
        }
    };
    let headers = &elf.section_headers;
    add(elf.header.e_shoff, (headers.len() * SHDR) as u64, SHDR, SHDR_FIELDS);
    for s in headers {
        let name = elf.shdr_strtab.get_at(s.sh_name).unwrap_or_default();
        let (entry, fields) = match s.sh_type {
            SHT_SYMTAB => (SYM, SYM_FIELDS),
            SHT_REL => (REL, REL_FIELDS),
            SHT_NOBITS | SHT_STRTAB => continue,
            _ if name.starts_with(".debug") => continue,
            _ if s.is_executable() => (INSN, INSN_FIELDS),
            _ => (WORD, WORD_FIELDS),
        };
        add(s.sh_offset, s.sh_size, entry, fields);
    }
    Some((elf.little_endian, out))
}

/// One change.
pub fn damage(out: &mut Vec<u8>, rng: &mut Rng) {
    match tables(out) {
        Some((little, tables)) if !tables.is_empty() && !rng.one_in(8) => {
            let table = tables[place(rng, tables.len())].clone();
            change(out, &table, little, rng);
        }
        _ => bytes::damage(out, rng),
    }
}

fn change(out: &mut [u8], t: &Table, little: bool, rng: &mut Rng) {
    let count = t.range.len() / t.entry;
    let entry = |n: usize| t.range.start + n * t.entry;
    let (a, b) = (entry(place(rng, count)), entry(place(rng, count)));
    let (at, size) = rng.pick(t.fields);
    match rng.below(8) {
        // A record becomes another's twin, or both change places.
        0 => out.copy_within(b..b + t.entry, a),
        1 => (0..t.entry).for_each(|n| out.swap(a + n, b + n)),
        // One field of another record.
        2 | 3 => out.copy_within(b + at..b + at + size, a + at),
        // A little more, a little less.
        4 | 5 => {
            let field = &mut out[a + at..a + at + size];
            let least = if little { &mut field[0] } else { &mut field[size - 1] };
            *least = least.wrapping_add(rng.pick(&[1, 2, 8, 0x10, 0x80, 0xf8, 0xff]));
        }
        _ => {
            let edge = u64::from(rng.pick(EDGES));
            let field = &mut out[a + at..a + at + size];
            match little {
                true => field.copy_from_slice(&edge.to_le_bytes()[..size]),
                false => field.copy_from_slice(&edge.to_be_bytes()[8 - size..]),
            }
        }
    }
}
