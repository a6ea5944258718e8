//! The source view: clang's units, with native addresses and locations.
//!
//! All entries are copied but functions that are not in the program; what has an address or a
//! location is made anew. Call sites are left out: what a debugger makes of them (values at entry,
//! frames of tail calls) would have to be proved first.

use std::collections::BTreeMap;
use std::ops::Range;

use super::argument;
use super::converted;
use super::expr::{Context, Parsed};
use super::input::{Input, Reader, address, place};
use super::listing::fp;
use super::ranges::{Held, Locations, Ranges};
use super::stack::Stack;
use super::{Image, lines};
use crate::{Converted, Origin};
use gimli::constants as dw;
use gimli::read::{AttributeValue as In, UnitRef};
use gimli::write::{
    Address, AttributeValue, ConvertError, ConvertUnit, ConvertUnitEntry, Dwarf, Expression,
    FilterUnitSection, Range as NativeRange, RangeList, UnitEntryId,
};

/// Deepest chain of types that is followed.
const MAX_TYPES: u32 = 32;

/// Original instructions by their place in the object.
pub(super) struct Places<'a> {
    pub(super) ranges: Ranges<'a>,
    pub(super) origin: &'a Origin,
    by_address: BTreeMap<u64, u32>,
}

impl<'a> Places<'a> {
    pub(super) fn new(image: &'a Image, origin: &'a Origin) -> Places<'a> {
        let at = |(orig, from): (u32, &Option<(u32, u64)>)| {
            from.map(|(section, offset)| (address(section, offset), orig))
        };
        let by_address = (0..).zip(&origin.insns).filter_map(at).collect();
        Places { ranges: Ranges::new(image), origin, by_address }
    }

    /// Original instructions in a range of the object that have native code.
    pub(super) fn origs(&self, range: Range<u64>) -> impl Iterator<Item = (u64, u32)> + '_ {
        let some = |(at, orig): (&u64, &u32)| self.ranges.of(*orig).map(|_| (*at, *orig));
        self.by_address.range(range.start..range.end.max(range.start)).filter_map(some)
    }

    /// Native code of ranges of the object: what meets is one.
    fn native(&self, object: &[Range<u64>]) -> Vec<Range<u32>> {
        let origs = object.iter().flat_map(|r| self.origs(r.clone()));
        let mut all: Vec<Range<u32>> = origs.filter_map(|(_, orig)| self.ranges.of(orig)).collect();
        all.sort_by_key(|r| r.start);
        let mut out: Vec<Range<u32>> = Vec::new();
        for r in all {
            match out.last_mut() {
                Some(last) if last.end >= r.start => last.end = last.end.max(r.end),
                _ => out.push(r),
            }
        }
        out
    }

    /// Native function of a function of the object.
    fn func(&self, object: &[Range<u64>]) -> Option<Range<u32>> {
        let (_, orig) = object.iter().find_map(|r| self.origs(r.clone()).next())?;
        let first = self.ranges.of(orig)?.start;
        let f = self.ranges.func(first).filter(|f| f.body.0 == first)?;
        Some(f.start.0..f.end.0)
    }

    /// Guest address of a place in the object's data.
    fn data(&self, at: u64) -> Option<u64> {
        let (section, offset) = place(at)?;
        Some(self.origin.data.get(&section)? + offset)
    }
}

/// A function, block or inlined function that is being copied.
struct Scope {
    depth: isize,
    object: Vec<Range<u64>>,
    stack: Option<Stack>,
    /// Where arguments are in the places on the stack that they have from then on.
    placed: u64,
    /// Of the program's main function, none of whose parameters was seen.
    main: bool,
}

