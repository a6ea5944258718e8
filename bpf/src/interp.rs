//! Reference interpreter: exact, checked and slow; what the JITs are compared with.
//!
//! The state is a value ([`Vm`]): at a helper call [`Vm::run`] returns [`Exit::Helper`] and goes
//! on after [`Vm::resume`], so that whoever drives it needs no recursion. Memory is the host's.

use std::sync::Arc;

use crate::Endian;
use crate::insn::{AluOp, AtomicOp, Call, Cast, EndianOp, Imm64, Insn, InsnIdx};
use crate::insn::{JmpOp, Reg, Size, Src, Width};

/// Bytes of stack per frame (`MAX_BPF_STACK`).
pub const FRAME_SIZE: u64 = 512;
/// Iterations that the `may_goto`s of one frame share (`BPF_MAX_LOOPS`).
pub const MAY_GOTO_BUDGET: u32 = 1 << 23;

/// Why a program cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// The host has no memory there, or not with that right.
    #[error("bad address {addr:#x} ({size} bytes, {})", if *.write { "write" } else { "read" })]
    BadAddress {
        /// First byte.
        addr: u64,
        /// Bytes.
        size: u32,
        /// A store.
        write: bool,
    },
    /// Control left the program or entered the middle of a 16-byte load.
    #[error("jump to {0}, which is no instruction")]
    BadJump(i64),
    /// No room for another frame.
    #[error("stack overflow")]
    StackOverflow,
    /// An instruction that the host or this interpreter does not model.
    #[error("{0} is not supported here")]
    Unsupported(&'static str),
}

/// What the program runs against.
pub trait Host {
    /// Byte order of memory.
    fn endian(&self) -> Endian;

    /// Reads, zero-extended.
    ///
    /// # Errors
    /// When the access is not allowed.
    fn load(&mut self, addr: u64, size: Size) -> Result<u64, Fault>;

    /// Writes the low bytes of a value.
    ///
    /// # Errors
    /// When the access is not allowed.
    fn store(&mut self, addr: u64, size: Size, value: u64) -> Result<(), Fault>;

    /// A legacy packet load at a signed offset; `None` ends the function with 0.
    ///
    /// # Errors
    /// When there are no packets here.
    fn packet(&mut self, _skb: u64, _off: i32, _size: Size) -> Result<Option<u64>, Fault> {
        Err(Fault::Unsupported("BPF_LD_[ABS|IND]"))
    }

    /// An arena cast.
    ///
    /// # Errors
    /// When there is no arena.
    fn cast(&mut self, _value: u64, _cast: Cast) -> Result<u64, Fault> {
        Err(Fault::Unsupported("addr_space_cast"))
    }

    /// Address of this CPU's copy of a per-CPU offset.
    ///
    /// # Errors
    /// When there is no per-CPU memory.
    fn percpu(&mut self, _value: u64) -> Result<u64, Fault> {
        Err(Fault::Unsupported("per-CPU addresses"))
    }

    /// Value of a 16-byte load; constants do not come here. By default the address of a function
    /// is the index of its first instruction.
    ///
    /// # Errors
    /// When the reference cannot be resolved.
    fn imm64(&mut self, at: InsnIdx, imm: &Imm64) -> Result<u64, Fault> {
        match *imm {
            Imm64::Func(off) => Ok((i64::from(at.0) + 1 + i64::from(off)).cast_unsigned()),
            _ => Err(Fault::Unsupported("an unresolved ld_imm64")),
        }
    }
}

/// Why [`Vm::run`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A helper is called; go on with [`Vm::resume`], [`Vm::call`] or [`Vm::tail_call`].
    Helper {
        /// Id.
        id: i32,
        /// r1 to r5.
        args: [u64; 5],
    },
    /// A kernel function is called; go on as after a helper.
    Kfunc {
        /// BTF id.
        btf_id: i32,
        /// Index of the BTF object.
        off: i16,
        /// r1 to r5.
        args: [u64; 5],
    },
    /// A function entered by [`Vm::call`] returned; the helper is still to be answered.
    Callback(u64),
    /// The program returned.
    Return(u64),
    /// The program cannot go on.
    Fault {
        /// Where.
        at: InsnIdx,
        /// Why.
        fault: Fault,
    },
    /// The fuel is used up; more can be added.
    OutOfFuel,
}

