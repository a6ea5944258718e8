//! Loaded programs.

use std::sync::Arc;

use bpf::uapi::info::LineInfo;
use verifier::Verified;

use bpf::insn::InsnIdx;

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
#[derive(Clone)]
pub struct Prog {
    /// Id.
    pub id: ProgId,
    /// The proof, with the rewritten instructions.
    pub verified: Arc<Verified>,
    /// `struct bpf_prog` in guest memory.
    pub addr: u64,
    /// Native entry point, 0 until the engine has compiled it (`Kernel::set_prog_code`).
    pub entry: u64,
    /// Where native code of an instruction begins: address and original instruction, and the end
    /// of all; empty until the engine has compiled it.
    pub places: Arc<[(u64, InsnIdx)]>,
    /// Maps it uses.
    pub maps: Vec<MapId>,
    /// Runs so far.
    pub run_cnt: u64,
    /// Runs skipped by the recursion guard.
    pub misses: u64,
    /// Virtual time of loading.
    pub load_time_ns: u64,
    /// Virtual time of its runs together.
    pub run_time_ns: u64,
    /// Bytes of native code, 0 until there is some.
    pub jited_len: u32,
    /// SHA-256 of its instructions as they were loaded, without descriptors.
    pub tag: [u8; 8],
    /// Lines of its source, by original instruction.
    pub line_info: Vec<LineInfo>,
    /// Runs that were cancelled.
    pub strikes: u32,
    /// stdout and stderr.
    pub streams: [crate::stream::Stream; 2],
    /// BTF object of the program, 0 for none.
    pub btf_id: u32,
    /// `saved_dst_prog_type`: type of the program it was loaded to be attached to.
    pub target: Option<bpf::uapi::ProgType>,
}

/// What changes while it runs; the proof, which is long, by its tag.
impl std::fmt::Debug for Prog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Prog")
            .field("id", &self.id)
            .field("tag", &self.tag)
            .field("addr", &self.addr)
            .field("entry", &self.entry)
            .field("maps", &self.maps)
            .field("run_cnt", &self.run_cnt)
            .field("misses", &self.misses)
            .field("run_time_ns", &self.run_time_ns)
            .finish_non_exhaustive()
    }
}

impl Prog {
    /// A program that was just loaded.
    #[must_use]
    pub fn new(id: ProgId, verified: Arc<Verified>, addr: u64) -> Prog {
        Prog {
            id,
            verified,
            addr,
            entry: 0,
            places: Arc::default(),
            maps: Vec::new(),
            run_cnt: 0,
            misses: 0,
            load_time_ns: 0,
            run_time_ns: 0,
            jited_len: 0,
            tag: [0; 8],
            line_info: Vec::new(),
            strikes: 0,
            streams: Default::default(),
            btf_id: 0,
            target: None,
        }
    }

    /// The original instruction that a native address belongs to.
    #[must_use]
    pub fn insn_at(&self, pc: u64) -> Option<InsnIdx> {
        let n = self.places.partition_point(|p| p.0 <= pc);
        (n < self.places.len()).then(|| self.places.get(n.checked_sub(1)?)).flatten().map(|p| p.1)
    }

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
