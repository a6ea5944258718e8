//! What came with which version: kfuncs, program types, attach types, map types, program flags,
//! structures of functions. A program judged for an older kernel may not use what is newer.
//!
//! A kfunc is of the release that has it under its present name; one that is not listed here is
//! taken to be as old as its kernel's BTF says.

use bpf::Program;
use bpf::uapi::{AttachType as A, MapType as M, ProgType as P};

use super::Level;

/// Names, or with `*` the beginnings of names. The first that fits decides.
#[rustfmt::skip]
const KFUNCS: &[(Level, &[&str])] = &[
    (Level(6, 19), &["scx_bpf_dsq_insert___v2", "__scx_bpf_*", "scx_bpf_dsq_peek",
        "scx_bpf_task_set_*", "scx_bpf_reenqueue_local___v2"]),
    (Level(6, 18), &["bpf_dynptr_from_skb_meta", "bpf_xdp_pull_data", "bpf_task_work_*",
        "bpf_strcasecmp", "scx_bpf_cpu_curr", "scx_bpf_locked_rq"]),
    (Level(6, 17), &["bpf_str*", "bpf_dynptr_memset", "bpf_arena_reserve_pages",
        "bpf_cgroup_read_xattr", "__bpf_trap"]),
    (Level(6, 16), &["bpf_rbtree_root", "bpf_rbtree_left", "bpf_rbtree_right", "bpf_list_front",
        "bpf_list_back", "bpf_dynptr_copy", "bpf_probe_read_*",
        "bpf_copy_from_user_dynptr", "bpf_copy_from_user_str_dynptr",
        "bpf_copy_from_user_task_dynptr", "bpf_copy_from_user_task_str_dynptr",
        "bpf_iter_dmabuf_*", "css_rstat_*", "bpf_qdisc_*", "bpf_kfree_skb", "bpf_skb_get_hash"]),
    (Level(6, 15), &["bpf_res_spin_*", "bpf_set_dentry_xattr", "bpf_remove_dentry_xattr",
        "bpf_cpumask_populate", "bpf_sock_ops_enable_tx_tstamp", "bpf_copy_from_user_task_str",
        "scx_bpf_cpu_node", "scx_bpf_nr_node_ids", "scx_bpf_pick_any_cpu_node",
        "scx_bpf_pick_idle_cpu_node", "scx_bpf_get_idle_cpumask_node",
        "scx_bpf_get_idle_smtmask_node", "scx_bpf_select_cpu_and"]),
    (Level(6, 14), &["bpf_local_irq_*", "scx_bpf_now", "scx_bpf_events"]),
    (Level(6, 13), &["bpf_send_signal_task", "bpf_get_kmem_cache", "bpf_iter_kmem_cache_*",
        "bpf_task_from_vpid", "scx_bpf_dsq_insert*", "scx_bpf_dsq_move*"]),
    (Level(6, 12), &["scx_bpf_*", "bpf_iter_scx_dsq_*", "bpf_get_task_exe_file", "bpf_put_file",
        "bpf_path_d_path", "bpf_get_dentry_xattr", "bpf_copy_from_user_str"]),
    (Level(6, 11), &["bpf_iter_bits_*", "bpf_xdp_flow_lookup", "hid_bpf_try_input_report"]),
    (Level(6, 10), &["bpf_wq_*", "bpf_preempt_*", "bpf_crypto_*", "bpf_session_*",
        "hid_bpf_input_report", "hid_bpf_hw_output_report", "bpf_modify_return_test_tp"]),
    (Level(6, 9), &["bpf_arena_*", "bpf_sk_assign_tcp_reqsk"]),
    (Level(6, 8), &["bpf_get_file_xattr", "bpf_get_fsverity_digest", "bpf_task_get_cgroup1",
        "bpf_xdp_get_xfrm_state", "bpf_xdp_xfrm_state_release", "bpf_cpumask_weight",
        "bpf_xdp_metadata_rx_vlan_tag"]),
    (Level(6, 7), &["bpf_percpu_obj_*", "bpf_iter_css_*", "bpf_iter_task_*", "bpf_throw",
        "bpf_sock_addr_set_sun_path"]),
    (Level(6, 6), &["bpf_map_sum_elem_count", "bpf_modify_return_test2"]),
    (Level(6, 5), &["bpf_dynptr_adjust", "bpf_dynptr_clone", "bpf_dynptr_is_*", "bpf_dynptr_size",
        "bpf_sock_destroy", "bpf_task_under_cgroup", "bpf_cpumask_first_and",
        "bpf_cpumask_any_distribute", "bpf_cpumask_any_and_distribute"]),
    (Level(6, 4), &["bpf_iter_num_*", "bpf_dynptr_*", "bpf_refcount_acquire_impl",
        "bpf_cgroup_from_id", "bpf_skb_set_fou_encap", "bpf_skb_get_fou_encap"]),
    (Level(6, 3), &["bpf_cpumask_*", "bpf_rbtree_*", "bpf_xdp_metadata_rx_*", "hid_bpf_*"]),
    (Level(6, 2), &["bpf_obj_*", "bpf_list_*", "bpf_cast_to_kern_ctx", "bpf_rdonly_cast",
        "bpf_rcu_read_*", "bpf_task_acquire", "bpf_task_release", "bpf_task_from_pid",
        "bpf_cgroup_*"]),
    (Level(6, 1), &["bpf_ct_set_nat_info", "bpf_lookup_*", "bpf_key_put"]),
    (Level(6, 0), &["bpf_xdp_ct_alloc", "bpf_skb_ct_alloc", "bpf_ct_insert_entry",
        "bpf_ct_set_*", "bpf_ct_change_*"]),
    (Level(5, 18), &["bpf_xdp_ct_lookup", "bpf_skb_ct_lookup", "bpf_ct_release"]),
    (Level(5, 13), &["tcp_*", "cubictcp_*", "bbr_*", "dctcp_*", "bpf_kfunc_call_*",
        "bpf_fentry_test1", "bpf_modify_return_test"]),
];

