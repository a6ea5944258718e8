//! Post order and strongly connected components: `compute_postorder`, `compute_scc`.

use bpf::insn::{Insn, InsnIdx};

use super::subprogs::idx;
use super::{Cfg, Subprog, target};
use crate::rewrite::is_tail_call;

/// The end of a list of successors.
const NONE: u32 = u32::MAX;

/// `bpf_insn_successors` of every instruction: where control may go inside the subprogram.
pub(super) fn successors(insns: &[Insn], subprogs: &[Subprog]) -> Vec<[u32; 2]> {
    let mut all = Vec::with_capacity(insns.len());
    for sub in subprogs {
        let range = sub.start.idx()..sub.end.idx();
        let exit = range.clone().rev().find(|at| insns[*at] == Insn::Exit);
        for at in range {
            let insn = &insns[at];
            let size = if matches!(insn, Insn::LdImm64 { .. }) { 1 } else { 0 };
            let next = (!insn.ends_block()).then(|| target(at, size));
            let jump = insn.jump_off().map(|off| target(at, off));
            // A tail call that succeeds leaves the subprogram.
            let left = if is_tail_call(insn) { exit.map(|e| e as i64) } else { None };
            let mut out = [NONE; 2];
            let some = [next, jump, left].into_iter().flatten();
            let inside = some.filter(|w| usize::try_from(*w).is_ok_and(|w| w < insns.len()));
            for (slot, w) in out.iter_mut().zip(inside) {
                *slot = w as u32;
            }
            all.push(out);
        }
    }
    all
}

impl Cfg {
    /// Where control may come from inside the subprogram.
    pub(crate) fn predecessors(&self, at: usize) -> &[u32] {
        &self.pred[self.pred_start[at] as usize..self.pred_start[at + 1] as usize]
    }

    /// Where control may go from an instruction inside its subprogram.
    pub(crate) fn successors(&self, at: usize) -> impl Iterator<Item = usize> {
        let table = self.jump_tables.get(&at).into_iter().flatten().copied();
        self.succ[at].into_iter().filter(|w| *w != NONE).chain(table).map(|w| w as usize)
    }
}

/// Fills `pred` and `pred_start`.
pub(super) fn predecessors(cfg: &mut Cfg) {
    let edges = |cfg: &Cfg| -> Vec<(usize, usize)> {
        (0..cfg.succ.len()).flat_map(|at| cfg.successors(at).map(move |s| (s, at))).collect()
    };
    let mut edges = edges(cfg);
    edges.sort_unstable();
    cfg.pred_start = vec![0; cfg.succ.len() + 1];
    for (to, _) in &edges {
        cfg.pred_start[to + 1] += 1;
    }
    for i in 1..cfg.pred_start.len() {
        cfg.pred_start[i] += cfg.pred_start[i - 1];
    }
    cfg.pred = edges.into_iter().map(|(_, from)| from as u32).collect();
}

/// Fills `postorder` and `postorder_start`.
pub(super) fn postorder(insns: &[Insn], cfg: &mut Cfg) {
    let mut discovered = vec![false; insns.len()];
    let mut explored = vec![false; insns.len()];
    let mut order: Vec<InsnIdx> = Vec::with_capacity(insns.len());
    for sub in &cfg.subprogs {
        cfg.postorder_start.push(u32::try_from(order.len()).unwrap_or(u32::MAX));
        let mut stack = vec![sub.start.idx()];
        while let Some(&top) = stack.last() {
            discovered[top] = true;
            if explored[top] {
                let first = cfg.postorder_start.last().copied().unwrap_or(0) as usize;
                cfg.place[top] = (order.len() - first) as u32;
                order.push(idx(top));
                stack.pop();
                continue;
            }
            for w in cfg.successors(top) {
                if !discovered[w] {
                    discovered[w] = true;
                    stack.push(w);
                }
            }
            explored[top] = true;
        }
    }
    cfg.postorder_start.push(u32::try_from(order.len()).unwrap_or(u32::MAX));
    cfg.postorder = order;
}

/// Tarjan's algorithm without recursion; components without a cycle keep id 0.
pub(super) fn scc(insns: &[Insn], cfg: &mut Cfg) {
    const NOT_ON_STACK: usize = usize::MAX;
    let mut pre = vec![0usize; insns.len()];
    let mut low = vec![0usize; insns.len()];
    let (mut next_pre, mut next_scc) = (1usize, 1u32);
    let mut stack: Vec<usize> = Vec::new();
    for root in 0..insns.len() {
        if pre[root] != 0 || insns[root] == Insn::LdImm64Hi {
            continue;
        }
        let mut dfs = vec![root];
        while let Some(&w) = dfs.last() {
            if pre[w] == 0 {
                low[w] = next_pre;
                pre[w] = next_pre;
                next_pre += 1;
                stack.push(w);
            }
            let unvisited = cfg.successors(w).find(|s| pre[*s] == 0);
            if let Some(s) = unvisited {
                dfs.push(s);
                continue;
            }
            low[w] = cfg.successors(w).map(|s| low[s]).chain([low[w]]).min().unwrap_or(low[w]);
            dfs.pop();
            if low[w] < pre[w] {
                continue;
            }
            let is_loop = stack.last() != Some(&w) || cfg.successors(w).any(|s| s == w);
            while let Some(t) = stack.pop() {
                low[t] = NOT_ON_STACK;
                cfg.scc[t] = if is_loop { next_scc } else { 0 };
                if t == w {
                    break;
                }
            }
            next_scc += u32::from(is_loop);
        }
    }
}
