//! Types to a blob: the builder tables are turned into BTF with, and the writer.
//!
//! The writer emits the record form from before 7.2 whenever it can, since an older reader has to
//! refuse the wide one.

use std::collections::BTreeMap;

use super::check;
use super::parse::{BtfError, HEADER_LEN, MAGIC};
use super::types::{
    Body, Btf, Enumerator, IntEncoding, Linkage, Param, RawMember, SecVar, Type, TypeId,
};
use crate::Endian;

/// Collects types; ids are given in the order of the calls, from 1.
#[derive(Clone, Debug)]
pub struct BtfBuilder {
    types: Vec<Type>,
    strings: String,
    offsets: BTreeMap<String, u32>,
}

impl Default for BtfBuilder {
    fn default() -> BtfBuilder {
        BtfBuilder::new()
    }
}

impl BtfBuilder {
    /// An empty blob: only `void`.
    #[must_use]
    pub fn new() -> BtfBuilder {
        BtfBuilder {
            types: vec![Type { name_off: 0, body: Body::Void }],
            strings: "\0".to_owned(),
            offsets: BTreeMap::from([(String::new(), 0)]),
        }
    }

    /// Goes on from a parsed blob; its ids stay.
    #[must_use]
    pub fn from_btf(btf: Btf) -> BtfBuilder {
        BtfBuilder { types: btf.types, strings: btf.strings, offsets: BTreeMap::new() }
    }

    /// Offset of a string in the string table. What follows a NUL cannot be stored and is dropped.
    pub fn str(&mut self, s: &str) -> u32 {
        let s = s.split('\0').next().unwrap_or("");
        if s.is_empty() {
            return 0;
        }
        if let Some(off) = self.offsets.get(s) {
            return *off;
        }
        let off = self.strings.len() as u32;
        self.strings.push_str(s);
        self.strings.push('\0');
        self.offsets.insert(s.to_owned(), off);
        off
    }

    /// The id the next type gets; for types that refer to themselves.
    #[must_use]
    pub fn next_id(&self) -> TypeId {
        self.types.len() as TypeId
    }

    /// Any type.
    pub fn add(&mut self, name: &str, body: Body) -> TypeId {
        let name_off = self.str(name);
        self.types.push(Type { name_off, body });
        self.types.len() as TypeId - 1
    }

    /// Replaces a type added before, e.g. a struct whose members need ids that come later.
    pub fn set(&mut self, id: TypeId, body: Body) {
        self.types[id as usize].body = body;
    }

    /// Integer of whole bytes.
    pub fn int(&mut self, name: &str, size: u32, signed: bool) -> TypeId {
        let enc = IntEncoding { signed, ..IntEncoding::default() };
        self.add(name, Body::Int { size, bits: (size * 8) as u8, offset: 0, enc })
    }

    /// `bool`.
    pub fn bool(&mut self) -> TypeId {
        let enc = IntEncoding { bool: true, ..IntEncoding::default() };
        self.add("_Bool", Body::Int { size: 1, bits: 8, offset: 0, enc })
    }

    /// Pointer.
    pub fn ptr(&mut self, ty: TypeId) -> TypeId {
        self.add("", Body::Ptr(ty))
    }

    /// `const`.
    pub fn constant(&mut self, ty: TypeId) -> TypeId {
        self.add("", Body::Const(ty))
    }

    /// Typedef.
    pub fn typedef(&mut self, name: &str, ty: TypeId) -> TypeId {
        self.add(name, Body::Typedef(ty))
    }

    /// Type tag, e.g. `rcu` or `percpu`, on the pointee.
    pub fn type_tag(&mut self, tag: &str, ty: TypeId) -> TypeId {
        self.add(tag, Body::TypeTag { ty, attr: false })
    }

    /// Declaration tag; `component` is -1 for the declaration itself.
    pub fn decl_tag(&mut self, tag: &str, ty: TypeId, component: i32) -> TypeId {
        self.add(tag, Body::DeclTag { ty, component, attr: false })
    }

