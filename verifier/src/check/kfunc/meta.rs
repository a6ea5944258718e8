//! A kfunc call as its BTF describes it: prototype, flags, argument suffixes, kinds of arguments.

use bpf::btf::{Body, Btf, Kind, Param, TypeId};
use bpf::insn::Reg;

use crate::btf::BtfSrc;
use crate::btf::record::Field;
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no, unsupported};
use crate::reject::{EACCES, EINVAL};
use crate::tables::kfuncs::{self, KfFlags};
use crate::tables::since;

/// `enum special_kfunc_type`: kfuncs with rules of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::enum_variant_names, reason = "the names are the kernel's")]
pub(crate) enum Special {
    ObjNew,
    ObjDrop,
    PercpuObjNew,
    PercpuObjDrop,
    RefcountAcquire,
    ListPushFront,
    ListPushBack,
    ListPopFront,
    ListPopBack,
    ListFront,
    ListBack,
    RbtreeAdd,
    RbtreeRemove,
    RbtreeFirst,
    RbtreeRoot,
    RbtreeLeft,
    RbtreeRight,
    CastToKernCtx,
    RdonlyCast,
    RcuReadLock,
    RcuReadUnlock,
    PreemptDisable,
    PreemptEnable,
    LocalIrqSave,
    LocalIrqRestore,
    ResSpinLock,
    ResSpinUnlock,
    ResSpinLockIrqsave,
    ResSpinUnlockIrqrestore,
    DynptrFromSkb,
    DynptrFromSkbMeta,
    DynptrFromXdp,
    DynptrSlice,
    DynptrSliceRdwr,
    DynptrClone,
    Throw,
    WqSetCallback,
    TaskWorkSchedule,
    IterCssTaskNew,
    GetKmemCache,
    XdpPullData,
    Trap,
    SessionCookie,
}

const SPECIAL: &[(&str, Special)] = &[
    ("bpf_obj_new_impl", Special::ObjNew),
    ("bpf_obj_drop_impl", Special::ObjDrop),
    ("bpf_percpu_obj_new_impl", Special::PercpuObjNew),
    ("bpf_percpu_obj_drop_impl", Special::PercpuObjDrop),
    ("bpf_refcount_acquire_impl", Special::RefcountAcquire),
    ("bpf_list_push_front_impl", Special::ListPushFront),
    ("bpf_list_push_back_impl", Special::ListPushBack),
    ("bpf_list_pop_front", Special::ListPopFront),
    ("bpf_list_pop_back", Special::ListPopBack),
    ("bpf_list_front", Special::ListFront),
    ("bpf_list_back", Special::ListBack),
    ("bpf_rbtree_add_impl", Special::RbtreeAdd),
    ("bpf_rbtree_remove", Special::RbtreeRemove),
    ("bpf_rbtree_first", Special::RbtreeFirst),
    ("bpf_rbtree_root", Special::RbtreeRoot),
    ("bpf_rbtree_left", Special::RbtreeLeft),
    ("bpf_rbtree_right", Special::RbtreeRight),
    ("bpf_cast_to_kern_ctx", Special::CastToKernCtx),
    ("bpf_rdonly_cast", Special::RdonlyCast),
    ("bpf_rcu_read_lock", Special::RcuReadLock),
    ("bpf_rcu_read_unlock", Special::RcuReadUnlock),
    ("bpf_preempt_disable", Special::PreemptDisable),
    ("bpf_preempt_enable", Special::PreemptEnable),
    ("bpf_local_irq_save", Special::LocalIrqSave),
    ("bpf_local_irq_restore", Special::LocalIrqRestore),
    ("bpf_res_spin_lock", Special::ResSpinLock),
    ("bpf_res_spin_unlock", Special::ResSpinUnlock),
    ("bpf_res_spin_lock_irqsave", Special::ResSpinLockIrqsave),
    ("bpf_res_spin_unlock_irqrestore", Special::ResSpinUnlockIrqrestore),
    ("bpf_dynptr_from_skb", Special::DynptrFromSkb),
    ("bpf_dynptr_from_skb_meta", Special::DynptrFromSkbMeta),
    ("bpf_dynptr_from_xdp", Special::DynptrFromXdp),
    ("bpf_dynptr_slice", Special::DynptrSlice),
    ("bpf_dynptr_slice_rdwr", Special::DynptrSliceRdwr),
    ("bpf_dynptr_clone", Special::DynptrClone),
    ("bpf_throw", Special::Throw),
    ("bpf_wq_set_callback_impl", Special::WqSetCallback),
    ("bpf_task_work_schedule_signal_impl", Special::TaskWorkSchedule),
    ("bpf_task_work_schedule_resume_impl", Special::TaskWorkSchedule),
    ("bpf_iter_css_task_new", Special::IterCssTaskNew),
    ("bpf_get_kmem_cache", Special::GetKmemCache),
    ("bpf_xdp_pull_data", Special::XdpPullData),
    ("__bpf_trap", Special::Trap),
    ("bpf_session_cookie", Special::SessionCookie),
];

