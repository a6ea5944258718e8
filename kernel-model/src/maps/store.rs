//! Writing elements: what programs and user space share (`map_update_elem`, `map_delete_elem`).

use std::ops::Bound;

use bpf::uapi::MapType;

use super::{Kind, MapId, Table, attr, is_lru};
use crate::memcg::Charge;
use crate::{CpuId, Errno, Kernel};

/// `BPF_NOEXIST`.
pub(crate) const NOEXIST: u64 = 1;
/// `BPF_EXIST`.
pub(crate) const EXIST: u64 = 2;
/// `BPF_F_LOCK`.
pub(crate) const LOCK: u64 = 4;

/// Longest queue of a cpumap entry.
const CPUMAP_QUEUE_MAX: u32 = 16384;

/// Whose write it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    /// A program: per-CPU maps get the value of this CPU.
    Program(CpuId),
    /// User space: per-CPU maps get the values of all CPUs, each rounded up to eight bytes.
    User,
}

/// The value of the longest prefix of a trie that matches, 0 when none does: one look for each
/// length that the trie has, the longest first.
pub(super) fn lpm_match(table: &Table, key: &[u8]) -> u64 {
    let (limit, data) = lpm_split(key);
    // A length alone sorts before every key of that length.
    let mut below = (limit + 1).to_be_bytes();
    while let Some((k, _)) =
        table.by_key.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(&below[..]))).next_back()
    {
        let len = lpm_split(k).0;
        if let Some(found) = table.by_key.get(&lpm_stored(len, data)) {
            return found.value;
        }
        below = len.to_be_bytes();
    }
    0
}

/// Keys of tries are kept with a big-endian length in front.
fn lpm_split(key: &[u8]) -> (u32, &[u8]) {
    let (len, data) = key.split_at(4);
    (u32::from_be_bytes(len.try_into().expect("four bytes")), data)
}

/// A key as it is kept: bits beyond the prefix do not count.
fn lpm_stored(len: u32, data: &[u8]) -> Vec<u8> {
    let mut out = len.to_be_bytes().to_vec();
    for (i, b) in data.iter().enumerate() {
        let left = (len as usize).saturating_sub(i * 8).min(8);
        let mask = if left == 0 { 0 } else { 0xffu8 << (8 - left) };
        out.push(b & mask);
    }
    out
}

impl Kernel {
    /// A trie's key with its length in big-endian, `EINVAL` for a length beyond the data.
    pub(super) fn lpm_key(&self, key: &[u8]) -> Result<Vec<u8>, Errno> {
        let len = attr::index_of(self.mem.endian(), &key[..4]);
        if len as usize > (key.len() - 4) * 8 {
            return Err(Errno::EINVAL);
        }
        Ok(lpm_stored(len, &key[4..]))
    }

    /// A trie's key was written: bits beyond its prefix do not count, but are there to be read.
    fn lpm_written(&mut self, id: MapId, stored: Vec<u8>, key: &[u8]) {
        let Some(Kind::Hash(table)) = self.maps.get_mut(&id).map(|m| &mut m.kind) else { return };
        if stored[4..] == key[4..] {
            table.written.remove(&stored);
        } else {
            table.written.insert(stored, key.to_vec());
        }
    }

