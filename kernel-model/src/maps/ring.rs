//! Ring buffers (kernel/bpf/ringbuf.c): records with an eight-byte header in memory that is
//! mapped twice in a row, so that a record never wraps.

use bpf::uapi::MapType;

use super::{Kind, MapId};
use crate::layout::{PAGE_SIZE, VMALLOC_OBJECTS};
use crate::ledger::Kind as Held;
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
    /// User space produces.
    user: bool,
    /// A program takes samples (user ring buffers).
    busy: bool,
}

/// What `__bpf_user_ringbuf_peek` finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peek {
    /// A sample: its address and size.
    Sample(u64, u32),
    /// User space discarded the next one; it is behind now.
    Discarded,
    /// Nothing that is complete.
    Empty,
}

/// What a record of a ring is to its consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordState {
    /// Reserved, not submitted.
    Busy,
    /// It can be read.
    Ready,
    /// It is passed over.
    Discarded,
}

/// A record that the consumer has not come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Address of its data.
    pub addr: u64,
    /// Bytes of data.
    pub len: u32,
    /// State.
    pub state: RecordState,
}

/// A ring as it is: sizes and positions in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingState {
    /// Of the data area.
    pub size: u64,
    /// Where the next record goes.
    pub producer: u64,
    /// Where the consumer is.
    pub consumer: u64,
    /// Records between the two.
    pub records: Vec<Record>,
}

impl Ring {
    pub(super) fn new(k: &mut Kernel, size: u64, user: bool) -> Result<Ring, Errno> {
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
        Ok(Ring { data, size, producer: 0, consumer: 0, user, busy: false })
    }

    /// `bpf_ringbuf_free`.
    pub(crate) fn free(&self, k: &mut Kernel) {
        let phys = k.mem.translate(self.data).expect("rings are mapped").phys;
        for off in (0..2 * self.size).step_by(PAGE_SIZE as usize) {
            k.mem.unmap(self.data + off);
        }
        k.alloc.free_pages(phys, self.size / PAGE_SIZE);
    }
}

impl Kernel {
    /// A ring as it is, when the map is one.
    #[must_use]
    pub fn ring_state(&self, id: MapId) -> Option<RingState> {
        let Some(Kind::Ring(ring)) = self.maps.get(&id).map(|m| &m.kind) else { return None };
        let (mut at, mut records) = (ring.consumer, Vec::new());
        while at < ring.producer {
            let record = ring.data + (at & (ring.size - 1));
            let Ok(word) = self.mem.read_u32(record) else { break };
            let state = match word & (BUSY | DISCARD) {
                0 => RecordState::Ready,
                DISCARD => RecordState::Discarded,
                _ => RecordState::Busy,
            };
            let len = word & !(BUSY | DISCARD);
            records.push(Record { addr: record + HEADER, len, state });
            at += (u64::from(len) + HEADER).next_multiple_of(8);
        }
        let Ring { size, producer, consumer, .. } = *ring;
        Some(RingState { size, producer, consumer, records })
    }

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
        self.ledger.release(Held::RingbufRecord, record);
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

    /// What is wrong with a ring: lengths that lead past what was reserved, records that nobody
    /// will commit.
    pub(super) fn ring_damage(&self, ring: &Ring) -> Option<String> {
        let mut at = ring.consumer;
        while at < ring.producer {
            let record = ring.data + (at & (ring.size - 1));
            let word = self.mem.read_u32(record).ok()?;
            // A user ring buffer is what user space makes of it.
            let its = self.ledger.holds(Held::RingbufRecord, record + HEADER);
            if word & BUSY != 0 && !its && !ring.user {
                return Some(format!("record {:#x} is reserved by nobody", record + HEADER));
            }
            at += (u64::from(word & !(BUSY | DISCARD)) + HEADER).next_multiple_of(8);
        }
        (at != ring.producer && !ring.user).then(|| "its records do not end with it".to_owned())
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

    /// User space puts a sample into a user ring buffer, as `user_ring_buffer__reserve` and
    /// `user_ring_buffer__submit` of libbpf do.
    ///
    /// # Errors
    /// `E2BIG` when it can never fit, `ENOSPC` when there is no room now, `EINVAL` for other maps.
    pub fn user_ring_put(&mut self, id: MapId, sample: &[u8]) -> Result<(), Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        if map.def.map_type != MapType::UserRingbuf {
            return Err(Errno::EINVAL);
        }
        let ring = self.ring_mut(id).ok_or(Errno::EINVAL)?;
        let total = (sample.len() as u64 + HEADER).next_multiple_of(8);
        if total > ring.size {
            return Err(Errno::E2BIG);
        }
        if total > ring.size - (ring.producer - ring.consumer) {
            return Err(Errno::ENOSPC);
        }
        let at = ring.data + (ring.producer & (ring.size - 1));
        ring.producer += total;
        self.mem.write_u32(at, sample.len() as u32).expect("rings are mapped");
        self.mem.write_u32(at + 4, 0).expect("rings are mapped");
        self.mem.write(at + HEADER, sample).expect("rings are mapped twice");
        Ok(())
    }

