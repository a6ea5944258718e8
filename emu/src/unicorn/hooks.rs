//! The three functions Unicorn calls back, and the state they share with [`super::Vcpu`].
//!
//! Plain `extern "C"` functions: the crate's closures are generic and cost ten times as much in
//! the dev profile. They must not panic (it would abort) and do next to nothing.

#![allow(unsafe_code, reason = "callbacks from C")]

use super::cover::Cover;
use super::vcpu::{FLAGS, POINT, TAIL_ENTRY};
use super::{Access, Accounting, Fuel, Halt, PAGE_BYTES, PageTable, PointAt, Points, Rights};
use jit::PointKind;
use std::ffi::c_void;
use unicorn_engine_sys::{MemType, Prot, TlbEntry, uc_emu_stop, uc_engine, uc_reg_read};

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
    /// The lap stub, and no lap follows.
    Lap,
    /// A point, and it stops there.
    Point(PointKind),
    /// A block begins in which a debugger stops the CPU, which is at this address; the block is not
    /// counted.
    Held {
        /// The block.
        at: u64,
        /// Before which of its instructions.
        stop: u64,
    },
}

/// Where a debugger stops a CPU.
#[derive(Default)]
pub(super) struct Halts {
    /// It may; then instructions of stubs are counted as well.
    pub(super) on: bool,
    /// `place` at which it does.
    pub(super) place: u64,
    /// `retired` from which on it does.
    pub(super) retired: u64,
    /// Breakpoints, in order of address.
    pub(super) breaks: Vec<u64>,
    /// Breakpoints before this place are passed by.
    pub(super) from: u64,
    /// Breakpoints do not stop it: the place of the last one is noted.
    pub(super) scan: bool,
    /// The note.
    pub(super) last: Option<u64>,
    /// At `place` it stops before a block alone.
    pub(super) loose: bool,
    /// Addresses (from, to) outside of which it stops, from a place on.
    pub(super) within: Option<(u64, u64, u64)>,
    /// The next block is the rest of one that was entered and looked at before.
    pub(super) rest: bool,
    /// Instructions outside of programs so far: those of stubs.
    pub(super) outside: u64,
}

/// A load or store of guest code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observed {
    /// Address of the instruction.
    pub pc: u64,
    /// Physical address.
    pub phys: u64,
    /// Bytes.
    pub size: u32,
    /// A store.
    pub write: bool,
}

/// A physical range that is watched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// First byte and one past the last.
    pub range: std::ops::Range<u64>,
    /// Loads are told of.
    pub reads: bool,
    /// Stores are told of.
    pub writes: bool,
}

/// An access to one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchHit {
    /// [`super::Vcpu::place`] before the instruction.
    pub place: u64,
    /// The instruction.
    pub pc: u64,
    /// Which of those that are watched.
    pub which: usize,
    /// A store.
    pub write: bool,
}

/// What is watched, and the accesses since last asked.
#[derive(Default)]
pub(super) struct Watch {
    pub(super) all: Vec<Watched>,
    pub(super) first: Option<WatchHit>,
    pub(super) last: Option<WatchHit>,
    /// The engine's hook.
    pub(super) hook: Option<unicorn_engine_sys::uc_hook>,
}

/// Blocks that are remembered.
const SEEN: usize = 256;
/// Entries are counted when they have cost so much at the latest. An entry costs at least 1 and
/// its BPF instructions, and has at most `1 << 9` native ones (`TCG_MAX_INSNS`): no sum of noted
/// counts overflows its part.
const NOTED_MAX: u64 = 1 << 14;

/// Instructions by which a run may go beyond where it is to stop loosely: looking at each block
/// before that costs more than what is behind it. 64 of the longest blocks.
pub const LOOSE_INSNS: u64 = 64 << 9;

/// A block that was entered, and what it counts.
#[derive(Clone, Copy, Default)]
struct Seen {
    at: u64,
    size: u32,
    /// What an entry takes of what is left before the slow path must look at the fuel.
    cost: u32,
    counts: Noted,
}

/// BPF instructions in the low 20 bits, native ones in the next 24, entries above.
#[derive(Clone, Copy, Default)]
struct Noted(u64);

