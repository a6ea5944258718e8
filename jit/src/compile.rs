//! The driver: walks the BPF instructions once and never asks which architecture.
//!
//! It owns what all back ends share: labels and lengths of branches (`buffer.rs`), zero-extension,
//! the exception table, the debug map, which functions carry the tail-call counter, and where
//! an epilogue is shared.

use crate::buffer::{Buffer, Finished, Label, Moves};
use crate::frame::{Frame, unsettled};
use crate::fuse;
use crate::halves::{self, Halves};
use crate::isa::{Isa, Mem};
use crate::{
    Compiled, DebugMap, ExEntry, FrameChange, FuncMap, InsnRange, NativeOff, Point, PointKind,
    RelocKind,
};
use bpf::insn::{AluOp, Call, Cast, Imm64, Insn, InsnIdx, JmpOp, Reg, Src, Width};
use bpf::program::Line;
use verifier::Verified;
use verifier::rewrite::{TAIL_CALL, TIMED_MAY_GOTO};
use verifier::verified::{Arena, MemClass, SubprogFacts};

/// Native bytes of most programs, for each of their slots.
const BYTES_PER_SLOT: usize = 8;

/// Compiles for one architecture.
pub(crate) fn run<I: Isa>(v: &Verified) -> Compiled {
    let targets = jump_targets(v);
    let frames: Vec<Frame> =
        v.subprogs().iter().enumerate().map(|(i, f)| Frame::of(v, f, i == 0)).collect();
    let halves = halves::of::<I>(v);
    let mut pass = Pass::<I> {
        v,
        targets: &targets,
        frames: &frames,
        halves: &halves,
        b: Buffer::new(v.len() + v.subprogs().len(), v.len() * BYTES_PER_SLOT),
        extable: Vec::new(),
        debug: DebugMap { insns: Vec::with_capacity(v.len()), ..DebugMap::default() },
        shared_epilogue: None,
        exits: 0,
        done: None,
        isa: std::marker::PhantomData,
    };
    for i in 0..v.subprogs().len() {
        pass.function(i);
    }
    let Pass { b, mut extable, mut debug, .. } = pass;
    let (done, moves) = b.finish();
    if !moves.none() {
        follow(moves, &mut extable, &mut debug);
    }
    let at = v.subprogs().iter().position(|f| f.is_exception);
    let exception = at.map(|n| debug.funcs[n].start);
    let debug = DebugMap { points: points(v, &debug), ..debug };
    Compiled { exception, ..finish::<I>(done, extable, debug) }
}

fn finish<I: Isa>(done: Finished, extable: Vec<ExEntry>, debug: DebugMap) -> Compiled {
    Compiled {
        arch: I::FACTS.arch,
        code: done.code,
        relocs: done.relocs,
        extable,
        debug,
        native_insns: done.insns,
        exception: None,
    }
}

/// What was noted while code was put, where it is now.
fn follow(mut moves: Moves, extable: &mut [ExEntry], debug: &mut DebugMap) {
    let mut to = |off: &mut NativeOff| *off = moves.to(*off);
    for e in extable {
        to(&mut e.fault);
        to(&mut e.resume);
    }
    for r in &mut debug.insns {
        to(&mut r.retired_at);
        to(&mut r.start);
        to(&mut r.first_end);
        to(&mut r.end);
    }
    for f in &mut debug.funcs {
        to(&mut f.start);
        to(&mut f.body);
        to(&mut f.tail_call_entry);
        f.epilogue.iter_mut().for_each(&mut to);
        to(&mut f.end);
        f.frame.iter_mut().for_each(|(at, _)| to(at));
    }
}

/// Slots that a branch may reach natively. `goto +0` is not a branch: it emits nothing.
fn jump_targets(v: &Verified) -> Vec<bool> {
    let mut targets = vec![false; v.len()];
    for (at, insn, _) in v.insns() {
        if let Some(off) = insn.jump_off()
            && off != 0
        {
            targets[resolve(at, off).idx()] = true;
        }
    }
    targets
}

/// A line of the source begins at a slot of the program as it was given, and not at one before it.
fn line_begins(lines: &[Line], before: InsnIdx, at: InsnIdx) -> bool {
    let covered = lines.partition_point(|l| l.insn <= at);
    let Some(here) = covered.checked_sub(1) else { return false };
    let line = |n: usize| lines[n].line;
    lines[here].insn > before && here.checked_sub(1).is_none_or(|n| line(n) != line(here))
}

