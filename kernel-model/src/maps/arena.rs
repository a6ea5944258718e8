//! Arenas: memory that programs and user space share, at addresses of 32 bits
//! (kernel/bpf/arena.c, range_tree.c).
//!
//! Programs reach a page at the arena's kernel start plus the low half of its user address; a page
//! that is not there faults there and then, and the exception table makes a load of it 0.

use std::collections::BTreeMap;

use super::{Kind, MapDef, MapId};
use crate::cpu::{CpuId, Site};
use crate::layout::{ARENA_STRIDE, ARENAS, DIRECT_MAP, PAGE_SIZE};
use crate::mem::Perms;
use crate::{Errno, Kernel};

/// `GUARD_SZ / 2`: as far as a 16-bit offset reaches below the first page.
const GUARD: u64 = 1 << 15;
/// `BPF_F_MMAPABLE`, `BPF_F_SEGV_ON_FAULT`, `BPF_F_NO_USER_CONV`.
const MMAPABLE: u32 = 1 << 10;
const SEGV_ON_FAULT: u32 = 1 << 17;
const NO_USER_CONV: u32 = 1 << 18;
/// Where processes of the model map arenas that name no address: each in 4 GiB of its own.
const USER_MAPS: u64 = 0x7000_0000_0000;

/// `struct bpf_arena`.
#[derive(Clone, Debug)]
pub(crate) struct Arena {
    kern_vm_start: u64,
    user_vm_start: u64,
    user_vm_end: u64,
    /// Free ranges of pages: start, length and when each was put there.
    free: Vec<Range>,
    next_seq: u64,
    /// Pages that are there, by number.
    pages: BTreeMap<u64, u64>,
}

#[derive(Clone, Copy, Debug)]
struct Range {
    start: u64,
    len: u64,
    seq: u64,
}

/// `arena_map_alloc`, as far as attributes go.
pub(crate) fn check(def: &MapDef) -> Result<(), Errno> {
    let known = MMAPABLE | SEGV_ON_FAULT | NO_USER_CONV;
    let sizes = def.key_size == 0 && def.value_size == 0 && def.max_entries != 0;
    if !sizes || def.flags & MMAPABLE == 0 || def.flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    if !def.map_extra.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let range = u64::from(def.max_entries) * PAGE_SIZE;
    if range > 1 << 32 {
        return Err(Errno::E2BIG);
    }
    // The user's mapping does not cross a boundary of 4 GiB.
    match def.map_extra >> 32 == def.map_extra.wrapping_add(range - 1) >> 32 {
        true => Ok(()),
        false => Err(Errno::ERANGE),
    }
}

impl Kernel {
    /// `bpf_prog_report_arena_violation`: a program came to a page that an arena does not have.
    pub fn arena_violation(&mut self, cpu: CpuId, addr: u64, write: bool, stack: &[Site]) {
        let Some(prog) = self.cpus[cpu.idx()].prog_frame().map(|p| p.prog) else { return };
        let arenas = self.maps.values().filter_map(|m| match &m.kind {
            Kind::Arena(a) => Some(a),
            _ => None,
        });
        let within = |a: &&Arena| addr.wrapping_sub(a.kern_vm_start - GUARD) < ARENA_STRIDE;
        let Some(arena) = arenas.into_iter().find(within) else { return };
        let low = addr.wrapping_sub(arena.kern_vm_start);
        let user = (arena.user_vm_start & !u64::from(u32::MAX)).wrapping_add(low);
        let what = if write { "WRITE" } else { "READ" };
        let text = format!("ERROR: Arena {what} access at unmapped address {user:#x}");
        self.stream_report(cpu, prog, &text, stack);
    }
}

