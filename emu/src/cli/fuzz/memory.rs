//! What a program may touch while it runs in the interpreter.
//!
//! ```text
//!  0xffff_9000_0000_0000 + n << 32   region n: its base is in the middle of 4 GiB, so that a
//!                                    pointer that left it still says where it came from
//! ```

use bpf::insn::Size;
use bpf::insn::generate::Rng;
use bpf::uapi::ProgType;

/// Number of the first region.
const BASE: u64 = 0xffff_9000_0000_0000;
/// Where a region's base lies.
const MIDDLE: u64 = 1 << 31;
/// Bytes of all frames of a program.
pub(super) const STACK: i64 = 8 * 512;
/// Bytes of a context: more than any has, which accesses are allowed is the verifier's table.
const CTX: usize = 1024;

/// What a region is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// All frames; the base is the outermost frame pointer.
    Stack,
    /// The context.
    Ctx,
    /// A packet; the base is its first byte, before it is the metadata.
    Packet,
    /// `struct bpf_map`, by the map's id.
    Map(u32),
    /// An element of a map.
    Value(u32),
    /// A key that a callback is given.
    Key(u32),
    /// Memory of a size of its own: a ring buffer record, an iterator's number.
    Mem,
}

/// Memory in one piece.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) kind: Kind,
    /// Offset of the first byte.
    pub(super) low: i64,
    bytes: Vec<u8>,
    pub(super) writable: bool,
    /// A region that was given back stays, so that its pointers are told.
    pub(super) gone: bool,
}

impl Region {
    /// Offset behind the last byte.
    pub(super) fn end(&self) -> i64 {
        self.low + self.bytes.len() as i64
    }
}

/// An access that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) addr: u64,
    pub(super) size: u64,
    pub(super) write: bool,
}

/// All regions of a run.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    pub(super) rng: Rng,
    regions: Vec<Region>,
    pub(super) ty: ProgType,
    /// The current packet.
    packet: usize,
}

/// Index of the stack.
const STACK_AT: usize = 0;
/// Index of the context.
const CTX_AT: usize = 1;

impl Memory {
    /// Stack, context and a packet, filled with anything. `secret`: what is on the stack before it
    /// is written looks like addresses.
    pub(super) fn new(mut rng: Rng, ty: ProgType, secret: bool) -> Memory {
        let mut m = Memory { rng: rng.clone(), regions: Vec::new(), ty, packet: 0 };
        m.add(Kind::Stack, -STACK, STACK as usize, true);
        m.add(Kind::Ctx, 0, CTX, true);
        if secret {
            let words = m.regions[STACK_AT].bytes.chunks_exact_mut(8);
            words.for_each(|w| w.copy_from_slice(&address(CTX_AT, 0).to_le_bytes()));
        }
        m.rng = Rng(rng.next_u64());
        m.new_packet();
        m
    }

    /// A new region; its base address.
    pub(super) fn add(&mut self, kind: Kind, low: i64, len: usize, writable: bool) -> u64 {
        let bytes = (0..len).map(|_| self.rng.next_u64() as u8).collect();
        self.regions.push(Region { kind, low, bytes, writable, gone: false });
        address(self.regions.len() - 1, 0)
    }

    /// A packet of another length at another place: pointers to the old one are no good.
    pub(super) fn new_packet(&mut self) {
        if let Some(old) = self.regions.get_mut(self.packet).filter(|r| r.kind == Kind::Packet) {
            old.gone = true;
        }
        let len = self.rng.pick(&[0usize, 1, 8, 13, 14, 15, 34, 64, 200]);
        let meta = self.rng.pick(&[0usize, 0, 4, 32]);
        // A socket filter's packet is not its own to write.
        let writable = self.ty != ProgType::SocketFilter;
        self.add(Kind::Packet, -(meta as i64), len + meta, writable);
        self.packet = self.regions.len() - 1;
    }

    /// The address of the context.
    pub(super) fn ctx(&self) -> u64 {
        address(CTX_AT, 0)
    }

    /// The outermost frame pointer.
    pub(super) fn stack_top(&self) -> u64 {
        address(STACK_AT, 0)
    }

    /// The current packet: metadata, first byte, end.
    pub(super) fn packet(&self) -> [u64; 3] {
        let r = &self.regions[self.packet];
        [r.low, 0, r.end()].map(|off| address(self.packet, off))
    }

