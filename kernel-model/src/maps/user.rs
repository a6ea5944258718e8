//! Maps as user space sees them: values of all CPUs, objects by descriptor, iteration, freezing
//! (`bpf_map_copy_value`, `bpf_map_update_value` and the commands around them).

use std::cmp::Ordering;

use bpf::uapi::MapType;

use super::store::{EXIST, NOEXIST, Who};
use super::{Kind, Map, MapId, attr};
use crate::cgroup::kept_key;
use crate::{CpuId, Errno, Kernel};

/// Orders a trie's keys as `trie_get_next_key` does: what is below a prefix comes before it.
fn lpm_order(a: &[u8], b: &[u8]) -> Ordering {
    let len = |k: &[u8]| u32::from_be_bytes(k[..4].try_into().expect("a trie's key has a length"));
    let (la, lb) = (len(a), len(b));
    let common = la.min(lb) as usize;
    let bit = |k: &[u8], i: usize| k[4 + i / 8] >> (7 - i % 8) & 1;
    let differ = (0..common).find(|i| bit(a, *i) != bit(b, *i));
    match differ {
        Some(i) => bit(a, i).cmp(&bit(b, i)),
        None => lb.cmp(&la),
    }
}

impl Map {
    /// Bytes of a value as user space has it: per-CPU values of all CPUs, each rounded up to
    /// eight bytes.
    #[must_use]
    pub fn user_value_size(&self, cpus: u32) -> usize {
        match self.is_percpu() {
            true => self.value_stride() as usize * cpus as usize,
            false => self.def.value_size as usize,
        }
    }
}

impl Kernel {
    /// `BPF_MAP_LOOKUP_ELEM`: the value; for per-CPU maps those of all CPUs, each rounded up to
    /// eight bytes. Slots that hold objects read as the object's id.
    ///
    /// # Errors
    /// `ENOENT`, `EINVAL`, `ENOTSUPP`.
    pub fn user_lookup(&mut self, id: MapId, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        if key.len() != map.def.key_size as usize {
            return Err(Errno::EINVAL);
        }
        match &map.kind {
            Kind::Fifo(_) => self.fifo_take(id, false),
            // The value is the key: a look-up without one says nothing.
            Kind::Bloom(_) => Err(Errno::EINVAL),
            Kind::Ring(_) | Kind::Perf { .. } | Kind::Groups { .. } => Err(Errno::ENOTSUPP),
            Kind::Arena(_) => Err(Errno::EINVAL),
            Kind::Storage(_) => Err(Errno::EBADF),
            Kind::Xsk => Err(Errno::EOPNOTSUPP),
            Kind::Progs { slots, .. } => {
                let slot = slots.get(attr::index_of(self.mem.endian(), key) as usize);
                let prog = slot.copied().flatten().ok_or(Errno::ENOENT)?;
                Ok(self.word(prog.0).to_vec())
            }
            Kind::Maps { slots, .. } => {
                let slot = slots.get(attr::index_of(self.mem.endian(), key) as usize);
                let inner = slot.copied().flatten().ok_or(Errno::ENOENT)?;
                Ok(self.word(inner.0).to_vec())
            }
            Kind::MapHash { inner, .. } => {
                let inner = *inner.get(key).ok_or(Errno::ENOENT)?;
                Ok(self.word(inner.0).to_vec())
            }
            Kind::Stacks(stacks) => {
                let stack = stacks.get(&attr::index_of(self.mem.endian(), key));
                let mut stack = stack.ok_or(Errno::ENOENT)?.clone();
                stack.resize(map.def.value_size as usize, 0);
                Ok(stack)
            }
            Kind::Array { .. } | Kind::Hash(_) | Kind::Targets(_) | Kind::CgroupStorage(_) => {
                self.user_values(id, key)
            }
        }
    }

    /// Whether a bloom filter has a value.
    ///
    /// # Errors
    /// `ENOENT` when it has not.
    pub fn user_bloom(&self, id: MapId, value: &[u8]) -> Result<(), Errno> {
        match &self.maps.get(&id).ok_or(Errno::EBADF)?.kind {
            Kind::Bloom(set) if set.contains(value) => Ok(()),
            Kind::Bloom(_) => Err(Errno::ENOENT),
            _ => Err(Errno::EINVAL),
        }
    }

    fn user_values(&mut self, id: MapId, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let key = match self.maps[&id].def.map_type {
            // No prefix is as long as that.
            MapType::LpmTrie => self.lpm_key(key).map_err(|_| Errno::ENOENT)?,
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
            let mut value = self.mem.read_vec(at, bytes).map_err(|_| Errno::EFAULT)?;
            // Locks, timers and kernel pointers are not for user space.
            for f in &self.maps[&id].def.record.fields {
                value[f.off as usize..(f.off + f.size) as usize].fill(0);
            }
            out.extend(value);
        }
        Ok(out)
    }

