//! Locks and number parsing (kernel/bpf/helpers.c).

use super::{HelperRow, Ret};
use crate::cpu::CpuId;
use crate::lock::Rules;
use crate::{Errno, Kernel};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 93, name: "spin_lock", nargs: 1, body: spin_lock },
    HelperRow { id: 94, name: "spin_unlock", nargs: 1, body: spin_unlock },
    HelperRow { id: 105, name: "strtol", nargs: 4, body: strtol },
    HelperRow { id: 106, name: "strtoul", nargs: 4, body: strtoul },
];

/// `__bpf_spin_lock`: a queued spin lock.
fn spin_lock(k: &mut Kernel, cpu: CpuId, [lock, ..]: [u64; 5]) -> Ret {
    k.prog_lock(cpu, lock, Rules::Plain, ("bpf_spin_lock", None))
}

fn spin_unlock(k: &mut Kernel, cpu: CpuId, [lock, ..]: [u64; 5]) -> Ret {
    k.prog_unlock(cpu, lock).map_or_else(Ret::Fault, |()| Ret::Val(0))
}

fn strtol(k: &mut Kernel, _: CpuId, args: [u64; 5]) -> Ret {
    parse(k, args, true)
}

fn strtoul(k: &mut Kernel, _: CpuId, args: [u64; 5]) -> Ret {
    parse(k, args, false)
}

fn parse(k: &mut Kernel, [buf, len, flags, res, _]: [u64; 5], signed: bool) -> Ret {
    let text = match k.mem.read_vec(buf, len as u32 as usize) {
        Ok(t) => t,
        Err(f) => return Ret::Fault(f.into()),
    };
    let (used, value) = match number(&text, flags, signed) {
        Ok(found) => found,
        Err(e) => return Ret::Val(e.ret()),
    };
    k.mem.write_u64(res, value).map_or_else(|f| Ret::Fault(f.into()), |()| Ret::Val(used))
}

/// `__bpf_strtoull`: bytes consumed and the value. Base 0 is by prefix.
fn number(text: &[u8], flags: u64, signed: bool) -> Result<(u64, u64), Errno> {
    let mut at = text.iter().take_while(|b| b.is_ascii_whitespace()).count();
    if !matches!(flags, 0 | 8 | 10 | 16) {
        return Err(Errno::EINVAL);
    }
    let negative = text.get(at) == Some(&b'-');
    if negative && !signed {
        return Err(Errno::EINVAL);
    }
    at += usize::from(negative);
    let hex = text.get(at) == Some(&b'0')
        && matches!(text.get(at + 1), Some(b'x' | b'X'))
        && text.get(at + 2).is_some_and(u8::is_ascii_hexdigit);
    let base = match flags {
        0 if hex => 16,
        0 if text.get(at) == Some(&b'0') => 8,
        0 => 10,
        b => b as u32,
    };
    at += if base == 16 && hex { 2 } else { 0 };
    let digits = text[at..].iter().map_while(|b| char::from(*b).to_digit(base));
    let digits: Vec<u32> = digits.collect();
    if digits.is_empty() {
        return Err(Errno::EINVAL);
    }
    let add = |v: u64, d: &u32| v.checked_mul(base.into())?.checked_add((*d).into());
    let value = digits.iter().try_fold(0, add).ok_or(Errno::ERANGE)?;
    let limit = if negative { 1 << 63 } else { i64::MAX as u64 };
    if signed && value > limit {
        return Err(Errno::ERANGE);
    }
    let value = if negative { value.wrapping_neg() } else { value };
    Ok(((at + digits.len()) as u64, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (text, flags, signed, want) in [
            (" 42x", 0, true, Ok((3, 42))),
            ("-0x10", 0, true, Ok((5, -16i64 as u64))),
            ("017", 0, false, Ok((3, 15))),
            ("-1", 0, false, Err(Errno::EINVAL)),
            ("x", 0, true, Err(Errno::EINVAL)),
            ("1", 7, true, Err(Errno::EINVAL)),
            ("9223372036854775808", 10, true, Err(Errno::ERANGE)),
            ("18446744073709551615", 10, false, Ok((20, u64::MAX))),
        ] {
            assert_eq!(number(text.as_bytes(), flags, signed), want, "{text}");
        }
    }
}
