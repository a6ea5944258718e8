//! The source view of an object without DWARF: lines of `.BTF.ext`, functions, types and variables
//! with an address from `.BTF`. It says nothing of locals, and of arguments only where they are
//! when a function begins whose signature LLVM may not change.

use std::collections::BTreeMap;

use super::converted;
use super::expr;
use super::listing::{self, Place};
use super::ranges::{Held, Locations, Ranges};
use crate::{Image, Origin};
use bpf::btf::{Body, Btf, Kind, Linkage, RawMember, TypeId};
use bpf::object::Object;
use gimli::constants as dw;
use gimli::write::{
    Address, AttributeValue as Value, Dwarf, Expression, LineString, Unit, UnitEntryId,
};
use jit::FuncMap;

/// Writes the unit; none when no instruction has a line.
pub(super) fn describe(image: &Image, origin: Option<&Origin>, dwarf: &mut Dwarf) -> Option<()> {
    let ranges = Ranges::new(image);
    let main = image.listing.iter().find_map(|l| l.line.as_ref())?.0.as_str();
    let folder = origin.map_or(super::FOLDER, |o| o.folder.as_str());
    let mut lines = listing::program(folder, main);
    let mut files: BTreeMap<&str, _> = BTreeMap::new();
    let dir = lines.default_directory();
    for (file, _) in image.listing.iter().filter_map(|l| l.line.as_ref()) {
        files
            .entry(file)
            .or_insert_with(|| lines.add_file(LineString::String(file.as_str().into()), dir, None));
    }
    let place = |orig: u32| {
        let (file, line) = image.listing.get(orig as usize)?.line.as_ref()?;
        Some(Place { file: files[file.as_str()], line: u64::from(*line) })
    };
    listing::rows(&ranges, &mut lines, &place);
    let mut unit = Unit::new(listing::ENCODING, lines);
    listing::root(&mut unit, image, (folder, main));
    let object = origin.and_then(|o| Object::parse(&o.object).ok());
    let btf = object.as_ref().and_then(Object::btf);
    let empty = Btf::default();
    let btf = btf.unwrap_or(&empty);
    let mut types = Types { image, btf, made: BTreeMap::new() };
    for f in &image.debug.funcs {
        let id = listing::function(&mut unit, &ranges, f);
        signature(&mut unit, &ranges, &mut types, (id, f));
    }
    if let (Some(object), Some(origin)) = (&object, origin) {
        globals(&mut unit, &mut types, object, origin);
    }
    dwarf.units.add(unit);
    Some(())
}

/// Type of what a function returns, and its arguments.
fn signature(
    unit: &mut Unit,
    ranges: &Ranges<'_>,
    types: &mut Types<'_>,
    (id, f): (UnitEntryId, &FuncMap),
) {
    let btf = types.btf;
    let Some(func) = btf.find(&f.name, Kind::Func) else { return };
    let Some((ret, params)) = btf.func_proto(func) else { return };
    if let Some(ret) = types.of(unit, ret) {
        unit.get_mut(id).set(dw::DW_AT_type, Value::UnitRef(ret));
    }
    unit.get_mut(id).set(dw::DW_AT_prototyped, Value::Flag(true));
    // Of a static function LLVM may have removed arguments, which BTF does not tell.
    let mut known = matches!(btf.body(func), Body::Func { linkage: Linkage::Global, .. });
    for (reg, param) in (1u8..).zip(params) {
        let Some(ty) = types.of(unit, param.ty) else { return };
        let var = unit.add(id, dw::DW_TAG_formal_parameter);
        unit.get_mut(var).set(dw::DW_AT_name, Value::String(btf.str(param.name_off).into()));
        unit.get_mut(var).set(dw::DW_AT_type, Value::UnitRef(ty));
        // One that is larger than a register takes two.
        let bytes = btf.size_of(param.ty);
        known &= reg <= 5 && bytes.is_some_and(|bytes| bytes <= 8);
        let at = argument(ranges, f, reg, bytes.is_some_and(|bytes| bytes <= 4));
        if let Some(at) = at.filter(|at| known && !at.is_empty()) {
            let list = unit.locations.add(at.list(ranges));
            unit.get_mut(var).set(dw::DW_AT_location, Value::LocationListRef(list));
        }
    }
}

