//! tidy: table
//! What a section name says: the `SEC()` table of libbpf 1.5.
//!
//! The first row that matches decides. A name that ends in `+` takes a target after a slash or
//! nothing; the others have to match as a whole.

use crate::uapi::{AttachType as A, ProgType as P};

/// `BPF_F_SLEEPABLE`.
pub const SLEEPABLE: u32 = 1 << 4;
/// `BPF_F_XDP_HAS_FRAGS`.
pub const XDP_FRAGS: u32 = 1 << 5;

type Row = (&'static str, P, Option<A>, u32);

/// Name, program type, expected attach type, program flags.
#[rustfmt::skip]
pub const SECTIONS: &[Row] = &[
    ("socket", P::SocketFilter, None, 0),
    ("sk_reuseport/migrate", P::SkReuseport, Some(A::SkReuseportSelectOrMigrate), 0),
    ("sk_reuseport", P::SkReuseport, Some(A::SkReuseportSelect), 0),
    ("kprobe+", P::Kprobe, None, 0),
    ("uprobe+", P::Kprobe, None, 0),
    ("uprobe.s+", P::Kprobe, None, SLEEPABLE),
    ("kretprobe+", P::Kprobe, None, 0),
    ("uretprobe+", P::Kprobe, None, 0),
    ("uretprobe.s+", P::Kprobe, None, SLEEPABLE),
    ("kprobe.multi+", P::Kprobe, Some(A::TraceKprobeMulti), 0),
    ("kretprobe.multi+", P::Kprobe, Some(A::TraceKprobeMulti), 0),
    ("kprobe.session+", P::Kprobe, Some(A::TraceKprobeSession), 0),
    ("uprobe.multi+", P::Kprobe, Some(A::TraceUprobeMulti), 0),
    ("uretprobe.multi+", P::Kprobe, Some(A::TraceUprobeMulti), 0),
    ("uprobe.session+", P::Kprobe, Some(A::TraceUprobeSession), 0),
    ("uprobe.multi.s+", P::Kprobe, Some(A::TraceUprobeMulti), SLEEPABLE),
    ("uretprobe.multi.s+", P::Kprobe, Some(A::TraceUprobeMulti), SLEEPABLE),
    ("uprobe.session.s+", P::Kprobe, Some(A::TraceUprobeSession), SLEEPABLE),
    ("ksyscall+", P::Kprobe, None, 0),
    ("kretsyscall+", P::Kprobe, None, 0),
    ("usdt+", P::Kprobe, None, 0),
    ("usdt.s+", P::Kprobe, None, SLEEPABLE),
    ("tc/ingress", P::SchedCls, Some(A::TcxIngress), 0),
    ("tc/egress", P::SchedCls, Some(A::TcxEgress), 0),
    ("tcx/ingress", P::SchedCls, Some(A::TcxIngress), 0),
    ("tcx/egress", P::SchedCls, Some(A::TcxEgress), 0),
    ("tc", P::SchedCls, None, 0),
    ("classifier", P::SchedCls, None, 0),
    ("action", P::SchedAct, None, 0),
    ("netkit/primary", P::SchedCls, Some(A::NetkitPrimary), 0),
    ("netkit/peer", P::SchedCls, Some(A::NetkitPeer), 0),
    ("tracepoint+", P::Tracepoint, None, 0),
    ("tp+", P::Tracepoint, None, 0),
    ("raw_tracepoint+", P::RawTracepoint, None, 0),
    ("raw_tp+", P::RawTracepoint, None, 0),
    ("raw_tracepoint.w+", P::RawTracepointWritable, None, 0),
    ("raw_tp.w+", P::RawTracepointWritable, None, 0),
    ("tp_btf+", P::Tracing, Some(A::TraceRawTp), 0),
    ("fentry+", P::Tracing, Some(A::TraceFentry), 0),
    ("fmod_ret+", P::Tracing, Some(A::ModifyReturn), 0),
    ("fexit+", P::Tracing, Some(A::TraceFexit), 0),
    ("fentry.s+", P::Tracing, Some(A::TraceFentry), SLEEPABLE),
    ("fmod_ret.s+", P::Tracing, Some(A::ModifyReturn), SLEEPABLE),
    ("fexit.s+", P::Tracing, Some(A::TraceFexit), SLEEPABLE),
    ("freplace+", P::Ext, None, 0),
    ("lsm+", P::Lsm, Some(A::LsmMac), 0),
    ("lsm.s+", P::Lsm, Some(A::LsmMac), SLEEPABLE),
    ("lsm_cgroup+", P::Lsm, Some(A::LsmCgroup), 0),
    ("iter+", P::Tracing, Some(A::TraceIter), 0),
    ("iter.s+", P::Tracing, Some(A::TraceIter), SLEEPABLE),
    ("syscall", P::Syscall, None, SLEEPABLE),
    ("xdp.frags/devmap", P::Xdp, Some(A::XdpDevmap), XDP_FRAGS),
    ("xdp/devmap", P::Xdp, Some(A::XdpDevmap), 0),
    ("xdp.frags/cpumap", P::Xdp, Some(A::XdpCpumap), XDP_FRAGS),
    ("xdp/cpumap", P::Xdp, Some(A::XdpCpumap), 0),
    ("xdp.frags", P::Xdp, Some(A::Xdp), XDP_FRAGS),
    ("xdp", P::Xdp, Some(A::Xdp), 0),
    ("perf_event", P::PerfEvent, None, 0),
    ("lwt_in", P::LwtIn, None, 0),
    ("lwt_out", P::LwtOut, None, 0),
    ("lwt_xmit", P::LwtXmit, None, 0),
    ("lwt_seg6local", P::LwtSeg6local, None, 0),
    ("sockops", P::SockOps, Some(A::CgroupSockOps), 0),
    ("sk_skb/stream_parser", P::SkSkb, Some(A::SkSkbStreamParser), 0),
    ("sk_skb/stream_verdict", P::SkSkb, Some(A::SkSkbStreamVerdict), 0),
    ("sk_skb/verdict", P::SkSkb, Some(A::SkSkbVerdict), 0),
    ("sk_skb", P::SkSkb, None, 0),
    ("sk_msg", P::SkMsg, Some(A::SkMsgVerdict), 0),
    ("lirc_mode2", P::LircMode2, Some(A::LircMode2), 0),
    ("flow_dissector", P::FlowDissector, Some(A::FlowDissector), 0),
    ("cgroup_skb/ingress", P::CgroupSkb, Some(A::CgroupInetIngress), 0),
    ("cgroup_skb/egress", P::CgroupSkb, Some(A::CgroupInetEgress), 0),
    ("cgroup/skb", P::CgroupSkb, None, 0),
    ("cgroup/sock_create", P::CgroupSock, Some(A::CgroupInetSockCreate), 0),
    ("cgroup/sock_release", P::CgroupSock, Some(A::CgroupInetSockRelease), 0),
    ("cgroup/sock", P::CgroupSock, Some(A::CgroupInetSockCreate), 0),
    ("cgroup/post_bind4", P::CgroupSock, Some(A::CgroupInet4PostBind), 0),
    ("cgroup/post_bind6", P::CgroupSock, Some(A::CgroupInet6PostBind), 0),
    ("cgroup/bind4", P::CgroupSockAddr, Some(A::CgroupInet4Bind), 0),
    ("cgroup/bind6", P::CgroupSockAddr, Some(A::CgroupInet6Bind), 0),
    ("cgroup/connect4", P::CgroupSockAddr, Some(A::CgroupInet4Connect), 0),
    ("cgroup/connect6", P::CgroupSockAddr, Some(A::CgroupInet6Connect), 0),
    ("cgroup/connect_unix", P::CgroupSockAddr, Some(A::CgroupUnixConnect), 0),
    ("cgroup/sendmsg4", P::CgroupSockAddr, Some(A::CgroupUdp4Sendmsg), 0),
    ("cgroup/sendmsg6", P::CgroupSockAddr, Some(A::CgroupUdp6Sendmsg), 0),
    ("cgroup/sendmsg_unix", P::CgroupSockAddr, Some(A::CgroupUnixSendmsg), 0),
    ("cgroup/recvmsg4", P::CgroupSockAddr, Some(A::CgroupUdp4Recvmsg), 0),
    ("cgroup/recvmsg6", P::CgroupSockAddr, Some(A::CgroupUdp6Recvmsg), 0),
    ("cgroup/recvmsg_unix", P::CgroupSockAddr, Some(A::CgroupUnixRecvmsg), 0),
    ("cgroup/getpeername4", P::CgroupSockAddr, Some(A::CgroupInet4Getpeername), 0),
    ("cgroup/getpeername6", P::CgroupSockAddr, Some(A::CgroupInet6Getpeername), 0),
    ("cgroup/getpeername_unix", P::CgroupSockAddr, Some(A::CgroupUnixGetpeername), 0),
    ("cgroup/getsockname4", P::CgroupSockAddr, Some(A::CgroupInet4Getsockname), 0),
    ("cgroup/getsockname6", P::CgroupSockAddr, Some(A::CgroupInet6Getsockname), 0),
    ("cgroup/getsockname_unix", P::CgroupSockAddr, Some(A::CgroupUnixGetsockname), 0),
    ("cgroup/sysctl", P::CgroupSysctl, Some(A::CgroupSysctl), 0),
    ("cgroup/getsockopt", P::CgroupSockopt, Some(A::CgroupGetsockopt), 0),
    ("cgroup/setsockopt", P::CgroupSockopt, Some(A::CgroupSetsockopt), 0),
    ("cgroup/dev", P::CgroupDevice, Some(A::CgroupDevice), 0),
    ("struct_ops+", P::StructOps, None, 0),
    ("struct_ops.s+", P::StructOps, None, SLEEPABLE),
    ("sk_lookup", P::SkLookup, Some(A::SkLookup), 0),
    ("netfilter", P::Netfilter, Some(A::Netfilter), 0),
];

/// What a section name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sec {
    /// The table row that matched.
    pub def: &'static str,
    /// Program type.
    pub prog_type: P,
    /// `expected_attach_type`.
    pub attach_type: Option<A>,
    /// `prog_flags`.
    pub flags: u32,
    /// What follows the slash.
    pub target: Option<String>,
    /// False when the name begins with `?`: loaded on request only.
    pub autoload: bool,
}

