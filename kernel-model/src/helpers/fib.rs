//! `bpf_fib_lookup` and `bpf_redirect_neigh` (net/core/filter.c).

use std::net::IpAddr;

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::net::{NextHop, RedirectInfo, Route, RouteKind, TABLE_MAIN, Target};
use crate::types::Field;
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 69, name: "fib_lookup", nargs: 4, body: fib_lookup },
    HelperRow { id: 152, name: "redirect_neigh", nargs: 4, body: redirect_neigh },
];

/// `BPF_FIB_LOOKUP_*`.
const DIRECT: u64 = 1;
const OUTPUT: u64 = 1 << 1;
const SKIP_NEIGH: u64 = 1 << 2;
const TBID: u64 = 1 << 3;
const SRC: u64 = 1 << 4;
const ALL_FLAGS: u64 = 0x3f;
/// `BPF_FIB_LKUP_RET_*`.
const SUCCESS: u64 = 0;
const BLACKHOLE: u64 = 1;
const UNREACHABLE: u64 = 2;
const PROHIBIT: u64 = 3;
const NOT_FWDED: u64 = 4;
const FWD_DISABLED: u64 = 5;
const NO_NEIGH: u64 = 7;
const FRAG_NEEDED: u64 = 8;
const AF_INET: u64 = 2;
const AF_INET6: u64 = 10;
/// `TC_ACT_SHOT` and `TC_ACT_REDIRECT`.
const TC_ACT_SHOT: u64 = 2;
const TC_ACT_REDIRECT: u64 = 7;
/// `IP_MAX_MTU`.
const MTU_MAX: u32 = 0xfff0;

/// `struct bpf_fib_lookup` as the program has it.
struct Params {
    bytes: Vec<u8>,
    endian: bpf::Endian,
}

impl Params {
    fn get(&self, f: Field) -> u64 {
        let b = &self.bytes[f.off as usize..(f.off + f.size) as usize];
        let add = |v: u64, b: &u8| v << 8 | u64::from(*b);
        match self.endian {
            bpf::Endian::Little => b.iter().rev().fold(0, add),
            bpf::Endian::Big => b.iter().fold(0, add),
        }
    }

    fn set(&mut self, f: Field, v: u64) {
        let n = f.size as usize;
        let b = match self.endian {
            bpf::Endian::Little => v.to_le_bytes()[..n].to_vec(),
            bpf::Endian::Big => v.to_be_bytes()[8 - n..].to_vec(),
        };
        self.put(f, &b);
    }

    fn put(&mut self, f: Field, b: &[u8]) {
        self.bytes[f.off as usize..f.off as usize + b.len()].copy_from_slice(b);
    }

    fn address(&self, f: Field, v6: bool) -> IpAddr {
        let b = &self.bytes[f.off as usize..];
        match v6 {
            true => IpAddr::from(<[u8; 16]>::try_from(&b[..16]).expect("16 bytes")),
            false => IpAddr::from(<[u8; 4]>::try_from(&b[..4]).expect("4 bytes")),
        }
    }

    fn put_address(&mut self, f: Field, ip: IpAddr) {
        match ip {
            IpAddr::V4(a) => self.put(f, &a.octets()),
            IpAddr::V6(a) => self.put(f, &a.octets()),
        }
    }
}

fn fib_lookup(k: &mut Kernel, cpu: CpuId, [ctx, at, plen, flags, _]: [u64; 5]) -> Ret {
    let size = crate::size!("bpf_fib_lookup");
    let flags = flags & 0xffff_ffff;
    if (plen as i32) < size as i32 || flags & !ALL_FLAGS != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let xdp = k.running_type(cpu) == Some(bpf::uapi::ProgType::Xdp);
    let run = |k: &mut Kernel| -> Result<u64, Fault> {
        let bytes = k.mem.read_vec(at, size as usize)?;
        let mut p = Params { bytes, endian: k.mem.endian() };
        let stated = p.get(field!("bpf_fib_lookup", "tot_len")) != 0;
        let mut rc = match p.get(field!("bpf_fib_lookup", "family")) {
            AF_INET => lookup(k, &mut p, flags, xdp || stated, false),
            AF_INET6 => lookup(k, &mut p, flags, xdp || stated, true),
            _ => Errno::EAFNOSUPPORT.ret(),
        };
        if !xdp && rc == SUCCESS && !stated {
            // Without a length the packet's own is compared with the device's MTU.
            let dev = k.dev_addr(p.get(field!("bpf_fib_lookup", "ifindex")) as u32);
            let mtu = k.get(dev, field!("net_device", "mtu"));
            let room = mtu + k.get(dev, field!("net_device", "hard_header_len")) + 4;
            if k.get(ctx, field!("sk_buff", "len")) > room {
                rc = FRAG_NEEDED;
            }
            p.set(field!("bpf_fib_lookup", "mtu_result"), mtu);
        }
        k.mem.write(at, &p.bytes)?;
        Ok(rc)
    };
    run(k).map_or_else(Ret::Fault, Ret::Val)
}

