//! CO-RE: the thirteen relocation kinds, computed and patched into instructions.
//!
//! Follows `bpf_core_calc_relo_insn` and `bpf_core_patch_insn`. What the target lacks becomes a
//! call of an impossible helper ("bad relo"), which only matters when the verifier reaches it.

use super::core_match::{
    Access, Candidates, SPEC_MAX, Spec, local_field, match_field, types_are_compat, types_match,
};
use super::line_info::CoreRecord;
use super::{essential_name, reloc::LD_IMM64};
use crate::Endian;
use crate::btf::{Body, Btf, TypeId};
use crate::insn::Slot;

/// 0xbad2310: the helper id a missing target turns an instruction into.
pub(super) const POISON: i32 = 195_896_080;

/// `enum bpf_core_relo_kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub enum CoreKind {
    FieldByteOffset = 0,
    FieldByteSize = 1,
    FieldExists = 2,
    FieldSigned = 3,
    FieldLshiftU64 = 4,
    FieldRshiftU64 = 5,
    TypeIdLocal = 6,
    TypeIdTarget = 7,
    TypeExists = 8,
    TypeSize = 9,
    EnumvalExists = 10,
    EnumvalValue = 11,
    TypeMatches = 12,
}

impl CoreKind {
    /// Every kind with the name `llvm-objdump` and libbpf's log print.
    #[rustfmt::skip]
    pub const TABLE: &'static [(CoreKind, &'static str)] = &[
        (CoreKind::FieldByteOffset, "byte_off"),
        (CoreKind::FieldByteSize, "byte_sz"),
        (CoreKind::FieldExists, "field_exists"),
        (CoreKind::FieldSigned, "signed"),
        (CoreKind::FieldLshiftU64, "lshift_u64"),
        (CoreKind::FieldRshiftU64, "rshift_u64"),
        (CoreKind::TypeIdLocal, "local_type_id"),
        (CoreKind::TypeIdTarget, "target_type_id"),
        (CoreKind::TypeExists, "type_exists"),
        (CoreKind::TypeSize, "type_size"),
        (CoreKind::EnumvalExists, "enumval_exists"),
        (CoreKind::EnumvalValue, "enumval_value"),
        (CoreKind::TypeMatches, "type_matches"),
    ];

    /// From the number in a record.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<CoreKind> {
        CoreKind::TABLE.get(raw as usize).map(|r| r.0)
    }

    /// libbpf's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        CoreKind::TABLE[self as usize].1
    }

    fn is_field(self) -> bool {
        (self as u32) <= CoreKind::FieldRshiftU64 as u32
    }

    fn is_enumval(self) -> bool {
        matches!(self, CoreKind::EnumvalExists | CoreKind::EnumvalValue)
    }
}

/// Why a relocation cannot be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreError {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub hint: &'static str,
}

impl CoreError {
    fn new(what: impl Into<String>) -> CoreError {
        CoreError { what: what.into(), hint: "" }
    }
}

/// What a relocation computes (`bpf_core_relo_res`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreOutcome {
    /// Value in terms of the local types: what the instruction should contain.
    pub old: u64,
    /// Value in terms of the target.
    pub new: u64,
    /// The target has no such thing.
    pub poison: bool,
    /// The old value has to be in the instruction.
    pub validate: bool,
    /// Sizes differ in a way that a load cannot be adjusted to.
    pub fail_memsz: bool,
    /// Bytes of the local field, 0 when unknown.
    pub old_size: u32,
    /// Bytes of the target's field.
    pub new_size: u32,
}

/// One side of a relocation.
#[derive(Clone, Copy, Default)]
struct Value {
    val: u64,
    validate: bool,
    size: u32,
    ty: TypeId,
}

