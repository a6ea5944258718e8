//! Helpers that change the size of an sk_buff or its protocol (net/core/filter.c).

use super::{HelperRow, Ret};
use crate::cpu::CpuId;
use crate::net::{SKB_UNSET, skb_max_len};
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 18, name: "skb_vlan_push", nargs: 3, body: vlan_push },
    HelperRow { id: 19, name: "skb_vlan_pop", nargs: 1, body: vlan_pop },
    HelperRow { id: 31, name: "skb_change_proto", nargs: 3, body: change_proto },
    HelperRow { id: 38, name: "skb_change_tail", nargs: 3, body: change_tail },
    HelperRow { id: 39, name: "skb_pull_data", nargs: 2, body: pull_data },
    HelperRow { id: 43, name: "skb_change_head", nargs: 3, body: change_head },
    HelperRow { id: 50, name: "skb_adjust_room", nargs: 4, body: adjust_room },
];

const ETH_P_IP: u64 = 0x0800;
const ETH_P_IPV6: u64 = 0x86dd;
const ETH_P_TEB: u16 = 0x6558;
/// `sizeof(struct iphdr)` and `sizeof(struct ipv6hdr)`.
const IP_LEN: u64 = 20;
const IP6_LEN: u64 = 40;
/// `BPF_F_ADJ_ROOM_*`.
const ENCAP_L3_IPV4: u64 = 1 << 1;
const ENCAP_L3_IPV6: u64 = 1 << 2;
const ENCAP_L4_GRE: u64 = 1 << 3;
const ENCAP_L4_UDP: u64 = 1 << 4;
const NO_CSUM_RESET: u64 = 1 << 5;
const ENCAP_L2_ETH: u64 = 1 << 6;
const DECAP_L3_IPV4: u64 = 1 << 7;
const DECAP_L3_IPV6: u64 = 1 << 8;
const FIXED_GSO: u64 = 1;
const ENCAP_L2_SHIFT: u32 = 56;
const ENCAP_L3: u64 = ENCAP_L3_IPV4 | ENCAP_L3_IPV6;
const DECAP_L3: u64 = DECAP_L3_IPV4 | DECAP_L3_IPV6;
const ROOM_FLAGS: u64 = FIXED_GSO
    | ENCAP_L3
    | ENCAP_L4_GRE
    | ENCAP_L4_UDP
    | NO_CSUM_RESET
    | ENCAP_L2_ETH
    | DECAP_L3
    | 0xff << ENCAP_L2_SHIFT;
/// `CHECKSUM_UNNECESSARY`.
const UNNECESSARY: u64 = 1;

/// The value of a body whose last act is `bpf_compute_data_pointers`.
fn end(k: &mut Kernel, skb: u64, r: Result<(), Errno>) -> Ret {
    k.skb_compute_pointers(skb);
    r.map(|()| 0).into()
}

impl Kernel {
    /// `skb->protocol` as a number.
    fn skb_protocol(&self, skb: u64) -> u64 {
        self.be16(self.get(skb, field!("sk_buff", "protocol")) as u16)
    }

    fn skb_set_protocol(&mut self, skb: u64, protocol: u64) {
        let raw = self.be16(protocol as u16);
        self.set(skb, field!("sk_buff", "protocol"), raw);
    }

    /// `skb_mac_header_len`.
    fn skb_mac_len(&self, skb: u64) -> u64 {
        let mac = self.get(skb, field!("sk_buff", "mac_header"));
        self.get(skb, field!("sk_buff", "network_header")).saturating_sub(mac)
    }

    /// `skb_network_offset`.
    fn skb_network_offset(&self, skb: u64) -> i64 {
        self.header_offset(skb, self.get(skb, field!("sk_buff", "network_header")))
    }

    fn header_offset(&self, skb: u64, header: u64) -> i64 {
        let head = self.get(skb, field!("sk_buff", "head"));
        (head + header).wrapping_sub(self.get(skb, field!("sk_buff", "data"))).cast_signed()
    }

    /// `skb_reset_mac_len`.
    fn skb_reset_mac_len(&mut self, skb: u64) {
        let len = self.skb_mac_len(skb);
        self.set(skb, field!("sk_buff", "mac_len"), len);
    }

