//! A tiny machine to try sessions on: two CPUs that take turns through a loop of four instructions,
//! a counter in memory, a program that is loaded on the way, and time that can go back.

use std::ops::Range;
use std::sync::Arc;

use bpf::Arch;
use jit::{DebugMap, NativeReg};

use crate::*;

/// Address of the loop: add one, store, nothing, jump back; four bytes each.
pub(super) const TEXT: u64 = 0x10_0000;
/// Address of the counter.
pub(super) const COUNTER: u64 = 0x20_0000;
const MEMORY_BYTES: usize = 0x1000;
/// When the second program is loaded.
const LOADED_AT: u64 = 20;
/// When it is over.
const END: u64 = 2000;

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    now: u64,
    pc: [u64; 2],
    r0: [u64; 2],
    memory: Vec<u8>,
}

impl State {
    fn turn(&self) -> u32 {
        (self.now % 2) as u32
    }

    /// One instruction; the address it wrote.
    fn tick(&mut self) -> Option<u64> {
        let cpu = self.turn() as usize;
        let at = (self.pc[cpu] - TEXT) / 4;
        let mut wrote = None;
        match at {
            0 => self.r0[cpu] += 1,
            1 => {
                self.memory[0] = self.memory[0].wrapping_add(1);
                wrote = Some(COUNTER);
            }
            _ => {}
        }
        self.pc[cpu] = TEXT + (at + 1) % 4 * 4;
        self.now += 1;
        wrote
    }
}

/// The machine.
#[derive(Debug)]
pub(super) struct Mock {
    arch: Arch,
    first: State,
    state: State,
    breaks: Vec<(u64, bool)>,
    watches: Vec<(u64, u64, WatchKind)>,
    notices: Vec<String>,
    current: u32,
    view: View,
    /// What it was asked to do.
    pub(super) resumes: Vec<Resume>,
    /// How often breakpoints were put in or taken out.
    pub(super) changes: u32,
}

impl Mock {
    pub(super) fn new(arch: Arch) -> Mock {
        let first = State { now: 0, pc: [TEXT; 2], r0: [0; 2], memory: vec![0; MEMORY_BYTES] };
        Mock {
            arch,
            state: first.clone(),
            first,
            breaks: Vec::new(),
            watches: Vec::new(),
            notices: Vec::new(),
            current: 0,
            view: View::Source,
            resumes: Vec::new(),
            changes: 0,
        }
    }

    fn goto(&mut self, time: u64) {
        self.state = self.first.clone();
        while self.state.now < time {
            self.state.tick();
        }
    }

    /// The machine has just gone one instruction of `cpu`: is it to stop?
    fn stopped(&self, how: &Resume, cpu: u32, wrote: Option<u64>) -> Option<Stop> {
        if how.direction == Direction::Forward && self.state.now == LOADED_AT {
            return Some(Stop::Library { cpu });
        }
        let written = |a: u64| self.watches.iter().find(|(at, n, _)| (*at..at + n).contains(&a));
        if let Some((addr, _, kind)) = wrote.and_then(written) {
            return Some(Stop::Watch { cpu, addr: *addr, kind: *kind });
        }
        let pc = self.state.pc[cpu as usize];
        if let Some((_, hardware)) = self.breaks.iter().find(|(a, _)| *a == pc) {
            return Some(Stop::Breakpoint { cpu, hardware: *hardware });
        }
        let (who, range) = how.step.as_ref()?;
        let done = *who == cpu && range.as_ref().is_none_or(|r| !r.contains(&pc));
        done.then_some(Stop::Step)
    }
}

impl Debuggee for Mock {
    fn arch(&self) -> Arch {
        self.arch
    }

    fn cpus(&self) -> u32 {
        2
    }

    fn current(&self) -> u32 {
        self.current
    }

    fn describe(&self, cpu: u32) -> String {
        format!("cpu{cpu} task  loop/{cpu}")
    }

    fn regs(&self, cpu: u32) -> Regs {
        let cpu = cpu as usize;
        let mut gprs = vec![0; 32];
        gprs[usize::from(jit::facts(self.arch).regs[0].num)] = self.state.r0[cpu];
        let pc = self.state.pc[cpu];
        Regs { gprs, pc, flags: 2, bpf_pc: (cpu == 0).then_some(((pc - TEXT) / 4) as u32) }
    }

    fn set_reg(&mut self, cpu: u32, reg: RegName, value: u64) -> Result<(), DebugError> {
        let r0: NativeReg = jit::facts(self.arch).regs[0];
        match reg {
            RegName::Gpr(r) if r.num == r0.num => self.state.r0[cpu as usize] = value,
            RegName::Gpr(_) | RegName::Flags => {}
            RegName::Pc if (TEXT..TEXT + 16).contains(&value) && value.is_multiple_of(4) => {
                self.state.pc[cpu as usize] = value;
            }
            RegName::Pc => return Err(DebugError::NoRegisters(cpu)),
        }
        self.first = self.state.clone();
        self.notices.push("the timeline is forked".to_owned());
        Ok(())
    }

