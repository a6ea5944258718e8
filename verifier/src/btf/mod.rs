//! What BTF says about memory: which structure lies where, special fields, walks through pointers.
//!
//! ```text
//!  ctx.rs     the context structure of a program type
//!  record.rs  btf_record: special fields of map values and allocated objects
//!  walk.rs    btf_struct_walk: the member an access touches
//!  same.rs    btf_struct_ids_match: one structure inside another
//! ```

mod ctx;
pub use ctx::ctx_struct;
pub mod record;
mod same;
pub(crate) mod walk;

use bpf::btf::{Btf, Kind};

use crate::explore::ver::Ver;

/// Which BTF a type id belongs to: `reg->btf`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum BtfSrc {
    /// The kernel's.
    #[default]
    Vmlinux,
    /// The program's own.
    Program,
}

impl<'a> Ver<'a> {
    /// The types a register's id refers to.
    pub(crate) fn btf_of(&self, src: BtfSrc) -> Option<&'a Btf> {
        match src {
            BtfSrc::Vmlinux => self.input.env.btf(),
            BtfSrc::Program => self.input.prog_btf,
        }
    }

    /// Name of a type.
    pub(crate) fn btf_name(&self, src: BtfSrc, id: u32) -> &'a str {
        self.btf_of(src).map_or("", |b| b.name(id))
    }

    /// Kind of a type.
    pub(crate) fn btf_kind(&self, src: BtfSrc, id: u32) -> Kind {
        self.btf_of(src).map_or(Kind::Void, |b| b.kind(id))
    }
}
