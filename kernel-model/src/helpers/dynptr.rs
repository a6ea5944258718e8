//! Dynamic pointers: memory with a size that is known at run time (kernel/bpf/helpers.c,
//! ringbuf.c). `struct bpf_dynptr_kern` lies where the program has it.

use super::{HelperRow, Ret, net, skb};
use crate::cpu::{CpuId, Fault};
use crate::ledger::Kind;
use crate::mem::MemFault;
use crate::{Errno, EventKind, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 197, name: "dynptr_from_mem", nargs: 4, body: from_mem },
    HelperRow { id: 198, name: "ringbuf_reserve_dynptr", nargs: 4, body: ringbuf_reserve },
    HelperRow { id: 199, name: "ringbuf_submit_dynptr", nargs: 2, body: ringbuf_submit },
    HelperRow { id: 200, name: "ringbuf_discard_dynptr", nargs: 2, body: ringbuf_discard },
    HelperRow { id: 201, name: "dynptr_read", nargs: 5, body: read },
    HelperRow { id: 202, name: "dynptr_write", nargs: 5, body: write },
    HelperRow { id: 203, name: "dynptr_data", nargs: 3, body: data },
];

/// `DYNPTR_SIZE_MASK`, which is also `DYNPTR_MAX_SIZE`.
pub(crate) const MAX_SIZE: u32 = 0xff_ffff;
/// `DYNPTR_TYPE_SHIFT`.
const TYPE_SHIFT: u32 = 28;
/// `DYNPTR_RDONLY_BIT`.
pub(crate) const RDONLY: u32 = 1 << 31;
/// `sizeof(struct bpf_dynptr_kern)`.
pub(crate) const BYTES: u64 = 16;

/// `enum bpf_dynptr_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// Memory of the program, or a sample of a user ring buffer.
    Local = 1,
    /// A reserved record.
    Ringbuf = 2,
    /// The bytes of an sk_buff, wherever they are.
    Skb = 3,
    /// The bytes of a frame in a driver.
    Xdp = 4,
    /// What XDP left in front of an sk_buff.
    SkbMeta = 5,
}

impl Type {
    fn of(word: u32) -> Option<Type> {
        let all = [Type::Local, Type::Ringbuf, Type::Skb, Type::Xdp, Type::SkbMeta];
        all.into_iter().find(|t| *t as u32 == (word & !RDONLY) >> TYPE_SHIFT)
    }

    /// Its data is an sk_buff or `xdp_buff`, not memory.
    pub(crate) fn is_packet(self) -> bool {
        matches!(self, Type::Skb | Type::Xdp | Type::SkbMeta)
    }
}

/// A dynptr as read from memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dynptr {
    /// Kind.
    pub(crate) kind: Type,
    /// Memory, or the packet's object.
    pub(crate) data: u64,
    /// Bytes.
    pub(crate) size: u32,
    /// Where they begin.
    pub(crate) offset: u32,
    /// They cannot be written.
    pub(crate) rdonly: bool,
}

impl Dynptr {
    /// `bpf_dynptr_check_off_len`, then the position from the start of the memory or packet.
    pub(crate) fn check(&self, offset: u32, len: u32) -> Result<u64, Errno> {
        match len <= self.size && offset <= self.size - len {
            true => Ok(u64::from(self.offset) + u64::from(offset)),
            false => Err(Errno::E2BIG),
        }
    }
}

impl Kernel {
    /// `bpf_dynptr_init`.
    pub(crate) fn dynptr_init(
        &mut self,
        ptr: u64,
        data: u64,
        ty: Type,
        size: u32,
    ) -> Result<(), MemFault> {
        let member = |f: crate::types::Field| ptr + u64::from(f.off);
        self.mem.write_u64(member(field!("bpf_dynptr_kern", "data")), data)?;
        let word = size | (ty as u32) << TYPE_SHIFT;
        self.mem.write_u32(member(field!("bpf_dynptr_kern", "size")), word)?;
        self.mem.write_u32(member(field!("bpf_dynptr_kern", "offset")), 0)
    }

    /// `bpf_dynptr_set_null`.
    pub(crate) fn dynptr_clear(&mut self, ptr: u64) -> Result<(), MemFault> {
        self.mem.fill(ptr, BYTES as usize, 0)
    }

