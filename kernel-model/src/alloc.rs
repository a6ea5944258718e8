//! `kmalloc` and the page allocator on the direct map, with the checks of KASAN and SLUB debug.
//!
//! Objects are kept apart by red zones, freed ones are poisoned and stay in quarantine, so that
//! a use after free, a double free or a write out of bounds is found and names both sites.
//! Placement depends on the order of calls alone: same calls, same addresses (design
//! invariants 4 and 6). Sources: mm/slub.c, mm/kasan/report.c, include/linux/poison.h.

use std::collections::{BTreeMap, VecDeque};

use crate::ProgId;
use crate::layout::{DIRECT_MAP, PAGE_SIZE, RAM_RESERVED};
use crate::mem::GuestMemory;

/// Red zone on either side of an object.
const RED_ZONE: u64 = 16;
/// `SLUB_RED_ACTIVE`.
const RED: u8 = 0xcc;
/// `POISON_FREE`.
pub(crate) const POISON: u8 = 0x6b;
/// Freed objects that are not reused yet, as KASAN's quarantine, and their part of the memory.
const QUARANTINE: usize = 64;
const QUARANTINE_PART: u64 = 32;
/// Objects above this are whole pages.
const KMALLOC_MAX: u64 = 2048;

/// Where something was allocated or freed, in the words of a report.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Site {
    /// Kernel function or object kind, e.g. `htab_elem`.
    pub what: &'static str,
    /// Virtual time.
    pub clock_ns: u64,
    /// CPU.
    pub cpu: u32,
    /// Program on whose behalf.
    pub prog: Option<ProgId>,
    /// Native address behind its call of the kernel, 0 when there is none.
    pub pc: u64,
    /// Program and source line, once it is reported.
    pub source: Option<Box<str>>,
}

/// What is wrong with an access or a free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// Access inside a freed object.
    UseAfterFree,
    /// Access inside an object that only waits for its grace period, by who is in no section that
    /// began before it was taken away.
    OutsideSection,
    /// Access that leaves its object.
    OutOfBounds,
    /// Free of a freed object.
    DoubleFree,
    /// Free of an address that is not the start of an object.
    InvalidFree,
    /// A red zone or a poisoned object was overwritten by code that was not checked.
    Overwritten,
    /// No memory left.
    OutOfMemory,
}

/// A report as KASAN would print it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Kind.
    pub wrong: Wrong,
    /// Address of the access.
    pub addr: u64,
    /// Start of the object, 0 when there is none.
    pub object: u64,
    /// Size of the object.
    pub size: u64,
    /// Where the object came from.
    pub allocated: Site,
    /// Where it was taken away, when it was freed after a grace period.
    pub retired: Option<Site>,
    /// What holds the grace period that it waits for, in words.
    pub held: Option<Box<str>>,
    /// Where it was freed.
    pub freed: Option<Site>,
    /// Where the present call stands.
    pub at: Site,
}

impl std::fmt::Display for Site {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at {} ns on CPU {}", self.what, self.clock_ns, self.cpu)?;
        self.source.iter().try_for_each(|s| write!(f, " in {s}"))
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} at {:#x}", self.wrong, self.addr)?;
        if self.object != 0 {
            write!(f, " ({} bytes at {:#x}", self.size, self.object)?;
            write!(f, ", allocated for {}", self.allocated)?;
            if let Some(retired) = &self.retired {
                write!(f, ", taken away by {retired}")?;
            }
            if let Some(held) = &self.held {
                write!(f, ", its grace period held by {held}")?;
            }
            if let Some(freed) = &self.freed {
                write!(f, ", freed as {freed}")?;
            }
            write!(f, ")")?;
        }
        write!(f, ", found by {}", self.at)
    }
}

impl std::error::Error for Report {}

#[derive(Clone, Debug)]
struct Object {
    size: u64,
    /// Start and length of the slot, red zones included.
    slot: (u64, u64),
    allocated: Site,
    /// Where it was taken away, and the first section that may not know of it.
    retired: Option<(Site, u64)>,
    freed: Option<Site>,
    /// Its pages are guarded.
    guarded: bool,
}

/// Allocator state.
#[derive(Clone, Debug)]
pub struct Alloc {
    objects: BTreeMap<u64, Object>,
    /// Free slots by kind of object and slot size, last freed first out after the quarantine. As
    /// with slab caches, objects of two kinds share no page.
    slots: BTreeMap<(&'static str, u64), Vec<u64>>,
    /// Free page runs: physical start -> bytes.
    runs: BTreeMap<u64, u64>,
    quarantine: VecDeque<u64>,
    quarantine_bytes: u64,
    ram_bytes: u64,
    live_bytes: u64,
    /// Memory from here up was never handed out and is still zero.
    fresh: u64,
}

impl Alloc {
    /// All of RAM but the reserved start.
    #[must_use]
    pub fn new(ram_bytes: u64) -> Alloc {
        assert!(ram_bytes > RAM_RESERVED, "memory for objects");
        Alloc {
            objects: BTreeMap::new(),
            slots: BTreeMap::new(),
            runs: BTreeMap::from([(RAM_RESERVED, ram_bytes - RAM_RESERVED)]),
            quarantine: VecDeque::new(),
            quarantine_bytes: 0,
            ram_bytes,
            live_bytes: 0,
            fresh: RAM_RESERVED,
        }
    }

