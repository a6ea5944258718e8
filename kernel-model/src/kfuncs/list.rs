//! Linked lists of programs' objects: `struct list_head` in guest memory (kernel/bpf/helpers.c).

use super::{KfuncRow, row};
use crate::cpu::{CpuId, Fault};
use crate::helpers::Ret;
use crate::ledger::Kind;
use crate::mem::MemFault;
use crate::{Errno, Kernel, field};

/// The rows.
#[rustfmt::skip]
pub(super) const ROWS: &[KfuncRow] = &[
    row("bpf_list_push_front_impl", 4, |k, _, a| done(push(k, a, false))),
    row("bpf_list_push_back_impl", 4, |k, _, a| done(push(k, a, true))),
    row("bpf_list_pop_front", 1, |k, c, a| done(pop(k, c, a[0], false))),
    row("bpf_list_pop_back", 1, |k, c, a| done(pop(k, c, a[0], true))),
    row("bpf_list_front", 1, |k, _, a| done(look(k, a[0], false))),
    row("bpf_list_back", 1, |k, _, a| done(look(k, a[0], true))),
];

type Outcome = Result<u64, Fault>;

fn done(r: Outcome) -> Ret {
    r.map_or_else(Ret::Fault, Ret::Val)
}

fn next(k: &Kernel, n: u64) -> Result<u64, MemFault> {
    k.mem.read_u64(n + u64::from(field!("list_head", "next").off))
}

fn prev(k: &Kernel, n: u64) -> Result<u64, MemFault> {
    k.mem.read_u64(n + u64::from(field!("list_head", "prev").off))
}

fn link(k: &mut Kernel, a: u64, b: u64) -> Result<(), MemFault> {
    k.mem.write_u64(a + u64::from(field!("list_head", "next").off), b)?;
    k.mem.write_u64(b + u64::from(field!("list_head", "prev").off), a)
}

fn owner_at(node: u64) -> u64 {
    node + u64::from(field!("bpf_list_node_kern", "owner").off)
}

/// `INIT_LIST_HEAD`.
pub(super) fn init(k: &mut Kernel, at: u64) -> Result<(), MemFault> {
    link(k, at, at)
}

/// A head of zeroes (a map's value) is empty.
fn ensure(k: &mut Kernel, head: u64) -> Result<(), MemFault> {
    if next(k, head)? == 0 { init(k, head) } else { Ok(()) }
}

fn del_init(k: &mut Kernel, node: u64) -> Result<(), MemFault> {
    let (before, after) = (prev(k, node)?, next(k, node)?);
    link(k, before, after)?;
    init(k, node)?;
    k.mem.write_u64(owner_at(node), 0)
}

/// `__bpf_list_add`: a node that is in a list already is dropped.
fn push(k: &mut Kernel, [head, node, ..]: [u64; 5], tail: bool) -> Outcome {
    ensure(k, head)?;
    let object = k.object_at(node).map(|o| o.0);
    if let Some(at) = object {
        k.ledger.release(Kind::Object, at);
    }
    if k.mem.read_u64(owner_at(node))? != 0 {
        if let Some(at) = object {
            k.object_put(at)?;
        }
        return Ok(Errno::EINVAL.ret());
    }
    let (before, after) = match tail {
        true => (prev(k, head)?, head),
        false => (head, next(k, head)?),
    };
    link(k, before, node)?;
    link(k, node, after)?;
    k.mem.write_u64(owner_at(node), head)?;
    Ok(0)
}

fn pop(k: &mut Kernel, cpu: CpuId, head: u64, tail: bool) -> Outcome {
    ensure(k, head)?;
    let node = look(k, head, tail)?;
    if node != 0 {
        del_init(k, node)?;
        if let Some((at, _)) = k.object_at(node) {
            k.prog_holds(cpu, Kind::Object, at, "bpf_list_pop");
        }
    }
    Ok(node)
}

fn look(k: &mut Kernel, head: u64, tail: bool) -> Outcome {
    ensure(k, head)?;
    let node = if tail { prev(k, head)? } else { next(k, head)? };
    Ok(if node == head { 0 } else { node })
}

/// Whether a list leads from its head back to it, both ways, over nodes that are its own.
pub(crate) fn damage(k: &Kernel, head: u64) -> Option<String> {
    let walk = || -> Result<bool, MemFault> {
        let mut at = head;
        // A head of zeroes has never been used.
        if next(k, head)? == 0 {
            return Ok(true);
        }
        loop {
            let after = next(k, at)?;
            if prev(k, after)? != at {
                return Ok(false);
            }
            if after == head {
                return Ok(true);
            }
            if k.mem.read_u64(owner_at(after))? != head {
                return Ok(false);
            }
            at = after;
        }
    };
    (walk() != Ok(true)).then(|| format!("list {head:#x} is broken"))
}

/// `bpf_list_head_free`: all nodes, taken out.
pub(super) fn drain(k: &mut Kernel, head: u64) -> Result<Vec<u64>, Fault> {
    let mut out = Vec::new();
    if next(k, head)? != 0 {
        while next(k, head)? != head {
            let node = next(k, head)?;
            del_init(k, node)?;
            out.push(node);
        }
    }
    Ok(out)
}