/// Where an argument is when a function begins.
fn argument(ranges: &Ranges<'_>, f: &FuncMap, reg: u8, narrow: bool) -> Option<Locations> {
    let (orig, _) = ranges.origs().find(|(_, r)| r.start == f.body.0)?;
    let bit = 1u16 << reg;
    let Held { low, unsure } = ranges.held(orig);
    if !narrow && unsure & bit != 0 {
        return None;
    }
    let mut out = Locations::default();
    let mut at = Expression::new();
    let low = if narrow { 0 } else { low };
    expr::register_value(&mut at, ranges.arch(), u16::from(reg), low);
    out.push(ranges.settled(orig, bit)?, at);
    Some(out)
}

/// Variables that the program's maps hold, and those of the kernel's configuration.
fn globals(unit: &mut Unit, types: &mut Types<'_>, object: &Object, origin: &Origin) {
    let btf = types.btf;
    let sections = object.data_sections();
    for ty in btf.ids() {
        let Body::Var { ty: of, .. } = *btf.body(ty) else { continue };
        let name = btf.name(ty);
        let inside = object.global(name).and_then(|(map, var)| {
            let section = sections.iter().find(|s| s.1 == map)?.0;
            Some(origin.data.get(&section)? + u64::from(var.offset))
        });
        let Some(at) = inside.or_else(|| origin.externs.get(name).copied()) else { continue };
        let Some(of) = types.of(unit, of) else { continue };
        let id = unit.add(unit.root(), dw::DW_TAG_variable);
        let mut e = Expression::new();
        e.op_addr(Address::Constant(at));
        let var = unit.get_mut(id);
        var.set(dw::DW_AT_name, Value::String(name.into()));
        var.set(dw::DW_AT_type, Value::UnitRef(of));
        var.set(dw::DW_AT_external, Value::Flag(true));
        var.set(dw::DW_AT_location, Value::Exprloc(e));
    }
}

/// Types of BTF as entries.
struct Types<'b> {
    image: &'b Image,
    btf: &'b Btf,
    made: BTreeMap<TypeId, UnitEntryId>,
}

