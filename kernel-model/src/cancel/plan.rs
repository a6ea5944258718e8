//! What a call does in a run that is cancelled, by what the verifier knows of the callee.
//!
//! The rest of the program was proved for the values that a call may return, so an answer is one of
//! those: NULL where NULL is possible, an error or 0 where a number is. What gives something back,
//! takes part in a pair of which the other half will be called, or fills what the program reads
//! without a doubt afterwards, is done.

use bpf::btf::{Body, Btf, Kind};
use bpf::uapi::{MapType, ProgType};
use verifier::proto::{ArgBase, ArgType, Flags, FuncProto, RetBase};
use verifier::tables;

use crate::{Errno, Kernel};

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// It is done: clean-up, or its effect is relied upon.
    Do,
    /// It is answered.
    Answer(u64),
}

/// Helpers that are done although their prototype would allow an answer: they move a reference, or
/// are the other half of what was begun.
const DONE: &[&str] = &["kptr_xchg", "spin_lock", "spin_unlock", "timer_cancel", "tail_call"];

/// Kernel functions that are done: sections, ownership, what starts an iterator or a dynptr.
const DONE_KFUNCS: &[&str] = &[
    "bpf_rcu_read_lock",
    "bpf_rcu_read_unlock",
    "bpf_preempt_disable",
    "bpf_preempt_enable",
    "bpf_local_irq_save",
    "bpf_local_irq_restore",
    "bpf_res_spin_unlock",
    "bpf_res_spin_unlock_irqrestore",
    "bpf_list_push_front_impl",
    "bpf_list_push_back_impl",
    "bpf_rbtree_add_impl",
    // Not NULL for an object that the program owns.
    "bpf_refcount_acquire_impl",
    "bpf_obj_drop_impl",
    "bpf_percpu_obj_drop_impl",
];

/// Locks that a program need not get.
const LOCKS: &[&str] = &["bpf_res_spin_lock", "bpf_res_spin_lock_irqsave"];

impl Kernel {
    /// What a helper does.
    pub(crate) fn plan_helper(
        &mut self,
        (id, name): (i32, &str),
        args: [u64; 5],
        prog_type: Option<ProgType>,
    ) -> Plan {
        let proto = tables::helper_for(id, prog_type.unwrap_or(ProgType::Unspec));
        let Some(proto) = proto.filter(|_| !DONE.contains(&name)) else { return Plan::Do };
        let fills = |a: &ArgType| a.flags.has(Flags::MEM_UNINIT);
        let gives_back = |a: &ArgType| a.flags.has(Flags::OBJ_RELEASE);
        if proto.args.iter().any(|a| gives_back(a) || fills(a) || a.base == ArgBase::PtrToDynptr) {
            return Plan::Do;
        }
        match proto.ret.base {
            RetBase::Void => Plan::Answer(0),
            RetBase::Integer => Plan::Answer(number(proto)),
            _ if !proto.ret.flags.has(Flags::PTR_MAYBE_NULL) => Plan::Do,
            // The verifier knows that an element of an array is there.
            RetBase::PtrToMapValue if self.is_array(args[0]) => Plan::Do,
            _ => Plan::Answer(0),
        }
    }

    fn is_array(&self, map: u64) -> bool {
        let map = self.map_by_addr.get(&map).and_then(|id| self.maps.get(id));
        map.is_none_or(|m| matches!(m.def.map_type, MapType::Array | MapType::PercpuArray))
    }

    /// What a kernel function does.
    pub(crate) fn plan_kfunc(&self, name: &str, btf_id: i32) -> Plan {
        let Some(effect) = tables::kfunc_effect(name) else { return Plan::Do };
        if LOCKS.contains(&name) {
            return Plan::Answer(Errno::ETIMEDOUT.ret());
        }
        if effect.release || effect.iter_new || effect.iter_destroy || DONE_KFUNCS.contains(&name) {
            return Plan::Do;
        }
        if effect.iter_next || effect.ret_null {
            return Plan::Answer(0);
        }
        let btf = self.vmlinux_btf();
        let Some((ret, params)) = btf.func_proto(btf_id.cast_unsigned()) else { return Plan::Do };
        let pointer = |id| btf.kind(btf.skip_quals(id)) == Kind::Ptr;
        // What it writes through a pointer may be read without looking at the result.
        if pointer(ret) || params.iter().any(|p| pointer(p.ty) && !points_to_const(btf, p.ty)) {
            return Plan::Do;
        }
        Plan::Answer(0)
    }
}

fn points_to_const(btf: &Btf, id: u32) -> bool {
    matches!(btf.body(btf.skip_quals(id)), Body::Ptr(to) if btf.kind(*to) == Kind::Const)
}

/// An error where something is asked for, 0 where a value is read.
fn number(proto: &FuncProto) -> u64 {
    let asks = |a: &ArgType| !matches!(a.base, ArgBase::DontCare | ArgBase::PtrToCtx);
    let calls_back = proto.args.iter().any(|a| a.base == ArgBase::PtrToFunc);
    match proto.args.iter().any(asks) && !calls_back {
        true => Errno::ECANCELED.ret(),
        false => 0,
    }
}
