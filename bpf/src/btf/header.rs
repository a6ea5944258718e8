//! The C header of a BTF blob, as programs include it in place of kernel headers (`vmlinux.h`).
//!
//! Types that are needed by value come first, structs behind a pointer are declared ahead, and
//! every record is marked so that clang relocates accesses to it (CO-RE).

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::types::{Body, Btf, Kind, TypeId};

const HEAD: &str = "#ifndef __VMLINUX_H__
#define __VMLINUX_H__

#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute push (__attribute__((preserve_access_index)), apply_to = record)
#endif
";

const TAIL: &str = "
#ifndef BPF_NO_PRESERVE_ACCESS_INDEX
#pragma clang attribute pop
#endif

#endif /* __VMLINUX_H__ */
";

/// Records spelled out inside others beyond which the rest is cut short: a kernel has a tenth of
/// it, types that refer to each other without names have no end.
const SPELLED_MAX: u32 = 1 << 18;

struct Printer<'a> {
    btf: &'a Btf,
    out: String,
    done: BTreeSet<TypeId>,
    declared: BTreeSet<TypeId>,
    /// (is a tag, name) of what has been printed: C has one type for each.
    names: BTreeSet<(bool, &'a str)>,
    /// How often an enumerator's name has been printed: they share one scope.
    enumerators: RefCell<BTreeMap<&'a str, u32>>,
    /// Records being spelled out: one inside itself has no text.
    open: RefCell<Vec<TypeId>>,
    /// How many have been spelled out.
    spelled: Cell<u32>,
}

impl Btf {
    /// All named types as one C header.
    #[must_use]
    pub fn to_c_header(&self) -> String {
        let mut p = Printer {
            btf: self,
            out: HEAD.to_owned(),
            done: BTreeSet::new(),
            declared: BTreeSet::new(),
            names: BTreeSet::new(),
            enumerators: RefCell::default(),
            open: RefCell::default(),
            spelled: Cell::new(0),
        };
        for id in self.ids() {
            let anonymous_enum =
                matches!(self.kind(id), Kind::Enum | Kind::Enum64) && self.name(id).is_empty();
            if anonymous_enum && !p.is_member_type(id) {
                p.enumeration(id);
            } else if !self.name(id).is_empty() {
                p.define(id, 0);
            }
        }
        p.out + TAIL
    }

    /// One line per type: id, kind, name and what it refers to.
    #[must_use]
    pub fn raw_dump(&self) -> String {
        let mut out = String::new();
        for id in self.ids() {
            let name = match self.name(id) {
                "" => "(anon)",
                name => name,
            };
            let _ = write!(out, "[{id}] {} '{name}'", self.kind(id));
            if let Some(t) = self.body(id).target() {
                let _ = write!(out, " type_id={t}");
            }
            if let (Some(size), true) = (self.size_of(id), self.body(id).target().is_none()) {
                let _ = write!(out, " size={size}");
            }
            out.push('\n');
            for m in self.members(id).filter(|_| self.body(id).target().is_none()) {
                let (ty, off, bits) = (m.ty, m.bit_off, m.bits);
                let name = if m.name.is_empty() { "(anon)" } else { m.name };
                let _ = writeln!(out, "\t'{name}' type_id={ty} bits_offset={off} bits={bits}");
            }
        }
        out
    }
}

impl<'a> Printer<'a> {
    /// An anonymous enum that a typedef, variable or member spells out in place.
    fn is_member_type(&self, id: TypeId) -> bool {
        self.btf.types.iter().any(|t| match &t.body {
            Body::Struct { members, .. } | Body::Union { members, .. } => {
                members.iter().any(|m| self.btf.skip_quals(m.ty) == id)
            }
            other => other.target() == Some(id),
        })
    }

    fn new_name(&mut self, id: TypeId) -> bool {
        let tag = !matches!(self.btf.kind(id), Kind::Typedef | Kind::Int | Kind::Float);
        let name = self.btf.name(id);
        name.is_empty() || self.names.insert((tag, name))
    }

    /// Prints a type after all it needs; depth is bounded by what parsing allows.
    fn define(&mut self, id: TypeId, depth: u32) {
        if depth > 256 || !self.done.insert(id) {
            return;
        }
        match self.btf.body(id) {
            Body::Struct { members, .. } | Body::Union { members, .. } => {
                for m in members {
                    self.need(m.ty, depth + 1);
                }
                if !self.btf.name(id).is_empty() && self.new_name(id) {
                    let body = self.composite(id, 0);
                    let _ = writeln!(self.out, "\n{body};");
                }
            }
            Body::Enum { .. } | Body::Enum64 { .. }
                if !self.btf.name(id).is_empty() && self.new_name(id) =>
            {
                self.enumeration(id);
            }
            Body::Typedef(t) => {
                self.need_behind_pointer(*t, depth + 1);
                // clang knows this one itself, by another definition on some machines.
                if self.btf.name(id) != "__builtin_va_list" && self.new_name(id) {
                    let text = self.declare(*t, self.btf.name(id), 0);
                    let _ = writeln!(self.out, "\ntypedef {text};");
                }
            }
            Body::Fwd { .. } => self.forward(id),
            _ => {}
        }
    }

