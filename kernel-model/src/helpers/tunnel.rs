//! Tunnel metadata of packets (net/core/filter.c, include/net/dst_metadata.h).
//!
//! `struct metadata_dst` of each CPU is made when a program first sets a key, as the kernel makes
//! them when the first program that could is loaded.

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::types::Field;
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 20, name: "skb_get_tunnel_key", nargs: 4, body: get_key },
    HelperRow { id: 21, name: "skb_set_tunnel_key", nargs: 4, body: set_key },
    HelperRow { id: 29, name: "skb_get_tunnel_opt", nargs: 3, body: get_opt },
    HelperRow { id: 30, name: "skb_set_tunnel_opt", nargs: 3, body: set_opt },
    HelperRow { id: 66, name: "skb_get_xfrm_state", nargs: 5, body: get_xfrm_state },
];

/// `BPF_F_TUNINFO_IPV6`, `BPF_F_ZERO_CSUM_TX`, `BPF_F_DONT_FRAGMENT`, `BPF_F_SEQ_NUMBER`,
/// `BPF_F_NO_TUNNEL_KEY`, `BPF_F_TUNINFO_FLAGS`.
const TUNINFO_IPV6: u64 = 1;
const ZERO_CSUM_TX: u64 = 1 << 1;
const DONT_FRAGMENT: u64 = 1 << 2;
const SEQ_NUMBER: u64 = 1 << 3;
const NO_TUNNEL_KEY: u64 = 1 << 4;
const TUNINFO_FLAGS: u64 = 1 << 4;
/// `IP_TUNNEL_*_BIT`: checksum, key, sequence, do not fragment, cache, options of any kind.
const CSUM_BIT: u64 = 1;
const KEY_BIT: u64 = 1 << 2;
const SEQ_BIT: u64 = 1 << 3;
const DONT_FRAGMENT_BIT: u64 = 1 << 8;
const NOCACHE_BIT: u64 = 1 << 13;
const OPTIONS: u64 = 1 << 11 | 1 << 12 | 1 << 14 | 1 << 15 | 1 << 17;
/// `IP_TUNNEL_INFO_TX` and `IP_TUNNEL_INFO_IPV6`.
const MODE_TX: u64 = 1;
const MODE_IPV6: u64 = 2;
/// `IP_TUNNEL_OPTS_MAX`.
const OPTS_MAX: u64 = 255;
/// `IPV6_FLOWLABEL_MASK`.
const LABEL_MASK: u64 = 0xf_ffff;
/// `FLOWI_FLAG_ANYSRC`.
const ANYSRC: u64 = 1;

/// A member of `struct ip_tunnel_info` within `struct metadata_dst`.
macro_rules! info {
    ($m:literal) => {{
        let base = field!("metadata_dst", "u.tun_info");
        let f = field!("ip_tunnel_info", $m);
        Field { off: base.off + f.off, size: f.size }
    }};
}

/// `sizeof(struct bpf_tunnel_key)` now and of older programs (`tunnel_ext`, `tunnel_label`,
/// `local_ipv6`, one word of the remote address).
fn size_is_known(size: u64) -> bool {
    let at = |f: Field| u64::from(f.off);
    size == crate::size!("bpf_tunnel_key")
        || [
            at(field!("bpf_tunnel_key", "local_ipv6")),
            at(field!("bpf_tunnel_key", "tunnel_label")),
            at(field!("bpf_tunnel_key", "tunnel_ext")),
            at(field!("bpf_tunnel_key", "remote_ipv6")) + 4,
        ]
        .contains(&size)
}

impl Kernel {
    /// `skb_tunnel_info`: the `metadata_dst` it is in.
    fn skb_metadata(&self, skb: u64) -> Option<u64> {
        let dst = self.get(skb, field!("sk_buff", "_skb_refdst")) & !1;
        (dst != 0).then_some(dst)
    }

    fn md_dst(&mut self, cpu: CpuId) -> Result<u64, Errno> {
        if let Some(md) = self.net.md_dst.get(&cpu) {
            return Ok(*md);
        }
        let size = crate::size!("metadata_dst") + OPTS_MAX + 1;
        let md = self.kzalloc(size, "metadata_dst")?;
        self.net.md_dst.insert(cpu, md);
        Ok(md)
    }

    /// A number in network order, as it is in memory.
    fn be(&self, v: u64, bytes: u32) -> u64 {
        let swapped = v.swap_bytes() >> (64 - 8 * bytes);
        if self.mem.endian() == bpf::Endian::Little { swapped } else { v }
    }
}

type Outcome = Result<Result<u64, Errno>, Fault>;

fn done(r: Outcome) -> Ret {
    r.map_or_else(Ret::Fault, Ret::from)
}

/// An error that leaves the caller's memory zeroed.
fn cleared(k: &mut Kernel, at: u64, size: u64, e: Errno) -> Outcome {
    k.mem.fill(at, size as usize, 0)?;
    Ok(Err(e))
}

