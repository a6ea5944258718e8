//! Line tables: clang's rows, at the native code of the instructions they are about.
//!
//! Each function is a sequence of its own. Its first row is there twice, for the prologue and for
//! the first BPF instruction, which is where a debugger that skips prologues then stops.
//! Instructions that were removed have no row; what the kernel put in has that of the instruction
//! it was made from. BPF's table counts in units of eight bytes, ours in bytes.

use std::collections::BTreeMap;

use super::input::Reader;
use super::units::Places;
use gimli::LineEncoding;
use gimli::write::{ConvertError, ConvertUnit, LineRow};

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
    for (start, mut rows) in rows {
        rows.sort_by_key(|r| r.0);
        let Some(func) = places.ranges.func(start) else { continue };
        table.begin_sequence(Some(places.ranges.address(start)));
        if let Some((_, row)) = rows.first().copied() {
            table.generate_row(LineRow { address_offset: 0, prologue_end: false, ..row });
        }
        for (n, (at, row)) in rows.into_iter().enumerate() {
            let address_offset = u64::from(at - start);
            table.generate_row(LineRow { address_offset, prologue_end: n == 0, ..row });
        }
        table.end_sequence(u64::from(func.end.0 - start));
    }
    let (program, files) = table.program();
    unit.set_line_program(program, files);
    Ok(())
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