impl Noted {
    /// One entry of a block, from the packed counts of what starts in it.
    const fn entry(counts: u64) -> Noted {
        Noted(counts & 0xffff_ffff | (counts >> 32) << 20 | 1 << 44)
    }

    const fn bpf(self) -> u64 {
        self.0 & 0xf_ffff
    }

    const fn native(self) -> u64 {
        self.0 >> 20 & 0xff_ffff
    }

    const fn entries(self) -> u64 {
        self.0 >> 44
    }
}

/// Where a block is remembered. Instructions start at even addresses but on x86-64.
const fn slot(at: u64) -> usize {
    (at >> 1) as usize % SEEN
}

/// How a program goes round without leaving the engine; see [`super::Spec::lap`].
pub(super) struct Laps {
    /// Address of the lap stub.
    pub(super) stub: u64,
    /// Register that has the result there.
    pub(super) ret: i32,
    /// Laps that may follow the present one.
    pub(super) left: u32,
    /// `retired` from which on none follows.
    pub(super) until: u64,
    /// `retired` and `blocks` when the present one began.
    pub(super) began: (u64, u64),
    /// Those done and followed by another: `retired` then, and the native result.
    pub(super) done: Vec<(u64, u64)>,
}

/// Shared with the hooks by address; lives in a box as long as the engine.
pub(super) struct HookState {
    /// What entries may still cost before the slow path must look at the fuel.
    left: u64,
    /// Sum of the counts of the entries noted.
    noted: Noted,
    /// Index in `seen` of the block that was entered last.
    last: usize,
    /// Blocks by address, and one place for a block that must not be found. What a block counts
    /// does not change while text does not.
    seen: [Seen; SEEN + 1],
    /// The page table and RAM lent to `run`; `None` in between.
    pub(super) table: Option<(*mut dyn PageTable, *const [u8])>,
    /// Counts below each byte of text, see `Accounting`; lent to `run`.
    cum: *const u64,
    /// Entries behind `cum`.
    cum_len: u64,
    /// Address of `cum[0]`.
    text: u64,
    /// BPF instructions retired so far.
    pub(super) retired: u64,
    /// Native instructions of programs so far.
    pub(super) native: u64,
    /// Blocks entered so far.
    pub(super) blocks: u64,
    /// `retired` at which to stop.
    pub(super) fuel_retired: u64,
    /// `blocks` at which to stop.
    pub(super) fuel_blocks: u64,
    /// Tail calls that went through natively: retired count then, and where they entered.
    pub(super) tail_calls: Vec<(u64, u64)>,
    /// Points; lent to `run`.
    points: *const PointAt,
    /// How many.
    points_len: usize,
    /// At which to stop: after so many are passed, and from this count of `retired` on.
    stop: (u64, u64),
    /// Each point is looked at: blocks that begin at one are not remembered.
    each_point: bool,
    /// The block before the next run, when that goes on where the last one stopped.
    carried: (u64, u32),
    /// Laps.
    pub(super) laps: Laps,
    /// What a debugger wants.
    pub(super) halts: Halts,
    /// Watchpoints.
    pub(super) watch: Watch,
    /// What happened.
    pub(super) event: Event,
    /// Loads and stores, for an engine that observes them.
    pub(super) observed: Vec<Observed>,
    /// Physical memory whose accesses are left out.
    pub(super) unobserved: std::ops::Range<u64>,
    /// Register of the program counter.
    pub(super) pc: i32,
    /// Counts of each block, for an engine that is asked for them: then none is remembered.
    pub(super) cover: Option<Box<Cover>>,
}

impl HookState {
    /// Nothing has run; `ret` has the result of a lap.
    pub(super) fn new(ret: i32) -> HookState {
        let laps = Laps { stub: 0, ret, left: 0, until: 0, began: (0, 0), done: Vec::new() };
        HookState {
            left: 0,
            noted: Noted(0),
            last: SEEN,
            seen: [Seen::default(); SEEN + 1],
            table: None,
            cum: std::ptr::NonNull::dangling().as_ptr(),
            cum_len: 0,
            text: 0,
            retired: 0,
            native: 0,
            blocks: 0,
            fuel_retired: 0,
            fuel_blocks: 0,
            tail_calls: Vec::new(),
            points: std::ptr::NonNull::dangling().as_ptr(),
            points_len: 0,
            stop: (u64::MAX, u64::MAX),
            each_point: false,
            carried: (0, 0),
            laps,
            halts: Halts::default(),
            watch: Watch::default(),
            event: Event::None,
            observed: Vec::new(),
            unobserved: 0..0,
            pc: 0,
            cover: None,
        }
    }

