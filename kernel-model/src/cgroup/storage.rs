//! Local storage of attached programs (kernel/bpf/local_storage.c): maps with a value for each
//! group that a program of theirs was attached to, and, where keys say so, for each attach type. A
//! value comes with the first attachment and goes with the group or the map.

use bpf::Endian;
use bpf::uapi::AttachType;

use super::id_of;
use crate::cpu::{CpuId, Frame};
use crate::maps::{EXIST, Kind, LOCK, MapId, Who};
use crate::memcg::Charge;
use crate::sched::OpFrame;
use crate::{Errno, Kernel, ProgId};

/// What values are for, as sites of faults and in reports.
const WHAT: &str = "cgroup storage";
/// `struct bpf_cgroup_storage_key` up to its padding, and with it; the others are the id alone.
const KEY_END: usize = 12;
const KEY_SIZE: u32 = 16;

/// A key as it is kept: padding does not count (`bpf_cgroup_storage_key_cmp`).
pub(crate) fn kept_key(key: &[u8]) -> Vec<u8> {
    let mut key = key.to_vec();
    key.iter_mut().skip(KEY_END).for_each(|b| *b = 0);
    key
}

impl Kernel {
    /// The key of a map for a group and attach type.
    fn storage_key(&self, id: MapId, group: usize, attach: u32) -> Vec<u8> {
        let group = id_of(group);
        let (mut key, attach) = match self.mem.endian() {
            Endian::Little => (group.to_le_bytes().to_vec(), attach.to_le_bytes()),
            Endian::Big => (group.to_be_bytes().to_vec(), attach.to_be_bytes()),
        };
        if self.maps[&id].def.key_size == KEY_SIZE {
            key.extend(attach);
            key.resize(KEY_SIZE as usize, 0);
        }
        key
    }

    fn storage_alloc(&mut self, id: MapId) -> Result<u64, Errno> {
        let (bytes, group) = (self.elem_bytes(id), self.maps[&id].memcg);
        self.kzalloc_charged(bytes, Charge { group, bytes }, WHAT)
    }

    /// A program's maps of local storage.
    fn storage_maps(&self, prog: ProgId) -> Vec<MapId> {
        let of =
            |id: &MapId| matches!(self.maps.get(id).map(|m| &m.kind), Some(Kind::CgroupStorage(_)));
        let maps = self.progs.get(&prog).map_or(Vec::new(), |p| p.maps.clone());
        maps.into_iter().filter(of).collect()
    }

