//! Call stacks of programs: native frames unwound with the debug map.
//!
//! ```text
//!  context N    stub ◄ leaf ◄ .. ◄ callback ◄ trap of return
//!  context N-1  stub (bpf_loop) ◄ .. ◄ program ◄ trap of return
//! ```
//!
//! At a function's entry the return address is where the call put it (the link register, or the
//! top of the stack). Anywhere else the frame is whole: the canonical frame address is so many
//! bytes above the stack pointer, and the return address at a known distance from it. Blocks of
//! native code begin nowhere else, so every place the machine stops at by itself is one of the two;
//! in the middle of a prologue a debugger sees the innermost frame alone.

use kernel_model::cpu::Site;
use kernel_model::stack::Callee;

use super::*;
use crate::unicorn::{Spec, spec};

/// Registers that unwinding needs.
struct Frame {
    pc: u64,
    sp: u64,
    /// Link register, when it has the return address of this frame.
    link: Option<u64>,
}

/// A frame of a program.
pub(super) struct Unwound {
    pub site: Site,
    /// Its function, of those of the program.
    pub func: usize,
    /// Canonical frame address, when the frame is whole.
    pub cfa: Option<u64>,
}

impl Machine {
    /// Where the programs of a CPU are, innermost first: through subprograms, callbacks and what
    /// an interrupt stopped.
    #[must_use]
    pub fn backtrace(&self, cpu: CpuId) -> Vec<Site> {
        self.frames(cpu).into_iter().map(|f| f.site).collect()
    }

    /// All frames of programs of a CPU, innermost first.
    pub(super) fn frames(&self, cpu: CpuId) -> Vec<Unwound> {
        let mut out = Vec::new();
        let lane = &self.lanes[cpu.idx()];
        let live = self.slots[cpu.idx()].as_ref().filter(|_| !lane.switched);
        let spec = spec(self.arch());
        let mid = self.held().filter(|h| h.0 == cpu).map(|h| h.1);
        for (n, context) in lane.contexts.iter().enumerate().rev() {
            let frame = match live.filter(|_| n + 1 == lane.contexts.len()) {
                Some(slot) => Frame {
                    pc: mid.unwrap_or_else(|| slot.vcpu.pc()),
                    sp: slot.vcpu.reg(spec.sp),
                    link: spec.link.map(|r| slot.vcpu.reg(r)),
                },
                None => Frame {
                    pc: context.regs.pc,
                    sp: context.regs.get(spec.sp),
                    link: spec.link.map(|r| context.regs.get(r)),
                },
            };
            self.unwind(spec, frame, &mut out);
        }
        out
    }

    /// Stores the stack for a call that acquires something.
    pub(super) fn note_stack(&mut self, cpu: CpuId, callee: Callee) {
        if self.kernel.wants_stack(callee) {
            self.kernel.cpus[cpu.idx()].call_stack = self.backtrace(cpu);
        }
    }

    /// The frames of one context.
    fn unwind(&self, spec: &Spec, mut at: Frame, out: &mut Vec<Unwound>) {
        let read = |va: u64| self.kernel.mem.read_u64(va).unwrap_or(0);
        // The instruction that an address behind a call belongs to is the one before it.
        let mut back = 0;
        loop {
            let loaded = self.text.prog_at(at.pc.wrapping_sub(back));
            let pc = loaded.map(|p| (p, at.pc.wrapping_sub(back).wrapping_sub(p.base)));
            let func = pc.and_then(|(p, off)| {
                let funcs = &p.compiled.debug.funcs;
                let n =
                    funcs.iter().position(|f| (f.start.0.into()..f.end.0.into()).contains(&off));
                Some((p, off, n?, &funcs[n?]))
            });
            let whole = func.filter(|(_, off, _, f)| back > 0 || *off >= f.body.0.into());
            let cfa = whole.map(|(.., f)| at.sp.wrapping_add(f.frame_bytes.into()));
            if let Some((p, off, func, f)) = func
                // A prologue belongs to the function's first instruction.
                && let Some(insn) = p.insn_at(p.base + off.max(f.body.0.into()))
            {
                out.push(Unwound { site: Site { prog: p.prog, insn }, func, cfa });
            }
            let ret = match whole.zip(cfa) {
                Some(((.., f), cfa)) => {
                    let saved = f.saved.iter().find(|s| s.reg.is_none());
                    let ret = saved.map(|s| read(cfa.wrapping_add_signed(s.cfa_off.into())));
                    at.sp = cfa.wrapping_sub(spec.frame_reserve);
                    ret.or(at.link)
                }
                // In a stub, or before the first instruction of a function.
                None => at.link.or_else(|| {
                    at.sp = at.sp.wrapping_add(8);
                    Some(read(at.sp.wrapping_sub(8)))
                }),
            };
            // Only the innermost function can have left it in the register.
            at.link = None;
            (at.pc, back) = (ret.unwrap_or(0), 1);
            if self.text.prog_at(at.pc).is_none() {
                return;
            }
        }
    }
}
