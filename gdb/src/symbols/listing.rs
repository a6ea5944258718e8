//! The BPF view: the source is the listing, and the variables of a function are its registers.

use super::native;
use super::ranges::{Held, Locations, Ranges};
use crate::{Image, Listed};
use bpf::Arch;
use gimli::constants as dw;
use gimli::write::{AttributeValue, Dwarf, Expression, LineProgram, LineString, Unit, UnitEntryId};
use gimli::{Encoding, Format, LineEncoding};
use jit::FuncMap;

/// DWARF that is written from nothing.
pub(super) const ENCODING: Encoding =
    Encoding { format: Format::Dwarf32, version: 5, address_size: 8 };

/// A debugger takes the end of the prologue from the line table, on x86-64, of compilers that it
/// knows to keep one: this is what their names begin with.
pub(super) const PRODUCER: &str = "clang version 19 (orrery)";

/// Column of a line at which its comment begins.
const COMMENT: usize = 44;

/// The text of the listing.
pub(super) fn text(image: &Image, states: &[String]) -> String {
    let starts: Vec<(u32, &str)> = starts(image);
    let mut out = String::new();
    for (n, l) in image.listing.iter().enumerate() {
        let func = starts.iter().find(|s| s.0 as usize == n).map(|s| s.1);
        let state = states.get(n).map_or("", String::as_str);
        out.push_str(&line(n, (l, state), func));
        out.push('\n');
    }
    out
}

/// First original instruction of each function.
fn starts(image: &Image) -> Vec<(u32, &str)> {
    let first = |f: &'_ FuncMap| {
        let n = image.debug.insns.partition_point(|r| r.start < f.body);
        image.debug.insns.get(n).map(|r| r.orig.0)
    };
    image.debug.funcs.iter().filter_map(|f| Some((first(f)?, f.name.as_str()))).collect()
}

fn line(n: usize, (l, state): (&Listed, &str), func: Option<&str>) -> String {
    if l.text.is_empty() {
        return String::new();
    }
    let code = format!("{n:5}: {}", l.text);
    let place = l.line.as_ref().map(|(file, line)| format!("{file}:{line}"));
    let notes = [func.map(|f| format!("<{f}>")), Some(state.to_owned()), place];
    let notes: Vec<String> = notes.into_iter().flatten().filter(|s| !s.is_empty()).collect();
    if notes.is_empty() { code } else { format!("{code:COMMENT$} ; {}", notes.join("   ")) }
}

/// Writes the unit.
pub(super) fn describe(image: &Image, states: &[String], dwarf: &mut Dwarf) {
    let ranges = Ranges::new(image);
    let name = super::listing_name(image);
    let mut unit = Unit::new(ENCODING, lines(&ranges, &name));
    let u64_type = base(&mut unit, "u64", 8, dw::DW_ATE_unsigned);
    root(&mut unit, image, (super::FOLDER, &name));
    for f in &image.debug.funcs {
        let func = function(&mut unit, &ranges, f);
        for reg in 0..11 {
            let at = location(&mut unit, &ranges, (f, states), reg);
            variable(&mut unit, (func, at), reg, u64_type);
        }
    }
    dwarf.units.add(unit);
}

/// Attributes of a unit that we make up.
pub(super) fn root(unit: &mut Unit, image: &Image, (folder, name): (&str, &str)) {
    let end = image.debug.funcs.last().map_or(0, |f| f.end.0);
    let id = unit.root();
    let root = unit.get_mut(id);
    root.set(dw::DW_AT_producer, AttributeValue::String(PRODUCER.into()));
    root.set(dw::DW_AT_language, AttributeValue::Language(dw::DW_LANG_C99));
    root.set(dw::DW_AT_name, AttributeValue::String(name.into()));
    root.set(dw::DW_AT_comp_dir, AttributeValue::String(folder.into()));
    let low = gimli::write::Address::Constant(image.base);
    root.set(dw::DW_AT_low_pc, AttributeValue::Address(low));
    root.set(dw::DW_AT_high_pc, AttributeValue::Udata(u64::from(end)));
    root.set(dw::DW_AT_stmt_list, AttributeValue::LineProgramRef);
}

/// A base type.
pub(super) fn base(unit: &mut Unit, name: &str, bytes: u8, encoding: gimli::DwAte) -> UnitEntryId {
    let id = unit.add(unit.root(), dw::DW_TAG_base_type);
    let ty = unit.get_mut(id);
    ty.set(dw::DW_AT_name, AttributeValue::String(name.into()));
    ty.set(dw::DW_AT_byte_size, AttributeValue::Data1(bytes));
    ty.set(dw::DW_AT_encoding, AttributeValue::Encoding(encoding));
    id
}

/// A function without what is in it.
pub(super) fn function(unit: &mut Unit, ranges: &Ranges<'_>, f: &FuncMap) -> UnitEntryId {
    let id = unit.add(unit.root(), dw::DW_TAG_subprogram);
    let func = unit.get_mut(id);
    func.set(dw::DW_AT_name, AttributeValue::String(f.name.as_str().into()));
    func.set(dw::DW_AT_low_pc, AttributeValue::Address(ranges.address(f.start.0)));
    func.set(dw::DW_AT_high_pc, AttributeValue::Udata(u64::from(f.end.0 - f.start.0)));
    func.set(dw::DW_AT_frame_base, AttributeValue::Exprloc(fp(ranges.arch(), 0)));
    id
}

