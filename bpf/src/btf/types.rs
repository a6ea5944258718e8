//! The type graph of a BTF blob: what each id is, by name, through qualifiers, with sizes.
//!
//! Ids are the blob's own (0 is `void`), names stay offsets into one string table, so that a
//! hostile blob cannot make parsing cost more memory than a small multiple of its size.

use std::fmt;

/// Id of a type in its BTF; 0 is `void`.
pub type TypeId = u32;

/// `BTF_KIND_*` numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub enum Kind {
    Void = 0,
    Int = 1,
    Ptr = 2,
    Array = 3,
    Struct = 4,
    Union = 5,
    Enum = 6,
    Fwd = 7,
    Typedef = 8,
    Volatile = 9,
    Const = 10,
    Restrict = 11,
    Func = 12,
    FuncProto = 13,
    Var = 14,
    Datasec = 15,
    Float = 16,
    DeclTag = 17,
    TypeTag = 18,
    Enum64 = 19,
}

impl Kind {
    /// Every kind with the name the kernel's log uses (`btf_kind_str`).
    pub const TABLE: &'static [(Kind, &'static str)] = &[
        (Kind::Void, "UNKNOWN"),
        (Kind::Int, "INT"),
        (Kind::Ptr, "PTR"),
        (Kind::Array, "ARRAY"),
        (Kind::Struct, "STRUCT"),
        (Kind::Union, "UNION"),
        (Kind::Enum, "ENUM"),
        (Kind::Fwd, "FWD"),
        (Kind::Typedef, "TYPEDEF"),
        (Kind::Volatile, "VOLATILE"),
        (Kind::Const, "CONST"),
        (Kind::Restrict, "RESTRICT"),
        (Kind::Func, "FUNC"),
        (Kind::FuncProto, "FUNC_PROTO"),
        (Kind::Var, "VAR"),
        (Kind::Datasec, "DATASEC"),
        (Kind::Float, "FLOAT"),
        (Kind::DeclTag, "DECL_TAG"),
        (Kind::TypeTag, "TYPE_TAG"),
        (Kind::Enum64, "ENUM64"),
    ];

    /// From the number in a `btf_type`'s info word.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Kind> {
        Kind::TABLE.get(raw as usize).map(|r| r.0)
    }

    /// The kernel's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Kind::TABLE[self as usize].1
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `BTF_INT_*` encoding bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct IntEncoding {
    /// `BTF_INT_SIGNED`.
    pub signed: bool,
    /// `BTF_INT_CHAR`.
    pub char: bool,
    /// `BTF_INT_BOOL`.
    pub bool: bool,
}

/// A struct or union member as stored; [`Btf::members`] gives the resolved view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawMember {
    /// Name offset; 0 for an anonymous member.
    pub name_off: u32,
    /// Type.
    pub ty: TypeId,
    /// Bit offset from the start of the struct.
    pub bit_off: u32,
    /// Width of a bitfield declared by `kind_flag`; 0 when the member is not a bitfield.
    pub bits: u8,
}

/// A struct or union member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Name, empty when anonymous.
    pub name: &'a str,
    /// Type.
    pub ty: TypeId,
    /// Bit offset from the start of the struct.
    pub bit_off: u32,
    /// Width of the bitfield; 0 when the member is not a bitfield.
    pub bits: u8,
}

impl Member<'_> {
    /// Byte offset; of a bitfield, that of its first byte.
    #[must_use]
    pub const fn byte_off(&self) -> u32 {
        self.bit_off / 8
    }
}

/// One enumerator; the value is sign- or zero-extended to 64 bits as the enum's sign says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Enumerator {
    /// Name offset.
    pub name_off: u32,
    /// Value.
    pub value: u64,
}

/// A parameter of a prototype; type 0 with name 0 is `...`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name offset, may be 0.
    pub name_off: u32,
    /// Type.
    pub ty: TypeId,
}

/// One variable (or extern function) of a section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecVar {
    /// `VAR` or `FUNC` id.
    pub ty: TypeId,
    /// Byte offset in the section.
    pub offset: u32,
    /// Size in bytes.
    pub size: u32,
}

/// Linkage of a function or variable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Linkage {
    /// Visible in its own object only; verified where it is called.
    Static = 0,
    /// Verified on its own.
    Global = 1,
    /// Defined elsewhere: a ksym, kfunc or kconfig value.
    Extern = 2,
}

