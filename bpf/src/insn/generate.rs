//! Seeded random instructions and programs, for round trips and for comparing engines.
//!
//! [`program`] makes programs that every correct engine runs to the same `r0`: they end, read only
//! what they have written, keep addresses out of results, and use every instruction that needs no
//! kernel. What the verifier rewrites (division by a register that may be 0 or -1) is guarded as
//! its rewrite guards it, unless [`Options::raw_div`] asks for the bare instruction.
use super::{AluOp, AtomicOp, Call, Cast, EndianOp, Imm64, Insn, JmpOp, Reg, Size, Src, Width};

/// splitmix64: small, seedable, the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// Next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `n` (0 when `n` is 0).
    pub fn below(&mut self, n: u32) -> u32 {
        (((self.next_u64() >> 32) * u64::from(n)) >> 32) as u32
    }

    /// One of the items.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u32) as usize]
    }

    /// True once in `n`.
    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    /// An immediate: often an edge, else any.
    pub fn imm32(&mut self) -> i32 {
        const EDGES: [i32; 14] =
            [0, 1, -1, 2, 7, 8, 127, -128, 255, 4095, 0x7fff, 0x10000, i32::MAX, i32::MIN];
        match self.below(3) {
            0 => self.pick(&EDGES),
            1 => self.next_u64() as i8 as i32,
            _ => self.next_u64() as i32,
        }
    }

    /// A 64-bit value: often an edge, else any.
    pub fn imm64(&mut self) -> u64 {
        match self.below(4) {
            0 => i64::from(self.imm32()).cast_unsigned(),
            1 => self.pick(&[u64::MAX >> 1, 1 << 63, 0xffff_ffff, 1 << 32, u64::MAX, 0]),
            _ => self.next_u64(),
        }
    }
}

/// All sizes of memory accesses.
pub const SIZES: [Size; 4] = [Size::B, Size::H, Size::W, Size::DW];
const WORDS: [Size; 2] = [Size::W, Size::DW];
const NARROW: [Size; 3] = [Size::B, Size::H, Size::W];
const WIDTHS: [Width; 2] = [Width::W32, Width::W64];
/// Binary ALU operations, the signed ones included.
pub const ALU_OPS: [AluOp; 14] = [
    AluOp::Add,
    AluOp::Sub,
    AluOp::Mul,
    AluOp::Div,
    AluOp::SDiv,
    AluOp::Mod,
    AluOp::SMod,
    AluOp::Or,
    AluOp::And,
    AluOp::Xor,
    AluOp::Lsh,
    AluOp::Rsh,
    AluOp::Arsh,
    AluOp::Mov,
];
/// Conditions of jumps.
pub const JMP_OPS: [JmpOp; 11] = [
    JmpOp::Eq,
    JmpOp::Gt,
    JmpOp::Ge,
    JmpOp::Set,
    JmpOp::Ne,
    JmpOp::Sgt,
    JmpOp::Sge,
    JmpOp::Lt,
    JmpOp::Le,
    JmpOp::Slt,
    JmpOp::Sle,
];
const ATOMIC_OPS: [AtomicOp; 10] = [
    AtomicOp::Add,
    AtomicOp::Or,
    AtomicOp::And,
    AtomicOp::Xor,
    AtomicOp::FetchAdd,
    AtomicOp::FetchOr,
    AtomicOp::FetchAnd,
    AtomicOp::FetchXor,
    AtomicOp::Xchg,
    AtomicOp::Cmpxchg,
];
const END_OPS: [EndianOp; 3] = [EndianOp::ToLe, EndianOp::ToBe, EndianOp::Swap];

/// Number of kinds [`any_insn`] draws from.
const KINDS: u32 = 22;

fn any_imm64(rng: &mut Rng) -> Imm64 {
    let (id, off) = (rng.imm32(), rng.next_u64() as u32);
    match rng.below(7) {
        0 => Imm64::Const(rng.imm64()),
        1 => Imm64::MapFd(id),
        2 => Imm64::MapValue { fd: id, off },
        3 => Imm64::BtfId { id, btf_fd: if rng.one_in(2) { 0 } else { rng.imm32() } },
        4 => Imm64::Func(id),
        5 => Imm64::MapIdx(id),
        _ => Imm64::MapIdxValue { idx: id, off },
    }
}

