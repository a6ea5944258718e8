//! Cancelling what runs: requests, the watchdog's limits, and the part of "fast execute" that
//! native code has (see `kernel_model::cancel`): counts of `may_goto` become 0, and each back-edge
//! is a point at which the run may end.

use bpf::insn::{Insn, InsnIdx, Reg};
use kernel_model::cpu::CancelledBy;

use super::*;
use crate::unicorn::spec;

impl Machine {
    /// Cancels the runs of a program on all CPUs, where they stand; false when there is none.
    pub fn cancel(&mut self, prog: ProgId, by: CancelledBy) -> bool {
        let cpus = self.kernel.running(prog);
        cpus.iter().for_each(|cpu| self.cancel_on(*cpu, prog, by));
        self.cancel_parked(prog, by) || !cpus.is_empty()
    }

    pub(super) fn cancel_on(&mut self, cpu: CpuId, prog: ProgId, by: CancelledBy) {
        let stack = self.backtrace(cpu);
        self.kernel.cancel(cpu, prog, by, &stack);
        self.stop_loops(cpu);
    }

    /// Looks at the limits of the run on top of a CPU.
    pub(super) fn look_at_watchdog(&mut self, cpu: CpuId) {
        if self.kernel.locked_up(cpu) {
            let stack = self.backtrace(cpu);
            self.kernel.report_lockup(cpu, &stack);
        }
        if let Some(due) = self.kernel.watchdog_due(cpu) {
            let stack = self.backtrace(cpu);
            self.kernel.watchdog_bites(cpu, due, &stack);
            self.stop_loops(cpu);
        }
    }

    /// At which points native code stops; `after` is for those that only the clock needs, of which
    /// `untold` are behind it.
    pub(super) fn points(&self, cpu: CpuId, after: u64, untold: u64) -> Points {
        match self.kernel.fine || self.kernel.is_cancelled(cpu) {
            true => Points::Nth(1),
            false => {
                let after = after.min(self.kernel.watchdog_left(cpu));
                Points::After(after.saturating_sub(untold))
            }
        }
    }

    /// A cancelled run that took a back-edge for the second time ends there; true when it does.
    pub(super) fn ends_at(&mut self, cpu: CpuId, kind: PointKind, pc: u64) -> bool {
        if kind != PointKind::Back || !self.kernel.is_cancelled(cpu) {
            return false;
        }
        let at = self.text.point_of(pc, kind);
        if at.is_none_or(|(prog, head)| self.kernel.cancelled_goes_back(cpu, prog, head)) {
            return false;
        }
        let step = self.kernel.cancel_unwind(cpu);
        self.settle(cpu, step);
        true
    }

    /// `arch_bpf_timed_may_goto`; where the program goes on.
    pub(super) fn timed_may_goto(&mut self, cpu: CpuId) -> u64 {
        let slot = self.slots[cpu.idx()].as_mut().expect("it ran");
        let spec = slot.vcpu.spec();
        let (fp, ax) = (spec.bpf[Reg::FP.idx()], spec.bpf[Reg::AX.idx()]);
        let pair = slot.vcpu.reg(fp).wrapping_add(slot.vcpu.reg(ax));
        let count = self.kernel.check_timed_may_goto(cpu, pair);
        slot.vcpu.set_reg(ax, count);
        if count == 0 {
            let stack = self.backtrace(cpu);
            self.kernel.may_goto_expired(cpu, &stack);
        }
        helper_stub(TIMED_MAY_GOTO.unsigned_abs()) + spec.stub_ret
    }

    /// `bpf_prog_report_arena_violation`.
    pub(super) fn arena_fault(&mut self, cpu: CpuId, at: u64, addr: u64) {
        let stack = self.backtrace(cpu);
        let loaded = self.text.prog_at(at);
        let insn = loaded.and_then(|l| Some((l.prog, l.range_at(at)?.insn)));
        let insn = insn.and_then(|(p, n)| Some(*self.kernel.prog(p)?.verified.insn(n).0));
        let read = matches!(insn, Some(Insn::Load { .. } | Insn::LoadAcquire { .. }));
        self.kernel.arena_violation(cpu, addr, !read, &stack);
    }

    /// Counts of `may_goto` in the frames of cancelled runs become 0.
    fn stop_loops(&mut self, cpu: CpuId) {
        if !self.kernel.is_cancelled(cpu) {
            return;
        }
        let below = spec(self.arch()).fp_below_cfa;
        for frame in self.frames(cpu) {
            let Some(prog) = self.kernel.prog(frame.site.prog) else { continue };
            let count = may_goto_count(&prog.verified, frame.func);
            if let Some((cfa, count)) = frame.cfa.zip(count) {
                // A frame without memory is found by the program's own accesses.
                let _ = self.kernel.mem.write_u64(cfa - below - u64::from(count), 0);
            }
        }
    }
}

/// How far below R10 a function has its count of `may_goto`: at the end of its stack.
fn may_goto_count(v: &verifier::Verified, func: usize) -> Option<u32> {
    let f = v.subprogs().get(func)?;
    let counts = |n: u32| {
        let (insn, _) = v.insn(InsnIdx(n));
        matches!(insn, Insn::Load { dst: Reg::AX, src: Reg::FP, .. })
    };
    (f.start.0..f.end.0).any(counts).then_some(f.stack_depth)
}
