//! RCU read sections and regions without preemption.

use super::kfunc::meta::{KfuncMeta, Special as S};
use crate::explore::ver::{R, Ver, unsupported};

impl<'a> Ver<'a> {
    /// `in_rcu_cs`.
    pub(crate) fn in_rcu_cs(&self) -> bool {
        self.cur.held.rcu || self.cur.held.locked() || !self.cur.in_sleepable
    }

    /// What a kfunc does to the regions it is called in.
    pub(crate) fn kf_regions(&mut self, meta: &KfuncMeta<'a>) -> R {
        let all = [S::RcuReadLock, S::RcuReadUnlock, S::PreemptDisable, S::PreemptEnable];
        if meta.is(&all) {
            return unsupported(meta.name, "verifier.c:check_kfunc_call");
        }
        Ok(())
    }
}
