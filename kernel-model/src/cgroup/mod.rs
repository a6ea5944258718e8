//! The tree of control groups (cgroup v2) and the programs attached to it.
//!
//! ```text
//!  attach: lists of each group ─► effective arrays, down the tree ─► run: one hook that is reached
//! ```
//!
//! Sources: kernel/cgroup/cgroup.c, kernel/bpf/cgroup.c, Linux 6.18.

mod attach;
mod query;
mod run;
mod storage;
mod walk;

use std::collections::BTreeMap;

use crate::cpu::CpuId;
use crate::{Errno, Kernel, ProgId, field};

pub use attach::{Ask, flag, is_modelled};
pub use run::CgroupFrame;
pub(crate) use run::{Atype, Hook, XMIT_CN, XMIT_DROP};
pub(crate) use storage::kept_key;
pub(crate) use walk::Place;

use attach::Attached;

/// Inode number of the root, its id.
const ROOT_ID: u64 = 1;
/// Deepest group; `cgroup.ancestors` has room for it.
const LEVEL_MAX: usize = 16;

/// A group.
#[derive(Clone, Debug)]
struct Cgroup {
    path: String,
    /// `struct cgroup` and the `css_set` of its tasks.
    addr: u64,
    css_set: u64,
    parent: Option<usize>,
    attached: BTreeMap<Atype, Attached>,
    /// It was removed: it is found by nobody any more. Its programs stay until its last socket is
    /// closed.
    dead: bool,
}

/// The tree: the root is the first, parents come before their children.
#[derive(Clone, Debug, Default)]
pub struct Cgroups {
    all: Vec<Cgroup>,
    /// When tasks joined their groups, in order.
    pub(crate) joined: BTreeMap<u64, u64>,
    joins: u64,
}

impl Cgroups {
    /// All programs that are attached without a link; those of links live with them.
    pub(crate) fn progs(&self) -> impl Iterator<Item = ProgId> {
        self.all.iter().flat_map(|c| c.attached.values()).flat_map(Attached::progs)
    }

    /// The group above.
    pub(crate) fn parent(&self, n: usize) -> Option<usize> {
        self.all.get(n)?.parent
    }

    /// A task comes last in the list of its group: it was moved, or begins.
    pub(crate) fn join(&mut self, task: u64) {
        self.joins += 1;
        self.joined.insert(task, self.joins);
    }

    fn by_addr(&self, addr: u64) -> Option<usize> {
        self.all.iter().position(|c| c.addr == addr)
    }

    /// A group by its path: `/` is the root.
    pub(crate) fn by_path(&self, path: &str) -> Option<usize> {
        let path = path.trim_end_matches('/');
        self.all.iter().position(|c| c.path == path && !c.dead)
    }

    /// The group and all below it, parents first; those that were removed, too.
    fn descendants(&self, of: usize) -> Vec<usize> {
        let mut out = vec![of];
        for (n, c) in self.all.iter().enumerate().skip(of + 1) {
            if c.parent.is_some_and(|p| out.contains(&p)) {
                out.push(n);
            }
        }
        out
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
        let room = crate::size!("cgroup") + 8 * LEVEL_MAX as u64;
        let addr = self.kzalloc(room, "cgroup")?;
        let kn = self.kzalloc(crate::size!("kernfs_node"), "kernfs_node")?;
        let css_set = self.kzalloc(crate::size!("css_set"), "css_set")?;
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
        let (path, attached) = (path.to_owned(), BTreeMap::new());
        let group = Cgroup { path, addr, css_set, parent, attached, dead: false };
        self.cgroups.all.push(group);
        let new = self.cgroups.all.len() - 1;
        self.cgroups.inherit(new);
        Ok(new)
    }

    /// `cgroup_rmdir`: programs come off the group, and its links have none any more, as soon as no
    /// socket is in it.
    ///
    /// # Errors
    /// `EBUSY` for the root, for a group with groups below it, and for one with tasks.
    pub(crate) fn cgroup_remove(&mut self, group: usize) -> Result<(), Errno> {
        let css_set = self.cgroups.all[group].css_set;
        let here = |task| self.get(task, field!("task_struct", "cgroups")) == css_set;
        let populated = self.tasks_living().any(here);
        let below = self.cgroups.descendants(group);
        if group == 0 || populated || below.iter().skip(1).any(|n| !self.cgroups.all[*n].dead) {
            return Err(Errno::EBUSY);
        }
        self.cgroups.all[group].dead = true;
        self.cgroup_bpf_put(self.cgroups.all[group].addr);
        Ok(())
    }

    /// `cgroup_bpf_put`: a group, or a socket of it, went.
    pub(crate) fn cgroup_bpf_put(&mut self, cgroup: u64) {
        let Some(group) = self.cgroups.by_addr(cgroup) else { return };
        if self.cgroups.all[group].dead && !self.cgroup_has_sockets(cgroup) {
            self.cgroup_bpf_release(group);
        }
    }

    fn cgroup_has_sockets(&self, cgroup: u64) -> bool {
        let at = field!("sock", "sk_cgrp_data.cgroup");
        self.net.sockets.sks().any(|sk| self.get(sk, at) == cgroup)
    }

    /// The address of a group's `struct cgroup`.
    pub(crate) fn cgroup_addr(&self, group: usize) -> u64 {
        self.cgroups.all[group].addr
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
        self.cgroups.join(task);
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

    /// `cgroup_is_descendant`: whether a group is another one or below it.
    pub(crate) fn is_under_cgroup(&self, own: u64, cgroup: u64) -> bool {
        let level = self.get(cgroup, field!("cgroup", "level")) as i32;
        self.cgroup_ancestor(own, level) == Some(cgroup)
    }

    /// Path of a group by its place in the tree.
    #[must_use]
    pub fn cgroup_path(&self, group: usize) -> &str {
        let path = self.cgroups.all.get(group).map_or("", |c| c.path.as_str());
        if path.is_empty() { "/" } else { path }
    }

    /// `cgroup_get_from_id`.
    pub(crate) fn cgroup_by_id(&mut self, id: u64) -> Option<u64> {
        self.cgroup_root().ok()?;
        let group = self.cgroups.all.get(group_of(id)?);
        group.filter(|c| !c.dead).map(|c| c.addr)
    }
}

/// `cgroup_id` of a group by its place.
pub(crate) fn id_of(group: usize) -> u64 {
    group as u64 + ROOT_ID
}

/// The place of a group by its id.
pub(crate) fn group_of(id: u64) -> Option<usize> {
    usize::try_from(id.checked_sub(ROOT_ID)?).ok()
}
