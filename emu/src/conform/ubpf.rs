//! The assembly of the public vectors: `mov %r1, -1`, `ldxh %r3, [%r1+12]`, `call local f`.
//!
//! Every instruction of RFC 9669 has its mnemonic; `32` behind one is the narrow form. A jump goes
//! to a label or by `+N` slots. Immediates that the kernel's loader would refuse are assembled as
//! they stand: what comes after decides.

use std::collections::BTreeMap;

use bpf::insn::{AluOp, AtomicOp, Call, EndianOp, Imm64, Insn, JmpOp, Reg, Size, Src, Width};

/// A program, and the line of each slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Assembled {
    /// Slots.
    pub insns: Vec<Insn>,
    /// Line of the text each came from.
    pub lines: Vec<u32>,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct AsmError {
    /// Line.
    pub line: u32,
    /// Why it is no instruction.
    pub what: String,
}

const ALU: &[(&str, AluOp)] = &[
    ("add", AluOp::Add),
    ("sub", AluOp::Sub),
    ("mul", AluOp::Mul),
    ("div", AluOp::Div),
    ("sdiv", AluOp::SDiv),
    ("or", AluOp::Or),
    ("and", AluOp::And),
    ("lsh", AluOp::Lsh),
    ("rsh", AluOp::Rsh),
    ("mod", AluOp::Mod),
    ("smod", AluOp::SMod),
    ("xor", AluOp::Xor),
    ("mov", AluOp::Mov),
    ("arsh", AluOp::Arsh),
];

const JUMPS: &[(&str, JmpOp)] = &[
    ("jeq", JmpOp::Eq),
    ("jgt", JmpOp::Gt),
    ("jge", JmpOp::Ge),
    ("jlt", JmpOp::Lt),
    ("jle", JmpOp::Le),
    ("jset", JmpOp::Set),
    ("jne", JmpOp::Ne),
    ("jsgt", JmpOp::Sgt),
    ("jsge", JmpOp::Sge),
    ("jslt", JmpOp::Slt),
    ("jsle", JmpOp::Sle),
];

/// Atomics without and with `fetch`; the last two always fetch.
const ATOMICS: &[(&str, AtomicOp, AtomicOp)] = &[
    ("add", AtomicOp::Add, AtomicOp::FetchAdd),
    ("or", AtomicOp::Or, AtomicOp::FetchOr),
    ("and", AtomicOp::And, AtomicOp::FetchAnd),
    ("xor", AtomicOp::Xor, AtomicOp::FetchXor),
    ("xchg", AtomicOp::Xchg, AtomicOp::Xchg),
    ("cmpxchg", AtomicOp::Cmpxchg, AtomicOp::Cmpxchg),
];

const MOVSX: &[(&str, Width, u8)] = &[
    ("movsx832", Width::W32, 8),
    ("movsx1632", Width::W32, 16),
    ("movsx864", Width::W64, 8),
    ("movsx1664", Width::W64, 16),
    ("movsx3264", Width::W64, 32),
];

const SIZES: &[(&str, Size)] = &[("dw", Size::DW), ("w", Size::W), ("h", Size::H), ("b", Size::B)];

/// Where a jump or call goes: it is known when all labels are.
struct Fix {
    slot: usize,
    label: String,
    line: u32,
}

#[derive(Default)]
struct Asm {
    out: Assembled,
    labels: BTreeMap<String, usize>,
    fixes: Vec<Fix>,
}

/// Assembles numbered lines without comments.
///
/// # Errors
/// The first line that is no instruction, or leads nowhere.
pub fn assemble<'a>(
    lines: impl IntoIterator<Item = (u32, &'a str)>,
) -> Result<Assembled, AsmError> {
    let mut asm = Asm::default();
    for (line, text) in lines {
        asm.line(text.trim(), line).map_err(|what| AsmError { line, what })?;
    }
    for fix in std::mem::take(&mut asm.fixes) {
        let to = asm.labels.get(&fix.label).copied();
        let placed = to.ok_or_else(|| format!("there is no label '{}'", fix.label));
        let placed = placed.and_then(|to| lead(&mut asm.out.insns[fix.slot], fix.slot, to));
        placed.map_err(|what| AsmError { line: fix.line, what })?;
    }
    Ok(asm.out)
}

