//! Vectors in the public `.data` format, made from RFC 9669: every operation, with registers and
//! immediates at the edges where encodings change.
//!
//! What they expect is computed here in 128-bit arithmetic, apart from all engines. Operands are
//! hidden from the verifier behind a zero that it cannot know (r9, loaded from memory), so that
//! nothing is folded and every branch stays. All are clean of byte order: memory is read back as
//! it was written. `cargo run -p tests --example vectors DIR` writes them as files.

/// A vector: name and text.
pub type Named = (String, String);

/// Registers that operands take in turn: r9 holds the hidden zero, r10 the frame.
const REGS: u64 = 9;

const WORDS: [u64; 14] = [
    0,
    1,
    2,
    7,
    63,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0x1_0000_0000,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    0xffff_ffff_8000_0000,
    0xffff_ffff_ffff_ffff,
    0x1234_5678_9abc_def1,
];

/// Edges of the immediates of four machines.
const IMMS: [i32; 20] = [
    0,
    1,
    -1,
    2,
    7,
    31,
    127,
    128,
    255,
    256,
    2047,
    2048,
    -2048,
    -2049,
    4095,
    4096,
    32767,
    -32769,
    i32::MAX,
    i32::MIN,
];

const ALU: [&str; 14] = [
    "add", "sub", "mul", "div", "sdiv", "mod", "smod", "or", "and", "xor", "lsh", "rsh", "arsh",
    "mov",
];

const JUMPS: [&str; 11] =
    ["jeq", "jne", "jgt", "jge", "jlt", "jle", "jset", "jsgt", "jsge", "jslt", "jsle"];

/// The low bits of a value, and the same with its sign.
fn parts(v: u64, bits: u32) -> (u128, i128) {
    let low = u128::from(v) & ((1 << bits) - 1);
    let top = 1u128 << (bits - 1);
    (low, low as i128 - if low & top == 0 { 0 } else { 1 << bits })
}

/// RFC 9669, section 4.1.
fn alu(op: &str, bits: u32, a: u64, b: u64) -> u64 {
    let ((ua, sa), (ub, sb)) = (parts(a, bits), parts(b, bits));
    let count = ub as u32 & (bits - 1);
    let value = match op {
        "add" => ua + ub,
        "sub" => ua.wrapping_sub(ub),
        "mul" => ua * ub,
        "div" if ub == 0 => 0,
        "div" => ua / ub,
        "sdiv" if ub == 0 => 0,
        "sdiv" => (sa / sb) as u128,
        "mod" | "smod" if ub == 0 => ua,
        "mod" => ua % ub,
        "smod" => (sa % sb) as u128,
        "or" => ua | ub,
        "and" => ua & ub,
        "xor" => ua ^ ub,
        "lsh" => ua << count,
        "rsh" => ua >> count,
        "arsh" => (sa >> count) as u128,
        _ => ub,
    };
    (value & ((1 << bits) - 1)) as u64
}

/// RFC 9669, section 4.3.
fn taken(op: &str, bits: u32, a: u64, b: u64) -> bool {
    let ((ua, sa), (ub, sb)) = (parts(a, bits), parts(b, bits));
    match op {
        "jeq" => ua == ub,
        "jne" => ua != ub,
        "jgt" => ua > ub,
        "jge" => ua >= ub,
        "jlt" => ua < ub,
        "jle" => ua <= ub,
        "jset" => ua & ub != 0,
        "jsgt" => sa > sb,
        "jsge" => sa >= sb,
        "jslt" => sa < sb,
        _ => sa <= sb,
    }
}

/// A vector that has the hidden zero in r9.
fn vector(name: String, body: &str, result: u64) -> Named {
    let text = format!(
        "-- asm\nldxdw %r9, [%r1]\n{body}exit\n-- mem\n00 00 00 00 00 00 00 00\n-- result\n\
         {result:#x}\n"
    );
    (name, text)
}

/// A value that the verifier does not know, in a register.
fn load(reg: u64, value: u64) -> String {
    format!("lddw %r{reg}, {value:#x}\nor %r{reg}, %r9\n")
}

/// Two registers, all pairs in turn; every fourth is a pair of the same.
fn pair(n: u64) -> (u64, u64) {
    let a = n % REGS;
    if n % 4 == 3 { (a, a) } else { (a, (a + 1 + n / REGS % (REGS - 1)) % REGS) }
}

const fn suffix(bits: u32) -> &'static str {
    if bits == 32 { "32" } else { "" }
}

