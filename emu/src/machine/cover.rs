//! How often each instruction of each program ran, which way its branches went, and from where
//! functions were called. The programs run as they are: blocks of native code are counted.

use std::collections::BTreeMap;

use bpf::insn::{Insn, InsnIdx};
use kernel_model::layout::{HELPER_STUBS, KFUNC_STUBS, STUB_STRIDE};
use kernel_model::{ProgId, helpers, kfuncs};

use super::Machine;
use crate::engine::Loaded;
use crate::unicorn::{Cover, FuncAt};

/// Of one program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProgCover {
    /// Which.
    pub prog: ProgId,
    /// How often each original instruction ran.
    pub hits: Vec<u64>,
    /// How often each conditional jump was taken, and not. One whose two ways are one has none,
    /// nor has one that the verifier decided.
    pub branches: BTreeMap<InsnIdx, [u64; 2]>,
}

/// A stack of functions and the instructions retired in its innermost one.
pub type Folded = BTreeMap<Vec<String>, u64>;

impl Machine {
    /// Counts from now on, at some ten times the cost of a run.
    pub fn cover(&mut self) {
        self.covering = true;
        self.cover_what_is_new();
    }

    /// Tells the vCPUs of new functions, and new vCPUs that they count.
    pub(super) fn cover_what_is_new(&mut self) {
        if !self.covering {
            return;
        }
        let mut all = Vec::new();
        for p in self.text.progs() {
            let at = |f: &jit::FuncMap| p.base + u64::from(f.start.0)..p.base + u64::from(f.end.0);
            let funcs = p.compiled.debug.funcs.iter();
            all.extend(funcs.map(|f| FuncAt { at: at(f), prog: p.prog.0 }));
        }
        let all: std::sync::Arc<[FuncAt]> = all.into();
        self.slots.iter_mut().flatten().for_each(|s| s.vcpu.cover(all.clone()));
    }

    fn counted(&self) -> impl Iterator<Item = &Cover> {
        self.slots.iter().flatten().filter_map(|s| s.vcpu.covered())
    }

    /// What was counted, by program in order of address; `None` when nothing is.
    #[must_use]
    pub fn covers(&self) -> Option<Vec<ProgCover>> {
        let all = self.text.progs().iter();
        self.covering.then(|| all.filter_map(|p| self.prog_cover(p)).collect())
    }

    fn prog_cover(&self, p: &Loaded) -> Option<ProgCover> {
        let program = self.kernel.prog(p.prog)?.verified.program();
        let len = p.compiled.code.len();
        // Entries begin to count at the start of a block and end at its end.
        let mut steps = vec![0i64; len + 1];
        let within = p.base..p.base + len as u64;
        let off = |at: u64| usize::try_from(at - p.base).expect("within the program").min(len);
        let mut ways: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        for cover in self.counted() {
            for ((at, size), n) in cover.blocks() {
                if within.contains(at) {
                    let n = i64::try_from(*n).expect("fewer than 2^63 blocks");
                    steps[off(*at)] += n;
                    steps[off(at + u64::from(*size))] -= n;
                }
            }
            for ((from, to), n) in cover.ways() {
                if within.contains(to) {
                    ways.entry(*from).or_default().push((*to, *n));
                }
            }
        }
        let runs: Vec<u64> = steps
            .iter()
            .scan(0i64, |sum, step| {
                *sum += step;
                Some(u64::try_from(*sum).expect("a block that ended was entered"))
            })
            .collect();
        let mut hits = vec![0; program.insns.len()];
        for r in p.compiled.debug.insns.iter().filter(|r| r.first) {
            if let (Some(hit), Some(n)) =
                (hits.get_mut(r.orig.idx()), runs.get(r.retired_at.0 as usize))
            {
                *hit += n;
            }
        }
        let branches = branches(p, &program.insns, &ways);
        Some(ProgCover { prog: p.prog, hits, branches })
    }

    /// Instructions retired, by the stack of functions they were retired in, outermost first.
    #[must_use]
    pub fn folded(&self) -> Folded {
        let mut out = Folded::new();
        for cover in self.counted() {
            let nodes = cover.stacks();
            let mut names: Vec<Vec<String>> = vec![Vec::new()];
            for node in &nodes[1..] {
                let mut stack = names[node.parent].clone();
                stack.push(self.func_name(&node.func));
                if node.insns > 0 {
                    *out.entry(stack.clone()).or_default() += node.insns;
                }
                names.push(stack);
            }
        }
        out
    }

    fn func_name(&self, func: &FuncAt) -> String {
        let at = func.at.start;
        if let Some(p) = self.text.prog_at(at) {
            let prog = self.kernel.prog(p.prog).map_or("?", kernel_model::Prog::name);
            let funcs = p.compiled.debug.funcs.iter();
            let found = funcs.enumerate().find(|(_, f)| p.base + u64::from(f.start.0) == at);
            return match found {
                Some((0, _)) | None => prog.to_owned(),
                Some((_, f)) => f.name.clone(),
            };
        }
        let nth = |from: u64| (at - from) / STUB_STRIDE;
        let name = match at {
            KFUNC_STUBS.. => {
                let id = self.text.kfuncs().get(nth(KFUNC_STUBS) as usize);
                id.and_then(|id| kfuncs::name(self.arch(), *id)).map(str::to_owned)
            }
            HELPER_STUBS.. => helpers::name(nth(HELPER_STUBS) as i32).map(helpers::full),
            _ => None,
        };
        name.unwrap_or_else(|| format!("{at:#x}"))
    }
}

/// Ways out of the native code of each conditional jump.
fn branches(
    p: &Loaded,
    insns: &[Insn],
    ways: &BTreeMap<u64, Vec<(u64, u64)>>,
) -> BTreeMap<InsnIdx, [u64; 2]> {
    let mut out = BTreeMap::new();
    for r in p.compiled.debug.insns.iter().filter(|r| r.first && r.start < r.end) {
        let Some(Insn::Jmp { off, .. }) = insns.get(r.orig.idx()) else { continue };
        if *off == 0 {
            continue;
        }
        let (start, end) = (p.base + u64::from(r.start.0), p.base + u64::from(r.end.0));
        let counts: &mut [u64; 2] = out.entry(r.orig).or_default();
        for (to, n) in ways.range(start + 1..=end).flat_map(|(_, to)| to) {
            if !(start..end).contains(to) {
                counts[usize::from(*to == end)] += n;
            }
        }
    }
    out
}
