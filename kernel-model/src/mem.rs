//! Guest memory: RAM, page tables, byte order, and copy-on-write snapshots.
//!
//! RAM is one mapping of zeroed pages, so that an emulator can map it directly.
//! The direct map is linear and needs no table; every other mapping is a page table entry.
//! The model writes through [`GuestMemory::write`] alone (design invariant 8); an emulator that
//! writes natively asks [`Walker::walk`] before its first write to a page since a snapshot.
//!
//! A snapshot copies nothing: a page is copied when it is first written afterwards, and only when
//! a snapshot still has it.

mod past;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bpf::Endian;
use memmap2::MmapMut;
use past::{CHUNK, Chunk, Past, mixed};

use crate::layout::{DIRECT_MAP, PAGE_SHIFT, PAGE_SIZE, VMALLOC};

const PAGE: usize = PAGE_SIZE as usize;

/// What a page may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Perms {
    /// Readable.
    pub r: bool,
    /// Writable.
    pub w: bool,
    /// Executable. Never together with `w`.
    pub x: bool,
}

impl Perms {
    /// Data.
    pub const RW: Perms = Perms { r: true, w: true, x: false };
    /// Constant data.
    pub const RO: Perms = Perms { r: true, w: false, x: false };
    /// Code.
    pub const RX: Perms = Perms { r: true, w: false, x: true };
}

/// A page table entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pte {
    /// Physical address of the page.
    pub phys: u64,
    /// Permissions.
    pub perms: Perms,
}

/// Kind of access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Load.
    Read,
    /// Store.
    Write,
    /// Instruction fetch.
    Fetch,
}

/// An access to an address that is not mapped, or not for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{access:?} fault at {va:#x}")]
pub struct MemFault {
    /// The first byte that failed.
    pub va: u64,
    /// The access.
    pub access: Access,
}

/// Memory at one instant, for the [`GuestMemory`] that it is of. Cheap to clone; pages are shared
/// with other snapshots.
#[derive(Clone, Debug)]
pub struct MemSnapshot {
    chunks: Vec<Arc<Chunk>>,
    table: Arc<Table>,
}

/// RAM and the page table.
#[derive(Debug)]
pub struct GuestMemory {
    endian: Endian,
    buf: Ram,
    len: usize,
    table: Arc<Table>,
    past: Past,
    epoch: u64,
    /// Physical ranges of which writes by the model are noted, and the notes.
    watched: Vec<std::ops::Range<u64>>,
    written: Vec<u64>,
}

/// Page table and dirty marks, lent to an emulator beside the RAM ([`GuestMemory::lend`]).
#[derive(Debug)]
pub struct Walker<'a> {
    table: &'a Table,
    /// Guarded pages are lent too.
    all: bool,
    len: usize,
    past: &'a mut Past,
}

impl<'a> Walker<'a> {
    /// Guarded pages are lent as well: for one access that was found right.
    #[must_use]
    pub fn with_guarded(self) -> Walker<'a> {
        Walker { all: true, ..self }
    }

    /// The page behind an address for an access to `ram` that will happen natively. A write marks
    /// the page; a page that is still clean is lent without `w`, so that its first write is seen.
    pub fn walk(&mut self, va: u64, access: Access, ram: &[u8]) -> Option<Pte> {
        if !self.all && self.table.is_guarded(va) {
            return None;
        }
        let mut pte = lookup(self.table, self.len, va)?;
        let page = (pte.phys >> PAGE_SHIFT) as usize;
        if access == Access::Write && pte.perms.w {
            self.past.mark(page, ram);
        }
        pte.perms.w &= self.past.dirty[page];
        Some(pte)
    }
}

fn pages_of(va: u64, len: u64) -> std::ops::RangeInclusive<u64> {
    va >> PAGE_SHIFT..=(va + len.max(1) - 1) >> PAGE_SHIFT
}

fn lookup(table: &Table, len: usize, va: u64) -> Option<Pte> {
    let phys = va.wrapping_sub(DIRECT_MAP);
    let linear = phys < len as u64;
    if !linear || table.on_direct_map > 0 {
        let entry = table.entries.get(&(va >> PAGE_SHIFT)).copied();
        if entry.is_some() || !linear {
            return entry;
        }
    }
    Some(Pte { phys: phys & !(PAGE_SIZE - 1), perms: Perms::RW })
}

