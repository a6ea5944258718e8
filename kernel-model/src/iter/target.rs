//! What iterators go over (kernel/bpf/task_iter.c, map_iter.c, cgroup_iter.c).

use std::sync::Arc;

use bpf::uapi::MapType;

use super::Reader;
use crate::maps::{Kind, MapId};
use crate::rcu::BPF_F_SLEEPABLE;
use crate::sched::is_listed;
use crate::syscall::SysError;
use crate::{Errno, Kernel, ProgId, field};
use order::{POST, SELF_ONLY, UP};

/// Of a task iterator: one thread, one process, or all (0).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OfTask {
    /// `linfo.task.tid`.
    pub tid: u32,
    /// `linfo.task.pid`.
    pub pid: u32,
}

/// What a link's program is run for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Each task.
    Task(OfTask),
    /// Each file of each task.
    TaskFile(OfTask),
    /// Each map.
    Map,
    /// Each element of a map.
    MapElem(MapId),
    /// Control groups.
    Cgroup {
        /// Where it begins.
        group: usize,
        /// `enum bpf_cgroup_iter_order`.
        order: u32,
    },
}

/// `union bpf_iter_link_info`, for all targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Info {
    /// `task`.
    pub task: OfTask,
    /// `cgroup`: the group, when one is named, and the order.
    pub cgroup: Option<usize>,
    /// One of [`order`].
    pub order: u32,
    /// `map.map_fd` of targets that want one.
    pub map: Option<MapId>,
}

/// `enum bpf_cgroup_iter_order`.
pub mod order {
    /// `BPF_CGROUP_ITER_SELF_ONLY`.
    pub const SELF_ONLY: u32 = 1;
    /// `BPF_CGROUP_ITER_DESCENDANTS_PRE`.
    pub const PRE: u32 = 2;
    /// `BPF_CGROUP_ITER_DESCENDANTS_POST`.
    pub const POST: u32 = 3;
    /// `BPF_CGROUP_ITER_ANCESTORS_UP`.
    pub const UP: u32 = 4;
}

/// Where an iterator is: a number that objects are in order of, or a control group.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct At {
    cursor: u64,
    fd: u32,
    css: u64,
    terminate: bool,
    visited_all: bool,
}

/// An object as words of the context behind `meta`; an element of a map as its value's address.
pub(super) type Object = Vec<u64>;

impl Target {
    /// Name in sections and `fdinfo`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Target::Task(_) => "task",
            Target::TaskFile(_) => "task_file",
            Target::Map => "bpf_map",
            Target::MapElem(_) => "bpf_map_elem",
            Target::Cgroup { .. } => "cgroup",
        }
    }

    /// `BPF_ITER_RESCHED`: sleepable programs may have it.
    fn reschedules(self) -> bool {
        !matches!(self, Target::Map | Target::MapElem(_))
    }

    /// The map whose elements it goes over.
    pub(crate) fn map(self) -> Option<MapId> {
        match self {
            Target::MapElem(id) => Some(id),
            _ => None,
        }
    }
}

impl Kernel {
    /// `attach_target` of a program's target.
    ///
    /// # Errors
    /// `EINVAL` for what it does not go over, `Unsupported` for a target that is not modelled.
    pub(crate) fn iter_target(&mut self, prog: ProgId, info: &Info) -> Result<Target, SysError> {
        let verified = Arc::clone(&self.progs.get(&prog).ok_or(Errno::EBADF)?.verified);
        let program = verified.program();
        let name = program.attach_to.as_deref().unwrap_or_default();
        let task = || match info.task {
            OfTask { tid, pid } if tid != 0 && pid != 0 => Err(Errno::EINVAL),
            of => Ok(of),
        };
        let target = match name {
            "task" => Target::Task(task()?),
            "task_file" => Target::TaskFile(task()?),
            "bpf_map" => Target::Map,
            "bpf_map_elem" => {
                let stats = verified.stats();
                let furthest = (stats.max_rdonly_access, stats.max_rdwr_access);
                self.iter_elements(info.map, furthest)?
            }
            "cgroup" if !(SELF_ONLY..=UP).contains(&info.order) => return Err(Errno::EINVAL.into()),
            "cgroup" => {
                let group = match info.cgroup {
                    Some(group) => group,
                    None => self.cgroup_root()?,
                };
                Target::Cgroup { group, order: info.order }
            }
            other => {
                return Err(SysError::unsupported(format!("the iterator target {other}")));
            }
        };
        if program.flags & BPF_F_SLEEPABLE != 0 && !target.reschedules() {
            return Err(Errno::EINVAL.into());
        }
        Ok(target)
    }

