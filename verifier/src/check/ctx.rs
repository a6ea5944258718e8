//! Context accesses by the tables, and loads through BTF pointers.

use bpf::insn::Reg;

use super::mem::Access;
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no, unsupported};
use crate::proto::{CtxReg, CtxVerdict, Flags};
use crate::reject::EACCES;
use crate::render::log::type_of;
use crate::tables;

impl Ver<'_> {
    /// `__check_ptr_off_reg` with no offset allowed.
    pub(crate) fn ctx_unmodified(&self, n: Reg) -> R {
        self.ptr_off(n, self.r(n), false)
    }

    /// `__check_ptr_off_reg`.
    pub(crate) fn ptr_off(&self, n: Reg, p: &RegState, fixed_ok: bool) -> R {
        let (what, i, off) = (type_of(p), n.0, p.off);
        if off < 0 {
            let m = format!("negative offset {what} ptr R{i} off={off} disallowed");
            return no(EACCES, m);
        }
        if off != 0 && !fixed_ok {
            let m = format!("dereference of modified {what} ptr R{i} off={off} disallowed");
            return no(EACCES, m);
        }
        if p.b.as_const() != Some(0) {
            let m = format!("variable {what} access var_off={} disallowed", p.b.var_off);
            return no(EACCES, m);
        }
        Ok(())
    }

    /// `PTR_TO_CTX` in `check_mem_access`.
    pub(crate) fn mem_ctx(&mut self, a: Access, _p: &RegState) -> R {
        if let Some(super::stack::Value::Reg(r)) = a.write
            && self.is_pointer_value(r)
        {
            return no(EACCES, format!("R{} leaks addr into ctx", r.0));
        }
        // The instruction's own offset may be anything, the register must be the context itself.
        self.ctx_unmodified(a.base)?;
        let write = a.write.is_some();
        let program = self.input.program;
        let reg = match tables::ctx_access(program, a.off, a.size, write) {
            CtxVerdict::Ok(r) => r,
            CtxVerdict::Invalid => {
                let m = format!("invalid bpf_context access off={} size={}", a.off, a.size);
                return no(EACCES, m);
            }
            CtxVerdict::Unknown if self.is_trampoline() => {
                let r = self.trampoline_arg(a.off, a.size, write)?;
                if let Some(d) = a.dst {
                    self.set(d, r);
                }
                return Ok(());
            }
            CtxVerdict::Unknown => {
                let t = program.prog_type.name();
                return unsupported(format!("context of {t}"), "verifier.c:check_ctx_access");
            }
        };
        let full = tables::ctx_field_size(program, a.off, a.size);
        self.aux[self.insn_idx as usize].ctx_field_size = full;
        let Some(d) = a.dst.filter(|_| !write) else { return Ok(()) };
        let v = self.ctx_reg(reg)?;
        self.set(d, v);
        Ok(())
    }

    /// Programs whose context is the arguments of a kernel function, found in BTF.
    pub(crate) fn is_trampoline(&self) -> bool {
        use bpf::uapi::AttachType as A;
        let p = self.input.program;
        let kinds = [A::TraceFentry, A::TraceFexit];
        p.prog_type == bpf::uapi::ProgType::Tracing
            && p.attach_type.is_some_and(|t| kinds.contains(&t))
            && p.attach_to.is_some()
    }

    /// KERNEL v6.18 btf.c:btf_ctx_access for fentry and fexit: `u64` per argument.
    fn trampoline_arg(&mut self, off: i32, size: u32, write: bool) -> R<RegState> {
        use bpf::btf::Kind;
        let bad = || format!("invalid bpf_context access off={off} size={size}");
        let program = self.input.program;
        let what = program.attach_to.as_deref().unwrap_or_default();
        let btf = self.input.env.btf();
        let found = btf.and_then(|b| Some((b, b.func_proto(b.find(what, Kind::Func)?)?)));
        let Some((btf, (ret, params))) = found else {
            return unsupported(format!("function {what} in BTF"), "btf.c:btf_ctx_access");
        };
        if off < 0 || off % 8 != 0 || size != 8 || write {
            return no(EACCES, bad());
        }
        let n = (off / 8) as usize;
        let fexit = program.attach_type == Some(bpf::uapi::AttachType::TraceFexit);
        let ty = match params.get(n) {
            Some(p) => p.ty,
            None if fexit && n == params.len() => ret,
            None => return no(EACCES, bad()),
        };
        let ty = btf.resolve(ty);
        let to = btf.pointee(ty).map(|t| btf.resolve(t));
        match (btf.kind(ty), to) {
            (Kind::Int | Kind::Enum | Kind::Enum64, _) => Ok(self.unknown()),
            (Kind::Ptr, Some(t)) if btf.kind(t) == Kind::Struct => {
                let mut r = RegState::pointer(RegType::BtfId, Flags::NONE);
                r.btf_id = t;
                Ok(r)
            }
            (Kind::Ptr, _) => Ok(self.unknown()),
            (k, _) => unsupported(format!("argument of kind {k}"), "btf.c:btf_ctx_access"),
        }
    }

    fn ctx_reg(&mut self, reg: CtxReg) -> R<RegState> {
        use RegType as T;
        let or_null = Flags::PTR_MAYBE_NULL;
        let (ty, flags) = match reg {
            CtxReg::Scalar => return Ok(self.unknown()),
            CtxReg::Packet => (T::Packet, Flags::NONE),
            CtxReg::PacketMeta => (T::PacketMeta, Flags::NONE),
            CtxReg::PacketEnd => (T::PacketEnd, Flags::NONE),
            CtxReg::SockCommonOrNull => (T::SockCommon, or_null),
            CtxReg::Socket => (T::Socket, Flags::NONE),
            CtxReg::SocketOrNull => (T::Socket, or_null),
            CtxReg::FlowKeys => (T::FlowKeys, Flags::NONE),
            CtxReg::TpBuffer => (T::TpBuffer, Flags::NONE),
            CtxReg::Buf { flags } => (T::Buf, flags),
            CtxReg::BtfId { name, flags } => {
                let id = self.btf_struct(name)?;
                let mut r = RegState::pointer(T::BtfId, flags);
                r.btf_id = id;
                if r.may_be_null() {
                    r.id = self.new_id();
                }
                return Ok(r);
            }
        };
        let mut r = RegState::pointer(ty, flags);
        if r.may_be_null() {
            r.id = self.new_id();
        }
        Ok(r)
    }

    /// A structure of vmlinux BTF by name.
    pub(crate) fn btf_struct(&self, name: &str) -> R<u32> {
        let btf = self.input.env.btf();
        match btf.and_then(|b| b.find(name, bpf::btf::Kind::Struct)) {
            Some(id) => Ok(id),
            None => unsupported(format!("struct {name} in BTF"), "btf.c:btf_ctx_access"),
        }
    }
}
