//! Facts of Linux 6.18 as tables: helper prototypes and availability, context fields, packet
//! access, return ranges. Exploration asks through the functions of this module only.
//!
//! Prototypes are those 6.12 declares; everything else was measured on 6.18.

mod avail;
mod avail_table;
mod ctx;
mod ctx_table;
mod helpers;
pub(crate) mod hooks;
mod kfunc_elsewhere;
mod kfunc_table;
pub(crate) mod kfuncs;
mod level;
mod ret;
mod rows;
pub(crate) mod since;
pub(crate) mod struct_ops;
pub(crate) mod traced;

use bpf::Program;
use bpf::uapi::ProgType;

use crate::explore::PtrClass;
use crate::proto::{CtxReg, CtxVerdict, FuncProto, RetRange};
use avail::{Avail, Kind};

pub use level::{FEATURES, Feature, Level, helper_max, insn_since, unknown_insn};

/// One more than the last helper the kernel knows: `__BPF_FUNC_MAX_ID`.
pub const HELPER_MAX: i32 = 212;

/// Whether a program type may call a helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Availability {
    /// Callable.
    Yes,
    /// "program of this type cannot use helper".
    No,
    /// Only sleepable programs: "helper call might sleep in a non-sleepable prog".
    Sleepable,
    /// The `allowed` callback of the prototype says no: "helper call is not allowed in probe".
    NotInProbe,
    /// `bpf_get_func_ip` outside kprobes and trampolines: `ENOTSUPP`.
    FuncIp,
    /// The table has no row for this program type: `Unsupported`.
    Unknown,
}

/// The prototype of a helper for most program types; `None` for "invalid func unknown#".
#[must_use]
pub fn helper(id: i32) -> Option<&'static FuncProto> {
    helper_for(id, ProgType::Unspec)
}

/// The prototype of a helper as one program type sees it (`get_func_proto`):
/// `bpf_get_socket_cookie` takes the context or a socket, `bpf_setsockopt` too, ...
#[must_use]
pub fn helper_for(id: i32, prog_type: ProgType) -> Option<&'static FuncProto> {
    let first = helpers::HELPERS.partition_point(|r| r.proto.id < id);
    helpers::HELPERS[first..]
        .iter()
        .take_while(|r| r.proto.id == id)
        .find(|r| r.only.is_empty() || r.only.contains(&prog_type))
        .map(|r| &r.proto)
}

/// Whether this program may call the helper (licence not considered).
#[must_use]
pub fn helper_available(program: &Program, id: i32) -> Availability {
    match avail::helper_avail(&Kind::of(program), id) {
        None => Availability::Unknown,
        Some(Avail::Yes) => Availability::Yes,
        Some(Avail::MightSleep) => Availability::Sleepable,
        Some(Avail::NotInProbe) => Availability::NotInProbe,
        Some(Avail::FuncIp) => Availability::FuncIp,
        Some(Avail::No) => Availability::No,
    }
}

/// Whether a loader with these capabilities may use the helper at all (`bpf_base_func_proto`).
#[must_use]
pub fn helper_permitted(id: i32, bpf: bool, perfmon: bool) -> bool {
    (bpf || !avail::NEED_BPF.contains(&id)) && (perfmon || !avail::NEED_PERFMON.contains(&id))
}

/// `is_valid_access` of the program type, for accesses at a constant offset; packet pointers are
/// not read with sign extension.
#[must_use]
pub fn ctx_access(program: &Program, off: i32, size: u32, write: bool) -> CtxVerdict {
    match ctx::ctx_group(&Kind::of(program)) {
        None => CtxVerdict::Unknown,
        Some(g) => g.access(off, size, write).map_or(CtxVerdict::Invalid, CtxVerdict::Ok),
    }
}

/// Whether a field may be read with sign extension: pointers into the packet may not (`is_ldsx` in
/// the `is_valid_access` of every type that has them).
#[must_use]
pub fn ctx_sign_extends(reg: CtxReg) -> bool {
    !matches!(reg, CtxReg::Packet | CtxReg::PacketMeta | CtxReg::PacketEnd)
}

/// `bpf_ctx_narrow_access`: size of the field a narrow load at `off` belongs to; 0 when the
/// access covers the whole field.
#[must_use]
pub fn ctx_field_size(program: &Program, off: i32, size: u32) -> u32 {
    ctx::ctx_group(&Kind::of(program)).map_or(0, |g| g.field_size(off, size))
}

/// The context is the kernel's own memory: no `convert_ctx_access` (tracepoint records, argument
/// lists, `pt_regs`, `bpf_iter__*`, `bpf_nf_ctx`).
#[must_use]
pub fn ctx_needs_no_conversion(program: &Program) -> bool {
    use ProgType as P;
    matches!(
        program.prog_type,
        P::Kprobe
            | P::Tracepoint
            | P::RawTracepoint
            | P::RawTracepointWritable
            | P::Tracing
            | P::Lsm
            | P::StructOps
            | P::Syscall
            | P::CgroupDevice
            | P::Netfilter
    )
}

/// `bpf_sock_is_valid_access` and its relatives: reads through socket pointers.
#[must_use]
pub fn sock_access(class: PtrClass, off: i32, size: u32) -> bool {
    let rows = match class {
        PtrClass::SockCommon => ctx_table::SOCK_COMMON,
        PtrClass::Socket => ctx_table::SOCK,
        PtrClass::TcpSock => ctx_table::TCP_SOCK,
        PtrClass::XdpSock => ctx_table::XDP_SOCK,
        _ => return false,
    };
    let at = rows.binary_search_by_key(&off, |r| i32::from(r.0));
    at.is_ok_and(|i| u32::from(rows[i].1) & size != 0)
}

