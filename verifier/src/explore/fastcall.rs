//! `bpf_fastcall`: a call that leaves the registers it does not use alone, between the spills and
//! fills that a compiler puts around it for kernels that do not know so.
//!
//! ```text
//! *(u64 *)(r10 -16) = r1        the lowest slots of the frame,
//! call 8                        used by nothing else
//! r1 = *(u64 *)(r10 -16)
//! ```
//! Where the kernel inlines the call it removes the pairs (`rewrite::dead`), and the frame gets
//! smaller by their slots. That is what counts against the limits of stack and what statistics
//! print.

use bpf::Endian;
use bpf::insn::{Call, Insn, Reg, Size, Src};

use super::Input;
use super::input::InsnAux;
use super::ver::Ver;
use crate::cfg::{self, Subprog};
use crate::proto::{ArgBase, RetBase};
use crate::rewrite::GET_SMP_PROCESSOR_ID;
use crate::tables::{self, kfuncs};

/// R0 to R5.
const CALLER_SAVED: u16 = 0x3f;
/// Below every offset: the slots are used by something else.
const DISABLED: i32 = i16::MIN as i32;

/// What is known of the pairs of a subprogram.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Frame {
    /// `fastcall_stack_off`: the slots of the pairs begin below here.
    off: i32,
    /// `keep_fastcall_stack`: some of the calls are not inlined.
    keep: bool,
}

/// What a call does to registers and slots.
struct CallSummary {
    /// Registers it uses or changes.
    clobbered: u16,
    /// It is inlined, and its pairs removed.
    inlined: bool,
    /// The kernel gives up the slots.
    shrinks: bool,
}

/// KERNEL v6.18 verifier.c:get_call_summary
fn summary(input: &Input<'_>, call: Call) -> Option<CallSummary> {
    let mask = |ret: bool, args: usize| u16::from(ret) | (((1 << args) - 1) << 1);
    match call {
        Call::Helper(id) => {
            let p = tables::helper_for(id, input.program.prog_type)?;
            let args = p.args.iter().filter(|a| a.base != ArgBase::DontCare).count();
            let clobbered = mask(p.ret.base != RetBase::Void, args);
            let inlined = p.allow_fastcall && id == GET_SMP_PROCESSOR_ID;
            // s390 does not inline it. Here its code is that of the others, its frames are its own.
            let shrinks = inlined && input.endian == Endian::Little;
            Some(CallSummary { clobbered, inlined, shrinks })
        }
        Call::Kfunc { btf_id, off: 0 } => {
            let btf = input.env.btf()?;
            let id = btf_id.cast_unsigned();
            let (ret, params) = btf.func_proto(id)?;
            let row = kfuncs::kfunc(btf.name(id))?;
            let clobbered = mask(ret != 0, params.len());
            let inlined = row.flags.has(kfuncs::KfFlags::FASTCALL);
            Some(CallSummary { clobbered, inlined, shrinks: inlined })
        }
        _ => None,
    }
}

/// Instructions that a jump or a call leads to.
fn jump_targets(insns: &[Insn]) -> Vec<bool> {
    let mut is = vec![false; insns.len()];
    for (at, insn) in insns.iter().enumerate() {
        let off = match *insn {
            Insn::Jmp { off, .. } | Insn::MayGoto { off } => i32::from(off),
            Insn::Ja { off, .. } | Insn::Call(Call::Local(off)) => off,
            _ => continue,
        };
        if let Some(t) = usize::try_from(cfg::target(at, off)).ok().and_then(|t| is.get_mut(t)) {
            *t = true;
        }
    }
    is
}

/// The `n`th instruction before a call and the one after it.
pub(crate) fn beside(call: usize, n: u8) -> (Option<usize>, usize) {
    (call.checked_sub(n.into()), call + usize::from(n))
}

/// `*(u64 *)(r10 + off) = reg`.
fn spill(insn: &Insn) -> Option<(Reg, i32)> {
    match *insn {
        Insn::Store { size: Size::DW, dst: Reg::FP, off, src: Src::Reg(r) } => {
            Some((r, off.into()))
        }
        _ => None,
    }
}

/// `reg = *(u64 *)(r10 + off)`.
fn fill(insn: &Insn) -> Option<(Reg, i32)> {
    match *insn {
        Insn::Load { size: Size::DW, src: Reg::FP, off, dst, sext: false } => {
            Some((dst, off.into()))
        }
        _ => None,
    }
}

impl Ver<'_> {
    /// KERNEL v6.18 verifier.c:mark_fastcall_patterns
    pub(super) fn mark_fastcalls(&mut self) {
        let insns = self.input.insns;
        let targets = jump_targets(insns);
        for (s, sub) in self.input.cfg.subprogs.iter().enumerate() {
            let range = sub.start.idx()..sub.end.idx();
            let lowest = insns[range.clone()].iter().filter_map(spill).map(|p| p.1).min();
            let lowest = lowest.unwrap_or(0).min(0);
            for at in range {
                if let Insn::Call(call) = insns[at] {
                    self.mark_fastcall(s, at, call, lowest, &targets);
                }
            }
        }
    }

    /// KERNEL v6.18 verifier.c:mark_fastcall_pattern_for_call
    fn mark_fastcall(&mut self, s: usize, at: usize, call: Call, lowest: i32, targets: &[bool]) {
        let Some(CallSummary { clobbered, inlined, shrinks }) = summary(&self.input, call) else {
            return;
        };
        let insns = self.input.insns;
        let mut expected = CALLER_SAVED & !clobbered;
        let mut off = lowest;
        let mut pairs = 0u8;
        while let (Some(before), after) = beside(at, pairs + 1) {
            let Some(filled) = insns.get(after).and_then(fill) else { break };
            // A jump may lead to the first of the spills, nowhere else.
            if targets[before + 1] || targets[after] || spill(&insns[before]) != Some(filled) {
                break;
            }
            let (reg, place) = filled;
            if place != off || expected & (1 << reg.0) == 0 {
                break;
            }
            expected &= !(1 << reg.0);
            self.aux[before].fastcall_pattern = true;
            self.aux[after].fastcall_pattern = true;
            off += 8;
            pairs += 1;
        }
        if pairs == 0 {
            return;
        }
        if inlined {
            self.aux[at].fastcall_spills = pairs;
        }
        let frame = &mut self.fastcall[s];
        frame.keep |= !shrinks;
        frame.off = frame.off.min(off);
    }

    /// KERNEL v6.18 verifier.c:check_fastcall_stack_contract
    pub(crate) fn fastcall_contract(&mut self, frameno: u32, off: i32) {
        let s = self.cur.frames[frameno as usize].subprog as usize;
        let at = self.insn_idx as usize;
        if self.fastcall[s].off <= off || self.aux[at].fastcall_pattern {
            return;
        }
        self.fastcall[s].off = DISABLED;
        let Subprog { start, end, .. } = self.input.cfg.subprogs[s];
        for aux in &mut self.aux[start.idx()..end.idx()] {
            (aux.fastcall_pattern, aux.fastcall_spills) = (false, 0);
        }
    }

    /// KERNEL v6.18 verifier.c:remove_fastcall_spills_fills: the frames; the code comes later.
    pub(super) fn shrink_frames(&mut self) {
        for (s, sub) in self.input.cfg.subprogs.iter().enumerate() {
            let removes = |aux: &InsnAux| aux.fastcall_spills > 0;
            let frame = self.fastcall[s];
            if !frame.keep && self.aux[sub.start.idx()..sub.end.idx()].iter().any(removes) {
                self.stack_depth[s] = frame.off.unsigned_abs();
            }
        }
    }
}
