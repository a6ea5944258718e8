//! Memory control groups: who pays for maps and their elements, and up to what.
//!
//! A map is its creator's: the group that the loading process was in then pays for the map, for
//! the elements that programs make later wherever they run (`map->objcg`), and for what its
//! allocator keeps. That a task moves changes nothing of what is charged. A charge counts in the
//! group and all above it, and fails where it would pass any one's `memory.max`; freeing gives it
//! back to all of them.
//!
//! Objects are charged by their bytes, and whole pages count against the limit, as with the
//! stock of `obj_cgroup_charge`. What maps allocate fails at the limit: their allocations neither
//! reclaim nor wake the OOM killer (`__GFP_NOWARN | __GFP_RETRY_MAYFAIL`, `GFP_NOWAIT`).
//! Objects of `bpf_obj_new` are nobody's (`bpf_global_ma` has no group). Pages of tasks, files and
//! sockets are not charged here.
//!
//! Sources: mm/memcontrol.c, kernel/bpf/syscall.c:bpf_map_save_memcg, bpf_map_kmalloc_node,
//! kernel/bpf/memalloc.c (6.18).

use std::collections::BTreeMap;

use crate::layout::PAGE_SIZE;
use crate::{Errno, Kernel};

/// Bytes that a group pays for; the group by its number, 0 for the root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charge {
    pub(crate) group: usize,
    pub(crate) bytes: u64,
}

/// What a group has.
#[derive(Clone, Debug, Default)]
struct Group {
    parent: Option<usize>,
    max: Option<u64>,
    bytes: u64,
    refused: u64,
}

/// Groups that anything is charged to, and what is.
#[derive(Clone, Debug, Default)]
pub struct Memcg {
    /// By number of the control group. Kept only where there is a limit.
    groups: BTreeMap<usize, Group>,
    objects: BTreeMap<u64, Charge>,
    /// The group of the process that makes maps.
    loader: usize,
}

impl Memcg {
    /// Groups with nothing in them; the topmost one has a limit in bytes, if it has one.
    #[must_use]
    pub fn new(max: Option<u64>) -> Memcg {
        let mut memcg = Memcg::default();
        if max.is_some() {
            memcg.groups.insert(0, Group { max, ..Group::default() });
        }
        memcg
    }

    /// `memory.current` of a group, in bytes; 0 where no group has a limit.
    #[must_use]
    pub fn current(&self, group: usize) -> u64 {
        self.groups.get(&group).map_or(0, |g| g.bytes.next_multiple_of(PAGE_SIZE))
    }

    /// Charges that a group's limit refused (`max` of `memory.events`).
    #[must_use]
    pub fn refused(&self, group: usize) -> u64 {
        self.groups.get(&group).map_or(0, |g| g.refused)
    }

    fn is_on(&self) -> bool {
        !self.groups.is_empty()
    }

    /// A group and those above it.
    fn way_up(&self, group: usize) -> Vec<usize> {
        let up = |n: &usize| self.groups.get(n).and_then(|g| g.parent);
        std::iter::successors(Some(group), up).collect()
    }

    /// `try_charge`.
    pub(crate) fn charge(&mut self, c: Charge) -> Result<(), Errno> {
        if !self.is_on() || c.bytes == 0 {
            return Ok(());
        }
        let way = self.way_up(c.group);
        for n in &way {
            let Some(g) = self.groups.get_mut(n) else { continue };
            if g.max.is_some_and(|max| (g.bytes + c.bytes).next_multiple_of(PAGE_SIZE) > max) {
                g.refused += 1;
                return Err(Errno::ENOMEM);
            }
        }
        for n in way {
            self.groups.entry(n).or_default().bytes += c.bytes;
        }
        Ok(())
    }

    pub(crate) fn uncharge(&mut self, c: Charge) {
        if !self.is_on() {
            return;
        }
        for n in self.way_up(c.group) {
            let g = self.groups.entry(n).or_default();
            g.bytes = g.bytes.saturating_sub(c.bytes);
        }
    }

