//! Address spaces (`struct mm_struct`): pages and mappings, of one task or of all that were cloned
//! with `CLONE_VM`, under their `mmap_lock` (mm/mmap.c, mm/vma.c, kernel/fork.c, 6.18).
//!
//! A page that is touched by a system call is there or is made without that lock, as faults take
//! the lock of their mapping alone (`CONFIG_PER_VMA_LOCK`). System calls that change mappings write
//! under it, and programs that look at mappings read under it, or not at all: they never wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{Mode, OpFrame, TaskId};
use crate::context::Level;
use crate::cpu::{CpuId, Frame};
use crate::layout::{DIRECT_MAP, PAGE_SIZE};
use crate::{Errno, Kernel, field};

/// The main stack, in which tasks have the texts and buffers of their calls.
const STACK: std::ops::Range<u64> = 0x7fff_0000_0000..0x7fff_0100_0000;
/// `VM_READ | VM_WRITE`, what of them may be set, `VM_GROWSDOWN` and `VM_ACCOUNT`.
const STACK_FLAGS: u64 = 0x3 | VM_MAY | 0x100 | VM_ACCOUNT;
const VM_WRITE: u64 = 0x2;
const VM_SHARED: u64 = 0x8;
const VM_ACCOUNT: u64 = 0x0010_0000;
/// `VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC`.
const VM_MAY: u64 = 0x70;

/// A mapping.
#[derive(Clone, Copy, Debug)]
struct Vma {
    end: u64,
    flags: u64,
    file: u64,
    /// `struct vm_area_struct`.
    addr: u64,
}

/// Number of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MmId(u32);

/// An address space.
#[derive(Clone, Debug)]
pub(crate) struct Mm {
    /// `struct mm_struct`.
    addr: u64,
    /// The task that it was made for.
    name: Arc<str>,
    /// `mm_users`.
    users: u32,
    /// Pages in the direct map by number, and bytes that `mmap` gave.
    pub(crate) pages: BTreeMap<u64, u64>,
    pub(crate) mapped: u64,
    vmas: BTreeMap<u64, Vma>,
    /// `mmap_lock`, once someone took it.
    lock: Option<u32>,
}

/// A program's section under an `mmap_lock`.
#[derive(Clone, Copy, Debug)]
pub struct MmapRead {
    pub(crate) mm: MmId,
    lock: u32,
    /// Who has it, as the kernel sees it.
    owner: Option<TaskId>,
    /// Interrupts are off: an interrupt of its own gives it back (`mmap_unlock_work`).
    deferred: bool,
}

impl Kernel {
    /// A new address space.
    pub(super) fn mm_new(&mut self, addr: u64, name: &Arc<str>) -> MmId {
        let id = MmId(self.sched.mms.len() as u32);
        let name = Arc::clone(name);
        let (pages, vmas) = (BTreeMap::new(), BTreeMap::new());
        self.sched.mms.push(Mm { addr, name, users: 1, pages, mapped: 0, vmas, lock: None });
        self.sched.mm_at.insert(addr, id);
        id
    }

    pub(crate) fn mm(&self, id: MmId) -> &Mm {
        &self.sched.mms[id.0 as usize]
    }

    pub(crate) fn mm_mut(&mut self, id: MmId) -> &mut Mm {
        &mut self.sched.mms[id.0 as usize]
    }

    /// That of a task.
    pub(crate) fn task_mm(&self, id: TaskId) -> MmId {
        self.sched.task(id).mm
    }

    /// That of a `task_struct`, when it has one.
    pub(crate) fn mm_of(&self, task: u64) -> Option<MmId> {
        self.sched.mm_at.get(&self.get(task, field!("task_struct", "mm"))).copied()
    }

    fn task_set_mm(&mut self, id: TaskId, mm: MmId) {
        let (task, addr) = (self.task_addr(id), self.mm(mm).addr);
        self.sched.task_mut(id).mm = mm;
        for f in [field!("task_struct", "mm"), field!("task_struct", "active_mm")] {
            self.set(task, f, addr);
        }
    }

    /// `mmput`: what nobody has is given back.
    fn mm_put(&mut self, id: MmId) {
        let mm = self.mm_mut(id);
        mm.users -= 1;
        if mm.users > 0 {
            return;
        }
        let (addr, pages) = (mm.addr, std::mem::take(&mut mm.pages));
        let vmas = std::mem::take(&mut mm.vmas);
        pages.into_values().for_each(|page| self.alloc.free_pages(page - DIRECT_MAP, 1));
        vmas.into_values().for_each(|v| self.kfree_rcu(v.addr, "vm_area_struct"));
        self.sched.mm_at.remove(&addr);
        self.kfree(addr, "mm_struct");
    }

