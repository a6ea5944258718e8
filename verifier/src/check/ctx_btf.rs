//! Contexts that are the arguments of a kernel function: `btf_ctx_access`.

use bpf::btf::{Kind, TypeId};
use bpf::uapi::{AttachType, ProgType};

use super::mem::Access;
use crate::attach::{Attach, args_trusted, lsm_range};
use crate::btf::BtfSrc;
use crate::btf::walk::tag_flags;
use crate::domain::reg::{RegState, RegType};
use crate::explore::ver::{R, Ver, no};
use crate::proto::Flags;
use crate::reject::EACCES;
use crate::tables::hooks;

/// `MAX_BPF_FUNC_ARGS`.
const ARGS_MAX: i32 = 12;
/// `MAX_BPF_FUNC_REG_ARGS`.
const UNTYPED_ARGS: u32 = 5;

impl Ver<'_> {
    /// A load through the context; what the kernel says of it goes to the log.
    pub(super) fn attach_arg(&mut self, attach: &Attach<'_>, a: Access) -> R<RegState> {
        let (off, size) = (a.off, a.size.cast_signed());
        let inside = a.write.is_none() && (0..ARGS_MAX * 8).contains(&off) && off % size == 0;
        if inside && let Some(mut r) = self.btf_ctx_access(attach, off.cast_unsigned(), a.size) {
            if r.ref_obj_id != 0 && !self.cur.held.has_ptr(r.ref_obj_id) {
                let m = "Reference may already be released";
                return no(EACCES, format!("invalid bpf_context access off={off}. {m}"));
            }
            if r.may_be_null() {
                r.id = self.new_id();
            }
            return Ok(r);
        }
        no(EACCES, format!("invalid bpf_context access off={off} size={size}"))
    }

    /// Says why and refuses.
    fn bad_arg(&mut self, text: String) -> Option<RegState> {
        self.log.put(&text);
        None
    }

    /// KERNEL v6.18 btf.c:btf_ctx_access
    fn btf_ctx_access(&mut self, t: &Attach<'_>, off: u32, size: u32) -> Option<RegState> {
        let name = t.name;
        if !off.is_multiple_of(8) {
            return self.bad_arg(format!("func '{name}' offset {off} is not multiple of 8\n"));
        }
        if t.untyped {
            return self.untyped_arg(t, off);
        }
        let arg = t.arg_at(off);
        let ret = arg == t.params.len() && self.sees_return();
        if arg >= t.params.len() && !ret {
            return self.bad_arg(format!("func '{name}' doesn't have {}-th argument\n", arg + 1));
        }
        let ty = t.btf.resolve(t.params.get(arg).map_or(t.ret, |p| p.ty));
        let fmod = self.input.program.attach_type == Some(AttachType::ModifyReturn);
        let kind = t.btf.kind(ty);
        if ret && fmod && kind != Kind::Int {
            return self.bad_arg(format!("ret type {kind} not allowed for fmod_ret\n"));
        }
        match kind {
            Kind::Int | Kind::Enum | Kind::Enum64 | Kind::Struct | Kind::Union => {
                return Some(self.scalar_arg(t, ret));
            }
            Kind::Void if ret => return Some(self.unknown()),
            Kind::Ptr => {}
            _ => {
                let n = t.btf.name(ty);
                let m = format!("func '{name}' arg{arg} '{n}' has type {kind}.");
                return self.bad_arg(format!("{m} Only pointer access is allowed\n"));
            }
        }
        if size != 8 {
            return self.bad_arg(format!("func '{name}' size {size} must be 8\n"));
        }
        self.pointer_arg(t, arg, ty)
    }

    /// Arguments of a function that are not known by their types: five words.
    fn untyped_arg(&mut self, t: &Attach<'_>, off: u32) -> Option<RegState> {
        let arg = off / 8;
        if arg < UNTYPED_ARGS || (arg == UNTYPED_ARGS && self.sees_return()) {
            return Some(self.unknown());
        }
        let name = t.name;
        self.bad_arg(format!("func '{name}' doesn't have {}-th argument\n", arg + 1))
    }

    /// The word behind the arguments is the return value.
    fn sees_return(&self) -> bool {
        use AttachType as A;
        matches!(
            self.input.program.attach_type,
            Some(A::LsmMac | A::LsmCgroup | A::TraceFexit | A::ModifyReturn)
        )
    }

    /// A scalar; the return value of an LSM hook is in its range.
    fn scalar_arg(&self, t: &Attach<'_>, ret: bool) -> RegState {
        let mut r = self.unknown();
        let mac = self.input.program.attach_type == Some(AttachType::LsmMac);
        if !(ret && mac) || self.prog_type() != ProgType::Lsm || t.returns_void() {
            return r;
        }
        let (min, max) = lsm_range(self.input.program);
        (r.b.s32_min, r.b.s32_max) = (r.b.s32_min.max(min), r.b.s32_max.min(max));
        (r.b.smin, r.b.smax) = (r.b.smin.max(min.into()), r.b.smax.min(max.into()));
        r.b.sync();
        r
    }

    /// A pointer: to data, to a buffer, or to a structure.
    fn pointer_arg(&mut self, t: &Attach<'_>, arg: usize, ptr: TypeId) -> Option<RegState> {
        let info = t.args.iter().find(|a| a.arg == arg);
        if let Some(i) = info.filter(|i| i.buf) {
            return Some(RegState::pointer(RegType::Buf, i.flags));
        }
        let raw = t.btf.body(ptr).target().unwrap_or(0);
        let to = t.btf.resolve(raw);
        if raw == 0 || matches!(t.btf.kind(to), Kind::Int) || to == 0 {
            return Some(self.unknown());
        }
        let own = |suffix: &str| {
            let name = t.stub.get(arg).map_or("", |p| t.btf.str(p.name_off));
            name.ends_with(suffix)
        };
        let structure = matches!(t.btf.kind(to), Kind::Struct | Kind::Union);
        if let Some(i) = info {
            return Some(btf_id(i.flags, to));
        }
        if structure && own("__nullable") {
            return Some(btf_id(Flags::PTR_TRUSTED.or(Flags::PTR_MAYBE_NULL), to));
        }
        if structure && own("__ref") {
            let mut r = btf_id(Flags::PTR_TRUSTED, to);
            r.ref_obj_id = self.ctx_refs.iter().find(|r| r.0 == arg).map_or(0, |r| r.1);
            return Some(r);
        }
        if let Some(of) = t.of_program {
            // btf_translate_to_vmlinux: of a program's pointers only the context is known.
            let param = t.params.get(arg).map_or(0, |p| p.ty);
            let ctx = self.is_ctx_of(of, t.btf, param);
            let id = ctx.then(|| self.kern_ctx_btf_id(of).ok()).flatten()?;
            return Some(btf_id(Flags::NONE, id));
        }
        if let Some(id) = self.qdisc_to_free(t, arg) {
            return Some(btf_id(Flags::PTR_TRUSTED, id));
        }
        let (flags, error) = self.arg_flags(t, arg, raw);
        let (name, kind) = (t.name, t.btf.kind(to));
        if !structure {
            return self.bad_arg(format!("func '{name}' arg{arg} type {kind} is not a struct\n"));
        }
        let what = t.btf.name(to);
        self.log.put(&format!("func '{name}' arg{arg} has btf_id {to} type {kind} '{what}'\n"));
        if error {
            let m = format!("marking pointer arg{arg} as scalar as it may encode error");
            self.log.put(&m);
            return Some(self.unknown());
        }
        let to = self.ops_promotes(t, to);
        Some(btf_id(flags, to))
    }

    /// Trust, tags, and whether the argument may be NULL or an error pointer.
    fn arg_flags(&self, t: &Attach<'_>, arg: usize, raw: TypeId) -> (Flags, bool) {
        let p = self.input.program;
        let mut flags = tag_flags(t.btf, raw).without(Flags::MEM_RCU);
        if args_trusted(p) {
            flags = flags.or(Flags::PTR_TRUSTED);
        }
        if t.params.get(arg).is_some_and(|p| t.btf.str(p.name_off).ends_with("__nullable")) {
            flags = flags.or(Flags::PTR_MAYBE_NULL);
        }
        let mut error = false;
        let raw_tp =
            p.prog_type == ProgType::Tracing && p.attach_type == Some(AttachType::TraceRawTp);
        if let Some(row) = hooks::RAW_TP_NULL.iter().find(|r| raw_tp && r.0 == t.name) {
            if row.1 >> (arg * 4) & 1 != 0 {
                flags = flags.or(Flags::PTR_MAYBE_NULL);
            }
            error = row.1 >> (arg * 4) & 2 != 0;
        }
        (flags, error)
    }

    /// `bpf_tcp_ca_is_valid_access`: a socket of a congestion control is a TCP socket.
    fn ops_promotes(&self, t: &Attach<'_>, to: TypeId) -> TypeId {
        let tcp = self.prog_type() == ProgType::StructOps
            && self.ops_name() == "tcp_congestion_ops"
            && t.btf.name(to) == "sock";
        if !tcp {
            return to;
        }
        t.btf.find("tcp_sock", Kind::Struct).unwrap_or(to)
    }

    /// `bpf_qdisc_is_valid_access`: the list of packets to drop is opaque to `enqueue`.
    fn qdisc_to_free(&self, t: &Attach<'_>, arg: usize) -> Option<TypeId> {
        let ops = self.prog_type() == ProgType::StructOps && self.ops_name() == "Qdisc_ops";
        let list = ops && t.name == "enqueue" && arg == 2;
        t.btf.find("bpf_sk_buff_ptr", Kind::Struct).filter(|_| list)
    }

    /// The references `__ref` arguments come with are held from the start.
    pub(crate) fn acquire_ctx_refs(&mut self) {
        let Some(t) = self.input.attach else { return };
        self.ctx_refs.clear();
        for (i, p) in t.stub.iter().enumerate() {
            if t.btf.str(p.name_off).ends_with("__ref") {
                let id = self.acquire();
                self.ctx_refs.push((i, id));
            }
        }
    }
}

fn btf_id(flags: Flags, id: TypeId) -> RegState {
    let mut r = RegState::pointer(RegType::BtfId, flags);
    (r.btf, r.btf_id) = (BtfSrc::Vmlinux, id);
    r
}
