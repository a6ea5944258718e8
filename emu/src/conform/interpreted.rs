//! A test run on the reference interpreter: a machine's kernel and memory, and no native code.
//!
//! ```text
//!  kernel.next ─► Enter: a context more ─► interpreter ─► helper, kfunc, return ─► kernel
//! ```
//!
//! What runs are the rewritten instructions, in which addresses are known and fields of contexts
//! are the kernel's; so the interpreter stands beside the back ends, not beside the verifier. Time
//! passes by them, a little faster than on a machine.

use std::sync::Arc;

use bpf::Endian;
use bpf::insn::{Imm64, Insn, InsnIdx, Reg, Size};
use bpf::interp::{self, Exit, Vm};
use kernel_model::cpu::{Entry, Step};
use kernel_model::layout::{STACK_SIZE, stack_top};
use kernel_model::mem::GuestMemory;
use kernel_model::{CpuId, Kernel};
use verifier::Verified;
use verifier::rewrite::{TAIL_CALL, TIMED_MAY_GOTO};
use verifier::verified::MemClass;

use super::engines::Miss;
use crate::Machine;
use crate::host::{TestRunIn, TestRunOut};

/// Contexts above each other: a program, and callbacks of helpers it calls.
const CONTEXTS_MAX: u64 = 8;
/// Where functions are, as far as the kernel hands their addresses back: the index of the first
/// instruction is added.
const FUNCTIONS: u64 = 0xffff_ffff_c000_0000;

/// A program or callback that runs.
struct Context {
    vm: Vm,
    verified: Arc<Verified>,
    callback: bool,
    charged: u64,
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
    let (cpu, mut left) = (CpuId(0), insns_max);
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
fn goes_on(contexts: &mut Vec<Context>, kernel: &Kernel, step: Step) -> Result<bool, Miss> {
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
        Step::Abort { fault, .. } => return Err(Miss::Fault(fault.to_string())),
        Step::Throw { .. } => return Err(lacks("exceptions")),
    }
    Ok(!contexts.is_empty())
}

fn lacks(what: &str) -> Miss {
    Miss::Absent(format!("the interpreter has no {what}"))
}

fn enter(depth: u64, kernel: &Kernel, entry: &Entry) -> Result<Context, Miss> {
    let gone = || Miss::Broken("a program without id".to_owned());
    let verified = kernel.prog(entry.prog).ok_or_else(gone)?.verified.clone();
    let code = (0..verified.len()).map(|i| *verified.insn(InsnIdx(i as u32)).0).collect();
    let size = STACK_SIZE / CONTEXTS_MAX;
    if depth >= CONTEXTS_MAX {
        return Err(lacks("room for another callback"));
    }
    let top = stack_top(0) - depth * size;
    let mut vm = Vm::new(code, entry.args, top - size..top, 0);
    if entry.callback {
        let at = entry.func_addr.checked_sub(FUNCTIONS).and_then(|at| usize::try_from(at).ok());
        vm.pc = at.ok_or_else(|| Miss::Fault(format!("no function {:#x}", entry.func_addr)))?;
    }
    Ok(Context { vm, verified, callback: entry.callback, charged: 0 })
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
        top.vm.fuel = *left;
        let exit = top.vm.run(&mut Guest(&mut kernel.mem));
        *left = top.vm.fuel;
        kernel.charge(cpu, top.vm.retired - top.charged);
        top.charged = top.vm.retired;
        return Ok(match exit {
            Exit::Helper { id: TIMED_MAY_GOTO, .. } => {
                let pair = top.vm.regs[Reg::FP.idx()].wrapping_add(top.vm.regs[Reg::AX.idx()]);
                top.vm.regs[Reg::AX.idx()] = kernel.check_timed_may_goto(cpu, pair);
                continue;
            }
            Exit::Helper { id: TAIL_CALL, .. } => return Err(lacks("tail calls")),
            Exit::Helper { id, args } => kernel.helper_call(cpu, id, args),
            Exit::Kfunc { btf_id, args, .. } => {
                if kernel.vmlinux_btf().name(btf_id.cast_unsigned()) == "bpf_throw" {
                    return Err(lacks("exceptions"));
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
            Exit::Fault { at, .. } if top.verified.insn(at).1.mem == MemClass::Arena => {
                return Err(lacks("arenas"));
            }
            Exit::Fault { at, fault } => {
                return Err(Miss::Fault(format!("insn {}: {fault}", at.0)));
            }
            Exit::OutOfFuel => {
                return Err(Miss::Absent("it takes too long to interpret".to_owned()));
            }
        });
    }
}

impl Context {
    /// A load that may fault: what it reads is 0 then, and the program goes on behind it.
    fn is_probed(&mut self, at: InsnIdx) -> bool {
        let (insn, facts) = self.verified.insn(at);
        let Insn::Load { dst, .. } = insn else { return false };
        if facts.mem != MemClass::Probe {
            return false;
        }
        self.vm.regs[dst.idx()] = 0;
        self.vm.pc = at.0 as usize + 1;
        true
    }
}

/// Memory of the machine.
struct Guest<'a>(&'a mut GuestMemory);

impl interp::Host for Guest<'_> {
    fn endian(&self) -> Endian {
        self.0.endian()
    }

    fn load(&mut self, addr: u64, size: Size) -> Result<u64, interp::Fault> {
        let (size, write) = (size.bytes(), false);
        let bad = |_| interp::Fault::BadAddress { addr, size, write };
        self.0.read_uint(addr, size).map_err(bad)
    }

    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), interp::Fault> {
        let (size, write) = (size.bytes(), true);
        let bad = |_| interp::Fault::BadAddress { addr, size, write };
        self.0.write_uint(addr, size, value).map_err(bad)
    }

    /// CPU 0 has the first copy.
    fn percpu(&mut self, value: u64) -> Result<u64, interp::Fault> {
        Ok(value)
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
