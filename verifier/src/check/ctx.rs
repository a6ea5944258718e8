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
        if let Some(attach) = self.input.attach {
            let r = self.attach_arg(&attach, a)?;
            if let Some(d) = a.dst {
                self.set(d, r);
            }
            return Ok(());
        }
        let verdict = match self.regs_access(a.off, a.size, write) {
            Some(verdict) => verdict,
            None => tables::ctx_access(program, self.table_off(a.off), a.size, write),
        };
        let reg = match verdict {
            CtxVerdict::Ok(r) if !a.sext || tables::ctx_sign_extends(r) => r,
            CtxVerdict::Ok(_) | CtxVerdict::Invalid => {
                let m = format!("invalid bpf_context access off={} size={}", a.off, a.size);
                return no(EACCES, m);
            }
            CtxVerdict::Unknown => {
                let t = program.prog_type.name();
                let on = program.attach_to.as_ref().map_or(String::new(), |to| format!(" on {to}"));
                return unsupported(format!("context of {t}{on}"), "verifier.c:check_ctx_access");
            }
        };
        let end = u32::try_from(i64::from(a.off) + i64::from(a.size)).unwrap_or(0);
        self.stats.max_ctx_offset = self.stats.max_ctx_offset.max(end);
        let full = tables::ctx_field_size(program, self.table_off(a.off), a.size);
        self.aux[self.insn_idx as usize].ctx_field_size = full;
        let Some(d) = a.dst.filter(|_| !write) else { return Ok(()) };
        let v = self.ctx_reg(reg)?;
        self.set(d, v);
        Ok(())
    }

    /// KERNEL v6.18 bpf_trace.c:kprobe_prog_is_valid_access: `struct pt_regs` of the kernel's
    /// architecture. The tables have that of x86-64.
    fn regs_access(&self, off: i32, size: u32, write: bool) -> Option<CtxVerdict> {
        if self.input.program.prog_type != bpf::uapi::ProgType::Kprobe {
            return None;
        }
        let btf = self.input.env.btf()?;
        let regs = btf.size_of(btf.find("pt_regs", bpf::btf::Kind::Struct)?)?;
        let at = u32::try_from(off).ok().filter(|at| at.is_multiple_of(size));
        let inside = at.is_some_and(|at| at + size <= regs);
        Some(if inside && !write { CtxVerdict::Ok(CtxReg::Scalar) } else { CtxVerdict::Invalid })
    }

    /// Where the tables have an offset. Of `bpf_perf_event_data` they have that of x86-64, whose
    /// registers are 168 bytes: all words of registers are alike, and two fields follow.
    fn table_off(&self, off: i32) -> i32 {
        const REGS: i32 = 168;
        if self.input.program.prog_type != bpf::uapi::ProgType::PerfEvent || off < 0 {
            return off;
        }
        let size = |btf: &bpf::btf::Btf| {
            let regs = btf.find("bpf_user_pt_regs_t", bpf::btf::Kind::Typedef)?;
            i32::try_from(btf.size_of(regs)?).ok()
        };
        match self.input.env.btf().and_then(size) {
            Some(regs) if off >= regs => off - regs + REGS,
            Some(_) => off % 8,
            None => off,
        }
    }

    /// Programs whose context is the arguments of a kernel function, found in BTF.
    pub(crate) fn is_trampoline(&self) -> bool {
        self.input.attach.is_some()
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
