//! Open-coded iterators.

use bpf::insn::Reg;

use super::kfunc::meta::KfuncMeta;
use crate::domain::reg::RegState;
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, unsupported};
use crate::proto::Flags;

impl<'a> Ver<'a> {
    /// `process_iter_arg`.
    pub(crate) fn kf_iter_arg(
        &mut self,
        _meta: &mut KfuncMeta<'a>,
        _i: usize,
        _n: Reg,
        _r: &RegState,
    ) -> R {
        unsupported("open-coded iterator", "verifier.c:process_iter_arg")
    }

    /// Trust of what `next` returns: `MEM_RCU` or `PTR_TRUSTED`.
    pub(crate) fn kf_iter_trust(&self, _meta: &KfuncMeta<'a>) -> Flags {
        Flags::PTR_TRUSTED
    }

    /// `process_iter_next_call`.
    pub(crate) fn kf_iter_next(&mut self, _meta: &KfuncMeta<'a>) -> R<Next> {
        unsupported("open-coded iterator", "verifier.c:process_iter_next_call")
    }
}
