//! RCU read sections and regions without preemption or interrupts.
//!
//! | call | RCU off | RCU on |
//! |---|---|---|
//! | `bpf_rcu_read_lock` | on | "nested rcu read lock" |
//! | `bpf_rcu_read_unlock` | "unmatched" | off, what RCU protected is untrusted |
//! | a kfunc that sleeps | allowed | refused |
//!
//! Preemption counts: `enable` at zero is unmatched. Nothing that sleeps may be called in any of
//! the regions.

use super::kfunc::meta::{KfuncMeta, Special as S};
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::{EACCES, EINVAL};
use crate::tables::kfuncs::KfFlags as F;

impl<'a> Ver<'a> {
    /// `in_rcu_cs`.
    pub(crate) fn in_rcu_cs(&self) -> bool {
        self.cur.held.rcu || self.cur.held.locked() || !self.cur.in_sleepable
    }

    /// What a kfunc does to the regions it is called in.
    pub(crate) fn kf_regions(&mut self, meta: &KfuncMeta<'a>) -> R {
        let sleeps = meta.has(F::SLEEPABLE);
        self.kf_rcu(meta)?;
        match (meta.which, self.cur.held.preempt) {
            (Some(S::PreemptDisable), _) => self.cur.held.preempt += 1,
            (Some(S::PreemptEnable), 0) => {
                let m = "unmatched attempt to enable preemption";
                return no(EINVAL, format!("{m} (kernel function {})", meta.name));
            }
            (Some(S::PreemptEnable), _) => self.cur.held.preempt -= 1,
            (_, n) if n != 0 && sleeps => return self.sleeps_within("non-preemptible", meta),
            _ => {}
        }
        if self.cur.held.active_irq() != 0 && sleeps {
            return self.sleeps_within("IRQ-disabled", meta);
        }
        Ok(())
    }

    fn sleeps_within(&self, region: &str, meta: &KfuncMeta<'a>) -> R {
        let m = format!("kernel func {} is sleepable within {region} region", meta.name);
        no(EACCES, m)
    }

    fn kf_rcu(&mut self, meta: &KfuncMeta<'a>) -> R {
        let (lock, unlock) = (meta.is(&[S::RcuReadLock]), meta.is(&[S::RcuReadUnlock]));
        let of = |m: &str| format!("{m} (kernel function {})", meta.name);
        if !self.cur.held.rcu {
            if unlock {
                return no(EINVAL, of("unmatched rcu read unlock"));
            }
            self.cur.held.rcu = lock;
            return Ok(());
        }
        if (lock || unlock) && self.in_rbtree_callback() {
            let m = "Calling bpf_rcu_read_{lock,unlock} in unnecessary rbtree callback";
            return no(EACCES, m);
        }
        if lock {
            return no(EINVAL, of("nested rcu read lock"));
        }
        if unlock {
            let gone = Flags::MEM_RCU.or(Flags::PTR_MAYBE_NULL);
            for r in self.cur.all_regs_and_iters_mut().filter(|r| r.flags.has(Flags::MEM_RCU)) {
                r.flags = r.flags.without(gone).or(Flags::PTR_UNTRUSTED);
            }
            self.cur.held.rcu = false;
            return Ok(());
        }
        if meta.has(F::SLEEPABLE) {
            return self.sleeps_within("rcu_read_lock", meta);
        }
        Ok(())
    }
}