    /// `CLONE_VM`: a child that has not begun shares the address space of its parent.
    pub(crate) fn mm_share(&mut self, parent: TaskId, child: TaskId) {
        let (mm, old) = (self.task_mm(parent), self.task_mm(child));
        self.mm_mut(mm).users += 1;
        self.task_set_mm(child, mm);
        self.mm_put(old);
    }

    /// `dup_mmap`: the child gets a copy of all that its parent has.
    pub(crate) fn mm_copy(&mut self, parent: TaskId, child: TaskId) -> Result<(), Errno> {
        let from = self.mm(self.task_mm(parent)).clone();
        let to = self.task_mm(child);
        self.mm_mut(to).mapped = from.mapped;
        for (start, v) in from.vmas {
            self.vma_add(to, start..v.end, v.flags, v.file)?;
        }
        for (number, page) in from.pages {
            let copy = DIRECT_MAP + self.alloc.pages(&mut self.mem, 1).ok_or(Errno::ENOMEM)?;
            let bytes = self.mem.read_vec(page, PAGE_SIZE as usize).map_err(|_| Errno::EFAULT)?;
            self.mem.write(copy, &bytes).map_err(|_| Errno::EFAULT)?;
            self.mm_mut(to).pages.insert(number, copy);
        }
        Ok(())
    }

    /// `exec_mmap`: a task leaves its address space for a new one.
    pub(crate) fn mm_exec(&mut self, id: TaskId) -> Result<(), Errno> {
        let addr = self.kzalloc(crate::size!("mm_struct"), "mm_struct")?;
        let (old, name) = (self.task_mm(id), Arc::clone(self.task_name(id)));
        let mm = self.mm_new(addr, &name);
        self.task_set_mm(id, mm);
        self.mm_put(old);
        Ok(())
    }

    /// `exit_mm`.
    pub(super) fn mm_exit(&mut self, id: TaskId) {
        let task = self.task_addr(id);
        self.set(task, field!("task_struct", "mm"), 0);
        self.mm_put(self.task_mm(id));
    }

    /// Number of its `mmap_lock`.
    fn mmap_lock(&mut self, id: MmId) -> u32 {
        if let Some(n) = self.mm(id).lock {
            return n;
        }
        let n = self.sched_name(&format!("mmap_lock of {}", self.mm(id).name));
        self.mm_mut(id).lock = Some(n);
        n
    }

    /// `mmap_write_lock_killable`; `false` when the task has to sleep first.
    pub(crate) fn mmap_write_lock(&mut self, cpu: CpuId, id: TaskId) -> bool {
        let n = self.mmap_lock(self.task_mm(id));
        let got = self.sleep_lock(cpu, id, n, Mode::Write);
        if !got {
            self.sleep_contended(cpu, n, Mode::Write);
        }
        got
    }

    /// `mmap_write_unlock`.
    pub(crate) fn mmap_write_unlock(&mut self, cpu: CpuId, id: TaskId) {
        if let Some(n) = self.mm(self.task_mm(id)).lock {
            self.sleep_unlock(cpu, Some(id), n);
        }
    }

    /// `mmap_read_trylock` of a program that looks at the mappings of a task, with
    /// `bpf_mmap_unlock_get_irq_work`.
    ///
    /// # Errors
    /// `ENOENT` for a task without memory of its own, `EBUSY`.
    pub(crate) fn mmap_read(
        &mut self,
        cpu: CpuId,
        task: u64,
        func: &'static str,
    ) -> Result<MmapRead, Errno> {
        let mm = self.mm_of(task).ok_or(Errno::ENOENT)?;
        let deferred = self.context(cpu).irqs_off;
        let unlocks =
            |f: &Frame| matches!(f, Frame::Op(o) if matches!(**o, OpFrame::MmapUnlock(_)));
        if deferred && self.cpus[cpu.idx()].interrupts.iter().any(unlocks) {
            return Err(Errno::EBUSY);
        }
        let lock = self.mmap_lock(mm);
        match self.sleep_tryread(cpu, lock, func) {
            true => Ok(MmapRead { mm, lock, owner: self.curr_task(cpu), deferred }),
            false => Err(Errno::EBUSY),
        }
    }

    /// `bpf_mmap_unlock_mm`.
    pub(crate) fn mmap_read_end(&mut self, cpu: CpuId, read: MmapRead) {
        if read.deferred {
            let work = Frame::Op(Box::new(OpFrame::MmapUnlock(read)));
            self.interrupt(cpu, Level::Hard, [work]);
        } else {
            self.mmap_read_unlock(cpu, &read);
        }
    }

    pub(super) fn mmap_read_unlock(&mut self, cpu: CpuId, read: &MmapRead) {
        self.sleep_unlock(cpu, read.owner, read.lock);
    }