    /// Array with an index type of its own kind of `int`.
    pub fn array(&mut self, elem: TypeId, index: TypeId, nelems: u32) -> TypeId {
        self.add("", Body::Array { elem, index, nelems })
    }

    /// Stored members from (name, type, bit offset, bitfield width or 0).
    pub fn members(&mut self, members: &[(&str, TypeId, u32, u8)]) -> Vec<RawMember> {
        members
            .iter()
            .map(|&(name, ty, bit_off, bits)| RawMember {
                name_off: self.str(name),
                ty,
                bit_off,
                bits,
            })
            .collect()
    }

    /// Struct from (name, type, bit offset, bitfield width or 0).
    pub fn structure(
        &mut self,
        name: &str,
        size: u32,
        members: &[(&str, TypeId, u32, u8)],
    ) -> TypeId {
        let members = self.members(members);
        self.add(name, Body::Struct { size, members })
    }

    /// Union from (name, type, 0, bitfield width or 0).
    pub fn union(&mut self, name: &str, size: u32, members: &[(&str, TypeId, u32, u8)]) -> TypeId {
        let members = self.members(members);
        self.add(name, Body::Union { size, members })
    }

    /// Forward declaration of a struct.
    pub fn forward(&mut self, name: &str) -> TypeId {
        self.add(name, Body::Fwd { union: false })
    }

    /// Enum; becomes an `ENUM64` when its size is 8.
    pub fn enumeration(
        &mut self,
        name: &str,
        size: u32,
        signed: bool,
        values: &[(&str, i64)],
    ) -> TypeId {
        let values = values
            .iter()
            .map(|&(name, value)| Enumerator { name_off: self.str(name), value: value as u64 })
            .collect();
        let body = if size == 8 {
            Body::Enum64 { size, signed, values }
        } else {
            Body::Enum { size, signed, values }
        };
        self.add(name, body)
    }

    /// Prototype from (name, type).
    pub fn func_proto(&mut self, ret: TypeId, params: &[(&str, TypeId)]) -> TypeId {
        let params =
            params.iter().map(|&(name, ty)| Param { name_off: self.str(name), ty }).collect();
        self.add("", Body::FuncProto { ret, params })
    }

    /// Function with its prototype; the id is the function's.
    pub fn func(
        &mut self,
        name: &str,
        linkage: Linkage,
        ret: TypeId,
        params: &[(&str, TypeId)],
    ) -> TypeId {
        let proto = self.func_proto(ret, params);
        self.add(name, Body::Func { proto, linkage })
    }

    /// Variable.
    pub fn var(&mut self, name: &str, ty: TypeId, linkage: Linkage) -> TypeId {
        self.add(name, Body::Var { ty, linkage })
    }

    /// Section from (variable, offset, size).
    pub fn datasec(&mut self, name: &str, size: u32, vars: &[(TypeId, u32, u32)]) -> TypeId {
        let vars = vars.iter().map(|&(ty, offset, size)| SecVar { ty, offset, size }).collect();
        self.add(name, Body::Datasec { size, vars })
    }

    /// The finished types.
    ///
    /// # Errors
    /// What a reader of the blob would refuse: dangling ids, members outside their struct, loops.
    pub fn finish(self) -> Result<Btf, BtfError> {
        let btf = Btf::from_types(self.types, self.strings);
        check::check(&btf)?;
        Ok(btf)
    }
}

struct Writer {
    out: Vec<u8>,
    endian: Endian,
}

impl Writer {
    fn u16(&mut self, v: u16) {
        self.out.extend(match self.endian {
            Endian::Little => v.to_le_bytes(),
            Endian::Big => v.to_be_bytes(),
        });
    }

    fn u32(&mut self, v: u32) {
        self.out.extend(match self.endian {
            Endian::Little => v.to_le_bytes(),
            Endian::Big => v.to_be_bytes(),
        });
    }