    /// `bpf_map_update_elem`.
    ///
    /// # Errors
    /// As the kernel: `EINVAL`, `E2BIG`, `EEXIST`, `ENOENT`, `ENOSPC`, `ENOMEM`, `ENOTSUPP`.
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
        let array = matches!(map.kind, Kind::Array { .. });
        if flags & LOCK != 0 && map.def.spin_lock_off.is_none() && !array {
            return Err(Errno::EINVAL);
        }
        if map.is_keyed() && flags & !LOCK > EXIST {
            return Err(Errno::EINVAL);
        }
        match &map.kind {
            Kind::Array { .. } => self.array_update(id, key, value, flags, who),
            Kind::Hash(_) if t == MapType::LpmTrie => {
                let stored = self.lpm_key(key)?;
                self.hash_update(id, &stored, value, flags, who)?;
                self.lpm_written(id, stored, key);
                Ok(())
            }
            Kind::Hash(_) => self.hash_update(id, key, value, flags, who),
            Kind::Targets(_) => self.target_update(id, key, value, flags),
            Kind::CgroupStorage(_) => self.storage_update(id, key, value, flags),
            Kind::Fifo(_) | Kind::Bloom(_) => self.fifo_push(id, value, flags),
            Kind::Ring(_) => Err(Errno::ENOTSUPP),
            Kind::Arena(_) => Err(Errno::EOPNOTSUPP),
            // User space names owners by descriptors that the model's processes do not have.
            Kind::Storage(_) | Kind::Xsk => Err(Errno::EBADF),
            Kind::Progs { .. }
            | Kind::Groups { .. }
            | Kind::Maps { .. }
            | Kind::MapHash { .. }
            | Kind::Stacks(_)
            | Kind::Perf { .. } => Err(Errno::EINVAL),
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
        let max = map.def.max_entries;
        let Kind::Array { values, stride } = map.kind else { return Err(Errno::EINVAL) };
        let index = attr::index_of(self.mem.endian(), key);
        if index >= max {
            return Err(Errno::E2BIG);
        }
        if flags & NOEXIST != 0 {
            return Err(Errno::EEXIST);
        }
        if flags & LOCK != 0 && map.def.spin_lock_off.is_none() {
            return Err(Errno::EINVAL);
        }
        let at = values + u64::from(index) * stride;
        if self.maps[&id].def.record.is_empty() {
            return self.write_value(id, at, value, who);
        }
        let value = self.around_fields(id, at, value);
        self.write_value(id, at, &value, who)?;
        self.values_gone(id, at);
        Ok(())
    }

