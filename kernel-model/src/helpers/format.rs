//! Formatted text for programs: `bpf_bprintf_prepare` and `bstr_printf` (kernel/bpf/helpers.c).
//!
//! Pointers print as with `no_hash_pointers`: a hash would differ from boot to boot.

use verifier::format::{Fmt, is_space};

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::{Errno, EventKind, Kernel};

/// `MAX_BPRINTF_VARARGS`.
const MAX_ARGS: u64 = 12;
/// `MAX_BPRINTF_BUF`: what `bpf_trace_printk` prints at most, with its NUL.
const PRINT_BUF: usize = 1024;
/// Bytes of all copied strings together (`MAX_BPRINTF_BIN_ARGS`).
const STRING_MAX: u64 = 512;

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 6, name: "trace_printk", nargs: 5, body: trace_printk },
    HelperRow { id: 126, name: "seq_printf", nargs: 5, body: seq_printf },
    HelperRow { id: 127, name: "seq_write", nargs: 3, body: seq_write },
    HelperRow { id: 165, name: "snprintf", nargs: 5, body: snprintf },
    HelperRow { id: 177, name: "trace_vprintk", nargs: 4, body: trace_vprintk },
];

type Outcome = Result<Result<u64, Errno>, Fault>;

fn done(r: Outcome) -> Ret {
    match r {
        Ok(r) => r.into(),
        Err(fault) => Ret::Fault(fault),
    }
}

fn trace_printk(k: &mut Kernel, cpu: CpuId, [fmt, len, a, b, c]: [u64; 5]) -> Ret {
    done(print(k, cpu, fmt, len, &[a, b, c]))
}

fn trace_vprintk(k: &mut Kernel, cpu: CpuId, [fmt, len, data, data_len, _]: [u64; 5]) -> Ret {
    done(match read_args(k, data, data_len) {
        Ok(Ok(args)) => print(k, cpu, fmt, len, &args),
        Ok(Err(e)) => Ok(Err(e)),
        Err(fault) => Err(fault),
    })
}

/// The array of arguments behind a pointer and a length in bytes.
pub(crate) fn read_args(k: &Kernel, data: u64, len: u64) -> Result<Result<Vec<u64>, Errno>, Fault> {
    let len = len & 0xffff_ffff;
    if !len.is_multiple_of(8) || len > MAX_ARGS * 8 || (len != 0 && data == 0) {
        return Ok(Err(Errno::EINVAL));
    }
    let args: Result<Vec<u64>, _> = (0..len / 8).map(|i| k.mem.read_u64(data + 8 * i)).collect();
    Ok(Ok(args?))
}

/// A text up to its NUL: the verifier has seen that it has one.
pub(crate) fn read_text(k: &Kernel, at: u64) -> Result<Vec<u8>, Fault> {
    let mut raw = Vec::new();
    loop {
        match k.mem.read_u8(at + raw.len() as u64)? {
            0 => return Ok(raw),
            b => raw.push(b),
        }
    }
}

fn print(k: &mut Kernel, cpu: CpuId, fmt: u64, len: u64, args: &[u64]) -> Outcome {
    let raw = k.mem.read_vec(fmt, (len & 0xffff_ffff) as usize)?;
    let Some(end) = raw.iter().position(|b| *b == 0) else { return Ok(Err(Errno::EINVAL)) };
    let mut text = match bprintf(k, &raw[..end], args) {
        Ok(text) => text,
        Err(e) => return Ok(Err(e)),
    };
    let n = text.len() as u64;
    text.truncate(PRINT_BUF - 1);
    let line = String::from_utf8_lossy(&text).into_owned();
    k.trace_write(cpu, &line);
    k.emit(cpu, EventKind::Print { text: line });
    k.fire_printk(cpu, text);
    Ok(Ok(n))
}

/// The length that was needed, with the NUL, as `bpf_snprintf` returns it.
fn snprintf(k: &mut Kernel, _: CpuId, [to, size, fmt, data, data_len]: [u64; 5]) -> Ret {
    let mut put = || -> Outcome {
        let args = match read_args(k, data, data_len)? {
            Ok(args) => args,
            Err(e) => return Ok(Err(e)),
        };
        let raw = read_text(k, fmt)?;
        let mut text = match bprintf(k, &raw, &args) {
            Ok(text) => text,
            Err(e) => return Ok(Err(e)),
        };
        let needed = text.len() as u64 + 1;
        let size = size & 0xffff_ffff;
        if size > 0 {
            text.truncate(size as usize - 1);
            text.push(0);
            k.mem.write(to, &text)?;
        }
        Ok(Ok(needed))
    };
    done(put())
}

