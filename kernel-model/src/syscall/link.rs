//! Links: `BPF_LINK_CREATE`, `BPF_LINK_UPDATE`, `BPF_LINK_DETACH`.
//!
//! A link holds an attachment for as long as a descriptor of it is open.

use bpf::Endian;
use bpf::uapi::attr::{
    IterCgroupInfo, IterCreate, IterMapInfo, IterTaskInfo, LinkCreate, LinkCreateIter,
    LinkCreateOrder, LinkCreateTracing, LinkDetach, LinkUpdate, RawTracepoint,
};
use bpf::uapi::fields::Struct;
use bpf::uapi::{AttachType, ProgType};

use super::{Call, FdObject, SysError, SysResult, cgroup};
use crate::cgroup::group_of;
use crate::iter::{Info, OfTask, Target};
use crate::maps::MapId;
use crate::net::{Dir, Order};
use crate::trace::AttachError;
use crate::{Errno, Kernel, ProgId};

/// Kernel id of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u32);

/// What a link attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// The driver of a nic.
    Xdp {
        /// Nic.
        ifindex: u32,
    },
    /// A tcx hook of a nic.
    Tcx {
        /// Nic.
        ifindex: u32,
        /// Direction.
        dir: Dir,
    },
    /// The point of the model's own events that the program was loaded for.
    Trace {
        /// How it was attached.
        attach: AttachType,
        /// `BPF_RAW_TRACEPOINT_OPEN` of a raw tracepoint.
        raw: bool,
    },
    /// A hook of a control group.
    Cgroup {
        /// `cgroup_id`.
        id: u64,
        /// Hook.
        attach: AttachType,
    },
    /// What an iterator goes over.
    Iter(Target),
    /// Nothing any more.
    Detached {
        /// `enum bpf_link_type`, as it was.
        link_type: u32,
        /// Where it was, for links that tell.
        attach: u32,
    },
}

/// An attachment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The program.
    pub prog: ProgId,
    /// Where it is.
    pub target: LinkTarget,
}

impl LinkTarget {
    /// The map whose elements an iterator goes over.
    pub(super) fn map(self) -> Option<MapId> {
        match self {
            LinkTarget::Iter(target) => target.map(),
            _ => None,
        }
    }

    /// `enum bpf_link_type`.
    pub(super) fn link_type(self) -> u32 {
        match self {
            LinkTarget::Trace { raw: true, .. } => 1,
            LinkTarget::Trace { raw: false, .. } => 2,
            LinkTarget::Xdp { .. } => 6,
            LinkTarget::Cgroup { .. } => 3,
            LinkTarget::Iter(_) => 4,
            LinkTarget::Tcx { .. } => 11,
            LinkTarget::Detached { link_type, .. } => link_type,
        }
    }

    /// The same link when what it was attached to, or its attachment, is gone.
    pub(crate) fn detached(self) -> LinkTarget {
        let attach = match self {
            LinkTarget::Tcx { dir, .. } => attach_type(dir) as u32,
            LinkTarget::Cgroup { attach, .. } | LinkTarget::Trace { attach, .. } => attach as u32,
            LinkTarget::Detached { attach, .. } => attach,
            LinkTarget::Xdp { .. } => 0,
            LinkTarget::Iter(_) => AttachType::TraceIter as u32,
        };
        LinkTarget::Detached { link_type: self.link_type(), attach }
    }

