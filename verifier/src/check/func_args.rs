//! Arguments of subprograms as their BTF says: `btf_prepare_func_args` and the match at a call.
//!
//! | parameter | tag | argument |
//! |---|---|---|
//! | integer, enum | | scalar |
//! | pointer to the context | `ctx`, or none | the context |
//! | `struct bpf_dynptr *` | | constant dynptr |
//! | pointer to a kernel structure | `trusted`, with `nullable` or not | trusted pointer |
//! | the same, or to data | `untrusted` | anything, read with probes |
//! | pointer | `arena` | arena pointer or scalar |
//! | pointer to what has a size | none, `nonnull` | memory of that size |

use bpf::btf::{Body, Btf, Kind, TypeId};
use bpf::insn::Reg;
use bpf::uapi::{AttachType, ProgType};

use super::dynptr::Use;
use crate::btf::BtfSrc;
use crate::domain::reg::{DynptrType, Obj, RegState, RegType};
use crate::explore::ver::{R, Ver, no, unsupported};
use crate::proto::{ArgBase, ArgType, Flags};
use crate::reject::{EFAULT, EINVAL, EOPNOTSUPP};

/// `ENOENT`.
const ENOENT: i32 = 2;
/// `ESRCH`.
const ESRCH: i32 = 3;
/// `MAX_BPF_FUNC_REG_ARGS`.
const ARGS_MAX: usize = 5;

/// `struct bpf_subprog_arg_info`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FuncArg {
    /// `ARG_ANYTHING`.
    Scalar,
    /// `ARG_PTR_TO_CTX`.
    Ctx,
    /// `ARG_PTR_TO_DYNPTR | MEM_RDONLY`.
    Dynptr,
    /// `ARG_PTR_TO_MEM`, with size and flags.
    Mem(u32, Flags),
    /// `ARG_PTR_TO_BTF_ID`, with type and flags.
    BtfId(TypeId, Flags),
    /// `ARG_PTR_TO_ARENA`.
    Arena,
}

/// `arg:` tags as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
struct Tags(u8);

impl Tags {
    const CTX: Tags = Tags(1);
    const TRUSTED: Tags = Tags(2);
    const UNTRUSTED: Tags = Tags(4);
    const NONNULL: Tags = Tags(8);
    const NULLABLE: Tags = Tags(16);
    const ARENA: Tags = Tags(32);
    const NAMES: &'static [(&'static str, Tags)] = &[
        ("ctx", Tags::CTX),
        ("trusted", Tags::TRUSTED),
        ("untrusted", Tags::UNTRUSTED),
        ("nonnull", Tags::NONNULL),
        ("nullable", Tags::NULLABLE),
        ("arena", Tags::ARENA),
    ];

    fn has(self, t: Tags) -> bool {
        self.0 & t.0 != 0
    }

    /// Tags beside this one.
    fn others(self, t: Tags) -> bool {
        self.0 & !t.0 != 0
    }
}

fn bad<T>(i: usize, what: &str) -> R<T> {
    no(EINVAL, format!("arg#{i} {what}"))
}

const COMBINATION: &str = "has invalid combination of tags";

