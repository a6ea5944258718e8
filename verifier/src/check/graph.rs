//! Lists and trees of allocated objects.

use bpf::insn::Reg;

use super::kfunc::meta::{KfArg, KfuncMeta};
use crate::domain::reg::RegState;
use crate::explore::ver::{R, Ver, unsupported};

impl<'a> Ver<'a> {
    /// `process_kf_arg_ptr_to_list_head`, `process_kf_arg_ptr_to_rbtree_root`.
    pub(crate) fn kf_graph_root_arg(
        &mut self,
        _meta: &mut KfuncMeta<'a>,
        _i: usize,
        _n: Reg,
        _r: &RegState,
        _kind: KfArg,
    ) -> R {
        unsupported("list and tree roots", "verifier.c:__process_kf_arg_ptr_to_graph_root")
    }

    /// `process_kf_arg_ptr_to_list_node`, `process_kf_arg_ptr_to_rbtree_node`.
    pub(crate) fn kf_graph_node_arg(
        &mut self,
        _meta: &mut KfuncMeta<'a>,
        _i: usize,
        _n: Reg,
        _r: &RegState,
        _kind: KfArg,
    ) -> R {
        unsupported("list and tree nodes", "verifier.c:__process_kf_arg_ptr_to_graph_node")
    }

    /// `set_rbtree_add_callback_state`.
    pub(crate) fn push_rbtree_less(&mut self, _meta: &KfuncMeta<'a>) -> R {
        unsupported("bpf_rbtree_add", "verifier.c:set_rbtree_add_callback_state")
    }

    /// `ref_convert_owning_non_owning` and the release of the owning reference.
    pub(crate) fn graph_insert(&mut self, _meta: &KfuncMeta<'a>) -> R {
        unsupported("list and tree insertion", "verifier.c:ref_convert_owning_non_owning")
    }

    /// `mark_reg_graph_node`.
    pub(crate) fn graph_node_result(&mut self, _meta: &KfuncMeta<'a>) -> R<RegState> {
        unsupported("list and tree nodes", "verifier.c:mark_reg_graph_node")
    }

    /// `ref_set_non_owning`.
    pub(crate) fn kf_set_non_owning(&mut self, _r: &mut RegState) -> R {
        unsupported("non-owning references", "verifier.c:ref_set_non_owning")
    }
}