/// `may_access_direct_pkt_data`.
#[must_use]
pub fn packet_access(program: &Program, write: bool) -> bool {
    use ProgType as P;
    match program.prog_type {
        P::SchedCls | P::SchedAct | P::Xdp | P::LwtXmit | P::SkSkb | P::SkMsg => true,
        P::CgroupSockopt => true,
        P::CgroupSkb | P::LwtIn | P::LwtOut | P::LwtSeg6local => !write,
        P::SockOps | P::SkReuseport | P::FlowDissector => !write,
        _ => false,
    }
}

/// `may_access_skb`: LD_ABS and LD_IND.
#[must_use]
pub fn ld_abs_allowed(program: &Program) -> bool {
    use ProgType as P;
    matches!(program.prog_type, P::SocketFilter | P::SchedCls | P::SchedAct)
}

/// Structures of the kernel whose members programs may be, as far as their rules are known.
pub fn struct_ops_names() -> impl Iterator<Item = &'static str> {
    struct_ops::names()
}

/// What R0 may be at program exit.
#[must_use]
pub fn return_range(program: &Program) -> RetRange {
    ret::return_range(&Kind::of(program))
}

/// The program returns nothing (members of struct_ops): R0 need not be set at exit.
#[must_use]
pub fn returns_void(program: &Program) -> bool {
    program.prog_type == ProgType::StructOps
        && Kind::of(program).target.is_some_and(ret::is_void_member)
}

/// What the `KF_*` flags of a kernel function say about what it leaves to its caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are the kernel's, without KF_")]
pub struct KfuncEffect {
    pub acquire: bool,
    pub release: bool,
    pub ret_null: bool,
    pub iter_new: bool,
    pub iter_next: bool,
    pub iter_destroy: bool,
}

/// The effect of a kernel function; `None` when no program may call it.
#[must_use]
pub fn kfunc_effect(name: &str) -> Option<KfuncEffect> {
    use kfuncs::KfFlags as F;
    let flags = kfuncs::kfunc(name)?.flags;
    Some(KfuncEffect {
        acquire: flags.has(F::ACQUIRE),
        release: flags.has(F::RELEASE),
        ret_null: flags.has(F::RET_NULL),
        iter_new: flags.has(F::ITER_NEW),
        iter_next: flags.has(F::ITER_NEXT),
        iter_destroy: flags.has(F::ITER_DESTROY),
    })
}

/// Names of all kernel functions that programs of 6.18 may call.
pub fn kfunc_names() -> impl Iterator<Item = &'static str> {
    kfunc_table::KFUNCS.iter().map(|r| r.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ArgBase;
    use crate::testing::bare_program;
    use bpf::uapi::AttachType;

    fn prog(t: ProgType) -> Program {
        bare_program("t", t, Vec::new())
    }

    #[test]
    fn every_helper_has_a_general_row() {
        for id in 1..HELPER_MAX {
            assert!(helper(id).is_some(), "helper {id}");
        }
        assert!(helper(0).is_none() && helper(HELPER_MAX).is_none());
        assert!(helpers::HELPERS.is_sorted_by_key(|r| r.proto.id));
    }

    #[test]
    fn rows_depend_on_the_program_type() {
        let arg1 = |id, t| helper_for(id, t).map(|p| p.args[0].base);
        assert_eq!(arg1(17, ProgType::SchedCls), Some(ArgBase::PtrToCtx));
        assert_eq!(arg1(17, ProgType::CgroupSkb), Some(ArgBase::DontCare));
        assert_eq!(arg1(46, ProgType::Tracing), Some(ArgBase::PtrToBtfIdSockCommon));
    }

    #[test]
    fn availability() {
        let of = |t, id| helper_available(&prog(t), id);
        assert_eq!(of(ProgType::Xdp, 44), Availability::Yes);
        assert_eq!(of(ProgType::SocketFilter, 44), Availability::No);
        assert_eq!(of(ProgType::Kprobe, 148), Availability::Sleepable);
        let mut fentry = prog(ProgType::Tracing);
        fentry.attach_type = Some(AttachType::TraceFentry);
        assert_eq!(helper_available(&fentry, 183), Availability::Yes);
    }

    #[test]
    fn context_fields() {
        let xdp = prog(ProgType::Xdp);
        assert_eq!(ctx_access(&xdp, 0, 4, false), CtxVerdict::Ok(CtxReg::Packet));
        assert_eq!(ctx_access(&xdp, 4, 4, false), CtxVerdict::Ok(CtxReg::PacketEnd));
        assert_eq!(ctx_access(&xdp, 0, 8, false), CtxVerdict::Invalid);
        assert_eq!(ctx_access(&xdp, 0, 4, true), CtxVerdict::Invalid);
        assert_eq!(ctx_access(&xdp, 20, 4, false), CtxVerdict::Invalid);
        let skb = prog(ProgType::SchedCls);
        assert_eq!(ctx_access(&skb, 8, 4, true), CtxVerdict::Ok(CtxReg::Scalar));
        let widths = |off, size| ctx_field_size(&skb, off, size);
        assert_eq!((widths(0, 1), widths(0, 4), widths(152, 8), widths(48, 1)), (4, 0, 0, 0));
    }

    #[test]
    fn socket_fields() {
        assert!(sock_access(PtrClass::TcpSock, 80, 8) && !sock_access(PtrClass::TcpSock, 80, 4));
        assert!(sock_access(PtrClass::SockCommon, 4, 4) && !sock_access(PtrClass::Plain, 4, 4));
    }
}
