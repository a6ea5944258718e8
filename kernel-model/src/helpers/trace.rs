//! Reading memory, strings, tasks and printing (kernel/trace/bpf_trace.c, kernel/bpf/helpers.c).

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::layout::DIRECT_MAP;
use crate::{Errno, EventKind, Kernel};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 4, name: "probe_read", nargs: 3, body: probe_read_kernel },
    HelperRow { id: 6, name: "trace_printk", nargs: 5, body: trace_printk },
    HelperRow { id: 14, name: "get_current_pid_tgid", nargs: 0, body: get_current_pid_tgid },
    HelperRow { id: 28, name: "csum_diff", nargs: 5, body: csum_diff },
    HelperRow { id: 45, name: "probe_read_str", nargs: 3, body: probe_read_kernel_str },
    HelperRow { id: 112, name: "probe_read_user", nargs: 3, body: probe_read_user },
    HelperRow { id: 113, name: "probe_read_kernel", nargs: 3, body: probe_read_kernel },
    HelperRow { id: 114, name: "probe_read_user_str", nargs: 3, body: probe_read_user_str },
    HelperRow { id: 115, name: "probe_read_kernel_str", nargs: 3, body: probe_read_kernel_str },
    HelperRow { id: 165, name: "snprintf", nargs: 5, body: snprintf },
    HelperRow { id: 174, name: "get_attach_cookie", nargs: 1, body: get_attach_cookie },
    HelperRow { id: 177, name: "trace_vprintk", nargs: 4, body: trace_vprintk },
    HelperRow { id: 182, name: "strncmp", nargs: 3, body: strncmp },
];

fn done(r: Result<u64, Fault>) -> Ret {
    r.map_or_else(Ret::Fault, Ret::Val)
}

/// 0, or `-EFAULT` and a cleared buffer.
fn probe(k: &mut Kernel, to: u64, len: u64, from: u64, kernel: bool) -> Result<u64, Fault> {
    let len = len as u32 as usize;
    let right_half = (from >= DIRECT_MAP) == kernel;
    let read = right_half.then(|| k.mem.read_vec(from, len).ok()).flatten();
    k.mem.write(to, read.as_deref().unwrap_or(&vec![0; len]))?;
    Ok(if read.is_some() { 0 } else { Errno::EFAULT.ret() })
}

fn probe_read_kernel(k: &mut Kernel, _: CpuId, [to, len, from, ..]: [u64; 5]) -> Ret {
    done(probe(k, to, len, from, true))
}

fn probe_read_user(k: &mut Kernel, _: CpuId, [to, len, from, ..]: [u64; 5]) -> Ret {
    done(probe(k, to, len, from, false))
}

/// Bytes up to and with the NUL, at most `len`, the last one made NUL.
fn probe_str(k: &mut Kernel, to: u64, len: u64, from: u64, kernel: bool) -> Result<u64, Fault> {
    let len = u64::from(len as u32);
    let mut out = Vec::new();
    while (out.len() as u64) < len && out.last() != Some(&0) {
        let at = from.wrapping_add(out.len() as u64);
        match k.mem.read_u8(at) {
            Ok(b) if (from >= DIRECT_MAP) == kernel => out.push(b),
            _ => {
                k.mem.write(to, &vec![0; len as usize])?;
                return Ok(Errno::EFAULT.ret());
            }
        }
    }
    if let Some(last) = out.last_mut() {
        *last = 0;
    }
    k.mem.write(to, &out)?;
    Ok(out.len() as u64)
}

fn probe_read_kernel_str(k: &mut Kernel, _: CpuId, [to, len, from, ..]: [u64; 5]) -> Ret {
    done(probe_str(k, to, len, from, true))
}

fn probe_read_user_str(k: &mut Kernel, _: CpuId, [to, len, from, ..]: [u64; 5]) -> Ret {
    done(probe_str(k, to, len, from, false))
}

fn get_current_pid_tgid(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    let pid = u64::from(k.cpus[cpu.idx()].current);
    Ret::Val(pid << 32 | pid)
}

fn get_attach_cookie(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    Ret::Val(k.cpus[cpu.idx()].main_frame().map_or(0, |p| p.cookie))
}

fn strncmp(k: &mut Kernel, _: CpuId, [a, len, b, ..]: [u64; 5]) -> Ret {
    let diff = || -> Result<u64, Fault> {
        for i in 0..u64::from(len as u32) {
            let (x, y) = (k.mem.read_u8(a + i)?, k.mem.read_u8(b + i)?);
            // The kernel's strncmp gives -1, 0 or 1.
            if x != y {
                return Ok(if x < y { -1i64 as u64 } else { 1 });
            }
            if x == 0 {
                break;
            }
        }
        Ok(0)
    };
    done(diff())
}