fn any_call(rng: &mut Rng) -> Call {
    match rng.below(3) {
        0 => Call::Helper(rng.below(250) as i32),
        1 => Call::Local(rng.imm32()),
        _ => Call::Kfunc { btf_id: 1000 + rng.below(100_000) as i32, off: rng.below(3) as i16 },
    }
}

/// Any instruction that [`super::decode()`] may give, with fields at random. Never
/// [`Insn::LdImm64Hi`]: whoever puts a [`Insn::LdImm64`] into a program adds it.
// tidy: flat match
pub fn any_insn(rng: &mut Rng) -> Insn {
    let (dst, src) = (Reg(rng.below(11) as u8), Reg(rng.below(11) as u8));
    let (off, imm) = (rng.next_u64() as i16, rng.imm32());
    let operand = if rng.one_in(2) { Src::Reg(src) } else { Src::Imm(imm) };
    let (width, size) = (rng.pick(&WIDTHS), rng.pick(&SIZES));
    match rng.below(KINDS) {
        0 => Insn::Neg { width, dst },
        1 if width == Width::W64 => Insn::MovSx { width, dst, src, bits: rng.pick(&[8, 16, 32]) },
        1 => Insn::MovSx { width, dst, src, bits: rng.pick(&[8, 16]) },
        2 => Insn::End { op: rng.pick(&END_OPS), dst, bits: rng.pick(&[16, 32, 64]) },
        3 => Insn::AddrSpaceCast { dst, src, cast: rng.pick(&[Cast::ToKernel, Cast::ToUser]) },
        4 => Insn::LdImm64 { dst, imm: any_imm64(rng) },
        5 => Insn::LdAbs { size: rng.pick(&NARROW), imm },
        6 => Insn::LdInd { size: rng.pick(&NARROW), src, imm },
        7 => Insn::Load { size, sext: false, dst, src, off },
        8 => Insn::Load { size: rng.pick(&NARROW), sext: true, dst, src, off },
        9 => Insn::Store { size, dst, off, src: operand },
        10 => Insn::Atomic { size: rng.pick(&WORDS), op: rng.pick(&ATOMIC_OPS), dst, off, src },
        11 => Insn::LoadAcquire { size, dst, src, off },
        12 => Insn::StoreRelease { size, dst, off, src },
        13 | 14 => Insn::Jmp { width, op: rng.pick(&JMP_OPS), dst, src: operand, off },
        15 if width == Width::W64 => Insn::Ja { off: imm, long: true },
        15 => Insn::Ja { off: i32::from(off), long: false },
        16 => Insn::MayGoto { off },
        17 => Insn::Gotox { dst },
        18 => Insn::Call(any_call(rng)),
        19 => Insn::Callx { dst },
        20 => Insn::Exit,
        _ => Insn::Alu { width, op: rng.pick(&ALU_OPS), dst, src: operand },
    }
}

/// What [`program`] puts into its programs.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// About this many instructions in the body of each function.
    pub len: u32,
    /// Number of subprograms, each called by earlier functions only.
    pub subprogs: u32,
    /// Division and modulo by registers without the verifier's guard.
    pub raw_div: bool,
    /// Atomics, load-acquire and store-release.
    pub atomics: bool,
    /// Instructions of cpu v4: movsx, ldsx, sdiv, smod, bswap, gotol.
    pub v4: bool,
    /// Bounded loops.
    pub loops: bool,
    /// The main program's r1 is a buffer of [`BUFFER`] bytes, which it reads, writes and leaves
    /// its digest in (all 64 bits, of which a program returns 32).
    pub memory: bool,
    /// As the verifier takes them, with little that it knows: all code is reached, stack accesses
    /// are aligned, and with a buffer the main program's registers start from it.
    pub verified: bool,
}

