//! Context access: how a load or store of a UAPI context field reaches the kernel's objects
//! (`xdp_convert_ctx_access`, `bpf_convert_ctx_access` of net/core/filter.c).
//!
//! A row is a UAPI field and the path to what it stands for. A field without a row is not
//! modelled and the verifier says `Unsupported`.

mod sock_ops;

use std::sync::LazyLock;

use bpf::Endian;
use bpf::insn::{AluOp, Insn, JmpOp, Size, Src, Width};
use bpf::uapi::ProgType;
use verifier::env::{CtxAccess, CtxConv};
use verifier::explore::PtrClass;

use crate::types::{Field, Types, field};

/// The way to a value.
#[derive(Clone, Debug)]
struct Row {
    /// UAPI bytes it covers.
    off: u32,
    len: u32,
    /// Pointers to follow first.
    via: Vec<Field>,
    /// A null pointer on the way ends it with 0.
    null_check: bool,
    /// The value.
    to: Field,
    /// The value is 1 when what is there is not 0.
    boolean: bool,
    /// The bytes are the kernel's own: accesses of any size go through at the same distance.
    raw: bool,
    /// The value is in `skb_shared_info`, at `head + end` of the sk_buff.
    shared: bool,
    /// The value is in the upper half of the field on a little-endian machine: a port in the
    /// packet's byte order, in a field of 32 bits.
    upper: bool,
    /// All ones of the field stand for -1 (`NO_QUEUE_MAPPING`).
    all_ones: bool,
}

impl Row {
    /// A member of the object itself, as it is.
    fn plain(to: Field) -> Row {
        Row {
            off: 0,
            len: 0,
            via: Vec::new(),
            null_check: false,
            to,
            boolean: false,
            raw: false,
            shared: false,
            upper: false,
            all_ones: false,
        }
    }
}

/// `xdp_md`: name, path through pointers.
const XDP: &[(&str, &[&str])] = &[
    ("data", &["data"]),
    ("data_end", &["data_end"]),
    ("data_meta", &["data_meta"]),
    ("ingress_ifindex", &["rxq", "xdp_rxq_info.dev", "net_device.ifindex"]),
    ("rx_queue_index", &["rxq", "xdp_rxq_info.queue_index"]),
    ("egress_ifindex", &["txq", "xdp_txq_info.dev", "net_device.ifindex"]),
];

/// `__sk_buff`: name and member of `sk_buff`.
const SKB: &[(&str, &str)] = &[
    ("len", "len"),
    ("pkt_type", "pkt_type"),
    ("mark", "mark"),
    ("queue_mapping", "queue_mapping"),
    ("protocol", "protocol"),
    ("vlan_tci", "vlan_tci"),
    ("vlan_proto", "vlan_proto"),
    ("priority", "priority"),
    ("ingress_ifindex", "skb_iif"),
    ("tc_index", "tc_index"),
    ("hash", "hash"),
    ("data", "data"),
    ("napi_id", "napi_id"),
    ("tstamp", "tstamp"),
    ("tstamp_type", "tstamp_type"),
    ("sk", "sk"),
];

/// `__sk_buff`: name and member of `skb_shared_info`.
const SHARED: &[(&str, &str)] =
    &[("gso_segs", "gso_segs"), ("gso_size", "gso_size"), ("hwtstamp", "hwtstamps")];

/// `__sk_buff`: name and member of the control block, as `struct.member`.
const CB: &[(&str, &str, &str)] = &[
    ("tc_classid", "qdisc_skb_cb", "tc_classid"),
    ("wire_len", "qdisc_skb_cb", "pkt_len"),
    ("data_meta", "bpf_skb_data_end", "data_meta"),
    ("data_end", "bpf_skb_data_end", "data_end"),
];

/// `__sk_buff` and `bpf_sock_ops`: name and member of the `sock`.
const SKB_SK: &[(&str, &str)] = &[
    ("family", "__sk_common.skc_family"),
    ("remote_ip4", "__sk_common.skc_daddr"),
    ("local_ip4", "__sk_common.skc_rcv_saddr"),
    ("remote_ip6", "__sk_common.skc_v6_daddr"),
    ("local_ip6", "__sk_common.skc_v6_rcv_saddr"),
    ("remote_port", "__sk_common.skc_dport"),
    ("local_port", "__sk_common.skc_num"),
];