    /// Bytes in live objects.
    #[must_use]
    pub fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Live objects with their sizes and origins, by address.
    pub fn live(&self) -> impl Iterator<Item = (u64, u64, &Site)> {
        let live = self.objects.iter().filter(|(_, o)| o.freed.is_none());
        live.map(|(a, o)| (*a, o.size, &o.allocated))
    }

    /// Physically contiguous zeroed pages, first fit; returns the physical address.
    pub fn pages(&mut self, mem: &mut GuestMemory, n: u64) -> Option<u64> {
        let want = n.max(1).checked_mul(PAGE_SIZE)?;
        let (at, len) = self.runs.iter().find(|r| *r.1 >= want).map(|(a, l)| (*a, *l))?;
        self.runs.remove(&at);
        if len > want {
            self.runs.insert(at + want, len - want);
        }
        let used = (at + want).min(self.fresh).saturating_sub(at);
        mem.fill(DIRECT_MAP + at, used as usize, 0).expect("RAM is in the direct map");
        self.fresh = self.fresh.max(at + want);
        Some(at)
    }

    /// Gives pages back; adjacent runs join.
    pub fn free_pages(&mut self, phys: u64, n: u64) {
        let (mut at, mut len) = (phys, n.max(1) * PAGE_SIZE);
        if let Some((before, l)) = self.runs.range(..at).next_back().map(|(a, l)| (*a, *l))
            && before + l == at
        {
            self.runs.remove(&before);
            (at, len) = (before, l + len);
        }
        if let Some(l) = self.runs.remove(&(at + len)) {
            len += l;
        }
        self.runs.insert(at, len);
    }

    /// Slot size and offset of the object in it. Objects of a page and more start on a page,
    /// as `kmalloc` gives it.
    fn slot_shape(size: u64) -> (u64, u64) {
        if size > KMALLOC_MAX {
            ((size + RED_ZONE).next_multiple_of(PAGE_SIZE) + PAGE_SIZE, PAGE_SIZE)
        } else {
            let class = if size <= 256 {
                size.max(8).next_multiple_of(16)
            } else {
                size.next_power_of_two()
            };
            (class + 2 * RED_ZONE, RED_ZONE)
        }
    }

    fn new_slot(&mut self, mem: &mut GuestMemory, what: &'static str, len: u64) -> Option<u64> {
        if let Some(at) = self.slots.get_mut(&(what, len)).and_then(Vec::pop) {
            return Some(at);
        }
        if len >= PAGE_SIZE {
            return self.pages(mem, len / PAGE_SIZE).map(|p| DIRECT_MAP + p);
        }
        let bytes = (len * 8).next_multiple_of(PAGE_SIZE);
        let base = DIRECT_MAP + self.pages(mem, bytes / PAGE_SIZE)?;
        let all: Vec<u64> = (0..bytes / len).map(|i| base + i * len).collect();
        let free = self.slots.entry((what, len)).or_default();
        free.extend(all.iter().skip(1).rev());
        Some(all[0])
    }

    /// A zeroed object (`kzalloc`).
    pub fn kmalloc(
        &mut self,
        mem: &mut GuestMemory,
        size: u64,
        site: Site,
    ) -> Result<u64, Box<Report>> {
        let (len, off) = Alloc::slot_shape(size);
        let slot = self.new_slot(mem, site.what, len).or_else(|| {
            while let Some(old) = self.quarantine.pop_front() {
                self.release(mem, old, &site).ok()?;
            }
            self.new_slot(mem, site.what, len)
        });
        let Some(start) = slot else {
            return Err(Box::new(Report {
                wrong: Wrong::OutOfMemory,
                addr: 0,
                object: 0,
                size,
                allocated: Site::default(),
                retired: None,
                held: None,
                freed: None,
                at: site,
            }));
        };
        let addr = start + off;
        put(mem, addr - RED_ZONE, RED_ZONE, RED);
        if len < PAGE_SIZE {
            put(mem, addr, size, 0);
        }
        put(mem, addr + size, RED_ZONE, RED);
        self.live_bytes += size;
        let (slot, guarded) = ((start, len), false);
        let object = Object { size, slot, allocated: site, retired: None, freed: None, guarded };
        self.objects.insert(addr, object);
        Ok(addr)
    }

