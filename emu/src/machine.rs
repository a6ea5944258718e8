//! The machine: the modelled kernel, its native text and one vCPU per CPU, driven in steps.
//!
//! ```text
//!  Kernel::next ─► Step::Enter ─► exec ─► Exit::Helper ─► Kernel::helper_call ─► Step ─► ...
//! ```
//!
//! A step that is known but not done is data (`Lane`), and so is every register context: nothing
//! is kept on the host's stack between two steps. That is what makes [`Machine::snapshot`] a
//! copy. CPUs are switched at points only (helper calls and returns, back-edges, calls of
//! subprograms), which have the same ordinal on every architecture, so an interleaving is the same
//! on all four.

mod backtrace;
mod cancel;
mod contexts;
pub mod cover;
pub mod halt;
mod look;
pub mod path;
pub(crate) mod places;
mod preempt;
mod run;
pub mod schedule;
mod state;
pub mod sweep;
mod syscall;
pub mod watch;

use std::collections::BTreeMap;

use bpf::Arch;
use jit::PointKind;
use kernel_model::context::Point;
use kernel_model::cpu::FaultKind;
use kernel_model::kfuncs::THROW;
use kernel_model::layout::{
    CALLBACK_RETURN, HELPER_STUBS, LAP_STUB, RETURN_TRAP, STUB_STRIDE, helper_stub, percpu_area,
    stack_top,
};
use kernel_model::race::{Native, Race};
use kernel_model::sched::TaskId;
use kernel_model::stack::Callee;
use kernel_model::types::Types;
use kernel_model::{CpuId, Entry, Event, Fault, Kernel, ProgId, Step};
use verifier::rewrite::TIMED_MAY_GOTO;

use crate::engine::{Exit, Guard, PlaceError, Stepper, Text, exec};
use crate::loader::{self, LoadError, LoadOptions, LoadedObject};
use crate::machine::path::{LineWatch, PathLog};
use crate::machine::schedule::{Chooser, Switch};
pub use look::StackFrame;
pub use state::Snapshot;
pub use syscall::TestCall;

use crate::unicorn::{CpuError, Fuel, NativeReg, Observed, Points, RegFile, Vcpu};

/// What a machine is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The kernel's part. `arch` in it is replaced by the machine's.
    pub kernel: kernel_model::Config,
    /// Instructions one program run may retire before it ends as a watchdog fault.
    pub run_insns_max: u64,
    /// How far, in virtual nanoseconds, one CPU may get ahead of another that has work.
    pub quantum_ns: u64,
    /// Keep Unicorn's exit check after each access of guest code: slower, otherwise the same. It
    /// stays anyhow where the CPU layer cannot do without it.
    pub exit_checks: bool,
}

impl Default for Config {
    fn default() -> Config {
        let kernel = kernel_model::Config::default();
        Config { kernel, run_insns_max: 1 << 32, quantum_ns: 1000, exit_checks: false }
    }
}

