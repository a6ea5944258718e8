//! What a CPU stands at, for people: frames of its programs and BPF registers.

use kernel_model::cpu::Site;

use super::{CpuId, Event, Held, Machine};
use crate::unicorn::spec;

/// A frame of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackFrame {
    /// Program and instruction: the next one, or the call that it is in.
    pub site: Site,
    /// Its function, of those of the program in order of code.
    pub func: usize,
    /// R10, once the frame is made.
    pub fp: Option<u64>,
}

impl Machine {
    /// Events so far, with those that are in the trace no more.
    #[must_use]
    pub fn event_count(&self) -> usize {
        self.forgotten + self.kernel.events.len()
    }

    /// Events from the n-th on, as far as the trace still has them.
    #[must_use]
    pub fn events_from(&self, n: usize) -> &[Event] {
        let from = n.saturating_sub(self.forgotten).min(self.kernel.events.len());
        &self.kernel.events[from..]
    }

    /// The CPU that ran last: the one whose turn it is, or that acted latest.
    #[must_use]
    pub fn last_cpu(&self) -> CpuId {
        match self.held_turn {
            Some(turn) => turn.cpu,
            None => self.kernel.this_cpu(),
        }
    }

    /// Frames of the programs of a CPU, innermost first.
    #[must_use]
    pub fn stack_frames(&self, cpu: CpuId) -> Vec<StackFrame> {
        let below = spec(self.arch()).fp_below_cfa;
        let frame = |f: super::backtrace::Unwound| StackFrame {
            site: f.site,
            func: f.func,
            fp: f.cfa.map(|cfa| cfa.wrapping_sub(below)),
        };
        self.frames(cpu).into_iter().map(frame).collect()
    }

    /// R0 to R10 of the innermost program of a CPU. In a call of the kernel those that it does not
    /// keep are not known, but for its arguments before it began.
    #[must_use]
    pub fn bpf_regs(&self, cpu: CpuId) -> Option<[Option<u64>; 11]> {
        let regs = self.regs_of(cpu)?;
        let inside = self.text.prog_at(regs.pc).is_some();
        let called = match self.lanes[cpu.idx()].contexts.last()?.held {
            Some(Held::Call(_)) => true,
            Some(Held::Result(_) | Held::At(_)) => false,
            // Before the trap of the stub.
            None => self.held() == Some((cpu, regs.pc)),
        };
        let row = &spec(self.arch()).bpf;
        Some(std::array::from_fn(|n| {
            let known = inside || n > 5 || (called && n > 0);
            known.then(|| regs.get(row[n]))
        }))
    }
}
