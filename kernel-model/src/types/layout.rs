//! Declarations to BTF: sizes, offsets and type ids.

use std::collections::BTreeMap;

use bpf::btf::BtfBuilder;
use bpf::btf::{Body, Btf, BtfError, IntEncoding, TypeId};

use super::decl::{Decl, Member, Struct, Ty};

/// All declarations as BTF, ids in the order of the table.
pub(super) fn build(decls: &[Decl]) -> Result<Btf, BtfError> {
    let mut l = Layout::default();
    for d in decls {
        l.reserve(d);
    }
    for d in decls {
        l.fill(d);
    }
    l.b.finish()
}

/// Size and alignment.
type Shape = (u32, u32);

#[derive(Default)]
struct Layout {
    b: BtfBuilder,
    ids: BTreeMap<String, TypeId>,
    derived: BTreeMap<String, TypeId>,
    shapes: BTreeMap<String, Shape>,
}

impl Layout {
    /// Gives every named type an id, so that pointers can refer to what comes later.
    fn reserve(&mut self, d: &Decl) {
        let (key, id) = match d {
            Decl::Int { name, size, kind } => {
                let enc =
                    IntEncoding { signed: kind == "signed", char: false, bool: kind == "bool" };
                let body = Body::Int { size: *size, bits: (size * 8) as u8, offset: 0, enc };
                self.shapes.insert(name.clone(), (*size, *size));
                (name.clone(), self.b.add(name, body))
            }
            Decl::Typedef { name, .. } => (name.clone(), self.b.typedef(name, 0)),
            Decl::Struct(s) => {
                let body = Body::Struct { size: 0, members: Vec::new() };
                (s.key(), self.b.add(&s.name, body))
            }
            Decl::Enum { name, values } => {
                let wide = values.iter().any(|v| v.1 > i64::from(u32::MAX));
                let signed = values.iter().any(|v| v.1 < 0);
                let list: Vec<(&str, i64)> = values.iter().map(|v| (&*v.0, v.1)).collect();
                let size = if wide { 8 } else { 4 };
                let key = format!("enum {name}");
                self.shapes.insert(key.clone(), (size, size));
                (key, self.b.enumeration(name, size, signed, &list))
            }
            // Nothing refers to them.
            Decl::Func { .. } | Decl::Trace { .. } => return,
        };
        // A structure that is declared twice would be empty the first time.
        let is_struct = matches!(d, Decl::Struct(_));
        let twice = self.ids.insert(key, id).is_some() && is_struct;
        assert!(!twice, "type table: {d:?} is declared twice");
    }

    fn fill(&mut self, d: &Decl) {
        match d {
            Decl::Typedef { name, ty } => {
                let target = self.id(ty);
                self.b.set(self.ids[name], Body::Typedef(target));
                let shape = if *ty == Ty::Void { (1, 1) } else { self.shape(ty) };
                self.shapes.insert(name.clone(), shape);
            }
            Decl::Struct(s) => {
                let (body, shape) = self.body(s);
                let key = s.key();
                self.b.set(self.ids[&key], body);
                self.shapes.insert(key, shape);
            }
            Decl::Func { name, ret, params, kfunc } => {
                let proto = self.proto(ret, params);
                let linkage = bpf::btf::Linkage::Static;
                let id = self.b.add(name, Body::Func { proto, linkage });
                if *kfunc {
                    self.b.decl_tag("bpf_kfunc", id, -1);
                }
            }
            Decl::Trace { group, .. } if group == "syscalls" => {}
            Decl::Trace { name, params, .. } => {
                // The first argument of a probe is its own data.
                let mut all = vec![(String::new(), Ty::Ptr(Box::new(Ty::Void)))];
                all.extend(params.iter().cloned());
                let proto = self.proto(&Ty::Void, &all);
                let ptr = self.b.ptr(proto);
                self.b.typedef(&format!("btf_trace_{name}"), ptr);
            }
            Decl::Int { .. } | Decl::Enum { .. } => {}
        }
    }

    fn proto(&mut self, ret: &Ty, params: &[(String, Ty)]) -> TypeId {
        let ret = self.id(ret);
        let ids: Vec<TypeId> = params.iter().map(|p| self.id(&p.1)).collect();
        let named: Vec<(&str, TypeId)> =
            params.iter().zip(ids).map(|(p, id)| (&*p.0, id)).collect();
        self.b.func_proto(ret, &named)
    }

