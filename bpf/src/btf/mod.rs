//! BTF: the types of programs and kernels, read, built and printed.
//!
//! ```text
//!  bytes (either byte order) ──Btf::parse──► Btf ──print──► C header, raw dump
//!  table ──BtfBuilder──────────────────────► Btf ──to_bytes(Endian)──► bytes
//! ```

mod build;
mod check;
mod header;
mod parse;
mod print;
mod types;

pub use build::BtfBuilder;
pub use parse::BtfError;
pub use types::{
    Body, Btf, Enumerator, IntEncoding, Kind, Linkage, Member, Param, RawMember, SecVar, Type,
    TypeId,
};
