//! Which structure is the context of a program type: `struct bpf_ctx_convert` of the kernel's BTF.

use bpf::btf::{Body, Btf, Kind, TypeId};
use bpf::uapi::ProgType;

use crate::check::kfunc::is_projection;
use crate::explore::ver::{R, Ver, no, unsupported};
use crate::reject::EINVAL;

/// A member of `bpf_ctx_convert`: `_prog` is the UAPI's view, `_kern` the kernel's.
fn ctx_convert(btf: &Btf, of: ProgType, side: &str) -> Option<TypeId> {
    let id = btf.find("bpf_ctx_convert", Kind::Struct)?;
    let ty = of.name().to_uppercase();
    let want = format!("BPF_PROG_TYPE_{ty}_{side}");
    btf.members(id).find(|m| m.name == want).map(|m| m.ty)
}

/// Name of the structure that is the context of a program type; empty when it is none
/// (`find_canonical_prog_ctx_type`).
#[must_use]
pub fn ctx_struct(btf: &Btf, of: ProgType) -> Option<&str> {
    let id = btf.resolve(ctx_convert(btf, of, "prog")?);
    Some(if btf.kind(id) == Kind::Struct { btf.name(id) } else { "" })
}

impl<'a> Ver<'a> {
    /// `resolve_prog_type`: an extension is explored as one of the type of what it replaces.
    pub(crate) fn prog_type(&self) -> ProgType {
        self.input.program.prog_type
    }

    /// [`ctx_struct`] of this program.
    pub(crate) fn canonical_ctx(&self) -> Option<&'a str> {
        ctx_struct(self.input.env.btf()?, self.prog_type())
    }

    /// `get_kern_ctx_btf_id`.
    pub(crate) fn kern_ctx_btf_id(&self, of: ProgType) -> R<u32> {
        let btf = self.input.env.btf();
        let Some((btf, id)) = btf.and_then(|b| Some((b, ctx_convert(b, of, "kern")?))) else {
            return unsupported("struct bpf_ctx_convert in BTF", "btf.c:get_kern_ctx_btf_id");
        };
        if matches!(btf.kind(id), Kind::Struct | Kind::Union) {
            return Ok(id);
        }
        no(EINVAL, format!("kern ctx type id {id} is not a struct"))
    }

    /// KERNEL v6.18 btf.c:btf_is_prog_ctx_type, for the type of a parameter.
    pub(crate) fn is_prog_ctx(&self, btf: &Btf, param: TypeId) -> bool {
        self.is_ctx_of(self.prog_type(), btf, param)
    }

    /// The same for programs of a type.
    pub(crate) fn is_ctx_of(&self, of: ProgType, btf: &Btf, param: TypeId) -> bool {
        let Body::Ptr(to) = *btf.body(btf.resolve(param)) else { return false };
        let named = btf.skip_quals(to);
        let typedef = btf.kind(named) == Kind::Typedef;
        if of == ProgType::Kprobe && typedef && btf.name(named) == PT_REGS {
            return true;
        }
        let t = btf.resolve(to);
        if !matches!(btf.kind(t), Kind::Struct | Kind::Union) {
            return false;
        }
        let name = btf.name(t);
        let kernel = self.input.env.btf();
        let found = kernel.and_then(|b| Some((b, ctx_convert(b, of, "prog")?)));
        let Some((kernel, mut id)) = found else {
            return CTX_NAMES.iter().any(|r| r.0 == of && r.1.contains(&name));
        };
        loop {
            let want = kernel.name(id);
            if want.is_empty() || name.is_empty() {
                return false;
            }
            if want == name || is_projection(want, name) {
                return true;
            }
            let next = kernel.resolve(id);
            if next == id {
                return false;
            }
            id = next;
        }
    }
}

/// A typedef, differently defined on each architecture.
const PT_REGS: &str = "bpf_user_pt_regs_t";

const SKB: &[&str] = &["__sk_buff", "sk_buff"];

/// The same for kernels whose BTF does not say.
const CTX_NAMES: &[(ProgType, &[&str])] = &[
    (ProgType::SocketFilter, SKB),
    (ProgType::SchedCls, SKB),
    (ProgType::SchedAct, SKB),
    (ProgType::CgroupSkb, SKB),
    (ProgType::LwtIn, SKB),
    (ProgType::LwtOut, SKB),
    (ProgType::LwtXmit, SKB),
    (ProgType::LwtSeg6local, SKB),
    (ProgType::SkSkb, SKB),
    (ProgType::FlowDissector, SKB),
    (ProgType::Xdp, &["xdp_md", "xdp_buff"]),
    (ProgType::SockOps, &["bpf_sock_ops"]),
    (ProgType::SkMsg, &["sk_msg_md"]),
    (ProgType::CgroupSock, &["bpf_sock"]),
    (ProgType::CgroupSockAddr, &["bpf_sock_addr"]),
    (ProgType::CgroupSockopt, &["bpf_sockopt"]),
    (ProgType::CgroupSysctl, &["bpf_sysctl"]),
    (ProgType::CgroupDevice, &["bpf_cgroup_dev_ctx"]),
    (ProgType::SkReuseport, &["sk_reuseport_md"]),
    (ProgType::SkLookup, &["bpf_sk_lookup"]),
    (ProgType::Kprobe, &[PT_REGS, "user_pt_regs", "pt_regs"]),
    (ProgType::PerfEvent, &["bpf_perf_event_data"]),
    (ProgType::RawTracepoint, &["bpf_raw_tracepoint_args"]),
    (ProgType::RawTracepointWritable, &["bpf_raw_tracepoint_args"]),
    (ProgType::Netfilter, &["bpf_nf_ctx"]),
];
