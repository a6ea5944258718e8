//! Saved interrupt flags on the stack: one slot that only the restoring kfunc reads.
//!
//! | call | slot holds no flags | holds flags |
//! |---|---|---|
//! | save (`bpf_local_irq_save`, lock with irqsave) | holds flags, innermost | refused |
//! | restore, innermost, of the same class | refused | free again |
//! | restore, not innermost | refused | "out of order" |
//! | restore by the other class (native, lock) | refused | refused |

use bpf::insn::Reg;

use super::kfunc::meta::{KfuncMeta, Special as S};
use super::slots::NoSlots;
use crate::domain::refs::{LockPtr, RefType};
use crate::domain::reg::{Obj, RegState, RegType};
use crate::domain::stack::{SlotType, StackSlot};
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::{EACCES, EINVAL};

impl<'a> Ver<'a> {
    /// `KF_ARG_PTR_TO_IRQ_FLAG`: `process_irq_flag`.
    pub(crate) fn kf_irq_flag_arg(
        &mut self,
        meta: &mut KfuncMeta<'a>,
        i: usize,
        n: Reg,
        r: &RegState,
    ) -> R {
        if r.ty != RegType::Stack {
            return no(EINVAL, format!("arg#{i} doesn't point to an irq flag on stack"));
        }
        let lock = meta.is(&[S::ResSpinLockIrqsave, S::ResSpinUnlockIrqrestore]);
        if meta.is(&[S::LocalIrqSave, S::ResSpinLockIrqsave]) {
            return self.save_irq(n, r, lock);
        }
        self.restore_irq(n, r, lock)
    }

    fn irq_slot(&self, r: &RegState) -> Result<usize, NoSlots> {
        self.object_slots(r, "irq_flag", 1)
    }

    fn save_irq(&mut self, n: Reg, r: &RegState, lock: bool) -> R {
        let stack = &self.cur.frames[r.frameno as usize].stack;
        let bad = format!("expected uninitialized irq flag as arg#{}", n.0 - 1);
        match self.irq_slot(r) {
            Ok(spi) if stack[spi].types.contains(&SlotType::IrqFlag) => return no(EINVAL, bad),
            Err(e @ NoSlots::Bad(_)) => return no(EINVAL, e.under(&bad)),
            Ok(_) | Err(NoSlots::OutOfRange) => {}
        }
        self.write_slots(n, 1)?;
        let Ok(spi) = self.irq_slot(r) else { return no(EINVAL, bad) };
        let id = self.new_id();
        self.hold(RefType::Irq, id, LockPtr::None);
        let reg = RegState::pointer(RegType::Stack, Flags::NONE);
        let reg = RegState { ref_obj_id: id, obj: Obj::Irq { lock }, ..reg };
        let slot = StackSlot { reg, types: [SlotType::IrqFlag; 8] };
        self.cur.frames[r.frameno as usize].stack[spi] = slot;
        self.scratch_slot(spi);
        Ok(())
    }

    fn restore_irq(&mut self, n: Reg, r: &RegState, lock: bool) -> R {
        let bad = format!("expected an initialized irq flag as arg#{}", n.0 - 1);
        let spi = match self.irq_slot(r) {
            Ok(spi) => spi,
            Err(e) => return no(EINVAL, e.under(&bad)),
        };
        let slot = self.cur.frames[r.frameno as usize].stack[spi];
        let Obj::Irq { lock: by_lock } = slot.reg.obj else { return no(EINVAL, bad) };
        if slot.types != [SlotType::IrqFlag; 8] {
            return no(EINVAL, bad);
        }
        self.read_object(r.frameno, spi, 1);
        if by_lock != lock {
            let class = |lock| if lock { "lock" } else { "native" };
            let (by, with) = (class(by_lock), class(lock));
            let m =
                format!("irq flag acquired by {by} kfuncs cannot be restored with {with} kfuncs");
            return no(EINVAL, m);
        }
        if self.cur.held.release_irq(slot.reg.ref_obj_id).is_err() {
            let id = self.cur.held.active_irq();
            let at = self.cur.held.refs.iter().find(|r| r.id == id).map_or(0, |r| r.insn_idx);
            let m = format!("expected id={id} acquired at insn_idx={at}");
            return no(EACCES, format!("cannot restore irq state out of order, {m}"));
        }
        self.mark_stack_write(r.frameno, 1 << spi);
        self.cur.frames[r.frameno as usize].stack[spi] = StackSlot::INVALID;
        self.scratch_slot(spi);
        Ok(())
    }
}
