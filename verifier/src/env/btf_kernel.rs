//! A kernel known by its BTF alone: verdicts for a kernel that is not running.

use std::collections::BTreeSet;
use std::sync::Arc;

use bpf::btf::{Btf, Kind};

use super::{CtxAccess, CtxConv, KernelEnv, Layout, MapInfo};

/// A kernel's types and the maps a program refers to. It can judge programs, not run them:
/// nothing is rewritten for it.
#[derive(Clone, Debug)]
pub struct BtfKernel {
    /// Vmlinux BTF.
    pub btf: Arc<Btf>,
    /// The maps; the descriptor of map `i` is [`BtfKernel::fd`]`(i)`.
    pub maps: Vec<MapInfo>,
    /// `nr_cpu_ids`.
    pub cpus: u32,
    /// Names of its symbols, as far as they are known.
    pub symbols: Option<Arc<BTreeSet<String>>>,
}

impl BtfKernel {
    /// The first descriptor: unlike an index, so that the two are not confused.
    const FIRST_FD: i32 = 1 << 20;

    /// Descriptor of a map.
    #[must_use]
    pub fn fd(map: usize) -> i32 {
        i32::try_from(map).map_or(i32::MAX, |i| Self::FIRST_FD.saturating_add(i))
    }

    /// Byte offset of a member, 0 when the kernel has no such type.
    fn offset(&self, structure: &str, member: &str) -> i16 {
        let id = self.btf.find(structure, Kind::Struct);
        let found = id.and_then(|id| self.btf.member(id, member));
        found.and_then(|m| i16::try_from(m.byte_off()).ok()).unwrap_or(0)
    }
}

impl KernelEnv for BtfKernel {
    fn map_by_fd(&self, fd: i32) -> Option<MapInfo> {
        let index = usize::try_from(fd.checked_sub(Self::FIRST_FD)?).ok()?;
        self.maps.get(index).cloned()
    }

    fn btf(&self) -> Option<&Btf> {
        // One without types has no BTF.
        Some(&*self.btf).filter(|b| b.by_id(1).is_some())
    }

    fn lacks_symbol(&self, name: &str) -> bool {
        self.symbols.as_ref().is_some_and(|s| !s.contains(name))
    }

    fn nr_cpu_ids(&self) -> u32 {
        self.cpus
    }

    fn layout(&self) -> Layout {
        Layout {
            array_max_entries: self.offset("bpf_map", "max_entries"),
            array_index_mask: self.offset("bpf_array", "index_mask"),
            array_value: self.offset("bpf_array", "value"),
            prog_bpf_func: self.offset("bpf_prog", "bpf_func"),
            htab_elem_key: self.offset("htab_elem", "key"),
            // Where static per-CPU variables are is not among the types, and nothing runs here.
            cpu_number: 0,
        }
    }

    fn conv_ctx(&self, _access: CtxAccess) -> Option<CtxConv> {
        None
    }

    fn has_helper(&self, _id: i32) -> bool {
        true
    }

    fn identity(&self) -> u64 {
        0
    }
}
