//! Kernel functions that tracing programs may modify, sleep in, or not be attached to: lists of
//! 6.18 that are not in BTF.
//!
//! They are those of a kernel with `CONFIG_FUNCTION_ERROR_INJECTION`; without it only
//! `security_*` and [`FMODRET`] may be modified.

use super::Level;

/// What `ALLOW_ERROR_INJECTION` lists besides system calls.
#[rustfmt::skip]
const ERROR_INJECTION: &[&str] = &[
    "__filemap_add_folio", "btrfs_check_leaf", "btrfs_check_node", "btrfs_cow_block",
    "btrfs_search_slot", "btrfs_should_cancel_balance", "io_ctl_init", "open_ctree",
    "should_fail_alloc_page", "should_fail_bio", "should_fail_net_realloc_skb", "should_failslab",
    "ssh_ptl_should_corrupt_rx_data", "ssh_ptl_should_corrupt_rx_syn",
    "ssh_ptl_should_corrupt_tx_data", "ssh_ptl_should_drop_ack_packet",
    "ssh_ptl_should_drop_dsq_packet", "ssh_ptl_should_drop_nak_packet",
    "ssh_ptl_should_fail_write", "ssh_rtl_should_drop_response",
];

/// `btf_non_sleepable_error_inject`.
const NON_SLEEPABLE: &[&str] =
    &["__filemap_add_folio", "should_fail_alloc_page", "should_failslab"];

/// Prefixes of system calls: what `SYSCALL_DEFINE` allows errors in.
const SYSCALLS: &[&str] = &[
    "__x64_sys_",
    "__ia32_sys_",
    "__x64_compat_sys_",
    "__ia32_compat_sys_",
    "__arm64_sys_",
    "__arm64_compat_sys_",
    "__riscv_sys_",
    "__riscv_compat_sys_",
    "__s390x_sys_",
    "__s390_sys_",
];

/// A function of a `register_btf_fmodret_id_set`.
struct Fmodret {
    name: &'static str,
    /// `KF_SLEEPABLE`.
    sleeps: bool,
    /// First and last version that has it.
    during: (Level, Level),
}

const fn fmodret(name: &'static str, sleeps: bool, since: Level, until: Level) -> Fmodret {
    Fmodret { name, sleeps, during: (since, until) }
}

/// The sets `bpf_test_modify_return_ids`, `bpf_mptcp_fmodret_ids` and `hid_bpf_fmodret_ids`. Before
/// there were sets, the tests allowed errors to be injected.
const FMODRET: &[Fmodret] = &[
    fmodret("bpf_fentry_test1", true, Level(6, 2), Level::LATEST),
    fmodret("bpf_modify_return_test", false, Level(5, 7), Level::LATEST),
    fmodret("bpf_modify_return_test2", false, Level(6, 6), Level::LATEST),
    fmodret("bpf_modify_return_test_tp", false, Level(6, 10), Level::LATEST),
    fmodret("update_socket_protocol", false, Level(6, 6), Level::LATEST),
    fmodret("hid_bpf_device_event", true, Level(6, 3), Level(6, 10)),
    fmodret("hid_bpf_rdesc_fixup", true, Level(6, 3), Level(6, 10)),
    fmodret("__hid_bpf_tail_call", true, Level(6, 3), Level(6, 10)),
];

/// `btf_id_deny`: a trampoline calls them itself.
#[rustfmt::skip]
const DENIED: &[&str] = &[
    "__rcu_read_lock", "__rcu_read_unlock", "migrate_disable", "migrate_enable",
    "preempt_count_add", "preempt_count_sub", "rcu_read_unlock_strict",
];

/// `noreturn_deny`: what has no exit.
#[rustfmt::skip]
const NORETURN: &[&str] = &[
    "__ia32_sys_exit", "__ia32_sys_exit_group", "__kunit_abort", "__module_put_and_kthread_exit",
    "__x64_sys_exit", "__x64_sys_exit_group", "do_exit", "do_group_exit",
    "kthread_complete_and_exit", "kthread_exit", "kunit_try_catch_throw", "make_task_dead",
];

/// `within_error_injection_list`.
fn error_injection(name: &str) -> bool {
    let call = SYSCALLS.iter().find_map(|p| name.strip_prefix(p));
    call.is_some_and(|c| c != "ni_syscall") || ERROR_INJECTION.contains(&name)
}

/// `btf_kfunc_is_modify_return`.
fn fmodret_of(name: &str, level: Level) -> Option<&'static Fmodret> {
    let here = |f: &&Fmodret| f.name == name && f.during.0 <= level && level <= f.during.1;
    FMODRET.iter().find(here)
}

/// A program attached to this function may sleep.
pub(crate) fn may_sleep(name: &str, level: Level) -> bool {
    let listed = error_injection(name) && !NON_SLEEPABLE.contains(&name);
    listed || fmodret_of(name, level).is_some_and(|f| f.sleeps)
}

/// A program may decide what this function returns.
pub(crate) fn may_modify(name: &str, level: Level) -> bool {
    let secure = name.starts_with("security_");
    secure || error_injection(name) || fmodret_of(name, level).is_some()
}

/// No tracing program may be attached to this function.
pub(crate) fn denied(name: &str) -> bool {
    DENIED.contains(&name)
}

/// What runs at the exit of this function never would (since 6.15).
pub(crate) fn never_returns(name: &str, level: Level) -> bool {
    level >= Level(6, 15) && NORETURN.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_ordered() {
        for list in [ERROR_INJECTION, NON_SLEEPABLE, DENIED, NORETURN] {
            assert!(list.is_sorted());
        }
    }

    #[test]
    fn levels_of_modifiable_functions() {
        assert!(may_modify("hid_bpf_device_event", Level(6, 6)));
        assert!(!may_modify("hid_bpf_device_event", Level::V6_18));
        assert!(may_sleep("__arm64_sys_openat", Level::V6_18));
        assert!(!may_sleep("should_failslab", Level::V6_18));
        assert!(!may_sleep("security_file_open", Level::V6_18));
        assert!(!never_returns("do_exit", Level(6, 6)));
    }
}
