//! Lists and trees of allocated objects.
//!
//! | reference | push, add | lock released | pop, remove | drop |
//! |---|---|---|---|---|
//! | owning, of this node | non-owning | | | released |
//! | non-owning | refused | dies | (remove) owning, may be NULL | refused |
//!
//! A collection may be touched only while the lock beside it, in the same map value or object,
//! is held.

use bpf::insn::{Call, Insn, Reg};

use super::callback::Entry;
use super::kfunc::meta::{KfArg, KfuncMeta, Special as S};
use crate::btf::BtfSrc;
use crate::btf::record::{Field, FieldKind};
use crate::domain::refs::LockPtr;
use crate::domain::reg::{RegState, RegType};
use crate::domain::state::Callback;
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::{EFAULT, EINVAL};

/// `is_bpf_rbtree_api_kfunc` by name.
const RBTREE_NAMES: [&str; 6] = [
    "bpf_rbtree_add_impl",
    "bpf_rbtree_remove",
    "bpf_rbtree_first",
    "bpf_rbtree_root",
    "bpf_rbtree_left",
    "bpf_rbtree_right",
];

/// `type_is_ptr_alloc_obj`: an allocated object and nothing more.
fn is_object(r: &RegState) -> bool {
    r.ty == RegType::BtfId && r.flags == Flags::MEM_ALLOC
}

/// Root and node of a collection as messages name them.
fn names(kind: KfArg) -> (&'static str, FieldKind) {
    match kind {
        KfArg::ListHead => ("bpf_list_head", FieldKind::ListHead),
        KfArg::ListNode => ("bpf_list_node", FieldKind::ListNode),
        KfArg::RbRoot => ("bpf_rb_root", FieldKind::RbRoot),
        _ => ("bpf_rb_node", FieldKind::RbNode),
    }
}

/// `mark_reg_graph_node`: the object that a node is in, seen from the node.
fn node_of(root: &Field) -> RegState {
    let mut r = RegState::pointer(RegType::BtfId, Flags::MEM_ALLOC);
    (r.btf, r.btf_id) = root.target;
    r.off = root.node_off.cast_signed();
    r
}

impl<'a> Ver<'a> {
    /// `in_rbtree_lock_required_cb`: inside the `less` callback of a tree, where the lock is
    /// held by the caller.
    pub(crate) fn in_rbtree_callback(&self) -> bool {
        let kernel = |id: i32| self.btf_name(BtfSrc::Vmlinux, id.cast_unsigned());
        self.cur.frames.iter().skip(1).filter(|f| f.callback == Callback::Sync).any(|f| match *self
            .insn(f.callsite)
        {
            Insn::Call(Call::Kfunc { btf_id, .. }) => RBTREE_NAMES.contains(&kernel(btf_id)),
            _ => false,
        })
    }

    /// `process_kf_arg_ptr_to_list_head`, `process_kf_arg_ptr_to_rbtree_root`.
    pub(crate) fn kf_graph_root_arg(
        &mut self,
        meta: &mut KfuncMeta<'a>,
        i: usize,
        n: Reg,
        r: &RegState,
        kind: KfArg,
    ) -> R {
        if !(r.is(RegType::MapValue) || is_object(r)) {
            let m = "expected pointer to map value or allocated object";
            return no(EINVAL, format!("arg#{i} {m}"));
        }
        if is_object(r) && r.ref_obj_id == 0 {
            return no(EINVAL, "allocated object must be referenced");
        }
        let (name, field) = names(kind);
        let at = self.field_offset(n, r, name)?;
        let rec = self.reg_record(r);
        let Some(root) = rec.and_then(|x| x.at(at)).filter(|f| f.kind == field).copied() else {
            return no(EINVAL, format!("{name} not found at offset={at}"));
        };
        let lock = rec.and_then(|x| x.find(FieldKind::SpinLock)).map_or(-22, |f| i64::from(f.off));
        let held = format!("bpf_spin_lock at off={lock} must be held for {name}");
        match self.allocation_locked(r) {
            Some(true) => {}
            None => return no(EINVAL, held),
            Some(false) => {
                let m = "held lock and object are not in the same allocation";
                return no(EINVAL, format!("{m}\n{held}"));
            }
        }
        meta.root = Some(root);
        Ok(())
    }

    fn field_offset(&self, n: Reg, r: &RegState, name: &str) -> R<u32> {
        let Some(v) = r.b.as_const() else {
            let m = format!("{name} has to be at the constant offset");
            return no(EINVAL, format!("R{} doesn't have constant offset. {m}", n.0));
        };
        Ok((r.off as u32).wrapping_add(v as u32))
    }

    /// `check_reg_allocation_locked`: none without a lock, false when it is another object's.
    fn allocation_locked(&self, r: &RegState) -> Option<bool> {
        let lock = self.cur.held.active_lock()?;
        let map = r.ty == RegType::MapValue;
        let ptr = if map { LockPtr::Map(r.map) } else { LockPtr::Object };
        Some(lock.ptr == ptr && lock.id == r.id)
    }

