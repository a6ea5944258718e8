//! Creating maps: attributes and their limits (`map_create`, `*_map_alloc_check`).

use bpf::uapi::MapType;

use super::{Kind, Map, MapId, Table, ring::Ring};
use crate::layout::{DIRECT_MAP, PAGE_SIZE};
use crate::{Errno, Kernel, field};

/// `BPF_MAP_CREATE` attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MapDef {
    /// Type.
    pub map_type: MapType,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value.
    pub value_size: u32,
    /// Elements.
    pub max_entries: u32,
    /// `BPF_F_*`.
    pub flags: u32,
    /// `map_extra`.
    pub map_extra: u64,
    /// Name, at most 15 bytes.
    pub name: String,
    /// BTF id of the value's type in the loader's BTF, 0 for none.
    pub value_type_id: u32,
    /// Byte offset of a `bpf_spin_lock` in the value.
    pub spin_lock_off: Option<u32>,
    /// Byte offset of a `bpf_timer` in the value.
    pub timer_off: Option<u32>,
}

/// An array index in guest byte order; out of range for a key of another size.
pub(crate) fn index_of(endian: bpf::Endian, key: &[u8]) -> u32 {
    match (<[u8; 4]>::try_from(key), endian) {
        (Ok(b), bpf::Endian::Little) => u32::from_le_bytes(b),
        (Ok(b), bpf::Endian::Big) => u32::from_be_bytes(b),
        (Err(_), _) => u32::MAX,
    }
}

/// Values larger than this no per-CPU allocation takes (`PCPU_MIN_UNIT_SIZE`).
const PERCPU_VALUE_MAX: u32 = 32768;

/// Checks that need no memory.
fn check(def: &MapDef) -> Result<(), Errno> {
    use MapType::*;
    let MapDef { map_type, key_size, value_size, max_entries, flags, .. } = *def;
    let sizes_ok = match map_type {
        Array | PercpuArray => key_size == 4 && value_size > 0,
        Hash | PercpuHash | LruHash | LruPercpuHash => key_size > 0 && value_size > 0,
        LpmTrie => (5..=260).contains(&key_size) && value_size > 0,
        ProgArray | PerfEventArray | ArrayOfMaps => key_size == 4 && value_size == 4,
        HashOfMaps => key_size > 0 && value_size == 4,
        Devmap | DevmapHash | Cpumap => key_size == 4 && matches!(value_size, 4 | 8),
        Queue | Stack | BloomFilter => key_size == 0 && value_size > 0,
        Ringbuf | UserRingbuf => key_size == 0 && value_size == 0,
        _ => return Err(Errno::EINVAL),
    };
    if !sizes_ok || max_entries == 0 {
        return Err(Errno::EINVAL);
    }
    if super::is_percpu(map_type) && value_size > PERCPU_VALUE_MAX {
        return Err(Errno::E2BIG);
    }
    let pages = PAGE_SIZE as u32;
    if matches!(map_type, Ringbuf | UserRingbuf)
        && (!max_entries.is_power_of_two() || !max_entries.is_multiple_of(pages))
    {
        return Err(Errno::EINVAL);
    }
    if map_type == LpmTrie && flags & 1 == 0 {
        return Err(Errno::EINVAL);
    }
    if key_size > 512 && map_type != LpmTrie {
        return Err(Errno::E2BIG);
    }
    Ok(())
}

