//! `ctx`, `skb`, `packet`: what the running program was given.

use std::fmt::Write as _;

use bpf::uapi::ProgType;
use kernel_model::Kernel;
use kernel_model::types::field;

use super::{Here, Reply, frame, no_more};
use crate::runner::data::Types;

/// A member of a kernel object, where there is one.
fn get(k: &Kernel, object: u64, of: &str, member: &str) -> Option<u64> {
    let f = field(of, member);
    k.mem.read_uint(object + u64::from(f.off), f.size).ok()
}

/// A packet as a program sees it.
pub(super) struct Packet {
    /// `data`.
    pub(super) data: u64,
    /// `data_end`.
    pub(super) end: u64,
    /// Ethernet type of its first header, when that is not Ethernet.
    pub(super) from: Option<u16>,
}

impl Packet {
    /// Its bytes from `data` to `data_end`.
    pub(super) fn bytes(&self, k: &Kernel) -> Vec<u8> {
        let len = self.end.checked_sub(self.data).filter(|n| *n <= 1 << 16).unwrap_or(0);
        k.mem.read_vec(self.data, len as usize).unwrap_or_default()
    }
}

/// Type and context of the program that a CPU runs.
fn running(here: &Here<'_>) -> Result<(ProgType, u64), String> {
    let k = here.kernel();
    let main = k.cpus[here.cpu.idx()].main_frame();
    let none = || format!("CPU {} runs no program here; `cpus` shows which do", here.cpu.0);
    let main = main.ok_or_else(none)?;
    let prog = k.prog(main.prog).ok_or("the program is gone")?;
    Ok((prog.prog_type(), main.entry.args[0]))
}

/// The structure of the kernel that a program's context stands for.
fn structure(ty: ProgType) -> Option<&'static str> {
    match ty {
        ProgType::Xdp => Some("xdp_buff"),
        ProgType::SchedCls
        | ProgType::SchedAct
        | ProgType::CgroupSkb
        | ProgType::SocketFilter
        | ProgType::SkSkb => Some("sk_buff"),
        ProgType::Kprobe => Some("pt_regs"),
        _ => None,
    }
}

/// The packet of the program that a CPU runs.
pub(super) fn packet_of(here: &Here<'_>) -> Result<Packet, String> {
    let (ty, ctx) = running(here)?;
    let k = here.kernel();
    let gone = || "its context is gone".to_owned();
    match structure(ty) {
        Some("xdp_buff") => {
            let get = |m| get(k, ctx, "xdp_buff", m).ok_or_else(gone);
            Ok(Packet { data: get("data")?, end: get("data_end")?, from: None })
        }
        Some("sk_buff") => {
            let get = |m| get(k, ctx, "sk_buff", m).ok_or_else(gone);
            let (data, head) = (get("data")?, get("head")?);
            let linear = get("len")?.saturating_sub(get("data_len")?);
            let network = head + get("network_header")?;
            // What runs above the link layer begins with the network's header.
            let above = network == data;
            let proto = get("protocol")? as u16;
            let from = match k.mem.endian() {
                bpf::Endian::Little => proto.swap_bytes(),
                bpf::Endian::Big => proto,
            };
            Ok(Packet { data, end: data + linear, from: above.then_some(from) })
        }
        _ => Err(format!("a program of type {} has no packet; see `ctx`", ty.name())),
    }
}

/// `packet`.
pub(super) fn packet(here: &Here<'_>, args: &[&str]) -> Reply {
    no_more(args)?;
    let p = packet_of(here)?;
    let bytes = p.bytes(here.kernel());
    let mut out = String::new();
    let _ = writeln!(out, "data {:#x}, data_end {:#x}: {} bytes", p.data, p.end, bytes.len());
    for line in frame::headers(&bytes, p.from) {
        let _ = writeln!(out, "{line}");
    }
    out += &frame::dump(&bytes);
    Ok(out)
}

/// Members of an sk_buff that are shown.
const SKB: &[&str] = &[
    "len",
    "data_len",
    "protocol",
    "mark",
    "priority",
    "queue_mapping",
    "hash",
    "vlan_proto",
    "vlan_tci",
    "tstamp",
    "network_header",
    "transport_header",
    "mac_header",
    "ip_summed",
    "pkt_type",
];
/// Members of an xdp_buff that are shown.
const XDP: &[&str] = &["data_meta", "data", "data_end", "data_hard_start", "frame_sz", "flags"];

/// `ctx`, `skb`.
pub(super) fn ctx(here: &Here<'_>, args: &[&str]) -> Reply {
    no_more(args)?;
    let (ty, ctx) = running(here)?;
    let k = here.kernel();
    let mut out = String::new();
    let Some(name) = structure(ty) else {
        let main = k.cpus[here.cpu.idx()].main_frame().map(|f| f.prog);
        let to = main.and_then(|p| k.prog(p)?.verified.program().attach_to.clone());
        let to = to.map_or(String::new(), |t| format!(" of {t}"));
        let _ = writeln!(out, "context{to} at {ctx:#x}, a program of type {}", ty.name());
        let words = (0..6).map_while(|n| k.mem.read_u64(ctx + 8 * n).ok());
        for (n, word) in words.enumerate() {
            let _ = writeln!(out, "  [{n}] {word:#x}");
        }
        return Ok(out);
    };
    let _ = writeln!(out, "struct {name} at {ctx:#x}");
    let btf = k.vmlinux_btf();
    let types = Types { btf, endian: k.mem.endian() };
    let id = btf.find(name, bpf::btf::Kind::Struct).ok_or("the kernel has no such type")?;
    let all: Vec<&str> = btf.members(id).map(|m| m.name).collect();
    let shown: &[&str] = match name {
        "sk_buff" => SKB,
        "xdp_buff" => XDP,
        _ => &all,
    };
    let size = btf.size_of(id).unwrap_or(0) as usize;
    let bytes = k.mem.read_vec(ctx, size).map_err(|_| "its context is gone")?;
    for name in shown {
        if let Some(text) = types.member_text(id, name, &bytes) {
            let _ = writeln!(out, "  {name} = {text}");
        }
    }
    device(k, name, ctx, &mut out);
    Ok(out)
}

/// The device and queue of a packet.
fn device(k: &Kernel, of: &str, ctx: u64, out: &mut String) {
    let dev = match of {
        "sk_buff" => get(k, ctx, of, "dev"),
        "xdp_buff" => {
            let rxq = get(k, ctx, of, "rxq").unwrap_or(0);
            if let Some(queue) = get(k, rxq, "xdp_rxq_info", "queue_index") {
                let _ = writeln!(out, "  queue = {queue}");
            }
            get(k, rxq, "xdp_rxq_info", "dev")
        }
        _ => None,
    };
    if let Some(nic) = k.net.nics.values().find(|n| Some(n.dev) == dev) {
        let _ = writeln!(out, "  nic = {} (ifindex {})", nic.config.name, nic.ifindex);
    }
}