/// A caller's state.
#[derive(Clone, Debug)]
struct Frame {
    code: Arc<[Insn]>,
    pc: usize,
    saved: [u64; 5],
    budget: u32,
    callback: bool,
}

/// A program in the middle of its run.
#[derive(Clone, Debug)]
pub struct Vm {
    /// r0 to r10 and AX.
    pub regs: [u64; 12],
    /// Next slot.
    pub pc: usize,
    /// Instructions that may still be run.
    pub fuel: u64,
    /// Instructions run.
    pub retired: u64,
    /// Iterations that the `may_goto`s of one frame share, from the next frame on.
    pub may_goto: u32,
    /// Bytes of stack per frame.
    pub frame_bytes: u64,
    code: Arc<[Insn]>,
    frames: Vec<Frame>,
    budget: u32,
    stack_low: u64,
}

/// A caller of the running function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The slot after the call.
    pub next: usize,
    /// Its r6 to r10.
    pub saved: [u64; 5],
}

impl Vm {
    /// A program at its entry. `stack` is the range of addresses its frames may use, downwards.
    #[must_use]
    pub fn new(code: Arc<[Insn]>, args: [u64; 5], stack: std::ops::Range<u64>, fuel: u64) -> Vm {
        let mut regs = [0; 12];
        regs[1..6].copy_from_slice(&args);
        regs[Reg::FP.idx()] = stack.end;
        let (frames, budget, stack_low) = (Vec::new(), MAY_GOTO_BUDGET, stack.start);
        let (may_goto, frame_bytes) = (MAY_GOTO_BUDGET, FRAME_SIZE);
        Vm { regs, pc: 0, fuel, retired: 0, may_goto, frame_bytes, code, frames, budget, stack_low }
    }

