//! Arenas on the interpreter and four back ends: casts, and accesses of every kind to a page that
//! is there and to one that is not (loads give 0, stores are dropped, the program goes on).

use bpf::Arch;
use bpf::insn::{AluOp, AtomicOp, Cast, Imm64, Insn, InsnIdx, Reg, Size, Src, Width};

use super::engine::{ARENA, Cells, Native, interpret_arena};

/// Registers at the end, and how many.
const REGS: u8 = 9;
/// Pointers in the kernel's form: NULL, the page that is there, its end, a hole.
const POINTERS: [u64; 4] = [0, 0x1_0000, 0x1_0ff0, 0xffff_0000];
/// Offsets, also of more bits than some displacements have.
const OFFSETS: [i16; 7] = [0, 8, -8, 2040, -2056, i16::MAX - 7, i16::MIN];
/// Destination (or source) and base.
const PAIRS: [(u8, u8); 5] = [(0, 2), (2, 2), (5, 0), (8, 7), (3, 4)];

fn pattern(r: u8) -> u64 {
    0x1111_1111_2222_2222u64.wrapping_mul(u64::from(r) + 1)
}

/// Loads all registers, does one thing, stores r0-r8 at r9.
fn program(insn: Insn, base: u8, pointer: u64) -> (Vec<Insn>, InsnIdx) {
    let (width, op) = (Width::W64, AluOp::Mov);
    let mut insns = vec![Insn::Alu { width, op, dst: Reg(9), src: Src::Reg(Reg(1)) }];
    for r in 0..REGS {
        let value = if r == base { pointer } else { pattern(r) };
        insns.push(Insn::LdImm64 { dst: Reg(r), imm: Imm64::Const(value) });
        insns.push(Insn::LdImm64Hi);
    }
    let at = InsnIdx(insns.len() as u32);
    insns.push(insn);
    for r in 0..REGS {
        let (off, src) = (8 * i16::from(r), Src::Reg(Reg(r)));
        insns.push(Insn::Store { size: Size::DW, dst: Reg(9), off, src });
    }
    insns.push(Insn::Exit);
    (insns, at)
}

/// What the interpreter says, and that every back end says the same: registers, and the page.
struct Engines(Vec<Native>);

impl Engines {
    fn new() -> Engines {
        Engines(Arch::ALL.into_iter().map(Native::new).collect())
    }

    fn agree(&mut self, insn: Insn, base: u8, pointer: u64, arena: &[InsnIdx]) -> [Cells; 2] {
        let (insns, _) = program(insn, base, pointer);
        let mut said = Vec::new();
        for e in &mut self.0 {
            let want = interpret_arena(&insns, &[0; REGS as usize], e.endian());
            let got = e.run_arena(&insns, &[0; REGS as usize], arena);
            assert_eq!(got, want, "{} {insn:?} at {pointer:#x}", e.arch());
            said.push(want.expect("the interpreter goes on"));
        }
        said.swap_remove(0)
    }
}

#[test]
fn casts() {
    let mut engines = Engines::new();
    let upper = ARENA.user_vm_start & !0xffff_ffff;
    let rows = [0, 1, 0x8000_0000, 0xffff_ffff, 0x1234_0000_0000, 0xffff_ffff_8765_4321];
    for value in rows {
        for (dst, src) in PAIRS {
            for cast in [Cast::ToKernel, Cast::ToUser] {
                let low = value & 0xffff_ffff;
                let user = if low == 0 { 0 } else { low | upper };
                let want = if cast == Cast::ToKernel { low } else { user };
                let insn = Insn::AddrSpaceCast { dst: Reg(dst), src: Reg(src), cast };
                let [regs, _] = engines.agree(insn, src, value, &[]);
                assert_eq!(regs[usize::from(dst)], want, "{cast:?} of {value:#x}");
            }
        }
    }
}

fn everywhere(make: impl Fn(Size, i16, Reg, Reg) -> Option<Insn>) {
    let mut engines = Engines::new();
    for size in [Size::B, Size::H, Size::W, Size::DW] {
        for off in OFFSETS {
            for (other, base) in PAIRS {
                let Some(insn) = make(size, off, Reg(other), Reg(base)) else { continue };
                let at = program(insn, base, 0).1;
                for pointer in POINTERS {
                    engines.agree(insn, base, pointer, &[at]);
                }
            }
        }
    }
}

#[test]
fn loads() {
    for sext in [false, true] {
        everywhere(|size, off, dst, src| {
            (!sext || size != Size::DW).then_some(Insn::Load { size, sext, dst, src, off })
        });
    }
    everywhere(|size, off, dst, src| Some(Insn::LoadAcquire { size, dst, src, off }));
}

#[test]
fn stores() {
    everywhere(|size, off, src, dst| Some(Insn::Store { size, dst, off, src: Src::Reg(src) }));
    let imm = Src::Imm(-0x1234_5678);
    everywhere(|size, off, _, dst| Some(Insn::Store { size, dst, off, src: imm }));
    everywhere(|size, off, src, dst| Some(Insn::StoreRelease { size, dst, off, src }));
}

/// All that `bpf_jit_supports_insn` allows on x86-64.
const ATOMICS: [AtomicOp; 7] = [
    AtomicOp::Add,
    AtomicOp::And,
    AtomicOp::Or,
    AtomicOp::Xor,
    AtomicOp::FetchAdd,
    AtomicOp::Xchg,
    AtomicOp::Cmpxchg,
];

#[test]
fn atomics() {
    for op in ATOMICS {
        everywhere(|size, off, src, dst| {
            let wide = matches!(size, Size::W | Size::DW);
            // Words must be aligned on some machines; r0 is what cmpxchg compares with.
            let fits = off % 8 == 0 && (op != AtomicOp::Cmpxchg || dst != Reg::R0);
            (wide && fits).then_some(Insn::Atomic { size, op, dst, off, src })
        });
    }
}

#[test]
fn stores_reach_the_page_and_no_hole() {
    let mut engines = Engines::new();
    let insn = Insn::Store { size: Size::DW, dst: Reg(2), off: 8, src: Src::Imm(7) };
    let at = program(insn, 2, 0).1;
    let [_, there] = engines.agree(insn, 2, POINTERS[1], &[at]);
    let [_, hole] = engines.agree(insn, 2, POINTERS[3], &[at]);
    assert_eq!((there[0], there[1]), (hole[0], 7));
    assert_eq!((&there[2..], hole[1] == 7), (&hole[2..], false));
}