    /// `None` for one without data.
    pub(crate) fn dynptr(&self, ptr: u64) -> Result<Option<Dynptr>, Fault> {
        let member = |f: crate::types::Field| ptr + u64::from(f.off);
        let data = self.mem.read_u64(member(field!("bpf_dynptr_kern", "data")))?;
        let word = self.mem.read_u32(member(field!("bpf_dynptr_kern", "size")))?;
        let offset = self.mem.read_u32(member(field!("bpf_dynptr_kern", "offset")))?;
        if data == 0 {
            return Ok(None);
        }
        let Some(kind) = Type::of(word) else {
            return Err(Fault::unsupported("a dynptr of another kind"));
        };
        let (size, rdonly) = (word & MAX_SIZE, word & RDONLY != 0);
        Ok(Some(Dynptr { kind, data, size, offset, rdonly }))
    }
}

/// Copies out of a dynptr (`__bpf_dynptr_read`).
pub(crate) fn copy_from(
    k: &mut Kernel,
    src: &Dynptr,
    at: u64,
    to: u64,
    len: u32,
) -> Result<Result<u64, Errno>, Fault> {
    match src.kind {
        Type::Local | Type::Ringbuf => memmove(k, to, src.data + at, len).map(Ok),
        Type::SkbMeta => memmove(k, to, skb_meta(k, src.data) + at, len).map(Ok),
        Type::Skb => outcome(skb::load_at(k, src.data, 0, at as u32, to, len)),
        Type::Xdp => outcome(net::xdp_copy(k, src.data, (at, len.into()), to, false)),
    }
}

/// Copies into a dynptr (`__bpf_dynptr_write`).
pub(crate) fn copy_to(
    k: &mut Kernel,
    dst: &Dynptr,
    at: u64,
    from: u64,
    len: u32,
    flags: u64,
) -> Result<Result<u64, Errno>, Fault> {
    match dst.kind {
        Type::Skb => outcome(skb::store_at(k, dst.data, at, from, len.into(), flags)),
        _ if flags != 0 => Ok(Err(Errno::EINVAL)),
        Type::Xdp => outcome(net::xdp_copy(k, dst.data, (at, len.into()), from, true)),
        Type::Local | Type::Ringbuf => memmove(k, dst.data + at, from, len).map(Ok),
        Type::SkbMeta => memmove(k, skb_meta(k, dst.data) + at, from, len).map(Ok),
    }
}

/// `skb_metadata_end - skb_metadata_len`.
pub(crate) fn skb_meta(k: &Kernel, skb: u64) -> u64 {
    let len = k.get(k.skb_shared(skb), field!("skb_shared_info", "meta_len"));
    let head = k.get(skb, field!("sk_buff", "head"));
    head + k.get(skb, field!("sk_buff", "mac_header")) - len
}

/// What another helper's body came to.
fn outcome(r: Ret) -> Result<Result<u64, Errno>, Fault> {
    match r {
        Ret::Val(v) if (v.cast_signed()) < 0 => {
            let errno = i32::try_from(-v.cast_signed()).ok().and_then(Errno::from_raw);
            Ok(Err(errno.unwrap_or(Errno::EINVAL)))
        }
        Ret::Val(v) => Ok(Ok(v)),
        Ret::Fault(fault) => Err(fault),
        Ret::Frame(_) => Err(Fault::unsupported("a dynptr that calls back")),
    }
}

fn done(r: Result<Result<u64, Errno>, Fault>) -> Ret {
    match r {
        Ok(r) => r.into(),
        Err(fault) => Ret::Fault(fault),
    }
}

/// A dynptr without data, for a helper that fails.
fn null(k: &mut Kernel, ptr: u64, e: Errno) -> Result<Result<u64, Errno>, Fault> {
    k.dynptr_clear(ptr)?;
    Ok(Err(e))
}

fn from_mem(k: &mut Kernel, _: CpuId, [data, size, flags, ptr, _]: [u64; 5]) -> Ret {
    let size = size as u32;
    let make = |k: &mut Kernel| {
        if size > MAX_SIZE {
            return null(k, ptr, Errno::E2BIG);
        }
        if flags != 0 {
            return null(k, ptr, Errno::EINVAL);
        }
        k.dynptr_init(ptr, data, Type::Local, size)?;
        Ok(Ok(0))
    };
    done(make(k))
}

fn read(k: &mut Kernel, _: CpuId, [to, len, ptr, offset, flags]: [u64; 5]) -> Ret {
    let (len, offset) = (len as u32, offset as u32);
    let copy = |k: &mut Kernel| {
        let src = match k.dynptr(ptr)? {
            Some(src) if flags == 0 => src,
            _ => return Ok(Err(Errno::EINVAL)),
        };
        match src.check(offset, len) {
            Ok(at) => copy_from(k, &src, at, to, len),
            Err(e) => Ok(Err(e)),
        }
    };
    done(copy(k))
}