    /// Number of callers below the running function.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.frames.len()
    }

    /// The callers of the running function, outermost first.
    pub fn callers(&self) -> impl Iterator<Item = Caller> {
        self.frames.iter().map(|f| Caller { next: f.pc, saved: f.saved })
    }

    /// Answers a helper call.
    pub fn resume(&mut self, r0: u64) {
        self.regs[0] = r0;
    }

    /// Gives up all callers and enters a function in the frame of the outermost, as `bpf_throw`
    /// does; its return is the program's.
    ///
    /// # Errors
    /// There is no such function.
    pub fn unwind(&mut self, pc: usize, args: [u64; 5]) -> Result<(), Fault> {
        while let Some(frame) = self.frames.pop() {
            self.regs[6..11].copy_from_slice(&frame.saved);
            self.code = frame.code;
        }
        self.regs[1..6].copy_from_slice(&args);
        self.budget = self.may_goto;
        self.jump_to(pc as i64)
    }

    /// Replaces the running function by a program, as `bpf_tail_call` does when it succeeds.
    pub fn tail_call(&mut self, code: Arc<[Insn]>, ctx: u64) {
        self.code = code;
        self.pc = 0;
        self.regs[1] = ctx;
        self.budget = self.may_goto;
    }

    /// Enters a function of the program on behalf of the helper that is being called; its return
    /// is an [`Exit::Callback`].
    ///
    /// # Errors
    /// When there is no room for its frame.
    pub fn call(&mut self, pc: usize, args: [u64; 5]) -> Result<(), Fault> {
        self.enter(pc as i64, true)?;
        self.regs[1..6].copy_from_slice(&args);
        Ok(())
    }

    /// Runs until something is to be done or said.
    pub fn run(&mut self, host: &mut dyn Host) -> Exit {
        loop {
            if self.fuel == 0 {
                return Exit::OutOfFuel;
            }
            let at = InsnIdx(u32::try_from(self.pc).unwrap_or(u32::MAX));
            match self.step(host) {
                Ok(None) => {}
                Ok(Some(exit)) => return exit,
                Err(fault) => {
                    self.pc = at.idx();
                    return Exit::Fault { at, fault };
                }
            }
        }
    }

    fn enter(&mut self, pc: i64, callback: bool) -> Result<(), Fault> {
        let fp = self.regs[Reg::FP.idx()];
        // The new frame is below the running one's.
        if fp.checked_sub(2 * self.frame_bytes).is_none_or(|low| low < self.stack_low) {
            return Err(Fault::StackOverflow);
        }
        let mut saved = [0; 5];
        saved.copy_from_slice(&self.regs[6..11]);
        let (code, budget) = (self.code.clone(), self.budget);
        let frame = Frame { code, pc: self.pc, saved, budget, callback };
        self.jump_to(pc)?;
        self.frames.push(frame);
        self.budget = self.may_goto;
        self.regs[Reg::FP.idx()] = fp - self.frame_bytes;
        Ok(())
    }

    fn leave(&mut self) -> Option<Exit> {
        let r0 = self.regs[0];
        let Some(frame) = self.frames.pop() else { return Some(Exit::Return(r0)) };
        self.regs[6..11].copy_from_slice(&frame.saved);
        (self.code, self.pc, self.budget) = (frame.code, frame.pc, frame.budget);
        frame.callback.then_some(Exit::Callback(r0))
    }

    fn jump_to(&mut self, to: i64) -> Result<(), Fault> {
        let pc = usize::try_from(to).map_err(|_| Fault::BadJump(to))?;
        match self.code.get(pc) {
            None | Some(Insn::LdImm64Hi) => Err(Fault::BadJump(to)),
            Some(_) => {
                self.pc = pc;
                Ok(())
            }
        }
    }

    /// Jump relative to the next slot, at which `pc` stands already.
    fn jump(&mut self, off: i32) -> Result<(), Fault> {
        self.jump_to(self.pc as i64 + i64::from(off))
    }

    fn set(&mut self, dst: Reg, value: u64) {
        self.regs[dst.idx()] = value;
    }

    fn get(&self, r: Reg) -> u64 {
        self.regs[r.idx()]
    }

    fn operand(&self, src: Src) -> u64 {
        match src {
            Src::Reg(r) => self.get(r),
            Src::Imm(imm) => i64::from(imm).cast_unsigned(),
        }
    }

    fn addr(&self, base: Reg, off: i16) -> u64 {
        self.get(base).wrapping_add_signed(i64::from(off))
    }

    fn args(&self) -> [u64; 5] {
        [self.regs[1], self.regs[2], self.regs[3], self.regs[4], self.regs[5]]
    }

    // tidy: flat match
    fn step(&mut self, host: &mut dyn Host) -> Result<Option<Exit>, Fault> {
        let insn = *self.code.get(self.pc).ok_or(Fault::BadJump(self.pc as i64))?;
        let at = InsnIdx(u32::try_from(self.pc).unwrap_or(u32::MAX));
        self.pc += 1;
        self.fuel -= 1;
        self.retired += 1;
        match insn {
            Insn::Alu { width, op, dst, src } => {
                self.set(dst, alu(width, op, self.get(dst), self.operand(src)));
            }
            Insn::Neg { width, dst } => {
                self.set(dst, narrow(width, self.get(dst).wrapping_neg()));
            }
            Insn::MovSx { width, dst, src, bits } => {
                self.set(dst, narrow(width, sign_extend(self.get(src), bits)));
            }
            Insn::End { op, dst, bits } => {
                self.set(dst, byte_order(op, host.endian(), self.get(dst), bits));
            }
            Insn::AddrSpaceCast { dst, src, cast } => {
                let value = host.cast(self.get(src), cast)?;
                self.set(dst, value);
            }
            Insn::MovPercpu { dst, src } => {
                let value = host.percpu(self.get(src))?;
                self.set(dst, value);
            }
            Insn::LdImm64 { dst, imm } => {
                let value = match imm {
                    Imm64::Const(c) => c,
                    imm => host.imm64(at, &imm)?,
                };
                self.set(dst, value);
                self.pc += 1;
            }
            Insn::LdImm64Hi => return Err(Fault::BadJump(i64::from(at.0))),
            Insn::LdAbs { size, imm } => return self.packet(host, imm, size),
            Insn::LdInd { size, src, imm } => {
                let off = imm.wrapping_add(self.get(src) as i32);
                return self.packet(host, off, size);
            }
            Insn::Load { size, sext, dst, src, off } => {
                let value = host.load(self.addr(src, off), size)?;
                let bits = (size.bytes() * 8) as u8;
                self.set(dst, if sext { sign_extend(value, bits) } else { value });
            }
            Insn::Store { size, dst, off, src } => {
                host.store(self.addr(dst, off), size, truncate(self.operand(src), size))?;
            }
            Insn::Atomic { size, op, dst, off, src } => {
                self.atomic(host, size, op, dst, off, src)?
            }
            Insn::LoadAcquire { size, dst, src, off } => {
                let value = host.load(self.addr(src, off), size)?;
                self.set(dst, value);
            }
            Insn::StoreRelease { size, dst, off, src } => {
                host.store(self.addr(dst, off), size, truncate(self.get(src), size))?;
            }
            Insn::Jmp { width, op, dst, src, off } => {
                if condition(width, op, self.get(dst), self.operand(src)) {
                    self.jump(i32::from(off))?;
                }
            }
            Insn::Ja { off, .. } => self.jump(off)?,
            Insn::MayGoto { off } => match self.budget.checked_sub(1) {
                Some(left) => self.budget = left,
                None => self.jump(i32::from(off))?,
            },
            Insn::Gotox { .. } => return Err(Fault::Unsupported("gotox")),
            Insn::Callx { .. } => return Err(Fault::Unsupported("callx")),
            Insn::Call(Call::Local(off)) => self.enter(self.pc as i64 + i64::from(off), false)?,
            Insn::Call(Call::Helper(id)) => {
                return Ok(Some(Exit::Helper { id, args: self.args() }));
            }
            Insn::Call(Call::Kfunc { btf_id, off }) => {
                return Ok(Some(Exit::Kfunc { btf_id, off, args: self.args() }));
            }
            Insn::Exit => return Ok(self.leave()),
        }
        Ok(None)
    }

    fn packet(&mut self, host: &mut dyn Host, off: i32, size: Size) -> Result<Option<Exit>, Fault> {
        // The sk_buff is in r6 by definition of these instructions.
        match host.packet(self.get(Reg::R6), off, size)? {
            Some(value) => {
                self.regs[0] = value;
                Ok(None)
            }
            None => {
                self.regs[0] = 0;
                Ok(self.leave())
            }
        }
    }

    fn atomic(
        &mut self,
        host: &mut dyn Host,
        size: Size,
        op: AtomicOp,
        dst: Reg,
        off: i16,
        src: Reg,
    ) -> Result<(), Fault> {
        let addr = self.addr(dst, off);
        let old = host.load(addr, size)?;
        let operand = truncate(self.get(src), size);
        let expected = truncate(self.regs[0], size);
        let new = match op {
            AtomicOp::Add | AtomicOp::FetchAdd => old.wrapping_add(operand),
            AtomicOp::Or | AtomicOp::FetchOr => old | operand,
            AtomicOp::And | AtomicOp::FetchAnd => old & operand,
            AtomicOp::Xor | AtomicOp::FetchXor => old ^ operand,
            AtomicOp::Cmpxchg if old != expected => old,
            AtomicOp::Xchg | AtomicOp::Cmpxchg => operand,
        };
        host.store(addr, size, truncate(new, size))?;
        match op {
            AtomicOp::Add | AtomicOp::Or | AtomicOp::And | AtomicOp::Xor => {}
            AtomicOp::Cmpxchg => self.regs[0] = old,
            _ => self.set(src, old),
        }
        Ok(())
    }
}

