//! `BPF_MAP_CREATE` and the element commands.

use bpf::uapi::MapType;
use bpf::uapi::attr::{MapCreate, MapDelete, MapElem, MapFreeze, MapNextKey};
use bpf::uapi::fields::obj_name_text;
use verifier::btf::record::FieldKind;

use super::{Call, FdObject, SysError, SysResult, VMLINUX_BTF};
use crate::maps::{BtfRule, MapDef, MapId, check, check_btf, rule_of};
use crate::{Errno, Kernel};

/// `BPF_F_LOCK`.
const LOCK: u64 = 4;
/// `BPF_F_NUMA_NODE`, `BPF_F_RDONLY`, `BPF_F_WRONLY`.
const NUMA_NODE: u32 = 1 << 2;
const RDONLY: u32 = 1 << 3;
const WRONLY: u32 = 1 << 4;

/// What a loader knows of a program and bpf(2) has no field for: where it stood in the object.
/// It is kept with the program that is loaded next, for attaching by section name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SectionNote {
    /// Symbol of the entry function, which may be longer than a kernel name.
    pub symbol: String,
    /// ELF section.
    pub section: String,
    /// What it says after the slash.
    pub attach_to: Option<String>,
}

/// `bpf_obj_name_cpy`: letters, digits, `_` and `.`, and a NUL.
pub(super) fn name_is_valid(name: &[u8; 16]) -> bool {
    let end = name.iter().position(|b| *b == 0);
    let is_valid = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.');
    end.is_some_and(|end| name[..end].iter().all(is_valid))
}

pub(super) fn create(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapCreate = call.get();
    check_attr(&a)?;
    let Some(map_type) = MapType::from_raw(a.map_type) else { return Err(Errno::EINVAL.into()) };
    let Some(rule) = rule_of(map_type) else {
        return Err(match map_type {
            MapType::Unspec | MapType::InsnArray => Errno::EINVAL.into(),
            other => SysError::unsupported(format!("map type {}", other.name())),
        });
    };
    let mut def = MapDef {
        map_type,
        key_size: a.key_size,
        value_size: a.value_size,
        max_entries: a.max_entries,
        flags: a.map_flags,
        map_extra: a.map_extra,
        name: obj_name_text(&a.map_name),
        numa_node: if a.map_flags & NUMA_NODE != 0 { a.numa_node } else { u32::MAX },
        ..MapDef::default()
    };
    check(&def)?;
    if a.map_ifindex != 0 {
        let known = k.net.nics.contains_key(&a.map_ifindex);
        return Err(match rule.offload && known {
            // The modelled devices take no maps.
            true => Errno::EOPNOTSUPP.into(),
            false => Errno::EINVAL.into(),
        });
    }
    let nested = matches!(map_type, MapType::ArrayOfMaps | MapType::HashOfMaps);
    let inner = if nested { Some(inner_template(k, a.inner_map_fd.cast_signed())?) } else { None };
    if !name_is_valid(&a.map_name) {
        return Err(Errno::EINVAL.into());
    }
    if rule.btf == BtfRule::Owner && (a.btf_key_type_id == 0 || a.btf_value_type_id == 0) {
        return Err(Errno::EINVAL.into());
    }
    if a.btf_key_type_id != 0 || a.btf_value_type_id != 0 {
        take_btf(k, &a, &mut def)?;
    }
    let id = k.map_create(def, inner)?;
    Ok(k.fd_install(FdObject::Map(id)))
}

/// What `map_create` looks at before the type.
fn check_attr(a: &MapCreate) -> Result<(), SysError> {
    let wrong = a.btf_vmlinux_value_type_id != 0 && a.map_type != MapType::StructOps as u32
        || a.btf_key_type_id != 0 && a.btf_value_type_id == 0;
    let extra = [MapType::BloomFilter as u32, MapType::Arena as u32].contains(&a.map_type);
    let wrong = wrong || a.map_extra != 0 && !extra;
    let wrong = wrong || a.map_flags & (RDONLY | WRONLY) == RDONLY | WRONLY;
    // One node; -1 is "any".
    let node = a.map_flags & NUMA_NODE != 0 && !matches!(a.numa_node, 0 | u32::MAX);
    if wrong || node {
        return Err(Errno::EINVAL.into());
    }
    if a.map_token_fd != 0 || a.excl_prog_hash != 0 || a.excl_prog_hash_size != 0 {
        return Err(SysError::unsupported("maps with a token or for one program alone"));
    }
    Ok(())
}

/// `bpf_map_meta_alloc`.
fn inner_template(k: &Kernel, fd: i32) -> Result<MapDef, Errno> {
    let map = &k.maps[&k.fd_map(fd)?];
    if map.inner.is_some() {
        return Err(Errno::EINVAL);
    }
    match rule_of(map.def.map_type) {
        Some(rule) if rule.inner => Ok(map.def.clone()),
        _ => Err(Errno::ENOTSUPP),
    }
}

