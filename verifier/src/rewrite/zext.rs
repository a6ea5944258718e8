//! Which 32-bit results must be zero-extended: those whose upper half is read later.
//!
//! The kernel follows each path for this (`mark_insn_zext`, `opt_subreg_zext_lo32_rnd_hi32`).
//! Here it is liveness of upper halves over the rewritten program, which sees the expansions too
//! and takes each instruction once. It finds no more to extend than the kernel does: a path on
//! which an upper half is read is a path of the graph.
//!
//! **What is taken as read.** All of a helper's arguments, of a base register, of what leaves a
//! function that someone else than this program enters. Operations whose low half depends on low
//! halves alone (add, and, shift left ..) read an upper half when theirs is read.

use bpf::insn::{AluOp, AtomicOp, Call, Imm64, Insn, Reg, Size, Src, Width};

use super::defines_low_half;
use crate::verified::{InsnFacts, SubprogFacts};

/// r1-r5.
const ARGS: u16 = 0b11_1110;
/// r0-r5.
const CALLER_SAVED: u16 = ARGS | R0;
const R0: u16 = 1;

fn bit(r: Reg) -> u16 {
    1 << r.0
}

fn src_bit(src: Src) -> u16 {
    match src {
        Src::Reg(r) => bit(r),
        Src::Imm(_) => 0,
    }
}

/// A function's interface: upper halves read from the start, and R0's after the return.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Interface {
    entry: u16,
    exit: u16,
}

/// Clears the fact of instructions whose upper half nobody reads. `outside[n]`: function `n` is
/// entered by others than this program too.
pub(crate) fn mark(
    insns: &[Insn],
    facts: &mut [InsnFacts],
    subprogs: &[SubprogFacts],
    outside: &[bool],
) {
    let seed =
        |&o: &bool| if o { Interface { entry: ARGS, exit: R0 } } else { Interface::default() };
    let mut faces: Vec<Interface> = outside.iter().map(seed).collect();
    let mut live = vec![0u16; insns.len() + 1];
    loop {
        let before = faces.clone();
        let mut changed = false;
        for (n, f) in subprogs.iter().enumerate() {
            for at in (f.start.idx()..f.end.idx()).rev() {
                let new = step(insns, at, n, &live, subprogs, &mut faces);
                changed |= new != live[at];
                live[at] = new;
            }
            faces[n].entry |= live[f.start.idx()] & ARGS;
        }
        if !changed && faces == before {
            break;
        }
    }
    for (at, insn) in insns.iter().enumerate() {
        let read = defined(insn) & live_after(insns, at, &live) != 0;
        facts[at].zext = defines_low_half(insn) && read;
    }
}

fn target(at: usize, off: i32) -> usize {
    usize::try_from(at as i64 + 1 + i64::from(off)).unwrap_or(usize::MAX)
}

fn live_after(insns: &[Insn], at: usize, live: &[u16]) -> u16 {
    if matches!(insns[at], Insn::Gotox { .. }) {
        return u16::MAX;
    }
    let get = |i: usize| live.get(i).copied().unwrap_or(0);
    let falls = if insns[at].ends_block() { 0 } else { get(at + 1) };
    falls | insns[at].jump_off().map_or(0, |off| get(target(at, off)))
}

/// Upper halves read before `at` is executed.
fn step(
    insns: &[Insn],
    at: usize,
    n: usize,
    live: &[u16],
    subprogs: &[SubprogFacts],
    faces: &mut [Interface],
) -> u16 {
    let after = live_after(insns, at, live);
    let insn = &insns[at];
    match *insn {
        Insn::Call(Call::Local(off)) => {
            let to = target(at, off);
            let Some(callee) = subprogs.iter().position(|f| f.start.idx() == to) else {
                return after | ARGS;
            };
            faces[callee].exit |= after & R0;
            after & !CALLER_SAVED | faces[callee].entry
        }
        Insn::Exit => faces[n].exit,
        _ => after & !defined(insn) | reads(insn, after),
    }
}

/// Registers of which an instruction writes all 64 bits, the upper half perhaps as zeroes.
fn defined(insn: &Insn) -> u16 {
    match insn {
        Insn::Call(Call::Helper(super::TIMED_MAY_GOTO)) => 0,
        Insn::Call(_) | Insn::Callx { .. } | Insn::LdAbs { .. } | Insn::LdInd { .. } => {
            CALLER_SAVED
        }
        _ => insn.result().map_or(0, bit),
    }
}

