//! Reading memory, strings, tasks (kernel/trace/bpf_trace.c, kernel/bpf/helpers.c).

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::layout::{KERNEL_HALF, USER_END};
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 4, name: "probe_read", nargs: 3, body: probe_read },
    HelperRow { id: 14, name: "get_current_pid_tgid", nargs: 0, body: get_current_pid_tgid },
    HelperRow { id: 28, name: "csum_diff", nargs: 5, body: csum_diff },
    HelperRow { id: 45, name: "probe_read_str", nargs: 3, body: probe_read_str },
    HelperRow { id: 56, name: "perf_prog_read_value", nargs: 3, body: perf_prog_read_value },
    HelperRow { id: 112, name: "probe_read_user", nargs: 3, body: probe_read_user },
    HelperRow { id: 113, name: "probe_read_kernel", nargs: 3, body: probe_read_kernel },
    HelperRow { id: 114, name: "probe_read_user_str", nargs: 3, body: probe_read_user_str },
    HelperRow { id: 115, name: "probe_read_kernel_str", nargs: 3, body: probe_read_kernel_str },
    HelperRow { id: 174, name: "get_attach_cookie", nargs: 1, body: get_attach_cookie },
    HelperRow { id: 182, name: "strncmp", nargs: 3, body: strncmp },
];

/// `sizeof(struct bpf_perf_event_value)`.
const PERF_EVENT_VALUE: u32 = 24;

fn done(r: Result<u64, Fault>) -> Ret {
    r.map_or_else(Ret::Fault, Ret::Val)
}

/// `copy_from_kernel_nofault_allowed`: the user's half is out of range for kernel reads.
fn unreadable(from: u64, kernel: bool) -> Errno {
    if kernel && from < KERNEL_HALF { Errno::ERANGE } else { Errno::EFAULT }
}

/// Whether an address is in the half that is read: the kernel's, or the user's.
fn is_of(from: u64, kernel: bool) -> bool {
    if kernel { from >= KERNEL_HALF } else { from < USER_END }
}

/// 0, or an error and a cleared buffer.
fn probe(k: &mut Kernel, to: u64, len: u64, from: u64, kernel: bool) -> Result<u64, Fault> {
    let len = len as u32 as usize;
    let right_half = is_of(from, kernel) && (kernel || !k.inject_user_page(from, len as u64));
    if kernel && right_half {
        k.check_probe(from, "bpf_probe_read_kernel");
    }
    let read = right_half.then(|| match kernel {
        true => k.mem.read_vec(from, len).ok(),
        false => k.user_read(from, len),
    });
    let read = read.flatten();
    k.mem.write(to, read.as_deref().unwrap_or(&vec![0; len]))?;
    Ok(if read.is_some() { 0 } else { unreadable(from, kernel).ret() })
}

/// Counter, time enabled, time running; with an error the buffer is clear.
fn perf_prog_read_value(k: &mut Kernel, cpu: CpuId, [_, to, size, ..]: [u64; 5]) -> Ret {
    let size = size as u32;
    let prog = k.cpus[cpu.idx()].main_frame().map(|p| p.entry.prog);
    let read = |k: &mut Kernel| -> Result<u64, Fault> {
        k.mem.fill(to, size as usize, 0)?;
        let counted = prog.and_then(|p| k.perf_counted(cpu, p));
        let Some(c) = counted.filter(|_| size == PERF_EVENT_VALUE) else {
            return Ok(Errno::EINVAL.ret());
        };
        for (n, value) in [c.insns, c.time_ns, c.time_ns].into_iter().enumerate() {
            k.mem.write_u64(to + n as u64 * 8, value)?;
        }
        Ok(0)
    };
    done(read(k))
}

/// `bpf_probe_read_compat`: as of the user where the address is.
fn probe_read(k: &mut Kernel, _: CpuId, [to, len, from, ..]: [u64; 5]) -> Ret {
    done(probe(k, to, len, from, !is_of(from, false)))
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
    if !kernel && k.inject_user_page(from, len) {
        k.mem.write(to, &vec![0; len as usize])?;
        return Ok(Errno::EFAULT.ret());
    }
    if kernel {
        k.check_probe(from, "bpf_probe_read_kernel_str");
    }
    let mut out = Vec::new();
    while (out.len() as u64) < len && out.last() != Some(&0) {
        let at = from.wrapping_add(out.len() as u64);
        let byte = match kernel {
            true => k.mem.read_u8(at).ok(),
            false => k.user_read(at, 1).map(|b| b[0]),
        };
        match byte {
            Some(b) if is_of(from, kernel) => out.push(b),
            _ => {
                k.mem.write(to, &vec![0; len as usize])?;
                return Ok(unreadable(from, kernel).ret());
            }
        }
    }
    if let Some(last) = out.last_mut() {
        *last = 0;
    }
    k.mem.write(to, &out)?;
    Ok(out.len() as u64)
}

