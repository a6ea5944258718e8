//! One virtual CPU: registers, run, stop reasons.

use super::cover::{Cover, FuncAt};
use super::ffi::Engine;
use super::hooks::{Event, HookState, Observed, StateBox, WatchHit, Watched};
use super::private;
use super::regs::RegFile;
use super::spec::{NativeReg, Spec, ThisCpu, spec};
use super::{Access, PageTable, selftest};
use bpf::Arch;
use jit::PointKind;
use unicorn_engine_sys::uc_error;

/// The CPU layer could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CpuError {
    /// A call failed.
    #[error("Unicorn: {what}: {why}")]
    Unicorn {
        /// What was being done.
        what: &'static str,
        /// Unicorn's words.
        why: uc_error,
    },
}

/// Why [`Vcpu::run`] came back. The program counter is exact in every case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The trap of a stub; `pc` is the stub's first byte.
    Trap {
        /// Address of the trap instruction.
        pc: u64,
    },
    /// An access the page table does not allow. Nothing of the instruction was done.
    Denied {
        /// The instruction (for fetches: the target).
        pc: u64,
        /// What it wanted.
        access: Access,
        /// The page; the address itself when the engine tells it.
        addr: u64,
    },
    /// An instruction that is not one, or that raised another exception.
    Invalid {
        /// The instruction.
        pc: u64,
    },
    /// The fuel is used up; `pc` is the next block.
    Fuel,
    /// The lap stub was reached and no lap may follow.
    Lap,
    /// A point of [`Accounting::points`] was reached, and [`Fuel::points`] says to stop; `pc` is
    /// where it goes on.
    Point {
        /// Which of the points at `pc`.
        kind: PointKind,
        /// Where it goes on.
        pc: u64,
    },
    /// [`Fuel::halt`] stops it before the instruction at `stop` of the block at `pc`, whose start
    /// it stands at; what lies between is to be run one by one ([`Vcpu::ran`]).
    Held {
        /// The block.
        pc: u64,
        /// Where to stop.
        stop: u64,
    },
}

/// Where a debugger stops a `run`: before an instruction. Counts are the CPU's since creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halt {
    /// [`Vcpu::place`] there.
    pub place: u64,
    /// [`Vcpu::retired`] from which on it stops.
    pub retired: u64,
    /// Breakpoints before this place are passed by.
    pub from: u64,
    /// Breakpoints do not stop it, but are noted ([`Vcpu::take_last_break`]).
    pub scan: bool,
    /// It goes on inside a block that was entered before: points and fuel were looked at then.
    pub rest: bool,
    /// At `place` it stops before a block, not inside one, and up to [`super::LOOSE_INSNS`] later.
    pub loose: bool,
    /// It stops where it leaves these addresses, when `place` is not before this one.
    pub within: Option<(u64, u64, u64)>,
}

/// An address at which a block begins where a program comes to a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PointAt {
    /// The address.
    pub at: u64,
    /// First and one past the last byte of its function.
    pub func: (u64, u64),
    /// What it is when control comes from another function: an entry or a return.
    pub from_outside: Option<PointKind>,
    /// A back-edge leads here.
    pub loop_head: bool,
}

impl PointAt {
    /// What the way from the block before makes of it. A back-edge comes from behind, so the block
    /// that ends with it ends behind this address; what falls through does not.
    pub(super) fn reached(&self, (before, size): (u64, u32)) -> Option<PointKind> {
        if size == 0 {
            return None;
        }
        let (from, to) = self.func;
        if !(from..to).contains(&before) {
            return self.from_outside;
        }
        let behind = before.wrapping_add(size.into()) > self.at;
        (self.loop_head && behind).then_some(PointKind::Back)
    }
}

/// Retired BPF instructions as a function of native code, which `Text` in the engine builds from
/// the debug maps.
#[derive(Clone, Copy, Debug)]
pub struct Accounting<'a> {
    /// Address of the first byte of text.
    pub text: u64,
    /// `cum[i]` counts what starts in `[text, text + i)`: BPF instructions in bits 0 to 30,
    /// native ones in bits 32 to 63; with [`TAIL_ENTRY`] where tail calls enter.
    pub cum: &'a [u64],
    /// Address of the lap stub ([`Spec::lap`]).
    pub lap: u64,
    /// Points in order of address; `cum` has [`POINT`] there.
    pub points: &'a [PointAt],
}

