//! Whether a map is whole: what must hold between two calls of the kernel, whatever happened.

use verifier::btf::record::{Field, FieldKind};

use super::{Kind, MapId, Table};
use crate::Kernel;
use crate::kfuncs::{list_damage, tree_damage};
use crate::ledger::Kind as Held;

impl Table {
    fn damage(&self) -> Option<&'static str> {
        let found = |(seq, key): (&u64, &Vec<u8>)| {
            self.by_key.get(key).is_some_and(|elem| elem.seq == *seq)
        };
        let whole = self.by_key.len() == self.order.len() && self.order.iter().all(found);
        (!whole).then_some("keys and their order differ")
    }
}

impl Kernel {
    /// What does not fit together in a map.
    pub(crate) fn map_damage(&self, id: MapId) -> Vec<String> {
        let map = &self.maps[&id];
        let mut out = Vec::new();
        match &map.kind {
            Kind::Hash(t) | Kind::Targets(t) | Kind::MapHash { table: t, .. } => {
                out.extend(t.damage().map(str::to_owned));
            }
            Kind::Ring(ring) => out.extend(self.ring_damage(ring)),
            _ => {}
        }
        for value in self.value_addresses(id) {
            out.extend(map.def.record.fields.iter().filter_map(|f| self.field_damage(value, f)));
        }
        out.into_iter().map(|what| format!("map {}: {what}", map.def.name)).collect()
    }

    fn field_damage(&self, value: u64, f: &Field) -> Option<String> {
        let at = value + u64::from(f.off);
        match f.kind {
            FieldKind::ListHead => list_damage(self, at),
            FieldKind::RbRoot => tree_damage(self, at),
            // With one CPU nobody is on the way to it.
            FieldKind::SpinLock | FieldKind::ResSpinLock if self.config.cpus == 1 => {
                let word = self.mem.read_u32(at).unwrap_or(u32::MAX);
                let free = word == 0 || self.ledger.holds(Held::SpinLock, at);
                (!free).then(|| format!("lock {at:#x} is {word:#x} and nobody holds it"))
            }
            _ => None,
        }
    }
}
