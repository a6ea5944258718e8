//! Loaded programs.

use std::sync::Arc;

use verifier::Verified;

use crate::maps::MapId;

/// Kernel id of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProgId(pub u32);

impl std::fmt::Display for ProgId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "prog {}", self.0)
    }
}

/// A loaded program.
#[derive(Clone, Debug)]
pub struct Prog {
    /// Id.
    pub id: ProgId,
    /// The proof, with the rewritten instructions.
    pub verified: Arc<Verified>,
    /// `struct bpf_prog` in guest memory.
    pub addr: u64,
    /// Native entry point, 0 until the engine has compiled it (`Kernel::set_prog_code`).
    pub entry: u64,
    /// Maps it uses.
    pub maps: Vec<MapId>,
    /// References: file descriptors, links, prog array slots.
    pub refs: u32,
    /// Runs so far.
    pub run_cnt: u64,
    /// Runs skipped by the recursion guard.
    pub misses: u64,
    /// Virtual time of loading.
    pub load_time_ns: u64,
    /// BTF object of the program, 0 for none.
    pub btf_id: u32,
    /// `saved_dst_prog_type`: type of the program it was loaded to be attached to.
    pub target: Option<bpf::uapi::ProgType>,
}

impl Prog {
    /// Name as given to `BPF_PROG_LOAD`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.verified.program().name
    }

    /// Program type.
    #[must_use]
    pub fn prog_type(&self) -> bpf::uapi::ProgType {
        self.verified.program().prog_type
    }
}