/// `bpf_core_calc_field_relo` of an existing field.
fn field_value(btf: &Btf, spec: &Spec, kind: CoreKind, endian: Endian) -> Result<Value, CoreError> {
    let last = spec.steps.last().ok_or_else(|| CoreError::new("empty access"))?;
    let sized = |id| btf.size_of(id).ok_or_else(|| CoreError::new("the field has no size"));
    if kind == CoreKind::FieldExists {
        return Ok(Value { val: 1, validate: true, ..Value::default() });
    }
    let Access { ty, idx, name: Some(_) } = last else {
        let size = sized(last.ty)?;
        let (val, size) = match kind {
            CoreKind::FieldByteOffset => (spec.bit_off / 8, size),
            CoreKind::FieldByteSize => (u64::from(size), 0),
            _ => return Err(CoreError::new(format!("{} of an array element", kind.name()))),
        };
        return Ok(Value { val, validate: true, size, ty: last.ty });
    };
    let member = btf.members(*ty).nth(*idx as usize);
    let member = member.ok_or_else(|| CoreError::new("no such member"))?;
    let field = btf.resolve(member.ty);
    let size = sized(field)?;
    let bitfield = member.bits != 0;
    let (mut byte_size, mut byte_off) = (u64::from(size), spec.bit_off / 8);
    let mut bits = byte_size * 8;
    if bitfield {
        bits = u64::from(member.bits);
        // The unit grows until the bits fit, as a compiler's loads would.
        byte_size = byte_size.clamp(1, 8);
        byte_off = spec.bit_off / 8 / byte_size * byte_size;
        while spec.bit_off + bits - byte_off * 8 > byte_size * 8 {
            if byte_size >= 8 {
                return Err(CoreError::new("the bitfield does not fit into 8 bytes"));
            }
            byte_size *= 2;
            byte_off = spec.bit_off / 8 / byte_size * byte_size;
        }
    }
    let signed = match btf.body(field) {
        Body::Int { enc, .. } => enc.signed,
        Body::Enum { signed, .. } | Body::Enum64 { signed, .. } => *signed,
        _ => false,
    };
    let head = spec.bit_off - byte_off * 8;
    let plain = Value { validate: !bitfield, ..Value::default() };
    Ok(match kind {
        CoreKind::FieldByteOffset if bitfield => Value { val: byte_off, ..plain },
        CoreKind::FieldByteOffset => Value { val: byte_off, size, ty: field, ..plain },
        CoreKind::FieldByteSize => Value { val: byte_size, ..plain },
        CoreKind::FieldSigned => Value { val: u64::from(signed), validate: true, ..plain },
        CoreKind::FieldLshiftU64 => {
            let val = match endian {
                Endian::Little => 64u64.wrapping_sub(head + bits),
                Endian::Big => 8u64.wrapping_sub(byte_size).wrapping_mul(8) + head,
            };
            Value { val, ..plain }
        }
        _ => Value { val: 64u64.wrapping_sub(bits), validate: true, ..plain },
    })
}

/// `bpf_core_calc_enumval_relo`; a 32-bit enumerator counts as signed there.
fn enum_value(btf: &Btf, spec: &Spec) -> Option<u64> {
    let idx = spec.steps.first()?.idx as usize;
    match btf.body(btf.resolve(spec.root)) {
        Body::Enum { values, .. } => Some(i64::from(values.get(idx)?.value as i32) as u64),
        Body::Enum64 { values, .. } => Some(values.get(idx)?.value),
        _ => None,
    }
}

/// The value of one side; None when the target lacks what is asked for.
fn side(
    btf: &Btf,
    spec: Option<&Spec>,
    kind: CoreKind,
    endian: Endian,
) -> Result<Option<Value>, CoreError> {
    let flag = |val| Ok(Some(Value { val, validate: true, ..Value::default() }));
    match (kind, spec) {
        (CoreKind::FieldExists | CoreKind::EnumvalExists, s) if !kind.is_field() || s.is_none() => {
            flag(u64::from(s.is_some()))
        }
        (k, Some(s)) if k.is_field() => field_value(btf, s, k, endian).map(Some),
        (CoreKind::EnumvalValue, Some(s)) => {
            let val = enum_value(btf, s).ok_or_else(|| CoreError::new("no such enumerator"))?;
            flag(val)
        }
        (CoreKind::TypeIdTarget, Some(s)) => {
            Ok(Some(Value { val: u64::from(s.root), ..Value::default() }))
        }
        (CoreKind::TypeExists | CoreKind::TypeMatches, Some(_)) => flag(1),
        (CoreKind::TypeSize, Some(s)) => match btf.size_of(s.root) {
            Some(size) => flag(u64::from(size)),
            None => Err(CoreError::new("the type has no size")),
        },
        (k, None) if !k.is_field() && !k.is_enumval() => flag(0),
        _ => Ok(None),
    }
}