/// Translates the debug information of an object.
pub(super) fn translate(
    input: &Input<'_>,
    places: &Places<'_>,
    dwarf: &mut Dwarf,
) -> Result<(), ConvertError> {
    let read = input.dwarf();
    let mut filter = FilterUnitSection::new(&read)?;
    while let Some(mut unit) = filter.read_unit()? {
        let mut entry = unit.null_entry();
        while unit.read_entry(&mut entry)? {
            let needed = match entry.tag {
                dw::DW_TAG_subprogram => {
                    let object = object_ranges(unit.read_unit, &entry)?;
                    places.func(&object).is_some()
                }
                dw::DW_TAG_imported_declaration | dw::DW_TAG_imported_unit => false,
                _ => entry.parent.is_none(),
            };
            if needed {
                unit.require_entry(entry.offset);
            }
        }
    }
    let mut convert = dwarf.convert_with_filter(filter)?;
    while let Some((mut unit, root)) = convert.read_unit()? {
        lines::translate(&mut unit, places)?;
        let prologues = lines::prologues(unit.read_unit);
        let (scopes, funcs) = (Vec::new(), Vec::new());
        let mut copy = Copier { places, input, scopes, funcs, prologues, view: None };
        let id = unit.unit.root();
        copy.attributes(&mut unit, id, &root)?;
        if lines::is_relative(&unit) {
            let folder = AttributeValue::String(places.origin.folder.as_str().into());
            unit.unit.get_mut(id).set(dw::DW_AT_comp_dir, folder);
        }
        let mut entry = root;
        let mut skip: Option<isize> = None;
        while let Some(id) = unit.read_entry(&mut entry)? {
            if skip.is_some_and(|depth| entry.depth > depth) {
                continue;
            }
            skip = None;
            let call = matches!(entry.tag, dw::DW_TAG_call_site | dw::DW_TAG_GNU_call_site);
            if id.is_none() || call {
                // Without it, its children have no place.
                skip = call.then_some(entry.depth);
                continue;
            }
            if copy.is_beyond(&entry)? {
                skip = Some(entry.depth);
                continue;
            }
            let id = unit.add_entry(id, &entry);
            copy.entry(&mut unit, id, &entry)?;
        }
        let funcs = std::mem::take(&mut copy.funcs);
        copy.root(&mut unit, funcs);
    }
    Ok(())
}

/// Ranges of an entry in the object.
fn object_ranges<'r>(
    unit: UnitRef<'_, Reader<'r>>,
    entry: &gimli::read::DebuggingInformationEntry<Reader<'r>>,
) -> Result<Vec<Range<u64>>, gimli::Error> {
    let mut out = Vec::new();
    let mut it = unit.die_ranges(entry)?;
    while let Some(r) = it.next()? {
        out.push(r.begin..r.end);
    }
    Ok(out)
}

struct Copier<'a> {
    places: &'a Places<'a>,
    input: &'a Input<'a>,
    scopes: Vec<Scope>,
    /// Native functions of the unit.
    funcs: Vec<Range<u32>>,
    /// Where prologues end in the object.
    prologues: Vec<u64>,
    /// The structure whose members are being copied, when they are converted.
    view: Option<(isize, &'a Converted)>,
}

type Unit<'u, 'a> = ConvertUnit<'u, Reader<'a>>;
type Entry<'u, 'a> = ConvertUnitEntry<'u, Reader<'a>>;

impl<'a> Copier<'a> {
    /// A member of a converted structure that the program may not read.
    fn is_beyond(&mut self, entry: &Entry<'_, '_>) -> Result<bool, ConvertError> {
        self.view = self.view.filter(|(depth, _)| *depth < entry.depth);
        if entry.tag == dw::DW_TAG_structure_type {
            let name = entry.attr_value(dw::DW_AT_name);
            let view =
                self.converted(entry, name.filter(|_| !entry.has_attr(dw::DW_AT_declaration)))?;
            self.view = view.map(|v| (entry.depth, v)).or(self.view);
        }
        let Some((depth, view)) = self.view else { return Ok(false) };
        let at = entry.attr_value(dw::DW_AT_data_member_location).and_then(|v| v.udata_value());
        let off = at.and_then(|off| u32::try_from(off).ok());
        let member = entry.tag == dw::DW_TAG_member && entry.depth == depth + 1;
        Ok(member && off.is_some_and(|off| !view.members.contains(&off)))
    }