    /// A mapping; one that it continues grows (`vma_merge_new_range`).
    pub(crate) fn vma_add(
        &mut self,
        id: MmId,
        range: std::ops::Range<u64>,
        flags: u64,
        file: u64,
    ) -> Result<(), Errno> {
        self.vma_remove(id, range.clone())?;
        // accountable_mapping
        let private = flags & (VM_SHARED | VM_WRITE) == VM_WRITE;
        let flags = flags | if private { VM_ACCOUNT } else { 0 };
        let before = self.mm(id).vmas.range(..range.start).next_back();
        let continued = |v: &Vma| v.end == range.start && v.flags == flags && file == 0;
        if let Some((start, v)) = before.filter(|(_, v)| continued(v) && v.file == 0) {
            let (start, v) = (*start, Vma { end: range.end, ..*v });
            self.vma_put(id, start, v);
            return Ok(());
        }
        let addr = self.kzalloc(crate::size!("vm_area_struct"), "vm_area_struct")?;
        self.vma_put(id, range.start, Vma { end: range.end, flags, file, addr });
        Ok(())
    }

    /// `do_vmi_align_munmap`: mappings are cut to what lies outside of a range, and its pages are
    /// gone.
    pub(crate) fn vma_remove(&mut self, id: MmId, r: std::ops::Range<u64>) -> Result<(), Errno> {
        let mm = self.mm(id);
        let cut: Vec<(u64, Vma)> = mm
            .vmas
            .range(..r.end)
            .filter(|(_, v)| v.end > r.start)
            .map(|(start, v)| (*start, *v))
            .collect();
        for (start, v) in cut {
            self.mm_mut(id).vmas.remove(&start);
            if start < r.start {
                self.vma_put(id, start, Vma { end: r.start, ..v });
            }
            if v.end > r.end {
                let addr = match start < r.start {
                    true => {
                        let size = crate::size!("vm_area_struct");
                        self.kzalloc(size, "vm_area_struct")?
                    }
                    false => v.addr,
                };
                self.vma_put(id, r.end, Vma { addr, ..v });
            } else if start >= r.start {
                self.kfree_rcu(v.addr, "vm_area_struct");
            }
        }
        let numbers = r.start / PAGE_SIZE..r.end / PAGE_SIZE;
        let pages: Vec<u64> = self.mm(id).pages.range(numbers).map(|(n, _)| *n).collect();
        for n in pages {
            let page = self.mm_mut(id).pages.remove(&n).expect("it was found there");
            self.alloc.free_pages(page - DIRECT_MAP, 1);
        }
        Ok(())
    }

    fn vma_put(&mut self, id: MmId, start: u64, v: Vma) {
        let mm = self.mm(id).addr;
        for (f, value) in [
            (field!("vm_area_struct", "vm_start"), start),
            (field!("vm_area_struct", "vm_end"), v.end),
            (field!("vm_area_struct", "vm_mm"), mm),
            (field!("vm_area_struct", "vm_flags"), v.flags),
            (field!("vm_area_struct", "vm_pgoff"), if v.file == 0 { start / PAGE_SIZE } else { 0 }),
            (field!("vm_area_struct", "vm_file"), v.file),
        ] {
            self.set(v.addr, f, value);
        }
        self.mm_mut(id).vmas.insert(start, v);
    }

    /// `find_vma`: the first mapping that ends above an address: its range and `vm_area_struct`.
    pub(crate) fn vma_from(&mut self, id: MmId, at: u64) -> Option<(std::ops::Range<u64>, u64)> {
        // That of the stack is there since the exec; it is made when someone looks.
        if !self.mm(id).vmas.contains_key(&STACK.start) {
            let size = crate::size!("vm_area_struct");
            let site = self.site("vm_area_struct");
            let addr = self.alloc.kmalloc(&mut self.mem, size, site).ok()?;
            let stack = Vma { end: STACK.end, flags: STACK_FLAGS, file: 0, addr };
            self.vma_put(id, STACK.start, stack);
        }
        let mut all = self.mm(id).vmas.iter();
        all.find(|(_, v)| v.end > at).map(|(start, v)| (*start..v.end, v.addr))
    }
}

/// `calc_vm_prot_bits` and `calc_vm_flag_bits` of what `mmap` is given.
pub(crate) fn vm_flags(prot: u64, flags: u64) -> u64 {
    // PROT_READ, PROT_WRITE and PROT_EXEC are the same bits; MAP_SHARED is VM_SHARED | VM_MAYSHARE.
    let shared = if flags & 1 != 0 { VM_SHARED | 0x80 } else { 0 };
    prot & 7 | VM_MAY | shared
}