/// `struct bpf_kfunc_call_arg_meta`: the callee, and what the arguments say together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KfuncMeta<'a> {
    /// `BTF_KIND_FUNC` id in vmlinux BTF.
    pub(crate) id: u32,
    /// Name.
    pub(crate) name: &'a str,
    /// BTF of the prototype.
    pub(crate) btf: &'a Btf,
    /// Flags.
    pub(crate) flags: KfFlags,
    /// Rules of its own.
    pub(crate) which: Option<Special>,
    /// Type of the return value.
    pub(crate) ret: TypeId,
    /// Parameters.
    pub(crate) params: &'a [Param],
    /// Reference of an argument.
    pub(crate) ref_obj_id: u32,
    /// `release_regno`.
    pub(crate) release: Option<Reg>,
    /// Size of the memory R0 points to.
    pub(crate) r0_size: u64,
    /// That memory is read-only.
    pub(crate) r0_rdonly: bool,
    /// `arg_constant`: the `__k` or `__szk` argument.
    pub(crate) constant: Option<u64>,
    /// Subprogram of a callback argument.
    pub(crate) subprog: Option<u32>,
    /// Map argument and its `map_uid`.
    pub(crate) map: Option<(u32, u32)>,
    /// `ret_btf_id`.
    pub(crate) ret_btf_id: u32,
    /// Type of the allocated object of an argument.
    pub(crate) arg_obj: Option<(BtfSrc, u32)>,
    /// The refcounted argument is an owning reference.
    pub(crate) arg_owning_ref: bool,
    /// `initialized_dynptr`: the last dynptr argument that is not constructed.
    pub(crate) dynptr: Option<RegState>,
    /// `arg_list_head`, `arg_rbtree_root`: the collection.
    pub(crate) root: Option<Field>,
    /// `iter`: frame and slot of an iterator argument.
    pub(crate) iter: Option<(u32, usize)>,
}

impl<'a> KfuncMeta<'a> {
    /// Name of a parameter.
    pub(crate) fn param_name(&self, i: usize) -> &'a str {
        self.params.get(i).map_or("", |p| self.btf.str(p.name_off))
    }

    /// `btf_param_match_suffix`.
    pub(crate) fn suffix(&self, i: usize, suffix: &str) -> bool {
        let name = self.param_name(i);
        name.len() >= suffix.len() && name.ends_with(suffix)
    }

    /// A flag.
    pub(crate) fn has(&self, f: KfFlags) -> bool {
        self.flags.has(f)
    }

    /// It is one of these.
    pub(crate) fn is(&self, which: &[Special]) -> bool {
        self.which.is_some_and(|w| which.contains(&w))
    }

    /// The type a pointer parameter points to, without qualifiers and typedefs.
    pub(crate) fn pointee(&self, i: usize) -> TypeId {
        self.params.get(i).and_then(|p| self.btf.pointee(p.ty)).unwrap_or(0)
    }

    /// `__is_kfunc_ptr_arg_type`: a pointer to this kernel structure.
    fn points_to(&self, i: usize, name: &str) -> bool {
        let t = self.pointee(i);
        self.btf.kind(t) == Kind::Struct && self.btf.name(t) == name
    }

    /// `is_iter_kfunc`.
    pub(crate) fn is_iter(&self) -> bool {
        let all = KfFlags::ITER_NEW.or(KfFlags::ITER_NEXT).or(KfFlags::ITER_DESTROY);
        self.flags.has(all)
    }
}