/// The types that a loader gives for keys and values.
fn take_btf(k: &Kernel, a: &MapCreate, def: &mut MapDef) -> Result<(), SysError> {
    let id = k.fd_btf(a.btf_fd.cast_signed())?;
    if id == VMLINUX_BTF {
        return Err(Errno::EACCES.into());
    }
    let btf = k.btf_object(id).ok_or(Errno::EBADF)?;
    (def.key_type_id, def.value_type_id) = (a.btf_key_type_id, a.btf_value_type_id);
    def.btf_id = id.0;
    check_btf(def, &btf, Some(&**k.vmlinux_btf()))?;
    match def.record.fields.iter().any(|f| f.kind == FieldKind::Uptr) {
        true => Err(SysError::unsupported("__uptr fields of task storage")),
        false => Ok(()),
    }
}

/// `__bpf_copy_key`: a map without keys wants none.
fn key_of(call: &Call<'_>, addr: u64, size: u32) -> Result<Vec<u8>, Errno> {
    match size {
        0 if addr != 0 => Err(Errno::EINVAL),
        0 => Ok(Vec::new()),
        size => call.user.read(addr, size as usize),
    }
}

impl Kernel {
    /// A flag that only maps with a lock in their values take.
    pub(super) fn lock_flag_ok(&self, id: MapId, flags: u64) -> bool {
        flags & LOCK == 0 || self.maps[&id].def.spin_lock_off.is_some()
    }

    fn user_size(&self, id: MapId) -> usize {
        self.maps[&id].user_value_size(self.config.cpus)
    }
}

pub(super) fn lookup(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapElem = call.get();
    if a.flags & !LOCK != 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = k.fd_map_for(a.map_fd, true, false)?;
    if !k.lock_flag_ok(id, a.flags) {
        return Err(Errno::EINVAL.into());
    }
    let key = key_of(call, a.key, k.maps[&id].def.key_size)?;
    if k.maps[&id].def.map_type == MapType::BloomFilter {
        let value = call.user.read(a.value, k.user_size(id))?;
        k.user_bloom(id, &value)?;
        return Ok(0);
    }
    let value = k.user_lookup(id, &key)?;
    let value = hide_lock(k, id, value);
    call.user.write(a.value, &value)?;
    Ok(0)
}

/// `check_and_init_map_value`: a copy's lock reads as zero.
pub(super) fn hide_lock(k: &Kernel, id: MapId, mut value: Vec<u8>) -> Vec<u8> {
    let def = &k.maps[&id].def;
    let fields = [(def.spin_lock_off, 4), (def.timer_off, 16)];
    for (off, len) in fields {
        if let Some(b) = off.and_then(|at| value.get_mut(at as usize..at as usize + len)) {
            b.fill(0);
        }
    }
    value
}

pub(super) fn update(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapElem = call.get();
    let id = k.fd_map_for(a.map_fd, false, true)?;
    if !k.lock_flag_ok(id, a.flags) {
        return Err(Errno::EINVAL.into());
    }
    let key = key_of(call, a.key, k.maps[&id].def.key_size)?;
    let value = call.user.read(a.value, k.user_size(id))?;
    k.user_update_value(id, &key, &value, a.flags)?;
    Ok(0)
}

pub(super) fn delete(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapDelete = call.get();
    let id = k.fd_map_for(a.map_fd, false, true)?;
    let key = key_of(call, a.key, k.maps[&id].def.key_size)?;
    k.user_delete(id, &key)?;
    Ok(0)
}

pub(super) fn next_key(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapNextKey = call.get();
    let id = k.fd_map_for(a.map_fd, true, false)?;
    let size = k.maps[&id].def.key_size;
    let key = if a.key == 0 { None } else { Some(key_of(call, a.key, size)?) };
    let next = k.user_next_key(id, key.as_deref())?;
    call.user.write(a.next_key, &next)?;
    Ok(0)
}

pub(super) fn lookup_and_delete(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapElem = call.get();
    if a.flags & !LOCK != 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = k.fd_map_for(a.map_fd, true, true)?;
    let def = &k.maps[&id].def;
    let fifo = matches!(def.map_type, MapType::Queue | MapType::Stack);
    if fifo && a.flags != 0 || !k.lock_flag_ok(id, a.flags) {
        return Err(Errno::EINVAL.into());
    }
    let key = key_of(call, a.key, def.key_size)?;
    let value = k.user_take(id, &key)?;
    let value = hide_lock(k, id, value);
    call.user.write(a.value, &value)?;
    Ok(0)
}

pub(super) fn freeze(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: MapFreeze = call.get();
    let id = k.fd_map_for(a.map_fd, false, true)?;
    k.map_freeze(id)?;
    Ok(0)
}