    /// Takes what is lent for one run.
    pub(super) fn lend(
        &mut self,
        table: *mut dyn PageTable,
        ram: &[u8],
        acct: Accounting<'_>,
        fuel: Fuel,
    ) {
        self.table = Some((table, ram));
        let (cum, len) = (acct.cum.as_ptr(), acct.cum.len() as u64);
        if (cum, len, acct.text) != (self.cum, self.cum_len, self.text) {
            self.forget_blocks();
            (self.cum, self.cum_len, self.text) = (cum, len, acct.text);
        }
        (self.points, self.points_len) = (acct.points.as_ptr(), acct.points.len());
        let each_point = matches!(fuel.points, Points::Nth(_));
        if each_point && !self.each_point {
            self.forget_blocks();
        }
        self.each_point = each_point;
        self.stop = match fuel.points {
            Points::Pass => (u64::MAX, u64::MAX),
            Points::After(insns) => (1, self.retired.saturating_add(insns)),
            Points::Nth(n) => (n.max(1), 0),
        };
        self.fuel_retired = self.retired.saturating_add(fuel.insns);
        self.fuel_blocks = self.blocks.saturating_add(fuel.blocks);
        (self.laps.stub, self.laps.left) = (acct.lap, fuel.laps);
        self.laps.until = self.retired.saturating_add(fuel.lap_insns);
        self.laps.began = (self.retired, self.blocks);
        self.event = Event::None;
        self.set_halt(fuel.halt);
        (self.left, self.noted, self.last) = (0, Noted(0), SEEN);
        let (at, size) = std::mem::take(&mut self.carried);
        self.seen[SEEN] = Seen { at, size, ..Seen::default() };
    }

    fn set_halt(&mut self, halt: Option<Halt>) {
        if halt.is_some() != self.halts.on {
            self.forget_blocks();
        }
        let h = &mut self.halts;
        h.on = halt.is_some();
        if let Some(Halt { place, retired, rest, from, scan, loose, within }) = halt {
            (h.place, h.retired, h.rest, h.from, h.scan) = (place, retired, rest, from, scan);
            (h.loose, h.within) = (loose, within);
        }
    }

    /// Native instructions so far, those of stubs included while a debugger may stop the CPU.
    pub(super) fn place(&self) -> u64 {
        self.native + self.halts.outside
    }

    /// The next run goes on where this one stopped for want of fuel.
    pub(super) fn carry(&mut self) {
        self.carried = self.last_block();
    }

    /// The next run goes on from elsewhere.
    pub(super) fn forget_carried(&mut self) {
        self.carried = (0, 0);
    }

    /// What is left of the points to pass.
    pub(super) fn points_left(&self) -> Points {
        match self.stop {
            (u64::MAX, _) => Points::Pass,
            (n, _) if self.each_point => Points::Nth(n),
            (_, at) => Points::After(at.saturating_sub(self.retired)),
        }
    }

    /// Text changed.
    pub(super) fn forget_blocks(&mut self) {
        self.seen = [Seen::default(); SEEN + 1];
    }

    /// The block that was entered last: its address and bytes.
    pub(super) fn last_block(&self) -> (u64, u32) {
        let b = &self.seen[self.last];
        (b.at, b.size)
    }

    /// Packed counts of what starts in `[from, to)`: BPF in the low half, native in the high.
    fn count(&self, from: u64, to: u64) -> u64 {
        let (a, b) = (from.wrapping_sub(self.text), to.wrapping_sub(self.text));
        if a > b || b >= self.cum_len {
            return 0;
        }
        // SAFETY: `cum` points at `cum_len` entries lent to `run` for its whole duration, and is
        // dangling only when `cum_len` is 0; a <= b < cum_len.
        let (a, b) = unsafe { (*self.cum.add(a as usize), *self.cum.add(b as usize)) };
        (b & !FLAGS) - (a & !FLAGS) // both halves grow with the address
    }

