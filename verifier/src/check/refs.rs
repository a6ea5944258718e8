//! References and locks: acquired, released, leaked.

use crate::domain::refs::{RefState, RefType};
use crate::domain::reg::RegState;
use crate::explore::ver::{R, Ver, no};
use crate::reject::EINVAL;

impl Ver<'_> {
    /// `acquire_reference`.
    pub(crate) fn acquire(&mut self) -> u32 {
        let id = self.new_id();
        let insn_idx = self.insn_idx;
        self.cur.refs.push(RefState { ty: RefType::Ptr, id, insn_idx });
        id
    }

    /// `release_reference`: every register that came from it dies.
    pub(crate) fn release(&mut self, ref_obj_id: u32) -> bool {
        let n = self.cur.refs.len();
        self.cur.refs.retain(|r| r.ty != RefType::Ptr || r.id != ref_obj_id);
        let leaks = self.leaks_ok();
        for r in self.cur.all_regs_mut().filter(|r| r.ref_obj_id == ref_obj_id) {
            *r = if leaks { RegState::NOT_INIT } else { RegState::unknown() };
        }
        self.cur.refs.len() < n
    }

    /// `check_resource_leak`.
    pub(crate) fn no_leaks(&mut self, prefix: &str) -> R {
        self.check_leaks_at(prefix, self.cur.curframe() == 0)
    }

    fn check_leaks_at(&mut self, prefix: &str, main: bool) -> R {
        if main && self.cur.active_lock.is_some() {
            return no(EINVAL, format!("{prefix} cannot be used inside bpf_spin_lock-ed region"));
        }
        if !main {
            return Ok(());
        }
        let lines: Vec<String> = self
            .cur
            .ptr_refs()
            .map(|r| format!("Unreleased reference id={} alloc_insn={}", r.id, r.insn_idx))
            .collect();
        if lines.is_empty() { Ok(()) } else { no(EINVAL, lines.join("\n")) }
    }

    /// The same wherever the instruction is: tail calls and legacy packet loads.
    pub(crate) fn check_leaks(&mut self, prefix: &str) -> R {
        self.check_leaks_at(prefix, true)
    }
}
