//! Objects that nothing refers to go: programs, maps, types (`bpf_prog_put`, `bpf_map_put`,
//! `btf_put` of kernel/bpf/syscall.c).
//!
//! The kernel counts references. Here, when something let go of an object, what is still referred
//! to is found from the roots: descriptors, links, hooks, frames in progress. The outcome is the
//! same, cycles included (a program in the slot of a map that it uses: the kernel empties prog
//! arrays that no process has open). Memory goes when no kernel path is in progress (RCU).

use std::collections::BTreeSet;

use super::{BtfId, FdObject};
use crate::cpu::{Cpu, Frame};
use crate::maps::{Kind, Map, MapId};
use crate::memalloc::CacheId;
use crate::{Kernel, ProgId, field};

/// What is referred to.
#[derive(Default)]
struct Live {
    progs: BTreeSet<ProgId>,
    maps: BTreeSet<MapId>,
    btfs: BTreeSet<BtfId>,
    /// Objects whose own references have not been followed.
    todo: Vec<Object>,
}

enum Object {
    Prog(ProgId),
    Map(MapId),
}

impl Live {
    fn prog(&mut self, id: ProgId) {
        if self.progs.insert(id) {
            self.todo.push(Object::Prog(id));
        }
    }

    fn map(&mut self, id: MapId) {
        if self.maps.insert(id) {
            self.todo.push(Object::Map(id));
        }
    }
}

impl Kernel {
    /// Something let go of an object. What nothing refers to any more goes at once, or when no
    /// kernel path is in progress that could still come to it.
    pub(crate) fn objects_let_go(&mut self) {
        self.let_go = true;
        self.objects_sweep();
    }

    /// Frees what nothing refers to, when something let go since the last time and all is quiet.
    pub(crate) fn objects_sweep(&mut self) {
        let quiet = |c: &crate::cpu::Cpu| c.frames.is_empty() && c.queue.is_empty();
        if !self.let_go || !self.cpus.iter().all(quiet) {
            return;
        }
        self.let_go = false;
        let live = self.objects_live();
        let gone = |ids: Vec<MapId>| ids.into_iter().filter(|id| !live.maps.contains(id));
        for id in gone(self.maps.keys().copied().collect()).collect::<Vec<_>>() {
            self.map_free(id);
        }
        let dead: Vec<ProgId> =
            self.progs.keys().filter(|id| !live.progs.contains(id)).copied().collect();
        for id in dead {
            if let Some(prog) = self.progs.remove(&id) {
                self.kfree(prog.addr, "bpf_prog_put");
            }
        }
        self.btfs.retain(|id, _| live.btfs.contains(id));
    }

    fn objects_live(&self) -> Live {
        let mut live = Live::default();
        self.roots(&mut live);
        while let Some(object) = live.todo.pop() {
            match object {
                Object::Prog(id) => {
                    let Some(prog) = self.progs.get(&id) else { continue };
                    prog.maps.iter().for_each(|m| live.map(*m));
                    live.btfs.insert(BtfId(prog.btf_id));
                }
                Object::Map(id) => {
                    let Some(map) = self.maps.get(&id) else { continue };
                    live.btfs.insert(BtfId(map.def.btf_id));
                    self.map_refers(map, &mut live);
                }
            }
        }
        live
    }

    fn roots(&self, live: &mut Live) {
        for object in self.fds.values() {
            match object {
                FdObject::Map(id) => live.map(*id),
                FdObject::Prog(id) => live.prog(*id),
                FdObject::Btf(id) => {
                    live.btfs.insert(*id);
                }
                FdObject::Link(_) | FdObject::Cgroup(_) | FdObject::Iter(_) => {}
            }
        }
        self.links.values().for_each(|l| live.prog(l.prog));
        self.links.values().filter_map(|l| l.target.map()).for_each(|m| live.map(m));
        for nic in self.net.nics.values() {
            let hooks = [&nic.ingress, &nic.egress];
            let chains = hooks.into_iter().flat_map(|h| h.tcx.iter().chain(&h.clsact));
            chains.chain(&nic.xdp).for_each(|p| live.prog(*p));
        }
        self.hooks.progs().for_each(|p| live.prog(p));
        self.iters.progs().for_each(|p| live.prog(p));
        self.iters.maps().for_each(|m| live.map(m));
        self.sched.progs().for_each(|p| live.prog(p));
        self.cgroups.progs().for_each(|p| live.prog(p));
        let frames = self.cpus.iter().flat_map(Cpu::work);
        for frame in frames.chain(self.sched.frames()) {
            match frame {
                Frame::Prog(p) => live.prog(p.prog),
                Frame::Hook { prog, .. } => live.prog(*prog),
                Frame::TestRun(t) => live.prog(t.prog()),
                Frame::Iter(f) => live.prog(f.prog()),
                Frame::Helper(_)
                | Frame::Net(_)
                | Frame::Trace(_)
                | Frame::Timer(_)
                | Frame::Irq(_)
                | Frame::Lock(_) => {}
                Frame::Op(o) => o.progs().into_iter().for_each(|p| live.prog(p)),
            }
        }
    }

