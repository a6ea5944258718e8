//! What exploration is given and what it hands to the rewriter.

use bpf::Program;
use bpf::insn::Insn;

use crate::attach::Attach;
use crate::cfg::Cfg;
use crate::domain::reg::RegType;
use crate::env::{KernelEnv, MapInfo};
use crate::proto::Flags;
use crate::verified::Stats;

/// Options of one verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opts {
    /// `log_level`: 1 the path to the error, 2 everything, bit 2 (4) statistics.
    pub log_level: u32,
    /// `CAP_BPF`: pruning with imprecise scalars, bounded loops, bpf-to-bpf calls.
    pub bpf_capable: bool,
    /// `CAP_PERFMON`: pointer leaks, uninitialised stack reads, Spectre rewrites off.
    pub allow_ptr_leaks: bool,
    /// `CAP_NET_ADMIN`: program types of the network.
    pub net_admin: bool,
    /// `BPF_F_STRICT_ALIGNMENT`.
    pub strict_alignment: bool,
    /// `BPF_F_TEST_STATE_FREQ`.
    pub test_state_freq: bool,
    /// The limit on processed instructions; the kernel's is 1,000,000.
    pub insns_max: u32,
    /// Where the kernel gives up for complexity, go on: see [`super::beyond`]. Off when verdicts
    /// are compared with a kernel's.
    pub beyond: bool,
    /// The limit on bytes of kept states, pending paths and liveness; the kernel's is the memory
    /// of the machine.
    pub state_memory_max: u64,
    /// How many states to keep as a [`Trace`](super::Trace); none by default. All scalars are
    /// precise then, so that statistics are not those of the kernel.
    pub record: u32,
    /// A mistake to be made, for tests of what finds mistakes.
    #[cfg(any(test, feature = "testing"))]
    pub flaw: Option<crate::testing::Flaw>,
    /// Version of the kernel: instructions and helpers it does not know are refused.
    pub level: crate::tables::Level,
}

impl Default for Opts {
    fn default() -> Opts {
        Opts {
            log_level: 1,
            bpf_capable: true,
            allow_ptr_leaks: true,
            net_admin: true,
            strict_alignment: false,
            test_state_freq: false,
            insns_max: 1_000_000,
            beyond: false,
            state_memory_max: 4 << 30,
            record: 0,
            #[cfg(any(test, feature = "testing"))]
            flaw: None,
            level: crate::tables::Level::V6_18,
        }
    }
}

/// What is explored.
#[derive(Clone, Copy)]
pub struct Input<'a> {
    /// The program as loaded.
    pub program: &'a Program,
    /// Its instructions; map references are still `Imm64::Map*`.
    pub insns: &'a [Insn],
    /// Control flow.
    pub cfg: &'a Cfg,
    /// The distinct maps of the program.
    pub maps: &'a [MapInfo],
    /// Per instruction: index into `maps` of the map a `ld_imm64` names.
    pub insn_map: &'a [Option<u32>],
    /// Per map: the instructions an `insn_array` names; empty for other maps.
    pub tables: &'a [Vec<u32>],
    /// BTF of the program itself (function prototypes of global subprograms).
    pub prog_btf: Option<&'a bpf::btf::Btf>,
    /// The kernel.
    pub env: &'a dyn KernelEnv,
    /// The function whose arguments are the context.
    pub(crate) attach: Option<Attach<'a>>,
    /// It replaces a function of another program: the main function has the arguments of that one.
    pub extension: bool,
    /// Options.
    pub opts: Opts,
    /// Byte order of the target: narrow reads of spilled registers see other bytes.
    pub endian: bpf::Endian,
}

impl std::fmt::Debug for Input<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Input").field("program", &self.program.name).finish_non_exhaustive()
    }
}

/// Class of the pointer a load, store or atomic goes through, when all paths agree on what
/// the rewriter must do (`save_aux_ptr_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PtrClass {
    /// No memory access seen.
    #[default]
    None,
    /// Needs no rewriting: stack, map value, packet, ring buffer memory...
    Plain,
    /// `PTR_TO_CTX`: `convert_ctx_access`.
    Ctx,
    /// `PTR_TO_SOCK_COMMON`.
    SockCommon,
    /// `PTR_TO_SOCKET`.
    Socket,
    /// `PTR_TO_TCP_SOCK`.
    TcpSock,
    /// `PTR_TO_XDP_SOCK`.
    XdpSock,
    /// `PTR_TO_BTF_ID` without the right to fault: `BPF_PROBE_MEM`.
    Probe,
    /// `PTR_TO_ARENA`: `BPF_PROBE_MEM32`.
    Arena,
}

/// The map argument of a map helper over all paths (`map_ptr_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum MapState {
    /// No call seen.
    #[default]
    None,
    /// Always this map (index into `Input::maps`).
    Unique(u32),
    /// Several.
    Poisoned,
}

/// The constant key of a tail call (`map_key_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum KeyState {
    /// Not seen.
    #[default]
    None,
    /// Always this.
    Const(u64),
    /// Several or unknown.
    Poisoned,
}

/// `struct bpf_insn_aux_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct InsnAux {
    /// `nospec`: a barrier is needed before the instruction.
    pub nospec: bool,
    /// `nospec_result`: a barrier is needed after a store.
    pub nospec_result: bool,
    /// `BPF_ALU_*`: how the operation is masked.
    pub alu_state: u32,
    /// Up to where the masked pointer may go.
    pub alu_limit: u32,
    /// Reached by at least one path: the rest is dead code.
    pub seen: bool,
    /// Pointer class of a memory access.
    pub ptr: PtrClass,
    /// Type of that pointer, merged over the paths (`ptr_type`).
    pub ptr_type: Option<(RegType, Flags)>,
    /// Size in bytes of the field a narrow context load belongs to (`ctx_field_size`); 0: same.
    pub ctx_field_size: u32,
    /// Map argument of a map helper.
    pub map: MapState,
    /// Key of a tail call.
    pub key: KeyState,
    /// The divisor may be zero (always true for register divisors the kernel did not fold).
    pub div_may_be_zero: bool,
    /// Arena pointers are 32 bits: the 64-bit operation becomes one of 32 bits.
    pub arena_w32: bool,
    /// The call needs storage by a sleepable allocation.
    pub storage_get_func_atomic: bool,
    /// `bpf_loop` can be inlined: the callback subprogram and always flags 0.
    pub loop_inline: Option<u32>,
    /// Address a `ld_imm64` of a BTF variable becomes.
    pub btf_addr: Option<u64>,
    /// Stack slot of the `bpf_fastcall` pattern is only used by its spills and fills.
    pub fastcall_pattern: bool,
    /// `fastcall_spills_num`: so many spills before the call and fills after it are removed.
    pub fastcall_spills: u8,
}

/// What exploration found.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Explored {
    /// Per instruction.
    pub aux: Vec<InsnAux>,
    /// Per subprogram: bytes of stack used, without the spills around calls that are inlined.
    pub stack_depth: Vec<u32>,
    /// Per subprogram: is it (also) a callback entered from a helper.
    pub is_callback: Vec<bool>,
    /// Per subprogram: its declaration does not say what it is called with.
    pub unreliable: Vec<bool>,
    /// Statistics.
    pub stats: Stats,
    /// The log, by the requested level.
    pub log: String,
    /// What went beyond the kernel's limits, where that was asked for and needed.
    pub beyond: Option<super::beyond::Report>,
    /// What was believed at each instruction, when that was asked for.
    pub trace: Option<super::Trace>,
}
