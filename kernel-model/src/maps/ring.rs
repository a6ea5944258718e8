//! Ring buffers (kernel/bpf/ringbuf.c): records with an eight-byte header in memory that is
//! mapped twice in a row, so that a record never wraps.

use super::{Kind, MapId};
use crate::layout::{PAGE_SIZE, VMALLOC_OBJECTS};
use crate::mem::Perms;
use crate::{CpuId, Errno, EventKind, Kernel};

/// Record is reserved but not committed.
const BUSY: u32 = 1 << 31;
/// Record is to be skipped.
const DISCARD: u32 = 1 << 30;
/// Bytes of a record's header: length and page offset.
const HEADER: u64 = 8;

/// Positions of a ring; the data is in guest memory.
#[derive(Clone, Debug)]
pub(crate) struct Ring {
    data: u64,
    size: u64,
    /// Bytes ever reserved.
    producer: u64,
    /// Bytes ever consumed.
    consumer: u64,
}

impl Ring {
    pub(super) fn new(k: &mut Kernel, size: u64) -> Result<Ring, Errno> {
        if size > k.mem.ram_bytes() {
            return Err(Errno::ENOMEM);
        }
        let pages = size / PAGE_SIZE;
        let phys = k.alloc.pages(&mut k.mem, pages).ok_or(Errno::ENOMEM)?;
        let data = k.next_vmalloc.max(VMALLOC_OBJECTS);
        for half in 0..2 {
            for page in 0..pages {
                let off = page * PAGE_SIZE;
                k.mem.map(data + half * size + off, phys + off, Perms::RW);
            }
        }
        // One unmapped page behind.
        k.next_vmalloc = data + 2 * size + PAGE_SIZE;
        Ok(Ring { data, size, producer: 0, consumer: 0 })
    }
}

impl Kernel {
    fn ring_mut(&mut self, id: MapId) -> Option<&mut Ring> {
        match self.maps.get_mut(&id).map(|m| &mut m.kind) {
            Some(Kind::Ring(ring)) => Some(ring),
            _ => None,
        }
    }

    /// `__bpf_ringbuf_reserve`: address of the record, 0 when there is no room.
    pub(crate) fn ring_reserve(&mut self, id: MapId, len: u64) -> u64 {
        let Some(ring) = self.ring_mut(id) else { return 0 };
        // RINGBUF_MAX_RECORD_SZ is a quarter of the u32 range.
        if len > u64::from(u32::MAX / 4) {
            return 0;
        }
        let total = (len + HEADER).next_multiple_of(8);
        if total > ring.size || ring.producer + total - ring.consumer > ring.size {
            return 0;
        }
        let at = ring.data + (ring.producer & (ring.size - 1));
        let page = (at - ring.data) / PAGE_SIZE + 1;
        ring.producer += total;
        let header = [(at, len as u32 | BUSY), (at + 4, page as u32)];
        for (at, word) in header {
            self.mem.write_u32(at, word).expect("rings are mapped");
        }
        at + HEADER
    }

    /// `bpf_ringbuf_submit` and `bpf_ringbuf_discard` of a record.
    pub(crate) fn ring_commit(&mut self, cpu: CpuId, record: u64, discard: bool) {
        let at = record - HEADER;
        let Ok(word) = self.mem.read_u32(at) else { return };
        let len = word & !(BUSY | DISCARD);
        let flag = if discard { DISCARD } else { 0 };
        self.mem.write_u32(at, len | flag).expect("rings are mapped");
        if discard {
            return;
        }
        let owner = self.maps.values().find(|m| match &m.kind {
            Kind::Ring(r) => (r.data..r.data + 2 * r.size).contains(&at),
            _ => false,
        });
        if let Some(map) = owner.map(|m| m.id) {
            let data = self.mem.read_vec(record, len as usize).unwrap_or_default();
            self.emit(cpu, EventKind::Record { map, data });
        }
    }

    /// User space takes the next committed record.
    pub fn ring_consume(&mut self, id: MapId) -> Option<Vec<u8>> {
        loop {
            let ring = self.ring_mut(id)?;
            if ring.consumer == ring.producer {
                return None;
            }
            let at = ring.data + (ring.consumer & (ring.size - 1));
            let word = self.mem.read_u32(at).ok()?;
            if word & BUSY != 0 {
                return None;
            }
            let len = u64::from(word & !DISCARD);
            let ring = self.ring_mut(id)?;
            ring.consumer += (len + HEADER).next_multiple_of(8);
            if word & DISCARD == 0 {
                return self.mem.read_vec(at + HEADER, len as usize).ok();
            }
        }
    }

    /// `bpf_ringbuf_query`.
    pub(crate) fn ring_query(&mut self, id: MapId, what: u64) -> u64 {
        let Some(ring) = self.ring_mut(id) else { return 0 };
        match what {
            0 => ring.producer - ring.consumer,
            1 => ring.size,
            2 => ring.consumer,
            3 => ring.producer,
            _ => 0,
        }
    }
}
