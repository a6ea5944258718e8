//! Programs of control groups: `BPF_PROG_ATTACH`, `BPF_PROG_DETACH`, `BPF_PROG_QUERY`, and links
//! (kernel/bpf/syscall.c, kernel/bpf/cgroup.c).

use bpf::uapi::attr::{LinkCreate, LinkCreateOrder, ProgAttach, ProgQuery};
use bpf::uapi::fields::Struct;
use bpf::uapi::{AttachType, ProgType};

use super::{Call, FdObject, LinkId, LinkTarget, SysError, SysResult};
use crate::cgroup::{Ask, flag, id_of, is_modelled};
use crate::{Errno, Kernel, ProgId};

/// `BPF_F_ATTACH_MASK_BASE`.
const BASE: u32 = flag::ALLOW_OVERRIDE | flag::ALLOW_MULTI | flag::REPLACE | flag::PREORDER;
/// `BPF_F_ATTACH_MASK_MPROG`.
const MPROG: u32 = flag::REPLACE | flag::BEFORE | flag::AFTER | flag::ID | flag::LINK;
/// `BPF_F_LINK_ATTACH_MASK`.
const OF_LINK: u32 = flag::ID | flag::BEFORE | flag::AFTER | flag::PREORDER | flag::LINK;
/// `BPF_F_QUERY_EFFECTIVE`.
const EFFECTIVE: u32 = 1;

/// `attach_type_to_prog_type`.
pub(super) fn type_of(attach: AttachType) -> Option<ProgType> {
    use AttachType as A;
    Some(match attach {
        A::CgroupInetIngress | A::CgroupInetEgress => ProgType::CgroupSkb,
        A::CgroupInetSockCreate
        | A::CgroupInetSockRelease
        | A::CgroupInet4PostBind
        | A::CgroupInet6PostBind => ProgType::CgroupSock,
        A::CgroupSockOps => ProgType::SockOps,
        A::CgroupDevice => ProgType::CgroupDevice,
        A::CgroupSysctl => ProgType::CgroupSysctl,
        A::CgroupGetsockopt | A::CgroupSetsockopt => ProgType::CgroupSockopt,
        A::LsmMac | A::LsmCgroup => ProgType::Lsm,
        A::TraceRawTp | A::TraceFentry | A::TraceFexit | A::ModifyReturn | A::TraceIter => {
            ProgType::Tracing
        }
        A::SkLookup => ProgType::SkLookup,
        A::Xdp => ProgType::Xdp,
        A::TcxIngress | A::TcxEgress => ProgType::SchedCls,
        other if other.name().starts_with("cgroup_") => ProgType::CgroupSockAddr,
        _ => return None,
    })
}

/// `is_cgroup_prog_type`.
pub(super) fn is_of_groups(kind: ProgType, attach: Option<AttachType>) -> bool {
    use ProgType as P;
    match kind {
        P::CgroupDevice
        | P::CgroupSkb
        | P::CgroupSock
        | P::CgroupSockAddr
        | P::CgroupSockopt
        | P::CgroupSysctl
        | P::SockOps => true,
        P::Lsm => attach.is_none_or(|a| a == AttachType::LsmCgroup),
        _ => false,
    }
}