    /// `bpf_skb_net_hdr_push` and `_pop`: headers in front of the gap move.
    fn skb_net_gap(&mut self, skb: u64, off: u64, by: i64) -> Result<(), Errno> {
        let (net, trans) =
            (field!("sk_buff", "network_header"), field!("sk_buff", "transport_header"));
        let same = self.get(skb, net) == self.get(skb, trans);
        match by >= 0 {
            true => self.skb_gap_open(skb, off, by.unsigned_abs())?,
            false => self.skb_gap_close(skb, off, by.unsigned_abs())?,
        }
        self.skb_move_headers(skb, -by, true);
        if same {
            let at = self.get(skb, net);
            self.set(skb, trans, at);
        }
        Ok(())
    }

    /// `skb_clear_hash`.
    fn skb_clear_hash(&mut self, skb: u64) {
        self.set(skb, field!("sk_buff", "hash"), 0);
    }
}

/// `bpf_skb_proto_xlat`.
fn change_proto(k: &mut Kernel, _: CpuId, [skb, proto, flags, ..]: [u64; 5]) -> Ret {
    if flags != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let to = k.be16(proto as u16);
    let by = match (k.skb_protocol(skb), to) {
        (ETH_P_IP, ETH_P_IPV6) => (IP6_LEN - IP_LEN).cast_signed(),
        (ETH_P_IPV6, ETH_P_IP) => -(IP6_LEN - IP_LEN).cast_signed(),
        _ => return end(k, skb, Err(Errno::ENOTSUPP)),
    };
    let off = k.skb_mac_len(skb);
    let done = k.skb_net_gap(skb, off, by);
    if done.is_ok() {
        k.skb_set_protocol(skb, to);
        k.skb_clear_hash(skb);
    }
    end(k, skb, done)
}

/// 0 for the length is what is linear now.
fn pull_data(k: &mut Kernel, _: CpuId, [skb, len, ..]: [u64; 5]) -> Ret {
    let len = len & 0xffff_ffff;
    let want = if len == 0 { k.skb_linear(skb).1 } else { len };
    let done = k.skb_may_pull(skb, want);
    end(k, skb, done)
}

/// `__bpf_skb_min_len`: the headers that are known stay.
fn min_len(k: &Kernel, skb: u64) -> u64 {
    let mut min = k.skb_network_offset(skb).max(0);
    let transport = k.get(skb, field!("sk_buff", "transport_header"));
    if transport != SKB_UNSET {
        let offset = k.header_offset(skb, transport);
        if offset > 0 {
            min = offset;
        }
    }
    min.unsigned_abs()
}

fn change_tail(k: &mut Kernel, _: CpuId, [skb, len, flags, ..]: [u64; 5]) -> Ret {
    let len = len & 0xffff_ffff;
    let done = if flags != 0 || len > skb_max_len() || len < min_len(k, skb) {
        Err(Errno::EINVAL)
    } else {
        k.skb_set_len(skb, len)
    };
    end(k, skb, done)
}

fn change_head(k: &mut Kernel, _: CpuId, [skb, room, flags, ..]: [u64; 5]) -> Ret {
    let room = room & 0xffff_ffff;
    let len = k.get(skb, field!("sk_buff", "len"));
    if flags != 0 || room > i32::MAX as u64 || len + room > skb_max_len() {
        return end(k, skb, Err(Errno::EINVAL));
    }
    let done = k.skb_push_zeroes(skb, room);
    if done.is_ok() {
        let head = k.get(skb, field!("sk_buff", "head"));
        let data = k.get(skb, field!("sk_buff", "data"));
        k.set(skb, field!("sk_buff", "mac_header"), data - head);
        k.skb_reset_mac_len(skb);
    }
    end(k, skb, done)
}

fn adjust_room(k: &mut Kernel, _: CpuId, [skb, diff, mode, flags, _]: [u64; 5]) -> Ret {
    let diff = i64::from(diff as i32);
    if flags & !ROOM_FLAGS != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    if diff.unsigned_abs() > 0xfff {
        return Ret::Val(Errno::EFAULT.ret());
    }
    let off = match room_at(k, skb, diff, mode & 0xffff_ffff, flags) {
        Ok(off) => off,
        Err(e) => return Ret::Val(e.ret()),
    };
    let done = match diff < 0 {
        true => shrink(k, skb, off, diff, flags),
        false => grow(k, skb, off, diff, flags),
    };
    let summed = field!("sk_buff", "ip_summed");
    if done.is_ok() && flags & NO_CSUM_RESET == 0 && k.get(skb, summed) == UNNECESSARY {
        k.set(skb, summed, 0);
        k.set(skb, field!("sk_buff", "csum_level"), 0);
    }
    end(k, skb, done)
}