/// `bpf_core_calc_relo`.
fn outcome(
    local: &Btf,
    local_spec: &Spec,
    target: &Btf,
    target_spec: Option<&Spec>,
    kind: CoreKind,
    endian: Endian,
) -> Result<CoreOutcome, CoreError> {
    let old = side(local, Some(local_spec), kind, endian)?;
    let old = old.ok_or_else(|| CoreError::new("the local type lacks what it records"))?;
    let Some(new) = side(target, target_spec, kind, endian)? else {
        return Ok(CoreOutcome { old: old.val, poison: true, ..CoreOutcome::default() });
    };
    let mut fail_memsz = false;
    if kind.is_field() && old.size != new.size {
        let unsigned = |btf: &Btf, ty| match btf.body(btf.resolve(ty)) {
            Body::Int { enc, .. } => !enc.signed,
            _ => false,
        };
        let ptr = |btf: &Btf, ty| matches!(btf.body(btf.resolve(ty)), Body::Ptr(_));
        fail_memsz = !(ptr(local, old.ty) && ptr(target, new.ty)
            || unsigned(local, old.ty) && unsigned(target, new.ty));
    }
    Ok(CoreOutcome {
        old: old.val,
        new: new.val,
        poison: false,
        validate: old.validate,
        fail_memsz,
        old_size: old.size,
        new_size: new.size,
    })
}

fn parse_access(text: &str) -> Result<Vec<u32>, CoreError> {
    let bad = || CoreError::new(format!("malformed access string {text:?}"));
    let path: Vec<u32> =
        text.split(':').map(|n| n.parse().map_err(|_| bad())).collect::<Result<_, _>>()?;
    if path.len() > SPEC_MAX { Err(bad()) } else { Ok(path) }
}

/// `bpf_core_parse_spec`.
fn local_spec(btf: &Btf, r: &CoreRecord, kind: CoreKind) -> Result<Spec, CoreError> {
    let path = parse_access(&r.access)?;
    let root = btf.resolve(r.type_id);
    if kind.is_field() {
        return local_field(btf, r.type_id, &path).map_err(CoreError::new);
    }
    if path.len() != 1 {
        return Err(CoreError::new(format!("access string {:?} of a type", r.access)));
    }
    // Type relocations name the type as written, so a typedef counts as itself.
    let mut spec = Spec { root: r.type_id, ..Spec::default() };
    if kind.is_enumval() {
        spec.root = root;
        let e = btf.enumerators(root).nth(path[0] as usize);
        let e = e.ok_or_else(|| CoreError::new(format!("no enumerator {}", path[0])))?;
        spec.steps.push(Access { ty: root, idx: path[0], name: Some(e.0.to_owned()) });
    }
    Ok(spec)
}

/// The type a record begins at, and the members it goes through.
pub(super) fn path_name(btf: &Btf, r: &CoreRecord, kind: CoreKind) -> Option<String> {
    let spec = local_spec(btf, r, kind).ok()?;
    let names = spec.steps.iter().filter_map(|s| s.name.as_deref());
    Some(names.fold(btf.type_name(r.type_id), |path, name| format!("{path}.{name}")))
}

/// `bpf_core_spec_match`.
fn match_spec(local: &Btf, spec: &Spec, target: &Btf, id: TypeId, kind: CoreKind) -> Option<Spec> {
    match kind {
        k if k.is_field() => match_field(local, spec, target, id),
        k if k.is_enumval() => {
            let step = spec.steps.first()?;
            let name = essential_name(step.name.as_deref()?);
            let idx = target.enumerators(id).position(|e| essential_name(e.0) == name)?;
            let found = Access { ty: id, idx: idx as u32, name: step.name.clone() };
            Some(Spec { root: id, steps: vec![found], bit_off: 0 })
        }
        CoreKind::TypeMatches => {
            types_match(local, spec.root, target, id).then(|| Spec { root: id, ..Spec::default() })
        }
        _ => types_are_compat(local, spec.root, target, id)
            .then(|| Spec { root: id, ..Spec::default() }),
    }
}

