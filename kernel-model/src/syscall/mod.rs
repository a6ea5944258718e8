//! bpf(2): the commands with the UAPI's structures, in the target's byte order.
//!
//! ```text
//!  Kernel::bpf(cmd, attr, memory) ─► COMMANDS row ─► map, prog, btf, info, link, cgroup, test_run
//! ```
//!
//! Sources: kernel/bpf/syscall.c; errnos as measured on 6.18.

mod again;
mod batch;
mod btf;
mod cgroup;
mod fd;
mod info;
mod lifetime;
mod link;
mod map;
mod prog;
pub mod test_run;
pub mod user;

use bpf::Endian;
use bpf::uapi::Cmd;
use bpf::uapi::attr::{self, KERNEL_ATTR_SIZE};
use bpf::uapi::fields::Struct;
use verifier::reject::Rejection;

pub use btf::{BtfId, BtfObject, VMLINUX_BTF};
pub use fd::FdObject;
pub use link::{Link, LinkId, LinkTarget};
pub use map::SectionNote;
pub use user::{UserMemory, UserSpace};

use crate::{Errno, Kernel};

/// Why a command failed, beyond its errno.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// The kernel's own refusal.
    Kernel,
    /// The model has no such thing; the kernel may have.
    Unsupported(String),
    /// The verifier's refusal.
    Rejected(Box<Rejection>),
}

/// A command failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.text())]
pub struct SysError {
    /// What the caller sees.
    pub errno: Errno,
    /// The reason.
    pub why: Why,
}

impl SysError {
    /// Something that the model does not have.
    #[must_use]
    pub fn unsupported(what: impl Into<String>) -> SysError {
        SysError { errno: Errno::ENOTSUPP, why: Why::Unsupported(what.into()) }
    }

    fn text(&self) -> String {
        match &self.why {
            Why::Kernel => self.errno.name().to_owned(),
            Why::Unsupported(what) => format!("unsupported: {what}"),
            Why::Rejected(r) => format!("{}: {}", self.errno, r.message),
        }
    }
}

impl From<Errno> for SysError {
    fn from(errno: Errno) -> SysError {
        SysError { errno, why: Why::Kernel }
    }
}

/// What a command returns: a descriptor, or 0.
pub type SysResult = Result<i32, SysError>;

/// One call: its attributes and the memory of the process.
pub(crate) struct Call<'a> {
    pub(crate) attr: &'a mut [u8],
    pub(crate) user: &'a mut dyn UserMemory,
    pub(crate) endian: Endian,
}

impl Call<'_> {
    /// The command's half of the union.
    pub(crate) fn get<S: Struct>(&self) -> S {
        S::decode(self.attr, self.endian)
    }

    /// Writes fields back to the process.
    pub(crate) fn put<S: Struct>(&mut self, s: &S) {
        s.encode_into(self.attr, self.endian);
    }

    /// A u32 in the target's byte order.
    pub(crate) fn word(&self, v: u32) -> [u8; 4] {
        match self.endian {
            Endian::Little => v.to_le_bytes(),
            Endian::Big => v.to_be_bytes(),
        }
    }
}

