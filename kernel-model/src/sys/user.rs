//! Memory of user tasks: pages at the same addresses in every address space.
//!
//! A CPU's user addresses are those of the task that runs on it. What no task has is looked up
//! in the machine's own page table.

use crate::layout::{DIRECT_MAP, PAGE_SIZE};
use crate::sched::TaskId;
use crate::{Errno, Kernel};

/// Where a task puts the texts of its calls.
pub(super) const TEXT: u64 = 0x7fff_0000_1000;
/// Where its buffers are.
pub(super) const BUFFERS: u64 = 0x7fff_0001_0000;
/// `TASK_SIZE_MAX` with 47 bits.
pub(super) const END: u64 = 1 << 47;
/// Where `mmap` begins.
pub(super) const MMAP: u64 = 0x7f00_0000_0000;

/// Pieces of a range that lie in one page each: address and length.
fn pieces(at: u64, len: u64) -> impl Iterator<Item = (u64, u64)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let here = at.wrapping_add(done);
        let n = (PAGE_SIZE - here % PAGE_SIZE).min(len - done);
        done += n;
        (n > 0).then_some((here, n))
    })
}

impl Kernel {
    /// Where a user address of the task that runs is in the direct map.
    fn user_at(&self, va: u64) -> Option<u64> {
        let task = self.curr_task(self.this_cpu)?;
        self.task_page(task, va)
    }

    fn task_page(&self, task: TaskId, va: u64) -> Option<u64> {
        let page = self.mm(self.task_mm(task)).pages.get(&(va / PAGE_SIZE))?;
        Some(page + va % PAGE_SIZE)
    }

    /// Writes to a task's memory; pages are made as they are touched.
    pub(super) fn task_write(&mut self, id: TaskId, va: u64, bytes: &[u8]) -> Result<(), Errno> {
        let mut done = 0;
        for (at, n) in pieces(va, bytes.len() as u64) {
            let here = match self.task_page(id, at) {
                Some(here) => here,
                None => {
                    self.task_map(id, at)?;
                    self.task_page(id, at).ok_or(Errno::EFAULT)?
                }
            };
            let part = &bytes[done..done + n as usize];
            self.mem.write(here, part).map_err(|_| Errno::EFAULT)?;
            done += n as usize;
        }
        Ok(())
    }

    /// Gives a task a page of zeroes at an address.
    pub(super) fn task_map(&mut self, id: TaskId, va: u64) -> Result<(), Errno> {
        let phys = self.alloc.pages(&mut self.mem, 1).ok_or(Errno::ENOMEM)?;
        let mm = self.task_mm(id);
        self.mm_mut(mm).pages.insert(va / PAGE_SIZE, DIRECT_MAP + phys);
        Ok(())
    }

    /// Sees to it that a range is there.
    pub(super) fn task_room(&mut self, id: TaskId, va: u64, len: u64) -> Result<(), Errno> {
        for (at, _) in pieces(va, len) {
            if self.task_page(id, at).is_none() {
                self.task_map(id, at)?;
            }
        }
        Ok(())
    }

    /// `copy_from_user`: `None` when a byte is not there.
    pub(crate) fn user_read(&self, va: u64, len: usize) -> Option<Vec<u8>> {
        if va >= DIRECT_MAP {
            return None;
        }
        let mut out = Vec::with_capacity(len);
        for (at, n) in pieces(va, len as u64) {
            let here = self.user_at(at).unwrap_or(at);
            out.extend(self.mem.read_vec(here, n as usize).ok()?);
        }
        Some(out)
    }

    /// `strncpy_from_user`: up to and with the NUL, at most `max` bytes.
    pub(crate) fn user_text(&self, va: u64, max: usize) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        while out.len() < max && out.last() != Some(&0) {
            out.extend(self.user_read(va.wrapping_add(out.len() as u64), 1)?);
        }
        Some(out)
    }

    /// `copy_to_user`: nothing is written when a byte is not there.
    pub(crate) fn user_write(&mut self, va: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.user_read(va, bytes.len()).ok_or(Errno::EFAULT)?;
        let mut done = 0;
        for (at, n) in pieces(va, bytes.len() as u64) {
            let here = self.user_at(at).unwrap_or(at);
            let part = &bytes[done..done + n as usize];
            self.mem.write(here, part).map_err(|_| Errno::EFAULT)?;
            done += n as usize;
        }
        Ok(())
    }
}