impl Ver<'_> {
    /// KERNEL v6.18 btf.c:btf_prepare_func_args. Found once for each subprogram.
    pub(crate) fn func_args(&mut self, sub: usize) -> R<Vec<FuncArg>> {
        if let Some(args) = &self.func_args[sub] {
            return Ok(args.clone());
        }
        let args = self.prepare_args(sub)?;
        self.func_args[sub] = Some(args.clone());
        Ok(args)
    }

    fn prepare_args(&self, sub: usize) -> R<Vec<FuncArg>> {
        let s = &self.input.cfg.subprogs[sub];
        let Some(btf) = self.input.prog_btf.filter(|_| s.type_id != 0) else {
            return no(EFAULT, "Global functions need valid BTF");
        };
        let name = btf.name(s.type_id);
        let Some((ret, params)) = btf.func_proto(s.type_id) else {
            return no(EFAULT, format!("Invalid type of function {name}()"));
        };
        let global = s.is_global;
        // What would be refused in a global function makes a static one unreliable only.
        let refuse = |m: String| no(EINVAL, if global { m } else { String::new() });
        if params.len() > ARGS_MAX {
            let n = params.len();
            let m = format!("Global function {name}() with {n} > {ARGS_MAX} args. Buggy compiler.");
            return refuse(m);
        }
        if !matches!(btf.kind(btf.resolve(ret)), Kind::Int | Kind::Enum | Kind::Enum64) {
            let m = "doesn't return scalar. Only those are supported.";
            return refuse(format!("Global function {name}() {m}"));
        }
        let mut out = Vec::new();
        for (i, p) in params.iter().enumerate() {
            let tags = arg_tags(btf, s.type_id, i, global)?;
            let ty = btf.resolve(p.ty);
            if btf.kind(ty) == Kind::Ptr
                && let Some(a) = self.pointer_arg_kind(btf, ty, i, tags, global)?
            {
                out.push(a);
                continue;
            }
            if tags != Tags::default() {
                return bad(i, "has pointer tag, but is not a pointer type");
            }
            if !matches!(btf.kind(ty), Kind::Int | Kind::Enum | Kind::Enum64) {
                let m = format!("type {} in {name}() is not supported yet.", btf.kind(ty));
                return refuse(format!("Arg#{i} {m}"));
            }
            out.push(FuncArg::Scalar);
        }
        Ok(out)
    }

    /// What a pointer parameter stands for; `None` in static functions when nothing is known.
    fn pointer_arg_kind(
        &self,
        btf: &Btf,
        ptr: TypeId,
        i: usize,
        tags: Tags,
        global: bool,
    ) -> R<Option<FuncArg>> {
        let to = btf.pointee(ptr).unwrap_or(0);
        if tags.has(Tags::CTX) || self.is_prog_ctx(btf, ptr) {
            if tags.others(Tags::CTX) {
                return bad(i, COMBINATION);
            }
            if tags.has(Tags::CTX) {
                self.validate_ctx(btf, ptr, i)?;
            }
            return Ok(Some(FuncArg::Ctx));
        }
        if btf.kind(to) == Kind::Struct && btf.name(to) == "bpf_dynptr" {
            if tags != Tags::default() {
                return bad(i, COMBINATION);
            }
            return Ok(Some(FuncArg::Dynptr));
        }
        if tags.has(Tags::TRUSTED) {
            if tags.has(Tags::NONNULL) {
                return bad(i, COMBINATION);
            }
            let null = if tags.has(Tags::NULLABLE) { Flags::PTR_MAYBE_NULL } else { Flags::NONE };
            let id = self.kernel_type_of(btf, to, i)?;
            return Ok(Some(FuncArg::BtfId(id, Flags::PTR_TRUSTED.or(null))));
        }
        if tags.has(Tags::UNTRUSTED) {
            return self.untrusted_arg(btf, to, i, tags).map(Some);
        }
        if tags.has(Tags::ARENA) {
            if tags.others(Tags::ARENA) {
                return bad(i, "arena cannot be combined with any other tags");
            }
            return Ok(Some(FuncArg::Arena));
        }
        if !global {
            return Ok(None);
        }
        if tags.has(Tags::NULLABLE) {
            return bad(i, COMBINATION);
        }
        let Some(size) = btf.size_of(to).filter(|_| to != 0) else {
            let (kind, name) = (btf.kind(to), btf.name(to));
            let m = format!("reference type('{kind} {name}') size cannot be determined: -22");
            return bad(i, &m);
        };
        let sure = tags.has(Tags::NONNULL);
        let flags = if sure { Flags::NONE } else { Flags::PTR_MAYBE_NULL };
        Ok(Some(FuncArg::Mem(size, flags)))
    }

    fn untrusted_arg(&self, btf: &Btf, to: TypeId, i: usize, tags: Tags) -> R<FuncArg> {
        if tags.others(Tags::UNTRUSTED) {
            return bad(i, "untrusted cannot be combined with any other tags");
        }
        let primitive = matches!(btf.kind(to), Kind::Int | Kind::Float | Kind::Enum | Kind::Enum64);
        if to == 0 || primitive {
            return Ok(FuncArg::Mem(0, Flags::MEM_RDONLY.or(Flags::PTR_UNTRUSTED)));
        }
        let id = self.kernel_type_of(btf, to, i)?;
        Ok(FuncArg::BtfId(id, Flags::PTR_UNTRUSTED))
    }

    /// `btf_get_ptr_to_btf_id`: the one kernel type of that name, flavours of it included.
    fn kernel_type_of(&self, btf: &Btf, ty: TypeId, i: usize) -> R<TypeId> {
        let Some(kernel) = self.input.env.btf() else {
            return unsupported("trusted arguments without BTF", "btf.c:btf_get_ptr_to_btf_id");
        };
        let (kind, full) = (btf.kind(ty), btf.name(ty));
        let name = bpf::object::essential_name(full);
        let flavours = kernel.with_prefix(&format!("{name}___")).iter().copied();
        let all = kernel.named(name).iter().copied().chain(flavours);
        let same = |id: &TypeId| {
            kernel.kind(*id) == kind && bpf::object::essential_name(kernel.name(*id)) == name
        };
        let found: Vec<TypeId> = all.filter(same).collect();
        let what = format!("arg#{i} reference type('{kind} {full}')");
        match found[..] {
            [id] => Ok(id),
            [] => no(ENOENT, format!("{what} has no matches")),
            _ => no(ESRCH, format!("{what} is ambiguous")),
        }
    }

    /// KERNEL v6.18 btf.c:btf_validate_prog_ctx_type
    fn validate_ctx(&self, btf: &Btf, ptr: TypeId, i: usize) -> R {
        let Body::Ptr(to) = *btf.body(ptr) else { return Ok(()) };
        let ty = self.prog_type();
        let typedef = btf.skip_quals(to);
        let regs = matches!(ty, ProgType::Kprobe | ProgType::PerfEvent)
            && btf.kind(typedef) == Kind::Typedef
            && btf.name(typedef) == "bpf_user_pt_regs_t";
        let to = btf.resolve(to);
        if regs || to == 0 {
            return Ok(());
        }
        let name = btf.name(to);
        if name.is_empty() {
            return bad(i, "type doesn't have a name");
        }
        if self.ctx_special_case(btf, to) {
            return Ok(());
        }
        let Some(want) = self.canonical_ctx() else {
            return unsupported(
                "struct bpf_ctx_convert in BTF",
                "btf.c:btf_validate_prog_ctx_type",
            );
        };
        if want.is_empty() {
            return bad(i, "should be void pointer");
        }
        if btf.kind(to) != Kind::Struct || name != want {
            return bad(i, &format!("should be `struct {want} *`"));
        }
        Ok(())
    }

    /// Contexts that are not named after the program type.
    fn ctx_special_case(&self, btf: &Btf, to: TypeId) -> bool {
        use AttachType as A;
        let (name, structure) = (btf.name(to), btf.kind(to) == Kind::Struct);
        let words = btf.kind(to) == Kind::Int && btf.size_of(to) == Some(8);
        match self.prog_type() {
            ProgType::Kprobe => structure && name == "pt_regs",
            ProgType::PerfEvent => {
                structure && matches!(name, "pt_regs" | "user_pt_regs" | "user_regs_struct")
            }
            ProgType::RawTracepoint | ProgType::RawTracepointWritable => words,
            ProgType::Tracing => match self.input.program.attach_type {
                Some(A::TraceRawTp) => words || (structure && name == "bpf_raw_tracepoint_args"),
                Some(A::TraceIter) => structure && name.starts_with("bpf_iter__"),
                Some(A::TraceFentry | A::TraceFexit | A::ModifyReturn) => words,
                _ => false,
            },
            ProgType::Lsm | ProgType::StructOps => words,
            ProgType::Tracepoint | ProgType::Syscall | ProgType::Ext => true,
            _ => false,
        }
    }

    /// The register a global function is verified with.
    pub(crate) fn entry_reg(&mut self, a: FuncArg) -> RegState {
        match a {
            FuncArg::Scalar | FuncArg::Arena => self.unknown(),
            FuncArg::Ctx => RegState::pointer(RegType::Ctx, Flags::NONE),
            FuncArg::Dynptr => {
                let obj = Obj::Dynptr { ty: DynptrType::Local, first: true };
                let id = self.new_id();
                RegState { obj, id, ..RegState::pointer(RegType::ConstDynptr, Flags::NONE) }
            }
            FuncArg::Mem(mem_size, flags) => {
                let mut r = RegState { mem_size, ..RegState::pointer(RegType::Mem, flags) };
                if r.may_be_null() {
                    r.id = self.new_id();
                }
                r
            }
            FuncArg::BtfId(btf_id, flags) => {
                let id = self.new_id();
                RegState { btf_id, id, ..RegState::pointer(RegType::BtfId, flags) }
            }
        }
    }

    /// KERNEL v6.18 verifier.c:btf_check_func_arg_match
    pub(crate) fn match_args(&mut self, sub: usize) -> R {
        for (i, a) in self.func_args(sub)?.into_iter().enumerate() {
            self.match_arg(Reg(i as u8 + 1), i, a)?;
        }
        Ok(())
    }

    fn match_arg(&mut self, n: Reg, i: usize, a: FuncArg) -> R {
        let r = *self.r(n);
        match a {
            FuncArg::Scalar if !r.is_scalar() => no(EINVAL, format!("R{} is not a scalar", n.0)),
            FuncArg::Scalar => Ok(()),
            FuncArg::Mem(_, f) | FuncArg::BtfId(_, f) if f.has(Flags::PTR_UNTRUSTED) => Ok(()),
            FuncArg::Ctx => {
                self.arg_reg_off(n, &r, false, false)?;
                if r.is(RegType::Ctx) { Ok(()) } else { bad(i, "expects pointer to ctx") }
            }
            FuncArg::Mem(size, flags) => {
                self.arg_reg_off(n, &r, false, false)?;
                self.mem_reg(n, size)?;
                if !flags.has(Flags::PTR_MAYBE_NULL) && r.may_be_null() {
                    return bad(i, "is expected to be non-NULL");
                }
                Ok(())
            }
            FuncArg::Arena if r.is(RegType::Arena) || r.is_scalar() => Ok(()),
            FuncArg::Arena => no(EINVAL, format!("R{} is not a pointer to arena or scalar.", n.0)),
            FuncArg::Dynptr => {
                self.arg_reg_off(n, &r, false, true)?;
                self.dynptr_arg(n, Use::Const(None))
            }
            FuncArg::BtfId(id, flags) => self.match_btf_arg(n, &r, id, flags),
        }
    }

    /// A trusted argument: `check_reg_type` with the type that the function wants.
    fn match_btf_arg(&mut self, n: Reg, r: &RegState, id: TypeId, flags: Flags) -> R {
        if r.is_null() && flags.has(Flags::PTR_MAYBE_NULL) {
            return Ok(());
        }
        let arg = ArgType { base: ArgBase::PtrToBtfId, flags, size: 0, btf: "" };
        self.btf_func_arg(n, r, &arg, (BtfSrc::Vmlinux, id))?;
        self.arg_reg_off(n, r, false, false)
    }
}

/// The `arg:` tags of a parameter.
fn arg_tags(btf: &Btf, func: TypeId, i: usize, global: bool) -> R<Tags> {
    let mut all = Tags::default();
    let own = btf.decl_tags(func).filter(|t| usize::try_from(t.0) == Ok(i));
    for tag in own.filter_map(|t| t.1.strip_prefix("arg:")) {
        if !global {
            let m = format!("arg#{i} type tag is not supported in static functions");
            return no(EOPNOTSUPP, m);
        }
        let Some(t) = Tags::NAMES.iter().find(|n| n.0 == tag) else {
            return no(EOPNOTSUPP, format!("arg#{i} has unsupported set of tags"));
        };
        all = Tags(all.0 | t.1.0);
    }
    Ok(all)
}