impl Accounting<'_> {
    /// For code that is not BPF.
    pub const NONE: Accounting<'static> = Accounting { text: 0, cum: &[], lap: 0, points: &[] };

    /// What starts in `[from, to)`: BPF instructions in the low half, native ones in the high.
    #[must_use]
    pub fn between(&self, from: u64, to: u64) -> u64 {
        let at = |va: u64| self.cum.get(va.wrapping_sub(self.text) as usize).copied();
        let (Some(a), Some(b)) = (at(from), at(to)) else { return 0 };
        (b & !FLAGS).saturating_sub(a & !FLAGS)
    }
}

/// Flag in [`Accounting::cum`]: a tail call enters here.
pub const TAIL_ENTRY: u64 = 1 << 31;

/// Flag in [`Accounting::cum`]: an address of [`Accounting::points`].
pub const POINT: u64 = 1 << 63;

/// All flags of [`Accounting::cum`].
pub(super) const FLAGS: u64 = TAIL_ENTRY | POINT;

/// At which points one `run` stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Points {
    /// At none.
    #[default]
    Pass,
    /// At the first one at which so many BPF instructions of this run are retired.
    After(u64),
    /// At the n-th, from 1.
    Nth(u64),
}

/// How far one `run` may go.
#[derive(Clone, Copy, Debug)]
pub struct Fuel {
    /// BPF instructions.
    pub insns: u64,
    /// Blocks, so that code of no program ends too.
    pub blocks: u64,
    /// How often the lap stub may send the program round again. Each lap has the fuel of the
    /// first; those that were followed by another are [`Vcpu::take_laps`].
    pub laps: u32,
    /// BPF instructions after which no lap begins.
    pub lap_insns: u64,
    /// Points at which it stops.
    pub points: Points,
    /// Where a debugger stops it.
    pub halt: Option<Halt>,
}

impl Fuel {
    /// Without laps.
    #[must_use]
    pub const fn new(insns: u64, blocks: u64) -> Fuel {
        Fuel { insns, blocks, laps: 0, lap_insns: 0, points: Points::Pass, halt: None }
    }
}

/// What a CPU has counted since creation, and what nobody has asked for.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// BPF instructions.
    pub retired: u64,
    native: u64,
    outside: u64,
    tail_calls: Vec<(u64, u64)>,
    observed: Vec<Observed>,
}

impl Counts {
    /// Native instructions, those of stubs included.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.native + self.outside
    }

    /// A CPU that has run so many BPF instructions and no native ones that count.
    #[must_use]
    pub fn of_retired(retired: u64) -> Counts {
        Counts { retired, ..Counts::default() }
    }
}

/// A virtual CPU.
#[derive(Debug)]
pub struct Vcpu {
    // Before `state`: the engine is closed while its hooks' state is still there.
    engine: Engine,
    state: StateBox,
    spec: &'static Spec,
    fast_memory: bool,
    observing: bool,
    this_cpu: u64,
}

impl std::fmt::Debug for StateBox {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StateBox")
            .field("retired", &self.retired)
            .field("event", &self.event)
            .finish_non_exhaustive()
    }
}

impl Vcpu {
    /// A CPU with zeroed registers. The memory path runs without Unicorn's per-access exit check
    /// when the self-test of precise faults passes in that mode ([`Vcpu::fast_memory`]).
    pub fn new(arch: Arch) -> Result<Vcpu, CpuError> {
        Vcpu::with_mode(arch, selftest::fast_memory_works(arch))
    }

    /// As [`Vcpu::new`], but always with the per-access exit check.
    pub fn as_shipped(arch: Arch) -> Result<Vcpu, CpuError> {
        Vcpu::with_mode(arch, false)
    }

    /// As [`Vcpu::as_shipped`], but it observes each load and store outside of a range of physical
    /// memory, at ten times the cost.
    pub fn observing(arch: Arch, unobserved: std::ops::Range<u64>) -> Result<Vcpu, CpuError> {
        let mut cpu = Vcpu::with_mode(arch, false)?;
        (cpu.state.unobserved, cpu.state.pc) = (unobserved, cpu.spec.pc);
        let installed = cpu.engine.observe(cpu.state.as_ptr());
        installed.map_err(|why| CpuError::Unicorn { what: "install hooks", why })?;
        cpu.observing = true;
        Ok(cpu)
    }

    /// An engine for single instructions of this CPU, which observes as it does.
    ///
    /// # Errors
    /// When Unicorn cannot make one.
    pub fn beside(&self) -> Result<Vcpu, CpuError> {
        let mut cpu = match self.observing {
            true => Vcpu::observing(self.spec.arch, self.state.unobserved.clone())?,
            false => Vcpu::as_shipped(self.spec.arch)?,
        };
        cpu.set_this_cpu(self.this_cpu);
        Ok(cpu)
    }

