//! Frames and whole states: `struct bpf_func_state`, `struct bpf_verifier_state`.

use super::refs::Held;
use super::reg::{RegState, RegType};
use super::stack::{SlotType, StackSlot};

/// `MAX_CALL_FRAMES`.
pub const MAX_CALL_FRAMES: usize = 8;
/// `MAX_BPF_STACK`.
pub const MAX_BPF_STACK: i32 = 512;

/// What a callback's return means (`in_callback_fn` and friends).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Callback {
    /// Not a callback.
    #[default]
    No,
    /// Called synchronously by a helper, any number of times.
    Sync,
    /// Runs later (timer, workqueue).
    Async,
    /// Entered by `bpf_throw`; returns for the program.
    Exception,
}

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuncState {
    /// r0..r10.
    pub regs: [RegState; 11],
    /// The call instruction in the caller; `u32::MAX` for main and async entries.
    pub callsite: u32,
    /// Its number.
    pub frameno: u32,
    /// Subprogram.
    pub subprog: u32,
    /// Is it a callback.
    pub callback: Callback,
    /// Values the callback may return.
    pub callback_ret: (i32, i32),
    /// How often callbacks were entered from this frame.
    pub callback_depth: u32,
    /// `async_entry_cnt`.
    pub async_entry_cnt: u32,
    /// Slots from the frame pointer down.
    pub stack: Vec<StackSlot>,
}

impl FuncState {
    /// `init_func_state`: r10 is the frame pointer, the rest is not initialised.
    #[must_use]
    pub fn new(callsite: u32, frameno: u32, subprog: u32) -> FuncState {
        let mut regs = [RegState::NOT_INIT; 11];
        regs[10] = RegState::pointer(RegType::Stack, crate::proto::Flags::NONE);
        regs[10].frameno = frameno;
        FuncState {
            regs,
            callsite,
            frameno,
            subprog,
            callback: Callback::No,
            callback_ret: (0, 0),
            callback_depth: 0,
            async_entry_cnt: 0,
            stack: Vec::new(),
        }
    }

    /// `grow_stack_state`: makes offsets from `-bytes` addressable.
    pub fn grow_stack(&mut self, bytes: u32) {
        let slots = bytes.div_ceil(8) as usize;
        if self.stack.len() < slots {
            self.stack.resize(slots, StackSlot::INVALID);
        }
    }

    /// `allocated_stack`.
    #[must_use]
    pub fn allocated_stack(&self) -> i32 {
        self.stack.len() as i32 * 8
    }

    /// The same with iterators on the stack.
    pub fn all_regs_and_iters_mut(&mut self) -> impl Iterator<Item = &mut RegState> {
        let kinds = [SlotType::Spill, SlotType::Iter];
        let slots = self.stack.iter_mut().filter(move |s| kinds.contains(&s.types[7]));
        self.regs.iter_mut().chain(slots.map(|s| &mut s.reg))
    }

    /// All registers, spilled ones included.
    pub fn all_regs_mut(&mut self) -> impl Iterator<Item = &mut RegState> {
        let spills = self.stack.iter_mut().filter(|s| s.types[7] == SlotType::Spill);
        self.regs.iter_mut().chain(spills.map(|s| &mut s.reg))
    }
}

/// Why a jump history entry was made: `INSN_F_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HistFlags {
    /// A stack slot was accessed: frame and slot.
    pub stack: Option<(u8, u8)>,
    /// dst (bit 0) or src (bit 1) was a scalar in a conditional jump.
    pub regs_scalar: u8,
}

/// Registers and slots that shared an id when a jump refined them all: frame, index, is slot.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct LinkedRegs(pub Vec<(u8, u8, bool)>);

/// `struct bpf_jmp_history_entry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hist {
    /// Instruction.
    pub idx: u32,
    /// Its predecessor on this path.
    pub prev_idx: u32,
    /// What it touched.
    pub flags: HistFlags,
    /// Linked registers at a conditional jump.
    pub linked: LinkedRegs,
}

/// `struct bpf_verifier_state`.
#[derive(Clone, Debug)]
pub struct VState {
    /// Frames, main first; never empty.
    pub frames: Vec<FuncState>,
    /// References, locks, critical sections.
    pub held: Held,
    /// The closest checkpoint on this path.
    pub parent: Option<u32>,
    /// Instructions of jumps since that checkpoint.
    pub hist: Vec<Hist>,
    /// First instruction after the checkpoint.
    pub first_insn_idx: u32,
    /// Last instruction processed.
    pub last_insn_idx: u32,
    /// The instruction the state is at.
    pub insn_idx: u32,
    /// Sleepable context.
    pub in_sleepable: bool,
    /// `may_goto_depth`.
    pub may_goto_depth: u32,
    /// `callback_unroll_depth`.
    pub callback_unroll_depth: u32,
}

impl VState {
    /// The current frame.
    #[must_use]
    pub fn frame(&self) -> &FuncState {
        self.frames.last().expect("a state has frames")
    }

    /// The current frame.
    pub fn frame_mut(&mut self) -> &mut FuncState {
        self.frames.last_mut().expect("a state has frames")
    }

    /// `curframe`.
    #[must_use]
    pub fn curframe(&self) -> usize {
        self.frames.len() - 1
    }

    /// `frame_insn_idx`: where frame `i` stands.
    #[must_use]
    pub fn frame_insn(&self, i: usize) -> u32 {
        if i == self.curframe() { self.insn_idx } else { self.frames[i + 1].callsite }
    }

    /// All registers of all frames, spilled ones and iterators included.
    pub fn all_regs_and_iters_mut(&mut self) -> impl Iterator<Item = &mut RegState> {
        self.frames.iter_mut().flat_map(FuncState::all_regs_and_iters_mut)
    }

    /// All registers of all frames, spilled ones included.
    pub fn all_regs_mut(&mut self) -> impl Iterator<Item = &mut RegState> {
        self.frames.iter_mut().flat_map(FuncState::all_regs_mut)
    }
}