/// Points of a program, from the debug map of its code.
fn points(v: &Verified, debug: &DebugMap) -> Vec<Point> {
    let enter = |(n, f): (usize, &FuncMap)| {
        let orig = v.insn(v.subprogs()[n].start).1.orig;
        Point { kind: PointKind::Enter, orig, first: f.start, last: f.start }
    };
    let mut out: Vec<Point> = debug.funcs.iter().enumerate().skip(1).map(enter).collect();
    // One of each slot.
    let range = |at: InsnIdx| {
        let r = &debug.insns[at.idx()];
        assert!(r.insn == at, "functions are in the order of their slots");
        r
    };
    for (at, insn, facts) in v.insns() {
        if let Insn::Call(Call::Local(_)) = insn {
            let r = range(at);
            let first = NativeOff(r.start.0 + 1);
            out.push(Point { kind: PointKind::Leave, orig: facts.orig, first, last: r.end });
        }
        if let Some(off) = insn.jump_off().filter(|off| *off < 0) {
            let r = range(resolve(at, off));
            let kind = PointKind::Back;
            out.push(Point { kind, orig: r.orig, first: r.start, last: r.start });
        }
    }
    out.sort_by_key(|p| (p.first, p.last));
    out.dedup();
    out
}

fn resolve(at: InsnIdx, off: i32) -> InsnIdx {
    let to = i64::from(at.0) + 1 + i64::from(off);
    InsnIdx(u32::try_from(to).expect("the verifier checked every jump target"))
}

struct Pass<'a, I> {
    v: &'a Verified,
    targets: &'a [bool],
    frames: &'a [Frame],
    halves: &'a [Halves],
    b: Buffer,
    extable: Vec<ExEntry>,
    debug: DebugMap,
    /// The epilogue of the current function that later exits jump to.
    shared_epilogue: Option<(Label, NativeOff)>,
    exits: u32,
    /// An instruction that the one before it computed as well.
    done: Option<InsnIdx>,
    isa: std::marker::PhantomData<I>,
}

