//! What is looked at, and what a place is called.

use bpf::btf::Body;

use super::Kernel;
use crate::layout::{DIRECT_MAP, PAGE_SIZE};
use crate::maps::{Kind, Map, MapId};
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
        let range = self.races.range_of(phys).and_then(|id| self.maps.get(&id));
        let va = range.and_then(|map| self.percpu_va(map, phys)).unwrap_or(DIRECT_MAP + phys);
        if let Some(map) = range.or_else(|| self.maps.values().find(|m| holds(m, va))) {
            return self.race_value_place(map, va);
        }
        match self.alloc.object(va) {
            Some((at, _, what)) => (what.to_owned(), format!("{what} {at:#x}+{}", va - at)),
            None => (format!("{va:#x}"), format!("{va:#x}")),
        }
    }

    /// A new map, whose values may be in per-CPU memory.
    pub(crate) fn race_percpu(&mut self, id: MapId) {
        let Some(values) = self.maps[&id].percpu_values() else { return };
        let bytes = values.end - values.start;
        for copy in self.percpu_copies(values.start) {
            let phys = self.mem.phys(copy).expect("mapped");
            self.races.forget(phys, bytes);
            self.races.add_range(phys, bytes, id);
        }
    }

    /// Where a CPU finds what is at a physical address of a map's per-CPU memory.
    fn percpu_va(&self, map: &Map, phys: u64) -> Option<u64> {
        let (within, page) = (phys % PAGE_SIZE, phys - phys % PAGE_SIZE);
        let mut pages = map.percpu_values()?.step_by(PAGE_SIZE as usize);
        let is_it = |at: &u64| self.mem.translate(*at).is_some_and(|pte| pte.phys == page);
        pages
            .find_map(|at| self.percpu_copies(at).find(is_it))
            .map(|at| at - at % PAGE_SIZE + within)
    }

    fn race_value_place(&self, map: &Map, va: u64) -> (String, String) {
        let name = map.def.name.clone();
        let place = match &map.kind {
            Kind::Array { stride, .. } => {
                let off = map.array_offset(va).unwrap_or(0);
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
        Kind::Array { .. } => map.array_offset(va).is_some(),
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