/// Bytes of the buffer of [`Options::memory`].
pub const BUFFER: u64 = 128;

impl Default for Options {
    fn default() -> Options {
        Options {
            len: 40,
            subprogs: 2,
            raw_div: false,
            atomics: true,
            v4: true,
            loops: false,
            memory: false,
            verified: false,
        }
    }
}

/// Bytes of stack a function initialises and uses.
const STACK: i16 = 64;

/// Frame offset where the main program keeps the buffer's address.
const BUFFER_SLOT: i16 = -STACK - 8;
/// Frame offset of a loop's counter.
const COUNT_SLOT: i16 = -STACK - 16;

/// A terminating program with all its functions, the main one first. It takes no arguments into
/// account and returns a digest of its registers and stack.
#[must_use]
pub fn program(seed: u64, opts: Options) -> Vec<Insn> {
    let mut rng = Rng(seed);
    let mut out = Vec::new();
    let mut starts = Vec::new();
    let mut calls: Vec<(usize, u32)> = Vec::new();
    for f in 0..=opts.subprogs {
        starts.push(out.len());
        let base = out.len();
        let mut g = Gen::new(&mut rng, opts, f);
        g.function();
        calls.extend(g.calls.iter().map(|(at, callee)| (base + at, *callee)));
        out.append(&mut g.out);
    }
    for (at, callee) in calls {
        let off = starts[callee as usize] as i64 - at as i64 - 1;
        out[at] = Insn::Call(Call::Local(off as i32));
    }
    out
}

/// One function under construction.
struct Gen<'a> {
    rng: &'a mut Rng,
    opts: Options,
    /// Index of the function.
    func: u32,
    out: Vec<Insn>,
    /// Calls to be resolved: place and callee.
    calls: Vec<(usize, u32)>,
    /// Register that holds a copy of the frame pointer, never a scalar.
    ptr: Reg,
    /// The pointer's distance from the frame pointer.
    ptr_off: i16,
    /// The pointer is the buffer's instead.
    buffer: bool,
}