/// The version that brought a kfunc; `None` when it is not known.
fn kfunc_since(name: &str) -> Option<Level> {
    let fits = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == *pattern,
    };
    KFUNCS.iter().find(|(_, names)| names.iter().any(fits)).map(|r| r.0)
}

/// A kernel of this version has the kfunc.
pub(crate) fn has_kfunc(name: &str, level: Level) -> bool {
    kfunc_since(name).is_none_or(|since| since <= level)
}

/// `KF_TRUSTED_ARGS` of every kfunc: its flag is gone.
pub(crate) const TRUSTED_BY_DEFAULT: Level = Level(7, 0);

/// The version that brought a program type.
fn prog_type_since(ty: P) -> Level {
    match ty {
        P::Netfilter => Level(6, 4),
        P::Syscall => Level(5, 14),
        P::SkLookup => Level(5, 9),
        P::Lsm => Level(5, 7),
        P::StructOps | P::Ext => Level(5, 6),
        P::Tracing => Level(5, 5),
        P::CgroupSockopt => Level(5, 3),
        P::CgroupSysctl | P::RawTracepointWritable => Level(5, 2),
        P::FlowDissector => Level(4, 20),
        P::SkReuseport => Level(4, 19),
        P::LwtSeg6local | P::LircMode2 => Level(4, 18),
        P::CgroupSockAddr | P::SkMsg | P::RawTracepoint => Level(4, 17),
        P::CgroupDevice => Level(4, 15),
        P::SkSkb => Level(4, 14),
        P::SockOps => Level(4, 13),
        _ => Level(4, 10),
    }
}

