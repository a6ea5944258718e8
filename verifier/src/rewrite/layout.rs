//! Puts the expanded instructions in order: offsets, facts, subprograms.

use bpf::insn::{Call, Imm64, Insn, InsnIdx};

use super::dead::Live;
use super::expand::{Seq, To, expand, may_goto_prologue};
use super::{Input, Rewritten, ctx, defines_low_half, is_tail_call, zext};
use crate::cfg::slot;
use crate::explore::{KeyState, MapState, PtrClass};
use crate::reject::{ENOMEM, Rejection};
use crate::verified::{InsnFacts, JumpTable, MemClass, SubprogFacts};

/// Positions of original indices in the rewritten program.
#[derive(Debug)]
struct Positions {
    /// Where jumps lead.
    jump: Vec<u32>,
    /// Where calls lead: the same, before a prologue.
    entry: Vec<u32>,
}

/// Expands and places everything.
///
/// # Errors
/// See [`super::rewrite`].
pub(super) fn layout(input: &Input<'_>, live: &Live) -> Result<Rewritten, Box<Rejection>> {
    let mut out = Rewritten::default();
    let mut to: Vec<To> = Vec::new();
    let n = input.program.insns.len();
    let mut pos = Positions { jump: vec![0; n + 1], entry: vec![0; n + 1] };
    let mut depth: Vec<u32> = Vec::new();
    let mut next = live.insns.iter().peekable();
    for (number, sub) in input.cfg.subprogs.iter().enumerate() {
        let (frame, hidden) = frame(input, live, number);
        depth.push(frame);
        for at in sub.start.idx()..sub.end.idx() {
            pos.entry[at] = len(&out);
            if at == sub.start.idx()
                && let Some(off) = hidden
            {
                for insn in may_goto_prologue(off, input.env.timed_may_goto()) {
                    push(&mut out, &mut to, insn, To::Stays, at, false);
                }
            }
            pos.jump[at] = len(&out);
            if let Some((_, insn)) = next.next_if(|(o, _)| *o == at) {
                let seq = expand(input, at, *insn, hidden.unwrap_or(0))?;
                place(input, &mut out, &mut to, seq, at, *insn);
            }
        }
    }
    pos.entry[n] = len(&out);
    pos.jump[n] = len(&out);
    let mut far = Vec::new();
    for (at, (insn, to)) in out.insns.iter_mut().zip(&to).enumerate() {
        if let Err(place) = resolve(insn, *to, at, &pos) {
            far.push((out.facts[at].orig.idx(), place));
        }
    }
    if let Some((_, at)) = far.iter().map(|jump| lengthened(input, live, &pos, *jump)).min() {
        let text = format!("insn {at} cannot be patched due to 16-bit range");
        return Err(Box::new(Rejection::refuse(ENOMEM, text)));
    }
    out.jump_tables = jump_tables(input, live, &pos);
    out.throws = out.insns.iter().any(|i| input.is_throw(i));
    let outside = subprogs(input, &mut out, &pos, &depth);
    zext::mark(&out.insns, &mut out.facts, &out.subprogs, &outside);
    Ok(out)
}

fn len(out: &Rewritten) -> u32 {
    u32::try_from(out.insns.len()).unwrap_or(u32::MAX)
}

fn push(out: &mut Rewritten, tos: &mut Vec<To>, insn: Insn, to: To, orig: usize, first: bool) {
    let zext = defines_low_half(&insn);
    out.insns.push(insn);
    tos.push(to);
    let mem = MemClass::Plain;
    out.facts.push(InsnFacts { orig: slot(orig), first, mem, zext, tail_index: None });
}

/// Places a sequence. An instruction that stays keeps the facts exploration found for it.
fn place(
    input: &Input<'_>,
    out: &mut Rewritten,
    tos: &mut Vec<To>,
    seq: Seq,
    at: usize,
    was: Insn,
) {
    let aux = input.aux(at);
    let second_half = was == Insn::LdImm64Hi;
    let orig = if second_half { at - 1 } else { at };
    let single = seq.0.len() == 1;
    for (n, (insn, to)) in seq.0.into_iter().enumerate() {
        push(out, tos, insn, to, orig, n == 0 && !second_half);
        if let Some(facts) = out.facts.last_mut().filter(|_| single) {
            facts.mem = match aux.ptr {
                PtrClass::Probe => MemClass::Probe,
                PtrClass::Arena => MemClass::Arena,
                _ => MemClass::Plain,
            };
            facts.tail_index = match (aux.map, aux.key) {
                (MapState::Unique(_), KeyState::Const(n)) if is_tail_call(&was) => {
                    u32::try_from(n).ok()
                }
                _ => None,
            };
        }
    }
}

/// Stack bytes of a subprogram, and the offset of its hidden `may_goto` counter (and time). With
/// them it may have more than `MAX_BPF_STACK`: the kernel minds only without a JIT.
fn frame(input: &Input<'_>, live: &Live, number: usize) -> (u32, Option<i16>) {
    let sub = &input.cfg.subprogs[number];
    let range = sub.start.idx()..sub.end.idx();
    let used = input.explored.stack_depth.get(number).copied().unwrap_or(0);
    let used = used.next_multiple_of(8);
    let has_may_goto =
        live.insns.iter().any(|(o, i)| range.contains(o) && matches!(i, Insn::MayGoto { .. }));
    if !has_may_goto {
        return (used, None);
    }
    let frame = used + if input.env.timed_may_goto() { 16 } else { 8 };
    (frame, i16::try_from(frame).ok().map(|f| -f))
}

