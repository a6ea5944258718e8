//! A test run on the reference interpreter: a machine's kernel and memory, and no native code.
//!
//! ```text
//!  kernel.next ─► Enter: a context more ─► interpreter ─► helper, kfunc, return ─► kernel
//! ```
//!
//! What runs are the rewritten instructions, in which addresses are known and fields of contexts
//! are the kernel's; so the interpreter stands beside the back ends, not beside the verifier. Time
//! passes by them, a little faster than on a machine.
//!
//! | what native code does | here |
//! |---|---|
//! | `bpf_tail_call` | the program's instructions are replaced, in the frame that called |
//! | `bpf_throw` | callers are given up; the exception callback runs in the program's frame |
//! | an access to an arena | on the fault of its 32-bit address, once more at the kernel's |

use std::sync::Arc;

use bpf::Endian;
use bpf::insn::{Cast, Imm64, Insn, InsnIdx, Reg, Size};
use bpf::interp::{self, Exit, FRAME_SIZE, Vm};
use kernel_model::cpu::{Entry, FaultKind, Step};
use kernel_model::layout::{STACK_SIZE, percpu_area, stack_top};
use kernel_model::mem::GuestMemory;
use kernel_model::{CpuId, Kernel, ProgId};
use verifier::Verified;
use verifier::rewrite::{TAIL_CALL, TIMED_MAY_GOTO};
use verifier::verified::MemClass;

use super::engines::Miss;
use crate::Machine;
use crate::host::{TestRunIn, TestRunOut};

/// `MAX_TAIL_CALL_CNT`.
const TAIL_CALL_MAX: u32 = 33;
/// The CPU that runs.
const CPU: CpuId = CpuId(0);
/// Contexts above each other: a program, and callbacks of helpers it calls.
const CONTEXTS_MAX: u64 = 7;

/// A frame: what `may_goto` counts is below what the program has (`stack_extra`).
const FRAME_BYTES: u64 = FRAME_SIZE + 16;
/// The stack of a context: as many frames as calls may be deep (`MAX_CALL_FRAMES`).
const CONTEXT_BYTES: u64 = 8 * FRAME_BYTES;
const _: () = assert!(CONTEXTS_MAX * CONTEXT_BYTES <= STACK_SIZE);
/// Where functions are, as far as the kernel hands their addresses back: the index of the first
/// instruction is added.
const FUNCTIONS: u64 = 0xffff_ffff_c000_0000;

/// A program or callback that runs.
struct Context {
    vm: Vm,
    /// The programs of its frames: those that were called by `bpf_tail_call`, from a depth on.
    running: Vec<(usize, Arc<Verified>)>,
    callback: bool,
    charged: u64,
    tail_calls: u32,
}

/// Runs a loaded program as [`Machine::test_run`] does.
///
/// # Errors
/// It faults or does not end; it needs what the interpreter has not.
pub fn test_run(
    machine: &mut Machine,
    prog: i32,
    given: &TestRunIn<'_>,
    insns_max: u64,
) -> Result<TestRunOut, Miss> {
    let call = machine.test_run_begin(prog, given)?;
    let mut contexts = Vec::new();
    let (cpu, mut left) = (CPU, insns_max);
    while !machine.kernel.test_run_ended(call.ticket()) {
        let kernel = &mut machine.kernel;
        kernel.catch_up(cpu);
        let mut step = kernel.next(cpu);
        if step == Step::Idle && !kernel.test_run_ended(call.ticket()) {
            return Err(Miss::Fault("it waits for something".to_owned()));
        }
        while goes_on(&mut contexts, kernel, step)? {
            step = run(&mut contexts, kernel, cpu, &mut left)?;
        }
    }
    Ok(machine.test_run_end(call)?)
}

/// Does what the kernel says; whether the innermost context runs then.
fn goes_on(contexts: &mut Vec<Context>, kernel: &mut Kernel, step: Step) -> Result<bool, Miss> {
    match step {
        Step::Enter(entry) => {
            let context = enter(contexts.len() as u64, kernel, &entry)?;
            contexts.push(context);
        }
        Step::Resume { r0 } => {
            if let Some(top) = contexts.last_mut() {
                top.vm.resume(r0);
            }
        }
        Step::Continue => {}
        Step::Pause | Step::Idle => return Ok(false),
        Step::Abort { fault, .. } => {
            return Err(match fault.kind {
                FaultKind::Unsupported(what) => Miss::Unsupported(what),
                _ => Miss::Fault(fault.to_string()),
            });
        }
        Step::Throw { cookie } => return thrown(contexts, kernel, cookie),
    }
    Ok(!contexts.is_empty())
}

