//! What a debugger works on.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use bpf::Arch;
use gdb::{DebugError, Debuggee, Image, KernelImage, RegName, Regs, Resume, Stop, View, WatchKind};
use kernel_model::CpuId;
use kernel_model::layout::stack_top;
use kernel_model::mem::Perms;
use scenarios::Scenario;

use super::converted;
use super::images::{self, Images};
use super::kernel;
use super::monitor::{self, Session};
use crate::machine::Machine;
use crate::machine::halt::Halting;
use crate::machine::schedule::Chooser;
use crate::machine::watch::Watchpoint;
use crate::runner::history::History;
use crate::runner::{Outcome, Run, RunError, RunOptions};
use crate::unicorn::{NativeReg, spec};

/// Snapshots that are kept of a run.
const KEPT: usize = 128;

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Native instructions and steps so far: one number for each state that can be stood at.
    pub at: u64,
    /// BPF instructions retired so far on all CPUs: alike on all architectures.
    pub insns: u64,
}

/// A scenario's run, debugged.
#[derive(Debug)]
pub struct Target<'a> {
    pub(super) history: History<'a>,
    dir: PathBuf,
    pub(super) images: Images,
    kernel: KernelImage,
    view: View,
    /// Address, and whether it is a hardware one.
    pub(super) breaks: BTreeSet<(u64, bool)>,
    /// Address, bytes and kind.
    pub(super) watches: BTreeSet<(u64, u64, WatchKind)>,
    pub(super) current: CpuId,
    pub(super) notices: Vec<String>,
    forked: bool,
    pub(super) session: Session,
    /// A stop, and its position, that is told after that of its libraries.
    deferred: Option<(u64, Stop)>,
    /// The schedule to go back to after a CPU ran alone.
    pub(super) unlocked: Option<Option<Box<dyn Chooser>>>,
}

pub(super) fn internal(e: RunError) -> DebugError {
    DebugError::Internal(e.to_string())
}

impl<'a> Target<'a> {
    /// A run at time 0: programs are loaded and attached, nothing has happened.
    ///
    /// # Errors
    /// As for [`crate::runner::run`].
    pub fn new(s: &'a Scenario, arch: Arch, opts: &RunOptions) -> Result<Target<'a>, RunError> {
        let history = History::new(s, arch, opts, KEPT)?;
        let kernel = kernel::image(history.machine());
        let mut target = Target {
            history,
            dir: opts.dir.clone(),
            images: Images::default(),
            kernel,
            view: View::default(),
            breaks: BTreeSet::new(),
            watches: BTreeSet::new(),
            current: CpuId(0),
            notices: Vec::new(),
            forked: false,
            session: Session::default(),
            deferred: None,
            unlocked: None,
        };
        target.look();
        target.images.are_news();
        Ok(target)
    }

    /// The machine as it stands.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        self.history.machine()
    }

