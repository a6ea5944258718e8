//! CO-RE: which types and fields of the target correspond to the local ones.
//!
//! Follows `bpf_core_types_are_compat`, `bpf_core_fields_are_compat`, `bpf_core_match_member`,
//! `bpf_core_spec_match` and `__bpf_core_types_match` of libbpf's `relo_core.c`.

use std::collections::BTreeMap;

use super::essential_name;
use crate::btf::{Body, Btf, Kind, TypeId};

/// Deepest access of one relocation (`BPF_CORE_SPEC_MAX_LEN`).
pub(super) const SPEC_MAX: usize = 64;
/// Nesting of prototypes and matched types.
const MAX_DEPTH: u32 = 32;
/// Type pairs looked at by one comparison: hostile types must not multiply.
const MAX_STEPS: u32 = 1 << 16;

/// Target types by local name and kind, remembered for one link.
pub(super) struct Candidates<'a> {
    pub(super) target: &'a Btf,
    cache: BTreeMap<TypeId, Vec<TypeId>>,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(target: &'a Btf) -> Candidates<'a> {
        Candidates { target, cache: BTreeMap::new() }
    }

    /// `bpf_core_add_cands`: same name without flavor, same kind.
    pub(super) fn of(&mut self, local: &Btf, id: TypeId) -> Vec<TypeId> {
        let target = self.target;
        let found = self.cache.entry(id).or_insert_with(|| {
            let name = essential_name(local.name(id));
            if name.is_empty() {
                return Vec::new();
            }
            let same = |t: &TypeId| {
                essential_name(target.name(*t)) == name
                    && kinds_compat(local.kind(id), target.kind(*t))
            };
            let mut ids: Vec<_> = target.with_prefix(name).iter().copied().filter(same).collect();
            ids.sort_unstable();
            ids
        });
        found.clone()
    }
}

fn is_enum(k: Kind) -> bool {
    matches!(k, Kind::Enum | Kind::Enum64)
}

fn is_composite(k: Kind) -> bool {
    matches!(k, Kind::Struct | Kind::Union)
}

fn kinds_compat(a: Kind, b: Kind) -> bool {
    a == b || (is_enum(a) && is_enum(b))
}

fn names_compat(a: &str, b: &str) -> bool {
    let (a, b) = (essential_name(a), essential_name(b));
    a.is_empty() || b.is_empty() || a == b
}

/// `bpf_core_types_are_compat`: the same shape, whatever the sizes and members.
pub(super) fn types_are_compat(local: &Btf, l: TypeId, target: &Btf, t: TypeId) -> bool {
    compat(local, l, target, t, MAX_DEPTH, &mut { MAX_STEPS })
}

fn compat(local: &Btf, l: TypeId, target: &Btf, t: TypeId, depth: u32, steps: &mut u32) -> bool {
    let (mut l, mut t) = (local.resolve(l), target.resolve(t));
    for _ in 0..MAX_DEPTH {
        if depth == 0 || *steps == 0 {
            return false;
        }
        *steps -= 1;
        if !kinds_compat(local.kind(l), target.kind(t)) {
            return false;
        }
        match (local.body(l), target.body(t)) {
            (Body::Ptr(a), Body::Ptr(b)) => (l, t) = (local.resolve(*a), target.resolve(*b)),
            (Body::Array { elem: a, .. }, Body::Array { elem: b, .. }) => {
                (l, t) = (local.resolve(*a), target.resolve(*b));
            }
            (Body::FuncProto { ret: a, params: ap }, Body::FuncProto { ret: b, params: bp }) => {
                if ap.len() != bp.len() {
                    return false;
                }
                let mut pairs = ap.iter().zip(bp);
                if !pairs.all(|(p, q)| compat(local, p.ty, target, q.ty, depth - 1, steps)) {
                    return false;
                }
                (l, t) = (local.resolve(*a), target.resolve(*b));
            }
            (Body::Int { offset: a, .. }, Body::Int { offset: b, .. }) => {
                return *a == 0 && *b == 0;
            }
            (
                Body::Void
                | Body::Struct { .. }
                | Body::Union { .. }
                | Body::Enum { .. }
                | Body::Enum64 { .. }
                | Body::Fwd { .. },
                _,
            ) => return true,
            _ => return false,
        }
    }
    false
}

