//! Red-black trees of programs' objects: `struct rb_node` in guest memory, of the same shape as
//! the kernel's (lib/rbtree.c, kernel/bpf/helpers.c).

use super::{KfuncRow, row};
use crate::cpu::{CpuId, Fault, Frame};
use crate::helpers::{HelperFrame, Over, Ret};
use crate::ledger::Kind;
use crate::mem::MemFault;
use crate::types::Field;
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_rbtree_add_impl", 5, add),
    row("bpf_rbtree_remove", 2, |k, c, a| done(remove(k, c, a[0], a[1]))),
    row("bpf_rbtree_first", 1, |k, _, a| done(word(k, a[0], LEFTMOST()))),
    row("bpf_rbtree_root", 1, |k, _, a| done(word(k, a[0], ROOT()))),
    row("bpf_rbtree_left", 2, |k, _, a| done(child(k, a[0], a[1], LEFT()))),
    row("bpf_rbtree_right", 2, |k, _, a| done(child(k, a[0], a[1], RIGHT()))),
];

const LEFT: fn() -> Field = || field!("rb_node", "rb_left");
const RIGHT: fn() -> Field = || field!("rb_node", "rb_right");
const PARENT: fn() -> Field = || field!("rb_node", "__rb_parent_color");
const ROOT: fn() -> Field = || field!("rb_root_cached", "rb_root.rb_node");
const LEFTMOST: fn() -> Field = || field!("rb_root_cached", "rb_leftmost");
const OWNER: fn() -> Field = || field!("bpf_rb_node_kern", "owner");
/// `RB_BLACK`; red is 0.
const BLACK: u64 = 1;

type Outcome = Result<u64, Fault>;
type M<T = ()> = Result<T, MemFault>;

fn done(r: Outcome) -> Ret {
    r.map_or_else(Ret::Fault, Ret::Val)
}

fn get(k: &Kernel, n: u64, f: Field) -> M<u64> {
    k.mem.read_u64(n + u64::from(f.off))
}

fn put(k: &mut Kernel, n: u64, f: Field, v: u64) -> M {
    k.mem.write_u64(n + u64::from(f.off), v)
}

fn word(k: &Kernel, root: u64, f: Field) -> Outcome {
    Ok(get(k, root, f)?)
}

fn parent(k: &Kernel, n: u64) -> M<u64> {
    Ok(get(k, n, PARENT())? & !3)
}

fn is_black(k: &Kernel, n: u64) -> M<bool> {
    Ok(n == 0 || get(k, n, PARENT())? & 1 == BLACK)
}

fn set_parent_color(k: &mut Kernel, n: u64, p: u64, color: u64) -> M {
    put(k, n, PARENT(), p | color)
}

fn set_parent(k: &mut Kernel, n: u64, p: u64) -> M {
    let color = get(k, n, PARENT())? & 1;
    set_parent_color(k, n, p, color)
}

/// `RB_CLEAR_NODE`.
pub(super) fn clear(k: &mut Kernel, n: u64) -> M {
    put(k, n, PARENT(), n)
}

/// One side of a node and the other.
fn sides(left: bool) -> (Field, Field) {
    if left { (LEFT(), RIGHT()) } else { (RIGHT(), LEFT()) }
}

/// `__rb_change_child`.
fn change_child(k: &mut Kernel, root: u64, old: u64, new: u64, parent: u64) -> M {
    if parent == 0 {
        return put(k, root, ROOT(), new);
    }
    let side = if get(k, parent, LEFT())? == old { LEFT() } else { RIGHT() };
    put(k, parent, side, new)
}

/// `__rb_rotate_set_parents`: `new` takes the place and color of `old`, which becomes its child.
fn rotate_parents(k: &mut Kernel, root: u64, old: u64, new: u64, color: u64) -> M {
    let p = parent(k, old)?;
    let pc = get(k, old, PARENT())?;
    put(k, new, PARENT(), pc)?;
    set_parent_color(k, old, new, color)?;
    change_child(k, root, old, new, p)
}

