//! R0 after a kfunc.

use bpf::btf::Kind;
use bpf::insn::Reg;

use super::meta::{KfuncMeta, Special, is_scalar};
use crate::btf::BtfSrc;
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::EINVAL;
use crate::tables::kfuncs::KfFlags as F;

impl<'a> Ver<'a> {
    pub(super) fn kf_returned(&mut self, meta: &KfuncMeta<'a>) -> R {
        let ty = meta.btf.resolve(meta.ret);
        let to = meta.btf.pointee(ty);
        let structure = to.is_some_and(|t| meta.btf.kind(t) == Kind::Struct);
        let allocates = [Special::ObjNew, Special::PercpuObjNew, Special::RefcountAcquire];
        if meta.has(F::ACQUIRE) && !structure && !meta.is(&allocates) {
            return no(EINVAL, "acquire kernel function does not return PTR_TO_BTF_ID");
        }
        if is_scalar(meta.btf, ty) {
            let mut r = self.kf_scalar_result(meta);
            if meta.btf.size_of(ty) != Some(8) {
                r.subreg_def = self.insn_idx + 1;
            }
            self.set(Reg::R0, r);
            return Ok(());
        }
        let Some(to) = to else { return Ok(()) };
        // `is_kfunc_ret_null`: an owned object can always be acquired once more.
        let sure = meta.is(&[Special::RefcountAcquire]) && meta.arg_owning_ref;
        let ret_null = meta.has(F::RET_NULL) && !sure;
        let mut r = match self.kf_special_return(meta)? {
            Some(r) => r,
            None => self.kf_pointer_result(meta, to)?,
        };
        if ret_null {
            r.flags = r.flags.or(Flags::PTR_MAYBE_NULL);
            r.id = self.new_id();
        }
        let name = meta.btf.name(to);
        if meta.has(F::ACQUIRE) {
            let id = self.acquire();
            if ret_null {
                r.id = id;
            }
            r.ref_obj_id = id;
        } else if matches!(name, "bpf_rb_node" | "bpf_list_node") {
            self.kf_set_non_owning(&mut r)?;
        }
        if self.may_hold_lock(&r) && r.id == 0 {
            r.id = self.new_id();
        }
        self.set(Reg::R0, r);
        Ok(())
    }

    /// A pointer to what the prototype says.
    fn kf_pointer_result(&mut self, meta: &KfuncMeta<'a>, to: u32) -> R<RegState> {
        let (kind, name) = (meta.btf.kind(to), meta.btf.name(to));
        if kind == Kind::Void {
            return Ok(self.unknown());
        }
        let rcu = if meta.has(F::RCU_PROTECTED) { Flags::MEM_RCU } else { Flags::NONE };
        if kind != Kind::Struct && kind != Kind::Union {
            let (size, rdonly) = match meta.r0_size {
                0 => (meta.btf.size_of(to).map_or(0, u64::from), true),
                n => (n, meta.r0_rdonly),
            };
            if size == 0 {
                let m = format!("returns pointer type {kind} {name} is not supported");
                return no(EINVAL, format!("kernel function {} {m}", meta.name));
            }
            let flags = if rdonly { rcu.or(Flags::MEM_RDONLY) } else { rcu };
            let mut r = RegState::pointer(RegType::Mem, flags);
            r.mem_size = u32::try_from(size).unwrap_or(u32::MAX);
            r.ref_obj_id = meta.ref_obj_id;
            return Ok(r);
        }
        let flags = if meta.is(&[Special::GetKmemCache]) { Flags::PTR_UNTRUSTED } else { rcu };
        let mut r = RegState::pointer(RegType::BtfId, flags);
        (r.btf, r.btf_id) = (BtfSrc::Vmlinux, to);
        if meta.has(F::ITER_NEXT) {
            r.flags = r.flags.or(self.kf_iter_trust(meta));
        }
        Ok(r)
    }
}
