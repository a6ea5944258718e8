//! Options in the headers of TCP segments (`bpf_sock_ops_load_hdr_opt`,
//! `bpf_sock_ops_store_hdr_opt`, `bpf_sock_ops_reserve_hdr_opt` of net/core/filter.c).

use super::{HelperRow, Ret};
use crate::cpu::CpuId;
use crate::net::{HDR_OPT_LEN_CB, TCP_BPF_SYN, WRITE_HDR_OPT_CB, tcp_option_at};
use crate::{Errno, Kernel, field, size};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 142, name: "load_hdr_opt", nargs: 4, body: load },
    HelperRow { id: 143, name: "store_hdr_opt", nargs: 4, body: store },
    HelperRow { id: 144, name: "reserve_hdr_opt", nargs: 3, body: reserve },
];

/// `TCPOPT_EOL`, `TCPOPT_NOP`.
const EOL: u8 = 0;
const NOP: u8 = 1;
/// `BPF_LOAD_HDR_OPT_TCP_SYN`.
const FROM_SYN: u64 = 1;

/// What a search for an option ends with.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    At(usize, usize),
    /// There is none, and none follows what is there (`TCPOPT_EOL`), or not.
    None(bool),
    /// What is there is no list of options.
    Bad,
}

/// `bpf_search_tcp_opt`.
fn search(options: &[u8], kind: u8, magic: &[u8]) -> Found {
    let mut at = 0;
    while at < options.len() {
        let Some((len, body)) = tcp_option_at(options, at) else {
            return if options[at] == EOL { Found::None(true) } else { Found::Bad };
        };
        if options[at] == kind {
            if body.starts_with(magic) {
                return Found::At(at, len);
            }
            if magic.len() > body.len() {
                return Found::None(false);
            }
        }
        at += len;
    }
    Found::None(false)
}

/// One of the kinds for experiments (RFC 6994), which have a magic number.
fn is_experiment(kind: u8) -> bool {
    matches!(kind, 253 | 254)
}

/// Options from the end of the fixed header to the end of what the program may see.
fn visible(k: &Kernel, ctx: u64) -> Vec<u8> {
    let skb = k.get(ctx, field!("bpf_sock_ops_kern", "skb"));
    let from = k.get(skb, field!("sk_buff", "data")) + size!("tcphdr");
    let end = k.get(ctx, field!("bpf_sock_ops_kern", "skb_data_end"));
    k.bytes(from, end.saturating_sub(from))
}

/// Copies what fits into a buffer whose length is known, and clears the rest; the value is the
/// length, or an error where it does not fit.
pub(super) fn put(k: &mut Kernel, bytes: Result<Vec<u8>, Errno>, (buf, len): (u64, u64)) -> Ret {
    let len = len as u32 as usize;
    let ret = match &bytes {
        Ok(b) if b.len() > len => Errno::ENOSPC.ret(),
        Ok(b) => b.len() as u64,
        Err(e) => e.ret(),
    };
    let mut bytes = bytes.unwrap_or_default();
    bytes.resize(len, 0);
    k.mem.write(buf, &bytes).map_or_else(|fault| Ret::Fault(fault.into()), |()| Ret::Val(ret))
}

fn load(k: &mut Kernel, _: CpuId, [ctx, buf, len, flags, _]: [u64; 5]) -> Ret {
    let asked = match k.mem.read_vec(buf, (len as u32 as usize).min(6)) {
        Ok(asked) => asked,
        Err(fault) => return Ret::Fault(fault.into()),
    };
    match find(k, ctx, (&asked, len as u32), flags) {
        Err(e) => Ret::Val(e.ret()),
        Ok(option) => {
            let short = option.len() > len as u32 as usize;
            let ret = if short { Errno::ENOSPC.ret() } else { option.len() as u64 };
            let fits = &option[..option.len().min(len as u32 as usize)];
            let done = k.mem.write(buf, fits);
            done.map_or_else(|fault| Ret::Fault(fault.into()), |()| Ret::Val(ret))
        }
    }
}

