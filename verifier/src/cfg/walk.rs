//! Depth-first walk over the static graph: `check_cfg`. Finds unreachable code and, without
//! `CAP_BPF`, loops; marks where states are kept and history is recorded.

use bpf::btf::Btf;
use bpf::insn::{Call, Imm64, Insn};

use super::subprogs::{idx, out_of_range};
use super::{Cfg, target};
use crate::reject::Rejection;
use crate::tables::kfuncs::{self, KfFlags};

/// Edges of an instruction, in the order they are walked.
enum Edge {
    /// To the next instruction, or of an unconditional jump.
    Fallthrough(i64),
    /// Taken branch or callee.
    Branch(i64),
    /// By an entry of a jump table.
    Indirect(i64),
}

/// Walk state of one instruction.
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    /// On the stack; the next edge to walk.
    Discovered(u32),
    Explored,
}

/// Walks from the first instruction.
///
/// # Errors
/// "unreachable insn", "back-edge", "jump into the middle of ldimm64".
pub(super) fn walk(
    insns: &[Insn],
    tables: &[Vec<u32>],
    cfg: &mut Cfg,
    bpf_capable: bool,
    kernel: Option<&Btf>,
) -> Result<(), Box<Rejection>> {
    let mut state = vec![State::New; insns.len()];
    // Nothing calls the exception callback: it is walked from its start.
    let walk = Walk { insns, tables, bpf_capable, kernel };
    let exception = cfg.exception_callback.map(|s| cfg.subprogs[s].start.idx());
    for root in [Some(0), exception].into_iter().flatten() {
        if state[root] == State::New {
            walk_from(&walk, root, &mut state, cfg)?;
        }
    }
    finish(insns, &state, cfg)
}

/// What is walked.
struct Walk<'a> {
    insns: &'a [Insn],
    tables: &'a [Vec<u32>],
    bpf_capable: bool,
    kernel: Option<&'a Btf>,
}

fn walk_from(
    walk: &Walk<'_>,
    root: usize,
    state: &mut [State],
    cfg: &mut Cfg,
) -> Result<(), Box<Rejection>> {
    let Walk { insns, bpf_capable, kernel, .. } = *walk;
    state[root] = State::Discovered(0);
    let mut stack = vec![root];
    while let Some(&at) = stack.last() {
        let State::Discovered(n) = state[at] else { unreachable_state() };
        if n == 0 {
            mark(insns, at, cfg, kernel);
            if matches!(insns[at], Insn::Gotox { .. }) {
                let table = subprog_table(walk, at, cfg)?;
                cfg.jump_tables.insert(at, table);
            }
        }
        let Some(edge) = edge(insns, cfg, at, n as usize) else {
            state[at] = State::Explored;
            stack.pop();
            continue;
        };
        state[at] = State::Discovered(n + 1);
        let (Edge::Fallthrough(to) | Edge::Branch(to) | Edge::Indirect(to)) = edge;
        let Some(w) = usize::try_from(to).ok().filter(|w| *w < insns.len()) else {
            return Err(out_of_range(at, to));
        };
        cfg.prune_point[w] |= matches!(edge, Edge::Branch(_));
        cfg.jmp_point[w] |= !matches!(edge, Edge::Fallthrough(_));
        match state[w] {
            State::New => {
                state[w] = State::Discovered(0);
                stack.push(w);
            }
            State::Discovered(_) if !bpf_capable && !matches!(edge, Edge::Indirect(_)) => {
                let text = format!("back-edge from insn {at} to {w}");
                return Err(Box::new(Rejection::invalid(text).at(idx(at))));
            }
            State::Discovered(_) | State::Explored => {}
        }
    }
    Ok(())
}

fn unreachable_state() -> ! {
    unreachable!("what is on the stack is discovered and not explored")
}

fn finish(insns: &[Insn], state: &[State], cfg: &mut Cfg) -> Result<(), Box<Rejection>> {
    for (at, insn) in insns.iter().enumerate() {
        if *insn == Insn::LdImm64Hi {
            continue;
        }
        if state[at] != State::Explored {
            let text = format!("unreachable insn {at}");
            return Err(Box::new(Rejection::invalid(text).at(idx(at))));
        }
        cfg.reachable[at] = true;
        if matches!(insn, Insn::LdImm64 { .. }) && state.get(at + 1) != Some(&State::New) {
            let text = format!("jump into the middle of ldimm64 insn {at}");
            return Err(Box::new(Rejection::invalid(text).at(idx(at))));
        }
    }
    Ok(())
}

/// KERNEL v6.19 verifier.c:create_jt. What the jump tables name that begin in the subprogram: any
/// of them may be the one that `gotox` is given.
fn subprog_table(walk: &Walk<'_>, at: usize, cfg: &Cfg) -> Result<Vec<u32>, Box<Rejection>> {
    let sub = cfg.subprogs.iter().rfind(|s| s.start.idx() <= at);
    let (start, end) = sub.map_or((0, 0), |s| (s.start.0, s.end.0));
    let inside = |to: &u32| (start..end).contains(to);
    let of_sub = |t: &&Vec<u32>| t.iter().min().is_some_and(&inside);
    let mut all: Vec<u32> = walk.tables.iter().filter(of_sub).flatten().copied().collect();
    all.sort_unstable();
    all.dedup();
    let text = if all.is_empty() {
        format!("no jump tables found for subprog starting at {start}")
    } else if !all.iter().all(inside) {
        format!("jump table for insn {at} points outside of the subprog [{start},{end}]")
    } else {
        return Ok(all);
    };
    Err(Box::new(Rejection::invalid(text).at(idx(at))))
}

