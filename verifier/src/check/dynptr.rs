//! Dynptrs as arguments and results of kfuncs.

use bpf::insn::Reg;

use super::kfunc::meta::KfuncMeta;
use crate::domain::reg::RegState;
use crate::explore::ver::{R, Ver, unsupported};

impl<'a> Ver<'a> {
    /// `KF_ARG_PTR_TO_DYNPTR`: `process_dynptr_func`.
    pub(crate) fn kf_dynptr_arg(
        &mut self,
        _meta: &mut KfuncMeta<'a>,
        _i: usize,
        _n: Reg,
        _r: &RegState,
    ) -> R {
        unsupported("dynptr argument", "verifier.c:process_dynptr_func")
    }

    /// `bpf_dynptr_slice` and `bpf_dynptr_slice_rdwr`.
    pub(crate) fn dynptr_slice_result(&mut self, _meta: &KfuncMeta<'a>) -> R<RegState> {
        unsupported("bpf_dynptr_slice", "verifier.c:check_special_kfunc")
    }
}
