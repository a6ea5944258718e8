//! Structured random programs: each statement knows what its registers and stack slots hold, and
//! now and then forgets it, so that about half of the programs are accepted.
//!
//! ```text
//!  generate.rs   functions, what registers hold, numbers
//!  memory.rs     stack, spills, map values, packets, context, atomics
//!  calls.rs      helpers with their arguments, subprograms, dynptrs, locks
//!  flow.rs       branches, loops of all kinds, critical sections
//! ```

mod calls;
mod flow;
mod memory;

use bpf::btf::{Btf, Kind as BtfKind};
use bpf::insn::generate::Rng;
use bpf::insn::{AluOp, Call, EndianOp, Imm64, Insn, JmpOp, Reg, Size, Src, Width};
use bpf::uapi::ProgType;

use super::world::{CALLBACK, GLOBAL_CTX, GLOBAL_MEM, GLOBAL_NUMBERS, LOCAL, MAIN};

/// Program types the generator knows; the first ones more often.
const TYPES: [ProgType; 14] = [
    ProgType::SchedCls,
    ProgType::SchedCls,
    ProgType::Xdp,
    ProgType::Xdp,
    ProgType::SocketFilter,
    ProgType::CgroupSkb,
    ProgType::Kprobe,
    ProgType::Tracepoint,
    ProgType::RawTracepoint,
    ProgType::PerfEvent,
    ProgType::LwtXmit,
    ProgType::SkSkb,
    ProgType::CgroupSock,
    ProgType::SockOps,
];
/// Those that need no `CAP_PERFMON`.
const PLAIN_TYPES: [ProgType; 5] = [
    ProgType::SchedCls,
    ProgType::Xdp,
    ProgType::SocketFilter,
    ProgType::CgroupSkb,
    ProgType::SkSkb,
];

/// What a register or a stack slot is thought to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    None,
    Scalar,
    /// A scalar below this.
    Below(u32),
    Ctx,
    /// A pointer to the stack, that far below the frame pointer.
    Stack(i16),
    Value,
    ValueOrNull,
    Packet,
    PacketEnd,
    /// Memory of so many bytes, to be given back when it is a record.
    Mem(i16),
    MemOrNull(i16),
    /// A ring buffer record.
    Record(i16),
    RecordOrNull(i16),
    /// A value with a lock.
    Locked,
    LockedOrNull,
}

/// Kfuncs by their BTF ids; none when the kernel has no such function.
#[derive(Clone, Copy, Debug, Default)]
struct Kfuncs {
    iter_new: Option<i32>,
    iter_next: Option<i32>,
    iter_destroy: Option<i32>,
    rcu: Option<(i32, i32)>,
    preempt: Option<(i32, i32)>,
}

/// Whom programs are generated for.
#[derive(Clone, Debug)]
pub(super) struct Target {
    kfuncs: Kfuncs,
    perfmon: bool,
}

impl Target {
    /// Kfuncs of a kernel; whether programs may have `CAP_PERFMON`.
    pub(super) fn new(kernel: &Btf, perfmon: bool) -> Target {
        let id = |name| kernel.find(name, BtfKind::Func).map(u32::cast_signed);
        let pair = |a, b| id(a).zip(id(b));
        let kfuncs = Kfuncs {
            iter_new: id("bpf_iter_num_new"),
            iter_next: id("bpf_iter_num_next"),
            iter_destroy: id("bpf_iter_num_destroy"),
            rcu: pair("bpf_rcu_read_lock", "bpf_rcu_read_unlock"),
            preempt: pair("bpf_preempt_disable", "bpf_preempt_enable"),
        };
        Target { kfuncs, perfmon }
    }
}

/// A generated program: functions by their first instruction and name, the main one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Generated {
    pub(super) ty: ProgType,
    pub(super) insns: Vec<Insn>,
    pub(super) funcs: Vec<(u32, &'static str)>,
}

/// A function that is called, and what it is given.
#[derive(Clone, Debug)]
struct Plan {
    name: &'static str,
    args: Vec<Kind>,
}

/// Where an instruction names a function.
struct Fixup {
    at: usize,
    func: usize,
}

struct Gen<'a> {
    rng: Rng,
    target: &'a Target,
    ty: ProgType,
    out: Vec<Insn>,
    regs: [Kind; 10],
    /// Slots of eight bytes from the frame pointer down.
    slots: [Kind; SLOTS],
    /// Packet bytes that were compared with the end.
    checked: i16,
    depth: u32,
    /// Functions planned so far, and the one that is written.
    plans: Vec<Plan>,
    function: usize,
    fixups: Vec<Fixup>,
    /// In a critical section: no calls.
    locked: bool,
}

