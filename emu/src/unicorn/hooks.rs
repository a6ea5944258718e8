//! The three functions Unicorn calls back, and the state they share with [`super::Vcpu`].
//!
//! Plain `extern "C"` functions: the crate's closures are generic and cost ten times as much in
//! the dev profile. They must not panic (it would abort) and do next to nothing.

#![allow(unsafe_code, reason = "callbacks from C")]

use super::vcpu::TAIL_ENTRY;
use super::{Access, PAGE_BYTES, PageTable, Rights};
use std::ffi::c_void;
use unicorn_engine_sys::{MemType, Prot, TlbEntry, uc_emu_stop, uc_engine};

/// Why the engine stopped, as the hooks saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// Nothing yet.
    None,
    /// An interrupt with its number.
    Intr(u32),
    /// The page table said no.
    Denied { page: u64, access: Access },
    /// Out of fuel.
    Fuel,
}

/// Shared with the hooks by address; lives in a box as long as the engine.
pub(super) struct HookState {
    /// The page table lent to `run`; `None` in between.
    pub(super) table: Option<*mut dyn PageTable>,
    /// Counts below each byte of text, see `Accounting`; lent to `run`.
    pub(super) cum: *const u64,
    /// Entries behind `cum`.
    pub(super) cum_len: u64,
    /// Address of `cum[0]`.
    pub(super) text: u64,
    /// BPF instructions retired so far.
    pub(super) retired: u64,
    /// Native instructions of programs so far.
    pub(super) native: u64,
    /// Blocks entered that count nothing.
    pub(super) blocks: u64,
    /// `retired` at which to stop.
    pub(super) fuel_retired: u64,
    /// Limit on `blocks`.
    pub(super) fuel_blocks: u64,
    /// The block that was entered last, and its bytes.
    pub(super) block: (u64, u32),
    /// What it counts: BPF and native instructions.
    pub(super) block_counts: (u64, u64),
    /// How often it may still be entered again before the slow path must look at it.
    pub(super) left: u64,
    /// How often it was entered and not yet counted, plus `left`.
    pub(super) batch: u64,
    /// Tail calls that went through natively: retired count then, and where they entered.
    pub(super) tail_calls: Vec<(u64, u64)>,
    /// What happened.
    pub(super) event: Event,
}

impl HookState {
    /// Packed counts of what starts in `[from, to)`: BPF in the low half, native in the high.
    fn count(&self, from: u64, to: u64) -> u64 {
        let (a, b) = (from.wrapping_sub(self.text), to.wrapping_sub(self.text));
        if a > b || b >= self.cum_len {
            return 0;
        }
        // SAFETY: `cum` points at `cum_len` entries lent to `run` for its whole duration, and is
        // dangling only when `cum_len` is 0; a <= b < cum_len.
        let (a, b) = unsafe { (*self.cum.add(a as usize), *self.cum.add(b as usize)) };
        (b & !TAIL_ENTRY) - (a & !TAIL_ENTRY) // both halves grow with the address
    }

    /// Counts the entries into the last block that the fast path only noted.
    pub(super) fn fold(&mut self) {
        let entered = self.batch - self.left;
        self.batch = self.left;
        self.retired += entered * self.block_counts.0;
        self.native += entered * self.block_counts.1;
        if self.block_counts.0 == 0 {
            self.blocks += entered;
        }
    }

    /// Forgets the last block.
    pub(super) fn forget_block(&mut self) {
        (self.block, self.block_counts, self.left, self.batch) = ((0, 0), (0, 0), 0, 0);
    }

    /// A block other than the last one, or the last one once more. False when the fuel is used up.
    fn enter_block(&mut self, at: u64, size: u32) -> bool {
        self.fold();
        if self.retired >= self.fuel_retired || self.blocks >= self.fuel_blocks {
            return false;
        }
        let end = at.wrapping_add(u64::from(size));
        if self.is_tail_entry(at) && self.block.0.wrapping_add(u64::from(self.block.1)) != at {
            self.tail_calls.push((self.retired, at));
        }
        let n = self.count(at, end);
        self.block = (at, size);
        self.block_counts = (n & 0xffff_ffff, n >> 32);
        self.batch = match self.block_counts.0 {
            0 => self.fuel_blocks - self.blocks,
            n => batch_of(self.fuel_retired - self.retired, n),
        };
        self.left = self.batch - 1;
        true
    }

    /// Whether a tail call enters at `at`. Falling through from the prologue looks alike; then
    /// the block before ends at `at`.
    fn is_tail_entry(&self, at: u64) -> bool {
        let i = at.wrapping_sub(self.text);
        // SAFETY: as in `count`; i < cum_len.
        i < self.cum_len && unsafe { *self.cum.add(i as usize) } & TAIL_ENTRY != 0
    }
}

