//! The user-space interface of bpf(2) as of Linux 6.18: numbers as enums, structures as tables.
//!
//! [`Cmd`] and [`attr`] are the commands with their halves of `union bpf_attr`, [`info`] what the
//! kernel answers with, [`fields`] how a structure is read and written in either byte order.

pub mod attr;
mod cmd;
pub mod fields;
pub mod info;

pub use cmd::Cmd;

/// `enum bpf_prog_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub enum ProgType {
    Unspec = 0,
    SocketFilter = 1,
    Kprobe = 2,
    SchedCls = 3,
    SchedAct = 4,
    Tracepoint = 5,
    Xdp = 6,
    PerfEvent = 7,
    CgroupSkb = 8,
    CgroupSock = 9,
    LwtIn = 10,
    LwtOut = 11,
    LwtXmit = 12,
    SockOps = 13,
    SkSkb = 14,
    CgroupDevice = 15,
    SkMsg = 16,
    RawTracepoint = 17,
    CgroupSockAddr = 18,
    LwtSeg6local = 19,
    LircMode2 = 20,
    SkReuseport = 21,
    FlowDissector = 22,
    CgroupSysctl = 23,
    RawTracepointWritable = 24,
    CgroupSockopt = 25,
    Tracing = 26,
    StructOps = 27,
    Ext = 28,
    Lsm = 29,
    SkLookup = 30,
    Syscall = 31,
    Netfilter = 32,
}

impl ProgType {
    /// All known values with the kernel's lower-case names.
    pub const TABLE: &'static [(ProgType, &'static str)] = &[
        (ProgType::Unspec, "unspec"),
        (ProgType::SocketFilter, "socket_filter"),
        (ProgType::Kprobe, "kprobe"),
        (ProgType::SchedCls, "sched_cls"),
        (ProgType::SchedAct, "sched_act"),
        (ProgType::Tracepoint, "tracepoint"),
        (ProgType::Xdp, "xdp"),
        (ProgType::PerfEvent, "perf_event"),
        (ProgType::CgroupSkb, "cgroup_skb"),
        (ProgType::CgroupSock, "cgroup_sock"),
        (ProgType::LwtIn, "lwt_in"),
        (ProgType::LwtOut, "lwt_out"),
        (ProgType::LwtXmit, "lwt_xmit"),
        (ProgType::SockOps, "sock_ops"),
        (ProgType::SkSkb, "sk_skb"),
        (ProgType::CgroupDevice, "cgroup_device"),
        (ProgType::SkMsg, "sk_msg"),
        (ProgType::RawTracepoint, "raw_tracepoint"),
        (ProgType::CgroupSockAddr, "cgroup_sock_addr"),
        (ProgType::LwtSeg6local, "lwt_seg6local"),
        (ProgType::LircMode2, "lirc_mode2"),
        (ProgType::SkReuseport, "sk_reuseport"),
        (ProgType::FlowDissector, "flow_dissector"),
        (ProgType::CgroupSysctl, "cgroup_sysctl"),
        (ProgType::RawTracepointWritable, "raw_tracepoint_writable"),
        (ProgType::CgroupSockopt, "cgroup_sockopt"),
        (ProgType::Tracing, "tracing"),
        (ProgType::StructOps, "struct_ops"),
        (ProgType::Ext, "ext"),
        (ProgType::Lsm, "lsm"),
        (ProgType::SkLookup, "sk_lookup"),
        (ProgType::Syscall, "syscall"),
        (ProgType::Netfilter, "netfilter"),
    ];

    /// From the UAPI number.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<ProgType> {
        ProgType::TABLE.iter().map(|r| r.0).find(|v| *v as u32 == raw)
    }

    /// From the kernel's lower-case name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<ProgType> {
        ProgType::TABLE.iter().find(|r| r.1 == name).map(|r| r.0)
    }

    /// The kernel's lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ProgType::TABLE.iter().find(|r| r.0 == self).map_or("?", |r| r.1)
    }
}