fn seq_printf(k: &mut Kernel, _: CpuId, [seq, fmt, size, data, data_len]: [u64; 5]) -> Ret {
    let mut put = || -> Outcome {
        let args = match read_args(k, data, data_len)? {
            Ok(args) => args,
            Err(e) => return Ok(Err(e)),
        };
        let raw = k.mem.read_vec(fmt, size as u32 as usize)?;
        let Some(end) = raw.iter().position(|b| *b == 0) else { return Ok(Err(Errno::EINVAL)) };
        Ok(bprintf(k, &raw[..end], &args).and_then(|text| k.seq_write(seq, &text)).map(|()| 0))
    };
    done(put())
}

fn seq_write(k: &mut Kernel, _: CpuId, [seq, data, len, ..]: [u64; 5]) -> Ret {
    let mut put = || -> Outcome {
        let bytes = k.mem.read_vec(data, len as u32 as usize)?;
        Ok(k.seq_write(seq, &bytes).map(|()| 0))
    };
    done(put())
}

/// Flags and width of one conversion.
#[derive(Clone, Copy, Debug, Default)]
struct Spec {
    zero: bool,
    left: bool,
    plus: bool,
    space: bool,
    width: usize,
}

impl Spec {
    fn pad(self, sign: &str, digits: &str, number: bool) -> String {
        let fill = self.width.saturating_sub(sign.len() + digits.len());
        match (self.left, self.zero && number) {
            (true, _) => format!("{sign}{digits}{}", " ".repeat(fill)),
            (false, true) => format!("{sign}{}{digits}", "0".repeat(fill)),
            (false, false) => format!("{}{sign}{digits}", " ".repeat(fill)),
        }
    }
}

/// Flags and width of a conversion.
fn spec_of(fmt: &mut Fmt<'_>) -> Spec {
    let mut s = Spec::default();
    loop {
        match fmt.peek() {
            b'0' => s.zero = true,
            b'-' => s.left = true,
            b'+' => s.plus = true,
            b' ' => s.space = true,
            _ => break,
        }
        fmt.take();
    }
    while fmt.peek().is_ascii_digit() {
        s.width = (s.width * 10 + usize::from(fmt.take() - b'0')).min(PRINT_BUF);
    }
    s
}

/// Formats; `EINVAL` for what `bpf_bprintf_prepare` does not accept.
pub(crate) fn bprintf(k: &Kernel, fmt: &[u8], args: &[u64]) -> Result<Vec<u8>, Errno> {
    if fmt.iter().any(|b| !is_space(*b) && !matches!(*b, 32..=126)) {
        return Err(Errno::EINVAL);
    }
    let (mut out, mut args, mut fmt) = (Vec::new(), args.iter(), Fmt(fmt));
    while !fmt.0.is_empty() {
        let b = fmt.take();
        if b != b'%' || fmt.eat(b'%') {
            out.push(b);
            continue;
        }
        let arg = *args.next().ok_or(Errno::EINVAL)?;
        let spec = spec_of(&mut fmt);
        out.extend(conversion(k, &mut fmt, spec, arg)?);
    }
    Ok(out)
}

fn conversion(k: &Kernel, fmt: &mut Fmt<'_>, spec: Spec, arg: u64) -> Result<Vec<u8>, Errno> {
    match fmt.peek() {
        b'p' => {
            fmt.take();
            pointer(k, fmt, spec, arg)
        }
        b's' => {
            fmt.take();
            string(k, fmt, spec, arg)
        }
        b'c' => {
            fmt.take();
            let fill = vec![b' '; spec.width.saturating_sub(1)];
            let c = vec![arg as u8];
            Ok(if spec.left { [c, fill].concat() } else { [fill, c].concat() })
        }
        _ => Ok(number(fmt, spec, arg)?.into_bytes()),
    }
}

fn number(fmt: &mut Fmt<'_>, spec: Spec, arg: u64) -> Result<String, Errno> {
    let long = fmt.eat(b'l');
    if long {
        fmt.eat(b'l');
    }
    let unsigned = if long { arg } else { arg & 0xffff_ffff };
    let signed = if long { arg as i64 } else { i64::from(arg as i32) };
    let sign = match (signed < 0, spec.plus, spec.space) {
        (true, ..) => "-",
        (false, true, _) => "+",
        (false, false, true) => " ",
        _ => "",
    };
    Ok(match fmt.take() {
        b'd' | b'i' => spec.pad(sign, &signed.unsigned_abs().to_string(), true),
        b'u' => spec.pad("", &unsigned.to_string(), true),
        b'x' => spec.pad("", &format!("{unsigned:x}"), true),
        b'X' => spec.pad("", &format!("{unsigned:X}"), true),
        _ => return Err(Errno::EINVAL),
    })
}

