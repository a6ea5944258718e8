//! Kfuncs and arguments with state of their own: each is one call into the module that keeps it.

use bpf::insn::Reg;

use super::meta::{KfArg, KfuncMeta, Special as S};
use crate::domain::reg::RegState;
use crate::explore::ver::{R, Ver, no};
use crate::reject::EINVAL;

impl<'a> Ver<'a> {
    /// Before the arguments are looked at: a lock that may fail forks the state.
    pub(super) fn kf_before(&mut self, meta: &KfuncMeta<'a>) -> R {
        if meta.is(&[S::ResSpinLock, S::ResSpinLockIrqsave]) {
            return self.res_lock_failed_branch(meta);
        }
        Ok(())
    }

    /// Arguments that live on the stack, in map values or in allocated objects.
    pub(super) fn kf_special_arg(
        &mut self,
        meta: &mut KfuncMeta<'a>,
        i: usize,
        n: Reg,
        r: &RegState,
        kind: KfArg,
    ) -> R {
        match kind {
            KfArg::Dynptr => self.kf_dynptr_arg(meta, i, n, r),
            KfArg::Iter => self.kf_iter_arg(meta, i, n, r),
            KfArg::ListHead | KfArg::RbRoot => self.kf_graph_root_arg(meta, i, n, r, kind),
            KfArg::ListNode | KfArg::RbNode => self.kf_graph_node_arg(meta, i, n, r, kind),
            KfArg::RefcountedKptr => self.kf_refcounted_arg(meta, i, r),
            KfArg::Workqueue | KfArg::TaskWork => self.kf_async_arg(meta, i, n, r, kind),
            KfArg::IrqFlag => self.kf_irq_flag_arg(meta, i, n, r),
            KfArg::ResSpinLock => self.kf_res_lock_arg(meta, i, n, r),
            _ => no(EINVAL, format!("verifier bug: argument kind {kind:?}")),
        }
    }

    /// Callbacks the kfunc enters: `push_callback_call`.
    pub(super) fn kf_callbacks(&mut self, meta: &mut KfuncMeta<'a>) -> R {
        match meta.which {
            Some(S::RbtreeAdd) => self.push_rbtree_less(meta),
            Some(S::WqSetCallback | S::TaskWorkSchedule) => self.push_kf_async_callback(meta),
            Some(S::SessionCookie) => {
                (meta.r0_size, meta.r0_rdonly) = (8, false);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Pushing a node: its owning reference becomes a non-owning one.
    pub(super) fn kf_insert(&mut self, meta: &KfuncMeta<'a>) -> R {
        if meta.is(&[S::ListPushFront, S::ListPushBack, S::RbtreeAdd]) {
            return self.graph_insert(meta);
        }
        Ok(())
    }

    /// `bpf_throw`.
    pub(super) fn kf_throw(&mut self, meta: &KfuncMeta<'a>) -> R {
        if meta.is(&[S::Throw]) { self.check_throw(meta) } else { Ok(()) }
    }

    /// Scalar results with a known value.
    pub(super) fn kf_scalar_result(&mut self, meta: &KfuncMeta<'a>) -> RegState {
        if meta.is(&[S::ResSpinLock, S::ResSpinLockIrqsave]) {
            return self.known(0);
        }
        self.unknown()
    }

    /// `check_special_kfunc`: results that the prototype does not describe.
    pub(super) fn kf_special_return(&mut self, meta: &KfuncMeta<'a>) -> R<Option<RegState>> {
        match meta.which {
            Some(S::ObjNew | S::PercpuObjNew) => self.obj_new(meta).map(Some),
            Some(S::RefcountAcquire) => self.refcount_acquired(meta).map(Some),
            Some(S::ListPopFront | S::ListPopBack | S::ListFront | S::ListBack) => {
                self.graph_node_result(meta).map(Some)
            }
            Some(
                S::RbtreeRemove | S::RbtreeFirst | S::RbtreeRoot | S::RbtreeLeft | S::RbtreeRight,
            ) => self.graph_node_result(meta).map(Some),
            Some(S::CastToKernCtx) => self.kern_ctx_result(meta).map(Some),
            Some(S::RdonlyCast) => self.rdonly_cast_result(meta).map(Some),
            Some(S::DynptrSlice | S::DynptrSliceRdwr) => self.dynptr_slice_result(meta).map(Some),
            _ => Ok(None),
        }
    }
}
