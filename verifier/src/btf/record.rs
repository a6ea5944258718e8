//! `struct btf_record`: the special fields of a map value or an allocated object.
//!
//! | field | declared by | size |
//! |---|---|---|
//! | locks, timers, nodes, counters | the name of a structure | its own |
//! | lists, trees | the structure's name and a tag `contains:TYPE:MEMBER` | 16 |
//! | pointers to kernel objects | a type tag of the pointee | 8 |

use bpf::btf::{Body, Btf, Kind, TypeId};

use super::BtfSrc;
use crate::reject::{E2BIG, EFAULT, EINVAL};

/// `ENOENT`.
const ENOENT: i32 = 2;
/// `EEXIST`.
const EEXIST: i32 = 17;
/// `MAX_RESOLVE_DEPTH`.
const DEPTH_MAX: u32 = 32;
/// `BTF_FIELDS_MAX`.
const FIELDS_MAX: usize = 11;

/// `enum btf_field_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the kernel's, without BPF_")]
pub enum FieldKind {
    SpinLock,
    ResSpinLock,
    Timer,
    Workqueue,
    TaskWork,
    KptrUnref,
    KptrRef,
    KptrPercpu,
    Uptr,
    ListHead,
    ListNode,
    RbRoot,
    RbNode,
    Refcount,
}

/// A structure that is a special field.
struct Row {
    name: &'static str,
    kind: FieldKind,
    size: u32,
    align: u32,
    /// At most one in a value.
    unique: bool,
}

const fn row(name: &'static str, kind: FieldKind, size: u32, unique: bool) -> Row {
    Row { name, kind, size, align: if size == 4 { 4 } else { 8 }, unique }
}

const ROWS: &[Row] = &[
    row("bpf_spin_lock", FieldKind::SpinLock, 4, true),
    row("bpf_res_spin_lock", FieldKind::ResSpinLock, 4, true),
    row("bpf_timer", FieldKind::Timer, 16, true),
    row("bpf_wq", FieldKind::Workqueue, 16, true),
    row("bpf_task_work", FieldKind::TaskWork, 8, true),
    row("bpf_list_head", FieldKind::ListHead, 16, false),
    row("bpf_list_node", FieldKind::ListNode, 24, false),
    row("bpf_rb_root", FieldKind::RbRoot, 16, false),
    row("bpf_rb_node", FieldKind::RbNode, 32, false),
    row("bpf_refcount", FieldKind::Refcount, 4, true),
];

/// Type tags of pointers.
const KPTR_TAGS: &[(&str, FieldKind)] = &[
    ("kptr_untrusted", FieldKind::KptrUnref),
    ("kptr", FieldKind::KptrRef),
    ("percpu_kptr", FieldKind::KptrPercpu),
    ("uptr", FieldKind::Uptr),
];

impl FieldKind {
    /// `btf_field_type_name`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            FieldKind::KptrUnref | FieldKind::KptrRef => "kptr",
            FieldKind::KptrPercpu => "percpu_kptr",
            FieldKind::Uptr => "uptr",
            _ => ROWS.iter().find(|r| r.kind == self).map_or("unknown", |r| r.name),
        }
    }

    /// `BPF_KPTR`: kernel pointers of any kind; user pointers are none.
    #[must_use]
    pub const fn is_kptr(self) -> bool {
        matches!(self, FieldKind::KptrUnref | FieldKind::KptrRef | FieldKind::KptrPercpu)
    }

    /// `BPF_GRAPH_ROOT`.
    #[must_use]
    pub const fn is_graph_root(self) -> bool {
        matches!(self, FieldKind::ListHead | FieldKind::RbRoot)
    }
}

/// One special field: `struct btf_field`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    /// Kind.
    pub kind: FieldKind,
    /// Byte offset in the value.
    pub off: u32,
    /// Size in bytes.
    pub size: u32,
    /// What a kptr points to, or what a list or tree contains (`graph_root.value_btf_id`).
    pub target: (BtfSrc, TypeId),
    /// Offset of the node in what is contained (`graph_root.node_offset`).
    pub node_off: u32,
}

