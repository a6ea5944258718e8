//! What is looked at, and what a place is called.

use bpf::btf::Body;

use super::Kernel;
use crate::layout::DIRECT_MAP;
use crate::maps::{Kind, Map};
use crate::syscall::BtfId;

/// Objects that two programs may share, by what they are for.
const SHARED: &[&str] = &["map element", "bpf_map", "bpf_obj_new", "local storage", "bpf_cpumask"];

impl Kernel {
    /// Whether programs of two CPUs can mean the same thing by an address.
    pub(super) fn race_looks_at(&self, phys: u64) -> bool {
        let object = self.alloc.object(DIRECT_MAP + phys);
        object.is_some_and(|o| SHARED.contains(&o.2)) || self.races.range_of(phys).is_some()
    }

    /// Name of what is at a physical address, and where in it that is.
    pub(super) fn race_place(&self, phys: u64) -> (String, String) {
        let va = DIRECT_MAP + phys;
        let range = self.races.range_of(phys).and_then(|id| self.maps.get(&id));
        if let Some(map) = range.or_else(|| self.maps.values().find(|m| holds(m, va))) {
            return self.race_value_place(map, va);
        }
        match self.alloc.object(va) {
            Some((at, _, what)) => (what.to_owned(), format!("{what} {at:#x}+{}", va - at)),
            None => (format!("{va:#x}"), format!("{va:#x}")),
        }
    }

    fn race_value_place(&self, map: &Map, va: u64) -> (String, String) {
        let name = map.def.name.clone();
        let place = match &map.kind {
            Kind::Array { values, stride } => {
                let off = va.wrapping_sub(*values);
                if let Some((global, at)) = self.race_global(map, off) {
                    let plus = if at > 0 { format!("+{at}") } else { String::new() };
                    return (global.clone(), format!("global {global}{plus}"));
                }
                format!("{name}[{}]+{}", off / stride, off % stride)
            }
            Kind::Hash(table) => {
                let mine = |v: u64| (v..v + map.value_stride().max(8)).contains(&va);
                let found = table.by_key.iter().find(|(_, e)| mine(e.value));
                let key = |k: &[u8]| k.iter().map(|b| format!("{b:02x}")).collect::<String>();
                let text = |(k, e): (&Vec<u8>, &crate::maps::Elem)| {
                    format!("{name}[0x{}]+{}", key(k), va - e.value)
                };
                found.map_or_else(|| format!("an old element of {name}"), text)
            }
            _ => format!("{name} at page offset {:#x}", va % crate::layout::PAGE_SIZE),
        };
        (name, place)
    }

    /// The variable at an offset of a map that holds a section of globals.
    fn race_global(&self, map: &Map, off: u64) -> Option<(String, u64)> {
        let btf = self.btf_object(BtfId(map.def.btf_id))?;
        let Body::Datasec { vars, .. } = btf.body(map.def.value_type_id) else { return None };
        let inside = |v: &&bpf::btf::SecVar| {
            (u64::from(v.offset)..u64::from(v.offset + v.size)).contains(&off)
        };
        let var = vars.iter().find(inside)?;
        Some((btf.name(var.ty).to_owned(), off - u64::from(var.offset)))
    }
}

/// Whether an address is in a value of a map.
fn holds(map: &Map, va: u64) -> bool {
    match &map.kind {
        Kind::Array { values, stride } => {
            (*values..values + u64::from(map.def.max_entries) * stride).contains(&va)
        }
        Kind::Hash(t) => {
            let size = map.value_stride().max(8);
            t.by_key.values().any(|e| (e.value..e.value + size).contains(&va))
        }
        Kind::Storage(values) => {
            let size = map.value_stride();
            values.values().any(|v| (*v..v + size).contains(&va))
        }
        _ => false,
    }
}
