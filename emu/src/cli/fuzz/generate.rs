//! Structured random programs: each statement knows what its registers hold, and now and then
//! forgets it, so that about half of the programs are accepted.

use bpf::insn::generate::Rng;
use bpf::insn::{AluOp, AtomicOp, Call, Imm64, Insn, JmpOp, Reg, Size, Src, Width};
use bpf::uapi::ProgType;

/// Index of the array map: key 4, value 32, 4 entries.
pub(super) const ARRAY: i32 = 0;
/// Index of the hash map: key 8, value 32, 16 entries.
pub(super) const HASH: i32 = 1;
/// Bytes of a value of both.
pub(super) const VALUE: i16 = 32;

/// Program types the generator knows.
const TYPES: [ProgType; 3] = [ProgType::SocketFilter, ProgType::SchedCls, ProgType::Xdp];

/// What a register is thought to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    None,
    Scalar,
    /// A scalar below this.
    Below(u32),
    Ctx,
    Stack(i16),
    Value,
    ValueOrNull,
    Packet,
    PacketEnd,
}

struct Gen {
    rng: Rng,
    ty: ProgType,
    out: Vec<Insn>,
    regs: [Kind; 10],
    /// Bytes of the stack, below the frame pointer, that were written.
    written: i16,
    /// Packet bytes that were compared with the end.
    checked: i16,
    depth: u32,
}

/// A program of a seed.
pub(super) fn program(seed: u64) -> (ProgType, Vec<Insn>) {
    let mut rng = Rng(seed ^ 0x5eed_f00d);
    let ty = rng.pick(&TYPES);
    let mut regs = [Kind::None; 10];
    regs[1] = Kind::Ctx;
    let mut g = Gen { rng, ty, out: Vec::new(), regs, written: 0, checked: 0, depth: 0 };
    g.beginning();
    let n = 3 + g.rng.below(14);
    for _ in 0..n {
        g.statement();
    }
    g.ending();
    (ty, g.out)
}

fn mov(dst: u8, src: Src) -> Insn {
    Insn::Alu { width: Width::W64, op: AluOp::Mov, dst: Reg(dst), src }
}

fn add(dst: u8, src: Src) -> Insn {
    Insn::Alu { width: Width::W64, op: AluOp::Add, dst: Reg(dst), src }
}

fn load(size: Size, dst: u8, src: u8, off: i16) -> Insn {
    Insn::Load { size, sext: false, dst: Reg(dst), src: Reg(src), off }
}

fn store(size: Size, dst: u8, off: i16, src: Src) -> Insn {
    Insn::Store { size, dst: Reg(dst), off, src }
}

impl Gen {
    fn push(&mut self, insns: impl IntoIterator<Item = Insn>) {
        self.out.extend(insns);
    }

    /// A mistake, rarely.
    fn slip(&mut self) -> bool {
        self.rng.one_in(40)
    }

    fn beginning(&mut self) {
        self.push([mov(6, Src::Reg(Reg(1)))]);
        self.regs[6] = Kind::Ctx;
        if self.ty != ProgType::SocketFilter && self.rng.one_in(2) {
            let (data, end) = if self.ty == ProgType::Xdp { (0, 4) } else { (76, 80) };
            self.push([load(Size::W, 7, 6, data), load(Size::W, 8, 6, end)]);
            (self.regs[7], self.regs[8]) = (Kind::Packet, Kind::PacketEnd);
        }
    }

    fn ending(&mut self) {
        match self.find(|k| matches!(k, Kind::Scalar | Kind::Below(_))) {
            Some(r) if self.rng.one_in(2) => self.push([mov(0, Src::Reg(Reg(r)))]),
            _ if self.slip() => {}
            _ => self.push([mov(0, Src::Imm(0))]),
        }
        self.push([Insn::Exit]);
    }

    fn find(&mut self, is: impl Fn(Kind) -> bool) -> Option<u8> {
        let found: Vec<u8> = (0..10).filter(|r| is(self.regs[usize::from(*r)])).collect();
        if self.slip() {
            return Some(self.rng.below(10) as u8);
        }
        (!found.is_empty()).then(|| self.rng.pick(&found))
    }

    fn scalar(&mut self) -> u8 {
        if let Some(r) = self.find(|k| matches!(k, Kind::Scalar | Kind::Below(_))) {
            return r;
        }
        self.constant()
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
        self.regs[usize::from(r)] = k;
    }

