//! `bpf_throw`.

use super::kfunc::meta::KfuncMeta;
use crate::explore::ver::{R, Ver, unsupported};

impl<'a> Ver<'a> {
    /// A call of `bpf_throw`, after its argument was checked.
    pub(crate) fn check_throw(&mut self, _meta: &KfuncMeta<'a>) -> R {
        unsupported("bpf_throw", "verifier.c:check_kfunc_call")
    }
}
