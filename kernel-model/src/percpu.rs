//! Per-CPU memory (mm/percpu.c): each CPU has an area of its own, and an address of it is an offset
//! from the start of the area, as of x86-64's zero-based symbols.
//!
//! ```text
//!  percpu_area(0)                 percpu_area(1)
//!  | this_cpu_off, cpu_number |   | this_cpu_off, cpu_number |     static, a page
//!  | allocations ...          |   | ...                      |
//! ```
//! What is a page or more has pages of its own, which go back when it is freed; what is smaller
//! shares them and keeps its place for one of the same size.

use std::collections::BTreeMap;

use crate::alloc::POISON;
use crate::layout::{CPU_NUMBER, PAGE_SIZE, PERCPU_STRIDE, THIS_CPU_OFF, percpu_area};
use crate::mem::{GuestMemory, Perms};
use crate::{Errno, Kernel};

/// What is given out, as offsets.
#[derive(Clone, Debug)]
pub(crate) struct Percpu {
    /// Freed, by size.
    free: BTreeMap<u64, Vec<u64>>,
    /// The end of everything.
    end: u64,
    /// What is left of the page for small ones.
    small: std::ops::Range<u64>,
}

impl Default for Percpu {
    fn default() -> Percpu {
        Percpu { free: BTreeMap::new(), end: PAGE_SIZE, small: 0..0 }
    }
}

/// Bytes that an allocation takes.
fn rounded(size: u64) -> u64 {
    let size = size.max(8);
    size.next_multiple_of(if size < PAGE_SIZE { 8 } else { PAGE_SIZE })
}

/// The static part, in memory that the allocator does not hand out.
pub(crate) fn setup(mem: &mut GuestMemory, cpus: u32) {
    for cpu in 0..cpus {
        let area = percpu_area(cpu);
        mem.map(area, PAGE_SIZE * u64::from(cpu + 1), Perms::RW);
        mem.write_u64(area + THIS_CPU_OFF, area).expect("just mapped");
        mem.write_u32(area + CPU_NUMBER, cpu).expect("just mapped");
    }
}

impl Kernel {
    /// Addresses of all CPUs' copies of what is at a per-CPU address.
    pub(crate) fn percpu_copies(&self, at: u64) -> impl Iterator<Item = u64> + use<> {
        (0..self.config.cpus).map(move |cpu| percpu_area(cpu) + at)
    }

    /// Zeroed memory of every CPU: a per-CPU address, aligned to the size up to a page when that is
    /// a power of two.
    pub(crate) fn percpu_alloc(&mut self, size: u64) -> Result<u64, Errno> {
        if self.inject_alloc("percpu") {
            return Err(Errno::ENOMEM);
        }
        let size = rounded(size);
        let free = self.percpu.free.get_mut(&size).and_then(Vec::pop);
        let at = match free {
            Some(at) => at,
            None if size < PAGE_SIZE => self.percpu_small(size)?,
            None => self.percpu_end(size)?,
        };
        if size >= PAGE_SIZE {
            if let Err(e) = self.percpu_map(at, size) {
                self.percpu.free.entry(size).or_default().push(at);
                return Err(e);
            }
            return Ok(at);
        }
        for copy in self.percpu_copies(at) {
            self.mem.fill(copy, size as usize, 0).expect("mapped");
        }
        Ok(at)
    }

    fn percpu_small(&mut self, size: u64) -> Result<u64, Errno> {
        let align = if size.is_power_of_two() { size } else { 8 };
        let mut at = self.percpu.small.start.next_multiple_of(align);
        if at + size > self.percpu.small.end {
            at = self.percpu_end(PAGE_SIZE)?;
            self.percpu_map(at, PAGE_SIZE)?;
            self.percpu.small.end = at + PAGE_SIZE;
        }
        self.percpu.small.start = at + size;
        Ok(at)
    }

    fn percpu_end(&mut self, size: u64) -> Result<u64, Errno> {
        let at = self.percpu.end;
        if size > PERCPU_STRIDE - at {
            return Err(Errno::ENOMEM);
        }
        self.percpu.end += size;
        Ok(at)
    }

    /// Gives every CPU zeroed pages, or none.
    fn percpu_map(&mut self, at: u64, size: u64) -> Result<(), Errno> {
        let pages = size / PAGE_SIZE;
        let mut got = Vec::new();
        for _ in 0..self.config.cpus {
            let Some(phys) = self.alloc.pages(&mut self.mem, pages) else {
                got.into_iter().for_each(|phys| self.alloc.free_pages(phys, pages));
                return Err(Errno::ENOMEM);
            };
            got.push(phys);
        }
        for (copy, phys) in self.percpu_copies(at).zip(got) {
            for off in (0..size).step_by(PAGE_SIZE as usize) {
                self.mem.map(copy + off, phys + off, Perms::RW);
            }
        }
        Ok(())
    }

    /// Gives back what [`Kernel::percpu_alloc`] gave for a size.
    pub(crate) fn percpu_free(&mut self, at: u64, size: u64) {
        let size = rounded(size);
        for copy in self.percpu_copies(at) {
            if size < PAGE_SIZE {
                self.mem.fill(copy, size as usize, POISON).expect("mapped");
                continue;
            }
            let first = self.mem.phys(copy).expect("mapped");
            for off in (0..size).step_by(PAGE_SIZE as usize) {
                self.mem.unmap(copy + off);
            }
            self.alloc.free_pages(first, size / PAGE_SIZE);
        }
        self.percpu.free.entry(size).or_default().push(at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn each_cpu_has_its_copy_and_pages_go_back() {
        let mut k = Kernel::new(Config { cpus: 3, ..Config::default() });
        let (small, large) = (k.percpu_alloc(24).unwrap(), k.percpu_alloc(5000).unwrap());
        for (n, at) in k.percpu_copies(large).enumerate() {
            k.mem.write_u64(at + 4992, n as u64).unwrap();
        }
        let read: Vec<_> = k.percpu_copies(large).map(|a| k.mem.read_u64(a + 4992)).collect();
        assert_eq!(read, [Ok(0), Ok(1), Ok(2)]);
        let number = |k: &Kernel, cpu| k.mem.read_u32(percpu_area(cpu) + CPU_NUMBER);
        assert_eq!([number(&k, 0), number(&k, 2)], [Ok(0), Ok(2)]);
        k.percpu_free(small, 24);
        k.percpu_free(large, 5000);
        assert!(k.mem.read_u64(percpu_area(1) + large).is_err(), "not there any more");
        assert_eq!(k.percpu_alloc(17), Ok(small));
        assert_eq!(k.percpu_alloc(8192), Ok(large));
        assert_eq!(k.mem.read_u64(percpu_area(2) + large + 4992), Ok(0));
    }

    #[test]
    fn what_does_not_fit_takes_nothing() {
        let mut k = Kernel::new(Config { cpus: 4, ..Config::default() });
        let most = k.config.memory_bytes / 3;
        assert_eq!(k.percpu_alloc(most), Err(Errno::ENOMEM));
        assert!(k.percpu_alloc(most / 2).is_ok());
    }
}