/// Computes one record against the target (`bpf_core_calc_relo_insn`).
pub(super) fn compute(
    local: &Btf,
    cands: &mut Candidates<'_>,
    r: &CoreRecord,
    endian: Endian,
) -> Result<CoreOutcome, CoreError> {
    let unknown = || CoreError::new(format!("unknown CO-RE relocation kind {}", r.kind));
    let kind = CoreKind::from_raw(r.kind).ok_or_else(unknown)?;
    let spec = local_spec(local, r, kind)?;
    if kind == CoreKind::TypeIdLocal {
        let id = u64::from(r.type_id);
        return Ok(CoreOutcome { old: id, new: id, ..CoreOutcome::default() });
    }
    // A field's root is looked up by the type behind a typedef that has no name of its own there.
    let name_id = if kind.is_field() { spec.root } else { r.type_id };
    let target = cands.target;
    let mut found: Option<(Spec, CoreOutcome)> = None;
    for id in cands.of(local, name_id) {
        let Some(s) = match_spec(local, &spec, target, id, kind) else { continue };
        let res = outcome(local, &spec, target, Some(&s), kind, endian)?;
        match &found {
            None => found = Some((s, res)),
            Some((first, old)) => {
                if first.bit_off != s.bit_off || (old.poison, old.new) != (res.poison, res.new) {
                    let what = format!(
                        "'{}' is ambiguous: types [{}] and [{id}] of the kernel both match and \
                         give {} and {}",
                        local.name(name_id),
                        first.root,
                        old.new,
                        res.new
                    );
                    return Err(CoreError { what, hint: "name the one that is meant by a flavor" });
                }
            }
        }
    }
    match found {
        Some((_, res)) => Ok(res),
        None => outcome(local, &spec, target, None, kind, endian),
    }
}

fn poison(slots: &mut [Slot], at: usize) {
    let bad = Slot { code: super::reloc::CALL, imm: POISON, ..Slot::default() };
    if slots[at].code == LD_IMM64 && at + 1 < slots.len() {
        slots[at + 1] = bad;
    }
    slots[at] = bad;
}

/// `bpf_core_patch_insn`.
fn patch(slots: &mut [Slot], at: usize, res: &CoreOutcome) -> Result<(), CoreError> {
    let mismatch = |have: i64| CoreError {
        what: format!("the instruction has {have}, its CO-RE record says {}", res.old),
        hint: "the object was changed after it was compiled",
    };
    if res.poison {
        poison(slots, at);
        return Ok(());
    }
    let hi = slots.get(at + 1).copied();
    let insn = &mut slots[at];
    let check = |have: i64| {
        if res.validate && have as u64 != res.old { Err(mismatch(have)) } else { Ok(()) }
    };
    match insn.code & 7 {
        4 | 7 if insn.code & 8 == 0 => {
            check(i64::from(insn.imm))?;
            insn.imm = (res.new as u32).cast_signed();
            Ok(())
        }
        1..=3 => {
            check(i64::from(insn.off))?;
            if res.fail_memsz {
                poison(slots, at);
                return Ok(());
            }
            insn.off = i16::try_from(res.new)
                .map_err(|_| CoreError::new(format!("offset {} exceeds 16 bits", res.new)))?;
            if res.old_size != res.new_size { resize(insn, res) } else { Ok(()) }
        }
        0 if insn.code == LD_IMM64 && insn.src == 0 => {
            let Some(hi) = hi else { return Err(CoreError::new("a load cut in half")) };
            check(i64::from(hi.imm) << 32 | i64::from(insn.imm.cast_unsigned()))?;
            insn.imm = (res.new as u32).cast_signed();
            slots[at + 1].imm = ((res.new >> 32) as u32).cast_signed();
            Ok(())
        }
        _ => Err(CoreError::new(format!("opcode {:#04x} cannot be CO-RE relocated", insn.code))),
    }
}

fn resize(insn: &mut Slot, res: &CoreOutcome) -> Result<(), CoreError> {
    let have = match insn.code & 0x18 {
        0x00 => 4,
        0x08 => 2,
        0x10 => 1,
        _ => 8,
    };
    if have != res.old_size {
        let what = format!("a {have}-byte access to a field of {} bytes", res.old_size);
        return Err(CoreError::new(what));
    }
    let size = match res.new_size {
        8 => 0x18,
        4 => 0x00,
        2 => 0x08,
        1 => 0x10,
        n => return Err(CoreError::new(format!("no load of {n} bytes"))),
    };
    insn.code = insn.code & !0x18 | size;
    Ok(())
}

/// Computes a record and patches slot `at` of `slots`.
pub(super) fn apply(
    local: &Btf,
    cands: &mut Candidates<'_>,
    r: &CoreRecord,
    endian: Endian,
    slots: &mut [Slot],
    at: u32,
) -> Result<(), CoreError> {
    let named = |e: CoreError| {
        let kind = CoreKind::from_raw(r.kind).map_or("?", CoreKind::name);
        let what =
            format!("CO-RE {kind} of '{}' ({}): {}", local.name(r.type_id), r.access, e.what);
        CoreError { what, hint: e.hint }
    };
    let res = compute(local, cands, r, endian).map_err(named)?;
    patch(slots, at as usize, &res).map_err(named)
}
