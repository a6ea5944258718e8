//! tidy: table
//!
//! Helper prototypes: arguments and returns as the kernel 6.12 declares them, `gpl_only` as measured
//! on 6.18. One row per helper and distinct signature; a row with program types comes before the
//! general one of the same id.

use super::rows::*;
use crate::proto::{ArgBase, ArgType, Flags, RetBase, RetType};
use bpf::uapi::ProgType;

const NO: Flags = Flags::NONE;
const NULL: Flags = Flags::PTR_MAYBE_NULL;
const RDONLY: Flags = Flags::MEM_RDONLY;
const UNINIT: Flags = Flags::MEM_UNINIT;
const WRITE: Flags = Flags::MEM_WRITE;
const ALIGNED: Flags = Flags::MEM_ALIGNED;
const RELEASE: Flags = Flags::OBJ_RELEASE;
const TRUSTED: Flags = Flags::PTR_TRUSTED;
const LOCAL: Flags = Flags::DYNPTR_TYPE_LOCAL;
const RINGBUF: Flags = Flags::DYNPTR_TYPE_RINGBUF;
const MEM_RINGBUF: Flags = Flags::MEM_RINGBUF;
const NONE: ArgType = arg(ArgBase::DontCare, NO);
const INTEGER: RetType = ret(RetBase::Integer, NO);
const VOID: RetType = ret(RetBase::Void, NO);
const ANYTHING: ArgType = arg(ArgBase::Anything, NO);
const BTF_ID_SOCK_COMMON: ArgType = arg(ArgBase::PtrToBtfIdSockCommon, NO);
const BTF_ID_SOCK_COMMON_NULL: ArgType = arg(ArgBase::PtrToBtfIdSockCommon, NULL);
const BTF_ID_SOCK_COMMON_RELEASE: ArgType = arg(ArgBase::PtrToBtfIdSockCommon, RELEASE);
const CONST_ALLOC_SIZE_OR_ZERO: ArgType = arg(ArgBase::ConstAllocSizeOrZero, NO);
const CONST_MAP_PTR: ArgType = arg(ArgBase::ConstMapPtr, NO);
const CONST_SIZE: ArgType = arg(ArgBase::ConstSize, NO);
const CONST_SIZE_OR_ZERO: ArgType = arg(ArgBase::ConstSizeOrZero, NO);
const CONST_STR: ArgType = arg(ArgBase::PtrToConstStr, NO);
const CTX: ArgType = arg(ArgBase::PtrToCtx, NO);
const CTX_NULL: ArgType = arg(ArgBase::PtrToCtx, NULL);
const DYNPTR_LOCAL_UNINIT_WRITE: ArgType = arg(ArgBase::PtrToDynptr, LOCAL.or(UNINIT).or(WRITE));
const DYNPTR_RDONLY: ArgType = arg(ArgBase::PtrToDynptr, RDONLY);
const DYNPTR_RINGBUF_RELEASE: ArgType = arg(ArgBase::PtrToDynptr, RINGBUF.or(RELEASE));
const DYNPTR_RINGBUF_UNINIT_WRITE: ArgType =
    arg(ArgBase::PtrToDynptr, RINGBUF.or(UNINIT).or(WRITE));
const FUNC: ArgType = arg(ArgBase::PtrToFunc, NO);
const KPTR_XCHG_DEST: ArgType = arg(ArgBase::KptrXchgDest, NO);
const MAP_KEY: ArgType = arg(ArgBase::PtrToMapKey, NO);
const MAP_VALUE: ArgType = arg(ArgBase::PtrToMapValue, NO);
const MAP_VALUE_NULL: ArgType = arg(ArgBase::PtrToMapValue, NULL);
const MAP_VALUE_UNINIT_WRITE: ArgType = arg(ArgBase::PtrToMapValue, UNINIT.or(WRITE));
const MEM: ArgType = arg(ArgBase::PtrToMem, NO);
const MEM_NULL: ArgType = arg(ArgBase::PtrToMem, NULL);
const MEM_NULL_RDONLY: ArgType = arg(ArgBase::PtrToMem, NULL.or(RDONLY));
const MEM_RDONLY: ArgType = arg(ArgBase::PtrToMem, RDONLY);
const MEM_UNINIT_WRITE: ArgType = arg(ArgBase::PtrToMem, UNINIT.or(WRITE));
const MEM_WRITE: ArgType = arg(ArgBase::PtrToMem, WRITE);
const PERCPU_BTF_ID: ArgType = arg(ArgBase::PtrToPercpuBtfId, NO);
const RINGBUF_MEM_RELEASE: ArgType = arg(ArgBase::PtrToRingbufMem, RELEASE);
const SOCKET_NULL: ArgType = arg(ArgBase::PtrToSocket, NULL);
const SOCK_COMMON: ArgType = arg(ArgBase::PtrToSockCommon, NO);
const SPIN_LOCK: ArgType = arg(ArgBase::PtrToSpinLock, NO);
const STACK_NULL: ArgType = arg(ArgBase::PtrToStack, NULL);
const TIMER: ArgType = arg(ArgBase::PtrToTimer, NO);

