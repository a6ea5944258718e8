//! The kernel that the cases are verified for: maps of the case and the types of `kernel.txt`.

pub(crate) mod case;
pub(crate) mod run;

use std::collections::BTreeMap;

use bpf::btf::{Btf, BtfBuilder, Linkage, TypeId};
use verifier::KernelEnv;
use verifier::env::{CtxAccess, CtxConv, Layout, MapInfo};

/// Programs of type syscall can only be sleepable.
pub(crate) const BPF_F_SLEEPABLE: u32 = 1 << 4;

/// That kernel.
pub(crate) struct Env {
    /// By descriptor.
    pub(crate) maps: Vec<MapInfo>,
    /// Its types.
    pub(crate) btf: Btf,
}

/// The kernel's types of `kernel.txt`.
pub(crate) fn kernel_btf() -> Btf {
    let mut t = Text { b: BtfBuilder::new(), types: BTreeMap::from([("void", 0)]), ops: None };
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
    let text = include_str!("../kernel.txt");
    text.lines().filter(|l| !l.starts_with('#')).for_each(|l| t.line(l));
    t.end_ops();
    t.b.finish().expect("the types of kernel.txt are well formed")
}

/// `kernel.txt` while it is read.
struct Text {
    b: BtfBuilder,
    types: BTreeMap<&'static str, TypeId>,
    /// A structure of functions, and its members so far.
    ops: Option<(&'static str, Vec<(&'static str, TypeId)>)>,
}

impl Text {
    fn line(&mut self, line: &'static str) {
        if let Some(member) = line.strip_prefix("  ") {
            return self.member(member);
        }
        self.end_ops();
        if line == "callbacks" {
            return self.callbacks();
        }
        if let Some(name) = line.strip_prefix("ops ") {
            self.ops = Some((name, Vec::new()));
        } else if let Some(rest) = line.strip_prefix("struct ") {
            self.structure(rest);
        } else {
            let (name, ret, params) = self.prototype(line);
            self.b.func(name, Linkage::Static, ret, &params);
        }
    }

    fn callbacks(&mut self) {
        let (node, any, int) = (self.types["bpf_rb_node"], self.b.ptr(0), self.types["int"]);
        let (node, key) = (self.b.ptr(node), self.b.ptr(int));
        let less = self.b.func_proto(self.types["bool"], &[("a", node), ("b", node)]);
        let wq = self.b.func_proto(int, &[("map", any), ("key", key), ("value", any)]);
        self.types.extend([("less_fn", less), ("wq_fn", wq)]);
    }

    /// `NAME SIZE`, or with members `NAME SIZE TYPE[N] MEMBER OFFSET, ...`.
    fn structure(&mut self, rest: &'static str) {
        let mut words = rest.splitn(3, ' ');
        let name = words.next().expect("a name");
        let size = words.next().and_then(|w| w.parse().ok()).expect("a size");
        let members: Vec<_> = (words.next().into_iter().flat_map(|m| m.split(", ")))
            .map(|m| {
                let [ty, member, off] = m.split(' ').collect::<Vec<_>>()[..] else {
                    panic!("a member is TYPE NAME OFFSET: {m}")
                };
                let off: u32 = off.parse().expect("an offset");
                (member, self.named(ty), off * 8, 0)
            })
            .collect();
        let id = self.b.structure(name, size, &members);
        self.types.insert(name, id);
    }

    /// `TYPE`, `TYPE*` or `TYPE[N]`.
    fn named(&mut self, ty: &'static str) -> TypeId {
        if let Some(to) = ty.strip_suffix('*') {
            return self.b.ptr(self.types[to]);
        }
        let Some((elem, n)) = ty.strip_suffix(']').and_then(|t| t.split_once('[')) else {
            return self.types[ty];
        };
        self.b.array(self.types[elem], self.types["u32"], n.parse().expect("a number"))
    }

    /// `TYPE NAME(TYPE PARAM, ...)`: name, result, parameters.
    fn prototype(
        &mut self,
        line: &'static str,
    ) -> (&'static str, TypeId, Vec<(&'static str, u32)>) {
        let (head, params) = line.split_once('(').expect("a prototype");
        let (ret, name) = head.rsplit_once(' ').expect("a result and a name");
        let ret = self.typed(ret);
        let params = params.trim_end_matches(')').split(", ").filter(|p| !p.is_empty());
        let params =
            params.map(|p| (p.rsplit(' ').next().expect("a name"), self.typed(p))).collect();
        (name, ret, params)
    }

    fn typed(&mut self, decl: &'static str) -> TypeId {
        let ty = self.types[decl.split(' ').next().expect("a type")];
        if decl.contains('*') { self.b.ptr(ty) } else { ty }
    }

    /// A member of a structure of functions, and the stub that its programs are checked by.
    fn member(&mut self, line: &'static str) {
        let (name, ret, params) = self.prototype(line);
        let (ops, members) = self.ops.as_mut().expect("a member is of `ops`");
        self.b.func(&format!("{ops}__{name}"), Linkage::Static, ret, &params);
        let plain: Vec<_> =
            params.iter().map(|(n, ty)| (n.split("__").next().unwrap_or(n), *ty)).collect();
        let proto = self.b.func_proto(ret, &plain);
        members.push((name, self.b.ptr(proto)));
    }

    fn end_ops(&mut self) {
        let Some((name, members)) = self.ops.take() else { return };
        let at = |(i, (name, ty)): (u32, (&'static str, TypeId))| (name, ty, i * 64, 0);
        let members: Vec<_> = (0..).zip(members).map(at).collect();
        let id = self.b.structure(name, members.len() as u32 * 8, &members);
        let value = format!("bpf_struct_ops_{name}");
        self.b.structure(&value, members.len() as u32 * 8 + 64, &[("data", id, 512, 0)]);
    }
}

impl KernelEnv for Env {
    fn map_by_fd(&self, fd: i32) -> Option<MapInfo> {
        self.maps.get(usize::try_from(fd).ok()?).cloned()
    }
    fn btf(&self) -> Option<&Btf> {
        Some(&self.btf)
    }
    fn runs_indirect(&self) -> bool {
        true
    }
    fn layout(&self) -> Layout {
        Layout {
            array_max_entries: 36,
            array_index_mask: 260,
            array_value: 272,
            prog_bpf_func: 48,
            htab_elem_key: 48,
        }
    }
    fn conv_ctx(&self, access: CtxAccess) -> Option<CtxConv> {
        Some(CtxConv { insns: vec![access.insn], target_size: 8 })
    }
    fn has_helper(&self, _: i32) -> bool {
        true
    }
    fn identity(&self) -> u64 {
        0
    }
}