/// The machine could not do what was asked. Faults of programs are not errors but events.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MachineError {
    /// The CPU layer.
    #[error(transparent)]
    Cpu(#[from] CpuError),
    /// Program text.
    #[error(transparent)]
    Place(#[from] PlaceError),
    /// The object.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// No such program.
    #[error("no program with id {0}")]
    NoProgram(u32),
    /// The chooser wants the run to stop here; it goes on from here, and asks again.
    #[error("paused by its schedule")]
    Paused,
    /// A pinned schedule does not fit the run.
    #[error("switch {switch} of the schedule is stale: it stands at `{found}`, not `{wanted}`")]
    Stale {
        /// Which switch, from 0.
        switch: usize,
        /// The point that the schedule names.
        wanted: String,
        /// What is there.
        found: String,
    },
}

/// What a context stands at when it is at a point.
#[derive(Clone, Debug)]
enum Held {
    /// It called, and the kernel has not been told.
    Call(Exit),
    /// A call is complete, and it does not have the result.
    Result(u64),
    /// It is between two instructions.
    At(u64),
}

/// The register context of one entry that has not returned.
#[derive(Clone, Debug)]
struct Context {
    /// A callback gets all of R0 back.
    callback: bool,
    /// Where it goes on after the exit it is in.
    resume: u64,
    /// Canonical frame address of its outermost frame.
    cfa: u64,
    /// Its registers while another context runs above it.
    regs: RegFile,
    /// What it stands at.
    held: Option<Held>,
    /// The call it is in, for the name of its return.
    called: Option<(&'static str, u64)>,
}

/// One CPU as a value.
#[derive(Clone, Debug, Default)]
struct Lane {
    /// Entries that have not returned, innermost last.
    contexts: Vec<Context>,
    /// The next step, when the kernel has said it already.
    next: Option<Step>,
    /// The vCPU's registers are not those of the innermost context.
    switched: bool,
    /// Instructions retired by the vCPU that the kernel has been told of.
    charged: u64,
    /// Value of `charged` when the outermost run began.
    run_start: u64,
    /// The counted point it stands at.
    at: Option<kernel_model::context::Point>,
    /// Of tasks that were preempted here.
    parked: BTreeMap<TaskId, preempt::Parked>,
}

/// A vCPU and the epoch of the page table its TLB was filled from.
#[derive(Debug)]
struct Slot {
    vcpu: Vcpu,
    epoch: u64,
    /// Registers of a CPU that never ran: prologues push what they find in them.
    clean: RegFile,
}

/// A machine.
#[derive(Debug)]
pub struct Machine {
    /// The kernel. Between two runs it may be changed freely, its memory included.
    pub kernel: Kernel,
    config: Config,
    text: Text,
    lanes: Vec<Lane>,
    /// Made when a CPU first runs a program.
    slots: Vec<Option<Slot>>,
    /// For accesses to guarded pages.
    stepper: Stepper,
    path: Option<PathLog>,
    lines: LineWatch,
    /// Asked at every point; round robin without.
    chooser: Option<Box<dyn Chooser>>,
    /// The CPU that ran last, under a chooser.
    current: CpuId,
    /// Choices that were not the default ones.
    switches: Vec<Switch>,
    /// A system call of user space runs CPUs to its end.
    in_call: bool,
    /// The same, and no debugger can stop it there.
    closed: bool,
    /// Where a debugged run stops.
    halting: Option<halt::Halting>,
    /// Where it stopped in the middle of a step.
    mid: Option<halt::Mid>,
    /// The turn that was left when it stopped.
    held_turn: Option<run::Turn>,
    /// Steps that were natively begun, and all that were ended.
    steps: (u64, u64),
    /// Breakpoints, in order of address.
    breaks: Vec<u64>,
    /// Position of the last breakpoint that was noted.
    last_break: Option<u64>,
    /// Watchpoints.
    watch: watch::Watch,
    /// Cancels at every point, when that is tried.
    sweep: Option<Box<sweep::Sweep>>,
    /// Events that are in the trace no more.
    forgotten: usize,
    /// Blocks are counted.
    covering: bool,
}

impl Machine {
    /// Boots a kernel on an architecture.
    pub fn new(arch: Arch, mut config: Config) -> Result<Machine, MachineError> {
        config.kernel.arch = arch;
        let mut kernel = Kernel::new(config.kernel.clone());
        let text = Text::new(&mut kernel)?;
        let cpus = config.kernel.cpus as usize;
        let slots = (0..cpus).map(|_| None).collect();
        Ok(Machine {
            kernel,
            config,
            text,
            lanes: vec![Lane::default(); cpus],
            slots,
            stepper: Stepper::default(),
            path: None,
            lines: LineWatch::default(),
            chooser: None,
            current: CpuId(0),
            switches: Vec::new(),
            in_call: false,
            closed: false,
            halting: None,
            mid: None,
            held_turn: None,
            steps: (0, 0),
            breaks: Vec::new(),
            last_break: None,
            watch: watch::Watch::default(),
            sweep: None,
            forgotten: 0,
            covering: false,
        })
    }

    /// The architecture.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.config.kernel.arch
    }

    /// As configured.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Kernel text: programs by address, debug maps.
    #[must_use]
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// The trace so far, without what was forgotten.
    #[must_use]
    pub fn events(&self) -> &[Event] {
        &self.kernel.events
    }

    /// Drops the oldest events.
    pub fn forget_events(&mut self, count: usize) {
        self.kernel.events.drain(..count);
        self.forgotten += count;
    }

    /// BPF instructions retired on all CPUs.
    #[must_use]
    pub fn insns(&self) -> u64 {
        self.kernel.retired
    }

    /// Native instructions of programs run on all CPUs: a coordinate of its own on each
    /// architecture.
    #[must_use]
    pub fn native_insns(&self) -> u64 {
        self.slots.iter().flatten().map(|s| s.vcpu.native()).sum()
    }

    /// Notes the way programs go from now on; see [`path`].
    pub fn log_path(&mut self, log: PathLog) {
        self.path = Some(log);
    }

    /// Notes in the trace when a line of a program's source is reached; see [`path`].
    pub fn watch_line(&mut self, prog: ProgId, at: bpf::insn::InsnIdx, name: &str) {
        self.lines.add(prog, at, name);
    }

    /// What was noted.
    #[must_use]
    pub fn path(&self) -> &[path::Point] {
        self.path.as_ref().map_or(&[], |p| &p.points)
    }

    /// Loads an object as libbpf does and compiles its programs.
    pub fn load_object(
        &mut self,
        bytes: &[u8],
        opts: &LoadOptions,
    ) -> Result<LoadedObject, MachineError> {
        let arch = self.arch();
        let target = Types::of(arch).btf();
        let object = bpf::object::Object::parse(bytes).ok();
        if let Some(what) = object.and_then(|o| loader::unsupported(&o, target)) {
            return Err(LoadError::Unsupported(what).into());
        }
        let loaded = loader::load(&mut self.kernel, target, arch.endian(), bytes, opts)?;
        for p in &loaded.progs {
            self.compile(ProgId(p.id))?;
        }
        Ok(loaded)
    }

    /// Compiles a loaded program and gives the kernel its entry point.
    pub fn compile(&mut self, prog: ProgId) -> Result<u64, MachineError> {
        let p = self.kernel.prog(prog).ok_or(MachineError::NoProgram(prog.0))?;
        let compiled = jit::compile(&p.verified, self.arch());
        let insns = p.verified.program().insns.len();
        let from = self.text.end();
        let len = u32::try_from(compiled.code.len()).expect("programs are small");
        let entry = self.text.place(&mut self.kernel, prog, insns, compiled)?;
        let vcpus = self.slots.iter_mut().flatten().map(|s| &mut s.vcpu);
        vcpus.chain(self.stepper.vcpu()).for_each(|v| v.code_changed(from, self.text.end()));
        self.cover_what_is_new();
        self.kernel.set_prog_code(prog, entry, len);
        if let Some(loaded) = self.text.prog(prog) {
            self.kernel.set_prog_places(prog, loaded.places());
        }
        Ok(entry)
    }

    /// One step of one CPU: up to the next point, call of the kernel, return or fault. False when
    /// it has nothing to do.
    pub fn step(&mut self, cpu: CpuId) -> Result<bool, MachineError> {
        self.step_until(cpu, 0, false)
    }

    /// As [`Machine::step`], up to a time: back-edges before it are gone over, and with `laps` the
    /// engine is left once for all returns that only run the program again, and the kernel told of
    /// each.
    fn step_until(&mut self, cpu: CpuId, clock_ns: u64, laps: bool) -> Result<bool, MachineError> {
        self.note_trap(0);
        let busy = self.step_once(cpu, clock_ns, laps)?;
        self.steps.1 += 1;
        self.note_written(cpu);
        Ok(busy)
    }

    fn step_once(&mut self, cpu: CpuId, clock_ns: u64, laps: bool) -> Result<bool, MachineError> {
        if let Some(mid) = self.mid.take() {
            assert_eq!(mid.cpu, cpu, "a step that was stopped goes on before all else");
            let left = clock_ns.saturating_sub(self.kernel.now(cpu));
            self.native(cpu, mid.pc, (0, left), Some(mid))?;
            return Ok(true);
        }
        let mut next = self.lanes[cpu.idx()].next.take();
        if let Some(Step::Resume { r0 }) = next
            && self.kernel.interrupt_ready(cpu).is_some()
        {
            self.hold(cpu, Held::Result(r0));
            next = None;
        }
        let step = match next {
            Some(step) => step,
            None => {
                self.kernel.catch_up(cpu);
                match self.kernel.next(cpu) {
                    step @ Step::Resume { .. } if self.kernel.fine => {
                        self.settle(cpu, step);
                        return Ok(true);
                    }
                    step => step,
                }
            }
        };
        self.resume_preempted(cpu);
        let mut again = 0;
        let pc = match step {
            Step::Idle => return Ok(false),
            Step::Pause => {
                self.lanes[cpu.idx()].at = None;
                return Ok(true);
            }
            Step::Continue => match self.go_on(cpu)? {
                Some(pc) => pc,
                None => return Ok(true),
            },
            Step::Abort { contexts, .. } => {
                let lane = &mut self.lanes[cpu.idx()];
                let keep = lane.contexts.len().saturating_sub(contexts as usize);
                lane.contexts.truncate(keep);
                lane.switched = true;
                return Ok(true);
            }
            Step::Enter(entry) => {
                let free =
                    self.path.is_none() && !self.kernel.fine && self.kernel.watchdog.is_none();
                if laps && free && self.kernel.now(cpu) < clock_ns {
                    again = entry.again;
                }
                self.enter(cpu, entry, again > 0)?
            }
            Step::Resume { r0 } => self.resume(cpu, r0)?,
            Step::Throw { cookie } => match self.throw(cpu, cookie)? {
                Some(pc) => pc,
                None => {
                    self.lanes[cpu.idx()].contexts.pop();
                    self.lanes[cpu.idx()].switched = true;
                    let next = self.kernel.prog_return(cpu, cookie & 0xffff_ffff);
                    self.settle(cpu, next);
                    return Ok(true);
                }
            },
        };
        let left = clock_ns.saturating_sub(self.kernel.now(cpu));
        self.steps.0 += 1;
        self.native(cpu, pc, (again, left), None).map(|()| true)
    }

    /// The innermost context stands at a point.
    fn hold(&mut self, cpu: CpuId, held: Held) {
        let top = self.lanes[cpu.idx()].contexts.last_mut();
        top.expect("a program stands at a point").held = Some(held);
    }

    /// A program stands at a counted point.
    fn at_point(&mut self, cpu: CpuId, point: Option<Point>) {
        self.lanes[cpu.idx()].at = point;
        if let Some(point) = point {
            self.kernel.safepoint(cpu, &point);
        }
    }

    /// What the kernel said, for the next step. A result is a point, when these are looked at.
    fn settle(&mut self, cpu: CpuId, next: Step) {
        self.lanes[cpu.idx()].at = None;
        match next {
            Step::Idle | Step::Pause => {}
            Step::Resume { r0 } if self.kernel.fine => {
                self.hold(cpu, Held::Result(r0));
                let called = self.lanes[cpu.idx()].contexts.last().and_then(|c| c.called);
                let prog = self.kernel.cpus[cpu.idx()].prog_frame().map(|p| p.prog);
                let at = prog.zip(called);
                let at = at.map(|(prog, (func, arg))| Point::Returned { prog, func, arg });
                self.at_point(cpu, at);
            }
            next => self.lanes[cpu.idx()].next = Some(next),
        }
    }

    /// The innermost context goes on from its point; the address, when it does so natively.
    fn go_on(&mut self, cpu: CpuId) -> Result<Option<u64>, MachineError> {
        let top = self.lanes[cpu.idx()].contexts.last_mut().expect("a program was left at a point");
        match top.held.take().expect("a program was left at a point") {
            Held::Call(exit) => {
                let next = self.tell(cpu, exit);
                self.settle(cpu, next);
                Ok(None)
            }
            Held::Result(r0) => self.resume(cpu, r0).map(Some),
            Held::At(pc) => {
                self.switch_in(cpu)?;
                Ok(Some(pc))
            }
        }
    }

    fn vcpu(&mut self, cpu: CpuId) -> Result<&mut Vcpu, CpuError> {
        let slot = &mut self.slots[cpu.idx()];
        if slot.is_none() {
            let arch = self.config.kernel.arch;
            let mut vcpu = match self.config {
                Config { kernel: kernel_model::Config { races: true, .. }, .. } => {
                    Vcpu::observing(arch, self.kernel.stacks())?
                }
                Config { exit_checks: true, .. } => Vcpu::as_shipped(arch)?,
                _ => Vcpu::new(arch)?,
            };
            vcpu.set_this_cpu(percpu_area(cpu.0));
            vcpu.set_breaks(&self.breaks);
            vcpu.watch(&self.watch.phys)?;
            let epoch = self.kernel.mem.epoch();
            let clean = vcpu.regs();
            *slot = Some(Slot { vcpu, epoch, clean });
            self.lanes[cpu.idx()].charged = 0;
            self.cover_what_is_new();
        }
        Ok(&mut self.slots[cpu.idx()].as_mut().expect("just made").vcpu)
    }

    /// Runs native code to its next exit and tells the kernel, or holds it as a point. `laps`: how
    /// many may follow, and for how many instructions they begin.
    fn native(
        &mut self,
        cpu: CpuId,
        mut pc: u64,
        mut laps: (u32, u64),
        mut mid: Option<halt::Mid>,
    ) -> Result<(), MachineError> {
        let (began, left) = (self.kernel.now(cpu), laps.1);
        let exit = loop {
            match self.native_exit(cpu, pc, laps, mid.take())? {
                Exit::Held(_) => return Err(MachineError::Paused),
                Exit::Helper { id: TIMED_MAY_GOTO, .. } => pc = self.timed_may_goto(cpu),
                Exit::Arena { at, addr, pc: next } => {
                    self.arena_fault(cpu, at, addr);
                    pc = next;
                }
                exit => break exit,
            }
            let ran = self.kernel.now(cpu) - began;
            laps = (0, left.saturating_sub(ran));
        };
        self.note_trap(1);
        self.look_at_watchdog(cpu);
        match exit {
            Exit::Point { kind, pc } if self.ends_at(cpu, kind, pc) => {}
            Exit::Point { kind, pc } => {
                self.hold(cpu, Held::At(pc));
                let at = self.text.point_of(pc, kind).map(|(prog, insn)| match kind {
                    PointKind::Enter => Point::Enter { prog, insn },
                    PointKind::Leave => Point::Leave { prog, insn },
                    PointKind::Back => Point::Back { prog, insn },
                });
                self.at_point(cpu, at.filter(|_| self.kernel.fine));
            }
            Exit::Helper { args, .. } | Exit::Kfunc { args, .. } if self.kernel.fine => {
                let called = self.function_called(&exit).map(|(func, nargs)| {
                    // What a register without an argument holds is a matter of the architecture.
                    (func, if nargs == 0 { 0 } else { args[0] })
                });
                let prog = self.kernel.cpus[cpu.idx()].prog_frame().map(|p| p.prog);
                let top = self.lanes[cpu.idx()].contexts.last_mut().expect("a program called");
                top.called = called;
                top.held = Some(Held::Call(exit));
                let at = prog.zip(called);
                let at = at.map(|(prog, (func, arg))| Point::Call { prog, func, arg });
                self.at_point(cpu, at);
            }
            exit => {
                let next = self.tell(cpu, exit);
                self.settle(cpu, next);
            }
        }
        Ok(())
    }

    /// Runs native code to its next exit.
    fn native_exit(
        &mut self,
        cpu: CpuId,
        pc: u64,
        laps: (u32, u64),
        mid: Option<halt::Mid>,
    ) -> Result<Exit, MachineError> {
        let epoch = self.kernel.mem.epoch();
        let retired = self.slots[cpu.idx()].as_ref().map_or(0, |s| s.vcpu.retired());
        let lane = &self.lanes[cpu.idx()];
        // What was retired before a debugger stopped it has not been told.
        let (used, untold) = (retired - lane.run_start, retired - lane.charged);
        let insns = self.config.run_insns_max.saturating_sub(used);
        // Blocks of native code that is no program's (a wild jump) retire nothing.
        let blocks = insns.saturating_mul(4).saturating_add(1 << 20);
        let points = self.points(cpu, laps.1.min(self.kernel.until_sample(cpu)), untold);
        let halt = self.halt_of(cpu, mid.is_some());
        let fuel = Fuel { insns, blocks, laps: laps.0, lap_insns: laps.1, points, halt };
        let slot = self.slots[cpu.idx()].as_mut().expect("made by enter");
        if slot.epoch != epoch {
            slot.vcpu.pages_changed();
            slot.epoch = epoch;
        }
        let events = self.forgotten + self.kernel.events.len();
        if self.path.as_ref().is_none_or(|p| !p.is_on(events)) && !self.lines.is_empty() {
            return Ok(self.by_lines(cpu, fuel, pc, mid)?);
        }
        let section = self.kernel.oldest_section(cpu);
        let (vcpu, memory, text) = (&mut slot.vcpu, &mut self.kernel.mem, &self.text);
        let (alloc, progs) = (&self.kernel.alloc, &self.kernel.progs);
        let stepper = &mut self.stepper;
        let found = mid.map_or(Vec::new(), |m| m.found);
        let mut guard = Guard { alloc, section, progs, stepper, found };
        let exit = match self.path.as_mut().filter(|p| p.is_on(events)) {
            Some(path) => path.exec((cpu, events), vcpu, memory, text, &mut guard, fuel, pc)?,
            None => exec(vcpu, memory, text, &mut guard, fuel, pc)?,
        };
        let found = guard.found;
        self.note_break(cpu);
        if let Exit::Held(pc) = exit {
            self.mid = Some(halt::Mid { cpu, pc, found });
            return Ok(exit);
        }
        self.charge(cpu);
        found.into_iter().for_each(|(pc, addr)| self.kernel.probed(cpu, pc, addr));
        self.tell_accesses(cpu);
        Ok(exit)
    }

    /// Tells of the accesses of native code, where data races are looked for.
    fn tell_accesses(&mut self, cpu: CpuId) {
        let Some(slot) = self.slots[cpu.idx()].as_mut().filter(|_| self.config.kernel.races) else {
            return;
        };
        for Observed { pc, phys, size, write } in slot.vcpu.take_observed() {
            self.kernel.race_native(cpu, Native { pc, phys, size, write });
        }
    }

    /// Data races found so far; none are looked for unless `Config::kernel.races` says so.
    #[must_use]
    pub fn races(&self) -> &[Race] {
        self.kernel.races()
    }

    /// Tells the kernel of an exit.
    fn tell(&mut self, cpu: CpuId, exit: Exit) -> Step {
        let stub_ret = crate::unicorn::spec(self.arch()).stub_ret;
        match exit {
            Exit::Helper { id, args } => {
                let at = helper_stub(id.unsigned_abs());
                self.set_resume(cpu, at + stub_ret);
                self.note_stack(cpu, Callee::Helper(id));
                self.kernel.helper_call(cpu, id, args)
            }
            Exit::Kfunc { btf_id, args } if self.is_throw(btf_id) => {
                self.kernel.prog_throw(cpu, args[0])
            }
            Exit::Kfunc { btf_id, args } => {
                let at = self.text.kfunc_stub(btf_id);
                self.set_resume(cpu, at + stub_ret);
                self.note_stack(cpu, Callee::Kfunc(btf_id));
                self.kernel.kfunc_call(cpu, btf_id, args)
            }
            Exit::Return => {
                let r0 = self.returned(cpu);
                self.kernel.prog_return(cpu, r0)
            }
            Exit::Fault(f) => self.kernel.prog_fault(cpu, f),
            Exit::Point { .. } | Exit::Arena { .. } | Exit::Held(_) => {
                unreachable!("held by `native`")
            }
            Exit::Fuel => {
                let lane = &self.lanes[cpu.idx()];
                let insns = lane.charged - lane.run_start;
                let at =
                    self.slots[cpu.idx()].as_ref().and_then(|s| self.text.place_of(s.vcpu.pc()));
                self.kernel.prog_fault(cpu, Fault { kind: FaultKind::Watchdog { insns }, at })
            }
        }
    }

    /// Name and number of arguments of the function of an exit.
    fn function_called(&self, exit: &Exit) -> Option<(&'static str, u8)> {
        match *exit {
            Exit::Helper { id, .. } => kernel_model::helpers::signature(id),
            Exit::Kfunc { btf_id, .. } => kernel_model::kfuncs::signature(self.arch(), btf_id),
            _ => None,
        }
    }

    fn is_throw(&self, btf_id: i32) -> bool {
        u32::try_from(btf_id).is_ok_and(|id| self.kernel.vmlinux_btf().name(id) == THROW)
    }

    /// Goes on at `pc` after a call of the kernel, which is told where the program called it.
    fn set_resume(&mut self, cpu: CpuId, pc: u64) {
        if let Some(slot) = &self.slots[cpu.idx()] {
            let (vcpu, spec) = (&slot.vcpu, slot.vcpu.spec());
            let pushed = || self.kernel.mem.read_u64(vcpu.reg(spec.sp)).unwrap_or(0);
            let from = spec.link.map_or_else(pushed, |link| vcpu.reg(link));
            self.kernel.cpus[cpu.idx()].called_from = from;
        }
        if let Some(top) = self.lanes[cpu.idx()].contexts.last_mut() {
            top.resume = pc;
        }
    }

    /// Pops the context that returned; its R0. `bpf_func` returns an unsigned int.
    fn returned(&mut self, cpu: CpuId) -> u64 {
        let vcpu = &self.slots[cpu.idx()].as_ref().expect("it ran").vcpu;
        let lane = &mut self.lanes[cpu.idx()];
        let top = lane.contexts.pop().expect("a context returned");
        lane.switched = true;
        let spec = vcpu.spec();
        if top.callback { vcpu.reg(spec.ret64) } else { vcpu.reg(spec.ret) & 0xffff_ffff }
    }

    /// Tells the kernel what was retired, and of laps and tail calls at their time.
    fn charge(&mut self, cpu: CpuId) {
        let slot = self.slots[cpu.idx()].as_mut().expect("it ran");
        let lane = &mut self.lanes[cpu.idx()];
        let mut calls = slot.vcpu.take_tail_calls().into_iter().peekable();
        let mut laps = slot.vcpu.take_laps().into_iter().peekable();
        loop {
            let lap = laps.peek().map_or(u64::MAX, |l| l.0);
            // A lap that ends when a tail call is made is the one before it: a program retires
            // something before it calls.
            if let Some((retired, entered)) = calls.next_if(|c| c.0 <= lap) {
                let Some(to) = self.text.prog_at(entered).map(|p| p.prog) else { continue };
                self.kernel.charge(cpu, retired - lane.charged);
                lane.charged = retired;
                self.kernel.tail_called(cpu, to);
            } else if let Some((retired, r0)) = laps.next() {
                self.kernel.charge(cpu, retired - lane.charged);
                (lane.charged, lane.run_start) = (retired, retired);
                let next = self.kernel.prog_return(cpu, r0 & 0xffff_ffff);
                assert!(matches!(next, Step::Enter(_)), "Entry::again allowed this lap");
            } else {
                break;
            }
        }
        let now = slot.vcpu.retired();
        self.kernel.charge(cpu, now - lane.charged);
        lane.charged = now;
    }
}

#[cfg(test)]
mod tests;
