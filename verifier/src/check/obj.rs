//! Allocated objects and casts: `bpf_obj_new`, `bpf_refcount_acquire`, `bpf_rdonly_cast`,
//! `bpf_cast_to_kern_ctx`.

use bpf::btf::Kind;

use super::kfunc::meta::{KfuncMeta, Special, is_scalar_struct};
use crate::btf::BtfSrc;
use crate::btf::record::{FieldKind, Record};
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::{EFAULT, EINVAL};

/// `BPF_GLOBAL_PERCPU_MA_MAX_SIZE`.
const PERCPU_MAX: u32 = 512;

impl<'a> Ver<'a> {
    /// `reg_btf_record`: special fields of what a pointer points to.
    pub(crate) fn reg_record(&self, r: &RegState) -> Option<&Record> {
        match r.ty {
            RegType::MapValue => self.map_records.get(r.map as usize),
            RegType::BtfId if r.flags.has(Flags::MEM_ALLOC) => self.struct_meta(r.btf, r.btf_id),
            _ => None,
        }
    }

    /// `btf_find_struct_meta`.
    pub(crate) fn struct_meta(&self, src: BtfSrc, id: u32) -> Option<&Record> {
        if src == BtfSrc::Program { self.obj_records.get(&id) } else { None }
    }

    /// `reg_may_point_to_spin_lock`.
    pub(crate) fn may_hold_lock(&self, r: &RegState) -> bool {
        let locks = [FieldKind::SpinLock, FieldKind::ResSpinLock];
        self.reg_record(r).is_some_and(|rec| locks.iter().any(|k| rec.find(*k).is_some()))
    }

    /// `KF_ARG_PTR_TO_REFCOUNTED_KPTR`.
    pub(crate) fn kf_refcounted_arg(
        &mut self,
        meta: &mut KfuncMeta<'a>,
        i: usize,
        r: &RegState,
    ) -> R {
        if r.ty != RegType::BtfId || !r.flags.has(Flags::MEM_ALLOC) {
            return no(EINVAL, format!("arg#{i} is neither owning or non-owning ref"));
        }
        meta.arg_owning_ref |= !r.flags.has(Flags::NON_OWN_REF);
        let Some(rec) = self.reg_record(r) else {
            return no(EFAULT, "verifier bug: Couldn't find btf_record");
        };
        if !rec.has(FieldKind::Refcount) {
            let m = "doesn't point to a type with bpf_refcount field";
            return no(EINVAL, format!("arg#{i} {m}"));
        }
        meta.arg_obj = Some((r.btf, r.btf_id));
        Ok(())
    }

    /// `bpf_obj_new` and `bpf_percpu_obj_new`.
    pub(crate) fn obj_new(&mut self, meta: &KfuncMeta<'a>) -> R<RegState> {
        let percpu = meta.is(&[Special::PercpuObjNew]);
        let Ok(id) = u32::try_from(meta.constant.unwrap_or(0)) else {
            return no(EINVAL, "local type ID argument must be in range [0, U32_MAX]");
        };
        let Some(btf) = self.input.prog_btf else {
            return no(EINVAL, "bpf_obj_new/bpf_percpu_obj_new requires prog BTF");
        };
        if btf.kind(id) != Kind::Struct {
            let m = "bpf_obj_new/bpf_percpu_obj_new type ID argument must be of a struct";
            return no(EINVAL, m);
        }
        let size = btf.size_of(id).unwrap_or(0);
        if percpu && size > PERCPU_MAX {
            let m = format!("bpf_percpu_obj_new type size ({size}) is greater than {PERCPU_MAX}");
            return no(EINVAL, m);
        }
        if percpu && !is_scalar_struct(btf, id, 0) {
            let m = "bpf_percpu_obj_new type ID argument must be of a struct of scalars";
            return no(EINVAL, m);
        }
        if percpu && self.struct_meta(BtfSrc::Program, id).is_some() {
            let m = "bpf_percpu_obj_new type ID argument must not contain special fields";
            return no(EINVAL, m);
        }
        let flags = if percpu { Flags::MEM_PERCPU } else { Flags::NONE };
        let mut r = RegState::pointer(RegType::BtfId, flags.or(Flags::MEM_ALLOC));
        (r.btf, r.btf_id) = (BtfSrc::Program, id);
        Ok(r)
    }

    /// `bpf_refcount_acquire`.
    pub(crate) fn refcount_acquired(&mut self, meta: &KfuncMeta<'a>) -> R<RegState> {
        let mut r = RegState::pointer(RegType::BtfId, Flags::MEM_ALLOC);
        (r.btf, r.btf_id) = meta.arg_obj.unwrap_or_default();
        Ok(r)
    }

    /// `bpf_cast_to_kern_ctx`.
    pub(crate) fn kern_ctx_result(&mut self, meta: &KfuncMeta<'a>) -> R<RegState> {
        let mut r = RegState::pointer(RegType::BtfId, Flags::PTR_TRUSTED);
        r.btf_id = meta.ret_btf_id;
        Ok(r)
    }

    /// `bpf_rdonly_cast`.
    pub(crate) fn rdonly_cast_result(&mut self, meta: &KfuncMeta<'a>) -> R<RegState> {
        let value = meta.constant.unwrap_or(0);
        // `btf_type_by_id` takes 32 bits of it.
        let id = Some(value as u32).filter(|id| meta.btf.by_id(*id).is_some());
        let Some(id) = id else {
            let m = format!("Unknown type ID {value} passed to kfunc bpf_rdonly_cast");
            return no(EINVAL, m);
        };
        match meta.btf.kind(id) {
            Kind::Struct | Kind::Union => {
                let mut r = RegState::pointer(RegType::BtfId, Flags::PTR_UNTRUSTED);
                r.btf_id = id;
                Ok(r)
            }
            Kind::Void => {
                let flags = Flags::MEM_RDONLY.or(Flags::PTR_UNTRUSTED);
                Ok(RegState::pointer(RegType::Mem, flags))
            }
            _ => {
                let m = "kfunc bpf_rdonly_cast type ID argument must be of a struct or void";
                no(EINVAL, m)
            }
        }
    }
}