    /// What was charged is this object.
    pub(crate) fn charged(&mut self, addr: u64, c: Charge) {
        if self.is_on() && c.bytes > 0 {
            self.objects.entry(addr).or_insert(Charge { bytes: 0, ..c }).bytes += c.bytes;
        }
    }

    /// An object is freed.
    pub(crate) fn freed(&mut self, addr: u64) {
        if let Some(c) = self.objects.remove(&addr) {
            self.uncharge(c);
        }
    }
}

impl Kernel {
    /// Sets `memory.max` of a control group. What was charged before the first limit of a run is
    /// not counted.
    pub fn memcg_limit(&mut self, cgroup: usize, max: u64) {
        self.memcg_group(cgroup).max = Some(max);
    }

    /// The process that makes maps from now on is in this control group.
    pub fn memcg_enter(&mut self, cgroup: usize) {
        if self.memcg.is_on() {
            self.memcg_group(cgroup);
        }
        self.memcg.loader = cgroup;
    }

    /// `bpf_map_save_memcg`.
    pub(crate) fn memcg_of_loader(&self) -> usize {
        self.memcg.loader
    }

    /// A group, with its place under those above it.
    fn memcg_group(&mut self, cgroup: usize) -> &mut Group {
        let mut at = cgroup;
        while let Some(parent) = self.cgroups.parent(at) {
            self.memcg.groups.entry(at).or_default().parent = Some(parent);
            at = parent;
        }
        self.memcg.groups.entry(at).or_default();
        self.memcg.groups.entry(cgroup).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn a_charge_counts_all_the_way_up_and_fails_at_the_first_limit() {
        let mut k = Kernel::new(Config::default());
        let [web, front, back] =
            ["/web", "/web/front", "/web/back"].map(|p| k.cgroup_at(p).unwrap());
        k.memcg_limit(web, 3 * PAGE_SIZE);
        k.memcg_limit(front, 2 * PAGE_SIZE);
        k.memcg_enter(back);
        let charge = |k: &mut Kernel, group, bytes| k.memcg.charge(Charge { group, bytes });
        assert_eq!(charge(&mut k, front, PAGE_SIZE), Ok(()));
        assert_eq!(charge(&mut k, front, 2 * PAGE_SIZE), Err(Errno::ENOMEM));
        assert_eq!(charge(&mut k, back, 2 * PAGE_SIZE), Ok(()));
        assert_eq!(charge(&mut k, back, 1), Err(Errno::ENOMEM), "the one above is full");
        assert_eq!([front, back, web].map(|g| k.memcg.refused(g)), [1, 0, 1]);
        assert_eq!(k.memcg.current(0), 3 * PAGE_SIZE);
        k.memcg.uncharge(Charge { group: front, bytes: PAGE_SIZE });
        assert_eq!(charge(&mut k, back, 1), Ok(()));
    }

    #[test]
    fn a_map_is_paid_for_by_the_group_of_its_creator() {
        use crate::maps::MapDef;
        let mut k = Kernel::new(Config::default());
        let [web, db] = ["/web", "/db"].map(|p| k.cgroup_at(p).unwrap());
        k.memcg_limit(web, 4 * PAGE_SIZE);
        k.memcg_enter(web);
        let def = MapDef {
            map_type: bpf::uapi::MapType::Array,
            key_size: 4,
            value_size: 8,
            max_entries: 1024,
            ..MapDef::default()
        };
        let id = k.map_create(def.clone(), None).unwrap();
        assert_eq!(k.memcg.current(web), 2 * PAGE_SIZE);
        // Whoever uses it: the group stays.
        k.memcg_enter(db);
        assert_eq!(k.maps[&id].memcg, web);
        let other = k.map_create(MapDef { max_entries: 8192, ..def.clone() }, None).unwrap();
        assert_eq!((k.maps[&other].memcg, k.memcg.current(db)), (db, 16 * PAGE_SIZE));
        k.memcg_enter(web);
        let big = MapDef { max_entries: 2048, ..def };
        assert_eq!(k.map_create(big, None), Err(Errno::ENOMEM));
    }
}