/// No packet of the model came through IPsec: none has a `sec_path`.
fn get_xfrm_state(k: &mut Kernel, _: CpuId, [_, _, to, size, _]: [u64; 5]) -> Ret {
    done(cleared(k, to, size & 0xffff_ffff, Errno::EINVAL))
}

fn get_key(k: &mut Kernel, _: CpuId, [skb, to, size, flags, _]: [u64; 5]) -> Ret {
    let size = size & 0xffff_ffff;
    let run = |k: &mut Kernel| {
        let md = match k.skb_metadata(skb) {
            Some(md) if flags & !(TUNINFO_IPV6 | TUNINFO_FLAGS) == 0 => md,
            _ => return cleared(k, to, size, Errno::EINVAL),
        };
        let v6 = flags & TUNINFO_IPV6 != 0;
        if v6 != (k.get(md, info!("mode")) & MODE_IPV6 != 0) {
            return cleared(k, to, size, Errno::EPROTO);
        }
        // Older programs get IPv4 only, where the address has one word.
        if !size_is_known(size)
            || (v6 && size < u64::from(field!("bpf_tunnel_key", "tunnel_label").off))
        {
            return cleared(k, to, size, Errno::EINVAL);
        }
        let bytes = key_out(k, md, v6, flags & TUNINFO_FLAGS != 0);
        k.mem.write(to, &bytes[..size as usize])?;
        Ok(Ok(0))
    };
    done(run(k))
}

/// `struct bpf_tunnel_key` of a tunnel's metadata.
fn key_out(k: &Kernel, md: u64, v6: bool, with_flags: bool) -> Vec<u8> {
    let mut out = vec![0; crate::size!("bpf_tunnel_key") as usize];
    let endian = k.mem.endian();
    let mut put = |f: Field, v: u64| {
        let b = match endian {
            bpf::Endian::Little => v.to_le_bytes()[..f.size as usize].to_vec(),
            bpf::Endian::Big => v.to_be_bytes()[8 - f.size as usize..].to_vec(),
        };
        out[f.off as usize..(f.off + f.size) as usize].copy_from_slice(&b);
    };
    put(
        field!("bpf_tunnel_key", "tunnel_id"),
        k.be(k.get(md, info!("key.tun_id")), 8) & 0xffff_ffff,
    );
    put(field!("bpf_tunnel_key", "tunnel_tos"), k.get(md, info!("key.tos")));
    put(field!("bpf_tunnel_key", "tunnel_ttl"), k.get(md, info!("key.ttl")));
    if with_flags {
        let flags = k.mem.read_u64(md + u64::from(info!("key.tun_flags").off)).unwrap_or(0);
        put(field!("bpf_tunnel_key", "tunnel_flags"), k.be(flags & 0xffff, 2));
    }
    if !v6 {
        let (src, dst) = (info!("key.u.ipv4.src"), info!("key.u.ipv4.dst"));
        put(field!("bpf_tunnel_key", "remote_ipv4"), k.be(k.get(md, src), 4));
        put(field!("bpf_tunnel_key", "local_ipv4"), k.be(k.get(md, dst), 4));
        return out;
    }
    put(field!("bpf_tunnel_key", "tunnel_label"), k.be(k.get(md, info!("key.label")), 4));
    let pairs = [
        (field!("bpf_tunnel_key", "remote_ipv6"), info!("key.u.ipv6.src")),
        (field!("bpf_tunnel_key", "local_ipv6"), info!("key.u.ipv6.dst")),
    ];
    for (to, from) in pairs {
        let bytes = k.mem.read_vec(md + u64::from(from.off), 16).expect("objects are mapped");
        out[to.off as usize..to.off as usize + 16].copy_from_slice(&bytes);
    }
    out
}