impl Types<'_> {
    /// Entry of a type; none of `void`, or of what is no type.
    // tidy: flat match
    fn of(&mut self, unit: &mut Unit, id: TypeId) -> Option<UnitEntryId> {
        if let Some(made) = self.made.get(&id) {
            return Some(*made);
        }
        let btf = self.btf;
        match *btf.body(id) {
            Body::Int { size, enc, .. } => {
                let encoding = match (enc.bool, enc.char, enc.signed) {
                    (true, ..) => dw::DW_ATE_boolean,
                    (_, true, true) => dw::DW_ATE_signed_char,
                    (_, true, false) => dw::DW_ATE_unsigned_char,
                    (.., true) => dw::DW_ATE_signed,
                    // Clang marks no `char` in BTF.
                    _ if btf.name(id).contains("char") => dw::DW_ATE_unsigned_char,
                    _ => dw::DW_ATE_unsigned,
                };
                let made = self.entry(unit, id, dw::DW_TAG_base_type, Some(size));
                unit.get_mut(made).set(dw::DW_AT_encoding, Value::Encoding(encoding));
                Some(made)
            }
            Body::Float { size } => {
                let made = self.entry(unit, id, dw::DW_TAG_base_type, Some(size));
                let float = Value::Encoding(dw::DW_ATE_float);
                unit.get_mut(made).set(dw::DW_AT_encoding, float);
                Some(made)
            }
            Body::Ptr(to) => Some(self.made_of(unit, id, dw::DW_TAG_pointer_type, to, Some(8))),
            Body::Typedef(to) => Some(self.made_of(unit, id, dw::DW_TAG_typedef, to, None)),
            Body::Const(to) => Some(self.made_of(unit, id, dw::DW_TAG_const_type, to, None)),
            Body::Volatile(to) => Some(self.made_of(unit, id, dw::DW_TAG_volatile_type, to, None)),
            Body::Restrict(to) => Some(self.made_of(unit, id, dw::DW_TAG_restrict_type, to, None)),
            Body::TypeTag { ty, .. } => self.of(unit, ty),
            Body::Array { elem, nelems, .. } => {
                let made = self.made_of(unit, id, dw::DW_TAG_array_type, elem, None);
                let range = unit.add(made, dw::DW_TAG_subrange_type);
                unit.get_mut(range).set(dw::DW_AT_count, Value::Udata(nelems.into()));
                Some(made)
            }
            Body::Struct { size, ref members } => {
                Some(self.members(unit, id, dw::DW_TAG_structure_type, size, members))
            }
            Body::Union { size, ref members } => {
                Some(self.members(unit, id, dw::DW_TAG_union_type, size, members))
            }
            Body::Enum { size, signed, .. } | Body::Enum64 { size, signed, .. } => {
                Some(self.enumeration(unit, id, size, signed))
            }
            Body::Fwd { union } => {
                let tag = if union { dw::DW_TAG_union_type } else { dw::DW_TAG_structure_type };
                let made = self.entry(unit, id, tag, None);
                unit.get_mut(made).set(dw::DW_AT_declaration, Value::Flag(true));
                Some(made)
            }
            Body::FuncProto { ret, ref params } => {
                let made = self.made_of(unit, id, dw::DW_TAG_subroutine_type, ret, None);
                for ty in params.iter().filter_map(|p| self.of(unit, p.ty)).collect::<Vec<_>>() {
                    let param = unit.add(made, dw::DW_TAG_formal_parameter);
                    unit.get_mut(param).set(dw::DW_AT_type, Value::UnitRef(ty));
                }
                Some(made)
            }
            Body::Void
            | Body::Func { .. }
            | Body::Var { .. }
            | Body::Datasec { .. }
            | Body::DeclTag { .. } => None,
        }
    }

    /// An entry that others may refer to before it is complete.
    fn entry(
        &mut self,
        unit: &mut Unit,
        id: TypeId,
        tag: gimli::DwTag,
        bytes: Option<u32>,
    ) -> UnitEntryId {
        let made = unit.add(unit.root(), tag);
        self.made.insert(id, made);
        let name = self.btf.name(id);
        if !name.is_empty() {
            unit.get_mut(made).set(dw::DW_AT_name, Value::String(name.into()));
        }
        if let Some(bytes) = bytes {
            unit.get_mut(made).set(dw::DW_AT_byte_size, Value::Udata(bytes.into()));
        }
        made
    }

    /// An entry that refers to another type.
    fn made_of(
        &mut self,
        unit: &mut Unit,
        id: TypeId,
        tag: gimli::DwTag,
        to: TypeId,
        bytes: Option<u32>,
    ) -> UnitEntryId {
        let made = self.entry(unit, id, tag, bytes);
        if let Some(to) = self.of(unit, to) {
            unit.get_mut(made).set(dw::DW_AT_type, Value::UnitRef(to));
        }
        made
    }

    fn members(
        &mut self,
        unit: &mut Unit,
        id: TypeId,
        tag: gimli::DwTag,
        bytes: u32,
        members: &[RawMember],
    ) -> UnitEntryId {
        let made = self.entry(unit, id, tag, Some(bytes));
        let view = self.image.converted.get(self.btf.name(id));
        if let Some(view) = view {
            converted::put(unit, made, view.kind);
        }
        let shown = |m: &&RawMember| view.is_none_or(|v| v.members.contains(&(m.bit_off / 8)));
        for m in members.iter().filter(shown) {
            let Some(ty) = self.of(unit, m.ty) else { continue };
            let member = unit.add(made, dw::DW_TAG_member);
            let member = unit.get_mut(member);
            let name = self.btf.str(m.name_off);
            if !name.is_empty() {
                member.set(dw::DW_AT_name, Value::String(name.into()));
            }
            member.set(dw::DW_AT_type, Value::UnitRef(ty));
            if m.bits == 0 {
                member.set(dw::DW_AT_data_member_location, Value::Udata((m.bit_off / 8).into()));
            } else {
                member.set(dw::DW_AT_bit_size, Value::Udata(m.bits.into()));
                member.set(dw::DW_AT_data_bit_offset, Value::Udata(m.bit_off.into()));
            }
        }
        made
    }

    fn enumeration(
        &mut self,
        unit: &mut Unit,
        id: TypeId,
        bytes: u32,
        signed: bool,
    ) -> UnitEntryId {
        let made = self.entry(unit, id, dw::DW_TAG_enumeration_type, Some(bytes));
        for (name, value) in self.btf.enumerators(id) {
            let one = unit.add(made, dw::DW_TAG_enumerator);
            let one = unit.get_mut(one);
            one.set(dw::DW_AT_name, Value::String(name.into()));
            let value = match signed {
                true => Value::Sdata(value.cast_signed()),
                false => Value::Udata(value),
            };
            one.set(dw::DW_AT_const_value, value);
        }
        made
    }
}
