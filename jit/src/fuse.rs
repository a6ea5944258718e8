//! Two instructions that one native instruction computes.
//!
//! BPF has two operands, so `dst = a OP src` is a move and an operation; machines with three
//! operands do it in one. The first of the two then has the code of both and the second has none:
//! between native instructions the registers are those before both or those behind both.

use bpf::insn::{AluOp, Insn, Reg, Src, Width};

/// dst = a OP src
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Three {
    pub(crate) width: Width,
    pub(crate) op: AluOp,
    pub(crate) dst: Reg,
    pub(crate) a: Reg,
    pub(crate) src: Src,
}

/// A move and an operation on what it moved.
pub(crate) fn three(first: &Insn, second: &Insn) -> Option<Three> {
    let Insn::Alu { width: moved, op: AluOp::Mov, dst, src: Src::Reg(a) } = *first else {
        return None;
    };
    let Insn::Alu { width, op, dst: same, src } = *second else { return None };
    // Of a move of 32 bits the upper half is 0, which an operation of 64 bits reads.
    let narrow = moved == Width::W64 || width == Width::W32;
    let src = if src == Src::Reg(dst) { Src::Reg(a) } else { src };
    let fits = same == dst && a != dst && op != AluOp::Mov && narrow;
    fits.then_some(Three { width, op, dst, a, src })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alu(width: Width, op: AluOp, dst: u8, src: Src) -> Insn {
        Insn::Alu { width, op, dst: Reg(dst), src }
    }

    #[test]
    fn a_move_and_an_operation_on_it() {
        use AluOp::{Add, Mov};
        use Width::{W32, W64};
        let r = |n| Src::Reg(Reg(n));
        let made = |first: (Width, u8, Src), second: (Width, AluOp, u8, Src)| {
            let first = alu(first.0, Mov, first.1, first.2);
            three(&first, &alu(second.0, second.1, second.2, second.3)).map(|t| (t.a.0, t.src))
        };
        assert_eq!(made((W64, 2, r(10)), (W64, Add, 2, Src::Imm(-4))), Some((10, Src::Imm(-4))));
        assert_eq!(made((W32, 2, r(1)), (W32, Add, 2, r(2))), Some((1, r(1))), "itself");
        assert_eq!(made((W64, 2, r(1)), (W32, Add, 2, r(3))), Some((1, r(3))));
        assert_eq!(made((W32, 2, r(1)), (W64, Add, 2, r(3))), None, "the upper half is read");
        assert_eq!(made((W64, 2, r(1)), (W64, Add, 3, r(2))), None, "another destination");
        assert_eq!(made((W64, 2, r(2)), (W64, Add, 2, r(3))), None, "no move");
        assert_eq!(made((W64, 2, r(1)), (W64, Mov, 2, r(3))), None, "two moves");
        assert_eq!(made((W64, 2, Src::Imm(1)), (W64, Add, 2, r(3))), None, "a constant");
    }
}
