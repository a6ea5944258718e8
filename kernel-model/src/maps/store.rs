//! Writing elements: what programs and user space share (`map_update_elem`, `map_delete_elem`).

use bpf::uapi::MapType;

use super::{Kind, MapId, Table, attr, is_lru};
use crate::{CpuId, Errno, Kernel};

/// `BPF_NOEXIST`.
pub(crate) const NOEXIST: u64 = 1;
/// `BPF_EXIST`.
pub(crate) const EXIST: u64 = 2;
/// `BPF_F_LOCK`.
const LOCK: u64 = 4;

/// Whose write it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A program: per-CPU maps get the value of this CPU.
    Program(CpuId),
    /// User space: per-CPU maps get the values of all CPUs, each rounded up to eight bytes.
    User,
}

/// The value of the longest prefix of a trie that matches, 0 when none does. A key is a host-order
/// u32 prefix length and data in network order.
pub(super) fn lpm_match(table: &Table, key: &[u8]) -> u64 {
    let mut best: Option<(u32, u64)> = None;
    for (k, e) in &table.by_key {
        let (len, data) = lpm_split(k);
        let (limit, wanted) = lpm_split(key);
        if len <= limit && same_bits(data, wanted, len) && best.is_none_or(|b| b.0 < len) {
            best = Some((len, e.value));
        }
    }
    best.map_or(0, |b| b.1)
}

/// Keys of tries are kept with a big-endian length in front.
fn lpm_split(key: &[u8]) -> (u32, &[u8]) {
    let (len, data) = key.split_at(4);
    (u32::from_be_bytes(len.try_into().expect("four bytes")), data)
}

fn same_bits(a: &[u8], b: &[u8], bits: u32) -> bool {
    let (whole, rest) = (bits as usize / 8, bits % 8);
    if a.get(..whole) != b.get(..whole) {
        return false;
    }
    rest == 0 || (a[whole] ^ b[whole]) >> (8 - rest) == 0
}

impl Kernel {
    /// A trie's key with its length in big-endian, `EINVAL` for a length beyond the data.
    pub(super) fn lpm_key(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let len = attr::index_of(self.mem.endian(), &key[..4]);
        if len as usize > (key.len() - 4) * 8 {
            return Err(Errno::EINVAL);
        }
        let mut out = len.to_be_bytes().to_vec();
        // Bits beyond the prefix do not count.
        for (i, b) in key[4..].iter().enumerate() {
            let left = (len as usize).saturating_sub(i * 8).min(8);
            let mask = if left == 0 { 0 } else { 0xffu8 << (8 - left) };
            out.push(b & mask);
        }
        Ok(out)
    }

