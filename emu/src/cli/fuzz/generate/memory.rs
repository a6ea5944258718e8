//! Statements on memory: stack, map values, packets, context, atomics.

use bpf::insn::{AtomicOp, Imm64, Insn, JmpOp, Reg, Size, Src};
use bpf::uapi::ProgType;

use super::super::world::{GLOBAL, VALUE};
use super::{Gen, Kind, SLOTS, add, imm, is_scalar, load, mov, reg, store};

impl Gen<'_> {
    /// The slot an access belongs to.
    fn slot_of(off: i16) -> Option<usize> {
        let slot = usize::try_from((-off - 1) / 8).ok()?;
        (off < 0 && slot < SLOTS).then_some(slot)
    }

    fn slot(&mut self, size: Size) -> i16 {
        let n = size.bytes() as i16;
        let slot = 1 + self.rng.below(SLOTS as u32) as i16;
        let within = n * (self.rng.below(8 / n as u32) as i16);
        let within = if self.rng.one_in(2) { 0 } else { within };
        if self.slip() {
            return self.rng.pick(&[-512, -516, -520, 0, 8, -3]);
        }
        within - 8 * slot
    }

    pub(super) fn stack_store(&mut self) {
        let size = if self.rng.one_in(2) { Size::DW } else { self.size() };
        let off = self.slot(size);
        let (src, kind) = match self.rng.below(3) {
            0 => (Src::Imm(self.rng.imm32()), Kind::Scalar),
            1 => (Src::Reg(Reg(self.scalar())), Kind::Scalar),
            _ => match self.find(|k| k != Kind::None) {
                Some(r) => (reg(r), self.regs[usize::from(r)]),
                None => return,
            },
        };
        let whole = size == Size::DW;
        if !whole && !is_scalar(kind) && !self.slip() {
            return;
        }
        self.push([store(size, 10, off, src)]);
        let Some(slot) = Self::slot_of(off) else { return };
        // Of a slot that was written in part the rest may not be readable.
        self.slots[slot] = match whole {
            true => kind,
            false if is_scalar(self.slots[slot]) => Kind::Scalar,
            false => Kind::None,
        };
    }

    pub(super) fn stack_load(&mut self) {
        let full: Vec<usize> = (0..SLOTS).filter(|s| self.slots[*s] != Kind::None).collect();
        if full.is_empty() || self.rng.one_in(8) {
            let size = self.size();
            let (r, off) = (self.free(), self.slot(size));
            if !self.rng.one_in(4) {
                return;
            }
            self.push([load(size, r, 10, off)]);
            return self.set(r, Kind::Scalar);
        }
        let slot = self.rng.pick(&full);
        let (r, kind) = (self.free(), self.slots[slot]);
        let off = -8 * (slot as i16 + 1);
        if is_scalar(kind) && self.rng.one_in(2) {
            let size = self.size();
            let n = size.bytes() as i16;
            let within = n * (self.rng.below(8 / n as u32) as i16);
            let sext = size != Size::DW && self.rng.one_in(3);
            let (dst, src) = (Reg(r), Reg::FP);
            self.push([Insn::Load { size, sext, dst, src, off: off + within }]);
            return self.set(r, Kind::Scalar);
        }
        self.push([load(Size::DW, r, 10, off)]);
        if matches!(kind, Kind::Record(_)) {
            self.slots[slot] = Kind::None;
        }
        self.set(r, kind);
    }

    /// Bytes of the stack that can be read: the slots from one on, upwards.
    pub(super) fn buffer(&mut self, bytes: i16) -> i16 {
        let slots = usize::try_from((bytes + 7) / 8).unwrap_or(1).clamp(1, SLOTS);
        for s in 0..slots {
            if !is_scalar(self.slots[s]) && !self.slip() {
                let value = Src::Imm(self.rng.imm32());
                self.push([store(Size::DW, 10, -8 * (s as i16 + 1), value)]);
                self.slots[s] = Kind::Scalar;
            }
        }
        -8 * slots as i16
    }

    /// Bytes of the stack that are written by somebody else.
    pub(super) fn room(&mut self, bytes: i16) -> i16 {
        let slots = usize::try_from((bytes + 7) / 8).unwrap_or(1).clamp(1, SLOTS);
        let whole = slots * 8 == usize::try_from(bytes).unwrap_or(0);
        let keep = whole || !self.target.perfmon;
        if !whole && !self.target.perfmon {
            self.buffer(bytes);
        }
        self.slots[..slots].fill(if keep { Kind::Scalar } else { Kind::None });
        -8 * slots as i16
    }

    pub(super) fn stack_pointer(&mut self) {
        let (r, off) = (self.free(), -8 * (1 + self.rng.below(4) as i16));
        self.push([mov(r, Src::Reg(Reg::FP)), add(r, Src::Imm(off.into()))]);
        self.set(r, Kind::Stack(off));
        if self.rng.one_in(3)
            && let Some(s) = self.find(|k| matches!(k, Kind::Below(n) if n <= 16))
        {
            let size = self.rng.pick(&[Size::B, Size::B, Size::W]);
            self.push([add(r, reg(s))]);
            if self.rng.one_in(2) {
                self.push([store(size, r, 0, Src::Imm(1))]);
                self.slots.fill(Kind::None);
            } else {
                self.push([load(size, 0, r, 0)]);
                self.set(0, Kind::Scalar);
            }
            self.set(r, Kind::None);
        }
    }

    pub(super) fn null_check(&mut self) {
        use Kind as K;
        let maybe = |k| {
            matches!(k, K::ValueOrNull | K::LockedOrNull | K::RecordOrNull(_) | K::MemOrNull(_))
        };
        let Some(r) = self.find(maybe) else { return };
        let kind = self.regs[usize::from(r)];
        self.leave_unless(super::jump(JmpOp::Ne, r, Src::Imm(0), 2));
        let now = match kind {
            K::ValueOrNull => K::Value,
            K::LockedOrNull => K::Locked,
            K::RecordOrNull(n) => K::Record(n),
            K::MemOrNull(n) => K::Mem(n),
            other => return self.set(r, other),
        };
        // Copies have the same id: all of them are checked.
        for k in self.regs.iter_mut().chain(&mut self.slots).filter(|k| **k == kind) {
            *k = now;
        }
    }

    pub(super) fn value_access(&mut self) {
        use Kind as K;
        let usable = |k| matches!(k, K::Value | K::Locked | K::Record(_) | K::Mem(_));
        let Some(r) = self.find(usable) else { return self.null_check() };
        let room = match self.regs[usize::from(r)] {
            K::Record(n) | K::Mem(n) => n,
            _ => VALUE,
        };
        let size = self.size();
        let n = size.bytes() as i16;
        if room < n {
            return;
        }
        let off = n * (self.rng.below((room / n) as u32) as i16);
        let off = if self.slip() { self.rng.pick(&[room, -1, room - 3]) } else { off };
        if self.rng.one_in(3)
            && !matches!(self.regs[usize::from(r)], K::Record(_))
            && let Some(s) = self.find(|k| matches!(k, K::Below(_)))
        {
            self.push([add(r, reg(s)), load(Size::B, 0, r, 0)]);
            self.set(0, K::Scalar);
            return self.set(r, K::None);
        }
        if self.rng.one_in(2) {
            let dst = self.free();
            let sext = size != Size::DW && self.rng.one_in(4);
            self.push([Insn::Load { size, sext, dst: Reg(dst), src: Reg(r), off }]);
            self.set(dst, K::Scalar);
        } else {
            let s = self.scalar();
            self.push([store(size, r, off, reg(s))]);
        }
    }

    /// The address of the only value of a map.
    pub(super) fn global_value(&mut self) {
        let r = self.free();
        let off = if self.rng.one_in(3) { self.rng.below(VALUE as u32) } else { 0 };
        let value = Imm64::MapIdxValue { idx: GLOBAL, off };
        self.push([Insn::LdImm64 { dst: Reg(r), imm: value }, Insn::LdImm64Hi]);
        self.set(r, if off == 0 { Kind::Value } else { Kind::Mem(VALUE - off as i16) });
    }

    /// Fields of `data` and `data_end`, where there are.
    fn packet_fields(&self) -> Option<(i16, i16, Size)> {
        use ProgType as P;
        match self.ty {
            P::Xdp => Some((0, 4, Size::W)),
            P::SchedCls | P::CgroupSkb | P::LwtXmit | P::SkSkb => Some((76, 80, Size::W)),
            _ => None,
        }
    }

    pub(super) fn packet_pointers(&mut self) {
        let Some((data, end, size)) = self.packet_fields() else { return };
        let Some(ctx) = self.held(|k| k == Kind::Ctx) else { return };
        if self.rng.one_in(3) {
            return;
        }
        self.push([load(size, 7, ctx, data), load(size, 8, ctx, end)]);
        (self.regs[7], self.regs[8]) = (Kind::Packet, Kind::PacketEnd);
        self.checked = 0;
    }

    pub(super) fn ctx_load(&mut self) {
        let Some(ctx) = self.find(|k| k == Kind::Ctx) else { return };
        let r = self.free();
        let wide = matches!(
            self.ty,
            ProgType::Kprobe | ProgType::RawTracepoint | ProgType::Tracepoint | ProgType::PerfEvent
        );
        let (size, off) = match wide {
            true => (Size::DW, self.rng.pick(&[0i16, 8, 16, 24])),
            false => (Size::W, self.rng.pick(&[0i16, 4, 8, 12, 16, 40, 44, 68])),
        };
        let size = if self.rng.one_in(5) { self.size() } else { size };
        if self.ty == ProgType::Xdp && off < 12 {
            return self.packet_pointers();
        }
        self.push([load(size, r, ctx, off)]);
        self.set(r, Kind::Scalar);
    }

    pub(super) fn packet_check(&mut self) {
        let Some(p) = self.find(|k| k == Kind::Packet) else { return };
        let Some(e) = self.find(|k| k == Kind::PacketEnd) else { return };
        let n = self.rng.pick(&[1i16, 2, 8, 14, 34]);
        let r = self.free();
        let op = self.rng.pick(&[JmpOp::Le, JmpOp::Lt]);
        self.push([mov(r, reg(p)), add(r, Src::Imm(n.into()))]);
        self.leave_unless(super::jump(op, r, reg(e), 2));
        self.set(r, Kind::None);
        self.checked = n;
    }

    pub(super) fn packet_access(&mut self) {
        let Some(p) = self.find(|k| k == Kind::Packet) else { return };
        let size = self.size();
        let n = size.bytes() as i16;
        if self.checked < n && !self.slip() {
            return self.packet_check();
        }
        let room = (self.checked - n).max(0) as u32 + 1;
        let (off, r) = (self.rng.below(room) as i16, self.free());
        if self.rng.one_in(4) {
            let s = self.scalar();
            return self.push([store(size, p, off, reg(s))]);
        }
        let sext = size != Size::DW && self.rng.one_in(4);
        self.push([Insn::Load { size, sext, dst: Reg(r), src: Reg(p), off }]);
        self.set(r, Kind::Scalar);
    }

    /// A packet pointer that moved by a number, compared, read.
    pub(super) fn packet_variable(&mut self) {
        let Some(p) = self.find(|k| k == Kind::Packet) else { return };
        let Some(e) = self.find(|k| k == Kind::PacketEnd) else { return };
        let Some(s) = self.find(|k| matches!(k, Kind::Below(_))) else { return self.bound() };
        let (r, t) = (self.free(), self.free());
        if r == t || [p, e, s].contains(&r) || [p, e, s].contains(&t) {
            return;
        }
        let n = self.rng.pick(&[1i16, 2, 4, 8]);
        let op = self.rng.pick(&[JmpOp::Le, JmpOp::Lt]);
        self.push([mov(r, reg(p)), add(r, reg(s)), mov(t, reg(r)), add(t, Src::Imm(n.into()))]);
        self.leave_unless(super::jump(op, t, reg(e), 2));
        let size = self.rng.pick(&[Size::B, Size::H, Size::W]);
        self.push([load(size, t, r, 0)]);
        self.set(t, Kind::Scalar);
        self.set(r, Kind::None);
    }

    pub(super) fn ld_abs(&mut self) {
        use ProgType as P;
        let skb = matches!(self.ty, P::SocketFilter | P::SchedCls | P::CgroupSkb);
        if (!skb || self.regs[6] != Kind::Ctx) && !self.slip() {
            return;
        }
        let size = self.rng.pick(&[Size::B, Size::H, Size::W]);
        let at = self.rng.below(64) as i32;
        let insn = match self.rng.one_in(2) {
            true => Insn::LdAbs { size, imm: at },
            false => Insn::LdInd { size, src: Reg(self.scalar()), imm: at },
        };
        self.push([insn]);
        self.called(Kind::Scalar);
    }

    pub(super) fn atomic(&mut self) {
        use AtomicOp as A;
        let s = Reg(self.scalar());
        let (dst, off) = match self.find(|k| matches!(k, Kind::Value | Kind::Locked)) {
            Some(r) if self.rng.one_in(2) => (Reg(r), 8),
            _ => (Reg::FP, -8),
        };
        if dst == Reg::FP && !is_scalar(self.slots[0]) && !self.slip() {
            self.push([store(Size::DW, 10, -8, Src::Imm(0))]);
            self.slots[0] = Kind::Scalar;
        }
        if self.rng.one_in(5) {
            let size = self.size();
            let insn = match self.rng.one_in(2) {
                true => Insn::LoadAcquire { size, dst: s, src: dst, off },
                false => Insn::StoreRelease { size, dst, off, src: s },
            };
            return self.push([insn]);
        }
        let size = self.rng.pick(&[Size::W, Size::DW]);
        let op = self.rng.pick(&[
            A::Add,
            A::Or,
            A::And,
            A::Xor,
            A::FetchAdd,
            A::FetchOr,
            A::FetchAnd,
            A::FetchXor,
            A::Xchg,
            A::Cmpxchg,
        ]);
        if op == A::Cmpxchg && !is_scalar(self.regs[0]) && !self.slip() {
            self.push([imm(0, 0)]);
        }
        self.push([Insn::Atomic { size, op, dst, src: s, off }]);
        match op {
            A::Cmpxchg => self.set(0, Kind::Scalar),
            A::FetchAdd | A::FetchOr | A::FetchAnd | A::FetchXor | A::Xchg => {
                self.set(s.0, Kind::Scalar);
            }
            _ => {}
        }
    }
}
