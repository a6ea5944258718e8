//! The types of a kernel, or of a case's programs, as text: what cases need and no more.
//!
//! ```text
//!  # words
//!  struct NAME SIZE [TYPE MEMBER OFFSET, ...]     TYPE, TYPE*, TAG%TYPE* (a type tag) or TYPE[N]
//!  union NAME SIZE [TYPE MEMBER OFFSET, ...]
//!  fwd NAME                                       a structure that is only declared
//!  float NAME SIZE
//!  enum NAME [WORD ...]
//!  typedef NAME TYPE
//!  var TYPE NAME                                  a variable; `percpu TYPE NAME`: one of each CPU
//!  trace NAME(TYPE PARAM, ...)                    the tracepoint NAME
//!  repeat N LINE                                  N lines, each with its number for `#`
//!  callbacks                                      types of functions that kfuncs take
//!  ops NAME                                       a structure of functions, and its members:
//!    TYPE NAME(TYPE PARAM, ...)
//!  TYPE NAME(TYPE PARAM, ...)                     a kfunc, or a function to attach to; of a
//!                                                 program, a static function
//!  global TYPE NAME(TYPE PARAM, ...)              a global function of a program
//!  tag NAME TEXT                                  a declaration tag of the function NAME, or of
//!                                                 its parameter N: NAME.N
//! ```

use std::collections::BTreeMap;

use bpf::btf::{Body, Btf, BtfBuilder, Linkage, TypeId};

/// Reads types.
///
/// # Errors
/// The line, from 1, and what is wrong with it.
pub fn types(text: &str) -> Result<Btf, String> {
    let text = &super::repeated(text)?;
    let mut t = Reader {
        b: BtfBuilder::new(),
        types: BTreeMap::from([("void", 0)]),
        funcs: BTreeMap::new(),
        ops: None,
        percpu: Vec::new(),
    };
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
    if !t.percpu.is_empty() {
        let vars: Vec<_> = (0..).zip(&t.percpu).map(|(i, id)| (*id, i * 8, 8)).collect();
        t.b.datasec(".data..percpu", vars.len() as u32 * 8, &vars);
    }
    t.b.finish().map_err(|e| e.to_string())
}

/// A text while it is read.
struct Reader<'a> {
    b: BtfBuilder,
    types: BTreeMap<&'a str, TypeId>,
    funcs: BTreeMap<&'a str, TypeId>,
    percpu: Vec<TypeId>,
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
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        let (name, more) = rest.split_once(' ').unwrap_or((rest, ""));
        let id = match word {
            "struct" | "union" => return self.structure(word == "union", rest),
            "tag" => return self.tag(name, more),
            "var" | "percpu" => {
                let ty = self.named(name)?;
                let id = self.b.var(more, ty, Linkage::Global);
                self.percpu.extend((word == "percpu").then_some(id));
                return Ok(());
            }
            "fwd" => self.b.forward(name),
            "float" => {
                let size = more.parse().map_err(|_| format!("a size is expected, not '{more}'"))?;
                self.b.add(name, Body::Float { size })
            }
            "enum" => {
                let words: Vec<_> = (0..).zip(more.split(' ')).map(|(n, w)| (w, n)).collect();
                self.b.enumeration(name, 4, false, &words)
            }
            "typedef" => {
                let ty = self.named(more)?;
                self.b.typedef(name, ty)
            }
            "trace" => {
                let (name, _, params) = self.prototype(line)?;
                let all: Vec<_> = [("__data", self.b.ptr(0))].into_iter().chain(params).collect();
                let proto = self.b.func_proto(0, &all);
                let ptr = self.b.ptr(proto);
                self.b.typedef(&format!("btf_trace_{name}"), ptr);
                return Ok(());
            }
            "global" => return self.function(rest, Linkage::Global),
            _ => return self.function(line, Linkage::Static),
        };
        self.types.insert(name, id);
        Ok(())
    }

    fn function(&mut self, line: &'a str, linkage: Linkage) -> Result<(), String> {
        let (name, ret, params) = self.prototype(line)?;
        let id = self.b.func(name, linkage, ret, &params);
        self.funcs.insert(name, id);
        Ok(())
    }

    fn tag(&mut self, of: &str, text: &str) -> Result<(), String> {
        let (name, param) = of.split_once('.').unwrap_or((of, "-1"));
        let param = param.parse().map_err(|_| format!("'{of}' has no such parameter"))?;
        let func = *self.funcs.get(name).ok_or_else(|| format!("no function '{name}' so far"))?;
        self.b.decl_tag(text, func, param);
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

    fn structure(&mut self, union: bool, rest: &'a str) -> Result<(), String> {
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
        let id = match union {
            true => self.b.union(name, size, &members),
            false => self.b.structure(name, size, &members),
        };
        self.types.insert(name, id);
        Ok(())
    }

    /// `TYPE`, `TYPE*`, `TAG%TYPE` or `TYPE[N]`.
    fn named(&mut self, ty: &str) -> Result<TypeId, String> {
        if let Some(to) = ty.strip_suffix('*') {
            let to = self.named(to)?;
            return Ok(self.b.ptr(to));
        }
        if let Some((tag, ty)) = ty.split_once('%') {
            let ty = self.named(ty)?;
            return Ok(self.b.type_tag(tag, ty));
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
        let ret = if ret == "trace" { 0 } else { self.typed(ret)? };
        let mut out = Vec::new();
        for p in params.trim_end_matches(')').split(", ").filter(|p| !p.is_empty()) {
            out.push((p.rsplit(' ').next().unwrap_or(p), self.typed(p)?));
        }
        Ok((name, ret, out))
    }

    fn typed(&mut self, decl: &str) -> Result<TypeId, String> {
        let (ty, rest) = decl.split_once(' ').unwrap_or((decl, ""));
        let ty = self.named(ty)?;
        Ok(if rest.contains('*') { self.b.ptr(ty) } else { ty })
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