    /// Counts the entries that were only noted.
    pub(super) fn fold(&mut self) {
        let noted = std::mem::take(&mut self.noted);
        self.blocks += noted.entries();
        self.retired += noted.bpf();
        self.native += noted.native();
    }

    /// A block of so many native instructions is about to be entered: where in it the debugger
    /// stops the CPU. Breakpoints may only be noted.
    fn halts_in(&mut self, at: u64, size: u32, natives: u64) -> Option<u64> {
        if self.watch.first.is_some() && !self.halts.scan {
            return Some(at);
        }
        let (here, end) = (self.place(), at.wrapping_add(size.into()));
        let mut stop = match self.halts.loose {
            true => (here >= self.halts.place).then_some(at),
            false => (here + natives > self.halts.place)
                .then(|| self.nth(at, end, self.halts.place.saturating_sub(here))),
        };
        if let Some((low, high, place)) = self.halts.within
            && let Some(left) = self.leaves(at, end, low..high)
            && here + (self.count(at, left) >> 32) >= place
            && stop.is_none_or(|s| left < s)
        {
            stop = Some(left);
        }
        let first = self.halts.breaks.partition_point(|b| *b < at);
        for n in first..self.halts.breaks.len() {
            let b = self.halts.breaks[n];
            if b >= end || stop.is_some_and(|s| s <= b) {
                break;
            }
            if self.is_inside(b) {
                continue;
            }
            let place = here + (self.count(at, b) >> 32);
            if place >= self.halts.from {
                match self.halts.scan {
                    true => self.halts.last = Some(place),
                    false => stop = Some(b),
                }
            }
        }
        let bpf = |from, to| self.count(from, to) & 0xffff_ffff;
        if self.retired + bpf(at, end) > self.halts.retired {
            let enough =
                |a: &u64| bpf(*a, a + 1) > 0 && self.retired + bpf(at, *a) >= self.halts.retired;
            stop = (at..stop.unwrap_or(end)).find(enough).or(stop);
        }
        stop
    }

    /// In the middle of a native instruction: nothing ever comes there.
    fn is_inside(&self, at: u64) -> bool {
        at.wrapping_sub(self.text) < self.cum_len && self.count(at, at + 1) >> 32 == 0
    }

    /// The first instruction of a block that is outside of a range.
    fn leaves(&self, at: u64, end: u64, range: std::ops::Range<u64>) -> Option<u64> {
        match range.contains(&at) {
            true => (range.end..end).find(|a| !self.is_inside(*a)),
            false => Some(at),
        }
    }

    /// Address of the n-th native instruction from `at`, from 0.
    fn nth(&self, at: u64, end: u64, n: u64) -> u64 {
        (at..end).find(|a| self.count(at, a + 1) >> 32 > n).unwrap_or(at)
    }

    /// A watched access is about to happen in the block that was entered last.
    fn note_access(&mut self, pc: u64, which: usize, write: bool) {
        self.fold();
        // The next block is looked at: it stops there, unless it only takes notes.
        self.left = 0;
        let (at, size) = self.last_block();
        let behind = self.count(pc, at.wrapping_add(size.into())) >> 32;
        let hit = WatchHit { place: self.place() - behind, pc, which, write };
        self.watch.first.get_or_insert(hit);
        self.watch.last = Some(hit);
    }

    /// The fast path: a block that is known, with fuel beyond doubt.
    #[inline]
    fn note(&mut self, at: u64, size: u32) -> bool {
        let i = slot(at);
        let b = &self.seen[i];
        if b.at != at || b.size != size || self.left < u64::from(b.cost) {
            return false;
        }
        self.noted.0 += b.counts.0;
        self.last = i;
        self.left -= u64::from(b.cost);
        true
    }

