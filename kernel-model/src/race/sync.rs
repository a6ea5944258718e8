//! What orders the CPUs: acquire takes over what was released at the same thing.

use super::{Clock, Kernel, Thread};
use crate::cpu::CpuId;
use crate::maps::{Kind, MapId};

/// What two CPUs meet at.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sync {
    /// A lock, by address.
    Lock(u64),
    /// A word of memory, by physical address.
    Word(u64),
    /// What a key leads to: the bucket lock, and `rcu_assign_pointer` to `rcu_dereference`.
    Element(MapId, Vec<u8>),
    /// The lock of a queue or ring.
    Map(MapId),
    /// A timer or work, by address.
    Timer(u64),
    /// A task that was switched away from, or woken.
    Task(u64),
}

/// A call of the kernel that has not returned.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    name: &'static str,
    args: [u64; 5],
    /// Depth of the frame stack.
    depth: usize,
}

/// What belongs to a task that is preempted.
#[derive(Clone, Debug)]
pub(crate) struct Parked {
    calls: Vec<Call>,
    thread: Option<Thread>,
}

fn join(into: &mut Clock, from: &Clock) {
    into.resize(into.len().max(from.len()), 0);
    into.iter_mut().zip(from).for_each(|(a, b)| *a = (*a).max(*b));
}

impl Kernel {
    /// What was released there happened before what this CPU does from now on.
    pub(crate) fn race_acquire(&mut self, cpu: CpuId, at: &Sync) {
        if let Some(clock) = self.races.syncs.get(at) {
            join(&mut self.races.clocks[self.races.threads[cpu.idx()].id], clock);
        }
    }

    /// What this CPU did so far happens before what is acquired there.
    pub(crate) fn race_release(&mut self, cpu: CpuId, at: Sync) {
        let id = self.races.threads[cpu.idx()].id;
        let own = &mut self.races.clocks[id];
        join(self.races.syncs.entry(at).or_default(), own);
        own[id] += 1;
    }

    fn race_both(&mut self, cpu: CpuId, at: Sync) {
        self.race_acquire(cpu, &at);
        self.race_release(cpu, at);
    }

    /// A CPU goes from one task to another, which may have run elsewhere.
    pub(crate) fn race_switch(&mut self, cpu: CpuId, from: u64, to: u64) {
        if self.races.on {
            self.race_release(cpu, Sync::Task(from));
            self.race_acquire(cpu, &Sync::Task(to));
        }
    }

    /// A program begins that nothing on the CPU has called: all that has ended there was before.
    pub(crate) fn race_run(&mut self, cpu: CpuId) {
        let races = &mut self.races;
        let Some(id) = races.threads.get(cpu.idx()).map(|t| t.id) else { return };
        for (other, _) in races.owners.iter().enumerate().filter(|(_, o)| **o == (cpu, false)) {
            let theirs = races.clocks[other].clone();
            join(&mut races.clocks[id], &theirs);
        }
        races.threads[cpu.idx()].start = races.clocks[id].clone();
        races.clocks[id][id] += 1;
    }

    /// Calls in progress go with a task that is preempted; what runs in between knows what was
    /// before the run that is stopped, and nothing of it.
    pub(crate) fn race_park(&mut self, cpu: CpuId) -> Parked {
        let races = &mut self.races;
        let calls = races.calls.get_mut(cpu.idx()).map(std::mem::take).unwrap_or_default();
        let Some(thread) = races.threads.get(cpu.idx()).cloned() else {
            return Parked { calls, thread: None };
        };
        races.owners[thread.id].1 = true;
        let free = races.owners.iter().position(|o| *o == (cpu, false));
        let id = free.unwrap_or_else(|| {
            races.owners.push((cpu, false));
            races.clocks.push(Clock::new());
            races.clocks.len() - 1
        });
        join(&mut races.clocks[id], &thread.start);
        let all = races.clocks.len();
        races.clocks[id].resize(all, 0);
        races.clocks[id][id] += 1;
        races.threads[cpu.idx()].id = id;
        Parked { calls, thread: Some(thread) }
    }

    /// The task goes on.
    pub(crate) fn race_unpark(&mut self, cpu: CpuId, was: Parked) {
        if let Some(own) = self.races.calls.get_mut(cpu.idx()) {
            *own = was.calls;
        }
        if let Some(thread) = was.thread {
            self.races.owners[thread.id].1 = false;
            self.races.threads[cpu.idx()] = thread;
        }
    }

