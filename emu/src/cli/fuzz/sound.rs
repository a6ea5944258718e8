//! An accepted program in the interpreter, several times: every register and stack slot is what
//! some state recorded at that instruction allows, every access is within what was given, nothing
//! is held at the end and, without `CAP_PERFMON`, no address gets out.

use std::sync::Arc;

use bpf::btf::Btf;
use bpf::insn::generate::Rng;
use bpf::insn::{Call, Imm64, Insn, InsnIdx, Size};
use bpf::interp::{Exit, Fault, Host, Vm};
use bpf::{Endian, Program};
use verifier::env::MapInfo;
use verifier::explore::Trace;

use super::calls::{Kernel, Reply};
use super::explained::{Check, Doubt, Now};
use super::memory::{Bad, Kind, Memory, STACK};

/// Instructions of one run: a run that is longer is cut.
const FUEL: u64 = 20_000;
/// Runs of one program.
const RUNS: u64 = 4;
/// Iterations `may_goto` allows.
const MAY_GOTO: u32 = 5;

/// What the runs of a program came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Instructions that were checked.
    pub checked: u64,
    /// Runs to the end.
    pub whole: u64,
    /// Runs that met something there is no model of, or were long.
    pub cut: u64,
}

/// What is known about a program besides its instructions.
#[derive(Clone, Copy)]
pub(super) struct About<'a> {
    /// The maps that `Imm64::MapIdx` counts.
    pub(super) maps: &'a [MapInfo],
    pub(super) btf: &'a Btf,
    pub(super) cpus: u32,
    /// The program may not know addresses.
    pub(super) secret: bool,
}

impl Ran {
    pub(super) fn add(&mut self, o: Ran) {
        self.checked += o.checked;
        self.whole += o.whole;
        self.cut += o.cut;
    }
}

struct Runner<'a> {
    kernel: Kernel<'a>,
    /// An address that was stored where others can read it.
    leak: Option<u64>,
}

impl Runner<'_> {
    fn fault(b: Bad) -> Fault {
        Fault::BadAddress { addr: b.addr, size: b.size as u32, write: b.write }
    }
}

impl Host for Runner<'_> {
    fn endian(&self) -> Endian {
        Endian::Little
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, Fault> {
        let memory = &mut self.kernel.memory;
        match memory.place(addr) {
            Some((r, off)) if r.kind == Kind::Ctx && (0..r.end()).contains(&off) => {
                Ok(memory.field(off, size))
            }
            // What the kernel keeps in its map is not modelled.
            Some((r, _)) if matches!(r.kind, Kind::Map(_)) => Err(Fault::Unsupported("map")),
            _ => memory.number(addr, u64::from(size.bytes())).map_err(Self::fault),
        }
    }

    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), Fault> {
        let n = u64::from(size.bytes());
        let outside = self.kernel.memory.place(addr).is_some_and(|(r, _)| r.kind != Kind::Stack);
        if outside && !self.kernel.keeps_secret(value) {
            self.leak = Some(value);
        }
        let bytes = self.kernel.memory.bytes(addr, n, true).map_err(Self::fault)?;
        bytes.copy_from_slice(&value.to_le_bytes()[..n as usize]);
        Ok(())
    }

    fn packet(&mut self, _skb: u64, off: i32, size: Size) -> Result<Option<u64>, Fault> {
        let [_, data, _] = self.kernel.memory.packet();
        let Ok(off) = u64::try_from(off) else { return Ok(None) };
        let n = u64::from(size.bytes());
        let value = self.kernel.memory.number(data + off, n).ok();
        Ok(value.map(|v| v.swap_bytes() >> (64 - 8 * n)))
    }

    fn imm64(&mut self, at: InsnIdx, imm: &Imm64) -> Result<u64, Fault> {
        let unresolved = Fault::Unsupported("an unresolved ld_imm64");
        match *imm {
            Imm64::Func(off) => Ok((i64::from(at.0) + 1 + i64::from(off)).cast_unsigned()),
            Imm64::MapIdx(i) => self.kernel.handle(i as usize).ok_or(unresolved),
            Imm64::MapIdxValue { idx, off } => {
                let value = self.kernel.value(idx as usize).ok_or(unresolved)?;
                Ok(value + u64::from(off))
            }
            _ => Err(unresolved),
        }
    }
}

/// Why a run ended.
enum End {
    Whole,
    Cut,
}

struct Run<'a> {
    vm: Vm,
    host: Runner<'a>,
    program: &'a Program,
    trace: &'a Trace,
    checked: u64,
}