fn pointer(k: &Kernel, fmt: &mut Fmt<'_>, spec: Spec, arg: u64) -> Result<Vec<u8>, Errno> {
    let raw = || Ok(format!("{arg:016x}").into_bytes());
    if fmt.at_word_end() {
        return raw();
    }
    match (fmt.take(), fmt.peek()) {
        (b'k' | b'u', b's') => {
            fmt.take();
            string(k, fmt, spec, arg)
        }
        (b'K' | b'x', _) => raw(),
        // Without symbols the kernel prints the number.
        (b's' | b'S' | b'B', _) => Ok(format!("{arg:#018x}").into_bytes()),
        (style @ (b'i' | b'I'), len @ (b'4' | b'6')) => {
            fmt.take();
            let n = if len == b'4' { 4 } else { 16 };
            let ip = k.mem.read_vec(arg, n).unwrap_or_else(|_| vec![0; n]);
            // bstr_printf passes over what follows the formatted address.
            while fmt.peek().is_ascii_alphanumeric() {
                fmt.take();
            }
            Ok(address(&ip, style == b'i').into_bytes())
        }
        _ => Err(Errno::EINVAL),
    }
}

fn address(ip: &[u8], raw: bool) -> String {
    let part = |p: &[u8]| match (p, raw) {
        ([b], true) => format!("{b:03}"),
        ([b], false) => b.to_string(),
        (p, _) => p.iter().map(|b| format!("{b:02x}")).collect(),
    };
    if ip.len() == 4 {
        let parts: Vec<String> = ip.chunks(1).map(part).collect();
        return parts.join(".");
    }
    let parts: Vec<String> = ip.chunks(2).map(part).collect();
    parts.join(if raw { "" } else { ":" })
}

/// A string that cannot be read is empty.
fn string(k: &Kernel, fmt: &Fmt<'_>, spec: Spec, arg: u64) -> Result<Vec<u8>, Errno> {
    if !fmt.at_word_end() {
        return Err(Errno::EINVAL);
    }
    let mut text = Vec::new();
    for i in 0..STRING_MAX - 1 {
        match k.mem.read_u8(arg.wrapping_add(i)) {
            Ok(0) => break,
            Ok(b) => text.push(b),
            Err(_) => {
                text.clear();
                break;
            }
        }
    }
    let fill = vec![b' '; spec.width.saturating_sub(text.len())];
    Ok(if spec.left { [text, fill].concat() } else { [fill, text].concat() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::layout::DIRECT_MAP;

    #[test]
    fn conversions_of_the_kernel() {
        let mut k = Kernel::new(Config::default());
        let at = DIRECT_MAP + 0x20_0000;
        k.mem.write(at, b"abc\0").unwrap();
        let ip = at + 16;
        k.mem.write(ip, &[10, 0, 200, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]).unwrap();
        let cases: &[(&str, &[u64], Option<&str>)] = &[
            ("a=%d b=%llu%%", &[!0, !0], Some("a=-1 b=18446744073709551615%")),
            ("%05d|%-4d|%+d|%4u", &[-7i64 as u64, 7, 7, 8], Some("-0007|7   |+7|   8")),
            ("%x %lX %llx", &[!0, !0, 16], Some("ffffffff FFFFFFFFFFFFFFFF 10")),
            ("%d", &[], None),
            ("%n", &[0], None),
            ("%#x", &[1], None),
            ("%.3d", &[1], None),
            ("%hd", &[1], None),
            ("%", &[1], None),
            ("\u{e9}", &[], None),
            ("%s,%5s,%pks", &[at, at, at], Some("abc,  abc,abc")),
            ("%sx", &[at], None),
            ("[%s]", &[8], Some("[]")),
            ("%c%c", &[b'o'.into(), b'k'.into()], Some("ok")),
            ("%p|%px", &[0, 0xffff_8880_0000_0000], Some("0000000000000000|ffff888000000000")),
            ("%pZ", &[0], None),
            ("%pI4 %pi4", &[ip, ip], Some("10.0.200.1 010.000.200.001")),
            ("%pI6c", &[ip], Some("0a00:c801:0000:0000:0000:0000:0000:0005")),
            ("%pI4", &[8], Some("0.0.0.0")),
        ];
        for (fmt, args, want) in cases {
            let got = bprintf(&k, fmt.as_bytes(), args).ok();
            assert_eq!(got.as_deref(), want.map(str::as_bytes), "{fmt}");
        }
    }

    #[test]
    fn snprintf_says_how_much_it_needed() {
        let mut k = Kernel::new(Config::default());
        let at = DIRECT_MAP + 0x20_0000;
        k.mem.write(at, b"n=%d\0").unwrap();
        k.mem.write_u64(at + 16, 1234).unwrap();
        let args = |size, len| [at + 64, size, at, at + 16, len];
        let Ret::Val(n) = snprintf(&mut k, CpuId(0), args(4, 8)) else { panic!() };
        assert_eq!((n, k.mem.read_vec(at + 64, 5).unwrap()), (7, b"n=1\0\0".to_vec()));
        for len in [4, 104] {
            let Ret::Val(r) = snprintf(&mut k, CpuId(0), args(8, len)) else { panic!() };
            assert_eq!(r, Errno::EINVAL.ret());
        }
    }
}