/// `bpf_probe_read_compat_str`.
fn probe_read_str(k: &mut Kernel, _: CpuId, [to, len, from, ..]: [u64; 5]) -> Ret {
    done(probe_str(k, to, len, from, !is_of(from, false)))
}

fn probe_read_kernel_str(k: &mut Kernel, _: CpuId, [to, len, from, ..]: [u64; 5]) -> Ret {
    done(probe_str(k, to, len, from, true))
}

fn probe_read_user_str(k: &mut Kernel, _: CpuId, [to, len, from, ..]: [u64; 5]) -> Ret {
    done(probe_str(k, to, len, from, false))
}

fn get_current_pid_tgid(k: &mut Kernel, cpu: CpuId, _: [u64; 5]) -> Ret {
    let task = k.cpus[cpu.idx()].task;
    let (pid, tgid) = (k.get(task, field!("task_struct", "pid")), field!("task_struct", "tgid"));
    Ret::Val(k.get(task, tgid) << 32 | pid)
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

/// Ones' complement sum of 32 bits, `csum_add`.
fn csum_add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u32::from(carry)
}

/// Ones' complement sum in memory order (`csum_partial`).
fn csum_partial(bytes: &[u8], big: bool, seed: u32) -> u32 {
    let pair = |p: &[u8]| {
        let b = [p[0], p.get(1).copied().unwrap_or(0)];
        u32::from(if big { u16::from_be_bytes(b) } else { u16::from_le_bytes(b) })
    };
    bytes.chunks(2).map(pair).fold(seed, csum_add)
}

/// `csum_from32to16`.
fn csum_fold(sum: u32) -> u64 {
    u64::from(sum.wrapping_add(sum.rotate_left(16)) >> 16)
}

/// `bpf_csum_diff` of 6.18: of any sizes, folded to 16 bits so that it is equal everywhere.
fn csum_diff(k: &mut Kernel, _: CpuId, [from, from_n, to, to_n, seed]: [u64; 5]) -> Ret {
    let (from_n, to_n, seed) = (from_n as u32 as usize, to_n as u32 as usize, seed as u32);
    let big = k.mem.endian() == bpf::Endian::Big;
    let sum = |at, n, seed| Ok::<u32, Fault>(csum_partial(&k.mem.read_vec(at, n)?, big, seed));
    let diff = || match (from_n, to_n) {
        (0, 0) => Ok(seed),
        (0, _) => sum(to, to_n, seed),
        (_, 0) => Ok(!sum(from, from_n, !seed)?),
        _ => Ok(csum_add(sum(to, to_n, seed)?, !sum(from, from_n, 0)?)),
    };
    done(diff().map(csum_fold))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::layout::DIRECT_MAP;

    #[test]
    fn checksum_differences_are_folded_and_agree_with_a_full_sum() {
        let mut k = Kernel::new(Config::default());
        let (old, new) = (DIRECT_MAP + 0x20_0000, DIRECT_MAP + 0x20_1000);
        k.mem.write(old, &[1, 2, 3, 4]).unwrap();
        k.mem.write(new, &[9, 8, 7, 6]).unwrap();
        let Ret::Val(sum) = csum_diff(&mut k, CpuId(0), [old, 4, new, 4, 0]) else { panic!() };
        let before = u64::from(csum_partial(&[1, 2, 3, 4], false, 0));
        let after = u64::from(csum_partial(&[9, 8, 7, 6], false, 0));
        assert_eq!((before + sum) % 0xffff, after % 0xffff);
        assert!(sum <= 0xffff);
    }

    #[test]
    fn a_failed_probe_clears_its_buffer() {
        let mut k = Kernel::new(Config::default());
        let to = DIRECT_MAP + 0x20_0000;
        k.mem.write_u64(to, !0).unwrap();
        let Ret::Val(r) = probe_read_kernel(&mut k, CpuId(0), [to, 8, 0x1000, 0, 0]) else {
            panic!()
        };
        assert_eq!((r, k.mem.read_u64(to)), (Errno::ERANGE.ret(), Ok(0)));
    }
}
