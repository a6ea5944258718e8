//! Structures of kernel functions that programs may implement: members that may sleep, members that
//! are not open to programs, and what the programs of each may write.
//!
//! | structure | since | in |
//! |---|---|---|
//! | `tcp_congestion_ops` | 5.6 | net/ipv4/bpf_tcp_ca.c |
//! | `bpf_dummy_ops` | 5.16 | net/bpf/bpf_dummy_struct_ops.c |
//! | `hid_bpf_ops` | 6.11 | drivers/hid/bpf/hid_bpf_struct_ops.c |
//! | `sched_ext_ops` | 6.12 | kernel/sched/ext.c |
//! | `Qdisc_ops` | 6.16 | net/sched/bpf_qdisc.c |

/// How a write is compared with the members, and what is said of one that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It begins where a member begins (inside one of [`Field::parts`]) and ends in it.
    Begins,
    /// It lies inside the structure.
    Whole,
    /// It lies inside a member; nothing is said (`bpf_scx_btf_struct_access`).
    Inside,
    /// It lies inside a member; said in the words of `hid_bpf_ops_btf_struct_access`.
    Ranges,
}

/// A member that may be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Path of members.
    pub(crate) path: &'static str,
    /// A structure laid over the member, and the member of it that is meant.
    pub(crate) over: Option<(&'static str, &'static str)>,
    /// Parts of it may be written, too.
    pub(crate) parts: bool,
    /// Its last byte stays: the end of a string.
    pub(crate) keep_last: bool,
}

const fn field(path: &'static str) -> Field {
    Field { path, over: None, parts: false, keep_last: false }
}

const fn parts(path: &'static str) -> Field {
    Field { parts: true, ..field(path) }
}

const fn string(path: &'static str) -> Field {
    Field { keep_last: true, ..field(path) }
}

/// A structure some programs may write members of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writable {
    /// Structures with this layout.
    pub(crate) types: &'static [&'static str],
    /// Structure that offsets are reported for.
    pub(crate) name: &'static str,
    /// Members.
    pub(crate) fields: &'static [Field],
}

/// `btf_struct_access` of a kind of program.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writes {
    /// What may be written.
    pub(crate) rule: Rule,
    /// In which structures.
    pub(crate) structs: &'static [Writable],
    /// Message for other structures.
    pub(crate) other: &'static str,
}

const ONLY_READ: &str = "only read is supported";

/// `nf_conntrack_btf_struct_access`.
pub(crate) const CONNTRACK: Writes = Writes {
    rule: Rule::Begins,
    structs: &[Writable {
        types: &["nf_conn", "nf_conn___init"],
        name: "nf_conn",
        fields: &[field("mark")],
    }],
    other: ONLY_READ,
};

/// `bpf_tcp_ca_btf_struct_access`.
const TCP_CA: Writes = Writes {
    rule: Rule::Begins,
    structs: &[Writable {
        types: &["tcp_sock"],
        name: "tcp_sock",
        fields: &[
            field("sk_pacing_rate"),
            field("sk_pacing_status"),
            parts("icsk_ca_priv"),
            field("icsk_ack.pending"),
            field("snd_cwnd"),
            field("snd_cwnd_cnt"),
            field("snd_cwnd_stamp"),
            field("snd_ssthresh"),
            field("ecn_flags"),
            field("app_limited"),
        ],
    }],
    other: ONLY_READ,
};

/// `bpf_dummy_ops_btf_struct_access`.
const DUMMY: Writes = Writes {
    rule: Rule::Whole,
    structs: &[Writable {
        types: &["bpf_dummy_ops_state"],
        name: "bpf_dummy_ops_state",
        fields: &[],
    }],
    other: "only access to bpf_dummy_ops_state is supported",
};

/// `bpf_scx_btf_struct_access`.
const SCX: Writes = Writes {
    rule: Rule::Inside,
    structs: &[Writable {
        types: &["task_struct"],
        name: "task_struct",
        fields: &[field("scx.slice"), field("scx.dsq_vtime"), field("scx.disallow")],
    }],
    other: "",
};

/// `bpf_qdisc_btf_struct_access`.
const QDISC: Writes = Writes {
    rule: Rule::Begins,
    structs: &[
        Writable {
            types: &["sk_buff"],
            name: "sk_buff",
            fields: &[
                field("tstamp"),
                Field { over: Some(("qdisc_skb_cb", "data")), ..parts("cb") },
            ],
        },
        Writable {
            types: &["Qdisc"],
            name: "Qdisc",
            fields: &[field("limit"), field("q.qlen"), parts("qstats")],
        },
    ],
    other: ONLY_READ,
};

/// `hid_bpf_ops_btf_struct_access`.
const HID: Writes = Writes {
    rule: Rule::Ranges,
    structs: &[
        Writable { types: &["hid_bpf_ctx"], name: "hid_bpf_ctx", fields: &[field("retval")] },
        Writable {
            types: &["hid_device"],
            name: "hid_device",
            fields: &[string("name"), string("uniq"), string("phys")],
        },
    ],
    other: "write access to this struct is not supported",
};

/// `get_func_proto`: which helpers the programs may call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Helpers {
    /// As measured.
    Measured,
    /// `bpf_base_func_proto`.
    Base,
}

/// A `struct bpf_struct_ops`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ops {
    /// Name.
    pub(crate) name: &'static str,
    /// Members whose programs may sleep.
    pub(crate) sleepable: &'static [&'static str],
    /// Function members no program can be for: `cfi_stubs` has none.
    pub(crate) without_stub: &'static [&'static str],
    /// What programs may write.
    pub(crate) writes: Writes,
    /// What programs may call.
    pub(crate) helpers: Helpers,
}

#[rustfmt::skip]
const OPS: &[Ops] = &[
    Ops {
        name: "tcp_congestion_ops", sleepable: &[], without_stub: &["get_info"], writes: TCP_CA,
        helpers: Helpers::Measured,
    },
    Ops {
        name: "bpf_dummy_ops", sleepable: &["test_sleepable"], without_stub: &[], writes: DUMMY,
        helpers: Helpers::Measured,
    },
    Ops {
        name: "hid_bpf_ops", without_stub: &[], writes: HID, helpers: Helpers::Base,
        sleepable: &["hid_rdesc_fixup", "hid_hw_request", "hid_hw_output_report"],
    },
    Ops {
        name: "sched_ext_ops", without_stub: &[], writes: SCX, helpers: Helpers::Base,
        sleepable: &[
            "init_task", "cgroup_init", "cgroup_exit", "cgroup_prep_move", "cpu_online",
            "cpu_offline", "init", "exit", "sub_attach", "sub_detach",
        ],
    },
    Ops {
        name: "Qdisc_ops", sleepable: QDISC_SLEEPABLE, writes: QDISC, helpers: Helpers::Base,
        without_stub: &[
            "peek", "attach", "change", "change_tx_queue_len", "change_real_num_tx", "dump",
            "dump_stats", "ingress_block_set", "egress_block_set", "ingress_block_get",
            "egress_block_get",
        ],
    },
];

/// `bpf_Qdisc_ops` has no `check_member`: nothing forbids what would not work.
const QDISC_SLEEPABLE: &[&str] = &["enqueue", "dequeue", "init", "reset", "destroy"];

/// A structure programs may implement.
#[must_use]
pub(crate) fn ops(name: &str) -> Option<&'static Ops> {
    OPS.iter().find(|o| o.name == name)
}

/// Names of the structures programs may implement.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    OPS.iter().map(|o| o.name)
}