impl Linkage {
    /// From the UAPI number.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Linkage> {
        match raw {
            0 => Some(Linkage::Static),
            1 => Some(Linkage::Global),
            2 => Some(Linkage::Extern),
            _ => None,
        }
    }
}

/// What a type is, by kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Id 0.
    Void,
    /// Integer of `size` bytes of which `bits` from bit `offset` are used.
    Int {
        /// Size in bytes.
        size: u32,
        /// Used bits.
        bits: u8,
        /// First used bit (legacy bitfields).
        offset: u8,
        /// Encoding.
        enc: IntEncoding,
    },
    /// Pointer.
    Ptr(TypeId),
    /// Array.
    Array {
        /// Element type.
        elem: TypeId,
        /// Type of the index.
        index: TypeId,
        /// Number of elements.
        nelems: u32,
    },
    /// Struct.
    Struct {
        /// Size in bytes.
        size: u32,
        /// Members by offset.
        members: Vec<RawMember>,
    },
    /// Union.
    Union {
        /// Size in bytes.
        size: u32,
        /// Members.
        members: Vec<RawMember>,
    },
    /// Enum of at most 32 bits.
    Enum {
        /// Size in bytes.
        size: u32,
        /// Signed.
        signed: bool,
        /// Enumerators.
        values: Vec<Enumerator>,
    },
    /// Forward declaration.
    Fwd {
        /// Of a union rather than a struct.
        union: bool,
    },
    /// Typedef.
    Typedef(TypeId),
    /// `volatile`.
    Volatile(TypeId),
    /// `const`.
    Const(TypeId),
    /// `restrict`.
    Restrict(TypeId),
    /// Function.
    Func {
        /// `FUNC_PROTO` id.
        proto: TypeId,
        /// Linkage.
        linkage: Linkage,
    },
    /// Prototype.
    FuncProto {
        /// Return type.
        ret: TypeId,
        /// Parameters.
        params: Vec<Param>,
    },
    /// Variable.
    Var {
        /// Type.
        ty: TypeId,
        /// Linkage.
        linkage: Linkage,
    },
    /// Section.
    Datasec {
        /// Size in bytes; 0 as clang emits it.
        size: u32,
        /// Variables.
        vars: Vec<SecVar>,
    },
    /// Floating-point number.
    Float {
        /// Size in bytes.
        size: u32,
    },
    /// `btf_decl_tag` on a declaration; the tag is the type's name.
    DeclTag {
        /// Tagged struct, union, typedef, variable or function.
        ty: TypeId,
        /// Member or parameter index, -1 for the declaration itself.
        component: i32,
        /// An arbitrary attribute rather than a tag (`kind_flag`).
        attr: bool,
    },
    /// `btf_type_tag` on a pointee; the tag is the type's name.
    TypeTag {
        /// Tagged type.
        ty: TypeId,
        /// An arbitrary attribute rather than a tag (`kind_flag`).
        attr: bool,
    },
    /// Enum of up to 64 bits.
    Enum64 {
        /// Size in bytes.
        size: u32,
        /// Signed.
        signed: bool,
        /// Enumerators.
        values: Vec<Enumerator>,
    },
}

impl Body {
    /// The kind.
    // tidy: flat match
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Body::Void => Kind::Void,
            Body::Int { .. } => Kind::Int,
            Body::Ptr(_) => Kind::Ptr,
            Body::Array { .. } => Kind::Array,
            Body::Struct { .. } => Kind::Struct,
            Body::Union { .. } => Kind::Union,
            Body::Enum { .. } => Kind::Enum,
            Body::Fwd { .. } => Kind::Fwd,
            Body::Typedef(_) => Kind::Typedef,
            Body::Volatile(_) => Kind::Volatile,
            Body::Const(_) => Kind::Const,
            Body::Restrict(_) => Kind::Restrict,
            Body::Func { .. } => Kind::Func,
            Body::FuncProto { .. } => Kind::FuncProto,
            Body::Var { .. } => Kind::Var,
            Body::Datasec { .. } => Kind::Datasec,
            Body::Float { .. } => Kind::Float,
            Body::DeclTag { .. } => Kind::DeclTag,
            Body::TypeTag { .. } => Kind::TypeTag,
            Body::Enum64 { .. } => Kind::Enum64,
        }
    }

    /// The single type a modifier, typedef, pointer, tag, function or variable refers to.
    #[must_use]
    pub const fn target(&self) -> Option<TypeId> {
        match self {
            Body::Ptr(t)
            | Body::Typedef(t)
            | Body::Volatile(t)
            | Body::Const(t)
            | Body::Restrict(t)
            | Body::Func { proto: t, .. }
            | Body::Var { ty: t, .. }
            | Body::DeclTag { ty: t, .. }
            | Body::TypeTag { ty: t, .. } => Some(*t),
            _ => None,
        }
    }
}

