//! The CPUs, and which of them have work, without looking at each.
//!
//! A scheduler of CPUs asks for all of them at every turn. Most have not changed since it asked
//! last: what a CPU answered is kept until somebody gets hold of it to change it.

use std::fmt;
use std::ops::{Deref, DerefMut, Index, IndexMut};

use crate::cpu::Cpu;

/// All CPUs, by number.
#[derive(Clone, Default)]
pub struct Cpus {
    all: Vec<Cpu>,
    /// Those that have work which does not wait ([`Cpu::busy`]): clocks and numbers, in order.
    busy: Vec<(u64, u32)>,
    /// The clock of each in `busy`, [`Cpus::NEVER`] of the others.
    busy_at: Vec<u64>,
    /// The CPUs that are not busy: 64 in a word, from bit 0.
    others: Vec<u64>,
    /// The CPUs that may have changed since.
    changed: Vec<u64>,
}

impl Cpus {
    /// In the place of a clock.
    pub const NEVER: u64 = u64::MAX;

    /// So many, all alike.
    #[must_use]
    pub fn new(cpu: Cpu, count: u32) -> Cpus {
        let all = vec![cpu; count as usize];
        let words = vec![0; all.len().div_ceil(64)];
        let busy_at = vec![Cpus::NEVER; all.len()];
        let mut cpus =
            Cpus { busy: Vec::new(), busy_at, all, others: words.clone(), changed: words };
        cpus.all_changed();
        cpus
    }

    /// Looks at the CPUs that may have changed, for [`Cpus::busy`].
    pub fn look(&mut self) {
        for word in 0..self.changed.len() {
            let mut left = std::mem::take(&mut self.changed[word]);
            while left != 0 {
                let bit = left & left.wrapping_neg();
                left ^= bit;
                let n = word as u32 * 64 + bit.trailing_zeros();
                self.is_now(n);
                match self.busy_at[n as usize] {
                    Cpus::NEVER => self.others[word] |= bit,
                    _ => self.others[word] &= !bit,
                }
            }
        }
    }

    /// Puts a CPU where it belongs among the busy ones, if it is one.
    fn is_now(&mut self, n: u32) {
        let cpu = &self.all[n as usize];
        let now = if cpu.busy() { cpu.clock_ns } else { Cpus::NEVER };
        let was = std::mem::replace(&mut self.busy_at[n as usize], now);
        if was == now {
            return;
        }
        let place = |busy: &[(u64, u32)], at: u64| busy.partition_point(|b| *b < (at, n));
        if was != Cpus::NEVER {
            self.busy.remove(place(&self.busy, was));
        }
        if now != Cpus::NEVER {
            self.busy.insert(place(&self.busy, now), (now, n));
        }
    }

    /// When it was looked last: the clocks and numbers of the CPUs that have work which does not
    /// wait, in order; and the rest by bits, 64 in a word.
    #[must_use]
    pub fn busy(&self) -> (&[(u64, u32)], &[u64]) {
        (&self.busy, &self.others)
    }

    fn all_changed(&mut self) {
        for n in 0..self.all.len() {
            self.changed[n / 64] |= 1 << (n % 64);
        }
    }
}

/// The CPUs alone: what they answered last follows from them, but when it was asked does not, and
/// hashes of a machine are taken of this.
impl fmt::Debug for Cpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.all.fmt(f)
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
        self.changed[n / 64] |= 1 << (n % 64);
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
        self.all_changed();
        &mut self.all
    }
}
