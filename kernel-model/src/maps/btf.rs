//! The types of keys and values, which say where in a value the kernel has something of its own.

use bpf::btf::{Btf, Kind};
use bpf::uapi::MapType;
use verifier::btf::record::{self, FieldKind, Place};

use super::MapDef;
use super::rules::{BtfRule, of as rule_of};
use crate::Errno;

/// `BPF_F_RDONLY_PROG | BPF_F_WRONLY_PROG`.
const PROG_ACCESS: u32 = 3 << 7;

/// Whether a map takes the types of its keys and values, and the special fields of a value.
///
/// Source: `map_check_btf`, Linux 6.18.
///
/// # Errors
/// The kernel's errno; a loader makes the map without types then.
pub fn check_btf(def: &mut MapDef, btf: &Btf, kernel: Option<&Btf>) -> Result<(), Errno> {
    let Some(rule) = rule_of(def.map_type) else { return Ok(()) };
    let (key, value) = (def.key_type_id, def.value_type_id);
    let sized = |ty, size| btf.by_id(ty).is_some() && btf.size_of(ty) == Some(size);
    match key {
        0 if rule.btf == BtfRule::Plain => return Err(Errno::EINVAL),
        0 => {}
        _ if !sized(key, def.key_size) => return Err(Errno::EINVAL),
        _ => {}
    }
    if !sized(value, def.value_size) {
        return Err(Errno::EINVAL);
    }
    // A declaration that the kernel does not take is as none.
    let place = Place::MapValue;
    def.record = record::parse(btf, kernel, btf.resolve(value), place).unwrap_or_default();
    let off = |kind| def.record.find(kind).map(|f| f.off);
    (def.spin_lock_off, def.timer_off) = (off(FieldKind::SpinLock), off(FieldKind::Timer));
    if !def.record.is_empty() {
        // Programs have to be able to write their locks.
        let devmap = matches!(def.map_type, MapType::Devmap | MapType::DevmapHash);
        if devmap || def.flags & PROG_ACCESS != 0 {
            return Err(Errno::EACCES);
        }
        if def.record.fields.iter().any(|f| !may_hold(def.map_type, f.kind, rule.lock)) {
            return Err(Errno::EOPNOTSUPP);
        }
    }
    let kind = |ty| btf.kind(btf.resolve(ty));
    match rule.btf {
        BtfRule::Refused => return Err(Errno::ENOTSUPP),
        BtfRule::Struct if key == 0 || kind(key) != Kind::Struct => return Err(Errno::EINVAL),
        BtfRule::Group if key == 0 => return Err(Errno::EINVAL),
        BtfRule::Group if (def.key_size == 8) != (kind(key) == Kind::Int) => {
            return Err(Errno::EINVAL);
        }
        BtfRule::Owner if kind(key) != Kind::Int => return Err(Errno::EINVAL),
        BtfRule::Keyless if key != 0 => return Err(Errno::EINVAL),
        // A global variable section is the one value of an array without key.
        BtfRule::Index if key == 0 => {
            let section = kind(value) == Kind::Datasec;
            if def.map_type != MapType::Array || def.max_entries != 1 || !section {
                return Err(Errno::EINVAL);
            }
        }
        BtfRule::Index if kind(key) != Kind::Int => return Err(Errno::EINVAL),
        _ => {}
    }
    Ok(())
}

/// Which maps' values have a field; `lock`: a spin lock.
fn may_hold(t: MapType, kind: FieldKind, lock: bool) -> bool {
    use FieldKind as F;
    let hash = matches!(t, MapType::Hash | MapType::LruHash);
    let percpu = matches!(t, MapType::PercpuHash | MapType::LruPercpuHash | MapType::PercpuArray);
    let storage = matches!(
        t,
        MapType::SkStorage | MapType::InodeStorage | MapType::TaskStorage | MapType::CgrpStorage
    );
    match kind {
        F::SpinLock | F::ResSpinLock => lock,
        F::Timer | F::Workqueue | F::TaskWork | F::ListHead | F::RbRoot => {
            hash || t == MapType::Array
        }
        F::KptrUnref | F::KptrRef | F::KptrPercpu | F::Refcount => {
            hash || percpu || t == MapType::Array || storage
        }
        F::Uptr => t == MapType::TaskStorage,
        F::ListNode | F::RbNode => false,
    }
}