    /// Notes that an object is freed after a grace period: who is in a section with a number
    /// below `sections` may look at it until then, nobody else.
    pub fn retire(&mut self, mem: &mut GuestMemory, addr: u64, site: Site, sections: u64) {
        if let Some(o) = self.objects.get_mut(&addr).filter(|o| o.freed.is_none()) {
            o.retired = Some((site, sections));
            o.guard(mem, addr);
        }
    }

    /// Frees an object: poisoned now, reused when the quarantine is full. Native accesses are
    /// caught too when it was retired or has pages of its own.
    pub fn kfree(
        &mut self,
        mem: &mut GuestMemory,
        addr: u64,
        site: Site,
    ) -> Result<(), Box<Report>> {
        let Some(o) = self.objects.get(&addr) else {
            return Err(self.report(Wrong::InvalidFree, addr, site));
        };
        if o.freed.is_some() {
            return Err(self.report(Wrong::DoubleFree, addr, site));
        }
        let zones = self.zones_intact(mem, addr);
        let o = self.objects.get_mut(&addr).expect("looked up above");
        o.freed = Some(site.clone());
        self.live_bytes -= o.size;
        put(mem, addr, o.size, POISON);
        if o.slot.1 >= PAGE_SIZE {
            o.guard(mem, addr);
        }
        self.quarantine.push_back(addr);
        self.quarantine_bytes += o.slot.1;
        let mut released = Ok(());
        while self.quarantine.len() > QUARANTINE
            || self.quarantine_bytes > self.ram_bytes / QUARANTINE_PART
        {
            let Some(old) = self.quarantine.pop_front() else { break };
            released = released.and(self.release(mem, old, &site));
        }
        match zones {
            Some(bad) => Err(self.report(Wrong::Overwritten, bad, site)),
            None => released,
        }
    }

    /// An object is freed that is on the list of an allocator above this one already.
    pub(crate) fn double_free(&self, addr: u64, site: Site) -> Box<Report> {
        self.report(Wrong::DoubleFree, addr, site)
    }

    /// Takes an object out of quarantine; its poison must be whole.
    fn release(
        &mut self,
        mem: &mut GuestMemory,
        addr: u64,
        site: &Site,
    ) -> Result<(), Box<Report>> {
        let o = &self.objects[&addr];
        if o.guarded {
            mem.unguard(addr, o.size);
        }
        let bad = first_other(mem, addr, o.size, POISON);
        let report = bad.map(|b| self.report(Wrong::Overwritten, b, site.clone()));
        let o = self.objects.remove(&addr).expect("in quarantine");
        self.quarantine_bytes -= o.slot.1;
        let (start, len) = o.slot;
        if len >= PAGE_SIZE {
            self.free_pages(start - DIRECT_MAP, len / PAGE_SIZE);
        } else {
            self.slots.entry((o.allocated.what, len)).or_default().push(start);
        }
        report.map_or(Ok(()), Err)
    }

    fn zones_intact(&self, mem: &GuestMemory, addr: u64) -> Option<u64> {
        let o = &self.objects[&addr];
        first_other(mem, addr - RED_ZONE, RED_ZONE, RED)
            .or_else(|| first_other(mem, addr + o.size, RED_ZONE, RED))
    }

    /// Size of the live object that starts here (`ksize`).
    #[must_use]
    pub fn size_of(&self, addr: u64) -> Option<u64> {
        self.objects.get(&addr).filter(|o| o.freed.is_none()).map(|o| o.size)
    }

    /// Start, size and purpose of the object, live or not, that an address is in.
    #[must_use]
    pub fn object(&self, addr: u64) -> Option<(u64, u64, &'static str)> {
        let (start, o) = self.objects.range(..=addr).next_back()?;
        (addr - start < o.size).then_some((*start, o.size, o.allocated.what))
    }

    /// Checks an access on behalf of a program that is in the section `section`, if it is in one.
    /// Addresses outside objects (whole pages, other mappings) are not the allocator's to judge.
    pub fn check(
        &self,
        addr: u64,
        len: u64,
        section: Option<u64>,
        site: Site,
    ) -> Result<(), Box<Report>> {
        let Some((start, o)) = self.objects.range(..=addr).next_back() else {
            return Ok(());
        };
        let (slot, slot_len) = o.slot;
        if addr >= slot + slot_len {
            return Ok(());
        }
        if o.freed.is_some() {
            return Err(self.report(Wrong::UseAfterFree, addr, site));
        }
        if addr.saturating_add(len) > start + o.size {
            return Err(self.report(Wrong::OutOfBounds, addr, site));
        }
        match &o.retired {
            Some((_, first)) if section.is_none_or(|s| s >= *first) => {
                Err(self.report(Wrong::OutsideSection, addr, site))
            }
            _ => Ok(()),
        }
    }

