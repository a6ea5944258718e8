//! Local storage: a value of a map for each task, control group, socket or inode
//! (kernel/bpf/bpf_local_storage.c, bpf_task_storage.c, bpf_cgrp_storage.c).

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::maps::{CLONE, Kind, MapId};
use crate::memcg::Charge;
use crate::{Errno, Kernel};

/// The rows.
#[rustfmt::skip]
pub(crate) const ROWS: &[HelperRow] = &[
    HelperRow { id: 107, name: "sk_storage_get", nargs: 4, body: get },
    HelperRow { id: 108, name: "sk_storage_delete", nargs: 2, body: delete },
    HelperRow { id: 145, name: "inode_storage_get", nargs: 4, body: get },
    HelperRow { id: 146, name: "inode_storage_delete", nargs: 2, body: delete },
    HelperRow { id: 156, name: "task_storage_get", nargs: 4, body: get },
    HelperRow { id: 157, name: "task_storage_delete", nargs: 2, body: delete },
    HelperRow { id: 210, name: "cgrp_storage_get", nargs: 4, body: get },
    HelperRow { id: 211, name: "cgrp_storage_delete", nargs: 2, body: delete },
];

/// `BPF_LOCAL_STORAGE_GET_F_CREATE`.
const CREATE: u64 = 1;

/// The owner's value; a new one is a copy of the program's, or zeroes.
fn get(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    let [map, owner, _, flags, _] = args;
    if flags & !CREATE != 0 || owner == 0 {
        return Ret::Val(0);
    }
    let new = flags & CREATE != 0 && !has(k, map, owner);
    if new && is_busy(k, cpu, map) {
        return Ret::Val(0);
    }
    if !new || !k.locks_seen() {
        return get_now(k, cpu, args);
    }
    let call = ("bpf_local_storage_update", args);
    k.under_locks(cpu, call, get_now, |k| k.storage_plan(map, owner, true))
}

/// Whether an owner has a value.
fn has(k: &Kernel, map: u64, owner: u64) -> bool {
    let map = k.map_at(map).and_then(|id| k.map(id));
    map.is_some_and(|m| matches!(&m.kind, Kind::Storage(v) if v.contains_key(&owner)))
}

/// `bpf_task_storage_trylock` fails: this CPU is in such a storage already.
fn is_busy(k: &Kernel, cpu: CpuId, map: u64) -> bool {
    k.locks.storage_busy.contains(&cpu) && k.map_at(map).is_some_and(|id| k.is_busy_storage(id))
}

fn get_now(k: &mut Kernel, _: CpuId, [map, owner, init, flags, _]: [u64; 5]) -> Ret {
    let find = |k: &mut Kernel| -> Result<u64, Fault> {
        let id = k.helper_map(map)?;
        let Kind::Storage(values) = &k.maps[&id].kind else { return Ok(0) };
        if let Some(at) = values.get(&owner) {
            return Ok(*at);
        }
        if flags & CREATE == 0 {
            return Ok(0);
        }
        let size = k.maps[&id].def.value_size;
        let value = if init == 0 { None } else { Some(k.mem.read_vec(init, size as usize)?) };
        Ok(k.storage_new(id, owner, value.as_deref()).unwrap_or(0))
    };
    find(k).map_or_else(Ret::Fault, Ret::Val)
}

fn delete(k: &mut Kernel, cpu: CpuId, args: [u64; 5]) -> Ret {
    let [map, owner, ..] = args;
    if owner == 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
    if is_busy(k, cpu, map) {
        return Ret::Val(Errno::EBUSY.ret());
    }
    if !k.locks_seen() {
        return delete_now(k, cpu, args);
    }
    let call = ("bpf_local_storage_delete", args);
    k.under_locks(cpu, call, delete_now, |k| k.storage_plan(map, owner, false))
}

impl Kernel {
    /// `bpf_selem_alloc`: an owner's value in a map, zeroes but for what is given.
    fn storage_new(&mut self, id: MapId, owner: u64, value: Option<&[u8]>) -> Result<u64, Errno> {
        let size = self.maps[&id].def.value_size;
        // struct bpf_local_storage_elem in front of the value.
        let bytes = u64::from(size).next_multiple_of(8) + 64;
        let charge = Charge { group: self.maps[&id].memcg, bytes };
        let at = self.kzalloc_charged(size.into(), charge, "local storage")?;
        if let Some(value) = value {
            let bytes = self.around_fields(id, at, value);
            self.mem.write(at, &bytes).expect("a new object is mapped");
        }
        if let Some(Kind::Storage(values)) = self.maps.get_mut(&id).map(|m| &mut m.kind) {
            values.insert(owner, at);
        }
        Ok(at)
    }

    /// `bpf_sk_storage_clone`: a child has what its listener has in maps with `BPF_F_CLONE`.
    pub(crate) fn storage_clone(&mut self, from: u64, to: u64) -> Result<(), Errno> {
        let found = self.maps.iter().filter_map(|(id, map)| match &map.kind {
            Kind::Storage(values) if map.def.flags & CLONE != 0 => {
                Some((*id, *values.get(&from)?, map.def.value_size))
            }
            _ => None,
        });
        for (id, at, size) in found.collect::<Vec<_>>() {
            let value = self.bytes(at, size.into());
            self.storage_new(id, to, Some(&value))?;
        }
        Ok(())
    }

    /// `bpf_local_storage_destroy`: an owner goes, and its values in all maps with it.
    pub(crate) fn storage_gone(&mut self, owner: u64) {
        let ids: Vec<_> = self.maps.keys().copied().collect();
        for id in ids {
            let map = self.maps.get_mut(&id).expect("just listed");
            let Kind::Storage(values) = &mut map.kind else { continue };
            if let Some(at) = values.remove(&owner) {
                self.value_gone(id, at);
                self.rcu_free(at, "local storage", crate::rcu::CHAIN);
            }
        }
    }
}

fn delete_now(k: &mut Kernel, _: CpuId, [map, owner, ..]: [u64; 5]) -> Ret {
    let id = match k.helper_map(map) {
        Ok(id) => id,
        Err(fault) => return Ret::Fault(fault),
    };
    let map = k.maps.get_mut(&id).expect("helper_map found it");
    let Kind::Storage(values) = &mut map.kind else { return Ret::Val(Errno::EINVAL.ret()) };
    match values.remove(&owner) {
        Some(at) => {
            k.value_gone(id, at);
            k.rcu_free(at, "local storage", crate::rcu::CHAIN);
            Ret::Val(0)
        }
        None => Ret::Val(Errno::ENOENT.ret()),
    }
}
