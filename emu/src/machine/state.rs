//! A machine at one instant, going back to it, and a hash of all that it is.

use kernel_model::mem::{GuestMemory, MemSnapshot};
use kernel_model::state_hash::{self, Times};

use super::*;
use crate::unicorn::Counts;

/// A machine at one instant. Memory pages are shared with other snapshots.
#[derive(Clone, Debug)]
pub struct Snapshot {
    kernel: Kernel,
    memory: MemSnapshot,
    text: Text,
    lanes: Vec<Lane>,
    current: CpuId,
    held_turn: Option<run::Turn>,
    mid: Option<halt::Mid>,
    steps: (u64, u64),
    in_call: bool,
    chooser: Option<Box<dyn Chooser>>,
    switches: Vec<Switch>,
    /// Registers and counts of each vCPU.
    regs: Vec<Option<(RegFile, Counts)>>,
    forgotten: usize,
}

impl Snapshot {
    /// BPF instructions retired on all CPUs.
    pub(crate) fn retired(&self) -> u64 {
        let told = self.kernel.retired;
        let counts =
            self.regs.iter().zip(&self.lanes).filter_map(|(r, lane)| Some((r.as_ref()?, lane)));
        told + counts.map(|((_, c), lane)| c.retired - lane.charged).sum::<u64>()
    }

    /// Native instructions of a CPU, those of stubs included.
    pub(crate) fn place_of(&self, cpu: CpuId) -> u64 {
        self.regs[cpu.idx()].as_ref().map_or(0, |r| r.1.place())
    }
}

impl Machine {
    /// Keeps the present state. Cheap: pages are copied only when written since the last one.
    pub fn snapshot(&mut self) -> Snapshot {
        let memory = self.kernel.mem.snapshot();
        let kernel = self.without_memory(Kernel::clone);
        let state = |s: &Slot| (s.vcpu.regs(), s.vcpu.counts());
        let regs = self.slots.iter().map(|s| s.as_ref().map(state)).collect();
        let (text, lanes) = (self.text.clone(), self.lanes.clone());
        let (current, switches) = (self.current, self.switches.clone());
        let (held_turn, forgotten) = (self.held_turn, self.forgotten);
        let (mid, steps, in_call) = (self.mid.clone(), self.steps, self.in_call);
        let chooser = self.chooser.clone();
        Snapshot {
            kernel,
            memory,
            text,
            lanes,
            current,
            held_turn,
            mid,
            steps,
            in_call,
            chooser,
            switches,
            regs,
            forgotten,
        }
    }

    /// Goes back to a snapshot of this machine.
    pub fn restore(&mut self, to: &Snapshot) {
        let endian = self.kernel.mem.endian();
        let mut memory = std::mem::replace(&mut self.kernel.mem, GuestMemory::empty(endian));
        memory.restore(&to.memory);
        self.kernel = to.kernel.clone();
        self.kernel.mem = memory;
        self.forgotten = to.forgotten;
        let text_differs = self.text.end() != to.text.end();
        self.text = to.text.clone();
        self.lanes.clone_from(&to.lanes);
        (self.current, self.held_turn) = (to.current, to.held_turn);
        self.mid.clone_from(&to.mid);
        (self.steps, self.in_call) = (to.steps, to.in_call);
        self.chooser.clone_from(&to.chooser);
        self.switches.clone_from(&to.switches);
        if let Some(vcpu) = self.stepper.vcpu() {
            vcpu.memory_replaced();
        }
        for (i, slot) in self.slots.iter_mut().enumerate() {
            let Some(slot) = slot else { continue };
            slot.epoch = self.kernel.mem.epoch();
            slot.vcpu.pages_changed();
            if text_differs {
                slot.vcpu.memory_replaced();
            }
            let new = (slot.clean, Counts::of_retired(self.lanes[i].charged));
            let (regs, counts) = to.regs[i].as_ref().unwrap_or(&new);
            slot.vcpu.restore_counts(counts);
            slot.vcpu.set_regs(regs);
        }
    }

    /// Lends the kernel with its memory taken out, so that a clone of it is small.
    fn without_memory<T>(&mut self, f: impl FnOnce(&Kernel) -> T) -> T {
        let endian = self.kernel.mem.endian();
        let memory = std::mem::replace(&mut self.kernel.mem, GuestMemory::empty(endian));
        let out = f(&self.kernel);
        self.kernel.mem = memory;
        out
    }

    /// Hash of guest memory, kernel state, and what each CPU is about to do: machines that agree
    /// on it go on alike. On the way memory is snapshotted, so that only pages written since the
    /// last one are looked at.
    pub fn state_hash(&mut self, times: Times) -> u64 {
        let memory = self.kernel.mem.hash();
        let kernel = self.kernel.state_hash(times);
        // Registers of a CPU that runs no program, or of a context that has ended, mean nothing.
        let live = |lane: &&Lane| !lane.contexts.is_empty() && !lane.switched;
        let regs =
            self.slots.iter().zip(&self.lanes).map(|(slot, lane)| {
                Some(lane).filter(live).and(slot.as_ref()).map(|s| s.vcpu.regs())
            });
        let regs: Vec<_> = regs.collect();
        let lanes = state_hash::of(&(&self.lanes, regs), times);
        memory ^ kernel.rotate_left(21) ^ lanes.rotate_left(42)
    }
}
