//! Lists of programs of a group, and what of them is in effect in each group
//! (`__cgroup_bpf_attach`, `__cgroup_bpf_detach`, `compute_effective_progs`).

use std::sync::Arc;

use bpf::uapi::AttachType;

use super::{Atype, Cgroups};
use crate::syscall::{LinkId, LinkTarget};
use crate::{Errno, Kernel, ProgId};

/// `BPF_F_*` of attachments (include/uapi/linux/bpf.h).
#[allow(missing_docs, reason = "the names are the kernel's")]
pub mod flag {
    pub const ALLOW_OVERRIDE: u32 = 1;
    pub const ALLOW_MULTI: u32 = 1 << 1;
    pub const REPLACE: u32 = 1 << 2;
    pub const BEFORE: u32 = 1 << 3;
    pub const AFTER: u32 = 1 << 4;
    pub const ID: u32 = 1 << 5;
    pub const PREORDER: u32 = 1 << 6;
    pub const LINK: u32 = 1 << 13;
}

use flag::{AFTER, ALLOW_MULTI, ALLOW_OVERRIDE, BEFORE, PREORDER, REPLACE};

/// `BPF_CGROUP_MAX_PROGS`.
const PROGS_MAX: usize = 64;
/// `CGROUP_LSM_NUM`: hooks of LSM that groups may have programs for, all in all.
const LSM_MAX: usize = 10;

/// `struct bpf_prog_list`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) prog: ProgId,
    pub(super) link: Option<LinkId>,
    preorder: bool,
}

/// `struct bpf_prog_array_item`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) prog: ProgId,
    /// The group that it is attached to.
    pub(super) group: usize,
}

/// Programs of one kind in one group.
#[derive(Clone, Debug)]
pub(super) struct Attached {
    /// `ALLOW_OVERRIDE`, `ALLOW_MULTI`.
    pub(super) flags: u32,
    pub(super) list: Vec<Entry>,
    pub(super) revision: u64,
    /// What runs when the hook is reached for the group.
    pub(super) effective: Arc<[Item]>,
}

impl Default for Attached {
    fn default() -> Attached {
        Attached { flags: 0, list: Vec::new(), revision: 1, effective: Arc::new([]) }
    }
}

impl Attached {
    pub(super) fn progs(&self) -> impl Iterator<Item = ProgId> {
        self.list.iter().filter(|e| e.link.is_none()).map(|e| e.prog)
    }
}

/// What is to be attached where.
#[derive(Clone, Copy, Debug)]
pub struct Ask {
    /// Program.
    pub prog: ProgId,
    /// The link that holds it, if one does.
    pub link: Option<LinkId>,
    /// Hook.
    pub attach: AttachType,
    /// `BPF_F_*`.
    pub flags: u32,
    /// The program whose place it takes.
    pub replace: Option<ProgId>,
    /// `relative_fd`: descriptor or id of the neighbour, as the flags say.
    pub relative: u32,
    /// `expected_revision`, 0 for any.
    pub revision: u64,
}

impl Ask {
    /// A program after all others of its hook, with these flags.
    #[must_use]
    pub fn new(prog: ProgId, attach: AttachType, flags: u32) -> Ask {
        Ask { prog, link: None, attach, flags, replace: None, relative: 0, revision: 0 }
    }
}

/// Hooks of control groups that the model's paths reach.
#[must_use]
pub fn is_modelled(attach: AttachType) -> bool {
    use AttachType as A;
    matches!(
        attach,
        A::CgroupInetIngress
            | A::CgroupInetEgress
            | A::CgroupInetSockCreate
            | A::CgroupInetSockRelease
            | A::CgroupInet4Bind
            | A::CgroupInet6Bind
            | A::CgroupInet4PostBind
            | A::CgroupInet6PostBind
            | A::CgroupInet4Connect
            | A::CgroupInet6Connect
            | A::CgroupUdp4Sendmsg
            | A::CgroupUdp6Sendmsg
            | A::CgroupUdp4Recvmsg
            | A::CgroupUdp6Recvmsg
            | A::CgroupInet4Getpeername
            | A::CgroupInet6Getpeername
            | A::CgroupInet4Getsockname
            | A::CgroupInet6Getsockname
            | A::CgroupUnixConnect
            | A::CgroupUnixSendmsg
            | A::CgroupUnixRecvmsg
            | A::CgroupUnixGetpeername
            | A::CgroupUnixGetsockname
            | A::CgroupGetsockopt
            | A::CgroupSetsockopt
            | A::CgroupDevice
            | A::CgroupSysctl
            | A::CgroupSockOps
            | A::LsmCgroup
    )
}