    /// Sets what per-CPU addresses are offsets from.
    pub fn set_this_cpu(&mut self, area: u64) {
        self.this_cpu = area;
        match self.spec.this_cpu {
            ThisCpu::Own(r) => self.engine.write(r, area),
            ThisCpu::General(r) => self.set_reg(r, area),
            ThisCpu::Halves(upper, lower) => {
                self.engine.write(upper, area >> 32);
                self.engine.write(lower, area & 0xffff_ffff);
            }
        }
    }

    /// Has what another CPU has in its registers, and its memory of its own.
    pub fn stand_in(&mut self, of: &Vcpu) {
        if self.this_cpu != of.this_cpu {
            self.set_this_cpu(of.this_cpu);
        }
        self.set_regs(&of.regs());
    }

    /// Takes over loads and stores of the engine beside it.
    pub fn add_observed(&mut self, more: Vec<Observed>) {
        self.state.observed.extend(more);
    }

    /// Loads and stores since the last time this was asked, in order.
    pub fn take_observed(&mut self) -> Vec<Observed> {
        std::mem::take(&mut self.state.observed)
    }

    /// As [`Vcpu::new`], with the choice made.
    pub(super) fn with_mode(arch: Arch, fast: bool) -> Result<Vcpu, CpuError> {
        let spec = spec(arch);
        let err = |what| move |why| CpuError::Unicorn { what, why };
        let engine = Engine::open(spec).map_err(err("open"))?;
        let ret = spec.gprs[spec.ret.0 as usize];
        let state = StateBox::new(HookState::new(ret));
        engine.hook(state.as_ptr()).map_err(err("install hooks"))?;
        let fast_memory = fast && private::fast_mode(&engine);
        if let Some(v) = spec.flags_init {
            engine.write(spec.flags, v);
        }
        Ok(Vcpu { engine, state, spec, fast_memory, observing: false, this_cpu: 0 })
    }