/// The option that the first bytes of a buffer of so many bytes ask for.
fn find(k: &Kernel, ctx: u64, (asked, len): (&[u8], u32), flags: u64) -> Result<Vec<u8>, Errno> {
    let &[kind, given, ..] = asked else { return Err(Errno::EINVAL) };
    if flags & !FROM_SYN != 0 || u32::from(given) > len || matches!(kind, EOL | NOP) {
        return Err(Errno::EINVAL);
    }
    let magic = match (is_experiment(kind), given) {
        (true, 4 | 6) => &asked[2..given.into()],
        (false, 0) => &[],
        _ => return Err(Errno::EINVAL),
    };
    let options = if flags & FROM_SYN != 0 {
        k.tcp_get_syn(ctx, TCP_BPF_SYN)?.split_off(size!("tcphdr") as usize)
    } else {
        let op = k.get(ctx, field!("bpf_sock_ops_kern", "op"));
        let skb = k.get(ctx, field!("bpf_sock_ops_kern", "skb"));
        if skb == 0 || op == HDR_OPT_LEN_CB.into() {
            return Err(Errno::EPERM);
        }
        visible(k, ctx)
    };
    match search(&options, kind, magic) {
        Found::At(at, len) => Ok(options[at..at + len].to_vec()),
        Found::None(_) => Err(Errno::ENOMSG),
        Found::Bad => Err(Errno::EFAULT),
    }
}

fn store(k: &mut Kernel, _: CpuId, [ctx, from, len, flags, _]: [u64; 5]) -> Ret {
    let bytes = match k.mem.read_vec(from, len as u32 as usize) {
        Ok(bytes) => bytes,
        Err(fault) => return Ret::Fault(fault.into()),
    };
    store_bytes(k, ctx, &bytes, flags).map(|()| 0).into()
}

fn store_bytes(k: &mut Kernel, ctx: u64, bytes: &[u8], flags: u64) -> Result<(), Errno> {
    if k.get(ctx, field!("bpf_sock_ops_kern", "op")) != WRITE_HDR_OPT_CB.into() {
        return Err(Errno::EPERM);
    }
    let (&[kind, len, ..], 0) = (bytes, flags) else { return Err(Errno::EINVAL) };
    if usize::from(len) > bytes.len() || matches!(kind, EOL | NOP) {
        return Err(Errno::EINVAL);
    }
    let left = field!("bpf_sock_ops_kern", "remaining_opt_len");
    let room = k.get(ctx, left);
    if u64::from(len) > room {
        return Err(Errno::ENOSPC);
    }
    // Two bytes of a magic number are enough to be taken for the same.
    let magic = match (is_experiment(kind), len) {
        (true, ..4) => return Err(Errno::EINVAL),
        (true, _) => &bytes[2..4],
        (false, _) => &[],
    };
    match search(&visible(k, ctx), kind, magic) {
        Found::At(..) => return Err(Errno::EEXIST),
        Found::Bad => return Err(Errno::EFAULT),
        Found::None(true) => return Err(Errno::ENOSPC),
        Found::None(false) => {}
    }
    let end = field!("bpf_sock_ops_kern", "skb_data_end");
    let at = k.get(ctx, end);
    k.mem.write(at, &bytes[..len.into()]).map_err(|_| Errno::EFAULT)?;
    k.set(ctx, left, room - u64::from(len));
    k.set(ctx, end, at + u64::from(len));
    Ok(())
}

fn reserve(k: &mut Kernel, _: CpuId, [ctx, len, flags, ..]: [u64; 5]) -> Ret {
    let len = len & 0xffff_ffff;
    let left = field!("bpf_sock_ops_kern", "remaining_opt_len");
    let room = k.get(ctx, left);
    let op = k.get(ctx, field!("bpf_sock_ops_kern", "op"));
    if op != HDR_OPT_LEN_CB.into() {
        return Ret::Val(Errno::EPERM.ret());
    }
    if flags != 0 || len < 2 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    if len > room {
        return Ret::Val(Errno::ENOSPC.ret());
    }
    k.set(ctx, left, room - len);
    Ret::Val(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_found_by_kind_and_magic() {
        let options = [1, 2, 4, 5, 0xb4, 254, 4, 1, 2, 254, 6, 3, 4, 5, 6, 0, 9];
        assert_eq!(search(&options, 2, &[]), Found::At(1, 4));
        assert_eq!(search(&options, 254, &[3, 4]), Found::At(9, 6));
        // An earlier one of the kind that is too short for the magic ends the search.
        assert_eq!(search(&options, 254, &[3, 4, 5, 6]), Found::None(false));
        assert_eq!(search(&options, 8, &[]), Found::None(true));
        assert_eq!(search(&options[..5], 8, &[]), Found::None(false));
        assert_eq!(search(&[5, 9, 0], 8, &[]), Found::Bad);
        assert_eq!(search(&[5, 1], 5, &[]), Found::Bad);
    }
}
