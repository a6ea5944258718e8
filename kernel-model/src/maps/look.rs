//! Maps as a debugger reads them: as they are stored, and nothing is touched. A look-up as user
//! space does it moves elements of LRU maps, takes from queues and hides locks and timers.

use bpf::uapi::MapType;

use super::{Kind, MapId, attr};
use crate::cgroup::kept_key;
use crate::{CpuId, Kernel, ProgId};

/// What a map has at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Address of the value, or of each CPU's.
    Values(Vec<u64>),
    /// A program of an array of programs.
    Prog(ProgId),
    /// A control group ([`Kernel::cgroup_path`]).
    Group(usize),
    /// A map of a map of maps.
    Map(MapId),
    /// Bytes that are not in guest memory: stack traces.
    Bytes(Vec<u8>),
}

impl Kernel {
    /// What is at a key, which has the form that user space writes it in.
    #[must_use]
    pub fn map_entry(&self, id: MapId, key: &[u8]) -> Option<Entry> {
        let map = self.maps.get(&id)?;
        if key.len() != map.def.key_size as usize {
            return None;
        }
        let index = || attr::index_of(self.mem.endian(), key);
        let values = |at: u64| {
            let cpus = if map.is_percpu() { self.config.cpus } else { 1 };
            let stride = map.cpu_stride();
            Entry::Values((0..u64::from(cpus)).map(|cpu| at + cpu * stride).collect())
        };
        match &map.kind {
            Kind::Array { values: at, stride } => {
                (index() < map.def.max_entries).then(|| values(at + u64::from(index()) * stride))
            }
            Kind::Hash(t) if map.def.map_type == MapType::LpmTrie => {
                let stored = self.lpm_key(key).ok()?;
                t.by_key.get(&stored).map(|e| values(e.value))
            }
            Kind::Hash(t) | Kind::Targets(t) => t.by_key.get(key).map(|e| values(e.value)),
            Kind::CgroupStorage(t) => t.by_key.get(&kept_key(key)).map(|e| values(e.value)),
            Kind::Progs { slots, .. } => {
                slots.get(index() as usize).copied().flatten().map(Entry::Prog)
            }
            Kind::Groups { slots, .. } => {
                slots.get(index() as usize).copied().flatten().map(Entry::Group)
            }
            Kind::Maps { slots, .. } => {
                slots.get(index() as usize).copied().flatten().map(Entry::Map)
            }
            Kind::MapHash { inner, .. } => inner.get(key).copied().map(Entry::Map),
            Kind::Stacks(stacks) => stacks.get(&index()).cloned().map(Entry::Bytes),
            Kind::Fifo(_)
            | Kind::Storage(_)
            | Kind::Xsk
            | Kind::Arena(_)
            | Kind::Bloom(_)
            | Kind::Ring(_)
            | Kind::Perf { .. } => None,
        }
    }

    /// Local storage: the address of each owner (a task, a socket) and of its value.
    pub fn map_owners(&self, id: MapId) -> impl Iterator<Item = (u64, u64)> {
        let values = match self.maps.get(&id).map(|m| &m.kind) {
            Some(Kind::Storage(values)) => Some(values.iter().map(|(o, v)| (*o, *v))),
            _ => None,
        };
        values.into_iter().flatten()
    }

    /// CPUs for which a perf event is open in an array of them.
    pub fn perf_events(&self, id: MapId) -> impl Iterator<Item = CpuId> {
        let open = match self.maps.get(&id).map(|m| &m.kind) {
            Some(Kind::Perf { open }) => Some(open.iter()),
            _ => None,
        };
        let all = (0u32..).zip(open.into_iter().flatten());
        all.filter(|(_, open)| **open).map(|(cpu, _)| CpuId(cpu))
    }
}
