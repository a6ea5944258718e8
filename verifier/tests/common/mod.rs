//! The kernel that the cases are verified for: maps of the case and the types of `kernel.txt`.

use std::collections::BTreeMap;

use bpf::btf::{Btf, BtfBuilder, Linkage};
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
    let text = include_str!("../kernel.txt");
    let mut b = BtfBuilder::new();
    let mut types = BTreeMap::from([("void", 0)]);
    let ints = [("int", 4, true), ("u8", 1, false), ("u32", 4, false), ("u64", 8, false)];
    for (name, size, signed) in ints {
        types.insert(name, b.int(name, size, signed));
    }
    types.insert("bool", b.bool());
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        if line == "callbacks" {
            let node = b.ptr(types["bpf_rb_node"]);
            types.insert("less_fn", b.func_proto(types["bool"], &[("a", node), ("b", node)]));
            let (any, key) = (b.ptr(0), b.ptr(types["int"]));
            let args = [("map", any), ("key", key), ("value", any)];
            types.insert("wq_fn", b.func_proto(types["int"], &args));
            continue;
        }
        if let Some((name, size)) = line.strip_prefix("struct ").and_then(|l| l.split_once(' ')) {
            let size = size.parse().expect("a size");
            types.insert(name, b.structure(name, size, &[]));
            continue;
        }
        let (head, params) = line.split_once('(').expect("a prototype");
        let mut typed = |decl: &str| {
            let ty = types[decl.split(' ').next().expect("a type")];
            if decl.contains('*') { b.ptr(ty) } else { ty }
        };
        let (ret, name) = head.rsplit_once(' ').expect("a result and a name");
        let ret = typed(ret);
        let params: Vec<(&str, u32)> = params
            .trim_end_matches(')')
            .split(", ")
            .filter(|p| !p.is_empty())
            .map(|p| (p.rsplit(' ').next().expect("a name"), typed(p)))
            .collect();
        b.func(name, Linkage::Static, ret, &params);
    }
    b.finish().expect("the types of kernel.txt are well formed")
}

impl KernelEnv for Env {
    fn map_by_fd(&self, fd: i32) -> Option<MapInfo> {
        self.maps.get(usize::try_from(fd).ok()?).cloned()
    }
    fn btf(&self) -> Option<&Btf> {
        Some(&self.btf)
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
        Some(CtxConv { insns: vec![access.insn] })
    }
    fn has_helper(&self, _: i32) -> bool {
        true
    }
    fn identity(&self) -> u64 {
        0
    }
}
