//! `BPF_PROG_QUERY` of a group (`__cgroup_bpf_query`).

use bpf::uapi::AttachType;

use super::Atype;
use super::attach::Attached;
use crate::{Kernel, ProgId};

/// What is attached to a group.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    /// Flags of the group's list, for each kind that is asked for.
    pub(crate) flags: u32,
    /// 0 for what has none of its own.
    pub(crate) revision: u64,
    /// Programs, each with the flags of its list.
    pub(crate) progs: Vec<(ProgId, u32)>,
}

impl Kernel {
    /// The programs of a group by attach type: those that are in effect, or its own.
    pub(crate) fn cgroup_query(&self, group: usize, attach: AttachType, effective: bool) -> Query {
        let attached = &self.cgroups.all[group].attached;
        let lsm = attach == AttachType::LsmCgroup;
        let wanted = |t: &Atype| match t {
            Atype::Of(raw) => *raw == attach as u32,
            Atype::Lsm(_) => lsm,
        };
        let mut out = Query::default();
        for (_, a) in attached.iter().filter(|(t, _)| wanted(t)) {
            let own = |a: &Attached| a.list.iter().map(|e| (e.prog, a.flags)).collect::<Vec<_>>();
            match effective {
                true => out.progs.extend(a.effective.iter().map(|i| (i.prog, 0))),
                false => out.progs.extend(own(a)),
            }
        }
        if !lsm && !effective {
            let here = Atype::plain(attach).and_then(|t| attached.get(&t));
            (out.flags, out.revision) = here.map_or((0, 1), |a| (a.flags, a.revision));
        }
        out
    }
}