    /// The run as it stands.
    #[allow(dead_code, reason = "for those who look at more than the machine")]
    pub(crate) fn run(&self) -> &Run<'a> {
        self.history.run()
    }

    /// The machine, to change it; [`Target::forked`] comes after.
    pub(crate) fn machine_mut(&mut self) -> &mut Machine {
        &mut self.history.run_mut().machine
    }

    /// Where it stands.
    #[must_use]
    pub fn position(&self) -> Position {
        Position { at: self.history.position(), insns: self.machine().retired() }
    }

    /// Whether the user ever changed something: another run than the scenario's.
    #[must_use]
    pub fn is_forked(&self) -> bool {
        self.forked
    }

    /// What the run came to, once it was at its end.
    #[must_use]
    pub fn end(&self) -> Option<&Outcome> {
        self.history.end()
    }

    /// Hash of all that the machine is.
    pub fn state_hash(&mut self) -> u64 {
        self.history.state_hash()
    }

    /// Shows programs in another view.
    pub fn set_view(&mut self, view: View) {
        self.view = view;
    }

    /// Goes to a position, as [`Position::at`] counts them.
    ///
    /// # Errors
    /// When the machine itself fails.
    pub fn seek(&mut self, at: u64) -> Result<Position, DebugError> {
        self.history.seek(at).map_err(internal)?;
        self.look();
        Ok(self.position())
    }

    /// Goes to where so many BPF instructions are retired on all CPUs: before the one that is next,
    /// or to the end of the run.
    ///
    /// # Errors
    /// When the machine itself fails.
    pub fn goto(&mut self, insns: u64) -> Result<Position, DebugError> {
        self.history.back_to_insns(insns);
        let to = Halting { insns, scan: true, from: u64::MAX, ..Halting::NEVER };
        self.history.forward(&to).map_err(internal)?;
        self.look();
        Ok(self.position())
    }

    /// The present was changed by the user.
    pub(crate) fn forked(&mut self, what: &str) {
        self.history.fork();
        self.forked = true;
        let at = self.position().insns;
        self.notices.push(format!("{what}: from instruction {at} on this is another run"));
    }

    /// After the machine has moved.
    fn look(&mut self) {
        let run = self.history.run();
        self.images.look(&run.machine, &run.objects);
        if let Some((cpu, _)) = run.machine.held() {
            self.current = cpu;
        }
    }

    fn put_watches(&mut self) -> Result<(), DebugError> {
        let point = |(addr, len, kind): &(u64, u64, WatchKind)| Watchpoint {
            addr: *addr,
            len: *len,
            reads: *kind != WatchKind::Write,
            writes: *kind != WatchKind::Read,
        };
        let points = self.watches.iter().map(point).collect();
        let set = self.machine_mut().set_watchpoints(points);
        set.map_err(|e| DebugError::Internal(e.to_string()))
    }

    fn put_breaks(&mut self) {
        let all = self.breaks.iter().map(|b| b.0).collect();
        self.machine_mut().set_breaks(all);
    }
}