impl<I: Isa> Pass<'_, I> {
    /// Label of a BPF instruction.
    fn insn_label(&self, at: InsnIdx) -> Label {
        Label(at.0)
    }

    /// Label of a function's entry (before its prologue).
    fn func_label(&self, index: usize) -> Label {
        Label(u32::try_from(self.v.len() + index).expect("slots and functions fit u32"))
    }

    /// Function that starts at a slot.
    fn func_at(&self, at: InsnIdx) -> usize {
        let n = self.v.subprogs().iter().position(|f| f.start == at);
        n.expect("the verifier found every function that is called")
    }

    fn function(&mut self, index: usize) {
        let f: &SubprogFacts = &self.v.subprogs()[index];
        let frame = self.frames[index];
        self.shared_epilogue = None;
        self.exits = 0;
        self.b.bind(self.func_label(index));
        let start = self.b.here();
        self.b.enter(I::frame_bytes(&frame));
        I::prologue(&mut self.b, &frame);
        let body = self.b.here();
        for i in f.start.0..f.end.0 {
            self.insn(InsnIdx(i), f, &frame);
        }
        let skip = if index == 0 { I::FACTS.tail_call_offset } else { 0 };
        self.debug.funcs.push(FuncMap {
            name: f.name.clone(),
            start,
            body,
            tail_call_entry: NativeOff(start.0 + skip),
            epilogue: self.shared_epilogue.map(|(_, at)| at),
            exits: self.exits,
            end: self.b.here(),
            frame_bytes: I::frame_bytes(&frame),
            saved: I::saved_regs(&frame),
            frame: self.b.take_frame(),
        });
    }

    fn insn(&mut self, at: InsnIdx, f: &SubprogFacts, frame: &Frame) {
        let (insn, facts) = self.v.insn(at);
        self.b.bind(self.insn_label(at));
        let start = self.b.here();
        self.b.take_first_end();
        let done = self.done.take() == Some(at);
        if !done && !self.both(at, f) {
            if facts.mem == MemClass::Arena {
                self.arena_address(insn);
                self.lower(at, &through_ax(insn), f, frame);
            } else {
                self.lower(at, insn, f, frame);
            }
            self.zext(at);
        }
        let first = facts.first && *insn != Insn::LdImm64Hi;
        // Counting by block: an empty instruction must not be counted when only its successor
        // is jumped to.
        let next = at.idx() + 1;
        let alone = next == f.end.idx() || self.targets[next];
        if first && alone && !done && self.b.here() == start {
            I::emit_nop(&mut self.b);
        }
        let fault = self.b.take_fault();
        let end = self.b.here();
        if facts.mem != MemClass::Plain {
            let fault = fault.expect("memory leaves mark the instruction that may fault");
            let entry = match facts.mem {
                MemClass::Arena => ex_entry(&through_ax(insn), fault, end),
                _ => ex_entry(insn, fault, end),
            };
            self.extable.push(entry);
        }
        let first_end = self.b.take_first_end();
        let unsettled = unsettled(insn);
        let Halves { low, unsure } = self.halves.get(at.idx()).copied().unwrap_or_default();
        let orig = facts.orig;
        let before = self.debug.insns.last().filter(|_| done);
        let retired_at = before.map_or(start, |r| r.start);
        self.debug.insns.push(InsnRange {
            insn: at,
            orig,
            first,
            retired_at,
            start,
            end,
            first_end,
            unsettled,
            low,
            unsure,
        });
    }

    fn zext(&mut self, at: InsnIdx) {
        let (insn, facts) = self.v.insn(at);
        if facts.zext && !I::zero_extends(insn) {
            I::emit_zext(&mut self.b, insn.result().expect("what is extended is a result"));
        }
    }

    /// This instruction and the next as one, where the machine can and nothing begins at the next.
    fn both(&mut self, at: InsnIdx, f: &SubprogFacts) -> bool {
        let next = InsnIdx(at.0 + 1);
        if next >= f.end || self.targets[next.idx()] {
            return false;
        }
        let three = fuse::three(self.v.insn(at).0, self.v.insn(next).0);
        let Some(t) = three else { return false };
        // A line of the source that begins there has native code of its own to begin with.
        let orig = |i| self.v.insn(i).1.orig;
        if line_begins(&self.v.program().lines, orig(at), orig(next)) {
            return false;
        }
        let made = I::emit_alu3(&mut self.b, t.width, t.op, t.dst, t.a, t.src);
        if made {
            self.zext(next);
            self.done = Some(next);
        }
        made
    }

    /// One leaf per instruction.
    // tidy: flat match
    fn lower(&mut self, at: InsnIdx, insn: &Insn, f: &SubprogFacts, fr: &Frame) {
        let to = insn.jump_off().map(|off| (off, self.insn_label(resolve(at, off))));
        let b = &mut self.b;
        match *insn {
            Insn::Alu { width, op, dst, src } => I::emit_alu(b, width, op, dst, src),
            Insn::Neg { width, dst } => I::emit_neg(b, width, dst),
            Insn::MovSx { width, dst, src, bits } => I::emit_movsx(b, width, dst, src, bits),
            Insn::End { op, dst, bits } => I::emit_end(b, op, dst, bits),
            Insn::AddrSpaceCast { dst, src, cast } => self.cast(dst, src, cast),
            Insn::MovPercpu { dst, src } => I::emit_percpu(b, dst, src),
            Insn::LdImm64 { dst, imm: Imm64::Const(value) } => I::emit_imm64(b, dst, value),
            Insn::LdImm64 { dst, imm: Imm64::Func(off) } => {
                let func = self.func_label(self.func_at(resolve(at, off)));
                I::emit_func_addr(&mut self.b, dst, func);
            }
            Insn::LdImm64Hi => {}
            Insn::Load { size, sext, dst, src, off } => {
                I::emit_load(b, Mem { size, base: src, off }, sext, dst);
            }
            Insn::Store { size, dst, off, src } => {
                I::emit_store(b, Mem { size, base: dst, off }, src);
            }
            Insn::Atomic { size, op, dst, off, src } => {
                I::emit_atomic(b, Mem { size, base: dst, off }, op, src);
            }
            Insn::LoadAcquire { size, dst, src, off } => {
                I::emit_load_acquire(b, Mem { size, base: src, off }, dst);
            }
            Insn::StoreRelease { size, dst, off, src } => {
                I::emit_store_release(b, Mem { size, base: dst, off }, src);
            }
            Insn::Jmp { width, op, dst, src, .. } => {
                let (_, to) = to.expect("a conditional jump has an offset");
                I::emit_jump_if(b, width, op, dst, src, to);
            }
            Insn::Ja { .. } => self.jump(to),
            Insn::Call(call) => self.call(at, call, fr),
            Insn::Exit => self.exit(at, f, fr),
            Insn::LdImm64 { .. }
            | Insn::LdAbs { .. }
            | Insn::LdInd { .. }
            | Insn::MayGoto { .. }
            | Insn::Gotox { .. }
            | Insn::Callx { .. } => {
                unreachable!("the verifier rewrites or refuses {insn:?} at {at:?}")
            }
        }
    }

    fn arena(&self) -> Arena {
        self.v.arena().expect("the verifier refuses arenas that are nowhere")
    }

    /// AX = address in the kernel's mapping. The proof keeps the upper half of arena pointers
    /// clear, and AX is free here: no sequence of the rewriter's contains an arena access.
    fn arena_address(&mut self, insn: &Insn) {
        let base = base_of(insn).expect("an arena access has a base");
        let start = self.arena().kern_vm_start;
        I::emit_imm64(&mut self.b, Reg::AX, start);
        I::emit_alu(&mut self.b, Width::W64, AluOp::Add, Reg::AX, Src::Reg(base));
    }

    /// The kernel's form is the low half, the user's has the upper half of the user's mapping;
    /// a low half of 0 is NULL in both.
    fn cast(&mut self, dst: Reg, src: Reg, cast: Cast) {
        let low = Insn::Alu { width: Width::W32, op: AluOp::Mov, dst, src: Src::Reg(src) };
        I::emit_alu(&mut self.b, Width::W32, AluOp::Mov, dst, Src::Reg(src));
        if !I::zero_extends(&low) {
            I::emit_zext(&mut self.b, dst);
        }
        if cast == Cast::ToKernel {
            return;
        }
        let upper = self.arena().user_vm_start & !u64::from(u32::MAX);
        let null = self.b.label();
        I::emit_jump_if(&mut self.b, Width::W64, JmpOp::Eq, dst, Src::Imm(0), null);
        I::emit_imm64(&mut self.b, Reg::AX, upper);
        I::emit_alu(&mut self.b, Width::W64, AluOp::Or, dst, Src::Reg(Reg::AX));
        self.b.bind(null);
    }

    fn jump(&mut self, to: Option<(i32, Label)>) {
        let (off, to) = to.expect("a goto has an offset");
        if off != 0 {
            I::emit_jump(&mut self.b, to);
        }
    }

    fn call(&mut self, at: InsnIdx, call: Call, frame: &Frame) {
        match call {
            Call::Helper(TAIL_CALL) => {
                let known = self.v.insn(at).1.tail_index;
                I::emit_tail_call(&mut self.b, frame, self.v.layout(), known);
                self.b.frame(FrameChange::Body);
            }
            Call::Helper(TIMED_MAY_GOTO) => {
                I::emit_call_keeping(&mut self.b, RelocKind::Helper(TIMED_MAY_GOTO));
            }
            Call::Helper(id) => I::emit_call(&mut self.b, RelocKind::Helper(id)),
            Call::Kfunc { btf_id, .. } => I::emit_call(&mut self.b, RelocKind::Kfunc(btf_id)),
            Call::Local(off) => {
                let callee = self.func_at(resolve(at, off));
                let c = self.frames[callee];
                let label = self.func_label(callee);
                I::emit_call_local(&mut self.b, frame, label, c.counts && !c.role.starts_counter());
            }
        }
    }

    /// The first exit of a function has the epilogue; later ones jump to it unless it is as short
    /// as a jump.
    fn exit(&mut self, at: InsnIdx, f: &SubprogFacts, frame: &Frame) {
        assert!(at < f.end, "an exit is inside its function");
        self.exits += 1;
        if let Some((label, _)) = self.shared_epilogue {
            I::emit_jump(&mut self.b, label);
            return;
        }
        let start = self.b.here();
        let label = self.b.label();
        self.b.bind(label);
        I::epilogue(&mut self.b, frame);
        self.b.frame(FrameChange::Body);
        if self.b.here().0 - start.0 > I::FACTS.jump_bytes {
            self.shared_epilogue = Some((label, start));
        }
    }
}

