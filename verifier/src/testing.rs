//! Proof tokens for tests of what comes after the verifier: facts that hold for any program.
//!
//! Behind the feature `testing`, which only dev-dependencies may enable. Nothing here proves
//! anything: the caller vouches for the program.

use std::collections::BTreeSet;

use bpf::Program;
use bpf::insn::{AluOp, Call, Imm64, Insn, InsnIdx, Reg, Src, Width};
use bpf::uapi::ProgType;

use crate::domain::scalar::Bounds;
use crate::domain::state::VState;
use crate::env::Layout;
use crate::proto::Flags;
use crate::rewrite::{defines_low_half, is_tail_call};
use crate::verified::{Arena, InsnFacts, Parts, Stats, SubprogFacts, Verified};

/// Stack bytes of a frame whose frame pointer escapes: the kernel's `MAX_BPF_STACK`.
const MAX_BPF_STACK: u32 = 512;

/// Offsets that differ from each other, so that a mixed-up field shows.
pub const TEST_LAYOUT: Layout = Layout {
    array_max_entries: 36,
    array_index_mask: 260,
    array_value: 272,
    prog_bpf_func: 48,
    htab_elem_key: 48,
    cpu_number: 24,
};

/// A mistake in what an instruction is believed to do: whatever claims to find unsound verdicts
/// has to find these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Bits that `|=` may set stay known.
    OrKeepsBits,
    /// A right shift yields at most 7.
    ShiftsToLittle,
    /// A 32-bit addition does not wrap.
    NarrowAddIsSmall,
    /// The result of a call is never NULL.
    CallsFindSomething,
    /// A byte more of a packet may be read than was compared.
    PacketIsLonger,
    /// A value that is stored on the stack is believed to be 0.
    SpillsAreZero,
}

impl Flaw {
    /// Makes the mistake, if the instruction is one of its kind.
    pub(crate) fn spoil(self, insn: &Insn, st: &mut VState) {
        let small =
            |max: u64| Bounds { var_off: crate::domain::tnum::Tnum::range(0, max), ..bounded(max) };
        match (self, *insn) {
            (Flaw::OrKeepsBits, Insn::Alu { op: AluOp::Or, dst, .. }) => {
                let r = &mut st.frame_mut().regs[dst.idx()];
                if r.is_scalar() && r.as_const().is_none() {
                    r.b.var_off.mask &= !1;
                    r.b.var_off.value &= !1;
                }
            }
            (Flaw::ShiftsToLittle, Insn::Alu { op: AluOp::Rsh, dst, .. }) => {
                let r = &mut st.frame_mut().regs[dst.idx()];
                if r.is_scalar() && r.b.umax > 7 {
                    r.b = small(7);
                }
            }
            (Flaw::NarrowAddIsSmall, Insn::Alu { op: AluOp::Add, width: Width::W32, dst, .. }) => {
                let r = &mut st.frame_mut().regs[dst.idx()];
                if r.is_scalar() && r.b.umax > 0x7fff_ffff {
                    r.b = small(0x7fff_ffff);
                }
            }
            (Flaw::CallsFindSomething, Insn::Call(Call::Helper(_))) => {
                let r = &mut st.frame_mut().regs[0];
                r.flags = r.flags.without(Flags::PTR_MAYBE_NULL);
            }
            (Flaw::PacketIsLonger, Insn::Load { .. }) => {
                for r in st.frame_mut().regs.iter_mut().filter(|r| r.is_pkt_pointer()) {
                    r.range += i32::from(r.range > 0);
                }
            }
            (Flaw::SpillsAreZero, Insn::Store { dst: Reg::FP, off, src: Src::Reg(_), .. }) => {
                let slot = (-i32::from(off) - 1) / 8;
                let s = usize::try_from(slot).ok();
                let s = s.and_then(|s| st.frame_mut().stack.get_mut(s));
                if let Some(s) = s.filter(|s| s.is_scalar_spill64()) {
                    s.reg.b = Bounds::known(0);
                }
            }
            _ => {}
        }
    }
}