    /// A look-up that does not count as use in LRU maps.
    fn user_address(&mut self, id: MapId, key: &[u8], cpu: CpuId) -> u64 {
        let map = &self.maps[&id];
        let offset = if map.is_percpu() { u64::from(cpu.0) * map.cpu_stride() } else { 0 };
        match &map.kind {
            Kind::Hash(t) if map.def.map_type != MapType::LpmTrie => {
                t.by_key.get(key).map_or(0, |e| e.value + offset)
            }
            _ => self.map_lookup(id, key, cpu),
        }
    }

    /// `BPF_MAP_UPDATE_ELEM`: values of slots that hold objects are descriptors.
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
        let size = map.user_value_size(self.config.cpus);
        if key.len() != map.def.key_size as usize || value.len() != size {
            return Err(Errno::EINVAL);
        }
        self.user_update_value(id, key, value, flags)
    }

    /// `bpf_map_update_value`.
    pub(crate) fn user_update_value(
        &mut self,
        id: MapId,
        key: &[u8],
        value: &[u8],
        flags: u64,
    ) -> Result<(), Errno> {
        let endian = self.mem.endian();
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        let max = map.def.max_entries;
        let slots = matches!(
            map.kind,
            Kind::Progs { .. } | Kind::Groups { .. } | Kind::Maps { .. } | Kind::Perf { .. }
        );
        if slots && flags != 0 {
            return Err(Errno::EINVAL);
        }
        if slots && attr::index_of(endian, key) >= max {
            return Err(Errno::E2BIG);
        }
        let fd = || attr::index_of(endian, value).cast_signed();
        match &map.kind {
            Kind::Progs { .. } => {
                let prog = self.fd_prog(fd())?;
                self.prog_array_set(id, attr::index_of(endian, key), Some(prog))
            }
            Kind::Groups { .. } => {
                let group = self.fd_cgroup(fd())?;
                self.cgroup_array_set(id, attr::index_of(endian, key), Some(group))
            }
            Kind::Maps { .. } => {
                let inner = self.fd_map(fd())?;
                self.map_in_map_set(id, key, Some(inner))
            }
            Kind::MapHash { inner, .. } => {
                let known = inner.contains_key(key);
                let inner = self.fd_map(fd())?;
                match flags {
                    NOEXIST if known => Err(Errno::EEXIST),
                    EXIST if !known => Err(Errno::ENOENT),
                    0 | NOEXIST | EXIST => self.map_in_map_set(id, key, Some(inner)),
                    _ => Err(Errno::EINVAL),
                }
            }
            // Perf events are opened by `perf_open`: no descriptor of this process is one.
            Kind::Perf { .. } => self.fd_map(fd()).and(Err(Errno::EINVAL)),
            _ => self.map_update(id, key, value, flags, Who::User),
        }
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
                let index = attr::index_of(self.mem.endian(), key);
                self.prog_array_set(id, index, None)
            }
            Kind::Groups { .. } => {
                let index = attr::index_of(self.mem.endian(), key);
                self.cgroup_array_set(id, index, None)
            }
            Kind::Maps { .. } | Kind::MapHash { .. } => self.map_in_map_set(id, key, None),
            _ => self.map_delete(id, key),
        }
    }

    /// `BPF_MAP_LOOKUP_AND_DELETE_ELEM`: queues, stacks and hash tables have it.
    ///
    /// # Errors
    /// `ENOENT`, `ENOTSUPP`.
    pub fn user_take(&mut self, id: MapId, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        match &map.kind {
            Kind::Fifo(_) => self.fifo_take(id, true),
            Kind::Hash(_) if map.def.map_type != MapType::LpmTrie => {
                let value = self.user_lookup(id, key)?;
                self.user_delete(id, key)?;
                Ok(value)
            }
            Kind::Stacks(_) => {
                let value = self.user_lookup(id, key)?;
                self.user_delete(id, key)?;
                Ok(value)
            }
            _ => Err(Errno::ENOTSUPP),
        }
    }

    /// All keys in order (`BPF_MAP_GET_NEXT_KEY` until `ENOENT`).
    #[must_use]
    pub fn user_keys(&self, id: MapId) -> Vec<Vec<u8>> {
        let Some(map) = self.maps.get(&id) else { return Vec::new() };
        match &map.kind {
            Kind::Hash(t) if map.def.map_type == MapType::LpmTrie => {
                let mut keys: Vec<&Vec<u8>> = t.by_key.keys().collect();
                keys.sort_by(|a, b| lpm_order(a, b));
                keys.into_iter().map(|k| self.lpm_guest(t, k)).collect()
            }
            Kind::Hash(t) | Kind::Targets(t) => t.order.values().cloned().collect(),
            Kind::MapHash { table, .. } => table.order.values().cloned().collect(),
            // The newest is the head of the list.
            Kind::CgroupStorage(t) => t.order.values().rev().cloned().collect(),
            Kind::Array { .. }
            | Kind::Progs { .. }
            | Kind::Groups { .. }
            | Kind::Maps { .. }
            | Kind::Perf { .. } => {
                (0..map.def.max_entries).map(|i| self.word(i).to_vec()).collect()
            }
            Kind::Stacks(stacks) => stacks.keys().map(|i| self.word(*i).to_vec()).collect(),
            Kind::Fifo(_) | Kind::Bloom(_) | Kind::Ring(_) | Kind::Arena(_) => Vec::new(),
            Kind::Storage(_) | Kind::Xsk => Vec::new(),
        }
    }

    /// `BPF_MAP_GET_NEXT_KEY`: the first key after one that is not there.
    ///
    /// # Errors
    /// `ENOENT` after the last key; what the type says when it has no keys.
    pub fn user_next_key(&self, id: MapId, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        let (t, max) = (map.def.map_type, map.def.max_entries);
        let index = key.map(|k| attr::index_of(self.mem.endian(), k));
        match &map.kind {
            Kind::Hash(table) if t == MapType::LpmTrie => self.lpm_next(table, key),
            Kind::Targets(_) if t != MapType::DevmapHash => self.next_index(index, max),
            Kind::Hash(t) | Kind::Targets(t) | Kind::MapHash { table: t, .. } => {
                t.next_key(key).ok_or(Errno::ENOENT)
            }
            Kind::Array { .. }
            | Kind::Progs { .. }
            | Kind::Groups { .. }
            | Kind::Maps { .. }
            | Kind::Perf { .. } => self.next_index(index, max),
            Kind::Stacks(stacks) => {
                let from = index.filter(|i| *i < max).map_or(0, |i| i + 1);
                let next = stacks.range(from..).next().ok_or(Errno::ENOENT)?;
                Ok(self.word(*next.0).to_vec())
            }
            Kind::Fifo(_) => Err(Errno::EINVAL),
            Kind::Bloom(_) | Kind::Arena(_) => Err(Errno::EOPNOTSUPP),
            Kind::Storage(_) => Err(Errno::ENOTSUPP),
            Kind::CgroupStorage(t) => {
                let before = match key {
                    Some(key) => {
                        let elem = t.by_key.get(&kept_key(key)).ok_or(Errno::ENOENT)?;
                        t.order.range(..elem.seq).next_back()
                    }
                    None => t.order.last_key_value(),
                };
                before.map(|(_, key)| key.clone()).ok_or(Errno::ENOENT)
            }
            Kind::Xsk => self.next_index(index, max),
            Kind::Ring(_) => Err(Errno::ENOTSUPP),
        }
    }

    fn next_index(&self, index: Option<u32>, max: u32) -> Result<Vec<u8>, Errno> {
        match index {
            Some(i) if i < max && i == max - 1 => Err(Errno::ENOENT),
            Some(i) if i < max => Ok(self.word(i + 1).to_vec()),
            _ => Ok(self.word(0).to_vec()),
        }
    }

    fn lpm_next(&self, table: &super::Table, key: Option<&[u8]>) -> Result<Vec<u8>, Errno> {
        let key = key.and_then(|k| self.lpm_key(k).ok()).filter(|k| table.by_key.contains_key(k));
        let after = table.by_key.keys().filter(|k| match &key {
            Some(key) => lpm_order(k, key) == Ordering::Greater,
            None => true,
        });
        let next = after.min_by(|a, b| lpm_order(a, b)).ok_or(Errno::ENOENT)?;
        Ok(self.lpm_guest(table, next))
    }

    /// `BPF_MAP_FREEZE`.
    ///
    /// # Errors
    /// `EPERM` when frozen already: user space may not write any more.
    pub fn map_freeze(&mut self, id: MapId) -> Result<(), Errno> {
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        if !map.def.record.is_empty() {
            return Err(Errno::ENOTSUPP);
        }
        if std::mem::replace(&mut map.frozen, true) { Err(Errno::EPERM) } else { Ok(()) }
    }

    /// Values of a queue or stack in the order they would come out.
    #[must_use]
    pub fn fifo_values(&self, id: MapId) -> Vec<Vec<u8>> {
        let Some(map) = self.maps.get(&id) else { return Vec::new() };
        let Kind::Fifo(queue) = &map.kind else { return Vec::new() };
        if map.def.map_type == MapType::Stack {
            queue.iter().rev().cloned().collect()
        } else {
            queue.iter().cloned().collect()
        }
    }

    /// A trie's key as it was written.
    fn lpm_guest(&self, table: &super::Table, key: &[u8]) -> Vec<u8> {
        if let Some(written) = table.written.get(key) {
            return written.clone();
        }
        let len = u32::from_be_bytes(key[..4].try_into().expect("a trie's key has a length"));
        [&self.word(len)[..], &key[4..]].concat()
    }
}