    fn constant(&mut self) -> u8 {
        let r = self.free();
        let v = self.rng.imm32();
        self.push([mov(r, Src::Imm(v))]);
        self.set(r, Kind::Scalar);
        r
    }

    fn size(&mut self) -> Size {
        self.rng.pick(&[Size::B, Size::H, Size::W, Size::DW])
    }

    fn statement(&mut self) {
        match self.rng.below(20) {
            0 | 1 => {
                self.constant();
            }
            2 => self.random(),
            3..=5 => self.alu(),
            6 => self.bound(),
            7 | 8 => self.stack_store(),
            9 => self.stack_load(),
            10 => self.stack_pointer(),
            11 | 12 => self.lookup(),
            13 => self.null_check(),
            14 | 15 => self.value_access(),
            16 => self.packet_check(),
            17 => self.packet_access(),
            18 => self.branch(),
            _ if self.rng.one_in(2) => self.repeat(),
            _ => self.atomic(),
        }
    }

    /// After a call r1 to r5 are gone.
    fn called(&mut self, result: Kind) {
        self.regs[1..6].fill(Kind::None);
        self.regs[0] = result;
    }

    fn random(&mut self) {
        if self.ty == ProgType::Xdp || self.rng.one_in(2) {
            self.push([Insn::Call(Call::Helper(7))]);
            self.called(Kind::Scalar);
            return;
        }
        let Some(ctx) = self.find(|k| k == Kind::Ctx) else { return };
        let (r, off) = (self.free(), self.rng.pick(&[0i16, 4, 8, 12, 16, 40, 44, 68]));
        self.push([load(Size::W, r, ctx, off)]);
        self.set(r, Kind::Scalar);
    }

    fn alu(&mut self) {
        use AluOp::{Add, And, Arsh, Div, Lsh, Mod, Mov, Mul, Or, Rsh, Sub, Xor};
        let op = self.rng.pick(&[Add, Sub, Mul, Or, And, Lsh, Rsh, Arsh, Xor, Mov, Div, Mod]);
        let dst = self.scalar();
        let width = self.rng.pick(&[Width::W64, Width::W64, Width::W32]);
        let shift = matches!(op, Lsh | Rsh | Arsh);
        let bits = if width == Width::W64 { 64 } else { 32 };
        let src = match self.rng.below(3) {
            0 => Src::Reg(Reg(self.scalar())),
            _ if shift => Src::Imm(self.rng.below(bits) as i32),
            _ if matches!(op, Div | Mod) => Src::Imm(1 + self.rng.below(1000) as i32),
            _ => Src::Imm(self.rng.imm32()),
        };
        self.push([Insn::Alu { width, op, dst: Reg(dst), src }]);
        self.set(dst, Kind::Scalar);
    }

    /// Makes a scalar small: by a mask, or by a comparison that ends the program.
    fn bound(&mut self) {
        let r = self.scalar();
        let max = self.rng.pick(&[1u32, 4, 7, 8, 15, 16, 24, 31, 32, 64]);
        match self.rng.below(3) {
            0 => {
                let mask = (max.next_power_of_two() - 1) as i32;
                let (op, dst) = (AluOp::And, Reg(r));
                self.push([Insn::Alu { width: Width::W64, op, dst, src: Src::Imm(mask) }]);
            }
            n => {
                let width = if n == 1 { Width::W64 } else { Width::W32 };
                let op = self.rng.pick(&[JmpOp::Lt, JmpOp::Le, JmpOp::Slt]);
                let (dst, src) = (Reg(r), Src::Imm(max as i32));
                let jump = Insn::Jmp { width, op, dst, src, off: 2 };
                self.push([jump, mov(0, Src::Imm(0)), Insn::Exit]);
            }
        }
        self.set(r, Kind::Below(max));
    }

    fn slot(&mut self, size: Size) -> i16 {
        let n = size.bytes() as i16;
        let off = -(n * (1 + self.rng.below(4) as i16));
        if self.slip() { self.rng.pick(&[-512, -516, -520, 0, 8, -3]) } else { off }
    }