    /// A block that is not known, or that the fuel may not reach. What keeps it from being entered.
    fn enter_block(&mut self, at: u64, size: u32, rest: bool) -> Option<Event> {
        self.fold();
        if !rest && (self.retired >= self.fuel_retired || self.blocks >= self.fuel_blocks) {
            return Some(Event::Fuel);
        }
        let flags = self.flags(at);
        let tail_entry = flags & TAIL_ENTRY != 0;
        let (before, bytes) = self.last_block();
        let tail_call = !rest && tail_entry && before.wrapping_add(u64::from(bytes)) != at;
        if tail_call {
            self.tail_calls.push((self.retired, at));
        }
        let counts = self.count(at, at.wrapping_add(u64::from(size)));
        let each = self.each_point && flags & POINT != 0 || self.cover.is_some();
        let mut looked_at = rest || tail_entry || each || at == self.laps.stub;
        if self.halts.on {
            let stub = u64::from(at.wrapping_sub(self.text) >= self.cum_len);
            if let Some(stop) = self.halts_in(at, size, (counts >> 32) + stub) {
                return Some(Event::Held { at, stop });
            }
            self.halts.outside += stub;
            looked_at |= stub > 0 || self.breaks_in(at, size);
        }
        if let Some(cover) = &mut self.cover {
            cover.enter(at, size, counts & 0xffff_ffff, tail_call);
        }
        self.last = if looked_at { SEEN } else { slot(at) };
        // A debugger stops at native instructions.
        let most = if self.halts.on { (counts >> 32).max(counts & 0xffff_ffff) } else { counts };
        let cost = (most as u32).max(1);
        self.seen[self.last] = Seen { at, size, cost, counts: Noted::entry(counts) };
        let room = self.room().min(self.fuel_blocks.saturating_sub(self.blocks)).min(NOTED_MAX);
        self.left = room.saturating_sub(cost.into());
        self.noted = Noted::entry(counts);
        None
    }

    /// Instructions, of either kind, that can be run without looking at what is to stop it.
    fn room(&self) -> u64 {
        let stop = if self.each_point { u64::MAX } else { self.stop.1 };
        let room = self.fuel_retired.min(stop).saturating_sub(self.retired);
        let halts = &self.halts;
        if !halts.on {
            return room;
        }
        if halts.within.is_some() {
            return 0;
        }
        let native = halts.place.saturating_sub(self.place());
        let native = if halts.loose { native.max(LOOSE_INSNS) } else { native };
        room.min(native).min(halts.retired.saturating_sub(self.retired))
    }

    /// Whether a breakpoint is in a block.
    fn breaks_in(&self, at: u64, size: u32) -> bool {
        let breaks = &self.halts.breaks;
        let first = breaks.get(breaks.partition_point(|b| *b < at));
        first.is_some_and(|b| *b < at.wrapping_add(size.into()))
    }

    /// Flags of an address. Falling through from the prologue to where a tail call enters looks
    /// like one; then the block before ends at `at`.
    fn flags(&self, at: u64) -> u64 {
        let i = at.wrapping_sub(self.text);
        if i >= self.cum_len {
            return 0;
        }
        // SAFETY: as in `count`; i < cum_len.
        unsafe { *self.cum.add(i as usize) & FLAGS }
    }

    /// A block begins: the point that this is, when it is one at which to stop.
    fn stops_at(&mut self, at: u64) -> Option<PointKind> {
        if self.stop.0 == u64::MAX || self.flags(at) & POINT == 0 {
            return None;
        }
        // SAFETY: `points` points at `points_len` entries lent to `run` for its whole duration, and
        // is dangling only when that is 0.
        let points = unsafe { std::slice::from_raw_parts(self.points, self.points_len) };
        let n = points.binary_search_by_key(&at, |p| p.at).ok()?;
        let kind = points[n].reached(self.last_block())?;
        self.fold();
        if self.retired < self.stop.1 {
            return None;
        }
        self.stop.0 -= 1;
        (self.stop.0 == 0).then_some(kind)
    }