    /// What the slots and values of a map refer to, and callbacks of its timers.
    fn map_refers(&self, map: &Map, live: &mut Live) {
        match &map.kind {
            Kind::Progs { slots, .. } => slots.iter().flatten().for_each(|p| live.prog(*p)),
            Kind::Maps { slots, .. } => slots.iter().flatten().for_each(|m| live.map(*m)),
            Kind::MapHash { inner, .. } => inner.values().for_each(|m| live.map(*m)),
            Kind::Targets(table) => {
                let values = table.by_key.values();
                let progs = values.filter_map(|e| self.entry_prog(map.id, e.value));
                progs.for_each(|p| live.prog(p));
            }
            _ => {}
        }
        self.timers.callbacks(map.id).for_each(|p| live.prog(p));
    }

    /// `map_free`: values with what they hold, then the map.
    fn map_free(&mut self, id: MapId) {
        for value in self.value_addresses(id) {
            self.values_gone(id, value);
        }
        self.arena_drop(id);
        let Some(map) = self.maps.remove(&id) else { return };
        self.memcg.freed(map.addr);
        self.map_by_addr.remove(&map.addr);
        let head = u64::from(field!("bpf_array", "value").off);
        let percpu = map.percpu_values();
        match map.kind {
            Kind::Array { values, .. } if values == map.addr + head => {
                return self.kfree(map.addr, "map_free");
            }
            Kind::Array { .. } => {
                let values = percpu.expect("others have their values behind them");
                for copy in self.percpu_copies(values.start) {
                    let phys = self.mem.phys(copy).expect("mapped");
                    self.races.drop_range(phys);
                }
                self.percpu_free(values.start, values.end - values.start);
            }
            Kind::Progs { .. } | Kind::Groups { .. } | Kind::Maps { .. } => {
                return self.kfree(map.addr, "map_free");
            }
            Kind::Hash(table) | Kind::Targets(table) | Kind::CgroupStorage(table) => {
                let free = map.elems.into_iter().flat_map(|e| e.into_all());
                let all: Vec<u64> = table.by_key.values().map(|e| e.value).chain(free).collect();
                all.into_iter().for_each(|elem| self.kfree(elem, "map_free"));
                self.cache_destroy(CacheId::Map(id));
            }
            Kind::Ring(ring) => ring.free(self),
            Kind::Storage(values) => {
                for value in values.values() {
                    self.kfree(*value, "map_free");
                }
            }
            Kind::MapHash { .. }
            | Kind::Xsk
            | Kind::Fifo(_)
            | Kind::Bloom(_)
            | Kind::Arena(_)
            | Kind::Stacks(_)
            | Kind::Perf { .. } => {}
        }
        self.kfree(map.addr, "map_free");
    }

    /// Addresses of all values that may have special fields.
    pub(crate) fn value_addresses(&self, id: MapId) -> Vec<u64> {
        let map = &self.maps[&id];
        if map.def.record.is_empty() && map.def.timer_off.is_none() {
            return Vec::new();
        }
        match &map.kind {
            Kind::Array { values, stride } => {
                (0..u64::from(map.def.max_entries)).map(|i| values + i * stride).collect()
            }
            Kind::Hash(table) | Kind::CgroupStorage(table) => {
                table.by_key.values().map(|e| e.value).collect()
            }
            Kind::Storage(values) => values.values().copied().collect(),
            _ => Vec::new(),
        }
    }
}
