//! The format string of `bpf_snprintf`: it lies in a read-only map and is checked before the
//! program ever runs (KERNEL v6.18 verifier.c:check_bpf_snprintf_call,
//! helpers.c:bpf_bprintf_prepare).

use bpf::insn::Reg;

use crate::explore::ver::{R, Ver, no};
use crate::format::{Fmt, is_space};
use crate::reject::EINVAL;

/// `MAX_BPRINTF_VARARGS`.
const ARGS_MAX: u64 = 12;

impl Ver<'_> {
    /// After the arguments are known to be what the helper takes: R3 is a constant string.
    pub(crate) fn snprintf_format(&self) -> R {
        let (fmt, len) = (self.r(Reg::R3), self.r(Reg::R5));
        let bytes = len.b.var_off.value;
        if bytes % 8 != 0 {
            return no(EINVAL, "");
        }
        let text = self.maps[fmt.map as usize].frozen_value.as_deref().unwrap_or_default();
        let from = fmt.b.as_const().map_or(0, |v| v.wrapping_add_signed(fmt.off.into()));
        let text = usize::try_from(from).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        let text = text.split(|b| *b == 0).next().unwrap_or_default();
        match is_format(text, bytes / 8) {
            true => Ok(()),
            false => no(EINVAL, "Invalid format string"),
        }
    }
}

/// `bpf_bprintf_prepare` with this many arguments, which it does not look at.
fn is_format(text: &[u8], args: u64) -> bool {
    let printable = |b: &u8| is_space(*b) || (32..=126).contains(b);
    if args > ARGS_MAX || !text.iter().all(printable) {
        return false;
    }
    let (mut fmt, mut used) = (Fmt(text), 0);
    while !fmt.0.is_empty() {
        if fmt.take() != b'%' || fmt.eat(b'%') {
            continue;
        }
        used += 1;
        if used > args || !conversion(&mut fmt) {
            return false;
        }
    }
    true
}

/// One conversion after its `%`.
fn conversion(fmt: &mut Fmt<'_>) -> bool {
    while matches!(fmt.peek(), b'0' | b'+' | b'-' | b' ') {
        fmt.take();
    }
    if matches!(fmt.peek(), b'1'..=b'9') {
        while fmt.peek().is_ascii_digit() {
            fmt.take();
        }
    }
    match fmt.peek() {
        b'p' => {
            fmt.take();
            pointer(fmt)
        }
        b's' => {
            fmt.take();
            fmt.at_word_end()
        }
        b'c' => {
            fmt.take();
            true
        }
        _ => {
            if fmt.eat(b'l') {
                fmt.eat(b'l');
            }
            matches!(fmt.take(), b'd' | b'i' | b'u' | b'x' | b'X')
        }
    }
}

/// What may follow `%p`.
fn pointer(fmt: &mut Fmt<'_>) -> bool {
    if fmt.at_word_end() {
        return true;
    }
    match fmt.take() {
        b'k' | b'u' if fmt.peek() == b's' => {
            fmt.take();
            fmt.at_word_end()
        }
        b'K' | b'x' | b's' | b'S' | b'B' => true,
        b'i' | b'I' => matches!(fmt.take(), b'4' | b'6'),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_the_kernel_takes_them() {
        let good: &[(&str, u64)] = &[
            ("", 0),
            ("100%%", 0),
            ("%d %5u|%-5d|%05x %llX", 5),
            ("%s,%c%c", 3),
            ("%p %px %pK %pks, %pI4 %pi6", 6),
            ("%d", 2),
        ];
        for (text, args) in good {
            assert!(is_format(text.as_bytes(), *args), "{text}");
        }
        let bad: &[(&str, u64)] = &[
            ("%d", 0),
            ("%#x", 1),
            ("%hd", 1),
            ("%.3d", 1),
            ("%", 1),
            ("%n", 1),
            ("%sx", 1),
            ("%pZ", 1),
            ("%pI5", 1),
            ("\u{e9}", 0),
            ("a", 13),
        ];
        for (text, args) in bad {
            assert!(!is_format(text.as_bytes(), *args), "{text}");
        }
    }
}