/// `__rb_insert`.
fn insert_color(k: &mut Kernel, root: u64, node: u64) -> M {
    let (mut node, mut p) = (node, parent(k, node)?);
    loop {
        if p == 0 {
            return set_parent_color(k, node, 0, BLACK);
        }
        if is_black(k, p)? {
            return Ok(());
        }
        let gp = parent(k, p)?;
        let (near, far) = sides(get(k, gp, RIGHT())? != p);
        let uncle = get(k, gp, far)?;
        if uncle != 0 && !is_black(k, uncle)? {
            set_parent_color(k, uncle, gp, BLACK)?;
            set_parent_color(k, p, gp, BLACK)?;
            node = gp;
            p = parent(k, node)?;
            set_parent_color(k, node, p, 0)?;
            continue;
        }
        let inner = get(k, p, far)?;
        let mut moved = inner;
        if node == inner {
            moved = get(k, node, near)?;
            put(k, p, far, moved)?;
            put(k, node, near, p)?;
            if moved != 0 {
                set_parent_color(k, moved, p, BLACK)?;
            }
            set_parent_color(k, p, node, 0)?;
            p = node;
            moved = get(k, node, far)?;
        }
        put(k, gp, near, moved)?;
        put(k, p, far, gp)?;
        if moved != 0 {
            set_parent_color(k, moved, gp, BLACK)?;
        }
        return rotate_parents(k, root, gp, p, 0);
    }
}

/// `rb_next`.
fn successor(k: &Kernel, node: u64) -> M<u64> {
    let mut n = get(k, node, RIGHT())?;
    if n != 0 {
        while get(k, n, LEFT())? != 0 {
            n = get(k, n, LEFT())?;
        }
        return Ok(n);
    }
    let (mut n, mut p) = (node, parent(k, node)?);
    while p != 0 && n == get(k, p, RIGHT())? {
        (n, p) = (p, parent(k, p)?);
    }
    Ok(p)
}

/// `__rb_erase_augmented`: the node below which black is missing, 0 for none.
fn unlink(k: &mut Kernel, root: u64, node: u64) -> M<u64> {
    let (left, right) = (get(k, node, LEFT())?, get(k, node, RIGHT())?);
    let pc = get(k, node, PARENT())?;
    let p = pc & !3;
    if left == 0 || right == 0 {
        let only = left | right;
        change_child(k, root, node, only, p)?;
        if only != 0 {
            put(k, only, PARENT(), pc)?;
            return Ok(0);
        }
        return Ok(if pc & 1 == BLACK { p } else { 0 });
    }
    let (mut heir, mut above) = (right, right);
    let orphan;
    if get(k, right, LEFT())? == 0 {
        orphan = get(k, heir, RIGHT())?;
    } else {
        while get(k, heir, LEFT())? != 0 {
            above = heir;
            heir = get(k, heir, LEFT())?;
        }
        orphan = get(k, heir, RIGHT())?;
        put(k, above, LEFT(), orphan)?;
        put(k, heir, RIGHT(), right)?;
        set_parent(k, right, heir)?;
    }
    put(k, heir, LEFT(), left)?;
    set_parent(k, left, heir)?;
    change_child(k, root, node, heir, p)?;
    let was_black = is_black(k, heir)?;
    put(k, heir, PARENT(), pc)?;
    if orphan != 0 {
        set_parent_color(k, orphan, above, BLACK)?;
        return Ok(0);
    }
    Ok(if was_black { above } else { 0 })
}