/// R10 and an offset, as an address: told from the CFA, so also where no register has it.
pub(super) fn fp(arch: Arch, off: i64) -> Expression {
    let mut e = Expression::new();
    push_fp(&mut e, arch, off);
    e
}

/// As [`fp`], as part of an expression.
pub(super) fn push_fp(e: &mut Expression, arch: Arch, off: i64) {
    e.op(dw::DW_OP_call_frame_cfa);
    e.op_consts(native::of(arch).fp_from_cfa + off);
    e.op(dw::DW_OP_plus);
}

fn location(
    unit: &mut Unit,
    ranges: &Ranges<'_>,
    of: (&FuncMap, &[String]),
    reg: u8,
) -> AttributeValue {
    if reg == 10 {
        let mut e = fp(ranges.arch(), 0);
        e.op(dw::DW_OP_stack_value);
        return AttributeValue::Exprloc(e);
    }
    let list = register(ranges, of, reg).list(ranges);
    AttributeValue::LocationListRef(unit.locations.add(list))
}

fn variable(
    unit: &mut Unit,
    (func, location): (UnitEntryId, AttributeValue),
    reg: u8,
    ty: UnitEntryId,
) {
    let id = unit.add(func, dw::DW_TAG_variable);
    let var = unit.get_mut(id);
    var.set(dw::DW_AT_name, AttributeValue::String(format!("r{reg}").into_bytes()));
    var.set(dw::DW_AT_type, AttributeValue::UnitRef(ty));
    var.set(dw::DW_AT_location, location);
}

/// Where a register has a value that the program could read.
fn register(ranges: &Ranges<'_>, (f, states): (&FuncMap, &[String]), reg: u8) -> Locations {
    let mut out = Locations::default();
    let bit = 1u16 << reg;
    for (orig, range) in ranges.origs() {
        if range.start < f.start.0 || range.start >= f.end.0 {
            continue;
        }
        let state = states.get(orig as usize);
        if state.is_some_and(|s| !s.is_empty() && !names(s, reg)) {
            continue;
        }
        let Held { low, unsure } = ranges.held(orig);
        if unsure & bit != 0 {
            continue;
        }
        let native = native::bpf(ranges.arch(), reg);
        let mut at = Expression::new();
        if low & bit == 0 {
            at.op_reg(native);
        } else {
            at.op_breg(native, 0);
            at.op_constu(u64::from(u32::MAX));
            at.op(dw::DW_OP_and);
            at.op(dw::DW_OP_stack_value);
        }
        if let Some(range) = ranges.settled(orig, bit) {
            out.push(range, at);
        }
    }
    out
}

/// Whether a state of the verifier says what a register is: `R3=`, `R3_w=`.
fn names(state: &str, reg: u8) -> bool {
    let name = format!("R{reg}");
    let is = |word: &str| {
        let rest = word.strip_prefix(name.as_str());
        rest.is_some_and(|rest| rest.starts_with('=') || rest.starts_with('_'))
    };
    state.split_ascii_whitespace().any(is)
}

/// One row per instruction, and one for the prologue.
fn lines(ranges: &Ranges<'_>, name: &str) -> LineProgram {
    let mut p = program(super::FOLDER, name);
    let file = p.files().next().map(|f| f.0).expect("the unit's own file");
    rows(ranges, &mut p, &|orig| Some(Place { file, line: u64::from(orig) + 1 }));
    p
}

/// A line of a file.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) file: gimli::write::FileId,
    pub(super) line: u64,
}

/// A sequence for each function: a row where the place of original instructions changes, and one
/// for the prologue.
pub(super) fn rows(ranges: &Ranges<'_>, p: &mut LineProgram, place: &dyn Fn(u32) -> Option<Place>) {
    for f in &ranges.image.debug.funcs {
        p.begin_sequence(Some(ranges.address(f.start.0)));
        let within =
            |(_, r): &(u32, std::ops::Range<u32>)| f.start.0 <= r.start && r.start < f.end.0;
        let mut origs: Vec<_> = ranges.origs().filter(within).collect();
        origs.sort_by_key(|o| o.1.start);
        let mut last = None;
        for (orig, range) in origs {
            let here = place(orig).filter(|here| last != Some(*here));
            let Some(here) = here else { continue };
            let first = last.replace(here).is_none();
            if first {
                row(p, here, 0);
            }
            p.row().prologue_end = first;
            row(p, here, range.start - f.start.0);
        }
        p.end_sequence(u64::from(f.end.0 - f.start.0));
    }
}

fn row(p: &mut LineProgram, at: Place, offset: u32) {
    let row = p.row();
    row.address_offset = u64::from(offset);
    row.file = at.file;
    row.line = at.line;
    row.is_statement = true;
    p.generate_row();
}

/// A line program with one file.
pub(super) fn program(folder: &str, name: &str) -> LineProgram {
    let line = LineEncoding { minimum_instruction_length: 1, ..LineEncoding::default() };
    let string = |s: &str| LineString::String(s.into());
    LineProgram::new(ENCODING, line, string(folder), None, string(name), None)
}
