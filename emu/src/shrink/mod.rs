//! Smaller programs that show the same.

pub(crate) mod edit;

use bpf::Program;
use bpf::insn::{Imm64, Insn, Src};

use edit::without;

/// Rounds over the whole program.
const ROUNDS: usize = 8;

/// The instruction with a simpler constant.
fn simpler(insn: &Insn) -> Option<Insn> {
    let mut insn = *insn;
    match &mut insn {
        Insn::Alu { src: Src::Imm(v), .. }
        | Insn::Store { src: Src::Imm(v), .. }
        | Insn::Jmp { src: Src::Imm(v), .. }
            if *v != 0 =>
        {
            *v /= 2;
        }
        Insn::LdImm64 { imm: Imm64::Const(v), .. } if *v != 0 => *v >>= 8,
        _ => return None,
    }
    Some(insn)
}

/// Removes and simplifies as long as `shows` holds.
pub(crate) fn shrink(mut program: Program, mut shows: impl FnMut(&Program) -> bool) -> Program {
    for _ in 0..ROUNDS {
        let before = program.insns.clone();
        let mut at = program.insns.len();
        while at > 0 {
            at -= 1;
            if at >= program.insns.len() {
                continue;
            }
            let Some(smaller) = without(&program, at) else { continue };
            if shows(&smaller) {
                program = smaller;
            }
        }
        for at in 0..program.insns.len() {
            let Some(insn) = simpler(&program.insns[at]) else { continue };
            let mut smaller = program.clone();
            smaller.insns[at] = insn;
            if shows(&smaller) {
                program = smaller;
            }
        }
        if program.insns == before {
            break;
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::{NoSymbols, assemble};

    #[test]
    fn what_is_not_needed_goes() {
        let text = "r0 = 0\nif r1 == 0 goto pc+2\nr2 = 5\nr3 = 7\nr0 = 1\nexit";
        let program = assemble(text, &NoSymbols).unwrap().progs.remove(0);
        let wanted = |p: &Program| {
            let jump = p.insns.iter().any(|i| matches!(i, Insn::Jmp { .. }));
            jump && p.insns.last() == Some(&Insn::Exit)
        };
        let small = shrink(program, wanted);
        assert_eq!(small.insns.len(), 2);
        assert!(matches!(small.insns[0], Insn::Jmp { off: 0, .. }), "{:?}", small.insns);
    }
}
