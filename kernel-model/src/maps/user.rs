//! Maps as user space sees them: per-CPU values of all CPUs, iteration, freezing.

use super::store::Who;
use super::{Kind, MapId};
use crate::{CpuId, Errno, Kernel};

impl Kernel {
    /// `BPF_MAP_LOOKUP_ELEM`: the value; for per-CPU maps those of all CPUs, each rounded up to
    /// eight bytes.
    ///
    /// # Errors
    /// `ENOENT`, `EOPNOTSUPP`.
    pub fn user_lookup(&mut self, id: MapId, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        if key.len() != map.def.key_size as usize {
            return Err(Errno::EINVAL);
        }
        if matches!(map.kind, Kind::Fifo(_)) {
            return self.fifo_take(id, false);
        }
        if let Kind::Bloom(_) = map.kind {
            return Err(Errno::EINVAL);
        }
        let key = match map.def.map_type {
            bpf::uapi::MapType::LpmTrie => self.lpm_key(key)?,
            _ => key.to_vec(),
        };
        let map = &self.maps[&id];
        let (size, stride) = (map.def.value_size as usize, map.value_stride());
        let percpu = map.is_percpu();
        let cpus = if percpu { self.config.cpus } else { 1 };
        let mut out = Vec::new();
        for cpu in 0..cpus {
            let at = self.user_address(id, &key, CpuId(cpu));
            if at == 0 {
                return Err(Errno::ENOENT);
            }
            let bytes = if percpu { stride as usize } else { size };
            out.extend(self.mem.read_vec(at, bytes).map_err(|_| Errno::EFAULT)?);
        }
        Ok(out)
    }

    /// A look-up that does not count as use in LRU maps.
    fn user_address(&mut self, id: MapId, key: &[u8], cpu: CpuId) -> u64 {
        let map = &self.maps[&id];
        let offset = if map.is_percpu() { u64::from(cpu.0) * map.value_stride() } else { 0 };
        match &map.kind {
            Kind::Hash(t) | Kind::Targets(t) => t.by_key.get(key).map_or(0, |e| e.value + offset),
            _ => self.map_lookup(id, key, cpu),
        }
    }

    /// `BPF_MAP_UPDATE_ELEM` with plain values.
    ///
    /// # Errors
    /// As the kernel; `EPERM` when frozen.
    pub fn user_update(
        &mut self,
        id: MapId,
        key: &[u8],
        value: &[u8],
        flags: u64,
    ) -> Result<(), Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        if map.frozen {
            return Err(Errno::EPERM);
        }
        let cpus = if map.is_percpu() { u64::from(self.config.cpus) } else { 1 };
        let size =
            if map.is_percpu() { map.value_stride() * cpus } else { u64::from(map.def.value_size) };
        if key.len() != map.def.key_size as usize || value.len() as u64 != size {
            return Err(Errno::EINVAL);
        }
        self.map_update(id, key, value, flags, Who::User)
    }

    /// `BPF_MAP_DELETE_ELEM`.
    ///
    /// # Errors
    /// As the kernel.
    pub fn user_delete(&mut self, id: MapId, key: &[u8]) -> Result<(), Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        if map.frozen {
            return Err(Errno::EPERM);
        }
        match map.kind {
            Kind::Progs { .. } => {
                let index = super::attr::index_of(self.mem.endian(), key);
                self.prog_array_set(id, index, None)
            }
            Kind::Maps { .. } | Kind::MapHash { .. } => self.map_in_map_set(id, key, None),
            _ => self.map_delete(id, key),
        }
    }

    /// All keys in order (`BPF_MAP_GET_NEXT_KEY` until `ENOENT`).
    #[must_use]
    pub fn user_keys(&self, id: MapId) -> Vec<Vec<u8>> {
        let Some(map) = self.maps.get(&id) else { return Vec::new() };
        match &map.kind {
            Kind::Hash(t) | Kind::Targets(t) => {
                let lpm = map.def.map_type == bpf::uapi::MapType::LpmTrie;
                t.order.values().map(|k| if lpm { self.lpm_guest(k) } else { k.clone() }).collect()
            }
            Kind::MapHash { table, .. } => table.order.values().cloned().collect(),
            Kind::Array { .. } | Kind::Progs { .. } | Kind::Maps { .. } | Kind::Perf { .. } => {
                (0..map.def.max_entries).map(|i| self.index_key(i)).collect()
            }
            Kind::Fifo(_) | Kind::Bloom(_) | Kind::Ring(_) => Vec::new(),
        }
    }

    /// `BPF_MAP_GET_NEXT_KEY`.
    ///
    /// # Errors
    /// `ENOENT` after the last key; `EOPNOTSUPP` for maps without keys.
    pub fn user_next_key(&self, id: MapId, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        match &map.kind {
            Kind::Hash(t) | Kind::Targets(t) if map.def.map_type != bpf::uapi::MapType::LpmTrie => {
                t.next_key(key).ok_or(Errno::ENOENT)
            }
            Kind::Fifo(_) | Kind::Bloom(_) | Kind::Ring(_) => Err(Errno::EOPNOTSUPP),
            _ => {
                let keys = self.user_keys(id);
                let at = key.and_then(|k| keys.iter().position(|x| x == k));
                let next = at.map_or(0, |n| n + 1);
                keys.get(next).cloned().ok_or(Errno::ENOENT)
            }
        }
    }

    /// `BPF_MAP_FREEZE`.
    ///
    /// # Errors
    /// `EBUSY` when frozen already.
    pub fn map_freeze(&mut self, id: MapId) -> Result<(), Errno> {
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        if std::mem::replace(&mut map.frozen, true) { Err(Errno::EBUSY) } else { Ok(()) }
    }

    /// Values of a queue or stack in the order they would come out.
    #[must_use]
    pub fn fifo_values(&self, id: MapId) -> Vec<Vec<u8>> {
        let Some(map) = self.maps.get(&id) else { return Vec::new() };
        let Kind::Fifo(queue) = &map.kind else { return Vec::new() };
        if map.def.map_type == bpf::uapi::MapType::Stack {
            queue.iter().rev().cloned().collect()
        } else {
            queue.iter().cloned().collect()
        }
    }

    fn index_key(&self, index: u32) -> Vec<u8> {
        match self.mem.endian() {
            bpf::Endian::Little => index.to_le_bytes().to_vec(),
            bpf::Endian::Big => index.to_be_bytes().to_vec(),
        }
    }

    /// A trie's key as the program wrote it.
    fn lpm_guest(&self, key: &[u8]) -> Vec<u8> {
        let len = u32::from_be_bytes(key[..4].try_into().expect("a trie's key has a length"));
        [self.index_key(len), key[4..].to_vec()].concat()
    }
}