/// Sets the offset of a jump or call.
fn lead(insn: &mut Insn, at: usize, to: usize) -> Result<(), String> {
    let off = to as i64 - at as i64 - 1;
    match insn {
        Insn::Jmp { off: o, .. } => *o = i16::try_from(off).map_err(|_| "too far")?,
        Insn::Ja { off: o, long: false } => {
            *o = i16::try_from(off).map_err(|_| "too far for ja; use ja32")?.into();
        }
        Insn::Ja { off: o, .. } | Insn::Call(Call::Local(o)) => {
            *o = i32::try_from(off).map_err(|_| "too far")?;
        }
        _ => return Err("only jumps and calls lead somewhere".into()),
    }
    Ok(())
}

impl Asm {
    fn line(&mut self, text: &str, line: u32) -> Result<(), String> {
        if let Some((label, rest)) = text.split_once(':') {
            let label = label.trim();
            if label.is_empty() || label.contains(char::is_whitespace) {
                return Err(format!("'{label}' is no label"));
            }
            if self.labels.insert(label.to_owned(), self.out.insns.len()).is_some() {
                return Err(format!("label '{label}' is there twice"));
            }
            return self.line(rest.trim(), line);
        }
        if text.is_empty() {
            return Ok(());
        }
        let insn = self.insn(text, line)?;
        self.out.insns.push(insn);
        self.out.lines.push(line);
        if matches!(insn, Insn::LdImm64 { .. }) {
            self.out.insns.push(Insn::LdImm64Hi);
            self.out.lines.push(line);
        }
        Ok(())
    }

