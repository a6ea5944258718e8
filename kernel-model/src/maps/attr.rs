//! Creating maps: attributes and their limits (`map_create`, `*_map_alloc_check`).

use bpf::uapi::MapType;
use verifier::btf::record::Record;

use super::{Kind, Map, MapId, Table, ring::Ring};
use crate::layout::percpu_area;
use crate::memcg::Charge;
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
    /// Special fields of the value, as its BTF declares them.
    pub record: Record,
    /// NUMA node, with `BPF_F_NUMA_NODE`.
    pub numa_node: u32,
    /// BTF id of the key's type in the loader's BTF, 0 for none.
    pub key_type_id: u32,
    /// The loader's BTF, 0 for none.
    pub btf_id: u32,
}

impl Default for MapDef {
    fn default() -> MapDef {
        MapDef {
            map_type: MapType::Unspec,
            key_size: 0,
            value_size: 0,
            max_entries: 0,
            flags: 0,
            map_extra: 0,
            name: String::new(),
            value_type_id: 0,
            spin_lock_off: None,
            timer_off: None,
            record: Record::default(),
            numa_node: 0,
            key_type_id: 0,
            btf_id: 0,
        }
    }
}

/// An array index in guest byte order; out of range for a key of another size.
pub(crate) fn index_of(endian: bpf::Endian, key: &[u8]) -> u32 {
    match (<[u8; 4]>::try_from(key), endian) {
        (Ok(b), bpf::Endian::Little) => u32::from_le_bytes(b),
        (Ok(b), bpf::Endian::Big) => u32::from_be_bytes(b),
        (Err(_), _) => u32::MAX,
    }
}

impl Kernel {
    /// `BPF_MAP_CREATE`.
    ///
    /// # Errors
    /// As the kernel: `EINVAL`, `E2BIG`, `ENOMEM`; maps of maps need `inner`.
    pub fn map_create(&mut self, def: MapDef, inner: Option<MapDef>) -> Result<MapId, Errno> {
        super::rules::check(&def)?;
        let nested = matches!(def.map_type, MapType::ArrayOfMaps | MapType::HashOfMaps);
        if nested != inner.is_some() {
            return Err(Errno::EINVAL);
        }
        let mut def = def;
        if matches!(def.map_type, MapType::Devmap | MapType::DevmapHash) {
            // dev_map_init_map: programs read the entries only.
            def.flags |= super::rules::RDONLY_PROG;
        }
        let id = MapId(self.next_map);
        let memcg = self.memcg_of_loader();
        let charge = Charge { group: memcg, bytes: self.map_charge(&def) };
        self.memcg.charge(charge)?;
        let (addr, kind) = match self.map_storage(&def) {
            Ok(made) => made,
            Err(errno) => {
                self.memcg.uncharge(charge);
                return Err(errno);
            }
        };
        self.memcg.charged(addr, charge);
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
        self.maps.insert(id, Map { id, def, addr, frozen: false, inner, memcg, kind, elems: None });
        self.elems_init(id);
        self.race_percpu(id);
        Ok(id)
    }

    fn map_storage(&mut self, def: &MapDef) -> Result<(u64, Kind), Errno> {
        use MapType::*;
        let entries = u64::from(def.max_entries);
        let value = u64::from(def.value_size).next_multiple_of(8);
        let plain = crate::size!("bpf_htab");
        let table = Table::default;
        // Allocated at once by the kernel, when used by the model: the limit is the same.
        let at_once = match def.map_type {
            Devmap | PerfEventArray | Xskmap => entries * 8,
            Queue | Stack => entries * u64::from(def.value_size),
            _ => 0,
        };
        if at_once > self.mem.ram_bytes() {
            return Err(Errno::ENOMEM);
        }
        Ok(match def.map_type {
            Array => {
                let addr = self.map_array(def, entries * value, value)?;
                let values = addr + u64::from(field!("bpf_array", "value").off);
                (addr, Kind::Array { values, stride: value })
            }
            PercpuArray => self.percpu_array(def, entries, value)?,
            ProgArray | ArrayOfMaps | CgroupArray => {
                let addr = self.map_array(def, entries * 8, 8)?;
                let ptrs = addr + u64::from(field!("bpf_array", "value").off);
                let n = entries as usize;
                let kind = match def.map_type {
                    ProgArray => Kind::Progs { slots: vec![None; n], ptrs },
                    CgroupArray => Kind::Groups { slots: vec![None; n], ptrs },
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
            StackTrace => (self.kzalloc(plain, "bpf_map")?, Kind::Stacks(Default::default())),
            Queue | Stack => (self.kzalloc(plain, "bpf_map")?, Kind::Fifo(Default::default())),
            BloomFilter => (self.kzalloc(plain, "bpf_map")?, Kind::Bloom(Default::default())),
            Ringbuf | UserRingbuf => {
                let user = def.map_type == MapType::UserRingbuf;
                let ring = Ring::new(self, entries, user)?;
                (self.kzalloc(plain, "bpf_map")?, Kind::Ring(ring))
            }
            SkStorage | InodeStorage | TaskStorage | CgrpStorage => {
                (self.kzalloc(plain, "bpf_map")?, Kind::Storage(Default::default()))
            }
            CgroupStorage | PercpuCgroupStorage => {
                (self.kzalloc(plain, "bpf_map")?, Kind::CgroupStorage(table()))
            }
            Xskmap => (self.kzalloc(plain, "bpf_map")?, Kind::Xsk),
            MapType::Arena => {
                let arena = super::arena::Arena::new(MapId(self.next_map), def);
                (self.kzalloc(plain, "bpf_map")?, Kind::Arena(arena))
            }
            _ => (self.kzalloc(plain, "bpf_map")?, Kind::Hash(table())),
        })
    }

    /// `pptrs`, and what they point to on each CPU.
    fn percpu_array(
        &mut self,
        def: &MapDef,
        entries: u64,
        value: u64,
    ) -> Result<(u64, Kind), Errno> {
        let addr = self.map_array(def, entries * 8, value)?;
        let values = match self.percpu_alloc(entries * value) {
            Ok(values) => values,
            Err(e) => {
                self.kfree(addr, "bpf_map");
                return Err(e);
            }
        };
        let pptrs = addr + u64::from(field!("bpf_array", "value").off);
        for n in 0..entries {
            let at = self.mem.write_u64(pptrs + n * 8, values + n * value);
            at.expect("allocated above");
        }
        Ok((addr, Kind::Array { values: percpu_area(0) + values, stride: value }))
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
        if bytes > self.mem.ram_bytes() {
            return Err(Errno::ENOMEM);
        }
        self.kzalloc(bytes, "bpf_map")
    }
}
