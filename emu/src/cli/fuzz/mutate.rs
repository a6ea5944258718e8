//! Small changes to a program: other registers, constants, sizes and operations, instructions that
//! are missing, doubled or exchanged. Calls of kfuncs stay as they are.

use bpf::Program;
use bpf::insn::generate::{ALU_OPS, JMP_OPS, Rng, SIZES};
use bpf::insn::{Call, Imm64, Insn, Reg, Size, Src, Width};

use crate::shrink::edit::{with, without};

/// One to four changes.
pub(super) fn mutate(p: &Program, rng: &mut Rng) -> Program {
    let mut out = p.clone();
    for _ in 0..1 + rng.below(4) {
        out = once(out, rng);
    }
    out
}

fn once(p: Program, rng: &mut Rng) -> Program {
    let at = rng.below(p.insns.len() as u32) as usize;
    match rng.below(12) {
        0 | 1 => without(&p, at).unwrap_or(p),
        2 => match p.insns[at] {
            Insn::LdImm64 { .. } | Insn::LdImm64Hi => p,
            insn => with(&p, at, insn),
        },
        3 if p.insns[at] != Insn::LdImm64Hi => {
            let insn = any(rng);
            with(&p, at, insn)
        }
        3 => p,
        4 => exchanged(p, at),
        _ => {
            let mut p = p;
            p.insns[at] = changed(p.insns[at], rng);
            p
        }
    }
}

/// Two neighbours change places, unless one of them leads somewhere.
fn exchanged(mut p: Program, at: usize) -> Program {
    let plain = |i: &Insn| {
        matches!(
            i,
            Insn::Alu { .. }
                | Insn::Load { .. }
                | Insn::Store { .. }
                | Insn::MovSx { .. }
                | Insn::Call(Call::Helper(_))
        )
    };
    if at + 1 < p.insns.len() && plain(&p.insns[at]) && plain(&p.insns[at + 1]) {
        p.insns.swap(at, at + 1);
    }
    p
}

/// An instruction that fits anywhere.
fn any(rng: &mut Rng) -> Insn {
    let (dst, src) = (register(rng), register(rng));
    let width = rng.pick(&[Width::W64, Width::W32]);
    match rng.below(4) {
        0 => Insn::Alu { width, op: rng.pick(&ALU_OPS), dst, src: Src::Reg(src) },
        1 => Insn::Alu { width, op: rng.pick(&ALU_OPS), dst, src: Src::Imm(rng.imm32()) },
        2 => Insn::MovSx { width, dst, src, bits: rng.pick(&[8, 16]) },
        _ => Insn::Jmp { width, op: rng.pick(&JMP_OPS), dst, src: Src::Imm(rng.imm32()), off: 1 },
    }
}

fn register(rng: &mut Rng) -> Reg {
    Reg(rng.below(if rng.0.is_multiple_of(16) { 11 } else { 10 }) as u8)
}

fn number(v: i32, rng: &mut Rng) -> i32 {
    match rng.below(4) {
        0 => rng.imm32(),
        1 => v ^ (1 << rng.below(32)),
        _ => v.wrapping_add(rng.below(5) as i32 - 2),
    }
}

fn offset(v: i16, rng: &mut Rng) -> i16 {
    v.wrapping_add(rng.pick(&[-8, -4, -2, -1, 1, 2, 4, 8]))
}

fn width_of(w: Width) -> Width {
    if w == Width::W64 { Width::W32 } else { Width::W64 }
}

fn source(src: &mut Src, rng: &mut Rng) {
    *src = match *src {
        Src::Imm(v) => Src::Imm(number(v, rng)),
        Src::Reg(_) => Src::Reg(register(rng)),
    };
}

/// The instruction with another register, constant, size or operation.
// tidy: flat match
fn changed(insn: Insn, rng: &mut Rng) -> Insn {
    let mut insn = insn;
    let which = rng.below(4);
    match &mut insn {
        Insn::Alu { width, op, dst, src } => match which {
            0 => *dst = register(rng),
            1 => *op = rng.pick(&ALU_OPS),
            2 => *width = width_of(*width),
            _ => source(src, rng),
        },
        Insn::Neg { width, dst } => match which {
            0 => *dst = register(rng),
            _ => *width = width_of(*width),
        },
        Insn::MovSx { dst, src, bits, width } => match which {
            0 => *dst = register(rng),
            1 => *src = register(rng),
            2 => (*width, *bits) = (Width::W64, 32),
            _ => *bits = rng.pick(&[8, 16]),
        },
        Insn::End { dst, bits, .. } => match which {
            0 => *dst = register(rng),
            _ => *bits = rng.pick(&[16, 32, 64]),
        },
        Insn::Load { size, sext, dst, src, off } => match which {
            0 => *dst = register(rng),
            1 => *src = register(rng),
            2 => *off = offset(*off, rng),
            _ => {
                *size = rng.pick(&SIZES);
                *sext = *size != Size::DW && rng.one_in(3);
            }
        },
        Insn::Store { size, dst, off, src } => match which {
            0 => *dst = register(rng),
            1 => source(src, rng),
            2 => *off = offset(*off, rng),
            _ => *size = rng.pick(&SIZES),
        },
        Insn::Atomic { size, dst, off, src, .. } => match which {
            0 => *dst = register(rng),
            1 => *src = register(rng),
            2 => *off = offset(*off, rng),
            _ => *size = rng.pick(&[Size::W, Size::DW]),
        },
        Insn::Jmp { width, op, dst, src, off } => match which {
            0 => *dst = register(rng),
            1 if rng.one_in(3) => *off = off.wrapping_add(rng.pick(&[-1, 1, 2])),
            1 => *width = width_of(*width),
            2 => *op = rng.pick(&JMP_OPS),
            _ => source(src, rng),
        },
        Insn::LdImm64 { imm: Imm64::Const(v), .. } => *v = rng.imm64(),
        Insn::LdImm64 { imm: Imm64::MapIdx(i), .. } if which == 0 => {
            *i = i.wrapping_add(rng.pick(&[-1, 1])).max(0);
        }
        Insn::LdImm64 { dst, .. } => *dst = register(rng),
        Insn::Call(Call::Helper(id)) if which == 0 => *id = rng.below(212) as i32,
        _ => {}
    }
    insn
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::{NoSymbols, assemble};

    #[test]
    fn changes_can_be_encoded() {
        let text = "r0 = 0\nif r1 == 0 goto pc+2\nr2 = 5 ll\nr0 = *(u32 *)(r1 +4)\nexit";
        let p = assemble(text, &NoSymbols).unwrap().progs.remove(0);
        let mut rng = Rng(3);
        for _ in 0..2000 {
            let m = mutate(&p, &mut rng);
            let slots = bpf::insn::encode_all(&m.insns);
            assert_eq!(bpf::insn::decode_all(&slots).as_deref(), Ok(&m.insns[..]));
        }
    }
}