/// `bpf_core_fields_are_compat`.
fn fields_are_compat(local: &Btf, l: TypeId, target: &Btf, t: TypeId) -> bool {
    let (mut l, mut t) = (local.resolve(l), target.resolve(t));
    loop {
        let (lk, tk) = (local.kind(l), target.kind(t));
        if is_composite(lk) && is_composite(tk) {
            return true;
        }
        if !kinds_compat(lk, tk) {
            return false;
        }
        match (local.body(l), target.body(t)) {
            (Body::Ptr(_) | Body::Float { .. }, _) => return true,
            (Body::Fwd { .. } | Body::Enum { .. } | Body::Enum64 { .. }, _) => {
                return names_compat(local.name(l), target.name(t));
            }
            (Body::Int { offset: a, .. }, Body::Int { offset: b, .. }) => {
                return *a == 0 && *b == 0;
            }
            (Body::Array { elem: a, .. }, Body::Array { elem: b, .. }) => {
                (l, t) = (local.resolve(*a), target.resolve(*b));
            }
            _ => return false,
        }
    }
}

/// One step of an access.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    /// Struct or union for a named step, element type for an index.
    pub(super) ty: TypeId,
    /// Member, enumerator or array index.
    pub(super) idx: u32,
    /// Member or enumerator name; None for an array index.
    pub(super) name: Option<String>,
}

/// An access resolved against one BTF.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spec {
    pub(super) root: TypeId,
    pub(super) steps: Vec<Access>,
    pub(super) bit_off: u64,
}

/// A flexible array is the last member of its struct with at most one element.
fn is_flexible(btf: &Btf, last: Option<&Access>, nelems: u32) -> bool {
    let Some(Access { ty, idx, name: Some(_) }) = last else { return false };
    nelems <= 1 && btf.members(*ty).len() as u32 == idx + 1
}

/// Goes from an array to one of its elements.
fn step_index(btf: &Btf, spec: &mut Spec, array: TypeId, idx: u32) -> Option<TypeId> {
    let Body::Array { elem, nelems, .. } = btf.body(array) else { return None };
    if idx >= *nelems && !is_flexible(btf, spec.steps.last(), *nelems) {
        return None;
    }
    let elem = btf.resolve(*elem);
    push_index(btf, spec, elem, idx)?;
    Some(elem)
}

fn push_index(btf: &Btf, spec: &mut Spec, elem: TypeId, idx: u32) -> Option<()> {
    let bits = (u64::from(idx) * u64::from(btf.size_of(elem)?)).checked_mul(8)?;
    spec.steps.push(Access { ty: elem, idx, name: None });
    spec.bit_off = spec.bit_off.checked_add(bits)?;
    Some(())
}

/// `bpf_core_parse_spec` of a field access; the error says what is wrong with the record.
pub(super) fn local_field(btf: &Btf, root: TypeId, path: &[u32]) -> Result<Spec, String> {
    let root = btf.resolve(root);
    let mut spec = Spec { root, ..Spec::default() };
    let (first, rest) = path.split_first().ok_or("empty access string")?;
    push_index(btf, &mut spec, root, *first).ok_or("the accessed type has no size")?;
    let mut id = root;
    for &idx in rest {
        id = btf.resolve(id);
        if !is_composite(btf.kind(id)) {
            id = step_index(btf, &mut spec, id, idx)
                .ok_or_else(|| format!("index {idx} of a {} that is too short", btf.kind(id)))?;
            continue;
        }
        let m = btf.members(id).nth(idx as usize);
        let m = m.ok_or_else(|| format!("no member {idx} in '{}'", btf.name(id)))?;
        spec.bit_off += u64::from(m.bit_off);
        if !m.name.is_empty() {
            spec.steps.push(Access { ty: id, idx, name: Some(m.name.to_owned()) });
        }
        id = m.ty;
    }
    Ok(spec)
}

/// `bpf_core_match_member`: by name, through anonymous members.
fn match_member(
    local: &Btf,
    local_ty: TypeId,
    name: &str,
    target: &Btf,
    id: TypeId,
    spec: &mut Spec,
) -> Option<TypeId> {
    let id = target.resolve(id);
    for (idx, m) in target.members(id).enumerate() {
        let inner_off = u64::from(m.bit_off);
        if m.name.is_empty() {
            spec.bit_off += inner_off;
            if let Some(found) = match_member(local, local_ty, name, target, m.ty, spec) {
                return Some(found);
            }
            spec.bit_off -= inner_off;
        } else if m.name == name {
            if !fields_are_compat(local, local_ty, target, m.ty) {
                return None;
            }
            spec.bit_off += inner_off;
            spec.steps.push(Access { ty: id, idx: idx as u32, name: Some(name.to_owned()) });
            return Some(m.ty);
        }
    }
    None
}

