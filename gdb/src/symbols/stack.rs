//! The size of a function's frame as LLVM laid it out, which its debug information needs.
//!
//! LLVM before the fix of its BPF back end (`getFrameIndexReference`, 2026) writes `DW_OP_fbreg`
//! with the size of the frame added: what is at R10 - 16 of a frame of 24 bytes is given as 8. The
//! two conventions differ in sign, since what is on the stack is below R10. The size is nowhere in
//! the file; it is the depth of the lowest place that the function's code names, up to a multiple
//! of 8. Slots that LLVM adds behind the layout, to keep registers over a call of a function that
//! clobbers none (`bpf_fastcall`), are not part of it, and are told by their shape.

use bpf::Endian;
use bpf::insn::{AluOp, Call, Insn, Reg, Size, Slot, Src, Width, decode_all};

/// What a function's code says of its stack.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Stack {
    /// Bytes of the frame; none when that cannot be told.
    pub(super) size: Option<i64>,
    /// Places below R10 that the code names, as offsets, and bytes that it accesses there.
    named: Vec<(i64, i64)>,
}

impl Stack {
    /// Of a function's code; `calls` are the byte offsets, from its start, of relocated ones.
    pub(super) fn of(code: &[u8], endian: Endian, calls: &[u64]) -> Stack {
        let (chunks, _) = code.as_chunks::<8>();
        let slots: Vec<Slot> = chunks.iter().map(|b| Slot::from_bytes(*b, endian)).collect();
        let Ok(insns) = decode_all(&slots) else { return Stack::default() };
        let kept = kept_over_calls(&insns, calls);
        let (mut named, mut certain) = (Vec::new(), Vec::new());
        for (at, insn) in insns.iter().enumerate().filter(|(at, _)| !kept.sure.contains(at)) {
            let Some((off, bytes)) = place(&insns, at, insn) else { continue };
            named.push((off, bytes));
            if !kept.perhaps.contains(&at) {
                certain.push((off, bytes));
            }
        }
        let lowest = |all: &[(i64, i64)]| all.iter().map(|n| n.0).min().unwrap_or(0);
        let depth = |all: &[(i64, i64)]| (-lowest(all) + 7) & !7;
        let size = (depth(&named) == depth(&certain)).then(|| depth(&named));
        Stack { size, named }
    }

    /// Offset from R10 of something at an offset as LLVM wrote it; none when that is not certain.
    pub(super) fn offset(&self, written: i64, bytes: Option<u64>) -> Option<i64> {
        if written < 0 {
            return Some(written);
        }
        let off = written - self.size?;
        // A scalar is accessed where it is: if nothing does, the size is not what we think. A piece
        // of a structure may be accessed with others.
        let seen = match bytes {
            Some(bytes) => bytes > 8 || self.named.iter().any(|n| n.0 == off),
            None => self.named.iter().any(|(from, bytes)| (*from..from + bytes).contains(&off)),
        };
        let bytes = i64::try_from(bytes.unwrap_or(1)).ok()?;
        (off < 0 && off + bytes <= 0 && seen).then_some(off)
    }
}

/// Place on the stack that an instruction names, and bytes that it accesses there.
fn place(insns: &[Insn], at: usize, insn: &Insn) -> Option<(i64, i64)> {
    let fp = |r: Reg, off: i16, size: Size| {
        (r == Reg::FP).then_some((i64::from(off), i64::from(size.bytes())))
    };
    match *insn {
        Insn::Load { src, off, size, .. } | Insn::LoadAcquire { src, off, size, .. } => {
            fp(src, off, size)
        }
        Insn::Store { dst, off, size, .. }
        | Insn::StoreRelease { dst, off, size, .. }
        | Insn::Atomic { dst, off, size, .. } => fp(dst, off, size),
        // r = r10; r += off
        Insn::Alu { width: Width::W64, op: AluOp::Mov, dst, src: Src::Reg(Reg::FP) } => {
            match *insns.get(at + 1)? {
                Insn::Alu { width: Width::W64, op: AluOp::Add, dst: same, src: Src::Imm(off) }
                    if same == dst =>
                {
                    Some((off.into(), 1))
                }
                _ => None,
            }
        }
        _ => None,
    }
}

/// Instructions that keep a register over a call.
#[derive(Default)]
struct Kept {
    /// Of a helper that clobbers none.
    sure: Vec<usize>,
    /// Of a function that may be such.
    perhaps: Vec<usize>,
}

/// `bpf_get_smp_processor_id`, the one helper that is declared `bpf_fastcall`.
const FASTCALL: i32 = 8;

fn kept_over_calls(insns: &[Insn], relocated: &[u64]) -> Kept {
    let mut kept = Kept::default();
    for (at, insn) in insns.iter().enumerate() {
        let Insn::Call(call) = insn else { continue };
        let list = match call {
            Call::Helper(FASTCALL) => &mut kept.sure,
            Call::Helper(_) => continue,
            _ if relocated.contains(&(8 * at as u64)) => &mut kept.perhaps,
            Call::Kfunc { .. } => &mut kept.perhaps,
            Call::Local(_) => continue,
        };
        let (before, after) = (insns[..at].iter().rev(), insns[at + 1..].iter());
        let mut fills: Vec<(Reg, i16)> = after.map_while(fill).collect();
        for (n, spilled) in before.map_while(spill).enumerate() {
            let Some(found) = fills.iter().position(|f| *f == spilled) else { break };
            fills.remove(found);
            list.push(at - 1 - n);
            list.push(at + 1 + n);
        }
    }
    kept
}

fn spill(insn: &Insn) -> Option<(Reg, i16)> {
    match *insn {
        Insn::Store { size: Size::DW, dst: Reg::FP, off, src: Src::Reg(r) } if r.0 < 6 => {
            Some((r, off))
        }
        _ => None,
    }
}

fn fill(insn: &Insn) -> Option<(Reg, i16)> {
    match *insn {
        Insn::Load { size: Size::DW, sext: false, dst, src: Reg::FP, off } if dst.0 < 6 => {
            Some((dst, off))
        }
        _ => None,
    }
}
