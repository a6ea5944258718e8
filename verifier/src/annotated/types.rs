//! The types of a kernel as text: what cases need of them and no more.
//!
//! ```text
//!  # words
//!  struct NAME SIZE [TYPE MEMBER OFFSET, ...]     TYPE, TYPE* or TYPE[N]
//!  callbacks                                      types of functions that kfuncs take
//!  ops NAME                                       a structure of functions, and its members:
//!    TYPE NAME(TYPE PARAM, ...)
//!  TYPE NAME(TYPE PARAM, ...)                     a kfunc, or a function to attach to
//! ```

use std::collections::BTreeMap;

use bpf::btf::{Btf, BtfBuilder, Linkage, TypeId};

/// Reads types.
///
/// # Errors
/// The line, from 1, and what is wrong with it.
pub fn types(text: &str) -> Result<Btf, String> {
    let mut t = Reader { b: BtfBuilder::new(), types: BTreeMap::from([("void", 0)]), ops: None };
    let ints = [
        ("int", 4, true),
        ("u8", 1, false),
        ("u16", 2, false),
        ("u32", 4, false),
        ("u64", 8, false),
    ];
    for (name, size, signed) in ints {
        let id = t.b.int(name, size, signed);
        t.types.insert(name, id);
    }
    let id = t.b.bool();
    t.types.insert("bool", id);
    for (n, line) in (1..).zip(text.lines()).filter(|(_, l)| !l.starts_with('#')) {
        t.line(line).map_err(|e| format!("line {n}: {e}"))?;
    }
    t.end_ops();
    t.b.finish().map_err(|e| e.to_string())
}

/// A text while it is read.
struct Reader<'a> {
    b: BtfBuilder,
    types: BTreeMap<&'a str, TypeId>,
    /// A structure of functions, and its members so far.
    ops: Option<(&'a str, Vec<(&'a str, TypeId)>)>,
}