    /// The end of `struct bpf_link_info`.
    pub(super) fn describe(self, out: &mut [u8; 48], endian: Endian) {
        if let LinkTarget::Iter(target) = self {
            return crate::iter::describe(target, out, endian);
        }
        let words = match self {
            LinkTarget::Xdp { ifindex } => [ifindex, 0, 0],
            LinkTarget::Tcx { ifindex, dir } => [ifindex, attach_type(dir) as u32, 0],
            LinkTarget::Cgroup { id, attach } => {
                let (low, high) = (id as u32, (id >> 32) as u32);
                let first = if endian == Endian::Little { [low, high] } else { [high, low] };
                [first[0], first[1], attach as u32]
            }
            LinkTarget::Trace { raw: false, attach } => [attach as u32, 0, 0],
            LinkTarget::Detached { link_type: 3, attach } => [0, 0, attach],
            LinkTarget::Detached { link_type: 11, attach } => [0, attach, 0],
            LinkTarget::Trace { raw: true, .. }
            | LinkTarget::Iter(_)
            | LinkTarget::Detached { .. } => [0, 0, 0],
        };
        for (at, word) in words.into_iter().enumerate() {
            let b = match endian {
                Endian::Little => word.to_le_bytes(),
                Endian::Big => word.to_be_bytes(),
            };
            out[at * 4..at * 4 + 4].copy_from_slice(&b);
        }
    }
}

fn attach_type(dir: Dir) -> AttachType {
    match dir {
        Dir::Ingress => AttachType::TcxIngress,
        Dir::Egress => AttachType::TcxEgress,
    }
}

/// Longest name of a tracepoint.
const TP_NAME_MAX: usize = 127;

/// `BPF_F_REPLACE`, `BPF_F_BEFORE`, `BPF_F_AFTER`, `BPF_F_ID`, `BPF_F_LINK`.
const REPLACE: u32 = 1 << 2;
const BEFORE: u32 = 1 << 3;
const AFTER: u32 = 1 << 4;
const BY_ID: u32 = 1 << 5;
const BY_LINK: u32 = 1 << 13;

pub(super) fn create(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: LinkCreate = call.get();
    let prog = k.fd_prog(a.prog_fd.cast_signed())?;
    no_program_target(k, prog)?;
    let kind = k.progs.get(&prog).ok_or(Errno::EBADF)?.prog_type();
    let attach = AttachType::from_raw(a.attach_type).ok_or(Errno::EINVAL)?;
    let target = match (attach, kind) {
        (AttachType::Xdp, ProgType::Xdp) => xdp(k, &a, prog)?,
        (AttachType::TcxIngress, ProgType::SchedCls) => tcx(k, call, &a, prog, Dir::Ingress)?,
        (AttachType::TcxEgress, ProgType::SchedCls) => tcx(k, call, &a, prog, Dir::Egress)?,
        (AttachType::Xdp | AttachType::TcxIngress | AttachType::TcxEgress, _) => {
            return Err(Errno::EINVAL.into());
        }
        (other, kind) if cgroup::is_of_groups(kind, Some(other)) => {
            cgroup::check_attach_type(k, prog, other)?;
            cgroup::link(k, call, &a, (prog, other))?
        }
        (other, ProgType::Tracing | ProgType::Lsm) if tracing(other) => {
            let cookie = LinkCreateTracing::decode(&a.extra, call.endian).cookie;
            trace(k, prog, cookie, LinkTarget::Trace { attach: other, raw: false })?
        }
        (AttachType::TraceIter, ProgType::Tracing) => iter(k, call, &a, prog)?,
        (other, _) => {
            return Err(SysError::unsupported(format!("links of type {}", other.name())));
        }
    };
    Ok(install(k, prog, target))
}

fn install(k: &mut Kernel, prog: ProgId, target: LinkTarget) -> i32 {
    let id = LinkId(k.next_link);
    k.next_link += 1;
    k.links.insert(id, Link { prog, target });
    k.fd_install(FdObject::Link(id))
}

fn tracing(t: AttachType) -> bool {
    matches!(
        t,
        AttachType::TraceRawTp
            | AttachType::TraceFentry
            | AttachType::TraceFexit
            | AttachType::ModifyReturn
            | AttachType::LsmMac
    )
}

fn trace(
    k: &mut Kernel,
    prog: ProgId,
    cookie: u64,
    target: LinkTarget,
) -> Result<LinkTarget, SysError> {
    k.trace_attach(prog, cookie).map_err(|e| match e {
        AttachError::Errno(errno) => errno.into(),
        AttachError::OtherArch { .. } => Errno::ENOENT.into(),
        other => SysError::unsupported(other.to_string()),
    })?;
    Ok(target)
}

