//! The modelled kernel's configuration, as far as it is one: what programs read as `__kconfig`
//! variables (`/proc/config.gz`).
//!
//! An option that is not here is not set: a variable that is `__weak` is 0, another one an error,
//! as in libbpf.

use bpf::Arch;
use bpf::object::Kconfig;

/// `LINUX_KERNEL_VERSION`.
pub const KERNEL_VERSION: u32 = 0x06_12_00;

/// On every architecture.
const COMMON: &[(&str, &str)] = &[
    ("CONFIG_64BIT", "y"),
    ("CONFIG_BPF", "y"),
    ("CONFIG_BPF_EVENTS", "y"),
    ("CONFIG_BPF_JIT", "y"),
    ("CONFIG_BPF_JIT_ALWAYS_ON", "y"),
    ("CONFIG_BPF_LSM", "y"),
    ("CONFIG_BPF_SYSCALL", "y"),
    ("CONFIG_CGROUPS", "y"),
    ("CONFIG_CGROUP_BPF", "y"),
    ("CONFIG_DEBUG_INFO_BTF", "y"),
    ("CONFIG_HZ", "1000"),
    ("CONFIG_HZ_1000", "y"),
    ("CONFIG_INET", "y"),
    ("CONFIG_IPV6", "y"),
    ("CONFIG_KPROBES", "y"),
    ("CONFIG_KPROBE_EVENTS", "y"),
    ("CONFIG_MEMCG", "y"),
    ("CONFIG_NET", "y"),
    ("CONFIG_NET_CLS_BPF", "y"),
    ("CONFIG_NR_CPUS", "64"),
    ("CONFIG_PERF_EVENTS", "y"),
    ("CONFIG_PREEMPT", "y"),
    ("CONFIG_PREEMPT_RCU", "y"),
    ("CONFIG_SECURITY", "y"),
    ("CONFIG_SMP", "y"),
    ("CONFIG_TASKS_RCU", "y"),
    ("CONFIG_TASKS_TRACE_RCU", "y"),
    ("CONFIG_TRACEPOINTS", "y"),
    ("CONFIG_UPROBE_EVENTS", "y"),
];

/// Which machine it is for.
const fn of(arch: Arch) -> &'static [(&'static str, &'static str)] {
    match arch {
        Arch::X86_64 => &[("CONFIG_X86", "y"), ("CONFIG_X86_64", "y")],
        Arch::Arm64 => &[("CONFIG_ARM64", "y")],
        Arch::Riscv64 => &[("CONFIG_RISCV", "y")],
        Arch::S390x => &[("CONFIG_CPU_BIG_ENDIAN", "y"), ("CONFIG_S390", "y")],
    }
}

/// The configuration on an architecture.
#[must_use]
pub fn kconfig(arch: Arch) -> Kconfig {
    let all = COMMON.iter().chain(of(arch));
    let values = all.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Kconfig { kernel_version: KERNEL_VERSION, values }
}