/// The page table proper.
#[derive(Clone, Debug, Default)]
struct Table {
    entries: BTreeMap<u64, Pte>,
    /// Entries that stand for pages of the direct map: mostly none, so that it needs no search.
    on_direct_map: usize,
    /// Pages that native code may not look at unasked, with how often they were guarded.
    guarded: BTreeMap<u64, u32>,
    hash: OnceLock<u64>,
}

impl Table {
    fn is_guarded(&self, va: u64) -> bool {
        !self.guarded.is_empty() && self.guarded.contains_key(&(va >> PAGE_SHIFT))
    }

    fn hash(&self) -> u64 {
        *self.hash.get_or_init(|| {
            self.entries.iter().fold(0, |sum, (va, pte)| {
                let Perms { r, w, x } = pte.perms;
                let perms = u64::from(r) | u64::from(w) << 1 | u64::from(x) << 2;
                mixed(sum ^ mixed(*va) ^ pte.phys ^ perms)
            })
        })
    }

    fn insert(&mut self, va: u64, pte: Pte) {
        self.hash = OnceLock::new();
        let new = self.entries.insert(va >> PAGE_SHIFT, pte).is_none();
        self.on_direct_map += usize::from(new && (DIRECT_MAP..VMALLOC).contains(&va));
    }

    fn remove(&mut self, va: u64) -> bool {
        self.hash = OnceLock::new();
        let gone = self.entries.remove(&(va >> PAGE_SHIFT)).is_some();
        self.on_direct_map -= usize::from(gone && (DIRECT_MAP..VMALLOC).contains(&va));
        gone
    }
}

impl Clone for GuestMemory {
    fn clone(&self) -> GuestMemory {
        if self.len == 0 {
            return GuestMemory::empty(self.endian);
        }
        let mut m = GuestMemory::new(self.len as u64, self.endian);
        m.buf.copy_from_slice(&self.buf);
        m.table = Arc::clone(&self.table);
        m.past.clone_from(&self.past);
        m.epoch = self.epoch;
        m
    }
}

/// Zeroed pages of the host. Large ones where it has them: objects of many tasks, or rows of a
/// large map, are otherwise a TLB miss each.
#[derive(Default)]
struct Ram(Option<MmapMut>);

impl Ram {
    fn new(len: usize) -> Ram {
        let map = MmapMut::map_anon(len).expect("the host has memory for the guest");
        #[cfg(target_os = "linux")]
        // A host without them says so, and has small ones.
        let _ = map.advise(memmap2::Advice::HugePage);
        Ram(Some(map))
    }
}

impl std::ops::Deref for Ram {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl std::ops::DerefMut for Ram {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

/// Where it is differs from run to run.
impl std::fmt::Debug for Ram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

impl GuestMemory {
    /// Zeroed memory, rounded up to whole chunks of 1 MiB.
    #[must_use]
    pub fn new(bytes: u64, endian: Endian) -> GuestMemory {
        let chunk_bytes = (CHUNK * PAGE) as u64;
        let len = bytes.div_ceil(chunk_bytes).max(4) * chunk_bytes;
        let len = usize::try_from(len).expect("guest memory fits the host's address space");
        GuestMemory {
            endian,
            buf: Ram::new(len),
            len,
            table: Arc::default(),
            past: Past::new(len / PAGE),
            epoch: 0,
            watched: Vec::new(),
            written: Vec::new(),
        }
    }

    /// No memory at all: what is left in a kernel whose memory was taken out.
    #[must_use]
    pub fn empty(endian: Endian) -> GuestMemory {
        GuestMemory {
            endian,
            buf: Ram::default(),
            len: 0,
            table: Arc::default(),
            past: Past::default(),
            epoch: 0,
            watched: Vec::new(),
            written: Vec::new(),
        }
    }

    /// Byte order of the guest.
    #[must_use]
    pub fn endian(&self) -> Endian {
        self.endian
    }

    /// Bytes of RAM.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        self.len as u64
    }

    /// RAM, starting on a host page. Its host address is stable for the life of this value.
    #[must_use]
    pub fn ram(&self) -> &[u8] {
        &self.buf
    }