/// All special fields by offset.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// Fields ordered by offset.
    pub fields: Vec<Field>,
}

impl Record {
    /// The first field of a kind.
    #[must_use]
    pub fn find(&self, kind: FieldKind) -> Option<&Field> {
        self.fields.iter().find(|f| f.kind == kind)
    }

    /// `btf_record_has_field`.
    #[must_use]
    pub fn has(&self, kind: FieldKind) -> bool {
        self.find(kind).is_some()
    }

    /// `btf_record_find`: the field that begins at an offset.
    #[must_use]
    pub fn at(&self, off: u32) -> Option<&Field> {
        self.fields.iter().find(|f| f.off == off)
    }

    /// There are no special fields.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }
}

/// Where the fields may be: `field_mask` of `btf_parse_fields`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the value of a map.
    MapValue,
    /// In an object of the program's own.
    Object,
}

impl Place {
    fn allows(self, kind: FieldKind) -> bool {
        use FieldKind as K;
        match self {
            Place::MapValue => !matches!(kind, K::ListNode | K::RbNode),
            Place::Object => !matches!(kind, K::Timer | K::Workqueue | K::TaskWork | K::Uptr),
        }
    }
}

struct Parser<'a> {
    btf: &'a Btf,
    kernel: Option<&'a Btf>,
    place: Place,
    seen: Vec<FieldKind>,
}

/// A member (or a variable of a section) that may be special.
#[derive(Clone, Copy)]
struct Member {
    /// Structure the member is in, for its tags.
    owner: TypeId,
    index: i32,
    ty: TypeId,
    off: u32,
    /// Size a section says; 0 for members.
    size: u32,
}

