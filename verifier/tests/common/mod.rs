//! The kernel that the cases are verified for: maps of the case and the types of `kernel.txt`.

pub(crate) mod case;
pub(crate) mod run;

use std::collections::BTreeSet;
use std::sync::Arc;

use bpf::btf::Btf;
use verifier::KernelEnv;
use verifier::annotated::types::types;
use verifier::env::{CtxAccess, CtxConv, Layout, MapInfo};

/// Programs of type syscall can only be sleepable.
pub(crate) const BPF_F_SLEEPABLE: u32 = 1 << 4;

/// That kernel.
pub(crate) struct Env {
    /// By descriptor.
    pub(crate) maps: Vec<MapInfo>,
    /// Its types.
    pub(crate) btf: Arc<Btf>,
    /// Its symbols, where they matter.
    pub(crate) symbols: Option<Arc<BTreeSet<String>>>,
}

/// The kernel's types of `kernel.txt`.
pub(crate) fn kernel_btf() -> Btf {
    let text = include_str!("../../../tests/corpus/verifier/kernel.txt");
    types(text).expect("the types of kernel.txt are well formed")
}

impl KernelEnv for Env {
    fn map_by_fd(&self, fd: i32) -> Option<MapInfo> {
        self.maps.get(usize::try_from(fd).ok()?).cloned()
    }
    fn btf(&self) -> Option<&Btf> {
        Some(&*self.btf).filter(|b| !b.with_prefix("").is_empty())
    }
    fn lacks_symbol(&self, name: &str) -> bool {
        self.symbols.as_ref().is_some_and(|s| !s.contains(name))
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
            cpu_number: 0,
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
