//! A move and an operation on what it moved, which the back ends make one instruction of where
//! they can: every operation, both widths of both, registers in every relation, immediates at the
//! edges of the forms.

use bpf::Arch;
use bpf::insn::{AluOp, Insn, JmpOp, Reg, Size, Src, Width};

use super::engine::{Native, interpret};

const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
#[rustfmt::skip]
const OPS: [AluOp; 13] = [
    AluOp::Add, AluOp::Sub, AluOp::Mul, AluOp::Div, AluOp::SDiv, AluOp::Mod, AluOp::SMod,
    AluOp::Or, AluOp::And, AluOp::Xor, AluOp::Lsh, AluOp::Rsh, AluOp::Arsh,
];
#[rustfmt::skip]
const IMMS: [i32; 24] = [
    1, -1, 2, 8, 31, 32, 33, 63, 127, 128, -128, 255, 2047, 2048, -2048, 4095, 4096, 0xffff,
    0x7fff, -0x8000, 0x12345, 0x0ff0_0000, i32::MAX, i32::MIN,
];
/// dst, what is moved, the operand; r3 and r0 are operands of division on x86-64, r4 a count.
const REGS: [(u8, u8, u8); 10] = [
    (1, 2, 3),
    (0, 3, 4),
    (3, 0, 3),
    (4, 4, 5),
    (6, 7, 4),
    (8, 5, 0),
    (5, 8, 8),
    (7, 6, 7),
    (2, 8, 1),
    (4, 1, 6),
];
/// Registers that hold something; r9 is the buffer.
const HELD: u8 = 9;
/// Pairs of one program.
const PAIRS: usize = 60;

/// Both instructions of every pair.
fn all() -> Vec<[Insn; 2]> {
    let mut pairs = Vec::new();
    for (moved, width) in WIDTHS.into_iter().flat_map(|m| WIDTHS.map(|w| (m, w))) {
        for op in OPS {
            let mut push = |dst, a, src| {
                let dst = Reg(dst);
                let first = Insn::Alu { width: moved, op: AluOp::Mov, dst, src: Src::Reg(Reg(a)) };
                pairs.push([first, Insn::Alu { width, op, dst, src }]);
            };
            for (dst, a, src) in REGS {
                push(dst, a, Src::Reg(Reg(src)));
            }
            let shift = matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh);
            let bits = if width == Width::W64 { 64 } else { 32 };
            // The verifier takes no other shifts.
            let imms = IMMS.into_iter().filter(|imm| !shift || (1..bits).contains(imm));
            for (imm, (dst, a, _)) in imms.zip(REGS.into_iter().cycle()) {
                push(dst, a, Src::Imm(imm));
            }
        }
    }
    pairs
}

/// Each pair on registers from the buffer, its result into the buffer; at last all registers.
fn program(pairs: &[[Insn; 2]], jump: bool) -> Vec<Insn> {
    let (size, cells) = (Size::DW, Reg(9));
    let mov = |dst, src| Insn::Alu { width: Width::W64, op: AluOp::Mov, dst, src };
    let store = |n: usize, src| {
        let off = i16::try_from(8 * n).expect("a short program");
        Insn::Store { size, dst: cells, off, src: Src::Reg(src) }
    };
    let mut insns = vec![mov(cells, Src::Reg(Reg::R1))];
    for (n, pair) in pairs.iter().enumerate() {
        for r in 0..HELD {
            let off = 8 * i16::from(r);
            insns.push(Insn::Load { size, sext: false, dst: Reg(r), src: cells, off });
        }
        if jump {
            // What may be jumped to is not part of a pair.
            let dst = Reg(u8::try_from(n).expect("few pairs") % HELD);
            insns.push(Insn::Jmp {
                width: Width::W32,
                op: JmpOp::Sgt,
                dst,
                src: Src::Imm(0),
                off: 1,
            });
        }
        insns.extend(pair);
        let Insn::Alu { dst, .. } = pair[1] else { unreachable!("pairs are of operations") };
        insns.push(store(usize::from(HELD) + n, dst));
    }
    insns.extend((0..HELD).map(|r| store(usize::from(HELD) + PAIRS + usize::from(r), Reg(r))));
    insns.push(Insn::Exit);
    insns
}

#[test]
fn moves_and_operations() {
    let pairs = all();
    assert!(pairs.len() > 1400);
    let regs = (1..=u64::from(HELD)).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let room = std::iter::repeat_n(0, PAIRS + usize::from(HELD));
    let cells: Vec<u64> = regs.chain(room).collect();
    for arch in Arch::ALL {
        let mut engine = Native::new(arch);
        for (some, jump) in pairs.chunks(PAIRS).flat_map(|c| [(c, false), (c, true)]) {
            let insns = program(some, jump);
            let want = interpret(&insns, &cells, engine.endian());
            let got = engine.run(&insns, &cells);
            let n = match (&want, &got) {
                (Ok(w), Ok(g)) => w.0.iter().zip(&g.0).position(|(w, g)| w != g),
                _ => None,
            };
            let pair = n.and_then(|n| some.get(n.checked_sub(usize::from(HELD))?));
            assert!(got == want, "{arch}: cell {n:?}, {pair:?}: {got:x?}, not {want:x?}");
        }
    }
}
