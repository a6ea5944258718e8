//! What programs did, counted while they run as they are: blocks, the ways between them, and call
//! stacks.
//!
//! Functions cannot recurse in BPF, so a stack needs no stack pointer: a block of a function that
//! is on the stack returns to it, and one of another function is called from the top.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use kernel_model::layout::{PAGE_SIZE, RETURN_TRAP, STUB_STRIDE};

/// A function of a program in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FuncAt {
    /// Its native code.
    pub at: Range<u64>,
    /// Number of its program: a tail call leaves all functions of one.
    pub prog: u32,
}

/// A stack of functions: a function, and the stack that it was called from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The stack below; a stack that is its own parent is empty.
    pub parent: usize,
    /// Its innermost function; of the kernel, the stub.
    pub func: FuncAt,
    /// BPF instructions retired in it, callees apart.
    pub insns: u64,
}

/// `FuncAt::prog` of the kernel's stubs.
const KERNEL: u32 = u32::MAX;

/// Counts of one CPU.
#[derive(Clone, Debug)]
pub struct Cover {
    funcs: Arc<[FuncAt]>,
    /// Entries of a block, by its address and bytes.
    blocks: BTreeMap<(u64, u32), u64>,
    /// By the end of a block and the start of the next one.
    ways: BTreeMap<(u64, u64), u64>,
    /// End of the block that was entered last.
    from: u64,
    nodes: Vec<Node>,
    children: BTreeMap<(usize, u64), usize>,
    top: usize,
}

impl Cover {
    pub(super) fn new() -> Cover {
        let none = FuncAt { at: 0..0, prog: KERNEL };
        let root = Node { parent: 0, func: none, insns: 0 };
        Cover {
            funcs: Arc::from([]),
            blocks: BTreeMap::new(),
            ways: BTreeMap::new(),
            from: 0,
            nodes: vec![root],
            children: BTreeMap::new(),
            top: 0,
        }
    }

    /// The functions there are, in order of address.
    pub(super) fn know(&mut self, funcs: Arc<[FuncAt]>) {
        self.funcs = funcs;
    }

    /// A run begins that nothing has called.
    pub(super) fn fresh(&mut self) {
        (self.top, self.from) = (0, 0);
    }

    /// A block is entered; `insns` are the BPF instructions in it.
    pub(super) fn enter(&mut self, at: u64, size: u32, insns: u64, tail_call: bool) {
        *self.blocks.entry((at, size)).or_default() += 1;
        *self.ways.entry((self.from, at)).or_default() += 1;
        self.from = at.wrapping_add(u64::from(size));
        if (RETURN_TRAP..RETURN_TRAP + PAGE_SIZE).contains(&at) {
            return; // between two runs
        }
        if tail_call {
            let prog = self.nodes[self.top].func.prog;
            while self.top != 0 && self.nodes[self.top].func.prog == prog {
                self.top = self.nodes[self.top].parent;
            }
        }
        if !self.nodes[self.top].func.at.contains(&at) {
            self.top = self.goes_to(at);
        }
        self.nodes[self.top].insns += insns;
    }

    /// What lies behind `pc` in a block that was entered was not run.
    pub(super) fn cut(&mut self, at: u64, size: u32, pc: u64, insns: u64) {
        let ran = u32::try_from(pc + 1 - at).expect("pc is in the block");
        if let Some(n) = self.blocks.get_mut(&(at, size)) {
            *n -= 1;
            *self.blocks.entry((at, ran)).or_default() += 1;
            let top = &mut self.nodes[self.top];
            top.insns = top.insns.saturating_sub(insns);
        }
    }

    /// The stack whose innermost function has an address.
    fn goes_to(&mut self, at: u64) -> usize {
        let mut node = self.top;
        while node != 0 {
            if self.nodes[node].func.at.contains(&at) {
                return node;
            }
            node = self.nodes[node].parent;
        }
        let func = self.func_at(at);
        let (parent, new) = (self.top, self.nodes.len());
        let child = *self.children.entry((parent, func.at.start)).or_insert(new);
        if child == new {
            self.nodes.push(Node { parent, func, insns: 0 });
        }
        child
    }

    fn func_at(&self, at: u64) -> FuncAt {
        let n = self.funcs.partition_point(|f| f.at.start <= at);
        let found = n.checked_sub(1).map(|n| &self.funcs[n]).filter(|f| f.at.contains(&at));
        let stub = at - at % STUB_STRIDE;
        found.cloned().unwrap_or(FuncAt { at: stub..stub + STUB_STRIDE, prog: KERNEL })
    }

    /// Entries of blocks, by address and bytes.
    #[must_use]
    pub fn blocks(&self) -> &BTreeMap<(u64, u32), u64> {
        &self.blocks
    }

    /// Ways taken, by the end of a block and the start of the next one.
    #[must_use]
    pub fn ways(&self) -> &BTreeMap<(u64, u64), u64> {
        &self.ways
    }

    /// Stacks; the first is empty, and a parent comes before its children.
    #[must_use]
    pub fn stacks(&self) -> &[Node] {
        &self.nodes
    }
}
