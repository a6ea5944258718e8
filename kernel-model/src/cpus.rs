//! The CPUs, and which of them have work, without looking at each.
//!
//! A scheduler of CPUs asks for all of them at every turn. Most have not changed since it asked
//! last: what a CPU answered is kept until somebody gets hold of it to change it.

use std::ops::{Deref, DerefMut, Index, IndexMut};

use crate::cpu::Cpu;

/// All CPUs, by number; at most 64.
#[derive(Clone, Debug, Default)]
pub struct Cpus {
    all: Vec<Cpu>,
    /// The clock of each that has work which does not wait ([`Cpu::busy`]), [`Cpus::NEVER`] of the
    /// others.
    busy_at: Vec<u64>,
    /// Bit n: CPU n is not busy.
    others: u64,
    /// Bit n: CPU n may have changed since.
    changed: u64,
}

impl Cpus {
    /// In the place of a clock.
    pub const NEVER: u64 = u64::MAX;

    /// So many, all alike.
    #[must_use]
    pub fn new(cpu: Cpu, count: u32) -> Cpus {
        let all = vec![cpu; count as usize];
        Cpus { busy_at: vec![Cpus::NEVER; all.len()], all, others: 0, changed: u64::MAX }
    }

    /// The clocks of the CPUs that have work which does not wait, [`Cpus::NEVER`] for the rest,
    /// and the rest by bits.
    pub fn busy(&mut self) -> (&[u64], u64) {
        let all = u64::MAX >> (u64::BITS as usize - self.all.len());
        let mut left = std::mem::take(&mut self.changed) & all;
        while left != 0 {
            let n = left.trailing_zeros() as usize;
            let bit = left & left.wrapping_neg();
            left ^= bit;
            let c = &self.all[n];
            (self.busy_at[n], self.others) = match c.busy() {
                true => (c.clock_ns, self.others & !bit),
                false => (Cpus::NEVER, self.others | bit),
            };
        }
        (&self.busy_at, self.others)
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
