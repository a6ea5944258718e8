//! The proof token. `jit::compile` takes nothing else.

use bpf::Program;
use bpf::insn::{Insn, InsnIdx};

/// What kind of memory a load or store touches, for the JIT and the debugger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum MemClass {
    /// Not a memory access, or ordinary kernel memory that cannot fault.
    #[default]
    Plain,
    /// `BPF_PROBE_MEM`: may fault; the exception table clears dst.
    Probe,
    /// `BPF_PROBE_MEM32`: arena access.
    Arena,
}

/// Facts about one rewritten instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct InsnFacts {
    /// The original instruction this one belongs to.
    pub orig: InsnIdx,
    /// First of the rewritten instructions of `orig`: reaching it retires `orig`.
    pub first: bool,
    /// Memory class of a load, store or atomic.
    pub mem: MemClass,
    /// The upper half of dst is read later: architectures without implicit zero-extension of
    /// this instruction must clear it.
    pub zext: bool,
    /// Index of a tail call on which all paths agree, in the one array that they name.
    pub tail_index: Option<u32>,
}

/// Facts about one (sub)program of the rewritten program. The frame is `[start, end)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubprogFacts {
    /// First rewritten instruction.
    pub start: InsnIdx,
    /// One past the last.
    pub end: InsnIdx,
    /// BTF or symbol name.
    pub name: String,
    /// Bytes of BPF stack used.
    pub stack_depth: u32,
    /// Contains a tail call.
    pub has_tail_call: bool,
    /// A tail call may happen in this or any callee.
    pub tail_call_reachable: bool,
    /// Entered from the kernel (callback of bpf_loop, timer, exception, ...).
    pub is_callback: bool,
    /// What `bpf_throw` enters once the stack is unwound: the value is the program's.
    pub is_exception: bool,
    /// Original index of `start`.
    pub orig_start: InsnIdx,
}

/// `verification_time` aside, the statistics line of log level 4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Stats {
    /// Instructions processed.
    pub insns_processed: u32,
    /// States kept in all.
    pub total_states: u32,
    /// Most states alive at once.
    pub peak_states: u32,
    /// Most states at one instruction.
    pub max_states_per_insn: u32,
    /// Times precision marking ran.
    pub mark_read: u32,
    /// Combined stack depth.
    pub stack_depth: u32,
    /// End of the furthest context field accessed (`bpf_prog_aux.max_ctx_offset`).
    pub max_ctx_offset: u32,
    /// End of the furthest access to a buffer that may only be read, and of that to another
    /// (`bpf_prog_aux.max_rdonly_access`, `max_rdwr_access`): the buffers of iterators.
    pub max_rdonly_access: u32,
    /// See there.
    pub max_rdwr_access: u32,
}

/// Where the arena of a program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arena {
    /// `bpf_arena_get_kern_vm_start`: an access adds the 32 bits of its pointer and its offset.
    pub kern_vm_start: u64,
    /// `bpf_arena_get_user_vm_start`: a cast to the user's form takes its upper half.
    pub user_vm_start: u64,
}

/// A map of type `insn_array` as the rewritten program needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JumpTable {
    /// Id of the map.
    pub map: u32,
    /// Per entry: the instruction, or none that is left.
    pub entries: Vec<Option<InsnIdx>>,
}

/// A program that was proved safe in one kernel environment.
#[derive(Clone, Debug)]
pub struct Verified {
    program: Program,
    insns: Vec<Insn>,
    facts: Vec<InsnFacts>,
    subprogs: Vec<SubprogFacts>,
    stats: Stats,
    funcs: Vec<crate::target::FuncFacts>,
    jump_tables: Vec<JumpTable>,
    arena: Option<Arena>,
    throws: bool,
    layout: crate::env::Layout,
    env_identity: u64,
}

/// Everything a proof is made of; only `verifier` can turn it into one.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) program: Program,
    pub(crate) insns: Vec<Insn>,
    pub(crate) facts: Vec<InsnFacts>,
    pub(crate) subprogs: Vec<SubprogFacts>,
    pub(crate) stats: Stats,
    pub(crate) funcs: Vec<crate::target::FuncFacts>,
    pub(crate) jump_tables: Vec<JumpTable>,
    pub(crate) arena: Option<Arena>,
    pub(crate) throws: bool,
    pub(crate) layout: crate::env::Layout,
    pub(crate) env_identity: u64,
}

impl Verified {
    /// The one constructor.
    #[allow(dead_code, reason = "used by verify() and testing::assume_verified()")]
    pub(crate) fn new(p: Parts) -> Verified {
        assert_eq!(p.insns.len(), p.facts.len(), "facts for every instruction");
        assert!(!p.subprogs.is_empty(), "the main program is a subprogram too");
        Verified {
            program: p.program,
            insns: p.insns,
            facts: p.facts,
            subprogs: p.subprogs,
            stats: p.stats,
            funcs: p.funcs,
            jump_tables: p.jump_tables,
            arena: p.arena,
            throws: p.throws,
            layout: p.layout,
            env_identity: p.env_identity,
        }
    }

    /// The original program, as loaded.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Rewritten instructions with their facts, in order.
    pub fn insns(&self) -> impl Iterator<Item = (InsnIdx, &Insn, &InsnFacts)> {
        (0u32..).zip(&self.insns).zip(&self.facts).map(|((i, n), f)| (InsnIdx(i), n, f))
    }

    /// One rewritten instruction.
    #[must_use]
    pub fn insn(&self, at: InsnIdx) -> (&Insn, &InsnFacts) {
        (&self.insns[at.idx()], &self.facts[at.idx()])
    }

    /// Number of rewritten slots.
    #[must_use]
    pub fn len(&self) -> usize {
        self.insns.len()
    }

    /// Never: a program has at least `exit`.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.insns.is_empty()
    }

    /// Subprograms in order; `[0]` is the main one.
    #[must_use]
    pub fn subprogs(&self) -> &[SubprogFacts] {
        &self.subprogs
    }

    /// What the functions are to programs that are attached to them, in the order of the program's
    /// function info.
    #[must_use]
    pub fn funcs(&self) -> &[crate::target::FuncFacts] {
        &self.funcs
    }

    /// Jump tables, in the order the program names their maps.
    #[must_use]
    pub fn jump_tables(&self) -> &[JumpTable] {
        &self.jump_tables
    }

    /// Statistics.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// The arena. A program with accesses to one, or casts to user pointers, has it.
    #[must_use]
    pub fn arena(&self) -> Option<Arena> {
        self.arena
    }

    /// `bpf_throw` is called (`exception_boundary`): the main program's frame has all registers of
    /// its caller.
    #[must_use]
    pub fn throws(&self) -> bool {
        self.throws
    }

    /// Structure offsets the rewritten program and the JIT embed.
    #[must_use]
    pub fn layout(&self) -> &crate::env::Layout {
        &self.layout
    }

    /// The environment this proof is valid in.
    #[must_use]
    pub fn env_identity(&self) -> u64 {
        self.env_identity
    }
}