    /// `bpf_map_update_elem`.
    ///
    /// # Errors
    /// As the kernel: `EINVAL`, `E2BIG`, `EEXIST`, `ENOENT`, `ENOMEM`.
    pub(crate) fn map_update(
        &mut self,
        id: MapId,
        key: &[u8],
        value: &[u8],
        flags: u64,
        who: Who,
    ) -> Result<(), Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        let t = map.def.map_type;
        if flags & !(LOCK | NOEXIST | EXIST) != 0 || flags & 3 == 3 {
            return Err(Errno::EINVAL);
        }
        match &map.kind {
            Kind::Array { .. } => self.array_update(id, key, value, flags, who),
            Kind::Hash(_) if t == MapType::LpmTrie => {
                let key = self.lpm_key(key)?;
                self.hash_update(id, &key, value, flags, who)
            }
            Kind::Hash(_) | Kind::Targets(_) => self.hash_update(id, key, value, flags, who),
            Kind::Fifo(_) | Kind::Bloom(_) => self.fifo_push(id, value, flags),
            Kind::Progs { .. }
            | Kind::Maps { .. }
            | Kind::MapHash { .. }
            | Kind::Ring(_)
            | Kind::Perf { .. } => Err(Kernel::not_for(t)),
        }
    }

    fn array_update(
        &mut self,
        id: MapId,
        key: &[u8],
        value: &[u8],
        flags: u64,
        who: Who,
    ) -> Result<(), Errno> {
        let map = &self.maps[&id];
        let (max, stride) = (map.def.max_entries, map.value_stride());
        let Kind::Array { values, stride: row } = map.kind else { return Err(Errno::EINVAL) };
        let percpu = map.is_percpu();
        let index = attr::index_of(self.mem.endian(), key);
        if index >= max {
            return Err(Errno::E2BIG);
        }
        if flags & NOEXIST != 0 {
            return Err(Errno::EEXIST);
        }
        let at = values + u64::from(index) * row;
        self.write_value(at, value, stride, percpu, who)
    }

    fn write_value(
        &mut self,
        at: u64,
        value: &[u8],
        stride: u64,
        percpu: bool,
        who: Who,
    ) -> Result<(), Errno> {
        let put = |k: &mut Kernel, at, v: &[u8]| k.mem.write(at, v).map_err(|_| Errno::EFAULT);
        match who {
            Who::Program(cpu) if percpu => put(self, at + u64::from(cpu.0) * stride, value),
            Who::User if percpu => put(self, at, value),
            _ => put(self, at, value),
        }
    }

    fn hash_update(
        &mut self,
        id: MapId,
        key: &[u8],
        value: &[u8],
        flags: u64,
        who: Who,
    ) -> Result<(), Errno> {
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        let (stride, percpu, t) = (map.value_stride(), map.is_percpu(), map.def.map_type);
        let max = u64::from(map.def.max_entries);
        let (Kind::Hash(table) | Kind::Targets(table)) = &mut map.kind else {
            return Err(Errno::EINVAL);
        };
        if let Some(at) = table.by_key.get(key).map(|e| e.value) {
            if flags & NOEXIST != 0 {
                return Err(Errno::EEXIST);
            }
            if is_lru(t) {
                table.touch(key);
            }
            return self.write_value(at, value, stride, percpu, who);
        }
        if flags & EXIST != 0 {
            return Err(Errno::ENOENT);
        }
        if table.by_key.len() as u64 >= max {
            if !is_lru(t) {
                // devmap and cpumap index by key; a trie says ENOSPC.
                return Err(if t == MapType::LpmTrie { Errno::ENOSPC } else { Errno::E2BIG });
            }
            let oldest = table.order.values().next().cloned().unwrap_or_default();
            self.map_delete_key(id, &oldest)?;
        }
        let bytes = if percpu { stride * u64::from(self.config.cpus) } else { stride };
        let at = self.kzalloc(bytes.max(8), "map element")?;
        self.write_value(at, value, stride, percpu, who)?;
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        if let Kind::Hash(table) | Kind::Targets(table) = &mut map.kind {
            table.insert(key.to_vec(), at);
        }
        Ok(())
    }

    /// `bpf_map_delete_elem`.
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for arrays; `EOPNOTSUPP` where there are no keys.
    pub(crate) fn map_delete(&mut self, id: MapId, key: &[u8]) -> Result<(), Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        match &map.kind {
            Kind::Array { .. } => Err(Errno::EINVAL),
            Kind::Hash(_) if map.def.map_type == MapType::LpmTrie => {
                let key = self.lpm_key(key)?;
                self.map_delete_key(id, &key)
            }
            Kind::Hash(_) | Kind::Targets(_) => self.map_delete_key(id, key),
            _ => Err(Kernel::not_for(map.def.map_type)),
        }
    }

    /// Takes an element out; its memory is freed when no program runs any more (RCU).
    fn map_delete_key(&mut self, id: MapId, key: &[u8]) -> Result<(), Errno> {
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        let (Kind::Hash(table) | Kind::Targets(table)) = &mut map.kind else {
            return Err(Errno::EINVAL);
        };
        let elem = table.remove(key).ok_or(Errno::ENOENT)?;
        self.rcu_free.push(elem.value);
        Ok(())
    }

    /// End of a grace period: nothing can hold a pointer into freed elements any more.
    pub(crate) fn rcu_flush(&mut self) {
        for addr in std::mem::take(&mut self.rcu_free) {
            self.kfree(addr, "map element (rcu)");
        }
    }

    /// `bpf_map_push_elem`: queue, stack, bloom filter.
    ///
    /// # Errors
    /// `E2BIG` when full; with `BPF_EXIST` the oldest element goes instead.
    pub(crate) fn fifo_push(&mut self, id: MapId, value: &[u8], flags: u64) -> Result<(), Errno> {
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        let max = map.def.max_entries as usize;
        match &mut map.kind {
            Kind::Bloom(set) => {
                if flags != 0 {
                    return Err(Errno::EINVAL);
                }
                set.insert(value.to_vec());
            }
            Kind::Fifo(queue) => {
                if flags & NOEXIST != 0 || flags > EXIST {
                    return Err(Errno::EINVAL);
                }
                if queue.len() >= max {
                    if flags & EXIST == 0 {
                        return Err(Errno::E2BIG);
                    }
                    queue.pop_front();
                }
                queue.push_back(value.to_vec());
            }
            _ => return Err(Errno::EOPNOTSUPP),
        }
        Ok(())
    }

    /// `bpf_map_pop_elem` and `bpf_map_peek_elem`.
    ///
    /// # Errors
    /// `ENOENT` when empty.
    pub(crate) fn fifo_take(&mut self, id: MapId, pop: bool) -> Result<Vec<u8>, Errno> {
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        let stack = map.def.map_type == MapType::Stack;
        let Kind::Fifo(queue) = &mut map.kind else { return Err(Errno::EOPNOTSUPP) };
        let value = match (stack, pop) {
            (true, true) => queue.pop_back(),
            (false, true) => queue.pop_front(),
            (true, false) => queue.back().cloned(),
            (false, false) => queue.front().cloned(),
        };
        value.ok_or(Errno::ENOENT)
    }
}
