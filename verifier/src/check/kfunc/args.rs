//! Arguments of kfuncs: `check_kfunc_args`.

use bpf::btf::Kind;
use bpf::insn::Reg;

use super::meta::{KfArg, KfuncMeta, Special, is_scalar, reg2btf};
use crate::btf::BtfSrc;
use crate::check::helper_mem::MemUse;
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no, unsupported};
use crate::proto::Flags;
use crate::reject::{EACCES, EINVAL};
use crate::render::log::{type_of, type_str};
use crate::tables::Level;
use crate::tables::kfuncs::KfFlags as F;

/// `BPF_REG_TRUSTED_MODIFIERS`.
const TRUSTED: Flags = Flags::MEM_ALLOC.or(Flags::PTR_TRUSTED).or(Flags::NON_OWN_REF);

/// `bpf_type_has_unsafe_modifiers`.
pub(crate) fn has_unsafe_modifiers(r: &RegState) -> bool {
    r.flags.without(TRUSTED) != Flags::NONE
}

/// `is_trusted_reg`.
pub(crate) fn is_trusted(r: &RegState) -> bool {
    let safe = !has_unsafe_modifiers(r);
    r.ref_obj_id != 0 || (safe && (reg2btf(r.ty).is_some() || r.flags.any(TRUSTED)))
}

impl<'a> Ver<'a> {
    /// KERNEL v6.18 verifier.c:check_kfunc_args
    pub(super) fn kf_args(&mut self, meta: &mut KfuncMeta<'a>) -> R {
        let mut i = 0;
        while i < meta.params.len() {
            let (n, ty) = (Reg(i as u8 + 1), meta.btf.resolve(meta.params[i].ty));
            if i >= 5 && self.input.opts.level >= Level(7, 2) {
                return unsupported("stack arguments of kfuncs", "verifier.c:check_kfunc_args");
            }
            if i >= 5 {
                let m = "does not have a valid func_proto";
                return no(EINVAL, format!("kernel function {} {m}", meta.name));
            }
            if meta.suffix(i, "__ign") || meta.suffix(i, "__prog") {
                i += 1;
                continue;
            }
            if is_scalar(meta.btf, ty) {
                self.kf_scalar(meta, i, n)?;
            } else if meta.btf.kind(ty) == Kind::Ptr {
                i += usize::from(self.kf_pointer(meta, i, n)? == KfArg::MemSize);
            } else {
                let m = format!("Unrecognized arg#{i} type {}", meta.btf.kind(ty));
                return no(EINVAL, m);
            }
            i += 1;
        }
        if meta.has(F::RELEASE) && meta.release.is_none() {
            let m = "expects refcounted PTR_TO_BTF_ID";
            return no(EINVAL, format!("release kernel function {} {m}", meta.name));
        }
        Ok(())
    }

    fn kf_scalar(&mut self, meta: &mut KfuncMeta<'a>, i: usize, n: Reg) -> R {
        let r = *self.r(n);
        if !r.is_scalar() {
            return no(EINVAL, format!("R{} is not a scalar", n.0));
        }
        if meta.suffix(i, "__k") {
            let Some(v) = r.as_const() else {
                return no(EINVAL, format!("R{} must be a known constant", n.0));
            };
            self.mark_precise(n)?;
            meta.constant = Some(v);
            return Ok(());
        }
        let rdonly = meta.param_name(i) == "rdonly_buf_size";
        meta.r0_rdonly |= rdonly;
        if !rdonly && meta.param_name(i) != "rdwr_buf_size" {
            return Ok(());
        }
        if meta.r0_size != 0 {
            return no(EINVAL, "2 or more rdonly/rdwr_buf_size parameters for kfunc");
        }
        let Some(v) = r.as_const() else {
            return no(EINVAL, format!("R{} is not a const", n.0));
        };
        meta.r0_size = v;
        self.mark_precise(n)
    }

