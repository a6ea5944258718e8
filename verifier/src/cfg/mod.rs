//! Control flow before exploration: subprograms, jump targets, prune points, loops.

use bpf::insn::InsnIdx;

/// One subprogram: `struct bpf_subprog_info`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Subprog {
    /// First slot.
    pub start: InsnIdx,
    /// One past the last slot.
    pub end: InsnIdx,
    /// Name; empty without function info.
    pub name: String,
    /// `BTF_KIND_FUNC` id in the program's BTF; 0 when none.
    pub type_id: u32,
    /// Global linkage: verified on its own.
    pub is_global: bool,
    /// Contains LD_ABS or LD_IND.
    pub has_ld_abs: bool,
    /// Contains a tail call.
    pub has_tail_call: bool,
    /// It or a callee may sleep.
    pub might_sleep: bool,
    /// It or a callee changes packet data.
    pub changes_pkt_data: bool,
}

/// What `check_subprogs`, `check_cfg`, `compute_postorder` and `compute_scc` find out.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Cfg {
    /// Subprograms in order of `start`; `[0]` is the main one.
    pub subprogs: Vec<Subprog>,
    /// States are compared and kept here.
    pub prune_point: Vec<bool>,
    /// Jump history is recorded here.
    pub jmp_point: Vec<bool>,
    /// A state is always kept here.
    pub force_checkpoint: Vec<bool>,
    /// Calls of helpers that call back.
    pub calls_callback: Vec<bool>,
    /// Strongly connected component, 0 when the instruction is in no loop.
    pub scc: Vec<u32>,
    /// Reachable in the static graph.
    pub reachable: Vec<bool>,
    /// Instructions of all subprograms in post order, subprogram after subprogram.
    pub postorder: Vec<InsnIdx>,
    /// Start of each subprogram's part of `postorder`, and its end as a last entry.
    pub postorder_start: Vec<u32>,
}

impl Cfg {
    /// The subprogram that contains a slot.
    #[must_use]
    pub fn subprog_at(&self, at: InsnIdx) -> usize {
        self.subprogs.partition_point(|s| s.start <= at).saturating_sub(1)
    }

    /// The subprogram that starts at a slot.
    #[must_use]
    pub fn subprog_starting(&self, at: InsnIdx) -> Option<usize> {
        self.subprogs.iter().position(|s| s.start == at)
    }
}