/// Stack slots that are used.
const SLOTS: usize = 8;
/// Functions of a program at most.
const FUNCTIONS: usize = 4;

/// A program of a seed.
pub(super) fn program(seed: u64, target: &Target) -> Generated {
    let mut rng = Rng(seed ^ 0x5eed_f00d);
    let ty = if target.perfmon { rng.pick(&TYPES) } else { rng.pick(&PLAIN_TYPES) };
    let mut g = Gen {
        rng,
        target,
        ty,
        out: Vec::new(),
        regs: [Kind::None; 10],
        slots: [Kind::None; SLOTS],
        checked: 0,
        depth: 0,
        plans: vec![Plan { name: MAIN, args: vec![Kind::Ctx] }],
        function: 0,
        fixups: Vec::new(),
        locked: false,
    };
    let mut starts = Vec::new();
    while g.function < g.plans.len() {
        starts.push(g.out.len());
        g.body();
        g.function += 1;
    }
    for f in std::mem::take(&mut g.fixups) {
        let off = starts[f.func] as i32 - f.at as i32 - 1;
        match &mut g.out[f.at] {
            Insn::Call(call) => *call = Call::Local(off),
            Insn::LdImm64 { imm, .. } => *imm = Imm64::Func(off),
            _ => {}
        }
    }
    let funcs = starts.iter().zip(&g.plans).map(|(s, p)| (*s as u32, p.name)).collect();
    Generated { ty, insns: g.out, funcs }
}

fn mov(dst: u8, src: Src) -> Insn {
    Insn::Alu { width: Width::W64, op: AluOp::Mov, dst: Reg(dst), src }
}

fn add(dst: u8, src: Src) -> Insn {
    Insn::Alu { width: Width::W64, op: AluOp::Add, dst: Reg(dst), src }
}

fn imm(dst: u8, value: i32) -> Insn {
    mov(dst, Src::Imm(value))
}

fn reg(r: u8) -> Src {
    Src::Reg(Reg(r))
}

fn load(size: Size, dst: u8, src: u8, off: i16) -> Insn {
    Insn::Load { size, sext: false, dst: Reg(dst), src: Reg(src), off }
}

fn store(size: Size, dst: u8, off: i16, src: Src) -> Insn {
    Insn::Store { size, dst: Reg(dst), off, src }
}

fn jump(op: JmpOp, dst: u8, src: Src, off: i16) -> Insn {
    Insn::Jmp { width: Width::W64, op, dst: Reg(dst), src, off }
}

fn is_scalar(k: Kind) -> bool {
    matches!(k, Kind::Scalar | Kind::Below(_))
}