    /// The region an address belongs to, and its offset there.
    pub(super) fn place(&self, addr: u64) -> Option<(&Region, i64)> {
        let n = addr.checked_sub(BASE)? >> 32;
        let region = self.regions.get(usize::try_from(n).ok()?)?;
        Some((region, (addr & 0xffff_ffff) as i64 - MIDDLE as i64))
    }

    /// Gives a region back.
    pub(super) fn free(&mut self, addr: u64) -> bool {
        let n = addr.wrapping_sub(BASE) >> 32;
        match self.regions.get_mut(n as usize).filter(|r| !r.gone && r.kind == Kind::Mem) {
            Some(r) => {
                r.gone = true;
                true
            }
            None => false,
        }
    }

    /// Looks like an address of this kernel.
    pub(super) fn is_address(&self, value: u64) -> bool {
        self.place(value).is_some()
    }

    /// The bytes of an access.
    pub(super) fn bytes(&mut self, addr: u64, size: u64, write: bool) -> Result<&mut [u8], Bad> {
        let bad = Bad { addr, size, write };
        let n = addr.checked_sub(BASE).ok_or_else(|| bad.clone())? >> 32;
        let off = (addr & 0xffff_ffff) as i64 - MIDDLE as i64;
        let region = usize::try_from(n).ok().and_then(|n| self.regions.get_mut(n));
        let region = region.filter(|r| !r.gone && (r.writable || !write));
        let region = region.ok_or_else(|| bad.clone())?;
        let at = usize::try_from(off - region.low).map_err(|_| bad.clone())?;
        let size = usize::try_from(size).map_err(|_| bad.clone())?;
        let end = at.checked_add(size).ok_or_else(|| bad.clone())?;
        region.bytes.get_mut(at..end).ok_or(bad)
    }

    /// A little-endian number of up to eight bytes.
    pub(super) fn number(&mut self, addr: u64, size: u64) -> Result<u64, Bad> {
        let bytes = self.bytes(addr, size, false)?;
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        Ok(u64::from_le_bytes(word))
    }

    /// Offsets in the context of the pointers to the packet: first byte, end, metadata.
    fn packet_fields(&self) -> Option<[i64; 3]> {
        match self.ty {
            ProgType::Xdp => Some([0, 4, 8]),
            ProgType::SkMsg => Some([0, 8, -1]),
            _ if is_skb(self.ty) => Some([76, 80, 140]),
            _ => None,
        }
    }

    /// Whether the context has pointers to a packet.
    pub(super) fn has_packet(&self) -> bool {
        self.packet_fields().is_some()
    }

    /// A field of the context: pointers into the packet, otherwise any number.
    pub(super) fn field(&mut self, off: i64, size: Size) -> u64 {
        let [meta, data, end] = self.packet();
        let fields = self.packet_fields().unwrap_or([-1; 3]);
        let fields = fields.into_iter().zip([data, end, meta]);
        let found = fields.into_iter().find(|f| f.0 == off && size >= Size::W);
        let any = self.rng.imm64() >> (64 - 8 * size.bytes());
        found.map_or(any, |f| f.1)
    }
}

/// Program types whose context is a `struct __sk_buff`.
fn is_skb(ty: ProgType) -> bool {
    use ProgType as P;
    let known = [P::SchedCls, P::SchedAct, P::CgroupSkb, P::LwtIn, P::LwtOut, P::LwtXmit, P::SkSkb];
    known.contains(&ty)
}

fn address(region: usize, off: i64) -> u64 {
    (BASE + ((region as u64) << 32) + MIDDLE).wrapping_add_signed(off)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_have_ends() {
        let mut m = Memory::new(Rng(1), ProgType::Xdp, true);
        let a = m.add(Kind::Value(1), 0, 32, true);
        assert!(m.bytes(a, 32, true).is_ok());
        assert!(m.bytes(a, 33, true).is_err() && m.bytes(a - 1, 1, false).is_err());
        assert_eq!(m.place(a - 5).map(|p| p.1), Some(-5));
        let top = m.stack_top();
        let word = m.number(top - 8, 8).unwrap();
        assert!(m.is_address(word));
        assert!(m.bytes(top, 1, false).is_err());
        let [meta, data, end] = m.packet();
        assert!(meta <= data && data <= end);
        m.new_packet();
        assert!(meta == end || m.bytes(meta, end - meta, false).is_err());
        let r = m.add(Kind::Mem, 0, 8, true);
        assert!(m.free(r) && !m.free(r) && m.bytes(r, 1, false).is_err());
    }
}
