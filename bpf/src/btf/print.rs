//! Types as text: names as C writes them.

use super::types::{Body, Btf, Kind, TypeId};

/// Modifiers and pointers followed before a name is cut short.
const MAX_DEPTH: u32 = 64;

impl Btf {
    /// A type as C names it without declaring anything: `const struct sock *`.
    #[must_use]
    pub fn type_name(&self, id: TypeId) -> String {
        self.declare(id, "")
    }

    /// A declaration of `name` with a type: `int (*name[4])(void *)`.
    #[must_use]
    pub fn declare(&self, id: TypeId, name: &str) -> String {
        self.declarator(id, name.to_owned(), MAX_DEPTH)
    }

    /// Inside out: `inner` is what has been written around the name so far.
    fn declarator(&self, id: TypeId, inner: String, depth: u32) -> String {
        let join = |base: &str| {
            if inner.is_empty() {
                base.to_owned()
            } else if inner.starts_with('*') || inner.starts_with('[') {
                format!("{base} {inner}").replacen(" [", "[", usize::from(inner.starts_with('[')))
            } else {
                format!("{base} {inner}")
            }
        };
        if depth == 0 {
            return join("...");
        }
        match self.body(id) {
            Body::Ptr(t) => {
                let to = self.skip_quals(*t);
                let wrap = matches!(self.kind(to), Kind::Array | Kind::FuncProto);
                let ptr = format!("*{inner}");
                let ptr = if wrap { format!("({ptr})") } else { ptr };
                self.declarator(*t, ptr, depth - 1)
            }
            Body::Array { elem, nelems, .. } => {
                self.declarator(*elem, format!("{inner}[{nelems}]"), depth - 1)
            }
            Body::FuncProto { ret, params } => {
                let list: Vec<String> = params
                    .iter()
                    .map(|p| match (p.ty, p.name_off) {
                        (0, 0) => "...".to_owned(),
                        _ => self.declarator(p.ty, self.str(p.name_off).to_owned(), depth / 4),
                    })
                    .collect();
                let list = if list.is_empty() { "void".to_owned() } else { list.join(", ") };
                self.declarator(*ret, format!("{inner}({list})"), depth - 1)
            }
            Body::Const(t) => self.qualified("const", *t, inner, depth),
            Body::Volatile(t) => self.qualified("volatile", *t, inner, depth),
            Body::Restrict(t) => self.qualified("restrict", *t, inner, depth),
            Body::TypeTag { ty, .. } => self.declarator(*ty, inner, depth - 1),
            Body::Var { ty, .. } => self.declarator(*ty, inner, depth - 1),
            Body::Func { proto, .. } => {
                self.declarator(*proto, self.name(id).to_owned(), depth - 1)
            }
            Body::Void => join("void"),
            Body::Struct { .. } => join(&self.tagged("struct", id)),
            Body::Union { .. } => join(&self.tagged("union", id)),
            Body::Fwd { union: false } => join(&self.tagged("struct", id)),
            Body::Fwd { union: true } => join(&self.tagged("union", id)),
            Body::Enum { .. } | Body::Enum64 { .. } => join(&self.tagged("enum", id)),
            _ => join(self.name(id)),
        }
    }

    /// A qualifier belongs left of a base type and right of the `*` it qualifies.
    fn qualified(&self, word: &str, ty: TypeId, inner: String, depth: u32) -> String {
        if self.kind(self.skip_quals(ty)) == Kind::Ptr {
            let inner = if inner.is_empty() { word.to_owned() } else { format!("{word} {inner}") };
            return self.declarator(ty, format!(" {inner}"), depth - 1);
        }
        format!("{word} {}", self.declarator(ty, inner, depth - 1))
    }

    fn tagged(&self, word: &str, id: TypeId) -> String {
        match self.name(id) {
            "" => format!("{word} {{...}}"),
            name => format!("{word} {name}"),
        }
    }
}