fn write(k: &mut Kernel, _: CpuId, [ptr, offset, from, len, flags]: [u64; 5]) -> Ret {
    let (len, offset) = (len as u32, offset as u32);
    let copy = |k: &mut Kernel| {
        let dst = match k.dynptr(ptr)? {
            Some(dst) if !dst.rdonly => dst,
            _ => return Ok(Err(Errno::EINVAL)),
        };
        // Bounds come before flags.
        match dst.check(offset, len) {
            Ok(at) => copy_to(k, &dst, at, from, len, flags),
            Err(e) => Ok(Err(e)),
        }
    };
    done(copy(k))
}

/// The two may overlap. Nothing is touched when there is nothing to copy.
fn memmove(k: &mut Kernel, to: u64, from: u64, len: u32) -> Result<u64, Fault> {
    if len > 0 {
        let bytes = k.mem.read_vec(from, len as usize)?;
        k.mem.write(to, &bytes)?;
    }
    Ok(0)
}

fn data(k: &mut Kernel, _: CpuId, [ptr, offset, len, ..]: [u64; 5]) -> Ret {
    match k.dynptr(ptr) {
        Ok(Some(p)) if !p.rdonly && !p.kind.is_packet() => {
            let at = p.check(offset as u32, len as u32);
            Ret::Val(at.map_or(0, |at| p.data + at))
        }
        Ok(_) => Ret::Val(0),
        Err(fault) => Ret::Fault(fault),
    }
}

fn ringbuf_reserve(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    // Without the ring's lock there is no record, as when there is no room.
    if let Err(fault) = null(k, args[3], Errno::EINVAL) {
        return Ret::Fault(fault);
    }
    let call = ("bpf_ringbuf_reserve_dynptr", args);
    super::map::in_ring(k, cpu, call, (reserve_now, Errno::EINVAL.ret()))
}

fn reserve_now(k: &mut Kernel, cpu: CpuId, [map, size, flags, ptr, _]: [u64; 5]) -> Ret {
    let size = size as u32;
    let reserve = |k: &mut Kernel| {
        if flags != 0 {
            return null(k, ptr, Errno::EINVAL);
        }
        if size > MAX_SIZE {
            return null(k, ptr, Errno::E2BIG);
        }
        let id = k.helper_map(map)?;
        let at = k.ring_reserve(id, size.into());
        if at == 0 {
            k.emit(cpu, EventKind::Drop { reason: "ringbuf full" });
            return null(k, ptr, Errno::EINVAL);
        }
        k.prog_holds(cpu, Kind::RingbufRecord, at, "bpf_ringbuf_reserve_dynptr");
        k.dynptr_init(ptr, at, Type::Ringbuf, size)?;
        Ok(Ok(0))
    };
    done(reserve(k))
}

fn ringbuf_submit(k: &mut Kernel, cpu: CpuId, [ptr, ..]: [u64; 5]) -> Ret {
    done(commit(k, cpu, ptr, false))
}

fn ringbuf_discard(k: &mut Kernel, cpu: CpuId, [ptr, ..]: [u64; 5]) -> Ret {
    done(commit(k, cpu, ptr, true))
}