/// `enum bpf_map_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub enum MapType {
    Unspec = 0,
    Hash = 1,
    Array = 2,
    ProgArray = 3,
    PerfEventArray = 4,
    PercpuHash = 5,
    PercpuArray = 6,
    StackTrace = 7,
    CgroupArray = 8,
    LruHash = 9,
    LruPercpuHash = 10,
    LpmTrie = 11,
    ArrayOfMaps = 12,
    HashOfMaps = 13,
    Devmap = 14,
    Sockmap = 15,
    Cpumap = 16,
    Xskmap = 17,
    Sockhash = 18,
    CgroupStorage = 19,
    ReuseportSockarray = 20,
    PercpuCgroupStorage = 21,
    Queue = 22,
    Stack = 23,
    SkStorage = 24,
    DevmapHash = 25,
    StructOps = 26,
    Ringbuf = 27,
    InodeStorage = 28,
    TaskStorage = 29,
    BloomFilter = 30,
    UserRingbuf = 31,
    CgrpStorage = 32,
    Arena = 33,
    InsnArray = 34,
}

impl MapType {
    /// All known values with the kernel's lower-case names.
    pub const TABLE: &'static [(MapType, &'static str)] = &[
        (MapType::Unspec, "unspec"),
        (MapType::Hash, "hash"),
        (MapType::Array, "array"),
        (MapType::ProgArray, "prog_array"),
        (MapType::PerfEventArray, "perf_event_array"),
        (MapType::PercpuHash, "percpu_hash"),
        (MapType::PercpuArray, "percpu_array"),
        (MapType::StackTrace, "stack_trace"),
        (MapType::CgroupArray, "cgroup_array"),
        (MapType::LruHash, "lru_hash"),
        (MapType::LruPercpuHash, "lru_percpu_hash"),
        (MapType::LpmTrie, "lpm_trie"),
        (MapType::ArrayOfMaps, "array_of_maps"),
        (MapType::HashOfMaps, "hash_of_maps"),
        (MapType::Devmap, "devmap"),
        (MapType::Sockmap, "sockmap"),
        (MapType::Cpumap, "cpumap"),
        (MapType::Xskmap, "xskmap"),
        (MapType::Sockhash, "sockhash"),
        (MapType::CgroupStorage, "cgroup_storage"),
        (MapType::ReuseportSockarray, "reuseport_sockarray"),
        (MapType::PercpuCgroupStorage, "percpu_cgroup_storage"),
        (MapType::Queue, "queue"),
        (MapType::Stack, "stack"),
        (MapType::SkStorage, "sk_storage"),
        (MapType::DevmapHash, "devmap_hash"),
        (MapType::StructOps, "struct_ops"),
        (MapType::Ringbuf, "ringbuf"),
        (MapType::InodeStorage, "inode_storage"),
        (MapType::TaskStorage, "task_storage"),
        (MapType::BloomFilter, "bloom_filter"),
        (MapType::UserRingbuf, "user_ringbuf"),
        (MapType::CgrpStorage, "cgrp_storage"),
        (MapType::Arena, "arena"),
        (MapType::InsnArray, "insn_array"),
    ];

    /// From the UAPI number.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<MapType> {
        MapType::TABLE.iter().map(|r| r.0).find(|v| *v as u32 == raw)
    }

    /// From the kernel's lower-case name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<MapType> {
        MapType::TABLE.iter().find(|r| r.1 == name).map(|r| r.0)
    }

    /// The kernel's lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        MapType::TABLE.iter().find(|r| r.0 == self).map_or("?", |r| r.1)
    }
}