impl Parser<'_> {
    /// `btf_find_struct_field`, `btf_find_datasec_var`.
    fn aggregate(&mut self, id: TypeId, level: u32) -> Result<Vec<Field>, i32> {
        let members: Vec<Member> = match self.btf.body(id) {
            Body::Struct { members, .. } => (0..)
                .zip(members)
                .filter(|(_, m)| m.bit_off % 8 == 0)
                .map(|(index, m)| Member {
                    owner: id,
                    index,
                    ty: m.ty,
                    off: m.bit_off / 8,
                    size: 0,
                })
                .collect(),
            Body::Datasec { vars, .. } => vars
                .iter()
                .map(|v| {
                    let ty = self.btf.body(v.ty).target().unwrap_or(0);
                    Member { owner: v.ty, index: -1, ty, off: v.offset, size: v.size }
                })
                .collect(),
            _ => return Err(EINVAL),
        };
        let mut out = Vec::new();
        for m in members {
            out.extend(self.member(m, level)?);
            if out.len() > FIELDS_MAX {
                return Err(E2BIG);
            }
        }
        Ok(out)
    }

    /// KERNEL v6.18 btf.c:btf_find_field_one
    fn member(&mut self, m: Member, level: u32) -> Result<Vec<Field>, i32> {
        let (mut ty, mut n, mut depth) = (m.ty, 1u32, 0);
        while let Body::Array { elem, nelems, .. } = *self.btf.body(ty) {
            (ty, n, depth) = (elem, n.wrapping_mul(nelems), depth + 1);
            if depth == DEPTH_MAX {
                return Err(E2BIG);
            }
        }
        if n == 0 {
            return Ok(Vec::new());
        }
        let is_struct = self.btf.kind(ty) == Kind::Struct;
        let name = self.btf.name(ty);
        let row = ROWS.iter().find(|r| r.name == name && self.place.allows(r.kind));
        let one = match row {
            Some(r) => {
                if r.unique && self.seen.contains(&r.kind) {
                    return Err(E2BIG);
                }
                self.seen.push(r.kind);
                self.by_name(&m, ty, r, n)?
            }
            None if is_struct => return self.nested(&m, ty, n, level),
            None => self.kptr(&m, ty, n)?,
        };
        Ok(one.map_or_else(Vec::new, |f| repeat(&[f], n, f.size)))
    }

    /// `btf_find_nested_struct`.
    fn nested(&mut self, m: &Member, ty: TypeId, n: u32, level: u32) -> Result<Vec<Field>, i32> {
        if level + 1 >= DEPTH_MAX {
            return Err(E2BIG);
        }
        let mut fields = self.aggregate(ty, level + 1)?;
        fields.iter_mut().for_each(|f| f.off += m.off);
        if fields.len() * n.min(64) as usize > FIELDS_MAX {
            return if fields.is_empty() { Ok(fields) } else { Err(E2BIG) };
        }
        Ok(repeat(&fields, n, self.btf.size_of(ty).unwrap_or(0)))
    }

    fn by_name(&self, m: &Member, ty: TypeId, r: &Row, n: u32) -> Result<Option<Field>, i32> {
        let misplaced = (m.size != 0 && m.size != r.size * n) || !m.off.is_multiple_of(r.align);
        let other = self.btf.kind(ty) != Kind::Struct || self.btf.size_of(ty) != Some(r.size);
        if misplaced || other {
            return Ok(None);
        }
        let mut f = Field {
            kind: r.kind,
            off: m.off,
            size: r.size,
            target: Default::default(),
            node_off: 0,
        };
        if !r.kind.is_graph_root() {
            return Ok(Some(f));
        }
        let mut tags = self.btf.decl_tags(m.owner).filter(|t| t.0 == m.index);
        let Some(tag) = tags.find_map(|t| t.1.strip_prefix("contains:")) else {
            return Ok(None);
        };
        let Some((ty, node)) = tag.split_once(':') else { return Err(EINVAL) };
        let value = self.btf.find(ty, Kind::Struct).ok_or(ENOENT)?;
        if node.is_empty() {
            return Err(EINVAL);
        }
        let want = if r.kind == FieldKind::ListHead { "bpf_list_node" } else { "bpf_rb_node" };
        let found = self.btf.members(value).find(|x| x.name == node).ok_or(ENOENT)?;
        if self.btf.kind(found.ty) != Kind::Struct || self.btf.name(found.ty) != want {
            return Err(EINVAL);
        }
        if !found.bit_off.is_multiple_of(64) {
            return Err(EINVAL);
        }
        f.target = (BtfSrc::Program, value);
        f.node_off = found.bit_off / 8;
        Ok(Some(f))
    }

    /// `btf_find_kptr`.
    fn kptr(&self, m: &Member, ty: TypeId, n: u32) -> Result<Option<Field>, i32> {
        let whole = 8 * u64::from(n);
        let misplaced = (m.size != 0 && u64::from(m.size) != whole) || !m.off.is_multiple_of(8);
        let Some((kind, to)) = kptr_type(self.btf, ty)?.filter(|_| !misplaced) else {
            return Ok(None);
        };
        if !self.place.allows(kind) {
            return Ok(None);
        }
        let target = match self.kernel.and_then(|k| k.find(self.btf.name(to), Kind::Struct)) {
            Some(id) if kind != FieldKind::Uptr => (BtfSrc::Vmlinux, id),
            _ => (BtfSrc::Program, to),
        };
        Ok(Some(Field { kind, off: m.off, size: 8, target, node_off: 0 }))
    }
}