fn arithmetic(out: &mut Vec<Named>) {
    let mut n = 0;
    for op in ALU {
        for bits in [64, 32] {
            let s = suffix(bits);
            for (i, a) in WORDS.iter().enumerate() {
                let b = WORDS[(i * 5 + n as usize) % WORDS.len()];
                let (dst, src) = pair(n);
                n += 1;
                let b = if dst == src { *a } else { b };
                let second = if dst == src { String::new() } else { load(src, b) };
                let body = load(dst, *a)
                    + &second
                    + &format!("{op}{s} %r{dst}, %r{src}\nmov %r0, %r{dst}\n");
                let name = format!("{op}{s}-reg-{i}");
                out.push(vector(name, &body, alu(op, bits, *a, b)));
            }
            for imm in IMMS {
                let divides = matches!(op, "div" | "sdiv" | "mod" | "smod");
                if imm == 0 && divides {
                    continue;
                }
                let a = WORDS[n as usize % WORDS.len()];
                let dst = n % REGS;
                n += 1;
                let body = load(dst, a) + &format!("{op}{s} %r{dst}, {imm}\nmov %r0, %r{dst}\n");
                let b = i64::from(imm).cast_unsigned();
                out.push(vector(format!("{op}{s}-imm-{imm}"), &body, alu(op, bits, a, b)));
            }
        }
    }
}

fn unary(out: &mut Vec<Named>) {
    for (i, a) in WORDS.iter().enumerate() {
        let dst = i as u64 % REGS;
        let mut one = |name: String, insn: String, result: u64| {
            let body = load(dst, *a) + &insn + &format!("mov %r0, %r{dst}\n");
            out.push(vector(format!("{name}-{i}"), &body, result));
        };
        one("neg".into(), format!("neg %r{dst}\n"), alu("sub", 64, 0, *a));
        one("neg32".into(), format!("neg32 %r{dst}\n"), alu("sub", 32, 0, *a));
        for bits in [16u32, 32, 64] {
            let bytes = (bits / 8) as usize;
            let swapped = a.to_le_bytes()[..bytes].iter().fold(0, |v, b| v << 8 | u64::from(*b));
            one(format!("bswap{bits}"), format!("bswap{bits} %r{dst}\n"), swapped);
        }
        for (from, to) in [(8, 32), (16, 32), (8, 64), (16, 64), (32, 64)] {
            let value = parts(*a, from).1 as u64;
            let result = parts(value, to).0 as u64;
            let src = (dst + 1) % REGS;
            let insn = format!("mov %r{src}, %r{dst}\nmovsx{from}{to} %r{dst}, %r{src}\n");
            one(format!("movsx{from}{to}"), insn, result);
        }
    }
    // A value in memory is in an order that the program knows: converting it to that order is
    // the same on every machine.
    for (bits, size, result) in
        [(16, "h", 0x1122), (32, "w", 0x1122_3344), (64, "dw", 0x1122_3344_5566_7788_u64)]
    {
        for (order, result) in [("be", result), ("le", result.swap_bytes() >> (64 - bits))] {
            let asm = format!("ldx{size} %r0, [%r1]\n{order}{bits} %r0\nexit");
            let text =
                format!("-- asm\n{asm}\n-- mem\n11 22 33 44 55 66 77 88\n-- result\n{result:#x}\n");
            out.push((format!("{order}{bits}-of-memory"), text));
        }
    }
}

fn jumps(out: &mut Vec<Named>) {
    let mut n = 0;
    for op in JUMPS {
        for bits in [64, 32] {
            let s = suffix(bits);
            for (i, a) in WORDS.iter().enumerate() {
                let b = match i % 3 {
                    0 => *a,
                    _ => WORDS[(i * 3 + n as usize) % WORDS.len()],
                };
                let (dst, src) = pair(n);
                n += 1;
                let b = if dst == src { *a } else { b };
                let second = if dst == src { String::new() } else { load(src, b) };
                let body = load(dst, *a)
                    + &second
                    + &format!(
                        "{op}{s} %r{dst}, %r{src}, yes\nmov %r0, 1\nja no\nyes:\nmov %r0, 2\nno:\n"
                    );
                let result = 1 + u64::from(taken(op, bits, *a, b));
                out.push(vector(format!("{op}{s}-reg-{i}"), &body, result));
            }
            for imm in IMMS {
                let a = match n % 2 {
                    0 => i64::from(imm).cast_unsigned(),
                    _ => WORDS[n as usize % WORDS.len()],
                };
                let dst = n % REGS;
                n += 1;
                let body = load(dst, a)
                    + &format!(
                        "{op}{s} %r{dst}, {imm}, yes\nmov %r0, 1\nja32 no\nyes:\nmov %r0, 2\nno:\n"
                    );
                let b = i64::from(imm).cast_unsigned();
                let result = 1 + u64::from(taken(op, bits, a, b));
                out.push(vector(format!("{op}{s}-imm-{imm}"), &body, result));
            }
        }
    }
}