/// Upper halves an instruction reads when those in `after` are read behind it.
// tidy: flat match
fn reads(insn: &Insn, after: u16) -> u16 {
    let if_read = |dst: Reg, all: u16| if after & bit(dst) != 0 { all } else { 0 };
    let if_wide = |wide: bool, all: u16| if wide { all } else { 0 };
    match *insn {
        Insn::Alu { width: Width::W32, .. } | Insn::Neg { width: Width::W32, .. } => 0,
        Insn::Alu { op, dst, src, .. } => alu64(op, dst, src, after),
        Insn::Neg { dst, .. } => if_read(dst, bit(dst)),
        Insn::MovSx { .. } => 0,
        Insn::End { dst, bits, .. } => if_wide(bits == 64, bit(dst)),
        Insn::AddrSpaceCast { src, .. }
        | Insn::MovPercpu { src, .. }
        | Insn::Load { src, .. }
        | Insn::LoadAcquire { src, .. } => bit(src),
        Insn::Store { size, dst, src, .. } => bit(dst) | if_wide(size == Size::DW, src_bit(src)),
        Insn::StoreRelease { size, dst, src, .. } => bit(dst) | if_wide(size == Size::DW, bit(src)),
        Insn::Atomic { size, op, dst, src, .. } => {
            let old = if op == AtomicOp::Cmpxchg { R0 } else { 0 };
            bit(dst) | if_wide(size == Size::DW, bit(src) | old)
        }
        Insn::Jmp { width, dst, src, .. } => if_wide(width == Width::W64, bit(dst) | src_bit(src)),
        Insn::Gotox { dst } => bit(dst),
        Insn::Callx { dst } => ARGS | bit(dst),
        Insn::Call(Call::Helper(super::TIMED_MAY_GOTO)) => 0,
        Insn::Call(_) => ARGS,
        Insn::LdAbs { .. } => 1 << 6,
        Insn::LdInd { src, .. } => bit(src) | 1 << 6,
        Insn::LdImm64 { imm: Imm64::Func(_), .. } => 0,
        Insn::LdImm64 { .. }
        | Insn::LdImm64Hi
        | Insn::Ja { .. }
        | Insn::MayGoto { .. }
        | Insn::Exit => 0,
    }
}

/// A 64-bit operation.
fn alu64(op: AluOp, dst: Reg, src: Src, after: u16) -> u16 {
    let both = bit(dst) | src_bit(src);
    let wanted = after & bit(dst) != 0;
    match (op, src) {
        (AluOp::Mov, _) if wanted => src_bit(src),
        // A mask without the sign bit, a shift by the whole lower half: the upper half is lost.
        (AluOp::And, Src::Imm(0..)) | (AluOp::Lsh, Src::Imm(32..)) => 0,
        // The count is the low six bits.
        (AluOp::Lsh, _) if wanted => bit(dst),
        (AluOp::Rsh | AluOp::Arsh, _) => bit(dst),
        (AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod, _) => both,
        (AluOp::Add | AluOp::Sub | AluOp::Mul | AluOp::Or | AluOp::And | AluOp::Xor, _)
            if wanted =>
        {
            both
        }
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use bpf::insn::asm::assemble_insns;

    /// Places (by slot) that are extended.
    fn extended(text: &str) -> Vec<usize> {
        let insns = assemble_insns(text).unwrap();
        let p = crate::testing::bare_program("t", bpf::uapi::ProgType::Xdp, insns.clone());
        let v = crate::testing::Assume::new(p, insns).zext_where_read().build();
        v.insns().filter(|(_, _, f)| f.zext).map(|(at, ..)| at.idx()).collect()
    }

    #[test]
    fn only_what_is_read_is_extended() {
        let rows: [(&str, &[usize]); 12] = [
            ("w2 += 1\nw3 = w2\nr0 = 0\nexit\n", &[]),
            ("w2 += 1\nr0 = r2\nexit\n", &[0]),
            ("w0 += 1\nexit\n", &[0]),
            ("w2 += 1\nr2 <<= 32\nr2 >>= 32\nr0 = r2\nexit\n", &[]),
            ("w2 += 1\nr2 &= 255\nr0 = r2\nexit\n", &[]),
            ("w2 += 1\nif r2 == 5 goto +0\nr0 = 0\nexit\n", &[0]),
            ("w2 += 1\nif w2 == 5 goto +0\nr0 = 0\nexit\n", &[]),
            ("w2 += 1\n*(u32 *)(r10 -8) = r2\nr0 = 0\nexit\n", &[]),
            ("w2 += 1\n*(u64 *)(r10 -8) = r2\nr0 = 0\nexit\n", &[0]),
            ("w2 += 1\nr3 = *(u8 *)(r2 +0)\nr0 = 0\nexit\n", &[0]),
            ("w1 += 1\nw6 += 1\ncall bpf_ktime_get_ns\nr0 = 0\nexit\n", &[0]),
            // A loop: the half is read on the way round.
            ("w2 += 1\nr2 += 1\nif w2 != 5 goto -3\nr2 >>= 1\nr0 = 0\nexit\n", &[0]),
        ];
        for (text, want) in rows {
            assert_eq!(extended(text), want, "{text}");
        }
    }

    #[test]
    fn functions_hand_on_what_is_read() {
        let callee = "r6 = r1\nr0 = *(u8 *)(r6 +0)\nw0 += 1\nexit\n";
        let text = |after: &str| format!("w1 += 1\nw2 += 1\ncall pc+2\n{after}\nexit\n{callee}");
        // The callee reads all of r1, nothing of r2; whether r0 is extended is the caller's doing.
        assert_eq!(extended(&text("w0 = 3")), [0, 3]);
        assert_eq!(extended(&text("r0 += 3")), [0, 7]);
    }
}