impl Kernel {
    /// `BPF_MAP_CREATE`.
    ///
    /// # Errors
    /// As the kernel: `EINVAL`, `E2BIG`, `ENOMEM`; maps of maps need `inner`.
    pub fn map_create(&mut self, def: MapDef, inner: Option<MapDef>) -> Result<MapId, Errno> {
        check(&def)?;
        let nested = matches!(def.map_type, MapType::ArrayOfMaps | MapType::HashOfMaps);
        if nested != inner.is_some() {
            return Err(Errno::EINVAL);
        }
        let id = MapId(self.next_map);
        let (addr, kind) = self.map_storage(&def)?;
        self.next_map += 1;
        let numbers = [
            (field!("bpf_map", "map_type"), u64::from(def.map_type as u32)),
            (field!("bpf_map", "key_size"), def.key_size.into()),
            (field!("bpf_map", "value_size"), def.value_size.into()),
            (field!("bpf_map", "max_entries"), def.max_entries.into()),
            (field!("bpf_map", "map_flags"), def.flags.into()),
            (field!("bpf_map", "map_extra"), def.map_extra),
            (field!("bpf_map", "id"), id.0.into()),
        ];
        for (f, value) in numbers {
            self.set(addr, f, value);
        }
        self.set_bytes(addr, field!("bpf_map", "name"), def.name.as_bytes());
        self.map_by_addr.insert(addr, id);
        self.maps.insert(id, Map { id, def, addr, frozen: false, inner, kind });
        Ok(id)
    }

    fn map_storage(&mut self, def: &MapDef) -> Result<(u64, Kind), Errno> {
        use MapType::*;
        let entries = u64::from(def.max_entries);
        let value = u64::from(def.value_size).next_multiple_of(8);
        let plain = crate::types::size("bpf_htab");
        let table = Table::default;
        Ok(match def.map_type {
            Array => {
                let addr = self.map_array(def, entries * value, value)?;
                let values = addr + u64::from(field!("bpf_array", "value").off);
                (addr, Kind::Array { values, stride: value })
            }
            PercpuArray => {
                let cpus = u64::from(self.config.cpus);
                let values = self.map_memory(entries * value * cpus)?;
                (self.kzalloc(plain, "bpf_map")?, Kind::Array { values, stride: value * cpus })
            }
            ProgArray | ArrayOfMaps => {
                let addr = self.map_array(def, entries * 8, 8)?;
                let ptrs = addr + u64::from(field!("bpf_array", "value").off);
                let n = entries as usize;
                let kind = match def.map_type {
                    ProgArray => Kind::Progs { slots: vec![None; n], ptrs },
                    _ => Kind::Maps { slots: vec![None; n], ptrs },
                };
                (addr, kind)
            }
            HashOfMaps => {
                let kind = Kind::MapHash { table: table(), inner: Default::default() };
                (self.kzalloc(plain, "bpf_map")?, kind)
            }
            PerfEventArray => {
                let open = vec![false; entries.min(4096) as usize];
                (self.kzalloc(plain, "bpf_map")?, Kind::Perf { open })
            }
            Devmap | DevmapHash | Cpumap => {
                (self.kzalloc(plain, "bpf_map")?, Kind::Targets(table()))
            }
            Queue | Stack => (self.kzalloc(plain, "bpf_map")?, Kind::Fifo(Default::default())),
            BloomFilter => (self.kzalloc(plain, "bpf_map")?, Kind::Bloom(Default::default())),
            Ringbuf | UserRingbuf => {
                let ring = Ring::new(self, entries)?;
                (self.kzalloc(plain, "bpf_map")?, Kind::Ring(ring))
            }
            _ => (self.kzalloc(plain, "bpf_map")?, Kind::Hash(table())),
        })
    }

    /// `struct bpf_array` with its values behind it.
    fn map_array(&mut self, def: &MapDef, bytes: u64, elem: u64) -> Result<u64, Errno> {
        let head = u64::from(field!("bpf_array", "value").off);
        let addr = self.map_memory(head + bytes)?;
        self.set(addr, field!("bpf_array", "elem_size"), elem);
        let mask = u64::from(def.max_entries).next_power_of_two() - 1;
        self.set(addr, field!("bpf_array", "index_mask"), mask);
        Ok(addr)
    }

    /// Zeroed memory of any size.
    pub(super) fn map_memory(&mut self, bytes: u64) -> Result<u64, Errno> {
        if bytes <= PAGE_SIZE {
            return self.kzalloc(bytes, "bpf_map");
        }
        if bytes > self.mem.ram_bytes() {
            return Err(Errno::ENOMEM);
        }
        let pages = bytes.div_ceil(PAGE_SIZE);
        let phys = self.alloc.pages(&mut self.mem, pages).ok_or(Errno::ENOMEM)?;
        Ok(DIRECT_MAP + phys)
    }
}