    /// A program begins to take samples.
    ///
    /// # Errors
    /// `EBUSY` while another does.
    pub(crate) fn user_ring_lock(&mut self, id: MapId) -> Result<(), Errno> {
        let ring = self.ring_mut(id).ok_or(Errno::EINVAL)?;
        if std::mem::replace(&mut ring.busy, true) { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// It ends.
    pub(crate) fn user_ring_unlock(&mut self, id: MapId) {
        if let Some(ring) = self.ring_mut(id) {
            ring.busy = false;
        }
    }

    /// `__bpf_user_ringbuf_peek`: what user space wrote is not trusted.
    pub(crate) fn user_ring_peek(&mut self, id: MapId) -> Result<Peek, Errno> {
        let ring = self.ring_mut(id).ok_or(Errno::EINVAL)?;
        let (producer, consumer) = (ring.producer, ring.consumer);
        let (data, size) = (ring.data, ring.size);
        if !producer.is_multiple_of(8) {
            return Err(Errno::EINVAL);
        }
        if consumer >= producer {
            return Ok(Peek::Empty);
        }
        let at = data + (consumer & (size - 1));
        let word = self.mem.read_u32(at).expect("rings are mapped");
        let len = word & !(BUSY | DISCARD);
        let total = (u64::from(len) + HEADER).next_multiple_of(8);
        if total > producer - consumer {
            return Err(Errno::EINVAL);
        }
        if total > size || len > crate::helpers::DYNPTR_MAX_SIZE {
            return Err(Errno::E2BIG);
        }
        if word & DISCARD != 0 {
            self.user_ring_release(id, len);
            return Ok(Peek::Discarded);
        }
        if word & BUSY != 0 {
            return Ok(Peek::Empty);
        }
        Ok(Peek::Sample(data + ((consumer + HEADER) & (size - 1)), len))
    }

    /// The room of a sample is user space's again.
    pub(crate) fn user_ring_release(&mut self, id: MapId, len: u32) {
        if let Some(ring) = self.ring_mut(id) {
            ring.consumer += (u64::from(len) + HEADER).next_multiple_of(8);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::maps::MapDef;

    fn ring() -> (Kernel, MapId) {
        let mut k = Kernel::new(Config::default());
        let map_type = MapType::UserRingbuf;
        let def = MapDef { map_type, max_entries: 4096, ..MapDef::default() };
        let id = k.map_create(def, None).unwrap();
        (k, id)
    }

    #[test]
    fn what_user_space_wrote_is_checked_before_a_program_sees_it() {
        let (mut k, id) = ring();
        let put = |k: &mut Kernel, word: u32| {
            let Ring { data, producer, .. } = *k.ring_mut(id).unwrap();
            k.user_ring_put(id, b"sample").unwrap();
            k.mem.write_u32(data + (producer & 4095), word).unwrap();
        };
        assert_eq!(k.user_ring_peek(id), Ok(Peek::Empty));
        put(&mut k, 6 | DISCARD);
        put(&mut k, 6 | BUSY);
        assert_eq!(k.user_ring_peek(id), Ok(Peek::Discarded));
        assert_eq!(k.user_ring_peek(id), Ok(Peek::Empty));
        k.user_ring_release(id, 6);
        put(&mut k, 9);
        assert_eq!(k.user_ring_peek(id), Err(Errno::EINVAL));
        k.ring_mut(id).unwrap().producer += 4096;
        let at = k.ring_mut(id).unwrap().data + 32;
        k.mem.write_u32(at, 4089).unwrap();
        assert_eq!(k.user_ring_peek(id), Err(Errno::E2BIG));
        k.ring_mut(id).unwrap().producer += 1;
        assert_eq!(k.user_ring_peek(id), Err(Errno::EINVAL));
    }

    #[test]
    fn a_sample_that_has_no_room_is_refused_and_one_at_the_end_is_in_one_piece() {
        let (mut k, id) = ring();
        assert_eq!(k.user_ring_put(id, &[1; 4089]), Err(Errno::E2BIG));
        assert_eq!(k.user_ring_put(id, &[1; 4080]), Ok(()));
        assert_eq!(k.user_ring_put(id, &[2; 8]), Err(Errno::ENOSPC));
        k.user_ring_release(id, 4080);
        assert_eq!(k.user_ring_put(id, &[2; 40]), Ok(()));
        let Ok(Peek::Sample(at, 40)) = k.user_ring_peek(id) else { panic!() };
        assert_eq!(k.mem.read_vec(at, 40).unwrap(), [2; 40]);
    }
}
