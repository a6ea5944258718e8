//! SYN cookies of programs without a socket (net/core/filter.c, net/ipv4/syncookies.c,
//! net/ipv6/syncookies.c).
//!
//! The kernel hashes with SipHash under two secrets that it makes at boot, so that no program can
//! know a cookie. Here the hash is SHA-256 and the secrets come of the scenario's seed.

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::sha256::sha256;
use crate::{Errno, Kernel};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 204, name: "tcp_raw_gen_syncookie_ipv4", nargs: 3, body: gen_v4 },
    HelperRow { id: 205, name: "tcp_raw_gen_syncookie_ipv6", nargs: 3, body: gen_v6 },
    HelperRow { id: 206, name: "tcp_raw_check_syncookie_ipv4", nargs: 2, body: check_v4 },
    HelperRow { id: 207, name: "tcp_raw_check_syncookie_ipv6", nargs: 2, body: check_v6 },
];

/// What differs between the versions of IP.
struct Version {
    /// Bytes of its header, and where the addresses are in it.
    header: u64,
    addresses: std::ops::Range<usize>,
    /// The segment size of a SYN that names none, and the sizes that a cookie can tell.
    mss: u16,
    table: [u16; 4],
}

/// `msstab`; `TCP_MSS_DEFAULT`.
const V4: Version =
    Version { header: 20, addresses: 12..20, mss: 536, table: [536, 1300, 1440, 1460] };
/// The IPv6 one; `IPV6_MIN_MTU` less the headers.
const V6: Version =
    Version { header: 40, addresses: 8..40, mss: 1220, table: [1220, 1420, 1440, 8940] };

/// `TCP_SYNCOOKIE_PERIOD`, and how many of them a cookie is good for (`MAX_SYNCOOKIE_AGE`).
const PERIOD_NS: u64 = 60_000_000_000;
const MAX_AGE: u32 = 2;
/// `COOKIEBITS`: the lower ones carry the segment size.
const COOKIE_BITS: u32 = 24;
const COOKIE_MASK: u32 = (1 << COOKIE_BITS) - 1;
/// `sizeof(struct tcphdr)`.
const TCP: u64 = 20;

/// A segment's addresses and header, as far as cookies go.
struct Segment {
    addresses: Vec<u8>,
    tcp: Vec<u8>,
}

impl Segment {
    fn read(k: &Kernel, v: &Version, ip: u64, tcp: u64, len: u64) -> Result<Segment, Fault> {
        let header = k.mem.read_vec(ip, v.header as usize)?;
        let tcp = k.mem.read_vec(tcp, len as usize)?;
        Ok(Segment { addresses: header[v.addresses.clone()].to_vec(), tcp })
    }

    fn number(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.tcp[at..at + 4].try_into().expect("4 bytes"))
    }

    /// `cookie_hash`.
    fn hash(&self, k: &Kernel, count: u32, secret: u8) -> u32 {
        let mut text = k.config.seed.to_be_bytes().to_vec();
        text.push(secret);
        text.extend_from_slice(&self.addresses);
        text.extend_from_slice(&self.tcp[..4]);
        text.extend_from_slice(&count.to_be_bytes());
        let digest = sha256(&text);
        u32::from_be_bytes(digest[..4].try_into().expect("4 bytes"))
    }

    /// `tcp_parse_mss_option`: what the SYN names.
    fn mss(&self) -> Option<u16> {
        let mut at = TCP as usize;
        while let Some(kind) = self.tcp.get(at) {
            // TCPOPT_EOL, TCPOPT_NOP, TCPOPT_MSS
            let len = match kind {
                0 => return None,
                1 => 1,
                _ => usize::from(*self.tcp.get(at + 1)?),
            };
            let option = self.tcp.get(at..at + len).filter(|_| *kind == 1 || len >= 2)?;
            if let [2, 4, high, low] = option {
                return Some(u16::from_be_bytes([*high, *low])).filter(|m| *m != 0);
            }
            at += len;
        }
        None
    }
}

/// `tcp_cookie_time`.
fn period(k: &Kernel, cpu: CpuId) -> u32 {
    (k.now(cpu) / PERIOD_NS) as u32
}

/// `secure_tcp_syn_cookie`, with the segment size above it.
fn generate(k: &Kernel, cpu: CpuId, v: &Version, [ip, tcp, len, ..]: [u64; 5]) -> Ret {
    let len = u64::from(len as u32);
    let make = || -> Result<Result<u64, Errno>, Fault> {
        if len < TCP {
            return Ok(Err(Errno::EINVAL));
        }
        let s = Segment::read(k, v, ip, tcp, len)?;
        if len != u64::from(s.tcp[12] >> 4) * 4 {
            return Ok(Err(Errno::EINVAL));
        }
        let wanted = s.mss().unwrap_or(v.mss);
        let index = v.table.iter().rposition(|m| *m <= wanted).unwrap_or(0);
        let count = period(k, cpu);
        let data = s.hash(k, count, 1).wrapping_add(index as u32) & COOKIE_MASK;
        let cookie = s.hash(k, 0, 0).wrapping_add(s.number(4));
        let cookie = cookie.wrapping_add(count << COOKIE_BITS).wrapping_add(data);
        Ok(Ok(u64::from(cookie) | u64::from(v.table[index]) << 32))
    };
    make().into()
}

/// `check_tcp_syn_cookie` of the ACK that ends a handshake.
fn check(k: &Kernel, cpu: CpuId, v: &Version, [ip, tcp, ..]: [u64; 5]) -> Ret {
    let look = || -> Result<Result<u64, Errno>, Fault> {
        let s = Segment::read(k, v, ip, tcp, TCP)?;
        let (seq, cookie) = (s.number(4).wrapping_sub(1), s.number(8).wrapping_sub(1));
        let cookie = cookie.wrapping_sub(s.hash(k, 0, 0).wrapping_add(seq));
        let count = period(k, cpu);
        let age = count.wrapping_sub(cookie >> COOKIE_BITS) & (u32::MAX >> COOKIE_BITS);
        let index = cookie.wrapping_sub(s.hash(k, count.wrapping_sub(age), 1)) & COOKIE_MASK;
        let known = age < MAX_AGE && (index as usize) < v.table.len();
        Ok(if known { Ok(0) } else { Err(Errno::EACCES) })
    };
    look().into()
}

fn gen_v4(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    generate(k, cpu, &V4, args)
}

fn gen_v6(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    generate(k, cpu, &V6, args)
}

fn check_v4(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    check(k, cpu, &V4, args)
}

fn check_v6(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    check(k, cpu, &V6, args)
}
