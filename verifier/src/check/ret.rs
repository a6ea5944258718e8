//! `exit`: return values of programs, subprograms and callbacks.

use bpf::insn::Reg;
use bpf::uapi::{AttachType, ProgType};

use crate::attach::lsm_range;
use crate::btf::BtfSrc;
use crate::domain::reg::{RegState, RegType};
use crate::domain::state::{Callback, VState};
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, no};
use crate::proto::RetRange;
use crate::reject::{EACCES, EINVAL};
use crate::render::log::type_of;
use crate::tables;

/// `verbose_invalid_scalar`.
fn invalid_scalar(r: &RegState, (min, max): (i32, i32), ctx: &str, n: Reg) -> String {
    let mut has = String::new();
    if r.b.smin > i64::MIN {
        has += &format!(" smin={}", r.b.smin);
    }
    if r.b.smax < i64::MAX {
        has += &format!(" smax={}", r.b.smax);
    }
    if has.is_empty() {
        has = " unknown scalar value".into();
    }
    format!("{ctx} the register R{} has{has} should have been in [{min}, {max}]", n.0)
}

impl Ver<'_> {
    /// `process_bpf_exit_full`.
    pub(crate) fn check_exit(&mut self) -> R<Next> {
        let main = self.cur.curframe() == 0;
        self.resource_leak(false, main, "BPF_EXIT instruction in main prog")?;
        if self.cur.curframe() > 0 {
            self.update_live_stack();
            return self.func_exit();
        }
        self.return_code(Reg::R0)?;
        Ok(Next::Done)
    }

    /// KERNEL v6.18 verifier.c:prepare_func_exit
    pub(crate) fn func_exit(&mut self) -> R<Next> {
        let r0 = self.cur.frame().regs[0];
        if r0.ty == crate::domain::reg::RegType::Stack {
            return no(EINVAL, "cannot return stack pointer to the caller");
        }
        let callback = self.cur.frame().callback == Callback::Sync;
        if callback {
            if !r0.is_scalar() {
                return no(EACCES, "R0 not a scalar value");
            }
            self.mark_precise(Reg::R0)?;
            let (min, max) = self.cur.frame().callback_ret;
            if r0.b.smin < i64::from(min) || r0.b.smax > i64::from(max) {
                let m = invalid_scalar(&r0, (min, max), "At callback return", Reg::R0);
                return no(EINVAL, m);
            }
        }
        let at = self.cur.frame().callsite;
        let to = if callback { at } else { at + 1 };
        if !callback {
            let caller = self.cur.curframe() - 1;
            self.cur.frames[caller].regs[0] = r0;
        }
        self.log_return(to);
        self.cur.frames.pop();
        if callback {
            let before = self.find_prev_entry(&self.cur, to);
            let mut cur = std::mem::replace(&mut self.cur, VState::nothing());
            self.widen(&mut cur, before);
            self.cur = cur;
        }
        Ok(Next::Goto(to))
    }

    fn log_return(&mut self, to: u32) {
        if !self.log.on() {
            return;
        }
        let mut log = std::mem::take(&mut self.log);
        let top = self.cur.curframe();
        log.put("returning from callee:\n");
        log.state(&self.cur, top, true, &self.names());
        log.put(&format!("to caller at {to}:\n"));
        log.state(&self.cur, top - 1, true, &self.names());
        self.log = log;
    }

    /// LSM hooks and members of struct_ops may return nothing.
    fn returns_void(&self) -> bool {
        let cgroup = self.input.program.attach_type == Some(AttachType::LsmCgroup);
        match (self.prog_type(), self.input.attach) {
            (ProgType::Lsm, Some(t)) => !cgroup && t.returns_void(),
            (ProgType::StructOps, Some(t)) => t.returns_void(),
            _ => tables::returns_void(self.input.program),
        }
    }

    /// A member of struct_ops may return an object it holds, if the prototype says so.
    fn returned_object(&self) -> Option<RegState> {
        let t = self.input.attach.filter(|_| self.prog_type() == ProgType::StructOps)?;
        let r = *self.r(Reg::R0);
        let same = r.ty == RegType::BtfId && t.btf.pointee(t.ret) == Some(r.btf_id);
        (same && r.btf == BtfSrc::Vmlinux && r.ref_obj_id != 0).then_some(r)
    }

    /// What the program may return.
    fn return_range(&self) -> RetRange {
        let p = self.input.program;
        let returned = self.input.attach.filter(|_| self.prog_type() == ProgType::StructOps);
        if returned.is_some_and(|t| t.btf.pointee(t.ret).is_some()) {
            // Of the pointers only the one it holds; else none.
            return RetRange::Range { min: 0, max: 0, is32: false };
        }
        if self.prog_type() != ProgType::Lsm {
            return tables::return_range(p);
        }
        let void = self.input.attach.is_some_and(|t| t.returns_void());
        let ((min, max), is32) = match p.attach_type {
            Some(AttachType::LsmCgroup) if void => ((1, 1), false),
            Some(AttachType::LsmCgroup) => ((0, 1), false),
            _ => (lsm_range(p), true),
        };
        RetRange::Range { min, max, is32 }
    }

    /// KERNEL v6.18 verifier.c:check_return_code
    ///
    /// The register is R0, or R1 of `bpf_throw`.
    pub(crate) fn return_code(&mut self, n: Reg) -> R {
        let frame = &self.cur.frames[0];
        let (callback, callback_ret) = (frame.callback, frame.callback_ret);
        let whole = self.root == 0 || callback == Callback::Exception;
        let is_async = callback == Callback::Async;
        if !is_async && whole {
            if self.returns_void() {
                return Ok(());
            }
            if let Some(r) = self.returned_object() {
                return self.ptr_off(Reg::R0, &r, false);
            }
        }
        let r0 = self.read(n)?;
        let (is, n0) = (type_of(&r0), n.0);
        if self.is_pointer_value(n) {
            return no(EACCES, format!("R{n0} leaks addr as return value"));
        }
        let (what, range) = if is_async {
            let (min, max) = callback_ret;
            ("At async callback return", RetRange::Range { min, max, is32: false })
        } else if !whole {
            if r0.is_scalar() {
                return Ok(());
            }
            let m = format!("the register R{n0} is not a scalar value ({is})");
            return no(EINVAL, format!("At subprogram exit {m}"));
        } else {
            ("At program exit", self.return_range())
        };
        let RetRange::Range { min, max, is32 } = range else { return Ok(()) };
        if !r0.is_scalar() {
            return no(EINVAL, format!("{what} the register R{n0} is not a known value ({is})"));
        }
        self.mark_precise(n)?;
        let (lo, hi) = if is32 {
            (i64::from(r0.b.s32_min), i64::from(r0.b.s32_max))
        } else {
            (r0.b.smin, r0.b.smax)
        };
        if lo < i64::from(min) || hi > i64::from(max) {
            return no(EINVAL, invalid_scalar(&r0, (min, max), what, n));
        }
        Ok(())
    }
}