/// One type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Type {
    /// Name offset, 0 when anonymous.
    pub name_off: u32,
    /// The rest.
    pub body: Body,
}

/// A parsed BTF blob. By-value cycles do not occur in it, so walks through typedefs, qualifiers,
/// arrays and members end.
#[derive(Clone, Debug)]
pub struct Btf {
    /// Types by id; `[0]` is `void`.
    pub types: Vec<Type>,
    pub(crate) strings: String,
    /// Ids of named types, ordered by (name, id).
    pub(crate) by_name: Vec<TypeId>,
}

impl Default for Btf {
    fn default() -> Btf {
        Btf::from_types(vec![Type { name_off: 0, body: Body::Void }], "\0".to_owned())
    }
}

impl Btf {
    pub(crate) fn from_types(types: Vec<Type>, strings: String) -> Btf {
        let mut btf = Btf { types, strings, by_name: Vec::new() };
        let mut ids: Vec<TypeId> =
            (1..btf.types.len() as u32).filter(|id| !btf.name(*id).is_empty()).collect();
        ids.sort_by(|a, b| btf.name(*a).cmp(btf.name(*b)).then(a.cmp(b)));
        btf.by_name = ids;
        btf
    }

    /// The whole string table; strings end with NUL.
    #[must_use]
    pub fn strings(&self) -> &str {
        &self.strings
    }

    /// The string at an offset of the string table; empty when out of range.
    #[must_use]
    pub fn str(&self, off: u32) -> &str {
        let rest = self.strings.get(off as usize..).unwrap_or("");
        rest.split('\0').next().unwrap_or("")
    }

    /// The type with an id.
    #[must_use]
    pub fn by_id(&self, id: TypeId) -> Option<&Type> {
        self.types.get(id as usize)
    }

    /// The payload of a type; `Void` when the id does not exist.
    #[must_use]
    pub fn body(&self, id: TypeId) -> &Body {
        self.by_id(id).map_or(&Body::Void, |t| &t.body)
    }

    /// The kind of a type.
    #[must_use]
    pub fn kind(&self, id: TypeId) -> Kind {
        self.body(id).kind()
    }

    /// The name of a type, empty when anonymous.
    #[must_use]
    pub fn name(&self, id: TypeId) -> &str {
        self.by_id(id).map_or("", |t| self.str(t.name_off))
    }

    /// Ids of all types with exactly this name, ascending.
    #[must_use]
    pub fn named(&self, name: &str) -> &[TypeId] {
        let start = self.by_name.partition_point(|id| self.name(*id) < name);
        let end = start + self.by_name[start..].partition_point(|id| self.name(*id) == name);
        &self.by_name[start..end]
    }

    /// Ids of all types whose name starts with `prefix`.
    #[must_use]
    pub fn with_prefix(&self, prefix: &str) -> &[TypeId] {
        let start = self.by_name.partition_point(|id| self.name(*id) < prefix);
        let end =
            start + self.by_name[start..].partition_point(|id| self.name(*id).starts_with(prefix));
        &self.by_name[start..end]
    }

    /// The first type with a name and kind.
    #[must_use]
    pub fn find(&self, name: &str, kind: Kind) -> Option<TypeId> {
        self.named(name).iter().copied().find(|id| self.kind(*id) == kind)
    }

    /// The type behind typedefs, qualifiers and type tags.
    #[must_use]
    pub fn resolve(&self, mut id: TypeId) -> TypeId {
        while let Body::Typedef(t)
        | Body::Volatile(t)
        | Body::Const(t)
        | Body::Restrict(t)
        | Body::TypeTag { ty: t, .. } = self.body(id)
        {
            id = *t;
        }
        id
    }

    /// The type behind qualifiers and type tags; typedefs stay.
    #[must_use]
    pub fn skip_quals(&self, mut id: TypeId) -> TypeId {
        while let Body::Volatile(t)
        | Body::Const(t)
        | Body::Restrict(t)
        | Body::TypeTag { ty: t, .. } = self.body(id)
        {
            id = *t;
        }
        id
    }