    fn entry<'r>(
        &mut self,
        unit: &mut Unit<'_, 'r>,
        id: UnitEntryId,
        entry: &Entry<'_, 'r>,
    ) -> Result<(), ConvertError> {
        while self.scopes.last().is_some_and(|s| s.depth >= entry.depth) {
            self.scopes.pop();
        }
        match entry.tag {
            dw::DW_TAG_subprogram => self.function(unit, id, entry)?,
            dw::DW_TAG_inlined_subroutine | dw::DW_TAG_lexical_block => {
                self.block(unit, id, entry)?;
            }
            dw::DW_TAG_structure_type => {
                let own = self.view.filter(|(depth, _)| *depth == entry.depth);
                if let Some((_, view)) = own {
                    converted::put(unit.unit, id, view.kind);
                }
            }
            _ => {}
        }
        self.attributes(unit, id, entry)?;
        if self.is_copy(entry)? {
            return Ok(());
        }
        let mut out = Locations::default();
        let whole = self.location(unit, id, entry, &mut out)?;
        self.argument(entry, &mut out)?;
        if let Some(value) = whole.or_else(|| finish(unit, &self.places.ranges, out)) {
            unit.unit.get_mut(id).set(dw::DW_AT_location, value);
        }
        Ok(())
    }

    /// A variable that is such a structure itself, in memory of the program's: its type's data are
    /// elsewhere.
    fn is_copy(&self, entry: &Entry<'_, '_>) -> Result<bool, ConvertError> {
        let Some(ty) = bare_type(entry).filter(|t| t.tag() == dw::DW_TAG_structure_type) else {
            return Ok(false);
        };
        Ok(self.converted(entry, ty.attr_value(dw::DW_AT_name))?.is_some())
    }

    /// The converted structure of a name in the unit of an entry.
    fn converted<'r>(
        &self,
        entry: &Entry<'_, 'r>,
        name: Option<In<Reader<'r>>>,
    ) -> Result<Option<&'a Converted>, ConvertError> {
        let Some(name) = name else { return Ok(None) };
        let name = entry.read_unit.attr_string(name)?;
        Ok(self.places.ranges.image.converted.get(&*name.to_string_lossy()))
    }

    /// The program's argument, where its list has nothing.
    fn argument(&mut self, entry: &Entry<'_, '_>, out: &mut Locations) -> Result<(), ConvertError> {
        let parameter = entry.tag == dw::DW_TAG_formal_parameter;
        let first = self.scopes.last_mut().filter(|s| parameter && s.depth + 1 == entry.depth);
        if !first.is_some_and(|s| std::mem::take(&mut s.main)) || size_of(entry) != Some(8) {
            return Ok(());
        }
        let Some(name) = entry.attr_value(dw::DW_AT_name) else { return Ok(()) };
        let name = entry.read_unit.attr_string(name)?;
        let source = self.places.origin.source.as_deref();
        if source.is_some_and(|s| !argument::is_assigned(s, &name.to_string_lossy())) {
            for (range, at) in argument::places(self.places.ranges.image) {
                out.fill(range, &at);
            }
        }
        Ok(())
    }

    fn function<'r>(
        &mut self,
        unit: &mut Unit<'_, 'r>,
        id: UnitEntryId,
        entry: &Entry<'_, 'r>,
    ) -> Result<(), ConvertError> {
        let object = object_ranges(entry.read_unit, entry)?;
        let func = self.places.func(&object);
        let frame = entry.attr_value(dw::DW_AT_frame_base);
        let stack = func.as_ref().and(object.first()).and_then(|r| self.stack(entry, frame, r));
        let object = if func.is_some() { object } else { Vec::new() };
        let placed = object.first().map_or(0, |r| {
            let inside = self.prologues.iter().find(|at| r.contains(at));
            inside.copied().unwrap_or(r.start)
        });
        let ranges = &self.places.ranges;
        let first = ranges.image.debug.funcs.first().map(|f| f.start.0);
        let main = func.as_ref().is_some_and(|f| Some(f.start) == first);
        self.scopes.push(Scope { depth: entry.depth, object, stack, placed, main });
        let Some(func) = func else { return Ok(()) };
        let out = unit.unit.get_mut(id);
        out.set(dw::DW_AT_low_pc, AttributeValue::Address(ranges.address(func.start)));
        out.set(dw::DW_AT_high_pc, AttributeValue::Udata(u64::from(func.end - func.start)));
        out.set(dw::DW_AT_frame_base, AttributeValue::Exprloc(fp(ranges.arch(), 0)));
        self.funcs.push(func);
        Ok(())
    }

    /// The frame of a function whose frame base is R10.
    fn stack(
        &self,
        entry: &Entry<'_, '_>,
        frame: Option<In<Reader<'_>>>,
        range: &Range<u64>,
    ) -> Option<Stack> {
        let Some(In::Exprloc(base)) = frame else { return None };
        let parsed = Parsed::new(base, entry.read_unit.encoding())?;
        if !parsed.plain || parsed.regs != 0 {
            return None;
        }
        let (section, from) = place(range.start)?;
        let to = from + (range.end - range.start);
        let (code, calls) = self.input.code(section, from, to)?;
        let inside = calls.iter().filter_map(|at| at.checked_sub(from)).collect::<Vec<_>>();
        let little = self.input.is_little();
        let endian = if little { bpf::Endian::Little } else { bpf::Endian::Big };
        Some(Stack::of(code, endian, &inside))
    }

    /// A block of which nothing is left is kept, empty: its types may be in use.
    fn block<'r>(
        &mut self,
        unit: &mut Unit<'_, 'r>,
        id: UnitEntryId,
        entry: &Entry<'_, 'r>,
    ) -> Result<(), ConvertError> {
        let object = object_ranges(entry.read_unit, entry)?;
        let abstract_block = object.is_empty() && entry.tag == dw::DW_TAG_lexical_block;
        let inherited = self.scopes.last().map(|s| s.stack.clone());
        let native = self.places.native(&object);
        if !abstract_block {
            let ranges = &self.places.ranges;
            match native[..] {
                [] => {
                    let start = self.funcs.last().map_or(0, |f| f.start);
                    set_range(unit, id, ranges, &(start..start));
                }
                [ref only] => set_range(unit, id, ranges, only),
                _ => {
                    let list = unit.unit.ranges.add(list(ranges, &native));
                    let value = AttributeValue::RangeListRef(list);
                    unit.unit.get_mut(id).set(dw::DW_AT_ranges, value);
                }
            }
        }
        self.scopes.push(Scope {
            depth: entry.depth,
            object,
            stack: inherited.flatten(),
            placed: 0,
            main: false,
        });
        Ok(())
    }

    /// Attributes that are neither addresses nor locations.
    fn attributes<'r>(
        &self,
        unit: &mut Unit<'_, 'r>,
        id: UnitEntryId,
        entry: &Entry<'_, 'r>,
    ) -> Result<(), ConvertError> {
        for attr in &entry.attrs {
            match attr.name() {
                dw::DW_AT_low_pc
                | dw::DW_AT_high_pc
                | dw::DW_AT_ranges
                | dw::DW_AT_entry_pc
                | dw::DW_AT_frame_base
                | dw::DW_AT_location
                | dw::DW_AT_start_scope
                | dw::DW_AT_call_all_calls
                | dw::DW_AT_call_all_source_calls
                | dw::DW_AT_call_all_tail_calls
                | dw::DW_AT_GNU_all_call_sites
                | dw::DW_AT_GNU_all_tail_call_sites
                | dw::DW_AT_GNU_locviews => continue,
                _ => {}
            }
            let none = |_| None;
            match unit.convert_attribute_value(entry.read_unit, attr, &none) {
                Ok(value) => unit.unit.get_mut(id).set(attr.name(), value),
                // One attribute less, which a debugger can do without.
                Err(ConvertError::InvalidAddress | ConvertError::UnsupportedOperation) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The one location of a variable, or its list, so far.
    fn location<'r>(
        &self,
        unit: &mut Unit<'_, 'r>,
        id: UnitEntryId,
        entry: &Entry<'_, 'r>,
        out: &mut Locations,
    ) -> Result<Option<AttributeValue>, ConvertError> {
        match entry.attr_value(dw::DW_AT_location) {
            Some(In::Exprloc(e)) => Ok(self.everywhere(unit, entry, e, out)),
            Some(value) => self.listed(unit, entry, value, out).map(|()| None),
            None => self.external(unit, id, entry),
        }
    }

    /// A variable of the kernel's, or of the loader's making.
    fn external<'r>(
        &self,
        unit: &mut Unit<'_, 'r>,
        id: UnitEntryId,
        entry: &Entry<'_, 'r>,
    ) -> Result<Option<AttributeValue>, ConvertError> {
        let declared = entry.has_attr(dw::DW_AT_declaration);
        let Some(name) = entry.attr_value(dw::DW_AT_name) else { return Ok(None) };
        if entry.tag != dw::DW_TAG_variable || !declared {
            return Ok(None);
        }
        let name = entry.read_unit.attr_string(name)?;
        let Some(at) = self.places.origin.externs.get(&*name.to_string_lossy()) else {
            return Ok(None);
        };
        // With an address it is no declaration.
        unit.unit.get_mut(id).delete(dw::DW_AT_declaration);
        let mut e = Expression::new();
        e.op_addr(Address::Constant(*at));
        Ok(Some(AttributeValue::Exprloc(e)))
    }

    /// One location for the whole scope.
    fn everywhere<'r>(
        &self,
        unit: &mut Unit<'_, 'r>,
        entry: &Entry<'_, 'r>,
        e: gimli::read::Expression<Reader<'r>>,
        out: &mut Locations,
    ) -> Option<AttributeValue> {
        let parsed = Parsed::new(e, entry.read_unit.encoding())?;
        let argument = entry.tag == dw::DW_TAG_formal_parameter && parsed.framed;
        let placed = self.scopes.last().map_or(0, |s| if argument { s.placed } else { 0 });
        if parsed.regs == 0 && placed == 0 {
            let e = self.native(unit, entry, &parsed, 0)?;
            return Some(AttributeValue::Exprloc(e));
        }
        for r in &self.scopes.last()?.object {
            self.within(unit, entry, &parsed, r.start.max(placed)..r.end, out);
        }
        None
    }

    fn listed<'r>(
        &self,
        unit: &Unit<'_, 'r>,
        entry: &Entry<'_, 'r>,
        value: In<Reader<'r>>,
        out: &mut Locations,
    ) -> Result<(), ConvertError> {
        let Some(mut it) = entry.read_unit.attr_locations(value)? else { return Ok(()) };
        while let Some(l) = it.next()? {
            if let Some(parsed) = Parsed::new(l.data, entry.read_unit.encoding()) {
                self.within(unit, entry, &parsed, l.range.begin..l.range.end, out);
            }
        }
        Ok(())
    }

    /// A location in a range of the object, where it holds exactly.
    fn within<'r>(
        &self,
        unit: &Unit<'_, 'r>,
        entry: &Entry<'_, 'r>,
        parsed: &Parsed<Reader<'r>>,
        object: Range<u64>,
        out: &mut Locations,
    ) {
        let ranges = &self.places.ranges;
        // Of four bytes or less, the lower half of a register is all there is.
        let narrow = parsed.plain && size_of(entry).is_some_and(|bytes| bytes <= 4);
        for (_, orig) in self.places.origs(object) {
            let Held { low, unsure } = ranges.held(orig);
            let (low, unsure) = if narrow { (0, 0) } else { (low, unsure) };
            if unsure & parsed.regs != 0 || parsed.regs != 0 && ranges.is_shared(orig) {
                continue;
            }
            let at = self.native(unit, entry, parsed, low & parsed.regs);
            if let (Some(range), Some(at)) = (ranges.settled(orig, parsed.regs), at) {
                out.push(range, at);
            }
        }
    }

    fn native<'r>(
        &self,
        unit: &Unit<'_, 'r>,
        entry: &Entry<'_, 'r>,
        parsed: &Parsed<Reader<'r>>,
        low: u16,
    ) -> Option<Expression> {
        let data = |at| self.places.data(at);
        let base = |at| unit.convert_unit_ref(at).ok();
        let cx = Context {
            arch: self.places.ranges.arch(),
            stack: self.scopes.last().and_then(|s| s.stack.as_ref()),
            bytes: size_of(entry),
            data: &data,
            base: &base,
        };
        parsed.translate(&cx, entry.read_unit, low)
    }

    fn root(&self, unit: &mut Unit<'_, '_>, mut funcs: Vec<Range<u32>>) {
        funcs.sort_by_key(|f| f.start);
        if funcs.is_empty() {
            return;
        }
        let list = unit.unit.ranges.add(list(&self.places.ranges, &funcs));
        let root = unit.unit.root();
        unit.unit.get_mut(root).set(dw::DW_AT_ranges, AttributeValue::RangeListRef(list));
    }
}