const SIZES: [(&str, u32); 4] = [("b", 8), ("h", 16), ("w", 32), ("dw", 64)];

fn memory(out: &mut Vec<Named>) {
    let mut n = 0;
    for (size, bits) in SIZES {
        for off in [-8, -16, -256, -264, -512] {
            for value in [0x80u64, 0xffff_8001, 0x8123_4567_89ab_cdef] {
                let (dst, src) = pair(n * 2);
                n += 1;
                let store = load(src, value) + &format!("stx{size} [%r10{off}], %r{src}\n");
                let plain = format!("ldx{size} %r{dst}, [%r10{off}]\nmov %r0, %r{dst}\n");
                let result = parts(value, bits).0 as u64;
                out.push(vector(
                    format!("stx{size}{off}-{value:x}"),
                    &(store.clone() + &plain),
                    result,
                ));
                if bits < 64 {
                    let signed = format!("ldxs{size} %r{dst}, [%r10{off}]\nmov %r0, %r{dst}\n");
                    let result = parts(value, bits).1 as u64;
                    out.push(vector(
                        format!("ldxs{size}{off}-{value:x}"),
                        &(store + &signed),
                        result,
                    ));
                }
            }
        }
        for imm in [0, -1, 0x7f, 0x80, 0x1234, i32::MAX, i32::MIN] {
            let body = format!("st{size} [%r10-8], {imm}\nldx{size} %r0, [%r10-8]\n");
            let value = i64::from(imm).cast_unsigned();
            out.push(vector(format!("st{size}-{imm}"), &body, parts(value, bits).0 as u64));
        }
    }
}

/// What an atomic leaves in memory.
fn stored(op: &str, bits: u32, old: u64, operand: u64, r0: u64) -> u64 {
    let (old, operand, r0) = (parts(old, bits).0, parts(operand, bits).0, parts(r0, bits).0);
    let value = match op {
        "xchg" => operand,
        "cmpxchg" if old == r0 => operand,
        "cmpxchg" => old,
        _ => return alu(op, bits, old as u64, operand as u64),
    };
    value as u64
}

fn atomics(out: &mut Vec<Named>) {
    let forms = [
        "add",
        "or",
        "and",
        "xor",
        "fetch add",
        "fetch or",
        "fetch and",
        "fetch xor",
        "xchg",
        "cmpxchg",
    ];
    let values =
        [(1, 2), (0xffff_ffff_ffff_ffff, 1), (0x8000_0000_7fff_ffff, 0xffff_0000_ffff_0001)];
    for form in forms {
        let op = form.strip_prefix("fetch ").unwrap_or(form);
        let fetches = form != op || op == "xchg" || op == "cmpxchg";
        for (size, bits) in [("w", 32), ("dw", 64)] {
            let s = suffix(bits);
            for (i, (old, operand)) in values.into_iter().enumerate() {
                // The operand is r0 too, and for cmpxchg what is compared with.
                for src in [0, 3, 8] {
                    for same in [false, true] {
                        if same && (op != "cmpxchg" || src == 0) {
                            continue;
                        }
                        let r0 = if same { old } else { operand };
                        let head = load(7, old)
                            + &format!("stx{size} [%r10-8], %r7\n")
                            + &load(0, r0)
                            + &load(src, operand)
                            + &format!("lock {form}{s} [%r10-8], %r{src}\n");
                        let name = format!(
                            "lock-{}{s}-r{src}-{i}{}",
                            form.replace(' ', "-"),
                            if same { "-same" } else { "" }
                        );
                        let r0 = if src == 0 { operand } else { r0 };
                        let memory = format!("ldx{size} %r0, [%r10-8]\n");
                        let left = stored(op, bits, old, operand, r0);
                        out.push(vector(format!("{name}-memory"), &(head.clone() + &memory), left));
                        let back = if op == "cmpxchg" { 0 } else { src };
                        let value = if fetches { parts(old, bits).0 as u64 } else { operand };
                        let tail = format!("mov %r0, %r{back}\n");
                        out.push(vector(format!("{name}-register"), &(head + &tail), value));
                    }
                }
            }
        }
    }
}