/// `bpf_core_spec_match` of a field access.
pub(super) fn match_field(local: &Btf, spec: &Spec, target: &Btf, root: TypeId) -> Option<Spec> {
    let mut out = Spec { root, ..Spec::default() };
    let mut id = target.resolve(root);
    for (i, step) in spec.steps.iter().enumerate() {
        id = target.resolve(id);
        match &step.name {
            Some(name) => {
                let ty = local.members(step.ty).nth(step.idx as usize)?.ty;
                id = match_member(local, ty, name, target, id, &mut out)?;
            }
            None if i == 0 => push_index(target, &mut out, id, step.idx)?,
            None => id = step_index(target, &mut out, id, step.idx)?,
        }
    }
    Some(out)
}

/// `__bpf_core_types_match`: every member and enumerator of the local type is in the target's.
pub(super) fn types_match(local: &Btf, l: TypeId, target: &Btf, t: TypeId) -> bool {
    Matcher { local, target, steps: MAX_STEPS }.types(l, t, false, MAX_DEPTH)
}

struct Matcher<'a> {
    local: &'a Btf,
    target: &'a Btf,
    steps: u32,
}

impl Matcher<'_> {
    fn types(&mut self, l: TypeId, t: TypeId, behind_ptr: bool, depth: u32) -> bool {
        if depth == 0 || self.steps == 0 {
            return false;
        }
        self.steps -= 1;
        let (local, target) = (self.local, self.target);
        let (l, t) = (local.resolve(l), target.resolve(t));
        if essential_name(local.name(l)) != essential_name(target.name(t)) {
            return false;
        }
        let (lk, tk) = (local.kind(l), target.kind(t));
        match (local.body(l), target.body(t)) {
            (Body::Void, _) => tk == Kind::Void,
            (Body::Fwd { union: a }, Body::Fwd { union: b }) => a == b,
            (Body::Fwd { union }, _) => {
                behind_ptr && tk == if *union { Kind::Union } else { Kind::Struct }
            }
            (Body::Enum { .. } | Body::Enum64 { .. }, _) => is_enum(tk) && self.enums(l, t),
            (Body::Struct { .. } | Body::Union { .. }, Body::Fwd { union }) => {
                behind_ptr && (lk == Kind::Union) == *union
            }
            (Body::Struct { .. } | Body::Union { .. }, _) => {
                lk == tk && (behind_ptr || self.composites(l, t, depth))
            }
            (Body::Int { size: a, enc: x, .. }, Body::Int { size: b, enc: y, .. }) => {
                a == b && x.signed == y.signed
            }
            (Body::Ptr(a), Body::Ptr(b)) => self.types(*a, *b, true, depth - 1),
            (Body::Array { elem: a, nelems: n, .. }, Body::Array { elem: b, nelems: m, .. }) => {
                n == m && self.types(*a, *b, behind_ptr, depth - 1)
            }
            (Body::FuncProto { ret: a, params: ap }, Body::FuncProto { ret: b, params: bp }) => {
                ap.len() == bp.len()
                    && ap.iter().zip(bp).all(|(p, q)| self.types(p.ty, q.ty, false, depth - 1))
                    && self.types(*a, *b, false, depth - 1)
            }
            _ => false,
        }
    }

    fn enums(&self, l: TypeId, t: TypeId) -> bool {
        self.local.enumerators(l).len() <= self.target.enumerators(t).len()
            && self.local.enumerators(l).all(|(name, _)| {
                let name = essential_name(name);
                self.target.enumerators(t).any(|(other, _)| essential_name(other) == name)
            })
    }

    fn composites(&mut self, l: TypeId, t: TypeId, depth: u32) -> bool {
        let (local, target) = (self.local, self.target);
        local.members(l).len() <= target.members(t).len()
            && local.members(l).all(|m| {
                let name = essential_name(m.name);
                target.members(t).any(|n| {
                    essential_name(n.name) == name && self.types(m.ty, n.ty, false, depth - 1)
                })
            })
    }
}