/// `____rb_erase_color`.
fn erase_color(k: &mut Kernel, root: u64, from: u64) -> M {
    let (mut node, mut p) = (0, from);
    loop {
        let (near, far) = sides(node != get(k, p, RIGHT())?);
        let mut sibling = get(k, p, far)?;
        if !is_black(k, sibling)? {
            let inner = get(k, sibling, near)?;
            put(k, p, far, inner)?;
            put(k, sibling, near, p)?;
            set_parent_color(k, inner, p, BLACK)?;
            rotate_parents(k, root, p, sibling, 0)?;
            sibling = inner;
        }
        let mut outer = get(k, sibling, far)?;
        if is_black(k, outer)? {
            let inner = get(k, sibling, near)?;
            if is_black(k, inner)? {
                set_parent_color(k, sibling, p, 0)?;
                if !is_black(k, p)? {
                    let up = parent(k, p)?;
                    return set_parent_color(k, p, up, BLACK);
                }
                node = p;
                p = parent(k, node)?;
                if p == 0 {
                    return Ok(());
                }
                continue;
            }
            let moved = get(k, inner, far)?;
            put(k, sibling, near, moved)?;
            put(k, inner, far, sibling)?;
            put(k, p, far, inner)?;
            if moved != 0 {
                set_parent_color(k, moved, sibling, BLACK)?;
            }
            outer = sibling;
            sibling = inner;
        }
        let moved = get(k, sibling, near)?;
        put(k, p, far, moved)?;
        put(k, sibling, near, p)?;
        set_parent_color(k, outer, sibling, BLACK)?;
        if moved != 0 {
            set_parent(k, moved, p)?;
        }
        return rotate_parents(k, root, p, sibling, BLACK);
    }
}

/// `rb_erase_cached`.
fn erase(k: &mut Kernel, root: u64, node: u64) -> M {
    if get(k, root, LEFTMOST())? == node {
        let next = successor(k, node)?;
        put(k, root, LEFTMOST(), next)?;
    }
    let lacking = unlink(k, root, node)?;
    if lacking != 0 {
        erase_color(k, root, lacking)?;
    }
    clear(k, node)?;
    put(k, node, OWNER(), 0)
}

/// A search for the place of a node, which asks the program at every step.
#[derive(Clone, Debug)]
pub(crate) struct Adding {
    root: u64,
    node: u64,
    parent: u64,
    /// What the program was last asked to compare with; 0 before the first time and at the end.
    at: u64,
    left: bool,
    leftmost: bool,
}

fn add(k: &mut Kernel, cpu: CpuId, [root, node, less, ..]: [u64; 5]) -> Ret {
    let begin = |k: &mut Kernel| -> Result<Option<Adding>, Fault> {
        let object = k.object_at(node).map(|o| o.0);
        if let Some(at) = object {
            k.ledger.release(Kind::Object, at);
        }
        // A node that is in a tree already is dropped.
        if get(k, node, OWNER())? != 0 {
            if let Some(at) = object {
                k.object_put(at)?;
            }
            return Ok(None);
        }
        let at = get(k, root, ROOT())?;
        Ok(Some(Adding { root, node, parent: 0, at, left: true, leftmost: true }))
    };
    match begin(k) {
        Ok(Some(adding)) => {
            let prog = k.cpus[cpu.idx()].prog_frame().map(|p| p.prog).expect("a program called");
            let (name, over) = ("bpf_rbtree_add_impl", Over::RbAdd(adding));
            let f = HelperFrame { name, prog, func: less, ctx: 0, nth: 0, at: 0, over };
            Ret::Frame(Frame::Helper(f))
        }
        Ok(None) => Ret::Val(Errno::EINVAL.ret()),
        Err(fault) => Ret::Fault(fault),
    }
}

impl Adding {
    /// Arguments of the next comparison; `None` when the place is found.
    pub(crate) fn next(&self) -> Option<[u64; 5]> {
        (self.at != 0).then_some([self.node, self.at, 0, 0, 0])
    }

    /// What the program said: whether the new node comes before.
    pub(crate) fn said(&mut self, k: &Kernel, before: bool) -> M {
        self.parent = self.at;
        self.left = before;
        self.leftmost &= before;
        self.at = get(k, self.parent, if before { LEFT() } else { RIGHT() })?;
        Ok(())
    }