/// Chains of calls; each function has a value of its own on its stack and in a saved register.
fn calls(out: &mut Vec<Named>) {
    for depth in 1..=8u64 {
        let mut body = String::from("-- asm\nmov %r6, 100\nstdw [%r10-8], 5\nmov %r0, 0\n");
        let mut sum = 0;
        for f in 1..depth {
            body += &format!(
                "call local f{f}\nldxdw %r1, [%r10-8]\nadd %r0, %r1\nadd %r0, %r6\nexit\n\
                 f{f}:\nmov %r6, {f}\nstdw [%r10-8], {}\nmov %r0, 0\n",
                f * 10
            );
            sum += if f == 1 { 105 } else { (f - 1) * 11 };
        }
        sum += if depth == 1 { 105 } else { (depth - 1) * 11 };
        body += "ldxdw %r1, [%r10-8]\nadd %r0, %r1\nadd %r0, %r6\nexit\n";
        out.push((format!("calls-{depth}"), format!("{body}-- result\n{sum}\n")));
    }
}

/// Programs that must be refused, with the verifier's words.
const REFUSED: &[(&str, &str, &str)] = &[
    ("r0-not-set", "exit", "R0 !read_ok"),
    ("register-not-set", "mov %r0, %r3\nexit", "R3 !read_ok"),
    ("frame-pointer-written", "mov %r10, 0\nmov %r0, 0\nexit", "frame pointer is read only"),
    ("divide-by-zero", "mov %r0, 1\ndiv %r0, 0\nexit", "div by zero"),
    ("modulo-by-zero", "mov %r0, 1\nmod32 %r0, 0\nexit", "div by zero"),
    ("no-exit", "mov %r0, 1", "last insn is not an exit or jmp"),
    ("unreachable", "mov %r0, 1\nexit\nmov %r0, 2\nexit", "unreachable insn"),
    ("jump-out", "mov %r0, 0\nja +1000\nexit", "jump out of range"),
    ("stack-below", "stdw [%r10-520], 1\nmov %r0, 0\nexit", "invalid write to stack"),
    ("stack-above", "stdw [%r10+0], 1\nmov %r0, 0\nexit", "invalid write to stack"),
    (
        "stack-misaligned-atomic",
        "stdw [%r10-8], 1\nmov %r1, 1\nlock add [%r10-7], %r1\nmov %r0, 0\nexit",
        "misaligned stack access",
    ),
    ("scalar-dereferenced", "mov %r1, 5\nldxdw %r0, [%r1]\nexit", "R1 invalid mem access 'scalar'"),
    ("unknown-helper", "mov %r0, 0\ncall 4000\nexit", "invalid func"),
    (
        "call-clobbers",
        "mov %r1, 1\ncall local f\nmov %r0, %r1\nexit\nf:\nmov %r0, 0\nexit",
        "R1 !read_ok",
    ),
    ("too-deep", TOO_DEEP, "the call stack of 9 frames is too deep"),
    (
        "stack-of-two",
        "stdw [%r10-264], 1\ncall local f\nexit\nf:\nstdw [%r10-256], 1\nmov %r0, 0\nexit",
        "combined stack size",
    ),
    ("pointer-multiplied", "mov %r0, %r10\nmul %r0, 2\nexit", "pointer arithmetic"),
    ("pointer-32", "mov %r0, %r10\nadd32 %r0, 2\nexit", "32-bit pointer arithmetic prohibited"),
];

const TOO_DEEP: &str = "call local f1\nexit\nf1:\ncall local f2\nexit\nf2:\ncall local f3\nexit\n\
    f3:\ncall local f4\nexit\nf4:\ncall local f5\nexit\nf5:\ncall local f6\nexit\nf6:\n\
    call local f7\nexit\nf7:\ncall local f8\nexit\nf8:\nmov %r0, 0\nexit";

fn refused(out: &mut Vec<Named>) {
    for (name, asm, error) in REFUSED {
        out.push((format!("refused-{name}"), format!("-- asm\n{asm}\n-- error\n{error}\n")));
    }
}

/// All of them; names are unique.
#[must_use]
pub fn all() -> Vec<Named> {
    let mut out = Vec::new();
    arithmetic(&mut out);
    unary(&mut out);
    jumps(&mut out);
    memory(&mut out);
    atomics(&mut out);
    calls(&mut out);
    refused(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_the_rfc() {
        assert_eq!(alu("sdiv", 64, 1 << 63, u64::MAX), 1 << 63);
        assert_eq!(alu("smod", 32, 0x8000_0000, 0xffff_ffff), 0);
        assert_eq!(alu("mod", 32, 0x5_0000_0007, 0), 7);
        assert_eq!(alu("arsh", 32, 0x8000_0000, 33), 0xc000_0000);
        assert_eq!(alu("sub", 64, 0, 1), u64::MAX);
        assert!(taken("jslt", 32, 0xffff_ffff, 0) && !taken("jlt", 32, 0xffff_ffff, 0));
        assert_eq!(parts(0x80, 8).1, -128);
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<String> = all().into_iter().map(|v| v.0).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
