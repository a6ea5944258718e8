//! `sock_ops_convert_ctx_access`: what `struct bpf_sock_ops` stands for (net/core/filter.c,
//! Linux 6.18).
//!
//! What only a whole and locked `tcp_sock` has is read behind a check. Where the result takes the
//! register of the context, the check needs another, whose value is kept in the context
//! (`bpf_sock_ops_kern.temp`) meanwhile.

use bpf::insn::{AluOp, Insn, JmpOp, Size, Src, Width};
use bpf::{Endian, Reg};
use verifier::env::{CtxAccess, CtxConv};

use super::{SKB_SK, disp, insn_size};
use crate::types::{Field, field};

/// Members of `tcp_sock` under the same names.
#[rustfmt::skip]
const GUARDED: &[&str] = &[
    "snd_cwnd", "srtt_us", "bpf_sock_ops_cb_flags", "snd_ssthresh", "rcv_nxt", "snd_nxt",
    "snd_una", "mss_cache", "ecn_flags", "rate_delivered", "rate_interval_us", "packets_out",
    "retrans_out", "total_retrans", "segs_in", "data_segs_in", "segs_out", "data_segs_out",
    "lost_out", "sacked_out", "bytes_received", "bytes_acked",
];

/// Of any socket, whole or not, besides what `__sk_buff` has of one.
const OF_SK: &[(&str, &str)] = &[("state", "__sk_common.skc_state")];

/// Of the packet.
const OF_SKB: &[(&str, &str)] = &[("skb_data", "data"), ("skb_len", "len")];

fn uapi(name: &str) -> Field {
    field("bpf_sock_ops", name)
}

fn kern(name: &str) -> Field {
    field("bpf_sock_ops_kern", name)
}

/// Where a member is in the object, and its size.
fn load(dst: Reg, src: Reg, at: Field) -> Insn {
    Insn::Load { size: insn_size(at.size), sext: false, dst, src, off: disp(at.off) }
}

fn jump_if_null(dst: Reg, off: i16) -> Insn {
    Insn::Jmp { width: Width::W64, op: JmpOp::Eq, dst, src: Src::Imm(0), off }
}

/// A register that the access does not use.
fn spare(dst: Reg, src: Reg) -> Reg {
    let free = [Reg::R9, Reg::R8, Reg::R7].into_iter().find(|r| *r != dst && *r != src);
    free.expect("two of three are used")
}

/// Rewrites one access; `None` when the field is not modelled.
pub(super) fn convert(access: CtxAccess, endian: Endian) -> Option<CtxConv> {
    let conv = |insns| Some(CtxConv { insns, target_size: 0 });
    match access.insn {
        Insn::Load { dst, src, off, size, .. } => {
            let off = u32::try_from(off).ok()?;
            conv(read(dst, src, (off, size), endian)?)
        }
        Insn::Store { dst, src, off, .. } => conv(write(dst, src, u32::try_from(off).ok()?)?),
        _ => None,
    }
}

/// How far into a member of the context an offset is.
fn within(name: &str, off: u32) -> Option<u32> {
    let f = uapi(name);
    off.checked_sub(f.off).filter(|n| *n < f.size)
}