/// Where the room is, when the packet and the flags allow it.
fn room_at(k: &Kernel, skb: u64, diff: i64, mode: u64, flags: u64) -> Result<u64, Errno> {
    let base = match k.skb_protocol(skb) {
        ETH_P_IP => IP_LEN,
        ETH_P_IPV6 => IP6_LEN,
        _ => return Err(Errno::ENOTSUPP),
    };
    let off = k.skb_mac_len(skb)
        + match mode {
            0 => base,
            1 => 0,
            _ => return Err(Errno::ENOTSUPP),
        };
    let shrinks = diff < 0;
    let min = match flags & DECAP_L3 {
        0 => base,
        _ if !shrinks => return Err(Errno::EINVAL),
        DECAP_L3_IPV4 => IP_LEN,
        DECAP_L3_IPV6 => IP6_LEN,
        _ => return Err(Errno::EINVAL),
    };
    let (len, by) = (k.get(skb, field!("sk_buff", "len")), diff.unsigned_abs());
    let behind = len.wrapping_add_signed(-k.skb_network_offset(skb));
    let fits = match shrinks {
        true => by < behind && behind - by >= min,
        false => len + by <= skb_max_len(),
    };
    if fits { Ok(off) } else { Err(Errno::ENOTSUPP) }
}

/// `bpf_skb_net_shrink`.
fn shrink(k: &mut Kernel, skb: u64, off: u64, diff: i64, flags: u64) -> Result<(), Errno> {
    if flags & !(FIXED_GSO | DECAP_L3 | NO_CSUM_RESET) != 0 {
        return Err(Errno::EINVAL);
    }
    k.skb_net_gap(skb, off, diff)?;
    match k.skb_protocol(skb) {
        ETH_P_IP if flags & DECAP_L3_IPV6 != 0 => k.skb_set_protocol(skb, ETH_P_IPV6),
        ETH_P_IPV6 if flags & DECAP_L3_IPV4 != 0 => k.skb_set_protocol(skb, ETH_P_IP),
        _ => {}
    }
    Ok(())
}

/// `bpf_skb_net_grow`.
fn grow(k: &mut Kernel, skb: u64, off: u64, diff: i64, flags: u64) -> Result<(), Errno> {
    let inner_mac_len = flags >> ENCAP_L2_SHIFT;
    let encap = flags & ENCAP_L3 != 0;
    // skb_cow_head comes first; what it moves is seen in the offsets below.
    k.skb_expand(skb, diff.unsigned_abs(), 0)?;
    let (net, trans) = (field!("sk_buff", "network_header"), field!("sk_buff", "transport_header"));
    let (mac_len, inner_net, inner_trans) =
        (k.skb_mac_len(skb), k.get(skb, net), k.get(skb, trans));
    if encap {
        let both = |flag: u64| flags & flag == flag;
        if both(ENCAP_L3) || both(ENCAP_L4_GRE | ENCAP_L4_UDP) {
            return Err(Errno::EINVAL);
        }
        if flags & ENCAP_L2_ETH != 0 && inner_mac_len < 14 {
            return Err(Errno::EINVAL);
        }
        if k.get(skb, field!("sk_buff", "encapsulation")) != 0 {
            return Err(Errno::EALREADY);
        }
        if inner_mac_len > diff.unsigned_abs() {
            return Err(Errno::EINVAL);
        }
    }
    k.skb_net_gap(skb, off, diff)?;
    if !encap {
        return Ok(());
    }
    let protocol = match flags & ENCAP_L2_ETH != 0 {
        true => k.be16(ETH_P_TEB),
        false => k.get(skb, field!("sk_buff", "protocol")),
    };
    let numbers = [
        (field!("sk_buff", "inner_mac_header"), inner_net.wrapping_sub(inner_mac_len) & 0xffff),
        (field!("sk_buff", "inner_network_header"), inner_net),
        (field!("sk_buff", "inner_transport_header"), inner_trans),
        (field!("sk_buff", "inner_protocol"), protocol),
        (field!("sk_buff", "encapsulation"), 1),
    ];
    for (f, v) in numbers {
        k.set(skb, f, v);
    }
    // skb_set_network_header(skb, mac_len): the offset is from the data.
    let head = k.get(skb, field!("sk_buff", "head"));
    let at = k.get(skb, field!("sk_buff", "data")) - head + mac_len;
    k.set(skb, net, at);
    if flags & (ENCAP_L4_GRE | ENCAP_L4_UDP) != 0 {
        let outer = if flags & ENCAP_L3_IPV6 != 0 { IP6_LEN } else { IP_LEN };
        k.set(skb, trans, at + outer);
    }
    match k.skb_protocol(skb) {
        ETH_P_IP if flags & ENCAP_L3_IPV6 != 0 => k.skb_set_protocol(skb, ETH_P_IPV6),
        ETH_P_IPV6 if flags & ENCAP_L3_IPV4 != 0 => k.skb_set_protocol(skb, ETH_P_IP),
        _ => {}
    }
    Ok(())
}

