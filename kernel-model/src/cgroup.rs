//! The tree of control groups (cgroup v2) and the programs attached to it.
//!
//! A group's programs of a kind run with those of the groups above it, as the flags say that they
//! were attached with (kernel/bpf/cgroup.c): alone, overridden by groups below, or together with
//! theirs. What runs in a group is worked out when it runs: a task that has moved, and a program
//! that has come or gone, count at once.

use std::collections::{BTreeMap, VecDeque};

use bpf::uapi::{AttachType, ProgType};

use crate::cpu::{CpuId, Flow, Frame, Input, ProgFrame};
use crate::sched::OpFrame;
use crate::{Errno, Kernel, ProgId, field};

/// `BPF_F_ALLOW_OVERRIDE`, `BPF_F_ALLOW_MULTI`, `BPF_F_REPLACE`.
pub const ALLOW_OVERRIDE: u32 = 1;
/// Programs of all groups on the way up run.
pub const ALLOW_MULTI: u32 = 2;
/// `BPF_CGROUP_MAX_PROGS`.
const PROGS_MAX: usize = 64;
/// Inode number of the root, its id.
const ROOT_ID: u64 = 1;
/// Deepest group; `cgroup.ancestors` has room for it.
const LEVEL_MAX: usize = 16;

/// Programs of one kind in one group.
#[derive(Clone, Debug, Default)]
struct Attached {
    flags: u32,
    progs: Vec<ProgId>,
}

/// A group.
#[derive(Clone, Debug)]
struct Cgroup {
    path: String,
    /// `struct cgroup` and the `css_set` of its tasks.
    addr: u64,
    css_set: u64,
    parent: Option<usize>,
    attached: BTreeMap<u32, Attached>,
}

/// The tree: the root is the first, parents come before their children.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    all: Vec<Cgroup>,
}

impl Cgroups {
    /// All attached programs.
    pub(crate) fn progs(&self) -> impl Iterator<Item = ProgId> {
        self.all.iter().flat_map(|c| c.attached.values()).flat_map(|a| a.progs.iter().copied())
    }

    /// The group above.
    pub(crate) fn parent(&self, n: usize) -> Option<usize> {
        self.all.get(n)?.parent
    }

    fn by_addr(&self, addr: u64) -> Option<usize> {
        self.all.iter().position(|c| c.addr == addr)
    }

    /// A group by its path: `/` is the root.
    pub(crate) fn by_path(&self, path: &str) -> Option<usize> {
        let path = path.trim_end_matches('/');
        self.all.iter().position(|c| c.path == path)
    }
}

/// Programs of a group in progress: the value is 0, or an error of the first that refused.
#[derive(Clone, Debug)]
pub struct CgroupFrame {
    progs: VecDeque<ProgId>,
    ctx: u64,
    begun: bool,
    ret: u64,
}

impl CgroupFrame {
    /// Programs that have not run.
    pub(crate) fn progs(&self) -> impl Iterator<Item = ProgId> {
        self.progs.iter().copied()
    }
}

impl Kernel {
    /// The root of the default hierarchy, made when it is first asked for; all tasks are in it.
    pub(crate) fn cgroup_root(&mut self) -> Result<usize, Errno> {
        if self.cgroups.all.is_empty() {
            self.cgroup_new("", None)?;
            let css_set = self.cgroups.all[0].css_set;
            for task in self.idle_tasks.clone() {
                self.set(task, field!("task_struct", "cgroups"), css_set);
            }
        }
        Ok(0)
    }

