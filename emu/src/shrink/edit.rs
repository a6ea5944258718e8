//! Programs with instructions taken out and put in: jumps, calls and functions keep their targets.

use bpf::Program;
use bpf::insn::{Call, Imm64, Insn, InsnIdx};

/// Moves everything: `insn` is where an instruction goes, `target` where what leads there leads to.
fn moved(
    p: &Program,
    keep: impl Fn(usize) -> bool,
    insn: impl Fn(i64) -> i64,
    target: impl Fn(i64) -> i64,
) -> Program {
    let mut out = Program { insns: Vec::with_capacity(p.insns.len() + 2), ..p.clone() };
    for (i, old) in p.insns.iter().enumerate().filter(|(i, _)| keep(*i)) {
        let at = i as i64;
        let off = |off: i64| target(at + 1 + off) - insn(at) - 1;
        let mut new = *old;
        match &mut new {
            Insn::Jmp { off: o, .. } | Insn::MayGoto { off: o } => *o = off((*o).into()) as i16,
            Insn::Ja { off: o, .. }
            | Insn::Call(Call::Local(o))
            | Insn::LdImm64 { imm: Imm64::Func(o), .. } => *o = off((*o).into()) as i32,
            _ => {}
        }
        out.insns.push(new);
    }
    for f in &mut out.funcs {
        f.start = InsnIdx(target(f.start.0.into()) as u32);
    }
    out.funcs.dedup_by_key(|f| f.start);
    let n = out.insns.len();
    out.funcs.retain(|f| f.start.idx() < n);
    out
}

/// The program without a slot, or both of a 16-byte load.
pub(crate) fn without(p: &Program, at: usize) -> Option<Program> {
    let n = if matches!(p.insns[at], Insn::LdImm64 { .. }) { 2 } else { 1 };
    if p.insns[at] == Insn::LdImm64Hi || p.insns.len() <= n {
        return None;
    }
    let (first, n) = (at as i64, n as i64);
    let shift = |x: i64| if x > first { (x - n).max(first) } else { x };
    let gone = at..at + n as usize;
    Some(moved(p, |i| !gone.contains(&i), shift, shift))
}

/// The program with an instruction put in before a slot; what led there leads to it.
pub(crate) fn with(p: &Program, at: usize, insn: Insn) -> Program {
    let first = at as i64;
    let after = |x: i64| if x >= first { x + 1 } else { x };
    let lead = |x: i64| if x > first { x + 1 } else { x };
    let mut out = moved(p, |_| true, after, lead);
    out.insns.insert(at, insn);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::asm::{NoSymbols, assemble};
    use bpf::insn::{AluOp, Reg, Src, Width};

    fn program(text: &str) -> Program {
        assemble(text, &NoSymbols).unwrap().progs.remove(0)
    }

    #[test]
    fn jumps_keep_their_targets() {
        let p = program("if r1 == 0 goto pc+3\nr2 = 5\nr3 = 7\nr4 = 9\nr0 = 1\nexit");
        let less = without(&p, 2).unwrap();
        assert!(matches!(less.insns[0], Insn::Jmp { off: 2, .. }), "{less:?}");
        let one = Insn::Alu { width: Width::W64, op: AluOp::Mov, dst: Reg(5), src: Src::Imm(1) };
        let more = with(&p, 2, one);
        assert!(matches!(more.insns[0], Insn::Jmp { off: 4, .. }), "{more:?}");
        assert!(matches!(with(&p, 4, one).insns[0], Insn::Jmp { off: 3, .. }));
    }

    #[test]
    fn functions_move() {
        let p = program("r1 = 1\ncall f\nr0 = 0\nexit\nf:\nr0 = r1\nexit");
        assert_eq!(p.funcs[1].start.0, 4);
        let less = without(&p, 2).unwrap();
        assert_eq!(less.funcs[1].start.0, 3);
        assert_eq!(less.insns[1], Insn::Call(Call::Local(1)));
    }
}