/// Bounds of `0..=max`, known bits apart.
fn bounded(max: u64) -> Bounds {
    let (m32, s32) = (u32::try_from(max).unwrap_or(u32::MAX), i32::try_from(max));
    Bounds {
        smin: 0,
        smax: i64::try_from(max).unwrap_or(i64::MAX),
        umin: 0,
        umax: max,
        s32_min: if s32.is_ok() { 0 } else { i32::MIN },
        s32_max: s32.unwrap_or(i32::MAX),
        u32_min: 0,
        u32_max: m32,
        ..Bounds::UNKNOWN
    }
}

/// A program of one function with nothing but its name and type.
#[must_use]
pub fn bare_program(name: &str, prog_type: ProgType, insns: Vec<Insn>) -> Program {
    Program {
        name: name.to_string(),
        section: prog_type.name().to_string(),
        prog_type,
        attach_type: None,
        flags: 0,
        attach_to: None,
        license: "GPL".to_string(),
        insns,
        funcs: Vec::new(),
        lines: Vec::new(),
    }
}

/// Takes `insns` as the rewritten form of `program` with facts that are sound for any program.
#[must_use]
pub fn assume_verified(program: Program, insns: Vec<Insn>, layout: Layout) -> Verified {
    Assume::new(program, insns).layout(layout).build()
}

/// Builder of a [`Verified`] with chosen facts.
#[derive(Debug)]
pub struct Assume {
    parts: Parts,
}

impl Assume {
    /// Starts from the trivially sound facts.
    #[must_use]
    pub fn new(program: Program, insns: Vec<Insn>) -> Assume {
        let facts = (0u32..)
            .zip(&insns)
            .map(|(i, insn)| InsnFacts {
                orig: InsnIdx(i),
                // The second half of a 16-byte load is no instruction of its own.
                first: *insn != Insn::LdImm64Hi,
                zext: defines_low_half(insn),
                ..InsnFacts::default()
            })
            .collect();
        let subprogs = subprogs(&program, &insns);
        let stack_depth = subprogs.iter().map(|s| s.stack_depth).sum();
        let stats = Stats { stack_depth, ..Stats::default() };
        Assume {
            parts: Parts {
                program,
                insns,
                facts,
                subprogs,
                stats,
                funcs: Vec::new(),
                jump_tables: Vec::new(),
                arena: None,
                throws: false,
                layout: TEST_LAYOUT,
                env_identity: 0,
            },
        }
    }

    /// Structure offsets.
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Assume {
        self.parts.layout = layout;
        self
    }

    /// The program's arena.
    #[must_use]
    pub fn arena(mut self, arena: Arena) -> Assume {
        self.parts.arena = Some(arena);
        self
    }

    /// The program calls `bpf_throw`.
    #[must_use]
    pub fn throws(mut self) -> Assume {
        self.parts.throws = true;
        self
    }

    /// Environment identity.
    #[must_use]
    pub fn env_identity(mut self, identity: u64) -> Assume {
        self.parts.env_identity = identity;
        self
    }

    /// Changes the facts of one instruction.
    #[must_use]
    pub fn fact(mut self, at: InsnIdx, change: impl FnOnce(&mut InsnFacts)) -> Assume {
        change(&mut self.parts.facts[at.idx()]);
        self
    }

    /// Changes the facts of one subprogram.
    #[must_use]
    pub fn subprog(mut self, n: usize, change: impl FnOnce(&mut SubprogFacts)) -> Assume {
        change(&mut self.parts.subprogs[n]);
        self
    }

    /// Zero-extension where the verifier would ask for it, instead of everywhere.
    #[must_use]
    pub fn zext_where_read(mut self) -> Assume {
        let p = &mut self.parts;
        let outside: Vec<bool> =
            p.subprogs.iter().enumerate().map(|(n, f)| n == 0 || f.is_callback).collect();
        crate::rewrite::zext::mark(&p.insns, &mut p.facts, &p.subprogs, &outside);
        self
    }

