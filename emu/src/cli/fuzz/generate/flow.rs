//! Control flow: branches, loops, critical sections.

use bpf::insn::{Call, Insn, JmpOp, Reg, Size, Src, Width};

use super::{Gen, Kind, SECTION, SLOTS, add, imm, jump, load, reg, store};

/// The condition that holds when another does not.
fn opposite(op: JmpOp) -> Option<JmpOp> {
    use JmpOp::{Eq, Ge, Gt, Le, Lt, Ne, Set, Sge, Sgt, Sle, Slt};
    Some(match op {
        Eq => Ne,
        Ne => Eq,
        Gt => Le,
        Le => Gt,
        Ge => Lt,
        Lt => Ge,
        Sgt => Sle,
        Sle => Sgt,
        Sge => Slt,
        Slt => Sge,
        Set => return None,
    })
}

impl Gen<'_> {
    fn condition(&mut self) -> Insn {
        use JmpOp::{Eq, Ge, Gt, Le, Lt, Ne, Set, Sge, Sgt, Sle, Slt};
        let op = self.rng.pick(&[Eq, Ne, Gt, Ge, Lt, Le, Sgt, Sge, Slt, Sle, Set]);
        let width = self.rng.pick(&[Width::W64, Width::W64, Width::W32]);
        let dst = Reg(self.scalar());
        let src = match self.rng.one_in(3) {
            true => Src::Reg(Reg(self.scalar())),
            false => Src::Imm(self.rng.imm32()),
        };
        Insn::Jmp { width, op, dst, src, off: 0 }
    }

    /// Statements of their own; what they change is forgotten.
    fn block(&mut self, n: u32) {
        let (regs, slots) = (self.regs, self.slots);
        self.depth += 1;
        for _ in 0..n {
            self.statement();
        }
        self.depth -= 1;
        self.merge(regs, slots);
    }

    fn merge(&mut self, regs: [Kind; 10], slots: [Kind; SLOTS]) {
        let now = self.regs.iter_mut().chain(&mut self.slots);
        for (now, then) in now.zip(regs.iter().chain(&slots)) {
            if *now != *then {
                *now = Kind::None;
            }
        }
    }

    /// Lets the jump at `at` lead to what follows.
    fn land(&mut self, at: usize) {
        let distance = (self.out.len() - at - 1) as i64;
        match self.out.get_mut(at) {
            Some(Insn::Jmp { off, .. } | Insn::MayGoto { off }) => *off = distance as i16,
            Some(Insn::Ja { off, .. }) => *off = distance as i32,
            _ => {}
        }
    }

    fn back_to(&self, at: usize) -> i64 {
        at as i64 - self.out.len() as i64 - 1
    }

    /// Statements under a condition.
    pub(super) fn branch(&mut self) {
        if self.depth % SECTION >= 3 {
            return;
        }
        let condition = self.condition();
        let at = self.out.len();
        self.push([condition]);
        let n = 1 + self.rng.below(4);
        self.block(n);
        self.land(at);
    }

    /// One thing or another.
    pub(super) fn either(&mut self) {
        if self.depth % SECTION >= 3 {
            return;
        }
        let condition = self.condition();
        let at = self.out.len();
        let (regs, slots) = (self.regs, self.slots);
        self.push([condition]);
        let n = 1 + self.rng.below(3);
        self.block(n);
        let over = self.out.len();
        let long = self.rng.one_in(8);
        self.push([Insn::Ja { off: 0, long }]);
        self.land(at);
        let after = (self.regs, self.slots);
        (self.regs, self.slots) = (regs, slots);
        // The other condition, or the same once more: one of its ways is dead.
        if let Insn::Jmp { width, op, dst, src, .. } = condition
            && self.rng.one_in(3)
        {
            let op = opposite(op).filter(|_| self.rng.one_in(2)).unwrap_or(op);
            self.push([Insn::Jmp { width, op, dst, src, off: 1 }, imm(dst.0, 0)]);
        }
        let n = 1 + self.rng.below(3);
        self.block(n);
        self.land(over);
        self.merge(after.0, after.1);
    }

    /// A bounded loop over a counter of its own.
    pub(super) fn repeat(&mut self) {
        if self.depth % SECTION >= 1 {
            return;
        }
        let (r, rounds) = (9u8, 1 + self.rng.below(6) as i32);
        let spilled = self.rng.one_in(3);
        self.push([imm(r, 0)]);
        self.set(r, Kind::None);
        if spilled {
            self.push([store(Size::DW, 10, -80, reg(r))]);
        }
        let at = self.out.len();
        let n = 1 + self.rng.below(3);
        self.block(n);
        if spilled {
            self.push([load(Size::DW, r, 10, -80)]);
        }
        self.push([add(r, Src::Imm(1))]);
        if spilled {
            self.push([store(Size::DW, 10, -80, reg(r))]);
        }
        let back = self.back_to(at);
        let op = self.rng.pick(&[JmpOp::Lt, JmpOp::Lt, JmpOp::Ne, JmpOp::Slt]);
        self.push([jump(op, r, Src::Imm(rounds), back as i16)]);
    }

    pub(super) fn may_goto(&mut self) {
        if self.depth % SECTION >= 1 {
            return;
        }
        let at = self.out.len();
        self.push([Insn::MayGoto { off: 0 }]);
        let n = 1 + self.rng.below(3);
        self.block(n);
        let back = self.back_to(at);
        self.push([Insn::Ja { off: back as i32, long: false }]);
        self.land(at);
    }

    /// `bpf_for`: an open-coded iterator of numbers.
    pub(super) fn iterate(&mut self) {
        let k = self.target.kfuncs;
        let (Some(new), Some(next), Some(destroy)) = (k.iter_new, k.iter_next, k.iter_destroy)
        else {
            return;
        };
        if self.depth % SECTION >= 1 {
            return;
        }
        let call = |id| Insn::Call(Call::Kfunc { btf_id: id, off: 0 });
        let at = -96;
        let to = self.rng.pick(&[0, 1, 5, 1000]);
        self.push([imm(2, 0), imm(3, to)]);
        self.stack_arg(1, at);
        self.push([call(new)]);
        self.called(Kind::Scalar);
        let head = self.out.len();
        self.stack_arg(1, at);
        self.push([call(next)]);
        self.called(Kind::None);
        let leave = self.out.len();
        self.push([jump(JmpOp::Eq, 0, Src::Imm(0), 0)]);
        let before = (self.regs, self.slots);
        if self.rng.one_in(2) {
            self.push([load(Size::W, 7, 0, 0)]);
            self.set(7, Kind::Scalar);
        }
        // The iterator must be destroyed: nothing leaves from inside.
        self.depth += SECTION;
        let n = self.rng.below(4);
        self.block(n);
        self.depth -= SECTION;
        let back = self.back_to(head);
        self.push([Insn::Ja { off: back as i32, long: false }]);
        self.land(leave);
        self.merge(before.0, before.1);
        if !self.slip() {
            self.stack_arg(1, at);
            self.push([call(destroy)]);
        }
        self.called(Kind::None);
    }

    /// Statements between `bpf_rcu_read_lock` or `bpf_preempt_disable` and its end.
    pub(super) fn section(&mut self) {
        let k = self.target.kfuncs;
        let Some((begin, end)) = (if self.rng.one_in(2) { k.rcu } else { k.preempt }) else {
            return;
        };
        if self.depth >= SECTION {
            return;
        }
        let call = |id| Insn::Call(Call::Kfunc { btf_id: id, off: 0 });
        self.push([call(begin)]);
        self.called(Kind::None);
        self.depth += SECTION;
        for _ in 0..self.rng.below(4) {
            self.statement();
        }
        self.depth -= SECTION;
        if !self.slip() {
            self.push([call(end)]);
        }
        self.called(Kind::None);
    }
}