/// A program threw: its exception callback goes on, or the program ends with the cookie.
fn thrown(contexts: &mut Vec<Context>, kernel: &mut Kernel, cookie: u64) -> Result<bool, Miss> {
    let top = contexts.last_mut().ok_or_else(|| Miss::Broken("nothing threw".to_owned()))?;
    let verified = top.verified();
    let callback = verified.subprogs().iter().find(|f| f.is_exception);
    if let Some(at) = callback.map(|f| f.start.idx()) {
        top.vm.unwind(at, [cookie, 0, 0, 0, 0]).map_err(|e| Miss::Fault(e.to_string()))?;
        return Ok(true);
    }
    contexts.pop();
    let next = kernel.prog_return(CPU, cookie & 0xffff_ffff);
    goes_on(contexts, kernel, next)
}

fn lacks(what: &str) -> Miss {
    Miss::Absent(format!("the interpreter has no {what}"))
}

fn enter(depth: u64, kernel: &Kernel, entry: &Entry) -> Result<Context, Miss> {
    let gone = || Miss::Broken("a program without id".to_owned());
    let verified = kernel.prog(entry.prog).ok_or_else(gone)?.verified.clone();
    if depth >= CONTEXTS_MAX {
        return Err(lacks("room for another callback"));
    }
    let top = stack_top(0) - depth * CONTEXT_BYTES;
    let mut vm = Vm::new(code(&verified), entry.args, top - CONTEXT_BYTES..top, 0);
    vm.frame_bytes = FRAME_BYTES;
    if entry.callback {
        let at = entry.func_addr.checked_sub(FUNCTIONS).and_then(|at| usize::try_from(at).ok());
        vm.pc = at.ok_or_else(|| Miss::Fault(format!("no function {:#x}", entry.func_addr)))?;
    }
    let running = vec![(0, verified)];
    Ok(Context { vm, running, callback: entry.callback, charged: 0, tail_calls: 0 })
}

fn code(verified: &Verified) -> Arc<[Insn]> {
    verified.insns().map(|(_, insn, _)| *insn).collect()
}

/// Runs the innermost context until it asks something of the kernel.
fn run(
    contexts: &mut Vec<Context>,
    kernel: &mut Kernel,
    cpu: CpuId,
    left: &mut u64,
) -> Result<Step, Miss> {
    let gone = || Miss::Broken("nothing runs".to_owned());
    let top = contexts.last_mut().ok_or_else(gone)?;
    loop {
        let user_vm_start = top.verified().arena().map_or(0, |a| a.user_vm_start);
        // A function that was replaced may return to one of another program.
        let fuel = if top.running.len() > 1 { 1.min(*left) } else { *left };
        top.vm.fuel = fuel;
        let exit = top.vm.run(&mut Guest(&mut kernel.mem, user_vm_start));
        *left -= fuel - top.vm.fuel;
        kernel.charge(cpu, top.vm.retired - top.charged);
        top.charged = top.vm.retired;
        return Ok(match exit {
            Exit::Helper { id: TIMED_MAY_GOTO, .. } => {
                let pair = top.vm.regs[Reg::FP.idx()].wrapping_add(top.vm.regs[Reg::AX.idx()]);
                let count = kernel.check_timed_may_goto(cpu, pair);
                if count == 0 {
                    // The frames are the interpreter's, none that a kernel could walk.
                    kernel.may_goto_expired(cpu, &[]);
                }
                top.vm.regs[Reg::AX.idx()] = count;
                continue;
            }
            Exit::Helper { id: TAIL_CALL, args: [ctx, array, index, ..] } => {
                if let Some(to) = kernel.tail_call_target(array, index)
                    && top.tail_call(kernel, to, ctx)
                {
                    kernel.tail_called(cpu, to);
                }
                continue;
            }
            Exit::Helper { id, args } => kernel.helper_call(cpu, id, args),
            Exit::Kfunc { btf_id, args, .. } => {
                if kernel.vmlinux_btf().name(btf_id.cast_unsigned()) == "bpf_throw" {
                    return Ok(kernel.prog_throw(cpu, args[0]));
                }
                kernel.kfunc_call(cpu, btf_id, args)
            }
            Exit::Return(r0) | Exit::Callback(r0) => {
                let r0 = if top.callback { r0 } else { r0 & 0xffff_ffff };
                contexts.pop();
                kernel.prog_return(cpu, r0)
            }
            Exit::Fault { at, fault: interp::Fault::BadAddress { write: false, .. } }
                if top.is_probed(at) =>
            {
                continue;
            }
            Exit::Fault { fault: interp::Fault::Unsupported(what), .. } => return Err(lacks(what)),
            Exit::Fault { at, fault: interp::Fault::BadAddress { .. } }
                if top.is_in_arena(at, &mut kernel.mem) =>
            {
                continue;
            }
            Exit::Fault { at, fault } => {
                return Err(Miss::Fault(format!("insn {}: {fault}", at.0)));
            }
            Exit::OutOfFuel if *left > 0 => continue,
            Exit::OutOfFuel => {
                return Err(Miss::Absent("it takes too long to interpret".to_owned()));
            }
        });
    }
}