/// A dynptr whose reservation failed has no record to give back.
fn commit(
    k: &mut Kernel,
    cpu: CpuId,
    ptr: u64,
    discard: bool,
) -> Result<Result<u64, Errno>, Fault> {
    if let Some(record) = k.dynptr(ptr)? {
        k.ring_commit(cpu, record.data, discard);
        k.dynptr_clear(ptr)?;
    }
    Ok(Ok(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::layout::DIRECT_MAP;
    use crate::maps::MapDef;
    use bpf::uapi::MapType;
    use bpf::{Arch, Endian};

    const BUF: u64 = DIRECT_MAP + 0x20_0000;
    const PTR: u64 = DIRECT_MAP + 0x20_1000;
    const OUT: u64 = DIRECT_MAP + 0x20_2000;

    fn val(r: Ret) -> u64 {
        match r {
            Ret::Val(v) => v,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_bounds_and_errnos_are_those_of_the_kernel_in_both_byte_orders() {
        for arch in [Arch::X86_64, Arch::S390x] {
            let mut k = Kernel::new(Config { arch, ..Config::default() });
            let c = CpuId(0);
            k.mem.write(BUF, b"abcdefgh").unwrap();
            let big = [BUF, u64::from(MAX_SIZE) + 1, 0, PTR, 0];
            assert_eq!(val(from_mem(&mut k, c, big)), Errno::E2BIG.ret());
            assert_eq!(val(from_mem(&mut k, c, [BUF, 8, 1, PTR, 0])), Errno::EINVAL.ret());
            // Without data: nothing to read, write or point to.
            assert_eq!(val(read(&mut k, c, [OUT, 1, PTR, 0, 0])), Errno::EINVAL.ret());
            assert_eq!(val(data(&mut k, c, [PTR, 0, 1, 0, 0])), 0);
            assert_eq!(val(from_mem(&mut k, c, [BUF, 8, 0, PTR, 0])), 0);
            let raw = k.mem.read_vec(PTR + 8, 8).unwrap();
            let le = [8, 0, 0, 0x10, 0, 0, 0, 0];
            let be = [0x10, 0, 0, 8, 0, 0, 0, 0];
            assert_eq!(raw, if arch.endian() == Endian::Little { le } else { be });
            assert_eq!(val(read(&mut k, c, [OUT, 3, PTR, 5, 0])), 0);
            assert_eq!(k.mem.read_vec(OUT, 3).unwrap(), b"fgh");
            assert_eq!(val(read(&mut k, c, [OUT, 3, PTR, 6, 0])), Errno::E2BIG.ret());
            assert_eq!(val(read(&mut k, c, [OUT, 3, PTR, 5, 1])), Errno::EINVAL.ret());
            // Overlapping.
            assert_eq!(val(write(&mut k, c, [PTR, 2, BUF, 6, 0])), 0);
            assert_eq!(k.mem.read_vec(BUF, 8).unwrap(), b"ababcdef");
            assert_eq!(val(write(&mut k, c, [PTR, 3, BUF, 6, 1])), Errno::E2BIG.ret());
            assert_eq!(val(write(&mut k, c, [PTR, 2, BUF, 6, 1])), Errno::EINVAL.ret());
            assert_eq!(val(data(&mut k, c, [PTR, 4, 4, 0, 0])), BUF + 4);
            assert_eq!(val(data(&mut k, c, [PTR, 5, 4, 0, 0])), 0);
            let size = k.mem.read_u32(PTR + 8).unwrap();
            k.mem.write_u32(PTR + 8, size | RDONLY).unwrap();
            assert_eq!(val(write(&mut k, c, [PTR, 0, BUF, 1, 0])), Errno::EINVAL.ret());
            assert_eq!(val(data(&mut k, c, [PTR, 0, 1, 0, 0])), 0);
            assert_eq!(val(read(&mut k, c, [OUT, 8, PTR, 0, 0])), 0);
        }
    }

    #[test]
    fn a_record_of_a_size_known_at_run_time_is_submitted_or_discarded_once() {
        let mut k = Kernel::new(Config::default());
        let def = MapDef { map_type: MapType::Ringbuf, max_entries: 4096, ..MapDef::default() };
        let id = k.map_create(def, None).unwrap();
        let (map, c) = (k.maps[&id].addr, CpuId(0));
        assert_eq!(val(ringbuf_reserve(&mut k, c, [map, 5, 1, PTR, 0])), Errno::EINVAL.ret());
        let big = [map, u64::from(MAX_SIZE) + 1, 0, PTR, 0];
        assert_eq!(val(ringbuf_reserve(&mut k, c, big)), Errno::E2BIG.ret());
        assert_eq!(val(ringbuf_reserve(&mut k, c, [map, 4096, 0, PTR, 0])), Errno::EINVAL.ret());
        // A failed reservation is submitted without effect.
        assert_eq!(val(ringbuf_submit(&mut k, c, [PTR, 0, 0, 0, 0])), 0);
        assert_eq!(k.ring_consume(id), None);
        for discard in [true, false] {
            assert_eq!(val(ringbuf_reserve(&mut k, c, [map, 5, 0, PTR, 0])), 0);
            k.mem.write(BUF, b"hello").unwrap();
            assert_eq!(val(write(&mut k, c, [PTR, 0, BUF, 5, 0])), 0);
            let end = if discard { ringbuf_discard } else { ringbuf_submit };
            assert_eq!(val(end(&mut k, c, [PTR, 0, 0, 0, 0])), 0);
            assert_eq!(k.mem.read_vec(PTR, 16).unwrap(), [0; 16]);
        }
        assert_eq!(k.ring_consume(id).as_deref(), Some(&b"hello"[..]));
        assert_eq!(k.ring_consume(id), None);
    }
}