/// What a command does.
type Body = fn(&mut Kernel, &mut Call<'_>) -> SysResult;

/// A command: end of the last field it knows (`CHECK_ATTR`), and its body.
#[rustfmt::skip]
const COMMANDS: &[(Cmd, usize, Body)] = &[
    (Cmd::MapCreate, attr::MapCreate::END, map::create),
    (Cmd::MapLookupElem, attr::MapElem::END, map::lookup),
    (Cmd::MapUpdateElem, attr::MapElem::END, map::update),
    (Cmd::MapDeleteElem, attr::MapDelete::END, map::delete),
    (Cmd::MapGetNextKey, attr::MapNextKey::END, map::next_key),
    (Cmd::MapLookupAndDeleteElem, attr::MapElem::END, map::lookup_and_delete),
    (Cmd::MapFreeze, attr::MapFreeze::END, map::freeze),
    (Cmd::MapLookupBatch, attr::MapBatch::END, batch::lookup),
    (Cmd::MapLookupAndDeleteBatch, attr::MapBatch::END, batch::lookup_and_delete),
    (Cmd::MapUpdateBatch, attr::MapBatch::END, batch::update),
    (Cmd::MapDeleteBatch, attr::MapBatch::END, batch::delete),
    (Cmd::ProgLoad, attr::ProgLoad::END, prog::load),
    (Cmd::ProgAttach, attr::ProgAttach::END, cgroup::attach),
    (Cmd::ProgDetach, attr::ProgAttach::END, cgroup::detach),
    (Cmd::ProgQuery, attr::ProgQuery::END, cgroup::query),
    (Cmd::ProgTestRun, attr::TestRun::END, test_run::command),
    (Cmd::ProgBindMap, attr::ProgBindMap::END, prog::bind_map),
    (Cmd::BtfLoad, attr::BtfLoad::END, btf::load),
    (Cmd::ObjGetInfoByFd, attr::Info::END, info::by_fd),
    (Cmd::IterCreate, attr::IterCreate::END, link::iter_create),
    (Cmd::ProgGetNextId, attr::NextId::END, fd::prog_next_id),
    (Cmd::MapGetNextId, attr::NextId::END, fd::map_next_id),
    (Cmd::BtfGetNextId, attr::NextId::END, fd::btf_next_id),
    (Cmd::LinkGetNextId, attr::NextId::END, fd::link_next_id),
    (Cmd::ProgGetFdById, 4, fd::prog_by_id),
    (Cmd::MapGetFdById, attr::FdById::END, fd::map_by_id),
    (Cmd::BtfGetFdById, attr::FdById::END, fd::btf_by_id),
    (Cmd::LinkGetFdById, 4, fd::link_by_id),
    (Cmd::LinkCreate, attr::LinkCreate::END, link::create),
    (Cmd::LinkUpdate, attr::LinkUpdate::END, link::update),
    (Cmd::RawTracepointOpen, attr::RawTracepoint::END, link::raw_tracepoint),
    (Cmd::LinkDetach, attr::LinkDetach::END, link::detach),
    (Cmd::ProgStreamReadByFd, attr::StreamRead::END, prog::stream_read),
];

/// Commands that the model has.
pub fn commands() -> impl Iterator<Item = Cmd> {
    COMMANDS.iter().map(|c| c.0)
}

impl Kernel {
    /// bpf(2). `attr` is the process's copy of `union bpf_attr`, as long as it says; what the
    /// kernel writes to it is in it afterwards. `memory` is what its pointers refer to.
    ///
    /// # Errors
    /// The kernel's errno, or what is not modelled.
    pub fn bpf(&mut self, cmd: u32, attr: &mut [u8], memory: &mut dyn UserMemory) -> SysResult {
        // bpf_check_uarg_tail_zero: a newer caller's fields must not be used.
        if attr.len() > 4096 {
            return Err(Errno::E2BIG.into());
        }
        if attr.iter().skip(KERNEL_ATTR_SIZE).any(|b| *b != 0) {
            return Err(Errno::E2BIG.into());
        }
        let Some(cmd) = Cmd::from_raw(cmd) else { return Err(Errno::EINVAL.into()) };
        let Some((_, end, body)) = COMMANDS.iter().find(|c| c.0 == cmd) else {
            return Err(SysError::unsupported(format!("bpf(2) command {}", cmd.name())));
        };
        if attr.iter().skip(*end).any(|b| *b != 0) {
            let signed = cmd == Cmd::ProgLoad && attr.len() >= KERNEL_ATTR_SIZE;
            return Err(match signed {
                true => SysError::unsupported("signed programs"),
                false => Errno::EINVAL.into(),
            });
        }
        let endian = self.mem.endian();
        body(self, &mut Call { attr, user: memory, endian })
    }
}

#[cfg(test)]
mod tests;
