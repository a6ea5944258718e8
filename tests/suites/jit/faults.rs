//! Every kind of probed load faulting: the destination is cleared, nothing else changes, and the
//! program goes on behind the load, whatever its offset needed to be reached.

use bpf::Arch;
use bpf::insn::{AluOp, Imm64, Insn, InsnIdx, Reg, Size, Src, Width};

use super::engine::Native;

/// No page is mapped within 32 KiB of it.
const NOWHERE: u64 = 0xffff_9000_1234_5678;
/// Around the edges of the displacements of the four architectures.
const OFFSETS: [i16; 14] =
    [0, 1, 8, -8, 127, -129, 255, -256, 2047, 2048, -2049, 4095, i16::MAX, i16::MIN];
/// Destination and base.
const REGS: [(u8, u8); 5] = [(0, 2), (2, 2), (5, 0), (8, 7), (3, 4)];

/// Loads all registers, does the probed load, stores r0-r8 at r9.
fn program(size: Size, sext: bool, dst: u8, src: u8, off: i16) -> (Vec<Insn>, InsnIdx) {
    let mov = |dst, src| Insn::Alu {
        width: Width::W64,
        op: AluOp::Mov,
        dst: Reg(dst),
        src: Src::Reg(Reg(src)),
    };
    let mut insns = vec![mov(9, 1)];
    for r in 0..9 {
        let value = if r == src { NOWHERE } else { pattern(r) };
        insns.push(Insn::LdImm64 { dst: Reg(r), imm: Imm64::Const(value) });
        insns.push(Insn::LdImm64Hi);
    }
    let at = InsnIdx(insns.len() as u32);
    insns.push(Insn::Load { size, sext, dst: Reg(dst), src: Reg(src), off });
    for r in 0..9 {
        let off = 8 * i16::from(r);
        insns.push(Insn::Store { size: Size::DW, dst: Reg(9), off, src: Src::Reg(Reg(r)) });
    }
    insns.push(Insn::Exit);
    (insns, at)
}

fn pattern(r: u8) -> u64 {
    0x1111_1111_2222_2222u64.wrapping_mul(u64::from(r) + 1)
}

#[test]
fn probed_loads_that_fault_clear_their_destination_and_nothing_else() {
    for arch in Arch::ALL {
        let mut engine = Native::new(arch);
        for size in [Size::B, Size::H, Size::W, Size::DW] {
            for sext in [false, true].into_iter().take(if size == Size::DW { 1 } else { 2 }) {
                for off in OFFSETS {
                    for (dst, src) in REGS {
                        let (insns, at) = program(size, sext, dst, src, off);
                        let got = engine.run_with(&insns, &[0; 9], &[at]).map(|r| r.0);
                        let mut want: Vec<u64> = (0..9).map(pattern).collect();
                        want[usize::from(src)] = NOWHERE;
                        want[usize::from(dst)] = 0;
                        assert_eq!(got, Ok(want), "{arch} {:?}", insns[at.idx()]);
                    }
                }
            }
        }
    }
}
