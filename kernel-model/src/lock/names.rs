//! What locks are called: by the variable or map that they lie in.

use bpf::btf::{Body, Btf, TypeId};
use verifier::btf::record::FieldKind;

use super::LockId;
use crate::Kernel;
use crate::maps::{Kind, Map};
use crate::syscall::BtfId;

impl Kernel {
    /// A name for reports: `A` for a global variable, `counters.lock`, `slots[3].lock` and
    /// `flows[17].lock` for locks in map values, `flows: bucket lock` for the kernel's own.
    #[must_use]
    pub fn lock_name(&self, lock: LockId) -> String {
        match lock {
            LockId::Map { map, part, .. } => {
                let name = self.maps.get(&map).map_or("a map that is gone", |m| &m.def.name);
                format!("{name}: {}", part.name())
            }
            LockId::Sleeping(n) => self.sched.wait_name(n).to_owned(),
            LockId::Word(addr) => {
                let found = self.maps.values().find_map(|m| Some((m, self.place_in(m, addr)?)));
                match found {
                    Some((map, (element, off))) => self.value_name(map, &element, off),
                    None => format!("an object's lock at {addr:#x}"),
                }
            }
        }
    }

    /// The name of a lock of a program, for an address that is one.
    pub(crate) fn own_lock_name(&self, addr: u64) -> Option<String> {
        let (map, (element, off)) =
            self.maps.values().find_map(|m| Some((m, self.place_in(m, addr)?)))?;
        let is_lock = |k| matches!(k, FieldKind::SpinLock | FieldKind::ResSpinLock);
        let mut fields = map.def.record.fields.iter();
        fields.any(|f| f.off == off && is_lock(f.kind)).then(|| self.value_name(map, &element, off))
    }

    /// The element that an address lies in, as an index or key in brackets, and the offset.
    fn place_in(&self, map: &Map, addr: u64) -> Option<(String, u32)> {
        let inside = |at: u64, len: u64| addr.checked_sub(at).filter(|off| *off < len);
        let size = u64::from(map.def.value_size);
        let off = |off: u64| u32::try_from(off).expect("values are small");
        match &map.kind {
            Kind::Array { stride, .. } => {
                let all = map.array_offset(addr)?;
                let element = match map.def.max_entries {
                    1 => String::new(),
                    _ => format!("[{}]", all / stride),
                };
                Some((element, off(all % stride)))
            }
            Kind::Hash(table) => {
                let mut all = table.by_key.iter();
                let (key, at) = all.find_map(|(k, e)| Some((k, inside(e.value, size)?)))?;
                Some((format!("[{}]", self.key_text(key)), off(at)))
            }
            Kind::Storage(values) => {
                let at = values.values().find_map(|at| inside(*at, size))?;
                Some((String::new(), off(at)))
            }
            _ => None,
        }
    }

    /// A key as a number when it has the size of one.
    fn key_text(&self, key: &[u8]) -> String {
        if !matches!(key.len(), 1 | 2 | 4 | 8) {
            return key.iter().map(|b| format!("{b:02x}")).collect();
        }
        let add = |n: u64, b: &u8| n << 8 | u64::from(*b);
        match self.mem.endian() {
            bpf::Endian::Little => key.iter().rev().fold(0, add).to_string(),
            bpf::Endian::Big => key.iter().fold(0, add).to_string(),
        }
    }

    fn value_name(&self, map: &Map, element: &str, off: u32) -> String {
        let name = &map.def.name;
        let btf = self.btf_object(BtfId(map.def.btf_id)).filter(|_| map.def.value_type_id != 0);
        let Some(btf) = btf else { return format!("{name}{element}+{off}") };
        match btf.body(btf.resolve(map.def.value_type_id)) {
            Body::Datasec { vars, .. } => {
                let var = vars.iter().find(|v| (v.offset..v.offset + v.size).contains(&off));
                let Some(var) = var else { return format!("{name}+{off}") };
                let Body::Var { ty, .. } = btf.body(var.ty) else { return name.clone() };
                format!("{}{}", btf.name(var.ty), member_path(&btf, *ty, off - var.offset))
            }
            _ => format!("{name}{element}{}", member_path(&btf, map.def.value_type_id, off)),
        }
    }
}

/// `.member[2].member` that leads to an offset.
fn member_path(btf: &Btf, mut ty: TypeId, mut off: u32) -> String {
    let mut path = String::new();
    loop {
        ty = btf.resolve(ty);
        if let Body::Array { elem, .. } = btf.body(ty) {
            let size = btf.size_of(*elem).unwrap_or(1).max(1);
            path += &format!("[{}]", off / size);
            (ty, off) = (*elem, off % size);
            continue;
        }
        let inside = |m: &bpf::btf::Member<'_>| {
            let size = btf.size_of(m.ty).unwrap_or(0);
            (m.byte_off()..m.byte_off().saturating_add(size)).contains(&off)
        };
        // A lock's own word is not named, the lock is.
        let is_lock =
            matches!(btf.name(ty), "bpf_spin_lock" | "bpf_res_spin_lock" | "bpf_timer" | "bpf_wq");
        let Some(m) = btf.members(ty).find(inside).filter(|_| !is_lock) else { return path };
        if !m.name.is_empty() {
            path += &format!(".{}", m.name);
        }
        (ty, off) = (m.ty, off - m.byte_off());
    }
}