impl Context {
    /// The program of the running function.
    fn verified(&mut self) -> Arc<Verified> {
        let depth = self.vm.depth();
        while self.running.last().is_some_and(|(from, _)| *from > depth) {
            self.running.pop();
        }
        self.running.last().expect("the program itself is never left").1.clone()
    }

    /// Replaces the running function, unless that was done too often.
    fn tail_call(&mut self, kernel: &Kernel, to: ProgId, ctx: u64) -> bool {
        let Some(prog) = kernel.prog(to).filter(|_| self.tail_calls < TAIL_CALL_MAX) else {
            return false;
        };
        self.verified();
        self.tail_calls += 1;
        self.vm.tail_call(code(&prog.verified), ctx);
        self.running.push((self.vm.depth(), prog.verified.clone()));
        true
    }

    /// An access to an arena that has no memory at its 32-bit address, once more at the kernel's;
    /// without memory there a load gives 0, and nothing is stored.
    fn is_in_arena(&mut self, at: InsnIdx, mem: &mut GuestMemory) -> bool {
        let verified = self.verified();
        let (insn, facts) = verified.insn(at);
        let Some(arena) = verified.arena().filter(|_| facts.mem == MemClass::Arena) else {
            return false;
        };
        let (base, dst) = match *insn {
            Insn::Load { dst, src, .. } | Insn::LoadAcquire { dst, src, .. } => (src, Some(dst)),
            Insn::Store { dst, .. } | Insn::StoreRelease { dst, .. } | Insn::Atomic { dst, .. } => {
                (dst, None)
            }
            _ => return false,
        };
        let was = self.vm.regs[base.idx()];
        self.vm.regs[base.idx()] = arena.kern_vm_start + (was & 0xffff_ffff);
        self.vm.retired -= 1;
        let fuel = std::mem::replace(&mut self.vm.fuel, 1);
        let exit = self.vm.run(&mut Guest(mem, 0));
        self.vm.fuel = fuel;
        if dst != Some(base) {
            self.vm.regs[base.idx()] = was;
        }
        if let Exit::Fault { .. } = exit {
            self.vm.pc = at.idx() + 1;
            if let Some(dst) = dst {
                self.vm.regs[dst.idx()] = 0;
            }
        }
        true
    }

    /// A load that may fault: what it reads is 0 then, and the program goes on behind it.
    fn is_probed(&mut self, at: InsnIdx) -> bool {
        let verified = self.verified();
        let (insn, facts) = verified.insn(at);
        let Insn::Load { dst, .. } = *insn else { return false };
        if facts.mem != MemClass::Probe {
            return false;
        }
        self.vm.regs[dst.idx()] = 0;
        self.vm.pc = at.0 as usize + 1;
        true
    }
}

/// Memory of the machine, and where the user has the program's arena.
struct Guest<'a>(&'a mut GuestMemory, u64);

impl Guest<'_> {
    /// Whether an address is that of an arena as a register has it.
    fn is_of_arena(&self, addr: u64) -> bool {
        self.1 != 0 && addr <= u64::from(u32::MAX)
    }
}

impl interp::Host for Guest<'_> {
    fn endian(&self) -> Endian {
        self.0.endian()
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, interp::Fault> {
        let (size, write) = (size.bytes(), false);
        let bad = interp::Fault::BadAddress { addr, size, write };
        if self.is_of_arena(addr) {
            Err(bad)
        } else {
            self.0.read_uint(addr, size).map_err(|_| bad)
        }
    }

    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), interp::Fault> {
        let (size, write) = (size.bytes(), true);
        let bad = interp::Fault::BadAddress { addr, size, write };
        if self.is_of_arena(addr) {
            return Err(bad);
        }
        self.0.write_uint(addr, size, value).map_err(|_| bad)
    }

    fn cast(&mut self, value: u64, cast: Cast) -> Result<u64, interp::Fault> {
        let low = value & 0xffff_ffff;
        match cast {
            Cast::ToUser if low != 0 => Ok(self.1 & !0xffff_ffff | low),
            Cast::ToUser | Cast::ToKernel => Ok(low),
        }
    }

    /// Cases run on CPU 0.
    fn percpu(&mut self, value: u64) -> Result<u64, interp::Fault> {
        Ok(percpu_area(0) + value)
    }

    fn imm64(&mut self, at: InsnIdx, imm: &Imm64) -> Result<u64, interp::Fault> {
        match *imm {
            Imm64::Func(off) => {
                Ok(FUNCTIONS.wrapping_add_signed(i64::from(at.0) + 1 + i64::from(off)))
            }
            _ => Err(interp::Fault::Unsupported("an unresolved ld_imm64")),
        }
    }
}
