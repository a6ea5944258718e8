//! Strings in kernel memory that may not be readable (kernel/bpf/helpers.c).

use super::{KfuncRow, row};
use crate::helpers::Ret;
use crate::layout::KERNEL_HALF;
use crate::{Errno, Kernel};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_strcmp", 2, |k, _, a| out(compare(k, a[0], a[1], false))),
    row("bpf_strcasecmp", 2, |k, _, a| out(compare(k, a[0], a[1], true))),
    row("bpf_strchr", 2, |k, _, a| out(find(k, a[0], MAX, a[1] as u8))),
    row("bpf_strchrnul", 2, |k, _, a| out(find_or_end(k, a[0], a[1] as u8))),
    row("bpf_strnchr", 3, |k, _, a| out(find(k, a[0], a[1], a[2] as u8))),
    row("bpf_strrchr", 2, |k, _, a| out(find_last(k, a[0], a[1] as i32))),
    row("bpf_strlen", 1, |k, _, a| out(length(k, a[0], MAX))),
    row("bpf_strnlen", 2, |k, _, a| out(length(k, a[0], a[1]))),
    row("bpf_strspn", 2, |k, _, a| out(span(k, a[0], a[1], true))),
    row("bpf_strcspn", 2, |k, _, a| out(span(k, a[0], a[1], false))),
    row("bpf_strstr", 2, |k, _, a| out(search(k, a[0], a[1], MAX))),
    row("bpf_strnstr", 3, |k, _, a| out(search(k, a[0], a[1], a[2]))),
];

/// `XATTR_SIZE_MAX`: no string is looked at further.
const MAX: u64 = 65536;

type Outcome = Result<i64, Errno>;

fn out(r: Outcome) -> Ret {
    // The functions return int: the upper half of the register is not theirs.
    Ret::Val(match r {
        Ok(v) => v.cast_unsigned(),
        Err(e) => e.ret(),
    })
}

/// `copy_from_kernel_nofault_allowed`.
fn allowed(at: u64) -> Result<(), Errno> {
    if at >= KERNEL_HALF { Ok(()) } else { Err(Errno::ERANGE) }
}

/// `__get_kernel_nofault`.
fn byte(k: &Kernel, at: u64) -> Result<u8, Errno> {
    k.mem.read_u8(at).map_err(|_| Errno::EFAULT)
}

/// `tolower` of lib/ctype.c: Latin-1.
fn lower(c: u8) -> u8 {
    match c {
        b'A'..=b'Z' | 0xc0..=0xd6 | 0xd8..=0xde => c + 0x20,
        _ => c,
    }
}

fn compare(k: &Kernel, a: u64, b: u64, fold: bool) -> Outcome {
    allowed(a)?;
    allowed(b)?;
    for i in 0..MAX {
        let (mut x, mut y) = (byte(k, a + i)?, byte(k, b + i)?);
        if fold {
            (x, y) = (lower(x), lower(y));
        }
        if x != y {
            return Ok(if x < y { -1 } else { 1 });
        }
        if x == 0 {
            return Ok(0);
        }
    }
    Err(Errno::E2BIG)
}

fn find(k: &Kernel, s: u64, count: u64, c: u8) -> Outcome {
    allowed(s)?;
    for i in 0..count.min(MAX) {
        match byte(k, s + i)? {
            b if b == c => return Ok(i.cast_signed()),
            0 => return Err(Errno::ENOENT),
            _ => {}
        }
    }
    Err(if count >= MAX { Errno::E2BIG } else { Errno::ENOENT })
}

fn find_or_end(k: &Kernel, s: u64, c: u8) -> Outcome {
    allowed(s)?;
    for i in 0..MAX {
        let b = byte(k, s + i)?;
        if b == 0 || b == c {
            return Ok(i.cast_signed());
        }
    }
    Err(Errno::E2BIG)
}

fn find_last(k: &Kernel, s: u64, c: i32) -> Outcome {
    allowed(s)?;
    let mut last = Err(Errno::ENOENT);
    for i in 0..MAX {
        let b = byte(k, s + i)?;
        if i32::from(b) == c {
            last = Ok(i.cast_signed());
        }
        if b == 0 {
            return last;
        }
    }
    Err(Errno::E2BIG)
}

fn length(k: &Kernel, s: u64, count: u64) -> Outcome {
    allowed(s)?;
    for i in 0..count.min(MAX) {
        if byte(k, s + i)? == 0 {
            return Ok(i.cast_signed());
        }
    }
    if count >= MAX { Err(Errno::E2BIG) } else { Ok(count.cast_signed()) }
}

/// Bytes from the start that are (or are not) in a set.
fn span(k: &Kernel, s: u64, set: u64, inside: bool) -> Outcome {
    allowed(s)?;
    allowed(set)?;
    for i in 0..MAX {
        let b = byte(k, s + i)?;
        if b == 0 {
            return Ok(i.cast_signed());
        }
        let found = find(k, set, MAX, b);
        match found {
            Ok(_) if !inside => return Ok(i.cast_signed()),
            Ok(_) => {}
            Err(Errno::ENOENT) if inside => return Ok(i.cast_signed()),
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Err(Errno::E2BIG)
}

fn search(k: &Kernel, s: u64, what: u64, len: u64) -> Outcome {
    allowed(s)?;
    allowed(what)?;
    for i in 0..MAX {
        let mut j = 0;
        while i + j <= len && j < MAX {
            let w = byte(k, what + j)?;
            if w == 0 {
                return Ok(i.cast_signed());
            }
            if i + j == len {
                break;
            }
            let b = byte(k, s + i + j)?;
            if b == 0 {
                return Err(Errno::ENOENT);
            }
            if b != w {
                break;
            }
            j += 1;
        }
        if j == MAX {
            return Err(Errno::E2BIG);
        }
        if i + j == len {
            return Err(Errno::ENOENT);
        }
    }
    Err(Errno::E2BIG)
}
