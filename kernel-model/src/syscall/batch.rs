//! `BPF_MAP_*_BATCH` (`generic_map_*_batch`, `__htab_map_lookup_and_delete_batch`).

use bpf::uapi::MapType;
use bpf::uapi::attr::MapBatch;

use super::{Call, SysResult};
use crate::maps::MapId;
use crate::{Errno, Kernel};

/// `BPF_F_LOCK`.
const LOCK: u64 = 4;

/// Which of the four commands a map type has.
#[derive(Clone, Copy, Debug, Default)]
struct Has {
    lookup: bool,
    take: bool,
    update: bool,
    delete: bool,
    /// Goes bucket by bucket: the cursor is a number.
    buckets: bool,
}

fn has(t: MapType) -> Has {
    use MapType::*;
    let array = Has { lookup: true, update: true, ..Has::default() };
    match t {
        Array | PercpuArray | ArrayOfMaps => array,
        LpmTrie => Has { delete: true, ..array },
        Hash | PercpuHash | LruHash | LruPercpuHash | HashOfMaps => {
            Has { lookup: true, take: true, update: true, delete: true, buckets: true }
        }
        _ => Has::default(),
    }
}

fn open(k: &Kernel, a: &MapBatch, read: bool, write: bool) -> Result<(MapId, Has), Errno> {
    let id = k.fd_map_for(a.map_fd, read, write)?;
    Ok((id, has(k.maps[&id].def.map_type)))
}

fn flags_ok(k: &Kernel, id: MapId, a: &MapBatch) -> Result<(), Errno> {
    if a.elem_flags & !LOCK != 0 || !k.lock_flag_ok(id, a.elem_flags) {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Tells the process how many elements were done.
fn count(call: &mut Call<'_>, n: u32) {
    let a = MapBatch { count: n, ..call.get() };
    call.put(&a);
}

pub(super) fn lookup(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapBatch = call.get();
    let (id, has) = open(k, &a, true, false)?;
    if !has.lookup {
        return Err(Errno::ENOTSUPP.into());
    }
    walk(k, call, &a, id, has.buckets, false)
}

pub(super) fn lookup_and_delete(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapBatch = call.get();
    let (id, has) = open(k, &a, true, true)?;
    if !has.take {
        return Err(Errno::ENOTSUPP.into());
    }
    walk(k, call, &a, id, has.buckets, true)
}

/// Reads elements from a cursor on, and takes them out when asked to.
fn walk(
    k: &mut Kernel,
    call: &mut Call<'_>,
    a: &MapBatch,
    id: MapId,
    buckets: bool,
    take: bool,
) -> SysResult {
    flags_ok(k, id, a)?;
    if buckets && a.flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    if a.count == 0 {
        return Ok(0);
    }
    count(call, 0);
    let key_size = k.maps[&id].def.key_size as usize;
    let value_size = k.maps[&id].user_value_size(k.config.cpus);
    // The position: the number of the next element, or the last key that was read.
    let (mut number, mut last) = (0, None);
    if a.in_batch != 0 {
        if buckets {
            let b = call.user.read(a.in_batch, 4)?;
            number = crate::maps::index_of(call.endian, &b);
        } else {
            last = Some(call.user.read(a.in_batch, key_size)?);
        }
    }
    let mut done = 0;
    let end = loop {
        let next = match buckets {
            true => k.map_key_from(id, number.into()),
            false => k.user_next_key(id, last.as_deref()).ok().map(|key| (0, key)),
        };
        let Some((at, key)) = next else { break Err(Errno::ENOENT) };
        if done == a.count {
            break Ok(0);
        }
        number = (at + 1) as u32;
        last = Some(key.clone());
        let value = match k.user_lookup(id, &key) {
            Ok(value) => super::map::hide_lock(k, id, value),
            Err(Errno::ENOENT) => continue,
            Err(e) => break Err(e),
        };
        call.user.write(a.keys + u64::from(done) * key_size as u64, &key)?;
        call.user.write(a.values + u64::from(done) * value_size as u64, &value)?;
        done += 1;
        if take {
            k.user_delete(id, &key)?;
        }
        // An array stops when the room is used up, before it looks whether there is more.
        if !buckets && done == a.count {
            break Ok(0);
        }
    };
    count(call, done);
    if buckets && (done > 0 || end.is_ok()) {
        let word = call.word(number);
        call.user.write(a.out_batch, &word)?;
    } else if let (Some(key), true) = (last, done > 0) {
        call.user.write(a.out_batch, &key)?;
    }
    Ok(end?)
}

pub(super) fn update(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapBatch = call.get();
    let (id, has) = open(k, &a, false, true)?;
    if !has.update {
        return Err(Errno::ENOTSUPP.into());
    }
    flags_ok(k, id, &a)?;
    let key_size = k.maps[&id].def.key_size as usize;
    let value_size = k.maps[&id].user_value_size(k.config.cpus);
    each(call, &a, |call, n| {
        let key = call.user.read(a.keys + n * key_size as u64, key_size)?;
        let value = call.user.read(a.values + n * value_size as u64, value_size)?;
        k.user_update_value(id, &key, &value, a.elem_flags)
    })
}

pub(super) fn delete(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapBatch = call.get();
    let (id, has) = open(k, &a, false, true)?;
    if !has.delete {
        return Err(Errno::ENOTSUPP.into());
    }
    flags_ok(k, id, &a)?;
    let key_size = k.maps[&id].def.key_size as usize;
    each(call, &a, |call, n| {
        let key = call.user.read(a.keys + n * key_size as u64, key_size)?;
        k.user_delete(id, &key)
    })
}

/// One element after the other until one fails; the count says how many did not.
fn each(
    call: &mut Call<'_>,
    a: &MapBatch,
    mut one: impl FnMut(&mut Call<'_>, u64) -> Result<(), Errno>,
) -> SysResult {
    if a.count == 0 {
        return Ok(0);
    }
    let mut done = 0;
    let mut end = Ok(0);
    while done < a.count {
        if let Err(e) = one(call, u64::from(done)) {
            end = Err(e.into());
            break;
        }
        done += 1;
    }
    count(call, done);
    end
}