    /// The lap stub is reached: false when the kernel is to be asked. Each lap has the fuel of
    /// the first.
    fn next_lap(&mut self, uc: *mut uc_engine) -> bool {
        self.fold();
        let laps = &mut self.laps;
        if laps.left == 0 || self.retired >= laps.until {
            return false;
        }
        laps.left -= 1;
        if let Some(cover) = &mut self.cover {
            cover.fresh();
        }
        // SAFETY: `uc` is the engine that is calling.
        let r0 = unsafe { register(uc, laps.ret) };
        laps.done.push((self.retired, r0));
        let (retired, blocks) = (self.retired - laps.began.0, self.blocks - laps.began.1);
        self.fuel_retired = self.fuel_retired.saturating_add(retired);
        self.fuel_blocks = self.fuel_blocks.saturating_add(blocks);
        laps.began = (self.retired, self.blocks);
        true
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

/// A register of the engine that is calling.
///
/// # Safety
/// `uc` is a live engine, and the register at most 8 bytes wide.
unsafe fn register(uc: *mut uc_engine, which: i32) -> u64 {
    let mut value = 0u64;
    // SAFETY: the caller's contract.
    unsafe { uc_reg_read(uc, which, (&raw mut value).cast()) };
    value
}

/// Interrupt: remember the number and leave; the run loop outside does the work.
pub(super) unsafe extern "C" fn intr(uc: *mut uc_engine, intno: u32, data: *mut c_void) {
    // SAFETY: registered by `Vcpu::new` with its state; see `state`.
    let st = unsafe { state(data) };
    st.event = Event::Intr(intno);
    // SAFETY: `uc` is the engine that is calling.
    unsafe { uc_emu_stop(uc) };
}

/// Start of a translated block: account for it and stop when the fuel is used up.
///
/// This runs once per block of guest code, so a block that was seen before costs three
/// comparisons, an addition and a subtraction.
pub(super) unsafe extern "C" fn block(uc: *mut uc_engine, at: u64, size: u32, data: *mut c_void) {
    // SAFETY: registered by `Vcpu::new` with its state; see `state`.
    let st = unsafe { state(data) };
    if !st.note(at, size) {
        look_at(uc, st, at, size);
    }
}

/// The rest of [`block`]. What stops here does so before the block runs: the check at the
/// block's start comes after the hook.
#[cold]
#[inline(never)]
fn look_at(uc: *mut uc_engine, st: &mut HookState, at: u64, size: u32) {
    let rest = std::mem::take(&mut st.halts.rest);
    if at == st.laps.stub && !st.next_lap(uc) {
        st.event = Event::Lap;
    } else if let Some(kind) = (!rest).then(|| st.stops_at(at)).flatten() {
        st.event = Event::Point(kind);
    } else if let Some(event) = st.enter_block(at, size, rest) {
        st.event = event;
    } else {
        return;
    }
    // SAFETY: `uc` is the engine that is calling.
    unsafe { uc_emu_stop(uc) };
}

/// A load or store that is about to happen. Unicorn has the program counter right by then.
pub(super) unsafe extern "C" fn access(
    uc: *mut uc_engine,
    kind: MemType,
    phys: u64,
    size: i32,
    _value: i64,
    data: *mut c_void,
) {
    // SAFETY: registered by `Vcpu::observing` with its state; see `state`.
    let st = unsafe { state(data) };
    if st.unobserved.contains(&phys) {
        return;
    }
    // SAFETY: `uc` is the engine that is calling.
    let pc = unsafe { register(uc, st.pc) };
    let (size, write) = (size.unsigned_abs(), kind == MemType::WRITE);
    st.observed.push(Observed { pc, phys, size, write });
}

/// A load or store near what is watched is about to happen.
pub(super) unsafe extern "C" fn watched(
    uc: *mut uc_engine,
    kind: MemType,
    phys: u64,
    size: i32,
    _value: i64,
    data: *mut c_void,
) {
    // SAFETY: registered by `Vcpu::watch` with its state; see `state`.
    let st = unsafe { state(data) };
    let (end, write) = (phys + u64::from(size.unsigned_abs()), kind == MemType::WRITE);
    let hit = |w: &Watched| {
        w.range.start < end && phys < w.range.end && if write { w.writes } else { w.reads }
    };
    let Some(which) = st.watch.all.iter().position(hit) else { return };
    // SAFETY: `uc` is the engine that is calling.
    let pc = unsafe { register(uc, st.pc) };
    st.note_access(pc, which, write);
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
    let found = st.table.and_then(|(table, ram)| {
        // SAFETY: both are set by `run` from references that live until it returns; the guest,
        // which writes to RAM, waits for this function.
        let (table, ram) = unsafe { (&mut *table, &*ram) };
        table.lookup(page, access, ram)
    });
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
