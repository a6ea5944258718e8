//! Registers whose upper half is not what the program says, for the debugger.
//!
//! A 32-bit operation clears the upper half of its result. Where nothing reads that half, a back
//! end of a machine that does not clear it by itself leaves it as it falls: the program cannot
//! tell, but who looks at the register can. This finds, before each instruction, the registers of
//! which only the lower half is held on every path (`low`), and those of which that is so on some
//! (`unsure`). Which paths can be taken is not asked: `unsure` may say too much, never too little.
//!
//! A value with such a half is never copied or used at 64 bits: that would be a read of it. So it
//! stays in its register, but for arguments and results of functions, which are followed.

use crate::isa::Isa;
use bpf::insn::{Call, Insn, InsnIdx};
use verifier::Verified;
use verifier::rewrite::defines_low_half;
use verifier::verified::SubprogFacts;

/// Before one instruction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Halves {
    pub(crate) low: u16,
    pub(crate) unsure: u16,
}

/// What may be in the registers, by bit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct May {
    /// A whole value.
    full: u16,
    /// A lower half.
    low: u16,
}

const ARGS: u16 = 0b11_1110;
const RESULT: u16 = 1;
const ALL: u16 = (1 << 12) - 1;

impl May {
    const FULL: May = May { full: ALL, low: 0 };

    fn or(self, other: May) -> May {
        May { full: self.full | other.full, low: self.low | other.low }
    }

    fn only(self, mask: u16) -> May {
        May { full: self.full & mask, low: self.low & mask }
    }

    fn set(self, mask: u16, low: bool) -> May {
        let rest = self.only(!mask);
        rest.or(if low { May { full: 0, low: mask } } else { May { full: mask, low: 0 } })
    }
}

/// One per slot; empty where the machine makes every half.
pub(crate) fn of<I: Isa>(v: &Verified) -> Vec<Halves> {
    let is_low =
        |insn: &Insn, zext: bool| !I::zero_extends(insn) && !zext && defines_low_half(insn);
    if !v.insns().any(|(_, insn, facts)| is_low(insn, facts.zext)) {
        return Vec::new();
    }
    let mut pass =
        Pass { v, before: vec![May::default(); v.len()], results: Vec::new(), todo: Vec::new() };
    pass.results = vec![May::default(); v.subprogs().len()];
    for (n, f) in v.subprogs().iter().enumerate() {
        // The kernel's arguments are whole; a function's come from its calls.
        let entry = if n == 0 || f.is_callback || f.is_exception { ALL } else { ALL & !ARGS };
        pass.flow(f.start, May::FULL.only(entry));
    }
    while let Some(at) = pass.todo.pop() {
        let (insn, facts) = v.insn(at);
        pass.step(at, insn, is_low(insn, facts.zext));
    }
    let sum = |m: &May| Halves { low: m.low & !m.full, unsure: m.low & m.full };
    pass.before.iter().map(sum).collect()
}

struct Pass<'a> {
    v: &'a Verified,
    before: Vec<May>,
    /// R0 of each function.
    results: Vec<May>,
    todo: Vec<InsnIdx>,
}

impl Pass<'_> {
    fn flow(&mut self, to: InsnIdx, state: May) {
        let Some(old) = self.before.get_mut(to.idx()) else { return };
        let new = old.or(state);
        if new != *old {
            *old = new;
            self.todo.push(to);
        }
    }

    fn function_of(&self, at: InsnIdx) -> usize {
        let starts = |f: &SubprogFacts| f.start <= at;
        self.v.subprogs().partition_point(starts).saturating_sub(1)
    }

    fn step(&mut self, at: InsnIdx, insn: &Insn, low: bool) {
        let before = self.before[at.idx()];
        let own = insn.result().map_or(0, |r| 1u16 << r.0);
        let mut after = before.set(own, low);
        match *insn {
            Insn::Exit => return self.result(at, before.only(RESULT)),
            Insn::Call(Call::Local(off)) => {
                let callee = target(at, off);
                self.flow(callee, before.only(ARGS));
                let result = self.results[self.function_of(callee)];
                after = before.only(!RESULT).or(result);
            }
            _ => {}
        }
        if let Some(off) = insn.jump_off() {
            self.flow(target(at, off), after);
        }
        if !insn.ends_block() {
            self.flow(InsnIdx(at.0 + 1), after);
        }
    }

    /// A new kind of result is news to every call of the function.
    fn result(&mut self, at: InsnIdx, result: May) {
        let func = self.function_of(at);
        let new = self.results[func].or(result);
        if new == self.results[func] {
            return;
        }
        self.results[func] = new;
        let calls = self.v.insns().filter_map(|(at, insn, _)| match *insn {
            Insn::Call(Call::Local(off)) => Some((at, target(at, off))),
            _ => None,
        });
        let start = self.v.subprogs()[func].start;
        let of_it: Vec<InsnIdx> = calls.filter(|(_, to)| *to == start).map(|(at, _)| at).collect();
        self.todo.extend(of_it);
    }
}

fn target(at: InsnIdx, off: i32) -> InsnIdx {
    InsnIdx((at.0 + 1).wrapping_add_signed(off))
}
