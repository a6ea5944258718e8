//! Kernel functions programs may call: flags, and who may call them.
//!
//! Prototypes are not here: they come from the BTF of the kernel a program is verified for.

use super::kfunc_elsewhere;
use super::kfunc_table::KFUNCS;
use bpf::Program;
use bpf::uapi::{AttachType, ProgType};

/// `KF_*` flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub(crate) struct KfFlags(pub(crate) u32);

#[allow(missing_docs, reason = "the names are the kernel's, without KF_")]
impl KfFlags {
    pub(crate) const ACQUIRE: KfFlags = KfFlags(1);
    pub(crate) const RELEASE: KfFlags = KfFlags(1 << 1);
    pub(crate) const RET_NULL: KfFlags = KfFlags(1 << 2);
    pub(crate) const TRUSTED_ARGS: KfFlags = KfFlags(1 << 4);
    pub(crate) const SLEEPABLE: KfFlags = KfFlags(1 << 5);
    pub(crate) const DESTRUCTIVE: KfFlags = KfFlags(1 << 6);
    pub(crate) const RCU: KfFlags = KfFlags(1 << 7);
    pub(crate) const ITER_NEW: KfFlags = KfFlags(1 << 8);
    pub(crate) const ITER_NEXT: KfFlags = KfFlags(1 << 9);
    pub(crate) const ITER_DESTROY: KfFlags = KfFlags(1 << 10);
    pub(crate) const RCU_PROTECTED: KfFlags = KfFlags(1 << 11);
    pub(crate) const FASTCALL: KfFlags = KfFlags(1 << 12);

    /// The flag is set.
    #[must_use]
    pub(crate) const fn has(self, flag: KfFlags) -> bool {
        self.0 & flag.0 != 0
    }

    /// Union.
    #[must_use]
    pub(crate) const fn or(self, other: KfFlags) -> KfFlags {
        KfFlags(self.0 | other.0)
    }

    /// `is_kfunc_trusted_args`: releasing demands it too.
    #[must_use]
    pub(crate) const fn trusted_args(self) -> bool {
        self.has(KfFlags::TRUSTED_ARGS) || self.has(KfFlags::RELEASE)
    }
}

/// `enum btf_kfunc_hook` as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hooks(u16);

impl Hooks {
    pub(super) const COMMON: Hooks = Hooks(1);
    pub(super) const XDP: Hooks = Hooks(1 << 1);
    pub(super) const TC: Hooks = Hooks(1 << 2);
    pub(super) const STRUCT_OPS: Hooks = Hooks(1 << 3);
    pub(super) const TRACING: Hooks = Hooks(1 << 4);
    pub(super) const SYSCALL: Hooks = Hooks(1 << 5);
    pub(super) const CGROUP: Hooks = Hooks(1 << 6);
    pub(super) const SCHED_ACT: Hooks = Hooks(1 << 7);
    pub(super) const SK_SKB: Hooks = Hooks(1 << 8);
    pub(super) const SOCKET_FILTER: Hooks = Hooks(1 << 9);
    pub(super) const LWT: Hooks = Hooks(1 << 10);
    pub(super) const NETFILTER: Hooks = Hooks(1 << 11);
    pub(super) const KPROBE: Hooks = Hooks(1 << 12);
}

/// `btf_kfunc_filter_t`: a registration that looks at the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filter {
    /// None.
    None,
    /// LSM programs (`bpf_fs_kfuncs_filter`).
    Lsm,
    /// Iterators (`tracing_iter_filter`).
    Iter,
    /// kprobe sessions (`bpf_kprobe_multi_filter`).
    Session,
    /// Of the members of struct_ops those of `Qdisc_ops` (`bpf_qdisc_kfunc_filter`).
    Qdisc(QdiscMembers),
}

/// Members of `Qdisc_ops` that may call a kfunc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QdiscMembers {
    /// Every one.
    All,
    /// `enqueue`.
    Enqueue,
    /// `dequeue`.
    Dequeue,
    /// `enqueue` and `dequeue`.
    Both,
    /// The kernel calls it itself.
    None,
}

impl QdiscMembers {
    fn allow(self, program: &Program) -> bool {
        let to = program.attach_to.as_deref().unwrap_or_default();
        let Some(member) = to.strip_prefix("Qdisc_ops/") else { return false };
        match self {
            QdiscMembers::All => true,
            QdiscMembers::Enqueue => member == "enqueue",
            QdiscMembers::Dequeue => member == "dequeue",
            QdiscMembers::Both => matches!(member, "enqueue" | "dequeue"),
            QdiscMembers::None => false,
        }
    }
}

