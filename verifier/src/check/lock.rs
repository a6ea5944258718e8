//! Locks: `bpf_spin_lock`, `bpf_res_spin_lock` and what may be called while one is held.
//!
//! | event | no lock held | this lock held | another held |
//! |---|---|---|---|
//! | spin lock | held | "function calls are not allowed" | the same |
//! | resilient lock | held | AA deadlock | held too |
//! | unlock, innermost | "without taking a lock" | released | "different lock" |
//! | unlock, not innermost | | "cannot be out of order" | "different lock" |

use bpf::insn::{Call, Reg};

use super::kfunc::meta::{KfuncMeta, Special as S};
use crate::btf::BtfSrc;
use crate::btf::record::FieldKind;
use crate::domain::refs::{LockPtr, NotReleased, RefType};
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::EINVAL;

/// `kfunc_spin_allowed`: kfuncs that may be called while a lock is held.
const LOCKED_OK: &[&str] = &[
    "bpf_list_push_front_impl",
    "bpf_list_push_back_impl",
    "bpf_list_pop_front",
    "bpf_list_pop_back",
    "bpf_list_front",
    "bpf_list_back",
    "bpf_rbtree_add_impl",
    "bpf_rbtree_remove",
    "bpf_rbtree_first",
    "bpf_rbtree_root",
    "bpf_rbtree_left",
    "bpf_rbtree_right",
    "bpf_refcount_acquire_impl",
    "bpf_iter_num_new",
    "bpf_iter_num_next",
    "bpf_iter_num_destroy",
    "bpf_res_spin_lock",
    "bpf_res_spin_unlock",
    "bpf_res_spin_lock_irqsave",
    "bpf_res_spin_unlock_irqrestore",
];

/// A lock operation of a helper or kfunc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LockOp {
    /// Take it, or give it back.
    pub(crate) take: bool,
    /// Kind.
    pub(crate) ty: RefType,
}

impl LockOp {
    /// `lock_str`, also the head of the structure's name.
    fn name(self) -> &'static str {
        match self.ty {
            RefType::ResLock | RefType::ResLockIrq => "bpf_res_spin",
            RefType::Lock | RefType::Ptr | RefType::Irq => "bpf_spin",
        }
    }
}