    fn stack_store(&mut self) {
        let size = self.size();
        let off = self.slot(size);
        let src = match self.rng.below(3) {
            0 => Src::Imm(self.rng.imm32()),
            1 => Src::Reg(Reg(self.scalar())),
            _ => match self.find(|k| k != Kind::None) {
                Some(r) => Src::Reg(Reg(r)),
                None => return,
            },
        };
        self.push([store(size, 10, off, src)]);
        self.written = self.written.min(off);
    }

    fn stack_load(&mut self) {
        let size = self.size();
        let (r, off) = (self.free(), self.slot(size));
        if off < self.written && !self.slip() {
            return;
        }
        self.push([load(size, r, 10, off)]);
        self.set(r, Kind::Scalar);
    }

    fn stack_pointer(&mut self) {
        let (r, off) = (self.free(), -8 * (1 + self.rng.below(4) as i16));
        self.push([mov(r, Src::Reg(Reg::FP)), add(r, Src::Imm(off.into()))]);
        self.set(r, Kind::Stack(off));
        if self.rng.one_in(3)
            && let Some(s) = self.find(|k| matches!(k, Kind::Below(n) if n <= 16))
        {
            self.push([add(r, Src::Reg(Reg(s))), load(Size::B, 0, r, 0)]);
            (self.regs[0], self.regs[usize::from(r)]) = (Kind::Scalar, Kind::None);
        }
    }

    fn lookup(&mut self) {
        let hash = self.rng.one_in(2);
        let (map, size) = if hash { (HASH, Size::DW) } else { (ARRAY, Size::W) };
        let off = if self.slip() { -4 } else { -8 };
        let key = match self.rng.one_in(3) {
            true => Src::Reg(Reg(self.scalar())),
            false => Src::Imm(self.rng.below(6) as i32),
        };
        let imm = Imm64::MapIdx(map);
        self.push([store(size, 10, off, key), mov(2, Src::Reg(Reg::FP)), add(2, Src::Imm(-8))]);
        self.push([Insn::LdImm64 { dst: Reg(1), imm }, Insn::LdImm64Hi]);
        self.push([Insn::Call(Call::Helper(1))]);
        self.called(Kind::ValueOrNull);
        self.written = self.written.min(-8);
        let keep = self.rng.pick(&[9u8, 7, 8]);
        if self.rng.one_in(2) && self.regs[usize::from(keep)] == Kind::None {
            self.push([mov(keep, Src::Reg(Reg(0)))]);
            self.set(keep, Kind::ValueOrNull);
        }
    }

    fn null_check(&mut self) {
        let Some(r) = self.find(|k| k == Kind::ValueOrNull) else { return };
        let jump =
            Insn::Jmp { width: Width::W64, op: JmpOp::Ne, dst: Reg(r), src: Src::Imm(0), off: 2 };
        self.push([jump, mov(0, Src::Imm(0)), Insn::Exit]);
        // Copies have the same id: all of them are checked.
        for k in self.regs.iter_mut().filter(|k| **k == Kind::ValueOrNull) {
            *k = Kind::Value;
        }
    }

    fn value_access(&mut self) {
        let Some(r) = self.find(|k| k == Kind::Value) else { return self.null_check() };
        let size = self.size();
        let n = size.bytes() as i16;
        let off = n * (self.rng.below(VALUE as u32 / n as u32) as i16);
        let off = if self.slip() { self.rng.pick(&[VALUE, -1, VALUE - 3]) } else { off };
        if self.rng.one_in(3)
            && let Some(s) = self.find(|k| matches!(k, Kind::Below(_)))
        {
            self.push([add(r, Src::Reg(Reg(s))), load(Size::B, 0, r, 0)]);
            (self.regs[0], self.regs[usize::from(r)]) = (Kind::Scalar, Kind::None);
            return;
        }
        if self.rng.one_in(2) {
            let dst = self.free();
            self.push([load(size, dst, r, off)]);
            self.set(dst, Kind::Scalar);
        } else {
            let s = self.scalar();
            self.push([store(size, r, off, Src::Reg(Reg(s)))]);
        }
    }

