//! A linked program: what `BPF_PROG_LOAD` is given. Still untrusted.

use crate::insn::{Insn, InsnIdx};
use crate::uapi::{AttachType, ProgType};

/// `struct bpf_line_info` with its strings resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// First slot the record covers; it holds until the next record.
    pub insn: InsnIdx,
    /// Source file as the compiler named it.
    pub file: String,
    /// The source line's text as BTF.ext stores it.
    pub text: String,
    /// Line number, from 1.
    pub line: u32,
    /// Column, from 1; 0 when unknown.
    pub col: u32,
}

/// `struct bpf_func_info`: one (sub)program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Func {
    /// First slot.
    pub start: InsnIdx,
    /// `BTF_KIND_FUNC` id in the program's BTF; 0 when the object has none.
    pub type_id: u32,
    /// Symbol name.
    pub name: String,
    /// Linkage: a global function is verified on its own.
    pub global: bool,
}

/// A program after linking and CO-RE. Map references are `Imm64::MapIdx`/`MapIdxValue` with the
/// index of the map in its object (the loader passes an `fd_array` in that order).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Symbol name of the entry function.
    pub name: String,
    /// ELF section, e.g. `xdp` or `tracepoint/syscalls/sys_enter_openat`.
    pub section: String,
    /// Program type.
    pub prog_type: ProgType,
    /// `expected_attach_type`.
    pub attach_type: Option<AttachType>,
    /// `prog_flags` (`BPF_F_SLEEPABLE`, `BPF_F_XDP_HAS_FRAGS`, ...).
    pub flags: u32,
    /// What the section name says after the first slash, e.g. a function or tracepoint.
    pub attach_to: Option<String>,
    /// `license` section.
    pub license: String,
    /// The instructions, main function first, one entry per slot.
    pub insns: Vec<Insn>,
    /// Function info, ordered by `start`; `[0]` is the main function. Empty without BTF.
    pub funcs: Vec<Func>,
    /// Line info, ordered by slot.
    pub lines: Vec<Line>,
}

impl Line {
    /// The source file without its folder.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.file.rsplit('/').next().unwrap_or(&self.file)
    }
}

impl Program {
    /// The line record that covers a slot.
    #[must_use]
    pub fn line_at(&self, at: InsnIdx) -> Option<&Line> {
        let n = self.lines.partition_point(|l| l.insn <= at);
        n.checked_sub(1).map(|i| &self.lines[i])
    }
}