/// Name, result, parameters.
type Prototype<'a> = (&'a str, TypeId, Vec<(&'a str, TypeId)>);

impl<'a> Reader<'a> {
    fn line(&mut self, line: &'a str) -> Result<(), String> {
        if let Some(member) = line.strip_prefix("  ") {
            return self.member(member);
        }
        self.end_ops();
        if line == "callbacks" {
            return self.callbacks();
        }
        if let Some(name) = line.strip_prefix("ops ") {
            self.ops = Some((name, Vec::new()));
            return Ok(());
        }
        if let Some(rest) = line.strip_prefix("struct ") {
            return self.structure(rest);
        }
        let (name, ret, params) = self.prototype(line)?;
        self.b.func(name, Linkage::Static, ret, &params);
        Ok(())
    }

    fn known(&self, name: &str) -> Result<TypeId, String> {
        self.types.get(name).copied().ok_or_else(|| format!("no type '{name}' so far"))
    }

    fn callbacks(&mut self) -> Result<(), String> {
        let (node, int, bool) =
            (self.known("bpf_rb_node")?, self.known("int")?, self.known("bool")?);
        let (node, any) = (self.b.ptr(node), self.b.ptr(0));
        let key = self.b.ptr(int);
        let less = self.b.func_proto(bool, &[("a", node), ("b", node)]);
        let wq = self.b.func_proto(int, &[("map", any), ("key", key), ("value", any)]);
        self.types.extend([("less_fn", less), ("wq_fn", wq)]);
        Ok(())
    }

    fn structure(&mut self, rest: &'a str) -> Result<(), String> {
        let mut words = rest.splitn(3, ' ');
        let name = words.next().unwrap_or_default();
        let size = words.next().and_then(|w| w.parse().ok()).ok_or("NAME SIZE is expected")?;
        let mut members = Vec::new();
        for m in words.next().into_iter().flat_map(|m| m.split(", ")) {
            let parts: Vec<&str> = m.split(' ').collect();
            let off = parts.get(2).and_then(|o| o.parse::<u32>().ok());
            let (&[ty, member, _], Some(off)) = (parts.as_slice(), off) else {
                return Err(format!("TYPE NAME OFFSET is expected, not '{m}'"));
            };
            members.push((member, self.named(ty)?, off * 8, 0));
        }
        let id = self.b.structure(name, size, &members);
        self.types.insert(name, id);
        Ok(())
    }

    /// `TYPE`, `TYPE*` or `TYPE[N]`.
    fn named(&mut self, ty: &str) -> Result<TypeId, String> {
        if let Some(to) = ty.strip_suffix('*') {
            let to = self.known(to)?;
            return Ok(self.b.ptr(to));
        }
        let Some((elem, n)) = ty.strip_suffix(']').and_then(|t| t.split_once('[')) else {
            return self.known(ty);
        };
        let n = n.parse().map_err(|_| format!("'{ty}' has no length"))?;
        let (elem, index) = (self.known(elem)?, self.known("u32")?);
        Ok(self.b.array(elem, index, n))
    }

    /// `TYPE NAME(TYPE PARAM, ...)`.
    fn prototype(&mut self, line: &'a str) -> Result<Prototype<'a>, String> {
        let expected = || format!("TYPE NAME(TYPE PARAM, ...) is expected, not '{line}'");
        let (head, params) = line.split_once('(').ok_or_else(expected)?;
        let (ret, name) = head.rsplit_once(' ').ok_or_else(expected)?;
        let ret = self.typed(ret)?;
        let mut out = Vec::new();
        for p in params.trim_end_matches(')').split(", ").filter(|p| !p.is_empty()) {
            out.push((p.rsplit(' ').next().unwrap_or(p), self.typed(p)?));
        }
        Ok((name, ret, out))
    }

    fn typed(&mut self, decl: &str) -> Result<TypeId, String> {
        let ty = self.known(decl.split(' ').next().unwrap_or_default())?;
        Ok(if decl.contains('*') { self.b.ptr(ty) } else { ty })
    }

    /// A member of a structure of functions, and the stub that its programs are checked by.
    fn member(&mut self, line: &'a str) -> Result<(), String> {
        let (name, ret, params) = self.prototype(line)?;
        let (ops, members) = self.ops.as_mut().ok_or("a member without its ops")?;
        self.b.func(&format!("{ops}__{name}"), Linkage::Static, ret, &params);
        let plain: Vec<_> =
            params.iter().map(|(n, ty)| (n.split("__").next().unwrap_or(n), *ty)).collect();
        let proto = self.b.func_proto(ret, &plain);
        members.push((name, self.b.ptr(proto)));
        Ok(())
    }

    fn end_ops(&mut self) {
        let Some((name, members)) = self.ops.take() else { return };
        let at = |(i, (name, ty)): (u32, (&'a str, TypeId))| (name, ty, i * 64, 0);
        let members: Vec<_> = (0..).zip(members).map(at).collect();
        let id = self.b.structure(name, members.len() as u32 * 8, &members);
        let value = format!("bpf_struct_ops_{name}");
        self.b.structure(&value, members.len() as u32 * 8 + 64, &[("data", id, 512, 0)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::btf::Kind;

    #[test]
    fn types_are_read() {
        let text =
            "# words\nstruct a 8 u32 x 0, a* y 0\nint f(a * p, u64 n)\nops o\n  int g(u32 n)";
        assert!(types(text).unwrap_err().starts_with("line 2: no type 'a'"));
        let btf = types(&text.replace(", a* y 0", "")).unwrap();
        assert!(btf.find("f", Kind::Func).is_some() && btf.find("o__g", Kind::Func).is_some());
        assert!(btf.find("bpf_struct_ops_o", Kind::Struct).is_some());
        assert_eq!(types("struct a").unwrap_err(), "line 1: NAME SIZE is expected");
    }
}