fn set_key(k: &mut Kernel, cpu: CpuId, [skb, from, size, flags, _]: [u64; 5]) -> Ret {
    let size = size & 0xffff_ffff;
    let known = TUNINFO_IPV6 | ZERO_CSUM_TX | DONT_FRAGMENT | SEQ_NUMBER | NO_TUNNEL_KEY;
    if flags & !known != 0 || !size_is_known(size) {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let run = |k: &mut Kernel| {
        let mut key = k.mem.read_vec(from, size as usize)?;
        key.resize(crate::size!("bpf_tunnel_key") as usize, 0);
        let endian = k.mem.endian();
        let get = |f: Field| {
            let b = &key[f.off as usize..(f.off + f.size) as usize];
            let add = |v: u64, b: &u8| v << 8 | u64::from(*b);
            match endian {
                bpf::Endian::Little => b.iter().rev().fold(0, add),
                bpf::Endian::Big => b.iter().fold(0, add),
            }
        };
        let (v6, label) =
            (flags & TUNINFO_IPV6 != 0, get(field!("bpf_tunnel_key", "tunnel_label")));
        if (!v6 && label != 0) || get(field!("bpf_tunnel_key", "tunnel_ext")) != 0 {
            return Ok(Err(Errno::EINVAL));
        }
        let md = match k.md_dst(cpu) {
            Ok(md) => md,
            Err(e) => return Ok(Err(e)),
        };
        let numbers = [
            (info!("key.tun_id"), k.be(get(field!("bpf_tunnel_key", "tunnel_id")), 8)),
            (info!("key.tos"), get(field!("bpf_tunnel_key", "tunnel_tos"))),
            (info!("key.ttl"), get(field!("bpf_tunnel_key", "tunnel_ttl"))),
            (info!("key.flow_flags"), ANYSRC),
            (info!("mode"), MODE_TX | if v6 { MODE_IPV6 } else { 0 }),
            (info!("options_len"), 0),
            (info!("key.label"), k.be(label & LABEL_MASK, 4)),
        ];
        k.mem.fill(md, crate::size!("metadata_dst") as usize, 0)?;
        for (f, v) in numbers {
            k.set(md, f, v);
        }
        k.mem.write_u64(md + u64::from(info!("key.tun_flags").off), tun_flags(flags))?;
        addresses(k, md, &key, v6)?;
        k.set(skb, field!("sk_buff", "_skb_refdst"), md);
        Ok(Ok(0))
    };
    done(run(k))
}

/// The program's remote is where the packet goes.
fn addresses(k: &mut Kernel, md: u64, key: &[u8], v6: bool) -> Result<(), Fault> {
    let (remote, local) =
        (field!("bpf_tunnel_key", "remote_ipv6"), field!("bpf_tunnel_key", "local_ipv6"));
    let bytes = |f: Field, n: usize| key[f.off as usize..f.off as usize + n].to_vec();
    let pairs = match v6 {
        true => [
            (info!("key.u.ipv6.dst"), bytes(remote, 16)),
            (info!("key.u.ipv6.src"), bytes(local, 16)),
        ],
        false => {
            let order = |mut b: Vec<u8>| {
                // cpu_to_be32
                if k.mem.endian() == bpf::Endian::Little {
                    b.reverse();
                }
                b
            };
            [
                (info!("key.u.ipv4.dst"), order(bytes(remote, 4))),
                (info!("key.u.ipv4.src"), order(bytes(local, 4))),
            ]
        }
    };
    for (f, b) in pairs {
        k.mem.write(md + u64::from(f.off), &b)?;
    }
    Ok(())
}

fn tun_flags(flags: u64) -> u64 {
    let mut tun = KEY_BIT | CSUM_BIT | NOCACHE_BIT;
    if flags & DONT_FRAGMENT != 0 {
        tun |= DONT_FRAGMENT_BIT;
    }
    if flags & ZERO_CSUM_TX != 0 {
        tun &= !CSUM_BIT;
    }
    if flags & SEQ_NUMBER != 0 {
        tun |= SEQ_BIT;
    }
    if flags & NO_TUNNEL_KEY != 0 {
        tun &= !KEY_BIT;
    }
    tun
}

fn get_opt(k: &mut Kernel, _: CpuId, [skb, to, size, ..]: [u64; 5]) -> Ret {
    let size = size & 0xffff_ffff;
    let run = |k: &mut Kernel| {
        let md = k.skb_metadata(skb);
        let flags = |md| k.mem.read_u64(md + u64::from(info!("key.tun_flags").off)).unwrap_or(0);
        let Some(md) = md.filter(|md| flags(*md) & OPTIONS != 0) else {
            return cleared(k, to, size, Errno::ENOENT);
        };
        let len = k.get(md, info!("options_len"));
        if size < len {
            return cleared(k, to, size, Errno::ENOMEM);
        }
        let mut bytes = k.mem.read_vec(md + crate::size!("metadata_dst"), len as usize)?;
        bytes.resize(size as usize, 0);
        k.mem.write(to, &bytes)?;
        Ok(Ok(len))
    };
    done(run(k))
}

fn set_opt(k: &mut Kernel, cpu: CpuId, [skb, from, size, ..]: [u64; 5]) -> Ret {
    let size = size & 0xffff_ffff;
    let own = k.net.md_dst.get(&cpu).copied();
    let Some(md) = own.filter(|md| k.skb_metadata(skb) == Some(*md) && size.is_multiple_of(4))
    else {
        return Ret::Val(Errno::EINVAL.ret());
    };
    if size > OPTS_MAX {
        return Ret::Val(Errno::ENOMEM.ret());
    }
    let run = |k: &mut Kernel| -> Outcome {
        let bytes = k.mem.read_vec(from, size as usize)?;
        k.mem.write(md + crate::size!("metadata_dst"), &bytes)?;
        k.set(md, info!("options_len"), size);
        let at = md + u64::from(info!("key.tun_flags").off);
        let flags = k.mem.read_u64(at)?;
        k.mem.write_u64(at, flags | OPTIONS)?;
        Ok(Ok(0))
    };
    done(run(k))
}