    /// What was done before a wake-up happens before what the task does then.
    pub(crate) fn race_wake(&mut self, by: CpuId, task: u64) {
        if self.races.on {
            self.race_release(by, Sync::Task(task));
        }
    }

    /// A program calls a kernel function.
    pub(crate) fn race_call(&mut self, cpu: CpuId, name: &'static str, args: [u64; 5]) {
        if !self.races.on {
            return;
        }
        let depth = self.cpus[cpu.idx()].frames.len();
        let calls = &mut self.races.calls[cpu.idx()];
        // Of runs that were cancelled.
        calls.retain(|c| c.depth < depth);
        calls.push(Call { name, args, depth });
        match name {
            "spin_unlock" | "bpf_res_spin_unlock" | "bpf_res_spin_unlock_irqrestore" => {
                self.race_release(cpu, Sync::Lock(args[0]));
            }
            "timer_start" | "bpf_wq_start" => self.race_release(cpu, Sync::Timer(args[0])),
            _ => {}
        }
    }

    /// The call is complete.
    pub(crate) fn race_returned(&mut self, cpu: CpuId, r0: u64) {
        if !self.races.on {
            return;
        }
        let Some(Call { name, args, .. }) = self.races.calls[cpu.idx()].pop() else { return };
        match name {
            "spin_lock" => self.race_acquire(cpu, &Sync::Lock(args[0])),
            "bpf_res_spin_lock" | "bpf_res_spin_lock_irqsave" if r0 as u32 == 0 => {
                self.race_acquire(cpu, &Sync::Lock(args[0]));
            }
            "kptr_xchg" => {
                if let Some(phys) = self.mem.phys(args[0]) {
                    self.race_both(cpu, Sync::Word(phys));
                }
            }
            _ => {
                if let Some(id) = self.map_at(args[0]) {
                    self.race_map(cpu, id, name, args, r0);
                }
            }
        }
    }

    /// An operation on a map.
    fn race_map(&mut self, cpu: CpuId, id: MapId, name: &'static str, args: [u64; 5], r0: u64) {
        let map = &self.maps[&id];
        match (&map.kind, name) {
            (Kind::Hash(_) | Kind::Targets(_), "map_lookup_elem") => {
                let key = self.read_key(id, args[1]).unwrap_or_default();
                self.race_acquire(cpu, &Sync::Element(id, key));
            }
            (Kind::Hash(_) | Kind::Targets(_), "map_update_elem" | "map_delete_elem") => {
                let key = self.read_key(id, args[1]).unwrap_or_default();
                self.race_both(cpu, Sync::Element(id, key));
            }
            (Kind::Hash(_), "for_each_map_elem") => {
                let from = Sync::Element(id, Vec::new());
                let all = self.races.syncs.range(from..Sync::Element(MapId(id.0 + 1), Vec::new()));
                let clocks: Vec<Clock> = all.map(|(_, c)| c.clone()).collect();
                let id = self.races.threads[cpu.idx()].id;
                clocks.iter().for_each(|c| join(&mut self.races.clocks[id], c));
            }
            (Kind::Array { .. }, "map_update_elem") if r0 == 0 => self.race_array(cpu, id, args),
            (Kind::Fifo(_) | Kind::Ring(_), _) => self.race_both(cpu, Sync::Map(id)),
            (Kind::Storage(_), _) => {
                let owner = args[1].to_be_bytes().to_vec();
                self.race_both(cpu, Sync::Element(id, owner));
            }
            _ => {}
        }
    }

    /// `array_map_update_elem` copies into the value that is there, under its lock with
    /// `BPF_F_LOCK`.
    fn race_array(&mut self, cpu: CpuId, id: MapId, args: [u64; 5]) {
        let Ok(key) = self.read_key(id, args[1]) else { return };
        let at = self.map_lookup(id, &key, cpu);
        let def = &self.maps[&id].def;
        let (size, lock) = (u64::from(def.value_size), def.spin_lock_off);
        let lock = lock.filter(|_| args[3] & crate::maps::LOCK != 0).map(|off| at + u64::from(off));
        if let Some(lock) = lock {
            self.race_acquire(cpu, &Sync::Lock(lock));
        }
        self.race_value(cpu, at, size, "map_update_elem");
        if let Some(lock) = lock {
            self.race_release(cpu, Sync::Lock(lock));
        }
    }
}