impl Arena {
    pub(super) fn new(id: MapId, def: &MapDef) -> Arena {
        let pages = u64::from(def.max_entries);
        let user_vm_end = if def.map_extra == 0 { 0 } else { def.map_extra + pages * PAGE_SIZE };
        Arena {
            kern_vm_start: ARENAS + u64::from(id.0) * ARENA_STRIDE + GUARD,
            user_vm_start: def.map_extra,
            user_vm_end,
            free: vec![Range { start: 0, len: pages, seq: 0 }],
            next_seq: 1,
            pages: BTreeMap::new(),
        }
    }

    fn page_count(&self) -> u64 {
        (self.user_vm_end - self.user_vm_start) / PAGE_SIZE
    }

    /// `compute_pgoff`.
    fn number(&self, uaddr: u64) -> u64 {
        u64::from((uaddr as u32).wrapping_sub(self.user_vm_start as u32)) / PAGE_SIZE
    }

    /// Kernel address of a page.
    fn kernel_address(&self, number: u64) -> u64 {
        let low = (self.user_vm_start + number * PAGE_SIZE) & 0xffff_ffff;
        self.kern_vm_start + low
    }

    fn put(&mut self, start: u64, len: u64) {
        if len > 0 {
            self.free.push(Range { start, len, seq: self.next_seq });
            self.next_seq += 1;
        }
    }

    /// `is_range_tree_set`.
    fn is_free(&self, start: u64, len: u64) -> bool {
        self.free.iter().any(|r| r.start <= start && start + len <= r.start + r.len)
    }

    /// `range_tree_find`: the smallest range that is large enough.
    fn find(&self, len: u64) -> Option<u64> {
        let fits = self.free.iter().filter(|r| r.len >= len);
        fits.min_by_key(|r| (r.len, std::cmp::Reverse(r.seq))).map(|r| r.start)
    }

    /// `range_tree_clear`.
    fn clear(&mut self, start: u64, len: u64) {
        let end = start + len;
        let hit: Vec<Range> =
            self.free.extract_if(.., |r| r.start < end && start < r.start + r.len).collect();
        for r in hit {
            self.put(r.start, start.saturating_sub(r.start));
            self.put(end, (r.start + r.len).saturating_sub(end));
        }
    }

    /// `range_tree_set`: neighbours join.
    fn set(&mut self, start: u64, len: u64) {
        self.clear(start, len);
        let (mut from, mut to) = (start, start + len);
        for r in self.free.extract_if(.., |r| r.start + r.len == start || r.start == start + len) {
            (from, to) = (from.min(r.start), to.max(r.start + r.len));
        }
        self.put(from, to - from);
    }
}

impl Kernel {
    fn arena_ref(&self, id: MapId) -> Option<&Arena> {
        match self.maps.get(&id).map(|m| &m.kind) {
            Some(Kind::Arena(arena)) => Some(arena),
            _ => None,
        }
    }

    fn arena_mut(&mut self, id: MapId) -> Option<&mut Arena> {
        match self.maps.get_mut(&id).map(|m| &mut m.kind) {
            Some(Kind::Arena(arena)) => Some(arena),
            _ => None,
        }
    }

    /// Kernel and user start of an arena that has an address.
    pub(crate) fn arena_starts(&self, id: MapId) -> Option<(u64, u64)> {
        let arena = self.arena_ref(id)?;
        (arena.user_vm_start != 0).then_some((arena.kern_vm_start, arena.user_vm_start))
    }

    /// mmap(2) of an arena by a process; its address.
    ///
    /// # Errors
    /// `EINVAL` for another kind of map.
    pub fn arena_mmap(&mut self, id: MapId) -> Result<u64, Errno> {
        let pages = self.maps.get(&id).map_or(0, |m| u64::from(m.def.max_entries));
        let arena = self.arena_mut(id).ok_or(Errno::EINVAL)?;
        if arena.user_vm_start == 0 {
            arena.user_vm_start = USER_MAPS + (u64::from(id.0) << 32);
            arena.user_vm_end = arena.user_vm_start + pages * PAGE_SIZE;
        }
        Ok(arena.user_vm_start)
    }