/// The row of a table that covers an offset, and how far into it that is.
fn find(rows: &[(&str, &'static str)], off: u32) -> Option<(&'static str, u32)> {
    rows.iter().find_map(|(name, to)| Some((*to, within(name, off)?)))
}

fn read(dst: Reg, src: Reg, (off, size): (u32, Size), endian: Endian) -> Option<Vec<Insn>> {
    if let Some(name) = GUARDED.iter().find(|name| within(name, off).is_some()) {
        return Some(guarded(dst, src, "is_locked_tcp_sock", Some(field("tcp_sock", name))));
    }
    if off == uapi("sk_txhash").off {
        return Some(guarded(dst, src, "is_locked_tcp_sock", Some(field("sock", "sk_txhash"))));
    }
    if off == uapi("sk").off {
        return Some(guarded(dst, src, "is_fullsock", None));
    }
    if let Some((name, within)) = find(SKB_SK, off).or_else(|| find(OF_SK, off)) {
        let to = field("sock", name);
        let to = if within > 0 || to.size > 4 {
            Field { off: to.off + within, size: size.bytes() }
        } else {
            to
        };
        let mut insns = vec![load(dst, src, kern("sk")), load(dst, dst, to)];
        if off == uapi("remote_port").off && endian == Endian::Little {
            let src = Src::Imm(16);
            insns.push(Insn::Alu { width: Width::W32, op: AluOp::Lsh, dst, src });
        }
        return Some(insns);
    }
    if off == uapi("rtt_min").off {
        return Some(vec![
            load(dst, src, kern("sk")),
            load(dst, dst, field("tcp_sock", "rtt_min")),
        ]);
    }
    if let Some((name, 0)) = find(OF_SKB, off) {
        return Some(of_skb(dst, src, field("sk_buff", name)));
    }
    if off == uapi("skb_tcp_flags").off {
        let flags = field("tcp_skb_cb", "tcp_flags");
        let at = field("sk_buff", "cb").off + flags.off;
        return Some(of_skb(dst, src, Field { off: at, ..flags }));
    }
    if off == uapi("skb_hwtstamp").off {
        return Some(hwtstamp(dst, src));
    }
    let plain = ["op", "is_fullsock", "skb_data_end"].into_iter().find(|n| uapi(n).off == off);
    if let Some(name) = plain {
        return Some(vec![load(dst, src, kern(name))]);
    }
    reply(off).map(|at| vec![load(dst, src, at)])
}

/// A part of `replylong`.
fn reply(off: u32) -> Option<Field> {
    let within = within("replylong", off)?;
    Some(Field { off: kern("replylong").off + within, size: 4 })
}

fn of_skb(dst: Reg, src: Reg, to: Field) -> Vec<Insn> {
    vec![load(dst, src, kern("skb")), jump_if_null(dst, 1), load(dst, dst, to)]
}

/// Behind `bpf_convert_shinfo_access`: 0 without a packet.
fn hwtstamp(dst: Reg, src: Reg) -> Vec<Insn> {
    vec![
        load(dst, src, kern("skb")),
        jump_if_null(dst, 4),
        load(Reg::AX, dst, field("sk_buff", "end")),
        load(dst, dst, field("sk_buff", "head")),
        alu(AluOp::Add, dst, Src::Reg(Reg::AX)),
        load(dst, dst, field("skb_shared_info", "hwtstamps")),
    ]
}

fn alu(op: AluOp, dst: Reg, src: Src) -> Insn {
    Insn::Alu { width: Width::W64, op, dst, src }
}

/// `SOCK_OPS_GET_FIELD` and, without a member, `SOCK_OPS_GET_SK`.
fn guarded(dst: Reg, src: Reg, flag: &str, to: Option<Field>) -> Vec<Insn> {
    let (temp, same) = (kern("temp"), dst == src);
    let (reg, over) = (spare(dst, src), 1 + i16::from(to.is_some()));
    let check = if same { reg } else { dst };
    let keep = Insn::Store { size: Size::DW, dst: src, off: disp(temp.off), src: Src::Reg(reg) };
    let mut insns: Vec<Insn> = same.then_some(keep).into_iter().collect();
    insns.push(load(check, src, kern(flag)));
    insns.push(jump_if_null(check, if same { over + 2 } else { over }));
    if same {
        insns.push(load(reg, src, temp));
    }
    insns.push(load(dst, src, kern("sk")));
    insns.extend(to.map(|to| load(dst, dst, to)));
    if same {
        insns.push(Insn::Ja { off: 2, long: false });
        insns.push(load(reg, src, temp));
        insns.push(alu(AluOp::Mov, dst, Src::Imm(0)));
    }
    insns
}

/// `SOCK_OPS_SET_FIELD` of `sk_txhash`, and the reply.
fn write(dst: Reg, src: Src, off: u32) -> Option<Vec<Insn>> {
    let store = |size, dst, at: u32, src| Insn::Store { size, dst, off: disp(at), src };
    if let Some(at) = reply(off) {
        return Some(vec![store(Size::W, dst, at.off, src)]);
    }
    if off != uapi("sk_txhash").off {
        return None;
    }
    let used = if let Src::Reg(src) = src { src } else { Reg::R0 };
    let (reg, temp) = (spare(dst, used), kern("temp"));
    Some(vec![
        store(Size::DW, dst, temp.off, Src::Reg(reg)),
        load(reg, dst, kern("is_locked_tcp_sock")),
        jump_if_null(reg, 2),
        load(reg, dst, kern("sk")),
        store(Size::W, reg, field("sock", "sk_txhash").off, src),
        load(reg, dst, temp),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::uapi::ProgType;

    /// Opcodes and registers as 6.18 rewrites these (its answer to `BPF_OBJ_GET_INFO_BY_FD`).
    #[test]
    fn accesses_become_what_the_kernel_makes_of_them() {
        let text = |insn: Insn| {
            let access = CtxAccess { insn, prog_type: ProgType::SockOps };
            let insns = convert(access, Endian::Little).unwrap().insns;
            let one = |i: &Insn| {
                let raw = bpf::insn::encode(i);
                format!("{:02x}{}{}", raw.code, raw.dst, raw.src)
            };
            insns.iter().map(one).collect::<Vec<_>>().join(" ")
        };
        let ldx = |dst, src, name: &str, size| {
            let off = disp(uapi(name).off);
            text(Insn::Load { size, sext: false, dst, src, off })
        };
        let (r1, r2) = (Reg::R1, Reg::R2);
        assert_eq!(ldx(r2, r1, "snd_cwnd", Size::W), "7121 1520 7921 6122");
        let same = "7b19 7191 1590 7991 7911 6111 0500 7991 b710";
        assert_eq!(ldx(r1, r1, "snd_cwnd", Size::W), same);
        assert_eq!(ldx(r2, r1, "sk", Size::DW), "7121 1520 7921");
        assert_eq!(ldx(r1, r1, "sk", Size::DW), "7b19 7191 1590 7991 7911 0500 7991 b710");
        assert_eq!(ldx(r2, r1, "remote_port", Size::W), "7921 6922 6420");
        assert_eq!(ldx(r2, r1, "skb_tcp_flags", Size::W), "7921 1520 6922");
        assert_eq!(ldx(r2, r1, "skb_hwtstamp", Size::DW), "7921 1520 61112 7922 0f211 7922");
        let store = Insn::Store {
            size: Size::W,
            dst: r1,
            off: disp(uapi("sk_txhash").off),
            src: Src::Reg(r2),
        };
        assert_eq!(text(store), "7b19 7191 1590 7991 6392 7991");
    }
}