/// The error is the original index that a jump no longer reaches.
fn resolve(insn: &mut Insn, to: To, at: usize, pos: &Positions) -> Result<(), usize> {
    let (o, places) = match to {
        To::Stays => return Ok(()),
        To::Jump(o) => (o, &pos.jump),
        To::Entry(o) => (o, &pos.entry),
    };
    let o = usize::try_from(o).unwrap_or(0);
    let place = places.get(o).copied().unwrap_or(0);
    let new = i64::from(place) - i64::try_from(at).unwrap_or(0) - 1;
    let wide = i32::try_from(new).map_err(|_| o)?;
    match insn {
        Insn::Ja { off, long } => {
            if !*long && i16::try_from(new).is_err() {
                return Err(o);
            }
            *off = wide;
        }
        Insn::Jmp { off, .. } => *off = i16::try_from(new).map_err(|_| o)?,
        Insn::Call(Call::Local(off)) | Insn::LdImm64 { imm: Imm64::Func(off), .. } => *off = wide,
        _ => {}
    }
    Ok(())
}

/// KERNEL v6.18 core.c:bpf_adj_branches: the pass (accesses to the context come first) and the
/// instruction whose patch makes a jump between two original indices too long.
fn lengthened(
    input: &Input<'_>,
    live: &Live,
    pos: &Positions,
    (from, to): (usize, usize),
) -> (bool, usize) {
    let within = if from < to { from + 1..to } else { to..from };
    let patch = |o: usize| (!ctx::converts(input.aux(o).ptr), o);
    let mut patches: Vec<(bool, usize)> =
        live.insns.iter().map(|l| l.0).filter(|o| within.contains(o)).map(patch).collect();
    patches.sort_unstable();
    let mut len = patches.len();
    for patch in patches {
        len += (pos.jump[patch.1 + 1] - pos.jump[patch.1]) as usize - 1;
        if len > i16::MAX as usize {
            return patch;
        }
    }
    (true, from)
}

/// `xlated_off` of the entries of each jump table; none for what was removed.
fn jump_tables(input: &Input<'_>, live: &Live, pos: &Positions) -> Vec<JumpTable> {
    let left = |at: &u32| live.insns.binary_search_by_key(&(*at as usize), |(o, _)| *o).is_ok();
    let place = |at: &u32| left(at).then(|| InsnIdx(pos.jump[*at as usize]));
    let maps = input.maps.iter().zip(input.tables).filter(|(_, t)| !t.is_empty());
    maps.map(|(m, t)| JumpTable { map: m.id, entries: t.iter().map(place).collect() }).collect()
}

/// Facts of the subprograms that have code left; which of them others may enter.
fn subprogs(input: &Input<'_>, out: &mut Rewritten, pos: &Positions, depth: &[u32]) -> Vec<bool> {
    let mut outside = Vec::new();
    let indirect = out.insns.iter().any(|i| matches!(i, Insn::Callx { .. }));
    for (number, sub) in input.cfg.subprogs.iter().enumerate() {
        let (start, end) = (pos.entry[sub.start.idx()], pos.entry[sub.end.idx()]);
        if start == end {
            continue;
        }
        let body = &out.insns[start as usize..end as usize];
        let name = match (sub.name.is_empty(), number) {
            (false, _) => sub.name.clone(),
            (true, 0) => input.program.name.clone(),
            (true, _) => format!("subprog_{number}"),
        };
        let is_exception = input.cfg.exception_callback == Some(number);
        let called = input.explored.is_callback.get(number).copied().unwrap_or(false);
        let facts = SubprogFacts {
            start: InsnIdx(start),
            end: InsnIdx(end),
            name,
            stack_depth: depth[number],
            has_tail_call: body.iter().any(is_tail_call),
            tail_call_reachable: false,
            is_callback: called || is_exception,
            is_exception,
            orig_start: sub.start,
        };
        // A global function may be replaced, or replace another.
        outside.push(number == 0 || sub.is_global || facts.is_callback || indirect);
        out.subprogs.push(facts);
    }
    mark_tail_call_reachable(out);
    outside
}

/// A tail call in a callee replaces the caller too: both keep the counter.
fn mark_tail_call_reachable(out: &mut Rewritten) {
    for s in &mut out.subprogs {
        s.tail_call_reachable = s.has_tail_call;
    }
    let at = |subs: &[SubprogFacts], i: u32| subs.partition_point(|s| s.start.0 <= i) - 1;
    let calls: Vec<(usize, usize)> = (0u32..)
        .zip(&out.insns)
        .filter_map(|(i, insn)| match insn {
            Insn::Call(Call::Local(off)) => {
                let callee = i.wrapping_add(1).wrapping_add_signed(*off);
                Some((at(&out.subprogs, i), at(&out.subprogs, callee)))
            }
            _ => None,
        })
        .collect();
    for _ in 0..out.subprogs.len() {
        for &(caller, callee) in &calls {
            let reachable = out.subprogs[callee].tail_call_reachable;
            out.subprogs[caller].tail_call_reachable |= reachable;
        }
    }
}
