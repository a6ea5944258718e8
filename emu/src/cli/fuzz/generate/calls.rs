//! Calls: helpers with their arguments, subprograms, callbacks, dynptrs, locks.

use bpf::insn::{Call, Imm64, Insn, Reg, Size, Src};
use bpf::uapi::ProgType;

use super::super::world::{
    ARRAY, CALLBACK, GLOBAL_CTX, GLOBAL_MEM, GLOBAL_NUMBERS, HASH, LOCAL, LOCKED, PERCPU, PROGS,
    QUEUE, RINGBUF, VALUE,
};
use super::{CALLED, FUNCTIONS, Fixup, Gen, Kind, Plan, add, imm, is_scalar, mov, reg, store};

/// Helpers without arguments that return a number.
const NUMBERS: [i32; 9] = [5, 7, 8, 14, 15, 35, 80, 118, 125];

impl Gen<'_> {
    /// After a call r1 to r5 are gone.
    pub(super) fn called(&mut self, result: Kind) {
        self.regs[1..6].fill(Kind::None);
        self.regs[0] = result;
    }

    pub(super) fn helper(&mut self, id: i32, result: Kind) {
        self.push([Insn::Call(Call::Helper(id))]);
        self.called(result);
    }

    fn is_tracing(&self) -> bool {
        use ProgType as P;
        matches!(self.ty, P::Kprobe | P::Tracepoint | P::RawTracepoint | P::PerfEvent)
    }

    pub(super) fn map_arg(&mut self, r: u8, map: i32) {
        let imm = Imm64::MapIdx(map);
        self.push([Insn::LdImm64 { dst: Reg(r), imm }, Insn::LdImm64Hi]);
    }

    pub(super) fn stack_arg(&mut self, r: u8, off: i16) {
        self.push([mov(r, Src::Reg(Reg::FP)), add(r, Src::Imm(off.into()))]);
    }

    /// A size: a constant, or a number that was compared.
    fn size_arg(&mut self, r: u8, max: i16) {
        let small = |k| matches!(k, Kind::Below(n) if n <= max as u32);
        match self.find_saved(small) {
            Some(s) if self.rng.one_in(2) => self.push([mov(r, reg(s))]),
            _ if self.slip() => self.push([imm(r, i32::from(max) + 1)]),
            _ => {
                let n = 1 + self.rng.below(max as u32) as i32;
                let n = if self.rng.one_in(2) { i32::from(max) } else { n };
                self.push([imm(r, n)]);
            }
        }
    }

    /// A number that lives through the setting of arguments.
    fn number_arg(&mut self, r: u8) {
        match self.find_saved(is_scalar) {
            Some(s) if self.rng.one_in(2) => self.push([mov(r, reg(s))]),
            _ => {
                let v = self.rng.imm32();
                self.push([imm(r, v)]);
            }
        }
    }

    fn ctx_arg(&mut self, r: u8) -> bool {
        let ctx = self.find_saved(|k| k == Kind::Ctx);
        if let Some(c) = ctx {
            self.push([mov(r, reg(c))]);
        }
        ctx.is_some()
    }

    pub(super) fn number_helper(&mut self) {
        let tracing = self.is_tracing();
        let id = if tracing { self.rng.pick(&NUMBERS) } else { self.rng.pick(&[5, 7, 8, 118]) };
        self.helper(id, Kind::Scalar);
    }

    /// Memory that a helper reads or writes.
    pub(super) fn memory_helper(&mut self) {
        let max = self.rng.pick(&[8i16, 16, 16, 24]);
        match self.rng.below(6) {
            // bpf_probe_read_kernel, bpf_probe_read_kernel_str
            0 if self.target.perfmon => {
                let off = self.room(max);
                let id = self.rng.pick(&[113, 115]);
                self.size_arg(2, max);
                self.number_arg(3);
                self.stack_arg(1, off);
                self.helper(id, Kind::Scalar);
            }
            // bpf_skb_load_bytes
            1 if !self.is_tracing() && self.ty != ProgType::Xdp => {
                let off = self.room(max);
                if !self.ctx_arg(1) {
                    return;
                }
                self.number_arg(2);
                self.size_arg(4, max);
                self.stack_arg(3, off);
                self.helper(26, Kind::Scalar);
            }
            // bpf_csum_diff
            2 if !self.is_tracing() => {
                let off = self.buffer(max);
                self.push([imm(1, 0), imm(2, 0)]);
                let n = self.rng.pick(&[4, 8]);
                self.push([imm(4, n)]);
                self.number_arg(5);
                self.stack_arg(3, off);
                self.helper(28, Kind::Scalar);
            }
            // bpf_get_current_comm
            3 if self.is_tracing() => {
                let off = self.room(16);
                self.size_arg(2, 16);
                self.stack_arg(1, off);
                self.helper(16, Kind::Scalar);
            }
            // bpf_get_stack
            4 if self.is_tracing() && self.ty != ProgType::RawTracepoint => {
                let off = self.room(max);
                if !self.ctx_arg(1) {
                    return;
                }
                self.size_arg(3, max);
                self.push([imm(4, 0)]);
                self.stack_arg(2, off);
                self.helper(67, Kind::Scalar);
            }
            // bpf_ringbuf_output
            _ => {
                let off = self.buffer(max);
                self.size_arg(3, max);
                self.push([imm(4, 0)]);
                self.stack_arg(2, off);
                self.map_arg(1, RINGBUF);
                self.helper(130, Kind::Scalar);
            }
        }
    }

    pub(super) fn lookup(&mut self) {
        let (map, size, kind) = match self.rng.below(8) {
            0..=2 => (ARRAY, Size::W, Kind::ValueOrNull),
            3 => (LOCKED, Size::DW, Kind::LockedOrNull),
            4 => (PERCPU, Size::W, Kind::ValueOrNull),
            _ => (HASH, Size::DW, Kind::ValueOrNull),
        };
        let off = if self.slip() { -4 } else { -8 };
        let key = match self.rng.one_in(3) {
            true => reg(self.scalar()),
            false => Src::Imm(self.rng.below(6) as i32),
        };
        self.push([store(size, 10, off, key)]);
        self.stack_arg(2, -8);
        self.map_arg(1, map);
        self.helper(1, kind);
        self.slots[0] = if size == Size::DW { Kind::Scalar } else { Kind::None };
        let keep = self.rng.pick(&[9u8, 7, 8]);
        if self.rng.one_in(2) && self.regs[usize::from(keep)] == Kind::None {
            self.push([mov(keep, reg(0))]);
            self.set(keep, kind);
        }
    }

    /// Updates, deletions, queues.
    pub(super) fn map_helper(&mut self) {
        let off = self.buffer(VALUE);
        match self.rng.below(4) {
            0 => {
                let n = self.rng.below(4) as i32;
                self.push([imm(4, n)]);
                self.stack_arg(3, off);
                match self.find_saved(|k| k == Kind::Value) {
                    Some(v) if self.rng.one_in(3) => self.push([mov(2, reg(v))]),
                    _ => self.stack_arg(2, -8),
                }
                let map = self.rng.pick(&[ARRAY, HASH, HASH, PERCPU]);
                self.map_arg(1, map);
                self.helper(2, Kind::Scalar);
            }
            1 => {
                self.stack_arg(2, -8);
                let map = self.rng.pick(&[HASH, HASH, LOCKED, ARRAY]);
                self.map_arg(1, map);
                self.helper(3, Kind::Scalar);
            }
            2 => {
                self.push([imm(3, 0)]);
                self.stack_arg(2, -8);
                self.map_arg(1, QUEUE);
                self.helper(87, Kind::Scalar);
            }
            _ => {
                let off = self.room(8);
                self.stack_arg(2, off);
                self.map_arg(1, QUEUE);
                let id = self.rng.pick(&[88, 89]);
                self.helper(id, Kind::Scalar);
            }
        }
    }

    pub(super) fn ringbuf(&mut self) {
        if let Some(r) = self.held(|k| matches!(k, Kind::Record(_)))
            && self.rng.one_in(2)
        {
            return self.submit(r);
        }
        let open = |k| matches!(k, Kind::Record(_) | Kind::RecordOrNull(_));
        if self.held(open).is_some() && !self.slip() {
            return;
        }
        let n = self.rng.pick(&[8i16, 16, 24, 9]);
        self.push([imm(2, n.into()), imm(3, 0)]);
        self.map_arg(1, RINGBUF);
        self.helper(131, Kind::RecordOrNull(n));
        let keep = self.rng.pick(&[7u8, 8, 9]);
        self.push([mov(keep, reg(0))]);
        self.set(keep, Kind::RecordOrNull(n));
        self.set(0, Kind::None);
        self.null_check();
    }

    pub(super) fn submit(&mut self, r: u8) {
        self.push([mov(1, reg(r)), imm(2, 0)]);
        let id = self.rng.pick(&[132, 133]);
        self.helper(id, Kind::None);
        for k in self.regs.iter_mut().chain(&mut self.slots) {
            if matches!(k, Kind::Record(_)) {
                *k = Kind::None;
            }
        }
    }

    pub(super) fn tail_call(&mut self) {
        if !self.ctx_arg(1) {
            return;
        }
        self.number_arg(3);
        self.map_arg(2, PROGS);
        self.helper(12, Kind::None);
        self.forget_packets();
    }

    fn forget_packets(&mut self) {
        self.checked = 0;
        for k in self.regs.iter_mut().chain(&mut self.slots) {
            if matches!(k, Kind::Packet | Kind::PacketEnd) {
                *k = Kind::None;
            }
        }
    }

    /// Helpers after which packet pointers are no good.
    pub(super) fn change_packet(&mut self) {
        use ProgType as P;
        let id = match self.ty {
            P::Xdp => self.rng.pick(&[44, 54, 65]),
            P::SchedCls | P::LwtXmit | P::SkSkb => self.rng.pick(&[9, 39]),
            _ => return,
        };
        let off = if id == 9 { self.buffer(8) } else { 0 };
        if !self.ctx_arg(1) {
            return;
        }
        self.number_arg(2);
        if id == 9 {
            self.size_arg(4, 8);
            self.push([imm(5, 0)]);
            self.stack_arg(3, off);
        }
        self.helper(id, Kind::Scalar);
        self.forget_packets();
        if self.rng.one_in(2) {
            self.packet_pointers();
        }
    }

    /// A function that is there already and comes later, or a new one.
    fn function(&mut self, name: &'static str, args: &[Kind]) -> Option<usize> {
        let known = (self.function + 1..self.plans.len())
            .find(|f| self.plans[*f].name == name && self.plans[*f].args == args);
        if known.is_some() && self.rng.one_in(2) {
            return known;
        }
        // Every name has one type in BTF, so that names may repeat; frames have a limit.
        if self.plans.len() >= FUNCTIONS {
            return known;
        }
        self.plans.push(Plan { name, args: args.to_vec() });
        Some(self.plans.len() - 1)
    }

    fn call_to(&mut self, func: usize, result: Kind) {
        self.fixups.push(Fixup { at: self.out.len(), func });
        self.push([Insn::Call(Call::Local(0))]);
        self.called(result);
    }

    pub(super) fn call_function(&mut self) {
        match self.rng.pick(&CALLED) {
            LOCAL => {
                let sources: Vec<u8> =
                    (6..10).filter(|r| self.regs[usize::from(*r)] != Kind::None).collect();
                let first = if sources.is_empty() { 6 } else { self.rng.pick(&sources) };
                let kind = self.regs[usize::from(first)];
                if matches!(kind, Kind::Stack(_) | Kind::Record(_) | Kind::None) {
                    return;
                }
                let Some(f) = self.function(LOCAL, &[kind, Kind::Scalar]) else { return };
                self.number_arg(2);
                self.push([mov(1, reg(first))]);
                self.call_to(f, Kind::Scalar);
            }
            GLOBAL_NUMBERS => {
                let args = [Kind::Scalar, Kind::Scalar];
                let Some(f) = self.function(GLOBAL_NUMBERS, &args) else { return };
                self.number_arg(1);
                self.number_arg(2);
                self.call_to(f, Kind::Scalar);
            }
            GLOBAL_CTX => {
                let args = [Kind::Ctx, Kind::Scalar];
                let Some(f) = self.function(GLOBAL_CTX, &args) else { return };
                if !self.ctx_arg(1) && !self.slip() {
                    self.push([imm(1, 0)]);
                }
                self.number_arg(2);
                self.call_to(f, Kind::Scalar);
                self.forget_packets();
            }
            GLOBAL_MEM => {
                let args = [Kind::MemOrNull(16), Kind::Scalar];
                let Some(f) = self.function(GLOBAL_MEM, &args) else { return };
                match self.find_saved(|k| k == Kind::Value) {
                    Some(v) => self.push([mov(1, reg(v))]),
                    None => {
                        let off = self.buffer(16);
                        self.stack_arg(1, off);
                    }
                }
                self.number_arg(2);
                self.call_to(f, Kind::Scalar);
            }
            _ => {}
        }
    }

    /// `bpf_loop`, `bpf_for_each_map_elem`.
    pub(super) fn call_back(&mut self) {
        let each = self.rng.one_in(3);
        let off = self.buffer(16);
        let args: &[Kind] = match each {
            true => &[Kind::None, Kind::None, Kind::Value, Kind::Stack(-16)],
            false => &[Kind::Scalar, Kind::Stack(-16)],
        };
        let Some(func) = self.function(CALLBACK, args) else { return };
        let n = self.rng.pick(&[0, 1, 3, 5, 100]);
        match each {
            true => {
                let map = self.rng.pick(&[HASH, ARRAY]);
                self.map_arg(1, map);
            }
            false if self.rng.one_in(3) => self.number_arg(1),
            false => self.push([imm(1, n)]),
        }
        self.fixups.push(Fixup { at: self.out.len(), func });
        self.push([Insn::LdImm64 { dst: Reg(2), imm: Imm64::Func(0) }, Insn::LdImm64Hi]);
        self.stack_arg(3, off);
        self.push([imm(4, 0)]);
        self.helper(if each { 164 } else { 181 }, Kind::Scalar);
    }

    /// A dynptr of memory or of a record, read and written.
    pub(super) fn dynptr(&mut self) {
        let at = -16 - 8 * (SLOTS_LOW as i16);
        let record = self.rng.one_in(2);
        if record {
            self.push([imm(2, 16), imm(3, 0)]);
            self.stack_arg(4, at);
            self.map_arg(1, RINGBUF);
            self.helper(198, Kind::Scalar);
        } else {
            let Some(v) = self.find_saved(|k| k == Kind::Value) else { return };
            self.push([mov(1, reg(v)), imm(2, VALUE.into()), imm(3, 0)]);
            self.stack_arg(4, at);
            self.helper(197, Kind::Scalar);
        }
        for _ in 0..self.rng.below(3) {
            self.use_dynptr(at);
        }
        if record && !self.slip() {
            self.stack_arg(1, at);
            self.push([imm(2, 0)]);
            let id = self.rng.pick(&[199, 200]);
            self.helper(id, Kind::None);
            // A slice of it is no good any more.
            for k in self.regs.iter_mut().chain(&mut self.slots) {
                if matches!(k, Kind::Mem(_) | Kind::MemOrNull(_)) {
                    *k = Kind::None;
                }
            }
        }
    }

    fn use_dynptr(&mut self, at: i16) {
        match self.rng.below(3) {
            0 => {
                let off = self.room(8);
                self.number_arg(4);
                self.push([imm(2, 8), imm(5, 0)]);
                self.stack_arg(3, at);
                self.stack_arg(1, off);
                self.helper(201, Kind::Scalar);
            }
            1 => {
                let off = self.buffer(8);
                self.number_arg(2);
                self.push([imm(4, 8), imm(5, 0)]);
                self.stack_arg(3, off);
                self.stack_arg(1, at);
                self.helper(202, Kind::Scalar);
            }
            _ => {
                self.number_arg(2);
                self.push([imm(3, 8)]);
                self.stack_arg(1, at);
                self.helper(203, Kind::MemOrNull(8));
                let keep = self.rng.pick(&[8u8, 9]);
                if self.regs[usize::from(keep)] == Kind::None {
                    self.push([mov(keep, reg(0))]);
                    self.set(keep, Kind::MemOrNull(8));
                }
            }
        }
    }

    /// A few accesses under `bpf_spin_lock`.
    pub(super) fn spin_lock(&mut self) {
        let Some(v) = self.find_saved(|k| k == Kind::Locked) else { return };
        self.push([mov(1, reg(v)), add(1, Src::Imm(4))]);
        self.helper(93, Kind::None);
        self.locked = true;
        for _ in 0..self.rng.below(3) {
            match self.rng.below(3) {
                0 => self.alu(),
                1 => self.stack_load(),
                _ => {
                    let s = self.scalar();
                    self.push([store(Size::DW, v, 16, reg(s))]);
                }
            }
        }
        self.locked = false;
        if self.slip() {
            return;
        }
        let still = if self.slip() { 0 } else { 4 };
        self.push([mov(1, reg(v)), add(1, Src::Imm(still))]);
        self.helper(94, Kind::None);
    }
}

/// Dynptrs lie below the slots that statements use.
const SLOTS_LOW: usize = super::SLOTS + 4;