    /// Changes whenever a translation or the set of clean pages changed: cached translations
    /// made in an older epoch must be dropped.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Maps one page.
    pub fn map(&mut self, va: u64, phys: u64, perms: Perms) {
        assert!(va.is_multiple_of(PAGE_SIZE) && phys.is_multiple_of(PAGE_SIZE), "whole pages");
        assert!(phys < self.len as u64, "backed by RAM");
        assert!(!(perms.w && perms.x), "no page is writable and executable");
        Arc::make_mut(&mut self.table).insert(va, Pte { phys, perms });
        self.epoch += 1;
    }

    /// Unmaps one page; a page that is not mapped is fine.
    pub fn unmap(&mut self, va: u64) {
        if Arc::make_mut(&mut self.table).remove(va) {
            self.epoch += 1;
        }
    }

    /// Native accesses to the pages of a range fault from now on, so that each is looked at.
    pub fn guard(&mut self, va: u64, len: u64) {
        let table = Arc::make_mut(&mut self.table);
        for page in pages_of(va, len) {
            let times = table.guarded.entry(page).or_default();
            *times += 1;
            self.epoch += u64::from(*times == 1);
        }
    }

    /// Takes one [`GuestMemory::guard`] back.
    pub fn unguard(&mut self, va: u64, len: u64) {
        let table = Arc::make_mut(&mut self.table);
        for page in pages_of(va, len) {
            let Some(times) = table.guarded.get_mut(&page) else { continue };
            *times -= 1;
            if *times == 0 {
                table.guarded.remove(&page);
                self.epoch += 1;
            }
        }
    }

    /// Whether native accesses to a page are looked at.
    #[must_use]
    pub fn is_guarded(&self, va: u64) -> bool {
        self.table.is_guarded(va)
    }

    /// The page behind an address. An entry of the table wins over the direct map.
    #[must_use]
    pub fn translate(&self, va: u64) -> Option<Pte> {
        lookup(&self.table, self.len, va)
    }

    /// The physical address behind one.
    #[must_use]
    pub fn phys(&self, va: u64) -> Option<u64> {
        self.translate(va).map(|pte| pte.phys + va % PAGE_SIZE)
    }

    /// What is mapped, in order of address: ranges of pages, which may touch.
    #[must_use]
    pub fn mapped(&self) -> Vec<(std::ops::Range<u64>, Perms)> {
        let linear = (DIRECT_MAP..DIRECT_MAP + self.len as u64, Perms::RW);
        let page = |(va, pte): (&u64, &Pte)| {
            let va = *va << PAGE_SHIFT;
            (va..va + PAGE_SIZE, pte.perms)
        };
        let pages = self.table.entries.iter().map(page);
        let mut all: Vec<_> = pages.filter(|p| !linear.0.contains(&p.0.start)).collect();
        all.push(linear);
        all.sort_by_key(|p| p.0.start);
        all
    }

    /// RAM and, apart from it, what an emulator asks on a miss of its own TLB.
    pub fn lend(&mut self) -> (&mut [u8], Walker<'_>) {
        let walker = Walker { table: &self.table, all: false, len: self.len, past: &mut self.past };
        (&mut self.buf, walker)
    }

    /// Writes bytes of one page of RAM.
    fn put(&mut self, at: usize, data: &[u8]) {
        self.past.mark(at / PAGE, &self.buf);
        self.buf[at..at + data.len()].copy_from_slice(data);
        self.note_written(at as u64, data.len());
    }

    /// Whether a page was written since the last snapshot.
    #[must_use]
    pub fn is_dirty(&self, phys: u64) -> bool {
        self.past.dirty.get((phys >> PAGE_SHIFT) as usize).copied().unwrap_or(false)
    }

    /// Physical ranges behind `[va, va + len)`, checked for an access.
    fn walk(
        &self,
        va: u64,
        len: usize,
        access: Access,
        mut each: impl FnMut(usize, std::ops::Range<usize>),
    ) -> Result<(), MemFault> {
        let mut done = 0;
        while done < len {
            let at = va.wrapping_add(done as u64);
            let fault = MemFault { va: at, access };
            let pte = self.translate(at).ok_or(fault)?;
            let allowed = match access {
                Access::Read => pte.perms.r,
                Access::Write => pte.perms.w,
                Access::Fetch => pte.perms.x,
            };
            if !allowed {
                return Err(fault);
            }
            let in_page = (at & (PAGE_SIZE - 1)) as usize;
            let n = (PAGE - in_page).min(len - done);
            each(pte.phys as usize + in_page, done..done + n);
            done += n;
        }
        Ok(())
    }

