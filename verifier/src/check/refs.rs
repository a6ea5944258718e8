//! References and critical sections: acquired, released, leaked.

use crate::domain::refs::{LockPtr, NotReleased, RefState, RefType};
use crate::domain::reg::RegState;
use crate::explore::ver::{R, Ver, no};
use crate::reject::EINVAL;

impl Ver<'_> {
    /// `acquire_reference`.
    pub(crate) fn acquire(&mut self) -> u32 {
        let id = self.new_id();
        self.hold(RefType::Ptr, id, LockPtr::None);
        id
    }

    /// Puts something on the list of what is held.
    pub(crate) fn hold(&mut self, ty: RefType, id: u32, ptr: LockPtr) {
        let insn_idx = self.insn_idx;
        self.cur.held.refs.push(RefState { ty, id, insn_idx, ptr });
    }

    /// `mark_reg_invalid`: what a dead pointer becomes.
    pub(crate) fn dead(&self) -> RegState {
        if self.leaks_ok() { self.unknown() } else { RegState::NOT_INIT }
    }

    /// `release_reference`: every register that came from it dies.
    pub(crate) fn release(&mut self, ref_obj_id: u32) -> Result<(), NotReleased> {
        self.cur.held.release_ptr(ref_obj_id)?;
        let dead = self.dead();
        for r in self.cur.all_regs_mut().filter(|r| r.ref_obj_id == ref_obj_id) {
            *r = dead;
        }
        Ok(())
    }

    /// KERNEL v6.18 verifier.c:check_resource_leak
    ///
    /// `exception`: the program is left at once, so other frames do not release anything more.
    /// `sections`: no lock may be held and no critical section be open.
    pub(crate) fn resource_leak(&mut self, exception: bool, sections: bool, prefix: &str) -> R {
        let inside =
            |what: &str| no(EINVAL, format!("{prefix} cannot be used inside {what}-ed region"));
        if sections && self.cur.held.locked() {
            return inside("bpf_spin_lock");
        }
        if exception || self.cur.curframe() == 0 {
            self.reference_leak(exception, prefix)?;
        }
        if sections && self.cur.held.active_irq() != 0 {
            return inside("bpf_local_irq_save");
        }
        if sections && self.cur.held.rcu {
            return inside("bpf_rcu_read_lock");
        }
        if sections && self.cur.held.preempt != 0 {
            return inside("bpf_preempt_disable");
        }
        Ok(())
    }

    /// `check_reference_leak`. A struct_ops program may return the pointer it holds: whether it
    /// has the right type is looked at with the return value.
    fn reference_leak(&self, exception: bool, prefix: &str) -> R {
        use std::fmt::Write as _;
        let struct_ops = self.input.program.prog_type == bpf::uapi::ProgType::StructOps;
        let returned =
            if struct_ops && !exception { self.cur.frame().regs[0].ref_obj_id } else { 0 };
        let mut m = String::new();
        for r in self.cur.held.refs.iter().filter(|r| r.ty == RefType::Ptr && r.id != returned) {
            let _ = writeln!(m, "Unreleased reference id={} alloc_insn={}", r.id, r.insn_idx);
        }
        if m.is_empty() {
            return Ok(());
        }
        no(EINVAL, format!("{m}{prefix} would lead to reference leak"))
    }
}