/// `__cgroup_bpf_attach`, first checks.
fn check_flags(ask: &Ask) -> Result<(), Errno> {
    let has = |f| ask.flags & f != 0;
    let excluded = has(ALLOW_OVERRIDE) && has(ALLOW_MULTI)
        || has(REPLACE) && !has(ALLOW_MULTI)
        || has(REPLACE) && has(BEFORE | AFTER)
        || ask.link.is_some() && ask.replace.is_some()
        || ask.replace.is_some() != has(REPLACE);
    if excluded { Err(Errno::EINVAL) } else { Ok(()) }
}

impl Cgroups {
    /// `bpf_cgroup_atype_find`: LSM programs have a kind of their own for each hook, and there
    /// are not many.
    fn has_room(&self, atype: Atype) -> bool {
        let Atype::Lsm(_) = atype else { return true };
        let used = |a: &Atype| matches!(a, Atype::Lsm(_));
        let lists = self.all.iter().flat_map(|c| &c.attached).filter(|(_, l)| !l.list.is_empty());
        let kinds: std::collections::BTreeSet<Atype> =
            lists.map(|(a, _)| *a).filter(used).collect();
        kinds.contains(&atype) || kinds.len() < LSM_MAX
    }

    /// `hierarchy_allows_attach`.
    fn allows(&self, group: usize, atype: Atype) -> bool {
        let mut at = self.all[group].parent;
        while let Some(n) = at {
            if let Some(a) = self.all[n].attached.get(&atype) {
                if a.flags & ALLOW_MULTI != 0 {
                    return true;
                }
                if a.list.len() == 1 {
                    return a.flags & ALLOW_OVERRIDE != 0;
                }
            }
            at = self.all[n].parent;
        }
        true
    }

    /// `compute_effective_progs`: first those of the groups above that are to come first, from the
    /// top down; then the group's own, then those above it that allow many.
    fn compute(&self, group: usize, atype: Atype) -> Arc<[Item]> {
        let (mut before, mut after) = (Vec::new(), Vec::new());
        let mut at = Some(group);
        while let Some(n) = at {
            at = self.all[n].parent;
            let Some(a) = self.all[n].attached.get(&atype) else { continue };
            let any = !before.is_empty() || !after.is_empty();
            if any && a.flags & ALLOW_MULTI == 0 {
                continue;
            }
            let item = |e: &Entry| Item { prog: e.prog, group: n };
            before.splice(0..0, a.list.iter().filter(|e| e.preorder).map(item));
            after.extend(a.list.iter().filter(|e| !e.preorder).map(item));
        }
        before.into_iter().chain(after).collect()
    }

    /// `update_effective_progs`.
    fn update(&mut self, group: usize, atype: Atype) {
        for n in self.descendants(group) {
            let effective = self.compute(n, atype);
            self.all[n].attached.entry(atype).or_default().effective = effective;
        }
    }

    /// `cgroup_bpf_inherit`: a new group has what those above it share.
    pub(super) fn inherit(&mut self, group: usize) {
        let Some(parent) = self.all[group].parent else { return };
        let kinds: Vec<Atype> = self.all[parent].attached.keys().copied().collect();
        for atype in kinds {
            self.update(group, atype);
        }
    }

    /// What runs for a group.
    pub(super) fn effective(&self, group: usize, atype: Atype) -> Option<Arc<[Item]>> {
        let attached = self.all.get(group)?.attached.get(&atype)?;
        (!attached.effective.is_empty()).then(|| Arc::clone(&attached.effective))
    }

    /// Whether any group has a program of a kind (`cgroup_bpf_enabled`).
    pub(crate) fn enabled(&self, atype: Atype) -> bool {
        self.all.iter().any(|c| c.attached.get(&atype).is_some_and(|a| !a.list.is_empty()))
    }

    fn changed(&mut self, group: usize, atype: Atype) {
        let here = self.all[group].attached.entry(atype).or_default();
        here.revision += 1;
        if here.list.is_empty() {
            here.flags = 0;
        }
        self.update(group, atype);
    }
}