fn finish(unit: &mut Unit<'_, '_>, ranges: &Ranges<'_>, out: Locations) -> Option<AttributeValue> {
    if out.is_empty() {
        return None;
    }
    Some(AttributeValue::LocationListRef(unit.unit.locations.add(out.list(ranges))))
}

fn list(ranges: &Ranges<'_>, native: &[Range<u32>]) -> RangeList {
    let one = |r: &Range<u32>| NativeRange::StartLength {
        begin: ranges.address(r.start),
        length: u64::from(r.end - r.start),
    };
    RangeList(native.iter().map(one).collect())
}

fn set_range(unit: &mut Unit<'_, '_>, id: UnitEntryId, ranges: &Ranges<'_>, r: &Range<u32>) {
    let out = unit.unit.get_mut(id);
    out.set(dw::DW_AT_low_pc, AttributeValue::Address(ranges.address(r.start)));
    out.set(dw::DW_AT_high_pc, AttributeValue::Udata(u64::from(r.end - r.start)));
}

/// Bytes of a variable.
fn size_of(entry: &Entry<'_, '_>) -> Option<u64> {
    let ty = bare_type(entry)?;
    match ty.attr_value(dw::DW_AT_byte_size) {
        Some(bytes) => bytes.udata_value(),
        None => (ty.tag() == dw::DW_TAG_pointer_type).then_some(8),
    }
}

/// Type of a variable, without names and qualifiers.
fn bare_type<'r>(
    entry: &Entry<'_, 'r>,
) -> Option<gimli::read::DebuggingInformationEntry<Reader<'r>>> {
    let unit = entry.read_unit;
    let follow = |value| match value {
        In::UnitRef(offset) => unit.entry(offset).ok(),
        _ => None,
    };
    let mut ty = match entry.attr_value(dw::DW_AT_type) {
        Some(value) => follow(value)?,
        None => {
            let origin = follow(entry.attr_value(dw::DW_AT_abstract_origin)?)?;
            follow(origin.attr_value(dw::DW_AT_type)?)?
        }
    };
    for _ in 0..MAX_TYPES {
        ty = match ty.tag() {
            dw::DW_TAG_typedef
            | dw::DW_TAG_const_type
            | dw::DW_TAG_volatile_type
            | dw::DW_TAG_restrict_type
            | dw::DW_TAG_atomic_type => follow(ty.attr_value(dw::DW_AT_type)?)?,
            _ => return Some(ty),
        };
    }
    None
}
