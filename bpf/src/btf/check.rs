//! What must hold between types: references exist and fit, nothing contains itself by value.
//!
//! This is the part of the kernel's `btf_check_all_types` that makes later walks terminate. Two
//! bounds stand for the kernel's: nesting by value has a depth limit (`MAX_RESOLVE_DEPTH`), and the
//! number of members reached by value from one type is bounded, since a chain of structs with two
//! members of the next one each would double at every step.

use super::parse::BtfError;
use super::types::{Body, Btf, Kind, TypeId};

/// `MAX_RESOLVE_DEPTH`, with room for the modifiers that the kernel does not count.
const MAX_DEPTH: u32 = 96;
/// Members reached by value from one type; the largest kernel struct has some ten thousand.
const MAX_WEIGHT: u32 = 1 << 20;

fn error(btf: &Btf, id: TypeId, what: impl Into<String>) -> BtfError {
    BtfError::Type { id, kind: btf.kind(id), name: btf.name(id).to_owned(), what: what.into() }
}

pub(super) fn check(btf: &Btf) -> Result<(), BtfError> {
    for id in btf.ids() {
        check_references(btf, id)?;
    }
    check_containment(btf)?;
    for id in btf.ids() {
        check_sizes(btf, id)?;
    }
    Ok(())
}

fn for_each_reference(body: &Body, mut f: impl FnMut(TypeId)) {
    match body {
        Body::Array { elem, index, .. } => {
            f(*elem);
            f(*index);
        }
        Body::Struct { members, .. } | Body::Union { members, .. } => {
            members.iter().for_each(|m| f(m.ty));
        }
        Body::FuncProto { ret, params } => {
            f(*ret);
            params.iter().for_each(|p| f(p.ty));
        }
        Body::Datasec { vars, .. } => vars.iter().for_each(|v| f(v.ty)),
        other => {
            if let Some(t) = other.target() {
                f(t);
            }
        }
    }
}

fn check_references(btf: &Btf, id: TypeId) -> Result<(), BtfError> {
    let (mut bad, mut wrong) = (None, None);
    let owner = btf.kind(id);
    for_each_reference(btf.body(id), |t| {
        if t as usize >= btf.types.len() {
            bad = Some(t);
        } else if !may_refer(owner, btf.kind(t)) {
            wrong = Some(t);
        }
    });
    if let Some(t) = bad {
        return Err(error(btf, id, format!("type_id={t} does not exist")));
    }
    if let Some(t) = wrong {
        return Err(error(btf, id, format!("Invalid type_id={t}, a {}", btf.kind(t))));
    }
    if let Body::DeclTag { ty, component, .. } = btf.body(id)
        && *component >= 0
    {
        let count = match btf.body(*ty) {
            Body::Struct { members, .. } | Body::Union { members, .. } => members.len(),
            Body::Func { .. } => btf.func_proto(*ty).map_or(0, |p| p.1.len()),
            _ => 0,
        };
        if *component as usize >= count {
            return Err(error(btf, id, format!("component_idx={component} is out of range")));
        }
    }
    Ok(())
}

/// Which kinds a kind may refer to.
fn may_refer(owner: Kind, target: Kind) -> bool {
    match owner {
        Kind::Func => target == Kind::FuncProto,
        Kind::Datasec => matches!(target, Kind::Var | Kind::Func),
        Kind::DeclTag => matches!(
            target,
            Kind::Struct
                | Kind::Union
                | Kind::Typedef
                | Kind::Var
                | Kind::Func
                | Kind::Int
                | Kind::Enum
                | Kind::Enum64
                | Kind::Fwd
        ),
        Kind::Struct | Kind::Union | Kind::Array => !matches!(
            target,
            Kind::Void | Kind::FuncProto | Kind::Func | Kind::Var | Kind::Datasec | Kind::DeclTag
        ),
        _ => !matches!(target, Kind::Func | Kind::Var | Kind::Datasec | Kind::DeclTag),
    }
}

fn by_value(body: &Body, mut f: impl FnMut(TypeId)) {
    match body {
        Body::Array { elem, .. } => f(*elem),
        Body::Struct { members, .. } | Body::Union { members, .. } => {
            members.iter().for_each(|m| f(m.ty));
        }
        Body::Typedef(t)
        | Body::Volatile(t)
        | Body::Const(t)
        | Body::Restrict(t)
        | Body::TypeTag { ty: t, .. } => f(*t),
        _ => {}
    }
}

/// Depth-first over by-value edges with an explicit stack.
fn check_containment(btf: &Btf) -> Result<(), BtfError> {
    const NEW: u32 = 0;
    const OPEN: u32 = u32::MAX;
    // Depth of what is done; `OPEN` while on the stack.
    let mut depth = vec![NEW; btf.types.len()];
    let mut weight = vec![0u32; btf.types.len()];
    let mut stack = Vec::new();
    for root in btf.ids() {
        if depth[root as usize] == NEW {
            stack.push(root);
        }
        while let Some(&id) = stack.last() {
            if depth[id as usize] == NEW {
                depth[id as usize] = OPEN;
                let mut looped = false;
                by_value(btf.body(id), |t| match depth[t as usize] {
                    NEW => stack.push(t),
                    OPEN => looped = true,
                    _ => {}
                });
                if looped {
                    return Err(error(btf, id, "Loop detected: the type contains itself"));
                }
                continue;
            }
            stack.pop();
            if depth[id as usize] != OPEN {
                continue;
            }
            let (mut deepest, mut sum) = (0, 1u32);
            by_value(btf.body(id), |t| {
                deepest = deepest.max(depth[t as usize]);
                sum = sum.saturating_add(weight[t as usize]);
            });
            if deepest >= MAX_DEPTH || sum > MAX_WEIGHT {
                return Err(error(btf, id, "Exceeded max resolve depth"));
            }
            depth[id as usize] = deepest + 1;
            weight[id as usize] = sum;
        }
    }
    Ok(())
}

/// Members lie inside their struct; arrays do not overflow.
fn check_sizes(btf: &Btf, id: TypeId) -> Result<(), BtfError> {
    match btf.body(id) {
        Body::Struct { size, members } | Body::Union { size, members } => {
            for (i, m) in members.iter().enumerate() {
                let Some(bytes) = btf.size_of(m.ty) else {
                    return Err(error(btf, id, format!("member {i} has no size")));
                };
                let bits = if m.bits != 0 { u64::from(m.bits) } else { u64::from(bytes) * 8 };
                let legacy = matches!(btf.body(btf.resolve(m.ty)), Body::Int { bits, size, .. }
                    if u64::from(*bits) != u64::from(*size) * 8);
                if m.bits == 0 && !legacy && m.bit_off % 8 != 0 {
                    return Err(error(btf, id, format!("member {i}: Member is not byte aligned")));
                }
                if !legacy && u64::from(m.bit_off) + bits > u64::from(*size) * 8 {
                    return Err(error(btf, id, format!("member {i} exceeds struct_size")));
                }
            }
            Ok(())
        }
        Body::Array { .. } if btf.size_of(id).is_none() => {
            Err(error(btf, id, "Invalid elem: without size, or the array overflows u32"))
        }
        _ => Ok(()),
    }
}