const fn narrow(width: Width, value: u64) -> u64 {
    match width {
        Width::W32 => value as u32 as u64,
        Width::W64 => value,
    }
}

const fn truncate(value: u64, size: Size) -> u64 {
    match size {
        Size::DW => value,
        _ => value & ((1 << (size.bytes() * 8)) - 1),
    }
}

const fn sign_extend(value: u64, bits: u8) -> u64 {
    let unused = 64 - bits as u32;
    ((value << unused).cast_signed() >> unused).cast_unsigned()
}

const fn byte_order(op: EndianOp, host: Endian, value: u64, bits: u8) -> u64 {
    let swap = match op {
        EndianOp::Swap => true,
        EndianOp::ToLe => matches!(host, Endian::Big),
        EndianOp::ToBe => matches!(host, Endian::Little),
    };
    let unused = 64 - bits as u32;
    if swap { value.swap_bytes() >> unused } else { value << unused >> unused }
}

/// One operation as RFC 9669 defines it.
#[must_use]
pub fn alu(width: Width, op: AluOp, dst: u64, src: u64) -> u64 {
    match width {
        Width::W64 => alu64(op, dst, src),
        Width::W32 => u64::from(alu32(op, dst as u32, src as u32)),
    }
}

fn alu64(op: AluOp, a: u64, b: u64) -> u64 {
    let (sa, sb) = (a.cast_signed(), b.cast_signed());
    match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::SDiv if b == 0 => 0,
        AluOp::SDiv => sa.wrapping_div(sb).cast_unsigned(),
        AluOp::SMod if b == 0 => a,
        AluOp::SMod => sa.wrapping_rem(sb).cast_unsigned(),
        AluOp::Or => a | b,
        AluOp::And => a & b,
        AluOp::Xor => a ^ b,
        AluOp::Lsh => a << (b & 63),
        AluOp::Rsh => a >> (b & 63),
        AluOp::Arsh => (sa >> (b & 63)).cast_unsigned(),
        AluOp::Mov => b,
    }
}