    /// What a pointer points to (behind qualifiers and typedefs), or None when not a pointer.
    #[must_use]
    pub fn pointee(&self, id: TypeId) -> Option<TypeId> {
        match self.body(self.resolve(id)) {
            Body::Ptr(t) => Some(self.resolve(*t)),
            _ => None,
        }
    }

    /// Size in bytes; None for what has none (void, functions, forward declarations).
    #[must_use]
    pub fn size_of(&self, id: TypeId) -> Option<u32> {
        let (mut id, mut count) = (id, 1u64);
        loop {
            let size = match self.body(id) {
                Body::Int { size, .. }
                | Body::Float { size }
                | Body::Struct { size, .. }
                | Body::Union { size, .. }
                | Body::Enum { size, .. }
                | Body::Enum64 { size, .. }
                | Body::Datasec { size, .. } => *size,
                Body::Ptr(_) => 8,
                Body::Array { elem, nelems, .. } => {
                    count = count.checked_mul(u64::from(*nelems))?;
                    id = *elem;
                    continue;
                }
                Body::Typedef(t)
                | Body::Volatile(t)
                | Body::Const(t)
                | Body::Restrict(t)
                | Body::TypeTag { ty: t, .. }
                | Body::Var { ty: t, .. } => {
                    id = *t;
                    continue;
                }
                _ => return None,
            };
            return u32::try_from(count.checked_mul(u64::from(size))?).ok();
        }
    }

    /// Alignment in bytes as the C ABI of BPF targets has it.
    #[must_use]
    pub fn align_of(&self, id: TypeId) -> Option<u32> {
        let id = self.resolve(id);
        match self.body(id) {
            Body::Array { elem, .. } => self.align_of(*elem),
            Body::Struct { members, .. } | Body::Union { members, .. } => {
                members.iter().try_fold(1, |a, m| Some(a.max(self.align_of(m.ty)?)))
            }
            _ => self.size_of(id).map(|s| s.clamp(1, 8)),
        }
    }

    /// Members of a struct or union (behind typedefs); empty for anything else.
    pub fn members(&self, id: TypeId) -> impl ExactSizeIterator<Item = Member<'_>> {
        let raw: &[RawMember] = match self.body(self.resolve(id)) {
            Body::Struct { members, .. } | Body::Union { members, .. } => members,
            _ => &[],
        };
        raw.iter().map(|m| Member {
            name: self.str(m.name_off),
            ty: m.ty,
            bit_off: m.bit_off,
            bits: m.bits,
        })
    }

    /// A member by name, looked for through anonymous structs and unions; its bit offset is that
    /// from the start of the outer type.
    #[must_use]
    pub fn member(&self, id: TypeId, name: &str) -> Option<Member<'_>> {
        self.members(id).find_map(|m| {
            if m.name == name {
                return Some(m);
            }
            if !m.name.is_empty() {
                return None;
            }
            let inner = self.member(m.ty, name)?;
            Some(Member { bit_off: inner.bit_off.saturating_add(m.bit_off), ..inner })
        })
    }

    /// Return type and parameters of a function, prototype or pointer to one.
    #[must_use]
    pub fn func_proto(&self, id: TypeId) -> Option<(TypeId, &[Param])> {
        let mut id = self.resolve(id);
        for _ in 0..3 {
            match self.body(id) {
                Body::FuncProto { ret, params } => return Some((*ret, params)),
                Body::Func { proto: t, .. } | Body::Ptr(t) => id = self.resolve(*t),
                _ => return None,
            }
        }
        None
    }

    /// Enumerators of an enum (behind typedefs) as (name, value); empty for anything else.
    pub fn enumerators(&self, id: TypeId) -> impl ExactSizeIterator<Item = (&str, u64)> {
        let raw: &[Enumerator] = match self.body(self.resolve(id)) {
            Body::Enum { values, .. } | Body::Enum64 { values, .. } => values,
            _ => &[],
        };
        raw.iter().map(|e| (self.str(e.name_off), e.value))
    }

    /// Declaration tags of a type: (component index or -1, tag).
    pub fn decl_tags(&self, id: TypeId) -> impl Iterator<Item = (i32, &str)> {
        self.types.iter().filter_map(move |t| match t.body {
            Body::DeclTag { ty, component, .. } if ty == id => {
                Some((component, self.str(t.name_off)))
            }
            _ => None,
        })
    }

    /// Ids of all types, `void` left out.
    pub fn ids(&self) -> impl Iterator<Item = TypeId> + use<> {
        1..self.types.len() as u32
    }
}