impl Kernel {
    /// `__cgroup_bpf_attach`.
    ///
    /// # Errors
    /// `EINVAL` for flags that exclude each other or a program that is there already, `ESTALE` for
    /// another revision, `EPERM` where a group above does not allow it or the flags are others
    /// than before, `E2BIG` beyond 64 programs, `ENOENT` for a neighbour or a program to replace
    /// that is not there, `ENOMEM` for its local storage.
    pub fn cgroup_attach(&mut self, group: usize, ask: Ask) -> Result<(), Errno> {
        check_flags(&ask)?;
        let atype = self.cgroup_atype(ask.attach, ask.prog).ok_or(Errno::EINVAL)?;
        if !self.cgroups.has_room(atype) {
            return Err(Errno::EINVAL);
        }
        let saved = ask.flags & (ALLOW_OVERRIDE | ALLOW_MULTI);
        let allowed = self.cgroups.allows(group, atype);
        let here = self.cgroups.all[group].attached.entry(atype).or_default();
        if ask.revision != 0 && ask.revision != here.revision {
            return Err(Errno::ESTALE);
        }
        if !allowed || !here.list.is_empty() && here.flags != saved {
            return Err(Errno::EPERM);
        }
        if here.list.len() >= PROGS_MAX {
            return Err(Errno::E2BIG);
        }
        let list = here.list.clone();
        self.storages_link(group, ask.attach, ask.prog)?;
        let preorder = ask.flags & PREORDER != 0;
        let entry = Entry { prog: ask.prog, link: ask.link, preorder };
        match find_to_replace(&list, &ask)? {
            Some(at) => self.cgroup_list(group, atype)[at] = entry,
            None => {
                let at = self.cgroup_place(&list, &ask)?;
                self.cgroup_list(group, atype).insert(at, entry);
            }
        }
        if let Some(a) = self.cgroups.all[group].attached.get_mut(&atype) {
            a.flags = saved;
        }
        self.cgroups.changed(group, atype);
        Ok(())
    }

    fn cgroup_list(&mut self, group: usize, atype: Atype) -> &mut Vec<Entry> {
        &mut self.cgroups.all[group].attached.entry(atype).or_default().list
    }

    /// `get_prog_list`: where a new program goes.
    fn cgroup_place(&self, list: &[Entry], ask: &Ask) -> Result<usize, Errno> {
        let has = |f| ask.flags & f != 0;
        let (by_link, by_id) = (has(flag::LINK), has(flag::ID));
        let related = by_link || by_id || ask.relative != 0;
        if related && (has(BEFORE) == has(AFTER) || by_link != ask.link.is_some()) {
            return Err(Errno::EINVAL);
        }
        if !list.is_empty() && has(BEFORE) && has(AFTER) {
            return Err(Errno::EINVAL);
        }
        if !related {
            return Ok(if has(BEFORE) { 0 } else { list.len() });
        }
        let at = if by_link {
            let link = self.cgroup_anchor_link(by_id, ask.relative)?;
            list.iter().position(|e| e.link == Some(link))
        } else {
            let prog = self.cgroup_anchor_prog(by_id, ask.relative)?;
            list.iter().position(|e| e.link.is_none() && e.prog == prog)
        };
        let at = at.ok_or(Errno::ENOENT)?;
        if list[at].preorder != has(PREORDER) {
            return Err(Errno::EINVAL);
        }
        Ok(if has(BEFORE) { at } else { at + 1 })
    }

    /// `bpf_get_anchor_link`.
    fn cgroup_anchor_link(&self, by_id: bool, which: u32) -> Result<LinkId, Errno> {
        match (by_id, which) {
            (true, id) => {
                Some(LinkId(id)).filter(|l| self.links.contains_key(l)).ok_or(Errno::ENOENT)
            }
            (false, 0) => Err(Errno::EINVAL),
            (false, fd) => self.fd_link(fd.cast_signed()),
        }
    }

    /// `bpf_get_anchor_prog`.
    fn cgroup_anchor_prog(&self, by_id: bool, which: u32) -> Result<ProgId, Errno> {
        match (by_id, which) {
            (true, id) => {
                Some(ProgId(id)).filter(|p| self.progs.contains_key(p)).ok_or(Errno::ENOENT)
            }
            (false, 0) => Err(Errno::EINVAL),
            (false, fd) => self.fd_prog(fd.cast_signed()),
        }
    }