    /// `rb_link_node` and `rb_insert_color_cached`.
    pub(crate) fn finish(&self, k: &mut Kernel) -> M {
        let (root, node) = (self.root, self.node);
        put(k, node, PARENT(), self.parent)?;
        put(k, node, LEFT(), 0)?;
        put(k, node, RIGHT(), 0)?;
        match (self.parent, self.left) {
            (0, _) => put(k, root, ROOT(), node)?,
            (p, true) => put(k, p, LEFT(), node)?,
            (p, false) => put(k, p, RIGHT(), node)?,
        }
        if self.leftmost {
            put(k, root, LEFTMOST(), node)?;
        }
        insert_color(k, root, node)?;
        put(k, node, OWNER(), root)
    }
}

fn remove(k: &mut Kernel, cpu: CpuId, root: u64, node: u64) -> Outcome {
    if get(k, node, OWNER())? != root {
        return Ok(0);
    }
    erase(k, root, node)?;
    if let Some((at, _)) = k.object_at(node) {
        k.prog_holds(cpu, Kind::Object, at, "bpf_rbtree_remove");
    }
    Ok(node)
}

fn child(k: &Kernel, root: u64, node: u64, side: Field) -> Outcome {
    Ok(if get(k, node, OWNER())? == root { get(k, node, side)? } else { 0 })
}

/// `bpf_rb_root_free`: all nodes, in order, taken out.
pub(super) fn drain(k: &mut Kernel, root: u64) -> Result<Vec<u64>, Fault> {
    let mut out = Vec::new();
    loop {
        let first = get(k, root, LEFTMOST())?;
        if first == 0 {
            return Ok(out);
        }
        erase(k, root, first)?;
        out.push(first);
    }
}

/// Black height of a subtree, when the rules hold in it; its nodes in their order.
fn subtree(k: &Kernel, n: u64, above: u64, order: &mut Vec<u64>) -> M<Option<u32>> {
    if n == 0 {
        return Ok(Some(1));
    }
    let black = is_black(k, n)?;
    let red_below_red = !black && (above == 0 || !is_black(k, above)?);
    if parent(k, n)? != above || red_below_red {
        return Ok(None);
    }
    let left = subtree(k, get(k, n, LEFT())?, n, order)?;
    order.push(n);
    let right = subtree(k, get(k, n, RIGHT())?, n, order)?;
    Ok(left.filter(|_| left == right).map(|h| h + u32::from(black)))
}

/// Whether the rules of red-black trees hold.
pub(crate) fn damage(k: &Kernel, root: u64) -> Option<String> {
    let whole = || -> M<bool> {
        let mut order = Vec::new();
        let height = subtree(k, get(k, root, ROOT())?, 0, &mut order)?;
        let first = order.first().copied().unwrap_or(0);
        Ok(height.is_some() && get(k, root, LEFTMOST())? == first)
    };
    (whole() != Ok(true)).then(|| format!("tree {root:#x} is broken"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;
    use crate::layout::DIRECT_MAP;

    #[test]
    fn every_insertion_and_removal_keeps_the_rules() {
        let mut k = Kernel::new(Config::default());
        let base = DIRECT_MAP + 0x20_0000;
        let (root, nodes) = (base, base + 0x1000);
        let mut inside: Vec<u64> = Vec::new();
        let mut x = 1u64;
        for _ in 0..2000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let node = nodes + (x >> 33) % 64 * 64;
            if let Some(i) = inside.iter().position(|n| *n == node) {
                erase(&mut k, root, node).unwrap();
                inside.remove(i);
            } else {
                let at = get(&k, root, ROOT()).unwrap();
                let mut a = Adding { root, node, parent: 0, at, left: true, leftmost: true };
                while let Some([_, other, ..]) = a.next() {
                    a.said(&k, node < other).unwrap();
                }
                a.finish(&mut k).unwrap();
                inside.push(node);
                inside.sort_unstable();
            }
            let mut order = Vec::new();
            let top = get(&k, root, ROOT()).unwrap();
            assert!(subtree(&k, top, 0, &mut order).unwrap().is_some());
            assert_eq!(order, inside);
            assert_eq!(damage(&k, root), None);
        }
    }
}