    /// Reads bytes.
    pub fn read(&self, va: u64, out: &mut [u8]) -> Result<(), MemFault> {
        let ram = self.ram();
        self.walk(va, out.len(), Access::Read, |p, r| {
            let n = r.len();
            out[r].copy_from_slice(&ram[p..p + n]);
        })
    }

    /// Reads bytes into a new vector.
    pub fn read_vec(&self, va: u64, len: usize) -> Result<Vec<u8>, MemFault> {
        self.walk(va, len, Access::Read, |_, _| ())?;
        let mut out = vec![0; len];
        self.read(va, &mut out)?;
        Ok(out)
    }

    /// Writes bytes: the one function through which the model changes guest memory.
    /// Nothing is written when any byte would fault.
    pub fn write(&mut self, va: u64, data: &[u8]) -> Result<(), MemFault> {
        self.write_checked(va, data, Access::Write)
    }

    /// Writes kernel text or read-only data, as `text_poke` does: permissions are not asked.
    pub fn poke(&mut self, va: u64, data: &[u8]) -> Result<(), MemFault> {
        self.write_checked(va, data, Access::Read)
    }

    fn write_checked(&mut self, va: u64, data: &[u8], access: Access) -> Result<(), MemFault> {
        let in_page = (va & (PAGE_SIZE - 1)) as usize;
        if !data.is_empty() && in_page + data.len() <= PAGE {
            let mut at = 0;
            self.walk(va, data.len(), access, |p, _| at = p)?;
            self.put(at, data);
            return Ok(());
        }
        let mut spans = Vec::with_capacity(2);
        self.walk(va, data.len(), access, |p, r| spans.push((p, r)))?;
        for (p, r) in spans {
            self.put(p, &data[r]);
        }
        Ok(())
    }

    /// Writes by the model to physical ranges are noted from now on, for a debugger.
    pub fn watch(&mut self, ranges: Vec<std::ops::Range<u64>>) {
        self.watched = ranges;
        self.written.clear();
    }

    /// First physical addresses of what was written of the watched ranges since last asked.
    pub fn take_written(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.written)
    }

    fn note_written(&mut self, at: u64, len: usize) {
        let end = at + len as u64;
        let hit = self.watched.iter().find(|w| w.start < end && at < w.end);
        if let Some(w) = hit {
            self.written.push(at.max(w.start));
        }
    }

    /// Fills with one byte.
    pub fn fill(&mut self, va: u64, len: usize, byte: u8) -> Result<(), MemFault> {
        self.write(va, &vec![byte; len])
    }

    /// An unsigned number of 1, 2, 4 or 8 bytes in guest byte order.
    pub fn read_uint(&self, va: u64, size: u32) -> Result<u64, MemFault> {
        let mut b = [0u8; 8];
        let n = size as usize;
        self.read(va, &mut b[..n])?;
        Ok(match self.endian {
            Endian::Little => u64::from_le_bytes(b),
            Endian::Big => u64::from_be_bytes(b) >> (64 - 8 * size),
        })
    }

    /// Writes the low `size` bytes of a number in guest byte order.
    pub fn write_uint(&mut self, va: u64, size: u32, value: u64) -> Result<(), MemFault> {
        let n = size as usize;
        match self.endian {
            Endian::Little => self.write(va, &value.to_le_bytes()[..n]),
            Endian::Big => self.write(va, &value.to_be_bytes()[8 - n..]),
        }
    }

    /// One byte.
    pub fn read_u8(&self, va: u64) -> Result<u8, MemFault> {
        self.read_uint(va, 1).map(|v| v as u8)
    }

    /// Two bytes in guest byte order.
    pub fn read_u16(&self, va: u64) -> Result<u16, MemFault> {
        self.read_uint(va, 2).map(|v| v as u16)
    }

    /// Four bytes in guest byte order.
    pub fn read_u32(&self, va: u64) -> Result<u32, MemFault> {
        self.read_uint(va, 4).map(|v| v as u32)
    }