/// `rt6_need_strict`: multicast and link-local addresses are never forwarded.
fn strict(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(a) if a.is_multicast() || a.segments()[0] & 0xffc0 == 0xfe80)
}

/// `bpf_ipv4_fib_lookup` and `bpf_ipv6_fib_lookup`.
fn lookup(k: &Kernel, p: &mut Params, flags: u64, check_mtu: bool, v6: bool) -> u64 {
    let (src, dst) = match v6 {
        true => (field!("bpf_fib_lookup", "ipv6_src"), field!("bpf_fib_lookup", "ipv6_dst")),
        false => (field!("bpf_fib_lookup", "ipv4_src"), field!("bpf_fib_lookup", "ipv4_dst")),
    };
    if strict(p.address(dst, v6)) || strict(p.address(src, v6)) {
        return NOT_FWDED;
    }
    let ifindex = p.get(field!("bpf_fib_lookup", "ifindex")) as u32;
    if !k.net.nics.contains_key(&ifindex) {
        return Errno::ENODEV.ret();
    }
    if !k.net.fib.forwards() {
        return FWD_DISABLED;
    }
    let mut table = None;
    if flags & DIRECT != 0 {
        table = Some(TABLE_MAIN);
        if flags & TBID != 0 {
            table = Some(p.get(field!("bpf_fib_lookup", "tbid")) as u32);
            p.set(field!("bpf_fib_lookup", "tbid"), 0);
        }
        if table.is_some_and(|t| !k.net.fib.has_table(t)) {
            return NOT_FWDED;
        }
    }
    let oif = if flags & OUTPUT != 0 { ifindex } else { 0 };
    match k.net.fib.lookup(table, p.address(dst, v6), oif) {
        None => NOT_FWDED,
        Some(route) => match route.kind {
            RouteKind::Unicast => forward(k, p, route, flags, check_mtu),
            RouteKind::Blackhole => BLACKHOLE,
            RouteKind::Unreachable => UNREACHABLE,
            RouteKind::Prohibit => PROHIBIT,
            RouteKind::Local => NOT_FWDED,
        },
    }
}

/// The way along a unicast route.
fn forward(k: &Kernel, p: &mut Params, route: &Route, flags: u64, check_mtu: bool) -> u64 {
    let v6 = route.to.is_ipv6();
    let dev = k.dev_addr(route.dev);
    let mut mtu = 0;
    if check_mtu {
        let own = (k.get(dev, field!("net_device", "mtu")) as u32).min(MTU_MAX);
        mtu = route.mtu.unwrap_or(own);
        if p.get(field!("bpf_fib_lookup", "tot_len")) > mtu.into() {
            p.set(field!("bpf_fib_lookup", "mtu_result"), mtu.into());
            return FRAG_NEEDED;
        }
    }
    p.set(field!("bpf_fib_lookup", "rt_metric"), route.metric.into());
    p.set(field!("bpf_fib_lookup", "ifindex"), route.dev.into());
    let src = if v6 {
        field!("bpf_fib_lookup", "ipv6_src")
    } else {
        field!("bpf_fib_lookup", "ipv4_src")
    };
    if flags & SRC != 0
        && let Some(ip) = route.src
    {
        p.put_address(src, ip);
    }
    let dst = field!("bpf_fib_lookup", "ipv6_dst");
    if let Some(gateway) = route.via {
        if !v6 && gateway.is_ipv6() {
            p.set(field!("bpf_fib_lookup", "family"), AF_INET6);
        }
        p.put_address(dst, gateway);
    }
    if flags & SKIP_NEIGH == 0 {
        let to = route.via.unwrap_or_else(|| p.address(dst, v6));
        let Some(mac) = k.net.fib.neighbour(route.dev, to) else { return NO_NEIGH };
        let at = k.get(dev, field!("net_device", "dev_addr"));
        let own = k.mem.read_vec(at, 6).expect("devices are mapped");
        p.put(field!("bpf_fib_lookup", "dmac"), &mac);
        p.put(field!("bpf_fib_lookup", "smac"), &own);
    }
    p.set(field!("bpf_fib_lookup", "h_vlan_TCI"), 0);
    p.set(field!("bpf_fib_lookup", "h_vlan_proto"), 0);
    if mtu != 0 {
        p.set(field!("bpf_fib_lookup", "mtu_result"), mtu.into());
    }
    SUCCESS
}

