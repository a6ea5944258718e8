//! Local storage: a value of a map for each task, control group, socket or inode
//! (kernel/bpf/bpf_local_storage.c, bpf_task_storage.c, bpf_cgrp_storage.c).

use super::{HelperRow, Ret};
use crate::cpu::{CpuId, Fault};
use crate::maps::Kind;
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
fn get(k: &mut Kernel, _: CpuId, [map, owner, init, flags, _]: [u64; 5]) -> Ret {
    if flags & !CREATE != 0 || owner == 0 {
        return Ret::Val(0);
    }
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
        // struct bpf_local_storage_elem in front of the value.
        let charge = u64::from(size).next_multiple_of(8) + 64;
        let Ok(at) = k.kzalloc_charged(size.into(), charge, "local storage") else {
            return Ok(0);
        };
        if init != 0 {
            let bytes = k.mem.read_vec(init, size as usize)?;
            let bytes = k.around_fields(id, at, &bytes);
            k.mem.write(at, &bytes)?;
        }
        let map = k.maps.get_mut(&id).expect("looked up above");
        if let Kind::Storage(values) = &mut map.kind {
            values.insert(owner, at);
        }
        Ok(at)
    };
    find(k).map_or_else(Ret::Fault, Ret::Val)
}

fn delete(k: &mut Kernel, _: CpuId, [map, owner, ..]: [u64; 5]) -> Ret {
    if owner == 0 {
        return Ret::Val(Errno::EINVAL.ret());
    }
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