    /// Eight bytes in guest byte order.
    pub fn read_u64(&self, va: u64) -> Result<u64, MemFault> {
        self.read_uint(va, 8)
    }

    /// One byte.
    pub fn write_u8(&mut self, va: u64, v: u8) -> Result<(), MemFault> {
        self.write_uint(va, 1, v.into())
    }

    /// Two bytes in guest byte order.
    pub fn write_u16(&mut self, va: u64, v: u16) -> Result<(), MemFault> {
        self.write_uint(va, 2, v.into())
    }

    /// Four bytes in guest byte order.
    pub fn write_u32(&mut self, va: u64, v: u32) -> Result<(), MemFault> {
        self.write_uint(va, 4, v.into())
    }

    /// Eight bytes in guest byte order.
    pub fn write_u64(&mut self, va: u64, v: u64) -> Result<(), MemFault> {
        self.write_uint(va, 8, v)
    }

    /// Keeps the present contents. Nothing is copied before it is written again.
    pub fn snapshot(&mut self) -> MemSnapshot {
        self.past.settle();
        self.epoch += 1;
        MemSnapshot { chunks: self.past.saved.clone(), table: Arc::clone(&self.table) }
    }

    /// Hash of contents and translations: equal for equal memory, however it came about. Pages
    /// that were not written since the last hash or snapshot are not looked at again.
    pub fn hash(&mut self) -> u64 {
        self.past.settle();
        self.epoch += 1;
        let chunks = self.past.saved.iter().zip(self.buf.chunks_exact(CHUNK * PAGE));
        let ram = chunks.enumerate().fold(0, |sum: u64, (i, (chunk, ram))| match chunk.hash(ram) {
            0 => sum,
            hash => sum.wrapping_add(mixed(hash ^ mixed(!(i as u64)))),
        });
        mixed(ram ^ self.table.hash())
    }

    /// Goes back to a snapshot of this memory; pages that are the same are not touched.
    pub fn restore(&mut self, to: &MemSnapshot) {
        for (c, new) in to.chunks.iter().enumerate() {
            if Arc::ptr_eq(&self.past.saved[c], new) {
                continue;
            }
            for i in 0..CHUNK {
                let (old, new) = (&self.past.saved[c].pages[i], &new.pages[i]);
                let page = c * CHUNK + i;
                let same = old.as_ref().map(Arc::as_ptr) == new.as_ref().map(Arc::as_ptr);
                if !same && !self.past.dirty[page] {
                    self.past.keep(page, &self.buf);
                    self.put_page(page, to);
                }
            }
        }
        for page in std::mem::take(&mut self.past.dirty_list) {
            self.past.dirty[page as usize] = false;
            self.put_page(page as usize, to);
        }
        self.past.saved.clone_from(&to.chunks);
        self.table = Arc::clone(&to.table);
        self.epoch += 1;
    }