/// `bpf_sock`: name and member of `sock`.
const SOCK: &[(&str, &str)] = &[
    ("bound_dev_if", "__sk_common.skc_bound_dev_if"),
    ("family", "__sk_common.skc_family"),
    ("type", "sk_type"),
    ("protocol", "sk_protocol"),
    ("mark", "sk_mark"),
    ("priority", "sk_priority"),
    ("src_ip4", "__sk_common.skc_rcv_saddr"),
    ("src_port", "__sk_common.skc_num"),
    ("dst_port", "__sk_common.skc_dport"),
    ("dst_ip4", "__sk_common.skc_daddr"),
    ("state", "__sk_common.skc_state"),
];

/// `bpf_sock`: addresses of several words.
const SOCK_V6: &[(&str, &str)] =
    &[("src_ip6", "__sk_common.skc_v6_rcv_saddr"), ("dst_ip6", "__sk_common.skc_v6_daddr")];

/// `bpf_tcp_sock`: members of `tcp_sock` under the same names.
#[rustfmt::skip]
const TCP: &[&str] = &[
    "snd_cwnd", "srtt_us", "rtt_min", "snd_ssthresh", "rcv_nxt", "snd_nxt", "snd_una",
    "mss_cache", "ecn_flags", "rate_delivered", "rate_interval_us", "packets_out", "retrans_out",
    "total_retrans", "segs_in", "data_segs_in", "segs_out", "data_segs_out", "lost_out",
    "sacked_out", "bytes_received", "bytes_acked", "dsack_dups", "delivered", "delivered_ce",
];

static SOCK_ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let plain = SOCK.iter().map(|(name, to)| row("bpf_sock", name, field("sock", to)));
    let wide = SOCK_V6
        .iter()
        .map(|(name, to)| Row { raw: true, ..row("bpf_sock", name, field("sock", to)) });
    let queue = field("sock", "__sk_common.skc_rx_queue_mapping");
    let queue = Row { all_ones: true, ..row("bpf_sock", "rx_queue_mapping", queue) };
    plain.chain(wide).chain([queue]).collect()
});

/// `bpf_sock_addr`: name and member of the address (both families have ports and families there).
const SOCK_ADDR: &[(&str, &str)] = &[
    ("user_family", "__addr.sin6_family"),
    ("user_ip4", "__addr.sin6_flowinfo"),
    ("user_port", "__addr.sin6_port"),
];
/// Of the socket.
const SOCK_ADDR_SK: &[(&str, &str)] =
    &[("family", "__sk_common.skc_family"), ("type", "sk_type"), ("protocol", "sk_protocol")];

static SOCK_ADDR_ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let kern = |m| field("bpf_sock_addr_kern", m);
    let own = SOCK_ADDR.iter().map(|(name, to)| row("bpf_sock_addr", name, kern(to)));
    let of_sk = SOCK_ADDR_SK.iter().map(|(name, to)| Row {
        via: vec![kern("sk")],
        ..row("bpf_sock_addr", name, field("sock", to))
    });
    let v6 = Row { raw: true, ..row("bpf_sock_addr", "user_ip6", kern("__addr.sin6_addr")) };
    let sk = row("bpf_sock_addr", "sk", kern("sk"));
    let source = kern("__src");
    let source4 = row("bpf_sock_addr", "msg_src_ip4", Field { size: 4, ..source });
    let source6 = Row { raw: true, ..row("bpf_sock_addr", "msg_src_ip6", source) };
    own.chain(of_sk).chain([v6, sk, source4, source6]).collect()
});

/// `bpf_sockopt`: members of `bpf_sockopt_kern` under the same names.
const SOCKOPT: &[&str] = &["sk", "optval", "optval_end", "level", "optname", "optlen", "retval"];

static SOCKOPT_ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let rows = SOCKOPT.iter();
    rows.map(|name| row("bpf_sockopt", name, field("bpf_sockopt_kern", name))).collect()
});

/// `bpf_sysctl`: the same of `bpf_sysctl_kern`.
static SYSCTL_ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let rows = ["write", "file_pos"].into_iter();
    rows.map(|name| row("bpf_sysctl", name, field("bpf_sysctl_kern", name))).collect()
});