    /// Sweeps all red zones and poison: what native code overwrote without being checked.
    #[must_use]
    pub fn sweep(&self, mem: &GuestMemory, site: &Site) -> Vec<Report> {
        let bad = self.objects.iter().filter_map(|(addr, o)| {
            let poison = o.freed.as_ref().and_then(|_| first_other(mem, *addr, o.size, POISON));
            poison.or_else(|| self.zones_intact(mem, *addr))
        });
        bad.map(|b| *self.report(Wrong::Overwritten, b, site.clone())).collect()
    }

    fn report(&self, wrong: Wrong, addr: u64, at: Site) -> Box<Report> {
        let near = self.objects.range(..=addr + RED_ZONE).next_back();
        let (object, o) = near.map_or((0, None), |(a, o)| (*a, Some(o)));
        Box::new(Report {
            wrong,
            addr,
            object,
            size: o.map_or(0, |o| o.size),
            allocated: o.map_or_else(Site::default, |o| o.allocated.clone()),
            retired: o.and_then(|o| o.retired.clone()).map(|r| r.0),
            held: None,
            freed: o.and_then(|o| o.freed.clone()),
            at,
        })
    }
}

impl Object {
    /// Has native accesses to its pages looked at: one that comes after the free is found there and
    /// then, at a cost for what else lies on the pages and nothing else.
    fn guard(&mut self, mem: &mut GuestMemory, addr: u64) {
        if !self.guarded {
            mem.guard(addr, self.size);
            self.guarded = true;
        }
    }
}

fn put(mem: &mut GuestMemory, at: u64, len: u64, byte: u8) {
    mem.fill(at, len as usize, byte).expect("slots are in the direct map");
}

fn first_other(mem: &GuestMemory, at: u64, len: u64, byte: u8) -> Option<u64> {
    let got = mem.read_vec(at, len as usize).expect("slots are in the direct map");
    got.iter().position(|b| *b != byte).map(|i| at + i as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::Endian;

    fn site(what: &'static str) -> Site {
        Site { what, clock_ns: 1, ..Site::default() }
    }

    #[test]
    fn placement_is_deterministic_and_objects_do_not_touch() {
        let run = || {
            let mut m = GuestMemory::new(8 << 20, Endian::Little);
            let mut a = Alloc::new(m.ram_bytes());
            let sizes = [1, 8, 100, 256, 257, 2048, 2049, 4096, 10_000, 16];
            sizes.map(|s| (a.kmalloc(&mut m, s, site("t")).unwrap(), s))
        };
        let mut one = run();
        assert_eq!(one, run());
        one.sort_unstable();
        assert!(one.windows(2).all(|w| w[0].0 + w[0].1 + 16 <= w[1].0));
    }

    #[test]
    fn every_mistake_is_named_with_both_sites() {
        let mut m = GuestMemory::new(8 << 20, Endian::Little);
        let mut a = Alloc::new(m.ram_bytes());
        let p = a.kmalloc(&mut m, 24, site("elem")).unwrap();
        assert_eq!(a.check(p + 16, 8, None, site("r")), Ok(()));
        assert_eq!(a.check(p + 20, 8, None, site("r")).unwrap_err().wrong, Wrong::OutOfBounds);
        a.kfree(&mut m, p, site("gone")).unwrap();
        let r = a.check(p, 8, None, site("r")).unwrap_err();
        assert_eq!(
            (r.wrong, r.allocated.what, r.freed.unwrap().what),
            (Wrong::UseAfterFree, "elem", "gone")
        );
        assert_eq!(a.kfree(&mut m, p, site("again")).unwrap_err().wrong, Wrong::DoubleFree);
        assert_eq!(a.kfree(&mut m, p + 8, site("x")).unwrap_err().wrong, Wrong::InvalidFree);
        let q = a.kmalloc(&mut m, 24, site("q")).unwrap();
        m.write_u8(q + 24, 1).unwrap();
        assert_eq!(a.sweep(&m, &site("s")).len(), 1);
        assert_eq!(a.kfree(&mut m, q, site("f")).unwrap_err().wrong, Wrong::Overwritten);
    }

    #[test]
    fn freed_memory_comes_back() {
        let mut m = GuestMemory::new(8 << 20, Endian::Little);
        let mut a = Alloc::new(m.ram_bytes());
        for _ in 0..200 {
            let p = a.kmalloc(&mut m, 1 << 20, site("big"));
            let Ok(p) = p else { break };
            a.kfree(&mut m, p, site("big")).unwrap();
        }
        for _ in 0..10_000 {
            let p = a.kmalloc(&mut m, 64, site("small")).unwrap_or(0);
            if p != 0 {
                a.kfree(&mut m, p, site("small")).unwrap();
            }
        }
        assert_eq!(a.live_bytes(), 0);
    }
}