    /// `process_kf_arg_ptr_to_list_node`, `process_kf_arg_ptr_to_rbtree_node`.
    pub(crate) fn kf_graph_node_arg(
        &mut self,
        meta: &mut KfuncMeta<'a>,
        i: usize,
        n: Reg,
        r: &RegState,
        kind: KfArg,
    ) -> R {
        self.node_reference(meta, i, r, kind)?;
        let (name, field) = names(kind);
        let at = self.field_offset(n, r, name)?;
        let found = self.reg_record(r).and_then(|x| x.at(at)).is_some_and(|f| f.kind == field);
        if !found {
            return no(EINVAL, format!("{name} not found at offset={at}"));
        }
        let Some(root) = meta.root else {
            return no(EFAULT, "verifier bug: a node without its collection");
        };
        let strict = !r.flags.has(Flags::MEM_ALLOC);
        let want = self.btf_name(root.target.0, root.target.1);
        let have = self.btf_name(r.btf, r.btf_id);
        if !self.struct_ids_match((r.btf, r.btf_id), 0, root.target, strict) {
            let head = if field == FieldKind::ListNode { "bpf_list_head" } else { "bpf_rb_root" };
            let m = format!(
                "operation on {head} expects arg#1 {name} at offset={} in struct {want}, \
                 but arg is at offset={at} in struct {have}",
                root.node_off
            );
            return no(EINVAL, m);
        }
        meta.arg_obj = Some((r.btf, r.btf_id));
        if at != root.node_off {
            let m = format!("but expected {name} at offset={} in struct {want}", root.node_off);
            return no(EINVAL, format!("arg#1 offset={at}, {m}"));
        }
        Ok(())
    }

    /// Insertion takes an owning reference; what moves through a tree takes any.
    fn node_reference(&self, meta: &KfuncMeta<'a>, i: usize, r: &RegState, kind: KfArg) -> R {
        if kind == KfArg::ListNode || meta.is(&[S::RbtreeAdd]) {
            if !is_object(r) {
                return no(EINVAL, format!("arg#{i} expected pointer to allocated object"));
            }
            if r.ref_obj_id == 0 {
                return no(EINVAL, "allocated object must be referenced");
            }
            return Ok(());
        }
        if !r.flags.has(Flags::NON_OWN_REF) && r.ref_obj_id == 0 {
            let m = "can only take non-owning or refcounted bpf_rb_node pointer";
            return no(EINVAL, format!("{} {m}", meta.name));
        }
        if self.in_rbtree_callback() {
            return no(EINVAL, format!("{} not allowed in rbtree cb", meta.name));
        }
        Ok(())
    }

    /// `set_rbtree_add_callback_state`: two nodes to compare, neither owned.
    pub(crate) fn push_rbtree_less(&mut self, meta: &KfuncMeta<'a>) -> R {
        let Some(root) = meta.root else {
            return no(EFAULT, "verifier bug: bpf_rbtree_add without a tree");
        };
        let mut node = node_of(&root);
        self.kf_set_non_owning(&mut node)?;
        self.push_callback(meta.subprog, Entry::new(vec![node, node]))
    }

    /// `ref_convert_owning_non_owning` and the release of the owning reference.
    pub(crate) fn graph_insert(&mut self, meta: &KfuncMeta<'a>) -> R {
        let id = self.r(Reg::R2).ref_obj_id;
        if !self.cur.held.has_ptr(id) {
            return no(EFAULT, "verifier bug: ref state missing for ref_obj_id");
        }
        let mut owned = *self.r(Reg::R2);
        self.kf_set_non_owning(&mut owned)?;
        let mark = owned.flags;
        for r in self.cur.all_regs_mut().filter(|r| r.ref_obj_id == id) {
            r.ref_obj_id = 0;
            r.flags = r.flags.or(Flags(mark.0 & Flags::NON_OWN_REF.or(Flags::MEM_RCU).0));
        }
        if self.release(id).is_err() {
            let m = "reference has not been acquired before";
            return no(EINVAL, format!("kfunc {}#{} {m}", meta.name, meta.id));
        }
        Ok(())
    }

    /// `mark_reg_graph_node`: what a list or tree gives.
    pub(crate) fn graph_node_result(&mut self, meta: &KfuncMeta<'a>) -> R<RegState> {
        match meta.root {
            Some(root) => Ok(node_of(&root)),
            None => no(EFAULT, "verifier bug: a node without its collection"),
        }
    }

    /// `ref_set_non_owning`: good until the lock is released.
    pub(crate) fn kf_set_non_owning(&mut self, r: &mut RegState) -> R {
        if !self.cur.held.locked() {
            return no(EFAULT, "verifier bug: ref_set_non_owning w/o active lock");
        }
        let counted = self.reg_record(r).is_some_and(|x| x.find(FieldKind::Refcount).is_some());
        let rcu = if counted { Flags::MEM_RCU } else { Flags::NONE };
        r.flags = r.flags.or(Flags::NON_OWN_REF).or(rcu);
        Ok(())
    }
}
