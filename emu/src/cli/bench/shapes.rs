//! What native code is made of: instructions by their shape, ours and the kernel's side by side;
//! and ours by the BPF instruction they stand for.
//!
//! A shape is an instruction without its numbers: which registers, immediates and displacements it
//! has is left out, how wide they are stays.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bpf::Arch;
use bpf::insn::{Call, Insn, Src, Width};
use jit::Compiled;
use verifier::Verified;

use crate::native::{Native, disassemble};

/// Rows of a table.
const ROWS: usize = 40;

/// How many, and their bytes.
#[derive(Clone, Copy, Default)]
struct Cost {
    insns: usize,
    bytes: usize,
}

/// Sums over programs.
#[derive(Default)]
pub(super) struct Shapes {
    /// Ours and the kernel's, by shape.
    native: BTreeMap<String, [Cost; 2]>,
    /// Ours by BPF instruction, with how many of these there are.
    bpf: BTreeMap<String, (usize, Cost)>,
}

impl Shapes {
    /// Adds a program: ours, and the kernel's code of it.
    pub(super) fn add(&mut self, v: &Verified, ours: &Compiled, theirs: &[u8]) {
        let mut starts = Vec::new();
        for (side, code) in [&ours.code[..], theirs].into_iter().enumerate() {
            let Ok(all) = disassemble(Arch::X86_64, code, 0) else { return };
            let ends = all.iter().skip(1).map(|n| n.at).chain([code.len() as u32]);
            for (n, end) in all.iter().zip(ends) {
                let cost = &mut self.native.entry(shape(n)).or_default()[side];
                cost.insns += 1;
                cost.bytes += (end - n.at) as usize;
            }
            if side == 0 {
                starts = all.iter().map(|n| n.at).collect();
            }
        }
        for r in &ours.debug.insns {
            let (n, cost) = self.bpf.entry(kind(v.insn(r.insn).0)).or_default();
            *n += 1;
            let of = |at: u32| starts.partition_point(|s| *s < at);
            cost.insns += of(r.end.0) - of(r.start.0);
            cost.bytes += (r.end.0 - r.start.0) as usize;
        }
    }

    /// Two tables: where we have most instructions more than the kernel, and what costs most.
    pub(super) fn text(&self) -> String {
        let mut text = String::from("shapes, ours and the kernel's (instructions, bytes):\n");
        let more = |c: &[Cost; 2]| c[0].insns as i64 - c[1].insns as i64;
        let mut native: Vec<_> = self.native.iter().collect();
        native.sort_by_key(|(_, c)| -more(c).abs());
        for (shape, [a, b]) in native.into_iter().take(ROWS) {
            let more = a.insns as i64 - b.insns as i64;
            let (an, bn) = (a.insns, b.insns);
            let _ =
                writeln!(text, "  {more:+7} {an:7} {bn:7}   {:8} {:8}  {shape}", a.bytes, b.bytes);
        }
        text += "BPF instructions, native instructions and bytes for each:\n";
        let mut bpf: Vec<_> = self.bpf.iter().collect();
        bpf.sort_by_key(|(_, (_, cost))| -(cost.bytes as i64));
        for (kind, (n, cost)) in bpf.into_iter().take(ROWS) {
            let each = |sum: usize| sum as f64 / *n as f64;
            let (insns, bytes) = (each(cost.insns), each(cost.bytes));
            let _ = writeln!(text, "  {n:7} {insns:6.2} {bytes:6.2}  {kind}");
        }
        text
    }
}

/// `mov r64, imm` of `mov rax, 5`.
fn shape(n: &Native) -> String {
    let (mnemonic, operands) = n.text.split_once(' ').unwrap_or((&n.text, ""));
    let shapes: Vec<&str> = operands.split(", ").filter(|o| !o.is_empty()).map(operand).collect();
    format!("{mnemonic} {}", shapes.join(", ")).trim_end().to_owned()
}

/// Registers by their width.
fn operand(text: &str) -> &'static str {
    const WORDS: [&str; 8] = ["ax", "cx", "dx", "bx", "sp", "bp", "si", "di"];
    let numbered = text.strip_prefix('r').filter(|r| r.starts_with(|c: char| c.is_ascii_digit()));
    match (text, numbered) {
        _ if text.contains('[') => "mem",
        (_, Some(n)) if n.ends_with('d') => "r32",
        (_, Some(n)) if n.ends_with('w') => "r16",
        (_, Some(n)) if n.ends_with('b') => "r8",
        (_, Some(_)) => "r64",
        _ if WORDS.contains(&text) => "r16",
        _ if text.strip_prefix('r').is_some_and(|r| WORDS.contains(&r)) => "r64",
        _ if text.strip_prefix('e').is_some_and(|r| WORDS.contains(&r)) => "r32",
        _ if text.ends_with(['l', 'h']) => "r8",
        _ => "imm",
    }
}

/// An instruction without its operands.
fn kind(insn: &Insn) -> String {
    let from = |src: &Src| if matches!(src, Src::Imm(_)) { "imm" } else { "reg" };
    let bits = |width: &Width| if *width == Width::W64 { 64 } else { 32 };
    match insn {
        Insn::Alu { width, op, src, .. } => format!("{op:?}{} {}", bits(width), from(src)),
        Insn::Jmp { width, op, src, .. } => format!("J{op:?}{} {}", bits(width), from(src)),
        Insn::Load { size, .. } => format!("Load {size:?}"),
        Insn::Store { size, src, .. } => format!("Store {size:?} {}", from(src)),
        Insn::Call(Call::Local(_)) => "Call of a function".to_owned(),
        Insn::Call(_) => "Call".to_owned(),
        Insn::End { bits, .. } => format!("End{bits}"),
        other => {
            let text = format!("{other:?}");
            text.split([' ', '(']).next().unwrap_or_default().to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_have_no_numbers() {
        let of = |text: &str| shape(&Native { at: 0, text: text.to_owned() });
        assert_eq!(of("mov rax, 5"), "mov r64, imm");
        assert_eq!(of("movzx r10d, byte ptr [rdi + 0x10]"), "movzx r32, mem");
        assert_eq!(of("test sil, 1"), "test r8, imm");
        assert_eq!(of("shlx ecx, r13d, ebp"), "shlx r32, r32, r32");
        assert_eq!(of("ret"), "ret");
    }
}