    /// The facts about this CPU's architecture.
    #[must_use]
    pub fn spec(&self) -> &'static Spec {
        self.spec
    }

    /// False when this build or host runs with Unicorn's per-access exit check.
    #[must_use]
    pub fn fast_memory(&self) -> bool {
        self.fast_memory
    }

    /// BPF instructions retired since creation.
    #[must_use]
    pub fn retired(&self) -> u64 {
        self.state.retired
    }

    /// Native instructions of programs run since creation.
    #[must_use]
    pub fn native(&self) -> u64 {
        self.state.native
    }

    /// Native instructions since creation, those of stubs included while a debugger may stop it.
    #[must_use]
    pub fn place(&self) -> u64 {
        self.state.place()
    }

    /// Where a debugger stops it, in order of address.
    pub fn set_breaks(&mut self, breaks: &[u64]) {
        self.state.halts.breaks = breaks.to_vec();
        self.state.forget_blocks();
    }

    /// Place of the last breakpoint that was noted.
    pub fn take_last_break(&mut self) -> Option<u64> {
        self.state.halts.last.take()
    }

    /// Loads and stores of physical ranges are noted from now on; with a halt that does not only
    /// scan, the next block after one is not entered.
    ///
    /// # Errors
    /// When Unicorn takes no hook.
    pub fn watch(&mut self, all: &[Watched]) -> Result<(), CpuError> {
        if self.state.watch.all == all {
            return Ok(());
        }
        if let Some(hook) = self.state.watch.hook.take() {
            self.engine.unwatch(hook);
        }
        let from = all.iter().map(|w| w.range.start).min();
        let to = all.iter().map(|w| w.range.end).max();
        if let Some(range) = from.zip(to) {
            let hook = self.engine.watch(self.state.as_ptr(), range);
            let hook = hook.map_err(|why| CpuError::Unicorn { what: "watch", why })?;
            self.state.watch.hook = Some(hook);
        }
        (self.state.pc, self.state.watch.all) = (self.spec.pc, all.to_vec());
        self.take_watch_hits();
        Ok(())
    }

    /// The first and the last watched access since this was asked.
    pub fn take_watch_hits(&mut self) -> Option<(WatchHit, WatchHit)> {
        let w = &mut self.state.watch;
        w.first.take().zip(w.last.take())
    }

    /// Takes over accesses of the engine beside it, which ran a block from an address on.
    pub fn note_beside(&mut self, hits: (WatchHit, WatchHit), acct: Accounting<'_>, at: u64) {
        let here = self.place();
        let moved = |h: WatchHit| WatchHit { place: here + (acct.between(at, h.pc) >> 32), ..h };
        self.state.watch.first.get_or_insert(moved(hits.0));
        self.state.watch.last = Some(moved(hits.1));
    }

    /// Counts what was run beside the engine of a block that it was held at.
    pub fn ran(&mut self, acct: Accounting<'_>, from: u64, to: u64) {
        let n = acct.between(from, to);
        self.state.retired += n & 0xffff_ffff;
        self.state.native += n >> 32;
    }

    /// Tail calls since the last time this was asked: the count of retired instructions when
    /// each was made, and the address it entered at.
    pub fn take_tail_calls(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.state.tail_calls)
    }

    /// Laps since the last time this was asked that were followed by another: the count of
    /// retired instructions at the end of each, and its result.
    pub fn take_laps(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.state.laps.done)
    }

    /// Counts of retired instructions and of blocks when the present lap of the last `run` began.
    #[must_use]
    pub fn lap_began(&self) -> (u64, u64) {
        self.state.laps.began
    }

    /// Blocks entered since creation.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.state.blocks
    }

    /// What is left of [`Fuel::points`] after the last `run`.
    #[must_use]
    pub fn points_left(&self) -> Points {
        self.state.points_left()
    }

    /// Runs from `pc` until something stops it. RAM is a multiple of a page and starts on one;
    /// after a page table change, [`Vcpu::pages_changed`] comes first.
    pub fn run(
        &mut self,
        ram: &mut [u8],
        table: &mut dyn PageTable,
        acct: Accounting<'_>,
        fuel: Fuel,
        pc: u64,
    ) -> Result<Stop, CpuError> {
        let result = self.lent(ram, table, acct, fuel, |engine, ram| engine.start(ram, pc))?;
        self.classify(result, acct)
    }

    /// Lets the engine run with memory, page table and counts lent to it and its hooks.
    fn lent(
        &mut self,
        ram: &mut [u8],
        table: &mut dyn PageTable,
        acct: Accounting<'_>,
        fuel: Fuel,
        run: impl FnOnce(&Engine, &mut [u8]) -> Result<(), uc_error>,
    ) -> Result<Result<(), uc_error>, CpuError> {
        let err = |why| CpuError::Unicorn { what: "map memory", why };
        if self.engine.map(ram).map_err(err)? {
            self.engine.flush_tlb();
            self.engine.flush_code();
        }
        self.state.lend(private::erase(table), ram, acct, fuel);
        let result = run(&self.engine, ram);
        self.state.fold();
        self.state.table = None;
        Ok(result)
    }

    /// Runs the one instruction at `pc`: [`Stop::Fuel`] when it is done. For an engine that does
    /// nothing else: Unicorn compiles a hook into all code.
    pub fn step(
        &mut self,
        ram: &mut [u8],
        table: &mut dyn PageTable,
        pc: u64,
    ) -> Result<Stop, CpuError> {
        let (acct, unbounded) = (Accounting::NONE, Fuel::new(u64::MAX, u64::MAX));
        let result = self.lent(ram, table, acct, unbounded, |engine, ram| engine.step(ram, pc))?;
        match (result, self.state.event) {
            (Ok(()), Event::None) => Ok(Stop::Fuel),
            _ => self.classify(result, Accounting::NONE),
        }
    }

    fn classify(
        &mut self,
        result: Result<(), uc_error>,
        acct: Accounting<'_>,
    ) -> Result<Stop, CpuError> {
        let pc = self.pc();
        let stop = match (result, self.state.event) {
            (Ok(()), Event::Intr(n)) if n == self.spec.intno => {
                Stop::Trap { pc: pc.wrapping_sub(self.spec.trap_pc) }
            }
            (Ok(()), Event::Fuel) => {
                self.state.carry();
                return Ok(Stop::Fuel);
            }
            (Ok(()), Event::Point(kind)) => return Ok(Stop::Point { kind, pc }),
            (Ok(()), Event::Lap) => return Ok(Stop::Lap),
            (Ok(()), Event::Held { at, stop }) => return Ok(Stop::Held { pc: at, stop }),
            (Err(uc_error::EXCEPTION), Event::Denied { page, access }) => {
                let exact = private::invalid_address(&self.engine)
                    .filter(|a| a & !(super::PAGE_BYTES - 1) == page);
                Stop::Denied { pc, access, addr: exact.unwrap_or(page) }
            }
            // until = 0 makes a jump to 0 a silent stop.
            (Ok(()), _) if pc == 0 => Stop::Denied { pc: 0, access: Access::Fetch, addr: 0 },
            (Ok(()) | Err(uc_error::EXCEPTION | uc_error::INSN_INVALID), _) => Stop::Invalid { pc },
            (Err(why), _) => return Err(CpuError::Unicorn { what: "run", why }),
        };
        self.uncount(pc, acct);
        Ok(stop)
    }

    /// The block hook counted the whole block; take back what lies behind `pc`.
    fn uncount(&mut self, pc: u64, acct: Accounting<'_>) {
        let st = &mut *self.state;
        let (start, size) = st.last_block();
        let end = start.wrapping_add(u64::from(size));
        if (start..end).contains(&pc) {
            let n = acct.between(pc + 1, end);
            if let Some(cover) = &mut st.cover {
                cover.cut(start, size, pc, n & 0xffff_ffff);
            }
            st.retired -= n & 0xffff_ffff;
            st.native -= n >> 32;
        }
    }

    /// Program counter.
    #[must_use]
    pub fn pc(&self) -> u64 {
        self.engine.read(self.spec.pc)
    }

    /// Reads a general register.
    #[must_use]
    pub fn reg(&self, r: NativeReg) -> u64 {
        self.engine.read(self.spec.gprs[r.0 as usize])
    }

    /// Writes a general register.
    pub fn set_reg(&mut self, r: NativeReg, v: u64) {
        self.engine.write(self.spec.gprs[r.0 as usize], v);
    }

    /// The whole register file.
    #[must_use]
    pub fn regs(&self) -> RegFile {
        let mut f = RegFile {
            pc: self.pc(),
            flags: self.engine.read(self.spec.flags),
            ..RegFile::default()
        };
        self.engine.read_all(self.spec.gprs, &mut f.gprs);
        f
    }

    /// Replaces the whole register file.
    pub fn set_regs(&mut self, f: &RegFile) {
        self.engine.write_all(self.spec.gprs, &f.gprs);
        if let ThisCpu::General(r) = self.spec.this_cpu {
            self.set_reg(r, self.this_cpu);
        }
        self.engine.write(self.spec.flags, f.flags);
        self.engine.write(self.spec.pc, f.pc);
    }

    /// Sets what a function is called with: arguments, stack pointer, and where it returns to, if
    /// that is in a register. The other registers keep what they had: compiled code reads none of
    /// them before it has written it.
    pub fn set_call(&mut self, args: [u64; 5], sp: u64, back: u64) {
        let s = self.spec;
        let mut regs = [0; 32];
        let mut vals = [0; 32];
        let link = s.link.map(|r| (r, back));
        let all = s.args.into_iter().zip(args).chain([(s.sp, sp)]).chain(link);
        let mut n = 0;
        for (r, v) in all {
            (regs[n], vals[n]) = (s.gprs[r.0 as usize], v);
            n += 1;
        }
        self.engine.write_all(&regs[..n], &vals);
    }

    /// Counts blocks, ways and stacks from now on; the functions are those of programs.
    pub fn cover(&mut self, funcs: std::sync::Arc<[FuncAt]>) {
        let cover = self.state.cover.get_or_insert_with(|| Box::new(Cover::new()));
        cover.know(funcs);
        self.state.forget_blocks();
    }

    /// A run begins that nothing has called.
    pub fn cover_fresh(&mut self) {
        if let Some(cover) = &mut self.state.cover {
            cover.fresh();
        }
    }

    /// What was counted.
    #[must_use]
    pub fn covered(&self) -> Option<&Cover> {
        self.state.cover.as_deref()
    }

    /// Sets the counters of retired and native instructions.
    pub fn set_counts(&mut self, retired: u64, native: u64) {
        self.state.retired = retired;
        self.state.native = native;
    }

    /// What has been counted and not been told of, for a snapshot.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let s = &self.state;
        Counts {
            retired: s.retired,
            native: s.native,
            outside: s.halts.outside,
            tail_calls: s.tail_calls.clone(),
            observed: s.observed.clone(),
        }
    }

    /// Goes back to what was counted.
    pub fn restore_counts(&mut self, c: &Counts) {
        let s = &mut self.state;
        (s.retired, s.native, s.halts.outside) = (c.retired, c.native, c.outside);
        s.tail_calls.clone_from(&c.tail_calls);
        s.observed.clone_from(&c.observed);
        s.forget_carried();
    }

    /// Must be called after the host changed code in `[from, to)`, on every CPU.
    pub fn code_changed(&mut self, from: u64, to: u64) {
        self.state.forget_blocks();
        self.engine.remove_cache(from, to);
    }

    /// Must be called after the page table changed, on every CPU.
    pub fn pages_changed(&mut self) {
        self.engine.flush_tlb();
    }

    /// Must be called after all of memory was replaced.
    pub fn memory_replaced(&mut self) {
        self.state.forget_blocks();
        self.engine.flush_tlb();
        self.engine.flush_code();
    }
}