/// One kfunc.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KfuncRow {
    /// Name.
    pub(crate) name: &'static str,
    /// Flags.
    pub(crate) flags: KfFlags,
    hooks: Hooks,
    filter: Filter,
}

/// A row of the table.
pub(super) const fn row(
    name: &'static str,
    flags: &[KfFlags],
    hooks: &[Hooks],
    filter: Filter,
) -> KfuncRow {
    let (mut all, mut on, mut i) = (KfFlags(0), Hooks(0), 0);
    while i < flags.len() {
        all = all.or(flags[i]);
        i += 1;
    }
    i = 0;
    while i < hooks.len() {
        on = Hooks(on.0 | hooks[i].0);
        i += 1;
    }
    KfuncRow { name, flags: all, hooks: on, filter }
}

/// `bpf_prog_type_to_kfunc_hook`; `None` for types that only have the common set.
fn hook_of(ty: ProgType) -> Option<Hooks> {
    use ProgType as P;
    Some(match ty {
        P::Xdp => Hooks::XDP,
        P::SchedCls => Hooks::TC,
        P::StructOps => Hooks::STRUCT_OPS,
        P::Tracing | P::Tracepoint | P::PerfEvent | P::Lsm => Hooks::TRACING,
        P::Syscall => Hooks::SYSCALL,
        P::CgroupSkb
        | P::CgroupSock
        | P::CgroupDevice
        | P::CgroupSockAddr
        | P::CgroupSockopt
        | P::CgroupSysctl
        | P::SockOps => Hooks::CGROUP,
        P::SchedAct => Hooks::SCHED_ACT,
        P::SkSkb => Hooks::SK_SKB,
        P::SocketFilter => Hooks::SOCKET_FILTER,
        P::LwtIn | P::LwtOut | P::LwtXmit | P::LwtSeg6local => Hooks::LWT,
        P::Netfilter => Hooks::NETFILTER,
        P::Kprobe => Hooks::KPROBE,
        _ => return None,
    })
}

impl KfuncRow {
    /// `btf_kfunc_is_allowed` for a program, whose type an extension has from its target.
    pub(crate) fn allowed(&self, program: &Program, ty: ProgType) -> bool {
        let on = |h: Hooks| self.hooks.0 & h.0 != 0;
        if !on(Hooks::COMMON) && !hook_of(ty).is_some_and(on) {
            return false;
        }
        let attach = program.attach_type;
        match self.filter {
            Filter::None => true,
            Filter::Lsm => ty == ProgType::Lsm,
            Filter::Iter => ty == ProgType::Tracing && attach == Some(AttachType::TraceIter),
            Filter::Qdisc(members) => ty != ProgType::StructOps || members.allow(program),
            Filter::Session => matches!(
                attach,
                Some(AttachType::TraceKprobeSession | AttachType::TraceUprobeSession)
            ),
        }
    }
}

/// The row of a kfunc.
#[must_use]
pub(crate) fn kfunc(name: &str) -> Option<&'static KfuncRow> {
    let tables = [KFUNCS, kfunc_elsewhere::KFUNCS];
    tables.iter().find_map(|t| t.binary_search_by_key(&name, |r| r.name).ok().map(|i| &t[i]))
}

/// Names of all of them.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    KFUNCS.iter().chain(kfunc_elsewhere::KFUNCS).map(|r| r.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::bare_program;

    #[test]
    fn the_table_is_ordered() {
        assert!(KFUNCS.is_sorted_by_key(|r| r.name));
        assert!(kfunc_elsewhere::KFUNCS.is_sorted_by_key(|r| r.name));
        assert!(kfunc("bpf_rcu_read_lock").is_some() && kfunc("printk").is_none());
    }

    #[test]
    fn availability_is_by_hook_and_filter() {
        let allowed = |name: &str, ty| {
            let p = bare_program("t", ty, Vec::new());
            kfunc(name).is_some_and(|r| r.allowed(&p, ty))
        };
        assert!(allowed("bpf_dynptr_from_xdp", ProgType::Xdp));
        assert!(!allowed("bpf_dynptr_from_xdp", ProgType::SchedCls));
        assert!(allowed("bpf_rcu_read_lock", ProgType::SkLookup));
        assert!(allowed("bpf_put_file", ProgType::Lsm));
        assert!(!allowed("bpf_put_file", ProgType::Tracing));
        assert!(!allowed("bpf_session_cookie", ProgType::Kprobe));
    }
}
