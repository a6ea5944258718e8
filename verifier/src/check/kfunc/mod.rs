//! Kernel functions: `check_kfunc_call`.
//!
//! ```text
//!  meta.rs     what is called: prototype from BTF, flags from the table, kinds of arguments
//!  args.rs     check_kfunc_args
//!  ret.rs      what R0 is afterwards
//!  special.rs  kfuncs and arguments with state of their own, handed to check/{dynptr,iter,...}
//! ```

pub(crate) mod args;
pub(crate) mod meta;
mod ret;
mod special;

use bpf::insn::Reg;

use crate::domain::reg::RegState;
use crate::explore::step::Next;
use crate::explore::ver::{R, Ver, no};
use crate::reject::{EACCES, EFAULT, EINVAL};
use crate::tables::kfuncs::KfFlags as F;
pub(crate) use args::is_projection;
use meta::{KfuncMeta, Special};

impl<'a> Ver<'a> {
    /// KERNEL v6.18 verifier.c:check_kfunc_call
    pub(crate) fn check_kfunc_call(&mut self, id: i32, off: i16) -> R<Next> {
        if id == 0 {
            // A weak kfunc the kernel has not: what is left of these at the end is refused.
            return Ok(Next::Fall);
        }
        let mut meta = self.fetch_kfunc(id, off)?;
        if meta.is(&[Special::Trap]) {
            return no(EFAULT, "unexpected __bpf_trap() due to uninitialized variable?");
        }
        self.kf_before(&meta)?;
        if meta.has(F::DESTRUCTIVE) {
            return no(EACCES, "destructive kfunc calls require CAP_SYS_BOOT capability");
        }
        if meta.has(F::SLEEPABLE) && !self.cur.in_sleepable {
            let m = "program must be sleepable to call sleepable kfunc";
            return no(EACCES, format!("{m} {}", meta.name));
        }
        self.kf_args(&mut meta)?;
        self.kf_callbacks(&mut meta)?;
        self.kf_regions(&meta)?;
        if meta.has(F::RCU_PROTECTED) && !self.in_rcu_cs() {
            let m = "requires RCU critical section protection";
            return no(EACCES, format!("kernel func {} {m}", meta.name));
        }
        self.kf_release(&meta)?;
        self.kf_insert(&meta)?;
        self.kf_throw(&meta)?;
        for r in 0..6 {
            self.set(Reg(r), RegState::NOT_INIT);
        }
        self.kf_returned(&meta)?;
        if meta.is(&[Special::XdpPullData]) {
            self.clear_packet_pointers();
        }
        if meta.has(F::ITER_NEXT) {
            return self.kf_iter_next(&meta);
        }
        self.after_kfunc(&meta)
    }

    /// The reference a `KF_RELEASE` kfunc was given.
    fn kf_release(&mut self, meta: &KfuncMeta<'a>) -> R {
        let Some(n) = meta.release else { return Ok(()) };
        let id = self.r(n).ref_obj_id;
        if self.release(id).is_ok() {
            return Ok(());
        }
        let m = "reference has not been acquired before";
        no(EINVAL, format!("kfunc {}#{} {m}", meta.name, meta.id))
    }
}