/// Why a section name is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSec {
    /// Names that may have been meant.
    pub hint: String,
}

/// Names libbpf before 1.0 took by prefix, and what they are now.
#[rustfmt::skip]
const LEGACY: &[(&str, &str)] = &[
    ("maps", "use a BTF-defined map in SEC(\".maps\")"),
    ("cls", "use SEC(\"tc\")"),
    ("cgroup/", "use a full name such as SEC(\"cgroup_skb/ingress\")"),
    ("xdp", "use SEC(\"xdp\"), SEC(\"xdp.frags\"), SEC(\"xdp/devmap\") or SEC(\"xdp/cpumap\")"),
    ("classifier", "use SEC(\"tc\")"),
    ("tc", "use SEC(\"tc\"), SEC(\"tcx/ingress\") or SEC(\"tcx/egress\")"),
    ("action", "use SEC(\"action\")"),
    ("socket", "use SEC(\"socket\")"),
];

fn matches(def: &'static str, name: &str) -> Option<Option<String>> {
    let Some(prefix) = def.strip_suffix('+') else { return (def == name).then_some(None) };
    let rest = name.strip_prefix(prefix)?;
    match rest.strip_prefix('/') {
        Some(target) => Some(Some(target.to_owned())),
        None => rest.is_empty().then_some(None),
    }
}

