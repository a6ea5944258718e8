//! What must hold when a run is over: nothing of it is held, and the maps are whole.

use crate::cpu::CpuId;
use crate::{Frame, Kernel, ProgId};

impl Kernel {
    /// Index of the frame that the run on top of a CPU began with.
    #[must_use]
    pub fn run_depth(&self, cpu: CpuId) -> Option<usize> {
        self.run_root(cpu)
    }

    /// The program that the run on top of a CPU began with.
    #[must_use]
    pub fn run_prog(&self, cpu: CpuId) -> Option<ProgId> {
        match &self.cpus[cpu.idx()].frames[self.run_root(cpu)?] {
            Frame::Prog(p) => Some(p.entry.prog),
            _ => None,
        }
    }

    /// What is wrong after a run that began at a frame depth of a CPU: things still held, and maps
    /// whose insides do not fit together.
    #[must_use]
    pub fn damage(&self, cpu: CpuId, depth: usize) -> Vec<String> {
        let held = self.ledger.above(cpu, depth + 1).into_iter();
        let held = held.map(|(kind, addr, h)| format!("{kind:?} {addr:#x} of {} is held", h.what));
        held.chain(self.maps.keys().flat_map(|id| self.map_damage(*id))).collect()
    }
}