    /// `bpf_iter_attach_map`: the program looks at no more than the map has.
    fn iter_elements(&self, map: Option<MapId>, (key, value): (u32, u32)) -> Result<Target, Errno> {
        use MapType::{Array, Hash, LruHash, LruPercpuHash, PercpuArray, PercpuHash};
        let id = map.ok_or(Errno::EBADF)?;
        let map = self.maps.get(&id).ok_or(Errno::EBADF)?;
        if !matches!(
            map.def.map_type,
            Array | Hash | LruHash | PercpuArray | PercpuHash | LruPercpuHash
        ) {
            return Err(Errno::EINVAL);
        }
        let value_bytes = match map.is_percpu() {
            true => map.value_stride() * u64::from(self.config.cpus),
            false => map.def.value_size.into(),
        };
        if key > map.def.key_size || u64::from(value) > value_bytes {
            return Err(Errno::EACCES);
        }
        Ok(Target::MapElem(id))
    }

    /// Memory for a copy of an element.
    pub(super) fn iter_scratch(&mut self, target: Target) -> Result<u64, Errno> {
        let Some(map) = target.map().and_then(|id| self.maps.get(&id)) else { return Ok(0) };
        let values = map.value_stride() * u64::from(self.config.cpus);
        let key = u64::from(map.def.key_size).next_multiple_of(8);
        self.kzalloc(key + values, "bpf_iter element")
    }

    /// The task at or behind a number.
    fn iter_task(&self, of: OfTask, from: u64) -> Option<(u64, u64)> {
        let from = u32::try_from(from).ok()?;
        // A process has one thread.
        let only = of.tid.max(of.pid);
        if only != 0 && from > only {
            return None;
        }
        let mut all = self.sched.procs.range(from.max(only)..);
        let (pid, task) = match only {
            0 => all.find(|(_, t)| is_listed(self, **t))?,
            only => all.next().filter(|(pid, t)| **pid == only && is_listed(self, **t))?,
        };
        Some(((*pid).into(), *task))
    }

    /// `bpf_iter_*_seq_start`: where a read begins.
    pub(super) fn iter_start(
        &self,
        r: &mut Reader,
        index: &mut u64,
    ) -> Result<Option<Object>, Errno> {
        if let Target::Cgroup { .. } = r.target {
            match (*index, r.at.visited_all) {
                (0, _) => {}
                (_, true) => return Ok(None),
                // The position is not kept between reads.
                (_, false) => return Err(Errno::EOPNOTSUPP),
            }
            (*index, r.at) = (1, At::default());
        }
        let found = self.iter_here(r);
        if found.is_some() && *index == 0 {
            *index = 1;
        }
        Ok(found)
    }

    /// `bpf_iter_*_seq_next`.
    pub(super) fn iter_next(&self, r: &mut Reader) -> Option<Object> {
        match r.target {
            Target::TaskFile(_) => r.at.fd += 1,
            Target::Task(_) | Target::Map | Target::MapElem(_) => r.at.cursor += 1,
            Target::Cgroup { order: SELF_ONLY, .. } => return None,
            Target::Cgroup { .. } => {
                if r.at.terminate {
                    return None;
                }
            }
        }
        self.iter_here(r)
    }

    /// The object at the position, or the next one behind it.
    fn iter_here(&self, r: &mut Reader) -> Option<Object> {
        match r.target {
            Target::Task(of) => {
                let (pid, task) = self.iter_task(of, r.at.cursor)?;
                r.at.cursor = pid;
                Some(vec![task])
            }
            Target::TaskFile(of) => self.iter_file(of, &mut r.at),
            Target::Map => {
                let from = MapId(u32::try_from(r.at.cursor).ok()?);
                let (id, map) = self.maps.range(from..).next()?;
                r.at.cursor = id.0.into();
                Some(vec![map.addr])
            }
            Target::MapElem(id) => self.iter_element(id, &mut r.at).map(|value| vec![value]),
            Target::Cgroup { group, order } => {
                let start = self.css_of(group);
                r.at.css = match order {
                    SELF_ONLY => start,
                    UP => self.css_above(r.at.css, start),
                    order => self.css_after(r.at.css, start, order == POST),
                };
                let css = Some(r.at.css).filter(|css| *css != 0)?;
                Some(vec![self.get(css, field!("cgroup_subsys_state", "cgroup"))])
            }
        }
    }