    /// A pointer argument, with the size that may follow it.
    fn kf_pointer(&mut self, meta: &mut KfuncMeta<'a>, i: usize, n: Reg) -> R<KfArg> {
        let r = *self.r(n);
        let trusted = meta.flags.trusted_args() || meta.has(F::RCU);
        if trusted && (r.is_null() || r.may_be_null()) && !meta.suffix(i, "__nullable") {
            return no(EACCES, format!("Possibly NULL pointer passed to trusted arg{i}"));
        }
        if r.ref_obj_id != 0 {
            meta.ref_obj_id = r.ref_obj_id;
            if meta.has(F::RELEASE) {
                meta.release = Some(n);
            }
        }
        let kind = self.kf_ptr_kind(meta, i, &r)?;
        if kind == KfArg::Null {
            return Ok(kind);
        }
        if kind == KfArg::Map {
            self.kf_map(meta, n, &r)?;
        }
        let by_trust = matches!(kind, KfArg::Map | KfArg::AllocBtfId | KfArg::BtfId);
        if by_trust && trusted && !is_trusted(&r) {
            if !meta.has(F::RCU) {
                return no(EINVAL, format!("R{} must be referenced or trusted", n.0));
            }
            if !r.flags.has(Flags::MEM_RCU) {
                return no(EINVAL, format!("R{} must be a rcu pointer", n.0));
            }
        }
        let release = meta.has(F::RELEASE) && r.ref_obj_id != 0;
        self.arg_reg_off(n, &r, release, kind == KfArg::Dynptr)?;
        self.kf_by_kind(meta, i, n, &r, kind)?;
        Ok(kind)
    }

    fn kf_map(&mut self, meta: &mut KfuncMeta<'a>, n: Reg, r: &RegState) -> R {
        if !matches!(r.ty, RegType::ConstMapPtr | RegType::MapValue | RegType::MapKey) {
            return no(EINVAL, format!("pointer in R{} isn't map pointer", n.0));
        }
        if let Some((map, uid)) = meta.map
            && (map, uid) != (r.map, r.map_uid)
        {
            self.kf_map_differs(uid, r)?;
        }
        meta.map = Some((r.map, r.map_uid));
        Ok(())
    }

    /// What each kind of pointer must be.
    fn kf_by_kind(
        &mut self,
        meta: &mut KfuncMeta<'a>,
        i: usize,
        n: Reg,
        r: &RegState,
        kind: KfArg,
    ) -> R {
        match kind {
            KfArg::Ctx => self.kf_ctx(meta, i, r),
            KfArg::AllocBtfId => self.kf_alloc_obj(meta, i, r),
            KfArg::BtfId => self.kf_btf_id(meta, i, r),
            KfArg::Mem => self.kf_mem(meta, i, n),
            KfArg::MemSize => self.kf_mem_size(meta, i, n),
            KfArg::Callback => {
                if r.ty != RegType::Func {
                    return no(EINVAL, format!("arg{i} expected pointer to func"));
                }
                meta.subprog = Some(r.btf_id);
                Ok(())
            }
            KfArg::ConstStr => {
                if r.ty != RegType::MapValue {
                    return no(EINVAL, format!("arg#{i} doesn't point to a const string"));
                }
                self.const_str(n, r)
            }
            KfArg::Map | KfArg::Null => Ok(()),
            _ => self.kf_special_arg(meta, i, n, r, kind),
        }
    }

    fn kf_ctx(&mut self, meta: &mut KfuncMeta<'a>, i: usize, r: &RegState) -> R {
        if !r.is(RegType::Ctx) {
            let m = format!("arg#{i} expected pointer to ctx, but got {}", type_of(r));
            return no(EINVAL, m);
        }
        if meta.is(&[Special::CastToKernCtx]) {
            meta.ret_btf_id = self.kern_ctx_btf_id(self.prog_type())?;
        }
        Ok(())
    }

    fn kf_alloc_obj(&mut self, meta: &mut KfuncMeta<'a>, i: usize, r: &RegState) -> R {
        let percpu = Flags::MEM_ALLOC.or(Flags::MEM_PERCPU);
        let (want, name) = match (r.ty, r.flags) {
            (RegType::BtfId, Flags::MEM_ALLOC) => (Special::ObjDrop, "bpf_obj_drop_impl"),
            (RegType::BtfId, f) if f == percpu => {
                (Special::PercpuObjDrop, "bpf_percpu_obj_drop_impl")
            }
            _ => return no(EINVAL, format!("arg#{i} expected pointer to allocated object")),
        };
        if !meta.is(&[want]) {
            return no(EINVAL, format!("arg#{i} expected for {name}()"));
        }
        if r.ref_obj_id == 0 {
            return no(EINVAL, "allocated object must be referenced");
        }
        meta.arg_obj = Some((r.btf, r.btf_id));
        Ok(())
    }

