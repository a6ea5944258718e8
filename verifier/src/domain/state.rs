//! Frames and whole states: `struct bpf_func_state`, `struct bpf_verifier_state`.

use std::ops::{Deref, DerefMut};
use std::rc::Rc;

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

/// A value that states share until one of them changes it: a branch copies a pointer per frame.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Shared<T: Clone>(Rc<T>);

impl<T: Clone> Shared<T> {
    /// Not shared yet.
    pub fn new(v: T) -> Shared<T> {
        Shared(Rc::new(v))
    }

    /// Both are one value: equal without looking.
    #[must_use]
    pub fn same(a: &Shared<T>, b: &Shared<T>) -> bool {
        Rc::ptr_eq(&a.0, &b.0)
    }
}

impl<T: Clone> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Clone> DerefMut for Shared<T> {
    fn deref_mut(&mut self) -> &mut T {
        Rc::make_mut(&mut self.0)
    }
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
    pub stack: Shared<Vec<StackSlot>>,
    /// Arguments beyond the fifth.
    pub args: StackArgs,
}

/// Arguments that are passed on the stack. Scalars among them are precise and linked to no other
/// register, so that no history has to be kept of them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct StackArgs {
    /// From the caller.
    pub incoming: Vec<RegState>,
    /// For the next callee.
    pub outgoing: Vec<RegState>,
    /// An argument was stored or a function called: the incoming ones are gone.
    pub closed: bool,
}

impl StackArgs {
    fn iter_mut(&mut self) -> impl Iterator<Item = &mut RegState> {
        self.incoming.iter_mut().chain(&mut self.outgoing)
    }
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
            stack: Shared::default(),
            args: StackArgs::default(),
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
        self.regs.iter_mut().chain(slots.map(|s| &mut s.reg)).chain(self.args.iter_mut())
    }

    /// All registers, spilled ones included.
    pub fn all_regs_mut(&mut self) -> impl Iterator<Item = &mut RegState> {
        let spills = self.stack.iter_mut().filter(|s| s.types[7] == SlotType::Spill);
        self.regs.iter_mut().chain(spills.map(|s| &mut s.reg)).chain(self.args.iter_mut())
    }

    /// Spilled registers.
    fn spills(&self) -> impl Iterator<Item = &StackSlot> {
        self.stack.iter().filter(|s| s.is_spill())
    }
}

/// Changes the registers that `which` picks, and copies only frames and stacks that have one.
fn update_frame(
    frame: &mut Shared<FuncState>,
    which: impl Fn(&RegState) -> bool,
    mut change: impl FnMut(&mut RegState),
) {
    if frame.regs.iter().any(&which) {
        frame.regs.iter_mut().filter(|r| which(r)).for_each(&mut change);
    }
    if frame.args.incoming.iter().chain(&frame.args.outgoing).any(&which) {
        frame.args.iter_mut().filter(|r| which(r)).for_each(&mut change);
    }
    if frame.spills().any(|s| which(&s.reg)) {
        let slots = frame.stack.iter_mut().filter(|s| s.is_spill() && which(&s.reg));
        slots.for_each(|s| change(&mut s.reg));
    }
}

/// Why a jump history entry was made: `INSN_F_*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct HistFlags {
    /// A stack slot was accessed: frame and slot.
    pub stack: Option<(u8, u8)>,
    /// dst of a conditional jump is a stack pointer.
    pub dst_stack: bool,
    /// src of a conditional jump is a stack pointer.
    pub src_stack: bool,
}

/// A register or slot among those that share an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LinkedReg {
    /// Frame.
    pub frame: u8,
    /// Register or slot.
    pub index: u8,
    /// It is a slot.
    pub is_slot: bool,
}

/// `LINKED_REGS_MAX`.
pub const LINKED_REGS_MAX: usize = 6;

/// `struct linked_regs`: what shared an id when a jump refined all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct LinkedRegs {
    entries: [LinkedReg; LINKED_REGS_MAX],
    len: u8,
}

impl LinkedRegs {
    /// The entries.
    #[must_use]
    pub fn list(&self) -> &[LinkedReg] {
        &self.entries[..usize::from(self.len)]
    }

    /// `linked_regs_push`: false when there is no room.
    pub fn push(&mut self, e: LinkedReg) -> bool {
        let Some(place) = self.entries.get_mut(usize::from(self.len)) else { return false };
        *place = e;
        self.len += 1;
        true
    }
}

/// `struct bpf_jmp_history_entry`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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
    pub frames: Vec<Shared<FuncState>>,
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
    /// A mispredicted branch is being walked.
    pub speculative: bool,
    /// `may_goto_depth`.
    pub may_goto_depth: u32,
    /// `callback_unroll_depth`.
    pub callback_unroll_depth: u32,
    /// Kept states on this path.
    pub dfs_depth: u32,
}

impl VState {
    /// Stands in where a state was taken out.
    #[must_use]
    pub fn nothing() -> VState {
        VState {
            frames: Vec::new(),
            held: Held::default(),
            parent: None,
            hist: Vec::new(),
            first_insn_idx: 0,
            last_insn_idx: 0,
            insn_idx: 0,
            in_sleepable: false,
            speculative: false,
            may_goto_depth: 0,
            callback_unroll_depth: 0,
            dfs_depth: 0,
        }
    }

    /// The current frame.
    #[must_use]
    pub fn frame(&self) -> &FuncState {
        self.frames.last().expect("a state has frames")
    }

    /// The current frame.
    pub fn frame_mut(&mut self) -> &mut FuncState {
        self.frames.last_mut().expect("a state has frames")
    }

    /// Enters a frame.
    pub fn push_frame(&mut self, f: FuncState) {
        self.frames.push(Shared::new(f));
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
        self.frames.iter_mut().flat_map(|f| f.all_regs_and_iters_mut())
    }

    /// All registers of all frames, spilled ones included. Copies every shared frame: where few
    /// registers are meant, [`VState::update_regs`].
    pub fn all_regs_mut(&mut self) -> impl Iterator<Item = &mut RegState> {
        self.frames.iter_mut().flat_map(|f| f.all_regs_mut())
    }

    /// Changes the registers and spilled registers that `which` picks.
    pub fn update_regs(
        &mut self,
        which: impl Fn(&RegState) -> bool,
        mut change: impl FnMut(&mut RegState),
    ) {
        for f in &mut self.frames {
            update_frame(f, &which, &mut change);
        }
    }
}