    /// What is used by value must be declared before, as in C.
    fn shape(&self, ty: &Ty) -> Shape {
        let named = |key: &str| {
            *self.shapes.get(key).unwrap_or_else(|| panic!("type table: {key} comes later"))
        };
        match ty {
            Ty::Void | Ty::Fn(..) => panic!("type table: nothing has this by value"),
            Ty::Const(t) => self.shape(t),
            Ty::Name(n) => named(n),
            Ty::Struct(n) => named(&format!("struct {n}")),
            Ty::Union(n) => named(&format!("union {n}")),
            Ty::Enum(n) => named(&format!("enum {n}")),
            Ty::Anon(s) => self.place(s).1,
            Ty::Ptr(_) => (8, 8),
            Ty::Array(t, n) => {
                let (size, align) = self.shape(t);
                (size * n, align)
            }
        }
    }

    /// Bit offsets of the members, and the whole's shape, by the rules of the C ABIs.
    fn place(&self, s: &Struct) -> (Vec<u32>, Shape) {
        let (mut bit, mut end, mut align) = (0u32, 0u32, 1);
        let mut offsets = Vec::new();
        for m in &s.members {
            let (size, al) = self.shape(&m.ty);
            if s.union {
                bit = 0;
            }
            match m.bits {
                Some(bits) => {
                    if bit / (size * 8) != (bit + bits - 1) / (size * 8) {
                        bit = bit.next_multiple_of(size * 8);
                    }
                    offsets.push(bit);
                    bit += bits;
                }
                None => {
                    bit = bit.next_multiple_of(8 * al);
                    offsets.push(bit);
                    bit += 8 * size;
                }
            }
            // An unnamed bitfield does not align its struct.
            if !(m.bits.is_some() && m.name.is_empty()) {
                align = align.max(al);
            }
            end = end.max(bit);
        }
        (offsets, (end.div_ceil(8).next_multiple_of(align), align))
    }

    fn body(&mut self, s: &Struct) -> (Body, Shape) {
        let (offsets, shape) = self.place(s);
        let mut list = Vec::new();
        for (m, off) in s.members.iter().zip(offsets) {
            if m.name.is_empty() && m.bits.is_some() {
                continue;
            }
            list.push((m, self.member_id(m), off));
        }
        let members: Vec<(&str, TypeId, u32, u8)> = list
            .iter()
            .map(|(m, id, off)| (&*m.name, *id, *off, m.bits.unwrap_or(0) as u8))
            .collect();
        let members = self.b.members(&members);
        let size = shape.0;
        let body =
            if s.union { Body::Union { size, members } } else { Body::Struct { size, members } };
        (body, shape)
    }

    fn member_id(&mut self, m: &Member) -> TypeId {
        self.id(&m.ty)
    }

    fn id(&mut self, ty: &Ty) -> TypeId {
        match ty {
            Ty::Void => 0,
            Ty::Name(n) => self.ids[n],
            Ty::Struct(n) => self.named_or_forward(format!("struct {n}"), n),
            Ty::Union(n) => self.named_or_forward(format!("union {n}"), n),
            Ty::Enum(n) => self.ids[&format!("enum {n}")],
            Ty::Anon(s) => {
                let (body, _) = self.body(s);
                self.b.add("", body)
            }
            Ty::Ptr(t) => {
                let target = self.id(t);
                let key = format!("*{target}");
                if let Some(id) = self.derived.get(&key) {
                    return *id;
                }
                let id = self.b.ptr(target);
                self.derived.insert(key, id);
                id
            }
            Ty::Const(t) => {
                let target = self.id(t);
                let key = format!("const {target}");
                if let Some(id) = self.derived.get(&key) {
                    return *id;
                }
                let id = self.b.constant(target);
                self.derived.insert(key, id);
                id
            }
            Ty::Fn(ret, params) => self.proto(ret, params),
            Ty::Array(t, n) => {
                let (elem, index) = (self.id(t), self.ids["unsigned int"]);
                let key = format!("{elem}[{n}]");
                if let Some(id) = self.derived.get(&key) {
                    return *id;
                }
                let id = self.b.array(elem, index, *n);
                self.derived.insert(key, id);
                id
            }
        }
    }

    fn named_or_forward(&mut self, key: String, name: &str) -> TypeId {
        if let Some(id) = self.ids.get(&key) {
            return *id;
        }
        let id = self.b.forward(name);
        self.ids.insert(key, id);
        id
    }
}