/// `enum kfunc_ptr_arg_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KfArg {
    Ctx,
    AllocBtfId,
    RefcountedKptr,
    Dynptr,
    Iter,
    ListHead,
    ListNode,
    RbRoot,
    RbNode,
    BtfId,
    Mem,
    MemSize,
    Callback,
    Null,
    ConstStr,
    Map,
    Workqueue,
    TaskWork,
    IrqFlag,
    ResSpinLock,
}

/// Suffixes that decide the kind of a pointer argument.
const BY_SUFFIX: &[(&str, KfArg)] =
    &[("__alloc", KfArg::AllocBtfId), ("__refcounted_kptr", KfArg::RefcountedKptr)];

/// Structures that decide it.
const BY_STRUCT: &[(&str, KfArg)] = &[
    ("bpf_list_head", KfArg::ListHead),
    ("bpf_list_node", KfArg::ListNode),
    ("bpf_rb_root", KfArg::RbRoot),
    ("bpf_rb_node", KfArg::RbNode),
];

impl<'a> Ver<'a> {
    /// `fetch_kfunc_meta`, after `add_kfunc_call` has found the prototype.
    pub(crate) fn fetch_kfunc(&self, id: i32, off: i16) -> R<KfuncMeta<'a>> {
        if off != 0 {
            return unsupported("kfuncs of modules", "verifier.c:find_kfunc_desc_btf");
        }
        let Some(btf) = self.input.env.btf() else {
            let m = "calling kernel function is not supported without CONFIG_DEBUG_INFO_BTF";
            return no(EINVAL, m);
        };
        let id = id.cast_unsigned();
        if btf.kind(id) != Kind::Func {
            return no(EINVAL, format!("kernel btf_id {id} is not a function"));
        }
        let name = btf.name(id);
        let Some((ret, params)) = btf.func_proto(id) else {
            let m = format!("kernel function {name} does not have a valid func_proto");
            return no(EINVAL, m);
        };
        let denied = || no(EACCES, format!("calling kernel function {name} is not allowed"));
        let Some(row) = kfuncs::kfunc(name) else {
            if btf.decl_tags(id).any(|(_, tag)| tag == "bpf_kfunc") {
                return unsupported(format!("kfunc {name}"), "verifier.c:check_kfunc_call");
            }
            return denied();
        };
        let level = self.input.opts.level;
        if !since::has_kfunc(name, level) || !row.allowed(self.input.program, self.prog_type()) {
            return denied();
        }
        let trusted = level >= since::TRUSTED_BY_DEFAULT;
        let flags = if trusted { row.flags.or(KfFlags::TRUSTED_ARGS) } else { row.flags };
        let which = SPECIAL.iter().find(|s| s.0 == name).map(|s| s.1);
        Ok(KfuncMeta {
            id,
            name,
            btf,
            flags,
            which,
            ret,
            params,
            ref_obj_id: 0,
            release: None,
            r0_size: 0,
            r0_rdonly: false,
            constant: None,
            subprog: None,
            map: None,
            ret_btf_id: 0,
            arg_obj: None,
            arg_owning_ref: false,
            dynptr: None,
            iter: None,
            root: None,
        })
    }

    /// `is_kfunc_arg_mem_size` and `is_kfunc_arg_const_mem_size`.
    pub(crate) fn kf_size_follows(&self, meta: &KfuncMeta<'_>, i: usize) -> bool {
        let Some(p) = meta.params.get(i + 1) else { return false };
        let scalar = is_scalar(meta.btf, p.ty) && self.r(Reg(i as u8 + 2)).is_scalar();
        scalar && (meta.suffix(i + 1, "__sz") || meta.suffix(i + 1, "__szk"))
    }

    /// KERNEL v6.18 verifier.c:get_kfunc_ptr_arg_type
    pub(crate) fn kf_ptr_kind(&self, meta: &KfuncMeta<'a>, i: usize, r: &RegState) -> R<KfArg> {
        if meta.is(&[Special::CastToKernCtx, Special::SessionCookie]) {
            return Ok(KfArg::Ctx);
        }
        let sized = self.kf_size_follows(meta, i);
        if self.is_prog_ctx(meta.btf, meta.params[i].ty) {
            return Ok(KfArg::Ctx);
        }
        if meta.suffix(i, "__nullable") && r.is_null() && !sized {
            return Ok(KfArg::Null);
        }
        if let Some(kind) = by_declaration(meta, i) {
            return Ok(kind);
        }
        let to = meta.pointee(i);
        let (kind, name) = (meta.btf.kind(to), meta.btf.name(to));
        if r.ty == RegType::BtfId || reg2btf(r.ty).is_some() {
            if kind != Kind::Struct && kind != Kind::Union {
                let m = format!("pointer type {kind} {name} is not supported");
                return no(EINVAL, format!("kernel function {} args#{i} {m}", meta.name));
            }
            return Ok(KfArg::BtfId);
        }
        if kind == Kind::FuncProto {
            return Ok(KfArg::Callback);
        }
        let data = is_scalar(meta.btf, to) || is_scalar_struct(meta.btf, to, 0);
        if !(data || sized && to == 0) {
            let void = if sized { "void, " } else { "" };
            let m = format!("must point to {void}scalar, or struct with scalar");
            return no(EINVAL, format!("arg#{i} pointer type {kind} {name} {m}"));
        }
        Ok(if sized { KfArg::MemSize } else { KfArg::Mem })
    }
}