    /// `__cgroup_bpf_detach`. Where many are not allowed, the only one goes, whichever was named.
    ///
    /// # Errors
    /// `EINVAL` when none is named and many are allowed, `ENOENT`, `ESTALE`.
    pub fn cgroup_detach(
        &mut self,
        group: usize,
        attach: AttachType,
        prog: Option<ProgId>,
        revision: u64,
    ) -> Result<(), Errno> {
        let atype = match prog {
            Some(p) => self.cgroup_atype(attach, p),
            None => Atype::plain(attach),
        };
        let atype = atype.ok_or(Errno::EINVAL)?;
        let here = self.cgroups.all[group].attached.entry(atype).or_default();
        if revision != 0 && revision != here.revision {
            return Err(Errno::ESTALE);
        }
        let at = if here.flags & ALLOW_MULTI == 0 {
            if here.list.is_empty() { None } else { Some(0) }
        } else {
            let prog = prog.ok_or(Errno::EINVAL)?;
            here.list.iter().position(|e| e.link.is_none() && e.prog == prog)
        };
        here.list.remove(at.ok_or(Errno::ENOENT)?);
        self.cgroups.changed(group, atype);
        self.let_go = true;
        Ok(())
    }

    /// `bpf_cgroup_link_release`.
    pub(crate) fn cgroup_link_gone(&mut self, group: usize, link: LinkId) {
        self.cgroup_retain(&[group], |e| e.link != Some(link));
    }

    /// `__cgroup_bpf_replace`: a link has another program.
    pub(crate) fn cgroup_link_update(&mut self, group: usize, link: LinkId, prog: ProgId) {
        let attached = &mut self.cgroups.all[group].attached;
        let of_link =
            |(_, a): &(&Atype, &mut Attached)| a.list.iter().any(|e| e.link == Some(link));
        let Some((atype, a)) = attached.iter_mut().find(of_link) else { return };
        let atype = *atype;
        a.list.iter_mut().filter(|e| e.link == Some(link)).for_each(|e| e.prog = prog);
        self.cgroups.changed(group, atype);
    }

    /// `cgroup_bpf_release`: the group goes.
    pub(super) fn cgroup_bpf_release(&mut self, group: usize) {
        let here = std::mem::take(&mut self.cgroups.all[group].attached);
        for link in here.into_values().flat_map(|a| a.list).filter_map(|e| e.link) {
            if let Some(l) = self.links.get_mut(&link) {
                l.target = LinkTarget::detached(l.target);
            }
        }
        self.storages_unlink(group);
        self.let_go = true;
    }

    /// Takes a program off all groups.
    pub fn cgroup_detach_all(&mut self, prog: ProgId) {
        let all: Vec<usize> = (0..self.cgroups.all.len()).collect();
        self.cgroup_retain(&all, |e| e.prog != prog);
    }

    fn cgroup_retain(&mut self, groups: &[usize], keep: impl Fn(&Entry) -> bool) {
        for group in groups {
            let attached = &self.cgroups.all[*group].attached;
            let hit = |a: &Attached| a.list.iter().any(|e| !keep(e));
            let kinds = attached.iter().filter(|(_, a)| hit(a)).map(|(t, _)| *t);
            for atype in kinds.collect::<Vec<Atype>>() {
                self.cgroup_list(*group, atype).retain(|e| keep(e));
                self.cgroups.changed(*group, atype);
            }
        }
    }
}

/// `find_attach_entry`: the place that is taken over.
fn find_to_replace(list: &[Entry], ask: &Ask) -> Result<Option<usize>, Errno> {
    if ask.flags & ALLOW_MULTI == 0 {
        return Ok(if list.is_empty() { None } else { Some(0) });
    }
    let twice = |e: &Entry| match ask.link {
        Some(link) => e.link == Some(link),
        None => e.link.is_none() && e.prog == ask.prog && Some(ask.prog) != ask.replace,
    };
    if list.iter().any(twice) {
        return Err(Errno::EINVAL);
    }
    match ask.replace {
        None => Ok(None),
        Some(old) => {
            let at = list.iter().position(|e| e.link.is_none() && e.prog == old);
            at.map(Some).ok_or(Errno::ENOENT)
        }
    }
}