impl Ver<'_> {
    /// While a lock is held only its release and what cannot block may be called.
    pub(crate) fn call_under_lock(&self, call: Call) -> R {
        const SPIN_UNLOCK: i32 = 94;
        let fine = match call {
            Call::Helper(id) => id == SPIN_UNLOCK,
            Call::Local(_) => true,
            Call::Kfunc { btf_id, off } => off == 0 && self.kfunc_spin_allowed(btf_id),
        };
        if fine || !self.cur.held.locked() {
            return Ok(());
        }
        no(EINVAL, "function calls are not allowed while holding a lock")
    }

    /// `kfunc_spin_allowed`.
    fn kfunc_spin_allowed(&self, btf_id: i32) -> bool {
        LOCKED_OK.contains(&self.btf_name(BtfSrc::Vmlinux, btf_id.cast_unsigned()))
    }

    /// KERNEL v6.18 verifier.c:process_spin_lock
    pub(crate) fn spin_lock(&mut self, n: Reg, op: LockOp) -> R {
        let r = *self.r(n);
        let name = op.name();
        let Some(v) = r.b.as_const() else {
            let m = format!("{name}_lock has to be at the constant offset");
            return no(EINVAL, format!("R{} doesn't have constant offset. {m}", n.0));
        };
        let at = self.lock_offset(&r, op)?;
        let off = (v as i64).wrapping_add(r.off.into());
        if off != i64::from(at) {
            let m = format!("off {off} doesn't point to 'struct {name}_lock' that is at {at}");
            return no(EINVAL, m);
        }
        let map = r.ty == RegType::MapValue;
        let ptr = if map { LockPtr::Map(r.map) } else { LockPtr::Object };
        if op.take { self.take_lock(op, r.id, ptr) } else { self.release_lock(op, r.id, ptr) }
    }

    /// Where the lock is in the map value or object a pointer points to.
    fn lock_offset(&self, r: &RegState, op: LockOp) -> R<u32> {
        let kind =
            if op.ty == RefType::Lock { FieldKind::SpinLock } else { FieldKind::ResSpinLock };
        if let Some(f) = self.reg_record(r).and_then(|rec| rec.find(kind)) {
            return Ok(f.off);
        }
        if r.ty == RegType::MapValue {
            self.map_has_btf(r.map, &format!("{}_lock", op.name()))?;
        }
        let (what, name) = match r.ty {
            RegType::MapValue => ("map", self.maps[r.map as usize].name.as_str()),
            _ => ("local", "kptr"),
        };
        no(EINVAL, format!("{what} '{name}' has no valid {}_lock", op.name()))
    }

    fn take_lock(&mut self, op: LockOp, id: u32, ptr: LockPtr) -> R {
        const RES: [RefType; 2] = [RefType::ResLock, RefType::ResLockIrq];
        if op.ty != RefType::Lock && self.cur.held.has_lock(&RES, id, ptr) {
            return no(EINVAL, "Acquiring the same lock again, AA deadlock detected");
        }
        self.hold(op.ty, id, ptr);
        Ok(())
    }

    fn release_lock(&mut self, op: LockOp, id: u32, ptr: LockPtr) -> R {
        let name = op.name();
        if !self.cur.held.locked() {
            return no(EINVAL, format!("{name}_unlock without taking a lock"));
        }
        match self.cur.held.release_lock(op.ty, id, ptr) {
            Ok(()) => {
                self.invalidate_non_owning_refs();
                Ok(())
            }
            Err(NotReleased::Missing) => no(EINVAL, format!("{name}_unlock of different lock")),
            Err(NotReleased::OutOfOrder) => {
                no(EINVAL, format!("{name}_unlock cannot be out of order"))
            }
        }
    }

    /// `invalidate_non_owning_refs`: they are good for one critical section.
    pub(crate) fn invalidate_non_owning_refs(&mut self) {
        let dead = self.dead();
        for r in self.cur.all_regs_mut().filter(|r| r.flags.has(Flags::NON_OWN_REF)) {
            *r = dead;
        }
    }
}

impl<'a> Ver<'a> {
    /// `KF_ARG_PTR_TO_RES_SPIN_LOCK`.
    pub(crate) fn kf_res_lock_arg(
        &mut self,
        meta: &mut KfuncMeta<'a>,
        i: usize,
        n: Reg,
        r: &RegState,
    ) -> R {
        let object = r.ty == RegType::BtfId && r.flags == Flags::MEM_ALLOC;
        if !r.is(RegType::MapValue) && !object {
            let m = "doesn't point to map value or allocated object";
            return no(EINVAL, format!("arg#{i} {m}"));
        }
        let take = meta.is(&[S::ResSpinLock, S::ResSpinLockIrqsave]);
        let irq = meta.is(&[S::ResSpinLockIrqsave, S::ResSpinUnlockIrqrestore]);
        let ty = if irq { RefType::ResLockIrq } else { RefType::ResLock };
        self.spin_lock(n, LockOp { take, ty })
    }

    /// The branch on which the lock is not taken: an errno, and nothing is held.
    pub(crate) fn res_lock_failed_branch(&mut self, _meta: &KfuncMeta<'a>) -> R {
        const MAX_ERRNO: i32 = 4095;
        let mut errno = self.unknown();
        let b = &mut errno.b;
        (b.s32_min, b.s32_max) = (-MAX_ERRNO, -1);
        (b.smin, b.smax) = ((-MAX_ERRNO).into(), -1);
        b.sync();
        let at = self.insn_idx;
        errno.subreg_def = at + 1;
        let regs = &mut self.push_stack(at + 1, at)?.frame_mut().regs;
        regs[..6].fill(RegState::NOT_INIT);
        regs[0] = errno;
        Ok(())
    }
}