    fn cgroup_new(&mut self, path: &str, parent: Option<usize>) -> Result<usize, Errno> {
        let level = path.matches('/').count();
        if level >= LEVEL_MAX {
            return Err(Errno::EAGAIN);
        }
        let room = crate::types::size("cgroup") + 8 * LEVEL_MAX as u64;
        let addr = self.kzalloc(room, "cgroup")?;
        let kn = self.kzalloc(crate::types::size("kernfs_node"), "kernfs_node")?;
        let css_set = self.kzalloc(crate::types::size("css_set"), "css_set")?;
        let name = path.rsplit('/').next().unwrap_or_default();
        let text = self.kzalloc(name.len() as u64 + 1, "kernfs name")?;
        self.mem.write(text, name.as_bytes()).expect("a new object is mapped");
        let id = ROOT_ID + self.cgroups.all.len() as u64;
        for (at, f, value) in [
            (kn, field!("kernfs_node", "id"), id),
            (kn, field!("kernfs_node", "name"), text),
            (addr, field!("cgroup", "kn"), kn),
            (addr, field!("cgroup", "self.cgroup"), addr),
            (addr, field!("cgroup", "bpf_refs"), 1),
            (addr, field!("cgroup", "level"), level as u64),
            (css_set, field!("css_set", "dfl_cgrp"), addr),
            (css_set, field!("css_set", "refcount"), 1),
        ] {
            self.set(at, f, value);
        }
        let ancestors = u64::from(field!("cgroup", "ancestors").off);
        let mut up = parent;
        self.mem.write_u64(addr + ancestors + 8 * level as u64, addr).expect("mapped");
        for n in (0..level as u64).rev() {
            let Some(p) = up else { break };
            let above = self.cgroups.all[p].addr;
            self.mem.write_u64(addr + ancestors + 8 * n, above).expect("mapped");
            up = self.cgroups.all[p].parent;
        }
        let attached = BTreeMap::new();
        self.cgroups.all.push(Cgroup { path: path.to_owned(), addr, css_set, parent, attached });
        Ok(self.cgroups.all.len() - 1)
    }

    /// A group by its path, such as `/web/front`; it and those above it are made when missing.
    ///
    /// # Errors
    /// `EINVAL` for what is no path, `EAGAIN` for too deep a tree, `ENOMEM`.
    pub fn cgroup_at(&mut self, path: &str) -> Result<usize, Errno> {
        let mut at = self.cgroup_root()?;
        let rest = path.strip_prefix('/').ok_or(Errno::EINVAL)?;
        let mut full = String::new();
        for name in rest.split('/').filter(|n| !n.is_empty()) {
            full += "/";
            full += name;
            at = match self.cgroups.by_path(&full) {
                Some(at) => at,
                None => self.cgroup_new(&full, Some(at))?,
            };
        }
        Ok(at)
    }

    /// Moves a task into a group.
    pub(crate) fn cgroup_move(&mut self, task: u64, to: usize) {
        let css_set = self.cgroups.all[to].css_set;
        self.set(task, field!("task_struct", "cgroups"), css_set);
    }

    /// Moves a task of a running system (`cgroup_attach_task`).
    pub(crate) fn cgroup_attach_task(&mut self, cpu: CpuId, task: u64, to: usize) {
        let addr = self.cgroups.all[to].addr;
        self.func_enter(cpu, "cgroup_attach_task", &[addr, task, 1]);
        self.cgroup_move(task, to);
        self.func_exit(cpu, "cgroup_attach_task", &[addr, task, 1], 0);
    }

    /// `task_dfl_cgroup`: `struct cgroup` of a task.
    pub(crate) fn cgroup_of(&mut self, task: u64) -> Result<u64, Errno> {
        let root = self.cgroup_root()?;
        match self.get(task, field!("task_struct", "cgroups")) {
            0 => Ok(self.cgroups.all[root].addr),
            css_set => Ok(self.get(css_set, field!("css_set", "dfl_cgrp"))),
        }
    }

    /// `cgroup_id`.
    pub(crate) fn cgroup_id(&self, cgroup: u64) -> u64 {
        self.get(self.get(cgroup, field!("cgroup", "kn")), field!("kernfs_node", "id"))
    }

    /// `cgroup_ancestor`: the group itself at its own level.
    pub(crate) fn cgroup_ancestor(&self, cgroup: u64, level: i32) -> Option<u64> {
        let own = self.get(cgroup, field!("cgroup", "level")) as i32;
        let level = u64::try_from(level).ok().filter(|_| level <= own)?;
        let at = cgroup + u64::from(field!("cgroup", "ancestors").off) + 8 * level;
        self.mem.read_u64(at).ok()
    }

    /// `cgroup_get_from_id`.
    pub(crate) fn cgroup_by_id(&mut self, id: u64) -> Option<u64> {
        self.cgroup_root().ok()?;
        let n = usize::try_from(id.checked_sub(ROOT_ID)?).ok()?;
        self.cgroups.all.get(n).map(|c| c.addr)
    }