    /// A new page, mapped for programs.
    fn arena_page(&mut self, id: MapId, number: u64) -> Result<(), Errno> {
        if self.inject_alloc("arena page") {
            return Err(Errno::ENOMEM);
        }
        let phys = self.alloc.pages(&mut self.mem, 1).ok_or(Errno::ENOMEM)?;
        self.races.forget(phys, PAGE_SIZE);
        self.races.add_range(phys, PAGE_SIZE, id);
        let arena = self.arena_mut(id).ok_or(Errno::EINVAL)?;
        arena.pages.insert(number, phys);
        let at = arena.kernel_address(number);
        self.mem.map(at, phys, Perms::RW);
        Ok(())
    }

    fn arena_unmap(&mut self, id: MapId, number: u64) {
        let Some(arena) = self.arena_mut(id) else { return };
        let at = arena.kernel_address(number);
        if let Some(phys) = arena.pages.remove(&number) {
            self.mem.unmap(at);
            self.alloc.free_pages(phys, 1);
        }
    }

    /// `arena_alloc_pages`: the user address, 0 for none.
    pub(crate) fn arena_alloc(&mut self, id: MapId, uaddr: u64, count: u64) -> u64 {
        let Some(arena) = self.arena_mut(id) else { return 0 };
        let most = arena.page_count();
        if count > most {
            return 0;
        }
        let number = if uaddr == 0 {
            arena.find(count)
        } else {
            let number = arena.number(uaddr);
            let fits = uaddr.is_multiple_of(PAGE_SIZE) && number <= most - count;
            Some(number).filter(|n| fits && arena.is_free(*n, count))
        };
        let Some(number) = number else { return 0 };
        arena.clear(number, count);
        for n in number..number + count {
            if self.arena_page(id, n).is_err() {
                (number..n).for_each(|n| self.arena_unmap(id, n));
                self.arena_mut(id).expect("looked up").set(number, count);
                return 0;
            }
        }
        let start = self.arena_ref(id).expect("looked up").user_vm_start;
        start & !0xffff_ffff | (start + number * PAGE_SIZE) & 0xffff_ffff
    }

    /// `arena_free_pages`.
    pub(crate) fn arena_free(&mut self, id: MapId, uaddr: u64, count: u64) {
        let Some(arena) = self.arena_mut(id) else { return };
        let low = uaddr & 0xffff_ffff & !(PAGE_SIZE - 1);
        let full = arena.user_vm_start & !0xffff_ffff | low;
        let end = arena.user_vm_end.min(full + count * PAGE_SIZE);
        if full >= end {
            return;
        }
        let (number, count) = (arena.number(low), (end - full) / PAGE_SIZE);
        arena.set(number, count);
        (number..number + count).for_each(|n| self.arena_unmap(id, n));
    }

    /// `arena_reserve_pages`.
    pub(crate) fn arena_reserve(&mut self, id: MapId, uaddr: u64, count: u64) -> Result<(), Errno> {
        let arena = self.arena_mut(id).ok_or(Errno::EINVAL)?;
        if !uaddr.is_multiple_of(PAGE_SIZE) {
            return Ok(());
        }
        let number = arena.number(uaddr);
        if number + count > arena.page_count() {
            return Err(Errno::EINVAL);
        }
        if !arena.is_free(number, count) {
            return Err(Errno::EBUSY);
        }
        arena.clear(number, count);
        Ok(())
    }

    /// Page of a user address; user space's first touch makes it (`arena_vm_fault`).
    fn arena_touch(&mut self, id: MapId, uaddr: u64) -> Result<u64, Errno> {
        let flags = self.maps.get(&id).ok_or(Errno::EBADF)?.def.flags;
        let arena = self.arena_mut(id).ok_or(Errno::EINVAL)?;
        if !(arena.user_vm_start..arena.user_vm_end).contains(&uaddr) {
            return Err(Errno::EFAULT);
        }
        let number = arena.number(uaddr);
        if !arena.pages.contains_key(&number) {
            if flags & SEGV_ON_FAULT != 0 || !arena.is_free(number, 1) {
                return Err(Errno::EFAULT);
            }
            arena.clear(number, 1);
            self.arena_page(id, number)?;
        }
        let arena = self.arena_ref(id).ok_or(Errno::EINVAL)?;
        Ok(DIRECT_MAP + arena.pages[&number] + uaddr % PAGE_SIZE)
    }

