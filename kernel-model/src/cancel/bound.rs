//! How many instructions a cancelled run may still retire.
//!
//! After the request each back-edge is taken at most once more, so the rest of a run is at most as
//! many stretches without back-edge as there are heads of loops, and one. Such a stretch is no
//! longer than the longest way through the program that never goes back, through subprograms; a
//! callback that runs at the request ends, and its caller goes on. The comparisons of one
//! `bpf_rbtree_add`, which is done to its end, are as many as a tree is high.

use std::collections::BTreeSet;

use bpf::insn::{Call, Insn, InsnIdx};
use verifier::Verified;

/// No red-black tree is higher: it would have more nodes than memory has bytes.
const TREE_HEIGHT: u64 = 64;

/// The bound of a program; `adds` says whether a kernel function is `bpf_rbtree_add`.
pub fn of(v: &Verified, adds: impl Fn(i32) -> bool) -> u64 {
    let mut longest = vec![None; v.subprogs().len()];
    let main = way(v, 0, &mut longest);
    let callbacks: u64 = (1..v.subprogs().len())
        .filter(|n| v.subprogs()[*n].is_callback || v.subprogs()[*n].is_exception)
        .map(|n| way(v, n, &mut longest))
        .sum();
    let mut heads = BTreeSet::new();
    let mut compares = false;
    for (at, insn, _) in v.insns() {
        if let Some(off) = insn.jump_off().filter(|off| *off < 0) {
            heads.insert(target(at, off));
        }
        compares |= matches!(insn, Insn::Call(Call::Kfunc { btf_id, .. }) if adds(*btf_id));
    }
    let heights = if compares { TREE_HEIGHT } else { 1 };
    (heads.len() as u64 + 1) * (main + callbacks * heights)
}

fn target(at: InsnIdx, off: i32) -> usize {
    usize::try_from(i64::from(at.0) + 1 + i64::from(off)).expect("the verifier checked it")
}

/// Instructions of the longest way through a function that takes no back-edge.
fn way(v: &Verified, func: usize, longest: &mut Vec<Option<u64>>) -> u64 {
    if let Some(known) = longest[func] {
        return known;
    }
    // There is no recursion; a function that asks for itself would be one.
    longest[func] = Some(0);
    let f = &v.subprogs()[func];
    let (start, end) = (f.start.idx(), f.end.idx());
    let mut from = vec![0u64; end - start + 1];
    for at in (start..end).rev() {
        let index = InsnIdx(u32::try_from(at).expect("programs are short"));
        let (insn, facts) = v.insn(index);
        let mut own = u64::from(facts.first);
        if let Insn::Call(Call::Local(off)) = insn {
            let callee = target(index, *off);
            let n = v.subprogs().iter().position(|f| f.start.idx() == callee);
            own += n.map_or(0, |n| way(v, n, longest));
        }
        let ahead = |to: usize| if to > at && to <= end { from[to - start] } else { 0 };
        let jump = insn.jump_off().map_or(0, |off| ahead(target(index, off)));
        let next = match insn {
            Insn::Exit | Insn::Ja { .. } => 0,
            // Wherever the table leads.
            Insn::Gotox { .. } => from[at + 1 - start..].iter().copied().max().unwrap_or(0),
            _ => ahead(at + 1),
        };
        from[at - start] = own + next.max(jump);
    }
    longest[func] = Some(from[0]);
    from[0]
}