static TCP_ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let rows = TCP.iter().map(|name| row("bpf_tcp_sock", name, field("tcp_sock", name)));
    let retransmits = field("tcp_sock", "inet_conn.icsk_retransmits");
    rows.chain([row("bpf_tcp_sock", "icsk_retransmits", retransmits)]).collect()
});

/// Rewrites a load through a socket pointer; `None` when the field is not modelled.
#[must_use]
pub fn convert_sock(class: PtrClass, access: CtxAccess) -> Option<CtxConv> {
    match class {
        PtrClass::Socket | PtrClass::SockCommon => convert_by(&SOCK_ROWS, access, Endian::Big),
        PtrClass::TcpSock => convert_by(&TCP_ROWS, access, Endian::Big),
        _ => None,
    }
}

fn row(uapi: &str, name: &str, to: Field) -> Row {
    let Field { off, size: len } = field(uapi, name);
    Row { off, len, ..Row::plain(to) }
}

static XDP_ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let step = |path: &str| {
        let (name, member) = path.split_once('.').unwrap_or(("xdp_buff", path));
        field(name, member)
    };
    let rows = XDP.iter().map(|(name, path)| {
        let mut steps: Vec<Field> = path.iter().map(|p| step(p)).collect();
        let to = steps.pop().expect("a path is not empty");
        Row { via: steps, ..row("xdp_md", name, to) }
    });
    rows.collect()
});

static SKB_ROWS: LazyLock<Vec<Row>> = LazyLock::new(|| {
    let cb = field("sk_buff", "cb").off;
    let at = |f: Field| Field { off: cb + f.off, size: f.size };
    let mut rows: Vec<Row> =
        SKB.iter().map(|(name, to)| row("__sk_buff", name, field("sk_buff", to))).collect();
    rows.extend(CB.iter().map(|(name, s, m)| row("__sk_buff", name, at(field(s, m)))));
    rows.extend(SHARED.iter().map(|(name, m)| Row {
        shared: true,
        ..row("__sk_buff", name, field("skb_shared_info", m))
    }));
    let own = at(field("qdisc_skb_cb", "data"));
    rows.push(Row { raw: true, ..row("__sk_buff", "cb", own) });
    let proto = field("sk_buff", "vlan_proto");
    rows.push(Row { boolean: true, ..row("__sk_buff", "vlan_present", proto) });
    rows.extend(SKB_SK.iter().map(|(name, m)| Row {
        via: vec![field("sk_buff", "sk")],
        raw: name.ends_with("_ip6"),
        upper: *name == "remote_port",
        ..row("__sk_buff", name, field("sock", m))
    }));
    let via = vec![field("sk_buff", "dev")];
    let ifindex = field("net_device", "ifindex");
    rows.push(Row { via, null_check: true, ..row("__sk_buff", "ifindex", ifindex) });
    rows
});

fn insn_size(bytes: u32) -> Size {
    match bytes {
        1 => Size::B,
        2 => Size::H,
        4 => Size::W,
        _ => Size::DW,
    }
}

fn disp(off: u32) -> i16 {
    i16::try_from(off).expect("kernel structures are smaller than 32 KiB")
}

/// `pe_prog_convert_ctx_access`: registers of the architecture, and of the sample what follows.
fn perf_rows(arch: bpf::Arch) -> Vec<Row> {
    let types = Types::of(arch);
    let data = |m| types.field("bpf_perf_event_data", m).expect("a member of the type table");
    let kern = |m| field("bpf_perf_event_data_kern", m);
    let row = |name, via, to, raw| {
        let Field { off, size: len } = data(name);
        Row { off, len, via: vec![kern(via)], raw, ..Row::plain(to) }
    };
    let sample = |m| field("perf_sample_data", m);
    vec![
        row("regs", "regs", Field { off: 0, size: data("regs").size }, true),
        row("sample_period", "data", sample("period"), false),
        row("addr", "data", sample("addr"), false),
    ]
}