/// Owner of a [`HookState`]. Not a `Box`: the hooks reach the state through a pointer that must
/// stay valid while the owner moves, which a `Box` does not promise.
pub(super) struct StateBox(*mut HookState);

impl StateBox {
    pub(super) fn new(state: HookState) -> StateBox {
        StateBox(Box::into_raw(Box::new(state)))
    }

    /// What the hooks are registered with.
    pub(super) fn as_ptr(&self) -> *mut HookState {
        self.0
    }
}

impl std::ops::Deref for StateBox {
    type Target = HookState;

    fn deref(&self) -> &HookState {
        // SAFETY: allocated by `new`, freed by `drop`; hooks run only inside `Engine::start`,
        // during which `Vcpu` holds no reference.
        unsafe { &*self.0 }
    }
}

impl std::ops::DerefMut for StateBox {
    fn deref_mut(&mut self) -> &mut HookState {
        // SAFETY: as for `deref`, and `self` is borrowed exclusively.
        unsafe { &mut *self.0 }
    }
}

impl Drop for StateBox {
    fn drop(&mut self) {
        // SAFETY: made by `Box::into_raw`; the engine that knew it is closed (field order).
        drop(unsafe { Box::from_raw(self.0) });
    }
}

/// Gets the state back from the pointer every hook is given.
///
/// # Safety
/// `data` is what `Vcpu::new` registered: a live `HookState` that nothing else borrows while the
/// engine runs.
unsafe fn state<'a>(data: *mut c_void) -> &'a mut HookState {
    // SAFETY: the caller's contract.
    unsafe { &mut *data.cast::<HookState>() }
}

/// Interrupt: remember the number and leave; the run loop outside does the work.
pub(super) unsafe extern "C" fn intr(uc: *mut uc_engine, intno: u32, data: *mut c_void) {
    // SAFETY: registered by `Vcpu::new` with its state; see `state`.
    let st = unsafe { state(data) };
    st.event = Event::Intr(intno);
    // SAFETY: `uc` is the engine that is calling.
    unsafe { uc_emu_stop(uc) };
}

/// Entries into a block of `n` instructions until `room` is used up, at least one. A division for
/// each block would be felt, so when the end is far it is not looked for.
fn batch_of(room: u64, n: u64) -> u64 {
    const MANY: u32 = 20;
    if room >> MANY >= n { 1 << MANY } else { room.div_ceil(n) }
}

/// Start of a translated block: account for it and stop when the fuel is used up.
///
/// This runs once per block of guest code, so a block that repeats (a hot loop) costs three
/// comparisons and a subtraction: what its entries count is added when another block comes.
pub(super) unsafe extern "C" fn block(uc: *mut uc_engine, at: u64, size: u32, data: *mut c_void) {
    // SAFETY: registered by `Vcpu::new` with its state; see `state`.
    let st = unsafe { state(data) };
    if st.block == (at, size) && st.left != 0 {
        st.left -= 1;
    } else if !st.enter_block(at, size) {
        st.event = Event::Fuel;
        // SAFETY: `uc` is the engine that is calling.
        unsafe { uc_emu_stop(uc) };
        // The check at the block's start comes after this hook: the block does not run.
    }
}

/// TLB miss: the page table decides.
pub(super) unsafe extern "C" fn tlb(
    _uc: *mut uc_engine,
    va: u64,
    kind: MemType,
    out: *mut TlbEntry,
    data: *mut c_void,
) -> bool {
    // SAFETY: registered by `Vcpu::new` with its state; see `state`.
    let st = unsafe { state(data) };
    let access = match kind {
        MemType::WRITE => Access::Write,
        MemType::FETCH => Access::Fetch,
        _ => Access::Read,
    };
    let page = va & !(PAGE_BYTES - 1);
    // SAFETY: `table` is set by `run` from an exclusive reference that lives until it returns.
    let found = st.table.and_then(|t| unsafe { &mut *t }.lookup(page, access));
    match found {
        Some((paddr, rights)) if rights.allow(access) => {
            let perms = match rights {
                Rights::Read => Prot::READ,
                Rights::ReadWrite => Prot(Prot::READ.0 | Prot::WRITE.0),
                Rights::ReadExec => Prot(Prot::READ.0 | Prot::EXEC.0),
            };
            // SAFETY: Unicorn passes a valid entry to fill.
            unsafe { out.write(TlbEntry { paddr, perms }) };
            true
        }
        _ => {
            st.event = Event::Denied { page, access };
            false
        }
    }
}
