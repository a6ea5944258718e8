//! Line tables: clang's rows, at the native code of the instructions they are about.
//!
//! Each function is a sequence of its own. Its first row is the prologue: native code up to where
//! the compiler says that its own prologue, which puts arguments in their places, has ended. The
//! second is where a debugger that skips prologues stops.
//! Instructions that were removed have no row; what the kernel put in has that of the instruction
//! it was made from. BPF's table counts in units of eight bytes, ours in bytes. Where the compiler
//! named sources without a folder, the object's is named.

use std::collections::BTreeMap;

use super::input::Reader;
use super::units::Places;
use gimli::LineEncoding;
use gimli::read::UnitRef;
use gimli::write::{ConvertError, ConvertUnit, LineProgram, LineRow, LineString};

/// Rows of a native function by offset in the code.
type Rows = BTreeMap<u32, Vec<(u32, LineRow)>>;

/// Translates the table of a unit.
pub(super) fn translate(
    unit: &mut ConvertUnit<'_, Reader<'_>>,
    places: &Places<'_>,
) -> Result<(), ConvertError> {
    let encoding = LineEncoding { minimum_instruction_length: 1, ..LineEncoding::default() };
    let Some(mut table) = unit.read_line_program(None, Some(encoding))? else { return Ok(()) };
    let mut rows = Rows::new();
    while let Some(sequence) = table.read_sequence()? {
        let Some(start) = sequence.start else { continue };
        let end = match sequence.end {
            gimli::write::ConvertLineSequenceEnd::Length(length) => start.saturating_add(length),
            gimli::write::ConvertLineSequenceEnd::Address(address) => address,
        };
        collect(places, start, end, &sequence.rows, &mut rows);
    }
    let (mut program, files) = table.program();
    if is_relative(unit) {
        let folder = places.origin.folder.as_str();
        let folder = LineString::new(folder, program.encoding(), unit.line_strings);
        program = in_folder(&program, encoding, folder);
    }
    for (start, mut rows) in rows {
        rows.sort_by_key(|r| r.0);
        let mut rows = whole(rows);
        let Some(func) = places.ranges.func(start) else { continue };
        program.begin_sequence(Some(places.ranges.address(start)));
        let mut put = |row| {
            *program.row() = row;
            program.generate_row();
        };
        if let Some((_, row)) = rows.first().copied() {
            put(LineRow { address_offset: 0, prologue_end: false, ..row });
        }
        let body = rows.iter().position(|(_, row)| row.prologue_end).unwrap_or(0);
        for (n, (at, row)) in rows.drain(body..).enumerate() {
            let address_offset = u64::from(at - start);
            put(LineRow { address_offset, prologue_end: n == 0, ..row });
        }
        program.end_sequence(u64::from(func.end.0 - start));
    }
    unit.set_line_program(program, files);
    Ok(())
}

/// Rows without those in the middle of a line, for other columns or for no line at all: a debugger
/// that goes back by lines takes each row for the beginning of one.
fn whole(rows: Vec<(u32, LineRow)>) -> Vec<(u32, LineRow)> {
    let mut out: Vec<(u32, LineRow)> = Vec::new();
    for (n, (at, row)) in rows.iter().enumerate() {
        // What has no line is of the line that goes on behind it.
        let next = rows[n..].iter().map(|r| &r.1).find(|r| r.line != 0);
        let of = next.filter(|_| row.line == 0).unwrap_or(row);
        let same = |last: &LineRow| (last.file, last.line) == (of.file, of.line);
        let inside = !row.is_statement && out.last().is_some_and(|last| same(&last.1));
        if !inside {
            out.push((*at, *row));
        }
    }
    out
}

/// Where the compiler's prologues end, in order of address in the object.
pub(super) fn prologues(unit: UnitRef<'_, Reader<'_>>) -> Vec<u64> {
    let mut out = Vec::new();
    if let Some(program) = unit.line_program.clone() {
        let mut rows = program.rows();
        while let Ok(Some((_, row))) = rows.next_row() {
            if row.prologue_end() {
                out.push(row.address());
            }
        }
    }
    out.sort_unstable();
    out
}

/// Whether the compiler's folder is named relatively: it is then that of the object.
pub(super) fn is_relative(unit: &ConvertUnit<'_, Reader<'_>>) -> bool {
    let folder = unit.read_unit.comp_dir.as_ref();
    folder.is_none_or(|f| !f.to_string_lossy().starts_with('/'))
}

/// The same files in the same order, seen from another folder.
fn in_folder(old: &LineProgram, line: LineEncoding, folder: LineString) -> LineProgram {
    let mut files = old.files().peekable();
    let dir_of = |dir| (dir != old.default_directory()).then(|| old.get_directory(dir).clone());
    let (name, dir) = match files.next_if(|_| old.version() >= 5) {
        Some((_, name, dir)) => (name.clone(), dir_of(dir)),
        None => (LineString::String(Vec::new()), None),
    };
    let mut new = LineProgram::new(old.encoding(), line, folder, dir, name, None);
    for (_, name, dir) in files {
        let dir = match dir_of(dir) {
            Some(dir) => new.add_directory(dir),
            None => new.default_directory(),
        };
        new.add_file(name.clone(), dir, None);
    }
    new
}

/// Rows of one sequence, each at the first native code that it covers.
fn collect(places: &Places<'_>, start: u64, end: u64, rows: &[LineRow], out: &mut Rows) {
    let address = |row: &LineRow| start.saturating_add(row.address_offset);
    let mut last: Option<(u32, u64)> = None;
    for (at, orig) in places.origs(start..end) {
        let Some(native) = places.ranges.of(orig) else { continue };
        let Some(func) = places.ranges.func(native.start) else { continue };
        let until = rows.partition_point(|row| address(row) <= at);
        let Some(row) = until.checked_sub(1).map(|n| &rows[n]) else { continue };
        // The same row goes on, or its first instruction was removed.
        let key = (func.start.0, address(row));
        if last == Some(key) {
            continue;
        }
        last = Some(key);
        let from = rows[..until].partition_point(|row| address(row) < key.1);
        let from = if key.1 == at { from } else { until - 1 };
        let list = out.entry(func.start.0).or_default();
        for row in &rows[from..until] {
            list.push((native.start, LineRow { discriminator: 0, ..*row }));
        }
    }
}
