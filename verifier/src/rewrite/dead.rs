//! Dead code: what no path reached is removed, branches on it become unconditional. Before that,
//! the spills and fills around inlined calls become nops.

use bpf::insn::Insn;

use super::Input;
use crate::cfg::target;
use crate::explore::fastcall::beside;

/// The program after removal: original index and instruction; jumps still lead to original
/// indices.
#[derive(Clone, Debug)]
pub(super) struct Live {
    /// In order.
    pub(super) insns: Vec<(usize, Insn)>,
}

/// Applies the passes in the kernel's order. Without `CAP_BPF` nops stay, and dead code as a loop
/// on the spot (`sanitize_dead_code`).
pub(super) fn live_code(input: &Input<'_>) -> Live {
    let insns = &without_fastcall_pairs(input);
    let seen: Vec<bool> = (0..insns.len())
        .map(|at| match insns[at] {
            Insn::LdImm64Hi => at > 0 && input.aux(at - 1).seen,
            _ => input.aux(at).seen,
        })
        .collect();
    if !input.bpf_capable {
        let trap = Insn::Ja { off: -1, long: false };
        let keep = |(at, insn): (usize, &Insn)| (at, if seen[at] { *insn } else { trap });
        return Live { insns: insns.iter().enumerate().map(keep).collect() };
    }
    let mut live: Vec<(usize, Insn)> = insns
        .iter()
        .enumerate()
        .filter(|(at, _)| seen[*at])
        .map(|(at, insn)| (at, hard_wire(insn, at, &seen)))
        .collect();
    remove_nops(&mut live);
    Live { insns: live }
}

/// `remove_fastcall_spills_fills`.
fn without_fastcall_pairs(input: &Input<'_>) -> Vec<Insn> {
    let mut insns = input.program.insns.clone();
    for at in 0..insns.len() {
        for n in 1..=input.aux(at).fastcall_spills {
            let (before, after) = beside(at, n);
            for i in before.into_iter().chain([after]) {
                insns[i] = Insn::Ja { off: 0, long: false };
            }
        }
    }
    insns
}

/// `opt_hard_wire_dead_code_branches`.
fn hard_wire(insn: &Insn, at: usize, seen: &[bool]) -> Insn {
    let (Insn::Jmp { off, .. } | Insn::MayGoto { off }) = *insn else { return *insn };
    let is_seen =
        |to: i64| usize::try_from(to).ok().and_then(|t| seen.get(t)).copied().unwrap_or(false);
    if !is_seen(target(at, 0)) {
        Insn::Ja { off: i32::from(off), long: false }
    } else if !is_seen(target(at, i32::from(off))) {
        Insn::Ja { off: 0, long: false }
    } else {
        *insn
    }
}

/// `opt_remove_nops`: jumps to the next instruction that is left. A `may_goto` that goes may turn
/// the one before it into a nop, so that one is looked at again.
fn remove_nops(live: &mut Vec<(usize, Insn)>) {
    let mut i = 0;
    while i < live.len() {
        let (at, insn) = live[i];
        let off = match insn {
            Insn::Ja { off, long: false } => off,
            Insn::MayGoto { off } => i32::from(off),
            _ => {
                i += 1;
                continue;
            }
        };
        // Targets that were removed stand for the next instruction that is left.
        let to = target(at, off);
        let resolved = usize::try_from(to).map(|to| live.partition_point(|(o, _)| *o < to));
        if resolved != Ok(i + 1) {
            i += 1;
            continue;
        }
        live.remove(i);
        if matches!(insn, Insn::MayGoto { .. }) {
            i = i.saturating_sub(1);
        }
    }
}