/// A packet leaves a device with the link-layer addresses of its next hop.
fn redirect_neigh(k: &mut Kernel, cpu: CpuId, [ifindex, at, plen, flags, _]: [u64; 5]) -> Ret {
    let plen = plen as i32;
    let size = crate::size!("bpf_redir_neigh");
    if (plen != 0 && plen < size as i32) || flags != 0 {
        return Ret::Val(TC_ACT_SHOT);
    }
    let mut hop = NextHop::Routed;
    if plen != 0 {
        let bytes = match k.mem.read_vec(at, size as usize) {
            Ok(bytes) => bytes,
            Err(f) => return Ret::Fault(f.into()),
        };
        let p = Params { bytes, endian: k.mem.endian() };
        let v6 = p.get(field!("bpf_redir_neigh", "nh_family")) == AF_INET6;
        hop = NextHop::Given(p.address(field!("bpf_redir_neigh", "ipv6_nh"), v6));
    }
    let target = Target::Device(ifindex as u32);
    let info = RedirectInfo { target, flags, neigh: Some(hop), ..RedirectInfo::default() };
    k.net.redirect.insert(cpu, info);
    Ret::Val(TC_ACT_REDIRECT)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::NicConfig;
    use crate::{Config, Frame, ProgId};
    use bpf::Arch;

    const AT: u64 = crate::layout::DIRECT_MAP + 0x20_0000;

    /// A router: 10.1/16 behind 10.0.0.2 on the second device, 10.0.0/24 on the first.
    fn router(arch: Arch) -> Kernel {
        let mut k = Kernel::new(Config { arch, ..Config::default() });
        for (n, mtu) in [("eth0", 1500), ("eth1", 1400)] {
            k.net_add(NicConfig { name: n.into(), mtu, ..NicConfig::default() }).unwrap();
        }
        let ip = |s: &str| s.parse::<IpAddr>().unwrap();
        k.route_add(Route::new(ip("10.0.0.0"), 24, 1)).unwrap();
        let via = Some(ip("10.0.0.2"));
        let far = Route::new(ip("10.1.0.0"), 16, 2);
        k.route_add(Route { via, metric: 7, ..far.clone() }).unwrap();
        k.route_add(Route { metric: 9, ..far }).unwrap();
        let kind = RouteKind::Prohibit;
        k.route_add(Route { kind, ..Route::new(ip("10.1.9.0"), 24, 0) }).unwrap();
        k.route_add(Route { table: 100, ..Route::new(ip("0.0.0.0"), 0, 1) }).unwrap();
        k.neighbour_add(2, ip("10.0.0.2"), [2, 0, 0, 0, 0, 9]).unwrap();
        assert_eq!(k.route_add(Route::new(ip("10.0.0.0"), 24, 9)), Err(Errno::ENODEV));
        k.submit(CpuId(0), Frame::Hook { prog: ProgId(7), ctx: 0, cookie: 0, free: 0 });
        let _ = k.next(CpuId(0));
        k
    }

    /// Result, device, metric and destination address.
    fn ask(k: &mut Kernel, to: [u8; 4], len: u16, flags: u64) -> (i64, u64, u64, Vec<u8>) {
        let mut p = Params { bytes: vec![0; 64], endian: k.mem.endian() };
        p.set(field!("bpf_fib_lookup", "family"), AF_INET);
        p.set(field!("bpf_fib_lookup", "ifindex"), 1);
        p.set(field!("bpf_fib_lookup", "tot_len"), len.into());
        p.put(field!("bpf_fib_lookup", "ipv4_dst"), &to);
        p.set(field!("bpf_fib_lookup", "tbid"), if flags & TBID != 0 { 100 } else { 0 });
        k.mem.write(AT, &p.bytes).unwrap();
        let Ret::Val(rc) = fib_lookup(k, CpuId(0), [0, AT, 64, flags, 0]) else { panic!() };
        p.bytes = k.mem.read_vec(AT, 64).unwrap();
        let dmac = field!("bpf_fib_lookup", "dmac").off as usize;
        (
            rc.cast_signed(),
            p.get(field!("bpf_fib_lookup", "ifindex")),
            p.get(field!("bpf_fib_lookup", "rt_metric")),
            p.bytes[dmac..dmac + 6].to_vec(),
        )
    }

    #[test]
    fn the_longest_prefix_and_then_the_lowest_metric_in_both_byte_orders() {
        for arch in [Arch::X86_64, Arch::S390x] {
            let mut k = router(arch);
            let found = ask(&mut k, [10, 1, 2, 3], 1000, 0);
            assert_eq!(found, (0, 2, 7, vec![2, 0, 0, 0, 0, 9]));
            assert_eq!(ask(&mut k, [10, 1, 2, 3], 1401, 0).0, FRAG_NEEDED.cast_signed());
            assert_eq!(ask(&mut k, [10, 0, 0, 5], 100, 0).0, NO_NEIGH.cast_signed());
            assert_eq!(ask(&mut k, [10, 0, 0, 5], 100, SKIP_NEIGH).0, 0);
            assert_eq!(ask(&mut k, [10, 1, 9, 1], 100, 0).0, PROHIBIT.cast_signed());
            assert_eq!(ask(&mut k, [10, 2, 0, 1], 100, 0).0, NOT_FWDED.cast_signed());
            let direct = DIRECT | TBID | SKIP_NEIGH;
            assert_eq!(ask(&mut k, [10, 2, 0, 1], 100, direct).1, 1);
            // Out of the first device there is no way.
            assert_eq!(ask(&mut k, [10, 1, 2, 3], 100, OUTPUT).0, NOT_FWDED.cast_signed());
        }
    }
}