    /// The `info` and `size`/`type` words.
    fn head(&mut self, ty: &Type, vlen: usize, kflag: bool, word: u32) {
        self.u32(ty.name_off);
        let kind = u32::from(ty.body.kind() as u8);
        self.u32(u32::from(kflag) << 31 | kind << 24 | (vlen as u32 & 0x00ff_ffff));
        self.u32(word);
    }

    fn members(&mut self, ty: &Type, size: u32, members: &[RawMember]) {
        let kflag = members.iter().any(|m| m.bits != 0);
        self.head(ty, members.len(), kflag, size);
        for m in members {
            self.u32(m.name_off);
            self.u32(m.ty);
            self.u32(if kflag { u32::from(m.bits) << 24 | m.bit_off } else { m.bit_off });
        }
    }

    fn enumerators(&mut self, ty: &Type, size: u32, signed: bool, values: &[Enumerator]) {
        self.head(ty, values.len(), signed, size);
        for v in values {
            self.u32(v.name_off);
            self.u32(v.value as u32);
            if matches!(ty.body, Body::Enum64 { .. }) {
                self.u32((v.value >> 32) as u32);
            }
        }
    }

    fn list(&mut self, words: impl IntoIterator<Item = u32>) {
        words.into_iter().for_each(|w| self.u32(w));
    }

    // tidy: flat match
    fn ty(&mut self, ty: &Type) {
        match &ty.body {
            Body::Void => {}
            Body::Int { size, bits, offset, enc } => {
                self.head(ty, 0, false, *size);
                let enc =
                    u32::from(enc.signed) | u32::from(enc.char) << 1 | u32::from(enc.bool) << 2;
                self.u32(enc << 24 | u32::from(*offset) << 16 | u32::from(*bits));
            }
            Body::Array { elem, index, nelems } => {
                self.head(ty, 0, false, 0);
                self.list([*elem, *index, *nelems]);
            }
            Body::Struct { size, members } | Body::Union { size, members } => {
                self.members(ty, *size, members);
            }
            Body::Enum { size, signed, values } | Body::Enum64 { size, signed, values } => {
                self.enumerators(ty, *size, *signed, values);
            }
            Body::Fwd { union } => self.head(ty, 0, *union, 0),
            Body::Ptr(t)
            | Body::Typedef(t)
            | Body::Volatile(t)
            | Body::Const(t)
            | Body::Restrict(t) => self.head(ty, 0, false, *t),
            Body::TypeTag { ty: t, attr } => self.head(ty, 0, *attr, *t),
            Body::Func { proto, linkage } => self.head(ty, *linkage as usize, false, *proto),
            Body::FuncProto { ret, params } => {
                self.head(ty, params.len(), false, *ret);
                self.list(params.iter().flat_map(|p| [p.name_off, p.ty]));
            }
            Body::Var { ty: t, linkage } => {
                self.head(ty, 0, false, *t);
                self.u32(*linkage as u32);
            }
            Body::Datasec { size, vars } => {
                self.head(ty, vars.len(), false, *size);
                self.list(vars.iter().flat_map(|v| [v.ty, v.offset, v.size]));
            }
            Body::Float { size } => self.head(ty, 0, false, *size),
            Body::DeclTag { ty: t, component, attr } => {
                self.head(ty, 0, *attr, *t);
                self.u32(*component as u32);
            }
        }
    }
}

impl Btf {
    /// The blob, as `BPF_BTF_LOAD` and `/sys/kernel/btf/vmlinux` have it.
    #[must_use]
    pub fn to_bytes(&self, endian: Endian) -> Vec<u8> {
        let mut types = Writer { out: Vec::new(), endian };
        self.types.iter().for_each(|t| types.ty(t));
        let mut w = Writer { out: Vec::new(), endian };
        w.u16(MAGIC);
        w.out.extend([1, 0]);
        w.list([HEADER_LEN, 0, types.out.len() as u32, types.out.len() as u32]);
        w.u32(self.strings.len() as u32);
        w.out.extend(types.out);
        w.out.extend(self.strings.as_bytes());
        w.out
    }
}