/// `enum bpf_attach_type`; 0 is also "none" for types that have no attach type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
#[allow(missing_docs, reason = "the names are the kernel's")]
pub enum AttachType {
    CgroupInetIngress = 0,
    CgroupInetEgress = 1,
    CgroupInetSockCreate = 2,
    CgroupSockOps = 3,
    SkSkbStreamParser = 4,
    SkSkbStreamVerdict = 5,
    CgroupDevice = 6,
    SkMsgVerdict = 7,
    CgroupInet4Bind = 8,
    CgroupInet6Bind = 9,
    CgroupInet4Connect = 10,
    CgroupInet6Connect = 11,
    CgroupInet4PostBind = 12,
    CgroupInet6PostBind = 13,
    CgroupUdp4Sendmsg = 14,
    CgroupUdp6Sendmsg = 15,
    LircMode2 = 16,
    FlowDissector = 17,
    CgroupSysctl = 18,
    CgroupUdp4Recvmsg = 19,
    CgroupUdp6Recvmsg = 20,
    CgroupGetsockopt = 21,
    CgroupSetsockopt = 22,
    TraceRawTp = 23,
    TraceFentry = 24,
    TraceFexit = 25,
    ModifyReturn = 26,
    LsmMac = 27,
    TraceIter = 28,
    CgroupInet4Getpeername = 29,
    CgroupInet6Getpeername = 30,
    CgroupInet4Getsockname = 31,
    CgroupInet6Getsockname = 32,
    XdpDevmap = 33,
    CgroupInetSockRelease = 34,
    XdpCpumap = 35,
    SkLookup = 36,
    Xdp = 37,
    SkSkbVerdict = 38,
    SkReuseportSelect = 39,
    SkReuseportSelectOrMigrate = 40,
    PerfEvent = 41,
    TraceKprobeMulti = 42,
    LsmCgroup = 43,
    StructOps = 44,
    Netfilter = 45,
    TcxIngress = 46,
    TcxEgress = 47,
    TraceUprobeMulti = 48,
    CgroupUnixConnect = 49,
    CgroupUnixSendmsg = 50,
    CgroupUnixRecvmsg = 51,
    CgroupUnixGetpeername = 52,
    CgroupUnixGetsockname = 53,
    NetkitPrimary = 54,
    NetkitPeer = 55,
    TraceKprobeSession = 56,
    TraceUprobeSession = 57,
}

impl AttachType {
    /// All known values with the kernel's lower-case names.
    pub const TABLE: &'static [(AttachType, &'static str)] = &[
        (AttachType::CgroupInetIngress, "cgroup_inet_ingress"),
        (AttachType::CgroupInetEgress, "cgroup_inet_egress"),
        (AttachType::CgroupInetSockCreate, "cgroup_inet_sock_create"),
        (AttachType::CgroupSockOps, "cgroup_sock_ops"),
        (AttachType::SkSkbStreamParser, "sk_skb_stream_parser"),
        (AttachType::SkSkbStreamVerdict, "sk_skb_stream_verdict"),
        (AttachType::CgroupDevice, "cgroup_device"),
        (AttachType::SkMsgVerdict, "sk_msg_verdict"),
        (AttachType::CgroupInet4Bind, "cgroup_inet4_bind"),
        (AttachType::CgroupInet6Bind, "cgroup_inet6_bind"),
        (AttachType::CgroupInet4Connect, "cgroup_inet4_connect"),
        (AttachType::CgroupInet6Connect, "cgroup_inet6_connect"),
        (AttachType::CgroupInet4PostBind, "cgroup_inet4_post_bind"),
        (AttachType::CgroupInet6PostBind, "cgroup_inet6_post_bind"),
        (AttachType::CgroupUdp4Sendmsg, "cgroup_udp4_sendmsg"),
        (AttachType::CgroupUdp6Sendmsg, "cgroup_udp6_sendmsg"),
        (AttachType::LircMode2, "lirc_mode2"),
        (AttachType::FlowDissector, "flow_dissector"),
        (AttachType::CgroupSysctl, "cgroup_sysctl"),
        (AttachType::CgroupUdp4Recvmsg, "cgroup_udp4_recvmsg"),
        (AttachType::CgroupUdp6Recvmsg, "cgroup_udp6_recvmsg"),
        (AttachType::CgroupGetsockopt, "cgroup_getsockopt"),
        (AttachType::CgroupSetsockopt, "cgroup_setsockopt"),
        (AttachType::TraceRawTp, "trace_raw_tp"),
        (AttachType::TraceFentry, "trace_fentry"),
        (AttachType::TraceFexit, "trace_fexit"),
        (AttachType::ModifyReturn, "modify_return"),
        (AttachType::LsmMac, "lsm_mac"),
        (AttachType::TraceIter, "trace_iter"),
        (AttachType::CgroupInet4Getpeername, "cgroup_inet4_getpeername"),
        (AttachType::CgroupInet6Getpeername, "cgroup_inet6_getpeername"),
        (AttachType::CgroupInet4Getsockname, "cgroup_inet4_getsockname"),
        (AttachType::CgroupInet6Getsockname, "cgroup_inet6_getsockname"),
        (AttachType::XdpDevmap, "xdp_devmap"),
        (AttachType::CgroupInetSockRelease, "cgroup_inet_sock_release"),
        (AttachType::XdpCpumap, "xdp_cpumap"),
        (AttachType::SkLookup, "sk_lookup"),
        (AttachType::Xdp, "xdp"),
        (AttachType::SkSkbVerdict, "sk_skb_verdict"),
        (AttachType::SkReuseportSelect, "sk_reuseport_select"),
        (AttachType::SkReuseportSelectOrMigrate, "sk_reuseport_select_or_migrate"),
        (AttachType::PerfEvent, "perf_event"),
        (AttachType::TraceKprobeMulti, "trace_kprobe_multi"),
        (AttachType::LsmCgroup, "lsm_cgroup"),
        (AttachType::StructOps, "struct_ops"),
        (AttachType::Netfilter, "netfilter"),
        (AttachType::TcxIngress, "tcx_ingress"),
        (AttachType::TcxEgress, "tcx_egress"),
        (AttachType::TraceUprobeMulti, "trace_uprobe_multi"),
        (AttachType::CgroupUnixConnect, "cgroup_unix_connect"),
        (AttachType::CgroupUnixSendmsg, "cgroup_unix_sendmsg"),
        (AttachType::CgroupUnixRecvmsg, "cgroup_unix_recvmsg"),
        (AttachType::CgroupUnixGetpeername, "cgroup_unix_getpeername"),
        (AttachType::CgroupUnixGetsockname, "cgroup_unix_getsockname"),
        (AttachType::NetkitPrimary, "netkit_primary"),
        (AttachType::NetkitPeer, "netkit_peer"),
        (AttachType::TraceKprobeSession, "trace_kprobe_session"),
        (AttachType::TraceUprobeSession, "trace_uprobe_session"),
    ];

    /// From the UAPI number.
    #[must_use]
    pub fn from_raw(raw: u32) -> Option<AttachType> {
        AttachType::TABLE.iter().map(|r| r.0).find(|v| *v as u32 == raw)
    }

    /// From the kernel's lower-case name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<AttachType> {
        AttachType::TABLE.iter().find(|r| r.1 == name).map(|r| r.0)
    }

    /// The kernel's lower-case name.
    #[must_use]
    pub fn name(self) -> &'static str {
        AttachType::TABLE.iter().find(|r| r.0 == self).map_or("?", |r| r.1)
    }
}

