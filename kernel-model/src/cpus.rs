//! The CPUs, and which of them have work, without looking at each.
//!
//! A scheduler of CPUs asks for all of them at every turn. Most have not changed since it asked
//! last: what a CPU answered is kept until somebody gets hold of it to change it.

use std::ops::{Deref, DerefMut, Index, IndexMut};

use crate::cpu::{Cpu, CpuId};

/// All CPUs, by number; at most 64.
#[derive(Clone, Debug, Default)]
pub struct Cpus {
    all: Vec<Cpu>,
    /// The clock of each that has work ([`Cpu::busy`]).
    busy_at: Vec<Option<u64>>,
    /// Bit n: CPU n may have changed since.
    changed: u64,
}

impl Cpus {
    /// So many, all alike.
    #[must_use]
    pub fn new(cpu: Cpu, count: u32) -> Cpus {
        let count = count as usize;
        Cpus { all: vec![cpu; count], busy_at: vec![None; count], changed: u64::MAX }
    }

    /// The clock of a CPU that has work which does not wait.
    #[inline]
    pub fn busy_at(&mut self, cpu: CpuId) -> Option<u64> {
        let bit = 1 << cpu.0;
        if self.changed & bit != 0 {
            let c = &self.all[cpu.idx()];
            self.busy_at[cpu.idx()] = c.busy().then_some(c.clock_ns);
            self.changed &= !bit;
        }
        self.busy_at[cpu.idx()]
    }
}

impl Index<usize> for Cpus {
    type Output = Cpu;

    #[inline]
    fn index(&self, n: usize) -> &Cpu {
        &self.all[n]
    }
}

impl IndexMut<usize> for Cpus {
    #[inline]
    fn index_mut(&mut self, n: usize) -> &mut Cpu {
        self.changed |= 1 << n;
        &mut self.all[n]
    }
}

impl Deref for Cpus {
    type Target = [Cpu];

    fn deref(&self) -> &[Cpu] {
        &self.all
    }
}

impl DerefMut for Cpus {
    fn deref_mut(&mut self) -> &mut [Cpu] {
        self.changed = u64::MAX;
        &mut self.all
    }
}