    fn put_page(&mut self, page: usize, from: &MemSnapshot) {
        let at = page * PAGE;
        let out = &mut self.buf[at..at + PAGE];
        match &from.chunks[page / CHUNK].pages[page % CHUNK] {
            Some(p) => out.copy_from_slice(p.bytes.get().expect("filled before RAM changed")),
            None => out.fill(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn byte_order_and_page_crossing() {
        for (endian, first) in [(Endian::Little, 0x88), (Endian::Big, 0x11)] {
            let mut m = GuestMemory::new(1 << 20, endian);
            let va = DIRECT_MAP + 0x1ffc;
            m.write_u64(va, 0x1122_3344_5566_7788).unwrap();
            assert_eq!(m.read_u64(va), Ok(0x1122_3344_5566_7788));
            assert_eq!(m.read_u8(va), Ok(first));
            assert!(m.is_dirty(0x1000) && m.is_dirty(0x2000) && !m.is_dirty(0x3000));
        }
    }

    #[test]
    fn a_faulting_write_changes_nothing() {
        let mut m = GuestMemory::new(1 << 20, Endian::Little);
        m.map(0x40_0000, 0x5000, Perms::RW);
        let va = 0x40_0ffc;
        let want = MemFault { va: 0x40_1000, access: Access::Write };
        assert_eq!(m.write_u64(va, !0), Err(want));
        assert_eq!(m.read_u32(va), Ok(0));
        m.map(0x40_1000, 0x7000, Perms::RO);
        assert_eq!(m.write_u64(va, !0), Err(want));
        assert_eq!(m.read_u64(va), Ok(0));
    }

    /// What is done to memory of four chunks: pages by number.
    #[derive(Clone, Debug)]
    enum Do {
        Write(u64, u8),
        Native(u64, u8),
        Keep,
        Back(usize),
        Drop(usize),
        Hash,
    }

    fn anything() -> impl Strategy<Value = Do> {
        let page = || 0u64..12;
        prop_oneof![
            4 => (page(), 0u8..3).prop_map(|(page, byte)| Do::Write(page, byte)),
            2 => (page(), 0u8..3).prop_map(|(page, byte)| Do::Native(page, byte)),
            2 => Just(Do::Keep),
            2 => (0usize..8).prop_map(Do::Back),
            1 => (0usize..8).prop_map(Do::Drop),
            1 => Just(Do::Hash),
        ]
    }

    /// Three pages in each chunk, the first and the last among them.
    fn at(page: u64) -> u64 {
        DIRECT_MAP + (page / 3 * CHUNK as u64 + [0, 7, 255][page as usize % 3]) * PAGE_SIZE
    }

    proptest! {
        #[test]
        fn snapshots_are_copies(all in proptest::collection::vec(anything(), 1..60)) {
            let mut m = GuestMemory::new(4 << 20, Endian::Big);
            let mut now = [0u8; 12];
            let mut kept: Vec<(MemSnapshot, [u8; 12])> = Vec::new();
            let mut hashes: BTreeMap<[u8; 12], u64> = BTreeMap::new();
            for each in all {
                match each {
                    Do::Write(page, byte) => {
                        m.write(at(page) + 9, &[byte]).unwrap();
                        now[page as usize] = byte;
                    }
                    Do::Native(page, byte) => {
                        // As an emulator does: what is dirty it has in its TLB.
                        let phys = (at(page) - DIRECT_MAP) as usize;
                        if !m.is_dirty(phys as u64) {
                            let before = m.ram().to_vec();
                            let pte = m.lend().1.walk(at(page), Access::Write, &before).unwrap();
                            prop_assert!(pte.perms.w);
                        }
                        m.lend().0[phys + 9] = byte;
                        now[page as usize] = byte;
                    }
                    Do::Keep => kept.push((m.snapshot(), now)),
                    Do::Back(n) => if let Some((to, then)) = kept.get(n) {
                        m.restore(to);
                        now = *then;
                    },
                    Do::Drop(n) => if n < kept.len() {
                        kept.remove(n);
                    },
                    Do::Hash => {
                        let hash = m.hash();
                        prop_assert_eq!(*hashes.entry(now).or_insert(hash), hash);
                    }
                }
                for (page, byte) in (0..).zip(now) {
                    prop_assert_eq!(m.read_u8(at(page) + 9), Ok(byte));
                }
            }
            let distinct: std::collections::BTreeSet<_> = hashes.values().collect();
            prop_assert_eq!(distinct.len(), hashes.len());
        }
    }

    #[test]
    fn equal_memory_has_one_hash_however_it_came_about() {
        let fresh = || GuestMemory::new(4 << 20, Endian::Little);
        let at = |i: u64| DIRECT_MAP + i * 0x1000;
        let (mut a, mut b) = (fresh(), fresh());
        let nothing = a.hash();
        a.write_u64(at(3), 7).unwrap();
        let three = a.hash();
        a.write_u64(at(300), 8).unwrap();
        b.write_u64(at(300), 8).unwrap();
        b.write_u64(at(9), 1).unwrap();
        assert_ne!(a.hash(), b.hash());
        b.write_u64(at(9), 0).unwrap();
        b.write_u64(at(3), 7).unwrap();
        assert_eq!(a.hash(), b.hash());
        b.write_u64(at(300), 0).unwrap();
        assert_eq!(b.hash(), three);
        let mut moved = fresh();
        moved.write_u64(at(4), 7).unwrap();
        assert!(![three, nothing].contains(&moved.hash()));
        b.map(0x40_0000, 0x3000, Perms::RO);
        assert_ne!(b.hash(), three);
    }
}