fn alu32(op: AluOp, a: u32, b: u32) -> u32 {
    let (sa, sb) = (a.cast_signed(), b.cast_signed());
    match op {
        AluOp::Add => a.wrapping_add(b),
        AluOp::Sub => a.wrapping_sub(b),
        AluOp::Mul => a.wrapping_mul(b),
        AluOp::Div => a.checked_div(b).unwrap_or(0),
        AluOp::Mod => a.checked_rem(b).unwrap_or(a),
        AluOp::SDiv if b == 0 => 0,
        AluOp::SDiv => sa.wrapping_div(sb).cast_unsigned(),
        AluOp::SMod if b == 0 => a,
        AluOp::SMod => sa.wrapping_rem(sb).cast_unsigned(),
        AluOp::Or => a | b,
        AluOp::And => a & b,
        AluOp::Xor => a ^ b,
        AluOp::Lsh => a << (b & 31),
        AluOp::Rsh => a >> (b & 31),
        AluOp::Arsh => (sa >> (b & 31)).cast_unsigned(),
        AluOp::Mov => b,
    }
}

/// Whether a conditional jump is taken.
#[must_use]
pub fn condition(width: Width, op: JmpOp, dst: u64, src: u64) -> bool {
    let (a, b) = (narrow(width, dst), narrow(width, src));
    let signed = |v: u64| match width {
        Width::W32 => i64::from(v as i32),
        Width::W64 => v.cast_signed(),
    };
    let (sa, sb) = (signed(dst), signed(src));
    match op {
        JmpOp::Eq => a == b,
        JmpOp::Ne => a != b,
        JmpOp::Gt => a > b,
        JmpOp::Ge => a >= b,
        JmpOp::Lt => a < b,
        JmpOp::Le => a <= b,
        JmpOp::Set => a & b != 0,
        JmpOp::Sgt => sa > sb,
        JmpOp::Sge => sa >= sb,
        JmpOp::Slt => sa < sb,
        JmpOp::Sle => sa <= sb,
    }
}