    fn insn(&mut self, text: &str, line: u32) -> Result<Insn, String> {
        let (name, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let name = name.to_ascii_lowercase();
        if name == "lock" {
            return atomic(rest);
        }
        let ops: Vec<&str> = rest.split(',').map(str::trim).filter(|o| !o.is_empty()).collect();
        let found = match ops[..] {
            [] => (name == "exit").then_some(Ok(Insn::Exit)),
            [one] => self.one(&name, one, line),
            [a, b] => two(&name, a, b),
            [a, b, to] => self.conditional(&name, (a, b), to, line),
            _ => None,
        };
        let shown = || format!("'{name}' with {} operands is no instruction", ops.len());
        found.unwrap_or_else(|| Err(shown()))
    }

    fn one(&mut self, name: &str, op: &str, line: u32) -> Option<Result<Insn, String>> {
        let order = |o, bits: &str| {
            let bits = bits.parse().ok().filter(|b| [16, 32, 64].contains(b))?;
            Some(reg(op).map(|dst| Insn::End { op: o, dst, bits }))
        };
        match name {
            "neg" | "neg64" => Some(reg(op).map(|dst| Insn::Neg { width: Width::W64, dst })),
            "neg32" => Some(reg(op).map(|dst| Insn::Neg { width: Width::W32, dst })),
            "ja" => Some(self.to(Insn::Ja { off: 0, long: false }, op, line)),
            "ja32" => Some(self.to(Insn::Ja { off: 0, long: true }, op, line)),
            "call" => Some(self.call(op, line)),
            "callx" => Some(reg(op).map(|dst| Insn::Callx { dst })),
            n if n.starts_with("le") => order(EndianOp::ToLe, &n[2..]),
            n if n.starts_with("be") => order(EndianOp::ToBe, &n[2..]),
            n if n.starts_with("bswap") => order(EndianOp::Swap, &n[5..]),
            n if n.starts_with("swap") => order(EndianOp::Swap, &n[4..]),
            _ => None,
        }
    }

    fn call(&mut self, op: &str, line: u32) -> Result<Insn, String> {
        match op.strip_prefix("local") {
            Some(to) => self.to(Insn::Call(Call::Local(0)), to.trim(), line),
            None => imm(op).map(|id| Insn::Call(Call::Helper(id))),
        }
    }

    /// A jump or call to a label, or by a number of slots.
    fn to(&mut self, mut insn: Insn, to: &str, line: u32) -> Result<Insn, String> {
        let slot = self.out.insns.len();
        let by = to.strip_prefix('+').or_else(|| to.starts_with('-').then_some(to));
        match by.or_else(|| to.starts_with(|c: char| c.is_ascii_digit()).then_some(to)) {
            Some(by) => {
                // What leads before the program is the verifier's to refuse.
                match &mut insn {
                    Insn::Jmp { off, .. } => *off = narrow(number(by)?)?,
                    Insn::Ja { off, .. } | Insn::Call(Call::Local(off)) => *off = imm(by)?,
                    _ => {}
                }
            }
            None => self.fixes.push(Fix { slot, label: to.to_owned(), line }),
        }
        Ok(insn)
    }

    fn conditional(
        &mut self,
        name: &str,
        (a, b): (&str, &str),
        to: &str,
        line: u32,
    ) -> Option<Result<Insn, String>> {
        let (name, width) = width_of(name);
        let op = JUMPS.iter().find(|(n, _)| *n == name)?.1;
        let operands = reg(a).and_then(|dst| Ok((dst, src(b)?)));
        let jump = |(dst, src)| Insn::Jmp { width, op, dst, src, off: 0 };
        Some(operands.map(jump).and_then(|j| self.to(j, to, line)))
    }
}

/// The name without what says how wide it is.
fn width_of(name: &str) -> (&str, Width) {
    match name.strip_suffix("32") {
        Some(short) => (short, Width::W32),
        None => (name.strip_suffix("64").unwrap_or(name), Width::W64),
    }
}

fn two(name: &str, a: &str, b: &str) -> Option<Result<Insn, String>> {
    if let Some((_, width, bits)) = MOVSX.iter().find(|(n, ..)| *n == name) {
        let both = reg(a).and_then(|dst| Ok((dst, reg(b)?)));
        return Some(both.map(|(dst, src)| Insn::MovSx { width: *width, dst, src, bits: *bits }));
    }
    if name == "lddw" {
        let value = |dst| Ok(Insn::LdImm64 { dst, imm: Imm64::Const(number(b)?.1) });
        return Some(reg(a).and_then(value));
    }
    let sized = |prefix: &str| {
        let rest = name.strip_prefix(prefix)?;
        SIZES.iter().find(|(n, _)| *n == rest).map(|(_, s)| *s)
    };
    if let Some((size, sext)) =
        sized("ldx").map(|s| (s, false)).or_else(|| sized("ldxs").map(|s| (s, true)))
    {
        let load = |dst| {
            let (src, off) = place(b)?;
            Ok(Insn::Load { size, sext, dst, src, off })
        };
        return Some(reg(a).and_then(load));
    }
    if let Some(size) = sized("stx").or_else(|| sized("st")) {
        let imm_form = !name.starts_with("stx");
        let value = || if imm_form { imm(b).map(Src::Imm) } else { reg(b).map(Src::Reg) };
        return Some(
            place(a).and_then(|(dst, off)| Ok(Insn::Store { size, dst, off, src: value()? })),
        );
    }
    let (name, width) = width_of(name);
    let op = ALU.iter().find(|(n, _)| *n == name)?.1;
    Some(reg(a).and_then(|dst| Ok(Insn::Alu { width, op, dst, src: src(b)? })))
}

/// `[fetch] OP[32] [%rD+OFF], %rS`.
fn atomic(text: &str) -> Result<Insn, String> {
    let at = text.find('[').ok_or("a place such as [%r10-8] is expected")?;
    let words: Vec<&str> = text[..at].split_whitespace().collect();
    let (fetch, name) = match words[..] {
        ["fetch", name] => (true, name),
        [name] => (false, name),
        _ => return Err("lock [fetch] OP is expected".into()),
    };
    let (name, size) = match name.strip_suffix("32") {
        Some(short) => (short, Size::W),
        None => (name.strip_suffix("64").unwrap_or(name), Size::DW),
    };
    let row = ATOMICS.iter().find(|(n, ..)| *n == name);
    let (_, plain, fetching) = row.ok_or_else(|| format!("'{name}' is no atomic operation"))?;
    let (to, from) = text[at..].split_once(',').ok_or("a source register is expected")?;
    let (dst, off) = place(to.trim())?;
    let op = if fetch { *fetching } else { *plain };
    Ok(Insn::Atomic { size, op, dst, off, src: reg(from.trim())? })
}

/// `%r0` to `%r10`; `%` may be left out.
fn reg(text: &str) -> Result<Reg, String> {
    let bad = || format!("'{text}' is no register");
    let n = text.strip_prefix('%').unwrap_or(text).strip_prefix('r').ok_or_else(bad)?;
    n.parse().ok().filter(|n| *n <= 10).map(Reg).ok_or_else(bad)
}

/// Sign, and the 64 bits that stand for it.
fn number(text: &str) -> Result<(bool, u64), String> {
    let bad = || format!("'{text}' is no number");
    let minus = text.starts_with('-');
    let digits = text.trim_start_matches(['-', '+']).trim_start();
    let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    let value = value.map_err(|_| bad())?;
    Ok((minus, if minus { value.wrapping_neg() } else { value }))
}

/// An immediate: 32 bits with or without a sign, or 64 that are its sign extension.
fn imm(text: &str) -> Result<i32, String> {
    let (minus, bits) = number(text)?;
    let wide = bits.cast_signed();
    let narrow = i32::try_from(wide).ok();
    let unsigned = u32::try_from(bits).ok().filter(|_| !minus).map(u32::cast_signed);
    narrow.or(unsigned).ok_or_else(|| format!("'{text}' does not fit into 32 bits"))
}

fn narrow((_, bits): (bool, u64)) -> Result<i16, String> {
    i16::try_from(bits.cast_signed()).map_err(|_| "an offset has 16 bits".into())
}

fn src(text: &str) -> Result<Src, String> {
    match text.trim_start_matches('%').starts_with('r') {
        true => reg(text).map(Src::Reg),
        false => imm(text).map(Src::Imm),
    }
}

/// `[%r1+12]`, `[%r1 - 8]`, `[%r1]`.
fn place(text: &str) -> Result<(Reg, i16), String> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let inner = inner.ok_or_else(|| format!("'{text}' is no place such as [%r1+2]"))?.trim();
    let (base, off) = match inner.find(['+', '-']) {
        Some(at) => inner.split_at(at),
        None => (inner, "0"),
    };
    let off: String = off.chars().filter(|c| !c.is_whitespace()).collect();
    Ok((reg(base.trim())?, narrow(number(&off)?)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::disasm::{NoNames, disasm};

    fn text(of: &str) -> Vec<String> {
        let lines = (1..).zip(of.lines());
        let a = assemble(lines).unwrap();
        a.insns.iter().map(|i| disasm(i, &NoNames)).filter(|t| !t.is_empty()).collect()
    }

    #[test]
    fn every_form() {
        let got = text(
            "mov32 %r1, 0xffffffff\nadd r1, %r2\nsdiv32 %r3, -2\nneg %r4\nneg32 %r4\nbe16 %r1
             swap32 %r2\nle64 %r3\nmovsx832 %r1, %r2\nmovsx3264 %r1, %r2\nlddw %r0, 0x1122334455
             ldxh %r3, [%r1+12]\nldxsw %r3, [%r1 - 4]\nstdw [%r10-8], -1\nstxb [%r10], %r1
             lock fetch add32 [%r10-8], %r1\nlock xor [%r10-8], %r2\nlock cmpxchg [%r10-8], %r3
             exit",
        );
        let want = [
            "w1 = -1",
            "r1 += r2",
            "w3 s/= -2",
            "r4 = -r4",
            "w4 = -w4",
            "r1 = be16 r1",
            "r2 = bswap32 r2",
            "r3 = le64 r3",
            "w1 = (s8)w2",
            "r1 = (s32)r2",
            "r0 = 0x1122334455 ll",
            "r3 = *(u16 *)(r1 +12)",
            "r3 = *(s32 *)(r1 -4)",
            "*(u64 *)(r10 -8) = -1",
            "*(u8 *)(r10 +0) = r1",
            "r1 = atomic_fetch_add((u32 *)(r10 -8), r1)",
            "lock *(u64 *)(r10 -8) ^= r2",
            "r0 = atomic64_cmpxchg((u64 *)(r10 -8), r0, r3)",
            "exit",
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn jumps_and_calls() {
        let got = text(
            "jeq %r1, 5, +1\nja32 end\nmid: call local f\njslt32 %r1, %r2, mid
            end:\nexit\nf: call 5\nexit",
        );
        let want = [
            "if r1 == 0x5 goto pc+1",
            "gotol pc+2",
            "call pc+2",
            "if w1 s< w2 goto pc-2",
            "exit",
            "call bpf_ktime_get_ns#5",
            "exit",
        ];
        assert_eq!(got, want);
    }

    #[test]
    fn what_is_wrong_has_its_line() {
        let error = |t: &str| assemble((1..).zip(t.lines())).unwrap_err().to_string();
        assert_eq!(error("exit\nja nowhere"), "line 2: there is no label 'nowhere'");
        assert_eq!(error("mov %r11, 1"), "line 1: '%r11' is no register");
        assert_eq!(
            error("mov %r1, 0x1ffffffff"),
            "line 1: '0x1ffffffff' does not fit into 32 bits"
        );
        assert_eq!(error("frob %r1, 1"), "line 1: 'frob' with 2 operands is no instruction");
        assert_eq!(error("lock frob [%r1], %r2"), "line 1: 'frob' is no atomic operation");
        assert!(error("a:\na:\nexit").contains("twice"));
    }
}
