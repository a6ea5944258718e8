//! A hash of all that a machine is: two runs that agree on it go on alike.

use kernel_model::state_hash::{self, Times};

use super::Machine;

impl Machine {
    /// Hash of guest memory, kernel state, and what each CPU is about to do. On the way memory is
    /// snapshotted, so that only pages written since the last one are looked at.
    pub fn state_hash(&mut self, times: Times) -> u64 {
        let memory = self.kernel.mem.snapshot().hash();
        let kernel = self.kernel.state_hash(times);
        let regs = self.slots.iter().map(|s| s.as_ref().map(|s| s.vcpu.regs()));
        let regs: Vec<_> = regs.collect();
        let lanes = state_hash::of(&(&self.lanes, regs), times);
        memory ^ kernel.rotate_left(21) ^ lanes.rotate_left(42)
    }
}