    /// What has to be complete, or at least declared, before `id` can be used.
    fn need(&mut self, id: TypeId, depth: u32) {
        if depth > 256 {
            return;
        }
        match self.btf.body(id) {
            Body::Ptr(t) => self.need_behind_pointer(*t, depth + 1),
            Body::Array { elem, .. } => self.need(*elem, depth + 1),
            Body::Const(t) | Body::Volatile(t) | Body::Restrict(t) => self.need(*t, depth + 1),
            Body::TypeTag { ty, .. } => self.need(*ty, depth + 1),
            Body::FuncProto { ret, params } => {
                self.need_behind_pointer(*ret, depth + 1);
                for p in params {
                    self.need_behind_pointer(p.ty, depth + 1);
                }
            }
            Body::Typedef(t) => {
                self.define(id, depth + 1);
                self.need(*t, depth + 1);
            }
            _ => self.define(id, depth + 1),
        }
    }

    fn need_behind_pointer(&mut self, id: TypeId, depth: u32) {
        let named = !self.btf.name(id).is_empty();
        match self.btf.body(id) {
            Body::Struct { .. } | Body::Union { .. } | Body::Fwd { .. } if named => {
                self.forward(id);
            }
            Body::Const(t) | Body::Volatile(t) | Body::Restrict(t) if depth <= 256 => {
                self.need_behind_pointer(*t, depth + 1);
            }
            Body::TypeTag { ty, .. } if depth <= 256 => self.need_behind_pointer(*ty, depth + 1),
            Body::Typedef(_) => self.define(id, depth + 1),
            _ => self.need(id, depth + 1),
        }
    }

    fn forward(&mut self, id: TypeId) {
        let name = self.btf.name(id);
        if !self.names.contains(&(true, name)) && self.declared.insert(id) {
            let _ = writeln!(self.out, "\n{};", self.btf.type_name(id));
        }
    }

    /// A declaration whose anonymous struct, union or enum is spelled out.
    fn declare(&self, id: TypeId, name: &str, indent: usize) -> String {
        let text = self.btf.declare(id, name);
        let base = self.base(id);
        let anonymous = self.btf.name(base).is_empty();
        for word in ["struct", "union", "enum"] {
            let place = format!("{word} {{...}}");
            if anonymous && text.contains(&place) {
                return text.replacen(&place, &self.composite(base, indent), 1);
            }
        }
        text
    }

    fn base(&self, mut id: TypeId) -> TypeId {
        // Pointers to each other in a ring have no base.
        for _ in 0..256 {
            id = match self.btf.body(id) {
                Body::Array { elem: t, .. }
                | Body::Ptr(t)
                | Body::Const(t)
                | Body::Volatile(t)
                | Body::Restrict(t)
                | Body::TypeTag { ty: t, .. } => *t,
                _ => return id,
            };
        }
        id
    }

    fn composite(&self, id: TypeId, indent: usize) -> String {
        let btf = self.btf;
        let word = match btf.kind(id) {
            Kind::Union => "union",
            Kind::Struct => "struct",
            _ => return self.enum_text(id, indent),
        };
        self.spelled.set(self.spelled.get() + 1);
        if self.open.borrow().contains(&id) || self.spelled.get() > SPELLED_MAX || indent > 64 {
            return format!("{word} {{}}");
        }
        self.open.borrow_mut().push(id);
        let tab = "\t".repeat(indent);
        let name = btf.name(id);
        let mut out = format!("{word}{}{name} {{\n", if name.is_empty() { "" } else { " " });
        for m in btf.members(id) {
            let mut text = self.declare(m.ty, m.name, indent + 1);
            if m.bits != 0 {
                let _ = write!(text, " : {}", m.bits);
            }
            let _ = writeln!(out, "{tab}\t{text};");
        }
        self.open.borrow_mut().pop();
        let packed = if self.is_packed(id) { " __attribute__((packed))" } else { "" };
        let _ = write!(out, "{tab}}}{packed}");
        out
    }

    /// Some member lies where its alignment would not put it, or the size is not a multiple.
    fn is_packed(&self, id: TypeId) -> bool {
        let btf = self.btf;
        let align = |ty| btf.align_of(ty).unwrap_or(1).max(1);
        let odd = |m: super::Member<'_>| m.bits == 0 && !m.bit_off.is_multiple_of(align(m.ty) * 8);
        btf.members(id).any(odd) || !btf.size_of(id).unwrap_or(0).is_multiple_of(align(id))
    }

    fn enum_text(&self, id: TypeId, indent: usize) -> String {
        let name = self.btf.name(id);
        let tab = "\t".repeat(indent);
        let mut out = format!("enum{}{name} {{\n", if name.is_empty() { "" } else { " " });
        let signed = matches!(
            self.btf.body(id),
            Body::Enum { signed: true, .. } | Body::Enum64 { signed: true, .. }
        );
        for (name, value) in self.btf.enumerators(id) {
            let mut seen = self.enumerators.borrow_mut();
            let times = seen.entry(name).or_default();
            *times += 1;
            let name = match *times {
                1 => name.to_owned(),
                n => format!("{name}___{n}"),
            };
            let _ = if signed {
                writeln!(out, "{tab}\t{name} = {},", value as i64)
            } else {
                writeln!(out, "{tab}\t{name} = {value}U,")
            };
        }
        let _ = write!(out, "{tab}}}");
        out
    }

    fn enumeration(&mut self, id: TypeId) {
        let text = self.enum_text(id, 0);
        let _ = writeln!(self.out, "\n{text};");
    }
}