    /// Writes a value, of per-CPU ones a program its CPU's, user space those of all in a row.
    pub(crate) fn write_value(
        &mut self,
        id: MapId,
        at: u64,
        value: &[u8],
        who: Who,
    ) -> Result<(), Errno> {
        let map = &self.maps[&id];
        let (row, between) = (map.value_stride() as usize, map.cpu_stride());
        let (first, row) = match (map.is_percpu(), who) {
            (true, Who::Program(cpu)) => (u64::from(cpu.0), row),
            (true, Who::User) => (0, row),
            (false, _) => (0, value.len().max(1)),
        };
        for (n, part) in (first..).zip(value.chunks(row)) {
            self.mem.write(at + n * between, part).map_err(|_| Errno::EFAULT)?;
        }
        Ok(())
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
        let t = map.def.map_type;
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
            if !self.updates_in_place(id, flags & LOCK != 0) {
                return self.hash_replace(id, key, at, value, who);
            }
            let value = self.around_fields(id, at, value);
            self.write_value(id, at, &value, who)?;
            if flags & LOCK == 0 {
                self.values_gone(id, at);
            }
            return Ok(());
        }
        if flags & EXIST != 0 {
            return Err(Errno::ENOENT);
        }
        if table.by_key.len() as u64 >= max {
            if !is_lru(t) {
                return Err(if t == MapType::LpmTrie { Errno::ENOSPC } else { Errno::E2BIG });
            }
            let oldest = table.order.values().next().cloned().unwrap_or_default();
            self.map_delete_key(id, &oldest)?;
        }
        let at = self.elem_alloc(id)?;
        let value = self.elem_value(id, at, value, who)?;
        self.write_value(id, at, &value, who)?;
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        if let Kind::Hash(table) | Kind::Targets(table) = &mut map.kind {
            table.insert(key.to_vec(), at);
        }
        Ok(())
    }

    /// The value of a new element, whose special fields are clear; that of a CPU is zero on the
    /// others (`pcpu_init_value`).
    fn elem_value(&mut self, id: MapId, at: u64, value: &[u8], who: Who) -> Result<Vec<u8>, Errno> {
        let map = &self.maps[&id];
        let (stride, percpu) = (map.value_stride(), map.is_percpu());
        let fields: Vec<(u32, u32)> =
            map.def.record.fields.iter().map(|f| (f.off, f.size)).collect();
        let copies = if percpu { u64::from(self.config.cpus) } else { 1 };
        let zero = |k: &mut Kernel, at, len: usize| k.mem.fill(at, len, 0);
        for copy in 0..copies {
            let at = at + copy * stride;
            if percpu && matches!(who, Who::Program(_)) {
                zero(self, at, stride as usize).map_err(|_| Errno::EFAULT)?;
            }
            for (off, size) in &fields {
                let at = at + u64::from(*off);
                zero(self, at, *size as usize).map_err(|_| Errno::EFAULT)?;
            }
        }
        Ok(self.around_fields(id, at, value))
    }

    /// An update of a key that is there: a new element takes the place of the old one, to which
    /// others may still have pointers.
    fn hash_replace(
        &mut self,
        id: MapId,
        key: &[u8],
        old: u64,
        value: &[u8],
        who: Who,
    ) -> Result<(), Errno> {
        let at = self.elem_for_old(id)?;
        let value = self.elem_value(id, at, value, who)?;
        self.write_value(id, at, &value, who)?;
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        if let Kind::Hash(table) = &mut map.kind
            && let Some(elem) = table.by_key.get_mut(key)
        {
            elem.value = at;
        }
        self.values_gone(id, old);
        self.elem_replaced(id, old);
        Ok(())
    }

    /// `bpf_map_delete_elem`.
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for arrays and beyond the end; `EOPNOTSUPP` where there are no keys.
    pub(crate) fn map_delete(&mut self, id: MapId, key: &[u8]) -> Result<(), Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        let (t, max) = (map.def.map_type, map.def.max_entries);
        match &map.kind {
            Kind::Hash(_) if t == MapType::LpmTrie => {
                let key = self.lpm_key(key)?;
                self.map_delete_key(id, &key)
            }
            Kind::Hash(_) => self.map_delete_key(id, key),
            Kind::Targets(_) if t == MapType::DevmapHash => self.map_delete_key(id, key),
            Kind::Targets(_) if attr::index_of(self.mem.endian(), key) >= max => Err(Errno::EINVAL),
            // A slot that is empty already is as good.
            Kind::Targets(_) => self.map_delete_key(id, key).or(Ok(())),
            Kind::Stacks(_) => self.stack_delete(id, key),
            Kind::Ring(_) => Err(Errno::ENOTSUPP),
            Kind::Bloom(_) | Kind::Arena(_) => Err(Errno::EOPNOTSUPP),
            Kind::Storage(_) => Err(Errno::EBADF),
            Kind::Xsk if attr::index_of(self.mem.endian(), key) >= max => Err(Errno::EINVAL),
            Kind::Xsk => Ok(()),
            Kind::Perf { .. } => self.perf_close(id, attr::index_of(self.mem.endian(), key)),
            Kind::Array { .. }
            | Kind::CgroupStorage(_)
            | Kind::Fifo(_)
            | Kind::Progs { .. }
            | Kind::Groups { .. }
            | Kind::Maps { .. }
            | Kind::MapHash { .. } => Err(Errno::EINVAL),
        }
    }

    fn stack_delete(&mut self, id: MapId, key: &[u8]) -> Result<(), Errno> {
        let index = attr::index_of(self.mem.endian(), key);
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        if index >= map.def.max_entries.next_power_of_two() {
            return Err(Errno::E2BIG);
        }
        let Kind::Stacks(stacks) = &mut map.kind else { return Err(Errno::EINVAL) };
        stacks.remove(&index).map(|_| ()).ok_or(Errno::ENOENT)
    }

    /// Writes an entry of a devmap or cpumap (`dev_map_update_elem`, `cpu_map_update_elem`).
    fn target_update(
        &mut self,
        id: MapId,
        key: &[u8],
        value: &[u8],
        flags: u64,
    ) -> Result<(), Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        let (t, max) = (map.def.map_type, map.def.max_entries);
        let Kind::Targets(table) = &map.kind else { return Err(Errno::EINVAL) };
        let (known, full) = (table.by_key.contains_key(key), table.by_key.len() >= max as usize);
        let endian = self.mem.endian();
        let index = attr::index_of(endian, key);
        // The first word is the device or the length of the queue.
        let first = attr::index_of(endian, value.get(..4).unwrap_or_default());
        match t {
            MapType::DevmapHash if first == 0 => return Err(Errno::EINVAL),
            MapType::DevmapHash if known && flags & NOEXIST != 0 => return Err(Errno::EEXIST),
            MapType::DevmapHash => {}
            _ if index >= max => return Err(Errno::E2BIG),
            _ if flags & NOEXIST != 0 => return Err(Errno::EEXIST),
            MapType::Cpumap if first > CPUMAP_QUEUE_MAX => return Err(Errno::EOVERFLOW),
            MapType::Cpumap if index >= self.config.cpus => return Err(Errno::ENODEV),
            _ => {}
        }
        if t != MapType::Cpumap && first != 0 && !self.net.nics.contains_key(&first) {
            return Err(Errno::EINVAL);
        }
        let value = self.target_value(t, first, value)?;
        if t == MapType::DevmapHash && !known && full {
            return Err(Errno::E2BIG);
        }
        if known {
            self.map_delete_key(id, key)?;
        }
        if first == 0 {
            return Ok(());
        }
        let size = value.len().max(8) as u64;
        let charge = Charge { group: self.maps[&id].memcg, bytes: size };
        let at = self.kzalloc_charged(size, charge, super::elem::WHAT)?;
        self.mem.write(at, &value).map_err(|_| Errno::EFAULT)?;
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        if let Kind::Targets(table) = &mut map.kind {
            table.insert(key.to_vec(), at);
        }
        Ok(())
    }

    /// The value as it is kept: in the place of a program's descriptor stands its id.
    fn target_value(&self, t: MapType, first: u32, value: &[u8]) -> Result<Vec<u8>, Errno> {
        let mut value = value.to_vec();
        let Some(word) = value.get(4..8) else { return Ok(value) };
        let fd = attr::index_of(self.mem.endian(), word).cast_signed();
        if fd <= 0 {
            return Ok(value);
        }
        // Without a device there is nothing the program could run for.
        if first == 0 {
            return Err(Errno::EINVAL);
        }
        let prog = self.progs.get(&self.fd_prog(fd)?).ok_or(Errno::EBADF)?;
        let wanted = match t {
            MapType::Cpumap => bpf::uapi::AttachType::XdpCpumap,
            _ => bpf::uapi::AttachType::XdpDevmap,
        };
        if prog.prog_type() != bpf::uapi::ProgType::Xdp
            || prog.verified.program().attach_type != Some(wanted)
        {
            return Err(Errno::EINVAL);
        }
        value[4..8].copy_from_slice(&self.word(prog.id.0));
        Ok(value)
    }

    /// A u32 in guest byte order.
    pub(crate) fn word(&self, v: u32) -> [u8; 4] {
        match self.mem.endian() {
            bpf::Endian::Little => v.to_le_bytes(),
            bpf::Endian::Big => v.to_be_bytes(),
        }
    }

    /// Takes an element out; see [`super::elem`] for what becomes of it.
    fn map_delete_key(&mut self, id: MapId, key: &[u8]) -> Result<(), Errno> {
        let map = self.maps.get_mut(&id).ok_or(Errno::EBADF)?;
        let (Kind::Hash(table) | Kind::Targets(table)) = &mut map.kind else {
            return Err(Errno::EINVAL);
        };
        let elem = table.remove(key).ok_or(Errno::ENOENT)?;
        self.values_gone(id, elem.value);
        self.elem_free(id, elem.value);
        Ok(())
    }

    /// Special fields of an element's value, of all CPUs.
    pub(crate) fn values_gone(&mut self, id: MapId, value: u64) {
        let map = &self.maps[&id];
        let copies = if map.is_percpu() { u64::from(self.config.cpus) } else { 1 };
        let between = map.cpu_stride();
        for n in 0..copies {
            self.value_gone(id, value + n * between);
        }
    }

    /// `copy_map_value`: special fields of the value that is there stay as they are.
    pub(crate) fn around_fields(&self, id: MapId, at: u64, value: &[u8]) -> Vec<u8> {
        let mut out = value.to_vec();
        for f in &self.maps[&id].def.record.fields {
            let (from, len) = (f.off as usize, f.size as usize);
            // Of per-CPU values user space writes all in a row.
            if let Some(part) = out.get_mut(from..from + len) {
                let kept = self.mem.read_vec(at + u64::from(f.off), len);
                part.copy_from_slice(&kept.expect("map values are mapped"));
            }
        }
        out
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maps::MapDef;
    use crate::{Config, Kernel};

    fn trie(k: &mut Kernel) -> MapId {
        let def = MapDef {
            map_type: MapType::LpmTrie,
            key_size: 6,
            value_size: 4,
            max_entries: 64,
            flags: 1,
            ..MapDef::default()
        };
        k.map_create(def, None).unwrap()
    }

    fn key(len: u32, data: u16) -> Vec<u8> {
        [&len.to_le_bytes()[..], &data.to_be_bytes()].concat()
    }

    /// As Linux 6.18 answers the same calls.
    #[test]
    fn keys_of_a_trie_are_as_they_were_written() {
        let mut k = Kernel::new(Config::default());
        let id = trie(&mut k);
        let put = |k: &mut Kernel, key: &[u8]| k.map_update(id, key, &[1; 4], 0, Who::User);
        for (len, data) in [(8, 0x1234), (16, 0x1277), (0, 0xffff)] {
            put(&mut k, &key(len, data)).unwrap();
        }
        assert_eq!(k.user_keys(id), [key(16, 0x1277), key(8, 0x1234), key(0, 0xffff)]);
        // Another key of the same prefix takes its place.
        put(&mut k, &key(8, 0x12ab)).unwrap();
        assert_eq!(k.user_next_key(id, Some(&key(16, 0x1277))), Ok(key(8, 0x12ab)));
        assert_eq!(k.user_next_key(id, Some(&key(8, 0x1201))), Ok(key(0, 0xffff)));
        k.map_delete(id, &key(8, 0x1200)).unwrap();
        assert_eq!(k.user_keys(id), [key(16, 0x1277), key(0, 0xffff)]);
        put(&mut k, &key(8, 0x1200)).unwrap();
        assert_eq!(k.user_keys(id)[1], key(8, 0x1200));
    }

    /// Against the definition: of all prefixes that match, the longest.
    #[test]
    fn the_longest_prefix_is_found() {
        let mut k = Kernel::new(Config::default());
        let id = trie(&mut k);
        let held: [(u32, u16); 7] = [
            (0, 0),
            (1, 0x8000),
            (4, 0xa000),
            (9, 0xab00),
            (12, 0xabc0),
            (16, 0xabcd),
            (8, 0x1200),
        ];
        for (len, data) in held {
            k.map_update(id, &key(len, data), &len.to_le_bytes(), 0, Who::User).unwrap();
        }
        for data in 0..=u16::MAX {
            for limit in [0, 3, 8, 11, 16] {
                let fits = |l: u32, d: u16| l <= limit && (l == 0 || (d ^ data) >> (16 - l) == 0);
                let want = held.iter().filter(|(l, d)| fits(*l, *d)).map(|h| h.0).max();
                let stored = k.lpm_key(&key(limit, data)).unwrap();
                let Kind::Hash(table) = &k.maps[&id].kind else { panic!("a trie") };
                let at = lpm_match(table, &stored);
                let got = (at != 0).then(|| k.mem.read_u32(at).unwrap());
                assert_eq!(got, want, "{data:#x}/{limit}");
            }
        }
    }
}
