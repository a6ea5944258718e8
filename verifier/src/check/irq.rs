//! Saved interrupt flags on the stack.

use bpf::insn::Reg;

use super::kfunc::meta::KfuncMeta;
use crate::domain::reg::RegState;
use crate::explore::ver::{R, Ver, unsupported};

impl<'a> Ver<'a> {
    /// `process_irq_flag`.
    pub(crate) fn kf_irq_flag_arg(
        &mut self,
        _meta: &mut KfuncMeta<'a>,
        _i: usize,
        _n: Reg,
        _r: &RegState,
    ) -> R {
        unsupported("bpf_local_irq_save", "verifier.c:process_irq_flag")
    }
}