/// Looks a section name up.
///
/// # Errors
/// When no row matches.
pub fn lookup(name: &str) -> Result<Sec, UnknownSec> {
    let (autoload, name) = match name.strip_prefix('?') {
        Some(rest) => (false, rest),
        None => (true, name),
    };
    for (def, prog_type, attach_type, flags) in SECTIONS {
        if let Some(target) = matches(def, name) {
            return Ok(Sec {
                def,
                prog_type: *prog_type,
                attach_type: *attach_type,
                flags: *flags,
                target,
                autoload,
            });
        }
    }
    let legacy = LEGACY.iter().find(|(prefix, _)| name.starts_with(prefix));
    Err(UnknownSec {
        hint: legacy.map_or_else(
            || "the SEC() names are those of libbpf 1.5".to_owned(),
            |(_, hint)| (*hint).to_owned(),
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let s = lookup("tracepoint/syscalls/sys_enter_openat").unwrap();
        assert_eq!(s.prog_type, P::Tracepoint);
        assert_eq!(s.target.as_deref(), Some("syscalls/sys_enter_openat"));
        assert_eq!(lookup("xdp.frags/devmap").unwrap().attach_type, Some(A::XdpDevmap));
        assert_eq!(lookup("xdp.frags").unwrap().flags, XDP_FRAGS);
        assert_eq!(lookup("lsm.s/file_open").unwrap().flags, SLEEPABLE);
        assert_eq!(lookup("uprobe.multi.s//bin/sh:main").unwrap().flags, SLEEPABLE);
        assert!(!lookup("?tc").unwrap().autoload);
        assert!(lookup("xdp_drop").unwrap_err().hint.contains("xdp.frags"));
        assert!(lookup("kprobes/x").is_err());
    }
}
