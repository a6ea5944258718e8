//! What the verifier asks of the kernel it verifies for: maps, BTF, layouts, capabilities.
//!
//! Helper prototypes, context tables and return ranges are facts of the kernel version and live in
//! `verifier::tables`; this trait has what differs from one running kernel to the next.

mod btf_kernel;

use bpf::insn::asm::{AsmMap, Assembly};
use bpf::uapi::{MapType, ProgType};

pub use btf_kernel::BtfKernel;

/// A guest virtual address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct GuestAddr(pub u64);

/// Facts about one map, as `struct bpf_map` and its operations give them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapInfo {
    /// Kernel object id; equal ids mean the same map.
    pub id: u32,
    /// Name.
    pub name: String,
    /// Type.
    pub map_type: MapType,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes.
    pub value_size: u32,
    /// Maximal number of entries.
    pub max_entries: u32,
    /// `map_flags`.
    pub flags: u32,
    /// `map_extra`.
    pub map_extra: u64,
    /// Address of `struct bpf_map` in guest memory: what `ld_imm64` becomes.
    pub addr: GuestAddr,
    /// Address of the only value (`map_direct_value_addr`), for arrays of one entry.
    pub value_addr: Option<GuestAddr>,
    /// Contents when frozen and `BPF_F_RDONLY_PROG`: loads fold into constants.
    pub frozen_value: Option<Vec<u8>>,
    /// Template of the inner maps, for maps of maps.
    pub inner: Option<Box<MapInfo>>,
    /// BTF id of the value type in the map's BTF; 0 when none.
    pub value_type_id: u32,
    /// Byte offset of a `struct bpf_spin_lock` in the value.
    pub spin_lock_off: Option<u32>,
    /// Byte offset of a `struct bpf_timer` in the value.
    pub timer_off: Option<u32>,
}

impl MapInfo {
    /// The maps of an assembly, with addresses of nobody's memory: for judging without a kernel.
    #[must_use]
    pub fn of_assembly(a: &Assembly) -> Vec<MapInfo> {
        let info = |(id, m): (u32, &AsmMap)| MapInfo {
            id,
            name: m.name.clone(),
            map_type: m.map_type,
            key_size: m.key_size,
            value_size: m.value_size,
            max_entries: m.max_entries,
            flags: m.flags,
            map_extra: m.map_extra,
            addr: GuestAddr(0x1000 * u64::from(id)),
            value_addr: (m.map_type == MapType::InsnArray
                || m.map_type == MapType::Array && m.max_entries == 1)
                .then_some(GuestAddr(0x10_0000)),
            // `struct bpf_insn_array_value`: three more words.
            frozen_value: a.tables.get(&m.name).map(|t| {
                t.iter().flat_map(|at| [*at, 0, 0, 0]).flat_map(u32::to_le_bytes).collect()
            }),
            inner: None,
            value_type_id: 0,
            spin_lock_off: None,
            timer_off: None,
        };
        (1..).zip(&a.maps).map(info).collect()
    }
}

/// How one context field is reached after rewriting: the kernel's `convert_ctx_access`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CtxConv {
    /// The instructions that replace the access. They use dst/src of the access and, for what
    /// the kernel needs it for, `Reg::AX`.
    pub insns: Vec<bpf::Insn>,
    /// Bytes of what the kernel keeps for the field (`target_size`): a load of no fewer bytes has
    /// the value as it is, though the field of the context is wider.
    pub target_size: u32,
}

/// Offsets of kernel structures that rewritten programs and tail calls embed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// `offsetof(struct bpf_array, map.max_entries)` (u32).
    pub array_max_entries: i16,
    /// `offsetof(struct bpf_array, index_mask)` (u32).
    pub array_index_mask: i16,
    /// `offsetof(struct bpf_array, value)` = `ptrs` = `pptrs`.
    pub array_value: i16,
    /// `offsetof(struct bpf_prog, bpf_func)` (u64): native entry point.
    pub prog_bpf_func: i16,
    /// `offsetof(struct htab_elem, key)`.
    pub htab_elem_key: i16,
    /// Per-CPU address of `cpu_number`.
    pub cpu_number: i32,
}

/// A field access to be rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CtxAccess {
    /// The instruction (load or store) with its registers and UAPI offset.
    pub insn: bpf::Insn,
    /// Program type.
    pub prog_type: ProgType,
}

/// The kernel a program is verified for.
pub trait KernelEnv {
    /// The map behind a file descriptor of the loader.
    fn map_by_fd(&self, fd: i32) -> Option<MapInfo>;
    /// Vmlinux BTF.
    fn btf(&self) -> Option<&bpf::btf::Btf>;
    /// Address of a kernel variable or function (`kallsyms_lookup_name`).
    fn symbol(&self, _name: &str) -> Option<GuestAddr> {
        None
    }
    /// The kernel has no symbol of this name that could be found by it.
    fn lacks_symbol(&self, _name: &str) -> bool {
        false
    }
    /// `nr_cpu_ids`: bound of `bpf_get_smp_processor_id`. The default is the largest
    /// `CONFIG_NR_CPUS`.
    fn nr_cpu_ids(&self) -> u32 {
        8192
    }
    /// Where an arena is mapped; `None` when the kernel has no memory for arenas (then a program
    /// that touches it is `Unsupported`).
    fn arena(&self, _map: &MapInfo) -> Option<crate::verified::Arena> {
        None
    }
    /// Whether the user has an arena mapped: where, it says or `mmap` has said.
    fn arena_is_mapped(&self, map: &MapInfo) -> bool {
        map.map_extra != 0
    }
    /// Whether what runs the programs has indirect jumps and calls.
    fn runs_indirect(&self) -> bool {
        false
    }
    /// `bpf_jit_supports_timed_may_goto`: `may_goto` ends a loop by time, not by a count alone.
    fn timed_may_goto(&self) -> bool {
        true
    }
    /// Structure offsets.
    fn layout(&self) -> Layout;
    /// Rewrites one context access; `None` when the field is not modelled (then `Unsupported`).
    fn conv_ctx(&self, access: CtxAccess) -> Option<CtxConv>;
    /// Rewrites a load through a socket pointer (`bpf_sock_convert_ctx_access` and its kin).
    fn conv_sock(&self, _class: crate::explore::PtrClass, _access: CtxAccess) -> Option<CtxConv> {
        None
    }
    /// Whether the model has a body for this helper (verification alone does not need one).
    fn has_helper(&self, id: i32) -> bool;
    /// Identity of this world, recorded in the proof: kernel version and BTF hash.
    fn identity(&self) -> u64;
}