    /// `__cgroup_bpf_attach`.
    ///
    /// # Errors
    /// `EINVAL` for flags that exclude each other or a program that is there already, `EPERM`
    /// where a group above does not allow it or the flags are others than before, `E2BIG`.
    pub fn cgroup_attach(
        &mut self,
        prog: ProgId,
        cgroup: usize,
        attach: AttachType,
        flags: u32,
    ) -> Result<(), Errno> {
        let both = ALLOW_OVERRIDE | ALLOW_MULTI;
        if flags & !both != 0 || flags & both == both {
            return Err(Errno::EINVAL);
        }
        if !self.cgroup_allows(cgroup, attach) {
            return Err(Errno::EPERM);
        }
        let here = self.cgroups.all[cgroup].attached.entry(attach as u32).or_default();
        if !here.progs.is_empty() && here.flags != flags {
            return Err(Errno::EPERM);
        }
        if here.progs.len() >= PROGS_MAX {
            return Err(Errno::E2BIG);
        }
        if flags & ALLOW_MULTI == 0 {
            // The one that is there is replaced.
            here.progs.clear();
        } else if here.progs.contains(&prog) {
            return Err(Errno::EINVAL);
        }
        here.flags = flags;
        here.progs.push(prog);
        Ok(())
    }

    /// `hierarchy_allows_attach`.
    fn cgroup_allows(&self, cgroup: usize, attach: AttachType) -> bool {
        let mut at = self.cgroups.all[cgroup].parent;
        while let Some(n) = at {
            if let Some(a) = self.cgroups.all[n].attached.get(&(attach as u32)) {
                if a.flags & ALLOW_MULTI != 0 {
                    return true;
                }
                if a.progs.len() == 1 {
                    return a.flags & ALLOW_OVERRIDE != 0;
                }
            }
            at = self.cgroups.all[n].parent;
        }
        true
    }

    /// Takes a program off all groups.
    pub fn cgroup_detach(&mut self, prog: ProgId) {
        for a in self.cgroups.all.iter_mut().flat_map(|c| c.attached.values_mut()) {
            a.progs.retain(|p| *p != prog);
        }
    }

    /// `compute_effective_progs`: the group's own first, then those above that allow many.
    fn cgroup_effective(&self, cgroup: u64, attach: AttachType) -> VecDeque<ProgId> {
        let mut out = VecDeque::new();
        let mut at = self.cgroups.by_addr(cgroup);
        while let Some(n) = at {
            if let Some(a) = self.cgroups.all[n].attached.get(&(attach as u32))
                && (out.is_empty() || a.flags & ALLOW_MULTI != 0)
            {
                out.extend(&a.progs);
            }
            at = self.cgroups.all[n].parent;
        }
        out
    }

    /// `bpf_prog_run_array_cg`: the programs of the running task's group, if it has any.
    pub(crate) fn cgroup_run(&mut self, cpu: CpuId, attach: AttachType, ctx: u64) -> Option<Frame> {
        let cgroup = self.cgroup_of(self.cpus[cpu.idx()].task).ok()?;
        let progs = self.cgroup_effective(cgroup, attach);
        let frame = CgroupFrame { progs, ctx, begun: false, ret: 0 };
        (!frame.progs.is_empty()).then(|| Frame::Op(Box::new(OpFrame::Cgroup(frame))))
    }

    pub(crate) fn cgroup_step(&mut self, _: CpuId, mut f: CgroupFrame, input: Input) -> Flow {
        // All programs run; one that does not say 1 refuses, and so does one that is cancelled.
        let allowed = !f.begun || matches!(input, Input::Return(v) if v & 1 == 1);
        if !allowed && f.ret == 0 {
            f.ret = Errno::EPERM.ret();
        }
        f.begun = true;
        let Some(prog) = f.progs.pop_front() else { return Flow::Done(f.ret) };
        let child = Frame::Prog(ProgFrame::main(prog, self.entry_of(prog), f.ctx));
        Flow::Call { frame: Frame::Op(Box::new(OpFrame::Cgroup(f))), child }
    }
}

/// Attach types of groups that the model's system calls reach, by program type.
#[must_use]
pub fn is_modelled(kind: ProgType, attach: AttachType) -> bool {
    match kind {
        ProgType::CgroupSock => attach == AttachType::CgroupInetSockCreate,
        ProgType::CgroupSockAddr => {
            matches!(attach, AttachType::CgroupInet4Connect | AttachType::CgroupUdp4Sendmsg)
        }
        _ => false,
    }
}