/// All helpers, ordered by id.
#[rustfmt::skip]
pub(super) const HELPERS: &[Row] = &[
    row(1, "bpf_map_lookup_elem", ret(RetBase::PtrToMapValue, NULL), [CONST_MAP_PTR, MAP_KEY, NONE, NONE, NONE], PKT, &[]),
    row(2, "bpf_map_update_elem", INTEGER, [CONST_MAP_PTR, MAP_KEY, MAP_VALUE, ANYTHING, NONE], PKT, &[]),
    row(3, "bpf_map_delete_elem", INTEGER, [CONST_MAP_PTR, MAP_KEY, NONE, NONE, NONE], PKT, &[]),
    row(4, "bpf_probe_read", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, NONE, NONE], GPL, &[]),
    row(5, "bpf_ktime_get_ns", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(6, "bpf_trace_printk", INTEGER, [MEM_RDONLY, CONST_SIZE, NONE, NONE, NONE], GPL, &[]),
    row(7, "bpf_get_prandom_u32", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(8, "bpf_get_smp_processor_id", INTEGER, [NONE, NONE, NONE, NONE, NONE], FASTCALL, &[ProgType::Kprobe, ProgType::Tracepoint, ProgType::PerfEvent, ProgType::RawTracepoint, ProgType::RawTracepointWritable, ProgType::Tracing, ProgType::Lsm, ProgType::LwtOut, ProgType::SchedCls, ProgType::SchedAct, ProgType::Xdp]),
    row(8, "bpf_get_smp_processor_id", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(9, "bpf_skb_store_bytes", INTEGER, [CTX, ANYTHING, MEM_RDONLY, CONST_SIZE, ANYTHING], CHANGES_PKT, &[]),
    row(10, "bpf_l3_csum_replace", INTEGER, [CTX, ANYTHING, ANYTHING, ANYTHING, ANYTHING], CHANGES_PKT, &[]),
    row(11, "bpf_l4_csum_replace", INTEGER, [CTX, ANYTHING, ANYTHING, ANYTHING, ANYTHING], CHANGES_PKT, &[]),
    row(12, "bpf_tail_call", VOID, [CTX, CONST_MAP_PTR, ANYTHING, NONE, NONE], CHANGES_PKT, &[]),
    row(13, "bpf_clone_redirect", INTEGER, [CTX, ANYTHING, ANYTHING, NONE, NONE], CHANGES_PKT, &[]),
    row(14, "bpf_get_current_pid_tgid", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(15, "bpf_get_current_uid_gid", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(16, "bpf_get_current_comm", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE, NONE, NONE, NONE], 0, &[]),
    row(17, "bpf_get_cgroup_classid", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[ProgType::LwtOut, ProgType::SchedCls, ProgType::SchedAct]),
    row(17, "bpf_get_cgroup_classid", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(18, "bpf_skb_vlan_push", INTEGER, [CTX, ANYTHING, ANYTHING, NONE, NONE], CHANGES_PKT, &[]),
    row(19, "bpf_skb_vlan_pop", INTEGER, [CTX, NONE, NONE, NONE, NONE], CHANGES_PKT, &[]),
    row(20, "bpf_skb_get_tunnel_key", INTEGER, [CTX, MEM_UNINIT_WRITE, CONST_SIZE, ANYTHING, NONE], 0, &[]),
    row(21, "bpf_skb_set_tunnel_key", INTEGER, [CTX, MEM_RDONLY, CONST_SIZE, ANYTHING, NONE], 0, &[]),
    row(22, "bpf_perf_event_read", INTEGER, [CONST_MAP_PTR, ANYTHING, NONE, NONE, NONE], GPL, &[]),
    row(23, "bpf_redirect", INTEGER, [ANYTHING, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(24, "bpf_get_route_realm", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[]),
    row(25, "bpf_perf_event_output", INTEGER, [CTX, CONST_MAP_PTR, ANYTHING, MEM_RDONLY, CONST_SIZE_OR_ZERO], GPL, &[]),
    row(26, "bpf_skb_load_bytes", INTEGER, [CTX, ANYTHING, MEM_UNINIT_WRITE, CONST_SIZE, NONE], 0, &[]),
    row(27, "bpf_get_stackid", INTEGER, [CTX, CONST_MAP_PTR, ANYTHING, NONE, NONE], 0, &[ProgType::PerfEvent]),
    row(27, "bpf_get_stackid", INTEGER, [CTX, CONST_MAP_PTR, ANYTHING, NONE, NONE], GPL, &[]),
    row(28, "bpf_csum_diff", INTEGER, [MEM_NULL_RDONLY, CONST_SIZE_OR_ZERO, MEM_NULL_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING], PKT, &[]),
    row(29, "bpf_skb_get_tunnel_opt", INTEGER, [CTX, MEM_UNINIT_WRITE, CONST_SIZE, NONE, NONE], 0, &[]),
    row(30, "bpf_skb_set_tunnel_opt", INTEGER, [CTX, MEM_RDONLY, CONST_SIZE, NONE, NONE], 0, &[]),
    row(31, "bpf_skb_change_proto", INTEGER, [CTX, ANYTHING, ANYTHING, NONE, NONE], CHANGES_PKT, &[]),
    row(32, "bpf_skb_change_type", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(33, "bpf_skb_under_cgroup", INTEGER, [CTX, CONST_MAP_PTR, ANYTHING, NONE, NONE], 0, &[]),
    row(34, "bpf_get_hash_recalc", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[]),
    row(35, "bpf_get_current_task", INTEGER, [NONE, NONE, NONE, NONE, NONE], GPL, &[]),
    row(36, "bpf_probe_write_user", INTEGER, [ANYTHING, MEM_RDONLY, CONST_SIZE, NONE, NONE], GPL, &[]),
    row(37, "bpf_current_task_under_cgroup", INTEGER, [CONST_MAP_PTR, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(38, "bpf_skb_change_tail", INTEGER, [CTX, ANYTHING, ANYTHING, NONE, NONE], CHANGES_PKT, &[]),
    row(39, "bpf_skb_pull_data", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], CHANGES_PKT, &[]),
    row(40, "bpf_csum_update", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(41, "bpf_set_hash_invalid", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[]),
    row(42, "bpf_get_numa_node_id", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(43, "bpf_skb_change_head", INTEGER, [CTX, ANYTHING, ANYTHING, NONE, NONE], CHANGES_PKT, &[]),
    row(44, "bpf_xdp_adjust_head", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], CHANGES_PKT, &[]),
    row(45, "bpf_probe_read_str", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, NONE, NONE], GPL, &[]),
    row(46, "bpf_get_socket_cookie", INTEGER, [BTF_ID_SOCK_COMMON_NULL, NONE, NONE, NONE, NONE], 0, &[ProgType::SkReuseport, ProgType::Tracing, ProgType::Lsm]),
    row(46, "bpf_get_socket_cookie", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[]),
    row(47, "bpf_get_socket_uid", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[]),
    row(48, "bpf_set_hash", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(49, "bpf_setsockopt", INTEGER, [CTX, ANYTHING, ANYTHING, MEM_RDONLY, CONST_SIZE], 0, &[ProgType::CgroupSockAddr, ProgType::SockOps]),
    row(49, "bpf_setsockopt", INTEGER, [BTF_ID_SOCK_COMMON, ANYTHING, ANYTHING, MEM_RDONLY, CONST_SIZE], 0, &[]),
    row(50, "bpf_skb_adjust_room", INTEGER, [CTX, ANYTHING, ANYTHING, ANYTHING, NONE], CHANGES_PKT, &[]),
    row(51, "bpf_redirect_map", INTEGER, [CONST_MAP_PTR, ANYTHING, ANYTHING, NONE, NONE], 0, &[]),
    row(52, "bpf_sk_redirect_map", INTEGER, [CTX, CONST_MAP_PTR, ANYTHING, ANYTHING, NONE], 0, &[]),
    row(53, "bpf_sock_map_update", INTEGER, [CTX, CONST_MAP_PTR, MAP_KEY, ANYTHING, NONE], PKT, &[]),
    row(54, "bpf_xdp_adjust_meta", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], CHANGES_PKT, &[]),
    row(55, "bpf_perf_event_read_value", INTEGER, [CONST_MAP_PTR, ANYTHING, MEM_UNINIT_WRITE, CONST_SIZE, NONE], GPL, &[]),
    row(56, "bpf_perf_prog_read_value", INTEGER, [CTX, MEM_UNINIT_WRITE, CONST_SIZE, NONE, NONE], GPL, &[]),
    row(57, "bpf_getsockopt", INTEGER, [CTX, ANYTHING, ANYTHING, MEM_UNINIT_WRITE, CONST_SIZE], 0, &[ProgType::CgroupSockAddr, ProgType::SockOps]),
    row(57, "bpf_getsockopt", INTEGER, [BTF_ID_SOCK_COMMON, ANYTHING, ANYTHING, MEM_UNINIT_WRITE, CONST_SIZE], 0, &[]),
    row(58, "bpf_override_return", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], GPL, &[]),
    row(59, "bpf_sock_ops_cb_flags_set", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(60, "bpf_msg_redirect_map", INTEGER, [CTX, CONST_MAP_PTR, ANYTHING, ANYTHING, NONE], 0, &[]),
    row(61, "bpf_msg_apply_bytes", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(62, "bpf_msg_cork_bytes", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(63, "bpf_msg_pull_data", INTEGER, [CTX, ANYTHING, ANYTHING, ANYTHING, NONE], CHANGES_PKT, &[]),
    row(64, "bpf_bind", INTEGER, [CTX, MEM_RDONLY, CONST_SIZE, NONE, NONE], 0, &[]),
    row(65, "bpf_xdp_adjust_tail", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], CHANGES_PKT, &[]),
    row(66, "bpf_skb_get_xfrm_state", INTEGER, [CTX, ANYTHING, MEM_UNINIT_WRITE, CONST_SIZE, ANYTHING], 0, &[]),
    row(67, "bpf_get_stack", INTEGER, [CTX, MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, NONE], GPL, &[]),
    row(68, "bpf_skb_load_bytes_relative", INTEGER, [CTX, ANYTHING, MEM_UNINIT_WRITE, CONST_SIZE, ANYTHING], 0, &[]),
    row(69, "bpf_fib_lookup", INTEGER, [CTX, MEM, CONST_SIZE, ANYTHING, NONE], GPL, &[]),
    row(70, "bpf_sock_hash_update", INTEGER, [CTX, CONST_MAP_PTR, MAP_KEY, ANYTHING, NONE], PKT, &[]),
    row(71, "bpf_msg_redirect_hash", INTEGER, [CTX, CONST_MAP_PTR, MAP_KEY, ANYTHING, NONE], 0, &[]),
    row(72, "bpf_sk_redirect_hash", INTEGER, [CTX, CONST_MAP_PTR, MAP_KEY, ANYTHING, NONE], 0, &[]),
    row(73, "bpf_lwt_push_encap", INTEGER, [CTX, ANYTHING, MEM_RDONLY, CONST_SIZE, NONE], CHANGES_PKT, &[]),
    row(74, "bpf_lwt_seg6_store_bytes", INTEGER, [CTX, ANYTHING, MEM_RDONLY, CONST_SIZE, NONE], CHANGES_PKT, &[]),
    row(75, "bpf_lwt_seg6_adjust_srh", INTEGER, [CTX, ANYTHING, ANYTHING, NONE, NONE], CHANGES_PKT, &[]),
    row(76, "bpf_lwt_seg6_action", INTEGER, [CTX, ANYTHING, MEM_RDONLY, CONST_SIZE, NONE], CHANGES_PKT, &[]),
    row(77, "bpf_rc_repeat", INTEGER, [CTX, NONE, NONE, NONE, NONE], GPL, &[]),
    row(78, "bpf_rc_keydown", INTEGER, [CTX, ANYTHING, ANYTHING, ANYTHING, NONE], GPL, &[]),
    row(79, "bpf_skb_cgroup_id", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[]),
    row(80, "bpf_get_current_cgroup_id", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(81, "bpf_get_local_storage", ret(RetBase::PtrToMapValue, NO), [CONST_MAP_PTR, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(82, "bpf_sk_select_reuseport", INTEGER, [CTX, CONST_MAP_PTR, MAP_KEY, ANYTHING, NONE], 0, &[]),
    row(83, "bpf_skb_ancestor_cgroup_id", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(84, "bpf_sk_lookup_tcp", ret(RetBase::PtrToSocket, NULL), [CTX, MEM_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING, ANYTHING], 0, &[ProgType::CgroupSockAddr]),
    row(84, "bpf_sk_lookup_tcp", ret(RetBase::PtrToSocket, NULL), [CTX, MEM_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING, ANYTHING], PKT, &[]),
    row(85, "bpf_sk_lookup_udp", ret(RetBase::PtrToSocket, NULL), [CTX, MEM_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING, ANYTHING], 0, &[ProgType::CgroupSockAddr]),
    row(85, "bpf_sk_lookup_udp", ret(RetBase::PtrToSocket, NULL), [CTX, MEM_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING, ANYTHING], PKT, &[]),
    row(86, "bpf_sk_release", INTEGER, [BTF_ID_SOCK_COMMON_RELEASE, NONE, NONE, NONE, NONE], 0, &[]),
    row(87, "bpf_map_push_elem", INTEGER, [CONST_MAP_PTR, MAP_VALUE, ANYTHING, NONE, NONE], PKT, &[]),
    row(88, "bpf_map_pop_elem", INTEGER, [CONST_MAP_PTR, MAP_VALUE_UNINIT_WRITE, NONE, NONE, NONE], 0, &[]),
    row(89, "bpf_map_peek_elem", INTEGER, [CONST_MAP_PTR, MAP_VALUE_UNINIT_WRITE, NONE, NONE, NONE], 0, &[]),
    row(90, "bpf_msg_push_data", INTEGER, [CTX, ANYTHING, ANYTHING, ANYTHING, NONE], CHANGES_PKT, &[]),
    row(91, "bpf_msg_pop_data", INTEGER, [CTX, ANYTHING, ANYTHING, ANYTHING, NONE], CHANGES_PKT, &[]),
    row(92, "bpf_rc_pointer_rel", INTEGER, [CTX, ANYTHING, ANYTHING, NONE, NONE], GPL, &[]),
    row(93, "bpf_spin_lock", VOID, [SPIN_LOCK, NONE, NONE, NONE, NONE], 0, &[]),
    row(94, "bpf_spin_unlock", VOID, [SPIN_LOCK, NONE, NONE, NONE, NONE], 0, &[]),
    row(95, "bpf_sk_fullsock", ret(RetBase::PtrToSocket, NULL), [SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(96, "bpf_tcp_sock", ret(RetBase::PtrToTcpSock, NULL), [SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(97, "bpf_skb_ecn_set_ce", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[]),
    row(98, "bpf_get_listener_sock", ret(RetBase::PtrToSocket, NULL), [SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(99, "bpf_skc_lookup_tcp", ret(RetBase::PtrToSockCommon, NULL), [CTX, MEM_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING, ANYTHING], 0, &[ProgType::CgroupSockAddr]),
    row(99, "bpf_skc_lookup_tcp", ret(RetBase::PtrToSockCommon, NULL), [CTX, MEM_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING, ANYTHING], PKT, &[]),
    row(100, "bpf_tcp_check_syncookie", INTEGER, [BTF_ID_SOCK_COMMON, MEM_RDONLY, CONST_SIZE, MEM_RDONLY, CONST_SIZE], GPL | PKT, &[]),
    row(101, "bpf_sysctl_get_name", INTEGER, [CTX, MEM_WRITE, CONST_SIZE, ANYTHING, NONE], 0, &[]),
    row(102, "bpf_sysctl_get_current_value", INTEGER, [CTX, MEM_UNINIT_WRITE, CONST_SIZE, NONE, NONE], 0, &[]),
    row(103, "bpf_sysctl_get_new_value", INTEGER, [CTX, MEM_UNINIT_WRITE, CONST_SIZE, NONE, NONE], 0, &[]),
    row(104, "bpf_sysctl_set_new_value", INTEGER, [CTX, MEM_RDONLY, CONST_SIZE, NONE, NONE], 0, &[]),
    row(105, "bpf_strtol", INTEGER, [MEM_RDONLY, CONST_SIZE, ANYTHING, fixed(UNINIT.or(WRITE).or(ALIGNED), 8), NONE], 0, &[]),
    row(106, "bpf_strtoul", INTEGER, [MEM_RDONLY, CONST_SIZE, ANYTHING, fixed(UNINIT.or(WRITE).or(ALIGNED), 8), NONE], 0, &[]),
    row(107, "bpf_sk_storage_get", ret(RetBase::PtrToMapValue, NULL), [CONST_MAP_PTR, CTX, MAP_VALUE_NULL, ANYTHING, NONE], 0, &[ProgType::CgroupSock]),
    row(107, "bpf_sk_storage_get", ret(RetBase::PtrToMapValue, NULL), [CONST_MAP_PTR, btf(NULL, "sock_common"), MAP_VALUE_NULL, ANYTHING, NONE], 0, &[ProgType::Tracing]),
    row(107, "bpf_sk_storage_get", ret(RetBase::PtrToMapValue, NULL), [CONST_MAP_PTR, BTF_ID_SOCK_COMMON, MAP_VALUE_NULL, ANYTHING, NONE], 0, &[]),
    row(108, "bpf_sk_storage_delete", INTEGER, [CONST_MAP_PTR, btf(NULL, "sock_common"), NONE, NONE, NONE], 0, &[ProgType::Tracing]),
    row(108, "bpf_sk_storage_delete", INTEGER, [CONST_MAP_PTR, BTF_ID_SOCK_COMMON, NONE, NONE, NONE], 0, &[]),
    row(109, "bpf_send_signal", INTEGER, [ANYTHING, NONE, NONE, NONE, NONE], 0, &[]),
    row(110, "bpf_tcp_gen_syncookie", INTEGER, [BTF_ID_SOCK_COMMON, MEM_RDONLY, CONST_SIZE, MEM_RDONLY, CONST_SIZE], GPL | PKT, &[]),
    row(111, "bpf_skb_output", INTEGER, [btf(NO, "sk_buff"), CONST_MAP_PTR, ANYTHING, MEM_RDONLY, CONST_SIZE_OR_ZERO], GPL, &[]),
    row(112, "bpf_probe_read_user", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, NONE, NONE], GPL, &[]),
    row(113, "bpf_probe_read_kernel", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, NONE, NONE], GPL, &[]),
    row(114, "bpf_probe_read_user_str", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, NONE, NONE], GPL, &[]),
    row(115, "bpf_probe_read_kernel_str", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, NONE, NONE], GPL, &[]),
    row(116, "bpf_tcp_send_ack", INTEGER, [btf(NO, "tcp_sock"), ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(117, "bpf_send_signal_thread", INTEGER, [ANYTHING, NONE, NONE, NONE, NONE], 0, &[]),
    row(118, "bpf_jiffies64", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(119, "bpf_read_branch_records", INTEGER, [CTX, MEM_NULL, CONST_SIZE_OR_ZERO, ANYTHING, NONE], GPL, &[]),
    row(120, "bpf_get_ns_current_pid_tgid", INTEGER, [ANYTHING, ANYTHING, MEM_UNINIT_WRITE, CONST_SIZE, NONE], 0, &[]),
    row(121, "bpf_xdp_output", INTEGER, [btf(NO, "xdp_buff"), CONST_MAP_PTR, ANYTHING, MEM_RDONLY, CONST_SIZE_OR_ZERO], GPL, &[]),
    row(122, "bpf_get_netns_cookie", INTEGER, [CTX_NULL, NONE, NONE, NONE, NONE], 0, &[]),
    row(123, "bpf_get_current_ancestor_cgroup_id", INTEGER, [ANYTHING, NONE, NONE, NONE, NONE], 0, &[]),
    row(124, "bpf_sk_assign", INTEGER, [CTX, SOCKET_NULL, ANYTHING, NONE, NONE], 0, &[ProgType::SkLookup]),
    row(124, "bpf_sk_assign", INTEGER, [CTX, BTF_ID_SOCK_COMMON, ANYTHING, NONE, NONE], 0, &[]),
    row(125, "bpf_ktime_get_boot_ns", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(126, "bpf_seq_printf", INTEGER, [btf(NO, "seq_file"), MEM_RDONLY, CONST_SIZE, MEM_NULL_RDONLY, CONST_SIZE_OR_ZERO], GPL, &[]),
    row(127, "bpf_seq_write", INTEGER, [btf(NO, "seq_file"), MEM_RDONLY, CONST_SIZE_OR_ZERO, NONE, NONE], GPL, &[]),
    row(128, "bpf_sk_cgroup_id", INTEGER, [BTF_ID_SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(129, "bpf_sk_ancestor_cgroup_id", INTEGER, [BTF_ID_SOCK_COMMON, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(130, "bpf_ringbuf_output", INTEGER, [CONST_MAP_PTR, MEM_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING, NONE], 0, &[]),
    row(131, "bpf_ringbuf_reserve", ret(RetBase::PtrToMem, NULL.or(MEM_RINGBUF)), [CONST_MAP_PTR, CONST_ALLOC_SIZE_OR_ZERO, ANYTHING, NONE, NONE], 0, &[]),
    row(132, "bpf_ringbuf_submit", VOID, [RINGBUF_MEM_RELEASE, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(133, "bpf_ringbuf_discard", VOID, [RINGBUF_MEM_RELEASE, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(134, "bpf_ringbuf_query", INTEGER, [CONST_MAP_PTR, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(135, "bpf_csum_level", INTEGER, [CTX, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(136, "bpf_skc_to_tcp6_sock", ret_btf(NULL, "tcp6_sock"), [BTF_ID_SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(137, "bpf_skc_to_tcp_sock", ret_btf(NULL, "tcp_sock"), [BTF_ID_SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(138, "bpf_skc_to_tcp_timewait_sock", ret_btf(NULL, "tcp_timewait_sock"), [BTF_ID_SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(139, "bpf_skc_to_tcp_request_sock", ret_btf(NULL, "tcp_request_sock"), [BTF_ID_SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(140, "bpf_skc_to_udp6_sock", ret_btf(NULL, "udp6_sock"), [BTF_ID_SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(141, "bpf_get_task_stack", INTEGER, [btf(NO, "task_struct"), MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, NONE], 0, &[]),
    row(142, "bpf_load_hdr_opt", INTEGER, [CTX, MEM_WRITE, CONST_SIZE, ANYTHING, NONE], 0, &[]),
    row(143, "bpf_store_hdr_opt", INTEGER, [CTX, MEM_RDONLY, CONST_SIZE, ANYTHING, NONE], CHANGES_PKT, &[]),
    row(144, "bpf_reserve_hdr_opt", INTEGER, [CTX, ANYTHING, ANYTHING, NONE, NONE], 0, &[]),
    row(145, "bpf_inode_storage_get", ret(RetBase::PtrToMapValue, NULL), [CONST_MAP_PTR, btf(NULL, "inode"), MAP_VALUE_NULL, ANYTHING, NONE], 0, &[]),
    row(146, "bpf_inode_storage_delete", INTEGER, [CONST_MAP_PTR, btf(NULL, "inode"), NONE, NONE, NONE], 0, &[]),
    row(147, "bpf_d_path", INTEGER, [btf(NO, "path"), MEM, CONST_SIZE_OR_ZERO, NONE, NONE], 0, &[]),
    row(148, "bpf_copy_from_user", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, NONE, NONE], SLEEP, &[]),
    row(149, "bpf_snprintf_btf", INTEGER, [MEM, CONST_SIZE, MEM_RDONLY, CONST_SIZE, ANYTHING], 0, &[]),
    row(150, "bpf_seq_printf_btf", INTEGER, [btf(NO, "seq_file"), MEM_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING, NONE], GPL, &[]),
    row(151, "bpf_skb_cgroup_classid", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[]),
    row(152, "bpf_redirect_neigh", INTEGER, [ANYTHING, MEM_NULL_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING, NONE], 0, &[]),
    row(153, "bpf_per_cpu_ptr", ret(RetBase::PtrToMemOrBtfId, NULL.or(RDONLY)), [PERCPU_BTF_ID, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(154, "bpf_this_cpu_ptr", ret(RetBase::PtrToMemOrBtfId, RDONLY), [PERCPU_BTF_ID, NONE, NONE, NONE, NONE], 0, &[]),
    row(155, "bpf_redirect_peer", INTEGER, [ANYTHING, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(156, "bpf_task_storage_get", ret(RetBase::PtrToMapValue, NULL), [CONST_MAP_PTR, btf(NULL, "task_struct"), MAP_VALUE_NULL, ANYTHING, NONE], 0, &[]),
    row(157, "bpf_task_storage_delete", INTEGER, [CONST_MAP_PTR, btf(NULL, "task_struct"), NONE, NONE, NONE], 0, &[]),
    row(158, "bpf_get_current_task_btf", ret_btf(TRUSTED, "task_struct"), [NONE, NONE, NONE, NONE, NONE], GPL, &[]),
    row(159, "bpf_bprm_opts_set", INTEGER, [btf(NO, "linux_binprm"), ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(160, "bpf_ktime_get_coarse_ns", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(161, "bpf_ima_inode_hash", INTEGER, [btf(NO, "inode"), MEM_UNINIT_WRITE, CONST_SIZE, NONE, NONE], SLEEP, &[]),
    row(162, "bpf_sock_from_file", ret_btf(NULL, "socket"), [btf(NO, "file"), NONE, NONE, NONE, NONE], 0, &[]),
    row(163, "bpf_check_mtu", INTEGER, [CTX, ANYTHING, fixed(WRITE.or(ALIGNED), 4), ANYTHING, ANYTHING], GPL, &[]),
    row(164, "bpf_for_each_map_elem", INTEGER, [CONST_MAP_PTR, FUNC, STACK_NULL, ANYTHING, NONE], 0, &[]),
    row(165, "bpf_snprintf", INTEGER, [MEM_NULL, CONST_SIZE_OR_ZERO, CONST_STR, MEM_NULL_RDONLY, CONST_SIZE_OR_ZERO], GPL, &[]),
    row(166, "bpf_sys_bpf", INTEGER, [ANYTHING, MEM_RDONLY, CONST_SIZE, NONE, NONE], SLEEP, &[]),
    row(167, "bpf_btf_find_by_name_kind", INTEGER, [MEM_RDONLY, CONST_SIZE, ANYTHING, ANYTHING, NONE], SLEEP, &[]),
    row(168, "bpf_sys_close", INTEGER, [ANYTHING, NONE, NONE, NONE, NONE], SLEEP, &[]),
    row(169, "bpf_timer_init", INTEGER, [TIMER, CONST_MAP_PTR, ANYTHING, NONE, NONE], GPL, &[]),
    row(170, "bpf_timer_set_callback", INTEGER, [TIMER, FUNC, NONE, NONE, NONE], GPL, &[]),
    row(171, "bpf_timer_start", INTEGER, [TIMER, ANYTHING, ANYTHING, NONE, NONE], GPL, &[]),
    row(172, "bpf_timer_cancel", INTEGER, [TIMER, NONE, NONE, NONE, NONE], GPL, &[]),
    row(173, "bpf_get_func_ip", INTEGER, [CTX, NONE, NONE, NONE, NONE], GPL, &[]),
    row(174, "bpf_get_attach_cookie", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[]),
    row(175, "bpf_task_pt_regs", ret_btf(NO, "pt_regs"), [btf(NO, "task_struct"), NONE, NONE, NONE, NONE], GPL, &[]),
    row(176, "bpf_get_branch_snapshot", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, NONE, NONE, NONE], GPL, &[]),
    row(177, "bpf_trace_vprintk", INTEGER, [MEM_RDONLY, CONST_SIZE, MEM_NULL_RDONLY, CONST_SIZE_OR_ZERO, NONE], GPL, &[]),
    row(178, "bpf_skc_to_unix_sock", ret_btf(NULL, "unix_sock"), [BTF_ID_SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(179, "bpf_kallsyms_lookup_name", INTEGER, [MEM, CONST_SIZE_OR_ZERO, ANYTHING, fixed(UNINIT.or(WRITE).or(ALIGNED), 8), NONE], 0, &[]),
    row(180, "bpf_find_vma", INTEGER, [btf(NO, "task_struct"), ANYTHING, FUNC, STACK_NULL, ANYTHING], 0, &[]),
    row(181, "bpf_loop", INTEGER, [ANYTHING, FUNC, STACK_NULL, ANYTHING, NONE], 0, &[]),
    row(182, "bpf_strncmp", INTEGER, [MEM_RDONLY, CONST_SIZE, CONST_STR, NONE, NONE], 0, &[]),
    row(183, "bpf_get_func_arg", INTEGER, [CTX, ANYTHING, fixed(UNINIT.or(WRITE).or(ALIGNED), 8), NONE, NONE], 0, &[]),
    row(184, "bpf_get_func_ret", INTEGER, [CTX, fixed(UNINIT.or(WRITE).or(ALIGNED), 8), NONE, NONE, NONE], 0, &[]),
    row(185, "bpf_get_func_arg_cnt", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[]),
    row(186, "bpf_get_retval", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(187, "bpf_set_retval", INTEGER, [ANYTHING, NONE, NONE, NONE, NONE], 0, &[]),
    row(188, "bpf_xdp_get_buff_len", INTEGER, [CTX, NONE, NONE, NONE, NONE], 0, &[ProgType::Xdp]),
    row(188, "bpf_xdp_get_buff_len", INTEGER, [btf(NO, "xdp_buff"), NONE, NONE, NONE, NONE], 0, &[]),
    row(189, "bpf_xdp_load_bytes", INTEGER, [CTX, ANYTHING, MEM_UNINIT_WRITE, CONST_SIZE, NONE], 0, &[]),
    row(190, "bpf_xdp_store_bytes", INTEGER, [CTX, ANYTHING, MEM_RDONLY, CONST_SIZE, NONE], 0, &[]),
    row(191, "bpf_copy_from_user_task", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, btf(NO, "task_struct"), ANYTHING], GPL | SLEEP, &[]),
    row(192, "bpf_skb_set_tstamp", INTEGER, [CTX, ANYTHING, ANYTHING, NONE, NONE], 0, &[]),
    row(193, "bpf_ima_file_hash", INTEGER, [btf(NO, "file"), MEM_UNINIT_WRITE, CONST_SIZE, NONE, NONE], SLEEP, &[]),
    row(194, "bpf_kptr_xchg", ret_btf(NULL, ""), [KPTR_XCHG_DEST, btf(NULL.or(RELEASE), ""), NONE, NONE, NONE], 0, &[]),
    row(195, "bpf_map_lookup_percpu_elem", ret(RetBase::PtrToMapValue, NULL), [CONST_MAP_PTR, MAP_KEY, ANYTHING, NONE, NONE], PKT, &[]),
    row(196, "bpf_skc_to_mptcp_sock", ret_btf(NULL, "mptcp_sock"), [SOCK_COMMON, NONE, NONE, NONE, NONE], 0, &[]),
    row(197, "bpf_dynptr_from_mem", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, ANYTHING, DYNPTR_LOCAL_UNINIT_WRITE, NONE], 0, &[]),
    row(198, "bpf_ringbuf_reserve_dynptr", INTEGER, [CONST_MAP_PTR, ANYTHING, ANYTHING, DYNPTR_RINGBUF_UNINIT_WRITE, NONE], 0, &[]),
    row(199, "bpf_ringbuf_submit_dynptr", VOID, [DYNPTR_RINGBUF_RELEASE, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(200, "bpf_ringbuf_discard_dynptr", VOID, [DYNPTR_RINGBUF_RELEASE, ANYTHING, NONE, NONE, NONE], 0, &[]),
    row(201, "bpf_dynptr_read", INTEGER, [MEM_UNINIT_WRITE, CONST_SIZE_OR_ZERO, DYNPTR_RDONLY, ANYTHING, ANYTHING], 0, &[]),
    row(202, "bpf_dynptr_write", INTEGER, [DYNPTR_RDONLY, ANYTHING, MEM_RDONLY, CONST_SIZE_OR_ZERO, ANYTHING], 0, &[]),
    row(203, "bpf_dynptr_data", ret(RetBase::PtrToMem, NULL), [DYNPTR_RDONLY, ANYTHING, CONST_ALLOC_SIZE_OR_ZERO, NONE, NONE], 0, &[]),
    row(204, "bpf_tcp_raw_gen_syncookie_ipv4", INTEGER, [fixed(NO, 20), MEM, CONST_SIZE_OR_ZERO, NONE, NONE], GPL | PKT, &[]),
    row(205, "bpf_tcp_raw_gen_syncookie_ipv6", INTEGER, [fixed(NO, 40), MEM, CONST_SIZE_OR_ZERO, NONE, NONE], GPL | PKT, &[]),
    row(206, "bpf_tcp_raw_check_syncookie_ipv4", INTEGER, [fixed(NO, 20), fixed(NO, 20), NONE, NONE, NONE], GPL | PKT, &[]),
    row(207, "bpf_tcp_raw_check_syncookie_ipv6", INTEGER, [fixed(NO, 40), fixed(NO, 20), NONE, NONE, NONE], GPL | PKT, &[]),
    row(208, "bpf_ktime_get_tai_ns", INTEGER, [NONE, NONE, NONE, NONE, NONE], 0, &[]),
    row(209, "bpf_user_ringbuf_drain", INTEGER, [CONST_MAP_PTR, FUNC, STACK_NULL, ANYTHING, NONE], 0, &[]),
    row(210, "bpf_cgrp_storage_get", ret(RetBase::PtrToMapValue, NULL), [CONST_MAP_PTR, btf(NULL, "cgroup"), MAP_VALUE_NULL, ANYTHING, NONE], 0, &[]),
    row(211, "bpf_cgrp_storage_delete", INTEGER, [CONST_MAP_PTR, btf(NULL, "cgroup"), NONE, NONE, NONE], 0, &[]),
];
