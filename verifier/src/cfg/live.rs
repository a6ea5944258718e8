//! Static liveness of registers: `compute_live_registers`. Bit n is register n.

use bpf::btf::Btf;
use bpf::insn::{AluOp, AtomicOp, Call, Insn, Reg, Src};
use bpf::uapi::ProgType;

use super::Cfg;
use crate::proto::ArgBase;

const R0: u16 = 1;
/// r1-r5.
const ARGS: u16 = 0b11_1110;
/// r0-r5.
const CALLER_SAVED: u16 = ARGS | R0;

const fn bit(r: Reg) -> u16 {
    1 << r.0
}

fn src_bit(src: Src) -> u16 {
    match src {
        Src::Reg(r) => bit(r),
        Src::Imm(_) => 0,
    }
}

/// Registers live before each instruction.
pub(super) fn live_before(
    insns: &[Insn],
    cfg: &Cfg,
    prog_type: ProgType,
    kernel: Option<&Btf>,
) -> Vec<u16> {
    let effects: Vec<(u16, u16)> = insns.iter().map(|i| effect(i, prog_type, kernel)).collect();
    let mut live = vec![0u16; insns.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for at in cfg.postorder.iter().map(|i| i.idx()) {
            let out = cfg.successors(at).fold(0, |acc, s| acc | live[s]);
            let (uses, defs) = effects[at];
            let new = (out & !defs) | uses;
            changed |= new != live[at];
            live[at] = new;
        }
    }
    live
}

/// Registers used and defined by an instruction.
// tidy: flat match
pub(super) fn effect(insn: &Insn, prog_type: ProgType, kernel: Option<&Btf>) -> (u16, u16) {
    match *insn {
        Insn::Alu { op: AluOp::Mov, dst, src, .. } => (src_bit(src), bit(dst)),
        Insn::Alu { dst, src, .. } => (bit(dst) | src_bit(src), bit(dst)),
        Insn::Neg { dst, .. } | Insn::End { dst, .. } => (bit(dst), bit(dst)),
        Insn::MovSx { dst, src, .. }
        | Insn::AddrSpaceCast { dst, src, .. }
        | Insn::MovPercpu { dst, src }
        | Insn::Load { dst, src, .. }
        | Insn::LoadAcquire { dst, src, .. } => (bit(src), bit(dst)),
        Insn::LdImm64 { dst, .. } => (0, bit(dst)),
        // The default of `compute_insn_live_regs`: the function may end here.
        Insn::LdAbs { .. } | Insn::LdInd { .. } => (u16::MAX, 0),
        Insn::Store { dst, src, .. } => (bit(dst) | src_bit(src), 0),
        Insn::StoreRelease { dst, src, .. } => (bit(dst) | bit(src), 0),
        Insn::Atomic { op, dst, src, .. } => atomic(op, bit(dst) | bit(src), bit(src)),
        Insn::Jmp { dst, src, .. } => (bit(dst) | src_bit(src), 0),
        Insn::Gotox { dst } => (bit(dst), 0),
        Insn::Callx { dst } => (bit(dst) | ARGS, CALLER_SAVED),
        Insn::Call(call) => (call_args(call, prog_type, kernel), CALLER_SAVED),
        Insn::Exit => (R0, 0),
        Insn::LdImm64Hi | Insn::Ja { .. } | Insn::MayGoto { .. } => (0, 0),
    }
}

fn atomic(op: AtomicOp, operands: u16, src: u16) -> (u16, u16) {
    match op {
        AtomicOp::Cmpxchg => (operands | R0, R0),
        AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor => (operands, 0),
        _ => (operands, src),
    }
}

/// Argument registers a call reads; a call whose prototype is not known may read them all.
fn call_args(call: Call, prog_type: ProgType, kernel: Option<&Btf>) -> u16 {
    let used = match call {
        Call::Helper(id) => crate::tables::helper_for(id, prog_type)
            .map(|p| p.args.iter().take_while(|a| a.base != ArgBase::DontCare).count()),
        Call::Kfunc { btf_id, off: 0 } => {
            kernel.and_then(|b| b.func_proto(btf_id.cast_unsigned())).map(|p| p.1.len().min(5))
        }
        _ => None,
    };
    let Some(used) = used else { return ARGS };
    ((1 << (used + 1)) - 1) & ARGS
}