    /// Values for a test run, which is for no group: they are in no map.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub(crate) fn storages_of_test(&mut self, prog: ProgId) -> Result<Vec<(MapId, u64)>, Errno> {
        let mut made = Vec::new();
        for id in self.storage_maps(prog) {
            match self.storage_alloc(id) {
                Ok(at) => made.push((id, at)),
                Err(e) => {
                    self.storages_free(made);
                    return Err(e);
                }
            }
        }
        Ok(made)
    }

    /// `bpf_cgroup_storage_free` of such values.
    pub(crate) fn storages_free(&mut self, values: Vec<(MapId, u64)>) {
        values.into_iter().for_each(|(_, at)| self.kfree_rcu(at, WHAT));
    }

    /// `bpf_cgroup_storages_alloc` and `bpf_cgroup_storages_link`.
    pub(super) fn storages_link(
        &mut self,
        group: usize,
        attach: AttachType,
        prog: ProgId,
    ) -> Result<(), Errno> {
        let (mut new, mut failed) = (Vec::new(), None);
        for id in self.storage_maps(prog) {
            let key = self.storage_key(id, group, attach as u32);
            let Kind::CgroupStorage(table) = &self.maps[&id].kind else { continue };
            if table.by_key.contains_key(&key) {
                continue;
            }
            match self.storage_alloc(id) {
                Ok(at) => new.push((id, key, at)),
                Err(e) => failed = Some(e),
            }
        }
        for (id, key, at) in new {
            match (&failed, self.maps.get_mut(&id).map(|m| &mut m.kind)) {
                (None, Some(Kind::CgroupStorage(table))) => table.insert(key, at),
                _ => self.kfree(at, WHAT),
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// The values of a group that goes.
    pub(super) fn storages_unlink(&mut self, group: usize) {
        let mut gone = Vec::new();
        let ids: Vec<MapId> = self.maps.keys().copied().collect();
        for id in ids {
            let of = self.storage_key(id, group, 0);
            let Some(Kind::CgroupStorage(table)) = self.maps.get_mut(&id).map(|m| &mut m.kind)
            else {
                continue;
            };
            let its = |k: &&Vec<u8>| k[..8] == of[..8];
            let keys: Vec<Vec<u8>> = table.by_key.keys().filter(its).cloned().collect();
            gone.extend(keys.iter().filter_map(|k| table.remove(k)));
        }
        gone.into_iter().for_each(|e| self.kfree_rcu(e.value, WHAT));
    }

    /// `cgroup_storage_update_elem`, `bpf_percpu_cgroup_storage_update`: values that are there.
    pub(crate) fn storage_update(
        &mut self,
        id: MapId,
        key: &[u8],
        value: &[u8],
        flags: u64,
    ) -> Result<(), Errno> {
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        let percpu = map.is_percpu();
        let known = if percpu { EXIST } else { EXIST | LOCK };
        if flags & !known != 0 {
            return Err(Errno::EINVAL);
        }
        let key = kept_key(key);
        let Kind::CgroupStorage(table) = &map.kind else { return Err(Errno::EINVAL) };
        let old = table.by_key.get(&key).map(|e| e.value).ok_or(Errno::ENOENT)?;
        let at = if percpu || flags & LOCK != 0 { old } else { self.storage_alloc(id)? };
        let value = self.around_fields(id, at, value);
        self.write_value(id, at, &value, Who::User)?;
        if at != old {
            if let Some(Kind::CgroupStorage(table)) = self.maps.get_mut(&id).map(|m| &mut m.kind)
                && let Some(elem) = table.by_key.get_mut(&key)
            {
                elem.value = at;
            }
            self.kfree_rcu(old, WHAT);
        }
        Ok(())
    }

    /// `bpf_get_local_storage` of the program that runs for a group or is tested; 0 when its
    /// attachment came without a value.
    pub(crate) fn storage_of_run(&mut self, cpu: CpuId, id: MapId) -> u64 {
        let run = |f: &Frame| match f {
            Frame::Op(o) => match &**o {
                OpFrame::Cgroup(f) => f.running().map(Run::For),
                _ => None,
            },
            Frame::TestRun(run) => Some(Run::Test(run.storage(id).unwrap_or(0))),
            _ => None,
        };
        match self.cpus[cpu.idx()].frames.iter().rev().find_map(run) {
            None | Some(Run::Test(0)) => 0,
            Some(Run::Test(at)) => {
                let map = &self.maps[&id];
                at + if map.is_percpu() { u64::from(cpu.0) * map.cpu_stride() } else { 0 }
            }
            Some(Run::For((group, attach))) => {
                let key = self.storage_key(id, group, attach);
                self.map_lookup(id, &key, cpu)
            }
        }
    }
}

/// What a program runs for: a group and an attach type, or a test, with a value of the map.
enum Run {
    For((usize, u32)),
    Test(u64),
}

#[cfg(test)]
mod tests {
    use bpf::uapi::MapType;

    use super::*;
    use crate::Config;
    use crate::maps::MapDef;

    /// As Linux 6.18 answers the same calls.
    #[test]
    fn user_space_changes_values_that_are_there() {
        let mut k = Kernel::new(Config::default());
        for map_type in [MapType::CgroupStorage, MapType::PercpuCgroupStorage] {
            let def = |key_size, value_size, max_entries, flags| MapDef {
                map_type,
                key_size,
                value_size,
                max_entries,
                flags,
                ..MapDef::default()
            };
            let percpu = map_type == MapType::PercpuCgroupStorage;
            for (def, wanted) in [
                (def(12, 8, 0, 0), Errno::EINVAL),
                (def(16, 0, 0, 0), Errno::EINVAL),
                (def(16, 8, 1, 0), Errno::EINVAL),
                (def(16, 8, 0, 1), Errno::EINVAL),
                (def(16, if percpu { 32769 } else { 65408 }, 0, 0), Errno::E2BIG),
            ] {
                assert_eq!(k.map_create(def.clone(), None), Err(wanted), "{def:?}");
            }
            let id = k.map_create(def(16, 8, 0, 0), None).unwrap();
            let (a, b) = (k.storage_key(id, 1, 0), k.storage_key(id, 1, 1));
            let value = vec![1; if percpu { 16 } else { 8 }];
            let wrong = [1, 3, 4, 8].map(|flags| k.user_update(id, &a, &value, flags));
            assert_eq!(wrong, [Err(Errno::EINVAL); 4]);
            let none = [0, 2].map(|flags| k.user_update(id, &a, &value, flags));
            assert_eq!(none, [Err(Errno::ENOENT); 2]);
            assert_eq!(k.user_delete(id, &a), Err(Errno::EINVAL));
            for key in [&a, &b] {
                let at = k.storage_alloc(id).unwrap();
                let Kind::CgroupStorage(table) = &mut k.maps.get_mut(&id).unwrap().kind else {
                    panic!("it is one")
                };
                table.insert(key.clone(), at);
            }
            // The newest comes first, and padding does not count.
            let mut padded = b.clone();
            padded[15] = 1;
            assert_eq!(k.user_next_key(id, None), Ok(b.clone()));
            assert_eq!(k.user_next_key(id, Some(&padded)), Ok(a.clone()));
            assert_eq!(k.user_next_key(id, Some(&a)), Err(Errno::ENOENT));
            k.user_update(id, &padded, &value, 2).unwrap();
            assert_eq!(k.user_lookup(id, &b), Ok(value));
            k.storages_unlink(1);
            assert!(k.user_keys(id).is_empty());
        }
    }
}