    /// The value of the element at the position, or behind it.
    fn iter_element(&self, id: MapId, at: &mut At) -> Option<u64> {
        let map = self.maps.get(&id)?;
        match &map.kind {
            Kind::Array { values, stride } => {
                let there = at.cursor < map.def.max_entries.into();
                there.then(|| values + at.cursor * stride)
            }
            Kind::Hash(t) => {
                let (seq, key) = t.order.range(at.cursor..).next()?;
                at.cursor = *seq;
                t.by_key.get(key).map(|e| e.value)
            }
            _ => None,
        }
    }

    /// Address of the map, of the key and of the value: with a value for each CPU, of a copy.
    fn iter_element_words(&mut self, r: &Reader, id: MapId, value: Option<u64>) -> Object {
        let Some(map) = self.maps.get(&id) else { return vec![0; 3] };
        let Some(value) = value else { return vec![map.addr, 0, 0] };
        let key = match &map.kind {
            Kind::Hash(t) => t.order.get(&r.at.cursor).cloned().unwrap_or_default(),
            _ => self.word(r.at.cursor as u32).to_vec(),
        };
        let copies = r.scratch + u64::from(map.def.key_size).next_multiple_of(8);
        let (addr, bytes, stride) = (map.addr, map.value_stride(), map.cpu_stride());
        let percpu = map.is_percpu();
        self.mem.write(r.scratch, &key).expect("scratch memory is mapped");
        if !percpu {
            return vec![addr, r.scratch, value];
        }
        for cpu in 0..u64::from(self.config.cpus) {
            let of_cpu = self.bytes(value + cpu * stride, bytes);
            self.mem.write(copies + cpu * bytes, &of_cpu).expect("scratch memory is mapped");
        }
        vec![addr, r.scratch, copies]
    }

    /// `task_file_seq_get_next`.
    fn iter_file(&self, of: OfTask, at: &mut At) -> Option<Object> {
        loop {
            let (pid, task) = self.iter_task(of, at.cursor)?;
            if pid != at.cursor {
                (at.cursor, at.fd) = (pid, 0);
            }
            let from = at.fd.cast_signed();
            let open = self.sched.tasks.iter().find(|t| t.addr == task);
            let next = open.and_then(|t| t.files.range(from..).next());
            if let Some((fd, file)) = next {
                at.fd = fd.unsigned_abs();
                return Some(vec![task, at.fd.into(), *file]);
            }
            (at.cursor, at.fd) = (pid + 1, 0);
        }
    }

    /// The program's context of an object, or of the end.
    pub(super) fn iter_ctx(&mut self, r: &Reader, object: Option<&Object>) -> u64 {
        let ctx = r.meta + crate::size!("bpf_iter_meta");
        self.set(r.meta, field!("bpf_iter_meta", "seq_num"), r.seq_num);
        let words = match (r.target, object) {
            (Target::MapElem(id), value) => self.iter_element_words(r, id, value.map(|v| v[0])),
            (_, Some(words)) => words.clone(),
            (Target::TaskFile(_), None) => vec![0; 3],
            (_, None) => vec![0],
        };
        let fd = matches!(r.target, Target::TaskFile(_));
        self.mem.write_u64(ctx, r.meta).expect("a context is mapped");
        for (n, word) in words.into_iter().enumerate() {
            let at = ctx + 8 * (n as u64 + 1);
            // The descriptor is a number of 32 bits.
            let wrote = match fd && n == 1 {
                true => self.mem.write_u32(at, word as u32),
                false => self.mem.write_u64(at, word),
            };
            wrote.expect("a context is mapped");
        }
        ctx
    }

    /// What `show` makes of the program's value: control groups end, all else is shown again.
    pub(super) fn iter_shown(r: &mut Reader, retval: u64) -> Result<(), Errno> {
        match (r.target, retval as u32) {
            (_, 0) => Ok(()),
            (Target::Cgroup { .. }, _) => {
                r.at.terminate = true;
                Ok(())
            }
            _ => Err(Errno::EAGAIN),
        }
    }

    /// `stop` behind the last object.
    pub(super) fn iter_stopped(r: &mut Reader) {
        r.at.visited_all = true;
    }
}