fn vlan_push(k: &mut Kernel, _: CpuId, [skb, proto, tci, ..]: [u64; 5]) -> Ret {
    let raw = (proto & 0xffff) as u16;
    let known = matches!(k.be16(raw), 0x8100 | 0x88a8);
    let raw = if known { raw } else { k.be16(0x8100) as u16 };
    let done = vlan_insert(k, skb);
    if done.is_ok() {
        k.set(skb, field!("sk_buff", "vlan_proto"), raw.into());
        k.set(skb, field!("sk_buff", "vlan_tci"), tci & 0xffff);
    }
    k.skb_reset_mac_len(skb);
    end(k, skb, done)
}

/// A tag that is there already goes into the frame (`skb_vlan_push`).
fn vlan_insert(k: &mut Kernel, skb: u64) -> Result<(), Errno> {
    let proto = k.get(skb, field!("sk_buff", "vlan_proto"));
    if proto == 0 {
        return Ok(());
    }
    let tci = k.get(skb, field!("sk_buff", "vlan_tci")) as u16;
    k.skb_gap_open(skb, 12, 4)?;
    let wire = k.be16(proto as u16) as u16;
    let tag = [wire.to_be_bytes(), tci.to_be_bytes()].concat();
    let (data, _) = k.skb_linear(skb);
    k.mem.write(data + 12, &tag).map_err(|_| Errno::EFAULT)?;
    k.skb_move_headers(skb, -4, true);
    k.set(skb, field!("sk_buff", "protocol"), proto);
    Ok(())
}

fn vlan_pop(k: &mut Kernel, _: CpuId, [skb, ..]: [u64; 5]) -> Ret {
    let done = vlan_remove(k, skb);
    k.skb_reset_mac_len(skb);
    end(k, skb, done)
}

/// `skb_vlan_pop`: the tag that is out of the frame, or else the first in it; the next moves out.
fn vlan_remove(k: &mut Kernel, skb: u64) -> Result<(), Errno> {
    let (proto, tci) = (field!("sk_buff", "vlan_proto"), field!("sk_buff", "vlan_tci"));
    let tagged = |k: &Kernel| matches!(k.skb_protocol(skb), 0x8100 | 0x88a8);
    if k.get(skb, proto) != 0 {
        k.set(skb, proto, 0);
        k.set(skb, tci, 0);
    } else {
        if !tagged(k) {
            return Ok(());
        }
        vlan_take(k, skb)?;
    }
    if tagged(k) {
        let next = k.get(skb, field!("sk_buff", "protocol"));
        let value = vlan_take(k, skb)?;
        k.set(skb, proto, next);
        k.set(skb, tci, value);
    }
    Ok(())
}

/// `__skb_vlan_pop`: the tag's value; the frame's protocol is the one behind it.
fn vlan_take(k: &mut Kernel, skb: u64) -> Result<u64, Errno> {
    k.skb_may_pull(skb, 18)?;
    let (data, _) = k.skb_linear(skb);
    let tag = k.mem.read_vec(data + 14, 4).map_err(|_| Errno::EFAULT)?;
    k.skb_gap_close(skb, 12, 4)?;
    let mac = k.get(skb, field!("sk_buff", "mac_header"));
    k.set(skb, field!("sk_buff", "mac_header"), mac + 4);
    let inner = u16::from_be_bytes([tag[2], tag[3]]);
    let raw = k.be16(inner);
    k.set(skb, field!("sk_buff", "protocol"), raw);
    let net = k.get(skb, field!("sk_buff", "mac_header")) + 14;
    k.set(skb, field!("sk_buff", "network_header"), net);
    Ok(u16::from_be_bytes([tag[0], tag[1]]).into())
}