impl Debuggee for Target<'_> {
    fn arch(&self) -> Arch {
        self.machine().arch()
    }

    fn cpus(&self) -> u32 {
        self.machine().config().kernel.cpus
    }

    fn current(&self) -> u32 {
        self.current.0
    }

    fn describe(&self, cpu: u32) -> String {
        let (machine, cpu) = (self.machine(), CpuId(cpu));
        let k = &machine.kernel;
        let mut out = format!("cpu{} {}", cpu.0, k.context(cpu).level.name());
        let task = k.task_comm(k.cpus[cpu.idx()].task);
        if !task.is_empty() {
            out += &format!(" {task}");
        }
        match machine.regs_of(cpu) {
            Some(_) => {
                let running = k.cpus[cpu.idx()].prog_frame().and_then(|p| k.prog(p.prog));
                out += &running.map_or(String::new(), |p| format!(" {}", p.name()));
            }
            None if k.is_idle(cpu) => out += " idle",
            None => out += " in the kernel",
        }
        out
    }

    fn regs(&self, cpu: u32) -> Regs {
        let (machine, cpu) = (self.machine(), CpuId(cpu));
        let spec = spec(machine.arch());
        let gprs = spec.names.len();
        match machine.regs_of(cpu) {
            Some(r) => {
                let bpf_pc = machine.text().place_of(r.pc).map(|p| p.1.0);
                Regs { gprs: r.gprs[..gprs].to_vec(), pc: r.pc, flags: r.flags, bpf_pc }
            }
            None => {
                let mut gprs = vec![0; gprs];
                gprs[spec.sp.0 as usize] = stack_top(cpu.0) - spec.frame_reserve;
                let pc = kernel::stands(machine, cpu);
                Regs { gprs, pc, flags: spec.flags_at_start(), bpf_pc: None }
            }
        }
    }

    fn set_reg(&mut self, cpu: u32, reg: RegName, value: u64) -> Result<(), DebugError> {
        let machine = self.machine_mut();
        let mut regs = machine.regs_of(CpuId(cpu)).ok_or(DebugError::NoRegisters(cpu))?;
        let what = match reg {
            RegName::Gpr(r) => {
                regs.set(NativeReg(r.num), value);
                spec(machine.arch()).names.get(r.num as usize).copied().unwrap_or("?")
            }
            RegName::Pc => {
                regs.pc = value;
                "the program counter"
            }
            RegName::Flags => {
                regs.flags = value;
                "the flags"
            }
        };
        if !machine.set_regs_of(CpuId(cpu), &regs) {
            return Err(DebugError::NoRegisters(cpu));
        }
        self.forked(&format!("{what} of CPU {cpu} was written"));
        Ok(())
    }

    fn read(&self, _: u32, addr: u64, out: &mut [u8]) -> usize {
        let kernel = &self.machine().kernel;
        if let Some(place) = gdb::symbols::place(addr) {
            return converted::read(kernel, place, out);
        }
        let memory = &kernel.mem;
        let mut done = 0;
        while done < out.len() {
            let at = addr.wrapping_add(done as u64);
            let n = (4096 - (at % 4096) as usize).min(out.len() - done);
            if memory.read(at, &mut out[done..done + n]).is_err() {
                break;
            }
            done += n;
        }
        if done == 0 {
            done = self.read_kernel(addr, out);
        }
        done
    }

    fn write(&mut self, cpu: u32, addr: u64, bytes: &[u8]) -> Result<(), DebugError> {
        let memory = &mut self.machine_mut().kernel.mem;
        memory.write(addr, bytes).map_err(|f| DebugError::Memory(f.va))?;
        self.forked(&format!("memory at {addr:#x} was written on CPU {cpu}"));
        Ok(())
    }

    fn memory_map(&self) -> Vec<(Range<u64>, bool)> {
        let mapped = self.machine().kernel.mem.mapped();
        let mut out: Vec<(Range<u64>, bool)> = vec![(gdb::symbols::WINDOW, false)];
        for (range, Perms { w, .. }) in mapped {
            match out.last_mut() {
                Some((last, writable)) if last.end == range.start && *writable == w => {
                    last.end = range.end;
                }
                _ => out.push((range, w)),
            }
        }
        out
    }

    fn kernel(&self) -> KernelImage {
        self.kernel.clone()
    }

    fn images(&self) -> Vec<Arc<Image>> {
        self.images.now().to_vec()
    }

    fn states(&self, id: u32) -> Vec<String> {
        images::states(self.machine(), id)
    }

    fn view(&self) -> View {
        self.view
    }

    fn add_breakpoint(&mut self, addr: u64, hardware: bool) {
        self.breaks.insert((addr, hardware));
        self.put_breaks();
    }

    fn remove_breakpoint(&mut self, addr: u64, hardware: bool) -> bool {
        let was = self.breaks.remove(&(addr, hardware));
        self.put_breaks();
        was
    }

    fn add_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) {
        self.watches.insert((addr, len, kind));
    }

    fn remove_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> bool {
        self.watches.remove(&(addr, len, kind))
    }

    fn resume(&mut self, how: &Resume, poll: &mut dyn FnMut() -> bool) -> Result<Stop, DebugError> {
        if let Some((at, stop)) = self.deferred.take()
            && at == self.history.position()
        {
            return Ok(stop);
        }
        self.put_watches()?;
        let stop = self.go(how, poll)?;
        self.look();
        // Going back over a load, programs are gone: first that is told, then where it stopped.
        if self.images.are_news() && !matches!(stop, Stop::Library { .. }) {
            self.deferred = Some((self.history.position(), stop));
            return Ok(Stop::Library { cpu: self.current.0 });
        }
        Ok(stop)
    }

    fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    fn monitor(&mut self, command: &str, out: &mut dyn FnMut(&str)) -> Option<Stop> {
        monitor::run(self, command, out)
    }

    fn source(&self, name: &str) -> Option<Arc<[u8]>> {
        images::source(self.images.now(), &self.dir, name)
    }
}

impl Target<'_> {
    /// Text of the kernel that is in no page.
    fn read_kernel(&self, addr: u64, out: &mut [u8]) -> usize {
        let inside = self.kernel.text.iter().find_map(|(base, bytes)| {
            let at = usize::try_from(addr.checked_sub(*base)?).ok()?;
            bytes.get(at..).filter(|b| !b.is_empty())
        });
        let Some(bytes) = inside else { return 0 };
        let n = bytes.len().min(out.len());
        out[..n].copy_from_slice(&bytes[..n]);
        n
    }
}