/// The nth edge of an instruction.
fn edge(insns: &[Insn], cfg: &Cfg, at: usize, n: usize) -> Option<Edge> {
    match cfg.jump_tables.get(&at) {
        Some(table) => table.get(n).map(|to| Edge::Indirect((*to).into())),
        None => edges(insns, at).into_iter().flatten().nth(n),
    }
}

fn edges(insns: &[Insn], at: usize) -> [Option<Edge>; 2] {
    let next = |n: i32| Some(Edge::Fallthrough(target(at, n)));
    match insns[at] {
        Insn::Exit | Insn::Gotox { .. } => [None, None],
        Insn::Ja { off, .. } => [next(off), None],
        Insn::Jmp { off, .. } | Insn::MayGoto { off } => {
            [next(0), Some(Edge::Branch(target(at, i32::from(off))))]
        }
        Insn::Call(Call::Local(off)) => [next(0), Some(Edge::Branch(target(at, off)))],
        Insn::LdImm64 { imm: Imm64::Func(off), .. } => {
            [next(1), Some(Edge::Branch(target(at, off)))]
        }
        Insn::LdImm64 { .. } => [next(1), None],
        _ => [next(0), None],
    }
}

/// Marks of `visit_insn`, apart from those on branch targets.
fn mark(insns: &[Insn], at: usize, cfg: &mut Cfg, kernel: Option<&Btf>) {
    let mut both = |w: i64| {
        if let Some(w) = usize::try_from(w).ok().filter(|w| *w < insns.len()) {
            cfg.prune_point[w] = true;
            cfg.jmp_point[w] = true;
        }
    };
    match insns[at] {
        Insn::Ja { off, .. } => both(target(at, off)),
        Insn::Jmp { .. } | Insn::Gotox { .. } => cfg.prune_point[at] = true,
        Insn::MayGoto { .. } => {
            cfg.prune_point[at] = true;
            cfg.force_checkpoint[at] = true;
        }
        // Where a callee returns to is not the instruction before in history.
        Insn::LdImm64 { imm: Imm64::Func(_), .. } => {
            both(target(at, 1));
            cfg.prune_point[at] = true;
        }
        Insn::Callx { .. } => {
            both(target(at, 0));
            cfg.prune_point[at] = true;
        }
        Insn::Call(call) => {
            both(target(at, 0));
            mark_call(call, at, cfg, kernel);
        }
        _ => {}
    }
}

fn mark_call(call: Call, at: usize, cfg: &mut Cfg, kernel: Option<&Btf>) {
    match call {
        Call::Local(_) => cfg.prune_point[at] = true,
        Call::Helper(id) if is_async_callback_calling(id) => cfg.prune_point[at] = true,
        Call::Helper(id) if is_sync_callback_calling(id) => mark_callback(at, cfg),
        Call::Kfunc { btf_id, off: 0 } => {
            let name = kernel.map_or("", |b| b.name(btf_id.cast_unsigned()));
            mark_kfunc(name, at, cfg);
        }
        Call::Helper(_) | Call::Kfunc { .. } => {}
    }
}

/// A call that is looked at again after each run of its callback.
fn mark_callback(at: usize, cfg: &mut Cfg) {
    cfg.calls_callback[at] = true;
    cfg.force_checkpoint[at] = true;
    cfg.prune_point[at] = true;
    cfg.jmp_point[at] = true;
}

fn mark_kfunc(name: &str, at: usize, cfg: &mut Cfg) {
    /// `is_async_callback_calling_kfunc`.
    const ASYNC: [&str; 3] = [
        "bpf_wq_set_callback_impl",
        "bpf_task_work_schedule_signal_impl",
        "bpf_task_work_schedule_resume_impl",
    ];
    if name == "bpf_rbtree_add_impl" {
        mark_callback(at, cfg);
    }
    cfg.prune_point[at] |= ASYNC.contains(&name);
    if kfuncs::kfunc(name).is_some_and(|r| r.flags.has(KfFlags::ITER_NEXT)) {
        cfg.iter_next[at] = true;
        cfg.prune_point[at] = true;
        cfg.force_checkpoint[at] = true;
    }
}

/// `is_async_callback_calling_function`: `bpf_timer_set_callback`.
fn is_async_callback_calling(id: i32) -> bool {
    id == 170
}

/// `is_sync_callback_calling_function`: `bpf_for_each_map_elem`, `bpf_find_vma`, `bpf_loop`,
/// `bpf_user_ringbuf_drain`.
fn is_sync_callback_calling(id: i32) -> bool {
    matches!(id, 164 | 180 | 181 | 209)
}
