//! Dynamic pointers: memory with a size that is known at run time (kernel/bpf/helpers.c,
//! ringbuf.c). `struct bpf_dynptr_kern` lies where the program has it.

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
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
const RDONLY: u32 = 1 << 31;
/// `sizeof(struct bpf_dynptr_kern)`.
pub(crate) const BYTES: u64 = 16;

/// `enum bpf_dynptr_type`, as far as helpers make them.
#[derive(Clone, Copy)]
pub(crate) enum Type {
    /// Memory of the program, or a sample of a user ring buffer.
    Local = 1,
    /// A reserved record.
    Ringbuf = 2,
}

/// A dynptr as read from memory.
struct Dynptr {
    data: u64,
    size: u32,
    rdonly: bool,
}

impl Dynptr {
    /// `bpf_dynptr_check_off_len`, then the address.
    fn at(&self, offset: u32, len: u32) -> Result<u64, Errno> {
        match len <= self.size && offset <= self.size - len {
            true => Ok(self.data + u64::from(offset)),
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
    fn dynptr_clear(&mut self, ptr: u64) -> Result<(), MemFault> {
        self.mem.fill(ptr, BYTES as usize, 0)
    }

    /// `None` for one without data.
    fn dynptr(&self, ptr: u64) -> Result<Option<Dynptr>, Fault> {
        let member = |f: crate::types::Field| ptr + u64::from(f.off);
        let data = self.mem.read_u64(member(field!("bpf_dynptr_kern", "data")))?;
        let word = self.mem.read_u32(member(field!("bpf_dynptr_kern", "size")))?;
        let offset = self.mem.read_u32(member(field!("bpf_dynptr_kern", "offset")))?;
        if data == 0 {
            return Ok(None);
        }
        // Their data would be an skb or xdp_buff; only kfuncs make such.
        if (word & !RDONLY) >> TYPE_SHIFT > Type::Ringbuf as u32 {
            return Err(Fault::unsupported("dynptrs of packets (bpf_dynptr_from_skb)"));
        }
        let (size, rdonly) = (word & MAX_SIZE, word & RDONLY != 0);
        Ok(Some(Dynptr { data: data + u64::from(offset), size, rdonly }))
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
        Ok(match src.at(offset, len) {
            Ok(from) => Ok(memmove(k, to, from, len)?),
            Err(e) => Err(e),
        })
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
        Ok(match dst.at(offset, len) {
            // Bounds come before flags.
            Ok(_) if flags != 0 => Err(Errno::EINVAL),
            Ok(to) => Ok(memmove(k, to, from, len)?),
            Err(e) => Err(e),
        })
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
        Ok(Some(p)) if !p.rdonly => Ret::Val(p.at(offset as u32, len as u32).unwrap_or(0)),
        Ok(_) => Ret::Val(0),
        Err(fault) => Ret::Fault(fault),
    }
}

fn ringbuf_reserve(k: &mut Kernel, cpu: CpuId, [map, size, flags, ptr, _]: [u64; 5]) -> Ret {
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