impl Run<'_> {
    /// The frames, and which of them is the outermost of the recorded states.
    fn now(&self) -> Now {
        let mut now = Now { regs: Vec::new(), sites: Vec::new() };
        let mut root = 0;
        for (i, c) in self.vm.callers().enumerate() {
            let mut regs = [0; 11];
            regs[6..].copy_from_slice(&c.saved);
            now.regs.push(regs);
            let site = c.next - 1;
            now.sites.push(site as u32);
            if let Insn::Call(Call::Local(off)) = self.program.insns[site] {
                let entry = (c.next as i64 + i64::from(off)) as u32;
                root = if self.trace.roots.contains(&entry) { i + 1 } else { root };
            }
        }
        let mut regs = [0; 11];
        regs.copy_from_slice(&self.vm.regs[..11]);
        now.regs.push(regs);
        now.since(root)
    }

    fn go(&mut self) -> Result<End, String> {
        loop {
            let at = self.vm.pc;
            let now = self.now();
            match Check::new(&mut self.host.kernel.memory, self.trace).explain(at, &now) {
                Ok(()) => self.checked += 1,
                Err(Doubt::Unmodelled) => return Ok(End::Cut),
                Err(Doubt::Wrong(why)) => return Err(format!("insn {at}: {why}")),
            }
            if self.vm.retired > FUEL {
                return Ok(End::Cut);
            }
            self.vm.fuel = 1;
            if let Some(end) = self.step(at)? {
                return Ok(end);
            }
            if let Some(value) = self.host.leak {
                return Err(format!("insn {at}: stores the address {value:#x}"));
            }
        }
    }

    fn step(&mut self, at: usize) -> Result<Option<End>, String> {
        let reply = match self.vm.run(&mut self.host) {
            Exit::OutOfFuel => return Ok(None),
            Exit::Return(r0) => {
                return match () {
                    () if !self.host.kernel.is_clean() => {
                        Err(format!("insn {at}: returns and holds something"))
                    }
                    () if !self.host.kernel.keeps_secret(r0) => {
                        Err(format!("insn {at}: returns the address {r0:#x}"))
                    }
                    () => Ok(Some(End::Whole)),
                };
            }
            Exit::Fault { fault: Fault::Unsupported(_), .. } => return Ok(Some(End::Cut)),
            Exit::Fault { at, fault } => return Err(format!("insn {}: {fault}", at.0)),
            Exit::Helper { id, args } => self.host.kernel.helper(id, args),
            Exit::Kfunc { btf_id, args, .. } => self.host.kernel.kfunc(btf_id, args),
            Exit::Callback(r0) if r0 > 1 => return Err(format!("insn {at}: a callback's {r0:#x}")),
            Exit::Callback(r0) => Ok(self.host.kernel.returned(r0)),
        };
        match reply.map_err(|b| format!("insn {at}: {}", Runner::fault(b)))? {
            Reply::Value(r0) => {
                self.vm.resume(r0);
                // Nothing may depend on what a call leaves in r1 to r5.
                self.vm.regs[1..6].fill(0xdead_beef_dead_beef);
                Ok(None)
            }
            Reply::Callback { pc, args } => {
                let entered = self.vm.call(pc as usize, args);
                entered.map(|()| None).map_err(|f| format!("insn {at}: {f}"))
            }
            Reply::Stop => Ok(Some(End::Cut)),
        }
    }
}

/// Runs a program with several contexts; what goes wrong is an error.
pub(super) fn runs(
    program: &Program,
    trace: &Trace,
    about: About<'_>,
    seed: u64,
) -> Result<Ran, String> {
    let mut ran = Ran::default();
    for n in 0..RUNS {
        let rng = Rng(seed.wrapping_mul(31).wrapping_add(n));
        let memory = Memory::new(rng, program.prog_type, about.secret);
        let (top, ctx) = (memory.stack_top(), memory.ctx());
        let code: Arc<[Insn]> = program.insns.clone().into();
        let stack = top.wrapping_add_signed(-STACK)..top;
        let mut vm = Vm::new(code, [ctx, 0, 0, 0, 0], stack, 1);
        vm.may_goto = MAY_GOTO;
        let kernel = Kernel::new(memory, program, about);
        let host = Runner { kernel, leak: None };
        let mut run = Run { vm, host, program, trace, checked: 0 };
        let end = run.go();
        ran.checked += run.checked;
        match end? {
            End::Whole => ran.whole += 1,
            End::Cut => ran.cut += 1,
        }
    }
    Ok(ran)
}
