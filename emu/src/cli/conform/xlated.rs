//! `__xlated`: rewritten programs as the kernel's tests print them, without opcodes, the second
//! slots of wide instructions left out, `BPF_REG_AX` by its number.

use bpf::Endian;
use bpf::insn::disasm::{NoNames, disasm_op};
use bpf::insn::{Call, Insn, Reg, Slot, decode};
use regex::{Captures, Regex};
use verifier::Verified;

/// `BPF_JMP | BPF_CALL`.
const CALL: u8 = 0x85;
/// `BPF_PSEUDO_CALL`.
const PSEUDO_CALL: u8 = 1;
/// `BPF_ALU64 | BPF_MOV | BPF_X`, and the offset that makes it one of a per-CPU address
/// (`BPF_ADDR_PERCPU`).
const MOV: (u8, i16) = (0xbf, -1);

/// Of a program that was rewritten here.
pub(super) fn ours(v: &Verified) -> String {
    text(v.insns().map(|(_, insn, _)| insn))
}

/// Of what a kernel shows of a program of its own.
///
/// # Errors
/// It is not shown, or has an instruction that only kernels know.
pub(super) fn theirs(bytes: &[u8]) -> Result<String, String> {
    if bytes.is_empty() {
        return Err("this kernel does not show its rewritten code".to_owned());
    }
    let slot = |b: &[u8; 8]| Slot::from_bytes(*b, Endian::Little);
    let slots: Vec<Slot> = bytes.as_chunks().0.iter().map(slot).collect();
    let mut insns: Vec<Insn> = Vec::new();
    while let Some(left @ [s, ..]) = slots.get(insns.len()..) {
        match *s {
            // `jit_subprogs` keeps the number of the function in the immediate.
            s if s.code == CALL && s.src == PSEUDO_CALL => {
                insns.push(Insn::Call(Call::Local(s.off.into())));
            }
            s if (s.code, s.off) == MOV => {
                insns.push(Insn::MovPercpu { dst: Reg(s.dst), src: Reg(s.src) });
            }
            _ => {
                let insn = decode(left).map_err(|e| e.to_string())?;
                insns.push(insn);
                insns.extend(matches!(insn, Insn::LdImm64 { .. }).then_some(Insn::LdImm64Hi));
            }
        }
    }
    Ok(text(insns.iter()))
}

fn text<'a>(insns: impl Iterator<Item = &'a Insn>) -> String {
    let ax = Regex::new(r"\b(w|r|)ax\b").expect("the expression is right");
    let line = |(at, insn): (usize, &Insn)| {
        let text = disasm_op(insn, &NoNames);
        let text = text.split_once(") ").map_or("", |t| t.1);
        let number = |c: &Captures<'_>| if &c[1] == "w" { "w11" } else { "r11" };
        format!("{at}: {}\n", ax.replace_all(text, number))
    };
    insns.enumerate().filter(|(_, insn)| **insn != Insn::LdImm64Hi).map(line).collect()
}

/// Whether a program calls helpers or kfuncs.
pub(super) fn calls(v: &Verified) -> bool {
    v.insns().any(|(_, i, _)| matches!(i, Insn::Call(Call::Helper(_) | Call::Kfunc { .. })))
}