    fn packet_check(&mut self) {
        let Some(p) = self.find(|k| k == Kind::Packet) else { return };
        let Some(e) = self.find(|k| k == Kind::PacketEnd) else { return };
        let n = self.rng.pick(&[1i16, 2, 8, 14, 34]);
        let r = self.free();
        let jump = Insn::Jmp {
            width: Width::W64,
            op: self.rng.pick(&[JmpOp::Le, JmpOp::Lt]),
            dst: Reg(r),
            src: Src::Reg(Reg(e)),
            off: 2,
        };
        self.push([mov(r, Src::Reg(Reg(p))), add(r, Src::Imm(n.into()))]);
        self.push([jump, mov(0, Src::Imm(0)), Insn::Exit]);
        self.set(r, Kind::None);
        self.checked = n;
    }

    fn packet_access(&mut self) {
        let Some(p) = self.find(|k| k == Kind::Packet) else { return };
        let size = self.size();
        let n = size.bytes() as i16;
        if self.checked < n && !self.slip() {
            return self.packet_check();
        }
        let room = (self.checked - n).max(0) as u32 + 1;
        let (off, r) = (self.rng.below(room) as i16, self.free());
        self.push([load(size, r, p, off)]);
        self.set(r, Kind::Scalar);
    }

    /// Statements under a condition; what they set is forgotten.
    fn branch(&mut self) {
        if self.depth >= 3 {
            return;
        }
        use JmpOp::{Eq, Ge, Gt, Le, Lt, Ne, Set, Sge, Sgt, Sle, Slt};
        let op = self.rng.pick(&[Eq, Ne, Gt, Ge, Lt, Le, Sgt, Sge, Slt, Sle, Set]);
        let width = self.rng.pick(&[Width::W64, Width::W64, Width::W32]);
        let dst = Reg(self.scalar());
        let src = match self.rng.one_in(3) {
            true => Src::Reg(Reg(self.scalar())),
            false => Src::Imm(self.rng.imm32()),
        };
        let at = self.out.len();
        self.push([Insn::Jmp { width, op, dst, src, off: 0 }]);
        let before = self.regs;
        self.depth += 1;
        for _ in 0..1 + self.rng.below(4) {
            self.statement();
        }
        self.depth -= 1;
        let distance = (self.out.len() - at - 1) as i16;
        if let Some(Insn::Jmp { off, .. }) = self.out.get_mut(at) {
            *off = distance;
        }
        for (now, then) in self.regs.iter_mut().zip(before) {
            if *now != then {
                *now = Kind::None;
            }
        }
    }

    /// A bounded loop over a counter of its own.
    fn repeat(&mut self) {
        if self.depth >= 1 {
            return;
        }
        let (r, rounds) = (9u8, 1 + self.rng.below(6) as i32);
        self.push([mov(r, Src::Imm(0))]);
        self.set(r, Kind::None);
        let before = self.regs;
        let at = self.out.len();
        self.depth += 1;
        for _ in 0..1 + self.rng.below(3) {
            self.statement();
        }
        self.depth -= 1;
        self.push([add(r, Src::Imm(1))]);
        let back = at as i64 - self.out.len() as i64 - 1;
        let (width, op, dst) = (Width::W64, JmpOp::Lt, Reg(r));
        self.push([Insn::Jmp { width, op, dst, src: Src::Imm(rounds), off: back as i16 }]);
        for (now, then) in self.regs.iter_mut().zip(before) {
            if *now != then {
                *now = Kind::None;
            }
        }
    }

    fn atomic(&mut self) {
        let s = Reg(self.scalar());
        let size = self.rng.pick(&[Size::W, Size::DW]);
        use AtomicOp::{Add, And, Cmpxchg, FetchAdd, Or, Xchg, Xor};
        let op = self.rng.pick(&[Add, Or, And, Xor, FetchAdd, Xchg, Cmpxchg]);
        let (dst, off) = match self.find(|k| k == Kind::Value) {
            Some(r) if self.rng.one_in(2) => (Reg(r), 8),
            _ => (Reg::FP, -8),
        };
        if dst == Reg::FP && self.written > -8 && !self.slip() {
            self.push([store(Size::DW, 10, -8, Src::Imm(0))]);
            self.written = -8;
        }
        self.push([Insn::Atomic { size, op, dst, src: s, off }]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_makes_the_same_program() {
        assert_eq!(program(7), program(7));
        let text = |s| format!("{:?}", program(s).1);
        let different = (0..50).map(text).collect::<std::collections::BTreeSet<_>>();
        assert!(different.len() > 45);
        assert!((0..200).all(|s| program(s).1.last() == Some(&Insn::Exit)));
    }
}