    /// `KF_ARG_PTR_TO_BTF_ID` and `process_kf_arg_ptr_to_btf_id`.
    fn kf_btf_id(&mut self, meta: &KfuncMeta<'a>, i: usize, r: &RegState) -> R {
        let base = reg2btf(r.ty);
        let unsafe_ptr = has_unsafe_modifiers(r) && !r.flags.has(Flags::MEM_RCU);
        if (r.ty != RegType::BtfId || unsafe_ptr) && base.is_none() {
            let safe = Flags(r.flags.0 & TRUSTED.0);
            let (is, want) = (type_of(r), type_str(r.ty, safe));
            return no(EINVAL, format!("arg#{i} is {is} expected {want} or socket"));
        }
        let (src, id) = match base {
            Some(name) => (BtfSrc::Vmlinux, self.btf_struct(name)?),
            None => (r.btf, r.btf_id),
        };
        let want = meta.pointee(i);
        let strict = (meta.has(F::RELEASE) && r.ref_obj_id != 0)
            || self.nocast_alias((src, id), (BtfSrc::Vmlinux, want));
        let same = self.struct_ids_match((src, id), r.off, (BtfSrc::Vmlinux, want), strict);
        let has = self.btf_name(src, id);
        let name = meta.btf.name(want);
        if same || is_projection(name, has) {
            return Ok(());
        }
        let (wk, hk) = (meta.btf.kind(want), self.btf_kind(src, id));
        let m =
            format!("expected pointer to {wk} {name} but R{} has a pointer to {hk} {has}", i + 1);
        no(EINVAL, format!("kernel function {} args#{i} {m}", meta.name))
    }

    fn kf_mem(&mut self, meta: &KfuncMeta<'a>, i: usize, n: Reg) -> R {
        let to = meta.pointee(i);
        let Some(size) = meta.btf.size_of(to) else {
            let (kind, name) = (meta.btf.kind(to), meta.btf.name(to));
            let m = format!("reference type('{kind} {name}') size cannot be determined: -22");
            return no(EINVAL, format!("arg#{i} {m}"));
        };
        self.mem_reg(n, size)
    }

    /// `check_mem_reg`: memory of this size that is read and written.
    pub(crate) fn mem_reg(&mut self, n: Reg, size: u32) -> R {
        let saved = *self.r(n);
        if saved.is_null() {
            return Ok(());
        }
        self.assume_not_null(n);
        let result = [false, true].into_iter().try_for_each(|write| {
            let u = MemUse { write, raw: false, zero_ok: true };
            self.helper_mem(n, size.into(), u).map(|_| ())
        });
        self.regs()[n.idx()] = saved;
        result
    }

    /// `KF_ARG_PTR_TO_MEM_SIZE`: `check_kfunc_mem_size_reg`.
    fn kf_mem_size(&mut self, meta: &mut KfuncMeta<'a>, i: usize, n: Reg) -> R {
        let size = Reg(n.0 + 1);
        let saved = *self.r(n);
        if !(saved.is_null() && meta.suffix(i, "__opt")) {
            self.assume_not_null(n);
            let result = [false, true].into_iter().try_for_each(|write| {
                let u = MemUse { write, raw: false, zero_ok: true };
                self.mem_size(size, u).map(|_| ())
            });
            self.regs()[n.idx()] = saved;
            let line = || {
                let m = "memory, len pair leads to invalid memory access";
                format!("arg#{i} arg#{} {m}", i + 1)
            };
            crate::check::mem::with_line(result, line)?;
        }
        if meta.suffix(i + 1, "__szk") {
            let Some(v) = self.r(size).as_const() else {
                return no(EINVAL, format!("R{} must be a known constant", size.0));
            };
            meta.constant = Some(v);
        }
        Ok(())
    }

    /// `mark_ptr_not_null_reg`, for the time of one check.
    fn assume_not_null(&mut self, n: Reg) {
        let r = &mut self.regs()[n.idx()];
        r.flags = r.flags.without(Flags::PTR_MAYBE_NULL);
    }
}

/// `btf_is_projection_of`: the UAPI structure that stands for a kernel structure.
pub(crate) fn is_projection(pname: &str, tname: &str) -> bool {
    matches!((pname, tname), ("__sk_buff", "sk_buff") | ("xdp_md", "xdp_buff"))
}