/// Kind and structure of a tagged pointer.
fn kptr_type(btf: &Btf, ty: TypeId) -> Result<Option<(FieldKind, TypeId)>, i32> {
    let ty = match *btf.body(ty) {
        Body::Volatile(t) => t,
        _ => ty,
    };
    let Body::Ptr(tagged) = *btf.body(ty) else { return Ok(None) };
    let Body::TypeTag { ty: to, attr: false } = *btf.body(tagged) else { return Ok(None) };
    if btf.kind(to) == Kind::TypeTag {
        return Err(EINVAL);
    }
    let tag = KPTR_TAGS.iter().find(|t| t.0 == btf.name(tagged)).ok_or(EINVAL)?;
    let to = btf.resolve(to);
    if btf.kind(to) != Kind::Struct {
        return Err(EINVAL);
    }
    Ok(Some((tag.1, to)))
}

/// `btf_repeat_fields`.
fn repeat(fields: &[Field], n: u32, size: u32) -> Vec<Field> {
    let at = |i: u32| fields.iter().map(move |f| Field { off: f.off + i * size, ..*f });
    (0..n.min(1 + FIELDS_MAX as u32)).flat_map(at).collect()
}

/// KERNEL v6.18 btf.c:btf_parse_fields
///
/// # Errors
/// The errno of a declaration the kernel does not take.
pub fn parse(btf: &Btf, kernel: Option<&Btf>, id: TypeId, place: Place) -> Result<Record, i32> {
    let mut p = Parser { btf, kernel, place, seen: Vec::new() };
    let mut fields = p.aggregate(id, 0)?;
    if fields.len() > FIELDS_MAX {
        return Err(E2BIG);
    }
    let mut next = 0;
    for f in &fields {
        if f.off < next {
            return Err(EEXIST);
        }
        next = f.off.checked_add(f.size).ok_or(EFAULT)?;
    }
    fields.sort_by_key(|f| f.off);
    let rec = Record { fields };
    let locked = rec.has(FieldKind::SpinLock) || rec.has(FieldKind::ResSpinLock);
    let graph = rec.has(FieldKind::ListHead) || rec.has(FieldKind::RbRoot);
    let nodes = rec.has(FieldKind::ListNode) && rec.has(FieldKind::RbNode);
    if (graph && !locked) || (nodes && !rec.has(FieldKind::Refcount)) {
        return Err(EINVAL);
    }
    Ok(rec)
}

/// `btf_parse_struct_metas`: the program's structures with special fields.
pub(crate) fn struct_metas(
    btf: &Btf,
    kernel: Option<&Btf>,
) -> std::collections::BTreeMap<TypeId, Record> {
    let mut out = std::collections::BTreeMap::new();
    for id in btf.ids().filter(|id| btf.kind(*id) == Kind::Struct) {
        let special = |ty: TypeId| {
            let name = btf.name(ty);
            let named = ROWS.iter().any(|r| r.name == name && Place::Object.allows(r.kind));
            (named && btf.kind(ty) == Kind::Struct) || matches!(kptr_type(btf, ty), Ok(Some(_)))
        };
        if !btf.members(id).any(|m| special(m.ty)) {
            continue;
        }
        if let Ok(rec) = parse(btf, kernel, id, Place::Object) {
            out.insert(id, rec);
        }
    }
    out
}

/// Fields of the values of a map: those its BTF declares, or those its creator knows by offset.
pub(crate) fn of_map(m: &crate::env::MapInfo, btf: Option<&Btf>, kernel: Option<&Btf>) -> Record {
    let declared = btf.filter(|_| m.value_type_id != 0);
    let value = declared.map(|b| (b, b.resolve(m.value_type_id)));
    let parsed = value.and_then(|(b, id)| parse(b, kernel, id, Place::MapValue).ok());
    if let Some(rec) = parsed.filter(|r| !r.is_empty()) {
        return rec;
    }
    let known = [(m.spin_lock_off, FieldKind::SpinLock, 4), (m.timer_off, FieldKind::Timer, 16)];
    let field = |(off, kind, size): (Option<u32>, FieldKind, u32)| {
        off.map(|off| Field { kind, off, size, target: Default::default(), node_off: 0 })
    };
    Record { fields: known.into_iter().filter_map(field).collect() }
}

#[cfg(test)]
mod tests;