    fn read(&self, _cpu: u32, addr: u64, out: &mut [u8]) -> usize {
        let at = addr.wrapping_sub(COUNTER) as usize;
        let there = self.state.memory.get(at..).unwrap_or_default();
        let n = there.len().min(out.len());
        out[..n].copy_from_slice(&there[..n]);
        n
    }

    fn write(&mut self, _cpu: u32, addr: u64, bytes: &[u8]) -> Result<(), DebugError> {
        let at = addr.wrapping_sub(COUNTER) as usize;
        let end = at.checked_add(bytes.len()).filter(|e| *e <= MEMORY_BYTES);
        let end = end.ok_or(DebugError::Memory(addr))?;
        self.state.memory[at..end].copy_from_slice(bytes);
        self.first = self.state.clone();
        self.notices.push("the timeline is forked".to_owned());
        Ok(())
    }

    fn memory_map(&self) -> Vec<(Range<u64>, bool)> {
        vec![(COUNTER..COUNTER + MEMORY_BYTES as u64, true)]
    }

    fn kernel(&self) -> KernelImage {
        KernelImage { arch: self.arch, text: Vec::new(), symbols: Vec::new(), entry: TEXT }
    }

    fn images(&self) -> Vec<Arc<Image>> {
        let image = |id: u32, name: &str| {
            Arc::new(Image {
                id,
                name: name.to_owned(),
                tag: String::new(),
                arch: self.arch,
                base: TEXT + u64::from(id) * 0x1000,
                code: Vec::new(),
                returns_to: 0,
                converted: BTreeMap::new(),
                debug: DebugMap::default(),
                stack: Vec::new(),
                origin: None,
                listing: Vec::new(),
            })
        };
        let second = (self.state.now >= LOADED_AT).then(|| image(2, "sec<ond"));
        [image(1, "first")].into_iter().chain(second).collect()
    }

    fn states(&self, _id: u32) -> Vec<String> {
        Vec::new()
    }

    fn view(&self) -> View {
        self.view
    }

    fn add_breakpoint(&mut self, addr: u64, hardware: bool) {
        self.changes += 1;
        self.breaks.push((addr, hardware));
    }

    fn remove_breakpoint(&mut self, addr: u64, hardware: bool) -> bool {
        self.changes += 1;
        let before = self.breaks.len();
        self.breaks.retain(|b| *b != (addr, hardware));
        self.breaks.len() < before
    }

    fn add_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) {
        self.watches.push((addr, len, kind));
    }

    fn remove_watchpoint(&mut self, addr: u64, len: u64, kind: WatchKind) -> bool {
        let before = self.watches.len();
        self.watches.retain(|w| *w != (addr, len, kind));
        self.watches.len() < before
    }

    fn resume(&mut self, how: &Resume, poll: &mut dyn FnMut() -> bool) -> Result<Stop, DebugError> {
        self.resumes.push(how.clone());
        let step = u64::from(how.direction == Direction::Backward);
        loop {
            self.current = self.state.turn();
            if poll() {
                return Ok(Stop::Interrupted);
            }
            let (cpu, wrote) = if step == 0 {
                if self.state.now >= END {
                    return Ok(Stop::End);
                }
                (self.state.turn(), self.state.tick())
            } else {
                if self.state.now <= self.first.now {
                    return Ok(Stop::Begin);
                }
                self.goto(self.state.now - 1);
                let mut again = self.state.clone();
                (self.state.turn(), again.tick())
            };
            self.current = cpu;
            if let Some(stop) = self.stopped(how, cpu, wrote) {
                return Ok(stop);
            }
        }
    }

    fn take_notices(&mut self) -> Vec<String> {
        std::mem::take(&mut self.notices)
    }

    fn monitor(&mut self, command: &str, out: &mut dyn FnMut(&str)) -> Option<Stop> {
        match command.split_once(' ') {
            Some(("goto", time)) => {
                self.goto(time.parse::<u64>().unwrap_or(0).clamp(self.first.now, END));
                out("there\n");
                Some(Stop::Step)
            }
            Some(("view", "bpf")) => {
                self.view = View::Bpf;
                Some(Stop::Library { cpu: self.current })
            }
            _ => {
                out("no such command\n");
                None
            }
        }
    }

    fn source(&self, name: &str) -> Option<Arc<[u8]>> {
        (name == "/src/loop.bpf.c").then(|| b"int loop;\n".as_slice().into())
    }
}