/// Base register of a memory access.
fn base_of(insn: &Insn) -> Option<Reg> {
    match *insn {
        Insn::Load { src, .. } | Insn::LoadAcquire { src, .. } => Some(src),
        Insn::Store { dst, .. } | Insn::StoreRelease { dst, .. } | Insn::Atomic { dst, .. } => {
            Some(dst)
        }
        _ => None,
    }
}

/// An access to an arena as it is lowered.
fn through_ax(insn: &Insn) -> Insn {
    let mut insn = *insn;
    match &mut insn {
        Insn::Load { src, .. } | Insn::LoadAcquire { src, .. } => *src = Reg::AX,
        Insn::Store { dst, .. } | Insn::StoreRelease { dst, .. } | Insn::Atomic { dst, .. } => {
            *dst = Reg::AX;
        }
        _ => {}
    }
    insn
}

/// What a fault clears: results, also of atomic operations.
fn ex_entry(insn: &Insn, fault: NativeOff, resume: NativeOff) -> ExEntry {
    let (clear, base, off) = match *insn {
        Insn::Load { dst, src, off, .. } => (Some(dst), src, off),
        Insn::LoadAcquire { dst, src, off, .. } => (Some(dst), src, off),
        Insn::Store { dst, off, .. } | Insn::StoreRelease { dst, off, .. } => (None, dst, off),
        Insn::Atomic { dst, off, op, src, .. } => (op.fetched(src), dst, off),
        _ => unreachable!("{insn:?} does not access memory"),
    };
    ExEntry { fault, resume, clear, base, off }
}

/// Whether a 32-bit result is produced at all; the rest is defined to zero-extend by its leaf.
pub(crate) fn is_w32_alu(insn: &Insn) -> bool {
    matches!(
        insn,
        Insn::Alu { width: Width::W32, .. }
            | Insn::Neg { width: Width::W32, .. }
            | Insn::MovSx { width: Width::W32, .. }
    )
}

#[cfg(test)]
mod tests;
