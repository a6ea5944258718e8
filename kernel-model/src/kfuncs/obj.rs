//! Objects that programs allocate: `bpf_obj_new` and what frees them (kernel/bpf/helpers.c).
//!
//! The kernel finds an object's special fields through a pointer that the verifier patches into
//! the call; here they are kept beside the object, by its address.

use std::collections::BTreeMap;
use std::sync::Arc;

use verifier::btf::record::{Field, FieldKind, Place, Record, parse};

use super::{KfuncRow, list, rbtree, row};
use crate::cpu::{CpuId, Fault};
use crate::helpers::Ret;
use crate::layout::PERCPU_STRIDE;
use crate::ledger::Kind;
use crate::memalloc::CacheId;
use crate::syscall::BtfId;
use crate::{Errno, Kernel};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_obj_new_impl", 2, obj_new),
    row("bpf_obj_drop_impl", 2, obj_drop),
    row("bpf_percpu_obj_new_impl", 2, percpu_new),
    row("bpf_percpu_obj_drop_impl", 2, percpu_drop),
    row("bpf_refcount_acquire_impl", 2, refcount_acquire),
];

/// An object of a program.
#[derive(Clone, Debug)]
struct Object {
    size: u64,
    record: Arc<Record>,
}

/// All objects of programs, by address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Objects {
    live: BTreeMap<u64, Object>,
}

type Outcome = Result<u64, Fault>;

fn done(r: Outcome) -> Ret {
    r.map_or_else(Ret::Fault, Ret::Val)
}

impl Kernel {
    /// Size and special fields of a structure of the running program's BTF.
    fn local_type(&self, cpu: CpuId, id: u64) -> Option<(u64, Record)> {
        let prog = self.cpus[cpu.idx()].prog_frame()?.prog;
        let btf = self.btf_object(BtfId(self.progs.get(&prog)?.btf_id))?;
        let id = u32::try_from(id).ok()?;
        let size = btf.size_of(id)?;
        let record = parse(&btf, Some(self.vmlinux_btf()), id, Place::Object).unwrap_or_default();
        Some((size.into(), record))
    }

    /// The object that an address is in, with its special fields.
    pub(crate) fn object_at(&self, at: u64) -> Option<(u64, Arc<Record>)> {
        let (start, o) = self.objects.live.range(..=at).next_back()?;
        (at - start < o.size).then(|| (*start, Arc::clone(&o.record)))
    }

    /// `bpf_mem_alloc` of `bpf_global_ma`, which nothing is charged for.
    fn object_alloc(&mut self, size: u64) -> Result<u64, Errno> {
        let id = CacheId::global(size).ok_or(Errno::ENOMEM)?;
        if self.config.strict_free {
            return self.kzalloc(size, "bpf_obj_new");
        }
        if let CacheId::Global(size) = id
            && !self.cache_is_there(id)
        {
            self.cache_init(id, "bpf_obj_new", (size, size), None);
        }
        self.cache_alloc(id)
    }