/// The version that brought an attach type.
fn attach_type_since(ty: A) -> Level {
    match ty {
        A::TraceUprobeSession => Level(6, 13),
        A::TraceKprobeSession => Level(6, 10),
        A::NetkitPrimary | A::NetkitPeer => Level(6, 7),
        A::TraceUprobeMulti | A::TcxIngress | A::TcxEgress => Level(6, 6),
        A::LsmCgroup => Level(6, 0),
        A::TraceKprobeMulti => Level(5, 18),
        A::SkReuseportSelectOrMigrate | A::SkReuseportSelect => Level(5, 14),
        A::SkSkbVerdict => Level(5, 13),
        A::XdpCpumap => Level(5, 9),
        A::XdpDevmap | A::TraceIter => Level(5, 8),
        A::ModifyReturn => Level(5, 7),
        _ => Level(0, 0),
    }
}

/// The version that brought a structure of functions.
fn ops_since(name: &str) -> Level {
    match name {
        "Qdisc_ops" => Level(6, 16),
        "sched_ext_ops" => Level(6, 12),
        "hid_bpf_ops" => Level(6, 11),
        "bpf_dummy_ops" => Level(5, 16),
        _ => Level(5, 6),
    }
}

/// The version that brought a map type.
fn map_type_since(ty: M) -> Level {
    match ty {
        M::InsnArray => Level(6, 19),
        M::Arena => Level(6, 9),
        M::CgrpStorage => Level(6, 2),
        M::UserRingbuf => Level(6, 1),
        M::BloomFilter => Level(5, 16),
        M::TaskStorage => Level(5, 11),
        M::InodeStorage => Level(5, 10),
        M::Ringbuf => Level(5, 8),
        M::StructOps => Level(5, 6),
        M::DevmapHash => Level(5, 4),
        M::SkStorage => Level(5, 2),
        M::Queue | M::Stack | M::PercpuCgroupStorage => Level(4, 20),
        M::CgroupStorage | M::ReuseportSockarray => Level(4, 19),
        M::Xskmap | M::Sockhash => Level(4, 18),
        _ => Level(4, 15),
    }
}

/// A kernel of this version has maps of the type.
pub(crate) fn has_map_type(ty: M, level: Level) -> bool {
    map_type_since(ty) <= level
}

/// `prog_flags` by version, the last known first.
const PROG_FLAGS: &[(Level, u32)] = &[
    (Level(6, 8), 0xff),
    (Level(6, 3), 0x7f),
    (Level(5, 18), 0x3f),
    (Level(5, 10), 0x1f),
    (Level(5, 5), 0x0f),
    (Level(5, 3), 0x07),
    (Level(5, 0), 0x03),
];

/// The `prog_flags` that a version knows.
pub(crate) fn prog_flags(level: Level) -> u32 {
    PROG_FLAGS.iter().find(|r| r.0 <= level).map_or(0x01, |r| r.1)
}

/// A kernel of this version has programs of the kind.
pub(crate) fn has_prog(p: &Program, level: Level) -> bool {
    let ops = p.attach_to.as_deref().filter(|_| p.prog_type == P::StructOps);
    let ops = ops.map_or(Level(0, 0), |to| ops_since(to.split('/').next().unwrap_or(to)));
    let attach = p.attach_type.map_or(Level(0, 0), attach_type_since);
    prog_type_since(p.prog_type).max(attach).max(ops) <= level
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::kfuncs;

    #[test]
    fn every_kfunc_has_a_version() {
        let without: Vec<&str> = kfuncs::names().filter(|n| kfunc_since(n).is_none()).collect();
        assert!(without.is_empty(), "{without:?}");
        let newer = |l| kfuncs::names().filter(|n| !has_kfunc(n, l)).count();
        assert!(newer(Level(5, 15)) > newer(Level(6, 6)) && newer(Level(6, 6)) > 0);
        assert_eq!(kfunc_since("bpf_dynptr_from_skb"), Some(Level(6, 4)));
        assert_eq!(kfunc_since("bpf_dynptr_from_skb_meta"), Some(Level(6, 18)));
    }

    #[test]
    fn maps_and_flags() {
        assert!(has_map_type(M::Arena, Level(6, 12)) && !has_map_type(M::Arena, Level(6, 6)));
        assert_eq!((prog_flags(Level(5, 15)), prog_flags(Level::V6_18)), (0x1f, 0xff));
    }
}
