//! What the back ends can do, by architecture: the questions the kernel asks of a JIT, answered
//! for ours. They are one answer for all four wherever the driver does the work.

use bpf::Arch;

/// One ability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is.
    pub what: &'static str,
    /// The kernel's question.
    pub hook: &'static str,
    /// Yes or no, in the order of [`Arch::ALL`].
    pub on: [bool; 4],
}

const ALL: [bool; 4] = [true; 4];
const NONE: [bool; 4] = [false; 4];

/// The table.
pub const CAPABILITIES: &[Capability] = &[
    row("32-bit results are zero-extended by the verifier", "bpf_jit_needs_zext", {
        [false, false, true, true]
    }),
    row(
        "calls of functions and tail calls in one program",
        "bpf_jit_supports_subprog_tailcalls",
        ALL,
    ),
    row("calls of kfuncs", "bpf_jit_supports_kfunc_call", ALL),
    row("calls of kfuncs that are far away", "bpf_jit_supports_far_kfunc_call", {
        [false, true, true, true]
    }),
    row("per-CPU addresses in one instruction", "bpf_jit_supports_percpu_insn", ALL),
    row("may_goto by time", "bpf_jit_supports_timed_may_goto", ALL),
    row("bpf_throw", "bpf_jit_supports_exceptions", ALL),
    row("arena accesses and casts", "bpf_jit_supports_arena", ALL),
    row("a private stack", "bpf_jit_supports_private_stack", NONE),
    row("gotox", "bpf_jit_supports_insn", NONE),
    row("callx", "bpf_jit_supports_insn", NONE),
];

const fn row(what: &'static str, hook: &'static str, on: [bool; 4]) -> Capability {
    Capability { what, hook, on }
}

impl Capability {
    /// Whether an architecture has it.
    #[must_use]
    pub fn has(&self, arch: Arch) -> bool {
        Arch::ALL.iter().zip(self.on).any(|(a, on)| *a == arch && on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::{AluOp, Call, Cast, Insn, Reg, Src, Width};
    use bpf::uapi::ProgType;
    use verifier::testing::{Assume, bare_program};

    fn bytes(insns: &[Insn], arch: Arch) -> usize {
        let p = bare_program("t", ProgType::Xdp, insns.to_vec());
        crate::compile(&Assume::new(p, insns.to_vec()).build(), arch).code.len()
    }

    #[test]
    fn what_is_said_is_so() {
        let (dst, src) = (Reg::R0, Src::Reg(Reg::R1));
        let add = [Insn::Alu { width: Width::W32, op: AluOp::Add, dst, src }, Insn::Exit];
        let p = bare_program("t", ProgType::Xdp, add.to_vec());
        let without = Assume::new(p, add.to_vec()).fact(bpf::insn::InsnIdx(0), |f| f.zext = false);
        let without = without.build();
        for arch in Arch::ALL {
            let needs = bytes(&add, arch) > crate::compile(&without, arch).code.len();
            assert_eq!(CAPABILITIES[0].has(arch), needs, "{arch}");
            let tail =
                [Insn::Call(Call::Local(1)), Insn::Exit, Insn::Call(Call::Helper(12)), Insn::Exit];
            assert!(bytes(&tail, arch) > 0);
            let rest = [
                Insn::Call(Call::Kfunc { btf_id: 1, off: 0 }),
                Insn::MovPercpu { dst, src: Reg::R1 },
                Insn::Exit,
            ];
            assert!(bytes(&rest, arch) > 0);
            let cast = Insn::AddrSpaceCast { dst, src: Reg::R1, cast: Cast::ToKernel };
            assert!(bytes(&[cast, Insn::Exit], arch) > 0);
        }
    }
}