/// Rewrites one access; `None` when the field is not modelled.
#[must_use]
pub fn convert(arch: bpf::Arch, access: CtxAccess) -> Option<CtxConv> {
    if access.prog_type == ProgType::PerfEvent {
        return convert_by(&perf_rows(arch), access, arch.endian());
    }
    if access.prog_type == ProgType::SockOps {
        return sock_ops::convert(access, arch.endian());
    }
    let rows: &[Row] = match access.prog_type {
        ProgType::Xdp => &XDP_ROWS,
        ProgType::SchedCls
        | ProgType::SchedAct
        | ProgType::SocketFilter
        | ProgType::CgroupSkb
        | ProgType::LwtIn
        | ProgType::LwtOut
        | ProgType::LwtXmit
        | ProgType::SkSkb => &SKB_ROWS,
        ProgType::CgroupSock => &SOCK_ROWS,
        ProgType::CgroupSockAddr => &SOCK_ADDR_ROWS,
        ProgType::CgroupSockopt => &SOCKOPT_ROWS,
        ProgType::CgroupSysctl => &SYSCTL_ROWS,
        _ => return None,
    };
    convert_by(rows, access, arch.endian())
}

fn convert_by(rows: &[Row], access: CtxAccess, endian: Endian) -> Option<CtxConv> {
    let off = match access.insn {
        Insn::Load { off, .. } | Insn::Store { off, .. } => u32::try_from(off).ok()?,
        _ => return None,
    };
    let row = rows.iter().find(|r| (r.off..r.off + r.len).contains(&off))?;
    if !row.raw && off != row.off {
        return None;
    }
    let insns = match access.insn {
        Insn::Load { size, dst, src, .. } => {
            let mut insns = load(row, size, dst, src, off);
            if row.upper && endian == Endian::Little {
                let src = Src::Imm(16);
                insns.push(Insn::Alu { width: Width::W32, op: AluOp::Lsh, dst, src });
            }
            insns
        }
        Insn::Store { size, dst, src, .. } if row.via.is_empty() && !row.boolean && !row.shared => {
            let to = disp(row.to.off + (off - row.off));
            let size = if row.raw { size } else { insn_size(row.to.size) };
            vec![Insn::Store { size, dst, off: to, src }]
        }
        _ => return None,
    };
    // What is rewritten for a boolean is a number of the context's size.
    let whole = row.raw || row.boolean || row.upper;
    let target_size = if whole { row.len } else { row.to.size };
    Some(CtxConv { insns, target_size })
}

fn load(row: &Row, size: Size, dst: bpf::Reg, src: bpf::Reg, off: u32) -> Vec<Insn> {
    let read = |size, src, off| Insn::Load { size, sext: false, dst, src, off };
    let mut insns = Vec::new();
    let mut base = src;
    for step in &row.via {
        insns.push(read(Size::DW, base, disp(step.off)));
        base = dst;
        if row.null_check {
            let (width, op, src) = (Width::W64, JmpOp::Eq, Src::Imm(0));
            insns.push(Insn::Jmp { width, op, dst, src, off: 1 });
        }
    }
    if row.shared {
        let (head, end) = (field("sk_buff", "head"), field("sk_buff", "end"));
        let ax = bpf::Reg::AX;
        let end = Insn::Load { size: Size::W, sext: false, dst: ax, src, off: disp(end.off) };
        let add = AluOp::Add;
        insns.push(end);
        insns.push(read(Size::DW, src, disp(head.off)));
        insns.push(Insn::Alu { width: Width::W64, op: add, dst, src: Src::Reg(ax) });
        base = dst;
    }
    let to = disp(row.to.off + (off - row.off));
    let size = if row.raw { size } else { insn_size(row.to.size) };
    insns.push(read(size, base, to));
    let width = Width::W64;
    let mut becomes = |unless, than, value| {
        insns.push(Insn::Jmp { width, op: unless, dst, src: Src::Imm(than), off: 1 });
        insns.push(Insn::Alu { width, op: AluOp::Mov, dst, src: Src::Imm(value) });
    };
    if row.boolean {
        becomes(JmpOp::Eq, 0, 1);
    }
    if row.all_ones {
        becomes(JmpOp::Ne, 0xffff, -1);
    }
    insns
}

/// Offsets that rewritten programs and native tail calls embed.
#[must_use]
pub fn layout() -> verifier::env::Layout {
    let at = |s, m| disp(field(s, m).off);
    verifier::env::Layout {
        array_max_entries: at("bpf_array", "map.max_entries"),
        array_index_mask: at("bpf_array", "index_mask"),
        array_value: at("bpf_array", "value"),
        prog_bpf_func: crate::layout::PROG_BPF_FUNC,
        htab_elem_key: at("htab_elem", "key"),
        cpu_number: i32::try_from(crate::layout::CPU_NUMBER).expect("a small offset"),
    }
}