/// Programs that trace or replace a program are verified, not run.
fn no_program_target(k: &Kernel, prog: ProgId) -> Result<(), SysError> {
    match k.progs.get(&prog).ok_or(Errno::EBADF)?.target {
        Some(_) => Err(SysError::unsupported("attaching to a program")),
        None => Ok(()),
    }
}

/// `BPF_RAW_TRACEPOINT_OPEN`: by name for raw tracepoints, without one for what a tracing
/// program was loaded for.
pub(super) fn raw_tracepoint(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: RawTracepoint = call.get();
    let prog = k.fd_prog(a.prog_fd.cast_signed())?;
    no_program_target(k, prog)?;
    let program = k.progs.get(&prog).ok_or(Errno::EBADF)?.verified.program();
    let (t, attach, to) = (program.prog_type, program.attach_type, program.attach_to.clone());
    let target = match (t, attach) {
        (ProgType::Tracing | ProgType::Lsm, Some(attach)) if tracing(attach) => {
            if a.name != 0 {
                return Err(Errno::EINVAL.into());
            }
            LinkTarget::Trace { attach, raw: false }
        }
        (ProgType::RawTracepoint, _) => {
            let name = call.user.read_str(a.name, TP_NAME_MAX)?;
            if to.as_deref() != Some(&*name) {
                let what = format!("raw tracepoint {name} for a program whose section says {to:?}");
                return Err(SysError::unsupported(what));
            }
            LinkTarget::Trace { attach: AttachType::TraceRawTp, raw: true }
        }
        (ProgType::RawTracepointWritable | ProgType::Tracing | ProgType::Lsm, _) => {
            return Err(SysError::unsupported(format!("attaching {} programs", t.name())));
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    let target = trace(k, prog, a.cookie, target)?;
    Ok(install(k, prog, target))
}

/// `sizeof(union bpf_iter_link_info)`: of its largest member.
const ITER_INFO: usize = IterCgroupInfo::SIZE;

/// `bpf_iter_link_attach`: the target, as its own structure in the process restricts it.
fn iter(
    k: &mut Kernel,
    call: &Call<'_>,
    a: &LinkCreate,
    prog: ProgId,
) -> Result<LinkTarget, SysError> {
    let named = LinkCreateIter::decode(&a.extra, call.endian);
    let len = named.iter_info_len as usize;
    if a.target_fd != 0 || a.flags != 0 || (named.iter_info == 0) != (len == 0) {
        return Err(Errno::EINVAL.into());
    }
    let mut bytes = call.user.read(named.iter_info, len)?;
    if bytes.iter().skip(ITER_INFO).any(|b| *b != 0) {
        return Err(Errno::E2BIG.into());
    }
    bytes.resize(ITER_INFO, 0);
    let name = k.progs[&prog].verified.program().attach_to.clone().unwrap_or_default();
    let mut info = Info::default();
    match name.as_str() {
        "cgroup" => {
            let of = IterCgroupInfo::decode(&bytes, call.endian);
            info.order = of.order;
            info.cgroup = match (of.cgroup_fd, of.cgroup_id) {
                (0, 0) => None,
                (0, id) => {
                    k.cgroup_by_id(id).ok_or(Errno::ENOENT)?;
                    group_of(id)
                }
                (fd, 0) => Some(k.fd_cgroup(fd.cast_signed())?),
                (_, _) => return Err(Errno::EINVAL.into()),
            };
        }
        "bpf_map_elem" => {
            let fd = IterMapInfo::decode(&bytes, call.endian).map_fd;
            info.map = if fd == 0 { None } else { Some(k.fd_map(fd.cast_signed())?) };
        }
        "task" | "task_file" => {
            let of = IterTaskInfo::decode(&bytes, call.endian);
            if of.pid_fd != 0 {
                return Err(SysError::unsupported("pidfds"));
            }
            info.task = OfTask { tid: of.tid, pid: of.pid };
        }
        _ => {}
    }
    k.iter_link(prog, &info)
}

/// `BPF_ITER_CREATE`.
pub(super) fn iter_create(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: IterCreate = call.get();
    if a.flags != 0 {
        return Err(Errno::EINVAL.into());
    }
    k.iter_create(a.link_fd.cast_signed())
}

fn xdp(k: &mut Kernel, a: &LinkCreate, prog: ProgId) -> Result<LinkTarget, SysError> {
    let ifindex = a.target_fd;
    let nic = k.net.nics.get(&ifindex).ok_or(Errno::ENODEV)?;
    if nic.xdp.is_some() {
        return Err(Errno::EBUSY.into());
    }
    k.xdp_attach(ifindex, Some(prog))?;
    Ok(LinkTarget::Xdp { ifindex })
}

/// `tcx_link_attach`, by `bpf_mprog`.
fn tcx(
    k: &mut Kernel,
    call: &Call<'_>,
    a: &LinkCreate,
    prog: ProgId,
    dir: Dir,
) -> Result<LinkTarget, SysError> {
    let known = BEFORE | AFTER | BY_ID | BY_LINK;
    if a.flags & !known != 0 || a.flags & (BEFORE | AFTER) == BEFORE | AFTER {
        return Err(Errno::EINVAL.into());
    }
    let order = LinkCreateOrder::decode(&a.extra, call.endian);
    if order.expected_revision != 0 {
        return Err(SysError::unsupported("expected_revision"));
    }
    let other = if order.relative_fd == 0 && a.flags & BY_ID == 0 {
        None
    } else {
        Some(relative(k, a.flags, order.relative_fd)?)
    };
    let order = match (a.flags & (BEFORE | AFTER), other) {
        (0, None) => Order::Last,
        (BEFORE, None) => Order::First,
        (AFTER, None) => Order::Last,
        (BEFORE, Some(p)) => Order::Before(p),
        (AFTER, Some(p)) => Order::After(p),
        _ => return Err(Errno::ERANGE.into()),
    };
    k.tcx_attach(a.target_fd, dir, prog, order)?;
    Ok(LinkTarget::Tcx { ifindex: a.target_fd, dir })
}

/// `bpf_mprog_link`, `bpf_mprog_prog`: the neighbour by descriptor or id.
fn relative(k: &Kernel, flags: u32, which: u32) -> Result<ProgId, Errno> {
    match (flags & BY_LINK != 0, flags & BY_ID != 0) {
        (false, false) => k.fd_prog(which.cast_signed()),
        (false, true) => {
            Some(ProgId(which)).filter(|p| k.progs.contains_key(p)).ok_or(Errno::ENOENT)
        }
        (true, false) => Ok(k.links[&k.fd_link(which.cast_signed())?].prog),
        (true, true) => k.links.get(&LinkId(which)).map(|l| l.prog).ok_or(Errno::ENOENT),
    }
}

pub(super) fn update(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: LinkUpdate = call.get();
    if a.flags & !REPLACE != 0 {
        return Err(Errno::EINVAL.into());
    }
    let id = k.fd_link(a.link_fd.cast_signed())?;
    let new = k.fd_prog(a.new_prog_fd.cast_signed())?;
    let link = k.links[&id];
    if let LinkTarget::Detached { .. } = link.target {
        return Err(Errno::ENOLINK.into());
    }
    let old = match (a.flags & REPLACE, a.old_prog_fd) {
        (0, 0) => None,
        (0, _) => return Err(Errno::EINVAL.into()),
        (_, fd) => Some(k.fd_prog(fd.cast_signed())?),
    };
    if old.is_some_and(|old| old != link.prog) {
        return Err(Errno::EPERM.into());
    }
    if k.progs[&new].prog_type() != k.progs[&link.prog].prog_type() {
        return Err(Errno::EINVAL.into());
    }
    let nic =
        |k: &mut Kernel, ifindex| k.net.nics.get_mut(&ifindex).ok_or(Errno::ENODEV).map(|_| ());
    match link.target {
        LinkTarget::Detached { .. } => return Err(Errno::ENOLINK.into()),
        LinkTarget::Cgroup { id: of, .. } => {
            let group = group_of(of).ok_or(Errno::ENOLINK)?;
            k.cgroup_link_update(group, id, new);
        }
        // bpf_tracing_link has no update.
        LinkTarget::Trace { .. } => return Err(Errno::EINVAL.into()),
        // A file that is open goes on with the program it was opened with.
        LinkTarget::Iter(_) => {
            let of = |p: ProgId| {
                let program = k.progs[&p].verified.program();
                (program.attach_type, program.attach_to.clone())
            };
            if of(new) != of(link.prog) {
                return Err(Errno::EINVAL.into());
            }
        }
        LinkTarget::Xdp { ifindex } => {
            nic(k, ifindex)?;
            k.xdp_attach(ifindex, Some(new))?;
        }
        LinkTarget::Tcx { ifindex, dir } => {
            nic(k, ifindex)?;
            k.tcx_attach(ifindex, dir, new, Order::After(link.prog))?;
            k.tcx_detach(ifindex, dir, link.prog)?;
        }
    }
    k.links.insert(id, Link { prog: new, ..link });
    Ok(0)
}

pub(super) fn detach(k: &mut Kernel, call: &mut Call<'_>) -> SysResult {
    let a: LinkDetach = call.get();
    let id = k.fd_link(a.link_fd.cast_signed())?;
    // Tracing links end with their last descriptor alone.
    if matches!(k.links[&id].target, LinkTarget::Trace { .. } | LinkTarget::Iter(_)) {
        return Err(Errno::EOPNOTSUPP.into());
    }
    k.link_release(id)?;
    Ok(0)
}

impl Kernel {
    fn iter_link(&mut self, prog: ProgId, info: &Info) -> Result<LinkTarget, SysError> {
        let program = self.progs.get(&prog).ok_or(Errno::EBADF)?.verified.program();
        if program.attach_type != Some(AttachType::TraceIter) {
            return Err(Errno::EINVAL.into());
        }
        Ok(LinkTarget::Iter(self.iter_target(prog, info)?))
    }

    /// A link of an iterator program, as `BPF_LINK_CREATE` makes it.
    ///
    /// # Errors
    /// The kernel's errno, or what is not modelled.
    pub fn iter_attach(&mut self, prog: ProgId, info: &Info) -> SysResult {
        let target = self.iter_link(prog, info)?;
        Ok(install(self, prog, target))
    }

    /// `BPF_ITER_CREATE`: a file of a link.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn iter_create(&mut self, link: i32) -> SysResult {
        let Link { prog, target } = self.links[&self.fd_link(link)?];
        let LinkTarget::Iter(target) = target else { return Err(Errno::EINVAL.into()) };
        let iter = self.iter_open(prog, target)?;
        Ok(self.fd_install(FdObject::Iter(iter)))
    }

    /// Takes a link's program off its hook.
    pub(super) fn link_release(&mut self, id: LinkId) -> Result<(), Errno> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        let (prog, target) = (link.prog, link.target);
        link.target = target.detached();
        self.let_go = true;
        match target {
            LinkTarget::Xdp { ifindex } => self.xdp_attach(ifindex, None),
            LinkTarget::Tcx { ifindex, dir } => self.tcx_detach(ifindex, dir, prog),
            LinkTarget::Trace { .. } => {
                self.trace_detach(prog);
                Ok(())
            }
            LinkTarget::Cgroup { id: of, .. } => {
                if let Some(group) = group_of(of) {
                    self.cgroup_link_gone(group, id);
                }
                Ok(())
            }
            LinkTarget::Iter(_) | LinkTarget::Detached { .. } => Ok(()),
        }
    }
}
