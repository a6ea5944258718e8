//! Walks over the tree and the tasks of a group (`css_next_descendant_pre` and others).

use crate::sched::is_listed;
use crate::{Kernel, field};

/// Where a task is in the list of its group: when it joined, then its number. Those that were made
/// in the root never joined.
pub(crate) type Place = (u64, u64);

impl Kernel {
    /// `struct cgroup_subsys_state` of a group, which it begins with.
    pub(crate) fn css_of(&self, group: usize) -> u64 {
        self.cgroups.all[group].addr + u64::from(field!("cgroup", "self").off)
    }

    fn css_group(&self, css: u64) -> Option<usize> {
        self.cgroups.by_addr(self.get(css, field!("cgroup_subsys_state", "cgroup")))
    }

    /// A group that was removed is in the tree until its last socket goes.
    fn in_tree(&self, group: usize) -> bool {
        let c = &self.cgroups.all[group];
        !c.dead || self.cgroup_has_sockets(c.addr)
    }

    /// The groups below one, itself too, in an order.
    fn css_order(&self, group: usize, post: bool, out: &mut Vec<usize>) {
        if !post {
            out.push(group);
        }
        for below in group + 1..self.cgroups.all.len() {
            if self.cgroups.all[below].parent == Some(group) && self.in_tree(below) {
                self.css_order(below, post, out);
            }
        }
        if post {
            out.push(group);
        }
    }

    /// The group behind `pos`, the first one behind 0; 0 at the end.
    pub(crate) fn css_after(&self, pos: u64, start: u64, post: bool) -> u64 {
        let Some(root) = self.css_group(start) else { return 0 };
        let mut all = Vec::new();
        self.css_order(root, post, &mut all);
        let next = match pos {
            0 => all.first(),
            _ => {
                let at = self.css_group(pos).and_then(|g| all.iter().position(|a| *a == g));
                at.and_then(|at| all.get(at + 1))
            }
        };
        next.map_or(0, |g| self.css_of(*g))
    }

    /// The group above `pos`, `start` above 0; 0 above the root.
    pub(crate) fn css_above(&self, pos: u64, start: u64) -> u64 {
        if pos == 0 {
            return start;
        }
        let above = self.css_group(pos).and_then(|g| self.cgroups.all[g].parent);
        above.map_or(0, |g| self.css_of(g))
    }

    /// The task of a group behind a place, in the order in which they joined.
    pub(crate) fn cgroup_task_after(
        &self,
        cgroup: u64,
        behind: Option<Place>,
    ) -> Option<(Place, u64)> {
        let group = self.cgroups.by_addr(cgroup)?;
        let own = self.cgroups.all[group].css_set;
        let here = |task: u64| match self.get(task, field!("task_struct", "cgroups")) {
            0 => group == 0,
            css_set => css_set == own,
        };
        let all = self.sched.procs.iter().filter(|(_, t)| is_listed(self, **t) && here(**t));
        let placed = all.map(|(pid, task)| {
            let joined = self.cgroups.joined.get(task).copied().unwrap_or(0);
            ((joined, u64::from(*pid)), *task)
        });
        placed.filter(|(at, _)| behind.is_none_or(|b| *at > b)).min()
    }
}