impl Gen<'_> {
    fn push(&mut self, insns: impl IntoIterator<Item = Insn>) {
        self.out.extend(insns);
    }

    /// A mistake, rarely.
    fn slip(&mut self) -> bool {
        self.rng.one_in(60)
    }

    /// One function.
    fn body(&mut self) {
        self.regs = [Kind::None; 10];
        self.slots = [Kind::None; SLOTS];
        (self.checked, self.depth, self.locked) = (0, 0, false);
        let args = self.plans[self.function].args.clone();
        self.regs[1..=args.len()].copy_from_slice(&args);
        let main = self.function == 0;
        let ctx = args.iter().position(|k| *k == Kind::Ctx);
        if let Some(i) = ctx {
            self.push([mov(6, reg(i as u8 + 1))]);
            self.regs[6] = Kind::Ctx;
            self.packet_pointers();
        }
        let n = if main { 3 + self.rng.below(14) } else { 1 + self.rng.below(6) };
        for _ in 0..n {
            self.statement();
        }
        self.ending();
    }

    fn ending(&mut self) {
        // What was reserved is given back, most of the time.
        while let Some(r) = self.held(|k| matches!(k, Kind::Record(_))) {
            self.submit(r);
            if self.slip() {
                break;
            }
        }
        let small = self.small_result();
        match self.find(|k| is_scalar(k) && (!small || matches!(k, Kind::Below(n) if n <= 2))) {
            Some(r) if self.rng.one_in(2) => self.push([mov(0, reg(r))]),
            _ if self.slip() => {}
            _ => {
                let r0 = self.rng.below(2) as i32;
                self.push([imm(0, r0)]);
            }
        }
        self.push([Insn::Exit]);
    }

    /// Functions whose result must be 0 or 1.
    fn small_result(&self) -> bool {
        use ProgType as P;
        let main = self.function == 0
            && matches!(self.ty, P::CgroupSkb | P::CgroupSock | P::PerfEvent | P::SockOps);
        main || self.plans[self.function].name == CALLBACK
    }

    /// A register that holds something, without a mistake.
    fn held(&self, is: impl Fn(Kind) -> bool) -> Option<u8> {
        (0..10).find(|r| is(self.regs[usize::from(*r)]))
    }

    fn find(&mut self, is: impl Fn(Kind) -> bool) -> Option<u8> {
        let found: Vec<u8> = (0..10).filter(|r| is(self.regs[usize::from(*r)])).collect();
        if self.slip() {
            return Some(self.rng.below(10) as u8);
        }
        (!found.is_empty()).then(|| self.rng.pick(&found))
    }

    /// A register that a call leaves alone.
    fn find_saved(&mut self, is: impl Fn(Kind) -> bool) -> Option<u8> {
        let found: Vec<u8> = (6..10).filter(|r| is(self.regs[usize::from(*r)])).collect();
        (!found.is_empty()).then(|| self.rng.pick(&found))
    }

    fn scalar(&mut self) -> u8 {
        match self.find(is_scalar) {
            Some(r) => r,
            None => self.constant(),
        }
    }

    /// A register to write: seldom one that holds something.
    fn free(&mut self) -> u8 {
        let free: Vec<u8> = (0..10).filter(|r| self.regs[usize::from(*r)] == Kind::None).collect();
        match free.is_empty() || self.rng.one_in(12) {
            true => self.rng.pick(&[0, 1, 2, 3, 4, 5, 9]),
            false => self.rng.pick(&free),
        }
    }

    fn set(&mut self, r: u8, k: Kind) {
        if let Some(place) = self.regs.get_mut(usize::from(r)) {
            *place = k;
        }
    }

    fn constant(&mut self) -> u8 {
        let r = self.free();
        if self.rng.one_in(6) {
            let value = self.rng.imm64();
            self.push([Insn::LdImm64 { dst: Reg(r), imm: Imm64::Const(value) }, Insn::LdImm64Hi]);
        } else {
            let v = self.rng.imm32();
            let width = if self.rng.one_in(4) { Width::W32 } else { Width::W64 };
            let (op, dst, src) = (AluOp::Mov, Reg(r), Src::Imm(v));
            self.push([Insn::Alu { width, op, dst, src }]);
        }
        self.set(r, Kind::Scalar);
        r
    }

    fn size(&mut self) -> Size {
        self.rng.pick(&[Size::B, Size::H, Size::W, Size::DW])
    }

    // tidy: flat match
    fn statement(&mut self) {
        match self.rng.below(46) {
            0 | 1 => {
                self.constant();
            }
            2 => self.ctx_load(),
            3..=6 => self.alu(),
            7 => self.unary(),
            8 | 9 => self.bound(),
            10..=12 => self.stack_store(),
            13 | 14 => self.stack_load(),
            15 => self.stack_pointer(),
            16 => self.copy(),
            17..=19 => self.lookup(),
            20 => self.null_check(),
            21..=23 => self.value_access(),
            24 => self.packet_check(),
            25 => self.packet_access(),
            26 => self.packet_variable(),
            27 | 28 => self.branch(),
            29 => self.either(),
            30 => self.repeat(),
            31 => self.atomic(),
            32 | 33 => self.number_helper(),
            34 => self.memory_helper(),
            35 => self.map_helper(),
            36 => self.ringbuf(),
            37 => self.call_function(),
            38 => self.call_back(),
            39 => self.may_goto(),
            40 => self.iterate(),
            41 => self.dynptr(),
            42 => self.spin_lock(),
            43 => self.section(),
            44 if self.rng.one_in(2) => self.global_value(),
            44 => self.ld_abs(),
            _ if self.rng.one_in(2) => self.tail_call(),
            _ => self.change_packet(),
        }
    }

    fn alu(&mut self) {
        use AluOp::{Add, And, Arsh, Div, Lsh, Mod, Mov, Mul, Or, Rsh, SDiv, SMod, Sub, Xor};
        let op = self.rng.pick(&[
            Add, Add, Sub, Mul, Or, And, And, Lsh, Rsh, Arsh, Xor, Mov, Div, Mod, SDiv, SMod,
        ]);
        let dst = self.scalar();
        let width = self.rng.pick(&[Width::W64, Width::W64, Width::W32]);
        let shift = matches!(op, Lsh | Rsh | Arsh);
        let divides = matches!(op, Div | Mod | SDiv | SMod);
        let bits = if width == Width::W64 { 64 } else { 32 };
        let src = match self.rng.below(3) {
            0 => Src::Reg(Reg(self.scalar())),
            _ if shift => Src::Imm(self.rng.below(bits) as i32),
            _ if divides => Src::Imm(1 + self.rng.below(1000) as i32),
            _ => Src::Imm(self.rng.imm32()),
        };
        self.push([Insn::Alu { width, op, dst: Reg(dst), src }]);
        self.set(dst, Kind::Scalar);
    }

    /// Negation, byte order, sign extension.
    fn unary(&mut self) {
        let (dst, src) = (Reg(self.scalar()), Reg(self.scalar()));
        let width = self.rng.pick(&[Width::W64, Width::W32]);
        let bits = self.rng.pick(&[8u8, 16, 32]);
        let insn = match self.rng.below(4) {
            0 => Insn::Neg { width, dst },
            1 => {
                let op = self.rng.pick(&[EndianOp::ToLe, EndianOp::ToBe, EndianOp::Swap]);
                Insn::End { op, dst, bits: self.rng.pick(&[16, 32, 64]) }
            }
            _ if bits == 32 => Insn::MovSx { width: Width::W64, dst, src, bits },
            _ => Insn::MovSx { width, dst, src, bits },
        };
        self.push([insn]);
        self.set(dst.0, Kind::Scalar);
    }

    /// A copy of a register, of a scalar sometimes of its low half.
    fn copy(&mut self) {
        let Some(from) = self.find(|k| k != Kind::None) else { return };
        let to = self.free();
        let kind = self.regs[usize::from(from)];
        if is_scalar(kind) && self.rng.one_in(3) {
            let (width, op, dst) = (Width::W32, AluOp::Mov, Reg(to));
            self.push([Insn::Alu { width, op, dst, src: reg(from) }]);
            return self.set(to, Kind::Scalar);
        }
        self.push([mov(to, reg(from))]);
        self.set(to, kind);
        if is_scalar(kind) && self.rng.one_in(3) {
            // A register that differs from another by a constant.
            let delta = self.rng.below(64) as i32 - 32;
            self.push([add(to, Src::Imm(delta))]);
            self.set(to, Kind::Scalar);
        }
        if matches!(kind, Kind::Record(_)) {
            self.set(from, Kind::None);
        }
    }

    /// Makes a scalar small: by a mask, or by a comparison that ends the function.
    fn bound(&mut self) {
        let r = self.scalar();
        let max = self.rng.pick(&[1u32, 2, 4, 7, 8, 15, 16, 24, 31, 32, 64]);
        match self.rng.below(4) {
            0 => {
                let mask = (max.next_power_of_two() - 1) as i32;
                let (op, dst) = (AluOp::And, Reg(r));
                let width = self.rng.pick(&[Width::W64, Width::W32]);
                self.push([Insn::Alu { width, op, dst, src: Src::Imm(mask) }]);
            }
            n => {
                let width = if n == 1 { Width::W32 } else { Width::W64 };
                let op = self.rng.pick(&[JmpOp::Lt, JmpOp::Le, JmpOp::Slt]);
                let (dst, src) = (Reg(r), Src::Imm(max as i32));
                self.leave_unless(Insn::Jmp { width, op, dst, src, off: 2 });
            }
        }
        self.set(r, Kind::Below(max));
    }

    /// Returns from the function unless the jump over that is taken. Not where a record is held.
    fn leave_unless(&mut self, jump: Insn) {
        let holds = self.held(|k| matches!(k, Kind::Record(_))).is_some();
        if (holds || self.locked || self.depth_of_section()) && !self.slip() {
            // The other way goes on as well.
            let Insn::Jmp { width, op, dst, src, .. } = jump else { return };
            self.push([Insn::Jmp { width, op, dst, src, off: 1 }, imm(dst.0, 0)]);
            return;
        }
        self.push([jump, imm(0, 0), Insn::Exit]);
    }

    fn depth_of_section(&self) -> bool {
        self.depth >= SECTION
    }
}

/// Depth of statements that must not leave the function.
const SECTION: u32 = 16;

/// Names of the functions that may be called with a frame of their own.
const CALLED: [&str; 4] = [LOCAL, GLOBAL_NUMBERS, GLOBAL_CTX, GLOBAL_MEM];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_program() {
        let target = Target { kfuncs: Kfuncs::default(), perfmon: true };
        let program = |s| program(s, &target);
        assert_eq!(program(7), program(7));
        let text = |s| format!("{:?}", program(s).insns);
        let different = (0..50).map(text).collect::<std::collections::BTreeSet<_>>();
        assert!(different.len() > 45);
        assert!((0..200).all(|s| program(s).insns.last() == Some(&Insn::Exit)));
        assert!((0..200).any(|s| program(s).funcs.len() > 2));
    }
}
