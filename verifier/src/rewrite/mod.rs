//! Turns a checked program into what the JIT compiles, with the kernel's own sequences.
//!
//! ```text
//!  spills and fills around inlined calls (remove_fastcall_spills_fills)
//!     ─► dead code (opt_hard_wire_dead_code_branches, opt_remove_dead_code, opt_remove_nops)
//!     ─► expansion of one instruction at a time (convert_ctx_accesses, do_misc_fixups)
//!     ─► layout (jumps, calls, ranges, facts)
//! ```
//! The kernel patches in place and fixes offsets after each patch; here every instruction says
//! what it becomes and where it jumps, and offsets are computed once. The result is the same.
//!
//! **Differences by choice.** Some of what the kernel inlines stays a call:
//!
//! - `bpf_loop`: the kernel's loop is in R6 to R8 of the caller, which it saves beside the caller's
//!   frame. A debugger that looks up from the callback, and code that a cancelled callback unwinds
//!   to, would find the loop's count where the caller's variables are said to be; and a cancelled
//!   loop ends in one place, the model's, however many laps are left. Its laps are native code.
//! - `bpf_kptr_xchg` (inlined by the JITs of x86-64, arm64 and riscv64): the call moves a reference
//!   between the program and the value in the ledger, and orders accesses for the detector of
//!   races. An exchange alone would leave a cancelled program with what it no longer holds.
//! - `bpf_jiffies64`: the model's time is a count of instructions, known exactly where a program
//!   stops; a word of memory would have to be written with each of them.
//! - Look-ups in hash tables: the kernel calls the table's own function for the element, and adds
//!   the distance of the value. The model has the values of elements in memory, not their keys and
//!   links, so there is no element to add to. Of per-CPU tables the values are in a row beside the
//!   element, not in per-CPU memory. LRU tables evict the element that was used longest ago, which
//!   the call notes; the bit that the kernel's inlined code sets says only that there was a use.
//!   A hash of maps has no elements in memory at all: which map a key leads to, the model knows.
//!
//! The CPU's number is read alike on all architectures, and the spills around it are removed on
//! all: s390's kernel does neither. `LD_ABS` and `LD_IND` call [`LD_ABS_8`] and its kin, helpers
//! without a UAPI number, as [`TIMED_MAY_GOTO`] is.

mod ctx;
mod dead;
mod expand;
mod layout;
pub(crate) mod zext;

use bpf::insn::{Call, Insn, Size, Width};
use bpf::uapi::MapType;
use bpf::{Endian, Program};

use crate::cfg::Cfg;
use crate::env::{KernelEnv, MapInfo};
use crate::explore::{Explored, InsnAux};
use crate::reject::Rejection;
use crate::verified::{Arena, InsnFacts, JumpTable, SubprogFacts};

/// `bpf_skb_load_helper_8`: r1 skb, r2 offset; r0 the byte or a negative error.
pub const LD_ABS_8: i32 = 0x1001;
/// `bpf_skb_load_helper_16`: in host order.
pub const LD_ABS_16: i32 = 0x1002;
/// `bpf_skb_load_helper_32`: in host order.
pub const LD_ABS_32: i32 = 0x1003;
/// `arch_bpf_timed_may_goto`: AX is the distance of a count and a time from R10, and then the new
/// count. No other register changes.
pub const TIMED_MAY_GOTO: i32 = 0x1004;

/// What is rewritten.
#[derive(Clone, Copy)]
pub(crate) struct Input<'a> {
    pub(crate) program: &'a Program,
    pub(crate) cfg: &'a Cfg,
    pub(crate) maps: &'a [MapInfo],
    pub(crate) insn_map: &'a [Option<u32>],
    pub(crate) tables: &'a [Vec<u32>],
    pub(crate) explored: &'a Explored,
    pub(crate) env: &'a dyn KernelEnv,
    pub(crate) endian: Endian,
    pub(crate) bpf_capable: bool,
    pub(crate) bypass_spec_v1: bool,
}

impl Input<'_> {
    /// The kernel function that is called, if it is not a module's.
    fn kfunc(&self, insn: &Insn) -> Option<&str> {
        let Insn::Call(Call::Kfunc { btf_id, off: 0 }) = *insn else { return None };
        Some(self.env.btf()?.name(u32::try_from(btf_id).ok()?))
    }

    /// A call of `bpf_throw`.
    fn is_throw(&self, insn: &Insn) -> bool {
        self.kfunc(insn) == Some("bpf_throw")
    }

    fn aux(&self, at: usize) -> InsnAux {
        self.explored.aux.get(at).copied().unwrap_or_default()
    }

    /// The program's only arena, where the kernel has mapped it.
    pub(crate) fn arena(&self) -> Option<Arena> {
        let map = self.maps.iter().find(|m| m.map_type == MapType::Arena)?;
        self.env.arena(map)
    }
}

/// The rewritten program.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rewritten {
    pub(crate) insns: Vec<Insn>,
    pub(crate) facts: Vec<InsnFacts>,
    pub(crate) subprogs: Vec<SubprogFacts>,
    pub(crate) jump_tables: Vec<JumpTable>,
    pub(crate) arena: Option<Arena>,
    pub(crate) throws: bool,
}

/// Rewrites a program that exploration accepted.
///
/// # Errors
/// `Unsupported` fields, jumps that no longer fit.
pub(crate) fn rewrite(input: &Input<'_>) -> Result<Rewritten, Box<Rejection>> {
    let live = dead::live_code(input);
    let laid_out = layout::layout(input, &live)?;
    Ok(Rewritten { arena: input.arena(), ..laid_out })
}

/// Whether the instruction writes a 32-bit result that an architecture may have to extend
/// (`insn_has_def32`).
#[must_use]
pub fn defines_low_half(insn: &Insn) -> bool {
    match *insn {
        Insn::Alu { width, .. } | Insn::Neg { width, .. } | Insn::MovSx { width, .. } => {
            width == Width::W32
        }
        Insn::End { bits, .. } => bits != 64,
        Insn::Load { size, sext, .. } => !sext && size != Size::DW,
        Insn::LoadAcquire { size, .. } => size != Size::DW,
        Insn::Atomic { size, .. } => size == Size::W && insn.result().is_some(),
        _ => false,
    }
}

/// `bpf_map_lookup_elem`.
pub const MAP_LOOKUP_ELEM: i32 = 1;
/// `bpf_get_smp_processor_id`.
pub const GET_SMP_PROCESSOR_ID: i32 = 8;
/// `bpf_tail_call`, which is no call of the kernel.
pub const TAIL_CALL: i32 = 12;

/// `bpf_tail_call`.
#[must_use]
pub fn is_tail_call(insn: &Insn) -> bool {
    matches!(insn, Insn::Call(Call::Helper(TAIL_CALL)))
}

#[cfg(test)]
mod tests;