/// `bpf_prog_attach_check_attach_type`.
pub(super) fn check_attach_type(k: &Kernel, prog: ProgId, attach: AttachType) -> Result<(), Errno> {
    let program = k.progs.get(&prog).ok_or(Errno::EBADF)?.verified.program();
    let fits = match program.prog_type {
        ProgType::CgroupSock | ProgType::CgroupSockAddr | ProgType::CgroupSockopt => {
            let expected = program.attach_type.unwrap_or(AttachType::CgroupInetSockCreate);
            expected == attach
        }
        kind => type_of(attach) == Some(kind),
    };
    if fits { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Hooks that no path of the model reaches.
fn modelled(attach: AttachType) -> Result<(), SysError> {
    match is_modelled(attach) {
        true => Ok(()),
        false => Err(SysError::unsupported(format!("control groups' {}", attach.name()))),
    }
}

/// `bpf_prog_get_type`.
fn prog_of_type(k: &Kernel, fd: u32, kind: ProgType) -> Result<ProgId, Errno> {
    let prog = k.fd_prog(fd.cast_signed())?;
    let found = k.progs.get(&prog).map(crate::Prog::prog_type);
    if found == Some(kind) { Ok(prog) } else { Err(Errno::EINVAL) }
}

/// The attach type of a command, and the type of program it is for.
fn kind_of(raw: u32) -> Result<(AttachType, ProgType), Errno> {
    let attach = AttachType::from_raw(raw).ok_or(Errno::EINVAL)?;
    Ok((attach, type_of(attach).ok_or(Errno::EINVAL)?))
}

pub(super) fn attach(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: ProgAttach = call.get();
    let (attach, kind) = kind_of(a.attach_type)?;
    if kind == ProgType::SchedCls {
        return Err(SysError::unsupported("BPF_PROG_ATTACH to tcx; a link is"));
    }
    let of_groups = is_of_groups(kind, None);
    let known = if of_groups { BASE | MPROG } else { BASE };
    if a.attach_flags & !known != 0 || !of_groups && (a.relative_fd, a.expected_revision) != (0, 0)
    {
        return Err(Errno::EINVAL.into());
    }
    let prog = prog_of_type(k, a.attach_bpf_fd, kind)?;
    check_attach_type(k, prog, attach)?;
    let expected = k.progs[&prog].verified.program().attach_type;
    if !is_of_groups(kind, expected.or(Some(attach))) {
        return Err(Errno::EINVAL.into());
    }
    modelled(attach)?;
    let group = k.fd_cgroup(a.target_fd.cast_signed())?;
    let both = flag::ALLOW_MULTI | flag::REPLACE;
    let replace = match a.attach_flags & both == both {
        true => Some(prog_of_type(k, a.replace_bpf_fd, kind)?),
        false => None,
    };
    let ask = Ask {
        replace,
        relative: a.relative_fd,
        revision: a.expected_revision,
        ..Ask::new(prog, attach, a.attach_flags)
    };
    k.cgroup_attach(group, ask)?;
    Ok(0)
}

pub(super) fn detach(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: ProgAttach = call.get();
    let (attach, kind) = kind_of(a.attach_type)?;
    if !is_of_groups(kind, Some(attach)) {
        return Err(SysError::unsupported(format!("BPF_PROG_DETACH of {}", attach.name())));
    }
    if a.attach_flags != 0 || a.relative_fd != 0 {
        return Err(Errno::EINVAL.into());
    }
    let group = k.fd_cgroup(a.target_fd.cast_signed())?;
    // A descriptor of nothing is none at all.
    let prog = prog_of_type(k, a.attach_bpf_fd, kind).ok();
    k.cgroup_detach(group, attach, prog, a.expected_revision)?;
    k.objects_sweep();
    Ok(0)
}

pub(super) fn query(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let mut a: ProgQuery = call.get();
    if a.query_flags & !EFFECTIVE != 0 {
        return Err(Errno::EINVAL.into());
    }
    let attach = AttachType::from_raw(a.attach_type).ok_or(Errno::EINVAL)?;
    let kind = type_of(attach).ok_or(Errno::EINVAL)?;
    if !is_of_groups(kind, Some(attach)) {
        return Err(SysError::unsupported(format!("BPF_PROG_QUERY of {}", attach.name())));
    }
    let group = k.fd_cgroup(a.target_fd.cast_signed())?;
    let effective = a.query_flags & EFFECTIVE != 0;
    let (ids, room) = (a.prog_ids, a.prog_cnt as usize);
    let lsm = attach == AttachType::LsmCgroup;
    let no_flags = a.prog_attach_flags == 0;
    if effective && !no_flags || lsm && !effective && room != 0 && ids != 0 && no_flags {
        return Err(Errno::EINVAL.into());
    }
    let found = k.cgroup_query(group, attach, effective);
    (a.attach_flags, a.revision) = (found.flags, found.revision);
    a.prog_cnt = found.progs.len() as u32;
    call.put(&a);
    if room == 0 || ids == 0 || found.progs.is_empty() {
        return Ok(0);
    }
    let given = &found.progs[..found.progs.len().min(room)];
    let bytes: Vec<u8> = given.iter().flat_map(|(p, _)| call.word(p.0)).collect();
    call.user.write(ids, &bytes)?;
    if !no_flags {
        let bytes: Vec<u8> = given.iter().flat_map(|(_, flags)| call.word(*flags)).collect();
        call.user.write(a.prog_attach_flags, &bytes)?;
    }
    // bpf_prog_array_copy_to_user says so, too.
    if given.len() < found.progs.len() { Err(Errno::ENOSPC.into()) } else { Ok(0) }
}

/// `cgroup_bpf_link_attach`, for the link that is made next.
pub(super) fn link(
    k: &mut Kernel,
    call: &Call<'_>,
    a: &LinkCreate,
    (prog, attach): (ProgId, AttachType),
) -> Result<LinkTarget, SysError> {
    if a.flags & !OF_LINK != 0 {
        return Err(Errno::EINVAL.into());
    }
    modelled(attach)?;
    let group = k.fd_cgroup(a.target_fd.cast_signed())?;
    let order = LinkCreateOrder::decode(&a.extra, call.endian);
    let ask = Ask {
        link: Some(LinkId(k.next_link)),
        relative: order.relative_fd,
        revision: order.expected_revision,
        ..Ask::new(prog, attach, flag::ALLOW_MULTI | a.flags)
    };
    k.cgroup_attach(group, ask)?;
    Ok(LinkTarget::Cgroup { id: id_of(group), attach })
}

impl Kernel {
    /// Opens the directory of a control group, for `target_fd` of bpf(2).
    ///
    /// # Errors
    /// `ENOENT`.
    pub fn cgroup_open(&mut self, path: &str) -> Result<i32, Errno> {
        self.cgroup_root()?;
        let group = self.cgroups.by_path(path).ok_or(Errno::ENOENT)?;
        Ok(self.fd_install(FdObject::Cgroup(group)))
    }

    /// `cgroup_get_from_fd`: other files are `EBADF`.
    pub(crate) fn fd_cgroup(&self, fd: i32) -> Result<usize, Errno> {
        match self.fd_object(fd) {
            Ok(FdObject::Cgroup(group)) => Ok(group),
            _ => Err(Errno::EBADF),
        }
    }
}