/// Ones' complement sum in memory order (`csum_partial`).
fn csum_partial(bytes: &[u8], big: bool) -> u64 {
    let pair = |p: &[u8]| {
        let b = [p[0], p.get(1).copied().unwrap_or(0)];
        u64::from(if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) })
    };
    bytes.chunks(2).map(pair).sum()
}

/// `bpf_csum_diff` of 6.18: the result is folded to 16 bits so that it is equal everywhere.
fn csum_diff(k: &mut Kernel, _: CpuId, [from, from_n, to, to_n, seed]: [u64; 5]) -> Ret {
    let (from_n, to_n) = (from_n as u32, to_n as u32);
    if (from_n | to_n) & 3 != 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    let big = k.mem.endian() == bpf::Endian::Big;
    let sum = || -> Result<u64, Fault> {
        let read = |at, n: u32| match n {
            0 => Ok(Vec::new()),
            n => k.mem.read_vec(at, n as usize),
        };
        let old: Vec<u8> = read(from, from_n)?.iter().map(|b| !b).collect();
        let mut s = u64::from(seed as u32) + csum_partial(&old, big);
        s += csum_partial(&read(to, to_n)?, big);
        while s >> 16 != 0 {
            s = (s & 0xffff) + (s >> 16);
        }
        Ok(s)
    };
    done(sum())
}

fn trace_printk(k: &mut Kernel, cpu: CpuId, [fmt, len, a, b, c]: [u64; 5]) -> Ret {
    done(print(k, cpu, fmt, len, &[a, b, c]))
}

fn trace_vprintk(k: &mut Kernel, cpu: CpuId, [fmt, len, data, data_len, _]: [u64; 5]) -> Ret {
    match varargs(k, data, data_len) {
        Ok(Some(args)) => done(print(k, cpu, fmt, len, &args)),
        Ok(None) => Ret::Val(Errno::EINVAL.ret()),
        Err(fault) => Ret::Fault(fault),
    }
}

/// The u64 array behind `data`, at most `MAX_BPRINTF_VARARGS` of them; `None` is `-EINVAL`.
fn varargs(k: &Kernel, data: u64, data_len: u64) -> Result<Option<Vec<u64>>, Fault> {
    let n = u64::from(data_len as u32);
    if n % 8 != 0 || n > 12 * 8 || (n != 0 && data == 0) {
        return Ok(None);
    }
    let args: Result<Vec<u64>, _> = (0..n / 8).map(|i| k.mem.read_u64(data + 8 * i)).collect();
    Ok(Some(args?))
}

/// Length with the NUL, of what would be written; the buffer gets what fits.
fn snprintf(k: &mut Kernel, _: CpuId, [to, size, fmt, data, data_len]: [u64; 5]) -> Ret {
    let run = |k: &mut Kernel| -> Result<u64, Fault> {
        let Some(args) = varargs(k, data, data_len)? else {
            return Ok(Errno::EINVAL.ret());
        };
        let chars = (0..4096).map_while(|i| k.mem.read_u8(fmt + i).ok().filter(|b| *b != 0));
        let fmt = chars.collect::<Vec<u8>>();
        let Some(text) = format(k, &String::from_utf8_lossy(&fmt), &args) else {
            return Ok(Errno::EINVAL.ret());
        };
        if let Some(room) = (size as u32 as usize).checked_sub(1) {
            let mut out = text.as_bytes()[..text.len().min(room)].to_vec();
            out.push(0);
            k.mem.write(to, &out)?;
        }
        Ok(text.len() as u64 + 1)
    };
    done(run(k))
}

fn print(k: &mut Kernel, cpu: CpuId, fmt: u64, len: u64, args: &[u64]) -> Result<u64, Fault> {
    let raw = k.mem.read_vec(fmt, len as u32 as usize)?;
    let Some(end) = raw.iter().position(|b| *b == 0) else {
        return Ok(Errno::EINVAL.ret());
    };
    let Some(text) = format(k, &String::from_utf8_lossy(&raw[..end]), args) else {
        return Ok(Errno::EINVAL.ret());
    };
    let n = text.len() as u64;
    k.emit(cpu, EventKind::Print { text });
    Ok(n)
}