#[cfg(test)]
mod tests {
    use super::attr::{ATTR_SIZE, MapElem, ProgLoad, TestRun};
    use super::fields::Struct;
    use super::info::{MapInfo, ProgInfo};
    use crate::Endian;

    fn fields_do_not_overlap<S: Struct>() {
        let mut fields = S::FIELDS.to_vec();
        fields.sort_by_key(|f| f.1);
        for pair in fields.windows(2) {
            assert!(pair[0].1 + pair[0].2 <= pair[1].1, "{}: {pair:?}", S::NAME);
        }
        assert!(S::END <= S::SIZE, "{}", S::NAME);
    }

    #[test]
    fn structures_have_room_for_their_fields() {
        fields_do_not_overlap::<ProgLoad>();
        fields_do_not_overlap::<TestRun>();
        fields_do_not_overlap::<ProgInfo>();
        fields_do_not_overlap::<MapInfo>();
        assert_eq!(ProgLoad::END, ATTR_SIZE);
    }

    #[test]
    fn both_byte_orders_read_back() {
        let a = MapElem { map_fd: 3, key: 0x1122_3344_5566_7788, value: 2, flags: 1 };
        for endian in [Endian::Little, Endian::Big] {
            let bytes = a.encode(endian);
            assert_eq!(MapElem::decode(&bytes, endian), a);
            assert_eq!(bytes[8], if endian == Endian::Big { 0x11 } else { 0x88 });
        }
        // A caller that knows less: the rest reads as zero.
        let short = &a.encode(Endian::Big)[..12];
        let read = MapElem::decode(short, Endian::Big);
        assert_eq!((read.key, read.flags), (0x1122_3344_0000_0000, 0));
    }
}