    /// A process writes to its mapping of an arena.
    ///
    /// # Errors
    /// `EFAULT` outside, or where the arena wants a signal.
    pub fn arena_write(&mut self, id: MapId, uaddr: u64, bytes: &[u8]) -> Result<(), Errno> {
        for (n, b) in bytes.iter().enumerate() {
            let at = self.arena_touch(id, uaddr + n as u64)?;
            self.mem.write_u8(at, *b).map_err(|_| Errno::EFAULT)?;
        }
        Ok(())
    }

    /// A process reads from its mapping of an arena.
    ///
    /// # Errors
    /// As [`Kernel::arena_write`].
    pub fn arena_read(&mut self, id: MapId, uaddr: u64, len: usize) -> Result<Vec<u8>, Errno> {
        let mut out = Vec::with_capacity(len);
        for n in 0..len as u64 {
            let at = self.arena_touch(id, uaddr + n)?;
            out.push(self.mem.read_u8(at).map_err(|_| Errno::EFAULT)?);
        }
        Ok(out)
    }

    /// All pages of an arena that goes away.
    pub(crate) fn arena_drop(&mut self, id: MapId) {
        let numbers: Vec<u64> =
            self.arena_ref(id).map_or(Vec::new(), |a| a.pages.keys().copied().collect());
        numbers.into_iter().for_each(|n| self.arena_unmap(id, n));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use bpf::uapi::MapType;

    const USER: u64 = 1 << 44;

    #[test]
    fn pages_are_shared_with_user_space_and_reused_when_free() {
        let mut k = Kernel::new(Config::default());
        let (map_type, flags) = (MapType::Arena, MMAPABLE);
        let def = MapDef { map_type, flags, max_entries: 10, map_extra: USER, ..MapDef::default() };
        let id = k.map_create(def, None).unwrap();
        let (kernel, user) = k.arena_starts(id).unwrap();
        assert_eq!(user, USER);
        let a = k.arena_alloc(id, 0, 3);
        assert_eq!((a, k.arena_alloc(id, 0, 8)), (USER, 0));
        k.arena_write(id, a + 4094, &[1, 2, 3]).unwrap();
        assert_eq!(k.mem.read_vec(kernel + 4094, 3).unwrap(), [1, 2, 3]);
        k.arena_free(id, a, 1);
        assert!(k.mem.read_u8(kernel).is_err());
        // The smallest hole that is large enough.
        assert_eq!(k.arena_alloc(id, 0, 1), USER);
        assert_eq!(k.arena_alloc(id, USER + 2 * 4096, 1), 0);
        assert_eq!(k.arena_reserve(id, USER + 5 * 4096, 2), Ok(()));
        assert_eq!(k.arena_reserve(id, USER + 6 * 4096, 1), Err(Errno::EBUSY));
        assert_eq!(k.arena_reserve(id, USER + 9 * 4096, 2), Err(Errno::EINVAL));
        assert_eq!(k.arena_alloc(id, 0, 3), USER + 7 * 4096);
        // The first touch of user space makes a page.
        assert_eq!(k.arena_read(id, USER + 4 * 4096, 2), Ok(vec![0, 0]));
        assert_eq!(k.arena_read(id, USER + 10 * 4096, 1), Err(Errno::EFAULT));
        let before = k.arena_ref(id).unwrap().pages.len();
        k.arena_drop(id);
        assert_eq!((before, k.arena_ref(id).unwrap().pages.len()), (7, 0));
    }
}