/// The conversions of `bpf_bprintf_prepare`; `None` is `-EINVAL`.
fn format(k: &Kernel, fmt: &str, args: &[u64]) -> Option<String> {
    let (mut out, mut args) = (String::new(), args.iter());
    let mut chars = fmt.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        if chars.next_if_eq(&'%').is_some() {
            out.push('%');
            continue;
        }
        let mut flags = String::new();
        while let Some(f) = chars.next_if(|c| "0123456789-+# ".contains(*c)) {
            flags.push(f);
        }
        let mut longs = 0;
        while chars.next_if_eq(&'l').is_some() {
            longs += 1;
        }
        let (conv, arg) = (chars.next()?, *args.next()?);
        let text = convert(k, conv, arg, longs > 0, flags.contains('#'))?;
        let left = flags.contains('-');
        let zero = flags.trim_start_matches(['-', '+', '#', ' ']).starts_with('0') && !left;
        let width: usize = flags.trim_start_matches(['-', '+', '#', ' ', '0']).parse().unwrap_or(0);
        out.push_str(&match (left, zero) {
            (true, _) => format!("{text:<width$}"),
            (false, true) => format!("{text:0>width$}"),
            (false, false) => format!("{text:>width$}"),
        });
    }
    Some(out)
}

fn convert(k: &Kernel, conv: char, arg: u64, long: bool, alt: bool) -> Option<String> {
    let unsigned = if long { arg } else { u64::from(arg as u32) };
    let prefix = if alt { "0x" } else { "" };
    Some(match conv {
        'd' | 'i' if long => (arg as i64).to_string(),
        'd' | 'i' => (arg as i32).to_string(),
        'u' => unsigned.to_string(),
        'x' => format!("{prefix}{unsigned:x}"),
        'X' => format!("{prefix}{unsigned:X}"),
        'p' => format!("{arg:016x}"),
        'c' => char::from(arg as u8).to_string(),
        's' => {
            let bytes = (0..512).map_while(|i| k.mem.read_u8(arg + i).ok().filter(|b| *b != 0));
            String::from_utf8_lossy(&bytes.collect::<Vec<u8>>()).into_owned()
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn conversions() {
        let k = Kernel::new(Config::default());
        let f = |fmt, args: &[u64]| format(&k, fmt, args);
        assert_eq!(f("a=%d b=%llu%%", &[!0, !0]).as_deref(), Some("a=-1 b=18446744073709551615%"));
        assert_eq!(
            f("%08x|%-4d|%4u|%#lx", &[255, 7, 8, 16]).as_deref(),
            Some("000000ff|7   |   8|0x10")
        );
        assert_eq!((f("%d", &[]), f("%n", &[0])), (None, None));
    }

    #[test]
    fn checksum_differences_are_folded_and_agree_with_a_full_sum() {
        let mut k = Kernel::new(Config::default());
        let (old, new) = (DIRECT_MAP + 0x20_0000, DIRECT_MAP + 0x20_1000);
        k.mem.write(old, &[1, 2, 3, 4]).unwrap();
        k.mem.write(new, &[9, 8, 7, 6]).unwrap();
        let Ret::Val(sum) = csum_diff(&mut k, CpuId(0), [old, 4, new, 4, 0]) else { panic!() };
        let before = csum_partial(&[1, 2, 3, 4], false);
        let after = csum_partial(&[9, 8, 7, 6], false);
        assert_eq!((before + sum) % 0xffff, after % 0xffff);
        assert!(sum <= 0xffff);
    }

    #[test]
    fn snprintf_cuts_and_tells_the_whole_length() {
        let mut k = Kernel::new(Config::default());
        let (to, fmt, data) =
            (DIRECT_MAP + 0x20_0000, DIRECT_MAP + 0x20_1000, DIRECT_MAP + 0x20_2000);
        k.mem.write(fmt, b"n=%d\0").unwrap();
        k.mem.write_u64(data, 1234).unwrap();
        let Ret::Val(n) = snprintf(&mut k, CpuId(0), [to, 5, fmt, data, 8]) else { panic!() };
        assert_eq!((n, k.mem.read_vec(to, 5).unwrap()), (7, b"n=12\0".to_vec()));
    }

    #[test]
    fn a_failed_probe_clears_its_buffer() {
        let mut k = Kernel::new(Config::default());
        let to = DIRECT_MAP + 0x20_0000;
        k.mem.write_u64(to, !0).unwrap();
        let Ret::Val(r) = probe_read_kernel(&mut k, CpuId(0), [to, 8, 0x1000, 0, 0]) else {
            panic!()
        };
        assert_eq!((r, k.mem.read_u64(to)), (Errno::EFAULT.ret(), Ok(0)));
    }
}
