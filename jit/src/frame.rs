//! What a (sub)program's native frame must provide; how it is laid out is the architecture's.

use bpf::insn::{AluOp, Call, Insn, InsnIdx, Reg};
use verifier::Verified;
use verifier::rewrite::TAIL_CALL;
use verifier::verified::{MemClass, SubprogFacts};

/// `MAX_TAIL_CALL_CNT` (include/linux/bpf.h).
pub(crate) const TAIL_CALL_MAX: u32 = 33;

/// Who enters the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The kernel, or a tail call at [`crate::tail_call_offset`].
    Main,
    /// Other functions of the program.
    Sub,
    /// A helper. Like `Main` it starts a tail-call counter of its own, since the helper between
    /// does not carry one; nothing tail-calls into it.
    Callback,
}

impl Role {
    /// The counter is set up at entry rather than handed over by the caller.
    pub(crate) fn starts_counter(self) -> bool {
        matches!(self, Role::Main | Role::Callback)
    }
}

/// The frame of one function, as the driver asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Who enters it.
    pub(crate) role: Role,
    /// BPF stack, rounded up to 8.
    pub(crate) stack_bytes: u32,
    /// Bit n: the function writes register n (11 is AX); calls count as writing R0 alone.
    pub(crate) written: u16,
    /// Which of R6..R9 the function writes.
    pub(crate) saves: [bool; 4],
    /// R10 is read.
    pub(crate) uses_fp: bool,
    /// Something is called: the return address register is clobbered, and unwinders may see it.
    pub(crate) calls: bool,
    /// Contains a tail call.
    pub(crate) has_tail_call: bool,
    /// A tail call may happen here or in a callee: the counter is kept.
    pub(crate) counts: bool,
}

impl Frame {
    /// Looks at the instructions of one function.
    pub(crate) fn of(v: &Verified, f: &SubprogFacts, is_main: bool) -> Frame {
        let mut frame = Frame {
            role: match (is_main, f.is_callback) {
                (true, _) => Role::Main,
                (false, true) => Role::Callback,
                (false, false) => Role::Sub,
            },
            stack_bytes: f.stack_depth.next_multiple_of(8),
            written: 0,
            saves: [false; 4],
            uses_fp: f.stack_depth > 0,
            calls: false,
            has_tail_call: f.has_tail_call,
            counts: f.tail_call_reachable || f.has_tail_call,
        };
        for (insn, facts) in (f.start.0..f.end.0).map(|at| v.insn(InsnIdx(at))) {
            frame.written |= insn.result().map_or(0, |r| 1 << r.0);
            let through_ax = facts.mem == MemClass::Arena;
            if through_ax || matches!(insn, Insn::AddrSpaceCast { .. }) {
                frame.written |= 1 << Reg::AX.0;
            }
            frame.uses_fp |= reads_fp(insn);
            frame.calls |= matches!(insn, Insn::Call(c) if *c != Call::Helper(TAIL_CALL));
            frame.has_tail_call |= matches!(insn, Insn::Call(Call::Helper(TAIL_CALL)));
        }
        if is_main && v.throws() {
            // Frames below are dropped, with what they saved: R5 is the caller's on s390x.
            frame.written |= 0b11_1110_0000;
        }
        frame.saves = [6, 7, 8, 9].map(|n| frame.written & 1 << n != 0);
        frame.counts |= frame.has_tail_call;
        frame
    }

    /// The registers among R6..R9 that are saved.
    pub(crate) fn saved(&self) -> impl DoubleEndedIterator<Item = Reg> + '_ {
        (0u8..4).filter(|&i| self.saves[usize::from(i)]).map(|i| Reg(i + 6))
    }
}

/// Registers that an architecture may use or leave unfinished while it executes an instruction.
pub(crate) fn unsettled(insn: &Insn) -> u16 {
    /// R0 and R3 are operands of division on x86-64.
    const DIVISION: u16 = 1 << 0 | 1 << 3;
    let all = (1 << 11) - 1;
    let own = insn.result().map_or(0, |r| 1 << r.0);
    match *insn {
        Insn::Exit | Insn::Call(Call::Helper(TAIL_CALL)) => all,
        Insn::Call(_) | Insn::Callx { .. } => 0b11_1111,
        Insn::Alu { op: AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod, .. } => own | DIVISION,
        // The old value is kept there on x86-64 by loops of `cmpxchg`.
        Insn::Atomic { .. } => own | 1 << 0,
        _ => own,
    }
}

/// R10 is read-only, so it counts wherever it appears.
fn reads_fp(insn: &Insn) -> bool {
    use bpf::insn::Src;
    let fp = |s: Src| s == Src::Reg(Reg::FP);
    match *insn {
        Insn::Alu { dst, src, .. } | Insn::Jmp { dst, src, .. } => dst == Reg::FP || fp(src),
        Insn::MovSx { src, .. } | Insn::AddrSpaceCast { src, .. } => src == Reg::FP,
        Insn::MovPercpu { src, .. } | Insn::Load { src, .. } => src == Reg::FP,
        Insn::LoadAcquire { src, .. } => src == Reg::FP,
        Insn::Store { dst, src, .. } => dst == Reg::FP || fp(src),
        Insn::Atomic { dst, src, .. } => dst == Reg::FP || src == Reg::FP,
        Insn::StoreRelease { dst, src, .. } => dst == Reg::FP || src == Reg::FP,
        _ => false,
    }
}