    /// The token.
    #[must_use]
    pub fn build(self) -> Verified {
        Verified::new(self.parts)
    }
}

fn subprogs(program: &Program, insns: &[Insn]) -> Vec<SubprogFacts> {
    let target = |i: usize, off: i32| u32::try_from(i as i64 + 1 + i64::from(off)).ok();
    let mut starts = BTreeSet::from([0u32]);
    let mut callbacks = BTreeSet::new();
    for (i, insn) in insns.iter().enumerate() {
        match *insn {
            Insn::Call(Call::Local(off)) => starts.extend(target(i, off)),
            Insn::LdImm64 { imm: Imm64::Func(off), .. } => {
                starts.extend(target(i, off));
                callbacks.extend(target(i, off));
            }
            _ => {}
        }
    }
    let len = u32::try_from(insns.len()).expect("programs are shorter than 2^32 slots");
    let starts: Vec<u32> = starts.into_iter().filter(|s| *s < len).collect();
    let any_tail = insns.iter().any(is_tail_call);
    let ends = starts.iter().copied().skip(1).chain([len]);
    let named = |n: usize, start| {
        let f = program.funcs.iter().find(|f| f.start == start);
        f.map_or_else(
            || if n == 0 { program.name.clone() } else { format!("subprog_{n}") },
            |f| f.name.clone(),
        )
    };
    starts
        .iter()
        .zip(ends)
        .enumerate()
        .map(|(n, (&start, end))| {
            let body = &insns[start as usize..end as usize];
            SubprogFacts {
                start: InsnIdx(start),
                end: InsnIdx(end),
                name: named(n, InsnIdx(start)),
                stack_depth: stack_depth(body),
                has_tail_call: body.iter().any(is_tail_call),
                tail_call_reachable: any_tail,
                is_callback: callbacks.contains(&start),
                is_exception: false,
                orig_start: InsnIdx(start),
            }
        })
        .collect()
}

/// Deepest direct access through r10, or the whole stack when r10 is copied.
fn stack_depth(body: &[Insn]) -> u32 {
    let mut depth = 0;
    for insn in body {
        let (base, off) = match *insn {
            Insn::Alu { src: Src::Reg(Reg::FP), .. }
            | Insn::Store { src: Src::Reg(Reg::FP), .. } => {
                return MAX_BPF_STACK;
            }
            Insn::Load { src, off, .. } | Insn::LoadAcquire { src, off, .. } => (src, off),
            Insn::Store { dst, off, .. }
            | Insn::StoreRelease { dst, off, .. }
            | Insn::Atomic { dst, off, .. } => (dst, off),
            _ => continue,
        };
        if base == Reg::FP {
            depth = depth.max(u32::from(off.unsigned_abs()));
        }
    }
    depth.next_multiple_of(8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bpf::insn::{AluOp, Size, Width};

    #[test]
    fn ranges_depths_and_flags() {
        let mov = |dst, src| Insn::Alu { width: Width::W32, op: AluOp::Mov, dst, src };
        let insns = vec![
            Insn::Store { size: Size::W, dst: Reg::FP, off: -12, src: Src::Imm(1) },
            Insn::Call(Call::Local(1)),
            Insn::Exit,
            mov(Reg::R0, Src::Imm(0)),
            Insn::Call(Call::Helper(12)),
            Insn::Exit,
        ];
        let p = bare_program("t", ProgType::Xdp, insns.clone());
        let v = assume_verified(p, insns, TEST_LAYOUT);
        let s = v.subprogs();
        assert_eq!((s[0].start.0, s[0].end.0, s[1].start.0, s[1].end.0), (0, 3, 3, 6));
        assert_eq!((s[0].stack_depth, s[1].stack_depth), (16, 0));
        assert!(s[1].has_tail_call && s[0].tail_call_reachable && !s[0].has_tail_call);
        assert!(v.insn(InsnIdx(3)).1.zext && !v.insn(InsnIdx(0)).1.zext);
    }
}