    /// `bpf_obj_init_field`, for all fields.
    fn object_init(&mut self, at: u64, record: &Record) -> Result<(), Fault> {
        for f in &record.fields {
            let field = at + u64::from(f.off);
            self.mem.fill(field, f.size as usize, 0)?;
            match f.kind {
                FieldKind::Refcount => self.mem.write_u32(field, 1)?,
                FieldKind::ListHead | FieldKind::ListNode => list::init(self, field)?,
                FieldKind::RbNode => rbtree::clear(self, field)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// `__bpf_obj_drop_impl`: one reference less; the object goes with the last.
    pub(crate) fn object_put(&mut self, at: u64) -> Result<(), Fault> {
        let Some(o) = self.objects.live.get(&at).cloned() else {
            self.kfree(at, "bpf_obj_drop");
            return Ok(());
        };
        let count = o.record.find(FieldKind::Refcount).map(|f| at + u64::from(f.off));
        if let Some(count) = count {
            let left = self.mem.read_u32(count)?.wrapping_sub(1);
            self.mem.write_u32(count, left)?;
            if left != 0 {
                return Ok(());
            }
        }
        self.fields_free(at, &o.record)?;
        self.objects.live.remove(&at);
        match count {
            // bpf_mem_free_rcu: others may still look at it.
            Some(_) => self.rcu_free(at, "bpf_obj_drop", crate::rcu::RCU_CHAIN),
            None => match CacheId::global(o.size).filter(|_| !self.config.strict_free) {
                Some(id) => self.cache_free(id, at),
                None => self.kfree(at, "bpf_obj_drop"),
            },
        }
        Ok(())
    }

    /// `bpf_obj_free_fields`, of an object or of a map's value.
    pub(crate) fn fields_free(&mut self, at: u64, record: &Record) -> Result<(), Fault> {
        for f in &record.fields {
            let field = at + u64::from(f.off);
            match f.kind {
                FieldKind::ListHead => {
                    for node in list::drain(self, field)? {
                        self.contained_put(node)?;
                    }
                }
                FieldKind::RbRoot => {
                    for node in rbtree::drain(self, field)? {
                        self.contained_put(node)?;
                    }
                }
                FieldKind::KptrRef | FieldKind::KptrPercpu => {
                    let held = self.mem.read_u64(field)?;
                    self.mem.write_u64(field, 0)?;
                    if held != 0 {
                        self.kptr_put(held, f)?;
                    }
                }
                FieldKind::KptrUnref => self.mem.write_u64(field, 0)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn contained_put(&mut self, node: u64) -> Result<(), Fault> {
        match self.object_at(node) {
            Some((at, _)) => self.object_put(at),
            None => Ok(()),
        }
    }

    /// The destructor of what a kptr holds.
    fn kptr_put(&mut self, held: u64, f: &Field) -> Result<(), Fault> {
        if f.kind == FieldKind::KptrPercpu {
            return self.percpu_put(held);
        }
        if self.objects.live.contains_key(&held) {
            return self.object_put(held);
        }
        match self.vmlinux_btf().name(f.target.1) {
            "task_struct" => self.task_put(held),
            "cgroup" => self.cgroup_put(held),
            "bpf_cpumask" => self.cpumask_put(held)?,
            _ => {}
        }
        Ok(())
    }

    /// Gives back an object that a program held, by what gave it to the program.
    pub(crate) fn held_put(&mut self, at: u64, by: &str) -> Result<(), Fault> {
        match by {
            "bpf_task_acquire" => self.task_put(at),
            "bpf_cgroup_acquire" => self.cgroup_put(at),
            "bpf_cpumask_create" | "bpf_cpumask_acquire" => self.cpumask_put(at)?,
            "bpf_percpu_obj_new" => self.percpu_put(at)?,
            _ => return self.object_or_kptr_put(at),
        }
        Ok(())
    }

    /// An object of a program, or what a map's value held and the program took out.
    fn object_or_kptr_put(&mut self, at: u64) -> Result<(), Fault> {
        if self.objects.live.contains_key(&at) {
            return match at < PERCPU_STRIDE {
                true => self.percpu_put(at),
                false => self.object_put(at),
            };
        }
        let what = self.alloc.live().find(|o| o.0 == at).map(|o| o.2.what);
        match what {
            Some("task_struct") => self.task_put(at),
            Some("cgroup") => self.cgroup_put(at),
            Some("bpf_cpumask") => self.cpumask_put(at)?,
            _ => return self.object_put(at),
        }
        Ok(())
    }

    fn percpu_put(&mut self, at: u64) -> Result<(), Fault> {
        if let Some(o) = self.objects.live.remove(&at) {
            self.percpu_free(at, percpu_bytes(o.size));
        } else {
            // A misuse, and told of as one.
            self.kfree(at, "bpf_percpu_obj_drop");
        }
        Ok(())
    }
}

/// Its class of `bpf_mem_alloc`.
fn percpu_bytes(size: u64) -> u64 {
    size.next_multiple_of(8).next_power_of_two()
}

fn obj_new(k: &mut Kernel, cpu: CpuId, [id, ..]: [u64; 5]) -> Ret {
    let Some((size, record)) = k.local_type(cpu, id) else {
        return Ret::Fault(Fault::unsupported("bpf_obj_new of a program without BTF"));
    };
    let Ok(at) = k.object_alloc(size) else { return Ret::Val(0) };
    if let Err(fault) = k.object_init(at, &record) {
        return Ret::Fault(fault);
    }
    k.objects.live.insert(at, Object { size, record: Arc::new(record) });
    k.prog_holds(cpu, Kind::Object, at, "bpf_obj_new");
    Ret::Val(at)
}

fn obj_drop(k: &mut Kernel, _: CpuId, [at, ..]: [u64; 5]) -> Ret {
    k.ledger.release(Kind::Object, at);
    done(k.object_put(at).map(|()| 0))
}

fn percpu_new(k: &mut Kernel, cpu: CpuId, [id, ..]: [u64; 5]) -> Ret {
    let Some((size, record)) = k.local_type(cpu, id) else {
        return Ret::Fault(Fault::unsupported("bpf_percpu_obj_new of a program without BTF"));
    };
    let Ok(at) = k.percpu_alloc(percpu_bytes(size)) else { return Ret::Val(0) };
    k.objects.live.insert(at, Object { size, record: Arc::new(record) });
    k.prog_holds(cpu, Kind::Object, at, "bpf_percpu_obj_new");
    Ret::Val(at)
}

fn percpu_drop(k: &mut Kernel, _: CpuId, [at, ..]: [u64; 5]) -> Ret {
    k.ledger.release(Kind::Object, at);
    done(k.percpu_put(at).map(|()| 0))
}

/// `refcount_inc_not_zero`.
fn refcount_acquire(k: &mut Kernel, cpu: CpuId, [at, ..]: [u64; 5]) -> Ret {
    let take = |k: &mut Kernel| -> Outcome {
        let Some((start, record)) = k.object_at(at) else { return Ok(0) };
        let Some(f) = record.find(FieldKind::Refcount) else { return Ok(0) };
        let count = start + u64::from(f.off);
        let now = k.mem.read_u32(count)?;
        if now == 0 {
            return Ok(0);
        }
        k.mem.write_u32(count, now + 1)?;
        k.prog_holds(cpu, Kind::Object, at, "bpf_refcount_acquire");
        Ok(at)
    };
    done(take(k))
}