impl<'a> Gen<'a> {
    fn new(rng: &'a mut Rng, opts: Options, func: u32) -> Gen<'a> {
        let ptr = Reg(1 + rng.below(9) as u8);
        let ptr_off = -(rng.below(STACK as u32 + 1) as i16);
        let buffer = opts.memory && func == 0;
        Gen { rng, opts, func, out: Vec::new(), calls: Vec::new(), ptr, ptr_off, buffer }
    }

    fn mov(&mut self, dst: Reg, src: Src) {
        self.out.push(Insn::Alu { width: Width::W64, op: AluOp::Mov, dst, src });
    }

    fn alu(&mut self, op: AluOp, dst: Reg, src: Src) {
        self.out.push(Insn::Alu { width: Width::W64, op, dst, src });
    }

    fn set_pointer(&mut self) {
        if self.buffer {
            let (size, dst) = (Size::DW, self.ptr);
            let load = Insn::Load { size, sext: false, dst, src: Reg::FP, off: BUFFER_SLOT };
            self.out.push(load);
            return;
        }
        self.mov(self.ptr, Src::Reg(Reg::FP));
        self.alu(AluOp::Add, self.ptr, Src::Imm(i32::from(self.ptr_off)));
    }

    /// A value that was not there before: a constant, or what the first slot holds, which the
    /// verifier knows less of.
    fn wide(&mut self, dst: Reg) {
        if self.opts.verified && !self.rng.one_in(4) {
            self.out.push(Insn::Load { size: Size::DW, sext: false, dst, src: Reg::FP, off: -8 });
            return;
        }
        let imm = Imm64::Const(self.rng.imm64());
        self.out.extend([Insn::LdImm64 { dst, imm }, Insn::LdImm64Hi]);
    }

    fn scalar(&mut self) -> Reg {
        let r = Reg(self.rng.below(9) as u8);
        if r >= self.ptr { Reg(r.0 + 1) } else { r }
    }

    fn operand(&mut self) -> Src {
        if self.rng.one_in(2) { Src::Reg(self.scalar()) } else { Src::Imm(self.rng.imm32()) }
    }

    fn function(&mut self) {
        if self.buffer {
            let (off, src) = (BUFFER_SLOT, Src::Reg(Reg::R1));
            self.out.push(Insn::Store { size: Size::DW, dst: Reg::FP, off, src });
        }
        self.set_pointer();
        for r in 0..10 {
            // The main program's arguments belong to the environment, a subprogram's to us.
            let argument = self.func > 0 && (1..=5).contains(&r);
            let (dst, from) = (Reg(r), self.ptr);
            if dst == self.ptr || argument {
                continue;
            }
            if self.buffer && self.opts.verified {
                let (size, off) = (Size::DW, 8 * i16::from(r));
                self.out.push(Insn::Load { size, sext: false, dst, src: from, off });
            } else if self.opts.verified {
                // The slots are not written yet, an argument is there.
                let argument = if from == Reg::R1 { Reg::R2 } else { Reg::R1 };
                self.mov(dst, Src::Reg(argument));
            } else {
                self.wide(dst);
            }
        }
        for slot in 1..=STACK / 8 {
            let src = if self.rng.one_in(2) || self.opts.verified {
                Src::Reg(self.scalar())
            } else {
                Src::Imm(self.rng.imm32())
            };
            self.out.push(Insn::Store { size: Size::DW, dst: Reg::FP, off: -8 * slot, src });
        }
        if self.opts.verified && self.func < self.opts.subprogs {
            // What nobody calls is not reached.
            self.call(self.func + 1);
        }
        self.block(self.opts.len, 0);
        self.digest();
    }

    /// About `len` instructions; jumps stay inside.
    fn block(&mut self, len: u32, depth: u32) {
        let end = self.out.len() + len as usize;
        while self.out.len() < end {
            if self.opts.loops && depth == 0 && self.rng.one_in(12) {
                self.repeat();
            } else if depth < 4 && self.rng.one_in(6) {
                let inner = 1 + self.rng.below(8);
                self.branch(inner, depth);
            } else {
                self.step();
            }
        }
    }

    /// A conditional or unconditional jump over a block.
    fn branch(&mut self, len: u32, depth: u32) {
        let mut at = self.out.len();
        let plain = self.rng.one_in(8);
        let goto = |g: &mut Self| Insn::Ja { off: 0, long: g.opts.v4 && g.rng.one_in(2) };
        let jump = if plain && !self.opts.verified { goto(self) } else { self.condition() };
        self.out.push(jump);
        if plain && self.opts.verified {
            // All code has to be reached: the plain jump ends one way of two.
            self.block(len, depth + 1);
            let end = self.out.len();
            let jump = goto(self);
            self.out.push(jump);
            self.patch(at);
            at = end;
        }
        self.block(len, depth + 1);
        self.patch(at);
    }

    fn condition(&mut self) -> Insn {
        let (width, op) = (self.rng.pick(&WIDTHS), self.rng.pick(&JMP_OPS));
        Insn::Jmp { width, op, dst: self.scalar(), src: self.operand(), off: 0 }
    }

    /// A loop of a few rounds with its counter on the stack.
    fn repeat(&mut self) {
        let (rounds, len) = (2 + self.rng.below(4), 2 + self.rng.below(8));
        let (size, off) = (Size::DW, COUNT_SLOT);
        let src = Src::Imm(rounds as i32);
        self.out.push(Insn::Store { size, dst: Reg::FP, off, src });
        let top = self.out.len();
        self.block(len, 1);
        let dst = self.scalar();
        self.out.push(Insn::Load { size, sext: false, dst, src: Reg::FP, off });
        self.alu(AluOp::Add, dst, Src::Imm(-1));
        self.out.push(Insn::Store { size, dst: Reg::FP, off, src: Src::Reg(dst) });
        let width = self.rng.pick(&WIDTHS);
        let back = top as i64 - self.out.len() as i64 - 1;
        let (op, src, off) = (JmpOp::Ne, Src::Imm(0), back as i16);
        self.out.push(Insn::Jmp { width, op, dst, src, off });
    }

    /// Makes the jump at `at` go to the next instruction to be emitted.
    fn patch(&mut self, at: usize) {
        let rel = (self.out.len() - at - 1) as i32;
        match &mut self.out[at] {
            Insn::Jmp { off, .. } => *off = rel as i16,
            Insn::Ja { off, .. } => *off = rel,
            _ => {}
        }
    }

    fn step(&mut self) {
        match self.rng.below(16) {
            0 => {
                let insn = Insn::Neg { width: self.rng.pick(&WIDTHS), dst: self.scalar() };
                self.out.push(insn);
            }
            1 => self.movsx(),
            2 => self.end(),
            3 => {
                let dst = self.scalar();
                self.wide(dst);
            }
            4 | 5 => self.load(),
            6 | 7 => self.store(),
            8 if self.opts.atomics => self.atomic(),
            9 if self.func < self.opts.subprogs && self.rng.one_in(3) => {
                let callee = self.func + 1 + self.rng.below(self.opts.subprogs - self.func);
                self.call(callee);
            }
            _ => self.arithmetic(),
        }
    }

    fn movsx(&mut self) {
        if !self.opts.v4 {
            return self.arithmetic();
        }
        let width = self.rng.pick(&WIDTHS);
        let sizes: &[u8] = if width == Width::W64 { &[8, 16, 32] } else { &[8, 16] };
        let bits = self.rng.pick(sizes);
        let insn = Insn::MovSx { width, dst: self.scalar(), src: self.scalar(), bits };
        self.out.push(insn);
    }

    fn end(&mut self) {
        let op = self.rng.pick(&END_OPS[..if self.opts.v4 { 3 } else { 2 }]);
        let insn = Insn::End { op, dst: self.scalar(), bits: self.rng.pick(&[16, 32, 64]) };
        self.out.push(insn);
    }

    /// A base register and an offset to an aligned place on the stack, sometimes unaligned.
    fn address(&mut self, size: Size, aligned: bool) -> (Reg, i16) {
        let bytes = size.bytes() as i16;
        if self.buffer && self.rng.one_in(2) {
            let room = BUFFER as i16;
            let aligned = aligned || !self.rng.one_in(8);
            let off = if aligned {
                bytes * self.rng.below((room / bytes) as u32) as i16
            } else {
                self.rng.below((room - bytes + 1) as u32) as i16
            };
            return (self.ptr, off);
        }
        let at = if aligned || self.opts.verified || !self.rng.one_in(8) {
            -bytes * (1 + self.rng.below((STACK / bytes) as u32) as i16)
        } else {
            -bytes - self.rng.below((STACK - bytes + 1) as u32) as i16
        };
        let on_frame = self.buffer || self.rng.one_in(2);
        if on_frame { (Reg::FP, at) } else { (self.ptr, at - self.ptr_off) }
    }

    fn load(&mut self) {
        let sext = self.opts.v4 && self.rng.one_in(3);
        let size = if sext { self.rng.pick(&NARROW) } else { self.rng.pick(&SIZES) };
        let dst = self.scalar();
        if self.opts.atomics && !sext && self.rng.one_in(6) {
            let (src, off) = self.address(size, true);
            self.out.push(Insn::LoadAcquire { size, dst, src, off });
        } else {
            let (src, off) = self.address(size, false);
            self.out.push(Insn::Load { size, sext, dst, src, off });
        }
    }

    fn store(&mut self) {
        let size = self.rng.pick(&SIZES);
        if self.opts.atomics && self.rng.one_in(6) {
            let (dst, off) = self.address(size, true);
            let src = self.scalar();
            self.out.push(Insn::StoreRelease { size, dst, off, src });
        } else {
            let (dst, off) = self.address(size, false);
            let src = self.operand();
            self.out.push(Insn::Store { size, dst, off, src });
        }
    }

    fn atomic(&mut self) {
        let (size, op) = (self.rng.pick(&WORDS), self.rng.pick(&ATOMIC_OPS));
        let (dst, off) = self.address(size, true);
        let src = self.scalar();
        self.out.push(Insn::Atomic { size, op, dst, off, src });
    }

    /// A call passes scalars in r1 to r5 and loses them.
    fn call(&mut self, callee: u32) {
        if self.ptr <= Reg::R5 {
            let imm = self.rng.imm32();
            self.mov(self.ptr, Src::Imm(imm));
        }
        self.calls.push((self.out.len(), callee));
        self.out.push(Insn::Call(Call::Local(0)));
        for r in 1..=5 {
            if Reg(r) != self.ptr {
                self.wide(Reg(r));
            }
        }
        if self.ptr <= Reg::R5 {
            self.set_pointer();
        }
    }

    fn arithmetic(&mut self) {
        let (width, mut op) = (self.rng.pick(&WIDTHS), self.rng.pick(&ALU_OPS));
        if !self.opts.v4 {
            op = match op {
                AluOp::SDiv => AluOp::Div,
                AluOp::SMod => AluOp::Mod,
                op => op,
            };
        }
        let (dst, src) = (self.scalar(), self.operand());
        let division = matches!(op, AluOp::Div | AluOp::SDiv | AluOp::Mod | AluOp::SMod);
        let signed = matches!(op, AluOp::SDiv | AluOp::SMod);
        let shift = matches!(op, AluOp::Lsh | AluOp::Rsh | AluOp::Arsh);
        let bits = if width == Width::W64 { 64 } else { 32 };
        match src {
            Src::Imm(imm) if shift => {
                let src = Src::Imm(imm.rem_euclid(bits));
                self.out.push(Insn::Alu { width, op, dst, src });
            }
            Src::Imm(0) if division => {
                self.out.push(Insn::Alu { width, op, dst, src: Src::Imm(3) });
            }
            Src::Imm(-1) if signed && !self.opts.raw_div => {
                self.out.push(Insn::Alu { width, op, dst, src: Src::Imm(-3) });
            }
            Src::Reg(by) if division && !self.opts.raw_div => {
                self.guarded_division(width, op, dst, by);
            }
            src => self.out.push(Insn::Alu { width, op, dst, src }),
        }
    }

    /// Skips the division when it would be by 0, or by -1 if signed.
    fn guarded_division(&mut self, width: Width, op: AluOp, dst: Reg, by: Reg) {
        let signed = matches!(op, AluOp::SDiv | AluOp::SMod);
        let unless =
            |imm, off| Insn::Jmp { width, op: JmpOp::Eq, dst: by, src: Src::Imm(imm), off };
        if signed {
            self.out.push(unless(-1, 2));
        }
        self.out.push(unless(0, 1));
        self.out.push(Insn::Alu { width, op, dst, src: Src::Reg(by) });
    }

    /// Folds scalars and stack into r0.
    fn digest(&mut self) {
        let acc = if self.ptr == Reg::R0 { Reg::R1 } else { Reg::R0 };
        let ptr = self.ptr;
        for r in (0..10).map(Reg).filter(|r| *r != ptr && *r != acc) {
            self.alu(AluOp::Mul, acc, Src::Imm(0x0100_0193));
            self.alu(AluOp::Xor, acc, Src::Reg(r));
        }
        let via = if self.ptr == Reg::R1 { Reg::R2 } else { Reg::R1 };
        for slot in 1..=STACK / 8 {
            let off = -8 * slot;
            let load = Insn::Load { size: Size::DW, sext: false, dst: via, src: Reg::FP, off };
            self.out.push(load);
            self.alu(AluOp::Mul, acc, Src::Imm(0x0100_0193));
            self.alu(AluOp::Xor, acc, Src::Reg(via));
        }
        if self.buffer {
            self.set_pointer();
            let (dst, src) = (self.ptr, Src::Reg(acc));
            self.out.push(Insn::Store { size: Size::DW, dst, off: 0, src });
        }
        self.out.push(Insn::Exit);
    }
}
