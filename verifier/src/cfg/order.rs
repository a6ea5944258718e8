//! Post order and strongly connected components: `compute_postorder`, `compute_scc`.

use bpf::insn::{Insn, InsnIdx};

use super::subprogs::idx;
use super::{Cfg, target};

/// `bpf_insn_successors`: where control may go inside the subprogram.
pub(crate) fn successors(insns: &[Insn], at: usize) -> impl Iterator<Item = usize> {
    let insn = &insns[at];
    let size = if matches!(insn, Insn::LdImm64 { .. }) { 1 } else { 0 };
    let next = (!insn.ends_block()).then(|| target(at, size));
    let jump = insn.jump_off().map(|off| target(at, off));
    let len = insns.len();
    [next, jump]
        .into_iter()
        .flatten()
        .filter_map(|w| usize::try_from(w).ok())
        .filter(move |w| *w < len)
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
                order.push(idx(top));
                stack.pop();
                continue;
            }
            for w in successors(insns, top) {
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
            let unvisited = successors(insns, w).find(|s| pre[*s] == 0);
            if let Some(s) = unvisited {
                dfs.push(s);
                continue;
            }
            low[w] = successors(insns, w).map(|s| low[s]).chain([low[w]]).min().unwrap_or(low[w]);
            dfs.pop();
            if low[w] < pre[w] {
                continue;
            }
            let is_loop = stack.last() != Some(&w) || successors(insns, w).any(|s| s == w);
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