/// Kinds that the parameter's name or type decides, whatever the register holds.
fn by_declaration(meta: &KfuncMeta<'_>, i: usize) -> Option<KfArg> {
    if let Some(row) = BY_SUFFIX.iter().find(|s| meta.suffix(i, s.0)) {
        return Some(row.1);
    }
    if meta.points_to(i, "bpf_dynptr") {
        return Some(KfArg::Dynptr);
    }
    if meta.suffix(i, "__iter") || (i == 0 && meta.is_iter()) {
        return Some(KfArg::Iter);
    }
    if let Some(row) = BY_STRUCT.iter().find(|s| meta.points_to(i, s.0)) {
        return Some(row.1);
    }
    if meta.suffix(i, "__str") {
        return Some(KfArg::ConstStr);
    }
    if meta.suffix(i, "__map") || meta.suffix(i, "__const_map") {
        return Some(KfArg::Map);
    }
    if meta.points_to(i, "bpf_wq") {
        return Some(KfArg::Workqueue);
    }
    if meta.points_to(i, "bpf_task_work") {
        return Some(KfArg::TaskWork);
    }
    if meta.suffix(i, "__irq_flag") {
        return Some(KfArg::IrqFlag);
    }
    meta.points_to(i, "bpf_res_spin_lock").then_some(KfArg::ResSpinLock)
}

/// `btf_type_is_scalar`: an integer or enum.
pub(crate) fn is_scalar(btf: &Btf, ty: TypeId) -> bool {
    matches!(btf.kind(btf.resolve(ty)), Kind::Int | Kind::Enum | Kind::Enum64)
}

/// `__btf_type_is_scalar_struct`: scalars and arrays and structures of them, four levels deep.
pub(crate) fn is_scalar_struct(btf: &Btf, ty: TypeId, level: u32) -> bool {
    if !matches!(btf.kind(ty), Kind::Struct | Kind::Union) {
        return false;
    }
    btf.members(ty).all(|m| {
        let t = btf.resolve(m.ty);
        match btf.body(t) {
            Body::Struct { .. } | Body::Union { .. } => {
                level < 3 && is_scalar_struct(btf, t, level + 1)
            }
            Body::Array { elem, .. } => is_scalar(btf, *elem),
            _ => is_scalar(btf, t),
        }
    })
}

/// `reg2btf_ids`: the kernel structure behind register types that are no BTF pointers.
pub(crate) fn reg2btf(ty: RegType) -> Option<&'static str> {
    match ty {
        RegType::Socket => Some("sock"),
        RegType::SockCommon => Some("sock_common"),
        RegType::TcpSock => Some("tcp_sock"),
        RegType::ConstMapPtr => Some("bpf_map"),
        _ => None,
    }
}
